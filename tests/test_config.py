"""Recipes: every shipped one is whole, settings go where they should, and mistakes get one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dermseg.data.catalog import SOURCES
from dermseg.errors import RecipeError
from dermseg.training.config import AugmentationConfig, DataConfig, ModelConfig, OptimizerConfig, Recipe, load_recipe
from dermseg.training.config import shipped as shipped_recipes

SMALLEST = "name: tiny\ndescription: d\nmodel: {name: light}\n"


@pytest.fixture
def smallest(tmp_path: Path) -> str:
    return write(tmp_path, SMALLEST)


def write(folder: Path, content: str) -> str:
    path = folder / "tiny.yaml"
    path.write_text(content, encoding="utf-8")
    return str(path)


def refusal(recipe: str, *settings: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- shipped recipes -----------------------------------------------------------------------------


def test_the_lesion_recipe_is_shipped() -> None:
    assert "lesion" in shipped_recipes()


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_is_whole(name: str) -> None:
    from dermseg.models import build
    from dermseg.training.losses import weighted_sum

    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert set(recipe.data.sources or ()) <= set(SOURCES)
    build(recipe.model.name, classes=len(recipe.classes), **recipe.model.arguments)
    weighted_sum(recipe.loss)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_shipped_recipe_survives_being_written_out(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


# --- YAML and back -------------------------------------------------------------------------------

fractions = st.floats(0, 0.99)
recipes = st.builds(
    Recipe,
    name=st.text(min_size=1),
    description=st.text(),
    model=st.builds(
        ModelConfig,
        name=st.just("light"),
        arguments=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | fractions),
    ),
    classes=st.lists(st.text(), min_size=1, max_size=3).map(tuple),
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
    loss=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    optimizer=st.builds(OptimizerConfig, lr=st.floats(1e-12, 1e3), weight_decay=fractions),
    input_size=st.integers(32, 2048),
    seed=st.integers(0, 2**32 - 1),
    precision=st.sampled_from(["32-true", "bf16-mixed"]),
)


@given(recipe=recipes)
def test_a_recipe_survives_being_written_out(recipe: Recipe) -> None:
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe


def test_every_setting_is_written_out() -> None:
    recipe = Recipe(name="a", description="b", model=ModelConfig(name="light"))
    content = yaml.safe_load(recipe.to_yaml())
    assert content.keys() == Recipe.model_fields.keys()
    assert content["augmentation"].keys() == AugmentationConfig.model_fields.keys()
    assert content["optimizer"].keys() == OptimizerConfig.model_fields.keys()


def test_defaults_fill_what_is_left_out(smallest: str) -> None:
    recipe = load_recipe(smallest)
    assert (recipe.classes, recipe.input_size, recipe.seed) == (("lesion",), 192, 0)
    assert recipe.loss == {"bce": 1.0, "jaccard": 1.0}


def test_a_recipe_cannot_be_changed_afterwards(smallest: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(load_recipe(smallest), "seed", 1)  # noqa: B010  - types forbid it too


# --- single settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "section", "value"),
    [
        ("epochs=30", "epochs", 30),
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("augmentation.scale=[0.5, 2]", "augmentation.scale", (0.5, 2.0)),
        ("data.sources=[ph2]", "data.sources", ("ph2",)),
        ("data.sources=null", "data.sources", None),
        ("data.splits=my.csv", "data.splits", Path("my.csv")),
        ("description=a = b", "description", "a = b"),
        ("model.arguments.pretrained=/weights", "model.arguments", {"pretrained": "/weights"}),
        ("loss={jaccard: 2}", "loss", {"jaccard": 2.0}),
        ("loss.bce=0.1", "loss", {"bce": 0.1}),
    ],
)
def test_a_setting_changes_its_place_only(smallest: str, setting: str, section: str, value: object) -> None:
    before, after = (flat(load_recipe(smallest, settings)) for settings in ((), (setting,)))
    assert after[section] == value
    assert {key: value for key, value in after.items() if key != section} == {
        k: v for k, v in before.items() if k != section
    }


def flat(recipe: Recipe) -> dict[str, Any]:
    """Settings by their dotted keys; a model's arguments and the losses stay together."""
    values: dict[str, Any] = {}
    for key, value in recipe.model_dump().items():
        if key != "loss" and isinstance(value, dict):
            values |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items()}
        else:
            values[key] = value
    return values


