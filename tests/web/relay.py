"""A socket between a daemon and its clients that counts what goes through."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from atmost.sync import Client
from tests.support import RunningDaemon

SETTLE_SECONDS = 1.0  # until who has come has asked all that it asks in the beginning


class Bytes(NamedTuple):
    read: int  # by the daemon
    told: int  # by it


class Relay:
    """Its `socket` leads to the daemon until the block ends."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.socket: Path = daemon.folder / "relay"
        self._daemon = daemon
        self._lock = threading.Lock()
        self._read = 0
        self._told = 0
        self._ends: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()  # nobody comes any more
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def count_while(self, what: Callable[[Client], None], client: Client) -> Bytes:
        """What goes through while this client, which does not, does something."""
        time.sleep(SETTLE_SECONDS)
        read, told = self._read, self._told
        what(client)
        time.sleep(SETTLE_SECONDS)  # the last of it
        return Bytes(self._read - read, self._told - told)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._daemon.socket))
                self._ends += [near, far]
                for source, target, told in ((near, far, False), (far, near, True)):
                    thread = threading.Thread(target=self._pass_on, args=(source, target, told))
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, told: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    if told:
                        self._told += len(data)
                    else:
                        self._read += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
