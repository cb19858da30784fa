"""Which side an image is on: ``train``, ``tune`` or ``test``.

The shipped table gives one split to each image id and each lesion, whichever data set the image comes from, because
the ISIC data sets share images. ``tune`` chooses checkpoints, thresholds and calibration; nothing is fitted on
``test``.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from dermseg.data.catalog import Sample
from dermseg.errors import DataError, InputError

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT = Path(__file__).parents[1] / "splits" / "default.csv"


def read(path: Path = DEFAULT) -> dict[str, Split]:
    """Read a table of splits (columns ``id``, ``group``, ``split``): the split of each id and each group.

    Raises:
        InputError: If there is no such file.
        DataError: If the table has other columns or values, or puts one id or group on two sides.
    """
    if not path.is_file():
        raise InputError(f"there is no table of splits {path}; expected a CSV with the columns id, group, split")
    table: dict[str, Split] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = set(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error):
        columns, rows = set(), []
    if not {"id", "group", "split"} <= columns:
        raise DataError(f"{path} is no table of splits: expected the columns id, group, split")
    for row in rows:
        side = row["split"]
        if side not in SPLITS:
            raise DataError(f"{path}: {row['id']} has split {side!r}; expected one of {', '.join(SPLITS)}")
        for name in (row["id"], row["group"]):
            if table.setdefault(name, side) != side:
                raise DataError(f"{path}: {name} is in both {table[name]} and {side}; it must be in one")
    return table


def split_of(sample: Sample, table: Mapping[str, Split]) -> Split:
    """The split of a sample: its id's, else its group's, else by rule.

    The rule puts the challenges' validation and test images, and PH2, into ``test``; other images go to ``train``,
    ``tune`` and ``test`` by a hash of their group (80, 10, 10 %).
    """
    if (side := table.get(sample.id) or table.get(sample.group)) is not None:
        return side
    if sample.source == "ph2" or _is_held_out(sample):
        return "test"
    share = _rank(sample.group) / 2**256
    return "tune" if share < 0.1 else "test" if share < 0.2 else "train"


def select(samples: Iterable[Sample], split: str, table: Mapping[str, Split] | None = None) -> list[Sample]:
    """Keep the samples of one split, or all of them for ``all``.

    Raises:
        InputError: If there is no such split.
    """
    if split not in (*SPLITS, "all"):
        raise InputError(f"there is no split {split!r}; choose from: {', '.join(SPLITS)}, all")
    table = read() if table is None else table
    return [sample for sample in samples if split == "all" or split_of(sample, table) == split]


def draw(samples: Sequence[Sample]) -> list[tuple[str, str, Split]]:
    """Draw the shipped table from ISIC 2017, ISIC 2018 and HAM10000.

    ``test`` is ISIC 2017 validation, ISIC 2017 test where ``samples`` hold it, and a tenth of HAM10000's lesions;
    ``tune`` a tenth of ISIC 2017 training and another tenth of the lesions. ISIC 2018 training images follow ISIC
    2017; those without a lesion mask in ``samples`` are ``test``: the shipped table was drawn from a copy that lacks
    the masks of ISIC 2017's test images.

    Returns:
        Rows of id, group, split, ordered by id.
    """
    by_source = {source: [s for s in samples if s.source == source] for source in ("isic2017", "isic2018", "ham10000")}
    official_test = {s.id for s in by_source["isic2017"] if _is_held_out(s)}
    side: dict[str, Split] = dict.fromkeys(official_test, "test")
    side |= _tenths([s.group for s in by_source["isic2017"] if s.id not in official_test], ("tune",))
    side |= _tenths([s.group for s in by_source["ham10000"]], ("tune", "test"))
    for sample in by_source["isic2018"]:
        side.setdefault(sample.id, "train" if "lesion" in sample.masks else "test")
    rows = {s.id: (s.id, s.group, side[s.group]) for source in by_source.values() for s in source}
    return [rows[key] for key in sorted(rows)]


def _is_held_out(sample: Sample) -> bool:
    """Whether the image is of a challenge's validation or test set, by its official folder."""
    return re.match(r"ISIC.*_(Validation|Test)_", sample.image.parent.name) is not None


def _tenths(groups: Iterable[str], sides: Sequence[Split]) -> dict[str, Split]:
    """Give a tenth of the groups to each of ``sides``, the rest to ``train``; a hash makes the order."""
    ordered = sorted(set(groups), key=_rank)
    tenth = round(len(ordered) / 10)
    side: dict[str, Split] = dict.fromkeys(ordered, "train")
    for number, name in enumerate(sides):
        side |= dict.fromkeys(ordered[number * tenth : (number + 1) * tenth], name)
    return side


def _rank(group: str) -> int:
    return int.from_bytes(hashlib.sha256(f"dermseg:{group}".encode()).digest(), "big")
