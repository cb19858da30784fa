"""Losses by name; each takes logits, and targets in [0, 1], both (B, K, H, W), and gives a scalar."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from dermseg.errors import RecipeError

Loss = Callable[[Tensor, Tensor], Tensor]


def jaccard_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Jaccard index of each image and class, averaged.

    The union is that of the L1 family, |p| + |t| - |p t|, so the minimum is at p = t for 0/1 targets. A mask that is
    empty in prediction and truth costs 0; one pixel is added to both terms, which keeps the gradient finite.
    """
    probability = logits.float().sigmoid()
    intersection = (probability * target).sum(dim=(2, 3))
    union = probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) - intersection
    return (1 - (intersection + 1) / (union + 1)).mean()


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each pixel and class, averaged."""
    return F.binary_cross_entropy_with_logits(logits.float(), target)


LOSSES: Mapping[str, Loss] = {"bce": bce_loss, "jaccard": jaccard_loss}


def weighted_sum(weights: Mapping[str, float]) -> Loss:
    """The sum of named losses.

    Args:
        weights: Weight by name of ``LOSSES``.

    Raises:
        RecipeError: If a name does not exist.
    """
    if unknown := sorted(set(weights) - set(LOSSES)):
        raise RecipeError(f"there is no loss {unknown[0]!r}; choose from: {', '.join(sorted(LOSSES))}")
    if not weights:
        raise RecipeError(f"the recipe names no loss; choose from: {', '.join(sorted(LOSSES))}")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        terms = [weight * LOSSES[name](logits, target) for name, weight in weights.items()]
        return sum(terms[1:], start=terms[0])

    return loss
