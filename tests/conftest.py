"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from dermseg import bundle
from dermseg.bundle import Bundle
from dermseg.errors import InputError
from dermseg.imaging import encode_image
from dermseg.manifest import ONNX, WEIGHTS, Architecture, Manifest, Normalisation, TrainingData
from dermseg.report.pdf import find_browser
from dermseg.synthetic import SyntheticImage, draw

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def example() -> SyntheticImage:
    """A small drawn photograph whose lesion is by far the darkest part."""
    return draw(21, (192, 256), hairs=0, bubbles=0, vignette=False, tone=0.1)


@pytest.fixture(scope="session")
def example_file(example: SyntheticImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("example") / "lesion.png"
    path.write_bytes(encode_image(example.pixels))
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs `dermseg ARGUMENTS` as a user does, in `tmp_path`."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dermseg", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real data sets; a test that needs them is skipped where there are none."""
    if not (folder := os.environ.get("DERMSEG_DATA")):
        pytest.skip("DERMSEG_DATA is not set: the folder of the data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium or Chrome; a test that needs it is skipped without, or fails if it is known to be there."""
    try:
        return find_browser()
    except InputError as error:
        if os.environ.get("DERMSEG_REQUIRE_BROWSER"):
            pytest.fail(f"DERMSEG_REQUIRE_BROWSER is set, but {error}")
        pytest.skip("there is no Chromium or Chrome on the PATH")


@pytest.fixture(scope="session")
def dark_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose answer is known: the lesion is what is darker than mid-grey.

    It pads with black, so that padding which leaks into a mask is seen there.
    """
    size = 64
    weight = onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), -8 / 3, np.float32), "weight")
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, size, size))
        for name, channels in (("image", 3), ("logits", 1))
    )
    graph = helper.make_graph([helper.make_node("Conv", ["image", "weight"], ["logits"])], "dark", [image], [logits])
    graph.initializer.append(weight)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest(
        name="dark",
        description="Finds what is dark.",
        architecture=Architecture(name="none", arguments={}, parameters=3),
        classes=("lesion",),
        input_size=size,
        normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), padding=0),
        thresholds={"lesion": 0.5},
        training_data=TrainingData(
            sources={"drawn": 1},
            licences={"drawn": "CC0-1.0"},
            split="train",
            initialisation="hand-made weights",
            content_hash="0" * 64,
        ),
        licence="Apache-2.0",
        versions={"dermseg": "0.1.0"},
    )
    files = {ONNX: model.SerializeToString(), WEIGHTS: b"unused"}
    return bundle.write(tmp_path_factory.mktemp("bundles") / "dark", manifest, files)
