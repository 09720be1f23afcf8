"""What a request asks for: names in a path, a body, If-Match. Checked by the rules of semantics.md, with
the same words as everywhere."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from atmost.errors import InvalidValue
from atmost.rates import RATE_WORDS, slots_per_second
from atmost.values import COUNT_MAX, check_active, check_decay, check_limit, check_name, invalid
from atmost.web import bounds
from atmost.web.preview import Wanted
from atmost.web.problems import Problem
from atmost.web.rows import Row
from atmost.web.security import too_large

SETTINGS = ("limit", "slot_decay_per_second", "rate", "active")


class NewLimit(Struct, frozen=True):
    """A limit to be made."""

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool


def name_in(request: Request) -> str:
    """The name in the path. `.` and `..` can't stand in one, so they come escaped twice: no name has a
    %, so that cannot be mistaken. Raises InvalidValue."""
    return check_name(unquote(request.path_params["name"]))


def token_in(request: Request) -> int:
    """The number of a grant. Raises InvalidValue."""
    text = request.path_params["token"]
    if text.isascii() and text.isdigit() and 0 < int(text[:20]) <= COUNT_MAX:
        return int(text)
    raise invalid("token", text, "the token of a grant, a whole number from 1")


async def object_in(
    request: Request, known: tuple[str, ...], empty: bool = False
) -> dict[str, Any]:
    """The body, a JSON object with none but these fields. Raises Problem, InvalidValue."""
    data = await _body(request)
    if not data and empty:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(
            415,
            "unsupported_media_type",
            f"a body is JSON here, and says so: Content-Type: application/json, not {kind[:80]!r}",
        )
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(400, "bad_json", "the body has to be a JSON object: {...}")
    for field in found:
        if field not in known:
            raise invalid(field[:80], found[field], f"no such field; there are {', '.join(known)}")
    return found


def new_limit(given: dict[str, Any]) -> NewLimit:
    """The settings of a limit to be made. Raises InvalidValue."""
    for field in ("name", "limit"):
        if field not in given:
            raise InvalidValue(field, "nothing", "a value; it is needed")
    wanted = settings(given)
    assert wanted.limit is not None
    decay = wanted.slot_decay_per_second
    active = True if wanted.active is None else wanted.active
    return NewLimit(check_name(given["name"]), wanted.limit, decay or 0.0, active)


def settings(given: dict[str, Any]) -> Wanted:
    """The settings that are given. Raises InvalidValue."""
    if "rate" in given and "slot_decay_per_second" in given:
        raise invalid(
            "rate", given["rate"], "no rate beside slot_decay_per_second: they are the same"
        )
    limit = check_limit(_whole(given["limit"])) if "limit" in given else None
    active = check_active(given["active"]) if "active" in given else None
    decay = None
    if "slot_decay_per_second" in given:
        decay = check_decay(given["slot_decay_per_second"])
    elif "rate" in given:
        decay = _rate(given["rate"])
    return Wanted(limit, decay, active)


def _rate(given: Any) -> float:
    if given in (None, ""):
        return 0.0
    slots = slots_per_second(given.strip()) if isinstance(given, str) else None
    if slots is None:
        raise invalid("rate", given, f"{RATE_WORDS}; or nothing for none")
    try:
        return check_decay(slots)
    except InvalidValue:
        raise invalid("rate", given, RATE_WORDS) from None


def _whole(given: Any) -> Any:
    """JSON does not tell 5 from 5.0."""
    is_whole = isinstance(given, float) and given.is_integer() and abs(given) <= COUNT_MAX
    return int(given) if is_whole else given


def check_version(request: Request, row: Row) -> bool:
    """Whether If-Match, if it is said, says this version."""
    given = request.headers.get("if-match")
    if given is None:
        return True
    tags = [tag.strip() for tag in given.split(",")]
    return "*" in tags or f'"{row.version}"' in tags


def told(data: Any, status: int = 200, row: Row | None = None) -> Response:
    """The answer, in JSON, with the version of the row if it tells one."""
    headers = {} if row is None else {"ETag": f'"{row.version}"'}
    return Response(
        msgspec.json.encode(data), status, headers=headers, media_type="application/json"
    )


async def _body(request: Request) -> bytes:
    """Raises Problem if it is too long or does not come."""
    data = bytearray()
    try:
        async with asyncio.timeout(bounds.BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > bounds.BODY_BYTES_MAX:
                    raise too_large()
    except TimeoutError:
        raise Problem(
            408, "too_slow", f"the body did not come within {bounds.BODY_SECONDS:g} s"
        ) from None
    return bytes(data)
