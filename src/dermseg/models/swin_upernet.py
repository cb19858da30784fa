"""``swin-upernet``: a Swin transformer (Liu et al., ICCV 2021) with the UPerNet decoder (Xiao et al., ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dermseg.models.blocks import ConvBlock, LateDropout, Norm, pad_to_multiple, resize
from dermseg.models.pretrained import Pretrained, check_drop_path, load_encoder, without

if TYPE_CHECKING:
    from transformers import SwinConfig

STRIDE = 32
POOLS = (1, 2, 3, 6)
HEAD_WIDTH = 32  # channels of an attention head, in every Swin
HUB_ID = "microsoft/swin-tiny-patch4-window7-224"


class SwinEncoder(nn.Module):
    """Swin without its classifier; returns layer-normalised features at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 6, 2),
        embed_dim: int = 96,
        window: int = 7,
        drop_path: float = 0.1,
        pretrained: Pretrained = None,
    ) -> None:
        super().__init__()
        from transformers import SwinBackbone

        self.backbone = load_encoder(
            SwinBackbone,
            swin_config(depths, embed_dim, window, drop_path),
            pretrained,
            hub_id=HUB_ID,
            fresh=("hidden_states_norms.",),
            same=("depths", "num_heads", "window_size", "hidden_act", "use_absolute_embeddings", "layer_norm_eps"),
        )
        without(self.backbone, "swin.layernorm")
        self.widths = [embed_dim * 2**stage for stage in range(4)]

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features at 1/4, 1/8, 1/16 and 1/32; both sides must be multiples of 32."""
        return list(self.backbone(image_BCHW).feature_maps)


class PyramidPooling(nn.Module):
    """Joins features with their means over 1, 4, 9 and 36 parts of the picture (Zhao et al., PSPNet, CVPR 2017)."""

    def __init__(self, in_channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        # No normalisation here: a mean over the whole picture is one value a channel, too few for its statistics.
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU(inplace=True)) for _ in POOLS
        )
        self.join = ConvBlock(in_channels + len(POOLS) * width, width, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, width, H, W)."""
        size = features.shape[-2:]
        pooled = [
            resize(branch(pool(features, parts)), size) for parts, branch in zip(POOLS, self.branches, strict=True)
        ]
        result: Tensor = self.join(torch.cat([features, *pooled], dim=1))
        return result


class SwinUPerNet(LateDropout):
    """Swin-Tiny and UPerNet: about 30 million parameters with one class.

    Args:
        classes: Output channels.
        width: Channels of the decoder.
        dropout: Share of feature maps dropped (2-D dropout) before the head, in [0, 1).
        norm: Normalisation of the decoder: ``batch``, ``group`` or ``instance``.
        depths: Layers of the encoder's four stages.
        embed_dim: Channels of the encoder's first stage, a multiple of 32.
        window: Side of the encoder's attention windows, 7 in all published weights; features are padded to a multiple
            of it, so one that divides the input size / 4, / 8 and / 16 is faster.
        drop_path: Largest share of images for which an encoder's layer is skipped in training, in [0, 1).
        pretrained: A folder of Swin weights as transformers writes it, True for Swin-Tiny's ImageNet weights from the
            hub, or None to begin from random weights.
    """

    def __init__(
        self,
        classes: int = 1,
        width: int = 128,
        dropout: float = 0.1,
        norm: Norm = "batch",
        depths: Sequence[int] = (2, 2, 6, 2),
        embed_dim: int = 96,
        window: int = 7,
        drop_path: float = 0.1,
        pretrained: Pretrained = None,
    ) -> None:
        super().__init__()
        self.encoder = SwinEncoder(depths, embed_dim, window, drop_path, pretrained)
        *laterals, deepest = self.encoder.widths
        self.pooling = PyramidPooling(deepest, width, norm)
        self.laterals = nn.ModuleList(ConvBlock(channels, width, kernel_size=1, norm=norm) for channels in laterals)
        self.smooth = nn.ModuleList(ConvBlock(width, width, norm=norm) for _ in laterals)
        self.fuse = ConvBlock(width * len(self.encoder.widths), width, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def features(self, image_BCHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The embedding (B, D), and the features (B, width, H/4, W/4), which dropout is of."""
        *shallow, deepest = self.encoder(pad_to_multiple(image_BCHW, STRIDE))
        levels = [self.pooling(deepest)]
        merged = levels[0]
        for features, lateral, smooth in zip(shallow[::-1], self.laterals[::-1], self.smooth[::-1], strict=True):
            merged = lateral(features) + resize(merged, features.shape[-2:])
            levels.append(smooth(merged))
        finest = levels[-1].shape[-2:]
        fused = self.fuse(torch.cat([resize(level, finest) for level in levels], dim=1))
        return deepest.mean(dim=(2, 3)), (fused,)

    def decide(self, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits (B, classes, H, W) at ``size``."""
        (fused,) = features
        return self._logits(self.dropout(fused), size)

    def sampled(self, features: tuple[Tensor, ...], masks_NC11: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, classes, H, W) of one image, one for each mask."""
        (fused,) = features
        return self._logits(fused * masks_NC11, size)

    def _logits(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, width, h, w) at 1/4 of the padded image -> logits at ``size``."""
        height, width = fused.shape[-2:]
        logits: Tensor = resize(self.head(fused), (4 * height, 4 * width))
        return logits[..., : size[0], : size[1]]


def swin_config(depths: Sequence[int], embed_dim: int, window: int, drop_path: float) -> SwinConfig:
    """The configuration of a Swin transformer of four stages.

    Raises:
        ValueError: If one of the numbers cannot be used.
    """
    from transformers import SwinConfig

    if len(depths) != 4:
        raise ValueError(f"depths is {list(depths)}; expected the layers of four stages")
    if embed_dim < HEAD_WIDTH or embed_dim % HEAD_WIDTH:
        raise ValueError(f"embed_dim is {embed_dim}; expected a multiple of {HEAD_WIDTH}")
    if window < 1:
        raise ValueError(f"window is {window}; expected at least 1")
    check_drop_path(drop_path)
    settings: dict[str, Any] = {
        "depths": list(depths),
        "embed_dim": embed_dim,
        "num_heads": [embed_dim // HEAD_WIDTH * 2**stage for stage in range(4)],
        "window_size": window,
        "drop_path_rate": drop_path,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return SwinConfig(**settings)


def pool(features: Tensor, parts: int) -> Tensor:
    """Mean of ``features`` (B, C, H, W) over ``parts`` x ``parts`` even parts, which overlap where they must.

    As ``adaptive_avg_pool2d``, but by matrix products: these also have an ONNX form for sizes that ``parts`` does not
    divide, and a gradient that is the same in every run on a GPU.
    """
    height, width = features.shape[-2:]
    rows, columns = (
        torch.tensor(_shares(size, parts), device=features.device, dtype=features.dtype) for size in (height, width)
    )
    return torch.matmul(torch.matmul(rows, features), columns.T)


@cache
def _shares(size: int, parts: int) -> tuple[tuple[float, ...], ...]:
    """Row ``p``: how much each of ``size`` places adds to the mean of part ``p``."""
    spans = [(part * size // parts, -((part + 1) * size // -parts)) for part in range(parts)]
    return tuple(tuple((first <= place < end) / (end - first) for place in range(size)) for first, end in spans)
