"""Bundles: what is on disk is what was written, and everything else is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from dermseg import synthetic
from dermseg.bundle import CARD, MANIFEST, Bundle, check_replaceable, shipped_bundles, write
from dermseg.card import model_card
from dermseg.data import splits
from dermseg.engine import open_engine
from dermseg.errors import BundleError, BundleIntegrityError, DermsegError, InputError
from dermseg.export import Parity, export, parity
from dermseg.geometry import Geometry
from dermseg.imaging import open_image
from dermseg.manifest import DROPOUT, ONNX, WEIGHTS, Architecture, Calibration, Manifest, Metric, Score
from dermseg.models import build

FILES = {MANIFEST, ONNX, WEIGHTS, CARD}
SHIPPED = shipped_bundles()
each_shipped = pytest.mark.parametrize("shipped", SHIPPED, ids=lambda bundle: bundle.name)


@pytest.fixture
def folder(dark_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle's folder that a test may spoil."""
    return shutil.copytree(dark_bundle.path, tmp_path / "spoilt")


def score(data: str = "isic2017", protocol: str = "Task 1", mean: float = 0.8) -> Score:
    metrics = {name: Metric(mean=mean, low=mean - 0.02, high=mean + 0.02) for name in ("jaccard", "dice")}
    return Score(data=data, split="test", protocol=protocol, images=150, metrics=metrics)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def content(bundle: Bundle) -> dict[str, bytes]:
    return {name: bundle.read(name) for name in (ONNX, WEIGHTS)}


