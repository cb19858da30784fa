"""Reads the field's data sets, in the layouts their owners publish, and a user's own into ``Sample``s."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from dermseg.data import metadata
from dermseg.data.layouts import (
    ATTRIBUTES,
    CC0,
    CC_BY_NC,
    DEPTH,
    IMAGE_FOLDERS,
    LAYOUTS,
    LESION,
    LESION_SUFFIXES,
    OWN,
    PUBLISHED,
    DataSet,
    Folder,
    Found,
    Layout,
    Part,
    find,
    matching,
    part_of,
)
from dermseg.errors import DataError, InputError

__all__ = [
    "ATTRIBUTES",
    "CC0",
    "CC_BY_NC",
    "LAYOUTS",
    "LESION",
    "LESION_SUFFIXES",
    "PLAIN",
    "SOURCES",
    "Part",
    "Sample",
    "read",
    "with_masks",
]

SOURCES = tuple(layout.source for layout in LAYOUTS)
PLAIN = OWN.source
"""A user's own pictures: images/a1.png with masks/a1.png, or with a mask of each class as masks/a1_hair.png."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        id: The image's name in its data set, such as ``ISIC_0000000``; data sets that share images share ids. Where
            images of a user's own have one name, that of their part or folder goes before it: ``train/a1``.
        image: The image file.
        masks: Mask files by class name; empty where the data set has none for this image.
        group: What must stay on one side of a split: the lesion or patient, or the id where neither is known.
        source: The data set, such as ``isic2017``.
        licence: The data set's licence, as SPDX names it where it has such a name.
        part: The side that the data set's own folders give it, for a user's own images also the name of the folder that
            is read; None where they give none.
        metadata: What the data set's tables say of the image, by ``metadata.KEYS``; without what they leave out.
    """

    id: str
    image: Path
    masks: Mapping[str, Path] = field(hash=False)
    group: str
    source: str
    licence: str
    part: Part | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


def read(folder: str | Path, sources: Sequence[str] | None = None) -> list[Sample]:
    """Read the data sets in ``folder`` itself and in the folders below it; ``dermseg.data.layouts`` says which.

    An image that stands in two folders of a published data set (at two sizes, say) is taken from the fuller folder.

    Args:
        folder: A data set's folder, or a folder of such folders.
        sources: The data sets to read, of ``SOURCES``; all that are found if None.

    Returns:
        The samples ordered by data set and id.

    Raises:
        InputError: If the folder does not exist, one in it cannot be listed, or a source has no known layout.
        DataError: If no sample, or none of a source that was asked for, is found, or if it cannot be said which files
            are meant or on which side of its data set an image stands.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no folder; expected one that holds a data set ({', '.join(SOURCES)})")
    if unknown := sorted(set(sources or ()) - set(SOURCES)):
        raise InputError(f"there is no data set {unknown[0]!r}; choose from: {', '.join(SOURCES)}")
    listing = Folder(root)
    found: dict[str, list[DataSet]] = defaultdict(list)
    for data_set in find(listing, set(SOURCES if sources is None else sources)):
        found[data_set.layout.source].append(data_set)
    if missing := [source for source in SOURCES if source in (sources or ()) and source not in found]:
        raise DataError(_unknown(listing, missing))
    if not found:
        raise DataError(_unknown(listing, SOURCES))
    samples: list[Sample] = []
    for source in SOURCES:
        read_one = _read_own if source == PLAIN else _read_published
        samples.extend(sorted(read_one(found[source]), key=lambda sample: sample.id))
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
        name = f"{first.image.stem}_{missing}.png"
        if IMAGE_FOLDERS.isdisjoint(part.lower() for part in first.image.parts[-3:-1]):
            place = f"{name} beside it"
        else:
            place = f"masks/{first.image.stem}.png or {name}" if missing == LESION else f"masks/{name}"
        raise DataError(
            f"{first.image} has no mask of {missing} ({len(lacking)} of {len(own)} images lack a mask); expected "
            f"{place}, empty where nothing is to be seen"
        )
    return complete


def _read_published(data_sets: Sequence[DataSet]) -> Iterable[Sample]:
    by_id: dict[str, Sample] = {}
    for data_set in sorted(data_sets, key=lambda found: len(found.images), reverse=True):
        layout = data_set.layout
        taken = [child for child in data_set.folder.folders if child.taken]
        nested = [inner for child in taken for inner in child.folders if inner.name.lower() == child.name.lower()]
        told = {id.upper(): said for id, said in _told(layout, (data_set.folder, *taken, *nested)).items()}
        for one in data_set.images:
            id = one.id.upper()  # as the owners write it, and tables of splits do
            said = told.get(id, {})
            group, known = said.get(metadata.GROUP, id), metadata.known(said)
            sample = Sample(id, one.image, one.masks, group, layout.source, layout.licence, one.part, known)
            first = by_id.setdefault(id, sample)
            if first.part != sample.part:
                raise DataError(
                    f"{first.image} is of {first.part} and {sample.image} of {sample.part}, and it cannot be said on "
                    f"which side of {layout.source} the image stands; remove the one that does not belong there"
                )
    return by_id.values()


