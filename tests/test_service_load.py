"""The service under strain: nobody gets another's answer, half an answer, or none without a word, nor does it grow."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import parse_headers
from io import BytesIO
from pathlib import Path

import pytest

from dermseg import Segmenter
from dermseg.bundle import Bundle
from dermseg.imaging import encode_image, encode_mask, read_mask
from dermseg.synthetic import draw
from tests.hostile import HOSTILE, Fails
from tests.service import PROBLEM, Service, disc, request, serving, until

CLIENTS = 200
BUSY = (503, 504)  # what a right request may get instead of its answer, where there is too much to do
SOAK = int(os.environ.get("DERMSEG_SOAK", "20000"))

Address = tuple[str, int]
Masks = dict[bytes, bytes]
"""Photographs, and the file of the mask that each must give."""


@dataclass(frozen=True)
class Answer:
    """To one request; `status` is 0 where the connection ended before a byte of an answer came."""

    status: int
    headers: Message
    body: bytes = b""


class HalfAnswerError(AssertionError):
    """An answer shorter than it says."""


@pytest.fixture(scope="module")
def masks(dark_bundle: Bundle) -> Masks:
    """Each photograph has a size and a lesion of its own."""
    segmenter = Segmenter(dark_bundle, threads=1)
    contents = [disc(8 + index / 8, (64 + index % 64, 80 + index))[0] for index in range(CLIENTS)]
    found = {content: encode_mask(segmenter(content).mask) for content in contents}
    assert len(set(found.values())) == CLIENTS
    return found


@pytest.fixture(scope="module")
def dark(dark_bundle: Bundle) -> Sequence[str]:
    """Options to serve a bundle that takes hardly any time."""
    return "--bundle", str(dark_bundle.path)


async def send(address: Address, content: bytes) -> Answer:
    """Send a request over a connection of its own, and read its answer."""
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError:  # nobody listens
        return Answer(0, Message())
    with closing(writer):
        with suppress(OSError):  # a refusal may come before all is sent
            writer.write(content)
            await writer.drain()
        return await receive(reader)


async def receive(reader: asyncio.StreamReader) -> Answer:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError) as error:
        if getattr(error, "partial", b""):
            raise HalfAnswerError from error
        return Answer(0, Message())
    status, _, fields = head.partition(b"\r\n")
    headers = parse_headers(BytesIO(fields))
    try:
        body = await reader.readexactly(int(headers["content-length"]))
    except (asyncio.IncompleteReadError, OSError) as error:
        raise HalfAnswerError from error
    return Answer(int(status.split()[1]), headers, body)


def check(answer: Answer, mask: bytes) -> None:
    """It is the image's own mask, or says that the service is busy."""
    if answer.status == 200:
        assert answer.body == mask
        return
    assert answer.status in BUSY, answer
    assert answer.headers["content-type"] == PROBLEM
    assert answer.status != 503 or int(answer.headers["retry-after"]) >= 1


async def ask(address: Address, content: bytes, mask: bytes) -> int:
    """Send an image, check the answer, and give its status."""
    answer = await send(address, request(content))
    check(answer, mask)
    return answer.status


def check_health(service: Service, masks: Masks) -> None:
    """Nothing is left in work, and a request is answered."""
    until(service.is_idle)
    assert asyncio.run(ask(service.address, *next(iter(masks.items())))) == 200


# Clients that misbehave


def test_slow_clients_hinder_nobody(dark: Sequence[str], masks: Masks) -> None:
    content, mask = next(iter(masks.items()))

    async def drip(address: Address) -> Answer:
        """Send the headers at once, and the body byte by byte."""
        whole = request(content)
        start = whole.index(b"\r\n\r\n") + 4
        reader, writer = await asyncio.open_connection(*address)
        with closing(writer):
            answer = asyncio.create_task(receive(reader))
            writer.write(whole[:start])
            for place in range(start, len(whole)):
                writer.write(whole[place : place + 1])
                await asyncio.wait([answer], timeout=0.1)
                if answer.done():
                    break
            return await answer

    async def latency(address: Address) -> float:
        taken = []
        for _ in range(20):
            begun = time.perf_counter()
            assert await ask(address, content, mask) == 200
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    async def say_little(address: Address, said: bytes) -> None:
        """Begin no request, or one whose headers do not end, until the connection is closed."""
        reader, writer = await asyncio.open_connection(*address)
        with closing(writer):
            writer.write(said)
            assert await asyncio.wait_for(reader.read(), 60) == b""

    async def run(address: Address) -> None:
        alone = await latency(address)
        silent = [asyncio.create_task(say_little(address, said)) for said in (b"", request(content)[:60]) * 25]
        slow = [asyncio.create_task(drip(address)) for _ in range(50)]
        await asyncio.sleep(0.5)
        beside = await latency(address)
        assert not any(task.done() for task in slow)
        assert beside < 3 * alone + 0.1
        for answer in await asyncio.gather(*slow):
            assert (answer.status, answer.headers["content-type"]) == (408, PROBLEM)
        await asyncio.gather(*silent)

    with serving(*dark, "--upload-timeout", "8") as service:
        asyncio.run(run(service.address))
        check_health(service, masks)


