"""The figures of a run: what they show, and that drawing them leaves the run as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dermseg.figures import PALETTE, Picture
from dermseg.training import pictures, plots
from dermseg.training.journal import History, Journal
from dermseg.training.pictures import Pictures, spread
from tests.tiny_training import StopError, fit, images

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
)

CLASSES = ("globules", "streaks")


def history(epochs: int = 4) -> History:
    """Three batches an epoch; the best Jaccard in epoch 2; no precision in epoch 1."""
    jaccard = [0.5, 0.8, 0.7, 0.6]
    rates = [
        {"learning_rate": 1 / n, "learning_rate_head": 1 / n, "learning_rate_encoder": 0.1 / n} for n in range(1, 13)
    ]
    return History(
        [{"kind": "batch", "step": n, "loss": 1 / n} | rates[n - 1] for n in range(1, 3 * epochs + 1)],
        [
            {
                "kind": "epoch",
                "epoch": n,
                "images": 3000 * n,
                "train/loss": 1 / n,
                "train/loss_bce": 0.5 / n,
                "tune/loss": 1.1 / n,
                "tune/jaccard": jaccard[n - 1],
                "tune/dice": jaccard[n - 1] + 0.1,
                "tune/precision": None if n == 1 else 0.9,
                "tune/thresholded_jaccard": 0.4,
                "tune/micro_jaccard_streaks": 0.3,
                "tune/jaccard_isic2018": 0.6,
                "tune/jaccard_ph2": 0.9,
                "tune/threshold_streaks": 0.2,
            }
            for n in range(1, epochs + 1)
        ],
    )


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = plots._save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def lines(place: Axes) -> dict[str, Any]:
    return {
        str(line.get_label()): (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for line in place.get_lines()
    }


def picture(path: Path) -> NDArray[Any]:
    found = cv2.imread(str(path))
    assert found is not None
    return found


# --- curves --------------------------------------------------------------------------------------


def test_the_history_shows_losses_and_scores_and_the_best_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.metrics_history(history(), tmp_path / "figures" / "metrics_history.png")
    losses, scores = drawn[0].axes
    assert lines(losses)["train"] == ([1, 2, 3, 4], [1, 1 / 2, 1 / 3, 1 / 4])
    assert lines(losses)["tune"][1] == pytest.approx([1.1, 1.1 / 2, 1.1 / 3, 1.1 / 4])
    assert lines(scores)["Jaccard"] == ([1, 2, 3, 4], [0.5, 0.8, 0.7, 0.6])
    assert lines(scores)["Dice"][1] == pytest.approx([0.6, 0.9, 0.8, 0.7])
    assert drawn[0].get_suptitle() == "Best epoch: 2 (Jaccard index 0.800)"
    assert all(place.get_xlabel() and place.get_ylabel() and place.get_title() for place in drawn[0].axes)
    assert picture(tmp_path / "figures" / "metrics_history.png").std() > 5


def test_the_best_epoch_is_that_of_the_monitored_score(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.metrics_history(history(), tmp_path / "a.png", monitor="dice")
    assert drawn[0].get_suptitle() == "Best epoch: 2 (Dice coefficient 0.900)"
    plots.metrics_history(history(), tmp_path / "a.png", monitor="micro_jaccard")
    assert drawn[1].get_suptitle() == ""


def test_every_metric_has_its_place_in_the_details(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.detailed_metrics(history(), tmp_path / "a.png", classes=CLASSES)
    panels = {place.get_title(): lines(place) for place in drawn[0].axes if place.get_title()}
    assert {
        title: list(labels) for title, labels in panels.items() if len(labels) > 1 or list(labels) != ["_child0"]
    } == {
        "Loss": ["train", "tune"],
        "Loss terms on train": ["bce"],
        "Jaccard index, pooled over images, by class": ["streaks"],
        "Jaccard index, by data set": ["isic2018", "ph2"],
        "Threshold chosen on tune, by class": ["streaks"],
    }
    assert next(iter(panels)) == "Loss"
    assert {"Jaccard index", "Dice coefficient", "Jaccard index, 0 below 0.65", "Precision"} <= panels.keys()
    assert len(panels) == 9
    assert panels["Jaccard index, by data set"]["ph2"][1] == [0.9] * 4
    # What is not a number leaves a gap.
    assert np.isnan(panels["Precision"]["_child0"][1]).tolist() == [True, False, False, False]


def test_the_learning_rate_is_drawn_for_each_part_at_each_step(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.learning_rate(history(), tmp_path / "a.png")
    found = lines(drawn[0].axes[0])
    assert found.keys() == {"head", "encoder"}
    assert found["encoder"] == (list(range(1, 13)), pytest.approx([0.1 / n for n in range(1, 13)]))
    one = History([{"step": n, "learning_rate": 0.5} for n in (1, 2)], [])
    plots.learning_rate(one, tmp_path / "a.png")
    assert lines(drawn[1].axes[0]) == {"all weights": ([1, 2], [0.5, 0.5])}


@pytest.mark.parametrize("draw", [plots.metrics_history, plots.detailed_metrics, plots.learning_rate])
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_history_may_be_short(tmp_path: Path, draw: Callable[[History, Path], None], epochs: int) -> None:
    draw(history(epochs), tmp_path / "a.png")
    assert picture(tmp_path / "a.png").size > 0


def test_one_epoch_is_seen(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.metrics_history(history(1), tmp_path / "a.png")
    assert all(line.get_marker() == "o" for line in drawn[0].axes[0].get_lines()[:2])


def test_learning_curves_compare_runs_by_the_images_they_saw(tmp_path: Path, drawn: list[Figure]) -> None:
    for name, epochs in (("short", 2), ("long", 4)):
        (tmp_path / name / "logs").mkdir(parents=True)
        text = "\n".join(map(json.dumps, history(epochs).epochs))
        (tmp_path / name / "logs" / "metrics.jsonl").write_text(text)
    plots.learning_curves([tmp_path / "short", tmp_path / "long"], tmp_path / "curves.png")
    jaccard, dice = drawn[0].axes
    assert lines(jaccard)["short"] == ([3000, 6000], [0.5, 0.8])
    assert lines(dice)["long"] == ([3000, 6000, 9000, 12000], pytest.approx([0.6, 0.9, 0.8, 0.7]))
    colours = [line.get_color() for line in jaccard.get_lines()]
    assert colours == [line.get_color() for line in dice.get_lines()]
    assert len(set(colours)) == 2
    plots.learning_curves({"Plain U-Net": tmp_path / "short"}, tmp_path / "curves.png")
    assert list(lines(drawn[1].axes[0])) == ["Plain U-Net"]
    assert not any(figure.axes[0].get_images() for figure in drawn)


def test_many_lines_stay_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"epoch": 1, "images": 1} | {f"tune/jaccard_{n}": 0.5 for n in range(20)}]
    plots.detailed_metrics(History([], rows), tmp_path / "a.png")
    styles = {(str(line.get_color()), str(line.get_linestyle())) for line in drawn[0].axes[0].get_lines()}
    assert len(styles) == 20


# --- images --------------------------------------------------------------------------------------


def shown(figure: Figure) -> list[NDArray[Any]]:
    return [np.asarray(image.get_array()) for place in figure.axes for image in place.get_images()]


def some(count: int, classes: int = 1) -> tuple[list[Picture], list[NDArray[np.bool_]]]:
    found = images(count, classes)
    return list(found.images), list(found.masks > 127)


def test_predictions_of_one_class(tmp_path: Path, drawn: list[Figure]) -> None:
    photos, truths = some(2)
    probabilities = [np.full((1, 32, 32), 0.3, np.float32), np.full((1, 32, 32), 0.5, np.float32)]
    plots.predictions(photos, truths, probabilities, tmp_path / "a.png", thresholds={"lesion": 0.4}, title="Epoch 1")
    given, truth, likely, mask, *second = shown(drawn[0])
    assert np.array_equal(given, photos[0])
    assert np.array_equal(truth[..., 0] == 255, truths[0][0])
    assert np.array_equal(likely, probabilities[0][0])
    assert (second[3] == 255).all(axis=2).sum() > 500 > (mask == 255).all(axis=2).sum() == 0
    scale = drawn[0].axes[2].get_images()[0]
    assert (scale.get_cmap().name, scale.get_clim()) == ("viridis", (0, 1))
    (outline,) = drawn[0].axes[3].collections
    assert np.allclose(np.asarray(outline.get_edgecolor())[0, :3], np.array(PALETTE[1]) / 255)
    assert outline.get_paths()[0].contains_point((16, 16))
    heads = [place.get_title() for place in drawn[0].axes[:4]]
    assert heads == ["input", "truth", "probability", "mask (p > 0.40), truth orange"]
    assert [drawn[0].axes[3].get_xlabel(), drawn[0].axes[7].get_xlabel()] == [
        "Jaccard 0.00",
        f"Jaccard {truths[1].mean():.2f}",
    ]


def test_an_empty_truth_has_no_outline(tmp_path: Path, drawn: list[Figure]) -> None:
    photos, _ = some(1)
    empty, likely = np.zeros((1, 32, 32), bool), np.zeros((1, 32, 32), np.float32)
    plots.predictions(photos, [empty], [likely], tmp_path / "a.png", thresholds={"lesion": 0.4})
    assert len(drawn[0].axes[3].collections) == 0
    assert drawn[0].axes[3].get_xlabel() == "Jaccard 1.00"


def test_predictions_of_several_classes_have_a_colour_each(tmp_path: Path, drawn: list[Figure]) -> None:
    photos, _ = some(1)
    truth = np.zeros((2, 32, 32), bool)
    truth[0, :, :16] = truth[1, :8, :8] = True  # the smaller on top
    likely = np.stack([np.full((32, 32), 0.3), np.full((32, 32), 0.6)]).astype(np.float32)
    plots.predictions(
        photos, [truth], [likely], tmp_path / "a.png", thresholds={"globules": 0.2, "milia_like_cyst": 0.7}
    )
    _, true, highest, mask = shown(drawn[0])
    for place, index in ((true[20, 4], 0), (true[4, 4], 1), (mask[20, 20], 0), (mask[4, 4], 0)):
        nearest = min(range(2), key=lambda n: np.abs(place - np.array(PALETTE[n], float)).sum())
        assert nearest == index
    assert np.ptp(true[20, 20]) == 0  # grey where nothing is
    assert np.array_equal(highest, likely[1])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["globules", "milia like cyst"]


def test_samples_are_outlined_and_not_changed(tmp_path: Path, drawn: list[Figure]) -> None:
    photos, truths = some(5)
    before = [photo.copy() for photo in photos]
    plots.dataset_samples(photos, truths, tmp_path / "a.png", classes=["lesion"])
    assert len(shown(drawn[0])) == 5
    for image, photo, kept in zip(shown(drawn[0]), photos, before, strict=True):
        assert np.array_equal(photo, kept)
        assert 0 < (image != photo).any(axis=2).mean() < 0.6
    assert drawn[0].legends == []
    plots.dataset_samples(*some(2, 2), tmp_path / "a.png", classes=CLASSES)
    assert len(drawn[1].legends) == 1


# --- in a run ------------------------------------------------------------------------------------


def callbacks(folder: Path, classes: int = 1) -> list[Any]:
    return [Journal(folder), Pictures(folder, images(9, classes), images(7, classes), count=3)]


@pytest.mark.parametrize("classes", [("lesion",), CLASSES])
def test_a_run_draws_its_figures(tmp_path: Path, classes: tuple[str, ...]) -> None:
    fit(callbacks(tmp_path, len(classes)), classes=classes)
    assert sorted(str(path.relative_to(tmp_path / "figures")) for path in tmp_path.rglob("*.png")) == [
        "dataset_samples.png",
        "detailed_metrics.png",
        "epochs/epoch_001.png",
        "epochs/epoch_002.png",
        "learning_rate.png",
        "metrics_history.png",
    ]


def test_the_curves_hold_the_last_epoch_and_what_came_before_a_resume(tmp_path: Path, drawn: list[Figure]) -> None:
    folder, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    with pytest.raises(StopError):
        fit(callbacks(folder), epochs=3, checkpoints=checkpoints, fail_at=6)
    fit(callbacks(folder), epochs=3, checkpoints=checkpoints, resume=True)
    last = [figure for figure in drawn if figure.get_suptitle().startswith("Best epoch")][-1]
    assert lines(last.axes[0])["train"][0] == [1, 2, 3]
    samples = [figure for figure in drawn if figure.get_suptitle().startswith("Training images")]
    assert len(samples) == 1


def test_drawing_leaves_the_run_bit_for_bit_as_it_is(tmp_path: Path) -> None:
    watched, alone = fit(callbacks(tmp_path), average=True), fit([], average=True)
    assert watched.drawn == alone.drawn
    assert all(map(torch.equal, watched.parameters(), alone.parameters()))
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in watched.parameters())


@pytest.mark.parametrize("first", [True, False])
def test_the_scored_weights_predict_in_evaluation_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The average of this run is always zero, so its probability is one half wherever the callback stands."""
    seen: list[tuple[list[NDArray[np.float32]], dict[str, float]]] = []

    def keep(*arguments: Any, thresholds: dict[str, float], **_: Any) -> None:
        seen.append((list(arguments[2]), thresholds))

    monkeypatch.setattr(plots, "predictions", keep)
    drawing = Pictures(tmp_path, None, images(7), count=3)
    averaging = WeightAveraging(avg_fn=lambda averaged, current, count: averaged * 0)
    fit([drawing, averaging] if first else [averaging, drawing])
    assert [thresholds for _, thresholds in seen] == [{"lesion": 0.1}, {"lesion": 0.2}]  # of the epoch itself
    for probabilities, _ in seen:
        assert [probability.shape for probability in probabilities] == [(1, 32, 32)] * 3
        assert all((probability == 0.5).all() for probability in probabilities)


def test_curves_are_not_drawn_more_often_than_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    monkeypatch.setattr(plots, "metrics_history", lambda history, path, monitor: epochs.append(len(history.epochs)))
    monkeypatch.setattr(plots, "detailed_metrics", lambda history, path, classes: None)
    monkeypatch.setattr(plots, "learning_rate", lambda history, path: None)
    fit([Journal(tmp_path), Pictures(tmp_path, None, images(1))], epochs=3)
    assert epochs == [3]  # so short a run shows them at its end alone
    assert len(list((tmp_path / "figures" / "epochs").iterdir())) == 3
    monkeypatch.setattr(pictures, "CURVES_EVERY_S", -1)
    fit([Journal(tmp_path), Pictures(tmp_path, None, images(1))], epochs=3)
    assert epochs[1:] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(7, 3, [0, 3, 6]), (2, 4, [0, 1]), (1, 4, [0]), (100, 4, [0, 33, 66, 99])]
)
def test_indices_are_spread(count: int, most: int, expected: list[int]) -> None:
    assert spread(count, most).tolist() == expected
