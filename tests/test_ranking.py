"""Curves of histograms: against scikit-learn and counts of pixels, by hand, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from dermseg import metrics, ranking
from dermseg.errors import InputError
from dermseg.metrics import Confusion
from dermseg.ranking import (
    BINS,
    EDGES,
    LENGTH,
    LEVELS,
    METRICS,
    THRESHOLDS,
    counts_at,
    highest_threshold,
    measure,
    precision_recall,
    reliability,
    roc,
    score,
    threshold_curve,
)

Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]
Image = tuple[Probability, Mask]

# Probabilities that lie on edges, beside them and anywhere.
VALUES = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from(EDGES.tolist()),
    st.sampled_from(np.nextafter(EDGES, np.float32(1)).tolist()),
    st.sampled_from(np.nextafter(EDGES, np.float32(0)).tolist()),
)
IMAGES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.float32, shape, elements=VALUES), hnp.arrays(np.bool_, shape))
)


def image(seed: int, size: tuple[int, int] = (40, 50), *, sharpness: float = 3, share: float = 0.3) -> Image:
    """A truth and what a middling network might say of it: most of it is almost sure, some of it wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < share
    logits = sharpness * (2.0 * truth - 1) + rng.normal(scale=sharpness, size=size)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


def level_of(probability: Probability) -> NDArray[np.int_]:
    """By definition, one edge at a time."""
    return np.asarray((probability[..., None] > EDGES).sum(axis=-1))


def pooled(images: list[Image]) -> Image:
    return np.concatenate([p.ravel() for p, _ in images]), np.concatenate([t.ravel() for _, t in images])


def summed(images: list[Image]) -> NDArray[np.float64]:
    return np.asarray(np.sum([measure(*each) for each in images], axis=0, dtype=np.float64))


# --- levels ------------------------------------------------------------------------------------------


def test_edges_are_ascending_and_hold_every_hundredth_as_float32() -> None:
    assert EDGES.dtype == np.float32
    assert (np.diff(EDGES) > 0).all()
    assert EDGES[0] == np.float32(1e-6)
    assert 0 < EDGES[-1] < 1
    inside = EDGES[(np.float32(0.01) <= EDGES) & (np.float32(0.99) >= EDGES)]
    assert inside.tolist() == [np.float32(k / 100) for k in range(1, 100)]
    assert len(EDGES) == 80 + 99 + 80
    np.testing.assert_allclose(EDGES, 1 - EDGES[::-1].astype(np.float64), atol=1e-7)


@given(IMAGES)
def test_a_pixel_is_above_an_edge_exactly_where_its_probability_is(pixels: Image) -> None:
    counts = counts_at(measure(*pixels), EDGES)
    for edge, found in zip(EDGES, counts, strict=True):
        assert found.tolist() == Confusion.of(pixels[0] > edge, pixels[1]).counts.tolist()


def test_the_statistics_are_those_of_a_loop_over_pixels() -> None:
    p, truth = image(1, (9, 7))
    histograms, sums, presence = np.zeros((2, LEVELS)), np.zeros(BINS), np.zeros((2, LEVELS))
    for value, level, positive in zip(p.ravel(), level_of(p).ravel(), truth.ravel(), strict=True):
        histograms[int(positive), level] += 1
        sums[max(math.ceil(float(value) * BINS) - 1, 0)] += value
    presence[1, level_of(p).max()] = 1
    statistics = measure(p, truth)
    assert statistics.dtype == np.float32
    assert statistics.shape == (LENGTH,)
    np.testing.assert_allclose(statistics, np.concatenate([histograms.ravel(), sums, presence.ravel()]), rtol=1e-6)


# --- against scikit-learn ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sharpness", [0.01, 1, 4, 12])
def test_areas_are_those_of_scikit_learn_on_levels(seed: int, sharpness: float) -> None:
    p, truth = image(seed, sharpness=sharpness, share=0.02 + seed / 10)
    statistics, ranks = measure(p, truth), level_of(p)
    assert score("auc_roc", statistics) == pytest.approx(roc_auc_score(truth.ravel(), ranks.ravel()), abs=1e-12)
    assert score("average_precision", statistics) == pytest.approx(
        average_precision_score(truth.ravel(), ranks.ravel()), abs=1e-12
    )


