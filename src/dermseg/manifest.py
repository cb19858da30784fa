"""The content of a bundle's ``bundle.json``: what a trained model is, in values that can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from dermseg.errors import InputError
from dermseg.notes import check_notes
from dermseg.presence import PresenceModel
from dermseg.quality import QualityModel

ONNX, DROPOUT, WEIGHTS = "model.onnx", "model_dropout.onnx", "model.safetensors"
"""A bundle's files whose hashes the manifest has."""

_Positive = Annotated[float, Field(gt=0)]
# It is part of files' names.
ClassName = Annotated[str, Field(pattern=r"^\w([\w -]*\w)?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(_Part):
    """A name of ``dermseg.models.MODELS`` and the arguments that build it."""

    name: str
    arguments: dict[str, Any]
    parameters: int


class Normalisation(_Part):
    """``(x / 255 - mean) / std`` for each channel; ``padding`` is the 8-bit value around the image."""

    mean: tuple[float, float, float]
    std: tuple[_Positive, _Positive, _Positive]
    padding: int = Field(ge=0, le=255)


class Calibration(_Part):
    """Logits are divided by ``temperature`` before the sigmoid, those of a class in ``temperatures`` by its own.

    ``split`` and ``images`` are what it was fitted on and of how many; None and 0 where that is not known.
    """

    temperature: float = Field(1.0, gt=0)
    temperatures: dict[str, _Positive] = Field(default_factory=dict)
    split: str | None = None
    images: int = Field(0, ge=0)

    def of(self, classes: Sequence[str]) -> NDArray[np.float32]:
        """The temperature of each class, (K, 1, 1), to divide logits (K, S, S) by."""
        each = [self.temperatures.get(name, self.temperature) for name in classes]
        return np.array(each, np.float32)[:, None, None]


class TrainingData(_Part):
    """What the weights were fitted on.

    ``content_hash`` is the SHA-256 over all image and mask files of the run, and its teachers' weights; ``splits_hash``
    that of its table of splits (``dermseg.data.splits.fingerprint``), None where it is not known. What the run began
    with, or was taught by, has its own.
    """

    sources: dict[str, int]
    licences: dict[str, str]
    split: str
    initialisation: str
    content_hash: str
    splits_hash: str | None = None


class Metric(_Part):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


class Score(_Part):
    """How good the bundle was on one data set, and by which protocol."""

    data: str
    split: str
    protocol: str
    images: int
    metrics: dict[str, Metric]


class Manifest(_Part):
    """The content of ``bundle.json``; ``notes`` are what people write for its card, title -> Markdown."""

    format: Literal[1] = 1
    name: str
    description: str
    architecture: Architecture
    classes: tuple[ClassName, ...] = Field(min_length=1)
    input_size: int = Field(ge=1)
    normalisation: Normalisation
    processing: tuple[str, ...] = ()
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]]
    calibration: Calibration = Calibration()
    quality: QualityModel | None = None
    presence: PresenceModel | None = None
    training_data: TrainingData
    licence: str
    scores: tuple[Score, ...] = ()
    notes: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]
    hashes: dict[str, str] = Field(default_factory=dict)

    @field_validator("classes")
    @classmethod
    def _are_different(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise ValueError("expected each class once")
        return classes

    @field_validator("hashes")
    @classmethod
    def _are_of_files(cls, hashes: dict[str, str]) -> dict[str, str]:
        # They become paths: one with ".." in it would lead out of the bundle's folder.
        if unknown := hashes.keys() - {ONNX, DROPOUT, WEIGHTS}:
            raise ValueError(f"{min(unknown)!r} is no file of a bundle")
        return hashes

    @field_validator("notes")
    @classmethod
    def _check_notes(cls, notes: dict[str, str]) -> dict[str, str]:
        try:
            check_notes(notes)
        except InputError as error:
            raise ValueError(str(error)) from error
        return notes
