"""Whole commands, from start to end, and what importing the library takes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.cases.common import Entry, in_turn
from bench.contenders import Kind
from bench.figures import MILLISECONDS, Contender, Role, Table, at_most
from bench.processes import Bench

IMPORTS = "import socket, msgspec"
TIMED = "from time import perf_counter_ns as now; begin = now(); {}; print((now() - begin) / 1e6)"
RUNNER = Kind("", "commands", "atmost", "folder")


def command(bench: Bench, table: Table) -> Iterator[None]:
    """A whole command, nobody else there: its process, from start to end."""
    table.note("flock(1) is one slot, and quicker than anything that has to start a Python.")
    daemon = bench.daemon()
    daemon.client.create_limit("x", 1)
    memory = bench.memory_folder()
    runner = bench.client_of(RUNNER, daemon)
    count = bench.some(3, 1)
    environ = {"ATMOST_SOCKET": str(daemon.socket), "PARALLEL_HOME": str(memory)}
    entries: list[Entry] = []

    def add(line: Contender, words: list[str]) -> None:
        entries.append(
            (line, lambda: runner.ask("runs", command=words, count=count, environ=environ))
        )

    add(table.line("python3 -c pass", MILLISECONDS, Role.ASIDE), [sys.executable, "-c", "pass"])
    imports = table.line(f"python3 -c '{IMPORTS}'", MILLISECONDS, Role.FLOOR)
    add(imports, [sys.executable, "-c", IMPORTS])
    wants = [at_most(1.3, imports)]
    if bench.field.has("flock"):
        flock = ["flock", str(memory / "flock"), "true"]
        add(table.line("flock FILE true", MILLISECONDS, Role.PEER), flock)
    if bench.field.has("sem"):
        sem = table.line("GNU sem --fg true", MILLISECONDS, Role.PEER)
        add(sem, ["sem", "--id", "atmost-bench", "--fg", "true"])
        wants.append(at_most(0.6, sem))
    ours = our_command()
    add(
        table.line("atmost run x -- true", MILLISECONDS, Role.OURS, *wants),
        [*ours, "run", "x", "--", "true"],
    )
    add(table.line("atmost ls", MILLISECONDS, Role.OURS, *wants), [*ours, "ls"])
    yield from in_turn(entries)


def our_command() -> list[str]:
    """The installed one, as a user has it."""
    beside = Path(sys.executable).with_name("atmost")
    if beside.exists():
        return [str(beside)]
    found = shutil.which("atmost")
    return [found] if found else [sys.executable, "-m", "atmost"]


def imports(bench: Bench, table: Table) -> Iterator[None]:
    """What an import takes, in a new process; without the start of Python itself."""
    runner = bench.client(RUNNER.program, bench.memory_folder())
    entries: list[Entry] = []

    def add(line: Contender, words: str) -> None:
        code = [sys.executable, "-c", TIMED.format(words)]
        entries.append((line, lambda: runner.ask("tells", command=code)))

    least = table.line(IMPORTS, MILLISECONDS, Role.FLOOR)
    add(least, IMPORTS)
    if bench.field.has("redis"):
        add(table.line("import redis", MILLISECONDS, Role.PEER), "import redis")
    if bench.field.has("filelock"):
        add(table.line("import filelock", MILLISECONDS, Role.PEER), "import filelock")
    ours = table.line("import atmost.sync", MILLISECONDS, Role.OURS, at_most(1.2, least))
    add(ours, "import atmost.sync")
    add(table.line("import atmost.asyncio", MILLISECONDS, Role.ASIDE), "import atmost.asyncio")
    yield from in_turn(entries)
