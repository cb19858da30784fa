"""Evaluation: against the official scorer on files, and what a result says of itself."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from isic_challenge_scoring import ScoreError, SegmentationScore
from isic_challenge_scoring.__main__ import cli as official_cli
from numpy.typing import NDArray
from PIL import Image

from dermseg.data.catalog import Sample
from dermseg.errors import BrokenImageError, DermsegError, InputError
from dermseg.evaluation import ALL, TASK1_PROTOCOL, EvaluationResult, ImageScore, evaluate
from dermseg.imaging import read_mask
from dermseg.metrics import TASK1_METRICS, Confusion, bootstrap_interval

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


@dataclass(frozen=True)
class Segmented:
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Named:
    name: str = "light"


class Replay:
    """A segmenter whose answers are known: for each image its outcome, in order."""

    bundle = Named()

    def __init__(self, outcomes: Mapping[str, NDArray[np.bool_] | DermsegError]) -> None:
        self.outcomes = outcomes

    def stream(self, sources: Iterable[Path]) -> Iterator[Segmented | DermsegError]:
        for source in sources:
            outcome = self.outcomes[source.stem]
            yield outcome if isinstance(outcome, DermsegError) else Segmented(outcome)


def disc(height: int, width: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    inside: NDArray[np.bool_] = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    return inside


def save(path: Path, levels: NDArray[np.bool_] | NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = levels.astype(np.uint8) * 255 if levels.dtype == np.bool_ else levels
    Image.fromarray(grey).save(path)
    return path


def sample(id: str, mask: Path | None, *, group: str | None = None, source: str = "isic2018") -> Sample:
    return Sample(
        id=id,
        image=Path(f"{id}.jpg"),
        masks={"lesion": mask} if mask else {},
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
    for ours, theirs in OFFICIAL_NAMES.items():
        assert result.summaries[ALL][ours].mean == pytest.approx(official.macro_average.at[theirs], abs=1e-12)
    assert result.summaries[ALL]["thresholded_jaccard"].mean == pytest.approx(official.overall, abs=1e-12)


@official_scorer
def test_means_equal_the_official_command_lines(
    tmp_path: Path, pairs: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
) -> None:
    prediction, truth = write_pairs(tmp_path, pairs)
    run = CliRunner().invoke(official_cli, ["-o", "json", "segmentation", str(truth), str(prediction)])
    assert run.exit_code == 0, run.output
    official = json.loads(run.output)["macro_average"]
    summary = score_files(prediction, truth).summaries[ALL]
    assert {theirs: summary[ours].mean for ours, theirs in OFFICIAL_NAMES.items()} == pytest.approx(official, abs=1e-12)


@official_scorer
def test_grey_levels_are_cut_where_the_official_scorer_cuts_them(tmp_path: Path) -> None:
    """Above 128, in the prediction as in the truth."""
    levels = np.array([[0, 1, 127, 128, 129, 254, 255, 255]], dtype=np.uint8)
    save(tmp_path / "truth" / "ISIC_0000000_segmentation.png", levels)
    save(tmp_path / "prediction" / "ISIC_0000000_segmentation.png", np.ascontiguousarray(levels[:, ::-1]))
    assert read_mask(tmp_path / "truth" / "ISIC_0000000_segmentation.png").tolist() == [[False] * 4 + [True] * 4]
    official = SegmentationScore.from_dir(tmp_path / "truth", tmp_path / "prediction").macro_average
    summary = score_files(tmp_path / "prediction", tmp_path / "truth").summaries[ALL]
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
        (
            "ISIC_0000002",
            "the image is 30 x 20 px but its mask 31 x 20; expected masks at their images' size",
        ),
    )


# --- evaluate ----------------------------------------------------------------------------------------


def test_each_image_has_its_confusions_scores_in_order(tmp_path: Path) -> None:
    truth, close, far = (disc(20, 30, x, 10, 6) for x in (10, 11, 25))
    path = save(tmp_path / "truth.png", truth)
    samples = [sample("far", path, group="g"), sample("close", path, group="g")]
    result = evaluate(Replay({"close": close, "far": far}), samples, data="drawn", split="tune")
    assert result.images == (
        ImageScore("far", "isic2018", "g", Confusion.of(far, truth).scores()),
        ImageScore("close", "isic2018", "g", Confusion.of(close, truth).scores()),
    )
    assert (result.bundle, result.data, result.split) == ("light", "drawn", "tune")
    assert result.protocol == TASK1_PROTOCOL


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
    assert [id for id, _ in result.failures] == ["unreadable", "no-truth", "broken-truth", "lost-truth"]
    reasons = dict(result.failures)
    assert reasons["unreadable"] == "unreadable.jpg is truncated"
    assert reasons["no-truth"] == "no 'lesion' mask to compare with, only []"
    assert all(reasons.values())
    assert result.summaries[ALL]["jaccard"].mean == 1
    assert len(done) == len(samples)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^nothing to evaluate: drawn, split 'test', has no samples$"):
        evaluate(Replay({}), [], data="drawn", split="test")


def test_errors_that_are_not_the_users_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_code(path: Path) -> NDArray[np.bool_]:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("dermseg.evaluation.read_mask", broken_code)
    item = sample("image", Path("truth.png"))
    with pytest.raises(RuntimeError, match=r"^a fault of ours$"):
        evaluate(Replay({"image": disc(20, 30, 15, 10, 6)}), [item], data="drawn", split="test")


# --- the result --------------------------------------------------------------------------------------


def result_of(*images: tuple[str, str, str, float], failures: tuple[tuple[str, str], ...] = ()) -> EvaluationResult:
    """A result with one metric: id, data set, group and value of each image."""
    scores = tuple(ImageScore(id, dataset, group, {"dice": value}) for id, dataset, group, value in images)
    return EvaluationResult("light", "two sets", "test", "a protocol", scores, failures)


TWO_SETS = result_of(
    ("1", "isic2018", "a", 0.5),
    ("2", "isic2018", "a", 0.7),
    ("3", "isic2018", "b", 0.9),
    ("4", "ph2", "c", 1.0),
    ("5", "ph2", "a", 0.25),
)


def test_summaries_are_per_data_set_and_over_all_images() -> None:
    summaries = TWO_SETS.summaries
    assert list(summaries) == ["isic2018", "ph2", "all"]
    assert summaries["isic2018"]["dice"] == bootstrap_interval(np.array([0.5, 0.7, 0.9]), ["a", "a", "b"])
    assert summaries["ph2"]["dice"].mean == 0.625
    assert summaries["all"]["dice"] == bootstrap_interval(
        np.array([0.5, 0.7, 0.9, 1.0, 0.25]), ["a", "a", "b", "c", "a"]
    )


def test_table() -> None:
    low_high = {name: str(summary["dice"]) for name, summary in TWO_SETS.summaries.items()}
    assert str(TWO_SETS).splitlines() == [
        "light on two sets, split test",
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
    assert lines[3:] == ["        ph2", "images  1", "groups  1", "dice    0.500 [0.500, 0.500]"]


def test_table_tells_of_failures() -> None:
    failures = tuple((f"bad{index}", "is broken") for index in range(12))
    lines = str(result_of(("1", "ph2", "a", 0.5), failures=failures)).splitlines()
    assert lines[7:10] == ["", "not scored, and in no mean: 12", "  bad0: is broken"]
    assert lines[-2:] == ["  bad9: is broken", "  and 2 more"]


def test_result_without_a_scored_image() -> None:
    result = result_of(failures=(("1", "is broken"),))
    assert result.summaries == {}
    assert "no image could be scored" in str(result)
    assert "  1: is broken" in str(result)
    assert json.loads(result.to_json())["summaries"] == {}


def test_json_holds_everything() -> None:
    document = json.loads(result_of(("1", "ph2", "ä", 0.5), failures=(("2", "is broken"),)).to_json())
    interval = {"mean": 0.5, "low": 0.5, "high": 0.5}
    summary = {"images": 1, "groups": 1, "metrics": {"dice": interval}}
    assert document == {
        "bundle": "light",
        "data": "two sets",
        "split": "test",
        "protocol": "a protocol",
        "summaries": {"ph2": summary, "all": summary},
        "images": [{"id": "1", "source": "ph2", "group": "ä", "metrics": {"dice": 0.5}}],
        "failures": [{"id": "2", "reason": "is broken"}],
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
    assert list(rows[0]) == ["id", "source", "group", *TASK1_METRICS]
    assert [(row["id"], row["group"]) for row in rows] == [("a,b", 'le"sion'), ("ä", "ä")]
    for row, image in zip(rows, result.images, strict=True):
        assert {name: float(row[name]) for name in TASK1_METRICS} == image.metrics


def test_csv_without_a_scored_image_has_only_its_head(tmp_path: Path) -> None:
    result_of().write_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8") == "id,source,group\n"


def test_scoring_needs_neither_torch_nor_the_evaluation_extras() -> None:
    code = (
        "import sys, dermseg.evaluation; print(sorted({'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
