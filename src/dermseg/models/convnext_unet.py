"""``convnext-unet``: a ConvNeXt encoder (Liu et al., CVPR 2022) with a U-Net's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dermseg.models.blocks import Norm, UpBlock, Upsample, pad_to_multiple, resize
from dermseg.models.pretrained import Pretrained, check_drop_path, load_encoder

STRIDE = 32
HUB_ID = "facebook/convnext-tiny-224"


class ConvNextEncoder(nn.Module):
    """ConvNeXt without its classifier; returns layer-normalised features at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        drop_path: float = 0.0,
        pretrained: Pretrained = None,
    ) -> None:
        super().__init__()
        from transformers import ConvNextBackbone, ConvNextConfig

        if not len(depths) == len(widths) == 4:
            raise ValueError(f"depths is {list(depths)} and widths {list(widths)}; expected four stages of each")
        check_drop_path(drop_path)
        settings: dict[str, Any] = {
            "depths": list(depths),
            "hidden_sizes": list(widths),
            "drop_path_rate": drop_path,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        }
        config = ConvNextConfig(**settings)
        self.backbone = load_encoder(
            ConvNextBackbone,
            config,
            pretrained,
            hub_id=HUB_ID,
            fresh=("hidden_states_norms.",),
            same=("depths", "hidden_act"),
        )

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features at 1/4, 1/8, 1/16 and 1/32; both sides must be multiples of 32."""
        return list(self.backbone(image_BCHW).feature_maps)


class ConvNextUNet(nn.Module):
    """ConvNeXt-Tiny and a decoder of residual blocks with attention gates.

    Args:
        classes: Output channels.
        decoder_widths: Channels of the decoder's levels at 1/16, 1/8 and 1/4 of the input.
        residual: A residual connection around each pair of convolutions.
        attention: An attention gate on every skip connection.
        norm: Normalisation of the decoder: ``batch``, ``group`` or ``instance``.
        upsample: ``bilinear`` or ``transposed`` convolution.
        dropout: Share of feature maps dropped (2-D dropout) after each pair of convolutions, in [0, 1).
        depths: Layers of the encoder's four stages.
        widths: Channels of the encoder's four stages.
        drop_path: Largest share of images for which an encoder's layer is skipped in training, in [0, 1).
        pretrained: A folder of ConvNeXt weights as transformers writes it, True for ConvNeXt-Tiny's ImageNet weights
            from the hub, or None to begin from random weights.
    """

    def __init__(
        self,
        classes: int = 1,
        decoder_widths: Sequence[int] = (384, 192, 96),
        residual: bool = True,
        attention: bool = True,
        norm: Norm = "batch",
        upsample: Upsample = "bilinear",
        dropout: float = 0.0,
        depths: Sequence[int] = (3, 3, 9, 3),
        widths: Sequence[int] = (96, 192, 384, 768),
        drop_path: float = 0.0,
        pretrained: Pretrained = None,
    ) -> None:
        super().__init__()
        if len(decoder_widths) != 3:
            raise ValueError(f"decoder_widths is {list(decoder_widths)}; expected three levels: 1/16, 1/8 and 1/4")
        self.encoder = ConvNextEncoder(depths, widths, drop_path, pretrained)
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
            for below, skip, outer in zip(
                (widths[-1], *decoder_widths[:-1]), widths[-2::-1], decoder_widths, strict=True
            )
        )
        self.head = nn.Conv2d(decoder_widths[-1], classes, kernel_size=1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of a normalised image (B, 3, H, W)."""
        height, width = image_BCHW.shape[-2:]
        padded = pad_to_multiple(image_BCHW, STRIDE)
        *skips, features = self.encoder(padded)
        for block in self.decoder:
            features = block(features, skips.pop())
        logits: Tensor = resize(self.head(features), padded.shape[-2:])
        return logits[..., :height, :width]
