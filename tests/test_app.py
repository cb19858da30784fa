"""The web app without a browser: where outlines come from, what is made of them, and the page's logic."""

from __future__ import annotations

import csv
import gc
import http.server
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
import streamlit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import helper
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from dermseg import Segmenter, app, bundle, figures, synthetic
from dermseg.app import backend, view
from dermseg.app.backend import Finding, Local, Remote
from dermseg.app.launch import OPTIONS, Settings
from dermseg.app.recent import Recent
from dermseg.app.view import Card
from dermseg.bundle import Bundle
from dermseg.cli.main import app as command
from dermseg.errors import BundleError, DataError, ImageError, InputError, ServiceError
from dermseg.imaging import encode_image, encode_mask
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.metrics import Confusion
from dermseg.presence import Curve, PresenceModel
from dermseg.segmenter import Prediction
from dermseg.synthetic import SyntheticImage, draw


@pytest.fixture(scope="module")
def content(example: SyntheticImage) -> bytes:
    return encode_image(example.pixels)


@pytest.fixture(scope="module")
def local() -> Local:
    return Local(["lesion"])


@pytest.fixture(scope="module")
def finding(local: Local, content: bytes) -> Finding:
    return local.segment(content, "mole.png", "lesion")


@pytest.fixture(scope="module")
def several(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of two classes: what is dark, and what is darker still."""
    size = dark_bundle.manifest.input_size
    weights = {
        "weight": np.full((2, 3, 1, 1), -8 / 3, np.float32),
        "bias": np.array([0, -2], np.float32),
    }
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, size, size))
        for name, channels in (("image", 3), ("logits", 2))
    )
    node = helper.make_node("Conv", ["image", *weights], ["logits"])
    initial = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([node], "several", [image], [logits], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = dark_bundle.manifest.model_copy(
        update={
            "name": "several",
            "classes": ("pigment_network", "globules"),
            "thresholds": {"pigment_network": 0.5, "globules": 0.4},
            "presence": PresenceModel(curves={"globules": Curve(slope=0.5, bias=-1)}),
        }
    )
    folder = tmp_path_factory.mktemp("several") / "several"
    return bundle.write(folder, manifest, {ONNX: model.SerializeToString(), WEIGHTS: b"unused"})


# What is kept


def test_what_was_made_is_kept_until_newer_things_take_its_place() -> None:
    recent = Recent(4)
    made: list[str] = []

    def make(name: str) -> Callable[[], str]:
        def note() -> str:
            made.append(name)
            return name

        return note

    def get(name: str, size: int = 2) -> str:
        return recent.get(name, make(name), lambda _: size)

    assert [get(name) for name in "abab"] == list("abab")
    assert made == ["a", "b"]
    get("c")  # a goes, which was not asked for the longest
    get("b")
    get("a")
    assert made == ["a", "b", "c", "a"]
    get("large", 100)  # is kept alone
    assert get("large") == "large"
    get("a")
    get("b")
    assert made == ["a", "b", "c", "a", "large", "a", "b"]


def test_a_failure_is_not_kept() -> None:
    recent = Recent(1)
    with pytest.raises(InputError):
        recent.get("a", _refuse, len)
    assert recent.get("a", lambda: "made", len) == "made"


def _refuse() -> str:
    raise InputError("no")


# Bundles in this process


def test_a_finding_is_the_segmenters_own(finding: Finding, content: bytes) -> None:
    own = Segmenter()(content)
    assert finding.prediction.photograph.name == "mole.png"
    np.testing.assert_array_equal(finding.prediction.mask, own.mask)
    assert finding.quality == own.quality
    assert finding.seconds > 0


def test_two_bundles_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two bundles are named 'lesion'"):
        Local(["lesion", "lesion"])


@pytest.mark.parametrize(("way", "samples"), [("tta", 10), ("dropout", 10)])
def test_uncertainty_of_several_predictions(local: Local, content: bytes, way: Any, samples: int) -> None:
    spread = local.uncertainty(content, "lesion", "lesion", way)
    assert spread.samples == samples
    assert 0 <= spread.entropy.min() < 0.2 < 0.8 < spread.entropy.max() <= 1
    border, image = spread.summary["entropy"]["border"], spread.summary["entropy"]["image"]
    assert border is not None
    assert image is not None
    assert border > image
    assert [row[0] for row in view.spread_rows(spread)] == [
        "Entropy, bits",
        "Mutual information, bits",
        "Standard deviation",
    ]


# What is shown


def test_the_bundles_own_threshold_changes_nothing(finding: Finding) -> None:
    np.testing.assert_array_equal(view.adjusted(finding.prediction, {}).mask, finding.prediction.mask)


@given(low=st.floats(0.01, 0.98), more=st.floats(0.001, 0.5))
def test_a_higher_threshold_never_adds_a_pixel(finding: Finding, low: float, more: float) -> None:
    high = min(0.999, low + more)
    loose, strict = (view.adjusted(finding.prediction, {"lesion": value}).mask for value in (low, high))
    assert not (strict & ~loose).any()


def test_a_threshold_answers_as_a_segmenter_of_that_threshold_would(finding: Finding, content: bytes) -> None:
    adjusted = view.adjusted(finding.prediction, {"lesion": 0.9}, mm_per_pixel=0.05)
    own = Segmenter(threshold=0.9, mm_per_pixel=0.05)(content).to_dict()
    assert finding.quality is not None
    assert own["classes"][0]["area_pixels"] < int(finding.prediction.mask.sum())
    told = json.loads(view.result_file(adjusted, finding.quality))
    assert told == {**own, "image": "mole.png", "quality": finding.quality.to_dict()}


@pytest.mark.parametrize("size", [(40, 60), (900, 1400)])
def test_an_outline_is_as_crisp_on_a_small_image_as_on_a_large(local: Local, size: tuple[int, int]) -> None:
    found = local.segment(encode_image(draw(1, size).pixels), "a.png", "lesion")
    shown = view.view(found.prediction, "lesion")
    assert max(shown.pixels.shape) == view.SIZE
    assert shown.pixels.shape[:2] == shown.mask.shape == shown.probability.shape
    drawn = view.outlined(shown, 0.0)
    assert (drawn == figures.LINE).all(axis=2).any()
    untouched = (drawn == shown.pixels).all(axis=2)
    assert untouched.mean() > 0.9
    assert (view.outlined(shown, 1.0)[~shown.mask & untouched] == 0).all()


def test_maps_stand_beside_their_scale(finding: Finding, local: Local, content: bytes) -> None:
    shown = view.view(finding.prediction, "lesion")
    spread = local.uncertainty(content, "lesion", "lesion", "tta")
    for picture in (view.probability_map(shown, "lesion"), view.uncertainty_map(shown, spread)):
        assert picture.shape[1] > view.SIZE  # the scale at the right


def test_structures_are_outlined_in_colours_of_their_own(several: Bundle, content: bytes) -> None:
    prediction = Local([str(several.path)]).segment(content, "a.png", "several").prediction
    picture, colours = view.structures(prediction)
    assert colours == {"pigment_network": figures.PALETTE[0], "globules": figures.PALETTE[1]}
    assert all((picture == colour).all(axis=2).any() for colour in colours.values())
    assert prediction.presence is not None
    share, presence = prediction.mask_of("globules").mean(), prediction.presence["globules"]
    assert view.class_rows(prediction)[1] == ("globules", view.percent(share), view.percent(presence), "0.400")
    assert view.class_rows(prediction)[0][0] == "pigment network"
    assert view.class_rows(prediction)[0][2] == "–"
    none = replace(prediction, thresholds=(0.9999, 0.9999))
    assert view.structures(none)[1] == {}


def test_measurements_have_units(finding: Finding) -> None:
    pixels = view.measurements(view.adjusted(finding.prediction, {}), "lesion")
    millimetres = view.measurements(view.adjusted(finding.prediction, {}, 0.1), "lesion")
    assert pixels is not None
    assert millimetres is not None
    rows = {row[0]: row[1] for row in view.measurement_rows(millimetres)}
    assert rows["Area"] == f"{pixels.area / 100:.1f} mm² ({pixels.area:,} px²)"
    assert rows["Largest diameter"].startswith(f"{pixels.maximum_diameter / 10:.2f} mm")
    assert {row[0]: row[1] for row in view.measurement_rows(pixels)}["Area"] == f"{pixels.area:,} px²"
    assert view.measurements(view.adjusted(finding.prediction, {"lesion": 0.99999}), "lesion") is None


def test_a_true_mask_is_read_and_scored(finding: Finding, example: SyntheticImage) -> None:
    truth = view.read_truth(encode_mask(example.mask), finding.prediction.size)
    np.testing.assert_array_equal(truth, example.mask)
    scores = Confusion.of(finding.prediction.mask, truth)
    rows = {row[0]: row[1] for row in view.score_rows(scores)}
    assert rows["Jaccard index"] == f"{scores.jaccard:.3f}"
    assert len(rows) == 7
    picture = view.difference(view.view(finding.prediction, "lesion"), np.zeros_like(truth))
    red, _, blue = picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int)
    assert blue > red + 50  # all of what was found is too much


@pytest.mark.parametrize(
    ("given_mask", "message"),
    [
        (encode_mask(np.ones((10, 20), np.bool_)), "the mask has 20 x 10 pixels, the image 256 x 192"),
        (encode_image(np.ones((192, 256), np.uint8)), "holds values from 1 to 1, none above 128"),
        (
            cv2.imencode(".png", np.eye(192, 256, dtype=np.uint16) * 255)[1].tobytes(),
            "holds 16-bit values from 0 to 255, none above",
        ),
        (b"GIF89a", "is a GIF picture"),
    ],
)
def test_a_true_mask_that_cannot_be_used(given_mask: bytes, message: str) -> None:
    with pytest.raises((InputError, DataError, ImageError), match=message):
        view.read_truth(given_mask, (192, 256))


def test_an_empty_true_mask_is_one() -> None:
    assert not view.read_truth(encode_mask(np.zeros((4, 5), np.bool_)), (4, 5)).any()


def test_sentences_call_the_file_by_its_name() -> None:
    assert view.sentence(ImageError("<bytes> is empty; get it again"), "my mole.png") == (
        "my mole.png is empty; get it again."
    )
    assert view.sentence(InputError("no lesion."), "a") == "No lesion."


# Many images


def test_an_archive_holds_all_and_says_what_failed(finding: Finding) -> None:
    card = view.card(finding)
    assert finding.quality is not None
    odd = replace(card, name="../../x y/=mole<1>.PNG")
    cards: list[Card | tuple[str, str]] = [card, ("bad.txt", "bad.txt is not a picture."), odd]
    with zipfile.ZipFile(io.BytesIO(view.archive(cards))) as files:
        assert files.testzip() is None
        assert files.namelist() == [
            *("1_mole_mask.png", "1_mole_overlay.jpg", "1_mole.json"),
            *("3_mole_1_mask.png", "3_mole_1_overlay.jpg", "3_mole_1.json"),
            "results.csv",
        ]
        assert files.read("1_mole_mask.png") == encode_mask(finding.prediction.mask)
        assert json.loads(files.read("1_mole.json"))["image"] == "mole.png"
        lines = list(csv.DictReader(io.StringIO(files.read("results.csv").decode())))
    assert [line["file"] for line in lines] == ["mole.png", "bad.txt", odd.name]
    assert lines[0]["verdict"] == finding.quality.verdict
    assert int(lines[0]["area_pixels"]) == int(finding.prediction.mask.sum())
    assert lines[1]["error"] == "bad.txt is not a picture."
    assert view.tally(cards).startswith("3 images: ")
    assert view.tally(cards).endswith("1 could not be used")


def test_each_class_has_its_mask_in_the_archive(several: Bundle, content: bytes) -> None:
    card = view.card(Local([str(several.path)]).segment(content, "a.png", "several"))
    with zipfile.ZipFile(io.BytesIO(view.archive([card]))) as files:
        assert {"1_a_pigment_network_mask.png", "1_a_globules_mask.png"} < set(files.namelist())
        lines = list(csv.DictReader(io.StringIO(files.read("results.csv").decode())))
    assert [line["class"] for line in lines] == ["pigment_network", "globules"]
    assert [line["presence"] for line in lines] == ["", str(round(card.result["classes"][1]["presence"], 4))]
    assert card.quality is None
    assert view.tally([card]) == "1 image"


def test_a_card_of_several_classes_shows_all_of_them(several: Bundle, content: bytes) -> None:
    finding = Local([str(several.path)]).segment(content, "a.png", "several")
    card, prediction = view.card(finding), finding.prediction
    assert card.overlay == view.jpeg(prediction.overlay(view.SIZE))
    assert card.thumbnail == view.jpeg(view.structures(prediction, view.THUMBNAIL)[0])
    assert card.area == np.mean(prediction.mask_of("pigment_network") | prediction.mask_of("globules"))


@given(st.text())
def test_a_stem_is_a_safe_name_of_a_file(name: str) -> None:
    stem = view.stem_of(name)
    assert re.fullmatch(r"[\w.-]+", stem)
    assert not stem.startswith(".")


# A service


@pytest.fixture(scope="module")
def service(several: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `dermseg serve`, which wants the token `secret`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    log = tmp_path_factory.mktemp("service") / "log"
    command = [sys.executable, "-m", "dermseg", "serve", "--port", port, "-b", "lesion", "-b", str(several.path)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "DERMSEG_TOKEN": "secret"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                pytest.fail(log.read_text())
            try:
                if httpx.get(f"{url}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_a_service_gives_what_this_process_would(service: str, several: Bundle, content: bytes) -> None:
    remote, local = Remote(service, "secret"), Local(["lesion", str(several.path)])
    assert remote.bundles() == local.bundles()
    assert service in remote.whereabouts
    for info in local.bundles():
        there, here = (each.segment(content, "mole.png", info.name) for each in (remote, local))
        assert there.prediction.thresholds == here.prediction.thresholds
        for name in info.classes:
            np.testing.assert_array_equal(there.prediction.mask_of(name), here.prediction.mask_of(name))
            difference = there.prediction.probability(name) - here.prediction.probability(name)
            assert np.abs(difference).max() < 1.01 / 255  # rounded, and along the outline to the mask's side
        card, own = view.card(there), view.card(here)
        assert card.masks == own.masks
        assert card.result == own.result
    with pytest.raises(ImageError, match="is not a JPEG"):
        remote.segment(b"hello", "mole.png", "lesion")
    with pytest.raises(ServiceError, match="there is no bundle 'none'"):
        remote.segment(content, "mole.png", "none")
    with pytest.raises(ServiceError, match="asks for another token"):
        Remote(service).bundles()


def test_a_service_tells_the_same_uncertainty(service: str, local: Local, content: bytes) -> None:
    remote = Remote(service, "secret")
    there, here = (each.uncertainty(content, "lesion", "lesion", "tta") for each in (remote, local))
    assert there.samples == here.samples
    assert there.summary == here.summary
    apart = there.geometry.invert(there.entropy) - here.geometry.invert(here.entropy)
    assert np.abs(apart).max() < 0.51 / 255


def test_what_a_service_told_is_held_in_few_bytes(service: str) -> None:
    height, width = 1000, 1400
    content = encode_image(draw(1, (height, width), hairs=0, bubbles=0).pixels)
    remote = Remote(service, "secret")
    remote.segment(content, "mole.png", "several")  # imports what it needs
    tracemalloc.start()
    try:
        found = remote.segment(content, "mole.png", "several")
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert found.nbytes == len(content) + height * width * (3 + 2)  # RGB, and a byte for each class
    assert held < found.nbytes + 2**20
    assert found.prediction.probabilities.shape == (2, height, width)


def test_the_uncertainty_of_a_large_image_is_kept_at_the_size_of_the_page(service: str) -> None:
    content = encode_image(draw(1, (1000, 1400), hairs=0, bubbles=0).pixels)
    spread = Remote(service, "secret").uncertainty(content, "several", "globules", "tta")
    assert spread.entropy.shape == (view.SIZE, view.SIZE)
    assert (spread.geometry.height, spread.geometry.width) == (1000, 1400)


def test_the_page_holds_findings_and_no_more(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Callable[[], bytes]] = []  # by the running server, until a button is pressed
    monkeypatch.setattr(streamlit, "download_button", lambda _, make, *more, **options: kept.append(make))

    def predictions() -> int:
        gc.collect()
        return sum(type(each) is Prediction for each in gc.get_objects())  # isinstance would wake deprecated objects

    page, before = _page(Settings(api=service, token="secret")), predictions()
    page.button[0].click().run()
    assert "Accept" in _texts(page)
    assert len(kept) == 3
    assert predictions() == before
    assert kept[0]() == encode_mask(Segmenter()(synthetic.example().pixels).mask)


def test_a_service_tells_of_a_long_thin_image(service: str) -> None:
    remote, length = Remote(service, "secret"), 1_000_000
    content = encode_image(np.full((1, length, 3), 255, np.uint8))
    prediction = remote.segment(content, "line.png", "several").prediction
    assert prediction.mask_of("globules").shape == (1, length)
    assert view.view(prediction, "globules").mask.shape == (1, view.SIZE)
    assert remote.uncertainty(content, "several", "globules", "tta").entropy.shape == (view.SIZE, view.SIZE)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 100 / 255, 0.999])
@given(probability=arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)))
def test_eight_bits_keep_the_mask(threshold: float, probability: NDArray[np.float32]) -> None:
    mask = probability > np.float32(threshold)
    grey = encode_image(figures.probability_image(probability))
    shares = backend._shares(backend._levels(grey, encode_mask(mask), threshold))
    np.testing.assert_array_equal(shares > np.float32(threshold), mask)
    assert np.abs(shares - probability).max() < 1.01 / 255


@pytest.mark.parametrize("threshold", [0, 1, 0.999999999, -1, 2, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    picture = encode_image(np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match="the threshold is"):
        backend._levels(picture, picture, threshold)


class _Answer(http.server.BaseHTTPRequestHandler):
    """Answers as its path says, in none of dermseg's ways."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        status, body = {
            "token": (401, b"{}"),
            "problem": (503, b'{"title": "Busy", "detail": "the queue is full; try again in 2 s"}'),
            "broken": (502, b"<html>bad gateway</html>"),
            "other": (200, b'{"hello": "world"}'),
            "empty": (200, b"[]"),
        }[kind]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def strange() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("token", "asks for another token"),
        ("problem", "^the queue is full; try again in 2 s$"),
        ("broken", "answered 502"),
        ("other", "in another form"),
        ("empty", "in another form"),
    ],
)
def test_a_service_that_refuses_gives_a_sentence(strange: str, content: bytes, kind: str, message: str) -> None:
    remote = Remote(f"{strange}/{kind}", "secret")
    with pytest.raises(ServiceError, match=message) as raised:
        remote.bundles()
    assert "secret" not in str(raised.value)
    with pytest.raises(ServiceError, match=message):
        remote.segment(content, "a.png", "lesion")
    if kind not in ("other", "empty"):
        with pytest.raises(ServiceError, match=message):
            remote.explanation(content, "lesion", "lesion")


