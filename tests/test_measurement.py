"""Drawn shapes are sampled 4 x 4 per pixel and taken where at least half a pixel is covered, so their borders lie
within half a pixel of the true ones; that, and the corners that smoothing rounds, is what the tolerances are for."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import pdist

from dermseg import measurement
from dermseg.errors import InputError
from dermseg.measurement import LEAST_SHARE, REFERENCE_COLOURS, SIDE, Measurements, check_scale, measure

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
BROWN = (140, 90, 60)
ANGLES = range(0, 91, 15)


def drawn(
    inside: Inside, angle: float = 0, size: int = 240, centre: tuple[float, float] = (0.3, -0.2), fine: int = 4
) -> np.ndarray:
    """Where a shape given about (0, 0), turned by degrees, covers at least half of a pixel; centre: off the middle."""
    place = (np.arange(size * fine, dtype=np.float32) + 0.5) / fine - size / 2
    x, y = np.meshgrid(place - centre[0], place - centre[1])
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    covered = inside(cosine * x + sine * y, cosine * y - sine * x).astype(np.float32)
    return cv2.resize(covered, (size, size), interpolation=cv2.INTER_AREA) >= 0.5


def ellipse(a: float, b: float) -> Inside:
    return lambda x, y: (x / a) ** 2 + (y / b) ** 2 <= 1


def rectangle(a: float, b: float) -> Inside:
    """Of half sides."""
    return lambda x, y: (abs(x) <= a) & (abs(y) <= b)


def triangle(base: float, height: float) -> Inside:
    """Isosceles, its centroid at (0, 0) and its axis along y."""
    return lambda x, y: (y >= -height / 3) & (abs(x) <= base / 2 * (2 * height / 3 - y) / height)


def half_disc(radius: float) -> Inside:
    return lambda x, y: (x * x + y * y <= radius**2) & (y >= 0)


def plain(shape: tuple[int, ...], colour: tuple[int, int, int] = BROWN) -> np.ndarray:
    return np.full((*shape[:2], 3), colour, np.uint8)


def of(mask: np.ndarray, mm_per_pixel: float | None = None) -> Measurements:
    measurements = measure(plain(mask.shape), mask, mm_per_pixel)
    assert measurements is not None
    return measurements


def painted(*patches: tuple[tuple[float, float, float], int]) -> np.ndarray:
    """RGB columns of CIELAB colours, each as many pixels wide as said."""
    lab = np.repeat(np.array([colour for colour, _ in patches], np.float32), [width for _, width in patches], axis=0)
    rgb = cv2.cvtColor(np.tile(lab, (40, 1, 1)), cv2.COLOR_LAB2RGB)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("radius", [4, 10, 30, 100])
def test_disc(radius: float) -> None:
    found = of(drawn(ellipse(radius, radius)))

    assert found.area == pytest.approx(math.pi * radius**2, rel=0.1 / radius)
    assert found.equivalent_diameter == pytest.approx(2 * radius, rel=0.1 / radius)
    assert found.perimeter == pytest.approx(2 * math.pi * radius, rel=0.015)
    assert 0.97 < found.compactness <= 1
    assert 2 * radius - 0.5 <= found.maximum_diameter <= 2 * radius + math.sqrt(2)
    assert found.eccentricity < math.sqrt(0.5 / radius)  # axes that differ by half a pixel or less
    assert max(found.asymmetry) < 0.25 / radius
    assert irregularity(found) < 0.2 / radius
    assert (found.components, found.touches_border) == (1, False)


@pytest.mark.parametrize("angle", ANGLES)
def test_ellipse(angle: float) -> None:
    a, b = 80, 40
    found = of(drawn(ellipse(a, b), angle))
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))  # Ramanujan, to 1e-7 here

    assert found.area == pytest.approx(math.pi * a * b, rel=0.004)
    assert found.perimeter == pytest.approx(perimeter, rel=0.015)
    assert found.compactness == pytest.approx(4 * math.pi * math.pi * a * b / perimeter**2, rel=0.03)
    assert 2 * a - 0.5 <= found.maximum_diameter <= 2 * a + math.sqrt(2)
    assert found.eccentricity == pytest.approx(math.sqrt(1 - (b / a) ** 2), abs=0.002)
    assert max(found.asymmetry) < 0.01
    assert irregularity(found) < 0.01  # an ellipse is as regular as a disc


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("a", "b"), [(70, 35), (80, 20)])
def test_rectangle(a: float, b: float, angle: float) -> None:
    found = of(drawn(rectangle(a, b), angle))
    # In the coordinates of its moments a rectangle is a square; along a side of 2 from its middle the distance is
    # sqrt(1 + t^2), of mean (sqrt(2) + asinh(1)) / 2 and mean square 4 / 3.
    mean = (math.sqrt(2) + math.asinh(1)) / 2

    assert found.area == pytest.approx(4 * a * b, rel=0.02)
    assert found.perimeter == pytest.approx(4 * (a + b), rel=0.02)
    assert found.maximum_diameter == pytest.approx(2 * math.hypot(a, b), abs=1.5)
    assert found.eccentricity == pytest.approx(math.sqrt(1 - (b / a) ** 2), abs=0.003)
    assert max(found.asymmetry) < 0.02
    assert found.border_irregularity == pytest.approx(math.sqrt(4 / 3 - mean**2) / mean, abs=0.006)


@pytest.mark.parametrize("angle", ANGLES)
def test_triangle(angle: float) -> None:
    base, height = 70, 130
    found = of(drawn(triangle(base, height), angle))
    # Variances of a triangle about its centroid: along its axis h^2 / 18, across b^2 / 24.
    # Mirrored about the line through its centroid along its base, it reaches a third of the height to either side of
    # that line, where the widths on the tip's side are the narrower ones and all of them count twice.
    tip = (2 / 3) ** 2 - (1 / 3) ** 2  # of the area, between one and two thirds of the height from the tip

    assert found.area == pytest.approx(base * height / 2, rel=0.01)
    assert found.perimeter == pytest.approx(base + 2 * math.hypot(base / 2, height), rel=0.025)
    assert found.eccentricity == pytest.approx(math.sqrt(1 - (base**2 / 24) / (height**2 / 18)), abs=0.005)
    assert found.asymmetry == pytest.approx((0, 1 - 2 * tip), abs=0.02)


@pytest.mark.parametrize("angle", ANGLES)
def test_half_disc(angle: float) -> None:
    found = of(drawn(half_disc(90), angle))
    # About its axis it is symmetric. About the other, parallel to the diameter through the centroid at c, what is
    # beyond c up to 2 c has the narrower widths 2 sqrt(1 - y^2), so the overlap is twice its area, of pi / 2.
    c = 4 / (3 * math.pi)
    below = [y * math.sqrt(1 - y * y) + math.asin(y) for y in (c, 2 * c)]

    assert found.asymmetry == pytest.approx((1 - 2 * (below[1] - below[0]) / (math.pi / 2), 0), abs=0.01)
    assert found.perimeter == pytest.approx(90 * (2 + math.pi), rel=0.015)


def irregularity(found: Measurements) -> float:
    assert found.border_irregularity is not None
    return found.border_irregularity


def test_irregularity_rises_with_the_border() -> None:
    def star(depth: float) -> Inside:
        return lambda x, y: np.hypot(x, y) <= 70 * (1 + depth * np.cos(7 * np.arctan2(y, x)))

    found = [of(drawn(star(depth))) for depth in (0, 0.1, 0.2, 0.3)]

    assert np.all(np.diff([irregularity(each) for each in found]) > 0.03)
    assert np.all(np.diff([each.compactness for each in found]) < -0.05)


def blob(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Neither symmetric nor convex."""
    angle = np.arctan2(y, x)
    inside: np.ndarray = np.hypot(x / 1.4, y) <= 50 * (1 + 0.2 * np.cos(2 * angle + 0.4) + 0.15 * np.sin(3 * angle))
    return inside


