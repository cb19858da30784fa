"""Scores on ``tune`` at every threshold at once, and the thresholds that are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from dermseg.metrics import score

BINS = 100
# The thresholds that are tried, in hundredths.
LOWEST, HIGHEST = 1, 99
# Of the Jaccard index that a class could have by itself, so much is kept for it.
LEAST_SHARE = 0.75
# A mean score this far below the best is as good: between a few hundred images it differs by more from draw to draw.
AS_GOOD = 0.002
METRICS = ("jaccard", "thresholded_jaccard", "dice", "sensitivity", "precision")


@dataclass(frozen=True)
class TuneScores:
    """The scores of one epoch by name, each in [0, 1], and the threshold of each class they hold for."""

    values: dict[str, float]
    thresholds: dict[str, float]


class TuneScorer:
    """Counts true and false positives of each image, class and threshold, at the network's size.

    Args:
        classes: Names of the classes, in the order of the channels.
        sources: Names of the data sets.
        monitor: The score that decides the thresholds: ``jaccard``, ``thresholded_jaccard`` and ``dice`` are means
            over the images of a data set, then over data sets, so that a large one does not decide alone, and of the
            thresholds as good as the best within ``AS_GOOD`` the one nearest to a half is taken;
            ``micro_jaccard`` sums the counts over images first, as ISIC 2018 Task 2 does.
    """

    def __init__(self, classes: Sequence[str], sources: Sequence[str], monitor: str) -> None:
        self._classes = tuple(classes)
        self._sources = tuple(sources)
        self._monitor = monitor
        self._histograms: list[Tensor] = []
        self._source_of: list[Tensor] = []

    def update(self, probability: Tensor, truth: Tensor, source: Tensor) -> None:
        """Count a batch.

        Args:
            probability: (B, K, H, W) in [0, 1].
            truth: (B, K, H, W), True inside the mask.
            source: (B,) indices of ``sources``.
        """
        count, classes = probability.shape[:2]
        # p > k / BINS exactly where ceil(p * BINS) - 1 >= k.
        level = (probability.double() * BINS).ceil().sub(1).clamp(0, BINS - 1).long()
        place = torch.arange(count * classes, device=level.device).view(count, classes, 1, 1)
        flat = ((place * 2 + truth.long()) * BINS + level).flatten()
        histogram = torch.bincount(flat, minlength=count * classes * 2 * BINS)
        self._histograms.append(histogram.view(count, classes, 2, BINS).cpu())
        self._source_of.append(source.cpu())

    def compute(self) -> TuneScores:
        """The scores of all images counted, on all devices; forgets them."""
        histogram = _gather(torch.cat(self._histograms)).numpy().astype(np.float64)
        source_of = _gather(torch.cat(self._source_of)).numpy()
        self._histograms.clear()
        self._source_of.clear()
        counts = _counts(histogram)
        sums = counts.sum(axis=0)
        present = [(index, name) for index, name in enumerate(self._sources) if (source_of == index).any()]
        # Data set -> metric -> mean over its images; (K, T) each.
        by_source = {
            name: {metric: score(metric, counts[source_of == index]).mean(axis=0) for metric in METRICS}
            for index, name in present
        }
        curves = {metric: np.mean([means[metric] for means in by_source.values()], axis=0) for metric in METRICS}
        best = _best_together(sums) if self._monitor == "micro_jaccard" else _least_extreme(curves[self._monitor])
        classes = np.arange(len(self._classes))
        values = {metric: float(curves[metric][classes, best].mean()) for metric in METRICS}
        values["micro_jaccard"] = float(score("jaccard", sums[classes, best].sum(axis=0)))
        if len(classes) > 1:
            of_class = score("jaccard", sums[classes, best])
            values |= {f"micro_jaccard_{name}": float(v) for name, v in zip(self._classes, of_class, strict=True)}
        if len(by_source) > 1:
            values |= {f"jaccard_{name}": float(m["jaccard"][classes, best].mean()) for name, m in by_source.items()}
        thresholds = {name: (LOWEST + int(index)) / BINS for name, index in zip(self._classes, best, strict=True)}
        return TuneScores(values, thresholds)


def _counts(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The four counts at every threshold, (N, K, T, 4), of pixels by truth and level, (N, K, 2, BINS)."""
    above = histogram[..., ::-1].cumsum(axis=-1)[..., ::-1][..., LOWEST : HIGHEST + 1]
    below = histogram.sum(axis=-1, keepdims=True) - above
    return np.stack([above[:, :, 1], above[:, :, 0], below[:, :, 1], below[:, :, 0]], axis=-1)


def _least_extreme(curve: NDArray[np.float64]) -> NDArray[np.int64]:
    """The threshold of each class, (K,), nearest to a half of those as good as the best; ``curve`` is (K, T).

    The score hardly changes over a wide range of thresholds, and which is the very best there is chance.
    """
    distance = np.abs(np.arange(LOWEST, HIGHEST + 1) - BINS / 2)
    good = curve >= curve.max(axis=1, keepdims=True) - AS_GOOD
    nearest: NDArray[np.int64] = np.where(good, distance - curve, np.inf).argmin(axis=1)
    return nearest


def _best_together(sums: NDArray[np.float64]) -> NDArray[np.int64]:
    """The threshold of each class, (K,), that gives the highest micro Jaccard; ``sums`` is (K, T, 4).

    A ratio of sums is highest where ``hits - ratio * union`` is, class by class (Dinkelbach, 1967). Never to find a
    rare class would often be best for the sum, so each has a threshold at which its own Jaccard index is at least
    ``LEAST_SHARE`` of the best that it could have.
    """
    hits, union = sums[..., 0], sums[..., :3].sum(axis=-1)
    own = score("jaccard", sums)
    poor = own < LEAST_SHARE * own.max(axis=1, keepdims=True)
    classes, ratio = np.arange(len(sums)), 0.0
    while True:
        best: NDArray[np.int64] = np.where(poor, -np.inf, hits - ratio * union).argmax(axis=1)
        higher = float(score("jaccard", sums[classes, best].sum(axis=0)))
        if higher <= ratio:
            return best
        ratio = higher


def _gather(rows: Tensor) -> Tensor:
    """The rows of all devices, of which each holds some, in the devices' order."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[Tensor | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    return torch.cat([part for part in parts if part is not None])
