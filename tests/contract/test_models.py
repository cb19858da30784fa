"""The contract of every registered model and its options, and what single models promise beyond it."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2Model

from dermseg.bundle import Bundle
from dermseg.engine import open_engine
from dermseg.errors import RecipeError
from dermseg.export import export, parity
from dermseg.manifest import Architecture, Manifest
from dermseg.models import MODELS, build
from dermseg.models.blocks import Outputs, pad_to_multiple
from dermseg.models.initialisation import INITIALISATIONS, initialise
from dermseg.models.light import LAST_LAYER, SKIP_LAYERS, Encoder, Light
from dermseg.models.swin_upernet import pool
from tests.tiny_training import draw_weights

torch.set_num_threads(1)  # these networks and images are too small to share


class Variant(NamedTuple):
    """A model with arguments that make it small, or that choose one of its options."""

    model: str
    arguments: dict[str, Any] = {}  # noqa: RUF012  - never changed


TINY_SWIN: dict[str, Any] = {"depths": [1, 1, 2, 1], "embed_dim": 32}
TINY_UNET: dict[str, Any] = {"widths": [8, 16, 24]}
VARIANTS = {
    "convnext-unet": Variant(
        "convnext-unet", {"depths": [1, 1, 1, 1], "widths": [16, 24, 32, 48], "decoder_widths": [32, 24, 16]}
    ),
    "ege-unet": Variant("ege-unet"),
    "light": Variant("light"),
    "light-efficientnet": Variant("light", {"encoder": "efficientnet-lite0"}),
    "mask2former": Variant("mask2former", {**TINY_SWIN, "hidden": 64, "encoder_layers": 1, "decoder_layers": 2}),
    "swin-upernet": Variant("swin-upernet", {**TINY_SWIN, "width": 32}),
    "unet": Variant("unet", TINY_UNET),
    "unet-residual": Variant("unet", {**TINY_UNET, "residual": True}),
    "unet-attention": Variant("unet", {**TINY_UNET, "attention": True}),
    "unet-supervised": Variant("unet", {**TINY_UNET, "deep_supervision": True, "dropout": 0.2}),
    "unet-transposed": Variant("unet", {**TINY_UNET, "upsample": "transposed"}),
    "unet-group": Variant("unet", {**TINY_UNET, "norm": "group", "decoder_widths": [16, 8]}),
    "unet-instance": Variant("unet", {**TINY_UNET, "norm": "instance"}),
    "unet-all": Variant(
        "unet",
        {
            **TINY_UNET,
            "norm": "instance",
            "residual": True,
            "attention": True,
            "deep_supervision": True,
            "upsample": "transposed",
            "dropout": 0.1,
        },
    ),
}
EXPORTED = [
    "convnext-unet",
    "ege-unet",
    "light",
    "light-efficientnet",
    "mask2former",
    "swin-upernet",
    "unet-group",
    "unet-all",
]
DS_ATTENTION_UNET = Variant(
    "unet",
    {
        "widths": [32, 64, 128, 256, 256],
        "decoder_widths": [128, 64, 32, 32],
        "norm": "group",
        "attention": True,
        "deep_supervision": True,
        "dropout": 0.4,
    },
)


def make(name: str, classes: int = 1, **more: Any) -> nn.Module:
    variant = VARIANTS[name]
    return build(variant.model, classes=classes, **variant.arguments, **more)


@cache
def seeded(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return make(name, classes)


@cache
def _trained_state(name: str, classes: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = make(name, classes).train()
    with torch.no_grad():
        for seed in range(3):
            network(image(4, 64, 64, seed=seed))
    return network.state_dict()


def trained(name: str, classes: int = 1) -> nn.Module:
    """A model in evaluation mode whose normalisation has seen some images, as after training."""
    network = seeded(name, classes)
    network.load_state_dict(_trained_state(name, classes))
    return network.eval()


def image(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Normalised noise on a few scales, (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    fine = torch.rand(count, 3, height, width, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return 1.4 * smooth + 0.6 * fine - 1


def every(outputs: Tensor | Outputs) -> list[Tensor]:
    """All logits that a network gives: the main ones, then the auxiliary."""
    return [outputs.logits, *outputs.auxiliary] if isinstance(outputs, Outputs) else [outputs]


def total(outputs: Tensor | Outputs) -> Tensor:
    """A loss that weighs each logit of each output in its own way."""
    generator = torch.Generator().manual_seed(1)
    parts = [(x.float() * torch.randn(x.shape, generator=generator)).mean() for x in every(outputs)]
    return torch.stack(parts).sum()


@pytest.fixture(params=sorted(VARIANTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the contract --------------------------------------------------------------------------------


def test_every_model_keeps_the_contract() -> None:
    assert {variant.model for variant in VARIANTS.values()} == set(MODELS)


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (65, 97), (33, 160), (160, 33), (31, 64), (1, 1)])
def test_logits_have_the_size_of_the_image(name: str, classes: int, height: int, width: int) -> None:
    with torch.no_grad():
        logits = seeded(name, classes).eval()(image(2, height, width))
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, classes, height, width)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_in_training_every_output_has_the_size_of_the_image(name: str) -> None:
    with torch.no_grad():
        outputs = seeded(name, 5).train()(image(2, 65, 97))
    arguments = VARIANTS[name].arguments
    supervised = arguments.get("deep_supervision", name in ("ege-unet", "mask2former"))
    assert isinstance(outputs, Outputs) is supervised
    assert all(logits.shape == (2, 5, 65, 97) for logits in every(outputs))
    auxiliary = {"ege-unet": 5, "mask2former": arguments.get("decoder_layers", 0)}.get(name, 2)
    assert len(every(outputs)) - 1 == (auxiliary if supervised else 0)


@pytest.mark.parametrize("classes", [1, 5])
def test_the_gradient_reaches_every_parameter(name: str, classes: int) -> None:
    network = seeded(name, classes).train()
    network.load_state_dict(_trained_state(name, classes))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # before a weight of zero, nothing learns in the first step
                parameter.normal_(std=0.02)
    network.zero_grad()
    total(network(image(4, 65, 97))).backward()  # type: ignore[no-untyped-call]
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_the_image_reaches_every_logit(name: str) -> None:
    """Black and white images give other logits everywhere, also at the edges of a size that needs padding."""
    with torch.no_grad():
        network = trained(name)
        difference = network(torch.ones(1, 3, 50, 70)) - network(-torch.ones(1, 3, 50, 70))
    assert (difference != 0).all()


def test_a_seed_gives_the_same_network_and_the_same_training_step(name: str) -> None:
    def step() -> tuple[nn.Module, list[Tensor]]:
        torch.manual_seed(3)
        network = make(name, 2).train()
        outputs = network(image(2, 64, 64))
        total(outputs).backward()  # type: ignore[no-untyped-call]
        return network, every(outputs)

    (one, one_logits), (other, other_logits) = step(), step()
    assert all(torch.equal(a, b) for a, b in zip(one_logits, other_logits, strict=True))
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    for (parameter_name, a), (_, b) in pairs:
        assert torch.equal(a, b), parameter_name
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), parameter_name
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_evaluation_draws_nothing_and_changes_nothing(name: str) -> None:
    network = trained(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    with torch.no_grad():
        one, other = network(image(2, 65, 97)), network(image(2, 65, 97))
    assert torch.equal(one, other)
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_an_image_does_not_change_what_the_next_one_gives(name: str) -> None:
    """Also not one of another size."""
    network = trained(name)
    with torch.no_grad():
        before = network(image(1, 64, 96))
        network(image(1, 32, 32))
        network(image(1, 160, 33))
        assert torch.equal(network(image(1, 64, 96)), before)


def test_evaluation_of_an_image_does_not_depend_on_its_companions(name: str) -> None:
    network, batch = trained(name), image(4, 96, 64)
    batch[3] *= 20
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(single[None]) for single in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_training_goes_on_after_inference(name: str) -> None:
    """What inference mode computed and a network kept would break the next gradient."""
    network = trained(name)
    with torch.inference_mode():
        network(image(2, 64, 64))
    total(network.train()(image(2, 64, 64))).backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bfloat16_gives_logits_and_a_gradient_near_those_of_float32(name: str, mode: str) -> None:
    network = copy.deepcopy(trained(name)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = image(4, 64, 96).contiguous(memory_format=torch.channels_last)
    exact = network(batch)
    total(exact).backward()  # type: ignore[no-untyped-call]
    slopes = gradient(network)
    network.zero_grad()
    network.train(mode == "train")
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(batch)
    total(outputs).backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(logits).all() for logits in every(outputs))
    assert torch.isfinite(gradient(network)).all()
    if mode == "train":
        assert all(parameter.grad is not None for parameter in network.parameters())
    else:
        assert (outputs.float() - exact).abs().mean() < 0.05 * exact.std() + 0.02
        assert torch.cosine_similarity(gradient(network), slopes, dim=0) > 0.9


def gradient(network: nn.Module) -> Tensor:
    """Of all parameters that have one, flat."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])


