"""Losses by name; each takes logits, and targets in [0, 1], both (B, K, H, W), and gives a scalar.

All compute in float32, under autocast too. By default a loss averages over images, so the mean of the losses of equal
shares of a batch, one a device, is the loss of the batch. With ``pooled`` it sums over the whole batch for each class
first, for classes that most images lack; a class that the batch lacks then costs its false positives.

Dice and Tversky are MONAI's, the Lovász hinge is kornia's. The others are ours, for what theirs cannot do: soft
targets (MONAI's focal loss of a target of 0.3 falls to 0 as the logit falls without end) and empty masks (MONAI's
Hausdorff loss is 0 for a full prediction of an empty truth).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dermseg.errors import RecipeError, choose_from
from dermseg.models.blocks import Outputs

Loss = Callable[[Tensor, Tensor], Tensor]

# Added to both terms of a ratio of areas, in pixels: the loss of an empty truth falls with its false positives, where
# MONAI's default of 1e-5 leaves it flat at 1.
SMOOTH = 1.0


def bce_loss(logits: Tensor, target: Tensor, *, positive_weight: float | None = None, balance: float = 0.0) -> Tensor:
    """Binary cross-entropy of each pixel and class of (B, K, H, W), averaged.

    An empty truth costs its false positives like any other pixels. ``positive_weight`` multiplies the foreground's
    share, above 1 for rare classes. ``balance`` multiplies each class's by a power of how rare it is in the batch, of
    background over foreground: at 0.5 by 10 where one pixel of a hundred is foreground, at 1 the two weigh the same.

    Example:
        >>> bce_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(0.6931)
    """
    logits, target = _wide(logits, target)
    factor = None if positive_weight is None else logits.new_tensor(positive_weight)
    if balance:
        shown = target.sum(dim=(0, 2, 3)) + SMOOTH
        rarity = ((target.numel() / target.shape[1] + 2 * SMOOTH - shown) / shown)[:, None, None] ** balance
        factor = rarity if factor is None else factor * rarity
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=factor)


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Cross-entropy of each pixel and class of (B, K, H, W) times its error to the power gamma, averaged.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; for soft targets the error is ``|p - t|``, as in
    Li et al., Generalized Focal Loss, NeurIPS 2020, so the minimum is at p = t. An empty truth costs its false
    positives like any other pixels. ``gamma`` says how much easy pixels fade, 0 is cross-entropy; ``alpha`` weighs the
    foreground, 1 - alpha the background, and None both by 1.

    Example:
        >>> focal_loss(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
        tensor(0.1733)
    """
    logits, target = _wide(logits, target)
    # A power below 1 has no finite gradient at 0.
    error = (logits.sigmoid() - target).abs().clamp(min=1e-6)
    loss = error**gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean()


def jaccard_loss(logits: Tensor, target: Tensor, *, pooled: bool = False) -> Tensor:
    """One minus the soft Jaccard index of each image and class of (B, K, H, W), averaged.

    The union is that of the L1 family, |p| + |t| - |p t|, so the minimum is at p = t for 0/1 targets. A mask that is
    empty in prediction and truth costs 0; one pixel is added to both terms, which keeps the gradient finite.

    Example:
        >>> jaccard_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]))
        tensor(0.5000)
    """
    logits, target = _wide(logits, target)
    axes = (0, 2, 3) if pooled else (2, 3)
    probability = logits.sigmoid()
    intersection = (probability * target).sum(dim=axes)
    union = probability.sum(dim=axes) + target.sum(dim=axes) - intersection
    return (1 - (intersection + SMOOTH) / (union + SMOOTH)).mean()