def test_a_service_that_is_not_there_gives_a_sentence() -> None:
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:9 does not answer .*start it with dermseg serve"):
        Remote("http://127.0.0.1:9").bundles()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://x:port", ""])
def test_an_address_of_no_service_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="the service's address"):
        Remote(url)


def test_a_token_that_cannot_be_sent_is_refused_and_never_shown(service: str) -> None:
    assert Remote(service, "secret\n").bundles()
    for token in ("se\ncret", "geheimß"):
        with pytest.raises(InputError, match="token is not of printable ASCII") as raised:
            Remote(service, token)
        assert token not in str(raised.value)


# The command


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_an_app_that_others_can_reach_says_that_it_has_no_login(host: str, told: bool) -> None:
    result = CliRunner().invoke(command, ["app", "--host", host, "--bundle", "nothing"])
    assert result.exit_code != 0
    assert ("it has no login" in result.stderr) == told


def test_settings_reach_the_page_whole() -> None:
    settings = Settings(("lesion", "a b"), "http://x", "secret")
    assert Settings.from_json(settings.to_json()) == settings
    assert "secret" not in repr(settings)


def test_what_cannot_be_used_is_refused_before_the_server_starts() -> None:
    with pytest.raises(BundleError, match="there is no bundle 'nothing'"):
        app.run(port=1, bundles=["nothing"])
    with pytest.raises(InputError, match="the service's address"):
        app.run(port=1, api="nowhere")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=r"cannot be listened on \(Address already in use"),
    ):
        app.run(port=taken.getsockname()[1])


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ink", ["textColor", "primaryColor", "linkColor"])
@pytest.mark.parametrize("paper", ["backgroundColor", "secondaryBackgroundColor"])
def test_themes_are_readable(theme: str, ink: str, paper: str) -> None:
    ends = sorted(_luminance(OPTIONS[f"theme.{theme}.{name}"]) for name in (ink, paper))
    assert (ends[1] + 0.05) / (ends[0] + 0.05) >= 4.5 + (ink == "textColor") * 2.5


