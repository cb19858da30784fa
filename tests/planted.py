"""A clean data set of drawn images, and faults to plant in it, each with what a check must find then."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dermseg.data.splits import Split
from dermseg.imaging import encode_image, encode_mask, open_image, read_mask
from dermseg.synthetic import draw

SIZE = (144, 192)
OWN, OWN_MASKS = Path("own/images"), Path("own/masks")
IMAGES_2017 = Path("isic2017/ISIC-2017_Training_Data")
MASKS_2017 = Path("isic2017/ISIC-2017_Training_Part1_GroundTruth")
IMAGES_2018 = Path("isic2018/ISIC2018_Task1-2_Training_Input")
MASKS_2018 = Path("isic2018/ISIC2018_Task1_Training_GroundTruth")

OWN_IDS = [f"mole{number:02}" for number in range(12)]
ISIC_IDS = [f"ISIC_000{number:04}" for number in range(9000, 9006)]
TABLE: Mapping[str, Split] = {
    **dict.fromkeys(OWN_IDS, "train"),
    OWN_IDS[-1]: "test",
    **dict.fromkeys(ISIC_IDS, "train"),
    ISIC_IDS[-1]: "test",
}
"""The split that goes with the data set: the last image of each kind is in ``test``."""

Found = tuple[str, Path]
"""A kind of finding and the file it is about, below the data folder."""
Plant = Callable[[Path], Found]


@dataclass(frozen=True)
class Fault:
    """Something wrong with a data set.

    Attributes:
        plant: Plants it in the clean data set and gives what must be found.
    """

    name: str
    plant: Plant


def write_clean(root: Path) -> None:
    """Write 24 images: 12 of a user's own, 6 of ISIC 2017 and the same 6 of ISIC 2018."""
    for folder in (OWN, OWN_MASKS, IMAGES_2017, MASKS_2017, IMAGES_2018, MASKS_2018):
        (root / folder).mkdir(parents=True)
    for seed, id in enumerate([*OWN_IDS, *ISIC_IDS]):
        drawn = draw(seed, SIZE, hairs=0, vignette=False)
        mask = encode_mask(drawn.mask)
        if id in OWN_IDS:
            (root / OWN / f"{id}.png").write_bytes(encode_image(drawn.pixels))
            (root / OWN_MASKS / f"{id}.png").write_bytes(mask)
        else:
            for images, masks in ((IMAGES_2017, MASKS_2017), (IMAGES_2018, MASKS_2018)):
                (root / images / f"{id}.jpg").write_bytes(encode_image(drawn.pixels, "JPEG"))
                (root / masks / f"{id}_segmentation.png").write_bytes(mask)


IMAGE, MASK = OWN / "mole03.png", OWN_MASKS / "mole03.png"
JPEG, JPEG_MASK = IMAGES_2017 / f"{ISIC_IDS[2]}.jpg", MASKS_2017 / f"{ISIC_IDS[2]}_segmentation.png"


def cut(path: Path, share: float) -> Plant:
    def plant(root: Path) -> Found:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: int(len(data) * share)])
        return "truncated", path

    return plant


def overwritten(path: Path, kind: str, data: bytes) -> Plant:
    def plant(root: Path) -> Found:
        (root / path).write_bytes(data)
        return kind, path

    return plant


