"""What went wrong, as problem documents (RFC 9457): one status and one sentence for each kind of error.

A ``type`` of ``about:blank`` says that the status names the kind; the ``detail`` says what was given, what was expected
and what to do. A problem never shows the service's own paths, nor what a file held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from dermseg.errors import (
    SHOWN,
    BrokenImageError,
    DataError,
    ImageError,
    ImageTooLargeError,
    InputError,
    MissingExtraError,
    UnsupportedImageError,
)

MEDIA_TYPE = "application/problem+json"
_UNKNOWN = "there is no such parameter; /docs lists those there are"
_SHOWN_NAME = 100  # characters of a name that the client chose

_STATUS: dict[type[Exception], int] = {
    InputError: 422,
    ImageError: 422,
    UnsupportedImageError: 415,
    BrokenImageError: 422,
    ImageTooLargeError: 413,
    DataError: 422,
    MissingExtraError: 501,
}
"""Of errors whose message is the detail. A bundle that breaks while it is served is none of them: no request chose its
files, and its message names them. It is a fault of the service, 500, for the log."""

_ELSEWHERE = {
    "<bytes>": "the file",
    " or raise max_megapixels": "",
    "give a point (x, y) of the image to explain instead": "there is nothing to explain",
}
"""What errors say to those who call Python, and what is said to clients instead."""

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # older Pythons have older names for these

_DETAILS = {
    400: "the request could not be read; send it as /docs describes",
    404: "nothing is served at this path; /docs lists what is",
    405: "this path does not answer the request's method; the header Allow lists those it answers",
}
"""For errors of the router, which say no more than their status."""


class ProblemError(Exception):
    """An answer that is a problem document.

    Args:
        status: Of HTTP, 400 to 599.
        detail: One sentence for the client's user.
        headers: Of the answer.
        members: More members of the document, as JSON.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def document(self, request_id: str | None) -> dict[str, object]:
        """The document as JSON; ``instance`` names the request where it has an id."""
        return {
            "type": "about:blank",
            "title": _TITLES.get(self.status) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **({"instance": f"/requests/{request_id}"} if request_id else {}),
            **self.members,
        }


class BusyError(ProblemError):
    """The service has no room for the request at this moment.

    Args:
        detail: One sentence for the client's user.
        retry_after: Seconds after which the client may try again.
    """

    def __init__(self, detail: str, retry_after: int = 2) -> None:
        super().__init__(503, detail, headers={"Retry-After": str(retry_after)})


def problem_of(error: Exception) -> ProblemError:
    """The problem that an error is to the client; 500, without a word of its cause, where it is the service's fault."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        detail = error.detail
        if detail == HTTPStatus(error.status_code).phrase:
            detail = _DETAILS.get(error.status_code, detail)
        return ProblemError(error.status_code, detail, headers=error.headers)
    if isinstance(error, TimeoutError):
        return ProblemError(
            504, "the answer was not ready in time; try again later, with a smaller image or with fewer samples"
        )
    if isinstance(error, ClientDisconnect):
        return ProblemError(400, "the connection was closed before the request was complete; send it again")
    for kind in type(error).__mro__:
        if status := _STATUS.get(kind):
            sentence = str(error)
            for said, instead in _ELSEWHERE.items():
                sentence = sentence.replace(said, instead)
            return ProblemError(status, sentence)
    return ProblemError(
        500, "the service failed, which is no fault of the request; its log has the cause, under the id of the request"
    )


def problem_response(error: Exception, request_id: str | None) -> Response:
    """The answer that tells the client of an error."""
    problem = problem_of(error)
    return JSONResponse(
        problem.document(request_id), status_code=problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )


def request_id(scope: Scope) -> str | None:
    """The id ``limits.RequestId`` gave to a request."""
    found: str | None = scope.get("state", {}).get("request_id")
    return found


def install(app: FastAPI) -> None:
    """Answer every error of ``app``'s routes with a problem; what has no handler here is also raised, for the log."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_response(error, request_id(request.scope))

    kinds: Iterable[type[Exception]] = (
        ProblemError,
        RequestValidationError,
        HTTPException,
        TimeoutError,
        ClientDisconnect,
        *_STATUS,
        Exception,
    )
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def _invalid(error: RequestValidationError) -> ProblemError:
    """What is wrong with the parameters, without the values given."""
    found: list[dict[str, Any]] = list(error.errors())
    errors = [
        {
            "location": ".".join(str(step)[:_SHOWN_NAME] for step in each["loc"]),
            "message": _UNKNOWN if each["type"] == "extra_forbidden" else str(each["msg"]),
        }
        for each in found[:SHOWN]
    ]
    sentences = [f"{each['location']}: {each['message']}" for each in errors]
    if len(found) > SHOWN:
        sentences.append(f"and {len(found) - SHOWN} more")
    return ProblemError(422, "; ".join(sentences), members={"errors": errors})
