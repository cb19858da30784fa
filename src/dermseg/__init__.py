"""dermseg: segmentation of skin lesions in dermoscopy images.

The public names are loaded when first used, so that ``import dermseg`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dermseg._version import __version__

if TYPE_CHECKING:
    from dermseg.bundle import Bundle
    from dermseg.errors import DermsegError
    from dermseg.evaluation import EvaluationResult, evaluate
    from dermseg.segmenter import Prediction, Segmenter
    from dermseg.training.run import train

_HOMES = {
    "Bundle": "dermseg.bundle",
    "DermsegError": "dermseg.errors",
    "EvaluationResult": "dermseg.evaluation",
    "Prediction": "dermseg.segmenter",
    "Segmenter": "dermseg.segmenter",
    "evaluate": "dermseg.evaluation",
    "train": "dermseg.training.run",
}

_EXTRAS = {"train": "train"}

__all__ = [
    "Bundle",
    "DermsegError",
    "EvaluationResult",
    "Prediction",
    "Segmenter",
    "__version__",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dermseg' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from dermseg.errors import MissingExtraError

        if name in _EXTRAS:
            raise MissingExtraError(f"dermseg.{name}", _EXTRAS[name]) from error
        raise


def __dir__() -> list[str]:
    return __all__
