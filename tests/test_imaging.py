from __future__ import annotations

import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dermseg.data import catalog, quality
from dermseg.errors import BrokenImageError, DataError, ImageError, ImageTooLargeError, InputError
from dermseg.geometry import Geometry
from dermseg.imaging import (
    encode_image,
    encode_mask,
    open_image,
    read_mask,
    read_stored_mask,
    read_true_mask,
    write_bytes,
)
from tests.hostile import HOSTILE, RED, Decodes, flat, noise, orientation_block, png, saved, webp_claiming

DATA = os.environ.get("DERMSEG_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="DERMSEG_DATA is not set: the folder of the data sets")


def assert_clear(message: str, *parts: str) -> None:
    assert "\n" not in message
    assert 20 < len(message) < 300
    for part in parts:
        assert part in message


# Odd and hostile files


@pytest.mark.parametrize("name", HOSTILE)
def test_every_odd_file_is_decoded_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, outcome = HOSTILE[name]
    path = tmp_path / "photo.jpg"  # whatever it is: the content decides
    path.write_bytes(make())
    if isinstance(outcome, Decodes):
        photograph = open_image(path)
        pixels = photograph.pixels()
        assert photograph.size == pixels.shape[:2] == outcome.size
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        height, width = outcome.size
        centre = pixels[height // 2, width // 2].astype(int)
        assert np.abs(centre - outcome.colour).max() <= outcome.tolerance
    else:
        with pytest.raises(outcome.error) as caught:
            open_image(path).pixels()
        assert type(caught.value) is outcome.error
        assert_clear(str(caught.value), outcome.message, "photo.jpg", "; ")


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_file_cut_anywhere_is_broken(format: str, at: float) -> None:
    data = noise(format)
    with pytest.raises(BrokenImageError):
        open_image(data[: int(len(data) * at)]).pixels(at_least=16)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP"]), st.data())
def test_flipped_bytes_bring_pixels_or_our_errors(format: str, data: st.DataObject) -> None:
    content = bytearray(saved(flat(RED), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        photograph = open_image(bytes(content), max_megapixels=1)
        assert photograph.pixels().shape == (*photograph.size, 3)
    except ImageError:
        pass


def test_sizes_are_checked_before_pixels_are_decoded() -> None:
    start = time.perf_counter()
    with pytest.raises(ImageTooLargeError, match="100000 x 100000 pixels"):
        open_image(png(100_000, 100_000, 8, 2, b""))
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("source", [saved(flat(RED), "PNG"), flat(RED), np.zeros((24, 32), np.uint8)])
def test_the_limit_holds_for_every_source(source: Any) -> None:
    assert open_image(source, max_megapixels=768e-6).size == (24, 32)
    with pytest.raises(ImageTooLargeError) as caught:
        open_image(source, max_megapixels=767e-6)
    assert_clear(str(caught.value), "32 x 24 pixels", "0.000767", "raise max_megapixels")


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_pillows_own_limit_does_not_matter(
    format: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(flat(RED), format, **options)
    for limit in (500, 100):  # Pillow would warn, and raise
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert open_image(data).pixels().shape == (24, 32, 3)


def test_a_webp_larger_than_pillow_decodes_is_refused_whatever_the_limit() -> None:
    with pytest.raises((ImageTooLargeError, BrokenImageError)):  # by the version of Pillow
        open_image(webp_claiming(16_000, 16_000), max_megapixels=1000)


# Paths and arguments


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("missing.jpg", "does not exist"),
        ("", "is not a file"),
        ("nul\0.jpg", "does not exist"),
        ("line\nbreak.jpg", r"line\nbreak.jpg' does not exist"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_paths_that_cannot_be_read(path: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_image(str(tmp_path / path) if len(path) < 300 else path)
    message = str(caught.value)
    assert "\n" not in message
    assert part in message
    assert "give the path of" in message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg is not a file"):
        open_image(tmp_path / "pipe.jpg")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "locked.jpg").write_bytes(saved(flat(RED), "JPEG"))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"locked.jpg cannot be read \(Permission denied\)"):
        open_image(tmp_path / "locked.jpg")


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (None, "image is NoneType where"),
        (7, "image is int where"),
        (bytearray(b"\xff\xd8\xff"), "image is bytearray where"),
        (np.zeros((4, 4), np.float32), "float32"),
        (np.zeros((4, 4), bool), "bool"),
        (np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "(1, 4, 4, 3)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "source",
)
def test_sources_of_a_wrong_type(source: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        open_image(source)
    assert_clear(str(caught.value), part, "expected")


@pytest.mark.parametrize("source", [np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 4)), b""])
def test_sources_without_pixels(source: Any) -> None:
    with pytest.raises(BrokenImageError):
        open_image(source)


@pytest.mark.parametrize("arguments", [{"orientation": "sideways"}, {"max_megapixels": 0}])
def test_arguments_out_of_range(arguments: Any) -> None:
    with pytest.raises(InputError, match=f"{next(iter(arguments))} is .* expected"):
        open_image(saved(flat(RED), "PNG"), **arguments)


# Sources


def test_a_photograph_names_its_source(tmp_path: Path) -> None:
    data = saved(flat(RED), "PNG")
    (tmp_path / "lesion.PNG").write_bytes(data)
    found = [open_image(s) for s in (tmp_path / "lesion.PNG", data, flat(RED), np.zeros((2, 3), np.uint8))]
    assert [p.name for p in found] == ["lesion.PNG", "<bytes>", "<image>", "<array>"]
    assert [p.format for p in found] == ["PNG", "PNG", "image", "array"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 5), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 5, 3), RED, np.uint8), RED),
        (np.full((4, 5, 4), (255, 0, 0, 127), np.uint8), (255, 128, 128)),
        (np.full((4, 10, 3), RED, np.uint8)[:, ::-2, :], RED),
    ],
    ids=["grey", "grey-1", "rgb", "rgba", "strided"],
)
def test_arrays(array: Any, expected: tuple[int, int, int]) -> None:
    photograph = open_image(array)
    array[:] = 0
    pixels = photograph.pixels(at_least=1)
    assert pixels.shape == (4, 5, 3)
    assert (pixels == expected).all()
    pixels[:] = 0
    assert (photograph.pixels() == expected).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat(1, "1"), (255, 255, 255)),
        (flat(9, "L"), (9, 9, 9)),
        (flat(RED), RED),
        (flat((*RED, 0), "RGBA"), (255, 255, 255)),
        (flat((255, 0, 0, 0), "CMYK"), (0, 255, 255)),
        (flat(9 * 256, "I;16"), (9, 9, 9)),
        (flat((76, 85, 255), "YCbCr"), (254, 0, 0)),
        (flat((0, 255, 255), "HSV"), (255, 0, 0)),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_pil_images(image: Image.Image, expected: tuple[int, int, int]) -> None:
    photograph = open_image(image)
    image.paste(0, (0, 0, *image.size))
    assert (photograph.pixels() == expected).all()


