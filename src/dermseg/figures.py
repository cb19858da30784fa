"""Drawings of results: an outline, an overlay, a row of panels, a probability as a grey image.

Every function takes an RGB photograph and returns a new array; what it is given is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError
from dermseg.metrics import Confusion
from dermseg.wording import plain, utf8

Picture = NDArray[np.uint8]
"""RGB, (H, W, 3)."""

Mask = NDArray[np.bool_]
"""True inside the lesion, (H, W)."""

Colour = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

# Cyan is what skin, blood and melanin never show, and stays apart from them for every kind of colour vision.
LINE: Colour = (72, 224, 255)
TRUTH: Colour = (255, 225, 50)  # a true outline beside a predicted one, which is cyan
RIM: Colour = (8, 28, 40)

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
"""Okabe and Ito's colours, which stay apart for every kind of colour vision; black is for marks."""

# Red and blue that stay apart for every kind of colour vision, and a yellow that is unlike both.
MISSED: Colour = (220, 50, 32)
EXTRA: Colour = (0, 90, 181)
CONFUSED: Colour = (240, 228, 66)

INK: Colour = (60, 60, 60)
PALE_INK: Colour = (115, 115, 115)
PAPER: Colour = (255, 255, 255)

PANEL = 480
GAP = 12
CAPTION = 34
SHEET = 1600
COLUMNS = 4

TEXT, TITLE = 2.0, 2.8
"""Sizes of print, as OpenCV scales its font; drawn four times too large."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture and the line below it.

    Attributes:
        picture: RGB, (H, W, 3).
        caption: What it shows; at the left.
        note: Numbers of it, paler; at the right.
        key: What its colours mean, after the note.
    """

    picture: Picture
    caption: str
    note: str = ""
    key: Mapping[str, Colour] = field(default_factory=dict)


def outline(pixels: Picture, mask: Mask, color: Colour = LINE, thickness: int | None = None) -> Picture:
    """Draw the lesion's outline: a bright line in a thin dark rim, so that it shows on any skin.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: The lesion, bool (H, W).
        color: The line's colour, RGB.
        thickness: The line's width in pixels, without the rim; left out, it grows with the image.

    Returns:
        A new photograph with the outline, uint8 (H, W, 3). An empty mask draws nothing.

    Raises:
        InputError: If the photograph and the mask do not fit together.
    """
    _check_pair(pixels, mask)
    drawn = pixels.copy()
    _trace(drawn, mask, color, thickness)
    return drawn


def overlay(pixels: Picture, mask: Mask, *, alpha: float = 0.15) -> Picture:
    """Draw the lesion's outline and dim the skin around it; inside, the photograph stays as it is.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: The lesion, bool (H, W).
        alpha: How much of the light outside the lesion is taken away, 0 (none) to 1 (all).

    Returns:
        A new photograph, uint8 (H, W, 3).

    Raises:
        InputError: If the photograph and the mask do not fit together, or alpha is out of range.
    """
    _check_pair(pixels, mask)
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must lie between 0 and 1, not {alpha}.")
    drawn = cv2.convertScaleAbs(pixels, alpha=1 - alpha).astype(np.uint8, copy=False)
    cv2.copyTo(pixels, mask.view(np.uint8), drawn)
    _trace(drawn, mask, LINE, None)
    return drawn


def colours_of(classes: Iterable[str]) -> dict[str, Colour]:
    """A colour of `PALETTE` for each of some classes, in their order; an eighth has the first one's again."""
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(classes)}


def outlines(pixels: Picture, masks: Mapping[str, Mask]) -> Picture:
    """Outline several classes on one photograph, each in its colour of `colours_of`.

    Lines grow thinner from class to class, so that on a photograph of some size both are seen where two run together.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        masks: Bool (H, W) by class.

    Returns:
        A new photograph, uint8 (H, W, 3).

    Raises:
        InputError: If the photograph and the masks do not fit together.
    """
    for mask in masks.values():
        _check_pair(pixels, mask)
    drawn = pixels.copy()
    widest = max(pixels.shape) / 170
    widths = [max(2, round(widest * (1 - place / len(masks)))) for place in range(len(masks))]
    contours = [_contours(mask) for mask in masks.values()]
    for lines, width in zip(contours, widths, strict=True):
        _stroke(drawn, lines, RIM, width + 2)
    for lines, colour, width in zip(contours, colours_of(masks).values(), widths, strict=True):
        _stroke(drawn, lines, colour, width)
    return drawn


