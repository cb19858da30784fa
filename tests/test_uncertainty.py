"""Uncertainty of samples, how views and dropout make them, and ensembles, against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.stats import entropy as scipy_entropy

from dermseg import figures
from dermseg.bundle import Bundle, write
from dermseg.ensemble import Ensemble
from dermseg.errors import BrokenImageError, InputError
from dermseg.imaging import Source
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.segmenter import Prediction, Segmenter
from dermseg.uncertainty import TRANSFORMS, Mode, Transform, Uncertainty, augmented, dropout, mean
from tests.hostile import orientation_block, saved

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
DARK, RED, BLUE = (-8 / 3, -8 / 3, -8 / 3), (8.0, 0.0, 0.0), (0.0, 0.0, 8.0)


def linear_bundle(
    folder: Path,
    like: Bundle,
    size: int,
    weights: Sequence[tuple[float, float, float]] = (DARK,),
    classes: Sequence[str] = ("lesion",),
    thresholds: Sequence[float] = (0.5,),
) -> Bundle:
    """A bundle whose logits are weighted sums of each pixel's colours, which are in [-1, 1]; named as its folder."""
    kernel = onnx.numpy_helper.from_array(np.array(weights, np.float32)[..., None, None], "weight")
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, size, size))
        for name, channels in (("image", 3), ("logits", len(classes)))
    )
    graph = helper.make_graph([helper.make_node("Conv", ["image", "weight"], ["logits"])], "linear", [image], [logits])
    graph.initializer.append(kernel)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    changes = {
        "name": folder.name,
        "classes": tuple(classes),
        "input_size": size,
        "thresholds": dict(zip(classes, thresholds, strict=True)),
    }
    manifest = like.manifest.model_copy(update=changes)
    return write(folder, manifest, {ONNX: model.SerializeToString(), WEIGHTS: b"unused"})


@pytest.fixture(scope="module")
def pair(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Segmenter]:
    """Two bundles of one class: the larger one sees what is dark, the smaller one what is not red."""
    folder = tmp_path_factory.mktemp("bundles")
    dark = linear_bundle(folder / "dark", dark_bundle, 64, thresholds=(0.6,))
    pale = linear_bundle(folder / "pale", dark_bundle, 37, [(-3.0, 0.0, 0.0)], thresholds=(0.3,))
    return Segmenter(dark, threads=1), Segmenter(pale, threads=1)


def spot(height: int, width: int) -> tuple[Pixels, Mask]:
    """A dark ellipse, towards the upper right, on skin whose colour changes from left to right; and its truth."""
    rows, columns = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    mask = ((rows - 0.35) / 0.2) ** 2 + ((columns - 0.7) / 0.15) ** 2 < 1
    skin = np.stack([250 - 60 * columns, 190 + 40 * rows, np.full((height, width), 170)], axis=2)
    return np.where(mask[..., None], 25, skin).astype(np.uint8), mask


def enlarged(field: NDArray[np.float32], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear between the centres of pixels, as SciPy takes it."""
    rows = (np.arange(height) + 0.5) * field.shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * field.shape[1] / width - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.asarray(map_coordinates(field.astype(np.float64), grid, order=1, mode="nearest"))


def content(probabilities: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The part of a square that an image of another shape takes."""
    size = probabilities.shape[-1]
    rows, columns = (round(side * size / max(height, width)) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return probabilities[:, top : top + rows, left : left + columns]


# Uncertainty of samples

SHAPE = (2, 4, 4)


def samples_strategy(most: int = 6) -> st.SearchStrategy[NDArray[np.float32]]:
    return st.integers(1, most).flatmap(lambda n: arrays(np.float32, (n, *SHAPE), elements=st.floats(0, 1, width=32)))


@settings(max_examples=60, deadline=None)
@given(samples=samples_strategy())
def test_uncertainty_is_in_its_ranges_and_that_of_scipy(samples: NDArray[np.float32]) -> None:
    found = Uncertainty.of(samples)
    assert found.samples == len(samples)
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= found.entropy).all()
    assert (found.entropy <= 1).all()
    assert (found.standard_deviation >= 0).all()
    assert (found.standard_deviation <= 0.5).all()
    exact = samples.astype(np.float64)
    whole = scipy_entropy([exact.mean(axis=0), 1 - exact.mean(axis=0)], base=2, axis=0)
    each = scipy_entropy([exact, 1 - exact], base=2, axis=0).mean(axis=0)
    np.testing.assert_allclose(found.entropy, whole, atol=1e-6)
    np.testing.assert_allclose(found.mutual_information, whole - each, atol=1e-6)
    np.testing.assert_allclose(found.standard_deviation, exact.std(axis=0), atol=1e-6)
    np.testing.assert_allclose(mean(samples), exact.mean(axis=0), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(one=arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)), count=st.integers(1, 12))
