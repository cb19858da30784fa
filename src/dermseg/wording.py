"""Words for people: nouns beside numbers, and names as they are read."""

from __future__ import annotations


def noun(number: int, one: str, many: str = "") -> str:
    """The noun that goes with a number: image for 1, else images, or ``many`` where an s does not do."""
    return one if number == 1 else many or f"{one}s"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: 1 error, 2,000 errors."""
    return f"{number:,} {noun(number, one, many)}"


def plain(name: object) -> str:
    """A name as it is read, without underlines."""
    return str(name).replace("_", " ")


def capital(text: str) -> str:
    """A text with a capital as its first letter."""
    return text[:1].upper() + text[1:]
