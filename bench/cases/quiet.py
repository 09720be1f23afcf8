"""A daemon that has nothing to do, and one that was killed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import contenders as field
from bench.cases.common import warm_up
from bench.figures import COUNT, MEGABYTES, MILLISECONDS, Role, Table, at_most
from bench.processes import Bench, ask_all

REST_MB = 40
SERVING_MS = 3000


def rest(bench: Bench, table: Table) -> Iterator[None]:
    """A daemon that has worked and has nothing to do, with one that holds and one that waits."""
    seconds = 0.5 if bench.quick else 2.0
    wake_ups = table.line(f"times that it woke up in {seconds:g} s", COUNT, Role.OURS, at_most(0))
    memory = table.line("resident memory", MEGABYTES, Role.OURS, at_most(REST_MB))
    daemon = bench.daemon()
    daemon.client.create_limit("rest", 1)
    clients = [bench.client_of(field.OURS, daemon) for _ in range(2)]
    for client in clients:
        client.ask("cycles", name="rest", count=warm_up(bench))
    clients[0].ask("keep", name="rest")
    clients[1].tell("keep", name="rest")
    while not daemon.client.read_limit("rest").waiting:
        time.sleep(0.01)
    time.sleep(0.1)
    while True:
        before = daemon.wake_ups
        time.sleep(seconds)
        wake_ups.add(daemon.wake_ups - before)
        memory.add(daemon.resident_mb)
        yield


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