def test_weights_fit_a_network_built_by_the_same_arguments(name: str) -> None:
    network, other = trained(name, 2), make(name, 2).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image(1, 64, 64)), other(image(1, 64, 64)))


@pytest.mark.parametrize("name", EXPORTED)
def test_a_bundle_runs_the_same_network_on_both_engines(name: str, dark_bundle: Bundle, tmp_path: Path) -> None:
    network, size = trained(name, 2), 64
    bundle = export(tmp_path / "bundle", network, manifest(dark_bundle, name, size), image(1, size, size).numpy())
    bundle.verify()
    batch = image(3, size, size, seed=9).numpy()
    found = parity(bundle, batch)
    assert found.logit_difference <= 1e-3
    assert found.mask_differences == 0
    with torch.no_grad():
        expected = network(torch.from_numpy(batch)).numpy()
    for engine in ("onnx", "torch"):  # three images at once; the stored weights are rounded
        logits = open_engine(bundle, engine, "cpu")(batch)
        assert logits.shape == (3, 2, size, size)
        assert np.abs(logits - expected).mean() < 0.02 * expected.std() + 1e-3


def manifest(other: Bundle, name: str, size: int) -> Manifest:
    """``other``'s, for the model ``name`` with two classes."""
    variant = VARIANTS[name]
    return other.manifest.model_copy(
        update={
            "architecture": Architecture(name=variant.model, arguments=variant.arguments, parameters=1),
            "classes": ("one", "other"),
            "thresholds": {"one": 0.5, "other": 0.5},
            "input_size": size,
        }
    )


