"""The flat YAML of the lesion attributes system becomes a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dermseg.data.catalog import ATTRIBUTES
from dermseg.errors import RecipeError
from dermseg.training.config import Recipe
from dermseg.training.legacy import RECIPES, is_legacy
from dermseg.training.recipes import load_recipe, shipped

FULL = """\
# as the original's own
epochs: 50
batch_size: 8
lr: 1e-4
optimizer: Adam
scheduler: reduce_lr
weight_decay: 1e-5
momentum: 0.9
init: xavier
pretrained: false
model: unet-residual
classes: 5
bilinear: false
amp: true
load: false
t_max: 50
eta_min: 1e-6
"""


def load(folder: Path, content: str | dict[str, Any], *settings: str) -> Recipe:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_recipe(str(path), settings)


def refusal(folder: Path, content: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, content)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_whole_file_becomes_a_recipe(tmp_path: Path) -> None:
    recipe, base = load(tmp_path, FULL), load_recipe("attributes-residual-unet")
    assert recipe.name == "attributes-residual-unet"
    assert recipe.classes == ATTRIBUTES
    assert (recipe.epochs, recipe.batch_size, recipe.precision, recipe.start) == (50, 8, "bf16-mixed", None)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.momentum) == ("adam", 1e-4, 1e-5, 0.9)
    assert (schedule.name, schedule.warmup, schedule.t_max, schedule.eta_min) == ("reduce_lr", 0, 50, 1e-6)
    assert recipe.model.initialisation == "xavier"
    assert recipe.model.arguments == base.model.arguments | {"upsample": "transposed"}
    # What it does not say is as in the shipped recipe.
    for name in ("loss", "monitor", "input_size", "normalisation", "data", "augmentation", "ema"):
        assert getattr(recipe, name) == getattr(base, name)


@pytest.mark.parametrize(("model", "name"), RECIPES.items())
def test_each_network_has_its_recipe(tmp_path: Path, model: str, name: str) -> None:
    assert load(tmp_path, {"model": model}) == load_recipe(name)


def test_the_network_may_be_left_out(tmp_path: Path) -> None:
    recipe = load(tmp_path, {"lr": 0.1})
    assert (recipe.name, recipe.optimizer.lr) == ("attributes-unet", 0.1)


@pytest.mark.parametrize(
    ("key", "value", "place", "expected"),
    [
        ("optimizer", "SGD", "optimizer.name", "sgd"),
        ("optimizer", "adabelief", "optimizer.name", "adabelief"),
        ("scheduler", "onecycle", "schedule.name", "onecycle"),
        ("scheduler", None, "schedule.name", "none"),
        ("scheduler", False, "schedule.name", "none"),
        ("max_lr", 0.01, "schedule.max_lr", 0.01),
        ("t_0", 4, "schedule.t_0", 4),
        ("t_mult", 3, "schedule.t_mult", 3),
        ("step_size", 7, "schedule.step_size", 7),
        ("gamma", 0.5, "schedule.gamma", 0.5),
        ("patience", 2, "schedule.patience", 2),
        ("factor", 0.5, "schedule.factor", 0.5),
        ("t_max", None, "schedule.t_max", None),
        ("init", "none", "model.initialisation", "none"),
        ("init", None, "model.initialisation", "none"),
        ("init", "orthogonal", "model.initialisation", "orthogonal"),
        ("bilinear", True, "model.arguments.upsample", "bilinear"),
        ("amp", False, "precision", "32-true"),
        ("amp", True, "precision", "bf16-mixed"),
        ("classes", ["streaks", "Pigment network"], "classes", ("streaks", "pigment_network")),
        ("classes", ["milia-like-cyst"], "classes", ("milia_like_cyst",)),
        ("load", None, "start", None),
        ("load", "runs/mine/bundle", "start", "runs/mine/bundle"),
        ("seed", 3, "seed", 3),
    ],
)
def test_a_key_goes_to_its_place(tmp_path: Path, key: str, value: object, place: str, expected: object) -> None:
    found: Any = load(tmp_path, {"model": "unet", key: value}).model_dump()
    for part in place.split("."):
        found = found[part]
    assert found == expected


def test_pretrained_and_freeze_concern_the_encoder_alone(tmp_path: Path) -> None:
    given = {"pretrained": "weights", "freeze": True}
    convnext = load(tmp_path, {"model": "unet-convnext-attention", **given})
    assert (convnext.model.arguments["pretrained"], convnext.freeze) == ("weights", ("encoder",))
    assert load(tmp_path, {"model": "unet", **given}) == load_recipe("attributes-unet")
    without = load(tmp_path, {"model": "unet-convnext-attention", "pretrained": False, "freeze": False})
    assert without == load_recipe("attributes-convnext-unet")


def test_settings_change_the_recipe_made_of_it(tmp_path: Path) -> None:
    assert load(tmp_path, FULL, "optimizer.lr=0.5", "model.arguments.norm=group").optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"schedular": "cosine"}, "there is no setting 'schedular'; did you mean 'scheduler'? Choose from: epochs, "),
        ({"learning_rate": 1}, "there is no setting 'learning_rate'; did you mean "),
        ({"model": "unet-res"}, "there is no model 'unet-res'; did you mean 'unet-residual'? Choose from: unet, "),
        ({"classes": 3}, f"classes is 3; expected 5 or names of {list(ATTRIBUTES)}"),
        ({"classes": []}, f"classes is []; expected 5 or names of {list(ATTRIBUTES)}"),
        ({"classes": ["streak"]}, "there is no class 'streak'; did you mean 'streaks'? Choose from: pigment_network, "),
        (
            {"load": "a/best.pth"},
            "load is the checkpoint a/best.pth; make a bundle of it by 'dermseg bundles import a/best.pth --recipe "
            "attributes-unet', and give the bundle's folder here",
        ),
        (
            {"load": "a/last.ckpt"},
            "load is the checkpoint a/last.ckpt; leave it out, and go on with its run by --output RUN --resume",
        ),
        ({"optimizer": "lion"}, "setting 'optimizer.name': Input should be 'adam', 'adamw', "),
        ({"epochs": "many"}, "setting 'epochs': "),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path: Path, content: dict[str, Any], sentence: str) -> None:
    assert refusal(tmp_path, {"model": "unet", **content}).startswith(f"config.yaml: {sentence}")


def test_a_recipe_of_ours_is_not_taken_for_one() -> None:
    for path in shipped().values():
        assert not is_legacy(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not is_legacy({"base": "unet", "lr": 1})
    assert not is_legacy({"name": "mine", "description": "d"})
