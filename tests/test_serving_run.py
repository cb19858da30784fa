"""The service's process: how it begins, how it ends, and what it goes on with in between."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from dermseg.bundle import Bundle
from dermseg.imaging import encode_image
from tests.service import (
    PROBLEM,
    START_SECONDS,
    STOP_SECONDS,
    Service,
    command,
    disc,
    form,
    is_ready,
    request,
    serving,
    two_classes,
    until,
)

LONG = "/segment?mc_samples=50"
STOPPING = "the service is stopping; try again later"


def refused(*options: str | Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """What a service that does not start says, and its status."""
    variables = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(environment or {})}
    done = subprocess.run(
        command("--port", "0", *options), capture_output=True, text=True, timeout=120, env=variables, check=False
    )
    assert done.stdout == ""  # where it serves
    return done.returncode, done.stderr


def ask(service: Service, target: str) -> httpx.Response:
    headers, body = form([("file", disc(30)[0])])
    with service.client() as client:
        return client.post(target, content=body, headers=headers)


# Begins


@pytest.mark.parametrize("workers", ["1", "3"])
def test_bundles_that_cannot_be_served_end_it_before_it_says_that_it_serves(workers: str, dark_bundle: Bundle) -> None:
    code, said = refused("--workers", workers, "-b", dark_bundle.path, "-b", dark_bundle.path)
    assert (code, said) == (1, "error: two of the bundles have the name 'dark'; serve one of them\n")


def test_a_token_that_lets_everybody_in_is_refused(tmp_path: Path) -> None:
    blank, secret = tmp_path / "blank", tmp_path / "secret"
    blank.write_text("\n")
    secret.write_text("s3cret\n")
    sentence = "error: the token is empty or not of printable ASCII; give letters and digits\n"
    assert refused("--token", "") == (1, sentence)
    assert refused("--token-file", blank) == (1, sentence)
    assert refused(environment={"DERMSEG_TOKEN": " \n"}) == (1, sentence)
    code, said = refused("--token-file", secret, environment={"DERMSEG_TOKEN": "other"})
    assert code == 2
    assert "give one of --token (or DERMSEG_TOKEN) and --token-file" in said


def test_a_line_end_after_a_token_is_no_part_of_it(dark_bundle: Bundle) -> None:
    with (
        serving("--bundle", dark_bundle.path, environment={"DERMSEG_TOKEN": "s3cret\n"}) as service,
        service.client() as client,
    ):
        for given, status in (("Bearer s3cret", 200), ("Bearer", 401)):
            assert client.get("/bundles", headers={"Authorization": given}).status_code == status


# Serves


@pytest.fixture(scope="module")
def service(dark_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Serves what is shipped, and two tiny bundles, with room for eight images."""
    two = two_classes(dark_bundle, tmp_path_factory.mktemp("bundles"))
    with serving("-b", "lesion", "-b", dark_bundle.path, "-b", two.path, "--queue", "8") as running:
        yield running


