"""atmost for blocking code: scripts, threads, forked workers. The twin of atmost.asyncio.

Any number of threads share one connection (sync_connection.py). It also works inside a running event
loop, which it blocks.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from types import TracebackType
from typing import Any

from atmost import wire
from atmost.asked import Asked, Limit, asked_of_concurrency, asked_of_rate_limit
from atmost.connecting import may_come
from atmost.errors import DaemonUnavailable, LimitExists, PermissionDenied
from atmost.exchange import RECONNECT_SECONDS, Answer, AskedTwice
from atmost.paths import absolute
from atmost.reconnecting import FirstTries
from atmost.sync_blocks import Concurrency, Grant
from atmost.sync_caller import Caller, this_thread
from atmost.sync_connection import Connection
from atmost.sync_streams import Stream
from atmost.values import Names, check_active, check_decay, check_limit, check_name
from atmost.watching import Event

__all__ = [
    "Client",
    "Concurrency",
    "Event",
    "Grant",
    "Limit",
    "Watch",
    "acquire",
    "concurrency",
    "create_limit",
    "delete_limit",
    "list_limits",
    "rate_limit",
    "read_limit",
    "update_limit",
]

NESTED_SECONDS = 1.0  # that a signal handler waits for what may come only after it


class Watch:
    """What `Client.watch` returns: an iterator of events, and a context manager. Watching begins
    with the block, or with the first event that is asked for, and ends with `close` or the block.

    missed: how many events were left out so far, for they were taken too slowly.
    """

    __slots__ = ("_client", "_closed", "_connection", "_events", "_name", "_stream", "missed")

    def __init__(self, client: Client, name: str | None) -> None:
        self.missed = 0
        self._client = client
        self._name = name
        self._closed = False
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._events: list[Event] = []  # that have come, the next one last

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Event:
        while not self._events and not self._closed:
            self._begin()
            assert self._connection is not None
            assert self._stream is not None
            self._events = self._connection.next_events(self._stream, this_thread.caller)
            self._events.reverse()
        if self._closed:
            raise StopIteration
        event = self._events.pop()
        self.missed += event.missed
        return event

    def close(self) -> None:
        """Watch no longer. Twice is harmless."""
        self._closed = True
        if self._connection is not None and self._stream is not None:
            self._connection.stop_watching(self._stream)
            self._connection = None

    def __enter__(self) -> Watch:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        if self._stream is None and not self._closed:
            caller = this_thread.caller
            self._connection = self._client._usable(caller)
            self._stream = self._connection.watch(self._name, caller)


class Client:
    """A client of one daemon. All its threads share one connection, made at the first call.

    socket_path: where the daemon listens; None: $ATMOST_SOCKET, the system's, or the user's own.
    reconnect_seconds: how long calls wait for a daemon that was there and is gone (a restart takes
    less than one); it is reached again without any call of ours, and what is held stays held.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        reconnect_seconds: float = RECONNECT_SECONDS,
        _command: list[str] | None = None,
        _start: bool = True,
    ) -> None:
        self._socket_path = None if socket_path is None else absolute(os.fspath(socket_path))
        self._reconnect_seconds = reconnect_seconds
        self._command = _command
        self._start = _start  # a daemon, if none is there and one may be
        self._connection: Connection | None = None
        self._connecting = threading.RLock()
        self._above: dict[int, Connection] = {}  # by level, above that of `_connection`: 0
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
        return self._acquire(asked, this_thread.caller)

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
        return self._acquire(asked.by_the_process(), this_thread.caller)

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
        self._acquire(asked, this_thread.caller)

    # Limits

    def create_limit(
        self, name: str, limit: int, slot_decay_per_second: float = 0.0, active: bool = True
    ) -> Limit:
        """See the function `create_limit`."""
        fields = (check_name(name), check_limit(limit), check_decay(slot_decay_per_second))
        try:
            return self._limit(wire.CreateLimit, *fields, check_active(active))
        except LimitExists as error:
            if not isinstance(error.__cause__, AskedTwice):
                raise
            # The connection was lost before the answer: did the first one make it?
            found = self.read_limit(name)
            if (found.limit, found.slot_decay_per_second, found.active) != (*fields[1:], active):
                raise
            return found

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

    def list_tickets(
        self, name: str | None = None, *, at_most: int | None = None
    ) -> list[wire.TicketRecord]:
        """Who holds and who waits, at one limit or at all, in the order of limit and arrival; the
        first `at_most` of them, if that is given.

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
            more = page.more and (at_most is None or len(found) < at_most)
        return found[:at_most]

    def status(self) -> wire.DaemonStatus:
        """What the daemon says of itself. Raises DaemonUnavailable."""
        answer = self._ask(wire.Status)
        assert isinstance(answer, wire.DaemonStatus)
        return answer

    def may_change(self) -> bool:
        """Whether this process may change limits, as it was when its connection was made.

        Raises DaemonUnavailable.
        """
        try:
            self._ask(wire.Recover)  # it asks what would be lost: for those who may alone
        except PermissionDenied:
            return False
        return True

    def watch(self, name: str | None = None) -> Watch:
        """What happens from now on, at one limit or at all: an iterator of Event.

        Raises DaemonUnavailable, also from the iterator if the daemon went away and did not come back
        within reconnect_seconds; TooMany.
        """
        return Watch(self, None if name is None else check_name(name))

    def explain(self, name: str | None = None, *, pid: int | None = None) -> wire.Explanations:
        """Why requests wait: those at one limit, or those of one process.

        Raises LimitNotFound, DaemonUnavailable.
        """
        if name is not None:
            check_name(name)
        answer = self._ask(wire.Explain, name, pid)
        assert isinstance(answer, wire.Explanations)
        return answer

    def list_statistics(self) -> wire.Statistics:
        """What happened at each limit since the daemon started, and at the daemon itself.

        Raises DaemonUnavailable.
        """
        found: list[wire.LimitStatistics] = []
        first: wire.Statistics | None = None
        more = True
        while more:
            page = self._ask(wire.ListStatistics, found[-1].name if found else "")
            assert isinstance(page, wire.Statistics)
            first = first or page
            found += page.limits
            more = page.more
        assert first is not None
        return wire.Statistics(first.request, found, False, first.bucket_seconds, first.daemon)

    def release_grant(self, token: int) -> None:
        """Take back the slots of the grant with this token, whosever it is; its holder is told
        GrantLost. For an administrator.

        Raises GrantNotFound, PermissionDenied, DaemonUnavailable.
        """
        self._ask(wire.ReleaseGrant, token)

    def reset_spent(self, name: str) -> Limit:
        """Have nothing spent at this limit any more: who waits may go. For an administrator.

        Raises LimitNotFound, PermissionDenied, DaemonUnavailable.
        """
        return self._limit(wire.ResetSpent, check_name(name))

    def close(self) -> None:
        """End the session: what it still holds is released, and who waits gets DaemonUnavailable. A
        later call begins a new one."""
        connection, self._connection = self._connection, None
        above, self._above = self._above, {}
        for one in (connection, *above.values()):
            if one is not None:
                one.close("the client was closed")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Calls

    def _acquire(self, asked: Asked, caller: Caller, block: Concurrency | None = None) -> Grant:
        """`block`: the caller will be inside of it until it leaves."""
        if asked.nothing:
            return Grant(asked, None, wire.Granted(request=0, token=0, waited_ns=0))
        connection = self._connection
        if connection is None or connection.lost or caller.depth or connection.is_mine():
            began = time.monotonic()
            connection = self._connect(caller, asked.timeout_seconds)
            asked = self._without_deadlock(asked, caller, connection)
            asked = asked.after(time.monotonic() - began)
        granted = connection.acquire(asked, caller)
        try:
            if block is not None:
                connection.enter(caller, granted.request)
                block._entered.append((caller, connection, granted.request))
            return Grant(asked, connection, granted, block)
        except BaseException:  # Ctrl-C in this very moment
            connection.release(granted.request)
            if block is not None:
                block._end((caller, connection, granted.request))
            raise

    def _ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        caller = this_thread.caller
        return self._usable(caller).ask(kind, *fields, caller=caller)

    def _usable(self, caller: Caller) -> Connection:
        connection = self._connection
        if connection is None or connection.lost or caller.depth or connection.is_mine():
            return self._connect(caller)
        return connection

    def _limit(self, kind: type[wire.Message], *fields: Any) -> Limit:
        answer = self._ask(kind, *fields)
        assert isinstance(answer, wire.Limit)
        return Limit.of(answer.limit)

    def _connect(self, caller: Caller, timeout_seconds: float | None = None) -> Connection:
        """The session for a call of this thread. On top of a call that this thread is at already (from
        a signal handler, or the garbage collector) it is another one, since what is beneath cannot
        go on meanwhile."""
        level = caller.depth
        while (connection := self._session(level)) is not None and connection.is_mine():
            level += 1
        tries = FirstTries(time.monotonic(), timeout_seconds)
        why: DaemonUnavailable | None = None
        while True:
            depth = caller.depth
            try:
                with self._connecting:
                    caller.depth = level + 1
                    connection = self._session(level)
                    if connection is None or connection.lost:
                        connection = Connection.open(
                            self._socket_path,
                            self._command,
                            self._reconnect_seconds,
                            level,
                            self._start,
                            slate=self._command is None,  # who runs a command is soon gone
                        )
                        if level:
                            self._above[level] = connection
                        else:
                            self._connection = connection
                    return connection
            except DaemonUnavailable as error:
                if why is None and not may_come(error):
                    raise
                why = error  # whatever it is: it may just be making its socket anew
            finally:
                caller.depth = depth
            pause = tries.pause(time.monotonic())
            if pause is None:
                raise why
            time.sleep(pause)

    def _session(self, level: int) -> Connection | None:
        return self._above.get(level) if level else self._connection

    def _without_deadlock(self, asked: Asked, caller: Caller, connection: Connection) -> Asked:
        """The same, but bounded if its wait could be for what this thread itself has, or stops: the
        daemon cannot tell, since it knows two sessions."""
        beneath = [
            one for one in (self._connection, *self._above.values()) if one is not connection
        ]
        connecting: bool = self._connecting._is_owned()  # type: ignore[attr-defined]
        if connecting or any(one is not None and one.stops(caller, asked) for one in beneath):
            return asked.within(NESTED_SECONDS)
        return asked

    def _forget_in_child(self) -> None:
        """In a forked child the parent's threads are not there, and its session is not ours."""
        self._connecting = threading.RLock()
        self._connection = None
        self._above = {}


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
