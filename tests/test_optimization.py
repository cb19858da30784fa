"""Optimizers against their published updates; schedules against closed forms, in a real Trainer, and resumed."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from dermseg.errors import RecipeError
from dermseg.training.config import OptimizerConfig, ScheduleConfig
from dermseg.training.module import freeze
from dermseg.training.optimization import make_optimizer, make_schedules

torch.set_num_threads(1)

Array = NDArray[np.float64]

NAMES = ("adam", "adamw", "sgd", "rmsprop", "adabelief", "adagrad")
EPOCHS, BATCHES = 6, 5
LR, ENCODER = 0.1, 0.25
SCORES = (0.5, 0.6, 0.6, 0.55, 0.6, 0.5)  # epochs 2 to 5 bring nothing better

SCHEDULES: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "none, warm-up": {"name": "none", "warmup": 1.5},
    "cosine": {"name": "cosine"},
    "cosine, warm-up": {"name": "cosine", "warmup": 0.5},
    "cosine, t_max": {"name": "cosine", "warmup": 1.0, "t_max": 4.0, "eta_min": 0.01},
    "cosine_restart": {"name": "cosine_restart", "warmup": 0.7, "t_0": 1.0, "t_mult": 2, "eta_min": 0.02},
    "cosine_restart, equal": {"name": "cosine_restart", "t_0": 1.4, "t_mult": 1},
    "reduce_lr": {"name": "reduce_lr", "patience": 1, "factor": 0.5},
    "reduce_lr, warm-up": {"name": "reduce_lr", "patience": 0, "factor": 0.5, "warmup": 2.5},
    "step": {"name": "step", "step_size": 2.0, "gamma": 0.3, "warmup": 0.5},
    "exp": {"name": "exp", "gamma": 0.8, "warmup": 1.0},
    "onecycle": {"name": "onecycle", "max_lr": 0.3},
    "onecycle, warm-up": {"name": "onecycle", "warmup": 1.0},
}


class StopError(Exception):
    """What interrupts a run in these tests."""


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(encoder=nn.Linear(3, 2), head=nn.Linear(2, 1)))


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert bool(torch.isfinite(a).all())
        assert torch.equal(a, b)


def config(name: str = "adamw", **settings: Any) -> OptimizerConfig:
    return OptimizerConfig(name=cast(Any, name), **settings)


def schedules(
    optimizer: Optimizer, settings: ScheduleConfig, *, epochs: int = EPOCHS, steps: int = EPOCHS * BATCHES
) -> list[dict[str, Any]]:
    return make_schedules(
        optimizer, settings, epochs=epochs, total_steps=steps, batches_per_epoch=BATCHES, monitor="tune/score"
    )


# --- optimizers: the groups


def rates(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", NAMES)
def test_encoder_has_its_own_rate(name: str) -> None:
    net = network()
    optimizer = make_optimizer(net, config(name, lr=LR, encoder_lr=ENCODER, weight_decay=0.03))
    assert rates(optimizer) == [LR * ENCODER, LR]
    for group, part in zip(optimizer.param_groups, net, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]
        assert group["weight_decay"] == 0.03
        assert group.get("momentum", 0.9) == 0.9


@pytest.mark.parametrize(("frozen", "left"), [("encoder", [LR]), ("head", [LR * ENCODER])])
def test_frozen_parts_have_no_group(frozen: str, left: list[float]) -> None:
    net = network()
    net.get_submodule(frozen).requires_grad_(False)
    optimizer = make_optimizer(net, config(lr=LR, encoder_lr=ENCODER))
    assert rates(optimizer) == left
    assert all(p.requires_grad for group in optimizer.param_groups for p in group["params"])


def test_a_network_without_encoder_has_one_group() -> None:
    assert rates(make_optimizer(nn.Linear(2, 2), config(lr=LR, encoder_lr=ENCODER))) == [LR]


def test_a_frozen_network_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^the recipe freezes the whole network.*shorten freeze$"):
        freeze(network(), ("encoder", "head"))


# --- optimizers: the updates

START = np.array([1.0, -2.0, 0.5])
GRADIENTS = [np.array([0.3, -0.1, 2.0]), np.array([-0.2, -0.4, 1.0]), np.array([0.1, 0.0, -0.5])]


def updated(settings: OptimizerConfig) -> Array:
    """The weights after three steps with known gradients."""
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = make_optimizer(holder, settings)
    for gradient in GRADIENTS:
        holder.weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return cast(Tensor, holder.weight).detach().numpy()


def by_sgd(lr: float, decay: float, momentum: float) -> Array:
    x, velocity = START, np.zeros(3)
    for g in GRADIENTS:
        velocity = momentum * velocity + (g + decay * x)
        x = x - lr * velocity
    return x


def by_rmsprop(lr: float, decay: float, momentum: float) -> Array:
    x, velocity, square = START, np.zeros(3), np.zeros(3)
    for g in GRADIENTS:
        g = g + decay * x
        square = 0.99 * square + 0.01 * g**2
        velocity = momentum * velocity + g / (np.sqrt(square) + 1e-8)
        x = x - lr * velocity
    return x


def by_adagrad(lr: float, decay: float, momentum: float) -> Array:
    x, square = START, np.zeros(3)
    for g in GRADIENTS:
        g = g + decay * x
        square = square + g**2
        x = x - lr * g / (np.sqrt(square) + 1e-10)
    return x


def by_adam(lr: float, decay: float, momentum: float, decoupled: bool = False) -> Array:
    x, m, v = START, np.zeros(3), np.zeros(3)
    for t, g in enumerate(GRADIENTS, start=1):
        if decoupled:
            x = x * (1 - lr * decay)
        else:
            g = g + decay * x
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


def by_adamw(lr: float, decay: float, momentum: float) -> Array:
    return by_adam(lr, decay, momentum, decoupled=True)


def by_adabelief(lr: float, decay: float, momentum: float) -> Array:
    """Zhuang et al. 2020, algorithm 2: the squared surprise (g - m) in the place of Adam's squared gradient."""
    x, m, s = START, np.zeros(3), np.zeros(3)
    for t, g in enumerate(GRADIENTS, start=1):
        x = x * (1 - lr * decay)
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-16
        x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-16)
    return x


