"""The report on how good predictions are: one page, with tables, charts and pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup

from dermseg import subgroups
from dermseg.data.catalog import Sample
from dermseg.errors import InputError
from dermseg.evaluation import EvaluationResult, Predictor
from dermseg.protocols import ImageScore
from dermseg.report import cases as pictures
from dermseg.report import probabilities, scores, summary
from dermseg.report.cases import thumbnail
from dermseg.report.output import replacing
from dermseg.report.page import RESEARCH, Cell, Page, Section, Table, publish
from dermseg.wording import utf8

__all__ = ["PAGE", "thumbnail", "write"]

PAGE = "report.html"


def write(
    result: EvaluationResult,
    folder: str | Path,
    *,
    predictor: Predictor,
    samples: Sequence[Sample],
    card: str | None = None,
    cases: int = 8,
    title: str | None = None,
) -> Path:
    """Write the report: ``report.html``, which holds all it shows, and charts, tables and pictures beside it.

    Beside it: ``<split>_metrics.csv`` and ``result.json``, charts (PNG), the numbers of curves (CSV), and in ``best``
    and ``worst`` pictures of single images, named by rank and id.

    Args:
        result: Scored by the official protocol at least; what other protocols tell is shown where they are there, as
            are facts and thumbnails.
        folder: Where to write; made if it is missing. Files of an earlier report are replaced.
        predictor: What was scored; it predicts the images that are drawn again.
        samples: The scored ones.
        card: The bundle's model card, as Markdown.
        cases: How many images ``best`` and ``worst`` show each.
        title: Of the page.

    Returns:
        The page.

    Raises:
        InputError: If the folder cannot be written, or the official protocol is not there.
    """
    if result.protocols[0].name != "official":
        names = ", ".join(protocol.name for protocol in result.protocols)
        raise InputError(f"a report needs the official protocol first, not {names}; evaluate with it too")
    with replacing(folder, PAGE) as stage:
        _write(result, stage, predictor, samples, card, cases, title)
    return Path(folder) / PAGE


def _write(
    result: EvaluationResult,
    target: Path,
    predictor: Predictor,
    samples: Sequence[Sample],
    card: str | None,
    cases: int,
    title: str | None,
) -> None:
    table = f"{result.split}_metrics.csv"
    result.write_csv(target / table)
    files = {"result.json": utf8(result.to_json())}
    ordered = _ordered(result)
    factors = subgroups.subgroups(result)
    sections: list[Section] = []
    if ordered:
        sections.append(scores.by_protocol(result))
        if len(result.classes) > 1:
            sections.append(scores.by_class(result))
        sections.append(scores.spread(result))
        if result.protocol("ranking") is not None:
            section, numbers = probabilities.section(result)
            sections.append(section)
            files |= {name: utf8(text) for name, text in numbers.items()}
        if factors:
            sections.append(scores.subgroups(result, factors))
            files["subgroups.csv"] = utf8(scores.subgroups_csv(factors))
    sections += _galleries(result, ordered, target, predictor, samples, cases)
    if ordered:
        sections.append(scores.every_image(result, ordered, factors))
    if result.failures:
        sections.append(scores.not_scored(result))
    sections.append(_about(result, card))
    page = Page(
        title=title or f"Evaluation of {result.name}",
        lead=f"The masks by {result.name} on {result.data}, split {result.split}.",
        cards=summary.cards(result),
        text=f"{summary.text(result)} {RESEARCH}.",
        sentences=list(summary.stands_out(result, factors, predictor)),
        sections=sections,
        facts=[("Data hash (SHA-256)", result.content_hash)],
    )
    publish(page, target, PAGE, files, [table])


def _ordered(result: EvaluationResult) -> list[ImageScore]:
    """The images, the worst first; of equal ones the one with more wrong area."""
    main = result.protocols[0].main
    counted = scores.counts(result, result.images).sum(axis=1) if result.images else np.zeros((0, 4))
    wrong = counted[:, 1:3].sum(axis=1) / counted.sum(axis=1)
    keys = [(image.metrics[main], -share, image.id) for image, share in zip(result.images, wrong.tolist(), strict=True)]
    return [result.images[place] for place in sorted(range(len(keys)), key=keys.__getitem__)]


def _galleries(
    result: EvaluationResult,
    ordered: Sequence[ImageScore],
    folder: Path,
    predictor: Predictor,
    samples: Sequence[Sample],
    most: int,
) -> Iterator[Section]:
    # Nothing that was found where nothing is scores 1 too, but shows nothing.
    once = set(result.distinct)
    shown = [image for image in ordered if image in once and scores.counts(result, [image])[..., :3].any()]
    number_of = min(most, -(-len(shown) // 2))
    legend = pictures.legend(result.classes)
    main = scores.words(result.protocols[0].main)
    for id, title, chosen in (
        ("worst", "Worst images", shown[:number_of]),
        ("best", "Best images", shown[::-1][:number_of]),
    ):
        captioned = [(image, _caption(image, result)) for image in chosen]
        drawn = pictures.write(folder / id, captioned, samples, partial(pictures.draw, predictor))
        if drawn:
            text = f"By {main}. Each picture lies in the folder {id} too, larger."
            yield Section(id, title, text, legend=legend, cases=drawn)


def _caption(image: ImageScore, result: EvaluationResult) -> str:
    prefix = "micro_" if len(result.classes) > 1 else ""
    values = (f"{scores.words(prefix + name)} {image.metrics[prefix + name]:.3f}" for name in scores.COLUMNS)
    return " · ".join([image.source, *values])


def _about(result: EvaluationResult, card: str | None) -> Section:
    point = result.operating_point
    facts: list[list[Cell]] = [
        ["scored", result.name],
        ["data", result.data],
        ["split", result.split],
        ["classes", ", ".join(result.classes)],
        ["thresholds in use", ", ".join(f"{value:g}" for value in result.thresholds) or None],
        ["thresholds of high sensitivity", ", ".join(f"{value:g}" for value in point.thresholds) if point else None],
        ["data hash (SHA-256)", result.content_hash],
    ]
    table = Table("What was scored", ("fact", "value"), [row for row in facts if row[1] is not None])
    text = "Two results are of the same images and truths where their data hash is the same."
    details = [("Model card of the bundle", _card(card))] if card else []
    return Section("about", "About", text, tables=[table], details=details)


def _card(text: str) -> Markup:
    """A model card as HTML: what is HTML in it is escaped, and it loads no picture."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):  # below the page's own
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))
