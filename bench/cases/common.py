"""What cases share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import quantiles
from typing import NamedTuple

from bench.contenders import IN_PROCESS, OURS, Kind
from bench.figures import MICROSECONDS, Contender, Role, Table
from bench.processes import Bench

FOREVER_LIMIT = 2**40  # of a rate limit that never makes anyone wait
WARM_UP = 300  # cycles before the first that counts
WARM_UP_QUICK = 20
FLOOR = "C ping-pong, 32 bytes"
START_NS = 50_000_000  # from an order to the instant at which all begin

Entry = tuple[Contender, Callable[[], float]]  # a line of the table, and what measures it


class Case(NamedTuple):
    """How often it is measured: so many times with new processes, so many rounds each time. Short
    rounds: others on the machine then spoil a few, and not the median."""

    measure: Callable[[Bench, Table], Iterator[None]]
    starts: int = 4
    rounds: int = 7
    asked_for: bool = False  # takes part only if it is named

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def title(self) -> str:
        return " ".join((self.measure.__doc__ or "").split())


def in_turn(entries: list[Entry]) -> Iterator[None]:
    """One round after the other."""
    while True:
        for line, measure in entries:
            line.add(measure())
        yield


def floor(bench: Bench, table: Table) -> Contender | None:
    """The ping-pong's line, if there is a ping-pong."""
    if not bench.field.has("c"):
        return None
    if bench.floor.missing:
        table.note(bench.floor.missing)
        return None
    return table.line(FLOOR, MICROSECONDS, Role.FLOOR)


def role_of(kind: Kind) -> Role:
    if kind is OURS:
        return Role.OURS
    return Role.INSIDE if kind is IN_PROCESS else Role.PEER


def warm_up(bench: Bench) -> int:
    return bench.some(WARM_UP, WARM_UP_QUICK)


def soon() -> int:
    """The instant at which several processes begin."""
    return time.monotonic_ns() + START_NS


def percentile_99(figures: list[float]) -> float:
    return quantiles(figures, n=100, method="inclusive")[98] if len(figures) > 1 else figures[0]
