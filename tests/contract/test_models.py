"""The contract of every registered model, and what ``light`` promises beyond it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import MobileNetV2Config, MobileNetV2Model

from dermseg.errors import RecipeError
from dermseg.models import MODELS, build
from dermseg.models.blocks import pad_to_multiple
from dermseg.models.light import LAST_LAYER, SKIP_LAYERS, Encoder, Light

torch.set_num_threads(1)  # these networks and images are too small to share

MAX_PARAMETERS = {"light": 2_500_000}


@cache
def seeded(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return build(name, classes=classes)


def trained(name: str, classes: int = 1) -> nn.Module:
    """A model in evaluation mode whose normalisation has seen some images, as after training."""
    network = seeded(name, classes).train()
    for seed in range(3):
        network(image(4, 64, 64, seed=seed))
    return network.eval()


def image(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Normalised noise on a few scales, (count, 3, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // 8 + 1, width // 8 + 1, generator=generator)
    fine = torch.rand(count, 3, height, width, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return 1.4 * smooth + 0.6 * fine - 1


@pytest.fixture(params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the contract --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize(("height", "width"), [(192, 192), (65, 97), (33, 224), (224, 33), (31, 64), (1, 1)])
def test_logits_have_the_size_of_the_image(name: str, classes: int, height: int, width: int) -> None:
    with torch.no_grad():
        logits = seeded(name, classes).eval()(image(2, height, width))
    assert logits.shape == (2, classes, height, width)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("classes", [1, 5])
def test_the_gradient_reaches_every_parameter(name: str, classes: int) -> None:
    network = seeded(name, classes).train()
    network.zero_grad()
    torch.manual_seed(1)
    logits = network(image(4, 65, 97))
    (logits * torch.randn_like(logits)).mean().backward()
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
    def step() -> tuple[nn.Module, Tensor]:
        torch.manual_seed(3)
        network = build(name, classes=2).train()
        logits = network(image(2, 64, 64))
        logits.square().mean().backward()
        return network, logits

    (one, one_logits), (other, other_logits) = step(), step()
    assert torch.equal(one_logits, other_logits)
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


def test_evaluation_of_an_image_does_not_depend_on_its_companions(name: str) -> None:
    network, batch = trained(name), image(4, 96, 64)
    batch[3] *= 20
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(single[None]) for single in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bfloat16_gives_finite_logits_near_those_of_float32(name: str, mode: str) -> None:
    network = trained(name)
    batch = image(4, 64, 96)
    with torch.no_grad():
        exact = network(batch)
    network.train(mode == "train")
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(batch)
    logits.float().square().mean().backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    if mode == "eval":
        assert (logits.float() - exact).abs().mean() < 0.05 * exact.std() + 0.02


def test_the_network_keeps_its_budget_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in seeded(name, 1).parameters()) <= MAX_PARAMETERS[name]


def test_weights_fit_a_network_built_by_the_same_arguments(name: str) -> None:
    network, other = trained(name, 2), build(name, classes=2).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image(1, 64, 64)), other(image(1, 64, 64)))


def test_an_argument_a_model_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"^model '{name}' does not take these arguments: .*'depth'"):
        build(name, classes=1, depth=3)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        build("unet3000", classes=1)
    assert str(caught.value) == f"there is no model 'unet3000'; choose one of: {', '.join(sorted(MODELS))}"


# --- light ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dropout", 1.5), ("dropout", "much"), ("widths", [32, 48]), ("widths", 32)],
)
def test_values_light_cannot_use_are_refused(argument: str, value: object) -> None:
    with pytest.raises(RecipeError, match=r"^model 'light' does not take these arguments: "):
        build("light", classes=1, **{argument: value})


def test_light_takes_what_a_recipe_sets() -> None:
    network = build("light", classes=3, widths=[8, 16, 24, 40], dropout=0.5)
    assert isinstance(network, Light)
    assert [block[0].out_channels for block in network.blocks] == [8, 16, 24, 40]  # type: ignore[index]
    assert network.dropout.p == 0.5


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_pretrained_weights_is_refused(tmp_path: Path, missing: str) -> None:
    for file in {"config.json", "model.safetensors"} - {missing}:
        (tmp_path / file).write_text("{}")
    with pytest.raises(RecipeError) as caught:
        build("light", classes=1, pretrained=str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} is no folder of pretrained weights: expected config.json and model.safetensors "
        "as transformers' save_pretrained writes them for MobileNetV2"
    )


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


@pytest.mark.parametrize("tf_padding", [True, False])
def test_the_folded_encoder_is_the_one_of_transformers(tmp_path: Path, tf_padding: bool) -> None:
    torch.manual_seed(0)
    network = MobileNetV2Model(MobileNetV2Config(tf_padding=tf_padding), add_pooling_layer=False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, 0, 0.2)
            module.get_buffer("running_mean").normal_(0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 2)
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
