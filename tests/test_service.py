"""Every address of the service, on a real one: its answers are what dermseg itself gives, its errors are problems."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from dermseg import Segmenter, __version__, figures
from dermseg.bundle import Bundle
from dermseg.errors import BrokenImageError, ImageTooLargeError, UnsupportedImageError
from dermseg.explanation import Explainer
from dermseg.imaging import encode_image, encode_mask, read_mask
from dermseg.metrics import Confusion
from dermseg.segmenter import Prediction
from dermseg.synthetic import SyntheticImage
from tests.hostile import HOSTILE, TOO_LARGE, Decodes, orientation_block, saved
from tests.service import PROBLEM, Service, command, disc, serving, two_classes, until, without

TOKEN = "known to few"
HEADERS = ("X-Model", "X-Version", "X-Quality", "X-Request-ID", "Server-Timing")
ABSENT = ("torch", "scipy", "pandas", "matplotlib", "streamlit")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Serves what is shipped; the first explanation loads torch, which takes a busy machine half a minute."""
    with serving("--deadline", "100") as running:
        yield running


@pytest.fixture(scope="module")
def two(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return two_classes(dark_bundle, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def strict(dark_bundle: Bundle, two: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serves two tiny bundles, the second of two classes, within narrow limits; torch is not installed."""
    bundles = ("--bundle", dark_bundle.path, "--bundle", two.path)
    limits = ("--max-upload", "2", "--max-pending", "1", "--max-files", "3", "--max-megapixels", "100")
    absent = without(tmp_path_factory.mktemp("absent"), *ABSENT)
    with serving(*bundles, *limits, token=TOKEN, environment=absent) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def insider(strict: Service) -> Iterator[httpx.Client]:
    with strict.client() as client:
        yield client


@pytest.fixture(scope="module")
def photo(example: SyntheticImage) -> bytes:
    return encode_image(example.pixels, "JPEG")


@cache
def predicted(content: bytes, **options: Any) -> Prediction:
    """What dermseg finds by itself."""
    return Segmenter(threads=1, **options)(content)


def post(client: httpx.Client, content: bytes, **parameters: object) -> httpx.Response:
    chosen = {name: str(value) for name, value in parameters.items()}
    return client.post("/segment", files={"file": content}, params=chosen)


def answered(response: httpx.Response, media_type: str = "image/png") -> bytes:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == media_type
    assert [name for name in HEADERS if name not in response.headers] == []
    return response.content


def problem(response: httpx.Response, status: int) -> str:
    """Check a problem document, and give its sentence."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == PROBLEM
    document = response.json()
    assert document["type"] == "about:blank"
    assert document["status"] == status
    assert document["title"]
    assert document["instance"] == f"/requests/{response.headers['X-Request-ID']}"
    detail: str = document["detail"]
    assert "/work" not in detail
    return detail


def plain(prediction: Prediction) -> dict[str, Any]:
    """As JSON brings it; bytes have no name."""
    found: dict[str, Any] = json.loads(json.dumps(prediction.to_dict()))
    del found["image"]
    return found


def pixels(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)))


# What it says of itself


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", {"status": "healthy", "model": "lesion", "version": __version__}),
        ("/health", {"status": "healthy"}),
        ("/health/live", {"status": "alive"}),
        ("/health/ready", {"status": "ready"}),
    ],
)
def test_it_says_how_it_is(client: httpx.Client, path: str, expected: dict[str, str]) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()) == (200, expected)


def test_bundles_are_listed_with_their_cards(client: httpx.Client, insider: httpx.Client) -> None:
    (lesion,) = client.get("/bundles").json()
    assert set(lesion) == {
        *("name", "description", "classes", "licence", "parameters", "input_size", "thresholds", "scores", "card"),
        "default",
    }
    assert (lesion["name"], lesion["classes"], lesion["default"]) == ("lesion", ["lesion"], True)
    assert lesion["card"].startswith("#")
    assert [(each["name"], each["classes"], each["default"]) for each in insider.get("/bundles").json()] == [
        ("dark", ["lesion"], True),
        ("two", ["lesion", "bright"], False),
    ]


