"""One training run: recipe and data in, a run folder with checkpoints, curves and a bundle out.

<output>/config.yaml            every setting used
<output>/manifest.json          versions, hardware, state of the code, data, times
<output>/checkpoints/last.ckpt  to resume from
<output>/checkpoints/best.ckpt  best on tune; the bundle is made of it
<output>/bundle/                what `dermseg segment --bundle` takes
<output>/logs/                  losses and scores, of each batch and of each epoch
<output>/figures/               the same as pictures; a few images at each epoch
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from dermseg.bundle import Bundle
from dermseg.errors import DataError, InputError, RecipeError
from dermseg.imaging import make_folder, write_bytes
from dermseg.training.bundling import begin_with, make_bundle
from dermseg.training.config import Recipe
from dermseg.training.datamodule import CachedData
from dermseg.training.journal import Journal
from dermseg.training.manifest import Manifest
from dermseg.training.module import SegmentationTraining
from dermseg.training.pictures import Pictures
from dermseg.training.prepare import RunData, now_and_then, prepare
from dermseg.training.progress import EpochLines, LiveProgress
from dermseg.training.recipes import load_recipe
from dermseg.training.tracking import flattened, open_tracker

FINDER_STEPS, FINDER_LOWEST, FINDER_HIGHEST = 60, 1e-6, 0.1
FINDER_WINDOW = 9  # steps whose losses are averaged
DEBUG_EPOCHS, DEBUG_IMAGES, DEBUG_BATCH = 2, 16, 4
CONFIG, MANIFEST = "config.yaml", "manifest.json"
EXPECTED_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch
    "Checkpoint directory .* exists and is not empty",  # that of a resumed run
    "The '.*_dataloader' does not have many workers",  # a memory map needs none
    r"Found \d+ module\(s\) in eval mode",  # frozen parts
    "GPU available but not used",  # as the user asked
    "It is recommended to use `self.log",  # the scores of tune are of all devices already
    "`torch.jit.script_method` is deprecated",  # the compiler's own use of torch
)


def train(
    recipe: Recipe,
    data: str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    devices: int = 1,
    nodes: int = 1,
    debug: bool = False,
    find_lr: bool = False,
    tracking: str = "auto",
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
        devices: GPUs, or processes on a CPU, on each node; ``recipe.batch_size`` is that of all of them together.
        nodes: Machines that train together; the same command runs on each, with ``NODE_RANK``, ``MASTER_ADDR`` and
            ``MASTER_PORT`` set and one ``output`` that all of them see.
        debug: Two epochs of a few images, to see that everything works.
        find_lr: Look for a learning rate first, and train with it instead of the recipe's.
        tracking: Where MLflow keeps the run: a tracking URI, ``auto`` for a database beside the run's folder where
            MLflow is installed, or ``off``.
        cache_folder: Where resized images are kept; ``dermseg.data.cache.default_folder()`` if None.
        report: Takes a line at the start, after each epoch and at the end.
        progress_bar: Show a bar within each epoch.

    Raises:
        InputError: If ``output`` is in use, or there is nothing to resume.
        RecipeError: If a setting names something that does not exist, or differs from that of the resumed run, if the
            training diverges, or if a batch is too large for the memory.
        DataError: If the data sets cannot be read, a split is empty, or they differ from those of the resumed run.
    """
    folder = Path(output)
    # Else a process that the main one started, or one on another machine.
    main = getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"
    if not main:
        report, progress_bar = _say_nothing, False
    if debug:
        recipe = shortened(recipe, devices * nodes)
    _check_devices(recipe, device, devices, nodes, find_lr)
    if main:
        _check_folder(folder, resume)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # A name in the recipe that does not exist is noticed here, before images are prepared and anything is written.
    with _expected_warnings():
        module = _module(recipe)
    if recipe.freeze and recipe.start is None and not recipe.model.arguments.get("pretrained"):
        report(
            f"{', '.join(recipe.freeze)} would learn nothing and stay random: give weights to begin with "
            "(--init BUNDLE, or --set model.arguments.pretrained=FOLDER), or --set freeze=[]"
        )
    run_data = prepare(
        recipe,
        data,
        at_most=DEBUG_IMAGES if debug else None,
        cache_folder=cache_folder,
        report=report,
        progress=now_and_then(report),
    )
    report(
        f"{len(run_data.train)} images to train on, {len(run_data.tune.images)} to tune on; run folder {folder}; "
        f"the network begins with {run_data.description.initialisation}"
    )
    arguments: dict[str, Any] = {
        "accelerator": "gpu" if _on_gpus(device) else "cpu",
        "precision": _precision(recipe, device, report),
        "accumulate_grad_batches": recipe.optimizer.accumulate,
        "logger": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        # Some operations have no deterministic form on a GPU; those keep to their own.
        "deterministic": "warn" if recipe.deterministic else False,
        "num_sanity_val_steps": 0,
    }
    with _expected_warnings():
        if find_lr:
            rate = _found_before(folder) if resume else _find_rate(recipe, run_data, arguments)
            recipe = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lr": rate})})
            report(f"learning rate {rate:.2g}")
            module = _module(recipe)
        datamodule = _batches(recipe, run_data)
        manifest = Manifest(folder / MANIFEST, data=run_data.description.model_dump(mode="json"), seed=recipe.seed)
        tracker = None
        if resume:
            _check_same(folder, recipe, run_data)
            if json.loads(_read(folder / MANIFEST)).get("status") == "finished":
                report(f"the run in {folder} is finished")
                return Bundle.load(folder / "bundle")
        if main:
            tracker = open_tracker(tracking, folder, recipe, run_data.description.content_hash, report)
            make_folder(folder)
            write_bytes(folder / CONFIG, recipe.to_yaml().encode())
        with tracker or nullcontext(), manifest:
            trainer = lightning.Trainer(
                **arguments,
                devices=devices,
                num_nodes=nodes,
                strategy="ddp" if devices * nodes > 1 else "auto",
                use_distributed_sampler=False,
                plugins=[_WholeFiles()],
                max_epochs=recipe.epochs,
                gradient_clip_val=recipe.optimizer.clip,
                callbacks=[
                    *_weights(folder, recipe),
                    *([LiveProgress()] if progress_bar else []),  # steps aside for the lines
                    EpochLines(report),
                    Journal(folder, manifest),
                    Pictures(folder, run_data.train, run_data.tune.images),
                    *([tracker] if tracker else []),
                ],
            )
            with _one_sentence(recipe):
                trainer.fit(module, datamodule, ckpt_path=_last(folder) if resume else None, weights_only=True)
            if main:
                bundle = make_bundle(folder, recipe, run_data.description, run_data.train)
                report(f"bundle: {bundle.path}")
            trainer.strategy.barrier()
    return Bundle.load(folder / "bundle")


