"""The training step, the scores on ``tune``, and the optimizer, as a Lightning module."""

from __future__ import annotations

from typing import Any, cast

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from dermseg.data.cache import PADDING
from dermseg.errors import RecipeError
from dermseg.models import build
from dermseg.models.blocks import Outputs
from dermseg.training.augmentation import augment
from dermseg.training.config import Recipe
from dermseg.training.datamodule import Batch
from dermseg.training.losses import WeightedSum, deep_supervised
from dermseg.training.normalisation import NORMALISATIONS
from dermseg.training.optimization import check_schedule, make_optimizer, make_schedules
from dermseg.training.scoring import TuneScorer


class SegmentationTraining(lightning.LightningModule):
    """Trains a network as ``recipe`` says.

    Logs ``train/loss`` for each step, with ``train/loss_<name>`` where it is a sum of several, and after each epoch
    ``tune/loss`` and the scores of ``TuneScorer``, such as ``tune/jaccard``, at the thresholds that are best for
    ``recipe.monitor``.

    Attributes:
        model: The network.
        thresholds: Of each class, for the last scored weights.
        learning_rate: Of the network's parts without their own rate.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        check_schedule(recipe.schedule, recipe.optimizer.lr, recipe.epochs)
        self.model = build(
            recipe.model.name,
            classes=len(recipe.classes),
            initialisation=recipe.model.initialisation,
            **recipe.model.arguments,
        )
        cast(Any, self.model).to(memory_format=torch.channels_last)
        freeze(self.model, recipe.freeze)
        if recipe.compile:
            self.model.compile()
        self.learning_rate = recipe.optimizer.lr
        self.thresholds = dict.fromkeys(recipe.classes, 0.5)
        self._loss = WeightedSum(recipe.loss)
        self._terms_of_outputs = deep_supervised(self._loss.terms, recipe.deep_supervision)
        self.train()  # Lightning keeps the modes it finds, and pretrained parts come in that of evaluation

    def train(self, mode: bool = True) -> SegmentationTraining:
        """Set the mode; frozen parts stay as in evaluation, so that their normalisation keeps its statistics."""
        super().train(mode)
        for part in self.recipe.freeze:
            self.model.get_submodule(part).eval()
        return self

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One batch: augment, predict, loss."""
        # Each batch draws from its own seed, so a resumed run repeats what an uninterrupted one draws.
        drawn = self.current_epoch * int(self.trainer.num_training_batches) + batch_index
        torch.manual_seed((self.recipe.seed * 1_000_003 + drawn) * 4099 + self.global_rank)
        pixels, truth = batch[0].float() / 255, batch[1].float() / 255
        side = self.recipe.early_size
        if side and side < self.recipe.input_size and self.current_epoch < self.recipe.early_epochs:
            pixels, truth = (_resized(values, side) for values in (pixels, truth))
        image, mask = augment(pixels, truth, self.recipe.augmentation, padding=PADDING / 255)
        terms = self._terms_of_outputs(self._outputs(image), mask)
        loss = terms.sum()
        if not bool(torch.isfinite(loss)):
            raise RecipeError(
                f"the training diverged: the loss is not a number in epoch {self.current_epoch + 1}, "
                f"batch {batch_index + 1}; lower optimizer.lr, or set precision to 32-true"
            )
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(image), sync_dist=True)
        if len(terms) > 1:
            named = {f"train/loss_{name}": term for name, term in zip(self._loss.names, terms.detach(), strict=True)}
            self.log_dict(named, on_step=True, on_epoch=True, batch_size=len(image), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count anew, by the data's own names of its data sets."""
        sources = cast(Any, self.trainer).datamodule.sources
        self._scorer = TuneScorer(self.recipe.classes, sources, self.recipe.monitor)

    def validation_step(self, batch: Batch) -> None:
        """Count hits and misses of each image at every threshold."""
        image, mask, source = batch
        logits = self._outputs(image.float() / 255)
        assert isinstance(logits, Tensor)
        if not bool(torch.isfinite(logits).all()):
            raise RecipeError("the training diverged: the network gives NaN; lower optimizer.lr")
        loss = self._loss(logits, mask.float() / 255)
        self.log("tune/loss", loss, on_step=False, on_epoch=True, batch_size=len(image), sync_dist=True)
        self._scorer.update(logits.float().sigmoid(), mask > 127, source)

    def on_validation_epoch_end(self) -> None:
        """Score the epoch."""
        scores = self._scorer.compute()
        self.thresholds = scores.thresholds
        for name, value in scores.values.items():
            self.log(f"tune/{name}", value, prog_bar=name == self.recipe.monitor)
        for name, value in scores.thresholds.items():
            self.log("tune/threshold" + f"_{name}" * (len(scores.thresholds) > 1), value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the thresholds with the weights they were fitted for."""
        checkpoint["thresholds"] = self.thresholds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the thresholds back."""
        self.thresholds = checkpoint["thresholds"]

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule of the recipe."""
        recipe = self.recipe
        optimizer = make_optimizer(self.model, recipe.optimizer.model_copy(update={"lr": self.learning_rate}))
        schedules = make_schedules(
            optimizer,
            recipe.schedule,
            epochs=recipe.epochs,
            total_steps=int(self.trainer.estimated_stepping_batches),
            batches_per_epoch=int(self.trainer.num_training_batches),
            monitor=f"tune/{recipe.monitor}",
        )
        return [optimizer], schedules

    def predict_probability(self, image: Tensor) -> Tensor:
        """Probabilities (B, K, H, W) of 8-bit images (B, 3, H, W), in the network's present mode."""
        outputs = self._outputs(image.float() / 255)
        return (outputs.logits if isinstance(outputs, Outputs) else outputs).float().sigmoid()

    def _outputs(self, image: Tensor) -> Tensor | Outputs:
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in NORMALISATIONS[self.recipe.normalisation]
        )
        outputs: Tensor | Outputs = self.model(((image - mean) / std).contiguous(memory_format=torch.channels_last))
        return outputs


def _resized(values: Tensor, side: int) -> Tensor:
    """(B, C, S, S) in [0, 1] at another size."""
    return F.interpolate(values, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)


def freeze(network: torch.nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the weights of named parts, such as ``encoder``.

    Raises:
        RecipeError: If the network has no such part, or nothing is left to train.
    """
    for part in parts:
        try:
            module = network.get_submodule(part)
        except AttributeError as error:
            names = ", ".join(name for name, _ in network.named_children())
            raise RecipeError(f"cannot freeze {part!r}: the network has no such part; it has {names}") from error
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise RecipeError("the recipe freezes the whole network, which leaves nothing to train; shorten freeze")
