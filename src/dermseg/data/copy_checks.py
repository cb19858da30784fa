"""Images and masks that are there twice: copies within a data set, on two sides of its split, or in another one."""

from __future__ import annotations

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
    paired = set()
    told: set[tuple[str, str]] = set()  # pairs of ids, for data sets share images
    for one, other, likeness in _pairs(everything):
        if one >= len(views) or everything[one].sample.image == everything[other].sample.image:
            continue
        kept, copy = everything[one], everything[other]
        paired.add((one, other))
        exact = kept.digest == copy.digest
        alike = "has the very pixels of" if exact else f"is {likeness:.2f} (of 1) like"
        if other >= len(views):
            message = f"{alike} {_name(copy, root)}, which is in the data set it is compared with"
            yield _finding("leak" if exact else "near-leak", kept, copy, message)
            continue
        ids = min(kept.sample.id, copy.sample.id), max(kept.sample.id, copy.sample.id)
        if ids in told:
            continue
        sides = tables.differ(kept.sample, copy.sample)
        if sides is not None:
            told.add(ids)
            message = f"is {sides[1]} and {alike} {_name(kept, root)}, which is {sides[0]}"
            yield _finding("leak" if exact else "near-leak", copy, kept, message)
        elif kept.sample.id != copy.sample.id and kept.sample.group != copy.sample.group:
            told.add(ids)
            message = f"{alike} {_name(kept, root)}"
            yield _finding("duplicate" if exact else "near-duplicate", copy, kept, message)
    by_id = defaultdict(list)
    for index, view in enumerate(views):
        by_id[view.sample.id].append(index)
    for same in by_id.values():
        for index in same[1:]:
            first, second = views[same[0]], views[index]
            if (same[0], index) not in paired and _has_shape_of(first, second):
                message = f"looks unlike {_name(first, root)}, which has the same id"
                yield _finding("id-conflict", second, first, message)


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
    """Find groups, such as the photographs of one lesion, that the split parts."""
    tables = _Tables(table)
    first: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        known = first.setdefault((sample.source, sample.group), sample)
        if known.id != sample.id and (sides := tables.differ(known, sample)) is not None:
            message = f"is {sides[1]}, while {known.id} of the same group {sample.group} is {sides[0]}"
            yield make("parted-group", sample.id, sample.source, sample.image, message, known.image)


class _Tables:
    """The splits that a leak is looked for in."""

    def __init__(self, table: Mapping[str, Split] | None) -> None:
        self.lesion = splits.read() if table is None else table
        self.attributes = splits.read(splits.ATTRIBUTE_TABLE) if table is None else None

    def differ(self, one: Sample, other: Sample) -> tuple[Split, Split] | None:
        """The sides of two samples in the first split that parts them, None if none does."""
        tables = [self.lesion]
        if self.attributes is not None and all(set(ATTRIBUTES) & sample.masks.keys() for sample in (one, other)):
            tables.append(self.attributes)
        for table in tables:
            sides = splits.split_of(one, table), splits.split_of(other, table)
            if sides[0] != sides[1]:
                return sides
        return None


def _pairs(views: Sequence[View]) -> Iterator[tuple[int, int, float]]:
    """All pairs of copies as indices, the earlier first, with their likeness; 1 for the same pixels."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, view in enumerate(views):
        same[view.digest].append(index)
    for indices in same.values():
        yield from ((one, other, 1.0) for place, one in enumerate(indices) for other in indices[place + 1 :])
    near: list[Pair[int]] = find_pairs({index: view.fingerprint for index, view in enumerate(views)})
    for pair in near:
        if views[pair.one].digest != views[pair.other].digest:
            yield pair.one, pair.other, pair.likeness


def _has_shape_of(one: View, other: View) -> bool:
    (height, width), (other_height, other_width) = one.size, other.size
    return abs(height * other_width / (width * other_height) - 1) < SAME_SHAPE


def _finding(kind: str, view: View, other: View, message: str) -> Finding:
    sample = view.sample
    return make(kind, sample.id, sample.source, sample.image, message, other.sample.image)


def _name(view: View, root: Path) -> str:
    path = view.sample.image
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
