"""Multipart forms (RFC 7578), read into memory and never to disk: photographs of patients leave no copy behind."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from dermseg.serving.problems import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_LONGEST_NAME = 255
_MULTIPART = "multipart/form-data"
_MALFORMED = f"the body is not well-formed {_MULTIPART}; send the form again, whole"


@dataclass(frozen=True)
class Upload:
    """One file of a form.

    Attributes:
        name: What the client calls the file, without folders, printable and of at most 255 characters, to be shown and
            nothing else; None if it gave no name.
        content: The file's bytes.
    """

    name: str | None
    content: bytes = field(repr=False)  # not for logs, and 32 MiB of it take seconds to show


async def read_form(request: Request, *, files: Mapping[str, int]) -> dict[str, list[Upload]]:
    """Read a form of files alone.

    The form is read as it arrives and refused at its first fault. No byte is held twice, nor written anywhere.

    Args:
        request: Its body must not have been read.
        files: The form's fields, all of which must be there, and the most files in each.

    Returns:
        The files of each field, in the form's order. Where a field takes one file, it is not empty.

    Raises:
        ProblemError: The request holds no such form: 415 if it is no form at all, else 422.
        ClientDisconnect: The client went away.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type.decode("latin-1") != _MULTIPART:
        given = _printable(media_type.decode("latin-1")) or "without Content-Type"
        expected = f"{_MULTIPART} with {_fields(files)} is expected"
        raise ProblemError(415, f"the body is {given} where {expected}; send the file as a form")
    boundary = options.get(b"boundary")
    if not boundary:
        raise ProblemError(422, "the Content-Type names no boundary of the form's parts; let the client set the header")
    form = _Form(files)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
    except FormParserError as error:
        raise ProblemError(422, _MALFORMED) from error
    return form.result()


def form_schema(required: Mapping[str, str], many: Collection[str] = ()) -> dict[str, object]:
    """The OpenAPI description of a form, for a route's ``openapi_extra``.

    Args:
        required: The form's fields, each with a description.
        many: Those among them that take several files.
    """
    properties: dict[str, object] = {}
    for name, description in required.items():
        file = {"type": "string", "format": "binary"}  # Swagger UI lets one choose files for a list of nothing else
        properties[name] = (
            {"type": "array", "items": file, "minItems": 1, "description": description}
            if name in many
            else {**file, "description": description}
        )
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {_MULTIPART: {"schema": schema}}}}


class _Form:
    """A form while it is parsed."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self._most = files
        self._uploads: dict[str, list[Upload]] = {name: [] for name in files}
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._field = ""
        self._name: str | None = None
        self._content = BytesIO()
        self._complete = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._add_content,
            "on_part_end": self._close,
            "on_end": self._end,
        }

    def result(self) -> dict[str, list[Upload]]:
        if not self._complete:
            raise ProblemError(422, _MALFORMED)
        for name, uploads in self._uploads.items():
            if not uploads:
                raise ProblemError(422, f"the form has no field {name!r}; send {_fields(self._most)}")
            if self._most[name] == 1 and not uploads[0].content:  # of many, an empty one must not spoil the rest
                raise ProblemError(422, f"the file in field {name!r} is empty; choose a file and send it again")
        return self._uploads

    def _begin(self) -> None:
        self._disposition = b""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        """Judge a part by its headers, before any of its content is kept."""
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise ProblemError(422, "a part of the form has no name; send each file as a named field")
        self._field = options[b"name"].decode(errors="replace")
        most = self._most.get(self._field)
        if most is None:
            raise ProblemError(
                422, f"the form has an unknown field {_printable(self._field)!r}; send {_fields(self._most)}"
            )
        if b"filename" not in options:
            raise ProblemError(
                422, f"the field {self._field!r} is text where a file is expected; send it with a file name"
            )
        if len(self._uploads[self._field]) == most:
            raise ProblemError(
                422, f"the field {self._field!r} has more than {most} file{'s'[: most > 1]}; send fewer at a time"
            )
        name = re.split(r"[/\\]", options[b"filename"].decode(errors="replace"))[-1]
        self._name = _printable(name) or None
        self._content = BytesIO()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        self._content.write(memoryview(data)[start:end])

    def _close(self) -> None:
        # getvalue() hands over the buffer itself, without a copy.
        self._uploads[self._field].append(Upload(self._name, self._content.getvalue()))

    def _end(self) -> None:
        self._complete = True


def _printable(text: str) -> str:
    """Text from a client, fit to be shown."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:_LONGEST_NAME]
    )


def _fields(files: Mapping[str, int]) -> str:
    return " and ".join(f"{'files' if most > 1 else 'a file'} in field {name!r}" for name, most in files.items())
