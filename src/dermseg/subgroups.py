"""On which images a score is better or worse: by each fact of them, the score where it holds and where not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dermseg.appearance import SIZE_CLASSES, SKIN_TONES
from dermseg.evaluation import EvaluationResult
from dermseg.facts import AGES, HAIR, SKIN_TONE
from dermseg.metrics import Interval, bootstrap
from dermseg.protocols import ImageScore, Protocol, count_groups
from dermseg.wording import capital, count, plain

FEWEST_GROUPS = 20
"""Lesions or patients in a subgroup, and beside it, below which nothing is said of it.

Where 7 in 100 images fail, whichever they are, subgroups of 10 seem to differ from the others in 16 of 100 cases, of 20
in 12, of 30 in 9 and of 50 in 7, mostly as better: few images may happen to hold no failure.
"""
LEAST_GROUPS = 6
"""Below which a subgroup's metric has no interval: resamples of so few say little of others."""
CLOSE = 0.03
"""A gap whose interval stays within this, on either side of 0, is too small to matter."""

MOST_NAMED = len(SKIN_TONES)  # levels that are too small

Verdict = Literal["shown", "unlikely", "unclear"]


@dataclass(frozen=True)
class Level:
    """A subgroup: the images that are alike in one respect.

    Attributes:
        name: What they have in common, such as "tiny".
        images: How many there are.
        groups: How many lesions or patients they show.
        metric: The protocol's main metric of them; of fewer than `LEAST_GROUPS` groups its interval is NaN.
        gap: That metric less the others', with the interval of the difference; the others are all other images of
            which the factor is known. NaN where they or these are of fewer than `FEWEST_GROUPS` groups.
        verdict: "shown" where the gap's interval lies on one side of 0, "unlikely" where all of it is within `CLOSE`
            of 0, else "unclear".
        sentence: The same in words.
    """

    name: str
    images: int
    groups: int
    metric: Interval
    gap: Interval
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Factor:
    """A respect in which images differ.

    Attributes:
        name: The fact's name, as in `ImageScore.facts`; or "source", the data set.
        title: In words.
        levels: At least two, in their natural order, or from the most to the fewest images.
        images: Of how many the fact is known.
        whole: The main metric of these.
    """

    name: str
    title: str
    levels: tuple[Level, ...]
    images: int
    whole: float

    @property
    def compared(self) -> tuple[Level, ...]:
        """The levels that are large enough to compare; one of two, which say the same."""
        levels = tuple(level for level in self.levels if not math.isnan(level.gap.mean))
        return levels[:1] if len(self.levels) == 2 else levels

    @property
    def too_few(self) -> str:
        """Which levels are too small to compare, in a sentence; empty if all are large enough."""
        small = [level for level in self.levels if level.groups < FEWEST_GROUPS]
        names = [f"{plain(level.name)} ({_size(level.images, level.groups)})" for level in small]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return f"Too few images of {', '.join(names[:MOST_NAMED])}{more} to compare." if names else ""

    @property
    def summary(self) -> str:
        """The largest gap that is shown, else the largest that was measured; and what is too small to compare."""
        largest = sorted(self.compared, key=lambda level: (level.verdict == "shown", abs(level.gap.mean)))[-1:]
        return " ".join(filter(None, [f"{self.title}:", *(level.sentence for level in largest), self.too_few]))


def subgroups(result: EvaluationResult) -> tuple[Factor, ...]:
    """Compare the images that are alike in one respect with the others, by the first protocol's main metric.

    The gap of a subgroup is its metric less that of the other images; its interval comes from resamples of all of
    them, by groups, in each of which both are taken. Each respect is looked at by itself: a gap says where a score
    differs, not why. `remark` says how many gaps chance alone would seem to show.

    Returns:
        The data set and each fact that takes at least two values, of images where it is known. An image in several
        data sets counts once, in the first.
    """
    return tuple(_factor(respect, levels, result) for respect, levels in alike(result))


def alike(result: EvaluationResult) -> list[tuple[Respect, dict[str, list[ImageScore]]]]:
    """The images that are alike, by respect and by level in its order, of respects with two levels or more.

    An image in several data sets counts once, in the first.
    """
    found = []
    for respect in _RESPECTS:
        levels: dict[str, list[ImageScore]] = {}
        for image in result.distinct:
            if (value := _value(image, respect.name)) is not None:
                levels.setdefault(value, []).append(image)
        places = {name: place for place, name in enumerate(respect.order)}
        names = sorted(levels, key=lambda name: (places.get(name, len(places)), -len(levels[name]), name))
        if len(names) > 1:
            found.append((respect, {name: levels[name] for name in names}))
    return found


def remark(factors: Iterable[Factor]) -> str:
    """Say how many comparisons were made, and how many of them would seem to show a gap by chance alone."""
    levels = [level for factor in factors for level in factor.compared]
    if not levels:
        return "No subgroup is large enough to compare."
    shown = sum(level.verdict == "shown" for level in levels)
    return (
        f"Of {count(len(levels), 'comparison')}, about {0.05 * len(levels):.1f} (5 %) would seem to show a gap by "
        f"chance alone, somewhat more where subgroups are small; {shown} {'does' if shown == 1 else 'do'}."
    )


