"""Monte Carlo dropout and embeddings: ONNX Runtime against torch, whose own dropout is the reference."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dermseg import synthetic
from dermseg.bundle import Bundle, write
from dermseg.engine import CHUNK, Engine, dropout_masks, open_engine
from dermseg.errors import BundleError, DermsegError, InputError, MissingExtraError
from dermseg.export import export, parity
from dermseg.geometry import Geometry
from dermseg.manifest import DROPOUT, ONNX, WEIGHTS, Architecture
from dermseg.models import build
from dermseg.models.blocks import LateDropout

SHIPPED = Bundle.load("lesion")
RATE = 0.1


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    """A drawn lesion as the shipped network takes it, (3, S, S)."""
    pixels = synthetic.draw(3, (96, 128)).pixels
    canvas = Geometry.fit(96, 128, SHIPPED.manifest.input_size).apply(pixels, 128)
    return np.ascontiguousarray((canvas / 255 * 2 - 1).transpose(2, 0, 1), dtype=np.float32)


@pytest.fixture(scope="module")
def on_onnx() -> Engine:
    return open_engine(SHIPPED, "onnx", threads=1)


@pytest.fixture(scope="module")
def on_torch() -> Engine:
    return open_engine(SHIPPED, "torch")


@pytest.fixture
def without_part(tmp_path: Path) -> Bundle:
    """The shipped bundle as it was before it could be sampled on ONNX Runtime."""
    return write(tmp_path / "old", SHIPPED.manifest, {name: SHIPPED.read(name) for name in (ONNX, WEIGHTS)})


def refusal(error: type[DermsegError], engine: Engine, count: int = 1, seed: int = 0) -> str:
    size = SHIPPED.manifest.input_size
    with pytest.raises(error) as caught:
        engine.sample(np.zeros((3, size, size), np.float32), count, seed)
    assert type(caught.value) is error
    return str(caught.value)


# The same samples as torch's


def test_a_sample_is_the_network_under_its_mask(image: NDArray[np.float32], on_onnx: Engine) -> None:
    # The whole network, run again for each mask, by which its dropout multiplies.
    masks = dropout_masks(3, 48, RATE, seed=5)
    assert len({mask.tobytes() for mask in masks}) == 3
    network = SHIPPED.network()
    network.get_submodule("dropout").register_forward_hook(lambda _m, _i, output: output * torch.from_numpy(masks))
    with torch.no_grad():
        expected = network(torch.from_numpy(np.stack([image] * 3))).numpy()
    np.testing.assert_allclose(on_onnx.sample(image, 3, seed=5), expected, rtol=0, atol=1e-3)


def test_masks_are_those_of_dropout() -> None:
    masks = dropout_masks(500, 48, RATE, seed=0)
    assert masks.shape == (500, 48, 1, 1)
    assert masks.dtype == np.float32
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / 0.9)}
    # 24 000 draws: three standard errors are 0.6 %.
    assert (masks == 0).mean() == pytest.approx(RATE, abs=0.006)


def test_mean_and_spread_are_those_of_torch(image: NDArray[np.float32], on_onnx: Engine, on_torch: Engine) -> None:
    count = 40
    a, b = on_onnx.sample(image, count, 0), on_torch.sample(image, count, 1)
    assert a.shape == b.shape == (count, 1, *image.shape[1:])
    assert a.dtype == b.dtype == np.float32
    spread = b.std(axis=0)
    assert np.median(spread) > 0.05
    # The difference of two means is within 5 of its standard errors at every pixel; that of the spreads, whose
    # standard error is about 1 / sqrt(2 n) of them, on the whole.
    assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= 5 * spread * np.sqrt(2 / count)).all()
    assert np.median(a.std(axis=0) / spread) == pytest.approx(1, abs=3 / np.sqrt(count))


# What a seed promises


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_the_seed_decides(name: str, image: NDArray[np.float32], request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(f"on_{name}")
    plain = engine(image[None])
    first = engine.sample(image, 3, 7)
    np.testing.assert_array_equal(engine.sample(image, 3, 7), first)
    assert np.abs(engine.sample(image, 3, 8) - first).max() > 0.01
    assert np.abs(first[0] - first[1]).max() > 0.01
    np.testing.assert_array_equal(engine(image[None]), plain)
    engine.sample(image, 1, 2**64 - 1)


def test_more_samples_begin_with_the_same_ones(image: NDArray[np.float32], on_onnx: Engine) -> None:
    many = on_onnx.sample(image, CHUNK + 2, 7)
    assert many.shape[0] == CHUNK + 2
    np.testing.assert_allclose(many[:3], on_onnx.sample(image, 3, 7), atol=1e-5)
    assert len({sample.tobytes() for sample in many}) == CHUNK + 2


def test_random_numbers_of_others_stay(image: NDArray[np.float32], on_onnx: Engine, on_torch: Engine) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  - the global state is what is tested
    before, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    for engine in (on_onnx, on_torch):
        engine.sample(image, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], legacy)  # noqa: NPY002


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_threads_do_not_disturb_each_other(name: str, image: NDArray[np.float32]) -> None:
    engine = open_engine(SHIPPED, "onnx" if name == "onnx" else "torch", threads=1)
    plain = open_engine(SHIPPED, "onnx" if name == "onnx" else "torch", threads=1)(image[None])

    def work(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return engine.sample(image, 2, seed), engine(image[None])

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(6)))
    for seed, (samples, between) in enumerate(results):
        np.testing.assert_allclose(samples, engine.sample(image, 2, seed), atol=1e-5)
        np.testing.assert_allclose(between, plain, atol=1e-5)


# Embeddings


def test_the_embedding_is_the_mean_of_the_deepest_features(
    image: NDArray[np.float32], on_onnx: Engine, on_torch: Engine
) -> None:
    images = np.stack([image, image[:, ::-1], -image])
    encoder = SHIPPED.network().get_submodule("encoder")
    with torch.no_grad():
        deepest = encoder(torch.from_numpy(images))[-1].numpy()
    for engine in (on_onnx, on_torch):
        logits, embedding = engine.embedding(images)
        assert embedding is not None
        assert embedding.shape == (3, 320)
        assert embedding.dtype == np.float32
        np.testing.assert_allclose(embedding, deepest.mean(axis=(2, 3)), atol=1e-3)
        np.testing.assert_allclose(logits, engine(images), atol=1e-5)


def test_a_bundle_of_one_output_has_no_embedding(dark_bundle: Bundle) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    engine = open_engine(dark_bundle)
    logits, embedding = engine.embedding(images)
    np.testing.assert_array_equal(logits, engine(images))
    assert embedding is None


# Where there is nothing to sample


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [
        (0, 0, "0 samples were asked for; expected at least 1"),
        (1, -1, "the seed is -1; expected a number from 0 to 2**64 - 1"),
        (1, 2**64, f"the seed is {2**64}; expected a number from 0 to 2**64 - 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(on_onnx: Engine, count: int, seed: int, message: str) -> None:
    assert refusal(InputError, on_onnx, count, seed) == message


@pytest.mark.parametrize("name", ["light", "unet"])
def test_a_network_without_dropout_is_refused(name: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"dropout": 0.0} | ({"widths": [2, 4]} if name == "unet" else {})
    architecture = Architecture(name=name, arguments=arguments, parameters=1)
    manifest = SHIPPED.manifest.model_copy(update={"architecture": architecture})
    size = manifest.input_size
    network = build(name, classes=1, **arguments).eval()
    images = np.zeros((1, 3, size, size), np.float32)
    bundle = export(tmp_path / "plain", network, manifest, images, torch_only=True)
    expected = f"the bundle {bundle.name} has no dropout to sample from; use test-time augmentation instead"
    engine = open_engine(bundle)
    assert refusal(InputError, engine) == expected
    assert (engine.embedding(images)[1] is None) is (name == "unet")


def test_an_older_bundle_is_sampled_by_torch(
    without_part: Bundle, image: NDArray[np.float32], on_torch: Engine
) -> None:
    samples = open_engine(without_part, "onnx").sample(image, 2, 4)
    np.testing.assert_allclose(samples, on_torch.sample(image, 2, 4), atol=1e-5)


def test_an_older_bundle_without_torch_names_the_extra(without_part: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(without_part, "onnx")
    monkeypatch.setitem(sys.modules, "torch", None)
    expected = (
        f"Monte Carlo dropout of a bundle without {DROPOUT} needs the extra 'train': pip install 'dermseg[train]'"
    )
    assert refusal(MissingExtraError, engine) == expected


@pytest.mark.parametrize("fault", ["rate", "masks", "size"])
def test_a_part_of_another_network_is_refused(fault: str, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(SHIPPED.read(DROPOUT))
    if fault == "rate":
        del model.metadata_props[:]
    elif fault == "masks":
        for names in (node.input for node in model.graph.node):
            names[:] = ["other" if name == "masks" else name for name in names]
        next(part for part in model.graph.input if part.name == "masks").name = "other"
    else:
        part = next(part for part in model.graph.input if part.name == "features0")
        part.type.tensor_type.shape.dim[2].dim_value += 1
    files = {name: SHIPPED.read(name) for name in (ONNX, WEIGHTS)} | {DROPOUT: model.SerializeToString()}
    bundle = write(tmp_path / "spoilt", SHIPPED.manifest, files)
    message = refusal(BundleError, open_engine(bundle))
    assert message == f"{bundle.path / DROPOUT} does not continue {ONNX}; make the bundle again"


def test_a_broken_part_harms_no_plain_prediction(tmp_path: Path, image: NDArray[np.float32], on_onnx: Engine) -> None:
    shutil.copytree(SHIPPED.path, tmp_path / "broken")
    (tmp_path / "broken" / DROPOUT).write_bytes(b"rubbish")
    engine = open_engine(Bundle.load(tmp_path / "broken"))
    np.testing.assert_allclose(engine(image[None]), on_onnx(image[None]), atol=1e-4)
    with pytest.raises(BundleError, match=f"{DROPOUT} differs from its recorded hash"):
        engine.sample(image, 1, 0)


# The networks that can be split


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("light", {"dropout": 0.3}),
        ("swin-upernet", {"dropout": 0.3, "width": 16, "depths": [1, 1, 1, 1], "embed_dim": 32, "drop_path": 0.0}),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_the_part_after_dropout_is_the_network_itself(
    name: str, arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = build(name, classes=2, **arguments).eval()
    assert isinstance(network, LateDropout)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var)  # type: ignore[arg-type]
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        embedding, features = network.features(image)
        channels = features[0].shape[1]
        masks = torch.from_numpy(dropout_masks(3, channels, 0.3, 0))
        masks[0] = 1
        samples = network.sampled(features, masks, size)
        plain = network(image)
        dropped = torch.cat([network.decide((features[0] * mask, *features[1:]), size) for mask in masks])
    assert samples.shape == (3, 2, *size)
    assert embedding.ndim == 2
    torch.testing.assert_close(samples[:1], plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(samples, dropped, atol=1e-4, rtol=1e-4)
    assert (samples[1] - plain[0]).abs().max() > 1e-3


# Export


def test_the_shipped_parts_are_small_float16_and_of_one_image() -> None:
    model = onnx.load_model_from_string(SHIPPED.read(DROPOUT))
    assert len(SHIPPED.read(DROPOUT)) < 100_000
    assert {prop.key: prop.value for prop in model.metadata_props} == {"dropout": str(RATE)}
    single = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) < 16 for tensor in single)
    shapes = {
        part.name: [dim.dim_value or dim.dim_param for dim in part.type.tensor_type.shape.dim]
        for part in (*model.graph.input, *model.graph.output)
    }
    batch = shapes["masks"][0]
    assert isinstance(batch, str)
    assert shapes == {
        "masks": [batch, 48, 1, 1],
        "features0": [1, 48, 48, 48],
        "features1": [1, 16, 96, 96],
        "logits": [batch, 1, 192, 192],
    }


def test_parity_sees_a_changed_part(tmp_path: Path, image: NDArray[np.float32]) -> None:
    assert parity(SHIPPED, image[None]).holds
    model = onnx.load_model_from_string(SHIPPED.read(DROPOUT))
    model.metadata_props[0].value = "0.2"  # other masks, scaled otherwise
    files = {name: SHIPPED.read(name) for name in (ONNX, WEIGHTS)} | {DROPOUT: model.SerializeToString()}
    assert not parity(write(tmp_path / "changed", SHIPPED.manifest, files), image[None]).holds


def test_plain_predictions_need_no_second_file(
    without_part: Bundle, image: NDArray[np.float32], on_onnx: Engine
) -> None:
    assert without_part.manifest.hashes.keys() == {ONNX, WEIGHTS}
    np.testing.assert_allclose(open_engine(without_part)(image[None]), on_onnx(image[None]), atol=1e-5)