# The page


def _script(settings: str) -> None:
    from dermseg.app.launch import Settings
    from dermseg.app.page import show

    show(Settings.from_json(settings))


def _page(settings: Settings) -> AppTest:
    return AppTest.from_function(_script, default_timeout=60, args=(settings.to_json(),)).run()


def _texts(page: AppTest) -> str:
    assert not page.exception
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", " ".join(element.body for element in page.html)))


def test_the_page_begins_with_what_it_is() -> None:
    texts = _texts(_page(Settings(("lesion",))))
    assert texts.count("not a medical device") == 1
    assert "JPEG, PNG, BMP, TIFF or WebP" in texts
    assert "stay in the memory" in texts


def test_the_example_is_outlined_and_its_threshold_moves() -> None:
    page = _page(Settings(("lesion",)))
    page.button[0].click().run()
    assert "Accept" in _texts(page)
    area = re.search(r"Lesion: (\S+) %", _texts(page))
    page.slider[0].set_value(0.95).run()
    smaller = re.search(r"Lesion: (\S+) %", _texts(page))
    assert area is not None
    assert smaller is not None
    assert float(smaller[1]) < float(area[1])
    back = next(button for button in page.button if button.label.startswith("Back to the threshold"))
    back.click().run()
    assert f"Lesion: {area[1]} %" in _texts(page)
    page.button[0].click().run()
    assert "Accept" not in _texts(page)


