"""What the tests of bad bytes share: a neighbour that must not notice, and clients without manners."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from atmost.errors import AtmostError
from tests.protocol_client import Client, Failed
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

LAPS = 3  # of the neighbour, to show that it is still served


class Neighbour(threading.Thread):
    """Holds one slot, and takes and gives back another without pause."""

    def __init__(self, daemon: RunningDaemon) -> None:
        super().__init__(name="neighbour")
        self.laps = 0
        self.trouble: AtmostError | None = None
        self._ends = threading.Event()
        self._client = daemon.client()
        self._client.create_limit("neighbour", 2)
        self._held = self._client.acquire("neighbour")

    def run(self) -> None:
        try:
            while not self._ends.is_set():
                with self._client.concurrency("neighbour", timeout_seconds=PATIENCE_SECONDS):
                    self.laps += 1
        except AtmostError as error:
            self.trouble = error

    def goes_on(self) -> None:
        """Wait for it to be served some more times."""
        aim = self.laps + LAPS
        wait_until(lambda: self.laps >= aim or self.trouble, "the neighbour is served")
        assert self.trouble is None
        assert self._client.read_limit("neighbour").limit == 2

    def end(self) -> None:
        self._ends.set()
        self.join(PATIENCE_SECONDS)
        held = self._client.list_tickets("neighbour")
        assert [ticket.state for ticket in held] == ["held"]  # the one from the beginning
        self._client.close()


class KnownClient(Client):
    """Can come back to its session."""

    def __init__(self, path: str, session: bytes = b"") -> None:
        self.session = session or os.urandom(16)
        super().__init__(path)

    def greet(self) -> None:
        self.send("hello", 1, self.session, os.getpid(), sys.argv, "ada", "")


class Mute(Client):
    """Connects and says nothing by itself."""

    def greet(self) -> None:
        """No."""


def raw(body: bytes) -> bytes:
    """Any bytes as a frame."""
    return len(body).to_bytes(4, "big") + body


def is_closed_with(client: Client, words: str) -> None:
    """The next that comes is an error of the connection itself, and then its end."""
    with pytest.raises(Failed, match=words) as caught:
        client.receive()
    assert caught.value.request == 0
    assert caught.value.code == "protocol_error"
    assert list(caught.value.fields) == ["problem"]
    with pytest.raises((EOFError, ConnectionResetError)):
        client.receive()
