"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from dermseg.errors import RecipeError
from dermseg.training.config import OptimizerConfig, ScheduleConfig

STEP_GAMMA, EXP_GAMMA = 0.1, 0.95


def make_optimizer(network: nn.Module, settings: OptimizerConfig) -> Optimizer:
    """The optimizer of the network's parameters that are not frozen.

    Weight decay shrinks the weights directly in adamw and adabelief; in adam, sgd, rmsprop and adagrad it is an L2
    penalty, whose gradient passes through momentum and scaling like the loss's own.

    Args:
        network: Its part ``encoder`` learns at ``lr * encoder_lr``, the rest at ``lr``.
        settings: The recipe's ``optimizer``.
    """
    encoder: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (encoder if name.startswith("encoder.") else rest).append(parameter)
    parts = (("encoder", encoder, settings.lr * settings.encoder_lr), ("rest", rest, settings.lr))
    groups = [{"params": parameters, "lr": lr, "name": name} for name, parameters, lr in parts if parameters]
    lr, decay, momentum = settings.lr, settings.weight_decay, settings.momentum
    match settings.name:
        case "adam":
            return torch.optim.Adam(groups, lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(groups, lr, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(groups, lr, momentum=momentum, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, momentum=momentum, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr, weight_decay=decay)
        case "adabelief":
            from pytorch_optimizer import AdaBelief  # takes seconds to import

            return AdaBelief(groups, lr, weight_decay=decay)


def make_schedules(
    optimizer: Optimizer,
    settings: ScheduleConfig,
    *,
    epochs: int,
    total_steps: int,
    batches_per_epoch: int,
    monitor: str,
) -> list[dict[str, Any]]:
    """The schedules of a run: what ``configure_optimizers`` returns beside ``[optimizer]``.

    Warm-up of W steps takes the rate linearly from 1 / (W + 1) of where the schedule begins up to there. ``t_max`` is
    counted from the run's start, ``t_0`` and ``step_size`` from the end of warm-up. ``eta_min`` and ``max_lr`` are
    those of the optimizer's own rate; the encoder's keeps its share of it throughout.

    Args:
        optimizer: From ``make_optimizer``.
        settings: The recipe's ``schedule``.
        epochs: Of the whole run.
        total_steps: Optimizer steps of the whole run.
        batches_per_epoch: Batches of an epoch; more than its steps if gradients accumulate.
        monitor: The logged score that ``reduce_lr`` watches; higher is better.

    Raises:
        RecipeError: If the settings contradict each other or the length of the run.
    """
    lr = float(optimizer.defaults["lr"])
    check_schedule(settings, lr, epochs)
    warmup = int(settings.warmup * total_steps / epochs)
    match settings.name:
        case "none" if not warmup:
            return []
        case "reduce_lr":
            plateau = ReduceLROnPlateau(
                optimizer, mode="max", factor=settings.factor, patience=settings.patience, threshold=0
            )
            # Lightning steps a plateau of interval "epoch" after the epoch's checkpoint is written, so a resumed run
            # would never learn of that epoch's score; the last step of the epoch comes after validation and in time.
            watch = {"scheduler": plateau, "interval": "step", "frequency": batches_per_epoch, "monitor": monitor}
            return [*([_each_step(_warmup(optimizer, warmup))] if warmup else []), watch]
        case "onecycle":
            return [_each_step(_one_cycle(optimizer, settings.max_lr or lr, warmup, total_steps))]
        case _:
            shape = _shape(settings, settings.eta_min / lr, warmup, total_steps, total_steps / epochs)

            def factor(step: int) -> float:
                return (step + 1) / (warmup + 1) if step < warmup else shape(step - warmup)

            return [_each_step(LambdaLR(optimizer, factor))]


def check_schedule(settings: ScheduleConfig, lr: float, epochs: int) -> None:
    """Check a schedule against the optimizer's rate and the run's epochs.

    Raises:
        RecipeError: If the settings contradict each other or the length of the run.
    """
    if settings.warmup >= epochs:
        raise RecipeError(f"schedule.warmup is {settings.warmup:g} epochs in a run of {epochs}; make it shorter")
    if settings.name == "cosine" and settings.t_max is not None and settings.t_max <= settings.warmup:
        raise RecipeError(
            f"schedule.t_max is {settings.t_max:g} epochs, but schedule.warmup ends after {settings.warmup:g}; "
            "t_max counts from the run's start, so make it longer"
        )
    if settings.name in ("cosine", "cosine_restart") and settings.eta_min > lr:
        raise RecipeError(f"schedule.eta_min is {settings.eta_min:g}, above optimizer.lr, {lr:g}; make it lower")
    if settings.name == "onecycle" and settings.max_lr is not None and settings.max_lr < lr:
        raise RecipeError(
            f"schedule.max_lr is {settings.max_lr:g}, below optimizer.lr, {lr:g}; make it higher, or leave it out "
            "to have optimizer.lr as the highest rate"
        )


def _shape(
    settings: ScheduleConfig, lowest: float, warmup: int, total_steps: int, steps_per_epoch: float
) -> Callable[[int], float]:
    """The rate as a share of the optimizer's own, by the number of steps since warm-up."""

    def steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch))

    def half_cosine(step: int, length: int) -> float:
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(step, length) / length))

    match settings.name:
        case "cosine":
            end = total_steps if settings.t_max is None else steps(settings.t_max)
            return lambda step: half_cosine(step, max(1, end - warmup))
        case "cosine_restart":
            first = steps(settings.t_0)

            def restarting(step: int) -> float:
                length = first
                while step >= length:
                    step, length = step - length, length * settings.t_mult
                return half_cosine(step, length)

            return restarting
        case "step":
            size = steps(settings.step_size)
            drop = settings.gamma or STEP_GAMMA
            return lambda step: drop ** (step // size)
        case "exp":
            drop = settings.gamma or EXP_GAMMA
            return lambda step: float(drop ** (step / steps_per_epoch))
        case _:
            return lambda _: 1.0


def _one_cycle(optimizer: Optimizer, highest: float, warmup: int, total_steps: int) -> LRScheduler:
    """Up from 1/25 of the highest rate in 30 % of the steps, and down to nearly none; momentum goes the other way."""
    defaults = optimizer.defaults
    cycle = OneCycleLR(
        optimizer,
        max_lr=[highest * group["lr"] / defaults["lr"] for group in optimizer.param_groups],
        total_steps=total_steps - warmup,
        # torch would also give momentum to an optimizer that is set to have none.
        cycle_momentum="betas" in defaults or defaults.get("momentum", 0) > 0,
    )
    return SequentialLR(optimizer, [_warmup(optimizer, warmup), cycle], [warmup]) if warmup else cycle


def _warmup(optimizer: Optimizer, steps: int) -> LinearLR:
    return LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps)


def _each_step(scheduler: LRScheduler) -> dict[str, Any]:
    return {"scheduler": scheduler, "interval": "step"}
