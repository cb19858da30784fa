"""Data sets: what is asked for lies where the catalogue looks, verified, or a sentence says how to get it by hand."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dermseg.data import catalog, sources
from dermseg.data.archive import Limits
from dermseg.data.download import LICENCE, MIRROR, RECORD, UNDER_WAY, Downloaded, download
from dermseg.data.sources import DATA_SETS, ISIC, Archive, DataSet, find
from dermseg.data.transfer import Patience
from dermseg.errors import DataError, DermsegError, InputError
from dermseg.imaging import encode_image
from tests.file_server import Answer, FileServer, serving

QUICK = Patience(attempts=3, pause=0.0, timeout=5.0)
IMAGE = encode_image(np.full((8, 8, 3), 200, np.uint8), "JPEG")
MASK = encode_image(np.full((8, 8), 255, np.uint8))
METADATA = b"lesion_id,image_id,dx\nHAM_1,ISIC_0000001,nv\n"
VALIDATION = "isic2017:validation"
DATA, TRUTH = "ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"
DATA_PATH, TRUTH_PATH = f"/2017/{DATA}.zip", f"/2017/{TRUTH}.zip"
NOISE = np.random.default_rng(0).bytes(400_000)


def zipped(folder: str, names: Sequence[str], content: bytes = IMAGE) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(f"{folder}{name}"), content)
    return buffer.getvalue()


def masks_of(path: str, id: str) -> list[str]:
    if "Task2" in path:
        return [f"{id}_attribute_{name}.png" for name in catalog.ATTRIBUTES]
    return [f"{id}_{'S' if '2016' in path else 's'}egmentation.png"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of all data sets, one image in each part."""
    with serving(monkeypatch) as server:
        parts = {None: "ISIC_0000001", "train": "ISIC_0000002", "validation": "ISIC_0000003", "test": "ISIC_0000004"}
        for archive in {archive for dataset in DATA_SETS for archive in dataset.archives}:
            is_truth, id = re.search("GroundTruth|segment", archive.name), parts[archive.part]
            id = "ISIC_0000005" if archive.name.endswith("part_2.zip") else id
            names = masks_of(archive.path, id) if is_truth else [f"{id}.jpg", f"{id}_superpixels.png"]
            # HAM10000's archives of images hold no folder.
            folder = "" if archive.doi and not is_truth else f"{archive.target}/"
            content = zipped(folder, names, MASK if is_truth else IMAGE) if archive.is_zip else METADATA
            server.files[f"/{archive.path}"] = content
        yield server


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, server: FileServer) -> Archive:
    """A data set of one archive, whose hash is published."""
    server.files["/drawn/drawn.zip"] = content = zipped("drawn/", ["a.bin"], NOISE)
    archive = Archive("drawn/drawn.zip", sha256=hashlib.sha256(content).hexdigest())
    dataset = DataSet("drawn", "Drawn", "drawn", "CC0-1.0", "nobody", {"all": 1}, (archive,))
    monkeypatch.setattr(sources, "DATA_SETS", (dataset,))
    return archive


class Downloader:
    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.lines: list[str] = []

    def __call__(self, *names: str, mirror: bool = True, **arguments: Any) -> list[Downloaded]:
        self.lines.clear()
        address = self.server.address if mirror else None
        settings = {"base_url": address, "patience": QUICK, "report": self.lines.append} | arguments
        return download(names, self.folder, **settings)

    def fails(self, *names: str, error: type[DermsegError] = DataError, **arguments: Any) -> str:
        with pytest.raises(error) as caught:
            self(*names, **arguments)
        return str(caught.value)

    def said(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@pytest.fixture
def fetch(server: FileServer, tmp_path: Path) -> Downloader:
    return Downloader(server, tmp_path / "data")


def record(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((folder / RECORD).read_text())
    return found


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / UNDER_WAY).iterdir() if path.name != "lock")


# The table


