"""Splits: what the shipped table keeps apart, and how any table is drawn, read and applied."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dermseg import synthetic
from dermseg.data import catalog, splits
from dermseg.data.catalog import ATTRIBUTES, Part, Sample
from dermseg.data.duplicates import near_duplicates
from dermseg.data.splits import (
    ATTRIBUTE_TABLE,
    COPIES,
    DEFAULT,
    SPLITS,
    Shipped,
    Split,
    _stratify,
    _tenths,
    default_for,
    draw,
    draw_attributes,
    read,
    select,
    split_of,
    table_for,
)
from dermseg.errors import BrokenImageError, DataError, InputError
from dermseg.imaging import read_mask
from dermseg.manifest import TrainingData

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

NAMES = st.text("abcdefghij0123456789_", min_size=1, max_size=8)


def sample(
    id: str, group: str | None = None, *, source: str = "plain", part: Part | None = None, lesion: bool = True
) -> Sample:
    return Sample(
        id=id,
        image=Path(f"{id}.jpg"),
        masks={"lesion": Path(f"{id}.png")} if lesion else {},
        group=group or id,
        source=source,
        licence="none",
        part=part,
    )


def shipped_rows(table: Path = DEFAULT) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def copies() -> list[tuple[str, str]]:
    with COPIES.open(newline="", encoding="utf-8") as file:
        return [(row["one"], row["other"]) for row in csv.DictReader(file)]


# --- the shipped tables --------------------------------------------------------------------------


@pytest.mark.parametrize("table", [DEFAULT, ATTRIBUTE_TABLE], ids=lambda path: path.stem)
def test_no_id_and_no_group_stands_on_two_sides(table: Path) -> None:
    rows = shipped_rows(table)
    assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
    sides = defaultdict(set)
    for row in rows:
        sides[row["id"]].add(row["split"])
        sides[row["group"]].add(row["split"])
    assert {name for name, on in sides.items() if len(on) > 1} == set()
    assert read(table) == {name: next(iter(on)) for name, on in sides.items()}


@pytest.mark.parametrize(
    ("classes", "table"),
    [
        (ATTRIBUTES, ATTRIBUTE_TABLE),
        (["streaks"], ATTRIBUTE_TABLE),
        (["globules", "streaks"], ATTRIBUTE_TABLE),
        (["lesion"], DEFAULT),
        (["lesion", *ATTRIBUTES], DEFAULT),
        (["lesion", "hair"], DEFAULT),
    ],
)
def test_a_network_of_attributes_alone_has_a_table_of_its_own(classes: list[str], table: Path) -> None:
    assert default_for(classes) == table
    assert table_for(classes) == read(table)


def test_a_tenth_of_the_lesions_of_ham10000_is_on_tune_and_another_on_test() -> None:
    lesions = {row["group"]: row["split"] for row in shipped_rows() if row["group"].startswith("HAM_")}
    tenth = round(len(lesions) / 10)
    moved = {"tune": 1, "test": 1, "train": -2}  # as copies of images there
    due = {"tune": tenth, "test": tenth, "train": len(lesions) - 2 * tenth}
    assert Counter(lesions.values()) == {side: count + moved[side] for side, count in due.items()}


def test_a_tenth_of_isic_2017_training_is_on_tune() -> None:
    ids = [row for row in shipped_rows() if not row["group"].startswith("HAM_")]
    assert sum(row["split"] == "tune" for row in ids) == 200 - 2 + 4  # 2 are copies of test, 4 copies of what is here


def test_copies_stand_on_one_side() -> None:
    table = read()
    assert len(copies()) == 27
    assert [(one, other) for one, other in copies() if table[one] != table[other]] == []


@pytest.fixture(scope="module")
def real() -> list[Sample]:
    return catalog.read(os.environ["DERMSEG_DATA"], ["isic2017", "isic2018", "ham10000"])


def ids(samples: list[Sample], source: str, folder: str = "") -> set[str]:
    return {s.id for s in samples if s.source == source and folder in s.image.parent.name}


@needs_data
def test_the_shipped_table_is_what_draw_gives(real: list[Sample]) -> None:
    lines = ["id,group,split", *(",".join(row) for row in draw(real, copies()))]
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
        "train": 1778,
        "tune": 202,
        "test": 170,
    }


def sides_before_copies_were_moved(real: list[Sample]) -> dict[str, Split]:
    """Of lesions; by these the attributes' table was drawn."""
    return {id: side for id, _, side in draw(real)}


