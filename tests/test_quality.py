"""The check of data: every planted fault is found where it is and nothing else; the mending; the real sets."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dermseg.appearance import Appearance
from dermseg.data import catalog, mask_checks, quality
from dermseg.data.catalog import Sample
from dermseg.data.findings import COLUMNS, SEVERITIES
from dermseg.data.quality import KINDS, Finding, check, check_fix_folder, fix, summary, to_csv, write_csv
from dermseg.data.splits import SPLITS, Split, split_of
from dermseg.errors import ImageError, InputError
from dermseg.imaging import open_image, read_mask
from dermseg.synthetic import draw
from tests.planted import (
    FAULTS,
    IMAGE,
    IMAGES_2017,
    IMAGES_2018,
    ISIC_IDS,
    JPEG_MASK,
    MASK,
    OWN,
    OWN_IDS,
    OWN_MASKS,
    TABLE,
    Fault,
    Plant,
    copied_pair,
    retaken_pair,
    write_clean,
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean") / "data"
    write_clean(root)
    return root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Iterator[Path]:
    copy = tmp_path / "data"
    shutil.copytree(clean, copy)
    yield copy
    shutil.rmtree(copy)


@pytest.fixture(autouse=True)
def plain_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for hair, rulers and vignettes, which takes most of the time, only where one was planted."""
    planted = request.node.callspec.params.get("fault") if hasattr(request.node, "callspec") else None
    if planted is None or planted.name not in ("hair", "ruler", "dermoscope's tube"):
        monkeypatch.setattr(quality, "look", lambda _: Appearance(0, 0, 0, 0.5, None))


def checked(root: Path, *, duplicates: bool = True) -> list[Finding]:
    return check(catalog.read(root), root, table=TABLE, workers=1, duplicates=duplicates)


