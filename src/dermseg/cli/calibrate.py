"""``dermseg calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
from dermseg.cli.progress import progress_bars
from dermseg.cli.scoring import OTHER_TABLE, TAKE_ITS_TABLE, Data, Quarantine, Sources, Splits, choose
from dermseg.errors import InputError, few


def calibrate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help=f"{WHICH}.")],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the calibrated copy.")],
    split: Annotated[
        str, typer.Option(help="tune, train or, where no image is on the side test, all; never what is reported of.")
    ] = "tune",
    source: Sources = None,
    splits: Splits = None,
    quarantine: Quarantine = None,
    temperature: Annotated[
        bool, typer.Option("--temperature/--no-temperature", help="Fit what makes pixels' probabilities honest.")
    ] = True,
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Fit what tells predictions to accept, review or reject [where there is one class].",
        ),
    ] = None,
) -> None:
    """Make a bundle's probabilities mean what they say, and let it tell how good its masks are; writes a copy.

    A bundle of several classes learns instead how likely it is that an image shows each of them.

    Thresholds move with the probabilities, so masks stay as they are, but for single pixels along an outline. Scores
    that no longer hold are dropped; `dermseg evaluate --record` takes them again. Needs the extra 'evaluate'.

    Examples:
    - `dermseg calibrate lesion --data DATA --output lesion-calibrated`
    - `dermseg calibrate runs/attributes/bundle --data DATA --no-temperature -o attributes-calibrated`
    """
    from dermseg import calibration
    from dermseg.bundle import Bundle
    from dermseg.data import splits as tables

    if split == "test":
        raise typer.BadParameter("--split test is what is reported of, on which no parameter is fitted; give tune")
    given = Bundle.load(bundle)
    chosen = choose(data, source, split, splits, quarantine, given.manifest.classes)
    reported = tables.select(chosen.samples, "test", tables.read(splits or tables.default_for(given.manifest.classes)))
    if reported:
        raise typer.BadParameter(
            f"--split {split} takes {len(reported)} images of the split test, which is what is reported of and on "
            f"which no parameter is fitted ({few([sample.id for sample in reported])}); give tune, or a table of your "
            "own with --splits"
        )
    if chosen.is_foreign_to(given):
        raise InputError(f"{given.name} cannot be calibrated by this table: {OTHER_TABLE}; {TAKE_ITS_TABLE}")
    with progress_bars() as update:
        if quality is None:
            quality = len(given.manifest.classes) == 1
        written, report = calibration.calibrate(
            given, chosen.samples, output, split=split, temperature=temperature, quality=quality, progress=update
        )
    typer.echo(str(report))
    typer.echo(f"\nwritten to {written.argument}", err=True)