def values(found: Measurements) -> np.ndarray:
    shape = (found.compactness, found.eccentricity, *found.asymmetry, irregularity(found))
    return np.array([*shape, found.equivalent_diameter / 100, found.maximum_diameter / 100])


@pytest.mark.parametrize("angle", ANGLES)
def test_turning_changes_nothing(angle: float) -> None:
    assert values(of(drawn(blob, angle))) == pytest.approx(values(of(drawn(blob))), abs=0.015)


def test_quarter_turns_and_mirror_images_are_exact() -> None:
    mask = drawn(blob)
    for other in (np.rot90(mask), np.rot90(mask, 2), mask[::-1], mask[:, ::-1], mask.T):
        assert values(of(other)) == pytest.approx(values(of(mask)), abs=1e-4)


@pytest.mark.parametrize("factor", [2, 5, 11])
def test_an_enlarged_mask_has_the_same_shape(factor: int) -> None:
    mask = drawn(blob)
    large = cv2.resize(mask.view(np.uint8), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST).astype(bool)
    assert max(large.shape) > SIDE or factor == 2
    small, found = of(mask), of(large)

    assert found.area == factor**2 * small.area
    assert found.maximum_diameter == pytest.approx(factor * small.maximum_diameter)
    assert found.perimeter == pytest.approx(factor * small.perimeter, rel=0.05)  # up to 512 pixels steps are seen
    for name in ("eccentricity", "asymmetry", "border_irregularity"):
        assert getattr(found, name) == pytest.approx(getattr(small, name), abs=0.01)


