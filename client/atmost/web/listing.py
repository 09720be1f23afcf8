"""A page of the list of limits: found by name, filtered, sorted, cut. Pure.

Rule: 10,000 limits stay quick. What is looked at for all of them are the records; only those of the page
are made into rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from atmost.asked import Limit
from atmost.web import bounds
from atmost.web.known import Known
from atmost.web.problems import Problem
from atmost.web.rows import RowWithSpark

FILTERS: dict[str, Callable[[Limit], bool]] = {
    "waiting": lambda limit: limit.waiting > 0,
    "inactive": lambda limit: not limit.active,
    "implicit": lambda limit: limit.implicit,
    "file": lambda limit: limit.origin == "file" or bool(limit.declared),
    "drifted": lambda limit: bool(limit.declared),
}
SORTS = ("name", "limit", "used", "waiting", "oldest", "rate")
ORDERS = ("asc", "desc")
OFFSET_MAX = 10_000_000


class Query(Struct, frozen=True):
    """What is asked for."""

    q: str = ""
    filters: tuple[str, ...] = ()
    sort: str = "name"
    order: str = "asc"
    offset: int = 0
    count: int = 100


class Page(Struct, frozen=True):
    """total: all limits; matching: those found; counts: how many there are for each filter, among all.
    stale: the daemon is gone, and this is what was."""

    limits: list[RowWithSpark]
    total: int
    matching: int
    offset: int
    counts: dict[str, int]
    sequence: int
    stale: bool


def query_of(given: list[tuple[str, str]]) -> Query:
    """The parameters of the URL. Raises Problem."""
    found: dict[str, Any] = {"filters": ()}
    for key, value in given:
        if key == "q":
            found["q"] = value[:200]
        elif key == "filter":
            found["filters"] = (*found["filters"], one_of(key, value, tuple(FILTERS)))
        elif key == "sort":
            found[key] = one_of(key, value, SORTS)
        elif key == "order":
            found[key] = one_of(key, value, ORDERS)
        elif key == "offset":
            found[key] = whole(key, value, 0, OFFSET_MAX)
        elif key == "count":
            found[key] = whole(key, value, 1, bounds.PAGE_ROWS_MAX)
    return Query(**found)


def one_of(field: str, value: str, words: tuple[str, ...]) -> str:
    """Raises Problem."""
    if value in words:
        return value
    raise bad_request(field, value, f"one of {', '.join(words)}")


def whole(field: str, value: str, least: int, most: int) -> int:
    """Raises Problem."""
    if value.isascii() and value.isdigit() and least <= int(value[:20]) <= most:
        return int(value)
    raise bad_request(field, value, f"a whole number from {least} to {most}")


def bad_request(field: str, value: str, expected: str) -> Problem:
    """A parameter that is wrong."""
    return Problem(
        400,
        "bad_request",
        f"{field}={value[:80]!r} is not valid: expected {expected}",
        field=field,
        value=value[:80],
        expected=expected,
    )


def page_of(known: Known, query: Query, now: float, sequence: int, stale: bool) -> Page:
    """The page that is asked for."""
    everything = known.limits.values()
    found = _found(list(everything), query)
    found.sort(key=lambda limit: limit.name)
    if query.sort != "name":
        found.sort(key=_key(known, query.sort), reverse=query.order == "desc")
    elif query.order == "desc":
        found.reverse()
    rows = []
    for limit in found[query.offset : query.offset + query.count]:
        row = known.row(limit.name, now)
        assert row is not None
        rows.append(RowWithSpark(**asdict(row), spark=known.history.spark(limit.name, now)))
    counts = {name: sum(map(test, everything)) for name, test in FILTERS.items()}
    return Page(rows, len(everything), len(found), query.offset, counts, sequence, stale)


def _found(limits: list[Limit], query: Query) -> list[Limit]:
    if query.q:
        q = query.q.casefold()
        limits = [limit for limit in limits if q in limit.name.casefold()]
    for name in query.filters:
        limits = list(filter(FILTERS[name], limits))
    return limits


def _key(known: Known, sort: str) -> Callable[[Limit], float]:
    """The quietest first; with `desc` the busiest."""
    if sort == "limit":
        return lambda limit: limit.limit
    if sort == "used":
        return used
    if sort == "waiting":
        return lambda limit: limit.waiting
    if sort == "oldest":
        return lambda limit: -(known.lines.oldest(limit.name) or float("inf"))
    return lambda limit: limit.slot_decay_per_second


def used(limit: Limit) -> float:
    """The share of its slots that is in use."""
    return (limit.held + limit.spent) / limit.limit if limit.limit else 0.0


__all__ = ["FILTERS", "ORDERS", "SORTS", "Page", "Query", "page_of", "query_of", "used"]