BY_HAND: dict[str, Callable[[float, float, float], Array]] = {
    "adam": by_adam,
    "adamw": by_adamw,
    "sgd": by_sgd,
    "rmsprop": by_rmsprop,
    "adabelief": by_adabelief,
    "adagrad": by_adagrad,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("decay", "momentum"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.7), (0.2, 0.7)])
def test_updates_are_the_published_ones(name: str, decay: float, momentum: float) -> None:
    expected = BY_HAND[name](0.05, decay, momentum)
    actual = updated(config(name, lr=0.05, weight_decay=decay, momentum=momentum))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_quadratic_is_minimised(name: str) -> None:
    net = nn.Linear(4, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    optimizer = make_optimizer(net, config(name, lr=0.03, weight_decay=0.0))
    curvature = torch.tensor([0.5, 1.0, 2.0, 4.0])
    for _ in range(200):
        optimizer.zero_grad()
        loss: Any = (curvature * net.weight**2).sum()
        loss.backward()
        optimizer.step()
    assert (curvature * net.weight**2).sum().item() < 0.2 * float(curvature.sum())


# --- schedules: the closed forms


def rise(warmup: int) -> list[float]:
    return [float(share) for share in np.arange(1, warmup + 1) / (warmup + 1)]


def halves(length: int, lowest: float = 0.0) -> list[float]:
    """From 1 towards ``lowest`` along half a cosine, as the square of a cosine of half the angle."""
    return [lowest + (1 - lowest) * math.cos(math.pi * i / length / 2) ** 2 for i in range(length)]


def one_cycle(steps: int) -> list[float]:
    """Smith's cycle in two phases, from 1/25 to 1 and to 1/250000, as a share of the highest rate."""
    peak = 0.3 * steps - 1
    shares = []
    for i in range(steps):
        low, position = (1 / 25, 1 - i / peak) if i <= peak else (1 / 25e4, (i - peak) / (steps - 1 - peak))
        shares.append(low + (1 - low) * math.cos(math.pi * position / 2) ** 2)
    return shares


def closed_form(case: str, per_epoch: int) -> Array:
    """The rate of each step as a share of the optimizer's, written out for ``EPOCHS`` epochs."""
    total = EPOCHS * per_epoch
    match case:
        case "none":
            shares = [1.0] * total
        case "none, warm-up":
            shares = rise(int(1.5 * per_epoch)) + [1.0] * total
        case "cosine":
            shares = halves(total)
        case "cosine, warm-up":
            warmup = int(0.5 * per_epoch)
            shares = rise(warmup) + halves(total - warmup)
        case "cosine, t_max":
            shares = rise(per_epoch) + halves(3 * per_epoch, 0.1) + [0.1] * (2 * per_epoch)
        case "cosine_restart":
            shares = rise(int(0.7 * per_epoch))
            for length in (per_epoch, 2 * per_epoch, 4 * per_epoch):
                shares += halves(length, 0.2)
        case "cosine_restart, equal":
            shares = halves(round(1.4 * per_epoch)) * 6
        case "reduce_lr":  # epochs 2 and 3 are too many without a better score, as are 4 and 5
            shares = [1.0] * (4 * per_epoch) + [0.5] * (2 * per_epoch)
        case "reduce_lr, warm-up":
            drops = np.repeat([1, 1, 1, 0.5, 0.25, 0.125], per_epoch)
            shares = list(drops * np.array(rise(int(2.5 * per_epoch)) + [1.0] * total)[:total])
        case "step":
            shares = rise(int(0.5 * per_epoch))
            for drop in (1.0, 0.3, 0.09):
                shares += [drop] * (2 * per_epoch)
        case "exp":
            shares = rise(per_epoch) + [math.exp(math.log(0.8) * i / per_epoch) for i in range(total)]
        case "onecycle":
            shares = [3 * share for share in one_cycle(total)]
        case "onecycle, warm-up":
            shares = [share / 25 for share in rise(per_epoch)] + one_cycle(total - per_epoch)
        case _:
            raise AssertionError(case)
    return np.array(shares[:total])


def momentum_of_one_cycle(steps: int) -> Array:
    peak = 0.3 * steps - 1
    position = [1 - i / peak if i <= peak else (i - peak) / (steps - 1 - peak) for i in range(steps)]
    return np.array([0.95 - 0.1 * math.cos(math.pi * p / 2) ** 2 for p in position])


# --- schedules: in a Trainer


class Tiny(lightning.LightningModule):
    """A regression whose score on tune is scripted."""

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.model = network()
        self.settings = optimizer, schedule
        self.rates: list[list[float]] = []
        self.momenta: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validation_step(self, _: tuple[Tensor, Tensor]) -> None:
        self.log("tune/score", SCORES[self.current_epoch])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.rates.append(rates(optimizer))
        group = optimizer.param_groups[0]
        self.momenta.append(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.settings[0])
        return [optimizer], make_schedules(
            optimizer,
            self.settings[1],
            epochs=EPOCHS,
            total_steps=int(self.trainer.estimated_stepping_batches),
            batches_per_epoch=int(self.trainer.num_training_batches),
            monitor="tune/score",
        )


class StopAt(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise StopError


def fit(
    folder: Path,
    schedule: str,
    *,
    name: str = "adamw",
    lr: float = LR,
    accumulate: int = 1,
    stop: int | None = None,
    resume: bool = False,
) -> Tiny:
    module = Tiny(config(name, lr=lr, encoder_lr=ENCODER), ScheduleConfig(**SCHEDULES[schedule]))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4 * BATCHES, 3, generator=generator)
    data = TensorDataset(x, x.sum(dim=1, keepdim=True))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        accumulate_grad_batches=accumulate,
        callbacks=[
            ModelCheckpoint(folder, filename="last", enable_version_counter=False),
            *([StopAt(stop)] if stop is not None else []),
        ],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    state = folder / "last.ckpt" if resume else None
    trainer.fit(
        module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=20), ckpt_path=state, weights_only=True
    )
    return module


