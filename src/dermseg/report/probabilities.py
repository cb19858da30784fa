"""The section of an evaluation report on probabilities: what other thresholds would score, ranking and calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermseg import metrics, ranking
from dermseg.data import tables
from dermseg.evaluation import ALL, EvaluationResult, OperatingPoint
from dermseg.report import curves
from dermseg.report.charts import Chart, chart
from dermseg.report.curves import Curve
from dermseg.report.page import Cell, Section, Table, number, percent
from dermseg.report.scores import words
from dermseg.wording import capital, count, plain

Numbers = NDArray[np.float64]
Curves = Mapping[str, Mapping[str, Numbers]]
"""Class -> metric -> (99,), at each of `ranking.THRESHOLDS`."""

METRICS = ("jaccard", "dice", "sensitivity", "specificity", "precision")
DRAWN = METRICS[:4]
DRAWN_BY_CLASS = ("jaccard", "sensitivity", "precision")
IN_USE, SENSITIVE = "threshold in use", "high sensitivity"
HEIGHT = 4.2


def section(result: EvaluationResult) -> tuple[Section, dict[str, str]]:
    """The charts, and the numbers of their curves as CSV by file name.

    Args:
        result: With the protocol ``ranking`` and at least one image.
    """
    statistics = np.array([image.statistics["ranking"] for image in result.distinct], np.float32)
    summed = statistics.sum(axis=0, dtype=np.float64)
    found = _by_threshold(result.classes, statistics, summed)
    averaged = "means over images" if len(result.classes) == 1 else "pixels summed over images"
    text = (
        "Pixels are compared at the network's size, so that numbers differ a little from the official ones. By "
        f"threshold: {averaged}; the other curves: all pixels of all images."
    )
    sentences = [f"Threshold in use: {_listed(result.classes, result.thresholds)}."]
    if (point := result.operating_point) is not None:
        sentences += _chosen(result.classes, point)
    charts = [*_draw_thresholds(result, found), *_draw_ranked(result, summed)]
    return (
        Section(
            "probabilities",
            "Thresholds and calibration",
            text,
            charts,
            [_points(result, statistics)],
            sentences=sentences,
        ),
        _csv(result.classes, found, summed),
    )


def _by_threshold(classes: Sequence[str], statistics: NDArray[np.float32], summed: Numbers) -> Curves:
    """Of one class the means over images, of several the metrics of summed pixels, as the challenge has it."""
    if len(classes) == 1:
        return {classes[0]: ranking.threshold_curve(statistics, 0)}
    counts = ranking.counts_at(summed, ranking.THRESHOLDS)
    return {
        name: {each: metrics.score(each, own) for each in METRICS} for name, own in zip(classes, counts, strict=True)
    }


def _operating_points(result: EvaluationResult) -> dict[str, tuple[float, ...]]:
    """The thresholds of the classes, by what they are for; NaN of a class that none was chosen for."""
    point, found = result.operating_point, {IN_USE: result.thresholds}
    if point is not None:
        pairs = zip(point.thresholds, point.reached, strict=True)
        found[SENSITIVE] = tuple(math.nan if reached is None else threshold for threshold, reached in pairs)
    return found


def _chosen(classes: Sequence[str], point: OperatingPoint) -> Iterator[str]:
    """How the thresholds of high sensitivity were chosen, and what of each class they find."""
    asked = percent(point.sensitivity)

    def found(place: int) -> str:
        threshold, reached, images = point.thresholds[place], point.reached[place], point.images[place]
        if reached is None:
            return "none is chosen, for no image of tune shows it"
        on = f"of it is found on tune ({count(images, 'image')})"
        if reached < point.sensitivity - 1e-9:
            return f"{asked} is not reached; at {threshold:g}, {percent(math.floor(1000 * reached) / 1000)} {on}"
        return f"{threshold:g}, at which {percent(reached)} {on}"

    names = [f"{plain(name)}: " if len(classes) > 1 else "" for name in classes]
    each = "; ".join(f"{name}{found(place)}" for place, name in enumerate(names))
    yield (
        f"High sensitivity: the highest threshold from 0.01 to 0.99 at which {asked} of "
        f"{'a class' if len(classes) > 1 else f'the {plain(classes[0])}'} is found on the split tune, as the mean over "
        f"images that show it, at the network's size: {each}. It is for where missing some is worse than marking too "
        "much."
    )
    if len(classes) > 1:
        yield "The table below takes pixels summed over images, another quantity than that mean."


def _draw_thresholds(result: EvaluationResult, found: Curves) -> Iterator[Chart]:
    """One chart of several metrics, or of several classes a chart for each metric."""
    at = _operating_points(result)

    def curve(name: str, metric: str) -> Curve:
        y, place = found[name][metric], result.classes.index(name)
        marks = {
            mark: (of[place], float(np.interp(of[place], ranking.THRESHOLDS, y)))
            for mark, of in at.items()
            if ranking.THRESHOLDS[0] <= of[place] <= ranking.THRESHOLDS[-1]
        }
        return Curve(ranking.THRESHOLDS, y, marks)

    drawn: dict[str, dict[str, Curve]]
    if len(result.classes) == 1:
        drawn = {"Metrics": {words(metric): curve(result.classes[0], metric) for metric in DRAWN}}
    else:
        drawn = {words(metric): {name: curve(name, metric) for name in result.classes} for metric in DRAWN_BY_CLASS}
    for title, lines in drawn.items():
        spoken = "; ".join(
            f"{plain(name)}: highest {line.y.max():.3f} at {ranking.THRESHOLDS[line.y.argmax()]:.2f}"
            + "".join(f", {y:.3f} at the {mark}, {x:g}" for mark, (x, y) in line.marks.items())
            for name, line in lines.items()
        )
        yield chart(
            f"thresholds_{title.lower()}",
            f"{capital(title)} by threshold",
            f"Curves against the threshold from 0 to 1. {spoken}.",
            partial(curves.lines, curves=lines, labels=("threshold", "")),
            note="Where nothing is marked, precision counts as 1." if title == "precision" else "",
            height=HEIGHT,
        )


def _draw_ranked(result: EvaluationResult, summed: Numbers) -> Iterator[Chart]:
    """ROC, precision against recall, reliability: a line for each class."""
    every, several = result.summaries["ranking"][ALL], len(result.classes) > 1

    def values(metric: str) -> str:
        names = {plain(name): f"{metric}_{name}" for name in result.classes} if several else {"": metric}
        return ", ".join(f"{name} {number(every[own])}".strip() for name, own in names.items())

    def drawn(
        name: str, title: str, note: str, labels: tuple[str, str], lines: Sequence[Curve], **options: Any
    ) -> Chart:
        own = dict(zip(result.classes, lines, strict=True))
        draw = partial(curves.lines, curves=own, labels=labels, **options)
        return chart(name, title, f"{title} of the pixels of all images. {note}", draw, note=note, height=HEIGHT)

    yield drawn(
        "roc",
        "ROC curve",
        f"Area under the curve: {values('auc_roc')}.",
        ("false positive rate", "true positive rate"),
        [Curve(*ranking.roc(own)) for own in summed],
        diagonal=True,
    )
    yield drawn(
        "precision_recall",
        "Precision and recall",
        f"Average precision: {values('average_precision')}.",
        ("recall", "precision"),
        [Curve(*ranking.precision_recall(own)) for own in summed],
        steps=True,
    )
    bins = [ranking.reliability(own) for own in summed]
    yield drawn(
        "reliability",
        "Reliability",
        f"Dotted: of pixels called 0.7, 70 % are true. Calibration error: {values('calibration_error')}.",
        ("probability", "share of pixels that are true"),
        [Curve(own.predicted[own.pixels > 0], own.observed[own.pixels > 0]) for own in bins],
        dots=True,
        diagonal=True,
    )


def _points(result: EvaluationResult, statistics: NDArray[np.float32]) -> Table:
    """What the operating points score."""
    several = len(result.classes) > 1
    rows: list[list[Cell]] = []
    for place, name in enumerate(result.classes):
        for mark, thresholds in _operating_points(result).items():
            own, threshold = statistics[:, place], thresholds[place]
            values = _scores(own.sum(axis=0, dtype=np.float64)[None] if several else own, threshold)
            shown = None if math.isnan(threshold) else f"{threshold:g}"
            rows.append([*([plain(name)] if several else []), mark, shown, *values])
    columns = (*(["class"] if several else []), "operating point", "threshold", *map(words, METRICS))
    known = all(row[-1] is not None for row in rows)
    note = "" if known else "A dash: pixels are counted at hundredths, and not at this threshold."
    return Table(f"Operating points on the split {result.split}", columns, rows, note=note)


def _scores(statistics: NDArray[np.floating], threshold: float) -> list[float | None]:
    """The metrics, means over images (n, LENGTH), at a threshold; None of each where pixels are not counted at it."""
    if np.float32(threshold) not in ranking.EDGES:
        return [None] * len(METRICS)
    counts = ranking.counts_at(statistics, [threshold])
    return [float(metrics.score(metric, counts).mean()) for metric in METRICS]


def _listed(classes: Sequence[str], thresholds: Sequence[float]) -> str:
    if len(classes) == 1:
        return f"{thresholds[0]:g}"
    return ", ".join(f"{plain(name)} {of:g}" for name, of in zip(classes, thresholds, strict=True))


def _csv(classes: Sequence[str], found: Curves, summed: Numbers) -> dict[str, str]:
    def table(columns: Sequence[str], curves_of: Sequence[Sequence[Numbers]]) -> str:
        rows = ((name, *row) for name, own in zip(classes, curves_of, strict=True) for row in zip(*own, strict=True))
        return tables.encode(["class", *columns], rows)

    by_threshold = [[ranking.THRESHOLDS, *(found[name][metric] for metric in METRICS)] for name in classes]
    return {
        "thresholds.csv": table(["threshold", *METRICS], by_threshold),
        "roc.csv": table(["false_positive_rate", "true_positive_rate"], list(map(ranking.roc, summed))),
        "precision_recall.csv": table(["recall", "precision"], list(map(ranking.precision_recall, summed))),
        "reliability.csv": table(["predicted", "observed", "pixels"], list(map(ranking.reliability, summed))),
    }