def test_equal_samples_do_not_differ(one: NDArray[np.float32], count: int) -> None:
    found = Uncertainty.of(np.stack([one] * count))
    assert not found.standard_deviation.any()
    assert found.mutual_information.max() < 1e-6
    np.testing.assert_array_equal(mean(np.stack([one] * count)), one)


def test_bits_of_cases_worked_out_by_hand() -> None:
    samples = np.array([[0, 0.5, 0.9, 0.25], [1, 0.5, 0.9, 0.75]], np.float32).reshape(2, 1, 2, 2)
    found = Uncertainty.of(samples)
    np.testing.assert_allclose(found.entropy.ravel(), [1, 1, 0.4689956, 1], atol=1e-6)
    np.testing.assert_allclose(found.mutual_information.ravel(), [1, 0, 0, 1 - 0.8112781], atol=1e-6)
    np.testing.assert_allclose(found.standard_deviation.ravel(), [0.5, 0, 0, 0.25], atol=1e-7)


def test_a_pixel_is_of_the_samples_that_reach_it() -> None:
    samples = np.full((3, 1, 2, 2), 0.2, np.float32)
    samples[1], samples[2] = 0.6, 1.0
    samples[0, 0, 0, 0] = samples[2, 0, 0, 1] = np.nan
    found, within = Uncertainty.of(samples), Uncertainty.of(samples[1:, :, :1, :1])
    assert mean(samples)[0, 0].tolist() == pytest.approx([0.8, 0.4])
    assert found.standard_deviation[0, 0].tolist() == pytest.approx([0.2, 0.2])
    assert found.entropy[0, 0, 0] == within.entropy[0, 0, 0]
    assert found.mutual_information[0, 0, 0] == within.mutual_information[0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(samples=samples_strategy(4), data=st.data(), unit=st.floats(1e-3, 1e3))
def test_a_weight_counts_as_so_many_equal_samples(
    samples: NDArray[np.float32], data: st.DataObject, unit: float
) -> None:
    counts = data.draw(st.lists(st.integers(1, 4), min_size=len(samples), max_size=len(samples)))
    repeated = np.repeat(samples, counts, axis=0)
    weights = [unit * count for count in counts]
    one, other = Uncertainty.of(samples, weights), Uncertainty.of(repeated)
    for name in ("standard_deviation", "entropy", "mutual_information"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-6)
    modes: tuple[Mode, ...] = ("probability", "logit")
    for mode in modes:
        np.testing.assert_allclose(mean(samples, weights, mode), mean(repeated, None, mode), atol=2e-6)


def test_the_mean_of_logits_is_that_of_log_odds() -> None:
    samples = np.array([0.2, 0.9, 0.5], np.float32).reshape(3, 1, 1, 1)
    odds = (0.25 * 9 * 1) ** (1 / 3)
    assert mean(samples, mode="logit").item() == pytest.approx(odds / (1 + odds), abs=1e-6)
    sure = np.array([1.0, 0.0], np.float32).reshape(2, 1, 1, 1)
    assert mean(sure, mode="logit").item() == pytest.approx(0.5, abs=1e-6)


def test_the_summary_tells_the_image_and_its_outline_apart() -> None:
    mask = np.zeros((1, 128, 128), np.bool_)
    mask[0, 40:80, 30:90] = True
    rows, columns = np.mgrid[:128, :128]
    # The distance to the rectangle's outline, along the axes.
    inside = np.minimum(np.minimum(rows - 39, 80 - rows), np.minimum(columns - 29, 90 - columns))
    line = abs(inside - 0.5) < 1
    sure = Uncertainty(5, *(np.where(line, value, 0).astype(np.float32)[None] for value in (0.4, 0.8, 0.2)))
    [told] = sure.summary(mask, (slice(16, 112), slice(0, 128)))
    assert list(told) == ["standard_deviation", "entropy", "mutual_information"]
    length = 2 * (40 + 60) - 4 + 2 * (42 + 62) - 4
    assert told["entropy"]["image"] == pytest.approx(0.8 * length / (96 * 128), rel=1e-5)
    # Of a band of two pixels to either side the two middle ones.
    assert 0.4 < told["entropy"]["border"] / 0.8 < 0.6
    assert told["mutual_information"]["border"] == pytest.approx(told["entropy"]["border"] / 4)
    [empty] = sure.summary(~mask & mask, (slice(0, 128), slice(0, 128)))
    assert empty["entropy"]["border"] is None


# Test-time augmentation


def shape(size: int) -> NDArray[np.float32]:
    """An image without any symmetry, (3, S, S), smooth and in [0, 1]."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    bar = np.exp(-(((rows - 0.3) / 0.1) ** 2) - ((columns - 0.6) / 0.2) ** 2)
    hook = np.maximum(bar, 0.5 * np.exp(-(((rows - 0.7) / 0.2) ** 2) - ((columns - 0.2) / 0.1) ** 2))
    return np.stack([hook, rows * columns, rows]).astype(np.float32)


def first_channel(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """A predictor that answers with what it sees, (B, 1, 1, S, S)."""
    return images[:, None, :1].copy()


@pytest.mark.parametrize("size", [64, 65])
def test_exact_views_are_undone_exactly(size: int) -> None:
    image = shape(size)
    views = TRANSFORMS[:8]
    seen = {view.apply(image, (0, 0, 0)).tobytes() for view in views}
    assert len(seen) == 8, "all differ"
    assert len({(view.mirrored, view.turns) for view in views}) == 8
    for view in views:
        np.testing.assert_array_equal(view.invert(view.apply(image, (0, 0, 0))), image)
    samples = augmented(first_channel, (0, 0, 0), views)(image[None])
    assert samples.shape == (1, 8, 1, size, size)
    np.testing.assert_array_equal(samples[0], np.stack([image[:1]] * 8))


def test_views_are_those_of_their_names() -> None:
    image = shape(9)
    np.testing.assert_array_equal(Transform(mirrored=True).apply(image, (0, 0, 0)), np.flip(image, axis=2))
    np.testing.assert_array_equal(Transform(turns=1).apply(image, (0, 0, 0)), np.flip(image.swapaxes(1, 2), axis=1))


@pytest.mark.parametrize("zoom", [0.8, 1.25])
@pytest.mark.parametrize("size", [96, 97])
def test_zooms_are_undone_where_they_reach(zoom: float, size: int) -> None:
    image = shape(size)
    view = Transform(zoom=zoom)
    found = view.invert(view.apply(image, (7, 7, 7)))
    middle = (size - 1) / 2
    distance = np.maximum(*np.abs(np.mgrid[:size, :size] - middle))
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(distance * zoom > middle, found.shape))
    inner = (slice(None), *[slice(3, -3)] * 2) if zoom < 1 else ~np.isnan(found)
    np.testing.assert_allclose(found[inner], image[inner], atol=0.02)


def test_a_zoom_is_about_the_centre_and_pads_each_channel() -> None:
    size, image = 101, np.zeros((3, 101, 101), np.float32)
    image[:, 70, 30] = 1
    small = Transform(zoom=0.8).apply(image, (-1, 0, 0.5))
    np.testing.assert_array_equal(small[:, 0, 0], [-1, 0, 0.5])
    np.testing.assert_array_equal(small[:, 50, 50], [0, 0, 0])
    large = Transform(zoom=1.25).apply(image, (0, 0, 0))
    spots = [divmod(int(np.argmax(each[1])), size) for each in (small, large)]
    assert spots == [(66, 34), (75, 25)]


def test_views_go_to_the_engine_in_one_batch_and_come_back_to_their_images() -> None:
    calls = []

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(images.shape)
        return np.stack([images[:, :1], images[:, :1] / 2], axis=1)

    images = np.stack([shape(32), 1 - shape(32)])
    samples = augmented(predict, (0, 0, 0))(images)
    assert calls == [(20, 3, 32, 32)]
    assert samples.shape == (2, 20, 1, 32, 32)
    for image, found in zip(images, samples, strict=True):
        for place, sample in enumerate(found[:16]):
            np.testing.assert_array_equal(sample, image[:1] / (1 + place % 2))


# Dropout


def noise(image: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """A sampler of logits: the image's first channel under noise."""
    noise = np.random.default_rng(seed).normal(size=(count, 1, 1, 1))
    return (image[:1] + noise).astype(np.float32)


def test_dropout_is_the_sigmoid_of_the_samplers_logits() -> None:
    image = shape(8)
    predict = dropout(noise, np.full((1, 1, 1), 2, np.float32), 50, 3)
    [samples] = predict(image[None])
    assert samples.shape == (50, 1, 8, 8)
    spread = np.log(samples / (1 - samples)) * 2 - image[:1]
    np.testing.assert_allclose(spread, np.broadcast_to(spread[:, :, :1, :1], spread.shape), atol=1e-4)
    assert 0.5 < spread.std() < 1.5
    np.testing.assert_array_equal(predict(image[None])[0], samples)
    assert not np.array_equal(dropout(noise, 2.0, 50, 4)(image[None])[0], samples)


def test_views_are_sampled_each_with_its_own_masks() -> None:
    image = np.zeros((3, 8, 8), np.float32)
    [samples] = augmented(dropout(noise, 1.0, 3, 0), (0, 0, 0), TRANSFORMS[:8])(image[None])
    assert samples.shape == (24, 1, 8, 8)
    assert len(np.unique(samples[:, 0, 0, 0])) == 24


# Ensembles: the mean


@pytest.mark.parametrize(("height", "width"), [(90, 160), (171, 83), (64, 64), (41, 300)])
@pytest.mark.parametrize("weights", [None, (3, 1)])
def test_the_mean_is_that_worked_out_by_hand(
    pair: tuple[Segmenter, Segmenter], height: int, width: int, weights: tuple[float, float] | None
) -> None:
    pixels, truth = spot(height, width)
    prediction = Ensemble(pair, weights=weights)(pixels)
    large, small = (content(segmenter(pixels).probabilities, height, width)[0] for segmenter in pair)
    share = 0.5 if weights is None else 0.75
    expected = share * large + (1 - share) * enlarged(small, *large.shape)
    assert prediction.probabilities.shape == (1, 64, 64)
    np.testing.assert_allclose(content(prediction.probabilities, height, width)[0], expected, atol=2e-6)
    assert prediction.probabilities.sum() == pytest.approx(expected.sum(), rel=1e-5), "it is 0 around the image"
    assert prediction.mask.shape == truth.shape
    assert (prediction.mask & truth).sum() / (prediction.mask | truth).sum() > 0.85


def test_the_order_of_members_changes_no_mask(pair: tuple[Segmenter, Segmenter]) -> None:
    pixels, _ = spot(90, 160)
    one, other = Ensemble(pair)(pixels), Ensemble(pair[::-1])(pixels)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.mask, other.mask)


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("size", [(90, 160), (171, 83)])
def test_one_bundle_several_times_is_the_bundle(
    pair: tuple[Segmenter, Segmenter], size: tuple[int, int], times: int
) -> None:
    pixels, _ = spot(*size)
    alone, together = pair[0](pixels), Ensemble([pair[0]] * times)(pixels)
    np.testing.assert_array_equal(content(together.probabilities, *size), content(alone.probabilities, *size))
    np.testing.assert_array_equal(together.mask, alone.mask)
    assert together.thresholds == alone.thresholds