@pytest.mark.parametrize("share", [0.02, 0.25])
@pytest.mark.parametrize("sharpness", [1, 4])
def test_levels_are_fine_enough(sharpness: float, share: float) -> None:
    p, truth = image(3, (200, 200), sharpness=sharpness, share=share)
    statistics = measure(p, truth)
    assert score("auc_roc", statistics) == pytest.approx(roc_auc_score(truth.ravel(), p.ravel()), abs=1e-4)
    lost = average_precision_score(truth.ravel(), p.ravel()) - score("average_precision", statistics)
    assert 0 <= lost < 0.01


@given(st.lists(IMAGES, min_size=1, max_size=4))
def test_areas_of_any_images_are_those_of_scikit_learn_on_levels(images: list[Image]) -> None:
    p, truth = pooled(images)
    statistics = summed(images)
    if truth.any():
        expected = average_precision_score(truth, level_of(p))
        assert score("average_precision", statistics) == pytest.approx(expected, abs=1e-12)
    if truth.any() and not truth.all():
        assert score("auc_roc", statistics) == pytest.approx(roc_auc_score(truth, level_of(p)), abs=1e-12)


@given(st.lists(IMAGES, min_size=2, max_size=8))
def test_presence_ranks_images_by_their_highest_level(images: list[Image]) -> None:
    present, highest = [t.any() for _, t in images], [level_of(p).max() for p, _ in images]
    area = float(score("presence_auc", summed(images)))
    if len(set(present)) == 2:
        assert area == pytest.approx(roc_auc_score(present, highest), abs=1e-12)
    else:
        assert math.isnan(area)


def test_curves_pass_through_the_points_of_scikit_learn() -> None:
    p, truth = image(5)
    statistics, ranks = measure(p, truth), level_of(p).ravel()
    false, true = roc(statistics)
    assert (len(false), false[0], true[0], false[-1], true[-1]) == (LEVELS + 1, 0, 0, 1, 1)
    their_false, their_true, _ = roc_curve(truth.ravel(), ranks, drop_intermediate=False)
    assert set(zip(their_false, their_true, strict=True)) == set(zip(false, true, strict=True))
    assert np.trapezoid(true, false) == pytest.approx(float(score("auc_roc", statistics)))

    recall, precision = precision_recall(statistics)
    their_precision, their_recall, _ = precision_recall_curve(truth.ravel(), ranks)
    assert set(zip(their_recall, their_precision, strict=True)) == set(zip(recall, precision, strict=True))
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(float(score("average_precision", statistics)))


# --- calibration ---------------------------------------------------------------------------------------


def by_loop(p: Probability, truth: Mask) -> tuple[float, list[list[float]]]:
    """Expected calibration error and [mean p, share, pixels] of each bin."""
    error, rows = 0.0, []
    for k in range(BINS):
        low, high = np.float32(k / BINS), np.float32((k + 1) / BINS)
        inside = (p <= high) & ((p > low) | (k == 0))
        if pixels := int(inside.sum()):
            mean, share = float(p[inside].mean(dtype=np.float64)), float(truth[inside].mean())
            error += pixels / p.size * abs(mean - share)
            rows.append([mean, share, pixels])
        else:
            rows.append([math.nan, math.nan, 0])
    return error, rows


@given(IMAGES)
def test_calibration_is_that_of_a_loop_over_bins(pixels: Image) -> None:
    error, rows = by_loop(*pixels)
    assert score("calibration_error", measure(*pixels)) == pytest.approx(error, abs=1e-6)
    np.testing.assert_allclose(np.transpose(reliability(measure(*pixels))), rows, rtol=1e-6)


