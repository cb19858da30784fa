"""Fits, on images with a truth, how sure a bundle may be: temperatures, and models of quality and of presence.

All are meant to be fitted on the split `tune`, which no weight was trained on and nothing is reported of.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dermseg import foreign, presence, ranking
from dermseg.bundle import Bundle, check_replaceable, write
from dermseg.data.catalog import Sample
from dermseg.errors import DataError, InputError, extra
from dermseg.evaluation import read_truths
from dermseg.manifest import Calibration
from dermseg.metrics import JACCARD_THRESHOLD, Confusion
from dermseg.parallel import Item, Result, in_order
from dermseg.presence import PresenceModel
from dermseg.protocols import Pair
from dermseg.quality import FAMILIARITY, FEATURES, Logistic, QualityModel, Subspace
from dermseg.segmenter import Prediction, Segmenter

Array = NDArray[np.float64]

LEVELS: Array = np.linspace(-64, 64, 12801)
"""Logits that pixels are counted at."""

SOFTENED = 8.0  # times the temperature: float32 probabilities that tell logits of +-64 apart

SURE = 0.98  # of accepted masks, the share that is to be good; of all masks 0.95 are
TAKEN_FOR_FOREIGN = 0.02  # share of dermoscopy images that may be
DISCARDED = 0.015  # share of them that is rejected for its mask
DIMENSIONS = 16  # of the subspace of embeddings
RIDGE = {"jaccard": 10.0, "foreign": 100.0}  # chosen on tune, with all of one group or kind left out at a time
TELLING = (*FEATURES[FEATURES.index("lightness") :], *FAMILIARITY)  # that a photograph is no dermoscopy
FOLDS = 5
LEAST_IMAGES = 50
FOREIGN_PICTURES = 100  # of each kind


def histogram(logits: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> Array:
    """Count pixels by their logit, (2, len(LEVELS)): those that are no lesion in truth, and those that are."""
    step = LEVELS[1] - LEVELS[0]
    place = np.rint((np.clip(logits, LEVELS[0], LEVELS[-1]) - LEVELS[0]) / step).astype(np.int64)
    counts = np.bincount((place + len(LEVELS) * truth).ravel(), minlength=2 * len(LEVELS))
    return counts.reshape(2, -1).astype(np.float64)


def fit_temperature(counts: Array) -> float:
    """The temperature at which pixels are most likely (Guo et al. 2017, arXiv:1706.04599).

    Args:
        counts: Of one class, `histogram` summed over images.

    Returns:
        Within 1/8 to 8; 1 of a set whose pixels are all lesion or all not, of which none can be told.

    Raises:
        MissingExtraError: Without scipy.
    """
    with extra("fitting a temperature", "evaluate"):
        from scipy.optimize import minimize_scalar
    if not counts.sum(axis=1).all():
        return 1.0

    def surprise(log_temperature: float) -> float:
        logits = LEVELS / np.exp(log_temperature)
        likelihoods = np.stack([np.logaddexp(0, logits), np.logaddexp(0, -logits)])
        return float((counts * likelihoods).sum() / counts.sum())

    found = minimize_scalar(surprise, bounds=(-np.log(8), np.log(8)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def moved(threshold: float, factor: float) -> float:
    """A threshold where logits are divided by ``factor``: pixels above it stay the same ones."""
    return float(1 / (1 + (1 / threshold - 1) ** (1 / factor)))


class Seen(NamedTuple):
    """What is known of n images without their truth.

    Attributes:
        features: (n, F), as `features_of`.
        embeddings: (n, D); None where the network gives none.
    """

    features: Array
    embeddings: Array | None = None

    def part(self, chosen: NDArray[Any]) -> Seen:
        """Some of them."""
        return Seen(self.features[chosen], None if self.embeddings is None else self.embeddings[chosen])

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Images of several parts."""
        embeddings = [part.embeddings for part in parts if part.embeddings is not None]
        return cls(
            np.concatenate([part.features for part in parts]), np.concatenate(embeddings) if embeddings else None
        )


