"""Lists of images to leave out, which the user may edit: quarantine.csv beside the data.

Training and evaluation leave out what they list; deleting a line brings an image back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dermseg.data import tables
from dermseg.data.catalog import Sample
from dermseg.data.findings import Finding, place_of
from dermseg.errors import DataError, InputError

NAME = "quarantine.csv"
COLUMNS = ("id", "source", "kind", "severity", "message", "path")


class Listed(NamedTuple):
    """An image of a list, with the file where the list gives it: ids depend on the folder that was read."""

    id: str
    source: str
    image: Path | None


def find(root: Path) -> list[Path]:
    """The lists of a data folder and of the folders up to two levels below it."""
    found = (path for below in ("", "*/", "*/*/") for path in sorted(root.glob(below + NAME)))
    return [path for path in found if path.is_file()]


def write(findings: Iterable[Finding], path: Path, samples: Iterable[Sample]) -> None:
    """Write the images that the errors among the findings are about; the other findings are left out.

    Args:
        findings: Of ``quality.check``.
        path: The list; it names images from its folder where they lie below it.
        samples: The samples that were checked.

    Raises:
        InputError: If the file cannot be written.
    """
    images = {(sample.id, sample.source): sample.image for sample in samples}
    folder = path.parent.resolve()
    rows = []
    for finding in findings:
        if finding.severity == "error":
            image = images.get((finding.id, finding.source))
            about = [getattr(finding, name) for name in COLUMNS[:-1]]
            rows.append([*about, "" if image is None else _name(image, folder)])
    tables.write(path, COLUMNS, rows)


def read(path: Path) -> list[Listed]:
    """Read which images to leave out, each once.

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
    named = ((row["id"], row["source"], row.get("path")) for row in rows)
    return [
        Listed(id, source, place_of(path.parent / image) if image else None)
        for id, source, image in dict.fromkeys(named)
    ]


def keep(samples: Iterable[Sample], paths: Sequence[Path], report: Callable[[str], None] | None = None) -> list[Sample]:
    """Keep the samples that no list names: by the file, or by id and source where no sample has that file.

    Args:
        samples: Of a folder, or of several.
        paths: The lists; all samples are kept without any.
        report: Takes a line that says how many of the listed images were among the samples.

    Raises:
        InputError: If there is no such file.
        DataError: If it is no such table.
    """
    samples = list(samples)
    listed = [entry for path in paths for entry in read(path)]
    if not listed:
        return samples
    by_file = {place_of(sample.image): sample for sample in samples}
    by_name = {(sample.id, sample.source): sample for sample in samples}
    out, unknown = set(), set()
    for entry in listed:
        sample = by_file.get(entry.image) if entry.image else None
        sample = sample or by_name.get((entry.id, entry.source))
        if sample is None:
            unknown.add(entry)
        else:
            out.add((sample.id, sample.source))
    if report is not None:
        names = ", ".join(map(str, paths))
        report(f"{len(out)} of {len(out) + len(unknown)} images listed in {names} are left out")
    return [sample for sample in samples if (sample.id, sample.source) not in out]


def _name(image: Path, folder: Path) -> str:
    place = place_of(image)
    return (place.relative_to(folder) if place.is_relative_to(folder) else place).as_posix()
