"""Dermoscopy-like images drawn by the computer, with known truth, for the demo, tests and documentation.

Light is modelled as in skin: a bright surface seen through layers of pigment (Beer and Lambert), so melanin
turns it brown, blood turns it pink, and layers simply add up. Lengths are fractions of the image's shorter
side, so a seed gives the same outline, but for its finest detail, at every size of one shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dermseg.errors import InputError

Field = NDArray[np.floating[Any]]
"""A value for each pixel, (H, W), or a colour for each pixel, (H, W, 3)."""
Points = NDArray[np.float64]
"""x and y from the middle of the image, (2,) or (N, 2)."""
Layer = NDArray[np.uint8]
"""What is drawn with lines, 0 to 255, (H, W)."""
Size = tuple[int, int]
"""Height and width in pixels."""

BARE_SKIN = (0.97, 0.87, 0.81)
HAIR = (0.30, 0.19, 0.12)

# What one unit of a pigment absorbs of red, green and blue light.
SKIN_MELANIN = (0.45, 0.75, 1.0)
BROWN_MELANIN = (0.33, 0.66, 1.0)
DARK_MELANIN = (0.85, 1.0, 1.0)
BLOOD = (0.10, 0.80, 0.66)

MIN_SIDE = 32


@dataclass(frozen=True)
class SyntheticImage:
    """A drawn photograph and the truth about it.

    Attributes:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: True inside the lesion, bool (H, W); hairs do not interrupt it.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw(
    seed: int = 0,
    size: Size = (768, 1024),
    *,
    hairs: int | None = None,
    bubbles: int | None = None,
    vignette: bool = True,
    tone: float | None = None,
) -> SyntheticImage:
    """Draw a dermoscopy-like photograph of one pigmented lesion.

    Each option changes its own layer only: the lesion's outline depends on nothing but seed and size.

    Args:
        seed: Names the scene, 0 or more; the same seed and options give the same pixels.
        size: Height and width in pixels, each at least 32.
        hairs: How many hairs cross the image; left out, the seed decides, up to 16.
        bubbles: How many air bubbles lie in the contact gel; left out, the seed decides, up to 5.
        vignette: Whether the dermatoscope's round tube darkens the corners.
        tone: Melanin of the skin, 0 (very fair) to 1 (dark brown); left out, the seed decides, up to 0.45.

    Returns:
        The photograph and its mask, whose edge is where the lesion's soft border has faded by half.

    Raises:
        InputError: If the seed, the size or an option is out of its range.
    """
    if min(seed, hairs or 0, bubbles or 0) < 0:
        raise InputError(f"seed, hairs and bubbles must be 0 or more, not {seed}, {hairs} and {bubbles}.")
    if min(size) < MIN_SIDE:
        raise InputError(f"Each side must be at least {MIN_SIDE} pixels, not {size[0]} x {size[1]}.")
    if tone is not None and not 0 <= tone <= 1:
        raise InputError(f"tone must lie between 0 and 1, not {tone}.")

    # Each layer draws from a stream of its own, so changing one leaves the others as they are.
    chance, shape, skin, pigment, gel, hair, sensor = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(7)
    )
    usual_tone = 0.03 + 0.42 * chance.random() ** 2
    usual_hairs, usual_bubbles = chance.integers((0, 0), (16, 5), endpoint=True)
    mask, profile = _lesion_shape(shape, size)
    picture = _skin(skin, size, usual_tone if tone is None else tone)
    picture *= np.exp(-_lesion_absorbance(pigment, profile))
    _add_bubbles(gel, picture, usual_bubbles if bubbles is None else bubbles)
    _add_hairs(hair, picture, usual_hairs if hairs is None else hairs)
    if vignette:
        _add_vignette(picture)
    return SyntheticImage(_photograph(sensor, picture), mask)


def example() -> SyntheticImage:
    """Draw the one example of the demo and the documentation, 768 x 1024 pixels."""
    return draw(21, hairs=7, bubbles=3, tone=0.16)


def write_dataset(folder: Path | str, count: int, seed: int = 0, size: Size = (192, 256)) -> None:
    """Write images and masks in the plain layout: `images/<id>.png` and `masks/<id>.png`.

    Args:
        folder: Where to write; made if it is missing.
        count: How many images, each of another scene.
        seed: The first scene's seed; the next ones count up from it.
        size: Height and width in pixels.
    """
    from dermseg.imaging import encode_image, encode_mask, write_bytes

    for number in range(seed, seed + count):
        drawn, name = draw(number, size), f"synthetic_{number:05d}.png"
        for kind, data in ("images", encode_image(drawn.pixels)), ("masks", encode_mask(drawn.mask)):
            path = Path(folder) / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)


