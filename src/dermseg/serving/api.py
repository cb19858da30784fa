"""The service's addresses; what is behind them lies in ``inference`` and ``answers``."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from dermseg._version import __version__
from dermseg.errors import DermsegError
from dermseg.segmenter import Prediction
from dermseg.serving import answers
from dermseg.serving.config import ServiceConfig
from dermseg.serving.inference import MOST_SAMPLES, Answer, Inference, Options
from dermseg.serving.limits import DOCS_ASSETS, ByteBudget, guard, page_policy
from dermseg.serving.monitoring import AccessLog, Metrics
from dermseg.serving.problems import MEDIA_TYPE, ProblemError, install, problem_of
from dermseg.serving.uploads import Upload, form_schema, read_form

DESCRIPTION = """Outlines skin lesions in dermoscopy images. **Research software, not a medical device.**

Images are held in memory while they are worked on, and nowhere else. Every error is a problem document (RFC 9457)."""

UNCERTAINTY_SAMPLES = 10
"""Of Monte Carlo dropout, where uncertainty is asked for and nothing is said of how."""
PHOTOGRAPH = "The photograph: JPEG, PNG, BMP, TIFF or WebP."
BATCH_TYPES = {"json": "application/x-ndjson", "zip": "application/zip"}

Value = TypeVar("Value")


class Choice(BaseModel):
    """What a request chooses in its address."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    bundle: Annotated[str | None, Field(description="A name that `/bundles` lists; its first if left out.")] = None
    threshold: Annotated[
        float | None, Field(gt=0, lt=1, description="Probability above which a pixel is in the mask; the bundle's own.")
    ] = None
    tta: Annotated[
        bool, Field(description="Predict ten views of the image and take the mean: better, and ten times slower.")
    ] = False
    mc_samples: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_SAMPLES,
            description="Predictions by Monte Carlo dropout, from 2; 0 for none. With tta 5 at most, of each view.",
        ),
    ] = 0
    attribute: Annotated[
        str | None,
        Field(
            description="A class of the bundle. If left out: overlay, side-by-side, json and zip tell of all, "
            "the others of the first."
        ),
    ] = None
    mm_per_pixel: Annotated[
        float | None, Field(gt=0, description="Length of a pixel's side, to measure in millimetres.")
    ] = None

    def options(self) -> Options:
        """What is asked of the inference."""
        return Options(**self.model_dump(exclude={"output"}))


class SegmentChoice(Choice):
    """Of ``/segment``."""

    output: Annotated[answers.Output, Field(description="What is answered.")] = "mask"

    def options(self) -> Options:
        """What is asked of the inference."""
        options = super().options()
        if self.output == "uncertainty" and not (self.tta or self.mc_samples):  # a single prediction has none
            return replace(options, mc_samples=UNCERTAINTY_SAMPLES)
        return options


class BatchChoice(Choice):
    """Of ``/segment/batch``."""

    output: Annotated[
        Literal["json", "zip"], Field(description="json: a line of JSON for each file as it is done; zip: masks.")
    ] = "json"


PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {kind: {} for kind in ("image/png", "application/json", "application/zip")},
        "description": "As `output` asks.",
    }
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}
    for status, description in {
        408: "The body took too long to arrive.",
        413: "The body, or the image, is too large.",
        415: "No form, or no image.",
        422: "A parameter that does not exist or does not fit, or a broken image.",
        501: "It needs a part of dermseg that is not installed.",
        503: "The service has no room at this moment; the header Retry-After says when to try again.",
        504: "It was not done in time.",
    }.items()
}
"""Answers of every address that takes images; documents as RFC 9457 has them."""

# The token itself is asked for by ``limits``, before any body is read; this one only describes it.
TOKEN = HTTPBearer(auto_error=False)

router = APIRouter()


async def _inference(request: Request) -> Inference:
    found: Inference = request.app.state.inference
    return found


async def _config(request: Request) -> ServiceConfig:
    found: ServiceConfig = request.app.state.config
    return found


Serving = Annotated[Inference, Depends(_inference)]
Config = Annotated[ServiceConfig, Depends(_config)]


