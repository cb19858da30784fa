from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dermseg.errors import InputError
from dermseg.figures import LINE, outline, overlay, probability_image, side_by_side


def scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """A random photograph without the line's colour, and a round mask."""
    pixels = np.random.default_rng(0).integers(90, 200, (height, width, 3), np.uint8)
    y, x = np.ogrid[:height, :width]
    return pixels, (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2


def edge_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels from the mask's edge, on both sides."""
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5) + cv2.distanceTransform(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5
    )


def test_the_outline_lies_on_the_edge_and_nowhere_else() -> None:
    pixels, mask = scene()
    drawn = outline(pixels, mask, thickness=2)
    changed = (drawn != pixels).any(axis=2)
    distance = edge_distance(mask)
    assert distance[changed].max() <= 4.5
    assert changed[distance <= 1].all()
    assert changed[mask].any()
    assert changed[~mask].any()


def test_the_line_has_its_colour_and_a_dark_rim_on_both_sides() -> None:
    pixels = np.full((120, 160, 3), 128, np.uint8)
    mask = scene()[1]
    drawn = outline(pixels, mask, color=(255, 255, 0), thickness=3).astype(int)
    line = np.abs(drawn - (255, 255, 0)).max(axis=2) < 10
    rim = drawn.max(axis=2) < 70
    assert line.sum() > 200
    assert edge_distance(mask)[line].max() <= 3
    assert (rim & mask).sum() > 50
    assert (rim & ~mask).sum() > 50


@pytest.mark.parametrize("background", [0, 255])
def test_the_outline_shows_on_black_and_on_white(background: int) -> None:
    pixels, mask = np.full((120, 160, 3), background, np.uint8), scene()[1]
    difference = np.abs(outline(pixels, mask).astype(int) - background).max(axis=2)
    assert (difference > 150).sum() > 200


def test_thickness_grows_with_the_image() -> None:
    widths = []
    for scale in (1, 8):
        pixels, mask = scene(180 * scale, 240 * scale)
        changed = (outline(pixels, mask) != pixels).any(axis=2)
        widths.append(changed.sum() / scale)
    assert widths[1] > 1.5 * widths[0]


def test_holes_and_separate_regions_are_outlined() -> None:
    pixels = np.full((100, 200, 3), 120, np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[10:90, 10:90] = True
    mask[35:65, 35:65] = False
    mask[40:60, 150:170] = True
    changed = (outline(pixels, mask) != pixels).any(axis=2)
    for y, x in ((10, 50), (35, 50), (40, 160)):
        assert changed[y - 1 : y + 2, x].any()


def test_overlay_keeps_the_lesion_and_dims_the_skin() -> None:
    pixels, mask = scene()
    drawn, far = overlay(pixels, mask, alpha=0.2), edge_distance(mask) > 6
    np.testing.assert_array_equal(drawn[mask & far], pixels[mask & far])
    np.testing.assert_allclose(drawn[~mask & far], pixels[~mask & far] * 0.8, atol=0.6)


def test_overlay_without_dimming_is_the_outline() -> None:
    pixels, mask = scene()
    np.testing.assert_array_equal(overlay(pixels, mask, alpha=0), outline(pixels, mask))


def test_an_empty_mask_draws_no_line() -> None:
    pixels, mask = scene()
    empty = np.zeros_like(mask)
    np.testing.assert_array_equal(outline(pixels, empty), pixels)
    np.testing.assert_allclose(overlay(pixels, empty, alpha=0.5), pixels * 0.5, atol=0.6)


def test_a_full_mask_is_framed_and_otherwise_kept() -> None:
    pixels, mask = scene()
    drawn = overlay(pixels, np.ones_like(mask))
    np.testing.assert_array_equal(drawn[6:-6, 6:-6], pixels[6:-6, 6:-6])
    assert np.abs(drawn[0].astype(int) - LINE).max(axis=1).mean() < 40


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 2), (2, 2)])
def test_tiny_photographs_are_drawn(size: tuple[int, int]) -> None:
    pixels, mask = np.zeros((*size, 3), np.uint8), np.ones(size, bool)
    assert overlay(pixels, mask).shape == pixels.shape
    assert side_by_side(pixels, mask, mask.astype(np.float32)).ndim == 3