def by_name(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


def test_clean_data_set_has_neither_errors_nor_warnings(clean: Path) -> None:
    assert [finding for finding in checked(clean) if finding.severity != "note"] == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_planted_fault_is_found_and_nothing_else(fault: Fault, root: Path) -> None:
    kind, path = fault.plant(root)
    findings = checked(root)
    found = [(f.kind, f.path.relative_to(root)) for f in findings if f.severity != "note" or f.kind == kind]
    assert found == [(kind, path)]
    finding = next(f for f in findings if f.kind == kind)
    assert finding.severity == KINDS[kind].severity
    assert finding.message.startswith(path.name)
    assert "\n" not in finding.message


def test_planted_faults_are_of_many_kinds() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 50


def test_proof_is_in_the_message(root: Path) -> None:
    by_name("inverted mask").plant(root)
    by_name("two outlines").plant(root)
    messages = {finding.kind: finding.message for finding in checked(root)}
    share = 1 - read_mask(root / OWN_MASKS / "mole03.png").mean()
    assert share < 0.5 < 1 - share
    assert f"covers {1 - share:.0%} of the image" in messages["inverted-mask"]
    assert "of isic2017 have an intersection over union of 0." in messages["conflicting-masks"]


def test_findings_are_ordered_by_severity_source_and_id(root: Path) -> None:
    for name in ("labels 0 and 1", "two outlines", "foreign picture", "cut in half"):
        for fault in FAULTS:
            if fault.name.endswith(name):
                fault.plant(root)
    findings = checked(root)
    order = [(SEVERITIES.index(f.severity), f.source, f.id) for f in findings]
    assert order == sorted(order)
    assert {f.severity for f in findings} >= {"error", "warning"}


def test_workers_do_not_change_the_findings(root: Path) -> None:
    for name in ("inverted mask", "two outlines", "empty file"):
        by_name(name).plant(root)
    samples = catalog.read(root)
    assert check(samples, root, table=TABLE, workers=1) == check(samples, root, table=TABLE, workers=4)


def test_progress_is_called_for_each_image(clean: Path) -> None:
    calls = []
    samples = catalog.read(clean)
    check(samples, clean, table=TABLE, against=samples[:3], progress=lambda: calls.append(1))
    assert len(calls) == len(samples) + 3 == 27


def test_copies_are_not_looked_for_when_not_asked(root: Path) -> None:
    by_name("same picture in train and test").plant(root)
    assert {f.kind for f in checked(root)} >= {"leak"}
    assert "leak" not in {f.kind for f in checked(root, duplicates=False)}


def test_images_of_another_data_set_are_leaks(clean: Path, tmp_path: Path) -> None:
    other = tmp_path / "test/images"
    other.mkdir(parents=True)
    shutil.copy(clean / OWN / "mole02.png", other / "unseen.png")
    with Image.open(clean / OWN / "mole04.png") as image:
        image.convert("RGB").save(other / "again.jpg", quality=60)
    shutil.copytree(clean / OWN_MASKS, tmp_path / "test/masks")
    against = catalog.read(tmp_path / "test")
    findings = check(catalog.read(clean), clean, table=TABLE, against=against)
    found = {(f.kind, f.id, f.other.name if f.other else None) for f in findings if f.severity != "note"}
    assert found == {("leak", "mole02", "unseen.png"), ("near-leak", "mole04", "again.jpg")}
    assert all(f.path.parent == clean / OWN for f in findings if "leak" in f.kind)


def test_data_compared_with_itself_has_no_leak(clean: Path) -> None:
    samples = catalog.read(clean)
    same = [s for s in samples if s.source == "plain"]
    assert not [f for f in check(same, clean, table=TABLE, against=same) if f.severity != "note"]


def test_files_of_both_data_sets_are_no_leaks_however_they_are_spelt(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    (root.parent / "link").symlink_to(root)
    samples = catalog.read(root)
    for spelt in ("data", "data/../data", "link"):
        calls: list[str] = []
        against = catalog.read(spelt)
        found = check(samples, root, table=TABLE, against=against, progress=partial(calls.append, spelt))
        assert [f for f in found if f.severity != "note"] == []
        assert len(calls) == len(samples) + len(against)


def test_link_to_an_image_of_the_test_set_is_a_leak(root: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
        (tmp_path / "mine" / folder / "linked.png").symlink_to(root / "own" / folder / "mole02.png")
    found = check(catalog.read(tmp_path / "mine"), tmp_path, table=TABLE, against=catalog.read(root))
    assert [(f.kind, f.id) for f in found if f.severity == "error"] == [("leak", "linked")]


SIDES = list(itertools.permutations(SPLITS, 2))


@pytest.mark.parametrize("sides", SIDES, ids=" ".join)
@pytest.mark.parametrize("plant", [copied_pair, retaken_pair], ids=["leak", "near-leak"])
def test_leak_is_about_the_less_strict_side(
    plant: Callable[[str, str, str], Plant], sides: tuple[Split, Split], root: Path
) -> None:
    ids = ("mole02", "mole05")
    plant(*ids, "leak")(root)
    low, high = sorted(zip(sides, ids, strict=True), key=lambda pair: SPLITS.index(pair[0]))
    found = check(catalog.read(root), root, table={**TABLE, **dict(zip(ids, sides, strict=True))})
    (leak,) = [f for f in found if f.severity != "note"]
    assert leak.kind in ("leak", "near-leak")
    assert (leak.id, leak.other) == (low[1], root / OWN / f"{high[1]}.png")
    assert leak.message.startswith(f"{low[1]}.png is {low[0]} and ")
    assert leak.message.endswith(f", which is {high[0]}")


def test_leak_is_found_in_each_data_set_that_has_the_image(root: Path) -> None:
    train, test = ISIC_IDS[0], ISIC_IDS[-1]
    for folder in (IMAGES_2017, IMAGES_2018):
        shutil.copy(root / folder / f"{train}.jpg", root / folder / f"{test}.jpg")
    found = [(f.kind, f.id, f.source) for f in checked(root) if f.severity == "error"]
    assert found == [("leak", train, "isic2017"), ("leak", train, "isic2018")]


@pytest.mark.parametrize("turn", range(1, 8))
def test_flipped_and_turned_copies_are_found(turn: int, root: Path) -> None:
    for folder in (OWN, OWN_MASKS):
        with Image.open(root / folder / "mole02.png") as image:
            values = np.asarray(image)
        values = values.swapaxes(0, 1) if turn & 4 else values
        values = values[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
        Image.fromarray(values).save(root / folder / f"{OWN_IDS[-1]}.png")
    (leak,) = [f for f in checked(root) if f.severity != "note"]
    assert (leak.kind, leak.id) == ("near-leak", "mole02")
    assert "is, flipped or turned, 1.00 (of 1) like" in leak.message


def test_group_on_two_sides_is_an_error(clean: Path) -> None:
    samples = [replace(s, group="patient 1") if s.id in (OWN_IDS[0], OWN_IDS[-1]) else s for s in catalog.read(clean)]
    found = [f for f in check(samples, clean, table=TABLE) if f.severity == "error"]
    assert [(f.kind, f.id) for f in found] == [("parted-group", OWN_IDS[0])]
    assert "mole00.png is train, while mole11 of the same group patient 1 is test" in found[0].message


def test_all_of_a_parted_group_but_the_strictest_side_are_named(clean: Path) -> None:
    table: dict[str, Split] = {**TABLE, OWN_IDS[1]: "tune", OWN_IDS[2]: "test"}
    members = (*OWN_IDS[:4], OWN_IDS[-1])
    samples = [replace(s, group="patient 1") if s.id in members else s for s in catalog.read(clean)]
    found = [f for f in check(samples, clean, table=table) if f.severity == "error"]
    assert [(f.kind, f.id) for f in found] == [("parted-group", OWN_IDS[number]) for number in (0, 1, 3)]


def test_one_id_on_two_sides_is_a_leak(clean: Path) -> None:
    samples = [s for s in catalog.read(clean) if s.source != "plain"]
    id = next(s.id for s in samples if split_of(s, {}) == "train")
    held_out = [replace(s, source="ph2") if s.source == "isic2018" and s.id == id else s for s in samples]
    findings = check(held_out, clean, table={})  # PH2, which this pretends to be, is always test
    assert [(f.kind, f.id) for f in findings if f.severity == "error"] == [("leak", id)]


def test_attribute_masks_may_be_empty_and_in_pieces(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean / "own", tmp_path / "own")
    for number, id in enumerate(OWN_IDS):
        values = np.zeros((144, 192), np.uint8)
        values[5:40:10, 5:40:10] = 255 * (number % 2)
        Image.fromarray(values).save(tmp_path / "own/masks" / f"{id}_hair.png")
    samples = catalog.read(tmp_path)
    assert samples[0].masks.keys() == {"lesion", "hair"}
    assert [f for f in check(samples, tmp_path, table=TABLE) if f.severity != "note"] == []
    (tmp_path / "own/masks/mole05_hair.png").unlink()
    found = [f for f in check(catalog.read(tmp_path), tmp_path, table=TABLE) if f.severity != "note"]
    assert [(f.kind, f.id) for f in found] == [("missing-class", "mole05")]


def test_values_of_large_masks_are_counted_in_little_memory() -> None:
    grey = np.zeros((2000, 2000), np.uint8)
    grey[500:1500, 500:1500] = 1
    tracemalloc.start()
    try:
        assert (mask_checks.value_fault(grey, may_be_empty=False) or ("",))[0] == "label-values"
        assert mask_checks.is_mendable("label-values", grey)
        assert tracemalloc.get_traced_memory()[1] < grey.nbytes / 10
    finally:
        tracemalloc.stop()


def test_values_are_counted_where_one_pixel_differs() -> None:
    grey = np.zeros((5000, 5000), np.uint8)  # more than single precision counts one by one
    grey[0, 0], grey[1, 1] = 255, 7
    assert mask_checks.value_fault(grey, may_be_empty=False) == (
        "soft-mask",
        "holds 3 grey values (0, 7, 255) where 0 and 255 are expected",
    )


def test_table_of_kinds_in_the_documentation_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[1] / "docs/data-quality.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    kinds = [(name, kind.severity, kind.meaning, kind.advice) for name, kind in KINDS.items()]
    assert [row for row in rows if row[1] in SEVERITIES] == kinds


def test_kinds_are_documented() -> None:
    for kind in KINDS.values():
        assert kind.severity in SEVERITIES
        assert kind.meaning.endswith(".")
        assert kind.advice.endswith(".")


def test_tables_of_findings(clean: Path, tmp_path: Path) -> None:
    findings = [
        Finding("leak", "error", "a,b", "plain", clean / "x.png", 'says "no"', clean / "y.png"),
        Finding("hair", "note", "c", "plain", clean / "z.png", "z.png has hair"),
    ]
    write_csv(findings, tmp_path / "findings.csv")
    text = (tmp_path / "findings.csv").read_text()
    assert text == to_csv(findings)
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["id"], rows[0]["message"], rows[0]["other"]) == ("a,b", 'says "no"', str(clean / "y.png"))
    assert rows[1]["other"] == ""


def test_summary_counts_by_kind(clean: Path) -> None:
    leak, hair = (Finding(kind, KINDS[kind].severity, "a", "plain", clean, "") for kind in ("leak", "hair"))
    lines = summary([hair, leak, leak]).splitlines()
    assert lines[0].split()[:3] == ["error", "leak", "2"]
    assert lines[1].split()[:3] == ["note", "hair", "1"]
    assert summary([]) == "nothing was found"


MENDED = (
    "labels 0 and 1",
    "red on black",
    "smooth edge",
    "jpeg mask",
    "inverted mask",
    "inverted palette",
    "pinhole",
    "speck",
)


@pytest.mark.parametrize("name", MENDED)
def test_mended_masks_are_the_ones_that_were_spoilt(name: str, clean: Path, root: Path, tmp_path: Path) -> None:
    kind, path = by_name(name).plant(root)
    spoilt = (root / path).read_bytes()
    samples = catalog.read(root)
    written = fix(checked(root), samples, tmp_path / "fixed")
    assert written == [tmp_path / "fixed" / MASK]
    truth, mended = read_mask(clean / MASK), read_mask(written[0])
    assert (truth & mended).sum() / (truth | mended).sum() > (0.97 if kind == "soft-mask" else 0.999)
    assert (root / path).read_bytes() == spoilt
    (row,) = csv.DictReader((tmp_path / "fixed/fixes.csv").read_text().splitlines())
    assert (row["id"], row["source"], row["kinds"], row["fixed"]) == ("mole03", "plain", kind, str(written[0]))


def test_turned_mask_is_mended(clean: Path, root: Path, tmp_path: Path) -> None:
    by_name("exif turns by a quarter").plant(root)
    written = fix(checked(root), catalog.read(root), tmp_path / "fixed")
    assert written == [tmp_path / "fixed" / JPEG_MASK]
    stored = read_mask(clean / JPEG_MASK)
    assert np.array_equal(read_mask(written[0]), np.rot90(stored, -1))  # orientation 6: a quarter clockwise


@pytest.mark.parametrize("name", ["empty mask", "labels 0, 1 and 2", "large hole", "same picture twice", "empty file"])
def test_what_needs_a_judgement_is_not_mended(name: str, root: Path, tmp_path: Path) -> None:
    by_name(name).plant(root)
    assert fix(checked(root), catalog.read(root), tmp_path / "fixed") == []
    assert not (tmp_path / "fixed").exists()


def test_mask_with_an_error_that_cannot_be_mended_is_passed_over(root: Path, tmp_path: Path) -> None:
    by_name("exif turns by a quarter").plant(root)
    values = read_mask(root / JPEG_MASK).astype(np.uint8)
    values[:20, :20] = 2
    Image.fromarray(values).save(root / JPEG_MASK)
    findings = checked(root)
    assert {f.kind for f in findings if f.severity == "error"} == {"turned-mask", "label-values"}
    assert fix(findings, catalog.read(root), tmp_path / "fixed") == []
    assert not (tmp_path / "fixed").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_mending_writes_nothing_into_the_data(suffix: str, root: Path) -> None:
    by_name("smooth edge").plant(root)
    (root / MASK).rename((root / MASK).with_suffix(suffix))
    samples, before = catalog.read(root), sorted(root.rglob("*"))
    findings = checked(root)
    for folder in (root, root / "own", root / OWN_MASKS, root / IMAGE):
        with pytest.raises(InputError, match="is not empty; give a new folder"):
            fix(findings, samples, folder)
    for folder in (root / OWN_MASKS / "new", root / "own/../own/images/a/b"):
        with pytest.raises(InputError, match=r"lies in the data, in .*own"):
            fix(findings, samples, folder)
    assert sorted(root.rglob("*")) == before


def test_folder_for_corrected_masks_may_be_new_or_empty(clean: Path, tmp_path: Path) -> None:
    samples = catalog.read(clean)
    check_fix_folder(tmp_path / "new/fixed", samples)
    check_fix_folder(tmp_path, samples)
    assert list(tmp_path.iterdir()) == []


def test_corrected_masks_beside_the_data_change_nothing_of_it(root: Path) -> None:
    by_name("smooth edge").plant(root)
    before = catalog.read(root)
    assert len(fix(checked(root), before, root / "fixed")) == 1
    assert catalog.read(root) == before


def test_broken_mask_is_met_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    by_name("smooth edge").plant(root)
    by_name("exif turns by a quarter").plant(root)
    findings, samples = checked(root), catalog.read(root)
    (root / MASK).write_bytes(b"no picture")  # the last one
    assert max(f.path for f in findings if f.kind in mask_checks.MENDABLE) == root / MASK
    with pytest.raises(ImageError):
        fix(findings, samples, tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), height=st.integers(32, 120), width=st.integers(32, 120))
def test_inversion_is_seen_from_both_sides(seed: int, height: int, width: int) -> None:
    drawn = draw(seed, (height, width))
    score = mask_checks.inversion_score(drawn.pixels, drawn.mask)
    assert score < 0
    assert mask_checks.inversion_score(drawn.pixels, ~drawn.mask) == pytest.approx(-score, abs=0.2)


@given(
    mask=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=7, max_size=7),
    scale=st.integers(1, 4),
)
def test_agreement_is_the_same_both_ways_and_1_with_itself(mask: list[list[bool]], scale: int) -> None:
    one = np.array(mask)
    large = np.kron(one, np.ones((scale, scale), np.bool_))
    assert mask_checks.agreement(one, large) == mask_checks.agreement(large, one) == 1
    other = ~one
    assert mask_checks.agreement(one, other) == 0


def test_masks_of_different_crops_are_not_compared() -> None:
    assert mask_checks.agreement(np.ones((10, 10), np.bool_), np.ones((10, 20), np.bool_)) is None


def test_inverted_masks_of_real_images_are_found(data_folder: Path) -> None:
    samples = [s for s in catalog.read(data_folder) if "lesion" in s.masks]
    chosen = np.random.default_rng(5).choice(len(samples), 300, replace=False)
    wrong = sum(_is_misjudged(samples[index], index % 2 == 0) for index in chosen)
    assert wrong <= 2


def _is_misjudged(sample: Sample, turned: bool) -> bool:
    mask = read_mask(sample.masks["lesion"])
    score = mask_checks.inversion_score(open_image(sample.image).pixels(), ~mask if turned else mask)
    return (score > 0) != turned


def test_all_masks_without_an_image_are_named(root: Path) -> None:
    shutil.copy(root / OWN_MASKS / "mole03.png", root / OWN_MASKS / "mole03_hair.png")
    (root / OWN / "mole03.png").unlink()
    found = [(f.kind, f.path.name) for f in checked(root) if f.severity != "note"]
    assert found == [("orphan-mask", "mole03.png"), ("orphan-mask", "mole03_hair.png")]


def test_pairs_left_out_are_no_fault(clean: Path) -> None:
    samples = [s for s in catalog.read(clean) if s.id not in ("ISIC_0009001", "mole04")]
    assert [f for f in check(samples, clean, table=TABLE) if f.severity != "note"] == []
