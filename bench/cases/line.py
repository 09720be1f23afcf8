"""Those who wait: how long from one to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

from bench import contenders as field
from bench.cases.common import Entry, floor, in_turn, percentile_99, soon
from bench.clients.worker import Stay
from bench.contenders import Kind
from bench.figures import MICROSECONDS, SECONDS, Contender, Role, Table, Want, at_most
from bench.processes import Bench, Client, ask_all
from bench.servers import Daemon

PROCESSES = 10
JOBS, JOB_SECONDS, JOB_SLOTS = 20, 0.1, 2
POLLERS = {field.REDIS_LUA: 20, field.REDIS_LOCK: 20, field.FILELOCK: 20, field.PREFECT: 3}
QUICKER = {field.PORTALOCKER: 10}  # with fewer stays one is done before another begins
P99_US = 1000
FLAT = 1.3

TRIES = 20  # until two processes happened to wait for each other

Measure = Callable[[], list[float]]  # hand-overs, in microseconds
Measured = tuple[
    Contender, Contender | None, Measure
]  # lines of the median, of the 99th percentile


def hand_over(bench: Bench, table: Table) -> Iterator[None]:
    """From a release in one process to the body in another that waits."""
    count = bench.some(200, 20)
    lowest = floor(bench, table)
    daemon = bench.daemon()
    table.note("Each round's median and 99th percentile. Who polls, does so every 5 ms.")
    table.note(
        "portalocker's waiters are the kernel's, which wakes one of them; one slot, no rate."
    )
    measures = _peers(bench, table, daemon, count) + _ours(bench, table, daemon, lowest, count)
    while True:
        if lowest is not None:
            lowest.add(bench.floor.round_trip(10 * count, bench.cores))
        for line, last, measure in measures:
            found = _some(measure)
            line.add(median(found))
            if last is not None:
                last.add(percentile_99(found))
        yield


def _peers(bench: Bench, table: Table, daemon: Daemon, count: int) -> list[Measured]:
    found: list[Measured] = []

    def add(kind: Kind, scene: str, processes: int, stays: int) -> None:
        line = table.line(f"{scene}, {kind.told}", MICROSECONDS, Role.PEER, scene=scene)
        clients = _clients(bench, daemon, kind, scene, processes)
        found.append((line, None, _between(clients, scene, stays)))

    for kind in bench.field.of(*POLLERS):
        add(kind, "1 waiter", 2, bench.some(POLLERS[kind], 3))
    number = bench.some(PROCESSES, 3)
    for kind in bench.field.of(field.REDIS_WAKE, field.PORTALOCKER):
        more = QUICKER.get(kind, 1)
        add(kind, "1 waiter", 2, more * count)
        add(kind, f"{number} processes", number, more * max(5, count // 5))
    return found


def _ours(
    bench: Bench, table: Table, daemon: Daemon, lowest: Contender | None, count: int
) -> list[Measured]:
    waiters = bench.some(1000, 50)
    seconds = count / 2000
    want = at_most(2.5, lowest) if lowest else None

    def both(name: str, *wants: Want | None) -> tuple[Contender, Contender]:
        scene = name.partition(",")[0]
        line = table.line(f"atmost, {name}", MICROSECONDS, Role.OURS, *wants, scene=scene)
        last = f"atmost, {name}: 99 % within"
        return line, table.line(last, MICROSECONDS, Role.ASIDE, at_most(P99_US))

    pair = _clients(bench, daemon, field.OURS, "pair", 2)
    ten = _clients(bench, daemon, field.OURS, "ten", bench.some(PROCESSES, 3))
    one = both("1 waiter, asyncio", want)
    many = both(f"{waiters:,} waiters, asyncio", want, at_most(FLAT, one[0]))
    crowds = _crowds(bench, daemon, waiters)
    return [
        (*both("1 waiter, blocking", want), _between(pair, "pair", count)),
        (*both(f"{len(ten)} processes, blocking", want), _between(ten, "ten", max(5, count // 5))),
        (*one, lambda: _crowded(crowds, "one", seconds)),
        (*many, lambda: _crowded(crowds, "many", seconds)),
    ]


def _some(measure: Measure) -> list[float]:
    """At least one."""
    for _ in range(TRIES):
        if found := measure():
            return found
    raise RuntimeError("no hand-over was seen: nobody waited when another let go")


def _clients(bench: Bench, daemon: Daemon, kind: Kind, name: str, count: int) -> list[Client]:
    clients = [bench.client_of(kind, daemon) for _ in range(count)]
    for client in clients:
        client.ask("prepare", name=name, slots=1)
    return clients


def _between(clients: list[Client], name: str, count: int) -> Measure:
    return lambda: in_microseconds(ask_all(clients, "stays", name=name, count=count))


def _crowds(bench: Bench, daemon: Daemon, waiters: int) -> list[Client]:
    """Two processes whose tasks stand in two lines: of one waiter, and of many."""
    daemon.client.create_limit("one", 1)
    daemon.client.create_limit("many", 1)
    crowds = [bench.client("crowd", daemon.socket) for _ in range(2)]
    for number in range(waiters + 1):  # one of them holds
        for name in ("one", "many") if number < 2 else ("many",):
            crowds[number % 2].ask("join", name=name)
    return crowds


def _crowded(crowds: list[Client], name: str, seconds: float) -> list[float]:
    ask_all(crowds, "go", name=name)
    time.sleep(seconds)
    ask_all(crowds, "halt", name=name)
    return in_microseconds(ask_all(crowds, "stays"))


def in_microseconds(stays: list[list[Stay]]) -> list[float]:
    """The hand-overs from one process to another that was waiting then."""
    in_order = sorted(
        (entered, asked, let_go, process)
        for process, found in enumerate(stays)
        for asked, entered, let_go in found
    )
    return [
        (entered - let_go) / 1000
        for (_, _, let_go, before), (entered, asked, _, after) in pairwise(in_order)
        if before != after and asked < let_go
    ]


def jobs(bench: Bench, table: Table) -> Iterator[None]:
    """20 processes with a job of 0.1 s each, over 2 slots: until the last is done, after all have
    started. 1 s is the least."""
    daemon = bench.daemon()
    seconds = JOB_SECONDS if not bench.quick else JOB_SECONDS / 20
    entries: list[Entry] = []
    for kind in (*bench.field.of(field.REDIS_LUA, field.REDIS_WAKE, field.PREFECT), field.OURS):
        clients = [bench.client_of(kind, daemon) for _ in range(bench.some(JOBS, 4))]
        for client in clients:
            client.ask("prepare", name="jobs", slots=JOB_SLOTS)
            client.ask("cycles", name="jobs", count=1)  # has started, and is connected
        is_ours = kind is field.OURS
        want = at_most(1.02) if is_ours and not bench.quick else None
        line = table.line(kind.told, SECONDS, Role.OURS if is_ours else Role.PEER, want)
        entries.append((line, _all_jobs(clients, seconds)))
    yield from in_turn(entries)


def _all_jobs(clients: list[Client], seconds: float) -> Callable[[], float]:
    def measure() -> float:
        begin = soon()
        done = ask_all(clients, "job", name="jobs", at_ns=begin, seconds=seconds)
        return float(max(done) - begin) / 1e9

    return measure