def test_the_table_is_consistent() -> None:
    assert len({dataset.name for dataset in DATA_SETS}) == len(DATA_SETS)
    for dataset in DATA_SETS:
        assert bool(dataset.archives) != bool(dataset.note)
        assert {archive.part for archive in dataset.archives} <= {None, *dataset.images}
        assert dataset.folder in catalog.SOURCES
        for archive in dataset.archives:
            assert archive.sha256 is None or re.fullmatch("[0-9a-f]{64}", archive.sha256)
            assert archive.url.startswith("https://doi.org/" if archive.doi else ISIC)
            assert "/" not in archive.target


def test_licences_are_those_of_the_catalogue() -> None:
    layouts = {layout.source: layout.licence for layout in catalog.LAYOUTS}
    assert {dataset.folder: dataset.licence for dataset in DATA_SETS} == {
        dataset.folder: layouts[dataset.folder] for dataset in DATA_SETS
    }


def test_parts_are_found_by_name() -> None:
    dataset, archives = find("isic2018-task1:test")
    assert dataset.title == "ISIC 2018 Task 1 (lesions)"
    names = ["ISIC2018_Task1-2_Test_Input.zip", "ISIC2018_Task1_Test_GroundTruth.zip"]
    assert [archive.name for archive in archives] == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("isic2071", "there is no data set 'isic2071'; did you mean 'isic2017'? Choose from: isic2016, "),
        ("", "there is no data set ''; "),
        ("isic2016:validation", "isic2016 has no part 'validation'; choose from: isic2016:train, isic2016:test"),
        ("isic2017:", "isic2017 has no part ''; choose from: "),
        ("ham10000:train", "ham10000 has no part 'train'; expected 'ham10000'"),
        ("ph2:all", "ph2 has no part 'all'; expected 'ph2'"),
    ],
)
def test_names_that_do_not_exist(fetch: Downloader, name: str, message: str) -> None:
    assert fetch.fails("isic2017", name, error=InputError).startswith(message)
    assert not fetch.folder.exists()


# What goes well