def dice_loss(logits: Tensor, target: Tensor, *, pooled: bool = False) -> Tensor:
    """One minus the soft Dice coefficient of each image and class of (B, K, H, W), averaged.

    Milletari et al., V-Net, 3DV 2016, with the intersection ``(|p| + |t| - |p - t|) / 2`` of Wang et al., Dice
    Semimetric Losses, MICCAI 2023: the minimum is at p = t for soft targets too. One pixel is added to both terms:
    an empty truth costs 0 without and almost 1 with many false positives.

    Example:
        >>> dice_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]))
        tensor(0.4000)
    """
    from monai.losses.dice import DiceLoss  # seconds to import

    dice = DiceLoss(sigmoid=True, soft_label=True, batch=pooled, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    loss: Tensor = dice(*_wide(logits, target))
    return loss


def tversky_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.7, beta: float = 0.3, pooled: bool = False
) -> Tensor:
    """One minus the Tversky index of each image and class of (B, K, H, W), averaged.

    Salehi et al., Tversky loss function for image segmentation, MLMI 2017. ``alpha`` weighs false negatives, ``beta``
    false positives; alpha above beta favours recall. Soft targets and empty masks as in ``dice_loss``.

    Example:
        >>> missed, truth = torch.full((1, 1, 1, 10), -99.0), torch.ones(1, 1, 1, 10)
        >>> tversky_loss(missed, truth)  # 1 - 1 / (0.7 * 10 + 1)
        tensor(0.8750)
    """
    return focal_tversky_loss(logits, target, alpha=alpha, beta=beta, gamma=1.0, pooled=pooled)


def focal_tversky_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.7, beta: float = 0.3, gamma: float = 0.75, pooled: bool = False
) -> Tensor:
    """The Tversky loss of each image and class of (B, K, H, W) to the power gamma, averaged.

    Abraham and Khan, A Novel Focal Tversky Loss Function, ISBI 2019, whose gamma of 4/3 is one over ours. Below 1 it
    keeps images that are almost right from fading. The rest as in ``tversky_loss``.

    Example:
        >>> missed, truth = torch.full((1, 1, 1, 10), -99.0), torch.ones(1, 1, 1, 10)
        >>> focal_tversky_loss(missed, truth)  # 0.875 ** 0.75
        tensor(0.9047)
    """
    from monai.losses.tversky import TverskyLoss  # seconds to import

    # MONAI's alpha weighs false positives.
    tversky = TverskyLoss(
        sigmoid=True,
        soft_label=True,
        alpha=beta,
        beta=alpha,
        batch=pooled,
        reduction="none",
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
    )
    losses: Tensor = tversky(*_wide(logits, target))
    # A power below 1 has no finite gradient at 0, and rounding can lead below it.
    return (losses.clamp(min=1e-7) ** gamma).mean()


def lovasz_loss(logits: Tensor, target: Tensor, *, pooled: bool = False) -> Tensor:
    """The Lovász hinge of the Jaccard loss of each image and class of (B, K, H, W), averaged.

    Berman et al., The Lovász-Softmax loss, CVPR 2018. It is 0 once every logit is on its side by 1, and has no upper
    bound. Targets are cut at one half: the hinge is about the decision. An empty truth costs one plus its largest
    logit, or 0 where that is negative.

    Example:
        >>> lovasz_loss(torch.tensor([[[[3.0, -3.0], [-3.0, -0.5]]]]), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]))
        tensor(0.2500)
    """
    from kornia.losses import lovasz_hinge_loss

    logits, target = _wide(logits, _cut(target))
    if pooled:  # kornia takes each image alone: a class of the batch becomes one tall image
        logits, target = (x.transpose(0, 1).flatten(1, 2)[None] for x in (logits, target))
    # It fails on some strides.
    loss: Tensor = lovasz_hinge_loss(logits.flatten(0, 1)[:, None].contiguous(), target.flatten(0, 1).contiguous())
    return loss


