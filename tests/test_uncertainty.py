"""Ensembles: the mean of bundles of several sizes, against one worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from scipy.ndimage import map_coordinates

from dermseg.bundle import ONNX, WEIGHTS, Bundle, write
from dermseg.errors import BrokenImageError, InputError
from dermseg.segmenter import Segmenter
from dermseg.uncertainty import Ensemble
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


# The mean


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
