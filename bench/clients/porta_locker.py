"""portalocker: a lock on a file in memory, with flags that let the kernel wait and not us."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import portalocker

from bench.clients.worker import Worker, serve


class PortaLocker(Worker):
    def __init__(self, folder: str) -> None:
        place = Path(folder)
        self.hold = cache(
            lambda name: portalocker.Lock(
                place / f"{name}.portalocker", flags=portalocker.LockFlags.EXCLUSIVE
            )
        )


def main(address: str) -> None:
    serve(PortaLocker(address))
