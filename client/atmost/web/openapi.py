"""What can be asked here, as an OpenAPI 3.1 document. Answers are described by the very records that are
sent; requests by the rules of semantics.md."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from msgspec import Struct

from atmost import paths
from atmost.rates import SECONDS as UNITS
from atmost.values import COUNT_MAX, NAME_CHARS_MAX
from atmost.web import bounds
from atmost.web.details import Detail
from atmost.web.history import SPANS
from atmost.web.listing import FILTERS, OFFSET_MAX, ORDERS, SORTS, Page
from atmost.web.preview import Preview
from atmost.web.problems import MEDIA_TYPE, ProblemDocument
from atmost.web.records import Events, Holders, Line, Overview, PastOf, Session
from atmost.web.rows import Row

Json = dict[str, Any]
_REF = "#/components/schemas/{name}"
_RECORDS = (
    *(Row, Page, Detail, Holders, Line, Events, PastOf, Preview),
    *(Overview, Session, ProblemDocument),
)

NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": NAME_CHARS_MAX,
    "pattern": r"^[^/%&><\u0000-\u001f\u007f-\u009f]+$",
}
_SETTINGS: Json = {
    "limit": {
        "type": "integer",
        "minimum": 0,
        "maximum": COUNT_MAX,
        "description": "slots that can be occupied at the same time",
    },
    "slot_decay_per_second": {
        "type": "number",
        "minimum": 0,
        "description": "slots spent by rate_limit that come back each second; 0: none",
    },
    "rate": {
        "type": ["string", "null"],
        "pattern": rf"^([0-9]{{1,15}}(\.[0-9]{{0,15}})?/({'|'.join(UNITS)}))?$",
        "description": "the same, said as 100/min; not both. Empty or null: none",
    },
    "active": {"type": "boolean", "description": "whether it is enforced"},
}
_NOT_BOTH: Json = {"not": {"required": ["rate", "slot_decay_per_second"]}}


class Asked(Struct, frozen=True):
    """One operation."""

    about: str
    answer: type[Struct] | None = None  # None: there is no body
    status: int = 200
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    body_needed: bool = True
    media: str = "application/json"  # of an answer that is not a record


def _object(properties: Json, *needed: str, **more: Any) -> Json:
    found = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return {**found, "required": list(needed)} if needed else found


def _query(name: str, schema: Json, about: str, needed: bool = False) -> Json:
    return {"name": name, "in": "query", "required": needed, "schema": schema, "description": about}


_IF_MATCH: Json = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the ETag of the limit as you have seen it: it is refused with 412 if it changed since",
}
_NAMED: Json = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": NAME,
    "description": "escaped as in any URL; `.` and `..` escaped twice: %252e",
}
_TOKEN: Json = {
    "name": "token",
    "in": "path",
    "required": True,
    "schema": {"type": "integer", "minimum": 1, "maximum": COUNT_MAX},
    "description": "of the grant",
}
_LISTED = (
    _query("q", {"type": "string", "maxLength": 200}, "a part of the name, in any case"),
    _query(
        "filter",
        {"type": "array", "items": {"enum": list(FILTERS)}, "maxItems": 5},
        "said several times: all must hold",
    ),
    _query("sort", {"enum": list(SORTS)}, "name, unless it is said"),
    _query("order", {"enum": list(ORDERS)}, "asc, unless it is said"),
    _query("offset", {"type": "integer", "minimum": 0, "maximum": OFFSET_MAX}, "so many before"),
    _query("count", {"type": "integer", "minimum": 1, "maximum": bounds.PAGE_ROWS_MAX}, "100"),
)
_NEW = _object({"name": NAME, **_SETTINGS}, "name", "limit", **_NOT_BOTH)
_EDIT = _object(_SETTINGS, **_NOT_BOTH)
_TRY = _object({**_SETTINGS, "delete": {"type": "boolean"}}, **_NOT_BOTH)
_SPAN = _query("span", {"enum": list(SPANS)}, "10m, unless it is said")
_STREAM = _query("limit", NAME, "tell the details of this limit, too")

OPERATIONS: dict[str, dict[str, Asked]] = {
    "/api/session": {"get": Asked("What a page asks first", Session)},
    "/api/overview": {"get": Asked("All at a glance", Overview)},
    "/api/events": {"get": Asked("What happened lately, the newest first", Events)},
    "/api/stream": {
        "get": Asked(
            "What happens, as it happens: Server-Sent Events named snapshot, changes, detail, events "
            "and daemon. What a reader was too slow for it never gets: it gets a snapshot instead",
            parameters=(_STREAM,),
            media="text/event-stream",
        )
    },
    "/api/openapi.json": {"get": Asked("This document", media="application/json")},
    "/metrics": {"get": Asked("What was counted, for Prometheus", media="text/plain")},
    "/api/limits": {
        "get": Asked("A page of the limits", Page, parameters=_LISTED),
        "post": Asked("Make a limit", Row, 201, body=_NEW),
    },
    "/api/preview": {"post": Asked("What such a limit would mean", Preview, body=_NEW)},
    "/api/limits/{name}": {
        "get": Asked("A limit, who holds, who waits, what happened lately", Detail),
        "patch": Asked("Change what is given", Row, parameters=(_IF_MATCH,), body=_EDIT),
        "delete": Asked("Delete it", None, 204, parameters=(_IF_MATCH,)),
    },
    "/api/limits/{name}/holders": {"get": Asked("Who holds", Holders)},
    "/api/limits/{name}/line": {"get": Asked("Who waits, in order", Line)},
    "/api/limits/{name}/events": {"get": Asked("What happened there lately", Events)},
    "/api/limits/{name}/history": {"get": Asked("What is drawn", PastOf, parameters=(_SPAN,))},
    "/api/limits/{name}/preview": {"post": Asked("What a change would do", Preview, body=_TRY)},
    "/api/limits/{name}/reset": {
        "post": Asked("Have nothing spent any more", Row, body=_object({}), body_needed=False)
    },
    "/api/grants/{token}": {"delete": Asked("Take a holder's slots back", None, 204)},
}


@functools.cache
def document() -> bytes:
    """The document, as JSON."""
    _, schemas = msgspec.json.schema_components(_RECORDS, ref_template=_REF)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "atmost",
                "version": paths.version(),
                "description": "Limits of this host: who holds, who waits, and how to change them. "
                "Times are unix seconds.",
            },
            "security": [{"bearer": []}],
            "paths": {
                path: {method: _operation(path, asked) for method, asked in methods.items()}
                for path, methods in OPERATIONS.items()
            },
            "components": {
                "schemas": schemas,
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _operation(path: str, asked: Asked) -> Json:
    parameters = list(asked.parameters)
    if "{name}" in path:
        parameters.insert(0, _NAMED)
    if "{token}" in path:
        parameters.insert(0, _TOKEN)
    found: Json = {
        "summary": asked.about,
        "parameters": parameters,
        "responses": {
            str(asked.status): _answer(asked),
            "default": {
                "description": "It is refused; nothing was changed",
                "content": {MEDIA_TYPE: {"schema": _ref(ProblemDocument)}},
            },
        },
    }
    if asked.body is not None:
        found["requestBody"] = {
            "required": asked.body_needed,
            "content": {"application/json": {"schema": asked.body}},
        }
    return found


def _answer(asked: Asked) -> Json:
    found: Json = {"description": asked.about}
    if asked.status == 204:
        return found
    schema = {} if asked.answer is None else _ref(asked.answer)
    found["content"] = {asked.media: {"schema": schema}}
    if asked.answer in (Row, Detail):
        found["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return found


def _ref(record: type[Struct]) -> Json:
    return {"$ref": _REF.format(name=record.__name__)}