def create_app(config: ServiceConfig, metrics_folder: Path | None = None) -> ASGIApp:
    """Load the bundles, try them, and make the service.

    Args:
        config: What is served, and its limits.
        metrics_folder: Where several processes put their metrics together; None for one process.

    Raises:
        BundleError: If a bundle cannot be used.
    """
    metrics = Metrics(config.bundles, metrics_folder)
    inference = Inference(config, on_batch=metrics.batch, on_stage=metrics.stage, on_verdict=metrics.verdict)
    metrics.watch(waiting=lambda: inference.waiting, working=lambda: inference.working)

    budget = ByteBudget(round(config.max_pending * 2**20))

    def begin_stop() -> None:
        inference.begin_stop()
        asyncio.get_running_loop().call_later(config.drain, budget.close)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _at_stop(begin_stop)
        yield
        await inference.close()

    app = FastAPI(
        title="dermseg",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        servers=[{"url": "."}],  # wherever the description was found, so that a proxy may add to its path
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEMS,
        dependencies=[Depends(TOKEN)] if config.token else [],
    )
    app.state.inference, app.state.config, app.state.metrics = inference, config, metrics
    app.include_router(router)
    app.mount(DOCS_ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))
    install(app)
    return AccessLog(guard(app, config, budget), metrics)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Every address, described and to be tried; loads nothing from elsewhere."""
    assets = DOCS_ASSETS.lstrip("/")  # from here, so that a proxy may add to the path
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="dermseg",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon-32x32.png",
    )
    page.headers["Content-Security-Policy"] = page_policy(bytes(page.body))
    return page


@router.get("/", tags=["status"])
async def status(inference: Serving) -> dict[str, str]:
    """Say that the service is up, and with which model."""
    return {"status": "healthy", "model": next(iter(inference.bundles)), "version": __version__}


@router.get("/health/live", tags=["status"])
async def live() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "alive"}


@router.get("/health/ready", tags=["status"])
async def ready(inference: Serving) -> dict[str, str]:
    """Answer 200 while images are taken, 503 when the service is stopping."""
    inference.check_open()
    return {"status": "ready"}


@router.get("/metrics", tags=["status"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    body, media_type = request.app.state.metrics.render()
    return Response(body, media_type=media_type)


@router.get("/bundles", tags=["models"])
async def bundles(inference: Serving) -> list[dict[str, Any]]:
    """List the models: classes, licence, scores, and the card in Markdown."""
    return [
        answers.bundle_summary(bundle, default=place == 0) for place, bundle in enumerate(inference.bundles.values())
    ]


@router.post(
    "/segment",
    tags=["images"],
    response_class=Response,
    responses=PICTURE,
    openapi_extra=form_schema({"file": PHOTOGRAPH}),
)
async def segment(request: Request, choice: Annotated[SegmentChoice, Query()], inference: Serving) -> Response:
    """Find the lesion, or one of a bundle's other classes, in a photograph."""
    return await _segment(request, inference, choice.options(), choice.output)


@router.post(
    "/evaluate",
    tags=["images"],
    openapi_extra=form_schema({"file": PHOTOGRAPH, "mask": "Its true mask, of the same size."}),
)
async def evaluate(
    request: Request, choice: Annotated[Choice, Query()], inference: Serving, config: Config
) -> Response:
    """Score the mask that is found against a true one, by the official metrics of ISIC Task 1."""
    options = choice.options()
    inference.check(options)
    form = await read_form(request, files={"file": 1, "mask": 1})
    (file,), (mask,) = form["file"], form["mask"]

    def finish(prediction: Prediction) -> bytes:
        scored = answers.evaluate(prediction, mask.content, choice.attribute, max_megapixels=config.max_megapixels)
        return answers.to_json(scored)

    answer = await _unless_gone(request, inference.segment(file.content, options, finish))
    _note(request, answer)
    return Response(answer.value, media_type=answers.media_type("json"), headers=answers.headers(answer))


@router.post(
    "/segment/batch",
    tags=["images"],
    response_class=StreamingResponse,
    responses={200: {"content": {kind: {} for kind in BATCH_TYPES.values()}, "description": "As `output` asks."}},
    openapi_extra=form_schema({"files": "Photographs."}, many=["files"]),
)
async def segment_batch(
    request: Request, choice: Annotated[BatchChoice, Query()], inference: Serving, config: Config
) -> StreamingResponse:
    """Segment many photographs. One that cannot be used gets a problem of its own; the others are done."""
    options = choice.options()
    inference.check(options)
    uploads = (await read_form(request, files={"files": config.max_files}))["files"]
    batch = _Batch(request, inference, options, uploads)
    body = batch.lines() if choice.output == "json" else batch.archive()
    return StreamingResponse(body, media_type=BATCH_TYPES[choice.output])


@router.get("/health", tags=["earlier services"])
async def health() -> dict[str, str]:
    """Say that the service is up."""
    return {"status": "healthy"}


@router.post(
    "/predict", tags=["earlier services"], response_class=Response, openapi_extra=form_schema({"file": PHOTOGRAPH})
)
@router.post("/predict/", response_class=Response, include_in_schema=False)
async def predict(request: Request, inference: Serving) -> Response:
    """Answer with the mask, as `/segment` does."""
    return await _segment(request, inference, Options(), "mask")


@router.post(
    "/segmentation",
    tags=["earlier services"],
    response_class=Response,
    openapi_extra=form_schema({"image": PHOTOGRAPH}),
)
async def segmentation(request: Request, inference: Serving) -> Response:
    """Answer with the probability as a grey picture of the photograph's own size."""
    return await _segment(request, inference, Options(), "probability", field="image")


