"""A daemon that does what a test says: it hears, swallows, answers, hangs up, goes and comes back.

with ScriptedDaemon(path) as daemon:
    peer = daemon.accept()  # says welcome
    acquire = peer.hear(wire.Acquire)
    peer.hang_up()  # the answer is lost
    peer = daemon.accept()
    assert peer.hear_all() == [acquire]
"""

from __future__ import annotations

import os
import socket
from collections import deque
from pathlib import Path
from typing import TypeVar

from atmost import wire
from tests.support import PATIENCE_SECONDS

M = TypeVar("M", bound=wire.Message)


class Peer:
    """One connection of a client."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._connected.settimeout(PATIENCE_SECONDS)
        self._frames = wire.FrameReader()
        self._heard: deque[wire.Message] = deque()
        self.session = b""
        self.resume = 0  # the number of the Resume that was heard last

    def hear(self, kind: type[M], but: type[wire.Message] | None = None) -> M:
        """The next message, which is of this kind; those of the kind `but` are passed over."""
        while not self._heard:
            data = self._connected.recv(65536)
            assert data, f"no {kind.__name__}: the client has ended the connection"
            self._heard += [
                wire.decode_client_message(bytes(body)) for body in self._frames.feed(data)
            ]
        message = self._heard.popleft()
        if but is not None and isinstance(message, but):
            return self.hear(kind, but)
        assert isinstance(message, kind), f"{message} is no {kind.__name__}"
        return message

    def hear_all(self) -> list[wire.Message]:
        """What it has and asks, up to its Resume."""
        heard = []
        while not isinstance(message := self.hear(wire.Message), wire.Resume):
            heard.append(message)
        self.resume = message.request
        return heard

    def hear_end(self) -> None:
        """The client ends the connection, and says nothing more."""
        assert not self._heard
        assert not self._connected.recv(65536)
        self._connected.close()

    def say(self, *messages: wire.Message) -> None:
        self._connected.sendall(b"".join(map(wire.encode, messages)))

    def settle(self) -> None:
        """Answer the Resume."""
        self.say(wire.Done(self.resume))

    def hang_up(self) -> None:
        self._connected.close()


class ScriptedDaemon:
    """Listens at a path, from the first `with` on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: socket.socket | None = None
        self._peers: list[Peer] = []

    def __enter__(self) -> ScriptedDaemon:
        self.come()
        return self

    def __exit__(self, *_: object) -> None:
        self.go()

    def come(self) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.settimeout(PATIENCE_SECONDS)
        self._server.bind(os.fspath(self.path))
        self._server.listen()

    def go(self) -> None:
        """End, and with it every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink()
        for peer in self._peers:
            peer.hang_up()
        self._peers = []

    def turn_away(self) -> None:
        """Hang up on the next client that connects, whatever it says."""
        assert self._server is not None
        self._server.accept()[0].close()

    def accept(self, welcome: bool = True) -> Peer:
        """The next client that connects, after its hello."""
        assert self._server is not None
        peer = Peer(self._server.accept()[0])
        self._peers.append(peer)
        peer.session = peer.hear(wire.Hello).session
        if welcome:
            peer.say(wire.Welcome(wire.PROTOCOL_VERSION, "0", 1))
        return peer
