"""What data sets' tables say of their images: diagnosis, sex, age and site, and which lesion they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dermseg.data import tables
from dermseg.errors import DataError

KEYS = ("diagnosis", "sex", "age", "site")
"""What a `Sample`'s metadata may hold; ages are numbers, in years."""
GROUP = "group"
"""What a table may say beside it: the lesion or patient, whose images stay on one side of a split."""
UNKNOWN = frozenset({"", "unknown", "na", "n/a", "nan"})
OLDEST = 120


@dataclass(frozen=True)
class Table:
    """A table of a data set's images, a row each.

    Attributes:
        file: Pattern of its name, as a `Layout`'s.
        what: Such a table in words, for messages.
        id: Column of the images' names.
        columns: Column of each of `KEYS` and of `GROUP`, if there is one.
        findings: Columns that are 1 where the diagnosis is the column's, else 0.
        diagnoses: Names in full of the table's diagnoses.
        optional: Columns that may be missing.
        groups: Columns of a user's own groups, of which each image takes the first that is not empty; they may be
            missing. The column's name goes before the group's, so that it is no other data set's.
    """

    file: str
    what: str
    id: str = "image_id"
    columns: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    diagnoses: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    groups: tuple[str, ...] = ()


HAM10000 = Table(
    file="HAM10000_metadata*",
    what="metadata of HAM10000",
    columns={GROUP: "lesion_id", "diagnosis": "dx", "sex": "sex", "age": "age", "site": "localization"},
    diagnoses={
        "akiec": "actinic keratosis or intraepithelial carcinoma",
        "bcc": "basal cell carcinoma",
        "bkl": "benign keratosis",
        "df": "dermatofibroma",
        "mel": "melanoma",
        "nv": "nevus",
        "vasc": "vascular lesion",
    },
    optional=frozenset({"dx", "sex", "age", "localization"}),
)
ISIC2017 = (
    Table(
        file="ISIC-2017_{part}_Data_metadata.csv",
        what="metadata of ISIC 2017",
        columns={"age": "age_approximate", "sex": "sex"},
    ),
    Table(
        file="ISIC-2017_{part}_Part3_GroundTruth.csv",
        what="diagnoses of ISIC 2017",
        findings=("melanoma", "seborrheic_keratosis"),
    ),
)
OWN = Table(
    file="metadata.csv",
    what="table of images",
    id="id",
    columns={key: key for key in KEYS},
    optional=frozenset(KEYS),
    groups=("group", "patient_id", "lesion_id"),  # what is said outright, then the coarsest
)


def read(path: Path, table: Table) -> dict[str, dict[str, str]]:
    """Read what a table says of each image, by the image's name, then by key; without what is not known.

    Raises:
        InputError: If the file cannot be read.
        DataError: If it is no such table, or what it says cannot be.
    """
    columns = [table.id, *table.columns.values(), *table.findings]
    needed = [column for column in columns if column not in table.optional]
    rows = tables.read(path, needed, table.what)
    if not rows:
        raise DataError(f"{path} has no rows; expected one for each image")
    telling = [*columns[1:], *table.groups]
    if not any(column in rows[0] for column in telling):
        raise DataError(f"{path} says nothing of its images; expected any of the columns {', '.join(telling)}")
    told: dict[str, dict[str, str]] = {}
    for row in rows:
        id = row[table.id].strip()
        said = {key: row.get(column, "").strip() for key, column in table.columns.items()}
        if table.findings:
            said["diagnosis"] = _found(path, id, {finding: row[finding] for finding in table.findings})
        groups = {column: row.get(column, "").strip() for column in table.groups}
        named = (f"{column}:{text}" for column, text in groups.items() if text.lower() not in UNKNOWN)
        said = {GROUP: next(named, ""), **said}
        said = {key: text for key, text in said.items() if text.lower() not in UNKNOWN}
        if "diagnosis" in said:
            said["diagnosis"] = table.diagnoses.get(said["diagnosis"], said["diagnosis"])
        if "age" in said and not 0 <= _number(said["age"]) <= OLDEST:
            raise DataError(f"{path} gives {id!r} the age {said['age']!r}; expected years, from 0 to {OLDEST}")
        if told.setdefault(id, said) != said:
            raise DataError(f"{path} has two rows of {id!r} that differ; remove the wrong one")
    return told


def known(said: Mapping[str, str]) -> dict[str, str]:
    """What a `Sample` keeps of what a table says of it."""
    return {key: said[key] for key in KEYS if key in said}


def _found(path: Path, id: str, findings: Mapping[str, str]) -> str:
    """The diagnosis of which the table says 1; a nevus where it is none of them."""
    values = {finding: _number(text) for finding, text in findings.items()}
    positive = [finding for finding, value in values.items() if value == 1]
    if not {*values.values()} <= {0, 1} or len(positive) > 1:
        raise DataError(f"{path} has {dict(findings)} for {id!r}; expected 0 or 1, and at most one 1")
    return positive[0].replace("_", " ") if positive else "nevus"


def _number(text: str) -> float:
    """The number that a text is; NaN, which equals and exceeds nothing, where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
