"""The way of an image into a network's square, and of what the network finds back to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """How an image lies in a square canvas: scaled as a whole and centred; all lengths in pixels.

    Attributes:
        height: Of the image.
        width: Of the image.
        canvas: Side of the canvas.
        top: First row of the content in the canvas.
        left: First column of the content in the canvas.
        content_height: Of the image in the canvas, at least 1.
        content_width: Of the image in the canvas, at least 1.
    """

    height: int
    width: int
    canvas: int
    top: int
    left: int
    content_height: int
    content_width: int

    @classmethod
    def fit(cls, height: int, width: int, canvas: int) -> Geometry:
        """Fits an image of (height, width) into a canvas; its longer side takes the whole of it.

        Raises:
            InputError: A length is below 1.
        """
        if min(height, width, canvas) < 1:
            raise InputError(f"{width} x {height} pixels do not fit a canvas of {canvas}: each must be above 0")
        longer = max(height, width)
        content_height, content_width = (max(1, round(side * canvas / longer)) for side in (height, width))
        top, left = (canvas - content_height) // 2, (canvas - content_width) // 2
        return cls(height, width, canvas, top, left, content_height, content_width)

    def apply(self, pixels: NDArray[np.uint8], fill: int | tuple[int, int, int] = 128) -> NDArray[np.uint8]:
        """Puts an image into the canvas.

        Args:
            pixels: (H, W) or (H, W, 3), at full size or as decoded at a reduced one.
            fill: The value around the content.

        Returns:
            (canvas, canvas) or (canvas, canvas, 3).

        Raises:
            InputError: `pixels` is not this image at some scale.
        """
        rows, columns = pixels.shape[:2]
        skew = abs(rows * self.width - columns * self.height)
        if pixels.dtype != np.uint8 or skew > max(self.height, self.width):
            raise InputError(
                f"pixels of {pixels.dtype} and shape {pixels.shape} are not a scaled uint8 image of "
                f"{self.height} x {self.width}; pass the image this geometry was made for"
            )
        # A reduced JPEG has ceil(side / scale) pixels: its last ones may reach beyond the image's edge.
        scales = (s for s in (1, 2, 4, 8) if (rows, columns) == (-(-self.height // s), -(-self.width // s)))
        scale = next(scales, None)
        height, width = (self.height / scale, self.width / scale) if scale else (rows, columns)
        fy, fx = self.content_height / height, self.content_width / width
        interpolation = cv2.INTER_AREA if max(fy, fx) <= 1 else cv2.INTER_LINEAR
        content = cv2.resize(pixels, None, fx=fx, fy=fy, interpolation=interpolation)
        canvas = np.empty((self.canvas, self.canvas, *pixels.shape[2:]), np.uint8)
        canvas[:] = fill
        canvas[self.content] = content[: self.content_height, : self.content_width]
        return canvas

    def invert(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brings a field over the canvas back to the image: (canvas, canvas) -> (height, width), bilinear.

        Raises:
            InputError: `field` is not of the canvas's shape.
        """
        if field.shape != (self.canvas, self.canvas):
            raise InputError(f"field has shape {field.shape} where {(self.canvas, self.canvas)} is expected")
        content = np.ascontiguousarray(field[self.content], dtype=np.float32)
        image = cv2.resize(content, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return cast(NDArray[np.float32], image)

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that hold the image."""
        bottom, right = self.top + self.content_height, self.left + self.content_width
        return slice(self.top, bottom), slice(self.left, right)
