"""The notes of a model card: what people write of a bundle beside what is measured, as sections of Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dermseg.errors import InputError

_LINE_END = re.compile(r"\r\n?|\n")
_HEADING = re.compile(r" {0,3}(#{1,2})(?:[ \t]+(.*))?")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")


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