in_a_trainer = pytest.mark.filterwarnings(
    "ignore:.*treespec, LeafSpec:FutureWarning",  # Lightning's own use of torch
    "ignore:.*treespec, LeafSpec:DeprecationWarning",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:GPU available but not used",
)


@in_a_trainer
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_of_a_run(tmp_path: Path, schedule: str, accumulate: int) -> None:
    module = fit(tmp_path, schedule, accumulate=accumulate)
    shares = closed_form(schedule, math.ceil(BATCHES / accumulate))
    expected = np.outer(shares, [LR * ENCODER, LR])
    np.testing.assert_allclose(module.rates, expected, rtol=1e-9, atol=1e-12)


@in_a_trainer
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_goes_on_as_if_uninterrupted(tmp_path: Path, schedule: str) -> None:
    whole = fit(tmp_path / "whole", schedule, accumulate=2)
    for stop in (1, 3):  # in warm-up; and where reduce_lr already counts an epoch without a better score
        with pytest.raises(StopError):
            fit(tmp_path / str(stop), schedule, accumulate=2, stop=stop)
        resumed = fit(tmp_path / str(stop), schedule, accumulate=2, resume=True)
        done = stop * math.ceil(BATCHES / 2)
        assert resumed.rates == whole.rates[done:]
        assert resumed.momenta == whole.momenta[done:]
        assert_same_weights(resumed, whole)


