"""What every request passes on its way in: an id, the token, limits of size and time, headers on its answer.

Each part is an ASGI application around another, which looks at messages as they pass and keeps none of them. What
comes before a request is one, and after its answer is written, is left to ``BoundedHttp``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import uuid
from base64 import b64encode
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dermseg.serving.config import ServiceConfig
from dermseg.serving.problems import BusyError, ProblemError, problem_response, request_id

DOCS_ASSETS = "/docs/assets"
OPEN_PATHS = frozenset(
    {"/", "/health", "/health/live", "/health/ready", "/docs", "/openapi.json"}
    | {f"{DOCS_ASSETS}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")}
)
"""What probes ask for, and the description of the service, which takes the token itself; these need none."""

EXPOSED_HEADERS = (
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Model",
    "X-Quality",
    "X-Request-ID",
    "X-Version",
)
"""Of an answer, for scripts of other origins."""

_MIB = 2**20
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 64 * _MIB
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_log = logging.getLogger(__name__)


def guard(app: ASGIApp, config: ServiceConfig, budget: ByteBudget | None = None) -> ASGIApp:
    """Put every limit of ``config`` around an application.

    It goes around the whole of a FastAPI application rather than among its middleware, so that the answer to an
    unexpected error has an id and the headers, too.

    Args:
        app: An ASGI application.
        config: Its limits.
        budget: Of the bytes of all bodies; one of ``config.max_pending`` if None.
    """
    app = BodyLimit(
        app,
        limit=round(config.max_upload * _MIB),
        limits={"/segment/batch": round(config.max_batch_upload * _MIB)},
        budget=budget or ByteBudget(round(config.max_pending * _MIB)),
        timeout=config.upload_timeout,
    )
    if config.token is not None:
        app = BearerToken(app, config.token.get_secret_value())
    if config.origins:  # outside of the token: a browser asks for permission without it, and may read a refusal
        app = CORSMiddleware(
            app,
            allow_origins=config.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-Request-ID"),
            expose_headers=EXPOSED_HEADERS,
        )
    return RequestId(LingeringClose(SecurityHeaders(app)))


class RequestId:
    """Gives each request an id, in ``scope["state"]["request_id"]`` and on its answer: the client's own, if it is fit.

    An error that was answered is logged under that id, and ends here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _header(scope, b"x-request-id")
        name = given.decode() if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        answered = False

        async def named(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = name
            elif message["type"] == "http.response.body":
                answered = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception:
            if not answered:
                raise
            _log.exception("request %s failed", name)


class LingeringClose:
    """Closes the connection after an answer that came before the end of its request.

    Without it a server reads what a refused client still sends, however much that is. The client gets its answer at
    once, and a moment to notice: a connection that is closed on unread data is reset, and the answer may be lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        arriving = True
        early = False
        answered = False

        async def watched() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message.get("more_body", False)
            return message

        async def held_open(message: Message) -> None:
            nonlocal early, answered
            if message["type"] == "http.response.start" and arriving:
                early = True
                MutableHeaders(scope=message)["Connection"] = "close"
            elif early and message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True
                message = {**message, "more_body": True}
            await send(message)

        try:
            await self._app(scope, watched, held_open)
        finally:
            if answered:
                await _drain(receive)
                await send({"type": "http.response.body"})


class SecurityHeaders:
    """Tells browsers to keep no answer and to run nothing in it; an answer that sets a header itself keeps its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured)


class BearerToken:
    """Lets nobody in without the token (RFC 6750), but for probes.

    Args:
        app: An ASGI application.
        token: Compared in constant time.
        open_paths: Paths that need none.
    """

    def __init__(self, app: ASGIApp, token: str, open_paths: Collection[str] = OPEN_PATHS) -> None:
        self._app = app
        self._token = token.encode()
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and self._is_token(given[0]):
            await self._app(scope, receive, send)
            return
        what, challenge = (
            ("the request's token is not the service's", 'Bearer realm="dermseg", error="invalid_token"')
            if given
            else ("the request has no token", 'Bearer realm="dermseg"')
        )
        problem = ProblemError(
            401, f"{what}; send the header 'Authorization: Bearer TOKEN' once", headers={"WWW-Authenticate": challenge}
        )
        await problem_response(problem, request_id(scope))(scope, receive, send)

    def _is_token(self, authorization: bytes) -> bool:
        scheme, _, token = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(b" "), self._token)


