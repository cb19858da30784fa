"""How likely it is that a class is there at all: told from its map, and calibrated on images with a truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

STRONGEST = 0.01
"""The share of an image's pixels that speaks for a class: smaller than most structures, larger than a speck."""


class Curve(BaseModel):
    """A logistic curve of ``evidence`` (Platt, 1999, Probabilistic Outputs for Support Vector Machines)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    slope: float = Field(ge=0)
    bias: float

    def __call__(self, evidence: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability, (...) in (0, 1), of evidence (...)."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.slope * evidence + self.bias, -50, 50))), np.float64)


class PresenceModel(BaseModel):
    """A curve for each class; fitted for one bundle, and of no use to another.

    Attributes:
        curves: By class.
        split: Of the images that it was fitted on, where that is known.
        images: How many those were.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    curves: dict[str, Curve]
    split: str | None = None
    images: int = Field(0, ge=0)

    def of(self, classes: Sequence[str], probabilities: NDArray[np.floating]) -> dict[str, float]:
        """How likely an image shows each class that has a curve, by name.

        Args:
            classes: Names of the maps.
            probabilities: (K, h, w) in [0, 1], without the padding around the image.
        """
        maps = zip(classes, probabilities, strict=True)
        return {name: float(self.curves[name](np.array(evidence(each)))) for name, each in maps if name in self.curves}


def evidence(probability: NDArray[np.floating]) -> float:
    """The logit of the mean of the strongest hundredth of a class's probabilities, (h, w) in [0, 1], one at least."""
    values = probability.ravel()
    count = max(1, round(STRONGEST * values.size))
    mean = float(np.partition(values, values.size - count)[-count:].mean(dtype=np.float64))
    mean = min(max(mean, 1e-6), 1 - 1e-6)
    return float(np.log(mean / (1 - mean)))


def fit(evidences: NDArray[np.float64], shown: NDArray[np.bool_]) -> Curve:
    """The curve under which images (n,) that show a class, and those that do not, are most likely.

    Targets are Platt's, a little within 0 and 1, so that classes that are told apart without error have a curve too.

    Args:
        evidences: Of each image.
        shown: Whether it shows the class.

    Raises:
        MissingExtraError: Without scipy.
    """
    from dermseg.errors import extra

    with extra("fitting the presence of a class", "evaluate"):
        from scipy.optimize import minimize
    positive = int(shown.sum())
    target = np.where(shown, (positive + 1) / (positive + 2), 1 / (len(shown) - positive + 2))

    def surprise(parameters: NDArray[np.float64]) -> float:
        logits = parameters[0] * evidences + parameters[1]
        return float((np.logaddexp(0, logits) - target * logits).mean())

    rate = float(target.mean())
    found = minimize(surprise, [0.5, np.log(rate / (1 - rate))], method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return Curve(slope=float(f"{found[0]:.5g}"), bias=float(f"{found[1]:.5g}"))
