"""The cases: what is measured, how often, and what is wanted.

Rule: a case measures its contenders in turn in each round (A B, A B, ...), see figures.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median

from bench.asker import PAUSED
from bench.figures import (
    COUNT,
    MEGABYTES,
    MICROSECONDS,
    MILLISECONDS,
    PER_SECOND,
    Contender,
    Table,
)
from bench.processes import Asker, Bench, Cores

FOREVER_LIMIT = 2**40  # of a rate limit that never makes anyone wait
WARM_UP = 300  # cycles before the first that counts

FLOOR = "C ping-pong, 32 bytes"

Stays = list[tuple[int, int, int]]  # token, entered, let go


def acquire(bench: Bench, table: Table) -> Iterator[None]:
    """A blocking client's acquire + release, nobody else there."""
    yield from _against_the_floor(bench, table, "cycles", bench.cores, at_most=1.5)


def one_core(bench: Bench, table: Table) -> Iterator[None]:
    """The same with both ends on one core: the work of both, without the waking of a core."""
    yield from _against_the_floor(bench, table, "cycles", bench.cores.together())


def rate_limit(bench: Bench, table: Table) -> Iterator[None]:
    """rate_limit by a blocking client, which never has to wait."""
    yield from _against_the_floor(bench, table, "calls", bench.cores)


def _against_the_floor(
    bench: Bench, table: Table, what: str, cores: Cores, at_most: float | None = None
) -> Iterator[None]:
    count = 200 if bench.quick else 1000
    floor = _floor(bench, table)
    ours = table.contender(
        "atmost, blocking client", MICROSECONDS, floor, at_most if floor else None
    )
    daemon = bench.daemon(cores)
    daemon.client.create_limit("cycles", 1)
    daemon.client.create_limit("calls", FOREVER_LIMIT, slot_decay_per_second=1.0)
    asker = bench.asker(daemon)
    asker.ask(what, name=what, count=WARM_UP)
    while True:
        if floor is not None:
            floor.add(bench.floor.round_trip(2 * count, cores))
        ours.add(asker.ask(what, name=what, count=count))
        yield


