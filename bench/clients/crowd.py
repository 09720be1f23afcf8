"""A client process with many tasks of the asyncio client, over one connection.

Some stand in the line of one limit, hand the slot on and stand in line again, for ever; between two
rounds whoever has it keeps it. Others only hold, or wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from atmost.asyncio import Client, Grant
from atmost.errors import AcquireTimeout, LimitNotFound
from bench.clients.worker import BODY_NS, PAUSED, Stay, busy_until

NOBODYS = "a limit that nobody has made"
SLICE = 1000  # requests at once: a daemon reads a thousand of one client's that are not answered


class Crowd:
    """Tasks of one event loop, over one connection."""

    def __init__(self, socket: str) -> None:
        self._client = Client(socket)
        self._running: dict[str, asyncio.Event] = {}  # by limit
        self._stays: list[Stay] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._grants: list[Grant] = []
        self._timed: list[asyncio.Task[None]] = []
        self._waiting: list[asyncio.Task[Grant]] = []  # the tasks

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

    async def stays(self) -> list[Stay]:
        """Since the last time."""
        found, self._stays = self._stays, []
        return found

    async def hold(self, name: str, count: int) -> None:
        """So many slots, one by one."""
        self._grants += [await self._client.acquire(name) for _ in range(count)]

    async def wait(self, names: list[list[str]], each: int) -> None:
        """So many more requests for each of these groups of names. They stand in line when this
        returns."""
        for begin in range(0, each * len(names), SLICE):
            numbers = range(begin, min(each * len(names), begin + SLICE))
            self._waiting += [
                asyncio.create_task(self._client.acquire(names[number % len(names)]))
                for number in numbers
            ]
            await asyncio.sleep(0)
            await self._answered()

    async def give_up(self, count: int) -> None:
        """So many of them leave their line, the last ones first."""
        gone, self._waiting = self._waiting[-count:], self._waiting[:-count]
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await self._answered()

    async def come_and_go(self, names: list[str], count: int) -> float:
        """So many requests stand in line, at its end, and leave it; microseconds each."""
        begin = time.perf_counter_ns()
        tasks = [asyncio.create_task(self._client.acquire(names)) for _ in range(count)]
        await asyncio.sleep(0)
        await self._answered()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._answered()
        return (time.perf_counter_ns() - begin) / count / 1000

    async def nice(self) -> None:
        """Let others on this core go first: it is they who are measured."""
        os.nice(19)

    async def create(self, count: int) -> None:
        """So many limits."""
        for begin in range(0, count, SLICE):
            numbers = range(begin, min(count, begin + SLICE))
            await asyncio.gather(*(self._client.create_limit(f"limit-{n}", 1) for n in numbers))

    async def time_out(self, name: str, count: int, seconds: float) -> None:
        """So many requests more, whose time is up at the same instant."""
        end = time.monotonic() + seconds

        async def wait() -> None:
            with contextlib.suppress(AcquireTimeout):
                await self._client.acquire(name, timeout_seconds=end - time.monotonic())

        for _ in range(0, count, SLICE):
            self._timed += [asyncio.create_task(wait()) for _ in range(min(count, SLICE))]
            await asyncio.sleep(0)
            await self._answered()

    async def all_timed_out(self) -> None:
        """Wait for that."""
        timed, self._timed = self._timed, []
        await asyncio.gather(*timed)

    async def back(self) -> None:
        """The daemon knows all that this client has."""
        await self._answered()

    async def _answered(self) -> None:
        """What was asked before: this is answered after it, and takes a daemon next to nothing."""
        with contextlib.suppress(LimitNotFound):
            await self._client.read_limit(NOBODYS)

    async def _take_turns(self, name: str) -> None:
        running = self._running[name]
        while True:
            asked = time.monotonic_ns()
            grant = await self._client.acquire(name)
            entered = time.monotonic_ns()
            if not running.is_set():
                await running.wait()
                asked, entered = PAUSED, time.monotonic_ns()
            self._stays.append((asked, entered, busy_until(time.monotonic_ns() + BODY_NS)))
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


async def serve(socket: str) -> None:
    crowd = Crowd(socket)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while line := await orders.readline():
        order: dict[str, Any] = json.loads(line)
        method: Callable[..., Coroutine[Any, Any, object]] = getattr(crowd, order.pop("do"))
        print(json.dumps(await method(**order)), flush=True)


def main(address: str) -> None:
    asyncio.run(serve(address))
