"""The bundle that a run leaves, and the one it may begin with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dermseg._version import __version__
from dermseg.bundle import Bundle
from dermseg.data import catalog, splits
from dermseg.data.cache import PADDING, CachedImages
from dermseg.errors import RecipeError
from dermseg.export import export
from dermseg.manifest import Architecture, Manifest, Normalisation, TrainingData
from dermseg.models import build, pretrained_name
from dermseg.training.config import Recipe
from dermseg.training.normalisation import NORMALISATIONS

PARITY_IMAGES = 8
OWN_LICENCE = "Apache-2.0"
SEVERAL = "as its training data: "


def make_bundle(folder: Path, recipe: Recipe, data: TrainingData, images: CachedImages) -> Bundle:
    """Make ``folder / "bundle"`` of the run's best checkpoint; ``images`` check that its two networks agree."""
    best = torch.load(folder / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    network = network_of(recipe)
    network.load_state_dict({name.removeprefix("model."): value for name, value in best["state_dict"].items()})
    chosen = np.unique(np.linspace(0, len(images) - 1, PARITY_IMAGES).astype(int))
    return bundle_of(
        network,
        recipe,
        folder / "bundle",
        name=recipe.name,
        data=data,
        thresholds=best["thresholds"],
        licence=licence_of_weights(data.licences.values()),
        pixels=images.images[chosen],
    )


def network_of(recipe: Recipe) -> nn.Module:
    """The recipe's network with random weights."""
    return build(recipe.model.name, classes=len(recipe.classes), **_arguments(recipe))


def bundle_of(
    network: nn.Module,
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    data: TrainingData,
    thresholds: dict[str, float],
    licence: str,
    pixels: NDArray[np.uint8],
) -> Bundle:
    """Make a bundle of a network of the recipe; ``pixels`` (N, S, S, 3) check that its two networks agree."""
    mean, std = NORMALISATIONS[recipe.normalisation]
    manifest = Manifest(
        name=name,
        description=recipe.description,
        architecture=Architecture(
            name=recipe.model.name,
            arguments=_arguments(recipe),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
        ),
        classes=recipe.classes,
        input_size=recipe.input_size,
        normalisation=Normalisation(mean=mean, std=std, padding=PADDING),
        processing=recipe.processing,
        thresholds=thresholds,
        training_data=data,
        licence=licence,
        versions={"dermseg": __version__} | {name: version(name) for name in ("torch", "lightning", "onnx")},
    )
    normalised = (pixels / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    images = normalised.transpose(0, 3, 1, 2).astype(np.float32)
    return export(folder, network.eval(), manifest, images)


def begin_with(network: nn.Module, bundle: Bundle, recipe: Recipe) -> None:
    """Give ``network``, of ``recipe``, the weights of ``bundle``; heads for other classes keep their own.

    Raises:
        RecipeError: If the bundle is of another network, or was trained on what the recipe tests on.
    """
    check_sides(bundle, recipe)
    architecture, own = bundle.manifest.architecture, network.state_dict()
    weights = bundle.network().state_dict() if architecture.name == recipe.model.name else {}
    if bundle.manifest.classes != recipe.classes:
        # In the same network it is the classes that make a shape differ.
        same = architecture.arguments == _arguments(recipe)
        weights = {
            name: own[name] if name in own and (_is_head(name) or (same and own[name].shape != value.shape)) else value
            for name, value in weights.items()
        }
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise RecipeError(
            f"{bundle.path} is of another network ({architecture.name} {architecture.arguments}) than the recipe "
            f"({recipe.model.name} {_arguments(recipe)}); a run can begin with the weights of the same one"
        )
    network.load_state_dict(weights)


def check_sides(bundle: Bundle, recipe: Recipe) -> None:
    """Refuse a bundle that knows what the recipe tests on.

    Raises:
        RecipeError: If it was trained on some of that.
    """
    theirs, ours = bundle.manifest.training_data.sources, recipe.data.sources
    by_default = recipe.data.splits is None and splits.default_for(recipe.classes) == splits.DEFAULT
    by_other_table = splits.default_for(bundle.manifest.classes) != splits.DEFAULT
    if by_default and by_other_table and (ours is None or not theirs or splits.share_images(theirs, ours)):
        raise RecipeError(
            f"{bundle.path} was trained on images that are 'test' for {', '.join(recipe.classes)}; take another"
        )


def _is_head(name: str) -> bool:
    # Mask2Former's queries are its classes.
    return name.split(".")[0] in ("head", "auxiliary") or "queries" in name


def initialisation_of(recipe: Recipe) -> str:
    """What the network begins with, and its teachers, in words."""
    taught = f"; its teachers are {', '.join(Bundle.load(name).name for name in recipe.distillation.teachers)}"
    return _beginning_of(recipe) + taught * bool(recipe.distillation.teachers)


def _beginning_of(recipe: Recipe) -> str:
    if recipe.start is not None:
        start = Bundle.load(recipe.start)
        return f"the bundle {start.name}, itself from {start.manifest.training_data.initialisation}"
    pretrained = recipe.model.arguments.get("pretrained")
    if pretrained is None or pretrained is False:
        return "random weights"
    name = pretrained_name(recipe.model.name, recipe.model.arguments) if pretrained is True else Path(pretrained).name
    return f"the pretrained weights {name}" + f" ({recipe.model.origin})" * bool(recipe.model.origin)


def licence_of_weights(licences: Iterable[str]) -> str:
    """The licence of weights made from data and weights under ``licences``: what the strictest still allows."""
    # That of weights may itself be such a list.
    single = {part for licence in licences for part in licence.removeprefix(SEVERAL).split(", ")}
    strict = single - {catalog.CC0, OWN_LICENCE}
    if not strict:
        return OWN_LICENCE
    return catalog.CC_BY_NC if strict == {catalog.CC_BY_NC} else SEVERAL + ", ".join(sorted(strict))


def _arguments(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.model.arguments.items() if name != "pretrained"}
