"""The edge of the service, in front of a real server: what is let in, what is refused, and how."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message

from dermseg.errors import (
    BrokenImageError,
    BundleError,
    DataError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    PredictionSizeError,
    UnsupportedImageError,
)
from dermseg.imaging import encode_image, open_image
from dermseg.serving.config import ServiceConfig, settings
from dermseg.serving.limits import BearerToken, BoundedHttp, ByteBudget, RequestId, guard, page_policy
from dermseg.serving.problems import BusyError, ProblemError, install, problem_of

KIB = 2**10
TOKEN = "s3cret-token"


async def silent() -> Message:
    """A client that sends nothing."""
    return {"type": "http.disconnect"}


async def unheard(message: Message) -> None:
    """A client that does not listen."""


@contextmanager
def serve(app: ASGIApp, **settings: Any) -> Iterator[str]:
    """Run an application behind uvicorn, on a port of its own; give ``host:port``."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", ws="none", lifespan="off", log_config=None, **settings)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def until(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def tiny_app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.get("/")
    @app.get("/health")
    @app.get("/health/live")
    @app.get("/health/ready")
    @app.get("/metrics")
    def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.post("/segment")
    @app.post("/segment/batch")
    @app.post("/predict")
    async def size(request: Request) -> dict[str, int]:
        return {"size": len(await request.body())}

    @app.post("/deaf")
    async def deaf() -> dict[str, str]:
        """Answers without reading the body."""
        return {"status": "answered"}

    @app.post("/stubborn")
    async def stubborn(request: Request) -> Response:
        """Makes something else of whatever happens to the body."""
        try:
            await request.body()
        except Exception as error:
            raise HTTPException(400, "There was an error parsing the body") from error
        return PlainTextResponse("fine")

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        body = await request.body()

        async def lines() -> Any:
            for _ in range(3):
                await asyncio.sleep(0.01)
                yield f"{len(body)}\n"

        return StreamingResponse(lines())

    @app.get("/fault")
    def fault() -> None:
        raise RuntimeError("the secret of the machine")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def lines() -> Any:
            yield "first\n"
            raise RuntimeError("too late for an answer")

        return StreamingResponse(lines())

    @app.get("/bundle")
    def bundle() -> None:
        raise BundleError("/srv/bundles/lesion/model.onnx is no network")

    @app.get("/image")
    def image() -> None:
        raise UnsupportedImageError("that is a PDF; convert it")

    @app.get("/parameters")
    def parameters(threshold: Annotated[float, Query(gt=0, lt=1)], bundle: str) -> None:
        pass

    return app


SMALL = ServiceConfig(
    max_upload=64 / KIB,  # 64 KiB
    max_batch_upload=256 / KIB,
    max_pending=300 / KIB,
    upload_timeout=1,
    origins=("https://ward.example",),
)


@dataclass
class Served:
    address: str
    budget: ByteBudget

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            yield connection


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    budget = ByteBudget(round(SMALL.max_pending * 2**20))
    with serve(guard(tiny_app(), SMALL, budget), http=BoundedHttp) as address:
        yield Served(address, budget)


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing a client does is worth a warning in the log, unless a test says so."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.records] == []


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *lines, "", ""]).encode("latin-1")


def send_until_reset(connection: socket.socket) -> int:
    sent = 0
    while True:
        try:
            sent += connection.send(bytes(256 * KIB))
        except (ConnectionResetError, BrokenPipeError):
            return sent


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document["type"] == "about:blank"
        assert document["instance"] == f"/requests/{self.headers['x-request-id']}"
        return document


