"""A client process: does what it is told on stdin, a JSON line each, and answers with one.

It ends when stdin does, so it never outlives who started it. usage: python -m bench.asker SOCKET CORE
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from atmost.sync import Client, Grant

BODY_NS = 100_000  # of a hand-over: long enough that the other one stands in line again
PAUSED = 0  # in place of the instant at which a task entered: it had to wait for `go` first


class Asker:
    """The blocking client, and the asyncio client for a while."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._client = Client(socket)
        self._grants: list[Grant] = []

    def cycles(self, name: str, count: int) -> float:
        """acquire + release, as a program would write it; microseconds each."""
        client = self._client
        begin = time.perf_counter_ns()
        for _ in range(count):
            with client.concurrency(name):
                pass
        return (time.perf_counter_ns() - begin) / count / 1000

    def calls(self, name: str, count: int) -> float:
        """rate_limit; microseconds each."""
        client = self._client
        begin = time.perf_counter_ns()
        for _ in range(count):
            client.rate_limit(name)
        return (time.perf_counter_ns() - begin) / count / 1000

    def stays(self, name: str, count: int) -> list[tuple[int, int, int]]:
        """Hold, and hand over to the next: (token, entered, let go)."""
        found = []
        for _ in range(count):
            with self._client.concurrency(name) as grant:
                entered = time.monotonic_ns()
                found.append((grant.token, entered, busy_until(entered + BODY_NS)))
        return found

    def hold(self, name: str) -> None:
        self._grants.append(self._client.acquire(name))

    def tasks(self, name: str, count: int, tasks: int, loop: str) -> float:
        """`count` cycles in all by so many tasks of the asyncio client; microseconds each."""
        from bench.crowd import cycle_in_tasks, runner  # asyncio takes a while to import

        return runner(loop)(cycle_in_tasks(self._socket, name, count // tasks, tasks))


def busy_until(instant: int) -> int:
    """Work, so that the core does not fall asleep; returns the time."""
    while (now := time.monotonic_ns()) < instant:
        pass
    return now


def main(socket: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    asker = Asker(socket)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        method: Callable[..., object] = getattr(asker, order.pop("do"))
        print(json.dumps(method(**order)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
