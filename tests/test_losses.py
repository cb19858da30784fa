"""Losses: against their formulas in numpy, and where the field's implementations fail."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dermseg.errors import RecipeError
from dermseg.models.blocks import Outputs
from dermseg.training import losses
from dermseg.training.losses import (
    LOSSES,
    WeightedSum,
    bce_loss,
    boundary_loss,
    deep_supervised,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    jaccard_loss,
    lovasz_loss,
    tversky_loss,
)

torch.set_num_threads(1)

Array = NDArray[np.float64]

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
SEEDS = st.integers(0, 2**32)
POOLABLE = ("bce_dice", "combined", "dice", "focal_tversky", "jaccard", "lovasz", "tversky")


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def masks(logits: Array, target: Array) -> Iterator[tuple[Array, Array]]:
    """Each image and class, alone."""
    for index in np.ndindex(logits.shape[:2]):
        yield logits[index], target[index]


def pixel_bce(logits: Array, target: Array) -> Array:
    """-t log p - (1 - t) log (1 - p), with log p = -log(1 + e^-x)."""
    return target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)


def numpy_bce(logits: Array, target: Array) -> float:
    return float(pixel_bce(logits, target).mean())


def numpy_focal(logits: Array, target: Array) -> float:
    return float(((sigmoid(logits) - target) ** 2 * pixel_bce(logits, target)).mean())


def numpy_jaccard(logits: Array, target: Array) -> float:
    losses = []
    for x, t in masks(logits, target):
        p = sigmoid(x)
        intersection = float((p * t).sum())
        losses.append(1 - (intersection + 1) / (float(p.sum()) + float(t.sum()) - intersection + 1))
    return float(np.mean(losses))


def numpy_dice(logits: Array, target: Array) -> float:
    losses = []
    for x, t in masks(logits, target):
        p = sigmoid(x)
        losses.append(1 - (2 * float(np.minimum(p, t).sum()) + 1) / (float(p.sum()) + float(t.sum()) + 1))
    return float(np.mean(losses))


def numpy_focal_tversky(
    logits: Array, target: Array, missed: float = 0.7, false: float = 0.3, gamma: float = 0.75
) -> float:
    losses = []
    for x, t in masks(logits, target):
        p = sigmoid(x)
        hit = float(np.minimum(p, t).sum()) + 1
        cost = missed * float((t - p).clip(0).sum()) + false * float((p - t).clip(0).sum())
        losses.append(max(cost / (hit + cost), 1e-7) ** gamma)
    return float(np.mean(losses))


def numpy_tversky(logits: Array, target: Array) -> float:
    return numpy_focal_tversky(logits, target, gamma=1)


def numpy_lovasz(logits: Array, target: Array) -> float:
    """The extension's definition: the Jaccard loss of the set of pixels whose hinge exceeds h, integrated over h."""
    losses = []
    for x, t in masks(logits, target):
        truth = t >= 0.5
        hinge = np.maximum(0, 1 - x * np.where(truth, 1, -1))
        levels = np.unique(np.append(hinge, 0))
        total = 0.0
        for low, high in pairwise(levels):
            wrong = hinge > low
            total += (high - low) * int(wrong.sum()) / int((truth | wrong).sum())
        losses.append(total)
    return float(np.mean(losses))


def scipy_distance(mask: NDArray[np.bool_]) -> Array:
    if mask.all() or not mask.any():
        return np.ones(mask.shape)
    both: Array = distance_transform_edt(mask) + distance_transform_edt(~mask)
    return both / math.hypot(*mask.shape)


def numpy_boundary(logits: Array, target: Array) -> float:
    losses = []
    for x, t in masks(logits, target):
        weight = (scipy_distance(x >= 0) ** 2 + scipy_distance(t >= 0.5) ** 2) / 2
        losses.append(float((weight * (sigmoid(x) - t) ** 2).mean()))
    return float(np.mean(losses))


def numpy_bce_dice(logits: Array, target: Array) -> float:
    return numpy_bce(logits, target) + numpy_dice(logits, target)


def numpy_combined(logits: Array, target: Array) -> float:
    return numpy_bce_dice(logits, target) + numpy_focal_tversky(logits, target)


NUMPY = {
    "bce": numpy_bce,
    "bce_dice": numpy_bce_dice,
    "boundary": numpy_boundary,
    "combined": numpy_combined,
    "dice": numpy_dice,
    "focal": numpy_focal,
    "focal_tversky": numpy_focal_tversky,
    "jaccard": numpy_jaccard,
    "lovasz": numpy_lovasz,
    "tversky": numpy_tversky,
}


