"""Which parts of an image spoke for a lesion: class activation maps of a segmentation network, by its gradients.

Grad-CAM (Selvaraju et al., ICCV 2017), Grad-CAM++ (Chattopadhyay et al., WACV 2018) and HiResCAM (Draelos and Carin,
2020), made for segmentation as Seg-Grad-CAM does (Vinogradova et al., AAAI 2020): the score is the class's logit over
the predicted lesion, or at one point, where a classifier has one logit for the whole image.

MONAI's ``GradCAM`` is not used: its hooks take only layers that give one (B, C, H, W) tensor, not an encoder that
gives a list of levels nor a transformer's tokens, and forbid that an activation in place follows the layer, as in
every convolution block here. Where it can be used its map is the same (tests/test_explanation.py). Its Grad-CAM++
multiplies by exp(score), which overflows for a lesion's logits, and sums another product than the paper's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg import figures
from dermseg.bundle import Bundle
from dermseg.engine import Device
from dermseg.errors import InputError, choose_from, extra
from dermseg.geometry import Geometry
from dermseg.imaging import (
    DEFAULT_MAX_MEGAPIXELS,
    Orientation,
    Photograph,
    Source,
    encode_image,
    make_folder,
    write_bytes,
)
from dermseg.segmenter import Prediction, Segmenter

if TYPE_CHECKING:
    from torch import Tensor, nn

Method = Literal["gradcam", "gradcam++", "hirescam"]
METHODS: tuple[Method, ...] = get_args(Method)
PICTURES = ("explanation", "heat")
"""What ``Explanation.save`` writes, in this order."""

TITLES: Mapping[Method, str] = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM"}

Target = Literal["lesion"] | tuple[float, float]
"""The predicted area of the class, or a point (x, y) in pixels of the image."""

MAX_STRIDE = 32
"""Of a transformer's tokens, by which they are told from other lists of vectors."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image a layer's features spoke for a class.

    Attributes:
        prediction: What was found in the image.
        heat: float32 (H, W) in [0, 1] at the image's own size: the map over its maximum, so 1 is the strongest place of
            this image, whatever that is worth; all 0 where nothing spoke for the class.
        maximum: The map's maximum before that; to compare images by, of one bundle, layer and method alone.
        method: One of ``METHODS``.
        layer: Name of the layer.
        class_name: The class.
        target: What was explained: ``lesion`` or a point (x, y) in pixels of the image.
    """

    prediction: Prediction
    heat: NDArray[np.float32] = field(repr=False)
    maximum: float
    method: Method
    layer: str
    class_name: str
    target: Target

    @property
    def photograph(self) -> Photograph:
        """The image."""
        return self.prediction.photograph

    def overlay(self) -> NDArray[np.uint8]:
        """The heat over the photograph, with the outline of the class, the point, a scale bar and a caption; RGB."""
        mask = self.prediction.mask_of(self.class_name)
        point = None if self.target == "lesion" else self.target
        caption = f"{TITLES[self.method]} of {self.class_name.replace('_', ' ')}"
        return figures.heat_map(self.prediction.pixels, self.heat, mask, point, caption, f"layer {self.layer}")

    def save(self, folder: str | Path, stem: str | None = None) -> list[Path]:
        """Write ``<stem>_explanation.png``, the overlay, and ``<stem>_heat.png``, the heat as 8-bit grey.

        Args:
            folder: Made if it does not exist.
            stem: The image's own if None.

        Returns:
            Both files.

        Raises:
            InputError: If the folder cannot be written.
        """
        stem = stem or Path(self.photograph.name).stem.strip("<>")
        make_folder(folder)
        paths = [Path(folder) / f"{stem}_{name}.png" for name in PICTURES]
        for path, picture in zip(paths, (self.overlay(), figures.probability_image(self.heat)), strict=True):
            write_bytes(path, encode_image(picture))
        return paths


class Explainer:
    """Explains what one bundle finds in images; the bundle is loaded once. May be used from several threads.

    Args:
        bundle: A shipped bundle's name, a bundle's folder or zip, or a loaded ``Bundle``.
        device: ``cpu``, ``cuda`` or ``auto``, which is the CPU.
        orientation: ``upright`` turns a photograph as its EXIF says; ``stored`` leaves it as it is in the file.
        max_megapixels: The largest image that is opened.

    Raises:
        BundleError: If the bundle cannot be used.
        InputError: If another argument is out of range.
        MissingExtraError: Without torch.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path = "lesion",
        *,
        device: Device = "auto",
        orientation: Orientation = "upright",
        max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    ) -> None:
        with extra("an explanation", "train"):
            import torch
        self._segmenter = Segmenter(bundle, device=device, orientation=orientation, max_megapixels=max_megapixels)
        self.bundle = self._segmenter.bundle
        self._device = torch.device("cuda" if device == "cuda" else "cpu")
        self._network = self.bundle.network().to(self._device)
        self._tapping = Lock()  # a tap takes whatever passes, also another thread's image

    def layers(self) -> dict[str, tuple[int, int, int]]:
        """Name, and (channels, height, width), of every layer an explanation can be made by, in their order."""
        with self._tapping:
            return layers(self._network, self.bundle.manifest.input_size)

    def check(self, layer: str | None = None, class_name: str | None = None) -> None:
        """Refuse, before any image is seen, what no image can be explained by.

        Raises:
            InputError: For a class or layer that does not exist, or a layer that gives no map.
        """
        import torch

        index = self._index(class_name)
        if layer is not None:
            size = self.bundle.manifest.input_size
            image_BCHW = torch.zeros(1, 3, size, size, device=self._device)
            with self._tapping:
                activation_map(self._network, image_BCHW, index, image_BCHW[0, 0] == 0, layer)

    def __call__(
        self,
        source: Source,
        *,
        method: Method = "gradcam",
        layer: str | None = None,
        class_name: str | None = None,
        target: Target = "lesion",
    ) -> Explanation:
        """Explain one image; arguments and errors as of ``explain``."""
        import torch

        index = self._index(class_name)
        prepared = self._segmenter.prepare(source)
        prediction = self._segmenter.predict(prepared)
        region_SS = _region(prediction, index, target)
        layer = layer or default_layer(self._network, method, target)
        image_BCHW = torch.from_numpy(prepared.image_CHW[None]).to(self._device)
        region_HW = torch.from_numpy(region_SS).to(self._device)
        with self._tapping:
            found = activation_map(self._network, image_BCHW, index, region_HW, layer, method)
        heat = prediction.geometry.invert(_enlarged(found, len(region_SS)))
        maximum = float(heat.max())
        return Explanation(
            prediction=prediction,
            heat=heat / np.float32(maximum) if maximum > 0 else heat,
            maximum=maximum,
            method=method,
            layer=layer,
            class_name=prediction.classes[index],
            target=target,
        )

    def _index(self, class_name: str | None) -> int:
        classes = self.bundle.manifest.classes
        if class_name is None:
            return 0
        if class_name not in classes:
            raise InputError(f"this bundle has no class {class_name!r}; {choose_from(class_name, classes)}")
        return classes.index(class_name)


