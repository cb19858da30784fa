"""``dermseg calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.progress import progress_bars
from dermseg.cli.scoring import Data, Quarantine, Sources, Splits, choose


def calibrate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A shipped bundle's name, a folder or a zip.")],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the calibrated copy.")],
    split: Annotated[str, typer.Option(help="tune, train or all; never what is reported of.")] = "tune",
    source: Sources = None,
    splits: Splits = None,
    quarantine: Quarantine = None,
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="Fit what tells predictions to accept, review or reject.")
    ] = True,
) -> None:
    """Make a bundle's probabilities mean what they say, and let it tell how good its masks are; writes a copy.

    Thresholds move with the probabilities, so masks stay as they are, but for single pixels along an outline. Scores
    that no longer hold are dropped; `dermseg evaluate --record` takes them again. Needs the extra 'evaluate'.

    Examples:
    - `dermseg calibrate lesion --data DATA --output lesion-calibrated`
    - `dermseg calibrate runs/attributes/bundle --data DATA --no-quality -o attributes-calibrated`
    """
    from dermseg import calibration
    from dermseg.bundle import Bundle

    given = Bundle.load(bundle)
    chosen = choose(data, source, split, splits, quarantine, given.manifest.classes)
    with progress_bars() as update:
        written, report = calibration.calibrate(given, chosen.samples, output, quality=quality, progress=update)
    typer.echo(str(report))
    typer.echo(f"\nwritten to {written.path}", err=True)
