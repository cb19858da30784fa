"""What can be scored: a bundle, an ensemble of bundles, or a folder of masks that any tool wrote."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermseg import ensemble
from dermseg.data.catalog import LESION, LESION_SUFFIXES, Sample
from dermseg.data.layouts import LOSSLESS, Folder
from dermseg.errors import DataError, InputError, PredictionSizeError, PredictionValuesError, few
from dermseg.imaging import MASK_THRESHOLD, Photograph, StoredMask, open_image, read_stored_mask
from dermseg.processing import DECODED_SIDE
from dermseg.protocols import Mask
from dermseg.segmenter import OUTPUTS, Prediction, Segmenter

_PICTURES = tuple(f"_{output}" for output in OUTPUTS if output != "mask")


class Model:
    """A bundle, scored with its probabilities."""

    def __init__(self, segmenter: Segmenter | ensemble.Ensemble) -> None:
        told = segmenter.bundle.manifest if isinstance(segmenter, Segmenter) else segmenter
        self.name = segmenter.name
        self.classes = told.classes
        self.input_size = told.input_size
        self.thresholds = segmenter.thresholds
        self._segmenter = segmenter

    def __call__(self, sample: Sample, /) -> Prediction:
        """Segment an image; raises as the segmenter does."""
        return self._segmenter(sample.image)


class Ensemble(Model):
    """Several bundles, scored with the mean of their probabilities; arguments as ``ensemble.Ensemble``'s."""

    def __init__(
        self,
        segmenters: Sequence[Segmenter],
        *,
        weights: Sequence[float] | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__(ensemble.Ensemble(segmenters, weights=weights, threshold=threshold))


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """Masks that were read from files.

    Attributes:
        photograph: The image they are of; decoded only for pictures.
        masks: By class, (H, W) at the image's size.
    """

    photograph: Photograph
    masks: Mapping[str, Mask]

    @property
    def classes(self) -> tuple[str, ...]:
        """What the masks show."""
        return tuple(self.masks)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image and of its masks, in pixels."""
        return self.photograph.size

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The photograph, RGB (h, w, 3), its longer side at least ``DECODED_SIDE`` where its own is."""
        return self.photograph.pixels(at_least=DECODED_SIDE)

    def mask_of(self, name: str) -> Mask:
        """The mask of a class, (H, W)."""
        return self.masks[name]


class MaskFolder:
    """A folder of masks, one for each image and class of a split, as the ISIC challenge takes them.

    All names are checked here, before anything is scored, and all that is wrong with them is told at once. A lesion's
    mask is ``ID.png``, ``ID_lesion.png``, ``ID_segmentation.png`` or ``ID_mask.png``, another class's is
    ``ID_attribute_NAME.png``, ``ID_NAME.png`` or ``ID_NAME_mask.png``, in upper or lower case, also as BMP or TIFF; ID
    is the image's, of ``train/a1`` its last part. Passed over are subfolders, files that are no pictures, and those
    that ``dermseg segment`` writes beside its masks.

    Args:
        folder: Of the masks.
        samples: The split's images; at least one.
        classes: What the masks show.
        everything: All images of the data: masks of those beyond the split are passed over too.

    Attributes:
        name: The folder's.
        classes: What the masks show.
        input_size: None, since there are no probabilities.
        thresholds: Empty, for the same reason.
        unused: How many masks are of images beyond the split.

    Raises:
        InputError: If the folder cannot be listed.
        DataError: If masks are missing, stand twice, belong to no image or have other names, or if two images of the
            split share a name.
    """

    input_size: int | None = None
    thresholds: tuple[float, ...] = ()

    def __init__(
        self, folder: str | Path, samples: Sequence[Sample], classes: Sequence[str], everything: Sequence[Sample] = ()
    ) -> None:
        listing = Folder(Path(folder))
        self.name = listing.name
        self.classes = tuple(classes)
        patterns = _patterns(self.classes)
        if not listing.path.is_dir():
            raise InputError(f"{folder} is no folder; expected one that holds {patterns} for each image")
        names = _names(samples)
        found = _sort(listing, self.classes, names.keys() | {_key(sample) for sample in everything})
        own = {place: paths for place, paths in found.masks.items() if place[0] in names}
        self._files = {place: paths[0] for place, paths in own.items()}
        self.unused = sum(len(paths) for place, paths in found.masks.items() if place not in own)
        wanted = [(key, name) for key in names for name in self.classes]
        missing = [f"{names[key]}{_endings(name)[0]}.png" for key, name in wanted if (key, name) not in own]
        double = [" and ".join(path.name for path in paths) for paths in own.values() if len(paths) > 1]
        foreign, misnamed = found.foreign, found.misnamed
        faults = (
            (
                missing,
                f"lacks {len(missing)} of {len(wanted)} masks: {few(missing)}; expected {patterns} for each image of "
                "the split",
            ),
            (double, f"holds several masks for one: {few(double)}; keep one of each"),
            (
                foreign,
                f"holds masks of no image of the data ({len(foreign)}): {few(foreign)}; move them away, or give the "
                "data they belong to",
            ),
            (
                misnamed,
                f"holds pictures with other names ({len(misnamed)}): {few(misnamed)}; expected {patterns}, as "
                f"{', '.join(sorted(LOSSLESS))}: rename them, or move them away",
            ),
        )
        if sentences := [f"{folder} {sentence}" for files, sentence in faults if files]:
            raise DataError("\n".join(sentences))

    def __call__(self, sample: Sample, /) -> MaskPrediction:
        """Read an image's masks; of the image itself, only its header.

        Raises:
            PredictionSizeError: A mask is not of the image's size, upright as its EXIF says.
            PredictionValuesError: A mask holds transparent pixels, 16-bit colours, or other values than 0 and 255, in
                16 bits of grey 0 and 65535.
            DermsegError: A file cannot be read; of a mask's the sentence gives the whole path.
        """
        photograph = open_image(sample.image)
        files = ((name, self._files[_key(sample), name]) for name in self.classes)
        return MaskPrediction(photograph, {name: _read(path, photograph.size) for name, path in files})


@dataclass(frozen=True)
class _Sorted:
    """The pictures in a folder.

    Attributes:
        masks: By image's key and class.
        foreign: Names of masks of unknown images.
        misnamed: Names of all others.
    """

    masks: Mapping[tuple[str, str], Sequence[Path]]
    foreign: Sequence[str]
    misnamed: Sequence[str]


def _sort(listing: Folder, classes: Sequence[str], known: Set[str]) -> _Sorted:
    """Find out what each picture of a folder is; ``known`` are the keys of images."""
    endings = sorted(((ending, name) for name in classes for ending in _endings(name)), key=lambda pair: len(pair[0]))
    stems = {path.stem.lower() for path in listing.images}
    masks: dict[tuple[str, str], list[Path]] = defaultdict(list)
    foreign, misnamed = [], []

    def masks_of(key: str) -> set[str]:
        return {f"{key}_mask", *(f"{key}_{name}_mask".lower() for name in classes)}

    for path in listing.images:
        stem = path.stem.lower()
        places = [(stem.removesuffix(ending), name) for ending, name in endings if stem.endswith(ending)]
        if path.suffix.lower() not in LOSSLESS:
            misnamed.append(path.name)
        elif place := next((place for place in places if place[0] in known), None):  # of the longest id
            masks[place].append(path)
        elif any(stem.endswith(ending) and masks_of(stem.removesuffix(ending)) & stems for ending in _PICTURES):
            continue
        elif places and not any(stem[: match.start()] in known for match in re.finditer("_", stem)):
            foreign.append(path.name)
        else:
            misnamed.append(path.name)
    return _Sorted(masks, foreign, misnamed)


def _read(path: Path, size: tuple[int, int]) -> Mask:
    stored = read_stored_mask(path)
    height, width = stored.samples.shape[:2]
    if (height, width) != size:
        raise PredictionSizeError(
            f"the mask {path} is {width} x {height} px for an image of {size[1]} x {size[0]} px; save masks at their "
            "images' size"
        )
    grey = stored.values
    mask: Mask = grey == 255
    if fault := _fault(stored, grey, mask):
        raise PredictionValuesError(
            f"the mask {path} {fault}; save masks as 8-bit grey, 255 on what was found and 0 elsewhere, since only "
            f"what is above {MASK_THRESHOLD} counts as foreground"
        )
    return mask


def _fault(stored: StoredMask, grey: NDArray[np.uint8], mask: Mask) -> str:
    """What a file holds beside 0 and 255, or in such a way that these may not be what was meant; else nothing."""
    if stored.alpha[0] < 255:
        return "holds transparent pixels, which count as background"
    if stored.bits == 16 and stored.samples.ndim == 3:
        return "holds 16-bit colours, of which only the upper 8 bits are read"
    if stored.bits == 16 and not np.isin(stored.samples, (0, 65535)).all():
        return f"holds 16-bit values from {stored.samples.min()} to {stored.samples.max()}"
    if np.count_nonzero(mask) + np.count_nonzero(grey == 0) == grey.size:
        return ""
    values = np.unique(grey)
    if len(values) <= 3:
        return f"holds {' and '.join(map(str, values))}"
    return f"holds {len(values)} values from {values[0]} to {values[-1]}"


def _key(sample: Sample) -> str:
    """What the names of an image's masks begin with, in lower case."""
    return sample.id.rpartition("/")[2].lower()


def _names(samples: Iterable[Sample]) -> dict[str, str]:
    """By key what the images are called, without folders; data sets that share images share names."""
    ids: dict[str, str] = {}
    for sample in samples:
        if (first := ids.setdefault(_key(sample), sample.id)) != sample.id:
            raise DataError(
                f"the images {first} and {sample.id} have one name, and it cannot be said whose mask "
                f"{_key(sample)}.png is; rename one, or score the folders they lie in one by one"
            )
    return {key: id.rpartition("/")[2] for key, id in ids.items()}


def _endings(name: str) -> tuple[str, ...]:
    """What follows an image's id in the name of a class's mask; the first goes into messages."""
    own = f"_{name}_mask".lower()  # of dermseg segment, where it finds several classes
    return (*LESION_SUFFIXES, own) if name == LESION else (f"_attribute_{name}".lower(), f"_{name}".lower(), own)


def _patterns(classes: Sequence[str]) -> str:
    """The names that masks may have, in words."""
    patterns = [f"ID{ending}.png" for ending in LESION_SUFFIXES] if LESION in classes else []
    if others := [name for name in classes if name != LESION]:
        patterns += ["ID_attribute_NAME.png", f"ID_NAME.png, NAME being {' or '.join(others)}"]
    return " or ".join(patterns)
