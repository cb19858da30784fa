"""Subgroups: facts of drawn pictures, gaps against a bootstrap by hand, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dermseg import subgroups
from dermseg.appearance import SKIN_TONES, skin_tone
from dermseg.data.catalog import ATTRIBUTES, Sample, read
from dermseg.evaluation import EvaluationResult
from dermseg.facts import HAIR, facts_of
from dermseg.imaging import encode_mask, open_image, read_mask
from dermseg.metrics import bootstrap_interval
from dermseg.protocols import ImageScore, Mask, protocol_for
from dermseg.subgroups import CLOSE, FEWEST_GROUPS, Factor, Level, remark
from dermseg.synthetic import draw

# --- facts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Seen:
    """A prediction of which facts take the photograph alone."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    classes: tuple[str, ...] = ("lesion",)

    def mask_of(self, name: str) -> Mask:
        raise AssertionError("facts are of the truth")


def sample(masks: Mapping[str, Path] | None = None, **metadata: str) -> Sample:
    return Sample("a", Path("a.jpg"), masks or {}, "a", "plain", "none", metadata=metadata)


def facts(
    truth: Mask | None, pixels: NDArray[np.uint8] | None = None, of: Sample | None = None
) -> dict[str, str | float]:
    """Facts of a drawn picture, or of other pixels, beside a true lesion."""
    picture = draw(3, (192, 256), hairs=0, bubbles=0, vignette=False, tone=0.1).pixels if pixels is None else pixels
    truths = {} if truth is None else {"lesion": truth}
    size = (picture.shape[0], picture.shape[1]) if truth is None else (truth.shape[0], truth.shape[1])
    return facts_of(of or sample(), Seen(picture, size), truths)


def box(top: int, left: int, height: int, width: int, size: tuple[int, int] = (100, 100)) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1, 1, "tiny"),
        (7, 7, "tiny"),
        (20, 24, "tiny"),
        (20, 25, "medium"),
        (50, 60, "medium"),
        (43, 70, "large"),
        (98, 98, "large"),
    ],
)
def test_the_size_of_a_lesion_is_its_share_of_the_image(height: int, width: int, size: str) -> None:
    found = facts(box(1, 1, height, width))
    assert found["lesion_fraction"] == pytest.approx(height * width / 10_000, abs=1e-12)
    assert (found["lesion_size"], found["touches_border"]) == (size, "no")


@pytest.mark.parametrize(("top", "left"), [(0, 40), (90, 40), (40, 0), (40, 90)])
def test_a_lesion_on_any_edge_touches_it(top: int, left: int) -> None:
    assert facts(box(top, left, 10, 10))["touches_border"] == "yes"


def test_an_empty_truth_has_no_size() -> None:
    found = facts(np.zeros((192, 256), np.bool_))
    assert found["lesion_fraction"] == 0
    assert not {"lesion_size", "touches_border"} & found.keys()
    assert {"skin_tone_estimated", "ita_estimated"} <= found.keys()


def test_without_a_mask_of_the_lesion_nothing_is_said_of_it_or_the_skin() -> None:
    assert facts(None).keys() == {"hair_estimated", "hair_fraction_estimated", "ruler_estimated"}


def test_of_structures_the_mask_of_the_lesion_is_read_where_it_can_be(tmp_path: Path) -> None:
    drawn = draw(3, (192, 256))
    path = tmp_path / "lesion.png"
    seen = Seen(drawn.pixels, (192, 256), ATTRIBUTES)
    truths = {name: box(0, 0, 5, 5, (192, 256)) for name in ATTRIBUTES}
    path.write_bytes(encode_mask(drawn.mask))
    assert facts_of(sample({"lesion": path}), seen, truths) == facts(drawn.mask, drawn.pixels)
    without = facts_of(sample(), seen, truths)
    path.write_bytes(encode_mask(drawn.mask[1:]))
    assert facts_of(sample({"lesion": path}), seen, truths) == without
    path.write_bytes(b"no picture")
    assert facts_of(sample({"lesion": path}), seen, truths) == without


