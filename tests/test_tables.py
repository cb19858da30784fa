"""CSV files with a header."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg.data import tables
from dermseg.errors import DataError

# Before Python 3.13 a lone carriage return is not quoted.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@given(st.lists(st.tuples(CELLS, CELLS)))
def test_what_is_written_is_read(rows: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        tables.write(path, ("one", "other"), rows)
        assert [tuple(row.values()) for row in tables.read(path, ("other",), "table")] == rows


def test_tabs_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "table.tab").write_bytes(b"one\tother\na, b\tc\n")
    assert tables.read(tmp_path / "table.tab", ("one",), "table") == [{"one": "a, b", "other": "c"}]


def test_no_rows_leave_the_header(tmp_path: Path) -> None:
    tables.write(tmp_path / "table.csv", ("one", "other"), [])
    assert (tmp_path / "table.csv").read_bytes() == b"one,other\n"
    assert tables.read(tmp_path / "table.csv", ("one", "other"), "table") == []


def test_a_row_too_short_has_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbfone,other\r\na\r\n")
    assert tables.read(tmp_path / "table.csv", ("one",), "table") == [{"one": "a", "other": ""}]


@pytest.mark.parametrize("content", [b"", b"one\na\n", b"\xff\xfe\x00\x81", b'one,other\n"a' + b"a" * 200_000])
def test_another_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        tables.read(tmp_path / "table.csv", ("one", "other"), "list of things")
    assert str(caught.value) == f"{tmp_path}/table.csv is no list of things: expected a CSV with the columns one, other"
