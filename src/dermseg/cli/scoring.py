"""What the commands that score share: which images are meant, and what is scored."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermseg.cli.segment import Device, names_in
from dermseg.errors import DataError, InputError

if TYPE_CHECKING:
    from dermseg.bundle import Bundle
    from dermseg.data.catalog import Sample
    from dermseg.evaluation import Predictor
    from dermseg.protocols import ProtocolName


class ProtocolChoice(StrEnum):
    """How a score is taken."""

    official = "official"
    pooled = "pooled"
    soft = "soft"
    boundary = "boundary"
    ranking = "ranking"
    all = "all"


Data = Annotated[Path, typer.Option("--data", help="Folder of data sets in their official layouts, or of your own.")]
Split = Annotated[str, typer.Option("--split", help="tune, test, train or all.")]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="A data set, if not all that are found; may be repeated.")
]
Splits = Annotated[Path | None, typer.Option(help="A table of splits in place of the shipped one.")]
Quarantine = Annotated[
    Path | None, typer.Option(help="A list of images to leave out [DATA/quarantine.csv if there is one].")
]
ProtocolOption = Annotated[
    ProtocolChoice,
    typer.Option(
        help="official is the ISIC challenge's, Task 1 or, of several classes, Task 2; pooled takes all pixels of a "
        "set together; soft takes no threshold; boundary takes distances between outlines; ranking takes areas under "
        "curves and calibration."
    ),
]


OTHER_TABLE = "it was trained by another table of splits"
TAKE_ITS_TABLE = "take that (--splits TABLE; the shipped without)"


@dataclass(frozen=True)
class Chosen:
    """The images to score.

    Attributes:
        samples: Of the split, with a mask of each class.
        everything: All images of the data, whatever their split.
        tune: Those of the split `tune`, with a mask of each class.
        split: Its name.
        table: The fingerprint of the table of splits.
    """

    samples: Sequence[Sample]
    everything: Sequence[Sample]
    tune: Sequence[Sample]
    split: str
    table: str

    def is_foreign_to(self, bundle: Bundle) -> bool:
        """Whether the bundle was trained on these data sets by another table of splits."""
        from dermseg.data.splits import may_have_seen

        return may_have_seen(bundle.manifest.training_data, {sample.source for sample in self.samples}, self.table)

    def remarks_on(self, bundles: Iterable[Bundle]) -> tuple[str, ...]:
        """Sentences on which bundles may have been trained on images of a split that is not meant for training."""
        foreign = dict.fromkeys(bundle.name for bundle in bundles if self.is_foreign_to(bundle))
        names = foreign if self.split in ("tune", "test") else ()
        return tuple(f"{name} may have been trained on images of {self.split}: {OTHER_TABLE}." for name in names)


def choose(
    data: Path,
    source: Sequence[str] | None,
    split: str,
    splits: Path | None,
    quarantine: Path | None,
    classes: Sequence[str],
    *,
    beside: bool = False,
) -> Chosen:
    """Find the images of a split that have the masks to compare with, less those in quarantine.

    With ``beside``, those of the data sets that ``source`` leaves out belong to ``everything`` too.

    Raises:
        DermsegError: If there are none, or the data or the tables cannot be read.
    """
    from dermseg.data import catalog
    from dermseg.data import quarantine as lists
    from dermseg.data import splits as tables

    found = catalog.read(data, source)
    everything = catalog.read(data) if beside and source else found
    kept = lists.keep(found, [quarantine] if quarantine else lists.find(data), lambda line: typer.echo(line, err=True))
    samples = catalog.with_masks(kept, classes)
    table = tables.read(splits or tables.default_for(classes))
    chosen = tables.select(samples, split, table)
    if not chosen:
        raise DataError(
            f"{data} has no image with masks of {', '.join(classes)} in the split {split!r}"
            + "; --split all takes all there are" * (split != "all")
        )
    return Chosen(chosen, everything, tables.select(samples, "tune", table), split, tables.fingerprint(table))


def protocols_of(choice: ProtocolChoice, predictor: Predictor) -> tuple[ProtocolName, ...]:
    """The protocols that a choice names, for all those that can be had.

    Raises:
        InputError: If the one that is asked for needs probabilities, and there are masks alone.
    """
    from dermseg.protocols import PROTOCOLS, protocol_for, protocols_for

    if choice is ProtocolChoice.all:
        return tuple(protocol.name for protocol in protocols_for(predictor.classes, predictor.input_size))
    chosen = next(name for name in PROTOCOLS if name == choice.value)
    return (protocol_for(chosen, predictor.classes, predictor.input_size).name,)


def output_folder(path: Path, *inputs: Path | None) -> None:
    """Make the folder of what is written, and see that it can be, before long work begins.

    Raises:
        InputError: If it is one of the ``inputs``, or cannot be written.
    """
    from dermseg.imaging import make_folder

    if any(given is not None and given.resolve() == path.resolve() for given in inputs):
        raise InputError(f"--output is {path}, which holds what is scored; give another folder")
    make_folder(path)
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); give another folder") from error


def tell_of_remarks(remarks: Iterable[str]) -> None:
    """Say, before the scoring, what puts its scores in doubt and what helps."""
    for remark in dict.fromkeys(remarks):
        typer.echo(f"note: {remark.removesuffix('.')}; {TAKE_ITS_TABLE}", err=True)


def tell_of_earlier(page: Path) -> None:
    """Say so if a report is not of the scores that were written beside it now."""
    if page.exists():
        typer.echo(f"note: {page} is of an earlier scoring", err=True)


@dataclass(frozen=True)
class Subject:
    """What is to be scored, as it was given: a bundle, an ensemble of several, or a folder of masks.

    Attributes:
        bundles: One or more; none where there is a folder.
        folder: Of masks.
        named: What the masks in the folder show, where it is known.
    """

    bundles: tuple[Bundle, ...] = ()
    folder: Path = Path()
    named: tuple[str, ...] = ()

    @classmethod
    def of_bundles(cls, *names: str) -> Subject:
        """Load bundles by their names, folders or zips."""
        from dermseg.bundle import Bundle

        return cls(tuple(Bundle.load(name) for name in names))

    @classmethod
    def of_either(cls, given: str) -> Subject:
        """A folder that is no bundle is one of masks; all else is a bundle, or several joined by commas."""
        from dermseg.bundle import MANIFEST, shipped

        folder = Path(given)
        if given not in shipped() and folder.is_dir() and not (folder / MANIFEST).exists():
            return cls(folder=folder)
        return cls.of_bundles(given) if given in shipped() or folder.exists() else cls.of_bundles(*names_in(given))

    @property
    def classes(self) -> tuple[str, ...]:
        """What the masks show; of a folder the attributes where the names of most files end with one, else the lesion.

        Raises:
            InputError: If the folder cannot be listed.
        """
        from dermseg.data.catalog import ATTRIBUTES, LESION
        from dermseg.data.layouts import Folder

        if self.bundles or self.named:
            return self.bundles[0].manifest.classes if self.bundles else self.named
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is no folder; expected one of masks")
        stems = [path.stem.lower() for path in Folder(self.folder).images]
        of_attributes = sum(stem.endswith(tuple(f"_{name}" for name in ATTRIBUTES)) for stem in stems)
        return ATTRIBUTES if 2 * of_attributes > len(stems) else (LESION,)

    def open(
        self,
        chosen: Chosen,
        device: Device,
        threshold: float | None,
        *,
        tta: bool = False,
        mc_dropout: int = 0,
        seed: int = 0,
    ) -> Predictor:
        """Make ready what gives the predictions; the arguments from ``device`` on are ``Segmenter``'s, of bundles.

        Raises:
            DermsegError: If an engine does not start, bundles do not go together, or masks are missing or too many.
        """
        from dermseg.predictors import Ensemble, MaskFolder, Model
        from dermseg.segmenter import Segmenter

        if not self.bundles:
            if threshold is not None:
                raise InputError("masks have no threshold; leave it out, or give a bundle")
            return MaskFolder(self.folder, chosen.samples, self.classes, chosen.everything)
        segmenters = [
            Segmenter(
                bundle,
                device=device.value,
                threshold=threshold,
                threads=1,
                tta=tta,
                mc_dropout=mc_dropout,
                seed=seed,
            )
            for bundle in self.bundles
        ]
        return Model(segmenters[0]) if len(segmenters) == 1 else Ensemble(segmenters)
