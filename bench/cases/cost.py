"""What one acquire + release costs: the caller's time, and the server's CPU."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

from bench import contenders as field
from bench.cases.common import (
    FOREVER_LIMIT,
    Entry,
    floor,
    in_turn,
    role_of,
    soon,
    warm_up,
)
from bench.contenders import Kind
from bench.figures import MICROSECONDS, Contender, Role, Table, at_most, faster
from bench.processes import Bench, Client, Cores, ask_all
from bench.servers import Server

THREADS = PROCESSES = 16
IN_FLIGHT = 10


def acquire(bench: Bench, table: Table) -> Iterator[None]:
    """A blocking client's acquire + release, nobody else there."""
    slots = (
        *(field.REDIS_LUA, field.REDIS_LOCK),
        *(field.FILELOCK, field.PORTALOCKER, field.PREFECT, field.IN_PROCESS),
    )
    table.note("filelock and portalocker have one slot, and no line of who came first.")
    yield from _one_by_one(bench, table, "cycles", bench.cores, slots, 1.4, field.REDIS_LUA)


def one_core(bench: Bench, table: Table) -> Iterator[None]:
    """The same with both ends on one core: the work of both, without the waking of a core."""
    yield from _one_by_one(bench, table, "cycles", bench.cores.together(), (field.REDIS_LUA,))


def rate_limit(bench: Bench, table: Table) -> Iterator[None]:
    """rate_limit by a blocking client, which never has to wait."""
    rates = (
        *(field.LIMITS, field.LIMITS_MOVING),
        *(field.PYRATE, field.PYRATE_SQLITE, field.PREFECT),
    )
    yield from _one_by_one(bench, table, "calls", bench.cores, rates, 1.3)


