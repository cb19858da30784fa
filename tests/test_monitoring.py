"""Metrics and the log: of a real service of two processes, and of single parts."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import logging
import logging.config
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Scope

from dermseg import __version__
from dermseg.serving.monitoring import AccessLog, JsonFormatter, Metrics, logging_config

# prometheus_client is imported where it is used: a service of several processes needs to be the first to do so.
ROOT = Path(__file__).parents[1]
SECRET = "s3cret-t0ken"
NAME = "mrs-smith.jpg"
Value = TypeVar("Value")


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The values of metrics, by name and the values of labels, by their labels' names."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def rendered(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    body, media_type = metrics.render()
    assert media_type.startswith("text/plain")
    return samples(body.decode())


# A service of two processes


def service(directory: Path) -> AccessLog:
    """An application as the service's."""
    metrics = Metrics(["/models/lesion"], directory)
    metrics.watch(waiting=lambda: 2, working=lambda: 1)
    app = FastAPI()

    @app.get("/process")
    async def process() -> int:
        return os.getpid()

    @app.post("/images/{number}")
    async def image(number: int, request: Request) -> str:
        body = await request.body()
        request.scope["state"]["request_id"] = f"id-{number}"
        request.scope["state"]["log"] = {"model": "lesion", "verdict": "review", "stages": {"decode": 0.25}}
        metrics.stage("decode", 0.25)
        metrics.batch(2)
        metrics.verdict("review")
        logging.getLogger("dermseg.test").info("of %d bytes", len(body))
        return "done"

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("as expected")

    @app.get("/busy", status_code=503)
    async def busy() -> None: ...

    @app.get("/metrics")
    async def tell() -> str:
        return metrics.render()[0].decode()

    return AccessLog(app, metrics)


def serve(directory: str) -> None:
    """Run it with two processes, as ``serving.run`` does."""
    from functools import partial

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            partial(service, Path(directory)),
            factory=True,
            workers=2,
            access_log=False,
            log_config=logging_config("info"),
        )
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        Multiprocess(config, sockets=[listener]).run()


