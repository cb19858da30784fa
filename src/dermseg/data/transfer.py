"""Fetches one file over HTTP and goes on where an earlier attempt, or an earlier process, broke off."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions

from dermseg._version import __version__
from dermseg.data.archive import Limits, Progress, check_space
from dermseg.errors import DataError
from dermseg.imaging import write_bytes

Report = Callable[[str], None]
"""Called with a line for the user."""
MAX_REDIRECTS = 10
PIECE = 1 << 16  # bytes read at once; as many may be lost when a connection is cut
ENOUGH = 1 << 20  # bytes that a try must bring to count as progress
STRETCH = 1 << 28  # bytes between two looks at the disk, and the room to have where no length is announced
_PASSING = frozenset({408, 425, 429})  # with 500 and above, the answers that may be better another time


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: Tries in a row that bring less than a mebibyte, the last of which fails the file.
        pause: Seconds before the second try; each further pause is twice as long.
        longest_pause: The most seconds between two tries, also where the server asks for more.
        timeout: Seconds to wait for a connection, and for each piece of data.
    """

    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0
    timeout: float = 60.0


class _PassingError(Exception):
    """A failure that another try may mend."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass
class ResumingDownloader:
    """A downloader for ``pooch.retrieve`` that keeps what it has in a file and asks only for the rest.

    A rest is asked for only if the server gave a strong ETag or a date, and only on condition that they still hold,
    so that parts of two versions of a file are never joined. They lie beside the part, in ``PART.json``.

    Attributes:
        part: What has been fetched so far.
        check: Called with the complete file; raises where it is not what was asked for.
        most: The most bytes that a file may have.
        resumed: Whether any of the file came from an earlier try.
    """

    part: Path
    patience: Patience
    progress: Progress
    report: Report
    check: Callable[[Path], None]
    most: int = Limits.size
    resumed: bool = False

    def __call__(self, url: str, output_file: str | os.PathLike[str], pooch: object) -> None:
        """Fetches ``url`` into ``output_file``.

        Raises:
            DataError: The server does not give the file, or one without end.
            InputError: It cannot be written, or the disk is too full.
        """
        del pooch
        tries, name = 0, self._name
        with _Session() as session:
            while True:
                before = self._size()
                try:
                    self._try(session, url)
                    break
                except _PassingError as error:
                    tries = 1 if self._size() - before >= ENOUGH else tries + 1
                    if tries >= self.patience.attempts:
                        times = "once" if tries == 1 else f"{tries} times in a row"
                        raise DataError(f"{name}: {error}, {times}") from error
                    pause = max(error.wait, self.patience.pause * 2 ** (tries - 1))
                    pause = min(pause, self.patience.longest_pause)
                    self.report(f"{name}: {error}; trying again in {pause:.3g} s")
                    time.sleep(pause)
        try:
            self.check(self.part)
        except DataError:
            self.discard()
            raise
        output = Path(output_file)
        output.unlink(missing_ok=True)
        try:  # the part stays until the caller has checked the hash, so that a kill meanwhile loses nothing
            os.link(self.part, output)
        except OSError:  # a disk without hard links
            self.part.replace(output)

    def discard(self) -> None:
        """Removes what has been fetched."""
        self.part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        return self.part.name.removesuffix(".part")

    @property
    def _state(self) -> Path:
        return self.part.with_name(self.part.name + ".json")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _known(self, url: str) -> tuple[str, int | None]:
        """The validator and the total size of the file that the part is of; "" where none is known."""
        try:
            state = json.loads(self._state.read_text())
            if state["url"] == url and self.part.exists():
                return str(state["validator"]), state["total"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return "", None

    def _try(self, session: requests.Session, url: str) -> None:
        """Fetches what is missing, or as much of it as comes."""
        validator, total = self._known(url)
        offset = self._size() if validator else 0
        if offset and offset == total:
            return
        headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
        try:
            with session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as response:
                if offset and response.status_code == 416:
                    self._check_complete(response, offset)
                    return
                self._refuse(response)
                if response.status_code == 206:
                    total = self._total_of_rest(response, offset, validator)
                    self.resumed = True
                    self.report(f"{self._name}: goes on after {offset / 1e6:.1f} MB")
                else:
                    if offset:
                        self.report(f"{self._name}: the server gives it from the beginning only, or has a new version")
                    offset, total = 0, _length(response)
                    self.discard()
                    state = {"url": url, "validator": _validator(response), "total": total}
                    write_bytes(self._state, json.dumps(state).encode())
                self._check_room(offset, total)
                self._check_size(total or 0)
                self._write(response, offset, total)
        except (requests.exceptions.TooManyRedirects, ValueError) as error:
            # ValueError: an address that cannot be one, such as one without a host
            raise DataError(f"{self._name}: {_short(error)}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _PassingError(_short(error)) from error

    def _write(self, response: requests.Response, offset: int, total: int | None) -> None:
        done = checked = offset
        try:
            with self.part.open("ab" if offset else "wb") as file:
                self.progress(self._name, done, total)
                for piece in response.raw.stream(PIECE, decode_content=False):
                    file.write(piece)
                    done += len(piece)
                    self.progress(self._name, done, total)
                    if done > self.most:
                        break
                    if done - checked >= STRETCH:
                        self._check_room(done, total)
                        checked = done
        finally:
            response.close()
        self._check_size(done)
        if total is not None and done != total:
            raise _PassingError(f"{done} bytes came where {total} were announced")

    def _check_room(self, done: int, total: int | None) -> None:
        check_space(self.part.parent, STRETCH if total is None else total - done, self._name)

    def _check_size(self, size: int) -> None:
        if size > self.most:
            self.discard()
            raise DataError(
                f"{self._name}: the server sends more than {self.most / 1e9:.3g} GB, the most that is expected"
            )

    def _refuse(self, response: requests.Response) -> None:
        """Raises where an answer does not carry the file."""
        status = response.status_code
        said = f"the server answered {status} {response.reason or ''}".rstrip()
        if status in _PASSING or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _PassingError(said, float(after) if after.isdecimal() else 0.0)
        if status not in (200, 206):
            raise DataError(f"{self._name}: {said}")
        if "html" in response.headers.get("Content-Type", "").lower():
            raise DataError(f"{self._name}: the server sent a web page (HTML), not the file")
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise DataError(f"{self._name}: the server sent it encoded as {coding}, though asked not to")

    def _total_of_rest(self, response: requests.Response, offset: int, validator: str) -> int | None:
        """The size of the whole file that a 206 answers with the rest of; starts anew where it is another file's."""
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        changed = validator.startswith('"') and response.headers.get("ETag", validator) != validator
        if not offset or not span or int(span[1]) != offset or changed:
            self._start_anew("the server sent another part than was asked for")
        return None if span[3] == "*" else int(span[3])

    def _check_complete(self, response: requests.Response, offset: int) -> None:
        """Accepts a 416, which says that nothing lies beyond the part, only if the part is the whole file."""
        if response.headers.get("Content-Range") != f"bytes */{offset}":
            self._start_anew("the file on the server is another than before")

    def _start_anew(self, why: str) -> NoReturn:
        self.discard()
        raise _PassingError(why)


class _Session(requests.Session):
    """Follows redirects to http and https alone, and never from https to http."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS
        # Encoded data could not be resumed; a ZIP gains nothing by it.
        self.headers.update({"User-Agent": f"dermseg/{__version__}", "Accept-Encoding": "identity"})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            before, after = urlsplit(resp.url).scheme.lower(), urlsplit(urljoin(resp.url, target)).scheme.lower()
            if after != "https" and (before, after) != ("http", "http"):
                resp.close()
                raise DataError(f"the server sends on from {before} to {after}:, which is not followed ({resp.url})")
        return target


def _validator(response: requests.Response) -> str:
    """What tells whether a file has changed: a strong ETag, else its date; "" where there is neither."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _short(error: Exception) -> str:
    """A failure of the connection in a few words, without the address and the layers of libraries."""
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return f"the server sends on more than {MAX_REDIRECTS} times"
    if isinstance(error, requests.exceptions.SSLError):
        return "no safe connection (TLS) to the server could be made"
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return "the server does not answer"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.ProtocolError):
        return "the connection was cut"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "there is no connection to the server"
    return str(error)