@in_a_trainer
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_keeps_the_optimizer(tmp_path: Path, name: str) -> None:
    whole = fit(tmp_path / "whole", "onecycle, warm-up", name=name, lr=0.01)
    with pytest.raises(StopError):
        fit(tmp_path / "cut", "onecycle, warm-up", name=name, lr=0.01, stop=2)
    resumed = fit(tmp_path / "cut", "onecycle, warm-up", name=name, lr=0.01, resume=True)
    assert_same_weights(resumed, whole)


@in_a_trainer
@pytest.mark.parametrize(("name", "cycles"), [("adamw", True), ("sgd", True), ("adabelief", True), ("adagrad", False)])
def test_one_cycle_moves_momentum_where_there_is_some(tmp_path: Path, name: str, cycles: bool) -> None:
    momenta = fit(tmp_path, "onecycle", name=name).momenta
    total = EPOCHS * BATCHES
    np.testing.assert_allclose(momenta, momentum_of_one_cycle(total) if cycles else np.zeros(total), rtol=1e-9)


def test_one_cycle_leaves_an_optimizer_without_momentum_alone() -> None:
    optimizer = make_optimizer(network(), config("sgd", momentum=0.0))
    schedules(optimizer, ScheduleConfig(name="onecycle"))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.0]


# --- schedules: by themselves


def run_through(optimizer: Optimizer, made: list[dict[str, Any]], steps: int) -> list[list[float]]:
    """Step as a Trainer does, without gradients, and keep each step's rates."""
    seen = []
    for _ in range(steps):
        seen.append(rates(optimizer))
        optimizer.step()
        for schedule in made:
            schedule["scheduler"].step()
    return seen


@given(
    epochs=st.integers(1, 20),
    per_epoch=st.integers(1, 12),
    warmup=st.floats(0, 1, exclude_max=True),
)
@examples(deadline=None, max_examples=60)
def test_cosine_is_the_formula_of_the_shipped_model(epochs: int, per_epoch: int, warmup: float) -> None:
    total = epochs * per_epoch
    rising = min(total - 1, int(warmup * total / epochs))
    expected = [
        LR
        * (
            (step + 1) / (rising + 1)
            if step < rising
            else 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
        )
        for step in range(total)
    ]
    optimizer = make_optimizer(nn.Linear(1, 1), config(lr=LR))
    made = schedules(optimizer, ScheduleConfig(name="cosine", warmup=warmup), epochs=epochs, steps=total)
    assert [rate for (rate,) in run_through(optimizer, made, total)] == expected


