"""Compares two results on the same images: paired differences with intervals, a signed-rank test, and a verdict.

The first result is called A, the second B, and a difference is always B - A.

- What is compared is the images that both have a score of. Both must have been asked for the same images.
- Protocols are compared where both took them alike, on one grid of pixels. Where two networks work at different sizes,
  `pooled`, `soft` and `ranking` are left out: each would see another truth, scaled to its own size.
- The interval of a difference is the paired bootstrap's: lesions or patients are drawn once for both.
- One test is made, of the ranking metric over all images, so that no p-value has to be corrected for others. It is
  Wilcoxon's signed-rank test (Wilcoxon 1945, Biometrics Bulletin 1:80-83), of one difference a lesion or patient, the
  mean over its images, because images of one lesion are not independent. Equal scores keep their ranks (Pratt 1959,
  J. Am. Stat. Assoc. 54:655-667): that two models agree on many images speaks against a difference, and to drop these
  images would hide it. A score of counts summed over images (Task 2, pooled) has no test, for an image has no share in
  it that could be ranked.
- Intervals of other metrics and of single data sets describe; they are not adjusted for their number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dermseg.data import tables
from dermseg.errors import DataError, InputError, few
from dermseg.evaluation import ALL, EvaluationResult, plain
from dermseg.metrics import Interval, bootstrap
from dermseg.protocols import ImageScore, Protocol, ProtocolName, count_groups
from dermseg.wording import align, count, utf8
from dermseg.wording import plain as readable

SIGNIFICANT = 0.05
LEAST_GROUPS = 6
"""Of fewer, no two-sided signed-rank test falls below 0.05: five alike give 2 / 2^5 = 0.0625."""

LOWER_IS_BETTER = ("hausdorff", "average_surface_distance", "calibration_error")
"""How the names of metrics begin of which less is better."""

DOCUMENT, TABLE = "comparison.json", "differences.csv"
"""Names of files: all numbers, and the differences of single images."""

Side = Literal["A", "B"]


@dataclass(frozen=True)
class Images:
    """On how many images B is better than A by a metric, equal or worse, and the median of the differences B - A."""

    better: int
    equal: int
    worse: int
    median: float


@dataclass(frozen=True)
class Difference:
    """A metric of A and of B, and how much they differ.

    Attributes:
        one: Of A, with its interval.
        other: Of B.
        difference: B - A, with the interval of paired resamples.
        higher_is_better: Whether more of the metric is better; not of distances and errors.
        images: The images one by one; None where the metric means nothing of one image.
    """

    one: Interval
    other: Interval
    difference: Interval
    higher_is_better: bool
    images: Images | None = None

    @property
    def gain(self) -> Interval:
        """The difference, turned where less is better: above 0 B is better."""
        if self.higher_is_better:
            return self.difference
        return Interval(-self.difference.mean, -self.difference.high, -self.difference.low)

    @property
    def defined(self) -> bool:
        """Whether A and B both have the metric on these images."""
        return not np.isnan(self.difference.mean)

    @property
    def favours(self) -> Side | None:
        """Whom the whole interval favours."""
        return "B" if self.gain.low > 0 else "A" if self.gain.high < 0 else None


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of the differences of groups.

    Attributes:
        p_value: Two-sided; 1 where all differences are 0.
        groups: How many differences it is of.
        correlation: The matched-pairs rank-biserial correlation (Kerby 2014, Comprehensive Psychology 3:11.IT.3.1),
            from -1, where all groups favour A, to 1, where all favour B; 0 where all differences are 0.
    """

    p_value: float
    groups: int
    correlation: float

    def __str__(self) -> str:
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return f"{p} (Wilcoxon signed-rank test over {count(self.groups, 'group')})"


