"""What every protocol is made of: counts of pixels, metrics of counts, and bootstrap intervals; numpy only.

The metrics are ratios of counts, as the ISIC 2018 challenge has them (Codella et al. 2019, arXiv:1902.03368), and
agree with its scorer, `isic-challenge-scoring`, in every case, empty masks included. Where the counts are those of
one image:

    metric                 where it is undefined               then its value is
    jaccard, dice          truth and prediction both empty     1 (a perfect answer)
    thresholded_jaccard    truth and prediction both empty     1 (it follows jaccard)
    sensitivity            truth empty                         1, whatever was predicted
    specificity            truth covers the whole image        1, whatever was predicted
    precision              prediction empty                    1, whatever the truth

Thus no metric is ever NaN, and none is silently 0 on empty masks. The same holds for sums of counts: a class that no
image has and nothing was taken for scores 1. Soft counts are of probabilities, which are hardly ever exactly 0, so
that an empty truth scores a soft jaccard and dice of about 0.

Task 1 does not report precision; its value on an empty prediction is that of the scorer's `binary_ppv`, so precision
is sensitivity with the two masks exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

Counts = NDArray[np.float64]
"""(..., 4): true positives, false positives, false negatives and true negatives; in pixels or shares of an area."""

JACCARD_THRESHOLD = 0.65
"""Jaccard below which the challenge counts an image as failed (arXiv:1902.03368)."""

TASK1_METRICS: tuple[str, ...] = (
    "jaccard",
    "thresholded_jaccard",
    "dice",
    "sensitivity",
    "specificity",
    "accuracy",
    "precision",
)
"""The metrics of one image, in reporting order; each names a property of `Confusion`."""

# Each metric is a part of a whole; both are weighted sums of the four counts.
_PART_AND_WHOLE: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "jaccard": ((1, 0, 0, 0), (1, 1, 1, 0)),
    "dice": ((2, 0, 0, 0), (2, 1, 1, 0)),
    "sensitivity": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
}

# Bounds the bootstrap's memory: 8 bytes an index, so blocks of 8 MiB.
_DRAWS_PER_BLOCK = 2**20


def score(metric: str, counts: Counts) -> NDArray[np.float64]:
    """A metric of counts, of one image or of many summed.

    Args:
        metric: One of `TASK1_METRICS`.
        counts: (..., 4), each >= 0.

    Returns:
        (...) in [0, 1]; 1 where the metric is undefined.
    """
    if metric == "thresholded_jaccard":
        jaccard = score("jaccard", counts)
        return np.where(jaccard >= JACCARD_THRESHOLD, jaccard, 0.0)
    part, whole = (np.asarray(counts @ np.array(weights, np.float64)) for weights in _PART_AND_WHOLE[metric])
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)


def soft_counts(probability: NDArray[np.floating], truth: NDArray[np.bool_]) -> Counts:
    """Count pixels by their probability p instead of a decision: true positives are the sum of p inside the truth t.

    Thus dice is 2 sum(p t) / (sum(p) + sum(t)), precision sum(p t) / sum(p) and sensitivity sum(p t) / sum(t).

    Args:
        probability: (H, W) in [0, 1].
        truth: (H, W).

    Returns:
        (4,), which sums to H * W.

    Raises:
        InputError: The shapes differ or have no pixel.
    """
    if probability.shape != truth.shape or not truth.size:
        raise InputError(f"the probability has shape {probability.shape} but the truth {truth.shape}")
    inside = float(probability[truth].sum(dtype=np.float64))
    outside = float(probability[~truth].sum(dtype=np.float64))
    positives = int(np.count_nonzero(truth))
    # Rounding must not make a count negative where p is 1 throughout.
    missed, spared = max(0.0, positives - inside), max(0.0, truth.size - positives - outside)
    return np.array([inside, outside, missed, spared])


@dataclass(frozen=True)
class Confusion:
    """The pixels of one image, counted by truth and prediction.

    Every metric lies in [0, 1]; 1 is best.

    Attributes:
        tp: Lesion pixels predicted as lesion.
        fp: Background pixels predicted as lesion.
        fn: Lesion pixels predicted as background.
        tn: Background pixels predicted as background.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    def __post_init__(self) -> None:
        counts = (self.tp, self.fp, self.fn, self.tn)
        if min(counts) < 0 or sum(counts) == 0:
            raise InputError(f"a confusion needs counts >= 0 of at least one pixel, not {counts}")

    @classmethod
    def of(cls, prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Confusion:
        """Count the pixels of a predicted and a true mask.

        Args:
            prediction: Predicted mask, bool (H, W); True is lesion.
            truth: True mask, bool (H, W); True is lesion.

        Returns:
            The four counts, which sum to H * W.

        Raises:
            InputError: The masks are not boolean, differ in shape or have no pixel.
        """
        if prediction.dtype != np.bool_ or truth.dtype != np.bool_:
            raise InputError(
                f"masks must be boolean, but the prediction is {prediction.dtype} and the truth {truth.dtype}"
            )
        if prediction.shape != truth.shape:
            raise InputError(
                f"the prediction has shape {prediction.shape} but the truth {truth.shape}: "
                "compare them at the truth's size"
            )
        tp = int(np.count_nonzero(prediction & truth))
        fp = int(np.count_nonzero(prediction)) - tp
        fn = int(np.count_nonzero(truth)) - tp
        return cls(tp=tp, fp=fp, fn=fn, tn=truth.size - tp - fp - fn)

    @property
    def counts(self) -> Counts:
        """The four counts in order, (4,)."""
        return np.array(astuple(self), np.float64)

    @property
    def jaccard(self) -> float:
        """Intersection over union, TP / (TP + FP + FN); 1 if both masks are empty."""
        return float(score("jaccard", self.counts))

    @property
    def thresholded_jaccard(self) -> float:
        """Jaccard where it is at least 0.65, else 0; 1 if both masks are empty. It ranks Task 1."""
        return float(score("thresholded_jaccard", self.counts))

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if both masks are empty."""
        return float(score("dice", self.counts))

    @property
    def sensitivity(self) -> float:
        """Share of the lesion that was found, TP / (TP + FN); 1 if the truth is empty."""
        return float(score("sensitivity", self.counts))

    @property
    def specificity(self) -> float:
        """Share of the background left alone, TN / (TN + FP); 1 if the truth covers the whole image."""
        return float(score("specificity", self.counts))

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right, (TP + TN) / all; always defined."""
        return float(score("accuracy", self.counts))

    @property
    def precision(self) -> float:
        """Share of the prediction that is lesion, TP / (TP + FP); 1 if the prediction is empty."""
        return float(score("precision", self.counts))

    def scores(self) -> dict[str, float]:
        """Every metric of `TASK1_METRICS` by name, in that order."""
        return {name: float(score(name, self.counts)) for name in TASK1_METRICS}


@dataclass(frozen=True)
class Interval:
    """A mean, or a metric of sums, with its bootstrap interval; prints as `0.781 [0.760, 0.801]`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "not defined"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    statistics: NDArray[np.float64],
    estimate: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    groups: Sequence[str] | None = None,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of what is computed from a statistic's mean over images.

    That is a mean of metrics where the statistic is the metrics, and a metric of summed counts where it is the counts,
    since a ratio of means is the ratio of sums.

    Images of one lesion or patient are not independent, so whole groups are drawn (Field and Welsh 2007,
    Bootstrapping clustered data, J. R. Stat. Soc. B 69:369-390). The mean stays the plain mean over images: a
    resample's mean is the sum of its groups' statistics over the number of its images. Equal arguments give equal
    intervals, and groups of one image each give the same interval as none.

    Args:
        statistics: One finite statistic an image, (n, ...) with n >= 1. NaN is refused, never skipped: that would
            change what the mean is taken over.
        estimate: Gives, of means (r, ...), one value each by name, (r,).
        groups: The group of each image, n names; None draws single images.
        samples: Number of resamples, >= 1.
        confidence: Share of the resampled values inside the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        By name the estimate of all images and the interval's ends. With few groups the interval is somewhat too
        narrow (60 uniform values: it covers the true mean in 93 of 100 cases, not 95), and with a single group,
        which cannot be resampled, it has no width at all. Where an estimate is NaN, it is not defined; such resamples
        are passed over, and an estimate that never is defined has an interval of NaN.

    Raises:
        InputError: An argument is out of its range, or groups and statistics differ in length.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.size == 0 or not np.isfinite(statistics).all():
        raise InputError(
            f"an interval needs finite values of at least one image; got shape {statistics.shape} "
            f"with {np.count_nonzero(~np.isfinite(statistics))} values that are not finite"
        )
    count = len(statistics)
    if groups is not None and len(groups) != count:
        raise InputError(f"{count} values need as many groups, not {len(groups)}")
    if samples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"samples must be >= 1 and confidence in (0, 1), not samples={samples}, confidence={confidence}"
        )

    # Numbered as they appear, so that the draws do not depend on how the groups are called.
    names = groups if groups is not None else range(count)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(numbers), 1 + statistics[0].size))  # of each group: its images, then its statistics
    np.add.at(sums, [numbers[name] for name in names], np.column_stack([np.ones(count), statistics.reshape(count, -1)]))

    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_PER_BLOCK // len(sums))
    resampled = np.empty((samples, sums.shape[1]))
    for start in range(0, samples, rows):
        block = resampled[start : start + rows]
        drawn = rng.integers(len(sums), size=(len(block), len(sums)))
        drawn += np.arange(len(block))[:, None] * len(sums)
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        block[:] = times.astype(np.float64) @ sums
    means = resampled[:, 1:] / resampled[:, :1]

    whole = estimate(statistics.mean(axis=0)[None])
    parts = estimate(means.reshape(samples, *statistics.shape[1:]))
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    bounds = {name: _quantiles(values, ends) for name, values in parts.items()}
    return {name: Interval(float(whole[name][0]), *map(float, bounds[name])) for name in whole}


def _quantiles(values: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    defined = values[~np.isnan(values)]
    return np.quantile(defined, ends) if defined.size else np.full(2, np.nan)


def bootstrap_interval(
    values: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean of one value an image, (n,); else as `bootstrap`."""
    if np.ndim(values) != 1:
        raise InputError(f"an interval of a mean needs one value an image, (n,), not shape {np.shape(values)}")
    return bootstrap(values, lambda means: {"mean": means}, groups, samples=samples, confidence=confidence, seed=seed)[
        "mean"
    ]
