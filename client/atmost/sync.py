"""atmost for blocking code: scripts, threads, forked workers. The twin of atmost.asyncio.

Any number of threads share one connection. There is no background thread: of those that wait for an
answer, one reads for all (the leader), so a thread that is alone pays no hand-over.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from atmost import wire
from atmost.errors import AtmostError, DaemonUnavailable, ProtocolError
from atmost.exchange import (
    ANSWER_SECONDS,
    GRACE_SECONDS,
    HELLO_SECONDS,
    RECEIVE_BYTES,
    Answer,
    Asked,
    Exchange,
    Limit,
    asked_of_concurrency,
    asked_of_rate_limit,
    none_answers,
    unavailable,
    why_not_connected,
)
from atmost.paths import SocketPath, socket_paths
from atmost.values import Names, check_active, check_decay, check_limit, check_name

__all__ = [
    "Client",
    "Concurrency",
    "Grant",
    "Limit",
    "acquire",
    "concurrency",
    "create_limit",
    "delete_limit",
    "list_limits",
    "rate_limit",
    "read_limit",
    "update_limit",
]

P = ParamSpec("P")
R = TypeVar("R")


class Grant:
    """Slots that were granted; a context manager that releases them.

    names: the limits; slots: {name: slots held}; waited_seconds: in the line; token: the fencing
    token, greater than every one granted before on any of these limits; tokens: {name: token};
    unguarded: those of the limits that are inactive, where nothing is occupied.
    """

    __slots__ = ("_connection", "_number", "names", "slots", "token", "unguarded", "waited_seconds")

    def __init__(self, asked: Asked, connection: Connection | None, granted: wire.Granted | None):
        self.names = tuple(asked.hold)
        self.slots = dict(asked.hold)
        self.waited_seconds = granted.waited_ns / 1e9 if granted else 0.0
        self.token = granted.token if granted else 0
        self.unguarded = tuple(granted.unguarded) if granted else ()
        self._connection = connection
        self._number = granted.request if granted else 0

    @property
    def tokens(self) -> dict[str, int]:
        """The fencing token for each limit."""
        return dict.fromkeys(self.names, self.token)

    def release(self) -> None:
        """Give the slots back. Twice is harmless; in a forked child it does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release(self._number)

    def __enter__(self) -> Grant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Concurrency:
    """What `concurrency` returns: a context manager and a decorator, to be used any number of times,
    also by several threads at once."""

    __slots__ = ("_asked", "_client", "_entered")

    def __init__(self, client: Client, asked: Asked) -> None:
        self._client = client
        self._asked = asked
        self._entered: dict[int, list[Grant]] = {}  # by thread

    def __enter__(self) -> Grant:
        caller = threading.get_ident()
        grant = self._client._acquire(self._asked, caller, block=True)
        self._entered.setdefault(caller, []).append(grant)
        return grant

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        caller = threading.get_ident()
        grants = self._entered.get(caller)
        if not grants:  # a generator that another thread finishes
            caller, grants = next(iter(self._entered.items()))
        grant = grants.pop()
        if not grants:
            self._entered.pop(caller, None)
        if grant._connection is not None:
            grant._connection.leave(caller, grant._number)
        grant.release()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call runs inside."""
        import inspect  # takes longer to import than all the rest

        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is async: decorate it with atmost.asyncio.concurrency"
            )
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: its body runs after the call has "
                "returned; use a with block inside it"
            )

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return inside


class Client:
    """A client of one daemon. All its threads share one connection, made at the first call.

    socket_path: where the daemon listens; None: $ATMOST_SOCKET, the system's, or the user's own.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        _command: list[str] | None = None,
    ) -> None:
        self._socket_path = socket_path
        self._command = _command
        self._connection: Connection | None = None
        self._connecting = threading.Lock()
        _clients.add(self)

    # Slots

    def concurrency(
        self,
        names: Names,
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        rate_limit: Names = None,
        strict: bool = False,
    ) -> Concurrency:
        """See the function `concurrency`."""
        asked = asked_of_concurrency(names, occupy, timeout_seconds, rate_limit, strict)
        return Concurrency(self, asked)

    def acquire(
        self,
        names: Names,
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        rate_limit: Names = None,
        strict: bool = False,
    ) -> Grant:
        """See the function `acquire`."""
        asked = asked_of_concurrency(names, occupy, timeout_seconds, rate_limit, strict)
        return self._acquire(asked, threading.get_ident())

    def acquire_until_exit(
        self,
        names: Names,
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        rate_limit: Names = None,
        strict: bool = False,
    ) -> Grant:
        """Like `acquire`, but the slots belong to this process, not to its connection: they come
        back when it ends, however it ends. For a process that becomes another program by exec."""
        asked = asked_of_concurrency(names, occupy, timeout_seconds, rate_limit, strict)
        return self._acquire(asked.by_the_process(), threading.get_ident())

    def rate_limit(
        self,
        names: Names,
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """See the function `rate_limit`."""
        asked = asked_of_rate_limit(names, occupy, timeout_seconds, strict)
        self._acquire(asked, threading.get_ident())

    # Limits

    def create_limit(
        self, name: str, limit: int, slot_decay_per_second: float = 0.0, active: bool = True
    ) -> Limit:
        """See the function `create_limit`."""
        fields = (check_name(name), check_limit(limit), check_decay(slot_decay_per_second))
        return self._limit(wire.CreateLimit, *fields, check_active(active))

    def read_limit(self, name: str) -> Limit:
        """See the function `read_limit`."""
        return self._limit(wire.ReadLimit, check_name(name))

    def list_limits(self) -> list[Limit]:
        """See the function `list_limits`."""
        found: list[Limit] = []
        more = True
        while more:
            page = self._ask(wire.ListLimits, found[-1].name if found else "")
            assert isinstance(page, wire.Limits)
            found += map(Limit.of, page.limits)
            more = page.more
        return found

    def update_limit(
        self,
        name: str,
        *,
        limit: int | None = None,
        slot_decay_per_second: float | None = None,
        active: bool | None = None,
    ) -> Limit:
        """See the function `update_limit`."""
        return self._limit(
            wire.UpdateLimit,
            check_name(name),
            None if limit is None else check_limit(limit),
            None if slot_decay_per_second is None else check_decay(slot_decay_per_second),
            None if active is None else check_active(active),
        )

    def delete_limit(self, name: str) -> None:
        """See the function `delete_limit`."""
        self._ask(wire.DeleteLimit, check_name(name))

    # The daemon

    def list_tickets(self, name: str | None = None) -> list[wire.TicketRecord]:
        """Who holds and who waits, at one limit or at all, in the order of limit and arrival.

        Raises LimitNotFound, DaemonUnavailable.
        """
        if name is not None:
            check_name(name)
        found: list[wire.TicketRecord] = []
        more = True
        while more:
            behind = (found[-1].limit, found[-1].number) if found else ("", 0)
            page = self._ask(wire.ListTickets, name, *behind)
            assert isinstance(page, wire.Tickets)
            found += page.tickets
            more = page.more
        return found

    def status(self) -> wire.DaemonStatus:
        """What the daemon says of itself. Raises DaemonUnavailable."""
        answer = self._ask(wire.Status)
        assert isinstance(answer, wire.DaemonStatus)
        return answer

    def close(self) -> None:
        """End the session: what it still holds is released. A later call begins a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("the client was closed")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # Calls

    def _acquire(self, asked: Asked, caller: int, block: bool = False) -> Grant:
        if asked.nothing:
            return Grant(asked, None, None)
        connection = self._connection
        if connection is not None and not connection.lost:
            began = time.monotonic()
            try:
                return Grant(asked, connection, connection.acquire(asked, caller, block))
            except DaemonUnavailable:
                if not connection.lost:
                    raise
            # The daemon went away since the last call: its successor is asked, for the time left.
            asked = asked.after(time.monotonic() - began)
        connection = self._connect()
        return Grant(asked, connection, connection.acquire(asked, caller, block))

    def _ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        connection = self._connection
        if connection is not None and not connection.lost:
            try:
                return connection.ask(kind, *fields)
            except DaemonUnavailable:
                if not connection.lost:
                    raise
        return self._connect().ask(kind, *fields)

    def _limit(self, kind: type[wire.Message], *fields: Any) -> Limit:
        answer = self._ask(kind, *fields)
        assert isinstance(answer, wire.Limit)
        return Limit.of(answer.limit)

    def _connect(self) -> Connection:
        with self._connecting:
            connection = self._connection
            if connection is None or connection.lost:
                connection = self._connection = Connection(self._socket_path, self._command)
            return connection

    def _forget_in_child(self) -> None:
        """In a forked child: the parent's session is not ours, and its threads are not here."""
        self._connecting = threading.Lock()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.forget_in_child()


class _Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "wake")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.wake: threading.Lock | None = None  # held while its thread sleeps