@dataclass
class Running:
    """A service: its port, its log as far as it is read, and its process."""

    port: int
    log: Path
    process: subprocess.Popen[str]

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def line(self, **fields: object) -> dict[str, Any]:
        """Wait for a line that has these fields."""
        return self.wait(lambda: next((line for line in self.lines() if fields.items() <= line.items()), None))

    def wait(self, happened: Callable[[], Value | None]) -> Value:
        """Wait for what is logged and counted once a request is answered."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if found := happened():
                return found
            time.sleep(0.05)
        raise AssertionError(f"it did not happen:\n{self.log.read_text()}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "metrics").mkdir()
    code = f"from tests.test_monitoring import serve; serve({str(folder / 'metrics')!r})"
    log = folder / "log"
    with (
        log.open("w") as file,
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True) as one,
    ):
        assert one.stdout is not None
        try:
            service = Running(int(one.stdout.readline()), log, one)
            processes: list[str] = []
            end = time.monotonic() + 60
            while len(set(processes)) < 2 and time.monotonic() < end:
                processes.append(service.ask("GET", "/process")[1])
            assert len(set(processes)) == 2
            service.wait(lambda: len(answered(service)) == len(processes))
            yield service
        finally:
            one.send_signal(signal.SIGTERM)
            one.wait(30)


def test_the_metrics_of_one_process_tell_of_both(running: Running) -> None:
    before = metrics_of(running)
    asked = 40
    done = len(answered(running))
    processes = Counter(running.ask("GET", "/process")[1] for _ in range(asked))
    for number in range(6):
        running.ask("POST", f"/images/{number}", b"x")
    assert len(processes) == 2
    running.wait(lambda: len(answered(running)) == done + asked + 6)
    after = metrics_of(running)

    def grown(name: str, *labels: str) -> float:
        return after[name][labels] - before.get(name, {}).get(labels, 0)

    assert grown("dermseg_http_requests_total", "GET", "/process", "200") == asked
    assert grown("dermseg_http_requests_total", "POST", "/images/{number}", "200") == 6
    assert grown("dermseg_http_request_duration_seconds_count", "/process") == asked
    assert grown("dermseg_stage_duration_seconds_sum", "decode") == pytest.approx(6 * 0.25)
    assert grown("dermseg_batch_images_sum") == 12
    assert grown("dermseg_verdicts_total", "review") == 6
    assert after["dermseg_queue_depth"][()] == 4  # two in each
    assert after["dermseg_images_in_work"][()] == 2
    assert after["dermseg_build_info"] == {("lesion", __version__): 1}
    assert 2 * 20e6 < after["process_resident_memory_bytes"][()] < 2 * 2e9


def answered(running: Running) -> list[dict[str, Any]]:
    return [line for line in running.lines() if line.get("route") in ("/process", "/images/{number}")]


def metrics_of(running: Running) -> dict[str, dict[tuple[str, ...], float]]:
    status, text = running.ask("GET", "/metrics")
    assert status == 200
    return samples(json.loads(text))


def test_a_request_is_a_line(running: Running) -> None:
    running.ask("POST", f"/images/7?patient={NAME}", b"x" * 1000, Authorization=f"Bearer {SECRET}")
    line = running.line(request_id="id-7", logger="dermseg.access")
    told = datetime.fromisoformat(line.pop("time"))
    assert told.tzinfo == UTC
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)
    assert 0 < line.pop("seconds") < 10
    assert line == {
        "level": "info",
        "logger": "dermseg.access",
        "message": "POST /images/{number} 200",
        "request_id": "id-7",
        "method": "POST",
        "route": "/images/{number}",
        "status": 200,
        "bytes_in": 1000,
        "bytes_out": len('"done"'),
        "model": "lesion",
        "verdict": "review",
        "stages": {"decode": 0.25},
    }
    other = running.line(request_id="id-7", logger="dermseg.test")
    assert other["message"] == "of 1000 bytes"


def test_an_error_is_logged_with_its_cause(running: Running) -> None:
    assert running.ask("GET", "/broken")[0] == 500
    assert running.line(route="/broken")["status"] == 500
    line = running.line(logger="uvicorn.error", level="error")
    assert "ZeroDivisionError: as expected" in line["exception"]


def test_a_refusal_is_counted(running: Running) -> None:
    before = metrics_of(running)["dermseg_refusals_total"][("busy",)]
    assert running.ask("GET", "/busy")[0] == 503
    assert running.line(route="/busy", status=503)
    assert metrics_of(running)["dermseg_refusals_total"][("busy",)] == before + 1


def test_an_address_that_is_not_served_gets_no_name_of_its_own(running: Running) -> None:
    for path in (f"/{NAME}", "/images", f"/{SECRET}"):
        assert running.ask("GET", path)[0] == 404
    assert running.line(route="other", status=404)
    known = {"/process", "/images/{number}", "/broken", "/busy", "/metrics", "other"}
    assert {route for _, route, _ in metrics_of(running)["dermseg_http_requests_total"]} <= known


def test_a_client_that_leaves_has_a_status_of_its_own(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(b"POST /images/8 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        time.sleep(0.2)
    assert running.line(status=499)["bytes_in"] == 10


def test_uvicorn_logs_in_the_same_form(running: Running) -> None:
    assert running.line(logger="uvicorn.error", message="Application startup complete.")
    for line in running.lines():
        assert list(line)[:4] == ["time", "level", "logger", "message"]


def test_no_line_holds_a_name_or_a_token(running: Running) -> None:
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{NAME}"\r\n\r\npixels\r\n--b--\r\n'
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "multipart/form-data; boundary=b"}
    running.ask("POST", f"/images/9?token={SECRET}", body.encode(), **headers)
    running.ask("POST", f"/{NAME}?token={SECRET}", body.encode(), **headers)
    assert running.line(request_id="id-9", logger="dermseg.access")["bytes_in"] == len(body)
    assert running.line(method="POST", route="other")
    assert not re.search(f"{SECRET}|{NAME}|pixels", running.log.read_text())


def test_of_a_process_that_died_the_counts_stay_and_the_gauges_go(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from dermseg.serving.monitoring import Metrics
metrics = Metrics(["lesion"], Path({str(tmp_path)!r}))
metrics.watch(waiting=lambda: 5, working=lambda: 3)
metrics.batch(4)
print(metrics.render()[0].decode())
"""

    def run() -> dict[str, dict[tuple[str, ...], float]]:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return samples(done.stdout)

    first, second = run(), run()
    assert first["dermseg_batch_images_count"][()] == 1
    assert second["dermseg_batch_images_count"][()] == 2
    assert first["dermseg_queue_depth"][()] == second["dermseg_queue_depth"][()] == 5


