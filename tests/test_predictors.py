"""What can be scored: bundles, ensembles, and another tool's masks, with all that can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isic_challenge_scoring import SegmentationScore
from PIL import Image

from dermseg import synthetic
from dermseg.bundle import Bundle
from dermseg.data import catalog
from dermseg.data.catalog import ATTRIBUTES, LESION, LESION_SUFFIXES, Sample
from dermseg.errors import BrokenImageError, DataError, InputError, PredictionSizeError, PredictionValuesError
from dermseg.evaluation import ALL, EvaluationResult, Predictor, evaluate
from dermseg.imaging import encode_image, encode_mask, open_image, read_mask
from dermseg.predictors import Ensemble, MaskFolder, Model
from dermseg.segmenter import OUTPUTS, Segmenter
from tests.hostile import orientation_block, saved
from tests.service import two_classes

SIZE = (6, 8)
LESIONS = "ID.png or ID_lesion.png or ID_segmentation.png or ID_mask.png"
SUFFIXES = ".bmp, .png, .tif, .tiff"


def sample(id: str, folder: Path = Path(), classes: Iterable[str] = (LESION,)) -> Sample:
    """Of a user's own data; its image and masks need not exist."""
    stem = id.rpartition("/")[2]
    masks = {name: folder / "truth" / f"{stem}_{name}.png" for name in classes}
    return Sample(id, folder / "images" / f"{stem}.png", masks, id, "plain", "not stated")


def samples(count: int) -> list[Sample]:
    return [sample(f"ISIC_{number:07d}") for number in range(1, count + 1)]


def write_samples(
    folder: Path, count: int, classes: Sequence[str] = (LESION,), size: tuple[int, int] = SIZE
) -> list[Sample]:
    """Noise, each with a random mask of each class."""
    rng = np.random.default_rng(count)
    found = [sample(f"ISIC_{number:07d}", folder, classes) for number in range(1, count + 1)]
    for name in ("images", "truth"):
        (folder / name).mkdir()
    for one in found:
        one.image.write_bytes(encode_image(rng.integers(0, 256, (*size, 3), np.uint8)))
        for path in one.masks.values():
            path.write_bytes(encode_mask(rng.random(size) > 0.5))
    return found


