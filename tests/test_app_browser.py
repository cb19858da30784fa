"""The web app in a browser, as its visitors have it: the server of `dermseg.app.run`, and Chromium."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, expect, sync_playwright

from dermseg import Prediction, Segmenter
from dermseg.bundle import Bundle
from dermseg.imaging import encode_image, encode_mask
from dermseg.metrics import Confusion
from dermseg.synthetic import SyntheticImage, draw

# The app, with a mark in a file for each run of a network.
COUNTING = """
import sys
from pathlib import Path
from dermseg import app
from dermseg.segmenter import Segmenter
port, marks, *bundles = sys.argv[1:]
def counted(self, images, run=Segmenter.run):
    with Path(marks).open("a") as file:
        file.write("|" * len(images))
    return run(self, images)
Segmenter.run = counted
app.run(port=int(port), bundles=bundles)
"""

WAIT = 30_000
"""Milliseconds for an answer of the page, on a slow machine."""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass(frozen=True)
class App:
    url: str
    process: subprocess.Popen[bytes]
    counted: Path

    @property
    def runs(self) -> int:
        """How often a network ran."""
        return len(self.counted.read_text())


@pytest.fixture(scope="module")
def app(chromium: str, dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    counted = folder / "runs"
    counted.touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", COUNTING, str(port), str(counted), "lesion", str(dark_bundle.path)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                pytest.fail((folder / "log").read_text())
            try:
                if httpx.get(url).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield App(url, process, counted)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
    said = (folder / "log").read_text()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert f"dermseg app: {url}" in said
    assert not [path.name for path in folder.iterdir() if path.name not in ("log", "runs")]


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Shared, so that the page's scripts are loaded once."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(WAIT)
        yield context


@pytest.fixture
def page(app: App, context: BrowserContext) -> Iterator[Page]:
    """A visitor's page, which may ask nothing of any other server."""
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(app.url)
    opened.get_by_role("button", name="Try an example").wait_for()
    yield opened
    opened.close()
    assert asked
    assert not [url for url in asked if not url.startswith((app.url, "data:", "blob:"))]


@pytest.fixture(scope="module")
def prediction(example_file: Path) -> Prediction:
    return Segmenter()(example_file.read_bytes())


def upload(page: Page, *files: FilePayload) -> None:
    page.locator(".st-key-files input[type=file]").set_input_files(list(files))


def payload(name: str, content: bytes) -> FilePayload:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def outline(page: Page) -> Locator:
    return page.get_by_role("img", name=re.compile("^Photograph .* with the outline"))


def download(page: Page, name: str) -> bytes:
    with page.expect_download() as downloading:
        page.get_by_role("button", name=name).click()
    return Path(downloading.value.path()).read_bytes()


def scroll_width(page: Page) -> int:
    """How wide the widest thing on the page is that a visitor could scroll to, in pixels."""
    return int(
        page.evaluate(
            "Math.max(...['stMain', 'stApp'].map(id => document.querySelector(`[data-testid=${id}]`).scrollWidth),"
            "document.documentElement.scrollWidth)"
        )
    )


def test_a_threshold_redraws_and_the_network_is_not_run_again(
    app: App, page: Page, example_file: Path, prediction: Prediction
) -> None:
    before = app.runs
    upload(page, payload("mole.png", example_file.read_bytes()))
    expect(outline(page)).to_have_attribute("alt", re.compile(r"mole\.png .* of it\.$"), timeout=WAIT)
    assert download(page, "Mask (PNG)") == encode_mask(prediction.mask)
    first = outline(page).get_attribute("src")
    assert app.runs == before + 1

    slider = page.get_by_role("slider", name="Threshold on the probability")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    own = Bundle.load().manifest.thresholds["lesion"]
    expect(page.get_by_role("button", name=f"Back to the threshold {own:.3f}")).to_be_visible(timeout=WAIT)
    expect(outline(page)).not_to_have_attribute("src", first or "", timeout=WAIT)
    page.wait_for_timeout(1000)
    threshold = float(slider.input_value())
    assert threshold == pytest.approx(own + 0.3, abs=0.01)
    higher = Segmenter(threshold=threshold)(example_file)
    assert higher.mask.sum() < prediction.mask.sum()
    assert download(page, "Mask (PNG)") == encode_mask(higher.mask)
    result = json.loads(download(page, "Result (JSON)"))
    assert result["image"] == "mole.png"
    assert result["classes"][0]["area_pixels"] == int(higher.mask.sum())
    assert download(page, "Overlay (PNG)").startswith(b"\x89PNG")

    shown = outline(page).get_attribute("src")
    page.get_by_role("slider", name="Opacity").focus()
    page.keyboard.press("End")
    expect(outline(page)).not_to_have_attribute("src", shown or "", timeout=WAIT)
    page.get_by_role("button", name="Back to the threshold").click()
    expect(page.get_by_role("button", name="Back to the threshold")).to_have_count(0, timeout=WAIT)
    assert download(page, "Mask (PNG)") == encode_mask(prediction.mask)
    assert app.runs == before + 1


