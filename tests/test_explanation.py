"""Explanations: against hand-made networks and MONAI, on every registered model, and by randomised weights."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from monai.visualize.class_activation_maps import GradCAM
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from dermseg import bundle as bundles
from dermseg import explanation, synthetic
from dermseg.bundle import Bundle, shipped_bundles
from dermseg.cli.main import app
from dermseg.errors import InputError
from dermseg.explanation import METHODS, Explainer, Explanation, Method, activation_map, default_layer, explain
from dermseg.imaging import open_image
from dermseg.manifest import WEIGHTS, Architecture
from tests.contract.test_models import VARIANTS, image, trained

torch.set_num_threads(1)
SIZE = 64


@cache
def shipped() -> Explainer:
    return Explainer("lesion")


def save(folder: Path, like: Bundle, network: nn.Module, name: str, classes: tuple[str, ...] = ("lesion",)) -> Bundle:
    """A bundle of a variant of ``VARIANTS``, without ONNX; nearly everything it sees is above its threshold."""
    architecture = Architecture(name=VARIANTS[name].model, arguments=VARIANTS[name].arguments, parameters=1)
    manifest = like.manifest.model_copy(
        update={
            "architecture": architecture,
            "classes": classes,
            "input_size": SIZE,
            "thresholds": dict.fromkeys(classes, 1e-6),
        }
    )
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    return bundles.write(folder, manifest, {WEIGHTS: safetensors.torch.save(state)})


# --- the maps ------------------------------------------------------------------------------------


class Coloured(nn.Module):
    """Its layer splits red, green and blue; the logits are 3 red - 2 green, seen at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.head = nn.Conv2d(3, 1, 1, bias=False)
        with torch.no_grad():
            self.head.weight[:] = torch.tensor([3.0, -2.0, 0.0])[None, :, None, None]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(image_BCHW)).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return logits


