"""Robustness: each change does to image and mask what its name says, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dermseg import robustness, synthetic
from dermseg.robustness import STEPS, changed, changes

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
NAMES = tuple(changes())


@pytest.fixture(scope="module")
def picture() -> tuple[Pixels, Mask]:
    drawn = synthetic.draw(3, (96, 128))
    return drawn.pixels, drawn.mask


def disc(height: int = 80, width: int = 100, y: int = 40, x: int = 50, radius: int = 20) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    inside: Mask = np.hypot(rows - y, columns - x) <= radius
    return inside


def shown(mask: Mask) -> Pixels:
    """A picture of which each pixel tells whether it is of the lesion."""
    return np.repeat(np.where(mask, 40, 200).astype(np.uint8)[..., None], 3, axis=2)


def made(mask: Mask, **steps: dict[str, float]) -> tuple[Pixels, Mask]:
    pair = changed(shown(mask), mask, steps, 0)
    assert pair is not None
    return pair


@pytest.mark.parametrize("name", NAMES)
def test_each_change_can_be_made_and_is_the_same_each_time(name: str, picture: tuple[Pixels, Mask]) -> None:
    first, again, other = (changed(*picture, changes()[name], seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first[0].shape == (*first[1].shape, 3)
    assert [array.dtype.name for array in first] == ["uint8", "bool"]
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    random = not np.array_equal(first[0], other[0])
    assert random == (name in ("noise", "hair and ruler", "lesion at the border"))
    assert not np.array_equal(first[0], picture[0])


def test_every_step_is_used() -> None:
    assert {step for steps in changes().values() for step in steps} == set(STEPS)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("hair and ruler", "noise")])
def test_image_and_mask_stay_together(name: str) -> None:
    """Of a picture in which brightness tells the lesion, it still does, but for a seam where pixels were mixed."""
    mask = disc()
    pair = changed(shown(mask), mask, changes()[name], 0)
    assert pair is not None
    assert (((pair[0].mean(axis=2) < pair[0].mean()) == pair[1]).mean()) > 0.97


def test_a_turn_by_a_right_angle_moves_whole_pixels() -> None:
    mask = disc(x=30)
    image, turned = made(mask, rotate={"degrees": 90})
    assert np.array_equal(turned, np.rot90(mask))
    assert np.array_equal(image, np.rot90(shown(mask)))


def test_skin_alone_surrounds_the_picture() -> None:
    mask = disc(y=36, x=42)
    image, wider = made(mask, surround={"factor": 2, "margin": 0.03})
    assert wider.shape == (160, 200)
    assert np.array_equal(wider[40:120, 50:150], mask)
    assert wider.sum() == mask.sum()
    assert np.array_equal(image[..., 0] < 100, wider)


def test_where_there_is_no_skin_to_mirror_nothing_is_made() -> None:
    for mask in (disc(y=20), np.zeros((80, 100), bool)):
        assert changed(shown(mask), mask, {"surround": {"factor": 2, "margin": 0.03}}, 0) is None


def test_the_border_cuts_off_its_share() -> None:
    mask = disc(200, 200, 100, 100, 50)
    for seed in range(8):
        pair = changed(shown(mask), mask, {"cut": {"share": 0.3}}, seed)
        assert pair is not None
        cut = pair[1]
        assert cut[:, 0].any()
        assert np.flatnonzero(cut.any(axis=0))[-1] == pytest.approx(0.7 * 101, abs=1)


def test_zooming_in_keeps_the_lesion_in_the_middle_and_makes_it_larger() -> None:
    mask = disc(200, 240, 80, 150, 20)
    _, larger = made(mask, zoom_in={"factor": 2})
    assert larger.shape == mask.shape
    assert larger.sum() == pytest.approx(4 * mask.sum(), rel=0.02)
    rows, columns = np.nonzero(larger)
    assert (rows.mean(), columns.mean()) == (pytest.approx(100, abs=1), pytest.approx(120, abs=1))


def test_gain_is_a_factor_of_each_channel() -> None:
    image = np.full((4, 4, 3), (100, 200, 50), np.uint8)
    pair = robustness.gain(image, disc(4, 4, 2, 2, 1), np.random.default_rng(0), red=1.15, green=1.5, blue=0.5)
    assert pair is not None
    assert pair[0][0, 0].tolist() == [115, 255, 25]


def test_noise_has_its_deviation() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    pair = robustness.noise(image, disc(64, 64, 30, 30, 9), np.random.default_rng(0), deviation=0.06)
    assert pair is not None
    assert np.std(pair[0].astype(float)) == pytest.approx(0.06 * 255, rel=0.03)
