"""What the service answers with: a prediction as a picture, as JSON or as a ZIP, and the headers about it."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, assert_never, get_args
from urllib.parse import quote

from dermseg import figures, shapes
from dermseg._version import __version__
from dermseg.bundle import Bundle
from dermseg.card import model_card
from dermseg.errors import InputError
from dermseg.imaging import DEFAULT_MAX_MEGAPIXELS, encode_image, encode_mask, read_true_mask
from dermseg.metrics import Confusion
from dermseg.segmenter import Prediction
from dermseg.serving.inference import Answer

if TYPE_CHECKING:
    from dermseg.explanation import Explanation

Rendering = Literal["mask", "probability", "overlay", "uncertainty", "side-by-side", "json", "zip"]
"""What is made of a prediction alone."""
Output = Literal[Rendering, "explanation"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
# Of a bundle's name in a header, which holds Latin-1 alone; the rest is percent-encoded.
SAFE = " ()+,:;=@"

SUMMARY = {"name", "description", "classes", "licence", "input_size", "thresholds", "scores"}
"""What a bundle's manifest tells in a list of bundles."""


def media_type(output: Output) -> str:
    """The media type of an output's body."""
    return {"json": "application/json", "zip": "application/zip"}.get(output, "image/png")


def encode(prediction: Prediction, output: Rendering, attribute: str | None = None) -> bytes:
    """Make the body of an answer.

    Args:
        prediction: What was found in the image.
        output: Mask, probability and uncertainty are PNGs at the image's own size, the other pictures at most
            ``VIEW_SIZE`` pixels; uncertainty is the entropy, grey, 0 to 1 bit.
        attribute: The class that is shown. If None, overlay, side-by-side, JSON and ZIP tell of all, the others of the
            first.

    Raises:
        InputError: If the bundle has no such class, or ``uncertainty`` is asked of a single prediction.
    """
    one = prediction.only(attribute)
    shown = prediction if attribute is None else one
    match output:
        case "mask":
            return encode_mask(one.mask)
        case "probability":
            return encode_image(figures.probability_image(one.probability()))
        case "overlay":
            return encode_image(shown.overlay())
        case "uncertainty":
            return _uncertainty(one)
        case "side-by-side":
            return encode_image(shown.side_by_side())
        case "json":
            return to_json(result(prediction))
        case "zip":
            archive = Archive()
            return b"".join([*(archive.add(*file) for file in files(prediction, attribute).items()), archive.close()])
        case _:
            assert_never(output)


def encode_explanation(explanation: Explanation) -> bytes:
    """Make the body of an answer that explains, a PNG."""
    return encode_image(explanation.overlay())


def files(prediction: Prediction, attribute: str | None = None) -> dict[str, bytes]:
    """What a ZIP tells of an image, by name: pictures of a class, or of all if None, and the result of all.

    Of several classes, each has a folder of its pictures, beside the overlay of all.
    """
    shown = prediction if attribute is None else prediction.only(attribute)
    outputs: list[Rendering] = ["mask", "probability", "overlay"]
    if prediction.uncertainty is not None:
        outputs.append("uncertainty")
    names = shown.classes if len(shown.classes) > 1 else ()
    pictures = {f"{name}/{output}.png": encode(shown, output, name) for name in names for output in outputs}
    together: list[Rendering] = ["overlay"] if names else outputs
    pictures |= {f"{output}.png": encode(shown, output) for output in together}
    return {**pictures, "result.json": to_json(result(prediction))}


def result(prediction: Prediction) -> dict[str, Any]:
    """What ``told`` gives, with each class's mask as ``polygon`` and ``rle``, as ``shapes`` makes them."""
    found = told(prediction)
    for entry in found["classes"]:
        mask = prediction.mask_of(entry["name"])
        entry["polygon"], entry["rle"] = shapes.polygon(mask), shapes.rle(mask)
    return found


def told(prediction: Prediction) -> dict[str, Any]:
    """``Prediction.to_dict`` without the image's name, which its bytes do not tell."""
    return {name: value for name, value in prediction.to_dict().items() if name != "image"}