def test_a_pil_image_that_fails_to_load_is_broken() -> None:
    data = noise("JPEG")
    with pytest.raises(BrokenImageError, match="<image>"):
        open_image(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_no_file_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(saved(flat(RED), "TIFF"))
    photograph = open_image(tmp_path / "a.tif")
    (tmp_path / "a.tif").unlink()
    assert photograph.pixels().shape == (24, 32, 3)


def test_threads_may_share_a_photograph() -> None:
    photograph = open_image(noise("JPEG"))
    barrier = threading.Barrier(8)

    def decode(at_least: int | None) -> np.ndarray:
        barrier.wait()
        return photograph.pixels(at_least)

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(decode, [None, 48] * 4))
    for index, result in enumerate(results):
        assert (result == results[index % 2]).all()


# Orientation


def turned(orientation: int, format: str) -> bytes:
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[:16, :16], pixels[-16:, :16], pixels[:16, -16:] = RED, (0, 200, 0), (0, 0, 220)
    options = {"lossless": True} if format == "WEBP" else {}
    if format == "TIFF":
        return saved(Image.fromarray(pixels), "TIFF", tiffinfo={274: orientation})
    return saved(Image.fromarray(pixels), format, exif=orientation_block(orientation), **options)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation: int, format: str) -> None:
    data = turned(orientation, format)
    upright, stored = open_image(data), open_image(data, orientation="stored")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert upright.exif_orientation == stored.exif_orientation == orientation
    assert upright.size == expected.shape[:2]
    assert (upright.pixels() == expected).all()
    assert stored.pixels().shape == (48, 80, 3)
    assert stored.pixels()[2, 2].argmax() == 0
    from_pil = open_image(Image.open(io.BytesIO(data)))
    assert from_pil.size == expected.shape[:2]
    assert (from_pil.pixels() == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_keeps_the_orientation(orientation: int) -> None:
    photograph = open_image(turned(orientation, "JPEG"))
    reduced = photograph.pixels(at_least=20)
    assert reduced.shape[:2] == (photograph.size[0] // 4, photograph.size[1] // 4)
    full = photograph.pixels()[2::4, 2::4]
    assert np.abs(full.astype(int) - reduced).mean() < 2


@pytest.mark.parametrize(("at_least", "side"), [(None, 800), (800, 800), (401, 800), (400, 400), (1, 100)])
def test_the_longer_side_keeps_what_is_asked_for(at_least: int | None, side: int) -> None:
    for size in ((800, 600), (600, 800)):
        pixels = open_image(saved(flat(RED, size=size), "JPEG")).pixels(at_least)
        assert max(pixels.shape) == side


# Masks and encoding


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 8]), st.integers(0, 2**32 - 1))
def test_masks_come_back_from_their_file(height: int, width: int, bits: Any, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    data = encode_mask(mask, bits)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", "1" if bits == 1 else "L")
    assert (np.asarray(image).astype(bool) == mask).all()
    assert (read_mask(data) == mask).all()
    assert encode_mask(np.asfortranarray(mask), bits) == data


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (flat(128, "L"), False),
        (flat(129, "L"), True),
        (flat(1, "1"), True),
        (flat((255, 255, 255)), True),
        (flat((255, 0, 0)), False),
        (flat(128 * 256 + 255, "I;16"), False),
        (flat(129 * 256, "I;16"), True),
        (flat((255, 255, 255, 0), "RGBA"), False),
        (flat((255, 255, 255, 255), "RGBA"), True),
        (flat((255, 255), "LA"), True),
    ],
    ids=["128", "129", "1-bit", "white", "red", "16-bit-128", "16-bit-129", "clear", "opaque", "grey-alpha"],
)
def test_masks_are_cut_above_128(image: Image.Image, expected: bool, tmp_path: Path) -> None:
    image.save(tmp_path / "mask.png")
    for source in (image, tmp_path / "mask.png"):
        mask = read_mask(source)
        assert mask.dtype == bool
        assert mask.shape == (24, 32)
        assert (mask == expected).all()


