"""One process of the demo: uses a limit as any program would, and marks what its own clock says.

usage: worker.py KIND NAME JOBS SECONDS, with ATMOST_SOCKET and DEMO_LOG set
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Iterable
from typing import Protocol

import atmost.asyncio
import atmost.sync

JOBS_LIMIT = "database"
CALLS_LIMIT = "api"
LOOK_SECONDS = 0.001


class Ticket(Protocol):
    """What is looked at of who holds and who waits."""

    @property
    def pid(self) -> int: ...

    @property
    def state(self) -> str: ...


class Log:
    """One line a mark, each in one write to the end of a file that all processes share."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def mark(self, what: str, job: str) -> None:
        at = time.monotonic_ns()
        os.write(self._file, f"{at} {what} {job}\n".encode())


def blocking(log: Log, name: str, jobs: int, seconds: float) -> None:
    """Jobs one after the other. Beside each a thread looks whether it stands in line already."""
    with atmost.sync.Client() as client:
        for job, lasts in lengths(name, jobs, seconds):
            over = threading.Event()

            def look(job: str = job, over: threading.Event = over) -> None:
                while (mine := my_state(client.list_tickets(JOBS_LIMIT))) is None:
                    if over.wait(LOOK_SECONDS):
                        return
                if mine == "waiting":
                    log.mark("in_line", job)

            beside = threading.Thread(target=look, daemon=True)
            beside.start()
            log.mark("asked", job)
            with client.concurrency(JOBS_LIMIT):
                log.mark("inside", job)
                time.sleep(lasts)
                log.mark("left", job)
            over.set()
            beside.join()


async def cooperative(log: Log, name: str, jobs: int, seconds: float) -> None:
    """The same in asyncio, where the look is a task."""
    async with atmost.asyncio.Client() as client:
        await client.status()  # connects
        for job, lasts in lengths(name, jobs, seconds):

            async def look(job: str = job) -> None:
                if my_state(await client.list_tickets(JOBS_LIMIT)) == "waiting":
                    log.mark("in_line", job)

            beside = asyncio.create_task(look())  # it begins when the call below has been sent
            log.mark("asked", job)
            async with client.concurrency(JOBS_LIMIT):
                log.mark("inside", job)
                await asyncio.sleep(lasts)
                log.mark("left", job)
            await beside


def calling(log: Log, name: str, jobs: int, seconds: float) -> None:
    """Call as often as the rate limit lets this process, for so many seconds."""
    until = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until:
        number += 1
        log.mark("asked", f"{name}.{number}")
        atmost.sync.rate_limit(CALLS_LIMIT)
        log.mark("inside", f"{name}.{number}")


def my_state(tickets: Iterable[Ticket]) -> str | None:
    """Whether this process holds or waits; it never has more than one job at a time."""
    return next((ticket.state for ticket in tickets if ticket.pid == os.getpid()), None)


def lengths(name: str, jobs: int, seconds: float) -> list[tuple[str, float]]:
    """This process's jobs and how long each takes: about so many seconds, the same in every run."""
    dice = random.Random(name)
    return [(f"{name}.{number}", seconds * dice.uniform(0.7, 1.3)) for number in range(1, jobs + 1)]


def main(kind: str, name: str, jobs: int, seconds: float) -> None:
    log = Log(os.environ["DEMO_LOG"])
    match kind:
        case "blocking":
            blocking(log, name, jobs, seconds)
        case "asyncio":
            asyncio.run(cooperative(log, name, jobs, seconds))
        case "calling":
            calling(log, name, jobs, seconds)
        case _:
            sys.exit(f"no such kind of worker: {kind}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
