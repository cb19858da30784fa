"""Decodes and encodes images: what may come in, and how it is turned.

Pillow decodes, but is kept away from metadata that no pixel depends on, so that a broken piece of it neither
fails an image nor warns. Embedded colour profiles are ignored: pixels are taken as sRGB.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dermseg.errors import (
    BrokenImageError,
    DataError,
    ImageError,
    ImageTooLargeError,
    InputError,
    UnsupportedImageError,
    printable,
)

Source = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
Orientation = Literal["upright", "stored"]
DEFAULT_MAX_MEGAPIXELS = 100.0
MASK_THRESHOLD = 128
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

Pixels = npt.NDArray[np.uint8]
Samples = Pixels | npt.NDArray[np.uint16]
_Samples = TypeVar("_Samples", bound=Samples)

_ACCEPTED = "a JPEG, PNG, BMP, TIFF or WebP picture"
_MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "TIFF": rb"II\*\0|MM\0\*",
    "WEBP": rb"RIFF.{4}WEBP",
}
_FOREIGN_MAGIC = {
    "a GIF picture": rb"GIF8",
    "a PDF document": rb"%PDF",
    "a HEIC or AVIF picture or a film": rb".{4}ftyp",
    "a DICOM file": rb".{128}DICM",
    "a BigTIFF file": rb"II\+\0|MM\0\+",
}
_MAGIC_LENGTH = 132
_GREY, _RGB = 0, 2  # colour types of PNG
# Tags that pixels depend on, with one value and with several; without an orientation Pillow turns nothing.
_TIFF_SINGLE = {256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323}
_TIFF_PLURAL = {258, 273, 279, 320, 324, 325, 338, 339, 347, 530, 532}
_TIFF_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)


class _JpegReader(JpegImageFile):
    """Pillow's, but looks for no resolution in the EXIF, which would warn where it is malformed."""

    def getexif(self) -> Image.Exif:
        return Image.Exif()


class _TiffReader(TiffImageFile):
    """Pillow's, but without a size limit of its own."""

    load_prepare = ImageFile.load_prepare


_READERS: dict[str, type[ImageFile]] = {
    "JPEG": _JpegReader,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "TIFF": _TiffReader,
    "WEBP": WebPImageFile,
}


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image whose header has been read and checked; its pixels are decoded each time they are asked for.

    Holds the encoded bytes and no open file; may be used from several threads.

    Attributes:
        name: The file's name, or "<bytes>", "<image>", "<array>"; for messages.
        size: (height, width) in pixels, in the orientation asked for.
        format: "JPEG", "PNG", "BMP", "TIFF", "WEBP", "image" or "array".
        orientation: "upright" as a browser shows it, "stored" as the file has it.
        exif_orientation: What the file declares, 1 to 8; 1 where it declares nothing or an invalid value.
    """

    name: str
    size: tuple[int, int]
    format: str
    orientation: Orientation
    exif_orientation: int
    _content: bytes | Pixels = field(repr=False)

    def pixels(self, at_least: int | None = None) -> Pixels:
        """Decodes the image.

        Args:
            at_least: Lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as long as
                its longer side keeps this many pixels; None for full size.

        Returns:
            (H, W, 3) RGB, 0 to 255, contiguous and the caller's own; what is transparent lies over white.

        Raises:
            BrokenImageError: The data are truncated or corrupt.
            UnsupportedImageError: The pixels are of a kind without a defined 8-bit colour.
            ImageTooLargeError: There is not enough memory.
        """
        samples = _upper(self._samples(at_least)[0])
        if samples.ndim == 2:
            return cast(Pixels, cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB))
        return np.array(_opaque(samples, backdrop=255), order="C")

    def _samples(self, at_least: int | None = None) -> tuple[Samples, int]:
        """Gives grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4), possibly read-only, and the file's bits of each."""
        turn, bits = self.exif_orientation if self.orientation == "upright" else 1, 8
        samples: Samples
        if isinstance(self._content, bytes):
            with _decoding(self.name, self.format):
                image = _READERS[self.format](io.BytesIO(self._content))
                if at_least is not None and isinstance(image, JpegImageFile):
                    _reduce(image, at_least, exactly=turn != 1)
                bits = _bits(image, self._content)
                samples = _read_samples(image, self.name)
        else:
            samples = self._content
        return turned(samples, turn), bits