@pytest.mark.parametrize("initialisation", sorted(INITIALISATIONS))
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_network_begins_as_its_initialisation_says(model: str, initialisation: str) -> None:
    torch.manual_seed(0)
    network = make(model, initialisation=initialisation)
    torch.manual_seed(0)
    own = make(model)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.weight.any():
            same = torch.equal(layer.weight, own.get_submodule(name).get_parameter("weight"))
            assert same is (initialisation == "none"), name
            assert initialisation == "none" or layer.bias is None or not layer.bias.any(), name
    with torch.no_grad():
        assert torch.isfinite(network.eval()(image(1, 64, 64))).all()


def test_an_argument_a_model_does_not_take_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        build("swin-upernet", classes=1, depth=[3])
    assert str(caught.value) == (
        "model 'swin-upernet' has no argument 'depth'; did you mean 'depths'? Choose from: width, dropout, norm, "
        "depths, embed_dim, window, drop_path, pretrained"
    )


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        build("unet3000", classes=1)
    assert str(caught.value) == (
        f"there is no model 'unet3000'; did you mean 'unet'? Choose from: {', '.join(sorted(MODELS))}"
    )
    with pytest.raises(RecipeError, match=r"Choose from: [a-z0-9, -]+$"):
        build("zzz", classes=1)


