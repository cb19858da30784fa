"""The sections of an evaluation report on scores: tables of each protocol, their spread, subgroups, every image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dermseg.data import tables
from dermseg.evaluation import ALL, EvaluationResult
from dermseg.facts import SKIN_TONE
from dermseg.imaging import open_image
from dermseg.metrics import JACCARD_THRESHOLD, Interval
from dermseg.protocols import ImageScore, Protocol, count_groups
from dermseg.report import charts, curves
from dermseg.report.charts import Chart, chart, rows_height
from dermseg.report.page import Cell, Percent, Picture, Section, Table, data_uri, number, percent
from dermseg.subgroups import LEAST_GROUPS, Factor, remark
from dermseg.wording import capital, count, plain

MOST_ROWS = 1000  # of images on the page; the CSV has them all
MOST_CHOICES = 12  # of a fact that images can be filtered by
MOST_FILTERS = 4
MOST_SOURCES = 6  # drawn apart from one another
AREA_ERRORS = np.linspace(-1, 1.5, 51)
COLUMNS = ("jaccard", "dice", "sensitivity", "precision")
Summaries = Mapping[str, Mapping[str, Interval]]
"""Data set -> metric -> value and interval."""

_WORDS = {
    "jaccard": "Jaccard",
    "dice": "Dice",
    "thresholded_jaccard": "thresholded Jaccard",
    "hausdorff": "Hausdorff distance, px",
    "hausdorff_95": "Hausdorff distance, 95th percentile, px",
    "average_surface_distance": "average surface distance, px",
    "boundary_f1": "boundary F1",
    "auc_roc": "area under the ROC curve",
    "presence_auc": "area under the ROC curve of presence",
}


def words(metric: str) -> str:
    """A metric's name as it is read: "micro Jaccard", "Jaccard, streaks"."""
    if metric.startswith(("micro_", "macro_")):
        return f"{metric[:5]} {words(metric[6:])}"
    known = next((name for name in sorted(_WORDS, key=len, reverse=True) if f"{metric}_".startswith(f"{name}_")), "")
    rest = plain(metric.removeprefix(known).removeprefix("_"))
    return ", ".join(filter(None, [_WORDS.get(known, ""), rest]))


def by_protocol(result: EvaluationResult) -> Section:
    """A table of each protocol: of one class its metrics by data set, of several also those of each class."""
    parts = result.parts()
    if len(parts) == 2:  # one data set, whose numbers those over all would only repeat
        del parts[ALL]
    headings = {part: f"{part}: {_size(images)}" for part, images in parts.items()}
    draw = _by_class if len(result.classes) > 1 else _by_metric
    text = (
        "Each table says how its numbers are taken and averaged; numbers of different tables must not be compared. "
        "In brackets: the 95 % interval. A group is a lesion or patient, or an image where neither is known."
    )
    if shared := copies(result):
        text += f" {shared}"
    found = [draw(protocol, result.summaries[protocol.name], headings) for protocol in result.protocols]
    return Section("scores", "Scores", text, tables=found)


def copies(result: EvaluationResult) -> str:
    """How many images stand in several data sets, in a sentence; empty if none does."""
    sources = Counter(image.id for image in result.images)
    shared = [of for of in sources.values() if of > 1]
    if not shared:
        return ""
    most = "two data sets" if max(shared) == 2 else "two data sets or more"
    verb = "counts" if len(shared) == 1 else "count"
    return (
        f"{count(len(sources), 'image')}, {len(shared):,} of them in {most}; "
        f"{'this one' if len(shared) == 1 else 'these'} {verb} once over all."
    )


def _by_metric(protocol: Protocol, summaries: Summaries, headings: Mapping[str, str]) -> Table:
    """A row for each metric, a column for each data set."""
    rows: list[list[Cell]] = [[words(name), *(summaries[part][name] for part in headings)] for name in protocol.names]
    return Table(f"{capital(protocol.description)}.", ["metric", *headings.values()], rows)


def _by_class(protocol: Protocol, summaries: Summaries, headings: Mapping[str, str]) -> Table:
    """A column for each metric; rows for all classes in each data set, then for each class in all."""
    rows: list[list[Cell]] = [
        [f"{heading}, {average}", *(summaries[part][f"{average}_{metric}"] for metric in protocol.metrics)]
        for part, heading in headings.items()
        for average in (("micro", "macro") if protocol.micro else ("macro",))
    ]
    rows += [
        [plain(name), *(summaries[ALL][f"{metric}_{name}"] for metric in protocol.metrics)] for name in protocol.classes
    ]
    note = "micro: of the counts of all classes; macro: the mean of the classes' own." if protocol.micro else ""
    return Table(f"{capital(protocol.description)}.", ["of", *map(words, protocol.metrics)], rows, note=note)


