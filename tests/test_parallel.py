"""Work in threads: order, errors where they belong, and items read no faster than results are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg.errors import ImageError, ImageTooLargeError
from dermseg.parallel import attempt, cores, in_order


@given(st.lists(st.integers()), st.integers(1, 5))
def test_results_come_in_the_order_of_items(items: list[int], workers: int) -> None:
    assert list(in_order(lambda item: item * 2, items, workers)) == [item * 2 for item in items]


def test_several_items_are_in_work_at_a_time() -> None:
    barrier = threading.Barrier(3, timeout=30)
    assert len(list(in_order(lambda _: barrier.wait(), range(6), workers=3))) == 6


def test_items_are_read_no_faster_than_results_are_taken() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    results = in_order(lambda item: item, items(), workers=2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(read) == 5
    results.close()
    assert len(read) == 5


def test_an_error_is_raised_at_its_items_place() -> None:
    def divide(item: int) -> float:
        return 1 / item

    results = in_order(divide, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_another_fault_of_opencv_is_told_as_it_is() -> None:
    outcome = attempt(lambda size: cv2.resize(np.zeros((0, 0), np.uint8), size), (3, 3))
    assert type(outcome) is ImageError
    assert str(outcome).startswith("an image cannot be worked on; OpenCV says: ")


@pytest.mark.parametrize(
    "allocate",
    [lambda _: np.empty(2**60, np.uint8), lambda _: cv2.resize(np.ones((1, 1), np.uint8), (2**30, 2**29))],
    ids=["numpy", "opencv"],
)
def test_too_little_memory_is_said_in_one_sentence_that_names_no_source(allocate: Callable[[object], object]) -> None:
    error = attempt(allocate, None)
    assert isinstance(error, ImageTooLargeError)
    assert str(error) == "an image is too large for the memory that is left; make it smaller"


def test_there_is_at_least_one_core() -> None:
    assert cores() >= 1
