"""Where outlines come from: bundles in this process, or a running service; the page cannot tell which."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dermseg.bundle import Bundle
from dermseg.card import model_card
from dermseg.errors import DermsegError, InputError, ServiceError, extra
from dermseg.geometry import Geometry
from dermseg.imaging import encode_image, open_image, read_mask, read_mask_values
from dermseg.processing import decode
from dermseg.quality import Quality
from dermseg.segmenter import VIEW_SIZE, Prediction, Segmenter

if TYPE_CHECKING:
    from httpx import Response

MAX_MEGAPIXELS = 50.0
TIMEOUT = 60.0
"""Seconds that a service may take for an answer."""

Way = Literal["tta", "dropout"]
"""How several predictions of an image are had: test-time augmentation, or Monte Carlo dropout."""

DROPOUT_SAMPLES = 10


@dataclass(frozen=True)
class BundleInfo:
    """What a person wants to know of a bundle.

    Attributes:
        name: Its name.
        description: One sentence.
        classes: What it finds.
        card: Its model card, Markdown.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    card: str


@dataclass(frozen=True, eq=False)
class Finding:
    """What a bundle found in one image.

    Attributes:
        expand: Gives ``prediction``.
        quality: What the prediction is worth at the bundle's own thresholds; None of a bundle that does not tell.
        seconds: From the image's bytes to the finding.
        nbytes: Memory that it holds.
    """

    expand: Callable[[], Prediction] = field(repr=False)
    quality: Quality | None
    seconds: float
    nbytes: int

    @property
    def prediction(self) -> Prediction:
        """The prediction with the bundle's own thresholds; keep the finding in its place, which is smaller.

        Of a service's answer, whose probabilities have 8 bits, the masks at these thresholds are its own to the pixel.
        """
        return self.expand()


@dataclass(frozen=True, eq=False)
class Spread:
    """How several predictions of an image differ, of one class.

    Attributes:
        samples: How many predictions.
        entropy: Of their mean, in bits, float32 (S, S) in [0, 1].
        geometry: Where the image lies in ``entropy``.
        summary: ``standard_deviation``, ``entropy`` and ``mutual_information``, each with its mean over the ``image``
            and along the ``border``; see ``Uncertainty.summary``.
    """

    samples: int
    entropy: NDArray[np.float32]
    geometry: Geometry
    summary: Mapping[str, Mapping[str, float | None]]


class Backend(Protocol):
    """Answers about images, given as a file's bytes; raises a ``DermsegError``. May be used from several threads."""

    @property
    def explains(self) -> bool:
        """Whether ``explanation`` can be asked for."""

    @property
    def whereabouts(self) -> str:
        """Where images go, a sentence."""

    def bundles(self) -> list[BundleInfo]:
        """The bundles at hand, the first one first choice."""

    def segment(self, content: bytes, name: str, bundle: str) -> Finding:
        """What a bundle finds in an image; ``name`` is the file's."""

    def uncertainty(self, content: bytes, bundle: str, class_name: str, way: Way) -> Spread:
        """How several predictions of an image differ."""

    def explanation(self, content: bytes, bundle: str, class_name: str) -> bytes:
        """A Grad-CAM map over the image, PNG."""


