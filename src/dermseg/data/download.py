"""Fetches, verifies and unpacks the public data sets of ``dermseg.data.sources``.

Below the folder of the data sets each has one of its own, with ``downloads.json`` (addresses, hashes, dates) and
``LICENCE.txt``. An archive's folder appears there, complete, once all has been checked, so that its presence says
that it is done. What is under way lies in ``.downloads`` and is used by the next call, whenever this one ends.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from filelock import FileLock, Timeout

from dermseg._version import __version__
from dermseg.data import tables
from dermseg.data.archive import Limits, Progress, unpacked
from dermseg.data.sources import ISIC, Archive, DataSet, find
from dermseg.data.transfer import Patience, Report, ResumingDownloader
from dermseg.errors import DataError, DermsegError, InputError
from dermseg.imaging import make_folder, write_bytes

MIRROR = "DERMSEG_MIRROR"
"""The environment variable with the address of a mirror, below which files lie as ``Archive.path`` says."""
RECORD, LICENCE = "downloads.json", "LICENCE.txt"
"""What is written into a data set's folder."""
UNDER_WAY = ".downloads"

Outcome = Literal["downloaded", "taken", "present"]


@dataclass(frozen=True)
class Downloaded:
    """A file of a data set that is in place.

    Attributes:
        name: The file's name.
        path: The folder it was unpacked into, or the table.
        outcome: "downloaded", "taken" from the folder of files fetched by hand, or "present" before.
        sha256: Of the file; None where it was put there by hand.
    """

    name: str
    path: Path
    outcome: Outcome
    sha256: str | None


def _quiet(*_: object) -> None:
    """Tells nobody."""


def download(
    names: Sequence[str],
    folder: str | Path,
    *,
    fetched: str | Path | None = None,
    base_url: str | None = None,
    patience: Patience | None = None,
    limits: Limits | None = None,
    progress: Progress = _quiet,
    report: Report = _quiet,
) -> list[Downloaded]:
    """Put data sets in place; what is there is left alone, and what was broken off goes on.

    Args:
        names: Data sets of ``DATA_SETS``, such as ``isic2017``, or parts of them, such as ``isic2017:train``.
        folder: The folder of the data sets.
        fetched: A folder with files fetched by hand, of their official names: they are used, unchanged, and the
            network is not.
        base_url: A mirror's address; ``$DERMSEG_MIRROR``, else the publishers' own, if None.
        patience: How long to try; ``Patience()`` if None.
        limits: What an archive may unpack to; ``Limits()`` if None.
        progress: Called while bytes are fetched and unpacked.
        report: Called with a line for each thing a user may want to know: licence, what is there, retries, hashes.

    Returns:
        What is in place, once for each file.

    Raises:
        InputError: There is no such data set, or a folder cannot be used.
        DataError: Some files could not be put in place; it names all of them, and the others are there.
    """
    wanted = [find(name) for name in names]
    if fetched is not None and not Path(fetched).is_dir():
        raise InputError(f"{fetched} is no folder; expected the one with the files that were fetched by hand")
    make_folder(Path(folder) / UNDER_WAY)
    job = _Job(
        root=Path(folder),
        fetched=None if fetched is None else Path(fetched),
        mirror=base_url or os.environ.get(MIRROR),
        patience=patience or Patience(),
        limits=limits or Limits(),
        progress=progress,
        report=report,
    )
    done: dict[str, Downloaded] = {}
    failures: dict[str, DermsegError] = {}
    try:
        with FileLock(job.under_way / "lock", timeout=0):
            for dataset in dict.fromkeys(dataset for dataset, _ in wanted):
                report(f"{dataset.title}: licence {dataset.licence}; to cite: {dataset.citation}")
            for dataset, archives in wanted:
                if not archives:
                    failures[dataset.name] = InputError(f"{dataset.title} cannot be downloaded: {dataset.note}")
                for archive in archives:
                    if archive.path not in done.keys() | failures.keys():
                        try:
                            done[archive.path] = job.obtain(dataset, archive)
                        except DermsegError as error:
                            failures[archive.path] = error
                        except OSError as error:  # a full disk, a folder without permission
                            failures[archive.path] = InputError(f"{archive.name} cannot be written ({error})")
    except Timeout as error:
        raise InputError(f"another download into {folder} is running; wait until it has ended") from error
    if failures:
        count = f"{len(failures)} of {len(done) + len(failures)} could not be put in place"
        raise DataError("\n".join([f"{count}:", *(f"- {error}" for error in failures.values())]))
    return list(done.values())