@pytest.mark.parametrize("draw", [outline, overlay, side_by_side])
@pytest.mark.parametrize("order", ["C", "view"])
def test_inputs_are_never_changed(draw: Callable[..., np.ndarray], order: str) -> None:
    pixels, mask = scene()
    if order == "view":
        pixels, mask = pixels[::-1, ::2], mask[::-1, ::2]
    before = pixels.copy(), mask.copy()
    pixels.flags.writeable = mask.flags.writeable = False
    drawn = draw(pixels, mask)
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(mask, before[1])
    np.testing.assert_array_equal(drawn, draw(*before))
    assert not np.shares_memory(drawn, pixels)


def test_probability_image_is_exact_and_monotone() -> None:
    levels = probability_image(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert levels.dtype == np.uint8
    assert levels.tolist() == [[0, 128, 255]]
    ramp = probability_image(np.linspace(0, 1, 1001, dtype=np.float32)[None])
    assert (np.diff(ramp[0].astype(int)) >= 0).all()
    assert len(np.unique(ramp)) == 256
    np.testing.assert_allclose(ramp[0] / 255, np.linspace(0, 1, 1001), atol=0.5 / 255 + 1e-6)


def test_side_by_side_lays_out_panels_of_480_pixels() -> None:
    pixels, mask = scene(120, 160)
    row = side_by_side(pixels, mask)
    assert row.shape == (12 + 360 + 34, 3 * 480 + 4 * 12, 3)
    assert row.dtype == np.uint8
    with_bar = side_by_side(pixels, mask, mask.astype(np.float32))
    bar = with_bar.shape[1] - (4 * 480 + 6 * 12)
    assert with_bar.shape[0] == row.shape[0]
    assert 30 <= bar <= 80
    assert side_by_side(pixels[:, :60], mask[:, :60]).shape == (12 + 480 + 34, 3 * 240 + 4 * 12, 3)


def test_side_by_side_shows_photograph_mask_and_probability() -> None:
    pixels, mask = np.full((480, 480, 3), 90, np.uint8), np.zeros((480, 480), bool)
    mask[:, 240:] = True
    row = side_by_side(pixels, mask, mask.astype(np.float32))
    panels = [row[12 : 12 + 480, 12 + n * 492 :][:, :480] for n in range(4)]
    np.testing.assert_array_equal(panels[0], pixels)
    np.testing.assert_array_equal(panels[1], overlay(pixels, mask))
    np.testing.assert_array_equal(panels[2], np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    # The ends of viridis: dark violet and bright yellow.
    np.testing.assert_allclose(panels[3][0, 0].astype(int), (68, 1, 84), atol=2)
    np.testing.assert_allclose(panels[3][0, -1].astype(int), (253, 231, 37), atol=2)


def test_side_by_side_writes_captions() -> None:
    pixels, mask = scene()
    below = side_by_side(pixels, mask)[12 + 360 :]
    for left in (12, 504, 996):
        assert 100 < (below[:, left : left + 480].min(axis=2) < 128).sum() < 2000


@pytest.mark.parametrize("draw", [outline, overlay, side_by_side])
@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        (
            np.zeros((8, 9, 3), np.uint8),
            np.zeros((9, 8), bool),
            "The mask has the shape (9, 8), the photograph (8, 9).",
        ),
        (
            np.zeros((8, 9), np.uint8),
            np.zeros((8, 9), bool),
            "A photograph must be uint8 (H, W, 3), not uint8 (8, 9).",
        ),
        (
            np.zeros((8, 9, 3), np.float32),
            np.zeros((8, 9), bool),
            "A photograph must be uint8 (H, W, 3), not float32 (8, 9, 3).",
        ),
        (np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), np.uint8), "A mask must be bool, not uint8."),
    ],
)
def test_what_does_not_fit_is_named(
    draw: Callable[..., np.ndarray], pixels: np.ndarray, mask: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        draw(pixels, mask)
    assert str(caught.value) == message


def test_probability_and_alpha_are_checked() -> None:
    pixels, mask = scene()
    with pytest.raises(InputError) as caught:
        side_by_side(pixels, mask, np.zeros((5, 5), np.float32))
    assert str(caught.value) == "The probability has the shape (5, 5), the photograph (120, 160)."
    with pytest.raises(InputError) as caught:
        overlay(pixels, mask, alpha=2)
    assert str(caught.value) == "alpha must lie between 0 and 1, not 2."
    with pytest.raises(InputError) as caught:
        probability_image(np.zeros((2, 2, 1), np.float32))
    assert str(caught.value) == "A probability must have the shape (H, W), not (2, 2, 1)."
