"""Recipes: every shipped one is whole and trains, settings go where they should, and mistakes get one sentence."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dermseg import synthetic
from dermseg.data import catalog
from dermseg.data.catalog import ATTRIBUTES, SOURCES
from dermseg.errors import RecipeError, choose_from
from dermseg.training import run
from dermseg.training.config import Recipe
from dermseg.training.recipes import load_recipe, load_reference, text_of
from dermseg.training.recipes import shipped as shipped_recipes

torch.set_num_threads(1)

SMALLEST = "name: tiny\ndescription: d\nmodel: {name: light}\n"

each_shipped = pytest.mark.parametrize("name", sorted(shipped_recipes()))


@pytest.fixture
def smallest(tmp_path: Path) -> str:
    return write(tmp_path, SMALLEST)


def write(folder: Path, content: str, name: str = "tiny") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(content, encoding="utf-8")
    return str(path)


def refusal(recipe: str, *settings: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- shipped recipes -----------------------------------------------------------------------------


def test_the_field_s_networks_are_shipped() -> None:
    assert set(shipped_recipes()) == {
        "lesion",
        "lesion-open",
        "unet",
        "ds-attention-unet",
        "ds-attention-unet-recall",
        "ege-unet",
        "swin-upernet",
        "mask2former",
        "attributes",
        "attributes-unet",
        "attributes-residual-unet",
        "attributes-attention-unet",
        "attributes-convnext-unet",
    }


@each_shipped
def test_a_shipped_recipe_is_whole(name: str) -> None:
    from dermseg.models import build
    from dermseg.training.losses import WeightedSum

    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert set(recipe.data.sources or ()) <= set(SOURCES)
    WeightedSum(recipe.loss)
    reference = load_reference(name)
    assert bool(reference.figures) == bool(reference.protocol)
    with torch.device("meta"):
        network = build(recipe.model.name, classes=len(recipe.classes), **recipe.model.arguments)
    assert reference.parameters == sum(parameter.numel() for parameter in network.parameters())


@each_shipped
def test_a_shipped_recipe_says_in_comments_what_it_is(name: str) -> None:
    lines = text_of(name).splitlines()
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 120


@each_shipped
def test_a_shipped_recipe_survives_being_written_out(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet", {"input_size": 256, "optimizer.name": "adam", "epochs": 60, "loss": {"dice": 1, "bce": 1}}),
        (
            "ds-attention-unet",
            {
                "input_size": 256,
                "optimizer.name": "adamw",
                "optimizer.lr": 1e-4,
                "optimizer.weight_decay": 1e-5,
                "loss": {"dice": 0.5, "focal": 0.5},
                "schedule.name": "reduce_lr",
                "schedule.patience": 5,
                "batch_size": 16,
                "epochs": 100,
                "deep_supervision": (0.2, 0.4, 0.6, 0.8),
            },
        ),
        (
            "ds-attention-unet-recall",
            {
                "input_size": 384,
                "batch_size": 8,
                "epochs": 50,
                "optimizer.lr": 3e-4,
                "optimizer.clip": 1.0,
                "schedule.name": "onecycle",
                "early_stopping": 10,
                "loss": {
                    "bce": 1,
                    "dice": 1,
                    "focal_tversky": {"weight": 1, "alpha": 0.7, "beta": 0.3, "gamma": 0.75},
                },
            },
        ),
        (
            "swin-upernet",
            {
                "input_size": 256,
                "loss": {"bce": 0.4, "dice": 0.6},
                "optimizer.name": "adamw",
                "optimizer.lr": 5e-5,
                "optimizer.weight_decay": 1e-4,
                "batch_size": 32,
                "early_stopping": 8,
                "normalisation": "imagenet",
            },
        ),
        (
            "ege-unet",
            {
                "input_size": 256,
                "loss": {"bce": 1, "dice": 1},
                "optimizer.name": "adamw",
                "optimizer.lr": 1e-3,
                "schedule.name": "cosine",
                "schedule.eta_min": 1e-5,
                "batch_size": 8,
                "epochs": 300,
                "deep_supervision": (0.1, 0.2, 0.3, 0.4, 0.5),
            },
        ),
        (
            "attributes-convnext-unet",
            {"classes": ATTRIBUTES, "monitor": "micro_jaccard", "data.sampling": "balanced", "input_size": 256},
        ),
    ],
)
def test_what_defines_a_system_is_kept(name: str, settings: dict[str, Any]) -> None:
    found = flat(load_recipe(name))
    assert {key: found[key] for key in settings} == settings


SMALL_MODELS: dict[str, dict[str, Any]] = {
    "ege-unet": {},
    "light": {},
    "unet": {"widths": [8, 16]},
    "swin-upernet": {"depths": [1, 1, 1, 1], "embed_dim": 32, "width": 8},
    "convnext-unet": {"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8], "decoder_widths": [8, 8, 8]},
    "mask2former": {"depths": [1, 1, 1, 1], "embed_dim": 32, "hidden": 64, "encoder_layers": 1},
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn images to train on and two to tune on, with masks of all classes, and their table of splits."""
    folder = tmp_path_factory.mktemp("drawn")
    synthetic.write_dataset(folder / "data", 6, size=(40, 48))
    for mask in sorted((folder / "data" / "masks").iterdir()):
        for name in ATTRIBUTES:
            shutil.copy(mask, mask.with_stem(f"{mask.stem}_{name}"))
    rows = ["id,group,split"]
    for number, sample in enumerate(catalog.read(folder / "data")):
        rows.append(f"{sample.id},{sample.group},{'tune' if number > 3 else 'train'}")
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return folder


