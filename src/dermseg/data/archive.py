"""Unpacks ZIP archives from strangers: all of one, checked, or nothing."""

from __future__ import annotations

import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dermseg.errors import DataError, InputError
from dermseg.imaging import make_folder

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes done and the bytes in all, None where unknown."""
CHUNK = 1 << 20
LONGEST_NAME, LONGEST_PATH = 255, 1000  # in bytes
_JUNK = re.compile(r"(^|/)(__MACOSX(/|$)|\.DS_Store$|\._[^/]*$|Thumbs\.db$)")  # left by desktops, not by data sets
# Windows opens a device for the first, whatever the suffix, and drops the end of the second.
_NOT_ON_WINDOWS = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3]) *(?:\..*)?|.*[. ]", re.IGNORECASE
)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        files: The most members.
        size: The most bytes in all.
        ratio: The most bytes in all for each byte of the archive; an archive of nothing but an empty mask of 6000 x
            4000 pixels, whose PNG repeats itself, has 80.
    """

    files: int = 500_000
    size: int = 200 * 10**9
    ratio: float = 200.0


@contextmanager
def unpacked(
    archive: Path, target: Path, *, limits: Limits | None = None, progress: Progress | None = None
) -> Iterator[int]:
    """Unpacks a ZIP archive into a folder that appears, complete, when the ``with`` block ends without an error.

    Where all folders of the archive lie in one, that one is left out: ``target`` takes its place, whatever its name.
    What desktops leave behind (``.DS_Store``, ``__MACOSX``) is skipped; archives in the archive stay as they are.

    Args:
        archive: The file.
        target: The folder to make; it must not exist.
        limits: What is too much; ``Limits()`` if None.
        progress: Called while files are written.

    Yields:
        The number of files.

    Raises:
        DataError: The archive is no ZIP, damaged, or has a member that no honest data set has: outside of the folder,
            a link or device, encrypted, twice the same name or one that Windows reserves, too many files or bytes.
        InputError: The folder exists or cannot be written, or the disk is too full.
    """
    if target.exists():
        raise InputError(f"{target} exists; rename or remove it first")
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.unpacking")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        with _reading(archive.name), zipfile.ZipFile(archive) as file:
            members = _plan(file, archive, limits or Limits())
            total = sum(info.file_size for info in members.values())
            check_space(target.parent, total, archive.name)
            temporary.mkdir()
            done = 0
            for path, info in members.items():
                place = temporary / path
                place.parent.mkdir(parents=True, exist_ok=True)
                with file.open(info) as source, place.open("xb") as sink:
                    while chunk := source.read(CHUNK):
                        sink.write(chunk)
                        done += len(chunk)
                        if progress:
                            progress(f"{archive.name}: unpacking", done, total)
        yield len(members)
        temporary.rename(target)
    except OSError as error:
        raise InputError(f"{archive.name} cannot be unpacked into {target} ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_space(folder: Path, needed: int, name: str) -> None:
    """Refuse what would fill the disk.

    Raises:
        InputError: If ``folder``'s disk has fewer than ``needed`` bytes left.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{name} needs {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; "
            "make room or choose another folder"
        )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turns whatever zipfile raises into one clear error."""
    try:
        yield
    except NotImplementedError as error:
        raise DataError(f"{name} is compressed or divided in a way that is not read ({error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{name} is no ZIP archive or is damaged ({error})") from error


def _plan(file: zipfile.ZipFile, archive: Path, limits: Limits) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files to write by their path in the folder, once all members have been found harmless.

    zipfile gives no member more bytes than it declares, so the sums of declared sizes bound what is written.
    """
    name, infos = archive.name, file.infolist()
    if len(infos) > limits.files:
        raise DataError(f"{name} holds {len(infos)} files where at most {limits.files} are expected")
    total = sum(info.file_size for info in infos)
    if total > limits.size:
        raise DataError(f"{name} unpacks to {total} bytes where at most {limits.size} are expected")
    if total > limits.ratio * archive.stat().st_size:
        raise DataError(
            f"{name} unpacks to more than {limits.ratio:g} times its size, as a ZIP bomb does, not a data set"
        )
    members = [(_safe_path(info, name), info) for info in infos if not _JUNK.search(info.orig_filename)]
    files = [(path, info) for path, info in members if not info.is_dir()]
    if not files:
        raise DataError(f"{name} holds no files")
    tops = {path.parts[0] for path, _ in files if len(path.parts) > 1}
    plan = [(_below(path, tops), info) for path, info in files]
    keys = [PurePosixPath(unicodedata.normalize("NFC", str(path)).casefold()) for path, _ in plan]
    taken = {parent for key in keys for parent in key.parents}
    for key, (path, _) in zip(keys, plan, strict=True):
        if key in taken:
            raise DataError(f"{name} holds {str(path)!r} twice, or once as a file and once as a folder")
        taken.add(key)
    return dict(plan)


def _safe_path(info: zipfile.ZipInfo, name: str) -> PurePosixPath:
    """A member's path, if it lies in the folder, on every system, and is an ordinary file or folder."""
    raw = info.orig_filename
    shown = ascii(raw if len(raw) <= 80 else raw[:77] + "...")
    parts = raw.removesuffix("/").split("/")
    if {"", ".", ".."} & set(parts) or re.search(r"[\\:\x00-\x1f\x7f]", raw):
        raise DataError(f"{name} holds {shown}, a path that may lead out of its folder")
    if any(_NOT_ON_WINDOWS.fullmatch(part) for part in parts):
        raise DataError(f"{name} holds {shown}, a name that Windows takes for a device or for another name")
    if len(raw.encode()) > LONGEST_PATH or max(len(part.encode()) for part in parts) > LONGEST_NAME:
        raise DataError(f"{name} holds {shown}, a name of more bytes than a disk takes")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{name} holds {shown}, a link or device where files and folders are expected")
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{name} holds {shown}, which is encrypted")
    return PurePosixPath(*parts)


def _below(path: PurePosixPath, tops: set[str]) -> PurePosixPath:
    """The path without the one folder that holds all others."""
    return PurePosixPath(*path.parts[1:]) if len(tops) == 1 and len(path.parts) > 1 else path
