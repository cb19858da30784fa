"""``ege-unet``: EGE-UNet (Ruan et al., MICCAI 2023, arXiv:2307.08473), a U-Net of 53 thousand parameters.

Built from its description. What that leaves open is chosen so that the parameters are as many as it states: layer
normalisation over channels in attention and bridges, and a 1x1 convolution of a bridge's lower features. Other than
there, the learned maps begin flat, not random. Resizing aligns pixel centres, as everywhere here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermseg.models.blocks import Outputs, pad_to_multiple, resize

WIDTHS = (8, 16, 24, 32, 48, 64)
PLAIN_WIDTH = 24  # of the third stage, the last of plain convolutions; the decoder mirrors the encoder
GROUPS = 4
MAP_SIZE = 8
DILATIONS = (1, 2, 5, 7)
STRIDE = 32


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation (B, C, H, W) over the channels of each pixel."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class SeparableConv(nn.Sequential):
    """A depthwise convolution, GELU and a pointwise one; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int] = (3, 3)) -> None:
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        super().__init__(
            nn.Conv2d(in_channels, in_channels, kernel_size, padding=padding, groups=in_channels),
            nn.GELU(),
            nn.Conv2d(in_channels, out_channels, 1),
        )


class DilatedConv(nn.Conv2d):
    """A depthwise 3x3 convolution of dilation ``rate``, in its weights' precision, not autocast's; the size stays.

    In bfloat16 with channels last, on a CPU with AVX-512, torch 2.13 gets its gradient wrong, or crashes.
    """

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__(channels, channels, 3, padding=rate, dilation=rate, groups=channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class HadamardProduct(nn.Module):
    """Multiplies features by a learned map of their channels and ``axes``, resized to them and convolved.

    Args:
        channels: Of the features.
        axes: Whether the map varies along height and along width; it is the same all along an axis it leaves out.
    """

    def __init__(self, channels: int, axes: tuple[bool, bool]) -> None:
        super().__init__()
        self.axes = axes
        # Flat at first, so that no place is preferred before training.
        self.map = nn.Parameter(torch.ones(1, channels, *(MAP_SIZE if axis else 1 for axis in axes)))
        kernel_size = (3 if axes[0] else 1, 3 if axes[1] else 1)
        self.convolution = SeparableConv(channels, channels, kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        height, width = features.shape[-2:]
        size = (height if self.axes[0] else 1, width if self.axes[1] else 1)
        weighted: Tensor = features * self.convolution(resize(self.map, size))
        return weighted


class GroupAttention(nn.Module):
    """Group multi-axis Hadamard product attention (GHPA); both numbers of channels are multiples of 4.

    A quarter of the channels each is multiplied by a map of height and width, of channel and height, of channel and
    width; the last is only convolved.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        quarter = in_channels // GROUPS
        self.norm = ChannelNorm(in_channels)
        self.groups = nn.ModuleList(
            [
                HadamardProduct(quarter, (True, True)),
                HadamardProduct(quarter, (True, False)),
                HadamardProduct(quarter, (False, True)),
                SeparableConv(quarter, quarter),
            ]
        )
        self.join = nn.Sequential(ChannelNorm(in_channels), SeparableConv(in_channels, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        parts = self.norm(features).chunk(GROUPS, dim=1)
        changed = [group(part) for group, part in zip(self.groups, parts, strict=True)]
        result: Tensor = self.join(torch.cat(changed, dim=1))
        return result


class AggregationBridge(nn.Module):
    """Group aggregation bridge (GAB): a skip connection that knows what is below it and the mask predicted there.

    Each quarter of both features' channels, with the mask, has a depthwise convolution of its own dilation.
    """

    def __init__(self, channels: int, lower_channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(lower_channels, channels, 1)
        width = 2 * channels // GROUPS + classes
        self.groups = nn.ModuleList(nn.Sequential(ChannelNorm(width), DilatedConv(width, rate)) for rate in DILATIONS)
        self.join = nn.Sequential(ChannelNorm(GROUPS * width), nn.Conv2d(GROUPS * width, channels, 1))

    def forward(self, skip: Tensor, lower: Tensor, mask: Tensor) -> Tensor:
        """(B, channels, H, W), (B, lower, h, w) and logits (B, classes, H, W) -> (B, channels, H, W)."""
        lower = resize(self.project(lower), skip.shape[-2:])
        parts = zip(self.groups, lower.chunk(GROUPS, dim=1), skip.chunk(GROUPS, dim=1), strict=True)
        joined = [group(torch.cat([below, own, mask], dim=1)) for group, below, own in parts]
        result: Tensor = self.join(torch.cat(joined, dim=1))
        return result


class EGEUNet(nn.Module):
    """EGE-UNet: 53,374 parameters with one class; any size of image will do, it pads inside.

    Every stage of the decoder predicts a mask, which its bridge takes, in use too; deep supervision learns them.

    Args:
        classes: Output channels.
    """

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        levels = list(pairwise(WIDTHS))
        self.encoder = nn.ModuleList(
            nn.Sequential(_block(inner, outer), nn.GroupNorm(GROUPS, outer), nn.MaxPool2d(2), nn.GELU())
            for inner, outer in [(3, WIDTHS[0]), *levels[:-1]]
        )
        self.encoder.append(nn.Sequential(_block(*levels[-1]), nn.GELU()))
        upward = [(below, width) for width, below in reversed(levels)]
        self.decoder = nn.ModuleList(
            nn.Sequential(_block(below, width), nn.GroupNorm(GROUPS, width)) for below, width in upward
        )
        self.masks = nn.ModuleList(nn.Conv2d(width, classes, 1) for _, width in upward)
        self.bridges = nn.ModuleList(AggregationBridge(width, below, classes) for below, width in upward)
        self.head = nn.Conv2d(WIDTHS[0], classes, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor | Outputs:
        """Logits (B, classes, H, W) of a normalised image (B, 3, H, W); in training with those of the five masks."""
        height, width = image_BCHW.shape[-2:]
        features = pad_to_multiple(image_BCHW, STRIDE)
        padded = features.shape[-2:]
        skips: list[Tensor] = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        lower = skips.pop()
        masks: list[Tensor] = []
        for stage, predict, bridge in zip(self.decoder, self.masks, self.bridges, strict=True):
            skip = skips.pop()
            features = F.gelu(resize(stage(features), skip.shape[-2:]))
            masks.append(predict(features))
            lower = bridge(skip, lower, masks[-1])
            features = features + lower
        logits, *auxiliary = (
            resize(small, padded)[..., :height, :width]
            for small in (self.head(features), *(masks if self.training else ()))
        )
        return Outputs(logits, tuple(auxiliary)) if self.training else logits


def _block(in_channels: int, out_channels: int) -> nn.Module:
    """(B, in, H, W) -> (B, out, H, W): a plain convolution between narrow levels, attention elsewhere."""
    if max(in_channels, out_channels) <= PLAIN_WIDTH:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return GroupAttention(in_channels, out_channels)