def drawn(shape: tuple[int, int, int, int], seed: int, soft: bool) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    target = rng.random(shape)
    return rng.normal(0, 3, shape), target if soft else (target < rng.random()).astype(float)


def tensor(values: Array) -> Tensor:
    return torch.from_numpy(values).float()


def certain(target: Tensor, logit: float = 30.0) -> Tensor:
    """Logits of a prediction that is sure of ``target``."""
    return (2 * target - 1) * logit


def blob(count: int = 2, classes: int = 1, side: int = 16) -> Tensor:
    target = torch.zeros(count, classes, side, side)
    target[..., 4:10, 3:12] = 1
    return target


def test_every_loss_has_an_oracle() -> None:
    assert LOSSES.keys() == NUMPY.keys()


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(shape=SHAPES, seed=SEEDS, soft=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_loss_is_its_formula(name: str, shape: tuple[int, int, int, int], seed: int, soft: bool) -> None:
    logits, target = drawn(shape, seed, soft)
    expected = NUMPY[name](logits, target)
    assert LOSSES[name](tensor(logits), tensor(target)).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert LOSSES[name](torch.from_numpy(logits), torch.from_numpy(target)).item() == pytest.approx(expected, rel=2e-6)


def test_jaccard_by_hand() -> None:
    """Even odds on 4 pixels of which 2 are lesion: intersection 1, union 2 + 2 - 1 = 3, so 1 - 2 / 4."""
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert jaccard_loss(torch.zeros_like(target), target).item() == pytest.approx(0.5)


def test_jaccard_weighs_small_and_large_lesions_alike() -> None:
    target = torch.zeros(2, 1, 32, 32)
    target[0, 0, 10:14, 10:14] = 1
    target[1] = 1
    missed = [certain(target), certain(target)]
    missed[0][0] = missed[1][1] = -30
    assert jaccard_loss(missed[0], target).item() == pytest.approx((1 - 1 / 17) / 2, abs=1e-5)
    assert jaccard_loss(missed[1], target).item() == pytest.approx((1 - 1 / 1025) / 2, abs=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize(
    "target", [blob(), torch.zeros(2, 3, 16, 16), torch.ones(1, 1, 16, 16)], ids=["blob", "empty", "full"]
)
def test_a_perfect_prediction_costs_nothing(name: str, target: Tensor) -> None:
    assert LOSSES[name](certain(target), target).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_opposite_prediction_costs_much(name: str) -> None:
    cost = LOSSES[name](-certain(blob()), blob()).item()
    if name == "boundary":  # every pixel is wrong by its whole weight, and all are near the outline
        assert cost == pytest.approx(numpy_boundary(np.full((1, 1, 16, 16), -99.0), np.zeros((1, 1, 16, 16))), abs=1)
        assert cost > 100 * LOSSES[name](certain(blob()), blob()).item()
    else:
        assert cost > 0.95


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_minimum_over_all_predictions_is_at_the_target(name: str) -> None:
    target = blob()
    logits = torch.zeros_like(target).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        (logits.grad,) = torch.autograd.grad(LOSSES[name](logits, target), logits)
        optimizer.step()
    assert torch.equal((logits > 0).float(), target)
    assert LOSSES[name](logits, target).item() < 0.02


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("kind", ["empty", "blob", "full"])
def test_gradients_are_finite_and_lead_to_the_target(name: str, scale: float, kind: str) -> None:
    target = {"empty": torch.zeros(2, 1, 16, 16), "blob": blob(), "full": torch.ones(2, 1, 16, 16)}[kind]
    logits = (scale * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, target), logits)
    assert torch.isfinite(gradient).all()
    assert (gradient * (2 * target - 1) <= 0).all()
    if scale < 1e4:
        # The hinge leaves pixels that are right alone, and an empty or full truth is about its worst pixel.
        assert gradient.any() if name == "lovasz" else gradient.all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_false_alarm_on_an_empty_mask_is_pushed_down(name: str) -> None:
    """Where an implementation divides by an empty truth, its loss is constant there."""
    empty = torch.zeros(1, 1, 16, 16)
    costs = [LOSSES[name](torch.full_like(empty, x), empty).item() for x in (-8.0, -2.0, 0.0, 4.0)]
    assert costs == sorted(costs)
    assert costs[0] < 0.15
    assert costs[-1] > 0.9


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_logits_give_a_float32_loss(name: str) -> None:
    logits, target = drawn((2, 1, 32, 32), 0, soft=False)
    half = tensor(logits).bfloat16()
    loss = LOSSES[name](half, tensor(target))
    assert loss.dtype == torch.float32
    assert loss.item() == LOSSES[name](half.float(), tensor(target)).item()


# --- what every loss keeps ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(half=st.integers(1, 3), classes=st.integers(1, 3), side=st.integers(1, 7), seed=SEEDS, soft=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_mean_over_halves_of_a_batch_is_the_loss_of_the_batch(
    name: str, half: int, classes: int, side: int, seed: int, soft: bool
) -> None:
    """What averaging over devices does."""
    logits, target = (torch.from_numpy(values) for values in drawn((2 * half, classes, side, side), seed, soft))
    first = LOSSES[name](logits[:half], target[:half]).item()
    second = LOSSES[name](logits[half:], target[half:]).item()
    assert LOSSES[name](logits, target).item() == pytest.approx((first + second) / 2, rel=2e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_classes_are_averaged_and_do_not_mix(name: str, shape: tuple[int, int, int, int], seed: int) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn(shape, seed, soft=False))
    alone = [LOSSES[name](logits[:, [k]], target[:, [k]]).item() for k in range(shape[1])]
    assert LOSSES[name](logits, target).item() == pytest.approx(np.mean(alone), rel=2e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_a_turned_batch_in_another_order_costs_the_same(name: str, shape: tuple[int, int, int, int], seed: int) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn(shape, seed, soft=True))
    turned = [values.flip(0).transpose(2, 3).flip(2) for values in (logits, target)]
    assert LOSSES[name](*turned).item() == pytest.approx(LOSSES[name](logits, target).item(), rel=2e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_gradient_is_that_of_the_loss(name: str, soft: bool) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn((2, 2, 5, 6), 3, soft))
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("side", [1, 9])
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_logits_cost_a_finite_amount(name: str, dtype: torch.dtype, side: int, extreme: float) -> None:
    logits = torch.full((2, 2, side, side), extreme, dtype=dtype, requires_grad=True)
    target = torch.zeros(2, 2, side, side)
    target[0, 0] = 1
    target[1, 1, 0, 0] = 0.4
    loss = LOSSES[name](logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert 0 < loss.item() < 3e4
    assert torch.isfinite(gradient).all()
    assert gradient.dtype == dtype


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_autocast_changes_nothing(name: str) -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 16, 16), 4, soft=True))
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[name](logits, target)
    assert inside.dtype == torch.float32
    assert inside.item() == LOSSES[name](logits, target).item()


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 9), (2, 2, 1, 1)])
def test_the_layout_in_memory_does_not_matter(name: str, shape: tuple[int, int, int, int]) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn(shape, 12, soft=True))
    expected = pytest.approx(LOSSES[name](logits, target).item(), rel=2e-6)
    last = logits.contiguous(memory_format=torch.channels_last)
    assert LOSSES[name](last, target).item() == expected
    turned = [values.transpose(2, 3).contiguous().transpose(2, 3) for values in (logits, target)]
    assert LOSSES[name](*turned).item() == expected
    swapped = [values.transpose(0, 1).contiguous().transpose(0, 1) for values in (logits, target)]
    assert LOSSES[name](*swapped).item() == expected


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_neither_input_is_changed(name: str) -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 8, 8), 5, soft=True))
    before = logits.clone(), target.clone()
    LOSSES[name](logits, target)
    assert torch.equal(logits, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize("name", ["bce", "bce_dice", "combined", "dice", "focal", "focal_tversky", "tversky"])
@given(shape=SHAPES, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_minimum_for_a_soft_target_is_the_target(name: str, shape: tuple[int, int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.uniform(0.05, 0.95, shape))
    best = LOSSES[name](torch.logit(target), target).item()
    assert best <= LOSSES[name](torch.logit(target) + torch.from_numpy(rng.normal(0, 0.5, shape)), target).item()
    assert best <= LOSSES[name](torch.logit(target.round(), eps=1e-4), target).item()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_example_of_a_loss_runs(name: str) -> None:
    (examples,) = doctest.DocTestFinder(recurse=False).find(LOSSES[name], globs=vars(losses))
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0
    assert "(B, K, H, W)" in (LOSSES[name].__doc__ or "")


def test_the_examples_of_the_module_run() -> None:
    result = doctest.testmod(losses)
    assert result.failed == 0
    assert result.attempted > len(LOSSES)


# --- empty masks ----------------------------------------------------------------------------------

FULL_ON_EMPTY = {
    "bce": 30,
    "bce_dice": 30 + 1 - 1 / 257,
    "boundary": 1,
    "combined": 30 + 1 - 1 / 257 + (1 - 1 / (0.3 * 256 + 1)) ** 0.75,
    "dice": 1 - 1 / 257,
    "focal": 30,
    "focal_tversky": (1 - 1 / (0.3 * 256 + 1)) ** 0.75,
    "jaccard": 1 - 1 / 257,
    "lovasz": 31,
    "tversky": 1 - 1 / (0.3 * 256 + 1),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_full_prediction_of_an_empty_truth_costs_about_the_most(name: str) -> None:
    empty = torch.zeros(2, 1, 16, 16)
    full = torch.full_like(empty, 30.0)
    assert LOSSES[name](full, empty).item() == pytest.approx(FULL_ON_EMPTY[name], rel=1e-5)
    assert LOSSES[name](-full, empty).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_fewer_false_positives_on_an_empty_truth_cost_less(name: str) -> None:
    empty = torch.zeros(1, 1, 16, 16)
    costs = []
    for side in (16, 12, 8, 4, 0):
        logits = torch.full_like(empty, -30)
        logits[..., :side, :side] = 30
        costs.append(LOSSES[name](logits, empty).item())
    assert costs == sorted(costs, reverse=True)
    if name != "lovasz":  # the largest logit decides
        assert len(set(costs)) == 5


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_empty_mask_among_others_adds_its_own_loss(name: str) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn((2, 1, 8, 8), 6, soft=False))
    target[1] = 0
    alone = [LOSSES[name](logits[[i]], target[[i]]).item() for i in range(2)]
    assert LOSSES[name](logits, target).item() == pytest.approx(np.mean(alone), rel=2e-6)


# --- single losses --------------------------------------------------------------------------------


@given(shape=SHAPES, seed=SEEDS, soft=st.booleans())
@settings(max_examples=30, deadline=None)
def test_jaccard_has_the_numerics_that_trained_the_shipped_model(
    shape: tuple[int, int, int, int], seed: int, soft: bool
) -> None:
    """To the last bit, and so has its gradient."""
    logits, target = (tensor(values) for values in drawn(shape, seed, soft))
    logits.requires_grad_()
    probability = logits.float().sigmoid()
    intersection = (probability * target).sum(dim=(2, 3))
    union = probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) - intersection
    expected = (1 - (intersection + 1) / (union + 1)).mean()
    loss = jaccard_loss(logits, target)
    assert torch.equal(loss, expected)
    assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])
    assert torch.equal(bce_loss(logits, target), F.binary_cross_entropy_with_logits(logits.float(), target))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_bce_weighs_a_class_by_how_rare_it_is_in_the_batch(balance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2, 40, 40, generator=generator)
    target = (torch.rand(3, 2, 40, 40, generator=generator) < torch.tensor([0.3, 0.002])[:, None, None]).float()
    terms = []
    for place in range(2):
        x, t = logits[:, place].double(), target[:, place].double()
        weight = ((1 - t).sum() + 1) / (t.sum() + 1)
        p = x.sigmoid()
        terms.append((-(weight**balance) * t * p.log() - (1 - t) * (1 - p).log()).mean())
    assert bce_loss(logits, target, balance=balance).item() == pytest.approx(float(sum(terms)) / 2, rel=1e-5)
    doubled = bce_loss(logits, target, balance=balance, positive_weight=2.0)
    assert doubled > bce_loss(logits, target, balance=balance)


