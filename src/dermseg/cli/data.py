"""``dermseg data``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermseg.cli.progress import progress_bar, progress_bars
from dermseg.errors import InputError, extra

if TYPE_CHECKING:
    from dermseg.data.catalog import Sample
    from dermseg.data.duplicates import Fingerprint
    from dermseg.data.findings import Finding
    from dermseg.data.splits import Split

EXTRA = "evaluate"
FINDINGS = "findings.csv"
SHOWN = 20

data = typer.Typer(
    name="data",
    help="Get data sets, check, split and look at them. Needs the extra 'evaluate', or 'train' where it says so.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A data set's folder, or a folder of such folders.")]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="A data set, if not all that are found; may be repeated.")
]
Table = Annotated[Path | None, typer.Option(help="A table of splits in place of the shipped ones.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="A shipped recipe's name or a YAML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe.")
]


class Method(StrEnum):
    """How images are given a side."""

    random = "random"
    official = "official"
    k_fold = "k-fold"


@data.command("list")
def list_(
    folder: Annotated[Path | None, typer.Option("--dir", help="Say what is there already.")] = None,
) -> None:
    """List the public data sets: images, licence, and how to get them.

    Examples:
    - `dermseg data list`
    - `dermseg data list --dir data`
    """
    from dermseg.data.sources import DATA_SETS

    for dataset in DATA_SETS:
        images = ", ".join(f"{count:,} {part}" for part, count in dataset.images.items())
        typer.echo(f"{dataset.name}: {dataset.title}")
        typer.echo(f"  images   {images}")
        typer.echo(f"  licence  {dataset.licence}")
        typer.echo(f"  cite     {dataset.citation}")
        if dataset.note:
            typer.echo(f"  note     {dataset.note}")
        if folder is not None and dataset.archives:
            there = [archive for archive in dataset.archives if (folder / dataset.folder / archive.target).exists()]
            typer.echo(f"  there    {len(there)} of {len(dataset.archives)} files")


@data.command()
def download(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Data sets (dermseg data list), or parts: isic2017:train.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the data sets.")] = Path("data"),
    fetched: Annotated[
        Path | None, typer.Option("--from", help="A folder of archives fetched by hand, used in place of the network.")
    ] = None,
) -> None:
    """Download data sets, check them by their SHA-256, and unpack them.

    A download that broke off goes on where it stopped, and what is there already is left alone; so repeat the command
    until it is content. It goes through the proxy that HTTPS_PROXY names.

    Examples:
    - `dermseg data download isic2017 --dir data`
    - `dermseg data download isic2018-task2:train isic2018-task1:train`
    - `dermseg data download ham10000 --from ~/Downloads`
    """
    with extra("downloading data", EXTRA):
        from dermseg.data.download import download as fetch

    with progress_bars(of_bytes=True) as update:
        done = fetch(
            names,
            folder,
            fetched=fetched,
            progress=update,
            report=lambda line: typer.echo(line, err=True),
        )
    for each in done:
        typer.echo(f"{each.outcome:10}  {each.path}")
    typer.echo(f"next: dermseg data check {folder}", err=True)


@data.command()
def check(
    folder: Folder,
    source: Sources = None,
    output: Annotated[Path, typer.Option("--output", "-o", help=f"Folder of {FINDINGS}.")] = Path("data-check"),
    against: Annotated[
        Path | None, typer.Option(help="Another data set, of which there should be no copies here: a test set, say.")
    ] = None,
    splits: Table = None,
    duplicates: Annotated[bool, typer.Option(help="Look for copies of images.")] = True,
    quarantine: Annotated[
        bool,
        typer.Option("--quarantine", help="Write DIR/quarantine.csv: images that train and evaluate then leave out."),
    ] = False,
    fixed: Annotated[
        Path | None, typer.Option("--fix", metavar="NEW", help="Write corrected masks to a new folder.")
    ] = None,
) -> None:
    """Find what is wrong with images, masks, names and splits.

    Errors spoil training or scoring; warnings ask to be looked at; notes are properties. Nothing is moved or changed.
    The exit code is 1 if there are errors.

    Examples:
    - `dermseg data check data`
    - `dermseg data check data/ham10000 --quarantine`
    - `dermseg data check mine --against data/isic2017 --fix mine-corrected`
    """
    from dermseg.data import catalog, findings, quality
    from dermseg.data import quarantine as lists
    from dermseg.imaging import make_folder

    samples = catalog.read(folder, source)
    place = _free(folder / lists.NAME) if quarantine else None
    if fixed is not None:
        quality.check_fix_folder(fixed, samples)
    others = [] if against is None else catalog.read(against)
    with progress_bar(len(samples) + len(others), "checking") as advance:
        found = quality.check(
            samples, folder, table=_table(splits), against=others, duplicates=duplicates, progress=advance
        )
    make_folder(output)
    findings.write_csv(found, output / FINDINGS)
    typer.echo(f"{len(samples)} images in {folder}\n\n{findings.summary(found)}")
    errors = [finding for finding in found if finding.severity == "error"]
    _show(errors)
    typer.echo(f"\nall findings: {output / FINDINGS}", err=True)
    if place is not None:
        lists.write(found, place, samples)
        typer.echo(f"{len({(e.id, e.source) for e in errors})} images to leave out: {place}", err=True)
    if fixed is not None:
        written = quality.fix(found, samples, fixed)
        typer.echo(f"{len(written)} corrected masks: {fixed}", err=True)
    if errors:
        raise typer.Exit(1)


@data.command()
def stats(
    folder: Folder,
    source: Sources = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page, its charts and tables.")] = Path(
        "data-stats"
    ),
    splits: Table = None,
    with_check: Annotated[bool, typer.Option("--check/--no-check", help="Show the findings of data check too.")] = True,
) -> None:
    """Describe data sets in one HTML page, with its charts (PNG) and tables (CSV) beside it.

    Class balance, attributes, sizes, colours, skin tones, sample images and findings, by data set and split.

    Examples:
    - `dermseg data stats data`
    - `dermseg data stats data --source isic2018 --no-check --output report`
    """
    with extra("describing data", EXTRA):
        from dermseg.data import catalog, quality, statistics
        from dermseg.report import data as report

    samples = catalog.read(folder, source)
    table = _table(splits)
    with progress_bars() as update:
        gathered = statistics.gather(samples, table, progress=lambda done, count: update("measuring", done, count))
    found = None
    if with_check:
        with progress_bar(len(samples), "checking") as advance:
            found = quality.check(samples, folder, table=table, progress=advance)
    typer.echo(report.write(gathered, found, output, title=f"Data in {folder.resolve().name}"))


@data.command()
def split(
    folder: Folder,
    method: Annotated[
        Method,
        typer.Option(
            help="random draws; official keeps the sides of the data sets' own folders; k-fold makes a table a fold."
        ),
    ] = Method.random,
    shares: Annotated[str, typer.Option(help="Of images on train, tune and test.")] = "0.8,0.1,0.1",
    folds: Annotated[int, typer.Option(help="Of k-fold.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    source: Sources = None,
    copies: Annotated[bool, typer.Option(help="Keep copies and near copies of an image on one side.")] = True,
    table: Annotated[
        Path | None, typer.Option(help="Draw nothing: report on this table, or a shipped one: default, attributes.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another table of splits (CSV) or data set (folder): report what leaks into it.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the tables; replaces none.")] = Path(
        "data-split"
    ),
) -> None:
    """Split data into train, tune and test, and report what leaks from one side to another.

    Images of one lesion or patient, and copies of an image, stay on one side. The sides are alike in lesion sizes,
    attributes and data sets. The tables are for `train --set data.splits=TABLE` and `evaluate --splits TABLE`.

    Examples:
    - `dermseg data split mine`
    - `dermseg data split data --method k-fold --folds 5 --seed 1 --output folds`
    - `dermseg data split data --table default --against data/isic2017`
    """
    from dermseg.data import catalog, leakage, splitting
    from dermseg.data import splits as tables
    from dermseg.data.duplicates import find_pairs, read_fingerprints
    from dermseg.data.tables import write
    from dermseg.imaging import make_folder

    samples = catalog.read(folder, source)
    if table is None:  # a run may go by what lies there
        for name in splitting.names_of(method.value, folds):
            _free(output / f"{name}.csv")
    others = catalog.read(against) if against is not None and against.is_dir() else []
    fingerprints: dict[Path, Fingerprint] = {}
    with progress_bars() as update:
        areas, unread = splitting.read_areas(samples, lambda done, count: update("masks", done, count))
        if copies:
            files = {sample.image: sample.image for sample in [*samples, *others]}
            fingerprints, failed = read_fingerprints(files, lambda done, count: update("images", done, count))
            unread |= failed
    for path, error in list(unread.items())[:SHOWN]:
        typer.echo(f"passed over: {path}: {error}", err=True)
    make_folder(output)
    drawn: Mapping[str, Sequence[splitting.Row]]
    if table is not None:
        given = tables.read({"default": tables.DEFAULT, "attributes": tables.ATTRIBUTE_TABLE}.get(str(table), table))
        drawn = {table.stem: [splitting.Row(s.id, s.group, tables.split_of(s, given)) for s in samples]}
    else:
        own = {sample.image: sample.id for sample in samples}
        prints = {image: taken for image, taken in fingerprints.items() if image in own}
        result = splitting.split(
            samples,
            method.value,
            shares=_numbers(shares),
            folds=folds,
            seed=seed,
            areas=areas,
            pairs=[(own[pair.one], own[pair.other]) for pair in find_pairs(prints, turned=True)],
        )
        for note in result.notes:
            typer.echo(note)
        if method is Method.random and any(sample.part for sample in samples):
            typer.echo("the data have sides of their own, which this draw does not keep; --method official does")
        drawn = result.tables
        for name, rows in drawn.items():
            write(output / f"{name}.csv", splitting.Row._fields, rows)
    for name, rows in drawn.items():
        # An image that is in several data sets may be on several sides of a table that does not list it.
        balance = splitting.balance(sorted(set(rows)), samples, areas)
        write(output / f"{name}_balance.csv", list(balance[0]), (record.values() for record in balance))
        typer.echo(f"\n{name}\n{_columns(balance)}\n")
        by_id = {row.id: row.split for row in rows}
        side_of = [row.split for row in rows] if table is not None else [by_id[sample.id] for sample in samples]
        found = leakage.find(_sides(samples, side_of, against, others), fingerprints)
        write(output / f"{name}_leaks.csv", leakage.Leak._fields, found.leaks)
        typer.echo(str(found) or "one side alone: nothing can leak")
    typer.echo(f"\ntables: {output}", err=True)


@data.command()
def preview(
    folder: Folder,
    recipe: RecipeName = "lesion",
    settings: Settings = None,
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 6,
    variants: Annotated[int, typer.Option(min=1, help="Random changes of each.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Of the changes [the recipe's].")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture, a PNG.")] = Path("preview.png"),
) -> None:
    """Draw what training sees: images as the recipe prepares and augments them, masks outlined. Needs 'train'.

    Examples:
    - `dermseg data preview data --recipe unet`
    - `dermseg data preview data --set augmentation=strong --set "processing=[hair_removal]"`
    """
    from dermseg.training.recipes import load_recipe

    chosen = load_recipe(recipe, settings or [])
    with extra("a preview of training", "train"):
        from dermseg.training.pictures import preview as draw
    draw(chosen, folder, output, count=count, variants=variants, seed=seed)
    typer.echo(output)


@data.command()
def prepare(folder: Folder, recipe: RecipeName = "lesion", settings: Settings = None) -> None:
    """Fit the images of a recipe into its size ahead of training, which does it otherwise. Needs 'train'.

    A preparation that was stopped goes on where it was; one of files that have changed is made anew. The results lie
    in $DERMSEG_CACHE, else in ~/.cache/dermseg.

    Example:
    - `dermseg data prepare data --recipe unet --set input_size=320`
    """
    from dermseg.training.recipes import load_recipe

    chosen = load_recipe(recipe, settings or [])
    with extra("preparing images", "train"):
        from dermseg.training.prepare import prepare as fit
    with progress_bars() as update:
        made = fit(
            chosen,
            folder,
            report=lambda line: typer.echo(line, err=True),
            progress=update,
        )
    typer.echo(f"{len(made.train)} images to train on and {len(made.tune.images)} to tune on are ready")


def _table(path: Path | None) -> Mapping[str, Split] | None:
    from dermseg.data import splits

    return None if path is None else splits.read(path)


def _free(path: Path) -> Path:
    if path.exists():
        raise InputError(f"{path} exists, and may have been edited; rename or delete it first")
    return path


def _show(errors: Sequence[Finding]) -> None:
    if errors:
        typer.echo()
    for finding in errors[:SHOWN]:
        typer.echo(f"{finding.kind}: {finding.message}")
    if (more := len(errors) - SHOWN) > 0:
        typer.echo(f"and {more} more errors")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--shares is {text!r}; expected three numbers such as 0.8,0.1,0.1") from error


def _sides(
    samples: Sequence[Sample], side_of: Sequence[Split], against: Path | None, others: Sequence[Sample]
) -> dict[str, list[Sample]]:
    """The samples on each side; and those of another data set, or on the sides of another table."""
    from dermseg.data import splits

    sides: dict[str, list[Sample]] = {
        name: [sample for sample, side in zip(samples, side_of, strict=True) if side == name] for name in splits.SPLITS
    }
    if others:
        sides[f"all of {against}"] = list(others)
    elif against is not None:
        table = splits.read(against)
        sides |= {f"{name} of {against.name}": splits.select(samples, name, table) for name in splits.SPLITS}
    return {name: found for name, found in sides.items() if found}


def _columns(records: Sequence[Mapping[str, str | int | float]]) -> str:
    """A table for a terminal."""
    rows = [list(records[0]), *([_cell(value) for value in record.values()] for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cell(value: str | int | float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