@pytest.mark.parametrize("size", [480, 840])
def test_a_finer_picture_has_the_same_shape(size: int) -> None:
    scale = size / 240
    centre = (0.3 * scale, -0.2 * scale)
    found = of(drawn(lambda x, y: blob(x / scale, y / scale), size=size, centre=centre, fine=2))
    expected = values(of(drawn(blob)))
    expected[-2:] *= scale
    assert values(found) == pytest.approx(expected, rel=0.02, abs=0.005)


def test_one_pixel() -> None:
    mask = np.zeros((9, 12), bool)
    mask[4, 7] = True
    found = of(mask)

    assert (found.area, found.components, found.touches_border) == (1, 1, False)
    assert found.maximum_diameter == pytest.approx(math.sqrt(2))
    assert (found.eccentricity, found.border_irregularity, found.compactness) == (0, 0, 1)
    assert found.perimeter == pytest.approx(2 * math.sqrt(math.pi))
    assert found.asymmetry == pytest.approx((0, 0), abs=1e-6)


def test_a_line_one_pixel_wide() -> None:
    mask = np.zeros((9, 120), bool)
    mask[4, 10:110] = True
    found = of(mask)

    assert found.perimeter == pytest.approx(202, rel=0.02)
    assert found.maximum_diameter == pytest.approx(math.hypot(100, 1))
    assert found.eccentricity == pytest.approx(math.sqrt(1 - 1 / 100**2))


def test_the_whole_image() -> None:
    found = of(np.ones((60, 120), bool))

    assert found.touches_border
    assert found.area == 7200
    assert found.perimeter == pytest.approx(360, rel=0.02)
    assert found.maximum_diameter == pytest.approx(math.hypot(60, 120))
    assert found.asymmetry == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("edge", [np.s_[0, 5], np.s_[-1, 5], np.s_[5, 0], np.s_[5, -1]])
def test_one_pixel_at_an_edge_touches_it(edge: Any) -> None:
    mask = np.zeros((11, 13), bool)
    mask[3:6, 3:6] = True
    assert not of(mask).touches_border
    mask[edge] = True
    assert of(mask).touches_border


def test_components_are_one_lesion() -> None:
    one = drawn(ellipse(20, 20), size=80)
    pair = np.hstack([one, one])
    found = of(pair)

    assert found.components == 2
    assert found.area == 2 * of(one).area
    assert found.perimeter == pytest.approx(2 * of(one).perimeter)
    assert found.maximum_diameter == pytest.approx(80 + 40, abs=1.5)
    assert found.asymmetry == pytest.approx((0, 0), abs=0.02)
    assert irregularity(found) > 0.2
    # Variance r^2 / 4 of each disc, and their centres 40 from the centroid.
    assert found.eccentricity == pytest.approx(math.sqrt(1 - 100 / (100 + 40**2)), abs=0.002)


def test_specks_have_each_its_border() -> None:
    mask = np.random.default_rng(0).random((300, 300)) > 0.98
    found = of(mask)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    bounds = []
    for label, part in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = np.nonzero(labels[part] == label)
        corners = np.concatenate([np.stack([rows + i, columns + j], 1) for i in (0, 1) for j in (0, 1)])
        bounds.append(max(2 * math.sqrt(math.pi * len(rows)), 2 * pdist(corners).max()))

    assert (len(bounds), found.components) == (count, count)
    assert found.perimeter == pytest.approx(sum(bounds), rel=0.005)
    assert found.perimeter > 5900
    assert found.perimeter <= sum(bounds) * (1 + 1e-9)
    assert found.compactness < 0.001
    assert found.border_irregularity is None
    assert found.to_dict()["border_irregularity"] is None


