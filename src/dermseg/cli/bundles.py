"""``dermseg bundles``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dermseg.errors import InputError

WHICH = (
    "A shipped bundle's name (lesion, attributes: not for commercial use; lesion-open: also for it), a folder or a zip"
)

bundles = typer.Typer(name="bundles", invoke_without_command=True, rich_markup_mode="markdown")


@bundles.callback()
def list_bundles(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """List the shipped bundles: size, licence, training data, scores; or show, annotate or import one."""
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
        for score in (each for each in manifest.scores if each.protocol.startswith("official")):
            names = [name for name in ("jaccard", "dice", "micro_jaccard", "micro_dice") if name in score.metrics]
            shown = ", ".join(f"{name} {score.metrics[name].mean:.3f}" for name in names)
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
    typer.echo(bundle.argument)
    typer.echo(f"next: dermseg evaluate --bundle {bundle.argument} --data DATA --split test", err=True)


@bundles.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{WHICH}.")] = "lesion",
    plain: Annotated[bool, typer.Option("--plain", help="As Markdown on a terminal too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Print a bundle's model card; what is no terminal gets it as Markdown.

    Examples:
    - `dermseg bundles show`
    - `dermseg bundles show runs/unet/bundle > card.md`
    """
    from dermseg.bundle import Bundle
    from dermseg.card import model_card

    manifest = Bundle.load(name).manifest
    if as_json:
        typer.echo(json.dumps(manifest.model_dump(mode="json"), indent=2))
    elif plain or not sys.stdout.isatty():
        typer.echo(model_card(manifest), nl=False)
    else:
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(model_card(manifest)))


@bundles.command()
def annotate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or a shipped one's name.")],
    file: Annotated[Path, typer.Argument(metavar="NOTES.md", help="Markdown; each `##` heading begins a note.")],
) -> None:
    """Write notes into a bundle and its model card, in place of all older ones.

    They stand between the card's scores and its limits: intended use, subgroups, failures, how to reproduce. One with
    the title of a section that the card has anyway, such as Limits, is added to that. An empty file removes all notes.

    Examples:
    - `dermseg bundles annotate runs/unet/bundle notes.md`
    - `dermseg bundles show runs/unet/bundle`
    """
    from dermseg.bundle import CARD, Bundle
    from dermseg.notes import parse_notes

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"{file} cannot be read ({reason}); give notes as a Markdown file in UTF-8") from error
    annotated = Bundle.load(bundle).with_notes(parse_notes(text))
    typer.echo(annotated.path / CARD)
