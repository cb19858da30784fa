"""The page: what it asks, what it shows and where; pictures and numbers are made elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import streamlit as st

from dermseg.app import view
from dermseg.app.backend import Backend, BundleInfo, Finding, Way
from dermseg.app.launch import Settings
from dermseg.app.recent import Recent
from dermseg.app.view import Card, Row
from dermseg.errors import DermsegError
from dermseg.figures import EXTRA, MISSED, Colour
from dermseg.imaging import encode_image, encode_mask
from dermseg.metrics import Confusion
from dermseg.parallel import attempt, in_order
from dermseg.quality import Quality
from dermseg.segmenter import Prediction
from dermseg.synthetic import example
from dermseg.wording import capital, plain

HERE = Path(__file__).parent
LOG = logging.getLogger("dermseg.app")

KEPT = 256 * 2**20
"""Bytes of findings and other results that a visitor's session keeps to redraw them."""

NOTICE = "Research software, not a medical device: what it finds must not decide about a patient."

VERDICTS = {"accept": "Accept", "review": "Review", "reject": "Reject"}

WAYS: Mapping[Way, str] = {"dropout": "Monte Carlo dropout, 10 samples", "tta": "Test-time augmentation, 10 views"}


@dataclass(frozen=True)
class Image:
    """An image that a visitor gave.

    Attributes:
        key: Tells it from the others.
        name: Of its file.
        read: Gives the file's bytes.
    """

    key: str
    name: str
    read: Callable[[], bytes]


def show(settings: Settings) -> None:
    """Draw the page; whatever goes wrong is a sentence on it."""
    st.set_page_config(page_title="dermseg", page_icon=str(HERE / "icon.svg"), layout="wide")
    st.html(HERE / "style.css")
    st.html(
        '<header class="ds-head"><h1>dermseg</h1><p>Finds the outline of a skin lesion in a dermoscopy image, and says '
        f"how far it can be relied on.</p><p>{NOTICE}</p></header>"
    )
    try:
        _body(settings)
    except DermsegError as error:
        _failure(view.sentence(error, "the image"))
        st.button("Try again")
    except Exception:
        LOG.exception("the page failed")
        _failure("The app has failed at this, by a fault of its own; its log says more. Reload the page to go on.")


@st.cache_resource(show_spinner=False)
def _backend(settings: Settings) -> Backend:
    return settings.backend()


def _recent() -> Recent:
    """What this visitor's session keeps."""
    kept: Recent = st.session_state.setdefault("recent", Recent(KEPT))
    return kept


def _body(settings: Settings) -> None:
    backend = _backend(settings)
    if "infos" not in st.session_state:
        st.session_state["infos"] = backend.bundles()
    infos: list[BundleInfo] = st.session_state["infos"]
    images = _images()
    if not images:
        _caption(f"JPEG, PNG, BMP, TIFF or WebP. {backend.whereabouts}")
        return
    info = infos[0]
    if len(infos) > 1:
        names = {each.name: each for each in infos}
        info = names[st.selectbox("Bundle", list(names), key="bundle", width=320)]
    desk = _Desk(backend, infos, info)
    opened = next((image for image in images if image.key == st.session_state.get("opened")), None)
    if len(images) == 1:
        desk.single(images[0])
    elif opened:
        _back(images, opened)
        desk.single(opened)
    else:
        desk.many(images)
    with st.expander(f"About the bundle {info.name}"):
        st.markdown(_lowered(info.card))


def _images() -> list[Image]:
    """Ask for images: files, the camera, or the example."""
    given, other = st.columns([3, 1], gap="medium", vertical_alignment="bottom")
    with given:
        files = st.file_uploader(
            "Drop dermoscopy images here, one or many",
            accept_multiple_files=True,
            key="files",
            on_change=partial(st.session_state.update, example=False),
        )
    with other, st.container(key="other"):
        shown = bool(st.session_state.get("example"))
        st.button(
            "Remove the example" if shown else "Try an example",
            type="secondary" if shown or files else "primary",
            on_click=partial(st.session_state.update, example=not shown),
            width="stretch",
            help="A drawn image, made by the computer: of nobody's skin.",
        )
        camera = st.toggle("Use the camera", key="camera")
    photo = st.camera_input("Photograph", key="photo") if camera else None
    images = [Image(file.file_id, file.name, file.getvalue) for file in files]
    if photo is not None:
        images.append(Image(photo.file_id, "camera.jpg", photo.getvalue))
    if shown:
        images.append(Image("example", "example.png", _example))
    return images