@pytest.mark.parametrize("angle", range(0, 180, 11))
def test_hairlines_go_there_and_back(angle: float) -> None:
    """Of two lines too thin for a border, the length is twice that of each, in whatever direction they run."""
    line = np.zeros((120, 120), np.uint8)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    ends = [(round(60 + way * 50 * cosine), round(60 + way * 50 * sine)) for way in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1)
    one = line.astype(bool)
    pair = of(np.hstack([one, one]))

    assert pair.components == 2
    # No component's diameter is more than 0.5 % too small.
    assert pair.perimeter >= 2 * 2 * of(one).maximum_diameter * math.cos(math.pi / 32)


def test_tens_of_thousands_of_specks_are_measured() -> None:
    mask = np.zeros((1200, 1200), bool)
    mask[::4, ::4] = mask[::4, 1::4] = True
    found = of(mask)
    assert found.components == 300 * 300
    assert found.perimeter == pytest.approx(300 * 300 * 2 * math.sqrt(2 * math.pi))
    assert found.border_irregularity is None


def test_pixels_that_share_a_corner_are_one_component() -> None:
    assert of(np.eye(5, dtype=bool)).components == 1
    assert of(np.array([[True, False, True]])).components == 2


def test_a_hole_is_no_lesion() -> None:
    ring = drawn(lambda x, y: (np.hypot(x, y) <= 80) & (np.hypot(x, y) >= 40))
    found = of(ring)

    assert found.area == pytest.approx(math.pi * (80**2 - 40**2), rel=0.005)
    assert found.perimeter == pytest.approx(2 * math.pi * (80 + 40), rel=0.015)
    # Two thirds of the border are at twice the distance of the rest: mean 5 / 3, variance 2 / 9.
    assert found.border_irregularity == pytest.approx(math.sqrt(2 / 9) / (5 / 3), abs=0.005)
    assert found.components == 1


def test_lengths_in_millimetres() -> None:
    mask = drawn(ellipse(50, 30))
    found, unknown = of(mask, 0.02), of(mask)

    assert found.area_mm2 == pytest.approx(found.area * 0.0004)
    assert found.perimeter_mm == pytest.approx(found.perimeter * 0.02)
    assert found.maximum_diameter_mm == pytest.approx(2.0, abs=0.03)
    assert found.equivalent_diameter_mm == pytest.approx(math.sqrt(4 * 50 * 30) * 0.02, rel=0.002)
    assert dataclasses.replace(found, mm_per_pixel=None) == unknown
    scaled = ("area_mm2", "perimeter_mm", "maximum_diameter_mm", "equivalent_diameter_mm", "mm_per_pixel")
    assert [unknown.to_dict()[name] for name in scaled] == [None] * 5


def test_each_reference_is_its_own_colour() -> None:
    for name, colour in REFERENCE_COLOURS.items():
        pixels = painted((colour, 50))
        found = measure(pixels, np.ones((40, 50), bool))
        assert found is not None
        assert found.colours == {each: pytest.approx(float(each == name)) for each in REFERENCE_COLOURS}
        assert found.colours_present == (name,)
        assert found.colour_variegation == pytest.approx((0, 0, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((250, 245, 240), "white"),
        ((200, 60, 70), "red"),
        ((190, 135, 90), "light brown"),
        ((200, 150, 120), "light brown"),
        ((100, 60, 40), "dark brown"),
        ((90, 105, 125), "blue-grey"),
        ((20, 15, 15), "black"),
    ],
)
def test_colours_have_the_names_one_would_give_them(rgb: tuple[int, int, int], name: str) -> None:
    found = measure(plain((20, 20), rgb), np.ones((20, 20), bool))
    assert found is not None
    assert found.colours_present == (name,)


def test_painted_patches_are_counted() -> None:
    widths = dict(zip(REFERENCE_COLOURS, (40, 6, 80, 60, 4, 10), strict=True))  # of 200; red 3 %, blue-grey 2 %
    pixels = painted(*((REFERENCE_COLOURS[name], width) for name, width in widths.items()))
    mask = np.ones((40, 200), bool)
    found = measure(pixels, mask)
    assert found is not None

    assert found.colours == pytest.approx({name: width / 200 for name, width in widths.items()})
    assert widths["black"] / 200 == LEAST_SHARE
    assert found.colours_present == ("white", "light brown", "dark brown", "black")