def explain(
    bundle: Bundle | str | Path,
    source: Source,
    *,
    method: Method = "gradcam",
    layer: str | None = None,
    class_name: str | None = None,
    target: Target = "lesion",
    device: Device = "auto",
) -> Explanation:
    """Show which parts of an image spoke for what a bundle found in it.

    Args:
        bundle: A shipped bundle's name, a bundle's folder or zip, or a loaded ``Bundle``.
        source: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3) in RGB.
        method: ``gradcam`` and ``gradcam++`` weigh each channel of the layer as a whole, so all places with the same
            features are lit; ``hirescam`` weighs each place by itself and is the one for a point.
        layer: Name of a layer of the network, as ``Explainer.layers`` lists them; if None, what ``default_layer``
            gives for the method and target.
        class_name: The bundle's first class if None.
        target: ``lesion``, the predicted area of the class, or a point (x, y) in pixels of the image, from its left
            upper corner.
        device: ``cpu``, ``cuda`` or ``auto``, which is the CPU.

    Raises:
        ImageError: If the image cannot be used.
        InputError: For a layer, class, method or point that does not exist, or a lesion where none was found.
        MissingExtraError: Without torch.
    """
    return Explainer(bundle, device=device)(source, method=method, layer=layer, class_name=class_name, target=target)


