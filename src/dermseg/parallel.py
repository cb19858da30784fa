"""Work on many files at once, in threads: decoding and inference release Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2

from dermseg.errors import DermsegError, ImageError, ImageTooLargeError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Generator[Result]:
    """Call ``function`` on each item, several at a time.

    Items are read, and results kept, no faster than results are taken, so that memory stays flat.

    Args:
        function: Called in worker threads; what it raises is raised at its item's place.
        items: In the order of the results.
        workers: Items in work at a time; the number of cores if None.
    """
    count = workers or cores()
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def attempt(function: Callable[[Item], Result], item: Item) -> Result | DermsegError:
    """Call ``function``; give its result, or the error that says why this item has none."""
    try:
        return function(item)
    except DermsegError as error:
        return error
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            return ImageError(f"an image cannot be worked on; OpenCV says: {error.err}")
        return ImageTooLargeError("an image is too large for the memory that is left; make it smaller")


def cores() -> int:
    """The cores this process may use, fewer than the machine's in many containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
