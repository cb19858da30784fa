"""What stands on two sides: of one split, of two, or of two data sets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg import synthetic
from dermseg.data import catalog, splits
from dermseg.data.catalog import Sample
from dermseg.data.duplicates import fingerprint, read_fingerprints
from dermseg.data.leakage import Leak, find
from dermseg.data.splitting import split

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")


def sample(id: str, group: str | None = None, source: str = "one") -> Sample:
    return Sample(id, Path(source) / f"{id}.jpg", {}, group or id, source, "none")


def test_ids_groups_and_copies_on_two_sides_are_named_once_each() -> None:
    picture, other = (synthetic.draw(seed, (96, 128)).pixels for seed in (1, 2))
    train = [sample("a", "A"), sample("b", "L"), sample("c", "L"), sample("e"), sample("h", "H")]
    test = [sample("a", "A", "two"), sample("d", "L"), sample("f"), sample("g", source="two"), sample("i", "H")]
    pictures = {"e": picture, "f": picture // 2 + 40, "g": other, "h": other, "i": other}
    fingerprints = {s.image: fingerprint(pictures[s.id]) for s in (*train, *test) if s.id in pictures}
    found = find({"train": train, "tune": [], "test": test}, fingerprints)
    copies = [leak for leak in found.leaks if leak.kind == "copy"]
    assert [leak for leak in found.leaks if leak.kind != "copy"] == [
        Leak("id", "a", "train", "one", "a", "test", "two"),
        Leak("group", "h", "train", "one", "i", "test", "one"),
        Leak("group", "b", "train", "one", "d", "test", "one"),
    ]
    assert {(leak.one, leak.one_side, leak.other, leak.other_side) for leak in copies} == {
        ("e", "train", "f", "test"),
        ("h", "train", "g", "test"),  # h and i are of one lesion, which is said already
    }
    assert all(leak.likeness is not None and 0.55 < leak.likeness <= 1 for leak in copies)
    assert found.counts("train", "test") == found.counts("test", "train") == {"id": 1, "group": 2, "copy": 2}
    assert found.counts("train", "tune") == {"id": 0, "group": 0, "copy": 0}
    assert str(found).splitlines()[:6] == [
        "train (5 images) and tune (0) share 0 ids, 0 groups and 0 pairs of copies",
        "train (5 images) and test (5) share 1 ids, 2 groups and 2 pairs of copies",
        "  id: a (one), a (two)",
        "  group: h (one), i (one)",
        "  group: b (one), d (one)",
        f"  copy: {copies[0].one} (one), {copies[0].other} ({copies[0].other_source})",
    ]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_flipped_and_turned_copies_leak_too(axes: tuple[int, ...]) -> None:
    pixels = synthetic.draw(1, (96, 128)).pixels
    ours, theirs = sample("a"), sample("b")
    flipped = np.ascontiguousarray(np.flip(pixels, axes))
    found = find(
        {"train": [ours], "test": [theirs]}, {ours.image: fingerprint(pixels), theirs.image: fingerprint(flipped)}
    )
    assert [(leak.kind, leak.one, leak.other) for leak in found.leaks] == [("copy", "a", "b")]


def test_a_long_list_is_cut_short() -> None:
    samples = [sample(f"i{number}") for number in range(10)]
    lines = str(find({"ours": samples, "theirs": samples})).splitlines()
    assert lines == [
        "ours (10 images) and theirs (10) share 10 ids, 0 groups and 0 pairs of copies",
        *(f"  id: i{number} (one), i{number} (one)" for number in range(3)),
        "  id: and 7 more",
    ]


def test_copies_are_named_once_where_data_sets_share_images() -> None:
    pixels = synthetic.draw(1, (96, 128)).pixels
    sides = {
        "train": [sample("a", source=source) for source in ("one", "two")],
        "test": [sample("b", source=source) for source in ("one", "two")],
    }
    fingerprints = {s.image: fingerprint(pixels) for samples in sides.values() for s in samples}
    assert [leak.kind for leak in find(sides, fingerprints).leaks] == ["copy"]


def test_images_of_no_side_leak_nothing() -> None:
    pixels = fingerprint(synthetic.draw(1, (96, 128)).pixels)
    assert find({"train": [sample("a")], "test": []}, {Path("one/a.jpg"): pixels, Path("b.jpg"): pixels}).leaks == []


@given(st.dictionaries(st.integers(0, 200), st.integers(0, 60), min_size=20), st.integers(0, 5))
def test_what_is_drawn_leaks_nothing(lesion_of: Mapping[int, int], seed: int) -> None:
    samples = [sample(f"i{id % 100}", f"L{lesion}", "one" if id < 100 else "two") for id, lesion in lesion_of.items()]
    rows = split(samples, seed=seed, shares=(0.5, 0, 0.5)).tables["splits"] if _is_apart(samples) else []
    table = {row.id: row.split for row in rows}
    sides: Mapping[str, list[Sample]] = {
        side: [s for s in samples if table.get(s.id) == side] for side in splits.SPLITS
    }
    assert find(sides).leaks == []


def _is_apart(samples: Sequence[Sample]) -> bool:
    """Whether the samples are of two groups at least, whatever they are joined by."""
    reached = {samples[0].id, samples[0].group}
    for _ in samples:
        for s in samples:
            reached |= {s.id, s.group} if {s.id, s.group} & reached else set()
    return any(s.id not in reached for s in samples)


@pytest.fixture(scope="module")
def real() -> list[Sample]:
    return catalog.read(os.environ["DERMSEG_DATA"], ["isic2017", "isic2018"])


@needs_data
def test_isic_2018_trains_on_images_of_isic_2017_validation(real: list[Sample]) -> None:
    sides = {
        f"{source} {part}": [s for s in real if (s.source, s.part) == (source, part)]
        for source, part in (("isic2018", "train"), ("isic2017", "train"), ("isic2017", "validation"))
    }
    found = find(sides)
    assert found.counts("isic2018 train", "isic2017 validation") == {"id": 121, "group": 0, "copy": 0}
    assert found.counts("isic2018 train", "isic2017 train") == {"id": 1800, "group": 0, "copy": 0}
    assert found.counts("isic2017 train", "isic2017 validation") == {"id": 0, "group": 0, "copy": 0}


@needs_data
def test_the_shipped_tables_keep_copies_together(real: list[Sample]) -> None:
    samples = [s for s in real if s.source == "isic2018"]
    fingerprints, failed = read_fingerprints({s.image: s.image for s in samples})
    assert failed == {}
    for path in (splits.ATTRIBUTE_TABLE, splits.DEFAULT):
        table = splits.read(path)
        sides: Mapping[str, list[Sample]] = {side: splits.select(samples, side, table) for side in splits.SPLITS}
        assert find(sides, fingerprints).leaks == []
