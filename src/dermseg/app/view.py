"""What the page shows, without the page: pictures, words, rows and archives made from findings."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg import figures
from dermseg.app.backend import MAX_MEGAPIXELS, Finding, Spread
from dermseg.errors import DermsegError, InputError
from dermseg.figures import Colour, Mask, Picture
from dermseg.imaging import encode_image, encode_mask, read_true_mask
from dermseg.measurement import Measurements, measure
from dermseg.metrics import TASK1_METRICS, Confusion
from dermseg.quality import Quality
from dermseg.segmenter import Prediction
from dermseg.wording import capital, count, plain

SIZE = 1024
"""Longer side of a picture on the page, in pixels."""
THUMBNAIL = 400
JPEG_QUALITY = 92

Row = tuple[str, ...]

COLUMNS = (
    *("file", "bundle", "verdict", "estimated_jaccard", "reason", "width", "height"),
    *("class", "presence", "threshold", "area_pixels", "area_fraction", "error"),
)
"""Of ``results.csv``: a line for each class of an image, and one for a file that could not be used."""

CLASS_COLUMNS: Row = ("", "of the image", "probably there", "threshold")
"""What ``class_rows`` tells."""

_SCORES = {
    "jaccard": "Jaccard index",
    "thresholded_jaccard": "Thresholded Jaccard index",
    "dice": "Dice coefficient",
}


@dataclass(frozen=True, eq=False)
class View:
    """A class of a prediction at the size of the page.

    Attributes:
        pixels: The photograph, uint8 (h, w, 3), RGB.
        mask: Bool (h, w).
        probability: Float32 (h, w) in [0, 1].
    """

    pixels: Picture
    mask: Mask
    probability: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Card:
    """What is kept of an image among many.

    Attributes:
        name: The file's.
        thumbnail: Photograph and outline, JPEG.
        overlay: The same, larger.
        masks: PNG at the image's own size, by class.
        quality: What the prediction is worth.
        area: The share of the image that is covered by one class or more, [0, 1].
        result: ``to_dict`` of the finding.
    """

    name: str
    thumbnail: bytes
    overlay: bytes
    masks: Mapping[str, bytes]
    quality: Quality | None
    area: float
    result: Mapping[str, Any]


def sentence(error: DermsegError, name: str) -> str:
    """An error in words; what came as bytes is called by its file's name."""
    text = str(error)
    named = text.startswith("<bytes>")  # a file's name keeps its small letter
    text = text.replace("<bytes>", name).rstrip(".") + "."
    return text if named else capital(text)


def adjusted(prediction: Prediction, thresholds: Mapping[str, float], mm_per_pixel: float | None = None) -> Prediction:
    """The prediction with other thresholds, each in (0, 1), and a scale; the network is not asked again."""
    chosen = zip(prediction.classes, prediction.thresholds, strict=True)
    return replace(
        prediction,
        thresholds=tuple(thresholds.get(name, own) for name, own in chosen),
        mm_per_pixel=mm_per_pixel,
    )


def view(prediction: Prediction, name: str, longest: int = SIZE) -> View:
    """A class of a prediction, its longer side ``longest`` pixels, so that small images too have a crisp outline."""
    height, width = prediction.size
    scale = longest / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    place = prediction.classes.index(name)
    probability = replace(prediction.geometry, height=height, width=width).invert(prediction.probabilities[place])
    mask = probability > np.float32(prediction.thresholds[place])
    return View(_resized(prediction.pixels, height, width), mask, probability)


def outlined(shown: View, shade: float) -> Picture:
    """Photograph and outline; ``shade`` of the light around the lesion, 0 to 1, is taken away."""
    return figures.overlay(shown.pixels, shown.mask, alpha=shade)


def overlay_file(prediction: Prediction, name: str, shade: float) -> bytes:
    """``outlined`` as PNG, at the image's own size or at ``SIZE`` if that is smaller."""
    return encode_image(outlined(view(prediction, name, min(SIZE, max(prediction.size))), shade))


def probability_map(shown: View, name: str) -> Picture:
    """The probability over the photograph, with its scale."""
    return figures.heat_map(shown.pixels, shown.probability, shown.mask, caption=f"Probability of {plain(name)}")


def uncertainty_map(shown: View, spread: Spread) -> Picture:
    """The entropy over the photograph, with its scale from 0 to 1 bit."""
    height, width = shown.mask.shape
    entropy = replace(spread.geometry, height=height, width=width).invert(spread.entropy)
    note = f"of {spread.samples} predictions"
    return figures.heat_map(shown.pixels, entropy, shown.mask, caption="Entropy in bits", note=note)


