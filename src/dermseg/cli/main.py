"""The table of commands, and how an error reaches the user."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dermseg._version import __version__
from dermseg.cli.app import app as web_app
from dermseg.cli.bundles import bundles
from dermseg.cli.calibrate import calibrate
from dermseg.cli.compare import compare
from dermseg.cli.data import data
from dermseg.cli.evaluate import evaluate
from dermseg.cli.example import example
from dermseg.cli.explain import explain
from dermseg.cli.predict import inference, predict
from dermseg.cli.recipes import recipes
from dermseg.cli.segment import segment
from dermseg.cli.serve import serve
from dermseg.cli.submission import submission
from dermseg.cli.train import train
from dermseg.cli.visualize import visualize
from dermseg.errors import DermsegError, printable

COMMANDS = (
    *(segment, train, evaluate, compare, calibrate, submission, visualize, explain, serve, web_app),
    *(example, predict, inference),
)
GROUPS = (data, recipes, bundles)


class _Commands(TyperGroup):
    """Shows what dermseg explains as one sentence; click itself exits with 2 for wrong usage."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DermsegError as error:
            if ctx.params["debug"]:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except OSError as error:  # a path that may not even be looked at, or whose name is too long
            if ctx.params["debug"] or error.errno == errno.EPIPE or error.strerror is None:
                raise
            # Without a name it is where the output goes, or the working directory.
            named = printable(error.filename) if error.filename else "the output or the working directory"
            typer.echo(f"error: {named} cannot be used ({error.strerror})", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="dermseg",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)
for group in GROUPS:
    app.add_typer(group)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dermseg {__version__}")
        raise typer.Exit


@app.callback()
def _dermseg(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Segment skin lesions in dermoscopy images. Research software, not a medical device."""


def main() -> None:
    """Run the command line."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
