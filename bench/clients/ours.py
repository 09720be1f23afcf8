"""The blocking client of atmost, and the asyncio client for a while."""

from __future__ import annotations

import contextlib
import time

from atmost.errors import LimitExists, LimitNotFound
from atmost.sync import Client
from bench.clients.worker import Worker, serve


class Ours(Worker):
    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._client = Client(socket)
        self._more: list[Client] = []
        self.hold = self._client.concurrency
        self.spend = self._client.rate_limit

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        with contextlib.suppress(LimitExists):
            self._client.create_limit(name, slots, slot_decay_per_second=rate)

    def connect(self, count: int) -> int:
        """So many more connections, each of a session of its own; how many there are."""
        made = [Client(self._socket) for _ in range(count)]
        self._more += made
        for client in made:
            with contextlib.suppress(LimitNotFound):  # a status is more work, with many limits
                client.read_limit("a limit that nobody has made")
        return len(self._more)

    def disconnect(self) -> None:
        while self._more:
            self._more.pop().close()

    def slowest(self, name: str, seconds: float) -> float:
        """acquire + release for so long; the slowest, in milliseconds."""
        end = time.monotonic() + seconds
        worst = 0.0
        while time.monotonic() < end:
            begin = time.perf_counter()
            with self.hold(name):
                pass
            worst = max(worst, time.perf_counter() - begin)
        return worst * 1000

    def tasks(self, name: str, count: int, tasks: int, loop: str) -> float:
        """`count` cycles in all by so many tasks of the asyncio client; microseconds each."""
        from bench.clients.crowd import cycle_in_tasks  # asyncio takes a while to import
        from bench.clients.many_tasks import run_on

        return run_on(loop)(cycle_in_tasks(self._socket, name, count // tasks, tasks))


def main(address: str) -> None:
    serve(Ours(address))
