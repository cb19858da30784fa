"""How many images a second the service answers and how fast, beside `dermseg segment` on the same machine and images.

    python benchmarks/serving.py --rounds 3

Draws JPEGs of 1022 x 767 pixels. In each round, one after the other: `dermseg segment` over their folder, writing masks
alone, a whole process timed from outside, and over one of them, which is its start; then closed loops of clients, each
of which asks for a mask as soon as it has the last, of a service with micro-batches (the defaults) and of one without
(`--batch 1 --batch-delay 0`). Prints medians over the rounds.

The clients are threads of one process, whose processor time is measured: what is asked of the service is a share of the
rate of `dermseg segment`, without its start, on the part of the machine that the clients leave.

Last open loops, in turn: requests are due at random times (Poisson) at 70 % of the best rate, whether or not earlier
ones have their answers, and latency counts from when a request was due.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path

from dermseg.imaging import encode_image
from dermseg.parallel import cores
from dermseg.synthetic import draw

SIZE = (767, 1022)
QUALITY = 90
SHARE = 0.8  # of the rate of `dermseg segment`, at least
LOAD = 0.7  # of the best rate, in the open loop
LONGEST = 0.5  # seconds: p95 in the open loop, at most
CONNECTIONS = 64  # in the open loop
BATCHES, SINGLES = "micro-batches", "one at a time"
WAYS = {BATCHES: (), SINGLES: ("--batch", "1", "--batch-delay", "0")}
COMMAND = [sys.executable, "-m", "dermseg"]


@dataclass(frozen=True)
class Service:
    """A running service: the port it listens on and the id of its process."""

    port: int
    process: int

    def processor(self) -> float:
        """Processor seconds that it has taken so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """What clients saw.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: Of each request, in seconds.
        clients: Processor seconds of the clients.
        service: Those of the service.
    """

    seconds: float
    latencies: list[float]
    clients: float
    service: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.latencies) / self.seconds

    @property
    def left(self) -> float:
        """The part of the machine that the clients leave."""
        return 1 - self.clients / (self.seconds * cores())

    def within(self, share: float) -> float:
        """Seconds within which a share of the requests is answered."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


@contextmanager
def serving(options: Sequence[str]) -> Iterator[Service]:
    command = [*COMMAND, "serve", "--port", "0", "--log-level", "warning", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announced = re.search(r"http://\S+:(\d+) ", process.stdout.readline())
            assert announced
            yield Service(int(announced[1]), process.pid)
        finally:
            process.terminate()


def ask(connection: HTTPConnection, content: bytes) -> None:
    """Send an image and read its mask; anything else ends the benchmark."""
    boundary = secrets.token_hex(16)
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n\r\n'.encode()
    body = b"".join([part, content, f"\r\n--{boundary}--\r\n".encode()])
    connection.request("POST", "/segment", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise SystemExit(f"the service answered {response.status}: {answer.decode(errors='replace')}")


def drive(port: int, contents: Sequence[bytes], connections: int, due: Sequence[float] | float) -> Run:
    """Be the clients, in a process of their own.

    Args:
        port: Where the service listens.
        contents: Images, sent in turn.
        connections: Requests at a time, at most.
        due: When each request is to be sent, in seconds from the start; or for how long a closed loop runs.
    """
    times = due if isinstance(due, Sequence) else [0.0] * 100_000
    turns: queue.SimpleQueue[int] = queue.SimpleQueue()
    for turn in range(len(times)):
        turns.put(turn)
    processor, start = time.process_time(), time.perf_counter()

    def client(_: int) -> list[float]:
        connection, latencies = HTTPConnection("127.0.0.1", port, timeout=120), []
        while isinstance(due, Sequence) or time.perf_counter() - start < due:
            try:
                turn = turns.get_nowait()
            except queue.Empty:
                break
            begun = start + times[turn] if isinstance(due, Sequence) else time.perf_counter()
            time.sleep(max(0.0, begun - time.perf_counter()))
            ask(connection, contents[turn % len(contents)])
            latencies.append(time.perf_counter() - begun)
        connection.close()
        return latencies

    with ThreadPoolExecutor(connections) as pool:
        latencies = [latency for each in pool.map(client, range(connections)) for latency in each]
    return Run(time.perf_counter() - start, latencies, time.process_time() - processor)


def measure(
    clients: Executor, service: Service, contents: Sequence[bytes], connections: int, due: Sequence[float] | float
) -> Run:
    before = service.processor()
    run = clients.submit(drive, service.port, contents, connections, due).result()
    return replace(run, service=service.processor() - before)


def segment(source: Path, output: Path) -> float:
    """Seconds that `dermseg segment` takes."""
    start = time.perf_counter()
    command = [*COMMAND, "segment", str(source), "--output", str(output), "--save", "mask"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def report_throughput(rounds: Sequence[dict[tuple[str, int], Run]], rates: Sequence[float]) -> None:
    """Print a row for each way and number of clients, each beside `dermseg segment` in the same round."""
    print(
        "| service | clients | images/s | p50 | p95 | p99 | service's ms/image | clients' share | of segment's rate |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for way, connections in rounds[0]:
        runs = [each[way, connections] for each in rounds]
        p50, p95, p99 = (1000 * statistics.median(run.within(share) for run in runs) for share in (0.5, 0.95, 0.99))
        cost = 1000 * statistics.median(run.service / len(run.latencies) for run in runs)
        shares = [run.rate / (rate * run.left) for run, rate in zip(runs, rates, strict=True)]
        print(
            f"| {way} | {connections} | {median(runs, 'rate'):.1f} | {p50:.0f} ms | {p95:.0f} ms | {p99:.0f} ms "
            f"| {cost:.1f} | {1 - median(runs, 'left'):.1%} | {statistics.median(shares):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each closed loop")
    parser.add_argument("--open-seconds", type=float, default=10, help="of each open loop")
    options = parser.parse_args()
    contents = [encode_image(draw(seed, SIZE).pixels, "JPEG", quality=QUALITY) for seed in range(options.images)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients,
        serving(WAYS[BATCHES]) as batches,
        serving(WAYS[SINGLES]) as singles,
    ):
        folder, output = Path(scratch) / "images", Path(scratch) / "masks"
        folder.mkdir()
        for index, content in enumerate(contents):
            (folder / f"{index}.jpg").write_bytes(content)
        services = {BATCHES: batches, SINGLES: singles}
        for service in services.values():
            measure(clients, service, contents, 4, 2)
        segment(folder / "0.jpg", output)
        rounds, rates, whole = [], [], []
        for _ in range(options.rounds):
            took, start = segment(folder, output), segment(folder / "0.jpg", output)
            rates.append((len(contents) - 1) / (took - start))
            whole.append(len(contents) / took)
            rounds.append(
                {
                    (way, connections): measure(clients, service, contents, connections, options.seconds)
                    for connections in options.clients
                    for way, service in services.items()
                }
            )
        print(f"{len(contents)} images of {SIZE[1]} x {SIZE[0]}, {options.rounds} rounds, {cores()} cores")
        print(
            f"dermseg segment: {statistics.median(rates):.1f} images/s "
            f"({statistics.median(whole):.1f} with its start); at least {SHARE} of it are asked for"
        )
        report_throughput(rounds, rates)
        for connections in options.clients:
            ratios = [each[BATCHES, connections].rate / each[SINGLES, connections].rate for each in rounds]
            print(f"{connections} clients: micro-batches / one at a time {statistics.median(ratios):.2f}")
        best = max(median([each[BATCHES, count] for each in rounds], "rate") for count in options.clients)
        chance, due = random.Random(0), [0.0]
        while due[-1] < options.open_seconds:
            due.append(due[-1] + chance.expovariate(LOAD * best))
        opened: dict[str, list[Run]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, service in services.items():
                opened[way].append(measure(clients, service, contents, CONNECTIONS, due))
        print(
            f"open loop, Poisson, {LOAD * best:.1f} images/s ({LOAD:.0%} of {best:.1f}), {len(due)} requests a round:"
        )
        for way, runs in opened.items():
            p50, p95, p99 = (1000 * statistics.median(run.within(share) for run in runs) for share in (0.5, 0.95, 0.99))
            every = ", ".join(f"{1000 * run.within(0.95):.0f}" for run in runs)
            print(
                f"{way}: p50 {p50:.0f} ms, p95 {p95:.0f} ms (by round {every}; "
                f"at most {1000 * LONGEST:.0f} asked for), p99 {p99:.0f} ms"
            )


if __name__ == "__main__":
    main()
