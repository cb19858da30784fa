"""Prints a report as PDF, through Chromium or Chrome."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from dermseg.errors import InputError
from dermseg.imaging import write_bytes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 300
"""Seconds; a page of a thousand images takes some ten."""


def write_pdf(page: Path) -> Path:
    """Print a page of this package to a PDF beside it, whole: with the texts that are folded on screen.

    Args:
        page: The HTML file.

    Returns:
        The PDF.

    Raises:
        InputError: If there is no browser, it fails, or the file cannot be read or written.
    """
    browser = find_browser()
    target = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="dermseg-") as folder:
        copy, printed = Path(folder) / "page.html", Path(folder) / "page.pdf"
        copy.write_text(_unfolded(page), encoding="utf-8")
        command = [
            *(browser, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/profile"),
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),  # root has no sandbox
            *("--no-pdf-header-footer", f"--print-to-pdf={printed}", copy.as_uri()),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{browser} did not print {page}: {error}; open the page and print it by hand") from error
        if not printed.is_file():
            reason = (
                done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
            )
            raise InputError(f"{browser} did not print {page}: {reason}; open the page and print it by hand")
        write_bytes(target, printed.read_bytes())
    return target


def find_browser() -> str:
    """The path of a browser that prints.

    Raises:
        InputError: If there is none.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise InputError(
            "a PDF needs Chromium or Chrome, and none is on the PATH; install one (apt install chromium), "
            "or open the page and print it by hand"
        )
    return found


def _unfolded(page: Path) -> str:
    """The page without what waits for a reader: pictures that load when they are scrolled to, texts that unfold.

    Nor does it link to the files beside it, which a PDF leaves behind. What comes from data is escaped in the page, so
    that it holds none of the marks that are looked for.
    """
    try:
        html = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{page} cannot be read ({error.strerror}); write the report first") from error
    html = html.replace(' loading="lazy"', "").replace("<details>", "<details open>")
    return re.sub(r'<a href="(?!#|https?:)[^"]*">', "<a>", html)