def test_the_catalogue_reads_what_was_downloaded(
    fetch: Downloader, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpublished = [
        replace(dataset, archives=tuple(replace(archive, sha256=None) for archive in dataset.archives))
        for dataset in DATA_SETS
    ]
    monkeypatch.setattr(sources, "DATA_SETS", unpublished)
    names = [dataset.name for dataset in DATA_SETS if dataset.archives]
    done = fetch(*names)
    assert len(done) == len({result.name for result in done}) == len(server.log) == 4 + 6 + 9 + 4
    samples = catalog.read(fetch.folder)
    found = [(sample.source, sample.id[-1], sample.part, sorted(sample.masks)) for sample in samples]
    lesion, all_classes = ["lesion"], sorted(["lesion", *catalog.ATTRIBUTES])
    assert found == [
        ("isic2016", "2", "train", lesion),
        ("isic2016", "4", "test", lesion),
        ("isic2017", "2", "train", lesion),
        ("isic2017", "3", "validation", lesion),
        ("isic2017", "4", "test", lesion),
        ("isic2018", "2", "train", all_classes),
        ("isic2018", "3", "validation", all_classes),
        ("isic2018", "4", "test", all_classes),
        ("ham10000", "1", None, lesion),
        ("ham10000", "5", None, []),
    ]
    assert left_over(fetch.folder) == []


def test_a_part_is_downloaded_recorded_and_licensed(fetch: Downloader, server: FileServer) -> None:
    done = fetch(VALIDATION)
    home = fetch.folder / "isic2017"
    assert [(result.path, result.outcome) for result in done] == [
        (home / DATA, "downloaded"),
        (home / TRUTH, "downloaded"),
    ]
    digest = hashlib.sha256(server.files[DATA_PATH]).hexdigest()
    assert done[0].sha256 == digest
    entry = record(home)[f"{DATA}.zip"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.pop("date"))
    assert entry.pop("dermseg")
    assert entry == {
        "url": f"{ISIC}2017/{DATA}.zip",
        "fetched_from": server.address,
        "sha256": digest,
        "sha256_published": False,
        "bytes": len(server.files[DATA_PATH]),
        "licence": "CC0-1.0",
    }
    notice = (home / LICENCE).read_text()
    assert "Licence: CC0-1.0" in notice
    assert "arXiv:1710.05006" in notice
    assert f"{ISIC}2017/{DATA}.zip" in notice
    assert fetch.lines[0].startswith("ISIC 2017 Part 1: licence CC0-1.0; to cite: Codella et al.")
    assert fetch.said(f"no SHA-256 is published; this one's is recorded in {home / RECORD}: {digest}")


def test_a_second_call_does_nothing_and_says_so(fetch: Downloader, server: FileServer) -> None:
    first = fetch(VALIDATION)
    before = {path: path.stat().st_mtime_ns for path in (fetch.folder / "isic2017").rglob("*")}
    server.log.clear()
    second = fetch(VALIDATION)
    assert server.log == []
    assert [replace(result, outcome="downloaded") for result in second] == first
    assert {result.outcome for result in second} == {"present"}
    assert {path: path.stat().st_mtime_ns for path in (fetch.folder / "isic2017").rglob("*")} == before
    assert fetch.said(f"{DATA}.zip: {fetch.folder / 'isic2017' / DATA} is there")


def test_archives_that_data_sets_share_are_fetched_once(fetch: Downloader, server: FileServer) -> None:
    message = fetch.fails("isic2018-task1:test", "isic2018-task2:test", "isic2018-task2:test")
    # The drawn archives differ from the published ones, which are two of these three.
    assert message.startswith("2 of 3 could not be put in place:")
    assert len(server.asked("/2018/ISIC2018_Task1-2_Test_Input.zip")) == 1


def test_the_mirror_of_the_environment(fetch: Downloader, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, server.address + "/")
    assert len(fetch(VALIDATION, mirror=False)) == 2


def test_a_published_hash_is_confirmed(fetch: Downloader, drawn: Archive) -> None:
    (result,) = fetch("drawn")
    assert result.sha256 == drawn.sha256
    assert record(fetch.folder / "drawn")["drawn.zip"]["sha256_published"] is True
    assert fetch.said("drawn.zip: its SHA-256 is the published one")


def test_progress_is_told_for_fetching_and_unpacking(fetch: Downloader, drawn: Archive, server: FileServer) -> None:
    told: dict[str, tuple[int, int | None]] = {}
    fetch("drawn", progress=lambda title, done, total: told.update({title: (done, total)}))
    size = len(server.files["/drawn/drawn.zip"])
    assert told == {"drawn.zip": (size, size), "drawn.zip: unpacking": (len(NOISE), len(NOISE))}


def test_what_lies_there_by_hand_is_left_alone(fetch: Downloader, server: FileServer) -> None:
    own = fetch.folder / "isic2017" / DATA / "own.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    done = fetch(VALIDATION)
    assert [(result.outcome, result.sha256 is None) for result in done] == [("present", True), ("downloaded", False)]
    assert own.read_bytes() == b"mine"
    assert fetch.said("put there by hand: left as it is, not checked")
    assert server.asked(DATA_PATH) == []


# Later downloads


def test_a_later_download_is_compared_with_the_first(fetch: Downloader, server: FileServer) -> None:
    fetch(VALIDATION)
    home = fetch.folder / "isic2017"
    first = record(home)
    shutil.rmtree(home / DATA)
    fetch(VALIDATION)
    assert fetch.said(f"its SHA-256 is that of the first download, of {first[f'{DATA}.zip']['date']}")
    assert record(home) == first
    shutil.rmtree(home / DATA)
    server.files[DATA_PATH] = zipped(f"{DATA}/", ["ISIC_9999999.jpg"])
    message = fetch.fails(VALIDATION)
    assert f"what the server sent has another hash than the first download had, of {first[f'{DATA}.zip']['date']}" in (
        message
    )
    assert not (home / DATA).exists()
    (home / RECORD).unlink()
    fetch(VALIDATION)
    assert [path.name for path in (home / DATA).iterdir()] == ["ISIC_9999999.jpg"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {}}'])
def test_a_spoilt_record_is_named(fetch: Downloader, content: str) -> None:
    path = fetch.folder / "isic2017" / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert f"{path} is no record of downloads; remove it" in fetch.fails(VALIDATION)


# What breaks off

KILLED = """
import sys
from dermseg.data.download import download
download([sys.argv[1]], sys.argv[2], base_url=sys.argv[3])
"""


def test_a_killed_process_is_completed_with_the_missing_bytes_alone(fetch: Downloader, server: FileServer) -> None:
    server.files[DATA_PATH] = content = zipped(f"{DATA}/", ["ISIC_0000003.jpg"], NOISE * 5)
    hold = threading.Event()
    server.script[DATA_PATH] = [Answer(cut_after=1_200_000, hold=hold)]
    arguments = [sys.executable, "-c", KILLED, VALIDATION, str(fetch.folder), server.address]
    part = fetch.folder / UNDER_WAY / f"{DATA}.zip.part"
    with subprocess.Popen(arguments) as process:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 1_000_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    hold.set()
    kept = part.stat().st_size
    assert not (fetch.folder / "isic2017").exists()
    fetch(VALIDATION)
    assert server.asked(DATA_PATH) == [None, f"bytes={kept}-"]
    assert server.log[1].sent == len(content) - kept
    assert (fetch.folder / "isic2017" / DATA / "ISIC_0000003.jpg").read_bytes() == NOISE * 5
    assert left_over(fetch.folder) == []
    assert fetch.said(f"{DATA}.zip: goes on after {kept / 1e6:.1f} MB")


@pytest.mark.parametrize("place", ["dermseg.data.download.unpacked", "dermseg.data.download.write_bytes"])
def test_a_process_killed_after_the_download_fetches_nothing_again(
    fetch: Downloader, server: FileServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*arguments: object, **keywords: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, die)
        with pytest.raises(Killed):
            fetch(VALIDATION)
    (fetch.folder / UNDER_WAY / "tmp0").write_bytes(b"pooch's own, of a process that was killed")
    assert not (fetch.folder / "isic2017" / DATA).exists()
    fetch(VALIDATION)
    assert len(server.asked(DATA_PATH)) == 1
    assert left_over(fetch.folder) == []
    assert len(catalog.read(fetch.folder)) == 1


def test_a_cut_connection_is_mended(fetch: Downloader, drawn: Archive, server: FileServer) -> None:
    server.script["/drawn/drawn.zip"] = [Answer(cut_after=300_000)]
    assert fetch("drawn")[0].outcome == "downloaded"
    assert [request.status for request in server.log] == [200, 206]


def test_parts_that_do_not_fit_are_fetched_anew_once(fetch: Downloader, drawn: Archive, server: FileServer) -> None:
    path = "/drawn/drawn.zip"
    server.script[path] = [Answer(cut_after=300_000, flip=100_000)]
    assert fetch("drawn")[0].outcome == "downloaded"
    assert fetch.said("its parts do not make the right file; fetching it anew")
    shutil.rmtree(fetch.folder)
    server.log.clear()
    server.script[path] = [Answer(cut_after=300_000, flip=100_000), Answer(), Answer(cut_after=300_000, flip=9)]
    assert "another hash than the published one" in fetch.fails("drawn")
    assert len(server.log) == 4


def test_two_downloads_into_one_folder(fetch: Downloader, server: FileServer) -> None:
    messages = []

    def meddle(title: str, done: int, total: int | None) -> None:
        other = Downloader(server, fetch.folder)
        messages.append(other.fails(VALIDATION, error=InputError))

    fetch(VALIDATION, progress=meddle)
    assert set(messages) == {f"another download into {fetch.folder} is running; wait until it has ended"}


# What fails


def test_one_failure_does_not_stop_the_others(fetch: Downloader, server: FileServer) -> None:
    del server.files[DATA_PATH]
    message = fetch.fails(VALIDATION, "ph2")
    assert message.splitlines() == [
        "2 of 3 could not be put in place:",
        f"- {DATA}.zip: the server answered 404 Not Found; download {DATA}.zip in a browser from {ISIC}2017/{DATA}.zip "
        "into a folder and repeat with --from that folder",
        "- PH2 cannot be downloaded: the ADDI project gives it on request; unpack it so that the images lie in "
        "'ph2/PH2 Dataset images/IMDxxx/IMDxxx_Dermoscopic_Image/IMDxxx.bmp' below the folder of the data sets",
    ]
    assert (fetch.folder / "isic2017" / TRUTH).is_dir()


def test_corrupted_bytes_are_noticed_by_the_published_hash(
    fetch: Downloader, drawn: Archive, server: FileServer
) -> None:
    server.script["/drawn/drawn.zip"] = [Answer(flip=2000)]
    message = fetch.fails("drawn")
    assert (
        f"what the server sent has another hash than the published one, {drawn.sha256}; download drawn.zip" in message
    )
    assert left_over(fetch.folder) == []
    assert not (fetch.folder / "drawn").exists()
    fetch("drawn")


def test_corrupted_bytes_are_noticed_by_the_archive_itself(fetch: Downloader, server: FileServer) -> None:
    server.script[DATA_PATH] = [Answer(flip=200)]
    assert f"{DATA}.zip is no ZIP archive or is damaged (Bad CRC-32" in fetch.fails(VALIDATION)
    assert f"{DATA}.zip" not in record(fetch.folder / "isic2017")
    assert left_over(fetch.folder) == []
    assert fetch(VALIDATION)[0].outcome == "downloaded"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><html>Log in</html>", "is a web page (HTML), not the file"),
        (b"<html>", "is a web page (HTML), not the file"),
        (b"Rar!\x1a\x07\x00", "is no ZIP archive; it begins with b'Rar!"),
        (b"", "is no ZIP archive; it begins with b''"),
    ],
)
def test_what_is_no_archive_is_recognised_and_not_kept(
    fetch: Downloader, server: FileServer, body: bytes, said: str
) -> None:
    server.script[DATA_PATH] = [Answer(body=body)]
    assert f"{DATA}.zip: {said}" in fetch.fails(VALIDATION)
    assert left_over(fetch.folder) == []
    fetch(VALIDATION)


