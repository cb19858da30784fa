"""Charts for a report, each as SVG for the page and as PNG beside it.

A chart is as wide as a phone and small enough to stand three in a row on a desktop; its ink takes the colour of the
page's text, so that it is legible in the dark too.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from dermseg.figures import PALETTE
from dermseg.wording import plain

COLOURS = tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in PALETTE)
SEQUENCE = ("#9fd0ee", "#3f97cc", "#0a4f85")
"""From little to much."""
INK = "#1b1f24"
WIDTH = 4.6  # inches
DPI = 200
_STYLE: Any = {  # matplotlib types each key
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dermseg",
    "text.color": INK,
    "text.parse_math": False,  # names of classes may hold a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
}


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        name: The PNG file's, without suffix.
        title: Its heading.
        alt: What it shows, in words.
        note: A sentence below it on how to read it; may be empty.
        svg: For the page.
        png: The file's content.
    """

    name: str
    title: str
    alt: str
    note: str
    svg: str
    png: bytes


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all charts."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script this font lacks; browsers have it
        yield


def chart(
    name: str, title: str, alt: str, draw: Callable[[Figure], None], *, note: str = "", height: float = 3.4
) -> Chart:
    """Draw a chart.

    Args:
        name: The PNG file's, without suffix.
        title: Its heading on the page.
        alt: What it shows, in words, for those who cannot see it.
        draw: Draws into the empty figure; one of this module's functions with its data bound.
        note: How to read it.
        height: In inches; the width is the same for all charts.
    """
    with styled():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(svg, format="svg", dpi=DPI, transparent=True, metadata={"Date": None})  # dpi: of clouds of dots
        figure.suptitle(title, fontsize=12)  # the page has it as a heading
        figure.savefig(png, format="png", dpi=DPI, facecolor="white")
    return Chart(name, title, alt, note, _for_page(svg.getvalue()), png.getvalue())


def histograms(
    figure: Figure,
    values: Mapping[str, NDArray[np.float64]],
    bins: NDArray[np.float64],
    label: str,
    *,
    marks: Sequence[float] = (),
    percent: bool = False,
    colours: Sequence[str] = COLOURS,
) -> None:
    """Draw a histogram for each group, one below the other, each in per cent of its own images.

    Args:
        figure: Where to draw.
        values: By group.
        bins: Edges; what lies beyond counts in the outermost.
        label: Of the x axis.
        marks: Values of dashed lines.
        percent: The values are shares.
        colours: Of the groups.
    """
    axes = _rows(figure, len(values))
    tops = []
    for place, (name, own), colour in zip(axes, values.items(), _cycle(colours, len(values)), strict=True):
        counts, _ = np.histogram(np.clip(own, bins[0], bins[-1]), bins)
        share = counts / max(1, len(own))
        tops.append(share.max(initial=0))
        place.stairs(share, bins, fill=True, color=colour)
        for value in marks:
            place.axvline(value, color=INK, linestyle="--", linewidth=0.9)
        if len(values) > 1:
            place.set_title(f"{short(name)} (n = {len(own):,})", fontsize=10, loc="left", pad=3)
        _percents(place.yaxis)
        place.yaxis.set_major_locator(MaxNLocator(3))
        place.grid(axis="y")
        place.set_axisbelow(True)
    for place in axes:
        place.set_ylim(0, max(tops) * 1.08 or 1)
        place.set_xlim(bins[0], bins[-1])
    figure.supylabel("share of images", fontsize=11)
    _finish(axes[-1], label, percent)


def boxes(
    figure: Figure,
    values: Mapping[str, NDArray[np.float64]],
    label: str,
    *,
    percent: bool = False,
    colours: Sequence[str] = COLOURS,
) -> None:
    """Draw a box plot for each group; whiskers reach from the 5th to the 95th percentile."""
    place = figure.add_subplot()
    drawn = place.boxplot(
        [own if len(own) else [np.nan] for own in values.values()],
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        widths=0.55,
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": INK},
        capprops={"color": INK},
    )
    for box, colour in zip(drawn["boxes"], _cycle(colours, len(values)), strict=True):
        box.set(facecolor=colour, edgecolor=INK, alpha=0.85, linewidth=0.9)
    place.set_yticks(range(1, len(values) + 1), [short(name) for name in values])
    place.invert_yaxis()
    place.set_xlim(left=0 if percent else None)
    place.grid(axis="x")
    place.set_axisbelow(True)
    _finish(place, label, percent)


def bars(figure: Figure, table: pd.DataFrame, label: str, *, colours: Sequence[str] = COLOURS) -> None:
    """Draw horizontal bars of shares: a group for each row of the table, a bar in it for each column."""
    place = figure.add_subplot()
    count = len(table.columns)
    thick = 0.8 / count
    for index, (column, colour) in enumerate(zip(table, _cycle(colours, count), strict=True)):
        at = np.arange(len(table)) + (index - (count - 1) / 2) * thick
        drawn = place.barh(at, table[column], thick * 0.92, color=colour, label=short(str(column)))
        place.bar_label(drawn, [_percent(share) for share in table[column]], padding=3, fontsize=9)
    place.set_yticks(range(len(table)), [short(str(name)) for name in table.index])
    place.invert_yaxis()
    place.set_xlim(0, max(0.01, 1.18 * float(np.nanmax(table.to_numpy(np.float64)))))
    place.grid(axis="x")
    place.set_axisbelow(True)
    _finish(place, label, percent=True)
    if count > 1:
        figure.legend(loc="outside lower center", ncols=3, handlelength=1)


