"""Measures a lesion: its size, shape, border and colours.

The mask is taken as it is. All of its pixels together are the lesion, in however many components. A hole is no lesion:
its pixels count for nothing and its edge is border. Where the mask meets the image's edge, that edge is border too.
No value is rescaled by the other lesions of a data set or by the rest of the image.

Area, largest diameter and components are of the mask at its own size. The other measures of shape are of a copy of the
lesion whose longer side has at most ``SIDE`` pixels, each the share of it that the mask covers, smoothed a little so
that the steps of its pixels are no border; so the time is bounded and the values hardly depend on the image's size.
Colours are of a copy of the lesion with at most ``COLOUR_SIDE`` pixels. They are those of the picture: neither camera
nor light is calibrated.

The ABCD rule of dermoscopy (Stolz et al., Eur J Dermatol 4, 1994; Nachbar et al., J Am Acad Dermatol 30, 1994) scores
asymmetry, border, colours and structures by eye. What is measured here is akin to its A, B and C but is not its score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Coverage = NDArray[np.float32]
Floats = NDArray[np.float64]
Image = TypeVar("Image", Pixels, Coverage)

SIDE, COLOUR_SIDE = 512, 256
SMOOTHING = 1.0
"""Standard deviation, in pixels of the copy, of the Gaussian before a border is drawn."""

REFERENCE_COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (94, 1, 3),
    "red": (52, 44, 18),
    "light brown": (64, 20, 30),
    "dark brown": (34, 16, 20),
    "blue-grey": (46, -1, -8),
    "black": (12, 3, 2),
}
"""The six colours of the ABCD rule as L*, a*, b* of CIELAB (D65, of sRGB). The values are this project's choice."""

LEAST_SHARE = 0.05
"""Of the lesion: a colour counts where it covers at least that much."""

SCALES = (1e-6, 1e3)
"""The least and the largest side of a pixel in millimetres, far beyond what any camera or microscope has."""

DIRECTIONS = 16
"""In which a component's width is taken for its diameter, over half a turn: the largest is at most 0.5 % too small."""


