"""How a segmentation is scored: from pixels to statistics, from statistics to metrics, from images to a data set."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg import boundary, ranking
from dermseg.errors import InputError
from dermseg.geometry import Geometry
from dermseg.metrics import TASK1_METRICS, Confusion, Interval, bootstrap, score, soft_counts

ProtocolName = Literal["official", "pooled", "soft", "boundary", "ranking"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)

Mask = NDArray[np.bool_]
Statistics = NDArray[np.floating]
"""(..., D): what a protocol keeps of a class of an image; counts, distances or a histogram."""

_INTERVAL = "95 % bootstrap interval over groups"
_OVERLAP = ("jaccard", "dice", "sensitivity", "precision")
_DECISION = ("jaccard", "dice", "sensitivity", "specificity", "accuracy", "precision")


class Masks(typing.Protocol):
    """What is scored of any prediction, also of one that another tool made."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, in pixels."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The photograph, RGB (h, w, 3), at some scale that is good enough for pictures."""

    def mask_of(self, name: str) -> Mask:
        """The mask of a class, (H, W) at the image's size."""


class Segmented(Masks, typing.Protocol):
    """What is scored of a `Prediction`, which has probabilities too."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(K, S, S) at the network's size."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each class."""

    @property
    def geometry(self) -> Geometry:
        """From the image to the network's square and back."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One class of one image, predicted and true.

    Attributes:
        prediction: Of the image; where a protocol asks for probabilities, it has some.
        name: The class's.
        truth: (H, W) at the image's size.
    """

    prediction: Masks
    name: str
    truth: Mask

    @cached_property
    def mask(self) -> Mask:
        """What was predicted, (H, W) at the image's size."""
        return self.prediction.mask_of(self.name)

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """(h, w) at the network's size, without the padding."""
        whole: NDArray[np.float32] = self._segmented.probabilities[self._place]
        return whole[self._segmented.geometry.content]

    @cached_property
    def fitted(self) -> Mask:
        """The truth at the network's size, (h, w): scaled as the image is and cut at one half."""
        geometry = self._segmented.geometry
        return geometry.apply(self.truth.astype(np.uint8) * 255, fill=0)[geometry.content] > 127

    @property
    def threshold(self) -> np.float32:
        """Pixels of a higher probability belong to the mask."""
        return np.float32(self._segmented.thresholds[self._place])

    @property
    def _segmented(self) -> Segmented:
        return cast(Segmented, self.prediction)

    @property
    def _place(self) -> int:
        return self.prediction.classes.index(self.name)


def _ratio(metric: str, statistics: Statistics) -> NDArray[np.float64]:
    return score(metric, np.asarray(statistics, np.float64))


