"""How data sets lie on disk, and which files below a folder are their images and masks.

Names of folders and endings of files may be in upper or lower case, and each folder may lie once more in itself, as
archives unpack. What is found follows these rules, so that no file is taken for what it is not:

- A folder with a published data set's name is of that data set and of no other.
- ``images/`` goes with the ``masks/`` beside it, and each image with the masks whose names begin with its own. What
  lies in ``images/`` is an image then, whatever its name. Two folders of masks (``masks/`` and ``gt/``), or two files
  of one name, are an error.
- ``images/`` and ``masks/`` are HAM10000's where its metadata lie beside them or the folder above them has its name,
  if all images are ``ISIC_*`` and no folder names a part.
- Without a folder of masks, ``a_mask.png`` is the mask of ``a.jpg`` beside it, ``a_hair.png`` one of the class hair;
  ``a_2.png``, what has a mask of its own, and JPEGs are images. A folder is read so only if it holds a lesion's mask
  beside its image, and neither it nor one above it holds another data set.
- ``train``, ``val`` and ``test`` (``Training_set``, ``test-images``) in the path of a user's own images, the folder
  that is read included, are their part; the innermost counts. Of folders side by side, all name a part or none does.
- Where all images are in parts and no mask is, a mask is of the image of its name in any part, and no two images may
  have one name.
- ``images/`` without masks counts in the folder that is read and one below, not deeper.
- ``metadata.csv`` beside a user's own images, or beside the folder of their part, says what is known of them, and
  in ``group``, ``patient_id`` or ``lesion_id`` (the first of these that an image has counts) which belong together.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, cast

from dermseg.data import metadata
from dermseg.errors import DataError, InputError
from dermseg.imaging import IMAGE_SUFFIXES

Part = Literal["train", "validation", "test"]
CC0 = "CC0-1.0"
CC_BY_NC = "CC-BY-NC-4.0"
LESION = "lesion"
ATTRIBUTES = ("pigment_network", "negative_network", "streaks", "milia_like_cyst", "globules")
"""The dermoscopic structures of ISIC 2018 Task 2, in the challenge's order."""
LESION_SUFFIXES = ("", f"_{LESION}", "_segmentation", "_mask")
"""What ends the name of a plain data set's lesion masks; the first goes before the others."""
DEPTH = 3
"""How many folders below the one that is read a data set may lie."""

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img"})
MASK_FOLDERS = frozenset({"masks", "mask", "labels", "annotations", "groundtruth", "ground_truth", "gt"})
LOSSLESS = frozenset({".png", ".bmp", ".tif", ".tiff"})
_PART = re.compile(
    r"(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id(?:ation)?)?|tune)|(?P<test>test(?:ing)?))"
    rf"(?:[ _-]?(?:set|data|{'|'.join(sorted(IMAGE_FOLDERS | MASK_FOLDERS))}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Patterns are paths below its folder without the file's suffix; ``*`` is anything, ``{part}`` training, validation or
    test, and ``{id}`` the image's id. A user's own data set has none.

    Attributes:
        masks: Pattern by class.
        tables: What says more of the images.
    """

    source: str
    licence: str
    images: str = ""
    masks: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[metadata.Table, ...] = ()


HAM10000 = Layout(
    source="ham10000",
    licence=CC_BY_NC,
    images="HAM10000_images*/ISIC_*",
    masks={LESION: "HAM10000_segmentations_lesion_tschandl/{id}_segmentation"},
    tables=(metadata.HAM10000,),
)
PUBLISHED = (
    Layout(
        source="isic2016",
        licence=CC0,
        images="ISBI2016_ISIC_Part1_{part}_Data/ISIC_*",
        masks={LESION: "ISBI2016_ISIC_Part1_{part}_GroundTruth/{id}_segmentation"},
    ),
    Layout(
        source="isic2017",
        licence=CC0,
        images="ISIC-2017_{part}_Data/ISIC_*",
        masks={LESION: "ISIC-2017_{part}_Part1_GroundTruth/{id}_segmentation"},
        tables=metadata.ISIC2017,
    ),
    Layout(
        source="isic2018",
        licence=CC_BY_NC,
        images="ISIC2018_Task1-2_{part}_Input/ISIC_*",
        masks={
            LESION: "ISIC2018_Task1_{part}_GroundTruth/{id}_segmentation",
            **{name: f"ISIC2018_Task2_{{part}}_GroundTruth*/{{id}}_attribute_{name}" for name in ATTRIBUTES},
        },
    ),
    HAM10000,
    Layout(
        source="ph2",
        licence="research and education only",
        images="IMD*/IMD*_Dermoscopic_Image/IMD*",
        masks={LESION: "IMD*/IMD*_lesion/{id}_lesion"},
    ),
)
OWN = Layout(source="plain", licence="not stated", tables=(metadata.OWN,))
LAYOUTS = (*PUBLISHED, OWN)


def part_of(name: str) -> Part | None:
    """The part that a folder's name says: ``train``, ``Training_set``, ``val-images``, ``testdata``."""
    match = _PART.fullmatch(name)
    return cast("Part", match.lastgroup) if match else None


class Folder:
    """A folder, listed once, when it is first asked for, without hidden files and what macOS adds to archives.

    Attributes:
        path: Where it is.
        below: The names of the folders from the one that is read to this one.
        part: What its name says, else that of the nearest folder above it, up to the one that is read.
        above: The folder that it lies in; None for the one that is read.
        taken: Whether it belongs to a data set, so that no other is looked for in it.
    """

    def __init__(self, path: Path, above: Folder | None = None) -> None:
        self.path = path
        self.above = above
        self.below: tuple[str, ...] = (*above.below, path.name) if above else ()
        self.part: Part | None = part_of(self.name) or (above.part if above else None)
        self.taken = False

    @property
    def name(self) -> str:
        """Its name, also where it was given as ``.``."""
        if self.below:
            return self.below[-1]
        return Path(os.path.abspath(self.path)).name  # noqa: PTH100 - resolve() loses the name of a link

    @cached_property
    def _names(self) -> tuple[list[str], list[str]]:
        """The names of folders and files, in order."""
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if not entry.name.startswith((".", "__MACOSX", "lost+found")):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be listed ({error.strerror or error}), and it may hold images; allow reading it, "
                "or move it away"
            ) from error
        return sorted(folders), sorted(files)

    @cached_property
    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        return [Folder(self.path / name, self) for name in self._names[0]]

    @property
    def home(self) -> tuple[str, ...]:
        """``below`` without the names of parts: the data set whose parts they are."""
        return tuple(name for name in self.below if part_of(name) is None)

    @property
    def files(self) -> list[str]:
        """The names of all files in it."""
        return self._names[1]

    @cached_property
    def images(self) -> list[Path]:
        """The files in it that may be images or masks, by name; ISIC 2017's superpixels are neither."""
        paths = (self.path / name for name in self.files)
        return [
            path
            for path in paths
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.stem.lower().endswith("_superpixels")
        ]


