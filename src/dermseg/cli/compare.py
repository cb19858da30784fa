"""``dermseg compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.scoring import (
    Data,
    ProtocolChoice,
    ProtocolOption,
    Quarantine,
    Sources,
    Split,
    Splits,
    Subject,
    choose,
    output_folder,
    protocols_of,
    tell_of_earlier,
    tell_of_remarks,
)
from dermseg.cli.segment import Device, McDropout, Seed, Tta
from dermseg.errors import InputError, extra

GIVEN = "a bundle's name, folder or zip, several joined by commas as an ensemble, or a folder of masks."


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help=f"What is compared: {GIVEN}")],
    other: Annotated[str, typer.Argument(metavar="B", help="What it is compared with, likewise.")],
    data: Data,
    split: Split,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of compare.html, comparison.json, differences.csv.")
    ] = Path("comparison"),
    source: Sources = None,
    protocol: ProtocolOption = ProtocolChoice.all,
    splits: Splits = None,
    quarantine: Quarantine = None,
    threshold_a: Annotated[float | None, typer.Option(help="In place of A's own.")] = None,
    threshold_b: Annotated[float | None, typer.Option(help="In place of B's own.")] = None,
    tta: Tta = False,
    mc_dropout: McDropout = 0,
    seed: Seed = 0,
    plain_a: Annotated[
        bool, typer.Option("--plain-a", help="--tta and --mc-dropout are for B alone: A is predicted once.")
    ] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the page, with charts and cases.")] = True,
    cases: Annotated[int, typer.Option(min=0, help="Images shown where B is better, and where A is.")] = 6,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
) -> None:
    """Say which of two is better on the same images, with paired 95 % intervals, a signed-rank test, and a report.

    The verdict rests on the first protocol's ranking metric over all images.

    Examples:
    - `dermseg compare lesion runs/unet/bundle --data DATA --split test`
    - `dermseg compare lesion masks-of-another-tool --data DATA --split test --source isic2017`
    - `dermseg compare lesion lesion,runs/unet/bundle --data DATA --split test --protocol official --no-report`
    - `dermseg compare lesion lesion --threshold-b 0.3 --data DATA --split tune`
    - `dermseg compare lesion lesion --tta --plain-a --data DATA --split test`
    """
    with extra("a comparison", "evaluate"):
        from dermseg import comparison, evaluation

        if report:
            from dermseg.report import comparison as page
    from dermseg.cli.progress import progress_bar
    from dermseg.imaging import write_bytes
    from dermseg.protocols import protocol_for

    subjects = {name: Subject.of_either(given) for name, given in (("A", one), ("B", other))}
    sampled = [subject for name, subject in subjects.items() if not (plain_a and name == "A")]
    if (tta or mc_dropout) and not any(subject.bundles for subject in sampled):
        raise InputError("masks are no network's samples; --tta and --mc-dropout go with bundles alone")
    # Of masks beside a bundle it is the bundle that knows what they show.
    known = next((subject.classes for subject in subjects.values() if subject.bundles), ())
    subjects = {name: replace(subject, named=known) for name, subject in subjects.items()}
    comparison.check_classes(*(subject.classes for subject in subjects.values()))
    masks = not all(subject.bundles for subject in subjects.values())
    chosen = choose(data, source, split, splits, quarantine, subjects["A"].classes, beside=masks)
    remarks = {side: chosen.remarks_on(subject.bundles) for side, subject in subjects.items()}
    tell_of_remarks(remark for each in remarks.values() for remark in each)
    first = subjects["A"].open(
        chosen, device, threshold_a, tta=tta and not plain_a, mc_dropout=0 if plain_a else mc_dropout, seed=seed
    )
    second = subjects["B"].open(chosen, device, threshold_b, tta=tta, mc_dropout=mc_dropout, seed=seed)
    protocols = [name for name in protocols_of(protocol, first) if name in protocols_of(protocol, second)]
    # What would be refused after the scoring is refused before it.
    comparison.in_common(
        *([protocol_for(name, side.classes, side.input_size) for name in protocols] for side in (first, second))
    )
    output_folder(output, data, *(subject.folder for subject in subjects.values() if not subject.bundles))
    results = []
    for side, predictor, given in (("A", first, one), ("B", second, other)):
        with progress_bar(len(chosen.samples), f"scoring {side}") as advance:
            result = evaluation.evaluate(
                predictor,
                chosen.samples,
                data=data.resolve().name,
                split=split,
                protocols=protocols,
                facts=report and side == "A",
                progress=advance,
            )
        results.append(replace(result, name=given, remarks=remarks[side]))  # two bundles may bear one name
    found = comparison.compare(*results)
    try:
        if report:
            written = page.write(found, output, predictors=(first, second), samples=chosen.samples, cases=cases)
        else:
            for name, content in found.files().items():
                write_bytes(output / name, content)
    finally:  # neither what cannot be written nor what cannot be printed costs the other
        typer.echo(str(found))
    if report:
        typer.echo(f"\nreport: {written}", err=True)
    else:
        tell_of_earlier(output / "compare.html")
    typer.echo(f"per image: {output / comparison.TABLE}; everything: {output / comparison.DOCUMENT}", err=True)
    if found.left_out:
        raise typer.Exit(1)