@st.cache_data(show_spinner=False)
def _example() -> bytes:
    return encode_image(example().pixels)


def _back(images: Sequence[Image], opened: Image) -> None:
    """The way from one of many images to the others."""
    place = images.index(opened)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("All images", icon=":material/grid_view:", on_click=_open, args=(None,))
        for label, icon, step in (("Previous", ":material/arrow_back:", -1), ("Next", ":material/arrow_forward:", 1)):
            other = place + step
            inside = 0 <= other < len(images)
            key = images[other].key if inside else None
            st.button(label, icon=icon, on_click=_open, args=(key,), disabled=not inside)
        st.html(f'<p class="ds-fact">Image {place + 1} of {len(images)}</p>', width="content")


def _open(key: str | None) -> None:
    st.session_state["opened"] = key


class _Desk:
    """A bundle at work on images."""

    def __init__(self, backend: Backend, infos: Sequence[BundleInfo], info: BundleInfo) -> None:
        self._backend = backend
        self._infos = infos
        self._info = info

    def many(self, images: Sequence[Image]) -> None:
        """Show images as tiles, and all of their results as one archive."""
        cards = self._cards(images)
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.html(f'<p class="ds-name" role="status">{escape(view.tally(cards))}</p>', width="content")
            st.download_button(
                "Download all (ZIP)",
                partial(view.archive, cards),
                "dermseg.zip",
                "application/zip",
                on_click="ignore",
                icon=":material/download:",
                type="primary",
            )
        with st.container(horizontal=True, gap="small"):
            for number, (image, card) in enumerate(zip(images, cards, strict=True)):
                with st.container(border=True, width=222, key=f"tile-{number}"):
                    _tile(image, card)

    def single(self, image: Image) -> None:
        """Show one image: pictures at the left, what to choose and to take away at the right."""
        try:
            with st.spinner("Looking for the outline"):
                finding = self._find(image, self._info.name)
        except DermsegError as error:
            _failure(view.sentence(error, image.name))
            return
        pictures, choices = st.columns([8, 5], gap="medium")
        with choices, st.container(key="choices"):
            chosen = _choices(image, finding)
        with pictures:
            self._tabs(image, chosen)

    def _tabs(self, image: Image, chosen: _Chosen) -> None:
        """What a tab shows is made when it is opened; what it asks is kept while it is closed."""
        several = self._several()
        others = [info for info in self._infos if info.name != self._info.name and chosen.name in info.classes]
        tabs: dict[str, Callable[[bool], None]] = {
            "Outline": lambda _: _outline(image, chosen),
            "Mask": lambda _: _mask(image, chosen),
            "Probability": lambda _: _probability(chosen),
            "Uncertainty": lambda _: self._uncertainty(image, chosen),
        }
        if self._backend.explains:
            tabs["Explanation"] = lambda _: self._explanation(image, chosen)
        if several:
            tabs["Attributes"] = lambda _: self._attributes(image, several, chosen)
        tabs["Measurements"] = lambda _: _measurements(chosen)
        if others:
            tabs["Compare"] = lambda is_open: self._compare(image, chosen, others, is_open)
        tabs["Ground truth"] = lambda is_open: _truth(image, chosen, is_open)
        keeps_input = {"Compare", "Ground truth"}
        for tab, (name, fill) in zip(st.tabs(list(tabs), key="tabs", on_change="rerun"), tabs.items(), strict=True):
            if tab.open or name in keeps_input:
                with tab:
                    try:
                        fill(bool(tab.open))
                    except DermsegError as error:
                        _failure(view.sentence(error, image.name))

    def _uncertainty(self, image: Image, chosen: _Chosen) -> None:
        way = st.radio("From", list(WAYS), format_func=WAYS.__getitem__, horizontal=True, key="way")
        key = ("uncertainty", image.key, self._info.name, chosen.name, way)
        with st.spinner("Predicting several times"):
            spread = _recent().get(
                key,
                lambda: self._backend.uncertainty(image.read(), self._info.name, chosen.name, way),
                lambda made: made.entropy.nbytes,
            )
        picture = view.jpeg(view.uncertainty_map(chosen.view, spread))
        st.image(picture, width="stretch", alt="Map of the entropy over the photograph, with the outline.")
        _caption(
            f"How far {spread.samples} predictions leave {plain(chosen.name)} open at each place: from dark violet, "
            "0 bits, through green to yellow, 1 bit, where inside and outside are equally likely."
        )
        _table("Means of the uncertainty", ("", "image", "along the outline"), view.spread_rows(spread))

    def _explanation(self, image: Image, chosen: _Chosen) -> None:
        key = ("explanation", image.key, self._info.name, chosen.name)
        with st.spinner("Following the network's gradients"):
            picture = _recent().get(
                key, lambda: self._backend.explanation(image.read(), self._info.name, chosen.name), len
            )
        st.image(picture, width="stretch", alt="Grad-CAM map over the photograph, with the outline.")
        _caption(
            f"Where features of the network spoke for {plain(chosen.name)}, from dark violet, least, to yellow, most "
            "in this image (Grad-CAM). It tells what the network used, not whether it was right."
        )

    def _attributes(self, image: Image, several: BundleInfo, chosen: _Chosen) -> None:
        own = several.name == self._info.name
        prediction = chosen.prediction if own else self._find(image, several.name).prediction
        picture, colours = view.structures(prediction)
        found = ", ".join(plain(name) for name in colours) or "none"
        st.image(view.jpeg(picture), width="stretch", alt=f"Photograph with the outlines of its structures: {found}.")
        _legend({plain(name): colour for name, colour in colours.items()})
        _table(f"Found by the bundle {several.name}", view.CLASS_COLUMNS, view.class_rows(prediction))

    def _compare(self, image: Image, chosen: _Chosen, others: Sequence[BundleInfo], is_open: bool) -> None:
        names = [info.name for info in others]
        other = st.selectbox("With the bundle", names, key="other-bundle", width=320)
        if not is_open:
            return
        prediction = self._find(image, other).prediction
        second = view.view(prediction, chosen.name)
        for column, shown, bundle in zip(st.columns(2), (chosen.view, second), (self._info.name, other), strict=True):
            with column:
                st.image(
                    view.jpeg(view.outlined(shown, chosen.shade)),
                    width="stretch",
                    alt=f"Photograph with the outline by the bundle {bundle}.",
                )
                _caption(f"{bundle}: {view.percent(float(shown.mask.mean()))} of the image")
        mask = prediction.mask_of(chosen.name)
        both = Confusion.of(chosen.prediction.mask_of(chosen.name), mask)
        st.html(
            f'<p class="ds-name">Jaccard index {both.jaccard:.3f}, Dice coefficient {both.dice:.3f}</p>'
            '<p class="ds-fact">The agreement of the two masks; 1 is the same.</p>'
        )
        st.image(view.jpeg(view.difference(chosen.view, mask)), width="stretch", alt="Where the two masks differ.")
        _legend({f"only by {self._info.name}": EXTRA, f"only by {other}": MISSED})

    def _several(self) -> BundleInfo | None:
        """A bundle of several classes: the one at work, or the first there is."""
        return next((info for info in (self._info, *self._infos) if len(info.classes) > 1), None)

    def _find(self, image: Image, bundle: str) -> Finding:
        return _recent().get(
            ("finding", image.key, bundle),
            lambda: self._backend.segment(image.read(), image.name, bundle),
            lambda made: made.nbytes,
        )

    def _cards(self, images: Sequence[Image]) -> list[Card | tuple[str, str]]:
        """Segment the images that were not yet; each has a card, or its name and a sentence."""
        kept: dict[tuple[str, str], Card | tuple[str, str]] = st.session_state.setdefault("cards", {})
        bundle = self._info.name
        wanted = {(image.key, bundle): image for image in images}
        for key in [key for key in kept if key not in wanted]:
            del kept[key]
        new = [image for image in images if (image.key, bundle) not in kept]
        if new:
            text = "Looking for the outlines: {} of {} images"
            bar = st.progress(0.0, text.format(0, len(new)))

            def work(image: Image) -> Card:
                return view.card(self._backend.segment(image.read(), image.name, bundle))

            outcomes = in_order(partial(attempt, work), new)
            for number, (image, outcome) in enumerate(zip(new, outcomes, strict=True), 1):
                kept[image.key, bundle] = (
                    (image.name, view.sentence(outcome, image.name)) if isinstance(outcome, DermsegError) else outcome
                )
                bar.progress(number / len(new), text.format(number, len(new)))
            bar.empty()
        return [kept[key] for key in wanted]


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A finding as the visitor wants to see it.

    Attributes:
        prediction: At the chosen thresholds and scale.
        name: Of the class that is shown.
        view: Of that class.
        shade: Of the light around the lesion, 0 to 1, what is taken away.
    """

    prediction: Prediction
    name: str
    view: view.View
    shade: float


def _choices(image: Image, finding: Finding) -> _Chosen:
    """Name, verdict, sliders and downloads."""
    prediction = finding.prediction
    height, width = prediction.size
    st.html(
        f'<h2 class="ds-name">{escape(image.name)}</h2><p class="ds-fact">{width} × {height} pixels, '
        f"segmented in {finding.seconds:.2f} s</p>"
    )
    if finding.quality:
        st.html(_verdict(finding.quality))
    name = prediction.classes[0]
    if len(prediction.classes) > 1:
        name = st.selectbox("Structure", prediction.classes, format_func=plain, key="class")
    own = prediction.thresholds[prediction.classes.index(name)]
    key = f"threshold-{image.key}-{prediction.bundle}-{name}"
    threshold = st.slider(
        "Threshold on the probability, 0 to 1",
        min(0.01, own),
        max(0.99, own),
        own,
        0.01,
        format="%.2f",
        key=key,
        help=f"What is more probable belongs to the mask. The bundle's own threshold is {own:.3f}.",
    )
    shade = st.slider("Opacity of the shade around the outline, %", 0, 100, 15, 5, format="%d %%", key="shade")
    scale = st.number_input(
        "Millimetres per pixel, if known",
        min_value=1e-6,
        max_value=1e3,
        value=None,
        step=0.001,
        format="%.4f",
        placeholder="for lengths in millimetres",
        key=f"scale-{image.key}",
    )

    def adjust() -> Prediction:
        return view.adjusted(finding.prediction, {name: threshold}, scale)

    adjusted = adjust()
    area = view.percent(float(adjusted.mask_of(name).mean()))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.html(f'<p class="ds-fact">{capital(plain(name))}: <b>{area}</b> of the image</p>', width="content")
        if threshold != own:
            back = partial(st.session_state.update, {key: own})
            st.button(f"Back to the threshold {own:.3f}", type="tertiary", on_click=back)
    part = f"_{view.stem_of(name)}" if len(prediction.classes) > 1 else ""
    stem = view.stem_of(image.name)
    # What is downloaded is made when it is asked for; until then the page holds the finding alone.
    _downloads(
        ("Mask (PNG)", lambda: encode_mask(adjust().mask_of(name)), f"{stem}{part}_mask.png"),
        ("Overlay (PNG)", lambda: view.overlay_file(adjust(), name, shade / 100), f"{stem}{part}_overlay.png"),
        ("Result (JSON)", lambda: view.result_file(adjust(), finding.quality), f"{stem}.json"),
    )
    return _Chosen(adjusted, name, view.view(adjusted, name), shade / 100)


def _downloads(*files: tuple[str, Callable[[], bytes], str]) -> None:
    """A button for each: what stands on it, what makes the file, and the file's name."""
    with st.container(horizontal=True, gap="small", key="downloads"):
        for label, make, name in files:
            kind = "application/json" if name.endswith(".json") else "image/png"
            st.download_button(label, make, name, kind, on_click="ignore", icon=":material/download:")


