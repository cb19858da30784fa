"""The catalog: the layouts data sets are published in, as trees of empty files, and the real ones where they are."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermseg import synthetic
from dermseg.data import splits
from dermseg.data.catalog import ATTRIBUTES, CC0, CC_BY_NC, LAYOUTS, SOURCES, Sample, read, with_masks
from dermseg.errors import DataError, InputError
from dermseg.imaging import open_image, read_mask

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

TREES = {
    "isic2016": (
        "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg",
        "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png",
        "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000003.jpg",
        "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png",
        "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
    ),
    "isic2017": (
        "ISIC-2017_Training_Data/ISIC_0000000.jpg",
        "ISIC-2017_Training_Data/ISIC_0000001.jpg",
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000001_segmentation.png",
        "ISIC-2017_Training_Part2_GroundTruth/ISIC_0000000_features.json",
        "ISIC-2017_Validation_Data/ISIC_0001769.jpg",
        "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0001769_segmentation.png",
        "ISIC-2017_Test_v2_Data/ISIC_0012086.jpg",
        "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0012086_segmentation.png",
    ),
    "isic2018": (
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
        "ISIC2018_Task1-2_Training_Input/ISIC_0000003.jpg",
        "ISIC2018_Task1-2_Training_Input/LICENSE.txt",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png",
        "ISIC2018_Task2_Training_GroundTruth_v3/ISIC_0000000_attribute_globules.png",
        "ISIC2018_Task2_Training_GroundTruth_v3/ISIC_0000000_attribute_streaks.png",
    ),
    "ham10000": (
        "HAM10000_images_part_1/ISIC_0024306.jpg",
        "HAM10000_images_part_1/ISIC_0024307.jpg",
        "HAM10000_images_part_2/ISIC_0029306.jpg",
        "HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png",
        "HAM10000_segmentations_lesion_tschandl/ISIC_0024307_segmentation.png",
        "HAM10000_segmentations_lesion_tschandl/ISIC_0029306_segmentation.png",
    ),
    "ph2": (
        "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp",
        "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp",
        "PH2 Dataset images/IMD002/IMD002_roi/IMD002_R1_Label3.bmp",
        "PH2 Dataset images/IMD003/IMD003_Dermoscopic_Image/IMD003.bmp",
        "PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp",
        "PH2_dataset.txt",
    ),
    "plain": (
        "images/a.png",
        "images/b.JPG",
        "images/c.tif",
        "images/Thumbs.db",
        "masks/a.png",
        "masks/b_segmentation.png",
        "masks/c_mask.bmp",
        "masks/notes.txt",
    ),
}
METADATA = (
    "lesion_id,image_id,dx\nHAM_0000118,ISIC_0024306,bkl\nHAM_0000118,ISIC_0029306,bkl\nHAM_0002730,ISIC_0024307,nv\n"
)
# id -> mask, below the data set's folder
FOUND = {
    "isic2016": {
        "ISIC_0000000": "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png",
        "ISIC_0000003": "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000003_Segmentation.png",
    },
    "isic2017": {
        "ISIC_0000000": "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC_0000001": "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000001_segmentation.png",
        "ISIC_0001769": "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0001769_segmentation.png",
        "ISIC_0012086": "ISIC-2017_Test_v2_Part1_GroundTruth/ISIC_0012086_segmentation.png",
    },
    "isic2018": {
        "ISIC_0000000": "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC_0000003": "ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png",
    },
    "ham10000": {
        "ISIC_0024306": "HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png",
        "ISIC_0024307": "HAM10000_segmentations_lesion_tschandl/ISIC_0024307_segmentation.png",
        "ISIC_0029306": "HAM10000_segmentations_lesion_tschandl/ISIC_0029306_segmentation.png",
    },
    "ph2": {
        "IMD002": "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp",
        "IMD003": "PH2 Dataset images/IMD003/IMD003_lesion/IMD003_lesion.bmp",
    },
    "plain": {"a": "masks/a.png", "b": "masks/b_segmentation.png", "c": "masks/c_mask.bmp"},
}
LICENCES = {
    "isic2016": CC0,
    "isic2017": CC0,
    "isic2018": CC_BY_NC,
    "ham10000": CC_BY_NC,
    "ph2": "research and education only",
    "plain": "not stated",
}


def plant(folder: Path, *files: str) -> Path:
    """Make empty files; the catalog looks at names only."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def plant_source(folder: Path, source: str) -> Path:
    plant(folder, *TREES[source])
    if source == "ham10000":
        (folder / "HAM10000_metadata.csv").write_text(METADATA)
    return folder


def masks(samples: list[Sample]) -> dict[str, Path | None]:
    return {sample.id: sample.masks.get("lesion") for sample in samples}


# --- layouts -------------------------------------------------------------------------------------


def test_every_layout_is_tested() -> None:
    assert tuple(TREES) == tuple(FOUND) == tuple(LICENCES) == SOURCES == tuple(layout.source for layout in LAYOUTS)


@pytest.mark.parametrize("above", ["", "some data set", "a/b"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_data_set_is_read_in_its_official_layout_from_its_folder_or_the_one_above(
    tmp_path: Path, source: str, above: str
) -> None:
    home = plant_source(tmp_path / above, source)
    samples = read(tmp_path)
    assert masks(samples) == {id: home / mask for id, mask in FOUND[source].items()}
    assert {(s.source, s.licence) for s in samples} == {(source, LICENCES[source])}
    images = {home / file for file in TREES[source]}
    assert all(s.image in images and s.image.stem == s.id for s in samples)


def test_images_of_one_lesion_share_a_group_wherever_they_lie(tmp_path: Path) -> None:
    plant_source(tmp_path, "ham10000")
    groups = {sample.id: sample.group for sample in read(tmp_path)}
    assert groups == {"ISIC_0024306": "HAM_0000118", "ISIC_0024307": "HAM_0002730", "ISIC_0029306": "HAM_0000118"}


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "ham10000"])
def test_where_lesions_are_not_known_the_id_is_the_group(tmp_path: Path, source: str) -> None:
    assert all(sample.group == sample.id for sample in read(plant_source(tmp_path, source)))


