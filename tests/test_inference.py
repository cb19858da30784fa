"""Inference: each image gets its own answer, in time or not at all, and no more are in work than may be."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from dermseg import Segmenter, bundle, synthetic
from dermseg.bundle import Bundle
from dermseg.errors import (
    BrokenImageError,
    BundleError,
    BundleIntegrityError,
    DermsegError,
    InputError,
    UnsupportedImageError,
)
from dermseg.imaging import encode_image
from dermseg.manifest import ONNX, WEIGHTS
from dermseg.parallel import cores
from dermseg.segmenter import Prediction, Prepared
from dermseg.serving.config import ServiceConfig
from dermseg.serving.inference import Answer, Inference, Options
from dermseg.serving.problems import BusyError

PLAIN = Options()


def spot(width: int, radius: float = 20) -> tuple[bytes, int]:
    """A PNG of a dark disc on light skin, 100 pixels high, and the disc's area."""
    rows, columns = np.ogrid[:100, :width]
    disc = (rows - 50) ** 2 + (columns - width / 2) ** 2 <= radius**2
    pixels = np.where(disc[..., None], np.uint8(30), np.array([230, 200, 190], np.uint8))
    return encode_image(pixels), int(disc.sum())


def area(prediction: Prediction) -> int:
    return int(prediction.mask.sum())


def nothing(prediction: Prediction) -> None:
    """Finishes with no value."""


class Gate:
    """Finishes no image before it is opened."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, prediction: Prediction) -> int:
        self.begun.release()
        assert self.opened.wait(60)
        return area(prediction)

    async def reached(self) -> None:
        """Wait until one more image is there."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


@pytest.fixture(scope="module")
def dark(dark_bundle: Bundle) -> str:
    return str(dark_bundle.path)


@asynccontextmanager
async def serving(config: ServiceConfig, **hooks: Callable[..., object]) -> AsyncIterator[Inference]:
    inference = Inference(config, **hooks)
    try:
        yield inference
    finally:
        await inference.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# Answers


def test_the_answer_is_the_segmenters(example_file: Path) -> None:
    content = example_file.read_bytes()
    direct = Segmenter(threads=1)(content)
    assert direct.quality is not None

    async def main() -> Answer[NDArray[np.float32]]:
        async with serving(ServiceConfig()) as inference:
            return await inference.segment(content, PLAIN, lambda prediction: prediction.probabilities)

    begun = time.perf_counter()
    answer = asyncio.run(main())
    np.testing.assert_allclose(answer.value, direct.probabilities, atol=1e-5)
    assert (answer.bundle, answer.verdict) == ("lesion", direct.quality.verdict)
    assert min(answer.seconds.decode, answer.seconds.network, answer.seconds.encode) > 0
    assert sum(answer.seconds) < time.perf_counter() - begun


def test_a_hundred_images_at_once_get_their_own_answers(dark: str) -> None:
    images = [spot(120 + number, radius=10 + 0.3 * number) for number in range(100)]
    sizes: list[int] = []
    stages: list[str] = []

    async def main() -> list[Answer[tuple[int, int]]]:
        config = ServiceConfig(bundles=(dark,), queue=100, batch=4)
        async with serving(config, on_batch=sizes.append, on_stage=lambda name, _: stages.append(name)) as inference:
            work = (inference.segment(content, PLAIN, lambda p: (p.size[1], area(p))) for content, _ in images)
            answers = await asyncio.gather(*work)
            assert (inference.waiting, inference.working) == (0, 0)
            return answers

    answers = asyncio.run(main())
    assert [answer.value[0] for answer in answers] == list(range(120, 220))
    for answer, (_, truth) in zip(answers, images, strict=True):
        assert answer.value[1] == pytest.approx(truth, rel=0.2)
    assert sum(sizes) == 100
    assert max(sizes) <= 4
    assert sorted(set(stages)) == ["decode", "encode", "network", "queue"]
    assert len(stages) == 400


