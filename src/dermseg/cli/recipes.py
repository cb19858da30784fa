"""``dermseg recipes``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

recipes = typer.Typer(name="recipes", invoke_without_command=True, rich_markup_mode="markdown")


@recipes.callback()
def list_recipes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List the shipped recipes: the network's parameters and the reported figures; or show one.

    Examples:
    - `dermseg recipes`
    - `dermseg recipes show unet > mine.yaml && dermseg train mine.yaml --data DATA`
    """
    if context.invoked_subcommand is not None:
        return
    from dermseg.training.recipes import load_recipe, load_reference, shipped

    found = {name: (load_recipe(name), load_reference(name)) for name in shipped()}
    if as_json:
        described = [
            {"name": name, "description": recipe.description, "classes": recipe.classes, **reference.model_dump()}
            for name, (recipe, reference) in found.items()
        ]
        typer.echo(json.dumps(described, indent=2))
        return
    width = max(map(len, found))
    for name, (_, reference) in found.items():
        figures = ", ".join(f"{score} {value:g}" for score, value in reference.figures.items())
        millions = reference.parameters / 1e6
        size = f"{millions:5.1f}" if millions >= 1 else f"{millions:5.2f}"
        typer.echo(f"{name:<{width}}  {size} M  {figures or 'no figures'}")
    typer.echo("The figures are those their origins reported, each by a protocol of its own: dermseg recipes show NAME")


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name or a YAML file.")],
) -> None:
    """Print a recipe as it stands in its file, with its comments."""
    from dermseg.training.recipes import text_of

    typer.echo(text_of(name), nl=False)