def test_calibration_by_hand() -> None:
    """Four pixels of 0.25, of which one is lesion as it should be; two of 0.875, of which one is, not 1.75."""
    p = np.array([[0.25, 0.25, 0.25, 0.25, 0.875, 0.875]], np.float32)
    truth = np.array([[True, False, False, False, True, False]])
    statistics = measure(p, truth)
    assert score("calibration_error", statistics) == 2 * 0.375 / 6
    predicted, observed, pixels = reliability(statistics)
    assert (predicted[2], observed[2], pixels[2]) == (0.25, 0.25, 4)
    assert (predicted[8], observed[8], pixels[8]) == (0.875, 0.5, 2)
    assert np.isnan(predicted).sum() == np.isnan(observed).sum() == 8


def test_probabilities_that_are_true_are_calibrated_and_those_of_a_sure_network_are_not() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((300, 300)).astype(np.float32)
    truth = rng.random(p.shape) < p
    assert score("calibration_error", measure(p, truth)) < 0.01
    assert score("calibration_error", measure((p > 0.5).astype(np.float32), truth)) == pytest.approx(0.25, abs=0.01)


# --- thresholds ----------------------------------------------------------------------------------------


def test_counts_at_hundredths_are_those_of_the_masks() -> None:
    p, truth = image(7)
    p.flat[:99] = THRESHOLDS  # exactly on the threshold is not above it
    counts = counts_at(measure(p, truth), THRESHOLDS)
    assert counts.shape == (99, 4)
    for threshold, found in zip(THRESHOLDS, counts, strict=True):
        assert found.tolist() == Confusion.of(p > np.float32(threshold), truth).counts.tolist()


def test_counts_keep_the_leading_axes() -> None:
    statistics = np.stack([measure(*image(seed)) for seed in range(6)]).reshape(2, 3, LENGTH)
    assert counts_at(statistics, [0.25, 0.5]).shape == (2, 3, 2, 4)
    assert counts_at(statistics, [0.25, 0.5])[1, 2].tolist() == counts_at(statistics[1, 2], [0.25, 0.5]).tolist()
    assert counts_at(statistics, 0.5).shape == (2, 3, 1, 4)


@pytest.mark.parametrize("threshold", [0.505, 0, 1, -1, 2, math.nan])
def test_thresholds_between_levels_are_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="thresholds"):
        counts_at(measure(*image(1)), [0.5, threshold])


def test_the_threshold_curve_is_the_mean_over_images_of_a_class() -> None:
    images = [image(seed, (12, 15), share=seed / 4) for seed in range(4)]  # the first has no lesion
    statistics = np.stack([[measure(*image(seed + 50)), measure(*each)] for seed, each in enumerate(images)])
    curve = threshold_curve(statistics, 1)
    assert list(curve) == ["jaccard", "dice", "sensitivity", "specificity", "precision"]
    for name, values in curve.items():
        expected = [
            np.mean([Confusion.of(p > np.float32(t), truth).scores()[name] for p, truth in images]) for t in THRESHOLDS
        ]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("sensitivity", [0.3, 0.6, 0.8, 0.9, 0.95, 0.99])
def test_the_highest_threshold_reaches_the_sensitivity_and_the_next_does_not(sensitivity: float) -> None:
    images = [image(seed, (12, 15), sharpness=1.5) for seed in range(5)]

    def reached(threshold: float) -> float:
        return float(np.mean([Confusion.of(p > np.float32(threshold), truth).sensitivity for p, truth in images]))

    threshold = highest_threshold(np.stack([measure(*each) for each in images]), sensitivity)
    assert reached(threshold) >= sensitivity
    assert reached(threshold + 0.01) < sensitivity


def test_the_highest_threshold_is_within_bounds_and_heeds_only_images_with_a_lesion() -> None:
    sure, never = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
    full, none = np.ones((4, 4), np.bool_), np.zeros((4, 4), np.bool_)
    found, missed, blank = measure(sure, full), measure(never, full), measure(never, none)
    assert highest_threshold(np.stack([found, found]), 1.0) == 0.99
    assert highest_threshold(np.stack([found, missed]), 0.5) == 0.99
    assert highest_threshold(np.stack([found, missed]), 0.9) == 0.01
    assert highest_threshold(np.stack([found, missed] + [blank] * 98), 0.9) == 0.01
    assert highest_threshold(np.stack([blank]), 0.9) == 0.01


