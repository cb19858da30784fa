"""Copies of pictures: what a fingerprint stands for, and which pairs are found."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dermseg import synthetic
from dermseg.data import catalog
from dermseg.data.duplicates import (
    BYTES,
    PAIRS_EACH,
    _turn,
    find_pairs,
    fingerprint,
    join,
    read_each,
    read_fingerprints,
)
from dermseg.errors import BrokenImageError, InputError
from dermseg.imaging import encode_image

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

Pixels = NDArray[np.uint8]
UNLIKE = 40  # pictures


def clipped(values: NDArray[np.floating[Any]]) -> Pixels:
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def textured(seed: int, size: tuple[int, int] = (192, 256)) -> Pixels:
    """A drawn lesion with a skin's structure, which differs wherever the lesion is alike."""
    drawn = synthetic.draw(seed, size).pixels.astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)
    structure = cv2.GaussianBlur(noise, (0, 0), 6)
    return clipped(drawn + 15 * (structure / structure.std())[..., None])


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    return [textured(seed) for seed in range(UNLIKE)]


def recompressed(pixels: Pixels, quality: int = 60) -> Pixels:
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def scaled(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def exposed(pixels: Pixels, contrast: float, brightness: float) -> Pixels:
    return clipped(pixels * np.float32(contrast) + np.float32(brightness))


COPIES: dict[str, Callable[[Pixels], Any]] = {
    "the same": lambda pixels: pixels,
    "jpeg": recompressed,
    "smaller": lambda pixels: scaled(pixels, 100, 75),
    "larger": lambda pixels: scaled(pixels, 640, 480),
    "of another aspect": lambda pixels: scaled(pixels, 200, 200),
    "brighter": lambda pixels: exposed(pixels, 1, 25),
    "darker": lambda pixels: exposed(pixels, 1, -25),
    "flatter": lambda pixels: exposed(pixels, 0.7, 30),
    "smaller, darker and recompressed": lambda pixels: recompressed(exposed(scaled(pixels, 128, 96), 0.85, -5)),
    "shifted": lambda pixels: pixels[4:, 6:],
    "grey": lambda pixels: cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "another white balance": lambda pixels: clipped(pixels * np.array([1.0, 0.9, 0.8])),
}
TURNS: dict[str, Callable[[Pixels], Any]] = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "half a turn": lambda pixels: pixels[::-1, ::-1],
    "a quarter": lambda pixels: np.rot90(pixels),
    "a quarter back": lambda pixels: np.rot90(pixels, -1),
    "transposed": lambda pixels: pixels.transpose(1, 0, 2),
    "transposed at the other diagonal": lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_nothing_else(pictures: list[Pixels], change: str) -> None:
    prints = {("original", number): fingerprint(pixels) for number, pixels in enumerate(pictures)}
    prints |= {
        ("copy", number): fingerprint(np.ascontiguousarray(COPIES[change](pixels)))
        for number, pixels in enumerate(pictures)
    }
    found = {(pair.one, pair.other) for pair in find_pairs(prints)}
    assert found == {(("original", number), ("copy", number)) for number in range(UNLIKE)}


@pytest.mark.parametrize("change", TURNS)
def test_turned_copies_are_found_when_asked_for(pictures: list[Pixels], change: str) -> None:
    prints = {number: fingerprint(pixels) for number, pixels in enumerate(pictures[:8])}
    copy = fingerprint(recompressed(np.ascontiguousarray(TURNS[change](pictures[5])), 75))
    assert find_pairs(prints | {-1: copy}) == []
    (pair,) = find_pairs(prints | {-1: copy}, turned=True)
    assert (pair.one, pair.other, pair.turned) == (5, -1, True)
    (pair,) = find_pairs({-1: copy} | prints, turned=True)
    assert (pair.one, pair.other, pair.turned) == (-1, 5, True)


def test_a_pair_says_how_alike_it_is_and_the_most_alike_comes_first(pictures: list[Pixels]) -> None:
    first, second = pictures[:2]
    prints = {
        "a": fingerprint(first),
        "b": fingerprint(recompressed(scaled(second, 64, 48), 40)),
        "c": fingerprint(second),
        "d": fingerprint(first.copy()),
    }
    same, alike = find_pairs(prints, turned=True)
    assert (same.one, same.other, same.distance, same.turned) == ("a", "d", 0, False)
    assert same.likeness == pytest.approx(1, abs=1e-5)
    assert (alike.one, alike.other, alike.turned) == ("b", "c", False)
    assert 0.55 < alike.likeness < 1
    bits = [np.unpackbits(prints[key][:BYTES]) for key in "bc"]
    assert alike.distance == (bits[0] != bits[1]).sum() > 0
    assert find_pairs(prints, at_most=alike.distance - 1) == [same]


def test_unlike_pictures_differ_in_many_bits(pictures: list[Pixels]) -> None:
    bits = [np.unpackbits(fingerprint(pixels)[:BYTES]) for pixels in pictures]
    distances = [int((one != other).sum()) for one, other in combinations(bits, 2)]
    assert min(distances) > 48


def test_lesions_of_one_shape_on_other_skin_are_no_copies() -> None:
    """One dark disc in the middle gives much the same hash; the skin around it tells them apart."""
    rows, columns = np.mgrid[:192, :256]
    disc = np.hypot(rows - 96, columns - 128) < 50
    discs = [np.where(disc[..., None], textured(seed) // 3, textured(seed)) for seed in range(10)]
    prints = {number: fingerprint(pixels) for number, pixels in enumerate(discs)}
    assert find_pairs(prints, turned=True) == []


def test_pictures_that_show_nothing_are_nobodys_copies() -> None:
    noise = np.random.default_rng(0).integers(127, 130, (64, 64, 3)).astype(np.uint8)
    blank = [np.full((64, 64, 3), value, np.uint8) for value in (0, 120, 120, 255)]
    assert find_pairs({number: fingerprint(pixels) for number, pixels in enumerate([*blank, noise])}) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (33, 32), (7, 5)])
def test_a_picture_of_any_size_has_a_fingerprint(size: tuple[int, int]) -> None:
    taken = fingerprint(np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8))
    assert taken.shape == (1056,)
    assert taken.dtype == np.uint8


