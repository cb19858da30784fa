"""Random changes to a batch of training images, on its own device.

All randomness comes from torch's global generators, which the training step seeds, so that a step can be repeated.
What decides a change (an angle, a gain, where a hair lies) is drawn on the CPU, so that every device draws the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_affine_matrix2d, invert_affine_transform, remap, warp_affine
from torch import Tensor

from dermseg.robustness import as_jpeg
from dermseg.training.config import AugmentationConfig

MAX_HAIRS = 8
ELASTIC_CELLS = 4
MOST_CUT = 0.45
# A stripe of skin thinner than this share of a side is not mirrored.
LEAST_SKIN = 0.04
HALF_A_LEVEL = 0.5 / 255
A_LESION = 0.3  # less of it may be a teacher's doubt


def augment(image: Tensor, mask: Tensor, config: AugmentationConfig, padding: float) -> tuple[Tensor, Tensor]:
    """Change images and their masks at random.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: (B, K, H, W) in [0, 1].
        config: The ranges.
        padding: The value outside the image, and inside the rectangles of ``coarse_dropout``, in [0, 1].

    Returns:
        Image and mask of the same shapes and ranges; what nothing changes is given back as it is.
    """
    config = config.at_strength()
    # Half precision would round the maps to half a pixel and the blurred values to 1/256.
    with torch.autocast(image.device.type, enabled=False):
        if config.cut:
            image, mask = cut_side(image, mask, config.cut, padding)
        image, mask = warp(image, mask, config, padding)
        image = _on_some(image, config.hair, draw_hairs)
        image = _on_some(image, config.ruler, draw_ruler)
        image = change_colour(image, config)
        image = _on_some(image, config.blur, _blur)
        if config.noise:
            image = add_noise(image, config.noise)
        if config.jpeg:
            image = _on_some(image, config.jpeg, compress)
        if config.coarse_dropout:
            image = _on_some(image, config.coarse_dropout, lambda chosen: cut_holes(chosen, config, padding))
    return image, mask


def warp(image: Tensor, mask: Tensor, config: AugmentationConfig, padding: float) -> tuple[Tensor, Tensor]:
    """Flip, turn, zoom, stretch, shift and bend image and mask by one map and one interpolation."""
    bent = config.rotation or config.aspect or config.shift or config.elastic or config.scale != (1, 1)
    if not (bent or config.flip or config.quarter_turn):
        return image, mask
    count, channels, height, width = image.shape
    zoom = torch.exp(_uniform(count, math.log(config.scale[0]), math.log(config.scale[1])))
    if config.scaled < 1:  # else not drawn, so that the other changes stay as they are
        zoom = torch.where(torch.rand(count) < config.scaled, zoom, 1.0)
    stretch = torch.exp(_uniform(count, math.log1p(-config.aspect), -math.log1p(-config.aspect)) / 2)
    flip = torch.where(torch.rand(count) < config.flip, -1.0, 1.0)  # with a half turn it mirrors the other axis
    shift = _uniform((count, 2), -config.shift, config.shift)
    angle = _uniform(count, -config.rotation, config.rotation)
    if config.quarter_turn:
        angle += 90 * (torch.rand(count) < config.quarter_turn) * torch.randint(1, 4, (count,))
    matrix = get_affine_matrix2d(
        translations=shift * torch.tensor([width, height]),
        center=torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(count, 2),
        scale=torch.stack([zoom * stretch * flip, zoom / stretch], dim=1),
        angle=angle,
    )[:, :2].to(image)
    both = torch.cat([image - padding, mask], dim=1)
    # Drawn only where it is asked for, so that without it the other changes stay as they are.
    with_skin = torch.rand(count) < config.mirror if config.mirror else torch.zeros(count, dtype=torch.bool)
    if config.elastic or with_skin.any():
        x, y = _bent_coordinates(matrix, height, width, config.elastic)
        if with_skin.any():
            inside, lesion = (image - padding).abs().amax(dim=1) > HALF_A_LEVEL, mask.amax(dim=1) > A_LESION
            x = _through_skin(x, inside.any(dim=1), lesion.any(dim=1), with_skin)
            y = _through_skin(y, inside.any(dim=2), lesion.any(dim=2), with_skin)
        both = remap(both, x, y, align_corners=True)
    else:
        # Flips and quarter turns alone move whole pixels; they need no interpolation, and lose nothing without it.
        mode = "bilinear" if bent else "nearest"
        both = warp_affine(both, matrix, (height, width), mode=mode, align_corners=True)
    both[:, :channels] += padding
    both.clamp_(0, 1)  # rounding may lead a little beyond
    return both[:, :channels], both[:, channels:]


def cut_side(image: Tensor, mask: Tensor, probability: float, padding: float) -> tuple[Tensor, Tensor]:
    """Cut up to ``MOST_CUT`` off one side of some images, also where the lesion is."""
    count, _, height, width = image.shape
    share = MOST_CUT * torch.rand(count) * (torch.rand(count) < probability)
    side = torch.randint(4, (count,))
    first = [torch.where(side == number, share, 0.0)[:, None] for number in range(4)]  # off top, bottom, left, right
    y, x = ((torch.arange(length) + 0.5) / length for length in (height, width))
    rows, columns = (y > first[0]) & (y < 1 - first[1]), (x > first[2]) & (x < 1 - first[3])
    kept = (rows[:, None, :, None] & columns[:, None, None, :]).to(image.device)
    return torch.where(kept, image, padding), mask * kept


def change_colour(image: Tensor, config: AugmentationConfig) -> Tensor:
    """Change brightness, contrast about the image's mean, the gain of each channel, saturation and gamma."""
    count = len(image)
    # Drawn also where the ranges are zero, so that without them the other changes stay as they are.
    brightness = _uniform((count, 1, 1, 1), -config.brightness, config.brightness).to(image)
    contrast = 1 + _uniform((count, 1, 1, 1), -config.contrast, config.contrast).to(image)
    gain = 1 + _uniform((count, 3, 1, 1), -config.colour, config.colour).to(image)
    if config.brightness or config.contrast or config.colour:
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        slope = contrast * gain
        image = (image * slope).add_(mean * (gain - slope) + brightness).clamp_(0, 1)
    if config.saturation:
        saturation = 1 + _uniform((count, 1, 1, 1), -config.saturation, config.saturation).to(image)
        image = torch.lerp(image.mean(dim=1, keepdim=True), image, saturation).clamp_(0, 1)
    if config.gamma:
        gamma = torch.exp(_uniform((count, 1, 1, 1), math.log1p(-config.gamma), -math.log1p(-config.gamma)))
        image = image.pow(gamma.to(image))
    return image


