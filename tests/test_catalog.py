"""The catalog: the layouts data sets are published in, drawn as folder trees, and the real ones where they are."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg.data.catalog import ATTRIBUTES, CC0, CC_BY_NC, LAYOUTS, SOURCES, Sample, read, with_masks
from dermseg.errors import DataError, InputError

needs_data = pytest.mark.skipif("DERMSEG_DATA" not in os.environ, reason="DERMSEG_DATA names no folder of data sets")

TREES = {
    "isic2017": (
        "ISIC-2017_Training_Data/ISIC_0000000.jpg",
        "ISIC-2017_Training_Data/ISIC_0000001.jpg",
        "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv",
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


@pytest.mark.parametrize("above", ["", "some data set"])
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
        b"lesion_id,image_id\n",
        b"image,lesion\nISIC_0024306,HAM_0000118\n",
        b"lesion_id\timage_id\nHAM_0000118\tISIC_0024306\n",
        b"<html>not found</html>\n\n",
        b"PK\x03\x04\xff\xfe\x00\x81",
    ],
    ids=["empty", "no rows", "other columns", "tabs", "a web page", "a zip"],
)
def test_broken_metadata_are_refused(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, *TREES["ham10000"])
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{table} is no metadata of HAM10000: expected a CSV with image_id and lesion_id"


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, ["isic2017", "isic2016"])
    assert str(caught.value) == "there is no data set 'isic2016'; choose from: isic2017, isic2018, ham10000, ph2, plain"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path}/nowhere is no folder; expected one that holds a data set "
        "(isic2017, isic2018, ham10000, ph2, plain)"
    )


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    plant(tmp_path, "data.zip")
    with pytest.raises(InputError, match=r"data\.zip is no folder; expected one that holds a data set"):
        read(tmp_path / "data.zip")


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "photos/a.jpg", "a.jpg")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no data set that dermseg knows; expected the official folders of "
        "isic2017, isic2018, ham10000, ph2, or images/ and masks/"
    )


def test_a_source_asked_for_must_be_there(tmp_path: Path) -> None:
    plant_source(tmp_path / "a", "isic2017")
    with pytest.raises(DataError) as caught:
        read(tmp_path, ["isic2017", "isic2018"])
    assert str(caught.value) == (
        f"{tmp_path} holds no isic2018; expected ISIC2018_Task1-2_*_Input/ISIC_* in it or one folder below"
    )


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