@dataclass(frozen=True)
class _Job:
    """What one call of ``download`` was asked for."""

    root: Path
    fetched: Path | None
    mirror: str | None
    patience: Patience
    limits: Limits
    progress: Progress
    report: Report

    @property
    def under_way(self) -> Path:
        return self.root / UNDER_WAY

    def obtain(self, dataset: DataSet, archive: Archive) -> Downloaded:
        """Puts one file in place."""
        home = self.root / dataset.folder
        target = home / archive.target
        entry = _records(home).get(archive.name)
        if target.exists():
            by_hand = "" if entry else ", put there by hand: left as it is, not checked"
            self.report(f"{archive.name}: {target} is there{by_hand}")
            return Downloaded(archive.name, target, "present", entry["sha256"] if entry else None)
        download = self.under_way / archive.name
        try:
            path = self._retrieve(archive, entry) if self.fetched is None else self._take(archive, entry, self.fetched)
            sha256 = self._place(dataset, archive, entry, path, target)
        except DataError as error:
            download.unlink(missing_ok=True)  # complete, but of no use
            where = self.fetched or "a folder"
            raise DataError(
                f"{error}; download {archive.name} in a browser from {archive.url} into {where} and repeat with "
                f"--from {self.fetched or 'that folder'}"
            ) from error
        for leftover in self.under_way.glob(f"{archive.name}*"):
            leftover.unlink()
        self.report(f"{archive.name}: is in {target}")
        return Downloaded(archive.name, target, "taken" if self.fetched else "downloaded", sha256)

    def _take(self, archive: Archive, entry: Mapping[str, Any] | None, folder: Path) -> Path:
        """Finds and verifies a file that was fetched by hand."""
        # A table's suffix depends on how the browser asked for it.
        names = [archive.name] if archive.is_zip else [archive.target, Path(archive.target).stem]
        names += [] if archive.is_zip else [f"{names[-1]}.tab"]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise InputError(f"{archive.name} is not in {folder}; download it in a browser from {archive.url} into it")
        _check_content(archive, path)
        expected = _expected(archive, entry)
        if expected and pooch.file_hash(path) != expected:
            raise DataError(_mismatch(archive, entry, path))
        return path

    def _retrieve(self, archive: Archive, entry: Mapping[str, Any] | None) -> Path:
        """Downloads and verifies a file."""
        pooch.get_logger().setLevel(logging.WARNING)  # what it says is said by ``report``
        for stray in self.under_way.glob("tmp*"):  # pooch's, of a process that was killed
            stray.unlink()
        downloader = ResumingDownloader(
            part=self.under_way / f"{archive.name}.part",
            patience=self.patience,
            progress=self.progress,
            report=self.report,
            check=lambda path: _check_content(archive, path),
            most=self.limits.size,
        )
        url, offered = self._address(archive)
        expected = _expected(archive, entry) or offered
        anew = False
        while True:
            downloader.resumed = False
            try:
                path = pooch.retrieve(url, expected, archive.name, self.under_way, downloader=downloader)
            except ValueError as error:  # another hash
                downloader.discard()
                if anew or not downloader.resumed:
                    raise DataError(_mismatch(archive, entry, None)) from error
                anew = True
                self.report(f"{archive.name}: its parts do not make the right file; fetching it anew")
            else:
                downloader.discard()  # the same bytes, under another name
                return Path(path)

    def _address(self, archive: Archive) -> tuple[str, str | None]:
        """Where a file is, and the hash that its repository gives for it, if it gives one."""
        if self.mirror is not None:
            return f"{self.mirror.rstrip('/')}/{archive.path}", None
        if archive.doi is None:
            return ISIC + archive.path, None
        return _find_in_repository(archive, archive.doi, self.patience.timeout)

    def _place(
        self, dataset: DataSet, archive: Archive, entry: Mapping[str, Any] | None, path: Path, target: Path
    ) -> str:
        """Unpacks or copies a verified file and records it; gives its SHA-256."""
        home = target.parent
        make_folder(home)
        sha256 = _expected(archive, entry) or pooch.file_hash(path)
        first = entry if entry and entry["sha256"] == sha256 else None
        record = first or {
            "url": archive.url,
            "fetched_from": "a file fetched by hand" if self.fetched else self.mirror or archive.url,
            "sha256": sha256,
            "sha256_published": archive.sha256 is not None,
            "bytes": path.stat().st_size,
            "licence": dataset.licence,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "dermseg": __version__,
        }
        if archive.is_zip:
            with unpacked(path, target, limits=self.limits, progress=self.progress):
                _write_record(home, archive, record)
        else:
            rows = tables.read(path, ("image_id", "lesion_id"), "metadata of HAM10000")
            _write_record(home, archive, record)
            tables.write(target, list(rows[0]) if rows else [], (row.values() for row in rows))
        write_bytes(home / LICENCE, _notice(dataset).encode())
        if archive.sha256:
            self.report(f"{archive.name}: its SHA-256 is the published one")
        elif first:
            self.report(f"{archive.name}: its SHA-256 is that of the first download, of {first['date']}")
        else:
            self.report(f"{archive.name}: no SHA-256 is published; this one's is recorded in {home / RECORD}: {sha256}")
        return sha256


