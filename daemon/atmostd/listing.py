"""What a reader sees: limits and tickets as records, a page at a time.

Rule: a page is made in one step from what is true now, and fits one frame.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import starmap
from operator import attrgetter, itemgetter
from typing import TypeVar

from msgspec.structs import astuple

from atmost.wire import (
    FRAME_BYTES_MAX,
    Change,
    Declaration,
    LimitRecord,
    Message,
    TemplateRecord,
    TicketRecord,
    encoded_bytes,
)
from atmostd import config
from atmostd.actor import Actor
from atmostd.clock import NANOSECONDS
from atmostd.declared import FILE, HAND, Declared, Word, template_told
from atmostd.limit import Limit
from atmostd.registry import Registry, request_of
from atmostd.snapshot import SavedDeclaration, SavedTemplate
from atmostd.ticket import Ticket

PAGE_BYTES_MAX = FRAME_BYTES_MAX - 1024  # what is around the records of a page takes less

_by_number = attrgetter("number")

Record = TypeVar("Record", bound=Message)


def limit_record(actor: Actor, word: Word, now: int) -> LimitRecord:
    """The limit as it is now. `word`: what the configuration file says."""
    limit = actor.limit
    declared = declared_of(actor)
    active_slots = limit.active_slots(now)
    return LimitRecord(
        name=limit.name,
        limit=limit.limit,
        slot_decay_per_second=limit.slot_decay_per_second,
        active=limit.active,
        active_slots=active_slots,
        held=limit.held,
        spent=limit.level.slots(),
        waiting=len(limit.line),
        implicit=actor.implicit,
        origin=word.origin(limit.name, declared),
        declared=word.drift(limit.name, declared),
    )


def declared_of(actor: Actor) -> Declared:
    """Its settings."""
    limit = actor.limit
    return Declared(limit.limit, limit.slot_decay_per_second, limit.active, actor.origin)


def page_of_templates(registry: Registry, after: int) -> tuple[list[TemplateRecord], bool]:
    """The templates behind the first `after`, in their order, and whether there are more of them."""
    said = {row.match: row for row in registry.word.templates}

    def record(row: SavedTemplate) -> TemplateRecord:
        says = said.get(row.match)
        return TemplateRecord(
            *(row.match, row.limit, row.slot_decay_per_second),
            origin=HAND if says is None else FILE,
            declared="" if says in (None, row) else template_told(says),
        )

    return page_of(map(record, registry.templates.rows[max(0, after) :]))


def page_of_deleted(registry: Registry, after: int) -> tuple[list[Change], bool]:
    """What the configuration file has and nobody else: behind the first `after`, and whether there is
    more."""
    word, limits = registry.word, registry.actors
    in_force = {row.match for row in registry.templates.rows}
    rows = [("limit", said) for name, said in word.limits.items() if name not in limits]
    templates = [("template", row) for row in word.templates if row.match not in in_force]

    def change(kind: str, said: SavedDeclaration | SavedTemplate) -> Change:
        becomes = Declaration(*astuple(said))
        return Change(kind, becomes.name, None, becomes)

    # A slice, for a client may ask for what is behind more of them than anything can be.
    return page_of(starmap(change, [*rows, *templates][max(0, after) :]))


def page_of_changes(changes: list[Change], after: int) -> tuple[list[Change], bool]:
    """The changes behind the first `after`, and whether there are more of them."""
    return page_of(changes[at] for at in range(max(0, after), len(changes)))


def page_of_limits(registry: Registry, after: str, now: int) -> tuple[list[LimitRecord], bool]:
    """The limits whose names come after `after`, and whether there are more of them."""
    names = sorted(registry.actors)
    start = bisect_right(names, after) if after else 0
    return page_of(
        limit_record(registry.actors[name], registry.word, now) for name in names[start:]
    )


def page_of_tickets(
    registry: Registry, name: str | None, after_limit: str, after_number: int, now: int
) -> tuple[list[TicketRecord], bool]:
    """Who holds and who waits, behind ticket `after_number` of `after_limit`, and whether there is more."""
    names = sorted(registry.actors) if name is None else [name]

    def records() -> Iterator[TicketRecord]:
        for at in names:
            if at >= after_limit:
                behind = after_number if at == after_limit else 0
                yield from _ticket_records(registry.actors[at].limit, behind, now)

    return page_of(records())


def holders_told(tickets: Iterable[Limit], now: int) -> list[dict[str, object]]:
    """Some of the holders of these limits, as a time-out tells them."""
    told: list[dict[str, object]] = []
    for limit in tickets:
        for ticket in limit.holders.values():
            if len(told) == config.HOLDERS_TOLD_MAX:
                return told
            record = ticket_record(limit, ticket, None, now)
            told.append(
                {
                    "limit": record.limit,
                    "slots": record.slots,
                    "pid": record.pid,
                    "user": record.user,
                    "command": record.command,
                    "age_seconds": record.age_seconds,
                }
            )
    return told


def _ticket_records(limit: Limit, after_number: int, now: int) -> Iterator[TicketRecord]:
    """Lazily: a page takes a few hundred, and there may be 100,000 of them."""
    holders = sorted(number for number in limit.holders if number > after_number)
    line = list(limit.line)
    start = bisect_right(line, after_number, key=_by_number)
    held = ((number, limit.holders[number], None) for number in holders)
    waiting = ((line[at].number, line[at], at + 1) for at in range(start, len(line)))
    both: list[Iterator[tuple[int, Ticket, int | None]]] = [held, waiting]
    for _, ticket, place in heapq.merge(*both, key=itemgetter(0)):
        yield ticket_record(limit, ticket, place, now)


def ticket_record(limit: Limit, ticket: Ticket, place: int | None, now: int) -> TicketRecord:
    """The ticket as it is at this limit; without a place it holds there."""
    request = request_of(ticket)
    asker = request.asker
    part = next(part for part in ticket.parts if part.limit is limit)
    holds = place is None
    since = ticket.granted_at if holds else ticket.asked_at
    return TicketRecord(
        limit=limit.name,
        state="held" if holds else "waiting",
        slots=part.hold if holds else part.slots,
        pid=asker.pid,
        user=asker.user,
        command=asker.command,
        age_seconds=max(0, now - since) / NANOSECONDS,
        place=place,
        number=ticket.number,
        token=request.token if holds else 0,
    )


def page_of(
    records: Iterable[Record], bytes_max: int = PAGE_BYTES_MAX
) -> tuple[list[Record], bool]:
    """As many records as fit a frame, and whether there are more."""
    page: list[Record] = []
    left = bytes_max
    for record in records:
        left -= encoded_bytes(record)
        if left < 0:
            return page, True
        page.append(record)
    return page, False