def test_a_prediction_is_of_the_ensemble(pair: tuple[Segmenter, Segmenter], example_file: Path) -> None:
    ensemble = Ensemble(pair)
    prediction = ensemble(example_file)
    assert ensemble.name == prediction.bundle == "dark + pale"
    assert ensemble.classes == prediction.classes == ("lesion",)
    assert ensemble.input_size == prediction.geometry.canvas == 64
    assert ensemble.thresholds == prediction.thresholds == (0.45,)
    told = prediction.to_dict()
    assert (told["image"], told["bundle"], told["classes"][0]["threshold"]) == ("lesion.png", ensemble.name, 0.45)
    assert prediction.overlay().shape == (192, 256, 3)


def test_classes_are_joined_by_name_in_the_first_ones_order(dark_bundle: Bundle, tmp_path: Path) -> None:
    names = ("streaks", "globules", "pigment_network")
    first = linear_bundle(tmp_path / "first", dark_bundle, 24, (RED, BLUE, DARK), names, (0.2, 0.4, 0.6))
    second = linear_bundle(
        tmp_path / "second",
        dark_bundle,
        40,
        (DARK, RED, BLUE),
        ("pigment_network", "streaks", "globules"),
        (0.8, 0.6, 0.2),
    )
    segmenters = [Segmenter(bundle, threads=1) for bundle in (first, second)]
    pixels, _ = spot(60, 90)
    ensemble = Ensemble(segmenters)
    prediction = ensemble(pixels)
    assert prediction.classes == names
    assert prediction.thresholds == pytest.approx((0.4, 0.3, 0.7))
    one, other = (segmenter(pixels) for segmenter in segmenters)
    for place, name in enumerate(names):
        small = content(one.probabilities, 60, 90)[place]
        large = content(other.probabilities, 60, 90)[other.classes.index(name)]
        expected = (enlarged(small, *large.shape) + large) / 2
        np.testing.assert_allclose(content(prediction.probabilities, 60, 90)[place], expected, atol=2e-6)


