"""Changes to a photograph that a segmentation should not mind, or not much: turned, worse, or framed otherwise.

The true mask is changed alike wherever pixels move. What is done, and how strongly, stands in ``robustness.toml``: for
each change its steps, functions of this module, with their arguments. Lengths are shares of the shorter side, so that
they mean the same at every size.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Pair = tuple[Pixels, Mask]
Steps = Mapping[str, Mapping[str, Any]]
PARAMETERS = Path(__file__).with_suffix(".toml")


def rotate(image: Pixels, mask: Mask, _: Generator, *, degrees: float, frame: float = 1) -> Pair | None:
    """Turn about the centre; unless by a right angle, keep the middle of the frame, that share of its sides."""
    height, width = mask.shape
    if degrees % 90 == 0:
        turns = round(degrees / 90)
        return np.ascontiguousarray(np.rot90(image, turns)), np.ascontiguousarray(np.rot90(mask, turns))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    size = (round(width * frame), round(height * frame))
    matrix[:, 2] = matrix[:, 2] + np.subtract(size, (width, height)) / 2
    moved = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101)
    truth = cv2.warpAffine(mask.astype(np.float32), matrix, size)
    return moved.astype(np.uint8), truth > 0.5


def jpeg(image: Pixels, mask: Mask, _: Generator, *, quality: int) -> Pair | None:
    """Compress once more."""
    return as_jpeg(image, quality), mask


def as_jpeg(image: Pixels, quality: int) -> Pixels:
    """What a JPEG file of an image (H, W, 3) holds, at a quality of 1 to 95."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blur(image: Pixels, mask: Mask, _: Generator, *, sigma: float) -> Pair | None:
    """Out of focus: a Gaussian of ``sigma``."""
    return cv2.GaussianBlur(image, (0, 0), sigma * min(mask.shape)).astype(np.uint8), mask


def noise(image: Pixels, mask: Mask, rng: Generator, *, deviation: float) -> Pair | None:
    """Normal noise on each value, its standard deviation a share of the whole range."""
    return np.clip(image + rng.normal(0, deviation * 255, image.shape), 0, 255).astype(np.uint8), mask


def gain(image: Pixels, mask: Mask, _: Generator, *, red: float, green: float, blue: float) -> Pair | None:
    """Multiply each channel; what is too bright is cut off."""
    return np.clip(np.rint(image * np.array([red, green, blue])), 0, 255).astype(np.uint8), mask


def occlude(
    image: Pixels, mask: Mask, rng: Generator, *, hairs: int, thickness: float, length: float, ticks: int
) -> Pair | None:
    """Dark curved hairs all over, and a ruler's ticks along one side."""
    side = min(mask.shape)
    canvas = image.copy()
    for _ in range(hairs):
        start, angle, bend = rng.random(2) * mask.shape[::-1], rng.uniform(0, 2 * np.pi), rng.uniform(-1.5, 1.5)
        along = np.linspace(0, 1, 24)[:, None]
        direction = np.column_stack([np.cos(angle + bend * along), np.sin(angle + bend * along)])
        points = start + along * length * side * rng.uniform(0.5, 1.5) * direction
        tone = tuple(int(v) for v in rng.uniform(0.05, 0.3) * np.array([255, 215, 175]))
        _line(canvas, points, tone, thickness * side * rng.uniform(0.5, 1))
    x = np.linspace(0.1, 0.9, ticks) * mask.shape[1]
    for number, at in enumerate(x):
        reach = 0.92 - (0.05 if number % 5 == 0 else 0.025)
        _line(canvas, np.array([[at, 0.92], [at, reach]]) * (1, mask.shape[0]), (20, 20, 20), thickness * side / 2)
    return canvas, mask