def default_layer(network: nn.Module, method: Method = "gradcam", target: Target = "lesion") -> str:
    """The layer that explains a registered model best: its encoder's last stage, or of ``light`` one that follows it.

    A layer that gives several levels is explained by the deepest. One weight a channel suits neither ``light``'s
    encoder, whose features are of any sign, nor reliably ``bottom``, to which the picture's mean is added afterwards:
    on eight dermoscopy images Grad-CAM's mean heat at ``bottom`` was 0.39 within the lesion and 0.22 around it, at the
    decoder's first block, the last of ``blocks``, 0.59 and 0.01. HiResCAM of a whole lesion takes ``bottom``: at
    the block its map depends more on where the lesion was found than on the weights. Of a point that is what it is for.
    """
    from torch import nn

    if "bottom" in (children := dict(network.named_children())):
        blocks = children["blocks"]
        assert isinstance(blocks, nn.ModuleList)
        return "bottom" if (method, target) == ("hirescam", "lesion") else f"blocks.{len(blocks) - 1}"
    encoder = network.get_submodule("encoder")
    return f"encoder.{len(encoder) - 1}" if isinstance(encoder, nn.ModuleList) else "encoder"


def activation_map(
    network: nn.Module, image_BCHW: Tensor, index: int, region_HW: Tensor, layer: str, method: Method = "gradcam"
) -> NDArray[np.float32]:
    """The class activation map of one image at the layer's own size.

    The score is the mean of the class's logits over the region: Seg-Grad-CAM's sum over the region's size. Grad-CAM's
    map keeps its form by that; Grad-CAM++, which was made for one logit, does not survive a sum of thousands.

    Args:
        network: In evaluation mode; gives ``logits_BKHW``.
        image_BCHW: One square image, (1, 3, S, S).
        index: Of the class.
        region_HW: Bool (S, S), not empty.
        layer: Name of the layer.
        method: One of ``METHODS``.

    Returns:
        float32 (h, w), at least 0.

    Raises:
        InputError: If there is no such method, or no map can be made by the layer.
    """
    import torch

    if method not in METHODS:
        raise InputError(f"there is no method {method!r}; {choose_from(method, METHODS)}")
    size = image_BCHW.shape[-1]
    known = dict(network.named_modules())
    if layer not in known or not layer:
        names = difflib.get_close_matches(layer, layers(network, size), n=3, cutoff=0)
        raise InputError(
            f"there is no layer {layer!r}; the closest are {', '.join(names)} (dermseg explain --list-layers shows all)"
        )
    with torch.enable_grad(), _tapped({layer: known[layer]}) as taps:
        score = network(image_BCHW)[0, index][region_HW].mean()
        gradient = torch.autograd.grad(score, taps[layer], allow_unused=True)[0] if layer in taps else None
    features, slopes = _as_map(taps.get(layer), size), _as_map(gradient, size)
    if features is None or slopes is None:
        raise InputError(
            f"the layer {layer!r} gives no map of the image that leads to the logits; dermseg explain --list-layers "
            "shows those that do"
        )
    with torch.no_grad():
        result: NDArray[np.float32] = COMBINATIONS[method](features, slopes).relu().float().cpu().numpy()
    return result


def layers(network: nn.Module, size: int) -> dict[str, tuple[int, int, int]]:
    """Name, and (channels, height, width), of every layer that gives a map and leads to the logits.

    Args:
        network: In evaluation mode.
        size: Side of its square input.
    """
    import torch

    place = next(network.parameters()).device
    modules = {name: module for name, module in network.named_modules() if name}
    with torch.enable_grad(), _tapped(modules) as taps:
        score = network(torch.zeros(1, 3, size, size, device=place)).sum()
        gradients = torch.autograd.grad(score, list(taps.values()), allow_unused=True)
    reached = [name for name, gradient in zip(taps, gradients, strict=True) if gradient is not None]
    maps = {name: _as_map(taps[name], size) for name in modules if name in reached}
    return {name: (m.shape[0], m.shape[1], m.shape[2]) for name, m in maps.items() if m is not None}


def _grad_cam(features_CHW: Tensor, slopes_CHW: Tensor) -> Tensor:
    return (slopes_CHW.mean(dim=(1, 2), keepdim=True) * features_CHW).sum(dim=0)