# Several predictions of each member


@pytest.fixture
def sampled(pair: tuple[Segmenter, Segmenter]) -> tuple[Segmenter, Segmenter]:
    return Segmenter(pair[0].bundle, threads=1, tta=True), pair[1]


def test_an_ensemble_tells_how_its_members_differ(pair: tuple[Segmenter, Segmenter]) -> None:
    pixels, _ = spot(90, 160)
    found = Ensemble(pair, weights=(3, 1))(pixels).uncertainty
    assert found is not None
    assert found.samples == 2
    large, small = (content(segmenter(pixels).probabilities, 90, 160)[0] for segmenter in pair)
    apart = np.abs(large - enlarged(small, *large.shape))
    np.testing.assert_allclose(content(found.standard_deviation, 90, 160)[0], apart * np.sqrt(3) / 4, atol=2e-6)
    assert found.entropy.shape == (1, 64, 64)
    assert not found.entropy[:, :10].any(), "it is 0 around the image"


def test_a_member_of_several_samples_has_one_members_weight(sampled: tuple[Segmenter, Segmenter]) -> None:
    pixels, _ = spot(64, 64)
    ensemble = Ensemble(sampled)
    prediction = ensemble(pixels)
    assert ensemble.name == prediction.bundle == "dark (tta) + pale"
    assert prediction.uncertainty is not None
    assert prediction.uncertainty.samples == 11
    each = [segmenter(pixels) for segmenter in sampled]
    expected = (each[0].probabilities[0] + enlarged(each[1].probabilities[0], 64, 64)) / 2
    middle = slice(8, -8)  # which the closest view reaches
    np.testing.assert_allclose(prediction.probabilities[0][middle, middle], expected[middle, middle], atol=2e-6)


