"""How far a run is, for whoever watches: a line for each epoch, and in a terminal a live display."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID
from rich.text import Text
from typing_extensions import override

from dermseg.training.journal import epoch_metrics

SHOWN = ("train/loss", "tune/loss", "tune/jaccard", "tune/dice")
EVERY_S = 0.25


class Clock:
    """How long the epochs take, and the rest of them will, by the mean of those this process has seen."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._epochs = 0

    def lap(self) -> float:
        """End an epoch; its seconds, with the scoring and all that was written after the one before."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._epochs += 1
        return seconds

    def left(self, epochs: float) -> float | None:
        """Seconds for so many epochs more; None before the first has ended."""
        return epochs * (self._last - self._start) / self._epochs if self._epochs else None


class EpochLines(Callback):
    """After each epoch a line with losses, scores, its seconds and the time left.

    Args:
        report: Takes the line.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._clock = Clock()

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._clock = Clock()

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report the epoch."""
        seconds = self._clock.lap()
        metrics = epoch_metrics(trainer)  # on all devices: their mean may have to be taken
        if not trainer.is_global_zero:
            return
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 0
        scores = ", ".join(
            f"{name.removeprefix('tune/') if name != 'tune/loss' else name} {value:.4f}"
            for name, value in _told(metrics, pl_module).items()
        )
        minutes = (self._clock.left(epochs - epoch) or 0.0) / 60
        self._report(f"epoch {epoch}/{epochs}: {scores}; {seconds:.0f} s, {minutes:.0f} min left")


class LiveProgress(Callback):
    """In a terminal, a display of epoch, losses, scores, speed, time left and memory; elsewhere nothing.

    It is hidden from the end of an epoch to the beginning of the next, so that lines can be written in between: attach
    it before the callbacks that report.

    Args:
        console: Where to show it; standard error if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = Console(stderr=True) if console is None else console
        self._progress: _Display | None = None
        self._task: TaskID | None = None
        self._clock = Clock()
        self._metrics: dict[str, float] = {}
        self._images = 0
        self._training_since = 0.0
        self._shown = 0.0

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._clock = Clock()

    @override
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the display, with a new bar."""
        if not (trainer.is_global_zero and self._console.is_terminal):
            return
        self._images, self._training_since = 0, time.monotonic()
        # A display that is shown again would wipe out the line above it.
        self._progress = _Display(
            "{task.description}", BarColumn(), MofNCompleteColumn(), console=self._console, transient=True
        )
        self._task = self._progress.add_task("", total=None)
        self._begin(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", trainer.num_training_batches)
        self._progress.start()

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the batch."""
        if self._progress is None or self._task is None:
            return
        self._progress.advance(self._task)
        self._images += len(batch[0]) * trainer.world_size
        now = time.monotonic()
        if now - self._shown < EVERY_S:
            return
        self._shown = now
        if (loss := trainer.callback_metrics.get("train/loss_step")) is not None:
            self._metrics["train/loss"] = float(loss)
        done = trainer.current_epoch + (batch_idx + 1) / max(1.0, float(trainer.num_training_batches))
        self._say(
            [
                f"{self._images / max(now - self._training_since, 1e-9):.1f} images/s",
                _time_left(self._clock.left((trainer.max_epochs or 0) - done)),
                *memory(pl_module.device),
            ]
        )

    @override
    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """A bar for the scoring."""
        if not trainer.sanity_checking:
            self._begin("  scoring tune", sum(trainer.num_val_batches))

    @override
    def on_validation_batch_end(self, *_: object) -> None:
        """Show the batch."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hide the display; keep the scores for the next epoch's."""
        self._clock.lap()
        self._metrics = _told(epoch_metrics(trainer), pl_module)
        self._end()

    @override
    def on_exception(self, *_: object) -> None:
        """Give the terminal back."""
        self._end()

    def _begin(self, title: str, count: float) -> None:
        if self._progress is not None and self._task is not None:
            total = int(count) if count != float("inf") else None
            self._progress.reset(self._task, total=total, description=title)

    def _say(self, more: list[str]) -> None:
        assert self._progress is not None
        shown = [
            f"{name.removeprefix('tune/') if name in ('tune/dice', 'tune/jaccard') else name} {value:.3f}"
            for name, value in self._metrics.items()
            if name in SHOWN
        ]
        self._progress.state = ", ".join([*shown, *more])

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


class _Display(Progress):
    """A bar, and a line of numbers below it."""

    state = ""

    @override
    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.state, style="dim")


def memory(device: torch.device) -> list[str]:
    """Memory this process holds, where the system tells it, and on a GPU what its tensors take there."""
    parts = []
    if (resident := resident_bytes()) is not None:
        parts.append(f"{resident / 2**30:.1f} GiB")
    if device.type == "cuda":
        parts.append(f"{torch.cuda.memory_allocated(device) / 2**30:.1f} GiB on the GPU")
    return parts


def resident_bytes() -> int | None:
    """Bytes of this process in the memory; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _told(metrics: Mapping[str, float], pl_module: lightning.LightningModule) -> dict[str, float]:
    """The few metrics that a line has room for: the rest is in the journal."""
    recipe: Any = pl_module.recipe
    chosen = dict.fromkeys([*SHOWN, f"tune/{recipe.monitor}", "tune/threshold"])
    chosen |= dict.fromkeys(name for name in metrics if name.startswith("tune/jaccard_"))
    return {name: metrics[name] for name in chosen if name in metrics}


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown"
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{minutes} min left" if minutes < 120 else f"{hours:.1f} h left"
