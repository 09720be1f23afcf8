"""The half of the blocking client's connection that is about its loss: who reads connects again, and says
all that the session has.

Rules 1, 3 and 4 of sync_connection.Connection, whose fields these are, hold here.
"""

from __future__ import annotations

import math
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

from atmost.connecting import unavailable, why_not_connected
from atmost.errors import AtmostError
from atmost.exchange import HELLO_SECONDS, Answer, Exchange
from atmost.paths import SocketPath
from atmost.reconnecting import Reconnecting
from atmost.sync_caller import Caller
from atmost.sync_socket import Socket

HELPER = 0  # the helper thread's place among the calls; requests are numbered from 1


class Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "caller", "number", "wake")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.number = 0  # of the request; 0 until it has one
        self.answer: Answer | None = None
        self.wake: threading.Lock | None = None  # held while its thread sleeps


class OutOfPatience(Exception):
    """No answer, not even that the time is up. Not a TimeoutError: a program's own signal handler
    may raise one of those while we wait."""


class Reconnects(ABC):
    """A session that outlives its connections."""

    _lock: threading.RLock
    _exchange: Exchange
    _calls: dict[int, Call]
    _streams: Mapping[int, Call]
    lost: AtmostError | None
    _at: SocketPath
    _socket: Socket
    _connected: bool
    _away: Reconnecting
    _welcome_by: float
    _pausing: threading.Lock | None

    @abstractmethod
    def _send(self, frame: bytes) -> None: ...

    @abstractmethod
    def _end_streams(self, why: AtmostError) -> None: ...

    @abstractmethod
    def _answer(self, call: Call, answer: Answer) -> None: ...

    # Called with the lock

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
        for number in self._streams:
            self._send(self._exchange.release(number))
        self._end_streams(why)
        for number, call in list(self._calls.items()):
            if number != HELPER:
                self._send(self._exchange.release(number))
                self._answer(call, why)
                self._calls.pop(number, None)

    def _poke(self) -> None:
        """The leader need not wait any longer before its next try."""
        pausing, self._pausing = self._pausing, None
        if pausing is not None:
            pausing.release()

    # Called by who reads, without the lock

    def _reconnect(self, deadline: float | None) -> None:
        """Try once to connect, or wait until it is time for that."""
        pause = self._pause()
        if pause is not None:
            left = seconds_left(self._away.next)
            if deadline is not None and seconds_left(deadline) < left:
                if not pause.acquire(timeout=seconds_left(deadline)):
                    raise OutOfPatience
            else:
                pause.acquire(timeout=left)
            return
        try:
            self._socket.connect(self._at)
        except (OSError, MemoryError) as error:
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
        came = self._socket.wait(seconds_left(until), writes=bool(self._socket.unsent))
        if came & select.POLLOUT:
            with self._lock:
                try:
                    self._socket.send_unsent()
                except OSError as error:
                    self._disconnect(why_broken(error))
        elif not came:
            if deadline is not None and deadline <= self._welcome_by:
                raise OutOfPatience
            with self._lock:
                self._welcome_by = math.inf
                self._away.failed("it is there, but does not say welcome")
                self._fail_if_away_too_long()
        return bool(came & ~select.POLLOUT)


def why_broken(error: OSError) -> str:
    return f"the connection broke: {_why(error)}"


def _why(error: OSError | MemoryError) -> str:
    """What the socket's own error means; any other goes on: a signal handler of the program has
    raised it."""
    if isinstance(error, OSError) and error.errno is None:
        raise error
    return why_not_connected(error)


def seconds_left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
