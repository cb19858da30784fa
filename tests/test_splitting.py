"""Drawn splits: what every table keeps together, how alike its sides are, and what is refused."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dermseg.data import catalog, splits, tables
from dermseg.data.catalog import ATTRIBUTES, Part, Sample
from dermseg.data.splits import SPLITS, Split
from dermseg.data.splitting import Areas, Method, Row, balance, read_areas, split
from dermseg.errors import BrokenImageError, DataError, InputError

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

PARTS: tuple[Part | None, ...] = ("train", "validation", "test", None)
METHODS: tuple[Method, ...] = ("random", "k-fold", "official")


def sample(
    id: str, group: str | None = None, *, source: str = "plain", part: Part | None = None, folder: Path = Path()
) -> Sample:
    return Sample(id, folder / f"{id}.png", {"lesion": folder / f"{id}_mask.png"}, group or id, source, "none", part)


@st.composite
def data(draw: st.DrawFn) -> tuple[list[Sample], dict[str, dict[str, float]], list[tuple[str, str]]]:
    """Samples of several data sets with shared ids and lesions, some of their masks' areas, and some copies."""
    random = draw(st.randoms(use_true_random=False))
    count, lesions = draw(st.integers(5, 50)), draw(st.integers(10, 50))
    samples = [
        sample(
            f"i{random.randrange(count)}",
            f"L{random.randrange(lesions)}" if random.random() < 0.5 else None,
            source=f"source {random.randrange(3)}",
            part=random.choice(PARTS),
        )
        for _ in range(count)
    ]
    samples = list({(s.source, s.id): s for s in samples}.values())
    ids = sorted({s.id for s in samples})
    areas = {id: {"lesion": random.random() ** 2} for id in ids if random.random() < 0.8}
    for known in areas.values():
        if random.random() < 0.5:
            known["streaks"] = random.choice((0.0, 0.0, 0.1))
    pairs = [(random.choice(ids), random.choice([*ids, "elsewhere"])) for _ in range(draw(st.integers(0, 5)))]
    return samples, areas, pairs


def singles(count: int, **more: object) -> list[Sample]:
    return [sample(f"i{number}", **more) for number in range(count)]  # type: ignore[arg-type]


# --- what every table keeps ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(
    made=data(),
    shuffled=st.randoms(use_true_random=False),
    seed=st.integers(0, 99),
    folds=st.integers(2, 5),
)
def test_every_id_has_one_row_and_nothing_is_torn_apart(
    method: Method,
    made: tuple[list[Sample], dict[str, dict[str, float]], list[tuple[str, str]]],
    shuffled: Random,
    seed: int,
    folds: int,
) -> None:
    samples, areas, pairs = made
    try:
        drawn = split(samples, method, folds=folds, seed=seed, areas=areas, pairs=pairs)
    except DataError:  # nearly everything hangs together by chance
        return
    except InputError:
        assert method == "official"
        assert all(s.part is None for s in samples)
        return
    assert len(drawn.tables) == (folds if method == "k-fold" else 1)
    for rows in drawn.tables.values():
        assert [row.id for row in rows] == sorted({s.id for s in samples})
        side = {row.id: row.split for row in rows}
        assert {row.group for row in rows} <= {s.group for s in samples}
        sides_of = defaultdict(set)
        for row in rows:
            sides_of[row.group].add(row.split)
        for s in samples:
            sides_of[s.group].add(side[s.id])
        assert all(len(sides) == 1 for sides in sides_of.values())
        assert all(side[one] == side[other] for one, other in pairs if other != "elsewhere")

    reordered = list(samples)
    shuffled.shuffle(reordered)
    again = split(reordered, method, folds=folds, seed=seed, areas=areas, pairs=pairs)
    assert again.tables == drawn.tables
    assert again.notes == drawn.notes