def difference(shown: View, other: Mask) -> Picture:
    """Where the mask and another of the same image, at whatever size, differ; colours as of ``figures.error_map``."""
    height, width = shown.mask.shape
    fitted = _resized(other.astype(np.float32), height, width) >= 0.5
    return figures.error_map(shown.pixels, shown.mask, fitted)


def structures(prediction: Prediction, longest: int = SIZE) -> tuple[Picture, dict[str, Colour]]:
    """The outlines of all classes that were found on one photograph, and the colour of each where there are several."""
    views = {name: view(prediction, name, longest) for name in prediction.classes}
    if len(views) == 1:
        (only,) = views.values()
        return figures.overlay(only.pixels, only.mask), {}
    masks = {name: each.mask for name, each in views.items()}
    colours = {name: colour for name, colour in figures.colours_of(masks).items() if masks[name].any()}
    return figures.outlines(views[prediction.classes[0]].pixels, masks), colours


def read_truth(content: bytes, size: tuple[int, int]) -> Mask:
    """Read a true mask.

    Args:
        content: Of its file.
        size: (height, width) of the image.

    Raises:
        ImageError: If it cannot be read.
        DataError: If it is empty by its encoding alone.
        InputError: If it is of another size.
    """
    mask = read_true_mask(content, max_megapixels=MAX_MEGAPIXELS)
    if mask.shape != size:
        raise InputError(
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {size[1]} x {size[0]}; "
            "give the mask of this image, at its size"
        )
    return mask


def score_rows(scores: Confusion) -> list[Row]:
    """Name and value of each metric."""
    values = scores.scores()
    return [(_SCORES.get(name, capital(plain(name))), f"{values[name]:.3f}") for name in TASK1_METRICS]


def class_rows(prediction: Prediction) -> list[Row]:
    """Name, area, presence where the bundle tells it, and threshold of each class: what ``CLASS_COLUMNS`` names."""
    return [
        (
            plain(each["name"]),
            percent(each["area_fraction"]) if each["area_pixels"] else "–",
            "–" if each["presence"] is None else percent(each["presence"]),
            f"{each['threshold']:.3f}",
        )
        for each in prediction.to_dict()["classes"]
    ]


def measurements(prediction: Prediction, name: str) -> Measurements | None:
    """Of a class; None of an empty mask."""
    return measure(prediction.pixels, prediction.mask_of(name), prediction.mm_per_pixel)


def measurement_rows(found: Measurements) -> list[Row]:
    """Name, value with its unit, and meaning of each measurement."""

    def length(pixels: float, millimetres: float | None) -> str:
        return f"{pixels:,.0f} px" if millimetres is None else f"{millimetres:.2f} mm ({pixels:,.0f} px)"

    area = f"{found.area:,} px²" if found.area_mm2 is None else f"{found.area_mm2:.1f} mm² ({found.area:,} px²)"
    major, minor = found.asymmetry
    border = "–" if found.border_irregularity is None else f"{found.border_irregularity:.3f}"
    colours = ", ".join(f"{name} {percent(found.colours[name])}" for name in found.colours_present)
    lightness, red_green, yellow_blue = found.colour_variegation
    return [
        ("Area", area, count(found.components, "part")),
        ("Largest diameter", length(found.maximum_diameter, found.maximum_diameter_mm), "between its farthest points"),
        (
            "Equivalent diameter",
            length(found.equivalent_diameter, found.equivalent_diameter_mm),
            "of a disc of the same area",
        ),
        ("Perimeter", length(found.perimeter, found.perimeter_mm), "length of the outline"),
        ("Asymmetry", f"{major:.3f}, {minor:.3f}", "about the longer and the shorter axis; 0 is symmetric"),
        ("Border irregularity", border, "0 of an ellipse"),
        ("Compactness", f"{found.compactness:.3f}", "1 of a disc"),
        ("Eccentricity", f"{found.eccentricity:.3f}", "0 of a circle"),
        ("Colours", colours or "–", "share of the area that is nearest to each; of the picture, not calibrated"),
        (
            "Colour spread",
            f"{lightness:.3f}, {red_green:.3f}, {yellow_blue:.3f}",
            "of lightness, red-green and yellow-blue, over 100",
        ),
        ("Meets the edge", "yes" if found.touches_border else "no", "where it does, a part may be missing"),
    ]


def spread_rows(spread: Spread) -> list[Row]:
    """Name and mean over the image and along the outline of each kind of uncertainty."""

    def value(number: float | None) -> str:
        return "–" if number is None else f"{number:.3f}"

    names = {
        "entropy": "Entropy, bits",
        "mutual_information": "Mutual information, bits",
        "standard_deviation": "Standard deviation",
    }
    return [
        (title, value(spread.summary[name]["image"]), value(spread.summary[name]["border"]))
        for name, title in names.items()
    ]


