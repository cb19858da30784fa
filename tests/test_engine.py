"""Engines: the same answer from each, and one sentence where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dermseg.bundle import Bundle, write
from dermseg.engine import Device, EngineName, open_engine
from dermseg.errors import BundleError, InputError
from dermseg.export import export
from dermseg.manifest import ONNX, WEIGHTS


def some_images(size: int, count: int = 2) -> NDArray[np.float32]:
    """Normalised noise, smooth enough to mean something to a network."""
    coarse = np.random.default_rng(0).normal(0, 0.6, (count, 3, size // 8, size // 8))
    return np.kron(coarse, np.ones((8, 8))).astype(np.float32)


def test_torch_answers_as_onnx_runtime() -> None:
    bundle = Bundle.load("lesion")
    images = some_images(bundle.manifest.input_size)
    on_onnx, on_torch = (open_engine(bundle, engine)(images) for engine in ("onnx", "torch"))
    assert on_onnx.shape == (2, 1, *images.shape[2:])
    assert on_onnx.dtype == on_torch.dtype == np.float32
    np.testing.assert_allclose(on_onnx, on_torch, rtol=0, atol=1e-3)
    assert np.ptp(on_onnx) > 0.1


def test_auto_is_onnx_runtime_on_the_cpu(dark_bundle: Bundle) -> None:
    # It has no torch network, so only ONNX Runtime can answer.
    images = some_images(64)
    np.testing.assert_allclose(open_engine(dark_bundle)(images), -8 * images.mean(1, keepdims=True), atol=1e-5)


def test_auto_is_torch_for_a_bundle_without_onnx(tmp_path: Path) -> None:
    shipped = Bundle.load("lesion")
    images = some_images(shipped.manifest.input_size)
    bundle = export(tmp_path / "torch", shipped.network(), shipped.manifest, images, torch_only=True)
    np.testing.assert_array_equal(open_engine(bundle)(images), open_engine(shipped, "torch")(images))
    with pytest.raises(InputError) as caught:
        open_engine(bundle, "onnx")
    assert str(caught.value) == f"{bundle.path} runs on torch only; for it choose the torch engine or 'auto'"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(dark_bundle: Bundle, threads: int) -> None:
    images = some_images(64)
    np.testing.assert_array_equal(open_engine(dark_bundle, threads=threads)(images), open_engine(dark_bundle)(images))


def test_the_batch_is_free(dark_bundle: Bundle) -> None:
    images, engine = some_images(64, 5), open_engine(dark_bundle)
    np.testing.assert_allclose(engine(images), np.concatenate([engine(image[None]) for image in images]), atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "device", "message"),
    [
        ("tensorflow", "auto", "there is no engine 'tensorflow'; choose from: auto, onnx, torch"),
        ("auto", "tpu", "there is no device 'tpu'; choose from: auto, cpu, cuda"),
        ("onnx", "cuda", "the onnx engine runs on the CPU; for CUDA choose the torch engine"),
    ],
)
def test_an_unknown_choice_is_named_with_the_known_ones(
    dark_bundle: Bundle, engine: str, device: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_engine(dark_bundle, cast(EngineName, engine), cast(Device, device))
    assert str(caught.value) == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused(dark_bundle: Bundle) -> None:
    with pytest.raises(InputError) as caught:
        open_engine(dark_bundle, device="cuda")
    expected = "device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu' or 'auto'"
    assert str(caught.value) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_cuda_answers_as_the_cpu() -> None:
    bundle = Bundle.load("lesion")
    images = some_images(bundle.manifest.input_size)
    np.testing.assert_allclose(open_engine(bundle, device="cuda")(images), open_engine(bundle)(images), atol=2e-2)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, None], ids=["empty", "rubbish", "cut"])
def test_a_broken_network_is_a_bundle_error_of_one_line(
    dark_bundle: Bundle, content: bytes | None, tmp_path: Path
) -> None:
    files = {ONNX: dark_bundle.read(ONNX)[:-40] if content is None else content, WEIGHTS: b""}
    broken = write(tmp_path / "broken", dark_bundle.manifest, files)
    with pytest.raises(BundleError, match=r"model\.onnx is no network ONNX Runtime can load: ") as caught:
        open_engine(broken)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_input_size_is_refused(dark_bundle: Bundle) -> None:
    other = replace(dark_bundle, manifest=dark_bundle.manifest.model_copy(update={"input_size": 96}))
    with pytest.raises(BundleError, match=r"64.* where the manifest describes .*96"):
        open_engine(other)
