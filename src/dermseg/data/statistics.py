"""What the images and masks of data sets are like: a row for each image, and tables made of the rows.

Counts and sizes are exact. Colours are measured on the image at a longer side of at most ``SIDE`` pixels, and what
``appearance`` estimates at its own, so that large photographs take little longer than small ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermseg import appearance
from dermseg.appearance import LARGE, SIZE_CLASSES, TINY
from dermseg.data import splits
from dermseg.data.catalog import ATTRIBUTES, LESION, Sample
from dermseg.errors import DataError, DermsegError
from dermseg.imaging import Photograph, open_image, read_mask
from dermseg.parallel import in_order
from dermseg.wording import utf8

SIDE = 512
CHANNELS = ("red", "green", "blue", "L*", "a*", "b*")
ARTEFACTS = ("hair", "ruler", "vignette")
COLUMNS = (
    *("id", "source", "licence", "group", "split", "attribute_split", "image", "format", "width", "height"),
    *(f"{channel} {moment}" for channel in CHANNELS for moment in ("mean", "std")),
    *(*ARTEFACTS, "ita", "tone"),
)


@dataclass(frozen=True)
class Failure:
    """A file that could not be measured.

    Attributes:
        id: The image's.
        source: The image's data set.
        path: The image or the mask.
        message: What is wrong with it, one sentence.
    """

    id: str
    source: str
    path: Path
    message: str


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was measured.

    Attributes:
        samples: Those whose image could be read, in the order of the tables' rows.
        images: A row for each, with ``COLUMNS``: where it lies and what it looks like. Means and standard deviations
            of red, green and blue (0 to 255) and of CIELAB; shares of the image (0 to 1) covered by hair, ruler and
            vignette; ``ita`` in degrees and the ``tone`` it stands for, missing where neither can be estimated.
        pixels: The pixels of each class's mask, a column for each class; NaN where there is no mask.
        failures: Files that could not be read, or do not fit together.
        content_hash: SHA-256 over all files, in hexadecimal.
    """

    samples: tuple[Sample, ...]
    images: pd.DataFrame
    pixels: pd.DataFrame
    failures: tuple[Failure, ...]
    content_hash: str

    @property
    def cover(self) -> pd.DataFrame:
        """The share of its image that each mask covers, 0 to 1; NaN where there is no mask."""
        return self.pixels.div(self.images["width"] * self.images["height"], axis=0)

    @property
    def attributes(self) -> list[str]:
        """The classes beside the lesion."""
        return [str(name) for name in self.pixels if name != LESION]