@pytest.mark.parametrize("tone", [0.0, 0.3, 1.0])
def test_skin_tone_is_that_of_the_skin_beside_the_lesion(tone: float) -> None:
    drawn = draw(5, (192, 256), hairs=0, bubbles=0, tone=tone)
    expected = skin_tone(drawn.pixels, drawn.mask)
    assert expected is not None
    found = facts(drawn.mask, drawn.pixels)
    assert (found["skin_tone_estimated"], found["ita_estimated"]) == (expected.name, expected.ita)


def test_the_photograph_may_be_smaller_than_the_truth() -> None:
    drawn = draw(5, (384, 512), hairs=0, bubbles=0, tone=0.1)
    small = cv2.resize(drawn.pixels, (256, 192), interpolation=cv2.INTER_AREA).astype(np.uint8)
    whole, reduced = (facts_of(sample(), Seen(p, (384, 512)), {"lesion": drawn.mask}) for p in (drawn.pixels, small))
    assert isinstance(whole["ita_estimated"], float)
    assert reduced["ita_estimated"] == pytest.approx(whole["ita_estimated"], abs=0.5)
    about = {"ita_estimated": 0, "hair_fraction_estimated": 0}
    assert reduced | about == whole | about


def test_hair_is_told_by_its_share() -> None:
    found = [
        facts(None, draw(8, (192, 256), hairs=hairs, bubbles=0, vignette=False, tone=0.1).pixels)
        for hairs in (0, 4, 40)
    ]
    assert [one["hair_estimated"] for one in found] == ["none", "some", "much"]
    shares = [one["hair_fraction_estimated"] for one in found]
    assert shares == sorted(shares, key=float)


def test_a_ruler_is_told() -> None:
    pixels = np.full((256, 256, 3), (220, 170, 150), np.uint8)
    assert facts(None, pixels)["ruler_estimated"] == "no"
    for place in range(40, 220, 12):
        pixels[200:216, place : place + 2] = 20
    assert facts(None, pixels)["ruler_estimated"] == "yes"


@pytest.mark.parametrize(
    ("age", "band"),
    [("0", "under 30"), ("29.9", "under 30"), ("30", "30 to 49"), ("50.0", "50 to 69"), ("70", "70 and over")],
)
def test_ages_are_taken_in_bands(age: str, band: str) -> None:
    found = facts(None, of=sample(age=age, sex="male", site="back", diagnosis="nevus"))
    assert {name: found[name] for name in ("age", "age_years", "sex", "site", "diagnosis")} == {
        "age": band,
        "age_years": float(age),
        "sex": "male",
        "site": "back",
        "diagnosis": "nevus",
    }


def test_facts_of_real_images(data_folder: Path) -> None:
    for one in read(data_folder / "ham10000", ["ham10000"])[:5]:
        pixels, truth = open_image(one.image).pixels(), read_mask(one.masks["lesion"])
        found = facts(truth, pixels, one)
        assert found["lesion_fraction"] == np.count_nonzero(truth) / truth.size
        assert found["diagnosis"] == one.metadata["diagnosis"]
        assert found["hair_estimated"] in HAIR


# --- gaps ----------------------------------------------------------------------------------------

ONE, TWO = ("lesion",), ("globules", "streaks")


def image(
    number: int,
    counts: object,
    known: Mapping[str, str | float],
    *,
    classes: int = 1,
    group: str | None = None,
    source: str = "plain",
) -> ImageScore:
    statistics = np.asarray(counts, np.float64).reshape(classes, 4)
    return ImageScore(str(number), source, group or str(number), (8, 8), {"official": statistics}, {}, known)


def of_jaccard(number: int, jaccard: float, group: str | None = None, **known: str) -> ImageScore:
    return image(number, (jaccard, 1 - jaccard, 0, 9), known, group=group)


def result(images: list[ImageScore], classes: tuple[str, ...] = ONE) -> EvaluationResult:
    return EvaluationResult("x", "drawn", "test", (protocol_for("official", classes, 64),), tuple(images))


def only(images: list[ImageScore], classes: tuple[str, ...] = ONE) -> Factor:
    (factor,) = subgroups.subgroups(result(images, classes))
    return factor


def levels(factor: Factor) -> dict[str, Level]:
    return {level.name: level for level in factor.levels}


Counts = NDArray[np.float64]


def mean_jaccard(counts: Counts) -> float:
    """Of (n, 1, 4)."""
    return float((counts[:, 0, 0] / counts[:, 0, :3].sum(axis=1)).mean())