# Single parts


def test_a_directory_comes_too_late_where_metrics_are_single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import prometheus_client  # noqa: F401

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    with pytest.raises(RuntimeError, match="prometheus_client was imported before"):
        Metrics(["lesion"], tmp_path)


def test_metrics_begin_at_zero_and_are_told_of_one_process() -> None:
    metrics = Metrics(["lesion", "/bundles/attributes"])
    found = rendered(metrics)
    assert found["dermseg_refusals_total"] == dict.fromkeys(
        [("token",), ("slow_upload",), ("too_large",), ("busy",), ("deadline",)], 0
    )
    assert set(found["dermseg_verdicts_total"]) == {("accept",), ("review",), ("reject",), ("unknown",)}
    assert found["dermseg_build_info"] == {("lesion,attributes", __version__): 1}
    waiting = 3
    metrics.watch(waiting=lambda: waiting, working=lambda: 1)
    assert rendered(metrics)["dermseg_queue_depth"][()] == 3
    waiting = 7
    assert rendered(metrics)["dermseg_queue_depth"][()] == 7
    metrics.verdict(None)
    metrics.batch(3)
    found = rendered(metrics)
    assert found["dermseg_verdicts_total"][("unknown",)] == 1
    assert found["dermseg_batch_images_bucket"][("2.0",)] == 0
    assert found["dermseg_batch_images_bucket"][("3.0",)] == 1


@pytest.mark.parametrize("status", [401, 408, 413, 503, 504])
def test_each_kind_of_refusal_has_a_reason(status: int) -> None:
    metrics = Metrics()
    metrics.request("/segment", "POST", status, 0.01)
    metrics.request("/segment", "POST", 422, 0.01)
    assert sum(rendered(metrics)["dermseg_refusals_total"].values()) == 1


@pytest.mark.parametrize("method", ["BREW", "get", "X" * 100])
def test_a_method_that_is_made_up_gets_no_name_of_its_own(method: str) -> None:
    metrics = Metrics()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 405, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def none() -> Message:
        raise AssertionError("nobody asked for a body")

    async def drop(message: Message) -> None: ...

    scope = {"type": "http", "method": method, "path": "/", "headers": []}
    asyncio.run(AccessLog(app, metrics)(scope, none, drop))
    assert rendered(metrics)["dermseg_http_requests_total"] == {("other", "other", "405"): 1}


def test_a_line_is_one_whatever_it_holds() -> None:
    buffer = io.StringIO()
    handler = logging.StreamHandler(buffer)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning('two\nlines, "quoted" %s', "ä", extra={"fields": {"path": Path("a")}})
    (line,) = buffer.getvalue().splitlines()
    told = json.loads(line)
    assert told["message"] == 'two\nlines, "quoted" ä'
    assert told["path"] == "a"
    assert "request_id" not in told


def test_a_level_that_is_set_is_heeded() -> None:
    config = logging_config("warning")
    assert config["loggers"]["dermseg"]["level"] == config["loggers"]["uvicorn"]["level"] == "WARNING"
