"""``dermseg visualize``, run as a user runs it, on drawn data sets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from dermseg import figures, synthetic
from dermseg.bundle import Bundle
from dermseg.cli.main import app
from dermseg.data import catalog, splits
from dermseg.data.layouts import ATTRIBUTES, LESION
from dermseg.imaging import open_image, read_mask
from dermseg.segmenter import Segmenter
from tests.test_submission import level_bundle

COUNT = 4


@pytest.fixture(scope="module")
def attribute_bundle(tmp_path_factory: pytest.TempPathFactory, dark_bundle: Bundle) -> Bundle:
    """Finds each attribute where it is darker than another level."""
    levels = dict(zip(ATTRIBUTES, (0.75, 0.6, 0.5, 0.02, 0.35), strict=True))
    return level_bundle(tmp_path_factory.mktemp("bundles") / "levels", dark_bundle, levels)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ISIC 2018 with both tasks' masks, of which the last image has none, and ISIC 2017 with the first image."""
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        drawn, id = synthetic.draw(number, (48, 64), hairs=0, vignette=False), f"ISIC_{number:07d}"
        new = Path("data/ISIC2018_Task1-2_Training_Input") / f"{id}.jpg"
        save(new, drawn.pixels)
        if number < COUNT - 1:
            save(Path("data/ISIC2018_Task1_Training_GroundTruth") / f"{id}_segmentation.png", drawn.mask)
            for k, name in enumerate(ATTRIBUTES):
                truth = drawn.mask.copy()
                truth[:, : 12 * k] = False
                save(Path("data/ISIC2018_Task2_Training_GroundTruth_v3") / f"{id}_attribute_{name}.png", truth)
        if number == 0:
            save(Path("data/ISIC-2017_Validation_Data") / f"{id}.jpg", drawn.pixels)
            save(Path("data/ISIC-2017_Validation_Part1_GroundTruth") / f"{id}_segmentation.png", drawn.mask)
    return Path("data")


def save(path: Path, array: NDArray[np.bool_] | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array).save(path)


