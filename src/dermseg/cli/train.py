"""``dermseg train``."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import dermseg
from dermseg.cli.segment import Device
from dermseg.errors import InputError, RecipeError

if TYPE_CHECKING:
    from dermseg.training.config import Recipe

RUNS = Path("runs")
STARTED = "DERMSEG_RUN_STARTED"
SETTINGS, RUN, MACHINE = "Settings of the recipe", "Run", "Machine"


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name (dermseg recipes) or a YAML file.")],
    data: Annotated[
        Path, typer.Option("--data", help="Folder of data sets in their official layouts.", rich_help_panel=RUN)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder [a new one below runs].", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last checkpoint of --output, or of the recipe's newest run below runs.",
            rich_help_panel=RUN,
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Two epochs of a few images, to see that everything works.", rich_help_panel=RUN),
    ] = False,
    find_lr: Annotated[
        bool,
        typer.Option("--find-lr", help="Look for a learning rate first, and train with it.", rich_help_panel=RUN),
    ] = False,
    tracking: Annotated[
        str,
        typer.Option(
            help="MLflow: a tracking URI, auto for a database beside the run's folder, or off.", rich_help_panel=RUN
        ),
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change any setting; may be repeated.", rich_help_panel=SETTINGS
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE", help="Begin with the weights of a bundle of the same network.", rich_help_panel=SETTINGS
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Keep the weights of a part, such as encoder; may be repeated.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Times each image is seen.", rich_help_panel=SETTINGS)] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "--batch_size", help="Images a step.", rich_help_panel=SETTINGS)
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=SETTINGS)] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            "--img-size",
            "--img_size",
            help="Side of the network's input, in pixels.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="This loss alone, such as dice, bce_dice, tversky, focal_tversky, combined.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Change training images at random.", rich_help_panel=SETTINGS),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.", rich_help_panel=SETTINGS)] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic/--no-deterministic", help="The same result each time, or faster.", rich_help_panel=SETTINGS
        ),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network first.", rich_help_panel=SETTINGS)
    ] = False,
    device: Annotated[
        Device, typer.Option(help="auto takes a GPU where torch finds one.", rich_help_panel=MACHINE)
    ] = Device.auto,
    devices: Annotated[
        int, typer.Option(min=1, help="GPUs, or processes on a CPU, on each node.", rich_help_panel=MACHINE)
    ] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train together.", rich_help_panel=MACHINE)] = 1,
) -> None:
    """Train a recipe and make a bundle of the result. Needs the extra 'train'.

    Examples:
    - `dermseg train lesion --data DATA --set model.arguments.pretrained=mobilenet_v2_1.0_224`
    - `dermseg train unet --data DATA --epochs 30 --lr 5e-4 --set optimizer.name=sgd`
    - `dermseg train unet --data DATA --resume`
    - `dermseg train mine.yaml --data DATA --init runs/mine/bundle --freeze encoder --debug`
    """
    from dermseg.training.config import AugmentationConfig
    from dermseg.training.recipes import load_recipe

    values = {
        "start": init,
        "freeze": freeze or None,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer.lr": lr,
        "input_size": image_size,
        "loss": None if loss is None else {loss: 1},
        "augmentation": "none" if augment is False else None,
        "deterministic": deterministic,
        "compile": compile_ or None,
        "seed": seed,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]
    chosen = load_recipe(recipe, [*given, *(settings or [])])
    if augment and chosen.augmentation == AugmentationConfig.model_validate("none"):
        chosen = load_recipe(recipe, [*given, *(settings or []), "augmentation=standard"])
    run = dermseg.train  # says which extra is missing, before anything is looked for
    if output is None and nodes > 1:
        raise InputError("--nodes needs --output, a folder that every machine sees under the same path")
    bundle = run(
        chosen,
        data,
        output or (_newest_run(chosen, devices, debug) if resume else _new_run(chosen, devices)),
        resume=resume,
        device=device.value,
        devices=devices,
        nodes=nodes,
        debug=debug,
        find_lr=find_lr,
        tracking=tracking,
        report=lambda line: typer.echo(line, err=True),
        progress_bar=sys.stderr.isatty(),
    )
    if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("NODE_RANK", "0") != "0":
        return  # one of several processes that run this command; the first one tells
    typer.echo(bundle.argument)
    # With another table, images that were trained on would be among those of `test`.
    own = {"--splits": chosen.data.splits, "--quarantine": chosen.data.quarantine}
    more = "".join(f" {option} {path}" for option, path in own.items() if path is not None)
    typer.echo(f"next: dermseg evaluate --bundle {bundle.argument} --data {data} --split test{more}", err=True)


def _new_run(recipe: Recipe, devices: int) -> Path:
    from dermseg.training.run import run_name

    started = datetime.now()  # the user's own time
    if devices > 1:
        # Each of the processes runs this command again, and must find the first one's folder.
        started = datetime.fromisoformat(os.environ.setdefault(STARTED, started.isoformat()))
    return RUNS / run_name(recipe, started)


def _newest_run(recipe: Recipe, devices: int, debug: bool) -> Path:
    """The run of this recipe that was last worked on, of those with just these settings if there are any.

    Raises:
        InputError: If there is none.
    """
    from dermseg.training.recipes import load_recipe
    from dermseg.training.run import shortened

    recipe = shortened(recipe, devices) if debug else recipe
    found = []
    for config in RUNS.glob("*/config.yaml"):
        try:
            other = load_recipe(str(config))
        except RecipeError:
            continue  # of an older version
        if other.name == recipe.name:
            found.append((other == recipe, config.stat().st_mtime, config.parent))
    if not found:
        raise InputError(f"{RUNS} holds no run of {recipe.name} to resume; give its folder as --output")
    return max(found)[2]
