"""What a photograph looks like beside its lesion: hair, vignette, ruler and skin tone.

Estimates by classical image processing, made for data checks, subgroups and the steps of ``processing``; none of them
is a measurement. Lengths are shares of the image's longer side, or pixels of a copy whose longer side has ``SIDE``, so
that an image's size hardly matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.floating]

SIDE = 256  # the longer side of the copies that rulers and skin are looked at on

HAIR_WIDTH = 1 / 32  # the broadest hair, of the longer side
HAIR_LENGTH = 1 / 12  # the shortest that is not taken for a part of the lesion
HAIR_CONTRAST = 14  # grey values below the skin beside it
HAIR_DIRECTIONS = 8
DARK = 48  # the lightest grey value of a vignette

# Rulers: lengths in pixels of that copy, contrast in grey values below the skin beside it.
TICK_CONTRAST = 14
TICK_LENGTH, TICK_WIDTH, TICK_GAP = (5, 28), 4.5, (5, 34)
TICKS = 4  # the fewest that make a ruler ...
BLACK_TICKS, BLACK = 3, 40  # ... and the fewest where their contrast is that of print
LINE_CONTRAST = 7
LINE_REACH = 40  # how far a line is followed beyond what was found of it
LINE_LENGTH = 75
LINE_BEND = 0.28  # deviation from a straight one
LINES = 16  # the longest are looked at, so that an image full of hairs takes no longer
BESIDE = 5  # how far from a line its teeth are looked for
TOOTH_GAP = (4.0, 12.5)
TEETH_HEIGHT = (0.075, 0.2)  # mean deviation of what lies beside a line, of the line's contrast
TEETH_REGULARITY = 0.45  # of the power of that, what lies in one frequency and its double
TEETH_EVIDENCE = 6.5  # length of the line, times height and regularity of its teeth

SKIN_MARGIN = 1 / 25  # beside a lesion and within a vignette, of the longer side: neither skin nor not
LEAST_SKIN = 1 / 50  # of the image
SIZE_CLASSES = ("tiny", "medium", "large")
TINY, LARGE = 0.05, 0.30  # shares of the image; a lesion below the first is tiny, one above the second large
SKIN_TONES = ("very light", "light", "intermediate", "tan", "brown", "dark")
"""Classes of the individual typology angle, from large angles to small (Chardon et al., 1991)."""
SKIN_TONE_LIMITS = (55, 41, 28, 10, -30)  # degrees; a class lies above its limit


@dataclass(frozen=True)
class SkinTone:
    """How light or dark skin looks.

    Attributes:
        ita: Individual typology angle in degrees, -180 to 180; above 90 where the picture is tinted blue.
        name: One of ``SKIN_TONES``.
    """

    ita: float
    name: str


@dataclass(frozen=True)
class Appearance:
    """What a photograph looks like beside its lesion.

    Attributes:
        hair: Share of the image that is hair, 0 to 1.
        ruler: Share that is a ruler's ticks; above 0 where one was found.
        vignette: Share outside a round field.
        brightness: Mean grey value of the field, 0 to 1.
        skin_tone: None where too little skin is to be seen.
    """

    hair: float
    ruler: float
    vignette: float
    brightness: float
    skin_tone: SkinTone | None


def look(pixels: Pixels, lesion: Mask | None = None) -> Appearance:
    """Describe a photograph, from a copy of at most ``SIDE`` pixels: quick, and alike for all sizes.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        lesion: Bool (H, W); where it is unknown, the lesion counts as skin.

    Raises:
        InputError: Not such arrays.
    """
    pixels, lesion = _small(pixels, lesion)
    hair, ruler, vignette = hair_mask(pixels), ruler_mask(pixels), vignette_mask(pixels)
    field = pixels[~vignette]
    return Appearance(
        hair=float((hair & ~ruler).mean()),
        ruler=float(ruler.mean()),
        vignette=float(vignette.mean()),
        brightness=float(_grey(field[None]).mean() / 255) if field.size else 0.0,
        skin_tone=_skin_tone(pixels, lesion, hair | ruler, vignette),
    )


def skin_tone(pixels: Pixels, lesion: Mask | None) -> SkinTone | None:
    """Estimate the skin's individual typology angle, atan2(L* - 50, b*) of its median colour in CIELAB, D65.

    The skin is what lies at some distance from the lesion and is no hair, ruler or vignette. Cameras, light and their
    filters are not calibrated: the angle follows exposure and tint as much as skin (in ISIC 2017 the smallest angles
    are underexposed light skin, those above 90 bluish pictures). It is not a property of a patient, and never a
    Fitzpatrick type.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        lesion: Bool (H, W); where it is unknown, the lesion counts as skin.

    Returns:
        None where less than ``LEAST_SKIN`` of the image is skin.

    Raises:
        InputError: Not such arrays.
    """
    pixels, lesion = _small(pixels, lesion)
    return _skin_tone(pixels, lesion, hair_mask(pixels) | ruler_mask(pixels), vignette_mask(pixels))


def hair_mask(pixels: Pixels) -> Mask:
    """Find dark hairs: long thin structures that a closing across them fills (black-hat; Lee et al., DullRazor, 1997).

    Args:
        pixels: RGB, uint8 (H, W, 3).

    Returns:
        Bool (H, W), True on hair and the pixels beside it.
    """
    grey = _grey(pixels)
    longer = max(grey.shape)
    width, length = (max(3, round(longer * share)) | 1 for share in (HAIR_WIDTH, HAIR_LENGTH))
    blackhat = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    # What is left of it along a line is as long as a hair; dots, globules and the lesion's border are not.
    along = [cv2.morphologyEx(blackhat, cv2.MORPH_OPEN, line) for line in _lines(length)]
    hair = np.max(along, axis=0) >= HAIR_CONTRAST
    return cv2.dilate(hair.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)


def ruler_mask(pixels: Pixels) -> Mask:
    """Find a ruler's ticks: rows of dark strokes, alike and evenly spaced, or a straight line with teeth on one side.

    Made for precision: it passes over faint, hidden or cut off rulers (about a fifth of those in ISIC 2017, more of
    HAM10000's, many of which are hardly darker than the skin). Short dark hairs in a row are now and then taken for
    ticks.

    Args:
        pixels: RGB, uint8 (H, W, 3).

    Returns:
        Bool (H, W), True on ticks, the line that joins them and the pixels beside them; the ruler's letters are not
        found.
    """
    grey = _grey(pixels)
    height, width = grey.shape
    interpolation = cv2.INTER_AREA if max(height, width) > SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, _copy_size(height, width), interpolation=interpolation)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    contrast = cv2.morphologyEx(small, cv2.MORPH_BLACKHAT, disc).astype(np.uint8, copy=False)
    # Compression leaves ripples beside a stroke: what is much fainter than its neighbours does not belong to it.
    highest = cv2.dilate(contrast, np.ones((13, 13), np.uint8))
    ticks = _ticks(contrast, contrast >= np.maximum(TICK_CONTRAST, 0.4 * highest))
    scales = _scales(contrast, contrast >= np.maximum(LINE_CONTRAST, 0.35 * highest))
    ruler = cv2.dilate((ticks | scales).view(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.resize(ruler, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.bool_)


def vignette_mask(pixels: Pixels) -> Mask:
    """Find the dark surround of a dermoscope's round field: dark regions that fill a corner of the image.

    Args:
        pixels: RGB, uint8 (H, W, 3).

    Returns:
        Bool (H, W), True outside the field.
    """
    red, green, blue = cv2.split(pixels)
    dark = cv2.blur(cv2.max(cv2.max(red, green), blue), (3, 3)) < DARK
    count, labels = cv2.connectedComponents(dark.astype(np.uint8))
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.isin(labels, corners[corners > 0]) if count > 1 else np.zeros(dark.shape, np.bool_)


def _grey(pixels: Pixels) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"pixels are {pixels.dtype} {pixels.shape} where uint8 (H, W, 3) is expected")
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def _lines(length: int) -> list[Pixels]:
    """Straight structuring elements of one length, in directions spread over the half circle."""
    lines = []
    for step in range(HAIR_DIRECTIONS):
        angle = np.pi * step / HAIR_DIRECTIONS
        dx, dy = (round(length / 2 * part) for part in (np.cos(angle), np.sin(angle)))
        line = np.zeros((2 * abs(dy) + 1, 2 * abs(dx) + 1), np.uint8)
        middle = (line.shape[1] // 2, line.shape[0] // 2)
        cv2.line(line, (middle[0] - dx, middle[1] - dy), (middle[0] + dx, middle[1] + dy), 1)
        lines.append(line)
    return lines


def _ticks(contrast: Pixels, strokes: Mask) -> Mask:
    """Keep the strokes that are ticks in a row."""
    count, labels = cv2.connectedComponents(strokes.view(np.uint8))
    y, x = np.nonzero(labels)
    label = labels[y, x]
    area = np.maximum(np.bincount(label, minlength=count), 1)

    def mean(values: NDArray[np.generic]) -> Floats:
        return np.bincount(label, values, count) / area

    # Length, width and direction of the rectangle with a stroke's moments.
    middle = np.stack([mean(x), mean(y)], axis=1)
    dx, dy = x - middle[label, 0], y - middle[label, 1]
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    spread = np.hypot((xx - yy) / 2, xy)
    length, width = np.sqrt(6 * (xx + yy) + 12 * spread), np.sqrt(np.maximum(6 * (xx + yy) - 12 * spread, 1))
    angle = np.arctan2(2 * xy, xx - yy) / 2
    straight = (width <= TICK_WIDTH) & (length >= 2.2 * width) & (area <= 1.5 * length * width)
    kept = np.flatnonzero(straight & (length >= TICK_LENGTH[0]) & (length <= TICK_LENGTH[1]))
    kept = kept[kept > 0]
    rows = _rows(middle[kept], angle[kept], length[kept], width[kept], mean(contrast[y, x])[kept])
    return np.isin(labels, kept[rows])


def _rows(middle: Floats, angle: Floats, length: Floats, width: Floats, dark: Floats) -> list[int]:
    """Find strokes (N,) that are alike, parallel and evenly spaced, each beside the last; middle is (N, 2)."""
    along, across = (np.stack([np.cos(turned), np.sin(turned)], axis=1) for turned in (angle, angle + np.pi / 2))
    # The way from p to q in the axes of q, and from q on to r in the same axes, so that the two can be compared.
    way = middle[None] - middle[:, None]
    gap, shift = (np.einsum("pqk,qk->pq", way, axis) for axis in (across, along))
    next_gap, next_shift = (np.einsum("qrk,qk->qr", way, axis) for axis in (across, along))
    # Ticks begin on one line, so the middles of a short and a long one do not lie on it.
    uneven = np.abs(length[None] - length[:, None]) / 2

    alike = (np.abs(along @ along.T) > np.cos(np.radians(10))) & (np.abs(width[None] - width[:, None]) < 1.3)
    for values, most in ((length, 2.8), (dark, 2.2)):
        alike &= np.maximum(values[None], values[:, None]) <= most * np.minimum(values[None], values[:, None])
    alike &= (np.abs(gap) >= TICK_GAP[0]) & (np.abs(gap) <= TICK_GAP[1]) & (np.abs(shift) <= 0.6 * np.abs(gap) + uneven)

    found = set[int]()
    for pair in np.argwhere(alike).tolist():
        row = list[int](pair)
        while True:
            p, q = row[-2:]
            off = np.abs(next_gap[q] - gap[p, q]), np.abs(next_shift[q] - shift[p, q])
            most_off = 1 + 0.12 * abs(gap[p, q]), 2 + 0.1 * abs(gap[p, q]) + uneven[p]
            fits = alike[q] & (off[0] <= most_off[0]) & (off[1] <= most_off[1])
            fits[row] = False
            if not fits.any():
                break
            row.append(int(np.where(fits, off[0] + off[1] / 2, np.inf).argmin()))
        if len(row) >= TICKS or (len(row) >= BLACK_TICKS and dark[row].mean() >= BLACK):
            found.update(row)
    return sorted(found)


def _scales(contrast: Pixels, strokes: Mask) -> Mask:
    """Keep the strokes that are a straight line with teeth."""
    found: Pixels = np.zeros(contrast.shape, np.uint8)
    inner = found.copy()  # a line along the image's edge is a frame
    inner[BESIDE:-BESIDE, BESIDE:-BESIDE] = strokes[BESIDE:-BESIDE, BESIDE:-BESIDE]
    lines = cv2.HoughLinesP(inner, 1, np.pi / 180, 35, minLineLength=50, maxLineGap=4)
    if lines is None:
        return found.view(np.bool_)
    ends = lines.reshape(-1, 2, 2).astype(np.float64)
    ends = ends[np.argsort(-np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1), kind="stable")]
    for start, end in ends[:LINES]:
        start, end = _fitted(contrast, start, end)
        if np.linalg.norm(end - start) >= LINE_LENGTH and _has_teeth(_strip(contrast, start, end)):
            first, last = np.rint([start, end]).astype(int).tolist()
            cv2.line(found, first, last, 1, 2 * BESIDE + 1)
            break
    return found.view(np.bool_) & strokes


def _fitted(contrast: Pixels, start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """Lay a line, given by its ends as x, y, onto the dark ridge beside it, and go on to where that stops."""
    strip = _strip(contrast, start, end)
    weight, beside = strip.max(axis=0) + 1, strip.argmax(axis=0) - BESIDE
    for _ in range(2):
        line = _straight(beside, weight)
        weight = np.where(np.abs(beside - line) < 1.5, weight, 1e-3)
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    start, end = start + across * line[0], end + across * line[-1]

    along = (end - start) / np.linalg.norm(end - start)
    ridge = _strip(contrast, start - LINE_REACH * along, end + LINE_REACH * along)[BESIDE - 1 : BESIDE + 2].max(axis=0)
    dark = ridge >= 0.4 * np.median(ridge[LINE_REACH:-LINE_REACH])
    dark = cv2.morphologyEx(dark[None].view(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 5), np.uint8))[0]
    middle = len(dark) // 2
    first, last = (int(np.argmin(np.append(half, 0))) for half in (dark[:middle][::-1], dark[middle:]))
    return start + along * (middle - first - LINE_REACH), start + along * (middle + last - 1 - LINE_REACH)


def _straight(values: Floats, weight: Floats) -> Floats:
    """Return the straight line that is closest to values (N,), by weighted least squares."""
    place = np.arange(len(values)) - np.average(np.arange(len(values)), weights=weight)
    mean = np.average(values, weights=weight)
    slope = np.average(place * values, weights=weight) / np.average(place * place, weights=weight)
    return np.asarray(mean + slope * place)


def _strip(image: Pixels, start: Floats, end: Floats) -> Floats:
    """Cut out what lies along a line, (2 * BESIDE + 1, length), the line in its middle row."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    matrix = np.stack([along, across, start - BESIDE * across], axis=1)
    size = (int(np.linalg.norm(end - start)) + 1, 2 * BESIDE + 1)
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP).astype(np.float64)


