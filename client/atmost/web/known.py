"""What is known of the daemon: limits, who waits since when, what happened lately. Pure: now is an
argument, in unix seconds.

Rule 1: an event says that something changed; what is so now is read. Only the history counts along from
one reading to the next, so that it has what came and went between them.
Rule 2: since when somebody waits is the one thing that only events tell quickly enough; it is never a
guess: if it is not known for sure, it is not told.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from heapq import nsmallest

from msgspec import Struct

from atmost import wire
from atmost.asked import Limit
from atmost.watching import Event
from atmost.web import bounds
from atmost.web.history import History
from atmost.web.rows import Row, row_of, spent_at

TROUBLES = frozenset({"refused", "timed_out", "died", "missed"})
_LEAVES_THE_LINE = frozenset({"granted", "refused", "timed_out", "cancelled"})


class Waits(Struct, frozen=True):
    """A request in line."""

    limit: str
    number: int
    slots: int
    pid: int
    user: str
    command: str
    since: float


class Totals(Struct, frozen=True):
    """Over all limits. held: slots; waiting: requests, each at each of its limits."""

    limits: int
    held: int
    waiting: int
    inactive: int
    grants_per_second: float


class Known:
    """All that is known."""

    def __init__(self, history_limits_max: int = bounds.HISTORY_LIMITS_MAX) -> None:
        self.limits: dict[str, Limit] = {}
        self.history = History(history_limits_max)
        self.lines = Lines(bounds.WAITERS_KEPT_MAX)
        self.events: deque[Event] = deque(maxlen=bounds.EVENTS_KEPT_MAX)
        self.troubles: deque[Event] = deque(maxlen=bounds.TROUBLES_KEPT_MAX)
        self.dirty: set[str] = set()  # something happened there since it was read
        self.all_dirty = True  # maybe everywhere
        self._read_at: dict[str, float] = {}
        self._counted: dict[str, tuple[float, int]] = {}  # slots in use, requests waiting
        self._events_of: OrderedDict[str, deque[Event]] = OrderedDict()
        self._decaying: dict[str, int] = {}  # where something is spent: whole slots, as told last
        self._grants: deque[tuple[float, int]] = deque(maxlen=60)  # by second

    # What happens

    def happened(self, event: Event, now: float) -> None:
        """Take an event of the stream."""
        kind = event.kind
        if kind in ("daemon_started", "missed"):
            self.all_dirty = True
            self.lines.doubt()
        name = event.limit
        if name:
            self.dirty.add(name)
        if kind == "granted":
            self._granted(name, event, now)
        self._count(event, now)
        if kind == "queued":
            self.lines.joined(
                Waits(
                    name,
                    event.number,
                    event.slots,
                    event.pid,
                    event.user,
                    event.command,
                    event.at,
                )
            )
        elif kind in _LEAVES_THE_LINE and event.number:
            self.lines.left(name, event.number)
        elif kind == "deleted":
            self.lines.forget(name)
        self.events.append(event)
        if kind in TROUBLES:
            self.troubles.append(event)
        if name:
            self._keep(name, event)

    def _count(self, event: Event, now: float) -> None:
        """Have the history know what was, until it is read."""
        limit = self.limits.get(event.limit)
        if limit is None or not limit.active:
            return
        kind, (slots, line) = event.kind, self._counted[event.limit]
        if kind in _LEAVES_THE_LINE and self.lines.has(event.limit, event.number):
            line = max(0, line - 1)
        if kind == "granted":
            slots = min(slots + event.slots, max(limit.limit, slots))
        elif kind in ("released", "died"):
            slots = max(0.0, slots - event.slots)
        elif kind == "queued":
            line += 1
        if (slots, line) != self._counted[event.limit]:
            self._counted[event.limit] = (slots, line)
            self.history.observe(event.limit, now, slots, line)

    def _granted(self, name: str, event: Event, now: float) -> None:
        self.history.granted(name, now, event.waited_seconds or 0.0)
        second = int(now)
        if self._grants and self._grants[-1][0] == second:
            self._grants[-1] = (second, self._grants[-1][1] + 1)
        else:
            self._grants.append((second, 1))

    def _keep(self, name: str, event: Event) -> None:
        events = self._events_of.get(name)
        if events is None:
            if len(self._events_of) >= bounds.EVENTS_LIMITS_MAX:
                self._events_of.popitem(last=False)
            events = self._events_of[name] = deque(maxlen=bounds.EVENTS_OF_LIMIT_MAX)
        else:
            self._events_of.move_to_end(name)
        events.append(event)

    # What was read

    def read(self, limits: Iterable[Limit], now: float) -> list[str]:
        """These limits are so. Returns the names of those that are not as they were."""
        changed = []
        for limit in limits:
            name = limit.name
            if self.limits.get(name) != limit:
                changed.append(name)
            self.limits[name] = limit
            self._read_at[name] = now
            in_use = limit.held + limit.spent
            self._counted[name] = (in_use, limit.waiting)
            self.history.observe(name, now, in_use, limit.waiting)
            if limit.spent and limit.slot_decay_per_second:
                self._decaying[name] = limit.held + math.ceil(limit.spent)
            else:
                self._decaying.pop(name, None)
            if name not in self.dirty:  # else it is another time than that of the events
                if not limit.waiting:
                    self.lines.forget(name)  # also what is not known of it any more
                elif not self.lines.knows(name):
                    self.lines.doubt()
        return changed

    def read_all(
        self, limits: list[Limit], now: float, but: Collection[str] = ()
    ) -> tuple[list[str], list[str]]:
        """There are these and no others; but of some something newer is known. Returns the names of the
        changed and the deleted."""
        limits = [limit for limit in limits if limit.name not in but]
        gone = list(self.limits.keys() - {limit.name for limit in limits} - set(but))
        for name in gone:
            self.forget(name)
        changed = self.read(limits, now)
        self.history.known(now)
        return changed, gone

    def forget(self, name: str) -> None:
        """There is no such limit."""
        for kept in (self.limits, self._read_at, self._decaying, self._counted):
            kept.pop(name, None)
        self.lines.forget(name)
        self.history.forget(name)

    def decayed(self, now: float) -> list[str]:
        """Time has passed: the limits where another whole slot has come back."""
        changed = []
        for name, told in list(self._decaying.items()):
            limit = self.limits[name]
            spent = spent_at(limit, now - self._read_at[name])
            self._counted[name] = (limit.held + spent, limit.waiting)
            self.history.observe(name, now, limit.held + spent, limit.waiting)
            slots = limit.held + math.ceil(spent)
            if slots != told:
                self._decaying[name] = slots
                changed.append(name)
            if not spent:
                del self._decaying[name]
        return changed

    def lost(self, now: float) -> None:
        """The daemon is gone: what is known is what was."""
        self.history.unknown(now)
        self.all_dirty = True
        self.lines.doubt()

    # What is told

    def row(self, name: str, now: float) -> Row | None:
        """The limit as it is by now; None: there is none of this name."""
        limit = self.limits.get(name)
        if limit is None:
            return None
        return row_of(limit, now, self._read_at[name], self.lines.oldest(name))

    def rows(self, names: Collection[str], now: float) -> list[Row]:
        """Those of them that there are."""
        found = (self.row(name, now) for name in names)
        return [row for row in found if row is not None]

    def events_of(self, name: str) -> list[Event]:
        """What happened lately at this limit, the newest first."""
        return list(self._events_of.get(name, ()))[::-1]

    def totals(self, now: float) -> Totals:
        """Sums."""
        limits = self.limits.values()
        since = int(now) - 10
        grants = sum(count for second, count in self._grants if since <= second < int(now))
        return Totals(
            len(self.limits),
            sum(limit.held for limit in limits),
            sum(limit.waiting for limit in limits),
            sum(not limit.active for limit in limits),
            grants / 10,
        )


class Lines:
    """Who waits since when, at all limits together at most so many requests."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._count = 0
        self._lines: dict[str, dict[int, Waits]] = {}  # in the order of arrival
        self._unknown: set[str] = set()  # more wait there than are known here
        self._left: set[tuple[str, int]] | None = None  # while all are being read
        self.doubtful = True  # some may be wrong: nothing is told, and all are to be read

    def doubt(self) -> None:
        """Something was missed."""
        self.doubtful = True

    def joined(self, waits: Waits) -> None:
        """A request is in line."""
        name = waits.limit
        if name in self._unknown:
            return
        if self._count >= self._at_most:
            self.forget(name)
            self._unknown.add(name)
            return
        line = self._lines.setdefault(name, {})
        if waits.number not in line:
            line[waits.number] = waits
            self._count += 1

    def left(self, name: str, number: int) -> None:
        """A request is not in line any more, if it was."""
        if self._left is not None:
            self._left.add((name, number))
        line = self._lines.get(name)
        if line is not None and line.pop(number, None) is not None:
            self._count -= 1
            if not line:
                del self._lines[name]

    def knows(self, name: str) -> bool:
        """Whether it knows of somebody who waits there, or knows that it does not."""
        return name in self._lines or name in self._unknown

    def has(self, name: str, number: int) -> bool:
        """Whether it is known to wait there."""
        return number in self._lines.get(name, ())

    def forget(self, name: str) -> None:
        """Nobody waits there."""
        self._count -= len(self._lines.pop(name, ()))
        self._unknown.discard(name)

    def begin_reading(self) -> None:
        """Forget all, since all will be read. What happens meanwhile is told all the same."""
        self._lines.clear()
        self._unknown.clear()
        self._count = 0
        self._left = set()
        self.doubtful = False

    def read_all(self, tickets: list[wire.TicketRecord], whole: bool, now: float) -> None:
        """These hold or wait. Not `whole`: there are more, at the last one's limit and behind it."""
        left, self._left = self._left or set(), None
        cut = tickets[-1].limit if tickets and not whole else None
        found: dict[str, dict[int, Waits]] = {}
        for t in tickets:
            if t.state == "held" or (t.limit, t.number) in left or t.limit == cut:
                continue
            since = now - t.age_seconds
            found.setdefault(t.limit, {})[t.number] = Waits(
                t.limit, t.number, t.slots, t.pid, t.user, t.command, round(since, 3)
            )
        meanwhile, self._lines, self._count = self._lines, {}, 0
        for lines in (found, meanwhile):
            for line in lines.values():
                for waits in line.values():
                    self.joined(waits)
        if cut is not None:
            self._unknown.add(cut)

    def oldest(self, name: str) -> float | None:
        """Since when the first one waits; None: nobody does, or it is not known."""
        line = self._lines.get(name)
        return next(iter(line.values())).since if line and not self.doubtful else None

    def longest(self, at_most: int) -> list[Waits]:
        """Who waits longest."""
        if self.doubtful:
            return []
        everybody = (waits for line in self._lines.values() for waits in line.values())
        return nsmallest(at_most, everybody, key=lambda waits: waits.since)