def draw_hairs(image: Tensor) -> Tensor:
    """Draw up to eight curved hairs, dark or light, over each image."""
    count, width = len(image), image.shape[-1]
    shape = (count, MAX_HAIRS, 1, 1)
    along, across = _turned_axes(image, MAX_HAIRS)
    offset, curve = _uniform(shape, -0.4, 0.4).to(image), _uniform(shape, -0.6, 0.6).to(image)
    thickness = _uniform(shape, 0.6, 2.2).to(image) / width
    start, length = _uniform(shape, -0.7, 0.2).to(image), _uniform(shape, 0.3, 1.4).to(image)
    drawn = (torch.rand(shape) < 0.6).to(image.device)
    bent = across.sub_(offset).addcmul_(along.square(), curve, value=-1)
    strength = bent.abs_().div_(thickness).neg_().add_(1.5).clamp_(0, 1)
    strength *= (along > start) & (along < start + length) & drawn
    opacity = strength.amax(dim=1, keepdim=True) * _uniform((count, 1, 1, 1), 0.5, 1).to(image)
    light = torch.where(torch.rand(count, 1, 1, 1) < 0.15, 0.6, 0.0)
    colour = light + torch.rand(count, 1, 1, 1) * torch.tensor([0.35, 0.28, 0.22]).view(1, 3, 1, 1)
    return image + opacity * (colour.to(image) - image)


def draw_ruler(image: Tensor) -> Tensor:
    """Draw a ruler's row of ticks across each image, dark or light."""
    shape = (len(image), 1, 1, 1)
    along, across = _turned_axes(image, 1)
    beyond = across - _uniform(shape, -0.45, 0.45).to(image)
    period = _uniform(shape, 0.02, 0.08).to(image)
    phase = torch.remainder(along, period) / period
    every_fifth = torch.remainder(torch.floor(along / period), 5) == 0
    length = _uniform(shape, 0.03, 0.07).to(image) * torch.where(every_fifth, 1.8, 1.0)
    ticks = ((phase < 0.25) & (beyond > 0) & (beyond < length)).to(image)
    ink = torch.where(torch.rand(shape) < 0.7, 0.1, 0.9).to(image)
    return image + ticks * 0.8 * (ink - image)


def add_noise(image: Tensor, largest: float) -> Tensor:
    """Add normal noise to each value; its standard deviation differs between images, up to ``largest``."""
    deviation = _uniform((len(image), 1, 1, 1), 0, largest).to(image)
    # Not randn_like: over an image with its channels last it takes eight times as long.
    noise = torch.randn(image.shape, device=image.device, dtype=image.dtype)
    return torch.addcmul(image, noise, deviation).clamp_(0, 1)


