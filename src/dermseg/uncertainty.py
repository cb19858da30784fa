"""Several predictions of one image instead of one: their mean is the prediction, their spread how sure it is.

They are had by turning and scaling the image (test-time augmentation), by leaving out parts of the network (Monte
Carlo dropout), or from several bundles (``dermseg.ensemble``). The first two wrap what predicts, and may be combined:
``augmented(dropout(...), ...)`` draws samples of each view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""(N, K, S, S) probabilities in [0, 1]: N predictions of one image, K classes; NaN where a sample does not reach."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""``images_BCHW``, normalised, to ``samples_BNKHW``: N samples, as ``Samples``, of each image."""

Temperature = float | NDArray[np.float32]
"""What logits are divided by, above 0: one number, or (K, 1, 1)."""

Mode = Literal["probability", "logit"]

BAND = 1 / 64
"""Half the width of the band along an outline, as a share of the square's side."""

SURE = 1e-6
"""What a sample's probability is nearest to 0 or 1 where logits are averaged, so that one sample cannot decide."""


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How far the predictions of one image differ, at each pixel of the network's square.

    In absolute units, never rescaled to an image. Where a sample does not reach, all values are of those that do.
    Entropy is all the uncertainty there is about a pixel; the mutual information of its class and the sample is the
    part that samples disagree about, and that more training data would lessen (Houlsby et al. 2011; Gal, Islam and
    Ghahramani 2017). Both are binary, of each class by itself.

    Attributes:
        samples: How many predictions.
        standard_deviation: Of the probabilities, over all samples (not N - 1), float32 (K, S, S) in [0, 0.5].
        entropy: Of the mean probability, in bits, float32 (K, S, S) in [0, 1].
        mutual_information: Entropy less the mean of the samples' entropies, in bits, float32 (K, S, S) in [0, 1].
    """

    samples: int
    standard_deviation: NDArray[np.float32]
    entropy: NDArray[np.float32]
    mutual_information: NDArray[np.float32]

    @classmethod
    def of(cls, samples_NKSS: Samples, weights: Sequence[float] | None = None) -> Uncertainty:
        """Compute it from samples.

        Args:
            samples_NKSS: Probabilities in [0, 1], NaN where a sample does not reach; each pixel is in one at least.
            weights: One above 0 a sample, in any unit; equal ones if None.
        """
        average = _mean(samples_NKSS, weights)
        # One sample after the other, for a hundred of them in float64 would be large.
        variance = _mean((np.square(sample - average) for sample in samples_NKSS), weights)
        entropy = _entropy(average)
        expected = _mean((_entropy(sample) for sample in samples_NKSS), weights)
        return cls(
            samples=len(samples_NKSS),
            standard_deviation=np.sqrt(variance).astype(np.float32),
            entropy=entropy.astype(np.float32),
            # Below 0 by rounding alone, since entropy is concave.
            mutual_information=np.maximum(entropy - expected, 0).astype(np.float32),
        )

    def of_class(self, place: int) -> Uncertainty:
        """That of one class alone, by its place."""
        one = slice(place, place + 1)
        return Uncertainty(self.samples, self.standard_deviation[one], self.entropy[one], self.mutual_information[one])

    def summary(self, masks: NDArray[np.bool_], content: tuple[slice, slice]) -> list[dict[str, dict[str, Any]]]:
        """The means of each class's maps, over the image and along the outline.

        Args:
            masks: Bool (K, S, S).
            content: Rows and columns of the square that hold the image.

        Returns:
            For each class ``standard_deviation``, ``entropy`` and ``mutual_information``, each with the mean over the
            ``image`` and over the ``border``: what is within ``BAND`` of the mask's outline, None where there is none.
        """
        radius = max(1, round(masks.shape[-1] * BAND))
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        told = []
        for place, mask in enumerate(masks):
            inside = np.ascontiguousarray(mask[content]).view(np.uint8)
            band = cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)
            values = {}
            for name in ("standard_deviation", "entropy", "mutual_information"):
                field = getattr(self, name)[place][content]
                values[name] = {
                    "image": float(field.mean()),
                    "border": float(field[band].mean()) if band.any() else None,
                }
            told.append(values)
        return told


def mean(
    samples_NKSS: Samples, weights: Sequence[float] | None = None, mode: Mode = "probability"
) -> NDArray[np.float32]:
    """The prediction that samples make together.

    Args:
        samples_NKSS: As of ``Uncertainty.of``.
        weights: As of ``Uncertainty.of``.
        mode: ``logit`` takes the mean of the logits, of probabilities no nearer to 0 and 1 than ``SURE``.

    Returns:
        Probabilities (K, S, S), at each pixel the weighted mean of the samples that reach it.
    """
    if mode == "probability":
        return _mean(samples_NKSS, weights).astype(np.float32)
    clipped = (np.clip(sample, SURE, 1 - SURE, dtype=np.float64) for sample in samples_NKSS)
    return sigmoid(_mean((np.log(sample / (1 - sample)) for sample in clipped), weights).astype(np.float32))


def plain(engine: Callable[[NDArray[np.float32]], NDArray[np.float32]], temperature: Temperature = 1.0) -> Predict:
    """One prediction of each image: the sigmoid of the logits over the temperature.

    Args:
        engine: ``image_BCHW`` to ``logits_BKHW``.
        temperature: Above 0; of all classes, or (K, 1, 1).
    """
    divisor: NDArray[np.float32] = np.array(temperature, np.float32)
    return lambda images: sigmoid(engine(images) / divisor)[:, None]


def dropout(
    sampler: Callable[[NDArray[np.float32], int, int], NDArray[np.float32]],
    temperature: Temperature,
    count: int,
    seed: int,
) -> Predict:
    """Monte Carlo dropout (Gal and Ghahramani 2016): samples of a network that leaves out other parts each time.

    What an image's samples are depends on nothing but the image, its place in the batch and the seed.

    Args:
        sampler: ``image_CHW``, a count and a seed to ``logits_NKHW``; ``Engine.sample``.
        temperature: As of ``plain``.
        count: Samples of each image.
        seed: At least 0.
    """
    divisor: NDArray[np.float32] = np.array(temperature, np.float32)

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        seeds = np.random.default_rng(seed).integers(2**31, size=len(images)).tolist()
        logits = np.stack([sampler(image, count, each) for image, each in zip(images, seeds, strict=True)])
        return sigmoid(logits / divisor)

    return predict


@dataclass(frozen=True)
class Transform:
    """A view of the square canvas: mirrored, then turned, then scaled.

    Attributes:
        mirrored: Left is right.
        turns: By 90 degrees, counterclockwise.
        zoom: About the centre; above 1 the rim is lost, below 1 padding comes in.
    """

    mirrored: bool = False
    turns: int = 0
    zoom: float = 1.0

    def apply(self, image_CHW: NDArray[np.float32], padding: Sequence[float]) -> NDArray[np.float32]:
        """Show the view of an image, (C, S, S); ``padding`` is the value around it, one a channel."""
        image = np.rot90(image_CHW[..., ::-1] if self.mirrored else image_CHW, self.turns, axes=(1, 2))
        return np.ascontiguousarray(image if self.zoom == 1 else self._scale(image, self.zoom, padding))

    def invert(self, field_KHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring what was found in the view, (K, S, S), back to the image; NaN where the view does not reach."""
        field = field_KHW
        if self.zoom != 1:
            middle = (field.shape[-1] - 1) / 2
            reached = np.abs(self.zoom * (np.arange(field.shape[-1]) - middle)) <= middle
            scaled = self._scale(field, 1 / self.zoom, (0.0,) * len(field))
            field = np.where(reached[:, None] & reached, scaled, np.float32(np.nan))
        field = np.rot90(field, -self.turns, axes=(1, 2))
        return np.ascontiguousarray(field[..., ::-1] if self.mirrored else field)

    @staticmethod
    def _scale(image: NDArray[np.float32], zoom: float, padding: Sequence[float]) -> NDArray[np.float32]:
        size = image.shape[-1]
        offset = (1 - zoom) * (size - 1) / 2
        matrix = np.array([[zoom, 0, offset], [0, zoom, offset]])
        # Channel by channel: OpenCV knows the value around the image of four at most.
        channels = [
            cv2.warpAffine(channel, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=value)
            for channel, value in zip(map(np.ascontiguousarray, image), padding, strict=True)
        ]
        return np.stack(channels).astype(np.float32, copy=False)


