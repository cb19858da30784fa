"""Metrics: against the official scorer, by hand, and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from isic_challenge_scoring import confusion as official_confusion
from isic_challenge_scoring import metrics as official
from numpy.typing import NDArray
from scipy import stats

from dermseg.errors import InputError
from dermseg.metrics import (
    TASK1_METRICS,
    Confusion,
    Interval,
    bootstrap,
    bootstrap_interval,
    score,
    soft_counts,
)

Mask = NDArray[np.bool_]

OFFICIAL = {
    "jaccard": official.binary_jaccard,
    "thresholded_jaccard": official.binary_threshold_jaccard,
    "dice": official.binary_dice,
    "sensitivity": official.binary_sensitivity,
    "specificity": official.binary_specificity,
    "accuracy": official.binary_accuracy,
    "precision": official.binary_ppv,
}

MASK_PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def edge_masks(height: int, width: int) -> list[Mask]:
    """Empty, full, one pixel in either corner, its complement, and the two halves."""
    empty = np.zeros((height, width), dtype=np.bool_)
    first, last, top = empty.copy(), empty.copy(), empty.copy()
    first[0, 0] = last[-1, -1] = True
    top[: height // 2] = True
    return [empty, ~empty, first, last, ~first, top, ~top]


def assert_official(prediction: Mask, truth: Mask) -> None:
    ours = Confusion.of(prediction, truth)
    theirs = official_confusion.create_binary_confusion_matrix(truth, prediction)
    assert (ours.tp, ours.fp, ours.fn, ours.tn) == tuple(theirs[["TP", "FP", "FN", "TN"]])
    assert ours.scores() == {name: metric(theirs) for name, metric in OFFICIAL.items()}


# --- against the official scorer -----------------------------------------------------------------


def test_every_reported_metric_has_an_oracle() -> None:
    assert tuple(OFFICIAL) == TASK1_METRICS


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (7, 9)])
def test_edge_cases_equal_the_official_scorer(shape: tuple[int, int]) -> None:
    for prediction, truth in itertools.product(edge_masks(*shape), repeat=2):
        assert_official(prediction, truth)


def test_random_masks_equal_the_official_scorer() -> None:
    rng = np.random.default_rng(7)
    for _ in range(2000):
        shape = tuple(rng.integers(1, 24, size=2))
        truth = rng.random(shape) < rng.random()
        # From a copy of the truth to an unrelated mask, so that Jaccard falls on both sides of 0.65.
        prediction = truth ^ (rng.random(shape) < rng.random() ** 2)
        assert_official(prediction, truth)


def test_every_small_confusion_equals_the_official_scorer() -> None:
    """All counts up to 3, each on either side of a division by zero."""
    for tp, fp, fn, tn in itertools.product(range(4), repeat=4):
        if tp + fp + fn + tn:
            truth = np.repeat([True, False, True, False], [tp, fp, fn, tn])[None]
            prediction = np.repeat([True, True, False, False], [tp, fp, fn, tn])[None]
            assert_official(prediction, truth)


# --- by hand ---------------------------------------------------------------------------------------


def test_hand_computed() -> None:
    truth = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=np.bool_)
    prediction = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=np.bool_)
    confusion = Confusion.of(prediction, truth)
    assert confusion == Confusion(tp=3, fp=1, fn=1, tn=3)
    assert confusion.scores() == {
        "jaccard": 0.6,
        "thresholded_jaccard": 0.0,
        "dice": 0.75,
        "sensitivity": 0.75,
        "specificity": 0.75,
        "accuracy": 0.75,
        "precision": 0.75,
    }


@pytest.mark.parametrize(
    ("confusion", "jaccard", "expected"),
    [
        (Confusion(tp=13, fp=3, fn=4, tn=0), 0.65, 0.65),
        (Confusion(tp=6499, fp=3501, fn=0, tn=0), 0.6499, 0.0),
        (Confusion(tp=1, fp=0, fn=0, tn=0), 1.0, 1.0),
    ],
)
def test_threshold_keeps_exactly_065(confusion: Confusion, jaccard: float, expected: float) -> None:
    assert confusion.jaccard == jaccard
    assert confusion.thresholded_jaccard == expected


@pytest.mark.parametrize(
    ("confusion", "perfect"),
    [
        pytest.param(Confusion(tp=0, fp=0, fn=0, tn=9), set(TASK1_METRICS), id="both empty"),
        pytest.param(Confusion(tp=9, fp=0, fn=0, tn=0), set(TASK1_METRICS), id="both full"),
        pytest.param(Confusion(tp=0, fp=4, fn=0, tn=5), {"sensitivity"}, id="truth empty"),
        pytest.param(Confusion(tp=0, fp=9, fn=0, tn=0), {"sensitivity"}, id="truth empty, all predicted"),
        pytest.param(Confusion(tp=0, fp=0, fn=4, tn=5), {"specificity", "precision"}, id="nothing predicted"),
        pytest.param(Confusion(tp=0, fp=0, fn=9, tn=0), {"specificity", "precision"}, id="all missed"),
        pytest.param(Confusion(tp=4, fp=0, fn=5, tn=0), {"specificity", "precision"}, id="truth full"),
    ],
)
def test_empty_and_full_masks(confusion: Confusion, perfect: set[str]) -> None:
    assert {name for name, value in confusion.scores().items() if value == 1} == perfect


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 3), st.just(4)), elements=st.integers(0, 9)))
def test_many_counts_score_as_each_alone(counts: NDArray[np.int64]) -> None:
    counts[..., 3] += 1
    for name in TASK1_METRICS:
        alone = [[getattr(Confusion(*map(int, one)), name) for one in row] for row in counts]
        assert score(name, counts.astype(np.float64)).tolist() == alone


# --- soft --------------------------------------------------------------------------------------------


def test_soft_scores_by_hand() -> None:
    truth = np.array([[True, True], [False, False]])
    counts = soft_counts(np.array([[0.75, 0.5], [0.25, 0.5]]), truth)
    assert counts.tolist() == [1.25, 0.75, 0.75, 1.25]
    assert score("dice", counts) == 2 * 1.25 / (2 + 2)
    assert score("jaccard", counts) == 1.25 / (2 + 2 - 1.25)
    assert score("precision", counts) == 1.25 / 2
    assert score("sensitivity", counts) == 1.25 / 2


PROBABILITIES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)), hnp.arrays(np.bool_, shape)
    )
)


@given(PROBABILITIES)
def test_soft_scores_are_those_of_the_formulae(pair: tuple[NDArray[np.float32], Mask]) -> None:
    probability, truth = pair
    p, t = probability.astype(np.float64), truth.astype(np.float64)
    counts = soft_counts(probability, truth)
    assert (counts >= 0).all()
    assert counts.sum() == pytest.approx(truth.size)
    overlap, found, positives = (p * t).sum(), p.sum(), t.sum()
    for name, part, whole in (
        ("dice", 2 * overlap, found + positives),
        ("jaccard", overlap, found + positives - overlap),
        ("precision", overlap, found),
        ("sensitivity", overlap, positives),
    ):
        assert score(name, counts) == pytest.approx(part / whole if whole else 1)


@given(MASK_PAIRS)
def test_soft_counts_of_a_mask_are_its_confusion(masks: tuple[Mask, Mask]) -> None:
    prediction, truth = masks
    assert soft_counts(prediction.astype(np.float32), truth).tolist() == Confusion.of(prediction, truth).counts.tolist()


@pytest.mark.parametrize(
    ("probability", "lesion", "perfect"),
    [
        pytest.param(0.0, False, {"jaccard", "dice", "sensitivity", "precision"}, id="nothing there, nothing expected"),
        pytest.param(0.01, False, {"sensitivity"}, id="nothing there, little expected"),
        pytest.param(0.0, True, {"precision"}, id="nothing expected"),
        pytest.param(0.5, True, {"precision"}, id="a lesion throughout"),
        pytest.param(1.0, True, {"jaccard", "dice", "sensitivity", "precision"}, id="a lesion throughout, known"),
    ],
)
def test_soft_scores_of_empty_and_full_masks(probability: float, lesion: bool, perfect: set[str]) -> None:
    counts = soft_counts(np.full((3, 4), probability), np.full((3, 4), lesion))
    assert {name for name in ("jaccard", "dice", "sensitivity", "precision") if score(name, counts) == 1} == perfect
    assert all(score(name, counts) == 0 for name in ("jaccard", "dice") if not lesion and probability)


# --- properties --------------------------------------------------------------------------------------


@given(MASK_PAIRS)
def test_properties(masks: tuple[Mask, Mask]) -> None:
    prediction, truth = masks
    forward, backward = Confusion.of(prediction, truth), Confusion.of(truth, prediction)

    assert forward.tp + forward.fp + forward.fn + forward.tn == truth.size
    assert all(0 <= value <= 1 for value in forward.scores().values())

    assert forward.jaccard == backward.jaccard
    assert forward.dice == backward.dice
    assert forward.accuracy == backward.accuracy
    assert forward.precision == backward.sensitivity

    assert forward.dice == pytest.approx(2 * forward.jaccard / (1 + forward.jaccard), abs=1e-12)
    assert forward.jaccard >= forward.thresholded_jaccard
    assert forward.thresholded_jaccard == 0 or forward.thresholded_jaccard >= 0.65
    assert (forward.jaccard == 1) == bool((prediction == truth).all())


@given(MASK_PAIRS)
def test_background_metrics_are_those_of_the_inverted_masks(masks: tuple[Mask, Mask]) -> None:
    prediction, truth = masks
    forward, inverted = Confusion.of(prediction, truth), Confusion.of(~prediction, ~truth)
    assert forward.specificity == inverted.sensitivity
    assert forward.accuracy == inverted.accuracy


# --- refusals ----------------------------------------------------------------------------------------


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"^the prediction has shape \(2, 3\) but the truth \(3, 2\): compare"):
        Confusion.of(np.zeros((2, 3), np.bool_), np.zeros((3, 2), np.bool_))


def test_masks_of_grey_levels_are_refused() -> None:
    grey: NDArray[np.uint8] = np.full((2, 2), 255, dtype=np.uint8)
    with pytest.raises(InputError, match=r"^masks must be boolean, but the prediction is uint8 and the truth bool$"):
        Confusion.of(grey, np.zeros((2, 2), np.bool_))  # type: ignore[arg-type]


def test_masks_without_a_pixel_are_refused() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        Confusion.of(np.zeros((0, 4), np.bool_), np.zeros((0, 4), np.bool_))


def test_negative_counts_are_refused() -> None:
    with pytest.raises(InputError, match=r"counts >= 0 of at least one pixel, not \(3, -1, 0, 0\)"):
        Confusion(tp=3, fp=-1, fn=0, tn=0)


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [0.5, np.inf]])
def test_bootstrap_refuses_values_without_a_mean(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"^an interval needs finite values of at least one image; got shape \(\d,\)"):
        bootstrap_interval(np.array(values, dtype=np.float64))


@pytest.mark.parametrize("values", [1.0, [[1.0]]])
def test_an_interval_of_a_mean_is_of_one_value_an_image(values: object) -> None:
    with pytest.raises(InputError, match=r"^an interval of a mean needs one value an image, \(n,\), not shape \("):
        bootstrap_interval(np.array(values, dtype=np.float64))


@pytest.mark.parametrize(("shape", "other"), [((2, 3), (3, 2)), ((0, 3), (0, 3))])
def test_soft_counts_refuse_what_does_not_fit(shape: tuple[int, int], other: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^the probability has shape \(\d, 3\) but the truth \(\d, \d\)"):
        soft_counts(np.zeros(shape), np.zeros(other, np.bool_))


def test_bootstrap_refuses_a_missing_group() -> None:
    with pytest.raises(InputError, match=r"^3 values need as many groups, not 2$"):
        bootstrap_interval(np.ones(3), ["a", "b"])


@pytest.mark.parametrize(("samples", "confidence"), [(0, 0.95), (10, 0.0), (10, 1.0), (10, 95.0)])
def test_bootstrap_refuses_settings_out_of_range(samples: int, confidence: float) -> None:
    with pytest.raises(InputError, match=r"samples must be >= 1 and confidence in \(0, 1\)"):
        bootstrap_interval(np.ones(3), samples=samples, confidence=confidence)


# --- bootstrap ---------------------------------------------------------------------------------------


def slow_bootstrap(
    values: NDArray[np.float64], groups: list[str] | None, samples: int, confidence: float, seed: int
) -> Interval:
    """The same bootstrap with one loop for resamples and one for groups."""
    names = groups if groups is not None else [str(index) for index in range(len(values))]
    members: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        members.setdefault(name, []).append(float(value))
    order = list(members)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(samples):
        drawn: list[float] = []
        for index in rng.integers(len(order), size=len(order)):
            drawn.extend(members[order[index]])
        means.append(np.mean(drawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(np.mean(values)), float(low), float(high))


@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_equals_the_slow_loop(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.random(40)
    groups = [f"lesion {index}" for index in rng.integers(15, size=40)] if grouped else None
    fast = bootstrap_interval(values, groups, samples=300, confidence=0.9, seed=5)
    slow = slow_bootstrap(values, groups, samples=300, confidence=0.9, seed=5)
    assert (fast.mean, fast.low, fast.high) == pytest.approx((slow.mean, slow.low, slow.high), abs=1e-12)


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(11).beta(8, 2, size=300)
    ours = bootstrap_interval(values, samples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, batch=500, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == values.mean()
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_bootstrap_covers_the_true_mean_as_often_as_student_does() -> None:
    """Paired on the same data, so that luck in the data cancels out."""
    rng = np.random.default_rng(2)
    n, trials = 200, 400
    student = stats.t.ppf(0.975, n - 1) / n**0.5
    covered = {"bootstrap": 0, "student": 0}
    for seed in range(trials):
        values = rng.random(n)
        interval = bootstrap_interval(values, samples=500, seed=seed)
        covered["bootstrap"] += interval.low <= 0.5 <= interval.high
        covered["student"] += abs(values.mean() - 0.5) <= student * values.std(ddof=1)
    assert covered["bootstrap"] / trials == pytest.approx(covered["student"] / trials, abs=0.02)


def test_groups_widen_the_interval_of_correlated_images() -> None:
    """Five equal images a lesion: the interval is that of the lesions alone, sqrt(5) times wider."""
    lesions = np.random.default_rng(0).random(200)
    images = np.repeat(lesions, 5)
    groups = [f"lesion {index}" for index in np.repeat(np.arange(200), 5)]
    alone = bootstrap_interval(images)
    grouped = bootstrap_interval(images, groups)
    assert grouped.mean == alone.mean
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(5**0.5, rel=0.1)
    expected = bootstrap_interval(lesions)
    assert (grouped.low, grouped.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mean_is_over_images_not_over_groups() -> None:
    assert bootstrap_interval(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"]).mean == 0.75


def test_bootstrap_is_deterministic_and_follows_its_seed() -> None:
    values = np.random.default_rng(4).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_groups_of_one_image_are_no_groups_whatever_their_names() -> None:
    values = np.random.default_rng(4).random(50)
    assert bootstrap_interval(values, [f"{-index}" for index in range(50)]) == bootstrap_interval(values)


def test_a_single_group_has_no_width() -> None:
    interval = bootstrap_interval(np.array([0.25, 0.75]), ["a", "a"])
    assert interval == Interval(mean=0.5, low=0.5, high=0.5)


def test_more_confidence_is_wider() -> None:
    values = np.random.default_rng(4).random(50)
    narrow, wide = (bootstrap_interval(values, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)),
    st.data(),
)
def test_bootstrap_stays_within_the_values(values: NDArray[np.float64], data: st.DataObject) -> None:
    groups = data.draw(st.none() | st.lists(st.sampled_from("abc"), min_size=values.size, max_size=values.size))
    interval = bootstrap_interval(values, groups, samples=50)
    slack = 1e-12
    assert values.min() - slack <= interval.low <= interval.high <= values.max() + slack
    assert values.min() - slack <= interval.mean <= values.max() + slack


def test_blocks_of_resamples_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random(64)
    whole = bootstrap_interval(values, samples=101)
    monkeypatch.setattr("dermseg.metrics._DRAWS_PER_BLOCK", 640)
    parts = bootstrap_interval(values, samples=101)
    assert (parts.mean, parts.low, parts.high) == pytest.approx((whole.mean, whole.low, whole.high), abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_bootstrap_of_a_ratio_of_sums_equals_the_slow_loop(grouped: bool) -> None:
    rng = np.random.default_rng(9)
    parts, wholes = rng.integers(0, 50, 30), rng.integers(50, 90, 30)
    names = [f"lesion {index}" for index in (rng.integers(12, size=30) if grouped else range(30))]
    members = {name: [i for i, other in enumerate(names) if other == name] for name in names}
    draws = np.random.default_rng(4)
    ratios = []
    for _ in range(200):
        drawn = [i for index in draws.integers(len(members), size=len(members)) for i in list(members.values())[index]]
        ratios.append(sum(parts[i] for i in drawn) / sum(wholes[i] for i in drawn))
    found = bootstrap(
        np.stack([parts, wholes], axis=1).astype(np.float64),
        lambda means: {"ratio": means[:, 0] / means[:, 1], "whole": means[:, 1]},
        names if grouped else None,
        samples=200,
        seed=4,
    )
    assert found["ratio"].mean == pytest.approx(parts.sum() / wholes.sum())
    assert (found["ratio"].low, found["ratio"].high) == pytest.approx(np.quantile(ratios, [0.025, 0.975]).tolist())
    assert found["whole"].mean == pytest.approx(wholes.mean())


def test_interval_prints_as_in_the_tables() -> None:
    assert str(Interval(0.7812, 0.76, 0.80149)) == "0.781 [0.760, 0.801]"
