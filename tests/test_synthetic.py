from pathlib import Path

import cv2
import numpy as np
import pytest

from dermseg.errors import InputError
from dermseg.synthetic import MIN_SIDE, SyntheticImage, draw, example, write_dataset

SMALL = (192, 256)
SEEDS = range(8)


def clean(seed: int, size: tuple[int, int] = SMALL) -> SyntheticImage:
    return draw(seed, size, hairs=0, bubbles=0, vignette=False)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels from the mask's edge, positive inside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(mask, inside - 0.5, 0.5 - cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5))


def test_a_seed_gives_the_same_image_every_time() -> None:
    first, second = draw(3, SMALL), draw(3, SMALL)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_seeds_give_different_lesions_and_photographs() -> None:
    drawn = [draw(seed, SMALL) for seed in SEEDS]
    assert len({image.pixels.tobytes() for image in drawn}) == len(SEEDS)
    assert len({image.mask.tobytes() for image in drawn}) == len(SEEDS)


@pytest.mark.parametrize("size", [(192, 256), (256, 192), (97, 131), (133, 133), (MIN_SIDE, MIN_SIDE), (40, 200)])
def test_any_size_gives_a_photograph_and_its_mask(size: tuple[int, int]) -> None:
    drawn = draw(1, size)
    assert drawn.pixels.shape == (*size, 3)
    assert drawn.pixels.dtype == np.uint8
    assert drawn.mask.shape == size
    assert drawn.mask.dtype == np.bool_
    assert drawn.mask.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lesion_is_one_region_without_holes_inside_the_image(seed: int) -> None:
    mask = draw(seed, SMALL).mask
    assert 0.05 < mask.mean() < 0.40
    regions, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    assert regions == 2
    around, _ = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)
    assert around == 2
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lesion_is_darker_than_the_skin(seed: int) -> None:
    drawn = clean(seed)
    distance = signed_distance(drawn.mask)
    skin, lesion = drawn.pixels[distance < -5].mean(), drawn.pixels[distance > 5].mean()
    assert skin - lesion > 25


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_ends_where_the_border_has_faded_by_half(seed: int) -> None:
    drawn = clean(seed, (384, 512))
    distance, grey = signed_distance(drawn.mask), drawn.pixels.astype(float).mean(axis=2)
    profile = np.array([grey[(distance >= step) & (distance < step + 1)].mean() for step in range(-20, 20)])
    skin, lesion = profile[:5].mean(), profile[-5:].mean()
    # Positions are the middles of the bins: -19.5 for the first, 19.5 for the last.
    crossing = int(np.argmax(profile < (skin + lesion) / 2)) - 19.5
    assert abs(crossing) <= 2.5
    steepest = int(np.argmin(np.diff(profile))) - 19
    assert abs(steepest) <= 2


def test_options_change_their_layer_and_never_the_mask() -> None:
    plain = clean(5)
    for options in ({"hairs": 12}, {"bubbles": 5}, {"vignette": True}, {"tone": 0.9}):
        changed = draw(5, SMALL, **{"hairs": 0, "bubbles": 0, "vignette": False, **options})  # type: ignore[arg-type]
        np.testing.assert_array_equal(changed.mask, plain.mask)
        assert (changed.pixels != plain.pixels).any(), options


def test_hairs_cover_little_and_darken() -> None:
    plain = clean(5).pixels.astype(int)
    hairy = draw(5, SMALL, hairs=12, bubbles=0, vignette=False).pixels.astype(int)
    fall = (plain - hairy).mean(axis=2)
    assert fall.min() > -5
    assert 0.01 < (fall > 30).mean() < 0.15


def test_the_vignette_blackens_corners_and_leaves_the_middle() -> None:
    dark, plain = draw(2, SMALL, hairs=0, bubbles=0).pixels, clean(2).pixels
    assert all(dark[y, x].max() < 20 for y in (0, -1) for x in (0, -1))
    np.testing.assert_allclose(dark[96, 128].astype(int), plain[96, 128], atol=2)


def test_tone_orders_the_skin_from_fair_to_dark() -> None:
    levels = []
    for tone in (0.0, 0.3, 0.6, 1.0):
        drawn = draw(4, SMALL, hairs=0, bubbles=0, vignette=False, tone=tone)
        levels.append(drawn.pixels[~drawn.mask].mean())
    assert levels == sorted(levels, reverse=True)
    assert levels[0] - levels[-1] > 60


def test_a_seed_keeps_its_outline_across_sizes() -> None:
    large, small = draw(6, (384, 512)).mask, draw(6, SMALL).mask
    reduced = cv2.resize(large.astype(np.float32), SMALL[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    assert (reduced & small).sum() / (reduced | small).sum() > 0.95


def test_the_example_is_a_whole_photograph() -> None:
    drawn = example()
    assert drawn.pixels.shape == (768, 1024, 3)
    assert 0.1 < drawn.mask.mean() < 0.3


def test_write_dataset_writes_the_drawn_pixels_and_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 2, seed=9, size=(64, 80))
    names = ["synthetic_00009.png", "synthetic_00010.png"]
    for kind in ("images", "masks"):
        assert sorted(path.name for path in (tmp_path / "set" / kind).iterdir()) == names
    for seed, name in zip((9, 10), names, strict=True):
        drawn = draw(seed, (64, 80))
        image = cv2.imread(str(tmp_path / "set" / "images" / name), cv2.IMREAD_COLOR)
        mask = cv2.imread(str(tmp_path / "set" / "masks" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(np.asarray(image)[..., ::-1], drawn.pixels)
        np.testing.assert_array_equal(mask, drawn.mask * np.uint8(255))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed, hairs and bubbles must be 0 or more, not -1, None and None."),
        ({"hairs": -2}, "seed, hairs and bubbles must be 0 or more, not 0, -2 and None."),
        ({"size": (16, 64)}, "Each side must be at least 32 pixels, not 16 x 64."),
        ({"tone": 1.5}, "tone must lie between 0 and 1, not 1.5."),
    ],
)
def test_values_out_of_range_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        draw(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message
