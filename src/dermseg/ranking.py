"""Pixels ranked by their probability: areas under curves, calibration and the effect of the threshold.

All of it comes from two histograms of the probability p, one of the pixels where the truth is false and one of those
where it is true. They have a level between any two of `EDGES`, which are fine towards 0 and 1, where most pixels are.
The statistics of images are summed for those of a data set, and all of its pixels count alike. Areas under curves
take pixels of one level as ties; they are those of scikit-learn (`roc_auc_score`, `average_precision_score`) on levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dermseg import metrics
from dermseg.errors import InputError

Statistics = NDArray[np.floating]
"""(..., LENGTH): of an image, or of several images summed or averaged."""

Array = NDArray[np.float64]

THRESHOLDS: Array = np.arange(1, 100) / 100
"""(99,): 0.01 to 0.99, the thresholds of `threshold_curve` and `highest_threshold`."""

_TAIL = 10 ** (np.arange(-120, -40) / 20)

EDGES: NDArray[np.float32] = np.concatenate([_TAIL, THRESHOLDS, 1 - _TAIL[::-1]]).astype(np.float32)
"""Ascending: `THRESHOLDS`, and 20 a decade towards 0 and 1.

The level of p is how many of them it is above, so that p > EDGES[k] exactly where its level > k."""

LEVELS = len(EDGES) + 1

BINS = 10
"""Of the reliability curve, each with its upper end: (0, 0.1], (0.1, 0.2], ...; the first also with 0."""

METRICS = ("auc_roc", "average_precision", "calibration_error")
"""What `score` gives; beside these it gives `presence_auc`."""

LENGTH = 2 * LEVELS + BINS + 2 * LEVELS
"""Of the statistics of one class: two histograms of pixels (truth false, truth true), the sum of p in each bin, and two
histograms of images by the highest level that a pixel has (truth empty, truth not empty)."""

# The first level of each bin.
_STARTS = np.append(0, np.searchsorted(EDGES, (np.arange(1, BINS) / BINS).astype(np.float32)) + 1)


def measure(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The statistics of one class of one image.

    Args:
        probability: (h, w) in [0, 1], fewer than 2^24 pixels so that counts are exact.
        truth: (h, w).

    Returns:
        (LENGTH,).

    Raises:
        InputError: The shapes differ or have no pixel.
    """
    if probability.shape != truth.shape or not truth.size:
        raise InputError(f"the probability has shape {probability.shape} but the truth {truth.shape}")
    p, positive = probability.ravel(), truth.ravel()
    level = np.searchsorted(EDGES, p, side="left")
    pixels = np.bincount(level + LEVELS * positive, minlength=2 * LEVELS)
    sums = np.bincount(level, weights=p, minlength=LEVELS)
    images = np.zeros((2, LEVELS))
    images[int(positive.any()), level.max()] = 1
    return np.concatenate([pixels, _by_bin(sums), images.ravel()]).astype(np.float32)


class _Parts(NamedTuple):
    """The parts of statistics, all but `sums` (..., LEVELS)."""

    negatives: Statistics
    positives: Statistics
    sums: Statistics
    absent: Statistics
    present: Statistics


def _parts(statistics: Statistics) -> _Parts:
    ends = np.cumsum([LEVELS, LEVELS, BINS, LEVELS])
    return _Parts(*np.split(statistics, ends, axis=-1))


def score(metric: str, statistics: Statistics) -> Array:
    """A metric of statistics.

    - `auc_roc`: the area under the ROC curve by the trapezoid rule, that is the chance that a pixel of the lesion has
      a higher level than one outside; ties count half.
    - `average_precision`: the sum of precision times the step in recall over levels, without interpolation. Ties make
      it smaller, so that it is by up to 0.01 below that of the probabilities themselves, the more the rarer the class.
    - `calibration_error`: the expected calibration error (Naeini et al. 2015, Obtaining well calibrated probabilities
      using Bayesian binning; Guo et al. 2017, arXiv:1706.04599) of the probability of the class: the mean over pixels
      of the difference, in a pixel's bin, of mean p and the share of positives.
    - `presence_auc`: the area under the ROC curve of images instead of pixels, ranked by their highest level; how well
      it tells whether a class is there at all.

    Args:
        metric: One of `METRICS`, or `presence_auc`.
        statistics: (..., LENGTH), each >= 0.

    Returns:
        (...) in [0, 1]; of the calibration error 0 is best, else 1. NaN where it is not defined: without a pixel, or
        image, that is positive, and, but for the average precision, without one that is negative. The calibration error
        needs any pixel.

    Raises:
        InputError: There is no such metric.
    """
    parts = _parts(statistics)
    match metric:
        case "auc_roc":
            return _auc(parts.negatives, parts.positives)
        case "presence_auc":
            return _auc(parts.absent, parts.present)
        case "average_precision":
            found = _at_least(parts.positives)
            precision = _ratio(found, found + _at_least(parts.negatives), otherwise=0)
            return _ratio(np.einsum("...l,...l", precision, parts.positives), found[..., 0])
        case "calibration_error":
            gaps = np.abs(_by_bin(parts.positives) - parts.sums).sum(axis=-1)
            return _ratio(gaps, _total(parts.negatives) + _total(parts.positives))
        case _:
            raise InputError(f"there is no ranking metric {metric!r}; choose from: {', '.join(METRICS)}, presence_auc")


