"""Charts of scores: curves, clouds of dots and intervals, drawn into the figures of ``charts``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from dermseg.metrics import Interval
from dermseg.report.charts import COLOURS, INK, short

Numbers = NDArray[np.float64]

_DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
_MARKERS = ("o", "^")
_QUIET = "#7f8a96"  # legible on light and dark


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        x: Ascending, (n,).
        y: (n,).
        marks: Points on it to be marked, by what they are.
    """

    x: Numbers
    y: Numbers
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def lines(
    figure: Figure,
    curves: Mapping[str, Curve],
    labels: tuple[str, str],
    *,
    steps: bool = False,
    dots: bool = False,
    diagonal: bool = False,
) -> None:
    """Draw curves over the unit square, each in a colour and a dash of its own.

    Args:
        figure: Where to draw.
        curves: By name.
        labels: Of the x and the y axis.
        steps: Points are the right ends of steps.
        dots: Points are marked.
        diagonal: Draw the line on which x and y are equal.
    """
    place = figure.add_subplot()
    if diagonal:
        place.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=":")
    marks: dict[str, Line2D] = {}
    for index, (name, curve) in enumerate(curves.items()):
        colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)]
        place.plot(
            *(curve.x, curve.y),
            color=colour,
            linestyle=dash,
            linewidth=1.8,
            label=short(name),
            drawstyle="steps-pre" if steps else "default",
            marker="o" if dots else "",
            markersize=4,
        )
        for (mark, (x, y)), marker in zip(curve.marks.items(), _MARKERS, strict=False):
            style: dict[str, Any] = {"marker": marker, "markersize": 8, "markeredgecolor": INK, "linestyle": ""}
            place.plot([x], [y], color=colour, **style)
            marks[mark] = Line2D([], [], color="none", label=mark, **style)
    margin = 0.02
    place.set(xlim=(-margin, 1 + margin), ylim=(-margin, 1 + margin), xlabel=labels[0], ylabel=labels[1])
    place.grid()
    place.set_axisbelow(True)
    handles = [*(place.get_legend_handles_labels()[0] if len(curves) > 1 else []), *marks.values()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=2.6, columnspacing=1.2)


def cloud(
    figure: Figure, groups: Mapping[str, tuple[Numbers, Numbers]], labels: tuple[str, str], line: float | None = None
) -> None:
    """Draw a dot for each pair of a share above 0, on a logarithmic axis, and a share.

    The dots are one picture inside the chart, so that it stays small however many they are.

    Args:
        figure: Where to draw.
        groups: x and y by name, a colour each.
        labels: Of the x and the y axis.
        line: Where a dashed horizontal line is.
    """
    place = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(groups.items()):
        place.scatter(
            *(x, y),
            16,
            color=COLOURS[index % len(COLOURS)],
            alpha=0.75,
            linewidths=0,
            label=short(name),
            rasterized=True,
        )
    if line is not None:
        place.axhline(line, color=INK, linestyle="--", linewidth=0.9)
    place.set_xscale("log")
    place.xaxis.set_major_locator(LogLocator(10, subs=(1, 3)))
    place.xaxis.set_minor_locator(NullLocator())
    place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    place.set(ylim=(-0.03, 1.03), xlabel=labels[0], ylabel=labels[1])
    place.grid()
    place.set_axisbelow(True)
    if len(groups) > 1:
        legend = figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(sizes=[50], rasterized=False)


def intervals(
    figure: Figure,
    rows: Sequence[tuple[str, int, Interval, bool]],
    whole: float,
    span: tuple[float, float],
    label: str,
) -> None:
    """Draw a row for each subgroup: a dot in its interval, and how many images it has.

    Args:
        figure: Where to draw.
        rows: Name, number of images, value, and whether it is to be seen first.
        whole: The value of all images; a dashed line.
        span: Ends of the x axis, so that charts can be compared.
        label: Of the x axis.
    """
    place = figure.add_subplot()
    place.axvline(whole, color=INK, linestyle="--", linewidth=0.9)
    for at, (_, _, value, stands_out) in enumerate(rows):
        colour = COLOURS[1] if stands_out else COLOURS[0]
        place.plot([value.low, value.high], [at, at], color=colour, linewidth=2.4, solid_capstyle="butt")
        place.plot([value.mean], [at], color=colour, marker="D" if stands_out else "o", markersize=7)
    place.set_yticks(range(len(rows)), [f"{short(name)}\nn = {images:,}" for name, images, _, _ in rows])
    place.set(xlim=span, ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    place.grid(axis="x")
    place.set_axisbelow(True)
