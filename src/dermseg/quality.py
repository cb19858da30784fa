"""What a prediction is worth, estimated without a truth: one score for its mask and one for its photograph.

Both are logistic regressions on a few numbers of a single plain prediction, which `features_of` names; the model is a
part of a bundle's manifest, lists of numbers and no code. `dermseg.calibration` fits it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dermseg.appearance import vignette_mask
from dermseg.errors import InputError

Array = NDArray[np.float64]
Verdict = Literal["accept", "review", "reject"]
VERDICTS: tuple[Verdict, ...] = ("accept", "review", "reject")

FEATURES = (
    # Of the probability, at the network's size without the padding.
    *("entropy", "uncertain_of_area", "uncertain_of_outline", "inside", "outside", "highest", "agreement", "stability"),
    # Of the mask.
    *("area", "compactness", "solidity", "components", "largest", "border"),
    # Of the photograph.
    *("lightness", "red", "yellow", "lightness_spread", "red_spread", "yellow_spread"),
    *("sharpness", "flat", "black", "white", "colourfulness", "vignette"),
    # Of both: how far the lesion's colour is from that of the rest.
    *("darker", "redder", "yellower"),
)
"""Names of the numbers that `features_of` gives."""

FAMILIARITY = ("distance", "residual")
"""Names of the numbers that `Subspace.place` adds where a network gives an embedding."""

SIDE = 256  # the longer side of the copy that a photograph is looked at on, in pixels
STEP = 0.2  # how far the threshold is moved to either side for `stability`
UNCERTAIN = (0.1, 0.9)
LIMIT = 6.0  # standard deviations beyond which a feature counts no more, so that no one of them decides alone


@dataclass(frozen=True)
class Quality:
    """What a prediction is worth.

    Attributes:
        jaccard: The Jaccard index that its mask is estimated to have, 0 to 1.
        foreign: How much speaks for it that the photograph is no dermoscopy, 0 to 1; a score to compare with the
            model's limit, not a probability.
        verdict: ``accept``, ``review`` by a person, or ``reject``.
        reason: One sentence.
    """

    jaccard: float
    foreign: float
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """In plain values, numbers to four digits."""
        return {**asdict(self), "jaccard": round(self.jaccard, 4), "foreign": round(self.foreign, 4)}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Subspace(_Part):
    """Where the embeddings of dermoscopy images lie: the first principal components of some, each of unit variance.

    Attributes:
        mean: (D,).
        axes: d rows of (D,), orthogonal, each divided by the standard deviation along it.
        scales: (d,), those standard deviations.
        residual: Root mean square over images of the length that the axes leave over.
    """

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    residual: float = Field(gt=0)

    def place(self, embedding: NDArray[np.floating[Any]]) -> Array:
        """How far embeddings (..., D) lie from the others, (..., 2).

        The logarithms of the Mahalanobis distance within the subspace (Lee et al. 2018, arXiv:1807.03888) and of the
        distance from the subspace (as in Wang et al. 2022, arXiv:2203.10807), both over their usual values.
        """
        centred = np.asarray(embedding, np.float64) - np.array(self.mean)
        axes, scales = np.array(self.axes), np.array(self.scales)
        within = centred @ axes.T
        left = centred - (within * scales**2) @ axes
        distance = np.sqrt((within**2).mean(axis=-1))
        residual = np.sqrt((left**2).sum(axis=-1)) / self.residual
        return np.log(np.stack([distance, residual], axis=-1) + 1e-3)


class Logistic(_Part):
    """Logistic regression on standardised features z and their squares: sigmoid(bias + weights z + squares (z^2 - 1)).

    Attributes:
        bias: Of all.
        weights: One a feature.
        squares: One a feature.
    """

    bias: float
    weights: tuple[float, ...]
    squares: tuple[float, ...]

    def __call__(self, z: Array) -> Array:
        """Of (..., F) standardised features the score, (...) in (0, 1)."""
        logit = self.bias + z @ np.array(self.weights) + (z**2 - 1) @ np.array(self.squares)
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -50, 50))), np.float64)


class QualityModel(_Part):
    """Tells what a prediction is worth; fitted for one bundle, and of no use to another.

    Attributes:
        features: Names, in the order of all lists; those of ``FEATURES``, with ``FAMILIARITY`` where there is a
            ``familiar``.
        centre: Mean of each feature.
        scale: Standard deviation of each feature.
        familiar: Where embeddings of dermoscopy images lie; None for a network that gives none.
        jaccard: Estimates a mask's Jaccard index.
        foreign: Tells photographs that are no dermoscopy.
        accept: Masks of at least this estimate are accepted.
        reject: Masks of a lower estimate are rejected.
        foreign_limit: Photographs of a higher score are rejected.
        good: The Jaccard index that a mask is wanted to have.
        images: How many images it was fitted on ...
        fitted_on: ... and which, in words ...
        split: ... of which side; None if that is not known. Bundles from before this was recorded are of tune.
        accepted: Share of those images whose mask is accepted.
        accepted_good: Share of accepted masks with a Jaccard index of at least ``good``.
        rejected: Share of those images that are rejected.
    """

    features: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    familiar: Subspace | None = None
    jaccard: Logistic
    foreign: Logistic
    accept: float = Field(ge=0, le=1)
    reject: float = Field(ge=0, le=1)
    foreign_limit: float = Field(ge=0, le=1)
    good: float = Field(ge=0, le=1)
    images: int = Field(ge=1)
    fitted_on: str
    split: str | None = "tune"
    accepted: float = Field(ge=0, le=1)
    accepted_good: float = Field(ge=0, le=1)
    rejected: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> QualityModel:
        if self.features != FEATURES + FAMILIARITY * (self.familiar is not None):
            raise ValueError("it names other features than this version has; fit it again with dermseg calibrate")
        lists = (
            self.centre,
            self.scale,
            *(part for m in (self.jaccard, self.foreign) for part in (m.weights, m.squares)),
        )
        if any(len(each) != len(self.features) for each in lists) or min(self.scale) <= 0:
            raise ValueError("expected one number a feature in each list, and each scale above 0")
        if self.familiar is not None:
            rows = {len(row) for row in self.familiar.axes} or {len(self.familiar.mean)}
            if rows != {len(self.familiar.mean)} or len(self.familiar.scales) != len(self.familiar.axes):
                raise ValueError("the axes of the embedding do not fit its mean or their scales")
        return self

    @property
    def meaning(self) -> dict[Verdict, str]:
        """What each verdict stands for, with what was measured where the model was fitted."""
        low, high = f"{self.reject:.2f}", f"{self.accept:.2f}"
        side = f" of {self.split}" if self.split else ""
        return {
            "accept": f"the estimated Jaccard index is {high} or more, as of {self.accepted:.0%} of {self.images} "
            f"images{side} ({self.fitted_on}, each data set weighing the same); {self.accepted_good:.0%} of their "
            f"masks reach {self.good:.2f} in truth, on other images fewer may",
            "review": f"the estimate is between {low} and {high}: a person should look at the mask",
            "reject": "no lesion was found, the photograph may be no dermoscopy, or the estimate is below "
            f"{low}; so it is of {self.rejected:.1%} of those images",
        }

    def standardise(self, features: Array, embeddings: NDArray[np.floating[Any]] | None) -> Array:
        """Of features (..., F) and embeddings (..., D), if the model takes them, what its regressions are of.

        Less the means, over the deviations, and within +-LIMIT.
        """
        if self.familiar is not None and embeddings is not None:
            features = np.concatenate([features, self.familiar.place(embeddings)], axis=-1)
        z = (features - np.array(self.centre)) / np.array(self.scale)
        return np.asarray(np.clip(z, -LIMIT, LIMIT), np.float64)

    def rate(self, z: Array, *, empty: bool = False) -> Quality:
        """What a prediction of standardised features (F,) is worth; ``empty`` where its mask has no pixel."""
        estimate, foreign = float(self.jaccard(z)), float(self.foreign(z))
        verdict: Verdict = "reject"
        strange = f"the photograph may be no dermoscopy: its score is {foreign:.3f}, above {self.foreign_limit:.3f}"
        if not (math.isfinite(estimate) and math.isfinite(foreign)):
            reason = "the network's answer is not finite"
            estimate, foreign = 0.0, 1.0
        elif empty:
            reason = "no lesion found" + f"; {strange}" * (foreign > self.foreign_limit)
        elif foreign > self.foreign_limit:
            reason = strange
        elif estimate < self.reject:
            reason = f"the mask is probably wrong: estimated Jaccard index {estimate:.2f}, below {self.reject:.2f}"
        elif estimate < self.accept:
            verdict = "review"
            reason = f"the mask should be looked at: estimated Jaccard index {estimate:.2f}, below {self.accept:.2f}"
        else:
            verdict = "accept"
            reason = (
                f"estimated Jaccard index {estimate:.2f}; of masks with {self.accept:.2f} or more, "
                f"{self.accepted_good:.0%} reached {self.good:.2f} where this was fitted"
            )
        return Quality(0.0 if empty else estimate, foreign, verdict, reason)


def judge(
    model: QualityModel,
    pixels: NDArray[np.uint8],
    probability: NDArray[np.float32],
    threshold: float,
    embedding: NDArray[np.float32] | None = None,
) -> Quality:
    """Tell what a prediction is worth.

    Args:
        model: Of the bundle that made the prediction; it was fitted on single ones, cut at the bundle's own threshold,
            and is less sure of the mean of several, and at another threshold.
        pixels: The photograph, as of `features_of`.
        probability: Of the first class, as of `features_of`.
        threshold: Of the first class.
        embedding: What the network's encoder makes of the photograph, (D,).

    Raises:
        InputError: The model needs an embedding, and there is none.
    """
    if model.familiar is not None and embedding is None:
        raise InputError(
            "the quality of a mask is estimated from the network's embedding, which the image was segmented without; "
            "calibrate the bundle again with dermseg calibrate"
        )
    z = model.standardise(features_of(pixels, probability, threshold), embedding)
    return model.rate(z, empty=not _mask(probability, threshold).any())


def features_of(pixels: NDArray[np.uint8], probability: NDArray[np.float32], threshold: float) -> Array:
    """The numbers that a prediction's worth is told from.

    Args:
        pixels: The photograph, RGB (H, W, 3), of any size; it is looked at on a copy of at most ``SIDE`` pixels.
        probability: Of the first class, (h, w) in [0, 1], at the network's size without the padding: enough to tell.
        threshold: Pixels with a higher probability belong to the mask.

    Returns:
        (F,), finite, in the order of ``FEATURES``; also of an empty mask.
    """
    mask = _mask(probability, threshold)
    small = _small(pixels)
    place = (small.shape[1], small.shape[0])
    lesion = cv2.resize(mask.view(np.uint8), place, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
    values = (*_of_probability(probability, mask, threshold), *_of_mask(mask), *_of_photograph(small, lesion))
    return np.array(values, np.float64)


def _mask(probability: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    return np.ascontiguousarray(probability > np.float32(threshold))


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _of_probability(probability: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float) -> Sequence[float]:
    p = probability.astype(np.float64)
    area, outline = int(mask.sum()), _outline(mask)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    entropy = -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped)).mean()
    uncertain = int(((p > UNCERTAIN[0]) & (p < UNCERTAIN[1])).sum())
    loose, strict = (p > max(threshold - STEP, 0.01)), (p > min(threshold + STEP, 0.99))
    return (
        entropy,
        math.log1p(uncertain / (1 + area)),
        math.log1p(uncertain / (1 + outline)),
        float(p[mask].mean()) if area else 0.0,
        float(p[~mask].mean()) if area < mask.size else 0.0,
        float(p.max()),
        float(np.minimum(p, mask).sum() / max(np.maximum(p, mask).sum(), 1e-6)),
        strict.sum() / max(int(loose.sum()), 1),  # a Jaccard index: the one mask lies in the other
    )


def _of_mask(mask: NDArray[np.bool_]) -> Sequence[float]:
    area, outline = int(mask.sum()), _outline(mask)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    points = cv2.findNonZero(mask.view(np.uint8))
    hull = cv2.contourArea(cv2.convexHull(points)) if area else 0.0
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return (
        math.sqrt(area / mask.size),
        4 * math.pi * area / max(outline, 1) ** 2,
        area / max(hull, area, 1),
        math.log(max(count - 1, 1)),
        int(stats[1:, cv2.CC_STAT_AREA].max(initial=0)) / max(area, 1),
        float(edge.mean()),
    )


def _outline(mask: NDArray[np.bool_]) -> float:
    """Length of all outlines, in pixels."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return float(sum(cv2.arcLength(contour, closed=True) for contour in contours))