def run_name(recipe: Recipe, when: datetime) -> str:
    """A run folder's name: recipe, optimizer, schedule, learning rate and time."""
    optimizer = recipe.optimizer
    return f"{recipe.name}_{optimizer.name}_{recipe.schedule.name}_lr{optimizer.lr:g}_{when:%Y%m%d-%H%M%S}"


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """An exponential moving average whose decay grows to ``decay``, so that a short run forgets where it began."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():  # an index or a counter, which rounding would make another one
            return current
        weight = min(decay, (1 + int(count)) / (10 + int(count)))
        return averaged * weight + current * (1 - weight)

    return average


def _module(recipe: Recipe) -> SegmentationTraining:
    lightning.seed_everything(recipe.seed, verbose=False)  # the same network whenever it is made
    module = SegmentationTraining(recipe)
    if recipe.start is not None:
        begin_with(module.model, Bundle.load(recipe.start), recipe)
    return module


def _batches(recipe: Recipe, data: RunData) -> CachedData:
    return CachedData(
        data.train,
        data.tune,
        recipe.batch_size,
        recipe.seed,
        sampling=recipe.data.sampling,
        images_per_epoch=recipe.data.images_per_epoch,
    )


def _weights(folder: Path, recipe: Recipe) -> list[Callback]:
    """What averages the weights, keeps the best and the last, and stops when they no longer get better."""
    score = f"tune/{recipe.monitor}"
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        _Averaging(avg_fn=moving_average(recipe.ema)),
        _Checkpoint(checkpoints, filename="best", monitor=score, mode="max", enable_version_counter=False),
        # Not by save_last, which follows the best epochs only; after the best, whose score it keeps.
        _Checkpoint(checkpoints, filename="last", enable_version_counter=False),
    ]
    if recipe.early_stopping is not None:
        callbacks.append(_EarlyStopping(score, patience=recipe.early_stopping, mode="max"))
    return callbacks


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Says nothing of ``EXPECTED_WARNINGS``."""
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def _one_sentence(recipe: Recipe) -> Iterator[None]:
    """Turns what Lightning and torch say of an interrupt, and of memory, into an exception that can be told."""
    try:
        yield
    except SystemExit as error:  # Lightning's answer to Ctrl-C, which it then ignores
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError.
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error):
            raise RecipeError(
                f"a batch of {recipe.batch_size} images of {recipe.input_size} px is too large for the memory; "
                "lower batch_size (and raise optimizer.accumulate as much), or input_size"
            ) from error
        raise