def open_image(
    source: Source, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS, orientation: Orientation = "upright"
) -> Photograph:
    """Reads an image's header and checks that the image may be decoded.

    The content decides what an image is, not the suffix: a still JPEG (also the first picture of an MPO),
    PNG, BMP, TIFF or WebP. Nothing else is opened.

    Args:
        source: A path, encoded bytes, a PIL image or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        max_megapixels: The most pixels, in millions, that may be decoded; checked before any is.
        orientation: "upright" applies the EXIF orientation, "stored" ignores it.

    Raises:
        InputError: The path cannot be read, or an argument is not one of the above.
        UnsupportedImageError: Not such a picture, or one with several frames or pages.
        BrokenImageError: Empty, truncated or corrupt.
        ImageTooLargeError: More than `max_megapixels`.
    """
    if orientation not in get_args(Orientation):
        raise InputError(f"orientation is {orientation!r} where 'upright' or 'stored' is expected")
    if not max_megapixels > 0:
        raise InputError(f"max_megapixels is {max_megapixels} where a number above 0 is expected")
    content: bytes | Pixels
    if isinstance(source, np.ndarray):
        name, kind, exif_orientation = "<array>", "array", 1
        samples = _checked(source)
        height, width = samples.shape[:2]
        _check_size(name, height, width, max_megapixels)
        content = samples.copy()
    elif isinstance(source, Image.Image):
        name, kind, exif_orientation = "<image>", "image", _exif_orientation(source.info.get("exif"))
        _check_size(name, source.height, source.width, max_megapixels)
        with _decoding(name, kind):
            content = _upper(_read_samples(source, name))
        height, width = content.shape[:2]  # Pillow turns a TIFF when it loads it
    else:
        name, kind, encoded = _read(source)
        with _decoding(name, kind):
            stripped = _STRIPPERS[kind](encoded) if kind in _STRIPPERS else (encoded, None, False)
            if kind == "JPEG" and encoded.count(_SCAN) > _MOST_SCANS:
                raise BrokenImageError(
                    f"{name} is a JPEG of more than {_MOST_SCANS} scans, made to take long; save it as a plain one"
                )
            encoded, exif, is_several = stripped
            content = encoded
            image = _READERS[kind](io.BytesIO(encoded))
            height, width = image.height, image.width
            _check_size(name, height, width, max_megapixels)
            if is_several or getattr(image, "n_frames", 1) > 1:
                raise UnsupportedImageError(
                    f"{name} is {kind} data with several frames or pages where a still picture is expected; "
                    "save the one wanted as a file of its own"
                )
            exif_orientation = _exif_orientation(exif or image.info.get("exif"))
    swapped = orientation == "upright" and exif_orientation >= 5
    size = (width, height) if swapped else (height, width)
    return Photograph(name, size, kind, orientation, exif_orientation, content)