@dataclass(frozen=True, eq=False)
class Comparison:
    """How two results on the same images differ; prints as tables under a verdict.

    Attributes:
        one: A, of the images and protocols that are compared; its failures are those it had.
        other: B, in the same order.
        not_compared: Protocols that both have, but not of the same grid of pixels.
    """

    one: EvaluationResult
    other: EvaluationResult
    not_compared: tuple[ProtocolName, ...] = ()

    @property
    def main(self) -> Protocol:
        """The protocol whose ranking metric decides: the first one."""
        return self.one.protocols[0]

    @property
    def left_out(self) -> int:
        """How many images A or B has no score of."""
        return len({(failure.source, failure.id) for failure in (*self.one.failures, *self.other.failures)})

    @cached_property
    def differences(self) -> dict[ProtocolName, dict[str, dict[str, Difference]]]:
        """Protocol -> data set -> metric -> difference; data sets end with "all", the images of all of them."""
        parts, others = self.one.parts(), self.other.parts()
        return {
            protocol.name: {name: differences(protocol, parts[name], others[name]) for name in parts}
            for protocol in self.one.protocols
        }

    @cached_property
    def test(self) -> SignedRank | None:
        """Of the ranking metric over all images; None where that is no mean over images."""
        if self.main.summed:
            return None
        name = f"{self.main.prefix}{self.main.main}"
        sign = 1 if higher_is_better(self.main.main) else -1
        return signed_rank(sign * self.difference_of(name), [image.group for image in self.one.distinct])

    @cached_property
    def pairs(self) -> list[tuple[ImageScore, ImageScore]]:
        """A's and B's scores of the images, each once."""
        return list(zip(self.one.distinct, self.other.distinct, strict=True))

    def difference_of(self, name: str) -> NDArray[np.float64]:
        """B - A of each image, once, (n,), of a metric by its name in `ImageScore.metrics`."""
        return np.array([other.metrics[name] - one.metrics[name] for one, other in self.pairs])

    @property
    def metric_names(self) -> list[str]:
        """The metrics that images have one by one, as `ImageScore.metrics` calls them."""
        return [f"{each.prefix}{metric}" for each in self.one.protocols if each.per_image for metric in each.names]

    @property
    def decisive(self) -> Difference:
        """The difference of the ranking metric over all images."""
        return self.differences[self.main.name][ALL][self.main.main]

    @property
    def winner(self) -> Side | None:
        """Who is better: whom the interval favours, the test does not contradict, and enough groups speak for."""
        side, test = self.decisive.favours, self.test
        if side is None or count_groups(self.one.distinct) < LEAST_GROUPS:
            return None
        if test and (test.p_value >= SIGNIFICANT or (test.correlation > 0) != (side == "B")):
            return None
        return side

    @property
    def verdict(self) -> str:
        """One sentence on who is better, or on what can be ruled out."""
        found, test, groups = self.decisive, self.test, count_groups(self.one.distinct)
        name, gain = readable(f"{self.main.prefix}{self.main.main}"), found.gain
        figures = f"{name} {signed(found.difference)}" + (f", {test}" if test else "")
        if np.isnan(gain.mean):
            return f"no verdict: {name} is not defined on these images"
        if gain == Interval(0, 0, 0) and (test is None or test.p_value == 1):
            return f"no difference: {name} is {found.one.mean:.3f} for both A and B"
        if groups < LEAST_GROUPS:
            return f"no verdict on {count(groups, 'group')}, which needs {LEAST_GROUPS}: {figures}"
        if found.favours:
            direction = "better" if found.favours == "B" else "worse"
            if self.winner:
                return f"B is {direction} than A: {figures}"
            return f"B is {direction} than A on average, which the signed-rank test does not bear out: {figures}"
        agreed = "no difference is shown"
        if test and test.p_value < SIGNIFICANT:
            side = "B" if test.correlation > 0 else "A"
            agreed = f"no difference of the mean is shown, though the signed-rank test favours {side}"
        return (
            f"{agreed}: {figures}; the interval rules out that B is better by more than {max(gain.high, 0):.3f} "
            f"or worse by more than {max(-gain.low, 0):.3f}"
        )

    @property
    def notes(self) -> list[str]:
        """Sentences on how the numbers are to be read, what is not compared, and which images are left out and why."""
        tested = "One test is made, of the ranking metric over all images"
        if self.test is None:
            tested = "No signed-rank test is made, for the ranking metric is of counts summed over images"
        notes = [
            "B − A is the difference of a metric with its 95 % interval, a paired bootstrap over groups; a group is a "
            "lesion or patient, or an image where neither is known.",
            f"{tested}; the intervals of other metrics and of parts of the data describe, and are not adjusted for "
            "their number.",
        ]
        if self.not_compared:
            notes.append(f"Not compared, for A and B take them at different sizes: {', '.join(self.not_compared)}.")
        if self.left_out:
            notes.append(f"Left out, for A or B has no score of them: {count(self.left_out, 'image')}.")
        results: dict[Side, EvaluationResult] = {"A": self.one, "B": self.other}
        notes += [f"{side}: {remark}" for side, of in results.items() for remark in of.remarks]
        return notes + [f"{side}: {line.strip()}" for side, of in results.items() for line in of.failure_lines()]

    def __str__(self) -> str:
        images = self.one.distinct
        lines = [
            *(f"{side}  {_called(result)}" for side, result in (("A", self.one), ("B", self.other))),
            f"on {self.one.data}, split {self.one.split}: {count(len(images), 'image')} of "
            f"{count(count_groups(images), 'group')}",
            "",
            self.verdict,
        ]
        parts = list(self.one.parts())
        alone = [] if len(parts) == 2 else parts[:-1]  # one data set alone would only repeat what holds over all
        for protocol in self.one.protocols:
            found = self.differences[protocol.name]
            rows = [["", "A", "B", "B − A", "favours", *(["better/equal/worse"] if protocol.per_image else []), *alone]]
            for metric, difference in found[ALL].items():
                counts = difference.images
                rows.append(
                    [
                        metric,
                        _value(difference.one),
                        _value(difference.other),
                        signed(difference.difference),
                        difference.favours or "",
                        *([f"{counts.better}/{counts.equal}/{counts.worse}"] if counts else []),
                        *(signed(found[name][metric].difference) for name in alone),
                    ]
                )
            lines += ["", protocol.description, "", *align(rows)]
        lines += ["", *self.notes]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything but the single images, as a JSON object; what is not defined is null."""
        parts = self.one.parts()
        document = {
            "verdict": self.verdict,
            "winner": self.winner,
            "metric": self.main.main,
            "test": asdict(self.test) if self.test else None,
            "data": self.one.data,
            "split": self.one.split,
            "classes": self.one.classes,
            "notes": self.notes,
            "left_out": self.left_out,
            "not_compared": self.not_compared,
            **{
                side: {
                    "name": result.name,
                    "thresholds": result.thresholds,
                    "content_hash": result.content_hash,
                    "failures": [asdict(failure) for failure in result.failures],
                }
                for side, result in (("A", self.one), ("B", self.other))
            },
            "protocols": {
                protocol.name: {
                    "description": protocol.description,
                    "differences": {
                        name: {
                            "images": len(images),
                            "groups": count_groups(images),
                            "metrics": {
                                metric: _document(difference)
                                for metric, difference in self.differences[protocol.name][name].items()
                            },
                        }
                        for name, images in parts.items()
                    },
                }
                for protocol in self.one.protocols
            },
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def files(self) -> dict[str, bytes]:
        """What is written, by file name: the numbers, and a row for each image with each metric's A, B and B - A."""
        names = self.metric_names
        columns = [f"{name}_{suffix}" for name in names for suffix in ("a", "b", "difference")]
        rows = (
            [
                *(one.id, one.source, one.group),
                *(
                    value
                    for name in names
                    for value in (one.metrics[name], other.metrics[name], other.metrics[name] - one.metrics[name])
                ),
            ]
            for one, other in zip(self.one.images, self.other.images, strict=True)
        )
        table = tables.encode(["id", "source", "group", *columns], rows)
        return {DOCUMENT: utf8(self.to_json()), TABLE: utf8(table)}