def _notice(dataset: DataSet) -> str:
    """What ``LICENCE.txt`` says."""
    sources = "\n".join(sorted({archive.url for archive in dataset.archives}))
    return f"{dataset.title}\n\nLicence: {dataset.licence}\nTo cite: {dataset.citation}\n\nFrom:\n{sources}\n"


def _records(home: Path) -> dict[str, dict[str, Any]]:
    """The downloads of a data set by file name."""
    path = home / RECORD
    if not path.exists():
        return {}
    try:
        records: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        if all({"sha256", "date"} <= record.keys() for record in records.values()):
            return records
    except (ValueError, AttributeError):
        pass
    raise DataError(f"{path} is no record of downloads; remove it")


def _write_record(home: Path, archive: Archive, record: Mapping[str, Any]) -> None:
    write_bytes(home / RECORD, json.dumps(_records(home) | {archive.name: record}, indent=2).encode())


def _expected(archive: Archive, entry: Mapping[str, Any] | None) -> str | None:
    """The hash a file must have: the published one, else the first download's; a table comes in several forms."""
    return archive.sha256 or (entry["sha256"] if entry and archive.is_zip else None)


def _mismatch(archive: Archive, entry: Mapping[str, Any] | None, path: Path | None) -> str:
    of = f"{path} has another SHA-256" if path else f"{archive.name}: what the server sent has another hash"
    if archive.sha256:
        return f"{of} than the published one, {archive.sha256}"
    if entry:
        return f"{of} than the first download had, of {entry['date']} (if it was changed on purpose, remove {RECORD})"
    return f"{of} than its repository names"


def _check_content(archive: Archive, path: Path) -> None:
    """Recognises a page that says why there is no file, and whatever else is none."""
    with path.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path.name.removesuffix('.part')}: is a web page (HTML), not the file")
    if archive.is_zip and not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise DataError(f"{path.name.removesuffix('.part')}: is no ZIP archive; it begins with {head[:8]!r}")


def _find_in_repository(archive: Archive, doi: str, timeout: float) -> tuple[str, str | None]:
    """The address and the hash of a file in the repository that a DOI leads to."""
    listing = pooch.create(path=".", base_url=f"doi:{doi}/")
    try:
        repository = pooch.downloaders.doi_to_repository(doi, timeout=timeout)
        repository.populate_registry(listing)
        # Dataverse turns tables into tab-separated ones, of other names, and gives hashes of neither.
        stem = Path(archive.name).stem
        name = next((name for name in listing.registry if Path(name).stem == stem), archive.name)
        url = repository.download_url(name)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{archive.name}: was not found in the repository of doi:{doi} ({error})") from error
    return (url, listing.registry[name]) if archive.is_zip else (f"{url}?format=original", None)
