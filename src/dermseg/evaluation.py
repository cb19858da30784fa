"""Scores a segmenter on a data set: samples in, an `EvaluationResult` out, its protocol always named."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dermseg.bundle import Bundle, Metric, Score
from dermseg.data import tables
from dermseg.data.catalog import Sample
from dermseg.errors import DataError, DermsegError, InputError
from dermseg.imaging import read_mask
from dermseg.metrics import Interval
from dermseg.protocols import ImageScore, Protocol, ProtocolName, Segmented, protocol_for

ALL = "all"
"""The summary over the images of every data set."""

_FAILURES_SHOWN = 10


class _Segmenter(typing.Protocol):
    """What is needed of a `Segmenter`."""

    @property
    def bundle(self) -> Bundle: ...

    def stream(self, sources: Iterable[Path], /) -> Iterator[Segmented | DermsegError]: ...


@dataclass(frozen=True)
class EvaluationResult:
    """How well a bundle segments a data set; prints as a table.

    Attributes:
        bundle: Name of the bundle that was scored.
        data: The data it was scored on, in words.
        split: The part of the data ("test").
        protocol: How the metrics are taken and averaged.
        images: The scored images, in the samples' order.
        failures: Id and reason of each sample without a score. They are in no mean, so that a result with
            failures must not be compared with one without; the official scorer would refuse such a set.
    """

    bundle: str
    data: str
    split: str
    protocol: Protocol
    images: tuple[ImageScore, ...]
    failures: tuple[tuple[str, str], ...] = ()

    @cached_property
    def summaries(self) -> dict[str, dict[str, Interval]]:
        """Data set -> metric -> value and interval; then the same over all images, under "all".

        Images of one group are resampled together, also across data sets, since these share images.
        """
        return {name: self.protocol.summarise(images) for name, images in self._tables().items()}

    def _tables(self) -> dict[str, list[ImageScore]]:
        """The images by data set, then all of them; nothing if there is no image."""
        tables: dict[str, list[ImageScore]] = {}
        for image in self.images:
            tables.setdefault(image.source, []).append(image)
        return {**tables, ALL: list(self.images)} if tables else {}

    def __str__(self) -> str:
        """A table of one row a metric and one column a data set, and what could not be scored."""
        lines = [f"{self.bundle} on {self.data}, split {self.split}", self.protocol.description, ""]
        tables = self._tables()
        if len(tables) == 2:  # One data set, whose numbers those over all would only repeat.
            del tables[ALL]
        rows = [
            ["", *tables],
            ["images", *(str(len(images)) for images in tables.values())],
            ["groups", *(str(_count_groups(images)) for images in tables.values())],
        ]
        if tables:
            metrics = self.images[0].metrics
            rows += [[metric, *(str(self.summaries[name][metric]) for name in tables)] for metric in metrics]
            lines += _align(rows)
        else:
            lines.append("no image could be scored")
        if self.failures:
            lines += ["", f"not scored, and in no mean: {len(self.failures)}"]
            lines += [f"  {id}: {reason}" for id, reason in self.failures[:_FAILURES_SHOWN]]
            if (more := len(self.failures) - _FAILURES_SHOWN) > 0:
                lines.append(f"  and {more} more")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything, as a JSON object: header, summaries, images and failures."""
        document = {
            "bundle": self.bundle,
            "data": self.data,
            "split": self.split,
            "protocol": self.protocol.description,
            "summaries": {
                name: {
                    "images": len(images),
                    "groups": _count_groups(images),
                    "metrics": {metric: asdict(interval) for metric, interval in self.summaries[name].items()},
                }
                for name, images in self._tables().items()
            },
            "images": [asdict(image) for image in self.images],
            "failures": [{"id": id, "reason": reason} for id, reason in self.failures],
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def scores(self) -> list[Score]:
        """What a bundle records of this result: the means and intervals for each data set."""
        tables = {name: images for name, images in self._tables().items() if name != ALL}
        return [
            Score(
                data=name,
                split=self.split,
                protocol=self.protocol.description,
                images=len(images),
                metrics={metric: Metric(**asdict(i)) for metric, i in self.summaries[name].items()},
            )
            for name, images in tables.items()
        ]

    def write_csv(self, path: Path) -> None:
        """Write one row an image (id, source, group, then each metric in full precision) to a UTF-8 file."""
        metrics = list(self.images[0].metrics) if self.images else []
        rows = (
            [image.id, image.source, image.group, *(image.metrics[name] for name in metrics)] for image in self.images
        )
        tables.write(path, ["id", "source", "group", *metrics], rows)


def evaluate(
    segmenter: _Segmenter,
    samples: Sequence[Sample],
    *,
    data: str,
    split: str,
    protocol: ProtocolName = "official",
    progress: Callable[[], None] | None = None,
) -> EvaluationResult:
    """Score a segmenter by one of the protocols, of which `protocol_for` tells.

    A sample whose image or truth cannot be used becomes a failure of the result; the rest carry on.

    Args:
        segmenter: Gives, through `stream`, a prediction or an error for each image.
        samples: Images with a mask of each of the bundle's classes; at least one.
        data: The data in words, for the report.
        split: The part of the data, for the report.
        protocol: `official`, `pooled` or `soft`.
        progress: Called after each sample.

    Returns:
        The scores of the images, in the samples' order.

    Raises:
        InputError: There is no sample, or no such protocol.
    """
    if not samples:
        raise InputError(f"nothing to evaluate: {data}, split {split!r}, has no samples")
    manifest = segmenter.bundle.manifest
    chosen = protocol_for(protocol, manifest.classes, manifest.input_size)
    images: list[ImageScore] = []
    failures: list[tuple[str, str]] = []
    outcomes = segmenter.stream(sample.image for sample in samples)
    for sample, outcome in zip(samples, outcomes, strict=True):
        try:
            images.append(_score(sample, outcome, chosen))
        except DermsegError as error:
            failures.append((sample.id, str(error)))
        if progress is not None:
            progress()
    return EvaluationResult(
        bundle=segmenter.bundle.name,
        data=data,
        split=split,
        protocol=chosen,
        images=tuple(images),
        failures=tuple(failures),
    )


def _score(sample: Sample, outcome: Segmented | DermsegError, protocol: Protocol) -> ImageScore:
    if isinstance(outcome, DermsegError):
        raise outcome
    height, width = outcome.geometry.height, outcome.geometry.width
    counts = []
    for name in protocol.classes:
        if name not in sample.masks:
            raise DataError(f"no {name!r} mask to compare with, only {sorted(sample.masks)}")
        truth = read_mask(sample.masks[name])
        if truth.shape != (height, width):
            raise DataError(
                f"the image is {width} x {height} px but its mask {truth.shape[1]} x {truth.shape[0]}; "
                "expected masks at their images' size"
            )
        counts.append(protocol.count(outcome, name, truth))
    return ImageScore(
        id=sample.id,
        source=sample.source,
        group=sample.group,
        counts=tuple(tuple(map(float, row)) for row in counts),
        metrics={name: float(value) for name, value in protocol.metrics_of(np.stack(counts)).items()},
    )


def _count_groups(images: Iterable[ImageScore]) -> int:
    return len({image.group for image in images})


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, two spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