def _outline(image: Image, chosen: _Chosen) -> None:
    area = view.percent(float(chosen.view.mask.mean()))
    what = "" if chosen.name == "lesion" else f" of {plain(chosen.name)}"
    alt = f"Photograph {image.name} with the outline{what}, which holds {area} of it."
    st.image(view.jpeg(view.outlined(chosen.view, chosen.shade)), width="stretch", alt=alt)
    if not chosen.view.mask.any():
        _caption("Nothing is above the threshold: there is no outline.")


def _mask(image: Image, chosen: _Chosen) -> None:
    area = view.percent(float(chosen.view.mask.mean()))
    alt = f"Mask of {image.name}: white is {plain(chosen.name)}, {area} of the image."
    st.image(encode_mask(chosen.view.mask), width="stretch", alt=alt)
    _caption(f"White is {plain(chosen.name)}. The download has the image's own size.")


def _probability(chosen: _Chosen) -> None:
    alt = f"Map of the probability of {plain(chosen.name)} over the photograph, with the outline."
    st.image(view.jpeg(view.probability_map(chosen.view, chosen.name)), width="stretch", alt=alt)
    _caption("From dark violet, probability 0, through green to yellow, probability 1; the white line is the outline.")


def _measurements(chosen: _Chosen) -> None:
    found = view.measurements(chosen.prediction, chosen.name)
    if found is None:
        st.info("There is nothing to measure: nothing is above the threshold.")
        return
    unit = "pixels" if chosen.prediction.mm_per_pixel is None else "millimetres"
    _table(f"Measurements in {unit}", ("", "value", "what it is"), view.measurement_rows(found))
    _caption(
        "Akin to asymmetry, border and colours of the ABCD rule, which scores them by eye; these are not its scores."
    )


