"""Pictures that are no dermoscopy, drawn by the computer: what a model should say it was not made for.

Half of the kinds are for fitting a quality model, the others, which it has never seen, for reporting how well it does.
A picture's size, colours, counts and places follow from its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dermseg.errors import InputError, choose_from

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width in pixels."""

SIZES: tuple[Size, ...] = ((480, 640), (384, 512), (450, 600), (512, 512), (360, 640), (640, 480))
WORDS = "the of skin report page patient date note total amount lorem ipsum dolor sit amet and with for from which"


def draw(kind: str, seed: int = 0) -> Pixels:
    """Draw a picture of a kind.

    Args:
        kind: One of ``KINDS``.
        seed: 0 or more; the same one gives the same pixels.

    Returns:
        RGB, uint8 (H, W, 3), of one of ``SIZES``.

    Raises:
        InputError: There is no such kind, or the seed is negative.
    """
    if kind not in KINDS:
        raise InputError(f"there is no kind {kind!r} of picture; {choose_from(kind, KINDS)}")
    if seed < 0:
        raise InputError(f"the seed is {seed}; expected 0 or more")
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    size = SIZES[rng.integers(len(SIZES))]
    return np.ascontiguousarray(KINDS[kind](rng, size), np.uint8)


def _text(rng: Generator, size: Size) -> Pixels:
    """A page of print, dark on light or the other way round."""
    ink, paper = _two_tones(rng)
    picture = _plain(size, paper)
    scale = rng.uniform(0.35, 1.1)
    font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
    words = WORDS.split()
    margin = int(rng.integers(10, 50))
    for y in range(margin + int(24 * scale), size[0] - margin, int(38 * scale)):
        if rng.random() < 0.1:
            continue
        line = " ".join(words[i] for i in rng.integers(len(words), size=40))
        line = line[: int((size[1] - 2 * margin) / (19 * scale) * rng.choice([1, 1, 1, 0.6]))]
        cv2.putText(picture, line, (margin, y), font, scale, ink, 1 + int(scale > 0.8), cv2.LINE_AA)
    return _photographed(rng, picture, rng.uniform(0, 4))


def _dark(rng: Generator, size: Size) -> Pixels:
    """A frame with the lens cap on: black, with the sensor's noise and perhaps a leak of light."""
    picture = _plain(size, tuple(int(v) for v in rng.integers(0, 30, 3)))
    if rng.random() < 0.5:
        y, x = _grid(size)
        leak = np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / rng.uniform(0.02, 0.3))
        picture = _clipped(picture + leak[..., None] * rng.uniform(10, 60, 3))
    return _photographed(rng, picture, rng.uniform(0, 10))


