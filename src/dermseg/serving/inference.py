"""``Inference`` turns images' bytes into answers: off the event loop, within bounds, in time or not at all."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from dermseg.bundle import Bundle
from dermseg.errors import BundleError, DermsegError, InputError, choose_from
from dermseg.parallel import attempt, cores
from dermseg.quality import Verdict
from dermseg.segmenter import Outcome, Prediction, Prepared, Segmenter
from dermseg.serving.batching import Batcher
from dermseg.serving.config import ServiceConfig
from dermseg.serving.problems import BusyError
from dermseg.synthetic import draw
from dermseg.uncertainty import TRANSFORMS

if TYPE_CHECKING:
    from dermseg.explanation import Explainer, Explanation

MOST_SAMPLES = 50
"""Predictions of one image, so that no request takes much longer than its deadline: samples times views."""

_PATIENCE = 0.05  # seconds between two looks for a place
_STOPPING = "the service is stopping; try again later"

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Options:
    """How an image is segmented.

    Attributes:
        bundle: Name of one that is served; the first if None.
        threshold: In place of the bundle's own, in (0, 1).
        tta: Whether the image is also predicted mirrored, turned and scaled.
        mc_samples: Predictions by Monte Carlo dropout, 2 to ``MOST_SAMPLES``; 0 for none.
        mm_per_pixel: Length of a side of the image's pixels, for measurements in millimetres.
        attribute: The class that is asked for; None where none is named.
    """

    bundle: str | None = None
    threshold: float | None = None
    tta: bool = False
    mc_samples: int = 0
    mm_per_pixel: float | None = None
    attribute: str | None = None


class Seconds(NamedTuple):
    """What an answer took.

    Attributes:
        decode: To decode the image and bring it to the network's input.
        queue: Spent waiting, before and between the others.
        network: Of the batch that the image was in; of all its predictions where there are several.
        encode: To make the prediction, judge it and give it its final form.
    """

    decode: float
    queue: float
    network: float
    encode: float


@dataclass(frozen=True, eq=False)
class Answer(Generic[Value]):
    """What became of an image.

    Attributes:
        value: What ``finish`` gave.
        bundle: Name of the bundle that answered.
        verdict: Of the prediction's quality; None of a bundle that has no model of it.
        seconds: By stage.
    """

    value: Value
    bundle: str
    verdict: Verdict | None
    seconds: Seconds


class Inference:
    """The bundles of a service, loaded and tried, and the threads they run in.

    An image is decoded in a thread, waits for a batch, goes through the network, and is concluded and encoded in a
    thread. A batch runs on one core, and there are as many at a time as threads: a batch that is spread over several
    cores takes more of their time. Few images are held decoded, however many wait. Images of which several predictions
    are made have threads of their own, so that the others need not wait for them.

    Args:
        config: What is served, and within which limits.
        on_batch: Called with the number of images of each batch, in a thread.
        on_stage: Called for each answer with the name of each stage, a field of ``Seconds``, and its seconds.
        on_verdict: Called for each answer with its verdict.

    Attributes:
        bundles: What is served, by name; the first is the default.
        threads: Cores that images may take.

    Raises:
        BundleError: If a bundle cannot be used, two have one name, or one gives no probabilities for a drawn image.
        MissingExtraError: If a bundle needs torch, which is not installed.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        on_batch: Callable[[int], object] = lambda _: None,
        on_stage: Callable[[str, float], object] = lambda *_: None,
        on_verdict: Callable[[Verdict | None], object] = lambda _: None,
    ) -> None:
        self._config = config
        self._on_batch, self._on_stage, self._on_verdict = on_batch, on_stage, on_verdict
        self._segmenters: dict[str, Segmenter] = {}
        for bundle in config.bundles:
            segmenter = _open(bundle, config.max_megapixels)
            if segmenter.name in self._segmenters:
                raise BundleError(f"two of the bundles have the name {segmenter.name!r}; serve one of them")
            self._segmenters[segmenter.name] = segmenter
        self.bundles: Mapping[str, Bundle] = {name: each.bundle for name, each in self._segmenters.items()}
        self._changed = threading.Condition()
        self._admitted = self._working = 0
        self._end = math.inf  # when what was accepted must be done, by the event loop's clock
        self._timeouts: set[asyncio.Timeout] = set()
        self._explainers: dict[str, Explainer] = {}
        self._loading = threading.Lock()
        self._pace = 0.1  # seconds an image takes in a batch: a guess, then the latest
        self.threads = threads = config.threads or cores()
        sampling = max(1, threads // 2)
        self._pool = ThreadPoolExecutor(threads, "images")
        self._sampling = ThreadPoolExecutor(sampling, "samples")
        # Decoded images are large, and are decoded faster than they are answered.
        self._decoded = asyncio.Semaphore(threads + config.batch)
        self._decoded_to_sample = asyncio.Semaphore(sampling + 1)
        self._batchers = {
            name: Batcher(partial(self._run, each), config.batch, config.batch_delay, threads)
            for name, each in self._segmenters.items()
        }

    @property
    def working(self) -> int:
        """Images that a thread is working on."""
        return self._working

    @property
    def waiting(self) -> int:
        """Images that were taken and wait for a thread or a batch."""
        return max(0, self._admitted - self._working)

    def check(self, options: Options) -> None:
        """Check, in microseconds, whether a request can be accepted; what was is finished though the service stops.

        Whether a bundle has dropout to sample from is seen only when an image comes.

        Raises:
            BusyError: If the service is stopping.
            InputError: If there is no such bundle or class, or an option is out of range.
        """
        self.check_open()
        self._served(options)

    def _served(self, options: Options) -> Segmenter:
        """Check options, and give the segmenter of the bundle they name, which has none of them."""
        name = next(iter(self._segmenters)) if options.bundle is None else options.bundle
        if name not in self._segmenters:
            raise InputError(f"there is no bundle {name!r} here; {choose_from(name, self._segmenters)}")
        segmenter = self._segmenters[name]
        classes, attribute = segmenter.bundle.manifest.classes, options.attribute
        if attribute is not None and attribute not in classes:
            raise InputError(f"the bundle {name!r} has no class {attribute!r}; {choose_from(attribute, classes)}")
        if options.mc_samples != 0 and not 2 <= options.mc_samples <= MOST_SAMPLES:
            raise InputError(f"mc_samples is {options.mc_samples}; expected 0 for none, or 2 to {MOST_SAMPLES}")
        if options.tta and options.mc_samples * len(TRANSFORMS) > MOST_SAMPLES:
            raise InputError(
                f"mc_samples is {options.mc_samples} with tta, which predicts {len(TRANSFORMS)} views as often each; "
                f"expected 0 for none, or 2 to {MOST_SAMPLES // len(TRANSFORMS)}"
            )
        segmenter.varied(threshold=options.threshold, mm_per_pixel=options.mm_per_pixel)
        return segmenter

    def check_open(self) -> None:
        """Raise BusyError when the service is stopping."""
        if self._end < math.inf:
            raise BusyError(_STOPPING)

    def begin_stop(self) -> None:
        """Accept no more requests, and finish those that were accepted within ``drain`` seconds; on the event loop."""
        self._end = min(self._end, asyncio.get_running_loop().time() + self._config.drain)
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(min(self._end, timeout.when() or math.inf))

    async def segment(
        self, content: bytes, options: Options, finish: Callable[[Prediction], Value], *, patient: bool = False
    ) -> Answer[Value]:
        """Segment an image.

        Args:
            content: The bytes of its file.
            options: What is asked for.
            finish: Makes the answer's value of the prediction, in a thread.
            patient: Whether to wait for a place, until the deadline, where there is none at once.

        Raises:
            BusyError: If as many images are in work or wait as may, or the service stops before there is an answer.
            TimeoutError: If there is no answer at the deadline. Nothing further is begun then; what a thread is at goes
                on to its end, and until then the image counts as one in work.
            ImageError: If the image cannot be used; the subclass says why.
            InputError: As of ``check``, or if the bundle has no dropout to sample from.
        """
        begun = time.perf_counter()
        served = self._served(options)
        batcher = None if options.tta or options.mc_samples else self._batchers[served.name]
        decoded = self._decoded if batcher else self._decoded_to_sample
        async with self._place(patient) as place, decoded:
            with batcher.expecting() if batcher else nullcontext():
                prepare = partial(_prepare, served, options)
                (segmenter, prepared), decode = await place.until(self._submit(self._pool, prepare, content))
                sample = partial(_sample, segmenter)
                running = place.until(
                    batcher.submit(prepared) if batcher else self._submit(self._sampling, sample, prepared)
                )
            outcome, network = await running
            conclude = partial(_conclude, segmenter, prepared, finish)
            (value, verdict), encode = await place.until(self._submit(self._pool, conclude, outcome))
        queue = time.perf_counter() - begun - decode - network - encode
        return self._answer(value, served.name, verdict, Seconds(decode, max(0.0, queue), network, encode))

    async def explain(self, content: bytes, options: Options, finish: Callable[[Explanation], Value]) -> Answer[Value]:
        """Explain what the network finds in an image, on torch; arguments and errors as of ``segment``.

        Raises:
            MissingExtraError: Without torch.
        """
        begun = time.perf_counter()
        name = self._served(options).name
        if options.tta or options.mc_samples or options.threshold is not None:
            raise InputError("an explanation is of one prediction; leave out tta, mc_samples and threshold")
        work = partial(self._explain, self.bundles[name], options.attribute, finish)
        async with self._place() as place:
            (value, verdict), network = await place.until(self._submit(self._sampling, work, content))
        queue = max(0.0, time.perf_counter() - begun - network)
        return self._answer(value, name, verdict, Seconds(0.0, queue, network, 0.0))

    async def close(self) -> None:
        """Stop, as ``begin_stop`` does, and end the threads: at once where nothing is in work."""
        self.begin_stop()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._wait_until_empty, self._end - loop.time())
        for batcher in self._batchers.values():
            await asyncio.to_thread(batcher.close, max(0.1, self._end - loop.time()))
        for pool in (self._pool, self._sampling):
            pool.shutdown(wait=False)

    def _answer(self, value: Value, bundle: str, verdict: Verdict | None, seconds: Seconds) -> Answer[Value]:
        """Give an answer, and tell of it."""
        self._on_verdict(verdict)
        for stage, spent in seconds._asdict().items():
            self._on_stage(stage, spent)
        return Answer(value, bundle, verdict, seconds)

    def _explain(
        self, bundle: Bundle, attribute: str | None, finish: Callable[[Explanation], Value], content: bytes
    ) -> tuple[Value, Verdict | None]:
        from dermseg.explanation import Explainer

        with self._loading:
            if bundle.name not in self._explainers:
                self._explainers[bundle.name] = Explainer(bundle, max_megapixels=self._config.max_megapixels)
        explanation = self._explainers[bundle.name](content, class_name=attribute)
        quality = explanation.prediction.quality
        return finish(explanation), quality.verdict if quality else None

    @asynccontextmanager
    async def _place(self, patient: bool = False) -> AsyncIterator[_Place]:
        """A place among the images in work, until the deadline."""
        now = asyncio.get_running_loop().time()
        if now >= self._end:
            raise BusyError(_STOPPING)
        timeout, place = asyncio.timeout_at(min(now + self._config.deadline, self._end)), None
        self._timeouts.add(timeout)
        try:
            async with timeout:
                while patient and self._admitted >= self._config.queue:
                    await asyncio.sleep(_PATIENCE)
                place = _Place(self._enter, self._leave)
                yield place
        except TimeoutError:
            if timeout.when() == self._end:
                raise BusyError(_STOPPING) from None
            raise
        finally:
            self._timeouts.discard(timeout)
            if place is not None:
                place.leave()

    def _enter(self) -> None:
        with self._changed:
            retry_after = max(1, math.ceil(self._admitted * self._pace / self.threads))
            if self._admitted >= self._config.queue:
                raise BusyError(f"{self._admitted} images are in work already; try again later", retry_after)
            self._admitted += 1

    def _leave(self) -> None:
        with self._changed:
            self._admitted -= 1
            self._changed.notify_all()

    def _wait_until_empty(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._admitted, timeout)

    def _run(self, segmenter: Segmenter, images: Sequence[Prepared]) -> list[tuple[Outcome, float]]:
        """Run the network on a batch; gives each image's outcome and the seconds of all."""
        self._on_batch(len(images))
        with self._at_work(len(images)):
            begun = time.perf_counter()
            outcomes = segmenter.run(images)
            seconds = time.perf_counter() - begun
        self._pace = seconds / len(images)
        return [(outcome, seconds) for outcome in outcomes]

    def _submit(
        self, pool: ThreadPoolExecutor, function: Callable[[Item], Value], item: Item
    ) -> Future[tuple[Value, float]]:
        """Have a stage of one image's work done; gives what ``function`` gives, and its seconds."""
        job = [(function, item)]
        future = pool.submit(self._stage, job)
        # What is cancelled stays in the pool's queue, but need not keep its image there.
        future.add_done_callback(lambda _: job.clear())
        return future

    def _stage(self, job: list[tuple[Callable[[Item], Value], Item]]) -> tuple[Value, float]:
        function, item = job.pop()
        with self._at_work(1):
            begun = time.perf_counter()
            result = attempt(function, item)
            if isinstance(result, DermsegError):
                try:
                    raise result
                finally:
                    del result
            return result, time.perf_counter() - begun

    @contextmanager
    def _at_work(self, images: int) -> Iterator[None]:
        with self._changed:
            self._working += images
        try:
            yield
        finally:
            with self._changed:
                self._working -= images


