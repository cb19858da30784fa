"""What data sets' tables say of their images, in each layout, and tables that are broken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from dermseg.data import splits, splitting
from dermseg.data.catalog import read
from dermseg.data.metadata import KEYS
from dermseg.errors import DataError


def plant(folder: Path, files: Mapping[str, str] | tuple[str, ...]) -> Path:
    """Write texts, or empty files; the catalog looks at the names of images only."""
    for name, text in (files if isinstance(files, Mapping) else dict.fromkeys(files, "")).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def told(folder: Path) -> dict[str, dict[str, str]]:
    return {sample.id: dict(sample.metadata) for sample in read(folder)}


# --- HAM10000 ------------------------------------------------------------------------------------

HAM10000 = tuple(f"HAM10000_images_part_1/ISIC_000000{n}.jpg" for n in range(8))
ROWS = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_1,ISIC_0000000,akiec,histo,85.0,male,face
HAM_1,ISIC_0000001,bcc,histo,0,female,lower extremity
HAM_2,ISIC_0000002,bkl,histo,,unknown,unknown
HAM_3,ISIC_0000003,df,histo,50,,back
HAM_4,ISIC_0000004,mel,histo,Unknown,male,
HAM_5,ISIC_0000005,nv,follow_up,45, male ,back
,ISIC_0000006,vasc,histo,45,male,back
"""


def test_ham10000s_table_tells_all_four_and_unknown_is_left_out(tmp_path: Path) -> None:
    plant(tmp_path, HAM10000)
    plant(tmp_path, {"HAM10000_metadata.csv": ROWS})
    actinic = "actinic keratosis or intraepithelial carcinoma"
    assert told(tmp_path) == {
        "ISIC_0000000": {"diagnosis": actinic, "sex": "male", "age": "85.0", "site": "face"},
        "ISIC_0000001": {"diagnosis": "basal cell carcinoma", "sex": "female", "age": "0", "site": "lower extremity"},
        "ISIC_0000002": {"diagnosis": "benign keratosis"},
        "ISIC_0000003": {"diagnosis": "dermatofibroma", "age": "50", "site": "back"},
        "ISIC_0000004": {"diagnosis": "melanoma", "sex": "male"},
        "ISIC_0000005": {"diagnosis": "nevus", "sex": "male", "age": "45", "site": "back"},
        "ISIC_0000006": {"diagnosis": "vascular lesion", "sex": "male", "age": "45", "site": "back"},
        "ISIC_0000007": {},
    }
    groups = [sample.group for sample in read(tmp_path)]
    assert groups == ["HAM_1", "HAM_1", "HAM_2", "HAM_3", "HAM_4", "HAM_5", "ISIC_0000006", "ISIC_0000007"]


def test_a_sample_can_still_be_hashed(tmp_path: Path) -> None:
    plant(tmp_path, HAM10000)
    plant(tmp_path, {"HAM10000_metadata.csv": ROWS})
    assert len(set(read(tmp_path))) == len(HAM10000)


def test_the_real_table_is_read_whole(data_folder: Path) -> None:
    samples = read(data_folder / "ham10000", ["ham10000"])
    table = pd.read_csv(data_folder / "ham10000" / "HAM10000_metadata.csv", na_values=["unknown"]).set_index("image_id")
    table = table.loc[[sample.id for sample in samples]]
    for key, column in (("sex", "sex"), ("site", "localization"), ("age", "age")):
        values = [sample.metadata.get(key) for sample in samples]
        expected = [None if pd.isna(value) else value for value in table[column]]
        assert [float(v) if v and key == "age" else v for v in values] == expected
    names = pd.Series([sample.metadata["diagnosis"] for sample in samples], index=table.index)
    pairs = set(zip(table["dx"], names, strict=True))
    assert len(pairs) == table["dx"].nunique() == names.nunique() == 7
    assert {("nv", "nevus"), ("mel", "melanoma"), ("vasc", "vascular lesion")} < pairs


# --- ISIC 2017 -----------------------------------------------------------------------------------

ISIC2017 = (
    "ISIC-2017_Training_Data/ISIC_0000000.jpg",
    "ISIC-2017_Training_Data/ISIC_0000001.jpg",
    "ISIC-2017_Training_Data/ISIC_0000002.jpg",
    "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
    "ISIC-2017_Test_v2_Data/ISIC_0012086.jpg",
)
TRAINING = "image_id,age_approximate,sex\nISIC_0000000,55,female\nISIC_0000001,unknown,unknown\nISIC_0000002,30,male\n"
FINDINGS = "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,0.0,0.0\nISIC_0000001,1.0,0.0\nISIC_0000002,0.0,1.0\n"


