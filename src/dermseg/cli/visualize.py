"""``dermseg visualize``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermseg.cli.scoring import Data, Sources, Split
from dermseg.errors import DataError, InputError

if TYPE_CHECKING:
    from dermseg.data.catalog import Sample
    from dermseg.figures import Picture
    from dermseg.segmenter import Segmenter


def visualize(
    data: Data,
    id: Annotated[str | None, typer.Option("--id", help="The image, such as ISIC_0012099.")] = None,
    index: Annotated[int | None, typer.Option("--index", help="Or its number in the split, from 0.")] = None,
    split: Split = "all",
    source: Sources = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Show what it predicts: a shipped one's name, a folder or zip.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The PNG to write [ID_visualized.png].")] = None,
) -> None:
    """Draw an image with its masks; with a bundle also its prediction, the errors, and the Jaccard of each class.

    Examples:
    - `dermseg visualize --data DATA --id ISIC_0012099`
    - `dermseg visualize --data DATA --split test --index 0 --bundle lesion --output case.png`
    """
    from dermseg.data import catalog, splits
    from dermseg.imaging import encode_image, make_folder, write_bytes
    from dermseg.segmenter import Segmenter

    if (id is None) == (index is None):
        raise typer.BadParameter("give either --id or --index")
    if output is not None and output.suffix.lower() != ".png":
        raise typer.BadParameter(f"--output is {output}; expected a name that ends in .png")
    segmenter = Segmenter(bundle) if bundle is not None else None
    table = splits.table_for(segmenter.bundle.manifest.classes) if segmenter else splits.read()
    samples = catalog.read(data, source)
    chosen = splits.select(samples, split, table)
    if id is not None:
        sample = _named(id, chosen, samples, f"{data}, split {split!r}")
    else:
        sample = _numbered(index or 0, chosen, f"{data}, split {split!r}")
    path = output or Path(f"{sample.image.stem}_visualized.png")
    if path.resolve() in {file.resolve() for file in (sample.image, *sample.masks.values())}:
        raise InputError(f"{path} is a file of the data set; choose another --output")
    make_folder(path.parent)
    write_bytes(path, encode_image(_draw(sample, splits.split_of(sample, table), segmenter)))
    typer.echo(path)


def _named(id: str, chosen: Sequence[Sample], everything: Sequence[Sample], where: str) -> Sample:
    """The first of the chosen samples with an id."""
    found = [sample for sample in chosen if sample.id == id]
    if not found:
        ids = {sample.id for sample in everything}
        if id in ids:
            raise InputError(f"{id} is not in {where}, but in another; leave out --split")
        closest = difflib.get_close_matches(id, sorted(ids), n=1, cutoff=0)[0]
        raise InputError(f"there is no image {id!r} in {where}; did you mean {closest!r}?")
    if len(found) > 1:
        sources = [sample.source for sample in found]
        typer.echo(f"{id} is in {' and '.join(sources)}; this is {sources[0]}'s, --source takes another's", err=True)
    return found[0]


def _numbered(index: int, chosen: Sequence[Sample], where: str) -> Sample:
    if not chosen:
        raise DataError(f"{where}, has no image; --split all takes all there are")
    if not 0 <= index < len(chosen):
        raise InputError(f"--index is {index}, but {where}, has {len(chosen)} images; expected 0 to {len(chosen) - 1}")
    return chosen[index]


def _draw(sample: Sample, side: str, segmenter: Segmenter | None) -> Picture:
    """The image with all its masks; or with what a segmenter finds and the masks of that."""
    from dermseg import figures
    from dermseg.evaluation import read_truths
    from dermseg.imaging import open_image

    if segmenter is None:
        photograph, predicted, classes, by = open_image(sample.image), {}, tuple(sample.masks), ""
        pixels = photograph.pixels(at_least=figures.PANEL)
    else:
        prediction = segmenter(sample.image)
        photograph, pixels, classes = prediction.photograph, prediction.pixels, prediction.classes
        predicted, by = {name: prediction.mask_of(name) for name in classes}, f", bundle {prediction.bundle}"
    height, width = photograph.size
    truths = read_truths(sample, [name for name in classes if name in sample.masks], photograph.size)
    return figures.case(pixels, predicted, truths, sample.id, f"{sample.source}, {side}, {width} x {height} px{by}")