def test_what_is_outside_has_no_colour() -> None:
    pixels = painted((REFERENCE_COLOURS["black"], 30), (REFERENCE_COLOURS["white"], 30))
    mask = np.zeros((40, 60), bool)
    mask[5:30, 3:30] = True
    found = measure(pixels, mask)
    assert found is not None
    assert found.colours_present == ("black",)


def test_variegation_is_the_spread_of_lab() -> None:
    pixels = painted(((40, 10, 10), 30), ((60, 20, 10), 30))
    found = measure(pixels, np.ones((40, 60), bool))
    assert found is not None
    assert found.colour_variegation == pytest.approx((0.1, 0.05, 0), abs=0.003)  # 8 bits of RGB


@pytest.mark.parametrize("scale", [(1, 4), (4, 1), (1, 1)])
def test_pixels_may_be_smaller_or_larger_than_the_mask(scale: tuple[int, int]) -> None:
    pixels = painted((REFERENCE_COLOURS["black"], 20), (REFERENCE_COLOURS["red"], 60)).repeat(scale[0], 0)
    pixels = pixels.repeat(scale[0], 1)
    mask = np.ones((40 * scale[1], 80 * scale[1]), bool)
    found = measure(pixels, mask)
    assert found is not None
    assert found.area == mask.size
    assert found.colours["black"] == pytest.approx(0.25)
    assert found.colours["red"] == pytest.approx(0.75)


def test_a_reduced_jpeg_may_have_a_pixel_more() -> None:
    assert measure(plain((76, 101)), np.ones((601, 801), bool)) is not None


def test_a_pixel_of_a_mask_far_larger_than_its_image_is_measured() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[1234, 777] = True
    found = measure(plain((3, 3), (20, 15, 15)), mask)
    assert found is not None
    assert (found.area, found.colours_present) == (1, ("black",))


def test_parts_far_apart_in_a_large_mask_are_measured() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[0, 0] = mask[-1, -1] = True
    found = of(mask)
    assert (found.area, found.components) == (2, 2)
    assert found.maximum_diameter == pytest.approx(5000)


def test_an_empty_mask_has_no_measurements() -> None:
    assert measure(plain((8, 9)), np.zeros((8, 9), bool)) is None


