"""Draws tables of splits for any data, and says how alike their sides are.

What belongs together stays together: an id in several data sets, a lesion or patient, and copies where they are given.
Sides are alike in lesion size, in the classes that are seen and in where images come from (iterative stratification
after Sechidis et al. 2011, here of groups).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

from dermseg.data.catalog import LESION, Sample
from dermseg.data.duplicates import Progress, join, read_each
from dermseg.data.splits import SIDE_OF_PART, SPLITS, STRICTEST, Split
from dermseg.errors import DataError, DermsegError, InputError, choose_from
from dermseg.imaging import read_mask

Method = Literal["official", "random", "k-fold"]
Areas = Mapping[str, Mapping[str, float]]
Side = TypeVar("Side")

SIZES = 5  # quantiles of the lesion's area that sides are made alike in


class Row(NamedTuple):
    """A line of a table of splits, as ``splits.read`` reads it."""

    id: str
    group: str
    split: Split


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        tables: Rows, ordered by id, by the name of their table: ``splits``, or ``splits_fold1`` and so on.
        notes: Sentences on what the data forced.
    """

    tables: Mapping[str, Sequence[Row]]
    notes: Sequence[str]


def read_areas(
    samples: Iterable[Sample], progress: Progress | None = None
) -> tuple[dict[str, dict[str, float]], dict[Path, DermsegError]]:
    """Read how much of its image each mask covers.

    Args:
        samples: Where an id stands in several data sets, the mask of the first in the order of names counts.
        progress: Called with masks done and masks in all.

    Returns:
        The covered share, 0 to 1, by id and class, and why other masks could not be read.
    """
    files: dict[tuple[str, str], Path] = {}
    for sample in sorted(samples, key=lambda sample: (sample.id, sample.source)):
        for name, path in sample.masks.items():
            files.setdefault((sample.id, name), path)
    found, failed = read_each(files, lambda path: float(read_mask(path).mean()), progress)
    areas: dict[str, dict[str, float]] = defaultdict(dict)
    for (id, name), area in found.items():
        areas[id][name] = area
    return dict(areas), {files[key]: error for key, error in failed.items()}


def names_of(method: Method, folds: int) -> list[str]:
    """The names of the tables that ``split`` draws."""
    return [f"splits_fold{fold + 1}" for fold in range(folds)] if method == "k-fold" else ["splits"]


def split(
    samples: Sequence[Sample],
    method: Method = "random",
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    folds: int = 5,
    seed: int = 0,
    areas: Areas | None = None,
    pairs: Iterable[tuple[str, str]] = (),
) -> Drawn:
    """Give each image a side.

    Args:
        samples: In whatever order; an image that is in several data sets gets one row.
        method: ``random`` draws; ``official`` keeps the sides that the data sets' folders give (validation is
            ``tune``) and draws the rest; ``k-fold`` makes a table for each fold, in which the fold is ``test`` and a
            drawn part of the others is ``tune``.
        shares: Of images on ``train``, ``tune`` and ``test``. Of ``k-fold`` only that of ``tune`` counts: it is the
            share of what is not tested.
        folds: Of ``k-fold``.
        seed: Of the draw.
        areas: What ``read_areas`` found; without it sides are made alike in where images come from alone.
        pairs: Ids of images to be kept together, such as copies.

    Raises:
        InputError: If an argument cannot be used, or no image has an official part.
        DataError: If there are too few groups.
    """
    _check(method, shares, folds)
    groups = _groups(samples, pairs)
    if not groups:
        raise DataError("there is no image to split; check the data folder and its sources")
    content = _content(samples, groups, areas or {})
    due: dict[Split, float] = dict(zip(SPLITS, shares, strict=True))
    names = names_of(method, folds)
    if method == "official":
        sides, notes = _official(samples, groups, content, due, seed)
        return Drawn({names[0]: _rows(groups, sides)}, notes)
    if method == "random":
        return Drawn({names[0]: _rows(groups, _allot(content, due, seed), due)}, [])
    if len(content) < folds:
        raise DataError(
            f"{len(content)} groups of images are too few for {folds} folds; choose at most {len(content)} folds"
        )
    fold_of = _allot(content, dict.fromkeys(range(folds), 1 / folds), seed)
    due = {"train": 1 - due["tune"], "tune": due["tune"]}
    tables = {}
    for fold, name in enumerate(names):
        rest = {group: labels for group, labels in content.items() if fold_of[group] != fold}
        sides = dict.fromkeys(content, SPLITS[-1]) | _allot(rest, due, f"{seed}:{fold}")
        tables[name] = _rows(groups, sides, due)
    return Drawn(tables, [])


def balance(rows: Sequence[Row], samples: Sequence[Sample], areas: Areas) -> list[dict[str, str | int | float]]:
    """How alike the sides are.

    Returns:
        For each data set, and for all of them where there are several, and each side: source, split, images, groups,
        lesion_area (mean share of the image, where there is a mask) and for each other class the share of images that
        show it, of those with its mask; empty where there is none.
    """
    by_source: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        by_source[sample.source].add(sample.id)
    sources = {"all": {row.id for row in rows}} | dict(sorted(by_source.items()))
    if len(by_source) == 1:
        del sources["all"]
    classes = sorted({name for known in areas.values() for name in known} - {LESION})
    records = []
    for source, ids in sources.items():
        for side in SPLITS:
            own = [row for row in rows if row.split == side and row.id in ids]
            known = [areas.get(row.id, {}) for row in own]
            record: dict[str, str | int | float] = {"source": source, "split": side, "images": len(own)}
            record["groups"] = len({row.group for row in own})
            record["lesion_area"] = _mean([areas[LESION] for areas in known if LESION in areas])
            record |= {name: _mean([areas[name] > 0 for areas in known if name in areas]) for name in classes}
            records.append(record)
    return records


