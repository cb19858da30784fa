"""Pretrained encoders: that weights are truly loaded, and what is said of those that cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextModel,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    MobileNetV2Model,
    PreTrainedModel,
    SwinBackbone,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
)
from transformers.utils import logging as transformers_logging

from dermseg.errors import RecipeError
from dermseg.models import MODELS, build

SWIN: dict[str, Any] = {"depths": [1, 1, 2, 1], "embed_dim": 32, "num_heads": [1, 2, 4, 8]}
SWIN_BACKBONE: dict[str, Any] = {**SWIN, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
CONVNEXT: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}
MASK2FORMER: dict[str, Any] = {
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 256,
    "dim_feedforward": 512,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_queries": 11,
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "convnext-unet": {"depths": [1, 1, 1, 1], "widths": [16, 24, 32, 48], "decoder_widths": [16, 16, 16]},
    "light": {},
    "mask2former": {
        "depths": [1, 1, 2, 1],
        "embed_dim": 32,
        "hidden": 64,
        "encoder_layers": 1,
        "decoder_layers": 2,
    },
    "swin-upernet": {"depths": [1, 1, 2, 1], "embed_dim": 32, "width": 16},
}
HUB_IDS = {
    "convnext-unet": "facebook/convnext-tiny-224",
    "light": "google/mobilenet_v2_1.0_224",
    "mask2former": "facebook/mask2former-swin-tiny-ade-semantic",
    "swin-upernet": "microsoft/swin-tiny-patch4-window7-224",
}


def mask2former() -> PreTrainedModel:
    backbone = SwinConfig(**SWIN_BACKBONE)
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**MASK2FORMER, backbone_config=backbone))


SAVED: dict[str, tuple[str, Callable[[], PreTrainedModel]]] = {
    "convnext": ("convnext-unet", lambda: ConvNextModel(ConvNextConfig(**CONVNEXT))),
    "convnext with its classifier": (
        "convnext-unet",
        lambda: ConvNextForImageClassification(ConvNextConfig(**CONVNEXT)),
    ),
    "mask2former": ("mask2former", mask2former),
    "mobilenet": ("light", lambda: MobileNetV2Model(MobileNetV2Config())),
    "mobilenet with its classifier": ("light", lambda: MobileNetV2ForImageClassification(MobileNetV2Config())),
    "swin": ("swin-upernet", lambda: SwinModel(SwinConfig(**SWIN))),
    "swin as a backbone": ("swin-upernet", lambda: SwinBackbone(SwinConfig(**SWIN_BACKBONE))),
    "swin with its classifier": ("swin-upernet", lambda: SwinForImageClassification(SwinConfig(**SWIN))),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder that ``save_pretrained`` wrote of a key of ``SAVED``, with unmistakable weights."""
    folders: dict[str, Path] = {}

    def folder(key: str) -> Path:
        if key not in folders:
            torch.manual_seed(1)
            network = SAVED[key][1]()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.normal_(std=0.1)
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            folders[key] = tmp_path_factory.mktemp(key.replace(" ", "-")) / "weights"
            network.save_pretrained(folders[key])
        return folders[key]

    return folder


@pytest.fixture
def swin(weights: Callable[[str], Path], tmp_path: Path) -> Path:
    """A folder of Swin weights that a test may spoil."""
    return Path(shutil.copytree(weights("swin"), tmp_path / "swin"))


def make(model: str, pretrained: object, **more: Any) -> nn.Module:
    return build(model, classes=1, pretrained=pretrained, **{**ARGUMENTS[model], **more})