def boundary_loss(logits: Tensor, target: Tensor, *, exponent: float = 2.0) -> Tensor:
    """Squared error of each pixel of (B, K, H, W), weighed by its distances to the outlines of truth and prediction.

    The distance transform loss of Karimi and Salcudean, Reducing the Hausdorff Distance, IEEE TMI 2020. Distances are
    shares of the image's diagonal, to the power ``exponent``, and the weight is the mean of the two, so the loss is in
    [0, 1] at any size; an ordinary mistake costs some thousandths, so its weight in a sum is to be large. A mask
    without an outline, empty or full, is at distance 1 from every pixel: a full prediction of an empty truth costs 1.
    The distances are computed on the CPU, of masks cut at one half, and are constants to the gradient.

    Example:
        >>> boundary_loss(torch.full((1, 1, 8, 8), 99.0), torch.zeros(1, 1, 8, 8))
        tensor(1.)
    """
    logits, target = _wide(logits, target)
    probability = logits.sigmoid()
    distance = _distance(_cut(target)) ** exponent + _distance(_cut(probability)) ** exponent
    return ((probability - target) ** 2 * distance.to(logits) / 2).mean()


def bce_dice_loss(logits: Tensor, target: Tensor, *, pooled: bool = False) -> Tensor:
    """``bce_loss`` and ``dice_loss`` of (B, K, H, W), added; for other weights name the two.

    Example:
        >>> bce_dice_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]))
        tensor(1.0931)
    """
    return bce_loss(logits, target) + dice_loss(logits, target, pooled=pooled)


def combined_loss(logits: Tensor, target: Tensor, *, pooled: bool = False) -> Tensor:
    """``bce_loss``, ``dice_loss`` and ``focal_tversky_loss`` of (B, K, H, W), added; for other weights name the three.

    Example:
        >>> combined_loss(torch.full((1, 1, 2, 2), 99.0), torch.zeros(1, 1, 2, 2))  # 99 + 4 / 5 + (1.2 / 2.2) ** 0.75
        tensor(100.4347)
    """
    return bce_dice_loss(logits, target, pooled=pooled) + focal_tversky_loss(logits, target, pooled=pooled)


LOSSES: Mapping[str, Loss] = {
    "bce": bce_loss,
    "bce_dice": bce_dice_loss,
    "boundary": boundary_loss,
    "combined": combined_loss,
    "dice": dice_loss,
    "focal": focal_loss,
    "focal_tversky": focal_tversky_loss,
    "jaccard": jaccard_loss,
    "lovasz": lovasz_loss,
    "tversky": tversky_loss,
}
# The largest value of an option; the smallest is 0.
LARGEST = {
    "alpha": 1.0,
    "balance": 1.0,
    "beta": 1.0,
    "gamma": 10.0,
    "exponent": 10.0,
    "pooled": 1.0,
    "positive_weight": 1e6,
}


