"""``dermseg train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import dermseg
from dermseg.cli.segment import Device


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of data sets in their official layouts.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder [runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where torch finds one.")] = Device.auto,
) -> None:
    """Train a recipe and make a bundle of the result. Needs the extra 'train'.

    Examples:
    - `dermseg train lesion --data DATA --set model.arguments.pretrained=mobilenet_v2_1.0_224`
    - `dermseg train lesion --data DATA --set epochs=30 --set optimizer.lr=5e-4`
    - `dermseg train lesion --data DATA --resume`
    """
    from dermseg.training.config import load_recipe

    chosen = load_recipe(recipe, settings or [])
    folder = output or Path("runs") / chosen.name
    bundle = dermseg.train(
        chosen,
        data,
        folder,
        resume=resume,
        device=device.value,
        report=lambda line: typer.echo(line, err=True),
        progress_bar=sys.stderr.isatty(),
    )
    typer.echo(bundle.path)
    typer.echo(f"next: dermseg evaluate --bundle {bundle.path} --data {data} --split test", err=True)