# --- statistics ----------------------------------------------------------------------------------------


@given(st.lists(IMAGES, min_size=1, max_size=4))
def test_summed_statistics_are_those_of_pooled_pixels(images: list[Image]) -> None:
    presence = 2 * LEVELS + BINS
    np.testing.assert_allclose(summed(images)[:presence], measure(*pooled(images))[:presence], rtol=1e-6)


@given(st.lists(IMAGES, min_size=1, max_size=4), st.floats(1e-3, 1e3))
def test_metrics_of_a_mean_are_those_of_the_sum(images: list[Image], factor: float) -> None:
    for name in (*METRICS, "presence_auc"):
        whole, scaled = score(name, summed(images)), score(name, summed(images) * factor)
        np.testing.assert_allclose(scaled, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*METRICS, "presence_auc"])
def test_scores_keep_the_leading_axes_and_the_precision_of_either_type(name: str) -> None:
    statistics = np.stack([summed([image(s, (9, 9), share=s % 2 / 5), image(s + 9)]) for s in range(6)])
    statistics += measure(np.full((3, 3), 0.4, np.float32), np.zeros((3, 3), np.bool_))
    together = score(name, statistics.reshape(2, 3, LENGTH))
    assert together.shape == (2, 3)
    assert together.dtype == np.float64
    np.testing.assert_allclose(together.ravel(), [score(name, each) for each in statistics], rtol=1e-14)
    np.testing.assert_allclose(score(name, statistics.astype(np.float32)), together.ravel(), rtol=1e-6)
    assert score(name, statistics[0]).shape == ()


@given(IMAGES)
def test_defined_scores_are_between_0_and_1_and_undefined_ones_are_nan(pixels: Image) -> None:
    statistics = measure(*pixels)
    some, all_ = pixels[1].any(), pixels[1].all()
    defined = {
        "auc_roc": some and not all_,
        "average_precision": some,
        "calibration_error": True,
        "presence_auc": False,
    }
    for name, expected in defined.items():
        value = float(score(name, statistics))
        assert 0 <= value <= 1 if expected else math.isnan(value)


def test_without_any_pixel_nothing_is_defined() -> None:
    nothing = np.zeros((2, LENGTH))
    for name in (*METRICS, "presence_auc"):
        assert np.isnan(score(name, nothing)).tolist() == [True, True]
    assert np.isnan(roc(nothing[0])).all()
    assert np.isnan(reliability(nothing[0]).observed).all()


def test_an_order_that_is_right_scores_1_and_a_reversed_one_0() -> None:
    p = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    right, reversed_ = measure(p, p > 0.5), measure(p, p < 0.5)
    assert score("auc_roc", right) == 1
    assert score("average_precision", right) == 1
    assert score("auc_roc", reversed_) == 0
    assert score("auc_roc", measure(np.full((4, 4), 0.3, np.float32), np.eye(4, dtype=np.bool_))) == 0.5


def test_large_counts_stay_exact_in_float32_statistics() -> None:
    """Sums over levels exceed what float32 can count, and are taken in float64."""
    statistics = np.zeros(LENGTH, np.float32)
    statistics[:LEVELS], statistics[LEVELS : 2 * LEVELS] = 2**20 - 1, 2**18 + 1
    tp, fp, fn, tn = counts_at(statistics, [0.5])[0]
    assert (tp + fn, fp + tn) == (LEVELS * (2**18 + 1), LEVELS * (2**20 - 1))


def test_thresholds_score_as_masks_do() -> None:
    p, truth = image(4)
    statistics = measure(p, truth)
    assert metrics.score("jaccard", counts_at(statistics, 0.5))[0] == Confusion.of(p > 0.5, truth).jaccard


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((0, 4), (0, 4))])
def test_pixels_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(InputError, match="the probability has shape"):
        measure(np.zeros(shapes[0], np.float32), np.zeros(shapes[1], np.bool_))


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match=r"'auc'.*auc_roc"):
        ranking.score("auc", measure(*image(1)))
