"""Forms as clients send them, whole and broken, read by a real server without a trace on disk."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from dermseg.serving.config import ServiceConfig
from dermseg.serving.limits import guard
from dermseg.serving.problems import ProblemError, install
from dermseg.serving.uploads import Upload, form_schema, read_form
from tests.test_serving_limits import serve

ONE = {"file": 1}
PAIR = {"file": 1, "mask": 1}
MANY = {"files": 3}
BOUNDARY = b"frontier"


def request_of(chunks: list[bytes], content_type: str | None = "multipart/form-data; boundary=frontier") -> Request:
    """A request whose body comes in these pieces."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode("latin-1"))] if content_type is not None else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def read(
    body: bytes, files: Mapping[str, int] = ONE, step: int | None = None, **options: Any
) -> dict[str, list[Upload]]:
    step = step or max(len(body), 1)
    chunks = [body[place : place + step] for place in range(0, len(body), step)]
    return asyncio.run(read_form(request_of(chunks, **options), files=files))


def part(name: str, content: bytes, filename: str | None = "a.png", boundary: bytes = BOUNDARY) -> bytes:
    """As browsers write one: quotes and line ends in names are escaped by percent."""

    def escaped(text: str) -> str:
        return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")

    disposition = f'form-data; name="{escaped(name)}"'
    if filename is not None:
        disposition += f'; filename="{escaped(filename)}"'
    head = f"Content-Disposition: {disposition}\r\nContent-Type: image/png\r\n\r\n".encode()
    return b"--" + boundary + b"\r\n" + head + content + b"\r\n"


def form(*parts: bytes, boundary: bytes = BOUNDARY) -> bytes:
    return b"".join(parts) + b"--" + boundary + b"--\r\n"


def refused(body: bytes, files: Mapping[str, int] = ONE, **options: Any) -> tuple[int, str]:
    with pytest.raises(ProblemError) as caught:
        read(body, files, **options)
    return caught.value.status, caught.value.detail


# --- what is read -----------------------------------------------------------------------------------------------------


@given(content=st.binary(min_size=1, max_size=500), filename=st.text(max_size=40), step=st.integers(1, 200))
@example(content=b"\r\n--frontie\r\n--frontier", filename='a"b\r\nc.png', step=1)
@example(content=b"\r\n--frontier-\r\n", filename="läsion 皮.png", step=7)
@example(content=b"\r\n" * 40, filename="\\", step=3)
def test_content_survives_any_cut_and_any_name(content: bytes, filename: str, step: int) -> None:
    boundary = b"b0undary" * 3
    if b"\r\n--" + boundary in content:
        return
    content_type = f"multipart/form-data; boundary={boundary.decode()}"
    body = form(part("file", content, filename, boundary=boundary), boundary=boundary)
    (upload,) = read(body, step=step, content_type=content_type)["file"]
    assert upload.content == content
    assert upload.name is None or (upload.name.isprintable() and 0 < len(upload.name) <= 255)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("a.png", "a.png"),
        ("läsion 皮.png", "läsion 皮.png"),
        ('5" lesion.png', "5%22 lesion.png"),
        ("two\r\nlines.png", "two%0D%0Alines.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.png", "a.png"),
        ("bell\x07\u202egnp.exe", "bell\ufffd\ufffdgnp.exe"),
        ("x" * 300, "x" * 255),
        ("folder/", None),
        ("", None),
    ],
)
def test_a_name_is_fit_to_be_shown(filename: str, expected: str | None) -> None:
    assert read(form(part("file", b"abc", filename)))["file"] == [Upload(expected, b"abc")]


def test_names_that_are_no_utf_8_and_escaped_quotes() -> None:
    body = form(part("file", b"abc", "NAME")).replace(b"NAME", b'l\xe4s\\"ion.png')
    assert read(body)["file"][0].name == 'l\ufffds"ion.png'


def test_fields_and_files_in_order() -> None:
    assert read(form(part("mask", b"m"), part("file", b"f", "f.jpg")), PAIR) == {
        "file": [Upload("f.jpg", b"f")],
        "mask": [Upload("a.png", b"m")],
    }
    three = read(form(part("files", b"1", "1"), part("files", b"", "2"), part("files", b"3", "3")), MANY)
    assert three == {"files": [Upload("1", b"1"), Upload("2", b""), Upload("3", b"3")]}


def test_preamble_and_epilogue_are_ignored() -> None:
    assert read(b"\r\n" + form(part("file", b"abc")) + b"epilogue")["file"] == [Upload("a.png", b"abc")]


