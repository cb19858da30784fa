import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dermseg.appearance import (
    SKIN_TONE_LIMITS,
    SKIN_TONES,
    hair_mask,
    look,
    ruler_mask,
    skin_tone,
    vignette_mask,
)
from dermseg.errors import InputError
from dermseg.imaging import open_image
from dermseg.synthetic import draw

SIZE = (192, 256)
SKIN = (214, 176, 154)
Line = tuple[np.ndarray, np.ndarray, float]
MASKS = [hair_mask, ruler_mask, vignette_mask]
Find = Callable[[np.ndarray], np.ndarray]
Kind = Callable[..., list[Any]]


def skin(size: tuple[int, int] = SIZE, colour: tuple[int, int, int] = SKIN) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def photograph(seed: int, hairs: int = 0, vignette: bool = False, tone: float | None = 0.1) -> np.ndarray:
    return draw(seed, SIZE, hairs=hairs, bubbles=0, vignette=vignette, tone=tone).pixels


def strokes(pixels: np.ndarray, lines: list[Line]) -> np.ndarray:
    """The picture with black strokes, given by their ends as x, y and width where its longer side has 256 pixels."""
    scale, fine = max(pixels.shape) / 256, 8
    layer = np.zeros((pixels.shape[0] * fine, pixels.shape[1] * fine), np.uint8)
    for *ends, width in lines:
        start, end = (np.rint(point * scale * fine).astype(int).tolist() for point in ends)
        cv2.line(layer, start, end, 255, round(width * scale * fine))
    ink = cv2.resize(layer, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] / 255
    return np.rint(pixels * (1 - 0.85 * ink)).astype(np.uint8)


def axes(angle: float) -> tuple[np.ndarray, np.ndarray]:
    along = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    return along, np.array([-along[1], along[0]])


def ticks(middle: tuple[float, float], angle: float, count: int = 6) -> list[Line]:
    """Separate ticks across a direction in degrees, every fifth twice as long."""
    along, across = axes(angle)
    feet = [np.array(middle) + along * 15 * (k - (count - 1) / 2) for k in range(count)]
    return [(foot, foot + across * (18 if k % 5 == 2 else 9), 1.5) for k, foot in enumerate(feet)]


def scale_bar(middle: tuple[float, float], angle: float) -> list[Line]:
    """A line of 10 mm with finer teeth at each half of one."""
    along, across = axes(angle)
    start = np.array(middle) - along * 53
    teeth = [(start + along * 5.3 * k, start + along * 5.3 * k + across * (4 if k % 2 else 7), 0.5) for k in range(21)]
    return [(start, start + along * 106, 1.5), *teeth]


