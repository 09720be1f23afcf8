"""The blocking client of atmost, which takes stamps of what it does."""

from __future__ import annotations

import time

from atmost.sync_socket import Socket
from bench.clients.ours import Ours
from bench.clients.worker import busy_until, serve
from bench.stamps import Stamp, Tape

APART_NS = 200_000  # the daemon is done with a release before the next acquire


class Stamped(Ours):
    def __init__(self, socket: str) -> None:
        super().__init__(socket)
        self._tape = Tape()
        self._tape.watch(Socket, "send", before="sends")
        self._tape.watch(Socket, "receive", after="heard")

    def walk(self, name: str, count: int) -> list[Stamp]:
        """acquire + release, one after the other with a pause between; when which step began."""
        stamps, clock = self._tape.stamps, time.monotonic_ns
        stamps.clear()
        for _ in range(count):
            busy_until(clock() + APART_NS)
            stamps.append(("asks", clock()))
            with self.hold(name):
                stamps.append(("has", clock()))
                busy_until(clock() + APART_NS)
                stamps.append(("leaves", clock()))
            stamps.append(("left", clock()))
        return stamps


def main(address: str) -> None:
    serve(Stamped(address))
