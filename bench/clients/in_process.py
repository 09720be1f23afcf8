"""Python's own semaphores: quicker than anything that asks another process, which they do not know of."""

from __future__ import annotations

import asyncio
import threading

from bench.clients.many_tasks import run_on, time_of
from bench.clients.worker import Worker, serve


class InProcess(Worker):
    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._semaphores: dict[str, threading.BoundedSemaphore] = {}
        self.hold = self._semaphores.__getitem__

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        self._slots[name] = slots
        self._semaphores[name] = threading.BoundedSemaphore(slots)

    def tasks(self, name: str, count: int, tasks: int, loop: str) -> float:
        """`count` cycles in all by so many tasks; microseconds each."""
        return run_on(loop)(cycle_in_tasks(self._slots[name], count // tasks, tasks))


async def cycle_in_tasks(slots: int, each: int, tasks: int) -> float:
    semaphore = asyncio.BoundedSemaphore(slots)

    async def cycle(task: int, times: int) -> None:
        for _ in range(times):
            async with semaphore:
                await asyncio.sleep(0)  # or no other task would ever run

    return await time_of(cycle, each, tasks)


def main(address: str) -> None:
    serve(InProcess())
