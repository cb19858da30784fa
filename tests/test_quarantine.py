"""The list of images to leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dermseg.data import quarantine
from dermseg.data.catalog import Sample
from dermseg.data.quality import Finding
from dermseg.errors import DataError, InputError

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
    quarantine.write(FINDINGS, path)
    assert path.read_text().splitlines() == [
        "id,source,kind,severity,message",
        'a,plain,empty-mask,error,"a.png is empty, all of it"',
        "a,plain,leak,error,a.png is twice there",
        "c,isic2017,leak,error,c.png too",
    ]
    assert quarantine.read(path) == {("a", "plain"), ("c", "isic2017")}
    assert quarantine.keep(SAMPLES, path) == SAMPLES[1:3]


def test_user_may_edit_the_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\ufeffsource,id,why\nplain,b,blurred\n", encoding="utf-8")
    assert [sample.id for sample in quarantine.keep(SAMPLES, path)] == ["a", "c", "c"]


def test_without_a_list_all_are_kept(tmp_path: Path) -> None:
    assert quarantine.find(tmp_path) is None
    assert quarantine.keep(SAMPLES, None) == SAMPLES


def test_list_is_found_beside_the_data(tmp_path: Path) -> None:
    quarantine.write([], tmp_path / "quarantine.csv")
    assert quarantine.find(tmp_path) == tmp_path / "quarantine.csv"
    assert quarantine.keep(SAMPLES, quarantine.find(tmp_path)) == SAMPLES


def test_missing_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no list .*none\.csv; expected a CSV with the columns id and source"
    ):
        quarantine.keep(SAMPLES, tmp_path / "none.csv")


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