def _truth(image: Image, chosen: _Chosen, is_open: bool) -> None:
    file = st.file_uploader(
        f"True mask of this image: white is {plain(chosen.name)}, at the image's own size", key=f"truth-{image.key}"
    )
    if file is None or not is_open:
        return
    try:
        truth = view.read_truth(file.getvalue(), chosen.prediction.size)
    except DermsegError as error:
        _failure(view.sentence(error, file.name))
        return
    scores = Confusion.of(chosen.prediction.mask_of(chosen.name), truth)
    alt = "Where the mask and the true mask differ."
    st.image(view.jpeg(view.difference(chosen.view, truth)), width="stretch", alt=alt)
    _legend({"missed": MISSED, "too much": EXTRA})
    _table("Scores at the chosen threshold", ("", "0 to 1, 1 is best"), view.score_rows(scores))


def _tile(image: Image, card: Card | tuple[str, str]) -> None:
    if not isinstance(card, Card):
        name, reason = card
        st.html(f'<p class="ds-tile"><b>{escape(name)}</b></p>')
        _failure(reason)
        return
    area = view.percent(card.area)
    verdict = card.quality.verdict if card.quality else None
    alt = f"{card.name} with its outline, {area} of the image{f', to {verdict}' if verdict else ''}."
    st.image(card.thumbnail, width="stretch", alt=alt)
    mark = f'<i class="ds-mark ds-{verdict}"></i>{VERDICTS[verdict]}, ' if verdict else ""
    st.html(f'<p class="ds-tile"><b>{escape(card.name)}</b><span>{mark}{area}</span></p>')
    st.button("Open", key=f"open-{image.key}", on_click=_open, args=(image.key,), width="stretch")