def test_what_our_clients_send_is_read() -> None:
    content = bytes(range(256)) * 40
    for sent in (
        httpx.Request("POST", "http://here/", files={"file": ("a b.png", content, "image/png")}),
        httpx.Request("POST", "http://here/", files={"file": content}),
    ):
        assert read(sent.read(), content_type=sent.headers["Content-Type"], step=1000)["file"][0].content == content


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "given"),
    [
        (None, "without Content-Type"),
        ("application/json", "application/json"),
        ("image/png; boundary=frontier", "image/png"),
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
        ("multipart/mixed; boundary=frontier", "multipart/mixed"),
        ("multipart/form-data-not; boundary=frontier", "multipart/form-data-not"),
    ],
)
def test_what_is_no_form_is_unsupported(content_type: str | None, given: str) -> None:
    assert refused(form(part("file", b"abc")), content_type=content_type) == (
        415,
        f"the body is {given} where multipart/form-data with a file in field 'file' is expected; "
        "send the file as a form",
    )


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_needs_a_boundary(content_type: str) -> None:
    assert refused(form(part("file", b"abc")), content_type=content_type) == (
        422,
        "the Content-Type names no boundary of the form's parts; let the client set the header",
    )


MALFORMED = "the body is not well-formed multipart/form-data; send the form again, whole"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        b"--other\r\n\r\nabc\r\n--other--\r\n",
        form(part("file", b"abc"))[:-4],  # without its last boundary
        part("file", b"abc"),
        b"--frontier\r\nContent-Disp",
        b"--frontier\r\nno colon\r\n\r\nabc\r\n--frontier--\r\n",
        b"--frontier\r\n: no name\r\n\r\nabc\r\n--frontier--\r\n",
        b"--frontier\r\n" + b"X-Header: 1\r\n" * 100 + part("file", b"abc")[12:] + b"--frontier--\r\n",
        b"--frontier\r\nX-Header: " + b"x" * 100_000 + b"\r\n\r\nabc\r\n--frontier--\r\n",
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    assert refused(body) == (422, MALFORMED)


def test_a_boundary_of_any_length_is_refused() -> None:
    assert refused(b"", content_type=f"multipart/form-data; boundary={'x' * 5000}") == (422, MALFORMED)


@given(body=st.binary(max_size=200), step=st.integers(1, 50))
def test_no_body_is_more_than_refused(body: bytes, step: int) -> None:
    with pytest.raises(ProblemError) as caught:
        read(b"--frontier\r\n" + body, step=step)
    assert caught.value.status == 422


UNKNOWN = "the form has an unknown field"
SEND = "send a file in field 'file'"


@pytest.mark.parametrize(
    ("body", "files", "detail"),
    [
        (form(part("mask", b"m")), PAIR, f"the form has no field 'file'; {SEND} and a file in field 'mask'"),
        (form(), ONE, f"the form has no field 'file'; {SEND}"),
        (form(), MANY, "the form has no field 'files'; send files in field 'files'"),
        (form(part("file", b"", "")), ONE, "the file in field 'file' is empty; choose a file and send it again"),
        (form(part("image", b"i")), ONE, f"{UNKNOWN} 'image'; {SEND}"),
        (form(part("\x1b[2J\u202e", b"i")), ONE, f"{UNKNOWN} '\ufffd[2J\ufffd'; {SEND}"),
        (form(*[part("file", b"1")] * 2), ONE, "the field 'file' has more than 1 file; send fewer at a time"),
        (form(*[part("files", b"1")] * 4), MANY, "the field 'files' has more than 3 files; send fewer at a time"),
        (
            form(part("file", b"abc", None)),
            ONE,
            "the field 'file' is text where a file is expected; send it with a file name",
        ),
        (
            form(part("file", b"abc")).replace(b'name="file"; ', b""),
            ONE,
            "a part of the form has no name; send each file as a named field",
        ),
        (
            form(part("file", b"abc")).replace(b"Content-Disposition", b"X-Disposition"),
            ONE,
            "a part of the form has no name; send each file as a named field",
        ),
    ],
)
def test_a_form_of_other_fields_is_refused(body: bytes, files: dict[str, int], detail: str) -> None:
    assert refused(body, files) == (422, detail)
    assert refused(body, files, step=1) == (422, detail)


def test_a_part_does_not_inherit_the_name_of_the_one_before() -> None:
    nameless = b"--frontier\r\nContent-Type: image/png\r\n\r\nabc\r\n"
    assert refused(form(part("files", b"1"), nameless), MANY)[1].startswith("a part of the form has no name")