# --- the table of attributes ---------------------------------------------------------------------


def test_a_tenth_of_the_images_with_attributes_is_on_tune_and_another_on_test() -> None:
    sides = Counter(row["split"] for row in shipped_rows(ATTRIBUTE_TABLE))
    assert sides == {"train": 2076, "tune": 259, "test": 259}


def test_no_lesion_network_was_trained_on_what_attributes_are_tuned_or_tested_on() -> None:
    lesion = {row["id"]: row["split"] for row in shipped_rows()}
    held = {row["id"]: row["split"] for row in shipped_rows(ATTRIBUTE_TABLE) if row["split"] != "train"}
    assert {lesion[id] for id in held} == {"tune", "test"}
    assert {side for id, side in held.items() if lesion[id] == "tune"} == {"tune"}


def test_what_the_lesion_was_tuned_on_keeps_its_side_unless_a_near_duplicate_was_trained_on() -> None:
    rows = shipped_rows(ATTRIBUTE_TABLE)
    lesion = {row["id"]: row["split"] for row in shipped_rows()}
    copied = {id for pair in copies() for id in pair}  # some were trained on when the attributes' table was drawn
    trained = {row["group"] for row in rows if lesion[row["id"]] == "train" or row["id"] in copied}
    moved = [row for row in rows if lesion[row["id"]] == "tune" and row["split"] != "tune"]
    assert len(moved) == 14
    assert {row["group"] for row in moved} <= trained
    assert {row["split"] for row in moved} == {"train"}


@needs_data
def test_the_shipped_table_of_attributes_is_what_draw_attributes_gives_for_its_groups(real: list[Sample]) -> None:
    groups = {row["id"]: row["group"] for row in shipped_rows(ATTRIBUTE_TABLE)}
    drawn = draw_attributes(real, sides_before_copies_were_moved(real), groups)
    lines = ["id,group,split", *(",".join(row) for row in drawn)]
    assert ATTRIBUTE_TABLE.read_text(encoding="utf-8").splitlines() == lines
    assert list(groups) == [s.id for s in real if s.source == "isic2018"]


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(3600)  # two minutes of a quiet core
def test_the_groups_of_the_table_of_attributes_are_its_near_duplicates(real: list[Sample]) -> None:
    groups = {row["id"]: row["group"] for row in shipped_rows(ATTRIBUTE_TABLE)}
    found = near_duplicates({s.id: s.image for s in real if s.source == "isic2018"})
    assert found.keys() == groups.keys()
    # Which images are compared depends on the processor's arithmetic: without AVX-512 just these are grouped otherwise.
    assert {id for id in groups if found[id] != groups[id]} <= {"ISIC_0011165", "ISIC_0013579", "ISIC_0014178"}


KNOWN_COPIES = (
    ("ISIC_0012887", "ISIC_0012989"),  # the same picture, compressed otherwise
    ("ISIC_0000519", "ISIC_0011295"),  # another exposure
    ("ISIC_0000224", "ISIC_0014791"),  # another crop of another scan
    ("ISIC_0000453", "ISIC_0011097"),  # another magnification
    ("ISIC_0000228", "ISIC_0014964"),  # turned
    ("ISIC_0013577", "ISIC_0013579"),  # a second photograph
)


