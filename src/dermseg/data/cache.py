"""A memory-mapped cache of images and masks at the network's size, so that training never decodes a file twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dermseg.data.catalog import Sample
from dermseg.errors import DataError, InputError
from dermseg.imaging import Geometry, open_image, read_mask

FORMAT = 1
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
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedImages:
    """Open the cache of ``samples``, building it if the files or the size are new.

    Args:
        samples: Each with a mask for each of ``classes``.
        classes: Mask channels, in order.
        size: Side of the square, in pixels.
        folder: Where caches lie; ``default_folder()`` if None.
        progress: Called with images done and images in all while building.

    Raises:
        DataError: If there are no samples, or a mask has another size than its image.
        ImageError: If a file cannot be read.
    """
    if not samples:
        raise DataError("there is no image with a mask to train on; check the data folder, its sources and the split")
    files = [path for sample in samples for path in (sample.image, *(sample.masks[name] for name in classes))]
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, files))
    content = hashlib.sha256(b"".join(digests)).hexdigest()
    key = hashlib.sha256(f"{FORMAT} {size} {content}".encode()).hexdigest()[:32]
    home = (folder or default_folder()) / key
    if not home.is_dir():
        _build(home, samples, classes, size, progress)
    return CachedImages(
        np.load(home / "images.npy", mmap_mode="r"), np.load(home / "masks.npy", mmap_mode="r"), content
    )


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _build(
    home: Path,
    samples: Sequence[Sample],
    classes: Sequence[str],
    size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{home.name}.", dir=home.parent))
    except OSError as error:
        raise InputError(
            f"{home.parent} cannot be written ({error.strerror}); set DERMSEG_CACHE to a folder that can"
        ) from error
    try:
        count = len(samples)
        images = np.lib.format.open_memmap(scratch / "images.npy", "w+", np.uint8, (count, size, size, 3))
        masks = np.lib.format.open_memmap(scratch / "masks.npy", "w+", np.uint8, (count, len(classes), size, size))

        def fill(index: int) -> None:
            images[index], masks[index] = _fit(samples[index], classes, size)

        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(fill, range(count)), start=1):
                if progress is not None:
                    progress(done, count)
        images.flush()
        masks.flush()
        try:
            scratch.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fit(sample: Sample, classes: Sequence[str], size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
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
    return geometry.apply(photograph.pixels(at_least=size), fill=PADDING), channels