def _find_rate(recipe: Recipe, data: RunData, arguments: dict[str, Any]) -> float:
    """A tenth of the learning rate at which the loss falls fastest (Smith, WACV 2017), by Lightning's finder.

    Fastest by the rate's logarithm, in which it grows evenly: its own suggestion is by the rate itself, and so of the
    noise at the lowest ones.
    """
    datamodule, module = _batches(recipe, data), _module(recipe)
    with tempfile.TemporaryDirectory() as scratch, _one_sentence(recipe):
        trainer = lightning.Trainer(
            **arguments,
            devices=1,
            max_epochs=1 + FINDER_STEPS * recipe.optimizer.accumulate // len(datamodule.train_dataloader()),
            gradient_clip_val=recipe.optimizer.clip,
            limit_val_batches=0,
            enable_checkpointing=False,
            default_root_dir=scratch,  # where it keeps the weights it began with
        )
        found = Tuner(trainer).lr_find(
            module,
            datamodule,
            attr_name="learning_rate",
            num_training=FINDER_STEPS,
            min_lr=FINDER_LOWEST,
            max_lr=FINDER_HIGHEST,
        )
    rate = None if found is None else steepest(found.results["lr"], found.results["loss"])
    if rate is None:
        raise RecipeError("no learning rate was found at which the loss falls; give one as optimizer.lr")
    return float(f"{rate / 10:.2g}")


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The learning rate at which a smoothed loss falls fastest with the rate's logarithm.

    Args:
        rates: Rising.
        losses: At each of them.

    Returns:
        The rate; None where the losses are too few, or never fall.
    """
    if len(losses) < 2 * FINDER_WINDOW:
        return None
    even = np.full(FINDER_WINDOW, 1 / FINDER_WINDOW)
    smooth, logarithms = (np.convolve(values, even, "valid") for values in (losses, np.log(rates)))
    slopes = np.gradient(smooth, logarithms)
    lowest = int(np.argmin(slopes))
    return float(np.exp(logarithms[lowest])) if slopes[lowest] < 0 else None


class _Averaging(WeightAveraging):
    """Keeps the average where the network will be: when it is set up, the network itself is not there yet."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)