def test_the_folder_of_the_images_of_ph2_is_enough(tmp_path: Path) -> None:
    plant_source(tmp_path, "ph2")
    assert read(tmp_path / "PH2 Dataset images") == read(tmp_path)


def test_an_exact_mask_name_goes_before_the_other_namings(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "masks/a_mask.png", "masks/a_segmentation.png", "masks/a.png")
    assert masks(read(tmp_path)) == {"a": tmp_path / "masks/a.png"}


def test_a_mask_with_a_longer_name_belongs_to_another_image(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "images/a_2.png", "masks/a_2.png")
    assert masks(read(tmp_path)) == {"a": None, "a_2": tmp_path / "masks/a_2.png"}


@pytest.mark.parametrize("source", ["isic2017", "isic2018"])
def test_superpixel_files_are_no_images(tmp_path: Path, source: str) -> None:
    plant_source(tmp_path, source)
    images = Path(TREES[source][0]).parent
    plant(tmp_path, f"{images}/ISIC_0000000_superpixels.png", f"{images}/ISIC_0000009_superpixels.png")
    assert masks(read(tmp_path)).keys() == FOUND[source].keys()


def test_an_image_without_a_mask_is_read_and_can_be_left_out(tmp_path: Path) -> None:
    plant_source(tmp_path, "isic2018")
    plant(tmp_path, "ISIC2018_Task1-2_Training_Input/ISIC_0000002.jpg")
    samples = read(tmp_path)
    assert masks(samples)["ISIC_0000002"] is None
    assert {s.id for s in samples} - {s.id for s in with_masks(samples, ["lesion"])} == {"ISIC_0000002"}


# --- several classes -----------------------------------------------------------------------------


def test_attributes_come_in_the_order_of_the_challenge() -> None:
    assert ATTRIBUTES == ("pigment_network", "negative_network", "streaks", "milia_like_cyst", "globules")


@pytest.mark.parametrize("folder", ["Training_GroundTruth_v3", "Training_GroundTruth", "Validation_GroundTruth"])
def test_images_of_isic_2018_have_whichever_masks_there_are(tmp_path: Path, folder: str) -> None:
    images, lesions, attributes = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", folder
    plant(tmp_path, *(f"{images}/ISIC_000000{number}.jpg" for number in range(4)))
    plant(tmp_path, *(f"{lesions}/ISIC_000000{number}_segmentation.png" for number in (0, 1)))
    task2 = f"ISIC2018_Task2_{attributes}/ISIC_000000{{}}_attribute_{{}}.png"
    plant(tmp_path, *(task2.format(number, name) for number in (0, 2) for name in ATTRIBUTES))
    samples = {sample.id[-1]: sample for sample in read(tmp_path)}
    assert {number: set(sample.masks) for number, sample in samples.items()} == {
        "0": {"lesion", *ATTRIBUTES},
        "1": {"lesion"},
        "2": set(ATTRIBUTES),
        "3": set(),
    }
    assert samples["2"].masks == {name: tmp_path / task2.format(2, name) for name in ATTRIBUTES}
    chosen = {
        classes: {s.id[-1] for s in with_masks(list(samples.values()), classes)}
        for classes in (("lesion",), ATTRIBUTES, ("lesion", "streaks"), ("hair",), ())
    }
    assert list(chosen.values()) == [{"0", "1"}, {"0", "2"}, {"0"}, set(), {"0", "1", "2", "3"}]


def test_masks_of_own_classes_end_in_the_class(tmp_path: Path) -> None:
    plant(tmp_path, "images/a1.png", "images/a2.jpg")
    plant(tmp_path, "masks/a1_lesion.png", "masks/a1_hair.png", "masks/a1_blue_veil.PNG", "masks/a2.png")
    plant(tmp_path, "masks/a2_hair.bmp", "masks/a3_hair.png", "masks/a1_notes.txt", "masks/hair.png")
    masks_ = tmp_path / "masks"
    assert [sample.masks for sample in read(tmp_path)] == [
        {"lesion": masks_ / "a1_lesion.png", "hair": masks_ / "a1_hair.png", "blue_veil": masks_ / "a1_blue_veil.PNG"},
        {"lesion": masks_ / "a2.png", "hair": masks_ / "a2_hair.bmp"},
    ]


def test_a_mask_belongs_to_the_longest_id_that_begins_its_name(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "images/a_b.png", "images/a_mask.png", "images/a_bc.png")
    plant(
        tmp_path, "masks/a_b.png", "masks/a_b_hair.png", "masks/a_hair.png", "masks/a_mask.png", "masks/a_bc_hair.png"
    )
    assert {s.id: {name: path.name for name, path in s.masks.items()} for s in read(tmp_path)} == {
        "a": {"hair": "a_hair.png"},
        "a_b": {"lesion": "a_b.png", "hair": "a_b_hair.png"},
        "a_bc": {"hair": "a_bc_hair.png"},
        "a_mask": {"lesion": "a_mask.png"},
    }


NAMES = st.sets(st.text("ab_", min_size=1, max_size=5), min_size=1, max_size=8)


