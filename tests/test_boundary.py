"""Distances between outlines: against MONAI and scipy, by hand, and by their properties."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from dermseg.boundary import METRICS, TOLERANCE, measure
from dermseg.errors import InputError

Mask = NDArray[np.bool_]

MASK_PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def empty(height: int, width: int) -> Mask:
    return np.zeros((height, width), np.bool_)


def box(size: tuple[int, int], top: int, left: int, height: int, width: int) -> Mask:
    mask = empty(*size)
    mask[top : top + height, left : left + width] = True
    return mask


def blob(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    """Smooth spots of random share, never empty, often on the image's edge."""
    field = ndimage.gaussian_filter(rng.standard_normal(size), rng.uniform(1, 6))
    return np.asarray(field >= np.quantile(field, rng.uniform(0, 0.98)))


def blobs(count: int, seed: int = 5) -> Iterator[tuple[Mask, Mask]]:
    """Pairs from almost equal to unrelated, none of them empty."""
    rng = np.random.default_rng(seed)
    while count:
        size = tuple(rng.integers(2, 64, size=2))
        mask, truth = blob(rng, size), blob(rng, size)
        if rng.random() < 0.3:
            mask = truth ^ (mask & (rng.random(size) < 0.02))
        if mask.any():
            count -= 1
            yield mask, truth


def by_scipy(mask: Mask, truth: Mask) -> NDArray[np.float64]:
    """The metrics without any of our shortcuts; either mask has pixels."""
    surfaces = [each & ~ndimage.binary_erosion(each) for each in (mask, truth)]
    there = ndimage.distance_transform_edt(~surfaces[1])[surfaces[0]]
    back = ndimage.distance_transform_edt(~surfaces[0])[surfaces[1]]
    tolerance = 0.0075 * math.hypot(*mask.shape) + 1e-9
    precision, recall = np.mean(there <= tolerance), np.mean(back <= tolerance)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    mean = (there.sum() + back.sum()) / (len(there) + len(back))
    return np.array(
        [max(there.max(), back.max()), max(np.percentile(there, 95), np.percentile(back, 95)), mean, f1], np.float64
    )


def by_monai(mask: Mask, truth: Mask) -> list[float]:
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    one, other = (torch.from_numpy(each)[None, None].float() for each in (mask, truth))
    return [
        compute_hausdorff_distance(one, other, include_background=True).item(),
        compute_hausdorff_distance(one, other, include_background=True, percentile=95).item(),
        float(compute_average_surface_distance(one, other, include_background=True, symmetric=True).item()),
    ]


# --- against other implementations -----------------------------------------------------------------


def test_blobs_measure_as_by_scipy() -> None:
    for mask, truth in blobs(400):
        np.testing.assert_allclose(measure(mask, truth), by_scipy(mask, truth), rtol=1e-12)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # within MONAI
def test_blobs_measure_as_by_monai() -> None:
    for mask, truth in blobs(100, seed=6):
        np.testing.assert_allclose(measure(mask, truth)[:3], by_monai(mask, truth), atol=1e-4)  # float32


def test_large_masks_measure_as_by_scipy() -> None:
    rng = np.random.default_rng(1)
    fields = [ndimage.zoom(rng.standard_normal((9, 12)), 60, order=1) for _ in range(2)]
    mask, truth = (field > np.quantile(field, 0.7) for field in fields)
    np.testing.assert_allclose(measure(mask, truth), by_scipy(mask, truth), rtol=1e-12)


def test_distances_across_a_whole_photograph_are_exact() -> None:
    size = (3000, 4000)
    mask, truth = box(size, 0, 0, 1, 1), box(size, 2999, 3999, 1, 1)
    diagonal = math.hypot(2999, 3999)
    np.testing.assert_allclose(measure(mask, truth), [diagonal, diagonal, diagonal, 0], rtol=1e-7)


@given(MASK_PAIRS.filter(lambda pair: pair[0].any() and pair[1].any()))
def test_any_masks_measure_as_by_scipy(pair: tuple[Mask, Mask]) -> None:
    np.testing.assert_allclose(measure(*pair), by_scipy(*pair), rtol=1e-12)


# --- by hand ---------------------------------------------------------------------------------------


def test_two_pixels() -> None:
    assert measure(box((20, 30), 2, 3, 1, 1), box((20, 30), 5, 7, 1, 1)).tolist() == [5, 5, 5, 0]


def test_a_box_in_a_box() -> None:
    """A ring of 5 x 5 around one of 3 x 3: the inner ring's 8 pixels are 1 away; of the outer 16, 4 corners sqrt(2)."""
    inner, outer = box((9, 11), 3, 3, 3, 3), box((9, 11), 2, 2, 5, 5)
    expected = [math.sqrt(2), math.sqrt(2), (8 + 12 + 4 * math.sqrt(2)) / 24, 0]
    assert measure(inner, outer) == pytest.approx(expected)


def test_the_95th_percentile_is_interpolated_and_the_larger_of_both_directions() -> None:
    """A line of 20 pixels and its first 10: half of the line is 1, 2, ... 10 away, the rest is 0."""
    line, half = box((3, 40), 1, 1, 1, 20), box((3, 40), 1, 1, 1, 10)
    assert measure(half, line) == pytest.approx([10, 9.05, 55 / 30, 2 * 0.5 / 1.5])


