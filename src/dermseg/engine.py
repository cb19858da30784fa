"""Runs a bundle's network: ONNX Runtime by default, torch for CUDA and for what has no ONNX form."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg.bundle import ONNX, Bundle
from dermseg.errors import BundleError, InputError, extra

EngineName = Literal["auto", "onnx", "torch"]
Device = Literal["auto", "cpu", "cuda"]

Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""``image_BCHW`` (normalised) to ``logits_BKHW``; may be called from several threads at once."""


def open_engine(
    bundle: Bundle, engine: EngineName = "auto", device: Device = "auto", threads: int | None = None
) -> Engine:
    """Load a bundle's network.

    Args:
        bundle: What to run.
        engine: ``onnx`` or ``torch``; ``auto`` is ONNX Runtime, but torch for CUDA and for a bundle without
            ``model.onnx``.
        device: ``auto`` is the CPU.
        threads: Threads of one inference on the CPU with ONNX Runtime; all cores if None.

    Raises:
        InputError: If there is no such engine or device.
        MissingExtraError: If torch is needed and not installed.
        BundleError: If the stored network cannot be loaded.
    """
    if engine not in get_args(EngineName):
        raise InputError(f"there is no engine {engine!r}; choose from: {', '.join(get_args(EngineName))}")
    if device not in get_args(Device):
        raise InputError(f"there is no device {device!r}; choose from: {', '.join(get_args(Device))}")
    if engine == "onnx" and device == "cuda":
        raise InputError("the onnx engine runs on the CPU; for CUDA choose the torch engine")
    if engine == "onnx" and not bundle.has_onnx:
        raise InputError(f"{bundle.path} runs on torch only; for it choose the torch engine or 'auto'")
    if engine == "torch" or device == "cuda" or not bundle.has_onnx:
        return _open_torch(bundle, device)
    return _open_onnx(bundle, threads)


def _open_onnx(bundle: Bundle, threads: int | None) -> Engine:
    # Recent releases record their use, in the home folder, unless told not to before they start.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    content = bundle.read(ONNX)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for each way a file can be wrong
        raise BundleError(f"{bundle.path / ONNX} is no network ONNX Runtime can load: {error}") from error
    expected = ["image", 3, bundle.manifest.input_size, bundle.manifest.input_size]
    if (found := [[part.name, *part.shape[1:]] for part in session.get_inputs()]) != [expected]:
        raise BundleError(f"{bundle.path / ONNX} takes {found} where the manifest describes {[expected]}")

    def run(image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, {"image": image_BCHW})[0]
        return logits

    return run


def _open_torch(bundle: Bundle, device: Device) -> Engine:
    with extra("the torch engine", "train"):
        import torch
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu' or 'auto'")
    place = torch.device("cuda" if device == "cuda" else "cpu")
    network = bundle.network().to(place)

    def run(image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(torch.from_numpy(image_BCHW).to(place)).float().cpu().numpy()
        return logits

    return run
