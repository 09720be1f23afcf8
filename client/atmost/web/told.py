"""What browsers are told by the stream, as records."""

from __future__ import annotations

from msgspec import Struct

from atmost.watching import Event
from atmost.web.known import Totals
from atmost.web.rows import Row


class Daemon(Struct, frozen=True):
    """The daemon. state: there or gone; since: unix seconds; why: what to do, if it is gone. The rest is
    what it said of itself last."""

    state: str
    since: float
    why: str = ""
    version: str | None = None
    pid: int | None = None
    socket: str | None = None
    uptime_seconds: float | None = None
    trouble: str = ""
    limits: int | None = None
    sessions: int | None = None
    held: int | None = None
    waiting: int | None = None


class Rights(Struct, frozen=True):
    """Whether this process may change limits; else why not."""

    may_change: bool
    why_not: str


NOT_YET = Rights(False, "the daemon was not asked yet")


class Snapshot(Struct, frozen=True):
    """The first event of a stream. limits: all, or null if they are too many."""

    sequence: int
    daemon: Daemon
    rights: Rights
    watching_since: float
    now: float
    totals: Totals
    limits: list[Row] | None


class Changes(Struct, frozen=True):
    """What is not as it was. more: there are more than are told."""

    sequence: int
    now: float
    limits: list[Row]
    deleted: list[str]
    more: bool
    totals: Totals


class DaemonChanged(Daemon, frozen=True):
    """The daemon went, or is there."""

    rights: Rights = NOT_YET


class Gone(Struct, frozen=True):
    """Details of a limit that does not exist."""

    name: str
    gone: bool = True


class Happened(Struct, frozen=True):
    """The newest last."""

    events: list[Event]