def _of_photograph(pixels: NDArray[np.uint8], lesion: NDArray[np.bool_]) -> Sequence[float]:
    # In OpenCV throughout: numpy takes three times as long to reduce the short axis of colours.
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    red, green, blue = cv2.split(pixels)
    opponents = cv2.transform(pixels.astype(np.float32), np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32))
    # Hasler and Suesstrunk, 2003, Measuring colourfulness in natural images.
    (red_green, yellow_blue), (red_green_spread, yellow_blue_spread) = _moments(opponents)
    spread = math.hypot(red_green_spread, yellow_blue_spread)
    colourfulness = spread + 0.3 * math.hypot(red_green, yellow_blue)
    means, spreads = _moments(lab)
    inside = lesion.view(np.uint8)
    apart = np.zeros(3)
    if 0 < np.count_nonzero(inside) < inside.size:
        apart = np.subtract(cv2.mean(lab, 1 - inside), cv2.mean(lab, inside))[:3]
    return (
        *means,
        *spreads,
        math.log1p(_moments(cv2.Laplacian(grey, cv2.CV_32F))[1][0] ** 2),
        float((gradient < 0.5).mean()),
        float((cv2.max(cv2.max(red, green), blue) < 8).mean()),
        float((cv2.min(cv2.min(red, green), blue) > 247).mean()),
        math.log1p(colourfulness),
        float(vignette_mask(pixels).mean()),
        float(apart[0]),
        float(-apart[1]),
        float(-apart[2]),
    )


def _moments(picture: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel."""
    mean, spread = cv2.meanStdDev(picture)
    return mean.ravel().tolist(), spread.ravel().tolist()
