"""Which side an image is on: ``train``, ``tune`` or ``test``.

A shipped table gives one split to each image id and each group of images, whichever data set they come from, because
the ISIC data sets share images. There is one table for the lesion and one for the attributes of ISIC 2018 Task 2, of
which there are too few on the first one's sides. ``tune`` chooses checkpoints, thresholds and calibration; nothing is
fitted on ``test``.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg.data import tables
from dermseg.data.catalog import ATTRIBUTES, PLAIN, Part, Sample
from dermseg.data.duplicates import join, near_duplicates
from dermseg.errors import DataError, InputError
from dermseg.imaging import read_mask
from dermseg.manifest import TrainingData

Split = Literal["train", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
STRICTEST: tuple[Split, ...] = ("test", "tune", "train")
ARCHIVE = frozenset(("isic2016", "isic2017", "isic2018", "ham10000"))
SIDE_OF_PART: Mapping[Part, Split] = {"train": "train", "validation": "tune", "test": "test"}
DEFAULT = Path(__file__).parents[1] / "splits" / "default.csv"
ATTRIBUTE_TABLE = DEFAULT.with_name("attributes.csv")
COPIES = DEFAULT.with_name("copies.csv")


class Shipped(dict[str, Split]):
    """A shipped table, which knows nothing of the folders of a user's own images."""


def read(path: Path = DEFAULT) -> dict[str, Split]:
    """Read a table of splits (columns ``id``, ``group``, ``split``): the split of each id and each group.

    Raises:
        InputError: If there is no such file.
        DataError: If the table has other columns or values, or puts one id or group on two sides.
    """
    if not path.is_file():
        raise InputError(f"there is no table of splits {path}; expected a CSV with the columns id, group, split")
    table: dict[str, Split] = Shipped() if path in (DEFAULT, ATTRIBUTE_TABLE) else {}
    for row in tables.read(path, ("id", "group", "split"), "table of splits"):
        side = row["split"]
        if not row["id"]:
            raise DataError(f"{path}: a row has no id; expected that of an image, such as ISIC_0000000")
        if side not in SPLITS:
            raise DataError(f"{path}: {row['id']} has split {side!r}; expected one of {', '.join(SPLITS)}")
        for name in filter(None, (row["id"], row["group"])):
            if table.setdefault(name, side) != side:
                raise DataError(f"{path}: {name} is in both {table[name]} and {side}; it must be in one")
    return table


def fingerprint(table: Mapping[str, Split]) -> str:
    """The SHA-256 of a table, the same for any order of its rows, and for a copy of a shipped one."""
    rows = "".join(f"{name},{side}\n" for name, side in sorted(table.items()))
    return hashlib.sha256(rows.encode()).hexdigest()


def may_have_seen(data: TrainingData, sources: Iterable[str], table_hash: str) -> bool:
    """Whether weights may have been fitted on images of ``sources`` that another table than theirs puts elsewhere.

    Args:
        data: What the weights were fitted on.
        sources: Data sets by name; those of the ISIC archive share images under one id.
        table_hash: The other table's ``fingerprint``.
    """
    return data.splits_hash not in (None, table_hash) and share_images(data.sources, sources)


