"""Makes a bundle of weights that were trained elsewhere."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dermseg import synthetic
from dermseg.bundle import Bundle
from dermseg.errors import BundleError, InputError
from dermseg.manifest import TrainingData
from dermseg.training.bundling import bundle_of, network_of
from dermseg.training.config import Recipe

# Where a checkpoint keeps its weights, and what wrappers put before their names.
PLACES = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
THRESHOLD = 0.5
PARITY_IMAGES = 4
SHOWN = 3


def import_weights(file: Path, recipe: Recipe, output: Path, licence: str = "not stated") -> Bundle:
    """Make a bundle of a file of torch weights.

    Args:
        file: A state dict, or a checkpoint that holds one, as ``torch.save`` writes it. Only tensors and plain values
            are read; nothing in it is run.
        recipe: Its network, classes, input size and normalisation must be those of the weights.
        output: The bundle's folder; must not exist.
        licence: Of the weights.

    Raises:
        InputError: If there is no such file, or ``output`` exists.
        BundleError: If the file holds no weights, or those of another network.
    """
    if output.exists():
        raise InputError(f"{output} is in use; give another --output")
    state = _read(file)
    network = network_of(recipe)
    _load(network, state, f"{file} does not fit the recipe {recipe.name}")
    return bundle_of(
        network,
        recipe,
        output,
        name=output.name,
        data=TrainingData(
            sources={},
            licences={},
            split="not stated",
            initialisation=f"the weights {file.name}, trained elsewhere",
            content_hash=hashlib.sha256(file.read_bytes()).hexdigest(),
        ),
        thresholds=dict.fromkeys(recipe.classes, THRESHOLD),
        licence=licence,
        pixels=np.stack([synthetic.draw(seed, (recipe.input_size,) * 2).pixels for seed in range(PARITY_IMAGES)]),
    )


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a file of torch weights")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleError(
            f"{file} is refused: it is no file of torch weights, or holds objects beside them, which could run code"
        ) from error
    except Exception as error:  # the reader has a class of its own for each way a file can be damaged
        raise BundleError(f"{file} is no readable file of torch weights") from error
    for place in PLACES:
        if isinstance(content, dict) and isinstance(content.get(place), dict):
            content = content[place]
    if not (isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise BundleError(
            f"{file} holds no weights by name; expected a state dict, alone or as one of: {', '.join(PLACES)}"
        )
    return _without_prefixes(content)


def _without_prefixes(state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    names = {str(name): value for name, value in state.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names)), None):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _load(network: nn.Module, state: Mapping[str, Tensor], refusal: str) -> None:
    own = network.state_dict()
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    found = [f"{len(names)} {kind} ({_first(names)})" for kind, names in problems.items() if names]
    if found:
        raise BundleError(f"{refusal}: {'; '.join(found)}")
    network.load_state_dict(dict(state))


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
