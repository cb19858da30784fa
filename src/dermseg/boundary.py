"""How far apart two outlines are: Hausdorff distances, average surface distance and boundary F1, of one image.

The surface of a mask is its pixels that have one of their four neighbours outside the mask or outside the image.
Distances are Euclidean, in pixels, from the centre of a surface pixel to that of the nearest one of the other surface.
Surfaces, Hausdorff distances and the average surface distance are those of MONAI 1.6 (`HausdorffDistanceMetric`,
`SurfaceDistanceMetric(symmetric=True)`) wherever both masks have pixels. Where MONAI gives infinity or NaN, they count:

    masks             the three distances              boundary_f1
    both empty        0                                1
    one of them       the image's diagonal, in pixels  0
"""

from __future__ import annotations

import math
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

METRICS = ("hausdorff", "hausdorff_95", "average_surface_distance", "boundary_f1")
"""What `measure` gives, in this order."""

TOLERANCE = Fraction(75, 10_000)
"""Share of the image's diagonal within which outlines count as the same for `boundary_f1` (Csurka et al. 2013)."""

Mask = NDArray[np.bool_]

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def measure(mask: Mask, truth: Mask) -> NDArray[np.float64]:
    """The distances between two masks' surfaces and their F1; symmetric in its arguments.

    - `hausdorff`: the larger of the two directed maxima.
    - `hausdorff_95`: the larger of the two directed 95th percentiles, interpolated linearly.
    - `average_surface_distance`: the mean over the distances of both directions together.
    - `boundary_f1`: F1 of the shares of either surface within `TOLERANCE` of the other (Csurka, Larlus and Perronnin,
      What is a good evaluation measure for semantic segmentation?, BMVC 2013). On images whose diagonal is at
      most 133 px that is less than a pixel, so that only pixels of both surfaces count.

    Args:
        mask: bool (H, W), predicted.
        truth: bool (H, W).

    Returns:
        (4,), in the order of `METRICS`: three distances in [0, diagonal] in pixels, 0 is best; and F1 in [0, 1], 1 is
        best.

    Raises:
        InputError: The masks are not boolean pictures of one shape with at least one pixel.
    """
    if (
        mask.dtype != np.bool_
        or truth.dtype != np.bool_
        or mask.shape != truth.shape
        or mask.ndim != 2
        or not mask.size
    ):
        raise InputError(
            f"outlines are compared of two boolean masks (H, W) of one shape, not of {mask.dtype} {mask.shape} "
            f"and {truth.dtype} {truth.shape}"
        )
    height, width = mask.shape
    if not (mask.any() and truth.any()):
        empty = not (mask.any() or truth.any())
        return np.array([0, 0, 0, 1] if empty else [math.hypot(height, width)] * 3 + [0], np.float64)

    # Outside the box around both masks there is no surface, and its rim is outside them as the image's is.
    left, top, columns, rows = cv2.boundingRect((mask | truth).view(np.uint8))
    ours, theirs = (_surface(each[top : top + rows, left : left + columns]) for each in (mask, truth))
    squares = [_squared_distances(ours, theirs), _squared_distances(theirs, ours)]
    # Whole numbers, so that a distance of exactly the tolerance counts whatever the rounding.
    limit = math.floor(TOLERANCE**2 * (height**2 + width**2))
    near = [np.count_nonzero(square <= limit) / square.size for square in squares]
    distances = [np.sqrt(square) for square in squares]
    return np.array(
        [
            max(distance.max() for distance in distances),
            max(np.percentile(distance, 95) for distance in distances),
            np.concatenate(distances).mean(),
            2 * near[0] * near[1] / (near[0] + near[1]) if any(near) else 0,
        ],
        np.float64,
    )


def _surface(mask: Mask) -> Mask:
    eroded = cv2.erode(mask.astype(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (eroded == 0))


def _squared_distances(of: Mask, to: Mask) -> NDArray[np.float64]:
    """From each pixel of a surface the squared distance to the other surface, (n,).

    Squares are whole numbers, so that rounding them undoes that of OpenCV's float32, up to 2000 px.
    """
    distance = cv2.distanceTransform((~to).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(np.square(distance[of], dtype=np.float64))