def test_the_mean_of_logits(pair: tuple[Segmenter, Segmenter]) -> None:
    pixels, _ = spot(64, 64)
    found = Ensemble(pair, mode="logit", weights=(1, 3))(pixels).probabilities[0].astype(np.float64)
    large, small = (segmenter(pixels).probabilities[0] for segmenter in pair)
    odds = [np.clip(p, 1e-6, 1 - 1e-6) / (1 - np.clip(p, 1e-6, 1 - 1e-6)) for p in (large, enlarged(small, 64, 64))]
    together = odds[0] ** 0.25 * odds[1] ** 0.75
    np.testing.assert_allclose(found, together / (1 + together), atol=1e-5)
    with pytest.raises(InputError) as caught:
        Ensemble(pair, mode="vote")  # type: ignore[arg-type]
    assert str(caught.value) == "there is no mode 'vote' of an ensemble; choose from: probability, logit"


def test_an_ensemble_streams_in_order(pair: tuple[Segmenter, Segmenter], tmp_path: Path) -> None:
    sources: list[Source] = [spot(40, 50)[0], tmp_path / "none.png", spot(50, 40)[0]]
    sizes: list[tuple[int, int]] = []
    one, error, other = Ensemble(pair).stream(sources, finish=lambda _, found: sizes.append(found.size), workers=1)
    assert isinstance(one, Prediction)
    assert isinstance(error, InputError)
    assert isinstance(other, Prediction)
    assert [one.size, other.size] == sizes == [(40, 50), (50, 40)]