def test_a_hostile_archive_leaves_nothing(fetch: Downloader, server: FileServer, tmp_path: Path) -> None:
    server.files[DATA_PATH] = zipped("", ["../../escaped.jpg", "a.jpg"])
    assert "a path that may lead out of its folder" in fetch.fails(VALIDATION)
    assert not list(tmp_path.rglob("escaped*"))
    assert sorted(path.name for path in (fetch.folder / "isic2017").iterdir()) == sorted([TRUTH, RECORD, LICENCE])


def test_limits_are_those_of_the_call(fetch: Downloader) -> None:
    assert "where at most 1 are expected" in fetch.fails(VALIDATION, limits=Limits(files=1))


def test_a_full_disk_is_named_and_keeps_the_download(
    fetch: Downloader, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(archive: Path, target: Path, **keywords: object) -> None:
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patched:
        patched.setattr("dermseg.data.download.unpacked", full)
        assert f"{DATA}.zip cannot be written ([Errno 28] No space left on device" in fetch.fails(VALIDATION)
    fetch(VALIDATION)
    assert len(server.asked(DATA_PATH)) == 1


def test_a_disk_too_small_for_the_download(fetch: Downloader, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 0, 10))
    message = fetch.fails(VALIDATION)
    assert re.search(
        rf"{DATA}.zip needs .* GB in .*, where 1e-08 GB are free; make room or choose another folder", message
    )


