"""A progress bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(count: int, title: str) -> Iterator[Callable[[], None]]:
    """Show images done, images per second and time left; call what is given after each image.

    There is no bar for one image, nor where standard error is no terminal.
    """
    if count == 1:
        yield lambda: None
        return
    done = 0
    with progress_bars() as update:

        def advance() -> None:
            nonlocal done
            done += 1
            update(title, done, count)

        yield advance


@contextmanager
def progress_bars(*, of_bytes: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar for each title that what is given is called with; with it go what is done and all there is, if known.

    There are no bars where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    measures = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(), Speed())
    columns = ("{task.description}", BarColumn(), *measures, TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def update(title: str, done: int, total: int | None) -> None:
            if title not in tasks:
                tasks[title] = progress.add_task(title, total=total)
            progress.update(tasks[title], completed=done, total=total)

        yield update
