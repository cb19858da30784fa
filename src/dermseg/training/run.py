"""One training run: recipe and data in, a run folder with checkpoints, curves and a bundle out.

<output>/recipe.yaml            every setting used
<output>/data.json              data sets, counts, content hash
<output>/metrics.csv            loss, and scores on tune, of each epoch
<output>/checkpoints/last.ckpt  to resume from
<output>/checkpoints/best.ckpt  best on tune; the bundle is made of it
<output>/bundle/                what `dermseg segment --bundle` takes
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from numpy.typing import NDArray
from torch import Tensor

from dermseg._version import __version__
from dermseg.bundle import Architecture, Bundle, Manifest, Normalisation, TrainingData
from dermseg.data import cache, catalog, splits
from dermseg.errors import DataError, InputError, RecipeError
from dermseg.export import export
from dermseg.imaging import make_folder, write_bytes
from dermseg.models import build
from dermseg.training.config import Recipe
from dermseg.training.datamodule import CachedData, TuneSet
from dermseg.training.module import MEAN, STD, LesionTraining

PARITY_IMAGES = 8
OWN_LICENCE = "Apache-2.0"
EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    "Checkpoint directory .* exists and is not empty",  # that of a resumed run
    "The '.*_dataloader' does not have many workers",  # a memory map needs none
    "GPU available but not used",  # as the user asked
)


def train(
    recipe: Recipe,
    data: str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    cache_folder: Path | None = None,
    report: Callable[[str], None] = print,
    progress_bar: bool = False,
) -> Bundle:
    """Train as ``recipe`` says and make a bundle of the weights that are best on ``tune``.

    Args:
        recipe: The settings.
        data: A folder of data sets in their official layouts.
        output: The run's folder; new or empty, unless resuming.
        resume: Go on from the run's last checkpoint, with the same result as an uninterrupted run.
        device: Where to train.
        cache_folder: Where resized images are kept; ``dermseg.data.cache.default_folder()`` if None.
        report: Takes a line at the start, after each epoch and at the end.
        progress_bar: Show a bar within each epoch.

    Raises:
        InputError: If ``output`` is in use, or there is nothing to resume.
        RecipeError: If a setting names something that does not exist, or differs from that of the resumed run.
        DataError: If the data sets cannot be read, a split is empty, or they differ from those of the resumed run.
    """
    folder = Path(output)
    _check_folder(folder, recipe, resume)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(recipe.seed, verbose=False)
    samples = [s for s in catalog.read(data, recipe.data.sources) if s.masks.keys() >= set(recipe.classes)]
    table = splits.read(recipe.data.splits or splits.DEFAULT)
    train_samples, tune_samples = (splits.select(samples, side, table) for side in ("train", "tune"))
    # An image that several data sets share is scored once, by the first one's mask.
    tune_samples = list({sample.id: sample for sample in reversed(tune_samples)}.values())[::-1]
    for side, found in (("train", train_samples), ("tune", tune_samples)):
        if not found:
            raise DataError(
                f"{data} has no image with masks of {', '.join(recipe.classes)} in the split {side!r}; "
                "training needs some"
            )
    report(f"{len(train_samples)} images to train on, {len(tune_samples)} to tune on; run folder {folder}")
    report(f"the network begins with {_initialisation(recipe)}")
    train_images, tune_images = (
        cache.load(found, recipe.classes, recipe.input_size, folder=cache_folder, progress=_now_and_then(report))
        for found in (train_samples, tune_samples)
    )
    module = LesionTraining(recipe, sources := tuple(sorted({sample.source for sample in tune_samples})))
    if recipe.start is not None:
        module.model.load_state_dict(_weights_of(Bundle.load(recipe.start), recipe))
    source_of = np.array([sources.index(sample.source) for sample in tune_samples], np.int64)
    datamodule = CachedData(train_images, TuneSet(tune_images, source_of), recipe.batch_size, recipe.seed)
    description = TrainingData(
        sources=dict(Counter(sample.source for sample in train_samples)),
        licences={sample.source: sample.licence for sample in train_samples},
        split="train",
        initialisation=_initialisation(recipe),
        content_hash=hashlib.sha256((train_images.content_hash + tune_images.content_hash).encode()).hexdigest(),
    )
    _record(folder, recipe, description, resume)

    checkpoints = folder / "checkpoints"
    best = _Checkpoint(checkpoints, filename="best", monitor="tune/jaccard", mode="max", enable_version_counter=False)
    # A run that was stopped in its first epoch begins again.
    state = checkpoints / "last.ckpt" if resume and (checkpoints / "last.ckpt").is_file() else None
    # Not by save_last, which follows the best epochs only; after the best, whose score it keeps.
    last = _Checkpoint(checkpoints, filename="last", enable_version_counter=False)
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=1,
            precision=recipe.precision,
            max_epochs=recipe.epochs,
            gradient_clip_val=recipe.optimizer.clip,
            callbacks=[
                WeightAveraging(avg_fn=moving_average(recipe.ema)),
                best,
                last,
                _EpochReport(folder / "metrics.csv", report),
            ],
            logger=False,
            num_sanity_val_steps=0,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            deterministic=True,
        )
        try:
            trainer.fit(module, datamodule, ckpt_path=state, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from error
    bundle = make_bundle(folder, recipe, description, tune_images)
    report(f"bundle: {bundle.path}")
    return bundle


def make_bundle(folder: Path, recipe: Recipe, data: TrainingData, images: cache.CachedImages) -> Bundle:
    """Make ``folder / "bundle"`` of the run's best checkpoint; ``images`` check that its two networks agree."""
    best = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    arguments = {name: value for name, value in recipe.model.arguments.items() if name != "pretrained"}
    network = build(recipe.model.name, classes=len(recipe.classes), **arguments)
    network.load_state_dict({name.removeprefix("model."): value for name, value in best["state_dict"].items()})
    manifest = Manifest(
        name=recipe.name,
        description=recipe.description,
        architecture=Architecture(
            name=recipe.model.name,
            arguments=arguments,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        ),
        classes=recipe.classes,
        input_size=recipe.input_size,
        normalisation=Normalisation(mean=(MEAN,) * 3, std=(STD,) * 3, padding=cache.PADDING),
        thresholds=dict.fromkeys(recipe.classes, best["threshold"]),
        training_data=data,
        licence=licence_of_weights(
            [*data.licences.values(), *([Bundle.load(recipe.start).manifest.licence] if recipe.start else [])]
        ),
        versions={"dermseg": __version__} | {name: version(name) for name in ("torch", "lightning", "onnx")},
    )
    return export(folder / "bundle", network, manifest, _spread(images, PARITY_IMAGES))


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average whose decay grows to ``decay``, so that a short run forgets where it began."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        return averaged * weight + current * (1 - weight)

    return average