def test_a_folder_that_is_a_file(fetch: Downloader) -> None:
    fetch.folder.write_text("not a folder")
    assert "cannot be made a folder" in fetch.fails(VALIDATION, error=InputError)


# Files fetched by hand


@pytest.fixture
def by_hand(server: FileServer, tmp_path: Path) -> Path:
    folder = tmp_path / "Downloads"
    folder.mkdir()
    for path in (DATA_PATH, TRUTH_PATH):
        (folder / Path(path).name).write_bytes(server.files[path])
    return folder


def test_files_fetched_by_hand_are_used_and_kept(fetch: Downloader, by_hand: Path, server: FileServer) -> None:
    before = {path.name: path.read_bytes() for path in by_hand.iterdir()}
    done = fetch(VALIDATION, fetched=by_hand)
    assert {result.outcome for result in done} == {"taken"}
    assert {path.name: path.read_bytes() for path in by_hand.iterdir()} == before
    assert len(catalog.read(fetch.folder)) == 1
    assert record(fetch.folder / "isic2017")[f"{DATA}.zip"]["fetched_from"] == "a file fetched by hand"
    assert server.log == []


def test_a_file_that_is_not_there_is_not_downloaded(fetch: Downloader, by_hand: Path, server: FileServer) -> None:
    (by_hand / f"{DATA}.zip").unlink()
    message = fetch.fails(VALIDATION, fetched=by_hand)
    assert f"{DATA}.zip is not in {by_hand}; download it in a browser from {ISIC}2017/{DATA}.zip into it" in message
    assert (fetch.folder / "isic2017" / TRUTH).is_dir()
    assert server.log == []


