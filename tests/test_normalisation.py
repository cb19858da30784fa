"""Normalisations: named as the recipe names them, and the one measured is what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from dermseg.imaging import open_image
from dermseg.training.config import Recipe
from dermseg.training.normalisation import NORMALISATIONS


def test_a_recipe_knows_every_name_and_no_other() -> None:
    assert set(get_args(Recipe.model_fields["normalisation"].annotation)) == NORMALISATIONS.keys()


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
def test_the_numbers_belong_to_values_from_0_to_1(name: str) -> None:
    mean, std = NORMALISATIONS[name]
    assert len(mean) == len(std) == 3
    assert all(0 <= value <= 1 for value in mean)
    assert all(0.1 <= value <= 1 for value in std)


def test_symmetric_takes_8_bits_to_minus_one_and_one() -> None:
    mean, std = NORMALISATIONS["symmetric"]
    assert [(value / 255 - mean[0]) / std[0] for value in (0, 255)] == [-1, 1]


@pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="needs the real images: set DERMSEG_DATA")
def test_isic_was_measured_on_isic_2017() -> None:
    folder = Path(os.environ["DERMSEG_DATA"]) / "isic2017" / "ISIC-2017_Training_Data"
    pixels = [open_image(path).pixels() for path in sorted(folder.glob("*.jpg"))[::20]]
    values = np.concatenate([image[::4, ::4].reshape(-1, 3) for image in pixels]) / 255
    mean, std = NORMALISATIONS["isic"]
    assert values.mean(axis=0) == pytest.approx(mean, abs=0.03)  # a hundred images of 2000
    assert values.std(axis=0) == pytest.approx(std, abs=0.03)