def read_mask(source: Source, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> npt.NDArray[np.bool_]:
    """Reads a mask as the ISIC challenge does: foreground is where the grey value exceeds `MASK_THRESHOLD`.

    Returns:
        (H, W), True on foreground.

    Raises:
        DermsegError: As `open_image` and `Photograph.pixels`.
    """
    return read_mask_values(source, max_megapixels=max_megapixels) > MASK_THRESHOLD


def read_mask_values(source: Source, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS) -> Pixels:
    """Reads the 8-bit grey values of a mask's file.

    Colours and palettes are turned into grey, 16 bits into their upper 8; what is transparent is background.

    Returns:
        (H, W), 0 to 255.

    Raises:
        DermsegError: As `open_image` and `Photograph.pixels`.
    """
    return StoredMask(*open_image(source, max_megapixels=max_megapixels)._samples()).values


@dataclass(frozen=True, eq=False)
class StoredMask:
    """What a mask's file holds, decoded, before it is reduced to 8 bits of grey.

    Attributes:
        samples: Grey (H, W), 0 to 255, or to 65535 where the file has 16 bits; RGB (H, W, 3) or RGBA (H, W, 4), 0 to
            255, also where the file has 16 bits: of those only the upper 8 are decoded.
        bits: The file's of each sample, 16 or 8 (also for fewer).
    """

    samples: Samples
    bits: int

    @property
    def values(self) -> Pixels:
        """As `read_mask_values` gives them: (H, W), 0 to 255."""
        samples = _upper(self.samples)
        if samples.ndim == 2:
            return samples
        return cast(Pixels, cv2.cvtColor(_opaque(samples, backdrop=0), cv2.COLOR_RGB2GRAY))

    @property
    def colours(self) -> Samples:
        """The samples without alpha: (H, W) or (H, W, 3)."""
        return self.samples if self.samples.ndim == 2 else self.samples[..., :3]

    @property
    def alpha(self) -> tuple[int, int]:
        """The least and the greatest opacity, 0 to 255."""
        if self.samples.shape[2:] != (4,):
            return 255, 255
        alpha = self.samples[..., 3]
        return int(alpha.min()), int(alpha.max())


def read_stored_mask(
    source: str | os.PathLike[str] | bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> StoredMask:
    """Reads a mask's file without reducing what it holds.

    Args:
        source: The file's path, or its bytes.
        max_megapixels: The most pixels, in millions, that may be decoded.

    Raises:
        DermsegError: As `open_image` and `Photograph.pixels`, of the same class; the sentence says that it is a mask
            and gives the whole path, since the image may have the same name.
    """
    try:
        return StoredMask(*open_image(source, max_megapixels=max_megapixels)._samples())
    except (ImageError, InputError) as error:
        names = ["<bytes>"] if isinstance(source, bytes) else [printable(source), printable(Path(source).name)]
        reason = str(error)
        for name in names:
            reason = reason.removeprefix(f"{name} ")
        raise type(error)(f"{_mask_named(source)} {reason}") from error


def read_true_mask(
    source: str | os.PathLike[str] | bytes, *, max_megapixels: float = DEFAULT_MAX_MEGAPIXELS
) -> npt.NDArray[np.bool_]:
    """Reads a mask to score others against as `read_mask` does, but none that is empty by its encoding alone.

    Labels 0 and 1, 16 bits with values up to 255, or black paint on a transparent ground hold a lesion of which the
    challenge's threshold would leave nothing. A mask of nothing but 0 is empty.

    Args:
        source: The file's path, or its bytes.
        max_megapixels: The most pixels, in millions, that may be decoded.

    Returns:
        (H, W), True on foreground.

    Raises:
        DataError: It holds something, but nothing above `MASK_THRESHOLD`.
        DermsegError: As `read_stored_mask`.
    """
    stored = read_stored_mask(source, max_megapixels=max_megapixels)
    grey = stored.values
    mask = grey > MASK_THRESHOLD
    if mask.any():
        return mask
    is_grey = stored.samples.ndim == 2
    if stored.alpha[0] < stored.alpha[1]:
        held = f"is transparent in part, with nothing above {MASK_THRESHOLD}"
    elif stored.bits == 16 and not is_grey:
        held = f"holds 16-bit colours, with nothing above {MASK_THRESHOLD} in their upper 8 bits"
    elif stored.colours.any():
        shown, kind = (stored.samples, "values") if is_grey else (grey, "colours of grey values")
        limit = MASK_THRESHOLD if stored.bits == 8 else MASK_THRESHOLD << 8 | 255
        bits = "16-bit " if stored.bits == 16 else ""
        held = f"holds {bits}{kind} from {shown.min()} to {shown.max()}, none above {limit}"
    else:
        return mask
    # The check mends two values, of the files that it sees.
    is_mended = len(np.unique(grey)) == 2 and not isinstance(source, bytes)
    mended = " (dermseg data check --fix does it)" if is_mended else ""
    raise DataError(
        f"{_mask_named(source)} {held}, so that nothing would count as foreground; save it as 8-bit grey, 0 and 255"
        f"{mended}"
    )


def _mask_named(source: str | os.PathLike[str] | bytes) -> str:
    return "the mask" if isinstance(source, bytes) else f"the mask {printable(source)}"


def encode_mask(mask: npt.NDArray[np.bool_], bits: Literal[1, 8] = 8) -> bytes:
    """Encodes a mask as a grey PNG, foreground white.

    Args:
        mask: (H, W), True on foreground.
        bits: 8 for values 0 and 255, 1 for a bilevel file.

    Raises:
        InputError: Not such a mask, or other `bits`.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise InputError(f"mask is {mask.dtype} {mask.shape} where bool (H, W) is expected")
    if bits not in (1, 8):
        raise InputError(f"bits is {bits} where 1 or 8 is expected")
    packed = np.packbits(mask, axis=1) if bits == 1 else mask.view(np.uint8) * np.uint8(255)
    return _encode_png(packed, mask.shape[1], bits, _GREY, filtered=False)


def encode_image(
    pixels: Pixels, format: Literal["PNG", "JPEG", "WEBP"] = "PNG", *, quality: int | None = None
) -> bytes:
    """Encodes RGB (H, W, 3) or grey (H, W) pixels.

    Args:
        pixels: uint8.
        format: PNG loses nothing; a JPEG's chroma is not subsampled.
        quality: Of a JPEG, 95 if None, or a WebP, 90 if None; 1 to 100.

    Raises:
        InputError: Not such pixels, or another format.
        ImageTooLargeError: A side longer than the format allows.
    """
    settings: dict[str, dict[str, int]] = {
        "PNG": {},
        "JPEG": {"quality": quality or 95, "subsampling": 0},
        "WEBP": {"quality": quality or 90, "method": 2},
    }
    if format not in settings:
        raise InputError(f"format is {format!r} where one of {', '.join(settings)} is expected")
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)) or not pixels.size:
        given = f"{pixels.dtype} {pixels.shape}"
        raise InputError(f"pixels are {given} where uint8 (H, W) or (H, W, 3) is expected")
    if format == "PNG":
        rows = pixels.reshape(len(pixels), -1)
        return _encode_png(rows, pixels.shape[1], 8, _GREY if pixels.ndim == 2 else _RGB, filtered=True)
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, format, **settings[format])
    except (OSError, ValueError) as error:
        raise ImageTooLargeError(
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels cannot be written as {format}; write PNG instead"
        ) from error
    return buffer.getvalue()


def _encode_png(rows: Pixels, width: int, bits: int, colour: int, *, filtered: bool) -> bytes:
    """Frames rows of packed samples (H, bytes) as a PNG.

    Written by hand: no row filter for a mask, and one and the same for a photograph, take half the time of
    Pillow's search for the best, or less (docs/decisions.md).
    """
    marked = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)
    marked[:, 1:] = rows
    if filtered:  # filter 2, "up": each row less the one above
        marked[1:, 1:] -= rows[:-1]
        marked[:, 0] = 2
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    chunks = ((b"IHDR", header), (b"IDAT", deflate.compress(marked.data) + deflate.flush()), (b"IEND", b""))
    framed = (struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Writes a file whole or not at all; an existing one is replaced.

    Raises:
        InputError: The path cannot be written.
    """
    target = Path(path)
    try:
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)} cannot be written ({_reason(error)}); give another path") from error


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, and those above it, where it does not exist.

    Raises:
        InputError: It cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)} cannot be made a folder ({_reason(error)}); give another path") from error


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "not a valid path"


