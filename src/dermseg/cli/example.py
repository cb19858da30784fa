"""``dermseg example``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def example(
    path: Annotated[Path, typer.Argument(help="The PNG to write.")] = Path("example.png"),
) -> None:
    """Draw the example image, to try dermseg without one of your own.

    Example:
    - `dermseg example lesion.png && dermseg segment lesion.png`
    """
    from dermseg import synthetic
    from dermseg.imaging import encode_image, make_folder, write_bytes

    make_folder(path.parent)
    write_bytes(path, encode_image(synthetic.example().pixels))
    typer.echo(path)