def _has_teeth(strip: Floats) -> bool:
    """Tell whether a strip's middle is a printed line, straight and even, with regular teeth on one side only."""
    line = strip[BESIDE - 2 : BESIDE + 3]
    faint, strong = np.percentile(line[1:-1].max(axis=0), (15, 85))
    if faint < LINE_CONTRAST or strong > 1.5 * faint:
        return False
    ridge = np.arange(-2, 3) @ line / (line.sum(axis=0) + 1)
    if (ridge - _straight(ridge, line.max(axis=0) + 1)).std() > LINE_BEND:
        return False
    sides = strip[BESIDE - 4 : BESIDE - 1].mean(axis=0), strip[BESIDE + 2 : BESIDE + 5].mean(axis=0)
    return any(
        2.8 * clean.mean() < faint and _evidence(teeth, float(faint)) >= TEETH_EVIDENCE
        for teeth, clean in (sides, sides[::-1])
    )


def _evidence(profile: Floats, contrast: float) -> float:
    """Return how much speaks for teeth in the profile beside a line of some contrast; 0 where they cannot be teeth."""
    varying = profile - cv2.blur(profile[None], (13, 1))[0]
    height = np.abs(varying).mean() / contrast
    if not TEETH_HEIGHT[0] <= height <= TEETH_HEIGHT[1]:
        return 0.0
    most = 2 * np.median(np.abs(varying))  # else the long teeth at the ends would be all of it
    power = np.abs(np.fft.rfft(np.clip(varying, -most, most) * np.hanning(len(profile)) ** 0.5, 512)) ** 2
    spread = round(1.5 * 512 / len(profile))
    near = np.convolve(power, np.ones(2 * spread + 1), "same") / (power.sum() + 1e-9)
    low, high = (int(512 / period) for period in TOOTH_GAP[::-1])
    both = near[low:high].copy()
    doubled = near[2 * low : 2 * high : 2]
    both[: len(doubled)] += doubled
    regularity = float(both.max())
    return len(profile) * regularity * height if regularity >= TEETH_REGULARITY else 0.0


