"""``Segmenter`` turns an image into a ``Prediction``; the one way to do so, behind every front end."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg import figures
from dermseg._version import __version__
from dermseg.bundle import Bundle
from dermseg.engine import Device, EngineName, open_engine
from dermseg.errors import DermsegError, InputError
from dermseg.geometry import Geometry
from dermseg.imaging import (
    DEFAULT_MAX_MEGAPIXELS,
    Orientation,
    Photograph,
    Source,
    encode_image,
    encode_mask,
    make_folder,
    open_image,
    write_bytes,
)
from dermseg.measurement import Measurements, check_scale, measure
from dermseg.parallel import attempt, in_order
from dermseg.processing import DECODED_SIDE, decode, prepare
from dermseg.quality import Quality, QualityModel, features_of, judge
from dermseg.uncertainty import TRANSFORMS, Samples, Uncertainty, augmented, dropout, mean, plain, sigmoid

Output = Literal["mask", "overlay", "result", "probability", "uncertainty", "json"]
OUTPUTS: tuple[Output, ...] = get_args(Output)
OF_EACH_CLASS: frozenset[Output] = frozenset(("mask", "probability", "uncertainty"))
"""Of several classes such an output is a picture each."""
VIEW_SIZE = DECODED_SIDE
MOST_SAMPLES = 1000
MOST_VALUES = 2**28  # of all samples of an image: a GiB


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a bundle found in one image.

    Attributes:
        photograph: The image.
        pixels: It, decoded at a scale good enough for pictures of ``VIEW_SIZE`` pixels; uint8 RGB.
        classes: Names of the classes; ``lesion`` for the shipped model.
        probabilities: float32 (K, S, S) in [0, 1] at the network's size, one map a class; the mean where there are
            several predictions of the image.
        geometry: Where the image lies in the maps.
        thresholds: One a class: pixels with a higher probability belong to the mask.
        bundle: Name of the bundle.
        uncertainty: How several predictions differ; None of a single one.
        embedding: What the encoder makes of the image, float32 (D,); None of a bundle that does not tell, of an
            ensemble, and where ``embed`` gives it.
        mm_per_pixel: Length of a side of the image's pixels; None if unknown.
        quality_model: The bundle's, which judges the prediction; None if it has none.
        presence: By class the probability that the image shows it at all, whatever its threshold; None of a bundle that
            does not tell, and of an ensemble. Always by a single prediction, which it is fitted on.
        own_thresholds: The bundle's, which it was fitted at; None if they are ``thresholds``.
        embed: Gives the embedding when ``quality`` is asked for, since it takes a prediction more than the samples do.
    """

    photograph: Photograph
    pixels: NDArray[np.uint8] = field(repr=False)
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    thresholds: tuple[float, ...]
    bundle: str
    uncertainty: Uncertainty | None = field(default=None, repr=False)
    embedding: NDArray[np.float32] | None = field(default=None, repr=False)
    mm_per_pixel: float | None = None
    quality_model: QualityModel | None = field(default=None, repr=False)
    presence: Mapping[str, float] | None = None
    own_thresholds: tuple[float, ...] | None = field(default=None, repr=False)
    embed: Callable[[], NDArray[np.float32] | None] | None = field(default=None, repr=False)

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

    def only(self, name: str | None) -> Prediction:
        """The prediction of one class alone, the first if unnamed, so that its pictures show that one.

        Raises:
            InputError: If the bundle has no such class.
        """
        if len(self.classes) == 1 and name in (None, *self.classes):
            return self
        place = self._index(name)
        one = slice(place, place + 1)
        return replace(
            self,
            classes=self.classes[one],
            probabilities=self.probabilities[one],
            thresholds=self.thresholds[one],
            uncertainty=self.uncertainty and self.uncertainty.of_class(place),
            own_thresholds=self.own_thresholds and self.own_thresholds[one],
        )

    @cached_property
    def quality(self) -> Quality | None:
        """What the prediction is worth, estimated without a truth; None of a bundle that has no model of it.

        The model was fitted on single predictions at the bundle's own thresholds: it judges the mask at those, whatever
        ``thresholds`` are; where there are several predictions, it judges their mean.
        """
        if self.quality_model is None:
            return None
        embedding = self.embed() if self.embed else self.embedding
        threshold, *_ = self.own_thresholds or self.thresholds
        return judge(self.quality_model, self.pixels, self._within, threshold, embedding)

    @property
    def features(self) -> NDArray[np.float64]:
        """The numbers that ``quality`` is fitted on, (F,), in the order of ``dermseg.quality.FEATURES``."""
        return features_of(self.pixels, self._within, self.thresholds[0])

    @property
    def _within(self) -> NDArray[np.float32]:
        """The first class's probability at the network's size, without the padding."""
        probability: NDArray[np.float32] = self.probabilities[0][self.geometry.content]
        return probability

    @cached_property
    def measurements(self) -> Measurements | None:
        """Size, shape, border and colours of what the first class's mask shows; None of an empty one."""
        return measure(self.pixels, self.mask, self.mm_per_pixel)

    def overlay(self, longest: int | None = VIEW_SIZE) -> NDArray[np.uint8]:
        """The photograph with the mask's outline, RGB, its longer side at most ``longest`` pixels; None for its own.

        Of several classes each has an outline of its own colour, and a legend below the photograph names them.
        """
        pixels, masks, _ = self._view(longest)
        return figures.structures(pixels, masks) if len(masks) > 1 else figures.overlay(pixels, masks[self.classes[0]])

    def side_by_side(self) -> NDArray[np.uint8]:
        """Photograph, overlay, mask and probability in one row, RGB; of several classes a panel with each outline."""
        pixels, masks, maps = self._view(VIEW_SIZE)
        if len(masks) > 1:
            return figures.case(pixels, masks, {}, self.bundle)
        return figures.side_by_side(pixels, masks[self.classes[0]], maps[self.classes[0]])

    def to_dict(self) -> dict[str, Any]:
        """The prediction in plain values: image, bundle, and each class's presence, threshold, area and bounding box.

        Then ``measurements`` of the first class's mask, ``quality``, and ``uncertainty``, which tells of how many
        ``samples`` it is and, by class, the means of ``Uncertainty.summary``. Each of the three is None where the
        prediction has none.
        """
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
            "measurements": self.measurements.to_dict() if self.measurements else None,
            "quality": self.quality.to_dict() if self.quality else None,
            "uncertainty": self._summary(),
        }

    def save(
        self,
        folder: str | Path,
        outputs: Sequence[Output] = ("mask", "overlay"),
        stem: str | None = None,
        mask_bits: Literal[1, 8] = 8,
    ) -> list[Path]:
        """Write files named ``<stem>_mask.png``, likewise of the other pictures, and ``<stem>.json``.

        Of several classes, mask, probability and uncertainty are a file each: ``<stem>_<class>_mask.png``.

        Args:
            folder: Made if it does not exist.
            outputs: Which of ``OUTPUTS``; ``uncertainty`` of several predictions only.
            stem: The image's own if None.
            mask_bits: Of a mask's pixel: 8 as the ISIC challenge asks, or 1.

        Returns:
            The files, in the order of ``outputs`` and of the classes.

        Raises:
            InputError: If the folder cannot be written, or an output does not exist or cannot be had.
        """
        check_outputs(outputs, sampled=self.uncertainty is not None)
        stem = stem or Path(self.photograph.name).stem.strip("<>")
        paths = []
        make_folder(folder)
        for output in outputs:
            if output == "json":
                pictured, endings = [self], [".json"]
            else:
                pictured = [self.only(name) for name in self.classes] if output in OF_EACH_CLASS else [self]
                endings = picture_endings(output, self.classes)
            for each, ending in zip(pictured, endings, strict=True):
                path = Path(folder) / f"{stem}{ending}"
                write_bytes(path, each._encode(output, mask_bits))
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
            case "uncertainty":
                assert self.uncertainty is not None  # by check_outputs
                pixels, masks, _ = self._view(VIEW_SIZE)
                view = replace(self.geometry, height=pixels.shape[0], width=pixels.shape[1])
                entropy = view.invert(self.uncertainty.entropy[0])
                return encode_image(figures.uncertainty(pixels, masks[self.classes[0]], entropy))
            case "json":
                return (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode()

    def _view(
        self, longest: int | None
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], dict[str, NDArray[np.float32]]]:
        """Photograph, and mask and probability by class, at most ``longest`` pixels long, for pictures."""
        height, width = self.size
        scale = min(1.0, (longest or max(height, width)) / max(height, width))
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        enough = longest is not None and longest <= VIEW_SIZE
        pixels = self.pixels if enough else self.photograph.pixels(at_least=longest)
        view = replace(self.geometry, height=height, width=width)
        maps = {name: view.invert(each) for name, each in zip(self.classes, self.probabilities, strict=True)}
        cuts = zip(maps.items(), self.thresholds, strict=True)
        masks = {name: each > np.float32(threshold) for (name, each), threshold in cuts}
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return pixels, masks, maps

    def _summary(self) -> dict[str, Any] | None:
        if self.uncertainty is None:
            return None
        masks = self.probabilities > np.array(self.thresholds, np.float32)[:, None, None]
        summaries = self.uncertainty.summary(masks, self.geometry.content)
        return {"samples": self.uncertainty.samples, "classes": dict(zip(self.classes, summaries, strict=True))}

    def _measure(self, name: str) -> dict[str, Any]:
        mask = self.mask if name == self.classes[0] else self.mask_of(name)
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        area = int(np.count_nonzero(mask))
        return {
            "name": name,
            "presence": None if self.presence is None else self.presence.get(name),
            "threshold": self.thresholds[self._index(name)],
            "area_pixels": area,
            "area_fraction": area / mask.size,
            "bounding_box": {"x": x, "y": y, "width": width, "height": height} if area else None,
        }

    def _index(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self.classes:
            raise InputError(f"the bundle {self.bundle} has no class {name!r}; it has: {', '.join(self.classes)}")
        return self.classes.index(name)


class Prepared(NamedTuple):
    """An image on its way to the network.

    Attributes:
        photograph: The image.
        pixels: It, decoded as ``Prediction.pixels``.
        geometry: Where it lies in the network's square.
        image_CHW: The network's input, normalised, float32 (3, S, S).
    """

    photograph: Photograph
    pixels: NDArray[np.uint8]
    geometry: Geometry
    image_CHW: NDArray[np.float32]  # noqa: N815


class Outcome(NamedTuple):
    """What the network made of an image.

    Attributes:
        samples: Its predictions, (N, K, S, S); one, unless the segmenter makes several.
        embedding: As ``Prediction.embedding``.
    """

    samples: Samples
    embedding: NDArray[np.float32] | None


class Segmenter:
    """Segments images with one bundle, which is loaded once. May be used from several threads.

    Args:
        bundle: A shipped bundle's name, a bundle's folder or zip, or a loaded ``Bundle``.
        engine: ``onnx``, ``torch`` or ``auto``.
        device: ``cpu``, ``cuda`` or ``auto``.
        threshold: In place of the bundle's own, in (0, 1); the quality is judged at the bundle's own still.
        orientation: ``upright`` turns a photograph as its EXIF says; ``stored`` leaves it as it is in the file.
        max_megapixels: The largest image that is opened.
        threads: Threads of one inference on the CPU; all cores if None.
        tta: Whether the image is also predicted mirrored, turned and scaled: ``uncertainty.TRANSFORMS``, ten views.
        mc_dropout: Predictions of each view by Monte Carlo dropout, at least 2; 0 is one, without dropout.
        seed: Of the dropout, at least 0; an image's prediction depends on it, but not on the images before.
        mm_per_pixel: Length of a side of the image's pixels, for measurements in millimetres.

    Attributes:
        bundle: The bundle.
        name: Its name, and how several predictions are made where they are: ``lesion (tta, mc dropout 10)``.
        thresholds: One a class: pixels with a higher probability belong to the mask.

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
        tta: bool = False,
        mc_dropout: int = 0,
        seed: int = 0,
        mm_per_pixel: float | None = None,
    ) -> None:
        if orientation not in get_args(Orientation):
            raise InputError(f"there is no orientation {orientation!r}; choose from: upright, stored")
        if not max_megapixels > 0:
            raise InputError(f"max_megapixels is {max_megapixels}; expected a number above 0")
        _check(threshold, mc_dropout, seed, mm_per_pixel)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        manifest = self.bundle.manifest
        self._mean = np.array(manifest.normalisation.mean, np.float32)[:, None, None] * 255
        self._std = np.array(manifest.normalisation.std, np.float32)[:, None, None] * 255
        self._orientation: Orientation = orientation
        self._max_megapixels = max_megapixels
        self._engine = network = open_engine(self.bundle, engine, device, threads)
        self._temperature = manifest.calibration.of(manifest.classes)
        shape = (3, manifest.input_size, manifest.input_size)
        # Once for all that is varied from this one; what fails is not kept, and is tried again.
        self._try_dropout = cache(lambda: network.sample(np.zeros(shape, np.float32), 1, 0).shape)
        self._set(threshold, tta, mc_dropout, seed, mm_per_pixel)

    def varied(
        self,
        *,
        threshold: float | None = None,
        tta: bool = False,
        mc_dropout: int = 0,
        seed: int = 0,
        mm_per_pixel: float | None = None,
    ) -> Segmenter:
        """Give a segmenter with other options, which shares the network that is loaded already.

        Args and errors are the class's own; an option that is left out has its default there, not this one's value.
        """
        _check(threshold, mc_dropout, seed, mm_per_pixel)
        other = copy(self)
        other._set(threshold, tta, mc_dropout, seed, mm_per_pixel)
        return other

    def _set(self, threshold: float | None, tta: bool, mc_dropout: int, seed: int, mm_per_pixel: float | None) -> None:
        manifest = self.bundle.manifest
        values = len(manifest.classes) * manifest.input_size**2 * (len(TRANSFORMS) if tta else 1)
        if mc_dropout * values > MOST_VALUES:
            raise InputError(
                f"mc_dropout is {mc_dropout}; of this bundle{' with test-time augmentation' * tta} at most "
                f"{MOST_VALUES // values} samples go into the memory that one image may take"
            )
        self.thresholds = tuple(threshold or manifest.thresholds[name] for name in manifest.classes)
        self._mm_per_pixel = mm_per_pixel
        ways = ["tta"] * tta + [f"mc dropout {mc_dropout}"] * bool(mc_dropout)
        self.name = f"{manifest.name} ({', '.join(ways)})" if ways else manifest.name
        predict = plain(self._engine, self._temperature)
        if mc_dropout:
            predict = dropout(self._engine.sample, self._temperature, mc_dropout, seed)
            self._try_dropout()  # a network that cannot is refused here, not with each image
        if tta:
            padding = (manifest.normalisation.padding - self._mean) / self._std
            predict = augmented(predict, padding.ravel().tolist())
        self._predict = predict if ways else None

    def __call__(self, source: Source) -> Prediction:
        """Segment one image.

        Args:
            source: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in RGB.

        Raises:
            ImageError: If the image cannot be used; the subclass says why.
            InputError: If there is no such file.
        """
        return self.predict(self.prepare(source))

    def predict(self, prepared: Prepared) -> Prediction:
        """Segment an image that ``prepare`` has brought to the network's input."""
        return self.sample(prepared)[0]

    def sample(self, prepared: Prepared) -> tuple[Prediction, Samples]:
        """Segment an image likewise, and give the samples whose mean the probabilities are too, (N, K, S, S)."""
        (outcome,) = self.run([prepared])
        return self.conclude(prepared, outcome), outcome.samples

    def run(self, images: Sequence[Prepared]) -> list[Outcome]:
        """Run the network on images that ``prepare`` gave, one at least: on all at once, unless each has several views.

        But for the rounding of float32 an image's outcome depends on no other image.
        """
        if self._predict:
            return [Outcome(self._predict(image.image_CHW[None])[0], None) for image in images]
        return self._run(images)

    def _run(self, images: Sequence[Prepared]) -> list[Outcome]:
        logits_BKSS, embeddings = self._engine.embedding(np.stack([image.image_CHW for image in images]))
        samples = [sigmoid(logits_KSS / self._temperature)[None] for logits_KSS in logits_BKSS]
        # Copied, for a view would keep the other images' too.
        each = [None] * len(images) if embeddings is None else [embedding.copy() for embedding in embeddings]
        return list(map(Outcome, samples, each))

    def conclude(self, prepared: Prepared, outcome: Outcome) -> Prediction:
        """Make an image's prediction of what ``run`` gave for it."""
        manifest, samples = self.bundle.manifest, outcome.samples
        presence = None
        if manifest.presence:
            # Fitted on single predictions, as the quality is.
            single = samples[0] if len(samples) == 1 else self._run([prepared])[0].samples[0]
            presence = manifest.presence.of(manifest.classes, single[:, *prepared.geometry.content])
        return Prediction(
            photograph=prepared.photograph,
            pixels=prepared.pixels,
            classes=manifest.classes,
            probabilities=mean(samples) if len(samples) > 1 else samples[0],
            geometry=prepared.geometry,
            thresholds=self.thresholds,
            bundle=manifest.name,
            uncertainty=Uncertainty.of(samples) if len(samples) > 1 else None,
            embedding=outcome.embedding,
            mm_per_pixel=self._mm_per_pixel,
            quality_model=manifest.quality,
            presence=presence,
            own_thresholds=tuple(manifest.thresholds[name] for name in manifest.classes),
            embed=(lambda: self._run([prepared])[0].embedding) if self._predict else None,
        )

    def prepare(self, source: Source) -> Prepared:
        """Bring an image to what the network takes; raises as ``__call__`` does."""
        manifest = self.bundle.manifest
        photograph = open_image(source, max_megapixels=self._max_megapixels, orientation=self._orientation)
        geometry = Geometry.fit(*photograph.size, manifest.input_size)
        pixels = decode(photograph, manifest.input_size)
        canvas = prepare(pixels, geometry, manifest.normalisation.padding, manifest.processing)
        image_CHW = (canvas.transpose(2, 0, 1).astype(np.float32) - self._mean) / self._std
        return Prepared(photograph, pixels, geometry, image_CHW)

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
        yield from stream(self, sources, finish, workers)


def _check(threshold: float | None, mc_dropout: int, seed: int, mm_per_pixel: float | None) -> None:
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"the threshold is {threshold}; expected a probability between 0 and 1")
    if mc_dropout != 0 and not 2 <= mc_dropout <= MOST_SAMPLES:
        raise InputError(f"mc_dropout is {mc_dropout}; expected 0 for none, or 2 to {MOST_SAMPLES} samples")
    if seed < 0:
        raise InputError(f"the seed is {seed}; expected 0 or more")
    if mc_dropout and seed >= 2**64:
        raise InputError(f"the seed is {seed}; expected a number from 0 to 2**64 - 1")
    check_scale(mm_per_pixel)


