"""Loads encoders of transformers: random, from a folder, or from the model hub."""

from __future__ import annotations

import contextlib
import json
import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dermseg.errors import RecipeError

Pretrained = bool | str | Path | None
"""Where weights come from: None or False is random, True the hub or a Python package, else a folder or file."""

FILES = ("config.json", "model.safetensors")
HUB_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as unreachable


def load_encoder(
    network_class: Any,
    config: Any,
    pretrained: Pretrained,
    *,
    hub_id: str,
    fresh: Sequence[str] = (),
    same: Sequence[str] = ("hidden_act",),
    **arguments: Any,
) -> Any:
    """Build a network of transformers, and load its weights if any are wanted.

    Args:
        network_class: A ``PreTrainedModel``.
        config: Its configuration; weights of another are refused, so that a bundle can be rebuilt without them.
        pretrained: None or False for random weights, True for those of ``hub_id`` from the hub or its cache on this
            computer, or a folder with ``config.json`` and ``model.safetensors`` as ``save_pretrained`` writes them.
        hub_id: The weights' name on the hub.
        fresh: Beginnings of parameter names that stay random if the weights lack them or have them in another size.
        same: Settings that must be the folder's too: what changes the network beyond the shapes of its weights.
        arguments: Further arguments of ``network_class``.

    Raises:
        RecipeError: If the weights cannot be had, or are not this network's.
    """
    with _quiet():
        if pretrained is None or pretrained is False:
            return network_class(config, **arguments)
        folder = _from_hub(hub_id) if pretrained is True else Path(pretrained)
        _check_folder(folder, config, same)
        try:
            network, info = network_class.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are judged below
                dtype="float32",
                **arguments,
            )
        except Exception as error:  # each reader and shape check has a class of its own
            raise RecipeError(
                f"the weights in {folder} cannot be read: {_first_line(error)}; get config.json and "
                "model.safetensors again"
            ) from error
    wrong = [
        *(f"{name} is missing" for name in sorted(info["missing_keys"]) if not name.startswith(tuple(fresh))),
        *(
            f"{name} is {tuple(found)}, expected {tuple(expected)}"
            for name, found, expected in sorted(info["mismatched_keys"])
            if not name.startswith(tuple(fresh))
        ),
    ]
    if wrong:
        raise _other_network(folder, config, wrong[0] + (f" (and {len(wrong) - 1} more)" if wrong[1:] else ""))
    return network


def without(network: nn.Module, name: str) -> None:
    """Take the submodule ``name`` out of a network that computes it without need: its weights would never learn."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


def check_drop_path(share: float) -> None:
    """Refuse a share of skipped layers outside [0, 1).

    Raises:
        ValueError: If it is.
    """
    if not 0 <= share < 1:
        raise ValueError(f"drop_path is {share}; expected a share in [0, 1)")


def _from_hub(hub_id: str) -> Path:
    """The folder of the hub's cache in which the weights lie, downloaded if need be."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def paths(**arguments: Any) -> list[Path]:
        return [Path(huggingface_hub.hf_hub_download(hub_id, name, **arguments)) for name in FILES]

    with contextlib.suppress(LocalEntryNotFoundError):
        return paths(local_files_only=True)[0].parent
    try:
        # The download itself would try again and again, for minutes, while the hub does not answer.
        url = huggingface_hub.hf_hub_url(hub_id, FILES[0])
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT)
        return paths()[0].parent
    except Exception as error:  # the hub's, the network library's and the file system's own
        answered = isinstance(error, HfHubHTTPError)
        reason = f"refused them ({_first_line(error)})" if answered else "could not be reached"
        raise RecipeError(
            f"the weights of {hub_id} are not on this computer and the model hub {reason}; download "
            f"{' and '.join(FILES)} from https://huggingface.co/{hub_id} into a folder and set "
            "model.arguments.pretrained=FOLDER, or leave it out to begin from random weights"
        ) from error


def _check_folder(folder: Path, config: Any, same: Sequence[str]) -> None:
    if not all((folder / name).is_file() for name in FILES):
        raise RecipeError(
            f"{folder} is no folder of pretrained weights: expected config.json and model.safetensors "
            f"as transformers' save_pretrained writes them for {config.model_type}"
        )
    file = folder / FILES[0]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecipeError(f"{file} is not JSON: {error}; get {' and '.join(FILES)} again") from error
    found = content.get("model_type") if isinstance(content, dict) else None
    if found != config.model_type:
        raise RecipeError(f"{file} describes the model type {found!r}; expected weights of {config.model_type!r}")
    try:
        theirs = type(config).from_dict(content)
    except Exception as error:  # a configuration checks itself, with classes of its own
        raise RecipeError(f"{file} is no configuration of transformers: {_first_line(error)}") from error
    for name in same:
        a, b = (_plain(operator.attrgetter(name)(each)) for each in (theirs, config))
        if a != b:
            raise _other_network(folder, config, f"{name} is {a}, expected {b}")


def _other_network(folder: Path, config: Any, difference: str) -> RecipeError:
    return RecipeError(
        f"the weights in {folder} are not those of this {config.model_type} network: {difference}; "
        "give others or change model.arguments"
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, notes and warnings from the user; errors are told by exceptions."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    bars: Any = transformers_logging
    shown = bars.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # It also switches the hub's bars.
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            bars.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