def check_classes(one: Sequence[str], other: Sequence[str]) -> None:
    """Refuse to compare what shows different classes.

    Raises:
        InputError: They differ.
    """
    if tuple(one) != tuple(other):
        raise InputError(f"A shows {', '.join(one)} but B {', '.join(other)}; compare what shows the same")


def compare(one: EvaluationResult, other: EvaluationResult) -> Comparison:
    """Compare two results on the same images.

    Images that either has no score of are left out; the comparison says how many and why.

    Args:
        one: A.
        other: B.

    Raises:
        InputError: They are not of the same classes or images, no image has a score of both, or they have no protocol
            in common.
        DataError: Their truths differ.
    """
    check_classes(one.classes, other.classes)
    asked, others = _asked(one), _asked(other)
    if asked != others:
        raise InputError(
            f"A and B are not of the same images; only in A: {_some(asked - others)}; only in B: "
            f"{_some(others - asked)}; score both on the same data and split"
        )
    scores = {(image.source, image.id): image for image in other.images}
    pairs = [(image, scores[key]) for image in one.images if (key := (image.source, image.id)) in scores]
    if not pairs:
        failure = (*one.failures, *other.failures)[0]
        raise InputError(f"no image has a score of both A and B; {failure.id}: {failure.reason}")
    _check_truths(one, other, pairs)
    alike, unlike = in_common(one.protocols, other.protocols)
    return Comparison(
        replace(one, images=tuple(pair[0] for pair in pairs), protocols=alike),
        replace(other, images=tuple(pair[1] for pair in pairs), protocols=alike),
        unlike,
    )