def read_to_end(connection: socket.socket) -> Answer:
    """The answer, and then the end of the connection; fails where the server keeps it open."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return parse(received)


def read_answer(connection: socket.socket) -> Answer:
    """The answer of a connection that stays open."""
    received = b""
    while True:
        received += connection.recv(65536)
        start, separator, body = received.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: (\d+)", start)
        if separator and found and len(body) == int(found[1]):
            return parse(received)


def parse(received: bytes) -> Answer:
    start, _, body = received.partition(b"\r\n\r\n")
    first, *lines = start.decode("latin-1").split("\r\n")
    pairs = [line.lower().partition(": ") for line in lines]
    return Answer(int(first.split()[1]), {name: value for name, _, value in pairs}, body)


# --- the size of a body -----------------------------------------------------------------------------------------------


def test_a_body_within_the_limit_passes(served: Served) -> None:
    for path, size in (("/segment", 64 * KIB), ("/predict", 64 * KIB), ("/segment/batch", 256 * KIB)):
        assert httpx.post(served.url + path, content=bytes(size)).json() == {"size": size}
    until(lambda: served.budget.held == 0)


@pytest.mark.parametrize(("path", "limit"), [("/segment", 64), ("/predict", 64), ("/segment/batch", 256)])
def test_a_promised_length_over_the_limit_is_refused_before_the_body(served: Served, path: str, limit: int) -> None:
    with served.connection() as connection:
        connection.sendall(head(path, f"Content-Length: {limit * KIB + 1}"))
        answer = read_answer(connection)
    assert answer.status == 413
    assert answer.problem["title"] == "Content Too Large"
    assert answer.problem["detail"] == (
        f"the body has more than the {limit / KIB:g} MiB that this path takes; send less at a time"
    )
    assert answer.headers["connection"] == "close"
    assert served.budget.held == 0


def test_a_body_of_unknown_length_is_refused_at_the_limit_and_the_connection_closed(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(head("/segment", "Transfer-Encoding: chunked"))
        for _ in range(3):
            connection.sendall(chunk(bytes(32 * KIB)))
        answer = read_to_end(connection)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert "more than the 0.0625 MiB" in answer.problem["detail"]
    assert served.budget.held == 0


def test_what_the_application_makes_of_a_refusal_is_not_sent(served: Served) -> None:
    answer = httpx.post(f"{served.url}/stubborn", content=iter([bytes(65 * KIB)]))
    assert answer.status_code == 413


def test_a_client_that_sends_on_gets_its_answer_and_an_end(served: Served) -> None:
    """It is told at once; gigabytes are not read."""
    begin = time.monotonic()
    with served.connection() as connection:
        connection.sendall(head("/segment", f"Content-Length: {2**40}"))
        answer = read_answer(connection)
        assert time.monotonic() - begin < 0.8
        sent = send_until_reset(connection)
    assert answer.status == 413
    assert sent < 96 * 2**20
    assert time.monotonic() - begin < 10


def test_a_whole_body_that_is_too_large_still_gets_its_answer(served: Served) -> None:
    """Clients that read only after they have sent everything must not meet a reset."""
    for _ in range(5):
        assert httpx.post(f"{served.url}/segment", content=bytes(4 * 2**20)).status_code == 413


@pytest.mark.parametrize("path", ["/deaf", "/nowhere"])
def test_an_answer_before_the_end_of_the_body_closes_the_connection(served: Served, path: str) -> None:
    with served.connection() as connection:
        connection.sendall(head(path, "Content-Length: 100") + bytes(10))
        answer = read_to_end(connection)
    assert answer.status == (200 if path == "/deaf" else 404)
    assert answer.headers["connection"] == "close"


def test_other_connections_stay_open(served: Served) -> None:
    with served.connection() as connection:
        for _ in range(3):
            connection.sendall(head("/segment", "Content-Length: 3") + b"abc")
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (200, b'{"size":3}')
            assert "connection" not in answer.headers


def test_a_body_longer_than_promised_is_no_part_of_the_request(served: Served, caplog: Any) -> None:
    with served.connection() as connection:
        connection.sendall(head("/segment", "Content-Length: 3") + b"abcdef\r\n\r\n")
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", received) in ([b"200", b"400"], [b"400"])
    assert b'"size":6' not in received
    assert b"application/problem+json" in received
    assert [record.getMessage() for record in caplog.records] == ["Invalid HTTP request received."]
    caplog.clear()


def test_a_stream_after_a_whole_body_is_left_alone(served: Served) -> None:
    assert httpx.post(f"{served.url}/stream", content=bytes(10)).text == "10\n10\n10\n"


# --- the time of a body -----------------------------------------------------------------------------------------------


def test_a_body_that_trickles_is_refused_after_the_time_for_all_of_it(served: Served) -> None:
    begin = time.monotonic()
    with served.connection() as connection:
        connection.sendall(head("/segment", "Content-Length: 1000"))
        connection.settimeout(0.05)
        received = b""
        while b"\r\n\r\n" not in received:
            connection.sendall(b"x")
            try:
                received += connection.recv(65536)
            except TimeoutError:
                continue
        took = time.monotonic() - begin
        connection.settimeout(20)
        while piece := connection.recv(65536):
            received += piece
    answer = parse(received)
    assert 0.9 < took < 5
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    assert answer.problem["detail"] == (
        "the body did not arrive within 1 s; send it again over a faster connection, or send a smaller image"
    )
    assert served.budget.held == 0


def test_a_body_that_never_comes_is_refused(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(head("/segment", "Content-Length: 1000"))
        assert read_to_end(connection).status == 408


def test_the_time_is_for_the_body_alone() -> None:
    app = tiny_app()

    @app.post("/slow")
    async def slow(request: Request) -> dict[str, int]:
        size = len(await request.body())
        await asyncio.sleep(0.6)
        return {"size": size}

    with serve(guard(app, ServiceConfig(upload_timeout=0.2))) as address:
        assert httpx.post(f"http://{address}/slow", content=b"abc").json() == {"size": 3}


# --- all bodies together ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_frees_what_it_held(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(head("/segment", "Content-Length: 60000") + bytes(30_000))
        until(lambda: served.budget.held == 30_000)
    until(lambda: served.budget.held == 0)
    with served.connection() as connection:
        connection.sendall(head("/segment", "Transfer-Encoding: chunked") + chunk(bytes(20_000)))
        until(lambda: served.budget.held == 20_000)
    until(lambda: served.budget.held == 0)


def test_bodies_beyond_what_may_be_held_are_refused_for_the_moment(served: Served) -> None:
    with served.connection() as first:
        first.sendall(head("/segment/batch", f"Content-Length: {256 * KIB}") + bytes(250 * KIB))
        until(lambda: served.budget.held == 250 * KIB)

        promised = httpx.post(f"{served.url}/segment", content=bytes(60 * KIB))
        streamed = httpx.post(f"{served.url}/segment", content=iter([bytes(60 * KIB)]))
        small = httpx.post(f"{served.url}/segment", content=bytes(10 * KIB))

        first.sendall(bytes(6 * KIB))
        assert read_answer(first).body == b'{"size":%d}' % (256 * KIB)
    for refused in (promised, streamed):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "2"
        assert refused.json()["detail"] == (
            "the service holds as many uploads as it may at this moment; try again in a few seconds"
        )
    assert small.json() == {"size": 10 * KIB}
    until(lambda: served.budget.held == 0)
    assert httpx.post(f"{served.url}/segment", content=bytes(60 * KIB)).status_code == 200


def test_a_promise_alone_takes_nothing_from_others(served: Served) -> None:
    with served.connection() as first, served.connection() as second:
        for connection in (first, second):
            connection.sendall(head("/segment/batch", f"Content-Length: {256 * KIB}"))
        assert httpx.post(f"{served.url}/segment", content=bytes(60 * KIB)).status_code == 200


def test_what_a_request_holds_no_longer_is_free_for_others() -> None:
    app, budget = tiny_app(), ByteBudget(1000)
    go_on = threading.Event()

    @app.post("/parts")
    async def parts(request: Request) -> dict[str, int]:
        await request.body()
        request.state.give_back(600)
        await asyncio.to_thread(go_on.wait, 20)
        request.state.give_back(600)  # of which 200 are left
        return {"held": budget.held}

    with serve(guard(app, ServiceConfig(), budget)) as address, ThreadPoolExecutor() as pool:
        first = pool.submit(httpx.post, f"http://{address}/parts", content=bytes(800))
        until(lambda: budget.held == 200)
        assert httpx.post(f"http://{address}/segment", content=bytes(700)).json() == {"size": 700}
        go_on.set()
        assert first.result().json() == {"held": 0}
        until(lambda: budget.held == 0)


def test_a_body_that_comes_when_the_time_is_over_is_refused() -> None:
    budget = ByteBudget(1000)
    with serve(guard(tiny_app(), ServiceConfig(), budget)) as address, Served(address, budget).connection() as client:
        client.sendall(head("/segment", "Content-Length: 100") + bytes(10))
        until(lambda: budget.held == 10)
        budget.close()
        client.sendall(bytes(10))
        answer = read_to_end(client)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert answer.problem["detail"] == "the service is stopping; try again later"
        assert httpx.get(f"http://{address}/health").status_code == 200


# --- offers of another protocol ---------------------------------------------------------------------------------------

OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")


@pytest.mark.parametrize("after", [0, 1, 40, 5000])
def test_an_offer_of_another_protocol_is_ignored(served: Served, after: int) -> None:
    body = head("/health", method="GET") + b"x" * 20
    whole = head("/segment", *OFFER, f"Content-Length: {len(body)}") + body
    cut = whole.index(b"\r\n\r\n") + 4 if not after else min(after, len(whole))
    with served.connection() as connection:
        for _ in range(2):
            for piece in (whole[:cut], whole[cut:]):
                connection.sendall(piece)
                time.sleep(0.05)
            answer = read_answer(connection)
            assert (answer.status, answer.body) == (200, b'{"size":%d}' % len(body))
        connection.sendall(head("/segment", *OFFER, "Transfer-Encoding: chunked") + chunk(b"abc") + chunk(b""))
        assert read_answer(connection).body == b'{"size":3}'
        connection.sendall(head("/health", *OFFER, method="GET"))
        assert read_answer(connection).status == 200
    until(lambda: served.budget.held == 0)


def test_many_offers_are_answered_in_their_order(served: Served) -> None:
    count = 1500
    with served.connection() as connection:
        connection.sendall(head("/health", *OFFER, method="GET") * count)
        received = b""
        while received.count(b"HTTP/1.1 200") < count:
            piece = connection.recv(2**20)
            assert piece
            received += piece
    assert b" 400 " not in received


@pytest.mark.parametrize("behind", [b"nonsense\r\n\r\n", b"GET /health HTTP/1.1\r\nx: " + b"a" * 70_000])
def test_no_refusal_is_written_into_an_answer(served: Served, behind: bytes, caplog: Any) -> None:
    with served.connection() as connection:
        connection.sendall(head("/stream", "Content-Length: 1") + b"x")
        received = connection.recv(100)
        assert received.startswith(b"HTTP/1.1 200")
        connection.sendall(head("/health", method="GET") + behind)
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    _, first, *later = received.split(b"HTTP/1.1 ")
    assert not later or first.endswith(b"\r\n0\r\n\r\n")  # the whole stream, and only then another answer
    time.sleep(0.2)
    caplog.clear()  # uvicorn tells of what it could no longer write


@pytest.mark.parametrize("said", [b"nonsense\r\n\r\n", head("here:80", method="CONNECT"), b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_no_request_is_answered_by_a_problem(served: Served, said: bytes, caplog: Any) -> None:
    with served.connection() as connection:
        connection.sendall(said)
        answer = read_to_end(connection)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (
        json.loads(answer.body)["detail"] == "this is no HTTP request that could be read; send one as /docs describes"
    )
    caplog.clear()


# --- connections ------------------------------------------------------------------------------------------------------


class Hasty(BoundedHttp):
    head_seconds = answer_seconds = 0.5


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    app, budget = tiny_app(), ByteBudget(10**9)

    @app.post("/slow")
    async def slow(request: Request) -> str:
        await asyncio.sleep(1.5)
        return "done"

    @app.post("/much")
    async def much(request: Request) -> Response:
        await request.body()
        return PlainTextResponse(bytes(50 * 2**20))

    @app.post("/endless")
    async def endless(request: Request) -> StreamingResponse:
        await request.body()

        async def pieces() -> Any:
            while True:
                yield bytes(2**20)
                await asyncio.sleep(0)

        return StreamingResponse(pieces())

    with serve(guard(app, ServiceConfig(), budget), http=Hasty) as address:
        yield Served(address, budget)


@pytest.mark.parametrize("said", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: here\r\n", b"\r\n"])
def test_a_connection_without_a_whole_head_is_closed(hasty: Served, said: bytes) -> None:
    begun = time.monotonic()
    with hasty.connection() as client:
        client.sendall(said)
        assert client.recv(100) == b""
    assert 0.4 < time.monotonic() - begun < 5


@pytest.mark.parametrize("said", [b"\r\n", b"GET /health HT"])
def test_so_is_one_that_begins_another_request(hasty: Served, said: bytes) -> None:
    with hasty.connection() as client:
        client.sendall(head("/health", method="GET"))
        assert read_answer(client).status == 200
        time.sleep(0.6)  # as long as nothing comes it is idle, which it may be for longer
        client.sendall(head("/health", method="GET"))
        assert read_answer(client).status == 200
        client.settimeout(3)
        client.sendall(said)
        assert client.recv(100) == b""


def test_a_request_in_work_is_in_no_haste(hasty: Served) -> None:
    assert httpx.post(f"{hasty.url}/slow", content=b"x").json() == "done"
    with hasty.connection() as client:  # nor is one behind which the next one begins
        client.sendall(head("/slow", "Content-Length: 0") + b"GET /he")
        assert read_answer(client).status == 200


@pytest.mark.parametrize("line", [b"x: " + b"a" * 10**7, b"x: y\r\n" * 10**6])
def test_headers_are_bounded(hasty: Served, line: bytes) -> None:
    with hasty.connection() as client:
        with suppress(ConnectionError):
            client.sendall(b"GET /health HTTP/1.1\r\n" + line)
        received = b""
        with suppress(ConnectionError):
            while piece := client.recv(65536):
                received += piece
    if received:  # a client that sends on may meet a reset instead
        assert parse(received).status == 431
        assert (
            json.loads(parse(received).body)["detail"] == "the headers have more than 65536 bytes; send fewer of them"
        )


def test_large_headers_are_told_why(hasty: Served) -> None:
    with hasty.connection() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 70_000)
        answer = read_to_end(client)
    assert (answer.status, answer.headers["content-type"]) == (431, "application/problem+json")
    assert httpx.get(f"{hasty.url}/health", headers={"x": "a" * 30_000}).status_code == 200


def test_what_follows_a_body_is_bounded(hasty: Served) -> None:
    with hasty.connection() as client:
        client.sendall(head("/segment", "Transfer-Encoding: chunked") + chunk(bytes(100)))
        until(lambda: hasty.budget.held == 100)
        client.sendall(b"0\r\nx: ")
        with pytest.raises(ConnectionError):
            client.sendall(b"a" * 10**8)
    until(lambda: hasty.budget.held == 0)


@pytest.mark.parametrize("path", ["/much", "/endless"])
def test_a_client_that_does_not_read_is_cut_off(hasty: Served, path: str) -> None:
    with hasty.connection() as client:
        client.sendall(head(path, "Content-Length: 9") + bytes(9))
        time.sleep(2)
        assert hasty.budget.held == 0
        received = 0
        with suppress(ConnectionError):
            while piece := client.recv(2**20):
                received += len(piece)
    assert received < 50 * 2**20


def test_there_are_only_so_many_connections() -> None:
    class Few(BoundedHttp):
        most_connections = 2

    with serve(guard(tiny_app(), ServiceConfig()), http=Few) as address:
        served = Served(address, ByteBudget(0))
        with served.connection() as first, served.connection() as second:
            for client in (first, second):
                client.sendall(head("/health", method="GET"))
                assert read_answer(client).status == 200
            with served.connection() as third:
                answer = read_to_end(third)
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            first.sendall(head("/health", method="GET"))
            assert read_answer(first).status == 200
        until(lambda: httpx.get(f"http://{address}/health").status_code == 200)


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed() -> Iterator[Served]:
    config = ServiceConfig(token=SecretStr(TOKEN), origins=("https://ward.example",))
    with serve(guard(tiny_app(), config)) as address:
        yield Served(address, ByteBudget(0))


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/docs", "/openapi.json"])
def test_probes_and_the_description_need_no_token(closed: Served, path: str) -> None:
    assert httpx.get(closed.url + path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/docs/", "/openapi", "/segment", "/nowhere", "/health/", "//health", "/health/../metrics"]
)
def test_everything_else_does(closed: Served, path: str) -> None:
    with closed.connection() as connection:
        connection.sendall(head(path, method="GET"))
        answer = read_answer(connection)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'bearer realm="dermseg"'
    assert answer.problem["detail"] == ("the request has no token; send the header 'Authorization: Bearer TOKEN' once")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_the_token_lets_in(closed: Served, scheme: str) -> None:
    answer = httpx.get(f"{closed.url}/metrics", headers={b"Authorization": f"{scheme} {TOKEN}".encode()})
    assert answer.json() == {"status": "alive"}


@pytest.mark.parametrize(
    "given",
    [
        [b"Bearer wrong"],
        [b"Bearer"],
        [b"Bearer "],
        [b""],
        [TOKEN.encode()],
        [b"Basic " + TOKEN.encode()],
        [b"Bearer s3cret-t\xf6ken"],
        ["Bearer s3cret-tökén".encode()],
        [b"Bearer " + TOKEN.encode() + b"x"],
        [b"Bearer \xff\xfe\x80"],
        [b"\xff\xfe"],
        [b"Bearer " + TOKEN.encode(), b"Bearer " + TOKEN.encode()],
        [b"Bearer " + TOKEN.encode(), b"Bearer wrong"],
    ],
)
def test_any_other_does_not(closed: Served, given: list[bytes]) -> None:
    with closed.connection() as connection:
        lines = b"".join(b"Authorization: %s\r\n" % value for value in given)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n" + lines + b"\r\n")
        answer = read_answer(connection)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'bearer realm="dermseg", error="invalid_token"'
    assert answer.problem["detail"] == (
        "the request's token is not the service's; send the header 'Authorization: Bearer TOKEN' once"
    )


@given(values=st.lists(st.binary(max_size=40), max_size=3))
def test_no_header_breaks_the_check(values: list[bytes]) -> None:
    status: list[int] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        status.append(200)

    async def send(message: Any) -> None:
        status.extend([message["status"]] if "status" in message else [])

    async def call() -> None:
        scope = {"type": "http", "path": "/segment", "headers": [(b"authorization", value) for value in values]}
        await BearerToken(inner, "right")(scope, silent, send)

    asyncio.run(call())
    right = len(values) == 1 and re.fullmatch(rb"(?i)bearer +right *", values[0])
    assert status == ([200] if right else [401])


def test_the_body_of_a_stranger_is_not_read(closed: Served) -> None:
    with closed.connection() as connection:
        connection.sendall(head("/segment", "Content-Length: 1000000"))
        answer = read_to_end(connection)
    assert (answer.status, answer.headers["connection"]) == (401, "close")


@pytest.mark.parametrize("token", ["", " ", "\n", "t\u00f6ken", "to\nken", "\x7f"])
def test_a_token_that_no_request_could_bring_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValidationError, match="empty or not of printable ASCII"):
        ServiceConfig(token=SecretStr(token))
    with pytest.raises(InputError) as caught:
        settings(token=token)
    assert str(caught.value) == "the token is empty or not of printable ASCII; give letters and digits"


def test_what_is_around_a_token_is_no_part_of_it() -> None:
    token = settings(token=" right\n").token
    assert token is not None
    assert token.get_secret_value() == "right"


# --- other origins ----------------------------------------------------------------------------------------------------

PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-request-id"}


def test_a_listed_origin_may_ask_without_the_token(closed: Served) -> None:
    answer = httpx.options(f"{closed.url}/segment", headers={"Origin": "https://ward.example", **PREFLIGHT})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://ward.example"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://elsewhere.example", "https://ward.example.evil", "http://ward.example", "null"]
)
def test_no_other_may(closed: Served, origin: str) -> None:
    answer = httpx.options(f"{closed.url}/segment", headers={"Origin": origin, **PREFLIGHT})
    assert answer.status_code == 400
    assert "Access-Control-Allow-Origin" not in answer.headers
    answer = httpx.get(f"{closed.url}/health", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_an_option_that_is_no_preflight_needs_the_token(closed: Served) -> None:
    assert httpx.options(f"{closed.url}/segment").status_code == 401


def test_scripts_may_read_refusals_and_our_headers(served: Served, closed: Served) -> None:
    origin = {"Origin": "https://ward.example"}
    refused = [
        httpx.get(f"{closed.url}/metrics", headers=origin),
        httpx.post(f"{served.url}/segment", content=bytes(70 * KIB), headers=origin),
        httpx.get(f"{served.url}/nowhere", headers=origin),
    ]
    assert [answer.status_code for answer in refused] == [401, 413, 404]
    for answer in refused:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ward.example"
        assert "X-Quality" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]


def test_without_a_list_no_origin_may() -> None:
    with serve(guard(tiny_app(), ServiceConfig())) as address:
        answer = httpx.options(f"http://{address}/segment", headers={"Origin": "https://ward.example", **PREFLIGHT})
    assert answer.status_code == 405
    assert "Access-Control-Allow-Origin" not in answer.headers


# --- ids and headers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "study.42_B-7", "x" * 64])
def test_an_id_that_is_fit_is_kept(served: Served, name: str) -> None:
    answer = httpx.get(f"{served.url}/health", headers={"X-Request-ID": name})
    assert answer.headers["X-Request-ID"] == name
    refused = httpx.get(f"{served.url}/nowhere", headers={"X-Request-ID": name})
    assert refused.json()["instance"] == f"/requests/{name}"


@pytest.mark.parametrize("name", [b"", b"x" * 65, b"two words", b"a/b", b"\xe4", b"a\tb", b"<b>"])
def test_any_other_is_replaced(served: Served, name: bytes) -> None:
    answer = httpx.get(f"{served.url}/health", headers={b"X-Request-ID": name})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_each_request_has_its_own_id(served: Served) -> None:
    assert len({httpx.get(f"{served.url}/health").headers["X-Request-ID"] for _ in range(5)}) == 5


def test_the_id_is_seen_inside_and_outside() -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["request_id"])

    scope: dict[str, Any] = {"type": "http", "headers": []}
    asyncio.run(RequestId(inner)(scope, silent, unheard))
    assert seen == [scope["state"]["request_id"]]


def test_every_answer_has_the_security_headers(served: Served, caplog: Any) -> None:
    answers = [httpx.get(served.url + path) for path in ("/health", "/nowhere", "/fault")]
    answers.append(httpx.post(f"{served.url}/segment", content=bytes(70 * KIB)))
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
    caplog.clear()


def test_an_answer_keeps_the_headers_it_sets() -> None:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json", title="API", swagger_js_url="/docs/ui.js", swagger_css_url="/docs/ui.css"
    )
    policy = page_policy(bytes(page.body))
    page.headers["Content-Security-Policy"] = policy
    with serve(guard(page, ServiceConfig())) as address:
        assert httpx.get(f"http://{address}/docs").headers["Content-Security-Policy"] == policy
    assert re.search(r"script-src 'self' 'sha256-[A-Za-z0-9+/]{43}='; ", policy)


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("threshold is 2"), 422),
        (UnsupportedImageError("that is a PDF"), 415),
        (BrokenImageError("that is empty"), 422),
        (ImageTooLargeError("that has 99 megapixels"), 413),
        (DataError("the mask is blank"), 422),
        (PredictionSizeError("the mask is small"), 422),
        (MissingExtraError("an explanation", "train"), 501),
        (BusyError("the queue is full", 7), 503),
    ],
)
def test_an_error_for_the_client_keeps_its_sentence(error: Exception, status: int) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.detail) == (status, str(error))


def test_no_client_is_told_what_only_the_service_can_do() -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        open_image(encode_image(np.zeros((20, 30), np.uint8)), max_megapixels=0.0001)
    assert problem_of(caught.value).detail == (
        "the file has 30 x 20 pixels (0.0006 megapixels) where at most 0.0001 megapixels are allowed; scale it down"
    )


def test_a_busy_service_says_when_to_come_back() -> None:
    assert problem_of(BusyError("the queue is full", 7)).headers == {"Retry-After": "7"}


def test_a_deadline_is_a_problem_of_its_own() -> None:
    problem = problem_of(TimeoutError())
    assert problem.status == 504
    assert problem.detail == (
        "the answer was not ready in time; try again later, with a smaller image or with fewer samples"
    )


def test_a_document_has_its_own_members() -> None:
    assert ProblemError(422, "no", members={"errors": []}).document("abc") == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "no",
        "instance": "/requests/abc",
        "errors": [],
    }
    assert "instance" not in ProblemError(422, "no").document(None)


def test_the_router_answers_with_problems(served: Served) -> None:
    missing = httpx.get(f"{served.url}/nowhere")
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/problem+json")
    assert missing.json()["detail"] == "nothing is served at this path; /docs lists what is"
    wrong = httpx.get(f"{served.url}/segment")
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json()["title"] == "Method Not Allowed"
    assert wrong.json()["detail"] == (
        "this path does not answer the request's method; the header Allow lists those it answers"
    )
    image = httpx.get(f"{served.url}/image")
    assert (image.status_code, image.json()["detail"]) == (415, "that is a PDF; convert it")
    assert httpx.head(f"{served.url}/nowhere").status_code == 404


def test_parameters_are_named_and_their_values_not_echoed(served: Served) -> None:
    answer = httpx.get(f"{served.url}/parameters", params={"threshold": "<script>"})
    assert answer.status_code == 422
    assert "<script>" not in answer.text
    assert [each["location"] for each in answer.json()["errors"]] == ["query.threshold", "query.bundle"]
    assert answer.json()["detail"] == (
        "query.threshold: Input should be a valid number, unable to parse string as a number; "
        "query.bundle: Field required"
    )


@pytest.mark.parametrize("path", ["/fault", "/bundle"])
def test_a_fault_of_the_service_shows_nothing_and_is_logged_under_its_id(
    served: Served, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = httpx.get(served.url + path, headers={"X-Request-ID": "study-42", "Origin": "https://ward.example"})
    assert answer.status_code == 500
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "the service failed, which is no fault of the request; "
        "its log has the cause, under the id of the request",
        "instance": "/requests/study-42",
    }
    assert answer.headers["Access-Control-Allow-Origin"] == "https://ward.example"
    until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == "request study-42 failed"
    assert record.exc_info
    assert record.exc_info[0] in (RuntimeError, BundleError)
    caplog.clear()


def test_an_answer_that_breaks_is_cut_off(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{served.url}/half")
    until(lambda: caplog.records)
    assert [record.getMessage() for record in caplog.records] == ["Exception in ASGI application\n"]
    caplog.clear()
