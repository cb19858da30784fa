"""A real browser for tests of pages: skipped where there is none, unless ``DERMSEG_REQUIRE_BROWSER`` is set."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from dermseg.errors import InputError
from dermseg.report import pdf


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium or Chrome."""
    try:
        return pdf.find_browser()
    except InputError:
        reason = "there is no Chromium or Chrome on the PATH"
        if os.environ.get("DERMSEG_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """Chromium under Playwright."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
