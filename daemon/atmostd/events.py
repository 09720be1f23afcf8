"""What happens at the limits, told to those who watch.

Rule 1: when nobody watches, an event costs one look at an attribute of whoever tells it.
Rule 2: the events of one turn are encoded once, and leave when that turn is over and in the journal,
in as few frames as they fit.
Rule 3: nobody waits for a watcher. What one has no room for is left out, and it is told how many were.
Rule 4: a request over several limits is an event at each of them, with the same number and token.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from atmost import paths, values, wire
from atmost.wire import FRAME_BYTES_MAX, Event
from atmostd import config
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Clock
from atmostd.limit import Limit
from atmostd.refusals import Refusals
from atmostd.ticket import State, Ticket
from atmostd.turn import Turn

EVENTS_BYTES_MAX = FRAME_BYTES_MAX - 64  # what is around the events of a frame takes less


class Reader(Protocol):
    """A connection, as its watches see it."""

    def reads(self) -> bool:
        """Whether it has read what it was sent, more or less. If not, tell_missed() is called later."""

    def room(self) -> int:
        """How many bytes of events it may be sent now; none while it does not read."""

    def send(self, message: wire.Message) -> None: ...


class Who(Protocol):
    """Whose request it is."""

    @property
    def pid(self) -> int: ...

    @property
    def user(self) -> str: ...

    @property
    def command(self) -> str: ...


class Watch:
    """One request to be told: everything, or what happens at one limit."""

    __slots__ = ("missed", "name", "reader", "request", "uid")

    def __init__(self, request: int, name: str | None, reader: Reader, uid: int) -> None:
        self.request = request
        self.uid = uid  # whose it is
        self.name = name
        self.reader = reader
        self.missed = 0  # events that it was not told, and has not heard of either

    def take(self, events: list[bytes], dropped: int) -> int:
        """Tell these encoded events as far as there is room; `dropped` more happened, and nobody has
        them. Returns how many were missed."""
        room = self.reader.room()
        part: list[bytes] = []
        size = told = 0
        for event in events:
            if len(event) > room:
                break
            if size + len(event) > EVENTS_BYTES_MAX:
                self._send(part)
                part, size = [], 0
            part.append(event)
            size += len(event)
            room -= len(event)
            told += 1
        if part:
            self._send(part)
        missed = len(events) - told + dropped
        self.missed += missed
        return missed

    def tell_missed(self) -> None:
        """If it reads, have it know what it has missed; a few bytes are never too many."""
        if self.missed and self.reader.reads():
            self._send([])

    def _send(self, events: list[bytes]) -> None:
        missed, self.missed = self.missed, 0
        encoded: list[Any] = [msgspec.Raw(event) for event in events]
        self.reader.send(wire.Events(self.request, encoded, missed))


class Events:
    """Collects what happens in a turn, while somebody watches."""

    def __init__(
        self,
        clock: Clock,
        wall_time: Callable[[], float],
        turn: Turn,
        bounds: Bounds,
        refusals: Refusals,
        on_watched: Callable[[bool], None],
    ) -> None:
        self.watched = False  # `on_watched` is told of every change
        self._on_watched = on_watched
        self.missed = 0  # events that watchers have missed, all together
        self._clock = clock
        self._wall_time = wall_time
        self._turn = turn
        self._bounds = bounds
        self._refusals = refusals
        self._started = clock()
        self._started_at = wall_time()
        self._watches: dict[Watch, None] = {}
        self._of_uid: Counter[int] = Counter()
        self._new: list[Event] = []  # of this turn
        self._arrived: list[
            Ticket
        ] = []  # in this turn: those that have to wait are told at its end
        self._dropped: Counter[str] = Counter()  # by limit: more than a turn may have
        self._speaks = False
        self._returned: list[
            Event
        ] = []  # just after a start: clients may come back before watchers

    def __len__(self) -> int:
        return len(self._watches)

    # Who watches

    def watch(
        self, request: int, name: str | None, reader: Reader, uid: int, is_admin: bool
    ) -> Watch:
        """Tell this reader from now on. Raises InvalidValue or TooMany."""
        if name is not None:
            values.check_name(name)
        if not is_admin:
            self._check_room(uid)
        watch = Watch(request, name, reader, uid)
        self._watches[watch] = None
        self._of_uid[uid] += 1
        self._set_watched()
        started = Event("daemon_started", self._started_at, pid=os.getpid(), reason=paths.version())
        returned = [event for event in self._returned if name is None or event.limit == name]
        if self._clock() - self._started > config.RETURNED_TOLD_SECONDS * NANOSECONDS:
            returned = self._returned = []
        watch.take([msgspec.msgpack.encode(event) for event in (started, *returned)], 0)
        return watch

    def _check_room(self, uid: int) -> None:
        bounds, who = self._bounds, f"uid {uid}"
        if self._of_uid[uid] >= bounds.watches_per_uid:
            raise self._refusals.too_many("watches_per_uid", f"watches of uid {uid}", who)
        if len(self._watches) >= bounds.watches:
            raise self._refusals.too_many("watches", "watches", who)

    def forget(self, watches: Iterable[Watch]) -> None:
        """These need not be told any more."""
        for watch in watches:
            if watch in self._watches:
                del self._watches[watch]
                self._of_uid[watch.uid] -= 1
                if not self._of_uid[watch.uid]:
                    del self._of_uid[watch.uid]
        self._set_watched()
        if not self.watched:
            self._new, self._arrived = [], []
            self._dropped.clear()

    def _set_watched(self) -> None:
        self.watched = bool(self._watches)
        self._on_watched(self.watched)

    # What happens

    def arrived(self, ticket: Ticket) -> None:
        """A request came; if it has to wait, that is told."""
        if len(self._arrived) < config.EVENTS_A_TURN_MAX:
            self._arrived.append(ticket)
        else:
            self._dropped[ticket.home.name] += 1
        self._speak()

    def of_ticket(
        self,
        kind: str,
        ticket: Ticket,
        reason: str = "",
        held_ns: int | None = None,
        only: str | None = None,
    ) -> None:
        """Something became of a request, at each of its limits, or at one `only`."""
        request = ticket.owner
        who: Who = request.asker
        now = self._wall_time()
        waited = None
        if kind != "queued":
            until = ticket.granted_at or self._clock()
            waited = max(0, until - ticket.asked_at) / NANOSECONDS
        for part in ticket.parts:
            if only is not None and part.limit.name != only:
                continue
            self._add(
                Event(
                    kind,
                    now,
                    part.limit.name,
                    ticket.number,
                    part.slots,
                    who.pid,
                    who.user,
                    who.command,
                    request.token,
                    waited,
                    None if held_ns is None else max(0, held_ns) / NANOSECONDS,
                    reason,
                )
            )

    def of_asker(self, kind: str, limit: Limit, who: Who, reason: str) -> None:
        """Something became of a request that never got a number."""
        now = self._wall_time()
        self._add(
            Event(
                kind,
                now,
                limit.name,
                pid=who.pid,
                user=who.user,
                command=who.command,
                reason=reason,
            )
        )

    def of_limit(self, kind: str, limit: Limit, reason: str = "") -> None:
        """A limit was created, changed or deleted."""
        self._add(Event(kind, self._wall_time(), limit.name, reason=reason or settings_of(limit)))

    def came_back(self, who: Who, tickets: Iterable[Ticket]) -> None:
        """A client that had lost its connection has come back: at each limit where it has something,
        or at none."""
        is_new = self._clock() - self._started <= config.RETURNED_TOLD_SECONDS * NANOSECONDS
        if not self.watched and not is_new:
            return
        now = self._wall_time()
        names = dict.fromkeys(part.limit.name for ticket in tickets for part in ticket.parts)
        for name in names or ("",):
            event = Event("reconnected", now, name, pid=who.pid, user=who.user, command=who.command)
            if is_new and len(self._returned) < config.RETURNED_TOLD_MAX:
                self._returned.append(event)
            if self.watched:
                self._add(event)

    def _add(self, event: Event) -> None:
        if len(self._new) < config.EVENTS_A_TURN_MAX:
            self._new.append(event)
        else:
            self._dropped[event.limit] += 1
        self._speak()

    def _speak(self) -> None:
        if not self._speaks:
            self._speaks = True
            self._turn.will_speak(self)

    # The end of a turn

    def flush(self) -> None:
        """Tell those who watch what happened in this turn."""
        arrived, self._arrived = self._arrived, []
        for ticket in arrived:
            if ticket.state is State.WAITING:
                self.of_ticket("queued", ticket)
        self._speaks = False
        new, self._new = self._new, []
        dropped, self._dropped = self._dropped, Counter()
        if not self._watches:
            return
        everything = [msgspec.msgpack.encode(event) for event in new]
        at: dict[str, list[bytes]] = {}
        for event, encoded in zip(new, everything, strict=True):
            at.setdefault(event.limit, []).append(encoded)
        for watch in list(self._watches):
            if watch.name is None:
                self.missed += watch.take(everything, dropped.total())
            elif watch.name in at or watch.name in dropped:
                self.missed += watch.take(at.get(watch.name, []), dropped[watch.name])
            watch.tell_missed()


def settings_of(limit: Limit) -> str:
    """The settings of a limit, for people."""
    rate = limit.slot_decay_per_second
    decay = f", {rate:g}/s" if rate else ""
    return f"limit {limit.limit}{decay}, {'active' if limit.active else 'inactive'}"
