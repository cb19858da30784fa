"""The networks, by name; each keeps one contract.

A model maps ``image_BCHW`` (normalised float) to ``logits_BKHW`` at the same height and width, for any
height and width, with one channel a class. In training it may give ``blocks.Outputs``, with auxiliary logits.
One that is a ``blocks.LateDropout`` can be sampled on ONNX Runtime, and embeds its image.
What may begin from pretrained weights is its submodule ``encoder``, or what its ``PRETRAINED`` names.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dermseg.errors import RecipeError, choose_from
from dermseg.models import light
from dermseg.models.convnext_unet import ConvNextUNet
from dermseg.models.ege_unet import EGEUNet
from dermseg.models.initialisation import initialise
from dermseg.models.light import Light
from dermseg.models.mask2former import Mask2Former
from dermseg.models.swin_upernet import SwinUPerNet
from dermseg.models.unet import UNet

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "convnext-unet": ConvNextUNet,
    "ege-unet": EGEUNet,
    "light": Light,
    "mask2former": Mask2Former,
    "swin-upernet": SwinUPerNet,
    "unet": UNet,
}


def build(name: str, *, classes: int, initialisation: str = "none", **arguments: Any) -> nn.Module:
    """Build a registered model.

    Args:
        name: A key of ``MODELS``.
        classes: Number of output channels, at least 1.
        initialisation: A key of ``initialisation.INITIALISATIONS``, for the weights that are not pretrained.
        arguments: The model's own arguments.

    Raises:
        RecipeError: For a name or an argument that does not exist, or pretrained weights that cannot be used.
    """
    if name not in MODELS:
        raise RecipeError(f"there is no model {name!r}; {choose_from(name, MODELS)}")
    known = [argument for argument in inspect.signature(MODELS[name]).parameters if argument != "classes"]
    for argument in arguments:
        if argument not in known:
            raise RecipeError(f"model {name!r} has no argument {argument!r}; {choose_from(argument, known)}")
    try:
        network = MODELS[name](classes=classes, **arguments)
    except RecipeError:
        raise
    except Exception as error:  # besides torch, a configuration of transformers checks itself, by classes of its own
        reason = " ".join(str(error).split())
        raise RecipeError(f"model {name!r} does not take these arguments: {reason}") from error
    pretrained = getattr(network, "PRETRAINED", ("encoder",)) if arguments.get("pretrained") else ()
    initialise(network, initialisation, skip=pretrained)
    return network


def pretrained_name(name: str, arguments: Mapping[str, Any]) -> str:
    """What ``pretrained: true`` gives a model: a name on the hub, or of a Python package."""
    if name == "light":
        return light.pretrained_name(arguments.get("encoder"))
    return str(getattr(sys.modules[MODELS[name].__module__], "HUB_ID", "of no hub"))