def by_class(result: EvaluationResult) -> Section:
    """The classes side by side: how well each is outlined, and whether it is told to be there at all."""
    official, ranking = result.protocols[0], result.protocol("ranking")
    every = result.summaries["official"][ALL]
    counted = counts(result)
    present, marked = (counted[:, :, [0, other]].sum(axis=2).T > 0 for other in (2, 1))  # (K, n)
    chart_of = _intervals(
        "class_jaccard",
        "Jaccard by class",
        [
            (name, int(shown.sum()), every[f"jaccard_{name}"], False)
            for name, shown in zip(result.classes, present, strict=True)
        ],
        every[official.main].mean,
        f"Jaccard; dashed: {words(official.main)} of all classes",
        note="n counts the images that show the class.",
    )
    outlined: list[list[Cell]] = []
    told: list[list[Cell]] = []
    for name, shown, own in zip(result.classes, present, marked, strict=True):
        outlined.append([plain(name), *(every[f"{metric}_{name}"] for metric in official.metrics)])
        shares = (float(own[which].mean()) if which.any() else math.nan for which in (shown, ~shown))
        told.append([plain(name), int(shown.sum()), *map(Percent, shares)])
        if ranking is not None:
            told[-1].append(result.summaries["ranking"][ALL][f"presence_auc_{name}"])
    columns = ["class", "images that show it", "marked where shown", "marked where not shown"]
    note = ""
    if ranking is not None:
        columns.append("presence AUC")
        note = "Presence AUC: how well the highest probability in an image tells whether the class is there."
    return Section(
        "classes",
        "Classes",
        "Shares of the image's area are summed over images before a metric is taken.",
        [chart_of],
        [
            Table("How well each class is outlined", ["class", *map(words, official.metrics)], outlined),
            Table("Whether each class is found at all", columns, told, note=note),
        ],
    )


def spread(result: EvaluationResult) -> Section:
    """How the main metric is distributed over images, and what it goes with."""
    main = result.protocols[0].main
    label = f"{words(main)} of an image"
    groups = _for_charts(result.parts())
    scores = _each(groups, main)
    several = len(result.classes) > 1
    drawn = [
        chart(
            "distribution",
            f"Distribution of {words(main)}",
            f"Histograms, {label}. {_medians(scores)}",
            partial(
                charts.histograms,
                values=scores,
                bins=np.linspace(0, 1, 41),
                label=label,
                marks=() if several else (JACCARD_THRESHOLD,),
            ),
            note=""
            if several
            else f"Dashed: {JACCARD_THRESHOLD}, below which the challenge counts an image as failed.",
            height=max(3.6, rows_height(len(scores), 1.1)),
        )
    ]
    if not several and counts(result)[..., [0, 2]].any():
        drawn += [_against_size(result), _area_errors({n: counts(result, own)[:, 0] for n, own in groups.items()})]
    text = "A mean hides what single images are like."
    return Section("spread", "Spread", text, drawn)


def _against_size(result: EvaluationResult) -> Chart:
    groups: dict[str, list[ImageScore]] = {}
    for image in result.distinct:
        groups.setdefault(image.source, []).append(image)
    if len(groups) > MOST_SOURCES:
        groups = {ALL: list(result.distinct)}
    counted, scores = {name: counts(result, own)[:, 0] for name, own in groups.items()}, _each(groups, "jaccard")
    sizes = {name: own[:, [0, 2]].sum(axis=1) / own.sum(axis=1) for name, own in counted.items()}
    shown = {name: (own[own > 0], scores[name][own > 0]) for name, own in sizes.items()}
    size, score = (np.concatenate([pair[side] for pair in shown.values()]) for side in (0, 1))
    halves = [score[size <= np.median(size)], score[size > np.median(size)]]
    medians = " and ".join(f"{np.median(half):.3f}" if len(half) else "–" for half in halves)
    return chart(
        "jaccard_by_size",
        "Jaccard by lesion size",
        f"Scatter plot of Jaccard against the share of the image that the lesion covers, a dot an image. The median is "
        f"{medians} in the smaller and the larger half of the lesions.",
        partial(
            curves.cloud,
            groups=shown,
            labels=("lesion, share of the image", "Jaccard of an image"),
            line=JACCARD_THRESHOLD,
        ),
        note="A dot for each image. Small lesions lose more by an outline that is a little off.",
        height=3.6,
    )


