"""From a folder of data sets to the cached images that a recipe trains on."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dermseg.bundle import Bundle
from dermseg.data import cache, catalog, quarantine, splits
from dermseg.data.cache import CachedImages
from dermseg.data.catalog import Sample
from dermseg.data.splits import Split
from dermseg.errors import DataError
from dermseg.manifest import TrainingData
from dermseg.training.bundling import initialisation_of
from dermseg.training.config import Recipe
from dermseg.training.datamodule import TuneSet
from dermseg.training.distillation import taught, teachers_of

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunData:
    """What a run is trained and tuned on.

    Attributes:
        train: The training images.
        tune: The images that choose checkpoint and thresholds.
        description: What the bundle says of it.
    """

    train: CachedImages
    tune: TuneSet
    description: TrainingData


def prepare(
    recipe: Recipe,
    data: str | Path,
    *,
    at_most: int | None = None,
    cache_folder: Path | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> RunData:
    """Find the images of each side and fit them into the recipe's size, once.

    Args:
        recipe: The settings.
        data: A folder of data sets in their official layouts.
        at_most: Use only about so many images a side, from all over it.
        cache_folder: Where resized images are kept; ``dermseg.data.cache.default_folder()`` if None.
        report: Takes a line on what is in quarantine.
        progress: Called with what is done, images done and images in all: while each side's are fitted, and while
            teachers look at those to train on.

    Raises:
        DataError: If the data sets cannot be read, or a split is empty.
        RecipeError: If a teacher does not go with the recipe.
    """
    teachers = teachers_of(recipe)  # refused here, not after the images have been fitted
    start = None if recipe.start is None else Bundle.load(recipe.start)
    train, tune = sides(recipe, data, report)
    table_hash = splits.fingerprint(table_of(recipe))
    if report:
        _remark_on_tables([*([start] if start else []), *teachers], {s.source for s in (*train, *tune)}, recipe, report)
    if at_most is not None:
        train, tune = (found[:: -(-len(found) // at_most)] for found in (train, tune))
    train_images, tune_images = (
        cache.load(
            found,
            recipe.classes,
            recipe.input_size,
            recipe.processing,
            folder=cache_folder,
            progress=progress and partial(progress, "resizing images"),
        )
        for found in (train, tune)
    )
    if teachers:
        train_images = taught(
            train_images,
            teachers,
            recipe.distillation.share,
            folder=cache_folder,
            progress=progress and partial(progress, "teachers look"),
        )
    sources = tuple(sorted({sample.source for sample in tune}))
    weights = {} if start is None else {"weights it began with": start.manifest.licence}
    # Numbered, for two may bear one name and have different licences.
    weights |= {f"teacher {place}, {bundle.name}": bundle.manifest.licence for place, bundle in enumerate(teachers, 1)}
    return RunData(
        train=train_images,
        tune=TuneSet(tune_images, np.array([sources.index(sample.source) for sample in tune], np.int64), sources),
        description=TrainingData(
            sources=dict(Counter(sample.source for sample in train)),
            licences={sample.source: sample.licence for sample in (*train, *tune)} | weights,
            split="train",
            initialisation=initialisation_of(recipe),
            content_hash=hashlib.sha256((train_images.content_hash + tune_images.content_hash).encode()).hexdigest(),
            splits_hash=table_hash,
        ),
    )


def sides(
    recipe: Recipe, data: str | Path, report: Callable[[str], None] | None = None
) -> tuple[list[Sample], list[Sample]]:
    """The samples a recipe trains on, and those it is tuned on, of a folder of data sets; without quarantined ones.

    Raises:
        DataError: If the data sets cannot be read, or a side is empty.
    """
    try:
        samples = catalog.read(data, recipe.data.sources)
    except DataError as error:
        if recipe.data.sources is None:
            raise
        raise DataError(
            f"{error}\nthe recipe {recipe.name} reads {', '.join(recipe.data.sources)}; other data sets are read with "
            "--set data.sources=[...], your own with [plain]"
        ) from error
    lists = [recipe.data.quarantine] if recipe.data.quarantine else quarantine.find(Path(data))
    samples = catalog.with_masks(quarantine.keep(samples, lists, report), recipe.classes)
    table = table_of(recipe)
    train, tune = (splits.select(samples, side, table) for side in ("train", "tune"))
    # An image that several data sets share is scored once, by the first one's mask.
    tune = list({sample.id: sample for sample in reversed(tune)}.values())[::-1]
    for side, found in (("train", train), ("tune", tune)):
        if not found:
            raise DataError(
                f"{data} has no image with masks of {', '.join(recipe.classes)} in the split {side!r}; "
                "training needs some; draw sides with 'dermseg data split' and give --set data.splits=TABLE"
            )
    return train, tune


def _remark_on_tables(
    bundles: Iterable[Bundle], sources: Collection[str], recipe: Recipe, report: Callable[[str], None]
) -> None:
    """Say which bundles that a run begins with, or is taught by, may have seen what it is to be scored on."""
    own = {splits.fingerprint(table_of(recipe))}
    if recipe.data.splits is None:  # no image of the attributes' tune and test is in train of the lesion's table
        own.add(splits.fingerprint(splits.read()))
    for bundle in bundles:
        if all(splits.may_have_seen(bundle.manifest.training_data, sources, each) for each in own):
            report(f"{bundle.name} was trained by another table of splits: it may have seen images of tune and test")


def table_of(recipe: Recipe) -> dict[str, Split]:
    """The table of splits a recipe goes by."""
    return splits.read(recipe.data.splits or splits.default_for(recipe.classes))


def now_and_then(report: Callable[[str], None], seconds: float = 10) -> Progress:
    """Progress that takes a line at most every ``seconds``."""
    last = time.monotonic()

    def progress(what: str, done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            report(f"{what}: {done} of {count}")

    return progress
