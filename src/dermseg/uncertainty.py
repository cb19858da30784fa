"""Makes one prediction of several of the same image; each way wraps what predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError
from dermseg.imaging import Geometry, Source
from dermseg.segmenter import Prediction, Segmenter


class Ensemble:
    """Several bundles as one: the weighted mean of their probabilities. May be used from several threads.

    Each member sees the image at its own size. Its probabilities are brought to the square of the largest member,
    bilinearly; around the image they are 0.

    Args:
        segmenters: Two or more of any architecture, one of them also twice, all of the same classes; their order is
            the first one's.
        weights: One above 0 for each, in any unit; equal ones if None.
        threshold: Of each class, in (0, 1). If None, a class has the weighted mean of its members' thresholds: a
            default, since none of them was chosen for the mean of the probabilities; ``--threshold`` overrides it.

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
    ) -> None:
        if len(segmenters) < 2:
            raise InputError(f"an ensemble of {len(segmenters)} is none; give two bundles or more")
        self._segmenters = tuple(segmenters)
        self._weights = (1.0,) * len(segmenters) if weights is None else tuple(map(float, weights))
        if len(self._weights) != len(segmenters) or not all(0 < weight < math.inf for weight in self._weights):
            raise InputError(f"the weights are {self._weights}; expected {len(segmenters)} numbers above 0")
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"the threshold is {threshold}; expected a probability between 0 and 1")
        first, *others = manifests = [segmenter.bundle.manifest for segmenter in segmenters]
        for other in others:
            if sorted(other.classes) != sorted(first.classes):
                raise InputError(
                    f"{first.name} finds {', '.join(first.classes)}, but {other.name} {', '.join(other.classes)}; "
                    "expected bundles of the same classes"
                )
        self.name = " + ".join(manifest.name for manifest in manifests)
        self.classes = first.classes
        self.input_size = max(manifest.input_size for manifest in manifests)
        self.thresholds = tuple(threshold or self._threshold(name) for name in self.classes)

    def __call__(self, source: Source) -> Prediction:
        """Segment one image.

        Args:
            source: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in RGB.

        Raises:
            ImageError: If the image cannot be used; the subclass says why.
            InputError: If there is no such file, or the members turn photographs differently.
        """
        predictions = [segmenter(source) for segmenter in self._segmenters]
        if len(orientations := {prediction.photograph.orientation for prediction in predictions}) > 1:
            raise InputError(f"bundles were opened with orientation {' and '.join(sorted(orientations))}; choose one")
        largest = max(predictions, key=lambda prediction: prediction.geometry.canvas)
        fitted = [self._fit(prediction, largest.geometry) for prediction in predictions]
        probabilities = np.zeros((len(self.classes), self.input_size, self.input_size), np.float32)
        probabilities[(..., *largest.geometry.content)] = np.average(fitted, axis=0, weights=self._weights)
        return replace(
            largest,
            classes=self.classes,
            probabilities=probabilities,
            thresholds=self.thresholds,
            bundle=self.name,
        )

    def _fit(self, prediction: Prediction, geometry: Geometry) -> NDArray[np.float32]:
        """A member's probabilities over the image, (K, h, w), at the size it has in another square."""
        view = replace(prediction.geometry, height=geometry.content_height, width=geometry.content_width)
        places = [prediction.classes.index(name) for name in self.classes]
        return np.stack([view.invert(prediction.probabilities[place]) for place in places])

    def _threshold(self, name: str) -> float:
        """The mean of the members' thresholds of a class, in decimals, so that 0.6 and 0.3 make 0.45."""
        places = [segmenter.bundle.manifest.classes.index(name) for segmenter in self._segmenters]
        each = [Fraction(str(one.thresholds[place])) for one, place in zip(self._segmenters, places, strict=True)]
        weights = [Fraction(weight) for weight in self._weights]
        return float(sum(weight * value for weight, value in zip(weights, each, strict=True)) / sum(weights))