async def _segment(
    request: Request, inference: Inference, options: Options, output: answers.Output, field: str = "file"
) -> Response:
    """Answer with what is found in the photograph of a form."""
    inference.check(options)  # before a body is read
    content = (await read_form(request, files={field: 1}))[field][0].content
    answer: Answer[bytes]
    if output == "explanation":
        answer = await _unless_gone(request, inference.explain(content, options, answers.encode_explanation))
    else:
        encode = partial(answers.encode, output=output, attribute=options.attribute)
        answer = await _unless_gone(request, inference.segment(content, options, encode))
    _note(request, answer)
    return Response(answer.value, media_type=answers.media_type(output), headers=answers.headers(answer))


def _note(request: Request, answer: Answer[Any]) -> None:
    """Tell the log of an answer."""
    stages = {stage: round(seconds, 4) for stage, seconds in answer.seconds._asdict().items()}
    request.scope["state"]["log"] = {"model": answer.bundle, "verdict": answer.verdict, "stages": stages}


class _Batch:
    """The photographs of one request, of which some are in work at a time.

    Each is dropped, and what it held given back to others, once it is done.
    """

    def __init__(self, request: Request, inference: Inference, options: Options, uploads: list[Upload]) -> None:
        queue = request.app.state.config.queue
        self._most = max(1, min(2 * inference.threads, queue // 4))  # which leaves places to requests with one
        self._inference, self._options = inference, options
        self._uploads = deque(uploads)
        self._give_back: Callable[[int], None] = request.state.give_back

    async def lines(self) -> AsyncGenerator[bytes]:
        """NDJSON: a line for each file, in order."""

        def line(name: str, prediction: Prediction) -> bytes:
            return answers.to_json({"file": name, "result": answers.result(prediction)})

        async with aclosing(self._each(line)) as each:
            async for _, name, outcome in each:
                yield (
                    answers.to_json({"file": name, "problem": outcome.document(None)})
                    if isinstance(outcome, ProblemError)
                    else outcome
                )

    async def archive(self) -> AsyncGenerator[bytes]:
        """A ZIP of masks and what else is told of each file."""

        def files(_: str, prediction: Prediction) -> dict[str, bytes]:
            return answers.files(prediction, self._options.attribute)

        def add(stem: str, files: Mapping[str, bytes]) -> bytes:
            # A class's folder becomes a part of the name: of many images all files lie side by side.
            return b"".join(archive.add(f"{stem}_{kind.replace('/', '_')}", content) for kind, content in files.items())

        archive, results = answers.Archive(), []
        async with aclosing(self._each(files)) as each:
            async for index, name, outcome in each:
                if isinstance(outcome, ProblemError):
                    results.append({"file": name, "problem": outcome.document(None)})
                else:
                    stem = answers.entry_stem(index, name)
                    results.append({"file": name, "result": f"{stem}_result.json"})
                    yield await asyncio.to_thread(add, stem, outcome)
        yield archive.add("results.json", answers.to_json(results))
        yield archive.close()

    async def _each(
        self, finish: Callable[[str, Prediction], Value]
    ) -> AsyncGenerator[tuple[int, str, Value | ProblemError]]:
        """The number and name of each file, and what ``finish`` gives or the problem it met."""
        window: deque[asyncio.Task[tuple[str, Value | ProblemError]]] = deque()
        try:
            for index in range(len(self._uploads)):
                while self._uploads and len(window) < self._most:
                    window.append(asyncio.create_task(self._work(self._uploads.popleft(), finish)))
                yield index, *await window.popleft()
        finally:  # the client went away
            for task in window:
                task.cancel()

    async def _work(
        self, upload: Upload, finish: Callable[[str, Prediction], Value]
    ) -> tuple[str, Value | ProblemError]:
        name = upload.name or ""
        try:
            answer = await self._inference.segment(upload.content, self._options, partial(finish, name), patient=True)
            return name, answer.value
        except (DermsegError, ProblemError, TimeoutError) as error:
            return name, problem_of(error)
        finally:
            self._give_back(len(upload.content))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """Wait for the answer to a request whose body was read; give the work up where its client leaves."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.create_task(work), asyncio.create_task(left())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


def _at_stop(call: Callable[[], object]) -> None:
    """Have the event loop make a call, too, when the process is told to stop; the server itself says so only later."""
    if threading.current_thread() is not threading.main_thread():  # which alone may listen to signals
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        server = signal.getsignal(number)

        def both(number: int, frame: FrameType | None, server: Any = server) -> None:
            loop.call_soon_threadsafe(call)
            server(number, frame)

        if callable(server):
            signal.signal(number, both)