def micro_jaccard(counts: Counts) -> float:
    """Of (n, K, 4)."""
    return float(counts[..., 0].sum() / counts[..., :3].sum())


@pytest.mark.parametrize(("classes", "metric"), [(ONE, mean_jaccard), (TWO, micro_jaccard)])
def test_a_gap_is_that_of_a_bootstrap_by_hand(classes: tuple[str, ...], metric: Callable[[Counts], float]) -> None:
    rng = np.random.default_rng(3)
    counts, sex = rng.uniform(0.1, 1, (120, len(classes), 4)), rng.choice(["f", "m", "x"], 120)
    images = [image(n, counts[n], {"sex": str(sex[n])}, classes=len(classes), group=str(n // 2)) for n in range(120)]
    draws = np.random.default_rng(0).integers(60, size=(2000, 60))  # of pairs of images
    found = levels(only(images, classes))
    assert found.keys() == {"f", "m", "x"}
    for name, level in found.items():

        def gap(drawn: NDArray[np.int64], name: str = name) -> float:
            inside = sex[drawn] == name
            return metric(counts[drawn[inside]]) - metric(counts[drawn[~inside]])

        ends = np.quantile([gap(np.concatenate([2 * pairs, 2 * pairs + 1])) for pairs in draws], [0.025, 0.975])
        assert level.gap.mean == pytest.approx(gap(np.arange(120)), abs=1e-12)
        assert (level.gap.low, level.gap.high) == pytest.approx(tuple(ends), abs=1e-12)


def test_the_metric_of_a_level_is_that_of_its_images() -> None:
    rng = np.random.default_rng(4)
    values = rng.uniform(0.3, 1, 90)
    images = [of_jaccard(n, value, str(n // 3), sex="fm"[n % 2]) for n, value in enumerate(values)]
    for name, level in levels(only(images)).items():
        own = [one for one in images if one.facts["sex"] == name]
        scores = np.array([mean_jaccard(np.asarray(one.statistics["official"][None], np.float64)) for one in own])
        assert astuple(level.metric) == pytest.approx(astuple(bootstrap_interval(scores, [one.group for one in own])))
        assert (level.images, level.groups) == (45, 30)


def test_images_of_which_a_fact_is_not_known_count_nowhere() -> None:
    rng = np.random.default_rng(5)
    known = [of_jaccard(n, rng.uniform(0.3, 1), sex="fm"[n % 2]) for n in range(60)]
    more = [of_jaccard(n, 0.0) for n in range(60, 99)]
    assert only([*known, *more]) == only(known)


def scattered(
    count: int, gap: float, spread: float, share: float = 0.3, seed: int = 6, group: int = 1
) -> list[ImageScore]:
    """Images of which a share is tiny and scores worse by a gap."""
    rng = np.random.default_rng(seed)
    tiny = np.arange(count) < share * count
    values = np.clip(0.8 - gap * tiny + spread * rng.standard_normal(count), 0, 1)
    return [
        of_jaccard(n, value, str(n // group), lesion_size="tiny" if tiny[n] else "medium")
        for n, value in enumerate(values)
    ]


def test_a_gap_that_is_there_is_shown() -> None:
    factor = only(scattered(400, 0.06, 0.05, group=2))
    tiny, medium = factor.levels
    assert (tiny.name, tiny.verdict, medium.verdict) == ("tiny", "shown", "shown")
    assert tiny.gap.low < -0.06 < tiny.gap.high < 0
    assert (medium.gap.mean, medium.gap.low, medium.gap.high) == pytest.approx(
        (-tiny.gap.mean, -tiny.gap.high, -tiny.gap.low)
    )
    low, mean, high = -tiny.gap.high, -tiny.gap.mean, -tiny.gap.low
    assert tiny.sentence == (
        f"Jaccard is {mean:.3f} [{low:.3f}, {high:.3f}] lower on tiny lesions (120 images of 60 lesions or patients, "
        "280 others) than on the others."
    )
    assert "higher on medium lesions (280 images of 140 lesions or patients, 120 others)" in medium.sentence
    assert factor.summary == f"lesion size: {tiny.sentence}"


def test_where_there_is_no_gap_a_large_one_is_unlikely() -> None:
    tiny, _ = only(scattered(1000, 0.0, 0.05)).levels
    reach = max(-tiny.gap.low, tiny.gap.high)
    assert tiny.verdict == "unlikely"
    assert reach <= CLOSE
    assert tiny.sentence == (
        f"Jaccard shows no gap on tiny lesions (300 images, 700 others); one above {reach:.3f} is unlikely."
    )


def test_few_scattered_images_cannot_tell() -> None:
    tiny, _ = only(scattered(80, 0.0, 0.2)).levels
    assert tiny.verdict == "unclear"
    assert tiny.sentence == (
        "Too few images to tell whether Jaccard differs on tiny lesions (24 images, 56 others): the gap's interval "
        f"reaches from {tiny.gap.low:.3f} to {tiny.gap.high:.3f}."
    )


@pytest.mark.parametrize("few", ["tiny", "medium"])
def test_of_fewer_groups_nothing_is_claimed_however_large_the_gap(few: str) -> None:
    most = "medium" if few == "tiny" else "tiny"

    def found(groups: int) -> Factor:
        small = [of_jaccard(n, 0.1, f"few {n % groups}", lesion_size=few) for n in range(60)]
        large = [of_jaccard(n, 0.9 + 0.001 * (n % 5), lesion_size=most) for n in range(60, 200)]
        return only([*small, *large])

    factor = found(FEWEST_GROUPS - 1)
    assert {level.verdict for level in factor.levels} == {"unclear"}
    assert all(math.isnan(level.gap.mean) and str(level.gap) == "not defined" for level in factor.levels)
    assert levels(factor)[few].sentence == (
        f"Too few images to tell whether Jaccard differs on {few} lesions (60 images of 19 lesions or patients, 140 "
        "others)."
    )
    assert factor.compared == ()
    assert factor.summary == f"lesion size: Too few images of {few} (60 of 19 lesions or patients) to compare."
    assert remark([factor]) == "No subgroup is large enough to compare."
    assert {level.verdict for level in found(FEWEST_GROUPS).levels} == {"shown"}


def toned(**counts: int) -> list[ImageScore]:
    tones = [tone.replace("_", " ") for tone, of in counts.items() for _ in range(of)]
    return [of_jaccard(n, 0.5 + 0.01 * (n % 7), skin_tone_estimated=tone) for n, tone in enumerate(tones)]


def test_levels_too_small_to_compare_are_named() -> None:
    factor = only(toned(light=60, intermediate=40, brown=12, dark=8))
    assert [level.name for level in factor.compared] == ["light", "intermediate"]
    assert factor.too_few == "Too few images of brown (12), dark (8) to compare."
    assert factor.summary.startswith("skin tone, estimated from uncalibrated images: ")
    assert factor.summary.endswith(f". {factor.too_few}")
    assert only(toned(light=60, brown=20)).too_few == ""
    sites = only(every(99, "site", tuple("abcdefghi")))
    assert sites.too_few == "Too few images of a (11), b (11), c (11), d (11), e (11), f (11) and 3 more to compare."


def test_a_handful_has_a_mean_and_no_interval() -> None:
    images = [replace(one, group=f"{one.group}, {n % 5}") for n, one in enumerate(toned(light=40, dark=6, brown=5))]
    brown, dark = (levels(only(images))[name].metric for name in ("brown", "dark"))
    assert dark.low < dark.mean < dark.high
    assert 0.5 < brown.mean < 0.6
    assert math.isnan(brown.low)
    assert math.isnan(brown.high)


def test_the_whole_is_that_of_images_of_which_the_fact_is_known() -> None:
    known = [of_jaccard(n, 0.8 if n % 2 else 0.6, sex="fm"[n % 2]) for n in range(60)]
    factor = only([*known, *(of_jaccard(n, 0.0) for n in range(60, 99))])
    assert factor.images == 60
    assert factor.whole == pytest.approx(0.7)


def test_an_image_in_two_data_sets_counts_once() -> None:
    images = [of_jaccard(n, 0.5 + 0.01 * (n % 7), sex="fm"[n % 2]) for n in range(60)]
    alone = only(images)
    again = [replace(one, source="later") for one in images[:20]]
    assert only([*images, *again]) == alone
    others = [replace(one, source="later") for one in images[40:]]
    source = subgroups.subgroups(result([*images[:40], *others, *again]))[0]
    assert source.title == "data set, of images in several the first"
    assert {level.name: level.images for level in source.levels} == {"plain": 40, "later": 20}


def test_a_gap_of_task_2_is_named_so() -> None:
    rng = np.random.default_rng(7)
    images = []
    for n in range(200):
        worse = n % 2
        counts = rng.uniform(0.4, 0.5, (2, 4)) * (1, 1 + worse, 1 + worse, 1)
        images.append(image(n, counts, {"hair_estimated": "much" if worse else "none"}, classes=2))
    none, much = only(images, TWO).levels
    assert much.sentence.startswith("Micro Jaccard is 0.13")
    assert "lower on images with much hair (100 images, 100 others)" in much.sentence
    assert "higher on images with no hair" in none.sentence


# --- factors and levels --------------------------------------------------------------------------


def every(number: int, name: str, values: tuple[str, ...]) -> list[ImageScore]:
    """Images whose values go around in the order given, the first ones once more often."""
    return [of_jaccard(n, 0.5 + 0.01 * (n % 7), **{name: values[n % len(values)]}) for n in range(number)]


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("lesion_size", ("tiny", "medium", "large")),
        ("touches_border", ("yes", "no")),
        ("skin_tone_estimated", SKIN_TONES),
        ("hair_estimated", ("none", "some", "much")),
        ("ruler_estimated", ("yes", "no")),
        ("age", ("under 30", "30 to 49", "50 to 69", "70 and over")),
    ],
)
def test_levels_come_in_their_natural_order_whichever_are_frequent(name: str, order: tuple[str, ...]) -> None:
    assert tuple(levels(only(every(50, name, order[::-1])))) == order


@pytest.mark.parametrize("name", ["diagnosis", "sex", "site"])
def test_other_levels_come_from_the_most_images_to_the_fewest(name: str) -> None:
    assert list(levels(only(every(8, name, ("c", "b", "a"))))) == ["b", "c", "a"]


def test_data_sets_are_a_factor_and_what_all_images_share_is_none() -> None:
    known: dict[str, str | float] = {"ruler_estimated": "no", "ita_estimated": 40.0}
    images = [image(n, (1, 1, 0, 1), known, source="isic2017" if n % 3 else "ham10000") for n in range(90)]
    factor = only(images)
    assert (factor.name, factor.title) == ("source", "data set")
    assert "on images of isic2017 (60 images, 30 others)" in levels(factor)["isic2017"].sentence


def test_without_images_there_are_no_subgroups() -> None:
    assert subgroups.subgroups(result([])) == ()
    assert remark(()) == "No subgroup is large enough to compare."


def test_skin_tone_is_always_called_an_estimate() -> None:
    factor = only(every(90, "skin_tone_estimated", ("light", "dark")))
    words = [factor.title, *(level.sentence for level in factor.levels)]
    assert all("estimated from uncalibrated images" in text for text in words)
    assert not any("fitzpatrick" in text.lower() for text in words)


def test_many_comparisons_at_once_are_remarked_on() -> None:
    sizes = scattered(400, 0.06, 0.05)
    images = [
        replace(one, facts={**one.facts, "site": "abc"[n % 3], "sex": "fm"[n % 2]}) for n, one in enumerate(sizes)
    ]
    factors = subgroups.subgroups(result(images))
    assert [len(factor.compared) for factor in factors] == [1, 1, 3]  # two levels are one comparison
    shown = sum(level.verdict == "shown" for factor in factors for level in factor.compared)
    assert remark(factors) == (
        "Of 5 comparisons, about 0.2 (5 %) would seem to show a gap by chance alone, somewhat more where subgroups are "
        f"small; {shown} {'does' if shown == 1 else 'do'}."
    )


def test_chance_alone_seldom_shows_a_gap() -> None:
    """About one comparison in twenty, of 60 images and more."""
    verdicts = [only(scattered(140, 0.0, 0.05, share=0.45, seed=seed)).levels[0].verdict for seed in range(40)]
    assert verdicts.count("shown") <= 7  # of 40 at 5 %, more with a chance of 0.1 %