def gather(
    samples: Sequence[Sample],
    table: Mapping[str, splits.Split] | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Measure every image and mask; a file that cannot be used is listed and the others are done.

    Args:
        samples: As the catalog reads them.
        table: The split of each id or group; the shipped ones if None, which differ for lesion and attributes.
        workers: Images in work at a time; the number of cores if None.
        progress: Called with images done and images in all.

    Raises:
        DataError: If there are no samples.
    """
    if not samples:
        raise DataError("there is no image to describe; check the data folder and its sources")
    found = {name for sample in samples for name in sample.masks}
    order = {name: place for place, name in enumerate((LESION, *ATTRIBUTES))}
    classes = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    lesion_table = splits.read() if table is None else table
    attribute_table = splits.table_for(found - {LESION}) if table is None else table

    rows: list[dict[str, object]] = []
    counts: list[dict[str, int]] = []
    measured: list[Sample] = []
    failures: list[Failure] = []
    content = hashlib.sha256()
    for done, (sample, result) in enumerate(zip(samples, in_order(_measure, samples, workers), strict=True), start=1):
        content.update(result.digest)
        failures += result.failures
        if result.row is not None:
            sides = (splits.split_of(sample, which) for which in (lesion_table, attribute_table))
            rows.append(result.row | dict(zip(("split", "attribute_split"), sides, strict=True)))
            counts.append(result.pixels)
            measured.append(sample)
        if progress is not None:
            progress(done, len(samples))
    return Statistics(
        tuple(measured),
        pd.DataFrame(rows, columns=list(COLUMNS)),
        pd.DataFrame(counts, index=range(len(rows)), columns=classes, dtype=np.float64),
        tuple(failures),
        content.hexdigest(),
    )


def lesions(statistics: Statistics) -> pd.DataFrame:
    """The lesion of each image that has a mask: id, source, split, lesion_pixels, ratio (0 to 1), size_class.

    A lesion below 5 % of the image is tiny, one above 30 % large.
    """
    if LESION not in statistics.pixels:
        return pd.DataFrame(columns=["id", "source", "split", "lesion_pixels", "ratio", "size_class"])
    pixels, ratio = statistics.pixels[LESION].dropna(), statistics.cover[LESION].dropna()
    table = statistics.images.loc[pixels.index, ["id", "source", "split"]]
    size_class = np.select([ratio < TINY, ratio <= LARGE], SIZE_CLASSES[:2], SIZE_CLASSES[2])
    return table.assign(lesion_pixels=pixels.astype(int), ratio=ratio, size_class=size_class)


def attributes(statistics: Statistics) -> pd.DataFrame:
    """How often each class beside the lesion is seen, by split and over ``all`` of them.

    Returns:
        Columns split, attribute, images (with such a mask), shown (where it is not empty), share (of images), and
        median_area: the share of the image it covers where it is shown, NaN where it never is.
    """
    cover, side = statistics.cover, statistics.images["attribute_split"]
    rows = []
    for split in (*splits.SPLITS, "all"):
        for name in statistics.attributes:
            own = cover.loc[(side == split) | (split == "all"), name].dropna()
            shown = own[own > 0]
            if len(own):
                rows.append((split, name, len(own), len(shown), len(shown) / len(own), shown.median()))
    return pd.DataFrame(rows, columns=["split", "attribute", "images", "shown", "share", "median_area"])


def cooccurrence(statistics: Statistics) -> pd.DataFrame:
    """In how many images each pair of classes beside the lesion is seen; on the diagonal, each class alone."""
    shown = (statistics.pixels[statistics.attributes] > 0).astype(int)
    return shown.T @ shown


def sources(statistics: Statistics) -> pd.DataFrame:
    """A row for each data set: its licence, its images, lesions or patients, masks, splits, and median values."""
    images = statistics.images
    rows = {}
    for source, own in images.groupby("source", sort=False):
        cover = statistics.cover.loc[own.index]
        masks = cover.notna()
        row: dict[str, object] = {
            "licence": ", ".join(sorted(set(own["licence"]))),
            "images": len(own),
            "groups": own["group"].nunique(),
            "with_lesion_mask": int(masks[LESION].sum()) if LESION in masks else 0,
            "with_attribute_masks": int(masks[statistics.attributes].any(axis=1).sum()),
            **{split: int((own["split"] == split).sum()) for split in splits.SPLITS},
            "median_lesion_ratio": cover[LESION].median() if LESION in cover else np.nan,
            **{f"{name} {moment}": own[f"{name} {moment}"].mean() for name in CHANNELS for moment in ("mean", "std")},
            "median_ita": own["ita"].astype(float).median(),
        }
        rows[source] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("source").reset_index()


@dataclass(frozen=True)
class _Result:
    row: dict[str, object] | None
    pixels: dict[str, int]
    failures: list[Failure]
    digest: bytes


def _measure(sample: Sample) -> _Result:
    digest = b"".join(_digest(path) for path in (sample.image, *sample.masks.values()))
    failures: list[Failure] = []
    try:
        photograph = open_image(sample.image)
        small = _small(photograph)
    except DermsegError as error:
        return _Result(None, {}, [_failure(sample, sample.image, error)], digest)
    counts: dict[str, int] = {}
    lesion = None
    for name, path in sample.masks.items():
        try:
            mask = read_mask(path)
            if mask.shape != photograph.size:
                (rows, columns), (height, width) = mask.shape, photograph.size
                raise DataError(f"the mask has {columns} x {rows} pixels, its image {width} x {height}")
        except DermsegError as error:
            failures.append(_failure(sample, path, error))
            continue
        counts[name] = int(np.count_nonzero(mask))
        if name == LESION:
            lesion = mask
    texts = {name: str(getattr(sample, name)) for name in ("id", "source", "licence", "group", "image")}
    row: dict[str, object] = {name: utf8(text).decode() for name, text in texts.items()}  # pandas takes no others
    row["format"] = photograph.format
    row |= {"width": photograph.size[1], "height": photograph.size[0]}
    return _Result(row | _colours(small) | _appearance(small, lesion), counts, failures, digest)


def _failure(sample: Sample, path: Path, error: DermsegError) -> Failure:
    return Failure(utf8(sample.id).decode(), utf8(sample.source).decode(), path, utf8(str(error)).decode())


def _small(photograph: Photograph) -> NDArray[np.uint8]:
    pixels = photograph.pixels(at_least=SIDE)
    scale = SIDE / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _colours(pixels: NDArray[np.uint8]) -> dict[str, object]:
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    mean, std = (np.concatenate(pair).ravel() for pair in zip(cv2.meanStdDev(pixels), cv2.meanStdDev(lab), strict=True))
    return {
        f"{name} {moment}": float(values[place])
        for place, name in enumerate(CHANNELS)
        for moment, values in (("mean", mean), ("std", std))
    }


def _appearance(pixels: NDArray[np.uint8], lesion: NDArray[np.bool_] | None) -> dict[str, object]:
    if lesion is not None and lesion.shape != pixels.shape[:2]:
        size = (pixels.shape[1], pixels.shape[0])
        lesion = cv2.resize(lesion.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    seen = appearance.look(pixels, lesion)
    tone = None if lesion is None else seen.skin_tone  # without a mask, the lesion would count as skin
    return {
        **{name: getattr(seen, name) for name in ARTEFACTS},
        "ita": None if tone is None else tone.ita,
        "tone": None if tone is None else tone.name,
    }


def _digest(path: Path) -> bytes:
    if not path.is_file():  # from a pipe nothing may ever come
        return b""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # reading the image says why
        return b""
