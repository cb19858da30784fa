"""The cache: what is in it, when it is built, and that nothing half-built is ever taken for it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from dermseg import synthetic
from dermseg.data import cache, catalog
from dermseg.data.cache import CHUNK, PADDING, CachedImages, load
from dermseg.data.catalog import Sample
from dermseg.errors import BrokenImageError, DataError
from dermseg.geometry import Geometry

SIZE = 40


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Three landscape images, two upright ones and a square one, with masks."""
    synthetic.write_dataset(tmp_path / "data", 3, size=(60, 80))
    synthetic.write_dataset(tmp_path / "data", 2, seed=3, size=(100, 50))
    synthetic.write_dataset(tmp_path / "data", 1, seed=5, size=(SIZE, SIZE))
    return catalog.read(tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entries(folder: Path) -> list[Path]:
    """Caches, whole and half-built, without the locks beside them."""
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def read_only_cache(folder: Path) -> Path:
    (only,) = entries(folder)
    assert sorted(path.name for path in only.iterdir()) == ["images.npy", "masks.npy"]
    return only


def assert_equal(one: CachedImages, other: CachedImages) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.masks, other.masks)
    assert one.content_hash == other.content_hash


# --- content -------------------------------------------------------------------------------------


def test_it_holds_what_decoding_and_fitting_give(samples: list[Sample], folder: Path) -> None:
    cached = load(samples, ["lesion"], SIZE, folder=folder)
    assert len(cached) == len(samples) == 6
    assert cached.images.shape == (6, SIZE, SIZE, 3)
    assert cached.masks.shape == (6, 1, SIZE, SIZE)
    assert cached.images.dtype == cached.masks.dtype == np.uint8
    for index, sample in enumerate(samples):
        pixels = np.asarray(Image.open(sample.image))
        mask = np.asarray(Image.open(sample.masks["lesion"]))
        assert set(np.unique(mask)) == {0, 255}
        geometry = Geometry.fit(mask.shape[0], mask.shape[1], SIZE)
        np.testing.assert_array_equal(cached.images[index], geometry.apply(pixels, fill=PADDING))
        np.testing.assert_array_equal(cached.masks[index, 0], geometry.apply(mask, fill=0))


def test_it_holds_area_averages_in_the_middle_of_grey_padding(samples: list[Sample], folder: Path) -> None:
    """The same by hand, for an image whose sides are halved: 60 x 80 becomes 30 x 40, 5 rows above and below."""
    cached = load(samples[:1], ["lesion"], SIZE, folder=folder)
    mask = np.asarray(Image.open(samples[0].masks["lesion"])).astype(float)
    halved = mask.reshape(30, 2, 40, 2).mean(axis=(1, 3))
    assert np.abs(cached.masks[0, 0, 5:35] - halved).max() <= 1
    assert not cached.masks[0, 0, :5].any()
    assert not cached.masks[0, 0, 35:].any()
    assert (cached.images[0, :5] == 128).all()
    assert (cached.images[0, 35:] == 128).all()


