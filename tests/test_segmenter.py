"""The segmenter: what it takes, what it gives, and how it behaves in a crowd."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dermseg import __version__, figures
from dermseg.bundle import Bundle
from dermseg.cli import main
from dermseg.cli.scoring import Chosen, Subject
from dermseg.cli.segment import Device
from dermseg.errors import BrokenImageError, DermsegError, InputError
from dermseg.imaging import Source, encode_image, read_mask
from dermseg.presence import Curve, PresenceModel, evidence
from dermseg.segmenter import OF_EACH_CLASS, OUTPUTS, Output, Prediction, Segmenter
from dermseg.synthetic import SyntheticImage, draw
from dermseg.synthetic import example as full_size_example
from tests.hostile import orientation_block, saved
from tests.service import two_classes

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def dark(dark_bundle: Bundle) -> Segmenter:
    """Finds what is darker than mid-grey, and pads with black."""
    return Segmenter(dark_bundle, threads=1)


@pytest.fixture(scope="module")
def views(dark_bundle: Bundle) -> Segmenter:
    """The same, of ten views of an image, so that it offers every output."""
    return Segmenter(dark_bundle, threads=1, tta=True)


@pytest.fixture(scope="module")
def lesion() -> Segmenter:
    """The shipped model."""
    return Segmenter(threads=1)


def spot(height: int, width: int, y: float = 0.5, x: float = 0.5, radius: float = 0.25) -> tuple[Pixels, Mask]:
    """A dark disc on light skin and its truth; lengths are shares of the sides, the radius of the shorter one."""
    rows, columns = np.ogrid[:height, :width]
    mask = (rows - y * (height - 1)) ** 2 + (columns - x * (width - 1)) ** 2 <= (radius * min(height, width)) ** 2
    return np.where(mask[..., None], np.uint8(30), np.array([230, 200, 190], np.uint8)), mask


def jaccard(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def grey(level: int, height: int, width: int) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def only(prediction: Prediction | DermsegError) -> Prediction:
    assert isinstance(prediction, Prediction), prediction
    return prediction


# What it takes


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "PIL", "array"])
def test_every_kind_of_source_gives_the_same(
    lesion: Segmenter, example: SyntheticImage, example_file: Path, kind: str
) -> None:
    sources: dict[str, Source] = {
        "path": example_file,
        "text": str(example_file),
        "bytes": example_file.read_bytes(),
        "PIL": Image.fromarray(example.pixels),
        "array": example.pixels,
    }
    expected = lesion(example.pixels)
    found = lesion(sources[kind])
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.mask, expected.mask)


def test_the_source_is_not_changed(dark: Segmenter) -> None:
    pixels, _ = spot(50, 70)
    before = pixels.copy()
    prediction = dark(pixels)
    prediction.overlay()
    np.testing.assert_array_equal(pixels, before)
    pixels[:] = 0
    assert prediction.overlay().max() > 100, "the photograph must be the caller's no more"


def test_a_grey_image_is_taken_as_its_colour_twin(dark: Segmenter) -> None:
    level = spot(40, 60)[0][..., 0]
    np.testing.assert_array_equal(dark(level).mask, dark(np.repeat(level[..., None], 3, axis=2)).mask)


def test_errors_of_images_reach_the_caller(dark: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match="<bytes> is empty"):
        dark(b"")
    with pytest.raises(InputError, match="does not exist"):
        dark(tmp_path / "none.png")
    with pytest.raises(InputError, match="image is int where"):
        dark(cast(Source, 7))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, 7, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(dark_bundle: Bundle, threshold: float) -> None:
    with pytest.raises(InputError) as caught:
        Segmenter(dark_bundle, threshold=threshold)
    assert str(caught.value) == f"the threshold is {threshold}; expected a probability between 0 and 1"


def test_the_limit_of_megapixels_holds(dark_bundle: Bundle) -> None:
    small = Segmenter(dark_bundle, max_megapixels=0.001)
    small(grey(0, 20, 50))
    with pytest.raises(DermsegError, match=r"at most 0\.001 megapixels"):
        small(grey(0, 20, 51))
    with pytest.raises(InputError, match="max_megapixels is 0; expected a number above 0"):
        Segmenter(dark_bundle, max_megapixels=0)


# The mask

SIZES = [(1, 1), (1, 2), (3, 2), (1, 500), (500, 1), (31, 47), (63, 64), (65, 64), (97, 301), (301, 97), (480, 640)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("level", [0, 255])
def test_padding_never_reaches_the_mask(dark: Segmenter, height: int, width: int, level: int) -> None:
    prediction = dark(grey(level, height, width))
    assert prediction.size == prediction.mask.shape == prediction.probability().shape == (height, width)
    assert prediction.mask.dtype == np.bool_
    assert (prediction.mask == (level == 0)).all()


@pytest.mark.parametrize(("height", "width"), [(801, 1203), (1207, 333), (531, 525)])
@pytest.mark.parametrize("level", [0, 255])
def test_padding_never_reaches_the_mask_of_a_reduced_jpeg(dark: Segmenter, height: int, width: int, level: int) -> None:
    prediction = dark(encode_image(grey(level, height, width), "JPEG"))
    assert prediction.mask.shape == (height, width)
    assert (prediction.mask == (level == 0)).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (90, 61), (97, 301), (333, 250), (601, 803), (1200, 1600)])
def test_the_mask_lies_on_the_lesion_at_any_size(dark: Segmenter, height: int, width: int, format: str) -> None:
    pixels, truth = spot(height, width, y=0.4, x=0.7)
    prediction = dark(encode_image(pixels, "JPEG" if format == "JPEG" else "PNG"))
    assert prediction.mask.shape == truth.shape
    assert jaccard(prediction.mask, truth) > (0.93 if min(height, width) > 97 else 0.85)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (31, 47), (200, 130)])
def test_the_shipped_model_takes_any_size(lesion: Segmenter, size: tuple[int, int]) -> None:
    prediction = lesion(spot(*size)[0])
    assert prediction.mask.shape == size
    assert np.isfinite(prediction.probabilities).all()


def test_the_mask_is_where_the_probability_exceeds_the_threshold(lesion: Segmenter, example: SyntheticImage) -> None:
    prediction = lesion(example.pixels)
    probability = prediction.probability()
    assert 0 <= probability.min() < probability.max() <= 1
    np.testing.assert_array_equal(prediction.mask, probability > np.float32(prediction.thresholds[0]))
    np.testing.assert_array_equal(prediction.mask, prediction.mask_of("lesion"))
    size = lesion.bundle.manifest.input_size
    assert prediction.probabilities.shape == (1, size, size)


def test_the_probability_is_the_networks(dark: Segmenter) -> None:
    # The network's logit of an even grey is -8 times its value in [-1, 1].
    prediction = dark(grey(160, 10, 10))
    expected = 1 / (1 + np.exp(8 * (160 / 127.5 - 1)))
    np.testing.assert_allclose(prediction.probability(), expected, rtol=1e-4)


def test_the_temperature_divides_the_logits(dark_bundle: Bundle) -> None:
    calibration = dark_bundle.manifest.calibration.model_copy(update={"temperature": 4.0})
    manifest = dark_bundle.manifest.model_copy(update={"calibration": calibration})
    warm = Segmenter(Bundle(dark_bundle.path, manifest))
    expected = 1 / (1 + np.exp(2 * (160 / 127.5 - 1)))
    np.testing.assert_allclose(warm(grey(160, 10, 10)).probability(), expected, rtol=1e-4)


def test_a_higher_threshold_gives_a_part_of_the_mask(lesion: Segmenter, example: SyntheticImage) -> None:
    thresholds = (0.02, 0.2, 0.5, 0.8, 0.98)
    masks = [Segmenter(lesion.bundle, threshold=t, threads=1)(example.pixels).mask for t in thresholds]
    for larger, smaller in itertools.pairwise(masks):
        assert (smaller <= larger).all()
    assert masks[0].sum() > masks[-1].sum()


def test_the_bundles_own_threshold_is_used_unless_another_is_given(dark_bundle: Bundle) -> None:
    assert Segmenter(dark_bundle)(grey(9, 4, 4)).thresholds == (0.5,)
    assert Segmenter(dark_bundle, threshold=0.3)(grey(9, 4, 4)).thresholds == (0.3,)


def test_the_mask_follows_the_lesion(dark: Segmenter) -> None:
    pixels, _ = spot(240, 320)
    mask = dark(pixels).mask
    for down, right in ((0, 10), (15, 0), (-30, 41)):
        moved = dark(np.roll(pixels, (down, right), axis=(0, 1))).mask
        assert jaccard(moved, np.roll(mask, (down, right), axis=(0, 1))) > 0.95


def test_an_unknown_class_is_named_with_the_known_ones(dark: Segmenter) -> None:
    with pytest.raises(InputError) as caught:
        dark(grey(0, 5, 5)).mask_of("naevus")
    assert str(caught.value) == "the bundle dark has no class 'naevus'; it has: lesion"


def test_the_shipped_model_finds_the_example(lesion: Segmenter) -> None:
    drawn = full_size_example()
    assert jaccard(lesion(drawn.pixels).mask, drawn.mask) > 0.7


# Orientation


@pytest.mark.parametrize(("value", "turn"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_the_mask_follows_the_orientation_asked_for(dark_bundle: Bundle, value: int, turn: int) -> None:
    pixels, truth = spot(90, 160, y=0.3, x=0.2)
    data = saved(Image.fromarray(pixels), "JPEG", quality=95, exif=orientation_block(value))
    upright, stored = (Segmenter(dark_bundle, orientation=o)(data) for o in ("upright", "stored"))
    assert jaccard(stored.mask, truth) > 0.9
    assert upright.mask.shape == np.rot90(truth, turn).shape
    assert jaccard(upright.mask, np.rot90(truth, turn)) > 0.9
    for prediction, name in ((upright, "upright"), (stored, "stored")):
        told = prediction.to_dict()
        assert (told["orientation"], told["exif_orientation"]) == (name, value)
        assert (told["height"], told["width"]) == prediction.mask.shape
        assert prediction.overlay(None).shape[:2] == prediction.mask.shape


# The same every time, from any thread


def test_it_is_deterministic(lesion: Segmenter, example: SyntheticImage) -> None:
    first = lesion(example.pixels)
    again = Segmenter(lesion.bundle, threads=1)(example.pixels)
    np.testing.assert_array_equal(lesion(example.pixels).probabilities, first.probabilities)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)


def test_eight_threads_get_what_one_gets(lesion: Segmenter) -> None:
    images = [spot(60 + 7 * i, 80 + 3 * i, x=0.2 + 0.07 * i)[0] for i in range(8)]
    alone = [lesion(image).probabilities for image in images]
    start = threading.Barrier(8, timeout=30)

    def work(image: Pixels) -> list[NDArray[np.float32]]:
        start.wait()
        return [lesion(image).probabilities for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for expected, found in zip(alone, pool.map(work, images), strict=True):
            for probabilities in found:
                np.testing.assert_array_equal(probabilities, expected)


# Several images at once, and other options of one network


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_gives_each_image_what_it_gets_alone(lesion: Segmenter, example: SyntheticImage, count: int) -> None:
    drawn = [draw(seed, (90 + 20 * seed, 130)).pixels for seed in range(count - 1)]
    images = [lesion.prepare(pixels) for pixels in (example.pixels, *drawn)]
    outcomes = lesion.run(images)
    for image, outcome in zip(images, outcomes, strict=True):
        alone, found = lesion.predict(image), lesion.conclude(image, outcome)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_array_equal(found.mask, alone.mask)
        assert found.embedding is not None
        assert alone.embedding is not None
        np.testing.assert_allclose(found.embedding, alone.embedding, rtol=1e-3, atol=1e-4)
        assert (found.size, found.photograph) == (alone.size, alone.photograph)
        # No view, which would keep the other images'.
        assert found.probabilities.base is None or found.probabilities.base.size == found.probabilities.size
        assert found.embedding.base is None


def test_several_views_of_several_images_are_each_images_own(dark_bundle: Bundle) -> None:
    model = Segmenter(dark_bundle, threads=1, tta=True)
    images = [model.prepare(spot(60, 60 + 20 * number)[0]) for number in range(3)]
    for image, outcome in zip(images, model.run(images), strict=True):
        assert outcome.samples.shape == (10, 1, 64, 64)
        np.testing.assert_array_equal(model.conclude(image, outcome).probabilities, model.predict(image).probabilities)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.2, "mm_per_pixel": 0.05},
    {"tta": True},
    {"mc_dropout": 2},
    {"mc_dropout": 3, "seed": 5, "tta": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_varied_segmenter_is_as_one_made_so(
    lesion: Segmenter, example: SyntheticImage, options: dict[str, Any]
) -> None:
    made, varied = Segmenter(threads=1, **options), lesion.varied(threshold=0.7, tta=True).varied(**options)
    one, other = made(example.pixels), varied(example.pixels)
    assert (varied.name, varied.thresholds, varied.bundle) == (made.name, made.thresholds, lesion.bundle)
    np.testing.assert_array_equal(other.probabilities, one.probabilities)
    assert other.to_dict() == one.to_dict()
    assert (lesion.name, lesion(example.pixels).uncertainty) == ("lesion", None), "the first one is as it was"


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"mc_dropout": 1},
        {"mc_dropout": 1001},
        {"seed": -1},
        {"seed": 2**64, "mc_dropout": 2},
        {"mm_per_pixel": 0.0},
    ],
    ids=str,
)
def test_what_the_class_refuses_cannot_be_varied_to(lesion: Segmenter, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as made:
        Segmenter(threads=1, **options)
    with pytest.raises(InputError) as varied:
        lesion.varied(**options)
    assert str(varied.value) == str(made.value)


def test_options_are_checked_before_a_bundle_is_looked_for() -> None:
    with pytest.raises(InputError, match="the threshold is 7; expected a probability between 0 and 1"):
        Segmenter("there is none", threshold=7)


def test_varying_costs_no_run_of_the_network(lesion: Segmenter) -> None:
    lesion.varied(mc_dropout=2)
    begun = time.process_time()
    for number in range(100):
        lesion.varied(threshold=0.3, tta=True, mc_dropout=2 + number, seed=number, mm_per_pixel=0.1)
    assert time.process_time() - begun < 0.2


# Streams


def dots(count: int | None = None) -> Iterator[Pixels]:
    """Images of growing width."""
    for number in itertools.count() if count is None else range(count):
        yield grey(0, 4, 10 + number)


def widths(results: list[Prediction | DermsegError]) -> list[int]:
    return [only(result).size[1] for result in results]


@pytest.mark.parametrize("workers", [1, 3, None])
def test_a_stream_keeps_the_order(dark: Segmenter, workers: int | None) -> None:
    def delay(source: Source, prediction: Prediction) -> None:
        time.sleep(0.02 * (prediction.size[1] % 3))  # so that they finish in another order

    results = list(dark.stream(dots(12), finish=delay, workers=workers))
    assert widths(results) == list(range(10, 22))


def test_a_stream_of_nothing_ends(dark: Segmenter) -> None:
    assert list(dark.stream([])) == []


def test_a_stream_gives_errors_in_place(dark: Segmenter, example_file: Path, tmp_path: Path) -> None:
    (broken := tmp_path / "broken.png").write_bytes(example_file.read_bytes()[:2000])
    sources: list[Source] = [example_file, tmp_path / "missing.png", example_file, broken, grey(0, 5, 5)]
    results = list(dark.stream(sources))
    assert [type(result) for result in results] == [Prediction, InputError, Prediction, BrokenImageError, Prediction]
    np.testing.assert_array_equal(only(results[0]).mask, dark(example_file).mask)


def test_finish_is_called_once_a_prediction_with_its_source(dark: Segmenter, tmp_path: Path) -> None:
    images, seen = list(dots(9)), []

    def finish(source: Source, prediction: Prediction) -> None:
        assert isinstance(source, np.ndarray)
        seen.append((source.shape[1], prediction.size[1], threading.current_thread() is threading.main_thread()))

    list(dark.stream([*images, tmp_path / "missing.png"], finish=finish, workers=3))
    assert sorted(seen) == [(width, width, False) for width in range(10, 19)]


def test_an_error_of_finish_stands_for_its_image(dark: Segmenter) -> None:
    def finish(source: Source, prediction: Prediction) -> None:
        if prediction.size[1] == 12:
            raise InputError("disk full")

    results = list(dark.stream(dots(5), finish=finish))
    assert isinstance(results[2], InputError)
    assert widths([result for result in results if result is not results[2]]) == [10, 11, 13, 14]


def test_a_bug_in_finish_is_not_swallowed(dark: Segmenter) -> None:
    before = set(threading.enumerate())

    def finish(source: Source, prediction: Prediction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(dark.stream(dots(5), finish=finish, workers=2))
    assert set(threading.enumerate()) <= before


def test_images_are_in_work_together(dark: Segmenter) -> None:
    meeting = threading.Barrier(3, timeout=30)  # three images must be in work for any to end
    results = list(dark.stream(dots(6), finish=lambda *_: meeting.wait(), workers=3))
    assert widths(results) == list(range(10, 16))


def test_a_stream_reads_no_further_ahead_than_it_works(dark: Segmenter) -> None:
    read = 0

    def counted() -> Iterator[Pixels]:
        nonlocal read
        for image in dots():
            read += 1
            yield image

    stream = dark.stream(counted(), workers=2)
    assert read == 0
    for taken in range(1, 30):
        next(stream)
        assert read <= taken + 2 * 2
    time.sleep(0.1)
    assert read <= 29 + 2 * 2
    stream.close()


def test_a_stream_closed_early_leaves_no_thread_and_no_work(dark: Segmenter) -> None:
    before, gate = set(threading.enumerate()), threading.Event()
    finished: list[int] = []

    def finish(source: Source, prediction: Prediction) -> None:
        if prediction.size[1] > 10:
            gate.wait(30)
        finished.append(prediction.size[1])

    stream = dark.stream(dots(), finish=finish, workers=2)
    next(stream)
    threading.Timer(0.5, gate.set).start()
    stream.close()
    assert set(finished) <= {10, 11, 12}, "what waited must not be begun"
    time.sleep(0.1)
    assert set(threading.enumerate()) <= before
    assert len(finished) <= 3


def test_an_error_of_the_sources_reaches_the_caller_and_leaves_no_thread(dark: Segmenter) -> None:
    before = set(threading.enumerate())

    def sources() -> Iterator[Pixels]:
        yield from dots(3)
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        list(dark.stream(sources(), workers=2))
    assert set(threading.enumerate()) <= before


# Files


def test_save_writes_the_named_files_and_no_other(views: Segmenter, example_file: Path, tmp_path: Path) -> None:
    prediction, folder = views(example_file), tmp_path / "deep" / "out"
    paths = prediction.save(folder, OUTPUTS)
    pictures = ("mask", "overlay", "result", "probability", "uncertainty")
    assert paths == [*(folder / f"lesion_{name}.png" for name in pictures), folder / "lesion.json"]
    assert sorted(folder.iterdir()) == sorted(paths)

    mask, overlay, result, probability, uncertainty, told = paths
    assert np.asarray(Image.open(uncertainty)).shape > (192, 2 * 256, 3)
    np.testing.assert_array_equal(read_mask(mask), prediction.mask)
    assert set(np.asarray(Image.open(mask)).flat) == {0, 255}
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), prediction.overlay())
    np.testing.assert_array_equal(np.asarray(Image.open(result)), prediction.side_by_side())
    levels = np.asarray(Image.open(probability))
    assert levels.shape == prediction.size
    assert np.abs(levels / 255 - prediction.probability()).max() <= 0.5 / 255 + 1e-6
    assert json.loads(told.read_text()) == prediction.to_dict()


@pytest.mark.parametrize("output", OUTPUTS)
def test_save_writes_one_output_alone_in_place_of_an_older_one(
    views: Segmenter, example_file: Path, tmp_path: Path, output: Output
) -> None:
    prediction = views(example_file)
    (path,) = prediction.save(tmp_path, [output], stem="a.b")
    assert list(tmp_path.iterdir()) == [path]
    fresh = path.read_bytes()
    path.write_bytes(b"old")
    prediction.save(tmp_path, [output], stem="a.b")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == fresh


@pytest.mark.parametrize(("kind", "stem"), [("bytes", "bytes"), ("array", "array"), ("PIL", "image")])
def test_what_has_no_name_is_saved_by_its_kind(
    dark: Segmenter, example: SyntheticImage, tmp_path: Path, kind: str, stem: str
) -> None:
    sources: dict[str, Source] = {
        "bytes": encode_image(example.pixels),
        "array": example.pixels,
        "PIL": Image.fromarray(example.pixels),
    }
    assert dark(sources[kind]).save(tmp_path, ["mask"]) == [tmp_path / f"{stem}_mask.png"]


def test_saving_where_a_file_stands_is_refused(dark: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    with pytest.raises(InputError) as caught:
        dark(grey(0, 5, 5)).save(tmp_path / "taken")
    assert str(caught.value) == f"{tmp_path}/taken cannot be made a folder (File exists); give another path"
    assert (tmp_path / "taken").read_bytes() == b"mine"


@pytest.mark.parametrize(("given", "named"), [(["mask", "masks"], "masks"), ([], ""), (["Mask"], "Mask")])
def test_an_unknown_output_is_named_with_the_known_ones(
    dark: Segmenter, tmp_path: Path, given: list[Output], named: str
) -> None:
    with pytest.raises(InputError) as caught:
        dark(grey(0, 5, 5)).save(tmp_path / "new", given)
    assert str(caught.value) == (
        f"there is no output {named!r}; choose from: mask, overlay, result, probability, uncertainty, json"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("bits", "mode"), [(8, "L"), (1, "1")])
def test_a_mask_has_the_bits_asked_for(dark: Segmenter, tmp_path: Path, bits: Literal[1, 8], mode: str) -> None:
    prediction = dark(grey(0, 5, 7))
    [path] = prediction.save(tmp_path, ["mask"], "x", mask_bits=bits)
    with Image.open(path) as image:
        assert image.mode == mode
    assert np.array_equal(read_mask(path), prediction.mask)


def test_an_unknown_orientation_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"^there is no orientation 'up'; choose from: upright, stored$"):
        Segmenter(orientation="up")  # type: ignore[arg-type]


# Pictures and values


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((700, 1500), 1024, (478, 1024)),
        ((1500, 700), 1024, (1024, 478)),
        ((30, 40), 1024, (30, 40)),
        ((700, 1500), None, (700, 1500)),
        ((1, 3000), 100, (1, 100)),
        ((1024, 1024), 1024, (1024, 1024)),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_the_overlay_is_no_longer_than_asked(
    dark: Segmenter, size: tuple[int, int], longest: int | None, expected: tuple[int, int], format: str
) -> None:
    data = encode_image(spot(*size)[0], "JPEG" if format == "JPEG" else "PNG")
    overlay = dark(data).overlay(longest)
    assert overlay.shape == (*expected, 3)
    assert overlay.dtype == np.uint8


def test_the_overlay_draws_this_mask(dark: Segmenter) -> None:
    pixels, truth = spot(300, 400, y=0.4, x=0.3)
    drawn = dark(pixels).overlay()
    inside = cv2.erode(truth.astype(np.uint8), np.ones((25, 25))).view(np.bool_)
    outside = cv2.dilate(truth.astype(np.uint8), np.ones((25, 25))) == 0
    np.testing.assert_array_equal(drawn[inside], pixels[inside])
    assert (drawn[outside] < pixels[outside]).all()


def test_to_dict_tells_what_the_mask_shows(dark: Segmenter, example_file: Path) -> None:
    prediction = dark(example_file)
    told = json.loads(json.dumps(prediction.to_dict()))
    rows, columns = np.nonzero(prediction.mask)
    assert prediction.measurements is not None
    assert told == {
        "image": "lesion.png",
        "width": 256,
        "height": 192,
        "orientation": "upright",
        "exif_orientation": 1,
        "bundle": "dark",
        "dermseg": __version__,
        "classes": [
            {
                "name": "lesion",
                "presence": None,
                "threshold": 0.5,
                "area_pixels": len(rows),
                "area_fraction": len(rows) / (192 * 256),
                "bounding_box": {
                    "x": columns.min(),
                    "y": rows.min(),
                    "width": columns.max() - columns.min() + 1,
                    "height": rows.max() - rows.min() + 1,
                },
            }
        ],
        "measurements": prediction.measurements.to_dict(),
        "quality": None,
        "uncertainty": None,
    }
    assert 1000 < len(rows) < 30_000


# Several classes


@pytest.fixture(scope="module")
def two(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """Finds what is dark and what is bright."""
    return Segmenter(two_classes(dark_bundle, tmp_path_factory.mktemp("bundles")), tta=True)


def test_of_several_classes_each_has_files_of_its_own(two: Segmenter, example_file: Path, tmp_path: Path) -> None:
    prediction = two(example_file)
    paths = prediction.save(tmp_path, OUTPUTS)
    each = [
        [f"lesion_lesion_{output}.png", f"lesion_bright_{output}.png"]
        if output in OF_EACH_CLASS
        else ["lesion.json" if output == "json" else f"lesion_{output}.png"]
        for output in OUTPUTS
    ]
    assert [path.name for path in paths] == [name for names in each for name in names]
    for name in ("lesion", "bright"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"lesion_{name}_mask.png"), prediction.mask_of(name))
        levels = np.asarray(Image.open(tmp_path / f"lesion_{name}_probability.png"))
        assert np.abs(levels / 255 - prediction.probability(name)).max() <= 0.5 / 255 + 1e-6
    assert (prediction.mask_of("lesion") != prediction.mask_of("bright")).any()
    first, other = (Image.open(tmp_path / f"lesion_{name}_uncertainty.png") for name in ("lesion", "bright"))
    assert (np.asarray(first) != np.asarray(other)).any()


def test_the_overlay_of_several_classes_shows_all(two: Segmenter, example_file: Path) -> None:
    prediction = two(example_file)
    masks = {name: prediction.mask_of(name) for name in ("lesion", "bright")}
    np.testing.assert_array_equal(prediction.overlay(), figures.structures(prediction.pixels, masks))
    np.testing.assert_array_equal(prediction.side_by_side(), figures.case(prediction.pixels, masks, {}, "two"))


def test_a_prediction_of_one_class_alone(two: Segmenter, example_file: Path) -> None:
    prediction = two(example_file)
    bright = prediction.only("bright")
    assert (bright.classes, bright.thresholds) == (("bright",), prediction.thresholds[1:])
    np.testing.assert_array_equal(bright.mask, prediction.mask_of("bright"))
    np.testing.assert_array_equal(bright.overlay(), figures.overlay(bright.pixels, bright.mask))
    told, of_all = bright.to_dict(), prediction.to_dict()
    assert told["classes"] == of_all["classes"][1:]
    assert told["uncertainty"]["classes"] == {"bright": of_all["uncertainty"]["classes"]["bright"]}
    assert bright.only("bright") is bright.only(None) is bright
    np.testing.assert_array_equal(prediction.only(None).mask, prediction.mask)
    with pytest.raises(InputError, match="the bundle two has no class 'dark'; it has: lesion, bright"):
        prediction.only("dark")
    with pytest.raises(InputError, match="the bundle two has no class 'lesion'; it has: bright"):
        bright.only("lesion")


@pytest.mark.parametrize("tta", [False, True])
def test_presence_is_told_by_the_bundles_curves(two: Segmenter, tta: bool) -> None:
    curves = {"bright": Curve(slope=0.5, bias=-1)}
    manifest = two.bundle.manifest.model_copy(update={"presence": PresenceModel(curves=curves)})
    segmenter = Segmenter(replace(two.bundle, manifest=manifest), tta=tta)
    prediction = segmenter(grey(255, 40, 60))
    logit = evidence(Segmenter(two.bundle)(grey(255, 40, 60)).probability("bright"))
    assert prediction.presence is not None
    assert list(prediction.presence) == ["bright"]
    assert prediction.presence["bright"] == pytest.approx(1 / (1 + np.exp(1 - logit / 2)), abs=1e-3)
    assert [told["presence"] for told in prediction.to_dict()["classes"]] == [None, prediction.presence["bright"]]
    assert two(grey(255, 40, 60)).presence is None
    if tta:  # the curve is of single predictions
        assert prediction.presence == Segmenter(segmenter.bundle)(grey(255, 40, 60)).presence
    dim = segmenter(grey(90, 40, 60)).presence
    assert dim is not None
    assert dim["bright"] < prediction.presence["bright"]


def test_an_empty_mask_has_no_box(dark: Segmenter) -> None:
    whole = dark(grey(255, 6, 8)).to_dict()
    assert whole["measurements"] is None
    (told,) = whole["classes"]
    assert (told["area_pixels"], told["area_fraction"], told["bounding_box"]) == (0, 0.0, None)


def test_every_output_of_an_empty_mask_can_be_written(views: Segmenter, tmp_path: Path) -> None:
    assert len(views(grey(255, 1, 3)).save(tmp_path, OUTPUTS)) == len(OUTPUTS)


def test_measurements_are_in_millimetres_where_the_pixels_are_known(dark_bundle: Bundle) -> None:
    pixels, truth = spot(100, 120)
    found = Segmenter(dark_bundle, mm_per_pixel=0.05)(pixels).to_dict()["measurements"]
    assert found["area_mm2"] == pytest.approx(found["area_pixels"] * 0.05**2)
    assert found["area_pixels"] == pytest.approx(truth.sum(), rel=0.1)
    plain = Segmenter(dark_bundle)(pixels).to_dict()["measurements"]
    assert (plain["area_pixels"], plain["area_mm2"]) == (found["area_pixels"], None)


@pytest.mark.parametrize("length", [0, -0.1, float("nan"), float("inf")])
def test_a_pixel_has_a_length(dark_bundle: Bundle, length: float) -> None:
    with pytest.raises(InputError) as caught:
        Segmenter(dark_bundle, mm_per_pixel=length)
    assert str(caught.value) == f"mm_per_pixel is {length}; expected a length of 0.000001 to 1000 millimetres"


# Several predictions of an image


def test_one_prediction_knows_no_uncertainty(dark: Segmenter, tmp_path: Path) -> None:
    prediction = dark(spot(50, 60)[0])
    assert prediction.uncertainty is None
    with pytest.raises(InputError) as caught:
        prediction.save(tmp_path / "new", ["mask", "uncertainty"])
    assert str(caught.value) == (
        "the output 'uncertainty' shows how several predictions of an image differ; ask for them with --tta, "
        "--mc-dropout or --ensemble, in Python with tta=True, mc_dropout=10 or an Ensemble"
    )
    assert not (tmp_path / "new").exists()


def test_the_mean_of_views_is_the_prediction(dark: Segmenter, views: Segmenter) -> None:
    pixels, truth = spot(200, 300, y=0.4, x=0.7)
    one, several = dark(pixels), views(pixels)
    assert (dark.name, views.name, several.bundle) == ("dark", "dark (tta)", "dark")
    # The network sees each pixel by itself: flips and turns change nothing, zooms little but at the lesion's edge.
    np.testing.assert_allclose(
        several.probabilities[:, 12:-12, 12:-12].mean(), one.probabilities[:, 12:-12, 12:-12].mean(), atol=0.01
    )
    assert jaccard(several.mask, truth) > 0.9
    assert several.uncertainty is not None
    assert several.uncertainty.samples == 10
    found, samples = views.sample(views.prepare(pixels))
    assert samples.shape == (10, 1, 64, 64)
    np.testing.assert_allclose(np.nanmean(samples, axis=0), found.probabilities, atol=1e-6)
    np.testing.assert_array_equal(samples[0], one.probabilities)


def test_uncertainty_is_told_of_the_image_and_of_the_outline(views: Segmenter) -> None:
    prediction = views(spot(200, 300)[0])
    told = json.loads(json.dumps(prediction.to_dict()))["uncertainty"]
    assert told["samples"] == 10
    entropy = told["classes"]["lesion"]["entropy"]
    assert prediction.uncertainty is not None
    rows = prediction.geometry.content
    assert entropy["image"] == pytest.approx(prediction.uncertainty.entropy[0][rows].mean(), rel=1e-5)
    assert entropy["border"] > 3 * entropy["image"]


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_views_make_the_shipped_model_follow_a_flip_exactly(example: SyntheticImage, axes: tuple[int, ...]) -> None:
    model = Segmenter(threads=1, tta=True)
    # Of the network's size: scaling is not the same from either side.
    size = model.bundle.manifest.input_size
    pixels = cv2.resize(example.pixels, (size, size)).astype(np.uint8)
    found, flipped = (model.sample(model.prepare(each)) for each in (pixels, np.flip(pixels, axes)))
    # Of the eight exact views the flipped image has the same ones, in another order.
    one, other = (samples[:8].mean(axis=0)[0] for _, samples in (found, flipped))
    np.testing.assert_allclose(other, np.flip(one, axes), atol=1e-4)
    sure = np.abs(one - found[0].thresholds[0]) > 2e-4
    masks = [mean > found[0].thresholds[0] for mean in (one, np.flip(other, axes))]
    np.testing.assert_array_equal(masks[0][sure], masks[1][sure])
    assert sure.mean() > 0.995
    # The two zooms are of this side only.
    assert np.abs(flipped[0].probabilities[0] - np.flip(found[0].probabilities[0], axes)).max() < 0.2
    assert jaccard(flipped[0].mask, np.flip(found[0].mask, axes)) > 0.97


def test_dropout_is_repeated_by_its_seed(example: SyntheticImage) -> None:
    first, same, other = (Segmenter(threads=1, mc_dropout=4, seed=seed) for seed in (7, 7, 8))
    found = first(example.pixels)
    first(spot(30, 40)[0])
    for again in (first(example.pixels), same(example.pixels)):
        np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert not np.array_equal(other(example.pixels).probabilities, found.probabilities)
    assert found.uncertainty is not None
    assert found.uncertainty.samples == 4
    assert 0 < found.uncertainty.standard_deviation.max() <= 0.5
    assert first.name == "lesion (mc dropout 4)"


def test_views_and_dropout_go_together(example: SyntheticImage) -> None:
    model = Segmenter(threads=1, tta=True, mc_dropout=2)
    prediction = model(example.pixels)
    assert prediction.uncertainty is not None
    assert prediction.uncertainty.samples == 20
    assert model.name == "lesion (tta, mc dropout 2)"
    assert jaccard(prediction.mask, Segmenter(threads=1)(example.pixels).mask) > 0.8


@pytest.mark.parametrize("count", [-1, 1, 1001])
def test_a_count_of_samples_is_none_or_several(dark_bundle: Bundle, count: int) -> None:
    with pytest.raises(InputError) as caught:
        Segmenter(dark_bundle, mc_dropout=count)
    assert str(caught.value) == f"mc_dropout is {count}; expected 0 for none, or 2 to 1000 samples"


def test_a_seed_is_no_negative_number(dark_bundle: Bundle) -> None:
    with pytest.raises(InputError) as caught:
        Segmenter(dark_bundle, seed=-1)
    assert str(caught.value) == "the seed is -1; expected 0 or more"


# What it costs

HEAVY = ("torch", "pandas", "matplotlib", "transformers", "lightning", "scipy", "kornia", "onnx")
RUN = """
import sys
from dermseg.cli import main
sys.argv[1:] = {arguments!r}
try:
    main()
