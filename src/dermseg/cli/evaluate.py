"""``dermseg evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.segment import Device
from dermseg.errors import DataError, InputError


class Protocol(StrEnum):
    """How a score is taken."""

    official = "official"
    pooled = "pooled"
    soft = "soft"


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Folder of data sets in their official layouts.")],
    split: Annotated[str, typer.Option("--split", help="tune, test, train or all.")],
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", help="A shipped bundle's name, a folder or a zip.")
    ] = "lesion",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of scores.csv and result.json.")] = Path(
        "evaluation"
    ),
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="A data set, if not all that are found; may be repeated."),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="official is the ISIC challenge's, Task 1 or, of several classes, Task 2; pooled takes all pixels of "
            "a set together; soft takes no threshold; the latter two compare at the network's size."
        ),
    ] = Protocol.official,
    splits: Annotated[Path | None, typer.Option(help="A table of splits in place of the shipped one.")] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="A list of images to leave out [DATA/quarantine.csv if there is one].")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="In place of the bundle's own.")] = None,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the bundle and its card.")] = False,
) -> None:
    """Score a bundle by the official ISIC metrics or another protocol, with 95 % bootstrap intervals.

    Examples:
    - `dermseg evaluate --data DATA --split test`
    - `dermseg evaluate --bundle runs/lesion/bundle --data DATA --split test --source isic2017`
    - `dermseg evaluate --bundle runs/lesion/bundle --data DATA --split test --protocol pooled --record`
    """
    from dermseg import evaluation
    from dermseg.bundle import Bundle
    from dermseg.cli.progress import progress_bar
    from dermseg.data import catalog
    from dermseg.data import quarantine as lists
    from dermseg.data import splits as tables
    from dermseg.imaging import make_folder, write_bytes
    from dermseg.segmenter import Segmenter

    if record and (threshold is not None or splits is not None):
        raise InputError(
            "--record keeps the scores of the bundle as it is; it goes with neither --threshold nor --splits"
        )
    if threshold is not None and protocol is Protocol.soft:
        raise InputError("--protocol soft takes no threshold; it goes without --threshold")
    loaded = Bundle.load(bundle)
    classes = loaded.manifest.classes
    samples = lists.keep(
        catalog.read(data, source),
        [quarantine] if quarantine else lists.find(data),
        lambda line: typer.echo(line, err=True),
    )
    samples = catalog.with_masks(samples, classes)
    chosen = tables.select(samples, split, tables.read(splits or tables.default_for(classes)))
    if not chosen:
        raise DataError(
            f"{data} has no image with masks of {', '.join(classes)} in the split {split!r}; "
            "--split all takes all there are"
        )
    if record:
        loaded.check_writable()
    make_folder(output)
    segmenter = Segmenter(loaded, device=device.value, threshold=threshold, threads=1)
    with progress_bar(len(chosen), "evaluating") as advance:
        result = evaluation.evaluate(
            segmenter, chosen, data=str(data), split=split, protocol=protocol.value, progress=advance
        )
    result.write_csv(output / "scores.csv")
    write_bytes(output / "result.json", result.to_json().encode())
    typer.echo(str(result))
    typer.echo(f"\nper image: {output / 'scores.csv'}; everything: {output / 'result.json'}", err=True)
    if result.failures:
        if record:
            typer.echo("not recorded in the bundle: a score counts only over all images", err=True)
        raise typer.Exit(1)
    if record:
        loaded.with_scores(result.scores())
        typer.echo(f"recorded in {loaded.path}", err=True)
