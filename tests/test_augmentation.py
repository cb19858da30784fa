"""Augmentation: image and mask move together, each change keeps its range, and a seed repeats it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from dermseg.robustness import as_jpeg
from dermseg.training.augmentation import (
    MOST_CUT,
    _through_skin,
    add_noise,
    augment,
    change_colour,
    compress,
    cut_holes,
    cut_side,
    draw_hairs,
    draw_ruler,
    warp,
)
from dermseg.training.config import AugmentationConfig

torch.set_num_threads(1)

COUNT, SIDE = 64, 64
STREAM = [0.05189794301986694, 0.5529801845550537, 0.566583514213562]
NONE = AugmentationConfig.model_validate("none")
DEFAULT = AugmentationConfig()
STRONG = AugmentationConfig(
    quarter_turn=0.75,
    scale=(0.4, 3),
    aspect=0.5,
    shift=0.4,
    elastic=0.06,
    brightness=1,
    contrast=0.9,
    colour=0.9,
    saturation=1,
    gamma=0.9,
    blur=1,
    noise=1,
    jpeg=1,
    hair=1,
    ruler=1,
    coarse_dropout=1,
)
SETTINGS = {
    "flip": 1.0,
    "quarter_turn": 1.0,
    "rotation": 90.0,
    "scale": (0.5, 0.8),
    "aspect": 0.5,
    "shift": 0.4,
    "elastic": 0.06,
    "brightness": 0.3,
    "contrast": 0.5,
    "colour": 0.5,
    "saturation": 1.0,
    "gamma": 0.5,
    "blur": 1.0,
    "noise": 0.3,
    "jpeg": 1.0,
    "hair": 1.0,
    "ruler": 1.0,
    "coarse_dropout": 1.0,
}
GEOMETRY = ("flip", "quarter_turn", "rotation", "scale", "aspect", "shift", "elastic")


def only(**settings: object) -> AugmentationConfig:
    """No change but those of ``settings``."""
    return AugmentationConfig.model_validate(NONE.model_dump() | settings)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def grid(side: int = SIDE) -> tuple[Tensor, Tensor]:
    """x (1, W) and y (H, 1) of the pixels from the middle."""
    axis = torch.arange(side) - (side - 1) / 2
    return axis[None, :], axis[:, None]


def disc(radius: float, x0: float = 0, y0: float = 0, count: int = COUNT) -> Tensor:
    """A disc with a soft edge, (count, 1, SIDE, SIDE)."""
    x, y = grid()
    soft = (radius + 0.5 - torch.hypot(x - x0, y - y0)).clamp(0, 1)
    return soft.expand(count, 1, SIDE, SIDE).clone()


def noise(count: int = COUNT) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE)


def centroid(mask: Tensor) -> tuple[Tensor, Tensor]:
    x, y = grid()
    total = mask.sum(dim=(1, 2, 3))
    return (mask * x).sum(dim=(1, 2, 3)) / total, (mask * y).sum(dim=(1, 2, 3)) / total


def on_mask(mask: Tensor, config: AugmentationConfig) -> Tensor:
    return warp(mask.expand(-1, 3, -1, -1), mask, config, padding=0)[1]


@pytest.mark.parametrize("elastic", [0.0, 0.02])
def test_beyond_the_image_lies_padding_or_skin(elastic: float) -> None:
    lesion = disc(12, 6, -9)
    image = 0.8 - 0.5 * lesion.expand(-1, 3, -1, -1)
    smaller = only(scale=(0.3, 0.3), rotation=180, elastic=elastic)
    for share in (0.0, 0.25, 1.0):
        moved, mask = warp(image, lesion, smaller.model_copy(update={"mirror": share}), padding=0.5)
        # One lesion, of 0.3 x 0.3 of its area
        torch.testing.assert_close(
            mask.mean(dim=(1, 2, 3)) / lesion.mean(), torch.full((COUNT,), 0.09), rtol=0.15, atol=0
        )
        with_skin = moved[:, 0, 0, 0] != 0.5
        torch.testing.assert_close(moved[with_skin], (0.8 - 0.5 * mask[with_skin]).expand(-1, 3, -1, -1))
        assert with_skin.float().mean().item() == pytest.approx(share, abs=0.15)


@pytest.mark.parametrize("lesion", [torch.ones(8, 1, SIDE, SIDE), disc(40, count=8)], ids=["all", "to the border"])
def test_without_skin_there_is_padding_beyond(lesion: Tensor) -> None:
    image = torch.full((8, 3, SIDE, SIDE), 0.8)
    for chosen in (only(scale=(0.5, 0.5), mirror=1.0), only(scale=(0.5, 0.5))):
        moved, mask = warp(image, lesion, chosen, padding=0.5)
        assert set(moved[..., 0, 0].flatten().tolist()) == {0.5}
        assert not mask[..., 0, 0].any()


def test_a_picture_within_borders_is_surrounded_by_its_own_skin() -> None:
    # 20 x 30 pixels on a canvas of 32 x 48, beside the middle; its columns tell where skin comes from.
    image, mask = torch.full((4, 3, 32, 48), 0.5), torch.zeros(4, 2, 32, 48)
    image[..., 4:24, 2:32] = torch.arange(30) / 100
    mask[:, 0, 10:14, 12:16] = 1
    mask[:, 1, 12:16, 14:20] = 1
    moved, same = warp(image, mask, only(scale=(0.999999, 0.999999), mirror=1.0), padding=0.5)
    torch.testing.assert_close(same, mask, rtol=0, atol=1e-3)
    # The last lesion pixel is in column 19, the last of the picture in 31: there and back over 11 columns.
    expected = torch.tensor([2, 1, *range(30), *range(28, 17, -1), *range(19, 24)]) / 100
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=0, atol=1e-3)


def test_without_a_lesion_half_the_picture_is_skin() -> None:
    image = torch.full((1, 3, 8, 20), 0.5)
    image[..., :8] = torch.arange(8) / 100
    moved, mask = warp(image, torch.zeros(1, 1, 8, 20), only(scale=(0.999999, 0.999999), mirror=1.0), padding=0.5)
    assert not mask.any()
    torch.testing.assert_close(
        moved[0, 0, 4], torch.tensor([*range(8), 6, 5, 4, 5, 6, 7, 6, 5, 4, 5, 6, 7]) / 100, rtol=0, atol=1e-3
    )


def test_places_beyond_go_to_and_fro_between_border_and_lesion() -> None:
    inside, lesion = torch.zeros(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool)
    inside[:, 1:11] = True  # the outermost pixels are padding
    lesion[:, 5:7] = True
    place = torch.arange(-4.0, 16.0).expand(2, 1, 20)
    led, kept = _through_skin(place, inside, lesion, torch.tensor([True, False]))
    assert led[0].tolist() == [2, 3, 4, 3, 2, *range(1, 11), 9, 8, 7, 8, 9]
    assert torch.equal(kept, place[0])


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_one_side_is_cut_off_image_and_mask(probability: float) -> None:
    image, mask = torch.full((400, 3, 20, 40), 0.8), torch.ones(400, 1, 20, 40)
    cut, left = cut_side(image, mask, probability, padding=0.5)
    assert torch.equal(cut, torch.where(left > 0, 0.8, 0.5).expand_as(cut))
    lost = 1 - left.mean(dim=(1, 2, 3))
    assert (lost > 0).float().mean().item() == pytest.approx(probability, abs=0.07)
    assert lost.max() <= MOST_CUT
    rows, columns = left.amax(dim=3)[:, 0], left.amax(dim=2)[:, 0]
    assert torch.equal(left[:, 0], rows[:, :, None] * columns[:, None, :])  # what is left is a rectangle
    ends = torch.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]])
    assert ends.sum(dim=0).min() >= 3  # of which three sides are the image's
    if probability == 1:
        assert ((ends == 0).float().mean(dim=1) > 0.15).all()


# --- together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [DEFAULT, STRONG], ids=["default", "strong"])
def test_image_and_mask_move_together(config: AugmentationConfig) -> None:
    mask = torch.cat([disc(9, 8, -5), disc(4, -12, 10)], dim=1)
    image = torch.cat([mask, mask[:, :1]], dim=1)
    moved_image, moved_mask = warp(image, mask, config, padding=0)
    torch.testing.assert_close(moved_image[:, :2], moved_mask)
    assert not torch.allclose(moved_mask, mask, atol=0.1)


def test_padding_moves_the_image_as_it_does_the_mask() -> None:
    mask = disc(9, 8, -5)
    image, moved_mask = warp(0.25 + 0.75 * mask.expand(-1, 3, -1, -1), mask, STRONG, padding=0.25)
    torch.testing.assert_close((image - 0.25) / 0.75, moved_mask.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    config=st.fixed_dictionaries(
        {},
        optional={
            **{name: st.floats(0, 1) for name in ("flip", "quarter_turn", "strength")},
            "rotation": st.floats(0, 180),
            "scale": st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
            "aspect": st.floats(0, 0.5),
            "shift": st.floats(0, 0.4),
            "elastic": st.floats(0, 0.06),
        },
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_disc_stays_under_its_mask(config: dict[str, object], seed: int) -> None:
    torch.manual_seed(seed)
    mask = disc(9, 8, -5, count=4)
    image, moved_mask = warp(0.2 + 0.6 * mask.expand(-1, 3, -1, -1), mask, only(**config), padding=0.2)
    torch.testing.assert_close((image - 0.2) / 0.6, moved_mask.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_change_changes_what_it_should_and_nothing_else(name: str) -> None:
    image, mask = noise(), disc(12, 5, 3)
    new_image, new_mask = augment(image, mask, only(**{name: SETTINGS[name]}), padding=0.5)
    assert ((new_image - image).abs().amax(dim=(1, 2, 3)) > 0.02).float().mean() > 0.9
    if name in GEOMETRY:
        assert ((new_mask - mask).abs().amax(dim=(1, 2, 3)) > 0.02).float().mean() > 0.9
    else:
        assert torch.equal(new_mask, mask)


def test_every_change_is_tested() -> None:
    # These change nothing by themselves, and a cut not every mask.
    how = {"strength", "scaled", "mirror", "holes", "hole_size", "cut"}
    assert SETTINGS.keys() == AugmentationConfig.model_fields.keys() - how


@pytest.mark.parametrize("config", [NONE, DEFAULT, STRONG], ids=["none", "default", "strong"])
def test_shapes_and_ranges_stay(config: AugmentationConfig) -> None:
    image = torch.cat([noise(20), torch.zeros(20, 3, SIDE, SIDE), torch.ones(20, 3, SIDE, SIDE)])[..., :48]
    mask = (torch.rand(60, 2, SIDE, 48) < 0.5).float()
    new_image, new_mask = augment(image, mask, config, padding=128 / 255)
    assert new_image.shape == image.shape
    assert new_mask.shape == mask.shape
    for values in (new_image, new_mask):
        assert values.dtype == torch.float32
        assert values.min() >= 0
        assert values.max() <= 1


def test_what_is_given_stays_as_it_is() -> None:
    image, mask = noise(8), disc(9, count=8)
    before = image.clone(), mask.clone()
    augment(image, mask, STRONG, padding=0.5)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


# --- chance --------------------------------------------------------------------------------------


def test_without_any_change_all_is_given_back_as_it_is() -> None:
    image, mask = noise(8), disc(9, 10, 4, count=8)
    for config in (NONE, STRONG.model_copy(update={"strength": 0.0})):
        new_image, new_mask = augment(image, mask, config, padding=0.5)
        assert torch.equal(new_image, image)
        assert torch.equal(new_mask, mask)


def test_the_default_draws_what_it_drew_for_the_shipped_weights() -> None:
    """The numbers that come next tell how many were drawn."""
    augment(noise(8), disc(9, count=8), DEFAULT, padding=0.5)
    assert torch.rand(3).tolist() == pytest.approx(STREAM)


@pytest.mark.parametrize("name", ["rotation", "aspect", "shift", "brightness", "contrast", "colour"])
def test_a_range_of_zero_leaves_what_the_other_changes_draw(name: str) -> None:
    image, mask = noise(8), disc(9, 10, 4, count=8)
    states = []
    for config in (DEFAULT, DEFAULT.model_copy(update={name: 0.0})):
        torch.manual_seed(1)
        augment(image, mask, config, padding=0.5)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1])


def test_half_precision_around_it_changes_nothing() -> None:
    image, mask = noise(8), disc(9, 10, 4, count=8)
    results = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(augment(image, mask, STRONG, padding=0.5))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_a_seed_repeats_every_change() -> None:
    image, mask = noise(8), disc(9, 10, 4, count=8)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(augment(image, mask, DEFAULT, padding=0.5))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][1], results[2][1])


def test_each_image_of_a_batch_is_changed_in_its_own_way() -> None:
    mask = on_mask(disc(6, 15, 8), DEFAULT)
    assert len({tuple(m.flatten().tolist()) for m in mask}) == COUNT


@pytest.mark.parametrize("name", ["flip", "quarter_turn", "hair", "ruler", "blur", "coarse_dropout"])
@pytest.mark.parametrize(("probability", "strength"), [(0, 1), (0.25, 1), (0.5, 0.5)])
def test_a_probability_is_the_share_of_images_changed(name: str, probability: float, strength: float) -> None:
    image, mask = torch.rand(1, 3, 32, 32).expand(400, 3, 32, 32), torch.zeros(400, 1, 32, 32)
    result = augment(image, mask, only(**{name: probability, "strength": strength}), padding=0.5)[0]
    changed = int(((result - image).abs().amax(dim=(1, 2, 3)) > 0.01).sum())
    low, high = (60, 140) if probability else (0, 0)
    assert low <= changed <= high


# --- geometry ------------------------------------------------------------------------------------


def test_doubling_a_square_by_hand() -> None:
    """A square over pixels 28 to 35 doubles about the middle, 31.5: pixel i shows the old 31.5 + (i - 31.5) / 2.

    So 24 shows 27.75, three quarters of the way from background to square, and 23 shows 27.25.
    """
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[..., 28:36, 28:36] = 1
    row = torch.zeros(SIDE)
    row[25:39] = 1
    row[24] = row[39] = 0.75
    row[23] = row[40] = 0.25
    expected = (row[:, None] * row[None, :]).expand(2, 1, SIDE, SIDE)
    torch.testing.assert_close(on_mask(mask, only(scale=(2, 2))), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [33, 64, 192])
def test_flips_and_quarter_turns_alone_lose_nothing(side: int) -> None:
    image = torch.rand(64, 3, side, side)
    new_image, new_mask = augment(image, image[:, :1], only(flip=True, quarter_turn=True), padding=0.5)
    assert torch.equal(new_image[:, :1], new_mask)
    ways: dict[tuple[bool, int], int] = {}
    for before, after in zip(image, new_image, strict=True):
        for flip, turns in ((flip, turns) for flip in (False, True) for turns in range(4)):
            if torch.allclose(torch.rot90(before.flip(-1) if flip else before, turns, (-2, -1)), after, atol=1e-6):
                ways[flip, turns] = ways.get((flip, turns), 0) + 1
    assert len(ways) == 8
    assert sum(ways.values()) == 64
    assert max(ways.values()) <= 20  # 8 expected


def test_bending_stays_in_its_range_and_does_not_fold() -> None:
    x, y = grid()
    ramp = torch.stack([x.expand(SIDE, SIDE), y.expand(SIDE, SIDE)]) / 4 / SIDE + 0.5  # x and y as colours
    image = torch.cat([ramp, ramp[:1]]).expand(COUNT, 3, SIDE, SIDE)
    bent, _ = warp(image, disc(5), only(elastic=0.06), padding=0.5)
    inner = (slice(None), slice(0, 2), slice(6, -6), slice(6, -6))
    displacement = ((bent - image) * 4)[inner]
    assert displacement.abs().max() <= 0.06
    assert displacement.abs().amax(dim=(1, 2, 3)).min() > 0.01
    place = bent[inner]
    dx, dy = place.diff(dim=3)[:, :, :-1], place.diff(dim=2)[..., :-1]
    assert (dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]).min() > 0


def test_outside_the_image_is_padding() -> None:
    image, mask = warp(torch.ones(2, 3, SIDE, SIDE), torch.ones(2, 1, SIDE, SIDE), only(scale=(0.5, 0.5)), padding=0.2)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[16:48, 16:48] = True
    torch.testing.assert_close(image[..., inside], torch.ones(2, 3, 32 * 32), rtol=0, atol=1e-5)
    beyond = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0] == 0
    torch.testing.assert_close(image[..., beyond], torch.full((2, 3, int(beyond.sum())), 0.2), rtol=0, atol=1e-5)
    assert not mask[..., beyond].any()


def test_zoom_stays_in_its_range_and_uses_it() -> None:
    area = disc(12).sum(dim=(1, 2, 3))
    zoom = (on_mask(disc(12), only(scale=(0.5, 2))).sum(dim=(1, 2, 3)) / area).sqrt()
    assert zoom.min() >= 0.5 * 0.98
    assert zoom.max() <= 2 * 1.02
    assert zoom.min() < 0.6
    assert zoom.max() > 1.7
    assert 22 <= int((zoom < 1).sum()) <= 42  # halving is as likely as doubling


def test_some_images_keep_their_size_and_the_others_are_zoomed_as_ever() -> None:
    sizes = []
    for share in (1.0, 0.25):
        torch.manual_seed(0)
        sizes.append(on_mask(disc(12), only(scale=(0.5, 0.6), scaled=share)).sum(dim=(1, 2, 3)))
    zoomed, some = sizes
    kept = some > 0.9 * disc(12, count=1).sum()
    assert 40 <= int(kept.sum()) <= 56
    torch.testing.assert_close(some[kept], disc(12).sum(dim=(1, 2, 3))[kept])
    assert torch.equal(some[~kept], zoomed[~kept])


def test_rotation_stays_in_its_range_and_uses_it() -> None:
    x, y = centroid(on_mask(disc(5, 18, 0), only(rotation=30)))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((COUNT,), 18.0), rtol=0, atol=0.1)
    angle = torch.rad2deg(torch.atan(y / x))  # a flip only turns it round
    assert angle.abs().max() <= 30.5
    assert angle.min() < -20
    assert angle.max() > 20


def test_a_rotation_keeps_angles_and_lengths_where_the_image_is_not_square() -> None:
    mask = disc(10)[..., 12:52, :]
    x, y = grid()
    y = y[12:52]
    turned = on_mask(mask, only(rotation=180))
    radius = (turned * torch.hypot(x, y)).sum(dim=(1, 2, 3)) / turned.sum(dim=(1, 2, 3))
    expected = (mask * torch.hypot(x, y)).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    torch.testing.assert_close(radius, expected, rtol=0.01, atol=0)


def test_stretch_stays_in_its_range_and_keeps_the_area() -> None:
    mask = on_mask(disc(12), only(aspect=0.4))
    x, y = grid()
    total = mask.sum(dim=(1, 2, 3))
    ratio = ((mask * x**2).sum(dim=(1, 2, 3)) / (mask * y**2).sum(dim=(1, 2, 3))).sqrt()  # width to height
    assert ratio.min() >= 0.6 * 0.98
    assert ratio.max() <= 1 / 0.6 * 1.02
    assert ratio.min() < 0.72
    assert ratio.max() > 1.4
    torch.testing.assert_close(total, disc(12).sum(dim=(1, 2, 3)), rtol=0.02, atol=0)


def test_shift_stays_in_its_range_and_uses_it() -> None:
    for shifts in centroid(on_mask(disc(5), only(shift=0.25))):
        assert shifts.abs().max() <= 0.25 * SIDE + 0.05
        assert shifts.min() < -0.18 * SIDE
        assert shifts.max() > 0.18 * SIDE


# --- colour --------------------------------------------------------------------------------------


def test_brightness_is_added() -> None:
    image = torch.full((COUNT, 3, 8, 8), 0.5)
    added = change_colour(image, only(brightness=0.2)) - image
    assert (added == added[:, :1, :1, :1]).all()
    assert added.abs().max() <= 0.2 + 1e-6
    assert added.min() < -0.15
    assert added.max() > 0.15


def test_contrast_is_changed_about_the_mean() -> None:
    image = torch.full((COUNT, 3, 8, 8), 0.4)
    image[..., :4] = 0.6
    changed = change_colour(image, only(contrast=0.25))
    torch.testing.assert_close(changed.mean(dim=(1, 2, 3)), torch.full((COUNT,), 0.5))
    factor = (changed[..., 0] - changed[..., -1])[:, 0, 0] / 0.2
    assert factor.min() >= 0.75 - 1e-5
    assert factor.max() <= 1.25 + 1e-5
    assert factor.min() < 0.82
    assert factor.max() > 1.18


def test_each_channel_has_a_gain_of_its_own() -> None:
    image = 0.1 + 0.5 * torch.rand(COUNT, 3, 8, 8)
    gain = change_colour(image, only(colour=0.12)) / image
    torch.testing.assert_close(gain, gain.mean(dim=(2, 3), keepdim=True).expand_as(gain))
    gain = gain[..., 0, 0]
    assert (gain - 1).abs().max() <= 0.12 + 1e-5
    assert (gain[:, 0] != gain[:, 1]).all()
    assert gain.min() < 0.92
    assert gain.max() > 1.08


def test_saturation_keeps_grey_and_each_pixels_mean() -> None:
    image = 0.4 + 0.2 * torch.rand(COUNT, 3, 8, 8)
    changed = change_colour(image, only(saturation=0.5))
    torch.testing.assert_close(changed.mean(dim=1), image.mean(dim=1))
    factor = (changed[:, 0] - changed[:, 1]).flatten(1).norm(dim=1) / (image[:, 0] - image[:, 1]).flatten(1).norm(dim=1)
    assert factor.min() >= 0.5 - 1e-4
    assert factor.max() <= 1.5 + 1e-4
    assert factor.min() < 0.65
    assert factor.max() > 1.35
    grey = torch.rand(COUNT, 1, 8, 8).expand(-1, 3, -1, -1)
    torch.testing.assert_close(change_colour(grey, only(saturation=0.5)), grey)


def test_gamma_is_an_exponent_in_its_range() -> None:
    image = torch.rand(COUNT, 3, 8, 8).clamp(0.1, 0.9)
    exponent = change_colour(image, only(gamma=0.5)).log() / image.log()
    torch.testing.assert_close(exponent, exponent[:, :1, :1, :1].expand_as(exponent), rtol=1e-3, atol=0)
    exponent = exponent[:, 0, 0, 0]
    assert exponent.min() >= 0.5 - 1e-3
    assert exponent.max() <= 2 + 2e-3
    assert 18 <= int((exponent < 1).sum()) <= 46  # as often lighter as darker


def test_noise_has_up_to_its_standard_deviation() -> None:
    image = torch.full((COUNT, 3, SIDE, SIDE), 0.5)
    deviation = (add_noise(image, 0.1) - image).flatten(1).std(dim=1)
    assert deviation.max() <= 0.103
    assert deviation.max() > 0.085
    assert deviation.min() < 0.015
    assert (add_noise(image, 0.1) - image).mean().abs() < 1e-3


def test_compression_is_that_of_jpeg_files() -> None:
    image = torch.nn.functional.avg_pool2d(noise(), 5, 1, 2)
    compressed = compress(image)
    assert compressed.dtype == image.dtype
    assert compressed.shape == image.shape
    pixels = (image * 255).round().byte().permute(0, 2, 3, 1).numpy()
    found = (compressed * 255).round().byte().permute(0, 2, 3, 1).numpy()
    possible = [[as_jpeg(np.ascontiguousarray(each), quality) for quality in range(20, 91)] for each in pixels]
    used = [[bool((one == each).all()) for one in all_of] for each, all_of in zip(found, possible, strict=True)]
    assert all(map(any, used))
    assert len({each.index(True) for each in used}) > COUNT / 3  # each image has a quality of its own


@pytest.mark.parametrize("draw", [draw_hairs, draw_ruler])
def test_what_is_drawn_covers_a_small_part_and_leaves_the_rest_alone(draw: Callable[[Tensor], Tensor]) -> None:
    image = torch.full((COUNT, 3, SIDE, SIDE), 0.6)
    drawn = draw(image)
    covered = (drawn != image).any(dim=1).float().mean(dim=(1, 2))
    assert covered.max() < 0.5
    assert (covered > 0).float().mean() > 0.9
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_blur_keeps_flat_images_and_softens_edges() -> None:
    flat, mask = torch.full((4, 3, SIDE, SIDE), 0.3), torch.zeros(4, 1, SIDE, SIDE)
    torch.testing.assert_close(augment(flat, mask, only(blur=1), padding=0.3)[0], flat, rtol=0, atol=1e-5)
    step = torch.zeros(4, 3, SIDE, SIDE)
    step[..., SIDE // 2 :, :] = 1
    slope = augment(step, mask, only(blur=1), padding=0)[0].diff(dim=2).amax(dim=(1, 2, 3))
    # A Gaussian's steepest slope, one pixel wide: between sigma 0.4 and 1.6.
    assert slope.max() <= math.erf(0.5 / (0.4 * math.sqrt(2))) + 1e-3
    assert slope.min() >= math.erf(0.5 / (1.6 * math.sqrt(2))) - 0.02


# --- holes ---------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    holes=st.tuples(st.integers(1, 64), st.integers(1, 64)).map(sorted),
    size=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_holes_cover_what_was_asked_for(
    holes: list[int], size: list[float], height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    image = 0.4 * torch.rand(4, 3, height, width)
    cut = cut_holes(image, only(coarse_dropout=1, holes=holes, hole_size=size), padding=0.5)
    hole = (cut == 0.5).all(dim=1, keepdim=True).expand_as(cut)
    assert torch.equal(cut[~hole], image[~hole])
    area = hole[:, 0].sum(dim=(1, 2))
    smallest, largest = (max(1, round(s * height)) * max(1, round(s * width)) for s in size)
    assert area.min() >= smallest
    assert area.max() <= min(holes[1] * largest, height * width)


def test_one_hole_is_a_rectangle_anywhere() -> None:
    image = torch.zeros(1000, 3, 20, 30)
    cut = cut_holes(image, only(coarse_dropout=1, holes=(1, 1), hole_size=(0.2, 0.5)), padding=1)[:, 0]
    rows, columns = cut.amax(dim=2), cut.amax(dim=1)
    assert torch.equal(cut, rows[:, :, None] * columns[:, None, :])
    for side, length in ((rows, 20), (columns, 30)):
        assert (side.diff(dim=1).clamp(min=0).sum(dim=1) + side[:, 0] == 1).all()  # one stretch
        assert side.sum(dim=1).min() == round(0.2 * length)
        assert side.sum(dim=1).max() == round(0.5 * length)
        assert (side.sum(dim=0) > 0).all()


# --- settings ------------------------------------------------------------------------------------


def test_a_preset_stands_for_its_settings() -> None:
    assert (
        AugmentationConfig.model_validate("standard") == AugmentationConfig() == AugmentationConfig.model_validate({})
    )
    light = AugmentationConfig.model_validate("light")
    assert light == AugmentationConfig.model_validate({"preset": "light"})
    changed = AugmentationConfig.model_validate({"preset": "light", "hair": 0.5})
    assert changed == light.model_copy(update={"hair": 0.5})
    assert light.hair == 0


@pytest.mark.parametrize("preset", AugmentationConfig.PRESETS)
def test_a_preset_survives_being_written_out(preset: str) -> None:
    config = AugmentationConfig.model_validate(preset)
    assert AugmentationConfig.model_validate(config.model_dump(mode="json")) == config


def test_presets_are_ordered_by_strength() -> None:
    configs = [AugmentationConfig.model_validate(name).model_dump() for name in ("none", "light", "standard", "strong")]
    for weaker, stronger in itertools.pairwise(configs):
        assert weaker != stronger
        assert weaker["scale"][0] >= stronger["scale"][0]
        assert weaker["scale"][1] <= stronger["scale"][1]
        assert all(weaker[name] <= stronger[name] for name in SETTINGS if name != "scale")


def test_strength_is_a_share_of_every_range() -> None:
    half = AugmentationConfig.model_validate({"preset": "strong", "strength": 0.5}).at_strength()
    whole = AugmentationConfig.model_validate("strong")
    assert half.scale == pytest.approx((whole.scale[0] ** 0.5, whole.scale[1] ** 0.5))
    for name in SETTINGS.keys() - {"scale"}:
        assert getattr(half, name) == pytest.approx(getattr(whole, name) / 2)
    assert (half.holes, half.hole_size, half.strength) == (whole.holes, whole.hole_size, 1)
    assert half.at_strength() is half


@pytest.mark.parametrize(
    ("given", "flip", "quarter_turn"),
    [
        ({"flip": True, "quarter_turn": True}, 0.5, 0.75),
        ({"flip": False, "quarter_turn": False}, 0, 0),
        ({"flip": 1, "quarter_turn": 0.2}, 1, 0.2),
    ],
)
def test_flips_and_turns_may_be_switched(given: dict[str, object], flip: float, quarter_turn: float) -> None:
    config = AugmentationConfig.model_validate(given)
    assert (config.flip, config.quarter_turn) == (flip, quarter_turn)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("heavy", "there is no preset 'heavy'; choose one of: none, light, standard, wide, strong"),
        ({"preset": None}, "there is no preset None; choose one of: none, light, standard, wide, strong"),
        ({"holes": (0, 3)}, "both numbers must be from 1 to 64"),
        ({"holes": (1, 65)}, "both numbers must be from 1 to 64"),
        ({"holes": (5, 3)}, "the first number must not exceed the second"),
        ({"hole_size": (0, 0.5)}, "both numbers must be above 0 and at most 1"),
        ({"hole_size": (0.5, 1.5)}, "both numbers must be above 0 and at most 1"),
        ({"strength": 1.5}, "less than or equal to 1"),
        ({"elastic": 0.1}, "less than or equal to 0.06"),
        ({"scale": (1, math.inf)}, "finite number"),
        ({"preset": "light", "hairs": 0}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_gets_one_sentence(given: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AugmentationConfig.model_validate(given)
    (error,) = caught.value.errors()
    assert message in error["msg"]
    assert "\n" not in error["msg"]