def run(*arguments: str | Path | int, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["visualize", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def sample_of(data: Path, id: str, source: str = "isic2018") -> catalog.Sample:
    return next(sample for sample in catalog.read(data, [source]) if sample.id == id)


def test_without_a_bundle_every_mask_of_the_image_is_drawn(data: Path) -> None:
    result = run("--data", data, "--id", "ISIC_0000001")
    assert result.output == "ISIC_0000001_visualized.png\n"
    sample = sample_of(data, "ISIC_0000001")
    truths = {name: read_mask(path) for name, path in sample.masks.items()}
    assert set(truths) == {LESION, *ATTRIBUTES}
    expected = figures.case(
        open_image(sample.image).pixels(), {}, truths, "ISIC_0000001", "isic2018, train, 64 x 48 px"
    )
    found = open_image("ISIC_0000001_visualized.png").pixels()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_with_a_bundle_the_masks_of_its_classes_are_compared(data: Path, dark_bundle: Bundle) -> None:
    run("--data", data, "--id", "ISIC_0000001", "--bundle", dark_bundle.path, "--output", "deep/seen.png")
    sample = sample_of(data, "ISIC_0000001")
    prediction = Segmenter(dark_bundle)(sample.image)
    expected = figures.case(
        prediction.pixels,
        {LESION: prediction.mask},
        {LESION: read_mask(sample.masks[LESION])},
        "ISIC_0000001",
        "isic2018, train, 64 x 48 px, bundle dark",
    )
    np.testing.assert_array_equal(open_image("deep/seen.png").pixels(), expected)


def test_attributes_have_a_row_each_and_the_split_of_their_own_table(data: Path, attribute_bundle: Bundle) -> None:
    run("--data", data, "--id", "ISIC_0000001", "--bundle", attribute_bundle.path, "--output", "rows.png")
    sample = sample_of(data, "ISIC_0000001")
    prediction = Segmenter(attribute_bundle)(sample.image)
    side = splits.split_of(sample, splits.read(splits.ATTRIBUTE_TABLE))
    expected = figures.case(
        prediction.pixels,
        {name: prediction.mask_of(name) for name in ATTRIBUTES},
        {name: read_mask(sample.masks[name]) for name in ATTRIBUTES},
        "ISIC_0000001",
        f"isic2018, {side}, 64 x 48 px, bundle levels",
    )
    np.testing.assert_array_equal(open_image("rows.png").pixels(), expected)


@pytest.mark.parametrize("bundle", ["lesion", "attributes", "none"])
def test_an_image_without_masks_is_drawn_without_them(
    data: Path, dark_bundle: Bundle, attribute_bundle: Bundle, bundle: str
) -> None:
    id = f"ISIC_{COUNT - 1:07d}"
    chosen = {"lesion": dark_bundle, "attributes": attribute_bundle, "none": None}[bundle]
    run("--data", data, "--id", id, *(("--bundle", chosen.path) if chosen else ()), "--output", "out.png")
    pixels = open_image("out.png").pixels()
    assert pixels.shape[1] == {"lesion": 2 * 492 + 12, "attributes": 1600, "none": 492 + 12}[bundle]
    assert not (pixels == figures.TRUTH).all(axis=2).any()


def test_an_index_counts_within_the_split_and_the_sources(data: Path) -> None:
    samples = catalog.read(data, ["isic2018"])
    for split in ("all", *splits.SPLITS):
        if chosen := splits.select(samples, split, splits.read()):
            arguments = ("--data", data, "--index", len(chosen) - 1, "--split", split, "--source", "isic2018")
            assert run(*arguments).output == f"{chosen[-1].id}_visualized.png\n"


def test_of_an_id_in_several_data_sets_the_first_is_taken_and_said(data: Path) -> None:
    result = run("--data", data, "--id", "ISIC_0000000")
    assert result.stderr == "ISIC_0000000 is in isic2017 and isic2018; this is isic2017's, --source takes another's\n"
    first = Path(result.stdout.strip()).read_bytes()
    assert run("--data", data, "--id", "ISIC_0000000", "--source", "isic2018").stderr == ""
    assert Path(result.stdout.strip()).read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--index", "5"), "--index is 5, but data, split 'all', has 5 images; expected 0 to 4"),
        (("--index", "-1"), "--index is -1, but data, split 'all', has 5 images; expected 0 to 4"),
        (("--index", "0", "--split", "most"), "there is no split 'most'; choose from: train, tune, test, all"),
        (("--id", "ISIC_000002"), "there is no image 'ISIC_000002' in data, split 'all'; did you mean 'ISIC_0000002'?"),
        (
            ("--id", "ISIC_0000001", "--split", "tune"),
            "ISIC_0000001 is not in data, split 'tune', but in another; leave out --split",
        ),
        (
            ("--index", "0", "--split", "tune", "--source", "isic2017"),
            "data, split 'tune', has no image; --split all takes all there are",
        ),
        (
            (
                "--id",
                "ISIC_0000001",
                "--output",
                "data/ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png",
            ),
            "data/ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png is a file of the data set; choose "
            "another --output",
        ),
    ],
)
def test_a_mistake_is_a_sentence(data: Path, arguments: Sequence[str], message: str) -> None:
    assert run("--data", data, *arguments, code=1).output == f"error: {message}\n"


def test_a_mask_of_another_size_is_named(data: Path) -> None:
    mask = data / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0000001_segmentation.png"
    save(mask, np.zeros((48, 63), np.bool_))
    output = run("--data", data, "--id", "ISIC_0000001", code=1).output
    assert output == f"error: {mask} is 63 x 48 px, its image 64 x 48; expected masks at their images' size\n"
    assert not Path("ISIC_0000001_visualized.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--id", "ISIC_0000001", "--index", "1"),
        ("--index", "one"),
        ("--index", "1", "--output", "seen.jpg"),
    ],
)
def test_wrong_usage_exits_with_2(data: Path, arguments: Sequence[str]) -> None:
    run("--data", data, *arguments, code=2)
    assert not list(Path().glob("*.*"))


def test_help_has_examples() -> None:
    output = run("--help").output
    assert "dermseg visualize --data DATA --id ISIC_0012099" in output
    assert "dermseg visualize --data DATA --split test --index 0" in output


def test_a_users_own_images_are_drawn_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        synthetic.write_dataset(Path("mine") / part, 1, size=(40, 50))
    assert run("--data", "mine", "--id", "test/synthetic_00000").output == "synthetic_00000_visualized.png\n"
    shutil.move("mine/test/images/synthetic_00000.png", "mine/test/images/ä.png")
    shutil.move("mine/test/masks/synthetic_00000.png", "mine/test/masks/ä.png")
    assert run("--data", "mine", "--id", "ä").output == "ä_visualized.png\n"


def test_it_loads_no_torch_pandas_or_matplotlib(data: Path, dark_bundle: Bundle) -> None:
    script = (
        "import sys; from dermseg.cli.main import app\n"
        f"try: app(['visualize', '--data', 'data', '--index', '1', '--bundle', {str(dark_bundle.path)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
