"""The batcher: every item gets its own result, whatever else goes on."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermseg.serving.batching import Batcher


class Squares:
    """Squares numbers, keeps the batches it was given, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(30)
        return [item**2 for item in items]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@contextmanager
def batcher(
    work: Callable[[Sequence[int]], Sequence[int]], largest: int = 4, delay: float = 0.0, runners: int = 1
) -> Iterator[Batcher[int, int]]:
    made = Batcher(work, largest, delay, runners)
    try:
        yield made
    finally:
        made.close(30)


def held(work: Squares, made: Batcher[int, int], item: int = 0) -> Future[int]:
    """Keep the one runner busy with ``item`` until the gate is opened."""
    work.gate.clear()
    future = made.submit(item)
    assert work.entered.acquire(timeout=30)
    return future


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batcher"]


# Results


@pytest.mark.parametrize("runners", [1, 3])
def test_a_hundred_items_from_ten_threads_get_their_own_results(runners: int) -> None:
    work, start = Squares(), threading.Barrier(10, timeout=30)

    def client(first: int) -> list[int]:
        start.wait()
        futures = [made.submit(item) for item in range(first, first + 10)]
        return [future.result(30) for future in futures]

    with batcher(work, largest=4, runners=runners) as made, ThreadPoolExecutor(10) as pool:
        found = list(pool.map(client, range(0, 100, 10)))
    assert found == [[item**2 for item in range(first, first + 10)] for first in range(0, 100, 10)]
    assert sum(work.sizes) == 100
    assert max(work.sizes) <= 4


def test_what_waits_becomes_the_next_batch_in_the_order_it_came() -> None:
    work = Squares()
    with batcher(work, largest=4) as made:
        held(work, made)
        futures = [made.submit(item) for item in range(1, 10)]
        work.gate.set()
        assert [future.result(30) for future in futures] == [item**2 for item in range(1, 10)]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


@settings(max_examples=60, deadline=None)
@given(
    largest=st.integers(1, 9),
    delay=st.sampled_from([0.0, 0.0005, 0.003]),
    runners=st.integers(1, 3),
    items=st.lists(st.tuples(st.integers(-9, 9), st.booleans(), st.sampled_from([0.0, 0.0005]), st.booleans())),
)
def test_any_course_of_things_gives_each_item_its_result(
    largest: int, delay: float, runners: int, items: list[tuple[int, bool, float, bool]]
) -> None:
    """Items fail where they are negative, are announced or not, come after a pause, and may be cancelled at once."""
    seen: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        seen.append(len(batch))
        if bad := [item for item in batch if item < 0]:
            raise ValueError(bad[0])
        return [item**2 for item in batch]

    before = len(threads())
    futures = []
    with batcher(work, largest, delay, runners) as made:
        for item, announced, pause, cancelled in items:
            with ExitStack() as stack:
                if announced:
                    stack.enter_context(made.expecting())
                time.sleep(pause)
                futures.append((item, made.submit(item)))
            if cancelled:
                futures[-1][1].cancel()
    assert len(threads()) == before
    for item, future in futures:
        assert future.done()
        if future.cancelled():
            continue
        if item < 0:
            assert str(future.exception()) == str(item)
        else:
            assert future.result() == item**2
    assert all(future.cancelled() <= cancelled for (*_, cancelled), (_, future) in zip(items, futures, strict=True))
    assert all(1 <= size <= largest for size in seen)


# Waiting for others


def test_a_lone_item_is_not_delayed() -> None:
    with batcher(Squares(), largest=8, delay=20.0) as made:
        begun = time.monotonic()
        assert made.submit(3).result(30) == 9
        assert time.monotonic() - begun < 10


def test_a_batch_waits_for_items_that_are_on_their_way() -> None:
    work = Squares()
    with batcher(work, largest=8, delay=20.0) as made:
        with made.expecting():
            first = made.submit(1)
            time.sleep(0.05)
            assert work.batches == []
            second = made.submit(2)
        assert (first.result(10), second.result(10)) == (1, 4)
    assert work.batches == [[1, 2]]


def test_a_full_batch_waits_no_longer() -> None:
    work = Squares()
    with batcher(work, largest=2, delay=20.0) as made, made.expecting():
        assert [future.result(10) for future in [made.submit(1), made.submit(2)]] == [1, 4]


def test_a_batch_waits_no_longer_than_its_delay() -> None:
    with batcher(Squares(), largest=2, delay=0.05) as made, made.expecting():
        begun = time.monotonic()
        assert made.submit(3).result(30) == 9
        assert time.monotonic() - begun >= 0.05


def test_an_item_that_never_comes_holds_up_nobody() -> None:
    with batcher(Squares(), largest=2, delay=20.0) as made:
        with made.expecting():
            future = made.submit(3)
            with pytest.raises(ZeroDivisionError), made.expecting():  # an image that could not be decoded
                raise ZeroDivisionError
        assert future.result(10) == 9


# Cancellation