def _read(source: object) -> tuple[str, str, bytes]:
    """Gives the name, the format and the bytes of an encoded image; reads no file that is not one."""
    if isinstance(source, bytes):
        return "<bytes>", _sniff("<bytes>", source[:_MAGIC_LENGTH]), source
    if not isinstance(source, str | os.PathLike):
        given = type(source).__name__
        raise InputError(f"image is {given} where a path, bytes, a PIL image or a uint8 array is expected")
    shown = printable(source)
    try:
        path = Path(source)
        if not path.exists():
            raise InputError(f"{shown} does not exist; give the path of {_ACCEPTED}")
        if not path.is_file():
            raise InputError(f"{shown} is not a file; give the path of {_ACCEPTED}")
        name = printable(path.name)
        with path.open("rb") as file:
            head = file.read(_MAGIC_LENGTH)
            return name, _sniff(name, head), head + file.read()
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{shown} cannot be read ({_reason(error)}); give the path of {_ACCEPTED}") from error


def _sniff(name: str, head: bytes) -> str:
    """Gives the format of an image from its first bytes."""
    if not head:
        raise BrokenImageError(f"{name} is empty where {_ACCEPTED} is expected; save or download it again")
    for kind, magic in _MAGIC.items():
        if re.match(magic, head, re.DOTALL):
            return kind
    foreign = [f"{what}, " for what, magic in _FOREIGN_MAGIC.items() if re.match(magic, head, re.DOTALL)]
    raise UnsupportedImageError(f"{name} is {''.join(foreign[:1])}not {_ACCEPTED}; convert it to one of these")