@settings(deadline=None)
@given(ids=NAMES, stems=NAMES)
def test_each_mask_goes_to_one_image_under_one_class(ids: set[str], stems: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plant(folder, *(f"images/{id}.png" for id in ids), *(f"masks/{stem}.png" for stem in stems))
        found = {sample.id: {cls: path.stem for cls, path in sample.masks.items()} for sample in read(folder)}
    expected: dict[str, dict[str, str]] = {id: {} for id in ids}
    for stem in stems:
        owners = [id for id in ids if stem == id or stem.startswith(f"{id}_")]
        if owners:
            owner = max(owners, key=len)
            if stem != f"{owner}_":
                expected[owner][stem.removeprefix(f"{owner}_") if stem != owner else "lesion"] = stem
    assert found == expected


def own(folder: Path, *files: str) -> list[Sample]:
    return read(plant(folder, *files))


def test_complete_images_of_ones_own_are_kept(tmp_path: Path) -> None:
    samples = own(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png", "masks/b_hair.png")
    assert with_masks(samples, ["lesion"]) == samples
    assert with_masks(samples[1:], ["hair", "lesion"]) == samples[1:]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (("lesion",), "b.png has no mask of lesion (1 of 3 images lack a mask); expected masks/b.png or b_lesion.png"),
        (("hair",), "a.png has no mask of hair (2 of 3 images lack a mask); expected masks/a_hair.png"),
        (("lesion", "hair"), "a.png has no mask of hair (3 of 3 images lack a mask); expected masks/a_hair.png"),
        (("hair", "lesion"), "a.png has no mask of hair (3 of 3 images lack a mask); expected masks/a_hair.png"),
    ],
)
def test_an_image_of_ones_own_without_a_mask_is_named(tmp_path: Path, classes: tuple[str, ...], sentence: str) -> None:
    samples = own(tmp_path, *(f"images/{id}.png" for id in "abc"), "masks/a.png", "masks/b_hair.png", "masks/c.png")
    with pytest.raises(DataError) as caught:
        with_masks(samples, classes)
    assert str(caught.value) == f"{tmp_path}/images/{sentence}, empty where nothing is to be seen"


def test_of_published_data_sets_beside_ones_own_incomplete_images_are_left_out(tmp_path: Path) -> None:
    plant_source(tmp_path / "public", "isic2018")
    plant(tmp_path / "public", "ISIC2018_Task1-2_Training_Input/ISIC_0000002.jpg")
    plant(tmp_path / "own", "images/a.png", "masks/a.png")
    chosen = with_masks(read(tmp_path), ["lesion"])
    assert [sample.id for sample in chosen] == ["ISIC_0000000", "ISIC_0000003", "a"]


# --- spellings -----------------------------------------------------------------------------------

CASES = st.sampled_from([str, str.lower, str.upper, str.title, str.swapcase])


def twice(file: str) -> str:
    """Each folder once more in itself."""
    *folders, name = PurePath(file).parts
    return "/".join([part for folder in folders for part in (folder, folder)] + [name])


@settings(deadline=None)
@given(
    source=st.sampled_from([source for source in SOURCES if source != "plain"]),
    case=CASES,
    is_nested=st.booleans(),
    above=st.sampled_from(["", "x"]),
)
def test_published_data_sets_are_read_in_any_case_and_as_archives_unpack(
    source: str, case: Callable[[str], str], is_nested: bool, above: str
) -> None:
    def spelt(file: str) -> str:
        return f"{above}/" * bool(above) + case(twice(file) if is_nested else file)

    with tempfile.TemporaryDirectory() as name:
        folder = plant(Path(name), *map(spelt, TREES[source]))
        if source == "ham10000":
            (folder / above / case("HAM10000_metadata.csv")).write_text(METADATA)
        samples = read(folder)
        assert masks(samples) == {id: folder / spelt(mask) for id, mask in FOUND[source].items()}
    assert {s.source for s in samples} == {source}
    assert all(s.image.stem.upper() == s.id for s in samples)
    if source == "ham10000":
        assert {s.group for s in samples} == {"HAM_0000118", "HAM_0002730"}


@settings(deadline=None)
@given(
    images=st.sampled_from(["images", "image", "img", "imgs"]),
    masks_=st.sampled_from(["masks", "mask", "labels", "annotations", "groundtruth", "ground_truth", "gt"]),
    suffix=st.sampled_from([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"]),
    ending=st.sampled_from(["", "_lesion", "_segmentation", "_mask"]),
    case=CASES,
    above=st.sampled_from(["", "mine/", "train/", "mine/train/", "train/mine/"]),
    inner=st.sampled_from(["{0}", "{0}/{0}", "{0}/train"]),
)
def test_ones_own_data_set_is_read_in_every_spelling(
    images: str, masks_: str, suffix: str, ending: str, case: Callable[[str], str], above: str, inner: str
) -> None:
    image = case(above + inner.format(images)) + "/Ab_1" + case(suffix)
    mask = case(above + inner.format(masks_)) + "/Ab_1" + case(f"{ending}.png")
    with tempfile.TemporaryDirectory() as name:
        folder = plant(Path(name), image, mask)
        hair = (folder / mask).with_name("Ab_1_hair.png")
        hair.touch()
        (sample,) = read(folder)
    assert (sample.id, sample.source, sample.part) == ("Ab_1", "plain", "train" if "train" in above + inner else None)
    assert sample.image == folder / image
    assert sample.masks == {"lesion": folder / mask, "hair": hair}


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".TIF", ".tiff", ".webp"])
def test_hidden_files_and_what_macos_adds_are_skipped(tmp_path: Path, suffix: str) -> None:
    plant(tmp_path, f"images/a{suffix}", f"images/._a{suffix}", "masks/a.png", "masks/._a.png", "masks/.a_hair.png")
    plant(tmp_path, f"__MACOSX/images/b{suffix}", "__MACOSX/masks/b.png", f".old/images/c{suffix}", ".old/masks/c.png")
    plant(tmp_path, "images/a_superpixels.png", "images/b_Superpixels.PNG", "masks/a_superpixels.png")
    (sample,) = read(tmp_path)
    assert (sample.id, set(sample.masks)) == ("a", {"lesion"})


def test_folders_that_look_like_files_are_none(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "images/b.png/c.png", "masks/a.png")
    assert [sample.id for sample in read(tmp_path)] == ["a"]


def test_the_files_of_a_written_data_set_are_those_of_its_samples(tmp_path: Path) -> None:
    for part, seed in (("Train", 0), ("valid", 2), ("TEST", 3)):
        synthetic.write_dataset(tmp_path / part, 2, seed=seed, size=(48, 64))
    samples = read(tmp_path)
    assert [(s.id, s.part) for s in samples] == [
        ("synthetic_00000", "train"),
        ("synthetic_00001", "train"),
        ("synthetic_00002", "validation"),
        ("synthetic_00004", "test"),
        ("test/synthetic_00003", "test"),
        ("validation/synthetic_00003", "validation"),
    ]
    for sample, seed in zip(samples, (0, 1, 2, 4, 3, 3), strict=True):
        drawn = synthetic.draw(seed, (48, 64))
        assert (open_image(sample.image).pixels() == drawn.pixels).all()
        assert (read_mask(sample.masks["lesion"]) == drawn.mask).all()


