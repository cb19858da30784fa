"""Comparison of two results: against a bootstrap and a test written out, by its properties, and as a command."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from typer.testing import CliRunner, Result

from dermseg import ranking
from dermseg.bundle import Bundle
from dermseg.cli.main import app
from dermseg.comparison import LEAST_GROUPS, Comparison, compare, signed, signed_rank
from dermseg.data import catalog, splits
from dermseg.data.catalog import Sample
from dermseg.errors import DataError, InputError
from dermseg.evaluation import ALL, EvaluationResult, Failure, evaluate
from dermseg.imaging import encode_image, encode_mask
from dermseg.metrics import Interval
from dermseg.predictors import MaskFolder, Model
from dermseg.protocols import ImageScore, ProtocolName, protocol_for
from dermseg.report import comparison as report
from dermseg.segmenter import Segmenter
from dermseg.synthetic import draw
from tests.conftest import Cli
from tests.test_report import HOSTILE, Page

Counts = NDArray[np.float64]

SPLIT = "test"


def result_of(
    name: str,
    counts: Mapping[str, Sequence[float]] | Counts,
    groups: Sequence[str] | None = None,
    *,
    classes: tuple[str, ...] = ("lesion",),
    protocols: Sequence[ProtocolName] = ("official", "pooled"),
    sources: Sequence[str] | None = None,
    content_hash: str = "same",
) -> EvaluationResult:
    """A result of images of known counts, (n, 4), or of several classes (n, K, 4)."""
    table = counts if isinstance(counts, np.ndarray) else np.array(list(counts.values()), np.float64)
    ids = [f"i{place}" for place in range(len(table))] if isinstance(counts, np.ndarray) else list(counts)
    table = table.reshape(len(table), len(classes), 4)
    chosen = tuple(protocol_for(protocol, classes, None) for protocol in protocols)
    images = []
    for place, (id, own) in enumerate(zip(ids, table, strict=True)):
        shares = own / own[0].sum() if len(classes) > 1 else own
        statistics = {protocol.name: shares if protocol.name == "official" else own for protocol in chosen}
        images.append(
            ImageScore(
                id=id,
                source=sources[place] if sources else "isic2017",
                group=groups[place] if groups else id,
                size=(1, int(own[0].sum())),
                statistics=statistics,
                metrics={
                    f"{protocol.prefix}{metric}": float(value)
                    for protocol in chosen
                    if protocol.per_image
                    for metric, value in protocol.metrics_of(statistics[protocol.name]).items()
                },
            )
        )
    return EvaluationResult(name, "DATA", SPLIT, chosen, tuple(images), content_hash=content_hash)


def counts_of(jaccard: ArrayLike) -> Counts:
    """A truth of 1000 pixels, of which a share is found and nothing beside: the Jaccard index is the share."""
    found = np.round(1000 * np.asarray(jaccard, np.float64))
    return np.column_stack([found, np.zeros_like(found), 1000 - found, np.full_like(found, 1000)])


def random_counts(seed: int, count: int, truth: NDArray[np.int64]) -> Counts:
    rng = np.random.default_rng(seed)
    tp = rng.binomial(truth, rng.uniform(0.5, 1, count))
    fp = rng.integers(0, 2000 - truth)
    return np.column_stack([tp, fp, truth - tp, 2000 - truth - fp]).astype(np.float64)


@pytest.fixture(scope="module")
def grouped() -> tuple[EvaluationResult, EvaluationResult]:
    """Two results on 40 images of 25 lesions."""
    rng = np.random.default_rng(3)
    truth = rng.integers(200, 1200, 40)
    groups = [f"g{number}" for number in (*range(25), *rng.integers(0, 25, 15))]
    return tuple(result_of(name, random_counts(seed, 40, truth), groups) for seed, name in enumerate("AB"))  # type: ignore[return-value]


# --- against what is written out -----------------------------------------------------------------


def resampled(groups: Sequence[str], estimate: Callable[[list[int]], float]) -> tuple[float, float]:
    """A percentile bootstrap, one resample after another, of an estimate of images by their places."""
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    own = list(members.values())
    draws = np.random.default_rng(0).integers(len(own), size=(2000, len(own)))
    values = [estimate([place for drawn in row for place in own[drawn]]) for row in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def test_intervals_are_of_paired_resamples_of_groups(grouped: tuple[EvaluationResult, EvaluationResult]) -> None:
    one, other = grouped
    found = compare(one, other)
    groups = [image.group for image in one.images]
    jaccards = [np.array([image.metrics["jaccard"] for image in result.images]) for result in grouped]
    counts = [np.array([image.statistics["pooled"][0] for image in result.images]) for result in grouped]

    def mean(places: list[int]) -> float:
        return float(jaccards[1][places].mean() - jaccards[0][places].mean())

    def pooled(places: list[int]) -> float:
        sums = [own[places].sum(axis=0) for own in counts]
        first, second = (tp / (tp + fp + fn) for tp, fp, fn, _ in sums)
        return float(second - first)

    for protocol, estimate in (("official", mean), ("pooled", pooled)):
        interval = found.differences[protocol][ALL]["jaccard"].difference  # type: ignore[index]
        assert interval.mean == pytest.approx(estimate(list(range(40))), abs=1e-12)
        assert (interval.low, interval.high) == pytest.approx(resampled(groups, estimate), abs=1e-12)


def test_the_values_beside_a_difference_are_the_results_own(
    grouped: tuple[EvaluationResult, EvaluationResult],
) -> None:
    found = compare(*grouped)
    for name, parts in found.differences.items():
        for part, metrics in parts.items():
            for metric, difference in metrics.items():
                assert difference.one == grouped[0].summaries[name][part][metric]
                assert difference.other == grouped[1].summaries[name][part][metric]


def test_the_test_is_wilcoxons_on_the_means_of_groups(grouped: tuple[EvaluationResult, EvaluationResult]) -> None:
    found = compare(*grouped)
    by_group: dict[str, list[float]] = {}
    for one, other in zip(grouped[0].images, grouped[1].images, strict=True):
        by_group.setdefault(one.group, []).append(other.metrics["jaccard"] - one.metrics["jaccard"])
    means = [sum(own) / len(own) for own in by_group.values()]
    assert found.test is not None
    assert found.test.groups == 25
    assert found.test.p_value == pytest.approx(stats.wilcoxon(means, zero_method="pratt").pvalue, rel=1e-9)
    upwards = stats.wilcoxon(means, zero_method="pratt", alternative="greater").statistic
    assert found.test.correlation == pytest.approx(2 * upwards / (25 * 26 / 2) - 1, abs=1e-12)


def test_equal_scores_keep_their_ranks() -> None:
    """By hand: of 0, 0, 1, 2, 3, 4 the ranks of what is not 0 are 3 to 6; all four up happens in 1 of 2^4 ways."""
    found = signed_rank(np.array([0.0, 0, 1, 2, 3, 4]), list("abcdef"))
    assert found.p_value == pytest.approx(2 / 16)
    assert found.correlation == 1
    down = signed_rank(np.array([0.0, 0, 1, 2, 3, -4]), list("abcdef"))
    assert down.correlation == pytest.approx((3 + 4 + 5 - 6) / 18)


def test_images_of_a_group_are_one_difference() -> None:
    found = signed_rank(np.array([0.5, -0.5, 0.1, 0.3]), ["a", "a", "b", "b"])
    assert found == signed_rank(np.array([0.0, 0.2]), ["a", "b"])
    assert found.groups == 2


def test_pooled_differences_of_several_classes_by_hand() -> None:
    classes = ("globules", "streaks")
    one = np.tile([[2.0, 2, 0, 4], [0, 0, 4, 4]], (6, 1, 1))
    other = np.tile([[2.0, 0, 0, 6], [4, 4, 0, 0]], (6, 1, 1))
    found = compare(
        *(result_of(name, own, classes=classes, protocols=["official"]) for name, own in (("A", one), ("B", other)))
    )
    metrics = found.differences["official"][ALL]
    assert metrics["micro_jaccard"].difference == Interval(6 / 10 - 2 / 8, 6 / 10 - 2 / 8, 6 / 10 - 2 / 8)
    assert metrics["jaccard_globules"].difference.mean == 0.5
    assert metrics["macro_jaccard"].difference.mean == pytest.approx((1 + 0.5) / 2 - (0.5 + 0) / 2)
    assert found.test is None
    assert found.winner == "B"
    assert found.verdict == "B is better than A: micro jaccard +0.350 [+0.350, +0.350]"


# --- what must hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocols", [("official", "pooled"), ("pooled",)])
def test_a_result_does_not_differ_from_itself(
    grouped: tuple[EvaluationResult, EvaluationResult], protocols: Sequence[ProtocolName]
) -> None:
    one = replace(grouped[0], protocols=tuple(each for each in grouped[0].protocols if each.name in protocols))
    found = compare(one, replace(one, name="copy"))
    for parts in found.differences.values():
        for metric in parts[ALL].values():
            assert metric.difference == Interval(0, 0, 0)
            assert metric.favours is None
            assert metric.images is None or (metric.images.equal, metric.images.median) == (40, 0)
    if "official" in protocols:
        assert found.test is not None
        assert (found.test.p_value, found.test.correlation) == (1, 0)
    assert found.winner is None
    assert found.verdict.startswith("no difference: ")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_exchanged_results_differ_by_the_sign(seed: int, images: int, lesions: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 1200, images)
    groups = [f"g{number}" for number in rng.integers(0, lesions, images)]
    one, other = (
        result_of(name, random_counts(seed + place, images, truth), groups) for place, name in enumerate("AB")
    )
    there, back = compare(one, other), compare(other, one)
    for name, parts in there.differences.items():
        for metric, found in parts[ALL].items():
            turned = back.differences[name][ALL][metric]
            assert turned.difference.mean == -found.difference.mean
            assert (turned.difference.low, turned.difference.high) == pytest.approx(
                (-found.difference.high, -found.difference.low), abs=1e-12
            )
            if found.images and turned.images:
                assert (turned.images.better, turned.images.worse) == (found.images.worse, found.images.better)
                assert turned.images.median == -found.images.median
    assert there.test is not None
    assert back.test is not None
    assert 0 <= there.test.p_value <= 1
    assert there.test.p_value == pytest.approx(back.test.p_value, abs=1e-12)
    assert {there.winner, back.winner} in ({None}, {"A", "B"})


def test_the_order_of_images_does_not_matter() -> None:
    one, other = (result_of(name, counts_of(np.linspace(0.5, last, 9))) for name, last in (("A", 0.8), ("B", 0.9)))
    turned = replace(other, images=other.images[::-1], content_hash="of another order")
    assert compare(one, turned).to_json().replace("of another order", "same") == compare(one, other).to_json()


# --- verdicts ----------------------------------------------------------------------------------------


def verdict_of(one: ArrayLike, other: ArrayLike) -> Comparison:
    return compare(result_of("A", counts_of(one)), result_of("B", counts_of(other)))


def test_a_clear_difference_has_a_winner() -> None:
    one = np.linspace(0.6, 0.9, 30)
    gain = np.resize([0.02, 0.04, 0.06], 30)
    found = verdict_of(one, one + gain)
    assert found.winner == "B"
    assert found.verdict.startswith("B is better than A: jaccard +0.040 [+0.0")
    assert found.verdict.endswith("p < 0.001 (Wilcoxon signed-rank test over 30 groups)")
    assert verdict_of(one + gain, one).verdict.startswith("B is worse than A: jaccard -0.040 [-0.0")


def test_without_a_difference_the_verdict_says_what_is_ruled_out() -> None:
    one = np.full(40, 0.7)
    found = verdict_of(one, one + np.resize([0.011, -0.011, -0.02, 0.021], 40))
    gain = found.decisive.gain
    assert gain.low < 0 < gain.high
    assert found.winner is None
    assert found.verdict.startswith("no difference is shown: jaccard +0.0")
    assert f"better by more than {gain.high:.3f} or worse by more than {-gain.low:.3f}" in found.verdict


def test_a_few_images_alone_make_no_winner() -> None:
    """The mean says B and the test does not: six images far better, the other 34 slightly worse."""
    one = np.full(40, 0.5)
    found = verdict_of(one, one + np.r_[np.linspace(0.4, 0.45, 6), np.linspace(-0.005, -0.02, 34)])
    assert found.decisive.favours == "B"
    assert found.winner is None
    assert found.verdict.startswith("B is better than A on average, which the signed-rank test does not bear out: ")


def test_most_images_alone_make_no_winner() -> None:
    """The test says B and the mean does not: two images far worse, the other 38 slightly better."""
    one = np.full(40, 0.6)
    found = verdict_of(one, one + np.r_[[-0.5, -0.4], np.linspace(0.01, 0.04, 38)])
    assert found.decisive.favours is None
    assert found.winner is None
    assert found.verdict.startswith("no difference of the mean is shown, though the signed-rank test favours B: ")


def test_few_groups_have_no_winner() -> None:
    few, enough = (np.linspace(0.6, 0.8, count) for count in (LEAST_GROUPS - 1, LEAST_GROUPS))
    found = verdict_of(few, few + 0.1)
    assert found.winner is None
    assert found.verdict.startswith("no verdict on 5 groups, which needs 6: ")
    assert verdict_of(enough, enough + 0.1).winner == "B"


def test_numbers_have_signs_and_no_negative_zero() -> None:
    assert signed(Interval(-0.0001, -0.02, 0.003)) == "+0.000 [-0.020, +0.003]"
    assert signed(Interval(float("nan"), float("nan"), float("nan"))) == "not defined"


# --- what cannot be compared -------------------------------------------------------------------------


def test_other_images_are_refused() -> None:
    one = result_of("A", {f"a{place:02}": [9, 1, 1, 9] for place in range(12)} | {"both": [9, 1, 1, 9]})
    other = result_of("B", {"both": [9, 1, 1, 9], "b": [9, 1, 1, 9]})
    with pytest.raises(InputError) as caught:
        compare(one, other)
    assert "only in A: 12 (a00, a01, a02, a03, a04, a05, a06, a07, a08, a09 and 2 more); only in B: 1 (b);" in str(
        caught.value
    )
    moved = replace(other, images=tuple(replace(image, source="ph2") for image in other.images))
    with pytest.raises(InputError, match=r"only in A: 2 \(both, b\); only in B: 2 \(both, b\)"):
        compare(other, moved)


def test_other_truths_are_refused() -> None:
    one, other = (result_of(name, counts_of(np.full(9, 0.8)), content_hash=name) for name in "AB")
    with pytest.raises(DataError, match="A and B were scored against different truths; score both on the same masks"):
        compare(one, other)
    counts = counts_of(np.full(9, 0.8))
    counts[4] = [800, 0, 300, 900]
    with pytest.raises(DataError, match=r"different truths of 1 \(i4\) images"):
        compare(one, result_of("B", counts))
    smaller = replace(one.images[0], size=(1, 1000))
    with pytest.raises(DataError, match=r"different truths of 1 \(i0\) images"):
        compare(one, replace(one, images=(smaller, *one.images[1:])))


def test_other_classes_or_no_protocol_in_common_are_refused() -> None:
    counts = counts_of(np.full(9, 0.8))
    one = result_of("A", counts, protocols=["official"])
    with pytest.raises(InputError, match="A shows lesion but B hair; compare what shows the same"):
        compare(one, result_of("B", counts, classes=("hair",)))
    with pytest.raises(InputError, match="no protocol in common that compares at one size; take the protocol official"):
        compare(one, result_of("B", counts, protocols=["pooled"]))


def test_protocols_at_different_sizes_are_not_compared() -> None:
    one = result_of("A", counts_of(np.linspace(0.5, 0.8, 9)))
    pooled = protocol_for("pooled", ("lesion",), 192)
    other = replace(one, protocols=(one.protocols[0], pooled))
    found = compare(one, other)
    assert [protocol.name for protocol in found.one.protocols] == ["official"]
    assert found.not_compared == ("pooled",)
    assert "Not compared, for A and B take them at different sizes: pooled" in str(found)


def failed(result: EvaluationResult, *ids: str) -> EvaluationResult:
    """A result as it would be had some images failed."""
    return replace(
        result,
        images=tuple(image for image in result.images if image.id not in ids),
        failures=tuple(Failure(id, "isic2017", "BrokenImageError", f"{id} is broken") for id in ids),
        content_hash=f"without {ids}",
    )


def test_images_without_a_score_are_left_out_and_named() -> None:
    one, other = (result_of(name, counts_of(np.linspace(0.5, last, 9))) for name, last in (("A", 0.8), ("B", 0.9)))
    found = compare(failed(one, "i0"), failed(other, "i3", "i0"))
    assert found.left_out == 2
    assert [image.id for image in found.one.images] == ["i1", "i2", "i4", "i5", "i6", "i7", "i8"]
    kept = [1, 2, 4, 5, 6, 7, 8]
    difference = np.linspace(0.5, 0.9, 9)[kept].mean() - np.linspace(0.5, 0.8, 9)[kept].mean()
    assert found.decisive.difference.mean == pytest.approx(difference, abs=1e-3)
    assert "has no score of them: 2 images.\nA: i0: i0 is broken\nB: i3: i3 is broken" in str(found)
    with pytest.raises(InputError, match="no image has a score of both A and B; i0: i0 is broken"):
        compare(failed(one, *(f"i{place}" for place in range(9))), other)


def ranked(name: str, probability: float, truth: bool) -> EvaluationResult:
    """Of images whose truth is everything or nothing, so that areas under curves are not defined."""
    protocols = tuple(protocol_for(protocol, ("lesion",), 64) for protocol in ("ranking", "official"))
    statistics = {
        "ranking": ranking.measure(np.full((8, 8), probability, np.float32), np.full((8, 8), truth))[None],
        "official": np.array([[64.0, 0, 0, 0] if truth else [0, 0, 0, 64.0]]),
    }
    metrics = dict.fromkeys(protocols[1].names, 1.0)
    images = tuple(ImageScore(f"i{n}", "plain", f"i{n}", (8, 8), statistics, metrics) for n in range(7))  # type: ignore[arg-type]
    return EvaluationResult(name, "DATA", SPLIT, protocols, images, content_hash="same")


def test_what_is_not_defined_is_said_to_be_so(drawn: Path, tmp_path: Path) -> None:
    found = compare(ranked("A", 0.9, True), ranked("B", 0.6, True))
    text = str(found)
    assert "nan" not in text.lower()
    assert re.search(r"auc_roc +not defined +not defined +not defined", text)
    assert found.verdict == "no verdict: auc roc is not defined on these images"
    _, (one, other), samples = compared(drawn)
    page = Page(report.write(found, tmp_path, predictors=(one, other), samples=samples, cases=0))
    assert not re.search(r"\bnan\b", page.text.lower())
    assert "– B − A, which is not defined on these images" in page.text
    assert "area under the ROC curve – – – –" in page.text
    defined = sum(each.defined for parts in found.differences.values() for each in parts[ALL].values())
    assert defined == 2 + 7
    assert f"Of {defined} metrics over all images" in page.text


def test_an_image_in_two_data_sets_is_compared_once() -> None:
    one, other = (result_of(name, counts_of(np.linspace(0.5, last, 9))) for name, last in (("A", 0.8), ("B", 0.9)))
    alone = compare(one, other)
    doubled = [
        replace(of, images=(*of.images, *(replace(image, source="ph2") for image in of.images[:4])))
        for of in (one, other)
    ]
    found = compare(doubled[0], doubled[1])
    assert found.test == alone.test
    assert found.decisive == alone.decisive
    assert "9 images of 9 groups" in str(found)
    assert list(found.differences["official"]) == ["isic2017", "ph2", ALL]
    assert len(found.files()["differences.csv"].splitlines()) == 1 + 13


# --- what is written -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sets() -> Comparison:
    one, other = np.linspace(0.5, 0.8, 16), np.linspace(0.55, 0.9, 16)
    sources = ["isic2017"] * 8 + ["ph2"] * 8
    return compare(
        result_of("first", counts_of(one), sources=sources), result_of("second", counts_of(other), sources=sources)
    )


def test_table(two_sets: Comparison) -> None:
    text = str(two_sets)
    assert text.startswith(
        "A  first, masks\nB  second, masks\non DATA, split test: 16 images of 16 groups\n\nB is better than A: "
    )
    table = text.split("official Task 1")[1].splitlines()
    assert table[2].split() == ["A", "B", "B", "−", "A", "favours", "better/equal/worse", "isic2017", "ph2"]
    row = table[3]
    assert row.split()[:4] == ["jaccard", "0.650", "0.725", "+0.075"]
    assert "16/0/0" in row
    assert "One test is made" in text


def test_json_holds_the_numbers(two_sets: Comparison) -> None:
    found = json.loads(two_sets.to_json())
    assert found["winner"] == "B"
    assert found["verdict"] == two_sets.verdict
    assert found["test"]["groups"] == 16
    assert (found["A"]["name"], found["B"]["name"]) == ("first", "second")
    assert list(found["protocols"]) == ["official", "pooled"]
    parts = found["protocols"]["official"]["differences"]
    assert {name: part["images"] for name, part in parts.items()} == {"isic2017": 8, "ph2": 8, "all": 16}
    jaccard = parts["all"]["metrics"]["jaccard"]
    assert jaccard["difference"]["mean"] == two_sets.decisive.difference.mean
    assert jaccard["images"] == {"better": 16, "equal": 0, "worse": 0, "median": two_sets.decisive.images.median}  # type: ignore[union-attr]
    assert found["protocols"]["pooled"]["differences"]["all"]["metrics"]["jaccard"]["images"] is None


def test_csv_keeps_every_digit(two_sets: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(two_sets.files()["differences.csv"].decode())))
    assert [row["id"] for row in rows] == [f"i{place}" for place in range(16)]
    for row, one, other in zip(rows, two_sets.one.images, two_sets.other.images, strict=True):
        assert float(row["jaccard_a"]) == one.metrics["jaccard"]
        assert float(row["jaccard_b"]) == other.metrics["jaccard"]
        assert float(row["jaccard_difference"]) == other.metrics["jaccard"] - one.metrics["jaccard"]
    assert "pooled_jaccard_a" not in rows[0]


# --- the page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data, `data`, and two of masks: `exact` as the truth, `moved` a few pixels to the side."""
    folder = tmp_path_factory.mktemp("drawn")
    for name in ("data/images", "data/masks", "exact", "moved"):
        (folder / name).mkdir(parents=True)
    for place in range(8):
        example = draw(place, (96, 128))
        (folder / "data" / "images" / f"a{place}.png").write_bytes(encode_image(example.pixels))
        for name, mask in (
            ("data/masks", example.mask),
            ("exact", example.mask),
            ("moved", np.roll(example.mask, 4 + place, 1)),
        ):
            (folder / name / f"a{place}.png").write_bytes(encode_mask(mask))
    return folder


