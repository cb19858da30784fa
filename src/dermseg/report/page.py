"""The shell of a report: one HTML file with everything inside, read without a network and without JavaScript.

Templates escape whatever they are given. A policy in the page's head forbids it to load anything and to run any script
but its own, so that even a mistake in a template does no harm.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dermseg import __version__

HERE = Path(__file__).parent
FEW_COLUMNS = 4  # that fit side by side on a phone


@dataclass(frozen=True)
class Percent:
    """A share from 0 to 1 that is shown in per cent."""

    share: float

    def __str__(self) -> str:
        return "–" if math.isnan(self.share) else f"{100 * self.share:.1f}\N{NO-BREAK SPACE}%"


Cell = str | int | float | Percent | None


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        caption: What it holds; read aloud, and shown above it.
        columns: Their names.
        rows: A cell for each column: a text or a number; None where there is none.
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

    def choices(self, column: str) -> list[str]:
        """The values of a column, in their first order."""
        place = list(self.columns).index(column)
        return list(dict.fromkeys(str(row[place]) for row in self.rows))


def render(template: str, **values: object) -> bytes:
    """Fill in a template of this package; every value is escaped.

    Args:
        template: Its file's name; it extends ``page.html.j2``.
        values: What it asks for.

    Returns:
        The HTML file.
    """
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_hash=digest,
            version=__version__,
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    return encode(html)


def encode(text: str) -> bytes:
    """Text as UTF-8; a file name's bytes that are none are shown as an escape."""
    return text.encode("utf-8", "backslashreplace")


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
    """A cell as text: thousands apart, three significant digits, a dash where there is nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def is_number(value: object) -> bool:
    """Whether a cell stands at the right of its column."""
    return isinstance(value, int | float | Percent)


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
    environment.tests |= {"numeric": is_number}
    return environment
