"""Batches: which images come when, on one device and on several, and how rare classes are drawn more often."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dermseg.data import cache, catalog
from dermseg.data.cache import CachedImages
from dermseg.errors import DataError, RecipeError
from dermseg.training import datamodule
from dermseg.training.datamodule import (
    Batch,
    CachedData,
    ShuffledBatches,
    TuneSet,
    balancing_weights,
    batches_in_order,
)

CHECK_DEVICES = 2


def numbered(count: int, classes: int = 1, side: int = 2) -> CachedImages:
    """Images whose every pixel is their number."""
    number = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(number[:, None, None, None], (count, side, side, 3)).copy()
    masks = np.broadcast_to(number[:, None, None, None], (count, classes, side, side)).copy()
    return CachedImages(images, masks, "")


def tune_set(images: CachedImages) -> TuneSet:
    return TuneSet(images, np.arange(len(images), dtype=np.int64) % 3, ("one", "two", "three"))


def epoch_of(sampler: ShuffledBatches, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


# --- each image as often as any other ------------------------------------------------------------


def test_an_epoch_is_one_pass_in_full_batches_by_seed_and_epoch_alone() -> None:
    sampler = ShuffledBatches(23, 5, seed=1)
    epochs = [epoch_of(sampler, epoch) for epoch in range(3)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[5] * 4] * 3
    assert len(sampler) == 4
    assert all(len(set(flat(epoch))) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(ShuffledBatches(23, 5, seed=1), 2) == epochs[2]  # as after a resume
    assert epoch_of(ShuffledBatches(23, 5, seed=2), 2) != epochs[2]


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    images=st.none() | st.integers(1, 100),
    epochs=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_epochs_of_any_length_follow_each_other_through_shuffled_passes(
    count: int, batch_size: int, images: int | None, epochs: int, seed: int
) -> None:
    sampler = ShuffledBatches(count, batch_size, seed, images_per_epoch=images)
    in_epoch = images or count
    size = min(batch_size, in_epoch)
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        batches = epoch_of(sampler, epoch)
        assert [len(batch) for batch in batches] == [size] * (in_epoch // size) == [size] * len(sampler)
        seen.update(flat(batches))
    assert set(seen) <= set(range(count))
    if in_epoch % size == 0:  # nothing is left out between two epochs
        assert max(seen.values()) - min(seen[index] for index in range(count)) <= 1


# --- rare classes more often ---------------------------------------------------------------------


def test_weights_are_square_roots_of_the_rarest_class_shown() -> None:
    shown = np.zeros((100, 3), bool)
    shown[:4, 0] = True
    shown[2:27, 1] = True
    weights = balancing_weights(shown)
    np.testing.assert_allclose(weights, [5] * 4 + [2] * 23 + [1] * 73)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), classes=st.integers(1, 5), rate=st.floats(0, 1))
def test_weights_are_finite_and_never_lower_for_a_rarer_class(seed: int, count: int, classes: int, rate: float) -> None:
    shown = np.random.default_rng(seed).random((count, classes)) < rate
    weights = balancing_weights(shown)
    assert weights.shape == (count,)
    assert np.isfinite(weights).all()
    assert (weights >= 1).all()
    assert (weights[~shown.any(1)] == 1).all()
    rarest = np.where(shown, shown.mean(0), 1.0).min(1)
    order = np.argsort(rarest)
    assert (np.diff(weights[order]) <= 1e-12).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    images=st.integers(1, 200),
    batch_size=st.integers(1, 32),
    epoch=st.integers(0, 1000),
)
def test_each_epoch_draws_each_image_as_often_as_its_weight_says(
    seed: int, count: int, images: int, batch_size: int, epoch: int
) -> None:
    weights = np.random.default_rng(seed).uniform(0.2, 5, count)
    sampler = ShuffledBatches(count, batch_size, seed, weights=weights, images_per_epoch=images)
    batches = epoch_of(sampler, epoch)
    size = min(batch_size, images)
    assert [len(batch) for batch in batches] == [size] * (images // size)
    expected = weights / weights.sum() * size * len(batches)
    drawn = np.bincount(flat(batches), minlength=count)
    assert (np.abs(drawn - expected) < 1 + 1e-9).all()
    again = ShuffledBatches(count, batch_size, seed, weights=weights, images_per_epoch=images)
    assert epoch_of(again, epoch) == batches


def test_over_epochs_shares_are_exact_and_batches_are_mixed() -> None:
    weights = np.repeat([1.0, 2.5], [90, 10])
    sampler = ShuffledBatches(100, 20, seed=3, weights=weights)
    epochs = [epoch_of(sampler, epoch) for epoch in range(200)]
    share = np.bincount([index for epoch in epochs for index in flat(epoch)], minlength=100) / (200 * 100)
    # An image is drawn once or twice, or not at all or once: at most 1/2 standard deviation in one of 200 epochs.
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4 * 0.5 / np.sqrt(200) / 100)
    rare = [sum(index >= 90 for index in batch) for epoch in epochs for batch in epoch]
    assert np.mean(rare) == pytest.approx(20 * 25 / 115, abs=0.2)
    assert np.std(rare) == pytest.approx(1.7, abs=0.4)  # of a random draw, not of a sorted one


def test_an_image_on_the_edge_of_the_weights_is_never_out_of_range() -> None:
    weights = np.full(3, 0.1)  # whose sum is not 0.3
    for epoch in range(300):
        drawn = flat(epoch_of(ShuffledBatches(3, 1, seed=0, weights=weights, images_per_epoch=1000), epoch))
        assert sorted(Counter(drawn)) == [0, 1, 2]


# --- several devices -----------------------------------------------------------------------------


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 6),
    devices=st.integers(1, 4),
    images=st.none() | st.integers(1, 60),
    weighted=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_devices_share_the_batches_of_one(
    count: int, batch_size: int, devices: int, images: int | None, weighted: bool, epoch: int
) -> None:
    weights = np.linspace(1, 3, count) if weighted else None
    options = {"weights": weights, "images_per_epoch": images}
    shares = [
        epoch_of(ShuffledBatches(count, batch_size * devices, 7, rank=rank, devices=devices, **options), epoch)  # type: ignore[arg-type]
        for rank in range(devices)
    ]
    assert len({len(share) for share in shares}) == 1
    assert len({len(batch) for share in shares for batch in share}) == 1
    joined = [sorted(flat(list(parts))) for parts in zip(*shares, strict=True)]
    size = batch_size * devices
    if (images or count) >= size:  # as many as one device would have in a batch
        one = epoch_of(ShuffledBatches(count, size, 7, **options), epoch)  # type: ignore[arg-type]
        assert joined == [sorted(batch) for batch in one]
    if not weighted and images is None and count >= size:
        assert len(set(flat(joined))) == len(flat(joined))


@given(count=st.integers(1, 80), batch_size=st.integers(1, 20), devices=st.integers(1, 5))
def test_devices_share_all_images_of_tune_in_as_many_batches(count: int, batch_size: int, devices: int) -> None:
    if count < devices:
        with pytest.raises(DataError) as caught:
            batches_in_order(count, batch_size, 0, devices)
        assert str(caught.value) == (f"{count} images to tune on cannot be shared by {devices} devices; each needs one")
        return
    shares = [batches_in_order(count, batch_size, rank, devices) for rank in range(devices)]
    assert sorted(flat([flat(share) for share in shares])) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        assert flat(share) == sorted(flat(share))
        assert all(1 <= len(batch) <= max(1, batch_size // devices) + 1 for batch in share)
    if devices == 1:
        assert all(len(batch) == batch_size for batch in shares[0][:-1])
        assert len(shares[0][-1]) <= batch_size


SCRIPT = """
import json, sys
import numpy as np
from torch import distributed
from dermseg.data.cache import CachedImages
from dermseg.training.datamodule import CachedData, TuneSet