def _noise(rng: Generator, size: Size) -> Pixels:
    """Noise of one scale, grey or coloured, of some contrast around some grey."""
    cell = int(rng.choice([1, 1, 2, 4, 8]))
    shape = (-(-size[0] // cell), -(-size[1] // cell), 1 if rng.random() < 0.3 else 3)
    values = rng.uniform(-1, 1, shape) * rng.uniform(40, 128) + rng.uniform(80, 176, 3)
    grown = np.kron(values, np.ones((cell, cell, 1)))
    return _clipped(grown[: size[0], : size[1]])


def _gradient(rng: Generator, size: Size) -> Pixels:
    """One colour that turns into another, as of a sky or a wall, perhaps with soft clouds."""
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    way = x * np.cos(angle) + y * np.sin(angle)
    way = ((way - way.min()) / np.ptp(way))[..., None]
    picture = (1 - way) * rng.uniform(0, 255, 3) + way * rng.uniform(0, 255, 3)
    if rng.random() < 0.4:
        picture = picture + _clouds(rng, size, 5)[..., None] * rng.uniform(20, 70)
    return _photographed(rng, _clipped(picture), rng.uniform(0, 3))


def _shapes(rng: Generator, size: Size) -> Pixels:
    """A checkerboard, or polygons, discs and rectangles of plain colours."""
    picture = _plain(size, _colour(rng))
    if rng.random() < 0.4:
        y, x = np.indices(size) // int(rng.integers(12, 80))
        picture[(x + y) % 2 == 1] = _colour(rng)
        return _photographed(rng, picture, rng.uniform(0, 3))
    for _ in range(rng.integers(2, 14)):
        middle = rng.uniform(0, 1, 2) * size[::-1]
        corners = int(rng.choice([3, 4, 5, 6, 40]))
        turn = rng.uniform(0, 7) + np.arange(corners) * 2 * np.pi / corners
        points = middle + rng.uniform(15, 140) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        cv2.fillPoly(picture, [points.astype(np.int32)], _colour(rng), cv2.LINE_AA)
    return _photographed(rng, picture, rng.uniform(0, 3))


def _cat(rng: Generator, size: Size) -> Pixels:
    """The cartoon of a cat's face: head, ears, eyes, nose and whiskers."""
    picture = _plain(size, _colour(rng))
    r = rng.uniform(0.22, 0.4) * min(size)
    x, y = (rng.uniform(0.4, 0.6, 2) * size[::-1]).tolist()
    fur, inner, line = _colour(rng), _colour(rng), tuple(int(v) for v in rng.integers(0, 60, 3))

    def place(dx: float, dy: float) -> tuple[int, int]:
        return round(x + dx * r), round(y + dy * r)

    for side in (-1, 1):
        for reach, colour in ((1.0, fur), (0.6, inner)):
            tip = np.array([(0.6, -0.95 - 0.5 * reach), (0.6 - 0.4 * reach, -0.7), (0.6 + 0.35 * reach, -0.45)])
            points = [place(side * dx, dy) for dx, dy in tip]
            cv2.fillPoly(picture, [np.array(points, np.int32)], colour, cv2.LINE_AA)
    cv2.ellipse(picture, place(0, 0), (round(r), round(0.9 * r)), 0, 0, 360, fur, -1, cv2.LINE_AA)
    eyes = _colour(rng)
    for side in (-1, 1):
        cv2.ellipse(picture, place(0.4 * side, -0.15), (round(0.2 * r), round(0.16 * r)), 0, 0, 360, eyes, -1, 16)
        cv2.ellipse(picture, place(0.4 * side, -0.15), (round(0.06 * r), round(0.15 * r)), 0, 0, 360, line, -1, 16)
        cv2.ellipse(picture, place(0.14 * side, 0.3), (round(0.14 * r), round(0.12 * r)), 0, 0, 180, line, 2, 16)
        for tilt in (-0.12, 0.05, 0.22):
            cv2.line(picture, place(0.3 * side, 0.22), place(1.25 * side, 0.22 + tilt), line, 1, cv2.LINE_AA)
    nose = [place(-0.1, 0.14), place(0.1, 0.14), place(0, 0.28)]
    cv2.fillPoly(picture, [np.array(nose, np.int32)], inner, cv2.LINE_AA)
    return _photographed(rng, picture, rng.uniform(0, 4))


def _chart(rng: Generator, size: Size) -> Pixels:
    """A line chart with axes and a grid."""
    ink, paper = _two_tones(rng)
    picture = _plain(size, paper)
    left, top, right, bottom = (round(v) for v in np.array([0.1, 0.08, 0.95, 0.88]) * [*size[::-1], *size[::-1]])
    pale = tuple(int(0.8 * p + 0.2 * i) for p, i in zip(paper, ink, strict=True))
    for place in np.linspace(0, 1, int(rng.integers(4, 10))):
        x, y = round(left + place * (right - left)), round(top + place * (bottom - top))
        cv2.line(picture, (x, top), (x, bottom), pale, 1)
        cv2.line(picture, (left, y), (right, y), pale, 1)
        cv2.putText(picture, f"{place:.2f}", (2, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)
    cv2.polylines(picture, [np.array([(left, top), (left, bottom), (right, bottom)], np.int32)], False, ink, 2)
    for _ in range(rng.integers(1, 6)):
        values = np.cumsum(rng.normal(0, 1, 60))
        ys = bottom - (values - values.min()) / np.ptp(values) * (bottom - top) * rng.uniform(0.4, 1)
        points = np.stack([np.linspace(left, right, 60), ys], axis=1).astype(np.int32)
        cv2.polylines(picture, [points], False, _colour(rng), int(rng.integers(1, 4)), cv2.LINE_AA)
    return _photographed(rng, picture, rng.uniform(0, 3))


def _fabric(rng: Generator, size: Size) -> Pixels:
    """Cloth: crossing stripes of several widths, with its weave."""
    turned = int(np.hypot(*size)) + 2
    stripes = []
    for _ in range(2):
        colours = rng.uniform(0, 255, (int(rng.integers(2, 5)), 3))
        widths = rng.integers(8, 60, len(colours))
        stripes.append(np.resize(np.repeat(colours, widths, axis=0), (turned, 3)))
    share = rng.choice([0, 0.5])
    cloth = (1 - share) * stripes[0][:, None] + share * stripes[1][None]
    y, x = np.indices((turned, turned))
    cloth = cloth + (((x + y) % 4 < 2) * rng.uniform(5, 25))[..., None]
    spin = cv2.getRotationMatrix2D((turned / 2, turned / 2), rng.uniform(0, 180), 1)
    cloth = cv2.warpAffine(cloth, spin, (turned, turned), borderMode=cv2.BORDER_REFLECT)
    top, left = (turned - size[0]) // 2, (turned - size[1]) // 2
    folds = 1 + 0.25 * _clouds(rng, size, 4)[..., None]
    return _photographed(rng, _clipped(cloth[top : top + size[0], left : left + size[1]] * folds), rng.uniform(0, 5))


def _street(rng: Generator, size: Size) -> Pixels:
    """Houses with windows before a sky, perhaps out of focus."""
    height, width = size
    y, _ = _grid(size)
    picture = _clipped(rng.uniform(120, 255, 3) * (1 - 0.4 * y[..., None]))
    x = 0
    while x < width:
        wide, top = int(rng.integers(50, 160)), int(rng.uniform(0.1, 0.6) * height)
        cv2.rectangle(picture, (x, top), (x + wide, height), _colour(rng), -1)
        pane, step = _colour(rng), int(rng.integers(18, 40))
        for row in range(top + step // 2, height - step, step):
            for column in range(x + step // 2, x + wide - step // 2, step):
                if rng.random() < 0.85:
                    cv2.rectangle(picture, (column, row), (column + step // 2, row + step // 2), pane, -1)
        x += wide
    cv2.rectangle(picture, (0, int(0.9 * height)), (width, height), _colour(rng), -1)
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 5)).astype(np.uint8)
    return _photographed(rng, picture, rng.uniform(0, 6))


def _clinical(rng: Generator, size: Size) -> Pixels:
    """A limb before a plain background, with a small mole: a photograph, but from too far away."""
    y, x = _grid(size)
    backdrop = np.array(_colour(rng)) * (1 + 0.1 * _clouds(rng, size, 3)[..., None])
    angle, offset = rng.uniform(-0.6, 0.6) + rng.choice([0, np.pi / 2]), rng.uniform(-0.08, 0.08)
    across = (x - 0.5) * np.sin(angle) + (y - 0.5) * np.cos(angle) - offset
    along = (x - 0.5) * np.cos(angle) - (y - 0.5) * np.sin(angle)
    half = rng.uniform(0.16, 0.3) * (1 + rng.uniform(-0.4, 0.4) * along + 0.1 * np.sin(4 * along + rng.uniform(0, 6)))
    limb = np.clip((half - np.abs(across)) * 60, 0, 1)[..., None]
    shade = np.sqrt(np.clip(1 - 0.8 * (across / half) ** 2, 0.1, 1))[..., None]
    light, dark = np.array([236, 190, 165]), np.array([112, 70, 50])
    tone = light + (dark - light) * rng.random() ** 1.5
    skin = tone * shade * (1 + 0.05 * _clouds(rng, size, 6)[..., None])
    where, place = rng.uniform(-0.3, 0.3), rng.uniform(-0.08, 0.08)
    mole = np.exp(-((((along - where) ** 2 + (across - place) ** 2) / rng.uniform(0.006, 0.018) ** 2) ** 2))
    skin = skin * (1 - mole[..., None] * rng.uniform(0.4, 0.75, 3))
    picture = backdrop * (1 - limb) + skin * limb
    return _photographed(rng, _clipped(picture), rng.uniform(1, 6))


def _grid(size: Size) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column of each pixel, (H, W), as shares of the height and the width."""
    rows, columns = np.indices(size)
    return rows / size[0], columns / size[1]


def _clouds(rng: Generator, size: Size, octaves: int) -> NDArray[np.float64]:
    """Soft noise of several scales, (H, W), about -1 to 1."""
    total = np.zeros(size)
    for octave in range(octaves):
        coarse = rng.uniform(-1, 1, (2 ** (octave + 1) + 1,) * 2)
        total += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return total / 1.5


def _colour(rng: Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _two_tones(rng: Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Ink and paper: a dark and a light colour, mostly in this order."""
    dark, light = _colour(rng, 0, 70), _colour(rng, 186, 256)
    return (dark, light) if rng.random() < 0.8 else (light, dark)


def _plain(size: Size, colour: tuple[int, ...]) -> Pixels:
    return np.full((*size, 3), colour, np.uint8)


def _photographed(rng: Generator, picture: Pixels, noise: float) -> Pixels:
    """As a camera sees it: with its noise, of a standard deviation in grey values."""
    return _clipped(picture + rng.normal(0, 1, picture.shape) * noise)


def _clipped(values: NDArray[np.floating]) -> Pixels:
    clipped: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


_FITTING: Mapping[str, Callable[[Generator, Size], Pixels]] = {
    "text": _text,
    "dark": _dark,
    "noise": _noise,
    "gradient": _gradient,
    "shapes": _shapes,
}
_REPORTING: Mapping[str, Callable[[Generator, Size], Pixels]] = {
    "cat": _cat,
    "chart": _chart,
    "fabric": _fabric,
    "street": _street,
    "clinical": _clinical,
}
KINDS = {**_FITTING, **_REPORTING}
"""All kinds, by name."""
FITTING, REPORTING = tuple(_FITTING), tuple(_REPORTING)
"""The kinds a quality model is fitted on, and those it is judged by."""