def structures(pixels: Picture, masks: Mapping[str, Mask]) -> Picture:
    """Draw `outlines` over a legend, which says of each class its colour and its area, or that it was not found.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        masks: Bool (H, W) by class.

    Returns:
        The picture, uint8, RGB; as wide as the photograph, or as the longest line of the legend.

    Raises:
        InputError: If the photograph and the masks do not fit together.
    """
    drawn = outlines(pixels, masks)
    entries = [_entry(name, masks[name], colour) for name, colour in colours_of(masks).items()]
    width = max(drawn.shape[1], *(entry.shape[1] for entry in entries))
    lines: list[list[Picture]] = [[]]
    for entry in entries:
        if lines[-1] and sum(each.shape[1] for each in (*lines[-1], entry)) > width:
            lines.append([])
        lines[-1].append(entry)
    legend = np.full((len(lines) * CAPTION, width, 3), PAPER, np.uint8)
    for place, line in enumerate(lines):
        left = 0
        for entry in line:
            _paste(legend, entry, place * CAPTION + CAPTION // 2, left)
            left += entry.shape[1]
    photograph = np.full((drawn.shape[0], width, 3), PAPER, np.uint8)
    photograph[:, : drawn.shape[1]] = drawn
    return np.vstack([photograph, legend])


def error_map(pixels: Picture, mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Picture:
    """Colour what was missed red and what was marked too much blue; what was found is pale, the rest pale and grey.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: What was predicted, bool (H, W), or (K, H, W) of several classes.
        truth: What is true, of the same shape.

    Returns:
        A new picture, uint8 (H, W, 3). Pixels of which one class was missed and another marked too much are yellow.

    Raises:
        InputError: If the photograph and the masks do not fit together.
    """
    if mask.shape != truth.shape:
        raise InputError(f"The mask has the shape {mask.shape}, the truth {truth.shape}.")
    masks, truths = (each.reshape(-1, *each.shape[-2:]) for each in (mask, truth))
    missed, extra = (np.asarray(each.any(axis=0)) for each in (truths & ~masks, masks & ~truths))
    _check_pair(pixels, missed)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    drawn = np.repeat((110 + grey * 0.55).astype(np.uint8)[..., None], 3, axis=2)
    found = (masks & truths).any(axis=0) & ~(missed | extra)
    drawn[found] = (0.5 * drawn[found] + 0.5 * pixels[found]).astype(np.uint8)  # red skin must not look like red paint
    for area, colour in ((missed, MISSED), (extra, EXTRA), (missed & extra, CONFUSED)):
        drawn[area] = (0.25 * drawn[area] + 0.75 * np.array(colour)).astype(np.uint8)
    return drawn


def probability_image(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a probability as grey: 0 is black, 1 is white, one half is 128.

    Args:
        probability: The lesion's probability at each pixel, float (H, W) in [0, 1].

    Returns:
        Grey values, uint8 (H, W).

    Raises:
        InputError: If the array has not two axes.
    """
    if probability.ndim != 2:
        raise InputError(f"A probability must have the shape (H, W), not {probability.shape}.")
    return (np.clip(probability, 0, 1) * 255 + 0.5).astype(np.uint8)


def heat_map(
    pixels: Picture,
    heat: NDArray[np.float32],
    mask: Mask,
    point: tuple[float, float] | None = None,
    caption: str = "",
    note: str = "",
) -> Picture:
    """Lay a map over the photograph, which turns grey, with the lesion's outline, a scale bar and a caption.

    The colours are viridis, whose steps look even (Smith and van der Walt, 2015); grey beneath keeps their hue.

    Args:
        pixels: The photograph, uint8 (h, w, 3), RGB, at any scale.
        heat: Float (H, W) in [0, 1], at the image's own size.
        mask: The lesion, bool (H, W).
        point: A place (x, y) to ring, in pixels of the image.
        caption: What the map is.
        note: More of it, paler.

    Returns:
        The picture, uint8, RGB; the photograph in it is 480 to 1024 pixels long.

    Raises:
        InputError: If the map and the mask do not fit together.
    """
    if heat.shape != mask.shape:
        raise InputError(f"The map has the shape {heat.shape}, the mask {mask.shape}.")
    side = min(max(PANEL, *mask.shape), 1024)
    size = _size(mask.shape, side)
    grey = cv2.cvtColor(_fit(pixels, size), cv2.COLOR_RGB2GRAY)[..., None]
    colours = _viridis(probability_image(_scaled(heat, size).astype(np.float32)))
    drawn = outline((0.4 * grey + 0.6 * colours).astype(np.uint8), _fit_mask(mask, size), PAPER)
    if point is not None:
        scale = side / max(mask.shape)
        centre = (int((point[0] + 0.5) * scale), int((point[1] + 0.5) * scale))
        for colour, width in ((RIM, 5), (PAPER, 2)):
            cv2.circle(drawn, centre, 9, colour, width, cv2.LINE_AA)
    return _row([_labelled(Panel(drawn, caption, note)), _scale_bar(drawn.shape[0])])


def side_by_side(pixels: Picture, mask: Mask, probability: NDArray[np.float32] | None = None) -> Picture:
    """Draw the photograph, its overlay, the mask and, if given, the probability in one captioned row.

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: The lesion, bool (H, W).
        probability: The lesion's probability at each pixel, float (H, W) in [0, 1].

    Returns:
        The row, uint8, RGB. The longer side of each panel is 480 pixels whatever the photograph's size.

    Raises:
        InputError: If the photograph, the mask and the probability do not fit together.
    """
    _check_pair(pixels, mask)
    if probability is not None and probability.shape != mask.shape:
        raise InputError(f"The probability has the shape {probability.shape}, the photograph {mask.shape}.")

    # Outlined after scaling: as crisp in the panel of a large photograph as in that of a small one.
    size = _size(mask.shape, PANEL)
    photo, small_mask = _fit(pixels, size), _fit_mask(mask, size)
    panels = {
        "Photograph": photo,
        "Outline": overlay(photo, small_mask),
        "Mask": np.repeat(small_mask[..., None].astype(np.uint8) * 255, 3, axis=2),
    }
    if probability is not None:
        panels["Probability"] = _viridis(probability_image(_scaled(probability, size).astype(np.float32)))
    cells = [_captioned(panel, caption) for caption, panel in panels.items()]
    if probability is not None:
        cells.append(_scale_bar(photo.shape[0]))
    return _row(cells)


def uncertainty(pixels: Picture, mask: Mask, entropy: NDArray[np.float32]) -> Picture:
    """Draw the photograph with the lesion's outline beside a map of the prediction's entropy and its scale bar.

    The bar is of 0 to 1 bit whatever the map holds, so that pictures of two images compare. The colours are inferno,
    whose steps look even and grow lighter, also without colour vision (Smith and van der Walt, 2015).

    Args:
        pixels: The photograph, uint8 (H, W, 3), RGB.
        mask: The lesion, bool (H, W).
        entropy: Float (H, W) in bits, [0, 1].

    Returns:
        The picture, uint8, RGB; photograph and map are as large as they are given.

    Raises:
        InputError: If the photograph, the mask and the map do not fit together.
    """
    _check_pair(pixels, mask)
    if entropy.shape != mask.shape:
        raise InputError(f"The map has the shape {entropy.shape}, the mask {mask.shape}.")
    panels = {"Photograph and outline": outline(pixels, mask), "Entropy, bits": _inferno(probability_image(entropy))}
    cells = [_captioned(panel, caption) for caption, panel in panels.items()]
    return _row([*cells, _scale_bar(mask.shape[0], _inferno)])


def sheet(rows: Sequence[Sequence[Panel]], title: str, subtitle: str = "") -> Picture:
    """Lay out captioned pictures, as large as they are, in rows under a title.

    Args:
        rows: At least one panel; columns are aligned, and a row may be shorter than another.
        title: One line.
        subtitle: A paler one below it.

    Returns:
        The sheet, uint8, RGB.
    """
    cells = [[_labelled(panel) for panel in row] for row in rows]
    step = GAP + max(cell.shape[1] for row in cells for cell in row)
    heading = [_text(title, size=TITLE), _text(subtitle, PALE_INK)]
    width = GAP + max(step * max(map(len, rows)), *(line.shape[1] for line in heading))
    strips = []
    for top, parts in [(GAP, heading[:1]), (0, heading[1:]), *((GAP, row) for row in cells)]:
        strip = np.full((top + max(part.shape[0] for part in parts), width, 3), PAPER, np.uint8)
        for place, part in enumerate(parts):
            left = GAP + place * step
            strip[top : top + part.shape[0], left : left + part.shape[1]] = part
        strips.append(strip)
    return np.vstack(strips)


def case(
    pixels: Picture, predicted: Mapping[str, Mask], truths: Mapping[str, Mask], title: str, subtitle: str = ""
) -> Picture:
    """Draw an image and its masks on a sheet: a row of photograph, truth, prediction and errors for each class.

    Where nothing was predicted, or the truth of nothing is known, the photograph and all outlines stand in rows of
    four.

    Args:
        pixels: The photograph, uint8 (h, w, 3), RGB, at any scale.
        predicted: Bool (H, W) by class; may be empty.
        truths: Bool (H, W) by class, some or none; where there is a prediction too, of its size.
        title: One line.
        subtitle: A paler one below it.

    Returns:
        The sheet, uint8, RGB, about `SHEET` pixels wide or narrower.
    """
    # The masks' proportions, not those of the photograph at its scale, whose sides may have been rounded.
    shape = next((mask.shape for mask in (*predicted.values(), *truths.values())), pixels.shape)
    if predicted and truths:
        pixels = _fit(pixels, _size(shape, _side(COLUMNS)))
        rows = [_compared(pixels, mask, truths.get(name), name) for name, mask in predicted.items()]
        if len(predicted) == 1:
            rows[0][0] = Panel(pixels, "Photograph")
        return sheet(rows, title, subtitle)
    columns = min(COLUMNS, 1 + len(predicted or truths))
    pixels = _fit(pixels, _size(shape, _side(columns)))
    panels = [Panel(pixels, "Photograph", "" if predicted or truths else "no masks")]
    panels += [_outlined(pixels, mask, f"Predicted {plain(name)}") for name, mask in predicted.items()]
    panels += [_outlined(pixels, mask, plain(name).capitalize(), TRUTH) for name, mask in truths.items()]
    return sheet([panels[start : start + columns] for start in range(0, len(panels), columns)], title, subtitle)


def _check_pair(pixels: Picture, mask: Mask) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(f"A photograph must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}.")
    if mask.dtype != np.bool_:
        raise InputError(f"A mask must be bool, not {mask.dtype}.")
    if mask.shape != pixels.shape[:2]:
        raise InputError(f"The mask has the shape {mask.shape}, the photograph {pixels.shape[:2]}.")


def _trace(pixels: Picture, mask: Mask, color: Colour, thickness: int | None) -> None:
    """Draw the mask's contours, holes too, onto the photograph itself."""
    if thickness is None:
        thickness = max(2, round(max(mask.shape) / 450))
    rim = max(1, round(thickness / 2))
    contours = _contours(mask)
    _stroke(pixels, contours, RIM, thickness + 2 * rim)
    _stroke(pixels, contours, color, thickness)


def _contours(mask: Mask) -> list[NDArray[np.int32]]:
    """The mask's closed lines, holes too, in sixteenths of a pixel."""
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return [_smooth(contour) for contour in found]


def _stroke(pixels: Picture, contours: Sequence[NDArray[np.int32]], colour: Colour, width: int) -> None:
    """Draw lines onto the photograph itself."""
    cv2.polylines(pixels, contours, True, colour, width, cv2.LINE_AA, shift=4)


def _smooth(contour: NDArray[Any]) -> NDArray[np.int32]:
    """Return a closed contour without its stairs, in sixteenths of a pixel."""
    points = contour[:, 0].astype(np.float32)
    if len(points) > 8:
        padded = np.concatenate([points[-2:], points, points[:2]])
        points = cv2.blur(padded, (1, 5)).astype(np.float32)[2:-2]
    return np.rint(points * 16).astype(np.int32)[:, None]


def _side(columns: int) -> int:
    """The longer side of a panel, in pixels, of which so many stand side by side on a sheet."""
    return min(PANEL, (SHEET - GAP) // columns - GAP)


def _compared(pixels: Picture, mask: Mask, truth: Mask | None, name: str) -> list[Panel]:
    """A class of an image: the photograph, truth, prediction and errors, the photograph at its panel's size."""
    photograph = Panel(pixels, plain(name).capitalize())
    if truth is None:
        return [photograph, _outlined(pixels, mask, "Prediction")]
    score, size = Confusion.of(mask, truth), _size(pixels.shape)
    return [
        photograph,
        _outlined(pixels, truth, "Truth", TRUTH),
        _outlined(pixels, mask, "Prediction", note=f"Jaccard {score.jaccard:.3f}, Dice {score.dice:.3f}"),
        Panel(
            error_map(pixels, _fit_mask(mask, size), _fit_mask(truth, size)),
            "Errors",
            key={"missed": MISSED, "too much": EXTRA},
        ),
    ]


def _outlined(pixels: Picture, mask: Mask, caption: str, color: Colour = LINE, note: str = "") -> Panel:
    """The photograph, at its panel's size, with a mask's outline and, if nothing else is noted, its area."""
    area = f"{_area(mask)} of the image" if mask.any() else "empty"
    return Panel(outline(pixels, _fit_mask(mask, _size(pixels.shape)), color), caption, note or area)


def _entry(name: str, mask: Mask, colour: Colour) -> Picture:
    """A class in a legend: its colour, its name and its area; a hollow sign and pale ink if nothing was found."""
    found = bool(mask.any())
    parts = [_swatch(colour, hollow=not found), _text(plain(name), INK if found else PALE_INK)]
    parts.append(_text(_area(mask) if found else "not found", PALE_INK))
    cell = np.full((CAPTION, sum(part.shape[1] for part in parts) + GAP, 3), PAPER, np.uint8)
    left = 0
    for part in parts:
        _paste(cell, part, CAPTION // 2, left)
        left += part.shape[1]
    return cell


def _swatch(colour: Colour, *, hollow: bool = False) -> Picture:
    """A colour as a legend shows it."""
    swatch = np.full((GAP, 2 * GAP, 3), PAPER, np.uint8)
    swatch[1:-1, GAP - 2 : -4] = colour
    if hollow:
        swatch[3:-3, GAP:-6] = PAPER
    return swatch


def _area(mask: Mask) -> str:
    return f"{100 * mask.mean():.1f} %"


def _size(shape: tuple[int, ...], side: int | None = None) -> tuple[int, int]:
    """Width and height of an image of that shape, its longer side scaled to ``side``."""
    height, width = shape[:2]
    scale = 1 if side is None else side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fit(pixels: Picture, size: tuple[int, int]) -> Picture:
    """Return a photograph at another width and height."""
    return _scaled(pixels, size).astype(np.uint8, copy=False)


def _fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return a mask scaled as its photograph is, and cut at one half."""
    return _scaled(mask.astype(np.float32), size) >= 0.5


def _scaled(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    smaller = max(size) < max(image.shape[:2])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _viridis(grey: NDArray[np.uint8]) -> Picture:
    return cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1].astype(np.uint8)


def _inferno(grey: NDArray[np.uint8]) -> Picture:
    return cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.uint8)


def _captioned(panel: Picture, caption: str) -> Picture:
    """Return the panel centred over its caption, widened with white where it is narrower."""
    text = _text(caption)
    width = max(panel.shape[1], text.shape[1])
    cell = np.full((panel.shape[0] + CAPTION, width, 3), PAPER, np.uint8)
    left = (width - panel.shape[1]) // 2
    cell[: panel.shape[0], left : left + panel.shape[1]] = panel
    _paste(cell, text, panel.shape[0] + CAPTION // 2, (width - text.shape[1]) // 2)
    return cell


def _row(cells: Sequence[Picture]) -> Picture:
    """Return cells of one height side by side, with white around them."""
    gap = np.full((cells[0].shape[0], GAP, 3), PAPER, np.uint8)
    row = [part for cell in cells for part in (gap, cell)]
    top = np.full((GAP, sum(part.shape[1] for part in row) + GAP, 3), PAPER, np.uint8)
    return np.vstack([top, np.hstack([*row, gap])])


def _labelled(panel: Panel) -> Picture:
    """Return a panel over its caption at the left and its note and key at the right."""
    parts = [_text(panel.note, PALE_INK)]
    for meaning, colour in panel.key.items():
        parts += [_swatch(colour), _text(meaning, PALE_INK)]
    caption, written = _text(panel.caption), sum(part.shape[1] for part in parts)
    height, width = panel.picture.shape[0], max(panel.picture.shape[1], caption.shape[1] + GAP + written)
    cell = np.full((height + CAPTION, width, 3), PAPER, np.uint8)
    cell[:height, : panel.picture.shape[1]] = panel.picture
    left = width - written
    _paste(cell, caption, height + CAPTION // 2, 0)
    for part in parts:
        _paste(cell, part, height + CAPTION // 2, left)
        left += part.shape[1]
    return cell


def _scale_bar(height: int, colours: Callable[[NDArray[np.uint8]], Picture] = _viridis) -> Picture:
    """Return the colours from 1 above to 0 below, with three ticks, as high as a captioned panel."""
    bar, texts = 14, [_text(text) for text in ("1.0", "0.5", "0.0")]
    cell = np.full((height + CAPTION, bar + 8 + texts[0].shape[1], 3), PAPER, np.uint8)
    ramp = np.linspace(255, 0, height).round().astype(np.uint8)
    cell[:height, :bar] = colours(np.repeat(ramp[:, None], bar, axis=1))
    for text, place in zip(texts, (0.0, 0.5, 1.0), strict=True):
        half = text.shape[0] // 2
        row = min(max(round(place * (height - 1)), half), max(half, height - half))
        _paste(cell, text, row, bar + 8)
    return cell


def _text(text: str, ink: Colour = INK, size: float = TEXT) -> Picture:
    """Return a line of text on white; drawn four times too large and shrunk, for OpenCV's own is coarse."""
    text = utf8(text).decode()  # OpenCV crashes on a file's name that is no text
    font, weight = cv2.FONT_HERSHEY_SIMPLEX, 4
    width = cv2.getTextSize(text, font, size, weight)[0][0]
    (_, height), baseline = cv2.getTextSize("Ag", font, size, weight)  # the same of every line, so that they align
    canvas = np.full((height + baseline + 16, width + 16, 3), PAPER, np.uint8)
    cv2.putText(canvas, text, (8, height + 8), font, size, ink, weight, cv2.LINE_AA)
    return cv2.resize(canvas, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _paste(cell: Picture, text: Picture, middle: int, left: int) -> None:
    """Put the text onto the cell, around the row `middle`, from the column `left`."""
    top = max(0, min(middle - text.shape[0] // 2, cell.shape[0] - text.shape[0]))
    cell[top : top + text.shape[0], left : left + text.shape[1]] = text
