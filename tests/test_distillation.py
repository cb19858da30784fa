"""Teachers' share in the masks that are trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dermseg import Bundle, synthetic
from dermseg.data.cache import CachedImages
from dermseg.errors import InputError, RecipeError
from dermseg.training.distillation import SURE, taught, teachers_of
from dermseg.training.recipes import load_recipe

LESION = Bundle.load("lesion")
SIZE = LESION.manifest.input_size
COUNT = 9  # more than a batch


@pytest.fixture(scope="module")
def images() -> CachedImages:
    drawn = [synthetic.draw(seed, (SIZE, SIZE)) for seed in range(COUNT)]
    masks = np.stack([image.mask[None] for image in drawn]).astype(np.uint8) * 255
    return CachedImages(np.stack([image.pixels for image in drawn]), masks, "0" * 64)


def views_of(bundle: Bundle, images: CachedImages) -> NDArray[np.float32]:
    """The mean of the four flips, by torch."""
    network, pixels = bundle.network(), torch.from_numpy(images.images).permute(0, 3, 1, 2).float()
    flips = [(), (2,), (3,), (2, 3)]
    with torch.inference_mode():
        scaled = (pixels / 255 - 0.5) / 0.5
        seen = torch.stack([network(scaled.flip(axes)).sigmoid().flip(axes) for axes in flips]).mean(dim=0)
    found: NDArray[np.float32] = seen.numpy()
    found[found < SURE] = 0
    found[found > 1 - SURE] = 1
    return found


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_the_masks_hold_the_teachers_share(images: CachedImages, tmp_path: Path, share: float) -> None:
    told: list[tuple[int, int]] = []
    masks = taught(
        images, [LESION], share, folder=tmp_path, progress=lambda done, count: told.append((done, count))
    ).masks
    expected = share * 255 * views_of(LESION, images) + (1 - share) * images.masks
    assert masks.dtype == np.uint8
    # Engines differ by little, but near SURE that decides
    off = np.abs(masks - expected)
    assert (off > 1).mean() < 1e-3
    assert told[-1] == (COUNT, COUNT)


def test_several_teachers_are_averaged(images: CachedImages, tmp_path: Path) -> None:
    two = [LESION, Bundle.load("lesion-open")]
    both = taught(images, two, 1, folder=tmp_path).masks.astype(float)
    each = [taught(images, [bundle], 1, folder=tmp_path).masks.astype(float) for bundle in two]
    assert np.abs(each[0] - each[1]).max() > 20
    assert np.abs(both - np.mean(each, axis=0)).mean() < 0.5


def test_teachers_look_once(images: CachedImages, tmp_path: Path) -> None:
    first = taught(images, [LESION], 0.5, folder=tmp_path).masks
    (file,) = tmp_path.glob("*.npy")
    made = file.stat().st_mtime_ns
    told: list[int] = []
    again = taught(images, [LESION], 0.5, folder=tmp_path, progress=lambda done, count: told.append(done)).masks
    np.testing.assert_array_equal(first, again)
    assert (file.stat().st_mtime_ns, told) == (made, [])
    taught(images, [LESION], 0.6, folder=tmp_path)
    taught(replace(images, content_hash="1" * 64), [LESION], 0.5, folder=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_be_written_is_one_sentence(images: CachedImages, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*; set DERMSEG_CACHE to a folder that can"):
        taught(images, [LESION], 0.5, folder=tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["input_size=128"], "has input_size 192, the recipe 128; they must be the same"),
        (["processing=[hair_removal]"], "has processing (), the recipe ('hair_removal',); they must be the same"),
        (["distillation.teachers=[attributes]"], "was trained on images that are 'test' for lesion; take another"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(settings: list[str], reason: str) -> None:
    chosen = load_recipe("lesion", ["distillation.teachers=[lesion]", *settings])
    with pytest.raises(RecipeError) as caught:
        teachers_of(chosen)
    assert str(caught.value).endswith(reason)


def test_a_recipe_has_no_teachers_unless_it_names_some() -> None:
    assert teachers_of(load_recipe("unet")) == []