def test_a_later_setting_goes_before_an_earlier_one(smallest: str) -> None:
    recipe = load_recipe(smallest, ["epochs=3", "model.arguments.dropout=0.3", "model.arguments.widths=1", "epochs=4"])
    assert recipe.epochs == 4
    assert recipe.model.arguments == {"dropout": 0.3, "widths": 1}


def test_a_setting_of_a_shipped_recipe_keeps_the_others() -> None:
    shipped = load_recipe("lesion")
    changed = load_recipe("lesion", ["model.arguments.pretrained=x"])
    assert changed.model.arguments == {**shipped.model.arguments, "pretrained": "x"}
    assert load_recipe("lesion") == shipped


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("epoch=3", "tiny.yaml: setting 'epoch': Extra inputs are not permitted, got 3"),
        ("optimizer.rate=1", "tiny.yaml: setting 'optimizer.rate': Extra inputs are not permitted, got 1"),
        (
            "epochs=many",
            "tiny.yaml: setting 'epochs': Input should be a valid integer, unable to parse string as an integer, "
            "got 'many'",
        ),
        ("epochs=0", "tiny.yaml: setting 'epochs': Input should be greater than or equal to 1, got 0"),
        ("epochs=", "tiny.yaml: setting 'epochs': Input should be a valid integer, got None"),
        ("optimizer.lr=0", "tiny.yaml: setting 'optimizer.lr': Input should be greater than 0, got 0"),
        ("input_size=16", "tiny.yaml: setting 'input_size': Input should be greater than or equal to 32, got 16"),
        ("precision=16", "tiny.yaml: setting 'precision': Input should be '32-true' or 'bf16-mixed', got 16"),
        ("data=isic", None),
        (
            "classes=[]",
            "tiny.yaml: setting 'classes': Tuple should have at least 1 item after validation, not 0, got []",
        ),
        ("seed=-1", "tiny.yaml: setting 'seed': Input should be greater than or equal to 0, got -1"),
        (
            "augmentation.scale=[0, 1]",
            "tiny.yaml: setting 'augmentation.scale.0': Input should be greater than 0, got 0",
        ),
        (
            "augmentation.scale=[2, 1]",
            "tiny.yaml: setting 'augmentation.scale': Value error, the first number must not exceed the second, "
            "got [2, 1]",
        ),
        ("loss.bce=high", None),
        ("epochs", "cannot read the setting 'epochs'; expected key=value, such as optimizer.lr=1e-4"),
        ("=3", "cannot read the setting '=3'; expected key=value, such as optimizer.lr=1e-4"),
        ("epochs=[1", "cannot read the value of 'epochs=[1': it is not YAML"),
        ("name.first=a", "cannot set 'name.first': 'name' is a value, not a section"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(smallest: str, setting: str, sentence: str | None) -> None:
    message = refusal(smallest, setting)
    if sentence is None:
        assert message.startswith(f"tiny.yaml: setting '{setting.partition('=')[0]}")
    else:
        assert message == sentence


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: tiny\ndescription: d\n")
    assert refusal(recipe) == "tiny.yaml: setting 'model': Field required"


def test_an_unknown_recipe_is_refused() -> None:
    known = ", ".join(sorted(shipped_recipes()))
    assert refusal("lesions") == f"there is no recipe 'lesions'; give a YAML file or one of: {known}"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).startswith(f"there is no recipe '{tmp_path}'; give a YAML file or one of: ")


@pytest.mark.parametrize("content", ["", "just words", "- a\n- list\n", "42"])
def test_yaml_without_settings_is_refused(tmp_path: Path, content: str) -> None:
    recipe = write(tmp_path, content)
    assert refusal(recipe) == f"{recipe} is no recipe: expected settings as 'key: value'"


@pytest.mark.parametrize(
    "content", [b"name: [1\nmodel: x\n", b"a: b: c\n", b"name: \xff\xfe\n", b"\x89PNG\r\n\x1a\n\x00"]
)
def test_what_is_not_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"{path} is not YAML: ")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: !!python/object/apply:os.getcwd []\n")
    assert refusal(recipe).startswith(f"{recipe} is not YAML: could not determine a constructor for the tag")