class WeightedSum:
    """The sum of named losses.

    Args:
        weights: Weight by name of ``LOSSES``, or its ``weight`` (1 if left out) and options of that loss.

    Attributes:
        names: Of the losses whose weight is not 0.

    Raises:
        RecipeError: If a name or an option does not exist, or a value does not fit.

    Example:
        >>> loss = WeightedSum({"bce": 0.5, "tversky": {"weight": 2, "alpha": 0.6, "beta": 0.4}})
        >>> loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))  # 0.5 * 0.6931 + 2 * (1 - 1 / 1.8)
        tensor(1.2355)
    """

    def __init__(self, weights: Mapping[str, float | Mapping[str, float]]) -> None:
        if not weights:
            raise RecipeError(f"the recipe names no loss; choose from: {', '.join(sorted(LOSSES))}")
        chosen = {name: _chosen(name, setting) for name, setting in weights.items()}
        self._chosen = {name: (weight, loss) for name, (weight, loss) in chosen.items() if weight}
        self.names = tuple(self._chosen)
        if not self.names:
            raise RecipeError(
                f"the weight of every loss is 0: {', '.join(weights)}; give at least one a weight above 0"
            )

    def terms(self, logits: Tensor, target: Tensor) -> Tensor:
        """Each loss of (B, K, H, W) times its weight, (T,), in the order of ``names``."""
        if logits.shape != target.shape:
            raise ValueError(f"logits of shape {tuple(logits.shape)} do not fit a target of {tuple(target.shape)}")
        return torch.stack([weight * loss(logits, target) for weight, loss in self._chosen.values()])

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Their sum."""
        return self.terms(logits, target).sum()


def deep_supervised(loss: Loss, weights: Sequence[float]) -> Callable[[Outputs | Tensor, Tensor], Tensor]:
    """The loss of a network's logits and, weighed, of its auxiliary outputs.

    Args:
        loss: Of one output: one number, or several (T,).
        weights: One for each auxiliary output, in their order; none for a network without. An output of another size
            than the target is resized to it.

    Raises:
        RecipeError: If a weight is negative or not finite or, at the first batch, if their number is wrong.

    Example:
        >>> outputs = Outputs(torch.zeros(1, 1, 4, 4), (torch.zeros(1, 1, 2, 2),))
        >>> deep_supervised(bce_loss, [0.5])(outputs, torch.ones(1, 1, 4, 4))
        tensor(1.0397)
    """
    for weight in weights:
        _check("a weight of deep_supervision", weight)

    def total(outputs: Outputs | Tensor, target: Tensor) -> Tensor:
        logits, auxiliary = outputs if isinstance(outputs, Outputs) else (outputs, ())
        if len(auxiliary) != len(weights):
            raise RecipeError(
                f"the number of weights in deep_supervision is {len(weights)}, but that of the network's auxiliary "
                f"outputs is {len(auxiliary)}; give one weight for each output"
            )
        result = loss(logits, target)
        for weight, extra in zip(weights, auxiliary, strict=True):
            if extra.shape[2:] != target.shape[2:]:
                extra = F.interpolate(extra.float(), size=target.shape[2:], mode="bilinear", align_corners=False)
            result = result + weight * loss(extra, target)
        return result

    return total


def _wide(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, or in float64 if the logits are."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), target.to(dtype)


def _cut(soft: Tensor) -> Tensor:
    return soft.detach() >= 0.5


def _distance(mask: Tensor) -> Tensor:
    """Distance of each pixel to the nearest one of the other kind, as a share of the diagonal; 1 where none is."""
    masks = mask.cpu().numpy().astype(np.uint8)
    distances = np.ones(masks.shape, np.float32)
    diagonal = math.hypot(*masks.shape[2:])
    for index in np.ndindex(masks.shape[:2]):
        inside = masks[index]
        if inside.min() < inside.max():
            both = [cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for side in (inside, 1 - inside)]
            distances[index] = (both[0] + both[1]) / diagonal
    return torch.from_numpy(distances)


def _chosen(name: str, setting: float | Mapping[str, float]) -> tuple[float, Loss]:
    """The weight of a loss, and the loss with its options."""
    if name not in LOSSES:
        raise RecipeError(f"there is no loss {name!r}; {choose_from(name, sorted(LOSSES))}")
    given = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
    weight = given.pop("weight", 1.0)
    _check(f"the weight of loss {name!r}", weight)
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option, value in given.items():
        if option not in known:
            raise RecipeError(
                f"loss {name!r} has no option {option!r}; {choose_from(option, ['weight', *sorted(known)])}"
            )
        _check(f"option {option!r} of loss {name!r}", value, LARGEST[option])
        if option == "pooled" and value not in (0, 1):
            raise RecipeError(f"option 'pooled' of loss {name!r} is {value}; expected 0 or 1")
    settled = known | given
    # Where these are 0 the loss is the same for every prediction.
    if settled.get("alpha") == settled.get("beta") == 0 or (name == "focal_tversky" and settled["gamma"] == 0):
        raise RecipeError(f"loss {name!r} is constant with these options: {given}; raise those that are 0")
    return weight, partial(LOSSES[name], **{o: bool(value) if o == "pooled" else value for o, value in given.items()})


def _check(what: str, value: float, largest: float = math.inf) -> None:
    if not (0 <= value <= largest and math.isfinite(value)):
        expected = "a finite number, 0 or more" if math.isinf(largest) else f"a number from 0 to {largest:g}"
        raise RecipeError(f"{what} is {value}; expected {expected}")
