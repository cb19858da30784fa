"""Images and masks that are there twice: copies within a data set, on two sides of its split, or in another one."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermseg.data import splits
from dermseg.data.catalog import ATTRIBUTES, Sample
from dermseg.data.duplicates import Fingerprint, Pair, find_pairs
from dermseg.data.findings import Finding, make
from dermseg.data.splits import Split

SAME_SHAPE = 0.03  # relative difference of two aspect ratios; more of it is another crop


@dataclass(frozen=True)
class View:
    """What is kept of an image that was decoded.

    Attributes:
        size: (height, width) in pixels.
        digest: Of the pixels; equal for the same picture only.
        mask_digest: Of the lesion's mask, None where that is missing or empty, full or wrong.
    """

    sample: Sample
    size: tuple[int, int]
    digest: bytes
    fingerprint: Fingerprint = field(repr=False)
    mask_digest: bytes | None = None


def find_images(
    views: Sequence[View], compared: Sequence[View], table: Mapping[str, Split] | None, root: Path
) -> Iterator[Finding]:
    """Find copies among ``views`` and of ``compared`` in them; the split is the shipped ones' if ``table`` is None."""
    everything = [*views, *compared]
    tables = _Tables(table)
    pairs = [pair for pair in _pairs(everything) if pair.one < len(views)]
    inner = []
    for pair in pairs:
        one, other = everything[pair.one], everything[pair.other]
        if pair.other < len(views):
            inner.append((pair, tables.parted(one.sample, other.sample)))
        else:
            message = f"{_alike(pair, one, other)} {_name(other, root)}, which is in the data set it is compared with"
            yield _finding("leak" if one.digest == other.digest else "near-leak", one, other, message)
    told: set[tuple[str, ...]] = set()  # pairs of ids, for data sets share images
    for pair, parted in sorted(inner, key=lambda found: found[1] is None):  # leaks first
        one, other = views[pair.one], views[pair.other]
        exact = one.digest == other.digest
        ids = tuple(sorted((one.sample.id, other.sample.id)))
        if parted is not None:
            first, sides = parted
            looser, stricter = (one, other) if first is one.sample else (other, one)
            # A leak is left out in each data set that has the image.
            key = (*ids, looser.sample.source) if exact else ids
            if key not in told:
                told |= {key, ids}
                alike = _alike(pair, one, other)
                message = f"is {sides[0]} and {alike} {_name(stricter, root)}, which is {sides[1]}"
                yield _finding("leak" if exact else "near-leak", looser, stricter, message)
        elif one.sample.id != other.sample.id and one.sample.group != other.sample.group and ids not in told:
            told.add(ids)
            message = f"{_alike(pair, one, other)} {_name(one, root)}"
            yield _finding("duplicate" if exact else "near-duplicate", other, one, message)
    paired = {(pair.one, pair.other) for pair in pairs}
    by_id = defaultdict(list)
    for index, view in enumerate(views):
        by_id[view.sample.id].append(index)
    for same in by_id.values():
        for index in same[1:]:
            known, odd = views[same[0]], views[index]
            if (same[0], index) not in paired and _has_shape_of(known, odd):
                message = f"looks unlike {_name(known, root)}, which has the same id"
                yield _finding("id-conflict", odd, known, message)


def find_masks(views: Sequence[View], root: Path) -> Iterator[Finding]:
    """Find lesion masks that different images share."""
    first: dict[bytes, View] = {}
    for view in views:
        if view.mask_digest is None:
            continue
        known = first.setdefault(view.mask_digest, view)
        if known.sample.id != view.sample.id and not find_pairs({0: known.fingerprint, 1: view.fingerprint}):
            path, other = view.sample.masks["lesion"], known.sample.masks["lesion"]
            message = f"is the very mask of {_name(known, root)}, another image"
            yield make("copied-mask", view.sample.id, view.sample.source, path, message, other)


def find_groups(samples: Sequence[Sample], table: Mapping[str, Split] | None) -> Iterator[Finding]:
    """Find groups, such as the photographs of one lesion, that the split parts: all but those on the strictest side."""
    tables = _Tables(table)
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.source, sample.group].append(sample)
    for (_, group), members in groups.items():
        for sample in members if len(members) > 1 else ():
            found = (tables.parted(sample, other) for other in members)
            stricter = [
                (other, parted[1])
                for other, parted in zip(members, found, strict=True)
                if parted is not None and parted[0] is sample
            ]
            if stricter:
                other, sides = stricter[0]
                message = f"is {sides[0]}, while {other.id} of the same group {group} is {sides[1]}"
                yield make("parted-group", sample.id, sample.source, sample.image, message, other.image)


class _Tables:
    """The splits that a leak is looked for in."""

    def __init__(self, table: Mapping[str, Split] | None) -> None:
        self.lesion = splits.read() if table is None else table
        self.attributes = splits.read(splits.ATTRIBUTE_TABLE) if table is None else None

    def parted(self, one: Sample, other: Sample) -> tuple[Sample, tuple[Split, Split]] | None:
        """The sample on the less strict side, and both sides from there, in the first split that parts the two.

        ``test`` is stricter than ``tune``, and that than ``train``: what is left out should be no test image.
        """
        tables = [self.lesion]
        if self.attributes is not None and all(set(ATTRIBUTES) & sample.masks.keys() for sample in (one, other)):
            tables.append(self.attributes)
        for table in tables:
            sides = splits.split_of(one, table), splits.split_of(other, table)
            if sides[0] != sides[1]:
                low, high = sorted(sides, key=splits.SPLITS.index)
                return (one if sides[0] == low else other), (low, high)
        return None


def _pairs(views: Sequence[View]) -> Iterator[Pair[int]]:
    """All pairs of copies as indices, the earlier first; those of the same pixels before the others."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        same[view.digest].append(index)
    for indices in same.values():
        for one, other in itertools.combinations(indices, 2):
            yield Pair(one, other, 0, 1.0, turned=False)
    for pair in find_pairs({index: view.fingerprint for index, view in enumerate(views)}, turned=True):
        if views[pair.one].digest != views[pair.other].digest:
            yield pair


def _alike(pair: Pair[int], one: View, other: View) -> str:
    """How alike the two of a pair are."""
    if one.digest == other.digest:
        return "has the very pixels of"
    return f"is{', flipped or turned,' if pair.turned else ''} {pair.likeness:.2f} (of 1) like"


def _has_shape_of(one: View, other: View) -> bool:
    (height, width), (other_height, other_width) = one.size, other.size
    return abs(height * other_width / (width * other_height) - 1) < SAME_SHAPE


def _finding(kind: str, view: View, other: View, message: str) -> Finding:
    sample = view.sample
    return make(kind, sample.id, sample.source, sample.image, message, other.sample.image)


def _name(view: View, root: Path) -> str:
    path = view.sample.image
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