def stream(
    segment: Callable[[Source], Prediction],
    sources: Iterable[Source],
    finish: Callable[[Source, Prediction], object] | None,
    workers: int | None,
) -> Generator[Prediction | DermsegError]:
    """Segment many images with whatever segments one; as ``Segmenter.stream``."""

    def work(source: Source) -> Prediction:
        prediction = segment(source)
        if finish is not None:
            finish(source, prediction)
        return prediction

    yield from in_order(lambda source: attempt(work, source), sources, workers)


def picture_endings(output: Output, classes: Sequence[str]) -> list[str]:
    """What the files of a picture end with: ``_mask.png``, or of several classes ``_globules_mask.png`` and others."""
    if len(classes) == 1 or output not in OF_EACH_CLASS:
        return [f"_{output}.png"]
    return [f"_{name}_{output}.png" for name in classes]


def check_outputs(names: Sequence[str], *, sampled: bool = True) -> Sequence[Output]:
    """Give ``names`` back if each is one of ``OUTPUTS``.

    Args:
        names: Of outputs.
        sampled: Whether there are several predictions of an image, which ``uncertainty`` needs.

    Raises:
        InputError: If one is not, there is none, or it cannot be had.
    """
    if unknown := [name for name in names or [""] if name not in OUTPUTS]:
        raise InputError(f"there is no output {unknown[0]!r}; choose from: {', '.join(OUTPUTS)}")
    if "uncertainty" in names and not sampled:
        raise InputError(
            "the output 'uncertainty' shows how several predictions of an image differ; ask for them with --tta, "
            "--mc-dropout or --ensemble, in Python with tta=True, mc_dropout=10 or an Ensemble"
        )
    return cast(Sequence[Output], names)