def _read_own(data_sets: Sequence[DataSet]) -> Iterable[Sample]:
    """A user's own images; those of one name keep apart, since they may show different lesions."""
    parts: dict[object, set[Part | None]] = defaultdict(set)
    homes: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    images = [(data_set.folder.home, one, said) for data_set in data_sets for one, said in _with_metadata(data_set)]
    for home, one, _ in images:
        parts[home, one.id].add(one.part)
    named = [
        (home, f"{one.part}/{one.id}" if one.part and len(parts[home, one.id]) > 1 else one.id, one, said)
        for home, one, said in images
    ]
    group_of: dict[str, str] = {}
    for home, name, _, said in named:
        homes[name].add(home)
        if metadata.GROUP in said:
            group_of.setdefault(name, said[metadata.GROUP])
    by_id: dict[str, Sample] = {}
    for home, name, one, said in named:
        id = "/".join((*home, name)) if len(homes[name]) > 1 else name
        # Folders may hold the same images at several sizes: where no table tells them apart, their names are one group.
        group = said.get(metadata.GROUP) or group_of.get(name, name)
        sample = Sample(id, one.image, one.masks, group, PLAIN, OWN.licence, one.part, metadata.known(said))
        if (first := by_id.setdefault(id, sample)) is not sample:
            raise DataError(
                f"{first.image} and {sample.image} have one name in one part of a data set; rename or remove one"
            )
    return by_id.values()


def _unknown(folder: Folder, sources: Sequence[str]) -> str:
    """What was found in a folder without a data set of ``sources``, and what was expected."""
    wanted = "data set that dermseg knows" if len(sources) == len(SOURCES) else " and no ".join(sources)
    lines = [f"{folder.path} holds no {wanted}; found {_contents(folder)}"]
    lines += [f"  {child.name}/: {_contents(child)}" for child in folder.folders[:3]]
    lines.append(f"expected, there or at most {DEPTH} folders deeper:")
    for layout in PUBLISHED:
        if layout.source in sources:
            patterns = (layout.images, layout.masks[LESION])
            shown = " with ".join(text.replace("{part}", "*").replace("{id}", "*") for text in patterns)
            lines.append(f"  {layout.source}: {shown}")
    if PLAIN in sources:
        lines.append(
            f"  {PLAIN}: images/a.jpg with masks/a.png, each also in train/, val/ and test/, or a.jpg beside a_mask.png"
        )
    lines.append("name the folders so, or give the folder above them")
    return "\n".join(lines)


def _contents(folder: Folder) -> str:
    """What lies in a folder, such as ``2 folders (a, b), 340 .jpg``."""
    kinds = Counter(PurePath(name).suffix.lower() or "without suffix" for name in folder.files)
    counts = [f"{count} {kind}" for kind, count in kinds.most_common(4)]
    if names := [child.name for child in folder.folders]:
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        counts.insert(0, f"{len(names)} folder{'s' * (len(names) > 1)} ({shown})")
    return ", ".join(counts) + ", ..." * (len(kinds) > 4) if counts else "nothing"


def _with_metadata(data_set: DataSet) -> list[tuple[Found, Mapping[str, str]]]:
    """A user's own images of one folder, with what the table beside them says, or that beside the folder of a part."""
    folder = data_set.folder
    above = [folder.above] if folder.above and part_of(folder.name) else []
    told = _told(OWN, (folder, *above))
    if told and not above and told.keys().isdisjoint(one.id for one in data_set.images):
        raise DataError(
            f"{folder.path / metadata.OWN.file} names none of the images there, such as {data_set.images[0].id!r}, but "
            f"{next(iter(told))!r}; expected their files' names without suffix in the column id"
        )
    return [(one, told.get(one.id, {})) for one in data_set.images]


def _told(layout: Layout, folders: Sequence[Folder]) -> dict[str, Mapping[str, str]]:
    """What the tables in some folders say of each image, by its id; those in the first folder go before the others."""
    told: dict[str, Mapping[str, str]] = {}
    for table in layout.tables:
        paths = [folder.path / name for folder in folders for name in matching(folder.files, table.file)]
        if metadata.GROUP in table.columns:
            if not paths:
                raise DataError(
                    f"{folders[0].path} holds HAM10000 images without {table.file}; it is needed, since it says which "
                    "images show one lesion"
                )
            paths = paths[:1]
        for path in paths:
            for id, said in metadata.read(path, table).items():
                told[id] = {**said, **told.get(id, {})}
    return told
