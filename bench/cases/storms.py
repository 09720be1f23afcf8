"""Much at once: others are served meanwhile.

Rule: what is told is the slowest acquire + release of somebody else's limit, by a client that does
nothing but that, from before to after. What makes the storm runs behind it on the same core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from bench import contenders as field
from bench.cases.common import warm_up
from bench.cases.scale import CLIENTS, CLIENTS_QUICK, SPARE, big, bounds, stand_in_line
from bench.figures import MILLISECONDS, Role, Table, at_most
from bench.processes import Bench, Client, ask_all, descriptors
from bench.servers import Daemon

HELD_UP_MS = 20
CALM = "nothing happens"


def storms(bench: Bench, table: Table) -> Iterator[None]:
    """The slowest acquire + release by somebody else while much happens at once."""
    while True:
        for told, storm in _storms(bench).items():
            role = Role.ASIDE if told == CALM else Role.OURS
            want = None if bench.quick or told == CALM else at_most(HELD_UP_MS)
            line = table.line(told, MILLISECONDS, role, want)
            line.add(storm(bench))
            bench.end_case()
        yield


def _storms(bench: Bench) -> dict[str, Callable[[Bench], float]]:
    many, some = bench.some(100_000, 1000), bench.some(10_000, 100)
    return {
        CALM: _calm,
        f"{some:,} of {many:,} waiters are cancelled": partial(_cancel, many=many, some=some),
        f"the decay of a limit with {many:,} waiters is edited": partial(_edit, many=many),
        f"a limit with {many:,} waiters is raised to {many:,}": partial(_raise, many=many),
        f"a limit with {many:,} waiters is deleted": partial(_delete, many=many),
        f"the time of {some:,} waiters is up": partial(_time_out, some=some),
        f"{some:,} connections end": partial(_hang_up, some=some),
    }


def _calm(bench: Bench) -> float:
    return _slowest(bench, bench.daemon(), lambda: None)


def _cancel(bench: Bench, many: int, some: int) -> float:
    daemon, crowds = _full(bench, many)
    each = some // len(crowds)
    return _slowest(bench, daemon, lambda: ask_all(crowds, "give_up", count=each))


def _edit(bench: Bench, many: int) -> float:
    daemon, _ = _full(bench, many)
    change = partial(daemon.client.update_limit, "full", slot_decay_per_second=1e-9)
    return _slowest(bench, daemon, change)


def _raise(bench: Bench, many: int) -> float:
    daemon, _ = _full(bench, many)
    return _slowest(bench, daemon, partial(daemon.client.update_limit, "full", limit=many + 1))


def _delete(bench: Bench, many: int) -> float:
    daemon, _ = _full(bench, many)
    return _slowest(bench, daemon, partial(daemon.client.delete_limit, "full"))


def _time_out(bench: Bench, some: int) -> float:
    daemon, _ = _full(bench, 0)
    seconds = 0.3 if bench.quick else 3.0  # until then all stand in line
    crowds = [
        bench.client("crowd", daemon.socket) for _ in range(bench.some(CLIENTS, CLIENTS_QUICK))
    ]
    ask_all(crowds, "nice")
    ask_all(crowds, "time_out", name="full", count=some // len(crowds), seconds=seconds)
    return _slowest(bench, daemon, lambda: ask_all(crowds, "all_timed_out"))


def _hang_up(bench: Bench, some: int) -> float:
    allowed = descriptors(2 * some + 200)
    count = min(some, (allowed - 200) // 2)
    room = count + SPARE
    daemon = bench.daemon(None, *bounds(f"connections={room}", f"connections_per_uid={room}"))
    clients = [
        bench.client_of(field.OURS, daemon) for _ in range(bench.some(CLIENTS, CLIENTS_QUICK))
    ]
    ask_all(clients, "nice")
    ask_all(clients, "connect", count=count // len(clients))
    return _slowest(bench, daemon, partial(_close, clients))


def _close(clients: list[Client]) -> None:
    for client in clients:
        client.close()


def _full(bench: Bench, waiters: int) -> tuple[Daemon, list[Client]]:
    daemon = big(bench)
    crowds = stand_in_line(bench, daemon, [["full"]], ["full"], waiters)
    ask_all(crowds, "nice")
    return daemon, crowds


def _slowest(bench: Bench, daemon: Daemon, do: Callable[[], object]) -> float:
    """In milliseconds."""
    seconds = 0.2 if bench.quick else 2.0
    other = bench.client_of(field.OURS, daemon)
    other.ask("prepare", name="other", slots=1)
    other.ask("cycles", name="other", count=warm_up(bench))
    other.tell("slowest", name="other", seconds=seconds)
    time.sleep(seconds / 8)
    do()
    return float(other.answer())
