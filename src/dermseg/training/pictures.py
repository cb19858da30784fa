"""Draws a run's figures while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from dermseg.data.cache import PADDING, CachedImages, fit
from dermseg.training import journal, plots
from dermseg.training.augmentation import augment
from dermseg.training.config import Recipe
from dermseg.training.prepare import sides

FIGURES = Path("figures")
SAMPLES = 16
CURVES_EVERY_S = 20  # drawing them takes more than a second of a CPU


class Pictures(Callback):
    """Draws samples of the training images, and after each epoch the curves and the same few images of ``tune``.

    The curves are drawn from the journal, so that those of a resumed run show all of it. The images are predicted
    while the module scores ``tune``, with the weights that are scored. Neither the random numbers nor the module are
    changed by it. Attach it after ``Journal``; where it stands to ``WeightAveraging`` makes no difference.

    Args:
        folder: The run folder.
        train: The training images; None draws no samples.
        tune: The images to predict some of, from all over them.
        count: How many.
    """

    def __init__(self, folder: Path, train: CachedImages | None, tune: CachedImages, *, count: int = 4) -> None:
        self._folder = folder
        self._train = train
        chosen = spread(len(tune), count)
        self._images: NDArray[np.uint8] = np.asarray(tune.images[chosen])
        self._truth: NDArray[np.bool_] = np.asarray(tune.masks[chosen]) > 127
        self._probability: list[NDArray[np.float32]] = []
        self._drawn = 0.0

    @override
    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw samples of the training images, once in a run."""
        self._drawn = time.monotonic()
        path = self._folder / FIGURES / "dataset_samples.png"
        if not trainer.is_global_zero or self._train is None or path.exists():
            return
        recipe: Any = pl_module.recipe
        chosen = spread(len(self._train), SAMPLES)
        images, masks = augmented(self._train.images[chosen], self._train.masks[chosen], recipe, recipe.seed)
        plots.dataset_samples(list(images), list(masks), path, classes=recipe.classes)

    @override
    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Predict with the first batch: by then every callback has put its weights in place."""
        if not trainer.is_global_zero or trainer.sanity_checking or self._probability:
            return
        module: Any = pl_module
        images = torch.from_numpy(self._images).permute(0, 3, 1, 2)
        with _own_randomness(pl_module.device), torch.no_grad(), trainer.precision_plugin.val_step_context():
            for image in images:
                probability: Tensor = module.predict_probability(image[None].to(pl_module.device))
                self._probability.append(probability[0].float().cpu().numpy())

    @override
    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the images, and the curves if they are not new."""
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        figures, epoch = self._folder / FIGURES, trainer.current_epoch + 1
        if self._probability:
            plots.predictions(
                list(self._images),
                list(self._truth),
                self._probability,
                figures / "epochs" / f"epoch_{epoch:03d}.png",
                thresholds=module.thresholds,
                title=f"Epoch {epoch}",
            )
            self._probability = []
        if time.monotonic() - self._drawn > CURVES_EVERY_S:
            self._draw_curves(module.recipe)

    @override
    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the curves with the last epoch."""
        if trainer.is_global_zero:
            module: Any = pl_module
            self._draw_curves(module.recipe)

    def _draw_curves(self, recipe: Recipe) -> None:
        history, figures = journal.read(self._folder), self._folder / FIGURES
        plots.metrics_history(history, figures / "metrics_history.png", monitor=recipe.monitor)
        plots.detailed_metrics(history, figures / "detailed_metrics.png", classes=recipe.classes)
        plots.learning_rate(history, figures / "learning_rate.png")
        self._drawn = time.monotonic()


def augmented(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], recipe: Recipe, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """What training sees of cached images (N, S, S, 3) and masks (N, K, S, S); the random numbers stay as they are."""
    with _own_randomness(torch.device("cpu")):
        torch.manual_seed(seed)
        seen, inside = augment(
            torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float() / 255,
            torch.from_numpy(np.asarray(masks)).float() / 255,
            recipe.augmentation,
            padding=PADDING / 255,
        )
    return (seen.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy(), (inside > 0.5).numpy()


def preview(
    recipe: Recipe, data: str | Path, path: Path, *, count: int = 6, variants: int = 4, seed: int | None = None
) -> None:
    """Draw what training sees: in each row an image as it is prepared, then as it is changed at random.

    Args:
        recipe: The settings.
        data: A folder of data sets.
        path: The PNG file to write.
        count: Images, from all over the training images.
        variants: Of each.
        seed: Of the changes; the recipe's if None.

    Raises:
        DataError: If the data sets cannot be read.
    """
    train, _ = sides(recipe, data)
    shown: list[NDArray[np.uint8]] = []
    outlines: list[NDArray[np.bool_]] = []
    for row, index in enumerate(spread(len(train), count)):
        image, masks = fit(train[index], recipe.classes, recipe.input_size, recipe.processing)
        images = np.repeat(image[None], variants, axis=0)
        seen, inside = augmented(
            images, np.repeat(masks[None], variants, axis=0), recipe, (recipe.seed if seed is None else seed) + row
        )
        shown += [image, *seen]
        outlines += [masks > 127, *inside]
    title = f"{recipe.name}: each image as it is prepared, then as training sees it"
    plots.dataset_samples(shown, outlines, path, classes=recipe.classes, columns=1 + variants, title=title)


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the random numbers of the run as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
