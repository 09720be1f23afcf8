"""A client process with many tasks in the line of one limit, one behind the other.

Told on stdin like asker.py. The tasks hand the slot on and stand in line again, for ever; between
two rounds whoever has it keeps it. usage: python -m bench.crowd SOCKET CORE
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from atmost.asyncio import Client, Grant
from bench.asker import BODY_NS, PAUSED, busy_until


class Crowd:
    """Tasks of one event loop, over one connection."""

    def __init__(self, socket: str) -> None:
        self._client = Client(socket)
        self._running: dict[str, asyncio.Event] = {}  # by limit
        self._stays: list[tuple[int, int, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._grants: list[Grant] = []
        self._waiting: list[asyncio.Task[Grant]] = []

    async def join(self, name: str) -> None:
        """One more task. It stands in line when this returns."""
        self._running.setdefault(name, asyncio.Event())
        self._tasks.add(asyncio.create_task(self._take_turns(name)))
        await asyncio.sleep(0)
        await self._client.read_limit(name)  # is answered after what was asked before

    async def go(self, name: str) -> None:
        self._running[name].set()

    async def halt(self, name: str) -> None:
        self._running[name].clear()

    async def stays(self) -> list[tuple[int, int, int]]:
        """(token, entered, let go) since the last time."""
        found, self._stays = self._stays, []
        return found

    async def hold(self, name: str, count: int) -> None:
        """So many slots, one by one."""
        self._grants += [await self._client.acquire(name) for _ in range(count)]

    async def wait(self, name: str, count: int) -> None:
        """So many more requests, which stand in line when this returns."""
        self._waiting += [asyncio.create_task(self._client.acquire(name)) for _ in range(count)]
        await asyncio.sleep(0)
        await self._client.read_limit(name)

    async def back(self) -> None:
        """The daemon knows all that this client has."""
        await self._client.status()

    async def _take_turns(self, name: str) -> None:
        running = self._running[name]
        while True:
            grant = await self._client.acquire(name)
            entered = time.monotonic_ns()
            if not running.is_set():
                await running.wait()
                entered = PAUSED
            self._stays.append((grant.token, entered, busy_until(time.monotonic_ns() + BODY_NS)))
            grant.release()


async def cycle_in_tasks(socket: str, name: str, each: int, tasks: int) -> float:
    """acquire + release, `each` times in each of so many tasks; microseconds each."""
    async with Client(socket) as client:

        async def cycle(count: int) -> None:
            for _ in range(count):
                async with client.concurrency(name):
                    pass

        await cycle(1)  # connects
        begin = time.perf_counter_ns()
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(cycle(each))
        return (time.perf_counter_ns() - begin) / (each * tasks) / 1000


def runner(loop: str) -> Callable[[Coroutine[Any, Any, float]], float]:
    """What runs a coroutine on such a loop."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run
    return asyncio.run


async def main(socket: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    crowd = Crowd(socket)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        order: dict[str, Any] = json.loads(line)
        method: Callable[..., Coroutine[Any, Any, object]] = getattr(crowd, order.pop("do"))
        print(json.dumps(await method(**order)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
