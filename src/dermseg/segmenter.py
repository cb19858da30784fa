"""``Segmenter`` turns an image into a ``Prediction``; the one way to do so, behind every front end."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg import figures
from dermseg._version import __version__
from dermseg.bundle import Bundle
from dermseg.engine import Device, EngineName, open_engine
from dermseg.errors import DermsegError, InputError
from dermseg.imaging import (
    DEFAULT_MAX_MEGAPIXELS,
    Geometry,
    Orientation,
    Photograph,
    Source,
    encode_image,
    encode_mask,
    make_folder,
    open_image,
    write_bytes,
)
from dermseg.parallel import attempt, in_order
from dermseg.processing import DECODED_SIDE, decode, prepare

Output = Literal["mask", "overlay", "result", "probability", "json"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
VIEW_SIZE = DECODED_SIDE


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a bundle found in one image.

    Attributes:
        photograph: The image.
        pixels: It, decoded at a scale good enough for pictures of ``VIEW_SIZE`` pixels; uint8 RGB.
        classes: Names of the classes; ``lesion`` for the shipped model.
        probabilities: float32 (K, S, S) in [0, 1] at the network's size, one map a class.
        geometry: Where the image lies in the maps.
        thresholds: One a class: pixels with a higher probability belong to the mask.
        bundle: Name of the bundle.
    """

    photograph: Photograph
    pixels: NDArray[np.uint8] = field(repr=False)
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    thresholds: tuple[float, ...]
    bundle: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image and of its mask, in pixels."""
        return self.photograph.size

    def probability(self, name: str | None = None) -> NDArray[np.float32]:
        """A class's probability at the image's own size, (H, W) in [0, 1]; the first class's if unnamed.

        Raises:
            InputError: If the bundle has no such class.
        """
        return self.geometry.invert(self.probabilities[self._index(name)])

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The first class's mask at the image's own size, bool (H, W)."""
        return self.mask_of(self.classes[0])

    def mask_of(self, name: str) -> NDArray[np.bool_]:
        """A class's mask at the image's own size, bool (H, W)."""
        return self.probability(name) > np.float32(self.thresholds[self._index(name)])

    def overlay(self, longest: int | None = VIEW_SIZE) -> NDArray[np.uint8]:
        """The photograph with the mask's outline, RGB, its longer side at most ``longest`` pixels; None for its own."""
        return figures.overlay(*self._view(longest)[:2])

    def side_by_side(self) -> NDArray[np.uint8]:
        """Photograph, overlay, mask and probability in one row, RGB."""
        return figures.side_by_side(*self._view(VIEW_SIZE))

    def to_dict(self) -> dict[str, Any]:
        """The prediction in plain values: image, bundle, and each class's threshold, area and bounding box."""
        height, width = self.size
        return {
            "image": self.photograph.name,
            "width": width,
            "height": height,
            "orientation": self.photograph.orientation,
            "exif_orientation": self.photograph.exif_orientation,
            "bundle": self.bundle,
            "dermseg": __version__,
            "classes": [self._measure(name) for name in self.classes],
        }

    def save(
        self,
        folder: str | Path,
        outputs: Sequence[Output] = ("mask", "overlay"),
        stem: str | None = None,
        mask_bits: Literal[1, 8] = 8,
    ) -> list[Path]:
        """Write files named ``<stem>_mask.png``, ``_overlay.png``, ``_result.png``, ``_probability.png``, ``.json``.

        Args:
            folder: Made if it does not exist.
            outputs: Which of ``OUTPUTS``.
            stem: The image's own if None.
            mask_bits: Of a mask's pixel: 8 as the ISIC challenge asks, or 1.

        Returns:
            The files, in the order of ``outputs``.

        Raises:
            InputError: If the folder cannot be written, or an output does not exist.
        """
        check_outputs(outputs)
        stem = stem or Path(self.photograph.name).stem.strip("<>")
        paths = []
        make_folder(folder)
        for output in outputs:
            path = Path(folder) / (f"{stem}.json" if output == "json" else f"{stem}_{output}.png")
            write_bytes(path, self._encode(output, mask_bits))
            paths.append(path)
        return paths

    def _encode(self, output: Output, mask_bits: Literal[1, 8]) -> bytes:
        match output:
            case "mask":
                return encode_mask(self.mask, mask_bits)
            case "overlay":
                return encode_image(self.overlay())
            case "result":
                return encode_image(self.side_by_side())
            case "probability":
                return encode_image(figures.probability_image(self.probability()))
            case "json":
                return (json.dumps(self.to_dict(), indent=2) + "\n").encode()

    def _view(self, longest: int | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32]]:
        """Photograph, mask and probability at most ``longest`` pixels long, for pictures."""
        height, width = self.size
        scale = min(1.0, (longest or max(height, width)) / max(height, width))
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        enough = longest is not None and longest <= VIEW_SIZE
        pixels = self.pixels if enough else self.photograph.pixels(at_least=longest)
        view = replace(self.geometry, height=height, width=width)
        probability = view.invert(self.probabilities[0])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return pixels, probability > np.float32(self.thresholds[0]), probability

    def _measure(self, name: str) -> dict[str, Any]:
        mask = self.mask if name == self.classes[0] else self.mask_of(name)
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        area = int(np.count_nonzero(mask))
        return {
            "name": name,
            "threshold": self.thresholds[self._index(name)],
            "area_pixels": area,
            "area_fraction": area / mask.size,
            "bounding_box": {"x": x, "y": y, "width": width, "height": height} if area else None,
        }

    def _index(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.classes:
            raise InputError(f"this bundle has no class {name!r}; it has: {', '.join(self.classes)}")
        return self.classes.index(name)


class Segmenter:
    """Segments images with one bundle, which is loaded once. May be used from several threads.

    Args:
        bundle: A shipped bundle's name, a bundle's folder or zip, or a loaded ``Bundle``.
        engine: ``onnx``, ``torch`` or ``auto``.
        device: ``cpu``, ``cuda`` or ``auto``.
        threshold: In place of the bundle's own, in (0, 1).
        orientation: ``upright`` turns a photograph as its EXIF says; ``stored`` leaves it as it is in the file.
        max_megapixels: The largest image that is opened.
        threads: Threads of one inference on the CPU; all cores if None.

    Raises:
        BundleError: If the bundle cannot be used.
        InputError: If another argument is out of range.

    Example:
        >>> from dermseg import Segmenter
        >>> from dermseg.synthetic import example
        >>> Segmenter()(example().pixels).mask.shape
        (768, 1024)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = "lesion",
        *,
        engine: EngineName = "auto",
        device: Device = "auto",
        threshold: float | None = None,
        orientation: Orientation = "upright",
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
        threads: int | None = None,
    ) -> None:
        if orientation not in get_args(Orientation):
            raise InputError(f"there is no orientation {orientation!r}; choose from: upright, stored")
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"the threshold is {threshold}; expected a probability between 0 and 1")
        if not max_megapixels > 0:
            raise InputError(f"max_megapixels is {max_megapixels}; expected a number above 0")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        manifest = self.bundle.manifest
        self.thresholds = tuple(threshold or manifest.thresholds[name] for name in manifest.classes)
        self._mean = np.array(manifest.normalisation.mean, np.float32)[:, None, None] * 255
        self._std = np.array(manifest.normalisation.std, np.float32)[:, None, None] * 255
        self._orientation: Orientation = orientation
        self._max_megapixels = max_megapixels
        self._engine = open_engine(self.bundle, engine, device, threads)

    def __call__(self, source: Source) -> Prediction:
        """Segment one image.

        Args:
            source: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in RGB.

        Raises:
            ImageError: If the image cannot be used; the subclass says why.
            InputError: If there is no such file.
        """
        manifest = self.bundle.manifest
        photograph = open_image(source, max_megapixels=self._max_megapixels, orientation=self._orientation)
        geometry = Geometry.fit(*photograph.size, manifest.input_size)
        pixels = decode(photograph, manifest.input_size)
        canvas = prepare(pixels, geometry, manifest.normalisation.padding, manifest.processing)
        image_CHW = (canvas.transpose(2, 0, 1).astype(np.float32) - self._mean) / self._std
        logits_KHW = self._engine(image_CHW[None])[0]
        return Prediction(
            photograph=photograph,
            pixels=pixels,
            classes=manifest.classes,
            probabilities=_sigmoid(logits_KHW / np.float32(manifest.calibration.temperature)),
            geometry=geometry,
            thresholds=self.thresholds,
            bundle=manifest.name,
        )

    def stream(
        self,
        sources: Iterable[Source],
        *,
        finish: Callable[[Source, Prediction], object] | None = None,
        workers: int | None = None,
    ) -> Generator[Prediction | DermsegError]:
        """Segment many images, several at a time, so that decoding, inference and encoding overlap.

        Args:
            sources: Images as ``__call__`` takes them; read no faster than results are taken.
            finish: Called with each source and its prediction in a worker thread, to save it for instance.
            workers: Images in work at a time; the number of cores if None.

        Yields:
            For each source, in order, its prediction, or the error that it or ``finish`` met.
        """

        def work(source: Source) -> Prediction:
            prediction = self(source)
            if finish is not None:
                finish(source, prediction)
            return prediction

        yield from in_order(lambda source: attempt(work, source), sources, workers)


def check_outputs(names: Sequence[str]) -> Sequence[Output]:
    """Give ``names`` back if each is one of ``OUTPUTS``.

    Raises:
        InputError: If one is not, or there is none.
    """
    if unknown := [name for name in names or [""] if name not in OUTPUTS]:
        raise InputError(f"there is no output {unknown[0]!r}; choose from: {', '.join(OUTPUTS)}")
    return cast(Sequence[Output], names)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # exp(-x) may reach infinity, where the answer is exactly 0
        return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)
