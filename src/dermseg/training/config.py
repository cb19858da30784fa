"""The recipe: everything that decides a training run, as YAML and as validated objects."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from dermseg.errors import RecipeError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """The network: a name of ``dermseg.models.MODELS`` and its arguments.

    ``origin`` says in the model card what its pretrained weights are and under which licence.
    """

    name: str
    origin: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)


class DataConfig(_Strict):
    """What is trained on: data sets by name (all that are found if None), and their table of splits."""

    sources: tuple[str, ...] | None = None
    splits: Path | None = None


class AugmentationConfig(_Strict):
    """Ranges of the random changes to a training image; each is drawn evenly from its range."""

    rotation: float = Field(180.0, ge=0, le=180, description="degrees to either side")
    scale: tuple[PositiveFloat, PositiveFloat] = Field((0.75, 1.35), description="zoom, 1 is none")
    aspect: float = Field(0.15, ge=0, lt=1, description="stretch of one axis against the other, as a share")
    shift: float = Field(0.1, ge=0, lt=1, description="of the image's side")
    brightness: float = Field(0.2, ge=0, description="added, in units of the 0-1 range")
    contrast: float = Field(0.25, ge=0, lt=1, description="change of contrast about the image's mean, as a share")
    colour: float = Field(0.12, ge=0, lt=1, description="gain of each channel, as a share")
    blur: float = Field(0.3, ge=0, le=1, description="probability; sigma 0.4 to 1.6 pixels")
    hair: float = Field(0.25, ge=0, le=1, description="probability of drawn hairs")
    ruler: float = Field(0.1, ge=0, le=1, description="probability of a drawn ruler")

    @field_validator("scale")
    @classmethod
    def _is_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the first number must not exceed the second")
        return scale


class OptimizerConfig(_Strict):
    """AdamW; the learning rate rises during ``warmup`` epochs, then falls to zero along a cosine."""

    lr: float = Field(1e-3, gt=0)
    encoder_lr: float = Field(1.0, gt=0, description="the encoder's learning rate as a share of the rest's")
    weight_decay: float = Field(1e-2, ge=0)
    warmup: float = Field(0.5, ge=0, description="epochs")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class Recipe(_Strict):
    """A training run. ``name`` also names the bundle."""

    name: str
    description: str
    model: ModelConfig
    start: Path | None = Field(None, description="a bundle of the same network, to begin with its weights")
    classes: tuple[str, ...] = Field(("lesion",), min_length=1)
    input_size: int = Field(192, ge=32, le=2048)
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: dict[str, float] = Field(default_factory=lambda: {"bce": 1.0, "jaccard": 1.0})
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average, each step")
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    seed: int = Field(0, ge=0, lt=2**32)

    def to_yaml(self) -> str:
        """The recipe as YAML, every setting written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def shipped() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = Path(str(resources.files("dermseg") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change single settings of it.

    Args:
        name_or_path: A shipped recipe's name or a YAML file.
        settings: ``key=value`` pairs; dots lead into sections (``optimizer.lr=1e-4``), values are YAML.

    Raises:
        RecipeError: If there is no such recipe, or a setting does not exist or fit.
    """
    path = shipped().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(f"there is no recipe {name_or_path!r}; give a YAML file or one of: {', '.join(shipped())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is no recipe: expected settings as 'key: value'")
    for setting in settings:
        _change(content, setting)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise RecipeError(f"{path.name}: setting {where!r}: {first['msg']}{given}") from error


def _change(content: dict[str, Any], setting: str) -> None:
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise RecipeError(f"cannot read the setting {setting!r}; expected key=value, such as optimizer.lr=1e-4")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"cannot set {key!r}: {parent!r} is a value, not a section")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"cannot read the value of {setting!r}: it is not YAML") from error
    section[last] = parsed