def _check(method: str, shares: Sequence[float], folds: int) -> None:
    if method not in get_args(Method):
        raise InputError(f"there is no method {method!r}; {choose_from(method, get_args(Method))}")
    if len(shares) != len(SPLITS) or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        given = ", ".join(f"{share:g}" for share in shares)
        raise InputError(f"shares are {given}; expected those of train, tune and test, from 0 to 1, which sum to 1")
    if method == "k-fold" and folds < 2:
        raise InputError(f"{folds} folds are too few; choose at least 2")


def _groups(samples: Sequence[Sample], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The group of each id, by id in order: all that share an id or a group, or are paired, named by the first."""
    ids = {sample.id for sample in samples}
    paired = [pair for pair in pairs if ids.issuperset(pair)]
    # An id may be a group's name as well: a table knows both by it.
    joined = join([*((sample.id, sample.group) for sample in samples), *paired])
    name: dict[str, str] = {}
    for sample in samples:
        name[joined[sample.id]] = min(name.get(joined[sample.id], sample.group), sample.group)
    return {id: name[joined[id]] for id in sorted(ids)}


def _content(samples: Sequence[Sample], groups: Mapping[str, str], areas: Areas) -> dict[str, Counter[str]]:
    """What each group has that sides are made alike in: the number of its images with each label."""
    lesions = [areas[id][LESION] for id in groups if LESION in areas.get(id, {})]
    bounds = np.quantile(lesions, np.arange(1, SIZES) / SIZES) if lesions else np.empty(0)
    content: dict[str, Counter[str]] = defaultdict(Counter)
    for id, group in groups.items():
        content[group][""] += 1
        for name, area in areas.get(id, {}).items():
            size = int(np.searchsorted(bounds, area, side="right")) if name == LESION else area > 0
            content[group][f"{name}: {size}"] += 1
    for id, source in {(sample.id, sample.source) for sample in samples}:
        content[groups[id]][f"from {source}"] += 1
    return dict(content)


def _official(
    samples: Sequence[Sample],
    groups: Mapping[str, str],
    content: Mapping[str, Counter[str]],
    shares: Mapping[Split, float],
    seed: int,
) -> tuple[dict[str, Split], list[str]]:
    """The side of each group by its samples' parts, else drawn, and what there is to say about it."""
    given: dict[str, set[Split]] = defaultdict(set)
    for sample in samples:
        if sample.part is not None:
            given[groups[sample.id]].add(SIDE_OF_PART[sample.part])
    if not given:
        raise InputError(
            "no image lies in a folder that names its part (train, validation, test); choose random or k-fold"
        )
    sides = {group: next(side for side in STRICTEST if side in found) for group, found in given.items()}
    free = {group: labels for group, labels in content.items() if group not in sides}
    sides |= _allot(free, shares, seed)
    notes = []
    if several := {group for group, found in given.items() if len(found) > 1}:
        count = sum(groups[id] in several for id in groups)
        notes.append(f"{count} images have several parts by their id, lesion or copies; they are on the strictest side")
    if free:
        count = sum(groups[id] in free for id in groups)
        drawn = ", ".join(f"{share:.0%} {side}" for side, share in shares.items())
        notes.append(f"{count} images have no official part; they were drawn ({drawn})")
    notes += [f"no image is on {side}" for side in SPLITS if side not in sides.values()]
    return sides, notes


def _allot(content: Mapping[str, Counter[str]], shares: Mapping[Side, float], seed: int | str) -> dict[str, Side]:
    """Give each group a side, so that each side gets its share of images and of every label.

    Groups with the rarest labels go first, larger ones before smaller ones, each to the side that lacks most of what
    it has, as a part of what that side is due.
    """
    if not content:
        return {}
    names = sorted(content)
    Random(seed).shuffle(names)  # where nothing else says who goes first
    labels = sorted({label for labels in content.values() for label in labels})  # the first, "", counts images
    counts = np.array([[content[name][label] for label in labels] for name in names], np.float64)
    total, due = counts.sum(0), np.array(list(shares.values()))
    goal = np.outer(due, total)
    room = np.maximum(np.diff(np.rint(np.cumsum(goal[:, 0])), prepend=0), due > 0)
    room[due.argmax()] -= max(0, room.sum() - total[0])
    filled = np.zeros_like(goal)
    rarest = np.where(counts > 0, total, np.inf).min(1)
    sides = list(shares)
    side: dict[str, Side] = {}
    for index in np.lexsort((-counts[:, 0], rarest)).tolist():
        own = counts[index]
        # What the squared distance from what is due grows by, relative to it; rounded, lest machines differ.
        cost = (own * (2 * filled + own) / np.where(goal > 0, goal, 1)).sum(1).round(9)
        best = int(np.where(filled[:, 0] < room, cost, np.inf).argmin())
        filled[best] += own
        side[names[index]] = sides[best]
    return side


def _rows(groups: Mapping[str, str], sides: Mapping[str, Split], due: Mapping[Split, float] | None = None) -> list[Row]:
    """The table; each side that is due a share must have a row."""
    for side, share in (due or {}).items():
        if share > 0 and side not in sides.values():
            raise DataError(
                f"{len(sides)} groups of images are too few: none is left for {side}; add images, or draw without it"
            )
    return [Row(id, group, sides[group]) for id, group in groups.items()]


def _mean(values: Sequence[float]) -> float | str:
    return round(sum(values) / len(values), 4) if values else ""
