"""The networks, by name; each keeps one contract.

A model maps ``image_BCHW`` (normalised float) to ``logits_BKHW`` at the same height and width, for any
height and width, with one channel a class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dermseg.errors import RecipeError
from dermseg.models.light import Light

MODELS: Mapping[str, Callable[..., nn.Module]] = {"light": Light}


def build(name: str, *, classes: int, **arguments: Any) -> nn.Module:
    """Build a registered model.

    Args:
        name: A key of ``MODELS``.
        classes: Number of output channels, at least 1.
        arguments: The model's own arguments.

    Raises:
        RecipeError: For a name or an argument that does not exist.
    """
    if name not in MODELS:
        raise RecipeError(f"there is no model {name!r}; choose one of: {', '.join(sorted(MODELS))}")
    try:
        return MODELS[name](classes=classes, **arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model {name!r} does not take these arguments: {error}") from error
