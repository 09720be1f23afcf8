"""A daemon that has much: an operation costs what it costs an empty one, and nobody is held up.

Rule: the same client process takes the time of both daemons' operations, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench import contenders as field
from bench.cases.common import Entry, in_turn, warm_up
from bench.figures import MEGABYTES, MICROSECONDS, Role, Table, at_most
from bench.processes import Bench, Client, ask_all, descriptors
from bench.servers import Daemon

FLAT = 1.3
RESIDENT_MB = 250
CLIENTS, CLIENTS_QUICK = 10, 2  # processes that make the load
SPARE = 30  # connections, for those who look
DESCRIPTORS_EACH, DESCRIPTORS_OWN = 2, 200  # of the daemon, for a connection; for itself


def connections(bench: Bench, table: Table) -> Iterator[None]:
    """10,000 connections, of 10 processes."""
    wanted = bench.some(10_000, 100)
    allowed = descriptors(DESCRIPTORS_EACH * wanted + DESCRIPTORS_OWN)
    clients = bench.some(CLIENTS, CLIENTS_QUICK)
    count = min(wanted, (allowed - DESCRIPTORS_OWN) // DESCRIPTORS_EACH // clients * clients)
    if count < wanted:
        table.note(f"Only {count:,}: {allowed:,} open files are allowed here (ulimit -n).")
    more = (f"connections={count + SPARE}", f"connections_per_uid={count + SPARE}")
    empty, daemon = bench.daemon(), bench.daemon(None, *bounds(*more))
    crowd = [bench.client_of(field.OURS, daemon) for _ in range(clients)]
    ask_all(crowd, "connect", count=count // clients)
    yield from _loaded(bench, table, empty, {f"{count:,} connections": daemon})


def limits(bench: Bench, table: Table) -> Iterator[None]:
    """10,000 limits."""
    count = bench.some(10_000, 200)
    empty, daemon = bench.daemon(), bench.daemon()
    client = bench.client("crowd", daemon.socket)
    client.ask("create", count=count)
    yield from _loaded(bench, table, empty, {f"{count:,} limits": daemon})


def waiters(bench: Bench, table: Table) -> Iterator[None]:
    """100,000 requests that wait: for one limit, and for 1,000 limits."""
    count = bench.some(100_000, 1000)
    several = bench.some(1000, 10)
    empty, one, many = bench.daemon(), big(bench), big(bench)
    names = [f"many-{number}" for number in range(several)]
    for daemon, group in ((one, ["one"]), (many, names)):
        stand_in_line(bench, daemon, [[name] for name in group], group, count)
    told = f"{count:,} waiters"
    loads = {f"{told} on one limit": one, f"{told} on {several:,} limits": many}
    yield from _loaded(bench, table, empty, loads)


def several(bench: Bench, table: Table) -> Iterator[None]:
    """100,000 requests that wait for three limits each, of 30."""
    count = bench.some(100_000, 1000)
    names = [f"several-{number}" for number in range(30)]
    groups = [[names[number], names[number - 7], names[number - 13]] for number in range(30)]
    empty, daemon = bench.daemon(), big(bench)
    stand_in_line(bench, daemon, groups, names, count)
    yield from _loaded(bench, table, empty, {f"{count:,} requests over 3 limits": daemon})


def bounds(*bounds: str) -> list[str]:
    return [word for bound in bounds for word in ("--bound", bound)]


def big(bench: Bench) -> Daemon:
    most = ("waiters_per_limit=1000000", "waiters_per_connection=1000000")
    return bench.daemon(None, *bounds(*most, "requests_per_connection=1000000"))


def stand_in_line(
    bench: Bench, daemon: Daemon, groups: list[list[str]], names: list[str], count: int
) -> list[Client]:
    """All slots are held, and so many requests wait; gives who makes them."""
    holder = bench.client_of(field.OURS, daemon)
    for name in names:
        holder.ask("prepare", name=name, slots=1)
        holder.ask("keep", name=name)
    crowds = [
        bench.client("crowd", daemon.socket) for _ in range(bench.some(CLIENTS, CLIENTS_QUICK))
    ]
    ask_all(crowds, "wait", names=groups, each=count // len(crowds) // len(groups))
    return crowds


def _loaded(bench: Bench, table: Table, empty: Daemon, loads: dict[str, Daemon]) -> Iterator[None]:
    """Their operations beside those of an empty one, and their memory."""
    nothing = table.line("acquire + release, empty daemon", MICROSECONDS, Role.FLOOR)
    entries: list[Entry] = [(nothing, _cycles(bench, empty))]
    for load, daemon in loads.items():
        line = table.line(
            f"acquire + release, {load}", MICROSECONDS, Role.OURS, at_most(FLAT, nothing)
        )
        want = at_most(RESIDENT_MB)
        memory = table.line(f"resident memory, {load}", MEGABYTES, Role.OURS, want)
        entries += [(line, _cycles(bench, daemon)), (memory, _resident(daemon))]
    yield from in_turn(entries)


def _resident(daemon: Daemon) -> Callable[[], float]:
    return lambda: daemon.resident_mb


def _cycles(bench: Bench, daemon: Daemon) -> Callable[[], float]:
    count = bench.some(500, 50)
    client = bench.client_of(field.OURS, daemon)
    client.ask("prepare", name="free", slots=1)
    client.ask("cycles", name="free", count=warm_up(bench))
    return lambda: client.ask("cycles", name="free", count=count)
