"""``dermseg evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dermseg.cli.bundles import WHICH
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
from dermseg.cli.segment import Device, McDropout, Seed, Tta, names_in
from dermseg.errors import DataError, InputError, extra


def evaluate(
    data: Data,
    split: Split,
    bundle: Annotated[str | None, typer.Option("--bundle", "-b", help=f"{WHICH} [lesion].")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score a folder of masks instead: ID.png, ID_mask.png, ID_segmentation.png, ..."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Of --predictions [lesion, or the attributes where names end with one].", metavar="NAME,NAME"
        ),
    ] = None,
    ensemble: Annotated[
        str | None, typer.Option(help="Score the mean of several bundles instead: B1,B2.", metavar="B1,B2")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of report.html, SPLIT_metrics.csv, result.json, pictures.")
    ] = Path("evaluation"),
    source: Sources = None,
    protocol: ProtocolOption = ProtocolChoice.official,
    splits: Splits = None,
    quarantine: Quarantine = None,
    threshold: Annotated[float | None, typer.Option(help="In place of the bundle's own.")] = None,
    tta: Tta = False,
    mc_dropout: McDropout = 0,
    seed: Seed = 0,
    sensitivity: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="The report shows an operating point too that finds this share, chosen on tune; 0: none."
        ),
    ] = 0.95,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report", help="Write the page, with every protocol, subgroups, best and worst cases."
        ),
    ] = True,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print the page to report.pdf too, through Chromium.")] = False,
    cases: Annotated[int, typer.Option(min=0, help="Pictures in best/ and in worst/.")] = 8,
    device: Annotated[Device, typer.Option(help="auto is the CPU; cuda needs the extra 'train'.")] = Device.auto,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the bundle and its card.")] = False,
) -> None:
    """Score a bundle, an ensemble or the masks of another tool, with 95 % bootstrap intervals, and write a report.

    Examples:
    - `dermseg evaluate --data DATA --split test`
    - `dermseg evaluate --bundle runs/unet/bundle --data DATA --split test --source isic2017 --pdf`
    - `dermseg evaluate --predictions masks --data DATA --split test --protocol all --no-report`
    - `dermseg evaluate --ensemble lesion,runs/unet/bundle --data DATA --split test`
    - `dermseg evaluate --tta --mc-dropout 10 --data DATA --split test --source isic2017`
    """
    if sum(given is not None for given in (bundle, predictions, ensemble)) > 1:
        raise typer.BadParameter("give one of --bundle, --predictions and --ensemble")
    if ensemble is not None and len(names_in(ensemble)) < 2:
        raise typer.BadParameter("an ensemble is of two bundles or more: --ensemble B1,B2")
    if pdf and not report:
        raise typer.BadParameter("--pdf prints the report; it does not go with --no-report")
    if predictions is not None:
        subject = Subject(folder=predictions, named=tuple(names_in(classes)) if classes is not None else ())
    elif classes is not None:
        raise typer.BadParameter("--classes tells what --predictions show; a bundle knows its own")
    else:
        subject = Subject.of_bundles(
            *(names_in(ensemble) if ensemble is not None else ["lesion" if bundle is None else bundle])
        )
    sampled = tta or bool(mc_dropout)
    _check(subject, protocol, threshold, record, sampled)
    if report:
        with extra("a report", "evaluate"):
            from dermseg.report import evaluation as page
            from dermseg.report.pdf import find_browser, write_pdf
        if pdf:
            find_browser()
    from dermseg import evaluation
    from dermseg.card import model_card
    from dermseg.cli.progress import progress_bar
    from dermseg.imaging import write_bytes
    from dermseg.wording import utf8

    chosen = choose(data, source, split, splits, quarantine, subject.classes, beside=predictions is not None)
    if record:
        scored, *_ = subject.bundles
        scored.check_writable()
        known = scored.manifest.training_data.splits_hash
        if chosen.is_foreign_to(scored) or (splits is not None and known != chosen.table):
            raise InputError(
                f"--record keeps scores by the table of splits that {scored.name} was trained by, and "
                f"{splits or 'the shipped one'} is not known to be that; take it (--splits TABLE; the shipped without)"
            )
    remarks = chosen.remarks_on(subject.bundles)
    tell_of_remarks(remarks)
    predictor = subject.open(chosen, device, threshold, tta=tta, mc_dropout=mc_dropout, seed=seed)
    printed = protocols_of(protocol, predictor)
    output_folder(output, data, predictions)
    with progress_bar(len(chosen.samples), "evaluating") as advance:
        result = evaluation.evaluate(
            predictor,
            chosen.samples,
            data=data.resolve().name,
            split=split,
            protocols=protocols_of(ProtocolChoice.all, predictor) if report else printed,
            facts=report,
            thumbnail=page.thumbnail if report else None,
            progress=advance,
        )
    result = replace(result, remarks=remarks)
    # A threshold is chosen on tune, and reported on test.
    if report and sensitivity and split == "test" and chosen.tune and predictor.input_size is not None:
        with progress_bar(len(chosen.tune), "choosing an operating point on tune") as advance:
            try:
                point = evaluation.operating_point(predictor, chosen.tune, sensitivity, progress=advance)
                result = replace(result, operating_point=point)
            except DataError as error:
                typer.echo(f"no operating point: {error}", err=True)
    shown = replace(result, protocols=tuple(each for each in result.protocols if each.name in printed))
    table, document = output / f"{split}_metrics.csv", output / "result.json"
    try:
        if report:
            card = model_card(subject.bundles[0].manifest) if len(subject.bundles) == 1 else None
            written = page.write(result, output, predictor=predictor, samples=chosen.samples, card=card, cases=cases)
        else:
            result.write_csv(table)
            write_bytes(document, utf8(result.to_json()))
    finally:  # neither what cannot be written nor what cannot be printed costs the other
        typer.echo(str(shown))
    if report:
        typer.echo(f"\nreport: {written}", err=True)
    else:
        tell_of_earlier(output / "report.html")
    typer.echo(f"per image: {table}; everything: {document}", err=True)
    if record and result.failures:
        typer.echo("not recorded in the bundle: a score counts only over all images", err=True)
    elif record:
        recorded = subject.bundles[0].with_scores(shown.scores())
        typer.echo(f"recorded in {recorded.path}", err=True)
    if pdf:
        typer.echo(f"printed: {write_pdf(written)}", err=True)
    if result.failures:
        raise typer.Exit(1)


def _check(
    subject: Subject,
    protocol: ProtocolChoice,
    threshold: float | None,
    record: bool,
    sampled: bool,
) -> None:
    if sampled and not subject.bundles:
        raise InputError("masks are no network's samples; --tta and --mc-dropout go with bundles alone")
    if record and len(subject.bundles) != 1:
        raise InputError("--record keeps the scores of one bundle; it goes with neither --predictions nor --ensemble")
    if record and threshold is not None:
        raise InputError("--record keeps the scores of the bundle as it is; it goes without --threshold")
    if record and sampled:
        raise InputError("--record keeps the scores of single predictions; it goes with neither --tta nor --mc-dropout")
    if threshold is not None and protocol in (ProtocolChoice.soft, ProtocolChoice.ranking):
        raise InputError(f"--protocol {protocol.value} takes no threshold; it goes without --threshold")