def _verdict(quality: Quality) -> str:
    reason = escape(capital(quality.reason).rstrip(".") + ".")
    return f'<div class="ds-verdict ds-{quality.verdict}"><b>{VERDICTS[quality.verdict]}</b><span>{reason}</span></div>'


def _failure(text: str) -> None:
    """A sentence that may hold a file's name, which Streamlit's own would read as Markdown."""
    st.html(f'<p class="ds-verdict ds-reject" role="alert">{escape(text)}</p>')


def _caption(text: str) -> None:
    st.html(f'<p class="ds-fact">{escape(text)}</p>')


def _legend(colours: Mapping[str, Colour]) -> None:
    items = "".join(
        f'<li><i style="background: rgb{colour}"></i>{escape(meaning)}</li>' for meaning, colour in colours.items()
    )
    st.html(f'<ul class="ds-legend">{items}</ul>')


def _table(caption: str, columns: Row, rows: Sequence[Row]) -> None:
    """A table whose first column names the rows; a third one is left out on a phone where it is a note."""
    notes = columns[-1] == "what it is"
    head = "".join(f'<th scope="col"{_note(place, notes)}>{escape(text)}</th>' for place, text in enumerate(columns))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td{_note(place, notes)}>{escape(cell)}</td>" for place, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    st.html(
        f'<table class="ds-table"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _note(place: int, notes: bool) -> str:
    return ' class="ds-note"' if notes and place == 2 else ""


def _lowered(card: str) -> str:
    """A model card as a part of a page: without its title, with smaller headings."""
    _, *lines = card.splitlines()
    return "\n".join(f"###{line}" if line.startswith("## ") else line for line in lines)
