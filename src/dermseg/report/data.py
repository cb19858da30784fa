"""The report on data sets: their statistics and what a check found, as one page with PNG and CSV files beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dermseg.data import findings as checked
from dermseg.data import statistics as tables
from dermseg.data.catalog import LESION
from dermseg.data.findings import KINDS, SEVERITIES, Finding
from dermseg.data.statistics import Statistics
from dermseg.report import sections
from dermseg.report.output import replacing
from dermseg.report.page import Cell, Page, Section, Table, publish
from dermseg.report.samples import attribute_tiles, lesion_tiles
from dermseg.report.sentences import stands_out
from dermseg.wording import count, noun, utf8

PAGE = "index.html"
MOST_ROWS = 1000  # of findings on the page; the CSV has them all


def write(
    statistics: Statistics,
    findings: Sequence[Finding] | None,
    folder: str | Path,
    *,
    title: str = "Data set report",
    seed: int = 0,
) -> Path:
    """Write the report: ``index.html``, which holds all it shows, and charts (PNG) and tables (CSV) beside it.

    Args:
        statistics: What ``gather`` measured.
        findings: What a check found; None if none was made.
        folder: Where to write; made if it is missing. Files of an earlier report are replaced.
        title: Of the page.
        seed: Of the choice of sample images.

    Returns:
        The page.

    Raises:
        InputError: If the folder cannot be written.
    """
    names = ", ".join(dict.fromkeys(statistics.images["source"])) or "the data"
    page = Page(
        title=title,
        lead=f"What the images and masks of {names} are like, before anything is trained on them.",
        cards=_cards(statistics, findings),
        text="",
        sentences=stands_out(statistics),
        sections=list(_sections(statistics, findings, seed)),
        facts=[("Data hash (SHA-256)", statistics.content_hash)],
    )
    files = {name: utf8(text) for name, text in _csv(statistics, findings).items()}
    with replacing(folder, PAGE) as stage:
        publish(page, stage, PAGE, files)
    return Path(folder) / PAGE


def _cards(statistics: Statistics, findings: Sequence[Finding] | None) -> list[tuple[Cell, str]]:
    images, pixels = statistics.images, statistics.pixels
    counted = (
        (len(images), "image", ""),
        (int(images["id"].nunique()), "different image id", ""),
        (int(pixels[LESION].notna().sum()) if LESION in pixels else 0, "lesion mask", ""),
        (int(pixels[statistics.attributes].notna().to_numpy().sum()), "attribute mask", ""),
        (int(images["source"].nunique()), "data set", ""),
        (int(images["licence"].nunique()), "licence", ""),
        (len(statistics.failures), "file that cannot be used", "files that cannot be used"),
    )
    cards: list[tuple[Cell, str]] = [(number, noun(number, *names)) for number, *names in counted]
    if findings is None:
        return [*cards, (None, "findings: no check was made")]
    errors = count(sum(item.severity == "error" for item in findings), "error")
    return [*cards, (len(findings), f"{noun(len(findings), 'finding')}, {errors}")]


def _sections(statistics: Statistics, findings: Sequence[Finding] | None, seed: int) -> Iterator[Section]:
    if len(statistics.images):
        for make in (
            sections.data_sets,
            sections.class_balance,
            sections.attributes,
            sections.image_sizes,
            sections.colour,
            sections.skin_tone,
            sections.artefacts,
        ):
            if (section := make(statistics)) is not None:
                yield section
        tiles = [found for found in (lesion_tiles(statistics, seed), attribute_tiles(statistics, seed)) if found]
        text = "From all data sets and size classes in turn, with the outlines of the masks; then each attribute's."
        yield Section("samples", "Samples", text, galleries=tiles)
    if statistics.failures:
        yield _failures(statistics)
    yield _findings(findings)


def _failures(statistics: Statistics) -> Section:
    rows = [[item.source, item.id, item.path.name, item.message] for item in statistics.failures]
    columns = ("data set", "id", "file", "what is wrong")
    table = Table(count(len(rows), "file"), columns, rows[:MOST_ROWS], note=_cut(rows, "failures.csv"))
    return Section("failures", "Files that cannot be used", "Nothing above counts them.", tables=[table])


def _findings(findings: Sequence[Finding] | None) -> Section:
    id, title = "findings", "Findings of the check"
    if findings is None:
        return Section(
            id, title, "No check was made. `dermseg data check` finds broken files, wrong masks, duplicates."
        )
    if not findings:
        return Section(id, title, "The check found nothing.")
    ordered = checked.ordered(findings)
    severities, kinds = (Counter(getattr(item, name) for item in ordered) for name in ("severity", "kind"))
    meanings = [[kind, KINDS[kind].severity, of, KINDS[kind].meaning, KINDS[kind].advice] for kind, of in kinds.items()]
    rows: list[list[Cell]] = [
        [
            item.severity,
            item.kind,
            item.source,
            item.id,
            item.message,
            f"{item.other.parent.name}/{item.other.name}" if item.other else None,
        ]
        for item in ordered
    ]
    return Section(
        id,
        title,
        ", ".join(count(severities[name], name) for name in SEVERITIES if severities[name]) + ".",
        tables=[
            Table("By kind", ("kind", "severity", "findings", "meaning", "what to do"), meanings),
            Table(
                "One by one",
                ("severity", "kind", "data set", "id", "message", "other file"),
                rows[:MOST_ROWS],
                filters=("severity", "kind", "data set"),
                note=_cut(rows, "findings.csv"),
            ),
        ],
    )


def _csv(statistics: Statistics, findings: Sequence[Finding] | None) -> dict[str, str]:
    """The tables beside the page, by file name; empty ones are left out."""
    masks = statistics.pixels.add_suffix("_pixels")
    found = {
        "images.csv": statistics.images,
        "masks.csv": pd.concat([statistics.images[["id", "source"]], masks], axis=1),
        "lesions.csv": tables.lesions(statistics),
        "sources.csv": tables.sources(statistics),
        "attributes.csv": tables.attributes(statistics),
        "failures.csv": pd.DataFrame([vars(item) for item in statistics.failures]),
    }
    texts = {name: table.to_csv(index=False) for name, table in found.items() if len(table)}
    if statistics.attributes:
        texts["cooccurrence.csv"] = tables.cooccurrence(statistics).to_csv(index_label="attribute")
    if findings:
        texts["findings.csv"] = checked.to_csv(checked.ordered(findings))
    return texts


def _cut(rows: Sequence[object], name: str) -> str:
    return f"The first {MOST_ROWS:,}; {name} has them all." if len(rows) > MOST_ROWS else ""
