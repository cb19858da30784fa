"""Words for people: nouns beside numbers, names as they are read, and columns of them."""

from __future__ import annotations

from collections.abc import Sequence


def noun(number: int, one: str, many: str = "") -> str:
    """The noun that goes with a number: image for 1, else images, or ``many`` where an s does not do."""
    return one if number == 1 else many or f"{one}s"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 error, 2,000 errors."""
    return f"{number:,} {noun(number, one, many)}"


def plain(name: object) -> str:
    """A name as it is read, without underlines."""
    return str(name).replace("_", " ")


def utf8(text: str) -> bytes:
    """A text as UTF-8, with an escape for each byte of a file's name that is no text."""
    return text.encode("utf-8", "backslashreplace")


def capital(text: str) -> str:
    """A text with a capital as its first letter."""
    return text[:1].upper() + text[1:]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, two spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