TRANSFORMS: tuple[Transform, ...] = (
    *(Transform(mirrored, turns) for mirrored in (False, True) for turns in range(4)),
    Transform(zoom=0.8),
    Transform(zoom=1.25),
)
"""The eight flips and turns of a square, which are exact, and two zooms, which are bilinear."""


def augmented(predict: Predict, padding: Sequence[float], transforms: Sequence[Transform] = TRANSFORMS) -> Predict:
    """Test-time augmentation: predictions of several views of each image, in one call of ``predict``.

    Args:
        predict: Of views.
        padding: What stands around an image, one normalised value a channel.
        transforms: One at least keeps the whole square, so that each pixel has a prediction.

    Returns:
        Gives as many samples as ``predict`` for each view, in the order of ``transforms``.
    """

    def predict_all(images: NDArray[np.float32]) -> NDArray[np.float32]:
        views = np.stack([transform.apply(image, padding) for image in images for transform in transforms])
        found = predict(views)
        found = found.reshape(len(images), len(transforms), *found.shape[1:])
        return np.stack(
            [
                np.stack(
                    [view.invert(sample) for view, samples in zip(transforms, each, strict=True) for sample in samples]
                )
                for each in found
            ]
        )

    return predict_all


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """``1 / (1 + exp(-x))``, also where that is 0 or 1 to all digits."""
    with np.errstate(over="ignore"):  # exp(-x) may reach infinity, where the answer is exactly 0
        return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)


def _mean(samples: Iterable[NDArray[Any]], weights: Sequence[float] | None) -> NDArray[np.float64]:
    """The mean of what is not NaN, in float64; of equal samples without weights it is exactly these."""
    total: NDArray[np.float64] = np.zeros((), np.float64)
    share = total
    for place, sample in enumerate(samples):
        weight = np.float64(1 if weights is None else weights[place])
        reached = ~np.isnan(sample)
        total = total + weight * (sample if reached.all() else np.where(reached, sample, 0))
        share = share + weight * reached
    return total / share


def _entropy(probability: NDArray[Any]) -> NDArray[Any]:
    """Of a binary variable, in bits, as precise as what is given."""
    other = 1 - probability
    bits = [side * np.log2(np.where(side == 0, 1, side)) for side in (probability, other)]
    entropy: NDArray[Any] = -(bits[0] + bits[1])
    return entropy
