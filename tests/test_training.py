"""Training: a real, tiny run from images to a bundle, and the same run interrupted and resumed."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.swa_utils import AveragedModel
from transformers import MobileNetV2Config, MobileNetV2Model

from dermseg import synthetic
from dermseg.bundle import Bundle
from dermseg.data import cache, catalog, splits
from dermseg.data.catalog import CC0, CC_BY_NC
from dermseg.errors import BundleError, DataError, InputError, RecipeError
from dermseg.export import export
from dermseg.manifest import ONNX, WEIGHTS, Architecture
from dermseg.metrics import Confusion
from dermseg.models import build
from dermseg.models.unet import UNet
from dermseg.training.bundling import begin_with, licence_of_weights, network_of
from dermseg.training.config import Recipe
from dermseg.training.datamodule import ShuffledBatches
from dermseg.training.prepare import prepare
from dermseg.training.recipes import load_recipe
from dermseg.training.run import _precision, _WholeFiles, moving_average, steepest, train

torch.set_num_threads(1)

SIZE = 32
EPOCHS = 3
# Where the network does not matter: one that is made a bundle in a fifth of the time; and the same without what makes
# an image's result depend on the others of its batch or on chance.
DRAWING = {"name": "unet", "arguments": {"widths": [8, 8], "norm": "batch", "dropout": 0.2}}
SETTLED = {"name": "unet", "arguments": {"widths": [8, 8], "norm": "group"}}


class StopError(Exception):
    """What stops a run in these tests."""


@dataclass(frozen=True)
class Place:
    """Data of two sources, a table of splits and pretrained weights, below one folder."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def recipe(self, **settings: Any) -> Recipe:
        arguments = {"pretrained": str(self.folder / "weights"), "dropout": 0.2}
        usual: dict[str, Any] = {
            "name": "tiny",
            "description": "A run of a test.",
            "model": {"name": "light", "arguments": arguments},
            "input_size": SIZE,
            "data": {"splits": self.folder / "splits.csv"},
            "epochs": EPOCHS,
            "batch_size": 5,
            "ema": 0.5,
            "precision": "32-true",
        }
        return Recipe.model_validate(usual | settings)

    def train(self, output: Path, recipe: Recipe, **arguments: Any) -> Bundle:
        usual: dict[str, Any] = {
            "cache_folder": self.cache,
            "device": "cpu",
            "tracking": "off",
            "report": lambda line: None,
        }
        return train(recipe, self.data, output, **(usual | arguments))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """16 plain images and 8 in the layout of ISIC 2018; every fourth is on tune."""
    place = Place(tmp_path_factory.mktemp("training"))
    synthetic.write_dataset(place.data / "own", 16, size=(48, 64))
    synthetic.write_dataset(place.folder / "drawn", 8, seed=100, size=(64, 48))
    rows = ["id,group,split"]
    for number, image in enumerate(sorted((place.folder / "drawn" / "images").iterdir())):
        official = place.data / "official" / "ISIC2018_Task1-2_Training_Input" / f"ISIC_{number:07d}.png"
        mask = place.data / "official" / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_{number:07d}_segmentation.png"
        for source, target in ((image, official), (place.folder / "drawn" / "masks" / image.name, mask)):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
    for number, sample in enumerate(catalog.read(place.data)):
        rows.append(f"{sample.id},{sample.group},{'tune' if number % 4 == 0 else 'train'}")
    (place.folder / "splits.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(7)
    MobileNetV2Model(MobileNetV2Config(tf_padding=True)).save_pretrained(place.folder / "weights")
    return place


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    bundle: Bundle
    lines: list[str]

    @property
    def metrics(self) -> list[dict[str, float]]:
        return metrics_of(self.folder)

    def checkpoint(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        return content


def metrics_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as table:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(table)]


def timeless(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """The rows without what differs each time."""
    return [{name: v for name, v in row.items() if name not in ("seconds", "images_per_second")} for row in rows]


@pytest.fixture(scope="module")
def run(place: Place) -> Run:
    lines: list[str] = []
    bundle = place.train(place.folder / "run", place.recipe(), report=lines.append)
    return Run(place.folder / "run", bundle, lines)


@pytest.fixture(scope="module")
def small(place: Place) -> Run:
    lines: list[str] = []
    bundle = place.train(place.folder / "small", place.recipe(model=DRAWING), report=lines.append)
    return Run(place.folder / "small", bundle, lines)


# --- a run ---------------------------------------------------------------------------------------


def test_the_run_folder_holds_what_it_should_and_nothing_else(run: Run) -> None:
    assert {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()} == {
        "config.yaml",
        "manifest.json",
        "logs/metrics.csv",
        "logs/metrics.jsonl",
        "figures/metrics_history.png",
        "figures/detailed_metrics.png",
        "figures/learning_rate.png",
        "figures/dataset_samples.png",
        *(f"figures/epochs/epoch_{epoch:03d}.png" for epoch in range(1, EPOCHS + 1)),
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "bundle/bundle.json",
        "bundle/model.onnx",
        "bundle/model_dropout.onnx",
        "bundle/model.safetensors",
        "bundle/MODEL_CARD.md",
    }


def test_the_recipe_is_recorded(run: Run, place: Place) -> None:
    assert load_recipe(str(run.folder / "config.yaml")) == place.recipe()


def test_the_data_are_recorded(run: Run, place: Place) -> None:
    table = splits.read(place.folder / "splits.csv")
    sides = [splits.select(catalog.read(place.data), side, table) for side in ("train", "tune")]
    content = "".join(cache.load(side, ["lesion"], SIZE, folder=place.cache).content_hash for side in sides)
    assert json.loads((run.folder / "manifest.json").read_text())["data"] == {
        "sources": {"isic2018": 6, "plain": 12},
        "licences": {"isic2018": CC_BY_NC, "plain": "not stated"},
        "split": "train",
        "initialisation": "the pretrained weights weights",
        "content_hash": hashlib.sha256(content.encode()).hexdigest(),
        "splits_hash": splits.fingerprint(table),
    }


def test_each_epoch_has_a_row_and_a_line(run: Run) -> None:
    rows = run.metrics
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    scores = {"jaccard", "thresholded_jaccard", "dice", "sensitivity", "precision", "micro_jaccard", "threshold"}
    columns = {f"tune/{name}" for name in (*scores, "loss", "jaccard_isic2018", "jaccard_plain")}
    counts = {"epoch", "step", "images", "seconds", "images_per_second"}
    counts |= {"learning_rate", "learning_rate_encoder", "learning_rate_rest"}
    for row in rows:
        assert row.keys() == {"train/loss", "train/loss_bce", "train/loss_jaccard", *counts, *columns}
        assert row["train/loss"] == pytest.approx(row["train/loss_bce"] + row["train/loss_jaccard"], rel=1e-5)
        assert 0 < row["train/loss"] < 3
        # Each source counts the same, whatever its size.
        mean = (row["tune/jaccard_isic2018"] + row["tune/jaccard_plain"]) / 2
        assert row["tune/jaccard"] == pytest.approx(mean, abs=1e-5)
    first, *epochs, last = run.lines
    assert first == (
        f"18 images to train on, 6 to tune on; run folder {run.folder}; "
        "the network begins with the pretrained weights weights"
    )
    assert last == f"bundle: {run.folder / 'bundle'}"
    for number, (line, row) in enumerate(zip(epochs, rows, strict=True), start=1):
        shown = re.match(rf"epoch {number}/3: train/loss ([\d.]+), tune/loss ([\d.]+), jaccard ([\d.]+), ", line)
        assert shown is not None
        values = [row[name] for name in ("train/loss", "tune/loss", "tune/jaccard")]
        assert [float(text) for text in shown.groups()] == pytest.approx(values, abs=1e-4)


def test_the_best_checkpoint_has_the_score_and_the_threshold_it_was_chosen_for(run: Run, place: Place) -> None:
    """Scored again from the cached pixels, by the official metric."""
    samples = splits.select(catalog.read(place.data), "tune", splits.read(place.folder / "splits.csv"))
    images = cache.load(samples, ["lesion"], SIZE, folder=place.cache)
    best = run.checkpoint("best")
    network = build("light", classes=1).eval()
    network.load_state_dict({name.removeprefix("model."): value for name, value in best["state_dict"].items()})
    batch = torch.from_numpy(images.images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        probability = network(batch)[:, 0].sigmoid().numpy()

    def score(threshold: float) -> float:
        by_source: dict[str, list[float]] = {}
        for sample, p, mask in zip(samples, probability, images.masks[:, 0], strict=True):
            by_source.setdefault(sample.source, []).append(Confusion.of(p > threshold, mask > 127).jaccard)
        return float(np.mean([np.mean(scores) for scores in by_source.values()]))

    row = max(run.metrics, key=lambda row: row["tune/jaccard"])
    assert best["thresholds"]["lesion"] == row["tune/threshold"]
    assert score(best["thresholds"]["lesion"]) == pytest.approx(row["tune/jaccard"], abs=1e-4)
    assert all(score(t / 100) <= row["tune/jaccard"] + 1e-4 for t in range(1, 100))


def test_the_learning_rate_ends_at_zero_and_the_encoders_is_a_share(place: Place, run: Run) -> None:
    encoder, rest = run.checkpoint("last")["optimizer_states"][0]["param_groups"]
    assert rest["initial_lr"] == 1e-3
    assert encoder["initial_lr"] == 1e-3 * place.recipe().optimizer.encoder_lr
    assert rest["lr"] == pytest.approx(0, abs=1e-12)
    assert run.checkpoint("last")["global_step"] == EPOCHS * (18 // 5)


def test_every_weight_was_trained(run: Run, place: Place) -> None:
    torch.manual_seed(0)
    fresh = build("light", classes=1, pretrained=place.folder / "weights").encoder
    assert isinstance(fresh, torch.nn.Module)
    trained = run.checkpoint("last")["current_model_state"]
    same = [name for name, value in fresh.named_parameters() if torch.equal(value, trained[f"model.encoder.{name}"])]
    assert same == []


# --- its bundle ----------------------------------------------------------------------------------


def test_the_bundle_says_what_it_is(run: Run, place: Place) -> None:
    manifest = Bundle.load(run.bundle.path).manifest
    assert manifest == run.bundle.manifest
    assert (manifest.name, manifest.description) == ("tiny", "A run of a test.")
    assert manifest.classes == ("lesion",)
    assert manifest.input_size == SIZE
    assert 0 < manifest.thresholds["lesion"] < 1
    assert manifest.thresholds == {"lesion": run.checkpoint("best")["thresholds"]["lesion"]}
    assert manifest.licence == "as its training data: CC-BY-NC-4.0, not stated"
    assert manifest.training_data.model_dump() == json.loads((run.folder / "manifest.json").read_text())["data"]
    assert manifest.versions.keys() == {"dermseg", "torch", "lightning", "onnx"}


def test_the_bundle_needs_no_pretrained_weights(run: Run, place: Place) -> None:
    assert run.bundle.manifest.architecture.arguments == {"dropout": 0.2}
    for name in ("bundle.json", "MODEL_CARD.md"):
        assert str(place.folder) not in (run.bundle.path / name).read_text()


def test_the_bundle_holds_the_best_checkpoint_in_half_precision(run: Run) -> None:
    run.bundle.verify()
    best = run.checkpoint("best")["state_dict"]
    network = run.bundle.network()
    assert {f"model.{name}" for name in network.state_dict()} == best.keys()
    for name, value in network.state_dict().items():
        stored = best[f"model.{name}"]
        assert torch.equal(value, stored.half().float() if stored.is_floating_point() else stored), name
    assert run.bundle.manifest.architecture.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("licences", "licence"),
    [
        ([], "Apache-2.0"),
        ([CC0], "Apache-2.0"),
        ([CC_BY_NC], "CC-BY-NC-4.0"),
        ([CC0, CC_BY_NC, CC_BY_NC], "CC-BY-NC-4.0"),
        ([CC0, "Apache-2.0"], "Apache-2.0"),
        (["not stated", CC0], "as its training data: not stated"),
        ([CC_BY_NC, "research and education only"], "as its training data: CC-BY-NC-4.0, research and education only"),
    ],
)
def test_weights_take_the_strictest_licence_of_their_data(licences: list[str], licence: str) -> None:
    assert licence_of_weights(licences) == licence
    assert licence_of_weights(reversed(licences)) == licence


def test_the_moving_average_forgets_where_a_short_run_began() -> None:
    average = moving_average(0.999)
    value = torch.zeros(())
    for count in range(1, 85):
        value = average(value, torch.ones(()), torch.tensor(count))
    assert value > 0.99
    assert float(average(torch.zeros(()), torch.ones(()), 10**6)) == pytest.approx(0.001)


def test_the_moving_average_leaves_an_index_as_it_is() -> None:
    network = build("swin-upernet", classes=1, width=16, depths=[1, 1, 1, 1], embed_dim=32)
    averaged = AveragedModel(network, avg_fn=moving_average(0.999), use_buffers=True)
    for _ in range(50):
        averaged.update_parameters(network)
    whole = {name: buffer for name, buffer in network.named_buffers() if not buffer.is_floating_point()}
    assert any("relative_position_index" in name for name in whole)
    for name, buffer in whole.items():
        assert torch.equal(buffer, averaged.module.get_buffer(name)), name


def test_a_run_may_begin_with_the_weights_of_a_bundle(small: Run, place: Place, tmp_path: Path) -> None:
    still = {"lr": 1e-12, "weight_decay": 0}
    recipe = place.recipe(model=DRAWING, start=str(small.bundle.path), epochs=1, optimizer=still)
    bundle = place.train(tmp_path / "run", recipe)
    for (name, began), ended in zip(
        small.bundle.network().named_parameters(), bundle.network().parameters(), strict=True
    ):
        assert torch.allclose(began, ended, atol=1e-6), name
    assert bundle.manifest.training_data.initialisation == "the bundle tiny, itself from random weights"


def test_weights_keep_the_licence_of_the_bundle_they_began_with(run: Run, place: Place, tmp_path: Path) -> None:
    recipe = place.recipe(start=str(run.bundle.path))
    licences = prepare(recipe, place.data, cache_folder=place.cache).description.licences
    assert licences == {
        "isic2018": CC_BY_NC,
        "plain": "not stated",
        "weights it began with": "as its training data: CC-BY-NC-4.0, not stated",
    }
    assert licence_of_weights(licences.values()) == "as its training data: CC-BY-NC-4.0, not stated"


def test_a_start_trained_by_another_table_of_splits_is_told(small: Run, place: Place, tmp_path: Path) -> None:
    rows = (place.folder / "splits.csv").read_text().splitlines()
    (tmp_path / "same.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]))
    sides = {"train": "tune", "tune": "train"}
    exchanged = [",".join((*row.split(",")[:2], sides[row.split(",")[2]])) for row in rows[1:]]
    (tmp_path / "other.csv").write_text("\n".join([rows[0], *exchanged]))
    remark = "tiny was trained by another table of splits: it may have seen images of tune and test"
    teachers = {"teachers": [str(small.bundle.path)]}
    for name, more, told in (
        ("same", {"start": str(small.bundle.path)}, []),
        ("other", {"start": str(small.bundle.path)}, [remark]),
        ("same", {"distillation": teachers}, []),
        ("other", {"distillation": teachers}, [remark]),
    ):
        lines: list[str] = []
        recipe = place.recipe(model=DRAWING, data={"splits": tmp_path / f"{name}.csv"}, **more)
        prepare(recipe, place.data, cache_folder=place.cache, report=lines.append)
        assert lines == told


def test_a_bundle_of_another_network_is_no_start(run: Run, place: Place, tmp_path: Path) -> None:
    for network in ({"name": "unet"}, {"name": "light", "arguments": {"widths": [8, 8, 8, 8]}}):
        recipe = place.recipe(start=str(run.bundle.path), model=network)
        message = refusal(RecipeError, lambda recipe=recipe: place.train(tmp_path / "run", recipe))  # type: ignore[misc]
        assert message.startswith(f"{run.bundle.path} is of another network (light {{'dropout': 0.2}}) than the recipe")


def test_a_bundle_that_is_not_there_is_no_start(place: Place, tmp_path: Path) -> None:
    message = refusal(BundleError, lambda: place.train(tmp_path / "run", place.recipe(start="nope")))
    assert message.startswith("there is no bundle 'nope'; give a folder, a zip or one of: ")
    assert not (tmp_path / "run").exists()


def test_a_bundle_of_other_classes_gives_all_but_its_heads(run: Run) -> None:
    recipe = load_recipe("lesion", ["classes=[streaks, globules]", "name=two"])
    network = build("light", classes=2)
    head = network.state_dict()["head.weight"].clone()
    begin_with(network, run.bundle, recipe)
    began = run.bundle.network().state_dict()
    for name, value in network.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, began[name]), name
    assert torch.equal(network.state_dict()["head.weight"], head)


# --- interrupted and resumed ---------------------------------------------------------------------


def stop_at(epoch: int, error: type[BaseException] = StopError) -> Callable[[str], None]:
    """A report that stops the run when it hears of this epoch, before its checkpoint is saved."""

    def report(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise error

    return report


def assert_same(one: Any, other: Any, where: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, where=f"{where}.{index}")
    else:
        assert one == other, where


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(run: Run, place: Place, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        place.train(tmp_path / "begun", place.recipe(), report=stop_at(2))
    assert not (tmp_path / "begun" / "bundle").exists()
    folder = (tmp_path / "begun").rename(tmp_path / "moved")
    torch.rand(5)  # a new process stands elsewhere in its random numbers
    lines: list[str] = []
    resumed = Run(folder, place.train(folder, place.recipe(), resume=True, report=lines.append), lines)

    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 2/3", "epoch 3/3", "bundle"]
    assert timeless(resumed.metrics) == timeless(run.metrics)
    for name in ("best", "last"):
        one, other = run.checkpoint(name), resumed.checkpoint(name)
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert_same(one[part], other[part], f"{name}: {part}")
        assert all(one[part] == other[part] for part in ("epoch", "global_step", "thresholds"))
    for file in (WEIGHTS, ONNX):
        assert run.bundle.read(file) == resumed.bundle.read(file)
    assert run.bundle.manifest == resumed.bundle.manifest


def test_a_finished_run_resumes_to_the_same_bundle(run: Run, place: Place, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.bundle.path.iterdir()}
    shutil.copytree(run.folder, tmp_path / "kept")
    again = place.train(run.folder, place.recipe(), resume=True)
    assert {path.name: path.read_bytes() for path in again.path.iterdir()} == before
    assert (run.folder / "logs" / "metrics.csv").read_bytes() == (
        tmp_path / "kept" / "logs" / "metrics.csv"
    ).read_bytes()


def test_a_run_begun_by_an_older_version_resumes(small: Run, place: Place, tmp_path: Path) -> None:
    shutil.copytree(small.folder, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["data"]["splits_hash"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    again = place.train(tmp_path / "run", place.recipe(model=DRAWING), resume=True)
    assert again.read(WEIGHTS) == small.bundle.read(WEIGHTS)


def test_an_interrupt_by_the_user_reaches_the_caller_and_leaves_no_bundle(place: Place, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        place.train(tmp_path / "run", place.recipe(), report=stop_at(2, KeyboardInterrupt))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_machine_with_many_cores_gets_no_warnings(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    with pytest.raises(StopError):
        place.train(tmp_path / "run", place.recipe(), report=stop_at(1))


def command(place: Place, recipe: Recipe, output: Path, *options: str) -> subprocess.Popen[str]:
    """``dermseg train`` in a process of its own."""
    path = output.with_suffix(".yaml")
    path.write_text(recipe.to_yaml())
    arguments = ["train", str(path), "--data", str(place.data), "--output", str(output), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "dermseg", *arguments, "--tracking", "off", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"DERMSEG_CACHE": str(place.cache), "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The lines the process writes until it ends well."""
    assert process.stderr is not None
    with process:
        lines = [line.strip() for line in process.stderr]
    assert process.returncode == 0, lines
    return lines


def epoch_of(line: str) -> int | None:
    shown = re.match(r"epoch (\d+)/", line)
    return int(shown[1]) if shown else None


def test_a_killed_run_loses_at_most_an_epoch_and_ends_like_an_uninterrupted_one(place: Place, tmp_path: Path) -> None:
    recipe, chance = place.recipe(model=DRAWING, epochs=6), random.Random()
    whole = place.train(tmp_path / "whole", recipe)
    process = command(place, recipe, tmp_path / "killed")
    assert process.stderr is not None
    last, reached = chance.randint(1, 5), 0
    with process:
        for line in process.stderr:
            reached = epoch_of(line) or reached
            if reached == last:
                break
        time.sleep(chance.uniform(0, 1.5))
        process.kill()
        rest = [number for line in process.stderr if (number := epoch_of(line))]
    reached = max([reached, *rest])
    resumed = [epoch_of(line) for line in finish(command(place, recipe, tmp_path / "killed", "--resume"))]
    epochs = [number for number in resumed if number]
    assert epochs == [] or epochs[0] in (reached, reached + 1), f"killed after epoch {reached}"
    assert epochs[-1:] in ([], [6])
    killed = Bundle.load(tmp_path / "killed" / "bundle")
    assert killed.read(WEIGHTS) == whole.read(WEIGHTS)
    assert timeless(metrics_of(tmp_path / "killed")) == timeless(metrics_of(tmp_path / "whole"))


def test_two_devices_train_like_one(place: Place, tmp_path: Path) -> None:
    """Two processes that share each batch see the same images in the same steps as one, and score alike."""
    recipe = place.recipe(model=SETTLED, batch_size=6, augmentation="none", optimizer={"lr": 0.01})
    place.train(tmp_path / "one", recipe)
    lines = finish(command(place, recipe, tmp_path / "two", "--devices", "2"))
    assert [line.split(":")[0] for line in lines if line.startswith(("epoch", "bundle"))] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
        "bundle",
    ]
    for one, two in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        assert one["images"] == two["images"]
        for name in ("tune/loss", "tune/jaccard", "tune/dice", "tune/jaccard_plain", "tune/threshold"):
            assert two[name] == pytest.approx(one[name], abs=2e-3), name
    weights = [Bundle.load(tmp_path / name / "bundle").network().state_dict() for name in ("one", "two")]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-3), name


# --- what is refused -----------------------------------------------------------------------------


def refusal(error: type[Exception], action: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


def test_a_folder_in_use_is_refused_and_left_alone(run: Run, place: Place, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt", run.folder):
        message = refusal(InputError, lambda folder=folder: place.train(folder, place.recipe()))  # type: ignore[misc]
        assert message == f"{folder} is in use; give a new folder, or --resume to go on with the run in it"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_where_nothing_can_be_resumed_it_is_said(place: Place, tmp_path: Path) -> None:
    message = refusal(InputError, lambda: place.train(tmp_path, place.recipe(), resume=True))
    assert message == f"{tmp_path} holds no run to resume: config.yaml or manifest.json is missing"


def test_a_run_stopped_in_its_first_epoch_begins_again(small: Run, place: Place, tmp_path: Path) -> None:
    recipe = place.recipe(model=DRAWING)
    with pytest.raises(StopError):
        place.train(tmp_path / "run", recipe, report=stop_at(1))
    again = place.train(tmp_path / "run", recipe, resume=True)
    assert again.read("model.safetensors") == small.bundle.read("model.safetensors")


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"epochs": 9}, "epochs is 9, but the run in {} was begun with 3"),
        ({"seed": 1}, "seed is 1, but the run in {} was begun with 0"),
        ({"loss": {"bce": 1}}, "loss.jaccard is None, but the run in {} was begun with 1.0"),
    ],
)
def test_other_settings_are_refused_on_resuming(
    run: Run, place: Place, settings: dict[str, Any], difference: str
) -> None:
    message = refusal(RecipeError, lambda: place.train(run.folder, place.recipe(**settings), resume=True))
    assert message == f"{difference.format(run.folder)}; resume with the same settings"
    assert load_recipe(str(run.folder / "config.yaml")) == place.recipe()


def test_other_data_are_refused_on_resuming(run: Run, place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.data, tmp_path / "data")
    image = catalog.read(tmp_path / "data", ["plain"])[1].image
    image.write_bytes(synthetic_png(seed=50))
    recorded = (run.folder / "manifest.json").read_bytes()
    message = refusal(
        DataError,
        lambda: train(place.recipe(), tmp_path / "data", run.folder, resume=True, cache_folder=tmp_path / "cache"),
    )
    assert message == f"the data differ from those of the run in {run.folder} (manifest.json); resume with the same"
    assert (run.folder / "manifest.json").read_bytes() == recorded


def synthetic_png(seed: int) -> bytes:
    from dermseg.imaging import encode_image

    return encode_image(synthetic.draw(seed, (48, 64)).pixels)


@pytest.mark.parametrize("side", ["train", "tune"])
def test_a_split_without_images_is_refused(place: Place, tmp_path: Path, side: str) -> None:
    other = "tune" if side == "train" else "train"
    rows = [f"{sample.id},{sample.group},{other}" for sample in catalog.read(place.data)]
    (tmp_path / "splits.csv").write_text("\n".join(["id,group,split", *rows]))
    recipe = place.recipe(data={"splits": tmp_path / "splits.csv"})
    message = refusal(DataError, lambda: place.train(tmp_path / "run", recipe))
    assert message == (
        f"{place.data} has no image with masks of lesion in the split '{side}'; training needs some; draw sides with "
        "'dermseg data split' and give --set data.splits=TABLE"
    )
    assert not (tmp_path / "run").exists()


def test_a_class_without_masks_is_refused(place: Place, tmp_path: Path) -> None:
    recipe = place.recipe(classes=["lesion", "streaks"])
    message = refusal(DataError, lambda: place.train(tmp_path / "run", recipe))
    assert message == (
        f"{place.data / 'own' / 'images' / 'synthetic_00000.png'} has no mask of streaks (16 of 16 images lack a "
        "mask); expected masks/synthetic_00000_streaks.png, empty where nothing is to be seen"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": {"name": "unet3000"}}, "there is no model 'unet3000'; did you mean 'unet'?"),
        ({"model": {"name": "light", "arguments": {"depth": 3}}}, "model 'light' "),
        (
            {"model": {"name": "light", "arguments": {"encoder": "efficientnet-lite7"}}},
            "model 'light' does not take these arguments: there is no encoder 'efficientnet-lite7'; did you mean ",
        ),
        ({"loss": {"dyce": 1}}, "there is no loss 'dyce'; did you mean 'dice'?"),
        ({"schedule": {"warmup": 3}}, "schedule.warmup is 3 epochs in a run of 3; make it shorter"),
        ({"freeze": ["encoder", "bottom", "context", "blocks", "head"]}, "the recipe freezes the whole network"),
    ],
)
def test_names_that_do_not_exist_are_refused_before_images_are_prepared(
    place: Place, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    recipe = place.recipe(**settings)
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", recipe, cache_folder=tmp_path / "cache"))
    assert message.startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_a_number_stops_the_run(place: Place, tmp_path: Path) -> None:
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", place.recipe(optimizer={"lr": 1e30})))
    assert re.fullmatch(
        r"the training diverged: the loss is not a number in epoch \d, batch \d; lower optimizer.lr, "
        "or set precision to 32-true",
        message,
    )
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"


def test_a_batch_that_the_devices_cannot_share_is_refused(place: Place, tmp_path: Path) -> None:
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", place.recipe(), devices=2))
    assert message == "batch_size is 5; expected a multiple of 2, the devices"


def test_a_part_that_is_not_there_cannot_be_frozen(place: Place, tmp_path: Path) -> None:
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", place.recipe(freeze=["backbone"])))
    assert message.startswith("cannot freeze 'backbone': the network has no such part; it has encoder, ")


def test_parts_that_would_stay_random_are_told_of(place: Place, tmp_path: Path) -> None:
    lines: list[str] = []
    place.train(tmp_path / "run", place.recipe(model=DRAWING, freeze=["encoder"]), debug=True, report=lines.append)
    assert lines[0].startswith("encoder would learn nothing and stay random: give weights to begin with ")


def test_a_batch_too_large_for_the_memory_is_named(place: Place, tmp_path: Path) -> None:
    """In a process of its own whose memory is limited."""
    script = f"""
import resource, sys
from pathlib import Path
from dermseg.training.config import Recipe
from dermseg.training.run import train
from dermseg.errors import RecipeError
recipe = Recipe.model_validate_json(sys.stdin.read())
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
try:
    train(recipe, {str(place.data)!r}, {str(tmp_path / "run")!r}, cache_folder=Path({str(place.cache)!r}),
          device="cpu", tracking="off")
except RecipeError as error:
    print("refused:", error)
"""
    network = {"name": "unet", "arguments": {"widths": [256, 8]}}
    recipe = place.recipe(model=network, input_size=1024, batch_size=18, augmentation="none")
    done = subprocess.run(
        [sys.executable, "-c", script], input=recipe.model_dump_json(), capture_output=True, text=True, check=False
    )
    assert (
        "refused: a batch of 18 images of 1024 px is too large for the memory; lower batch_size (and raise "
        "optimizer.accumulate as much), or input_size"
    ) in done.stdout, done.stderr[-2000:]


# --- what a run may be told ----------------------------------------------------------------------


def test_a_frozen_part_keeps_the_statistics_of_its_normalisation(place: Place, tmp_path: Path) -> None:
    began = place.train(tmp_path / "began", place.recipe(model=DRAWING, epochs=1))
    recipe = place.recipe(model=DRAWING, epochs=2, start=str(began.path), freeze=["encoder"])
    ended = place.train(tmp_path / "ended", recipe)
    before, after = began.network().state_dict(), ended.network().state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "head"}


def test_the_first_epochs_may_be_of_smaller_images(place: Place, tmp_path: Path) -> None:
    sides: dict[bool, list[int]] = {True: [], False: []}

    def look(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, UNet):
            sides[module.training].append(given[0].shape[-1])

    recipe = place.recipe(model=DRAWING, input_size=64, early_size=32, early_epochs=2)
    with register_module_forward_pre_hook(look):
        bundle = place.train(tmp_path / "run", recipe)
    steps = len(sides[True]) // EPOCHS
    assert sides[True] == [32] * 2 * steps + [64] * steps
    assert set(sides[False]) == {64}
    assert bundle.manifest.input_size == 64


def test_the_rate_is_that_of_the_steepest_fall() -> None:
    rates = list(np.geomspace(1e-6, 0.1, 60))
    for place in (1e-4, 1e-3, 1e-2):
        fall = 1 / (1 + (np.array(rates) / place) ** 2)  # steepest at the place, by the logarithm
        for seed in range(5):
            noise = np.random.default_rng(seed).normal(0, 0.03, len(rates))
            found = steepest(rates, list(fall + noise))
            assert found is not None
            assert place / 3 < found < place * 3
    assert steepest(rates, rates) is None
    assert steepest(rates[:9], rates[8::-1]) is None


def test_a_network_begins_with_one_of_other_classes(run: Run, tmp_path: Path) -> None:
    recipe = load_recipe("ege-unet", ["classes=[a, b]"])
    torch.manual_seed(0)
    began = network_of(recipe.model_copy(update={"classes": ("a",)})).eval()
    architecture = Architecture(name="ege-unet", arguments=recipe.model.arguments, parameters=1)
    changes = {"architecture": architecture, "classes": ("a",), "thresholds": {"a": 0.5}, "input_size": 32}
    images = np.zeros((1, 3, 32, 32), np.float32)
    bundle = export(tmp_path / "b", began, run.bundle.manifest.model_copy(update=changes), images, torch_only=True)
    network = network_of(recipe)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    begin_with(network, bundle, recipe)
    theirs, kept = bundle.network().state_dict(), 0
    for name, value in network.state_dict().items():
        same = value.shape == theirs[name].shape
        kept += not same
        assert torch.equal(value, theirs[name] if same else before[name]), name
    assert kept


def test_a_teacher_has_its_share_and_is_named(small: Run, place: Place, tmp_path: Path) -> None:
    lines: list[str] = []
    strict = tmp_path / "strict"
    shutil.copytree(small.bundle.path, strict)
    manifest = json.loads((strict / "bundle.json").read_text()) | {"licence": CC_BY_NC}
    (strict / "bundle.json").write_text(json.dumps(manifest))
    recipe = place.recipe(
        model=DRAWING, epochs=1, distillation={"teachers": [str(strict), str(small.bundle.path)], "share": 0.9}
    )
    taught = place.train(tmp_path / "taught", recipe, report=lines.append, cache_folder=tmp_path / "cache")
    data, before = taught.manifest.training_data, small.bundle.manifest.training_data
    name = small.bundle.name
    assert data.initialisation == f"{before.initialisation}; its teachers are {name}, {name}"
    licences = [data.licences[f"teacher {place}, {name}"] for place in (1, 2)]
    assert licences == [CC_BY_NC, small.bundle.manifest.licence]
    assert CC_BY_NC in taught.manifest.licence
    assert data.content_hash != before.content_hash  # the teachers' weights are told, too
    assert data.initialisation in "".join(lines)
    (masks,) = (tmp_path / "cache").glob("*.npy")
    values = np.load(masks)
    assert ((values > 25) & (values < 230)).any()  # neither the truth nor one of its soft edges


def test_no_lesion_network_begins_with_what_saw_its_test_images(run: Run) -> None:
    manifest = run.bundle.manifest.model_copy(update={"classes": ("streaks",), "thresholds": {"streaks": 0.5}})
    other = dataclasses.replace(run.bundle, manifest=manifest)
    message = refusal(RecipeError, lambda: begin_with(build("light", classes=1), other, load_recipe("lesion")))
    assert message.endswith("was trained on images that are 'test' for lesion; take another")
    training_data = manifest.training_data.model_copy(update={"sources": {}})  # of imported weights it is not known
    unknown = dataclasses.replace(other, manifest=manifest.model_copy(update={"training_data": training_data}))
    refusal(RecipeError, lambda: begin_with(build("light", classes=1), unknown, load_recipe("lesion")))
    for elsewhere in ("data.sources=[ph2]", "data.splits=mine.csv"):  # of the latter a remark is made
        begin_with(build("light", classes=1), other, load_recipe("lesion", [elsewhere]))


@pytest.mark.parametrize("broken", ["manifest.json", "checkpoints/last.ckpt"])
def test_a_broken_file_of_a_run_is_named(run: Run, place: Place, tmp_path: Path, broken: str) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    manifest = json.loads((run.folder / "manifest.json").read_text()) | {"status": "failed"}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "run" / broken).write_bytes(b"{")
    message = refusal(InputError, lambda: place.train(tmp_path / "run", place.recipe(), resume=True))
    assert message.startswith(f"{tmp_path / 'run' / broken} ")
    assert message.endswith("so the run cannot be resumed; begin a new one")


def test_more_gpus_than_there_are_is_one_sentence(place: Place, tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    recipe = place.recipe(batch_size=count + 1)
    message = refusal(InputError, lambda: place.train(tmp_path / "run", recipe, device="cuda", devices=count + 1))
    assert message == f"{count + 1} GPUs are asked for, torch finds {count}; give --device cpu"
    assert not (tmp_path / "run").exists()


def test_a_frozen_part_keeps_its_weights(small: Run, place: Place, tmp_path: Path) -> None:
    recipe = place.recipe(model=DRAWING, start=str(small.bundle.path), freeze=["encoder"], epochs=1)
    bundle = place.train(tmp_path / "run", recipe)
    began, ended = small.bundle.network().state_dict(), bundle.network().state_dict()
    frozen = {name for name in began if name.startswith("encoder.")}
    assert frozen
    for name in frozen:
        assert torch.equal(began[name], ended[name]), name
    assert any(not torch.equal(began[name], ended[name]) for name in began.keys() - frozen)


def test_a_debug_run_is_short(place: Place, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = place.recipe(model=DRAWING, epochs=50, batch_size=5, processing=["contrast", "hair_removal"])
    bundle = place.train(tmp_path / "run", recipe, debug=True, report=lines.append)
    assert bundle.manifest.processing == ("contrast", "hair_removal")
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2", "bundle"]
    assert lines[0].startswith("9 images to train on, 6 to tune on")


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_left_to_processors_that_have_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native})
    lines: list[str] = []
    assert _precision(place.recipe(precision="bf16-mixed"), "cpu", lines.append) == precision
    assert lines == ([] if native else ["this processor only emulates bfloat16: training in float32"])
    assert _precision(place.recipe(precision="32-true"), "cpu", lines.append) == "32-true"


def test_a_run_stops_early_where_it_gets_no_better(place: Place, tmp_path: Path) -> None:
    still = {"lr": 1e-12, "weight_decay": 0}
    recipe = place.recipe(model=SETTLED, epochs=9, early_stopping=2, optimizer=still)
    place.train(tmp_path / "run", recipe)
    assert len(metrics_of(tmp_path / "run")) == 3


def test_a_learning_rate_is_looked_for_and_kept(place: Place, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = place.recipe(model=DRAWING, epochs=2, optimizer={"lr": 1e-7})
    place.train(tmp_path / "run", recipe, find_lr=True, report=lines.append)
    found = load_recipe(str(tmp_path / "run" / "config.yaml")).optimizer.lr
    assert f"learning rate {found:.2g}" in lines
    assert 1e-6 < found < 1
    lines.clear()
    place.train(tmp_path / "run", recipe, find_lr=True, resume=True, report=lines.append)
    assert f"learning rate {found:.2g}" in lines
    place.train(tmp_path / "again", load_recipe(str(tmp_path / "run" / "config.yaml")))
    assert timeless(metrics_of(tmp_path / "again")) == timeless(metrics_of(tmp_path / "run"))


def test_a_compiled_network_learns_the_same(place: Place, tmp_path: Path) -> None:
    runs = {}
    for compiled in (False, True):
        recipe = place.recipe(model=SETTLED, epochs=1, batch_size=6, compile=compiled, augmentation="none")
        runs[compiled] = place.train(tmp_path / str(compiled), recipe).network().state_dict()
    for name, value in runs[False].items():
        assert torch.allclose(value, runs[True][name], atol=2e-3), name


def test_gradients_accumulate_to_those_of_a_larger_batch(place: Place, tmp_path: Path) -> None:
    weights = []
    for batch_size, accumulate in ((6, 1), (3, 2)):
        recipe = place.recipe(
            model=SETTLED,
            batch_size=batch_size,
            optimizer={"name": "sgd", "lr": 0.05, "accumulate": accumulate},
            augmentation="none",
            epochs=2,
        )
        weights.append(place.train(tmp_path / str(batch_size), recipe).network().state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-3), name


# --- learning ------------------------------------------------------------------------------------


def test_it_learns_the_images_it_sees(tmp_path: Path) -> None:
    """Tune holds the training images under other names, so both the loss and the score must come near perfect."""
    synthetic.write_dataset(tmp_path / "data", 16, size=(48, 64))
    rows = ["id,group,split"]
    for kind in ("images", "masks"):
        for path in sorted((tmp_path / "data" / kind).iterdir()):
            shutil.copy(path, path.with_stem(f"copy_of_{path.stem}"))
    for path in sorted((tmp_path / "data" / "images").iterdir()):
        rows.append(f"{path.stem},{path.stem},{'tune' if path.stem.startswith('copy') else 'train'}")
    (tmp_path / "splits.csv").write_text("\n".join(rows))
    still = {"rotation": 0, "scale": (1, 1), "aspect": 0, "shift": 0, "brightness": 0, "contrast": 0, "colour": 0}
    recipe = Recipe.model_validate(
        {
            "name": "overfit",
            "description": "A run of a test.",
            "model": {"name": "light", "arguments": {"dropout": 0}},
            "input_size": 64,
            "data": {"splits": tmp_path / "splits.csv"},
            "augmentation": still | {"blur": 0, "hair": 0, "ruler": 0},
            "optimizer": {"lr": 3e-3},
            "epochs": 15,
            "batch_size": 4,
            "ema": 0.5,
            "precision": "32-true",
        }
    )
    with pytest.raises(StopError):  # nothing is to be learnt from its bundle
        train(
            recipe,
            tmp_path / "data",
            tmp_path / "run",
            cache_folder=tmp_path / "cache",
            device="cpu",
            tracking="off",
            report=stop_at(15),
        )
    first, *_, last = metrics_of(tmp_path / "run")
    assert last["train/loss"] < 0.4 * first["train/loss"]
    assert last["tune/jaccard"] > 0.88


# --- batches -------------------------------------------------------------------------------------


def test_batches_are_full_distinct_and_shuffled_by_seed_and_epoch_alone() -> None:
    batches = ShuffledBatches(23, 5, seed=1)
    assert len(batches) == 4
    batches.set_epoch(3)
    third = list(batches)
    assert [len(batch) for batch in third] == [5] * 4
    assert len({index for batch in third for index in batch}) == 20
    assert list(batches) == third
    torch.manual_seed(9)
    fresh = ShuffledBatches(23, 5, seed=1)
    fresh.set_epoch(3)
    assert list(fresh) == third
    fresh.set_epoch(4)
    assert list(fresh) != third
    other = ShuffledBatches(23, 5, seed=2)
    other.set_epoch(3)
    assert list(other) != third


def test_over_epochs_every_image_is_seen_as_often() -> None:
    batches = ShuffledBatches(23, 5, seed=0)
    seen = np.zeros(23)
    for epoch in range(200):
        batches.set_epoch(epoch)
        for batch in batches:
            seen[batch] += 1
    expected = 200 * 20 / 23
    assert np.abs(seen - expected).max() < 5 * math.sqrt(200 * (20 / 23) * (3 / 23))


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    assert [sorted(batch) for batch in ShuffledBatches(3, 32, seed=0)] == [[0, 1, 2]]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "checkpoints" / "last.ckpt", _WholeFiles()
    writer.save_checkpoint({"epoch": 1}, path)

    def full(file: Path, data: bytes) -> int:
        file.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(Path, "write_bytes", full)
    message = refusal(InputError, lambda: writer.save_checkpoint({"epoch": 2}, path))
    assert message == f"{path} cannot be written (No space left on device); give another path"
    assert writer.load_checkpoint(path) == {"epoch": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
