"""The report on a comparison: who is better and by how much, as one page with PNG, CSV and JSON files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dermseg import figures, subgroups
from dermseg.comparison import DOCUMENT, TABLE, Comparison, Difference, Side, differences, higher_is_better, signed
from dermseg.data.catalog import Sample
from dermseg.evaluation import ALL, Predictor, read_truths
from dermseg.figures import TRUTH, Panel
from dermseg.protocols import ImageScore, Protocol, count_groups
from dermseg.report import cases as pictures
from dermseg.report import charts
from dermseg.report.charts import COLOURS, INK, Chart, chart, rows_height, short
from dermseg.report.output import replacing
from dermseg.report.page import Cell, Page, Section, Signed, Table, publish
from dermseg.report.scores import copies, words
from dermseg.report.summary import of_split
from dermseg.wording import capital, count, noun, plain

PAGE = "compare.html"
MOST_ROWS = 1000  # of images on the page; the CSV has them all
SHEET_SIDE = 380  # longer side in pixels of a picture in a case's file
SIDES: tuple[Side, Side] = ("A", "B")
COLUMNS = ("A", "B", "B − A", "interval favours")
FAVOURED = {"A": COLOURS[1], "B": COLOURS[0], None: "#7f8a96"}
DISTANCES = ("hausdorff", "hausdorff_95", "average_surface_distance")


def write(
    comparison: Comparison,
    folder: str | Path,
    *,
    predictors: tuple[Predictor, Predictor],
    samples: Sequence[Sample],
    cases: int = 6,
) -> Path:
    """Write the report: ``compare.html``, which holds all it shows, and its charts, cases and tables beside it.

    Args:
        comparison: What it is of. Where facts were gathered of the images, it is shown by subgroups too.
        folder: Where to write; made if it is missing. Files of an earlier report are replaced.
        predictors: A and B, which predict the cases once more.
        samples: The images that were scored.
        cases: How many images are shown where B is better, and as many where A is.

    Returns:
        The page.

    Raises:
        InputError: If the folder cannot be written.
    """
    with replacing(folder, PAGE) as stage:
        page = _page(comparison, stage, predictors, samples, cases)
        publish(page, stage, PAGE, comparison.files())
    return Path(folder) / PAGE


def _page(
    comparison: Comparison,
    folder: Path,
    predictors: tuple[Predictor, Predictor],
    samples: Sequence[Sample],
    cases: int,
) -> Page:
    """The page, whose cases are drawn into the folder."""
    one, other = comparison.one, comparison.other
    return Page(
        title=f"{one.name} and {other.name} compared",
        lead=f"A is {one.name}, B is {other.name}; on {one.data}, split {one.split}.",
        cards=_cards(comparison),
        text=f"{capital(comparison.verdict)}.",
        sentences=[*of_split(one.split, predictors), *filter(None, [copies(one)]), *_sentences(comparison)],
        sections=[
            _metrics(comparison),
            *_subgroups(comparison),
            *_cases(comparison, folder, predictors, samples, cases),
            *_images(comparison),
        ],
        facts=[
            (f"Data hash of {side} (SHA-256)", each.content_hash)
            for side, each in zip(SIDES, (one, other), strict=True)
        ],
    )


def _cards(comparison: Comparison) -> list[tuple[Cell, str]]:
    found, test, images = comparison.decisive, comparison.test, comparison.one.distinct
    name, groups = words(_main(comparison)), count_groups(images)
    difference, _, interval = signed(found.difference).partition(" ")
    gain: tuple[Cell, str] = (difference, f"B − A, 95 % interval {interval}")
    cards: list[tuple[Cell, str]] = [
        (found.one.mean, f"{name} of A"),
        (found.other.mean, f"{name} of B"),
        gain if found.defined else (None, "B − A, which is not defined on these images"),
        (None, "no signed-rank test: the metric is of sums over images")
        if test is None
        else ("< 0.001" if test.p_value < 0.001 else test.p_value, "p of Wilcoxon's signed-rank test"),
        (len(images), noun(len(images), "image")),
        (groups, f"{noun(groups, 'group')}: lesions or patients, or images where neither is known"),
    ]
    if found.images:
        cards += [
            (found.images.better, f"{noun(found.images.better, 'image')} on which B is better"),
            (found.images.worse, f"{noun(found.images.worse, 'image')} on which A is better"),
        ]
    return cards


def _sentences(comparison: Comparison) -> Iterator[str]:
    found, test = comparison.decisive, comparison.test
    if found.images:
        yield (
            f"By {words(_main(comparison))}, B is better on {count(found.images.better, 'image')}, worse on "
            f"{found.images.worse:,} and equal on {found.images.equal:,}; the median difference is "
            f"{found.images.median:+z.3f}."
        )
    if test:
        yield (
            f"The rank-biserial correlation is {test.correlation:+z.2f}: it is -1 where A is better throughout and +1 "
            "where B is."
        )
    every = [each for parts in comparison.differences.values() for each in parts[ALL].values() if each.defined]
    favoured = {side: sum(each.favours == side for each in every) for side in SIDES}
    yield (
        f"Of {count(len(every), 'metric')} over all images, the interval favours A in {favoured['A']}, B in "
        f"{favoured['B']} and neither in {len(every) - sum(favoured.values())}."
    )
    yield from comparison.notes


def _metrics(comparison: Comparison) -> Section:
    main, parts = comparison.main, comparison.one.parts()
    every = {name: found[ALL] for name, found in comparison.differences.items()}
    shown = {words(name): found for name, found in every[main.name].items() if _overall(main, name) and found.defined}
    drawn = [_forest("differences", f"Differences by metric, {main.name}", shown)] if shown else []
    if len(parts) > 2:
        by_set = {name: found[main.main] for name, found in comparison.differences[main.name].items()}
        known = {name: found for name, found in by_set.items() if found.defined}
        if known:
            drawn.append(_forest("differences_by_data_set", f"Difference of {words(main.main)} by data set", known))
    distances = {
        plain(name): found
        for name, found in every.get("boundary", {}).items()
        if name.removeprefix("macro_") in DISTANCES and main.name != "boundary"
    }
    if distances:
        drawn.append(_forest("differences_of_distances", "Differences of distances, px; less is better", distances))
    tables = [_table(comparison, protocol) for protocol in comparison.one.protocols]
    if len(parts) > 2:
        rows: list[list[Cell]] = [[name, len(parts[name]), *_cells(found)] for name, found in by_set.items()]
        tables.append(Table(f"{words(_main(comparison))} by data set", ["data set", "images", *COLUMNS], rows))
    text = "An interval favours A or B where it does not reach 0. Numbers of different tables must not be compared."
    return Section("metrics", "Metrics", text, charts=drawn, tables=tables)


def _table(comparison: Comparison, protocol: Protocol) -> Table:
    columns = ["metric", *COLUMNS]
    if protocol.per_image:
        columns += ["B better on", "equal on", "B worse on", "median of B − A"]
    found = comparison.differences[protocol.name][ALL]
    shown = [name for name in found if _overall(protocol, name)]
    rows: list[list[Cell]] = []
    for name in shown:
        row = [words(name), *_cells(found[name])]
        if images := found[name].images:
            row += [images.better, images.equal, images.worse, _rounded(images.median)]
        rows.append(row)
    note = f"All {len(found)} metrics are in {DOCUMENT}." if len(shown) < len(found) else ""
    return Table(f"{capital(protocol.description)}.", columns, rows, note=note)


def _cells(each: Difference) -> list[Cell]:
    return [each.one.mean, each.other.mean, Signed(signed(each.difference)) if each.defined else None, each.favours]


def _forest(name: str, title: str, rows: Mapping[str, Difference]) -> Chart:
    said = "; ".join(f"{row} {signed(each.difference)}" for row, each in rows.items())
    return chart(
        name,
        title,
        f"Differences B − A with their intervals: {said}",
        partial(_draw_forest, rows=rows),
        note="Dot and line: B − A and its 95 % interval; blue where it favours B, orange where A, else grey.",
        height=rows_height(len(rows), 0.32, 1.0),
    )


def _draw_forest(figure: Figure, rows: Mapping[str, Difference]) -> None:
    place = figure.add_subplot()
    place.axvline(0, color=INK, linestyle="--", linewidth=0.9)
    for at, each in enumerate(rows.values()):
        colour, value = FAVOURED[each.favours], each.difference
        place.plot([value.low, value.high], [at, at], color=colour, linewidth=2.4, solid_capstyle="butt")
        face = colour if each.favours else "white"
        place.plot([value.mean], [at], color=colour, marker="o", markersize=7, markerfacecolor=face)
    place.set_yticks(range(len(rows)), [short(row) for row in rows])
    place.set(ylim=(len(rows) - 0.5, -0.5), xlabel="B − A")
    place.locator_params(axis="x", nbins=5)
    place.grid(axis="x")
    place.set_axisbelow(True)


def _subgroups(comparison: Comparison) -> Iterator[Section]:
    """The difference on images that are alike in one respect, where there are enough of them."""
    main, other_of = comparison.main, {(one.source, one.id): other for one, other in comparison.pairs}
    rows: list[list[Cell]] = []
    for respect, levels in subgroups.alike(comparison.one):
        for name, ones in levels.items() if respect.name != "source" else ():
            if count_groups(ones) >= subgroups.FEWEST_GROUPS:
                others = [other_of[one.source, one.id] for one in ones]
                found = differences(main, ones, others)[main.main]
                rows.append([respect.title, plain(name), len(ones), *_cells(found)])
    if rows:
        text = (
            f"{capital(words(_main(comparison)))} of at least {subgroups.FEWEST_GROUPS} lesions or patients. Of "
            f"{count(len(rows), 'interval')}, about {0.05 * len(rows):.1f} (5 %) would favour a side by chance alone."
        )
        table = Table("By subgroup", ("respect", "subgroup", "images", *COLUMNS), rows)
        yield Section("subgroups", "Subgroups", text, tables=[table])


def _images(comparison: Comparison) -> Iterator[Section]:
    if (name := _by_image(comparison)) is None:
        return
    label = words(name)
    one, other = (np.array([image.metrics[name] for image in side]) for side in zip(*comparison.pairs, strict=True))
    change = comparison.difference_of(name)
    farthest = float(np.abs(change).max()) or 0.01
    drawn = [
        chart(
            "scatter",
            f"{capital(label)} of each image",
            f"Scatter plot of {label} of B over that of A, {count(len(change), 'image')}.",
            partial(_draw_scatter, one=one, other=other, label=label),
            note="A dot an image. On the dashed diagonal both score alike, above it B scores higher.",
            height=4.4,
        ),
        chart(
            "difference_histogram",
            f"Differences of {label}",
            f"Histogram of B − A from {change.min():+.3f} to {change.max():+.3f}, median {np.median(change):+z.3f}.",
            partial(
                charts.histograms,
                values={"all": change},
                bins=np.linspace(-farthest, farthest, 42),
                label="B − A",
                marks=(0,),
            ),
            note="Right of the dashed line B scores higher.",
            height=4.4,
        ),
    ]
    rows: list[list[Cell]] = [
        [image.id, image.source, image.group, *(_rounded(each[place]) for each in (one, other, change))]
        for place in np.argsort(-np.abs(change), kind="stable")[:MOST_ROWS]
        for image in comparison.one.distinct[place : place + 1]
    ]
    table = Table(
        f"{capital(label)} of each image, the largest differences first",
        ("id", "data set", "group", *COLUMNS[:3]),
        rows,
        filters=("data set",),
        note=f"The first {MOST_ROWS:,}; {TABLE} has them all." if len(change) > MOST_ROWS else "",
    )
    text = f"All metrics of each image are in {TABLE}."
    yield Section("images", "Image by image", text, charts=drawn, tables=[table])


def _draw_scatter(figure: Figure, one: NDArray[np.float64], other: NDArray[np.float64], label: str) -> None:
    place = figure.add_subplot()
    both = np.concatenate([one, other])
    margin = 0.04 * (float(np.ptp(both)) or 1)
    span = (float(both.min()) - margin, float(both.max()) + margin)
    place.plot(span, span, color=INK, linestyle="--", linewidth=0.9)
    place.scatter(one, other, 18, color=COLOURS[0], alpha=0.55, linewidths=0, rasterized=True)
    place.set(xlim=span, ylim=span, aspect="equal", xlabel=f"{label} of A", ylabel=f"{label} of B")
    place.grid()
    place.set_axisbelow(True)


def _cases(
    comparison: Comparison,
    folder: Path,
    predictors: tuple[Predictor, Predictor],
    samples: Sequence[Sample],
    most: int,
) -> Iterator[Section]:
    """The images that A and B differ most on: where B is better, then where A is."""
    if (name := _by_image(comparison)) is None:
        return
    sign = 1 if higher_is_better(name) else -1
    gains = sign * comparison.difference_of(name)
    order = np.argsort(-gains, kind="stable")
    for side, places in (("B", order[gains[order] > 0]), ("A", order[gains[order] < 0][::-1])):
        chosen: list[tuple[ImageScore, str]] = []
        for place in places[:most]:
            one, other = comparison.pairs[place]
            chosen.append((one, f"{words(name)} {one.metrics[name]:.3f} for A, {other.metrics[name]:.3f} for B"))
        target = f"{side}_better"
        drawn = pictures.write(folder / target, chosen, samples, partial(_draw_case, predictors))
        if drawn:
            text = f"The images on which {side} is ahead by most. Each picture lies in the folder {target} too, larger."
            legend = pictures.legend(comparison.one.classes, errors=False)
            yield Section(target, f"Where {side} is better", text, legend=legend, cases=drawn)


def _draw_case(predictors: Sequence[Predictor], sample: Sample, title: str, subtitle: str) -> pictures.Drawing:
    """Predict an image again and draw it: photograph, truth, what A and what B predicts."""
    predictions = [predictor(sample) for predictor in predictors]
    truths = read_truths(sample, predictors[0].classes, predictions[0].size)
    sizes = []
    for side in (pictures.SIDE, SHEET_SIDE):
        views = [pictures.View.of(prediction, truths, side) for prediction in predictions]
        panels = {title: pixels for title, pixels in views[0].panels().items() if title in ("Image", "Truth")}
        for name, view in zip(SIDES, views, strict=True):
            drawn = view.panels()["Prediction"]
            panels[name] = figures.outline(drawn, view.truths[0], TRUTH) if len(truths) == 1 else drawn
        sizes.append(panels)
    small, large = sizes
    legend = pictures.legend(tuple(truths), errors=False) if len(truths) == 1 else []  # names of several are too long
    key = {meaning: colour for colour, meaning in legend}
    row = [Panel(pixels, name, key=key if name in SIDES else {}) for name, pixels in large.items()]
    return small, figures.sheet([row], title, subtitle)


def _overall(protocol: Protocol, metric: str) -> bool:
    """Whether the page shows a metric: of several classes those over all, and the first of each class."""
    firsts = [f"{protocol.metrics[0]}_{name}" for name in protocol.classes]
    return len(protocol.classes) == 1 or metric.startswith(("micro_", "macro_")) or metric in firsts


def _rounded(value: float) -> float:
    """A number as it is shown, where a zero has no sign."""
    return round(float(value), 3) + 0.0


def _main(comparison: Comparison) -> str:
    return f"{comparison.main.prefix}{comparison.main.main}"


def _by_image(comparison: Comparison) -> str | None:
    """The metric that images are shown by: what decides, or else the first that a single image has."""
    names = comparison.metric_names
    return _main(comparison) if _main(comparison) in names else next(iter(names), None)
