"""Why a request waits: what it lacks, who has that, and when it may go.

Rule 1: it only looks. What is said is true at this instant, and nothing is remembered for it.
Rule 2: a time is exact only if nothing but decay decides it; else it is an estimate from how long
recent holders kept their slots, and it is none if nobody has released yet.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import NamedTuple

from atmost.wire import Explanation, Lack, LimitRecord, TicketRecord, encoded_bytes
from atmostd import config, listing
from atmostd.clock import NANOSECONDS
from atmostd.limit import Limit
from atmostd.registry import Registry, request_of
from atmostd.ticket import Part, Ticket

LACKS_MAX = 4  # limits told of one request; so many fit a frame however long their names are


class Explained(NamedTuple):
    """What `Explanations` says."""

    waiting: list[Explanation]
    total: int
    held: list[TicketRecord]
    limits: list[LimitRecord]
    held_total: int


class _Turn(NamedTuple):
    """When a ticket goes, as far as one limit is concerned."""

    place: int
    ahead_slots: int
    starts_in: float | None  # seconds
    exact: bool


def at_limit(registry: Registry, name: str, now: int) -> Explained:
    """Why requests wait at this limit, which exists."""
    actor = registry.actors[name]
    limit = actor.limit
    waiting = list(limit.line)
    record = listing.limit_record(actor, registry.word, now)
    return _explained(waiting, _longest(limit, now), len(limit.holders), [record], now)


def of_process(registry: Registry, pid: int, now: int) -> Explained:
    """Why the requests of this process wait, and what it holds."""
    waiting: dict[int, Ticket] = {}
    held: list[TicketRecord] = []
    held_total = 0
    for actor in registry.actors.values():
        limit = actor.limit
        for ticket in limit.line:
            if request_of(ticket).asker.pid == pid:
                waiting[ticket.number] = ticket
        for ticket in limit.holders.values():
            if request_of(ticket).asker.pid != pid:
                continue
            held_total += 1
            if len(held) < config.EXPLAINED_HOLDERS_MAX:
                held.append(listing.ticket_record(limit, ticket, None, now))
    return _explained([waiting[number] for number in sorted(waiting)], held, held_total, [], now)


def _explained(
    waiting: list[Ticket],
    held: list[TicketRecord],
    held_total: int,
    limits: list[LimitRecord],
    now: int,
) -> Explained:
    told = waiting[: config.EXPLAINED_MAX]
    wanted: dict[Limit, set[int]] = {}
    for ticket in told:
        for part in ticket.parts:
            wanted.setdefault(part.limit, set()).add(ticket.number)
    turns = {limit: _turns(limit, numbers, now) for limit, numbers in wanted.items()}
    left = listing.PAGE_BYTES_MAX - sum(map(encoded_bytes, (*held, *limits)))
    page, _ = listing.page_of((_explanation(ticket, turns, now) for ticket in told), left)
    return Explained(page, len(waiting), held, limits, held_total)


def _explanation(ticket: Ticket, turns: dict[Limit, dict[int, _Turn]], now: int) -> Explanation:
    asker = request_of(ticket).asker
    lacked = [part for part in ticket.parts if not part.limit.has_room(part.slots, now)]
    if not lacked:  # it would fit everywhere, but earlier ones go first
        behind = [p for p in ticket.parts if turns[p.limit][ticket.number].place > 1]
        lacked = behind or list(ticket.parts)
    deadline = ticket.deadline
    return Explanation(
        number=ticket.number,
        pid=asker.pid,
        user=asker.user,
        command=asker.command,
        waited_seconds=max(0, now - ticket.asked_at) / NANOSECONDS,
        gives_up_in=None if deadline is None else max(0, deadline - now) / NANOSECONDS,
        slots={part.limit.name: part.slots for part in ticket.parts},
        lacks=[
            _lack(part, turns[part.limit][ticket.number], asker.pid, now)
            for part in lacked[:LACKS_MAX]
        ],
        keeps=ticket.keeps,
        lacks_total=len(lacked),
    )


def _lack(part: Part, turn: _Turn, pid: int, now: int) -> Lack:
    limit = part.limit
    return Lack(
        limit=limit.name,
        slots=part.slots,
        place=turn.place,
        ahead_slots=turn.ahead_slots,
        fits=limit.has_room(part.slots, now),
        limit_slots=limit.limit,
        held=limit.held,
        spent=limit.level.slots(),
        slot_decay_per_second=limit.slot_decay_per_second,
        holders=len(limit.holders),
        longest=_longest(limit, now),
        own=sum(
            other.hold
            for ticket in limit.holders.values()
            if request_of(ticket).asker.pid == pid
            for other in ticket.parts
            if other.limit is limit
        ),
        starts_in=turn.starts_in,
        exact=turn.exact,
        mean_hold_seconds=limit.tally.mean_hold_seconds(),
    )


def _longest(limit: Limit, now: int) -> list[TicketRecord]:
    """Some of the holders, who held longest first."""
    holders = nsmallest(
        config.EXPLAINED_HOLDERS_MAX, limit.holders.values(), key=lambda ticket: ticket.granted_at
    )
    return [listing.ticket_record(limit, ticket, None, now) for ticket in holders]


def _turns(limit: Limit, wanted: set[int], now: int) -> dict[int, _Turn]:
    """When these tickets go, in one pass over the line."""
    level = limit.level
    level.settle(now)
    free = limit.limit - limit.held
    flow = _flow(limit)
    only_decay = not limit.held and limit.slot_decay_per_second > 0
    ahead = 0
    instant = now
    found: dict[int, _Turn] = {}
    for place, ticket in enumerate(limit.line, 1):
        part = limit.part_of(ticket)
        slots = part.slots
        if only_decay:
            instant = max(instant, level.instant_within(free - ahead - slots))
        if ticket.number in wanted:
            starts_in: float | None = None
            if only_decay:
                starts_in = (instant - now) / NANOSECONDS
            elif flow:
                starts_in = max(0.0, ahead + slots - free + level.slots()) / flow
            found[ticket.number] = _Turn(place, ahead, starts_in, only_decay)
            if len(found) == len(wanted):
                break
        ahead += slots
        if part.hold or len(ticket.parts) > 1 or ticket.deadline is not None:
            only_decay = False  # for those behind it
    return found


def _flow(limit: Limit) -> float:
    """Slots that come free in a second, on average; 0: not known."""
    mean = limit.tally.mean_hold_seconds()
    if not limit.held:
        return limit.slot_decay_per_second
    if not mean:
        return 0.0
    return limit.held / mean + (limit.slot_decay_per_second if limit.level.units else 0.0)