# Thresholds


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(1e-3, 1e3)), min_size=2, max_size=4),
    unit=st.floats(1e-3, 1e3),
)
def test_the_threshold_is_a_weighted_mean(
    pair: tuple[Segmenter, Segmenter], members: list[tuple[float, float]], unit: float
) -> None:
    thresholds, weights = zip(*members, strict=True)
    segmenters = [Segmenter(pair[0].bundle, threshold=threshold, threads=1) for threshold in thresholds]
    (mean,) = Ensemble(segmenters, weights=weights).thresholds
    assert mean == pytest.approx(np.average(thresholds, weights=weights))
    assert min(thresholds) <= mean <= max(thresholds)
    (scaled,) = Ensemble(segmenters, weights=[unit * weight for weight in weights]).thresholds
    assert scaled == pytest.approx(mean)
    (same,) = Ensemble([segmenters[0]] * len(weights), weights=weights).thresholds
    assert same == thresholds[0]


def test_a_threshold_that_is_given_is_that_of_each_class(pair: tuple[Segmenter, Segmenter]) -> None:
    pixels, _ = spot(90, 160)
    ensemble = Ensemble(pair, threshold=0.2)
    assert ensemble.thresholds == ensemble(pixels).thresholds == (0.2,)
    assert ensemble(pixels).mask.sum() > Ensemble(pair, threshold=0.9)(pixels).mask.sum()


# What it refuses


def test_other_classes_are_refused_with_both_lists(
    pair: tuple[Segmenter, Segmenter], dark_bundle: Bundle, tmp_path: Path
) -> None:
    several = linear_bundle(tmp_path / "two", dark_bundle, 16, (RED, BLUE), ("lesion", "hair"), (0.5, 0.5))
    with pytest.raises(InputError) as caught:
        Ensemble([pair[0], Segmenter(several)])
    assert str(caught.value) == "dark finds lesion, but two lesion, hair; expected bundles of the same classes"