def three_spots() -> Tensor:
    """Red, green and blue, each in one cell of 4 x 4 cells of 4 x 4 pixels."""
    picture = torch.zeros(1, 3, 16, 16, requires_grad=True)
    with torch.no_grad():
        for channel, (row, column) in enumerate([(0, 1), (2, 2), (3, 0)]):
            picture[0, channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
    return picture


@pytest.mark.parametrize("method", METHODS)
def test_the_known_channel_makes_the_map(method: Method) -> None:
    """Only red speaks for the class: green against it, blue not at all."""
    region = torch.ones(16, 16, dtype=torch.bool)
    found = activation_map(Coloured().eval(), three_spots(), 0, region, "features", method)
    assert found.shape == (4, 4)
    assert found[0, 1] > 0
    assert np.count_nonzero(found) == 1
    slope = 3 / 16  # of the mean logit, at each of the 16 places; Grad-CAM++ gives each the share 1 / (2 + slope)
    assert found[0, 1] == pytest.approx(16 * slope / (2 + slope) if method == "gradcam++" else slope)


def test_only_hirescam_keeps_to_the_region() -> None:
    """Grad-CAM weighs red as a whole, so its map is of red also where the region is not."""
    region = torch.zeros(16, 16, dtype=torch.bool)
    region[12:, 12:] = True  # where there is no red
    pooled, local = (
        activation_map(Coloured().eval(), three_spots(), 0, region, "features", method)
        for method in ("gradcam", "hirescam")
    )
    assert pooled[0, 1] == pytest.approx(3 / 16)  # the gradient is 3 at one place of 16
    assert not local.any()


class Score(nn.Module):
    """What MONAI takes for a classifier: the mean logit of a class over a region."""

    def __init__(self, network: nn.Module, index: int, region_HW: Tensor) -> None:
        super().__init__()
        self.network, self.index, self.region_HW = network, index, region_HW

    def forward(self, image_BCHW: Tensor) -> Tensor:
        score: Tensor = self.network(image_BCHW)[:, self.index][:, self.region_HW].mean(dim=1, keepdim=True)
        return score


@pytest.mark.parametrize("layer", ["encoder.2", "encoder.1", "decoder.0", "decoder.1"])
def test_maps_are_monais_where_it_can_make_them(layer: str) -> None:
    network, batch = trained("unet", 2), image(1, SIZE, SIZE)
    region = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    region[20:40, 10:50] = True
    found = activation_map(network, batch, 1, region, layer)
    cam = GradCAM(nn_module=Score(deepcopy(network), 1, region), target_layers=f"network.{layer}")
    expected = cam.compute_map(batch, class_idx=0)[0, 0].detach().numpy()  # type: ignore[no-untyped-call]
    assert expected.any()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_hirescam_adds_up_to_the_logit_where_the_rest_is_linear() -> None:
    network = Coloured().eval()
    batch = three_spots() + 0.1
    region = torch.ones(16, 16, dtype=torch.bool)
    with torch.no_grad():
        network.head.weight.abs_()  # no part of the map is cut at zero
    found = activation_map(network, batch, 0, region, "features", "hirescam")
    assert found.sum() == pytest.approx(network(batch).mean().item(), rel=1e-5)


def test_features_before_an_activation_in_place_are_those_before_it() -> None:
    network, batch = trained("unet", 1), image(1, SIZE, SIZE)
    region = torch.ones(SIZE, SIZE, dtype=torch.bool)
    norm, relu = (activation_map(network, batch, 0, region, f"encoder.2.second.{k}") for k in (1, 2))
    assert not np.allclose(norm, relu)


# --- every model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_model_is_explained(name: str, dark_bundle: Bundle, tmp_path: Path) -> None:
    bundle = save(tmp_path / "bundle", dark_bundle, trained(name, 2), name, ("one", "other"))
    pixels = synthetic.draw(3, (48, 80)).pixels
    explainer, maxima = Explainer(bundle), []
    for method in METHODS:
        found = explainer(pixels, method=method, class_name="other")
        assert found.heat.shape == (48, 80)
        assert found.heat.dtype == np.float32
        assert found.heat.min() >= 0
        assert found.maximum >= 0
        assert found.heat.max() == (1 if found.maximum else 0)
        assert (found.method, found.class_name, found.target) == (method, "other", "lesion")
        maxima.append(found.maximum)
    assert max(maxima) > 0


@pytest.mark.parametrize("name", ["convnext-unet", "ege-unet", "light", "mask2former", "swin-upernet", "unet-all"])
def test_every_layer_that_is_listed_gives_a_map(name: str) -> None:
    network, batch = trained(name, 2), image(1, SIZE, SIZE)
    region = torch.ones(SIZE, SIZE, dtype=torch.bool)
    found = explanation.layers(network, SIZE)
    assert default_layer(network) in found
    for layer in [*list(found)[::25], default_layer(network)]:
        assert activation_map(network, batch, 1, region, layer).shape == found[layer][1:]


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("convnext-unet", "encoder", (48, 2, 2)),
        ("ege-unet", "encoder.5", (64, 2, 2)),
        ("light", "blocks.3", (96, 4, 4)),
        ("mask2former", "encoder", (256, 2, 2)),
        ("swin-upernet", "encoder", (256, 2, 2)),
        ("unet", "encoder.2", (24, 16, 16)),
    ],
)
def test_the_default_layer_is_a_deep_one(name: str, layer: str, shape: tuple[int, int, int]) -> None:
    assert default_layer(trained(name, 2)) == layer
    assert explanation.layers(trained(name, 2), SIZE)[layer] == shape


def test_a_whole_lesion_place_by_place_is_explained_before_the_decoder() -> None:
    assert default_layer(trained("light", 2), "hirescam") == "bottom"
    assert default_layer(trained("light", 2), "hirescam", (3, 4)) == "blocks.3"
    assert default_layer(trained("unet", 2), "hirescam") == default_layer(trained("unet", 2))


def test_tokens_are_the_map_they_are_made_into() -> None:
    """Swin's stages give a row of tokens (B, h * w, C), its normalisations too; the encoder makes maps of them."""
    network, batch = trained("swin-upernet", 2), image(1, SIZE, SIZE)
    region = torch.ones(SIZE, SIZE, dtype=torch.bool)
    norms = [name for name in explanation.layers(network, SIZE) if name.endswith("hidden_states_norms.stage4")]
    tokens, levels = (activation_map(network, batch, 0, region, layer, "hirescam") for layer in (*norms, "encoder"))
    assert levels.any()
    np.testing.assert_allclose(tokens, levels, rtol=1e-5, atol=1e-8)