def _one_by_one(
    bench: Bench,
    table: Table,
    what: str,
    cores: Cores,
    peers: tuple[Kind, ...],
    of_the_floor: float | None = None,
    three_times: Kind | None = None,
) -> Iterator[None]:
    count = bench.some(1000, 50)
    entries = _floor_entries(bench, table, 2 * count, cores)
    lowest = entries[0][0] if entries else None
    found = bench.field.of(*peers)
    lines = {kind: table.line(kind.told, MICROSECONDS, role_of(kind)) for kind in found}
    ours = table.line(
        field.OURS.told,
        MICROSECONDS,
        Role.OURS,
        at_most(of_the_floor, lowest) if lowest and of_the_floor else None,
        faster(3, lines[three_times]) if three_times in lines else None,
    )
    daemon = bench.daemon(cores)
    for kind, line in ((field.OURS, ours), *lines.items()):
        client = bench.client_of(kind, daemon, cores)
        _prepare(client, what)
        client.ask(what, name=what, count=max(1, warm_up(bench) // kind.slower))
        entries.append((line, _asking(client, what, max(1, count // kind.slower))))
    yield from in_turn(entries)


def _asking(client: Client, what: str, count: int) -> Callable[[], float]:
    return lambda: client.ask(what, name=what, count=count)


def _floor_entries(
    bench: Bench, table: Table, trips: int, cores: Cores | None = None
) -> list[Entry]:
    """The ping-pong's, if there is a ping-pong."""
    lowest = floor(bench, table)
    if lowest is None:
        return []
    return [(lowest, lambda: bench.floor.round_trip(trips, cores or bench.cores))]


def _prepare(client: Client, name: str) -> None:
    if name == "cycles":
        client.ask("prepare", name=name, slots=1)
    else:
        client.ask("prepare", name=name, slots=FOREVER_LIMIT, rate=1_000_000.0)


def redis_benchmark(bench: Bench, table: Table) -> Iterator[None]:
    """Redis' own benchmark tool, in C: the script that takes a slot, by one connection. A semaphore
    needs two such calls."""
    if not bench.field.has("redis"):
        table.note("Redis is not there, or was not asked for.")
        yield
        return
    count = bench.some(3000, 100)
    daemon = bench.daemon()
    client = bench.client_of(field.REDIS_LUA, daemon)
    command = [
        *(field.REDIS_BENCHMARK, "-s", str(bench.redis().socket), "-c", "1", "--csv"),
        *("-n", str(count), "EVALSHA", client.ask("sha"), "1", "benchmark", "1", "30", "me"),
    ]

    def measure() -> float:
        pinned = ["taskset", "-c", str(bench.cores.asking), *command]
        told = subprocess.check_output(pinned, text=True).splitlines()[-1]
        per_second = float(told.rsplit('","', 7)[1].strip('"'))
        return 1_000_000 / per_second

    ours = bench.client_of(field.OURS, daemon)
    _prepare(ours, "cycles")
    ours.ask("cycles", name="cycles", count=warm_up(bench))
    yield from in_turn(
        [
            (table.line("redis-benchmark, EVALSHA", MICROSECONDS, Role.PEER), measure),
            (
                table.line(f"{field.OURS.told}, acquire + release", MICROSECONDS),
                lambda: ours.ask("cycles", name="cycles", count=count),
            ),
        ]
    )


def cpu(bench: Bench, table: Table) -> Iterator[None]:
    """The server's CPU for one acquire + release: one at a time, and with 10 in flight."""
    count = bench.some(2000, 100)
    ways = {
        "1 blocking client": _alone,
        "10 in flight: 10 blocking processes": _in_ten,
        "10 in flight: tasks of 1 asyncio client": _in_tasks,
    }
    daemon = bench.daemon()
    theirs: dict[str, Contender] = {}
    entries: list[Entry] = []
    for kind in (*bench.field.of(field.REDIS_LUA), field.OURS):
        is_ours = kind is field.OURS
        server: Server = daemon if is_ours else bench.redis()
        clients = [bench.client_of(kind, daemon) for _ in range(IN_FLIGHT)]
        for client in clients:
            client.ask("prepare", name="cpu", slots=IN_FLIGHT)
            client.ask("cycles", name="cpu", count=warm_up(bench))
        for way, do in ways.items():
            if is_ours:
                want = at_most(0.7, theirs[way]) if way in theirs else None
                line = table.line(f"atmost, {way}", MICROSECONDS, Role.OURS, want, scene=way)
            else:
                line = table.line(f"Redis, {way}", MICROSECONDS, Role.PEER, scene=way)
                theirs[way] = line
            entries.append((line, _spent(server, count, do, clients)))
    yield from in_turn(entries)


def _spent(
    server: Server, count: int, do: Callable[[list[Client], int], None], clients: list[Client]
) -> Callable[[], float]:
    def measure() -> float:
        before = server.cpu_us
        do(clients, count)
        return (server.cpu_us - before) / count

    return measure


def _alone(clients: list[Client], count: int) -> None:
    clients[0].ask("cycles", name="cpu", count=count)


def _in_ten(clients: list[Client], count: int) -> None:
    ask_all(clients, "cycles", name="cpu", count=count // IN_FLIGHT)


def _in_tasks(clients: list[Client], count: int) -> None:
    clients[0].ask("tasks", name="cpu", count=count, tasks=IN_FLIGHT, loop="asyncio")


def threads(bench: Bench, table: Table) -> Iterator[None]:
    """acquire + release by 16 threads over one blocking client: time in all, for each."""
    count = bench.some(1600, 160)
    daemon = bench.daemon()
    entries = _floor_entries(bench, table, 2 * count)

    def add(line: Contender, client: Client, threads: int) -> None:
        def measure() -> float:
            return float(client.ask("threads", name="threads", count=count, threads=threads))

        entries.append((line, measure))

    theirs: list[Contender] = []
    for kind in bench.field.of(field.REDIS_LUA):
        client = bench.client_of(kind, daemon)
        client.ask("prepare", name="threads", slots=THREADS)
        theirs.append(table.line(f"{kind.told}, 16 threads", MICROSECONDS, Role.PEER))
        add(theirs[0], client, THREADS)
    client = bench.client_of(field.OURS, daemon)
    client.ask("prepare", name="threads", slots=THREADS)
    one = table.line("atmost, 1 thread", MICROSECONDS, Role.ASIDE)
    wants = (at_most(1, one), *(faster(2, line) for line in theirs))
    add(one, client, 1)
    add(table.line("atmost, 16 threads", MICROSECONDS, Role.OURS, *wants), client, THREADS)
    yield from in_turn(entries)


def processes(bench: Bench, table: Table) -> Iterator[None]:
    """acquire + release by 16 processes at the same time, nobody waits: time in all, for each."""
    each = bench.some(150, 10)
    daemon = bench.daemon()
    entries = _floor_entries(bench, table, 2000)
    number = bench.some(PROCESSES, 4)

    def add(line: Contender, clients: list[Client], each: int) -> None:
        def measure() -> float:
            spans = ask_all(clients, "cycles_at", name="processes", count=each, at_ns=soon())
            took = max(end for _, end in spans) - min(begin for begin, _ in spans)
            return float(took / len(clients) / each / 1000)

        entries.append((line, measure))

    def several(kind: Kind) -> list[Client]:
        clients = [bench.client_of(kind, daemon) for _ in range(number)]
        for client in clients:
            client.ask("prepare", name="processes", slots=number)
            client.ask("cycles", name="processes", count=warm_up(bench))
        return clients

    theirs: list[Contender] = []
    for kind in bench.field.of(field.REDIS_LUA):
        theirs.append(table.line(f"{kind.told}, {number} processes", MICROSECONDS, Role.PEER))
        add(theirs[0], several(kind), each)
    clients = several(field.OURS)
    one = table.line("atmost, 1 process", MICROSECONDS, Role.ASIDE)
    wants = (at_most(1, one), *(faster(2, line) for line in theirs))
    add(one, clients[:1], each * number)
    add(table.line(f"atmost, {number} processes", MICROSECONDS, Role.OURS, *wants), clients, each)
    yield from in_turn(entries)