class TrainedError(Exception):
    """Ends a run before its bundle is made, which takes longer than the training here and is tested elsewhere."""


@each_shipped
def test_a_shipped_recipe_trains(name: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object) -> None:
        raise TrainedError

    monkeypatch.setattr(run, "make_bundle", trained)
    model = load_recipe(name).model
    arguments = model.arguments | SMALL_MODELS[model.name]
    if "decoder_widths" in model.arguments and model.name == "unet":
        arguments |= {"widths": [8] * 5, "decoder_widths": [8] * 4}  # as many levels as auxiliary heads have weights
    settings = {
        "model.arguments": arguments,
        "input_size": 64,
        "epochs": 1,
        "batch_size": 2,
        "data.sources": ["plain"],
        "data.splits": str(drawn / "splits.csv"),
        "data.images_per_epoch": 4,
    }
    recipe = load_recipe(name, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    with pytest.raises(TrainedError):
        run.train(
            recipe,
            drawn / "data",
            tmp_path / "run",
            device="cpu",
            tracking="off",
            cache_folder=drawn / "cache",
            report=lambda line: None,
        )
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(math.isfinite(value.double().sum()) for value in last["state_dict"].values())
    assert load_recipe(str(tmp_path / "run" / "config.yaml")) == recipe


# --- the text and the origin of a recipe ---------------------------------------------------------


def test_the_text_is_the_file_s_own() -> None:
    assert text_of("unet") == shipped_recipes()["unet"].read_text(encoding="utf-8")


def test_a_recipe_without_an_origin_has_none_to_tell(smallest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_reference(smallest)
    assert str(caught.value).startswith("tiny.yaml: the section 'reference' is missing or wrong: ")


def test_a_wrong_figure_is_refused(tmp_path: Path) -> None:
    recipe = write(tmp_path, SMALLEST + "reference: {source: me, parameters: 1, figures: {dice: high}}\n")
    with pytest.raises(RecipeError, match=r"tiny.yaml: .*setting 'figures.dice': .*, got 'high'"):
        load_reference(recipe)


# --- a recipe on top of another ------------------------------------------------------------------


def test_a_base_fills_what_is_left_out(tmp_path: Path) -> None:
    base = load_recipe("ds-attention-unet")
    recipe = load_recipe(write(tmp_path, "base: ds-attention-unet\nepochs: 3\nmodel: {arguments: {dropout: 0.1}}\n"))
    arguments = base.model.arguments | {"dropout": 0.1}
    model = base.model.model_copy(update={"arguments": arguments})
    assert recipe == base.model_copy(update={"name": "tiny", "epochs": 3, "model": model})


def test_a_loss_or_another_network_replaces_the_base_s(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "base: ds-attention-unet\nloss: {bce: 1}\nmodel: {name: light}\n"))
    assert (recipe.loss, recipe.model.arguments) == ({"bce": 1.0}, {})
    assert load_recipe(write(tmp_path, "base: unet\nmodel: {name: unet}\n")).model == load_recipe("unet").model


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        ("light", "{hair: 0.5}", {"preset": "light", "hair": 0.5}),
        ("{coarse_dropout: 0.5}", "none", "none"),
        ("{coarse_dropout: 0.5}", "{preset: none, hair: 0.5}", {"preset": "none", "hair": 0.5}),
        ("{coarse_dropout: 0.5}", "{hair: 0.5}", {"coarse_dropout": 0.5, "hair": 0.5}),
    ],
)
def test_augmentation_on_top_of_a_base_s(tmp_path: Path, base: str, own: str, expected: object) -> None:
    write(tmp_path, SMALLEST + f"augmentation: {base}\n", "below")
    recipe = load_recipe(write(tmp_path, f"base: below.yaml\naugmentation: {own}\n"))
    model = {"name": "light"}
    assert recipe == Recipe.model_validate(
        {"name": "tiny", "description": "d", "model": model, "augmentation": expected}
    )


