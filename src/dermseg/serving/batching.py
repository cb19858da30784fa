"""Items that come one by one are worked on together: micro-batches, as model servers make them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items that come from many threads to ``work``, several at a time, in the order they came.

    What waits when a runner is free becomes its next batch. It waits for more only while others are known to be on
    their way, see ``expecting``, so that a lone item is never delayed.

    Args:
        work: Gives the result of each item, in order; called in the runners' threads. If it raises, the batch's items
            are tried one by one, so that only those that cannot be worked on fail.
        largest: The most items of a batch, at least 1.
        delay: The longest time a batch that is not full waits for more, in seconds.
        runners: Threads, and so batches at a time, at least 1.
    """

    def __init__(
        self, work: Callable[[Sequence[Item]], Sequence[Result]], largest: int, delay: float, runners: int = 1
    ) -> None:
        self._work, self._largest, self._delay = work, largest, delay
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._expected = 0
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._serve, name="batcher", daemon=True) for _ in range(runners)]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Take an item; its future gives the result, or raises what ``work`` raised of this item alone.

        A future that is cancelled before its batch is begun is passed over.

        Raises:
            RuntimeError: After ``close``.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed and takes no more items")
            self._waiting.append((item, future))
            self._changed.notify()
        return future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Tell that an item is on its way, such as an image that is being decoded; submit it before leaving."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                if not self._expected:
                    self._changed.notify_all()

    def close(self, timeout: float | None = None) -> None:
        """Take no more items, finish those that were taken, and end the threads.

        Args:
            timeout: The longest time to wait, in seconds; then what has not begun is cancelled, and what has is left
                to end by itself. None waits as long as it takes.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        with self._changed:
            left = [future for _, future in self._waiting]
            self._waiting.clear()
        for future in left:
            future.cancel()

    def _serve(self) -> None:
        # No variable here holds a batch, which would keep it until the next one.
        while self._await_item():
            self._run(self._take())

    def _await_item(self) -> bool:
        """Wait until there is a batch to take; False when there is none and never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            end = time.monotonic() + self._delay
            while 0 < len(self._waiting) < self._largest and self._expected and not self._closed:
                if (left := end - time.monotonic()) <= 0 or not self._changed.wait(left):
                    break
            return bool(self._waiting) or not self._closed

    def _take(self) -> list[tuple[Item, Future[Result]]]:
        """The next batch; empty if another runner was faster, or all were cancelled."""
        batch: list[tuple[Item, Future[Result]]] = []
        with self._changed:
            while self._waiting and len(batch) < self._largest:
                item, future = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    batch.append((item, future))
            if self._waiting:
                self._changed.notify()
        return batch

    def _run(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = list(zip(batch, self._work([item for item, _ in batch]), strict=True))
        except BaseException as error:  # as concurrent.futures: whoever waits must learn of it
            if len(batch) == 1:
                # Popped, for the error keeps this frame alive, which must not keep the future and so the error.
                batch.pop()[1].set_exception(error)
        else:
            for (_, future), result in results:
                future.set_result(result)
            return
        while batch:
            self._run([batch.pop(0)])