def test_values_that_are_no_map_are_refused() -> None:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = [
        ((1, 5, 4, 4), (5, 4, 4)),
        ((1, 4, 4, 5), (5, 4, 4)),
        ((1, 16, 5), (5, 4, 4)),
        ((1, 15, 5), None),
        ((1, 1, 5), None),
        ((2, 16, 5), None),
        ((1, 5), None),
        ((1, 3, 4, 5), None),
    ]
    for shape, expected in shapes:
        found = explanation._as_map(torch.zeros(shape), 64)
        assert (None if found is None else tuple(found.shape)) == expected


# --- sanity (Adebayo et al., 2018) -----------------------------------------------------------------


@cache
def randomised() -> nn.Module:
    torch.manual_seed(0)
    network = Bundle.load("lesion").network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


@pytest.mark.parametrize("method", METHODS)
def test_the_map_is_of_the_weights_not_of_the_image(method: Method) -> None:
    network = shipped()._network
    shapes = explanation.layers(network, 192)
    prepared = [shipped()._segmenter.prepare(synthetic.draw(seed, (192, 256)).pixels) for seed in (1, 2, 3)]
    changed = randomised()
    correlations = []
    for one in prepared:
        prediction = shipped()._segmenter.predict(one)
        region = torch.from_numpy(prediction.probabilities[0] > 0.5)
        assert region.any()
        batch = torch.from_numpy(one.image_CHW[None])
        layer = default_layer(network, method)
        maps = [activation_map(each, batch, 0, region, layer, method).ravel() for each in (network, changed)]
        assert len(maps[0]) == np.prod(shapes[layer][1:])
        assert all(np.ptp(each) > 0 for each in maps)
        correlations.append(spearmanr(*maps).statistic)
    assert np.mean(correlations) < 0.5


def test_the_shipped_bundle_looks_at_the_lesion() -> None:
    for seed in (1, 2, 3):
        found = shipped()(synthetic.draw(seed, (192, 256)).pixels)
        mask = found.prediction.mask
        assert found.layer == "blocks.3"
        assert found.heat[mask].mean() > 2 * found.heat[~mask].mean()


# --- targets and geometry --------------------------------------------------------------------------


def two_lesions() -> NDArray[np.uint8]:
    """A lesion at the left and a copy of it at the right."""
    half = synthetic.draw(21, (192, 192), hairs=0, bubbles=0, vignette=False, tone=0.1).pixels
    return np.hstack([half, half])


@pytest.mark.parametrize("x", [96, 288])
def test_the_map_of_a_point_is_near_it(x: int) -> None:
    found = shipped()(two_lesions(), method="hirescam", target=(x, 96))
    assert found.heat.shape == (192, 384)
    left, right = found.heat[:, :192].sum(), found.heat[:, 192:].sum()
    near, far = (left, right) if x == 96 else (right, left)
    assert near > 100 * far
    assert found.target == (x, 96)


def test_images_that_are_explained_at_once_get_their_own_maps() -> None:
    explainer = shipped()
    images = [synthetic.draw(seed, (192, 192)).pixels for seed in range(21, 25)] * 3
    start = threading.Barrier(len(images), timeout=60)

    def work(pixels: NDArray[np.uint8]) -> Explanation:
        start.wait()
        return explainer(pixels)

    with ThreadPoolExecutor(len(images)) as pool:
        together = list(pool.map(work, images))
    alone = [explainer(pixels) for pixels in images[:4]] * 3
    for one, other in zip(together, alone, strict=True):
        assert one.maximum == pytest.approx(other.maximum, rel=1e-4)
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-3)


@pytest.mark.parametrize("size", [(96, 192), (192, 96), (150, 150), (33, 200)])
def test_the_map_lies_over_the_image(size: tuple[int, int], dark_bundle: Bundle, tmp_path: Path) -> None:
    """A point's map by the last layer of a U-Net, at full size, has its maximum at the point, whatever the padding."""
    network = deepcopy(trained("unet"))
    with torch.no_grad():
        network.get_submodule("head").get_parameter("bias").add_(100)  # for the map of a negative logit is empty
    bundle = save(tmp_path / "bundle", dark_bundle, network, "unet")
    height, width = size
    x, y = round(width * 0.7), round(height * 0.3)
    found = explain(bundle, synthetic.draw(5, size).pixels, layer="head", method="hirescam", target=(x, y))
    assert found.heat.shape == size
    assert found.maximum > 50
    row, column = np.unravel_index(found.heat.argmax(), size)
    pixel = max(size) / SIZE
    assert abs(row - y) <= pixel
    assert abs(column - x) <= pixel