def test_balanced_bce_of_a_class_that_is_nowhere_or_everywhere_is_finite() -> None:
    target = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)], dim=1)
    assert bce_loss(torch.full_like(target, 3.0), target, balance=1.0).isfinite()


def test_bce_weighs_the_foreground() -> None:
    target = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    loss = bce_loss(torch.zeros_like(target), target, positive_weight=3.0)
    assert loss.item() == pytest.approx((3 + 1 + 1 + 1) * math.log(2) / 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
def test_focal_is_that_of_monai_for_hard_targets(gamma: float, alpha: float | None) -> None:
    from monai.losses.focal_loss import FocalLoss

    logits, target = (tensor(values) for values in drawn((2, 3, 16, 16), 7, soft=False))
    expected = FocalLoss(gamma=gamma, alpha=alpha)(logits, target).item()
    assert focal_loss(logits, target, gamma=gamma, alpha=alpha).item() == pytest.approx(expected, rel=1e-5)


def test_focal_of_no_gamma_is_cross_entropy() -> None:
    logits, target = (tensor(values) for values in drawn((2, 3, 16, 16), 8, soft=True))
    assert focal_loss(logits, target, gamma=0.0).item() == pytest.approx(bce_loss(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_focal_of_a_small_gamma_has_a_finite_gradient_where_the_error_is_0(extreme: float) -> None:
    logits = torch.full((1, 1, 1, 2), extreme, requires_grad=True)
    (gradient,) = torch.autograd.grad(focal_loss(logits, torch.tensor([[[[0.0, 1.0]]]]), gamma=0.5), logits)
    assert torch.isfinite(gradient).all()


def test_focal_by_monai_has_no_minimum_at_a_soft_target() -> None:
    """Why ours is not theirs; if this fails, theirs may do."""
    from monai.losses.focal_loss import FocalLoss

    target = torch.full((1, 1, 1, 1), 0.3)
    right, low = torch.logit(target), torch.full_like(target, -30.0)
    assert FocalLoss()(low, target) < 0.01 * FocalLoss()(right, target)
    assert focal_loss(right, target) < 1e-6 < focal_loss(low, target)


def test_dice_by_hand() -> None:
    """Sure of 3 pixels of which 2 are among the truth's 4: 1 - (2 * 2 + 1) / (3 + 4 + 1)."""
    target = torch.tensor([[[[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]]])
    predicted = torch.tensor([[[[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]]]])
    assert dice_loss(certain(predicted), target).item() == pytest.approx(1 - 5 / 8)


def test_alpha_weighs_false_negatives_and_beta_false_positives() -> None:
    half = torch.zeros(1, 1, 4, 5)
    half[..., :2, :] = 1
    nothing, everything = torch.full_like(half, -30), torch.full_like(half, 30)
    for alpha, beta in ((0.7, 0.3), (0.2, 0.9)):
        missed = tversky_loss(nothing, half, alpha=alpha, beta=beta).item()
        false = tversky_loss(everything, half, alpha=alpha, beta=beta).item()
        assert missed == pytest.approx(1 - 1 / (10 * alpha + 1))
        assert false == pytest.approx(1 - 11 / (10 + 10 * beta + 1))
    # The defaults keep false negatives down.
    smaller, larger = half.clone(), half.clone()
    smaller[..., 1, :], larger[..., 2, :] = 0, 1
    assert tversky_loss(certain(smaller), half) > tversky_loss(certain(larger), half)
    assert focal_tversky_loss(certain(smaller), half) > focal_tversky_loss(certain(larger), half)


@given(shape=SHAPES, seed=SEEDS, alpha=st.floats(0.1, 1), beta=st.floats(0, 1), gamma=st.floats(0.3, 3))
@settings(max_examples=30, deadline=None)
def test_focal_tversky_with_options(
    shape: tuple[int, int, int, int], seed: int, alpha: float, beta: float, gamma: float
) -> None:
    logits, target = drawn(shape, seed, soft=True)
    loss = focal_tversky_loss(
        torch.from_numpy(logits), torch.from_numpy(target), alpha=alpha, beta=beta, gamma=gamma
    ).item()
    assert loss == pytest.approx(numpy_focal_tversky(logits, target, alpha, beta, gamma), rel=1e-5)


def test_focal_tversky_of_one_image_is_the_power_of_its_tversky_loss() -> None:
    logits, target = (tensor(values) for values in drawn((1, 1, 9, 9), 9, soft=False))
    power = tversky_loss(logits, target).item() ** 0.75
    assert focal_tversky_loss(logits, target).item() == pytest.approx(power, rel=1e-5)
    assert focal_tversky_loss(logits, target, gamma=1.0).item() == tversky_loss(logits, target).item()


def test_lovasz_of_a_hard_prediction_is_twice_its_jaccard_loss() -> None:
    """Logits of 1 and -1 are wrong by a hinge of 2 or by none."""
    target = torch.tensor([[[[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]]])
    predicted = torch.tensor([[[[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]]]])
    assert lovasz_loss(certain(predicted, 1), target).item() == pytest.approx(2 * (1 - 2 / 5))


def test_lovasz_and_boundary_cut_soft_targets_at_one_half() -> None:
    target = torch.tensor([[[[0.0, 0.49, 0.5, 1.0]]]])
    logits = torch.tensor([[[[-2.0, -2.0, 2.0, 2.0]]]])
    assert lovasz_loss(logits, target).item() == 0
    assert lovasz_loss(-logits, target).item() > 2
    weight = torch.tensor([2.0, 1.0, 1.0, 2.0]) ** 2 / (1 + 16)
    expected = (weight * (logits.sigmoid() - target) ** 2).mean().item()
    assert boundary_loss(logits, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_boundary_is_that_of_monai_where_masks_have_outlines(exponent: float) -> None:
    """But for the distances, which theirs has in pixels, and the factor of a mean of two."""
    from monai.losses.hausdorff_loss import HausdorffDTLoss

    logits, target = (tensor(values) for values in drawn((3, 2, 9, 12), 10, soft=False))
    target[..., 0, 0], target[..., 1, 0], logits[..., 0, 0], logits[..., 1, 0] = 0, 1, -1, 1
    theirs = HausdorffDTLoss(alpha=exponent, include_background=True, sigmoid=True)(logits, target).item()
    expected = theirs / 2 / math.hypot(9, 12) ** exponent
    assert boundary_loss(logits, target, exponent=exponent).item() == pytest.approx(expected, rel=1e-4)


def test_boundary_by_monai_is_blind_to_a_full_prediction_of_an_empty_truth() -> None:
    """Why ours is not theirs; if this fails, theirs may do."""
    from monai.losses.hausdorff_loss import HausdorffDTLoss

    empty = torch.zeros(1, 1, 8, 8)
    full = torch.full_like(empty, 30.0)
    assert HausdorffDTLoss(include_background=True, sigmoid=True)(full, empty).item() == 0
    assert boundary_loss(full, empty).item() == 1


def test_boundary_costs_more_the_farther_a_mistake_is() -> None:
    target = torch.zeros(1, 1, 32, 32)
    target[..., :8, :8] = 1
    costs = []
    for place in (8, 16, 30):
        predicted = target.clone()
        predicted[..., place, place] = 1
        costs.append(boundary_loss(certain(predicted), target).item())
    assert costs == sorted(costs)
    assert costs[-1] > 5 * costs[0]


def test_boundary_does_not_depend_on_the_size_of_the_picture() -> None:
    small, large = (torch.zeros(1, 1, side, side) for side in (128, 512))
    small[..., 32:96, 32:96], large[..., 128:384, 128:384] = 1, 1
    costs = [boundary_loss(certain(mask.roll(mask.shape[3] // 8, 3)), mask).item() for mask in (small, large)]
    assert costs[0] == pytest.approx(costs[1], rel=0.1)


# --- pooled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POOLABLE)
@given(shape=SHAPES, seed=SEEDS, soft=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_pooled_batch_is_one_tall_image(name: str, shape: tuple[int, int, int, int], seed: int, soft: bool) -> None:
    logits, target = (torch.from_numpy(values) for values in drawn(shape, seed, soft))
    tall = [torch.cat(list(values), dim=1)[None] for values in (logits, target)]
    pooled = WeightedSum({name: {"pooled": 1}})(logits, target).item()
    assert pooled == pytest.approx(LOSSES[name](*tall).item(), rel=2e-6)
    assert WeightedSum({name: {"pooled": 0}})(logits, target).item() == LOSSES[name](logits, target).item()


@pytest.mark.parametrize("name", POOLABLE)
def test_a_class_that_the_batch_lacks_costs_its_false_positives(name: str) -> None:
    loss = WeightedSum({name: {"pooled": 1}})
    target = torch.cat([blob(), torch.zeros(2, 1, 16, 16)], dim=1)
    right = certain(target)
    assert loss(right, target).item() == pytest.approx(0, abs=1e-5)
    costs = []
    for side in (1, 4, 16):
        wrong = right.clone()
        wrong[0, 1, :side, :side] = 1
        wrong.requires_grad_()
        costs.append(loss(wrong, target).item())
        (gradient,) = torch.autograd.grad(loss(wrong, target), wrong)
        assert torch.isfinite(gradient).all()
        assert (gradient[0, 1, :side, :side] >= 0).all()
        assert gradient[0, 1, :side, :side].any()
    assert costs == sorted(costs)
    assert costs[0] > 0


def test_pooling_lets_a_rare_class_outweigh_its_empty_images() -> None:
    """One of eight images has the class and it is missed; a per-image mean hides that."""
    target = torch.zeros(8, 1, 16, 16)
    target[0, 0, 4:8, 4:8] = 1
    missed = torch.full_like(target, -30)
    assert dice_loss(missed, target).item() == pytest.approx((1 - 1 / 17) / 8, rel=1e-5)
    assert dice_loss(missed, target, pooled=True).item() == pytest.approx(1 - 1 / 17, rel=1e-5)


# --- the weighted sum -----------------------------------------------------------------------------


def test_a_weighted_sum_is_one() -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 9, 9), 1, soft=True))
    expected = 0.5 * bce_loss(logits, target) + 2 * jaccard_loss(logits, target)
    assert WeightedSum({"bce": 0.5, "jaccard": 2})(logits, target).item() == pytest.approx(expected.item())
    assert WeightedSum({"jaccard": 1})(logits, target).item() == jaccard_loss(logits, target).item()
    assert WeightedSum({"jaccard": {}})(logits, target).item() == jaccard_loss(logits, target).item()
    assert WeightedSum({"jaccard": 1, "bce": 0})(logits, target).item() == jaccard_loss(logits, target).item()


def test_the_terms_of_a_sum_are_its_weighed_losses_over_all_outputs() -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 9, 9), 1, soft=True))
    loss = WeightedSum({"jaccard": 2, "dice": 0, "bce": 0.5})
    assert loss.names == ("jaccard", "bce")
    terms = torch.stack([2 * jaccard_loss(logits, target), 0.5 * bce_loss(logits, target)])
    assert loss.terms(logits, target).tolist() == pytest.approx(terms.tolist())
    supervised = deep_supervised(loss.terms, [0.25])(Outputs(logits, (logits,)), target)
    assert supervised.tolist() == pytest.approx((1.25 * terms).tolist())


@given(weights=st.dictionaries(st.sampled_from(sorted(LOSSES)), st.floats(0.01, 100), min_size=1), seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_any_losses_can_be_summed(weights: dict[str, float], seed: int) -> None:
    logits, target = drawn((2, 2, 5, 5), seed, soft=False)
    expected = sum(weight * NUMPY[name](logits, target) for name, weight in weights.items())
    loss = WeightedSum(weights)(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_loss_takes_its_options_from_the_recipe() -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 9, 9), 2, soft=True))
    loss = WeightedSum({"bce": 1.0, "focal_tversky": {"weight": 3, "alpha": 0.6, "beta": 0.4, "gamma": 0.5}})
    named = focal_tversky_loss(logits, target, alpha=0.6, beta=0.4, gamma=0.5)
    assert loss(logits, target).item() == pytest.approx((bce_loss(logits, target) + 3 * named).item())


OPTIONS = [
    *((name, "pooled", 1.0) for name in POOLABLE),
    ("bce", "positive_weight", 4.0),
    ("bce", "balance", 0.5),
    ("boundary", "exponent", 1.0),
    ("focal", "alpha", 0.3),
    ("focal", "gamma", 1.0),
    ("focal_tversky", "alpha", 0.5),
    ("focal_tversky", "beta", 0.5),
    ("focal_tversky", "gamma", 1.0),
    ("tversky", "alpha", 0.5),
    ("tversky", "beta", 0.5),
]


@pytest.mark.parametrize(("name", "option", "value"), OPTIONS)
def test_every_option_changes_its_loss(name: str, option: str, value: float) -> None:
    logits, target = (tensor(values) for values in drawn((3, 2, 9, 9), 11, soft=False))
    target[0] = 0
    with_option = WeightedSum({name: {option: value}})(logits, target).item()
    assert with_option != pytest.approx(LOSSES[name](logits, target).item(), rel=1e-3)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        WeightedSum({"bce": 1, "dyce": 1})
    assert (
        str(caught.value) == f"there is no loss 'dyce'; did you mean 'dice'? Choose from: {', '.join(sorted(LOSSES))}"
    )


@pytest.mark.parametrize(
    ("wrong", "closest"), [("lovasz_hinge", "lovasz"), ("iou_jaccard", "jaccard"), ("tversky_focal", "tversky")]
)
def test_the_closest_loss_is_named(wrong: str, closest: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{closest}'"):
        WeightedSum({wrong: 1})


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        WeightedSum({})
    assert str(caught.value) == f"the recipe names no loss; choose from: {', '.join(sorted(LOSSES))}"


REFUSED: list[tuple[dict[str, float | Mapping[str, float]], str]] = [
    ({"": 1}, "there is no loss ''; did you mean "),
    (
        {"focal": {"gama": 2}},
        "loss 'focal' has no option 'gama'; did you mean 'gamma'? Choose from: weight, alpha, gamma",
    ),
    (
        {"bce": {"pooled": 1}},
        "loss 'bce' has no option 'pooled'; did you mean 'balance'? Choose from: weight, balance, positive_weight",
    ),
    ({"bce": -1}, "the weight of loss 'bce' is -1; expected a finite number, 0 or more"),
    ({"bce": math.nan}, "the weight of loss 'bce' is nan; expected a finite number, 0 or more"),
    ({"dice": {"weight": math.inf}}, "the weight of loss 'dice' is inf; expected a finite number, 0 or more"),
    ({"bce": 0, "dice": 0.0}, "the weight of every loss is 0: bce, dice; give at least one a weight above 0"),
    ({"tversky": {"alpha": -0.1}}, "option 'alpha' of loss 'tversky' is -0.1; expected a number from 0 to 1"),
    ({"focal": {"alpha": 2}}, "option 'alpha' of loss 'focal' is 2; expected a number from 0 to 1"),
    ({"focal": {"gamma": math.nan}}, "option 'gamma' of loss 'focal' is nan; expected a number from 0 to 10"),
    (
        {"bce": {"positive_weight": math.inf}},
        "option 'positive_weight' of loss 'bce' is inf; expected a number from 0 to 1e+06",
    ),
    ({"dice": {"pooled": 0.5}}, "option 'pooled' of loss 'dice' is 0.5; expected 0 or 1"),
    (
        {"tversky": {"alpha": 0, "beta": 0}},
        "loss 'tversky' is constant with these options: {'alpha': 0, 'beta': 0}; raise those that are 0",
    ),
    (
        {"focal_tversky": {"gamma": 0}},
        "loss 'focal_tversky' is constant with these options: {'gamma': 0}; raise those that are 0",
    ),
]


@pytest.mark.parametrize(("weights", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_fit_is_refused(weights: dict[str, float | Mapping[str, float]], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        WeightedSum(weights)
    assert str(caught.value).startswith(message)


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(2, 5, 8, 8\) do not fit a target of \(2, 1, 8, 8\)"):
        WeightedSum({"jaccard": 1})(torch.zeros(2, 5, 8, 8), torch.zeros(2, 1, 8, 8))


def test_the_losses_of_the_shipped_recipe_need_not_load_monai() -> None:
    code = (
        "import sys, torch; from dermseg.training.losses import WeightedSum\n"
        "WeightedSum({'bce': 1, 'jaccard': 1})(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))\n"
        "sys.exit('monai' in sys.modules or 'kornia' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- deep supervision -----------------------------------------------------------------------------


def test_auxiliary_outputs_add_their_weighed_losses() -> None:
    target = blob()
    logits, first, second = (tensor(drawn((2, 1, 16, 16), seed, soft=False)[0]) for seed in range(3))
    loss = deep_supervised(jaccard_loss, (0.8, 0.4))(Outputs(logits, (first, second)), target)
    expected = jaccard_loss(logits, target) + 0.8 * jaccard_loss(first, target) + 0.4 * jaccard_loss(second, target)
    assert loss.item() == pytest.approx(expected.item())


def test_a_network_without_auxiliary_outputs_has_its_loss_alone() -> None:
    logits, target = torch.zeros(2, 1, 16, 16), blob()
    loss = deep_supervised(jaccard_loss, ())
    assert loss(logits, target).item() == jaccard_loss(logits, target).item()
    assert loss(Outputs(logits, ()), target).item() == jaccard_loss(logits, target).item()


def test_a_smaller_auxiliary_output_is_resized() -> None:
    """Halves side by side stay so, and the gradient comes back to the small output."""
    target = torch.zeros(1, 1, 8, 8)
    target[..., 4:] = 1
    small = torch.tensor([[[[-1.07, 1.31], [-0.93, 0.89]]]], dtype=torch.bfloat16, requires_grad=True)
    total = deep_supervised(bce_loss, [1.0])(Outputs(certain(target), (small,)), target)
    enlarged = F.interpolate(small.float(), size=(8, 8), mode="bilinear", align_corners=False)
    assert total.item() == pytest.approx(bce_loss(enlarged, target).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(total, small)
    assert gradient.shape == small.shape
    assert (gradient.sign() == torch.tensor([1.0, -1.0])).all()


@pytest.mark.parametrize(("weights", "outputs"), [((), 1), ((0.5, 0.5), 1), ((0.5,), 0), ((0.4,), 2)])
def test_another_number_of_weights_than_outputs_is_refused(weights: tuple[float, ...], outputs: int) -> None:
    target = blob()
    given_outputs = Outputs(torch.zeros_like(target), (torch.zeros_like(target),) * outputs)
    with pytest.raises(RecipeError) as caught:
        deep_supervised(bce_loss, weights)(given_outputs, target)
    assert str(caught.value) == (
        f"the number of weights in deep_supervision is {len(weights)}, but that of the network's auxiliary outputs "
        f"is {outputs}; give one weight for each output"
    )


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_of_deep_supervision_that_does_not_fit_is_refused(weight: float) -> None:
    with pytest.raises(RecipeError) as caught:
        deep_supervised(bce_loss, (0.8, weight))
    assert str(caught.value) == f"a weight of deep_supervision is {weight}; expected a finite number, 0 or more"