def counts_at(statistics: Statistics, thresholds: ArrayLike) -> metrics.Counts:
    """What pixels p > threshold count as, for `metrics.score`.

    Args:
        statistics: (..., LENGTH).
        thresholds: T numbers that are among `EDGES`, such as hundredths.

    Returns:
        (..., T, 4): true positives, false positives, false negatives and true negatives.

    Raises:
        InputError: A threshold is not among `EDGES`, so that levels cannot tell.
    """
    wanted = np.atleast_1d(np.asarray(thresholds, np.float32))
    edges = np.searchsorted(EDGES, wanted).clip(max=len(EDGES) - 1)
    if (EDGES[edges] != wanted).any():
        raise InputError(
            f"pixels are counted at thresholds 0.01, 0.02, ... 0.99, not at {wanted[EDGES[edges] != wanted]}"
        )
    parts = _parts(statistics)
    histograms = (parts.positives, parts.negatives)
    above = [_at_least(histogram)[..., edges + 1] for histogram in histograms]
    below = [np.cumsum(histogram, axis=-1, dtype=np.float64)[..., edges] for histogram in histograms]
    return np.stack([*above, *below], axis=-1)


def roc(statistics: Statistics) -> tuple[Array, Array]:
    """The ROC curve: false positive rate and true positive rate, each (LEVELS + 1,), 0 to 1; NaN if undefined."""
    parts = _parts(statistics)
    wrong, found = _above(parts.negatives), _above(parts.positives)
    return _ratio(wrong, wrong[-1]), _ratio(found, found[-1])


def precision_recall(statistics: Statistics) -> tuple[Array, Array]:
    """Recall and precision, each (LEVELS + 1,), with recall from 0 to 1.

    Where nothing is above the threshold, precision is 1. Recall is NaN where no pixel is positive. Points are the ends
    of steps: the area under the steps, not under straight lines, is the average precision.
    """
    parts = _parts(statistics)
    wrong, found = _above(parts.negatives), _above(parts.positives)
    return _ratio(found, found[-1]), _ratio(found, found + wrong, otherwise=1)


class Reliability(NamedTuple):
    """How often what is called p is true, in each of `BINS` bins; NaN in a bin without pixels.

    Attributes:
        predicted: (BINS,), the mean p.
        observed: (BINS,), the share of positives.
        pixels: (BINS,), how many there are.
    """

    predicted: Array
    observed: Array
    pixels: Array


def reliability(statistics: Statistics) -> Reliability:
    """The reliability curve of statistics (LENGTH,)."""
    parts = _parts(statistics)
    positives = _by_bin(parts.positives)
    pixels = positives + _by_bin(parts.negatives)
    return Reliability(_ratio(parts.sums, pixels), _ratio(positives, pixels), pixels)


def threshold_curve(statistics: Statistics, place: int) -> dict[str, Array]:
    """What each threshold of `THRESHOLDS` would score: means over images, each image's as `metrics.score` has it.

    Args:
        statistics: Of images and classes, (n, K, LENGTH), n >= 1.
        place: Of the class.

    Returns:
        (99,) of each of jaccard, dice, sensitivity, specificity and precision.
    """
    counts = counts_at(statistics[:, place], THRESHOLDS)
    names = ("jaccard", "dice", "sensitivity", "specificity", "precision")
    return {name: metrics.score(name, counts).mean(axis=0) for name in names}


def highest_threshold(statistics: Statistics, sensitivity: float) -> float:
    """The highest of `THRESHOLDS` at which as much of the lesions is found as asked for.

    Args:
        statistics: Of one class of images, (n, LENGTH).
        sensitivity: Mean over the images with a lesion; the others have nothing to find.

    Returns:
        The threshold; 0.01 where none is low enough, or no image has a lesion.
    """
    shown = statistics[_total(_parts(statistics).present) > 0]
    if not len(shown):
        return float(THRESHOLDS[0])
    reached = metrics.score("sensitivity", counts_at(shown, THRESHOLDS)).mean(axis=0) >= sensitivity
    return float(THRESHOLDS[reached].max(initial=THRESHOLDS[0]))


def _auc(negatives: Statistics, positives: Statistics) -> Array:
    found = _at_least(positives)
    won = np.einsum("...l,...l", found - positives / 2, negatives)
    return _ratio(won, found[..., 0] * _total(negatives))


def _above(histogram: Statistics) -> Array:
    """How many are above each threshold, from 1 down to below 0, (LEVELS + 1,): from none to all."""
    return np.append(0, _at_least(histogram)[::-1])


def _at_least(histogram: Statistics) -> Array:
    """How many have a level or a higher one, (..., LEVELS)."""
    return np.cumsum(histogram[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]


def _by_bin(histogram: NDArray[np.number]) -> Array:
    return np.add.reduceat(histogram, _STARTS, axis=-1, dtype=np.float64)


def _total(histogram: Statistics) -> Array:
    return np.asarray(histogram.sum(axis=-1, dtype=np.float64))


def _ratio(part: Statistics, whole: Statistics, otherwise: float = np.nan) -> Array:
    out = np.full(np.shape(part), otherwise, np.float64)
    return np.divide(part, whole, out=out, where=whole > 0)