@pytest.mark.parametrize("pair", KNOWN_COPIES, ids=lambda pair: "-".join(pair))
def test_known_photographs_of_one_lesion_are_one_group_in_the_table(pair: tuple[str, str]) -> None:
    groups = {row["id"]: row["group"] for row in shipped_rows(ATTRIBUTE_TABLE)}
    assert {groups[id] for id in pair} == {pair[0]}


def test_how_many_lesions_the_table_knows_more_than_one_image_of() -> None:
    members = Counter(row["group"] for row in shipped_rows(ATTRIBUTE_TABLE))
    assert Counter(members.values()) == {1: 2409, 2: 91, 3: 1}


@needs_data
def test_known_photographs_of_one_lesion_are_found_among_others(real: list[Sample]) -> None:
    known = [id for pair in KNOWN_COPIES for id in pair]
    images = {s.id: s.image for s in real if s.source == "isic2018"}
    others = [id for id in list(images)[::50] if id not in known]
    groups = near_duplicates({id: images[id] for id in (*known, *others)})
    expected = {row["id"]: row["group"] for row in shipped_rows(ATTRIBUTE_TABLE)}
    assert groups == {id: expected[id] if expected[id] in groups else id for id in groups}


@needs_data
def test_images_whose_lesion_is_tested_keep_their_side_and_the_unmasked_fill_the_rest(real: list[Sample]) -> None:
    masked = {s.id for s in real if s.source == "isic2018" and "lesion" in s.masks}
    lesion, rows = sides_before_copies_were_moved(real), shipped_rows(ATTRIBUTE_TABLE)
    came = Counter((lesion[row["id"]] if row["id"] in masked else "unmasked", row["split"]) for row in rows)
    assert came == {
        ("train", "train"): 1763,
        ("tune", "tune"): 171,
        ("test", "test"): 116,
        ("unmasked", "tune"): 88,
        ("unmasked", "test"): 143,
        ("unmasked", "train"): 298,
        ("tune", "train"): 10,  # near-duplicates of images that lesion networks train on
        ("test", "train"): 5,
    }


@needs_data
def test_each_attribute_has_its_share_on_each_side(real: list[Sample]) -> None:
    with_attributes = catalog.with_masks([s for s in real if s.source == "isic2018"], ATTRIBUTES)
    covered = {s.id: [read_mask(s.masks[name]).mean() for name in ATTRIBUTES] for s in with_attributes}
    everywhere = np.array(list(covered.values()))
    assert (everywhere > 0).sum(0).tolist() == [1523, 190, 100, 682, 603]
    for side in SPLITS:
        own = np.array([covered[s.id] for s in select(with_attributes, side, table_for(ATTRIBUTES))])
        shown, expected = (own > 0).sum(0), (everywhere > 0).mean(0) * len(own)
        assert (np.abs(shown - expected) <= 1.5 + 0.07 * expected).all()
        np.testing.assert_allclose(own.mean(0), everywhere.mean(0), rtol=0.35)  # streaks: 11 images on tune
        assert (own == 0).all(1).mean() == pytest.approx((everywhere == 0).all(1).mean(), abs=0.02)


# --- near-duplicates -----------------------------------------------------------------------------


def textured(seed: int) -> NDArray[np.uint8]:
    """A drawn lesion with a skin's fine detail, which the drawing lacks."""
    drawn = synthetic.draw(seed, (192, 256)).pixels.astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 1, (192, 256, 1)).astype(np.float32)
    fine = cv2.GaussianBlur(noise, (0, 0), 2)[..., None]
    pixels: NDArray[np.uint8] = np.clip(drawn + 80 * fine, 0, 255).astype(np.uint8)
    return pixels


def put(folder: Path, **images: NDArray[np.uint8]) -> dict[str, Path]:
    paths = {}
    for name, pixels in images.items():
        paths[name] = folder / f"{name}.jpg"
        Image.fromarray(pixels).save(paths[name], quality=90)
    return paths


