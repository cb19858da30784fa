"""``mask2former``: a Swin transformer, a pixel decoder and queries that become masks (Cheng et al., CVPR 2022).

The original matches its queries to the objects of an image while it trains. Here what a query must find is known
beforehand: each class owns a few queries, and the union of their masks is the class's mask. So there is nothing to
match and nothing to classify, and any loss on logits trains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dermseg.models.blocks import Outputs, pad_to_multiple, resize
from dermseg.models.pretrained import Pretrained, load_encoder, without
from dermseg.models.swin_upernet import swin_config

STRIDE = 32
HIDDEN_MULTIPLE = 64  # its normalisation has 32 groups, each of more than one channel
HUB_ID = "facebook/mask2former-swin-tiny-ade-semantic"


class Mask2Former(nn.Module):
    """Mask2Former on Swin-Tiny: about 47 million parameters with one class.

    Args:
        classes: Output channels.
        queries: Queries of each class, at least 1.
        hidden: Channels of the pixel decoder and the queries, a multiple of 64.
        encoder_layers: Layers of the pixel decoder, at least 1.
        decoder_layers: Layers in which the queries look at the picture, at least 1.
        deep_supervision: In training, also give the masks before the first and after every layer but the last.
        depths: Layers of the encoder's four stages.
        embed_dim: Channels of the encoder's first stage, a multiple of 32.
        window: Side of the encoder's attention windows, 7 in all published weights; features are padded to a multiple
            of it, so one that divides the input size / 4, / 8 and / 16 is faster.
        drop_path: Largest share of images for which an encoder's layer is skipped in training, in [0, 1).
        pretrained: A folder of Mask2Former weights as transformers writes it, True for those trained on ADE20K from
            the hub, or None to begin from random weights. The queries are always new.
    """

    PRETRAINED = ("encoder", "pixel_decoder", "transformer")

    def __init__(
        self,
        classes: int = 1,
        queries: int = 4,
        hidden: int = 256,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        deep_supervision: bool = True,
        depths: Sequence[int] = (2, 2, 6, 2),
        embed_dim: int = 96,
        window: int = 7,
        drop_path: float = 0.1,
        pretrained: Pretrained = None,
    ) -> None:
        super().__init__()
        from transformers import Mask2FormerConfig, Mask2FormerModel

        if min(classes, queries, encoder_layers, decoder_layers) < 1:
            raise ValueError("classes, queries, encoder_layers and decoder_layers must be at least 1")
        if hidden < HIDDEN_MULTIPLE or hidden % HIDDEN_MULTIPLE:
            raise ValueError(f"hidden is {hidden}; expected a multiple of {HIDDEN_MULTIPLE}")
        config = Mask2FormerConfig(
            backbone_config=swin_config(depths, embed_dim, window, drop_path),
            feature_size=hidden,
            mask_feature_size=hidden,
            hidden_dim=hidden,
            encoder_feedforward_dim=4 * hidden,
            dim_feedforward=8 * hidden,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers + 1,  # transformers counts the masks, of which one comes before the first
            num_queries=classes * queries,
        )
        network = load_encoder(
            Mask2FormerModel,
            config,
            pretrained,
            hub_id=HUB_ID,
            fresh=("transformer_module.queries_",),
            same=(
                "encoder_layers",
                "decoder_layers",
                "num_attention_heads",
                "activation_function",
                "pre_norm",
                "backbone_config.depths",
                "backbone_config.window_size",
            ),
        )
        self.encoder = network.pixel_level_module.encoder
        without(self.encoder, "swin.layernorm")
        self.pixel_decoder = network.pixel_level_module.decoder
        self.transformer = network.transformer_module
        self.classes = classes
        self.queries = queries
        self.deep_supervision = deep_supervision

    def forward(self, image_BCHW: Tensor) -> Tensor | Outputs:
        """Logits (B, classes, H, W) of a normalised image (B, 3, H, W); in training with those of earlier layers."""
        height, width = image_BCHW.shape[-2:]
        padded = pad_to_multiple(image_BCHW, STRIDE)
        pixels = self.pixel_decoder(self.encoder(padded).feature_maps, output_hidden_states=False)
        masks = self.transformer(pixels.multi_scale_features, pixels.mask_features).masks_queries_logits

        def logits(masks_BQHW: Tensor) -> Tensor:
            return resize(self._union(masks_BQHW), padded.shape[-2:])[..., :height, :width]

        if not (self.training and self.deep_supervision):
            return logits(masks[-1])
        return Outputs(logits(masks[-1]), tuple(logits(mask) for mask in masks[:-1]))

    def _union(self, masks_BQHW: Tensor) -> Tensor:
        """Logits of the classes (B, K, H, W): a smooth maximum over each one's queries, equal to them if they agree."""
        batch, _, height, width = masks_BQHW.shape
        masks = masks_BQHW.float().reshape(batch, self.classes, self.queries, height, width)
        return masks.logsumexp(dim=2) - math.log(self.queries)
