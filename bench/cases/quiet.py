"""A daemon that has nothing to do, and one that was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import contenders as field
from bench.cases.common import warm_up
from bench.cases.shell import our_command
from bench.contenders import Kind
from bench.figures import COUNT, MEGABYTES, MICROSECONDS, MILLISECONDS, Role, Table, at_most
from bench.processes import Bench, ask_all
from bench.servers import Daemon, cpu_us, wake_ups

REST_MB = 40
SERVING_MS = 3000
CPU = "CPU in a second of waiting: {}"
NEVER = (Role.OURS, at_most(0))
WAITERS = (
    *(field.REDIS_LUA, field.REDIS_WAKE, field.REDIS_LOCK),
    *(field.FILELOCK, field.PORTALOCKER, field.PREFECT),
)


def rest(bench: Bench, table: Table) -> Iterator[None]:
    """Who has nothing to do but wait: a daemon, a blocking client, an asyncio client with 1,000 tasks,
    a command. Beside them, what waiting costs one client process of others."""
    seconds = 0.5 if bench.quick else 2.0
    daemon = bench.daemon()
    ours = _ours(bench, daemon)
    cpu = table.line(CPU.format("our four"), MICROSECONDS, Role.OURS, at_most(0))
    woken = {
        name: table.line(f"times that it woke up in {seconds:g} s: {name}", COUNT, *NEVER)
        for name in ours
    }
    memory = table.line("resident memory", MEGABYTES, Role.OURS, at_most(REST_MB))
    others = {
        table.line(CPU.format(kind.told), MICROSECONDS, Role.PEER): pids
        for kind, pids in _peers(bench, daemon).items()
    }
    time.sleep(0.5)
    while True:
        before = {name: wake_ups(pid) for name, pid in ours.items()}
        spent = [
            (line, pids, _cpu(pids)) for line, pids in [(cpu, [*ours.values()]), *others.items()]
        ]
        time.sleep(seconds)
        for name, line in woken.items():
            line.add(wake_ups(ours[name]) - before[name])
        for line, pids, then in spent:
            line.add((_cpu(pids) - then) / seconds)
        memory.add(daemon.resident_mb)
        yield


def _ours(bench: Bench, daemon: Daemon) -> dict[str, int]:
    """Who waits, and for whom: process ids."""
    daemon.client.create_limit("rest", 1)
    holder, waiter = (bench.client_of(field.OURS, daemon) for _ in range(2))
    for client in (holder, waiter):
        client.ask("cycles", name="rest", count=warm_up(bench))
    holder.ask("keep", name="rest")
    waiter.tell("keep", name="rest")
    tasks = bench.some(1000, 50)
    crowd = bench.client("crowd", daemon.socket)
    crowd.ask("wait", names=[["rest"]], each=tasks)
    words = [*our_command(), "run", "rest", "--", "true"]
    command = bench.command(words, {"ATMOST_SOCKET": str(daemon.socket)})
    while daemon.client.read_limit("rest").waiting < tasks + 2:
        time.sleep(0.01)
    return {
        "the daemon": daemon.process.pid,
        "a blocking client": waiter.pid,
        f"an asyncio client with {tasks:,} tasks": crowd.pid,
        "atmost run": command.pid,
    }


def _peers(bench: Bench, daemon: Daemon) -> dict[Kind, list[int]]:
    """One process that waits for each of them."""
    found = {}
    for kind in bench.field.of(*WAITERS):
        holder, waiter = (bench.client_of(kind, daemon) for _ in range(2))
        for client in (holder, waiter):
            client.ask("prepare", name=kind.program, slots=1)
        holder.ask("keep", name=kind.program)
        waiter.tell("keep", name=kind.program)
        found[kind] = [waiter.pid]
    return found


def _cpu(pids: list[int]) -> float:
    return sum(cpu_us(pid) for pid in pids)


def restart(bench: Bench, table: Table) -> Iterator[None]:
    """From kill -9 of the daemon until the next one serves, and until it has heard from every
    client."""
    clients, holds, waits = bench.some(10, 3), bench.some(1000, 50), bench.some(10_000, 100)
    about = f"{clients} clients with {clients * holds:,} holds and {clients * waits:,} waits"
    empty = table.line("with no client: serving again", MILLISECONDS, Role.ASIDE)
    serving = table.line(
        f"{about}: serving again",
        MILLISECONDS,
        Role.OURS,
        None if bench.quick else at_most(SERVING_MS),
    )
    back = table.line(f"{about}: all are back", MILLISECONDS, Role.ASIDE)
    idle, daemon = bench.daemon(), bench.daemon()
    daemon.client.create_limit("full", clients * holds)
    daemon.client.create_limit("other", 1)
    crowds = [bench.client("crowd", daemon.socket) for _ in range(clients)]
    ask_all(crowds, "hold", name="full", count=holds)
    ask_all(crowds, "wait", names=["full"], each=waits)
    while True:
        begin = time.monotonic()
        idle.kill_and_start()
        idle.wait_until_ready()
        empty.add((time.monotonic() - begin) * 1000)
        begin = time.monotonic()
        daemon.kill_and_start()
        for crowd in crowds:
            crowd.tell("back")
        daemon.wait_until_ready()
        with daemon.client.concurrency("other"):
            serving.add((time.monotonic() - begin) * 1000)
        for crowd in crowds:
            crowd.answer()
        back.add((time.monotonic() - begin) * 1000)
        found = daemon.client.read_limit("full")
        assert (found.held, found.waiting) == (clients * holds, clients * waits), found
        yield
