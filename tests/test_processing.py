import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dermseg.appearance import hair_mask, vignette_mask
from dermseg.bundle import Bundle
from dermseg.data import cache
from dermseg.data.cache import PADDING
from dermseg.data.catalog import Sample
from dermseg.errors import InputError
from dermseg.geometry import Geometry
from dermseg.imaging import encode_image, encode_mask
from dermseg.manifest import Normalisation
from dermseg.processing import (
    STEPS,
    VIGNETTE_RIM,
    check_steps,
    colour_constancy,
    contrast,
    hair_removal,
    prepare,
    vignette_masking,
)
from dermseg.segmenter import Segmenter
from dermseg.synthetic import draw

SIZE = (96, 128)
SHAPES = [(1, 1), (1, 2), (1, 40), (40, 1), (2, 3), (7, 7), (9, 64)]


def photograph(seed: int = 3, **options: int | bool) -> np.ndarray:
    return draw(seed, SIZE, bubbles=0, **options).pixels  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=25, deadline=None)
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))),
    read_only=st.booleans(),
)
def test_a_step_keeps_the_shape_and_never_changes_what_it_is_given(
    name: str, pixels: np.ndarray, read_only: bool
) -> None:
    before = pixels.copy()
    pixels.setflags(write=not read_only)
    result = STEPS[name](pixels)
    assert result.shape == pixels.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [0, 255])
def test_a_step_keeps_black_and_white_even(name: str, shape: tuple[int, int], value: int) -> None:
    pixels = np.full((*shape, 3), value, np.uint8)
    result = STEPS[name](pixels)
    if name == "contrast":  # which lifts the lightness of what is all alike
        assert np.ptp(result) <= 1
    else:
        np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_does_something_to_a_photograph_and_always_the_same(name: str) -> None:
    pixels = photograph(hairs=8, vignette=True)
    result = STEPS[name](pixels)
    assert (result != pixels).any()
    np.testing.assert_array_equal(STEPS[name](pixels), result)


def test_hair_removal_changes_only_the_hair_and_leaves_less_of_it() -> None:
    pixels = photograph(hairs=8, vignette=False)
    hair = hair_mask(pixels)
    result = hair_removal(pixels)
    assert hair.mean() > 0.02
    np.testing.assert_array_equal(result[~hair], pixels[~hair])
    assert hair_mask(result).mean() < 0.3 * hair.mean()


@pytest.mark.parametrize("shape", [(1, 64), (64, 1)])
def test_hair_removal_leaves_a_single_row_or_column(shape: tuple[int, int]) -> None:
    # Inpainting would read memory beside it, so that the result would differ from call to call.
    pixels = np.full((*shape, 3), 200, np.uint8)
    pixels.reshape(-1, 3)[20] = 30
    assert hair_mask(pixels).any()
    np.testing.assert_array_equal(hair_removal(pixels), pixels)


def test_hair_removal_brings_back_the_picture_without_hairs() -> None:
    hairy, bare = (photograph(hairs=hairs, vignette=False).astype(int) for hairs in (8, 0))
    hair = np.abs(hairy - bare).max(axis=2) > 40
    removed = hair_removal(hairy.astype(np.uint8)).astype(int)
    assert np.abs(removed - bare)[hair].mean() < 0.5 * np.abs(hairy - bare)[hair].mean()


def test_a_coloured_light_on_a_grey_world_becomes_white() -> None:
    # sqrt((120² + 100² + 80²) / 3) = 101.3 for each channel: the light's strength stays, its colour goes.
    lit = np.full((5, 6, 3), (120, 100, 80), np.uint8)
    np.testing.assert_array_equal(colour_constancy(lit), np.full_like(lit, 101))


def test_white_light_stays() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 30, 1), np.uint8), 3, axis=2)
    np.testing.assert_array_equal(colour_constancy(grey), grey)


@pytest.mark.parametrize("seed", range(4))
def test_colour_constancy_twice_is_about_colour_constancy_once(seed: int) -> None:
    once = colour_constancy((photograph(seed, vignette=False) * (0.8, 0.75, 0.7)).astype(np.uint8))
    twice = colour_constancy(once)
    assert np.abs(twice.astype(int) - once).max() <= 2


def test_two_coloured_lights_on_one_scene_become_alike() -> None:
    scene = photograph(vignette=False) * 0.7
    one, other = (
        colour_constancy(np.rint(scene * light).astype(np.uint8)).astype(int) for light in ((1, 0.9, 0.8), (0.9, 1, 1))
    )
    ratio = one.mean() / other.mean()
    assert np.abs(one - ratio * other).mean() < 1.5