def _grad_cam_plus(features_CHW: Tensor, slopes_CHW: Tensor) -> Tensor:
    """Its common factor exp(score) is left out: the form of the map does not depend on it.

    Nor is a small number added below, as MONAI does: the gradients of a mean over many pixels are smaller yet.
    """
    squares = slopes_CHW**2
    below = 2 * squares + features_CHW.sum(dim=(1, 2), keepdim=True) * slopes_CHW**3
    shares = squares / below.where(below != 0, below.new_ones(()))
    return ((shares * slopes_CHW.relu()).sum(dim=(1, 2), keepdim=True) * features_CHW).sum(dim=0)


def _hires_cam(features_CHW: Tensor, slopes_CHW: Tensor) -> Tensor:
    return (slopes_CHW * features_CHW).sum(dim=0)


COMBINATIONS: Mapping[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _grad_cam,
    "gradcam++": _grad_cam_plus,
    "hirescam": _hires_cam,
}
"""Features and their gradients, (C, h, w), to a map (h, w) of any sign."""


@contextmanager
def _tapped(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Keep the features that modules give while the network runs."""
    from torch import Tensor

    taps: dict[str, Tensor] = {}

    def tap(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            features = _deepest(output)
            if isinstance(features, Tensor) and features.requires_grad:
                taps[name] = features
            # A copy goes on, for what follows may work in place.
            return output.clone() if features is output and isinstance(output, Tensor) else output

        return hook

    handles = [module.register_forward_hook(tap(name)) for name, module in modules.items()]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _deepest(output: Any) -> Any:
    """A layer's features: of a list of levels the last; of a tuple the first, which others only go along with."""
    if (levels := getattr(output, "feature_maps", None)) is not None:  # a backbone of transformers
        return levels[-1]
    if isinstance(output, list | tuple) and output:
        return output[-1 if isinstance(output, list) else 0]
    return output


def _as_map(values: Tensor | None, size: int) -> Tensor | None:
    """One image's features (1, C, h, w), or (1, h, w, C) or (1, h * w, C) of transformers, as (C, h, w); else None.

    The image is square and so is each map, which tells them apart.
    """
    if values is None or values.ndim not in (3, 4) or len(values) != 1:
        return None
    if values.ndim == 3:
        side = math.isqrt(values.shape[1])
        if side * side != values.shape[1] or side * MAX_STRIDE < size:
            return None
        return values[0].T.reshape(-1, side, side)
    if values.shape[2] == values.shape[3]:
        return values[0]
    return values[0].permute(2, 0, 1) if values.shape[1] == values.shape[2] else None


def _region(prediction: Prediction, index: int, target: Target) -> NDArray[np.bool_]:
    """Where the score is taken, bool (S, S) in the network's square.

    Raises:
        InputError: If the target is no target, outside the image, or a lesion where there is none.
    """
    geometry = prediction.geometry
    region = np.zeros((geometry.canvas, geometry.canvas), np.bool_)
    if target == "lesion":
        inside = prediction.probabilities[index] > np.float32(prediction.thresholds[index])
        region[geometry.content] = inside[geometry.content]
        if not region.any():
            raise InputError(
                f"nothing of the class {prediction.classes[index]!r} was found in {prediction.photograph.name}; give a "
                "point (x, y) of the image to explain instead"
            )
        return region
    if isinstance(target, str) or len(target) != 2:
        raise InputError(f"the target is {target!r}; expected 'lesion' or a point (x, y)")
    (x, y), (height, width) = target, prediction.size
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(
            f"the point ({x:g}, {y:g}) lies outside {prediction.photograph.name}, which has {width} x {height} pixels; "
            "x counts from the left and y from above, each from 0"
        )
    region[_place(geometry, x, y)] = True
    return region


def _place(geometry: Geometry, x: float, y: float) -> tuple[int, int]:
    """Row and column, in the network's square, of the pixel of the image that holds a point."""
    row = (math.floor(y) + 0.5) * geometry.content_height / geometry.height
    column = (math.floor(x) + 0.5) * geometry.content_width / geometry.width
    return geometry.top + int(row), geometry.left + int(column)


def _enlarged(found: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A layer's map (h, h) over the network's square (S, S), bilinear.

    Networks pad the square to the right and below and halve it, so a map may reach beyond it.
    """
    import cv2

    side = len(found) * 2 ** max(0, math.ceil(math.log2(size / len(found))))
    enlarged = cv2.resize(found, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    return np.ascontiguousarray(enlarged[:size, :size])
