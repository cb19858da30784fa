"""Starts the web app's server and hands its settings to the page."""

from __future__ import annotations

import json
import math
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import typer
from streamlit.web import cli

from dermseg.app.backend import Backend, Local, Remote
from dermseg.errors import InputError

ENTRY = Path(__file__).with_name("entry.py")
BUNDLES = ("lesion", "attributes")

# Paper, ink and accent are those of the reports; each pair of ink and paper has a contrast of 7 or more.
_LIGHT = {
    "primaryColor": "#005a8f",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f1f4f7",
    "textColor": "#1b1f24",
    "borderColor": "#d3dae1",
    "linkColor": "#005a8f",
}
_DARK = {
    "primaryColor": "#6cb8ea",
    "backgroundColor": "#0f1216",
    "secondaryBackgroundColor": "#1a1f26",
    "textColor": "#e6e9ed",
    "borderColor": "#343b43",
    "linkColor": "#6cb8ea",
}

OPTIONS: Mapping[str, str] = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    # The welcome asks a server outside for the machine's address.
    "logger.hideWelcomeMessage": "true",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "theme.baseRadius": "10px",
    **{f"theme.light.{name}": value for name, value in _LIGHT.items()},
    **{f"theme.dark.{name}": value for name, value in _DARK.items()},
}
"""Streamlit's, given with the command, so that no file of the user's is read for them or written."""


@dataclass(frozen=True)
class Settings:
    """What the page asks.

    Attributes:
        bundles: Names of shipped bundles, folders or zips, to be run in this process.
        api: The address of a running service to ask in their place.
        token: The service's; None where it wants none.
    """

    bundles: tuple[str, ...] = BUNDLES
    api: str | None = None
    token: str | None = field(default=None, repr=False)

    def to_json(self) -> str:
        """As ``from_json`` takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What ``to_json`` gave."""
        values = json.loads(text)
        return cls(tuple(values["bundles"]), values["api"], values["token"])

    def backend(self) -> Backend:
        """Where outlines come from.

        Raises:
            DermsegError: If a bundle or the address cannot be used.
        """
        return Local(self.bundles) if self.api is None else Remote(self.api, self.token)


def run(
    *,
    port: int = 8501,
    address: str = "127.0.0.1",
    api: str | None = None,
    token: str | None = None,
    bundles: Sequence[str] = BUNDLES,
    max_upload: float = 32,
) -> None:
    """Serve the app until Ctrl-C.

    Args:
        port: To listen on.
        address: To listen on; ``0.0.0.0`` is all.
        api: Address of a running service, such as ``http://localhost:8000``, which is asked in place of ``bundles``.
        token: The service's.
        bundles: Names of shipped bundles, folders or zips; the first is shown first.
        max_upload: The largest file, in MiB of 2**20 bytes.

    Raises:
        BundleError: If a bundle cannot be used.
        InputError: If two bundles have the same name, the service's address is none, or the port cannot be had.
    """
    settings = Settings(tuple(bundles), api, token)
    settings.backend()  # refused here, not with the first visit
    _check_free(address, port)
    options = {
        **OPTIONS,
        "server.port": port,
        "server.address": address,
        "server.maxUploadSize": max(1, math.ceil(max_upload)),
    }
    typer.echo(f"dermseg app: http://{address}:{port} (Ctrl-C ends it)")
    arguments = [f"--{name}={value}" for name, value in options.items()]
    # In this process, so that the token stands in no other's arguments.
    status = cli.main(
        ["run", *arguments, str(ENTRY), "--", settings.to_json()], prog_name="streamlit", standalone_mode=False
    )
    if status:
        sys.exit(status)


def _check_free(address: str, port: int) -> None:
    """Refuse an address that cannot be listened on, for which Streamlit has no sentence."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise InputError(
            f"{address} port {port} cannot be listened on ({error.strerror}); give another --port or --host"
        ) from error
