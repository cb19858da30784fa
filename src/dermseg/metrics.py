"""Official ISIC Task 1 metrics (lesion boundary), and bootstrap intervals of their means; numpy only.

The metrics are those of the ISIC 2018 challenge (Codella et al. 2019, arXiv:1902.03368) and agree with its
scorer, `isic-challenge-scoring`, in every case, empty masks included:

    metric                 where it is undefined               then its value is
    jaccard, dice          truth and prediction both empty     1 (a perfect answer)
    thresholded_jaccard    truth and prediction both empty     1 (it follows jaccard)
    sensitivity            truth empty                         1, whatever was predicted
    specificity            truth covers the whole image        1, whatever was predicted
    precision              prediction empty                    1, whatever the truth

Thus no metric is ever NaN, and none is silently 0 on empty masks. Task 1 does not report precision; its value
on an empty prediction is that of the scorer's `binary_ppv`, so precision is sensitivity with the two masks
exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

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

# Bounds the bootstrap's memory: 8 bytes an index, so blocks of 8 MiB.
_DRAWS_PER_BLOCK = 2**20


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
    def jaccard(self) -> float:
        """Intersection over union, TP / (TP + FP + FN); 1 if both masks are empty."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def thresholded_jaccard(self) -> float:
        """Jaccard where it is at least 0.65, else 0; 1 if both masks are empty. It ranks Task 1."""
        jaccard = self.jaccard
        return jaccard if jaccard >= JACCARD_THRESHOLD else 0.0

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if both masks are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def sensitivity(self) -> float:
        """Share of the lesion that was found, TP / (TP + FN); 1 if the truth is empty."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the background left alone, TN / (TN + FP); 1 if the truth covers the whole image."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right, (TP + TN) / all; always defined."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def precision(self) -> float:
        """Share of the prediction that is lesion, TP / (TP + FP); 1 if the prediction is empty."""
        return _ratio(self.tp, self.tp + self.fp)

    def scores(self) -> dict[str, float]:
        """Every metric of `TASK1_METRICS` by name, in that order."""
        return {name: getattr(self, name) for name in TASK1_METRICS}


def _ratio(part: int, whole: int) -> float:
    """Part / whole; 1 if the whole is empty, as the official scorer has it for each of its ratios."""
    return part / whole if whole else 1.0


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; prints as `0.781 [0.760, 0.801]`."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    values: NDArray[np.float64],
    groups: Sequence[str] | None = None,
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean over images.

    Images of one lesion or patient are not independent, so whole groups are drawn (Field and Welsh 2007,
    Bootstrapping clustered data, J. R. Stat. Soc. B 69:369-390). The mean stays the plain mean over images: a
    resample's mean is the sum of its groups' values over the number of its images. Equal arguments give equal
    intervals, and groups of one image each give the same interval as none.

    Args:
        values: One finite value an image, (n,) with n >= 1. NaN is refused, never skipped: that would change
            what the mean is taken over.
        groups: The group of each image, n names; None draws single images.
        samples: Number of resamples, >= 1.
        confidence: Share of the resampled means inside the interval, in (0, 1).
        seed: Seed of the resampling.

    Returns:
        The mean of the values and the interval's ends. With few groups the interval is somewhat too narrow
        (60 uniform values: it covers the true mean in 93 of 100 cases, not 95), and with a single group,
        which cannot be resampled, it has no width at all.

    Raises:
        InputError: An argument is out of its range, or groups and values differ in length.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError(
            f"an interval needs one finite value an image, (n,) with n >= 1; got shape {values.shape} "
            f"with {np.count_nonzero(~np.isfinite(values))} values that are not finite"
        )
    if groups is not None and len(groups) != values.size:
        raise InputError(f"{values.size} values need as many groups, not {len(groups)}")
    if samples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"samples must be >= 1 and confidence in (0, 1), not samples={samples}, confidence={confidence}"
        )

    # Numbered as they appear, so that the draws do not depend on how the groups are called.
    names = groups if groups is not None else range(values.size)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    codes = np.array([numbers[name] for name in names])
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes)

    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_PER_BLOCK // sums.size)
    means = np.empty(samples)
    for start in range(0, samples, rows):
        block = means[start : start + rows]
        drawn = rng.integers(sums.size, size=(block.size, sums.size))
        block[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)

    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))