def test_a_file_fetched_by_hand_is_verified(fetch: Downloader, drawn: Archive, tmp_path: Path) -> None:
    wrong = tmp_path / "drawn.zip"
    wrong.write_bytes(zipped("drawn/", ["a.bin"], b"other"))
    message = fetch.fails("drawn", fetched=tmp_path)
    assert f"{wrong} has another SHA-256 than the published one, {drawn.sha256}; download drawn.zip" in message
    assert f"into {tmp_path} and repeat with --from {tmp_path}" in message
    assert wrong.exists()


def test_a_page_saved_by_hand_is_recognised(fetch: Downloader, by_hand: Path) -> None:
    (by_hand / f"{DATA}.zip").write_text("<!doctype html><p>Log in</p>")
    assert f"{DATA}.zip: is a web page (HTML), not the file" in fetch.fails(VALIDATION, fetched=by_hand)


def test_a_part_of_a_download_is_dropped_once_the_file_came_by_hand(
    fetch: Downloader, by_hand: Path, server: FileServer
) -> None:
    server.files[DATA_PATH] = zipped(f"{DATA}/", ["ISIC_0000003.jpg"], NOISE)
    server.script[DATA_PATH] = [Answer(cut_after=300_000)]
    fetch.fails(VALIDATION, patience=Patience(attempts=1))
    assert left_over(fetch.folder) == [f"{DATA}.zip.part", f"{DATA}.zip.part.json"]
    fetch(VALIDATION, fetched=by_hand)
    assert left_over(fetch.folder) == []


def test_a_folder_of_files_that_does_not_exist(fetch: Downloader, tmp_path: Path) -> None:
    message = fetch.fails(VALIDATION, fetched=tmp_path / "missing", error=InputError)
    assert message.endswith("missing is no folder; expected the one with the files that were fetched by hand")


# HAM10000 and its repository

TABBED = b'"lesion_id"\timage_id\tdx\n"HAM_1"\tISIC_0000001\t"nv"\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("HAM10000_metadata.csv", METADATA),
        ("HAM10000_metadata", b"\xef\xbb\xbf" + METADATA.replace(b"\n", b"\r\n")),
        ("HAM10000_metadata.tab", TABBED),
    ],
)
def test_the_table_of_ham10000_in_each_of_its_forms(
    fetch: Downloader, server: FileServer, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = tmp_path / "Downloads"
    folder.mkdir()
    for archive in find("ham10000")[1]:
        (folder / archive.name).write_bytes(server.files[f"/{archive.path}"])
    (folder / "HAM10000_metadata.csv").unlink()
    (folder / name).write_bytes(content)
    fetch("ham10000", fetched=folder)
    assert (fetch.folder / "ham10000" / "HAM10000_metadata.csv").read_bytes() == METADATA
    groups = [sample.group for sample in catalog.read(fetch.folder)]
    assert groups == ["HAM_1", "ISIC_0000005"]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b'{"status": "ERROR"}'])