# --- parts ---------------------------------------------------------------------------------------


def parts(samples: list[Sample]) -> dict[str, str | None]:
    return {sample.id: sample.part for sample in samples}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("isic2016", {"ISIC_0000000": "train", "ISIC_0000003": "test"}),
        (
            "isic2017",
            {"ISIC_0000000": "train", "ISIC_0000001": "train", "ISIC_0001769": "validation", "ISIC_0012086": "test"},
        ),
        ("isic2018", {"ISIC_0000000": "train", "ISIC_0000003": "train"}),
        ("ham10000", dict.fromkeys(FOUND["ham10000"])),
        ("ph2", dict.fromkeys(FOUND["ph2"])),
        ("plain", dict.fromkeys("abc")),
    ],
)
def test_the_part_is_what_the_data_sets_own_folders_say(
    tmp_path: Path, source: str, expected: dict[str, str | None]
) -> None:
    plant_source(tmp_path / "test", source)  # a name that says nothing of a published data set
    if source == "plain":
        expected = dict.fromkeys(expected, "test")
    assert parts(read(tmp_path)) == expected
    assert parts(read(tmp_path / "test")) == expected


@pytest.mark.parametrize(("word", "part"), [("Training", "train"), ("Validation", "validation"), ("Test", "test")])
def test_each_part_of_isic_2018_is_named(tmp_path: Path, word: str, part: str) -> None:
    plant(tmp_path, f"ISIC2018_Task1-2_{word}_Input/ISIC_0000000.jpg")
    plant(tmp_path, f"ISIC2018_Task1_{word}_GroundTruth/ISIC_0000000_segmentation.png")
    plant(tmp_path, f"ISIC2018_Task2_{word}_GroundTruth_v3/ISIC_0000000_attribute_streaks.png")
    (sample,) = read(tmp_path)
    assert (sample.part, set(sample.masks)) == (part, {"lesion", "streaks"})


@pytest.mark.parametrize("pattern", ["{part}/{kind}", "{kind}/{part}", "mine/{part}/{kind}", "{part}/mine/{kind}"])
@pytest.mark.parametrize(
    ("word", "part", "side"),
    [
        ("train", "train", "train"),
        ("Training", "train", "train"),
        ("val", "validation", "tune"),
        ("VALID", "validation", "tune"),
        ("validation", "validation", "tune"),
        ("test", "test", "test"),
        ("Testing", "test", "test"),
        ("Training_set", "train", "train"),
        ("train-images", "train", "train"),
        ("Val Set", "validation", "tune"),
        ("tune", "validation", "tune"),
        ("test_set", "test", "test"),
        ("testdata", "test", "test"),
        ("TEST_imgs", "test", "test"),
    ],
)
def test_folders_of_ones_own_name_part_and_split(tmp_path: Path, pattern: str, word: str, part: str, side: str) -> None:
    for kind in ("images", "masks"):
        plant(tmp_path, *(f"{pattern.format(part=word, kind=kind)}/{n}.png" for n in range(40)))
    samples = read(tmp_path)
    assert parts(samples) == {str(n): part for n in range(40)}
    assert all("lesion" in sample.masks for sample in samples)
    assert splits.select(samples, side) == samples


@pytest.mark.parametrize("pattern", ["{part}/{kind}/{id}", "{kind}/{part}/{id}", "mine/{part}/{kind}/{id}"])
def test_images_of_one_name_in_several_parts_are_kept_apart(tmp_path: Path, pattern: str) -> None:
    held = {"train": "ab", "val": "bc", "test": "bcd"}
    for part, ids in held.items():
        for kind in ("images", "masks"):
            plant(tmp_path, *(pattern.format(part=part, kind=kind, id=f"{id}.png") for id in ids))
    samples = {sample.id: sample for sample in read(tmp_path)}
    assert parts(list(samples.values())) == {
        "a": "train",
        "d": "test",
        "test/b": "test",
        "test/c": "test",
        "train/b": "train",
        "validation/b": "validation",
        "validation/c": "validation",
    }
    for sample in samples.values():
        folder = "val" if sample.part == "validation" else str(sample.part)
        files = {"images": sample.image, "masks": sample.masks["lesion"]}
        stem = sample.id.split("/")[-1]
        assert files == {
            kind: tmp_path / pattern.format(part=folder, kind=kind, id=f"{stem}.png") for kind in ("images", "masks")
        }
        assert sample.group == sample.id


def test_a_mask_of_another_part_or_of_none_is_not_an_images(tmp_path: Path) -> None:
    plant(tmp_path, "images/train/a.png", "images/test/a.png", "masks/train/a.png", "masks/a.png")
    assert masks(read(tmp_path)) == {"test/a": None, "train/a": tmp_path / "masks/train/a.png"}


def test_masks_without_parts_are_of_the_images_of_every_part(tmp_path: Path) -> None:
    plant(tmp_path, "images/train/a.png", "images/val/a_b.png", "masks/a.png", "masks/a_b.png", "masks/a_b_hair.png")
    samples = read(tmp_path)
    assert parts(samples) == {"a": "train", "a_b": "validation"}
    assert {sample.id: {name: path.name for name, path in sample.masks.items()} for sample in samples} == {
        "a": {"lesion": "a.png"},
        "a_b": {"lesion": "a_b.png", "hair": "a_b_hair.png"},
    }


def test_one_name_in_two_parts_and_masks_without_parts_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "images/train/a.png", "images/val/a.png", "masks/a.png")
    with pytest.raises(DataError, match="have one name, and it cannot be said which is meant; rename one"):
        read(tmp_path)


def test_the_innermost_part_counts(tmp_path: Path) -> None:
    plant(tmp_path, "train/images/test/a.png", "train/masks/test/a.png", "test/train/images/b.png")
    assert parts(read(tmp_path)) == {"a": "test", "b": "train"}