@dataclass(frozen=True)
class Measurements:
    """What was measured of a lesion. Lengths and areas in pixels of the mask; the ``_mm`` ones None without a scale.

    Attributes:
        mm_per_pixel: Side of a pixel of the mask, where it is known.
        area: Number of pixels.
        perimeter: Length of the line where the smoothed coverage is one half, from where rows and columns cross it,
            each crossing weighed by the line's direction (defined here). Within 2 % for discs, ellipses and rectangles
            at least 30 pixels wide, turned by whatever angle; smoothing rounds corners. Never below what area and
            largest diameter of each component demand, which decides where parts are a pixel or two wide.
        maximum_diameter: Largest distance of two points of the lesion, whose pixels are squares: sqrt(2) of one pixel.
        eccentricity: In [0, 1), of the ellipse with the same second moments: sqrt(1 - (minor / major axis)^2).
        asymmetry: About the major and the minor principal axis through the centroid, each in [0, 1]: the share of the
            lesion that its mirror image does not cover, which is their symmetric difference over twice the area (by
            areas about principal axes as Stoecker, Li and Moss, Comput Med Imaging Graph 16, 1992). 0 is symmetric.
            A lesion of eccentricity near 0 has no principal axes but by chance, so neither is then telling.
        border_irregularity: Defined here: coefficient of variation, along the border, of the distance from the
            centroid, all in the coordinates that make the second moments those of a disc. 0 of any ellipse, about
            0.11 of any rectangle; it grows with bays and spurs, with holes and with components that lie apart. 0 of
            one component too thin for a line where the smoothed coverage is one half; None of several without one.
        components: Number of parts; pixels that share a corner hang together.
        touches_border: Whether the lesion meets the image's edge, so that part of it may be missing.
        colours: Share of the lesion, in [0, 1] and 1 together, that is nearer to each of ``REFERENCE_COLOURS`` than to
            the others, by distance in CIELAB.
        colour_variegation: Defined here: standard deviations of L*, a* and b* in the lesion over 100, the range of L*.
    """

    mm_per_pixel: float | None
    area: int
    perimeter: float
    maximum_diameter: float
    eccentricity: float
    asymmetry: tuple[float, float]
    border_irregularity: float | None
    components: int
    touches_border: bool
    colours: dict[str, float] = field(hash=False)
    colour_variegation: tuple[float, float, float]

    @property
    def equivalent_diameter(self) -> float:
        """Diameter of the disc with the same area, sqrt(4 A / pi)."""
        return math.sqrt(4 * self.area / math.pi)

    @property
    def compactness(self) -> float:
        """4 pi A / P^2, in (0, 1]; 1 of a disc."""
        return min(1.0, 4 * math.pi * self.area / self.perimeter**2)

    @property
    def colours_present(self) -> tuple[str, ...]:
        """The colours that cover at least ``LEAST_SHARE`` of the lesion, 1 to 6."""
        return tuple(name for name, share in self.colours.items() if share >= LEAST_SHARE)

    @property
    def area_mm2(self) -> float | None:
        """Area in square millimetres."""
        return None if self.mm_per_pixel is None else self.area * self.mm_per_pixel**2

    @property
    def perimeter_mm(self) -> float | None:
        """Perimeter in millimetres."""
        return self._mm(self.perimeter)

    @property
    def equivalent_diameter_mm(self) -> float | None:
        """Diameter of the disc with the same area in millimetres."""
        return self._mm(self.equivalent_diameter)

    @property
    def maximum_diameter_mm(self) -> float | None:
        """Largest diameter in millimetres."""
        return self._mm(self.maximum_diameter)

    def to_dict(self) -> dict[str, Any]:
        """The measurements in plain values, for JSON."""
        lightness, red_green, yellow_blue = self.colour_variegation
        return {
            "mm_per_pixel": self.mm_per_pixel,
            "area_pixels": self.area,
            "area_mm2": self.area_mm2,
            "perimeter_pixels": self.perimeter,
            "perimeter_mm": self.perimeter_mm,
            "equivalent_diameter_pixels": self.equivalent_diameter,
            "equivalent_diameter_mm": self.equivalent_diameter_mm,
            "maximum_diameter_pixels": self.maximum_diameter,
            "maximum_diameter_mm": self.maximum_diameter_mm,
            "compactness": self.compactness,
            "eccentricity": self.eccentricity,
            "asymmetry": {"major_axis": self.asymmetry[0], "minor_axis": self.asymmetry[1]},
            "border_irregularity": self.border_irregularity,
            "components": self.components,
            "touches_border": self.touches_border,
            "colours": dict(self.colours),
            "colours_present": list(self.colours_present),
            "colour_variegation": {"lightness": lightness, "red_green": red_green, "yellow_blue": yellow_blue},
        }

    def _mm(self, length: float) -> float | None:
        return None if self.mm_per_pixel is None else length * self.mm_per_pixel


