"""Which side an image is on: ``train``, ``tune`` or ``test``.

A shipped table gives one split to each image id and each group of images, whichever data set they come from, because
the ISIC data sets share images. There is one table for the lesion and one for the attributes of ISIC 2018 Task 2, of
which there are too few on the first one's sides. ``tune`` chooses checkpoints, thresholds and calibration; nothing is
fitted on ``test``.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.data.catalog import ATTRIBUTES, Sample
from dermseg.errors import DataError, InputError
from dermseg.imaging import open_image, read_mask

Split = Literal["train", "tune", "test"]
Points = tuple[NDArray[np.float32], NDArray[np.float32]]  # places (N, 2) and SIFT descriptors (N, 128)
SPLITS: tuple[Split, ...] = get_args(Split)
DEFAULT = Path(__file__).parents[1] / "splits" / "default.csv"
ATTRIBUTE_TABLE = DEFAULT.with_name("attributes.csv")

# Two images show one lesion where this many points match under one similarity. In ISIC 2018 that holds for 94 pairs;
# seen by eye, nearly all with 9 to 20 matches are of one lesion, those with fewer mostly share a ruler or hairs.
MATCHING_POINTS = 9
NEIGHBOURS = 24  # that an image is compared with by points; 88 of the 94 pairs are among them


def read(path: Path = DEFAULT) -> dict[str, Split]:
    """Read a table of splits (columns ``id``, ``group``, ``split``): the split of each id and each group.

    Raises:
        InputError: If there is no such file.
        DataError: If the table has other columns or values, or puts one id or group on two sides.
    """
    if not path.is_file():
        raise InputError(f"there is no table of splits {path}; expected a CSV with the columns id, group, split")
    table: dict[str, Split] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = set(reader.fieldnames or ()), list(reader)
    except (UnicodeDecodeError, csv.Error):
        columns, rows = set(), []
    if not {"id", "group", "split"} <= columns:
        raise DataError(f"{path} is no table of splits: expected the columns id, group, split")
    for row in rows:
        side = row["split"]
        if side not in SPLITS:
            raise DataError(f"{path}: {row['id']} has split {side!r}; expected one of {', '.join(SPLITS)}")
        for name in (row["id"], row["group"]):
            if table.setdefault(name, side) != side:
                raise DataError(f"{path}: {name} is in both {table[name]} and {side}; it must be in one")
    return table


def default_for(classes: Iterable[str]) -> Path:
    """The shipped table for a network of these classes."""
    return ATTRIBUTE_TABLE if set(classes) <= set(ATTRIBUTES) else DEFAULT


def table_for(classes: Iterable[str]) -> dict[str, Split]:
    """The shipped table for a network of these classes, read."""
    return read(default_for(classes))


def split_of(sample: Sample, table: Mapping[str, Split]) -> Split:
    """The split of a sample: its id's, else its group's, else by rule.

    The rule puts the challenges' validation and test images, and PH2, into ``test``; other images go to ``train``,
    ``tune`` and ``test`` by a hash of their group (80, 10, 10 %).
    """
    if (side := table.get(sample.id) or table.get(sample.group)) is not None:
        return side
    if sample.source == "ph2" or _is_held_out(sample):
        return "test"
    share = _rank(sample.group) / 2**256
    return "tune" if share < 0.1 else "test" if share < 0.2 else "train"


def select(samples: Iterable[Sample], split: str, table: Mapping[str, Split] | None = None) -> list[Sample]:
    """Keep the samples of one split, or all of them for ``all``.

    Raises:
        InputError: If there is no such split.
    """
    if split not in (*SPLITS, "all"):
        raise InputError(f"there is no split {split!r}; choose from: {', '.join(SPLITS)}, all")
    table = read() if table is None else table
    return [sample for sample in samples if split == "all" or split_of(sample, table) == split]


def draw(samples: Sequence[Sample]) -> list[tuple[str, str, Split]]:
    """Draw the shipped table from ISIC 2017, ISIC 2018 and HAM10000.

    ``test`` is ISIC 2017 validation, ISIC 2017 test where ``samples`` hold it, and a tenth of HAM10000's lesions;
    ``tune`` a tenth of ISIC 2017 training and another tenth of the lesions. ISIC 2018 training images follow ISIC
    2017; those without a lesion mask in ``samples`` are ``test``: the shipped table was drawn from a copy that lacks
    the masks of ISIC 2017's test images.

    Returns:
        Rows of id, group, split, ordered by id.
    """
    by_source = {source: [s for s in samples if s.source == source] for source in ("isic2017", "isic2018", "ham10000")}
    official_test = {s.id for s in by_source["isic2017"] if _is_held_out(s)}
    side: dict[str, Split] = dict.fromkeys(official_test, "test")
    side |= _tenths([s.group for s in by_source["isic2017"] if s.id not in official_test], ("tune",))
    side |= _tenths([s.group for s in by_source["ham10000"]], ("tune", "test"))
    for sample in by_source["isic2018"]:
        side.setdefault(sample.id, "train" if "lesion" in sample.masks else "test")
    rows = {s.id: (s.id, s.group, side[s.group]) for source in by_source.values() for s in source}
    return [rows[key] for key in sorted(rows)]


def draw_attributes(
    samples: Sequence[Sample],
    lesion: Mapping[str, Split] | None = None,
    groups: Mapping[str, str] | None = None,
) -> list[tuple[str, str, Split]]:
    """Draw the shipped table of attributes from ISIC 2018's training images that have the masks of Task 2.

    ``tune`` and ``test`` get a tenth of the images and of each attribute's images each, near-duplicates together. An
    attribute network may begin with a lesion network's weights; therefore what that trained on is ``train`` here too,
    what it was tuned or tested on keeps its side, and what remains is filled with images without a lesion mask.

    Args:
        samples: Of ISIC 2018; others are ignored.
        lesion: The table of the lesion; the shipped one if None.
        groups: What ``near_duplicates`` finds, which takes minutes; it is called if None.

    Returns:
        Rows of id, group, split, ordered by id; a group has the name of its first image.
    """
    lesion = read() if lesion is None else lesion
    images = {s.id: s for s in samples if s.source == "isic2018" and s.masks.keys() >= set(ATTRIBUTES)}
    images = {id: sample for id, sample in sorted(images.items()) if not _is_held_out(sample)}
    fixed = {id: split_of(sample, lesion) for id, sample in images.items() if "lesion" in sample.masks}
    if groups is None:
        groups = near_duplicates({id: sample.image for id, sample in images.items()})
    covered = {
        id: [float(read_mask(sample.masks[name]).mean()) for name in ATTRIBUTES] for id, sample in images.items()
    }
    side = _stratify({id: groups[id] for id in images}, covered, fixed)
    return [(id, groups[id], side[groups[id]]) for id in images]


def near_duplicates(images: Mapping[str, Path]) -> dict[str, str]:
    """Find the images that show one lesion: other exposures, scans, crops and photographs of it.

    Each image is compared point by point with those that look most like it as a whole.

    Returns:
        The group of each image, named by its first member in the order of ids.
    """
    ids = sorted(images)
    group = {id: id for id in ids}
    if len(ids) < 2:
        return group
    with ThreadPoolExecutor() as pool:
        thumbnails, points = zip(*pool.map(lambda id: _features(images[id]), ids), strict=True)
        likeness = 0.3 * np.stack(thumbnails) @ np.stack(thumbnails).T + _likeness([found[1] for found in points])
        np.fill_diagonal(likeness, -np.inf)
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(ids) - 1)]
        pairs = np.unique([sorted((one, other)) for one, row in enumerate(nearest.tolist()) for other in row], axis=0)
        matches = pool.map(lambda pair: _matches(points[pair[0]], points[pair[1]]), pairs.tolist())
        for (one, other), count in zip(pairs.tolist(), matches, strict=True):
            if count >= MATCHING_POINTS:
                joined = {group[ids[one]], group[ids[other]]}
                group |= {id: min(joined) for id, name in group.items() if name in joined}
    return group


def _features(image: Path) -> tuple[NDArray[np.float32], Points]:
    """A thumbnail without its mean colour, of length 1, and the image's salient points."""
    pixels = open_image(image).pixels()
    thumbnail = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    thumbnail -= thumbnail.mean()
    scale = 256 / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    even = cv2.createCLAHE(2, (8, 8)).apply(grey)
    found, descriptors = cv2.SIFT_create(400, contrastThreshold=0.01).detectAndCompute(even, None)  # type: ignore[attr-defined]
    if descriptors is None:
        found, descriptors = [], np.zeros((0, 128), np.float32)
    places = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return thumbnail / max(float(np.linalg.norm(thumbnail)), 1e-6), (places, descriptors)


