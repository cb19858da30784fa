"""The recipe: everything that decides a training run, as YAML and as validated objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationInfo, field_validator, model_validator

from dermseg.errors import choose_from
from dermseg.manifest import ClassName
from dermseg.processing import STEPS


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Strict):
    """The network: a name of ``dermseg.models.MODELS`` and its arguments.

    ``origin`` says in the model card what its pretrained weights are and under which licence; ``initialisation`` is
    that of the convolutions and linear layers that are not pretrained, a name of
    ``dermseg.models.initialisation.INITIALISATIONS``.
    """

    name: str
    origin: str = ""
    initialisation: str = "none"
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("arguments")
    @classmethod
    def _are_arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        elsewhere = {"name": "model.name", "initialisation": "model.initialisation", "classes": "classes"}
        for name in given.keys() & elsewhere:
            raise ValueError(f"{name!r} is no argument of the network but a setting of its own, {elsewhere[name]!r}")
        return given


class DataConfig(_Strict):
    """What is trained on: data sets by name (all that are found if None), and their table of splits."""

    sources: tuple[str, ...] | None = None
    splits: Path | None = Field(None, description="a CSV; None takes the shipped table of the recipe's classes")
    quarantine: Path | None = Field(
        None, description="a CSV of images to leave out; None takes quarantine.csv in the data's folder if there is one"
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="balanced draws images with rare classes more often"
    )
    images_per_epoch: int | None = Field(None, ge=1, description="None takes each training image once")


class AugmentationConfig(_Strict):
    """Ranges of the random changes to a training image; each is drawn evenly from its range.

    A preset's name stands for all its settings (``augmentation: light``), or is the ground that others change
    (``augmentation: {preset: light, hair: 0}``). Without one, what is left out is as in ``standard``.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "none": {
            **dict.fromkeys(("flip", "rotation", "aspect", "shift", "brightness", "contrast", "colour"), 0),
            **dict.fromkeys(("blur", "hair", "ruler"), 0),
            "scale": (1, 1),
        },
        "light": {
            "rotation": 30,
            "scale": (0.9, 1.1),
            "aspect": 0.05,
            "shift": 0.05,
            "brightness": 0.1,
            "contrast": 0.1,
            "colour": 0.05,
            "blur": 0.1,
            "hair": 0,
            "ruler": 0,
        },
        "standard": {},
        "wide": {
            "scale": (0.45, 1.6),
            "aspect": 0.2,
            "shift": 0.15,
            "mirror": 0.5,
            "cut": 0.25,
            "contrast": 0.3,
            "colour": 0.15,
            "saturation": 0.2,
            "gamma": 0.2,
            "noise": 0.04,
            "hair": 0.3,
            "ruler": 0.15,
        },
        "strong": {
            "scale": (0.6, 1.7),
            "aspect": 0.25,
            "shift": 0.2,
            "elastic": 0.03,
            "brightness": 0.3,
            "contrast": 0.4,
            "colour": 0.2,
            "saturation": 0.4,
            "gamma": 0.3,
            "blur": 0.4,
            "noise": 0.05,
            "hair": 0.4,
            "ruler": 0.2,
            "coarse_dropout": 0.3,
        },
    }

    strength: float = Field(1.0, ge=0, le=1, description="share of every range and probability; 0 changes nothing")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirror image; true is 0.5")
    quarter_turn: float = Field(
        0.0, ge=0, le=1, description="probability of a turn by 90, 180 or 270 degrees; true is 0.75: all ways alike"
    )
    rotation: float = Field(180.0, ge=0, le=180, description="degrees to either side")
    scale: tuple[PositiveFloat, PositiveFloat] = Field((0.75, 1.35), description="zoom, 1 is none")
    scaled: float = Field(1.0, ge=0, le=1, description="probability of that zoom; the others keep their size")
    aspect: float = Field(0.15, ge=0, lt=1, description="stretch of one axis against the other, as a share")
    shift: float = Field(0.1, ge=0, lt=1, description="of the image's side")
    mirror: float = Field(0.0, ge=0, le=1, description="probability that mirrored skin, not grey, lies around an image")
    cut: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that up to 45 % are cut off at one side, as if the picture ended there",
    )
    elastic: float = Field(0.0, ge=0, le=0.06, description="largest local displacement, of the image's side")
    brightness: float = Field(0.2, ge=0, le=1, description="added, in units of the 0-1 range")
    contrast: float = Field(0.25, ge=0, lt=1, description="change of contrast about the image's mean, as a share")
    colour: float = Field(0.12, ge=0, lt=1, description="gain of each channel, as a share")
    saturation: float = Field(0.0, ge=0, le=1, description="change of each pixel's distance from grey, as a share")
    gamma: float = Field(0.0, ge=0, lt=1, description="exponent from 1 - gamma to 1 / (1 - gamma)")
    blur: float = Field(0.3, ge=0, le=1, description="probability; sigma 0.4 to 1.6 pixels")
    noise: float = Field(0.0, ge=0, le=1, description="largest standard deviation, in units of the 0-1 range")
    jpeg: float = Field(0.0, ge=0, le=1, description="probability of compression, of a quality of 20 to 90")
    hair: float = Field(0.25, ge=0, le=1, description="probability of drawn hairs")
    ruler: float = Field(0.1, ge=0, le=1, description="probability of a drawn ruler")
    coarse_dropout: float = Field(0.0, ge=0, le=1, description="probability of rectangles cut out of the image")
    holes: tuple[int, int] = Field((1, 8), description="coarse_dropout: number of rectangles, 1 to 64")
    hole_size: tuple[float, float] = Field(
        (0.05, 0.2), description="coarse_dropout: height and width of a rectangle, of the image's"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: object) -> object:
        settings = {"preset": given} if isinstance(given, str) else given
        if not isinstance(settings, dict) or "preset" not in settings:
            return settings
        preset, own = settings["preset"], {name: value for name, value in settings.items() if name != "preset"}
        if not isinstance(preset, str) or preset not in cls.PRESETS:
            raise ValueError(f"there is no preset {preset!r}; choose one of: {', '.join(cls.PRESETS)}")
        return {**cls.PRESETS[preset], **own}

    @field_validator("flip", "quarter_turn", mode="before")
    @classmethod
    def _is_probability(cls, value: object, info: ValidationInfo) -> object:
        if value is True:
            return 0.5 if info.field_name == "flip" else 0.75
        return value

    @field_validator("scale", "holes", "hole_size")
    @classmethod
    def _is_range(cls, pair: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if pair[0] > pair[1]:
            raise ValueError("the first number must not exceed the second")
        if info.field_name == "holes" and not 1 <= pair[0] <= pair[1] <= 64:
            raise ValueError("both numbers must be from 1 to 64")
        if info.field_name == "hole_size" and not 0 < pair[0] <= pair[1] <= 1:
            raise ValueError("both numbers must be above 0 and at most 1")
        return pair

    def at_strength(self) -> AugmentationConfig:
        """The same changes with ``strength`` worked into the ranges."""
        if self.strength == 1:
            return self
        values: dict[str, Any] = self.model_dump(exclude={"strength", "scale", "scaled", "holes", "hole_size"})
        values = {name: value * self.strength for name, value in values.items()}
        return self.model_copy(
            update=values | {"strength": 1.0, "scale": tuple(zoom**self.strength for zoom in self.scale)}
        )


class OptimizerConfig(_Strict):
    """How the weights follow the gradient."""

    name: Literal["adam", "adamw", "sgd", "rmsprop", "adabelief", "adagrad"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    encoder_lr: float = Field(1.0, gt=0, description="the encoder's learning rate as a share of the rest's")
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop")
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(1, ge=1, description="batches a step")


class ScheduleConfig(_Strict):
    """How the learning rate changes. Times are in epochs; all but reduce_lr moves at each step, and so does warm-up."""

    name: Literal["none", "cosine", "cosine_restart", "reduce_lr", "step", "exp", "onecycle"] = "cosine"
    warmup: float = Field(0.0, ge=0, description="epochs of linear rise before the schedule")
    t_max: float | None = Field(
        None, gt=0, description="cosine: epochs from the run's start to the lowest rate; None: all"
    )
    eta_min: float = Field(0.0, ge=0, description="cosine, cosine_restart: the lowest rate; the encoder's is its share")
    t_0: float = Field(10.0, gt=0, description="cosine_restart: epochs to the first restart, after warm-up")
    t_mult: int = Field(2, ge=1, description="cosine_restart: growth of the time between restarts")
    step_size: float = Field(10.0, gt=0, description="step: epochs between drops, after warm-up")
    gamma: float | None = Field(
        None, gt=0, le=1, description="step, exp: factor of a drop, 0.1 and 0.95 if None; exp drops once an epoch"
    )
    patience: int = Field(5, ge=0, description="reduce_lr: epochs without a better score on tune")
    factor: float = Field(0.1, gt=0, lt=1, description="reduce_lr: factor of a drop")
    max_lr: float | None = Field(None, gt=0, description="onecycle: the highest rate; None is optimizer.lr")


class DistillationConfig(_Strict):
    """Trained bundles whose view is mixed into the masks that are trained on; ``tune`` keeps its own."""

    teachers: tuple[str, ...] = Field((), description="bundles of the same classes and input size; their mean is taken")
    share: float = Field(0.7, ge=0, le=1, description="of the teachers in each pixel; the truth has the rest")


class Recipe(_Strict):
    """A training run. ``name`` also names the bundle."""

    name: str
    description: str
    model: ModelConfig
    start: str | None = Field(None, description="a bundle of the same network, to begin with its weights")
    freeze: tuple[str, ...] = Field((), description="parts of the network that keep their weights, such as encoder")
    classes: tuple[ClassName, ...] = Field(("lesion",), min_length=1)
    input_size: int = Field(192, ge=32, le=2048)
    processing: tuple[str, ...] = Field(
        (), description="steps of dermseg.processing before the network, in training and in use"
    )
    normalisation: Literal["symmetric", "unit", "imagenet", "isic"] = "symmetric"
    data: DataConfig = DataConfig()
    distillation: DistillationConfig = DistillationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: dict[str, float | dict[str, float]] = Field(
        {"bce": 1.0, "jaccard": 1.0},
        description="weight of each loss, or its weight and its options; the sum is minimised",
    )
    deep_supervision: tuple[float, ...] = Field((), description="weight of each auxiliary output's loss")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig(warmup=0.5)
    epochs: int = Field(12, ge=1)
    early_size: int | None = Field(
        None, ge=32, le=2048, description="side of the images in the first early_epochs, where it is smaller: faster"
    )
    early_epochs: int = Field(0, ge=0)
    batch_size: int = Field(32, ge=1)
    monitor: Literal["jaccard", "thresholded_jaccard", "dice", "micro_jaccard"] = Field(
        "jaccard", description="the score on tune that chooses the checkpoint and the thresholds"
    )
    early_stopping: int | None = Field(None, ge=1, description="epochs without a better score after which to stop")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average, each step; 0 is none")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "bf16-mixed", description="bf16-mixed is 32-true where the processor only emulates bfloat16"
    )
    compile: bool = Field(False, description="torch.compile the network")
    deterministic: bool = True
    seed: int = Field(0, ge=0, lt=2**32)

    @field_validator("processing")
    @classmethod
    def _are_steps(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in names if name not in STEPS]:
            raise ValueError(f"there is no step {unknown[0]!r}; {choose_from(unknown[0], STEPS)}")
        return names

    def to_yaml(self) -> str:
        """The recipe as YAML, every setting written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
