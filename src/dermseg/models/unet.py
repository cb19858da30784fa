"""``unet``: the U-Net (Ronneberger et al., MICCAI 2015) and its relatives, as options of one class.

``residual``, ``attention`` and ``deep_supervision`` give the residual U-Net, the attention U-Net (Oktay et al., 2018)
and the DS-AttentionUNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dermseg.models.blocks import DoubleConv, Norm, Outputs, UpBlock, Upsample, pad_to_multiple, resize


class UNet(nn.Module):
    """A U-Net of ``len(widths)`` levels; any size of image will do, it pads inside.

    Args:
        classes: Output channels.
        widths: Channels of the encoder's levels, at 1, 1/2, 1/4, ... of the input; the last is the bottom.
        decoder_widths: Channels of the decoder's levels, the deepest first; the encoder's in reverse if None.
        norm: Normalisation: ``batch``, ``group`` (8 groups) or ``instance``.
        residual: A residual connection around each pair of convolutions.
        attention: An attention gate on every skip connection.
        deep_supervision: An auxiliary head on every level of the decoder, used in training alone.
        upsample: ``bilinear`` or ``transposed`` convolution.
        dropout: Share of feature maps dropped (2-D dropout) after each pair of convolutions, in [0, 1).
    """

    def __init__(
        self,
        classes: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        decoder_widths: Sequence[int] | None = None,
        norm: Norm = "batch",
        residual: bool = False,
        attention: bool = False,
        deep_supervision: bool = False,
        upsample: Upsample = "bilinear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths is {list(widths)}; expected at least two levels")
        upward = list(decoder_widths) if decoder_widths is not None else list(widths[-2::-1])
        if len(upward) != len(widths) - 1:
            raise ValueError(f"decoder_widths has {len(upward)} levels; expected {len(widths) - 1}, one below widths")
        # Instance normalisation needs more than one value, at the bottom too.
        self.minimum = 2 ** len(widths) if norm == "instance" else 1
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList(
            DoubleConv(inner, outer, norm=norm, residual=residual, dropout=dropout)
            for inner, outer in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            UpBlock(
                below,
                skip,
                outer,
                norm=norm,
                residual=residual,
                attention=attention,
                upsample=upsample,
                dropout=dropout,
            )
            for below, skip, outer in zip((widths[-1], *upward[:-1]), widths[-2::-1], upward, strict=True)
        )
        self.head = nn.Conv2d(upward[-1], classes, 1)
        # The bottom and every level but the last, whose output is the head's own.
        inputs = (widths[-1], *upward[:-1]) if deep_supervision else ()
        self.auxiliary = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in inputs)

    def forward(self, image_BCHW: Tensor) -> Tensor | Outputs:
        """Logits (B, classes, H, W) of a normalised image (B, 3, H, W); in training with those of auxiliary heads."""
        height, width = image_BCHW.shape[-2:]
        features = pad_to_multiple(image_BCHW, self.stride if max(height, width) >= self.minimum else self.minimum)
        padded = features.shape[-2:]
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool2d(features, 2) if level else features)
            skips.append(features)
        levels = [skips.pop()]
        for block in self.decoder:
            levels.append(block(levels[-1], skips.pop()))
        logits: Tensor = self.head(levels[-1])[..., :height, :width]
        if not (self.training and len(self.auxiliary)):
            return logits
        return Outputs(
            logits,
            tuple(
                resize(head(level), padded)[..., :height, :width]
                for head, level in zip(self.auxiliary, levels[:-1], strict=True)
            ),
        )
