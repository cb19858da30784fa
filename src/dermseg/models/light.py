"""``light``: a network made for one CPU core.

MobileNetV2's encoder (Sandler et al., CVPR 2018), or an EfficientNet-Lite's, down to 1/32, and a decoder of four plain
convolutions. The encoder's batch normalisation is folded into its convolutions from the start: on a CPU in bfloat16
that doubles the speed of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dermseg.errors import choose_from
from dermseg.models.blocks import ConvBlock, LateDropout, pad_to_multiple, resize
from dermseg.models.efficientnet_lite import SCALING, EfficientNetLite, package
from dermseg.models.pretrained import Pretrained, load_encoder

STRIDE = 32
SKIP_LAYERS = (1, 4, 11)  # the last layers at 1/4, 1/8 and 1/16
LAST_LAYER = 15  # at 1/32
HUB_ID = "google/mobilenet_v2_1.0_224"
MOBILENET = "mobilenet-v2"


class Encoder(nn.Module):
    """MobileNetV2 without its classifier, normalisation folded; returns features at 1/2 to 1/32."""

    channels = (16, 24, 32, 96, 320)

    def __init__(self, pretrained: Pretrained = None) -> None:
        super().__init__()
        from transformers import MobileNetV2Config, MobileNetV2Model

        network = load_encoder(
            MobileNetV2Model,
            MobileNetV2Config(tf_padding=True),
            pretrained,
            hub_id=HUB_ID,
            same=("tf_padding", "hidden_act", "output_stride"),
            add_pooling_layer=False,
        )
        self.stem = network.conv_stem
        self.layers = network.layer[: LAST_LAYER + 1]
        _fold_normalisation(self)
        if not pretrained:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32; both sides must be multiples of 32."""
        features = self.stem(image_BCHW)
        levels = [features]
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in (*SKIP_LAYERS, LAST_LAYER):
                levels.append(features)
        return levels


def pretrained_name(encoder: object) -> str:
    """What ``pretrained: true`` gives the encoder of that name: a name on the hub, or of a Python package."""
    return package(str(encoder)) if encoder in list(SCALING) else HUB_ID


class Light(LateDropout):
    """The shipped network: about 2.2 million parameters with one class and MobileNetV2.

    Args:
        classes: Output channels.
        widths: Channels of the decoder's blocks at 1/2, 1/4, 1/8 and 1/16 of the input.
        dropout: Share of feature maps dropped (2-D dropout) before the last block, in [0, 1).
        pretrained: A folder of MobileNetV2 weights as transformers writes it, or a file of EfficientNet-Lite's; True
            for MobileNetV2's ImageNet weights from the hub, or EfficientNet-Lite's from their Python package; or None
            to begin from random weights.
        encoder: ``mobilenet-v2``, or ``efficientnet-lite0`` to ``efficientnet-lite2``.

    Raises:
        ValueError: For an unknown encoder.
    """

    def __init__(
        self,
        classes: int = 1,
        widths: tuple[int, int, int, int] = (32, 48, 64, 96),
        dropout: float = 0.1,
        pretrained: Pretrained = None,
        encoder: str = MOBILENET,
    ) -> None:
        super().__init__()
        self.encoder: Encoder | EfficientNetLite
        if encoder == MOBILENET:
            self.encoder = Encoder(pretrained)
        elif encoder in list(SCALING):
            self.encoder = EfficientNetLite(encoder, pretrained)
        else:
            raise ValueError(f"there is no encoder {encoder!r}; {choose_from(str(encoder), [MOBILENET, *SCALING])}")
        *skips, last = self.encoder.channels
        deepest = widths[-1] + 32
        self.bottom = ConvBlock(last, deepest, kernel_size=1)
        # The whole picture's mean: at 1/32 a convolution still sees only a part of it.
        self.context = nn.Linear(last, deepest)
        below = (*widths[1:], deepest)
        self.blocks = nn.ModuleList(
            ConvBlock(inner + skip, width) for inner, skip, width in zip(below, skips, widths, strict=True)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(widths[0], classes, kernel_size=1)

    def features(self, image_BCHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The deepest features' mean; the decoder's features at 1/4, which dropout is of, and the encoder's at 1/2."""
        finest, *skips, deepest = self.encoder(pad_to_multiple(image_BCHW, STRIDE))
        embedding = deepest.mean(dim=(2, 3))
        features = self.bottom(deepest) + self.context(embedding)[:, :, None, None]
        for block, skip in zip(self.blocks[:0:-1], skips[::-1], strict=True):
            features = block(torch.cat([resize(features, skip.shape[-2:]), skip], dim=1))
        return embedding, (features, finest)

    def decide(self, features: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Logits (B, classes, H, W) at ``size``."""
        low, skip = features
        joined = torch.cat([resize(self.dropout(low), skip.shape[-2:]), skip], dim=1)
        return self._logits(self.blocks[0](joined), size)

    def sampled(self, features: tuple[Tensor, ...], masks_NC11: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (N, classes, H, W) of one image, one for each mask."""
        low, skip = features
        convolution, norm, activation = self.blocks[0].children()
        # The convolution of joined features is a sum of two, of which one is the same for all masks; and a channel may
        # as well be dropped after it was resized.
        weight = convolution.get_parameter("weight")
        of_low, of_skip = weight[:, : low.shape[1]], weight[:, low.shape[1] :]
        dropped = resize(low, skip.shape[-2:]) * masks_NC11
        joined = F.conv2d(dropped, of_low, padding="same") + F.conv2d(skip, of_skip, padding="same")
        return self._logits(activation(norm(joined)), size)

    def _logits(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, h, w) at 1/2 of the padded image -> logits at ``size``."""
        height, width = features.shape[-2:]
        logits: Tensor = resize(self.head(features), (2 * height, 2 * width))
        return logits[..., : size[0], : size[1]]


def _fold_normalisation(network: nn.Module) -> None:
    """Replace each convolution and its batch normalisation by one convolution with a bias."""
    network.eval()
    for module in network.modules():
        convolution, norm = getattr(module, "convolution", None), getattr(module, "normalization", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            # A convolution without a bias of its own is given a frozen one.
            module.convolution = fuse_conv_bn_eval(convolution, norm).requires_grad_()
            setattr(module, "normalization", None)  # noqa: B010  - its type is not known here
    network.train()