def to_json(value: object) -> bytes:
    """JSON in one line that ends with a line break, so that lines of it are NDJSON."""
    return (json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n").encode()


def evaluate(
    prediction: Prediction,
    mask: bytes,
    attribute: str | None = None,
    *,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
) -> dict[str, Any]:
    """Score a class's mask against a true one.

    The true mask must lie on the photograph as it is seen, which is turned as its EXIF says; a mask that carries an
    EXIF orientation itself is turned as well.

    Args:
        prediction: What was found in the photograph.
        mask: A file; what is brighter than 128 is foreground.
        attribute: The class, the first if None.
        max_megapixels: The largest mask that is opened.

    Returns:
        ``scores`` by name, ``mask``, the predicted one as a PNG in base64, and ``prediction``, as ``told`` gives it.

    Raises:
        InputError: If the bundle has no such class, or the mask has another size than the photograph.
        DataError: If the mask's values leave nothing of what it holds.
        ImageError: If the mask cannot be opened.
    """
    shown = prediction.only(attribute)
    truth = read_true_mask(mask, max_megapixels=max_megapixels)
    if truth.shape != prediction.size:
        (height, width), orientation = prediction.size, prediction.photograph.exif_orientation
        turned = f" once it is turned upright (EXIF orientation {orientation})" if orientation > 1 else ""
        raise InputError(
            f"the mask has {truth.shape[1]} x {truth.shape[0]} pixels, the photograph {width} x {height}{turned}; "
            "give a mask of the same size, which lies on the photograph as it is seen"
        )
    return {
        "scores": Confusion.of(shown.mask, truth).scores(),
        "mask": base64.b64encode(encode_mask(shown.mask)).decode(),
        "prediction": told(prediction),
    }


def headers(answer: Answer[Any]) -> dict[str, str]:
    """The headers about an answer: the model and its version, the verdict, and milliseconds by stage."""
    stages = answer.seconds._asdict().items()
    return {
        "X-Model": quote(answer.bundle, safe=SAFE),
        "X-Version": __version__,
        "X-Quality": answer.verdict or "unknown",
        "Server-Timing": ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in stages),
    }


def bundle_summary(bundle: Bundle, *, default: bool) -> dict[str, Any]:
    """What the service tells of a bundle, in plain values.

    Args:
        bundle: One that it serves.
        default: Whether it answers where a request names none.
    """
    return {
        **bundle.manifest.model_dump(mode="json", include=SUMMARY),
        "parameters": bundle.manifest.architecture.parameters,
        "card": model_card(bundle.manifest),
        "default": default,
    }


class Archive:
    """A ZIP that is written piece by piece and never held as a whole; equal files give equal bytes.

    It can be read in one pass, too: each file's size stands before it. One that is not closed leaves nothing to do.
    """

    def __init__(self) -> None:
        self._written = _Tail()
        self._zip = zipfile.ZipFile(self._written, "w")

    def add(self, name: str, data: bytes) -> bytes:
        """Add a file, compressed unless it is a PNG, and give the archive's next bytes."""
        entry = zipfile.ZipInfo(name)  # of 1980, whatever the time
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        entry.compress_type = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
        self._zip.writestr(entry, data)
        return self._written.take()

    def close(self) -> bytes:
        """Give the archive's last bytes."""
        self._zip.close()
        return self._written.take()


def entry_stem(index: int, name: str) -> str:
    """How the files about one of many images begin: its number and what of its name is safe in any file system."""
    stem = re.sub(r"[^\w-]+", "_", PurePath(name.replace("\\", "/")).stem)[:100].strip("_")
    return f"{index}_{stem}" if stem else str(index)


class _Tail:
    """The end of a file, which keeps what is written until it is taken; what was taken cannot be written again.

    No ``io.IOBase``: the garbage collector would close one before the archive on it, whose own end then fails.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._kept = io.BytesIO()

    def write(self, data: bytes, /) -> int:
        return self._kept.write(data)

    def tell(self) -> int:
        return self._taken + self._kept.tell()

    def seek(self, offset: int, /) -> int:
        return self._taken + self._kept.seek(offset - self._taken)

    def flush(self) -> None:
        """Nothing lies between this and its bytes."""

    def close(self) -> None:
        """Nothing is open."""

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = self._kept.getvalue()
        self._taken += len(taken)
        self._kept = io.BytesIO()
        return taken


def _uncertainty(prediction: Prediction) -> bytes:
    """Of a prediction of one class."""
    if prediction.uncertainty is None:
        raise InputError(
            "the output 'uncertainty' shows how several predictions of an image differ; ask for them with tta=true "
            "or mc_samples=10"
        )
    return encode_image(figures.probability_image(prediction.geometry.invert(prediction.uncertainty.entropy[0])))