def measure(pixels: Pixels, mask: Mask, mm_per_pixel: float | None = None) -> Measurements | None:
    """Measure a lesion.

    Args:
        pixels: The image, uint8 (h, w, 3) in RGB, at the mask's size or another of the same shape.
        mask: The lesion, bool (H, W).
        mm_per_pixel: Side of a pixel of the mask in millimetres; None where it is not known.

    Returns:
        The measurements; None of an empty mask.

    Raises:
        InputError: An array is of another type, the two are not of one image, or the scale is out of ``SCALES``.
    """
    _check(pixels, mask, mm_per_pixel)
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if not width:
        return None
    lesion = mask[y : y + height, x : x + width]
    area = int(np.count_nonzero(lesion))
    labels, statistics = cv2.connectedComponentsWithStats(lesion.view(np.uint8), connectivity=8)[1:3]
    areas = statistics[1:, cv2.CC_STAT_AREA].astype(np.float64)
    diameter = _maximum_diameter(lesion)
    diameters = np.array([diameter]) if len(areas) == 1 else _diameters(lesion, np.asarray(labels, np.int32))

    coverage, factor = _copy(lesion)
    ellipse = _Ellipse.of(coverage)
    smooth: Coverage = cv2.GaussianBlur(coverage, (0, 0), SMOOTHING, borderType=cv2.BORDER_CONSTANT).astype(np.float32)
    border = _Border.of(smooth)
    # What every component keeps to: none of its area has a shorter border, and it goes there and back.
    least = float(np.maximum(2 * np.sqrt(math.pi * areas), 2 * diameters).sum())

    shares, variegation = _colours(pixels, mask)
    return Measurements(
        mm_per_pixel=None if mm_per_pixel is None else float(mm_per_pixel),
        area=area,
        perimeter=max(least, factor * float(border.lengths.sum())),
        maximum_diameter=diameter,
        eccentricity=math.sqrt(1 - ellipse.variances[1] / ellipse.variances[0]),
        asymmetry=(_asymmetry(smooth, ellipse, 0), _asymmetry(smooth, ellipse, 1)),
        border_irregularity=_irregularity(border, ellipse, len(areas)),
        components=len(areas),
        touches_border=x == 0 or y == 0 or x + width == mask.shape[1] or y + height == mask.shape[0],
        colours=shares,
        colour_variegation=variegation,
    )


def check_scale(mm_per_pixel: float | None) -> None:
    """Refuse a side of a pixel that is none.

    Raises:
        InputError: If it is not within ``SCALES``; None, where it is not known, is.
    """
    if mm_per_pixel is not None and not SCALES[0] <= mm_per_pixel <= SCALES[1]:
        raise InputError(f"mm_per_pixel is {mm_per_pixel}; expected a length of 0.000001 to 1000 millimetres")


def _check(pixels: Pixels, mask: Mask, mm_per_pixel: float | None) -> None:
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise InputError(f"mask is {mask.dtype} {mask.shape} where bool (H, W) is expected")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"pixels are {pixels.dtype} {pixels.shape} where uint8 (h, w, 3) is expected")
    (height, width), (rows, columns) = mask.shape, pixels.shape[:2]
    if abs(rows * width - columns * height) > max(height, width, rows, columns):  # more than a pixel's rounding
        raise InputError(
            f"pixels of {rows} x {columns} and a mask of {height} x {width} are not of one image; pass the image that "
            "the mask is of, whole and turned the same way"
        )
    check_scale(mm_per_pixel)


def _maximum_diameter(lesion: Mask) -> float:
    """The largest distance between corners of pixels; only the first and last of a row can be of the largest one."""
    rows = np.flatnonzero(lesion.any(axis=1))
    first = lesion.argmax(axis=1)[rows]
    last = lesion.shape[1] - lesion[:, ::-1].argmax(axis=1)[rows]
    ends = [(column, row) for column in (first, last) for row in (rows, rows + 1)]
    corners = np.concatenate([np.stack(end, axis=1) for end in ends]).astype(np.int32)
    hull = cv2.convexHull(corners)[:, 0].astype(np.float64)
    return float(np.linalg.norm(hull[:, None] - hull[None], axis=2).max())


