"""The training step, the score on ``tune``, and the optimizer, as a Lightning module."""

from __future__ import annotations

import math
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import Tensor

from dermseg.data.cache import PADDING
from dermseg.errors import RecipeError
from dermseg.models import build
from dermseg.training.augmentation import augment
from dermseg.training.config import Recipe
from dermseg.training.datamodule import Batch
from dermseg.training.losses import weighted_sum

# x / 127.5 - 1 for 8-bit values: what MobileNetV2's ImageNet weights expect, and fair to any other network.
MEAN, STD = 0.5, 0.5
THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.01), 2)


class LesionTraining(lightning.LightningModule):
    """Trains ``model`` as ``recipe`` says.

    Logs ``train/loss`` for each step, and after each epoch ``tune/jaccard``: the mean Jaccard index over images at the
    network's size, for the best single threshold, averaged over data sets so that a large one does not decide alone.
    """

    def __init__(self, recipe: Recipe, sources: tuple[str, ...]) -> None:
        super().__init__()
        self.recipe = recipe
        self.sources = sources
        self.model = build(recipe.model.name, classes=len(recipe.classes), **recipe.model.arguments)
        cast(Any, self.model).to(memory_format=torch.channels_last)
        self.loss = weighted_sum(recipe.loss)
        self._scores: list[tuple[Tensor, Tensor]] = []
        self.threshold = 0.5

    def training_step(self, batch: Batch) -> Tensor:
        """One batch: augment, predict, loss."""
        # Each step draws from its own seed, so a resumed run repeats what an uninterrupted one draws.
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.global_step) * 4099 + self.global_rank)
        image, mask = augment(
            batch[0].float() / 255, batch[1].float() / 255, self.recipe.augmentation, padding=PADDING / 255
        )
        loss = self.loss(self._logits(image), mask)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(image))
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Jaccard of each image at every threshold."""
        image, mask, source = batch
        probability = self._logits(image.float() / 255).float().sigmoid()
        if not bool(torch.isfinite(probability).all()):
            raise RecipeError("the training diverged: the network gives NaN; lower optimizer.lr")
        truth = mask > 127
        scores = [_jaccard(probability > float(t), truth) for t in THRESHOLDS]
        self._scores.append((torch.stack(scores, dim=1).cpu(), source.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score the epoch."""
        scores = torch.cat([s for s, _ in self._scores])
        source = torch.cat([s for _, s in self._scores])
        self._scores.clear()
        present = [index for index in range(len(self.sources)) if bool((source == index).any())]
        curves = {self.sources[index]: scores[source == index].mean(dim=0) for index in present}
        overall = torch.stack(list(curves.values())).mean(dim=0)
        best = int(overall.argmax())
        self.threshold = float(THRESHOLDS[best])
        self.log("tune/jaccard", overall[best], prog_bar=True)
        self.log("tune/threshold", self.threshold)
        for name, curve in curves.items():
            self.log(f"tune/jaccard_{name}", curve[best])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the threshold with the weights it was fitted for."""
        checkpoint["threshold"] = self.threshold

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, stepped at every batch."""
        settings = self.recipe.optimizer
        encoder = [p for name, p in self.model.named_parameters() if name.startswith("encoder.")]
        rest = [p for name, p in self.model.named_parameters() if not name.startswith("encoder.")]
        optimizer = torch.optim.AdamW(
            [
                {"params": encoder, "lr": settings.lr * settings.encoder_lr},
                {"params": rest, "lr": settings.lr},
            ],
            weight_decay=settings.weight_decay,
        )
        total = int(self.trainer.estimated_stepping_batches)
        warmup = min(total - 1, int(settings.warmup * total / self.recipe.epochs))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _logits(self, image: Tensor) -> Tensor:
        normalised = (image - MEAN) / STD
        logits: Tensor = self.model(normalised.contiguous(memory_format=torch.channels_last))
        return logits


def _jaccard(prediction: Tensor, truth: Tensor) -> Tensor:
    """Jaccard index of each image, averaged over classes; two empty masks agree (1)."""
    intersection = (prediction & truth).sum(dim=(2, 3)).float()
    union = (prediction | truth).sum(dim=(2, 3)).float()
    return torch.where(union > 0, intersection / union.clamp(min=1), 1.0).mean(dim=1)
