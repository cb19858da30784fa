"""CSV files with a header, in UTF-8; tabs are read as well."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from dermseg.errors import DataError, InputError
from dermseg.imaging import write_bytes
from dermseg.wording import utf8


def read(path: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """Read the rows of a table.

    Args:
        path: The file.
        columns: That it must have, among others.
        what: Such a table in words, for messages.

    Raises:
        InputError: If there is no such file, or it cannot be read.
        DataError: If it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            tabs = "\t" in file.readline()  # as some repositories serve tables
            file.seek(0)
            reader = csv.DictReader(file, restval="", delimiter="\t" if tabs else ",")
            found, rows = set(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error):
        found, rows = set(), []
    if not found.issuperset(columns):
        raise DataError(f"{path} is no {what}: expected a CSV with the columns {', '.join(columns)}")
    return rows


def encode(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as text."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def write(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table whole or not at all.

    Raises:
        InputError: If the file cannot be written.
    """
    write_bytes(path, utf8(encode(columns, rows)))