def share_images(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether two lists of data sets have images in common; those of the ISIC archive share some."""
    one, other = ({"isic" if name in ARCHIVE else name for name in names} for names in (ours, theirs))
    return not one.isdisjoint(other)


def default_for(classes: Iterable[str]) -> Path:
    """The shipped table for a network of these classes."""
    return ATTRIBUTE_TABLE if set(classes) <= set(ATTRIBUTES) else DEFAULT


def table_for(classes: Iterable[str]) -> dict[str, Split]:
    """The shipped table for a network of these classes, read."""
    return read(default_for(classes))


def split_of(sample: Sample, table: Mapping[str, Split]) -> Split:
    """The split of a sample: its id's in the table, else its group's, else by rule.

    Of a user's own images whose folders name a part (``validation`` is ``tune``), the stricter of that and a shipped
    table's side counts, so nothing in a folder ``test`` is trained on unless a table of one's own says so. For the
    published data sets the table goes before the official part: a test image of ISIC 2016 that ISIC 2018's training
    set holds has been trained on, and so must not be scored as test.

    The rule puts the challenges' validation and test images, and PH2, into ``test``; other images go to ``train``,
    ``tune`` and ``test`` by a hash of their group (80, 10, 10 %).
    """
    side = _listed(sample, table)
    if sample.source == PLAIN and sample.part is not None and (side is None or isinstance(table, Shipped)):
        return min(side or "train", SIDE_OF_PART[sample.part], key=STRICTEST.index)
    if side is not None:
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


def draw(samples: Sequence[Sample], pairs: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str, Split]]:
    """Draw the shipped table from ISIC 2017, ISIC 2018 and HAM10000.

    ``test`` is ISIC 2017 validation, ISIC 2017 test where ``samples`` hold it, and a tenth of HAM10000's lesions;
    ``tune`` a tenth of ISIC 2017 training and another tenth of the lesions. ISIC 2018 training images follow ISIC
    2017; those without a lesion mask in ``samples`` are ``test``: the shipped table was drawn from a copy that lacks
    the masks of ISIC 2017's test images. Copies are on the stricter of their sides, with all images of their lesion.

    Args:
        samples: Of these data sets.
        pairs: Ids of images that are copies of each other; the shipped table's are ``COPIES``.

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
    group_of = {s.id: s.group for source in by_source.values() for s in source}
    joined = join((group_of[one], group_of[other]) for one, other in pairs)
    together: dict[str, list[str]] = defaultdict(list)
    for group, first in joined.items():
        together[first].append(group)
    for groups in together.values():
        side |= dict.fromkeys(groups, min((side[group] for group in groups), key=STRICTEST.index))
    return [(id, group, side[group]) for id, group in sorted(group_of.items())]


def draw_attributes(
    samples: Sequence[Sample],
    lesion: Mapping[str, Split] | None = None,
    groups: Mapping[str, str] | None = None,
) -> list[tuple[str, str, Split]]:
    """Draw the shipped table of attributes from ISIC 2018's training images that have the masks of Task 2.

    ``tune`` and ``test`` get a tenth of the images and of each attribute's images each, near-duplicates together. An
    attribute network may begin with a lesion network's weights; therefore what that trained on is ``train`` here too,
    what it was tuned or tested on keeps its side, and what remains is filled with images without a lesion mask.

    Args:
        samples: Of ISIC 2018; others are ignored.
        lesion: The table of the lesion; the shipped one if None. The shipped table of attributes was drawn by the one
            before copies were moved, which had more images on ``train``.
        groups: What ``near_duplicates`` finds, which takes minutes; it is called if None.

    Returns:
        Rows of id, group, split, ordered by id; a group has the name of its first image.
    """
    lesion = read() if lesion is None else lesion
    images = {s.id: s for s in samples if s.source == "isic2018" and s.masks.keys() >= set(ATTRIBUTES)}
    images = {id: sample for id, sample in sorted(images.items()) if not _is_held_out(sample)}
    fixed = {id: split_of(sample, lesion) for id, sample in images.items() if "lesion" in sample.masks}
    if groups is None:
        groups = near_duplicates({id: sample.image for id, sample in images.items()})
    covered = {
        id: [float(read_mask(sample.masks[name]).mean()) for name in ATTRIBUTES] for id, sample in images.items()
    }
    side = _stratify({id: groups[id] for id in images}, covered, fixed)
    return [(id, groups[id], side[groups[id]]) for id in images]


def _stratify(
    groups: Mapping[str, str], covered: Mapping[str, Sequence[float]], fixed: Mapping[str, Split]
) -> dict[str, Split]:
    """Give each group a side, ``tune`` and ``test`` a tenth of the whole each and like it in what their masks cover.

    Alike are the number of images of each class and of none, and the area that each class covers.

    Args:
        groups: Group by image.
        covered: The share of an image that each class covers, by image.
        fixed: Side by image. A group with such images has theirs; ``train`` goes before ``test`` before ``tune``.
    """
    if not groups:
        return {}
    ids = sorted(groups)
    share = np.array([covered[id] for id in ids], np.float64)
    shown = share > 0
    mean = share.sum(0) / np.maximum(shown.sum(0), 1)  # of the images that show the class: an area counts like an image
    columns = np.column_stack([np.ones(len(ids)), ~shown.any(1), shown, share / np.where(mean > 0, mean, 1)])
    content: dict[str, NDArray[np.float64]] = {}
    fixed_of: dict[str, set[Split]] = defaultdict(set)
    for id, row in zip(ids, columns, strict=True):
        content[groups[id]] = content.get(groups[id], 0) + row
        fixed_of[groups[id]] |= {fixed[id]} if id in fixed else set()
    order: tuple[Split, ...] = ("train", "test", "tune")
    side = {group: next(name for name in order if name in sides) for group, sides in fixed_of.items() if sides}
    free = sorted(content.keys() - side.keys(), key=_rank)
    goal = columns.sum(0) / 10
    for name in order[1:]:
        taken = sum((content[group] for group in side if side[group] == name), np.zeros_like(goal))
        while free and taken[0] < round(goal[0]):
            after = taken + np.stack([content[group] for group in free])
            # A count strays by its square root, so a rare class weighs more.
            nearest = int((np.square(after - goal) / np.maximum(goal, 1)).sum(1).argmin())
            side[free[nearest]] = name
            taken = after[nearest]
            del free[nearest]
    return {group: side.get(group, "train") for group in content}


def _listed(sample: Sample, table: Mapping[str, Split]) -> Split | None:
    """A sample's side in a table: its id's, else its group's, which own folders may spell ``train/isic_0000000``."""
    for name in (sample.id, sample.group):
        last = name.rpartition("/")[2]
        for spelling in (name, last, last.upper()):
            if spelling in table:
                return table[spelling]
    return None


def _is_held_out(sample: Sample) -> bool:
    """Whether the image is of a challenge's validation or test set, by its official folder."""
    return sample.part in ("validation", "test")


def _tenths(groups: Iterable[str], sides: Sequence[Split]) -> dict[str, Split]:
    """Give a tenth of the groups to each of ``sides``, the rest to ``train``; a hash makes the order."""
    ordered = sorted(set(groups), key=_rank)
    tenth = round(len(ordered) / 10)
    side: dict[str, Split] = dict.fromkeys(ordered, "train")
    for number, name in enumerate(sides):
        side |= dict.fromkeys(ordered[number * tenth : (number + 1) * tenth], name)
    return side


def _rank(group: str) -> int:
    return int.from_bytes(hashlib.sha256(f"dermseg:{group}".encode(errors="surrogateescape")).digest(), "big")