def changed_mask(kind: str, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Plant:
    """The mask's values, 0 and 255, are changed and written as a PNG."""

    def plant(root: Path) -> Found:
        values = read_mask(root / MASK).astype(np.uint8) * np.uint8(255)
        Image.fromarray(change(values)).save(root / MASK)
        return kind, MASK

    return plant


def changed_image(kind: str, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Plant:
    def plant(root: Path) -> Found:
        Image.fromarray(change(open_image(root / IMAGE).pixels())).save(root / IMAGE)
        return kind, IMAGE

    return plant


def declared_orientation(value: int, kind: str, path: Path) -> Plant:
    def plant(root: Path) -> Found:
        exif = Image.Exif()
        exif[274] = value
        with Image.open(root / JPEG) as image:
            pixels = image.copy()
        shutil.copy(root / IMAGES_2018 / JPEG.name, root / IMAGES_2018 / "kept")
        pixels.save(root / JPEG, exif=exif, quality=95)
        (root / IMAGES_2018 / "kept").unlink()
        for other in (IMAGES_2018 / JPEG.name, MASKS_2018 / JPEG_MASK.name):  # the id is ISIC 2017's alone
            (root / other).unlink()
        return kind, path

    return plant


def moved(source: Path, target: Path, kind: str, about: Path) -> Plant:
    def plant(root: Path) -> Found:
        (root / source).rename(root / target)
        return kind, about

    return plant


def removed(path: Path, kind: str, about: Path) -> Plant:
    def plant(root: Path) -> Found:
        (root / path).unlink()
        return kind, about

    return plant


def copied(source: Path, target: Path, kind: str, about: Path) -> Plant:
    def plant(root: Path) -> Found:
        shutil.copy(root / source, root / target)
        return kind, about

    return plant


def copied_pair(source: str, target: str, kind: str) -> Plant:
    """One image with its mask takes the place of another."""

    def plant(root: Path) -> Found:
        for folder in (OWN, OWN_MASKS):
            shutil.copy(root / folder / f"{source}.png", root / folder / f"{target}.png")
        first, last = sorted((source, target))
        return kind, OWN / f"{first if 'leak' in kind else last}.png"  # the image of train

    return plant


def retaken_pair(source: str, target: str, kind: str) -> Plant:
    """The same, but lighter, softer and compressed: another exposure."""

    def plant(root: Path) -> Found:
        found = copied_pair(source, target, kind)(root)
        pixels = cv2.GaussianBlur(open_image(root / OWN / f"{source}.png").pixels(), (0, 0), 0.7)
        lighter = np.clip(pixels.astype(np.float32) * 1.1 + 5, 0, 255).astype(np.uint8)
        (root / OWN / f"{target}.png").write_bytes(encode_image(lighter, "JPEG"))
        mask = np.roll(read_mask(root / OWN_MASKS / f"{source}.png"), 1, axis=0)
        (root / OWN_MASKS / f"{target}.png").write_bytes(encode_mask(mask))
        return found

    return plant


def other_image_of_same_id(root: Path) -> Found:
    path, mask = IMAGES_2018 / JPEG.name, MASKS_2018 / JPEG_MASK.name
    drawn = draw(77, SIZE, hairs=0, vignette=False)
    (root / path).write_bytes(encode_image(drawn.pixels, "JPEG"))
    (root / mask).unlink()
    for other in ISIC_IDS:  # ISIC 2018 has no masks then
        (root / MASKS_2018 / f"{other}_segmentation.png").unlink(missing_ok=True)
    return "id-conflict", path


def other_outline(root: Path) -> Found:
    path = MASKS_2018 / JPEG_MASK.name
    wider = cv2.dilate(read_mask(root / path).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    (root / path).write_bytes(encode_mask(wider))
    return "conflicting-masks", path


def grey_below(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([pixels[:110], np.full_like(pixels[110:], 128)])


def thumbnail(root: Path) -> Found:
    for path, flag in ((IMAGE, cv2.INTER_AREA), (MASK, cv2.INTER_NEAREST)):
        with Image.open(root / path) as image:
            values = np.asarray(image)
        Image.fromarray(cv2.resize(values, (64, 48), interpolation=flag)).save(root / path)
    return "small-image", IMAGE


def palette_inverted(root: Path) -> Found:
    """A palette whose first colour is white: index 1 is the lesion, shown black."""
    image = Image.fromarray(read_mask(root / MASK).astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(root / MASK)
    return "inverted-mask", MASK


def as_jpeg(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=70)
    return np.array(Image.open(buffer))


def in_alpha(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lesion is black and opaque, the skin transparent: it is read as empty."""
    return np.dstack([np.zeros((*values.shape, 3), np.uint8), values])


def in_red(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([values, 0 * values, 0 * values])


def with_square(value: int, top: int, left: int, side: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    def change(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        values[top : top + side, left : left + side] = value
        return values

    return change


def hole(side: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """A hole in the middle of the lesion."""

    def change(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        depth = cv2.distanceTransform(values, cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return with_square(0, int(row) - side // 2, int(column) - side // 2, side)(values)

    return change


def three_labels(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    labels = values // 255
    labels[:20, :20] = 2
    return labels


def blurred(sigma: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda values: cv2.GaussianBlur(values, (0, 0), sigma).astype(np.uint8)


def redrawn(kind: str, hairs: int, vignette: bool) -> Plant:
    """The same lesion, taken otherwise."""

    def plant(root: Path) -> Found:
        drawn = draw(OWN_IDS.index(IMAGE.stem), SIZE, hairs=hairs, vignette=vignette)
        (root / IMAGE).write_bytes(encode_image(drawn.pixels))
        return kind, IMAGE

    return plant


def with_ruler(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    for number, column in enumerate(range(10, 182, 8)):
        pixels[: 14 if number % 5 == 0 else 9, column : column + 2] = 20
    return pixels


def saved(pixels: NDArray[np.uint8], format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


FAULTS = (
    Fault("jpeg cut in half", cut(JPEG, 0.5)),
    Fault("png cut in half", cut(IMAGE, 0.5)),
    Fault("mask cut short", cut(MASK, 0.7)),
    Fault("empty file", cut(IMAGE, 0)),
    Fault("web page for an image", overwritten(JPEG, "unreadable", b"<html><body>404 Not Found</body></html>")),
    Fault("web page for a mask", overwritten(MASK, "unreadable", b"<html><body>404 Not Found</body></html>")),
    Fault("gif called png", overwritten(MASK, "unreadable", saved(np.zeros(SIZE, np.uint8), "GIF"))),
    Fault("corrupt png", overwritten(IMAGE, "unreadable", saved(np.zeros(SIZE, np.uint8), "PNG")[:33] + b"x" * 500)),
    Fault("one colour", changed_image("blank-image", lambda pixels: np.full_like(pixels, 90))),
    Fault("grey lower rows", changed_image("partly-blank", grey_below)),
    Fault("thumbnail", thumbnail),
    Fault("mask of half the size", changed_mask("size-mismatch", lambda values: values[::2, ::2].copy())),
    Fault("mask on its side", changed_mask("size-mismatch", lambda values: values.T.copy())),
    Fault("exif turns by a quarter", declared_orientation(6, "turned-mask", JPEG_MASK)),
    Fault("exif turns upside down", declared_orientation(3, "exif-turned", JPEG)),
    Fault("labels 0 and 1", changed_mask("label-values", lambda values: values // 255)),
    Fault("labels 0, 1 and 2", changed_mask("label-values", three_labels)),
    Fault("red on black", changed_mask("label-values", in_red)),
    Fault("light grey on white", changed_mask("label-values", lambda values: 255 - values // 4)),
    Fault("probabilities", changed_mask("not-binary", blurred(25))),
    Fault("photograph for a mask", copied(IMAGE, MASK, "not-binary", MASK)),
    Fault("smooth edge", changed_mask("soft-mask", blurred(1))),
    Fault("jpeg mask", changed_mask("soft-mask", as_jpeg)),
    Fault("empty mask", changed_mask("empty-mask", lambda values: 0 * values)),
    Fault("lesion in the alpha channel", changed_mask("empty-mask", in_alpha)),
    Fault("inverted mask", changed_mask("inverted-mask", lambda values: 255 - values)),
    Fault("inverted palette", palette_inverted),
    Fault("full mask", changed_mask("full-mask", lambda values: 0 * values + 255)),
    Fault("tiny mask", changed_mask("tiny-mask", lambda values: with_square(255, 70, 90, 5)(0 * values))),
    Fault("large hole", changed_mask("holes", hole(12))),
    Fault("pinhole", changed_mask("pinholes", hole(2))),
    Fault("speck", changed_mask("specks", with_square(255, 2, 2, 3))),
    Fault("second region", changed_mask("several-components", with_square(255, 2, 2, 14))),
    Fault("lesion at the edge", changed_mask("cut-off", with_square(255, 70, 0, 80))),
    Fault("hair", redrawn("hair", 40, False)),
    Fault("dermoscope's tube", redrawn("vignette", 0, True)),
    Fault("ruler", changed_image("ruler", with_ruler)),
    Fault("no mask", removed(MASK, "no-mask", IMAGE)),
    Fault("no image", removed(IMAGE, "orphan-mask", MASK)),
    Fault("note among the images", copied(IMAGE, OWN / "README.txt", "unused-file", OWN / "README.txt")),
    Fault("foreign picture", copied(IMAGE, IMAGES_2017 / "photo.png", "unused-image", IMAGES_2017 / "photo.png")),
    *(
        Fault(f"misspelt {name!r}", moved(path, path.with_name(name), "wrong-name", path.with_name(name)))
        for path, name in (
            (JPEG_MASK, f"{ISIC_IDS[2]}_segmentation .png"),
            (JPEG_MASK, f"{ISIC_IDS[2]}_segmentatoin.png"),
            (JPEG_MASK, f"{ISIC_IDS[2]}-segmentation.png"),
            (JPEG_MASK, f"ISIC_{int(ISIC_IDS[2][5:])}_segmentation.png"),
            (JPEG_MASK, f"{ISIC_IDS[2]}_segmentation (1).png"),
            (JPEG_MASK, f"{ISIC_IDS[2]}_segmentation.gif"),
            (JPEG, JPEG.name.replace("ISIC", "ISC")),
            (MASK, "mole03_lesoin.png"),
            (MASK, "mole 03.png"),
        )
    ),
    Fault(
        "second copy of a mask",
        copied(JPEG_MASK, MASKS_2017 / f"{ISIC_IDS[2]}_segmentation (1).png", "ambiguous-file",
               MASKS_2017 / f"{ISIC_IDS[2]}_segmentation (1).png"),
    ),
    Fault("two outlines", other_outline),
    Fault("one mask for two images", copied(OWN_MASKS / "mole02.png", MASK, "copied-mask", MASK)),
    Fault("one id for two images", other_image_of_same_id),
    Fault("same picture twice", copied_pair("mole02", "mole05", "duplicate")),
    Fault("same picture in train and test", copied_pair("mole02", OWN_IDS[-1], "leak")),
    Fault("lesion photographed twice", retaken_pair("mole02", "mole05", "near-duplicate")),
    Fault("lesion photographed for train and test", retaken_pair("mole02", OWN_IDS[-1], "near-leak")),
)  # fmt: skip