def test_many_images_and_one_that_is_none(page: Page) -> None:
    images = [encode_image(draw(seed, (96, 128)).pixels) for seed in range(2)]
    upload(page, payload("a.png", images[0]), payload("*bad*.png", b"hello"), payload("b.png", images[1]))
    bad = "*bad*.png is not a JPEG, PNG, BMP, TIFF or WebP picture"
    expect(page.get_by_role("alert")).to_contain_text(bad, timeout=WAIT)
    expect(page.get_by_role("status")).to_contain_text("1 could not be used", timeout=WAIT)
    with zipfile.ZipFile(io.BytesIO(download(page, "Download all"))) as files:
        assert {"1_a_mask.png", "3_b_mask.png", "results.csv"} < set(files.namelist())
        assert files.read("3_b_mask.png") == encode_mask(Segmenter()(images[1]).mask)
        assert bad in files.read("results.csv").decode()
    page.get_by_role("button", name="Open").last.click()
    expect(page.get_by_role("heading", name="b.png")).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_role("alert")).to_contain_text(bad, timeout=WAIT)
    page.get_by_role("button", name="All images").click()
    expect(page.get_by_role("button", name="Download all")).to_be_visible(timeout=WAIT)


def test_a_true_mask_is_scored(page: Page, example: SyntheticImage, prediction: Prediction) -> None:
    upload(page, payload("mole.png", encode_image(example.pixels)))
    page.get_by_role("tab", name="Ground truth").click()
    truth = np.roll(example.mask, 9, axis=1)
    page.locator("[class*=st-key-truth] input[type=file]").set_input_files([payload("t.png", encode_mask(truth))])
    expected = Confusion.of(prediction.mask, truth)
    row = page.get_by_role("row", name="Jaccard index", exact=False).first
    expect(row).to_contain_text(f"{expected.jaccard:.3f}", timeout=WAIT)
    expect(page.get_by_role("img", name="Where the mask and the true mask differ")).to_be_visible()
    page.locator("[class*=st-key-truth] input[type=file]").set_input_files([payload("t.png", encode_mask(truth[1:]))])
    expect(page.get_by_role("alert")).to_contain_text("give the mask of this image", timeout=WAIT)


def test_a_phone_shows_each_tab_without_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.get_by_role("button", name="Try an example").focus()
    page.keyboard.press("Enter")
    expect(outline(page)).to_be_visible(timeout=WAIT)
    pictures = {
        "Mask": "Mask of example.png",
        "Probability": "Map of the probability",
        "Uncertainty": "Map of the entropy",
        "Measurements": None,
        "Compare": "Where the two masks differ",
        "Ground truth": None,
    }
    for tab, picture in pictures.items():
        page.get_by_role("tab", name=tab).click()
        if picture:
            expect(page.get_by_role("img", name=picture)).to_be_visible(timeout=WAIT)
        elif tab == "Measurements":
            expect(page.get_by_role("row", name="Largest diameter")).to_be_visible(timeout=WAIT)
        assert scroll_width(page) <= 390, tab
    assert page.locator("img:not([alt])").count() == 0
    background = page.locator("[data-testid=stApp]").evaluate("page => getComputedStyle(page).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", background)[:3])) < 120
