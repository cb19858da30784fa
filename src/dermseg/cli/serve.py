"""``dermseg serve``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.errors import InputError, extra

LOCAL = "127.0.0.1"
LIMITS, MACHINE = "Limits", "Machine"


class LogLevel(StrEnum):
    """The least that is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def serve(
    host: Annotated[str, typer.Option(envvar="DERMSEG_HOST", help="Address to listen on; 0.0.0.0 is all.")] = LOCAL,
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    bundles: Annotated[
        list[str] | None,
        typer.Option(
            "--bundle",
            "-b",
            help=f"{WHICH}; may be repeated, the first is the default.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="DERMSEG_TOKEN", help="Ask for `Authorization: Bearer TOKEN`; better given as a variable."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="A file that holds the token.")] = None,
    origins: Annotated[
        list[str] | None, typer.Option("--origin", help="A web page's origin that may call (CORS); may be repeated.")
    ] = None,
    max_upload: Annotated[float, typer.Option(help="Largest body of one image, in MiB.", rich_help_panel=LIMITS)] = 32,
    max_batch_upload: Annotated[
        float, typer.Option(help="Largest body of many images, in MiB.", rich_help_panel=LIMITS)
    ] = 256,
    max_pending: Annotated[
        float, typer.Option(help="Most of all bodies held at a time, in MiB.", rich_help_panel=LIMITS)
    ] = 512,
    max_files: Annotated[int, typer.Option(help="Most images in one request.", rich_help_panel=LIMITS)] = 256,
    max_megapixels: Annotated[float, typer.Option(help="Largest image to open.", rich_help_panel=LIMITS)] = 50,
    upload_timeout: Annotated[
        float, typer.Option(help="Seconds a body may take to arrive.", rich_help_panel=LIMITS)
    ] = 30,
    deadline: Annotated[
        float,
        typer.Option(
            help="Seconds from a body's arrival to its answer; for each image of many.", rich_help_panel=LIMITS
        ),
    ] = 30,
    queue: Annotated[int, typer.Option(help="Images in work or waiting; more get 503.", rich_help_panel=LIMITS)] = 64,
    drain: Annotated[float, typer.Option(help="Seconds to finish at a stop.", rich_help_panel=LIMITS)] = 30,
    workers: Annotated[
        int, typer.Option(envvar="WEB_CONCURRENCY", min=1, help="Processes.", rich_help_panel=MACHINE)
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Images in work at a time in each [number of cores].", rich_help_panel=MACHINE)
    ] = None,
    batch: Annotated[int, typer.Option(help="Most images given to the network at once.", rich_help_panel=MACHINE)] = 4,
    batch_delay: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds an image waits for others.", rich_help_panel=MACHINE)
    ] = 2,
    log_level: Annotated[LogLevel, typer.Option(help="Least that is logged.", rich_help_panel=MACHINE)] = LogLevel.info,
) -> None:
    """Serve bundles over HTTP; needs the extra 'serve'.

    `/docs` describes every address and tries it. After the lines of its start, logs are JSON lines on stderr and hold
    no image and no file's name. SIGTERM finishes what was accepted.

    Examples:
    - `dermseg serve`
    - `curl -F file=@lesion.jpg localhost:8000/segment -o mask.png`
    - `DERMSEG_TOKEN=secret dermseg serve --host 0.0.0.0 --port 7860 --workers 2`
    - `dermseg serve --bundle lesion --bundle attributes`
    - `dermseg serve --bundle lesion --bundle runs/mine/bundle --origin https://clinic.example`
    """
    with extra("the service", "serve"):
        from dermseg.serving.run import run

    from dermseg.serving.config import settings

    if token_file is not None:
        if token is not None:
            raise typer.BadParameter("give one of --token (or DERMSEG_TOKEN) and --token-file")
        token = _secret(token_file)
    config = settings(
        bundles=tuple(bundles or ["lesion"]),
        token=token,
        origins=tuple(origins or ()),
        max_upload=max_upload,
        max_batch_upload=max_batch_upload,
        max_pending=max_pending,
        max_files=max_files,
        max_megapixels=max_megapixels,
        upload_timeout=upload_timeout,
        deadline=deadline,
        queue=queue,
        batch=batch,
        batch_delay=batch_delay / 1000,
        threads=threads,
        drain=drain,
    )
    if config.token is None and host not in (LOCAL, "localhost", "::1"):
        typer.echo("whoever reaches this address may use the service; DERMSEG_TOKEN asks for a token", err=True)
    run(config, host=host, port=port, workers=workers, log_level=log_level.value, announce=typer.echo)


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token cannot be read from {path}: {error}") from error
