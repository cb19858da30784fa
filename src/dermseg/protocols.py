"""How a segmentation is scored: from pixels to counts, from counts to metrics, from images to a data set."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError
from dermseg.imaging import Geometry
from dermseg.metrics import TASK1_METRICS, Confusion, Counts, Interval, bootstrap, score, soft_counts

ProtocolName = Literal["official", "pooled", "soft"]

_INTERVAL = "95 % bootstrap interval over groups"
_OVERLAP = ("jaccard", "dice", "sensitivity", "precision")
_DECISION = ("jaccard", "dice", "sensitivity", "specificity", "accuracy", "precision")


class Segmented(typing.Protocol):
    """What is scored of a `Prediction`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(K, S, S) at the network's size."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each class."""

    @property
    def geometry(self) -> Geometry:
        """From the image to the network's square and back."""

    def mask_of(self, name: str) -> NDArray[np.bool_]:
        """The mask of a class, (H, W) at the image's size."""


@dataclass(frozen=True)
class Protocol:
    """How a score comes about: from pixels to counts, from counts to metrics, from images to a data set.

    Of one class the metrics are the class's own. Of several they are `micro_...` of the counts summed over classes,
    `macro_...`, the mean of the classes' own, and `..._<class>`, the classes' own.

    Attributes:
        name: What the command line calls it.
        description: What is compared, at which size, and how it is averaged; stands with every score. A group is a
            lesion or patient, or an image where neither is known.
        classes: What the masks show.
        metrics: Names of metrics, in reporting order.
        summed: Whether a data set's metrics are those of its images' counts summed, else the means of its images'.
        count: Gives the counts, (4,), of a class: of an image's prediction, the class's name and its true mask.
    """

    name: ProtocolName
    description: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    summed: bool
    count: Callable[[Segmented, str, NDArray[np.bool_]], Counts]

    def metrics_of(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Each metric by name, (...) in [0, 1], of the classes' counts, (..., K, 4)."""
        each = {metric: score(metric, counts) for metric in self.metrics}
        if len(self.classes) == 1:
            return {metric: values[..., 0] for metric, values in each.items()}
        return {
            **{f"micro_{metric}": score(metric, counts.sum(axis=-2)) for metric in self.metrics},
            **{f"macro_{metric}": values.mean(axis=-1) for metric, values in each.items()},
            **{f"{m}_{name}": each[m][..., k] for k, name in enumerate(self.classes) for m in self.metrics},
        }

    def summarise(self, images: Sequence[ImageScore]) -> dict[str, Interval]:
        """The metrics of a data set with their intervals; at least one image."""
        groups = [image.group for image in images]
        if self.summed:
            return bootstrap(np.array([image.counts for image in images]), self.metrics_of, groups)
        names = list(images[0].metrics)
        values = np.array([[image.metrics[name] for name in names] for image in images])
        return bootstrap(values, lambda means: dict(zip(names, means.T, strict=True)), groups)


def protocol_for(name: ProtocolName, classes: Sequence[str], input_size: int) -> Protocol:
    """The protocol of a name for a bundle's classes and network size.

    - `official` is ISIC Task 1 (arXiv:1902.03368) for one class. For several it is ISIC 2018 Task 2: each image's
      counts are divided by its area and summed over images; the challenge's score is `micro_jaccard`.
    - `pooled` makes one confusion matrix of all pixels of a data set, as EGE-UNet, VM-UNet and others do.
    - `soft` does without thresholds. For one class it is the mean over images, for several the counts are summed over
      images first, and `macro_...` is what is published for attributes.

    `pooled` and `soft` compare where the network works: the truth is scaled as the image is and cut at one half, and
    the padding counts nowhere. `dermseg.metrics` says what a metric is of empty masks.

    Raises:
        InputError: There is no such protocol.
    """
    classes, several = tuple(classes), len(classes) > 1
    match name:
        case "official" if several:
            text = "official Task 2: compared at the truth's size, shares of the image's area summed over images"
            return Protocol(name, f"{text}, {_INTERVAL}", classes, _OVERLAP, True, _count_shares)
        case "official":
            text = "official Task 1: compared at the truth's size, mean over images"
            return Protocol(name, f"{text}, {_INTERVAL}", classes, TASK1_METRICS, False, _count_pixels)
        case "pooled":
            text = f"pooled: compared at {input_size} px, pixels summed over images"
            metrics = _OVERLAP if several else _DECISION
            return Protocol(name, f"{text}, {_INTERVAL}", classes, metrics, True, _count_fitted)
        case "soft":
            averaged = "summed over images" if several else "mean over images"
            text = f"soft: probabilities without a threshold, compared at {input_size} px, {averaged}"
            return Protocol(name, f"{text}, {_INTERVAL}", classes, _OVERLAP, several, _count_soft)
        case _:
            raise InputError(f"there is no protocol {name!r}; choose from: {', '.join(get_args(ProtocolName))}")


def _count_pixels(prediction: Segmented, name: str, truth: NDArray[np.bool_]) -> Counts:
    return Confusion.of(prediction.mask_of(name), truth).counts


def _count_shares(prediction: Segmented, name: str, truth: NDArray[np.bool_]) -> Counts:
    return _count_pixels(prediction, name, truth) / truth.size


def _count_fitted(prediction: Segmented, name: str, truth: NDArray[np.bool_]) -> Counts:
    probability, fitted = _fit(prediction, name, truth)
    threshold = prediction.thresholds[prediction.classes.index(name)]
    return Confusion.of(probability > np.float32(threshold), fitted).counts


def _count_soft(prediction: Segmented, name: str, truth: NDArray[np.bool_]) -> Counts:
    return soft_counts(*_fit(prediction, name, truth))


def _fit(prediction: Segmented, name: str, truth: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probability and truth of a class at the network's size, without the padding."""
    content = prediction.geometry.content
    fitted = prediction.geometry.apply(truth.astype(np.uint8) * 255, fill=0) > 127
    return prediction.probabilities[prediction.classes.index(name)][content], fitted[content]


@dataclass(frozen=True)
class ImageScore:
    """The scores of one image.

    Attributes:
        id: The image's id in its data set.
        source: The data set's name.
        group: The lesion or patient it shows, or the id where neither is known.
        counts: Of each class the true and false positives, false and true negatives, as the protocol counts them.
        metrics: Each metric of these counts by name, in [0, 1], in reporting order.
    """

    id: str
    source: str
    group: str
    counts: tuple[tuple[float, ...], ...]
    metrics: dict[str, float]
