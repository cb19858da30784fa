"""Reads the flat YAML of the lesion attributes system.

Such as::

    model: unet-residual
    classes: 5
    epochs: 50
    lr: 1e-4
    optimizer: adamw
    scheduler: cosine

It becomes a recipe on top of the shipped ``attributes-*`` recipe of the same network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dermseg.data.catalog import ATTRIBUTES
from dermseg.errors import RecipeError, choose_from

RECIPES = {
    "unet": "attributes-unet",
    "unet-residual": "attributes-residual-unet",
    "unet-attention": "attributes-attention-unet",
    "unet-convnext-attention": "attributes-convnext-unet",
}
# Settings that only moved.
PLACES = {
    "epochs": "epochs",
    "batch_size": "batch_size",
    "seed": "seed",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "momentum": "optimizer.momentum",
    "scheduler": "schedule.name",
    "t_max": "schedule.t_max",
    "eta_min": "schedule.eta_min",
    "t_0": "schedule.t_0",
    "t_mult": "schedule.t_mult",
    "step_size": "schedule.step_size",
    "gamma": "schedule.gamma",
    "patience": "schedule.patience",
    "factor": "schedule.factor",
    "max_lr": "schedule.max_lr",
    "init": "model.initialisation",
}
KEYS = (*PLACES, "model", "classes", "pretrained", "freeze", "bilinear", "amp", "load")
# "none" is a choice of these; YAML's own null and false mean the same.
MAY_BE_NONE = ("scheduler", "init")


def is_legacy(content: Mapping[Any, Any]) -> bool:
    """Whether this is the flat YAML: in a recipe ``model`` is a section, and the rate is ``optimizer.lr``."""
    if "model" in content:
        return isinstance(content["model"], str)
    return "lr" in content and not {"base", "name"} & content.keys()


def convert(content: Mapping[Any, Any], file: str) -> dict[str, Any]:
    """Say the same in our settings, with the shipped recipe as ``base``.

    Args:
        content: The file's keys and values.
        file: Its name, for messages.

    Raises:
        RecipeError: If a key does not exist, or a value says what cannot be done.
    """
    for key in content:
        if key not in KEYS:
            raise RecipeError(f"{file}: there is no setting {str(key)!r}; {choose_from(str(key), KEYS)}")
    given = {key: value for key, value in content.items() if value is not None or key in MAY_BE_NONE}
    model = given.pop("model", "unet")
    if model not in RECIPES:
        raise RecipeError(f"{file}: there is no model {model!r}; {choose_from(str(model), RECIPES)}")
    recipe: dict[str, Any] = {"base": RECIPES[model], "name": RECIPES[model]}
    for key, place in PLACES.items():
        if key in given:
            _put(recipe, place, _name(given[key]) if key in ("optimizer", *MAY_BE_NONE) else given[key])
    if "scheduler" in given:
        _put(recipe, "schedule.warmup", 0)  # there was none
    if "classes" in given:
        recipe["classes"] = _classes(given["classes"], file)
    if "bilinear" in given:
        _put(recipe, "model.arguments.upsample", "bilinear" if given["bilinear"] else "transposed")
    # Only one of the networks has a part with weights of its own.
    if model == "unet-convnext-attention":
        if given.get("pretrained"):
            _put(recipe, "model.arguments.pretrained", given["pretrained"])
        if given.get("freeze"):
            recipe["freeze"] = ["encoder"]
    if "amp" in given:
        recipe["precision"] = "bf16-mixed" if given["amp"] else "32-true"
    if given.get("load"):
        recipe["start"] = _start(str(given["load"]), RECIPES[model], file)
    return recipe


def _put(recipe: dict[str, Any], place: str, value: object) -> None:
    *sections, last = place.split(".")
    for section in sections:
        recipe = recipe.setdefault(section, {})
    recipe[last] = value


def _name(value: object) -> object:
    if value is None or value is False:
        return "none"
    return value.lower() if isinstance(value, str) else value


def _classes(value: object, file: str) -> list[str]:
    if value == len(ATTRIBUTES):
        return list(ATTRIBUTES)
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{file}: classes is {value!r}; expected {len(ATTRIBUTES)} or names of {list(ATTRIBUTES)}")
    names = [str(name).lower().replace(" ", "_").replace("-", "_") for name in value]
    for name, given in zip(names, value, strict=True):
        if name not in ATTRIBUTES:
            raise RecipeError(f"{file}: there is no class {given!r}; {choose_from(name, ATTRIBUTES)}")
    return names


def _start(load: str, recipe: str, file: str) -> str:
    if Path(load).suffix in (".pth", ".pt", ".tar"):
        raise RecipeError(
            f"{file}: load is the checkpoint {load}; make a bundle of it by 'dermseg bundles import {load} "
            f"--recipe {recipe}', and give the bundle's folder here"
        )
    if Path(load).suffix == ".ckpt":
        raise RecipeError(
            f"{file}: load is the checkpoint {load}; leave it out, and go on with its run by --output RUN --resume"
        )
    return load
