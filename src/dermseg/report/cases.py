"""Pictures of scored images: a thumbnail of each, and single images with their errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg import figures
from dermseg.data.catalog import Sample
from dermseg.errors import DermsegError
from dermseg.evaluation import Predictor
from dermseg.figures import CONFUSED, EXTRA, LINE, MISSED, PALETTE, TRUTH, Colour, error_map, outline
from dermseg.imaging import encode_image, make_folder, read_mask, write_bytes
from dermseg.parallel import attempt
from dermseg.protocols import ImageScore, Mask, Masks
from dermseg.report.page import Case, Picture, data_uri
from dermseg.wording import plain

LONGEST = 100  # characters of an image's id in a file's name

THUMBNAIL, SIDE = 96, 256  # longer sides in pixels: in tables, in galleries
THUMBNAIL_QUALITY, QUALITY = 80, 72

Pixels = figures.Picture
Drawing = tuple[dict[str, Pixels], Pixels]
"""Of a case: small pictures by title for the page, and the sheet for its file."""


@dataclass(frozen=True)
class View:
    """An image at some scale.

    Attributes:
        pixels: The photograph, RGB (h, w, 3).
        masks: What was predicted, bool (K, h, w).
        truths: What is true, bool (K, h, w).
    """

    pixels: Pixels
    masks: NDArray[np.bool_]
    truths: NDArray[np.bool_]

    @classmethod
    def of(cls, prediction: Masks, truths: Mapping[str, Mask], side: int = SIDE) -> View:
        """Scale an image and its masks so that its longer side is ``side`` pixels."""
        height, width = prediction.size
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return cls(
            _scaled(prediction.pixels, size),
            np.stack([_scaled(prediction.mask_of(name).view(np.uint8) * 255, size) > 127 for name in truths]),
            np.stack([_scaled(truth.view(np.uint8) * 255, size) > 127 for truth in truths.values()]),
        )

    def panels(self) -> dict[str, Pixels]:
        """The pictures that stand side by side, by title."""
        return {
            "Image": self.pixels,
            "Truth": _drawn(self.pixels, self.truths, TRUTH),
            "Prediction": _drawn(self.pixels, self.masks, LINE),
            "Errors": error_map(self.pixels, self.masks, self.truths),
        }


def thumbnail(_sample: Sample, prediction: Masks, truths: Mapping[str, Mask]) -> bytes:
    """A small picture for a table: the photograph with the outlines of the truth, yellow, and the prediction, cyan.

    Args:
        prediction: Of the image.
        truths: (H, W) by class; of several the outline is of all of them together.

    Returns:
        A WebP file of one or two kB, its longer side 96 pixels.
    """
    view = View.of(prediction, truths, 2 * THUMBNAIL)  # drawn twice as large, so that lines become fine
    drawn = view.pixels
    for masks, colour in ((view.truths, TRUTH), (view.masks, LINE)):
        drawn = outline(drawn, np.asarray(masks.any(axis=0)), colour)
    size = (max(1, drawn.shape[1] // 2), max(1, drawn.shape[0] // 2))
    return encode_image(_scaled(drawn, size), "WEBP", quality=THUMBNAIL_QUALITY)


def legend(classes: Sequence[str], *, errors: bool = True) -> list[tuple[Colour, str]]:
    """What the colours of outlines, and those of error maps, mean."""
    if len(classes) == 1:
        wrong = [(MISSED, "missed"), (EXTRA, "too much")]
        lines = [(TRUTH, "truth"), (LINE, "prediction")]
    else:
        wrong = [(MISSED, "error: missed"), (EXTRA, "error: too much"), (CONFUSED, "error: one for another")]
        lines = [(colour, plain(name)) for colour, name in zip(_colours(len(classes)), classes, strict=True)]
    return [*lines, *wrong] if errors else lines


def draw(predictor: Predictor, sample: Sample, title: str, subtitle: str) -> Drawing:
    """Predict an image again and draw it: photograph, truth, prediction and errors, on its sheet of each class.

    Raises:
        DermsegError: If the image or a mask can no longer be read.
    """
    prediction = predictor(sample)
    truths = {name: read_mask(sample.masks[name]) for name in predictor.classes}
    masks = {name: prediction.mask_of(name) for name in truths}
    return View.of(prediction, truths).panels(), figures.case(prediction.pixels, masks, truths, title, subtitle)


def write(
    folder: Path,
    images: Sequence[tuple[ImageScore, str]],
    samples: Sequence[Sample],
    drawing: Callable[[Sample, str, str], Drawing],
) -> list[Case]:
    """Draw images for the page, and each as a PNG named by rank and id.

    Args:
        folder: Of the PNGs, in that of the page; made if it is missing.
        images: With their captions; the first has rank 1.
        samples: Among which they are.
        drawing: Draws a sample, with a title and a subtitle on its sheet.

    Returns:
        Those that could be drawn: files may be gone since they were scored.

    Raises:
        InputError: If the folder cannot be written.
    """
    if images:
        make_folder(folder)
    sample_of = {(sample.source, sample.id): sample for sample in samples}
    cases, digits = [], max(2, len(str(len(images))))
    for rank, (image, caption) in enumerate(images, 1):
        name = f"{rank}. {image.id}"
        drawn = attempt(lambda of: drawing(*of), (sample_of[image.source, image.id], name, caption))
        if isinstance(drawn, DermsegError):
            continue
        panels, sheet = drawn
        file = folder / f"{rank:0{digits}d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', image.id)[:LONGEST]}.png"
        write_bytes(file, encode_image(sheet))
        shown = [(title, _picture(f"{title}, {image.id}", pixels)) for title, pixels in panels.items()]
        cases.append(Case(name, caption, shown, f"{folder.name}/{file.name}"))
    return cases


def _picture(alt: str, pixels: Pixels) -> Picture:
    uri = data_uri(encode_image(pixels, "WEBP", quality=QUALITY), "image/webp")
    return Picture(uri, pixels.shape[1], pixels.shape[0], alt)


def _drawn(pixels: Pixels, masks: NDArray[np.bool_], colour: Colour) -> Pixels:
    """The outline of one mask, or of each of several in its own colour, filled so that overlaps show."""
    if len(masks) == 1:
        return outline(pixels, masks[0], colour)
    drawn = pixels
    for mask, own in zip(masks, _colours(len(masks)), strict=True):
        tinted = drawn.copy()
        tinted[mask] = (0.65 * drawn[mask] + 0.35 * np.array(own)).astype(np.uint8)
        drawn = outline(tinted, mask, own)
    return drawn


def _colours(count: int) -> list[Colour]:
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def _scaled(image: NDArray[np.uint8], size: tuple[int, int]) -> Pixels:
    shrinks = size[0] <= image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8)
