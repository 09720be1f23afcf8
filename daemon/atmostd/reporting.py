"""What happened since the daemon started, as records, a page at a time; and how late its loop is."""

from __future__ import annotations

import asyncio
from bisect import bisect_right

from atmost.wire import LimitStatistics
from atmostd import config, listing
from atmostd.actor import Actor
from atmostd.clock import NANOSECONDS, Clock
from atmostd.declared import TEMPLATE
from atmostd.registry import Registry


def page_of_statistics(
    registry: Registry, after: str, now: int
) -> tuple[list[LimitStatistics], bool]:
    """The limits whose names come after `after`, and whether there are more of them."""
    names = sorted(registry.actors)
    start = bisect_right(names, after) if after else 0
    actors = registry.actors
    return listing.page_of(
        _limit_statistics(actors[name], _pattern(registry, actors[name]), now)
        for name in names[start:]
    )


def _pattern(registry: Registry, actor: Actor) -> str:
    """Of its template. To look for that may take longer than all else that is told, so it is kept."""
    if actor.origin != TEMPLATE:
        return ""
    templates = registry.templates
    known = actor.template
    if known is None or known[0] is not templates:
        row = templates.first(actor.limit.name)
        known = actor.template = (templates, "" if row is None else row.match)
    return known[1]


def _limit_statistics(actor: Actor, template: str, now: int) -> LimitStatistics:
    limit = actor.limit
    tally = limit.tally
    heads = limit.line.heads()
    limit.level.settle(now)
    return LimitStatistics(
        name=limit.name,
        limit=limit.limit,
        active=limit.active,
        implicit=actor.implicit,
        held=limit.held,
        spent=limit.level.slots(),
        waiting=len(limit.line),
        oldest_wait_seconds=max(0, now - heads[0].asked_at) / NANOSECONDS if heads else 0.0,
        grants=tally.grants,
        releases=tally.releases,
        refusals=tally.refusals,
        timeouts=tally.timeouts,
        cancels=tally.cancels,
        deaths=tally.deaths,
        wait_seconds=tally.wait_ns / NANOSECONDS,
        wait_buckets=tally.wait_buckets(),
        hold_seconds=tally.hold_ns / NANOSECONDS,
        hold_buckets=tally.hold_buckets(),
        mean_hold_seconds=tally.mean_hold_seconds(),
        origin=actor.origin,
        template=template,
    )


class LoopDelay:
    """How late the event loop runs what is due.

    Rule: it measures while somebody asks, and for a while after that. A daemon of which nobody asks
    it does not wake up for it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._probe: asyncio.TimerHandle | None = None
        self._due = 0
        self._until = 0
        self._worst = self._sum = self._count = 0

    def seconds(self) -> tuple[float, float]:
        """The greatest delay since this was last asked, and the mean; 0 the first time."""
        mean = self._sum / self._count if self._count else 0.0
        worst = self._worst
        self._worst = self._sum = self._count = 0
        self._until = self._clock() + int(config.LOOP_DELAY_ASKED_SECONDS * NANOSECONDS)
        if self._probe is None:
            self._start()
        return worst / NANOSECONDS, mean / NANOSECONDS

    def stop(self) -> None:
        """The daemon ends."""
        if self._probe is not None:
            self._probe.cancel()

    def _start(self) -> None:
        self._due = self._clock() + int(config.LOOP_DELAY_PROBE_SECONDS * NANOSECONDS)
        self._probe = self._loop.call_later(config.LOOP_DELAY_PROBE_SECONDS, self._look)

    def _look(self) -> None:
        now = self._clock()
        late = max(0, now - self._due)
        self._worst = max(self._worst, late)
        self._sum += late
        self._count += 1
        self._probe = None
        if now < self._until:
            self._start()
