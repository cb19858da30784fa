"""Reads the field's data sets, in the layouts their owners publish, into ``Sample``s."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from dermseg.errors import DataError, InputError
from dermseg.imaging import IMAGE_SUFFIXES

CC0 = "CC0-1.0"
CC_BY_NC = "CC-BY-NC-4.0"
LESION = "lesion"
ATTRIBUTES = ("pigment_network", "negative_network", "streaks", "milia_like_cyst", "globules")
"""The dermoscopic structures of ISIC 2018 Task 2, in the challenge's order."""


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
    """How a data set lies on disk; patterns are globs below its folder, ``{id}`` is the image's id.

    Attributes:
        masks: By class, the patterns of its masks; the first that is found counts.
        suffixed: Masks of whatever classes, named ``{id}_{class}``.
    """

    source: str
    licence: str
    images: tuple[str, ...]
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    suffixed: str | None = None
    metadata: str | None = None


LAYOUTS = (
    Layout(
        source="isic2017",
        licence=CC0,
        images=("ISIC-2017_*_Data/ISIC_*",),
        masks={LESION: ("ISIC-2017_*_Part1_GroundTruth/{id}_segmentation.png",)},
    ),
    Layout(
        source="isic2018",
        licence=CC_BY_NC,
        images=("ISIC2018_Task1-2_*_Input/ISIC_*",),
        masks={
            LESION: ("ISIC2018_Task1_*_GroundTruth/{id}_segmentation.png",),
            **{name: (f"ISIC2018_Task2_*_GroundTruth*/{{id}}_attribute_{name}.png",) for name in ATTRIBUTES},
        },
    ),
    Layout(
        source="ham10000",
        licence=CC_BY_NC,
        images=("HAM10000_images*/ISIC_*",),
        masks={LESION: ("HAM10000_segmentations_lesion_tschandl/{id}_segmentation.png",)},
        metadata="HAM10000_metadata*",
    ),
    Layout(
        source="ph2",
        licence="research and education only",
        images=("PH2 Dataset images/IMD*/IMD*_Dermoscopic_Image/IMD*", "IMD*/IMD*_Dermoscopic_Image/IMD*"),
        masks={LESION: ("PH2 Dataset images/{id}/{id}_lesion/{id}_lesion.*", "{id}/{id}_lesion/{id}_lesion.*")},
    ),
    Layout(
        source="plain",
        licence="not stated",
        images=("images/*",),
        suffixed="masks/*",
    ),
)
SOURCES = tuple(layout.source for layout in LAYOUTS)
PLAIN = "plain"
"""A user's own pictures: images/a1.png with masks/a1.png, or with a mask of each class as masks/a1_hair.png."""
LESION_SUFFIXES = ("", f"_{LESION}", "_segmentation", "_mask")
"""What ends the name of a plain data set's lesion masks; the first goes before the others."""


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


def with_masks(samples: Sequence[Sample], classes: Sequence[str]) -> list[Sample]:
    """Keep the samples that have a mask of each of ``classes``.

    The published data sets have images without some masks, which are left out; among a user's own images one without
    a mask is a mistake.

    Raises:
        DataError: If an image of a ``plain`` source lacks a mask.
    """
    complete = [sample for sample in samples if sample.masks.keys() >= set(classes)]
    own = [sample for sample in samples if sample.source == PLAIN]
    if lacking := [sample for sample in own if not sample.masks.keys() >= set(classes)]:
        first = lacking[0]
        missing = next(name for name in classes if name not in first.masks)
        names = f"{first.id}.png or {first.id}_lesion.png" if missing == LESION else f"{first.id}_{missing}.png"
        raise DataError(
            f"{first.image} has no mask of {missing} ({len(lacking)} of {len(own)} images lack a mask); expected "
            f"masks/{names}, empty where nothing is to be seen"
        )
    return complete


def _read_layout(folder: Path, layout: Layout) -> Iterator[Sample]:
    images = [
        path
        for pattern in layout.images
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.endswith("_superpixels")
    ]
    if not images:
        return
    masks = _masks(folder, layout, {image.stem for image in images})
    groups = _lesions(folder, layout.metadata) if layout.metadata else {}
    for image in images:
        yield Sample(
            id=image.stem,
            image=image,
            masks=masks.get(image.stem, {}),
            group=groups.get(image.stem, image.stem),
            source=layout.source,
            licence=layout.licence,
        )


def _masks(folder: Path, layout: Layout, ids: Set[str]) -> dict[str, dict[str, Path]]:
    """The masks of each image by class."""
    masks = _suffixed_masks(folder, layout.suffixed, ids) if layout.suffixed else {}
    for name, patterns in layout.masks.items():
        index = _index(folder, patterns)
        stems = [Path(pattern).stem for pattern in patterns]
        for id in ids:
            if path := next((index[stem.format(id=id)] for stem in stems if stem.format(id=id) in index), None):
                masks.setdefault(id, {})[name] = path
    return masks


def _suffixed_masks(folder: Path, pattern: str, ids: Set[str]) -> dict[str, dict[str, Path]]:
    """The masks of each image, whose class is what follows the id in the name.

    The longest id that begins the name counts: a_b_hair.png is of image a_b where there is one, else of image a.
    """
    by_suffix: dict[str, dict[str, Path]] = {}
    for stem, path in _index(folder, (pattern,)).items():
        ends = [len(stem), *(index for index in range(len(stem) - 1, 0, -1) if stem[index] == "_")]
        if (end := next((end for end in ends if stem[:end] in ids), None)) is not None:
            by_suffix.setdefault(stem[:end], {})[stem[end:]] = path
    masks = {}
    for id, found in by_suffix.items():
        lesion = [found.pop(suffix) for suffix in LESION_SUFFIXES if suffix in found]
        masks[id] = {suffix[1:]: path for suffix, path in found.items() if suffix != "_"}
        masks[id] |= {LESION: lesion[0]} if lesion else {}
    return masks


def _index(folder: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """All mask files by stem: one listing of each folder instead of a look-up for each image."""
    return {
        path.stem: path
        for pattern in patterns
        for path in sorted(folder.glob(pattern.replace("{id}", "*")))
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