def test_clients_that_leave_cost_nothing(dark: Sequence[str], masks: Masks) -> None:
    """In the middle of an upload, before the answer, and in the middle of it."""
    whole = request(next(iter(masks)))
    large = request(encode_image(draw(size=(768, 1024)).pixels, "JPEG"), "/segment?output=zip")

    def leave(address: Address, content: bytes, wait: float, *, read: int = 0, rudely: bool) -> None:
        with socket.create_connection(address, timeout=60) as client:
            if rudely:  # a reset rather than an end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(content)
            time.sleep(wait)
            if read:
                assert client.recv(read)

    with serving(*dark) as service:
        for rudely in (False, True) * 10:
            leave(service.address, whole[:60], 0, rudely=rudely)
            leave(service.address, whole[: len(whole) // 2], 0.01, rudely=rudely)
            leave(service.address, whole, 0, rudely=rudely)
            leave(service.address, whole, 0.01, rudely=rudely)
        for rudely in (False, True):
            leave(service.address, large, 0.05, rudely=rudely)
            leave(service.address, large, 0, read=1000, rudely=rudely)
        check_health(service, masks)
        assert {line["status"] for line in service.lines() if line.get("route") == "/segment"} <= {200, 400, 499}


# Many at a time


async def ask_until_answered(address: Address, masks: Masks) -> Counter[int]:
    """Send all images at once, those that are refused again, until each has its answer; counts the statuses."""
    left, statuses = masks, Counter[int]()
    while left:
        found = await asyncio.gather(*(ask(address, *each) for each in left.items()))
        statuses.update(found)
        left = {content: left[content] for content, status in zip(left, found, strict=True) if status != 200}
    return statuses


def test_each_of_many_clients_gets_its_own_answer(dark: Sequence[str], masks: Masks) -> None:
    with serving(*dark, "--queue", str(CLIENTS)) as service:
        assert asyncio.run(ask_until_answered(service.address, masks)) == {200: CLIENTS}
        assert service.metric("dermseg_batch_images_count") < CLIENTS  # some shared a batch
        check_health(service, masks)


def test_what_is_too_much_is_refused(dark: Sequence[str], masks: Masks) -> None:
    with serving(*dark, "--queue", "4") as service:
        some = dict(list(masks.items())[:50])
        statuses = asyncio.run(ask_until_answered(service.address, some))
        assert set(statuses) == {200, 503}
        assert statuses[200] == len(some)
        assert service.metric("dermseg_refusals_total", reason="busy") == statuses[503]
        check_health(service, masks)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_of_many_clients_gets_its_own_answer_of_the_shipped_bundle() -> None:
    segmenter = Segmenter(threads=1)
    contents = [encode_image(draw(seed, (384 + seed % 2, 512 + seed)).pixels, "JPEG") for seed in range(CLIENTS)]

    async def run(address: Address) -> None:
        left = dict.fromkeys(contents, True)
        while left:
            answers = await asyncio.gather(*(send(address, request(content)) for content in left))
            for content, answer in zip(list(left), answers, strict=True):
                if answer.status == 200:
                    expected, found = segmenter(content).mask, read_mask(answer.body)
                    assert found.shape == expected.shape
                    assert (found != expected).mean() < 1e-3  # in batches sums differ in their last digit
                    del left[content]
                else:
                    check(answer, b"")

    with serving() as service:
        asyncio.run(run(service.address))


# Stops


@dataclass
class Traffic:
    """What became of the requests of clients that send one image after another.

    Attributes:
        statuses: By request id; None where half an answer came.
    """

    statuses: dict[str, int | None] = field(default_factory=dict)

    def counts(self) -> Counter[int | None]:
        return Counter(list(self.statuses.values()))

    def flow(self, count: int = 100) -> None:
        """Wait until so many more are answered."""
        before = self.counts()[200]
        until(lambda: self.counts()[200] >= before + count, 60)


@contextmanager
def traffic(address: Address, masks: Masks, clients: int = 32) -> Iterator[Traffic]:
    """Clients that send images until the block ends; each answer is checked."""
    found, ended = Traffic(), threading.Event()
    names = itertools.count()
    turns = itertools.cycle(masks.items())
    failures: list[BaseException] = []

    async def client() -> None:
        while not ended.is_set():
            name, (content, mask) = f"r{next(names)}", next(turns)
            try:
                answer = await send(address, request(content, name=name))
            except HalfAnswerError:
                found.statuses[name] = None
                continue
            found.statuses[name] = answer.status
            if answer.status:
                check(answer, mask)
            else:
                await asyncio.sleep(0.05)

    async def run() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
    for failure in failures:
        raise failure


def test_a_restart_under_load_spoils_no_answer(dark: Sequence[str], masks: Masks) -> None:
    with serving(*dark) as first, traffic(first.address, masks) as load:
        load.flow()
        first.stop()
        with serving(*dark, port=first.port) as second:
            load.flow()
            second.stop()
            load.flow(0)
            lines = [*first.lines(), *second.lines()]
    # Whatever a service took has its answer, complete; nobody got one that no service gave.
    logged = {line["request_id"]: line["status"] for line in lines if line.get("route") == "/segment"}
    answered = {name: status for name, status in load.statuses.items() if name in logged or status != 0}
    assert answered == {name: status for name, status in logged.items() if name in load.statuses}
    assert set(answered.values()) <= {200, *BUSY}


def test_a_stop_refuses_what_would_take_too_long() -> None:
    whole = request(disc(30)[0], "/segment?mc_samples=50&output=json")

    async def run(service: Service) -> list[Answer]:
        tasks = [asyncio.create_task(send(service.address, whole)) for _ in range(24)]
        await asyncio.to_thread(until, lambda: service.metric("dermseg_queue_depth") > 16)
        service.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*tasks)

    with serving("--drain", "1") as service:
        statuses = Counter(answer.status for answer in asyncio.run(run(service)))
        assert set(statuses) <= {200, *BUSY}
        assert statuses[503] + statuses[504] > 0
        service.ended()


def test_a_process_that_dies_is_replaced(dark: Sequence[str], masks: Masks) -> None:
    with serving(*dark, "--workers", "2") as service:
        until(lambda: service.log.read_text().count("startup complete") == 2, 90)
        with traffic(service.address, masks) as load:
            load.flow()
            killed = service.workers()[0]
            os.kill(killed, signal.SIGKILL)
            load.flow()
            until(lambda: killed not in service.workers() and len(service.workers()) == 2, 90)
            until(lambda: service.log.read_text().count("startup complete") == 3, 90)
            load.flow()
        assert load.counts()[None] <= 2  # cut off by the death itself
        check_health(service, masks)


# Long runs


def soak(service: Service, count: int, warm_up: int, size: tuple[int, int] = (767, 1022)) -> tuple[list[int], int, int]:
    """Send many images and bad files, eight at a time.

    Returns:
        Bytes of memory after the warm-up and after each tenth of `count`, and the files that are open before and after.
    """
    small = encode_image(draw(1, (192, 256)).pixels)
    photos = [encode_image(draw(seed, size).pixels, "JPEG", quality=90) for seed in range(2)]
    bad = [make() for make, outcome in HOSTILE.values() if isinstance(outcome, Fails)]
    outputs = ("mask", "json", "overlay", "zip")
    right = [request(content, f"/segment?output={output}") for content in (small, *photos) for output in outputs]
    wrong = itertools.cycle(request(content) for content in bad)
    tasks = (
        (next(wrong), (413, 415, 422)) if turn % 5 == 0 else (right[turn % len(right)], (200,))
        for turn in itertools.count()
    )

    async def client(turns: Iterator[int]) -> None:
        for _ in turns:
            content, expected = next(tasks)
            answer = await send(service.address, content)
            assert answer.status in expected, answer

    async def run(number: int) -> None:
        turns = iter(range(number))
        await asyncio.gather(*(client(turns) for _ in range(8)))

    def files() -> int:
        return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))

    asyncio.run(run(warm_up))
    before, memory = files(), [service.resident()]
    for _ in range(10):
        asyncio.run(run(count // 10))
        memory.append(service.resident())
    until(service.is_idle)
    return memory, before, files()


def test_it_does_not_grow(dark: Sequence[str]) -> None:
    with serving(*dark) as service:
        memory, before, after = soak(service, 200, 60, size=(383, 511))
    assert memory[-1] < 1.25 * memory[0], memory
    assert after <= before + 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_it_does_not_grow_in_a_long_run() -> None:
    """`DERMSEG_SOAK` is the number of requests."""
    with serving() as service:
        memory, before, after = soak(service, SOAK, 1000)
    assert memory[-1] < 1.05 * memory[0], memory
    assert after <= before + 2