def test_images_of_every_kind_go_side_by_side(dark: str, example_file: Path) -> None:
    """Each with its own bundle, threshold, scale and way to be predicted."""
    content, (disc, _) = example_file.read_bytes(), spot(150)
    wanted = [
        (content, Options(), Segmenter(threads=1)),
        (content, Options(bundle="lesion", threshold=0.1), Segmenter(threads=1, threshold=0.1)),
        (content, Options(tta=True), Segmenter(threads=1, tta=True)),
        (content, Options(mc_samples=3, attribute="lesion"), Segmenter(threads=1, mc_dropout=3)),
        (disc, Options(bundle="dark", mm_per_pixel=0.1), Segmenter(dark, threads=1, mm_per_pixel=0.1)),
        (disc, Options(bundle="dark", tta=True), Segmenter(dark, threads=1, tta=True)),
    ]

    async def main() -> list[Answer[dict[str, Any]]]:
        async with serving(ServiceConfig(bundles=("lesion", dark))) as inference:
            assert list(inference.bundles) == ["lesion", "dark"]
            work = (inference.segment(content, options, Prediction.to_dict) for content, options, _ in wanted * 3)
            return await asyncio.gather(*work)

    answers = asyncio.run(main())
    for answer, (content, _, segmenter) in zip(answers, wanted * 3, strict=True):
        expected = segmenter(content).to_dict()
        told = answer.value
        assert answer.verdict == (expected["quality"] and expected["quality"]["verdict"])
        assert (told["bundle"], answer.bundle) == (expected["bundle"],) * 2
        assert (told["uncertainty"] is None) == (expected["uncertainty"] is None)
        (one,), (other,) = told["classes"], expected["classes"]
        assert one["threshold"] == other["threshold"]
        assert one["area_pixels"] == pytest.approx(other["area_pixels"], abs=2)
        assert told["measurements"]["mm_per_pixel"] == expected["measurements"]["mm_per_pixel"]


def test_the_quality_is_judged_at_the_bundles_own_threshold(example_file: Path) -> None:
    """Which it was fitted at; another changes the mask alone."""
    content = example_file.read_bytes()
    own, other = (Segmenter(threads=1, threshold=threshold)(content) for threshold in (None, 0.99))
    assert own.quality is not None
    assert other.quality == own.quality
    assert area(other) < area(own)

    async def main() -> Answer[dict[str, Any]]:
        async with serving(ServiceConfig()) as inference:
            return await inference.segment(content, Options(threshold=0.99), Prediction.to_dict)

    told = asyncio.run(main()).value
    assert told["quality"]["jaccard"] == pytest.approx(own.quality.jaccard, abs=1e-3)
    assert told["classes"][0]["threshold"] == 0.99


# What cannot be answered


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            Options(bundle="lesoin"),
            "there is no bundle 'lesoin' here; did you mean 'lesion'? Choose from: lesion, dark",
        ),
        (Options(bundle="../lesion"), "there is no bundle '../lesion' here; did you mean 'lesion'? Choose from: "),
        (Options(attribute="globules"), "the bundle 'lesion' has no class 'globules'; did you mean 'lesion'? Choose"),
        (Options(mc_samples=1), "mc_samples is 1; expected 0 for none, or 2 to 50"),
        (Options(mc_samples=51), "mc_samples is 51; expected 0 for none, or 2 to 50"),
        (Options(mc_samples=-2), "mc_samples is -2; expected 0 for none, or 2 to 50"),
        (
            Options(tta=True, mc_samples=6),
            "mc_samples is 6 with tta, which predicts 10 views as often each; expected 0 for none, or 2 to 5",
        ),
        (Options(threshold=1.0), "the threshold is 1.0; expected a probability between 0 and 1"),
        (Options(mm_per_pixel=0), "mm_per_pixel is 0; expected a length of 0.000001 to 1000 millimetres"),
    ],
)
def test_an_option_out_of_range_is_refused_before_work_begins(dark: str, options: Options, sentence: str) -> None:
    async def main() -> str:
        async with serving(ServiceConfig(bundles=("lesion", dark), queue=1)) as inference:
            with pytest.raises(InputError) as direct:
                inference.check(options)
            with pytest.raises(InputError) as caught:
                await inference.segment(b"", options, nothing)
            assert str(direct.value) == str(caught.value)
            assert inference.waiting == 0
            return str(caught.value)

    assert asyncio.run(main()).startswith(sentence)


def test_samples_and_views_go_together_within_their_bound(dark: str) -> None:
    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,))) as inference:
            inference.check(Options(tta=True, mc_samples=5))
            inference.check(Options(mc_samples=50))

    asyncio.run(main())


def test_a_bad_image_is_said_so_and_leaves_its_place(dark: str) -> None:
    content, _ = spot(150)

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), queue=3)) as inference:
            for _ in range(4):
                found = await asyncio.gather(
                    inference.segment(b"no picture", PLAIN, area),
                    inference.segment(content[:200], PLAIN, area),
                    inference.segment(content, PLAIN, area),
                    return_exceptions=True,
                )
                assert [type(each) for each in found] == [UnsupportedImageError, BrokenImageError, Answer]
            with pytest.raises(ZeroDivisionError):
                await inference.segment(content, PLAIN, lambda _: 1 / 0)
            await until(lambda: inference.waiting == 0)

    asyncio.run(main())


