"""filelock: flock(2) on a file in memory; who waits polls, here every 5 ms instead of 50."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import filelock

from bench.clients.worker import Worker, serve

POLL_SECONDS = 0.005


class FileLock(Worker):
    poll_seconds = POLL_SECONDS

    def __init__(self, folder: str) -> None:
        place = Path(folder)
        self.hold = cache(
            lambda name: filelock.FileLock(place / f"{name}.filelock", poll_interval=POLL_SECONDS)
        )


def main(address: str) -> None:
    serve(FileLock(address))
