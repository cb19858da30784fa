"""Scores on tune: every threshold counted at once must equal counting at each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dermseg.metrics import Confusion
from dermseg.training.scoring import AS_GOOD, BINS, HIGHEST, LEAST_SHARE, LOWEST, TuneScorer, _least_extreme

THRESHOLDS = [k / BINS for k in range(LOWEST, HIGHEST + 1)]


def batch(seed: int, count: int, classes: int, size: int = 9) -> tuple[Tensor, Tensor]:
    """Probabilities that know something of the truth, and truths of which some are empty."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, classes, size, size, generator=generator) < 0.3
    truth &= torch.rand(count, classes, 1, 1, generator=generator) < 0.7
    probability = 0.6 * torch.rand(count, classes, size, size, generator=generator) + 0.4 * truth
    return probability, truth


def per_image(probability: Tensor, truth: Tensor, threshold: float) -> list[list[dict[str, float]]]:
    """The official metrics of each image and class."""
    return [
        [
            Confusion.of(np.asarray(p > threshold), np.asarray(t)).scores()
            for p, t in zip(probability[i], truth[i], strict=True)
        ]
        for i in range(len(truth))
    ]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@pytest.mark.parametrize("monitor", ["jaccard", "dice", "thresholded_jaccard"])
def test_of_thresholds_as_good_as_the_best_the_least_extreme_is_taken(
    monitor: str, seed: int, sizes: list[int]
) -> None:
    scorer = TuneScorer(("lesion",), ("one", "two"), monitor)
    batches = [batch(seed + i, size, 1) for i, size in enumerate(sizes)]
    sources = [torch.arange(size) % 2 for size in sizes]
    for (probability, truth), source in zip(batches, sources, strict=True):
        scorer.update(probability, truth, source)
    scores = scorer.compute()
    indices = torch.cat(sources).numpy()
    means = {}
    for threshold in THRESHOLDS:
        values = np.array([row[0][monitor] for p, t in batches for row in per_image(p, t, threshold)])
        means[threshold] = np.mean([values[indices == index].mean() for index in np.unique(indices)])
    chosen = scores.thresholds["lesion"]
    assert scores.values[monitor] == pytest.approx(means[chosen], abs=1e-9)
    least = max(means.values()) - AS_GOOD
    assert means[chosen] >= least - 1e-9
    assert all(means[other] < least + 1e-9 for other in THRESHOLDS if abs(other - 0.5) < abs(chosen - 0.5) - 1e-9)


def test_each_class_has_its_own_least_extreme_threshold() -> None:
    # At 0.49 and 0.51 as far from a half, at 0.70 the best, at 0.20 no longer as good.
    curve = np.zeros((3, HIGHEST - LOWEST + 1))
    at = {round(threshold * BINS): index for index, threshold in enumerate(THRESHOLDS)}
    for row, scores in enumerate(({49: 0.8, 51: 0.801, 70: 0.8015}, {49: 0.8, 20: 0.9}, {30: 0.799, 90: 0.8})):
        for threshold, value in scores.items():
            curve[row, at[threshold]] = value
    assert [THRESHOLDS[index] for index in _least_extreme(curve)] == pytest.approx([0.51, 0.2, 0.3])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_thresholds_give_the_highest_micro_jaccard_that_leaves_each_class_its_share(seed: int) -> None:
    scorer = TuneScorer(("a", "b"), ("one",), "micro_jaccard")
    probability, truth = batch(seed, 5, 2, size=5)
    scorer.update(probability[:2], truth[:2], torch.zeros(2, dtype=torch.long))
    scorer.update(probability[2:], truth[2:], torch.zeros(3, dtype=torch.long))
    scores = scorer.compute()

    def pooled(index: int, threshold: float) -> tuple[int, int]:
        prediction = probability[:, index] > threshold
        return int((prediction & truth[:, index]).sum()), int((prediction | truth[:, index]).sum())

    def ratio(hits: int, union: int) -> float:
        return hits / union if union else 1.0

    tried = []
    for index in range(2):
        sums = {pooled(index, threshold) for threshold in THRESHOLDS}
        least = LEAST_SHARE * max(ratio(*pair) for pair in sums)
        tried.append([pair for pair in sums if ratio(*pair) >= least])
    best = max(ratio(a[0] + b[0], a[1] + b[1]) for a in tried[0] for b in tried[1])
    assert scores.values["micro_jaccard"] == pytest.approx(best)
    chosen = [pooled(index, scores.thresholds[name]) for index, name in enumerate("ab")]
    assert ratio(chosen[0][0] + chosen[1][0], chosen[0][1] + chosen[1][1]) == pytest.approx(best)
    for name, sums_of_class in zip("ab", chosen, strict=True):
        assert scores.values[f"micro_jaccard_{name}"] == pytest.approx(ratio(*sums_of_class))


def test_a_rare_class_is_found_though_the_sum_would_be_higher_without_it() -> None:
    """Of `common` all is found; `rare` is a fifth of what is as probable, which costs the sum more than it gives."""
    probability, truth = torch.zeros(1, 2, 1, 100), torch.zeros(1, 2, 1, 100, dtype=torch.bool)
    probability[0, 0, 0, :40], truth[0, 0, 0, :40] = 0.9, True
    probability[0, 1, 0, :20], truth[0, 1, 0, :4] = 0.6, True
    scorer = TuneScorer(("common", "rare"), ("one",), "micro_jaccard")
    scorer.update(probability, truth, torch.zeros(1, dtype=torch.long))
    scores = scorer.compute()
    assert scores.values["micro_jaccard_rare"] == pytest.approx(4 / 20)
    assert scores.values["micro_jaccard"] == pytest.approx(44 / 60)  # 40 / 44 without


def test_a_probability_on_a_threshold_is_not_above_it() -> None:
    scorer = TuneScorer(("lesion",), ("one",), "jaccard")
    probability = torch.tensor([[[[0.5, 0.51], [0.0, 1.0]]]], dtype=torch.float64)
    truth = torch.tensor([[[[False, True], [False, True]]]])
    scorer.update(probability, truth, torch.zeros(1, dtype=torch.long))
    scores = scorer.compute()
    assert scores.values["jaccard"] == 1
    assert scores.thresholds["lesion"] == 0.5


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    scorer = TuneScorer(("lesion",), ("one",), "jaccard")
    scorer.update(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    assert scorer.compute().values["jaccard"] == 1


def test_scores_of_one_epoch_do_not_leak_into_the_next() -> None:
    scorer = TuneScorer(("lesion",), ("one",), "jaccard")
    truth = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    for probability, expected in ((0.0, 0.0), (1.0, 1.0)):
        scorer.update(torch.full((1, 1, 4, 4), probability), truth, torch.zeros(1, dtype=torch.long))
        assert scorer.compute().values["jaccard"] == expected