def compared(
    folder: Path, names: tuple[str, str] = ("exact", "moved")
) -> tuple[Comparison, list[MaskFolder], list[Sample]]:
    samples = catalog.read(folder / "data")
    predictors = [MaskFolder(folder / name, samples, ("lesion",)) for name in ("exact", "moved")]
    results = [
        replace(
            evaluate(predictor, samples, data="drawn", split="all", protocols=("official", "pooled", "boundary")),
            name=name,
        )
        for predictor, name in zip(predictors, names, strict=True)
    ]
    return compare(*results), predictors, samples


@pytest.fixture(scope="module")
def written(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, (one, other), samples = compared(drawn, ("exact", HOSTILE))
    return report.write(found, tmp_path_factory.mktemp("page"), predictors=(one, other), samples=samples, cases=3)


def test_a_moved_mask_is_worse_with_certainty(drawn: Path) -> None:
    found, _, _ = compared(drawn)
    assert found.winner == "A"
    assert found.decisive.one == Interval(1, 1, 1)
    assert found.decisive.difference.high < -0.05
    assert found.test is not None
    assert found.test.p_value == 2 / 2**8
    for parts in found.differences.values():
        for name in parts[ALL].keys() - {"specificity"}:
            assert parts[ALL][name].favours == "A", name
    distance = found.differences["boundary"][ALL]["hausdorff"]
    assert not distance.higher_is_better
    assert distance.difference.low > 0
    assert distance.images is not None
    assert (distance.images.better, distance.images.worse) == (0, 8)


def test_the_page_shows_verdict_numbers_and_cases(written: Path) -> None:
    page = Page(written)
    for words in ("B is worse than A: jaccard -0.", "What stands out", "boundary f1", "pooled: compared at", "1.000"):
        assert words.casefold() in page.text.casefold()
    assert sum(cell.get("data-label") == "interval favours" for cell in page.all("td")) == 7 + 6 + 4
    assert "Where A is better" in page.text
    assert "Where B is better" not in page.text
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == 3 * 4
    assert [alt.partition(",")[0] for alt in alts[:4]] == ["Image", "Truth", "A", "B"]
    assert sorted(path.name[:3] for path in (written.parent / "A_better").iterdir()) == ["01_", "02_", "03_"]


def test_subgroups_compare_each_image_once() -> None:
    """Of images with a trait B is better by a tenth, of others worse; one of the former is in two data sets."""
    many = np.full(50, 0.8)
    change = np.where(np.arange(50) < 25, 0.1, -0.1)
    one, other = (
        result_of(name, counts_of([*shares, shares[0]]), sources=["isic2017"] * 50 + ["isic2018"])
        for name, shares in (("A", many), ("B", many + change))
    )
    results = []
    for result in (one, other):
        images = [
            replace(
                image,
                id=f"i{place % 50}",
                group=f"i{place % 50}",
                facts={"sex": "female" if place % 50 < 25 else "male"},
            )
            for place, image in enumerate(result.images)
        ]
        results.append(replace(result, images=tuple(images)))
    (section,) = report._subgroups(compare(*results))
    (table,) = section.tables
    assert [row[:3] for row in table.rows] == [["sex", "female", 25], ["sex", "male", 25]]
    assert [str(row[-1]) for row in table.rows] == ["B", "A"]


def test_the_page_stands_alone_and_escapes_names(written: Path) -> None:
    page = Page(written)
    assert HOSTILE in page.text
    anchors = {attributes.get("id") for _, attributes in page.elements}
    for link in (attributes["href"] for attributes in page.all("a")):
        assert link[1:] in anchors if link.startswith("#") else (written.parent / link).is_file(), link
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert not re.match(r"\s*(\w+:)?//", attributes.get(name, "")), attributes
    kinds = [cell.get("class") for cell in page.all("td") if cell.get("data-label") == "B − A"]
    assert len(kinds) > 10
    assert set(kinds) == {"n"}  # so that they sort as numbers
    names = {path.name for path in written.parent.iterdir()}
    assert {"compare.html", "comparison.json", "differences.csv", "differences.png", "scatter.png"} <= names


def test_a_page_without_cases_has_no_photograph(drawn: Path, tmp_path: Path) -> None:
    found, (one, other), samples = compared(drawn)
    page = Page(report.write(found, tmp_path, predictors=(one, other), samples=samples, cases=0))
    assert not [image for image in page.all("img") if "alt" in image]


# --- the command ---------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_writes_a_page(cli: Cli, drawn: Path, tmp_path: Path) -> None:
    done = cli("compare", drawn / "exact", drawn / "moved", "--data", drawn / "data", "--split", "all")
    assert done.returncode == 0, done.stderr
    assert f"A  {drawn / 'exact'}, masks\n" in done.stdout
    assert "B is worse than A: jaccard -0." in done.stdout
    names = {path.name for path in (tmp_path / "comparison").iterdir()}
    assert names >= {"compare.html", "comparison.json", "differences.csv"}
    again = cli("compare", drawn / "moved", drawn / "exact", "--data", drawn / "data", "--split", "all", "--no-report")
    assert f"note: {Path('comparison/compare.html')} is of an earlier scoring\n" in again.stderr
    assert (tmp_path / "comparison" / "compare.html").exists()


def test_the_command_compares_a_bundle_with_masks(drawn: Path, dark_bundle: Bundle, tmp_path: Path) -> None:
    options = ("--data", drawn / "data", "--split", "all", "--threshold-a", "0.4", "--no-report", "-o", tmp_path)
    done = run("compare", dark_bundle.path, drawn / "exact", *options)
    assert done.exit_code == 0, done.output
    assert f"A  {dark_bundle.path}, threshold 0.4\n" in done.output
    assert "take them at different sizes: pooled" in done.output
    document = json.loads((tmp_path / "comparison.json").read_text())
    assert list(document["protocols"]) == ["official", "boundary"]
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "differences.csv"}
    # Before the scoring, and so before anything is written.
    refused = run(
        "compare", dark_bundle.path, drawn / "exact", *options[:4], "--protocol", "pooled", "-o", tmp_path / "new"
    )
    assert (refused.exit_code, refused.output) == (
        1,
        "error: A and B have no protocol in common that compares at one size; take the protocol official\n",
    )
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_it_left_out(drawn: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(drawn / "moved", masks)
    (masks / "a3.png").write_bytes(encode_mask(np.ones((9, 9), np.bool_)))
    options = ("--data", drawn / "data", "--split", "all", "--protocol", "official", "--no-report", "-o", tmp_path)
    done = run("compare", drawn / "exact", masks, *options)
    assert done.exit_code == 1
    assert "7 images of 7 groups" in done.output
    assert re.search("Left out, for A or B has no score of them: 1 image.\nB: .*a3.png is 9 x 9 px", done.output)


def test_the_command_explains_what_it_cannot_compare(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "ISIC_0_attribute_streaks.png").write_bytes(b"")
    options = ("--data", drawn / "data", "--split", "all", "-o", tmp_path / "out")
    for other, message in (
        ("nothing", "error: there is no bundle"),
        (tmp_path, "error: A shows lesion but B pigment_network, "),
    ):
        done = run("compare", drawn / "exact", other, *options)
        assert done.exit_code == 1
        assert message in done.output
    assert run("compare", drawn / "exact", *options).exit_code == 2


def test_a_lower_threshold_finds_no_less_of_real_lesions(data_folder: Path) -> None:
    samples = splits.select(catalog.read(data_folder, ["isic2017"]), "test", splits.read())[:10]
    one, other = (
        evaluate(Model(Segmenter(threshold=threshold, threads=1)), samples, data="isic2017", split="test")
        for threshold in (0.6, 0.2)
    )
    sensitivity = compare(one, other).differences["official"][ALL]["sensitivity"]
    assert sensitivity.images is not None
    assert sensitivity.images.worse == 0
    assert sensitivity.favours == "B"
