"""``dermseg app``."""

from __future__ import annotations

from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.serve import LOCAL
from dermseg.errors import extra


def app(
    host: Annotated[str, typer.Option(envvar="DERMSEG_HOST", help="Address to listen on; 0.0.0.0 is all.")] = LOCAL,
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65535, help="Port.")] = 8501,
    bundles: Annotated[
        list[str] | None,
        typer.Option("--bundle", "-b", help=f"{WHICH}; may be repeated [lesion and attributes]."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(
            envvar="DERMSEG_API", metavar="URL", help="A running service (dermseg serve) to ask, in place of bundles."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="DERMSEG_TOKEN", help="The service's token; better given as a variable.")
    ] = None,
    max_upload: Annotated[float, typer.Option(help="Largest file, in MiB.")] = 32,
) -> None:
    """Open the web app: drop images, see outlines, move thresholds, download masks; needs the extra 'app'.

    The app has no login: whoever reaches its address may use it, and with --api the service by its token.

    Examples:
    - `dermseg app`
    - `dermseg app --bundle lesion --bundle runs/mine/bundle`
    - `dermseg app --api http://localhost:8000 --port 8502`
    """
    if api is not None and bundles:
        raise typer.BadParameter("give one of --api and --bundle")
    if host not in (LOCAL, "localhost", "::1"):
        typer.echo("whoever reaches this address may use the app; it has no login", err=True)
    with extra("the app", "app"):
        from dermseg.app import BUNDLES, run

    run(port=port, address=host, api=api, token=token, bundles=bundles or BUNDLES, max_upload=max_upload)