def test_a_form_is_refused_at_its_first_fault() -> None:
    """A million parts are not waited for."""
    chunks = 0

    async def receive() -> Any:
        nonlocal chunks
        chunks += 1
        return {"type": "http.request", "body": part("spam", b"") * 10, "more_body": True}

    headers = [(b"content-type", b"multipart/form-data; boundary=frontier")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(ProblemError, match="unknown field 'spam'"):
        asyncio.run(read_form(request, files=ONE))
    assert chunks == 1


def test_a_client_that_leaves_is_no_form() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"multipart/form-data; boundary=frontier")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(ClientDisconnect):
        asyncio.run(read_form(request, files=ONE))


def test_a_photograph_is_not_shown_in_logs() -> None:
    assert repr(Upload("a.png", b"secret")) == "Upload(name='a.png')"


# --- memory and disk --------------------------------------------------------------------------------------------------


def test_a_file_is_held_once() -> None:
    """Beside the chunks of the test's own body, a file of 32 MiB takes its own size, and an eighth while it grows."""
    size = 32 * 2**20
    content = os.urandom(2**16)
    head, tail = form(part("file", b"CONTENT")).split(b"CONTENT")
    pieces = iter([head, *[content] * (size // len(content)), tail])

    async def receive() -> Any:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    headers = [(b"content-type", b"multipart/form-data; boundary=frontier")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    tracemalloc.start()
    try:
        (upload,) = asyncio.run(read_form(request, files=ONE))["file"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(upload.content) == size
    assert peak < 1.3 * size


def open_files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return {name for name in found if name.startswith("/") and not name.startswith(("/dev/", "/proc/"))}


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Every way to a temporary file fails."""

    def forbidden(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("a temporary file was made")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, forbidden)
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", forbidden)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def form_app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.post("/segment", openapi_extra=form_schema({"file": "a photograph"}))
    async def segment(request: Request) -> dict[str, Any]:
        (upload,) = (await read_form(request, files=ONE))["file"]
        return {"name": upload.name, "size": len(upload.content)}

    @app.post("/segment/batch", openapi_extra=form_schema({"files": "photographs"}, many=["files"]))
    async def batch(request: Request) -> dict[str, Any]:
        return {"sizes": [len(upload.content) for upload in (await read_form(request, files=MANY))["files"]]}

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(guard(form_app(), ServiceConfig())) as address:
        yield address


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of open files")
def test_an_upload_never_touches_the_disk(address: str, no_disk: Path) -> None:
    host, port = address.split(":")
    content = os.urandom(5 * 2**20)
    body = form(part("file", content))
    before = open_files()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /segment HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for place in range(0, len(body), 2**18):
            connection.sendall(body[place : place + 2**18])
            assert open_files() <= before
        answer = connection.recv(65536)
    assert re.search(rb'\{"name":"a.png","size":5242880\}', answer)


def test_a_refused_form_is_a_problem(address: str) -> None:
    answer = httpx.post(f"http://{address}/segment", files={"image": b"abc"})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"] == "the form has an unknown field 'image'; send a file in field 'file'"
    for path, files in (("/segment", {"file": bytes(33 * 2**20)}), ("/segment", {"file": b""})):
        answer = httpx.post(f"http://{address}{path}", files=files)
        assert answer.status_code == (413 if files["file"] else 422)


def test_a_form_that_comes_in_chunks(address: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        body = form(part("files", bytes(100_000)), part("files", b""), part("files", bytes(3)))
        for place in range(0, len(body), 999):
            yield body[place : place + 999]

    async def post() -> httpx.Response:
        headers = {"Content-Type": "multipart/form-data; boundary=frontier"}
        async with httpx.AsyncClient() as client:
            return await client.post(f"http://{address}/segment/batch", content=chunks(), headers=headers)

    assert asyncio.run(post()).json() == {"sizes": [100_000, 0, 3]}


def test_the_form_is_in_the_description(address: str) -> None:
    paths = httpx.get(f"http://{address}/openapi.json").json()["paths"]
    file = {"type": "string", "format": "binary"}
    body = paths["/segment"]["post"]["requestBody"]
    assert body["required"] is True
    assert body["content"]["multipart/form-data"]["schema"] == {
        "type": "object",
        "properties": {"file": {**file, "description": "a photograph"}},
        "required": ["file"],
        "additionalProperties": False,
    }
    schema = paths["/segment/batch"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["properties"]["files"] == {
        "type": "array",
        "items": file,
        "minItems": 1,
        "description": "photographs",
    }
