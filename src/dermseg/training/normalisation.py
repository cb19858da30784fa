"""What a network's input is normalised with, by name: (value - mean) / std of values in [0, 1], for R, G and B."""

from __future__ import annotations

from collections.abc import Mapping

RGB = tuple[float, float, float]

NORMALISATIONS: Mapping[str, tuple[RGB, RGB]] = {
    # x / 127.5 - 1 for 8-bit values: what MobileNetV2's ImageNet weights expect, and fair to any other network.
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # What Swin's and ConvNeXt's ImageNet weights expect.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Mean and standard deviation over all pixels of the 2000 training images of ISIC 2017 (CC-0), each reduced to 256
    # pixels on its longer side and without padding: 93 million pixels, pooled.
    "isic": ((0.709, 0.593, 0.549), (0.154, 0.163, 0.178)),
}
