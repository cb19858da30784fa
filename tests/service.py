"""The service as it is used: a process of `dermseg serve` on a port of this machine, and cheap ways to talk to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from numpy.typing import NDArray

from dermseg import bundle
from dermseg.bundle import Bundle
from dermseg.imaging import encode_image
from dermseg.manifest import DROPOUT, ONNX, WEIGHTS

START_SECONDS = 90  # with several of them on a slow machine
STOP_SECONDS = 60
PROBLEM = "application/problem+json"
WARNS_OF_NO_TOKEN = "whoever reaches this address"


@dataclass
class Service:
    """A running service.

    Attributes:
        url: Of its root, without a slash.
        process: The command's process; with several workers, their parent.
        log: What it writes to stderr.
        token: What it asks for.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path
    token: str | None = None

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 80

    @property
    def address(self) -> tuple[str, int]:
        """For a socket."""
        return "127.0.0.1", self.port

    def client(self, **settings: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False, headers=headers, **settings)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items())
        )

    def is_idle(self) -> bool:
        """Whether no image is in work, nor waits."""
        return self.metric("dermseg_images_in_work") == self.metric("dermseg_queue_depth") == 0

    def workers(self) -> list[int]:
        """Ids of the processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        # Python's own helper of several processes is a child, too.
        serving = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return serving or [self.process.pid]

    def resident(self) -> int:
        """Bytes of memory of the processes that answer."""
        pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in self.workers())
        return pages * os.sysconf("SC_PAGE_SIZE")

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith(WARNS_OF_NO_TOKEN)]

    def stop(self) -> None:
        """Stop it, and check that it ends as it should and that nothing went wrong before."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> None:
        """Wait until it has ended by itself or by a signal; check as `stop` does."""
        assert self.process.wait(STOP_SECONDS) == 0, self.log.read_text()[-4000:]
        assert "Traceback" not in self.log.read_text()
        assert [line for line in self.lines() if line["level"] not in ("info", "warning")] == []


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "dermseg", "serve", *map(str, options)]


@contextmanager
def serving(
    *options: str | Path, port: int = 0, token: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run `dermseg serve OPTIONS` until the block ends, then stop it and check that it ended well."""
    secret = {"DERMSEG_TOKEN": token} if token else {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                command("--port", str(port), *options),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **secret, **(environment or {})},
                start_new_session=True,
            )
        try:
            assert process.stdout is not None
            announced = re.search(r" at (http://\S+) ", process.stdout.readline())
            assert announced, log.read_text()
            service = Service(announced[1], process, log, token)
            until(lambda: is_ready(service), START_SECONDS)
            yield service
            service.stop()
        finally:
            with suppress(ProcessLookupError):  # with its workers, of which none is left where it ended well
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def is_ready(service: Service) -> bool:
    assert service.process.poll() is None, service.log.read_text()
    try:
        return httpx.get(f"{service.url}/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def form(parts: Sequence[tuple[str, bytes]]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a form of files, each with its field's name."""
    boundary = secrets.token_hex(16)
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{index}.png"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for index, (name, content) in enumerate(parts)
    ]
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return headers, b"".join(pieces) + f"--{boundary}--\r\n".encode()


def request(content: bytes, target: str = "/segment", *, name: str = "test", keep: bool = False) -> bytes:
    """A whole request with an image as it goes over the wire; `name` is its id."""
    headers, body = form([("file", content)])
    headers |= {
        "Host": "test",
        "Content-Length": str(len(body)),
        "X-Request-ID": name,
        "Connection": "keep-alive" if keep else "close",
    }
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def disc(radius: float, size: tuple[int, int] = (100, 128)) -> tuple[bytes, NDArray[np.bool_]]:
    """A PNG of a dark disc on light skin, and the disc."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    mask = (rows - size[0] / 2) ** 2 + (columns - size[1] / 2) ** 2 <= radius**2
    return encode_image(np.where(mask[..., None], np.uint8(30), np.array([230, 200, 190], np.uint8))), mask


def two_classes(dark: Bundle, folder: Path) -> Bundle:
    """A bundle like `dark` that also finds what is bright, and that has dropout, of the image's colours."""
    side = dark.manifest.input_size
    weight = np.full((1, 3, 1, 1), -8 / 3, np.float32)
    weights = [onnx.numpy_helper.from_array(np.concatenate([weight, -weight]), "weight")]
    image, features, logits, masks = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", channels, *size))
        for name, channels, *size in (
            ("image", 3, side, side),
            ("features", 3, side, side),
            ("logits", 2, side, side),
            ("masks", 3, 1, 1),
        )
    )
    node = onnx.helper.make_node
    identity, convolution = node("Identity", ["image"], ["features"]), node("Conv", ["kept", "weight"], ["logits"])
    whole = onnx.helper.make_graph(
        [identity, node("Identity", ["image"], ["kept"]), convolution], "two", [image], [logits, features], weights
    )
    part = onnx.helper.make_graph(
        [node("Mul", ["features", "masks"], ["kept"]), convolution], "part", [features, masks], [logits], weights
    )
    networks = [
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        for graph in (whole, part)
    ]
    onnx.helper.set_model_props(networks[1], {"dropout": "0.1"})
    files = dict(zip((ONNX, DROPOUT), (network.SerializeToString() for network in networks), strict=True))
    manifest = dark.manifest.model_copy(
        update={"name": "two", "classes": ("lesion", "bright"), "thresholds": {"lesion": 0.5, "bright": 0.5}}
    )
    return bundle.write(folder / "two", manifest, {**files, WEIGHTS: b"unused"})


def without(folder: Path, *packages: str) -> dict[str, str]:
    """The environment of a process that finds some packages not installed."""
    for name in packages:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here', name='{name}')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
