"""Replaces a report by a new one: what an earlier one wrote goes, and nothing else."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dermseg.errors import InputError
from dermseg.imaging import make_folder, write_bytes


@contextmanager
def replacing(folder: str | Path, page: str) -> Iterator[Path]:
    """Gather a report in a folder of its own, then put it in the place of an earlier one.

    What it wrote stands in a list beside it, ``report.files.json`` of ``report.html``. When all is gathered, files of
    the earlier list that are not written anew are removed, the new ones are moved in, and the page comes last. Nothing
    changes if the report fails. A PDF of the page counts as its own.

    Args:
        folder: Where the report goes; made if it is missing.
        page: The name of its page.

    Yields:
        An empty folder to write into; its files and those of its subfolders become the report's.

    Raises:
        InputError: If the folder cannot be written.
    """
    target = Path(folder)
    make_folder(target)
    with _told(target):
        stage = tempfile.TemporaryDirectory(prefix=".report-", dir=target, ignore_cleanup_errors=True)
    with stage as made:
        yield Path(made)
        with _told(target):
            _put(Path(made), target, page)


def _put(stage: Path, target: Path, page: str) -> None:
    """Move a report in, the page last."""
    listed = target / f"{Path(page).stem}.files.json"
    new = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
    for name in _listed(listed) - set(new):
        _remove(target, name)
    for name in new:
        make_folder((target / name).parent)
    write_bytes(listed, json.dumps([*new, Path(page).with_suffix(".pdf").name], indent=1).encode())
    for name in sorted(new, key=lambda name: name == page):
        (stage / name).replace(target / name)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say in one sentence what the system refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"the report cannot be written to {folder} ({reason}); give another folder") from error


def _listed(path: Path) -> set[str]:
    """The files of an earlier report, less what no report could have written."""
    try:
        names = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return set()
    paths = (PurePosixPath(name) for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    return {path.as_posix() for path in paths if not path.is_absolute() and ".." not in path.parts}


def _remove(folder: Path, name: str) -> None:
    """Remove a file, and its folder in that of the report if nothing else is in it."""
    path = folder / name
    if path.is_file():
        path.unlink()
    if path.parent != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
