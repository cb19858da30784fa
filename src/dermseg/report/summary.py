"""The summary of an evaluation report: its main figures, and what stands out in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dermseg.data.catalog import ATTRIBUTES
from dermseg.evaluation import ALL, EvaluationResult, Predictor
from dermseg.facts import SKIN_TONE
from dermseg.metrics import JACCARD_THRESHOLD
from dermseg.protocols import count_groups
from dermseg.report.page import Cell, Percent, number, percent
from dermseg.report.scores import area_errors, copies, counts, words
from dermseg.subgroups import Factor, remark
from dermseg.wording import capital, count, noun, plain

MOST_GAPS = 5  # of subgroups, one a factor


def cards(result: EvaluationResult) -> list[tuple[Cell, str]]:
    """The main figures, each with what it is."""
    if not result.images:
        return [(0, "images"), _failed(result)]
    protocol = result.protocols[0]
    every = result.summaries["official"][ALL]
    several = len(result.classes) > 1
    prefix = "micro_" if several else ""
    found: list[tuple[Cell, str]] = [
        (
            f"{every[name].mean:.3f}",
            f"{'' if several else 'mean '}{words(name)}, {every[name].low:.3f} to {every[name].high:.3f}",
        )
        for name in (protocol.main, f"{prefix}{'sensitivity' if several else 'thresholded_jaccard'}", f"{prefix}dice")
    ]
    if not several:
        found.append((Percent(_failing(result)), f"of images fail: Jaccard below {JACCARD_THRESHOLD}"))
    else:
        found.append((f"{every['macro_jaccard'].mean:.3f}", "macro Jaccard, the mean over classes"))
    images, groups, sources = len(result.distinct), count_groups(result.distinct), len(result.parts()) - 1
    return [
        *found,
        (images, noun(images, "image")),
        (groups, f"{noun(groups, 'group')}: lesions or patients, where known"),
        (sources, noun(sources, "data set")),
        _failed(result),
    ]


def text(result: EvaluationResult) -> str:
    """What was scored on what, and the main figure."""
    if not result.images:
        return "No image could be scored."
    several = len(result.classes) > 1
    value = result.summaries["official"][ALL][result.protocols[0].main]
    sources = ", ".join(name for name in result.parts() if name != ALL)
    of = "" if result.classes == ("lesion",) else f"of {', '.join(map(plain, result.classes))} "
    scored = (
        f"The masks {of}by {result.name} were compared with the truth on {count(len(result.distinct), 'image')} from "
        f"{sources}, split {result.split}."
    )
    if several:
        attributes = set(result.classes) == set(ATTRIBUTES)
        task = "the score of ISIC 2018 Task 2" if attributes else "as ISIC 2018 Task 2 takes it"
        figure = f"Their micro Jaccard, {task}, is {number(value)} (in brackets: 95 % interval)."
    else:
        figure = (
            f"Their mean Jaccard is {number(value)} (in brackets: 95 % interval). On {percent(_failing(result))} of "
            f"images they fail, with a Jaccard below {JACCARD_THRESHOLD}."
        )
    return f"{scored} {figure}"


def of_split(split: str, predictors: Iterable[Predictor]) -> Iterator[str]:
    """What a reader must know of the images that bundles are scored on; nothing of masks."""
    if all(predictor.input_size is None for predictor in predictors):
        return
    if split in ("train", "all"):
        what = f"The split {split}" if split != "all" else "The data as a whole"
        yield f"{what} holds images that such bundles are trained on: on new images they may be worse."
    elif split == "tune":
        yield "Thresholds and checkpoints are chosen on the split tune: on new images bundles may be worse."


def stands_out(result: EvaluationResult, factors: Sequence[Factor], predictor: Predictor) -> Iterator[str]:
    """What a reader must not overlook, in sentences."""
    yield from of_split(result.split, [predictor])
    yield from result.remarks
    if result.failures:
        yield f"Not scored, and in no mean: {count(len(result.failures), 'image')}."
    if not result.images:
        return
    if shared := copies(result):
        yield shared
    counted = counts(result)
    every = result.summaries["official"][ALL]
    if len(result.classes) > 1:
        jaccard = {name: every[f"jaccard_{name}"] for name in result.classes}
        best, worst = (choose(jaccard, key=lambda name: jaccard[name].mean) for choose in (max, min))
        yield (
            f"Of the classes, {plain(best)} is outlined best (Jaccard {number(jaccard[best])}) and "
            f"{plain(worst)} worst ({number(jaccard[worst])})."
        )
    for place, name in enumerate(result.classes):
        own = counted[:, place]
        shown = own[:, [0, 2]].sum(axis=1) > 0
        empty = shown & (own[:, :2].sum(axis=1) == 0)
        if empty.any():
            yield (
                f"Nothing was marked in {empty.sum():,} of {count(int(shown.sum()), 'image')} that show "
                f"{plain(name)} ({percent(float(empty.sum() / shown.sum()))})."
            )
        if len(result.classes) == 1 and not shown.all():
            marked = int((own[~shown, 1] > 0).sum())
            yield (
                f"The truth is empty in {int((~shown).sum()):,} of {count(len(shown), 'image')}; something was marked "
                f"in {marked:,} of these. Where nothing was, Jaccard counts as 1."
            )
    if len(result.classes) == 1:
        errors = area_errors(counted[:, 0])
        if len(errors):
            middle = round(float(np.median(errors)), 3)
            off = f"{percent(abs(middle))} too {'large' if middle > 0 else 'small'}" if middle else "at its true area"
            yield (
                f"The median {plain(result.classes[0])} is marked {off}; "
                f"{percent(float((errors < -0.25).mean()))} are more than 25 % too small and "
                f"{percent(float((errors > 0.25).mean()))} more than 25 % too large."
            )
    widest = []
    for factor in factors:
        gaps = [level for level in factor.compared if level.verdict == "shown"]
        widest += sorted(gaps, key=lambda level: -abs(level.gap.mean))[:1]
    for level in sorted(widest, key=lambda level: -abs(level.gap.mean))[:MOST_GAPS]:
        yield level.sentence
    for factor in factors:
        if factor.name == SKIN_TONE and factor.too_few:
            yield f"{capital(factor.title)}: {factor.too_few}"
    if factors:
        yield remark(factors)


def _failed(result: EvaluationResult) -> tuple[Cell, str]:
    number_of = len(result.failures)
    return number_of, f"{noun(number_of, 'image')} without a score"


def _failing(result: EvaluationResult) -> float:
    return float(np.mean([image.metrics["jaccard"] < JACCARD_THRESHOLD for image in result.distinct]))
