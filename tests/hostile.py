"""Odd and hostile image files, made on the spot, each with what opening and decoding it must come to."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dermseg.errors import BrokenImageError, ImageError, ImageTooLargeError, UnsupportedImageError

RED, GREEN, BLUE, WHITE, BLACK = (220, 30, 30), (30, 200, 40), (40, 50, 210), (255, 255, 255), (0, 0, 0)
GREY = (120, 120, 120)
PINK = (255, 128, 128)  # half-transparent pure red over white


@dataclass(frozen=True)
class Decodes:
    """The file is a picture of this (height, width) whose centre has this colour."""

    size: tuple[int, int]
    colour: tuple[int, int, int]
    tolerance: int = 0


@dataclass(frozen=True)
class Fails:
    """The file brings exactly this error, with this in its message."""

    error: type[ImageError]
    message: str


Make = Callable[[], bytes]

TRUNCATED = Fails(BrokenImageError, "truncated, corrupt or of a rare kind")
NOT_A_PICTURE = Fails(UnsupportedImageError, "not a JPEG, PNG, BMP, TIFF or WebP picture")
SEVERAL = Fails(UnsupportedImageError, "several frames or pages")
TOO_LARGE = Fails(ImageTooLargeError, "at most 100 megapixels")


def flat(colour: Any = RED, mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> Image.Image:
    """A picture of one colour; `size` is (width, height) as Pillow has it."""
    return Image.new(mode, size, colour)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(format: str, **options: Any) -> bytes:
    """A file whose pixels do not compress, so that cutting it loses some."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return saved(Image.fromarray(pixels), format, **options)