def test_a_bundle_of_several_classes_has_a_choice_and_a_tab(several: Bundle) -> None:
    page = _page(Settings((str(several.path), "lesion")))
    page.button[0].click().run()
    assert "Pigment network:" in _texts(page)
    (choice,) = (box for box in page.selectbox if box.label == "Structure")
    choice.select("globules").run()
    assert "Globules:" in _texts(page)
    tabs = {tab.label for tab in page.tabs}
    assert "Attributes" in tabs
    assert "Compare" not in tabs, "the other bundle finds no globules"


def test_bundles_that_find_the_same_are_compared(dark_bundle: Bundle) -> None:
    page = _page(Settings(("lesion", str(dark_bundle.path))))
    page.button[0].click().run()
    assert "Compare" in {tab.label for tab in page.tabs}


def test_one_bundle_of_one_class_has_no_tab_for_more() -> None:
    page = _page(Settings(("lesion",)))
    page.button[0].click().run()
    assert not {"Attributes", "Compare"} & {tab.label for tab in page.tabs}


def test_a_service_that_is_not_there_is_a_sentence_on_the_page() -> None:
    page = _page(Settings(api="http://127.0.0.1:9"))
    assert "The service at http://127.0.0.1:9 does not answer" in _texts(page)
    assert page.button[-1].label == "Try again"


def test_a_fault_of_the_app_is_logged_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = _page(Settings(("lesion",)))

    def fail(*_: object) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr(view, "outlined", fail)
    with caplog.at_level(logging.ERROR):
        page.button[0].click().run()
    assert "by a fault of its own" in _texts(page)
    assert "inside" not in _texts(page)
    assert "inside" in caplog.text