def cpu(bench: Bench, table: Table) -> Iterator[None]:
    """The daemon's CPU for one acquire + release."""
    count = 500 if bench.quick else 2000
    alone = table.contender("1 blocking client", MICROSECONDS)
    tasks = table.contender("10 in flight: tasks of 1 asyncio client", MICROSECONDS, at_most=15)
    ten = table.contender("10 in flight: 10 blocking processes", MICROSECONDS)
    daemon = bench.daemon()
    daemon.client.create_limit("cpu", 10)
    askers = [bench.asker(daemon) for _ in range(10)]
    for asker in askers:
        asker.ask("cycles", name="cpu", count=WARM_UP)

    def spent(do: Callable[[], object]) -> float:
        before = daemon.cpu_us
        do()
        return (daemon.cpu_us - before) / count

    def all_ten() -> None:
        for asker in askers:
            asker.tell("cycles", name="cpu", count=count // 10)
        for asker in askers:
            asker.answer()

    while True:
        alone.add(spent(lambda: askers[0].ask("cycles", name="cpu", count=count)))
        tasks.add(spent(lambda: _ten_tasks(askers[0], count)))
        ten.add(spent(all_ten))
        yield


def _ten_tasks(asker: Asker, count: int) -> None:
    asker.ask("tasks", name="cpu", count=count, tasks=10, loop="asyncio")


def hand_over(bench: Bench, table: Table) -> Iterator[None]:
    """From a release in one process to the body in another that waits; the median of each round."""
    count = 50 if bench.quick else 200
    waiters = 200 if bench.quick else 2000
    floor = _floor(bench, table)
    blocking = table.contender("1 waiter, blocking clients", MICROSECONDS, floor)
    one = table.contender("1 waiter, asyncio clients", MICROSECONDS, floor)
    many = table.contender(f"{waiters:,} waiters, asyncio clients", MICROSECONDS, one, at_most=1.3)
    daemon = bench.daemon()
    for name in ("pair", "one", "many"):
        daemon.client.create_limit(name, 1)
    pair = [bench.asker(daemon) for _ in range(2)]
    crowds = [bench.asker(daemon, "crowd") for _ in range(2)]
    for number in range(waiters + 1):  # one of them holds
        for name in ("one", "many") if number < 2 else ("many",):
            crowds[number % 2].ask("join", name=name)
    while True:
        if floor is not None:
            floor.add(bench.floor.round_trip(10 * count, bench.cores))
        for asker in pair:
            asker.tell("stays", name="pair", count=count)
        blocking.add(median(in_microseconds([asker.answer() for asker in pair])))
        for name, contender in (("one", one), ("many", many)):
            contender.add(_crowded(crowds, name, seconds=count / 2000))
        yield


def _crowded(crowds: list[Asker], name: str, seconds: float) -> float:
    for crowd in crowds:
        crowd.ask("go", name=name)
    time.sleep(seconds)
    for crowd in crowds:
        crowd.ask("halt", name=name)
    return median(in_microseconds([crowd.ask("stays") for crowd in crowds]))


def in_microseconds(stays: list[Stays]) -> list[float]:
    """The hand-overs from one process to another."""
    in_order = sorted((*stay, process) for process, found in enumerate(stays) for stay in found)
    return [
        (entered - let_go) / 1000
        for (_, _, let_go, before), (_, entered, _, after) in pairwise(in_order)
        if before != after and entered != PAUSED
    ]


def tasks(bench: Bench, table: Table) -> Iterator[None]:
    """acquire + release by 100 tasks of one asyncio client, on a limit of 10."""
    count = 500 if bench.quick else 3000
    daemon = bench.daemon()
    daemon.client.create_limit("tasks", 10)
    asker = bench.asker(daemon)
    loops = ("asyncio", "uvloop")
    contenders = [table.contender(f"on {loop}", PER_SECOND) for loop in loops]
    while True:
        for loop, contender in zip(loops, contenders, strict=True):
            took = asker.ask("tasks", name="tasks", count=count, tasks=100, loop=loop)
            contender.add(1_000_000 / took)
        yield


def rest(bench: Bench, table: Table) -> Iterator[None]:
    """A daemon that has worked and has nothing to do, with one that holds and one that waits."""
    seconds = 0.5 if bench.quick else 2.0
    wake_ups = table.contender(f"times that it woke up in {seconds:g} s", COUNT, at_most=0)
    memory = table.contender("resident memory", MEGABYTES, at_most=40)
    daemon = bench.daemon()
    daemon.client.create_limit("rest", 1)
    askers = [bench.asker(daemon) for _ in range(2)]
    for asker in askers:
        asker.ask("cycles", name="rest", count=WARM_UP)
    askers[0].ask("hold", name="rest")
    askers[1].tell("hold", name="rest")
    while not daemon.client.read_limit("rest").waiting:
        time.sleep(0.01)
    time.sleep(0.1)
    before = daemon.wake_ups
    time.sleep(seconds)
    wake_ups.add(daemon.wake_ups - before)
    memory.add(daemon.resident_mb)
    yield


def restart(bench: Bench, table: Table) -> Iterator[None]:
    """From kill -9 of the daemon until the next one has heard from every client."""
    clients = 10
    each = 100 if bench.quick else 1000
    empty = table.contender("nobody there", MILLISECONDS)
    all_of = f"{clients * each:,}"
    full = table.contender(f"{all_of} hold, {all_of} wait", MILLISECONDS, at_most=3000)
    idle, daemon = bench.daemon(), bench.daemon()
    daemon.client.create_limit("full", clients * each)
    crowds = [bench.asker(daemon, "crowd") for _ in range(clients)]
    for what in ("hold", "wait"):
        for crowd in crowds:
            crowd.ask(what, name="full", count=each)
    while True:
        begin = time.monotonic()
        idle.kill_and_start()
        idle.wait_until_ready()
        empty.add((time.monotonic() - begin) * 1000)
        begin = time.monotonic()
        daemon.kill_and_start()
        for crowd in crowds:
            crowd.tell("back")
        for crowd in crowds:
            crowd.answer()
        full.add((time.monotonic() - begin) * 1000)
        found = daemon.client.read_limit("full")
        assert found.held == found.waiting == clients * each, found
        yield


def _floor(bench: Bench, table: Table) -> Contender | None:
    """The ping-pong's line, if there is a ping-pong."""
    if bench.floor.missing:
        table.note(bench.floor.missing)
        return None
    return table.contender(FLOOR, MICROSECONDS)


Case = Callable[[Bench, Table], Iterator[None]]

# Each yields at the end of a round. Whoever calls it decides how many there are, and how often it
# starts anew.
CASES: dict[str, Case] = {
    case.__name__: case
    for case in (acquire, one_core, rate_limit, cpu, hand_over, tasks, rest, restart)
}