def _area_errors(counted: Mapping[str, NDArray[np.float64]]) -> Chart:
    errors = {name: area_errors(own) for name, own in counted.items()}
    return chart(
        "area_error",
        "Area, predicted against true",
        f"Histograms, predicted area less the true one as a share of the true one. {_medians(errors, percent)}",
        partial(
            charts.histograms,
            values=errors,
            bins=AREA_ERRORS,
            label="difference, share of the true area",
            marks=(0.0,),
            percent=True,
        ),
        note="Left of 0: the lesion was taken too small; right: too large. The last bar holds what lies beyond.",
        height=max(3.6, rows_height(len(errors), 1.1)),
    )


def subgroups(result: EvaluationResult, factors: Sequence[Factor]) -> Section:
    """A chart of intervals for each factor, and what the gaps say in sentences."""
    main = result.protocols[0].main
    levels = [level for factor in factors for level in factor.levels]
    ends = np.array([[level.metric.mean, level.metric.low, level.metric.high] for level in levels])
    known = {factor.name: f"Known of {factor.images:,} of {len(result.distinct):,} images." for factor in factors}
    span = (max(0.0, float(np.nanmin(ends)) - 0.04), min(1.02, float(np.nanmax(ends)) + 0.04))
    drawn = [
        _intervals(
            f"subgroup_{factor.name}",
            capital(factor.title),
            [(level.name, level.images, level.metric, level.verdict == "shown") for level in factor.levels],
            factor.whole,
            words(main),
            span,
            known[factor.name] if factor.images < len(result.distinct) else "",
        )
        for factor in factors
    ]
    rows: list[list[Cell]] = [
        [factor.title, level.name, level.images, level.groups, level.metric, level.gap, level.verdict]
        for factor in factors
        for level in factor.levels
    ]
    columns = ("factor", "level", "images", "groups", words(main), "gap to the others", "verdict")
    sentences = [capital(factor.summary) for factor in factors]
    text = (
        f"{capital(words(main))} of images that are alike in one respect; the dashed line is that of all images of "
        f"which it is known; of fewer than {LEAST_GROUPS} groups there is no interval. Orange: its gap to the other "
        "images is shown, since the gap's interval does not hold 0. A gap says where a "
        f"score differs, not why. {remark(factors)}"
    )
    table = Table("Subgroups", columns, rows)
    return Section("subgroups", "Subgroups", text, drawn, [table], sentences=sentences)


def subgroups_csv(factors: Sequence[Factor]) -> str:
    """The numbers of the subgroups."""
    names = ("factor", "level", "images", "groups", "mean", "low", "high", "gap", "gap_low", "gap_high", "verdict")
    rows = (
        [
            *(factor.name, level.name, level.images, level.groups),
            *(level.metric.mean, level.metric.low, level.metric.high),
            *(level.gap.mean, level.gap.low, level.gap.high, level.verdict),
        ]
        for factor in factors
        for level in factor.levels
    )
    return tables.encode(names, rows)


def every_image(result: EvaluationResult, ordered: Sequence[ImageScore], factors: Sequence[Factor]) -> Section:
    """The table of images, the worst first: picture, scores and what is known of each."""
    shown = ordered[:MOST_ROWS]
    columns: dict[str, list[Cell]] = {}
    if any(image.thumbnail for image in shown):
        columns["image"] = [_thumbnail(image) for image in shown]
    columns["id"] = [image.id for image in shown]
    for metric in _metrics_of_an_image(result):
        columns[words(metric).removesuffix(", px")] = [image.metrics[metric] for image in shown]
    if any("lesion_fraction" in image.facts for image in shown):
        columns["lesion, share"] = [Percent(float(image.facts.get("lesion_fraction", math.nan))) for image in shown]
    if len({image.source for image in result.images}) > 1:
        columns["data set"] = [image.source for image in shown]
    for factor in factors:
        if factor.name != "source":
            title = factor.title.removesuffix(" from uncalibrated images")
            columns[title] = [image.facts.get(factor.name) for image in shown]
    choices = {name: {cell for cell in cells if isinstance(cell, str)} for name, cells in columns.items()}
    filters = [name for name, own in choices.items() if 1 < len(own) <= MOST_CHOICES and name != "id"][:MOST_FILTERS]
    text = "The worst first."
    if "image" in columns:
        text += " Yellow is the outline of the truth, cyan that of the prediction."
    if any(factor.name == SKIN_TONE for factor in factors):
        text += " Skin tone is estimated from uncalibrated images."
    note = f"The worst {MOST_ROWS:,}; {result.split}_metrics.csv has them all." if len(ordered) > MOST_ROWS else ""
    table = Table("Every image", list(columns), list(zip(*columns.values(), strict=True)), filters, note)
    return Section("images", "Images", text, tables=[table])