@given(made=data(), folds=st.integers(2, 6))
def test_each_image_is_tested_in_one_fold(
    made: tuple[list[Sample], dict[str, dict[str, float]], list[tuple[str, str]]], folds: int
) -> None:
    samples, areas, _ = made
    count = len({s.id for s in samples})
    try:
        tables = split(samples, "k-fold", folds=folds, areas=areas).tables
    except DataError:
        return
    assert list(tables) == [f"splits_fold{fold}" for fold in range(1, folds + 1)]
    tested = Counter(row.id for rows in tables.values() for row in rows if row.split == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == count


@pytest.mark.parametrize("seed", range(3))
def test_sides_have_their_shares(seed: int) -> None:
    for shares in ((0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0), (0.7, 0.15, 0.15)):
        rows = split(singles(200), shares=shares, seed=seed).tables["splits"]
        counts = Counter(row.split for row in rows)
        assert [counts[side] for side in SPLITS] == [round(200 * share) for share in shares]


def test_each_side_of_few_images_has_one() -> None:
    for count in range(3, 12):
        rows = split(singles(count)).tables["splits"]
        assert Counter(row.split for row in rows) == {"train": count - 2, "tune": 1, "test": 1}


def test_sides_of_large_groups_are_too_large_by_less_than_a_group() -> None:
    samples = [sample(f"i{number}", f"L{number // 7}") for number in range(700)]
    counts = Counter(row.split for row in split(samples).tables["splits"])
    assert all(abs(counts[side] - share * 700) < 7 for side, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True))


def test_folds_are_of_one_size_and_tune_is_a_share_of_the_rest() -> None:
    tables = split(singles(103), "k-fold", shares=(0.7, 0.2, 0.1), folds=5).tables
    counts = [Counter(row.split for row in rows) for rows in tables.values()]
    assert sorted(count["test"] for count in counts) == [20, 20, 21, 21, 21]
    assert all(count["tune"] == round(0.2 * (103 - count["test"])) for count in counts)


def test_another_seed_draws_another_table() -> None:
    first, same, second = (split(singles(100), seed=seed).tables["splits"] for seed in (0, 0, 1))
    assert first == same
    assert first != second


def test_a_draw_never_changes() -> None:
    """On any machine and with any later version: published results stand on it."""
    areas = {f"i{number}": {"lesion": number / 40} for number in range(40)}
    rows = split(singles(40), areas=areas, seed=7).tables["splits"]
    held = {side: [row.id for row in rows if row.split == side] for side in ("tune", "test")}
    assert held == {"tune": ["i16", "i29", "i32", "i6"], "test": ["i10", "i19", "i3", "i33"]}


def test_an_id_that_names_a_lesion_elsewhere_stays_with_it() -> None:
    samples = [sample("a", "L"), sample("L", "x"), *singles(30)]
    for seed in range(10):
        side = {row.id: row.split for row in split(samples, seed=seed).tables["splits"]}
        assert side["a"] == side["L"]


# --- alike sides ---------------------------------------------------------------------------------


def unlike() -> tuple[list[Sample], Areas]:
    """Images of three data sets, one of them small, with lesions of any size and a rare class."""
    random = Random(5)
    samples, areas = [], {}
    for number in range(1500):
        id, kind = f"i{number}", random.choices(("a", "b", "c"), (70, 27, 3))[0]
        samples.append(sample(id, f"L{random.randrange(1200)}", source=kind))
        areas[id] = {"lesion": min(0.9, random.expovariate(6) + (kind == "b") * 0.2)}
        if kind == "b":
            areas[id] |= {"streaks": (random.random() < 0.06) * 0.1, "globules": (random.random() < 0.4) * 0.1}
    return samples, areas


def strays(rows: list[Row], samples: list[Sample], areas: Areas) -> dict[str, float]:
    """How far the smaller sides are from the whole: sources, classes (as counts' shares) and lesion size."""
    side = {row.id: row.split for row in rows}
    stray: dict[str, float] = defaultdict(float)
    features: dict[str, dict[str, float]] = {"lesion size": {id: known["lesion"] for id, known in areas.items()}}
    for source in "abc":
        features[source] = {s.id: float(s.source == source) for s in samples}
    for name in ("streaks", "globules"):
        features[name] = {id: float(known.get(name, 0) > 0) for id, known in areas.items()}
    for name, values in features.items():
        whole = float(np.mean(list(values.values())))
        for chosen in ("tune", "test"):
            own = float(np.mean([value for id, value in values.items() if side[id] == chosen]))
            stray[name] = max(stray[name], abs(own - whole) / whole)
    return stray


def test_sides_are_more_alike_than_by_chance() -> None:
    samples, areas = unlike()
    groups = sorted({s.group for s in samples})
    by_chance, drawn = [], []
    for seed in range(8):
        Random(seed).shuffle(groups)
        tenth = len(groups) // 10
        held: dict[str, Split] = dict.fromkeys(groups[:tenth], "tune")
        held |= dict.fromkeys(groups[tenth : 2 * tenth], "test")
        by_chance.append(strays([Row(s.id, s.group, held.get(s.group, "train")) for s in samples], samples, areas))
        drawn.append(strays(list(split(samples, seed=seed, areas=areas).tables["splits"]), samples, areas))
    for name in by_chance[0]:
        ours, theirs = (np.mean([stray[name] for stray in all_]) for all_ in (drawn, by_chance))
        assert ours < 0.6 * theirs, (name, ours, theirs)
    assert max(stray["a"] for stray in drawn) < 0.03
    assert max(stray["lesion size"] for stray in drawn) < 0.1