def test_what_is_no_table_of_ham10000(fetch: Downloader, server: FileServer, content: bytes) -> None:
    server.files["/ham10000/HAM10000_metadata.csv"] = content
    message = fetch.fails("ham10000")
    assert message.startswith("1 of 4 could not be put in place:")
    assert "HAM10000_metadata.csv in a browser from https://doi.org/10.7910/DVN/DBW86T into a folder" in message
    assert left_over(fetch.folder) == []


@pytest.fixture
def dataverse(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The server as the Dataverse that HAM10000's DOI leads to."""
    listing = []
    for number, archive in enumerate(find("ham10000")[1]):
        content = server.files.pop(f"/{archive.path}")
        place = f"/api/access/datafile/{number}"
        server.files[place if archive.is_zip else f"{place}?format=original"] = content
        name, digest = archive.name.replace(".csv", ".tab"), hashlib.md5(content).hexdigest()
        digest = digest if archive.is_zip else "0" * 32
        listing.append({"dataFile": {"id": number, "filename": name, "md5": digest}})
    listing.append({"dataFile": {"id": 99, "filename": "ISIC2018_Task3_Test_Images.zip", "md5": "0" * 32}})
    answer = json.dumps({"data": {"latestVersion": {"files": listing}}}).encode()
    server.files["/api/datasets/:persistentId?persistentId=doi:10.7910/DVN/DBW86T"] = answer
    monkeypatch.setattr("pooch.downloaders.doi_to_url", lambda doi, **keywords: f"{server.address}/citation")
    return server


def test_ham10000_comes_from_the_repository_of_its_doi(fetch: Downloader, dataverse: FileServer) -> None:
    done = fetch("ham10000", mirror=False)
    assert {result.outcome for result in done} == {"downloaded"}
    assert [sample.id for sample in catalog.read(fetch.folder)] == ["ISIC_0000001", "ISIC_0000005"]


def test_the_hash_of_the_repository_is_checked(fetch: Downloader, dataverse: FileServer) -> None:
    dataverse.script["/api/access/datafile/2"] = [Answer(body=zipped("", ["ISIC_0000001.jpg"], b"other"))]
    message = fetch.fails("ham10000", mirror=False)
    assert message.startswith("1 of 4 could not be put in place:")
    assert "HAM10000_images_part_1.zip: what the server sent has another hash than its repository names" in message


@pytest.mark.parametrize(
    "answer",
    [Answer(404, {}, b""), Answer(200, {}, b"<html>"), Answer(200, {}, b'{"data": {}}'), Answer(200, {}, b"[]")],
)
def test_a_repository_that_does_not_answer_as_one(fetch: Downloader, dataverse: FileServer, answer: Answer) -> None:
    path = "/api/datasets/:persistentId?persistentId=doi:10.7910/DVN/DBW86T"
    dataverse.script[path] = [answer] * 9
    message = fetch.fails("ham10000", mirror=False)
    assert message.startswith("4 of 4 could not be put in place:")
    assert message.count("was not found in the repository of doi:10.7910/DVN/DBW86T") == 4
    assert message.count("in a browser from https://doi.org/10.7910/DVN/DBW86T") == 4


def test_a_repository_that_cannot_be_reached(
    fetch: Downloader, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.downloaders.doi_to_url", lambda doi, **keywords: "http://127.0.0.1:9/citation")
    assert "was not found in the repository of doi:" in fetch.fails("ham10000", mirror=False)