def compress(image: Tensor) -> Tensor:
    """Compress each image as JPEG, of a quality of 20 to 90, and read it back."""
    quality = torch.randint(20, 91, (len(image),)).tolist()
    pixels = (image * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    # Not kornia's, of tensors: it takes three times as long on a CPU.
    read = np.stack([as_jpeg(np.ascontiguousarray(each), of) for each, of in zip(pixels, quality, strict=True)])
    return torch.from_numpy(read).permute(0, 3, 1, 2).to(image) / 255


def cut_holes(image: Tensor, config: AugmentationConfig, padding: float) -> Tensor:
    """Fill random rectangles of each image, as many and as large as ``config`` says, with ``padding``."""
    count, _, height, width = image.shape
    low, high = config.holes
    cut = torch.arange(high) < torch.randint(low, high + 1, (count, 1))
    rows = _spans((count, high), config.hole_size, height) * cut[..., None]
    columns = _spans((count, high), config.hole_size, width)
    covering = torch.bmm(rows.mT.to(image), columns.to(image))  # how many holes lie over each pixel
    return image.masked_fill(covering[:, None] > 0, padding)


def _spans(shape: tuple[int, int], share: tuple[float, float], side: int) -> Tensor:
    """Random stretches of a side of that many pixels, each wholly inside; (*shape, side), True within."""
    length = (_uniform(shape, *share) * side).round().clamp(min=1)
    start = torch.floor(torch.rand(shape) * (side - length + 1))
    at = torch.arange(side) - start[..., None]
    return (at >= 0) & (at < length[..., None])


def _bent_coordinates(matrix: Tensor, height: int, width: int, largest: float) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, (B, H, W) each for x and y: by a smooth field, then back through ``matrix``.

    The field is a cubic B-spline of random displacements, so nowhere longer along an axis than ``largest`` sides. With
    four cells along a side its slopes add up to less than 16 ``largest``: below 1/16 it cannot fold the image.
    """
    points = ELASTIC_CELLS + 3
    size = torch.tensor([width, height]).view(1, 2, 1, 1)
    field = (_uniform((len(matrix), 2, points, points), -largest, largest) * size).to(matrix)
    field = _spline(height).to(matrix) @ field @ _spline(width).to(matrix).mT
    x = field[:, 0] + torch.arange(width).to(matrix)
    y = field[:, 1] + torch.arange(height).to(matrix)[:, None]
    back = invert_affine_transform(matrix)[..., None, None]
    return back[:, 0, 0] * x + back[:, 0, 1] * y + back[:, 0, 2], back[:, 1, 0] * x + back[:, 1, 1] * y + back[:, 1, 2]


def _through_skin(place: Tensor, inside: Tensor, lesion: Tensor, chosen: Tensor) -> Tensor:
    """Lead places beyond the picture back into the skin between its border and the lesion, to and fro along one axis.

    What lies around a lesion is mostly skin: a picture made smaller shows more of it, and no second lesion. Where that
    stripe is too thin, the places stay beyond.

    Args:
        place: (B, H, W) coordinates along the axis.
        inside: (B, L), True where the picture has pixels; the rest of the canvas is padding.
        lesion: (B, L), True where a lesion has.
        chosen: (B,), True for the images that are treated so.

    Returns:
        (B, H, W) coordinates.
    """
    length = inside.shape[1]
    for _ in range(2):  # beyond the last pixel, then, turned about, beyond the first
        first, last = inside.int().argmax(dim=1), length - 1 - inside.flip(1).int().argmax(dim=1)
        seen = torch.where(lesion.any(dim=1), length - 1 - lesion.flip(1).int().argmax(dim=1), (first + last) // 2)
        skin = last - seen - 1  # the lesion's own last pixel is not skin
        usable = chosen.to(place.device) & (skin >= LEAST_SKIN * length)
        last, skin = last.to(place)[:, None, None], skin.clamp(min=1)[:, None, None]
        back = torch.remainder(place - last, 2 * skin)
        back = last - torch.minimum(back, 2 * skin - back)
        place = torch.where((place > last) & usable[:, None, None], back, place)
        place, inside, lesion = length - 1 - place, inside.flip(1), lesion.flip(1)
    return place


def _spline(side: int) -> Tensor:
    """Weights of a uniform cubic B-spline's control points for each pixel of a side, (side, ELASTIC_CELLS + 3)."""
    at = (torch.arange(side) + 0.5) / side * ELASTIC_CELLS + 1
    far = (at[:, None] - torch.arange(ELASTIC_CELLS + 3)).abs()
    near = 2 / 3 - far.square() + far.pow(3) / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0).pow(3) / 6)


def _turned_axes(image: Tensor, lines: int) -> tuple[Tensor, Tensor]:
    """Coordinates about the centre, in widths, along and across a random direction; (B, lines, H, W) each."""
    count, _, height, width = image.shape
    y = ((torch.arange(height) + 0.5) / width - height / width / 2).view(1, 1, height, 1).to(image)
    x = ((torch.arange(width) + 0.5) / width - 0.5).view(1, 1, 1, width).to(image)
    angle = _uniform((count, lines, 1, 1), 0, 2 * math.pi)
    cos, sin = angle.cos().to(image), angle.sin().to(image)
    return x * cos + y * sin, y * cos - x * sin


def _blur(image: Tensor) -> Tensor:
    sigma = _uniform((len(image), 1), 0.4, 1.6).expand(-1, 2).to(image)
    return gaussian_blur2d(image, (7, 7), sigma).clamp(0, 1)


def _on_some(image: Tensor, probability: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``change`` to a random subset of the batch."""
    chosen = torch.nonzero(torch.rand(len(image)) < probability).flatten().to(image.device)
    return image.index_copy(0, chosen, change(image[chosen])) if len(chosen) else image


def _uniform(shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.empty(shape).uniform_(low, high)
