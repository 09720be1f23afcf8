"""New names, new connections, children that die while they hold, waiters that give up."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

from atmost.errors import AcquireTimeout, AtmostError
from atmost.sync import Client
from bench.clients.worker import serve

NAMES = 1_000_000


class Churn:
    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._client = Client(socket)

    def churn(self, seconds: float, seed: int) -> int:
        """How many things it did."""
        chance = random.Random(f"{seed} {os.getpid()} {time.monotonic_ns()}")
        ways: list[Callable[[random.Random], None]] = [self._name, self._connect, self._die]
        ways += [self._give_up] * 10 + [self._hold] * 20
        end = time.monotonic() + seconds
        done = 0
        while time.monotonic() < end:
            chance.choice(ways)(chance)
            done += 1
        return done

    def _hold(self, chance: random.Random) -> None:
        with self._client.concurrency("churn"):
            pass

    def _name(self, chance: random.Random) -> None:
        """A limit that comes and goes."""
        name = f"churn-{chance.randrange(NAMES)}"
        with contextlib.suppress(AtmostError):  # another churner may have made the same
            self._client.create_limit(name, 1)
            with self._client.concurrency(name):
                pass
            self._client.delete_limit(name)

    def _connect(self, chance: random.Random) -> None:
        with Client(self._socket) as client, client.concurrency("churn"):
            pass

    def _give_up(self, chance: random.Random) -> None:
        with contextlib.suppress(AcquireTimeout):
            grant = self._client.acquire("churn", timeout_seconds=chance.uniform(0, 0.002))
            grant.release()

    def _die(self, chance: random.Random) -> None:
        """A child that holds, and is killed."""
        child = os.fork()
        if child == 0:
            try:
                Client(self._socket).acquire("churn")
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        os.waitpid(child, 0)


def main(address: str) -> None:
    serve(Churn(address))