def refusal(error: type[DermsegError], act: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    return str(caught.value)


# Loading


def test_loads_by_name_folder_and_zip(tmp_path: Path) -> None:
    named = Bundle.load("lesion")
    from_folder = Bundle.load(named.path)
    from_text = Bundle.load(str(named.path))
    zipped = Bundle.load(named.pack(tmp_path / "lesion.zip"))
    assert named.name == "lesion"
    assert named.manifest == from_folder.manifest == from_text.manifest == zipped.manifest
    assert content(named) == content(zipped)
    zipped.verify()


def test_a_folder_of_the_working_directory_needs_no_separator(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Bundle.load("spoilt").name == Bundle.load(Path("spoilt")).name == "dark"
    folder.rename("lesion")
    assert Bundle.load("lesion").name == "lesion"
    assert Bundle.load(Path("lesion")).name == Bundle.load("./lesion").name == "dark"


def test_pack_keeps_every_file_and_leaves_no_other(dark_bundle: Bundle, tmp_path: Path) -> None:
    path = dark_bundle.pack(tmp_path / "dark.zip")
    assert list(tmp_path.iterdir()) == [path]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            name: (dark_bundle.path / name).read_bytes() for name in FILES
        }


def test_pack_of_a_zip_is_the_same_bundle(dark_bundle: Bundle, tmp_path: Path) -> None:
    first = Bundle.load(dark_bundle.pack(tmp_path / "first.zip"))
    second = Bundle.load(first.pack(tmp_path / "second.zip"))
    assert (second.manifest, content(second)) == (dark_bundle.manifest, content(dark_bundle))


def test_a_bundle_without_onnx_is_whole(dark_bundle: Bundle, tmp_path: Path) -> None:
    assert dark_bundle.has_onnx
    bundle = write(tmp_path / "torch", dark_bundle.manifest, {WEIGHTS: b"unused"})
    zipped = Bundle.load(bundle.pack(tmp_path / "torch.zip"))
    assert not bundle.has_onnx
    assert not zipped.has_onnx
    for whole in (bundle, zipped):
        whole.verify()
    (bundle.path / WEIGHTS).write_bytes(b"other")
    refusal(BundleIntegrityError, bundle.verify)


def test_a_bundle_without_weights_is_not_whole(dark_bundle: Bundle, tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle", dark_bundle.manifest, {ONNX: dark_bundle.read(ONNX)})
    assert refusal(BundleError, bundle.verify) == f"{bundle.path} is no complete bundle: {WEIGHTS} is missing"


def test_a_spoilt_bundle_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"other")
    refusal(BundleIntegrityError, lambda: Bundle.load(folder).pack(tmp_path / "out.zip"))
    assert not (tmp_path / "out.zip").exists()


def test_pack_into_a_missing_folder_is_refused(dark_bundle: Bundle, tmp_path: Path) -> None:
    message = refusal(InputError, lambda: dark_bundle.pack(tmp_path / "missing" / "dark.zip"))
    assert message == (f"{tmp_path}/missing/dark.zip cannot be written (No such file or directory); give another path")


@pytest.mark.parametrize("name", [ONNX, WEIGHTS])
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_flipped_bit_is_noticed_before_use(folder: Path, name: str, place: int) -> None:
    data = bytearray((folder / name).read_bytes())
    data[place] ^= 1
    (folder / name).write_bytes(data)
    bundle = Bundle.load(folder)
    expected = f"{folder / name} differs from its recorded hash; get the bundle again"
    assert refusal(BundleIntegrityError, lambda: bundle.read(name)) == expected
    assert refusal(BundleIntegrityError, bundle.verify) == expected


def test_a_file_without_a_recorded_hash_is_refused(folder: Path) -> None:
    change(folder, lambda manifest: manifest["hashes"].pop(ONNX))
    refusal(BundleIntegrityError, lambda: Bundle.load(folder).read(ONNX))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("name", [MANIFEST, ONNX])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, kind: str, name: str) -> None:
    (folder / name).unlink()
    path = folder
    if kind == "zip":
        path = tmp_path / "spoilt.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
    message = refusal(BundleError, lambda: Bundle.load(path).read(ONNX))
    assert message == f"{path} is no complete bundle: {name} is missing"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.update(colour="red"), "colour: Extra inputs are not permitted"),
        (lambda m: m["architecture"].update(code="x"), "architecture.code: Extra inputs are not permitted"),
        (lambda m: m.pop("licence"), "licence: Field required"),
        (lambda m: m.update(format=2), "format: Input should be 1"),
        (lambda m: m.update(classes=["a/b"]), "classes.0: String should match pattern"),
        (lambda m: m.update(classes=[]), "classes: Tuple should have at least 1 item after validation, not 0"),
        (lambda m: m.update(input_size="big"), "input_size: Input should be a valid integer"),
        (lambda m: m.update(input_size=0), "input_size: Input should be greater than or equal to 1"),
        (lambda m: m["hashes"].update({"../x": "0"}), "hashes: Value error, '../x' is no file of a bundle"),
        (lambda m: m["hashes"].update({"/tmp/x": "0"}), "hashes: Value error, '/tmp/x' is no file of a bundle"),
        (lambda m: m["calibration"].update(temperature=0), "calibration.temperature: Input should be greater than 0"),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_the_place(
    folder: Path, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change(folder, edit)
    message = refusal(BundleError, lambda: Bundle.load(folder))
    assert message.startswith(f"{folder / MANIFEST} does not describe a bundle of this version: {reason}")
    assert "\n" not in message


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_bad_json_is_refused(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    message = refusal(BundleError, lambda: Bundle.load(folder))
    assert message.startswith(f"{folder / MANIFEST} does not describe a bundle of this version: content: ")
    assert "\n" not in message


def test_a_class_without_threshold_is_refused(folder: Path) -> None:
    change(folder, lambda manifest: manifest.update(classes=["lesion", "globules"]))
    message = refusal(BundleError, lambda: Bundle.load(folder))
    assert message == f"{folder / MANIFEST} has no threshold for 'globules'; expected one a class"


def test_processing_of_a_newer_version_is_refused(folder: Path) -> None:
    change(folder, lambda manifest: manifest.update(processing=["hair"]))
    message = refusal(BundleError, lambda: Bundle.load(folder))
    assert message == f"{folder} needs the processing 'hair'; install a newer dermseg"


def test_what_does_not_exist_is_answered_with_the_shipped_names(tmp_path: Path) -> None:
    names = ", ".join(bundle.name for bundle in SHIPPED)
    for given in ("lesions", "./lesion", str(tmp_path / "none.zip"), "x" * 300, "nul\0"):
        message = refusal(BundleError, partial(Bundle.load, given))
        assert message == f"there is no bundle {given!r}; give a folder, a zip or one of: {names}"


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "model.pth").write_bytes(b"\x80\x02rubbish")
    message = refusal(BundleError, lambda: Bundle.load(path))
    assert message == f"{path} is no bundle: it is neither a folder nor a readable zip"


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_a_bundle_error_wherever_it_is_damaged(
    dark_bundle: Bundle, tmp_path: Path, compression: int
) -> None:
    packed, damaged = tmp_path / "dark.zip", tmp_path / "damaged.zip"
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for file in sorted(dark_bundle.path.iterdir()):
            archive.writestr(file.name, file.read_bytes())
    whole = packed.read_bytes()
    rng, refusals = np.random.default_rng(0), []
    for place in rng.integers(0, len(whole), 300).tolist():
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        damaged.write_bytes(data[: place or None] if place % 5 == 0 else data)
        try:
            found = Bundle.load(damaged)
            assert content(found) == content(dark_bundle)
        except BundleError as error:
            refusals.append(str(error))
    assert 100 < len(refusals) < 300  # most places matter; the card and the dates do not
    assert not any("\n" in message for message in refusals)


def test_weights_of_another_format_are_a_bundle_error(tmp_path: Path) -> None:
    bundle = Bundle.load("lesion")
    other = write(tmp_path / "other", bundle.manifest, content(bundle) | {WEIGHTS: b"no weights"})
    assert refusal(BundleError, other.network) == f"{other.path / WEIGHTS} is no file of weights; get the bundle again"


def test_a_network_of_more_or_fewer_classes_than_the_manifest_is_refused(folder: Path) -> None:
    change(folder, lambda m: m.update(classes=["lesion", "hair"], thresholds={"lesion": 0.5, "hair": 0.5}))
    message = refusal(BundleError, lambda: open_engine(Bundle.load(folder)))
    assert message == f"{folder / ONNX} gives [1, 64, 64] where the manifest describes [2, 64, 64]"
    change(folder, lambda m: m.update(classes=["lesion", "lesion"]))
    assert "expected each class once" in refusal(BundleError, lambda: Bundle.load(folder))


def test_a_network_of_other_weights_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.load("lesion")
    arguments = {**bundle.manifest.architecture.arguments, "widths": [8, 8, 8, 8]}
    architecture = bundle.manifest.architecture.model_copy(update={"arguments": arguments})
    manifest = bundle.manifest.model_copy(update={"architecture": architecture})
    other = write(tmp_path / "other", manifest, content(bundle))
    message = refusal(BundleError, other.network)
    assert message == f"{tmp_path}/other/{WEIGHTS} does not fit the architecture {architecture.name!r}"


# Writing


def test_write_replaces_a_bundle_whole(dark_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    write(target, dark_bundle.manifest, {ONNX: b"old", WEIGHTS: b"old", DROPOUT: b"old"})
    written = write(target, dark_bundle.manifest, {ONNX: b"one", WEIGHTS: b"two"})
    assert {path.name for path in target.iterdir()} == FILES
    assert list(target.parent.iterdir()) == [target]
    assert written.manifest.hashes == {
        ONNX: hashlib.sha256(b"one").hexdigest(),
        WEIGHTS: hashlib.sha256(b"two").hexdigest(),
    }
    assert Bundle.load(target) == written
    assert written.bytes() == sum(path.stat().st_size for path in target.iterdir())


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, hidden or not."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "notes.txt").write_text("mine"),
        lambda folder: (folder / ".hidden").write_text("mine"),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: ((folder / ONNX).unlink(), (folder / ONNX).mkdir(), (folder / ONNX / "mine").touch()),
    ],
    ids=["another file", "a hidden file", "no manifest", "a folder of a file's name"],
)
def test_write_removes_nothing_but_a_bundle(
    folder: Path, tmp_path: Path, dark_bundle: Bundle, spoil: Callable[[Path], object]
) -> None:
    spoil(folder)
    before = tree(tmp_path)
    for act in (lambda: check_replaceable(folder), lambda: write(folder, dark_bundle.manifest, {WEIGHTS: b"new"})):
        message = refusal(InputError, act)
        assert message == f"{folder} holds other things than a bundle, which would be lost; give another folder"
        assert tree(tmp_path) == before


