"""A report: one HTML file with everything inside, read without a network and without JavaScript.

Its template escapes whatever it is given. A policy in the page's head forbids it to load anything and to run any script
but its own, so that even a mistake in the template does no harm.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dermseg import __version__
from dermseg.imaging import make_folder, write_bytes
from dermseg.metrics import Interval
from dermseg.wording import utf8

if TYPE_CHECKING:
    from dermseg.figures import Colour
    from dermseg.report.charts import Chart

HERE = Path(__file__).parent
FEW_COLUMNS = 4  # that fit side by side on a phone
RESEARCH = "Research software, not a medical device"
NOTICE = (
    f"{RESEARCH}: what it finds must not decide about a patient. Pictures on this page are of the data sets described "
    "and under their licences: do not publish them without reading these."
)


@dataclass(frozen=True)
class Percent:
    """A share from 0 to 1 that is shown in per cent."""

    share: float

    def __str__(self) -> str:
        return "–" if math.isnan(self.share) else f"{100 * self.share:.1f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Picture:
    """A picture inside a page: its address, size in pixels and text alternative."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Signed:
    """A number that is shown in a way of its own and begins with its sign: "+0.012 [+0.004, +0.020]"."""

    text: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | float | Percent | Signed | Interval | Picture | None


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        caption: What it holds; read aloud, and shown above it.
        columns: Their names.
        rows: A cell for each column: a text, a number or a picture; None where there is none.
        filters: Names of columns whose values can be chosen above the table, beside a search in its text.
        note: A sentence below it; may be empty.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    filters: Sequence[str] = field(default=())
    note: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether each row becomes a card on a narrow screen."""
        return len(self.columns) > FEW_COLUMNS

    @property
    def kinds(self) -> list[str]:
        """What each column holds: "n" for numbers, "picture", or nothing for text."""
        return [_kind([row[place] for row in self.rows]) for place in range(len(self.columns))]

    def choices(self, column: str) -> list[str]:
        """The values of a column, in their first order."""
        place = list(self.columns).index(column)
        return list(dict.fromkeys(number(row[place]) for row in self.rows))


@dataclass(frozen=True)
class Tile:
    """A picture of a gallery, with its name and caption."""

    picture: Picture
    name: str
    caption: str


@dataclass(frozen=True)
class Case:
    """An image in several pictures side by side.

    Attributes:
        name: Its heading.
        caption: A sentence or numbers.
        pictures: Each with its title.
        file: Of the same at full size, relative to the page.
    """

    name: str
    caption: str
    pictures: Sequence[tuple[str, Picture]]
    file: str


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading with its anchor, a sentence, and what stands below, in this order.

    Attributes:
        id: The anchor.
        title: The heading.
        text: What it is about.
        sentences: A list of plain findings.
        charts: Three in a row on a desktop.
        tables: Below the charts.
        galleries: Of single pictures.
        legend: Colours in the cases and what they mean.
        cases: Images in several pictures.
        details: Long texts, each folded under its title; HTML that is safe is `Markup`.
    """

    id: str
    title: str
    text: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    galleries: Sequence[Sequence[Tile]] = ()
    sentences: Sequence[str] = ()
    legend: Sequence[tuple[Colour, str]] = ()
    cases: Sequence[Case] = ()
    details: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """What a report shows; its summary stands first.

    Attributes:
        title: Its heading.
        lead: A sentence below it.
        cards: The main figures, each with what it counts.
        text: The summary in words; may be empty.
        sentences: What stands out.
        sections: The rest.
        facts: Names and values at its foot.
    """

    title: str
    lead: str
    cards: Sequence[tuple[Cell, str]]
    text: str
    sentences: Sequence[str]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()


def publish(page: Page, folder: str | Path, name: str, files: Mapping[str, bytes], written: Sequence[str] = ()) -> Path:
    """Write a page, and beside it its charts as PNG and the files it lists.

    Args:
        page: What it shows.
        folder: Where to write; made if it is missing. `output.replacing` gives one that replaces an earlier report.
        name: Of the page's file.
        files: Content by name.
        written: Names of files that lie there already and are listed too.

    Returns:
        The page's file, written last.

    Raises:
        InputError: If the folder cannot be written.
    """
    target = Path(folder)
    make_folder(target)
    for file, content in files.items():
        write_bytes(target / file, content)
    for chart in (chart for section in page.sections for chart in section.charts):
        write_bytes(target / f"{chart.name}.png", chart.png)
    write_bytes(target / name, render(page, [*written, *files]))
    return target / name


def render(page: Page, files: Sequence[str] = ()) -> bytes:
    """The HTML file of a page; every value is escaped.

    Args:
        page: What it shows.
        files: Names of those beside it, which it lists.
    """
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            files=files,
            notice=NOTICE,
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=digest,
            version=__version__,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    return utf8(html)


def data_uri(content: bytes, kind: str) -> str:
    """Content as the address of an image: ``kind`` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def percent(share: float) -> str:
    """A share from 0 to 1 in per cent, one digit behind the point where it has one that counts; a dash for NaN."""
    if math.isnan(share):
        return "–"
    text = f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')}\N{NO-BREAK SPACE}%"


def number(value: object) -> str:
    """A cell as text: thousands apart, shares with three digits behind the point, a dash for nothing."""
    if isinstance(value, Interval):
        digits = 1 if max(value.mean, value.high) > 1 else 3  # a distance, or a share
        ends = f"[{value.low:.{digits}f},\N{NO-BREAK SPACE}{value.high:.{digits}f}]"
        if math.isnan(value.low):
            ends = "[–]"
        return "–" if math.isnan(value.mean) else f"{value.mean:.{digits}f} {ends}"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        digits = 3 if abs(value) <= 1 else 1 if abs(value) < 1000 else 0
        return f"{value:,.{digits}f}"
    return str(value)


def is_number(value: object) -> bool:
    """Whether a cell stands at the right of its column."""
    return isinstance(value, int | float | Percent | Signed | Interval)


def is_picture(value: object) -> bool:
    """Whether a cell is a picture."""
    return isinstance(value, Picture)


def _kind(cells: Sequence[Cell]) -> str:
    """What the cells of a column are, less those that are empty."""
    cells = [cell for cell in cells if cell is not None]
    if cells and all(map(is_number, cells)):
        return "n"
    return "picture" if any(map(is_picture, cells)) else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number}
    environment.tests |= {"picture": is_picture}
    return environment