@dataclass(frozen=True)
class Found:
    """An image of a data set with its masks by class."""

    id: str
    image: Path
    masks: Mapping[str, Path]
    part: Part | None


@dataclass(frozen=True)
class DataSet:
    """What one folder holds of one data set."""

    layout: Layout
    folder: Folder
    images: Sequence[Found]


def find(folder: Folder, sources: Set[str], *, within: bool = False) -> Iterator[DataSet]:
    """Find the data sets of ``sources`` in a folder and in those below it.

    Args:
        folder: Where to look.
        sources: Names of layouts.
        within: Whether the folder lies in one that holds a data set.

    Raises:
        InputError: If a folder cannot be listed.
        DataError: If it cannot be said which files are meant or which part they are.
    """
    found = [DataSet(layout, folder, images) for layout in PUBLISHED if (images := _published(folder, layout))]
    if sources & {OWN.source, HAM10000.source} and (own := _own(folder, beside=not found and not within)):
        found.append(DataSet(HAM10000 if _is_ham10000(folder, own) else OWN, folder, own))
    yield from (data_set for data_set in found if data_set.layout.source in sources)
    if len(folder.below) < DEPTH:
        with_own = []
        for child in folder.folders:
            if not child.taken:
                inside = list(find(child, sources, within=within or bool(found)))
                with_own += [child.name] if any(data_set.layout is OWN for data_set in inside) else []
                yield from inside
        _refuse_unclear_parts(folder, with_own)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match one segment of a pattern."""
    return [name for name in names if _regex(pattern).fullmatch(name)]


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    tokens = {"*": ".*", "{part}": r"(?P<part>training|validation|test)(?:_v\d+)?", "{id}": "(?P<id>.+)"}
    pieces = re.split(r"(\*|\{part\}|\{id\})", pattern)
    return re.compile("".join(tokens.get(piece) or re.escape(piece) for piece in pieces), re.IGNORECASE)


def _files(folder: Folder, pattern: str, part: Part | None = None) -> list[tuple[str, Path, Part | None]]:
    """Id, file and part of what matches a pattern."""
    name, _, rest = pattern.partition("/")
    regex = _regex(name)
    if not rest:
        matches = ((regex.fullmatch(path.stem), path) for path in folder.images)
        return [(match.groupdict().get("id", path.stem), path, part) for match, path in matches if match]
    found = []
    for child in folder.folders:
        if match := regex.fullmatch(child.name):
            own = part_of(match.groupdict().get("part", "")) or part
            nested = (deeper for deeper in child.folders if regex.fullmatch(deeper.name))
            files = [file for place in (child, *nested) for file in _files(place, rest, own)]
            child.taken = child.taken or bool(files)
            found += files
    return found


def _published(folder: Folder, layout: Layout) -> list[Found]:
    """The images of a published data set in one folder."""
    images = _files(folder, layout.images)
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, pattern in layout.masks.items() if images else ():
        for id, path, _ in _files(folder, pattern):
            masks[id.upper()].setdefault(name, path)
    return [Found(id, path, masks.get(id.upper(), {}), part) for id, path, part in images]


def _own(folder: Folder, beside: bool) -> list[Found]:
    """A user's own images in one folder; ``beside`` allows masks beside their images."""
    images = _role(folder, IMAGE_FOLDERS)
    masks = _role(folder, MASK_FOLDERS) if images else {}
    if not images and beside and folder.name.lower() not in MASK_FOLDERS:
        images = {None: folder.images}
        if not (masks := _split_off_masks(images)):
            return []
    elif not masks and not (masks := _split_off_masks(images)) and len(folder.home) > 1:
        return []
    found = []
    part_of_image = {path: part for part, paths in images.items() for path in paths}
    in_one_folder = masks.keys() == {None} and None not in images
    for part in [None] if in_one_folder else images:
        by_id = _by_stem(part_of_image if in_one_folder else images[part])
        masks_of = _suffixed(_by_stem(masks.get(part, ())), by_id.keys())
        found += [
            Found(id, path, masks_of.get(id, {}), part_of_image[path] or folder.part) for id, path in by_id.items()
        ]
    return found