@given(turn=st.integers(0, 7), seed=st.integers(0, 50))
def test_a_hash_is_turned_like_its_picture(turn: int, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (32, 32)).astype(np.float32)
    pixels, turned = (np.repeat(array.astype(np.uint8)[..., None], 3, 2) for array in (grey, _turn(grey, turn)))
    (pair,) = find_pairs({"picture": fingerprint(pixels), "turned": fingerprint(turned)}, turned=True)
    assert pair.distance <= 2  # a coefficient near 0 may change its sign by rounding
    assert pair.likeness == pytest.approx(1, abs=1e-3)
    assert pair.turned == (turn != 0)


def test_many_are_compared_in_parts() -> None:
    """More images than are compared at once; each has one copy."""
    random = np.random.default_rng(3)
    prints = random.integers(0, 256, (3000, 1056)).astype(np.uint8)
    pairs = find_pairs(dict(enumerate(np.concatenate([prints, prints]))))
    assert sorted((pair.one, pair.other) for pair in pairs) == [(number, number + 3000) for number in range(3000)]


@pytest.mark.parametrize("turned", [False, True])
def test_the_frames_of_one_film_are_one_group_of_few_pairs(pictures: list[Pixels], turned: bool) -> None:
    random = np.random.default_rng(4)
    frames = [clipped(pictures[0] + random.normal(0, 2, pictures[0].shape)) for _ in range(300)]
    prints = {f"f{number:03}": fingerprint(pixels) for number, pixels in enumerate(frames)}
    prints |= {f"p{number}": fingerprint(pixels) for number, pixels in enumerate(pictures[1:20])}
    begun = time.process_time()
    pairs = find_pairs(prints, turned=turned)
    assert time.process_time() - begun < 5
    assert 299 <= len(pairs) <= 300 * PAIRS_EACH
    assert join((pair.one, pair.other) for pair in pairs) == {f"f{number:03}": "f000" for number in range(300)}