@pytest.mark.parametrize(
    ("home", "beside"),
    [
        ("ISIC-2017_Training_Data/", ""),
        ("", ""),
        ("ISIC-2017_Training_Data/ISIC-2017_Training_Data/", "ISIC-2017_Test_v2_Data/"),
    ],
    ids=["in the folder of the images", "beside it", "in the folder once more"],
)
def test_isic_2017s_tables_are_read_in_and_beside_the_folder_of_the_images(
    tmp_path: Path, home: str, beside: str
) -> None:
    plant(tmp_path, ISIC2017)
    tables = {
        f"{home}ISIC-2017_Training_Data_metadata.csv": TRAINING,
        "ISIC-2017_Training_Part3_GroundTruth.csv": FINDINGS,
        f"{beside}ISIC-2017_Test_v2_Data_metadata.csv": "image_id,age_approximate,sex\nISIC_0012086,70,male\n",
    }
    assert told(plant(tmp_path, tables)) == {
        "ISIC_0000000": {"diagnosis": "nevus", "sex": "female", "age": "55"},
        "ISIC_0000001": {"diagnosis": "melanoma"},
        "ISIC_0000002": {"diagnosis": "seborrheic keratosis", "sex": "male", "age": "30"},
        "ISIC_0012086": {"sex": "male", "age": "70"},
    }


def test_isic_2017_does_without_tables(tmp_path: Path) -> None:
    assert set(map(str, told(plant(tmp_path, ISIC2017)).values())) == {"{}"}


def test_isic_2018_has_no_metadata_even_beside_isic_2017(tmp_path: Path) -> None:
    plant(tmp_path, (*ISIC2017, "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg"))
    plant(tmp_path, {"ISIC-2017_Training_Data_metadata.csv": TRAINING})
    assert {sample.source: dict(sample.metadata) for sample in read(tmp_path) if sample.id == "ISIC_0000000"} == {
        "isic2017": {"sex": "female", "age": "55"},
        "isic2018": {},
    }


# --- a user's own --------------------------------------------------------------------------------

OWN = ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png")


def test_ones_own_table_may_tell_any_of_the_four_as_they_are_written(tmp_path: Path) -> None:
    plant(tmp_path, OWN)
    plant(tmp_path, {"metadata.csv": "site,id,diagnosis,seen by\n left arm ,a,Spitz naevus (M. Spitz),X\n,b, NV ,Y\n"})
    assert told(tmp_path) == {
        "a": {"diagnosis": "Spitz naevus (M. Spitz)", "site": "left arm"},
        "b": {"diagnosis": "NV"},
    }


def test_ones_own_table_may_lie_beside_images_and_masks_of_one_folder(tmp_path: Path) -> None:
    plant(tmp_path, ("a.jpg", "a_mask.png"))
    assert told(plant(tmp_path, {"Metadata.CSV": "id,sex\na,f\n"})) == {"a": {"sex": "f"}}


def test_one_table_may_stand_beside_the_folders_of_parts_and_each_may_have_its_own(tmp_path: Path) -> None:
    plant(tmp_path, tuple(f"{part}/{file}" for part in ("train", "test") for file in OWN))
    tables = {"metadata.csv": "id,sex,age\na,f,20\n", "test/metadata.csv": "id,sex\na,m\nb,m\n"}
    assert told(plant(tmp_path, tables)) == {
        "train/a": {"sex": "f", "age": "20"},
        "train/b": {},
        "test/a": {"sex": "m", "age": "20"},
        "test/b": {"sex": "m"},
    }


def test_a_table_beside_a_folder_that_is_no_part_is_not_its_images(tmp_path: Path) -> None:
    plant(tmp_path, tuple(f"clinic/{file}" for file in OWN))
    assert told(plant(tmp_path, {"metadata.csv": "id,sex\na,f\n"})) == {"a": {}, "b": {}}


@pytest.mark.parametrize(
    ("columns", "row", "group"),
    [
        ("lesion_id", "7", "lesion_id:7"),
        ("patient_id", "ISIC_0000000", "patient_id:ISIC_0000000"),
        ("group", " 7 ", "group:7"),
        ("lesion_id,patient_id", "7,P", "patient_id:P"),
        ("patient_id,lesion_id,group", "P,7,g", "group:g"),
        ("lesion_id,patient_id", "7,unknown", "lesion_id:7"),
        ("lesion_id,patient_id", ",", "a"),
        ("sex", "f", "a"),
    ],
)
def test_ones_own_table_may_name_what_belongs_together(tmp_path: Path, columns: str, row: str, group: str) -> None:
    plant(tmp_path, OWN)
    plant(tmp_path, {"metadata.csv": f"id,{columns}\na,{row}\n"})
    samples = read(tmp_path)
    assert [sample.group for sample in samples] == [group, "b"]
    assert all(sample.metadata.keys() <= set(KEYS) for sample in samples)


