"""Batches of cached images for Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dermseg.data.cache import CachedImages

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TuneSet:
    """The images of ``tune``, and the index of the data set each is from."""

    images: CachedImages
    source_of: np.ndarray[tuple[int], np.dtype[np.int64]]


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
    """Full batches of indices, shuffled anew each epoch by the seed and the epoch alone."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count = count
        self._batch_size = min(batch_size, count)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch, also the first after a resume."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // self._batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(self._count, generator=generator).tolist()
        for start in range(0, len(self) * self._batch_size, self._batch_size):
            yield order[start : start + self._batch_size]


class CachedData(lightning.LightningDataModule):
    """Training batches in random order, tune batches in order; uint8 images and masks, and the source's index."""

    def __init__(self, train: CachedImages, tune: TuneSet, batch_size: int, seed: int) -> None:
        super().__init__()
        self._train = train
        self._tune = tune
        self._batch_size = batch_size
        self._seed = seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches."""
        dataset = _Batches(self._train, np.zeros(len(self._train), np.int64))
        sampler = ShuffledBatches(len(self._train), self._batch_size, self._seed)
        return DataLoader(dataset, sampler=sampler, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Tune, in order."""
        count = len(self._tune.images)
        batches = [list(range(i, min(i + self._batch_size, count))) for i in range(0, count, self._batch_size)]
        return DataLoader(_Batches(self._tune.images, self._tune.source_of), sampler=batches, batch_size=None)