@dataclass(frozen=True)
class Protocol:
    """How a score comes about: from pixels to statistics, from statistics to metrics, from images to a data set.

    Of one class the metrics are the class's own. Of several they are `micro_...` of the counts summed over classes,
    `macro_...`, the mean of the classes' own, and `..._<class>`, the classes' own.

    Attributes:
        name: What the command line calls it.
        description: What is compared, at which size, and how it is averaged; stands with every score. A group is a
            lesion or patient, or an image where neither is known.
        classes: What the masks show.
        metrics: Names of metrics, in reporting order.
        summed: Whether a data set's metrics are those of its images' statistics summed, else the means of its images'.
        measure: Gives the statistics, (D,), of a class of an image.
        score: Gives a metric, (...), of its name and of statistics, (..., D).
        prefix: Goes before the names of metrics in tables that hold several protocols.
        per_image: Whether the metrics of a single image mean something.
        micro: Whether statistics may be summed over classes.
        length: D.
    """

    name: ProtocolName
    description: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    summed: bool
    measure: Callable[[Pair], Statistics]
    score: Callable[[str, Statistics], NDArray[np.float64]] = _ratio
    prefix: str = ""
    per_image: bool = True
    micro: bool = True
    length: int = 4

    @property
    def main(self) -> str:
        """The metric that ranks: the first one, of several classes over all of them."""
        if len(self.classes) == 1:
            return self.metrics[0]
        return f"{'micro' if self.micro else 'macro'}_{self.metrics[0]}"

    def metrics_of(self, statistics: Statistics) -> dict[str, NDArray[np.float64]]:
        """Each metric by name, (...), of the classes' statistics, (..., K, D)."""
        each = {metric: self.score(metric, statistics) for metric in self.metrics}
        if len(self.classes) == 1:
            return {metric: values[..., 0] for metric, values in each.items()}
        summed = {}
        if self.micro:
            summed = {f"micro_{metric}": self.score(metric, statistics.sum(axis=-2)) for metric in self.metrics}
        return {
            **summed,
            **{f"macro_{metric}": _mean(values) for metric, values in each.items()},
            **{f"{m}_{name}": each[m][..., k] for k, name in enumerate(self.classes) for m in self.metrics},
        }

    def statistics_of(self, images: Sequence[ImageScore]) -> NDArray[np.float64]:
        """What `bootstrap` draws from: (n, K, D) where statistics are summed, else the images' metrics, (n, M)."""
        statistics = np.array([image.statistics[self.name] for image in images], np.float64)
        if self.summed:
            return statistics
        return np.column_stack(list(self.metrics_of(statistics).values()))

    def estimate(self, means: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each metric of a data set by name, (r,), of r means of `statistics_of`."""
        if self.summed:
            return self.metrics_of(means)
        return dict(zip(self.names, means.T, strict=True))

    @cached_property
    def names(self) -> list[str]:
        """The metrics' names as `metrics_of` gives them."""
        return list(self.metrics_of(np.zeros((len(self.classes), self.length))))

    def summarise(self, images: Sequence[ImageScore]) -> dict[str, Interval]:
        """The metrics of a data set with their intervals; at least one image."""
        return bootstrap(self.statistics_of(images), self.estimate, [image.group for image in images])


@dataclass(frozen=True, eq=False)
class ImageScore:
    """The scores of one image.

    Attributes:
        id: The image's id in its data set.
        source: The data set's name.
        group: The lesion or patient it shows, or the id where neither is known.
        size: (height, width) in pixels.
        statistics: By protocol what it keeps of each class, (K, D).
        metrics: Each metric of this image by name, in reporting order; those of the official protocol come first, and
            those of others bear their prefix.
        facts: What is known of the image beside its scores, by name; see `dermseg.facts`.
        thumbnail: A small WebP picture of photograph, truth and prediction; empty if none was asked for.
    """

    id: str
    source: str
    group: str
    size: tuple[int, int]
    statistics: Mapping[ProtocolName, Statistics]
    metrics: Mapping[str, float]
    facts: Mapping[str, str | float] = field(default_factory=dict)
    thumbnail: bytes = field(default=b"", repr=False)


def count_groups(images: Iterable[ImageScore]) -> int:
    """How many different lesions or patients, as far as they are named, the images show."""
    return len({image.group for image in images})


def protocol_for(name: ProtocolName, classes: Sequence[str], input_size: int | None) -> Protocol:
    """The protocol of a name for a bundle's classes and network size.

    - `official` is ISIC Task 1 (arXiv:1902.03368) for one class. For several it is ISIC 2018 Task 2: each image's
      counts are divided by its area and summed over images; the challenge's score is `micro_jaccard`.
    - `pooled` makes one confusion matrix of all pixels of a data set, as EGE-UNet, VM-UNet and others do.
    - `soft` does without thresholds. For one class it is the mean over images, for several the counts are summed over
      images first, and `macro_...` is what is published for attributes.
    - `boundary` takes distances between outlines, in pixels of the truth; see `dermseg.boundary`.
    - `ranking` takes pixels by their probability: areas under curves and calibration; see `dermseg.ranking`.

    `pooled`, `soft` and `ranking` compare where the network works: the truth is scaled as the image is and cut at one
    half, and the padding counts nowhere. `dermseg.metrics` says what a metric is of empty masks.

    Args:
        name: One of `PROTOCOLS`.
        classes: What the masks show.
        input_size: Of the network, in pixels; None for masks without probabilities, of which `soft` and `ranking`
            cannot be had, and `pooled` compares at the truth's size.

    Raises:
        InputError: There is no such protocol, or not of masks alone.
    """
    classes, several = tuple(classes), len(classes) > 1
    if input_size is None and name in ("soft", "ranking"):
        raise InputError(f"the protocol {name!r} needs probabilities, which masks do not have; give a bundle")
    match name:
        case "official" if several:
            text = "official Task 2: compared at the truth's size, shares of the image's area summed over images"
            return Protocol(name, f"{text}, {_INTERVAL}", classes, _OVERLAP, True, _count_shares)
        case "official":
            text = "official Task 1: compared at the truth's size, mean over images"
            return Protocol(name, f"{text}, {_INTERVAL}", classes, TASK1_METRICS, False, _count_pixels)
        case "pooled":
            place = "the truth's size" if input_size is None else f"{input_size} px"
            text = f"pooled: compared at {place}, pixels summed over images, {_INTERVAL}"
            count = _count_pixels if input_size is None else _count_fitted
            metrics: tuple[str, ...] = _OVERLAP if several else _DECISION
            return Protocol(name, text, classes, metrics, True, count, prefix="pooled_", per_image=False)
        case "soft":
            averaged = "summed over images" if several else "mean over images"
            text = f"soft: probabilities without a threshold, compared at {input_size} px, {averaged}, {_INTERVAL}"
            return Protocol(name, text, classes, _OVERLAP, several, _count_soft, prefix="soft_")
        case "boundary":
            text = f"boundary: distances between outlines in pixels of the truth, mean over images, {_INTERVAL}"
            return Protocol(name, text, classes, boundary.METRICS, False, _distances, _component, micro=False)
        case "ranking":
            text = f"ranking: pixels by probability at {input_size} px, summed over images, {_INTERVAL}"
            metrics = ranking.METRICS + (("presence_auc",) if several else ())
            return Protocol(
                name,
                text,
                classes,
                metrics,
                True,
                _levels,
                ranking.score,
                per_image=False,
                micro=False,
                length=ranking.LENGTH,
            )
        case _:
            raise InputError(f"there is no protocol {name!r}; choose from: {', '.join(PROTOCOLS)}")


def protocols_for(classes: Sequence[str], input_size: int | None) -> tuple[Protocol, ...]:
    """All protocols that can be had, the official one first; arguments as `protocol_for`'s."""
    names = (name for name in PROTOCOLS if input_size is not None or name not in ("soft", "ranking"))
    return tuple(protocol_for(name, classes, input_size) for name in names)


def _count_pixels(pair: Pair) -> Statistics:
    return Confusion.of(pair.mask, pair.truth).counts


def _count_shares(pair: Pair) -> Statistics:
    return _count_pixels(pair) / pair.truth.size


def _count_fitted(pair: Pair) -> Statistics:
    return Confusion.of(pair.probability > pair.threshold, pair.fitted).counts


def _count_soft(pair: Pair) -> Statistics:
    return soft_counts(pair.probability, pair.fitted)


def _distances(pair: Pair) -> Statistics:
    return boundary.measure(pair.mask, pair.truth)


def _component(metric: str, statistics: Statistics) -> NDArray[np.float64]:
    return np.asarray(statistics[..., boundary.METRICS.index(metric)], np.float64)


def _levels(pair: Pair) -> Statistics:
    return ranking.measure(pair.probability, pair.fitted)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over classes, (..., K) -> (...), of those whose metric is defined; NaN if there is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return np.asarray(np.nanmean(values, axis=-1))