def test_a_patient_is_on_one_side_of_every_split(tmp_path: Path) -> None:
    names = [f"ISIC_{n:07d}" if n < 10 else f"p{n}" for n in range(60)]
    plant(tmp_path, tuple(f"{kind}/{name}.png" for name in names for kind in ("images", "masks")))
    patient = {name: f"ISIC_{n // 6:07d}" for n, name in enumerate(names)}  # named as a published image
    text = "id,patient_id\n" + "".join(f"{name},{patient[name]}\n" for name in names)
    samples = read(plant(tmp_path, {"metadata.csv": text}))
    table = splits.read()
    own = [sample for sample in samples if sample.id.startswith("p")]
    for sample in own:  # no side but that of the rule
        assert splits.split_of(sample, table) == splits.split_of(sample, {})
    drawn: list[dict[str, str]] = [{sample.id: splits.split_of(sample, {}) for sample in samples}]
    for method in ("random", "k-fold"):
        tables = splitting.split(samples, method, folds=3).tables
        drawn += [{row.id: row.split for row in rows} for rows in tables.values()]
    for sides in drawn:
        assert len(set(sides.values())) > 1
        assert all(len({sides[name] for name in names if patient[name] == one}) == 1 for one in patient.values())


def test_a_table_goes_before_equal_names_in_several_folders(tmp_path: Path) -> None:
    plant(tmp_path, tuple(f"clinic{home}/{file}" for home in "ABC" for file in OWN))
    plant(tmp_path, {"clinicA/metadata.csv": "id,patient_id\na,1\n", "clinicB/metadata.csv": "id,patient_id\na,2\n"})
    assert {sample.id: sample.group for sample in read(tmp_path)} == {
        "clinicA/a": "patient_id:1",
        "clinicB/a": "patient_id:2",
        "clinicC/a": "patient_id:1",  # as long as nobody says so, it may be the same image
        **{f"clinic{home}/b": "b" for home in "ABC"},
    }


# --- broken tables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "table", "text", "message"),
    [
        (OWN, "metadata.csv", "name,sex\na,f\n", "is no table of images: expected a CSV with the columns id"),
        (
            OWN,
            "metadata.csv",
            "id,camera\na,X\n",
            "says nothing of its images; expected any of the columns diagnosis, sex, age, site, group, patient_id, "
            "lesion_id",
        ),
        (OWN, "metadata.csv", "id,age\n", "has no rows; expected one for each image"),
        (OWN, "metadata.csv", "id,age\na,fifty\n", "gives 'a' the age 'fifty'; expected years, from 0 to 120"),
        (OWN, "metadata.csv", "id,age\na,-1\n", "gives 'a' the age '-1'; expected years, from 0 to 120"),
        (OWN, "metadata.csv", "id,age\na,inf\n", "gives 'a' the age 'inf'; expected years, from 0 to 120"),
        (OWN, "metadata.csv", "id,sex\na,f\na,m\n", "has two rows of 'a' that differ; remove the wrong one"),
        (OWN, "metadata.csv", "id,group\na,1\na,2\n", "has two rows of 'a' that differ; remove the wrong one"),
        (
            OWN,
            "metadata.csv",
            "id,sex\na.png,f\n",
            "names none of the images there, such as 'a', but 'a.png'; expected their files' names without suffix in "
            "the column id",
        ),
        (
            ISIC2017,
            "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv",
            "",
            "is no metadata of ISIC 2017: expected a CSV with the columns image_id, age_approximate, sex",
        ),
        (
            ISIC2017,
            "ISIC-2017_Training_Part3_GroundTruth.csv",
            "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,1.0,1.0\n",
            "has {'melanoma': '1.0', 'seborrheic_keratosis': '1.0'} for 'ISIC_0000000'; expected 0 or 1, and at most "
            "one 1",
        ),
        (
            ISIC2017,
            "ISIC-2017_Training_Part3_GroundTruth.csv",
            "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,yes,\n",
            "has {'melanoma': 'yes', 'seborrheic_keratosis': ''} for 'ISIC_0000000'; expected 0 or 1, and at most one "
            "1",
        ),
        (
            HAM10000,
            "HAM10000_metadata.csv",
            "lesion_id,image_id,age\nHAM_1,ISIC_0000000,old\n",
            "gives 'ISIC_0000000' the age 'old'; expected years, from 0 to 120",
        ),
    ],
)
def test_a_broken_table_is_refused_in_one_sentence(
    tmp_path: Path, layout: tuple[str, ...], table: str, text: str, message: str
) -> None:
    plant(tmp_path, layout)
    plant(tmp_path, {table: text})
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path / table} {message}"


def test_rows_may_be_repeated_and_may_name_images_that_are_not_there(tmp_path: Path) -> None:
    plant(tmp_path, OWN)
    text = "id,sex\na,f\na,f\nz,m\nb,unknown\n"
    assert told(plant(tmp_path, {"metadata.csv": text})) == {"a": {"sex": "f"}, "b": {}}
