"""Augmentation: image and mask move together, each change keeps its range, and a seed repeats it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dermseg.training.augmentation import augment, change_colour, draw_hairs, draw_ruler, warp
from dermseg.training.config import AugmentationConfig

torch.set_num_threads(1)

COUNT, SIDE = 64, 64
NONE = AugmentationConfig(
    rotation=0, scale=(1, 1), aspect=0, shift=0, brightness=0, contrast=0, colour=0, blur=0, hair=0, ruler=0
)
DEFAULT = AugmentationConfig()
STRONG = AugmentationConfig(
    rotation=180, scale=(0.4, 3), aspect=0.5, shift=0.4, brightness=1, contrast=0.9, colour=0.9, blur=1, hair=1, ruler=1
)


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


def test_colours_hairs_rulers_and_blur_leave_the_mask_alone() -> None:
    image, mask = noise(), disc(12, 5, 3)
    changed = only(brightness=0.3, contrast=0.3, colour=0.3, blur=1, hair=1, ruler=1)
    torch.manual_seed(1)
    plain_image, plain_mask = augment(image, mask, NONE, padding=0.5)
    torch.manual_seed(1)
    new_image, new_mask = augment(image, mask, changed, padding=0.5)
    assert torch.equal(new_mask, plain_mask)
    assert ((new_image - plain_image).abs().amax(dim=(1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("config", [NONE, DEFAULT, STRONG], ids=["none", "default", "strong"])
def test_shapes_and_ranges_stay(config: AugmentationConfig) -> None:
    image = torch.cat([noise(20), torch.zeros(20, 3, SIDE, SIDE), torch.ones(20, 3, SIDE, SIDE)])[..., :48]
    mask = (torch.rand(60, 2, SIDE, 48) < 0.5).float()
    new_image, new_mask = augment(image, mask, config, padding=128 / 255)
    assert new_image.shape == image.shape
    assert new_mask.shape == mask.shape
    for values in (new_image, new_mask):
        assert values.dtype == torch.float32
        assert values.min() >= -1e-6
        assert values.max() <= 1 + 1e-6


def test_what_is_given_stays_as_it_is() -> None:
    image, mask = noise(8), disc(9, count=8)
    before = image.clone(), mask.clone()
    augment(image, mask, STRONG, padding=0.5)
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


# --- chance --------------------------------------------------------------------------------------


def test_without_strength_only_the_flip_is_left() -> None:
    image, mask = noise(), disc(9, 10, 4)
    new_image, new_mask = augment(image, mask, NONE, padding=0.5)
    flipped = 0
    for before, after, mask_before, mask_after in zip(image, new_image, mask, new_mask, strict=True):
        is_flipped = not torch.allclose(after, before, atol=1e-4)
        turned = [t.flip(-1) if is_flipped else t for t in (before, mask_before)]
        torch.testing.assert_close(after, turned[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(mask_after, turned[1], rtol=0, atol=1e-4)
        flipped += is_flipped
    assert 18 <= flipped <= 46  # 32 expected, 3.5 standard deviations to either side


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


@pytest.mark.parametrize("name", ["hair", "ruler", "blur"])
def test_a_probability_is_the_share_of_images_changed(name: str) -> None:
    image, mask = torch.rand(1, 3, 32, 32).expand(400, 3, 32, 32), torch.zeros(400, 1, 32, 32)
    upright, mirrored = image[0], image[0].flip(-1)
    for probability, low, high in ((0.0, 0, 0), (0.25, 60, 140)):
        result = augment(image, mask, only(**{name: probability}), padding=0.5)[0]
        changed = [min((one - upright).abs().max(), (one - mirrored).abs().max()) > 0.01 for one in result]
        assert low <= sum(changed) <= high


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