def percent(share: float) -> str:
    """A share from 0 to 1 in per cent."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def jpeg(picture: Picture) -> bytes:
    """A picture for the page."""
    return encode_image(picture, "JPEG", quality=JPEG_QUALITY)


def result(prediction: Prediction, quality: Quality | None) -> dict[str, Any]:
    """``Prediction.to_dict``, with the quality at the bundle's own thresholds, at which it is estimated."""
    told = replace(prediction, quality_model=None).to_dict()
    return {**told, "quality": quality.to_dict() if quality else None}


def result_file(prediction: Prediction, quality: Quality | None) -> bytes:
    """``result`` as JSON."""
    return _json(result(prediction, quality))


def card(finding: Finding) -> Card:
    """What is kept of a finding among many."""
    prediction = finding.prediction
    masks = {name: prediction.mask_of(name) for name in prediction.classes}
    return Card(
        name=prediction.photograph.name,
        thumbnail=jpeg(structures(prediction, THUMBNAIL)[0]),
        overlay=jpeg(prediction.overlay(SIZE) if len(masks) > 1 else structures(prediction)[0]),
        masks={name: encode_mask(mask) for name, mask in masks.items()},
        quality=finding.quality,
        area=float(np.any(list(masks.values()), axis=0).mean()),
        result=result(prediction, finding.quality),
    )


def tally(cards: Sequence[Card | tuple[str, str]]) -> str:
    """Many images in one sentence: how many there are of each verdict, and how many could not be used."""
    done = [each for each in cards if isinstance(each, Card)]
    verdicts = [each.quality.verdict for each in done if each.quality]
    parts = [f"{verdicts.count(verdict)} to {verdict}" for verdict in ("accept", "review", "reject") if verdicts]
    failed = len(cards) - len(done)
    parts += [f"{failed} could not be used"] * bool(failed)
    return f"{count(len(cards), 'image')}: {', '.join(parts)}" if parts else count(len(cards), "image")


def archive(cards: Sequence[Card | tuple[str, str]]) -> bytes:
    """A ZIP of many images: masks, outlines and ``results.csv``, with a line for each file that could not be used.

    Args:
        cards: Of images, or a file's name and why it could not be used.

    Returns:
        Names begin with the image's number and the file's stem: ``01_lesion_mask.png``, or with the class where there
        are several, ``01_lesion_globules_mask.png``; ``01_lesion_overlay.jpg``, ``01_lesion.json``.
    """
    content, lines = io.BytesIO(), io.StringIO()
    table = csv.DictWriter(lines, COLUMNS)
    table.writeheader()
    digits = len(str(len(cards)))
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as files:  # pictures are compressed already
        for number, each in enumerate(cards, 1):
            if not isinstance(each, Card):
                table.writerow({"file": each[0], "error": each[1]})
                continue
            stem = f"{number:0{digits}d}_{stem_of(each.name)}"
            for name, mask in each.masks.items():
                part = f"_{name}" if len(each.masks) > 1 else ""
                files.writestr(f"{stem}{part}_mask.png", mask)
            files.writestr(f"{stem}_overlay.jpg", each.overlay)
            files.writestr(f"{stem}.json", _json(each.result))
            table.writerows(_lines(each))
        files.writestr("results.csv", lines.getvalue().encode("utf-8"))
    return content.getvalue()


def stem_of(name: str) -> str:
    """A file's name without its suffix, of characters that are safe in any file's name."""
    return re.sub(r"[^\w.-]+", "_", PurePath(name).stem).strip("._") or "image"


def _lines(each: Card) -> list[dict[str, Any]]:
    """The lines of an image in ``results.csv``."""
    quality = each.quality
    shared = {
        "file": each.name,
        "bundle": each.result["bundle"],
        "verdict": quality.verdict if quality else "",
        "estimated_jaccard": round(quality.jaccard, 4) if quality else "",
        "reason": quality.reason if quality else "",
        "width": each.result["width"],
        "height": each.result["height"],
    }
    return [
        {
            **shared,
            "class": found["name"],
            "presence": "" if found["presence"] is None else round(found["presence"], 4),
            "threshold": found["threshold"],
            "area_pixels": found["area_pixels"],
            "area_fraction": found["area_fraction"],
        }
        for found in each.result["classes"]
    ]


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _resized(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    interpolation = cv2.INTER_AREA if width < array.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(array, (width, height), interpolation=interpolation)
