"""A client made from PROTOCOL.md alone that comes back to its session after a restart."""

from __future__ import annotations

import os

from tests import protocol_client


class Returning(protocol_client.Client):
    """What it said before, it says again by `send`, with the same number."""

    def __init__(self, path: str, session: bytes | None = None) -> None:
        self.session = session or os.urandom(16)
        self._path = path
        super().__init__(path)

    def greet(self) -> None:
        self.send("hello", 1, self.session, os.getpid(), ["job"], "ada", "back/1")

    def come_back(self) -> None:
        """Connect anew, with the same session and numbers that go on rising."""
        numbers = self._numbers
        self.socket.close()
        super().__init__(self._path)
        self._numbers = numbers

    def resume(self) -> None:
        """All was named; wait until the daemon has let go of the rest."""
        assert self.ask("resume")[0] == "done"
