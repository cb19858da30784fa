"""Losses: against their formulas in numpy, and where the field's implementations fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dermseg.errors import RecipeError
from dermseg.training.losses import LOSSES, bce_loss, jaccard_loss, weighted_sum

torch.set_num_threads(1)

Array = NDArray[np.float64]

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


def numpy_bce(logits: Array, target: Array) -> float:
    """-t log p - (1 - t) log (1 - p), with log p = -log(1 + e^-x)."""
    return float((target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)).mean())


def numpy_jaccard(logits: Array, target: Array) -> float:
    losses = []
    for image_logits, image_target in zip(logits, target, strict=True):
        for x, t in zip(image_logits, image_target, strict=True):
            p = 1 / (1 + np.exp(-x))
            intersection = float((p * t).sum())
            losses.append(1 - (intersection + 1) / (float(p.sum()) + float(t.sum()) - intersection + 1))
    return float(np.mean(losses))


NUMPY = {"bce": numpy_bce, "jaccard": numpy_jaccard}


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
@given(shape=SHAPES, seed=st.integers(0, 2**32), soft=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_loss_is_its_formula(name: str, shape: tuple[int, int, int, int], seed: int, soft: bool) -> None:
    logits, target = drawn(shape, seed, soft)
    assert LOSSES[name](tensor(logits), tensor(target)).item() == pytest.approx(NUMPY[name](logits, target), rel=1e-4)


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
    assert LOSSES[name](-certain(blob()), blob()).item() > 0.95


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
        assert gradient.all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_false_alarm_on_an_empty_mask_is_pushed_down(name: str) -> None:
    """Where an implementation divides by an empty truth, its loss is constant there."""
    empty = torch.zeros(1, 1, 16, 16)
    costs = [LOSSES[name](torch.full_like(empty, x), empty).item() for x in (-8.0, -2.0, 0.0, 4.0)]
    assert costs == sorted(costs)
    assert costs[0] < 0.1
    assert costs[-1] > 0.9


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_logits_give_a_float32_loss(name: str) -> None:
    logits, target = drawn((2, 1, 32, 32), 0, soft=False)
    half = tensor(logits).bfloat16()
    loss = LOSSES[name](half, tensor(target))
    assert loss.dtype == torch.float32
    assert loss.item() == LOSSES[name](half.float(), tensor(target)).item()


def test_a_weighted_sum_is_one() -> None:
    logits, target = (tensor(values) for values in drawn((2, 2, 9, 9), 1, soft=True))
    expected = 0.5 * bce_loss(logits, target) + 2 * jaccard_loss(logits, target)
    assert weighted_sum({"bce": 0.5, "jaccard": 2})(logits, target).item() == pytest.approx(expected.item())
    assert weighted_sum({"jaccard": 1})(logits, target).item() == jaccard_loss(logits, target).item()


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        weighted_sum({"bce": 1, "dyce": 1})
    assert str(caught.value) == "there is no loss 'dyce'; choose from: bce, jaccard"


def test_no_loss_at_all_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        weighted_sum({})
    assert str(caught.value) == "the recipe names no loss; choose from: bce, jaccard"