def in_common(
    one: Iterable[Protocol], other: Iterable[Protocol]
) -> tuple[tuple[Protocol, ...], tuple[ProtocolName, ...]]:
    """The protocols of A and B that compare at one size, and the names of those that do not.

    Raises:
        InputError: There is none of the former.
    """
    named = {protocol.name: protocol for protocol in other}
    both = [protocol for protocol in one if protocol.name in named]
    # The description holds all that a protocol depends on, the size of the pixels' grid among it.
    alike = tuple(protocol for protocol in both if protocol.description == named[protocol.name].description)
    if not alike:
        raise InputError("A and B have no protocol in common that compares at one size; take the protocol official")
    return alike, tuple(protocol.name for protocol in both if protocol not in alike)


def signed_rank(differences: NDArray[np.float64], groups: Sequence[str]) -> SignedRank:
    """Test whether differences, averaged over each group, are symmetric around 0.

    Args:
        differences: One an image, (n,), above 0 where B is better.
        groups: The group of each image, n names.
    """
    by_group: dict[str, list[float]] = {}
    for group, difference in zip(groups, differences.tolist(), strict=True):
        by_group.setdefault(group, []).append(difference)
    means = np.array([np.mean(own) for own in by_group.values()])
    if not means.any():
        return SignedRank(1.0, len(means), 0.0)
    ranks = np.sign(means) * stats.rankdata(np.abs(means))
    return SignedRank(
        p_value=float(stats.wilcoxon(means, zero_method="pratt").pvalue),
        groups=len(means),
        correlation=float(ranks.sum() / np.abs(ranks).sum()),
    )


def signed(interval: Interval) -> str:
    """A difference with its interval, as `+0.012 [+0.004, +0.020]`."""
    if np.isnan(interval.mean):
        return "not defined"
    return f"{interval.mean:+z.3f} [{interval.low:+z.3f}, {interval.high:+z.3f}]"