class _Place:
    """One of the places for images in work; taken here, given back by ``leave`` once nothing of its image runs."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        enter()
        self._give_back = leave
        self._latest: Future[Any] | None = None

    async def until(self, stage: Future[Value]) -> Value:
        """Wait for a stage; if that is cancelled, so is the stage, unless it has begun."""
        self._latest = stage
        del stage  # which may come to hold an error, whose traceback holds this frame: not all would be freed at once
        value: Value = await asyncio.wrap_future(self._latest)
        return value

    def leave(self) -> None:
        latest, self._latest = self._latest, None  # for the same reason
        if latest is None:
            self._give_back()
        else:
            latest.add_done_callback(lambda _: self._give_back())


def _open(bundle: str, max_megapixels: float) -> Segmenter:
    """Load a bundle, check all its files, and try it, so that the first image need not wait for what is loaded then."""
    segmenter = Segmenter(bundle, max_megapixels=max_megapixels, threads=1)
    segmenter.bundle.verify()
    prediction = segmenter(draw(21, (192, 256)).pixels)
    if not ((prediction.probabilities >= 0) & (prediction.probabilities <= 1)).all():  # which NaN is not either
        raise BundleError(f"{segmenter.bundle.path} gives no probabilities for a drawn image; make the bundle again")
    _ = prediction.quality
    return segmenter


def _prepare(segmenter: Segmenter, options: Options, content: bytes) -> tuple[Segmenter, Prepared]:
    """Bring an image to the network's input; also gives the segmenter with the options."""
    segmenter = segmenter.varied(
        threshold=options.threshold,
        tta=options.tta,
        mc_dropout=options.mc_samples,
        mm_per_pixel=options.mm_per_pixel,
    )
    return segmenter, segmenter.prepare(content)


def _sample(segmenter: Segmenter, prepared: Prepared) -> Outcome:
    return segmenter.run([prepared])[0]


def _conclude(
    segmenter: Segmenter, prepared: Prepared, finish: Callable[[Prediction], Value], outcome: Outcome
) -> tuple[Value, Verdict | None]:
    """Make the prediction and its final form."""
    prediction = segmenter.conclude(prepared, outcome)
    quality = prediction.quality
    return finish(prediction), quality.verdict if quality else None
