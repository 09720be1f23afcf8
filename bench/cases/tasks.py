"""Many tasks of one program on an event loop."""

from __future__ import annotations

from collections.abc import Iterator

from bench import contenders as field
from bench.cases.common import Entry, in_turn
from bench.figures import PER_SECOND, Contender, Role, Table, at_least, faster
from bench.processes import Bench, Client

TASKS, SLOTS = 100, 10
CYCLES_A_SECOND = 30_000


def tasks(bench: Bench, table: Table) -> Iterator[None]:
    """acquire + release by 100 tasks of one asyncio client, on a limit of 10."""
    count = bench.some(3000, 200)
    daemon = bench.daemon()
    loops = ["asyncio", *(["uvloop"] if bench.field.has("uvloop") else [])]
    entries: list[Entry] = []

    def add(line: Contender, client: Client, loop: str) -> None:
        def measure() -> float:
            took = client.ask("tasks", name="tasks", count=count, tasks=TASKS, loop=loop)
            return float(1_000_000 / took)

        entries.append((line, measure))

    theirs: dict[str, Contender] = {}
    ways = {field.REDIS_WAKE: "BLPOP", field.REDIS_LUA: "10 connections"}
    for kind in (*bench.field.of(*ways), field.IN_PROCESS, field.OURS):
        client = bench.client_of(kind, daemon)
        client.ask("prepare", name="tasks", slots=SLOTS)
        for loop in loops:
            if kind is field.OURS:
                wants = (
                    at_least(CYCLES_A_SECOND),
                    faster(3, theirs[loop]) if loop in theirs else None,
                )
                line = table.line(f"atmost on {loop}", PER_SECOND, Role.OURS, *wants, scene=loop)
            elif kind is field.IN_PROCESS:
                name = f"asyncio.BoundedSemaphore on {loop}, one process alone"
                line = table.line(name, PER_SECOND, Role.INSIDE, scene=loop)
            else:
                name = f"redis.asyncio on {loop}, Lua, {ways[kind]}"
                line = theirs[loop] = table.line(name, PER_SECOND, Role.PEER, scene=loop)
            add(line, client, loop)
    yield from in_turn(entries)