def test_a_map_of_padded_features_is_cut_where_the_image_ends() -> None:
    """50 pixels are padded to 64: two places of 32."""
    found = explanation._enlarged(np.array([[1, 0], [0, 0]], np.float32), 50)
    assert found.shape == (50, 50)
    assert found[:16, :16].min() == 1
    assert found[48:, 48:].max() == 0
    assert explanation._enlarged(np.eye(52, dtype=np.float32), 50).tolist() == np.eye(50).tolist()


# --- mistakes ----------------------------------------------------------------------------------------


def skin() -> NDArray[np.uint8]:
    return np.full((60, 80, 3), (230, 190, 170), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "nothing of the class 'lesion' was found in <array>; give a point (x, y) of the image to explain instead",
        ),
        (
            {"target": (80, 5)},
            "the point (80, 5) lies outside <array>, which has 80 x 60 pixels; x counts from the left and y from "
            "above, each from 0",
        ),
        ({"target": (float("nan"), 5)}, "the point (nan, 5) lies outside"),
        ({"target": "mole"}, "the target is 'mole'; expected 'lesion' or a point (x, y)"),
        ({"target": (1, 2, 3)}, "the target is (1, 2, 3); expected 'lesion' or a point (x, y)"),
        ({"class_name": "leison"}, "this bundle has no class 'leison'; did you mean 'lesion'?"),
        ({"target": (1, 1), "method": "gradcm"}, "there is no method 'gradcm'; did you mean 'gradcam'?"),
        ({"target": (1, 1), "layer": "botom"}, "there is no layer 'botom'; the closest are bottom, bottom."),
        ({"target": (1, 1), "layer": "context"}, "the layer 'context' gives no map of the image that leads to the"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        shipped()(skin(), **arguments)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_point_on_bare_skin_is_explained() -> None:
    assert shipped()(skin(), target=(40, 30), method="hirescam").heat.shape == (60, 80)


# --- files and the command line --------------------------------------------------------------------


def test_files(example_file: Path, tmp_path: Path) -> None:
    found = shipped()(example_file, target=(128, 96))
    assert isinstance(found, Explanation)
    assert found.photograph.name == "lesion.png"
    paths = found.save(tmp_path / "new")
    assert [path.name for path in paths] == ["lesion_explanation.png", "lesion_heat.png"]
    overlay, heat = (np.asarray(Image.open(path)) for path in paths)
    assert np.array_equal(overlay, found.overlay())
    assert heat.shape == open_image(example_file).size
    assert np.abs(heat / 255 - found.heat).max() <= 0.5 / 255 + 1e-6


def test_the_overlay_shows_the_heat_in_even_colours_and_a_scale(example_file: Path) -> None:
    """Where there is heat the picture is yellower than where there is none; the bar goes from yellow down to violet."""
    found = shipped()(example_file)
    picture = found.overlay().astype(int)
    bar = picture[12 : 12 + 360, -50:].reshape(360, -1, 3)
    colourful = bar.max(axis=2) - bar.min(axis=2)
    column = bar[:, colourful.mean(axis=0).argmax()]
    assert column[5, 0] > 200 > 120 > column[5, 2]
    assert column[-5, 2] > column[-5, 1]
    luma = column @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luma) < 1).all()
    assert luma[0] - luma[-1] > 150
    shown = picture[12 : 12 + 360, 12 : 12 + 480]
    yellow = np.asarray(Image.fromarray(found.heat).resize((480, 360))) > 0.9
    violet = np.asarray(Image.fromarray(found.heat).resize((480, 360))) < 0.05
    assert yellow.any()
    assert violet.any()
    assert (shown[yellow] @ [1, 1, -2]).mean() > 100 + (shown[violet] @ [1, 1, -2]).mean()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_command(run: Callable[..., Result], example_file: Path, tmp_path: Path) -> None:
    done = run(example_file, "--point", "128,96", "--method", "hirescam", "--output", "maps")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [f"{Path('maps/lesion_explanation.png')}: by the layer blocks.3"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["lesion_explanation.png", "lesion_heat.png"]


def test_several_images_carry_on_after_a_failure(
    run: Callable[..., Result], example_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(example_file, tmp_path / "photos" / name)
    Image.fromarray(skin()).save(tmp_path / "photos/aa.png")
    done = run("photos", "--layer", "blocks.3", "--class", "lesion")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == ["2 images: explanation, heat in dermseg-output"]
    assert done.stderr.splitlines() == [
        f"error: {Path('photos/aa.png')}: nothing of the class 'lesion' was found in aa.png; give a point (x, y) of "
        "the image to explain instead",
        "1 of 3 images failed",
    ]
    assert len(list((tmp_path / "dermseg-output").iterdir())) == 4


def test_one_of_two_images_is_one_image(run: Callable[..., Result], example_file: Path, tmp_path: Path) -> None:
    Image.fromarray(skin()).save(tmp_path / "bare.png")
    done = run(example_file, "bare.png")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == ["1 image: explanation, heat in dermseg-output"]


@pytest.mark.parametrize("kind", ["explanation", "heat"])
def test_no_input_is_replaced(run: Callable[..., Result], example_file: Path, tmp_path: Path, kind: str) -> None:
    for name in ("a.png", f"a_{kind}.png"):
        shutil.copy(example_file, tmp_path / name)
    done = run("a.png", f"a_{kind}.png", "--output", tmp_path)
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: the {kind} of a.png would replace the input {tmp_path / f'a_{kind}.png'}; choose another --output\n"
    )
    assert (tmp_path / f"a_{kind}.png").read_bytes() == example_file.read_bytes()


def test_what_explain_does_not_write_is_no_hindrance(
    run: Callable[..., Result], example_file: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "a_mask.png"):
        shutil.copy(example_file, tmp_path / name)
    done = run("a.png", "a_mask.png", "--output", tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "botom"), "error: there is no layer 'botom'; the closest are bottom"),
        (("--layer", "context"), "error: the layer 'context' gives no map of the image that leads to the logits"),
        (("--class", "mole"), "error: this bundle has no class 'mole'; did you mean 'lesion'?"),
        (("--max-megapixels", "0"), "error: max_megapixels is 0.0; expected a number above 0"),
    ],
)
def test_what_no_image_can_be_explained_by_is_told_once(
    run: Callable[..., Result], example_file: Path, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    shutil.copy(example_file, tmp_path / "other.png")
    done = run(example_file, "other.png", *arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "dermseg-output").exists()


def test_a_point_of_the_stored_orientation(run: Callable[..., Result], example_file: Path, tmp_path: Path) -> None:
    """Turned upright the photograph is higher than wide, so a point at its stored right is outside."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(example_file) as picture:
        width, height = picture.size
        picture.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    assert width > height
    point = ("--point", f"{width - 1},{height // 2}", "--method", "hirescam")
    assert "lies outside turned.jpg" in run("turned.jpg", *point).stderr
    done = run("turned.jpg", *point, "--orientation", "stored")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "dermseg-output" / "turned_heat.png") as heat:
        assert heat.size == (width, height)


def test_an_image_may_be_too_large(run: Callable[..., Result], example_file: Path) -> None:
    done = run(example_file, "--max-megapixels", "0.001")
    assert done.exit_code == 1
    assert "megapixels" in done.stderr


def test_examples_of_the_help_name_no_bundle_that_is_not_shipped(run: Callable[..., Result]) -> None:
    named = set(re.findall(r"--bundle ([\w-]+)(?![\w/-])", run("--help").output))
    assert named <= {bundle.name for bundle in shipped_bundles()}


def test_layers_are_listed(run: Callable[..., Result]) -> None:
    lines = run("--list-layers").output.splitlines()
    assert [line.split(maxsplit=1) for line in lines if line.startswith(("bottom ", "head "))] == [
        ["bottom", "128 x 6 x 6"],
        ["head", "1 x 96 x 96"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--point", "3"], "error: --point is '3'; expected two numbers X,Y such as 310,240"),
        (["a.png", "--point", "3,x"], "error: --point is '3,x'; expected two numbers"),
        (["a.png", "--bundle", "none"], "error: there is no bundle 'none'"),
        (["a.png"], "error: a.png does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Callable[..., Result], arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_an_image_is_needed(run: Callable[..., Result]) -> None:
    assert run().exit_code == 2
