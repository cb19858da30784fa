"""Scores predictions on a data set: samples in, an `EvaluationResult` out, its protocols always named."""

from __future__ import annotations

import hashlib
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dermseg import ranking
from dermseg.data import tables
from dermseg.data.catalog import Sample
from dermseg.errors import (
    SHOWN,
    DataError,
    DermsegError,
    ImageError,
    InputError,
    PredictionSizeError,
    PredictionValuesError,
    few,
)
from dermseg.facts import facts_of
from dermseg.imaging import read_true_mask
from dermseg.manifest import Metric, Score
from dermseg.metrics import Interval, score
from dermseg.parallel import attempt, in_order
from dermseg.protocols import ImageScore, Mask, Masks, Pair, Protocol, ProtocolName, count_groups, protocol_for
from dermseg.wording import align

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
"""The summary over the images of every data set."""

_OF_MASKS = {
    PredictionSizeError.__name__: "of another size than their images",
    PredictionValuesError.__name__: "with other values than 0 and 255",
}


class Predictor(typing.Protocol):
    """What is scored: a bundle, several of them, or masks of another tool; see `dermseg.predictors`."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What its masks show."""

    @property
    def input_size(self) -> int | None:
        """The side of the network's square, in pixels; None where there are masks but no probabilities."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of each class, above which a probability becomes mask; empty where there are none."""

    def __call__(self, sample: Sample, /) -> Masks:
        """The prediction for an image; called from several threads."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be scored.

    Attributes:
        id: The image's.
        source: Its data set.
        kind: What kind of error it was, by the name of its class.
        reason: One sentence.
    """

    id: str
    source: str
    kind: str
    reason: str