def test_write_into_a_file_or_below_one_is_refused(dark_bundle: Bundle, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"mine")
    for target, reason in ((file, "is a file"), (file / "a" / "b", f"lies below the file {file}")):
        message = refusal(InputError, partial(write, target, dark_bundle.manifest, {}))
        assert message == f"{target} {reason}; give a folder for the bundle"
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("name", ["nul\0", "x" * 300])
def test_write_to_no_valid_path_is_refused(dark_bundle: Bundle, tmp_path: Path, name: str) -> None:
    message = refusal(InputError, lambda: write(tmp_path / name, dark_bundle.manifest, {WEIGHTS: b""}))
    assert "cannot be written" in message
    assert message.isprintable()
    assert tree(tmp_path) == {}


def test_write_into_an_empty_folder(dark_bundle: Bundle, tmp_path: Path) -> None:
    (target := tmp_path / "empty").mkdir()
    assert check_replaceable(target) == target
    write(target, dark_bundle.manifest, {WEIGHTS: b"new"}).verify()
    assert list(tmp_path.iterdir()) == [target]


def test_write_into_the_working_directory(
    folder: Path, dark_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    write(Path(), dark_bundle.manifest, {WEIGHTS: b"new"}).verify()
    assert (folder / WEIGHTS).read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [folder]


def test_write_through_a_link_keeps_the_link(folder: Path, dark_bundle: Bundle, tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(folder)
    assert write(link, dark_bundle.manifest, {WEIGHTS: b"new"}).path == link
    assert link.is_symlink()
    assert (folder / WEIGHTS).read_bytes() == b"new"


def test_a_bundle_is_put_back_where_the_new_one_cannot_take_its_place(
    folder: Path, dark_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(tmp_path)
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            assert not folder.exists()
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    message = refusal(InputError, lambda: write(folder, dark_bundle.manifest, {WEIGHTS: b"new"}))
    assert message == f"{folder} cannot be written (No space left on device); give another folder"
    assert tree(tmp_path) == before


def test_what_an_ended_run_left_is_taken_away_and_nothing_else(
    folder: Path, dark_bundle: Bundle, tmp_path: Path
) -> None:
    old = shutil.copytree(folder, tmp_path / f".{folder.name}.old")
    (old / MANIFEST).unlink()
    write(folder, dark_bundle.manifest, {WEIGHTS: b"new"})
    assert list(tmp_path.iterdir()) == [folder]
    old.mkdir()
    (old / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    message = refusal(InputError, lambda: write(folder, dark_bundle.manifest, {WEIGHTS: b"newer"}))
    assert message == f"{old} is in the way and is no old bundle; move it, or give another folder"
    assert tree(tmp_path) == before


def test_the_card_says_what_calibration_was_fitted_on(dark_bundle: Bundle) -> None:
    for fitted, words in (
        ({}, ""),
        ({"images": 9}, ", fitted on 9 images"),
        ({"images": 1011, "split": "tune"}, ", fitted on 1011 images of `tune`"),
    ):
        calibration = Calibration.model_validate({"temperature": 1.5, **fitted})
        card = model_card(dark_bundle.manifest.model_copy(update={"calibration": calibration}))
        assert f"- **Calibration**: logits are divided by 1.5 (lesion){words}\n" in card


def test_scores_go_into_the_manifest_and_the_card(folder: Path) -> None:
    before = Bundle.load(folder)
    after = before.with_scores([score(mean=0.8), score("ham10000", mean=0.9)])
    assert Bundle.load(folder) == after
    assert [s.data for s in after.manifest.scores] == ["isic2017", "ham10000"]
    card = (folder / CARD).read_text()
    assert card == model_card(after.manifest)
    assert "**isic2017, split `test`, 150 images**" in card
    assert "| 0.900 [0.880, 0.920] | 0.900 [0.880, 0.920] |" in card
    assert "None recorded yet." not in card
    assert {path.name for path in folder.iterdir()} == FILES
    after.verify()
    assert before.manifest.scores == ()


def test_a_new_score_takes_the_place_of_the_same_and_no_other(folder: Path) -> None:
    bundle = Bundle.load(folder).with_scores([score(mean=0.7), score(protocol="pooled", mean=0.6)])
    bundle = bundle.with_scores([score(mean=0.8)])
    assert {(s.protocol, s.metrics["dice"].mean) for s in bundle.manifest.scores} == {("pooled", 0.6), ("Task 1", 0.8)}


def test_what_others_recorded_meanwhile_is_kept(folder: Path) -> None:
    early = Bundle.load(folder)
    Bundle.load(folder).with_notes({"Cost": "An hour."})
    Bundle.load(folder).with_scores([score("ham10000")])
    manifest = early.with_scores([score()]).manifest
    assert (manifest.notes, [s.data for s in manifest.scores]) == ({"Cost": "An hour."}, ["ham10000", "isic2017"])


def test_scores_of_a_bundle_that_was_replaced_are_not_recorded(folder: Path, dark_bundle: Bundle) -> None:
    early = Bundle.load(folder)
    other = dark_bundle.manifest.model_copy(update={"thresholds": {"lesion": 0.9}})
    for manifest, weights in ((dark_bundle.manifest, b"others"), (other, b"unused")):
        write(folder, manifest, content(dark_bundle) | {WEIGHTS: weights})
        message = refusal(BundleError, lambda: early.with_scores([score()]))
        assert message == f"{folder} is another bundle than when it was read; scores of that are not its own"
        assert Bundle.load(folder).manifest.scores == ()


def test_a_folder_with_a_shipped_name_is_given_with_its_place(
    dark_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = write(Path("lesion"), dark_bundle.manifest, content(dark_bundle))
    assert Bundle.load(own.argument).name == "dark"
    assert Bundle.load("lesion").name == "lesion"
    assert (Bundle.load(tmp_path / "lesion").argument, Bundle.load("./lesion").argument) == (
        str(tmp_path / "lesion"),
        own.argument,
    )


def test_scores_are_not_recorded_in_a_zip(dark_bundle: Bundle, tmp_path: Path) -> None:
    path = dark_bundle.pack(tmp_path / "dark.zip")
    before = path.read_bytes()
    message = refusal(InputError, lambda: Bundle.load(path).with_scores([score()]))
    assert message == f"{path} is a zip; scores can be recorded in a bundle's folder only"
    assert path.read_bytes() == before


def test_the_card_says_what_a_reader_must_know(dark_bundle: Bundle) -> None:
    card = (dark_bundle.path / CARD).read_text()
    for part in ("# dark", "not a medical device", "Apache-2.0", "| drawn | 1 | CC0-1.0 |", "lesion 0.5", "64 x 64"):
        assert part in card
    assert "\n\n\n" not in card


def test_a_manifest_survives_its_json(dark_bundle: Bundle) -> None:
    assert Manifest.model_validate_json(dark_bundle.manifest.model_dump_json()) == dark_bundle.manifest


# What is shipped


def test_something_is_shipped_and_the_default_is_among_it() -> None:
    assert Bundle.load().name in [bundle.name for bundle in SHIPPED]


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda bundle: bundle.name)
def test_a_shipped_bundle_knows_the_table_it_was_trained_by(bundle: Bundle) -> None:
    table = splits.table_for(bundle.manifest.classes)
    assert bundle.manifest.training_data.splits_hash == splits.fingerprint(table)


def test_all_shipped_bundles_fit_the_wheel() -> None:
    assert sum(bundle.bytes() for bundle in SHIPPED) < 30e6


@each_shipped
def test_a_shipped_bundle_is_whole_and_names_its_licences(shipped: Bundle) -> None:
    shipped.verify()
    assert {path.name for path in shipped.path.iterdir()} == FILES | {DROPOUT}
    assert shipped.name == shipped.path.name
    manifest = shipped.manifest
    assert manifest.licence
    assert manifest.training_data.licences.keys() == manifest.training_data.sources.keys()
    assert all(manifest.training_data.licences.values())
    assert all(0 < threshold < 1 for threshold in manifest.thresholds.values())
    assert (shipped.path / CARD).read_text() == model_card(manifest)


@each_shipped
def test_weights_are_float16_in_both_files_and_the_same(shipped: Bundle) -> None:
    data = shipped.read(WEIGHTS)
    (length,) = struct.unpack("<Q", data[:8])
    header = {name: entry for name, entry in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    assert {entry["dtype"] for name, entry in header.items() if not name.endswith("num_batches_tracked")} == {"F16"}

    model = onnx.load_model_from_string(shipped.read(ONNX))
    halves = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    single = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) < 16 for tensor in single)
    # Sorted, since a matrix may be transposed in the other file; the exporter adds biases of zero.
    stored = {np.sort(tensor.numpy(), axis=None).tobytes() for tensor in safetensors.torch.load(data).values()}
    values = [np.sort(onnx.numpy_helper.to_array(tensor), axis=None) for tensor in halves]
    assert [array for array in values if array.any() and array.tobytes() not in stored] == []
    assert sum(array.size for array in values) > 0.99 * shipped.manifest.architecture.parameters


@each_shipped
def test_nothing_of_the_machine_it_was_made_on_is_shipped(shipped: Bundle) -> None:
    for name in FILES | {DROPOUT}:
        data = (shipped.path / name).read_bytes()
        for trace in (b"/home", b"/root/", b"/work/", b"/tmp/", b"/Users/", b"site-packages", b"stack_trace"):
            assert trace not in data, (name, trace)


@each_shipped
def test_the_input_is_square_and_the_batch_free(shipped: Bundle) -> None:
    (image,) = onnx.load_model_from_string(shipped.read(ONNX)).graph.input
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [dim.dim_value for dim in rest] == [3, shipped.manifest.input_size, shipped.manifest.input_size]


def normalised(bundle: Bundle, photographs: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Images as the bundle's network takes them, (N, 3, S, S)."""
    norm, size = bundle.manifest.normalisation, bundle.manifest.input_size
    canvases = [Geometry.fit(p.shape[0], p.shape[1], size).apply(p, norm.padding) for p in photographs]
    scaled = (np.stack(canvases) / 255 - np.array(norm.mean)) / np.array(norm.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


def assert_same_networks(bundle: Bundle, photographs: Sequence[NDArray[np.uint8]]) -> None:
    found = parity(bundle, normalised(bundle, photographs))
    assert found.logit_difference <= 1e-3
    assert found.mask_differences == 0
    assert found.holds


@each_shipped
def test_both_stored_networks_agree_on_drawn_images(shipped: Bundle) -> None:
    photographs = [synthetic.draw(seed, (96, 128)).pixels for seed in range(4)]
    photographs.append(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    photographs.append(np.full((40, 60, 3), 255, np.uint8))
    assert_same_networks(shipped, photographs)


@each_shipped
def test_both_stored_networks_agree_on_real_images(shipped: Bundle, data_folder: Path) -> None:
    files = sorted(data_folder.glob("isic2017/*_Data/*.jpg"))[::250]
    assert files
    assert_same_networks(shipped, [open_image(file).pixels() for file in files])


@pytest.mark.parametrize(
    ("difference", "pixels", "holds"), [(0.0, 0, True), (1e-2, 0, True), (1.1e-2, 0, False), (0.0, 1, False)]
)
def test_parity_has_both_limits(difference: float, pixels: int, holds: bool) -> None:
    assert Parity(difference, pixels).holds is holds


def test_parity_sees_a_changed_network(tmp_path: Path) -> None:
    bundle = Bundle.load("lesion")
    model = onnx.load_model_from_string(bundle.read(ONNX))
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name.endswith("head.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    files = {ONNX: model.SerializeToString(), WEIGHTS: bundle.read(WEIGHTS)}
    changed = write(tmp_path / "changed", bundle.manifest, files)
    found = parity(changed, normalised(changed, [synthetic.draw(0, (64, 64)).pixels]))
    assert found.logit_difference == pytest.approx(0.5, abs=1e-3)
    assert not found.holds


def test_a_network_that_gives_nan_is_made_no_bundle(dark_bundle: Bundle, tmp_path: Path) -> None:
    network = build("light", classes=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = np.zeros((1, 3, 32, 32), np.float32)
    manifest = dark_bundle.manifest.model_copy(
        update={"architecture": Architecture(name="light", arguments={}, parameters=1), "input_size": 32}
    )
    export(tmp_path / "good", network, manifest, images).verify()
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    network.get_parameter("head.bias").data.fill_(torch.nan)
    for torch_only, reason in (
        (False, "ONNX Runtime and torch disagree on this network: "),
        (True, "the stored weights give logits that are not finite; no bundle was made"),
    ):
        with pytest.raises(BundleError, match=f"^{reason}"):
            export(tmp_path / "bad", network, manifest, images, torch_only=torch_only)
        assert not (tmp_path / "bad").exists()
