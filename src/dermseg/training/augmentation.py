"""Random changes to a batch of training images, on its own device.

All randomness comes from torch's global generator, which the training step seeds, so that a step can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor

from dermseg.training.config import AugmentationConfig

MAX_HAIRS = 8


def augment(image: Tensor, mask: Tensor, config: AugmentationConfig, padding: float) -> tuple[Tensor, Tensor]:
    """Change images and their masks at random.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: (B, K, H, W) in [0, 1].
        config: The ranges.
        padding: The value outside the image, in [0, 1].

    Returns:
        Image and mask of the same shapes and ranges.
    """
    image, mask = warp(image, mask, config, padding)
    image = _on_some(image, config.hair, draw_hairs)
    image = _on_some(image, config.ruler, draw_ruler)
    image = change_colour(image, config)
    image = _on_some(image, config.blur, _blur)
    return image, mask


def warp(image: Tensor, mask: Tensor, config: AugmentationConfig, padding: float) -> tuple[Tensor, Tensor]:
    """Flip, rotate, zoom, stretch and shift image and mask by one affine map and one interpolation."""
    count, channels, height, width = image.shape
    zoom = torch.exp(_uniform(count, math.log(config.scale[0]), math.log(config.scale[1])))
    stretch = torch.exp(_uniform(count, math.log1p(-config.aspect), -math.log1p(-config.aspect)) / 2)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)  # with rotation, one flip gives all of them
    matrix = get_affine_matrix2d(
        translations=_uniform((count, 2), -config.shift, config.shift) * torch.tensor([width, height]),
        center=torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(count, 2),
        scale=torch.stack([zoom * stretch * flip, zoom / stretch], dim=1),
        angle=_uniform(count, -config.rotation, config.rotation),
    )[:, :2].to(image)
    both = warp_affine(torch.cat([image - padding, mask], dim=1), matrix, (height, width), align_corners=True)
    return both[:, :channels] + padding, both[:, channels:]


def change_colour(image: Tensor, config: AugmentationConfig) -> Tensor:
    """Change brightness, contrast about the image's mean, and the gain of each channel."""
    count = len(image)
    brightness = _uniform((count, 1, 1, 1), -config.brightness, config.brightness)
    contrast = 1 + _uniform((count, 1, 1, 1), -config.contrast, config.contrast)
    gain = 1 + _uniform((count, 3, 1, 1), -config.colour, config.colour)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    changed = (image - mean) * (contrast * gain).to(image) + mean * gain.to(image) + brightness.to(image)
    return changed.clamp(0, 1)


def draw_hairs(image: Tensor) -> Tensor:
    """Draw up to eight curved hairs, dark or light, over each image."""
    count, _, height, width = image.shape
    shape = (count, MAX_HAIRS, 1, 1)
    along, across = _turned_axes(shape, height, width)
    bent = across - _uniform(shape, -0.4, 0.4) - _uniform(shape, -0.6, 0.6) * along.square()
    thickness = _uniform(shape, 0.6, 2.2) / width
    start, length = _uniform(shape, -0.7, 0.2), _uniform(shape, 0.3, 1.4)
    inside = (along > start) & (along < start + length) & (torch.rand(shape) < 0.6)
    strength = (1.5 - bent.abs() / thickness).clamp(0, 1) * inside
    opacity = (strength.amax(dim=1, keepdim=True) * _uniform((count, 1, 1, 1), 0.5, 1)).to(image)
    light = torch.where(torch.rand(count, 1, 1, 1) < 0.15, 0.6, 0.0)
    colour = light + torch.rand(count, 1, 1, 1) * torch.tensor([0.35, 0.28, 0.22]).view(1, 3, 1, 1)
    return image + opacity * (colour.to(image) - image)


def draw_ruler(image: Tensor) -> Tensor:
    """Draw a ruler's row of ticks across each image, dark or light."""
    count, _, height, width = image.shape
    shape = (count, 1, 1, 1)
    along, across = _turned_axes(shape, height, width)
    beyond = across - _uniform(shape, -0.45, 0.45)
    period = _uniform(shape, 0.02, 0.08)
    phase = torch.remainder(along, period) / period
    every_fifth = torch.remainder(torch.floor(along / period), 5) == 0
    length = _uniform(shape, 0.03, 0.07) * torch.where(every_fifth, 1.8, 1.0)
    ticks = ((phase < 0.25) & (beyond > 0) & (beyond < length)).to(image)
    ink = torch.where(torch.rand(shape) < 0.7, 0.1, 0.9).to(image)
    return image + ticks * 0.8 * (ink - image)


def _turned_axes(shape: tuple[int, ...], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Coordinates about the centre, in widths, along and across a random direction; (*shape[:2], H, W) each."""
    y = ((torch.arange(height) + 0.5) / width - height / width / 2).view(1, 1, height, 1)
    x = ((torch.arange(width) + 0.5) / width - 0.5).view(1, 1, 1, width)
    angle = _uniform(shape, 0, 2 * math.pi)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _blur(image: Tensor) -> Tensor:
    sigma = _uniform((len(image), 1), 0.4, 1.6).expand(-1, 2).to(image)
    return gaussian_blur2d(image, (7, 7), sigma)


def _on_some(image: Tensor, probability: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``change`` to a random subset of the batch."""
    chosen = torch.nonzero(torch.rand(len(image)) < probability).flatten().to(image.device)
    return image.index_copy(0, chosen, change(image[chosen])) if len(chosen) else image


def _uniform(shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.empty(shape).uniform_(low, high)
