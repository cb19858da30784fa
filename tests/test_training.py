"""Training: a real, tiny run from images to a bundle, and the same run interrupted and resumed."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2Model

from dermseg import synthetic
from dermseg.bundle import ONNX, WEIGHTS, Bundle, write
from dermseg.data import cache, catalog, splits
from dermseg.data.catalog import CC0, CC_BY_NC
from dermseg.errors import DataError, InputError, RecipeError
from dermseg.metrics import Confusion
from dermseg.models import build
from dermseg.training.config import Recipe, load_recipe
from dermseg.training.datamodule import ShuffledBatches
from dermseg.training.run import licence_of_weights, make_bundle, moving_average, train

torch.set_num_threads(1)

SIZE = 32
EPOCHS = 3


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
        usual: dict[str, Any] = {"cache_folder": self.cache, "device": "cpu", "report": lambda line: None}
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
    with (folder / "metrics.csv").open(newline="") as table:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(table)]


@pytest.fixture(scope="module")
def run(place: Place) -> Run:
    lines: list[str] = []
    bundle = place.train(place.folder / "run", place.recipe(), report=lines.append)
    return Run(place.folder / "run", bundle, lines)


# --- a run ---------------------------------------------------------------------------------------


def test_the_run_folder_holds_what_it_should_and_nothing_else(run: Run) -> None:
    assert {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()} == {
        "recipe.yaml",
        "data.json",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "bundle/bundle.json",
        "bundle/model.onnx",
        "bundle/model.safetensors",
        "bundle/MODEL_CARD.md",
    }


def test_the_recipe_is_recorded(run: Run, place: Place) -> None:
    assert load_recipe(str(run.folder / "recipe.yaml")) == place.recipe()


def test_the_data_are_recorded(run: Run, place: Place) -> None:
    table = splits.read(place.folder / "splits.csv")
    sides = [splits.select(catalog.read(place.data), side, table) for side in ("train", "tune")]
    content = "".join(cache.load(side, ["lesion"], SIZE, folder=place.cache).content_hash for side in sides)
    assert json.loads((run.folder / "data.json").read_text()) == {
        "sources": {"isic2018": 6, "plain": 12},
        "licences": {"isic2018": CC_BY_NC, "plain": "not stated"},
        "split": "train",
        "initialisation": "the pretrained weights weights",
        "content_hash": hashlib.sha256(content.encode()).hexdigest(),
    }


def test_each_epoch_has_a_row_and_a_line(run: Run) -> None:
    rows = run.metrics
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    columns = {"train/loss", "tune/jaccard", "tune/threshold", "tune/jaccard_isic2018", "tune/jaccard_plain"}
    for row in rows:
        assert row.keys() == {"epoch", *columns}
        assert 0 < row["train/loss"] < 3
        # Each source counts the same, whatever its size.
        mean = (row["tune/jaccard_isic2018"] + row["tune/jaccard_plain"]) / 2
        assert row["tune/jaccard"] == pytest.approx(mean, abs=1e-5)
    first, second, *epochs, last = run.lines
    assert first == f"18 images to train on, 6 to tune on; run folder {run.folder}"
    assert second == "the network begins with the pretrained weights weights"
    assert last == f"bundle: {run.folder / 'bundle'}"
    for number, (line, row) in enumerate(zip(epochs, rows, strict=True), start=1):
        shown = re.match(rf"epoch {number}/3: train/loss ([\d.]+), jaccard ([\d.]+), threshold ([\d.]+), ", line)
        assert shown is not None
        values = [row[name] for name in ("train/loss", "tune/jaccard", "tune/threshold")]
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
    assert best["threshold"] == row["tune/threshold"]
    assert score(best["threshold"]) == pytest.approx(row["tune/jaccard"], abs=1e-4)
    assert all(score(t / 100) <= row["tune/jaccard"] + 1e-4 for t in range(5, 96))


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
    assert manifest.thresholds == {"lesion": run.checkpoint("best")["threshold"]}
    assert manifest.licence == "as its training data: CC-BY-NC-4.0, not stated"
    assert manifest.training_data.model_dump() == json.loads((run.folder / "data.json").read_text())
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


def test_a_run_may_begin_with_the_weights_of_a_bundle(run: Run, place: Place, tmp_path: Path) -> None:
    still = {"lr": 1e-12, "weight_decay": 0}
    recipe = place.recipe(start=run.bundle.path, epochs=1, optimizer=still)
    bundle = place.train(tmp_path / "run", recipe)
    for (name, began), ended in zip(
        run.bundle.network().named_parameters(), bundle.network().parameters(), strict=True
    ):
        assert torch.allclose(began, ended, atol=1e-6), name
    assert bundle.manifest.training_data.initialisation == (
        "the bundle tiny, itself from the pretrained weights weights"
    )


def test_weights_keep_the_licence_of_the_bundle_they_began_with(run: Run, place: Place, tmp_path: Path) -> None:
    free = run.bundle.manifest.training_data.model_copy(
        update={"sources": {"isic2017": 18}, "licences": {"isic2017": CC0}}
    )
    shutil.copytree(run.folder / "checkpoints", tmp_path / "checkpoints")
    table = splits.read(place.folder / "splits.csv")
    images = cache.load(splits.select(catalog.read(place.data), "tune", table), ["lesion"], SIZE, folder=place.cache)
    manifest = run.bundle.manifest.model_copy(update={"licence": CC_BY_NC})
    begun = write(tmp_path / "begun", manifest, {name: run.bundle.read(name) for name in manifest.hashes})
    assert make_bundle(tmp_path, place.recipe(start=begun.path), free, images).manifest.licence == CC_BY_NC
    assert make_bundle(tmp_path, place.recipe(), free, images).manifest.licence == "Apache-2.0"


def test_a_bundle_of_other_classes_is_no_start(run: Run, place: Place, tmp_path: Path) -> None:
    manifest = run.bundle.manifest.model_copy(update={"classes": ("nail",), "thresholds": {"nail": 0.5}})
    other = write(tmp_path / "other", manifest, {name: run.bundle.read(name) for name in manifest.hashes})
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", place.recipe(start=other.path)))
    assert message == f"{other.path} is of another network or other classes than the recipe; start needs the same"


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

    assert [line.split(":")[0] for line in lines[2:]] == ["epoch 2/3", "epoch 3/3", "bundle"]
    assert resumed.metrics == run.metrics
    for name in ("best", "last"):
        one, other = run.checkpoint(name), resumed.checkpoint(name)
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert_same(one[part], other[part], f"{name}: {part}")
        assert all(one[part] == other[part] for part in ("epoch", "global_step", "threshold"))
    for file in (WEIGHTS, ONNX):
        assert run.bundle.read(file) == resumed.bundle.read(file)
    assert run.bundle.manifest == resumed.bundle.manifest


def test_a_finished_run_resumes_to_the_same_bundle(run: Run, place: Place, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.bundle.path.iterdir()}
    shutil.copytree(run.folder, tmp_path / "kept")
    again = place.train(run.folder, place.recipe(), resume=True)
    assert {path.name: path.read_bytes() for path in again.path.iterdir()} == before
    assert (run.folder / "metrics.csv").read_bytes() == (tmp_path / "kept" / "metrics.csv").read_bytes()


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
    assert message == f"{tmp_path} holds no run to resume: recipe.yaml or data.json is missing"


def test_a_run_stopped_in_its_first_epoch_begins_again(run: Run, place: Place, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        place.train(tmp_path / "run", place.recipe(), report=stop_at(1))
    again = place.train(tmp_path / "run", place.recipe(), resume=True)
    assert again.read("model.safetensors") == run.bundle.read("model.safetensors")


@pytest.mark.parametrize("settings", [{"epochs": 9}, {"seed": 1}, {"loss": {"bce": 1}}])
def test_other_settings_are_refused_on_resuming(run: Run, place: Place, settings: dict[str, Any]) -> None:
    message = refusal(RecipeError, lambda: place.train(run.folder, place.recipe(**settings), resume=True))
    assert message == f"the settings differ from those of the run in {run.folder} (recipe.yaml); resume with the same"
    assert load_recipe(str(run.folder / "recipe.yaml")) == place.recipe()


def test_other_data_are_refused_on_resuming(run: Run, place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.data, tmp_path / "data")
    image = catalog.read(tmp_path / "data", ["plain"])[1].image
    image.write_bytes(synthetic_png(seed=50))
    recorded = (run.folder / "data.json").read_bytes()
    message = refusal(
        DataError,
        lambda: train(place.recipe(), tmp_path / "data", run.folder, resume=True, cache_folder=tmp_path / "cache"),
    )
    assert message == f"the data differ from those of the run in {run.folder} (data.json); resume with the same"
    assert (run.folder / "data.json").read_bytes() == recorded


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
    assert message == f"{place.data} has no image with masks of lesion in the split '{side}'; training needs some"
    assert not (tmp_path / "run").exists()


def test_a_class_without_masks_is_refused(place: Place, tmp_path: Path) -> None:
    message = refusal(DataError, lambda: place.train(tmp_path / "run", place.recipe(classes=["lesion", "streaks"])))
    assert message == (
        f"{place.data} has no image with masks of lesion, streaks in the split 'train'; training needs some"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": {"name": "unet3000"}}, "there is no model 'unet3000'; choose one of: "),
        ({"model": {"name": "light", "arguments": {"depth": 3}}}, "model 'light' does not take these arguments: "),
        ({"loss": {"dyce": 1}}, "there is no loss 'dyce'; choose from: bce, jaccard"),
    ],
)
def test_names_that_do_not_exist_are_refused_and_no_folder_is_made(
    place: Place, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    message = refusal(RecipeError, lambda: place.train(tmp_path / "run", place.recipe(**settings)))
    assert message.startswith(sentence)
    assert not (tmp_path / "run").exists()


# --- learning ------------------------------------------------------------------------------------


def test_it_learns_the_images_it_sees(tmp_path: Path) -> None:
    """Tune holds the training images under other names, so both the loss and the score must come near perfect."""
    synthetic.write_dataset(tmp_path / "data", 8, size=(48, 64))
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
            "epochs": 30,
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
            report=stop_at(30),
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
