"""A memory-mapped cache of images and masks at the network's size, so that training never decodes a file twice."""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from dermseg.data.catalog import Sample
from dermseg.errors import BrokenImageError, DataError, InputError, UnsupportedImageError
from dermseg.geometry import Geometry
from dermseg.imaging import open_image, read_mask
from dermseg.parallel import in_order
from dermseg.processing import VERSION, check_steps, decode, prepare

FORMAT = 2
PADDING = 128
CHUNK = 64  # images whose masks are read from disk at once


@dataclass(frozen=True)
class CachedImages:
    """Images and masks of one set of samples, fitted into squares.

    Attributes:
        images: uint8 RGB, (N, size, size, 3), padded with ``PADDING``.
        masks: uint8, (N, classes, size, size): the share of each pixel inside the mask, 0 to 255.
        content_hash: SHA-256 over all image and mask files, in hexadecimal.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    content_hash: str

    def __len__(self) -> int:
        return len(self.images)

    def shown(self) -> npt.NDArray[np.bool_]:
        """Whether each image shows each class, (N, classes): any pixel lies more than half inside the mask."""
        parts = [self.masks[start : start + CHUNK].max(axis=(2, 3)) > 127 for start in range(0, len(self), CHUNK)]
        return np.concatenate(parts)


def default_folder() -> Path:
    """Where caches lie: ``$DERMSEG_CACHE``, else ``~/.cache/dermseg``."""
    return Path(os.environ.get("DERMSEG_CACHE") or Path.home() / ".cache" / "dermseg")


def load(
    samples: Sequence[Sample],
    classes: Sequence[str],
    size: int,
    steps: Sequence[str] = (),
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedImages:
    """Open the cache of ``samples``, building it if the files, the size or the steps are new.

    A build that was interrupted goes on where it stopped; of several processes one builds and the others wait.

    Args:
        samples: Each with a mask for each of ``classes``.
        classes: Mask channels, in order.
        size: Side of the square, in pixels.
        steps: Of ``dermseg.processing``, that each image goes through.
        folder: Where caches lie; ``default_folder()`` if None.
        progress: Called with images done and images in all while building.

    Raises:
        InputError: If there is no such step.
        DataError: If there are no samples, or a mask has another size than its image.
        ImageError: If a file cannot be read.
    """
    check_steps(steps)
    if not samples:
        raise DataError("there is no image with a mask to train on; check the data folder, its sources and the split")
    files = [path for sample in samples for path in (sample.image, *(sample.masks[name] for name in classes))]
    content = hashlib.sha256(b"".join(in_order(_digest, files))).hexdigest()
    made = f"{FORMAT} {size} {content} {VERSION} {' '.join(steps)}"
    key = hashlib.sha256(made.encode()).hexdigest()[:32]
    home = (folder or default_folder()) / key
    if not home.is_dir():
        _build(home, samples, classes, size, steps, progress)
    return CachedImages(
        np.load(home / "images.npy", mmap_mode="r"), np.load(home / "masks.npy", mmap_mode="r"), content
    )


def _digest(path: Path) -> bytes:
    if not path.is_file():  # from a pipe nothing may ever come
        raise DataError(f"{path} is no file; expected a picture")
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _build(
    home: Path,
    samples: Sequence[Sample],
    classes: Sequence[str],
    size: int,
    steps: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make a cache in a folder beside ``home``, go on with what a killed process left there, and rename it."""
    part = home.with_name(f"{home.name}.part")
    lock = FileLock(f"{home}.lock")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            if not home.is_dir():  # else another process was first
                part.mkdir(exist_ok=True)
                _fill(part, samples, classes, size, steps, progress)
                part.rename(home)
    except OSError as error:
        raise InputError(
            f"{home.parent} cannot be written ({error.strerror}); set DERMSEG_CACHE to a folder that can"
        ) from error
    if home.is_dir():
        with suppress(OSError):  # another process may hold it
            Path(lock.lock_file).unlink()


def _fill(
    part: Path,
    samples: Sequence[Sample],
    classes: Sequence[str],
    size: int,
    steps: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    count = len(samples)
    try:
        with (
            _Rows(part / "images.npy", (count, size, size, 3)) as images,
            _Rows(part / "masks.npy", (count, len(classes), size, size)) as masks,
        ):
            kept = min(images.count, masks.count)
            images.cut(kept)
            masks.cut(kept)
            pairs = in_order(lambda sample: fit(sample, classes, size, steps), samples[kept:])
            for done, (image, channels) in enumerate(pairs, start=kept + 1):
                images.append(image)
                masks.append(channels)
                if progress is not None:
                    progress(done, count)
    except (DataError, BrokenImageError, UnsupportedImageError):
        shutil.rmtree(part, ignore_errors=True)  # its files have to change, and then it is another cache
        raise


class _Rows:
    """A NumPy file of 8-bit values written row by row, so that memory holds none of it.

    Attributes:
        count: Whole rows in the file as it was found; 0 in a new one.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._row = math.prod(shape[1:])
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        self._header = header.getvalue()
        self._file = path.open("r+b" if path.exists() else "w+b")
        same = self._file.read(len(self._header)) == self._header
        self.count = (path.stat().st_size - len(self._header)) // self._row if same else 0

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def cut(self, count: int) -> None:
        """Keep the first rows only, and go on behind them."""
        self._file.seek(0)
        self._file.write(self._header)
        self._file.seek(count * self._row, os.SEEK_CUR)
        self._file.truncate()

    def append(self, row: npt.NDArray[np.uint8]) -> None:
        self._file.write(np.ascontiguousarray(row).data)


def fit(
    sample: Sample, classes: Sequence[str], size: int, steps: Sequence[str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """An image (size, size, 3) and its masks (classes, size, size) as the cache holds them.

    Raises:
        DataError: If a mask has another size than its image.
        ImageError: If a file cannot be read.
    """
    photograph = open_image(sample.image)
    geometry = Geometry.fit(*photograph.size, size)
    channels = np.zeros((len(classes), size, size), np.uint8)
    for channel, name in enumerate(classes):
        mask = read_mask(sample.masks[name])
        if mask.shape != photograph.size:
            raise DataError(
                f"{sample.masks[name]} has {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                f"{photograph.size[1]} x {photograph.size[0]}; a mask must have its image's size"
            )
        channels[channel] = geometry.apply(mask.astype(np.uint8) * 255, fill=0)
    return prepare(decode(photograph, size), geometry, PADDING, steps), channels
