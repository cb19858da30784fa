"""Outlines and run lengths: against pycocotools, and rasterised back."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from dermseg.errors import InputError
from dermseg.shapes import polygon, rle
from dermseg.synthetic import draw

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

Mask = NDArray[np.bool_]

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14))

RING = np.ones((5, 5), np.bool_)
RING[1:4, 1:4] = False
NESTED = np.pad(RING, 2, constant_values=True)
NESTED[1:8, 1:8] &= np.pad(RING, 1)
PINCHED = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], np.bool_)  # its hole meets the outside in a point


def area(ring: list[list[int]]) -> float:
    """Signed, by the shoelace formula."""
    x, y = np.array(ring).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def rasterised(geometry: dict[str, Any], shape: tuple[int, int]) -> Mask:
    """The pixels whose middle lies inside, by the number of vertical edges to their left."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for ring in (ring for rings in geometry["coordinates"] for ring in rings):
        for (x, y), (right, below) in pairwise(ring):
            if x == right:
                crossings[min(y, below) : max(y, below), x] += 1
    inside: Mask = crossings.cumsum(axis=1)[:, :-1] % 2 == 1
    return inside


@given(masks)
@example(np.zeros((3, 4), np.bool_))
@example(np.ones((3, 4), np.bool_))
@example(np.ones((1, 1), np.bool_))
@example(np.indices((9, 8)).sum(axis=0) % 2 == 1)
@example(NESTED)
@example(PINCHED)
def test_a_polygon_is_its_mask(mask: Mask) -> None:
    geometry = polygon(mask)
    assert geometry["type"] == "MultiPolygon"
    assert (rasterised(geometry, mask.shape) == mask).all()
    assert sum(area(ring) for rings in geometry["coordinates"] for ring in rings) == mask.sum()


@given(masks)
@example(NESTED)
@example(PINCHED)
def test_a_polygon_is_valid(mask: Mask) -> None:
    polygons = polygon(mask)["coordinates"]
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    assert len(polygons) == count - 1
    for rings in polygons:
        assert area(rings[0]) > 0
        assert all(area(hole) < 0 for hole in rings[1:])
        filled = rasterised({"coordinates": [rings]}, mask.shape)
        assert len(np.unique(labels[filled])) == 1  # the holes are in their own outline
        for ring in rings:
            assert ring[0] == ring[-1]
            assert len(set(map(tuple, ring))) == len(ring) - 1  # none touches itself
            steps = np.diff(np.array(ring), axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert (np.diff(steps[:, 0] == 0) != 0).all()  # corners only


def test_a_polygon_by_hand() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1:3, 2:5] = True
    mask[0, 0] = True
    assert polygon(mask) == {
        "type": "MultiPolygon",
        "coordinates": [
            [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]],
            [[[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]],
        ],
    }
    assert polygon(RING)["coordinates"] == [
        [[[0, 0], [5, 0], [5, 5], [0, 5], [0, 0]], [[4, 1], [1, 1], [1, 4], [4, 4], [4, 1]]]
    ]


@given(masks)
@example(np.zeros((3, 4), np.bool_))
@example(np.ones((3, 4), np.bool_))
@example(np.ones((1, 1), np.bool_))
@example(np.zeros((1, 1), np.bool_))
@example(np.arange(9)[None] % 2 == 0)
@example(np.arange(9)[:, None] % 2 == 0)
def test_run_lengths_are_those_of_cocos_tools(mask: Mask) -> None:
    encoded = rle(mask)
    truth = coco.encode(np.asfortranarray(mask.view(np.uint8)))
    assert encoded == {"size": list(mask.shape), "counts": truth["counts"].decode()}
    assert (coco.decode(encoded).astype(np.bool_) == mask).all()


@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 400))
def test_long_runs_are_those_of_cocos_tools(seed: int, height: int, width: int) -> None:
    # Run lengths that need several characters, and differences of either sign.
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.random((3, 4)).astype(np.float32), (width, height)) > 0.5
    assert rle(mask)["counts"] == coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode()


def test_masks_that_lie_otherwise_in_memory() -> None:
    mask = draw(3, (96, 128)).mask
    for view in (mask.T, mask[::-1, ::2], mask[10:-10, 5:]):
        assert (rasterised(polygon(view), view.shape) == view).all()
        assert (coco.decode(rle(view)).astype(np.bool_) == view).all()


@pytest.mark.parametrize("make", [polygon, rle])
@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4), np.uint8), np.zeros((0, 4), np.bool_), np.zeros((4, 4, 1), np.bool_)]
)
def test_other_arrays_are_refused(make: Callable[[Any], object], mask: Any) -> None:
    with pytest.raises(InputError, match=r"where bool \(H, W\) is expected"):
        make(mask)


@pytest.mark.parametrize("make", [polygon, rle])
def test_a_mask_of_twelve_megapixels_takes_no_time(make: Callable[[Any], object]) -> None:
    mask = cv2.resize(draw(3, (192, 256)).mask.astype(np.float32), (4000, 3000)) > 0.5
    taken = []
    for _ in range(5):
        begun = time.process_time()
        make(mask)
        taken.append(time.process_time() - begun)
    assert min(taken) < 0.3
