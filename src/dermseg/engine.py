"""Runs a bundle's network: ONNX Runtime by default, torch for CUDA and for what has no ONNX form."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dermseg.bundle import Bundle
from dermseg.errors import BundleError, InputError, extra
from dermseg.manifest import DROPOUT, ONNX

if TYPE_CHECKING:
    from torch import nn

EngineName = Literal["auto", "onnx", "torch"]
Device = Literal["auto", "cpu", "cuda"]

CHUNK = 10  # samples computed at once: more need more memory and are no faster
_torch_random = threading.Lock()  # its random numbers are of the whole process


class Engine(ABC):
    """A bundle's network, loaded; may be used from several threads at once."""

    @abstractmethod
    def __call__(self, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, K, S, S) of normalised images (B, 3, S, S)."""

    @abstractmethod
    def embedding(self, image_BCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Logits, and what the encoder made of each image, in one run.

        Args:
            image_BCHW: Normalised images (B, 3, S, S).

        Returns:
            Logits (B, K, S, S); and (B, D), the mean of the encoder's deepest features over the picture, or None if
            the bundle's network offers none.
        """

    def sample(self, image_CHW: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
        """Monte Carlo dropout: logits of one image under random dropout masks (Gal and Ghahramani, ICML 2016).

        ONNX Runtime and torch draw other masks of the same seed.

        Args:
            image_CHW: A normalised image (3, S, S).
            count: Samples, at least 1.
            seed: From 0 to 2**64 - 1; the same gives the same samples.

        Returns:
            Logits (count, K, S, S).

        Raises:
            InputError: If the network has no dropout, or an argument is out of range.
            MissingExtraError: If the bundle can be sampled on torch only, which is not installed.
        """
        if count < 1:
            raise InputError(f"{count} samples were asked for; expected at least 1")
        if not 0 <= seed < 2**64:
            raise InputError(f"the seed is {seed}; expected a number from 0 to 2**64 - 1")
        return self._sample(image_CHW, count, seed)

    @abstractmethod
    def _sample(self, image_CHW: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]: ...


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
        return _Torch(bundle, device)
    return _Onnx(bundle, threads)


def dropout_masks(count: int, channels: int, rate: float, seed: int) -> NDArray[np.float32]:
    """Random masks of 2-D dropout, (count, channels, 1, 1): 0 in a share ``rate`` of places, else 1 / (1 - rate)."""
    kept = np.random.default_rng(seed).random((count, channels, 1, 1)) >= rate
    return (kept / (1 - rate)).astype(np.float32)


class _Onnx(Engine):
    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._bundle, self._threads = bundle, threads
        self._session = _session(bundle, ONNX, threads)
        expected = ["image", 3, bundle.manifest.input_size, bundle.manifest.input_size]
        if (found := [[part.name, *part.shape[1:]] for part in self._session.get_inputs()]) != [expected]:
            raise BundleError(f"{bundle.path / ONNX} takes {found} where the manifest describes {[expected]}")
        self._outputs = {part.name: part.shape[1:] for part in self._session.get_outputs()}
        self._logits = next(iter(self._outputs))
        shape = [len(bundle.manifest.classes), *expected[2:]]
        if (given := self._outputs[self._logits]) != shape:
            raise BundleError(f"{bundle.path / ONNX} gives {given} where the manifest describes {shape}")

    def __call__(self, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run([self._logits], {"image": image_BCHW})[0]
        return logits

    def embedding(self, image_BCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        if "embedding" not in self._outputs:
            return self(image_BCHW), None
        logits, embedding = self._session.run([self._logits, "embedding"], {"image": image_BCHW})
        return logits, embedding

    def _sample(self, image_CHW: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
        if DROPOUT not in self._bundle.manifest.hashes:
            return self._on_torch.sample(image_CHW, count, seed)
        session, features, channels, rate = self._after_dropout
        masks = dropout_masks(count, channels, rate, seed)
        inputs = dict(zip(features, self._session.run(features, {"image": image_CHW[None]}), strict=True))
        chunks = [masks[start : start + CHUNK] for start in range(0, count, CHUNK)]
        return np.concatenate([session.run(["logits"], {**inputs, "masks": chunk})[0] for chunk in chunks])

    @cached_property
    def _after_dropout(self) -> tuple[Any, list[str], int, float]:
        """The second network, the outputs of the first that it takes, and the channels and share that are dropped."""
        session = _session(self._bundle, DROPOUT, self._threads)
        features = {part.name: part.shape[1:] for part in session.get_inputs()}
        masks, rate = features.pop("masks", None), session.get_modelmeta().custom_metadata_map.get("dropout")
        if masks is None or rate is None or not features.items() <= self._outputs.items():
            raise BundleError(f"{self._bundle.path / DROPOUT} does not continue {ONNX}; make the bundle again")
        return session, list(features), masks[0], float(rate)

    @cached_property
    def _on_torch(self) -> Engine:
        with extra(f"Monte Carlo dropout of a bundle without {DROPOUT}", "train"):
            import torch  # noqa: F401
        return _Torch(self._bundle, "cpu")


def _session(bundle: Bundle, name: str, threads: int | None) -> Any:
    """ONNX Runtime's session of one of the bundle's files."""
    # Recent releases record their use, in the home folder, unless told not to before they start.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    content = bundle.read(name)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for each way a file can be wrong
        raise BundleError(f"{bundle.path / name} is no network ONNX Runtime can load: {error}") from error


class _Torch(Engine):
    def __init__(self, bundle: Bundle, device: Device) -> None:
        with extra("the torch engine", "train"):
            import torch
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device 'cuda' was asked for, but torch finds no CUDA device here; use 'cpu' or 'auto'")
        self._name = bundle.name
        self._place = torch.device("cuda" if device == "cuda" else "cpu")
        self._network = bundle.network().to(self._place)

    def __call__(self, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: NDArray[np.float32] = self._network(self._put(image_BCHW)).float().cpu().numpy()
        return logits

    def embedding(self, image_BCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        import torch

        from dermseg.models.blocks import LateDropout

        if not isinstance(self._network, LateDropout):
            return self(image_BCHW), None
        height, width = image_BCHW.shape[-2:]
        with torch.inference_mode():
            embedding, features = self._network.features(self._put(image_BCHW))
            logits = self._network.decide(features, (height, width))
        return logits.float().cpu().numpy(), embedding.float().cpu().numpy()

    def _sample(self, image_CHW: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
        import torch

        network, image = self._dropping, self._put(image_CHW)
        on_cuda = self._place.type == "cuda"
        devices = [torch.cuda.current_device()] if on_cuda else []
        with _torch_random, torch.random.fork_rng(devices), torch.inference_mode():
            (torch.cuda if on_cuda else torch.default_generator).manual_seed(seed)
            sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
            chunks = [network(image.expand(size, -1, -1, -1)).float().cpu().numpy() for size in sizes]
        return np.concatenate(chunks)

    @cached_property
    def _dropping(self) -> nn.Module:
        """A copy whose dropout, but nothing else, is as in training; the other is in use at the same time."""
        from torch.nn.modules.dropout import _DropoutNd

        network = deepcopy(self._network)
        dropouts = [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
        if not dropouts:
            raise InputError(
                f"the bundle {self._name} has no dropout to sample from; use test-time augmentation instead"
            )
        for module in dropouts:
            module.train()
        return network

    def _put(self, images: NDArray[np.float32]) -> Any:
        import torch

        return torch.from_numpy(images).to(self._place)