def test_a_mask_with_a_palette_is_read_by_its_colours() -> None:
    image = flat(0, "P", (2, 2))
    image.putdata([0, 1, 2, 3])
    image.putpalette([255, 255, 255, 0, 0, 0, 200, 200, 200, 128, 128, 128])
    assert read_mask(saved(image, "PNG")).tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize(
    ("mask", "bits"),
    [
        (np.zeros((4, 4), np.uint8), 8),
        (np.zeros((4, 4, 1), bool), 8),
        (np.zeros((0, 4), bool), 8),
        (np.zeros((4, 4), bool), 4),
    ],
    ids=["uint8", "three-axes", "empty", "4-bit"],
)
def test_other_masks_are_refused(mask: Any, bits: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        encode_mask(mask, bits)


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 3)])
@pytest.mark.parametrize(("format", "tolerance"), [("PNG", 0), ("JPEG", 2), ("WEBP", 4)])
def test_images_come_back_from_their_file(shape: tuple[int, ...], format: Any, tolerance: int) -> None:
    pixels = np.full(shape, 90, np.uint8)
    pixels[:12] = 160
    photograph = open_image(encode_image(pixels, format))
    assert photograph.format == format
    back = photograph.pixels().astype(int)
    assert np.abs(back - (pixels if pixels.ndim == 3 else pixels[..., None])).max() <= tolerance