class Local:
    """Bundles in this process; each is loaded when it is first asked.

    Args:
        bundles: Names of shipped bundles, folders or zips.

    Raises:
        BundleError: If one cannot be used.
        InputError: If two have the same name.
    """

    whereabouts = "Images stay in the memory of the computer that runs this app, until the page is closed."

    def __init__(self, bundles: Sequence[str]) -> None:
        loaded = [Bundle.load(name) for name in bundles]
        self._bundles = {bundle.name: bundle for bundle in loaded}
        if len(self._bundles) < len(loaded):
            names = [bundle.name for bundle in loaded]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"two bundles are named {twice!r}; give each of them once, and others other names")
        self._segmenter = cache(self._open)
        self._explainer = cache(self._open_explainer)

    @property
    def explains(self) -> bool:
        """Whether torch is installed."""
        return find_spec("torch") is not None

    def bundles(self) -> list[BundleInfo]:
        """As of ``Backend``."""
        manifests = [bundle.manifest for bundle in self._bundles.values()]
        return [BundleInfo(each.name, each.description, each.classes, model_card(each)) for each in manifests]

    def segment(self, content: bytes, name: str, bundle: str) -> Finding:
        """As of ``Backend``."""
        segmenter, start = self._segmenter(bundle), time.perf_counter()
        made = segmenter(content)
        quality = made.quality
        found = replace(made, photograph=replace(made.photograph, name=name))
        nbytes = len(content) + found.pixels.nbytes + found.probabilities.nbytes
        return Finding(lambda: found, quality, time.perf_counter() - start, nbytes)

    def uncertainty(self, content: bytes, bundle: str, class_name: str, way: Way) -> Spread:
        """As of ``Backend``."""
        samples = DROPOUT_SAMPLES if way == "dropout" else 0
        prediction = self._segmenter(bundle).varied(tta=way == "tta", mc_dropout=samples)(content)
        spread, place = prediction.uncertainty, prediction.classes.index(class_name)
        assert spread is not None  # of several predictions
        summary = prediction.to_dict()["uncertainty"]["classes"][class_name]
        return Spread(spread.samples, spread.entropy[place], prediction.geometry, summary)

    def explanation(self, content: bytes, bundle: str, class_name: str) -> bytes:
        """As of ``Backend``."""
        return encode_image(self._explainer(bundle)(content, class_name=class_name).overlay())

    def _open(self, bundle: str) -> Segmenter:
        return Segmenter(self._bundles[bundle], max_megapixels=MAX_MEGAPIXELS)

    def _open_explainer(self, bundle: str) -> Any:
        from dermseg.explanation import Explainer

        return Explainer(self._bundles[bundle], max_megapixels=MAX_MEGAPIXELS)