def test_metrics_count(client: httpx.Client, service: Service, photo: bytes) -> None:
    before = service.metric("dermseg_http_requests_total", route="/segment", status="200")
    answered(post(client, photo))
    assert service.metric("dermseg_http_requests_total", route="/segment", status="200") == before + 1
    assert service.metric("dermseg_batch_images_sum") >= 1
    assert service.metric("process_resident_memory_bytes") > 2**20
    assert service.is_idle()


def test_the_documentation_brings_all_it_loads(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) >= 3
    for address in addresses:
        response = client.get(page.url.join(address))
        assert response.url.host == page.url.host
        assert (response.status_code, bool(response.content)) == (200, True), address
    assert "/segment/batch" in client.get("/openapi.json").json()["paths"]


def test_the_request_keeps_its_id(client: httpx.Client) -> None:
    assert client.get("/", headers={"X-Request-ID": "mine-1.a_b"}).headers["X-Request-ID"] == "mine-1.a_b"
    assert client.get("/", headers={"X-Request-ID": "not mine"}).headers["X-Request-ID"] != "not mine"


# Pictures and numbers


def test_a_mask_is_the_default(client: httpx.Client, photo: bytes) -> None:
    response = post(client, photo)
    assert answered(response) == encode_mask(predicted(photo).mask)
    quality = predicted(photo).quality
    assert quality is not None
    assert [response.headers[name] for name in HEADERS[:3]] == ["lesion", __version__, quality.verdict]
    stages = r", ".join(rf"{stage};dur=\d+\.\d" for stage in ("decode", "queue", "network", "encode"))
    assert re.fullmatch(stages, response.headers["Server-Timing"])


def test_pictures_are_those_of_the_segmenter(client: httpx.Client, photo: bytes) -> None:
    expected = predicted(photo)
    assert (pixels(answered(post(client, photo, output="mask"))) == 255 * expected.mask).all()
    probability = pixels(answered(post(client, photo, output="probability")))
    assert (probability == np.floor(255 * expected.probability() + 0.5)).all()
    assert (pixels(answered(post(client, photo, output="overlay"))) == expected.overlay()).all()
    assert (pixels(answered(post(client, photo, output="side-by-side"))) == expected.side_by_side()).all()


def test_uncertainty_takes_ten_samples_unless_told(client: httpx.Client, photo: bytes) -> None:
    for options, parameters in (({"mc_dropout": 10}, {}), ({"mc_dropout": 2}, {"mc_samples": 2})):
        expected = predicted(photo, **options)
        assert expected.uncertainty is not None
        entropy = figures.probability_image(expected.geometry.invert(expected.uncertainty.entropy[0]))
        assert (pixels(answered(post(client, photo, output="uncertainty", **parameters))) == entropy).all()


def test_an_explanation_is_the_explainers(client: httpx.Client, photo: bytes) -> None:
    found = pixels(answered(post(client, photo, output="explanation"))).astype(int)
    expected = Explainer()(photo).overlay()
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 1  # sums in another order, by the number of threads


def test_json_tells_all(client: httpx.Client, photo: bytes) -> None:
    expected = predicted(photo)
    told = json.loads(answered(post(client, photo, output="json"), "application/json"))
    (entry,) = told["classes"]
    polygon, rle = entry.pop("polygon"), entry.pop("rle")
    assert told == plain(expected)
    assert (decoded(rle) == expected.mask).all()
    assert polygon["type"] == "MultiPolygon"
    assert sum(shoelace(ring) for rings in polygon["coordinates"] for ring in rings) == expected.mask.sum()


def decoded(rle: dict[str, Any]) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        return np.asarray(coco.decode(rle)).astype(bool)


