"""Writes a submission to the ISIC 2018 challenge: the masks of its images in one ZIP, as the official scorer takes it.

The tasks are those of Codella et al. 2019 (arXiv:1902.03368): the lesion's boundary is Task 1, five attributes are
Task 2. The scorer, ``isic-challenge-scoring``, finds a mask by its name, compares it at the truth's size, which is that
of the stored image, and refuses a set that lacks one.
"""

from __future__ import annotations

import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from dermseg.data.layouts import ATTRIBUTES, LESION, Folder
from dermseg.errors import SHOWN, DataError, DermsegError, InputError, few
from dermseg.imaging import IMAGE_SUFFIXES, encode_mask
from dermseg.parallel import attempt, in_order
from dermseg.segmenter import Segmenter

CLASSES: Mapping[int, tuple[str, ...]] = {1: (LESION,), 2: ATTRIBUTES}
"""What a bundle must find for each task."""

_ID = re.compile(r"ISIC_[0-9]{7}", re.IGNORECASE)
_WRITTEN = (1980, 1, 1, 0, 0, 0)  # one and the same, so that equal masks make equal files


def find_images(folder: Path) -> list[Path]:
    """The images in a folder of the challenge, by name; its licence, tables and superpixels are passed over.

    Raises:
        InputError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected the folder of the challenge's images")
    listing = Folder(folder)
    if not listing.images:
        deeper = next((f"; give {child.path}" for child in listing.folders if child.images), "")
        raise InputError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}){deeper}")
    return listing.images


def write(
    segmenter: Segmenter,
    images: Sequence[Path],
    task: int,
    path: Path,
    *,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> list[str]:
    """Segment images and write their masks as a submission: 8-bit grey PNGs of 0 and 255, each of its image's size.

    Images are read no faster than masks are written, so that memory stays flat. Equal masks give equal bytes.

    Args:
        segmenter: Of a bundle that finds what the task asks for, opened with ``orientation="stored"``, since the truth
            is not turned by EXIF.
        images: Files named ``ISIC_`` and seven digits.
        task: 1 or 2, of `CLASSES`.
        path: The ZIP, written whole or not at all.
        workers: Images in work at a time; the number of cores if None.
        progress: Called after each image.

    Returns:
        The names of the masks in the ZIP: ``ISIC_0012255_segmentation.png``, or for Task 2
        ``ISIC_0012255_attribute_globules.png`` and so on.

    Raises:
        InputError: There is no such task, the bundle does not find what it asks for, a name is not of the challenge
            or stands twice, or the ZIP cannot be written.
        DataError: An image cannot be used; the others have been tried.
    """
    if task not in CLASSES:
        raise InputError(f"there is no task {task}; choose from: {', '.join(map(str, CLASSES))}")
    manifest, classes = segmenter.bundle.manifest, CLASSES[task]
    if not set(classes) <= set(manifest.classes):
        raise InputError(
            f"Task {task} asks for masks of {', '.join(classes)}, but the bundle {manifest.name} finds "
            f"{', '.join(manifest.classes)}; give a bundle that finds the former"
        )
    named = _by_id(images)

    def work(id: str) -> dict[str, bytes]:
        prediction = segmenter(named[id])
        photograph = prediction.photograph
        if photograph.orientation == "upright" and photograph.exif_orientation != 1:
            raise InputError(f"{photograph.name} was turned by its EXIF; open the segmenter with orientation='stored'")
        return {_mask_name(id, name): encode_mask(prediction.mask_of(name)) for name in classes}

    names: list[str] = []
    failures: list[str] = []
    with _new_zip(path) as archive:
        for id, outcome in zip(named, in_order(lambda id: attempt(work, id), named, workers), strict=True):
            if isinstance(outcome, DermsegError):
                failures.append(f"  {id}: {outcome}")
            else:
                names += outcome
                for name, data in outcome.items():
                    _add(archive, name, data)
            if progress is not None:
                progress()
        if failures:
            more = [f"  and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
            raise DataError(
                f"{len(failures)} of {len(named)} images failed, and {path} was not written, since the challenge "
                "refuses a submission that lacks a mask:\n" + "\n".join([*failures[:SHOWN], *more])
            )
    return names


def _by_id(images: Iterable[Path]) -> dict[str, Path]:
    """The images by id, in order."""
    images = sorted(images, key=lambda image: image.name.upper())
    if not images:
        raise InputError("there are no images; a submission needs those of the challenge")
    if unnamed := [image.name for image in images if not _ID.fullmatch(image.stem)]:
        raise InputError(
            f"{len(unnamed)} of {len(images)} images have no name of the challenge, such as ISIC_0012255.jpg: "
            f"{few(unnamed)}; rename them or move them away"
        )
    by_id: dict[str, Path] = {}
    pairs = [(by_id.setdefault(image.stem.upper(), image), image) for image in images]
    if twice := [f"{first} and {image}" for first, image in pairs if first is not image]:
        raise InputError(f"{len(twice)} images have the id of another: {few(twice)}; keep one of each")
    return by_id


def _mask_name(id: str, name: str) -> str:
    return f"{id}_segmentation.png" if name == LESION else f"{id}_attribute_{name}.png"


@contextmanager
def _new_zip(path: Path) -> Iterator[ZipFile]:
    """A ZIP to fill, which takes its place only when it is whole."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a ZIP file")
    try:
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with ZipFile(temporary, "w") as archive:
                yield archive
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); give another path") from error


def _add(archive: ZipFile, name: str, data: bytes) -> None:
    """Store a PNG, which is compressed already."""
    entry = ZipInfo(name, _WRITTEN)
    entry.create_system = 3  # Unix on every system, for the permissions
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, data)
