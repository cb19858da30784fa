"""Submissions: what the official scorer makes of them, and what is refused."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import onnx
import pytest
from isic_challenge_scoring import SegmentationScore, task2
from isic_challenge_scoring.unzip import unzip_all
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from typer.testing import CliRunner, Result

from dermseg import synthetic
from dermseg.bundle import Bundle
from dermseg.bundle import write as write_bundle
from dermseg.cli.main import app
from dermseg.data import catalog
from dermseg.data.layouts import ATTRIBUTES, LESION
from dermseg.errors import DataError, InputError
from dermseg.evaluation import ALL, evaluate
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.predictors import Model
from dermseg.segmenter import Segmenter
from dermseg.submission import find_images, write
from tests.hostile import orientation_block

official_scorer = pytest.mark.filterwarnings(
    "ignore:The inplace keyword in Series.rename:DeprecationWarning:isic_challenge_scoring.segmentation"
)

SIZES = ((48, 64), (77, 51), (64, 64), (40, 90), (130, 97), (33, 35))


def level_bundle(folder: Path, like: Bundle, levels: Mapping[str, float]) -> Bundle:
    """A bundle that finds, of each class, what is darker than its level, 0 to 1."""
    size, classes = like.manifest.input_size, tuple(levels)
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, size, size))
        for name, channels in (("image", 3), ("logits", len(classes)))
    )
    graph = helper.make_graph([helper.make_node("Conv", ["image", "w", "b"], ["logits"])], "levels", [image], [logits])
    weights = np.full((len(classes), 3, 1, 1), -8 / 3, np.float32)
    offsets = np.array([16 * level - 8 for level in levels.values()], np.float32)  # the image reaches it as -1 to 1
    graph.initializer.extend(onnx.numpy_helper.from_array(*pair) for pair in ((weights, "w"), (offsets, "b")))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    changes = {"name": "levels", "classes": classes, "thresholds": dict.fromkeys(classes, 0.5)}
    manifest = like.manifest.model_copy(update=changes)
    return write_bundle(folder, manifest, {ONNX: model.SerializeToString(), WEIGHTS: b"unused"})


def disc(height: int, width: int, radius: float, at: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:height, :width]
    inside: NDArray[np.bool_] = (rows - at[0] * height) ** 2 + (columns - at[1] * width) ** 2 < radius**2
    return inside


def save(path: Path, array: NDArray[np.bool_] | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array).save(path)


@pytest.fixture(scope="session")
def attribute_bundle(tmp_path_factory: pytest.TempPathFactory, dark_bundle: Bundle) -> Bundle:
    """Finds each attribute where it is darker than another level; milia are found nowhere."""
    levels = dict(zip(ATTRIBUTES, (0.75, 0.6, 0.5, 0.02, 0.35), strict=True))
    return level_bundle(tmp_path_factory.mktemp("bundles") / "levels", dark_bundle, levels)


@pytest.fixture(scope="session")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images and truths of both tasks in the challenge's folders, with all that lies in these."""
    folder = tmp_path_factory.mktemp("challenge")
    images = folder / "ISIC2018_Task1-2_Training_Input"
    for number, (height, width) in enumerate(SIZES):
        drawn = synthetic.draw(number, (height, width), tone=0.02, hairs=0, vignette=False)
        save(images / f"ISIC_{number:07d}.jpg", drawn.pixels)
        save(folder / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_{number:07d}_segmentation.png", drawn.mask)
        for k, name in enumerate(ATTRIBUTES):
            truth = disc(height, width, 3 * k + number, (0.3 + 0.1 * k, 0.5)) & (name != "streaks")
            save(folder / "ISIC2018_Task2_Training_GroundTruth_v3" / f"ISIC_{number:07d}_attribute_{name}.png", truth)
    (images / "LICENSE.txt").write_text("CC BY-NC 4.0")
    (images / "ATTRIBUTION.txt").write_text("ISIC")
    (images / "ISIC2018_Task1-2_Training_metadata.csv").write_text("image_id\n")
    save(images / "ISIC_0000000_superpixels.png", np.zeros((48, 64), np.uint8))
    return folder


@pytest.fixture
def photos(tmp_path: Path, challenge: Path) -> Path:
    """Three of the images, in a folder that a test may spoil."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in find_images(challenge / "ISIC2018_Task1-2_Training_Input")[:3]:
        (folder / image.name).write_bytes(image.read_bytes())
    return folder


def masks_of(path: Path) -> dict[str, NDArray[np.uint8]]:
    """The content of a submission by name, as grey values; fails if one is no 8-bit grey PNG."""
    found = {}
    with ZipFile(path) as archive:
        for name in archive.namelist():
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                assert (picture.format, picture.mode) == ("PNG", "L")
                found[name] = np.asarray(picture)
    return found


def run(*arguments: str | Path | int, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["submission", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


# What the official scorer makes of it


def evaluated(segmenter: Segmenter, challenge: Path) -> dict[str, float]:
    samples = catalog.read(challenge, ["isic2018"])
    result = evaluate(Model(segmenter), samples, data="drawn", split="all")
    assert not result.failures
    return {name: interval.mean for name, interval in result.summaries["official"][ALL].items()}


@official_scorer
def test_the_official_scorer_gives_task_1_the_numbers_of_evaluate(
    challenge: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = level_bundle(tmp_path / "levels", dark_bundle, {LESION: 0.57})
    images = challenge / "ISIC2018_Task1-2_Training_Input"
    run("--bundle", bundle.path, "--images", images, "--task", 1, "--output", tmp_path / "one.zip")
    with ZipFile(tmp_path / "truth.zip", "w") as archive:
        for path in (challenge / "ISIC2018_Task1_Training_GroundTruth").iterdir():
            archive.write(path, path.name)
    official = SegmentationScore.from_zip_file(tmp_path / "truth.zip", tmp_path / "one.zip")
    found = evaluated(Segmenter(bundle, orientation="stored"), challenge)
    assert 0.2 < official.overall < official.macro_average.at["jaccard"] < 0.9
    assert found["thresholded_jaccard"] == pytest.approx(official.overall, abs=1e-12)
    for name in ("jaccard", "dice", "sensitivity", "specificity", "accuracy"):
        assert found[name] == pytest.approx(official.macro_average.at[name], abs=1e-12)


def test_the_official_scorer_gives_task_2_the_numbers_of_evaluate(
    challenge: Path, attribute_bundle: Bundle, tmp_path: Path
) -> None:
    images = challenge / "ISIC2018_Task1-2_Training_Input"
    run("--bundle", attribute_bundle.path, "--images", images, "--task", 2, "--output", tmp_path / "two.zip")
    unpacked, temporary = unzip_all(tmp_path / "two.zip")
    with temporary:
        official = task2.score(challenge / "ISIC2018_Task2_Training_GroundTruth_v3", unpacked)
    found = evaluated(Segmenter(attribute_bundle, orientation="stored"), challenge)
    assert 0.02 < official["overall"] < 0.9
    assert found["micro_jaccard"] == pytest.approx(official["overall"], abs=1e-12)
    assert found["micro_dice"] == pytest.approx(official["micro_average"]["dice"], abs=1e-12)
    for name in ATTRIBUTES:
        assert found[f"jaccard_{name}"] == pytest.approx(official[name]["jaccard"], abs=1e-12)
    assert 0 < found["jaccard_globules"] < 1


# The file


@pytest.mark.parametrize("task", [1, 2])
def test_masks_are_flat_8_bit_pngs_of_the_images_size(
    challenge: Path, dark_bundle: Bundle, attribute_bundle: Bundle, tmp_path: Path, task: int
) -> None:
    images = find_images(challenge / "ISIC2018_Task1-2_Training_Input")
    segmenter = Segmenter(dark_bundle if task == 1 else attribute_bundle, orientation="stored")
    endings = ["segmentation"] if task == 1 else [f"attribute_{name}" for name in ATTRIBUTES]
    names = write(segmenter, images, task, tmp_path / "out.zip")
    assert names == [f"ISIC_{number:07d}_{end}.png" for number in range(len(SIZES)) for end in endings]
    found = masks_of(tmp_path / "out.zip")
    assert list(found) == names
    for place, (name, mask) in enumerate(found.items()):
        number, k = divmod(place, len(endings))
        assert mask.shape == SIZES[number]
        assert set(np.unique(mask)) <= {0, 255}
        expected = segmenter(images[number]).mask_of(LESION if task == 1 else ATTRIBUTES[k])
        np.testing.assert_array_equal(mask > 128, expected, err_msg=name)
    with ZipFile(tmp_path / "out.zip") as archive:
        for entry in archive.infolist():
            assert entry.compress_type == ZIP_STORED
            assert entry.external_attr >> 16 == stat.S_IFREG | 0o644


def test_equal_masks_make_equal_files_whatever_the_order_and_the_threads(
    challenge: Path, attribute_bundle: Bundle, tmp_path: Path
) -> None:
    images = find_images(challenge / "ISIC2018_Task1-2_Training_Input")
    segmenter = Segmenter(attribute_bundle, orientation="stored", threads=1)
    write(segmenter, images, 2, tmp_path / "one.zip", workers=1)
    write(segmenter, images[::-1], 2, tmp_path / "four.zip", workers=4)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "four.zip").read_bytes()


def test_a_photograph_that_exif_turns_is_segmented_as_it_is_stored(
    photos: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    pixels = np.full((30, 50, 3), 240, np.uint8)
    pixels[:10] = 10
    turned = photos / "ISIC_0000001.jpg"
    Image.fromarray(pixels).save(turned, quality=95, exif=orientation_block(6))
    run("--bundle", dark_bundle.path, "--images", photos, "--task", 1, "--output", tmp_path / "out.zip")
    mask = masks_of(tmp_path / "out.zip")["ISIC_0000001_segmentation.png"]
    assert mask.shape == (30, 50)
    assert (mask[:9] == 255).all()
    assert (mask[12:] == 0).all()
    with pytest.raises(DataError, match=r"ISIC_0000001\.jpg was turned by its EXIF; .* orientation='stored'"):
        write(Segmenter(dark_bundle), find_images(photos), 1, tmp_path / "upright.zip")


def test_a_bundle_that_finds_more_than_the_task_asks_for_will_do(
    photos: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    both = level_bundle(tmp_path / "both", dark_bundle, {"hair": 0.1, LESION: 0.5})
    write(Segmenter(both, orientation="stored"), find_images(photos), 1, tmp_path / "both.zip")
    write(Segmenter(dark_bundle, orientation="stored"), find_images(photos), 1, tmp_path / "one.zip")
    assert (tmp_path / "both.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()


def test_the_threshold_and_the_name_can_be_chosen(photos: Path, dark_bundle: Bundle, tmp_path: Path) -> None:
    (photos / "ISIC_0000000.jpg").rename(photos / "isic_0000000.JPG")
    areas = []
    for threshold in ("0.1", "0.9"):
        path = tmp_path / "deep" / f"{threshold}.zip"
        output = run(
            "-b", dark_bundle.path, "--images", photos, "--task", 1, "-o", path, "--threshold", threshold
        ).output
        assert output == f"3 masks of 3 images for ISIC 2018 Task 1: {path}\n"
        found = masks_of(path)
        assert list(found) == [f"ISIC_{number:07d}_segmentation.png" for number in range(3)]
        areas.append(sum(int(np.count_nonzero(mask)) for mask in found.values()))
    assert areas[0] > areas[1] > 0


def test_an_earlier_file_is_replaced(photos: Path, dark_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    path.write_bytes(b"old")
    calls: list[None] = []
    segmenter = Segmenter(dark_bundle, orientation="stored")
    write(segmenter, find_images(photos), 1, path, progress=lambda: calls.append(None))
    assert len(masks_of(path)) == len(calls) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.zip", "photos"]


# What is refused


@pytest.mark.parametrize("broken", [1, 12])
def test_images_that_cannot_be_read_are_listed_and_leave_no_file(
    photos: Path, dark_bundle: Bundle, tmp_path: Path, broken: int
) -> None:
    for number in range(100, 100 + broken):
        (photos / f"ISIC_{number:07d}.jpg").write_bytes(b"")
    path = tmp_path / "out.zip"
    path.write_bytes(b"old")
    calls: list[None] = []
    segmenter = Segmenter(dark_bundle, orientation="stored")
    with pytest.raises(DataError) as caught:
        write(segmenter, find_images(photos), 1, path, progress=lambda: calls.append(None))
    first, *lines = str(caught.value).splitlines()
    assert first == (
        f"{broken} of {broken + 3} images failed, and {path} was not written, since the challenge refuses a "
        "submission that lacks a mask:"
    )
    assert lines[0].startswith("  ISIC_0000100: ISIC_0000100.jpg is empty where ")
    assert len(lines) == (1 if broken == 1 else 11)
    assert broken == 1 or lines[-1] == "  and 2 more"
    assert len(calls) == broken + 3
    assert path.read_bytes() == b"old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.zip", "photos"]


def other_names(folder: Path) -> str:
    for number in range(12):
        (folder / f"photo{number:02d}.jpg").touch()
    names = ", ".join(f"photo{number:02d}.jpg" for number in range(10))
    return (
        "12 of 15 images have no name of the challenge, such as ISIC_0012255.jpg: "
        f"{names} and 2 more; rename them or move them away"
    )


def eight_digits(folder: Path) -> str:
    (folder / "ISIC_00000000.jpg").touch()
    return (
        "1 of 4 images have no name of the challenge, such as ISIC_0012255.jpg: ISIC_00000000.jpg; "
        "rename them or move them away"
    )


def twins(folder: Path) -> str:
    (folder / "ISIC_0000001.png").touch()
    (folder / "isic_0000002.JPEG").touch()
    pairs = [("ISIC_0000001.jpg", "ISIC_0000001.png"), ("isic_0000002.JPEG", "ISIC_0000002.jpg")]
    named = ", ".join(f"{folder / one} and {folder / other}" for one, other in pairs)
    return f"2 images have the id of another: {named}; keep one of each"


def no_images(folder: Path) -> str:
    for image in folder.iterdir():
        image.rename(image.with_suffix(".txt"))
    return f"{folder} holds no image (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"


def a_folder_deeper(folder: Path) -> str:
    inner = folder / "photos"
    inner.mkdir()
    for image in folder.glob("*.jpg"):
        image.rename(inner / image.name)
    return f"{folder} holds no image (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp); give {inner}"


def no_folder(folder: Path) -> str:
    for image in folder.iterdir():
        image.unlink()
    folder.rmdir()
    return f"{folder} is no folder; expected the folder of the challenge's images"


@pytest.mark.parametrize("spoil", [other_names, eight_digits, twins, no_images, a_folder_deeper, no_folder])
def test_what_the_scorer_would_not_take_is_a_sentence(
    photos: Path, dark_bundle: Bundle, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    message = spoil(photos)
    output = tmp_path / "out.zip"
    result = run("--bundle", dark_bundle.path, "--images", photos, "--task", 1, "--output", output, code=1)
    assert result.output == f"error: {message}\n"
    assert not output.exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            2,
            "Task 2 asks for masks of pigment_network, negative_network, streaks, milia_like_cyst, globules, but the "
            "bundle dark finds lesion; give a bundle that finds the former",
        ),
        (3, "there is no task 3; choose from: 1, 2"),
    ],
)
def test_a_bundle_and_a_task_must_fit(
    photos: Path, dark_bundle: Bundle, tmp_path: Path, task: int, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        write(Segmenter(dark_bundle, orientation="stored"), find_images(photos), task, tmp_path / "out.zip")
    assert str(caught.value) == message


def test_attributes_are_no_lesion(photos: Path, attribute_bundle: Bundle, tmp_path: Path) -> None:
    arguments: Sequence[str | Path] = ("--bundle", attribute_bundle.path, "--images", photos, "--output")
    result = run(*arguments, tmp_path / "out.zip", "--task", 1, code=1)
    assert result.output.startswith("error: Task 1 asks for masks of lesion, but the bundle levels finds pigment_")


def test_a_file_that_cannot_be_written_is_said_before_the_work(
    photos: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    segmenter = Segmenter(dark_bundle, orientation="stored")
    calls: list[None] = []
    reasons = {
        tmp_path: "is a folder; give the name of a ZIP file",
        tmp_path / "none" / "out.zip": "cannot be written (No such file or directory); give another path",
    }
    for path, reason in reasons.items():
        with pytest.raises(InputError) as caught:
            write(segmenter, find_images(photos), 1, path, progress=lambda: calls.append(None))
        assert str(caught.value) == f"{path} {reason}"
    assert not calls
    with pytest.raises(InputError, match="there are no images"):
        write(segmenter, [], 1, tmp_path / "out.zip")


# The command


def test_help_has_examples() -> None:
    output = run("--help").output
    assert "dermseg submission --task 1 --images" in output
    assert "dermseg submission --task 2 --images" in output


@pytest.mark.parametrize("arguments", [("--task", "1"), ("--images", "."), ("--images", ".", "--task", "3")])
def test_wrong_usage_exits_with_2(arguments: Sequence[str]) -> None:
    run(*arguments, code=2)


def test_it_loads_no_torch_pandas_or_matplotlib(photos: Path, dark_bundle: Bundle) -> None:
    arguments = ["submission", "--bundle", str(dark_bundle.path), "--images", str(photos), "--task", "1"]
    script = (
        "import sys; from dermseg.cli.main import app\n"
        f"try: app({arguments})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=photos.parent, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert (photos.parent / "submission.zip").exists()


@official_scorer
def test_real_images_score_as_evaluate_says(data_folder: Path, tmp_path: Path) -> None:
    """The first images of ISIC 2017's validation set with the shipped model."""
    samples = [sample for sample in catalog.read(data_folder / "isic2017") if sample.part == "validation"][:5]
    segmenter = Segmenter(orientation="stored", threads=1)
    write(segmenter, [sample.image for sample in samples], 1, tmp_path / "out.zip")
    truth = tmp_path / "truth"
    truth.mkdir()
    for sample in samples:
        shutil.copy(sample.masks[LESION], truth)
    unpacked, temporary = unzip_all(tmp_path / "out.zip")
    with temporary:
        official = SegmentationScore.from_dir(truth, unpacked)
    found = evaluate(Model(segmenter), samples, data="isic2017", split="all").summaries["official"][ALL]
    assert official.overall > 0.5
    assert found["thresholded_jaccard"].mean == pytest.approx(official.overall, abs=1e-12)