def licence_of_weights(licences: Iterable[str]) -> str:
    """The licence of weights made from data and weights under ``licences``: what the strictest still allows."""
    strict = set(licences) - {catalog.CC0, OWN_LICENCE}
    if not strict:
        return OWN_LICENCE
    return catalog.CC_BY_NC if strict == {catalog.CC_BY_NC} else f"as its training data: {', '.join(sorted(strict))}"


class _Checkpoint(ModelCheckpoint):
    """Keeps its score also in a run whose folder was moved, which Lightning takes for another one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


class _EpochReport(Callback):
    """After each epoch a line to the user and a row of ``metrics.csv``; a resumed run goes on in the same file."""

    def __init__(self, table: Path, report: Callable[[str], None]) -> None:
        self._table = table
        self._report = report
        self._start = 0.0

    def on_train_epoch_start(self, *_: object) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, LesionTraining)
        seconds = time.monotonic() - self._start
        epoch, epochs = trainer.current_epoch + 1, pl_module.recipe.epochs
        # Lightning adds the last step's loss, and the epoch's a second time.
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if not name.endswith(("_step", "_epoch"))
        }
        self._append({"epoch": str(epoch)} | {name: f"{value:.6g}" for name, value in metrics.items()})
        scores = ", ".join(f"{name.removeprefix('tune/')} {value:.4f}" for name, value in metrics.items())
        minutes = (epochs - epoch) * seconds / 60
        self._report(f"epoch {epoch}/{epochs}: {scores}; {seconds:.0f} s, {minutes:.0f} min left")

    def _append(self, row: Mapping[str, str]) -> None:
        rows = []
        if self._table.is_file():
            with self._table.open(newline="", encoding="utf-8") as file:
                rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < int(row["epoch"])]
        text = io.StringIO()
        writer = csv.DictWriter(text, row.keys(), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_bytes(self._table, text.getvalue().encode())


def _check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is in use; give a new folder, or --resume to go on with the run in it")
    if resume and not ((folder / "recipe.yaml").is_file() and (folder / "data.json").is_file()):
        raise InputError(f"{folder} holds no run to resume: recipe.yaml or data.json is missing")
    if resume and (folder / "recipe.yaml").read_text(encoding="utf-8") != recipe.to_yaml():
        raise RecipeError(f"the settings differ from those of the run in {folder} (recipe.yaml); resume with the same")


def _record(folder: Path, recipe: Recipe, data: TrainingData, resume: bool) -> None:
    make_folder(folder)
    text = json.dumps(data.model_dump(mode="json"), indent=2) + "\n"
    if resume and (folder / "data.json").read_text(encoding="utf-8") != text:
        raise DataError(f"the data differ from those of the run in {folder} (data.json); resume with the same")
    write_bytes(folder / "recipe.yaml", recipe.to_yaml().encode())
    write_bytes(folder / "data.json", text.encode())


def _weights_of(bundle: Bundle, recipe: Recipe) -> dict[str, Tensor]:
    if bundle.manifest.architecture.name != recipe.model.name or bundle.manifest.classes != recipe.classes:
        raise RecipeError(f"{bundle.path} is of another network or other classes than the recipe; start needs the same")
    return bundle.network().state_dict()


def _initialisation(recipe: Recipe) -> str:
    if recipe.start is not None:
        start = Bundle.load(recipe.start)
        return f"the bundle {start.name}, itself from {start.manifest.training_data.initialisation}"
    if (pretrained := recipe.model.arguments.get("pretrained")) is None:
        return "random weights"
    return f"the pretrained weights {Path(pretrained).name}" + f" ({recipe.model.origin})" * bool(recipe.model.origin)


def _spread(images: cache.CachedImages, count: int) -> NDArray[np.float32]:
    """A few images from all over the set, normalised, (N, 3, S, S)."""
    chosen = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    pixels = images.images[chosen].astype(np.float32).transpose(0, 3, 1, 2) / 255
    normalised: NDArray[np.float32] = (pixels - np.float32(MEAN)) / np.float32(STD)
    return normalised


def _now_and_then(report: Callable[[str], None], seconds: float = 10) -> Callable[[int, int], None]:
    """Report progress at most every ``seconds``."""
    last = time.monotonic()

    def progress(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            report(f"resizing images: {done} of {count}")

    return progress
