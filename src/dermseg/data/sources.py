"""The public data sets: their files, addresses, hashes, licences and what to cite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import get_args

from dermseg.data.layouts import CC0, CC_BY_NC, Part
from dermseg.errors import InputError, choose_from

ISIC = "https://isic-challenge-data.s3.amazonaws.com/"


@dataclass(frozen=True)
class Archive:
    """One file of a data set, a ZIP archive or a table.

    Attributes:
        path: Where it lies below the address of its data set's publisher, or of a mirror.
        part: The side of the data set that it belongs to, None where it belongs to no side or to several.
        sha256: As published; None where no hash is known, and the first download's is recorded instead.
        doi: Of the repository that holds it; None where it lies below ``ISIC``.
    """

    path: str
    part: Part | None = None
    sha256: str | None = None
    doi: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name

    @property
    def is_zip(self) -> bool:
        """Whether it is to be unpacked."""
        return self.path.endswith(".zip")

    @property
    def target(self) -> str:
        """What it becomes in its data set's folder: a folder named as the archive, or the table itself."""
        return self.name.removesuffix(".zip")

    @property
    def url(self) -> str:
        """Where a browser finds it: the file, or the page of the repository that lists it."""
        return f"https://doi.org/{self.doi}" if self.doi else ISIC + self.path


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: As ``download`` takes it.
        title: As people call it.
        folder: The folder it lies in, below the folder of all data sets.
        licence: As SPDX names it where it has such a name.
        citation: The papers to cite.
        images: How many images each part has; the key "all" where there are no parts.
        archives: Its files; none where it cannot be fetched.
        note: How to get it by hand, where that is the only way.
    """

    name: str
    title: str
    folder: str
    licence: str
    citation: str
    images: Mapping[str, int] = field(hash=False)
    archives: tuple[Archive, ...] = ()
    note: str = ""


_TSCHANDL_2018 = "Tschandl et al., Scientific Data 5, 180161 (2018), doi:10.1038/sdata.2018.161"
_ISIC_2018 = f"Codella et al., arXiv:1902.03368 (2019); {_TSCHANDL_2018}"
_ISIC_2018_IMAGES = (
    Archive(
        "2018/ISIC2018_Task1-2_Training_Input.zip",
        "train",
        "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
    ),
    Archive(
        "2018/ISIC2018_Task1-2_Validation_Input.zip",
        "validation",
        "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
    ),
    Archive(
        "2018/ISIC2018_Task1-2_Test_Input.zip",
        "test",
        "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
    ),
)
_HAM10000_DOI = "10.7910/DVN/DBW86T"

DATA_SETS = (
    DataSet(
        name="isic2016",
        title="ISIC 2016 Part 1",
        folder="isic2016",
        licence=CC0,
        citation="Gutman et al., arXiv:1605.01397 (2016)",
        images={"train": 900, "test": 379},
        archives=(
            Archive("2016/ISBI2016_ISIC_Part1_Training_Data.zip", "train"),
            Archive("2016/ISBI2016_ISIC_Part1_Training_GroundTruth.zip", "train"),
            Archive("2016/ISBI2016_ISIC_Part1_Test_Data.zip", "test"),
            Archive("2016/ISBI2016_ISIC_Part1_Test_GroundTruth.zip", "test"),
        ),
    ),
    DataSet(
        name="isic2017",
        title="ISIC 2017 Part 1",
        folder="isic2017",
        licence=CC0,
        citation="Codella et al., ISBI 2018, arXiv:1710.05006",
        images={"train": 2000, "validation": 150, "test": 600},
        archives=(
            Archive("2017/ISIC-2017_Training_Data.zip", "train"),
            Archive("2017/ISIC-2017_Training_Part1_GroundTruth.zip", "train"),
            Archive("2017/ISIC-2017_Validation_Data.zip", "validation"),
            Archive("2017/ISIC-2017_Validation_Part1_GroundTruth.zip", "validation"),
            Archive("2017/ISIC-2017_Test_v2_Data.zip", "test"),
            Archive("2017/ISIC-2017_Test_v2_Part1_GroundTruth.zip", "test"),
        ),
    ),
    DataSet(
        name="isic2018-task1",
        title="ISIC 2018 Task 1 (lesions)",
        folder="isic2018",
        licence=CC_BY_NC,
        citation=_ISIC_2018,
        images={"train": 2594, "validation": 100, "test": 1000},
        archives=(
            *_ISIC_2018_IMAGES,
            Archive(
                "2018/ISIC2018_Task1_Training_GroundTruth.zip",
                "train",
                "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
            ),
            Archive(
                "2018/ISIC2018_Task1_Validation_GroundTruth.zip",
                "validation",
                "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
            ),
            Archive(
                "2018/ISIC2018_Task1_Test_GroundTruth.zip",
                "test",
                "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
            ),
        ),
    ),
    DataSet(
        name="isic2018-task2",
        title="ISIC 2018 Task 2 (attributes)",
        folder="isic2018",
        licence=CC_BY_NC,
        citation=_ISIC_2018,
        images={"train": 2594, "validation": 100, "test": 1000},
        archives=(
            *_ISIC_2018_IMAGES,
            Archive("2018/ISIC2018_Task2_Training_GroundTruth_v3.zip", "train"),
            Archive("2018/ISIC2018_Task2_Validation_GroundTruth.zip", "validation"),
            Archive("2018/ISIC2018_Task2_Test_GroundTruth.zip", "test"),
        ),
    ),
    DataSet(
        name="ham10000",
        title="HAM10000 with lesion masks",
        folder="ham10000",
        licence=CC_BY_NC,
        citation=f"{_TSCHANDL_2018}; masks: Tschandl et al., Nature Medicine 26, 1229 (2020), "
        "doi:10.1038/s41591-020-0942-0",
        images={"all": 10015},
        archives=tuple(
            Archive(f"ham10000/{name}", doi=_HAM10000_DOI)
            for name in (
                "HAM10000_metadata.csv",
                "HAM10000_segmentations_lesion_tschandl.zip",
                "HAM10000_images_part_1.zip",
                "HAM10000_images_part_2.zip",
            )
        ),
    ),
    DataSet(
        name="ph2",
        title="PH2",
        folder="ph2",
        licence="research and education only",
        citation="Mendonca et al., EMBC 2013, doi:10.1109/EMBC.2013.6610779",
        images={"all": 200},
        note="the ADDI project gives it on request; unpack it so that the images lie in "
        "'ph2/PH2 Dataset images/IMDxxx/IMDxxx_Dermoscopic_Image/IMDxxx.bmp' below the folder of the data sets",
    ),
)


def find(name: str) -> tuple[DataSet, tuple[Archive, ...]]:
    """Look up what a user names.

    Args:
        name: A data set, such as ``isic2017``, or one part of it, such as ``isic2017:train``.

    Returns:
        The data set and those of its files that were asked for.

    Raises:
        InputError: If there is no such data set or part.
    """
    title, colon, part = name.partition(":")
    known = {dataset.name: dataset for dataset in DATA_SETS}
    if title not in known:
        raise InputError(f"there is no data set {title!r}; {choose_from(title, known)}")
    dataset = known[title]
    if not colon:
        return dataset, dataset.archives
    parts = [each for each in get_args(Part) if each in dataset.images]
    if part not in parts:
        expected = f"choose from: {', '.join(f'{title}:{each}' for each in parts)}" if parts else f"expected {title!r}"
        raise InputError(f"{title} has no part {part!r}; {expected}")
    return dataset, tuple(archive for archive in dataset.archives if archive.part == part)