def orientation_block(value: int, tag_type: int = 3) -> bytes:
    """An EXIF block that holds an orientation alone."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, tag_type, 1, value, 0, 0)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int,
    height: int,
    bits: int,
    colour: int,
    data: bytes,
    *extra: bytes,
    late: bytes = b"",
    interlace: int = 0,
) -> bytes:
    """A PNG by hand, from its deflated data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    chunks = [png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", data), late, png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_of_row(row: bytes, bits: int, colour: int, *extra: bytes, late: bytes = b"") -> bytes:
    """An 8 x 8 PNG by hand, each of its rows the same."""
    return png(8, 8, bits, colour, zlib.compress((b"\0" + row) * 8), *extra, late=late)


def tiff(*entries: tuple[int, int, int, int], pixels: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF by hand; entries are (tag, type, count, value), pixels lie at offset 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + struct.pack("<I", following)


def grey_tiff(
    bits: int, value: int, *entries: tuple[int, int, int, int], photometric: int = 1, side: int = 16
) -> bytes:
    """A TIFF of one grey; further entries replace or join the usual ones."""
    pixels = value.to_bytes(max(1, bits // 8), "little") * side * side
    usual = {256: side, 257: side, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: side}
    table = {tag: (tag, 3, 1, number) for tag, number in usual.items()}
    table[279] = (279, 4, 1, len(pixels))
    return tiff(*(table | {e[0]: e for e in entries}).values(), pixels=pixels)


def bmp(width: int, height: int, bits: int = 24, data: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def insert(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at:]


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def mpo(second: bool = True) -> bytes:
    pages = [flat(BLUE)] if second else []
    return saved(flat(RED), "MPO", save_all=True, append_images=pages)


def malformed_mpo() -> bytes:
    """An MPF segment that promises pictures and holds rubbish."""
    return insert(saved(flat(RED), "JPEG"), 2, jpeg_segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f" + bytes(16)))


def palette(transparency: int | bytes | None = None, index: int = 1) -> bytes:
    image = flat(index, "P")
    image.putpalette([*BLUE, *RED, *GREEN])
    return saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def encoded(array: Any, suffix: str, *options: int) -> bytes:
    """As OpenCV writes it: what Pillow does not write."""
    return cv2.imencode(suffix, array, options)[1].tobytes()


def deep(value: tuple[int, ...] | int, dtype: type = np.uint16) -> Any:
    return np.full((24, 32, *np.shape(value)), value, dtype)


def frames(format: str) -> bytes:
    return saved(flat(RED), format, save_all=True, append_images=[flat(GREEN), flat(BLUE)])


def adobe_cmyk() -> bytes:
    """An inverted CMYK JPEG, as Photoshop writes them: here pure cyan."""
    return saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=95)


def webp_claiming(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_lossless_claiming(width: int, height: int) -> bytes:
    chunk = b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14) + bytes(59)
    body = b"WEBPVP8L" + struct.pack("<I", len(chunk)) + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_claiming(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    scan = b"\1\1\0\0\x3f\0"
    return b"\xff\xd8" + jpeg_segment(0xC0, frame) + jpeg_segment(0xDA, scan)


def interlaced() -> bytes:
    """An Adam7 PNG of one grey; its passes hold so many rows of so many pixels."""
    passes = ((1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8))
    data = b"".join((b"\0" + bytes([120] * columns)) * rows for rows, columns in passes)
    return png(8, 8, 8, 0, zlib.compress(data), interlace=1)


def tiff_cut(**options: Any) -> bytes:
    """A TIFF whose directory is whole and whose pixels end early."""
    data = noise("TIFF", **options)
    (start,) = struct.unpack_from("<I", data, 4)
    return cut(data, 0.6) if start < len(data) // 2 else data[: start // 2]


def without_jfif(data: bytes) -> bytes:
    """As cameras write: EXIF right after the start."""
    length = struct.unpack(">H", data[4:6])[0]
    return data[:2] + data[4 + length :] if data[2:4] == b"\xff\xe0" else data


ROW = bytes([120] * 8)
ACTL = png_chunk(b"acTL", struct.pack(">II", 0, 0))
BOMB = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)[:100_000])
OUT_OF_FILE = (270, 2, 4000, 0x7FFFFFF0)
CAMERA_EXIF = b"Exif\0\0II*\0" + struct.pack("<IHHHIIHHIII", 8, 2, 271, 2, 4000, 10**6, 274, 3, 1, 1, 0)

HOSTILE: dict[str, tuple[Make, Decodes | Fails]] = {
    # Each format as it should be, and every mode it comes in
    "jpeg": (lambda: saved(flat(RED), "JPEG"), Decodes((24, 32), RED, 3)),
    "jpeg-progressive": (lambda: saved(flat(RED), "JPEG", progressive=True), Decodes((24, 32), RED, 3)),
    "jpeg-grey": (lambda: saved(flat(120, "L"), "JPEG"), Decodes((24, 32), GREY, 2)),
    "jpeg-cmyk-adobe-inverted": (adobe_cmyk, Decodes((24, 32), (0, 255, 255), 4)),
    "jpeg-1x1": (lambda: saved(flat(RED, size=(1, 1)), "JPEG"), Decodes((1, 1), RED, 3)),
    "jpeg-icc-profile": (
        lambda: saved(flat(RED), "JPEG", icc_profile=b"not a profile"),
        Decodes((24, 32), RED, 3),
    ),
    "jpeg-fill-bytes": (
        lambda: insert(saved(flat(RED), "JPEG"), 2, b"\xff\xff\xff"),
        Decodes((24, 32), RED, 3),
    ),
    "jpeg-trailing-rubbish": (lambda: saved(flat(RED), "JPEG") + b"rubbish" * 99, Decodes((24, 32), RED, 3)),
    "mpo": (mpo, Decodes((24, 32), RED, 3)),
    "mpo-malformed": (malformed_mpo, Decodes((24, 32), RED, 3)),
    "png": (lambda: saved(flat(RED), "PNG"), Decodes((24, 32), RED)),
    "png-grey": (lambda: saved(flat(120, "L"), "PNG"), Decodes((24, 32), GREY)),
    "png-1-bit-white": (lambda: saved(flat(1, "1"), "PNG"), Decodes((24, 32), WHITE)),
    "png-1-bit-black": (lambda: saved(flat(0, "1"), "PNG"), Decodes((24, 32), BLACK)),
    "png-2-bit": (lambda: png_of_row(b"\xaa\xaa", 2, 0), Decodes((8, 8), (170, 170, 170))),
    "png-grey-alpha": (lambda: saved(flat((0, 127), "LA"), "PNG"), Decodes((24, 32), (128, 128, 128))),
    "png-rgba-clear": (lambda: saved(flat((*RED, 0), "RGBA"), "PNG"), Decodes((24, 32), WHITE)),
    "png-rgba-half": (lambda: saved(flat((255, 0, 0, 127), "RGBA"), "PNG"), Decodes((24, 32), PINK)),
    "png-rgb-transparent-colour": (
        lambda: saved(flat(RED), "PNG", transparency=RED),
        Decodes((24, 32), WHITE),
    ),
    "png-grey-transparent-value": (
        lambda: saved(flat(120, "L"), "PNG", transparency=120),
        Decodes((24, 32), WHITE),
    ),
    "png-palette": (palette, Decodes((24, 32), RED)),
    "png-palette-transparent-index": (lambda: palette(1), Decodes((24, 32), WHITE)),
    "png-palette-transparent-bytes": (lambda: palette(bytes([255, 0, 255])), Decodes((24, 32), WHITE)),
    "png-palette-opaque-index": (lambda: palette(bytes([0, 255, 0])), Decodes((24, 32), RED)),
    "png-palette-1-bit": (
        lambda: png_of_row(b"\xff", 1, 3, png_chunk(b"PLTE", bytes([*BLUE, *RED]))),
        Decodes((8, 8), RED),
    ),
    "png-16-bit-grey": (lambda: encoded(deep(120 * 257), ".png"), Decodes((24, 32), GREY, 1)),
    "png-16-bit-grey-white": (lambda: encoded(deep(65535), ".png"), Decodes((24, 32), WHITE)),
    "png-16-bit-grey-dark": (lambda: encoded(deep(600), ".png"), Decodes((24, 32), (2, 2, 2), 1)),
    "png-16-bit-rgb": (
        lambda: encoded(deep((30 * 257, 30 * 257, 220 * 257)), ".png"),
        Decodes((24, 32), RED, 1),
    ),
    "png-16-bit-rgba": (lambda: encoded(deep((0, 0, 65535, 127 * 257)), ".png"), Decodes((24, 32), PINK, 1)),
    "png-16-bit-grey-alpha": (
        lambda: png_of_row(b"\0\0\0\0" * 8, 16, 4),
        Decodes((8, 8), WHITE),
    ),
    "png-16-bit-transparent-colour": (
        lambda: png_of_row(b"\xdc\xdc\x1e\x1e\x1e\x1e" * 8, 16, 2, png_chunk(b"tRNS", bytes(6))),
        Decodes((8, 8), RED, 1),
    ),
    "png-interlaced": (
        interlaced,
        Decodes((8, 8), GREY),
    ),
    "png-1x5000": (lambda: saved(flat(RED, size=(5000, 1)), "PNG"), Decodes((1, 5000), RED)),
    "png-one-frame-apng": (
        lambda: png_of_row(ROW, 8, 0, png_chunk(b"acTL", struct.pack(">II", 1, 0)), late=ACTL),
        Decodes((8, 8), GREY),
    ),
    "png-no-frame-apng": (lambda: png_of_row(ROW, 8, 0, ACTL, ACTL), Decodes((8, 8), GREY)),
    "png-text-bomb": (lambda: png_of_row(ROW, 8, 0, BOMB, late=BOMB), Decodes((8, 8), GREY)),
    "bmp": (lambda: saved(flat(RED), "BMP"), Decodes((24, 32), RED)),
    "bmp-grey": (lambda: saved(flat(120, "L"), "BMP"), Decodes((24, 32), GREY)),
    "bmp-1-bit": (lambda: saved(flat(1, "1"), "BMP"), Decodes((24, 32), WHITE)),
    "bmp-top-down": (lambda: bmp(4, -4, data=bytes(reversed(RED)) * 16), Decodes((4, 4), RED)),
    "webp": (lambda: saved(flat(RED), "WEBP"), Decodes((24, 32), RED, 4)),
    "webp-lossless": (lambda: saved(flat(RED), "WEBP", lossless=True), Decodes((24, 32), RED)),
    "webp-alpha": (
        lambda: saved(flat((255, 0, 0, 127), "RGBA"), "WEBP", lossless=True),
        Decodes((24, 32), PINK),
    ),
    "tiff": (lambda: saved(flat(RED), "TIFF"), Decodes((24, 32), RED)),
    "tiff-lzw": (lambda: saved(flat(RED), "TIFF", compression="tiff_lzw"), Decodes((24, 32), RED)),
    "tiff-deflate": (
        lambda: saved(flat(RED), "TIFF", compression="tiff_adobe_deflate"),
        Decodes((24, 32), RED),
    ),
    "tiff-jpeg": (
        lambda: saved(flat(RED), "TIFF", compression="jpeg", quality=95),
        Decodes((24, 32), RED, 4),
    ),
    "tiff-fax": (lambda: saved(flat(1, "1"), "TIFF", compression="group4"), Decodes((24, 32), WHITE)),
    "tiff-grey": (lambda: saved(flat(120, "L"), "TIFF"), Decodes((24, 32), GREY)),
    "tiff-grey-inverted": (lambda: grey_tiff(8, 135, photometric=0), Decodes((16, 16), GREY)),
    "tiff-palette": (lambda: saved(Image.open(io.BytesIO(palette())), "TIFF"), Decodes((24, 32), RED)),
    "tiff-rgba": (lambda: saved(flat((255, 0, 0, 127), "RGBA"), "TIFF"), Decodes((24, 32), PINK)),
    "tiff-cmyk": (lambda: saved(flat((255, 0, 0, 0), "CMYK"), "TIFF"), Decodes((24, 32), (0, 255, 255))),
    "tiff-lab": (lambda: saved(flat((200, 128, 128), "LAB"), "TIFF"), Decodes((24, 32), (193, 193, 193), 6)),
    "tiff-16-bit-grey": (lambda: grey_tiff(16, 120 * 257), Decodes((16, 16), GREY, 1)),
    "tiff-16-bit-big-endian": (
        lambda: saved(Image.fromarray(deep(120 * 257).astype(">u2")), "TIFF"),
        Decodes((24, 32), GREY, 1),
    ),
    "tiff-16-bit-rgb": (
        lambda: encoded(deep((30 * 257, 30 * 257, 220 * 257)), ".tiff"),
        Decodes((24, 32), RED, 1),
    ),
    "tiff-metadata-out-of-file": (lambda: grey_tiff(8, 120, OUT_OF_FILE), Decodes((16, 16), GREY)),
    "tiff-metadata-too-many": (lambda: grey_tiff(8, 120, (296, 3, 2, 2)), Decodes((16, 16), GREY)),
    # Broken metadata never fails a picture
    "exif-garbage": (lambda: saved(flat(RED), "JPEG", exif=b"Exif\0\0garbage"), Decodes((24, 32), RED, 3)),
    "exif-orientation-0": (
        lambda: saved(flat(RED), "JPEG", exif=orientation_block(0)),
        Decodes((24, 32), RED, 3),
    ),
    "exif-orientation-99": (
        lambda: saved(flat(RED), "JPEG", exif=orientation_block(99)),
        Decodes((24, 32), RED, 3),
    ),
    "exif-orientation-as-text": (
        lambda: saved(flat(RED), "JPEG", exif=orientation_block(6, 2)),
        Decodes((24, 32), RED, 3),
    ),
    "exif-cut": (
        lambda: saved(flat(RED), "JPEG", exif=orientation_block(6)[:-10]),
        Decodes((24, 32), RED, 3),
    ),
    "exif-of-a-camera-out-of-file": (
        lambda: without_jfif(saved(flat(RED), "JPEG", exif=CAMERA_EXIF)),
        Decodes((24, 32), RED, 3),
    ),
    "exif-in-png": (lambda: saved(flat(RED), "PNG", exif=orientation_block(6)), Decodes((32, 24), RED)),
    "exif-rubbish-in-png": (
        lambda: png_of_row(ROW, 8, 0, late=png_chunk(b"eXIf", b"rubbish")),
        Decodes((8, 8), GREY),
    ),
    "exif-in-webp": (lambda: saved(flat(RED), "WEBP", exif=orientation_block(8)), Decodes((32, 24), RED, 4)),
    "exif-in-tiff": (
        lambda: grey_tiff(8, 120, (256, 3, 1, 32), (257, 3, 1, 8), (278, 3, 1, 8), (274, 3, 1, 6)),
        Decodes((32, 8), GREY),
    ),
    # What is not a still picture in one of the formats
    "gif": (lambda: saved(flat(RED), "GIF"), Fails(UnsupportedImageError, "is a GIF picture, not")),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", Fails(UnsupportedImageError, "is a PDF document, not")),
    "heic": (
        lambda: b"\0\0\0\x18ftypheic" + bytes(200),
        Fails(UnsupportedImageError, "is a HEIC or AVIF picture"),
    ),
    "dicom": (lambda: bytes(128) + b"DICM" + bytes(64), Fails(UnsupportedImageError, "is a DICOM file")),
    "bigtiff": (
        lambda: b"II+\0\x08\0\0\0" + bytes(64),
        Fails(UnsupportedImageError, "is a BigTIFF file"),
    ),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', NOT_A_PICTURE),
    "text": (lambda: b"BM" + b"W prices went up again this year.\n" * 9, NOT_A_PICTURE),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_A_PICTURE),
    "ppm": (lambda: b"P6 2 2 255\n" + bytes(12), NOT_A_PICTURE),
    "ico": (lambda: saved(flat(RED), "ICO"), NOT_A_PICTURE),
    "jpeg-2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), NOT_A_PICTURE),
    "zeros": (lambda: bytes(4096), NOT_A_PICTURE),
    "one-byte": (lambda: b"\xff", NOT_A_PICTURE),
    "riff-audio": (lambda: b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28), NOT_A_PICTURE),
    "animated-png": (lambda: frames("PNG"), SEVERAL),
    "animated-webp": (lambda: frames("WEBP"), SEVERAL),
    "multi-page-tiff": (lambda: frames("TIFF"), SEVERAL),
    "tiff-32-bit-float": (
        lambda: saved(flat(0.5, "F"), "TIFF"),
        Fails(UnsupportedImageError, "32-bit"),
    ),
    "tiff-32-bit-integer": (lambda: saved(flat(7, "I"), "TIFF"), Fails(UnsupportedImageError, "32-bit")),
    "tiff-16-bit-inverted": (
        lambda: grey_tiff(16, 9, photometric=0),
        Fails(UnsupportedImageError, "inverted grey values"),
    ),
    "tiff-12-bit": (lambda: grey_tiff(12, 9, side=16), Fails(UnsupportedImageError, "12-bit")),
    # Broken
    "empty": (lambda: b"", Fails(BrokenImageError, "is empty")),
    "jpeg-truncated": (lambda: cut(noise("JPEG")), TRUNCATED),
    "jpeg-truncated-progressive": (lambda: cut(noise("JPEG", progressive=True)), TRUNCATED),
    "jpeg-truncated-header": (lambda: saved(flat(RED), "JPEG")[:40], TRUNCATED),
    "jpeg-magic-alone": (lambda: b"\xff\xd8\xff", TRUNCATED),
    "jpeg-header-alone": (lambda: jpeg_claiming(32, 24), TRUNCATED),
    "jpeg-zero-width": (lambda: jpeg_claiming(0, 24), TRUNCATED),
    "jpeg-no-scan": (lambda: b"\xff\xd8" + jpeg_segment(0xE0, b"JFIF\0") + b"\xff\xd9", TRUNCATED),
    "png-truncated": (lambda: cut(noise("PNG")), TRUNCATED),
    "png-magic-alone": (lambda: b"\x89PNG\r\n\x1a\n", TRUNCATED),
    "png-header-alone": (lambda: png(8, 8, 8, 0, b"")[:33], TRUNCATED),
    "png-zero-width": (lambda: png(0, 8, 8, 0, b""), TRUNCATED),
    "png-bad-checksum": (
        lambda: saved(flat(RED), "PNG").replace(b"IHDR\0\0\0\x20", b"IHDR\0\0\0\x21"),
        TRUNCATED,
    ),
    "png-bad-deflate": (lambda: png(64, 64, 8, 0, b"rubbish" * 30), TRUNCATED),
    "png-too-few-rows": (lambda: png(64, 64, 8, 0, zlib.compress(bytes(40))), TRUNCATED),
    "png-impossible-depth": (lambda: png_of_row(ROW, 7, 0), TRUNCATED),
    "png-length-overflow": (lambda: b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + bytes(40), TRUNCATED),
    "bmp-truncated": (lambda: cut(noise("BMP")), TRUNCATED),
    "bmp-zero-size": (lambda: bmp(0, 0), TRUNCATED),
    "bmp-impossible-depth": (lambda: bmp(4, 4, bits=5, data=bytes(64)), TRUNCATED),
    "webp-truncated": (lambda: cut(noise("WEBP")), TRUNCATED),
    "webp-magic-alone": (lambda: b"RIFF\x04\0\0\0WEBP", TRUNCATED),
    "webp-header-alone": (lambda: webp_claiming(32, 24), TRUNCATED),
    "tiff-truncated": (tiff_cut, TRUNCATED),
    "tiff-truncated-lzw": (lambda: tiff_cut(compression="tiff_lzw"), TRUNCATED),
    "tiff-magic-alone": (lambda: b"II*\0", TRUNCATED),
    "tiff-directory-out-of-file": (lambda: b"MM\0*\x7f\xff\xff\xff" + bytes(64), TRUNCATED),
    "tiff-no-tags": (tiff, TRUNCATED),
    "tiff-directory-of-65535-tags": (lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(64), TRUNCATED),
    "tiff-strips-out-of-file": (lambda: grey_tiff(8, 120, (273, 4, 1, 0x7FFFFFFF)), TRUNCATED),
    "tiff-two-widths": (lambda: grey_tiff(8, 120, (256, 3, 2, 16)), TRUNCATED),
    "tiff-unknown-compression": (lambda: grey_tiff(8, 120, (259, 3, 1, 9999)), TRUNCATED),
    "tiff-unknown-type": (lambda: grey_tiff(8, 120, (256, 77, 1, 16)), TRUNCATED),
    "tiff-zero-width": (lambda: grey_tiff(8, 120, (256, 3, 1, 0)), TRUNCATED),
    # Too large by their headers alone
    "png-huge": (lambda: png(100_000, 100_000, 8, 2, b""), TOO_LARGE),
    "png-just-too-large": (
        lambda: png(10_001, 10_000, 1, 0, b""),
        Fails(ImageTooLargeError, "10001 x 10000 pixels (100.01 megapixels)"),
    ),
    "jpeg-huge": (lambda: jpeg_claiming(65_000, 65_000), TOO_LARGE),
    "bmp-huge": (lambda: bmp(60_000, 60_000), TOO_LARGE),
    "tiff-huge": (lambda: grey_tiff(8, 120, (256, 4, 1, 10**6), (257, 4, 1, 10**6)), TOO_LARGE),
    "webp-huge": (lambda: webp_lossless_claiming(12_000, 12_000), TOO_LARGE),
}