def test_a_large_jpeg_is_close_to_its_full_decoding(tmp_path: Path, folder: Path) -> None:
    drawn = synthetic.draw(0, (480, 640), hairs=0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(drawn.pixels).save(tmp_path / "images" / "a.jpg", quality=95)
    Image.fromarray(drawn.mask).save(tmp_path / "masks" / "a.png")
    cached = load(catalog.read(tmp_path), ["lesion"], SIZE, folder=folder)
    expected = cv2.resize(drawn.pixels, (40, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(cached.images[0, 5:35].astype(int) - expected).mean() < 2


def test_channels_come_in_the_order_of_the_classes(samples: list[Sample], folder: Path, tmp_path: Path) -> None:
    sample = samples[0]
    inverse = tmp_path / "inverse.png"
    Image.fromarray(255 - np.asarray(Image.open(sample.masks["lesion"]))).save(inverse)
    both = replace(sample, masks={**sample.masks, "skin": inverse})
    one = load([both], ["lesion", "skin"], SIZE, folder=folder)
    other = load([both], ["skin", "lesion"], SIZE, folder=folder)
    np.testing.assert_array_equal(one.masks[:, ::-1], other.masks)
    assert not np.array_equal(one.masks, other.masks)
    assert len(entries(folder)) == 2


def test_it_knows_which_classes_an_image_shows(folder: Path, tmp_path: Path) -> None:
    count, classes = CHUNK + 7, ("lesion", "hair")  # more than are read at once
    generator = np.random.default_rng(0)
    expected = generator.random((count, 2)) < 0.5
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for index, row in enumerate(expected):
        pixels = generator.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{index:03}.png")
        for name, is_shown in zip(classes, row, strict=True):
            mask = np.zeros((20, 20), np.uint8)
            mask[index % 20, 5] = 255 if is_shown else 128  # not more than half
            Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{index:03}_{name}.png")
    cached = load(catalog.read(tmp_path / "data"), classes, 20, folder=folder)
    np.testing.assert_array_equal(cached.shown(), expected)


@given(data=st.data())
def test_a_class_is_shown_where_any_pixel_is_more_than_half_inside(data: st.DataObject) -> None:
    count, classes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    highest = data.draw(st.lists(st.integers(0, 255), min_size=count * classes, max_size=count * classes))
    masks = np.zeros((count, classes, 4, 4), np.uint8)
    masks[..., 3, 0] = np.reshape(highest, (count, classes))
    shown = CachedImages(np.zeros((count, 4, 4, 3), np.uint8), masks, "").shown()
    np.testing.assert_array_equal(shown, np.reshape(highest, (count, classes)) >= 128)


# --- when it is built ----------------------------------------------------------------------------


def test_a_second_load_decodes_nothing(samples: list[Sample], folder: Path) -> None:
    built: list[tuple[int, int]] = []
    load(samples, ["lesion"], SIZE, folder=folder, progress=lambda done, count: built.append((done, count)))
    assert built == [(done, 6) for done in range(1, 7)]
    # A cache with other pixels than its files: only a load that decodes nothing can give them.
    marked = np.load(read_only_cache(folder) / "images.npy", mmap_mode="r+")
    marked[:] = 77
    marked.flush()
    again = load(samples, ["lesion"], SIZE, folder=folder, progress=lambda done, count: built.append((done, count)))
    assert (again.images == 77).all()
    assert len(built) == 6


def test_what_is_loaded_cannot_be_changed(samples: list[Sample], folder: Path) -> None:
    cached = load(samples, ["lesion"], SIZE, folder=folder)
    for pixels in (cached.images, cached.masks):
        with pytest.raises(ValueError, match="read-only"):
            pixels[0] = 0


def test_the_content_decides_not_the_place(samples: list[Sample], folder: Path, tmp_path: Path) -> None:
    before = load(samples, ["lesion"], SIZE, folder=folder)
    (tmp_path / "data").rename(tmp_path / "moved")
    after = load(catalog.read(tmp_path / "moved"), ["lesion"], SIZE, folder=folder)
    assert_equal(before, after)
    read_only_cache(folder)


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_changed_byte_makes_a_new_cache(samples: list[Sample], folder: Path, kind: str) -> None:
    before = load(samples, ["lesion"], SIZE, folder=folder)
    path = samples[2].image if kind == "image" else samples[2].masks["lesion"]
    pixels = np.array(Image.open(path))
    pixels[30, 40] = 255 - pixels[30, 40]
    Image.fromarray(pixels).save(path)
    after = load(samples, ["lesion"], SIZE, folder=folder)
    assert after.content_hash != before.content_hash
    changed, kept = (after.images, after.masks) if kind == "image" else (after.masks, after.images)
    changed_before, kept_before = (before.images, before.masks) if kind == "image" else (before.masks, before.images)
    np.testing.assert_array_equal(kept, kept_before)
    assert [not np.array_equal(a, b) for a, b in zip(changed, changed_before, strict=True)] == [
        index == 2 for index in range(6)
    ]


def test_size_and_order_make_caches_of_their_own(samples: list[Sample], folder: Path) -> None:
    first = load(samples, ["lesion"], SIZE, folder=folder)
    larger = load(samples, ["lesion"], SIZE + 8, folder=folder)
    backwards = load(samples[::-1], ["lesion"], SIZE, folder=folder)
    assert larger.images.shape == (6, SIZE + 8, SIZE + 8, 3)
    np.testing.assert_array_equal(backwards.images[::-1], first.images)
    assert first.content_hash == larger.content_hash != backwards.content_hash
    assert len(entries(folder)) == 3


def test_caches_lie_where_the_environment_says(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DERMSEG_CACHE", str(tmp_path / "elsewhere"))
    load(samples, ["lesion"], SIZE)
    read_only_cache(tmp_path / "elsewhere")
    for unset in ("", None):
        monkeypatch.delenv("DERMSEG_CACHE") if unset is None else monkeypatch.setenv("DERMSEG_CACHE", unset)
        assert cache.default_folder() == Path.home() / ".cache" / "dermseg"


# --- failures ------------------------------------------------------------------------------------


def test_no_samples_are_refused(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        load([], ["lesion"], SIZE, folder=folder)
    assert str(caught.value) == (
        "there is no image with a mask to train on; check the data folder, its sources and the split"
    )


def test_a_mask_of_another_size_is_refused(samples: list[Sample], folder: Path) -> None:
    mask = samples[1].masks["lesion"]
    Image.fromarray(np.zeros((60, 79), np.uint8)).save(mask)
    with pytest.raises(DataError) as caught:
        load(samples, ["lesion"], SIZE, folder=folder)
    assert str(caught.value) == (f"{mask} has 79 x 60 pixels, its image 80 x 60; a mask must have its image's size")
    assert entries(folder) == []


def test_a_broken_image_leaves_nothing_behind_and_a_mended_one_is_read(samples: list[Sample], folder: Path) -> None:
    whole = samples[4].image.read_bytes()
    samples[4].image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenImageError, match=samples[4].image.name):
        load(samples, ["lesion"], SIZE, folder=folder)
    assert entries(folder) == []
    samples[4].image.write_bytes(whole)
    assert len(load(samples, ["lesion"], SIZE, folder=folder)) == 6


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_an_interrupted_build_goes_on_where_it_stopped(samples: list[Sample], folder: Path, stop: int) -> None:
    seen: list[int] = []

    def interrupt(done: int, count: int) -> None:
        seen.append(done)
        if seen == list(range(1, stop + 1)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(samples, ["lesion"], SIZE, folder=folder, progress=interrupt)
    cached = load(samples, ["lesion"], SIZE, folder=folder, progress=interrupt)
    assert seen == list(range(1, 7))
    assert_equal(cached, load(samples, ["lesion"], SIZE, folder=folder.with_name("fresh")))
    assert [path.suffix for path in folder.iterdir()] == [""]  # neither a part nor a lock


@given(images=st.integers(0, 40_000), masks=st.integers(0, 12_000), garbage=st.binary(max_size=200))
@settings(max_examples=25, deadline=None)
def test_whatever_a_kill_left_is_completed(images: int, masks: int, garbage: bytes) -> None:
    """Both files cut anywhere, also within a row or the header, with rubbish behind."""
    with TemporaryDirectory() as place:
        root = Path(place)
        synthetic.write_dataset(root / "data", 3, size=(60, 80))
        samples = catalog.read(root / "data")
        expected = load(samples, ["lesion"], SIZE, folder=root / "cache")
        whole = read_only_cache(root / "cache")
        part = whole.rename(whole.with_name(f"{whole.name}.part"))
        for name, length in (("images.npy", images), ("masks.npy", masks)):
            content = (part / name).read_bytes()
            (part / name).write_bytes(content[:length] + (garbage if length % SIZE**2 < 100 else b""))
        # Whole rows are trusted, and so rubbish must not make one.
        assume(len(garbage) < SIZE**2 - 100)
        assert_equal(load(samples, ["lesion"], SIZE, folder=root / "cache"), expected)


SCRIPT = """
import os, sys
from pathlib import Path
from dermseg.data import cache, catalog

def progress(done, count):
    if sys.argv[3] == "die" and done == 3:
        os._exit(9)

samples = catalog.read(sys.argv[1])
print(cache.load(samples, ["lesion"], int(sys.argv[4]), folder=Path(sys.argv[2]), progress=progress).content_hash)
"""


def start(samples: list[Sample], folder: Path, end: str) -> subprocess.Popen[str]:
    data = str(samples[0].image.parents[1])
    command = [sys.executable, "-c", SCRIPT, data, str(folder), end, str(SIZE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_not_taken_for_a_cache(samples: list[Sample], folder: Path) -> None:
    with start(samples, folder, "die") as process:
        assert process.wait(60) == 9
    (left,) = entries(folder)
    assert left.suffix == ".part"  # it died while building
    cached = load(samples, ["lesion"], SIZE, folder=folder)
    assert_equal(cached, load(samples, ["lesion"], SIZE, folder=folder.with_name("fresh")))


# --- at the same time ----------------------------------------------------------------------------


def test_of_threads_that_want_one_cache_one_builds_and_the_others_wait(samples: list[Sample], folder: Path) -> None:
    barrier, builders = Barrier(4, timeout=60), []

    def build(number: int) -> CachedImages:
        barrier.wait()
        return load(samples, ["lesion"], SIZE, folder=folder, progress=lambda *_: builders.append(number))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(build, range(4)))
    read_only_cache(folder)
    assert len(builders) == 6
    assert len(set(builders)) == 1
    for result in results:
        assert_equal(result, load(samples, ["lesion"], SIZE, folder=folder.with_name("fresh")))


def test_processes_may_build_one_cache_at_once(samples: list[Sample], folder: Path) -> None:
    processes = [start(samples, folder, "live") for _ in range(2)]
    expected = load(samples, ["lesion"], SIZE, folder=folder.with_name("fresh"))
    for process in processes:
        assert process.communicate(timeout=60)[0].strip() == expected.content_hash
        assert process.returncode == 0
    read_only_cache(folder)
    assert_equal(load(samples, ["lesion"], SIZE, folder=folder), expected)


def test_a_pipe_among_the_images_is_no_picture(tmp_path: Path) -> None:
    synthetic.write_dataset(tmp_path / "data", 1, size=(48, 64))
    (sample,) = catalog.read(tmp_path / "data")
    sample.image.unlink()
    os.mkfifo(sample.image)
    with pytest.raises(DataError, match=r"is no file; expected a picture$"):
        cache.load([sample], ["lesion"], 32, folder=tmp_path / "cache")