def test_other_exposures_crops_and_sizes_of_a_picture_are_its_near_duplicates(tmp_path: Path) -> None:
    picture, other = textured(1), textured(2)
    images = put(
        tmp_path,
        b=picture,
        c=(picture * 0.8 + 10).astype(np.uint8),
        d=np.ascontiguousarray(picture[6:-4, 5:-9]),
        e=np.asarray(cv2.resize(picture, (512, 384)), np.uint8),
        a=other,
        f=np.ascontiguousarray(other[3:, 4:]),
        g=textured(3),
    )
    assert near_duplicates(images) == {"a": "a", "b": "b", "c": "b", "d": "b", "e": "b", "f": "a", "g": "g"}


def test_near_duplicates_of_near_duplicates_are_of_one_group(tmp_path: Path) -> None:
    picture = textured(4)
    images = put(
        tmp_path,
        **{name: np.ascontiguousarray(picture[:, 22 * index :][:, :120]) for index, name in enumerate("gdcbefa")},
    )
    ends = {name: images[name] for name in "ga"}
    assert set(near_duplicates(ends).values()) == {"a", "g"}  # they share no pixel
    assert set(near_duplicates(images).values()) == {"a"}


def test_smooth_and_tiny_pictures_are_nobodys_near_duplicates(tmp_path: Path) -> None:
    images = put(
        tmp_path,
        a=np.full((64, 64, 3), 120, np.uint8),
        b=np.full((64, 64, 3), 120, np.uint8),
        c=np.zeros((1, 1, 3), np.uint8),
        d=np.full((1, 400, 3), 255, np.uint8),
    )
    assert near_duplicates(images) == {name: name for name in "abcd"}
    assert near_duplicates({}) == {}


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(BrokenImageError, match=r"a\.jpg"):
        near_duplicates(put(tmp_path, b=textured(1)) | {"a": tmp_path / "a.jpg"})


# --- drawing -------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), count=st.integers(0, 150))
def test_sides_follow_what_is_fixed_and_are_tenths_where_they_can_be(seed: int, count: int) -> None:
    random = Random(seed)
    ids = [f"i{number:03}" for number in range(count)]
    groups = {id: id for id in ids}
    for _ in range(random.randint(0, 10) if ids else 0):
        one, other = random.choice(ids), random.choice(ids)
        groups[one] = groups[other] = min(groups[one], groups[other])
    covered = {id: [random.choice((0.0, random.random())), float(random.random() < 0.1)] for id in ids}
    fixed: dict[str, Split] = {id: random.choice(SPLITS) for id in ids if random.random() < 0.15}

    side = _stratify(groups, covered, fixed)
    assert side.keys() == set(groups.values())
    shuffled = random.sample(ids, count)
    assert _stratify({id: groups[id] for id in shuffled}, covered, fixed) == side
    fixed_of = defaultdict(set)
    for id, name in fixed.items():
        fixed_of[groups[id]].add(name)
    for group, names in fixed_of.items():
        assert side[group] == min(names, key=("train", "test", "tune").index)
    largest = max(Counter(groups.values()).values(), default=1)
    counts = Counter(side[group] for group in groups.values())
    held = Counter(side[group] for group in groups.values() if group in fixed_of)
    for name in ("test", "tune"):
        assert counts[name] <= max(held[name], round(count / 10) + largest - 1)
        assert counts[name] >= round(count / 10) or counts["train"] == held["train"]


def test_a_rare_class_is_spread_like_a_frequent_one() -> None:
    groups = {f"i{number}": f"i{number}" for number in range(1000)}
    covered = {id: [float(number < 30), float(number % 2), 0.0] for number, id in enumerate(groups)}
    side = _stratify(groups, covered, {})
    for name, share in (("train", 0.8), ("tune", 0.1), ("test", 0.1)):
        own = np.array([covered[id] for id in groups if side[id] == name])
        assert len(own) == 1000 * share
        np.testing.assert_allclose(own.sum(0), [30 * share, 500 * share, 0], rtol=0, atol=2)