@pytest.mark.parametrize(
    ("pixels", "mask", "mm_per_pixel", "words"),
    [
        (plain((8, 9)), np.ones((8, 9), np.uint8), None, r"mask is uint8 \(8, 9\) where bool \(H, W\)"),
        (plain((8, 9)), np.ones((8, 9, 1), bool), None, r"mask is bool \(8, 9, 1\)"),
        (plain((8, 9)), np.ones((0, 9), bool), None, r"mask is bool \(0, 9\)"),
        (np.zeros((8, 9), np.uint8), np.ones((8, 9), bool), None, r"pixels are uint8 \(8, 9\) where uint8"),
        (np.zeros((8, 9, 4), np.uint8), np.ones((8, 9), bool), None, r"pixels are uint8 \(8, 9, 4\)"),
        (np.zeros((8, 9, 3)), np.ones((8, 9), bool), None, r"pixels are float64 \(8, 9, 3\)"),
        (plain((60, 80)), np.ones((80, 60), bool), None, "pixels of 60 x 80 and a mask of 80 x 60 are not of one"),
        (
            plain((8, 9)),
            np.ones((8, 9), bool),
            0,
            "mm_per_pixel is 0; expected a length of 0.000001 to 1000 millimetres",
        ),
        (plain((8, 9)), np.ones((8, 9), bool), 1e200, r"mm_per_pixel is 1e\+200; expected"),
        (plain((8, 9)), np.ones((8, 9), bool), 1e-200, "mm_per_pixel is 1e-200; expected"),
        (plain((8, 9)), np.ones((8, 9), bool), -0.1, "mm_per_pixel is -0.1"),
        (plain((8, 9)), np.ones((8, 9), bool), math.nan, "mm_per_pixel is nan"),
        (plain((8, 9)), np.zeros((8, 9), bool), math.inf, "mm_per_pixel is inf"),
    ],
)
def test_wrong_arguments(pixels: np.ndarray, mask: np.ndarray, mm_per_pixel: float | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure(pixels, mask, mm_per_pixel)


@pytest.mark.parametrize("length", [0, -0.1, 0.99e-6, 1000.1, 1e200, 1e-200, math.nan, math.inf])
def test_a_scale_that_no_picture_has_is_refused(length: float) -> None:
    with pytest.raises(InputError) as caught:
        check_scale(length)
    assert str(caught.value) == f"mm_per_pixel is {length}; expected a length of 0.000001 to 1000 millimetres"


@pytest.mark.parametrize("length", [None, 1e-6, 0.02, 1000])
def test_scales_are_taken(length: float | None) -> None:
    check_scale(length)
    found = of(np.ones((8, 9), bool), length)
    assert found.area_mm2 == (None if length is None else pytest.approx(72 * length**2))


def test_to_dict_is_plain_and_complete() -> None:
    found = of(drawn(blob), 0.05)
    plain_values = found.to_dict()

    assert json.loads(json.dumps(plain_values, allow_nan=False)) == plain_values
    assert plain_values["asymmetry"] == {"major_axis": found.asymmetry[0], "minor_axis": found.asymmetry[1]}
    assert list(plain_values["colours"]) == list(REFERENCE_COLOURS)
    assert plain_values["area_mm2"] == pytest.approx(found.area * 0.0025)
    assert hash(found) == hash(of(drawn(blob), 0.05))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(np.any),
    st.integers(0, 2**32 - 1),
)
def test_any_mask(mask: np.ndarray, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), np.uint8)
    found = measure(pixels, mask)
    assert found is not None
    rows, columns = np.nonzero(mask)

    assert found.area == len(rows)
    assert found.components == ndimage.label(mask, np.ones((3, 3)))[1]
    corners = np.unique(np.concatenate([np.stack([rows + i, columns + j], 1) for i in (0, 1) for j in (0, 1)]), axis=0)
    assert found.maximum_diameter == pytest.approx(pdist(corners).max())
    moments = np.atleast_2d(np.cov(np.stack([rows, columns]), bias=True)) + np.eye(2) / 12
    low, high = np.linalg.eigvalsh(moments)
    assert found.eccentricity**2 == pytest.approx(1 - low / high, abs=1e-4)
    assert 0 < found.compactness <= 1
    assert 0 <= min(found.asymmetry) <= max(found.asymmetry) <= 1
    if found.border_irregularity is None:
        assert found.components > 1
    else:
        assert 0 <= found.border_irregularity < 5
    assert sum(found.colours.values()) == pytest.approx(1)
    assert len(found.colours_present) >= 1
    assert 0 <= min(found.colour_variegation) <= max(found.colour_variegation) <= 1.1
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_chequerboard_is_measured() -> None:
    found = of(np.indices((40, 40)).sum(axis=0) % 2 == 0)
    assert found.components == 1
    assert math.isfinite(found.perimeter)


def test_the_result_does_not_depend_on_how_the_arrays_lie_in_memory() -> None:
    mask = drawn(blob)
    pixels = np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), np.uint8)
    assert measure(np.asfortranarray(pixels), np.asfortranarray(mask)) == measure(pixels, mask)
    assert measure(pixels[::-1, ::-1], mask[::-1, ::-1]) == measure(pixels[::-1, ::-1].copy(), mask[::-1, ::-1].copy())


@pytest.mark.parametrize("shape", [(3, 500), (500, 3), (7, 900), (900, 9), (40, 50)])
def test_a_strip_is_reduced_like_any_other_image(shape: tuple[int, int]) -> None:
    factor, image = 16, np.random.default_rng(0).random(shape).astype(np.float32)
    padded = np.pad(image, [(0, -side % factor) for side in shape])
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    assert measurement._reduced(image, factor, cv2.BORDER_CONSTANT) == pytest.approx(blocks.mean(axis=(1, 3)), abs=1e-6)


def test_a_strip_of_a_million_pixels_is_measured() -> None:
    # Padded to multiples of the factor before it is reduced, it would take some 8 GB.
    found = measure(np.full((1, 1_000_000, 3), 90, np.uint8), np.ones((1, 1_000_000), np.bool_))
    assert found is not None
    assert found.area == 1_000_000
    assert found.perimeter == pytest.approx(2_000_000)