def lab(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """CIELAB, D65, of an sRGB colour: IEC 61966-2-1 and CIE 15, step by step."""
    red, green, blue = ((c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in np.array(colour) / 255)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = ((t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29) for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("find", MASKS)
@settings(max_examples=30, deadline=None)
@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_a_mask_is_the_images_size_and_the_image_stays(find: Find, pixels: np.ndarray) -> None:
    before = pixels.copy()
    pixels.setflags(write=False)
    mask = find(pixels)
    assert mask.shape == pixels.shape[:2]
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("find", MASKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (40, 30), SIZE, (700, 500)])
def test_plain_skin_has_no_hair_no_ruler_and_no_vignette(find: Find, size: tuple[int, int]) -> None:
    assert not find(skin(size)).any()


@pytest.mark.parametrize("find", [hair_mask, ruler_mask])
def test_other_arrays_are_refused(find: Find) -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match=r"^pixels are \w+ \(.*\) where uint8 \(H, W, 3\) is expected$"):
            find(wrong)


def test_more_hair_is_more_coverage() -> None:
    coverage = [np.mean([hair_mask(photograph(seed, hairs)).mean() for seed in range(3)]) for hairs in (0, 3, 8, 16)]
    assert coverage[0] < 0.03  # the lesion's own lines
    assert all(fewer + 0.01 < more for fewer, more in itertools.pairwise(coverage))


def test_hair_lies_where_it_was_drawn() -> None:
    for seed in range(3):
        hairy, bare = photograph(seed, 10), photograph(seed)
        drawn = np.abs(hairy.astype(int) - bare).max(axis=2) > 25
        found = hair_mask(hairy) & ~hair_mask(bare)
        assert hair_mask(hairy)[drawn].mean() > 0.7
        near = cv2.dilate(drawn.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        assert near[found].mean() > 0.9


def test_a_vignette_is_found_where_the_field_ends() -> None:
    for seed in range(3):
        found = vignette_mask(photograph(seed, vignette=True))
        assert found[[0, 0, -1, -1], [0, -1, 0, -1]].all()
        assert not found[40:-40, 60:-60].any()
        assert not vignette_mask(photograph(seed)).any()


@pytest.mark.parametrize("kind", [ticks, scale_bar])
@pytest.mark.parametrize("angle", [0, 8, 30, 45, 78, 90, 120, 155])
def test_a_ruler_is_found_at_every_angle_and_nothing_else(kind: Kind, angle: float) -> None:
    noise = np.random.default_rng(0).normal(0, 2, (*SIZE, 1))
    bare = np.rint(skin() + noise).astype(np.uint8)
    pixels = strokes(bare, kind((128, 96.5), angle))
    drawn = (pixels != bare).any(axis=2)
    found = ruler_mask(pixels)
    assert found[drawn].mean() > 0.75
    near = cv2.dilate(drawn.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool)
    assert near[found].mean() > 0.95


@pytest.mark.parametrize("kind", [ticks, scale_bar])
@pytest.mark.parametrize("scale", [0.5, 2, 3.3])
def test_a_ruler_is_found_at_every_size(kind: Kind, scale: float) -> None:
    size = round(SIZE[0] * scale), round(SIZE[1] * scale)
    pixels = strokes(draw(7, size, hairs=0, bubbles=0, vignette=False, tone=0.1).pixels, kind((128, 150), 10))
    found = ruler_mask(pixels)
    assert found.shape == size
    assert 0.004 < found.mean() < 0.03
    assert not found[: round(100 * scale)].any()


@pytest.mark.parametrize("seed", range(12))
def test_hairs_and_lesions_are_no_rulers(seed: int) -> None:
    assert not ruler_mask(photograph(seed, hairs=3 * (seed % 5), vignette=seed % 2 == 0)).any()


@pytest.mark.parametrize(
    "lines",
    [
        ticks((128, 150), 5, count=2),
        scale_bar((128, 150), 5)[:1],
        [line for k, line in enumerate(ticks((128, 150), 5, count=8)) if k in (0, 1, 3, 7)],
        [(foot, foot + axes(50 * k)[0] * 9, 1.5) for k, (foot, *_) in enumerate(ticks((128, 150), 5))],
    ],
    ids=["two ticks", "a line without teeth", "uneven strokes", "strokes that are not parallel"],
)
def test_what_only_resembles_a_ruler_is_none(lines: list[Line]) -> None:
    assert not ruler_mask(strokes(skin(), lines)).any()


def test_a_bent_line_with_teeth_is_no_ruler() -> None:
    bent = []
    for start, end, width in scale_bar((128, 120), 0):
        points = [start + (end - start) * t for t in np.linspace(0, 1, 9)]
        points = [point + np.array([0, 0.003 * (point[0] - 128) ** 2]) for point in points]
        bent += [(*ends, width) for ends in itertools.pairwise(points)]
    assert not ruler_mask(strokes(skin(), bent)).any()


@pytest.mark.parametrize("find", MASKS)
def test_a_turned_image_has_turned_masks(find: Find) -> None:
    pixels = strokes(photograph(2, hairs=6, vignette=True), [*ticks((40, 90), 80), *scale_bar((128, 160), 6)])
    mask, turned = find(pixels), find(np.ascontiguousarray(pixels.transpose(1, 0, 2))).T
    assert mask.any()
    assert (mask & turned).sum() / (mask | turned).sum() > 0.85


@pytest.mark.parametrize(
    ("colour", "ita", "name"),
    [
        # From the textbook's L* and b*: red 53.24, 67.20; yellow 97.14, 94.48; white 100, 0.
        ((255, 0, 0), 2.76, "brown"),
        ((255, 255, 0), 26.52, "tan"),
        ((255, 255, 255), 90.0, "very light"),
    ],
)
def test_the_angle_of_known_colours(colour: tuple[int, int, int], ita: float, name: str) -> None:
    tone = skin_tone(skin(colour=colour), None)
    assert tone is not None
    assert tone.ita == pytest.approx(ita, abs=0.03)
    assert tone.name == name


@settings(max_examples=60, deadline=None)
@given(colour=st.tuples(*[st.integers(60, 255)] * 3))
def test_the_angle_is_that_of_an_independent_conversion(colour: tuple[int, int, int]) -> None:
    lightness, _, yellow = lab(colour)
    tone = skin_tone(skin((6, 8), colour), None)
    assert tone is not None
    turned = math.radians(tone.ita) - math.atan2(lightness - 50, yellow)
    # Near the grey of L* = 50 the angle turns with the last digit, so it is the way between the colours that counts.
    assert 2 * abs(math.sin(turned / 2)) * math.hypot(lightness - 50, yellow) < 0.3
    limits = (math.inf, *SKIN_TONE_LIMITS, -math.inf)
    below, above = limits[SKIN_TONES.index(tone.name)], limits[SKIN_TONES.index(tone.name) + 1]
    assert above < tone.ita <= below


def test_each_class_has_skin_and_the_names_go_from_light_to_dark() -> None:
    assert SKIN_TONES == ("very light", "light", "intermediate", "tan", "brown", "dark")
    angles = (70, 48, 34, 20, -10, -60)
    for angle, name in zip(angles, SKIN_TONES, strict=True):
        lightness, yellow = 50 + 30 * math.sin(math.radians(angle)), 30 * math.cos(math.radians(angle))
        colour = cv2.cvtColor(np.full((1, 1, 3), (lightness, 5, yellow), np.float32), cv2.COLOR_LAB2RGB)
        tone = skin_tone(np.rint(np.broadcast_to(colour * 255, (40, 50, 3))).astype(np.uint8), None)
        assert tone is not None
        assert (tone.name, round(tone.ita / 3)) == (name, round(angle / 3))


def test_the_skin_is_what_lies_around_the_lesion() -> None:
    alone = skin_tone(skin(), None)
    pixels, lesion = skin(), np.zeros(SIZE, np.uint8)
    cv2.ellipse(pixels, (128, 96), (115, 85), 0, 0, 360, (70, 40, 30), -1)  # more than half of the image
    cv2.ellipse(lesion, (128, 96), (111, 81), 0, 0, 360, 1, -1)  # not quite all of it: its rim is left out, too
    assert skin_tone(pixels, lesion.astype(np.bool_)) == alone
    assert skin_tone(pixels, None) != alone


def test_darker_skin_has_a_smaller_angle() -> None:
    tones = []
    for melanin in (0.0, 0.25, 0.5, 0.75, 1.0):
        image = draw(4, SIZE, hairs=5, bubbles=0, vignette=True, tone=melanin)
        tone = skin_tone(image.pixels, image.mask)
        assert tone is not None
        tones.append(tone)
    assert all(lighter.ita > darker.ita + 5 for lighter, darker in itertools.pairwise(tones))
    assert len({tone.name for tone in tones}) >= 4


def test_without_enough_skin_there_is_no_tone() -> None:
    lesion = np.ones(SIZE, np.bool_)
    assert skin_tone(skin(), lesion) is None
    lesion[:, :11] = False  # one row of it is further away than the margin
    assert skin_tone(skin(), lesion) is None
    lesion[:, :40] = False
    assert skin_tone(skin(), lesion) == skin_tone(skin(), None)
    assert skin_tone(np.zeros((50, 60, 3), np.uint8), None) is None


@pytest.mark.parametrize("wrong", [np.zeros((5, 5), np.bool_), np.zeros(SIZE, np.uint8)])
def test_a_lesion_of_another_kind_is_refused(wrong: np.ndarray) -> None:
    for describe in (skin_tone, look):
        with pytest.raises(InputError, match=r"^lesion is \w+ \(.*\) where bool \(192, 256\) is expected$"):
            describe(skin(), wrong)


@settings(max_examples=20, deadline=None)
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))),
    with_lesion=st.booleans(),
)
def test_a_look_has_shares_and_changes_nothing(pixels: np.ndarray, with_lesion: bool) -> None:
    lesion = pixels[..., 0] > 128 if with_lesion else None
    before = pixels.copy(), None if lesion is None else lesion.copy()
    seen = look(pixels, lesion)
    assert all(0 <= share <= 1 for share in (seen.hair, seen.ruler, seen.vignette, seen.brightness))
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(lesion, before[1])