class Connection:
    """One session with the daemon, shared by the threads of this process.

    Rule: `_lock` guards every field; it is never held while waiting for an answer.
    """

    def __init__(self, given: str | os.PathLike[str] | None, command: list[str] | None) -> None:
        """Raises DaemonUnavailable or ProtocolError."""
        self._lock = threading.Lock()
        self._exchange = Exchange(command)
        self._calls: dict[int, _Call] = {}  # by request
        self._reading = False  # a thread reads for all
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.lost: AtmostError | None = None  # why there is no connection any more
        self._socket, self._at = _connect(given)
        try:
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise

    def acquire(self, asked: Asked, caller: int, block: bool) -> wire.Granted:
        """Wait for slots. `block`: the caller will be inside until leave()."""
        patience = asked.timeout_seconds
        with self._lock:
            number, frame = self._exchange.acquire(asked, caller)
            call = self._begin(number, frame)
        granted = self._wait(number, call, None if patience is None else patience + GRACE_SECONDS)
        assert isinstance(granted, wire.Granted)
        if block:
            self._exchange.enter(caller, number)
        return granted

    def ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        """Send a request of this kind and wait for its answer."""
        with self._lock:
            number, frame = self._exchange.ask(kind, *fields)
            call = self._begin(number, frame)
        return self._wait(number, call, ANSWER_SECONDS)

    def leave(self, caller: int, number: int) -> None:
        """The caller is no longer inside this grant's block."""
        self._exchange.leave(caller, number)

    def release(self, number: int) -> None:
        """Let go of what the request has. Needs no answer; without a connection nothing is held."""
        with self._lock:
            if not self.lost:
                self._send(self._exchange.release(number))

    def close(self, reason: str) -> None:
        """End the session."""
        with self._lock:
            self._lose(unavailable(self._at, reason))

    def forget_in_child(self) -> None:
        """Close this process's copy of the socket; the parent's goes on."""
        self._lock = threading.Lock()
        self.lost = unavailable(self._at, "the session is that of the parent process")
        self._socket.close()

    # Sending

    def _begin(self, number: int, frame: bytes) -> _Call:
        if self.lost:
            raise self.lost
        call = self._calls[number] = _Call()
        self._send(frame)
        return call

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.sendall(frame)
        except OSError as error:
            self._lose(unavailable(self._at, f"the connection broke: {why_not_connected(error)}"))

    # Waiting

    def _wait(self, number: int, call: _Call, patience: float | None) -> Answer:
        deadline = None if patience is None else time.monotonic() + patience
        try:
            while call.answer is None:
                with self._lock:
                    if call.answer is not None:
                        break
                    leads = not self._reading
                    if leads:
                        self._reading = True
                    else:
                        wake = call.wake = threading.Lock()
                        wake.acquire()
                if leads:
                    self._lead(call, deadline)
                elif not wake.acquire(timeout=-1 if deadline is None else _left(deadline)):
                    raise TimeoutError
        except BaseException as error:
            self._give_up(number)
            if isinstance(error, TimeoutError):
                reason = f"it is there, but gave no answer within {patience:g} s"
                raise unavailable(self._at, reason) from None
            raise
        if isinstance(call.answer, AtmostError):
            raise call.answer
        return call.answer

    def _lead(self, call: _Call, deadline: float | None) -> None:
        """Read for all threads until this call has its answer."""
        try:
            while call.answer is None:
                if deadline is not None:
                    self._await_bytes(deadline)
                try:
                    count = self._socket.recv_into(self._buffer)
                    gone = "the daemon closed the connection"
                except OSError as error:
                    count = 0
                    gone = f"the connection broke: {why_not_connected(error)}"
                with self._lock:
                    if count:
                        self._take(self._buffer[:count])
                    else:
                        self._lose(unavailable(self._at, gone))
        finally:
            with self._lock:
                self._reading = False
                self._promote()

    def _await_bytes(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(_left(deadline) * 1000):
            raise TimeoutError

    def _give_up(self, number: int) -> None:
        """The caller does not wait any longer. A grant that is on its way is let go of too."""
        with self._lock:
            self._calls.pop(number, None)
            if not self.lost:
                self._send(self._exchange.release(number))
            if not self._reading:
                self._promote()

    def _promote(self) -> None:
        """Wake one that waits, to read for all."""
        for call in self._calls.values():
            if call.wake is not None:
                call.wake.release()
                call.wake = None
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
        except OSError as error:
            if isinstance(error, AtmostError):
                raise
            raise unavailable(self._at, why_not_connected(error)) from error
        self._socket.settimeout(None)

    def _take(self, data: memoryview) -> None:
        try:
            answers = self._exchange.receive(data)
        except ProtocolError as error:
            self._lose(error)
            return
        for number, answer in answers:
            call = self._calls.pop(number, None)
            if call is not None:
                self._answer(call, answer)

    def _answer(self, call: _Call, answer: Answer) -> None:
        call.answer = answer
        if call.wake is not None:
            call.wake.release()
            call.wake = None

    def _lose(self, why: AtmostError) -> None:
        """The session is over: whoever waits is told, and nothing is held any more."""
        if self.lost:
            return
        self.lost = why
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        self._socket.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self._answer(call, why)


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
            if not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                break  # a daemon that this user may not use is not replaced by another one
    raise none_answers(tried)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


# The client of this process, and its functions

_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_default = Client()


def concurrency(
    names: Names,
    occupy: int = 1,
    timeout_seconds: float | None = None,
    *,
    rate_limit: Names = None,
    strict: bool = False,
) -> Concurrency:
    """Hold slots while a block or a decorated function runs (semantics.md 2).

    names: a limit, several, or {name: slots}; all or nothing. occupy: slots of each. They come back
    when the block ends, however it ends. timeout_seconds: from the call; 0 tries once; None waits
    for ever. rate_limit: limits of which slots are spent in the same request. strict: never run
    unguarded. A limit that does not exist is made, inactive, and the block runs.

    `with` gives a Grant. Raises InvalidValue at once; on entry AcquireTimeout, NeverFits,
    SlotDecayRequired, LimitDeleted, WouldDeadlock, DaemonUnavailable; LimitNotFound and
    LimitInactive if strict.
    """
    return _default.concurrency(
        names, occupy, timeout_seconds, rate_limit=rate_limit, strict=strict
    )


def acquire(
    names: Names,
    occupy: int = 1,
    timeout_seconds: float | None = None,
    *,
    rate_limit: Names = None,
    strict: bool = False,
) -> Grant:
    """Wait for slots and hold them until the Grant's release(), for code that a block does not fit.

    Arguments and errors as for `concurrency`.
    """
    return _default.acquire(names, occupy, timeout_seconds, rate_limit=rate_limit, strict=strict)


def rate_limit(
    names: Names,
    occupy: int = 1,
    timeout_seconds: float | None = None,
    *,
    strict: bool = False,
) -> None:
    """Wait until slots can be spent; they come back by the limit's slot decay alone.

    Arguments and errors as for `concurrency`. An active limit needs a slot decay: SlotDecayRequired.
    """
    _default.rate_limit(names, occupy, timeout_seconds, strict=strict)


def create_limit(
    name: str, limit: int, slot_decay_per_second: float = 0.0, active: bool = True
) -> Limit:
    """Make a limit. It is on disk when this returns.

    limit: slots, >= 0. slot_decay_per_second: slots that come back after rate_limit, >= 0.
    Raises LimitExists, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    return _default.create_limit(name, limit, slot_decay_per_second, active)


def read_limit(name: str) -> Limit:
    """The limit as it is now. Raises LimitNotFound, InvalidValue, DaemonUnavailable."""
    return _default.read_limit(name)


def list_limits() -> list[Limit]:
    """All limits, by name. Raises DaemonUnavailable."""
    return _default.list_limits()


def update_limit(
    name: str,
    *,
    limit: int | None = None,
    slot_decay_per_second: float | None = None,
    active: bool | None = None,
) -> Limit:
    """Change what is given; in force, and on disk, when this returns. Who fits then goes at once.

    Raises LimitNotFound, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    return _default.update_limit(
        name, limit=limit, slot_decay_per_second=slot_decay_per_second, active=active
    )


def delete_limit(name: str) -> None:
    """Delete a limit: who waits for it gets LimitDeleted, who holds it runs on.

    Raises LimitNotFound, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    _default.delete_limit(name)


def _forget_in_child() -> None:
    for client in list(_clients):
        client._forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_default.close)