def _check_size(name: str, height: int, width: int, max_megapixels: float) -> None:
    if min(height, width) < 1:
        raise BrokenImageError(f"{name} has no pixels ({width} x {height}); save or download it again")
    megapixels = height * width / 1e6
    if megapixels > max_megapixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} pixels ({megapixels:.6g} megapixels) where at most "
            f"{max_megapixels:g} megapixels are allowed; scale it down or raise max_megapixels"
        )


def _checked(array: npt.NDArray[np.uint8]) -> Pixels:
    """Gives an array as grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4)."""
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        given, expected = f"{array.dtype} {array.shape}", "uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise InputError(f"array is {given} where {expected} is expected")
    return array[:, :, 0] if array.shape[2:] == (1,) else array


@contextmanager
def _decoding(name: str, kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises into one clear error."""
    try:
        yield
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageTooLargeError(f"{name} is too large to be decoded here; scale it down") from error
    except Exception as error:  # on hostile bytes decoders raise nearly anything
        raise BrokenImageError(
            f"{name} is {kind} data that are truncated, corrupt or of a rare kind and cannot be decoded; "
            "save or download it again, or convert it to PNG"
        ) from error


def _strip_png(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Cuts out the chunks that do not make pixels; gives the rest, the EXIF and whether it is animated."""
    kept, exif, is_several, start = [data[:8]], None, False, 8
    while start < len(data):
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4])
        if kind == b"acTL":
            is_several = int.from_bytes(data[start + 8 : start + 12]) > 1
        elif kind == b"eXIf":
            exif = data[start + 8 : end - 4]
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept), exif, is_several