def write_names(folder: Path, *names: str) -> Path:
    """A folder of empty files."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def write_values(path: Path, values: Any, mode: str | None = None) -> None:
    image = Image.fromarray(np.asarray(values, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def refusal(folder: Path, split: Sequence[Sample], classes: Sequence[str] = (LESION,), **rest: Any) -> str:
    with pytest.raises(DataError) as caught:
        MaskFolder(folder, split, classes, **rest)
    assert type(caught.value) is DataError
    return str(caught.value)


def means(result: EvaluationResult) -> dict[str, float]:
    assert not result.failures
    return {name: interval.mean for name, interval in result.summaries["official"][ALL].items()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("drawn")
    synthetic.write_dataset(folder, 6, size=(96, 128))
    return catalog.with_masks(catalog.read(folder), (LESION,))


@pytest.fixture(scope="module")
def dark(dark_bundle: Bundle) -> Segmenter:
    return Segmenter(dark_bundle, threads=1)


# Bundles and ensembles of them


def test_a_model_is_its_bundle(dark: Segmenter, drawn: list[Sample]) -> None:
    model: Predictor = Model(dark)
    assert (model.name, model.classes, model.input_size, model.thresholds) == ("dark", (LESION,), 64, (0.5,))
    found, expected = Model(dark)(drawn[0]), dark(drawn[0].image)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert Model(Segmenter(dark.bundle, threshold=0.25)).thresholds == (0.25,)


def test_an_ensemble_is_scored_as_a_bundle_is(dark: Segmenter, drawn: list[Sample]) -> None:
    ensemble: Predictor = Ensemble([dark, dark], weights=(1, 3))
    told = (ensemble.name, ensemble.classes, ensemble.input_size, ensemble.thresholds)
    assert told == ("dark + dark", (LESION,), 64, (0.5,))
    assert Ensemble([dark, dark], threshold=0.25).thresholds == (0.25,)
    one, two = (
        evaluate(predictor, drawn, data="drawn", split="all", protocols=("official", "pooled", "soft", "ranking"))
        for predictor in (Model(dark), ensemble)
    )
    assert two.name == "dark + dark"
    assert means(one)["jaccard"] > 0.1
    for name, summary in one.summaries.items():
        for metric, interval in summary[ALL].items():
            assert two.summaries[name][ALL][metric].mean == pytest.approx(interval.mean, abs=1e-6, nan_ok=True)


# Names


@pytest.mark.parametrize("ending", LESION_SUFFIXES)
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".TIFF"])
@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_a_lesions_mask_is_found_by_any_of_its_names(tmp_path: Path, ending: str, suffix: str, change: Any) -> None:
    (one,) = write_samples(tmp_path, 1)
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = read_mask(one.masks[LESION])
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{change(one.id + ending)}{suffix}")
    prediction = MaskFolder(folder, [one], [LESION])(one)
    np.testing.assert_array_equal(prediction.mask_of(LESION), mask)


@pytest.mark.parametrize("pattern", ["{}_attribute_{}.png", "{}_{}.png", "{}_{}_mask.png", "{}_ATTRIBUTE_{}.Png"])
def test_attributes_are_found_by_the_challenges_names(tmp_path: Path, pattern: str) -> None:
    split = write_samples(tmp_path, 3, ATTRIBUTES)
    (tmp_path / "masks").mkdir()
    for one in split:
        for name, path in one.masks.items():
            (tmp_path / "masks" / pattern.format(one.id, name)).write_bytes(path.read_bytes())
    folder = MaskFolder(tmp_path / "masks", split, ATTRIBUTES)
    for one in split:
        prediction = folder(one)
        assert prediction.classes == ATTRIBUTES
        for name in ATTRIBUTES:
            np.testing.assert_array_equal(prediction.mask_of(name), read_mask(one.masks[name]))


def test_a_lesion_beside_other_classes_has_its_own_names(tmp_path: Path) -> None:
    classes = ("hair", LESION)
    (one,) = write_samples(tmp_path, 1, classes)
    (tmp_path / "masks").mkdir()
    for name, target in (("hair", f"{one.id}_hair.png"), (LESION, f"{one.id}.png")):
        (tmp_path / "masks" / target).write_bytes(one.masks[name].read_bytes())
    prediction = MaskFolder(tmp_path / "masks", [one], classes)(one)
    for name in classes:
        np.testing.assert_array_equal(prediction.mask_of(name), read_mask(one.masks[name]))
    (tmp_path / "masks" / f"{one.id}_hair.png").unlink()
    assert refusal(tmp_path / "masks", [one], classes) == (
        f"{tmp_path / 'masks'} lacks 1 of 2 masks: ISIC_0000001_attribute_hair.png; expected {LESIONS} or "
        "ID_attribute_NAME.png or ID_NAME.png, NAME being hair for each image of the split"
    )


def test_a_mask_goes_to_the_image_of_the_longest_name(tmp_path: Path) -> None:
    split = [sample("a"), sample("a_mask"), sample("a_lesion")]
    folder = write_names(tmp_path / "masks", "a.png", "a_mask.png", "a_lesion_mask.png")
    files = MaskFolder(folder, split, [LESION])._files
    assert {key[0]: path.name for key, path in files.items()} == {
        "a": "a.png",
        "a_mask": "a_mask.png",
        "a_lesion": "a_lesion_mask.png",
    }


def test_folders_in_an_id_are_passed_over(tmp_path: Path) -> None:
    folder = write_names(tmp_path / "masks", "a1_mask.png", "a2.png")
    split, train = [sample("test/a1"), sample("home/test/a2")], sample("train/a1")
    assert MaskFolder(folder, split, [LESION], [*split, train]).unused == 0
    assert refusal(folder, [*split, train]) == (
        "the images test/a1 and train/a1 have one name, and it cannot be said whose mask a1.png is; rename one, or "
        "score the folders they lie in one by one"
    )
    assert refusal(write_names(tmp_path / "none"), split) == (
        f"{tmp_path / 'none'} lacks 2 of 2 masks: a1.png, a2.png; expected {LESIONS} for each image of the split"
    )


def test_data_sets_that_share_an_image_share_its_mask(tmp_path: Path) -> None:
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png")
    one = sample("ISIC_0000001")
    split = [replace(one, source="isic2017"), replace(one, source="isic2018")]
    assert MaskFolder(folder, split, [LESION]).unused == 0


def test_what_is_no_mask_is_passed_over(tmp_path: Path) -> None:
    split = samples(2)
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png", "ISIC_0000002_mask.png")
    write_names(folder, "LICENSE.txt", "scores.csv", "ISIC_0000001.json", ".hidden.png", "._ISIC_0000001.png", "notes")
    write_names(folder / "older.png", "ISIC_0000001.png", "other.png")
    write_names(folder, "ISIC_0000002_overlay.png", "ISIC_0000002_result.png", "ISIC_0000002_probability.png")
    found = MaskFolder(folder, split, [LESION])
    told = (found.name, found.classes, found.input_size, found.thresholds, found.unused)
    assert told == ("masks", (LESION,), None, (), 0)


def test_masks_beyond_the_split_are_counted(tmp_path: Path) -> None:
    split, everything = samples(2), samples(30)
    names = [f"{one.id}_segmentation.png" for one in everything]
    folder = write_names(tmp_path / "masks", *names, "ISIC_0000007.png")
    assert MaskFolder(folder, split, [LESION], everything).unused == 29
    assert MaskFolder(folder, everything[20:], [LESION], everything).unused == 21


# What is wrong with them


def test_missing_masks_are_listed(tmp_path: Path) -> None:
    split = samples(150)
    folder = write_names(tmp_path / "masks", *(f"{one.id}.png" for one in split[12:]))
    listed = ", ".join(f"ISIC_{number:07d}.png" for number in range(1, 11))
    assert refusal(folder, split) == (
        f"{folder} lacks 12 of 150 masks: {listed} and 2 more; expected {LESIONS} for each image of the split"
    )


def test_missing_attributes_are_listed(tmp_path: Path) -> None:
    split = samples(3)
    present = [f"{one.id}_{name}.png" for one in split for name in ATTRIBUTES]
    folder = write_names(tmp_path / "masks", *present[:2], *present[3:])
    assert refusal(folder, split, ATTRIBUTES) == (
        f"{folder} lacks 1 of 15 masks: ISIC_0000001_attribute_streaks.png; expected ID_attribute_NAME.png or "
        "ID_NAME.png, NAME being pigment_network or negative_network or streaks or milia_like_cyst or globules for "
        "each image of the split"
    )


def test_masks_of_unknown_images_are_listed(tmp_path: Path) -> None:
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png", "ISIC_9_mask.png", "b.tif")
    assert refusal(folder, samples(1)) == (
        f"{folder} holds masks of no image of the data (2): ISIC_9_mask.png, b.tif; move them away, or give the data "
        "they belong to"
    )


@pytest.mark.parametrize(
    "name", ["ISIC_0000001_pred.png", "ISIC_0000001_overlay.png", "ISIC_0000001_x_mask.png", "a.jpg"]
)
def test_other_names_are_listed(tmp_path: Path, name: str) -> None:
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png", name)
    assert refusal(folder, samples(1)) == (
        f"{folder} holds pictures with other names (1): {name}; expected {LESIONS}, as {SUFFIXES}: rename them, or "
        "move them away"
    )


def test_other_names_of_attributes_are_told_from_other_images(tmp_path: Path) -> None:
    split = samples(1)
    folder = write_names(tmp_path / "masks", *(f"ISIC_0000001_{name}.png" for name in ATTRIBUTES))
    write_names(folder, "ISIC_0000001_attribute_dots.png", "ISIC_0000001.png", "ISIC_0000002_streaks.png")
    foreign, misnamed = refusal(folder, split, ATTRIBUTES).split("\n")
    assert foreign.startswith(f"{folder} holds masks of no image of the data (1): ISIC_0000002_streaks.png; ")
    assert misnamed.startswith(
        f"{folder} holds pictures with other names (2): ISIC_0000001.png, ISIC_0000001_attribute_dots.png; "
    )


def test_two_masks_for_one_are_listed(tmp_path: Path) -> None:
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png", "isic_0000001_Mask.tif", "ISIC_0000002.png")
    write_names(folder, "ISIC_0000002.bmp")
    assert refusal(folder, samples(2)) == (
        f"{folder} holds several masks for one: ISIC_0000001.png and isic_0000001_Mask.tif, ISIC_0000002.bmp and "
        "ISIC_0000002.png; keep one of each"
    )


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    folder = write_names(tmp_path / "masks", "ISIC_0000001.png", "ISIC_0000001.bmp", "b.png", "ISIC_0000002_final.png")
    sentences = refusal(folder, samples(2)).split("\n")
    assert [sentence.removeprefix(f"{folder} ")[:12] for sentence in sentences] == [
        "lacks 1 of 2",
        "holds severa",
        "holds masks ",
        "holds pictur",
    ]


def test_a_folder_is_expected(tmp_path: Path) -> None:
    for path in (tmp_path / "none", write_names(tmp_path, "file") / "file"):
        with pytest.raises(InputError) as caught:
            MaskFolder(path, samples(1), [LESION])
        assert str(caught.value) == f"{path} is no folder; expected one that holds {LESIONS} for each image"


def outcome(folder: Path, one: Sample) -> DataError:
    with pytest.raises(DataError) as caught:
        MaskFolder(folder, [one], [LESION])(one)
    return caught.value


@pytest.mark.parametrize("shape", [(8, 6), (7, 8), (12, 16), (1, 1)])
def test_a_mask_of_another_size_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    (folder / "ISIC_0000001_mask.png").write_bytes(encode_mask(np.ones(shape, np.bool_)))
    error = outcome(folder, one)
    assert type(error) is PredictionSizeError
    assert str(error) == (
        f"the mask {folder}/ISIC_0000001_mask.png is {shape[1]} x {shape[0]} px for an image of 8 x 6 px; save masks "
        "at their images' size"
    )


ADVICE = (
    "save masks as 8-bit grey, 255 on what was found and 0 elsewhere, since only what is above 128 counts as foreground"
)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 1], "0 and 1"),
        ([1], "1"),
        ([200, 255], "200 and 255"),
        ([0, 254], "0 and 254"),
        ([0, 129, 255], "0 and 129 and 255"),
        (range(0, 256, 51), "6 values from 0 to 255"),
        ([10, 20, 30, 40], "4 values from 10 to 40"),
    ],
)
def test_a_mask_of_other_values_is_refused(tmp_path: Path, values: Iterable[int], shown: str) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    write_values(folder / "ISIC_0000001.png", np.resize(np.array(list(values)), SIZE))
    error = outcome(folder, one)
    assert type(error) is PredictionValuesError
    assert str(error) == f"the mask {folder}/ISIC_0000001.png holds {shown}; {ADVICE}"


def opacity(alpha: Any, colour: int = 0) -> np.ndarray:
    """RGBA of one colour."""
    alpha = np.broadcast_to(np.asarray(alpha, np.uint8), SIZE)
    return np.dstack([*[np.full(SIZE, colour, np.uint8)] * 3, alpha])


LEFT = np.arange(SIZE[1]) < 3


@pytest.mark.parametrize(
    ("samples", "shown"),
    [
        (np.where(LEFT, 255, np.zeros(SIZE)).astype(np.uint16), "16-bit values from 0 to 255"),
        (np.where(LEFT, 65534, np.zeros(SIZE)).astype(np.uint16), "16-bit values from 0 to 65534"),
        (np.full(SIZE, 255, np.uint16), "16-bit values from 255 to 255"),
        (np.where(LEFT, 65535, np.ones(SIZE)).astype(np.uint16), "16-bit values from 1 to 65535"),
        (opacity(LEFT * 255), "transparent pixels, which count as background"),
        (opacity(LEFT * 255, 255), "transparent pixels, which count as background"),
        (opacity(254, 255), "transparent pixels, which count as background"),
        (opacity(0), "transparent pixels, which count as background"),
        (opacity(LEFT * 255)[..., 2:], "transparent pixels, which count as background"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_whose_encoding_hides_the_lesion_are_refused(
    tmp_path: Path, samples: np.ndarray, shown: str, suffix: str
) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    Image.fromarray(samples).save(folder / f"ISIC_0000001{suffix}")
    error = outcome(folder, one)
    assert type(error) is PredictionValuesError
    assert str(error) == f"the mask {folder}/ISIC_0000001{suffix} holds {shown}; {ADVICE}"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("value", [0, 255, 65535])
def test_masks_of_16_bit_colours_are_refused(tmp_path: Path, suffix: str, value: int) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    cv2.imwrite(str(folder / f"ISIC_0000001{suffix}"), np.full((*SIZE, 3), value, np.uint16))
    assert str(outcome(folder, one)) == (
        f"the mask {folder}/ISIC_0000001{suffix} holds 16-bit colours, of which only the upper 8 bits are read; "
        f"{ADVICE}"
    )


@pytest.mark.parametrize(
    "samples",
    [
        (LEFT * np.full(SIZE, 65535)).astype(np.uint16),
        np.zeros(SIZE, np.uint16),
        np.dstack([*[LEFT * np.full(SIZE, 255)] * 3, np.full(SIZE, 255)]).astype(np.uint8),
    ],
    ids=["16 bits", "16 bits, empty", "opaque"],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_of_16_bits_or_alpha_that_say_one_thing_are_read(
    tmp_path: Path, samples: np.ndarray, suffix: str
) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    Image.fromarray(samples).save(folder / f"ISIC_0000001{suffix}")
    expected = samples.reshape(*SIZE, -1)[..., 0] > 0
    np.testing.assert_array_equal(MaskFolder(folder, [one], [LESION])(one).mask_of(LESION), expected)


@pytest.mark.parametrize("level", [0, 255])
def test_an_even_mask_is_one(tmp_path: Path, level: int) -> None:
    (one,) = write_samples(tmp_path, 1)
    (folder := tmp_path / "masks").mkdir()
    write_values(folder / "ISIC_0000001.png", np.full(SIZE, level))
    assert (MaskFolder(folder, [one], [LESION])(one).mask_of(LESION) == (level == 255)).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 2**32 - 1),
    form=st.sampled_from(["L", "1", "RGB", "P", "bits"]),
    suffix=st.sampled_from([".png", ".bmp", ".tif"]),
)
def test_a_mask_comes_back_as_it_was_saved(
    tmp_path: Path, size: tuple[int, int], seed: int, form: str, suffix: str
) -> None:
    mask = np.random.default_rng(seed).random(size) > 0.5
    one = sample("a", tmp_path)
    (tmp_path / "images").mkdir(exist_ok=True)
    (folder := tmp_path / "masks").mkdir(exist_ok=True)
    one.image.write_bytes(encode_image(np.zeros((*size, 3), np.uint8)))
    for old in folder.iterdir():
        old.unlink()
    if form == "bits":
        (folder / "a.png").write_bytes(encode_mask(mask, 1))
    else:
        write_values(folder / f"a{suffix}", mask * 255, form)
    prediction = MaskFolder(folder, [one], [LESION])(one)
    assert prediction.size == size
    np.testing.assert_array_equal(prediction.mask_of(LESION), mask)


def test_a_broken_mask_is_an_error_of_its_image(tmp_path: Path) -> None:
    split = write_samples(tmp_path, 2)
    truth = tmp_path / "truth"
    broken = split[0].masks[LESION]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    with pytest.raises(
        BrokenImageError, match=rf"^the mask {truth}/ISIC_0000001_lesion\.png is PNG data that are trunc"
    ):
        MaskFolder(truth, split, [LESION])(split[0])
    assert MaskFolder(truth, split, [LESION])(split[1]).size == SIZE


# The photograph


def test_the_photograph_is_decoded_for_pictures_alone(tmp_path: Path) -> None:
    (one,) = write_samples(tmp_path, 1)
    prediction = MaskFolder(tmp_path / "truth", [one], [LESION])(one)
    np.testing.assert_array_equal(prediction.pixels, open_image(one.image).pixels())
    assert prediction.pixels is prediction.pixels
    one.image.write_bytes(one.image.read_bytes()[:80])  # the header is whole
    prediction = MaskFolder(tmp_path / "truth", [one], [LESION])(one)
    assert prediction.size == SIZE
    with pytest.raises(BrokenImageError):
        _ = prediction.pixels


def test_a_mask_is_of_the_upright_photograph(tmp_path: Path) -> None:
    (one,) = write_samples(tmp_path, 1)
    pixels = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    one.image.write_bytes(saved(pixels, "JPEG", exif=orientation_block(6)))
    (folder := tmp_path / "masks").mkdir()
    path = folder / "ISIC_0000001.png"
    path.write_bytes(encode_mask(np.eye(8, 6, dtype=np.bool_)))
    prediction = MaskFolder(folder, [one], [LESION])(one)
    assert prediction.size == prediction.mask_of(LESION).shape == prediction.pixels.shape[:2] == (8, 6)
    path.write_bytes(encode_mask(np.eye(6, 8, dtype=np.bool_)))
    assert type(outcome(folder, one)) is PredictionSizeError


# Scores


def test_masks_that_a_bundle_wrote_score_as_the_bundle(dark: Segmenter, drawn: list[Sample], tmp_path: Path) -> None:
    for one in drawn:
        dark(one.image).save(tmp_path, [name for name in OUTPUTS if name != "uncertainty"], stem=one.id)
    folder: Predictor = MaskFolder(tmp_path, drawn, [LESION])
    found, expected = (
        evaluate(predictor, drawn, data="drawn", split="all", protocols=("official", "boundary"))
        for predictor in (folder, Model(dark))
    )
    assert means(found)["jaccard"] > 0.1
    assert [image.metrics for image in found.images] == [image.metrics for image in expected.images]
    assert found.content_hash == expected.content_hash
    assert (found.name, found.thresholds) == (tmp_path.name, ())


@pytest.mark.filterwarnings("ignore:The inplace keyword in Series.rename:DeprecationWarning")
def test_the_official_scorer_gives_the_same(tmp_path: Path) -> None:
    split = write_samples(tmp_path, 5)
    rng = np.random.default_rng(3)
    for folder in ("masks", "official"):
        (tmp_path / folder).mkdir()
    for one in split:
        truth = read_mask(one.masks[LESION])
        name = f"{one.id}_segmentation.png"
        (tmp_path / "official" / name).write_bytes(encode_mask(truth))
        (tmp_path / "masks" / name).write_bytes(encode_mask(truth ^ (rng.random(SIZE) > 0.8)))
    result = evaluate(MaskFolder(tmp_path / "masks", split, [LESION]), split, data="noise", split="all")
    official = SegmentationScore.from_dir(tmp_path / "official", tmp_path / "masks")
    assert means(result)["jaccard"] == pytest.approx(official.macro_average.at["jaccard"], abs=1e-12)
    assert means(result)["thresholded_jaccard"] == pytest.approx(official.overall, abs=1e-12)


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    split = write_samples(tmp_path, 24, ATTRIBUTES)
    folder = MaskFolder(tmp_path / "truth", split, ATTRIBUTES)
    with ThreadPoolExecutor(8) as pool:
        for one, prediction in zip(split * 4, pool.map(folder, split * 4), strict=True):
            for name in ATTRIBUTES:
                np.testing.assert_array_equal(prediction.mask_of(name), read_mask(one.masks[name]))
    first, second = (
        evaluate(folder, split, data="noise", split="all", workers=workers).to_json() for workers in (1, 4)
    )
    assert first == second


def test_real_truths_score_full_marks(data_folder: Path) -> None:
    split = [one for one in catalog.read(data_folder / "isic2017") if one.part == "validation"][:40]
    truths = MaskFolder(split[0].masks[LESION].parent, split, [LESION], catalog.read(data_folder / "isic2017"))
    assert truths.unused > 0
    assert means(evaluate(truths, split, data="isic2017", split="validation"))["jaccard"] == 1


# What could not be scored, in words


def test_a_sentence_for_each_kind_of_failure(tmp_path: Path) -> None:
    split = write_samples(tmp_path, 17)
    truth = tmp_path / "truth"
    paths = [one.masks[LESION] for one in split]
    for path in paths[:12]:
        path.write_bytes(encode_mask(np.ones((3, 4), np.bool_)))
    write_values(paths[12], np.resize([0, 1], SIZE))
    write_values(paths[13], np.resize([0, 128, 255], SIZE))
    paths[14].write_bytes(b"")
    one = replace(split[15], image=tmp_path / "gone.png")
    result = evaluate(MaskFolder(truth, split, [LESION]), [*split[:15], one, split[16]], data="noise", split="all")
    assert len(result.images) == 1
    sizes = ", ".join(
        f"the mask {truth}/ISIC_{n:07d}_lesion.png is 4 x 3 px for an image of 8 x 6 px" for n in range(1, 11)
    )
    picture = "a JPEG, PNG, BMP, TIFF or WebP picture"
    assert result.failure_lines() == [
        f"  masks of another size than their images (12): {sizes} and 2 more; save masks at their images' size",
        f"  masks with other values than 0 and 255 (2): the mask {truth}/ISIC_0000013_lesion.png holds 0 and 1, "
        f"the mask {truth}/ISIC_0000014_lesion.png holds 0 and 128 and 255; {ADVICE}",
        f"  ISIC_0000015: the mask {paths[14]} is empty where {picture} is expected; save or download it again",
        f"  ISIC_0000016: {tmp_path / 'gone.png'} does not exist; give the path of {picture}",
    ]


def test_what_several_classes_wrote_is_read(dark_bundle: Bundle, example_file: Path, tmp_path: Path) -> None:
    """All that `dermseg segment` writes; the masks are those that were saved."""
    prediction = Segmenter(two_classes(dark_bundle, tmp_path), tta=True)(example_file)
    folder = tmp_path / "out"
    prediction.save(folder, OUTPUTS)
    split = [replace(sample("lesion", classes=("lesion", "bright")), image=example_file)]
    found = MaskFolder(folder, split, ("lesion", "bright"))(split[0])
    for name in ("lesion", "bright"):
        np.testing.assert_array_equal(found.mask_of(name), prediction.mask_of(name))