def _lesion_shape(rng: Generator, size: Size) -> tuple[NDArray[np.bool_], Field]:
    """Return the mask and the soft profile, 0 (skin) to 1 (lesion), that is one half on the mask's edge."""
    x, y = _coordinates(size)
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.05, 0.05)
    turn, stretch = rng.uniform(0, math.pi), rng.uniform(1.0, 1.3)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    radius, angle = np.hypot(along / stretch, across * stretch), np.arctan2(across, along)

    reach = np.full(size, rng.uniform(0.21, 0.31), np.float32)
    for harmonic in range(2, 8):
        swing = 0.025 * rng.standard_normal() / (harmonic - 1)
        reach += swing * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi)).astype(np.float32)
    ragged = 0.020 * _noise(rng, size, 0.12) + rng.uniform(0.004, 0.010) * _noise(rng, size, 0.025)
    inside = (radius < reach + ragged).astype(np.uint8)
    regions, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # One region without holes, as an annotator would outline it.
    filled = np.zeros(size, np.uint8)
    cv2.drawContours(filled, [max(regions, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    mask = filled.view(np.bool_)

    distance = np.maximum(_distance(mask) - 0.5, 0) - np.maximum(_distance(~mask) - 0.5, 0)
    # The border fades slowly on one side of a lesion and stops abruptly on another.
    softness = min(size) * 0.006 * np.exp(0.45 * _noise(rng, size, 0.4, octaves=1))
    return mask, 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _skin(rng: Generator, size: Size, tone: float) -> Field:
    """Return skin in reflected light, 0 to 1, (H, W, 3): tone, flush, furrows, pores and fine vessels."""
    melanin = 1.1 * tone * (1 + 0.10 * _noise(rng, size, 0.5) + 0.04 * _noise(rng, size, 0.03))
    blood = rng.uniform(0.02, 0.12) + 0.022 * _noise(rng, size, 0.45) + 0.012 * _noise(rng, size, 0.05)
    furrows = _smoothstep(0.55, 1.0, _cells(rng, size, 0.045))
    furrows *= np.clip(0.6 + 0.5 * _noise(rng, size, 0.3), 0, 1)
    pores = _spots(rng, size, 90, (0.002, 0.005))
    grain = 0.014 * _noise(rng, size, 0.008) + 0.012 * _noise(rng, size, 0.09)

    vessels = np.zeros(size, np.uint8)
    for _ in range(rng.integers(0, 6)):
        _stroke(vessels, _curve(rng, length=rng.uniform(0.05, 0.2), bend=1.5), width=0.004)
    blood = blood + 0.16 * _blur(vessels, 0.003) * np.clip(_noise(rng, size, 0.1), 0, 1)

    absorbance = _pigment(melanin, SKIN_MELANIN) + _pigment(np.maximum(blood, 0), BLOOD)
    absorbance += (grain - 0.05 * furrows + 0.06 * pores)[..., None]
    return np.array(BARE_SKIN, np.float32) * np.exp(-absorbance)


def _lesion_absorbance(rng: Generator, profile: Field) -> Field:
    """Return what the lesion's pigments absorb, (H, W, 3): brown base, blotches, network, globules, blood."""
    size = _size(profile)
    core = np.clip(profile + 0.15 * _noise(rng, size, 0.1), 0, 1)
    centre = _blur(profile, 0.07)

    brown = rng.uniform(0.62, 0.88) * (1 + 0.16 * _noise(rng, size, 0.16) + 0.08 * _noise(rng, size, 0.03))
    brown += 0.10 * _noise(rng, size, 0.012, octaves=2) + 0.25 * (centre - 0.5)
    lines = _cells(rng, size, rng.uniform(0.013, 0.018)) + 0.12 * _noise(rng, size, 0.02)
    lines = _smoothstep(0.2, 0.9, lines)
    network = _smoothstep(-0.4, 1.2, _noise(rng, size, 0.25, octaves=2)) * (1.1 - 0.5 * centre)
    brown += rng.uniform(0.5, 0.75) * network * (lines - 0.45)

    blotches = _smoothstep(0.35, 1.5, _noise(rng, size, 0.15) + 0.25 * _noise(rng, size, 0.02)) * core
    globules = _spots(rng, size, 420, (0.004, 0.008))
    globules *= _smoothstep(0.1, 0.8, _noise(rng, size, 0.2, octaves=2))
    dark = rng.uniform(0.25, 0.6) * blotches + 0.28 * globules * (1 - 0.6 * network)
    regression = 0.45 * _smoothstep(0.9, 1.6, _noise(rng, size, 0.14, octaves=2)) * core

    absorbance = _pigment(np.maximum(brown, 0.15) * (1 - regression), BROWN_MELANIN)
    absorbance += _pigment(dark, DARK_MELANIN)
    absorbance += _pigment(np.clip(0.06 + 0.08 * _noise(rng, size, 0.2), 0, 1), BLOOD)
    return absorbance * profile[..., None]


def _add_bubbles(rng: Generator, picture: Field, count: int) -> None:
    """Lay `count` air bubbles on the picture: a dark thin rim, a bright ring inside it and a glint."""
    dark, bright = np.zeros(_size(picture), np.uint8), np.zeros(_size(picture), np.uint8)
    for _ in range(count):
        centre, radius = rng.uniform((-0.6, -0.45), (0.6, 0.45)), rng.uniform(0.006, 0.018)
        _circle(dark, centre, radius, width=0.0025)
        _circle(bright, centre, radius * 0.78, width=0.0022)
        _circle(bright, centre * 0.99, radius * 0.12, width=radius * 0.25)
    picture *= 1 - 0.22 * _blur(dark, 0.0012)[..., None]
    picture += 0.55 * _blur(bright, 0.0012)[..., None] * (1 - picture)


def _add_hairs(rng: Generator, picture: Field, count: int) -> None:
    """Lay `count` curved, tapering hairs and their soft shadows on the picture."""
    size = _size(picture)
    hairs = np.zeros(size, np.uint8)
    for _ in range(count):
        _stroke(hairs, _curve(rng, length=rng.uniform(0.35, 1.0), bend=1.1), width=rng.uniform(0.0022, 0.0042))
    colour = np.array(HAIR, np.float32) * rng.uniform(0.35, 1.0)
    offset = np.array([[1, 0, 0.004 * min(size)], [0, 1, 0.006 * min(size)]])
    shadow = cv2.warpAffine(_blur(hairs, 0.005), offset, size[::-1])
    picture *= 1 - 0.30 * shadow[..., None]
    picture += 0.82 * _blur(hairs, 0.0006)[..., None] * (colour - picture)


def _add_vignette(picture: Field) -> None:
    """Darken the picture towards the edge of a round tube and blacken the corners beyond it."""
    size = _size(picture)
    radius = np.hypot(*_coordinates(size)) / (0.5 * math.hypot(*size) / min(size))
    tube = 1 - _smoothstep(0.83, 0.87, radius)
    picture *= ((1 - 0.35 * radius**3) * (0.03 + 0.97 * tube))[..., None]


def _photograph(rng: Generator, picture: Field) -> NDArray[np.uint8]:
    """Return the picture as a camera gives it: slightly out of focus, with sensor noise, uint8."""
    noise = rng.standard_normal((*_size(picture), 1)) + rng.standard_normal(picture.shape)
    taken = _blur(picture, 0.0007) + 0.004 * noise
    return (np.clip(taken, 0, 1) * 255 + 0.5).astype(np.uint8)


def _size(array: NDArray[Any]) -> Size:
    return array.shape[0], array.shape[1]


def _coordinates(size: Size) -> tuple[Field, Field]:
    """Return x (1, W) and y (H, 1) of the pixels from the middle, in units of the shorter side."""
    x, y = ((np.arange(side) + 0.5 - side / 2) / min(size) for side in size[::-1])
    return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


def _pixels(size: Size, points: Points) -> Points:
    """Return where points given from the middle, in units of the shorter side, lie in pixels."""
    return points * min(size) + (size[1] / 2, size[0] / 2)


def _noise(rng: Generator, size: Size, scale: float, octaves: int = 3) -> Field:
    """Return smooth random values, mean about 0 and deviation about 1, whose largest waves span `scale`."""
    total, weights = np.zeros(size, np.float32), 0.55 ** np.arange(octaves)
    for octave, weight in enumerate(weights.tolist()):
        cell = max(1.0, scale * min(size) / 2**octave)
        cells = math.ceil(math.hypot(*size) / cell) + 4
        grid = rng.standard_normal((cells, cells), np.float32)
        # Turned at random: an upright grid would show as horizontal and vertical streaks.
        turn = rng.uniform(0, 2 * math.pi)
        cos, sin = math.cos(turn) / cell, math.sin(turn) / cell
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
        matrix[:, 2] = cells / 2 - matrix[:, :2] @ (size[1] / 2, size[0] / 2)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        wave = cv2.warpAffine(grid, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
        total += weight * wave.astype(np.float32, copy=False)
    return total * (1.4 / float(np.linalg.norm(weights)))


def _cells(rng: Generator, size: Size, spacing: float) -> Field:
    """Return a net of irregular cells: 0 in each cell's middle, about 1 on the lines between them."""
    step = spacing * min(size)
    rows, columns = math.ceil(size[0] / (0.866 * step)) + 1, math.ceil(size[1] / step) + 1
    row, column = np.mgrid[:rows, :columns]
    x = (column + 0.5 * (row % 2) + rng.normal(0, 0.3, row.shape)) * step
    y = (row + rng.normal(0, 0.3, row.shape)) * 0.866 * step
    middles = np.ones(size, np.uint8)
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    middles[y[inside].astype(int), x[inside].astype(int)] = 0
    return _distance(middles).clip(max=0.7 * step) / (0.7 * step)


def _distance(inside: NDArray[Any]) -> NDArray[np.float32]:
    """Return how far each pixel that is not zero lies from the nearest zero, in pixels."""
    return cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5).astype(np.float32, copy=False)


def _spots(rng: Generator, size: Size, count: int, radii: tuple[float, float]) -> Field:
    """Return `count` soft round spots a unit square, 0 to 1, with radii between the two given."""
    spots = np.zeros(size, np.uint8)
    half = np.array((size[1], size[0])) / (2 * min(size))
    for _ in range(round(count * 4 * float(half.prod()))):
        centre, radius = rng.uniform(-half, half), rng.uniform(*radii)
        _circle(spots, centre, radius / 2, width=radius, value=int(rng.integers(120, 256)))
    return _blur(spots, 0.0018)


def _curve(rng: Generator, length: float, bend: float) -> Points:
    """Return a smooth random curve that turns by about `bend` radians, (48, 2)."""
    t = np.linspace(0, 1, 48)
    heading = rng.uniform(0, 2 * math.pi) + rng.normal(0, bend) * t
    heading += rng.normal(0, bend / 2) * np.sin(math.pi * t)
    points = np.stack([np.cos(heading), np.sin(heading)], axis=1).cumsum(axis=0) * (length / len(t))
    moved: Points = points - points.mean(axis=0) + rng.uniform((-0.6, -0.5), (0.6, 0.5))
    return moved


def _stroke(layer: Layer, points: Points, width: float) -> None:
    """Draw a curve onto the layer, tapering to its end; a width under a pixel becomes a paler line."""
    size = _size(layer)
    centre = _pixels(size, points)
    normal = np.gradient(centre, axis=0)[:, ::-1] * (1, -1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    widths = width * min(size) * np.sin(np.linspace(0.45, 0.96, len(points)) * math.pi)
    # OpenCV widens what it smooths by about a pixel.
    side = normal * (np.maximum(widths - 1, 0) / 2)[:, None]
    left, right = centre - side, centre + side
    quads = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)
    for quad, pixels in zip(np.rint(quads * 16).astype(np.int32), widths[:-1].tolist(), strict=True):
        cv2.fillConvexPoly(layer, quad, int(255 * min(1.0, pixels)), cv2.LINE_AA, shift=4)


def _circle(layer: Layer, centre: Points, radius: float, width: float, value: int = 255) -> None:
    """Draw a ring onto the layer; a width of twice the radius fills it."""
    unit = min(layer.shape)
    x, y = np.rint(_pixels(_size(layer), centre) * 16).astype(int).tolist()
    cv2.circle(layer, (x, y), round(radius * unit * 16), value, max(1, round(width * unit)), cv2.LINE_AA, 4)


def _blur(image: Field | Layer, sigma: float) -> Field:
    """Return a field, or a layer as 0 to 1, blurred by `sigma` units of the shorter side."""
    sharp = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
    return cv2.GaussianBlur(sharp, (0, 0), max(0.3, sigma * min(_size(image)))).astype(np.float32, copy=False)


def _pigment(amount: Field, absorbance: tuple[float, float, float]) -> Field:
    """Return what an amount of pigment, (H, W), absorbs of red, green and blue, (H, W, 3)."""
    return amount[..., None] * np.array(absorbance, np.float32)


def _smoothstep(low: float, high: float, values: Field) -> Field:
    """Return values rising smoothly from 0 at `low` to 1 at `high`."""
    t: Field = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
