"""EGE-UNet beyond the contract of every model: its size, its parts, and that it learns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dermseg import synthetic
from dermseg.export import to_onnx
from dermseg.models import build
from dermseg.models.blocks import Outputs
from dermseg.models.ege_unet import DILATIONS, AggregationBridge, ChannelNorm, DilatedConv, EGEUNet, HadamardProduct
from dermseg.training.losses import WeightedSum, deep_supervised
from dermseg.training.recipes import load_recipe

torch.set_num_threads(1)


@pytest.fixture
def network() -> EGEUNet:
    torch.manual_seed(0)
    built = build("ege-unet", classes=1, initialisation="kaiming")
    assert isinstance(built, EGEUNet)
    return built


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def attention_parameters(inner: int, outer: int) -> int:
    quarter = inner // 4
    maps = quarter * (8 * 8 + 8 + 8)
    depthwise = quarter * (9 + 1) * 2 + quarter * (3 + 1) * 2
    pointwise = 4 * (quarter * quarter + quarter)
    return maps + depthwise + pointwise + 2 * 2 * inner + inner * (9 + 1) + inner * outer + outer


def bridge_parameters(width: int, below: int, classes: int) -> int:
    group = width // 2 + classes
    return below * width + width + 4 * group * (2 + 9 + 1) + 4 * group * (2 + width) + width


@pytest.mark.parametrize(("classes", "stated"), [(1, 53_374), (5, None)])
def test_it_has_as_many_parameters_as_its_paper_says(classes: int, stated: int | None) -> None:
    widths = (8, 16, 24, 32, 48, 64)
    plain = ((3, 8), (8, 16), (16, 24), (24, 16), (16, 8))
    attentive = ((24, 32), (32, 48), (48, 64), (64, 48), (48, 32), (32, 24))
    expected = sum(9 * inner * outer + outer for inner, outer in plain)
    expected += sum(attention_parameters(*pair) for pair in attentive)
    expected += sum(bridge_parameters(a, b, classes) for a, b in pairwise(widths))
    expected += sum(4 * width + classes * (width + 1) for width in widths[:-1])  # two normalisations and a mask each
    expected += classes * (8 + 1)
    assert sum(parameter.numel() for parameter in build("ege-unet", classes=classes).parameters()) == expected
    assert stated in (expected, None)


def test_masks_of_five_sizes_are_auxiliary_outputs_the_deepest_first(network: EGEUNet) -> None:
    predicted: list[Tensor] = []
    for head in network.masks:
        head.register_forward_hook(lambda module, inputs, output: predicted.append(output))
    image = noise(2, 3, 65, 97)
    outputs = network.train()(image)
    assert isinstance(outputs, Outputs)
    assert [tuple(mask.shape[2:]) for mask in predicted] == [(3, 4), (6, 8), (12, 16), (24, 32), (48, 64)]
    for mask, auxiliary in zip(predicted, outputs.auxiliary, strict=True):
        enlarged = F.interpolate(mask, size=(96, 128), mode="bilinear")
        assert torch.equal(auxiliary, enlarged[..., :65, :97])
    assert torch.equal(network.eval()(image), outputs.logits)


def test_each_mask_takes_part_in_use(network: EGEUNet) -> None:
    image = noise(1, 3, 64, 64)
    with torch.no_grad():
        before = network.eval()(image)
        for head in network.masks:
            bias = head.get_parameter("bias")
            bias.add_(1)
            assert not torch.allclose(network(image), before)
            bias.sub_(1)


def test_the_main_output_alone_teaches_every_parameter(network: EGEUNet) -> None:
    outputs = network.train()(noise(2, 3, 65, 97))
    assert isinstance(outputs, Outputs)
    torch.autograd.backward((outputs.logits * noise(2, 1, 65, 97)).mean())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("axes", [(True, True), (True, False), (False, True)])
def test_features_are_multiplied_by_the_map_along_its_axes(axes: tuple[bool, bool]) -> None:
    """At the map's own size, and not convolved, the map is the factor; from 8 to 4 places each is a mean of two."""
    product = HadamardProduct(3, axes)
    product.add_module("convolution", nn.Identity())
    nn.init.normal_(product.map)
    assert product.map.shape == (1, 3, 8 if axes[0] else 1, 8 if axes[1] else 1)
    features = noise(2, 3, 8, 8)
    torch.testing.assert_close(product(features), features * product.map.expand(1, 3, 8, 8))
    halved = F.avg_pool2d(product.map.expand(1, 3, 8, 8), 2)
    torch.testing.assert_close(product(features[..., :4, :4]), features[..., :4, :4] * halved)


def test_a_bridge_looks_around_at_its_four_distances() -> None:
    bridge = AggregationBridge(8, 12, 1)
    skip = noise(1, 8, 17, 17).requires_grad_()
    bridge(skip, noise(1, 12, 9, 9), noise(1, 1, 17, 17))[0, :, 8, 8].sum().backward()
    assert skip.grad is not None
    seen = {(y - 8, x - 8) for y, x in skip.grad.abs().sum(dim=(0, 1)).nonzero().tolist()}
    assert seen == {(y * rate, x * rate) for rate in (1, 2, 5, 7) for y in (-1, 0, 1) for x in (-1, 0, 1)}


def test_channels_of_each_pixel_are_normalised() -> None:
    features = 3 * noise(2, 6, 4, 5) + 1
    deviation = features.var(dim=1, correction=0, keepdim=True).add(1e-5).sqrt()
    torch.testing.assert_close(ChannelNorm(6)(features), (features - features.mean(dim=1, keepdim=True)) / deviation)


def test_it_learns_a_drawn_lesion_in_a_few_steps(network: EGEUNet) -> None:
    drawn = synthetic.draw(3, (64, 64), hairs=0, bubbles=0)
    image = torch.from_numpy(drawn.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    truth = torch.from_numpy(drawn.mask)[None, None].float()
    recipe = load_recipe("ege-unet")
    loss = deep_supervised(WeightedSum(recipe.loss), recipe.deep_supervision)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(loss(network.train()(image), truth))
        optimizer.step()
    with torch.no_grad():
        mask = network.eval()(image) > 0
    assert 2 * (mask * truth).sum() / (mask.sum() + truth.sum()) > 0.95


@pytest.mark.parametrize("rate", DILATIONS)
@pytest.mark.parametrize("channels", [5, 9, 16])
def test_a_dilated_convolution_has_its_exact_gradient_in_bfloat16(channels: int, rate: int) -> None:
    """On some processors that of torch's own is wrong, not a number, or ends the process."""
    torch.manual_seed(0)
    convolution = DilatedConv(channels, rate).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = []
    for mixed in (False, True):
        features = noise(4, channels, 32, 48).contiguous(memory_format=torch.channels_last).requires_grad_()
        convolution.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            convolution(features).float().square().mean().backward()
        assert features.grad is not None
        found.append([features.grad, *(parameter.grad for parameter in convolution.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)


def test_onnx_gives_the_same_at_a_size_that_is_padded(network: EGEUNet) -> None:
    state = {name: value.half().float() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    session = onnxruntime.InferenceSession(to_onnx(network, state, 80)["model.onnx"])
    batch = noise(3, 3, 80, 80)
    with torch.no_grad():  # exact, for normalisation over the flat padding enlarges what float32 rounds
        expected = network.eval().double()(batch.double()).numpy()
    (logits,) = session.run(None, {"image": batch.numpy()})
    assert logits.shape == (3, 1, 80, 80)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
