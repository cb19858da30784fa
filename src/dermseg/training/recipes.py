"""Recipes by name or file: the shipped ones, one's own on top of them, and single settings changed.

A file may begin from another: ``base: unet`` takes over what the file leaves out. Sections are merged; ``loss``, and
``model`` where it names another network, are replaced as a whole.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dermseg.errors import RecipeError, choose_from
from dermseg.training import legacy
from dermseg.training.config import Recipe

# What other tools call our settings, where spelling alone would not lead there.
OTHER_NAMES = {
    "amp": "precision",
    "bundle": "start",
    "criterion": "loss",
    "decay": "optimizer.weight_decay",
    "encoder_weights": "model.arguments.pretrained",
    "gradient_clipping": "optimizer.clip",
    "image_size": "input_size",
    "img_size": "input_size",
    "learning_rate": "optimizer.lr",
    "max_epochs": "epochs",
    "pretrained": "model.arguments.pretrained",
    "scheduler": "schedule.name",
}


class Reference(BaseModel):
    """Where a shipped recipe comes from, and what its origin reported of itself; no part of the training.

    ``parameters`` are those of the network in training; ``protocol`` says on which images and how ``figures`` were
    computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    parameters: int = Field(ge=1)
    figures: dict[str, float] = Field(default_factory=dict)
    protocol: str = ""


def shipped() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = Path(str(resources.files("dermseg") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change single settings of it.

    Args:
        name_or_path: A shipped recipe's name or a YAML file; a flat YAML as ``dermseg.training.legacy`` reads it.
        settings: ``key=value`` pairs; dots lead into sections (``optimizer.lr=1e-4``), values are YAML.

    Raises:
        RecipeError: If there is no such recipe, or a setting does not exist or fit.
    """
    path = _find(name_or_path)
    content = _read(path)
    content.pop("reference", None)
    for setting in settings:
        _change(content, setting)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{path.name}: {_sentence(error)}") from error


def load_reference(name: str) -> Reference:
    """What a shipped recipe says of its origin.

    Raises:
        RecipeError: If there is no such recipe, or it says nothing.
    """
    path = _find(name)
    try:
        return Reference.model_validate(_read(path).get("reference"))
    except ValidationError as error:
        raise RecipeError(f"{path.name}: the section 'reference' is missing or wrong: {_sentence(error)}") from error


def text_of(name: str) -> str:
    """A recipe's file as it is, with its comments.

    Raises:
        RecipeError: If there is no such recipe.
    """
    return _text(_find(name))


def _find(name_or_path: str) -> Path:
    known = shipped()
    path = known.get(name_or_path, Path(name_or_path))
    if not _is_file(path):
        raise RecipeError(f"there is no recipe or YAML file {name_or_path!r}; {choose_from(name_or_path, known)}")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's settings on top of its base's."""
    try:
        content = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date or a number that is none
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is no recipe: expected settings as 'key: value'")
    settings: dict[str, Any] = content
    if legacy.is_legacy(settings):
        settings = legacy.convert(settings, path.name)
    if (base := settings.pop("base", None)) is None:
        return settings
    if not isinstance(base, str):
        raise RecipeError(f"{path.name}: setting 'base': expected a recipe's name or a YAML file, got {base!r}")
    beside = path.parent / base
    below = _find(str(beside) if base not in shipped() and beside.is_file() else base)
    if below.resolve() in (higher := (*above, path.resolve())):
        raise RecipeError(f"{path.name}: setting 'base': {base!r} leads back to this recipe")
    settings.setdefault("name", path.stem)
    return _merge(_read(below, higher), settings)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror})") from error


def _merge(base: Mapping[str, Any], own: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        before, where = merged.get(key), f"{inside}{key}"
        if where == "augmentation":
            before = _section(before)
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(where, before, value):
            merged[key] = _merge(before, value, f"{where}.")
        else:
            merged[key] = value
    return merged


def _replaces(section: str, before: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a section says something of its own, rather than change what stood there before."""
    match section:
        case "loss":
            return True
        case "model":
            return "name" in own and own["name"] != before.get("name")
        case "augmentation":
            return "preset" in own
        case _:
            return False


def _section(value: object) -> object:
    """A preset's name stands for a section."""
    return {"preset": value} if isinstance(value, str) else value


def _change(content: dict[str, Any], setting: str) -> None:
    key, separator, value = setting.partition("=")
    if not separator or not key:
        raise RecipeError(f"cannot read the setting {setting!r}; expected key=value, such as optimizer.lr=1e-4")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        inner = section.setdefault(parent, {})
        if parent == "augmentation":
            inner = section[parent] = _section(inner)
        section = inner
        if not isinstance(section, dict):
            raise RecipeError(f"cannot set {key!r}: {parent!r} is a value, not a section")
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"cannot read the value of {setting!r}: it is not YAML") from error
    section[last] = parsed


def _sentence(error: ValidationError) -> str:
    """What is wrong with the settings; a name that does not exist goes first, it explains one that is missing."""
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    # A value that may be of several types is named with the type that was tried.
    where = ".".join(str(part) for part in first["loc"] if part not in ("float", "dict[str,float]"))
    if first["type"] == "extra_forbidden":
        return f"there is no setting {where!r}{_nearest_setting(where)}"
    given = "" if first["type"] == "missing" else f", got {first['input']!r}"
    return f"setting {where!r}: {first['msg']}{given}"


def _nearest_setting(key: str) -> str:
    section, _, last = key.rpartition(".")
    known = list(_keys())
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    everywhere = {name.rpartition(".")[2]: name for name in reversed(known)} | {name: name for name in known}
    if meant := OTHER_NAMES.get(last) or everywhere.get(last):
        return f"; did you mean {meant!r}?"
    for names in (siblings, everywhere):
        if close := difflib.get_close_matches(last, names, n=1):
            return f"; did you mean {names[close[0]]!r}?"
    return f"; choose from: {', '.join(siblings)}"


def _keys(model: type[BaseModel] = Recipe, inside: str = "") -> Iterator[str]:
    """All settings, their sections before them."""
    for name, field in model.model_fields.items():
        yield f"{inside}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{inside}{name}.")