class _EarlyStopping(EarlyStopping):
    """Stops a resumed run at once if it had stopped already."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole, beside the old one; Lightning overwrites that where $TMPDIR is on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        assert storage_options is None
        content = io.BytesIO()
        torch.save(checkpoint, content)
        make_folder(Path(path).parent)
        write_bytes(path, content.getbuffer())


class _Checkpoint(ModelCheckpoint):
    """Keeps its score also in a run whose folder was moved, which Lightning takes for another one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


def _say_nothing(line: str) -> None:
    """What a process that the main one started reports."""


def shortened(recipe: Recipe, devices: int) -> Recipe:
    """The recipe of a debug run: two epochs, in batches of a few images."""
    return recipe.model_copy(
        update={
            "epochs": DEBUG_EPOCHS,
            "batch_size": devices * max(1, min(recipe.batch_size, DEBUG_BATCH) // devices),
            "schedule": recipe.schedule.model_copy(update={"warmup": min(recipe.schedule.warmup, 0.5), "t_max": None}),
            "data": recipe.data.model_copy(update={"images_per_epoch": None}),
        }
    )


def _precision(recipe: Recipe, device: str, report: Callable[[str], None]) -> str:
    """The recipe's precision; float32 in place of a bfloat16 that is emulated, which takes many times as long."""
    if _on_gpus(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        native = any(found for name, found in capabilities.items() if "bf16" in name)
    if recipe.precision != "bf16-mixed" or native:
        return recipe.precision
    report("this processor only emulates bfloat16: training in float32")
    return "32-true"


def _on_gpus(device: str) -> bool:
    # Not Lightning's own "auto", which would take a GPU of Apple's, and that has no float64.
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def _check_devices(recipe: Recipe, device: str, devices: int, nodes: int, find_lr: bool) -> None:
    if _on_gpus(device) and torch.cuda.device_count() < devices:
        raise InputError(f"{devices} GPUs are asked for, torch finds {torch.cuda.device_count()}; give --device cpu")
    if recipe.batch_size % (devices * nodes):
        raise RecipeError(f"batch_size is {recipe.batch_size}; expected a multiple of {devices * nodes}, the devices")
    if find_lr and devices * nodes > 1:
        raise InputError("a learning rate is looked for on one device; look for it first, then set optimizer.lr")


def _check_folder(folder: Path, resume: bool) -> None:
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is in use; give a new folder, or --resume to go on with the run in it")
    if resume and not ((folder / CONFIG).is_file() and (folder / MANIFEST).is_file()):
        raise InputError(f"{folder} holds no run to resume: {CONFIG} or {MANIFEST} is missing")


def _check_same(folder: Path, recipe: Recipe, data: RunData) -> None:
    before, now = (flattened(r.model_dump(mode="json")) for r in (load_recipe(str(folder / CONFIG)), recipe))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise RecipeError(
                f"{name} is {now.get(name)}, but the run in {folder} was begun with {before.get(name)}; "
                "resume with the same settings"
            )
    begun, found = json.loads(_read(folder / MANIFEST)).get("data"), data.description.model_dump(mode="json")
    # Which images were trained on tells the hash of their content; an older version has no hash of the table.
    if not isinstance(begun, dict) or {**found, **begun, "splits_hash": None} != {**found, "splits_hash": None}:
        raise DataError(f"the data differ from those of the run in {folder} ({MANIFEST}); resume with the same")


def _read(file: Path) -> str:
    """The text of a JSON object.

    Raises:
        InputError: If it is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if isinstance(json.loads(text), dict):
            return text
    except (OSError, ValueError):
        pass
    raise InputError(f"{file} cannot be read, so the run cannot be resumed; begin a new one")


def _last(folder: Path) -> Path | None:
    """The checkpoint to go on from; none in a run that was stopped in its first epoch and begins again.

    Raises:
        InputError: If it is broken.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return None
    try:
        torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{last} is broken, so the run cannot be resumed; begin a new one") from error
    return last


def _found_before(folder: Path) -> float:
    """The learning rate that a run to resume was begun with."""
    return load_recipe(str(folder / CONFIG)).optimizer.lr