def test_two_films_that_one_later_picture_joins_are_one_group(pictures: list[Pixels]) -> None:
    """A picture is left out only by the group it is in already."""
    first, last = (fingerprint(pictures[number]) for number in (0, 1))
    between = np.concatenate([first[:BYTES], np.clip((first[BYTES:] / 2 + last[BYTES:] / 2), 0, 255).astype(np.uint8)])
    prints = {f"a{number:02}": first for number in range(30)} | {f"b{number:02}": last for number in range(30)}
    pairs = find_pairs(prints | {"c": between}, at_most=256)
    assert set(join((pair.one, pair.other) for pair in pairs).values()) == {"a00"}
    assert set(join((pair.one, pair.other) for pair in find_pairs(prints, at_most=256)).values()) == {"a00", "b00"}


def test_no_images_have_no_copies() -> None:
    assert find_pairs({}) == []
    assert find_pairs({"a": fingerprint(textured(0))}) == []


def test_other_arrays_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        find_pairs({0: np.zeros(32, np.uint8)})
    assert str(caught.value) == "0 has no fingerprint of 1056 bytes; take it with fingerprint(pixels)"


def test_fingerprints_are_read_from_files_and_broken_files_are_listed(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(encode_image(textured(0)))
    bad.write_bytes(b"")
    calls: list[tuple[int, int]] = []
    found, failed = read_fingerprints({"bad": bad, "good": good}, lambda *call: calls.append(call))
    assert list(found) == ["good"]
    np.testing.assert_array_equal(found["good"], fingerprint(textured(0)))
    assert list(failed) == ["bad"]
    assert isinstance(failed["bad"], BrokenImageError)
    assert calls == [(1, 2), (2, 2)]


def test_only_what_a_file_is_blamed_for_is_kept_from_raising() -> None:
    def read(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        read_each({"a": 1, "b": 0}, read)


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("abcdefghij"))))
def test_what_is_joined_is_joined_through_others(pairs: list[tuple[str, str]]) -> None:
    group = join(pairs)
    assert group.keys() == {name for pair in pairs for name in pair}
    assert all(group[one] == group[other] for one, other in pairs)
    reached = {name: {name} for name in group}
    for _ in group:
        for one, other in pairs:
            both = reached[one] | reached[other]
            for name in both:
                reached[name] = both
    assert group == {name: min(found) for name, found in reached.items()}


@needs_data
def test_known_copies_are_found_among_real_images() -> None:
    """Pairs of ISIC 2018 that were seen by eye, and what is found beside them in a sample of the rest."""
    known = {("ISIC_0012887", "ISIC_0012989"), ("ISIC_0000519", "ISIC_0011295")}
    images = {s.id: s.image for s in catalog.read(os.environ["DERMSEG_DATA"], ["isic2018"])}
    chosen = sorted({id for pair in known for id in pair} | set(list(images)[::10]))
    found, failed = read_fingerprints({id: images[id] for id in chosen})
    assert failed == {}
    assert {(pair.one, pair.other) for pair in find_pairs(found)} >= known


@needs_data
def test_a_real_image_is_like_its_smaller_darker_jpeg_and_no_other_one() -> None:
    samples = catalog.read(os.environ["DERMSEG_DATA"], ["ham10000"])
    lesions = {s.group: s for s in samples}
    chosen = [lesions[group] for group in sorted(lesions)[::20]]
    prints = {}
    for sample in chosen:
        pixels = np.asarray(cv2.imread(str(sample.image)), np.uint8)
        prints[sample.id, "original"] = fingerprint(pixels)
        prints[sample.id, "copy"] = fingerprint(recompressed(exposed(scaled(pixels, 150, 150), 0.85, 5)))
    pairs = find_pairs(prints)
    assert {(pair.one, pair.other) for pair in pairs} == {((s.id, "original"), (s.id, "copy")) for s in chosen}