def fit_quality(
    seen: Seen,
    jaccard: Array,
    *,
    groups: Sequence[str],
    sources: Sequence[str],
    strange: Seen,
    split: str | None = None,
) -> QualityModel:
    """Fit a quality model; each data set weighs the same.

    Thresholds are set by estimates of images whose group had no part in the fit. What embeddings tell is how far they
    lie from those of dermoscopy, not in which direction, so that pictures of other kinds than the ones fitted on are
    told too.

    Args:
        seen: Dermoscopy images.
        jaccard: (n,) of their masks, in truth.
        groups: Of each the lesion or patient.
        sources: Of each the data set.
        strange: Pictures that are no dermoscopy.
        split: Of the images, as it is to be recorded.

    Raises:
        DataError: There are too few images.
    """
    _check_enough(groups)
    names, place = np.unique(groups, return_inverse=True)
    weights = _balanced(sources)
    fold = np.random.default_rng(0).permutation(len(names))[place] % FOLDS
    estimates, strangeness = np.zeros(len(jaccard)), np.zeros(len(jaccard))
    for turn in range(FOLDS):
        kept, left = fold != turn, fold == turn
        model = _fit(seen.part(kept), jaccard[kept], weights[kept], strange)
        z = model.standardise(*seen.part(left))
        estimates[left], strangeness[left] = model.jaccard(z), model.foreign(z)
    limit = _quantile(strangeness, weights, 1 - TAKEN_FOR_FOREIGN)
    reject = _quantile(estimates, weights, DISCARDED)
    accept = max(reject, _sure(estimates, jaccard >= JACCARD_THRESHOLD, weights))
    rejected = (strangeness > limit) | (estimates < reject)
    accepted = ~rejected & (estimates >= accept)

    def share(chosen: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
        return round(float(weights[chosen & among].sum() / max(weights[among].sum(), 1e-9)), 4)

    every = np.ones(len(jaccard), np.bool_)
    return _fit(seen, jaccard, weights, strange).model_copy(
        update={
            "accept": round(accept, 4),
            "reject": round(reject, 4),
            "foreign_limit": float(f"{limit:.5g}"),
            "good": JACCARD_THRESHOLD,
            "images": len(jaccard),
            "fitted_on": ", ".join(f"{source} {list(sources).count(source)}" for source in dict.fromkeys(sources)),
            "split": split,
            "accepted": share(accepted, every),
            "accepted_good": share(jaccard >= JACCARD_THRESHOLD, accepted),
            "rejected": share(rejected, every),
        }
    )


def _check_enough(groups: Sequence[str]) -> None:
    """Check that there are images enough for a quality model.

    Args:
        groups: Of each the lesion or patient.

    Raises:
        DataError: There are too few.
    """
    count = len(set(groups))
    if len(groups) < LEAST_IMAGES or count < FOLDS:
        raise DataError(
            f"a quality model of {len(groups)} images in {count} groups would tell little; expected at least "
            f"{LEAST_IMAGES} in {FOLDS}; give more, or leave it out with --no-quality"
        )


def _fit(seen: Seen, jaccard: Array, weights: Array, strange: Seen) -> QualityModel:
    """The regressions; without thresholds yet."""
    familiar = None if seen.embeddings is None else _subspace(seen.embeddings, weights)
    names = FEATURES + FAMILIARITY * (familiar is not None)
    nothing = Logistic(bias=0, weights=(0,) * len(names), squares=(0,) * len(names))
    model = QualityModel(
        features=names,
        centre=(0,) * len(names),
        scale=(1,) * len(names),
        familiar=familiar,
        jaccard=nothing,
        foreign=nothing,
        accept=1,
        reject=0,
        foreign_limit=1,
        good=JACCARD_THRESHOLD,
        images=len(jaccard),
        fitted_on="",
        accepted=0,
        accepted_good=0,
        rejected=0,
    )
    columns = seen.features
    if familiar is not None and seen.embeddings is not None:
        columns = np.concatenate([columns, familiar.place(seen.embeddings)], axis=1)
    centre = np.average(columns, axis=0, weights=weights)
    scale = np.sqrt(np.average((columns - centre) ** 2, axis=0, weights=weights)) + 1e-4
    model = model.model_copy(update={"centre": _rounded(centre), "scale": _rounded(scale)})
    z, odd = model.standardise(*seen), model.standardise(*strange)
    # The two sides weigh the same.
    balance = np.concatenate([weights, np.full(len(odd), weights.sum() / len(odd))])
    truth = np.repeat([0.0, 1.0], [len(z), len(odd)])
    both = np.concatenate([z, odd])
    return model.model_copy(
        update={
            "jaccard": _regress(z, jaccard, weights, RIDGE["jaccard"], np.isin(names, FEATURES)),
            "foreign": _regress(both, truth, balance, RIDGE["foreign"], np.isin(names, TELLING)),
        }
    )


def _subspace(embeddings: Array, weights: Array) -> Subspace:
    mean = np.average(embeddings, axis=0, weights=weights)
    centred = embeddings - mean
    variances, axes = np.linalg.eigh(np.cov(centred.T, aweights=weights, bias=True))
    count = min(DIMENSIONS, len(mean))
    variances, axes = np.maximum(variances[::-1][:count], 1e-12), axes[:, ::-1][:, :count]
    left = centred - centred @ axes @ axes.T
    residual = float(np.sqrt(np.average((left**2).sum(axis=1), weights=weights)))
    scales = np.sqrt(variances)
    return Subspace(
        mean=_rounded(mean),
        axes=tuple(_rounded(axis) for axis in (axes / scales).T),
        scales=_rounded(scales),
        residual=max(residual, 1e-6),
    )


def _regress(z: Array, target: Array, weights: Array, ridge: float, used: NDArray[np.bool_]) -> Logistic:
    """Logistic regression of a target in [0, 1] with a ridge, by Newton's method.

    Args:
        z: (n, F).
        target: (n,).
        weights: (n,).
        ridge: Half of it times the sum of squared weights is added to the negative log-likelihood.
        used: (F,), the features that have a weight at all.
    """
    used = np.tile(used, 2)
    terms = np.concatenate([z, z**2 - 1], axis=1)[:, used]
    x = np.concatenate([np.ones((len(z), 1)), terms], axis=1)
    penalty = np.full(x.shape[1], ridge)
    penalty[0] = 1e-6
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        gradient = x.T @ (weights * (target - p)) - penalty * found
        curvature = (x * (weights * p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(penalty)
        step = np.clip(np.linalg.solve(curvature, gradient), -2, 2)
        found = found + step
        if np.abs(step).max() < 1e-6:
            break
    every = np.zeros(2 * z.shape[1])
    every[used] = found[1:]
    of_features, of_squares = np.split(every, 2)
    return Logistic(bias=_rounded(found[:1])[0], weights=_rounded(of_features), squares=_rounded(of_squares))


def _balanced(sources: Sequence[str]) -> Array:
    """A weight for each image, 1 on average, so that each data set weighs the same."""
    names, place, counts = np.unique(sources, return_inverse=True, return_counts=True)
    return np.asarray(len(place) / len(names) / counts[place], np.float64)


def _quantile(values: Array, weights: Array, share: float) -> float:
    """The value below which a share of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][int(np.searchsorted(reached, share).clip(max=len(values) - 1))])


def _sure(estimates: Array, good: NDArray[np.bool_], weights: Array) -> float:
    """The lowest estimate from which on a share `SURE` of the weight is good; 1 if there is none."""
    order = np.argsort(-estimates)
    share = np.cumsum((weights * good)[order]) / np.cumsum(weights[order])
    return float(estimates[order][share >= SURE].min(initial=1.0))


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    """To five digits, which is enough and keeps a manifest small."""
    return tuple(float(f"{value:.5g}") for value in values)


@dataclass(frozen=True)
class Report:
    """What calibration changed, measured on the images it was fitted on.

    Attributes:
        images: How many.
        temperatures: Of each class.
        before: Expected calibration error of each class before ...
        after: ... and after.
        quality: The model, where one was asked for.
        presence: Of each class that some images show and others do not, the mean probability that it is there, in
            images that show it and in the others; where there are several classes.
    """

    images: int
    temperatures: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]
    quality: QualityModel | None
    presence: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        """A line or two for each class, and one for each verdict."""
        lines = [f"fitted on {self.images} images"]
        for name, temperature in self.temperatures.items():
            lines.append(
                f"{name}: temperature {temperature:.3f}; expected calibration error {self.before[name]:.4f} before, "
                f"{self.after[name]:.4f} after"
            )
            if name in self.presence:
                there, absent = self.presence[name]
                lines.append(f"{name}: presence {there:.3f} on average where it is there, {absent:.3f} where it is not")
        meaning = self.quality.meaning if self.quality else {}
        return "\n".join([*lines, *(f"{verdict}: {words}" for verdict, words in meaning.items())])


def calibrate(
    bundle: Bundle,
    samples: Sequence[Sample],
    folder: Path,
    *,
    split: str | None = None,
    temperature: bool = True,
    quality: bool = True,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Bundle, Report]:
    """Write a copy of a bundle with temperatures, and models of quality or presence, that are fitted on images.

    Thresholds are moved with the temperature, so that no image's mask changes at the network's size; at the image's
    own, where an outline runs between pixels of the network, one pixel in some thousands does. So with new temperatures
    scores are dropped, but for those of pooled pixels, which are counted at the network's size. Of several classes, the
    presence of each that some of the images show and others do not is fitted too.

    Args:
        bundle: As it was trained; a temperature or a model that it has already is replaced.
        samples: Images with a mask of each class; one that stands in several data sets counts once.
        folder: Of the new bundle; absent, empty or another bundle, which is replaced.
        split: Of the images, as it is to be recorded.
        temperature: Whether to fit temperatures; those that the bundle has stay if not, and so do its scores.
        quality: Whether to fit a quality model; the bundle's is left out if not, which a bundle of one class can have.
        workers: Images in work at a time; the number of cores if None.
        progress: Called with a title, how many images are done and how many there are.

    Raises:
        InputError: The folder is, holds or lies in the bundle, or holds other things, or quality is asked for of
            several classes, or nothing is asked for.
        DataError: There are too few images.
        MissingExtraError: Without scipy.
        DermsegError: An image or truth cannot be used.
    """
    manifest = bundle.manifest
    classes = manifest.classes
    # All that can be wrong is found before the long passes.
    _check_apart(folder, bundle)
    check_replaceable(folder)
    if quality and len(classes) > 1:
        raise InputError(
            f"{manifest.name} finds {', '.join(classes)}, but quality is estimated of one class; leave it out with "
            "--no-quality"
        )
    if not (temperature or quality) and len(classes) == 1:
        raise InputError(f"there is nothing to fit: {manifest.name} has one class; leave out an option --no-...")
    unique: dict[str, Sample] = {}
    for sample in samples:
        unique.setdefault(sample.id, sample)
    images = list(unique.values())
    if not images:
        raise DataError("there is nothing to calibrate on; give images with masks")
    if quality:
        _check_enough([sample.group for sample in images])
    with extra("fitting a temperature", "evaluate"):
        importlib.import_module("scipy.optimize")
    files = {name: bundle.read(name) for name in manifest.hashes}

    def each(title: str, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        for done, result in enumerate(in_order(function, items, workers), 1):
            yield result
            if progress:
                progress(title, done, len(items))

    # Twice over the images: what a quality model is fitted on is what the calibrated bundle will give it.
    earlier = manifest.calibration.of(classes).ravel().tolist()
    soft = Calibration(temperatures={name: SOFTENED * old for name, old in zip(classes, earlier, strict=True)})
    softened = Segmenter(replace(bundle, manifest=manifest.model_copy(update={"calibration": soft})), threads=1)
    # Summed as they come: those of an image take a megabyte.
    counts = before = after = np.zeros(())
    for of_image, ranks in each("temperature", lambda sample: _counted(softened, sample), images):
        counts, before = counts + of_image, before + ranks
    manifest = manifest.model_copy(update={"quality": None, "presence": None})
    temperatures = dict(zip(classes, earlier, strict=True))
    if temperature:
        factors = [fit_temperature(levels) for levels in counts]
        temperatures = {n: float(f"{f * old:.5g}") for n, f, old in zip(classes, factors, earlier, strict=True)}
        manifest = manifest.model_copy(
            update={
                "calibration": Calibration(temperatures=temperatures, split=split, images=len(images)),
                "thresholds": {
                    name: moved(manifest.thresholds[name], temperatures[name] / old)
                    for name, old in zip(classes, earlier, strict=True)
                },
                "scores": tuple(score for score in manifest.scores if score.protocol.startswith("pooled")),
            }
        )
    calibrated = Segmenter(replace(bundle, manifest=manifest), threads=1)
    looks = []
    for look, ranks in each("quality", lambda sample: _looked(calibrated, sample), images):
        looks.append(look)
        after = after + ranks
    if quality:
        drawn = [(kind, seed) for kind in foreign.FITTING for seed in range(FOREIGN_PICTURES)]
        strange = list(each("foreign pictures", lambda each: _seen([calibrated(foreign.draw(*each))]), drawn))
        model = fit_quality(
            Seen.joined([look.seen for look in looks]),
            np.array([look.jaccard for look in looks]),
            groups=[sample.group for sample in images],
            sources=[sample.source for sample in images],
            strange=Seen.joined(strange),
            split=split,
        )
        manifest = manifest.model_copy(update={"quality": model})
    if len(classes) > 1:
        manifest = manifest.model_copy(update={"presence": _presence(classes, looks, split)})
    report = Report(
        images=len(images),
        temperatures=temperatures,
        before=_calibration_errors(classes, before),
        after=_calibration_errors(classes, after),
        quality=manifest.quality,
        presence=_told_apart(classes, looks, manifest.presence),
    )
    # The network's files are the same; what is new is said in the manifest.
    return write(folder, manifest, files), report


def _check_apart(folder: Path, bundle: Bundle) -> None:
    """Check that a copy in ``folder`` would leave the bundle, a folder or a zip, as it is.

    Raises:
        InputError: If the folder is, holds or lies in the bundle, or is no valid path.
    """
    try:
        target, own = folder.resolve(), bundle.path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(folder)!r} is not a valid path; give another folder") from error
    if target == own:
        relation = "is"
    elif target in own.parents:
        relation = "holds"
    elif own in target.parents:
        relation = "lies in"
    else:
        return
    raise InputError(f"{folder} {relation} the bundle itself; give another folder, for a calibrated copy")


class _Look(NamedTuple):
    """Of an image its features and the Jaccard index of its first mask; of each class what speaks for it, (K,).

    Likewise whether it is there, (K,).
    """

    seen: Seen
    jaccard: float
    evidence: Array
    shown: NDArray[np.bool_]


def _counted(softened: Segmenter, sample: Sample) -> tuple[Array, Array]:
    """An image's pixels of each class by logit, (K, 2, levels), and ranked, (K, ranking.LENGTH)."""
    pairs = _pairs(softened(sample.image), sample)
    counts, ranks = [], []
    for pair in pairs:
        p = np.clip(pair.probability.astype(np.float64), 1e-12, 1 - 1e-12)
        logits = SOFTENED * np.log(p / (1 - p))
        counts.append(histogram(logits, pair.fitted))
        ranks.append(ranking.measure((1 / (1 + np.exp(-logits))).astype(np.float32), pair.fitted))
    return np.stack(counts), np.stack(ranks).astype(np.float64)


def _looked(segmenter: Segmenter, sample: Sample) -> tuple[_Look, Array]:
    """What an image tells, and its ranked pixels of each class, (K, ranking.LENGTH)."""
    prediction = segmenter(sample.image)
    pairs = _pairs(prediction, sample)
    look = _Look(
        _seen([prediction]),
        Confusion.of(pairs[0].mask, pairs[0].truth).jaccard,
        np.array([presence.evidence(pair.probability) for pair in pairs]),
        np.array([pair.truth.any() for pair in pairs]),
    )
    return look, _ranked(pairs)


def _presence(classes: Sequence[str], looks: Sequence[_Look], split: str | None) -> PresenceModel | None:
    evidence, shown = (np.stack(rows) for rows in zip(*((look.evidence, look.shown) for look in looks), strict=True))
    curves = {
        name: presence.fit(evidence[:, place], shown[:, place])
        for place, name in enumerate(classes)
        if 0 < shown[:, place].sum() < len(shown)
    }
    return PresenceModel(curves=curves, split=split, images=len(looks)) if curves else None


def _told_apart(
    classes: Sequence[str], looks: Sequence[_Look], model: PresenceModel | None
) -> dict[str, tuple[float, float]]:
    """The mean presence of each class in images that show it and in those that do not."""
    told = {}
    for place, name in enumerate(classes):
        if model is not None and name in model.curves:
            probability = model.curves[name](np.array([look.evidence[place] for look in looks]))
            shown = np.array([look.shown[place] for look in looks])
            told[name] = (float(probability[shown].mean()), float(probability[~shown].mean()))
    return told


def _pairs(prediction: Prediction, sample: Sample) -> list[Pair]:
    truths = read_truths(sample, prediction.classes, prediction.size)
    return [Pair(prediction, name, truth) for name, truth in truths.items()]


def _ranked(pairs: Sequence[Pair]) -> Array:
    return np.stack([ranking.measure(pair.probability, pair.fitted) for pair in pairs]).astype(np.float64)


def _seen(predictions: Sequence[Prediction]) -> Seen:
    embeddings = [p.embedding for p in predictions if p.embedding is not None]
    return Seen(np.stack([p.features for p in predictions]), np.stack(embeddings) if embeddings else None)


def _calibration_errors(classes: Sequence[str], ranks: Array) -> dict[str, float]:
    return dict(zip(classes, ranking.score("calibration_error", ranks).tolist(), strict=True))
