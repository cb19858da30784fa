"""What happened in a run, as numbers: ``logs/metrics.jsonl``, and a table of the epochs, ``logs/metrics.csv``.

A line of the journal is a JSON object, with ``null`` for a value that is not a number:
- of a batch: kind "batch", epoch, batch and step (batches and optimizer steps since the run began), images (seen since
  the run began, on all devices), loss and, where the module logs them, ``loss_<term>``, learning_rate, seconds,
  images_per_second;
- of an epoch: kind "epoch", epoch, step, images, learning_rate, seconds (with the scoring), images_per_second
  (without), and every ``train/...`` and ``tune/...`` metric.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from dermseg.imaging import make_folder, write_bytes
from dermseg.training.manifest import Manifest

Row = dict[str, Any]
LINES = Path("logs") / "metrics.jsonl"
TABLE = Path("logs") / "metrics.csv"


@dataclass(frozen=True)
class History:
    """The journal of a run: a row for each batch and for each epoch, in their order."""

    batches: list[Row]
    epochs: list[Row]


def read(folder: Path) -> History:
    """The journal in a run folder; empty if there is none."""
    rows = _rows(folder / LINES)
    return History(*([row for row in rows if row.get("kind") == kind] for kind in ("batch", "epoch")))


def epoch_metrics(trainer: lightning.Trainer) -> dict[str, float]:
    """The metrics of the epoch that ends, by name; for ``on_train_epoch_end``."""
    # Lightning adds the last step's loss, and the epoch's a second time.
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(("train/", "tune/")) and not name.endswith(("_step", "_epoch"))
    }


class Journal(Callback):
    """Writes the journal; in a resumed run it drops what came after the checkpoint and goes on in the same files.

    Each line is on the disk before the next batch begins. Attach it before the callbacks that read the journal.

    Args:
        folder: The run folder.
        manifest: Kept up to date after each epoch.
    """

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        self._folder = folder
        self._manifest = manifest
        self._epochs: list[Row] = []
        self._images = 0
        self._images_before = 0
        self._training_seconds = 0.0
        self._rates: Row = {}
        self._epoch_start = self._batch_start = 0.0

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep what the run knew at the checkpoint that it goes on from."""
        if not trainer.is_global_zero:
            return
        batches, epochs = trainer.fit_loop.total_batch_idx + 1, trainer.current_epoch
        path = self._folder / LINES
        rows = [row for row in _rows(path) if (row["batch"] <= batches if "batch" in row else row["epoch"] <= epochs)]
        self._images = max((row["images"] for row in rows), default=0)
        make_folder(path.parent)
        write_bytes(path, "".join(_line(row) for row in rows).encode())
        self._epochs = [row for row in rows if row["kind"] == "epoch"]
        self._write_table()

    @override
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clocks."""
        self._images_before, self._training_seconds = self._images, 0.0
        self._epoch_start = self._batch_start = time.monotonic()

    @override
    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the learning rates; when the batch ends, they are the next one's."""
        groups = trainer.optimizers[0].param_groups
        named = {f"learning_rate_{group['name']}": float(group["lr"]) for group in groups if "name" in group}
        self._rates = {"learning_rate": max(float(group["lr"]) for group in groups)} | named

    @override
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the batch's line."""
        if not trainer.is_global_zero:
            return
        images = len(batch[0]) * trainer.world_size
        self._images += images
        # The metrics without the ending may still be those of the last epoch.
        losses = {
            name.removeprefix("train/").removesuffix("_step"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train/") and name.endswith("_step")
        }
        now = time.monotonic()
        seconds, self._batch_start = now - self._batch_start, now
        self._training_seconds += seconds
        self._append(
            {
                "kind": "batch",
                "epoch": trainer.current_epoch + 1,
                "batch": trainer.fit_loop.total_batch_idx + 1,
                "step": trainer.global_step,
                "images": self._images,
            }
            | losses
            | self._rates
            | {"seconds": seconds, "images_per_second": images / max(seconds, 1e-9)}
        )

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's line and the table."""
        metrics = epoch_metrics(trainer)  # on all devices: their mean may have to be taken
        if not trainer.is_global_zero:
            return
        row = (
            {
                "kind": "epoch",
                "epoch": trainer.current_epoch + 1,
                "step": trainer.global_step,
                "images": self._images,
            }
            | self._rates
            | {
                "seconds": time.monotonic() - self._epoch_start,
                "images_per_second": (self._images - self._images_before) / max(self._training_seconds, 1e-9),
            }
            | metrics
        )
        self._append(row)
        self._epochs.append(json.loads(_line(row)))
        self._write_table()
        if self._manifest is not None:
            self._manifest.update()

    def _append(self, row: Row) -> None:
        # Opened for each line, so that nothing is left open or unwritten however the run ends.
        with (self._folder / LINES).open("a", encoding="utf-8") as file:
            file.write(_line(row))

    def _write_table(self) -> None:
        columns = {name: None for row in self._epochs for name in row if name != "kind"}
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._epochs)
        write_bytes(self._folder / TABLE, text.getvalue().encode())


def _line(row: Mapping[str, Any]) -> str:
    """A line of JSON; float32 has no more than seven digits."""
    shown = {
        name: (float(f"{value:.7g}") if math.isfinite(value) else None) if isinstance(value, float) else value
        for name, value in row.items()
    }
    return json.dumps(shown, allow_nan=False) + "\n"


def _rows(path: Path) -> list[Row]:
    """The lines that can be read; a process that was killed may leave half of one."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("kind") in ("batch", "epoch"):
            rows.append(row)
    return rows
