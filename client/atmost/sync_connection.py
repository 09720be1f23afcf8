"""The blocking client's connection: one session, shared by the threads of a process.

There is no background thread. Of the threads that wait for an answer one reads for all (the leader);
when it has its own answer, the next one leads. A thread that is alone pays no hand-over.

When the connection is lost, the leader connects again and says all that this session has
(exchange.py); who holds notices nothing. If nobody waits, a helper thread does it, which ends as soon
as the daemon knows. So the loss has to be noticed, by a call, a release or the end of a block: the
release that a daemon had not read yet when it was killed, of a process that never calls us again, is
made good when that process ends. (A thread that always watches would make every fork the fork of a
process with threads.)
"""

from __future__ import annotations

import math
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from atmost import wire
from atmost.asked import Asked
from atmost.errors import AtmostError, GrantLost
from atmost.exchange import (
    ANSWER_SECONDS,
    HELLO_SECONDS,
    RECONNECT_SECONDS,
    Answer,
    Exchange,
    first_that_answers,
    said_by,
    unavailable,
    why_not_connected,
)
from atmost.paths import SocketPath, socket_paths
from atmost.reconnecting import Reconnecting
from atmost.sync_socket import Socket
from atmost.watching import Event, Frames

_HELPER = 0  # the helper thread's place among the calls; requests are numbered from 1


class _Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "number", "wake")

    def __init__(self) -> None:
        self.number = 0  # of the request; 0 until it has one
        self.answer: Answer | None = None
        self.wake: threading.Lock | None = None  # held while its thread sleeps


