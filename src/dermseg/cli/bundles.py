"""``dermseg bundles``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

bundles = typer.Typer(name="bundles", invoke_without_command=True, rich_markup_mode="markdown")


@bundles.callback()
def list_bundles(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """List the shipped bundles: size, licence, training data, scores; or make one of weights trained elsewhere."""
    if context.invoked_subcommand is not None:
        return
    from dermseg.bundle import shipped_bundles

    found = shipped_bundles()
    if as_json:
        typer.echo(json.dumps([bundle.manifest.model_dump(mode="json") for bundle in found], indent=2))
        return
    for bundle in found:
        manifest = bundle.manifest
        data = manifest.training_data.sources
        typer.echo(f"{bundle.name}: {manifest.description}")
        typer.echo(f"  finds           {', '.join(manifest.classes)}")
        typer.echo(
            f"  size            {manifest.architecture.parameters / 1e6:.2f} M parameters, "
            f"{bundle.bytes() / 1e6:.1f} MB, input {manifest.input_size} px"
        )
        typer.echo(f"  licence         {manifest.licence} (weights)")
        typer.echo(f"  training data   {', '.join(f'{name} {count}' for name, count in data.items())}")
        for score in manifest.scores:
            shown = ", ".join(f"{name} {score.metrics[name].mean:.3f}" for name in ("jaccard", "dice"))
            typer.echo(f"  score           {score.data}, {score.split} ({score.images} images): {shown}")


@bundles.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A state dict, or a checkpoint that holds one.")],
    recipe: Annotated[
        str, typer.Option("--recipe", help="The recipe of the same network: a shipped one's name or a YAML file.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The bundle's folder [the file's name without its ending].")
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "not stated",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Make a bundle of weights trained elsewhere. Needs the extra 'train'.

    They are read without running any code in the file, and refused unless each fits the recipe's network.

    Example:
    - `dermseg bundles import best_model.pth --recipe unet --set input_size=320 --licence MIT`
    """
    from dermseg.errors import extra
    from dermseg.training.recipes import load_recipe

    chosen = load_recipe(recipe, settings or [])
    with extra("importing weights", "train"):
        from dermseg.training.importing import import_weights
    bundle = import_weights(file, chosen, output or file.with_suffix(""), licence)
    typer.echo(bundle.path)
    typer.echo(f"next: dermseg evaluate --bundle {bundle.path} --data DATA --split test", err=True)