def test_the_inside_does_not_count_but_a_hole_has_a_surface() -> None:
    """A box of 9 x 9 with and without a hole of 5 x 5: 32 pixels coincide, the 20 beside the hole are 1 away."""
    full = box((11, 11), 1, 1, 9, 9)
    ring = full & ~box((11, 11), 3, 3, 5, 5)
    f1 = 2 * (32 / 52) / (32 / 52 + 1)
    assert measure(ring, full) == pytest.approx([1, 1, 20 / (32 + 52), f1])


def test_the_edge_of_the_image_is_surface() -> None:
    """The left half of the image against all of it: the right edge's 6 pixels are 5 away from the half's."""
    half, full = box((6, 10), 0, 0, 6, 5), box((6, 10), 0, 0, 6, 10)
    assert measure(half, full)[0] == 5
    assert measure(full, full).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("size", "shift", "within"),
    [
        ((240, 320), (0, 3), True),  # 0.75 % of 400 px is 3 px
        ((240, 320), (1, 3), False),
        ((400, 400), (3, 3), True),  # 0.75 % of sqrt(320000) is sqrt(18)
        ((400, 399), (3, 3), False),
        ((60, 80), (0, 1), False),  # 0.75 px
        ((60, 80), (0, 0), True),
    ],
)
def test_the_tolerance_is_a_share_of_the_diagonal_and_counts_as_within(
    size: tuple[int, int], shift: tuple[int, int], within: bool
) -> None:
    mask, truth = box(size, 20, 20, 1, 1), box(size, 20 + shift[0], 20 + shift[1], 1, 1)
    assert measure(mask, truth)[METRICS.index("boundary_f1")] == within
    assert float(TOLERANCE) == 0.0075


# --- empty masks and mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (30, 40), (7, 1)])
def test_empty_masks(size: tuple[int, int]) -> None:
    none, full, diagonal = empty(*size), ~empty(*size), math.hypot(*size)
    assert measure(none, none).tolist() == [0, 0, 0, 1]
    assert measure(full, none).tolist() == [diagonal, diagonal, diagonal, 0]
    assert measure(none, full).tolist() == [diagonal, diagonal, diagonal, 0]
    assert measure(full, full).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("mask", "truth"),
    [
        (empty(3, 4), empty(4, 3)),
        (empty(3, 4).astype(np.uint8), empty(3, 4)),
        (empty(3, 4), empty(3, 4).astype(np.float32)),
        (empty(0, 4), empty(0, 4)),
        (empty(3, 4)[0], empty(3, 4)[0]),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(mask: Mask, truth: Mask) -> None:
    with pytest.raises(InputError, match="two boolean masks"):
        measure(mask, truth)


# --- properties --------------------------------------------------------------------------------------


@given(MASK_PAIRS)
def test_symmetric_bounded_and_ordered(pair: tuple[Mask, Mask]) -> None:
    mask, truth = pair
    hausdorff, hausdorff_95, average, f1 = measure(mask, truth)
    np.testing.assert_allclose(measure(truth, mask), [hausdorff, hausdorff_95, average, f1], rtol=1e-14)
    assert 0 <= f1 <= 1
    assert 0 <= average <= hausdorff <= math.hypot(*mask.shape)
    assert 0 <= hausdorff_95 <= hausdorff


@given(MASK_PAIRS)
def test_a_mask_is_at_no_distance_of_itself_and_of_no_other(pair: tuple[Mask, Mask]) -> None:
    mask, truth = pair
    assert measure(mask, mask).tolist() == [0, 0, 0, 1]
    surfaces = [each & ~ndimage.binary_erosion(each) for each in pair]
    assert (measure(mask, truth)[0] == 0) == bool((surfaces[0] == surfaces[1]).all())


@given(MASK_PAIRS)
def test_turned_and_mirrored_masks_measure_the_same(pair: tuple[Mask, Mask]) -> None:
    expected = measure(*pair)
    for turn in (np.rot90, np.flipud, np.transpose):
        np.testing.assert_allclose(measure(*(turn(each) for each in pair)), expected, rtol=1e-14)


@given(st.integers(-30, 30), st.integers(-30, 30))
def test_a_shifted_pixel_is_as_far_as_the_shift(down: int, right: int) -> None:
    mask, truth = box((70, 75), 35, 35, 1, 1), box((70, 75), 35 + down, 35 + right, 1, 1)
    assert measure(mask, truth)[:3] == pytest.approx([math.hypot(down, right)] * 3)


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_box_shifted_past_its_own_size_is_as_far_as_the_shift(down: int, right: int) -> None:
    """Of two boxes apart, the far corner is the one that is the shift away, as corners are convex."""
    mask, truth = box((60, 60), 5, 5, 4, 6), box((60, 60), 5 + down, 5 + right, 4, 6)
    assert measure(mask, truth)[0] <= math.hypot(down, right) + 1e-9
    if down >= 4 or right >= 6:
        assert measure(mask, truth)[0] == pytest.approx(math.hypot(down, right))


@given(MASK_PAIRS.filter(lambda pair: pair[0].any() and pair[1].any()), st.integers(0, 5), st.integers(0, 5))
def test_background_around_both_changes_no_distance(pair: tuple[Mask, Mask], above: int, left: int) -> None:
    padded = [np.pad(each, ((above, 2), (left, 3))) for each in pair]
    np.testing.assert_allclose(measure(*padded)[:3], measure(*pair)[:3], rtol=1e-14)
