"""Targets from teachers: the truth mixed with what trained bundles see in a training image.

An outline drawn by hand has its own style and slips; what several views of a trained network agree on has less of them
(Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dermseg.bundle import Bundle
from dermseg.data.cache import CachedImages, default_folder
from dermseg.engine import open_engine
from dermseg.errors import InputError, RecipeError
from dermseg.parallel import in_order
from dermseg.training.bundling import check_sides
from dermseg.training.config import Recipe
from dermseg.uncertainty import TRANSFORMS, augmented, plain

FORMAT = 1
BATCH = 8
FLIPS = [view for view in TRANSFORMS if view.zoom == 1 and view.turns % 2 == 0]
# Nearer than this to 0 or 1 a teacher is sure.
SURE = 0.04


def teachers_of(recipe: Recipe) -> list[Bundle]:
    """The recipe's teachers.

    Raises:
        BundleError: If one cannot be read.
        RecipeError: If one has other classes or takes images of another size or processing, or was trained on what the
            recipe tests on.
    """
    bundles = [Bundle.load(name) for name in recipe.distillation.teachers]
    for bundle in bundles:
        manifest = bundle.manifest
        check_sides(bundle, recipe)
        theirs = {"classes": manifest.classes, "input_size": manifest.input_size, "processing": manifest.processing}
        for name, value in theirs.items():
            if value != getattr(recipe, name):
                raise RecipeError(
                    f"the teacher {bundle.path} has {name} {value}, the recipe {getattr(recipe, name)}; they must be "
                    "the same"
                )
    return bundles


def taught(
    images: CachedImages,
    teachers: Sequence[Bundle],
    share: float,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedImages:
    """The same images with the teachers' share in their masks; made once, and kept beside the images' cache.

    Their content hash tells the teachers' weights too, so that a run is not resumed with others.

    Args:
        images: At the teachers' input size.
        teachers: One at least; what they see is averaged, over the four flips of each image.
        share: Of the teachers in each pixel of the masks, in [0, 1]; the truth has the rest.
        folder: Where caches lie; ``dermseg.data.cache.default_folder()`` if None.
        progress: Called with images done and images in all while the teachers work.

    Raises:
        BundleError: If a teacher's network cannot be loaded.
        InputError: If the cache cannot be written.
    """
    weights = [f"{name} {value}" for bundle in teachers for name, value in sorted(bundle.manifest.hashes.items())]
    made = " ".join([str(FORMAT), images.content_hash, str(share), *weights])
    content_hash = hashlib.sha256(made.encode()).hexdigest()
    home = (folder or default_folder()) / f"{content_hash[:32]}.npy"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{home}.lock"):  # of several processes one works and the others wait
            if not home.exists():
                part = home.with_suffix(".part")
                masks = np.lib.format.open_memmap(part, "w+", np.uint8, images.masks.shape)
                done = 0
                for mixed in _mixed(images, teachers, share):
                    masks[done : done + len(mixed)] = mixed
                    done += len(mixed)
                    if progress is not None:
                        progress(done, len(images))
                masks.flush()
                part.rename(home)
    except OSError as error:
        raise InputError(
            f"{home.parent} cannot be written ({error.strerror}); set DERMSEG_CACHE to a folder that can"
        ) from error
    return replace(images, masks=np.load(home, mmap_mode="r"), content_hash=content_hash)


def _mixed(images: CachedImages, teachers: Sequence[Bundle], share: float) -> Iterator[NDArray[np.uint8]]:
    """The masks with the teachers' share, (B, K, S, S) after (B, K, S, S)."""
    predictors = []
    for bundle in teachers:
        look = bundle.manifest.normalisation
        average, std = (np.array(values, np.float32)[:, None, None] for values in (look.mean, look.std))
        padding: NDArray[np.float32] = (look.padding / np.float32(255) - average) / std
        predict = augmented(plain(open_engine(bundle, threads=1)), padding.ravel().tolist(), FLIPS)
        predictors.append((predict, average, std))

    def mix(start: int) -> NDArray[np.uint8]:
        pixels, truth = (values[start : start + BATCH] for values in (images.images, images.masks))
        scaled = pixels.transpose(0, 3, 1, 2) / np.float32(255)
        views = [predict(((scaled - average) / std).astype(np.float32)) for predict, average, std in predictors]
        seen = np.mean([each.mean(axis=1) for each in views], axis=0)
        seen = np.where(seen < SURE, 0, np.where(seen > 1 - SURE, 1, seen))
        mixed: NDArray[np.uint8] = np.round(share * 255 * seen + (1 - share) * truth).astype(np.uint8)
        return mixed

    return in_order(mix, range(0, len(images), BATCH))
