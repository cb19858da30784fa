"""``dermseg evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.segment import Device
from dermseg.errors import DataError, InputError


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
    splits: Annotated[Path | None, typer.Option(help="A table of splits in place of the shipped one.")] = None,
    threshold: Annotated[float | None, typer.Option(help="In place of the bundle's own.")] = None,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the bundle and its card.")] = False,
) -> None:
    """Score a bundle by the official ISIC Task 1 metrics, with 95 % bootstrap intervals.

    Examples:
    - `dermseg evaluate --data DATA --split test`
    - `dermseg evaluate --bundle runs/lesion/bundle --data DATA --split test --source isic2017`
    """
    from dermseg import evaluation
    from dermseg.bundle import Bundle
    from dermseg.cli.progress import progress_bar
    from dermseg.data import catalog
    from dermseg.data import splits as tables
    from dermseg.imaging import make_folder, write_bytes
    from dermseg.segmenter import Segmenter

    if record and (threshold is not None or splits is not None):
        raise InputError(
            "--record keeps the scores of the bundle as it is; it goes with neither --threshold nor --splits"
        )
    samples = catalog.with_lesion(catalog.read(data, source))
    chosen = tables.select(samples, split, tables.read(splits or tables.DEFAULT))
    if not chosen:
        raise DataError(
            f"{data} has no image with a lesion mask in the split {split!r}; --split all takes all there are"
        )
    loaded = Bundle.load(bundle)
    if record:
        loaded.check_writable()
    make_folder(output)
    segmenter = Segmenter(loaded, device=device.value, threshold=threshold, threads=1)
    with progress_bar(len(chosen), "evaluating") as advance:
        result = evaluation.evaluate(segmenter, chosen, data=str(data), split=split, progress=advance)
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
