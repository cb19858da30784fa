"""Reads the field's data sets, in the layouts their owners publish, into ``Sample``s."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermseg.errors import DataError, InputError
from dermseg.imaging import IMAGE_SUFFIXES

CC0 = "CC0-1.0"
CC_BY_NC = "CC-BY-NC-4.0"


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        id: The image's name in its data set, such as ``ISIC_0000000``; data sets that share images share ids.
        image: The image file.
        masks: Mask files by class name; empty where the data set has none for this image.
        group: What must stay on one side of a split: the lesion or patient, or the id where neither is known.
        source: The data set, such as ``isic2017``.
        licence: The data set's licence, as SPDX names it where it has such a name.
    """

    id: str
    image: Path
    masks: Mapping[str, Path] = field(hash=False)
    group: str
    source: str
    licence: str


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk; patterns are globs below its folder, ``{id}`` is the image's id."""

    source: str
    licence: str
    images: tuple[str, ...]
    lesion: tuple[str, ...]
    metadata: str | None = None


LAYOUTS = (
    Layout(
        source="isic2017",
        licence=CC0,
        images=("ISIC-2017_*_Data/ISIC_*",),
        lesion=("ISIC-2017_*_Part1_GroundTruth/{id}_segmentation.png",),
    ),
    Layout(
        source="isic2018",
        licence=CC_BY_NC,
        images=("ISIC2018_Task1-2_*_Input/ISIC_*",),
        lesion=("ISIC2018_Task1_*_GroundTruth/{id}_segmentation.png",),
    ),
    Layout(
        source="ham10000",
        licence=CC_BY_NC,
        images=("HAM10000_images*/ISIC_*",),
        lesion=("HAM10000_segmentations_lesion_tschandl/{id}_segmentation.png",),
        metadata="HAM10000_metadata*",
    ),
    Layout(
        source="ph2",
        licence="research and education only",
        images=("PH2 Dataset images/IMD*/IMD*_Dermoscopic_Image/IMD*", "IMD*/IMD*_Dermoscopic_Image/IMD*"),
        lesion=("PH2 Dataset images/{id}/{id}_lesion/{id}_lesion.*", "{id}/{id}_lesion/{id}_lesion.*"),
    ),
    Layout(
        source="plain",
        licence="not stated",
        images=("images/*",),
        lesion=("masks/{id}.*", "masks/{id}_segmentation.*", "masks/{id}_mask.*"),
    ),
)
SOURCES = tuple(layout.source for layout in LAYOUTS)


def read(folder: str | Path, sources: Sequence[str] | None = None) -> list[Sample]:
    """Read the data sets in ``folder`` itself and in the folders directly below it.

    An image that stands in two folders of one data set (at two sizes, say) is taken from the fuller folder.

    Args:
        folder: A data set's folder, or a folder of such folders.
        sources: The data sets to read, of ``SOURCES``; all that are found if None.

    Returns:
        The samples ordered by data set and id.

    Raises:
        InputError: If the folder does not exist or a source has no known layout.
        DataError: If no sample, or none of a source that was asked for, is found.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no folder; expected one that holds a data set ({', '.join(SOURCES)})")
    if unknown := sorted(set(sources or ()) - set(SOURCES)):
        raise InputError(f"there is no data set {unknown[0]!r}; choose from: {', '.join(SOURCES)}")
    samples: list[Sample] = []
    for layout in LAYOUTS:
        if sources is not None and layout.source not in sources:
            continue
        places = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
        found = sorted((list(_read_layout(place, layout)) for place in places), key=len, reverse=True)
        if sources is not None and not any(found):
            raise DataError(f"{root} holds no {layout.source}; expected {layout.images[0]} in it or one folder below")
        by_id: dict[str, Sample] = {}
        for sample in (sample for place in found for sample in place):
            by_id.setdefault(sample.id, sample)
        samples.extend(by_id[key] for key in sorted(by_id))
    if not samples:
        raise DataError(
            f"{root} holds no data set that dermseg knows; expected the official folders of {', '.join(SOURCES[:-1])}, "
            "or images/ and masks/"
        )
    return samples


def with_lesion(samples: Sequence[Sample]) -> list[Sample]:
    """Keep the samples that have a lesion mask."""
    return [sample for sample in samples if "lesion" in sample.masks]


def _read_layout(folder: Path, layout: Layout) -> Iterator[Sample]:
    images = [
        path
        for pattern in layout.images
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.endswith("_superpixels")
    ]
    if not images:
        return
    masks = _index(folder, layout.lesion)
    groups = _lesions(folder, layout.metadata) if layout.metadata else {}
    for image in images:
        mask = next((masks[name] for name in (p.format(id=image.stem) for p in _stems(layout)) if name in masks), None)
        yield Sample(
            id=image.stem,
            image=image,
            masks={"lesion": mask} if mask else {},
            group=groups.get(image.stem, image.stem),
            source=layout.source,
            licence=layout.licence,
        )


def _stems(layout: Layout) -> list[str]:
    """The file names of masks, without folder and suffix, ``{id}`` standing for the image's id."""
    return [Path(pattern).stem for pattern in layout.lesion]


def _index(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """All mask files by stem: one listing of each folder instead of a look-up for each image."""
    return {
        path.stem: path
        for pattern in patterns
        for path in folder.glob(pattern.replace("{id}", "*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    }


def _lesions(folder: Path, pattern: str) -> dict[str, str]:
    """Lesion by image, from HAM10000's metadata table."""
    for path in sorted(folder.glob(pattern)):
        try:
            with path.open(newline="", encoding="utf-8-sig") as table:
                rows = list(csv.DictReader(table))
        except (UnicodeDecodeError, csv.Error):
            rows = []
        if rows and {"image_id", "lesion_id"} <= rows[0].keys():
            return {row["image_id"]: row["lesion_id"] or row["image_id"] for row in rows}
        raise DataError(f"{path} is no metadata of HAM10000: expected a CSV with image_id and lesion_id")
    raise DataError(
        f"{folder} holds HAM10000 images without {pattern}; it is needed, since it says which images show one lesion"
    )
