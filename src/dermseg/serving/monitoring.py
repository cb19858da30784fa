"""What the service tells of itself: metrics for Prometheus, and its log, a JSON object a line.

Neither holds anything of an image or its name, of a token, or of what a client wrote into its address.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermseg._version import __version__
from dermseg.quality import VERDICTS, Verdict

Refusal = Literal["token", "slow_upload", "too_large", "busy", "deadline"]
REFUSALS: Mapping[int, Refusal] = {401: "token", 408: "slow_upload", 413: "too_large", 503: "busy", 504: "deadline"}
"""Why a request got no answer though it may have been a right one, by the status that says so."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER = "other"
"""Stands for a method or an address that the service does not know, so that clients cannot make up new ones."""

CLIENT_GONE = 499
"""Instead of a status where the client left before it had the whole answer; nginx's, which HTTP has no word for."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Upper ends of the histograms' buckets."""

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
STATM = Path("/proc/self/statm")

_state: ContextVar[Mapping[str, Any] | None] = ContextVar("state", default=None)
"""Of the request that the current task answers; its id is on every line that is logged meanwhile."""


class Metrics:
    """Counts what the service does. May be used from several threads.

    Args:
        bundles: Names or paths of what is served.
        directory: Where several processes of one service put their metrics together, so that each tells of all;
            None for one process. prometheus_client keeps one such directory a process and must not have been imported
            before.

    Raises:
        RuntimeError: If prometheus_client was imported already, in its other mode.
    """

    def __init__(self, bundles: Sequence[str] = (), directory: Path | None = None) -> None:
        if directory is not None:
            os.environ[MULTIPROCESS] = str(directory)
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

        if directory is not None and not values.ValueClass._multiprocess:
            raise RuntimeError("prometheus_client was imported before Metrics; import it where it is used")
        self._directory = directory
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "dermseg_http_requests", "Requests that were answered.", ["route", "method", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "dermseg_http_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "dermseg_stage_duration_seconds",
            "What an image took in each stage.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "dermseg_batch_images", "Images that the network was given at a time.", buckets=IMAGES, registry=registry
        )
        self._refusals = Counter(
            "dermseg_refusals", "Requests that were refused, by reason.", ["reason"], registry=registry
        )
        self._verdicts = Counter(
            "dermseg_verdicts", "Predictions by what their quality was estimated to be.", ["verdict"], registry=registry
        )
        self._waiting = Gauge(
            "dermseg_queue_depth",
            "Images that were taken and wait for a thread or a batch.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._working = Gauge(
            "dermseg_images_in_work",
            "Images that a thread is working on.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._memory: Gauge | None = None
        if STATM.exists():
            self._memory = Gauge(
                "process_resident_memory_bytes",
                "Resident memory of all of the service's processes.",
                multiprocess_mode="livesum",
                registry=registry,
            )
        build = Gauge(
            "dermseg_build_info",
            "The version and the bundles that are served; always 1.",
            ["version", "bundles"],
            multiprocess_mode="max",
            registry=registry,
        )
        build.labels(__version__, ",".join(PurePath(bundle).name for bundle in bundles)).set(1)
        # Named before they happen, so that the first is seen as an increase.
        for reason in get_args(Refusal):
            self._refusals.labels(reason)
        for verdict in (*VERDICTS, "unknown"):
            self._verdicts.labels(verdict)
        self._count_waiting: Callable[[], int] = int
        self._count_working: Callable[[], int] = int

    def watch(self, *, waiting: Callable[[], int], working: Callable[[], int]) -> None:
        """Take the number of images that wait, and that are in work, from these."""
        self._count_waiting, self._count_working = waiting, working

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)
        if reason := REFUSALS.get(status):
            self._refusals.labels(reason).inc()
        self._look()

    def stage(self, name: str, seconds: float) -> None:
        """Count what an image took in a stage."""
        self._stage_seconds.labels(name).observe(seconds)

    def batch(self, images: int) -> None:
        """Count a batch."""
        self._batches.observe(images)
        self._look()

    def verdict(self, verdict: Verdict | None) -> None:
        """Count a prediction by its verdict; None of a bundle that gives none."""
        self._verdicts.labels(verdict or "unknown").inc()

    def render(self) -> tuple[bytes, str]:
        """All metrics as text, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        self._look()
        registry = self._registry
        if self._directory is not None:
            if os.name == "posix":  # elsewhere to ask whether a process lives may end it
                _forget_dead(self._directory)
            registry = CollectorRegistry()
            collect: Callable[..., object] = MultiProcessCollector  # which has no types
            collect(registry, str(self._directory))
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _look(self) -> None:
        # Now and then rather than when asked, since another process may be the one that is asked.
        self._waiting.set(self._count_waiting())
        self._working.set(self._count_working())
        if self._memory:
            self._memory.set(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


class AccessLog:
    """Writes a line for each request and counts it.

    Around everything else, so that requests that are refused are seen too; the id is read when the request is done.
    What a handler puts into ``scope["state"]["log"]``, a dict, stands in the line.

    Args:
        app: An ASGI application.
        metrics: Counts requests.
        logger: Writes the lines.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, logger: logging.Logger | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._logger = logger or logging.getLogger("dermseg.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        _state.set(state)
        begun = time.perf_counter()
        status, bytes_in, bytes_out = 0, 0, 0
        is_gone = is_answered = False

        async def received() -> Message:
            nonlocal bytes_in, is_gone
            message = await receive()
            bytes_in += len(message.get("body", b""))
            # A client that was refused may leave before it has read why.
            is_gone |= message["type"] == "http.disconnect" and not is_answered and status < 400
            return message

        async def sent(message: Message) -> None:
            nonlocal status, bytes_out, is_answered
            status = message.get("status", status)
            bytes_out += len(message.get("body", b""))
            is_answered |= message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, received, sent)
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", OTHER)
            method = scope["method"] if scope["method"] in METHODS else OTHER
            status = CLIENT_GONE if is_gone else status or 500
            self._metrics.request(route, method, status, seconds)
            fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
            fields |= {"bytes_in": bytes_in, "bytes_out": bytes_out, **state.get("log", {})}
            self._logger.info("%s %s %d", method, route, status, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """Makes a line of JSON: time (UTC), level, logger, message, the request's id, then the record's ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Give a record's line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := (_state.get() or {}).get("request_id"):
            told["request_id"] = request_id
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def logging_config(level: str = "info") -> dict[str, Any]:
    """Settings for ``logging.config.dictConfig``: the lines of dermseg, uvicorn and all others as JSON, to stderr.

    Args:
        level: The least of dermseg's and uvicorn's lines that is written; of others it is ``warning``.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.{JsonFormatter.__qualname__}"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {name: {"level": level.upper()} for name in ("dermseg", "uvicorn")},
    }


def _forget_dead(directory: Path) -> None:
    """Drop the gauges of processes that have died; what they counted stays."""
    for file in directory.glob("gauge_live*.db"):
        try:
            os.kill(int(file.stem.rpartition("_")[2]), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except PermissionError:
            continue  # it lives
