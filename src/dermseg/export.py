"""Makes a bundle of a trained network, and measures that its stored forms agree."""

from __future__ import annotations

import logging
import tempfile
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dermseg.bundle import Bundle, write
from dermseg.engine import dropout_masks, open_engine
from dermseg.errors import BundleError
from dermseg.manifest import DROPOUT, ONNX, WEIGHTS, Manifest
from dermseg.models.blocks import LateDropout

OPSET = 18
PARITY_SAMPLES, PARITY_SEED = 2, 0  # of Monte Carlo dropout
# A logit may differ by so much between engines, and a mask where |logit| is smaller. Most networks differ by less than
# a thousandth; normalisation over a flat part of a picture enlarges what rounding leaves.
UNDECIDED = 1e-2


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from torch on the stored weights.

    Attributes:
        logit_difference: The largest absolute difference of a logit.
        mask_differences: Pixels whose sides of probability 0.5 differ where |logit| > 0.01.
    """

    logit_difference: float
    mask_differences: int

    @property
    def holds(self) -> bool:
        """Whether both are within the bundle's promise."""
        return self.logit_difference <= UNDECIDED and self.mask_differences == 0


def export(
    folder: Path, network: nn.Module, manifest: Manifest, images_BCHW: NDArray[np.float32], *, torch_only: bool = False
) -> Bundle:
    """Write a bundle of ``network`` with float16 weights, after checking that ONNX Runtime agrees with torch.

    Args:
        folder: The bundle's folder; one that stands there is replaced.
        network: Is not changed; a copy is rounded.
        manifest: Without hashes.
        images_BCHW: Normalised images at the bundle's input size to check on; real ones, if there are any.
        torch_only: Leaves ``model.onnx`` out, for a network that has no ONNX form.

    Raises:
        BundleError: If ONNX Runtime and torch disagree, or the stored weights give logits that are not finite.
    """
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    weights = safetensors.torch.save({name: value.contiguous() for name, value in state.items()})
    files = {WEIGHTS: weights} | ({} if torch_only else to_onnx(network, state, manifest.input_size))
    with tempfile.TemporaryDirectory() as scratch:
        found = parity(write(Path(scratch) / "bundle", manifest, files), images_BCHW)
    if not found.holds:
        reason = (
            "the stored weights give logits that are not finite"
            if torch_only
            else f"ONNX Runtime and torch disagree on this network: logits by {found.logit_difference:.2g} "
            f"(at most {UNDECIDED:g}), masks in {found.mask_differences} pixels"
        )
        raise BundleError(f"{reason}; no bundle was made")
    return write(folder, manifest, files)


def to_onnx(network: nn.Module, state: dict[str, Tensor], input_size: int) -> dict[str, bytes]:
    """Trace ``network`` with the weights of ``state``.

    Returns:
        ``model.onnx``: input ``image`` (B, 3, S, S), first output ``logits`` (B, K, S, S). Of a ``LateDropout`` it has
        the output ``embedding`` (B, D) too, and, unless nothing is dropped, ``features0`` and so on, what the rest of
        the network takes. Then there also is ``model_dropout.onnx``: inputs ``masks`` (N, C, 1, 1), 0 or 1 / (1 - p),
        and ``features0`` and so on of one image; output ``logits`` (N, K, S, S) under each mask; p is its metadata
        ``dropout``.
    """
    network = deepcopy(network).cpu().eval()
    network.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    image = torch.zeros(2, 3, input_size, input_size)
    if not isinstance(network, LateDropout):
        return {ONNX: _trace(network, {"image": image}, ["logits"]).SerializeToString()}
    with torch.no_grad():
        features = {f"features{place}": tensor[:1] for place, tensor in enumerate(network.features(image)[1])}
    rate = network.dropout.p
    outputs = ["logits", "embedding", *(features if rate else ())]
    files = {ONNX: _trace(_Whole(network, len(outputs)), {"image": image}, outputs).SerializeToString()}
    if rate:
        masks = torch.ones(2, features["features0"].shape[1], 1, 1)
        part = _trace(_AfterDropout(network, (input_size, input_size)), {"masks": masks, **features}, ["logits"])
        onnx.helper.set_model_props(part, {"dropout": str(rate)})
        files[DROPOUT] = part.SerializeToString()
    return files


class _Whole(nn.Module):
    """All outputs of ``model.onnx``, or the first ``outputs`` of them."""

    def __init__(self, network: LateDropout, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        embedding, features = self.network.features(image_BCHW)
        height, width = image_BCHW.shape[-2:]
        return (self.network.decide(features, (height, width)), embedding, *features)[: self.outputs]


class _AfterDropout(nn.Module):
    """``model_dropout.onnx``."""

    def __init__(self, network: LateDropout, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, masks_NC11: Tensor, features: list[Tensor]) -> Tensor:
        return self.network.sampled(tuple(features), masks_NC11, self.size)


def _trace(network: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """The graph of ``network``, whose first input has a free batch; it takes the others, if any, as a list."""
    batch, *others = inputs.values()
    free = {0: torch.export.Dim("batch")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes to its own developers
        program = torch.onnx.export(
            network,
            (batch, others) if others else (batch,),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=(free, [None] * len(others)) if others else (free,),
            dynamo=True,
            optimize=False,  # it would fold normalisation, and the weights would no longer be those that were rounded
            verbose=False,
        )
    assert program is not None
    onnxscript.optimizer.fold_constants(program.model)
    onnxscript.optimizer.remove_unused_nodes(program.model)
    return _store_in_half(program.model_proto)


def parity(bundle: Bundle, images_BCHW: NDArray[np.float32]) -> Parity:
    """Compare the bundle's networks on normalised images; without ``model.onnx``, torch with itself.

    Where there is ``model_dropout.onnx``, also under the same random dropout masks.
    """
    on_cpu, on_torch = open_engine(bundle, "auto", "cpu"), open_engine(bundle, "torch", "cpu")
    compared = [(on_cpu(image_CHW[None]), on_torch(image_CHW[None])) for image_CHW in images_BCHW]
    if DROPOUT in bundle.manifest.hashes:
        network = bundle.network()
        network.get_submodule("dropout").register_forward_hook(_drop)
        with torch.no_grad():
            compared += [
                (on_cpu.sample(image_CHW, PARITY_SAMPLES, PARITY_SEED), network(batch).numpy())
                for image_CHW in images_BCHW
                for batch in [torch.from_numpy(image_CHW).expand(PARITY_SAMPLES, -1, -1, -1)]
            ]
    difference, masks = 0.0, 0
    for a, b in compared:
        # NaN must not pass: it is neither larger nor smaller than anything.
        difference = max(difference, float(np.nan_to_num(np.abs(a - b), nan=np.inf).max()))
        masks += int((((a > 0) != (b > 0)) & (np.abs(b) > UNDECIDED)).sum())
    return Parity(difference, masks)


def _drop(module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """A hook on dropout, off in evaluation, that drops by the masks ONNX Runtime is given."""
    assert isinstance(module, nn.Dropout2d)
    return output * torch.from_numpy(dropout_masks(len(output), output.shape[1], module.p, PARITY_SEED))


def _store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store float32 tensors as float16, each followed by a cast that ONNX Runtime folds away when it loads them."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        # Exact for weights that were rounded before; a constant that would change stays as it is.
        if values.dtype != np.float32 or values.size < 16:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output):
        del part.metadata_props[:]  # the exporter's stack traces
    onnx.checker.check_model(model)
    return model
