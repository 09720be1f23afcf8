"""A blocking client that acquires and releases, each only when the daemon is done with the last one.

So no two frames are read at once, and the work of a cycle is the same whatever else the machine does.
usage: python -m tests.work.caller SOCKET CYCLES
"""

from __future__ import annotations

import sys
import time

from atmost.sync import Client

PAUSE_SECONDS = 0.003
PAUSES = 2  # in a cycle; each is a call


def main(socket: str, cycles: str) -> None:
    with Client(socket) as client:
        for _ in range(int(cycles)):
            with client.concurrency("work"):
                time.sleep(PAUSE_SECONDS)
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
