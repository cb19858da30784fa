"""A training run that takes a moment, and weights drawn for networks: without the real network and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dermseg import synthetic
from dermseg.data.cache import CachedImages
from dermseg.training.config import Recipe

SIZE = 32
BATCHES = 3
BATCH_SIZE = 4
LESION = ("lesion",)


class StopError(Exception):
    """What stops a run in these tests."""


class TinyTraining(lightning.LightningModule):
    """One layer, with the attributes and the metrics of the real module."""

    def __init__(self, recipe: Recipe, fail_at: int | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = nn.Sequential(nn.Conv2d(3, len(recipe.classes), 1), nn.Dropout(0.5))
        self.thresholds = dict.fromkeys(recipe.classes, 0.5)
        self.drawn: list[float] = []
        self._fail_at = fail_at

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        if self._fail_at == self.trainer.fit_loop.total_batch_idx + 1:
            raise StopError("stopped")
        with torch.random.fork_rng([]):
            torch.manual_seed(self.trainer.fit_loop.total_batch_idx)  # so that a resumed run repeats it
            error: Tensor = (self.predict_probability(batch[0]) - batch[1].float() / 255).square().mean()
        loss = 2 * error
        for name, value in (("loss", loss), ("loss_bce", error)):
            self.log(f"train/{name}", value, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        error = (self.predict_probability(batch[0]) - batch[1].float() / 255).square().mean()
        self.log("tune/loss", error, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        epoch = self.current_epoch + 1
        self.thresholds = dict.fromkeys(self.recipe.classes, epoch / 10)
        for name, value in (("jaccard", 0.5), ("dice", 0.6), ("precision", float("nan")), ("jaccard_plain", 0.5)):
            self.log(f"tune/{name}", value + epoch / 100)
        if len(self.recipe.classes) == 1:
            self.log("tune/threshold", epoch / 10)
        else:
            for name in self.recipe.classes:
                self.log(f"tune/threshold_{name}", epoch / 10)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict_probability(self, image: Tensor) -> Tensor:
        probability: Tensor = self.model(image.float() / 255).sigmoid()
        return probability


def recipe(**settings: Any) -> Recipe:
    usual = {"name": "tiny", "description": "A run of a test.", "model": {"name": "light"}, "input_size": SIZE}
    return Recipe.model_validate(usual | settings)


def images(count: int = 6, classes: int = 1) -> CachedImages:
    drawn = [synthetic.draw(seed, (SIZE, SIZE)) for seed in range(count)]
    masks = np.stack([np.repeat(image.mask[None], classes, axis=0) for image in drawn])
    return CachedImages(np.stack([image.pixels for image in drawn]), masks.astype(np.uint8) * 255, "0" * 64)


def fit(
    callbacks: Sequence[Callback],
    *,
    epochs: int = 2,
    classes: tuple[str, ...] = LESION,
    checkpoints: Path | None = None,
    resume: bool = False,
    average: bool = False,
    accumulate: int = 1,
    fail_at: int | None = None,
) -> TinyTraining:
    """Train; ``checkpoints`` is a folder to save in after each epoch, and to resume from."""
    lightning.seed_everything(0, verbose=False)
    module = TinyTraining(recipe(classes=classes), fail_at)
    data = images(BATCHES * BATCH_SIZE, len(classes))
    pairs = [
        (torch.from_numpy(a).permute(2, 0, 1), torch.from_numpy(b))
        for a, b in zip(data.images, data.masks, strict=True)
    ]
    saving = (
        [] if checkpoints is None else [ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)]
    )
    averaging = [WeightAveraging(avg_fn=lambda averaged, current, count: averaged * 0)] if average else []
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[*averaging, *callbacks, *saving],
        logger=False,
        enable_checkpointing=checkpoints is not None,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    last = None if not resume or checkpoints is None else checkpoints / "last.ckpt"
    train, tune = (DataLoader(cast(Any, pairs), batch_size=BATCH_SIZE) for _ in range(2))
    trainer.fit(module, train, tune, ckpt_path=last, weights_only=True)
    return module


def draw_weights(network: nn.Module) -> None:
    """Give convolutions and normalisation values that keep features in range and are not their initial ones."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.get_buffer("running_mean").normal_(0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 2)
