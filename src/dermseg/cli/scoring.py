"""What the commands that score share: which images are meant, and what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermseg.cli.segment import Device
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


@dataclass(frozen=True)
class Chosen:
    """The images to score.

    Attributes:
        samples: Of the split, with a mask of each class.
        everything: All images of the data, whatever their split.
        tune: Those of the split `tune`, with a mask of each class.
    """

    samples: Sequence[Sample]
    everything: Sequence[Sample]
    tune: Sequence[Sample]


def choose(
    data: Path,
    source: Sequence[str] | None,
    split: str,
    splits: Path | None,
    quarantine: Path | None,
    classes: Sequence[str],
) -> Chosen:
    """Find the images of a split that have the masks to compare with, less those in quarantine.

    Raises:
        DermsegError: If there are none, or the data or the tables cannot be read.
    """
    from dermseg.data import catalog
    from dermseg.data import quarantine as lists
    from dermseg.data import splits as tables

    everything = catalog.read(data, source)
    kept = lists.keep(
        everything, [quarantine] if quarantine else lists.find(data), lambda line: typer.echo(line, err=True)
    )
    samples = catalog.with_masks(kept, classes)
    table = tables.read(splits or tables.default_for(classes))
    chosen = tables.select(samples, split, table)
    if not chosen:
        raise DataError(
            f"{data} has no image with masks of {', '.join(classes)} in the split {split!r}; "
            "--split all takes all there are"
        )
    return Chosen(chosen, everything, tables.select(samples, "tune", table))


def protocols_of(choice: ProtocolChoice, predictor: Predictor) -> tuple[ProtocolName, ...]:
    """The protocols that a choice names, of masks without probabilities those that can be had."""
    from dermseg.protocols import PROTOCOLS, protocols_for

    if choice is ProtocolChoice.all:
        return tuple(protocol.name for protocol in protocols_for(predictor.classes, predictor.input_size))
    return tuple(name for name in PROTOCOLS if name == choice.value)


@dataclass(frozen=True)
class Subject:
    """What is to be scored, as it was given: a bundle, an ensemble of several, or a folder of masks.

    Attributes:
        bundles: One or more; none where there is a folder.
        folder: Of masks.
    """

    bundles: tuple[Bundle, ...] = ()
    folder: Path = Path()

    @classmethod
    def of_bundles(cls, names: str) -> Subject:
        """Load a bundle, or several whose names, folders or zips are joined by commas."""
        from dermseg.bundle import Bundle

        return cls(tuple(Bundle.load(name.strip()) for name in names.split(",")))

    @classmethod
    def of_either(cls, given: str) -> Subject:
        """A folder that is no bundle is one of masks; all else is bundles."""
        from dermseg.bundle import MANIFEST

        folder = Path(given)
        return cls(folder=folder) if folder.is_dir() and not (folder / MANIFEST).exists() else cls.of_bundles(given)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the masks show; of a folder the attributes where a file's name says so, else the lesion."""
        from dermseg.data.catalog import ATTRIBUTES, LESION

        if self.bundles:
            return self.bundles[0].manifest.classes
        named = any("_attribute_" in path.name for path in self.folder.glob("*"))
        return ATTRIBUTES if named else (LESION,)

    def open(self, chosen: Chosen, device: Device, threshold: float | None) -> Predictor:
        """Make ready what gives the predictions.

        Raises:
            DermsegError: If an engine does not start, bundles do not go together, or masks are missing or too many.
        """
        from dermseg.predictors import Ensemble, MaskFolder, Model
        from dermseg.segmenter import Segmenter

        if not self.bundles:
            if threshold is not None:
                raise InputError("masks have no threshold; give --threshold with bundles alone")
            return MaskFolder(self.folder, chosen.samples, self.classes, chosen.everything)
        segmenters = [Segmenter(bundle, device=device.value, threshold=threshold, threads=1) for bundle in self.bundles]
        return Model(segmenters[0]) if len(segmenters) == 1 else Ensemble(segmenters)