@st.composite
def challenge_samples(draw_: st.DrawFn) -> list[Sample]:
    """Samples as the three data sets have them: shared ids, missing masks, several images of one lesion."""
    numbers = st.sets(st.integers(0, 60), max_size=25)
    validation = draw_(numbers)
    training = draw_(numbers) - validation
    later = draw_(st.dictionaries(st.integers(0, 60), st.booleans(), max_size=25))
    lesions = draw_(st.dictionaries(st.integers(100, 160), st.integers(0, 15), max_size=40))
    return [
        *(sample(f"ISIC_{n}", source="isic2017", part="validation") for n in sorted(validation)),
        *(sample(f"ISIC_{n}", source="isic2017", part="train") for n in sorted(training)),
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


def test_other_images_and_official_test_images_are_not_drawn(tmp_path: Path) -> None:
    images = put(tmp_path, ISIC_1=textured(1), ISIC_2=textured(2), ISIC_3=textured(3))
    (tmp_path / "mask.png").write_bytes(images["ISIC_1"].read_bytes())
    masks = dict.fromkeys(ATTRIBUTES, tmp_path / "mask.png")

    def of(id: str, source: str, **more: Path) -> Sample:
        return Sample(id, images[id], masks | more, id, source, "none")

    held_out = replace(of("ISIC_3", "isic2018"), part="validation")
    samples = [of("ISIC_1", "isic2018", lesion=tmp_path / "mask.png"), of("ISIC_2", "plain"), held_out]
    for side in SPLITS:
        assert draw_attributes(samples, {"ISIC_1": side}) == [("ISIC_1", "ISIC_1", side)]


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        select([], "validation")
    assert str(caught.value) == "there is no split 'validation'; choose from: train, tune, test, all"


# --- reading tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("isic2016", "test"),
        ("isic2017", "validation"),
        ("isic2017", "test"),
        ("isic2018", "validation"),
        ("isic2018", "test"),
        ("ph2", None),
    ],
)
def test_official_test_images_that_no_table_lists_are_never_trained_on(source: str, part: Part | None) -> None:
    unlisted = [sample(f"ISIC_09{number:05d}", source=source, part=part) for number in range(50)]
    table = read()
    assert {split_of(s, table) for s in unlisted} == {"test"}
    training = [sample(s.id, source="isic2018", part="train") for s in unlisted]
    assert {split_of(s, {}) for s in training} == set(SPLITS)


@given(id=NAMES, group=NAMES)
def test_the_parts_of_ones_own_data_set_are_its_splits(id: str, group: str) -> None:
    sides: dict[Part, Split] = {"train": "train", "validation": "tune", "test": "test"}
    for part, side in sides.items():
        assert split_of(sample(id, group, part=part), {}) == side
        assert split_of(sample(id, group, part=part), {"another": "train"}) == side


@given(id=NAMES, group=NAMES, part=st.sampled_from(get_args(Part)), listed=st.sampled_from(SPLITS), data=st.data())
def test_of_a_shipped_table_and_the_parts_of_ones_own_the_stricter_counts(
    id: str, group: str, part: Part, listed: Split, data: st.DataObject
) -> None:
    strict = ("test", "tune", "train")
    named = {"train": "train", "validation": "tune", "test": "test"}[part]
    table = {data.draw(st.sampled_from([id, group])): listed}
    assert split_of(sample(id, group, part=part), Shipped(table)) == min(listed, named, key=strict.index)
    assert split_of(sample(id, group, part=part), table) == listed  # a table of one's own
    assert split_of(sample(id, group, source="isic2016", part=part), table) == listed


@pytest.mark.parametrize("spelling", ["{}", "isic/{}", "a/b/{}"])
@pytest.mark.parametrize("case", [str, str.lower, str.title])
@pytest.mark.parametrize("side", SPLITS)
def test_own_copies_of_listed_images_are_found_in_every_spelling(
    spelling: str, case: Callable[[str], str], side: Split
) -> None:
    table = read()
    id = next(row["id"] for row in shipped_rows() if row["split"] == side)
    name = spelling.format(case(id))
    assert split_of(sample(name), table) == side
    assert split_of(sample(f"copy of {id}", name), table) == side
    assert split_of(sample(name, part="test"), table) == "test"
    assert split_of(sample(name, part="train"), table) == side


