"""A daemon that has much: an operation costs what it costs an empty one, and nobody is held up.

Rule: the same client process takes the time of both daemons' operations, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

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


class Load(NamedTuple):
    """A daemon that has much, and whom its waiters wait for; of which each names so many."""

    told: str
    daemon: Daemon
    line: tuple[str, ...] = ()


def connections(bench: Bench, table: Table) -> Iterator[None]:
    """10,000 connections, of 10 processes."""
    count = connections_allowed(bench, table)
    empty, daemon = bench.daemon(), bench.daemon(None, *bounds(*room_for(count)))
    connect(bench, daemon, count)
    yield from _loaded(bench, table, empty, [Load(f"{count:,} connections", daemon)])


def limits(bench: Bench, table: Table) -> Iterator[None]:
    """10,000 limits."""
    count = bench.some(10_000, 200)
    empty, daemon = bench.daemon(), bench.daemon()
    bench.client("crowd", daemon.socket).ask("create", count=count)
    yield from _loaded(bench, table, empty, [Load(f"{count:,} limits", daemon)])


def waiters(bench: Bench, table: Table) -> Iterator[None]:
    """100,000 requests that wait: for one limit, and for 1,000 limits."""
    count = bench.some(100_000, 1000)
    several = bench.some(1000, 10)
    empty, one, many = bench.daemon(), big(bench), big(bench)
    names = [f"many-{number}" for number in range(several)]
    for daemon, group in ((one, ["one"]), (many, names)):
        stand_in_line(bench, daemon, [[name] for name in group], group, count)
    told = f"{count:,} waiters"
    loads = [Load(f"{told} on one limit", one, ("one",))]
    loads += [Load(f"{told} on {several:,} limits", many, (names[0],))]
    yield from _loaded(bench, table, empty, loads)


def several(bench: Bench, table: Table) -> Iterator[None]:
    """100,000 requests that wait for three limits each, of 30."""
    count = bench.some(100_000, 1000)
    names = [f"several-{number}" for number in range(30)]
    groups = [[names[number], names[number - 7], names[number - 13]] for number in range(30)]
    empty, daemon = bench.daemon(), big(bench)
    stand_in_line(bench, daemon, groups, names, count)
    load = Load(f"{count:,} requests over 3 limits", daemon, tuple(groups[0]))
    yield from _loaded(bench, table, empty, [load])


def together(bench: Bench, table: Table) -> Iterator[None]:
    """10,000 connections, 10,000 limits and 100,000 waiters on one of them, all of one daemon."""
    count, waiting = bench.some(10_000, 100), bench.some(100_000, 1000)
    joined = connections_allowed(bench, table)
    empty, daemon = bench.daemon(), big(bench, *room_for(joined))
    bench.client("crowd", daemon.socket).ask("create", count=count)
    connect(bench, daemon, joined)
    stand_in_line(bench, daemon, [["one"]], ["one"], waiting)
    told = f"{joined:,} connections, {count:,} limits, {waiting:,} waiters"
    yield from _loaded(bench, table, empty, [Load(told, daemon, ("one",))])


def connections_allowed(bench: Bench, table: Table) -> int:
    """How many there can be; the table says so if they are fewer."""
    wanted = bench.some(10_000, 100)
    allowed = descriptors(DESCRIPTORS_EACH * wanted + DESCRIPTORS_OWN)
    clients = bench.some(CLIENTS, CLIENTS_QUICK)
    count = min(wanted, (allowed - DESCRIPTORS_OWN) // DESCRIPTORS_EACH // clients * clients)
    if count < wanted:
        table.note(f"Only {count:,}: {allowed:,} open files are allowed here (ulimit -n).")
    return count


def room_for(connections: int) -> tuple[str, str]:
    """Bounds of a daemon."""
    return (
        f"connections={connections + SPARE}",
        f"connections_per_uid={connections + SPARE}",
    )


def connect(bench: Bench, daemon: Daemon, count: int) -> None:
    clients = bench.some(CLIENTS, CLIENTS_QUICK)
    crowd = [bench.client_of(field.OURS, daemon) for _ in range(clients)]
    ask_all(crowd, "connect", count=count // clients)


def bounds(*bounds: str) -> list[str]:
    return [word for bound in bounds for word in ("--bound", bound)]


def big(bench: Bench, *more: str) -> Daemon:
    most = ("waiters_per_limit=1000000", "waiters_per_connection=1000000")
    return bench.daemon(None, *bounds(*most, "requests_per_connection=1000000", *more))


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


def _loaded(bench: Bench, table: Table, empty: Daemon, loads: list[Load]) -> Iterator[None]:
    """Their operations beside those of an empty one, and their memory."""
    nothing = table.line("acquire + release, empty daemon", MICROSECONDS, Role.FLOOR)
    entries: list[Entry] = [(nothing, _cycles(bench, empty))]
    for load in loads:
        words = f"acquire + release, {load.told}"
        line = table.line(words, MICROSECONDS, Role.OURS, at_most(FLAT, nothing))
        entries.append((line, _cycles(bench, load.daemon)))
    lines = [load for load in loads if load.line]
    if lines:
        names = list(lines[0].line)
        stand_in_line(bench, empty, [names], names, 0)
        alone = table.line("a waiter comes and goes, empty line", MICROSECONDS, Role.ASIDE)
        entries.append((alone, _comings(bench, empty, lines[0].line)))
    for load in lines:
        words = f"a waiter comes and goes, {load.told}"
        line = table.line(words, MICROSECONDS, Role.ASIDE, at_most(FLAT, alone))
        entries.append((line, _comings(bench, load.daemon, load.line)))
    for load in loads:
        words = f"resident memory, {load.told}"
        memory = table.line(words, MEGABYTES, Role.OURS, at_most(RESIDENT_MB))
        entries.append((memory, _resident(load.daemon)))
    yield from in_turn(entries)


def _comings(bench: Bench, daemon: Daemon, names: tuple[str, ...]) -> Callable[[], float]:
    count = bench.some(500, 50)
    client = bench.client("crowd", daemon.socket)
    order = {"names": names, "count": count}
    client.ask("come_and_go", **order)
    return lambda: float(client.ask("come_and_go", **order))


def _resident(daemon: Daemon) -> Callable[[], float]:
    return lambda: daemon.resident_mb


def _cycles(bench: Bench, daemon: Daemon) -> Callable[[], float]:
    count = bench.some(500, 50)
    client = bench.client_of(field.OURS, daemon)
    client.ask("prepare", name="free", slots=1)
    client.ask("cycles", name="free", count=warm_up(bench))
    return lambda: client.ask("cycles", name="free", count=count)