except SystemExit as end:
    assert not end.code
"""
SHOW = f"""
import sys
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "code",
    [
        "import dermseg, dermseg.errors",
        RUN.format(arguments=["--help"]),
        RUN.format(arguments=["segment", "lesion.png", "--save", "mask,overlay,result,json"]),
        RUN.format(arguments=["segment", "lesion.png", "--tta", "--save", "uncertainty,json"]),
        RUN.format(arguments=["bundles"]),
    ],
    ids=["import", "help", "segment", "views", "bundles"],
)
def test_nothing_heavy_is_loaded_and_no_trace_is_left(code: str, example_file: Path, tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (work / "lesion.png").write_bytes(example_file.read_bytes())
    # ONNX Runtime's telemetry would keep its files here.
    (home := tmp_path / "home").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", code + SHOW],
        cwd=work,
        env={"TMPDIR": str(home), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert list(home.iterdir()) == []


# The command line

EVALUATE = ("evaluate", "--data", "data", "--split", "test")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("segment", "lesion.png", "--save", "uncertainty"),
            "the output 'uncertainty' shows how several predictions of an image differ; ask for them with --tta, "
            "--mc-dropout or --ensemble, in Python with tta=True, mc_dropout=10 or an Ensemble",
        ),
        (("segment", "lesion.png", "--mc-dropout", "1"), "mc_dropout is 1; expected 0 for none, or 2 to 1000 samples"),
        (("segment", "lesion.png", "--seed", "-3"), "the seed is -3; expected 0 or more"),
        (
            ("segment", "lesion.png", "--mm-per-pixel", "0"),
            "mm_per_pixel is 0.0; expected a length of 0.000001 to 1000 millimetres",
        ),
        (("segment", "lesion.png", "--ensemble", "lesion"), "an ensemble of 1 is none; give two bundles or more"),
        (
            (*EVALUATE, "--predictions", "masks", "--tta"),
            "masks are no network's samples; --tta and --mc-dropout go with bundles alone",
        ),
        (
            (*EVALUATE, "--record", "--mc-dropout", "5"),
            "--record keeps the scores of single predictions; it goes with neither --tta nor --mc-dropout",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    example_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lesion.png").write_bytes(example_file.read_bytes())
    monkeypatch.setattr(sys, "argv", ["dermseg", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lesion.png"]


def test_views_and_an_ensemble_from_the_command_line(
    example_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dark_bundle: Bundle
) -> None:
    bundles = f"lesion,{dark_bundle.path}"
    ways = {"views": ("--tta",), "both": ("--ensemble", bundles)}
    told = {}
    for name, options in ways.items():
        common = ("--save", "uncertainty,json", "--mm-per-pixel", "0.1", "--output", str(tmp_path / name))
        monkeypatch.setattr(sys, "argv", ["dermseg", "segment", str(example_file), *common, *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["lesion.json", "lesion_uncertainty.png"]
        told[name] = json.loads((tmp_path / name / "lesion.json").read_text())
    assert [told[name]["uncertainty"]["samples"] for name in ways] == [10, 2]
    assert [told[name]["bundle"] for name in ways] == ["lesion", "lesion + dark"]
    assert all(told[name]["measurements"]["mm_per_pixel"] == 0.1 for name in ways)


def test_scores_name_how_predictions_were_made() -> None:
    opened = Subject.of_bundles("lesion").open(Chosen([], [], [], "test", ""), Device.auto, None, tta=True)
    assert opened.name == "lesion (tta)"
    assert Subject.of_bundles("lesion").open(Chosen([], [], [], "test", ""), Device.auto, 0.4).name == "lesion"