class Remote:
    """A running service (``dermseg serve``).

    Args:
        url: Its address.
        token: Sent with each request.

    Raises:
        InputError: If the address is none of a service, or the token cannot be sent.
        MissingExtraError: Without httpx.
    """

    explains = True
    """Whether it does is seen when it is asked."""

    @property
    def whereabouts(self) -> str:
        """As of ``Backend``."""
        return f"Images are sent to the service at {self._url}, and nowhere else."

    def __init__(self, url: str, token: str | None = None) -> None:
        with extra("a running service", "app"):
            import httpx
        if not url.startswith(("http://", "https://")):
            raise InputError(f"the service's address is {url!r}; expected one such as http://localhost:8000")
        token = (token or "").strip()
        if not (token.isascii() and token.isprintable()):
            raise InputError("the service's token is not of printable ASCII; give the one the service was started with")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url.rstrip("/")
        self._failures = (httpx.HTTPError, httpx.InvalidURL)
        try:
            # No connection outlives its request: there is none to be closed, nor one that a service has closed.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.Client(base_url=self._url, headers=headers, timeout=TIMEOUT, limits=limits)
        except httpx.InvalidURL as error:
            raise InputError(f"the service's address {url!r} cannot be used ({error})") from error

    def bundles(self) -> list[BundleInfo]:
        """As of ``Backend``."""
        listed = self._ask(lambda: self._client.get("/bundles"))
        with self._reading():
            infos = sorted(listed.json(), key=lambda each: not each["default"])
            if not infos:
                raise ValueError("no bundle")
            return [
                BundleInfo(each["name"], each["description"], tuple(each["classes"]), each["card"]) for each in infos
            ]

    def segment(self, content: bytes, name: str, bundle: str) -> Finding:
        """As of ``Backend``."""
        start = time.perf_counter()
        photograph = open_image(content, max_megapixels=MAX_MEGAPIXELS)
        pixels = decode(photograph, 0)
        answer = self._zip(content, bundle=bundle)
        with self._reading():
            result = json.loads(answer["result.json"])
            classes = {each["name"]: float(each["threshold"]) for each in result["classes"]}
            told = {each["name"]: each.get("presence") for each in result["classes"]}
            presence = {class_name: float(value) for class_name, value in told.items() if value is not None}
            quality = Quality(**result["quality"]) if result["quality"] else None
        levels = np.empty((len(classes), *photograph.size), np.uint8)
        for place, (class_name, threshold) in enumerate(classes.items()):
            folder = f"{class_name}/" if len(classes) > 1 else ""
            with self._reading():
                levels[place] = _levels(answer[f"{folder}probability.png"], answer[f"{folder}mask.png"], threshold)

        def expand() -> Prediction:
            return Prediction(
                photograph=replace(photograph, name=name),
                pixels=pixels,
                classes=tuple(classes),
                probabilities=_shares(levels),
                geometry=_Whole.of(*photograph.size),
                thresholds=tuple(classes.values()),
                bundle=bundle,
                presence=presence or None,
            )

        nbytes = len(content) + pixels.nbytes + levels.nbytes
        return Finding(expand, quality, time.perf_counter() - start, nbytes)

    def uncertainty(self, content: bytes, bundle: str, class_name: str, way: Way) -> Spread:
        """As of ``Backend``."""
        how = {"tta": "true"} if way == "tta" else {"mc_samples": str(DROPOUT_SAMPLES)}
        answer = self._zip(content, bundle=bundle, attribute=class_name, **how)
        with self._reading():
            entropy = _grey(answer["uncertainty.png"])
            spread = json.loads(answer["result.json"])["uncertainty"]
            height, width = entropy.shape
            geometry = Geometry.fit(height, width, min(VIEW_SIZE, max(height, width)))
            shares = _shares(geometry.apply(entropy, fill=0))
            return Spread(spread["samples"], shares, geometry, spread["classes"][class_name])

    def explanation(self, content: bytes, bundle: str, class_name: str) -> bytes:
        """As of ``Backend``."""
        return self._segment(content, output="explanation", bundle=bundle, attribute=class_name).content

    def _zip(self, content: bytes, **query: str) -> dict[str, bytes]:
        """The files in the answer of ``output=zip``, by name."""
        answer = self._segment(content, output="zip", **query)
        with self._reading(), zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def _segment(self, content: bytes, **query: str) -> Response:
        files = {"file": ("image", content, "application/octet-stream")}
        return self._ask(lambda: self._client.post("/segment", params=query, files=files))

    def _ask(self, send: Callable[[], Response]) -> Response:
        try:
            answer = send()
        except self._failures as error:
            raise ServiceError(
                f"the service at {self._url} does not answer ({str(error) or type(error).__name__}); "
                "start it with dermseg serve, or start the app without --api"
            ) from error
        if answer.status_code == 401:
            raise ServiceError(
                f"the service at {self._url} asks for another token; start the app with its DERMSEG_TOKEN"
            )
        if answer.status_code != 200:
            raise ServiceError(_problem(answer) or f"the service at {self._url} answered {answer.status_code}")
        return answer

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turns whatever is missing from an answer into one clear error."""
        try:
            yield
        except (DermsegError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise ServiceError(
                f"the service at {self._url} answers in another form than dermseg's; check its address and version"
            ) from error


@dataclass(frozen=True)
class _Whole(Geometry):
    """Of maps in the image's own shape: no square around it, which would be vast around a long, thin image."""

    @classmethod
    def of(cls, height: int, width: int) -> _Whole:
        return cls(height, width, max(height, width), 0, 0, height, width)

    def invert(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        image = cv2.resize(field, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return cast(NDArray[np.float32], image)


def _levels(probability: bytes, mask_file: bytes, threshold: float) -> NDArray[np.uint8]:
    """A service's probability (H, W), 0 to 255, so that what is above the threshold is the service's own mask."""
    if not 0 < np.float32(threshold) < 1:
        raise ValueError(f"the threshold is {threshold}")
    grey, mask = _grey(probability), read_mask(mask_file)
    least = int(np.searchsorted(_shares(np.arange(256, dtype=np.uint8)), np.float32(threshold), side="right"))
    # Eight bits put some pixels along the outline on its other side.
    return np.where(mask, np.maximum(grey, least), np.minimum(grey, least - 1)).astype(np.uint8)


def _shares(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Levels of grey, 0 to 255, as values in [0, 1]."""
    return np.divide(levels, np.float32(255), dtype=np.float32)


def _grey(content: bytes) -> NDArray[np.uint8]:
    return read_mask_values(content, max_megapixels=MAX_MEGAPIXELS)


def _problem(answer: Response) -> str | None:
    """The sentence of a problem document (RFC 9457); None of another answer."""
    try:
        problem = answer.json()
        return str(problem.get("detail") or problem["title"])
    except (AttributeError, KeyError, ValueError):
        return None
