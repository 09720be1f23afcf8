"""What a watch gives: events, one after another, and how many were missed between them.

Rule: a consumer that is slower than what happens is told so. Neither the daemon nor this process keeps
what it does not take: the daemon stops sending, and here EVENTS_MAX wait at most.
"""

from __future__ import annotations

import time
from collections import deque

from msgspec import Struct

from atmost import wire
from atmost.errors import AtmostError

EVENTS_MAX = 10_000  # that wait for a consumer: a few megabytes


class Event(Struct, frozen=True):
    """Something that happened at a limit. What does not fit its kind has its default.

    kind: created, changed, deleted (a limit); queued, granted, released, refused, timed_out, cancelled,
    died (a request, once for each of its limits); reconnected (a client that had lost its connection);
    daemon_started, the first event of every stream, and again after each loss of the connection, since
    nobody knows what happened in between; missed. at: seconds since 1970; limit; number: the request's
    order of arrival on this host; slots; pid; user; command; token: of the grant; waited_seconds: in
    line; held_seconds; reason: an error's code, a limit's settings, or what ended it; missed: so many
    events happened here and were left out, for this client took them too slowly.
    """

    kind: str
    at: float
    limit: str = ""
    number: int = 0
    slots: int = 0
    pid: int = 0
    user: str = ""
    command: str = ""
    token: int = 0
    waited_seconds: float | None = None
    held_seconds: float | None = None
    reason: str = ""
    missed: int = 0

    @classmethod
    def of(cls, event: wire.Event) -> Event:
        return cls(*(getattr(event, field) for field in wire.Event.__struct_fields__))


class Frames:
    """What has come for one watch and was not taken yet."""

    __slots__ = ("_count", "_frames", "_last", "_missed", "failure")

    def __init__(self) -> None:
        self.failure: AtmostError | None = None  # nothing more will come
        self._frames: deque[wire.Events] = deque()
        self._count = 0  # of events
        self._missed = 0  # since the last one that was kept
        self._last: wire.Events | None = None

    def __bool__(self) -> bool:
        return bool(self._frames or self._missed)

    def put(self, came: wire.Events) -> None:
        """Keep it if there is room. The same bytes may be taken twice (exchange.py, rule 3)."""
        if came.events and came == self._last:
            return
        self._last = came
        if self._count >= EVENTS_MAX:
            self._missed += came.missed + len(came.events)
            return
        self._count += len(came.events)
        if self._missed:
            came = wire.Events(came.request, came.events, came.missed + self._missed)
            self._missed = 0
        self._frames.append(came)

    def take(self) -> list[Event]:
        """The next ones."""
        if self._frames:
            frame = self._frames.popleft()
            self._count -= len(frame.events)
            missed = frame.missed
        else:
            frame = None
            missed, self._missed = self._missed, 0
        events = [Event("missed", time.time(), missed=missed)] if missed else []
        if frame is not None:
            events += map(Event.of, frame.events)
        return events
