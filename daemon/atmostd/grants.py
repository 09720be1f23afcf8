"""Who goes, and who leaves: a ticket in all of its limits. Rules as in limit.py.

Who goes first. Tickets are looked at in the order of their arrival. A ticket *lacks* a limit when the
slots it asks are not free there, or when an earlier ticket holds back that line. It goes when it lacks
nothing. If it lacks one limit alone it holds back that limit's line (nobody takes what it saves up
for), but no other of its lines; if it lacks several it holds back none. Once it has been passed
PASSES_MAX times in every line that it lacks, it holds back all of its lines until it goes.

One step lets a bounded number go, and refuses or times out as many. If that is not all, the lines that
are left *go on* with a Tick, which is asked for at once. Until then nobody goes there by another event,
and who is late there may still go; so nobody is overtaken, and others have their turn in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from atmostd.ticket import (
    ARRIVING,
    ENDED,
    HELD,
    WAITING,
    Effect,
    Granted,
    Part,
    Refused,
    Ticket,
    TimedOut,
    WakeAt,
)

if TYPE_CHECKING:
    from atmostd.limit import Limit

UNKNOWN_HOLDER = "the daemon's record of it was lost, and others have the slots now"
TICKETS_A_STEP_MAX = 250  # that go, are refused or time out: some 4 ms with all that follows

Refusal = tuple[str, dict[str, object]]  # an error's code and fields


def take(ticket: Ticket, now: int) -> None:
    """The one place that takes slots: all that the ticket asks, in all of its limits."""
    ticket.state = ENDED  # unless it holds something that it can let go of
    for part in ticket.parts:
        if part.spend:
            # A late timer counts from what was due, but not from before a level was last looked at:
            # what is recorded as the instant has to give the same level again.
            now = max(now, part.limit.level.settled_at)
    ticket.granted_at = now
    for part in ticket.parts:
        limit, hold, spend = part.limit, part.hold, part.spend
        limit.line.discard(ticket)
        if hold:
            ticket.state = HELD
        if not limit.active or limit.deleted:
            continue
        if hold:
            part.taken = True
            limit.holders[ticket.number] = ticket
            limit.held += hold
        if spend:
            limit.level.settle(now)
            limit.level.spend(spend)
        if limit.line.count:
            limit.note_passer(ticket)


def hold_again(ticket: Ticket, names: Collection[str], at: int) -> None:
    """The ticket was granted at `at`, and has slots on the books of these limits."""
    ticket.state = ENDED
    ticket.granted_at = at
    for part in ticket.parts:
        part.limit.line.discard(ticket)
        if part.hold:
            ticket.state = HELD
            if part.limit.name in names and not part.limit.deleted:
                part.taken = True
                part.limit.holders[ticket.number] = ticket
                part.limit.held += part.hold


def leave(ticket: Ticket) -> None:
    """The one place that gives slots back and leaves the lines."""
    ticket.state = ENDED
    for part in ticket.parts:
        limit = part.limit
        limit.line.discard(ticket)
        if part.taken:
            part.taken = False
            del limit.holders[ticket.number]
            limit.held -= part.hold


def readmit(ticket: Ticket, now: int) -> list[Effect]:
    """A holder that we know nothing of. Whether its slots were kept for it: they were, if they are
    free; nobody has been given them."""
    lacked = [
        part.limit.name
        for part in ticket.parts
        if not part.limit.deleted and not part.limit.has_room(part.slots, now)
    ]
    if lacked:
        ticket.state = ENDED
        return [Refused(ticket, "grant_lost", {"names": lacked, "reason": UNKNOWN_HOLDER})]
    take(ticket, now)
    return [Granted(ticket)]


def let_go(ticket: Ticket, now: int) -> list[Effect]:
    if ticket.state is ENDED:
        return []
    leave(ticket)
    lines = [part.limit for part in ticket.parts if part.limit.line.count]
    return grant_in_order(lines, now) if lines else []


def refuse(refused: list[tuple[Ticket, Refusal]], now: int) -> list[Effect]:
    effects: list[Effect] = []
    for ticket, (code, fields) in refused:
        leave(ticket)
        effects.append(Refused(ticket, code, fields))
    return effects + _go_on_without([ticket for ticket, _ in refused], now)


def time_out(late: list[Ticket], now: int) -> list[Effect]:
    """These have waited long enough. Their places are told as they are before the first one leaves."""
    in_line: dict[Limit, list[Ticket]] = {}
    for ticket in late:
        for limit in limits_of(ticket):
            in_line.setdefault(limit, []).append(ticket)
    places: dict[int, dict[str, int]] = {ticket.number: {} for ticket in late}
    for limit, tickets in in_line.items():
        for ticket, place in zip(tickets, limit.line.places(tickets), strict=True):
            places[ticket.number][limit.name] = place
    effects: list[Effect] = []
    for ticket in late:
        leave(ticket)
        effects.append(TimedOut(ticket, places[ticket.number]))
    return effects + _go_on_without(late, now)


def _go_on_without(tickets: list[Ticket], now: int) -> list[Effect]:
    """Those behind tickets that left may go now."""
    lines = dict.fromkeys(limit for ticket in tickets for limit in limits_of(ticket))
    return grant_in_order(list(lines), now)


def may_go_yet(ticket: Ticket) -> bool:
    """Whether one of its lines has not been looked at to its end."""
    return any(part.limit.goes_on for part in ticket.parts)


def grant_in_order(changed: list[Limit], now: int) -> list[Effect]:
    """The one place that decides who goes, after something changed at these limits. While lines that
    are affected go on, these go on with them."""
    affected = lines_affected(changed, now)
    for limit in affected:
        first = limit.goes_on_with
        if first is not None:
            _go_on_with(first, changed)
            return wake_ups(changed, now)
    return let_some_go(changed[0], changed, affected, now)


def _go_on_with(first: Limit, lines: Iterable[Limit]) -> None:
    for limit in lines:
        limit.goes_on_with = first
        first.unfinished[limit] = None


def let_some_go(
    first: Limit, changed: list[Limit], affected: list[Limit], now: int
) -> list[Effect]:
    """Let go who can. If they are too many for one step, all goes on with a Tick of `first`."""
    granted: list[Ticket] = []
    touched = dict.fromkeys(changed)
    while True:
        again = _sweep(affected, now, granted)
        for ticket in granted:  # their other lines are changed now, too
            touched.update(dict.fromkeys(limits_of(ticket)))
        if not again or len(granted) >= TICKETS_A_STEP_MAX:
            break
        affected = lines_affected(list(touched), now)
    if len(granted) >= TICKETS_A_STEP_MAX:
        _go_on_with(first, touched)
        touched[first] = None
    effects: list[Effect] = [Granted(ticket) for ticket in granted]
    return effects + wake_ups(touched, now)


def lines_to_look_at(parts: Iterable[Part], now: int) -> list[Limit]:
    """Of what somebody asks, where anybody could go."""
    return [part.limit for part in parts if part.limit.may_let_go(now)]


def lines_affected(changed: list[Limit], now: int) -> list[Limit]:
    """The lines whose order may look different now: those changed, and all that hang together with
    them by tickets over several limits. A limit without one free slot lets nobody go, whatever
    happens in its line, so nothing spreads through it."""
    if len(changed) == 1 and not any(len(head.parts) > 1 for head in changed[0].line.heads()):
        return changed
    found = dict.fromkeys(changed)
    todo = list(changed)
    while todo:
        for head in todo.pop().line.heads():
            for part in head.parts:
                if part.limit not in found and part.limit.may_let_go(now):
                    found[part.limit] = None
                    todo.append(part.limit)
    return list(found)


def _sweep(lines: list[Limit], now: int, granted: list[Ticket]) -> bool:
    """Look at who waits in these lines, in the order of arrival, and let go who can.

    Returns True when one that went has passed another: what that one lacks, and so whom it holds
    back, may be different now, and the sweep has to be made again. Ends when enough went.
    """
    heads = {
        head.number: head for limit in lines if limit.may_let_go(now) for head in limit.line.heads()
    }
    order = sorted(heads)  # a sorted list is a heap
    held_back: set[Limit] = set()
    waited_in: set[Limit] = set()
    while order and len(granted) < TICKETS_A_STEP_MAX:
        ticket = heads[heapq.heappop(order)]
        limits = limits_of(ticket)
        lacked = [
            part.limit
            for part in ticket.parts
            if part.limit.in_doubt
            or (
                part.limit.active
                and (part.limit in held_back or not part.limit.has_room(part.slots, now))
            )
        ]
        if ticket.state is WAITING and not lacked:
            take(ticket, now)
            granted.append(ticket)
            if not waited_in.isdisjoint(limits):
                return True
            for limit in limits:
                head = limit.line.head_like(ticket)
                if head is not None and head.number not in heads:
                    heads[head.number] = head
                    heapq.heappush(order, head.number)
            continue
        waited_in.update(limits)
        if not ticket.keeps and lacked:
            ticket.keeps = all(limit.was_passed_by_enough(ticket) for limit in lacked)
        if ticket.keeps or ticket.state is ARRIVING:
            held_back.update(limits)
        elif len(lacked) == 1:
            held_back.add(lacked[0])
    return False


def limits_of(ticket: Ticket) -> list[Limit]:
    return [part.limit for part in ticket.parts]


def wake_ups(limits: Iterable[Limit], now: int) -> list[Effect]:
    """The Ticks that these limits need and have not asked for yet."""
    effects: list[Effect] = []
    for limit in limits:
        instant = limit.next_instant(now)
        if instant is not None and (not limit.wakes or instant < limit.wakes[-1]):
            limit.wakes.append(instant)
            effects.append(WakeAt(limit, instant))
    return effects