def shoelace(ring: list[list[int]]) -> float:
    x, y = np.array(ring).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def test_a_zip_holds_the_pictures(client: httpx.Client, photo: bytes) -> None:
    for parameters, more in (({}, set()), ({"mc_samples": 2}, {"uncertainty.png"})):
        content = answered(post(client, photo, output="zip", **parameters), "application/zip")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert {*archive.namelist()} == {"mask.png", "probability.png", "overlay.png", "result.json"} | more
            mask, told = archive.read("mask.png"), json.loads(archive.read("result.json"))
        assert (read_mask(mask) == predicted(photo, mc_dropout=len(more) * 2).mask).all()
        assert told["classes"][0]["area_pixels"] == read_mask(mask).sum()


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"threshold": 0.9}, {"threshold": 0.9}),
        ({"tta": "true"}, {"tta": True}),
        ({"mc_samples": 3}, {"mc_dropout": 3}),
        ({"mm_per_pixel": 0.05}, {"mm_per_pixel": 0.05}),
        ({"bundle": "lesion", "attribute": "lesion"}, {}),
    ],
)
def test_options_are_the_segmenters(
    client: httpx.Client, photo: bytes, parameters: dict[str, object], options: dict[str, Any]
) -> None:
    told = json.loads(answered(post(client, photo, output="json", **parameters), "application/json"))
    del told["classes"][0]["polygon"], told["classes"][0]["rle"]
    assert told == plain(predicted(photo, **options))


