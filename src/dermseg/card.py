"""The model card: a bundle's manifest in words, and between its facts the notes that people write.

The sections are those of Mitchell et al., "Model Cards for Model Reporting", FAT* 2019: the manifest knows what was
measured and trained on; intended use, subgroups, failures and cost are notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dermseg.errors import InputError

if TYPE_CHECKING:
    from dermseg.bundle import Manifest

MAX_COLUMNS = 8
_LINE_END = re.compile(r"\r\n?|\n")
_HEADING = re.compile(r" {0,3}(#{1,2})(?:[ \t]+(.*))?")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")


def model_card(manifest: Manifest) -> str:
    """The manifest in words, as Markdown.

    Its notes are sections between "Scores" and "Limits"; one with the title of a section that there is anyway, such as
    "Limits", stands at the end of that section.
    """
    last = {"Limits": _limits(manifest)}
    sections = {"Training data": _training_data(manifest), "Scores": _scores(manifest)}
    for title, text in manifest.notes.items():
        (last if title in last else sections).setdefault(title, []).append(text)
    blocks = _facts(manifest)
    for title, content in (sections | last).items():
        blocks += [f"## {title}", *content]
    return "\n\n".join(block for each in blocks if (block := each.strip("\n"))) + "\n"


def parse_notes(markdown: str) -> dict[str, str]:
    """The notes in a Markdown file: title -> text, by its ``## `` headings outside fenced code.

    Args:
        markdown: The file's text; before its first ``## `` heading stands nothing, or a ``# `` title alone.

    Raises:
        InputError: If there is other text before the first heading, a title twice, or what ``check_notes`` refuses.
    """
    (_, before), *parts = _split(markdown)
    if parts and parts[0][0].startswith("# "):
        before += parts.pop(0)[1]
    if before.strip():
        first = before.strip().splitlines()[0]
        raise InputError(f"the notes begin with {first[:60]!r}; expected a heading '## Title' before any text")
    notes: dict[str, str] = {}
    for heading, text in parts:
        if heading.startswith("# "):
            raise InputError(f"the notes hold the heading {heading!r}; expected '## ' for a note, '### ' inside one")
        title = heading.removeprefix("## ")
        if title in notes:
            raise InputError(f"the notes have the heading '## {title}' twice; put both texts below one, or rename one")
        notes[title] = text
    check_notes(notes)
    return notes


def check_notes(notes: Mapping[str, str]) -> None:
    """Check that notes, title -> Markdown, leave the structure of the card as it is.

    Raises:
        InputError: If a title is not one line of text, or a text holds a ``# `` or ``## `` heading or code that does
            not end.
    """
    for title, text in notes.items():
        if title.strip().splitlines() != [title]:
            raise InputError(f"a note has the title {title!r}; expected one line of text, with no spaces around it")
        _, *parts = _split(text)
        if parts:
            raise InputError(
                f"the note {title!r} holds the heading {parts[0][0]!r}; expected '### ' or below in a note"
            )


def _split(markdown: str) -> list[tuple[str, str]]:
    """The parts of a text: each heading of the two highest levels, "" for the beginning, and the text below it.

    Fenced code is as CommonMark 0.31 has it: a line in it is no heading.
    """
    parts: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in _LINE_END.split(markdown):
        mark, found = _FENCE.match(line), _HEADING.fullmatch(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif mark:
            fence = mark[1]
        elif found:
            parts.append((f"{found[1]} {(found[2] or '').strip()}", []))
            continue
        parts[-1][1].append(line)
    if fence:
        raise InputError(f"a block of code that begins with {fence!r} does not end; put {fence!r} on a line after it")
    return [(heading, "\n".join(lines).strip("\n")) for heading, lines in parts]


def _facts(manifest: Manifest) -> list[str]:
    data, architecture = manifest.training_data, manifest.architecture
    thresholds = ", ".join(f"{name} {value:.4g}" for name, value in manifest.thresholds.items())
    each = zip(manifest.classes, manifest.calibration.of(manifest.classes).ravel(), strict=True)
    temperatures = ", ".join(f"{value:.3g} ({name})" for name, value in each if value != 1)
    if temperatures and (images := manifest.calibration.images):
        split = manifest.calibration.split
        temperatures += f", fitted on {images} images" + (f" of `{split}`" if split else "")
    facts = [
        f"- **Finds**: {', '.join(manifest.classes)}",
        f"- **Network**: `{architecture.name}`, {architecture.parameters / 1e6:.2f} million parameters, "
        f"input {manifest.input_size} x {manifest.input_size} pixels, weights in float16",
        *([f"- **Processing before the network**: {', '.join(manifest.processing)}"] if manifest.processing else []),
        f"- **Threshold on the probability**{', chosen on the split `tune`' * bool(data.sources)}: {thresholds}",
        *([f"- **Calibration**: logits are divided by {temperatures}"] if temperatures else []),
        *_presence(manifest),
        f"- **Licence of the weights**: {manifest.licence}",
        f"- **Versions**: {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}",
    ]
    return [
        f"# {manifest.name}",
        manifest.description,
        "Research software, not a medical device: it must not decide about a patient.",
        "\n".join(facts),
    ]


def _presence(manifest: Manifest) -> list[str]:
    model = manifest.presence
    if model is None:
        return []
    on = f" of `{model.split}`" if model.split else ""
    return [
        f"- **Presence**: the probability that an image shows {', '.join(model.curves)} is fitted on "
        f"{model.images} images{on}"
    ]


def _training_data(manifest: Manifest) -> list[str]:
    data = manifest.training_data
    text = f"Split `{data.split}`; initialised from {data.initialisation}; content hash `{data.content_hash[:16]}`."
    rows = [f"| {name} | {count} | {data.licences[name]} |" for name, count in data.sources.items()]
    return [text, "\n".join(["| data set | images | licence |", "|---|---|---|", *rows])] if rows else [text]


def _scores(manifest: Manifest) -> list[str]:
    if not manifest.scores:
        return ["None recorded yet."]
    blocks = []
    for score in manifest.scores:
        blocks += [
            f"**{score.data}, split `{score.split}`, {score.images} images** ({score.protocol}; mean [95 % interval])",
            _table({name: f"{m.mean:.3f} [{m.low:.3f}, {m.high:.3f}]" for name, m in score.metrics.items()}),
        ]
    split = manifest.scores[-1].split
    return [
        *blocks,
        f"Measured by `dermseg evaluate --bundle {manifest.name} --data DATA --split {split} --record`.",
    ]


def _limits(manifest: Manifest) -> list[str]:
    text = (
        "Trained on dermoscopy of single lesions, mostly on light skin; clinical (non-dermoscopic) photographs, other "
        "organs and images without a lesion are outside what it has seen"
    )
    if manifest.quality is None:
        return [f"{text}, and it does not say so by itself."]
    verdicts = [f"- **{verdict}**: {words}" for verdict, words in manifest.quality.meaning.items()]
    return [f"{text}; many of them it rejects itself:", "\n".join(verdicts)]


def _table(cells: Mapping[str, str]) -> str:
    """A Markdown table of one row; of one column where that would be too wide for a page."""
    if len(cells) > MAX_COLUMNS:
        rows = ["| metric | value |", "|---|---|", *(f"| {name} | {cell} |" for name, cell in cells.items())]
    else:
        rows = [f"| {' | '.join(cells)} |", f"|{'---|' * len(cells)}", f"| {' | '.join(cells.values())} |"]
    return "\n".join(rows)
