"""The blocking client's connection: one session, shared by the threads of a process.

There is no background thread. Of the threads that wait for an answer one reads for all (the leader);
when it has its own answer, the next one leads. A thread that is alone pays no hand-over.

When the connection is lost, the leader connects again and says all that this session has
(exchange.py); who holds notices nothing. If nobody waits, a helper thread does it, which ends as soon
as the daemon knows. So the loss has to be noticed, by a call, a release or the end of a block: for the
release that a daemon had not read yet when it was killed, of a process that never calls us again, there
is the slate (slate.py). (A thread that always watches would make every fork the fork of a process with
threads.)
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from atmost import wire
from atmost.asked import Asked
from atmost.connecting import (
    HANG_UPS_MAX,
    first_that_answers,
    hung_up,
    started_or_not,
    unavailable,
    was_leaving,
    why_not_connected,
)
from atmost.errors import AtmostError, DaemonUnavailable, GrantLost
from atmost.exchange import (
    ANSWER_SECONDS,
    HELLO_SECONDS,
    RECONNECT_SECONDS,
    Answer,
    Exchange,
    said_by,
)
from atmost.paths import SocketPath, socket_paths
from atmost.reconnecting import Reconnecting
from atmost.slate import lent
from atmost.sync_caller import Caller, this_thread
from atmost.sync_reconnecting import (
    HELPER,
    Call,
    OutOfPatience,
    seconds_left,
    why_broken,
)
from atmost.sync_socket import Socket
from atmost.sync_streams import Stream, Streams


class Connection(Streams):
    """One session with the daemon, shared by the threads of this process.

    Rule 1: `_lock` guards every field; it is never held while waiting for an answer.
    Rule 2: an exception may come at any place in a thread that waits (Ctrl-C, a signal handler, an
    async exception): its request is let go of, and another thread reads on and misses nothing.
    Rule 3: the socket is closed by whoever reads, if somebody does: its number could be another
    file's by the time of the read. Only who reads connects again.
    Rule 4: while the connection is lost and the daemon may think that we have what we let go of,
    somebody tries to reach it: a thread that waits, or else the helper.
    Rule 5: a signal handler, or the garbage collector, may call from on top of any step. A release or
    close that finds the lock with its own thread is put down, and done when that has let go of it,
    before it waits or returns. Any other call goes by another session (Client._connect).
    """

    def __init__(
        self,
        exchange: Exchange,
        at: SocketPath,
        connected: Socket,
        seconds: float,
        level: int = 0,
    ) -> None:
        self._make_lock()
        self._level = level  # of the calls that go by it: Caller.depth
        self._exchange = exchange
        self._calls: dict[int, Call] = {}  # by request
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
        cls,
        given: str | os.PathLike[str] | None,
        command: list[str] | None,
        seconds: float,
        level: int = 0,
        start: bool = True,
        slate: bool = True,
    ) -> Connection:
        """Connect and shake hands; `start` a daemon if none is there and one may be; have a `slate` lent.
        Raises DaemonUnavailable, ProtocolError, or what else the daemon refuses with."""
        places = socket_paths(given)
        hang_ups = 0
        while True:
            connected = Socket(takes_descriptor=slate)
            at = _connect(connected, places, start)
            connection = cls(Exchange(command, slate), at, connected, seconds, level)
            try:
                connection._shake_hands()
                return connection
            except BaseException as error:
                connected.close()
                hang_ups += 1
                if len(places) == 1 or hang_ups == HANG_UPS_MAX or not was_leaving(error):
                    raise

    def _make_lock(self) -> None:
        self._lock = threading.RLock()
        self.is_mine: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        self._put_down: list[Callable[[], object]] = []

    def acquire(self, asked: Asked, caller: Caller) -> wire.Granted:
        """Wait for slots."""
        ends = None if asked.timeout_seconds is None else time.monotonic() + asked.timeout_seconds
        granted: wire.Granted = self._call(
            caller, asked.patience, self._exchange.acquire, asked, caller, ends
        )
        return granted

    def ask(self, kind: type[wire.Message], *fields: Any, caller: Caller) -> Answer:
        """Send a request of this kind and wait for its answer."""
        answer: Answer = self._call(caller, ANSWER_SECONDS, self._exchange.ask, kind, *fields)
        return answer

    def enter(self, caller: Caller, number: int) -> None:
        """The caller will be inside this grant's block until leave()."""
        self._exchange.enter(caller, number)

    def leave(self, caller: Caller, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> GrantLost | None:
        """Let go of what the request has. Needs no answer. Returns why it had nothing any more, if the
        daemon has said so by now; that is looked at last, since others may wait for the slots."""
        if self.is_mine():
            self._put_down.append(functools.partial(self._release, number))
            return self._exchange.lost_grants.get(number)
        try:
            with self._lock:
                lost = self._exchange.lost_grants.get(number)
                if lost is not None or self.lost:
                    return lost
                self._send(self._exchange.release(number))
                self._settle_if_nobody_does()
                if self._reading or not self._socket.has_unread():
                    return None
        finally:
            if self._put_down:
                self._pick_up()
        return self.lost_grant(number)

    def lost_grant(self, number: int) -> GrantLost | None:
        """Why this grant is no longer held, as far as the daemon has said by now."""
        self._look()
        return self._exchange.lost_grants.get(number)

    def stops(self, caller: Caller, asked: Asked) -> bool:
        """Whether others may wait for this very thread, as long as it waits for what it asks for on top
        of its call here."""
        if self.is_mine():
            return True
        numbers = [call.number for call in list(self._calls.values()) if call.caller is caller]
        return not self._exchange.names_of(caller, numbers).isdisjoint(asked.hold)

    def close(self, reason: str) -> None:
        """End the session."""
        if self.is_mine():
            self._put_down.append(functools.partial(self._close, reason))
            return
        self._look()
        try:
            self._close(reason)
        finally:
            self._pick_up()

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's goes on."""
        self._make_lock()
        self.lost = unavailable(self._at, "the session is that of the parent process")
        for stream in self._streams.values():
            stream.frames.failure = self.lost
        self._exchange.slate = None  # it is the parent's
        self._socket.close()

    # What was put down: rule 5. It may be done twice, by two threads or after an interruption.

    def _pick_up(self) -> None:
        while self._put_down and not self.is_mine():
            for do in self._put_down[:]:
                do()
                with contextlib.suppress(ValueError):  # another thread was there
                    self._put_down.remove(do)  # last: an interruption leaves it to the next one

    def _release(self, number: int) -> None:
        with self._lock:
            if not self.lost:
                self._send(self._exchange.release(number))
                self._settle_if_nobody_does()

    def _close(self, reason: str) -> None:
        with self._lock:
            if not self.lost:
                if self._connected and self._socket.has_ended():  # who reads has not looked yet
                    self._exchange.disconnected()
                unsettled = self._exchange.unsettled and not self._exchange.welcomed
                self._exchange.note_end()
                self._lose(unavailable(self._at, reason))
                if unsettled:
                    settle(self._exchange, self._at)

    # Sending

    def _send(self, frame: bytes) -> None:
        """What cannot be sent is no loss: all that counts is said again on the next connection."""
        if self._connected:
            try:
                self._socket.send(frame)
            except OSError as error:
                self._disconnect(why_broken(error))

    # Waiting

    def _call(
        self, caller: Caller, patience: float | None, ask: Callable[..., bytes], *arguments: Any
    ) -> Any:
        """Send a request and wait for its answer; an exception leaves nothing of it behind."""
        call = Call(caller)
        depth = caller.depth
        try:
            caller.depth = self._level + 1
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
            if isinstance(error, OutOfPatience):
                assert patience is not None
                raise unavailable(self._at, self._why_no_answer(patience)) from None
            raise
        finally:
            caller.depth = depth
            if self._put_down:
                self._pick_up()
        raise answer

    def _why_no_answer(self, patience: float) -> str:
        if self._away.since is not None:
            return self._away.not_back(patience)
        return f"it is there, but gave no answer within {patience:g} s"

    def _wait(self, call: Call, deadline: float | None) -> None:
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
                if self._put_down:
                    self._pick_up()
                if leads:
                    self._lead(call, deadline)
                elif not wake.acquire(timeout=-1 if deadline is None else seconds_left(deadline)):
                    raise OutOfPatience
        finally:
            if leads:
                self._reading = False  # at once: another exception could come with the first call
                if self._calls or self.lost or self._exchange.unsettled:  # nearly never
                    self._hand_over()

    def _lead(self, call: Call, deadline: float | None) -> None:
        """Read for all threads until this call has its answer."""
        while call.answer is None:
            if self.lost:
                raise self.lost
            if self._put_down:
                self._pick_up()
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
                gone = why_broken(error)
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
        if not self._socket.wait(seconds_left(deadline)):
            raise OutOfPatience

    def _give_up(self, call: Call) -> None:
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
                    raise hung_up(self._at)
                self._exchange.receive(self._socket.piece())
                self._socket.received.clear()
                if self._exchange.refusal is not None:
                    raise self._exchange.refusal
            self._exchange.borrow(lent(self._socket.descriptor()))
            self._socket.limit(None)
        except AtmostError as error:
            raise said_by(self._at, error) from error.__cause__
        except OSError as error:
            raise unavailable(self._at, why_not_connected(error)) from error

    def _look(self) -> None:
        """Take what the daemon has said by now, if no thread reads anyway."""
        if self.is_mine() or self._reading or self.lost:
            return
        caller = this_thread.caller
        depth = caller.depth
        reads = False
        try:
            caller.depth = max(depth, self._level + 1)
            with self._lock:
                if self._reading or self.lost or not self._socket.has_unread():
                    return
                reads = self._reading = True
            if self._socket.received or self._socket.fileno() >= 0:
                self._read()
        finally:
            caller.depth = depth
            if reads:
                self._reading = False
                self._hand_over()
            if self._put_down:
                self._pick_up()

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
                self._exchange.borrow(lent(self._socket.descriptor()))
                self._away.back()
            if HELPER in self._calls and not self._exchange.unsettled:
                self._answer(self._calls[HELPER], wire.Done(HELPER))
                del self._calls[HELPER]
        except AtmostError as error:
            self._exchange.lose_all(str(error))
            self._lose(said_by(self._at, error))
        except BaseException:
            self._exchange.unfinished = unfinished
            raise
        self._socket.received.clear()

    def _answer(self, call: Call, answer: Answer) -> None:
        call.answer = answer
        wake, call.wake = call.wake, None
        if wake is not None:
            wake.release()

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
        self._end_streams(self.lost)
        for call in self._calls.values():
            self._answer(call, self.lost)
        self._calls = {}

    # The helper

    def _settle_if_nobody_does(self) -> None:
        """Rule 4."""
        if not self._exchange.unsettled or self._reading or self._calls:
            return
        if sys.is_finalizing():
            return  # no thread would start any more, and start() would wait for it; we are gone soon
        call = self._calls[HELPER] = Call(Caller())
        helper = threading.Thread(
            target=self._settle, args=(call,), name="atmost-reconnect", daemon=True
        )
        try:
            helper.start()
        except BaseException as error:
            call.answer = wire.Done(HELPER)  # if it runs after all
            self._calls.pop(HELPER, None)
            if not isinstance(error, RuntimeError):  # the interpreter ends, and so this process
                raise

    def _settle(self, call: Call) -> None:
        """The helper thread: as one that waits until the daemon knows all that is left."""
        this_thread.caller.depth = self._level + 1
        try:
            self._wait(call, None)
        finally:
            if call.answer is None:  # out of memory, say: another helper
                with self._lock:
                    self._calls.pop(HELPER, None)
                self._hand_over()
        if self._ends_settled:
            self.close("the session was ended")
        self._hand_over()
        self._pick_up()


def _connect(connected: Socket, places: list[SocketPath], start: bool) -> SocketPath:
    """Returns where. Raises DaemonUnavailable."""
    try:
        return first_that_answers(places, connected.connect)[1]
    except DaemonUnavailable as none:
        if not start or len(places) == 1:  # it was named
            raise
        from atmost import starting  # most clients never need it

        try:
            return starting.connect(places, connected.connect, none)[1]
        except DaemonUnavailable as error:
            raise started_or_not(error, none) from None


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


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _forget_in_child() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)


def _outlive_the_interpreter() -> None:
    """As it ends, it collects our sockets, while a daemon thread may still be inside a block and call
    into C. A copy that nobody closes is the process's: the kernel ends the session with that."""
    for connection in list(_connections):
        with contextlib.suppress(OSError):
            os.dup(connection._socket.fileno())


atexit.register(_outlive_the_interpreter)