@given(
    name=st.sampled_from(["none", "cosine", "cosine_restart", "step", "exp", "onecycle"]),
    warmup=st.floats(0, 0.99),
    epochs=st.integers(1, 4),
    per_epoch=st.integers(1, 12),
    length=st.floats(1, 30),
)
@examples(deadline=None, max_examples=100)
def test_rates_stay_between_zero_and_the_highest(
    name: str, warmup: float, epochs: int, per_epoch: int, length: float
) -> None:
    settings = ScheduleConfig(
        name=cast(Any, name), warmup=warmup, t_max=length, t_0=length, t_mult=1, step_size=length, eta_min=LR / 10
    )
    optimizer = make_optimizer(network(), config(lr=LR, encoder_lr=ENCODER))
    made = schedules(optimizer, settings, epochs=epochs, steps=epochs * per_epoch)
    seen = run_through(optimizer, made, epochs * per_epoch)
    assert all(0 < rate <= LR * (1 + 1e-9) for _, rate in seen)
    assert all(encoder == pytest.approx(ENCODER * rate) for encoder, rate in seen)


@pytest.mark.parametrize("schedule", [case for case in SCHEDULES if not case.startswith("reduce_lr")])
@pytest.mark.parametrize("name", NAMES)
def test_state_survives_a_checkpoint(name: str, schedule: str) -> None:
    def new(seed: int) -> tuple[nn.Module, Optimizer, list[dict[str, Any]]]:
        net = network(seed)
        optimizer = make_optimizer(net, config(name, lr=LR, encoder_lr=ENCODER))
        return net, optimizer, schedules(optimizer, ScheduleConfig(**SCHEDULES[schedule]))

    def train(net: nn.Module, optimizer: Optimizer, made: list[dict[str, Any]], steps: range) -> list[list[float]]:
        seen = []
        for step in steps:
            seen.append(rates(optimizer))
            optimizer.zero_grad()
            net(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
            for entry in made:
                entry["scheduler"].step()
        return seen

    first, second = new(0), new(1)
    train(*first, range(7))
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
    for old, fresh in zip(first[2], second[2], strict=True):
        fresh["scheduler"].load_state_dict(copy.deepcopy(old["scheduler"].state_dict()))
    assert train(*first, range(7, 20)) == train(*second, range(7, 20))
    assert_same_weights(first[0], second[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "none", "warmup": 6}, "schedule.warmup is 6 epochs in a run of 6; make it shorter"),
        ({"name": "onecycle", "warmup": 7.5}, "schedule.warmup is 7.5 epochs in a run of 6; make it shorter"),
        (
            {"name": "cosine", "warmup": 2, "t_max": 1.5},
            "schedule.t_max is 1.5 epochs, but schedule.warmup ends after 2; t_max counts from the run's start, so "
            "make it longer",
        ),
        ({"name": "cosine", "eta_min": 0.2}, "schedule.eta_min is 0.2, above optimizer.lr, 0.1; make it lower"),
        ({"name": "cosine_restart", "eta_min": 0.2}, "schedule.eta_min is 0.2, above optimizer.lr, 0.1; make it lower"),
        (
            {"name": "onecycle", "max_lr": 0.05},
            "schedule.max_lr is 0.05, below optimizer.lr, 0.1; make it higher, or leave it out to have optimizer.lr as "
            "the highest rate",
        ),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    optimizer = make_optimizer(network(), config(lr=LR))
    with pytest.raises(RecipeError) as caught:
        schedules(optimizer, ScheduleConfig(**settings))
    assert str(caught.value) == message


def test_no_schedule_is_no_scheduler() -> None:
    assert schedules(make_optimizer(network(), config()), ScheduleConfig(name="none")) == []
