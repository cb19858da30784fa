"""Archives: an honest one is unpacked whole, a hostile or broken one leaves nothing behind."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dermseg.data.archive import Limits, unpacked
from dermseg.errors import DataError, DermsegError, InputError

Member = tuple[str | zipfile.ZipInfo, bytes]
HONEST: tuple[Member, ...] = (("set/a.jpg", b"first"), ("set/b.jpg", b"second"), ("set/deep/er/c.png", b""))


def make(path: Path, members: Sequence[Member], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def named(raw: str) -> zipfile.ZipInfo:
    """A member with exactly this name, which zipfile would tidy."""
    info = zipfile.ZipInfo("x")
    info.filename = raw
    return info


def of_mode(mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("set/odd")
    info.external_attr = mode << 16
    return info


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> dict[str, bytes]:
    with unpacked(archive, target, limits=limits):
        assert not target.exists()
    return content(target)


def refused(archive: Path, expected: str, error: type[DermsegError] = DataError, limits: Limits | None = None) -> None:
    """Unpacking fails with the archive's name and ``expected``, and the disk is as it was."""
    with pytest.raises(error) as caught:
        unpack(archive, archive.parent / "out" / "target", limits)
    assert archive.name in str(caught.value)
    assert expected in str(caught.value)
    assert content(archive.parent) == {archive.name: archive.read_bytes()}
    assert not list(archive.parent.glob("out/*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "set.zip"


# What is unpacked


def test_everything_is_unpacked_without_the_folder_around_it(path: Path, tmp_path: Path) -> None:
    progress: list[tuple[str, int, int | None]] = []
    make(path, [("set/", b""), *HONEST])
    with unpacked(path, tmp_path / "out", progress=lambda *now: progress.append(now)) as count:
        assert count == 3
    assert content(tmp_path / "out") == {"a.jpg": b"first", "b.jpg": b"second", "deep/er/c.png": b""}
    assert progress == [("set.zip: unpacking", 5, 11), ("set.zip: unpacking", 11, 11)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["set/a.jpg", "LICENSE.txt"], ["LICENSE.txt", "a.jpg"]),
        (["one/a.jpg", "two/a.jpg"], ["one/a.jpg", "two/a.jpg"]),
        (["set/inner/a.jpg"], ["inner/a.jpg"]),
        (["set/a.zip", "set/ä ö.jpg"], ["a.zip", "ä ö.jpg"]),
        (["set/.DS_Store", "set/a.jpg", "__MACOSX/set/._a.jpg", "set/._b", "set/Thumbs.db"], ["a.jpg"]),
    ],
)
def test_layouts(path: Path, tmp_path: Path, names: list[str], expected: list[str]) -> None:
    assert sorted(unpack(make(path, [(name, b"x") for name in names]), tmp_path / "out")) == expected


def test_a_run_that_was_killed_is_cleared_away(path: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking" / "a.jpg").mkdir(parents=True)
    assert unpack(make(path, HONEST), tmp_path / "out").keys() == {"a.jpg", "b.jpg", "deep/er/c.png"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "set.zip"]


def test_an_error_before_the_end_leaves_nothing(path: Path, tmp_path: Path) -> None:
    def fail() -> None:
        with unpacked(make(path, HONEST), tmp_path / "out"):
            raise InputError("the record cannot be written")

    with pytest.raises(InputError, match="the record"):
        fail()
    assert content(tmp_path).keys() == {"set.zip"}


def test_an_existing_folder_is_left_alone(path: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists; rename or remove it first"):
        unpack(make(path, HONEST), tmp_path / "out")


# What is refused


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "set/../../a.jpg",
        "set/..",
        "/etc/a.jpg",
        "//host/a.jpg",
        "C:/a.jpg",
        "C:a.jpg",
        "set/a.jpg:stream",
        "..\\a.jpg",
        "\\a.jpg",
        "set\\a.jpg",
        "set//a.jpg",
        "./a.jpg",
        "set/a\0.jpg",
        "set/a\n.jpg",
        "../",
    ],
)
def test_paths_that_lead_elsewhere(path: Path, name: str) -> None:
    refused(make(path, [*HONEST, (named(name), b"hostile")]), "a path that may lead out of its folder")


@pytest.mark.parametrize(
    "name",
    [
        "NUL",
        "set/CON.png",
        "aux",
        "set/Prn.tar.gz",
        "com1/a.jpg",
        "set/lpt9.txt",
        "COM\u00b2.jpg",
        "nul .jpg",
        "conin$",
        "a.jpg.",
        "a.jpg ",
        "set./a.jpg",
        "set /a.jpg",
        "...",
        "aux/",
    ],
)
def test_names_that_windows_takes_for_others(path: Path, name: str) -> None:
    refused(make(path, [*HONEST, (named(name), b"")]), "a name that Windows takes for a device or for another name")


