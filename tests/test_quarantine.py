"""The list of images to leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dermseg.data import catalog, quarantine
from dermseg.data.catalog import Sample
from dermseg.data.quality import Finding
from dermseg.errors import DataError, InputError
from dermseg.synthetic import write_dataset

FINDINGS = [
    Finding("empty-mask", "error", "a", "plain", Path("a.png"), "a.png is empty, all of it", None),
    Finding("leak", "error", "a", "plain", Path("a.png"), "a.png is twice there", Path("b.png")),
    Finding("leak", "error", "c", "isic2017", Path("c.png"), "c.png too"),
    Finding("duplicate", "warning", "b", "plain", Path("b.png"), "b.png"),
    Finding("hair", "note", "d", "plain", Path("d.png"), "d.png"),
]
SAMPLES = [
    Sample(id, Path(f"{id}.png"), {}, id, source, "not stated")
    for id, source in (("a", "plain"), ("b", "plain"), ("c", "plain"), ("c", "isic2017"))
]


def test_errors_are_written_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / quarantine.NAME
    samples = [replace(sample, image=tmp_path / sample.source / sample.image) for sample in SAMPLES]
    quarantine.write(FINDINGS, path, samples)
    assert path.read_text().splitlines() == [
        "id,source,kind,severity,message,path",
        'a,plain,empty-mask,error,"a.png is empty, all of it",plain/a.png',
        "a,plain,leak,error,a.png is twice there,plain/a.png",
        "c,isic2017,leak,error,c.png too,isic2017/c.png",
    ]
    assert quarantine.read(path) == [
        ("a", "plain", tmp_path / "plain/a.png"),
        ("c", "isic2017", tmp_path / "isic2017/c.png"),
    ]
    assert quarantine.keep(samples, [path]) == samples[1:3]


def test_image_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    path = tmp_path / "lists/mine.csv"
    path.parent.mkdir()
    samples = [replace(sample, image=tmp_path / "data" / sample.image) for sample in SAMPLES]
    quarantine.write(FINDINGS, path, samples)
    assert quarantine.read(path)[0].image == tmp_path / "data/a.png"
    assert quarantine.keep(samples, [path]) == samples[1:3]


def test_list_of_a_part_is_heeded_where_the_whole_is_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_dataset(tmp_path / name, 3)
    part, whole = catalog.read(tmp_path / "one"), catalog.read(tmp_path)
    assert part[0].id not in {sample.id for sample in whole}  # those of one name have their folder before it
    finding = Finding("inverted-mask", "error", part[0].id, "plain", part[0].masks["lesion"], "")
    quarantine.write([finding], tmp_path / "one" / quarantine.NAME, part)
    paths = quarantine.find(tmp_path)
    assert paths == [tmp_path / "one" / quarantine.NAME]
    left_out = set(whole) - set(quarantine.keep(whole, paths))
    assert [sample.image for sample in left_out] == [part[0].image]
    assert quarantine.keep(part, quarantine.find(tmp_path / "one")) == part[1:]


def test_user_may_edit_the_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\ufeffsource,id,why\nplain,b,blurred\n", encoding="utf-8")
    assert [sample.id for sample in quarantine.keep(SAMPLES, [path])] == ["a", "c", "c"]


def test_file_goes_before_the_id(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"id,source,path\na,plain,{SAMPLES[1].image.absolute()}\nc,plain,no/such.png\n")
    assert quarantine.keep(SAMPLES, [path]) == [SAMPLES[0], SAMPLES[3]]


def test_report_says_how_many_of_the_listed_are_left_out(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("id,source\na,plain\na,plain\nx,plain\n")
    two.write_text("id,source\na,plain\nc,isic2017\nx,plain\ny,plain\n")
    lines: list[str] = []
    quarantine.keep(SAMPLES, [one], lines.append)
    quarantine.keep(SAMPLES, [one, two], lines.append)
    quarantine.keep(SAMPLES, [], lines.append)
    assert lines == [
        f"1 of 2 images listed in {one} are left out",
        f"2 of 4 images listed in {one}, {two} are left out",
    ]


def test_without_a_list_all_are_kept(tmp_path: Path) -> None:
    assert quarantine.find(tmp_path) == quarantine.find(tmp_path / "none") == []
    assert quarantine.keep(SAMPLES, []) == SAMPLES


def test_lists_are_found_in_the_data_and_two_levels_below(tmp_path: Path) -> None:
    for folder in (".", "b", "a", "a/c", "a/c/d"):
        (tmp_path / folder).mkdir(exist_ok=True)
        quarantine.write([], tmp_path / folder / quarantine.NAME, [])
    (tmp_path / "e" / quarantine.NAME).mkdir(parents=True)
    found = quarantine.find(tmp_path)
    assert found == [tmp_path / folder / quarantine.NAME for folder in (".", "a", "b", "a/c")]
    assert quarantine.keep(SAMPLES, found) == SAMPLES


def test_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no list .*none\.csv; expected a CSV with the columns id and source"
    ):
        quarantine.keep(SAMPLES, [tmp_path / "none.csv"])


@pytest.mark.parametrize("content", [b"", b"name,why\na,b\n", b"\xff\xfe\x00id,source"])
def test_other_tables_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is no list of images to leave out"):
        quarantine.read(path)


@pytest.mark.parametrize("line", ["a,", ",plain", "a"])
def test_incomplete_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(f"id,source\nb,plain\n{line}\n")
    with pytest.raises(DataError, match=r"odd\.csv, line 3: id and source must both be given"):
        quarantine.read(path)
