"""What augmentation and loading cost in training, beside the usual way in the same run.

    python benchmarks/training.py --data "$DERMSEG_DATA"

Trains the network of a recipe on ISIC 2017 for a few steps at a time, in turn, and prints medians over the turns:
first what each preset of augmentation takes beside the network's own step, then the speed of whole steps fed by
tensors in memory, by our cache, and by the usual way: a data loader whose worker processes decode, resize and augment
image by image. Processor seconds include the workers'.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from dermseg.data import cache, catalog, splits
from dermseg.data.cache import PADDING
from dermseg.data.catalog import Sample
from dermseg.geometry import Geometry
from dermseg.imaging import open_image, read_mask
from dermseg.models import build
from dermseg.training.augmentation import augment
from dermseg.training.config import AugmentationConfig, Recipe
from dermseg.training.datamodule import CachedData, TuneSet
from dermseg.training.losses import WeightedSum
from dermseg.training.normalisation import NORMALISATIONS
from dermseg.training.recipes import load_recipe

Pair = tuple[Tensor, Tensor]


class Training:
    """A recipe's step, without what Lightning adds."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.network = build(recipe.model.name, classes=len(recipe.classes), **recipe.model.arguments)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = WeightedSum(recipe.loss)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=recipe.optimizer.lr)
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALISATIONS[recipe.normalisation])

    def step(self, image: Tensor, mask: Tensor) -> None:
        """Learn from one batch in [0, 1]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16-mixed"):
            normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            loss = self.loss(self.network(normalised), mask)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()

    def augmented(self, image: Tensor, mask: Tensor) -> Pair:
        """A batch of bytes as values in [0, 1], changed at random."""
        return changed(image, mask, self.recipe.augmentation)


class Files(Dataset[Pair]):
    """The usual way: each image is decoded, resized and augmented by itself, every time."""

    def __init__(self, samples: list[Sample], recipe: Recipe) -> None:
        self._samples = samples
        self._recipe = recipe

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Pair:
        sample, size = self._samples[index], self._recipe.input_size
        photograph = open_image(sample.image)
        geometry = Geometry.fit(*photograph.size, size)
        pixels = geometry.apply(photograph.pixels(), fill=PADDING)
        masks = [
            geometry.apply(read_mask(sample.masks[name]).astype(np.uint8) * 255, fill=0)
            for name in self._recipe.classes
        ]
        image, mask = torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.from_numpy(np.stack(masks))[None]
        image, mask = changed(image, mask, self._recipe.augmentation)
        return image[0], mask[0]


@dataclass(frozen=True)
class Times:
    """Seconds of one step."""

    wall: float
    processor: float


def changed(image: Tensor, mask: Tensor, config: AugmentationConfig) -> Pair:
    return augment(image.float() / 255, mask.float() / 255, config, padding=PADDING / 255)


def processor_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def measure(work: Callable[[], int]) -> Times:
    """Time ``work``, which gives the number of its steps."""
    wall, processor = time.perf_counter(), processor_seconds()
    steps = work()
    return Times((time.perf_counter() - wall) / steps, (processor_seconds() - processor) / steps)


def in_turn(ways: dict[str, Callable[[], int]], runs: int) -> dict[str, list[Times]]:
    """Time each way after a warm-up, one after the other, several times."""
    for work in ways.values():
        work()
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, work in ways.items():
            times[name].append(measure(work))
    return times


def median(times: Iterable[Times]) -> Times:
    times = list(times)
    return Times(statistics.median(t.wall for t in times), statistics.median(t.processor for t in times))


def ratio(times: list[Times], others: list[Times]) -> Times:
    """The median ratio of what was measured in the same turn."""
    return median(Times(a.wall / b.wall, a.processor / b.processor) for a, b in zip(times, others, strict=True))


def compare_presets(training: Training, batch: Pair, runs: int, steps: int) -> None:
    """Print what the presets take beside the network."""
    image, mask = batch[0].float() / 255, batch[1].float() / 255

    def learn() -> int:
        for _ in range(steps):
            training.step(image, mask)
        return steps

    def change(name: str) -> Callable[[], int]:
        config = AugmentationConfig.model_validate(name)

        def work() -> int:
            for _ in range(steps):
                changed(*batch, config)
            return steps

        return work

    times = in_turn({"network": learn} | {name: change(name) for name in AugmentationConfig.PRESETS}, runs)
    network = times.pop("network")
    middle = median(network)
    print("| augmentation of a batch | wall | processor | share of the network's step: wall, processor |")
    print("|---|---|---|---|")
    print(f"| the network's step | {1000 * middle.wall:.0f} ms | {1000 * middle.processor:.0f} ms | |")
    for name, own in times.items():
        middle, share = median(own), ratio(own, network)
        print(
            f"| {name} | {1000 * middle.wall:.0f} ms | {1000 * middle.processor:.0f} ms "
            f"| {share.wall:.1%}, {share.processor:.1%} |"
        )


def compare_sources(
    training: Training,
    batch: Pair,
    cached: DataLoader[tuple[Tensor, ...]],
    files: DataLoader[Pair],
    runs: int,
    steps: int,
) -> None:
    """Print the speed of whole steps by where their batches come from."""

    def from_memory() -> int:
        for _ in range(steps):
            training.step(*training.augmented(*batch))
        return steps

    def from_cache() -> int:
        for image, mask, _ in islice(cached, steps):
            training.step(*training.augmented(image, mask))
        return steps

    def from_files() -> int:
        for image, mask in files:
            training.step(image, mask)
        return len(files)

    def cache_alone() -> int:
        return sum(1 for _ in islice(cached, steps))

    memory, ours, usual = "tensors in memory", "cache", f"files, {files.num_workers} workers"
    times = in_turn({memory: from_memory, ours: from_cache, usual: from_files, "alone": cache_alone}, runs)
    alone, size = median(times.pop("alone")), len(batch[0])
    print("\n| batches from | wall a step | processor | images a second | speed beside memory: wall, processor |")
    print("|---|---|---|---|---|")
    for name, own in times.items():
        middle, share = median(own), ratio(times[memory], own)
        print(
            f"| {name} | {1000 * middle.wall:.1f} ms | {1000 * middle.processor:.1f} ms | {size / middle.wall:.0f} "
            f"| {share.wall:.2f}, {share.processor:.2f} |"
        )
    share = ratio(times[usual], times[ours])
    print(f"\nOf a step, reading its batch from the cache takes {1000 * alone.wall:.1f} ms.")
    print(f"Speed with the cache beside files: {share.wall:.2f} by wall, {share.processor:.2f} by processor seconds.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DERMSEG_DATA"), required="DERMSEG_DATA" not in os.environ
    )
    parser.add_argument("--recipe", default="lesion")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of the usual way")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="in each turn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = load_recipe(options.recipe, ["data.sources=[isic2017]"])
    samples = splits.select(catalog.read(options.data, recipe.data.sources), "train")
    training = Training(recipe)
    shape = (recipe.batch_size, 3, recipe.input_size, recipe.input_size)
    image = torch.randint(256, (shape[0], *shape[2:], 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    mask = (torch.rand(shape[0], len(recipe.classes), *shape[2:]) < 0.5).to(torch.uint8) * 255
    compare_presets(training, (image, mask), options.runs, options.steps)
    scratch = Path(tempfile.mkdtemp())
    try:
        images = cache.load(samples, recipe.classes, recipe.input_size, folder=scratch)
        tune = TuneSet(images, np.zeros(len(images), np.int64), ("isic2017",))
        data = CachedData(images, tune, recipe.batch_size, recipe.seed)
        dataset = Files(samples, recipe)
        # A turn's images and no more: batches that the workers prepare in vain would count against them.
        drawn = RandomSampler(dataset, num_samples=options.steps * recipe.batch_size)
        files = DataLoader(dataset, recipe.batch_size, sampler=drawn, num_workers=options.workers)
        compare_sources(training, (image, mask), data.train_dataloader(), files, options.runs, options.steps)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