@contextmanager
def prefixing(port: int) -> Iterator[str]:
    """A reverse proxy that serves what is at `port` below `/skin`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/skin/"):
                self.send_error(404)
                return
            answer = httpx.get(f"http://127.0.0.1:{port}{self.path.removeprefix('/skin')}", trust_env=False)
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Content-Security-Policy"):
                self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/skin"
        finally:
            server.shutdown()
            thread.join()


def test_the_documentation_can_be_tried_behind_a_prefix(service: Service, chromium: str) -> None:
    with prefixing(service.port) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{url}/docs")
        operation = page.locator(".opblock", has=page.locator('[data-path="/health/live"]'))
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".request-url")).to_contain_text(f"{url}/health/live")
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        browser.close()


def test_a_batch_leaves_room_for_others(service: Service) -> None:
    headers, body = form([("files", disc(30)[0])] * 24)
    content, _ = disc(30)
    with ThreadPoolExecutor() as pool, service.client() as client:
        batch = pool.submit(client.post, "/segment/batch?mc_samples=50", content=body, headers=headers)
        until(lambda: not service.is_idle())
        waiting = []
        while not batch.done():
            waiting.append(service.metric("dermseg_queue_depth") + service.metric("dermseg_images_in_work"))
            assert client.post("/segment", params={"bundle": "dark"}, files={"file": content}).status_code == 200
        assert max(waiting) <= 3  # of eight, of which a metric may be a moment old
        assert [json.loads(line)["file"] for line in batch.result().text.splitlines()] == [
            f"{index}.png" for index in range(24)
        ]


def test_what_a_batch_has_done_no_longer_holds_its_place(dark_bundle: Bundle) -> None:
    """A client that is slow to read must not keep others from uploading for the whole of its batch."""
    noise = encode_image(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8))
    assert len(noise) > 3e6
    headers, body = form([("files", noise)] * 6)
    with serving("--bundle", dark_bundle.path, "--max-pending", "24") as service, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(service.address)
        lines = [
            "POST /segment/batch?output=zip HTTP/1.1",
            "Host: here",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        slow.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        with service.client() as client:
            large = {"file": bytes(15 * 2**20)}
            assert client.post("/segment", files=large).status_code == 503
            until(lambda: client.post("/segment", files=large).status_code == 415, 20)


@pytest.mark.parametrize("target", ["/segment?mc_samples=50&bundle=lesion", "/evaluate?mc_samples=50&bundle=lesion"])
def test_the_work_of_a_client_that_left_is_given_up(service: Service, target: str) -> None:
    content, _ = disc(30)
    headers, body = form(
        [("file", content)] if target.startswith("/segment") else [("file", content), ("mask", content)]
    )
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: here",
        f"Content-Length: {len(body)}",
        "X-Request-ID: left",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    whole = "\r\n".join([*lines, "", ""]).encode() + body
    before = service.metric("dermseg_stage_duration_seconds_count", stage="network")
    clients = [socket.create_connection(service.address, timeout=30) for _ in range(6)]
    for client in clients:
        client.sendall(whole)
    until(lambda: service.metric("dermseg_queue_depth") >= 4)
    begun = time.monotonic()
    for client in clients:
        client.close()
    until(service.is_idle)
    assert service.metric("dermseg_stage_duration_seconds_count", stage="network") <= before + 1
    found = [line for line in service.lines() if line.get("request_id") == "left" and "status" in line]
    assert {line["status"] for line in found} == {499}
    assert time.monotonic() - begun < 20


# Ends


def slowly(service: Service) -> bytes:
    """Send an image byte by byte, and give the answer that comes meanwhile."""
    whole = request(disc(30)[0])
    start = whole.index(b"\r\n\r\n") + 4
    with socket.create_connection(service.address, timeout=0.05) as client:
        client.sendall(whole[:start])
        received = b""
        for place in range(start, len(whole)):
            client.sendall(whole[place : place + 1])
            try:
                received += client.recv(65536)
            except TimeoutError:
                continue
            if received.endswith(b"}"):
                break
        return received


def test_a_stop_keeps_its_time_and_tells_everybody() -> None:
    with serving("--drain", "1", "--queue", "64") as service, ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask, service, LONG) for _ in range(24)]
        until(lambda: service.metric("dermseg_queue_depth") > 16)
        uploading = pool.submit(slowly, service)
        stalled = socket.create_connection(service.address, timeout=30)
        stalled.sendall(request(disc(30)[0])[:-100])
        time.sleep(0.3)
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        answers = [each.result() for each in asked]
        assert {answer.status_code for answer in answers} in ({503}, {200, 503})
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["Content-Type"] == PROBLEM
                assert answer.json()["detail"] == STOPPING
                assert int(answer.headers["Retry-After"]) >= 1
        assert re.match(rb"HTTP/1.1 503 .*" + STOPPING.encode(), uploading.result(), re.DOTALL)
        assert stalled.recv(1000) == b""
        stalled.close()
        service.ended()
        assert time.monotonic() - begun < 1 + 2 + 8  # and what a thread was at, on a busy machine
        assert "timeout graceful shutdown exceeded" not in service.log.read_text()


def test_what_was_accepted_is_finished(dark_bundle: Bundle) -> None:
    """A batch, too, with files that had not begun when the service was told to stop."""
    headers, body = form([("files", disc(30)[0])] * 12)
    with serving("--drain", "60") as service, ThreadPoolExecutor() as pool, service.client() as client:
        batch = pool.submit(client.post, "/segment/batch?mc_samples=5", content=body, headers=headers)
        until(lambda: not service.is_idle())
        service.process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in batch.result().text.splitlines()]
        assert [set(line) for line in lines] == [{"file", "result"}] * 12
        service.ended()


def is_free(service: Service) -> bool:
    """Whether its port is."""
    try:
        socket.create_server(service.address).close()
    except OSError:
        return False
    return True


def test_workers_end_when_their_parent_is_killed(dark_bundle: Bundle, tmp_path: Path) -> None:
    """Else they would keep the port."""
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command("--port", "0", "--workers", "2", "-b", dark_bundle.path),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )

    try:
        assert process.stdout is not None
        announced = re.search(r" at (http://\S+) ", process.stdout.readline())
        assert announced, (tmp_path / "log").read_text()
        killed = Service(announced[1], process, tmp_path / "log")
        until(lambda: is_ready(killed), START_SECONDS)
        assert not is_free(killed)
        process.kill()
        until(lambda: is_free(killed), STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