def _likeness(descriptors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """How alike images are in what points they have, wherever these lie (vectors of locally aggregated descriptors)."""
    roots = [np.sqrt(own / np.maximum(own.sum(1, keepdims=True), 1)) for own in descriptors]
    sample = np.concatenate([own[:: max(1, len(own) // 15)] for own in roots])
    if not len(sample):
        return np.zeros((len(roots), len(roots)), np.float32)
    words = sample[np.linspace(0, len(sample) - 1, min(64, len(sample))).astype(int)]

    def nearest(own: NDArray[np.float32]) -> NDArray[np.int64]:
        word: NDArray[np.int64] = np.argmax(own @ words.T - np.square(words).sum(1) / 2, axis=1)
        return word

    for _ in range(10):  # k-means
        word, sums = nearest(sample), np.zeros_like(words)
        np.add.at(sums, word, sample)
        counts = np.bincount(word, minlength=len(words))[:, None]
        words = np.where(counts > 0, sums / np.maximum(counts, 1), words).astype(np.float32)
    vectors = np.zeros((len(roots), *words.shape), np.float32)
    for vector, own in zip(vectors, roots, strict=True):
        word = nearest(own)
        np.add.at(vector, word, own - words[word])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)
    flat = vectors.reshape(len(vectors), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    likeness: NDArray[np.float32] = flat @ flat.T
    return likeness


def _matches(one: Points, other: Points) -> int:
    """How many points of two images are each other's clear best match and agree on one similarity."""
    (places, descriptors), (other_places, other_descriptors) = one, other
    if min(len(places), len(other_places)) < 5:
        return 0
    squares = np.square(descriptors).sum(1)[:, None] + np.square(other_descriptors).sum(1)
    distance = squares - 2 * descriptors @ other_descriptors.T
    nearest, rows = distance.argmin(1), np.arange(len(distance))
    mutual = distance.argmin(0)[nearest] == rows
    best = distance[rows, nearest]
    distance[rows, nearest] = np.inf
    clear = mutual & (best < 0.72 * distance.min(1))
    if clear.sum() < 5:
        return 0
    similarity, agree = cv2.estimateAffinePartial2D(
        places[clear], other_places[nearest[clear]], ransacReprojThreshold=4.0
    )
    scale = 0.0 if similarity is None else float(np.hypot(similarity[0, 0], similarity[1, 0]))
    return int(agree.sum()) if 0.5 < scale < 2 else 0


def _stratify(
    groups: Mapping[str, str], covered: Mapping[str, Sequence[float]], fixed: Mapping[str, Split]
) -> dict[str, Split]:
    """Give each group a side, ``tune`` and ``test`` a tenth of the whole each and like it in what their masks cover.

    Alike are the number of images of each class and of none, and the area that each class covers.

    Args:
        groups: Group by image.
        covered: The share of an image that each class covers, by image.
        fixed: Side by image. A group with such images has theirs; ``train`` goes before ``test`` before ``tune``.
    """
    if not groups:
        return {}
    ids = sorted(groups)
    share = np.array([covered[id] for id in ids], np.float64)
    shown = share > 0
    mean = share.sum(0) / np.maximum(shown.sum(0), 1)  # of the images that show the class: an area counts like an image
    columns = np.column_stack([np.ones(len(ids)), ~shown.any(1), shown, share / np.where(mean > 0, mean, 1)])
    content: dict[str, NDArray[np.float64]] = {}
    fixed_of: dict[str, set[Split]] = defaultdict(set)
    for id, row in zip(ids, columns, strict=True):
        content[groups[id]] = content.get(groups[id], 0) + row
        fixed_of[groups[id]] |= {fixed[id]} if id in fixed else set()
    order: tuple[Split, ...] = ("train", "test", "tune")
    side = {group: next(name for name in order if name in sides) for group, sides in fixed_of.items() if sides}
    free = sorted(content.keys() - side.keys(), key=_rank)
    goal = columns.sum(0) / 10
    for name in order[1:]:
        taken = sum((content[group] for group in side if side[group] == name), np.zeros_like(goal))
        while free and taken[0] < round(goal[0]):
            after = taken + np.stack([content[group] for group in free])
            # A count strays by its square root, so a rare class weighs more.
            nearest = int((np.square(after - goal) / np.maximum(goal, 1)).sum(1).argmin())
            side[free[nearest]] = name
            taken = after[nearest]
            del free[nearest]
    return {group: side.get(group, "train") for group in content}


def _is_held_out(sample: Sample) -> bool:
    """Whether the image is of a challenge's validation or test set, by its official folder."""
    return re.match(r"ISIC.*_(Validation|Test)_", sample.image.parent.name) is not None


def _tenths(groups: Iterable[str], sides: Sequence[Split]) -> dict[str, Split]:
    """Give a tenth of the groups to each of ``sides``, the rest to ``train``; a hash makes the order."""
    ordered = sorted(set(groups), key=_rank)
    tenth = round(len(ordered) / 10)
    side: dict[str, Split] = dict.fromkeys(ordered, "train")
    for number, name in enumerate(sides):
        side |= dict.fromkeys(ordered[number * tenth : (number + 1) * tenth], name)
    return side


def _rank(group: str) -> int:
    return int.from_bytes(hashlib.sha256(f"dermseg:{group}".encode()).digest(), "big")