def _copy_size(height: int, width: int) -> tuple[int, int]:
    """Width and height, in OpenCV's order, of the copy whose longer side is ``SIDE``."""
    scale = SIDE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _small(pixels: Pixels, lesion: Mask | None) -> tuple[Pixels, Mask]:
    """Scale an image and its lesion down to at most ``SIDE``; without a lesion, its mask is empty."""
    height, width = _grey(pixels).shape
    if lesion is None:
        lesion = np.zeros((height, width), np.bool_)
    if lesion.dtype != np.bool_ or lesion.shape != (height, width):
        raise InputError(f"lesion is {lesion.dtype} {lesion.shape} where bool {(height, width)} is expected")
    if max(height, width) > SIDE:
        size = _copy_size(height, width)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        lesion = cv2.resize(lesion.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    return pixels, lesion


def _skin_tone(pixels: Pixels, lesion: Mask, covered: Mask, vignette: Mask) -> SkinTone | None:
    margin = max(1, round(max(lesion.shape) * SKIN_MARGIN))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    other = cv2.dilate((lesion | vignette).view(np.uint8), disc).astype(np.bool_) | covered
    skin = pixels[~other]
    if len(skin) < LEAST_SKIN * lesion.size:
        return None
    lab = cv2.cvtColor(skin[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    lightness, _, yellow = np.median(lab, axis=0).tolist()
    ita = float(np.degrees(np.arctan2(lightness - 50, yellow)))
    return SkinTone(ita, SKIN_TONES[sum(ita <= limit for limit in SKIN_TONE_LIMITS)])
