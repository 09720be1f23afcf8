"""What is refused, as application/problem+json (RFC 9457): the error's own code, fields and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from atmost import errors
from atmost.errors import AtmostError

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[str, int] = {
    "invalid_value": 422,
    "slot_decay_required": 422,
    "limit_not_found": 404,
    "grant_not_found": 404,
    "limit_exists": 409,
    "limits_changed": 409,
    "permission_denied": 403,
    "too_many": 429,
    "state_not_saved": 503,
    "state_unavailable": 503,
    "daemon_unavailable": 503,
    "daemon_outdated": 503,
    "protocol_error": 502,
}


class ProblemDocument(msgspec.Struct, frozen=True):
    """The document. detail: a sentence for people; code, fields: for a program."""

    title: str
    status: int
    code: str
    detail: str
    fields: dict[str, Any] = {}
    type: str = "about:blank"


class Problem(Exception):
    """A refusal of this process, not of the daemon."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.fields = fields


class TooManyStreams(Problem):
    """All streams are in use."""

    def __init__(self, at_most: int) -> None:
        super().__init__(
            503,
            "too_many_streams",
            f"this web process serves at most {at_most} open pages, and all are in use: close some, and "
            "try again",
            {"Retry-After": "5"},
            at_most=at_most,
        )


def too_many_requests(what: str, wait_seconds: float) -> Problem:
    """A bound on how often."""
    seconds = max(1, math.ceil(wait_seconds))
    return Problem(
        429,
        "too_many",
        f"too many {what} at once for this web process: try again in {seconds} s",
        {"Retry-After": str(seconds)},
    )


def changed_meanwhile(name: str, now: Any) -> Problem:
    """If-Match, but the limit is not as it was. `now`: the row as it is; None: it is deleted."""
    what = "deleted" if now is None else "changed"
    return Problem(
        412,
        "changed_meanwhile",
        f"nothing was done: somebody else has {what} limit {name!r} meanwhile; look at what it is now, "
        "and try again",
        now=now,
    )


def body_of(error: Problem | AtmostError) -> ProblemDocument:
    """The document for this error."""
    if isinstance(error, Problem):
        status, code, detail, fields = error.status, error.code, error.detail, error.fields
    else:
        status, code = _STATUS.get(error.code, 500), error.code
        detail, fields = str(error), error.fields
    return ProblemDocument(_title(status), status, code, detail, fields)


def response_of(error: Problem | AtmostError) -> Response:
    """The answer."""
    body = body_of(error)
    headers = error.headers if isinstance(error, Problem) else {}
    if isinstance(error, errors.DaemonUnavailable):
        headers = {"Retry-After": "1"}
    return Response(msgspec.json.encode(body), body.status, headers=headers, media_type=MEDIA_TYPE)


def _title(status: int) -> str:
    return HTTPStatus(status).phrase
