"""What statistics count and measure, against numbers computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermseg.data import catalog, splits, statistics
from dermseg.data.catalog import ATTRIBUTES, LESION, Sample
from dermseg.data.statistics import Statistics
from dermseg.errors import DataError
from dermseg.imaging import encode_image, encode_mask, read_mask
from dermseg.synthetic import draw, write_dataset

SIZE = (40, 50)  # 2,000 pixels


def sample(
    folder: Path,
    id: str,
    masks: Mapping[str, int],
    *,
    colour: tuple[int, int, int] = (200, 150, 140),
    source: str = "plain",
    group: str | None = None,
) -> Sample:
    """An image of one colour whose masks have so many pixels each."""
    folder.mkdir(exist_ok=True, parents=True)
    image = folder / f"{id}.png"
    image.write_bytes(encode_image(np.full((*SIZE, 3), colour, np.uint8)))
    files = {}
    for name, count in masks.items():
        mask = (np.arange(SIZE[0] * SIZE[1]) < count).reshape(SIZE)
        files[name] = folder / f"{id}_{name}.png"
        files[name].write_bytes(encode_mask(mask))
    return Sample(id, image, files, group or id, source, "CC0-1.0")


@pytest.fixture
def three(tmp_path: Path) -> Statistics:
    samples = [
        sample(tmp_path, "a", {LESION: 99, "streaks": 10, "globules": 20}, colour=(255, 0, 0), source="isic2018"),
        sample(tmp_path, "b", {LESION: 600, "streaks": 0, "globules": 40}, source="isic2018"),
        sample(tmp_path, "c", {LESION: 601}, colour=(0, 0, 0), source="ph2", group="d"),
    ]
    return statistics.gather(samples, {"a": "train", "b": "tune", "d": "test"}, workers=2)


def test_each_image_is_a_row(three: Statistics) -> None:
    rows = three.images
    assert list(rows["id"]) == ["a", "b", "c"]
    assert list(rows["split"]) == list(rows["attribute_split"]) == ["train", "tune", "test"]
    assert list(rows["group"]) == ["a", "b", "d"]
    assert set(rows["width"]) == {50}
    assert set(rows["height"]) == {40}
    assert set(rows["format"]) == {"PNG"}
    assert [path.name for path in map(Path, rows["image"])] == ["a.png", "b.png", "c.png"]
    assert tuple(rows) == statistics.COLUMNS
    assert three.failures == ()


def test_colours_are_means_and_deviations_of_rgb_and_lab(three: Statistics, tmp_path: Path) -> None:
    red, _, black = (three.images.iloc[place] for place in range(3))
    assert [red[f"{name} mean"] for name in ("red", "green", "blue")] == [255, 0, 0]
    # CIELAB of sRGB's red under D65, as Lindbloom's calculator gives it.
    assert [red[f"{name} mean"] for name in ("L*", "a*", "b*")] == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert [black[f"{name} mean"] for name in statistics.CHANNELS] == pytest.approx([0] * 6, abs=0.01)
    assert [red[f"{name} std"] for name in statistics.CHANNELS] == pytest.approx([0] * 6, abs=0.01)

    halves = np.zeros((*SIZE, 3), np.uint8)
    halves[:, :25] = 100
    path = tmp_path / "halves.png"
    path.write_bytes(encode_image(halves))
    found = statistics.gather([Sample("h", path, {}, "h", "plain", "none")], {}).images.iloc[0]
    assert (found["green mean"], found["green std"]) == (50, 50)


def test_lesions_are_counted_and_classed_by_size(three: Statistics) -> None:
    table = statistics.lesions(three)
    assert list(table) == ["id", "source", "split", "lesion_pixels", "ratio", "size_class"]
    assert list(table["lesion_pixels"]) == [99, 600, 601]
    assert list(table["ratio"]) == [0.0495, 0.3, 0.3005]
    assert list(table["size_class"]) == ["tiny", "medium", "large"]


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30))
def test_size_classes_follow_their_limits(pixels: list[int]) -> None:
    images = pd.DataFrame({"id": range(len(pixels)), "source": "s", "split": "train", "width": 50, "height": 40})
    found = Statistics((), images, pd.DataFrame({LESION: pixels}, dtype=float), (), "")
    for count, name in zip(pixels, statistics.lesions(found)["size_class"], strict=True):
        assert name == ("tiny" if count * 20 < 2000 else "large" if count * 10 > 3 * 2000 else "medium")


def test_attributes_are_counted_by_split(three: Statistics) -> None:
    table = statistics.attributes(three).set_index(["split", "attribute"])
    assert three.attributes == ["streaks", "globules"]  # in the challenge's order
    assert set(table.index) == {(s, n) for s in ("train", "tune", "all") for n in ("streaks", "globules")}
    rows = table.to_dict("index")
    assert list(rows["all", "streaks"].values()) == [2, 1, 0.5, 0.005]
    assert list(rows["all", "globules"].values()) == [2, 2, 1, 0.015]
    assert rows["tune", "streaks"]["shown"] == 0
    assert np.isnan(rows["tune", "streaks"]["median_area"])


def test_cooccurrence_counts_images_that_show_both(three: Statistics) -> None:
    table = statistics.cooccurrence(three)
    assert table.to_numpy().tolist() == [[1, 1], [1, 2]]
    assert list(table) == list(table.index) == ["streaks", "globules"]


def test_sources_have_a_row_each(three: Statistics) -> None:
    table = statistics.sources(three).set_index("source")
    assert list(table.index) == ["isic2018", "ph2"]
    first = table.loc["isic2018"]
    assert (first["images"], first["groups"], first["with_lesion_mask"], first["with_attribute_masks"]) == (2, 2, 2, 2)
    assert (first["train"], first["tune"], first["test"]) == (1, 1, 0)
    assert first["median_lesion_ratio"] == pytest.approx((0.0495 + 0.3) / 2)
    assert first["red mean"] == (255 + 200) / 2
    assert table.loc["ph2", "with_attribute_masks"] == 0


def test_the_hash_is_of_all_files(tmp_path: Path) -> None:
    one = sample(tmp_path, "a", {LESION: 5, "hair": 3})
    files = [one.image, *one.masks.values()]
    expected = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files))
    assert statistics.gather([one]).content_hash == expected.hexdigest()
    one.masks["hair"].write_bytes(encode_mask(np.ones(SIZE, np.bool_)))
    assert statistics.gather([one]).content_hash != expected.hexdigest()


def test_unusable_files_are_listed_and_the_others_done(tmp_path: Path) -> None:
    cut, gone, other, good = (sample(tmp_path, id, {LESION: 10, "hair": 0}) for id in ("cut", "gone", "other", "good"))
    cut.image.write_bytes(cut.image.read_bytes()[:60])
    gone.masks["hair"].unlink()
    other.masks[LESION].write_bytes(encode_mask(np.ones((3, 4), np.bool_)))
    found = statistics.gather([cut, gone, other, good])
    assert list(found.images["id"]) == ["gone", "other", "good"]
    assert [sample.id for sample in found.samples] == ["gone", "other", "good"]
    assert [(item.id, item.path.name) for item in found.failures] == [
        ("cut", "cut.png"),
        ("gone", "gone_hair.png"),
        ("other", "other_lesion.png"),
    ]
    assert found.failures[2].message == "the mask has 4 x 3 pixels, its image 50 x 40"
    assert "does not exist" in found.failures[1].message
    assert found.pixels[LESION].tolist()[::2] == [10, 10]
    assert np.isnan(found.pixels[LESION][1])
    assert list(statistics.lesions(found)["id"]) == ["gone", "good"]


def test_nothing_but_unusable_files(tmp_path: Path) -> None:
    one = sample(tmp_path, "a", {LESION: 10})
    one.image.write_bytes(b"")
    found = statistics.gather([one])
    assert len(found.images) == len(statistics.lesions(found)) == 0
    assert len(found.failures) == 1


def test_no_samples() -> None:
    with pytest.raises(DataError, match="there is no image to describe; check the data folder and its sources"):
        statistics.gather([])


def test_lesion_and_attributes_have_their_own_shipped_splits(tmp_path: Path) -> None:
    lesion, attribute = splits.read(), splits.read(splits.ATTRIBUTE_TABLE)
    id = next(id for id in attribute if id in lesion and lesion[id] != attribute[id])
    row = statistics.gather([sample(tmp_path, id, dict.fromkeys(ATTRIBUTES, 1))]).images.iloc[0]
    assert (row["split"], row["attribute_split"]) == (lesion[id], attribute[id])


def test_skin_is_estimated_only_beside_a_known_lesion(tmp_path: Path) -> None:
    drawn = draw(3, (256, 320), hairs=0, vignette=False, tone=0.05)
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    image.write_bytes(encode_image(drawn.pixels))
    mask.write_bytes(encode_mask(drawn.mask))
    known, unknown = (Sample("a", image, masks, "a", "plain", "none") for masks in ({LESION: mask}, {}))
    rows = statistics.gather([known, unknown]).images
    assert rows["tone"][0] in ("very light", "light")
    assert rows["ita"][0] > 41
    assert rows[["ita", "tone"]].isna().all(axis=1).tolist() == [False, True]


def test_large_photographs_are_looked_at_small(tmp_path: Path) -> None:
    write_dataset(tmp_path, 1, seed=5, size=(900, 1200))
    (one,) = catalog.read(tmp_path)
    found = statistics.gather([one])
    assert found.images[["width", "height"]].iloc[0].tolist() == [1200, 900]
    assert found.pixels[LESION][0] == read_mask(one.masks[LESION]).sum()


def test_progress_counts_every_image(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    samples = [sample(tmp_path, str(number), {}) for number in range(3)]
    statistics.gather(samples, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_real_lesions_have_their_masks_ratio(data_folder: Path) -> None:
    samples = catalog.read(data_folder, ["isic2017"])[::200]
    table = statistics.lesions(statistics.gather(samples)).set_index("id")
    for one in samples:
        assert table.at[one.id, "ratio"] == pytest.approx(float(read_mask(one.masks[LESION]).mean()))