def _value(interval: Interval) -> str:
    return "not defined" if np.isnan(interval.mean) else f"{interval.mean:.3f}"


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better, by its name in a protocol's or in an image's metrics."""
    return not metric.removeprefix("macro_").startswith(LOWER_IS_BETTER)


def differences(protocol: Protocol, ones: Sequence[ImageScore], others: Sequence[ImageScore]) -> dict[str, Difference]:
    """Each metric's difference between A's and B's scores of the same images, at least one."""

    def estimate(means: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        one, other = protocol.estimate(means[:, 0]), protocol.estimate(means[:, 1])
        return {
            f"{of} {metric}": value
            for metric in protocol.names
            for of, value in (("A", one[metric]), ("B", other[metric]), ("B - A", other[metric] - one[metric]))
        }

    # One bootstrap of the statistics of both, so that each resample is of the same images.
    statistics = np.stack([protocol.statistics_of(ones), protocol.statistics_of(others)], axis=1)
    found = bootstrap(statistics, estimate, [image.group for image in ones])
    return {
        metric: Difference(
            found[f"A {metric}"],
            found[f"B {metric}"],
            found[f"B - A {metric}"],
            higher_is_better(metric),
            _images(f"{protocol.prefix}{metric}", higher_is_better(metric), ones, others)
            if protocol.per_image
            else None,
        )
        for metric in protocol.names
    }


def _images(name: str, higher_is_better: bool, ones: Sequence[ImageScore], others: Sequence[ImageScore]) -> Images:
    differences = np.array([o.metrics[name] - i.metrics[name] for i, o in zip(ones, others, strict=True)])
    more, less = int((differences > 0).sum()), int((differences < 0).sum())
    better, worse = (more, less) if higher_is_better else (less, more)
    return Images(better, len(differences) - more - less, worse, float(np.median(differences)))


def _check_truths(
    one: EvaluationResult, other: EvaluationResult, pairs: Sequence[tuple[ImageScore, ImageScore]]
) -> None:
    """Refuse truths that differ: by their hash, or, where a failure leaves no common one, by their sizes and areas."""
    differing = [(image.source, image.id) for image, second in pairs if not _same_truth(image, second)]
    in_order = [image.id for image in one.images] == [image.id for image in other.images]
    if differing or (in_order and one.content_hash != other.content_hash):
        which = f" of {_some(differing)} images" if differing else ""
        raise DataError(f"A and B were scored against different truths{which}; score both on the same masks")


def _same_truth(one: ImageScore, other: ImageScore) -> bool:
    if one.size != other.size:
        return False
    if "official" not in one.statistics or "official" not in other.statistics:
        return True
    # True positives and false negatives; several classes have shares, which are rounded.
    areas, others = (np.asarray(image.statistics["official"])[:, [0, 2]].sum(axis=1) for image in (one, other))
    return bool(np.allclose(areas, others, rtol=1e-9, atol=1e-12))


def _asked(result: EvaluationResult) -> Counter[tuple[str, str]]:
    """The images that a result was asked for, scored or not."""
    scored = [(image.source, image.id) for image in result.images]
    return Counter(scored + [(failure.source, failure.id) for failure in result.failures])


def _some(keys: Iterable[tuple[str, str]]) -> str:
    """How many images, and the first of them."""
    names = [id for _, id in keys]
    return f"{len(names)} ({few(names)})" if names else "0"


def _called(result: EvaluationResult) -> str:
    thresholds = ", ".join(f"{threshold:g}" for threshold in result.thresholds)
    return f"{result.name}, threshold {thresholds}" if thresholds else f"{result.name}, masks"


def _document(difference: Difference) -> dict[str, Any]:
    return {
        "A": plain(asdict(difference.one)),
        "B": plain(asdict(difference.other)),
        "difference": plain(asdict(difference.difference)),
        "higher_is_better": difference.higher_is_better,
        "favours": difference.favours,
        "images": asdict(difference.images) if difference.images else None,
    }
