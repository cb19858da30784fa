"""Evaluation: against the official scorer on files, and what a result says of itself."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from isic_challenge_scoring import ScoreError, SegmentationScore, task2
from isic_challenge_scoring.__main__ import cli as official_cli
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from dermseg import boundary, ranking, synthetic
from dermseg.bundle import CARD, Bundle, write
from dermseg.data import catalog
from dermseg.data.catalog import Sample
from dermseg.errors import BrokenImageError, DermsegError, InputError
from dermseg.evaluation import ALL, EvaluationResult, Failure, evaluate, operating_point
from dermseg.geometry import Geometry
from dermseg.imaging import open_image, read_mask
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.metrics import TASK1_METRICS, Confusion, Interval, bootstrap_interval, soft_counts
from dermseg.protocols import PROTOCOLS, ImageScore, ProtocolName, protocol_for, protocols_for
from dermseg.segmenter import Prediction
from tests.conftest import Cli

OFFICIAL_NAMES = {
    "jaccard": "jaccard",
    "thresholded_jaccard": "threshold_jaccard",
    "dice": "dice",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
}

official_scorer = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in Series.rename:DeprecationWarning:isic_challenge_scoring.segmentation"
)


SIZE = 16
ATTRIBUTES = ("pigment_network", "globules", "streaks")


@dataclass(frozen=True)
class Masked:
    """Masks at the image's own size, one a class."""

    masks: Mapping[str, NDArray[np.bool_]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        height, width = next(iter(self.masks.values())).shape
        return height, width

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return np.full((*self.size, 3), 128, np.uint8)

    def mask_of(self, name: str) -> NDArray[np.bool_]:
        return self.masks[name]


Answer = Prediction | DermsegError | NDArray[np.bool_] | Mapping[str, NDArray[np.bool_]]


class Replay:
    """A predictor whose answers are known: for each image its outcome; a bare mask is of the one class."""

    name = "light"
    input_size = SIZE

    def __init__(self, outcomes: Mapping[str, Answer], classes: tuple[str, ...] = ("lesion",)) -> None:
        self.outcomes = outcomes
        self.classes = classes
        self.thresholds = tuple(0.5 for _ in classes)

    def __call__(self, sample: Sample) -> Masked | Prediction:
        outcome = self.outcomes[sample.id]
        if isinstance(outcome, DermsegError):
            raise outcome
        if isinstance(outcome, np.ndarray):
            return Masked({self.classes[0]: outcome})
        return Masked(outcome) if isinstance(outcome, Mapping) else outcome


def disc(height: int, width: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    inside: NDArray[np.bool_] = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    return inside


def save(path: Path, levels: NDArray[np.bool_] | NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = levels.astype(np.uint8) * 255 if levels.dtype == np.bool_ else levels
    Image.fromarray(grey).save(path)
    return path


def sample(
    id: str, masks: Path | Mapping[str, Path] | None, *, group: str | None = None, source: str = "isic2018"
) -> Sample:
    return Sample(
        id=id,
        image=Path(f"{id}.jpg"),
        masks={"lesion": masks} if isinstance(masks, Path) else masks or {},
        group=group or id,
        source=source,
        licence="CC-BY-NC-4.0",
    )


@pytest.fixture
def pairs() -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Prediction and truth by id: good, poor, disjoint, one empty, both empty, full, at several sizes."""
    rng = np.random.default_rng(5)
    found: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(20, 60, size=2))
        truth = disc(height, width, width / 2, height / 2, min(height, width) / 3)
        shift, scale = rng.normal(0, 4), rng.uniform(0.6, 1.3)
        prediction = disc(height, width, width / 2 + shift, height / 2, scale * min(height, width) / 3)
        found.append((prediction, truth))
    empty, full = np.zeros((12, 16), np.bool_), np.ones((12, 16), np.bool_)
    left = np.zeros((12, 16), np.bool_)
    left[:, :8] = True
    found += [
        (empty, empty),
        (left, empty),
        (empty, left),
        (full, left),
        (left, full),
        (full, full),
        (left, ~left),
    ]
    return {f"ISIC_{index:07d}": pair for index, pair in enumerate(found)}


def write_pairs(folder: Path, pairs: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> tuple[Path, Path]:
    for id, (prediction, truth) in pairs.items():
        save(folder / "prediction" / f"{id}_segmentation.png", prediction)
        save(folder / "truth" / f"{id}_segmentation.png", truth)
    return folder / "prediction", folder / "truth"


def score_files(prediction: Path, truth: Path) -> EvaluationResult:
    samples = [
        sample(path.stem.removesuffix("_segmentation"), path, group=f"lesion {index // 3}")
        for index, path in enumerate(sorted(truth.iterdir()))
    ]
    answers = {item.id: read_mask(prediction / f"{item.id}_segmentation.png") for item in samples}
    return evaluate(Replay(answers), samples, data="drawn", split="test")


# --- against the official scorer -----------------------------------------------------------------


@official_scorer
def test_means_equal_the_official_scorers_on_files(
    tmp_path: Path, pairs: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> None:
    prediction, truth = write_pairs(tmp_path, pairs)
    result = score_files(prediction, truth)
    assert not result.failures
    official = SegmentationScore.from_dir(truth, prediction)
    found = result.summaries["official"][ALL]
    for ours, theirs in OFFICIAL_NAMES.items():
        assert found[ours].mean == pytest.approx(official.macro_average.at[theirs], abs=1e-12)
    assert found["thresholded_jaccard"].mean == pytest.approx(official.overall, abs=1e-12)


@official_scorer
def test_means_equal_the_official_command_lines(
    tmp_path: Path, pairs: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> None:
    prediction, truth = write_pairs(tmp_path, pairs)
    run = CliRunner().invoke(official_cli, ["-o", "json", "segmentation", str(truth), str(prediction)])
    assert run.exit_code == 0, run.output
    official = json.loads(run.output)["macro_average"]
    summary = score_files(prediction, truth).summaries["official"][ALL]
    assert {theirs: summary[ours].mean for ours, theirs in OFFICIAL_NAMES.items()} == pytest.approx(official, abs=1e-12)


@official_scorer
def test_grey_levels_are_cut_where_the_official_scorer_cuts_them(tmp_path: Path) -> None:
    """Above 128, in the prediction as in the truth."""
    levels = np.array([[0, 1, 127, 128, 129, 254, 255, 255]], dtype=np.uint8)
    save(tmp_path / "truth" / "ISIC_0000000_segmentation.png", levels)
    save(tmp_path / "prediction" / "ISIC_0000000_segmentation.png", np.ascontiguousarray(levels[:, ::-1]))
    assert read_mask(tmp_path / "truth" / "ISIC_0000000_segmentation.png").tolist() == [[False] * 4 + [True] * 4]
    official = SegmentationScore.from_dir(tmp_path / "truth", tmp_path / "prediction").macro_average
    summary = score_files(tmp_path / "prediction", tmp_path / "truth").summaries["official"][ALL]
    for ours, theirs in OFFICIAL_NAMES.items():
        assert summary[ours].mean == official.at[theirs]


def test_a_truth_of_another_size_is_a_failure_where_the_official_scorer_stops(tmp_path: Path) -> None:
    good, bad = disc(20, 30, 15, 10, 6), disc(20, 31, 15, 10, 6)
    prediction, truth = write_pairs(tmp_path, {"ISIC_0000001": (good, good), "ISIC_0000002": (good, bad)})
    with pytest.raises(ScoreError, match="has dimensions"):
        SegmentationScore.from_dir(truth, prediction)
    result = score_files(prediction, truth)
    assert [image.id for image in result.images] == ["ISIC_0000001"]
    assert result.failures == (
        Failure(
            "ISIC_0000002",
            "isic2018",
            "DataError",
            f"{truth}/ISIC_0000002_segmentation.png is 31 x 20 px, its image 30 x 20; "
            "expected masks at their images' size",
        ),
    )


# --- several classes ---------------------------------------------------------------------------------


Masks = dict[str, NDArray[np.bool_]]


@pytest.fixture
def attributes() -> dict[str, tuple[Masks, Masks]]:
    """Predictions and truths by id, at several sizes: sparse, empty and full masks, and a class without any truth."""
    rng = np.random.default_rng(8)
    found = {}
    for index in range(24):
        shape = tuple(rng.integers(5, 30, 2))
        truths = {name: rng.random(shape) < rng.choice([0, 0, 0.1, 0.5, 1]) for name in ATTRIBUTES}
        truths["streaks"][:] = False
        guesses = {name: mask ^ (rng.random(shape) < rng.choice([0, 0.1, 0.9])) for name, mask in truths.items()}
        found[f"ISIC_{index:07d}"] = guesses, truths
    return found


def score_attributes(
    folder: Path, masks: Mapping[str, tuple[Masks, Masks]], protocol: ProtocolName = "official", group: int = 1
) -> EvaluationResult:
    samples = []
    for index, (id, (guesses, truths)) in enumerate(masks.items()):
        paths = {name: folder / "truth" / f"{id}_attribute_{name}.png" for name in truths}
        for name, path in paths.items():
            save(path, truths[name])
            save(folder / "prediction" / path.name, guesses[name])
        samples.append(sample(id, paths, group=f"group {index // group}"))
    answers = {id: guesses for id, (guesses, _) in masks.items()}
    return evaluate(Replay(answers, ATTRIBUTES), samples, data="drawn", split="test", protocols=(protocol,))


def assert_task2(folder: Path, result: EvaluationResult) -> None:
    official = task2.score(folder / "truth", folder / "prediction")
    found = {name: interval.mean for name, interval in result.summaries["official"][ALL].items()}
    for metric in ("jaccard", "dice"):
        assert found[f"micro_{metric}"] == pytest.approx(official["micro_average"][metric], abs=1e-12)
        for name in ATTRIBUTES:
            assert found[f"{metric}_{name}"] == pytest.approx(official[name][metric], abs=1e-12)
        mean = np.mean([official[name][metric] for name in ATTRIBUTES])
        assert found[f"macro_{metric}"] == pytest.approx(mean, abs=1e-12)
    assert found["micro_jaccard"] == pytest.approx(official["overall"], abs=1e-12)


def test_sums_of_several_classes_equal_the_official_task_2(
    tmp_path: Path, attributes: dict[str, tuple[Masks, Masks]]
) -> None:
    result = score_attributes(tmp_path, attributes)
    assert not result.failures
    assert result.protocols[0].description == (
        "official Task 2: compared at the truth's size, shares of the image's area summed over images, "
        "95 % bootstrap interval over groups"
    )
    assert_task2(tmp_path, result)


@pytest.mark.parametrize("truth", [False, True], ids=["truth empty", "truth full"])
@pytest.mark.parametrize("guess", [False, True], ids=["nothing predicted", "all predicted"])
def test_empty_and_full_attributes_score_as_the_official_task_2(tmp_path: Path, truth: bool, guess: bool) -> None:
    guesses, truths = ({name: np.full((4, 6), value) for name in ATTRIBUTES} for value in (guess, truth))
    result = score_attributes(tmp_path, {"ISIC_0000001": (guesses, truths)})
    assert_task2(tmp_path, result)
    assert result.summaries["official"][ALL]["micro_jaccard"].mean == (guess == truth)


def test_predicting_no_attribute_scores_nothing(tmp_path: Path, attributes: dict[str, tuple[Masks, Masks]]) -> None:
    """Where the mean over images would reward every empty truth."""
    blank = {
        id: ({name: np.zeros_like(mask) for name, mask in truths.items()}, truths)
        for id, (_, truths) in attributes.items()
    }
    result = score_attributes(tmp_path, blank)
    assert_task2(tmp_path, result)
    assert result.summaries["official"][ALL]["micro_jaccard"].mean == 0
    assert np.mean([image.metrics["jaccard_globules"] for image in result.images]) > 0.2


def test_intervals_of_several_classes_resample_the_images_shares(
    tmp_path: Path, attributes: dict[str, tuple[Masks, Masks]]
) -> None:
    result = score_attributes(tmp_path, attributes, group=2)
    shares = np.array(
        [
            [Confusion.of(guesses[name], truths[name]).counts / truths[name].size for name in ATTRIBUTES]
            for guesses, truths in attributes.values()
        ]
    ).reshape(12, 2, 3, 4)
    rng, micro, macro = np.random.default_rng(0), [], []
    for _ in range(2000):
        tp, fp, fn, _ = np.moveaxis(shares[rng.integers(12, size=12)].sum(axis=(0, 1)), -1, 0)
        micro.append(tp.sum() / (tp + fp + fn).sum())
        own = [a / (a + b + c) if a + b + c else 1 for a, b, c in zip(tp, fp, fn, strict=True)]
        macro.append(np.mean(own))
    for name, values in (("micro_jaccard", micro), ("macro_jaccard", macro)):
        interval = result.summaries["official"][ALL][name]
        assert (interval.low, interval.high) == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())
        assert interval.low < interval.mean < interval.high


def test_a_result_of_several_classes_is_a_table_a_csv_and_scores(
    tmp_path: Path, attributes: dict[str, tuple[Masks, Masks]]
) -> None:
    result = score_attributes(tmp_path, attributes)
    metrics = ("jaccard", "dice", "sensitivity", "precision")
    names = [f"{part}_{metric}" for part in ("micro", "macro") for metric in metrics]
    names += [f"{metric}_{name}" for name in ATTRIBUTES for metric in metrics]
    assert [line.split()[0] for line in str(result).splitlines()[7:]] == names
    result.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "source", "group", "width", "height", *names]
    first = json.loads(result.to_json())["images"][0]
    assert float(rows[0]["micro_dice"]) == first["metrics"]["micro_dice"] == result.images[0].metrics["micro_dice"]
    assert result.images[0].statistics["official"].sum() == pytest.approx(len(ATTRIBUTES))
    (recorded,) = result.scores()
    assert recorded.protocol == result.protocols[0].description
    assert list(recorded.metrics) == names


def test_an_image_that_lacks_one_class_is_no_score(tmp_path: Path, attributes: dict[str, tuple[Masks, Masks]]) -> None:
    guesses, truths = attributes["ISIC_0000000"]
    path = save(tmp_path / "mask.png", truths["globules"])
    result = evaluate(
        Replay({"image": guesses}, ATTRIBUTES),
        [sample("image", {"globules": path, "pigment_network": path})],
        data="drawn",
        split="test",
    )
    (failure,) = result.failures
    assert failure.reason == "no 'streaks' mask to compare with, only ['globules', 'pigment_network']"


# --- at the network's size ---------------------------------------------------------------------------


def predicted(truth: NDArray[np.bool_], classes: tuple[str, ...] = ("lesion",), seed: int = 0) -> Prediction:
    """What a network might say of an image of the truth's size; it is sure of a lesion in all the padding."""
    geometry = Geometry.fit(truth.shape[0], truth.shape[1], SIZE)
    probabilities = np.ones((len(classes), SIZE, SIZE), np.float32)
    rows = slice(geometry.top, geometry.top + geometry.content_height)
    columns = slice(geometry.left, geometry.left + geometry.content_width)
    shape = len(classes), geometry.content_height, geometry.content_width
    probabilities[:, rows, columns] = np.random.default_rng(seed).random(shape, np.float32)
    photograph = open_image(np.zeros((*truth.shape, 3), np.uint8))
    thresholds = tuple(0.3 + 0.1 * index for index in range(len(classes)))
    return Prediction(photograph, np.zeros((1, 1, 3), np.uint8), classes, probabilities, geometry, thresholds, "light")


def fitted(prediction: Prediction, truth: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Maps (K, h, w) and truth (h, w) of the content, for truths that are the network's size many times over."""
    scale = max(truth.shape) // SIZE
    height, width = truth.shape[0] // scale, truth.shape[1] // scale
    share = truth.reshape(height, scale, width, scale).mean(axis=(1, 3))
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    return prediction.probabilities[:, top : top + height, left : left + width], share * 255 >= 127.5


@pytest.fixture
def truths() -> list[NDArray[np.bool_]]:
    """Wide, high and square, with an odd scale so that no pixel is half a lesion; the last is empty."""
    found = [disc(30, 48, 24, 15, 11), disc(48, 36, 10, 20, 9), disc(80, 80, 40, 44, 25), disc(48, 48, 9, 9, 8)]
    return [*found, np.zeros((48, 42), np.bool_)]


def score_predictions(
    folder: Path, truths: list[NDArray[np.bool_]], protocol: ProtocolName, classes: tuple[str, ...] = ("lesion",)
) -> tuple[EvaluationResult, list[Prediction]]:
    predictions = [predicted(truth, classes, seed) for seed, truth in enumerate(truths)]
    samples = []
    for index, truth in enumerate(truths):
        path = save(folder / f"{index}.png", truth)
        samples.append(sample(str(index), dict.fromkeys(classes, path)))
    answers = {item.id: prediction for item, prediction in zip(samples, predictions, strict=True)}
    result = evaluate(Replay(answers, classes), samples, data="drawn", split="test", protocols=(protocol,))
    assert not result.failures
    return result, predictions


def test_pooled_makes_one_confusion_matrix_of_all_pixels(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    result, predictions = score_predictions(tmp_path, truths, "pooled")
    assert result.protocols[0].description == (
        "pooled: compared at 16 px, pixels summed over images, 95 % bootstrap interval over groups"
    )
    pairs = [fitted(prediction, truth) for prediction, truth in zip(predictions, truths, strict=True)]
    guess = np.concatenate([probability[0].ravel() > np.float32(0.3) for probability, _ in pairs])
    truth = np.concatenate([truth.ravel() for _, truth in pairs])
    expected = Confusion.of(guess[None], truth[None])
    summary = result.summaries["pooled"][ALL]
    assert list(summary) == ["jaccard", "dice", "sensitivity", "specificity", "accuracy", "precision"]
    assert {name: interval.mean for name, interval in summary.items()} == pytest.approx(
        {name: getattr(expected, name) for name in summary}, abs=1e-12
    )
    assert np.sum([image.statistics["pooled"] for image in result.images], axis=0).tolist() == [
        expected.counts.tolist()
    ]


def test_soft_takes_probabilities_and_the_mean_over_images(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    result, predictions = score_predictions(tmp_path, truths, "soft")
    assert result.protocols[0].description == (
        "soft: probabilities without a threshold, compared at 16 px, mean over images, "
        "95 % bootstrap interval over groups"
    )
    expected = []
    for prediction, truth in zip(predictions, truths, strict=True):
        probability, share = fitted(prediction, truth)
        p, t = probability[0].astype(float), share.astype(float)
        both, found, there = (p * t).sum(), p.sum(), t.sum()
        recall = both / there if there else 1
        expected.append([both / (found + there - both), 2 * both / (found + there), recall, both / found])
    summary = result.summaries["soft"][ALL]
    assert list(summary) == ["jaccard", "dice", "sensitivity", "precision"]
    assert [interval.mean for interval in summary.values()] == pytest.approx(np.mean(expected, axis=0).tolist())
    dice = bootstrap_interval(np.array(expected)[:, 1])
    assert_close(summary["dice"], dice)


def test_soft_scores_of_several_classes_are_summed_over_images(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    result, predictions = score_predictions(tmp_path, truths, "soft", ATTRIBUTES)
    assert "summed over images" in result.protocols[0].description
    counts = np.zeros((3, 4))
    for prediction, truth in zip(predictions, truths, strict=True):
        probability, share = fitted(prediction, truth)
        counts += [soft_counts(one, share) for one in probability]
    tp, fp, fn, _ = counts.T
    dice = 2 * tp / (2 * tp + fp + fn)
    summary = result.summaries["soft"][ALL]
    assert summary["macro_dice"].mean == pytest.approx(dice.mean())
    assert summary["macro_jaccard"].mean == pytest.approx((tp / (tp + fp + fn)).mean())
    assert [summary[f"dice_{name}"].mean for name in ATTRIBUTES] == pytest.approx(dice.tolist())


def test_pooled_cuts_each_class_at_its_own_threshold(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    result, predictions = score_predictions(tmp_path, truths, "pooled", ATTRIBUTES)
    for index, name in enumerate(ATTRIBUTES):
        hits = there = 0
        for prediction, truth in zip(predictions, truths, strict=True):
            probability, share = fitted(prediction, truth)
            hits += int((share & (probability[index] > prediction.thresholds[index])).sum())
            there += int(share.sum())
        assert result.summaries["pooled"][ALL][f"sensitivity_{name}"].mean == pytest.approx(hits / there)


def test_protocols_are_recorded_beside_each_other(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    names: tuple[ProtocolName, ...] = ("official", "pooled", "soft")
    scores = [score for name in names for score in score_predictions(tmp_path, truths, name)[0].scores()]
    assert [score.protocol.split()[0] for score in scores] == ["official", "pooled:", "soft:"]
    assert len({(score.data, score.split) for score in scores}) == 1
    assert all("sensitivity" in score.metrics for score in scores)


def test_the_command_line_records_each_protocol_once(cli: Cli, tmp_path: Path, dark_bundle: Bundle) -> None:
    synthetic.write_dataset(tmp_path / "data", 3, size=(64, 96))
    folder = shutil.copytree(dark_bundle.path, tmp_path / "bundle")
    arguments = ["--bundle", folder, "--data", "data", "--split", "all", "--record"]
    for options in ([], ["--protocol", "pooled"], ["--protocol", "soft"], ["--protocol", "all"]):
        run = cli("evaluate", *arguments, "--no-report", *options)
        assert run.returncode == 0, run.stderr
    scores = Bundle.load(folder).manifest.scores
    expected = [protocol_for(name, ("lesion",), 64).description for name in PROTOCOLS]
    assert [score.protocol for score in scores] == expected
    document = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert [each["description"] for each in document["protocols"].values()] == expected
    card = (folder / CARD).read_text()
    assert all(description in card for description in expected)


def test_the_command_line_refuses_a_threshold_that_would_change_nothing(cli: Cli, tmp_path: Path) -> None:
    run = cli("evaluate", "--data", tmp_path, "--split", "all", "--protocol", "soft", "--threshold", "0.4")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: --protocol soft takes no threshold; it goes without --threshold\n"


def test_the_command_line_takes_images_with_all_masks_of_the_bundle(
    cli: Cli, tmp_path: Path, dark_bundle: Bundle
) -> None:
    """A bundle of two structures; of three images of ISIC 2018 one has masks of both."""
    weights = onnx.load_model_from_string(dark_bundle.read(ONNX))
    (weight,) = weights.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((2, 3, 1, 1), -8 / 3, np.float32), weight.name))
    weights.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    classes = ("globules", "streaks")
    manifest = dark_bundle.manifest.model_copy(update={"classes": classes, "thresholds": dict.fromkeys(classes, 0.5)})
    write(tmp_path / "bundle", manifest, {ONNX: weights.SerializeToString(), WEIGHTS: b"unused"})
    images, masks = (tmp_path / f"ISIC2018_Task{part}" for part in ("1-2_Training_Input", "2_Training_GroundTruth_v3"))
    dark = disc(60, 80, 40, 30, 20)
    for index, names in enumerate((classes, ("globules",), ())):
        save(images / f"ISIC_000000{index}.png", (~dark).astype(np.uint8) * 255)
        for name in names:
            save(
                masks / f"ISIC_000000{index}_attribute_{name}.png", dark if name == "globules" else np.zeros_like(dark)
            )
    run = cli("evaluate", "--bundle", "bundle", "--data", ".", "--split", "all", "--record", "--no-report")
    assert run.returncode == 0, run.stderr
    (score,) = Bundle.load(tmp_path / "bundle").manifest.scores
    assert (score.data, score.images) == ("isic2018", 1)
    assert score.protocol.startswith("official Task 2: ")
    assert score.metrics["jaccard_globules"].mean > 0.9
    assert score.metrics["jaccard_streaks"].mean == 0
    assert score.metrics["micro_jaccard"].mean == pytest.approx(0.5, abs=0.02)
    assert f"| jaccard_streaks | {0:.3f} [" in (tmp_path / "bundle" / CARD).read_text()


def test_an_unknown_protocol_is_refused() -> None:
    known = "official, pooled, soft, boundary, ranking"
    with pytest.raises(InputError, match=f"^there is no protocol 'strict'; choose from: {known}$"):
        protocol_for("strict", ("lesion",), SIZE)  # type: ignore[arg-type]


# --- evaluate ----------------------------------------------------------------------------------------


def test_each_image_has_its_confusions_scores_in_order(tmp_path: Path) -> None:
    truth, close, far = (disc(20, 30, x, 10, 6) for x in (10, 11, 25))
    path = save(tmp_path / "truth.png", truth)
    samples = [sample("far", path, group="g"), sample("close", path, group="g")]
    result = evaluate(Replay({"close": close, "far": far}), samples, data="drawn", split="tune")
    far_counts, close_counts = Confusion.of(far, truth), Confusion.of(close, truth)
    assert [(image.id, image.source, image.group, image.size) for image in result.images] == [
        ("far", "isic2018", "g", (20, 30)),
        ("close", "isic2018", "g", (20, 30)),
    ]
    for image, counts in zip(result.images, (far_counts, close_counts), strict=True):
        assert image.statistics["official"].tolist() == [counts.counts.tolist()]
        assert image.metrics == counts.scores()
    assert (result.name, result.data, result.split) == ("light", "drawn", "tune")
    assert result.protocols[0] == protocol_for("official", ("lesion",), SIZE)
    assert result.protocols[0].description == (
        "official Task 1: compared at the truth's size, mean over images, 95 % bootstrap interval over groups"
    )


def test_what_cannot_be_scored_is_listed_and_the_rest_carries_on(tmp_path: Path) -> None:
    mask = disc(20, 30, 15, 10, 6)
    path = save(tmp_path / "truth.png", mask)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    samples = [
        sample("unreadable", path),
        sample("good", path),
        sample("no-truth", None),
        sample("broken-truth", broken),
        sample("lost-truth", tmp_path / "lost.png"),
        sample("also-good", path),
    ]
    answers: dict[str, NDArray[np.bool_] | DermsegError] = dict.fromkeys((item.id for item in samples), mask)
    answers["unreadable"] = BrokenImageError("unreadable.jpg is truncated")
    done: list[int] = []
    result = evaluate(Replay(answers), samples, data="drawn", split="test", progress=lambda: done.append(len(done)))
    assert [image.id for image in result.images] == ["good", "also-good"]
    assert [failure.id for failure in result.failures] == ["unreadable", "no-truth", "broken-truth", "lost-truth"]
    reasons = {failure.id: failure.reason for failure in result.failures}
    assert reasons["unreadable"] == "unreadable.jpg is truncated"
    assert reasons["no-truth"] == "no 'lesion' mask to compare with, only []"
    assert all(reasons.values())
    assert result.summaries["official"][ALL]["jaccard"].mean == 1
    assert len(done) == len(samples)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^nothing to evaluate: drawn, split 'test', has no samples$"):
        evaluate(Replay({}), [], data="drawn", split="test")


def test_errors_that_are_not_the_users_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_code(path: Path) -> NDArray[np.bool_]:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("dermseg.evaluation.read_true_mask", broken_code)
    item = sample("image", Path("truth.png"))
    with pytest.raises(RuntimeError, match=r"^a fault of ours$"):
        evaluate(Replay({"image": disc(20, 30, 15, 10, 6)}), [item], data="drawn", split="test")


# --- the result --------------------------------------------------------------------------------------


TASK1 = protocol_for("official", ("lesion",), SIZE)


def result_of(*images: tuple[str, str, str, float], failures: tuple[tuple[str, str], ...] = ()) -> EvaluationResult:
    """A result with one metric: id, data set, group and value of each image."""
    protocol = replace(TASK1, description="a protocol", metrics=("dice",))
    scores = tuple(
        ImageScore(
            id,
            dataset,
            group,
            (2, 3),
            # 2 p of 4 pixels each, p of them in both: the overlap that gives this Dice.
            {"official": np.array([[value, 1 - value, 1 - value, value]])},
            {"dice": value},
        )
        for id, dataset, group, value in images
    )
    listed = tuple(Failure(id, "ph2", "DataError", reason) for id, reason in failures)
    return EvaluationResult("light", "two sets", "test", (protocol,), scores, listed)


def assert_close(one: Interval, other: Interval) -> None:
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=1e-12)


TWO_SETS = result_of(
    ("1", "isic2018", "a", 0.5),
    ("2", "isic2018", "a", 0.7),
    ("3", "isic2018", "b", 0.9),
    ("4", "ph2", "c", 1.0),
    ("5", "ph2", "a", 0.25),
)


def test_summaries_are_per_data_set_and_over_all_images() -> None:
    summaries = TWO_SETS.summaries["official"]
    assert list(summaries) == ["isic2018", "ph2", "all"]
    assert_close(summaries["isic2018"]["dice"], bootstrap_interval(np.array([0.5, 0.7, 0.9]), ["a", "a", "b"]))
    assert summaries["ph2"]["dice"].mean == 0.625
    assert_close(
        summaries["all"]["dice"],
        bootstrap_interval(np.array([0.5, 0.7, 0.9, 1.0, 0.25]), ["a", "a", "b", "c", "a"]),
    )


def test_table() -> None:
    low_high = {name: str(summary["dice"]) for name, summary in TWO_SETS.summaries["official"].items()}
    assert str(TWO_SETS).splitlines() == [
        "light on two sets, split test",
        "",
        "a protocol",
        "",
        "        isic2018              ph2                   all",
        "images  3                     2                     5",
        "groups  2                     2                     3",
        f"dice    {low_high['isic2018']}  {low_high['ph2']}  {low_high['all']}",
    ]
    assert low_high["isic2018"] == "0.700 [0.600, 0.900]"


def test_table_of_one_data_set_says_it_once() -> None:
    lines = str(result_of(("1", "ph2", "a", 0.5))).splitlines()
    assert lines[4:] == ["        ph2", "images  1", "groups  1", "dice    0.500 [0.500, 0.500]"]


def test_table_tells_of_failures() -> None:
    failures = tuple((f"bad{index}", "is broken") for index in range(12))
    lines = str(result_of(("1", "ph2", "a", 0.5), failures=failures)).splitlines()
    assert lines[8:11] == ["", "not scored, and in no mean: 12", "  bad0: is broken"]
    assert lines[-2:] == ["  bad9: is broken", "  and 2 more of this kind"]


def test_result_without_a_scored_image() -> None:
    result = result_of(failures=(("1", "is broken"),))
    assert result.summaries == {"official": {}}
    assert "no image could be scored" in str(result)
    assert "  1: is broken" in str(result)
    assert json.loads(result.to_json())["protocols"]["official"]["summaries"] == {}


def test_json_holds_everything() -> None:
    document = json.loads(result_of(("1", "ph2", "ä", 0.5), failures=(("2", "is broken"),)).to_json())
    interval = {"mean": 0.5, "low": 0.5, "high": 0.5}
    summary = {"images": 1, "groups": 1, "metrics": {"dice": interval}}
    assert document == {
        "name": "light",
        "data": "two sets",
        "split": "test",
        "classes": ["lesion"],
        "thresholds": [],
        "content_hash": "",
        "operating_point": None,
        "remarks": [],
        "protocols": {"official": {"description": "a protocol", "summaries": {"ph2": summary, "all": summary}}},
        "images": [
            {
                "id": "1",
                "source": "ph2",
                "group": "ä",
                "width": 3,
                "height": 2,
                "metrics": {"dice": 0.5},
                "facts": {},
            }
        ],
        "failures": [{"id": "2", "source": "ph2", "kind": "DataError", "reason": "is broken"}],
    }


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    mask = disc(20, 30, 15, 10, 6)
    path = save(tmp_path / "truth.png", mask)
    result = evaluate(
        Replay({"a,b": disc(20, 30, 16, 10, 6), "ä": mask}),
        [sample("a,b", path, group='le"sion'), sample("ä", path)],
        data="drawn",
        split="test",
    )
    target = tmp_path / "scores.csv"
    result.write_csv(target)
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "source", "group", "width", "height", *TASK1_METRICS]
    assert [(row["id"], row["group"]) for row in rows] == [("a,b", 'le"sion'), ("ä", "ä")]
    for row, image in zip(rows, result.images, strict=True):
        assert {name: float(row[name]) for name in TASK1_METRICS} == image.metrics


def test_csv_without_a_scored_image_has_only_its_head(tmp_path: Path) -> None:
    result_of().write_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8") == "id,source,group,width,height\n"


def test_scoring_needs_neither_torch_nor_the_evaluation_extras() -> None:
    code = (
        "import sys, dermseg.evaluation; print(sorted({'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- every protocol at once ----------------------------------------------------------------------------


def test_all_protocols_stand_in_one_result(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    predictions = [predicted(truth, seed=seed) for seed, truth in enumerate(truths)]
    samples = [sample(str(index), save(tmp_path / f"{index}.png", truth)) for index, truth in enumerate(truths)]
    answers = {item.id: prediction for item, prediction in zip(samples, predictions, strict=True)}
    result = evaluate(Replay(answers), samples, data="drawn", split="test", protocols=PROTOCOLS)
    assert tuple(result.summaries) == PROTOCOLS
    for name in PROTOCOLS:
        alone = evaluate(Replay(answers), samples, data="drawn", split="test", protocols=(name,))
        assert alone.summaries[name] == result.summaries[name]
    boundaries = np.array(
        [boundary.measure(item.mask, truth) for item, truth in zip(predictions, truths, strict=True)]
    ).mean(axis=0)
    found = result.summaries["boundary"][ALL]
    assert [found[name].mean for name in boundary.METRICS] == pytest.approx(boundaries.tolist())
    pairs = [fitted(prediction, truth) for prediction, truth in zip(predictions, truths, strict=True)]
    positive = np.concatenate([truth.ravel() for _, truth in pairs])
    probability = np.concatenate([found[0].ravel() for found, _ in pairs])
    area = roc_auc_score(positive, np.searchsorted(ranking.EDGES, probability))
    assert result.summaries["ranking"][ALL]["auc_roc"].mean == pytest.approx(area)
    table = result.to_pandas()
    assert {"jaccard", "hausdorff_95", "soft_dice"} <= set(table)
    assert not {"pooled_dice", "auc_roc"} & set(table)
    assert table["soft_dice"].tolist() == [image.metrics["soft_dice"] for image in result.images]


def test_a_metric_that_is_not_defined_is_said_to_be_so(tmp_path: Path) -> None:
    """Where no image has the class, no pixel can be ranked above another."""
    empty = np.zeros((32, 48), np.bool_)
    path = save(tmp_path / "truth.png", empty)
    result = evaluate(
        Replay({"1": predicted(empty)}), [sample("1", path)], data="drawn", split="test", protocols=("ranking",)
    )
    (line,) = [line for line in str(result).splitlines() if line.startswith("auc_roc")]
    assert line.split(maxsplit=1)[1] == "not defined"
    metrics = json.loads(result.to_json())["protocols"]["ranking"]["summaries"][ALL]["metrics"]
    assert metrics["auc_roc"] == {"mean": None, "low": None, "high": None}
    assert list(result.scores()[0].metrics) == ["calibration_error"]


@pytest.mark.parametrize("name", ["soft", "ranking"])
def test_masks_without_probabilities_have_no_such_score(name: ProtocolName) -> None:
    with pytest.raises(InputError, match=f"^the protocol '{name}' needs probabilities, which masks do not have"):
        protocol_for(name, ("lesion",), None)
    assert name not in [protocol.name for protocol in protocols_for(("lesion",), None)]


def test_pooled_masks_are_compared_at_the_truths_size(tmp_path: Path) -> None:
    truth, guess = disc(20, 30, 15, 10, 6), disc(20, 30, 17, 10, 6)

    class Folder(Replay):
        input_size = None  # type: ignore[assignment]

    item = sample("1", save(tmp_path / "truth.png", truth))
    result = evaluate(Folder({"1": guess}), [item], data="drawn", split="test", protocols=("pooled",))
    assert "compared at the truth's size" in result.protocols[0].description
    assert result.summaries["pooled"][ALL]["dice"].mean == Confusion.of(guess, truth).dice


def test_the_operating_point_is_the_highest_that_finds_enough(tmp_path: Path, truths: list[NDArray[np.bool_]]) -> None:
    shown = truths[:-1]  # the last is empty
    predictions = [predicted(truth, seed=seed) for seed, truth in enumerate(shown)]
    samples = [sample(str(index), save(tmp_path / f"{index}.png", truth)) for index, truth in enumerate(shown)]
    answers = {item.id: prediction for item, prediction in zip(samples, predictions, strict=True)}
    point = operating_point(Replay(answers), samples, 0.9)
    pairs = [fitted(prediction, truth) for prediction, truth in zip(predictions, shown, strict=True)]

    def sensitivity(threshold: float) -> float:
        return float(np.mean([(p[0][truth] > np.float32(threshold)).mean() for p, truth in pairs]))

    (threshold,) = point.thresholds
    assert sensitivity(threshold) >= 0.9 > sensitivity(threshold + 0.01)
    assert (point.sensitivity, point.images) == (0.9, (4,))
    assert point.reached[0] == pytest.approx(sensitivity(threshold))


def test_an_operating_point_tells_what_was_not_reached(tmp_path: Path) -> None:
    """Of one class no threshold finds enough; the other is in no image."""
    truth = disc(16, 16, 8, 8, 5)
    prediction = predicted(truth, ("globules", "streaks"))
    prediction.probabilities[0] = np.where(truth & (np.arange(16) < 8), 0.9, 0)
    masks = {"globules": save(tmp_path / "one.png", truth), "streaks": save(tmp_path / "none.png", truth & False)}
    point = operating_point(Replay({"1": prediction}, ("globules", "streaks")), [sample("1", masks)], 0.95)
    assert point.thresholds == (0.01, 0.01)
    assert point.reached[0] == pytest.approx((truth & (np.arange(16) < 8)).sum() / truth.sum())
    assert point.reached[1] is None
    assert point.images == (1, 0)


def test_an_image_of_two_data_sets_counts_once_over_all() -> None:
    result = result_of(("1", "isic2017", "1", 0.2), ("2", "isic2017", "2", 0.6), ("1", "isic2018", "1", 0.9))
    summary = result.summaries["official"]
    assert summary["isic2018"]["dice"].mean == 0.9
    assert summary[ALL]["dice"].mean == pytest.approx(0.4)
    assert [(image.id, image.source) for image in result.distinct] == [("1", "isic2017"), ("2", "isic2017")]
    assert "in 'all' an image that stands in several data sets counts once (1 left out)" in str(result)


def test_the_hash_tells_truths_apart(tmp_path: Path) -> None:
    mask, other = disc(20, 30, 15, 10, 6), disc(20, 30, 15, 10, 7)
    results = [
        evaluate(Replay({"1": guess}), [sample("1", save(tmp_path / "t.png", truth))], data="drawn", split="test")
        for guess, truth in ((mask, mask), (other, mask), (mask, other))
    ]
    hashes = [result.content_hash for result in results]
    assert hashes[0] == hashes[1] != hashes[2]


def test_facts_and_thumbnails_are_kept_where_asked_for(tmp_path: Path) -> None:
    mask = disc(20, 30, 15, 10, 6)
    item = sample("1", save(tmp_path / "truth.png", mask))
    result = evaluate(
        Replay({"1": mask}),
        [item],
        data="drawn",
        split="test",
        facts=True,
        thumbnail=lambda sample, prediction, truths: f"{sample.id} {truths['lesion'].sum()}".encode(),
    )
    (image,) = result.images
    assert image.thumbnail == f"1 {mask.sum()}".encode()
    assert image.facts["lesion_fraction"] == pytest.approx(mask.mean())
    result.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["lesion_fraction"]) == pytest.approx(mask.mean())


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_scores_masks_of_another_tool_and_an_ensemble(
    cli: Cli, tmp_path: Path, dark_bundle: Bundle
) -> None:
    synthetic.write_dataset(tmp_path / "data", 4, size=(64, 96))
    for path in (tmp_path / "data" / "masks").iterdir():
        save(tmp_path / "masks" / path.name, np.asarray(read_mask(path)))
    common = ["--data", "data", "--split", "all", "--protocol", "all", "--no-report"]
    run = cli("evaluate", "--predictions", "masks", *common)
    assert run.returncode == 0, run.stderr
    document = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert list(document["protocols"]) == ["official", "pooled", "boundary"]
    metrics = document["protocols"]["boundary"]["summaries"]["all"]["metrics"]
    assert (metrics["hausdorff"]["mean"], metrics["boundary_f1"]["mean"]) == (0, 1)
    shutil.copytree(dark_bundle.path, tmp_path / "bundle")
    single, both = (
        cli("evaluate", *given, *common) for given in (["--bundle", "bundle"], ["--ensemble", "bundle,bundle"])
    )
    assert single.returncode == both.returncode == 0, both.stderr
    assert both.stdout.splitlines()[1:] == single.stdout.splitlines()[1:]


def test_the_command_lists_masks_that_do_not_fit(cli: Cli, tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path / "data", 14, size=(64, 96))
    paths = sorted((tmp_path / "data" / "masks").iterdir())
    for index, path in enumerate(paths):
        mask = np.asarray(read_mask(path))
        if index == 0:
            save(tmp_path / "masks" / path.name, mask[:-1])
        elif index == 1:
            save(tmp_path / "masks" / path.name, mask.astype(np.uint8) * 100)
        else:
            save(tmp_path / "masks" / path.name, mask)
    common = ["evaluate", "--predictions", "masks", "--data", "data", "--split", "all", "--no-report"]
    run = cli(*common)
    assert run.returncode == 1
    assert "not scored, and in no mean: 2" in run.stdout
    assert all(path.name in run.stdout for path in paths[:2])
    for path in paths[2:]:
        (tmp_path / "masks" / path.name).unlink()
    run = cli(*common)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.count("\n") == 1
    assert "masks lacks 12 of 14 masks: " in run.stderr
    assert "2 more" in run.stderr


def test_a_photograph_that_cannot_be_shown_costs_no_score(tmp_path: Path) -> None:
    mask = disc(20, 30, 15, 10, 6)

    class Broken(Masked):
        @property
        def pixels(self) -> NDArray[np.uint8]:
            raise BrokenImageError("1.jpg is truncated")

    class Folder(Replay):
        def __call__(self, sample: Sample) -> Masked:
            return Broken({"lesion": mask})

    item = sample("1", save(tmp_path / "truth.png", mask))
    result = evaluate(Folder({}), [item], data="drawn", split="test", facts=True)
    assert result.images[0].metrics["jaccard"] == 1
    assert result.images[0].facts == {}


def test_the_command_takes_masks_of_other_classes(cli: Cli, tmp_path: Path) -> None:
    """Attributes by the names of most files, or whatever --classes says."""
    truth = disc(30, 40, 20, 15, 8)
    for index in range(2):
        save(tmp_path / "own" / "images" / f"a{index}.png", np.zeros((30, 40), np.uint8))
        save(tmp_path / "ISIC2018_Task1-2_Training_Input" / f"ISIC_000000{index}.png", np.zeros((30, 40), np.uint8))
        save(tmp_path / "own" / "masks" / f"a{index}_hair.png", truth)
        save(tmp_path / "hair" / f"a{index}_hair.png", truth)
        for name in catalog.ATTRIBUTES:
            folder = tmp_path / "ISIC2018_Task2_Training_GroundTruth_v3"
            save(folder / f"ISIC_000000{index}_attribute_{name}.png", truth)
            save(tmp_path / "attributes" / f"ISIC_000000{index}_{name}.png", truth)
    common = ["--split", "all", "--no-report"]
    run = cli("evaluate", "--predictions", "attributes", "--data", ".", "--source", "isic2018", *common)
    assert run.returncode == 0, run.stderr
    assert "micro_jaccard" in run.stdout
    run = cli("evaluate", "--predictions", "hair", "--classes", "hair", "--data", "own", *common)
    assert run.returncode == 0, run.stderr
    assert [line.split()[1] for line in run.stdout.splitlines() if line.startswith("jaccard")] == ["1.000"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--predictions", "masks", "--protocol", "soft"], 1, "the protocol 'soft' needs probabilities"),
        (["--predictions", "masks", "--output", "masks"], 1, "--output is masks, which holds what is scored"),
        (["--ensemble", "lesion"], 2, "an ensemble is of two bundles or more"),
        (["--ensemble", "lesion,"], 1, "'lesion,' lacks a name"),
        (["--pdf", "--no-report"], 2, "--pdf prints the report"),
        (["--classes", "hair"], 2, "--classes tells what --predictions show"),
    ],
)
def test_the_command_refuses_options_that_contradict(
    cli: Cli, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    synthetic.write_dataset(tmp_path / "data", 2, size=(64, 96))
    shutil.copytree(tmp_path / "data" / "masks", tmp_path / "masks")
    run = cli("evaluate", *options, "--data", "data", "--split", "all")
    assert (run.returncode, run.stdout) == (code, "")
    assert message in " ".join(run.stderr.replace("│", " ").split())


def test_the_command_refuses_two_things_to_score(cli: Cli, tmp_path: Path) -> None:
    run = cli("evaluate", "--predictions", "masks", "--bundle", "lesion", "--data", ".", "--split", "all")
    assert run.returncode == 2
    assert "give one of --bundle, --predictions and --ensemble" in run.stderr
    run = cli("evaluate", "--predictions", "masks", "--data", ".", "--split", "all", "--record")
    assert run.stderr == (
        "error: --record keeps the scores of one bundle; it goes with neither --predictions nor --ensemble\n"
    )
