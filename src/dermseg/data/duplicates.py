"""Which images are copies of one picture: re-encoded, rescaled, exposed otherwise, slightly shifted, flipped or turned.

A fingerprint is a perceptual hash with which every image is compared with every other one, and a small picture of the
finest detail it keeps, which confirms. The hash alone would not do: dermoscopy images of a dark lesion in the middle
are all alike to it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import DermsegError, InputError
from dermseg.imaging import open_image
from dermseg.parallel import attempt, in_order

Fingerprint = NDArray[np.uint8]
Points = tuple[NDArray[np.float32], NDArray[np.float32]]  # places (N, 2) and SIFT descriptors (N, 128)
Progress = Callable[[int, int], None]
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Value = TypeVar("Value")

SIDE = 32  # of the square that an image is reduced to
BLOCK = 16  # frequencies of the cosine transform, in each direction, whose signs are the hash
BITS = BLOCK**2
BYTES = BITS // 8
SHIFT = 2  # pixels of the small picture that copies may be shifted by

# Among the 10,816 images of ISIC 2017, ISIC 2018 and HAM10000 these find 192 pairs: 152 are of one lesion by
# HAM10000's metadata, and the 40 others show one lesion too, seen by eye. Below a likeness of 0.53 different lesions
# of one shape begin; beyond 80 bits candidates multiply (8,000 within 80, 122,000 within 96) for few more pairs.
AT_MOST = 80
ALIKE = 0.55
ALIKE_TURNED = 0.7  # eight times as many candidates: below it, 4 of 6 pairs were wrong
SHOWS = 0.1  # standard deviation of fine detail, below which a picture shows nothing
PAIRS_EACH = 8  # with earlier images of its group; the frames of one film would make as many as their square

# Two images show one lesion where this many points match under one similarity. In ISIC 2018 that holds for 94 pairs;
# seen by eye, nearly all with 9 to 20 matches are of one lesion, those with fewer mostly share a ruler or hairs.
MATCHING_POINTS = 9
NEIGHBOURS = 24  # that an image is compared with by points; 88 of the 94 pairs are among them


@dataclass(frozen=True)
class Pair(Generic[Key]):
    """Two images that are copies of one picture.

    Attributes:
        one: The image that comes first.
        other: The image that comes later.
        distance: Bits of the hashes that differ, 0 to 256.
        likeness: Correlation of their fine detail, up to 1.
        turned: Whether one had to be flipped or turned by quarters to be like the other.
    """

    one: Key
    other: Key
    distance: int
    likeness: float
    turned: bool


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint:
    """Reduce an image to what its copies share.

    Args:
        pixels: RGB, uint8 (H, W, 3), of any size; 256 pixels are plenty.

    Returns:
        uint8 (1056,): the signs of 16 x 16 coefficients of the cosine transform of the image's 32 x 32 grey values
        (32 bytes), then those values less their surroundings and divided by the local contrast (1024).
    """
    reduced = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(reduced, cv2.COLOR_RGB2GRAY).astype(np.float32)
    signs = cv2.dct(grey)[:BLOCK, :BLOCK] > 1e-3  # what rounding leaves of an even surface is no sign
    signs[0, 0] = False  # the mean
    raised = grey - cv2.GaussianBlur(grey, (0, 0), 1)
    contrast = np.sqrt(cv2.GaussianBlur(np.square(raised), (0, 0), 2) + 4)  # below 2 grey values it is noise
    detail = np.clip(np.rint(128 + 32 * raised / contrast), 0, 255).astype(np.uint8)
    return np.concatenate([np.packbits(signs), detail.ravel()])


def read_fingerprints(
    images: Mapping[Key, Path], progress: Progress | None = None
) -> tuple[dict[Key, Fingerprint], dict[Key, DermsegError]]:
    """Read images and take their fingerprints; returns as ``read_each`` does."""
    return read_each(images, lambda path: fingerprint(open_image(path).pixels(at_least=256)), progress)


def read_each(
    files: Mapping[Key, Item], read: Callable[[Item], Value], progress: Progress | None = None
) -> tuple[dict[Key, Value], dict[Key, DermsegError]]:
    """Read files on several threads, where some may be broken.

    Args:
        files: What ``read`` takes, by whatever names it.
        read: Reads one.
        progress: Called with files done and files in all.

    Returns:
        What was read, and why the others could not be.
    """
    found: dict[Key, Value] = {}
    failed: dict[Key, DermsegError] = {}
    for done, (key, result) in enumerate(
        zip(files, in_order(partial(attempt, read), files.values()), strict=True), start=1
    ):
        if isinstance(result, DermsegError):
            failed[key] = result
        else:
            found[key] = result
        if progress is not None:
            progress(done, len(files))
    return found, failed


def find_pairs(
    fingerprints: Mapping[Key, Fingerprint], *, at_most: int = AT_MOST, turned: bool = False
) -> list[Pair[Key]]:
    """Find the pairs of copies.

    Of many images that are copies of each other, each is paired with a few of the first ones; ``join`` makes one group
    of them all the same.

    Args:
        fingerprints: By whatever names an image.
        at_most: Bits of the hashes that may differ; of two unlike images about 128 do.
        turned: Whether to look for flipped and turned copies too, which takes eight times as long.

    Returns:
        The pairs, the most alike first.

    Raises:
        InputError: If a fingerprint is of another length.
    """
    if odd := [key for key in fingerprints if fingerprints[key].shape != (BYTES + SIDE**2,)]:
        raise InputError(f"{odd[0]} has no fingerprint of {BYTES + SIDE**2} bytes; take it with fingerprint(pixels)")
    keys = [key for key, taken in fingerprints.items() if _detail(taken).std() >= SHOWS]
    if not keys:
        return []
    signs = 2 * np.unpackbits(np.stack([fingerprints[key][:BYTES] for key in keys]), axis=1).astype(np.float32) - 1
    detail = [_detail(fingerprints[key]) for key in keys]
    best: dict[tuple[int, int], Pair[Key]] = {}
    group, earlier = np.arange(len(keys)), np.zeros(len(keys), int)  # earlier: pairs with images before this one
    for turn in range(8 if turned else 1):
        for one, others, distances in _candidates(signs, turn, at_most):
            fresh = (group[others] != group[one]) | (earlier[others] < PAIRS_EACH)
            for other, distance in zip(others[fresh].tolist(), distances[fresh].tolist(), strict=True):
                likeness = _correlation(_turn(detail[one], turn), detail[other])
                known = best.get((one, other))
                if likeness >= (ALIKE_TURNED if turn else ALIKE) and (known is None or likeness > known.likeness):
                    best[one, other] = Pair(keys[one], keys[other], distance, likeness, turned=turn > 0)
                    earlier[other] += known is None
                    group[group == group[other]] = group[one]
    return [best[pair] for pair in sorted(best, key=lambda pair: (-best[pair].likeness, pair))]


def join(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join what is paired, directly or through others.

    Returns:
        The group of each name in a pair: the first of the names in it, as they are sorted.
    """
    above: dict[str, str] = {}

    def first(name: str) -> str:
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for one, other in pairs:
        low, high = sorted((first(one), first(other)))
        above[high] = low
    return {name: first(name) for name in above}


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
    thumbnails, points = zip(*in_order(lambda id: _features(images[id]), ids), strict=True)
    likeness = 0.3 * np.stack(thumbnails) @ np.stack(thumbnails).T + _likeness_of_points([own[1] for own in points])
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(ids) - 1)]
    pairs = np.unique([sorted((one, other)) for one, row in enumerate(nearest.tolist()) for other in row], axis=0)
    matches = in_order(lambda pair: _matches(points[pair[0]], points[pair[1]]), pairs.tolist())
    found = zip(pairs.tolist(), matches, strict=True)
    return group | join((ids[one], ids[other]) for (one, other), count in found if count >= MATCHING_POINTS)


