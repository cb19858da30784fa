"""Finds what stands on two sides: of one split, of two splits, or of two data sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from dermseg.data.catalog import Sample
from dermseg.data.duplicates import Fingerprint, find_pairs

Kind = Literal["id", "group", "copy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHOWN = 3


class Leak(NamedTuple):
    """Two images on different sides that are one by their id, of one lesion or patient by their group, or copies."""

    kind: Kind
    one: str
    one_side: str
    one_source: str
    other: str
    other_side: str
    other_source: str
    likeness: float | None = None


@dataclass(frozen=True)
class Leakage:
    """What stands on two sides.

    Attributes:
        images: The number of images on each side.
        leaks: Each id, then each group and each pair of copies that is not named before, once for two sides.
    """

    images: Mapping[str, int]
    leaks: Sequence[Leak]

    def counts(self, one: str, other: str) -> dict[Kind, int]:
        """How many ids, groups and pairs of copies stand on both sides."""
        found = Counter(leak.kind for leak in self._between(one, other))
        return {kind: found[kind] for kind in KINDS}

    def __str__(self) -> str:
        """A line for each two sides with counts, and the first of each kind."""
        lines = []
        for one, other in combinations(self.images, 2):
            counts = self.counts(one, other)
            lines.append(
                f"{one} ({self.images[one]} images) and {other} ({self.images[other]}) share {counts['id']} ids, "
                f"{counts['group']} groups and {counts['copy']} pairs of copies"
            )
            for kind, count in counts.items():
                found = [leak for leak in self._between(one, other) if leak.kind == kind]
                lines += [
                    f"  {kind}: {leak.one} ({leak.one_source}), {leak.other} ({leak.other_source})"
                    for leak in found[:SHOWN]
                ]
                lines += [f"  {kind}: and {count - SHOWN} more"] if count > SHOWN else []
        return "\n".join(lines)

    def _between(self, one: str, other: str) -> list[Leak]:
        return [leak for leak in self.leaks if {leak.one_side, leak.other_side} == {one, other}]


def find(sides: Mapping[str, Sequence[Sample]], fingerprints: Mapping[Path, Fingerprint] | None = None) -> Leakage:
    """Find what stands on two sides.

    Args:
        sides: Samples by the name of their side, such as those that ``splits.select`` gives for ``train`` of one table
            and for ``test`` of another one, or of another data set.
        fingerprints: By image file; copies, flipped and turned ones too, are looked for among those that have one.
    """
    leaks: list[Leak] = []
    on_both: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, other, mine, theirs in _shared(sides, lambda sample: sample.id):
        on_both[one, other].add(mine[0].id)
        leaks.append(_leak("id", one, mine[0], other, theirs[0]))
    for one, other, mine, theirs in _shared(sides, lambda sample: sample.group):
        mine, theirs = ([s for s in own if s.id not in on_both[one, other]] for own in (mine, theirs))
        if mine and theirs:
            leaks.append(_leak("group", one, mine[0], other, theirs[0]))
    placed: dict[Path, list[tuple[str, Sample]]] = defaultdict(list)
    for side, samples in sides.items():
        for sample in samples:
            placed[sample.image].append((side, sample))
    order = {side: place for place, side in enumerate(sides)}
    copies: dict[object, Leak] = {}  # one pair of ids each, though an image may lie in several data sets
    known = {image: taken for image, taken in (fingerprints or {}).items() if image in placed}
    for pair in find_pairs(known, turned=True):
        for found in product(placed[pair.one], placed[pair.other]):
            (one, left), (other, right) = sorted(found, key=lambda end: order[end[0]])
            if one != other and left.id != right.id and left.group != right.group:
                leak = _leak("copy", one, left, other, right, round(pair.likeness, 3))
                copies.setdefault((one, left.id, other, right.id), leak)
    return Leakage({side: len({s.id for s in samples}) for side, samples in sides.items()}, [*leaks, *copies.values()])


def _shared(
    sides: Mapping[str, Sequence[Sample]], key: Callable[[Sample], str]
) -> Iterator[tuple[str, str, list[Sample], list[Sample]]]:
    """Two sides, and their samples of one key, for each key that both have."""
    by_key: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for side, samples in sides.items():
        for sample in samples:
            by_key[key(sample)][side].append(sample)
    for _, found in sorted(by_key.items()):
        for one, other in combinations(found, 2):
            yield one, other, found[one], found[other]


def _leak(kind: Kind, one: str, mine: Sample, other: str, theirs: Sample, likeness: float | None = None) -> Leak:
    return Leak(kind, mine.id, one, mine.source, theirs.id, other, theirs.source, likeness)