@pytest.mark.parametrize(
    ("pixels", "format"),
    [
        (np.zeros((4, 4, 3), np.float32), "PNG"),
        (np.zeros((4, 4, 4), np.uint8), "PNG"),
        (np.zeros((0, 4), np.uint8), "PNG"),
        (np.zeros((4, 4), np.uint8), "GIF"),
    ],
    ids=["float", "rgba", "empty", "gif"],
)
def test_other_pixels_are_refused(pixels: Any, format: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        encode_image(pixels, format)


@pytest.mark.parametrize(("format", "side"), [("JPEG", 70_000), ("WEBP", 20_000)])
def test_a_side_too_long_for_a_format(format: Any, side: int) -> None:
    with pytest.raises(ImageTooLargeError, match=f"{side} x 1 pixels cannot be written as {format}"):
        encode_image(np.zeros((1, side), np.uint8), format)


# Writing


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_bytes(tmp_path / "a.png", data)
        assert (tmp_path / "a.png").read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failing_write_leaves_what_was_there(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "old.png").write_bytes(b"old")
    monkeypatch.setattr(Path, step, half if step == "write_bytes" else fail)
    for name in ("old.png", "new.png"):
        with pytest.raises(InputError, match=rf"{name} cannot be written \(No space left on device\)"):
            write_bytes(tmp_path / name, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


@pytest.mark.parametrize("path", ["missing/a.png", "folder", "nul\0.png", "file/a.png"])
def test_paths_that_cannot_be_written(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / path, b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


# Real photographs


@needs_data
def test_photographs_at_reduced_scale_look_like_those_at_full_scale() -> None:
    paths = sorted((Path(DATA or "") / "fullsize").glob("*/*.jpg"))
    assert len(paths) == 12
    for path in paths:
        photograph = open_image(path)
        geometry = Geometry.fit(*photograph.size, 192)
        full, reduced = (geometry.apply(photograph.pixels(n)).astype(int) for n in (None, 192))
        assert np.abs(full - reduced).mean() < 1.5, path.name


@needs_data
def test_real_masks_come_back_from_their_file() -> None:
    for path in sorted((Path(DATA or "") / "fullsize").glob("*/*.png"))[:3]:
        mask = read_mask(path)
        assert 0 < mask.mean() < 1
        assert (read_mask(encode_mask(mask, 1)) == mask).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (7, 5, 3), (300, 411), (300, 411, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pictures_come_back_from_their_png(shape: tuple[int, ...], order: Literal["C", "F"]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8).copy(order)
    with Image.open(io.BytesIO(encode_image(pixels))) as image:
        image.load()
        assert image.mode == ("L" if pixels.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(image), pixels)


# True masks

DRAWN = cv2.ellipse(np.zeros((24, 32), np.uint8), (16, 12), (8, 6), 0, 0, 360, 1, -1) > 0
CUT_OUT = np.dstack([np.zeros((24, 32, 3), np.uint8), np.where(DRAWN, 255, 0).astype(np.uint8)])
FIXED = " (dermseg data check --fix does it)"


def drawn(value: int, dtype: type[np.generic] = np.uint8) -> np.ndarray:
    return np.where(DRAWN, value, 0).astype(dtype)


@pytest.mark.parametrize(
    ("samples", "held", "advice"),
    [
        (drawn(1), "holds values from 0 to 1, none above 128", FIXED),
        (drawn(128), "holds values from 0 to 128, none above 128", FIXED),
        (drawn(0) + 1, "holds values from 1 to 1, none above 128", ""),
        (drawn(1) + np.eye(24, 32, dtype=np.uint8), "holds values from 0 to 2, none above 128", ""),
        (drawn(255, np.uint16), "holds 16-bit values from 0 to 255, none above 33023", ""),
        (drawn(33023, np.uint16), "holds 16-bit values from 0 to 33023, none above 33023", FIXED),
        (
            np.dstack([drawn(0), drawn(0), drawn(255)]),
            "holds colours of grey values from 0 to 29, none above 128",
            FIXED,
        ),
        (CUT_OUT, "is transparent in part, with nothing above 128", ""),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_true_mask_that_only_seems_empty_is_refused(
    samples: np.ndarray, held: str, advice: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(samples).save(path)
    assert not read_mask(path).any()
    with pytest.raises(DataError) as caught:
        read_true_mask(path)
    assert str(caught.value) == (
        f"the mask {path} {held}, so that nothing would count as foreground; save it as 8-bit grey, 0 and 255{advice}"
    )


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_true_mask_of_16_bit_colours_needs_foreground(value: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.dstack([drawn(value, np.uint16)] * 3))
    with pytest.raises(DataError, match="holds 16-bit colours, with nothing above 128 in their upper 8 bits, so that "):
        read_true_mask(path)
    cv2.imwrite(str(path), np.dstack([drawn(65535, np.uint16)] * 3))
    assert (read_true_mask(path) == DRAWN).all()


@pytest.mark.parametrize(
    "samples",
    [
        drawn(0),
        drawn(255),
        drawn(129),
        drawn(0, np.uint16),
        drawn(33024, np.uint16),
        np.zeros((24, 32, 4), np.uint8),
        np.dstack([np.zeros((24, 32, 3), np.uint8), np.full((24, 32), 255, np.uint8)]),
        np.where(DRAWN[..., None], 255, CUT_OUT).astype(np.uint8),
    ],
)
def test_other_true_masks_are_read_as_masks_are(samples: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(samples).save(tmp_path / "a.png")
    shown = samples if samples.ndim == 2 else samples[..., 0]
    assert (read_true_mask(tmp_path / "a.png") == (DRAWN & shown.any())).all()
    assert (read_mask(tmp_path / "a.png") == (DRAWN & shown.any())).all()


@pytest.mark.parametrize("samples", [drawn(1), drawn(33023, np.uint16), np.dstack([drawn(0), drawn(0), drawn(255)])])
def test_what_a_refusal_says_of_the_data_check_is_so(samples: np.ndarray, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    mask = tmp_path / "data" / "masks" / "a.png"
    photograph = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    (tmp_path / "data" / "images" / "a.png").write_bytes(encode_image(photograph))
    Image.fromarray(samples).save(mask)
    with pytest.raises(DataError, match="data check --fix does it"):
        read_true_mask(mask)
    found = catalog.read(tmp_path / "data")
    (fixed,) = quality.fix(quality.check(found, tmp_path / "data"), found, tmp_path / "fixed")
    assert (read_true_mask(fixed) == DRAWN).all()


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b"", BrokenImageError, "is empty where a JPEG"),
        (noise("PNG")[:200], BrokenImageError, "is PNG data that are truncated"),
        (None, InputError, "does not exist; "),
        (b"GIF89a", ImageError, "is a GIF picture, not a JPEG"),
    ],
)
@pytest.mark.parametrize("read", [read_true_mask, read_stored_mask])
def test_what_is_wrong_with_a_masks_file_names_it_as_one(
    read: Any, content: bytes | None, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        read(path)
    assert str(caught.value).startswith(f"the mask {path} {reason}")


def test_a_stored_mask_is_what_the_file_holds(tmp_path: Path) -> None:
    samples = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    path = tmp_path / "a.tif"
    Image.fromarray(samples).save(path, tiffinfo={274: 6})
    stored = read_stored_mask(path)
    assert (stored.bits, stored.alpha) == (16, (255, 255))
    assert stored.samples.dtype == np.uint16
    assert (stored.samples == np.rot90(samples, -1)).all()
    assert (stored.values == np.rot90(samples >> 8, -1)).all()


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    content = io.BytesIO()
    Image.new("RGB", (64, 48)).save(content, "JPEG", progressive=True)
    plain = content.getvalue()
    assert open_image(plain).pixels().shape == (48, 64, 3)
    last = plain.rindex(b"\xff\xda")
    with pytest.raises(BrokenImageError, match="is a JPEG of more than 200 scans, made to take long"):
        open_image(plain[:last] + plain[last:-2] * 201 + b"\xff\xd9")