def refusal(model: str, pretrained: object, **more: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        make(model, pretrained, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).digest()


@pytest.mark.parametrize("key", [key for key, (model, _) in SAVED.items() if model != "light"])
def test_every_weight_of_the_encoder_is_the_files(key: str, weights: Callable[[str], Path]) -> None:
    model, folder = SAVED[key][0], weights(key)
    network = make(model, folder if key == "swin" else str(folder))
    stored = {content(tensor) for tensor in load_file(folder / "model.safetensors").values()}
    loaded = {name for name, tensor in network.state_dict().items() if content(tensor) in stored}
    parts = ("encoder.", "pixel_decoder.", "transformer.") if model == "mask2former" else ("encoder.",)
    expected = {name for name in network.state_dict() if name.startswith(parts)}
    # These no classifier has; the queries are ours, four for a class.
    fresh = {name for name in expected if "hidden_states_norms" in name or "queries_" in name}
    if key == "swin as a backbone" or model == "mask2former":
        fresh = {name for name in fresh if "queries_" in name}
    assert expected - fresh == loaded & expected
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.training


@pytest.mark.parametrize("key", ["mobilenet", "mobilenet with its classifier"])
def test_light_begins_with_the_files_weights(key: str, weights: Callable[[str], Path]) -> None:
    """Its normalisation is folded, which changes the numbers; the features must be the same."""
    folder = weights(key)
    reference: nn.Module = MobileNetV2Model.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    reference.eval()
    encoder = make("light", folder).eval().get_submodule("encoder")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(image, output_hidden_states=True).hidden_states[15]
        torch.testing.assert_close(encoder(image)[-1], expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize("pretrained", [None, False])
def test_without_weights_the_network_is_random(pretrained: object) -> None:
    torch.manual_seed(0)
    network = make("swin-upernet", pretrained)
    torch.manual_seed(0)
    other = build("swin-upernet", classes=1, **ARGUMENTS["swin-upernet"])
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("key", ["mask2former", "swin with its classifier"])
def test_initialisation_spares_what_is_pretrained(key: str, weights: Callable[[str], Path]) -> None:
    model, folder = SAVED[key][0], weights(key)  # made before the seeds, for it draws
    torch.manual_seed(0)
    plain = make(model, folder).state_dict()
    torch.manual_seed(0)
    changed = {
        name
        for name, tensor in make(model, folder, initialisation="xavier").state_dict().items()
        if not torch.equal(tensor, plain[name])
    }
    assert not any(name.startswith("encoder.") for name in changed)
    assert bool(changed) is (model == "swin-upernet")  # all convolutions of mask2former are pretrained


def test_loading_is_silent(weights: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    folder = weights("swin with its classifier")
    transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    level = transformers_logging.get_verbosity()
    capfd.readouterr()
    make("swin-upernet", folder)
    assert capfd.readouterr() == ("", "")
    # And leaves the library as it was.
    assert transformers_logging.get_verbosity() == level
    assert transformers_logging.is_progress_bar_enabled()


# --- weights that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("model", sorted(HUB_IDS))
@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_weights_is_refused(tmp_path: Path, model: str, missing: str) -> None:
    for file in {"config.json", "model.safetensors"} - {missing}:
        (tmp_path / file).write_text("{}")
    kind = {"convnext-unet": "convnext", "light": "mobilenet_v2", "mask2former": "mask2former", "swin-upernet": "swin"}
    assert refusal(model, str(tmp_path)) == (
        f"{tmp_path} is no folder of pretrained weights: expected config.json and model.safetensors "
        f"as transformers' save_pretrained writes them for {kind[model]}"
    )


@pytest.mark.parametrize("model", sorted(set(HUB_IDS) - {"swin-upernet"}))
def test_weights_of_another_architecture_are_refused(model: str, swin: Path) -> None:
    assert refusal(model, swin).startswith(
        f"{swin / 'config.json'} describes the model type 'swin'; expected weights of '"
    )


@pytest.mark.parametrize(
    ("key", "arguments", "reason"),
    [
        ("convnext", {"depths": [1, 1, 2, 1]}, "depths is [1, 1, 1, 1], expected [1, 1, 2, 1]"),
        ("convnext", {"widths": [16, 24, 32, 40]}, " is (48,), expected (40,) (and "),
        ("mask2former", {"decoder_layers": 1}, "decoder_layers is 3, expected 2"),
        ("mask2former", {"depths": [1, 1, 1, 1]}, "backbone_config.depths is [1, 1, 2, 1], expected [1, 1, 1, 1]"),
        ("mask2former", {"hidden": 128}, ".weight is (64, 32, 1, 1), expected (128, 32, 1, 1) (and "),
        ("swin", {"depths": [2, 2, 6, 2]}, "depths is [1, 1, 2, 1], expected [2, 2, 6, 2]"),
        ("swin", {"embed_dim": 64}, "num_heads is [1, 2, 4, 8], expected [2, 4, 8, 16]"),
        ("swin", {"window": 4}, "window_size is 7, expected 4"),
    ],
)
def test_weights_of_another_size_are_refused(
    key: str, arguments: dict[str, Any], reason: str, weights: Callable[[str], Path]
) -> None:
    message = refusal(SAVED[key][0], weights(key), **arguments)
    kind = {"convnext": "convnext", "mask2former": "mask2former", "swin": "swin"}[key]
    assert message.startswith(f"the weights in {weights(key)} are not those of this {kind} network: ")
    assert reason in message
    assert message.endswith("; give others or change model.arguments")


def test_a_missing_weight_of_the_encoder_is_refused(swin: Path) -> None:
    tensors = load_file(swin / "model.safetensors")
    name = next(name for name in tensors if name.endswith("blocks.0.mlp.fc1.weight") or "intermediate" in name)
    del tensors[name]
    save_file(tensors, swin / "model.safetensors")
    message = refusal("swin-upernet", swin)
    assert message.startswith(f"the weights in {swin} are not those of this swin network: swin.encoder.layers.0.")
    assert " is missing; give others" in message


def test_padding_that_a_bundle_would_not_keep_is_refused(tmp_path: Path) -> None:
    MobileNetV2Model(MobileNetV2Config(tf_padding=False)).save_pretrained(tmp_path)
    assert "tf_padding is False, expected True" in refusal("light", tmp_path)


@pytest.mark.parametrize("bytes_kept", [0, 4, 1000, -1])
def test_broken_weights_are_refused(swin: Path, bytes_kept: int) -> None:
    file = swin / "model.safetensors"
    file.write_bytes(file.read_bytes()[:bytes_kept])
    message = refusal("swin-upernet", swin)
    assert message.startswith(f"the weights in {swin} cannot be read: ")
    assert message.endswith("; get config.json and model.safetensors again")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON: "),
        ("[]", "describes the model type None; expected weights of 'swin'"),
        ("{}", "describes the model type None; expected weights of 'swin'"),
        ('{"model_type": "swin", "depths": "many"}', "is no configuration of transformers: "),
    ],
)
def test_a_broken_configuration_is_refused(swin: Path, text: str, reason: str) -> None:
    (swin / "config.json").write_text(text)
    assert refusal("swin-upernet", swin).startswith(f"{swin / 'config.json'} {reason}")


# --- the hub -------------------------------------------------------------------------------------


def on_a_hub(home: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where the hub's address and cache are others; the library reads them once, when it is imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "HF_HOME": str(home), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound but not listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        code = (
            "import time, transformers\n"
            "from dermseg.models import build\n"
            "from dermseg.errors import RecipeError\n"
            f"for model in {sorted(HUB_IDS)}:\n"
            "    begin = time.monotonic()\n"
            "    try:\n"
            "        build(model, classes=1, pretrained=True)\n"
            "    except RecipeError as error:\n"
            "        print(error)\n"
            "    print(time.monotonic() - begin)\n"
        )
        result = on_a_hub(tmp_path, code, HF_ENDPOINT=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    for model, message, seconds in zip(sorted(HUB_IDS), lines[::2], lines[1::2], strict=True):
        assert message == (
            f"the weights of {HUB_IDS[model]} are not on this computer and the model hub could not be reached; "
            f"download config.json and model.safetensors from https://huggingface.co/{HUB_IDS[model]} into a folder "
            "and set model.arguments.pretrained=FOLDER, or leave it out to begin from random weights"
        )
        if model != min(HUB_IDS):  # which also imports
            assert float(seconds) < 15  # the library itself would try for 24 seconds


def test_weights_in_the_hubs_cache_need_no_hub(tmp_path: Path, weights: Callable[[str], Path]) -> None:
    cache = tmp_path / "hub" / f"models--{HUB_IDS['swin-upernet'].replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(weights("swin with its classifier"), cache / "snapshots" / ("0" * 40))
    code = (
        "from dermseg.models import build\n"
        f"network = build('swin-upernet', classes=1, pretrained=True, **{ARGUMENTS['swin-upernet']})\n"
        "print(network.encoder.backbone.swin.embeddings.norm.weight.tolist())"
    )
    result = on_a_hub(tmp_path, code, HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    stored = load_file(weights("swin with its classifier") / "model.safetensors")
    assert json.loads(result.stdout) == pytest.approx(stored["swin.embeddings.norm.weight"].tolist())


def test_the_models_that_take_weights_are_tested() -> None:
    assert set(HUB_IDS) == set(ARGUMENTS) == set(MODELS) - {"ege-unet", "unet"}
