"""Masks as other programs take them: outlines as GeoJSON (RFC 7946) and run lengths as COCO's.

Both are exact: either gives the mask back, pixel by pixel.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError

Mask = NDArray[np.bool_]
Pixel = tuple[int, int]
Ring = list[list[int]]


def polygon(mask: Mask) -> dict[str, Any]:
    """Outline a mask along the edges of its pixels, as a GeoJSON geometry.

    Pixel (r, c) covers c to c + 1 in x, which runs to the right, and r to r + 1 in y, which runs down: the polygons'
    area is the number of pixels. It is exact rather than smoothed, since a line moved by half a pixel may cross
    another; only the corners are listed. Each polygon is one area of pixels that share edges, its first ring the
    outline and the others its holes. Rings touch others at most in single points, and never themselves, so that the
    geometry is valid in the OGC's sense.

    RFC 7946 wants outlines counterclockwise and holes clockwise, for a y that runs up. So they are by their numbers,
    which is what programs check: the shoelace formula gives an outline's area positive, a hole's negative. On a
    screen, where y runs down, an outline is seen to run clockwise.

    Args:
        mask: Bool (H, W).

    Returns:
        ``{"type": "MultiPolygon", "coordinates": ...}`` with whole numbers in pixels; of an empty mask no coordinates.

    Raises:
        InputError: If it is no such mask.
    """
    _check(mask)
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    area = mask[top : top + height, left : left + width]
    points, inside = _corners(area)
    outlines: list[tuple[Pixel, Ring]] = []
    holes: list[tuple[Pixel, Ring]] = []
    for numbers in _rings(points):
        closed = points[[*numbers, numbers[0]]]
        x, y = closed.T
        row, column = inside[numbers[0]].tolist()
        kind = outlines if x[:-1] @ y[1:] > x[1:] @ y[:-1] else holes
        kind.append(((row, column), (closed + np.array([left, top])).tolist()))
    polygons = [[ring] for _, ring in outlines]
    if holes:
        _, labels = cv2.connectedComponents(area.view(np.uint8), connectivity=4)
        polygon_of = {labels[pixel]: rings for (pixel, _), rings in zip(outlines, polygons, strict=True)}
        for pixel, ring in holes:
            polygon_of[labels[pixel]].append(ring)
    return {"type": "MultiPolygon", "coordinates": polygons}


def rle(mask: Mask) -> dict[str, Any]:
    """Encode a mask by the lengths of its runs, column by column, compressed as COCO's tools do.

    Args:
        mask: Bool (H, W).

    Returns:
        ``{"size": [H, W], "counts": ...}``, which pycocotools decodes.

    Raises:
        InputError: If it is no such mask.
    """
    _check(mask)
    columns = cv2.transpose(mask.view(np.uint8)).ravel()
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=columns.size)
    if columns[0]:  # the first run is of background, even if there is none
        counts = np.insert(counts, 0, 0)
    # Lengths from the fourth on are told as differences from the last but one.
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    # Five bits a character, the lowest first, a sixth where more follow; the last one's highest bit is the sign.
    characters = []
    more = np.ones(len(rest), np.bool_)
    while more.any():
        bits = rest & 31
        rest >>= 5
        written, more = more, more & (rest != np.where(bits & 16, -1, 0))
        characters.append(np.where(written, bits + 32 * more + 48, 0))
    text = np.stack(characters, axis=1).astype(np.uint8)
    return {"size": list(mask.shape), "counts": text[text > 0].tobytes().decode()}


def _check(mask: Mask) -> None:
    if mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
        raise InputError(f"mask is {mask.dtype} {mask.shape} where bool (H, W) is expected")


def _corners(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each straight horizontal edge begins, in the order of rows and from left to right; then where each ends.

    The edges are as long as they can be and run so that the mask lies to their right, as seen on a screen.

    Returns:
        The points, x and y, (2 N, 2) of N edges, and for each the row and column of a pixel of the mask beside it.
    """
    padded = np.pad(mask.view(np.int8), 1)
    ways = padded[1:] - padded[:-1]  # 1 where the mask begins, -1 where it ends
    y, x = np.divmod(np.flatnonzero(ways[:, 1:] != ways[:, :-1]), mask.shape[1] + 1)
    before, after = ways[y, x], ways[y, x + 1]
    low, high, y, way = x[after != 0], x[before != 0], y[after != 0], after[after != 0]
    tails, heads = np.where(way > 0, [low, high], [high, low])
    points = np.stack([np.concatenate([tails, heads]), np.tile(y, 2)], axis=1)
    return points, np.tile(np.stack([np.where(way > 0, y, y - 1), low], axis=1), (2, 1))


def _rings(points: NDArray[np.int64]) -> list[list[int]]:
    """Join the corners of ``_corners`` to rings, each the numbers of its points in order; none meets itself."""
    count = len(points) // 2
    numbers = np.arange(count)
    # In a column of corners, vertical edges join the first and second, the third and fourth, and so on. Two corners
    # in one point belong to pixels that share no edge; their order leaves each with its own.
    x, y = points.T
    joined = np.sort(np.lexsort([np.concatenate([numbers, -numbers]), y, x]).reshape(-1, 2), axis=1)
    following = np.concatenate([numbers + count, numbers])
    following[joined[:, 1]] = joined[:, 0]
    after, place = following.tolist(), (y * (x.max(initial=0) + 1) + x).tolist()
    rings = []
    pending = [True] * len(points)
    for corner in range(count):
        path: list[int] = []
        met: dict[int, int] = {}
        while pending[corner]:
            pending[corner] = False
            if place[corner] in met:  # a ring that comes back to a point is two
                start = met[place[corner]]
                rings.append(path[start:])
                for passed in path[start:]:
                    del met[place[passed]]
                del path[start:]
            met[place[corner]] = len(path)
            path.append(corner)
            corner = after[corner]
        if path:
            rings.append(path)
    return rings