def zoom_in(image: Pixels, mask: Mask, _: Generator, *, factor: float) -> Pair | None:
    """The part about the lesion's middle, or about the picture's where there is none, enlarged."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    middle = (rows.mean(), columns.mean()) if len(rows) else (height / 2, width / 2)
    inner = (round(height / factor), round(width / factor))
    top, left = (round(np.clip(m - i / 2, 0, full - i)) for m, i, full in zip(middle, inner, mask.shape, strict=True))
    part = np.s_[top : top + inner[0], left : left + inner[1]]
    return _resized(image[part], mask[part], (width, height), cv2.INTER_CUBIC)


def surround(image: Pixels, mask: Mask, _: Generator, *, factor: float, margin: float) -> Pair | None:
    """Enlarge the frame by skin: the stripes between lesion and border, mirrored to and fro.

    None where there is no lesion, or a stripe is thinner than ``margin``.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    stripes = (rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1])
    if min(stripes) < margin * min(height, width):
        return None
    top, left = (round(side * (factor - 1) / 2) for side in (height, width))
    y = _mirrored(height, top, stripes[0], stripes[1])
    x = _mirrored(width, left, stripes[2], stripes[3])
    return image[np.ix_(y, x)], np.pad(mask, ((top, top), (left, left)))


def shrink(image: Pixels, mask: Mask, _: Generator, *, factor: float) -> Pair | None:
    """Make the picture smaller, by averages of areas."""
    height, width = mask.shape
    return _resized(image, mask, (round(width / factor), round(height / factor)), cv2.INTER_AREA)


def cut(image: Pixels, mask: Mask, rng: Generator, *, share: float) -> Pair | None:
    """Crop one side, drawn at random, and with it a share of the lesion's extent; None without a lesion."""
    if not mask.any():
        return None
    turns = int(rng.integers(4))
    image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    columns = np.flatnonzero(mask.any(0))
    first = columns[0] + round(share * (columns[-1] + 1 - columns[0]))
    return np.ascontiguousarray(image[:, first:]), np.ascontiguousarray(mask[:, first:])


STEPS: Mapping[str, Callable[..., Pair | None]] = {
    step.__name__: step for step in (rotate, jpeg, blur, noise, gain, occlude, zoom_in, surround, shrink, cut)
}


def changes(path: Path = PARAMETERS) -> dict[str, Steps]:
    """The steps of each change, by its name, in the file's order."""
    found: dict[str, Steps] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def changed(image: Pixels, mask: Mask, steps: Steps, seed: int) -> Pair | None:
    """Apply one change.

    Args:
        image: RGB, uint8 (H, W, 3).
        mask: Its true mask, bool (H, W).
        steps: As ``changes`` gives them.
        seed: Of what is random.

    Returns:
        Image and mask of one size, which may be another; None where the change cannot be made of this picture.
    """
    rng = np.random.default_rng(seed)
    pair: Pair | None = (image, mask)
    for name, arguments in steps.items():
        if pair is not None:
            pair = STEPS[name](*pair, rng, **arguments)
    return pair


def _mirrored(length: int, more: int, before: int, after: int) -> NDArray[np.int64]:
    """Places along a side of ``length``, and ``more`` on both ends from its first ``before`` and last ``after``."""
    beyond = np.arange(more)
    first, last = _to_and_fro(beyond, before)[::-1], length - 1 - _to_and_fro(beyond, after)
    return np.concatenate([first, np.arange(length), last])


def _to_and_fro(steps: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    place = steps % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)


def _resized(image: Pixels, mask: Mask, size: tuple[int, int], interpolation: int) -> Pair:
    pixels = cv2.resize(image, size, interpolation=interpolation).astype(np.uint8, copy=False)
    smooth = cv2.INTER_AREA if interpolation == cv2.INTER_AREA else cv2.INTER_LINEAR
    return pixels, cv2.resize(mask.astype(np.float32), size, interpolation=smooth) > 0.5


def _line(canvas: Pixels, points: NDArray[np.float64], tone: tuple[int, ...], thickness: float) -> None:
    """Draw along points (N, 2) of x and y, in sixteenths of a pixel."""
    fixed = np.rint(points * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, tone, max(1, round(thickness)), cv2.LINE_AA, shift=4)