@pytest.mark.parametrize(
    ("model", "arguments", "reason"),
    [
        ("convnext-unet", {"decoder_widths": [8, 8]}, r"decoder_widths is \[8, 8\]; expected three levels"),
        ("convnext-unet", {"decoder_widths": 8}, ""),
        ("convnext-unet", {"depths": [1, 1, 1]}, r"depths is \[1, 1, 1\] and widths .*; expected four stages of each"),
        ("convnext-unet", {"depths": ["a", 1, 1, 1]}, ""),
        ("convnext-unet", {"drop_path": 1.0}, r"drop_path is 1.0; expected a share in \[0, 1\)"),
        ("convnext-unet", {"drop_path": "much"}, ""),
        ("light", {"dropout": 1.5}, "dropout probability has to be between 0 and 1"),
        ("light", {"dropout": "much"}, ""),
        ("light", {"widths": [32, 48]}, ""),
        ("light", {"widths": 32}, ""),
        ("mask2former", {"hidden": 40}, "hidden is 40; expected a multiple of 64"),
        ("mask2former", {"queries": 0}, "classes, queries, .* at least 1"),
        ("mask2former", {"decoder_layers": 0}, "decoder_layers .* at least 1"),
        ("swin-upernet", {"depths": [2, 2]}, r"depths is \[2, 2\]; expected the layers of four stages"),
        ("swin-upernet", {"drop_path": -0.1}, r"drop_path is -0.1; expected a share in \[0, 1\)"),
        ("swin-upernet", {"embed_dim": 48}, "embed_dim is 48; expected a multiple of 32"),
        ("swin-upernet", {"embed_dim": 96.0}, ""),
        ("swin-upernet", {"norm": "layer"}, "norm is 'layer'; expected 'batch', 'group' or 'instance'"),
        ("swin-upernet", {"width": -1}, ""),
        ("swin-upernet", {"window": 0}, "window is 0; expected at least 1"),
        ("unet", {"decoder_widths": [8]}, "decoder_widths has 1 levels; expected 4, one below widths"),
        ("unet", {"norm": "layer"}, "norm is 'layer'; expected 'batch', 'group' or 'instance'"),
        ("unet", {"norm": "group", "widths": [12, 16]}, ""),
        ("unet", {"upsample": "nearest"}, "upsample is 'nearest'; expected 'bilinear' or 'transposed'"),
        ("unet", {"widths": [8]}, r"widths is \[8\]; expected at least two levels"),
    ],
)
def test_values_a_model_cannot_use_are_refused(model: str, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=rf"^model '{model}' does not take these arguments: .*{reason}") as caught:
        build(model, classes=1, **arguments)
    assert "\n" not in str(caught.value)


# --- at full size --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        (Variant("convnext-unet"), 35.66),
        (Variant("light"), 2.20),
        (Variant("mask2former"), 47.35),
        (Variant("swin-upernet"), 30.51),
        (Variant("unet"), 31.38),
        (DS_ATTENTION_UNET, 3.44),
    ],
    ids=lambda value: value.model if isinstance(value, Variant) else None,
)
def test_the_network_has_the_parameters_it_is_known_for(variant: Variant, millions: float) -> None:
    with torch.device("meta"):  # counting needs no memory
        network = build(variant.model, classes=1, **variant.arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


# --- initialisation ------------------------------------------------------------------------------


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, initialisation="glorot")
    assert str(caught.value) == (
        "there is no initialisation 'glorot'; choose one of: kaiming, none, normal, orthogonal, xavier"
    )


@pytest.mark.parametrize(
    ("initialisation", "linear", "convolution", "transposed"),
    [
        ("kaiming", (2 / 300) ** 0.5, (2 / 288) ** 0.5, (2 / 256) ** 0.5),
        ("normal", 0.02, 0.02, 0.02),
        ("orthogonal", 300**-0.5, 288**-0.5, 256**-0.5),
        ("xavier", (2 / 500) ** 0.5, (2 / (288 + 576)) ** 0.5, (2 / (256 + 128)) ** 0.5),
    ],
)
def test_initialisations_have_the_spread_of_their_papers(
    initialisation: str, linear: float, convolution: float, transposed: float
) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(300, 200), nn.Conv2d(32, 64, 3), nn.ConvTranspose2d(32, 64, 2))
    initialise(layers, initialisation)
    for layer, spread in zip(layers, (linear, convolution, transposed), strict=True):
        assert layer.get_parameter("weight").std().item() == pytest.approx(spread, rel=0.05)
        assert not layer.get_parameter("bias").any()


