"""Several bundles as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import get_args

import numpy as np

from dermseg.errors import DermsegError, InputError
from dermseg.geometry import Geometry
from dermseg.imaging import Source
from dermseg.segmenter import Prediction, Segmenter, stream
from dermseg.uncertainty import Mode, Samples, Uncertainty, mean


class Ensemble:
    """Several bundles as one: the weighted mean of their probabilities. May be used from several threads.

    Each member sees the image at its own size. Its probabilities are brought to the square of the largest member,
    bilinearly; around the image they are 0. A member that makes several predictions of an image contributes each of
    them, with its share of the member's weight. The uncertainty is that of all these probabilities.

    Args:
        segmenters: Two or more of any architecture, one of them also twice, all of the same classes; their order is
            the first one's.
        weights: One above 0 for each, in any unit; equal ones if None.
        threshold: Of each class, in (0, 1). If None, a class has the weighted mean of its members' thresholds: a
            default, since none of them was chosen for the mean of the probabilities; ``--threshold`` overrides it.
        mode: ``logit`` takes the mean of the logits, which is the geometric mean of the odds, instead.

    Attributes:
        name: The members' names, ``a + b``.
        classes: What the masks show.
        input_size: Of the largest member, in pixels.
        thresholds: One a class: pixels with a higher probability belong to the mask.

    Raises:
        InputError: If the members do not go together, or another argument is out of range.
    """

    def __init__(
        self,
        segmenters: Sequence[Segmenter],
        *,
        weights: Sequence[float] | None = None,
        threshold: float | None = None,
        mode: Mode = "probability",
    ) -> None:
        if len(segmenters) < 2:
            raise InputError(f"an ensemble of {len(segmenters)} is none; give two bundles or more")
        self._segmenters = tuple(segmenters)
        self._weights = (1.0,) * len(segmenters) if weights is None else tuple(map(float, weights))
        if len(self._weights) != len(segmenters) or not all(0 < weight < math.inf for weight in self._weights):
            raise InputError(f"the weights are {self._weights}; expected {len(segmenters)} numbers above 0")
        self._weights = tuple(weight / max(self._weights) for weight in self._weights)
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"the threshold is {threshold}; expected a probability between 0 and 1")
        if mode not in get_args(Mode):
            raise InputError(f"there is no mode {mode!r} of an ensemble; choose from: {', '.join(get_args(Mode))}")
        first, *others = manifests = [segmenter.bundle.manifest for segmenter in segmenters]
        for other in others:
            if sorted(other.classes) != sorted(first.classes):
                raise InputError(
                    f"{first.name} finds {', '.join(first.classes)}, but {other.name} {', '.join(other.classes)}; "
                    "expected bundles of the same classes"
                )
        self.name = " + ".join(segmenter.name for segmenter in segmenters)
        self.classes = first.classes
        self.input_size = max(manifest.input_size for manifest in manifests)
        self.thresholds = tuple(threshold or self._threshold(name) for name in self.classes)
        self._mode = mode

    def __call__(self, source: Source) -> Prediction:
        """Segment one image.

        Args:
            source: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in RGB.

        Raises:
            ImageError: If the image cannot be used; the subclass says why.
            InputError: If there is no such file, or the members turn photographs differently.
        """
        members = [segmenter.sample(segmenter.prepare(source)) for segmenter in self._segmenters]
        if len(orientations := {each.photograph.orientation for each, _ in members}) > 1:
            raise InputError(f"bundles were opened with orientation {' and '.join(sorted(orientations))}; choose one")
        largest = max((each for each, _ in members), key=lambda each: each.geometry.canvas)
        samples = np.concatenate([self._fit(each, samples, largest.geometry) for each, samples in members])
        pairs = zip(self._weights, members, strict=True)
        weights = [weight / len(found) for weight, (_, found) in pairs for _ in found]
        return replace(
            largest,
            classes=self.classes,
            probabilities=mean(samples, weights, self._mode),
            thresholds=self.thresholds,
            bundle=self.name,
            uncertainty=Uncertainty.of(samples, weights),
            embedding=None,
            quality_model=None,
            presence=None,
        )

    def stream(
        self,
        sources: Iterable[Source],
        *,
        finish: Callable[[Source, Prediction], object] | None = None,
        workers: int | None = None,
    ) -> Generator[Prediction | DermsegError]:
        """Segment many images, several at a time; as ``Segmenter.stream``."""
        yield from stream(self, sources, finish, workers)

    def _fit(self, prediction: Prediction, samples_NKSS: Samples, geometry: Geometry) -> Samples:
        """A member's samples in another square, its classes in the ensemble's order, 0 around the image."""
        view = replace(prediction.geometry, height=geometry.content_height, width=geometry.content_width)
        places = [prediction.classes.index(name) for name in self.classes]
        fitted = np.zeros((len(samples_NKSS), len(places), geometry.canvas, geometry.canvas), np.float32)
        fitted[(..., *geometry.content)] = [[view.invert(sample[place]) for place in places] for sample in samples_NKSS]
        return fitted

    def _threshold(self, name: str) -> float:
        """The mean of the members' thresholds of a class, in decimals, so that 0.6 and 0.3 make 0.45."""
        places = [segmenter.bundle.manifest.classes.index(name) for segmenter in self._segmenters]
        each = [Fraction(str(one.thresholds[place])) for one, place in zip(self._segmenters, places, strict=True)]
        weights = [Fraction(weight) for weight in self._weights]
        return float(sum(weight * value for weight, value in zip(weights, each, strict=True)) / sum(weights))