def test_without_masks_sides_are_alike_in_their_sources() -> None:
    samples = [*singles(90, source="large"), *(sample(f"s{number}", source="small") for number in range(10))]
    for seed in range(5):
        rows = split(samples, seed=seed).tables["splits"]
        assert Counter(row.split for row in rows if row.id.startswith("s")) == {"train": 8, "tune": 1, "test": 1}


def test_folds_are_alike_too() -> None:
    samples, areas = unlike()
    rare = {id for id, known in areas.items() if known.get("streaks", 0) > 0}
    counts = [
        sum(row.id in rare for row in rows if row.split == "test")
        for rows in split(samples, "k-fold", areas=areas).tables.values()
    ]
    assert sum(counts) == len(rare)
    assert max(counts) - min(counts) <= 2


# --- official parts ------------------------------------------------------------------------------


def test_official_parts_are_kept_and_the_strictest_counts() -> None:
    samples = [
        *(sample(f"t{number}", part="train") for number in range(5)),
        *(sample(f"v{number}", part="validation") for number in range(3)),
        *(sample(f"e{number}", part="test") for number in range(2)),
        sample("v0", source="later", part="train"),
        sample("t1", "lesion", source="later", part=None),
        sample("e1", "lesion", source="later", part="train"),
        *singles(10),
    ]
    drawn = split(samples, "official", pairs=[("t2", "v1")])
    side = {row.id: row.split for row in drawn.tables["splits"]}
    assert {id: side[id] for id in ("t0", "t1", "t2", "t3", "t4")} == {
        "t0": "train",
        "t1": "test",
        "t2": "tune",
        "t3": "train",
        "t4": "train",
    }
    assert {side[f"v{number}"] for number in range(3)} == {"tune"}
    assert {side[f"e{number}"] for number in range(2)} == {"test"}
    assert Counter(side[f"i{number}"] for number in range(10)) == {"train": 8, "tune": 1, "test": 1}
    assert drawn.notes == [
        "5 images have several parts by their id, lesion or copies; they are on the strictest side",
        "10 images have no official part; they were drawn (80% train, 10% tune, 10% test)",
    ]


