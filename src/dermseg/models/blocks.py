"""Parts that several networks share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "group", "instance"]
Upsample = Literal["bilinear", "transposed"]
GROUPS = 8


class Outputs(NamedTuple):
    """What a network with auxiliary heads gives in training; in evaluation it gives the logits alone.

    Attributes:
        logits: (B, K, H, W) at the image's size.
        auxiliary: Further logits of the same shape, the deepest first.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class LateDropout(nn.Module):
    """A network whose only dropout is a 2-D one near its end: what comes before it is the same for all samples.

    Monte Carlo dropout (Gal and Ghahramani, ICML 2016) then costs ``features`` once and ``sampled``. Both are exported
    to ONNX, at one size.

    Attributes:
        dropout: The one.
    """

    dropout: nn.Dropout2d

    @abstractmethod
    def features(self, image_BCHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What comes before the dropout.

        Returns:
            The embedding (B, D), the mean of the encoder's deepest features over the picture; and the tensors that the
            rest of the network takes. The dropout is of the channels of the first.
        """

    @abstractmethod
    def decide(self, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) at ``size`` = (H, W) of what ``features`` gave."""

    @abstractmethod
    def sampled(self, features: tuple[Tensor, ...], masks_NC11: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, K, H, W) of one image under N masks, which the dropped features are multiplied by; to evaluate."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B, K, H, W) of a normalised image (B, 3, H, W)."""
        height, width = image_BCHW.shape[-2:]
        return self.decide(self.features(image_BCHW)[1], (height, width))


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, ReLU; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, norm: Norm = "batch") -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class DoubleConv(nn.Module):
    """Two convolution blocks and 2-D dropout, optionally with a residual connection around them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = "batch",
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, norm=norm)
        self.second = ConvBlock(out_channels, out_channels, norm=norm)
        self.shortcut: nn.Module | None = None
        if residual:
            same = in_channels == out_channels
            self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        changed = self.second(self.first(features))
        if self.shortcut is not None:
            changed = changed + self.shortcut(features)
        result: Tensor = self.dropout(changed)
        return result


class AttentionGate(nn.Module):
    """Weighs a skip connection by what the decoder already knows (Oktay et al., Attention U-Net, MIDL 2018).

    Additive attention: ``skip * sigmoid(psi(relu(W_s skip + W_g gate)))``, the gate at the skip's size.
    """

    def __init__(self, skip_channels: int, gate_channels: int, norm: Norm = "batch") -> None:
        super().__init__()
        inner = max(1, skip_channels // 2)
        self.of_skip = nn.Conv2d(skip_channels, inner, 1, bias=False)
        self.of_gate = nn.Conv2d(gate_channels, inner, 1, bias=False)
        self.norm = make_norm(norm, inner)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """Both (B, ., H, W) -> the weighted skip."""
        attention = self.psi(F.relu(self.norm(self.of_skip(skip) + self.of_gate(gate)))).sigmoid()
        weighted: Tensor = skip * attention
        return weighted


class UpBlock(nn.Module):
    """One level up a decoder: upsample, gate the skip connection, join, two convolutions."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        norm: Norm = "batch",
        residual: bool = False,
        attention: bool = False,
        upsample: Upsample = "bilinear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if upsample not in ("bilinear", "transposed"):
            raise ValueError(f"upsample is {upsample!r}; expected 'bilinear' or 'transposed'")
        self.up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2) if upsample == "transposed" else None
        self.gate = AttentionGate(skip_channels, in_channels, norm) if attention else None
        self.convolutions = DoubleConv(
            in_channels + skip_channels, out_channels, norm=norm, residual=residual, dropout=dropout
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(B, in, H/2, W/2) and (B, skip, H, W) -> (B, out, H, W)."""
        features = resize(features, skip.shape[-2:]) if self.up is None else self.up(features)
        if self.gate is not None:
            skip = self.gate(skip, features)
        result: Tensor = self.convolutions(torch.cat([features, skip], dim=1))
        return result


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer of a name.

    Raises:
        ValueError: If the name is unknown, or ``channels`` cannot be grouped.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(min(GROUPS, channels), channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    raise ValueError(f"norm is {norm!r}; expected 'batch', 'group' or 'instance'")


def resize(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize ``features`` (B, C, H, W) bilinearly to ``size`` (height, width), pixel centres aligned."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad ``image`` (B, C, H, W) with zeros, right and below, until both sides are multiples of ``multiple``."""
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(image, (0, right, 0, bottom)) if bottom or right else image