def not_scored(result: EvaluationResult) -> Section:
    """What could not be scored, and why."""
    kinds = Counter(failure.kind for failure in result.failures)
    rows = [[failure.source, failure.id, failure.kind, failure.reason] for failure in result.failures[:MOST_ROWS]]
    note = f"The first {MOST_ROWS:,}; result.json has them all." if len(result.failures) > MOST_ROWS else ""
    table = Table("Images without a score", ("data set", "id", "kind", "reason"), rows, ("kind",), note)
    by_kind = ", ".join(f"{kind}: {of:,}" for kind, of in kinds.items())
    text = f"{by_kind}. They are in no mean, so do not compare this result with one that has them."
    return Section("failures", "Not scored", text, tables=[table])


def counts(result: EvaluationResult, images: Sequence[ImageScore] | None = None) -> NDArray[np.float64]:
    """The official protocol's counts of images, or of all, each once.

    Returns:
        (n, K, 4): true positives, false positives, false negatives, true negatives.
    """
    chosen = result.distinct if images is None else images
    return np.array([image.statistics["official"] for image in chosen], np.float64)


def area_errors(counted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predicted area less true area as a share of the true one, of counts (n, 4) of images that have a true one."""
    true = counted[:, [0, 2]].sum(axis=1)
    errors: NDArray[np.float64] = (counted[true > 0][:, 1] - counted[true > 0][:, 2]) / true[true > 0]
    return errors


def _intervals(
    name: str,
    title: str,
    rows: Sequence[tuple[str, int, Interval, bool]],
    whole: float,
    label: str,
    span: tuple[float, float] = (0.0, 1.0),
    note: str = "",
) -> Chart:
    return chart(
        name,
        title,
        f"{title}, {label} with 95 % intervals. "
        + "; ".join(f"{plain(level)}, {count(images, 'image')}: {number(value)}" for level, images, value, _ in rows),
        partial(curves.intervals, rows=rows, whole=whole, span=span, label=label),
        note=note,
        height=rows_height(len(rows), 0.52, 0.9),
    )


def _metrics_of_an_image(result: EvaluationResult) -> list[str]:
    """Those that the table of images shows."""
    if len(result.classes) > 1:
        return [f"micro_{name}" for name in COLUMNS] + [f"jaccard_{name}" for name in result.classes]
    return [*COLUMNS, *(["hausdorff_95"] if result.protocol("boundary") else [])]


def _thumbnail(image: ImageScore) -> Picture | None:
    if not image.thumbnail:
        return None
    height, width = open_image(image.thumbnail).size
    alt = f"{image.id} with the outlines of truth and prediction"
    return Picture(data_uri(image.thumbnail, "image/webp"), width, height, alt)


def _size(images: Sequence[ImageScore]) -> str:
    groups = count_groups(images)
    return count(len(images), "image") + (f", {count(groups, 'group')}" if groups < len(images) else "")


def _for_charts(parts: Mapping[str, list[ImageScore]]) -> Mapping[str, list[ImageScore]]:
    """A panel for each data set and one for all; one alone where there is one data set, or too many for a chart."""
    return parts if 2 < len(parts) <= MOST_SOURCES + 1 else {ALL: parts[ALL]}


def _each(groups: Mapping[str, Sequence[ImageScore]], metric: str) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([image.metrics[metric] for image in own]) for name, own in groups.items()}


def _medians(groups: Mapping[str, NDArray[np.float64]], spoken: object = None) -> str:
    say = percent if spoken is percent else (lambda value: f"{value:.3f}")
    return "Medians: " + ", ".join(f"{name} {say(float(np.median(own)))}" for name, own in groups.items() if len(own))
