"""The errors a user can meet; each message says what was given, what was expected and what to do.

DermsegError
├── InputError                a path or argument that cannot be used
├── ImageError                an image that cannot be used
│   ├── UnsupportedImageError     not a still JPEG, PNG, BMP, TIFF or WebP picture
│   ├── BrokenImageError          empty, truncated or corrupt
│   └── ImageTooLargeError        more megapixels than allowed
├── DataError                 a data set that cannot be read as one
│   ├── PredictionSizeError       a mask to be scored that has not its image's size
│   └── PredictionValuesError     a mask to be scored that has other values than 0 and 255
├── RecipeError               a recipe or one of its settings
├── BundleError               a bundle that is missing, incomplete or of another format
│   └── BundleIntegrityError      a file that differs from its recorded hash
├── ServiceError              a running service that cannot be reached, refuses, or answers in another form
└── MissingExtraError         a part of dermseg that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

SHOWN = 10
"""Of a list of files or images in a message."""


class DermsegError(Exception):
    """Base of every error dermseg raises on purpose."""


class InputError(DermsegError):
    """A path or argument that cannot be used."""


class ImageError(DermsegError):
    """An image that cannot be used."""


class UnsupportedImageError(ImageError):
    """Not a still picture in one of the formats dermseg opens."""


class BrokenImageError(ImageError):
    """An empty, truncated or corrupt image."""


class ImageTooLargeError(ImageError):
    """An image with more megapixels than allowed."""


class DataError(DermsegError):
    """A data set that cannot be read as one."""


class PredictionSizeError(DataError):
    """A mask to be scored that has not the size of its image."""


class PredictionValuesError(DataError):
    """A mask to be scored that has other values than 0 and 255."""


class RecipeError(DermsegError):
    """A recipe, or one of its settings, that cannot be used."""


class BundleError(DermsegError):
    """A bundle that is missing, incomplete or of another format."""


class BundleIntegrityError(BundleError):
    """A bundle whose file differs from its recorded hash."""


class ServiceError(DermsegError):
    """A running service that cannot be reached, refuses, or answers in another form than dermseg's."""


class MissingExtraError(DermsegError):
    """A part of dermseg that is not installed.

    Args:
        purpose: What the user wanted, as the beginning of a sentence ("training").
        extra: The extra of the package that brings it.
    """

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the extra {extra!r}: pip install 'dermseg[{extra}]'")


@contextmanager
def extra(purpose: str, name: str) -> Iterator[None]:
    """Turn the failure of an import into the error that names the extra; ``purpose`` begins a sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(purpose, name) from error


def choose_from(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: the closest one, and all there are."""
    names = list(known)
    closest = difflib.get_close_matches(given, names, n=1, cutoff=0)
    return f"did you mean {closest[0]!r}? Choose from: {', '.join(names)}" if closest else "there is none to choose"


def printable(name: object) -> str:
    """A name, of a path say, as it can be shown everywhere: not every one that a file may have is text."""
    text = str(name)
    return text if text and text.isprintable() else ascii(text)


def few(names: Sequence[str]) -> str:
    """A list for a message: the first ``SHOWN`` of ``names``, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