class ByteBudget:
    """How many bytes of bodies may be held at a time, by all requests to one process.

    Attributes:
        held: Bytes taken and not given back.
        closed: Whether no more are taken at all, since the service ends.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.closed = False
        self._limit = limit

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def has(self, size: int) -> bool:
        """Whether ``size`` bytes are left."""
        return self.held + size <= self._limit

    @property
    def limit(self) -> int:
        """How many there may be."""
        return self._limit

    def take(self, size: int) -> None:
        """Count ``size`` bytes as held."""
        self.held += size

    def give_back(self, size: int) -> None:
        """Count them no longer."""
        self.held -= size


class BodyLimit:
    """Refuses bodies that are too large (413), too slow (408) or too many at a time (503).

    A body is counted as it arrives, and against the budget until its request is answered, or calls
    ``scope["state"]["give_back"]`` with the bytes that it holds no longer. A ``Content-Length`` that cannot be met is
    refused at once, but reserves nothing: a client that promises much and sends nothing takes nothing from others.

    Args:
        app: An ASGI application.
        limit: Bytes of a body.
        limits: Other limits, by path.
        budget: Bytes of all bodies.
        timeout: Seconds for a whole body to arrive.
    """

    def __init__(
        self, app: ASGIApp, *, limit: int, limits: Mapping[str, int], budget: ByteBudget, timeout: float
    ) -> None:
        self._app = app
        self._limit = limit
        self._limits = limits
        self._budget = budget
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], self._limit)
        until = asyncio.get_running_loop().time() + self._timeout
        promised = _header(scope, b"content-length") or b""
        refusal = self._refuse(int(promised), 0, limit) if promised.isdigit() else None
        taken = 0
        arriving = True
        started = False

        def give_back(size: int) -> None:
            nonlocal taken
            size = min(size, taken)  # what is late finds that all was given back
            taken -= size
            self._budget.give_back(size)

        async def counted() -> Message:
            nonlocal refusal, taken, arriving
            if refusal is not None:
                raise refusal
            if not arriving:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                refusal = ProblemError(
                    408,
                    f"the body did not arrive within {self._timeout:g} s; send it again over a faster connection, "
                    "or send a smaller image",
                )
                raise refusal from None
            arriving = message.get("more_body", False)
            size = len(message.get("body", b""))
            refusal = self._refuse(size, taken, limit)
            if refusal is not None:
                raise refusal
            self._budget.take(size)
            taken += size
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if refusal is None or started:  # whatever the application makes of a refusal, the client gets ours
                started = True
                await send(message)

        scope.setdefault("state", {})["give_back"] = give_back
        try:
            if refusal is None:
                await self._app(scope, counted, unless_refused)
        except Exception:
            if refusal is None or started:
                raise
        finally:
            give_back(taken)
        if refusal is not None and not started:
            await problem_response(refusal, request_id(scope))(scope, receive, send)

    def _refuse(self, size: int, taken: int, limit: int) -> ProblemError | None:
        """Why ``size`` more bytes of a body cannot be had."""
        limit = min(limit, self._budget.limit)  # more would be too much however often it is sent
        if taken + size > limit:
            return ProblemError(
                413, f"the body has more than the {limit / _MIB:g} MiB that this path takes; send less at a time"
            )
        if size and self._budget.closed:
            return BusyError("the service is stopping; try again later")
        if not self._budget.has(size):
            return BusyError("the service holds as many uploads as it may at this moment; try again in a few seconds")
        return None


class _PlainParser:
    """httptools' parser, but a request that offers another protocol is read as one that does not.

    Java's HTTP client offers HTTP/2 unasked. httptools ends such a request after its head, and would read its body as
    the next one; a server that does not take up the offer is to ignore it (RFC 9110, section 7.8).

    Args:
        protocol: It is told of such a head twice, at first while ``should_upgrade()`` says yes.
    """

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = protocol
        self._begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Take what the client sends."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                head, data = self._plain_head(), data[offer.args[0] :]
            self._begin()
            self._parser.feed_data(head)

    def _plain_head(self) -> bytes:
        """The head that was read last, without its offer."""
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            raise httptools.HttpParserInvalidMethodError("this is no proxy")
        lines = [name + b": " + value for name, value in self._protocol.headers if name != b"upgrade"]
        return b"\r\n".join([b"%s %s HTTP/%s" % (method, self._protocol.url, version.encode()), *lines, b"", b""])

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it


class BoundedHttp(HttpToolsProtocol):
    """A connection as uvicorn has it, within bounds that uvicorn has not.

    What is no body, heads above all, must be small, and a head must arrive in time. What is written must be taken in
    time, too: a client that does not read would keep its answer here for ever. Who oversteps a bound is cut off. An
    offer of another protocol is ignored, and what is no HTTP is answered by a problem document.

    Attributes:
        most_connections: At a time; many systems let a process open no more than 1024 files.
        most_bytes: That may arrive without a byte of a body among them; seen after each read, of 256 KiB at most.
        head_seconds: From the beginning of a connection, or of a later request, to the end of the head.
        answer_seconds: For the client to take what is written.
    """

    most_connections = 900
    most_bytes = 64 * 2**10
    head_seconds: float = 10
    answer_seconds: float = 30

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = cast(Any, _PlainParser(self))
        self._bytes = 0
        self._head: asyncio.TimerHandle | None = None
        self._answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a head."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._head = self.loop.call_later(self.head_seconds, transport.close)
        if len(self.connections) > self.most_connections:
            self._refuse(BusyError("the service has as many connections as it may; try again in a few seconds"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        for timer in (self._head, self._answer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > self.most_bytes:
            self._refuse(ProblemError(431, f"the headers have more than {self.most_bytes} bytes; send fewer of them"))
        elif self._head is None and self._is_idle():
            self._head = self.loop.call_later(self.head_seconds, self.transport.close)

    def on_headers_complete(self) -> None:
        """Wait for the head no longer."""
        if self.parser.should_upgrade():
            return  # it comes again
        if self._head:
            self._head.cancel()
            self._head = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Leave the body to the limits of bodies."""
        self._bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count anew for the next request."""
        if self.parser.should_upgrade():
            return
        self._bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  - uvicorn's words
        """Refuse what is no HTTP."""
        self._refuse(ProblemError(400, "this is no HTTP request that could be read; send one as /docs describes"))

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        self._answer = self.loop.call_later(self.answer_seconds, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Wait for it no longer."""
        if self._answer:
            self._answer.cancel()
        super().resume_writing()

    def shutdown(self) -> None:
        """End after the request in work, or shortly before the server would break it off, which it calls an error."""
        super().shutdown()
        if grace := self.config.timeout_graceful_shutdown:
            self.loop.call_later(grace - 1, self.transport.abort)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, problem: ProblemError) -> None:
        """Close the connection, with an answer unless another one is under way."""
        if self._is_idle() or not (self.pipeline or self.cycle.response_started):
            answer = problem_response(problem, None)
            head = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
            head += [name + b": " + value for name, value in (*answer.raw_headers, (b"connection", b"close"))]
            self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()


def page_policy(page: bytes) -> str:
    """The content security policy of an HTML page: scripts and styles of the service, and the page's own, by hash.

    Args:
        page: Such as FastAPI's page of the documentation, with its assets at the service itself.
    """
    hashes = "".join(
        f" 'sha256-{b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    )
    return (
        f"default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _drain(receive: Receive) -> None:
    """Read, and throw away, what a client still sends, until it stops or for as long as is fair."""
    size = 0
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while size < _LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _header(scope: Scope, name: bytes) -> bytes | None:
    value: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return value


def _has_body(scope: Scope) -> bool:
    return _header(scope, b"transfer-encoding") is not None or (_header(scope, b"content-length") or b"0") != b"0"
