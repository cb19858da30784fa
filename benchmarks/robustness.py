"""What a bundle loses where photographs are turned, worse, or framed otherwise.

    python benchmarks/robustness.py --data DATA --bundle lesion --split tune

Each image of the split is segmented as it is and after each change of ``robustness.yaml``, its truth changed alike, and
compared by the official Task 1 Jaccard index. An image that two data sets share counts once. Prints, for each change,
how many images it can be made of, their Jaccard index before and after, and the mean difference with a 95 % bootstrap
interval over lesions. What is random is drawn from the image's id, so every bundle sees the same pictures.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dermseg.data import catalog, splits
from dermseg.data.catalog import LESION, Sample
from dermseg.imaging import open_image, read_mask, write_bytes
from dermseg.metrics import Confusion, bootstrap_interval
from dermseg.parallel import in_order
from dermseg.segmenter import Segmenter

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Pair = tuple[Pixels, Mask]
PARAMETERS = Path(__file__).with_suffix(".yaml")


def rotate(image: Pixels, mask: Mask, _: Generator, *, degrees: float, frame: float = 1) -> Pair | None:
    """Turn about the centre; unless by a right angle, keep the middle of the frame, that share of its sides."""
    height, width = mask.shape
    if degrees % 90 == 0:
        turns = round(degrees / 90)
        return np.ascontiguousarray(np.rot90(image, turns)), np.ascontiguousarray(np.rot90(mask, turns))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    size = (round(width * frame), round(height * frame))
    matrix[:, 2] += (np.array(size) - (width, height)) / 2
    moved = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101)
    truth = cv2.warpAffine(mask.astype(np.float32), matrix, size)
    return moved.astype(np.uint8), truth > 0.5


def jpeg(image: Pixels, mask: Mask, _: Generator, *, quality: int) -> Pair | None:
    """Compress once more."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)), mask


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


CHANGES: Mapping[str, Callable[..., Pair | None]] = {
    change.__name__: change for change in (rotate, jpeg, blur, noise, gain, occlude, zoom_in, surround, shrink, cut)
}


def changed(image: Pixels, mask: Mask, steps: Mapping[str, Mapping[str, Any]], seed: int) -> Pair | None:
    """Apply the steps of one row of ``robustness.yaml``; None where one of them cannot be made of the picture."""
    rng = np.random.default_rng(seed)
    pair: Pair | None = (image, mask)
    for name, arguments in steps.items():
        if pair is not None:
            pair = CHANGES[name](*pair, rng, **arguments)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="lesion")
    parser.add_argument("--split", default="tune")
    parser.add_argument("--splits", type=Path, help="a table of splits [the shipped one]")
    parser.add_argument("--parameters", type=Path, default=PARAMETERS)
    parser.add_argument("--images", type=int, help="the first so many of the split [all]")
    parser.add_argument("--output", type=Path, help="a CSV of each image's Jaccard index")
    arguments = parser.parse_args()
    rows = {"unchanged": {}, **yaml.safe_load(arguments.parameters.read_text())}
    segmenter = Segmenter(arguments.bundle, threads=1)
    table = splits.read(arguments.splits) if arguments.splits else None
    every = splits.select(catalog.with_masks(catalog.read(arguments.data), [LESION]), arguments.split, table)
    samples = list({sample.id: sample for sample in reversed(every)}.values())[::-1][: arguments.images]

    def look(sample: Sample) -> list[float]:
        image, mask = open_image(sample.image).pixels(), read_mask(sample.masks[LESION])
        pairs = [changed(image, mask, steps, zlib.crc32(sample.id.encode())) for steps in rows.values()]
        return [Confusion.of(segmenter(p[0]).mask, p[1]).jaccard if p else np.nan for p in pairs]

    scores = np.array(list(in_order(look, samples)))
    if arguments.output:
        lines = [["id", "source", *rows], *([s.id, s.source, *r] for s, r in zip(samples, scores, strict=True))]
        text = "\n".join(",".join(str(value) for value in line) for line in lines)
        write_bytes(arguments.output, (text + "\n").encode())
    groups = np.array([sample.group for sample in samples])
    print("| change | images | Jaccard before | after | difference |\n|---|---|---|---|---|")
    for name, after in zip(rows, scores.T, strict=True):
        made = ~np.isnan(after)
        before, after = scores[made, 0], after[made]
        loss = bootstrap_interval(after - before, list(groups[made]))
        shown = f"{loss.mean:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]"
        print(f"| {name} | {made.sum()} | {before.mean():.3f} | {after.mean():.3f} | {shown} |")


if __name__ == "__main__":
    main()
