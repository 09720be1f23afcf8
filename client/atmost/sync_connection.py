"""The blocking client's connection: one session, shared by the threads of a process.

There is no background thread. Of the threads that wait for an answer one reads for all (the leader);
when it has its own answer, the next one leads. A thread that is alone pays no hand-over.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from atmost import wire
from atmost.errors import AtmostError
from atmost.exchange import (
    ANSWER_SECONDS,
    HELLO_SECONDS,
    RECEIVE_BYTES,
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


class _Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "number", "wake")

    def __init__(self) -> None:
        self.number = 0  # of the request; 0 until it has one
        self.answer: Answer | None = None
        self.wake: threading.Lock | None = None  # held while its thread sleeps


class _OutOfPatience(Exception):
    """No answer, not even that the time is up. Not a TimeoutError: a program's own signal handler
    may raise one of those while we wait."""


class Connection:
    """One session with the daemon, shared by the threads of this process.

    Rule 1: `_lock` guards every field; it is never held while waiting for an answer.
    Rule 2: an exception may come at any place in a thread that waits (Ctrl-C, a signal handler, an
    async exception): its request is let go of, and another thread reads on and misses nothing.
    Rule 3: the socket is closed by whoever reads, if somebody does: its number could be another
    file's by the time of the read.
    """

    def __init__(self, given: str | os.PathLike[str] | None, command: list[str] | None) -> None:
        """Raises DaemonUnavailable or ProtocolError."""
        self._lock = threading.Lock()
        self._exchange = Exchange(command)
        self._calls: dict[int, _Call] = {}  # by request
        self._reading = False  # a thread reads for all
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._received: deque[int] = deque()  # bytes in the buffer that were not taken yet
        self.lost: AtmostError | None = None  # why there is no connection any more
        self.closed = False  # by this process itself: its calls do not go on elsewhere
        self._socket, self._at = _connect(given)
        _connections.add(self)
        try:
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise

    def __del__(self) -> None:
        """Neither a client nor a grant needs it any more."""
        if hasattr(self, "_socket"):
            self._socket.close()

    def acquire(self, asked: Asked, caller: object) -> wire.Granted:
        """Wait for slots."""
        granted: wire.Granted = self._call(asked.patience, self._exchange.acquire, asked, caller)
        return granted

    def ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        """Send a request of this kind and wait for its answer."""
        answer: Answer = self._call(ANSWER_SECONDS, self._exchange.ask, kind, *fields)
        return answer

    def enter(self, caller: object, number: int) -> None:
        """The caller will be inside this grant's block until leave()."""
        self._exchange.enter(caller, number)

    def leave(self, caller: object, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> None:
        """Let go of what the request has. Needs no answer; without a connection nothing is held."""
        with self._lock:
            if not self.lost:
                self._send(self._exchange.release(number))

    def close(self, reason: str) -> None:
        """End the session."""
        self.closed = True
        with self._lock:
            self._lose(unavailable(self._at, reason))

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's goes on."""
        self._lock = threading.Lock()
        self.lost = unavailable(self._at, "the session is that of the parent process")
        self._socket.close()

    # Sending

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.sendall(frame)
        except OSError as error:
            self._lose(unavailable(self._at, _why_broken(error)))

    # Waiting

    def _call(
        self, patience: float | None, ask: Callable[..., tuple[int, bytes]], *arguments: Any
    ) -> Any:
        """Send a request and wait for its answer; an exception leaves nothing of it behind."""
        call = _Call()
        try:
            with self._lock:
                if self.lost:
                    raise self.lost
                call.number, frame = ask(*arguments)
                self._calls[call.number] = call
                self._send(frame)
            self._wait(call, None if patience is None else time.monotonic() + patience)
            answer = call.answer
            if not isinstance(answer, AtmostError):
                return answer
        except BaseException as error:
            self._give_up(call)
            if isinstance(error, _OutOfPatience):
                reason = f"it is there, but gave no answer within {patience:g} s"
                raise unavailable(self._at, reason) from None
            raise
        raise answer

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
                self._hand_over()

    def _lead(self, call: _Call, deadline: float | None) -> None:
        """Read for all threads until this call has its answer."""
        while call.answer is None:
            gone = "the daemon closed the connection"
            if not self._received:
                if deadline is not None:
                    self._await_bytes(deadline)
                try:
                    # One call into C, so that no exception comes between the bytes and their count.
                    self._received.extend(map(self._socket.recv_into, (self._buffer,)))
                except OSError as error:
                    gone = _why_broken(error)
            with self._lock:
                if self._received and self._received[0]:
                    self._take(self._buffer[: self._received[0]])
                else:
                    self._lose(unavailable(self._at, gone))

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

    def _await_bytes(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(_left(deadline) * 1000):
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
        self._socket.settimeout(HELLO_SECONDS)
        try:
            self._socket.sendall(self._exchange.hello())
            while not self._exchange.welcomed:
                count = self._socket.recv_into(self._buffer)
                if not count:
                    raise unavailable(self._at, "the daemon closed the connection")
                self._exchange.receive(self._buffer[:count])
        except AtmostError as error:
            raise said_by(self._at, error) from None
        except OSError as error:
            raise unavailable(self._at, why_not_connected(error)) from error
        self._socket.settimeout(None)

    def _take(self, data: memoryview) -> None:
        """Give these bytes to whom they answer. If an exception comes, they are taken again."""
        unfinished = self._exchange.unfinished
        try:
            for number, answer in self._exchange.receive(data):
                call = self._calls.get(number)
                if call is not None:
                    self._answer(call, answer)
                    del self._calls[number]
        except AtmostError as error:
            self._lose(said_by(self._at, error))
        except BaseException:
            self._exchange.unfinished = unfinished
            raise
        self._received.clear()

    def _answer(self, call: _Call, answer: Answer) -> None:
        call.answer = answer
        wake, call.wake = call.wake, None
        if wake is not None:
            wake.release()

    def _lose(self, why: AtmostError) -> None:
        """The session is over: whoever waits is told, and nothing is held any more."""
        if not self.lost:
            self.lost = why
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
            if not self._reading:
                self._socket.close()
        self._fail_all()

    def _fail_all(self) -> None:
        assert self.lost is not None
        for call in self._calls.values():
            self._answer(call, self.lost)
        self._calls = {}


def _connect(given: str | os.PathLike[str] | None) -> tuple[socket.socket, SocketPath]:
    """The first socket that answers, of those to be tried. Raises DaemonUnavailable."""
    tried = []
    for at in socket_paths(given):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(HELLO_SECONDS)
            connection.connect(at.path)
            return connection, at
        except OSError as error:
            connection.close()
            tried.append((at, why_not_connected(error)))
            if not may_try_next(error):
                break
    raise none_answers(tried)


def _why_broken(error: OSError) -> str:
    """What the socket's own error means; any other goes on: a signal handler of the program has
    raised it."""
    if error.errno is None:
        raise error
    return f"the connection broke: {why_not_connected(error)}"


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_in_child() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