def test_what_is_cancelled_is_not_worked_on() -> None:
    work = Squares()
    with batcher(work, largest=3) as made:
        held(work, made)
        futures = [made.submit(item) for item in range(1, 8)]
        for place in (0, 1, 4):
            assert futures[place].cancel()
        work.gate.set()
        left = [future.result(30) for future in futures if not future.cancelled()]
        assert left == [9, 16, 36, 49]
    assert work.batches == [[0], [3, 4, 6], [7]]


def test_what_has_begun_cannot_be_cancelled() -> None:
    work = Squares()
    with batcher(work) as made:
        future = held(work, made, 5)
        assert not future.cancel()
        work.gate.set()
        assert future.result(30) == 25


# Failures


def test_one_bad_item_does_not_spoil_the_others() -> None:
    calls: list[list[int]] = []
    gate = threading.Event()

    def work(items: Sequence[int]) -> list[float]:
        calls.append(list(items))
        gate.wait(30)
        return [6 / item for item in items]

    made = Batcher(work, 4, 0.0)
    first = made.submit(6)
    while not calls:
        time.sleep(0.001)
    futures = [made.submit(item) for item in (1, 0, 2, 3)]
    gate.set()
    made.close(30)
    assert first.result() == 1
    with pytest.raises(ZeroDivisionError) as caught:
        futures[1].result()
    assert caught.value.__context__ is None
    assert [futures[place].result() for place in (0, 2, 3)] == [6, 3, 2]
    assert calls == [[6], [1, 0, 2, 3], [1], [0], [2], [3]]


def test_work_that_gives_too_few_results_fails_and_leaves_nobody_waiting() -> None:
    with batcher(lambda items: []) as made:
        with pytest.raises(ValueError, match="shorter"):
            made.submit(1).result(30)
        assert made.submit(2).exception(30) is not None


def test_a_runner_outlives_every_kind_of_error() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if items[0] == 0:
            raise SystemExit
        return list(items)

    with batcher(work) as made:
        with pytest.raises(SystemExit):
            made.submit(0).result(30)
        assert made.submit(1).result(30) == 1


# The end


def test_closing_finishes_what_was_taken_and_ends_the_threads() -> None:
    before, work = set(threads()), Squares()
    made = Batcher(work, 2, 0.0, runners=2)
    held(work, made)
    futures = [made.submit(item) for item in range(20)]
    opening = threading.Timer(0.1, work.gate.set)
    opening.start()
    made.close()
    opening.join()
    assert [future.result(0) for future in futures] == [item**2 for item in range(20)]
    assert set(threads()) == before
    with pytest.raises(RuntimeError, match="the batcher is closed and takes no more items"):
        made.submit(1)
    made.close()


def test_closing_waits_for_nothing_that_is_only_expected() -> None:
    work = Squares()
    made = Batcher(work, 4, 60.0)
    with made.expecting():
        future = made.submit(2)
        made.close(10)
    assert future.result(0) == 4


def test_closing_in_time_cancels_what_has_not_begun() -> None:
    work = Squares()
    made = Batcher(work, 1, 0.0)
    begun = held(work, made, 7)
    waiting = [made.submit(item) for item in range(3)]
    started = time.monotonic()
    made.close(0.05)
    assert time.monotonic() - started < 10
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(CancelledError):
        waiting[0].result()
    work.gate.set()
    assert begun.result(30) == 49, "what had begun ends by itself"


def test_closing_under_load_answers_or_refuses_each_item() -> None:
    made, taken, refused = Batcher(Squares(), 4, 0.001, runners=2), list[Future[int]](), threading.Event()

    def client(_: int) -> None:
        for item in itertools.count():
            try:
                taken.append(made.submit(item))
            except RuntimeError:
                refused.set()
                return

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        time.sleep(0.05)
        made.close()
        wait(clients, 30)
    assert refused.is_set()
    assert taken
    assert all(future.done() and not future.cancelled() for future in taken)


# Memory


class Thing:
    """Can be referred to weakly."""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_of_an_item_that_was_answered(fails: bool) -> None:
    def work(things: Sequence[Thing]) -> list[Thing]:
        if fails:
            raise ValueError
        return [Thing() for _ in things]

    made = Batcher(work, 4, 0.0)
    made.submit(Thing()).exception(30)  # what is loaded once
    gc.collect()
    gc.disable()
    try:
        thing = Thing()
        future = made.submit(thing)
        kept: list[weakref.ref[Thing] | weakref.ref[Future[Thing]]] = [weakref.ref(thing), weakref.ref(future)]
        if future.exception(30) is None:
            kept.append(weakref.ref(future.result()))
        del thing, future
        end = time.monotonic() + 10  # the runner's own call returns a moment after the result is there
        while any(reference() is not None for reference in kept) and time.monotonic() < end:
            time.sleep(0.001)
        assert [reference() for reference in kept] == [None] * len(kept)
    finally:
        gc.enable()
        made.close(30)
