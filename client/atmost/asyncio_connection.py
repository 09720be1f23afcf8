"""The asyncio client's connection: one session, shared by the tasks of one event loop.

What the tasks send in one turn of the loop leaves in one write. The connection closes with its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from collections.abc import AsyncGenerator
from typing import Any, cast

from atmost import wire
from atmost.errors import AtmostError
from atmost.exchange import (
    ANSWER_SECONDS,
    HELLO_SECONDS,
    Answer,
    Asked,
    Exchange,
    may_try_next,
    none_answers,
    said_by,
    unavailable,
    why_not_connected,
)
from atmost.paths import SocketPath, socket_paths


class Connection(asyncio.Protocol):
    """One session with the daemon. Made by `open`; everything else is called in its loop."""

    def __init__(self, at: SocketPath, connected: socket.socket, command: list[str] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost: AtmostError | None = None  # why there is no connection any more
        self.closed = False  # by this process itself: its calls do not go on elsewhere
        self._at = at
        self._socket = connected
        self._exchange = Exchange(command)
        self._calls: dict[int, asyncio.Future[Answer]] = {}  # by request
        self._output: list[bytes] = []  # of this turn of the loop
        self._transport: asyncio.Transport | None = None
        self._welcome: asyncio.Future[None] = self.loop.create_future()
        self._watch: AsyncGenerator[None, None] | None = None
        _connections.add(self)

    @classmethod
    async def open(
        cls, given: str | os.PathLike[str] | None, command: list[str] | None
    ) -> Connection:
        """Connect and shake hands. Raises DaemonUnavailable or ProtocolError."""
        connected, at = _connect(given)
        connection = cls(at, connected, command)
        try:
            await connection.loop.create_unix_connection(lambda: connection, sock=connected)
            await connection._shake_hands()
        except BaseException:
            connection.close("the client gave up connecting")
            connected.close()
            raise
        connection._watch = connection._close_with_loop()
        await anext(connection._watch)
        return connection

    async def acquire(self, asked: Asked, caller: object) -> wire.Granted:
        """Wait for slots."""
        number, frame = self._exchange.acquire(asked, caller)
        granted = await self._wait(number, self._begin(number, frame), asked.patience)
        assert isinstance(granted, wire.Granted)
        return granted

    async def ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        """Send a request of this kind and wait for its answer."""
        number, frame = self._exchange.ask(kind, *fields)
        return await self._wait(number, self._begin(number, frame), ANSWER_SECONDS)

    def enter(self, caller: object, number: int) -> None:
        """The caller will be inside this grant's block until leave()."""
        self._exchange.enter(caller, number)

    def leave(self, caller: object, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> None:
        """Let go of what the request has. Needs no answer; without a connection nothing is held."""
        if self.loop.is_closed():
            self.close("its event loop was closed")
        elif not self.lost:
            self._send(self._exchange.release(number))

    def close(self, reason: str) -> None:
        """End the session."""
        self.closed = True
        if not self.loop.is_closed():
            self._flush()
        self._lose(unavailable(self._at, reason))

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's, and its loop, go on."""
        self.lost = unavailable(self._at, "the session is that of the parent process")
        self._socket.close()

    # Sending

    def _begin(self, number: int, frame: bytes) -> asyncio.Future[Answer]:
        if self.lost:
            raise self.lost
        call = self._calls[number] = self.loop.create_future()
        self._send(frame)
        return call

    def _send(self, frame: bytes) -> None:
        if not self._output:
            self.loop.call_soon(self._flush)
        self._output.append(frame)

    def _flush(self) -> None:
        output, self._output = self._output, []
        if output and self._transport is not None and not self.lost:
            self._transport.write(b"".join(output))

    # Waiting

    async def _wait(
        self, number: int, call: asyncio.Future[Answer], patience: float | None
    ) -> Answer:
        timer = None if patience is None else self.loop.call_later(patience, _impatient, call)
        try:
            answer = await call
        except BaseException as error:
            self._give_up(number)
            if isinstance(error, TimeoutError):
                reason = f"it is there, but gave no answer within {patience:g} s"
                raise unavailable(self._at, reason) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(answer, AtmostError):
            raise answer
        return answer

    def _give_up(self, number: int) -> None:
        """The caller does not wait any longer. A grant that is on its way is let go of too."""
        self._calls.pop(number, None)
        self.release(number)

    async def _shake_hands(self) -> None:
        # Not in connection_made(): uvloop does not own the socket yet, and if this write failed there,
        # its number would be closed twice, the second time as another file's.
        assert self._transport is not None
        self._transport.write(self._exchange.hello())
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                await self._welcome
        except TimeoutError as error:
            raise unavailable(self._at, why_not_connected(error)) from None

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        """A generator that is never finished is closed with its loop (shutdown_asyncgens)."""
        try:
            yield
        finally:
            self.close("the event loop ended")

    # Receiving: called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no common class

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._exchange.receive(data)
        except AtmostError as error:
            self._lose(said_by(self._at, error))
            return
        for number, answer in answers:
            call = self._calls.pop(number, None)
            if call is not None and not call.done():
                call.set_result(answer)
        if self._exchange.welcomed and not self._welcome.done():
            self._welcome.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if isinstance(error, OSError):
            reason = f"the connection broke: {why_not_connected(error)}"
        else:
            reason = "the daemon closed the connection"
        self._lose(unavailable(self._at, reason))

    def _lose(self, why: AtmostError) -> None:
        """The session is over: whoever waits is told, and nothing is held any more."""
        if self.lost:
            return
        self.lost = why
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a forked child may have a copy of it
        if self._transport is not None and not self.loop.is_closed():
            self._transport.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_result(why)
        if not self._welcome.done():
            self._welcome.set_exception(why)
            self._welcome.exception()  # retrieved: nobody may be waiting for it any more


def _connect(given: str | os.PathLike[str] | None) -> tuple[socket.socket, SocketPath]:
    """The first socket that answers, of those to be tried. Raises DaemonUnavailable.

    A Unix socket connects at once or not at all, so there is nothing to wait for.
    """
    tried = []
    for at in socket_paths(given):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(at.path)
            return connection, at
        except OSError as error:
            connection.close()
            tried.append((at, why_not_connected(error)))
            if not may_try_next(error):
                break
    raise none_answers(tried)


def _impatient(call: asyncio.Future[Answer]) -> None:
    if not call.done():
        call.set_exception(TimeoutError())


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_in_child() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
