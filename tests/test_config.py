"""The recipe as an object: written out and read back, complete, and fixed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dermseg.data.catalog import SOURCES
from dermseg.training.config import (
    AugmentationConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)

SMALLEST = {"name": "tiny", "description": "d", "model": {"name": "light"}}

fractions = st.floats(0, 0.99)
finite = st.floats(allow_nan=False, allow_infinity=False)
arguments = st.text().filter(lambda name: name not in ("name", "initialisation", "classes"))  # settings of their own
class_names = st.from_regex("[a-z_0-9]([a-z_0-9 -]*[a-z_0-9])?", fullmatch=True)
recipes = st.builds(
    Recipe,
    name=st.text(min_size=1),
    description=st.text(),
    model=st.builds(
        ModelConfig,
        name=st.just("light"),
        arguments=st.dictionaries(arguments, st.none() | st.booleans() | st.integers() | st.text() | fractions),
    ),
    classes=st.lists(class_names, min_size=1, max_size=3).map(tuple),
    data=st.builds(
        DataConfig,
        sources=st.none() | st.lists(st.sampled_from(SOURCES)).map(tuple),
        splits=st.none() | st.just(Path("tables/splits.csv")),
    ),
    augmentation=st.builds(
        AugmentationConfig,
        scale=st.tuples(st.floats(1e-3, 1), st.floats(1, 9)),
        **dict.fromkeys(("rotation", "aspect", "shift", "brightness", "contrast", "colour", "blur", "hair"), fractions),
    ),
    loss=st.dictionaries(st.text(), finite | st.dictionaries(st.text(), finite)),
    deep_supervision=st.lists(fractions, max_size=4).map(tuple),
    freeze=st.lists(st.text(), max_size=2).map(tuple),
    optimizer=st.builds(
        OptimizerConfig,
        name=st.sampled_from(["adam", "adamw", "sgd", "rmsprop", "adabelief", "adagrad"]),
        lr=st.floats(1e-12, 1e3),
        weight_decay=fractions,
        clip=st.none() | st.floats(1e-9, 9),
    ),
    schedule=st.builds(
        ScheduleConfig,
        name=st.sampled_from(["none", "cosine", "cosine_restart", "reduce_lr", "step", "exp", "onecycle"]),
        t_max=st.none() | st.floats(1e-3, 1e3),
        max_lr=st.none() | st.floats(1e-12, 1e3),
    ),
    early_stopping=st.none() | st.integers(1, 99),
    input_size=st.integers(32, 2048),
    seed=st.integers(0, 2**32 - 1),
    precision=st.sampled_from(["32-true", "bf16-mixed"]),
)


@settings(deadline=None)
@given(recipe=recipes)
def test_a_recipe_survives_being_written_out(recipe: Recipe) -> None:
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_every_setting_is_written_out() -> None:
    def written(content: object, section: type[BaseModel]) -> None:
        assert isinstance(content, dict)
        assert content.keys() == section.model_fields.keys()
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                written(content[name], field.annotation)

    written(yaml.safe_load(Recipe.model_validate(SMALLEST).to_yaml()), Recipe)


def test_defaults_fill_what_is_left_out() -> None:
    recipe = Recipe.model_validate(SMALLEST)
    assert (recipe.classes, recipe.input_size, recipe.seed) == (("lesion",), 192, 0)
    assert recipe.loss == {"bce": 1.0, "jaccard": 1.0}


def test_a_recipe_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Recipe.model_validate(SMALLEST), "seed", 1)  # noqa: B010  - types forbid it too