place, rank, devices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=devices)
number = np.arange(21, dtype=np.uint8)[:, None, None, None]
images = CachedImages(np.broadcast_to(number, (21, 2, 2, 3)), np.broadcast_to(number, (21, 1, 2, 2)), "")
data = CachedData(images, TuneSet(images, np.zeros(21, np.int64), ("one",)), 6, seed=4, sampling="balanced")
train = data.train_dataloader()
train.sampler.set_epoch(2)
print(json.dumps([[batch[0][:, 0, 0, 0].tolist() for batch in loader] for loader in (train, data.val_dataloader())]))
distributed.destroy_process_group()
"""


def test_processes_that_train_together_share_each_batch(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "meeting"), str(rank), str(CHECK_DEVICES)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(CHECK_DEVICES)
    ]
    outputs = [process.communicate(timeout=250)[0].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [0] * CHECK_DEVICES
    (train_a, tune_a), (train_b, tune_b) = (json.loads(output) for output in outputs)
    images = numbered(21)
    alone = CachedData(images, tune_set(images), 6, seed=4, sampling="balanced").train_dataloader()
    assert isinstance(alone.sampler, ShuffledBatches)
    alone.sampler.set_epoch(2)
    together = [sorted(a + b) for a, b in zip(train_a, train_b, strict=True)]
    assert together == [sorted(batch[0][:, 0, 0, 0].tolist()) for batch in alone]
    assert [len(batch) for batch in train_a + train_b] == [3] * 6
    assert sorted(flat(tune_a + tune_b)) == list(range(21))
    assert len(tune_a) == len(tune_b)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "_place", lambda: (0, 3))
    images = numbered(21)
    with pytest.raises(RecipeError) as caught:
        CachedData(images, tune_set(images), 8, seed=0).train_dataloader()
    assert str(caught.value) == "batch_size 8 cannot be shared evenly by 3 devices; choose a multiple of 3"


# --- what is in a batch --------------------------------------------------------------------------


def test_a_batch_holds_the_images_the_masks_and_the_data_sets_of_its_indices() -> None:
    images = numbered(21, classes=2)
    data = CachedData(images, tune_set(images), 6, seed=0)
    train, tune = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch[0]) for batch in train] == [6, 6, 6]
    assert [len(batch[0]) for batch in tune] == [6, 6, 6, 3]
    for pixels, masks, source in (*train, *tune):
        assert pixels.shape == (len(source), 3, 2, 2)
        assert masks.shape == (len(source), 2, 2, 2)
        assert pixels.dtype == masks.dtype == torch.uint8
        number = pixels[:, 0, 0, 0]
        assert (pixels == number[:, None, None, None]).all()
        assert (masks == number[:, None, None, None]).all()
    assert torch.equal(torch.cat([batch[0][:, 0, 0, 0] for batch in tune]), torch.arange(21, dtype=torch.uint8))
    assert torch.equal(torch.cat([batch[2] for batch in tune]), torch.arange(21) % 3)
    assert not torch.cat([batch[2] for batch in train]).any()


def with_masks_shown(shown: NDArray[np.bool_]) -> CachedImages:
    count, classes = shown.shape
    masks = np.zeros((count, classes, 2, 2), np.uint8)
    masks[..., 1, 0] = np.where(shown, 255, 127)
    return CachedImages(numbered(count).images, masks, "")


def test_balanced_sampling_draws_by_the_classes_of_the_masks() -> None:
    shown = np.zeros((100, 2), bool)
    shown[:4, 0] = shown[:64, 1] = True
    images = with_masks_shown(shown)
    drawn = {
        sampling: Counter(
            number
            for batch in CachedData(
                images, tune_set(images), 10, seed=0, sampling=sampling, images_per_epoch=1000
            ).train_dataloader()
            for number in batch[0][:, 0, 0, 0].tolist()
        )
        for sampling in ("uniform", "balanced")
    }
    assert set(drawn["uniform"].values()) == {10}
    weights = np.repeat([5, 1.25, 1], [4, 60, 36])
    expected = weights / weights.sum() * 1000
    assert all(abs(drawn["balanced"][number] - expected[number]) <= 1 for number in range(100))


# --- under Lightning -----------------------------------------------------------------------------


class _Recorder(lightning.LightningModule):
    """Notes the images it is given, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: Batch) -> Tensor:
        self.epochs[-1] += batch[0][:, 0, 0, 0].tolist()
        return self.weight * 0

    def validation_step(self, batch: Batch) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", r"ignore:`isinstance\(treespec")
@pytest.mark.filterwarnings("ignore:GPU available but not used", "ignore:.*lr_scheduler.step")
def test_lightning_tells_the_sampler_the_epoch(tmp_path: Path) -> None:
    shown = np.zeros((30, 1), bool)
    shown[:3] = True
    images = with_masks_shown(shown)
    recorder = _Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    data = CachedData(images, tune_set(images), 10, seed=6, sampling="balanced", images_per_epoch=20)
    trainer.fit(recorder, data)
    sampler = ShuffledBatches(30, 10, 6, weights=balancing_weights(shown), images_per_epoch=20)
    expected = [sorted(flat(epoch_of(sampler, epoch))) for epoch in range(3)]
    assert [sorted(epoch) for epoch in recorder.epochs] == expected
    assert len({tuple(epoch) for epoch in expected}) == 3


# --- the real attributes -------------------------------------------------------------------------


@pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")
def test_rare_attributes_are_drawn_a_few_times_as_often(tmp_path: Path) -> None:
    samples = catalog.with_masks(catalog.read(os.environ["DERMSEG_DATA"], ["isic2018"])[::8], catalog.ATTRIBUTES)
    shown = cache.load(samples, catalog.ATTRIBUTES, 64, folder=tmp_path).shown()
    weights = balancing_weights(shown)
    drawn = (weights[:, None] * shown).sum(0) / weights.sum()
    gain = dict(zip(catalog.ATTRIBUTES, drawn / shown.mean(0), strict=True))
    assert 2 < gain["streaks"] < 4
    assert 1.5 < gain["negative_network"] < 3
    assert 0.8 < gain["pigment_network"] < 1.2