def test_a_class_is_chosen(insider: httpx.Client) -> None:
    content, dark = disc(30)
    masks = {
        attribute: read_mask(answered(post(insider, content, bundle="two", attribute=attribute)))
        for attribute in ("lesion", "bright")
    }
    assert (masks["lesion"] & dark).sum() > 0.95 * dark.sum()
    assert (masks["bright"] & ~dark).sum() > 0.95 * (~dark).sum()
    assert (masks["lesion"] != masks["bright"]).all()
    told = post(insider, content, bundle="two", output="json").json()
    for entry in told["classes"]:
        assert (decoded(entry["rle"]) == masks[entry["name"]]).all()
    response = post(insider, content, bundle="two")
    assert [response.headers[name] for name in ("X-Model", "X-Quality")] == ["two", "unknown"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_segmented_as_it_is_seen(
    insider: httpx.Client, orientation: int, dark_bundle: Bundle
) -> None:
    rows, columns = np.ogrid[:60, :100]
    spot = (rows - 20) ** 2 + (columns - 30) ** 2 < 15**2
    photo = np.where(spot[..., None], np.uint8(20), np.uint8(235)).repeat(3, axis=2)
    content = saved(Image.fromarray(photo), "JPEG", quality=95, exif=orientation_block(orientation))
    mask = read_mask(answered(post(insider, content)))
    assert mask.shape == ((60, 100) if orientation < 5 else (100, 60))
    assert (mask == Segmenter(dark_bundle)(content).mask).all()


# Many at a time, and scores


def test_a_mask_is_scored(client: httpx.Client, photo: bytes, example: SyntheticImage) -> None:
    files = {"file": photo, "mask": encode_mask(example.mask)}
    told = json.loads(answered(client.post("/evaluate", files=files), "application/json"))
    expected = predicted(photo)
    assert told["scores"] == Confusion.of(expected.mask, example.mask).scores()
    assert (read_mask(base64.b64decode(told["mask"])) == expected.mask).all()
    assert told["prediction"] == plain(expected)
    small = {"file": photo, "mask": encode_mask(example.mask[:-1])}
    assert "the mask has 256 x 191 pixels, the photograph 256 x 192" in problem(
        client.post("/evaluate", files=small), 422
    )


def test_one_bad_file_spoils_no_batch(client: httpx.Client, photo: bytes) -> None:
    other = disc(30)[0]
    files = [("files", (name, content)) for name, content in (("a.jpg", photo), ("é", b"no image"), ("c", other))]
    response = client.post("/segment/batch", files=files)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/x-ndjson")
    first, second, third = map(json.loads, response.text.splitlines())
    assert [each["file"] for each in (first, second, third)] == ["a.jpg", "é", "c"]
    for told, content in ((first, photo), (third, other)):
        mask = decoded(told["result"]["classes"][0]["rle"])
        assert (mask == predicted(content).mask).mean() > 0.999  # a batch's sums may differ in their last digit
    assert second["problem"]["status"] == 415
    assert "instance" not in second["problem"]


def test_a_batch_may_be_a_zip(client: httpx.Client, photo: bytes) -> None:
    files = [
        ("files", (name, content)) for name, content in (("../a b.jpg", photo), ("bad", b"BM"), ("a b.jpg", photo))
    ]
    response = client.post("/segment/batch", files=files, params={"output": "zip"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        kinds = ("mask.png", "probability.png", "overlay.png", "result.json")
        stems = {f"{index}_a_b_{kind}" for index in (0, 2) for kind in kinds}
        assert {*archive.namelist()} == stems | {"results.json"}
        listed = json.loads(archive.read("results.json"))
        assert (read_mask(archive.read("0_a_b_mask.png")) == predicted(photo).mask).mean() > 0.999
    assert [each.get("result") for each in listed] == ["0_a_b_result.json", None, "2_a_b_result.json"]
    assert listed[1]["problem"]["status"] in (415, 422)


def test_a_batch_of_several_classes_has_files_of_each(insider: httpx.Client, photo: bytes) -> None:
    response = insider.post(
        "/segment/batch", files=[("files", ("a.jpg", photo))], params={"output": "zip", "bundle": "two"}
    )
    assert response.status_code == 200
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        each = {
            f"0_a_{name}_{kind}.png" for name in ("lesion", "bright") for kind in ("mask", "probability", "overlay")
        }
        assert {*archive.namelist()} == each | {"0_a_overlay.png", "0_a_result.json", "results.json"}


@pytest.mark.parametrize(
    ("path", "field", "output"),
    [("/predict", "file", "mask"), ("/predict/", "file", "mask"), ("/segmentation", "image", "probability")],
)
def test_earlier_clients_are_answered(client: httpx.Client, photo: bytes, path: str, field: str, output: str) -> None:
    found = pixels(answered(client.post(path, files={field: photo})))
    assert (found == pixels(post(client, photo, output=output).content)).all()


# What is refused


def test_the_token_is_asked_for(strict: Service) -> None:
    with httpx.Client(base_url=strict.url, timeout=60, trust_env=False) as outsider:
        for path in ("/", "/health", "/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert outsider.get(path).status_code == 200, path
        for response in (
            outsider.get("/bundles"),
            outsider.get("/metrics"),
            post(outsider, disc(9)[0]),
            outsider.post("/segment", headers={"Authorization": "Bearer wrong"}),
        ):
            assert "send the header 'Authorization: Bearer TOKEN' once" in problem(response, 401)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert TOKEN not in strict.log.read_text()


REFUSED: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no such address": ("GET", "/nothing", {}, 404, "nothing is served at this path; /docs lists what is"),
    "wrong method": ("GET", "/segment", {}, 405, "this path does not answer the request's method"),
    "no form": ("POST", "/segment", {"content": b"{}"}, 415, "multipart/form-data with a file in field 'file'"),
    "JSON": ("POST", "/segment", {"json": {}}, 415, "the body is application/json where multipart/form-data"),
    "other field": ("POST", "/segment", {"files": {"image": b"x"}}, 422, "unknown field 'image'; send a file in field"),
    "empty file": ("POST", "/segment", {"files": {"file": b""}}, 422, "the file in field 'file' is empty"),
    "no image": ("POST", "/segment", {"files": {"file": b"x" * 99}}, 415, "not a JPEG, PNG, BMP, TIFF or WebP"),
    "broken image": ("POST", "/segment", {"files": {"file": disc(9)[0][:99]}}, 422, "truncated, corrupt or of a rare"),
    "unknown parameter": (
        "POST",
        "/segment?size=3",
        {},
        422,
        "query.size: there is no such parameter; /docs lists",
    ),
    "unknown output": ("POST", "/segment?output=gif", {}, 422, "query.output: Input should be 'mask', 'probability'"),
    "unknown bundle": ("POST", "/segment?bundle=drak", {}, 422, "no bundle 'drak' here; did you mean 'dark'?"),
    "another's path": ("POST", "/segment?bundle=/etc/passwd", {}, 422, "no bundle '/etc/passwd' here; did you mean"),
    "unknown class": ("POST", "/segment?attribute=a", {}, 422, "no class 'a'; did you mean 'lesion'?"),
    "threshold": ("POST", "/segment?threshold=1", {}, 422, "query.threshold: Input should be less than 1"),
    "not a number": ("POST", "/segment?threshold=nan", {}, 422, "query.threshold: Input should be a finite number"),
    "one sample": ("POST", "/segment?mc_samples=1", {}, 422, "mc_samples is 1; expected 0 for none, or 2 to 50"),
    "no torch to sample": ("POST", "/segment?mc_samples=2", {"files": {"file": disc(9)[0]}}, 501, "the extra 'train'"),
    "many samples": ("POST", "/segment?mc_samples=51", {}, 422, "less than or equal to 50"),
    "scale": ("POST", "/segment?mm_per_pixel=0", {}, 422, "query.mm_per_pixel: Input should be greater than 0"),
    "no mask": ("POST", "/evaluate", {"files": {"file": disc(9)[0]}}, 422, "the form has no field 'mask'"),
    "many files": (
        "POST",
        "/segment/batch",
        {"files": [("files", b"x")] * 4},
        422,
        "the field 'files' has more than 3 files; send fewer at a time",
    ),
    "a picture of many": (
        "POST",
        "/segment/batch?output=mask",
        {},
        422,
        "query.output: Input should be 'json' or 'zip'",
    ),
    # What may be held at all is less here than what one body may have.
    "large body": ("POST", "/segment", {"files": {"file": bytes(3 * 2**20)}}, 413, "more than the 1 MiB"),
    "no room for it ever": ("POST", "/segment", {"files": {"file": bytes(2**20)}}, 413, "more than the 1 MiB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_gets_a_problem(insider: httpx.Client, name: str) -> None:
    method, path, body, status, sentence = REFUSED[name]
    response = insider.request(method, path, **body)
    assert sentence in problem(response, status)
    if status == 405:
        assert response.headers["Allow"] == "POST"


STATUS = {BrokenImageError: 422, UnsupportedImageError: 415, ImageTooLargeError: 413}


def test_hostile_images_get_an_answer_or_a_problem(insider: httpx.Client, strict: Service) -> None:
    """One test, since the service that answers them all must be one process."""
    for name, (make, outcome) in HOSTILE.items():
        response = post(insider, make())
        if isinstance(outcome, Decodes):
            assert read_mask(answered(response)).shape == outcome.size, name
        elif name == "empty":
            assert "is empty" in problem(response, 422)
        else:
            detail = problem(response, STATUS[outcome.error])
            assert outcome.message in detail or outcome == TOO_LARGE, name
    assert strict.process.poll() is None
    assert strict.is_idle()


# The process


def test_several_processes_are_one_service(dark_bundle: Bundle) -> None:
    content, _ = disc(30)
    with serving("--workers", "2", "--bundle", dark_bundle.path) as service:
        until(lambda: service.log.read_text().count("startup complete") == 2, 90)
        for _ in range(20):  # a connection each, so that both take some
            with service.client() as client:
                assert answered(post(client, content))
        assert service.metric("dermseg_http_requests_total", route="/segment", status="200") == 20
        assert len(service.workers()) == 2
        assert service.resident() == pytest.approx(service.metric("process_resident_memory_bytes"), rel=0.1)
        service.stop()
        assert service.log.read_text().count("Finished server process") == 2


def test_it_serves_without_the_heavy_packages(tmp_path: Path, photo: bytes) -> None:
    with serving(environment=without(tmp_path, *ABSENT)) as service, service.client() as client:
        assert answered(post(client, photo)) == encode_mask(predicted(photo).mask)
        assert "needs the extra 'train'" in problem(post(client, photo, output="explanation"), 501)
        assert answered(post(client, photo, output="zip", mc_samples=2), "application/zip")


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.stderr.startswith(f"error: 127.0.0.1 port {port} cannot be listened on: Address already in use")
    assert done.stderr.endswith("; try another --port or --host\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--bundle", "nowhere", "--workers", "1"), "error: there is no bundle 'nowhere'; give a folder, a zip or "),
        (("--bundle", "nowhere", "--workers", "2"), "error: there is no bundle 'nowhere'; give a folder, a zip or "),
        (("--bundle", "lesion", "--bundle", "lesion"), "error: two of the bundles have the name 'lesion'; serve one"),
        (("--batch", "0"), "error: --batch is 0: "),
        (("--token-file", "nowhere"), "error: the token cannot be read from nowhere: "),
    ],
)
def test_what_cannot_be_served_is_one_sentence(options: tuple[str, ...], sentence: str) -> None:
    done = run("--port", "0", *options)
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def run(*options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    return done
