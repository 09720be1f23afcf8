"""One limit with its holders, its line, and what happened lately. Pure."""

from __future__ import annotations

from msgspec import Struct

from atmost import wire
from atmost.asked import Limit
from atmost.watching import Event
from atmost.web import bounds
from atmost.web.known import Known
from atmost.web.rows import Holder, Row, Snippets, Waiter, holders_of, line_of


class Kept(Struct, frozen=True):
    """Whether a history is kept of a limit; else why not."""

    kept: bool
    why_not: str


class Detail(Struct, frozen=True):
    """One limit. holders_more, line_more: so many are not told. at: when this was so. stale: the daemon
    is gone, and this is what was."""

    limit: Row
    holders: list[Holder]
    holders_more: int
    line: list[Waiter]
    line_more: int
    mean_hold_seconds: float | None
    events: list[Event]
    snippets: Snippets
    history: Kept
    at: float
    stale: bool


def detail_of(
    known: Known,
    limit: Limit,
    tickets: list[wire.TicketRecord],
    explained: list[wire.Explanation],
    now: float,
) -> Detail:
    """What was just read of this limit, as one record. `known` has just read it, too."""
    name = limit.name
    holders = holders_of(tickets, now)
    line = line_of(name, tickets, {one.number: one for one in explained}, now)
    means = [
        lack.mean_hold_seconds for one in explained for lack in one.lacks if lack.limit == name
    ]
    row = known.row(name, now)
    assert row is not None
    held = (
        limit.held if len(tickets) >= 2 * bounds.TICKETS_TOLD_MAX else 0
    )  # each has a slot or more
    return Detail(
        limit=row,
        holders=holders[: bounds.TICKETS_TOLD_MAX],
        holders_more=max(0, held - sum(holder.slots for holder in holders))
        + max(0, len(holders) - bounds.TICKETS_TOLD_MAX),
        line=line[: bounds.TICKETS_TOLD_MAX],
        line_more=max(0, limit.waiting - min(len(line), bounds.TICKETS_TOLD_MAX)),
        mean_hold_seconds=next(iter(means), None),
        events=known.events_of(name),
        snippets=Snippets.of(limit),
        history=kept_of(known, name),
        at=round(now, 3),
        stale=False,
    )


def kept_of(known: Known, name: str) -> Kept:
    """Whether a history is kept of this limit."""
    if name not in known.history.left_out:
        return Kept(True, "")
    return Kept(
        False,
        f"history is kept of {bounds.HISTORY_LIMITS_MAX} limits, and this one came after them",
    )