def _diameters(lesion: Mask, labels: NDArray[np.int32]) -> Floats:
    """The largest width of each component, of its pixels as squares, in any of ``DIRECTIONS``; by label from 1."""
    ends = np.diff(np.pad(lesion, ((0, 0), (1, 1))).view(np.int8), axis=1)  # 1 where a run begins, -1 behind it
    rows, columns = np.nonzero(ends)
    owners = labels[rows, columns - (ends[rows, columns] < 0)]
    order = np.argsort(owners, kind="stable")
    rows, columns, owners = rows[order], columns[order], owners[order]
    firsts = np.flatnonzero(np.diff(owners, prepend=0))
    largest = np.zeros(len(firsts))
    for angle in np.arange(DIRECTIONS) * math.pi / DIRECTIONS:
        along = columns * math.cos(angle) + rows * math.sin(angle)  # of an upper corner; of the lower one sin more
        widths = np.maximum.reduceat(along, firsts) - np.minimum.reduceat(along, firsts) + math.sin(angle)
        largest = np.maximum(largest, widths)
    return largest


def _copy(lesion: Mask) -> tuple[Coverage, int]:
    """The share of each pixel that the lesion covers, with room around it, and how many of its own pixels one spans."""
    factor = -(-max(lesion.shape) // SIDE)
    room = math.ceil(4 * SMOOTHING)
    small = _reduced(lesion.astype(np.float32), factor, cv2.BORDER_CONSTANT)
    return cv2.copyMakeBorder(small, room, room, room, room, cv2.BORDER_CONSTANT).astype(np.float32, copy=False), factor


class _Ellipse(NamedTuple):
    """The ellipse with a shape's moments: centre (x, y), variances (2,) along the axes, axes (2, 2) in rows."""

    centre: Floats
    variances: Floats
    axes: Floats

    @classmethod
    def of(cls, coverage: Coverage) -> _Ellipse:
        moments = cv2.moments(coverage)
        mass = moments["m00"]
        centre = np.array([moments["m10"], moments["m01"]]) / mass
        xx, yy, xy = (moments[name] / mass for name in ("mu20", "mu02", "mu11"))
        xx, yy = xx + 1 / 12, yy + 1 / 12  # a pixel is a square, not a point
        spread = math.hypot((xx - yy) / 2, xy)
        variances = np.array([(xx + yy) / 2 + spread, max((xx + yy) / 2 - spread, 1 / 12)])
        angle = math.atan2(2 * xy, xx - yy) / 2
        cosine, sine = math.cos(angle), math.sin(angle)
        return cls(centre, variances, np.array([[cosine, sine], [-sine, cosine]]))


class _Border(NamedTuple):
    """Points (N, 2) as x, y along a border, unordered, with unit normals (N, 2) and the length (N,) each stands for."""

    points: Floats
    normals: Floats
    lengths: Floats

    @classmethod
    def of(cls, smooth: Coverage) -> _Border:
        """Where coverage crosses one half, along rows and along columns.

        Rows cross a piece of border of length ds and normal n in |n_x| ds points, columns in |n_y| ds. So a crossing
        by a row stands for the length |n_x|, one by a column for |n_y|, and together n_x^2 + n_y^2 = 1 per length.
        """
        parts = []
        for step in (np.array([0, 1]), np.array([1, 0])):  # to the next pixel as row and column: along rows, columns
            before, after = smooth[: -step[0] or None, : -step[1] or None], smooth[step[0] :, step[1] :]
            here = np.argwhere((before >= 0.5) != (after >= 0.5))
            there = here + step
            low, high = smooth[*here.T], smooth[*there.T]
            way = ((0.5 - low) / (high - low))[:, None].astype(np.float64)
            slopes = (1 - way) * _slopes(smooth, here) + way * _slopes(smooth, there)
            normals = slopes / np.maximum(np.linalg.norm(slopes, axis=1, keepdims=True), 1e-12)  # flat: no length
            parts.append(((here + way * step)[:, ::-1], normals, np.abs(normals @ step[::-1])))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _slopes(smooth: Coverage, places: NDArray[np.int64]) -> Floats:
    """Central differences (N, 2) along x and y at places (N, 2) given as row and column, none of them at the edge."""
    rows, columns = places.T
    along_x = smooth[rows, columns + 1] - smooth[rows, columns - 1]
    along_y = smooth[rows + 1, columns] - smooth[rows - 1, columns]
    return np.stack([along_x, along_y], axis=1).astype(np.float64)


def _asymmetry(smooth: Coverage, ellipse: _Ellipse, axis: int) -> float:
    """The share of a shape that its mirror image about an axis of its ellipse does not cover."""
    mirror = 2 * np.outer(ellipse.axes[axis], ellipse.axes[axis]) - np.eye(2)
    matrix = np.column_stack([mirror, ellipse.centre - mirror @ ellipse.centre])
    mirrored = cv2.warpAffine(smooth, matrix, smooth.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    both = np.minimum(smooth, mirrored).sum(dtype=np.float64) / smooth.sum(dtype=np.float64)
    return float(min(1.0, max(0.0, 1 - both)))


def _irregularity(border: _Border, ellipse: _Ellipse, components: int) -> float | None:
    if not border.lengths.any():
        return 0.0 if components == 1 else None  # too thin for a border that could be irregular, or unseen
    deviations = np.sqrt(ellipse.variances)
    distances = np.linalg.norm((border.points - ellipse.centre) @ ellipse.axes.T / deviations, axis=1)
    tangents = np.stack([-border.normals[:, 1], border.normals[:, 0]], axis=1)
    lengths = border.lengths * np.linalg.norm(tangents @ ellipse.axes.T / deviations, axis=1)
    mean = np.average(distances, weights=lengths)
    return float(np.sqrt(np.average((distances - mean) ** 2, weights=lengths)) / mean)


def _colours(pixels: Pixels, mask: Mask) -> tuple[dict[str, float], tuple[float, float, float]]:
    """Shares of the colours and variegation; a pixel weighs what the lesion covers of it."""
    height, width = (min(sides) for sides in zip(mask.shape, pixels.shape, strict=False))
    weight, image = _resized(mask.astype(np.float32), width, height), _resized(pixels, width, height)
    x, y, columns, rows = cv2.boundingRect((weight > 0).view(np.uint8))
    factor = -(-max(rows, columns) // COLOUR_SIDE)
    weight = _reduced(weight[y : y + rows, x : x + columns], factor, cv2.BORDER_CONSTANT)
    image = _reduced(image[y : y + rows, x : x + columns], factor, cv2.BORDER_REPLICATE)

    inside = weight > 0
    lab = cv2.cvtColor(image[inside][None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0].astype(np.float64)
    shares = weight[inside] / weight.sum(dtype=np.float64)
    references = np.array(list(REFERENCE_COLOURS.values()))
    nearest = ((references**2).sum(axis=1) - 2 * lab @ references.T).argmin(axis=1)
    covering = np.bincount(nearest, shares, len(references)).tolist()
    spread = np.sqrt(shares @ (lab - shares @ lab) ** 2) / 100
    return dict(zip(REFERENCE_COLOURS, covering, strict=True)), (float(spread[0]), float(spread[1]), float(spread[2]))


def _resized(image: Image, width: int, height: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    return cast(Image, cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _reduced(image: Image, factor: int, border: int) -> Image:
    """Means of factor x factor pixels, which is much faster than any other factor; made to fit by a border."""
    height, width = image.shape[:2]
    rows, columns = -(-height // factor), -(-width // factor)
    if min(height, width) < factor:  # a strip is shortened first: made to fit as it is, it would be many times larger
        along = (1, factor) if height < width else (factor, 1)
        fitting = _padded(image, *along, border)
        image = _resized(fitting, columns, height) if height < width else _resized(fitting, width, rows)
        return _resized(_padded(image, *along[::-1], border), columns, rows)
    return _resized(_padded(image, factor, factor, border), columns, rows)


def _padded(image: Image, rows: int, columns: int, border: int) -> Image:
    """The image with a border below and to the right, so that its sides are multiples of these."""
    height, width = image.shape[:2]
    return cast(Image, cv2.copyMakeBorder(image, 0, -height % rows, 0, -width % columns, border))
