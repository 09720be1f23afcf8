"""The asyncio client's connection: one session, shared by the tasks of one event loop.

What the tasks send in one turn of the loop leaves in one write. The connection closes with its loop.

When the connection is lost, timers of the loop try to connect again; then all that this session has is
said (exchange.py), and who holds notices nothing. A session that ends meanwhile, by close or with its
loop, leaves that to a helper thread (sync_connection.settle), which outlives the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import time
import weakref
from collections.abc import AsyncGenerator
from typing import Any, cast

from atmost import sync_connection, wire
from atmost.asked import Asked
from atmost.connecting import (
    HANG_UPS_MAX,
    HungUp,
    check_owner,
    first_that_answers,
    started_or_not,
    unavailable,
    was_leaving,
    why_not_connected,
)
from atmost.errors import AtmostError, DaemonUnavailable, GrantLost
from atmost.exchange import (
    ANSWER_SECONDS,
    HELLO_SECONDS,
    Answer,
    Exchange,
    said_by,
)
from atmost.paths import SocketPath, socket_paths
from atmost.reconnecting import Reconnecting
from atmost.watching import Event, Frames


class Stream:
    """A watch."""

    __slots__ = ("frames", "number", "wake")

    def __init__(self, number: int) -> None:
        self.number = number
        self.frames = Frames()
        self.wake: asyncio.Future[None] | None = None  # who waits for the next events

    def take(self, answer: Answer) -> None:
        """More of what happens, or why there will be no more."""
        if isinstance(answer, wire.Events):
            self.frames.put(answer)
        elif isinstance(answer, AtmostError):
            self.frames.failure = answer
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


EARLY_SECONDS = 0.001  # that a timer may be: what a loop of uvloop counts in


class Connection(asyncio.Protocol):
    """One session with the daemon. Made by `open`; everything else is called in its loop.

    Rule 1: it is the protocol of one transport at a time: the next one is made only when this one has
    reported its end (connection_lost).
    Rule 2: while the connection is lost and the daemon may think that we have what we let go of, or a
    call waits, `_timer` or `_linking` is there.
    """

    def __init__(
        self, exchange: Exchange, at: SocketPath, connected: socket.socket, seconds: float
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost: AtmostError | None = None  # why this session is over
        self._at = at
        self._socket = connected
        self._exchange = exchange
        self._calls: dict[int, asyncio.Future[Answer]] = {}  # by request
        self._streams: dict[int, Stream] = {}  # the same
        self._output: list[bytes] = []  # of this turn of the loop
        self._transport: asyncio.Transport | None = None
        self._connected = True  # what is sent may arrive; else it waits to be said again
        self._away = Reconnecting(seconds)
        self._welcome_by = 0.0  # or the calls give up
        self._timer: asyncio.TimerHandle | None = None  # the next try, or the end of the last one
        self._linking: asyncio.Task[None] | None = None  # makes a transport of a new socket
        self._welcome: asyncio.Future[None] = self.loop.create_future()
        self._watch: AsyncGenerator[None, None] | None = None
        _connections.add(self)

    @classmethod
    async def open(
        cls,
        given: str | os.PathLike[str] | None,
        command: list[str] | None,
        seconds: float,
        start: bool = True,
    ) -> Connection:
        """Connect and shake hands; `start` a daemon if none is there and one may be. Raises
        DaemonUnavailable, ProtocolError, or what else the daemon refuses with."""
        places = socket_paths(given)
        hang_ups = 0
        while True:
            connected, at = await _connect_to_one(places, start)
            connection = cls(Exchange(command), at, connected, seconds)
            try:
                await connection.loop.create_unix_connection(lambda: connection, sock=connected)  # noqa: B023
                await connection._shake_hands()
                break
            except BaseException as error:
                connection.close("the client gave up connecting")
                connected.close()
                hang_ups += 1
                if len(places) == 1 or hang_ups == HANG_UPS_MAX or not was_leaving(error):
                    raise
        connection._watch = connection._close_with_loop()
        await anext(connection._watch)
        return connection

    async def acquire(self, asked: Asked, caller: object) -> wire.Granted:
        """Wait for slots."""
        ends = None if asked.timeout_seconds is None else time.monotonic() + asked.timeout_seconds
        self._check()
        number = self._exchange.number()
        frame = self._exchange.acquire(number, asked, caller, ends)
        granted = await self._wait(number, self._begin(number, frame), asked.patience)
        assert isinstance(granted, wire.Granted)
        return granted

    async def ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        """Send a request of this kind and wait for its answer."""
        self._check()
        number = self._exchange.number()
        frame = self._exchange.ask(number, kind, *fields)
        return await self._wait(number, self._begin(number, frame), ANSWER_SECONDS)

    async def watch(self, name: str | None) -> Stream:
        """Be told what happens, from now on."""
        self._check()
        number = self._exchange.number()
        frame = self._exchange.ask(number, wire.Watch, name)
        stream = self._streams[number] = Stream(number)
        try:
            self._start(frame)
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._wait_for_events(stream)
        except BaseException as error:
            self.stop_watching(stream)
            if isinstance(error, TimeoutError):
                raise unavailable(self._at, self._why_no_answer(ANSWER_SECONDS)) from None
            raise
        return stream

    async def next_events(self, stream: Stream) -> list[Event]:
        """Wait for what happens next."""
        await self._wait_for_events(stream)
        return stream.frames.take()

    def stop_watching(self, stream: Stream) -> None:
        """Twice is harmless."""
        if self._streams.pop(stream.number, None) is not None and not self.lost:
            self._send(self._exchange.release(stream.number))

    async def _wait_for_events(self, stream: Stream) -> None:
        while not stream.frames:
            if stream.frames.failure is not None:
                raise stream.frames.failure
            stream.wake = self.loop.create_future()
            await stream.wake

    def enter(self, caller: object, number: int) -> None:
        """The caller will be inside this grant's block until leave()."""
        self._exchange.enter(caller, number)

    def leave(self, caller: object, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> GrantLost | None:
        """Let go of what the request has. Needs no answer. Returns why it had nothing any more."""
        lost = self._exchange.lost_grants.get(number)
        if lost is not None:
            return lost
        if self.loop.is_closed():
            self.close("its event loop was closed")
        elif not self.lost:
            self._send(self._exchange.release(number))
        return None

    def lost_grant(self, number: int) -> GrantLost | None:
        """Why this grant is no longer held, as far as the daemon has said by now."""
        return self._exchange.lost_grants.get(number)

    def close(self, reason: str) -> None:
        """End the session."""
        if self.lost:
            return
        if not self.loop.is_closed():
            self._flush()
        if self._connected and _has_ended(self._socket):  # the loop has not looked yet
            self._exchange.disconnected()
        unsettled = self._exchange.unsettled and not self._exchange.welcomed
        self._lose(unavailable(self._at, reason))
        if unsettled:
            sync_connection.settle(self._exchange, self._at)

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's, and its loop, go on."""
        self.lost = unavailable(self._at, "the session is that of the parent process")
        self._socket.close()

    # Sending

    def _begin(self, number: int, frame: bytes) -> asyncio.Future[Answer]:
        call = self._calls[number] = self.loop.create_future()
        self._start(frame)
        return call

    def _start(self, frame: bytes) -> None:
        if not self._connected:
            if self._away.hurry(time.monotonic()):
                self._stop_timer()
            self._go_on()
        self._send(frame)

    def _check(self) -> None:
        if self.lost:
            raise self.lost

    def _send(self, frame: bytes) -> None:
        if not self._connected:
            return  # all that counts is said again on the next connection
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
                assert patience is not None
                raise unavailable(self._at, self._why_no_answer(patience)) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if isinstance(answer, AtmostError):
            raise answer
        return answer

    def _why_no_answer(self, patience: float) -> str:
        if self._away.since is not None:
            return self._away.not_back(patience)
        return f"it is there, but gave no answer within {patience:g} s"

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
            self._exchange.lose_all(str(error))
            self._lose(said_by(self._at, error))
            return
        for number, answer in answers:
            call = self._calls.pop(number, None)
            if call is not None and not call.done():
                call.set_result(answer)
            elif self._streams and number in self._streams:
                self._streams[number].take(answer)
                if isinstance(answer, AtmostError):
                    del self._streams[number]
        if not self._welcome.done():
            if self._exchange.welcomed:
                self._welcome.set_result(None)
            elif self._exchange.refusal is not None:
                self._lose(self._exchange.refusal)
        elif self._away.since is not None and self._exchange.welcomed:
            self._away.back()
            self._stop_timer()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if isinstance(error, OSError):
            reason = f"the connection broke: {why_not_connected(error)}"
        else:
            reason = "the daemon closed the connection"
        if not self._welcome.done():  # there never was a session
            why = unavailable(self._at, reason)
            why.__cause__ = error or HungUp()
            self._lose(why)
        elif not self.lost:
            self._disconnect(reason)
            self._fail_if_away_too_long()
            self._go_on()

    def _lose(self, why: AtmostError) -> None:
        """The session is over: whoever waits is told, and nothing is held any more."""
        if self.lost:
            return
        self.lost = why
        self._connected = False
        if not self.loop.is_closed():
            self._stop_timer()
            if self._linking is not None:
                self._linking.cancel()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a forked child may have a copy of it
        if self._transport is not None and not self.loop.is_closed():
            self._transport.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_result(why)
        self._end_streams(why)
        if not self._welcome.done():
            self._welcome.set_exception(why)
            self._welcome.exception()  # retrieved: nobody may be waiting for it any more

    # A connection that is lost

    def _disconnect(self, why: str) -> None:
        """Nothing can be sent, nor anything read."""
        self._connected = False
        self._output = []
        self._stop_timer()
        self._exchange.disconnected()
        self._away.lost(time.monotonic(), why)

    def _go_on(self) -> None:
        """Rule 2."""
        if self.lost or self._connected or self._timer is not None or self._linking is not None:
            return
        if self._calls or self._streams or self._exchange.unsettled:
            left = max(0.0, self._away.next - time.monotonic())
            self._timer = self.loop.call_later(left, self._try)

    def _try(self) -> None:
        """Try once to connect. A Unix socket does at once or not at all."""
        self._timer = None
        self._away.trying(time.monotonic())
        try:
            connected = _connect(self._at)
        except (OSError, MemoryError) as error:
            self._away.failed(why_not_connected(error))
            self._exchange.refusal = None
            self._fail_if_away_too_long()
            self._go_on()
        else:
            self._linking = self.loop.create_task(self._link(connected))

    async def _link(self, connected: socket.socket) -> None:
        """Give the new socket a transport, and say on it all that this session has."""
        self._socket = connected
        try:
            await self.loop.create_unix_connection(lambda: self, sock=connected)
        except BaseException as error:
            connected.close()
            if not isinstance(error, OSError | MemoryError):
                raise
            self._away.failed(why_not_connected(error))
            self._fail_if_away_too_long()
        else:
            self._resume()
        finally:
            self._linking = None
            if not self.loop.is_closed():
                self._go_on()

    def _resume(self) -> None:
        if self._transport is None or self.lost:
            return  # lost again, and connection_lost was called
        now = time.monotonic()
        self._connected = True
        self._transport.write(self._exchange.resume(now))
        self._welcome_by = self._away.welcome_by(now, HELLO_SECONDS)
        self._timer = self.loop.call_later(self._welcome_by - now, self._not_welcome)

    def _not_welcome(self) -> None:
        """The calls give up, but the daemon is waited for: if we ended this connection, that would
        release what is held."""
        left = self._welcome_by - time.monotonic()
        if left > 0:  # a loop's own clock is that of its last turn: its timers may be early
            self._timer = self.loop.call_later(max(left, EARLY_SECONDS), self._not_welcome)
            return
        self._timer = None
        self._away.failed("it is there, but does not say welcome")
        self._fail_if_away_too_long()

    def _fail_if_away_too_long(self) -> None:
        """Who waits is told, if the daemon does not come back in time. What is held is still held."""
        if not self._away.gave_up(time.monotonic()):
            return
        why = self._exchange.refusal or unavailable(self._at, self._away.not_back())
        calls, self._calls = self._calls, {}
        for number, call in calls.items():
            self._send(self._exchange.release(number))
            if not call.done():
                call.set_result(why)
        for number in self._streams:
            self._send(self._exchange.release(number))
        self._end_streams(why)

    def _end_streams(self, why: AtmostError) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.take(why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def this_task() -> object:
    """The calling task. In a forked child, where what it copied of its parent's ends, no loop runs."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _connect_to_one(
    places: list[SocketPath], start: bool
) -> tuple[socket.socket, SocketPath]:
    """Raises DaemonUnavailable."""
    try:
        return first_that_answers(places, _connect)
    except DaemonUnavailable as none:
        if not start or len(places) == 1:  # it was named
            raise
        why = none
    from atmost import starting  # most clients never need it

    made: list[socket.socket] = []
    given_up = False

    def connect(at: SocketPath) -> socket.socket:
        made.append(_connect(at))
        if given_up:
            made[-1].close()
        return made[-1]

    try:
        return await asyncio.to_thread(starting.connect, places, connect, why)
    except BaseException as error:
        given_up = True  # the thread goes on, and its socket is nobody's
        for connected in made:
            connected.close()
        if isinstance(error, DaemonUnavailable):
            raise started_or_not(error, why) from None
        raise


def _connect(at: SocketPath) -> socket.socket:
    """A Unix socket connects at once or not at all, so there is nothing to wait for. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(at.path)
        check_owner(at, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _has_ended(connected: socket.socket) -> bool:
    """Whether the other end has closed this connection, and all that it said before was read."""
    try:
        return not connected.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _impatient(call: asyncio.Future[Answer]) -> None:
    if not call.done():
        call.set_exception(TimeoutError())


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_in_child() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)


def _outlive_the_interpreter() -> None:
    """As sync_connection's: for a loop in a daemon thread."""
    for connection in list(_connections):
        with contextlib.suppress(OSError):
            os.dup(connection._socket.fileno())


atexit.register(_outlive_the_interpreter)