@pytest.mark.parametrize("name", ["attest", "tests", "contest_set", "test2", "trainer", "set", "values", "latest"])
def test_a_name_that_is_like_a_parts_is_none(tmp_path: Path, name: str) -> None:
    plant(tmp_path, f"{name}/images/a.png", f"{name}/masks/a.png")
    assert parts(read(tmp_path)) == {"a": None}


@pytest.mark.parametrize("place", ["", "images/", "mine/images/"])
@pytest.mark.parametrize("is_link", [False, True])
def test_the_name_of_the_folder_that_is_read_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, is_link: bool
) -> None:
    home = tmp_path / "test_set"
    if is_link:
        (tmp_path / "disk").mkdir()
        home.symlink_to("disk")
    plant(home, f"{place}a.jpg", f"{place}a_mask.png")
    assert parts(read(home)) == {"a": "test"}
    if not is_link:
        monkeypatch.chdir(home)
        assert parts(read(".")) == {"a": "test"}
    plant(home, "val/images/b.jpg", "val/masks/b.png", "train/images/c.jpg", "train/masks/c.png")
    if place == "mine/images/":
        with pytest.raises(DataError, match=r"holds images in train/ and in mine/"):
            read(home)
    else:
        assert parts(read(home)) == {"a": "test", "b": "validation", "c": "train"}


@pytest.mark.parametrize(
    ("place", "files"),
    [
        ("", ("Train/images/a.png", "holdout/images/b.png", "holdout/masks/b.png", "test_set/images/c.png")),
        ("", ("Train/a.png", "Train/a_mask.png", "holdout/deeper/b.png", "holdout/deeper/b_mask.png")),
        ("images", ("images/Train/a.png", "images/holdout/b.png", "masks/Train/a.png", "masks/holdout/b.png")),
    ],
)
def test_a_folder_of_images_without_a_part_beside_parts_is_refused(
    tmp_path: Path, place: str, files: tuple[str, ...]
) -> None:
    plant(tmp_path / "mine", *files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'mine' / place} holds images in Train/ and in holdout/, and it cannot be said on which side the "
        "latter are; expected train, val or test as the name of each such folder (or, say, test_set): rename it, or "
        "move it away"
    )


def test_folders_without_images_of_ones_own_may_lie_beside_parts(tmp_path: Path) -> None:
    plant(tmp_path, "train/images/a.png", "train/masks/a.png", "test/images/b.png", "results/c.png", "docs/notes.txt")
    plant(tmp_path, "train/masks/old/a.png", "train/images/thumbnails/deeper/a.png")
    plant_source(tmp_path / "public", "isic2017")
    assert parts([s for s in read(tmp_path) if s.source == "plain"]) == {"a": "train", "b": "test"}


def test_images_of_one_name_in_several_data_sets_of_ones_own_are_kept_apart_and_fall_on_one_side(
    tmp_path: Path,
) -> None:
    plant(
        tmp_path, *(f"{home}/{kind}/{n}.png" for home in ("A", "b") for kind in ("images", "masks") for n in range(30))
    )
    plant(tmp_path, "b/images/x.png", "b/masks/x.png")
    samples = read(tmp_path)
    assert {s.id for s in samples} == {f"{home}/{n}" for home in ("A", "b") for n in range(30)} | {"x"}
    assert all(s.group == s.id.split("/")[-1] for s in samples)
    table = splits.read()
    assert all(len({splits.split_of(s, table) for s in samples if s.group == group}) == 1 for group in "01x")


@pytest.mark.parametrize(
    "files",
    [
        ("images/a.jpg", "images/a.png"),
        ("images/val/a.png", "images/valid/a.png"),
        ("images/a.png", "images/images/a.png"),
        ("images/b.png", "masks/a.png", "masks/a.bmp"),
        ("a.jpg", "a.png", "a_mask.png"),
    ],
)
def test_two_files_of_one_name_are_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    plant(tmp_path, *files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    first, second = sorted(tmp_path / file for file in files if PurePath(file).stem == "a")
    assert str(caught.value) in {
        f"{one} and {other} have one name, and it cannot be said which is meant; rename one"
        for one, other in ((first, second), (second, first))
    }


def test_two_files_of_one_name_in_one_part_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "val/images/a.png", "valid/images/a.png")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/val/images/a.png and {tmp_path}/valid/images/a.png have one name in one part of a data set; "
        "rename or remove one"
    )


def test_a_published_image_in_two_parts_is_refused(tmp_path: Path) -> None:
    plant_source(tmp_path, "isic2017")
    plant(tmp_path, "ISIC-2017_Test_v2_Data/ISIC_0000001.jpg")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/ISIC-2017_Test_v2_Data/ISIC_0000001.jpg is of test and "
        f"{tmp_path}/ISIC-2017_Training_Data/ISIC_0000001.jpg of train, and it cannot be said on which side of "
        "isic2017 the image stands; remove the one that does not belong there"
    )


# --- masks beside their images -------------------------------------------------------------------


def named(samples: list[Sample]) -> dict[str, dict[str, str]]:
    return {s.id: {name: path.name for name, path in s.masks.items()} for s in samples}


@pytest.mark.parametrize("place", ["", "mine/", "mine/deeper/", "images/", "Train/", "images/train/"])
def test_masks_may_lie_beside_their_images(tmp_path: Path, place: str) -> None:
    files = ("a.jpg", "a_mask.png", "a_hair.PNG", "b.TIF", "b_Segmentation.PNG", "c.png", "c_LESION.bmp", "d.jpg")
    plant(tmp_path, *(place + file for file in files), f"{place}notes.txt", f"{place}._a.jpg")
    samples = read(tmp_path)
    assert named(samples) == {
        "a": {"lesion": "a_mask.png", "hair": "a_hair.PNG"},
        "b": {"lesion": "b_Segmentation.PNG"},
        "c": {"lesion": "c_LESION.bmp"},
        "d": {},
    }
    assert {s.part for s in samples} == {"train" if "rain" in place else None}
    assert {s.source for s in samples} == {"plain"}


