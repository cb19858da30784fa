"""Batches of cached images for Lightning, alike on one device and on several.

A batch is drawn for all devices together and each takes its share of it, so a run sees the same images in the same
steps however many devices it has. Lightning must not put a sampler of its own above these
(``Trainer(use_distributed_sampler=False)``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from dermseg.data.cache import CachedImages
from dermseg.errors import DataError, RecipeError

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TuneSet:
    """The images of ``tune``, the index of the data set each is from, and the data sets' names."""

    images: CachedImages
    source_of: np.ndarray[tuple[int], np.dtype[np.int64]]
    sources: tuple[str, ...]


class _Batches(Dataset[Batch]):
    """Whole batches by lists of indices: one read of the memory map for each batch."""

    def __init__(self, images: CachedImages, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        self._images = images
        self._labels = labels

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        order = np.sort(np.asarray(indices))
        images = torch.from_numpy(self._images.images[order]).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self._images.masks[order]), torch.from_numpy(self._labels[order])


class ShuffledBatches(Sampler[list[int]]):
    """Full batches of indices, drawn anew each epoch by the seed and the epoch alone.

    Without weights the epochs are stretches of one endless row of shuffled passes over the images, so over time each
    image is seen as often as any other. With weights an image comes in proportion to its own, in each epoch as often
    as its share of the epoch says, rounded up or down at random.

    Args:
        count: The images there are.
        batch_size: Of all devices together; less where an epoch has fewer images.
        seed: Of the order.
        weights: How often each image is drawn, relative to the others.
        images_per_epoch: None takes as many as there are.
        rank: Of this device.
        devices: That share a batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        weights: NDArray[np.float64] | None = None,
        images_per_epoch: int | None = None,
        rank: int = 0,
        devices: int = 1,
    ) -> None:
        self._count = count
        self._images = images_per_epoch or count
        # Each device has the same number of images, at least one.
        self._batch_size = max(1, min(batch_size, self._images) // devices) * devices
        self._seed = seed
        self._weights = weights
        self._rank = rank
        self._devices = devices
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, also the first after a resume."""
        self._epoch = epoch

    def __len__(self) -> int:
        return max(1, self._images // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        size = len(self) * self._batch_size
        order = self._passes(size) if self._weights is None else self._weighted(size, self._weights)
        for start in range(0, size, self._batch_size):
            yield order[start : start + self._batch_size][self._rank :: self._devices]

    def _passes(self, size: int) -> list[int]:
        first, skipped = divmod(self._epoch * self._images, self._count)
        last = (self._epoch * self._images + size - 1) // self._count
        passes = [torch.randperm(self._count, generator=self._generator(index)) for index in range(first, last + 1)]
        order: list[int] = torch.cat(passes)[skipped : skipped + size].tolist()
        return order

    def _weighted(self, size: int, weights: NDArray[np.float64]) -> list[int]:
        """Systematic resampling: evenly spaced marks along the weights laid end to end in random order."""
        generator = self._generator(self._epoch)
        shuffled = torch.randperm(self._count, generator=generator).numpy()
        ends = np.cumsum(weights[shuffled])
        marks = (np.arange(size) + float(torch.rand((), generator=generator, dtype=torch.float64))) / size * ends[-1]
        drawn = shuffled[np.minimum(np.searchsorted(ends, marks, side="right"), self._count - 1)]
        order: list[int] = drawn[torch.randperm(size, generator=generator).numpy()].tolist()
        return order

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + number)


def balancing_weights(shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How often to draw each image, so that rare classes are seen more often: 1 or more.

    It is the square root of one over the share of images that show the rarest class of the image (repeat factor
    sampling), 1 for an image that shows none: a class on 4 % of the images makes theirs five times as likely.

    Args:
        shown: Whether each image shows each class, (N, classes).
    """
    share = shown.mean(axis=0)
    rarity = np.sqrt(1 / np.where(share > 0, share, 1))
    weights: NDArray[np.float64] = np.where(shown, rarity, 1.0).max(axis=1)
    return weights


def batches_in_order(count: int, batch_size: int, rank: int = 0, devices: int = 1) -> list[list[int]]:
    """A device's share of all images, in order: every image on one device, as many batches on each.

    Args:
        count: The images there are, at least one for each device.
        batch_size: Of all devices together; the last batch may be smaller, or larger by one image.
        rank: Of this device.
        devices: That share the images.
    """
    if count < devices:
        raise DataError(f"{count} images to tune on cannot be shared by {devices} devices; each needs one")
    own = list(range(rank, count, devices))
    size = max(1, batch_size // devices)
    # The device with the fewest images sets the number: one that has no batch left would leave the others waiting.
    starts = list(range(0, count // devices, size))
    return [own[start:end] for start, end in zip(starts, [*starts[1:], len(own)], strict=True)]


class CachedData(lightning.LightningDataModule):
    """Training batches in random order, tune batches in order; uint8 images and masks, and the source's index.

    Args:
        train: What is trained on.
        tune: What is scored after each epoch.
        batch_size: Of all devices together.
        seed: Of the training images' order.
        sampling: ``balanced`` draws images with rare classes more often, see ``balancing_weights``.
        images_per_epoch: None takes each training image once, or draws as many as there are.

    Attributes:
        sources: Names of the data sets on ``tune``, by the indices in its batches.
    """

    def __init__(
        self,
        train: CachedImages,
        tune: TuneSet,
        batch_size: int,
        seed: int,
        *,
        sampling: Literal["uniform", "balanced"] = "uniform",
        images_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        self._train = train
        self._tune = tune
        self.sources = tune.sources
        self._batch_size = batch_size
        self._seed = seed
        self._weights = balancing_weights(train.shown()) if sampling == "balanced" else None
        self._images_per_epoch = images_per_epoch

    def train_dataloader(self) -> DataLoader[Batch]:
        """This device's share of shuffled batches.

        Raises:
            RecipeError: If the batch cannot be shared evenly.
        """
        rank, devices = _place()
        if self._batch_size % devices:
            raise RecipeError(
                f"batch_size {self._batch_size} cannot be shared evenly by {devices} devices; choose a multiple of "
                f"{devices}"
            )
        sampler = ShuffledBatches(
            len(self._train),
            self._batch_size,
            self._seed,
            weights=self._weights,
            images_per_epoch=self._images_per_epoch,
            rank=rank,
            devices=devices,
        )
        dataset = _Batches(self._train, np.zeros(len(self._train), np.int64))
        return DataLoader(dataset, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This device's share of tune, in order."""
        batches = batches_in_order(len(self._tune.images), self._batch_size, *_place())
        return DataLoader(_Batches(self._tune.images, self._tune.source_of), sampler=batches, batch_size=None)


def _place() -> tuple[int, int]:
    """This process's rank among the devices of the run, and their number."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