def test_a_name_as_it_is_goes_before_its_last_part_and_the_upper_case() -> None:
    table: dict[str, Split] = {"a/x": "tune", "x": "train", "X": "test"}
    assert [split_of(sample(id), table) for id in ("a/x", "b/x", "b/X")] == ["tune", "train", "test"]
    assert split_of(sample("c/x", "L"), {"L": "train", "X": "tune"}) == "tune"


def test_an_own_folder_of_test_images_is_never_trained_on(tmp_path: Path) -> None:
    listed = next(row["id"] for row in shipped_rows() if row["split"] == "train")
    for path in (f"own/test/images/{listed}.png", f"own/train/images/{listed}.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    samples = catalog.read(tmp_path)
    assert {s.part: split_of(s, read()) for s in samples} == {"test": "test", "train": "train"}
    assert [s.id for s in select(catalog.read(tmp_path / "own/test"), "train")] == []


def test_a_table_gives_the_split_of_ids_and_groups(tmp_path: Path) -> None:
    table = tmp_path / "splits.csv"
    table.write_text("split,id,group,note\ntrain,a,L1,x\ntrain,b,L1,\ntest,c,c,\n", encoding="utf-8-sig")
    assert read(table) == {"a": "train", "b": "train", "L1": "train", "c": "test"}
    table.write_text("id,group,split\na,,train\nb,,test\n")  # without groups
    assert read(table) == {"a": "train", "b": "test"}


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "none.csv")
    assert str(caught.value) == (
        f"there is no table of splits {tmp_path}/none.csv; expected a CSV with the columns id, group, split"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", " is no table of splits: expected a CSV with the columns id, group, split"),
        (b"id,split\na,train\n", " is no table of splits: expected a CSV with the columns id, group, split"),
        (b"\xff\xfe\x00\x81", " is no table of splits: expected a CSV with the columns id, group, split"),
        (b"id,group,split\na,a,dev\n", ": a has split 'dev'; expected one of train, tune, test"),
        (b"id,group,split\na,a,Train\n", ": a has split 'Train'; expected one of train, tune, test"),
        (b"id,group,split\na,a\n", ": a has split ''; expected one of train, tune, test"),
        (b"id,group,split\n,L,train\n", ": a row has no id; expected that of an image, such as ISIC_0000000"),
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


@pytest.mark.parametrize(
    ("trained_on", "by", "sources", "expected"),
    [
        (["isic2017"], "own", ["isic2017"], True),
        (["isic2017"], "own", ["ham10000", "ph2"], True),  # the archive's sets share images
        (["isic2017"], "own", ["ph2"], False),
        (["isic2017"], "own", ["plain"], False),
        (["plain", "ph2"], "own", ["plain"], True),
        (["isic2017"], "table", ["isic2017"], False),
        (["isic2017"], None, ["isic2017"], False),
    ],
)
def test_what_another_table_may_have_put_elsewhere(
    trained_on: list[str], by: str | None, sources: list[str], expected: bool
) -> None:
    data = TrainingData(
        sources=dict.fromkeys(trained_on, 1),
        licences={},
        split="train",
        initialisation="",
        content_hash="",
        splits_hash=by,
    )
    assert splits.may_have_seen(data, sources, "table") is expected


def test_a_fingerprint_is_of_the_sides_alone() -> None:
    table: dict[str, Split] = {"a": "train", "b": "test"}
    assert splits.fingerprint(table) == splits.fingerprint(dict(reversed(table.items())))
    assert splits.fingerprint(table) != splits.fingerprint(table | {"b": "tune"})
    assert splits.fingerprint(table) != splits.fingerprint(table | {"c": "tune"})
