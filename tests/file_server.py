"""A web server on this machine that answers as honest, broken and hostile ones do; nothing outside is reached."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Answer:
    """How one request is answered; the default is as a good server does."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_after: int | None = None
    flip: int | None = None  # the place of a byte to corrupt
    delay: float = 0.0
    hold: threading.Event | None = None  # waited for where the connection would be cut
    ranges: bool = True
    chunked: bool = False


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0  # bytes of body


@dataclass
class FileServer:
    """Attributes:
    files: Content by path.
    script: The answers to the next requests for a path; a good one once they are used up.
    validator: What files are marked with: "etag", "weak", "date" or "".
    log: All requests so far.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Answer]] = field(default_factory=dict)
    validator: str = "etag"
    ranges: bool = True
    log: list[Request] = field(default_factory=list)

    def mark(self, content: bytes) -> dict[str, str]:
        digest = hashlib.md5(content).hexdigest()
        return {
            "etag": {"ETag": f'"{digest}"'},
            "weak": {"ETag": f'W/"{digest}"'},
            "date": {"Last-Modified": formatdate(int(digest[:7], 16), usegmt=True)},
            "": {},
        }[self.validator]

    def asked(self, path: str) -> list[str | None]:
        """The ranges asked for."""
        return [request.range for request in self.log if request.path == path]


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Runs a server, and fails every connection to another host."""
    files = FileServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, files)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "DERMSEG_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if address[0] != "127.0.0.1":
            raise AssertionError(f"a test reached for {address}")
        connect(self, address)

    def resolve_nothing(host: str, *arguments: Any, **keywords: Any) -> Any:
        if host != "127.0.0.1":
            raise AssertionError(f"a test asked for the address of {host}")
        return resolve(host, *arguments, **keywords)

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", resolve_nothing)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, files: FileServer) -> None:
    request = Request(handler.path, handler.headers["Range"], handler.headers["If-Range"])
    files.log.append(request)
    script = files.script.get(handler.path, [])
    answer = script.pop(0) if script else Answer()
    if answer.delay:
        time.sleep(answer.delay)
    content = files.files.get(handler.path) if answer.body is None else answer.body
    status, headers = 200, {}
    if content is None:
        status, content = 404, b"no such file"
    elif answer.body is None:
        headers = files.mark(content)
        fits = request.if_range in (None, *headers.values())
        if request.range and fits and answer.ranges and files.ranges:
            span = re.fullmatch(r"bytes=(\d+)-", request.range)
            assert span, request.range
            start, size = int(span[1]), len(content)
            if start >= size:
                status, content, headers = 416, b"", {"Content-Range": f"bytes */{size}"}
            else:
                status, content = 206, content[start:]
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    request.status = answer.status or status
    if answer.flip is not None:
        content = content[: answer.flip] + bytes([content[answer.flip] ^ 255]) + content[answer.flip + 1 :]
    headers |= {"Transfer-Encoding": "chunked"} if answer.chunked else {"Content-Length": str(len(content))}
    try:
        handler.send_response(request.status)
        for name, value in (headers | answer.headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        sent = content[: answer.cut_after]
        for start in range(0, len(sent), 1 << 14):
            piece = sent[start : start + (1 << 14)]
            request.sent += len(piece)  # first, so that who has the last byte finds it counted
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if answer.chunked else piece)
        if answer.hold:
            handler.wfile.flush()
            answer.hold.wait(60)
        if answer.chunked and answer.cut_after is None:
            handler.wfile.write(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass
    if answer.cut_after is not None or "Content-Length" in answer.headers:
        handler.close_connection = True
