"""The answers of the API that are not of one limit's row or page: as records, so that the OpenAPI document
is made from what is sent."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from atmost.watching import Event
from atmost.web.history import Series
from atmost.web.known import Totals, Waits
from atmost.web.rows import Holder, Row, Waiter
from atmost.web.told import Daemon, Rights


class Holders(Struct, frozen=True):
    """Who holds; so many more are not told."""

    holders: list[Holder]
    more: int
    at: float


class Line(Struct, frozen=True):
    """Who waits, in order; so many more are not told."""

    line: list[Waiter]
    more: int
    at: float


class Events(Struct, frozen=True):
    """The newest first."""

    events: list[Event]


class PastOf(Struct, frozen=True):
    """One limit lately. The lists have 120 elements, oldest first, the last one is not over yet; null:
    not known. They are empty if none is kept."""

    span: str
    step: float
    watching_since: float
    kept: bool
    why_not: str
    at: list[float] = []
    slots: list[float | None] = []
    slots_max: list[float | None] = []
    line: list[float | None] = []
    line_max: list[float | None] = []
    wait_p50: list[float | None] = []
    wait_p99: list[float | None] = []
    grants_per_second: list[float | None] = []

    def with_series(self, series: Series | None) -> PastOf:
        """The same, with what there is."""
        if series is None:
            return self
        return replace(
            self, **{field: getattr(series, field) for field in Series.__struct_fields__}
        )


class Bounds(Struct, frozen=True):
    """What this process keeps at most, and what a limit can be."""

    name_chars_max: int
    limit_max: int
    history_limits_max: int
    streams_max: int


class Session(Struct, frozen=True):
    """What a page asks first."""

    version: str
    daemon: Daemon
    rights: Rights
    watching_since: float
    now: float
    bounds: Bounds


class Busy(Struct, frozen=True):
    """A limit where much happens. used: the share of its slots that is in use."""

    limit: Row
    grants_per_second: float
    used: float


class Finding(Struct, frozen=True):
    """What `atmost doctor` says. mend: the command, or what to do."""

    finding: str
    serious: bool
    text: str
    mend: str


class HistoryKept(Struct, frozen=True):
    """Of how many limits a history is kept, and how many were left out."""

    kept: int
    left_out: int


class Overview(Struct, frozen=True):
    """All at a glance. findings_at: when the doctor looked; null: not yet."""

    daemon: Daemon
    rights: Rights
    watching_since: float
    now: float
    totals: Totals
    busiest: list[Busy]
    longest_waiters: list[Waits]
    troubles: list[Event]
    history: HistoryKept
    findings: list[Finding]
    findings_at: float | None