@pytest.mark.parametrize("count", [0, 1])
def test_an_ensemble_has_two_members_at_least(pair: tuple[Segmenter, Segmenter], count: int) -> None:
    with pytest.raises(InputError) as caught:
        Ensemble(pair[:count])
    assert str(caught.value) == f"an ensemble of {count} is none; give two bundles or more"


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (1, 0), (1, -1), (1, float("inf")), (float("nan"), 1)])
def test_weights_are_numbers_above_0_one_a_member(
    pair: tuple[Segmenter, Segmenter], weights: tuple[float, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        Ensemble(pair, weights=weights)
    assert str(caught.value) == f"the weights are {tuple(map(float, weights))}; expected 2 numbers above 0"


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 7, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(pair: tuple[Segmenter, Segmenter], threshold: float) -> None:
    with pytest.raises(InputError) as caught:
        Ensemble(pair, threshold=threshold)
    assert str(caught.value) == f"the threshold is {threshold}; expected a probability between 0 and 1"


def test_members_turn_a_photograph_alike(pair: tuple[Segmenter, Segmenter]) -> None:
    pixels, truth = spot(90, 160)
    data = saved(Image.fromarray(pixels), "JPEG", quality=95, exif=orientation_block(3))
    bundles = [segmenter.bundle for segmenter in pair]
    upright = Ensemble([Segmenter(bundle, threads=1) for bundle in bundles])(data)
    turned = truth[::-1, ::-1]
    assert (upright.mask & turned).sum() / (upright.mask | turned).sum() > 0.85
    mixed = Ensemble([Segmenter(bundles[0], threads=1), Segmenter(bundles[1], orientation="stored", threads=1)])
    with pytest.raises(InputError) as caught:
        mixed(data)
    assert str(caught.value) == "bundles were opened with orientation stored and upright; choose one"


def test_errors_of_images_reach_the_caller(pair: tuple[Segmenter, Segmenter], tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match="<bytes> is empty"):
        Ensemble(pair)(b"")
    with pytest.raises(InputError, match="does not exist"):
        Ensemble(pair)(tmp_path / "none.png")


def test_threads_get_what_one_gets(pair: tuple[Segmenter, Segmenter]) -> None:
    ensemble = Ensemble(pair, weights=(2, 1))
    images = [spot(60 + 11 * i, 150 - 9 * i)[0] for i in range(8)]
    alone = [ensemble(image).probabilities for image in images]
    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone * 4, pool.map(ensemble, images * 4), strict=True):
            np.testing.assert_array_equal(found.probabilities, expected)


# The picture


@pytest.mark.parametrize("highest", [0.1, 1.0])
def test_a_picture_has_one_scale_for_all_images(highest: float) -> None:
    pixels, mask = spot(120, 400)  # wider than its caption
    entropy = np.full(mask.shape, 0.1, np.float32)
    entropy[:20] = highest
    drawn = figures.uncertainty(pixels, mask, entropy)
    gap = figures.GAP
    panel = drawn[gap : gap + 120, 2 * gap + 400 :][:, :400]
    ramp = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round()
    # As given, whatever else is in the map; the colours to a step of OpenCV's rounding.
    for row, value in ((60, 0.1), (5, highest)):
        wanted = ramp[round(value * 255 + 0.5 - 1e-6) if value < 1 else 255]
        assert np.abs(panel[row, 80].astype(int) - wanted).max() <= 3
    np.testing.assert_array_equal(drawn[gap + 50, gap + 5], pixels[50, 5])
    bar = drawn[gap : gap + 120, -gap - 60 :].reshape(-1, 3)
    for end in (ramp[0], ramp[255]):
        assert (np.abs(bar.astype(int) - end).max(axis=1) <= 1).any(), "it reaches from 0 to 1 bit"


def test_a_map_of_another_size_is_refused() -> None:
    pixels, mask = spot(20, 30)
    with pytest.raises(InputError) as caught:
        figures.uncertainty(pixels, mask, np.zeros((30, 20), np.float32))
    assert str(caught.value) == "The map has the shape (30, 20), the mask (20, 30)."
