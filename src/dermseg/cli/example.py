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
    from dermseg.errors import InputError
    from dermseg.imaging import encode_image, make_folder, write_bytes

    if path.suffix.lower() != ".png":
        raise InputError(f"{path} would be a PNG; give it a name that ends in .png")
    content = encode_image(synthetic.example().pixels)
    if path.exists() and path.read_bytes() != content:
        raise InputError(f"{path} exists and is another picture; give another name")
    make_folder(path.parent)
    write_bytes(path, content)
    typer.echo(path)