def test_beside_images_only_what_cannot_be_one_is_a_mask(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "a_mask.png", "a_hair.png")
    plant(tmp_path, "a_2.png")  # another image, though without a mask
    plant(tmp_path, "a_left.png", "a_left_mask.png", "a_left_hair.png")  # an image, since it has a mask
    plant(tmp_path, "a_close.jpg", "b.jpg", "b_mask.jpg")  # a JPEG is never a mask
    assert named(read(tmp_path)) == {
        "a": {"lesion": "a_mask.png", "hair": "a_hair.png"},
        "a_2": {},
        "a_close": {},
        "a_left": {"lesion": "a_left_mask.png", "hair": "a_left_hair.png"},
        "b": {},
        "b_mask": {},
    }


@settings(deadline=None)
@given(ids=st.sets(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6), data=st.data())
def test_every_file_beside_others_is_an_image_or_a_mask_of_one(ids: set[str], data: st.DataObject) -> None:
    suffixes = st.sets(st.sampled_from(["_mask", "_lesion", "_hair", "_ruler_2"]))
    classes = {id: data.draw(suffixes, label=id) for id in sorted(ids)}
    with tempfile.TemporaryDirectory() as name:
        folder = plant(Path(name), *(f"{id}.jpg" for id in ids))
        plant(folder, *(f"{id}{suffix}.png" for id in ids for suffix in classes[id]))
        if not any({"_mask", "_lesion"} & own for own in classes.values()):
            with pytest.raises(DataError, match="holds no data set that dermseg knows"):
                read(folder)
            return
        found = named(read(folder))
    assert found.keys() == ids
    for id, own in classes.items():
        expected = {suffix[1:]: f"{id}{suffix}.png" for suffix in own & {"_hair", "_ruler_2"}}
        lesion = next((suffix for suffix in ("_lesion", "_mask") if suffix in own), None)
        assert found[id] == expected | ({"lesion": f"{id}{lesion}.png"} if lesion else {})


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "b.jpg"),
        ("a.jpg", "a_2.jpg"),
        ("a.jpg", "a_mask.jpg"),
        ("a.jpg", "a_hair.png"),
        ("a.jpg", "b_mask.png"),
        ("a_mask.png", "b_mask.png"),
        ("photos/a.jpg", "masks/a.png"),
        ("masks/a.png", "masks/a_mask.png"),
        ("images/patient 1/a.jpg", "masks/patient 1/a.png"),
        ("a/b/c/d/images/a.jpg", "a/b/c/d/masks/a.png"),
    ],
)
def test_what_only_resembles_a_data_set_is_none(tmp_path: Path, files: tuple[str, ...]) -> None:
    plant(tmp_path, *files)
    with pytest.raises(DataError, match="holds no data set that dermseg knows"):
        read(tmp_path)


def test_an_image_without_a_mask_beside_it_is_named(tmp_path: Path) -> None:
    samples = own(tmp_path, "a.jpg", "a_mask.png", "b.jpg")
    for classes, name in ((["lesion"], "b_lesion.png"), (["lesion", "hair"], "a_hair.png")):
        with pytest.raises(DataError) as caught:
            with_masks(samples, classes)
        assert f"expected {name} beside it, empty where nothing is to be seen" in str(caught.value)


# --- ambiguity -----------------------------------------------------------------------------------


def test_with_a_folder_of_masks_all_that_lies_in_images_is_an_image(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "images/a_mask.png", "masks/a.png")
    assert named(read(tmp_path)) == {"a": {"lesion": "a.png"}, "a_mask": {}}


@pytest.mark.parametrize(
    ("files", "both"),
    [
        (("images/a.png", "masks/a.png", "gt/a.png"), "gt/ and masks/"),
        (("images/a.png", "img/a.png", "masks/a.png"), "images/ and img/"),
        (("images/a.png", "Images/b.png", "masks/a.png"), "Images/ and images/"),
        (("images/a.png", "masks/a.png", "labels/train/a.png"), "labels/ and masks/"),
    ],
)
def test_two_folders_for_one_thing_are_refused(tmp_path: Path, files: tuple[str, ...], both: str) -> None:
    plant(tmp_path / "mine", *files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/mine holds {both}, and it cannot be said which is meant; keep one of them there"
    )
    plant_source(tmp_path / "public", "isic2017")
    assert {s.source for s in read(tmp_path, ["isic2017"])} == {"isic2017"}


def test_a_folder_of_another_kind_of_labels_is_no_folder_of_masks(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "masks/a.png", "labels/a.txt", "annotations/a.json")
    assert masks(read(tmp_path)) == {"a": tmp_path / "masks/a.png"}


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "plain"])
def test_masks_beside_images_are_not_looked_for_where_another_data_set_lies(tmp_path: Path, source: str) -> None:
    plant_source(tmp_path, source)
    home = tmp_path / "PH2 Dataset images" if source == "ph2" else tmp_path
    folders = {tmp_path / PurePath(file).parent for file in TREES[source]} - {tmp_path} | {home, home / "results"}
    for folder in folders:
        plant(folder, "a.png", "a_mask.png")
    for sources in (None, [source]):
        assert masks(read(tmp_path, sources)).keys() == FOUND[source].keys()
    with pytest.raises(DataError, match="holds no plain"):
        read(tmp_path, ["plain"])


def test_results_beside_ones_own_data_set_are_no_data_set(tmp_path: Path) -> None:
    plant(tmp_path, "images/a.png", "masks/a.png", "b.png", "b_mask.png", "results/c.png", "results/c_mask.png")
    assert masks(read(tmp_path)) == {"a": tmp_path / "masks/a.png"}


def test_images_without_masks_count_near_the_folder_alone(tmp_path: Path) -> None:
    plant(tmp_path, "one/images/a.png", "two/test/images/b.png", "site/docs/images/logo.png")
    assert parts(read(tmp_path)) == {"a": None, "b": "test"}


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_source(tmp_path, "plain")
    plant(tmp_path, "lost+found/x")  # on every disk, and nobody's
    scandir = os.scandir

    def guarded(path: Path) -> os._ScandirIterator[str]:
        if Path(path).name in ("lost+found", "locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(str(path))

    monkeypatch.setattr("os.scandir", guarded)
    assert [sample.id for sample in read(tmp_path)] == ["a", "b", "c"]
    plant(tmp_path, "locked/images/d.png")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/locked cannot be listed (Permission denied), and it may hold images; allow reading it, or move "
        "it away"
    )