@dataclass(frozen=True)
class OperatingPoint:
    """Thresholds that find as much of each class as was asked for, chosen on `tune` alone.

    Attributes:
        sensitivity: That was asked for, as the mean over images that show the class, at the network's size.
        thresholds: Of each class, the highest of 0.01 to 0.99 that reaches it; 0.01 where none does.
        reached: The sensitivity at this threshold on `tune`; None of a class that no image shows.
        images: How many images of `tune` show the class, each image once.
    """

    sensitivity: float
    thresholds: tuple[float, ...]
    reached: tuple[float | None, ...]
    images: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """How good predictions on a data set are; prints as tables.

    Attributes:
        name: What was scored, such as a bundle's name.
        data: The data it was scored on, in words.
        split: The part of the data ("test").
        protocols: How the metrics are taken and averaged.
        images: The scored images, in the samples' order.
        failures: The samples without a score. They are in no mean, so that a result with failures must not be compared
            with one without; the official scorer would refuse such a set.
        thresholds: Of each class, above which a probability becomes mask; empty for masks without probabilities.
        content_hash: SHA-256 over the truths' pixels and the images' ids, in hexadecimal: equal where two results are
            of the same data.
        operating_point: Of high sensitivity, where one was asked for.
        remarks: Sentences on what puts the scores in doubt.
    """

    name: str
    data: str
    split: str
    protocols: tuple[Protocol, ...]
    images: tuple[ImageScore, ...]
    failures: tuple[Failure, ...] = ()
    thresholds: tuple[float, ...] = ()
    content_hash: str = ""
    operating_point: OperatingPoint | None = None
    remarks: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """What the masks show."""
        return self.protocols[0].classes

    @cached_property
    def summaries(self) -> dict[ProtocolName, dict[str, dict[str, Interval]]]:
        """Protocol -> data set -> metric -> value and interval; data sets end with "all", the images of all of them.

        Images of one group are resampled together. A metric that is not defined (an area under a curve where no pixel
        is positive) is NaN.
        """
        parts = self.parts()
        return {
            protocol.name: {name: protocol.summarise(images) for name, images in parts.items()}
            for protocol in self.protocols
        }

    def parts(self) -> dict[str, list[ImageScore]]:
        """The images by data set, then `distinct` ones, under "all"; nothing if there is no image."""
        parts: dict[str, list[ImageScore]] = {}
        for image in self.images:
            parts.setdefault(image.source, []).append(image)
        return {**parts, ALL: list(self.distinct)} if parts else {}

    @cached_property
    def distinct(self) -> tuple[ImageScore, ...]:
        """The images, each once: data sets share images under one id, and the truth of the first one counts."""
        first: dict[str, ImageScore] = {}
        for image in self.images:
            first.setdefault(image.id, image)
        return tuple(first.values())

    def protocol(self, name: ProtocolName) -> Protocol | None:
        """The protocol of a name, if the images were scored by it."""
        return next((protocol for protocol in self.protocols if protocol.name == name), None)

    def __str__(self) -> str:
        """For each protocol a table of one row a metric and one column a data set; then what could not be scored."""
        lines = [f"{self.name} on {self.data}, split {self.split}", *self.remarks]
        parts = self.parts()
        if len(parts) == 2:  # One data set, whose numbers those over all would only repeat.
            del parts[ALL]
        counts = [
            ["", *parts],
            ["images", *(str(len(images)) for images in parts.values())],
            ["groups", *(str(count_groups(images)) for images in parts.values())],
        ]
        if (copies := len(self.images) - len(self.distinct)) and ALL in parts:
            lines.append(f"in {ALL!r} an image that stands in several data sets counts once ({copies} left out)")
        for protocol in self.protocols if parts else ():
            summary = self.summaries[protocol.name]
            rows = [[metric, *(str(summary[name][metric]) for name in parts)] for metric in protocol.names]
            lines += ["", protocol.description, "", *align([*counts, *rows])]
        if not parts:
            lines += ["", "no image could be scored"]
        if self.failures:
            lines += ["", f"not scored, and in no mean: {len(self.failures)}", *self.failure_lines()]
        return "\n".join(lines)

    def failure_lines(self) -> list[str]:
        """What could not be scored: of masks that cannot be used a sentence for each kind, else a line for each image.

        Each names the first ``SHOWN`` and says how many more there are.
        """
        kinds: dict[str, list[Failure]] = {}
        for failure in self.failures:
            kinds.setdefault(failure.kind, []).append(failure)
        lines = []
        for kind, failures in kinds.items():
            if kind in _OF_MASKS:
                details, _, advice = zip(*(failure.reason.rpartition("; ") for failure in failures), strict=True)
                lines.append(f"  masks {_OF_MASKS[kind]} ({len(failures)}): {few(details)}; {advice[0]}")
            else:
                lines += [f"  {failure.id}: {failure.reason}" for failure in failures[:SHOWN]]
                lines += [f"  and {len(failures) - SHOWN} more of this kind"] if len(failures) > SHOWN else []
        return lines

    def to_pandas(self) -> pd.DataFrame:
        """A row for each image: id, source, group, width, height, its metrics, then its facts. Needs `evaluate`."""
        import pandas as pd

        rows = [
            {
                "id": image.id,
                "source": image.source,
                "group": image.group,
                "width": image.size[1],
                "height": image.size[0],
                **image.metrics,
                **image.facts,
            }
            for image in self.images
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> str:
        """Everything but the pictures, as a JSON object; a metric that is not defined is null."""
        parts = self.parts()
        document = {
            "name": self.name,
            "data": self.data,
            "split": self.split,
            "classes": self.classes,
            "thresholds": self.thresholds,
            "content_hash": self.content_hash,
            "operating_point": asdict(self.operating_point) if self.operating_point else None,
            "remarks": self.remarks,
            "protocols": {
                protocol.name: {
                    "description": protocol.description,
                    "summaries": {
                        name: {
                            "images": len(images),
                            "groups": count_groups(images),
                            "metrics": {
                                metric: plain(asdict(interval))
                                for metric, interval in self.summaries[protocol.name][name].items()
                            },
                        }
                        for name, images in parts.items()
                    },
                }
                for protocol in self.protocols
            },
            "images": [
                {
                    "id": image.id,
                    "source": image.source,
                    "group": image.group,
                    "width": image.size[1],
                    "height": image.size[0],
                    "metrics": plain(image.metrics),
                    "facts": plain(image.facts),
                }
                for image in self.images
            ],
            "failures": [asdict(failure) for failure in self.failures],
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def scores(self) -> list[Score]:
        """What a bundle records of this result: by protocol and data set the means and intervals."""
        return [
            Score(
                data=source,
                split=self.split,
                protocol=protocol.description,
                images=len(images),
                metrics={
                    metric: Metric(**asdict(interval))
                    for metric, interval in self.summaries[protocol.name][source].items()
                    if not math.isnan(interval.mean)
                },
            )
            for protocol in self.protocols
            for source, images in self.parts().items()
            if source != ALL
        ]

    def write_csv(self, path: Path) -> None:
        """Write a row for each image: id, source, group, width, height, its metrics in full precision, its facts."""
        metrics = list(dict.fromkeys(name for image in self.images for name in image.metrics))
        facts = list(dict.fromkeys(name for image in self.images for name in image.facts))
        rows = (
            [
                *(image.id, image.source, image.group, image.size[1], image.size[0]),
                *(image.metrics[name] for name in metrics),
                *(image.facts.get(name) for name in facts),
            ]
            for image in self.images
        )
        tables.write(path, ["id", "source", "group", "width", "height", *metrics, *facts], rows)


Looks = Callable[[Sample, Masks, Mapping[str, Mask]], bytes]
"""Draws an image's thumbnail, of its prediction and its true mask by class."""


def evaluate(
    predictor: Predictor,
    samples: Sequence[Sample],
    *,
    data: str,
    split: str,
    protocols: Sequence[ProtocolName] = ("official",),
    facts: bool = False,
    thumbnail: Looks | None = None,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> EvaluationResult:
    """Score predictions by some of the protocols, of which `protocol_for` tells.

    A sample whose image, prediction or truth cannot be used becomes a failure of the result; the rest carry on.

    Args:
        predictor: Gives a prediction, or raises an error, for each image.
        samples: Images with a mask of each of the predictor's classes; at least one.
        data: The data in words, for the report.
        split: The part of the data, for the report.
        protocols: Names of `PROTOCOLS`.
        facts: Whether to gather what is known of each image, for subgroups; it needs the photographs.
        thumbnail: Draws a small picture of each image, if one is wanted.
        workers: Images in work at a time; the number of cores if None.
        progress: Called after each sample.

    Returns:
        The scores of the images, in the samples' order.

    Raises:
        InputError: There is no sample, or no such protocol.
    """
    if not samples:
        raise InputError(f"nothing to evaluate: {data}, split {split!r}, has no samples")
    chosen = tuple(protocol_for(name, predictor.classes, predictor.input_size) for name in protocols)
    images: list[ImageScore] = []
    failures: list[Failure] = []
    content = hashlib.sha256()

    def work(sample: Sample) -> tuple[ImageScore, bytes]:
        prediction = predictor(sample)
        truths = read_truths(sample, prediction.classes, prediction.size)
        return (
            _score(
                sample,
                prediction,
                truths,
                chosen,
                *_look(sample, prediction, truths, facts, thumbnail),
            ),
            b"".join(np.packbits(truth).tobytes() for truth in truths.values()),
        )

    outcomes = in_order(lambda sample: attempt(work, sample), samples, workers)
    for sample, outcome in zip(samples, outcomes, strict=True):
        if isinstance(outcome, DermsegError):
            failures.append(Failure(sample.id, sample.source, type(outcome).__name__, str(outcome)))
        else:
            image, truth = outcome
            images.append(image)
            content.update(f"{sample.source}/{sample.id} {image.size}".encode(errors="surrogateescape") + truth)
        if progress is not None:
            progress()
    return EvaluationResult(
        name=predictor.name,
        data=data,
        split=split,
        protocols=chosen,
        images=tuple(images),
        failures=tuple(failures),
        thresholds=predictor.thresholds,
        content_hash=content.hexdigest(),
    )


def operating_point(
    predictor: Predictor,
    tune: Sequence[Sample],
    sensitivity: float,
    *,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> OperatingPoint:
    """Choose the highest threshold of each class that finds a share of it, as the mean over images.

    Args:
        predictor: Gives probabilities.
        tune: Images that nothing is reported of; at least one.
        sensitivity: The share, in (0, 1).
        workers: Images in work at a time; the number of cores if None.
        progress: Called after each sample.
    """
    result = evaluate(
        predictor, tune, data="", split="tune", protocols=("ranking",), workers=workers, progress=progress
    )
    if not result.images:
        raise DataError(f"no image of tune could be used: {result.failures[0].reason}")
    statistics = np.array([image.statistics["ranking"] for image in result.distinct])
    thresholds, reached, images = [], [], []
    for place in range(len(predictor.classes)):
        threshold = ranking.highest_threshold(statistics[:, place], sensitivity)
        counts = ranking.counts_at(statistics[:, place], [threshold])[:, 0]
        shown = counts[:, 0] + counts[:, 2] > 0
        thresholds.append(threshold)
        reached.append(float(score("sensitivity", counts[shown]).mean()) if shown.any() else None)
        images.append(int(shown.sum()))
    return OperatingPoint(sensitivity, tuple(thresholds), tuple(reached), tuple(images))


def read_truths(sample: Sample, classes: Iterable[str], size: tuple[int, int]) -> dict[str, Mask]:
    """The true mask of each class, (H, W), of an image of a size (height, width).

    Raises:
        DataError: There is no mask of a class, or it is of another size.
        DermsegError: A file cannot be read.
    """
    truths = {}
    for name in classes:
        if name not in sample.masks:
            raise DataError(f"no {name!r} mask to compare with, only {sorted(sample.masks)}")
        truth = truths[name] = read_true_mask(sample.masks[name])
        if truth.shape != size:
            raise DataError(
                f"{sample.masks[name]} is {truth.shape[1]} x {truth.shape[0]} px, its image {size[1]} x {size[0]}; "
                "expected masks at their images' size"
            )
    return truths


def _look(
    sample: Sample, prediction: Masks, truths: Mapping[str, Mask], facts: bool, thumbnail: Looks | None
) -> tuple[Mapping[str, str | float], bytes]:
    """Facts and thumbnail; none of a photograph that cannot be shown, whose masks can be scored nonetheless."""
    try:
        return (
            facts_of(sample, prediction, truths) if facts else {},
            thumbnail(sample, prediction, truths) if thumbnail else b"",
        )
    except ImageError:
        return {}, b""


def _score(
    sample: Sample,
    prediction: Masks,
    truths: Mapping[str, Mask],
    protocols: Sequence[Protocol],
    facts: Mapping[str, str | float],
    thumbnail: bytes,
) -> ImageScore:
    pairs = [Pair(prediction, name, truth) for name, truth in truths.items()]
    statistics = {protocol.name: np.stack([protocol.measure(pair) for pair in pairs]) for protocol in protocols}
    return ImageScore(
        id=sample.id,
        source=sample.source,
        group=sample.group,
        size=prediction.size,
        statistics=statistics,
        metrics={
            f"{protocol.prefix}{metric}": float(value)
            for protocol in protocols
            if protocol.per_image
            for metric, value in protocol.metrics_of(statistics[protocol.name]).items()
        },
        facts=facts,
        thumbnail=thumbnail,
    )


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON takes them, which has no NaN."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
