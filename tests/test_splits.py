"""Splits: what the shipped table keeps apart, and how any table is drawn, read and applied."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg.data import catalog
from dermseg.data.catalog import Sample
from dermseg.data.splits import DEFAULT, SPLITS, Split, _tenths, draw, read, select, split_of
from dermseg.errors import DataError, InputError

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

NAMES = st.text("abcdefghij0123456789_", min_size=1, max_size=8)


def sample(
    id: str, group: str | None = None, *, source: str = "plain", folder: str = "x", lesion: bool = True
) -> Sample:
    return Sample(
        id=id,
        image=Path(folder) / f"{id}.jpg",
        masks={"lesion": Path(f"{id}.png")} if lesion else {},
        group=group or id,
        source=source,
        licence="none",
    )


def shipped_rows() -> list[dict[str, str]]:
    with DEFAULT.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- the shipped table ---------------------------------------------------------------------------


def test_no_id_and_no_lesion_stands_on_two_sides() -> None:
    rows = shipped_rows()
    assert len({row["id"] for row in rows}) == len(rows)
    sides = defaultdict(set)
    for row in rows:
        sides[row["id"]].add(row["split"])
        sides[row["group"]].add(row["split"])
    assert {name for name, on in sides.items() if len(on) > 1} == set()
    assert read() == {name: next(iter(on)) for name, on in sides.items()}


def test_a_tenth_of_the_lesions_of_ham10000_is_on_tune_and_another_on_test() -> None:
    lesions = {row["group"]: row["split"] for row in shipped_rows() if row["group"].startswith("HAM_")}
    tenth = round(len(lesions) / 10)
    assert Counter(lesions.values()) == {"tune": tenth, "test": tenth, "train": len(lesions) - 2 * tenth}


def test_a_tenth_of_isic_2017_training_is_on_tune() -> None:
    ids = [row for row in shipped_rows() if not row["group"].startswith("HAM_")]
    assert sum(row["split"] == "tune" for row in ids) == 200


@pytest.fixture(scope="module")
def real() -> list[Sample]:
    return catalog.read(os.environ["DERMSEG_DATA"], ["isic2017", "isic2018", "ham10000"])


def ids(samples: list[Sample], source: str, folder: str = "") -> set[str]:
    return {s.id for s in samples if s.source == source and folder in s.image.parent.name}


@needs_data
def test_the_shipped_table_is_what_draw_gives(real: list[Sample]) -> None:
    lines = ["id,group,split", *(",".join(row) for row in draw(real))]
    assert DEFAULT.read_text(encoding="utf-8").splitlines() == lines


@needs_data
def test_isic_2017_validation_is_on_test_in_both_challenges(real: list[Sample]) -> None:
    validation = ids(real, "isic2017", "Validation")
    shared = validation & ids(real, "isic2018")
    assert (len(validation), len(shared)) == (150, 121)
    on_test = select(real, "test")
    assert validation <= ids(on_test, "isic2017")
    assert shared <= ids(on_test, "isic2018")


@needs_data
def test_isic_2018_images_without_a_public_lesion_mask_are_on_test(real: list[Sample]) -> None:
    held_back = {s.id for s in real if s.source == "isic2018" and "lesion" not in s.masks}
    assert len(held_back) == 529
    assert not held_back & {s.id for side in ("train", "tune") for s in select(real, side)}


@needs_data
def test_every_real_image_is_in_the_table_and_no_lesion_is_split(real: list[Sample]) -> None:
    table = read()
    assert {s.id for s in real} == {row["id"] for row in shipped_rows()}
    sides = defaultdict(set)
    for s in real:
        sides[s.group].add(split_of(s, table))
    assert all(len(on) == 1 for on in sides.values())
    assert Counter(split_of(s, table) for s in real if s.source == "isic2017") == {
        "train": 1800,
        "tune": 200,
        "test": 150,
    }


# --- drawing -------------------------------------------------------------------------------------


@st.composite
def challenge_samples(draw_: st.DrawFn) -> list[Sample]:
    """Samples as the three data sets have them: shared ids, missing masks, several images of one lesion."""
    numbers = st.sets(st.integers(0, 60), max_size=25)
    validation = draw_(numbers)
    training = draw_(numbers) - validation
    later = draw_(st.dictionaries(st.integers(0, 60), st.booleans(), max_size=25))
    lesions = draw_(st.dictionaries(st.integers(100, 160), st.integers(0, 15), max_size=40))
    return [
        *(sample(f"ISIC_{n}", source="isic2017", folder="ISIC-2017_Validation_Data") for n in sorted(validation)),
        *(sample(f"ISIC_{n}", source="isic2017", folder="ISIC-2017_Training_Data") for n in sorted(training)),
        *(sample(f"ISIC_{n}", source="isic2018", lesion=lesion) for n, lesion in later.items()),
        *(sample(f"ISIC_{n}", f"HAM_{lesion}", source="ham10000") for n, lesion in lesions.items()),
    ]


@given(samples=challenge_samples(), shuffled=st.randoms(use_true_random=False))
def test_drawing_keeps_what_the_table_promises_in_whatever_order(samples: list[Sample], shuffled: Random) -> None:
    rows = draw(samples)
    reordered = list(samples)
    shuffled.shuffle(reordered)
    assert draw(reordered) == rows
    assert [id for id, _, _ in rows] == sorted({s.id for s in samples})
    side = {id: split for id, _, split in rows}
    sides_of_group = defaultdict(set)
    for _, group, split in rows:
        sides_of_group[group].add(split)
    assert all(len(sides) == 1 for sides in sides_of_group.values())
    older = {s.id for s in samples if s.source == "isic2017"}
    for s in samples:
        if "Validation" in s.image.parent.name:
            assert side[s.id] == "test"
        if s.source == "isic2018" and s.id not in older:
            assert side[s.id] == ("train" if "lesion" in s.masks else "test")


@given(groups=st.lists(NAMES, max_size=120), shuffled=st.randoms(use_true_random=False))
def test_tenths_are_tenths_of_the_distinct_groups(groups: list[str], shuffled: Random) -> None:
    sides = _tenths(groups, ("tune", "test"))
    assert sides.keys() == set(groups)
    tenth = round(len(sides) / 10)
    counts = Counter(sides.values())
    assert (counts["tune"], counts["test"]) == (tenth, tenth)
    shuffled.shuffle(groups)
    assert _tenths([*groups, *groups], ("tune", "test")) == sides


# --- applying ------------------------------------------------------------------------------------


@given(id=NAMES, other=NAMES, group=NAMES)
def test_images_of_an_unknown_group_fall_on_one_side(id: str, other: str, group: str) -> None:
    assert split_of(sample(id, group), {}) == split_of(sample(other, group, source="ham10000"), {})


def test_unknown_groups_fall_eighty_ten_ten() -> None:
    count = 10_000
    shares = Counter(split_of(sample(f"photo {number}"), {}) for number in range(count))
    # Four standard deviations of a binomial are 1.2 % and 1.6 % here.
    assert shares["tune"] / count == pytest.approx(0.1, abs=0.012)
    assert shares["test"] / count == pytest.approx(0.1, abs=0.012)
    assert shares["train"] / count == pytest.approx(0.8, abs=0.016)


@pytest.mark.parametrize(("group", "side"), [("IMD022", "test"), ("IMD002", "train"), ("IMD039", "tune")])
def test_where_a_group_falls_never_changes(group: str, side: Split) -> None:
    assert split_of(sample("x", group), {}) == side


def test_the_table_goes_before_the_hash_and_the_id_before_the_group() -> None:
    for side in SPLITS:
        assert split_of(sample("x", "lesion"), {"lesion": side}) == side
        assert split_of(sample("x", "lesion"), {"x": side, "lesion": "train"}) == side


def test_selecting_parts_the_samples() -> None:
    samples = [sample(f"photo {number}") for number in range(200)]
    chosen = [select(samples, side, {}) for side in SPLITS]
    assert all(chosen)
    assert sorted(s.id for part in chosen for s in part) == sorted(s.id for s in samples)
    assert select(samples, "all", {}) == samples


def test_the_shipped_table_is_the_default_one() -> None:
    row = next(row for row in shipped_rows() if row["split"] == "tune")
    assert select([sample(row["id"])], "tune") == [sample(row["id"])]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        select([], "validation")
    assert str(caught.value) == "there is no split 'validation'; choose from: train, tune, test, all"


# --- reading tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("isic2017", "ISIC-2017_Validation_Data"),
        ("isic2017", "ISIC-2017_Test_v2_Data"),
        ("isic2018", "ISIC2018_Task1-2_Validation_Input"),
        ("isic2018", "ISIC2018_Task1-2_Test_Input"),
        ("ph2", "IMD003_Dermoscopic_Image"),
    ],
)
def test_official_test_images_that_no_table_lists_are_never_trained_on(source: str, folder: str) -> None:
    unlisted = [sample(f"ISIC_09{number:05d}", source=source, folder=folder) for number in range(50)]
    assert {split_of(s, read()) for s in unlisted} == {"test"}
    training = [sample(s.id, folder="ISIC2018_Task1-2_Training_Input") for s in unlisted]
    assert {split_of(s, {}) for s in training} == set(SPLITS)


def test_a_table_gives_the_split_of_ids_and_groups(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("split,id,group,note\ntrain,a,L1,x\ntrain,b,L1,\ntest,c,c,\n", encoding="utf-8-sig")
    assert read(table) == {"a": "train", "b": "train", "L1": "train", "c": "test"}


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "none.csv")
    assert str(caught.value) == (
        f"there is no table of splits {tmp_path}/none.csv; expected a CSV with the columns id, group, split"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " is no table of splits: expected the columns id, group, split"),
        (b"id,split\na,train\n", " is no table of splits: expected the columns id, group, split"),
        (b"\xff\xfe\x00\x81", " is no table of splits: expected the columns id, group, split"),
        (b"id,group,split\na,a,dev\n", ": a has split 'dev'; expected one of train, tune, test"),
        (b"id,group,split\na,a,Train\n", ": a has split 'Train'; expected one of train, tune, test"),
        (b"id,group,split\na,a\n", ": a has split None; expected one of train, tune, test"),
        (b"id,group,split\na,L,train\na,L,test\n", ": a is in both train and test; it must be in one"),
        (b"id,group,split\na,L,train\nb,L,tune\n", ": L is in both train and tune; it must be in one"),
        (b"id,group,split\nL,x,train\nb,L,tune\n", ": L is in both train and tune; it must be in one"),
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    table = tmp_path / "splits.csv"
    table.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(table)
    assert str(caught.value) == f"{table}{sentence}"