def test_links_to_nothing_or_to_themselves_are_no_folders(tmp_path: Path) -> None:
    plant_source(tmp_path, "plain")
    for place in (tmp_path, tmp_path / "masks"):
        (place / "loop").symlink_to("loop")
        (place / "broken").symlink_to("nowhere")
    assert [sample.id for sample in read(tmp_path)] == ["a", "b", "c"]
    (tmp_path / "images/d.jpg").symlink_to("d.jpg")
    *_, sample = read(tmp_path)
    with pytest.raises(InputError, match=r"images/d\.jpg does not exist"):
        open_image(sample.image)


# --- HAM10000 in images/ and masks/ --------------------------------------------------------------

FLAT_HAM = (
    *(f"images/{id}.jpg" for id in FOUND["ham10000"]),
    *(f"masks/{id}_segmentation.png" for id in FOUND["ham10000"]),
)


@pytest.mark.parametrize("home", ["", "x", "HAM10000", "ham10000_256"])
def test_images_and_masks_beside_the_metadata_are_ham10000s(tmp_path: Path, home: str) -> None:
    plant(tmp_path / home, *FLAT_HAM, "masks/ISIC_0024306_hair.png")
    (tmp_path / home / "HAM10000_metadata.csv").write_text(METADATA)
    samples = read(tmp_path)
    assert {(s.source, s.licence) for s in samples} == {("ham10000", CC_BY_NC)}
    assert masks(samples) == {id: tmp_path / home / f"masks/{id}_segmentation.png" for id in FOUND["ham10000"]}
    assert [s.group for s in samples] == ["HAM_0000118", "HAM_0002730", "HAM_0000118"]
    assert set(samples[0].masks) == {"lesion", "hair"}


def test_a_folder_named_so_needs_the_metadata(tmp_path: Path) -> None:
    plant(tmp_path / "HAM10000", *FLAT_HAM)
    with pytest.raises(DataError, match=r"holds HAM10000 images without HAM10000_metadata\*"):
        read(tmp_path)


@pytest.mark.parametrize("home", ["IMD_2020", "HAM10000_images", "ISIC-2017_Training_Data"])
def test_ones_own_data_set_may_have_a_name_like_a_published_ones(tmp_path: Path, home: str) -> None:
    plant(tmp_path / home, "images/a.png", "masks/a.png")
    assert [(s.source, s.id) for s in read(tmp_path)] == [("plain", "a")]


@pytest.mark.parametrize("extra", ["images/a.png", "images/train/ISIC_0024307.jpg"])
def test_images_of_other_names_and_parts_are_ones_own(tmp_path: Path, extra: str) -> None:
    plant(tmp_path / "HAM10000", *FLAT_HAM, extra)
    assert {s.source for s in read(tmp_path)} == {"plain"}


def test_copies_in_both_cases_are_one_data_set(tmp_path: Path) -> None:
    plant_source(tmp_path, "ham10000")
    plant(tmp_path, *(file.replace("HAM10000_images", "ham10000_images") for file in TREES["ham10000"]))
    assert masks(read(tmp_path)).keys() == FOUND["ham10000"].keys()


# --- speed ---------------------------------------------------------------------------------------


def test_ten_thousand_images_take_a_listing_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, *(f"{kind}/{n:05d}.png" for kind in ("images", "masks") for n in range(10_000)))
    listed: list[str] = []
    scandir = os.scandir

    def counted(path: Path) -> os._ScandirIterator[str]:
        listed.append(str(path))
        return scandir(str(path))

    monkeypatch.setattr("os.scandir", counted)
    start = time.perf_counter()
    assert len(read(tmp_path)) == 10_000
    assert time.perf_counter() - start < 10  # about 0.2 s on an idle core
    assert sorted(listed) == [str(tmp_path), str(tmp_path / "images"), str(tmp_path / "masks")]


# --- several data sets, one data set twice -------------------------------------------------------


def test_several_data_sets_come_in_a_fixed_order_by_id(tmp_path: Path) -> None:
    for number, source in enumerate(reversed(SOURCES)):
        plant_source(tmp_path / str(number), source)
    found = [(sample.source, sample.id) for sample in read(tmp_path)]
    assert found == [(source, id) for source in SOURCES for id in FOUND[source]]


def test_only_the_sources_asked_for_are_read(tmp_path: Path) -> None:
    for source in SOURCES:
        plant_source(tmp_path / source, source)
    assert {sample.source for sample in read(tmp_path, ["ph2", "isic2017"])} == {"ph2", "isic2017"}


def test_a_shared_id_is_a_sample_in_each_data_set(tmp_path: Path) -> None:
    plant_source(tmp_path / "a", "isic2017")
    plant_source(tmp_path / "b", "isic2018")
    assert [s.source for s in read(tmp_path) if s.id == "ISIC_0000000"] == ["isic2017", "isic2018"]


@pytest.mark.parametrize(("fuller", "other"), [("a", "b"), ("b", "a")])
def test_of_two_folders_of_one_data_set_the_fuller_wins_and_the_other_adds_what_it_lacks(
    tmp_path: Path, fuller: str, other: str
) -> None:
    plant_source(tmp_path / fuller, "isic2017")
    plant(
        tmp_path / other,
        "ISIC-2017_Validation_Data/ISIC_0001769.jpg",
        "ISIC-2017_Validation_Data/ISIC_0009999.jpg",
        "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0001769_segmentation.png",
        "ISIC-2017_Validation_Part1_GroundTruth/ISIC_0009999_segmentation.png",
    )
    samples = {sample.id: sample for sample in read(tmp_path)}
    assert list(samples) == sorted([*FOUND["isic2017"], "ISIC_0009999"])
    assert {id for id, s in samples.items() if s.image.is_relative_to(tmp_path / other)} == {"ISIC_0009999"}
    for sample in samples.values():  # image and mask come from one folder
        assert sample.masks["lesion"].parts[: len(tmp_path.parts) + 1] == sample.image.parts[: len(tmp_path.parts) + 1]


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab"])
def test_the_metadata_may_have_any_suffix_and_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    plant(tmp_path, *TREES["ham10000"])
    (tmp_path / name).write_text(METADATA, encoding="utf-8-sig")
    assert {sample.group for sample in read(tmp_path)} == {"HAM_0000118", "HAM_0002730"}