def test_a_look_says_what_was_drawn() -> None:
    image = draw(2, SIZE, hairs=3, bubbles=0, vignette=True, tone=0.1)
    seen = look(strokes(image.pixels, scale_bar((128, 165), 0)), image.mask)
    assert 0.02 < seen.hair < 0.2
    assert 0.004 < seen.ruler < 0.03
    assert 0.02 < seen.vignette < 0.3
    assert seen.skin_tone is not None
    bare = look(photograph(2), image.mask)
    assert (bare.ruler, bare.vignette) == (0, 0)
    assert bare.hair < 0.03
    assert bare.brightness > 0.4
    assert look(skin(colour=(255, 255, 255))).brightness == 1
    assert look(np.zeros((8, 9, 3), np.uint8)).brightness == 0


@pytest.mark.parametrize("times", [2, 5])
def test_a_look_is_alike_at_every_size(times: int) -> None:
    image = draw(2, SIZE, hairs=8, bubbles=0, vignette=True, tone=0.1)
    large = image.pixels.repeat(times, axis=0).repeat(times, axis=1)
    mask = image.mask.repeat(times, axis=0).repeat(times, axis=1)
    small, seen = look(image.pixels, image.mask), look(large, mask)
    assert dataclasses.asdict(seen) == dataclasses.asdict(small)


def test_rulers_in_real_photographs(data_folder: Path) -> None:
    folder = data_folder / "isic2017" / "ISIC-2017_Training_Data"
    with_ruler = (10060, 10227, 10590, 11208, 11321, 12159, 12508, 12518, 12888, 12901, 13579, 14360)
    without = (2, 31, 66, 182, 303, 372, 8600, 9882, 10443, 14699, 14806)
    for numbers, expected in ((with_ruler, True), (without, False)):
        paths = [path for number in numbers if (path := folder / f"ISIC_{number:07}.jpg").exists()]
        assert len(paths) >= 8
        found = [bool(ruler_mask(open_image(path).pixels()).any()) == expected for path in paths]
        assert sum(found) >= len(found) - 1