def _detail(taken: Fingerprint) -> NDArray[np.float32]:
    """The fine detail in a fingerprint, (32, 32)."""
    return ((taken[BYTES:].reshape(SIDE, SIDE) - 128.0) / 32).astype(np.float32)


def _candidates(
    signs: NDArray[np.float32], turn: int, at_most: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Each image, turned, with those after it whose hashes are near, and their distances."""
    rows = max(1, 2**22 // len(signs))  # 16 MB of distances at once
    for start in range(0, len(signs), rows):
        agreement = _turned_signs(signs[start : start + rows], turn) @ signs[start:].T  # bits alike less bits unlike
        for one, row in enumerate(agreement):
            others = one + 1 + np.flatnonzero(row[one + 1 :] >= BITS - 2 * at_most)
            if len(others):
                yield start + one, start + others, (BITS - row[others]).astype(np.int64) // 2


def _turn(square: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """One of the eight symmetries of a square: transposed (4), upside down (2), mirrored (1)."""
    square = square.T if turn & 4 else square
    return np.ascontiguousarray(square[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1])


def _turned_signs(signs: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """What ``_turn`` does to an image, done to its cosine transform: a mirror image has its odd frequencies negated."""
    block = signs.reshape(-1, BLOCK, BLOCK)
    block = block.transpose(0, 2, 1) if turn & 4 else block
    odd = np.where(np.arange(BLOCK) % 2, -1, 1).astype(np.float32)
    block = block * odd[:, None] if turn & 2 else block
    block = block * odd if turn & 1 else block
    return block.reshape(len(signs), BITS)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation of two pictures of detail, where they may be shifted a little."""
    inner = slice(SHIFT, -SHIFT)
    return max(
        float(cv2.matchTemplate(whole, part[inner, inner].copy(), cv2.TM_CCOEFF_NORMED).max())
        for whole, part in ((one, other), (other, one))
    )


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


def _likeness_of_points(descriptors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
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
