"""How the weights of convolutions and linear layers begin, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

from dermseg.errors import RecipeError

NORMAL_STD = 0.02


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=NORMAL_STD)


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_normal_(weight)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight)


INITIALISATIONS: Mapping[str, Callable[[Tensor], None] | None] = {
    "kaiming": _kaiming,
    "none": None,
    "normal": _normal,
    "orthogonal": _orthogonal,
    "xavier": _xavier,
}
"""Each fills a weight in place; ``none`` leaves what the network's own constructor drew.

``xavier``: Glorot and Bengio, AISTATS 2010; ``kaiming``: He et al., ICCV 2015, for ReLU; ``orthogonal``: Saxe et al.,
ICLR 2014; ``normal``: standard deviation 0.02.
"""

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def initialise(network: nn.Module, name: str, skip: Collection[str] = ()) -> None:
    """Draw the weights of a network's convolutions and linear layers anew and set their biases to zero.

    Layers whose weights are all zero stay as they are: a constructor leaves them so for a reason.

    Args:
        network: Changed in place.
        name: A key of ``INITIALISATIONS``.
        skip: Names of submodules to leave alone, with all they hold, such as a pretrained ``encoder``.

    Raises:
        RecipeError: If there is no such initialisation.
    """
    if name not in INITIALISATIONS:
        raise RecipeError(f"there is no initialisation {name!r}; choose one of: {', '.join(INITIALISATIONS)}")
    fill = INITIALISATIONS[name]
    if fill is None:
        return
    for path, module in network.named_modules():
        if any(path == part or path.startswith(f"{part}.") for part in skip):
            continue
        if isinstance(module, LAYERS) and module.weight.any():
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