@dataclass(frozen=True)
class Respect:
    """A respect in which images may differ, and how it is presented.

    Attributes:
        name: The fact's.
        title: In words.
        on: Goes after "on" in sentences, for a level's name.
        order: Levels in their natural order; empty where there is none.
        words: What stands in sentences for a level's name, where that would not do.
    """

    name: str
    title: str
    on: str
    order: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)


_RESPECTS = (
    Respect("source", "data set", "images of {}"),
    Respect("diagnosis", "diagnosis", "lesions diagnosed as {}"),
    Respect("lesion_size", "lesion size", "{} lesions", SIZE_CLASSES),
    Respect(
        "touches_border",
        "lesion at the image's edge",
        "lesions that {} the image's edge",
        ("yes", "no"),
        {"yes": "reach", "no": "do not reach"},
    ),
    Respect(
        SKIN_TONE,
        "skin tone, estimated from uncalibrated images",
        "skin whose tone, estimated from uncalibrated images, is {}",
        SKIN_TONES,
    ),
    Respect("hair_estimated", "hair, estimated", "images with {} hair", HAIR, {"none": "no"}),
    Respect(
        "ruler_estimated", "ruler, estimated", "images {} a ruler", ("yes", "no"), {"yes": "with", "no": "without"}
    ),
    Respect("sex", "sex", "{} patients"),
    Respect("age", "age", "patients aged {}", AGES),
    Respect("site", "site on the body", "lesions of the site {}"),
)


def _factor(respect: Respect, members: Mapping[str, list[ImageScore]], result: EvaluationResult) -> Factor:
    known = [(image, value) for image in result.distinct if (value := _value(image, respect.name)) is not None]
    images, values = zip(*known, strict=True)
    protocol = result.protocols[0]
    groups = {name: count_groups(own) for name, own in members.items()}
    enough = [
        name
        for name in members
        if groups[name] >= FEWEST_GROUPS
        and count_groups(image for image, value in known if value != name) >= FEWEST_GROUPS
    ]
    gaps = _gaps(protocol, images, np.array(values)[:, None] == np.array(enough)) if enough else []
    gap_of = dict(zip(enough, gaps, strict=True))
    levels = []
    for name, own in members.items():
        gap = gap_of.get(name, Interval(math.nan, math.nan, math.nan))
        sizes = f"{_size(len(own), groups[name], 'image')}, {count(len(images) - len(own), 'other')}"
        on = f"{respect.on.format(respect.words.get(name, name))} ({sizes})"
        verdict, sentence = _judge(plain(protocol.main).replace("jaccard", "Jaccard"), on, gap)
        metric = protocol.summarise(own)[protocol.main]
        if groups[name] < LEAST_GROUPS:
            metric = Interval(metric.mean, math.nan, math.nan)
        levels.append(Level(name, len(own), groups[name], metric, gap, verdict, sentence))
    whole = protocol.estimate(protocol.statistics_of(images).mean(axis=0)[None])[protocol.main]
    title = respect.title
    if respect.name == "source" and len(images) < len(result.images):
        title += ", of images in several the first"
    return Factor(respect.name, title, tuple(levels), len(images), float(whole[0]))


def _gaps(protocol: Protocol, images: Sequence[ImageScore], members: NDArray[np.bool_]) -> list[Interval]:
    """The main metric of each level's images less that of the others, of who belongs to which level, (n, L)."""
    statistics = protocol.statistics_of(images)
    shape, number = statistics.shape[1:], len(images)
    # Of each level's images, then of the others: how many they are, and their statistics.
    sides = np.stack([members, ~members], axis=1).astype(np.float64)
    weighed = np.column_stack([np.ones(number), statistics.reshape(number, -1)])

    def main(means: NDArray[np.float64]) -> NDArray[np.float64]:
        # Of that many groups, no resample is without.
        return protocol.estimate((means[:, 1:] / means[:, :1]).reshape(-1, *shape))[protocol.main]

    def estimate(means: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {str(k): main(means[:, 0, k]) - main(means[:, 1, k]) for k in range(members.shape[1])}

    joint = sides[..., None] * weighed[:, None, None, :]
    return list(bootstrap(joint, estimate, [image.group for image in images]).values())


def _judge(metric: str, on: str, gap: Interval) -> tuple[Verdict, str]:
    """What a gap's interval shows, and the sentence that says so."""
    first = capital(metric)
    if gap.low > 0 or gap.high < 0:
        more = gap.low > 0
        low, high = (gap.low, gap.high) if more else (-gap.high, -gap.low)
        size = Interval(abs(gap.mean), low, high)
        return "shown", f"{first} is {size} {'higher' if more else 'lower'} on {on} than on the others."
    reach = max(-gap.low, gap.high)
    if reach <= CLOSE:
        return "unlikely", f"{first} shows no gap on {on}; one above {reach:.3f} is unlikely."
    tell = f"Too few images to tell whether {metric} differs on {on}"
    if math.isnan(gap.mean):
        return "unclear", f"{tell}."
    return "unclear", f"{tell}: the gap's interval reaches from {gap.low:z.3f} to {gap.high:z.3f}."


def _size(images: int, groups: int, noun: str = "") -> str:
    """How many images, and of how many lesions or patients where these are fewer."""
    text = count(images, noun) if noun else f"{images:,}"
    return text if groups == images else f"{text} of {count(groups, 'lesion or patient', 'lesions or patients')}"


def _value(image: ImageScore, name: str) -> str | None:
    value = image.source if name == "source" else image.facts.get(name)
    return None if value is None else str(value)
