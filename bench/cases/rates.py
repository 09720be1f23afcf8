"""A rate that is kept up: as much as was promised, and never more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench import contenders as field
from bench.bound import Calls, too_many
from bench.cases.common import Entry, in_turn, soon
from bench.contenders import Kind
from bench.figures import COUNT, PERCENT, Contender, Role, Table, at_least, at_most
from bench.processes import Bench, Client, ask_all

NOMINAL_PERCENT = 99.0
OURS_PROCESSES = (1, 5, 100)
PEERS_PROCESSES = (5,)


class Asked(NamedTuple):
    """A rate limit, and for how long it is called."""

    a_second: float
    limit: int  # its burst
    seconds: float


RATES = (Asked(1, 1, 5.0), Asked(100, 1, 2.0), Asked(10_000, 100, 2.0))
RATES_QUICK = (Asked(100, 1, 1.6),)
PEERS_RATES = (Asked(100, 1, 2.0), Asked(10_000, 100, 2.0))
WINDOWS_RATES = (Asked(100, 1, 2.6), Asked(10_000, 100, 2.6))
SLOW_RATES = (Asked(1, 1, 5.0), Asked(100, 1, 2.0))
WINDOWS = (field.LIMITS, field.LIMITS_MOVING, field.PYRATE_SQLITE)  # of one second
BUCKETS = (field.PYRATE, field.PREFECT)
SETTLED_NS = 500_000_000  # from a window's begin until one looks at it: halfway
SECOND_NS = 1_000_000_000


def rate(bench: Bench, table: Table) -> Iterator[None]:
    """A rate limit, called all the time by all: how much of what it lets through gets through, and
    in the worst
    interval T how many slots more than limit + rate * T."""
    table.note(
        "A window of a second lets as many through as the rate: that is its burst, and what it should "
        "let through is counted from second to second."
    )
    daemon = bench.daemon()
    entries: list[Entry] = []
    for kind in (*bench.field.of(*WINDOWS, *BUCKETS), field.OURS):
        is_ours = kind is field.OURS
        counts = (2,) if bench.quick else OURS_PROCESSES if is_ours else PEERS_PROCESSES
        clients = [bench.client_of(kind, daemon) for _ in range(max(counts))]
        rates = RATES_QUICK if bench.quick else _rates_of(kind)
        for number in counts:
            for asked in rates:
                name = f"{number} at {asked.a_second:,g} a second"
                for client in clients[:number]:
                    client.ask("prepare", name=name, slots=asked.limit, rate=asked.a_second)
                role = Role.OURS if is_ours else Role.PEER
                wants = (at_least(NOMINAL_PERCENT), at_most(0)) if is_ours else (None, None)
                told = f"{'atmost' if is_ours else kind.told}, {name}"
                line = table.line(told, PERCENT, role, wants[0], scene=name)
                above = table.line(f"{told}: slots too many", COUNT, Role.ASIDE, wants[1])
                entries.append((line, _Measure(clients[:number], name, asked, kind, above)))
    yield from in_turn(entries)


class _Measure:
    """Of one contender at one rate. The percentage; beside it, `above` gets its figure."""

    def __init__(
        self, clients: list[Client], name: str, asked: Asked, kind: Kind, above: Contender
    ) -> None:
        self._clients = clients
        self._name = name
        self._asked = asked
        self._windows = kind in WINDOWS
        self._above = above

    def __call__(self) -> float:
        asked = self._asked
        found = ask_all(
            self._clients, "sustained", name=self._name, at_ns=soon(), seconds=asked.seconds
        )
        calls = [call for one in found for call in one]
        burst = max(1, round(asked.a_second)) if self._windows else asked.limit
        self._above.add(too_many(calls, burst, asked.a_second))
        if self._windows:
            return percent_of_windows(calls, asked.a_second, int(asked.seconds))
        return percent_of_nominal(calls, burst, asked.a_second)


def _rates_of(kind: Kind) -> tuple[Asked, ...]:
    if kind is field.OURS:
        return RATES
    return WINDOWS_RATES if kind in WINDOWS else SLOW_RATES if kind.slower > 1 else PEERS_RATES


def percent_of_nominal(calls: Calls, limit: int, a_second: float) -> float:
    """Of limit + rate * T, where T is from the first time that anyone asked to the last time that one
    was there."""
    if not calls:
        return 0.0
    seconds = (max(end for _, end in calls) - min(begin for begin, _ in calls)) / 1e9
    return 100 * len(calls) / (limit + a_second * seconds)


def percent_of_windows(calls: Calls, a_second: float, seconds: int) -> float:
    """Of so many windows of a second, from the middle of one to the middle of another."""
    begin = min((asked for asked, _ in calls), default=0) + SETTLED_NS
    end = begin + max(1, seconds) * SECOND_NS
    return 100 * sum(begin <= there < end for _, there in calls) / (a_second * max(1, seconds))