# The bound


def test_no_more_images_are_taken_than_may_be_in_work(dark: str) -> None:
    content, truth = spot(150)
    gate = Gate()

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), queue=3, threads=1)) as inference:
            taken = [asyncio.create_task(inference.segment(content, PLAIN, gate)) for _ in range(3)]
            await gate.reached()
            assert (inference.working, inference.waiting) == (1, 2)
            with pytest.raises(BusyError) as caught:
                await inference.segment(content, PLAIN, gate)
            assert str(caught.value) == "3 images are in work already; try again later"
            assert caught.value.status == 503
            assert int(caught.value.headers["Retry-After"]) >= 1
            gate.opened.set()
            for answer in await asyncio.gather(*taken):
                assert answer.value == pytest.approx(truth, rel=0.1)
            await inference.segment(content, PLAIN, gate)

    asyncio.run(main())


@pytest.mark.parametrize("options", [PLAIN, Options(tta=True)], ids=["plain", "views"])
def test_few_images_are_decoded_ahead_of_their_answers(
    dark: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a decoded image may be large. However many wait: those in work, and those of one batch."""
    prepare, decoded = Segmenter.prepare, list[object]()

    def counted(self: Segmenter, source: bytes) -> Prepared:
        decoded.append(source)
        return prepare(self, source)

    content, _ = spot(150)
    gate = Gate()

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), threads=1, batch=1)) as inference:
            monkeypatch.setattr(Segmenter, "prepare", counted)
            taken = [asyncio.create_task(inference.segment(content, options, gate)) for _ in range(12)]
            await gate.reached()
            assert 1 <= len(decoded) <= 2
            gate.opened.set()
            await asyncio.gather(*taken)
            assert len(decoded) == 12

    asyncio.run(main())


def test_threads_bound_the_network_too(dark: str) -> None:
    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), threads=cores() + 1)) as inference:
            assert inference.threads == cores() + 1
            assert [thread.name for thread in threading.enumerate()].count("batcher") == cores() + 1

    asyncio.run(main())


def test_the_patient_wait_for_a_place(dark: str) -> None:
    content, truth = spot(150)
    gate = Gate()

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), queue=1)) as inference:
            first = asyncio.create_task(inference.segment(content, PLAIN, gate))
            await gate.reached()
            waiting = [asyncio.create_task(inference.segment(content, PLAIN, area, patient=True)) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
            gate.opened.set()
            for answer in await asyncio.gather(first, *waiting):
                assert answer.value == pytest.approx(truth, rel=0.1)

    asyncio.run(main())


def test_at_the_deadline_nothing_more_is_begun_and_what_runs_keeps_its_place(dark: str) -> None:
    content, _ = spot(150)
    gate, sizes = Gate(), list[int]()

    async def main() -> None:
        config = ServiceConfig(bundles=(dark,), queue=2, threads=1, deadline=2)
        async with serving(config, on_batch=sizes.append) as inference:
            first = asyncio.create_task(inference.segment(content, PLAIN, gate))
            await gate.reached()
            second = asyncio.create_task(inference.segment(content, PLAIN, gate))
            for task in (first, second):
                with pytest.raises(TimeoutError):
                    await task
            # The second waited to be decoded and is gone; the first is being finished still.
            await until(lambda: inference.waiting == 0)
            assert (inference.working, sizes) == (1, [1])
            third = asyncio.create_task(inference.segment(content, PLAIN, gate))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await inference.segment(content, PLAIN, gate)
            gate.opened.set()
            await third
            await until(lambda: inference.working == 0)
            assert sizes == [1, 1]

    asyncio.run(main())


def test_a_client_that_goes_away_frees_its_place(dark: str) -> None:
    content, _ = spot(150)
    gate, sizes = Gate(), list[int]()

    async def main() -> None:
        config = ServiceConfig(bundles=(dark,), queue=3, threads=1)
        async with serving(config, on_batch=sizes.append) as inference:
            begun = asyncio.create_task(inference.segment(content, PLAIN, gate))
            await gate.reached()
            references = sys.getrefcount(content)
            waiting = [asyncio.create_task(inference.segment(content, PLAIN, gate)) for _ in range(2)]
            await asyncio.sleep(0)
            assert sys.getrefcount(content) > references
            for task in (begun, *waiting):
                task.cancel()
            found = await asyncio.gather(begun, *waiting, return_exceptions=True)
            assert [type(each) for each in found] == [asyncio.CancelledError] * 3
            del task, found
            waiting.clear()
            await until(lambda: (inference.waiting, inference.working) == (0, 1))
            await until(lambda: gc.collect() >= 0 and sys.getrefcount(content) <= references)
            gate.opened.set()
            await until(lambda: inference.working == 0)
            assert sizes == [1]
            await inference.segment(content, PLAIN, gate)

    asyncio.run(main())


def test_samples_keep_nobody_waiting(dark: str, example_file: Path) -> None:
    async def main() -> None:
        async with serving(ServiceConfig(bundles=("lesion", dark), threads=2)) as inference:
            slow = [
                asyncio.create_task(inference.segment(example_file.read_bytes(), Options(tta=True), nothing))
                for _ in range(6)
            ]
            await until(lambda: inference.working == 1)
            for _ in range(3):
                await inference.segment(spot(150)[0], Options(bundle="dark"), area)
            assert not all(task.done() for task in slow)
            await asyncio.gather(*slow)

    asyncio.run(main())


# The end


def test_closing_answers_what_was_taken_and_refuses_the_rest(dark: str) -> None:
    before = set(threading.enumerate())
    content, truth = spot(150)

    async def main() -> list[Answer[int]]:
        inference = Inference(ServiceConfig(bundles=(dark,)))
        taken = [asyncio.create_task(inference.segment(content, PLAIN, area)) for _ in range(40)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(inference.close())
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="the service is stopping; try again later"):
            inference.check(PLAIN)
        answers = await asyncio.gather(*taken)
        await closing
        await inference.close()
        await until(lambda: set(threading.enumerate()) - before <= {*asyncio_threads()})
        return answers

    def asyncio_threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]

    answers = asyncio.run(main())
    assert [answer.value for answer in answers] == [pytest.approx(truth, rel=0.1)] * 40


def test_closing_takes_no_longer_than_it_may(dark: str) -> None:
    content, _ = spot(150)
    gate = Gate()

    async def main() -> None:
        inference = Inference(ServiceConfig(bundles=(dark,), threads=1, drain=0.3))
        taken = [asyncio.create_task(inference.segment(content, PLAIN, gate)) for _ in range(3)]
        await gate.reached()
        begun = time.monotonic()
        await inference.close()
        assert 0.2 < time.monotonic() - begun < 10
        found = await asyncio.gather(*taken, return_exceptions=True)
        assert [type(each) for each in found] == [BusyError] * 3
        assert gate.begun.acquire(blocking=False) is False, "nothing further is begun"
        gate.opened.set()

    asyncio.run(main())


def test_what_was_accepted_before_the_stop_is_answered(dark: str) -> None:
    """Also an upload that ends after it, and the files of a batch that have no place yet."""
    content, truth = spot(150)
    gate = Gate()

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), queue=2)) as inference:
            taken = [asyncio.create_task(inference.segment(content, PLAIN, gate))]
            await gate.reached()
            taken += [asyncio.create_task(inference.segment(content, PLAIN, gate, patient=True)) for _ in range(3)]
            inference.begin_stop()
            for refuse in (inference.check_open, lambda: inference.check(PLAIN)):
                with pytest.raises(BusyError, match="the service is stopping; try again later"):
                    refuse()
            gate.opened.set()
            taken += [asyncio.create_task(inference.segment(content, PLAIN, gate, patient=True)) for _ in range(3)]
            for answer in await asyncio.gather(*taken):
                assert answer.value == pytest.approx(truth, rel=0.1)
            assert (await inference.segment(content, PLAIN, area)).value == pytest.approx(truth, rel=0.1)

    asyncio.run(main())


def test_what_cannot_be_finished_before_the_stop_is_said_so_and_closing_is_short(dark: str) -> None:
    content, _ = spot(150)
    gate = Gate()

    async def main() -> None:
        inference = Inference(ServiceConfig(bundles=(dark,), threads=1, queue=2, deadline=200, drain=0.3))
        taken = [asyncio.create_task(inference.segment(content, PLAIN, gate)) for _ in range(2)]
        await gate.reached()
        taken += [asyncio.create_task(inference.segment(content, PLAIN, gate, patient=True)) for _ in range(2)]
        begun = time.monotonic()
        inference.begin_stop()
        inference.begin_stop()
        taken += [asyncio.create_task(inference.segment(content, PLAIN, gate, patient=True)) for _ in range(2)]
        for task in taken:
            with pytest.raises(BusyError, match="the service is stopping; try again later") as caught:
                await task
            assert caught.value.status == 503
        assert 0.2 < time.monotonic() - begun < 10
        with pytest.raises(BusyError):
            await inference.segment(content, PLAIN, gate)
        begun = time.monotonic()
        await inference.close()
        assert time.monotonic() - begun < 5, "one image still runs, which nobody waits for"
        gate.opened.set()

    asyncio.run(main())


def test_a_deadline_before_the_end_of_a_stop_is_a_deadline_still(dark: str) -> None:
    content, _ = spot(150)
    gate = Gate()

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,), deadline=0.5, drain=100)) as inference:
            task = asyncio.create_task(inference.segment(content, PLAIN, gate))
            await asyncio.sleep(0)
            inference.begin_stop()
            with pytest.raises(TimeoutError):
                await task
            gate.opened.set()

    asyncio.run(main())


# Memory


@pytest.mark.parametrize("options", [PLAIN, Options(tta=True)], ids=["plain", "views"])
def test_nothing_is_kept_of_an_image_that_was_answered(dark: str, options: Options) -> None:
    content, _ = spot(150)

    async def main() -> None:
        kept: list[weakref.ref[object]] = []

        def finish(prediction: Prediction) -> int:
            kept.extend(map(weakref.ref, (prediction, prediction.photograph, prediction.pixels)))
            return 1

        async with serving(ServiceConfig(bundles=(dark,))) as inference:
            await inference.segment(content, options, area)
            gc.collect()
            gc.disable()
            try:
                references = sys.getrefcount(content)
                await inference.segment(content, options, finish)
                # The threads' own calls return a moment after the answer is there.
                await until(lambda: [reference() for reference in kept] == [None] * 3)
                assert sys.getrefcount(content) <= references
            finally:
                gc.enable()

    asyncio.run(main())


@pytest.mark.parametrize("broken", [True, False])
def test_nothing_is_kept_of_an_image_that_could_not_be_answered(dark: str, broken: bool) -> None:
    content, _ = spot(150)
    content = content[: 200 if broken else None]

    def finish(prediction: Prediction) -> int:
        raise InputError("the disk is full")

    async def main() -> None:
        async with serving(ServiceConfig(bundles=(dark,))) as inference:
            with pytest.raises(DermsegError):
                await inference.segment(content, PLAIN, finish)
            gc.collect()
            gc.disable()
            try:
                references = sys.getrefcount(content)
                with pytest.raises(DermsegError):
                    await inference.segment(content, PLAIN, finish)
                await until(lambda: sys.getrefcount(content) <= references)
            finally:
                gc.enable()

    asyncio.run(main())


# The start


def test_a_bundle_whose_files_were_changed_is_not_served(dark_bundle: Bundle, tmp_path: Path) -> None:
    changed = bundle.write(
        tmp_path / "changed",
        dark_bundle.manifest,
        {ONNX: dark_bundle.read(ONNX), WEIGHTS: b"unused"},
    )
    (changed.path / WEIGHTS).write_bytes(b"other")
    with pytest.raises(BundleIntegrityError, match="differs from its recorded hash"):
        Inference(ServiceConfig(bundles=(str(changed.path),)))


def test_a_bundle_that_gives_no_probabilities_is_not_served(dark_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load_from_string(dark_bundle.read(ONNX))
    weight = np.full((1, 3, 1, 1), np.nan, np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    files = {ONNX: model.SerializeToString(), WEIGHTS: b"unused"}
    broken = bundle.write(tmp_path / "broken", dark_bundle.manifest, files)
    with pytest.raises(BundleError) as caught:
        Inference(ServiceConfig(bundles=(str(broken.path),)))
    assert str(caught.value) == f"{broken.path} gives no probabilities for a drawn image; make the bundle again"


def test_two_bundles_of_one_name_are_not_served(dark: str) -> None:
    before = threading.active_count()
    with pytest.raises(BundleError) as caught:
        Inference(ServiceConfig(bundles=(dark, dark)))
    assert str(caught.value) == "two of the bundles have the name 'dark'; serve one of them"
    assert threading.active_count() == before


def test_the_shipped_bundle_finds_the_example() -> None:
    drawn = synthetic.example()

    async def main() -> Answer[NDArray[np.bool_]]:
        async with serving(ServiceConfig()) as inference:
            return await inference.segment(encode_image(drawn.pixels, "JPEG"), PLAIN, lambda p: p.mask)

    found = asyncio.run(main()).value
    assert (found & drawn.mask).sum() / (found | drawn.mask).sum() > 0.7