def _role(folder: Folder, names: Set[str]) -> dict[Part | None, list[Path]]:
    """The files of a folder's one child with one of ``names``, in it or in its folders of parts."""
    contents: dict[str, dict[Part | None, list[Path]]] = {}
    for child in folder.folders:
        if child.name.lower() not in names or child.taken:
            continue
        files: dict[Part | None, list[Path]] = defaultdict(list)
        files[None] += child.images
        if names is IMAGE_FOLDERS:
            _refuse_unclear_parts(child, [inner.name for inner in child.folders if inner.images])
        for inner in child.folders:
            if inner.name.lower() == child.name.lower():
                files[None] += inner.images
            elif (part := part_of(inner.name)) is not None:
                files[part] += inner.images
        if any(files.values()):
            child.taken = True
            contents[child.name] = {part: paths for part, paths in files.items() if paths}
    if len(contents) > 1:
        raise DataError(
            f"{folder.path} holds {' and '.join(f'{name}/' for name in contents)}, and it cannot be said which is "
            "meant; keep one of them there"
        )
    return next(iter(contents.values()), {})


def _refuse_unclear_parts(folder: Folder, names: Sequence[str]) -> None:
    """Refuse folders of images side by side of which only some name their part."""
    parts = [name for name in names if part_of(name)]
    others = [name for name in names if not part_of(name) and name.lower() != folder.name.lower()]
    if parts and others:
        raise DataError(
            f"{folder.path} holds images in {parts[0]}/ and in {others[0]}/, and it cannot be said on which side the "
            "latter are; expected train, val or test as the name of each such folder (or, say, test_set): rename it, "
            "or move it away"
        )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; a link to nothing or to itself counts as a file, which says so when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _split_off_masks(images: dict[Part | None, list[Path]]) -> dict[Part | None, list[Path]]:
    """Take the masks out of folders that hold them beside their images; nothing where no folder holds such a pair."""
    masks = {}
    for part, paths in images.items():
        stems = {path.stem for path in paths}
        lossless = {path.stem for path in paths if path.suffix.lower() in LOSSLESS}
        ends = [(stem, suffix) for stem in lossless for suffix in LESION_SUFFIXES[1:] if stem.lower().endswith(suffix)]
        if outlined := {stem[: -len(suffix)] for stem, suffix in ends} & stems:
            kept: set[str] = set()
            for stem in sorted(stems, key=len):
                owner = None if stem in outlined or stem not in lossless else _owner(stem, kept)
                if owner is None or not stem[len(owner) + 1 : len(owner) + 2].isalpha():
                    kept.add(stem)
            masks[part] = [path for path in paths if path.stem not in kept]
            images[part] = [path for path in paths if path.stem in kept]
    return masks


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        if (first := by_stem.setdefault(path.stem, path)) is not path:
            raise DataError(f"{first} and {path} have one name, and it cannot be said which is meant; rename one")
    return by_stem


def _suffixed(masks: Mapping[str, Path], ids: Set[str]) -> dict[str, dict[str, Path]]:
    """The masks of each image, whose class is what follows the id in the name."""
    by_suffix: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, path in masks.items():
        if (owner := _owner(stem, ids)) is not None:
            by_suffix[owner][stem[len(owner) :]] = path
    found = {}
    for id, own in by_suffix.items():
        lesion = [suffix for end in LESION_SUFFIXES for suffix in own if suffix.lower() == end]
        found[id] = {suffix[1:]: path for suffix, path in own.items() if suffix not in (*lesion, "_")}
        found[id] |= {LESION: own[lesion[0]]} if lesion else {}
    return found


def _owner(stem: str, ids: Set[str]) -> str | None:
    """The longest id that begins a mask's name: a_b_hair is of image a_b where there is one, else of image a."""
    ends = [len(stem), *(index for index in range(len(stem) - 1, 0, -1) if stem[index] == "_")]
    return next((stem[:end] for end in ends if stem[:end] in ids), None)


def _is_ham10000(folder: Folder, found: Sequence[Found]) -> bool:
    """Whether what looks like a user's own is a copy of HAM10000."""
    named = "ham10000" in folder.name.lower() or matching(folder.files, metadata.HAM10000.file)
    return bool(named) and all(one.part is None and _regex("ISIC_*").fullmatch(one.id) for one in found)
