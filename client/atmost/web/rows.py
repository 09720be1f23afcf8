"""A limit, its holders and its line as the page and the API tell them. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping

from msgspec import Struct

from atmost import wire
from atmost.asked import Limit
from atmost.rates import rate_text
from atmost.watching import Event


class Row(Struct, frozen=True):
    """A limit: the record of semantics.md, and what a list shows besides.

    state: active, inactive, or implicit (made by its first use and not enforced). decay: in words. rate:
    as an input, `100/min`; both empty for none. oldest_wait_at: unix seconds since when the first waits;
    null: nobody, or not known. at: when this was so. version: for If-Match.
    """

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    active_slots: int
    held: int
    spent: float
    waiting: int
    implicit: bool
    origin: str
    declared: str
    state: str
    decay: str
    rate: str
    oldest_wait_at: float | None
    at: float
    version: str


class RowWithSpark(Row, frozen=True):
    """The same in a list. spark: the most slots in use in each 20 s of the last 10 minutes; null for
    what was not watched; null as a whole if no history is kept of this limit."""

    spark: list[float | None] | None


class Holder(Struct, frozen=True):
    """Who holds slots of a limit. since: unix seconds."""

    token: int
    number: int
    slots: int
    pid: int
    user: str
    command: str
    since: float


class Lacked(Struct, frozen=True):
    """Another limit that a waiting request lacks."""

    limit: str
    slots: int


class Waiter(Struct, frozen=True):
    """Who waits. starts_at: when it may start; exact: only decay decides that."""

    place: int
    number: int
    slots: int
    pid: int
    user: str
    command: str
    since: float
    lacks: list[Lacked]
    starts_at: float | None
    exact: bool
    gives_up_at: float | None


class Snippets(Struct, frozen=True):
    """Code that uses the limit."""

    sync: str
    asyncio: str
    command: str

    @classmethod
    def of(cls, limit: Limit) -> Snippets:
        name = repr(limit.name)
        if limit.slot_decay_per_second:
            what, line, flag = "rate_limit", f"rate_limit({name})", "--rate "
            sync, inside = line, f"await {line}"
        else:
            what, line, flag = "concurrency", f"concurrency({name})", ""
            sync, inside = f"with {line}:\n    ...", f"async with {line}:\n    ..."
        word = shlex.quote(limit.name)
        if word.startswith("-"):
            word, flag = f"--slots={word}=1", ""
        return cls(
            f"from atmost.sync import {what}\n\n{sync}\n",
            f"from atmost.asyncio import {what}\n\n{inside}\n",
            f"atmost run {flag}{word} -- COMMAND",
        )


def row_of(limit: Limit, now: float, read_at: float, oldest_wait_at: float | None) -> Row:
    """The limit as it is now, if it was read at `read_at` and nothing happened since."""
    spent = spent_at(limit, now - read_at)
    return Row(
        name=limit.name,
        limit=limit.limit,
        slot_decay_per_second=limit.slot_decay_per_second,
        active=limit.active,
        active_slots=limit.held + math.ceil(spent),
        held=limit.held,
        spent=round(spent, 6),
        waiting=limit.waiting,
        implicit=limit.implicit,
        origin=limit.origin,
        declared=limit.declared,
        state=state_of(limit),
        decay=decay_words(limit.slot_decay_per_second),
        rate=rate_text(limit.slot_decay_per_second).removeprefix("-"),
        oldest_wait_at=oldest_wait_at if limit.waiting else None,
        at=round(now, 3),
        version=version_of(limit),
    )


def spent_at(limit: Limit, seconds: float) -> float:
    """What is still spent so many seconds after the limit was read."""
    if not limit.spent:
        return 0.0
    return max(0.0, limit.spent - limit.slot_decay_per_second * max(0.0, seconds))


def state_of(limit: Limit) -> str:
    """active, inactive or implicit."""
    return "active" if limit.active else "implicit" if limit.implicit else "inactive"


def version_of(limit: Limit) -> str:
    """What changes with the settings: two limits of the same version are set the same."""
    decay = repr(limit.slot_decay_per_second).removesuffix(".0")
    return f"{limit.limit}-{decay}-{int(limit.active)}-{limit.origin}"


def decay_words(per_second: float) -> str:
    """`1 every 2 s`, `100 a minute`; empty for none."""
    if not per_second:
        return ""
    if per_second < 1:
        seconds = 1 / per_second
        for unit, size in (("s", 1), ("min", 60), ("h", 3600), ("days", 86400)):
            if seconds < 120 * size or unit == "days":
                if unit == "s" and _whole(per_second * 60) and not _whole(seconds):
                    return f"{round(per_second * 60)} a minute"
                return f"1 every {seconds / size:.3g} {unit}"
    for unit, size in (("second", 1), ("minute", 60)):
        if _whole(per_second * size):
            return f"{round(per_second * size)} a {unit}"
    return f"{per_second:.3g} a second"


def holders_of(tickets: Iterable[wire.TicketRecord], now: float) -> list[Holder]:
    """Those that hold, who held longest first."""
    found = [
        Holder(t.token, t.number, t.slots, t.pid, t.user, t.command, round(now - t.age_seconds, 3))
        for t in tickets
        if t.state == "held"
    ]
    return sorted(found, key=lambda holder: holder.since)


def line_of(
    name: str,
    tickets: Iterable[wire.TicketRecord],
    explained: Mapping[int, wire.Explanation],
    now: float,
) -> list[Waiter]:
    """Those that wait, in order."""
    found = []
    for ticket in tickets:
        if ticket.state == "held":
            continue
        why = explained.get(ticket.number)
        lacks = why.lacks if why else []
        here = next((lack for lack in lacks if lack.limit == name), None)
        starts = [lack.starts_in for lack in lacks]
        known = [start for start in starts if start is not None]
        all_known = bool(known) and len(known) == len(starts)
        gives_up = why.gives_up_in if why else None
        found.append(
            Waiter(
                place=ticket.place or (here.place if here else 0),
                number=ticket.number,
                slots=ticket.slots,
                pid=ticket.pid,
                user=ticket.user,
                command=ticket.command,
                since=round(now - ticket.age_seconds, 3),
                lacks=[Lacked(lack.limit, lack.slots) for lack in lacks if lack.limit != name],
                starts_at=round(now + max(known), 3) if all_known else None,
                exact=all_known and all(lack.exact for lack in lacks),
                gives_up_at=None if gives_up is None else round(now + gives_up, 3),
            )
        )
    return sorted(found, key=lambda waiter: waiter.place)


def told_of(events: Iterable[Event]) -> list[Event]:
    """The newest first."""
    return list(events)[::-1]


def _whole(number: float) -> bool:
    return round(number) >= 1 and abs(number - round(number)) <= 1e-9 * number