def test_initialisation_leaves_alone_what_it_must() -> None:
    network = nn.ModuleDict(
        {"encoder": nn.Linear(3, 3), "encoder2": nn.Linear(3, 3), "zero": nn.Linear(3, 3), "norm": nn.LayerNorm(3)}
    )
    nn.init.zeros_(network["zero"].get_parameter("weight"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialise(network, "normal", skip=["encoder"])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"encoder2.weight", "encoder2.bias"}


# --- swin-upernet and mask2former ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 6), (7, 7), (8, 8), (13, 4)])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_pooling_is_that_of_torch(size: tuple[int, int], parts: int) -> None:
    features = image(2, *size)
    torch.testing.assert_close(pool(features, parts), nn.functional.adaptive_avg_pool2d(features, parts))


def test_a_window_that_divides_the_features_changes_no_shape() -> None:
    network = build("swin-upernet", classes=1, window=4, **VARIANTS["swin-upernet"].arguments).eval()
    with torch.no_grad():
        assert network(image(1, 128, 96)).shape == (1, 1, 128, 96)


def test_queries_that_agree_are_their_class() -> None:
    """And the class of queries that do not is near the largest."""
    network = build("mask2former", classes=2, queries=3, **VARIANTS["mask2former"].arguments)
    union = network._union
    masks = torch.randn(1, 2, 1, 4, 4).expand(1, 2, 3, 4, 4).reshape(1, 6, 4, 4)
    torch.testing.assert_close(union(masks), masks[:, ::3])  # type: ignore[operator]
    masks = 20 * torch.randn(1, 6, 4, 4)
    largest = masks.reshape(1, 2, 3, 4, 4).amax(dim=2)
    assert (union(masks) - largest).abs().max() < 1.1  # type: ignore[operator]


def test_without_deep_supervision_training_gives_logits_alone() -> None:
    network = build("mask2former", classes=1, deep_supervision=False, **VARIANTS["mask2former"].arguments).train()
    assert isinstance(network(image(2, 64, 64)), Tensor)


# --- light ---------------------------------------------------------------------------------------


def test_light_takes_what_a_recipe_sets() -> None:
    network = build("light", classes=3, widths=[8, 16, 24, 40], dropout=0.5)
    assert isinstance(network, Light)
    assert [block[0].out_channels for block in network.blocks] == [8, 16, 24, 40]  # type: ignore[index]
    assert network.dropout.p == 0.5


def levels_of(network: MobileNetV2Model, image_BCHW: Tensor) -> list[Tensor]:
    """The features ``light`` uses, by transformers itself."""
    hidden = network(image_BCHW, output_hidden_states=True).hidden_states
    return [network.conv_stem(image_BCHW), *(hidden[index] for index in (*SKIP_LAYERS, LAST_LAYER))]


def assert_folded(folder: Path, image_BCHW: Tensor) -> None:
    unfolded = MobileNetV2Model.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    unfolded.train(False)
    folded = Encoder(folder).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = levels_of(unfolded, image_BCHW), folded(image_BCHW)
    height, width = image_BCHW.shape[-2:]
    for level, (a, b) in enumerate(zip(expected, found, strict=True)):
        assert b.shape == (len(image_BCHW), (16, 24, 32, 96, 320)[level], height >> level + 1, width >> level + 1)
        assert a.std() > 0.05  # else closeness says nothing
        torch.testing.assert_close(b, a, rtol=0, atol=1e-4)


def test_the_folded_encoder_is_the_one_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MobileNetV2Model(MobileNetV2Config(tf_padding=True), add_pooling_layer=False)
    draw_weights(network)
    network.save_pretrained(tmp_path)
    assert_folded(tmp_path, image(2, 96, 64))


@pytest.mark.skipif("DERMSEG_PRETRAINED" not in os.environ, reason="DERMSEG_PRETRAINED names no folder of weights")
def test_the_folded_encoder_is_that_of_the_real_weights() -> None:
    assert_folded(Path(os.environ["DERMSEG_PRETRAINED"]), image(2, 192, 160))


def test_random_weights_keep_the_features_in_range() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for level in Encoder().eval()(image(4, 96, 96)):
            assert 0.05 < level.std() < 20


def test_light_sees_an_odd_size_as_an_image_with_grey_beyond_its_edges() -> None:
    network, odd = trained("light"), image(1, 50, 70)
    whole = torch.zeros(1, 3, 64, 96)
    whole[..., :50, :70] = odd
    with torch.no_grad():
        assert torch.equal(network(odd), network(whole)[..., :50, :70])


@pytest.mark.parametrize(("size", "padded"), [((64, 64), (64, 64)), ((65, 97), (96, 128)), ((1, 32), (32, 32))])
def test_padding_is_zeros_right_and_below(size: tuple[int, int], padded: tuple[int, int]) -> None:
    given = image(1, *size)
    result = pad_to_multiple(given, 32)
    assert result.shape[-2:] == padded
    assert torch.equal(result[..., : size[0], : size[1]], given)
    assert not result[..., size[0] :, :].any()
    assert not result[..., size[1] :].any()


def test_dropout_makes_training_steps_differ() -> None:
    torch.manual_seed(0)
    network = build("light", classes=1, dropout=0.5).train()
    assert not torch.equal(network(image(2, 64, 64)), network(image(2, 64, 64)))
