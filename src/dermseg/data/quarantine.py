"""The list of images to leave out, which the user may edit: quarantine.csv beside the data.

Training and evaluation leave out what it lists; deleting a line brings an image back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dermseg.data import tables
from dermseg.data.catalog import Sample
from dermseg.data.findings import Finding
from dermseg.errors import DataError, InputError

NAME = "quarantine.csv"
COLUMNS = ("id", "source", "kind", "severity", "message")


def find(root: Path) -> Path | None:
    """The list of a data folder, None where it has none."""
    path = root / NAME
    return path if path.is_file() else None


def write(findings: Iterable[Finding], path: Path) -> None:
    """Write the errors among the findings; the other findings are left out.

    Raises:
        InputError: If the file cannot be written.
    """
    errors = (finding for finding in findings if finding.severity == "error")
    tables.write(path, COLUMNS, ([getattr(finding, name) for name in COLUMNS] for finding in errors))


def read(path: Path) -> set[tuple[str, str]]:
    """Read which images to leave out, as pairs of id and source.

    Raises:
        InputError: If there is no such file.
        DataError: If it is no such table.
    """
    if not path.is_file():
        raise InputError(f"there is no list {path}; expected a CSV with the columns id and source")
    rows = tables.read(path, ("id", "source"), "list of images to leave out")
    for number, row in enumerate(rows, start=2):
        if not row["id"] or not row["source"]:
            raise DataError(f"{path}, line {number}: id and source must both be given; complete or delete the line")
    return {(row["id"], row["source"]) for row in rows}


def keep(samples: Iterable[Sample], path: Path | None) -> list[Sample]:
    """Keep the samples that a list does not name; all of them without one.

    Raises:
        InputError: If there is no such file.
        DataError: If it is no such table.
    """
    left_out = read(path) if path is not None else set()
    return [sample for sample in samples if (sample.id, sample.source) not in left_out]