def test_vignette_masking_paints_the_surround_and_leaves_the_field() -> None:
    pixels = photograph(hairs=0, vignette=True)
    surround = vignette_mask(pixels)
    rim = max(1, round(max(SIZE) * VIGNETTE_RIM))
    masked = cv2.dilate(surround.astype(np.uint8), np.ones((2 * rim + 1,) * 2, np.uint8)).astype(bool)
    result = vignette_masking(pixels)
    assert 0.02 < surround.mean() < masked.mean() < 0.5
    np.testing.assert_array_equal(result[~masked], pixels[~masked])
    assert (result[masked] == np.rint(pixels[~masked].mean(axis=0))).all()
    assert not vignette_mask(result).any()


def test_without_a_vignette_nothing_is_masked() -> None:
    pixels = photograph(hairs=0, vignette=False)
    np.testing.assert_array_equal(vignette_masking(pixels), pixels)


def test_contrast_spreads_the_lightness_and_keeps_the_colour() -> None:
    pixels = (photograph(hairs=0, vignette=False) * 0.4 + 90).astype(np.uint8)
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(int) for image in (pixels, contrast(pixels)))
    assert (
        np.abs(cv2.Laplacian(after[..., 0].astype(float), -1)).mean()
        > 1.5 * np.abs(cv2.Laplacian(before[..., 0].astype(float), -1)).mean()
    )
    assert np.abs(after - before)[..., 1:].mean() < 1
    assert np.abs(after - before)[..., 1:].max() <= 8


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (300, 17), (1, 500), (64, 64), (1, 1)])
@pytest.mark.parametrize("padding", [0, 128])
def test_prepare_without_steps_is_the_geometry(size: tuple[int, int], padding: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    geometry = Geometry.fit(*size, 64)
    np.testing.assert_array_equal(prepare(pixels, geometry, padding), geometry.apply(pixels, fill=padding))


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (300, 17), (1, 500)])
def test_prepare_leaves_the_padding_alone_and_keeps_the_order(size: tuple[int, int]) -> None:
    pixels = cv2.resize(photograph(hairs=8, vignette=True), size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)
    before = pixels.copy()
    geometry = Geometry.fit(*size, 64)
    steps = ["contrast", "colour_constancy", "hair_removal", "vignette_masking"]
    result = prepare(pixels, geometry, 77, steps)
    padding = np.ones((64, 64), bool)
    padding[geometry.content] = False
    assert padding.any()
    assert (result[padding] == 77).all()
    expected = geometry.apply(pixels)[geometry.content].copy()
    for step in steps:
        expected = STEPS[step](expected)
    np.testing.assert_array_equal(result[geometry.content], expected)
    np.testing.assert_array_equal(pixels, before)


def test_what_lies_around_the_image_has_no_influence_on_it() -> None:
    pixels, geometry = photograph(vignette=False), Geometry.fit(*SIZE, 64)
    black, white = (prepare(pixels, geometry, padding, list(STEPS))[geometry.content] for padding in (0, 255))
    np.testing.assert_array_equal(black, white)


@pytest.mark.parametrize("use", [check_steps, lambda names: prepare(photograph(), Geometry.fit(*SIZE, 64), 0, names)])
def test_an_unknown_step_is_named_with_the_closest(use: object) -> None:
    message = (
        "there is no processing step 'hair_remover'; did you mean 'hair_removal'? "
        "Choose from: hair_removal, colour_constancy, vignette_masking, contrast"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        use(["contrast", "hair_remover"])  # type: ignore[operator]


@pytest.mark.parametrize("size", [(96, 128), (1536, 2048), (2200, 1500)])
@pytest.mark.parametrize("steps", [(), tuple(STEPS)])
def test_training_and_use_see_the_same_pixels(
    dark_bundle: Bundle, tmp_path: Path, size: tuple[int, int], steps: tuple[str, ...]
) -> None:
    drawn = draw(5, (192, 256), hairs=6)
    shape = size[::-1]
    picture = cv2.resize(drawn.pixels, shape, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    (tmp_path / "a.jpg").write_bytes(encode_image(picture, "JPEG"))
    mask = cv2.resize(drawn.mask.view(np.uint8), shape, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    (tmp_path / "a.png").write_bytes(encode_mask(mask))
    sample = Sample("a", tmp_path / "a.jpg", {"lesion": tmp_path / "a.png"}, "a", "plain", "CC0-1.0")
    manifest = dark_bundle.manifest.model_copy(
        update={
            "processing": steps,
            "normalisation": Normalisation(mean=(0, 0, 0), std=(1, 1, 1), padding=PADDING),
        }
    )
    segmenter = Segmenter(replace(dark_bundle, manifest=manifest))
    seen = segmenter.prepare(sample.image).image_CHW
    image, _ = cache.fit(sample, ["lesion"], manifest.input_size, steps)
    np.testing.assert_array_equal(np.rint(seen * 255).transpose(1, 2, 0), image)