def test_names_that_are_only_like_those_of_devices(path: Path, tmp_path: Path) -> None:
    names = ["console.jpg", "nul_1.jpg", "com10.txt", "com.png", "nuls/a.con", "com/a", ".nul", "a b.jpg", " a"]
    assert unpack(make(path, [(name, b"x") for name in names]), tmp_path / "out").keys() == set(names)


@pytest.mark.parametrize("name", ["a" * 256, "set/" + "ä" * 128, "/".join(["folder"] * 150)])
def test_names_too_long(path: Path, name: str) -> None:
    refused(make(path, [(name, b"x")]), "a name of more bytes than a disk takes")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices(path: Path, kind: int) -> None:
    refused(make(path, [*HONEST, (of_mode(kind | 0o777), b"/etc")]), "a link or device")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.jpg", "A.JPG"),
        ("set/a.jpg", "a.jpg"),
        ("s/a", "s/a/b"),
        ("s/A/b", "s/a"),
        ("\u00e4", "a\u0308"),
        ("ß", "SS"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_names_that_some_disks_take_for_one(path: Path, first: str, second: str, turned: bool) -> None:
    members = [(second, b"2"), (first, b"1")] if turned else [(first, b"1"), (second, b"2")]
    refused(make(path, members), "twice, or once as a file and once as a folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice(path: Path) -> None:
    refused(make(path, [("a.jpg", b"1"), ("a.jpg", b"2")]), "holds 'a.jpg' twice")


def test_an_encrypted_member(path: Path) -> None:
    data = bytearray(make(path, HONEST).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    refused(path, "which is encrypted")


def test_too_many_files(path: Path) -> None:
    make(path, [(f"{index}.jpg", b"") for index in range(11)])
    assert len(unpack(path, path.parent / "fits", Limits(files=11))) == 11
    shutil.rmtree(path.parent / "fits")
    refused(path, "holds 11 files where at most 10 are expected", limits=Limits(files=10))


def test_too_many_bytes(path: Path) -> None:
    make(path, [("a", bytes(600)), ("b", bytes(500))], zipfile.ZIP_STORED)
    refused(path, "unpacks to 1100 bytes where at most 1000 are expected", limits=Limits(size=1000))


def test_a_bomb(path: Path) -> None:
    refused(make(path, [("a", bytes(3_000_000))]), "more than 200 times its size, as a ZIP bomb does")


def test_members_that_share_their_bytes(path: Path) -> None:
    """Many entries of the directory that point at one member multiply what is written, not what is sent."""
    data = make(path, [("a0000", bytes(20_000))]).read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = [data[start:end].replace(b"a0000", b"a%04d" % index) for index in range(400)]
    directory = b"".join(entries)
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 400, 400, len(directory))
    path.write_bytes(data[:start] + directory + tail)
    refused(path, "ZIP bomb")


def test_a_member_larger_than_it_says(path: Path) -> None:
    data = bytearray(make(path, [("a", bytes(range(256)) * 10)]).read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)
    path.write_bytes(data)
    refused(path, "is no ZIP archive or is damaged")


def test_a_disk_too_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 0, 10))
    refused(make(path, HONEST), "GB are free; make room or choose another folder", InputError)


def test_damage(path: Path) -> None:
    data = bytearray(make(path, HONEST, zipfile.ZIP_STORED).read_bytes())
    data[data.index(b"second")] ^= 1
    path.write_bytes(data)
    refused(path, "Bad CRC-32")


@pytest.mark.parametrize("end", [0, 10, 100, -1])
def test_truncation(path: Path, end: int) -> None:
    path.write_bytes(make(path, HONEST).read_bytes()[:end])
    refused(path, "is no ZIP archive or is damaged")


def test_a_compression_that_is_not_read(path: Path) -> None:
    data = bytearray(make(path, HONEST).read_bytes())
    for magic, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(magic) + offset] = 98  # PPMd; Deflate64 (9) is read where a package adds it to zipfile
    path.write_bytes(data)
    refused(path, "compressed or divided in a way that is not read")


@pytest.mark.parametrize("members", [[], [("set/", b"")], [(".DS_Store", b"x"), ("__MACOSX/a", b"x")]])
def test_nothing_inside(path: Path, members: list[Member]) -> None:
    refused(make(path, members), "holds no files")


def test_no_archive_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.zip cannot be unpacked into .*No such file"):
        unpack(tmp_path / "missing.zip", tmp_path / "out")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=8))
@example(changes=[(0, 0)])
def test_damage_of_any_kind_has_an_error_of_ours_and_leaves_nothing(
    path: Path, tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(make(path, HONEST).read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    outside = tmp_path / "out"
    try:
        unpack(path, outside / "target")
    except DermsegError:
        assert not list(outside.glob("*"))
    else:
        assert [entry.name for entry in outside.iterdir()] == ["target"]
        shutil.rmtree(outside)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"set.zip", "out"}
