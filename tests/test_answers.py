"""What the service answers with, read back."""

from __future__ import annotations

import base64
import gc
import io
import json
import struct
import sys
import zipfile
import zlib
from dataclasses import replace
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from dermseg import __version__, figures
from dermseg.bundle import Bundle
from dermseg.errors import BrokenImageError, DataError, ImageTooLargeError, InputError
from dermseg.geometry import Geometry
from dermseg.imaging import encode_image, encode_mask, open_image
from dermseg.segmenter import Prediction, Segmenter
from dermseg.serving import answers
from dermseg.serving.inference import Answer, Seconds
from dermseg.synthetic import draw
from dermseg.uncertainty import Uncertainty
from tests.hostile import orientation_block

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

SIZE = (300, 420)
SCENE = draw(3, SIZE)
STRUCTURES = ("pigment_network", "streaks", "globules")
PICTURES: list[answers.Rendering] = ["mask", "probability", "overlay", "uncertainty", "side-by-side"]


def decoded(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.array(image)


@pytest.fixture(scope="module")
def lesion() -> Prediction:
    return Segmenter(threads=1)(encode_image(SCENE.pixels))


@pytest.fixture(scope="module")
def sampled() -> Prediction:
    return Segmenter(threads=1, tta=True)(encode_image(SCENE.pixels))


@pytest.fixture(scope="module")
def structures() -> Prediction:
    """Of a bundle of three classes: a disc, nothing, and a ring; each predicted several times."""
    photograph = open_image(encode_image(SCENE.pixels))
    maps = np.zeros((3, 64, 64), np.float32)
    cv2.circle(maps[0], (24, 32), 10, 0.9, -1)
    cv2.circle(maps[2], (40, 32), 9, 0.7, 4)
    return Prediction(
        photograph=photograph,
        pixels=SCENE.pixels,
        classes=STRUCTURES,
        probabilities=maps,
        geometry=Geometry.fit(*SIZE, 64),
        thresholds=(0.5, 0.5, 0.4),
        bundle="structures",
        uncertainty=Uncertainty.of(np.stack([maps, maps * np.float32(0.5)])),
    )


# Pictures


def test_every_output_has_a_media_type() -> None:
    types = {output: answers.media_type(output) for output in answers.OUTPUTS}
    assert types.pop("json") == "application/json"
    assert types.pop("zip") == "application/zip"
    assert set(types.values()) == {"image/png"}
    assert set(answers.OUTPUTS) == {*PICTURES, "json", "zip", "explanation"}
    assert set(get_args(answers.Rendering)) == set(answers.OUTPUTS) - {"explanation"}


@pytest.mark.parametrize("asked", STRUCTURES)
def test_pictures_are_of_the_class_that_is_asked_for(structures: Prediction, asked: str) -> None:
    place = STRUCTURES.index(asked)
    found = {output: decoded(answers.encode(structures, output, asked)) for output in PICTURES}
    mask, probability = structures.mask_of(asked), structures.probability(asked)
    assert (found["mask"] == mask * np.uint8(255)).all()
    assert (found["probability"] == figures.probability_image(probability)).all()
    assert (found["overlay"] == figures.overlay(SCENE.pixels, mask)).all()
    assert (found["side-by-side"] == figures.side_by_side(SCENE.pixels, mask, probability)).all()
    assert structures.uncertainty is not None
    entropy = structures.geometry.invert(structures.uncertainty.entropy[place])
    assert (found["uncertainty"] == figures.probability_image(entropy)).all()
    assert found["uncertainty"].any() == (asked != "streaks")


def test_without_a_class_pictures_show_all_or_the_first(structures: Prediction) -> None:
    for output in ("mask", "probability", "uncertainty"):
        assert answers.encode(structures, output) == answers.encode(structures, output, STRUCTURES[0])
    masks = {name: structures.mask_of(name) for name in STRUCTURES}
    assert (decoded(answers.encode(structures, "overlay")) == figures.structures(SCENE.pixels, masks)).all()
    sheet = figures.case(SCENE.pixels, masks, {}, "structures")
    assert (decoded(answers.encode(structures, "side-by-side")) == sheet).all()


def test_pictures_have_the_sizes_that_are_promised() -> None:
    large = Segmenter(threads=1)(draw(5, (1200, 1600), hairs=0, bubbles=0).pixels)
    for output in ("mask", "probability"):
        assert decoded(answers.encode(large, output)).shape == (1200, 1600)
    assert decoded(answers.encode(large, "overlay")).shape == (768, 1024, 3)


def test_a_mask_alone_measures_nothing(lesion: Prediction) -> None:
    fresh = replace(lesion)
    answers.encode(fresh, "mask")
    assert not {"measurements", "quality"} & set(vars(fresh))


def test_what_cannot_be_shown_is_refused(lesion: Prediction) -> None:
    with pytest.raises(InputError, match="several predictions of an image differ; ask for them with tta=true"):
        answers.encode(lesion, "uncertainty")
    outputs: list[answers.Rendering] = [*PICTURES[:3], "side-by-side", "zip"]
    for output in outputs:
        with pytest.raises(InputError, match="the bundle lesion has no class 'streaks'; it has: lesion"):
            answers.encode(lesion, output, "streaks")


# JSON and ZIP


@pytest.mark.parametrize("kind", ["lesion", "structures"])
def test_json_tells_every_class_in_three_ways(kind: str, request: pytest.FixtureRequest) -> None:
    prediction: Prediction = request.getfixturevalue(kind)
    told = json.loads(answers.encode(prediction, "json"))
    assert [entry["name"] for entry in told["classes"]] == list(prediction.classes)
    for entry in told["classes"]:
        mask = prediction.mask_of(entry["name"])
        rings = [np.array(ring) for rings in entry.pop("polygon")["coordinates"] for ring in rings]
        area = sum(x[:-1] @ y[1:] - x[1:] @ y[:-1] for x, y in (ring.T for ring in rings)) / 2
        assert area == entry["area_pixels"] == mask.sum()
        assert (coco.decode(entry.pop("rle")).astype(np.bool_) == mask).all()
    assert {**told, "image": "<bytes>"} == json.loads(json.dumps(prediction.to_dict()))
    assert "image" not in told  # the service is given no name of it


def test_a_ring_is_told_with_its_hole(structures: Prediction) -> None:
    entry = answers.result(structures)["classes"][2]
    assert [len(rings) for rings in entry["polygon"]["coordinates"]] == [2]
    assert answers.result(structures)["classes"][1]["polygon"]["coordinates"] == []


def test_a_line_of_json_is_one() -> None:
    assert answers.to_json({"file": "a\nb", "result": [1.5, None]}) == b'{"file":"a\\nb","result":[1.5,null]}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        answers.to_json(float("nan"))


def test_a_zip_holds_what_is_answered_singly(sampled: Prediction) -> None:
    content = answers.encode(sampled, "zip")
    assert content == answers.encode(replace(sampled), "zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = ["mask.png", "probability.png", "overlay.png", "uncertainty.png", "result.json"]
        assert archive.namelist() == names
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            stored = entry.filename.endswith(".png")
            assert entry.compress_type == (zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
        outputs: list[answers.Rendering] = ["mask", "probability", "overlay", "uncertainty", "json"]
        for name, output in zip(names, outputs, strict=True):
            assert archive.read(name) == answers.encode(sampled, output)


def test_a_zip_shows_the_class_and_has_no_uncertainty_of_one_prediction(structures: Prediction) -> None:
    files = answers.files(replace(structures, uncertainty=None), "globules")
    assert list(files) == ["mask.png", "probability.png", "overlay.png", "result.json"]
    assert (decoded(files["mask.png"]) > 0).tolist() == structures.mask_of("globules").tolist()
    assert len(json.loads(files["result.json"])["classes"]) == 3


def test_a_zip_of_several_classes_has_a_folder_of_each(structures: Prediction) -> None:
    files = answers.files(structures)
    outputs: list[answers.Rendering] = ["mask", "probability", "overlay", "uncertainty"]
    pictures = {f"{name}/{output}.png": (output, name) for name in STRUCTURES for output in outputs}
    assert set(files) == {*pictures, "overlay.png", "result.json"}
    for file, (output, name) in pictures.items():
        assert files[file] == answers.encode(structures, output, name)
    assert files["overlay.png"] == answers.encode(structures, "overlay")


def test_an_archive_is_written_piece_by_piece() -> None:
    archive = answers.Archive()
    data = np.random.default_rng(0).bytes(100_000)
    pieces = [archive.add(f"{number}.png", data) for number in range(5)]
    assert all(len(data) < len(piece) < len(data) + 200 for piece in pieces)
    whole = b"".join([*pieces, archive.close()])
    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        assert read.testzip() is None
        assert [read.read(name) for name in read.namelist()] == [data] * 5


def test_an_archive_can_be_read_in_one_pass(structures: Prediction) -> None:
    """By the headers before the files alone, as of APPNOTE 4.3.7, which a reader of a stream has to go by."""
    expected = answers.files(structures)
    stream, found = io.BytesIO(answers.encode(structures, "zip")), {}
    while (header := stream.read(30)).startswith(b"PK\x03\x04"):
        flags, method, _, _, checksum, packed, size, name, extra = struct.unpack("<6xHHHHIIIHH", header)
        assert not flags & 8, "sizes would follow the data"
        stem = stream.read(name).decode()
        stream.seek(extra, io.SEEK_CUR)
        data = stream.read(packed)
        found[stem] = zlib.decompress(data, -zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else data
        assert (zlib.crc32(found[stem]), len(found[stem])) == (checksum, size)
    assert found == expected


def test_an_archive_that_nobody_finishes_is_forgotten_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    archive = answers.Archive()
    archive.add("a.png", b"data")
    archive.__dict__["itself"] = archive  # so that the garbage collector takes it, in an order of its own
    del archive
    gc.collect()
    assert not told


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("ISIC_0000001.jpg", "7_ISIC_0000001"),
        ("../../etc/passwd", "7_passwd"),
        ("C:\\pictures\\a b.png", "7_a_b"),
        ("muttermal-ä.jpeg", "7_muttermal-ä"),
        ("", "7"),
        ("///", "7"),
        ("..", "7"),
        ('a"b\n\0.png', "7_a_b"),
        ("x" * 300 + ".png", "7_" + "x" * 100),
    ],
)
def test_names_in_an_archive_are_safe(name: str, stem: str) -> None:
    assert answers.entry_stem(7, name) == stem


# Scores


def test_a_mask_is_scored(lesion: Prediction) -> None:
    told = answers.evaluate(lesion, encode_mask(SCENE.mask))
    overlap, either = (lesion.mask & SCENE.mask).sum(), (lesion.mask | SCENE.mask).sum()
    assert told["scores"]["jaccard"] == pytest.approx(overlap / either)
    names = {"jaccard", "thresholded_jaccard", "dice", "sensitivity", "specificity", "accuracy", "precision"}
    assert set(told["scores"]) == names
    assert (decoded(base64.b64decode(told["mask"])) == lesion.mask * np.uint8(255)).all()
    assert told["prediction"] == {name: value for name, value in lesion.to_dict().items() if name != "image"}
    json.dumps(told, allow_nan=False)


def test_a_mask_of_another_class_is_scored(structures: Prediction) -> None:
    mask = encode_mask(structures.mask_of("globules"))
    assert answers.evaluate(structures, mask, "globules")["scores"]["jaccard"] == 1
    assert answers.evaluate(structures, mask)["scores"]["jaccard"] < 0.5
    assert answers.evaluate(structures, encode_mask(np.zeros(SIZE, np.bool_)), "streaks")["scores"]["dice"] == 1


def test_a_mask_of_another_size_is_refused(lesion: Prediction) -> None:
    with pytest.raises(InputError, match="the mask has 300 x 420 pixels, the photograph 420 x 300; give a mask of"):
        answers.evaluate(lesion, encode_mask(SCENE.mask.T))


def test_a_mask_lies_on_the_photograph_as_it_is_seen() -> None:
    # Stored lying down, seen upright: a quarter turn.
    buffer = io.BytesIO()
    Image.fromarray(SCENE.pixels).save(buffer, "PNG", exif=orientation_block(6))
    prediction = Segmenter(threads=1)(buffer.getvalue())
    upright = np.rot90(SCENE.mask, -1)
    assert answers.evaluate(prediction, encode_mask(upright))["scores"]["jaccard"] > 0.6
    with pytest.raises(InputError, match=r"the photograph 300 x 420 once it is turned upright \(EXIF orientation 6\)"):
        answers.evaluate(prediction, encode_mask(SCENE.mask))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (b"", BrokenImageError, "^the mask is empty"),
        (encode_mask(SCENE.mask)[:200], BrokenImageError, "^the mask is PNG data that are truncated"),
        (encode_image(SCENE.mask.view(np.uint8)), DataError, "^the mask holds values from 0 to 1, none above 128"),
        (encode_mask(np.zeros((2000, 1000), np.bool_)), ImageTooLargeError, r"^the mask has 1000 x 2000 pixels"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(
    lesion: Prediction, mask: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answers.evaluate(lesion, mask, max_megapixels=1)


# What is told beside


def test_headers() -> None:
    answer: Answer[Any] = Answer(b"", "lesion", "review", Seconds(0.0123, 0.0, 0.2, 0.00456))
    assert answers.headers(answer) == {
        "X-Model": "lesion",
        "X-Version": __version__,
        "X-Quality": "review",
        "Server-Timing": "decode;dur=12.3, queue;dur=0.0, network;dur=200.0, encode;dur=4.6",
    }
    assert answers.headers(replace(answer, verdict=None))["X-Quality"] == "unknown"


def test_a_bundle_is_told() -> None:
    bundle = Bundle.load("lesion")
    told = answers.bundle_summary(bundle, default=True)
    assert set(told) == {
        *("name", "description", "classes", "licence", "parameters", "input_size"),
        *("thresholds", "scores", "card", "default"),
    }
    assert told["name"] == "lesion"
    assert told["default"] is True
    assert told["parameters"] == bundle.manifest.architecture.parameters
    assert told["classes"] == ["lesion"]
    assert told["card"].startswith("# lesion")
    assert json.loads(json.dumps(told, allow_nan=False)) == told