class Stream(_Call):
    """A watch: it is among the calls only while a thread waits for its next events."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        super().__init__()
        self.frames = Frames()


class _OutOfPatience(Exception):
    """No answer, not even that the time is up. Not a TimeoutError: a program's own signal handler
    may raise one of those while we wait."""


class Connection:
    """One session with the daemon, shared by the threads of this process.

    Rule 1: `_lock` guards every field; it is never held while waiting for an answer.
    Rule 2: an exception may come at any place in a thread that waits (Ctrl-C, a signal handler, an
    async exception): its request is let go of, and another thread reads on and misses nothing.
    Rule 3: the socket is closed by whoever reads, if somebody does: its number could be another
    file's by the time of the read. Only who reads connects again.
    Rule 4: while the connection is lost and the daemon may think that we have what we let go of,
    somebody tries to reach it: a thread that waits, or else the helper.
    """

    def __init__(
        self, exchange: Exchange, at: SocketPath, connected: Socket, seconds: float
    ) -> None:
        self._lock = threading.Lock()
        self._exchange = exchange
        self._calls: dict[int, _Call] = {}  # by request
        self._streams: dict[int, Stream] = {}  # the same
        self._reading = False  # a thread reads for all
        self.lost: AtmostError | None = None  # why this session is over
        self._at = at
        self._socket = connected
        self._connected = True  # what is sent may arrive; else it waits to be said again
        self._away = Reconnecting(seconds)
        self._welcome_by = math.inf  # or the calls give up
        self._pausing: threading.Lock | None = None  # held while the leader waits for the next try
        self._ends_settled = False  # nobody uses it any more: it is over when the daemon knows all
        _connections.add(self)

    @classmethod
    def open(
        cls, given: str | os.PathLike[str] | None, command: list[str] | None, seconds: float
    ) -> Connection:
        """Connect and shake hands. Raises DaemonUnavailable, ProtocolError, or what else the daemon
        refuses with."""
        connected = Socket()
        _, at = first_that_answers(socket_paths(given), connected.connect)
        connection = cls(Exchange(command), at, connected, seconds)
        try:
            connection._shake_hands()
        except BaseException:
            connected.close()
            raise
        return connection

    def acquire(self, asked: Asked, caller: object) -> wire.Granted:
        """Wait for slots."""
        ends = None if asked.timeout_seconds is None else time.monotonic() + asked.timeout_seconds
        granted: wire.Granted = self._call(
            asked.patience, self._exchange.acquire, asked, caller, ends
        )
        return granted

    def ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        """Send a request of this kind and wait for its answer."""
        answer: Answer = self._call(ANSWER_SECONDS, self._exchange.ask, kind, *fields)
        return answer

    def watch(self, name: str | None) -> Stream:
        """Be told what happens, from now on."""
        stream = Stream()
        try:
            with self._lock:
                if self.lost:
                    raise self.lost
                number = stream.number = self._exchange.number()
                frame = self._exchange.ask(number, wire.Watch, name)
                self._streams[number] = stream
                self._send(frame)
                if not self._connected and self._away.hurry(time.monotonic()):
                    self._poke()
            self._wait_for_events(stream, ANSWER_SECONDS)
        except BaseException:
            self.stop_watching(stream)
            raise
        return stream

    def next_events(self, stream: Stream) -> list[Event]:
        """Wait for what happens next."""
        self._wait_for_events(stream, None)
        with self._lock:
            events = stream.frames.take()
            if not stream.frames and stream.frames.failure is None:
                stream.answer = None
        return events

    def stop_watching(self, stream: Stream) -> None:
        """Twice is harmless."""
        with self._lock:
            is_known = self._streams.pop(stream.number, None) is not None
            self._calls.pop(stream.number, None)
            if is_known and not self.lost:
                self._send(self._exchange.release(stream.number))
        self._hand_over()

    def _wait_for_events(self, stream: Stream, patience: float | None) -> None:
        if not stream.frames and stream.frames.failure is None:
            try:
                with self._lock:
                    if stream.answer is None:
                        self._calls[stream.number] = stream
                self._wait(stream, None if patience is None else time.monotonic() + patience)
            except _OutOfPatience:
                assert patience is not None
                raise unavailable(self._at, self._why_no_answer(patience)) from None
            finally:
                with self._lock:
                    self._calls.pop(stream.number, None)
                self._hand_over()
        if not stream.frames and stream.frames.failure is not None:
            raise stream.frames.failure

    def enter(self, caller: object, number: int) -> None:
        """The caller will be inside this grant's block until leave()."""
        self._exchange.enter(caller, number)

    def leave(self, caller: object, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> GrantLost | None:
        """Let go of what the request has. Needs no answer. Returns why it had nothing any more, if the
        daemon has said so by now; that is looked at last, since others may wait for the slots."""
        with self._lock:
            lost = self._exchange.lost_grants.get(number)
            if lost is not None or self.lost:
                return lost
            self._send(self._exchange.release(number))
            self._settle_if_nobody_does()
            if self._reading or not self._socket.has_unread():
                return None
        return self.lost_grant(number)

    def lost_grant(self, number: int) -> GrantLost | None:
        """Why this grant is no longer held, as far as the daemon has said by now."""
        self._look()
        return self._exchange.lost_grants.get(number)

    def close(self, reason: str) -> None:
        """End the session."""
        self._look()
        with self._lock:
            if not self.lost:
                if self._connected and self._socket.has_ended():  # who reads has not looked yet
                    self._exchange.disconnected()
                unsettled = self._exchange.unsettled and not self._exchange.welcomed
                self._lose(unavailable(self._at, reason))
                if unsettled:
                    settle(self._exchange, self._at)

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's goes on."""
        self._lock = threading.Lock()
        self.lost = unavailable(self._at, "the session is that of the parent process")
        for stream in self._streams.values():
            stream.frames.failure = self.lost
        self._socket.close()

    # Sending

    def _send(self, frame: bytes) -> None:
        """What cannot be sent is no loss: all that counts is said again on the next connection."""
        if self._connected:
            try:
                self._socket.send(frame)
            except OSError as error:
                self._disconnect(_why_broken(error))

    # Waiting

    def _call(self, patience: float | None, ask: Callable[..., bytes], *arguments: Any) -> Any:
        """Send a request and wait for its answer; an exception leaves nothing of it behind."""
        call = _Call()
        try:
            with self._lock:
                if self.lost:
                    raise self.lost
                number = call.number = self._exchange.number()
                frame = ask(number, *arguments)
                self._calls[number] = call
                self._send(frame)
                if not self._connected and self._away.hurry(time.monotonic()):
                    self._poke()
            self._wait(call, None if patience is None else time.monotonic() + patience)
            answer = call.answer
            if not isinstance(answer, AtmostError):
                return answer
        except BaseException as error:
            self._give_up(call)
            if isinstance(error, _OutOfPatience):
                assert patience is not None
                raise unavailable(self._at, self._why_no_answer(patience)) from None
            raise
        raise answer

    def _why_no_answer(self, patience: float) -> str:
        if self._away.since is not None:
            return self._away.not_back(patience)
        return f"it is there, but gave no answer within {patience:g} s"

    def _wait(self, call: _Call, deadline: float | None) -> None:
        """Return when the call has its answer."""
        leads = False
        try:
            while call.answer is None:
                with self._lock:
                    if call.answer is not None:
                        return
                    if not self._reading:
                        leads = self._reading = True
                    else:
                        wake = call.wake = threading.Lock()
                        wake.acquire()
                if leads:
                    self._lead(call, deadline)
                elif not wake.acquire(timeout=-1 if deadline is None else _left(deadline)):
                    raise _OutOfPatience
        finally:
            if leads:
                self._reading = False  # at once: another exception could come with the first call
                if self._calls or self.lost or self._exchange.unsettled:  # nearly never
                    self._hand_over()

    def _lead(self, call: _Call, deadline: float | None) -> None:
        """Read for all threads until this call has its answer."""
        while call.answer is None:
            if not self._socket.received:
                if self._socket.fileno() < 0:
                    self._reconnect(deadline)
                    continue
                if self._socket.unsent or self._away.since is not None:
                    if not self._begin_connection(deadline):
                        continue
                elif deadline is not None:
                    self._await_bytes(deadline)
            self._read()

    def _read(self) -> None:
        """Take the bytes that have come, or wait for some."""
        gone = "the daemon closed the connection"
        if not self._socket.received:
            try:
                self._socket.receive()
            except OSError as error:
                gone = _why_broken(error)
        with self._lock:
            if self.lost:
                return
            if self._socket.received and self._socket.received[0]:
                self._take(self._socket.piece())
            else:
                self._end_connection(gone)

    def _hand_over(self) -> None:
        """This thread does not read any more: another one has to, if any waits."""
        with self._lock:
            if self._reading:
                return
            if self.lost:
                self._socket.close()
                self._fail_all()
            else:
                self._promote()
                self._settle_if_nobody_does()

    def _await_bytes(self, deadline: float) -> None:
        if not self._socket.wait(_left(deadline)):
            raise _OutOfPatience

    def _give_up(self, call: _Call) -> None:
        """The caller does not wait any longer. A grant that is on its way is let go of too."""
        with self._lock:
            self._calls.pop(call.number, None)
            if call.number and not self.lost:
                self._send(self._exchange.release(call.number))
        self._hand_over()

    def _promote(self) -> None:
        """Wake one that waits, to read for all."""
        for call in self._calls.values():
            wake, call.wake = call.wake, None
            if wake is not None:
                wake.release()
                return

    # Receiving

    def _shake_hands(self) -> None:
        try:
            self._socket.limit(HELLO_SECONDS)
            self._socket.send(self._exchange.hello())
            while not self._exchange.welcomed:
                self._socket.receive()
                if not self._socket.received[0]:
                    raise unavailable(self._at, "the daemon closed the connection")
                self._exchange.receive(self._socket.piece())
                self._socket.received.clear()
                if self._exchange.refusal is not None:
                    raise self._exchange.refusal
            self._socket.limit(None)
        except AtmostError as error:
            raise said_by(self._at, error) from None
        except OSError as error:
            raise unavailable(self._at, why_not_connected(error)) from error

    def _look(self) -> None:
        """Take what the daemon has said by now, if no thread reads anyway."""
        with self._lock:
            if self._reading or self.lost or not self._socket.has_unread():
                return
            self._reading = True
        try:
            if self._socket.received or self._socket.fileno() >= 0:
                self._read()
        finally:
            self._reading = False
            self._hand_over()

    def _take(self, data: memoryview) -> None:
        """Give these bytes to whom they answer. If an exception comes, they are taken again."""
        unfinished = self._exchange.unfinished
        try:
            for number, answer in self._exchange.receive(data):
                call = self._calls.get(number)
                if self._streams and number in self._streams:
                    self._stream(self._streams[number], answer)
                elif call is not None:
                    self._answer(call, answer)
                    del self._calls[number]
            if self._away.since is not None and self._exchange.welcomed:
                self._away.back()
            if _HELPER in self._calls and not self._exchange.unsettled:
                self._answer(self._calls[_HELPER], wire.Done(_HELPER))
                del self._calls[_HELPER]
        except AtmostError as error:
            self._exchange.lose_all(str(error))
            self._lose(said_by(self._at, error))
        except BaseException:
            self._exchange.unfinished = unfinished
            raise
        self._socket.received.clear()

    def _answer(self, call: _Call, answer: Answer) -> None:
        call.answer = answer
        wake, call.wake = call.wake, None
        if wake is not None:
            wake.release()

    def _stream(self, stream: Stream, answer: Answer) -> None:
        """More of what happens, or why there will be no more."""
        if isinstance(answer, wire.Events):
            stream.frames.put(answer)
        elif isinstance(answer, AtmostError):
            stream.frames.failure = answer
            self._streams.pop(stream.number, None)
        self._answer(stream, answer)

    def _lose(self, why: AtmostError) -> None:
        """The session is over: whoever waits is told, and nothing is held any more."""
        if not self.lost:
            self.lost = why
            self._socket.shut_down()  # wakes the thread that reads
            if not self._reading:
                self._socket.close()
            self._poke()
        self._fail_all()

    def _fail_all(self) -> None:
        assert self.lost is not None
        for stream in list(self._streams.values()):
            self._stream(stream, self.lost)
        for call in self._calls.values():
            self._answer(call, self.lost)
        self._calls = {}

    # A connection that is lost: called with the lock

    def _disconnect(self, why: str) -> None:
        """Nothing more can be sent. What has come can still be read."""
        if self._connected:
            self._away.lost(time.monotonic(), why)
            self._exchange.disconnected()
            self._socket.shut_down()  # wakes the thread that reads
            self._connected = False  # last: if an exception comes before, this is done again

    def _end_connection(self, why: str) -> None:
        """Nor can anything be read: who reads connects again."""
        self._disconnect(why)
        self._socket.received.clear()
        self._socket.close()
        self._fail_if_away_too_long()

    def _resume(self) -> None:
        """Say all that this session has on the connection that was just made."""
        if self.lost:
            self._socket.close()
            return
        now = time.monotonic()
        self._welcome_by = self._away.welcome_by(now, HELLO_SECONDS)
        self._socket.begin(self._exchange.resume(now))
        self._connected = True

    def _fail_if_away_too_long(self) -> None:
        """Who waits is told, if the daemon does not come back in time. What is held is still held."""
        if not self._away.gave_up(time.monotonic()):
            return
        why = self._exchange.refusal or unavailable(self._at, self._away.not_back())
        for stream in list(self._streams.values()):
            self._send(self._exchange.release(stream.number))
            self._stream(stream, why)
        for number, call in list(self._calls.items()):
            if number != _HELPER:
                self._send(self._exchange.release(number))
                self._answer(call, why)
                self._calls.pop(number, None)

    def _poke(self) -> None:
        """The leader need not wait any longer before its next try."""
        pausing, self._pausing = self._pausing, None
        if pausing is not None:
            pausing.release()

    def _settle_if_nobody_does(self) -> None:
        """Rule 4."""
        if not self._exchange.unsettled or self._reading or self._calls:
            return
        if sys.is_finalizing():
            return  # no thread would start any more, and start() would wait for it; we are gone soon
        call = self._calls[_HELPER] = _Call()
        helper = threading.Thread(
            target=self._settle, args=(call,), name="atmost-reconnect", daemon=True
        )
        try:
            helper.start()
        except BaseException as error:
            call.answer = wire.Done(_HELPER)  # if it runs after all
            self._calls.pop(_HELPER, None)
            if not isinstance(error, RuntimeError):  # the interpreter ends, and so this process
                raise

    # A connection that is lost: called by who reads, without the lock

    def _reconnect(self, deadline: float | None) -> None:
        """Try once to connect, or wait until it is time for that."""
        pause = self._pause()
        if pause is not None:
            left = _left(self._away.next)
            if deadline is not None and _left(deadline) < left:
                if not pause.acquire(timeout=_left(deadline)):
                    raise _OutOfPatience
            else:
                pause.acquire(timeout=left)
            return
        try:
            self._socket.connect(self._at.path)
        except OSError as error:
            with self._lock:
                self._away.failed(_why(error))
                self._exchange.refusal = None
                self._fail_if_away_too_long()
            return
        try:
            with self._lock:
                self._resume()
        except BaseException:
            self._socket.close()  # it may not have been begun
            raise

    def _pause(self) -> threading.Lock | None:
        """What to sleep on before the next try; None: the try is now."""
        with self._lock:
            now = time.monotonic()
            if self._away.next <= now:
                self._away.trying(now)
                return None
            self._pausing = pause = threading.Lock()
            pause.acquire()
            return pause

    def _begin_connection(self, deadline: float | None) -> bool:
        """Send what begins it. Returns whether there is something to read. (What is left of the
        connection that was lost comes at once.)

        A daemon that takes its time is waited for, even if the calls have given up: if we ended this
        connection, that would release what is held.
        """
        until = self._welcome_by if deadline is None else min(deadline, self._welcome_by)
        came = self._socket.wait(_left(until), writes=bool(self._socket.unsent))
        if came & select.POLLOUT:
            with self._lock:
                try:
                    self._socket.send_unsent()
                except OSError as error:
                    self._disconnect(_why_broken(error))
        elif not came:
            if deadline is not None and deadline <= self._welcome_by:
                raise _OutOfPatience
            with self._lock:
                self._welcome_by = math.inf
                self._away.failed("it is there, but does not say welcome")
                self._fail_if_away_too_long()
        return bool(came & ~select.POLLOUT)

    def _settle(self, call: _Call) -> None:
        """The helper thread: as one that waits until the daemon knows all that is left."""
        self._wait(call, None)
        if self._ends_settled:
            self.close("the session was ended")
        self._hand_over()


def settle(exchange: Exchange, at: SocketPath) -> None:
    """In the background: have the daemon let go of what this session had, which ended without a
    connection.

    It tries once a second for as long as this process lives, and that is its bound: a daemon that comes
    back keeps our slots for just as long, whenever that is, and nobody else could tell it."""
    exchange.end()
    connection = Connection(exchange, at, Socket(), RECONNECT_SECONDS)
    connection._connected = False
    connection._ends_settled = True
    connection._away.lost(time.monotonic(), "")
    with connection._lock:
        connection._settle_if_nobody_does()


def _why_broken(error: OSError) -> str:
    return f"the connection broke: {_why(error)}"


def _why(error: OSError) -> str:
    """What the socket's own error means; any other goes on: a signal handler of the program has
    raised it."""
    if error.errno is None:
        raise error
    return why_not_connected(error)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_in_child() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
