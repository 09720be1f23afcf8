"""The daemon while what it kept cannot be trusted: it is there, it says why, and it grants nothing.

Rule 1: starting without the limits would open every gate, so that is an operator's decision.
Rule 2: nobody hangs: each request is refused with the reason. What has no answer, a keep or a
release, gets none: who holds something comes back to the daemon that follows, and says so there.
Rule 3: it ends when the loss is accepted or the daemon is told to stop. Its clients are then cut off,
and come back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import cast

from atmost import paths, wire
from atmost.errors import (
    AtmostError,
    PermissionDenied,
    ProtocolError,
    StateNotSaved,
    StateUnavailable,
)
from atmost.wire import DaemonStatus, Hello, Keep, Loss, Recover, Release, Status, Welcome
from atmostd import config
from atmostd.clock import NANOSECONDS, boot_time
from atmostd.config import Settings
from atmostd.damage import Damage
from atmostd.decoding import WrongField, message_of, other_version
from atmostd.peer import Admins, credentials
from atmostd.server import SocketFile, serve
from atmostd.session import failed

_log = logging.getLogger(__name__)


class Closed:
    """Refuses until the loss is accepted."""

    def __init__(
        self, settings: Settings, damages: list[Damage], accept: Callable[[], list[str]]
    ) -> None:
        self.admins = Admins(settings.admin_gid)
        self.connections: set[Refusing] = set()
        self._settings = settings
        self._damages = damages
        self._accept = accept  # does it; returns what was done, in words. Raises OSError
        self._began = boot_time()
        self._end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def run(self, socket_file: SocketFile) -> bool:
        """Returns whether the loss was accepted; else the daemon was told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ends, False)
        for damage in self._damages:
            _log.error("state unavailable, so nothing is granted: %s", damage)
        _log.error("see what would be lost, and accept it, with: atmost recover")
        server = await serve(socket_file, lambda: Refusing(self), for_now=True)
        accepted = await self._end
        server.close()
        for connection in list(self.connections):
            connection.close()
        return accepted

    def error(self) -> StateUnavailable:
        """What everybody is told."""
        first = self._damages[0]
        return StateUnavailable(str(first.path), first.reason)

    def recover(self, message: Recover, uid: int, is_admin: bool) -> Loss:
        """Tell what would be lost, or lose it. Raises PermissionDenied or StateNotSaved."""
        if not is_admin:
            raise PermissionDenied("change them", uid)
        if not message.accept_loss or self._end.done():
            return Loss(message.request, [str(damage) for damage in self._damages])
        try:
            done = self._accept()
        except OSError as error:
            reason = error.strerror or str(error)
            raise StateNotSaved(str(self._damages[0].path), reason) from error
        _log.warning("uid %d accepts the loss: %s", uid, "; ".join(done))
        self._ends(True)
        return Loss(message.request, done)

    def status(self, request: int) -> DaemonStatus:
        """What the daemon says of itself."""
        return DaemonStatus(
            request=request,
            version=paths.version(),
            pid=os.getpid(),
            uptime_seconds=(boot_time() - self._began) / NANOSECONDS,
            socket=str(self._settings.socket),
            state_dir=str(self._settings.state_dir),
            runtime_dir=str(self._settings.runtime_dir),
            limits=0,
            sessions=0,
            held=0,
            waiting=0,
            trouble=f"nothing is granted: {self.error()}",
        )

    def _ends(self, accepted: bool) -> None:
        if not self._end.done():
            self._end.set_result(accepted)


class Refusing(asyncio.Protocol):
    """One connection."""

    def __init__(self, closed: Closed) -> None:
        self._closed = closed
        self._frames = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._uid = -1
        self._is_admin = False
        self._hello_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no common class
        connection = transport.get_extra_info("socket")
        _, self._uid, _ = credentials(connection)
        self._is_admin = self._closed.admins.include(connection)
        self._closed.connections.add(self)
        loop = asyncio.get_running_loop()
        self._hello_due = loop.call_later(config.HELLO_SECONDS, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._closed.connections.discard(self)
        if self._hello_due is not None:
            self._hello_due.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._take(body)
        except ProtocolError as error:
            self._fail(0, error)
            self.close()

    def close(self) -> None:
        """What was said is still sent."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, body: memoryview) -> None:
        try:
            message = message_of(body)
        except WrongField as wrong:
            self._fail(wrong.request, wrong.error)
            return
        if isinstance(message, Hello):
            self._greet(message)
        elif not self._greeted:
            raise ProtocolError(f"{type(message).__name__} before the hello")
        elif isinstance(message, Status):
            self._send(self._closed.status(message.request))
        elif isinstance(message, Recover):
            try:
                self._send(self._closed.recover(message, self._uid, self._is_admin))
            except AtmostError as error:
                self._fail(message.request, error)
        elif not isinstance(message, Keep | Release):
            self._fail(message.request, self._closed.error())

    def _greet(self, hello: Hello) -> None:
        version = wire.spoken(hello)
        if not version:
            raise other_version(hello.protocol)
        self._greeted = True
        if self._hello_due is not None:
            self._hello_due.cancel()
        self._send(Welcome(version, paths.version(), os.getpid()))

    def _fail(self, request: int, error: AtmostError) -> None:
        self._send(failed(request, error))

    def _send(self, message: wire.Message) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(wire.encode(message))
        if transport.get_write_buffer_size() > config.OUTPUT_BYTES_MAX:
            transport.abort()
