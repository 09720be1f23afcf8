"""A blocking client that acquires and releases, each only when the daemon is done with the last one.

So no two frames are read at once, and the work of a cycle is the same whatever else the machine does.
The daemon is done when the kernel says that it sleeps: what was sent to it has woken it before `send`
returned. Looking takes calls and allocations of its own, so who counts the client's lets it pause instead.
usage: python -m tests.work.caller SOCKET CYCLES look|pause
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from atmost.sync import Client

PAUSE_SECONDS = 0.003
PAUSES = 2  # in a cycle; each is a call
LOOK_SECONDS = 0.0002


def pause() -> None:
    time.sleep(PAUSE_SECONDS)


def until_it_sleeps(pid: int) -> Callable[[], None]:
    """All of its threads."""
    stats = [os.open(path / "stat", os.O_RDONLY) for path in Path(f"/proc/{pid}/task").iterdir()]

    def wait() -> None:
        while any(state(stat) != "S" for stat in stats):
            time.sleep(LOOK_SECONDS)

    return wait


def state(stat: int) -> str:
    """S: it waits for something. See proc_pid_stat(5); a name may have blanks and brackets."""
    return os.pread(stat, 4096, 0).rpartition(b")")[2].split()[0].decode()


def main(socket: str, cycles: str, way: str) -> None:
    with Client(socket) as client:
        done = until_it_sleeps(client.status().pid) if way == "look" else pause
        for _ in range(int(cycles)):
            with client.concurrency("work"):
                done()
            done()


if __name__ == "__main__":
    main(*sys.argv[1:])