def test_a_setting_of_a_preset_is_changed_on_its_ground(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST + "augmentation: none\n"), ["augmentation.hair=0.5"])
    none = load_recipe(str(tmp_path / "tiny.yaml")).augmentation
    assert recipe.augmentation == none.model_copy(update={"hair": 0.5})


def test_a_base_may_be_a_file_beside_and_have_a_base(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write(tmp_path, "base: unet\nepochs: 5\nseed: 2\n", "first")
    recipe = load_recipe(write(tmp_path / "more", "base: ../first.yaml\nepochs: 6\n", "second"))
    assert recipe == load_recipe("unet").model_copy(update={"name": "second", "epochs": 6, "seed": 2})


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("tiny.yaml", "tiny.yaml: setting 'base': 'tiny.yaml' leads back to this recipe"),
        ("unett", "there is no recipe or YAML file 'unett'; did you mean 'unet'? Choose from: "),
        ("[unet]", "tiny.yaml: setting 'base': expected a recipe's name or a YAML file, got ['unet']"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(tmp_path: Path, base: str, sentence: str) -> None:
    assert refusal(write(tmp_path, f"base: {base}\n")).startswith(sentence)


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
        (
            "epochs=many",
            "tiny.yaml: setting 'epochs': Input should be a valid integer, unable to parse string as an integer, "
            "got 'many'",
        ),
        ("epochs=0", "tiny.yaml: setting 'epochs': Input should be greater than or equal to 1, got 0"),
        ("epochs=", "tiny.yaml: setting 'epochs': Input should be a valid integer, got None"),
        ("optimizer.lr=0", "tiny.yaml: setting 'optimizer.lr': Input should be greater than 0, got 0"),
        ("input_size=16", "tiny.yaml: setting 'input_size': Input should be greater than or equal to 32, got 16"),
        (
            "precision=16",
            "tiny.yaml: setting 'precision': Input should be '32-true', 'bf16-mixed' or '16-mixed', got 16",
        ),
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


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epoch", "epochs"),
        ("learning_rate", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("optimizer.lrr", "optimizer.lr"),
        ("optimizer.warmup", "schedule.warmup"),
        ("optimiser.lr", "optimizer"),
        ("optimizer.weigth_decay", "optimizer.weight_decay"),
        ("img_size", "input_size"),
        ("dropout_coarse", None),
        ("augmentation.hairs", "augmentation.hair"),
        ("shedule.name", "schedule"),
        ("scheduler", "schedule.name"),
        ("model.pretrained", "model.arguments.pretrained"),
        ("model.argument", "model.arguments"),
        ("data.sampler", "data.sampling"),
    ],
)
def test_an_unknown_setting_names_the_one_meant(smallest: str, key: str, meant: str | None) -> None:
    message = refusal(smallest, f"{key}=1")
    given = key.partition(".")[0] if key.startswith(("optimiser", "shedule")) else key
    assert message.startswith(f"tiny.yaml: there is no setting {given!r}; ")
    if meant is not None:
        assert message == f"tiny.yaml: there is no setting {given!r}; did you mean {meant!r}?"


def test_an_unknown_setting_like_no_other_gets_the_choice(smallest: str) -> None:
    assert refusal(smallest, "data.zzzzzz=1") == (
        "tiny.yaml: there is no setting 'data.zzzzzz'; choose from: sources, splits, quarantine, sampling, "
        "images_per_epoch"
    )


def test_a_misspelt_section_is_named_before_what_it_leaves_missing(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: tiny\ndescription: d\nmodle: {name: light}\n")
    assert refusal(recipe) == "tiny.yaml: there is no setting 'modle'; did you mean 'model'?"


def test_a_choice_names_the_closest_and_all() -> None:
    assert choose_from("unett", ["light", "unet"]) == "did you mean 'unet'? Choose from: light, unet"
    assert choose_from("unett", []) == "there is none to choose"


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: tiny\ndescription: d\n")
    assert refusal(recipe) == "tiny.yaml: setting 'model': Field required"


def test_an_unknown_recipe_is_refused() -> None:
    known = ", ".join(sorted(shipped_recipes()))
    hint = "did you mean 'lesion'? Choose from"
    assert refusal("lesions") == f"there is no recipe or YAML file 'lesions'; {hint}: {known}"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).startswith(f"there is no recipe or YAML file '{tmp_path}'; ")


@pytest.mark.parametrize("content", ["", "just words", "- a\n- list\n", "42"])
def test_yaml_without_settings_is_refused(tmp_path: Path, content: str) -> None:
    recipe = write(tmp_path, content)
    assert refusal(recipe) == f"{recipe} is no recipe: expected settings as 'key: value'"


def test_a_name_too_long_for_a_file_is_no_recipe() -> None:
    assert refusal("a" * 5000).startswith("there is no recipe or YAML file 'aaa")


@pytest.mark.parametrize("setting", ["schedule.t_0=.inf", "schedule.warmup=.inf", "optimizer.lr=.nan"])
def test_a_setting_is_a_finite_number(smallest: str, setting: str) -> None:
    assert "Input should be a finite number" in refusal(smallest, setting)


@pytest.mark.parametrize("setting", ["name=2024-13-01", "seed=0b_"])
def test_a_value_that_is_no_date_or_number_is_refused(smallest: str, setting: str) -> None:
    assert refusal(smallest, setting) == f"cannot read the value of {setting!r}: it is not YAML"


@pytest.mark.parametrize("name", ["classes", "initialisation", "name"])
def test_a_setting_of_its_own_is_no_argument_of_the_network(smallest: str, name: str) -> None:
    assert f"'{name}' is no argument of the network but a setting of its own" in refusal(
        smallest, f"model.arguments.{name}=3"
    )


@pytest.mark.parametrize(
    "content",
    [b"name: 2024-13-01\n", b"name: [1\nmodel: x\n", b"a: b: c\n", b"name: \xff\xfe\n", b"\x89PNG\r\n\x1a\n\x00"],
)
def test_what_is_not_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_bytes(content)
    assert refusal(str(path)).startswith(f"{path} is not YAML: ")


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: !!python/object/apply:os.getcwd []\n")
    assert refusal(recipe).startswith(f"{recipe} is not YAML: could not determine a constructor for the tag")