def test_an_image_without_a_lesion_in_the_metadata_is_its_own_group(tmp_path: Path) -> None:
    plant(tmp_path, *TREES["ham10000"])
    (tmp_path / "HAM10000_metadata.csv").write_text("lesion_id,image_id\n,ISIC_0024306\nHAM_0002730,ISIC_0024307\n")
    assert [s.group for s in read(tmp_path)] == ["ISIC_0024306", "HAM_0002730", "ISIC_0029306"]


def test_ham10000_without_metadata_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, *TREES["ham10000"])
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds HAM10000 images without HAM10000_metadata*; it is needed, since it says which images show "
        "one lesion"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"image,lesion\nISIC_0024306,HAM_0000118\n",
        b"<html>not found</html>\n\n",
        b"PK\x03\x04\xff\xfe\x00\x81",
    ],
    ids=["empty", "other columns", "a web page", "a zip"],
)
def test_broken_metadata_are_refused(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, *TREES["ham10000"])
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert (
        str(caught.value) == f"{table} is no metadata of HAM10000: expected a CSV with the columns image_id, lesion_id"
    )


def test_metadata_without_rows_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, *TREES["ham10000"])
    (tmp_path / "HAM10000_metadata.csv").write_bytes(b"lesion_id,image_id\n")
    with pytest.raises(DataError, match=r"HAM10000_metadata.csv has no rows; expected one for each image$"):
        read(tmp_path)


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, ["isic2017", "isic2015"])
    assert str(caught.value) == (
        "there is no data set 'isic2015'; choose from: isic2016, isic2017, isic2018, ham10000, ph2, plain"
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path}/nowhere is no folder; expected one that holds a data set "
        "(isic2016, isic2017, isic2018, ham10000, ph2, plain)"
    )


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    plant(tmp_path, "data.zip")
    with pytest.raises(InputError, match=r"data\.zip is no folder; expected one that holds a data set"):
        read(tmp_path / "data.zip")


EXPECTED = """expected, there or at most 3 folders deeper:
  isic2016: ISBI2016_ISIC_Part1_*_Data/ISIC_* with ISBI2016_ISIC_Part1_*_GroundTruth/*_segmentation
  isic2017: ISIC-2017_*_Data/ISIC_* with ISIC-2017_*_Part1_GroundTruth/*_segmentation
  isic2018: ISIC2018_Task1-2_*_Input/ISIC_* with ISIC2018_Task1_*_GroundTruth/*_segmentation
  ham10000: HAM10000_images*/ISIC_* with HAM10000_segmentations_lesion_tschandl/*_segmentation
  ph2: IMD*/IMD*_Dermoscopic_Image/IMD* with IMD*/IMD*_lesion/*_lesion
  plain: images/a.jpg with masks/a.png, each also in train/, val/ and test/, or a.jpg beside a_mask.png
name the folders so, or give the folder above them"""


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ((), ["nothing"]),
        ((".hidden", "__MACOSX/images/a.png"), ["nothing"]),
        (("photos/a.jpg", "a.jpg"), ["1 folder (photos), 1 .jpg", "  photos/: 1 .jpg"]),
        (
            [f"{name}/{n}.jpg" for name in "abcde" for n in range(12)] + ["a/x.CSV", "a/deeper/x.txt", "README"],
            [
                "5 folders (a, b, c, ...), 1 without suffix",
                "  a/: 1 folder (deeper), 12 .jpg, 1 .csv",
                "  b/: 12 .jpg",
                "  c/: 12 .jpg",
            ],
        ),
        ([f"a.{n}" for n in range(1, 7)], ["1 .1, 1 .2, 1 .3, 1 .4, ..."]),
    ],
)
def test_where_no_data_set_is_found_it_says_what_there_is(
    tmp_path: Path, files: tuple[str, ...], found: list[str]
) -> None:
    plant(tmp_path, *files)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    lines = "\n".join(found)
    assert str(caught.value) == f"{tmp_path} holds no data set that dermseg knows; found {lines}\n{EXPECTED}"


def test_a_source_asked_for_must_be_there(tmp_path: Path) -> None:
    plant_source(tmp_path / "a", "isic2017")
    with pytest.raises(DataError) as caught:
        read(tmp_path, ["isic2017", "isic2018", "plain"])
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds no isic2018 and no plain; found 1 folder (a)",
        "  a/: 7 folders (ISIC-2017_Test_v2_Data, ISIC-2017_Test_v2_Part1_GroundTruth, ISIC-2017_Training_Data, ...)",
        "expected, there or at most 3 folders deeper:",
        *(line for line in EXPECTED.splitlines() if line.startswith(("  isic2018", "  plain"))),
        "name the folders so, or give the folder above them",
    ]


def test_without_sources_nothing_is_found(tmp_path: Path) -> None:
    plant_source(tmp_path, "isic2017")
    with pytest.raises(DataError, match="holds no "):
        read(tmp_path, [])


# --- the real data sets --------------------------------------------------------------------------


@needs_data
def test_the_real_data_sets_are_read_whole() -> None:
    samples = read(os.environ["DERMSEG_DATA"], ["isic2017", "isic2018", "ham10000"])
    assert Counter(s.source for s in samples) == {"isic2017": 2150, "isic2018": 2594, "ham10000": 7993}
    assert Counter(s.source for s in with_masks(samples, ["lesion"])) == {
        "isic2017": 2150,
        "isic2018": 2065,
        "ham10000": 7993,
    }
    assert Counter(s.source for s in with_masks(samples, ATTRIBUTES)) == {"isic2018": 2594}
    assert all(path.is_file() for s in samples for path in (s.image, *s.masks.values()))
    assert all(s.group.startswith("HAM_") for s in samples if s.source == "ham10000")
