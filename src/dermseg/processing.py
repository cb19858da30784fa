"""The way from an image to a network's square, with the optional steps a bundle names.

Training and ``Segmenter`` both come through ``decode`` and ``prepare``, so they cannot differ. A step works on the
image at the network's size, without the padding around it. What each is worth was measured (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.appearance import hair_mask, vignette_mask
from dermseg.errors import InputError, choose_from
from dermseg.geometry import Geometry
from dermseg.imaging import Photograph

Pixels = NDArray[np.uint8]
Step = Callable[[Pixels], Pixels]

VERSION = 1
"""Raised whenever a step gives other pixels, so that nothing made before is taken for its result."""
DECODED_SIDE = 1024
MINKOWSKI_NORM = 6
INPAINTING_RADIUS = 3
VIGNETTE_RIM = 1 / 50  # of the longer side: where the light falls off
CLIP_LIMIT, TILES = 2.0, (8, 8)


def hair_removal(pixels: Pixels) -> Pixels:
    """Paint dark hairs over with what lies beside them (Lee et al., 1997; inpainting by Telea, 2004)."""
    hair = hair_mask(pixels)
    if min(hair.shape) < 2:
        return pixels  # beside which OpenCV would read foreign memory
    return cv2.inpaint(pixels, hair.view(np.uint8), INPAINTING_RADIUS, cv2.INPAINT_TELEA).astype(np.uint8)


def colour_constancy(pixels: Pixels) -> Pixels:
    """Make the light white, its colour estimated by shades of grey (Finlayson and Trezzi, 2004; norm 6)."""
    light = np.mean((pixels / 255) ** MINKOWSKI_NORM, axis=(0, 1)) ** (1 / MINKOWSKI_NORM)
    gain = np.linalg.norm(light) / np.sqrt(3) / np.maximum(light, 1 / 255)
    balanced: Pixels = np.clip(np.rint(pixels * gain), 0, 255).astype(np.uint8)
    return balanced


def vignette_masking(pixels: Pixels) -> Pixels:
    """Paint the dark surround of a round field with the mean colour of the field."""
    rim = max(1, round(max(pixels.shape) * VIGNETTE_RIM))
    outside = cv2.dilate(vignette_mask(pixels).view(np.uint8), np.ones((2 * rim + 1,) * 2, np.uint8)).astype(np.bool_)
    if not outside.any() or outside.all():
        return pixels
    masked = pixels.copy()
    masked[outside] = np.rint(pixels[~outside].mean(axis=0))
    return masked


def contrast(pixels: Pixels) -> Pixels:
    """Spread the lightness of each part of the image (CLAHE on L of CIELAB; Zuiderveld, 1994)."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(CLIP_LIMIT, TILES).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8)


STEPS: Mapping[str, Step] = {
    "hair_removal": hair_removal,
    "colour_constancy": colour_constancy,
    "vignette_masking": vignette_masking,
    "contrast": contrast,
}
"""By name: RGB uint8 (H, W, 3) in and out; what is given is never changed."""


def check_steps(names: Sequence[str]) -> None:
    """Check that each name is one of ``STEPS``.

    Raises:
        InputError: If one is not.
    """
    for name in names:
        if name not in STEPS:
            raise InputError(f"there is no processing step {name!r}; {choose_from(name, STEPS)}")


def decode(photograph: Photograph, size: int) -> Pixels:
    """Decode an image as its network's input is made from: a large JPEG at a reduced scale.

    Args:
        photograph: The image.
        size: Side of the network's square.

    Returns:
        RGB, uint8 (H, W, 3), its longer side at least ``DECODED_SIDE`` and ``size`` where the image's own is.
    """
    return photograph.pixels(at_least=max(size, DECODED_SIDE))


def prepare(pixels: Pixels, geometry: Geometry, padding: int, steps: Sequence[str] = ()) -> Pixels:
    """Fit an image into the network's square and take it through ``steps``, in order.

    Args:
        pixels: What ``decode`` gives, RGB, uint8 (H, W, 3).
        geometry: Of the image in the square.
        padding: The value around the image.
        steps: Names of ``STEPS``.

    Returns:
        RGB, uint8 (S, S, 3).

    Raises:
        InputError: If there is no such step, or ``pixels`` are not of this geometry.
    """
    check_steps(steps)
    canvas = geometry.apply(pixels, fill=padding)
    for name in steps:
        canvas[geometry.content] = STEPS[name](np.ascontiguousarray(canvas[geometry.content]))
    return canvas
