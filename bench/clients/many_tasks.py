"""Many tasks of one event loop, in the same way whatever they hold slots with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any


def run_on(loop: str) -> Callable[[Coroutine[Any, Any, float]], float]:
    """What runs a coroutine on such a loop."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run
    return asyncio.run


async def time_of(
    cycle: Callable[[int, int], Coroutine[Any, Any, None]], each: int, tasks: int
) -> float:
    """Microseconds of a cycle; `cycle` is given the number of its task, and how many to make."""
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(cycle(task, 1))  # connects
    begin = time.perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(cycle(task, each))
    return (time.perf_counter_ns() - begin) / (each * tasks) / 1000