def _strip_tiff(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """Cuts out the tags that do not make pixels, checks the others; gives as `_strip_png` does."""
    order, start, entries = _tiff_entries(data)
    kept = sorted({entry[0]: entry for entry in entries if entry[0] in _TIFF_SINGLE | _TIFF_PLURAL}.values())
    total = 0
    for tag, type_, count, value in kept:
        size = _TIFF_TYPE_BYTES[type_] * count
        total += size
        beyond = size > 4 and struct.unpack(order + "I", value)[0] + size > len(data)
        if beyond or total > len(data) or (tag in _TIFF_SINGLE and count != 1):
            raise ValueError(f"tag {tag} is malformed")
    directory = b"".join(struct.pack(order + "HHI4s", *entry) for entry in kept)
    replaced = struct.pack(order + "H", len(kept)) + directory + bytes(4)
    following = start + 2 + 12 * len(entries)
    is_several = any(data[following : following + 4])
    return data[:start] + replaced + data[start + len(replaced) :], data, is_several


_SCAN = b"\xff\xda"  # begins a scan of a JPEG, of which each takes as long as the whole picture; pixels never hold it
_MOST_SCANS = 200  # a progressive one has about ten, and metadata may hold some by chance
_STRIPPERS = {"PNG": _strip_png, "TIFF": _strip_tiff}


def _tiff_entries(data: bytes) -> tuple[str, int, list[tuple[int, int, int, bytes]]]:
    """Gives byte order, the first directory's offset and its entries: tag, type, count, value or offset."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    return order, start, [struct.unpack_from(order + "HHI4s", data, start + 2 + 12 * i) for i in range(count)]


def _exif_orientation(exif: object) -> int:
    """Gives 1 to 8 from an EXIF block, 1 where there is none or an invalid one."""
    if not isinstance(exif, bytes):
        return 1
    try:
        order, _, entries = _tiff_entries(exif.removeprefix(b"Exif\0\0"))
    except (KeyError, struct.error):
        return 1
    values = [struct.unpack(order + "H2x", entry[3])[0] for entry in entries if entry[:2] == (274, 3)]
    return values[0] if values and 1 <= values[0] <= 8 else 1


def _reduce(image: JpegImageFile, at_least: int, exactly: bool) -> None:
    """Has a JPEG decoded at the smallest scale that keeps `at_least` pixels on its longer side.

    A scale that does not divide a side adds pixels at the right or the bottom edge, which `Geometry.apply`
    knows. In an image that is turned they would come to lie at another edge: `exactly` excludes such scales.
    """
    width, height = image.size
    for scale in (8, 4, 2):
        divides = width % scale == height % scale == 0
        if -(-max(width, height) // scale) >= at_least and (divides or not exactly):
            image.draft(None, (max(1, width // scale), max(1, height // scale)))
            return


def _bits(image: ImageFile, content: bytes) -> int:
    """The bits of each of a file's samples, 16 or 8, by its header; of 16-bit colours Pillow decodes the upper 8."""
    if isinstance(image, PngImageFile):
        return 16 if content[24] == 16 else 8
    if isinstance(image, TiffImageFile):
        return 16 if 16 in image.tag_v2.get(258, ()) else 8
    return 8


def _read_samples(image: Image.Image, name: str) -> Samples:
    """Gives grey (H, W) of 8 or 16 bits, RGB (H, W, 3) or RGBA (H, W, 4)."""
    tags = getattr(image, "tag_v2", {258: (16,), 262: 1})
    is_16_bit = image.mode.startswith("I;16")
    if image.mode in ("I", "F") or (is_16_bit and (tags.get(258), tags.get(262)) != ((16,), 1)):
        raise UnsupportedImageError(
            f"{name} has 32-bit, 12-bit or inverted grey values where plain 8 or 16 bits are expected; "
            "convert it to an 8-bit PNG"
        )
    if is_16_bit:
        return np.asarray(image).astype(np.uint16, copy=False)
    if image.mode == "La":
        image = image.convert("LA")
    has_alpha = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    mode = "RGBA" if has_alpha else "L" if image.mode in ("1", "L") else "RGB"
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _upper(samples: Samples) -> Pixels:
    """The upper 8 bits of samples."""
    return cast(Pixels, samples if samples.dtype == np.uint8 else (samples >> 8).astype(np.uint8))


def _opaque(samples: Pixels, backdrop: int) -> Pixels:
    """Lays RGBA over a grey backdrop; RGB stays as it is."""
    if samples.shape[2] == 3:
        return samples
    alpha = samples[..., 3:].astype(np.uint16)
    return ((samples[..., :3] * alpha + backdrop * (255 - alpha) + 127) // 255).astype(np.uint8)


def turned(samples: _Samples, exif_orientation: int) -> _Samples:
    """Turns stored samples, (H, W) or (H, W, C), upright; an EXIF orientation of 5 to 8 exchanges their sides."""
    upright: cv2.typing.MatLike = samples
    if exif_orientation >= 5:
        upright = cv2.transpose(upright)
    if exif_orientation in (2, 3, 6, 7):
        upright = cv2.flip(upright, 1)
    if exif_orientation in (3, 4, 7, 8):
        upright = cv2.flip(upright, 0)
    return cast(_Samples, upright)