def stacks(figure: Figure, table: pd.DataFrame, label: str, *, colours: Sequence[str] = SEQUENCE) -> None:
    """Draw a bar for each row of a table of shares, its columns one behind the other; a row sums to 1."""
    place = figure.add_subplot()
    left = np.zeros(len(table))
    for column, colour in zip(table, _cycle(colours, len(table.columns)), strict=True):
        share = table[column].to_numpy(np.float64)
        drawn = place.barh(
            range(len(table)), share, 0.7, left, color=colour, label=str(column), edgecolor=INK, linewidth=0.5
        )
        text = "white" if _luminance(colour) < 0.18 else "#000000"
        names = [_percent(value) if value >= 0.09 else "" for value in share]
        place.bar_label(drawn, names, label_type="center", color=text, fontsize=9)
        left += share
    place.set_yticks(range(len(table)), [short(str(name)) for name in table.index])
    place.invert_yaxis()
    place.set_xlim(0, 1)
    place.spines["left"].set_visible(False)
    place.tick_params(axis="y", length=0)
    _finish(place, label, percent=True)
    figure.legend(loc="outside lower center", ncols=3, handlelength=1, columnspacing=1.2)


def pies(figure: Figure, table: pd.DataFrame) -> None:
    """Draw a pie for each row of a table of counts, a slice for each column."""
    axes = _panels(figure, len(table))
    colours = _cycle(COLOURS, len(table.columns))
    for place, (name, counts) in zip(axes, table.iterrows(), strict=False):
        if counts.sum():
            shares = counts / counts.sum()
            place.pie(counts, colors=colours, startangle=90, counterclock=False, wedgeprops={"edgecolor": "white"})
            angles = np.pi / 2 - 2 * np.pi * (shares.cumsum() - shares / 2)
            for angle, share in zip(angles, shares, strict=True):
                if share >= 0.05:
                    place.text(
                        1.3 * np.cos(angle), 1.2 * np.sin(angle), _percent(share), ha="center", va="center", fontsize=9
                    )
        place.set_title(f"{name} (n = {counts.sum():,})", fontsize=10, pad=8)
    for place in axes:
        place.set_axis_off()
    handles = [Patch(color=colour, label=short(str(name))) for name, colour in zip(table, colours, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=1)


def matrix(figure: Figure, table: pd.DataFrame, shares: pd.DataFrame) -> None:
    """Draw a square table of counts, coloured by shares from 0 to 1."""
    place = figure.add_subplot()
    names = [short(str(name)) for name in table.index]
    edges = np.arange(len(names) + 1) - 0.5
    counts, colours = table.to_numpy(), shares.to_numpy(np.float64)
    place.pcolormesh(edges, edges, colours, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    place.invert_yaxis()
    place.set_aspect("equal")
    place.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    place.set_yticks(range(len(names)), names)
    place.spines[:].set_visible(False)
    place.tick_params(length=0)
    for row in range(len(names)):
        for column in range(len(names)):
            dark = colours[row, column] > 0.7
            text = f"{counts[row, column]:,}"
            place.text(column, row, text, ha="center", va="center", fontsize=10, color="white" if dark else "#000000")


def scatter(figure: Figure, sizes: Mapping[str, pd.DataFrame]) -> None:
    """Draw the sizes of images, a dot for each size there is, its area by how many have it.

    Args:
        figure: Where to draw.
        sizes: By group, with the columns width, height, images.
    """
    place = figure.add_subplot()
    most = max(float(own["images"].max()) for own in sizes.values())
    for (name, own), colour in zip(sizes.items(), _cycle(COLOURS, len(sizes)), strict=True):
        area = 12 + 250 * own["images"] / most
        place.scatter(own["width"], own["height"], area, color=colour, alpha=0.65, linewidths=0, label=short(name))
    furthest = 1.08 * max(float(own[["width", "height"]].to_numpy().max()) for own in sizes.values())
    place.plot([0, furthest], [0, furthest], color=INK, linewidth=0.7, linestyle=":")
    place.set(xlim=(0, furthest), ylim=(0, furthest), aspect="equal", ylabel="height, pixels")
    for axis in (place.xaxis, place.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    place.grid()
    place.set_axisbelow(True)
    place.set_xlabel("width, pixels")
    legend = figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[50])


def rows_height(count: int, row: float, rest: float = 0.9) -> float:
    """The height in inches of a chart with so many rows."""
    return max(1.8, rest + row * count)


def _panels(figure: Figure, count: int) -> list[Axes]:
    columns = min(2, count)
    axes: NDArray[Any] = figure.subplots(-(-count // columns), columns, squeeze=False)
    return list(axes.flat)


def _rows(figure: Figure, count: int) -> list[Axes]:
    axes: NDArray[Any] = figure.subplots(count, 1, sharex=True, squeeze=False)
    return list(axes.flat)


def _finish(place: Axes, label: str, percent: bool) -> None:
    place.set_xlabel(label)
    if percent:
        _percents(place.xaxis)
        place.xaxis.set_major_locator(MaxNLocator(6))


def _percents(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def short(name: str) -> str:
    """A name as it fits beside an axis, at most 24 letters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in plain(name))
    return text if len(text) <= 24 else f"{text[:23]}…"


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[index % len(colours)] for index in range(count)]


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return float(0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2)


def _for_page(svg: str) -> str:
    """Keeps the drawing alone, without ids that repeat on a page, in the page's font and colour of text."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(?![mph][0-9a-f]{10}")[^"]*"', "", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'aria-hidden="true" focusable="false"', svg, count=1)
    return re.sub(r"\s*\n\s*", " ", svg.replace(INK, "currentColor"))