def test_an_empty_official_side_is_mentioned() -> None:
    drawn = split([sample("a", part="train"), sample("b", part="validation")], "official")
    assert drawn.tables["splits"] == [Row("a", "a", "train"), Row("b", "b", "tune")]
    assert drawn.notes == ["no image is on test"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "arguments", "error", "sentence"),
    [
        (
            singles(4),
            {"method": "k-fold"},
            DataError,
            "4 groups of images are too few for 5 folds; choose at most 4 folds",
        ),
        (singles(4), {"method": "k-fold", "folds": 1}, InputError, "1 folds are too few; choose at least 2"),
        (
            singles(2),
            {"method": "k-fold", "folds": 2},
            DataError,
            "2 groups of images are too few: none is left for train; add images, or draw without it",
        ),
        (
            singles(2),
            {},
            DataError,
            "2 groups of images are too few: none is left for train; add images, or draw without it",
        ),
        (
            singles(9),
            {"shares": (0.8, 0.1, 0.2)},
            InputError,
            "shares are 0.8, 0.1, 0.2; expected those of train, tune and test, from 0 to 1, which sum to 1",
        ),
        (
            singles(9),
            {"shares": (1.2, -0.1, -0.1)},
            InputError,
            "shares are 1.2, -0.1, -0.1; expected those of train, tune and test, from 0 to 1, which sum to 1",
        ),
        (
            singles(9),
            {"shares": (0.9, 0.1)},
            InputError,
            "shares are 0.9, 0.1; expected those of train, tune and test, from 0 to 1, which sum to 1",
        ),
        (
            singles(9),
            {"method": "kfold"},
            InputError,
            "there is no method 'kfold'; did you mean 'k-fold'? Choose from: official, random, k-fold",
        ),
        (
            singles(9),
            {"method": "official"},
            InputError,
            "no image lies in a folder that names its part (train, validation, test); choose random or k-fold",
        ),
        ([], {}, DataError, "there is no image to split; check the data folder and its sources"),
    ],
)
def test_what_cannot_be_split_is_refused(
    samples: list[Sample], arguments: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        split(samples, **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


# --- masks, tables and summaries -----------------------------------------------------------------


def put(path: Path, covered: int) -> Path:
    mask = np.zeros((10, 10), np.uint8)
    mask.flat[:covered] = 255
    Image.fromarray(mask).save(path)
    return path


def test_areas_are_read_once_for_each_id_and_broken_masks_are_listed(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    files = {name: put(tmp_path / f"{name}.png", covered) for name, covered in (("a", 30), ("b", 50), ("c", 0))}
    samples = [
        Sample("x", tmp_path / "x.jpg", {"lesion": files["b"], "streaks": files["c"]}, "x", "later", "none"),
        Sample("x", tmp_path / "x.jpg", {"lesion": files["a"]}, "x", "early", "none"),
        Sample("y", tmp_path / "y.jpg", {"lesion": tmp_path / "broken.png"}, "y", "early", "none"),
    ]
    calls: list[tuple[int, int]] = []
    areas, failed = read_areas(samples, lambda *call: calls.append(call))
    assert areas == {"x": {"lesion": 0.3, "streaks": 0.0}}
    assert [type(error) for error in failed.values()] == [BrokenImageError]
    assert list(failed) == [tmp_path / "broken.png"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert read_areas(samples[::-1])[0] == areas


def test_the_summary_of_a_table_by_hand() -> None:
    samples = [
        *(sample(id, "L" if id in "ab" else None, source="one") for id in "abcd"),
        *(sample(id, source="two") for id in "cd"),
    ]
    rows = [Row("a", "L", "train"), Row("b", "L", "train"), Row("c", "c", "train"), Row("d", "d", "test")]
    areas = {"a": {"lesion": 0.2, "streaks": 0.0}, "b": {"lesion": 0.4}, "c": {"streaks": 0.1}, "d": {"streaks": 0.3}}
    table = {(record["source"], record["split"]): record for record in balance(rows, samples, areas)}
    assert list(table) == [(source, side) for source in ("all", "one", "two") for side in SPLITS]
    train, tune = table["all", "train"], table["all", "tune"]
    assert train == {
        "source": "all",
        "split": "train",
        "images": 3,
        "groups": 2,
        "lesion_area": 0.3,
        "streaks": 0.5,
    }
    assert tune == {"source": "all", "split": "tune", "images": 0, "groups": 0, "lesion_area": "", "streaks": ""}
    assert [table["two", side]["images"] for side in SPLITS] == [1, 0, 1]
    assert table["two", "train"]["lesion_area"] == ""
    assert {record["source"] for record in balance(rows, samples[:4], areas)} == {"one"}


@pytest.mark.parametrize("method", METHODS)
def test_tables_are_written_as_the_package_reads_them(tmp_path: Path, method: Method) -> None:
    samples = [sample(f'a "{number}", b', f"Läsion {number // 3}", part="train") for number in range(60)]
    for name, rows in split(samples, method).tables.items():
        path = tmp_path / f"{name}.csv"
        tables.write(path, Row._fields, rows)
        table = splits.read(path)
        assert all(splits.split_of(s, table) == row.split for s in samples for row in rows if row.id == s.id)
        assert sum(len(splits.select(samples, side, table)) for side in SPLITS) == 60


# --- real data -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> list[Sample]:
    return catalog.read(os.environ["DERMSEG_DATA"], ["isic2017", "isic2018", "ham10000"])


@needs_data
def test_images_that_a_later_challenge_trains_on_keep_the_earlier_ones_part(real: list[Sample]) -> None:
    drawn = split([s for s in real if s.source != "ham10000"], "official")
    side = {row.id: row.split for row in drawn.tables["splits"]}
    assert Counter(side.values()) == {"train": 2673, "tune": 150}
    assert drawn.notes == [
        "121 images have several parts by their id, lesion or copies; they are on the strictest side",
        "no image is on test",
    ]
    assert all(side[s.id] == "tune" for s in real if s.source == "isic2017" and s.part == "validation")


@needs_data
def test_attributes_are_spread_like_the_whole(real: list[Sample]) -> None:
    samples = [s for s in real if s.source == "isic2018"][::4]
    areas, failed = read_areas(samples)
    assert failed == {}
    table = {
        record["split"]: record for record in balance(split(samples, areas=areas).tables["splits"], samples, areas)
    }
    assert [table[side]["images"] for side in SPLITS] == [519, 65, 65]
    for name in ATTRIBUTES:
        shares = [table[side][name] for side in SPLITS]
        assert shares[1:] == pytest.approx([shares[0]] * 2, abs=2 / 65)
