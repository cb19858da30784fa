from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dermseg.errors import InputError
from dermseg.geometry import Geometry
from dermseg.imaging import open_image
from tests.hostile import orientation_block, saved

sides = st.integers(1, 5000)


def field(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float32) / 255


def centroid(weights: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weights.shape)
    total = weights.sum()
    return np.array([(rows * weights).sum() / total, (columns * weights).sum() / total])


def ellipse(height: int, width: int, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """An ellipse in the middle, filling half of each side, moved by whole pixels (down, right)."""
    y, x = np.ogrid[:height, :width]
    down, right = y - shift[0] - (height - 1) / 2, x - shift[1] - (width - 1) / 2
    return np.where((down / (height / 4)) ** 2 + (right / (width / 4)) ** 2 <= 1, 255, 0).astype(np.uint8)


def there_and_back(mask: np.ndarray, canvas: int) -> np.ndarray:
    height, width = mask.shape
    geometry = Geometry.fit(height, width, canvas)
    return geometry.invert(field(geometry.apply(mask, fill=0)))


@given(sides, sides, st.integers(1, 1024))
def test_an_image_fits_its_canvas(height: int, width: int, canvas: int) -> None:
    g = Geometry.fit(height, width, canvas)
    assert max(g.content_height, g.content_width) == canvas
    assert min(g.content_height, g.content_width) >= 1
    scale = canvas / max(height, width)
    assert abs(g.content_height - height * scale) <= 1
    assert abs(g.content_width - width * scale) <= 1
    below, right = canvas - g.top - g.content_height, canvas - g.left - g.content_width
    assert 0 <= below - g.top <= 1
    assert 0 <= right - g.left <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 128), st.sampled_from([(), (3,)]))
def test_a_flat_image_stays_flat_inside_and_out(
    height: int, width: int, canvas: int, channels: tuple[int, ...]
) -> None:
    g = Geometry.fit(height, width, canvas)
    result = g.apply(np.full((height, width, *channels), 200, np.uint8), fill=7)
    assert result.shape == (canvas, canvas, *channels)
    assert result.dtype == np.uint8
    inside = np.zeros((canvas, canvas), bool)
    inside[g.top : g.top + g.content_height, g.left : g.left + g.content_width] = True
    assert (result[inside] == 200).all()
    assert (result[~inside] == 7).all()
    back = g.invert(inside.astype(np.float32))
    assert back.shape == (height, width)
    assert back.dtype == np.float32
    assert (back == 1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 700), st.integers(40, 700), st.sampled_from([96, 127, 192, 256]))
def test_a_shape_comes_back_where_it_was(height: int, width: int, canvas: int) -> None:
    mask = ellipse(height, width)
    back = there_and_back(mask, canvas)
    drift = np.abs(centroid(back) - centroid(mask))
    assert drift.max() < 0.02
    both = (mask > 0) & (back > 0.5)
    either = (mask > 0) | (back > 0.5)
    if min(height, width) * canvas >= 40 * max(height, width):  # at least 20 pixels across in the canvas
        assert both.sum() / either.sum() > 0.93


@pytest.mark.parametrize("shift", [(1, 0), (-1, 0), (0, 1), (0, -1)])
@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((128, 128), 128),
        ((384, 512), 128),
        ((512, 384), 128),
        ((301, 403), 128),
        ((402, 299), 127),
        ((60, 80), 192),
        ((81, 61), 192),
    ],
)
def test_a_shape_moved_by_one_pixel_comes_back_moved_by_one(
    size: tuple[int, int], canvas: int, shift: tuple[int, int]
) -> None:
    moved = there_and_back(ellipse(*size, shift), canvas)
    still = there_and_back(ellipse(*size), canvas)
    assert np.abs(centroid(moved) - centroid(still) - shift).max() < 0.02
    assert np.abs(centroid(moved > 0.5) - centroid(still > 0.5) - shift).max() < 0.2
    if size[0] == canvas:
        assert (moved == np.roll(still, shift, (0, 1))).all()


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 5000), (1, 1)])
def test_extreme_shapes_go_there_and_back(size: tuple[int, int]) -> None:
    g = Geometry.fit(*size, 192)
    back = g.invert(field(g.apply(np.full(size, 255, np.uint8), fill=0)))
    assert (back == 1).all()


def test_views_and_reduced_pixels_are_accepted() -> None:
    g = Geometry.fit(300, 401, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 401, 3), np.uint8)
    assert (g.apply(pixels[::-1, ::-1]) == g.apply(pixels[::-1, ::-1].copy())).all()
    assert g.apply(pixels[::3, ::3], fill=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("pixels", [np.zeros((401, 300), np.uint8), np.zeros((300, 401), np.float32)])
def test_pixels_of_another_image_are_refused(pixels: Any) -> None:
    with pytest.raises(InputError, match="not a scaled uint8 image of 300 x 401"):
        Geometry.fit(300, 401, 64).apply(pixels)


def test_wrong_lengths_and_fields_are_refused() -> None:
    with pytest.raises(InputError, match="each must be above 0"):
        Geometry.fit(0, 4, 64)
    with pytest.raises(InputError, match=r"\(64, 63\) where \(64, 64\)"):
        Geometry.fit(300, 401, 64).invert(np.zeros((64, 63), np.float32))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1023, 761), (1022, 767), (769, 1019)])
def test_reduced_decoding_moves_nothing(size: tuple[int, int], orientation: int) -> None:
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    pixels[-90:-30, -90:-30] = 255
    photograph = open_image(saved(Image.fromarray(pixels), "JPEG", exif=orientation_block(orientation)))
    geometry = Geometry.fit(*photograph.size, 96)
    full, reduced = (centroid(geometry.apply(photograph.pixels(n)[..., 0], fill=0).astype(float)) for n in (None, 96))
    assert np.abs(full - reduced).max() < 0.02
