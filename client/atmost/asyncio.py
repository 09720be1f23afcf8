"""atmost for asyncio code, on any event loop. The twin of atmost.sync.

Any number of tasks share one connection (asyncio_connection.py); each event loop has its own.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

from atmost import wire
from atmost.asked import Asked, Limit, asked_of_concurrency, asked_of_rate_limit
from atmost.asyncio_blocks import DONE, Concurrency, Grant
from atmost.asyncio_connection import Connection, Stream, this_task
from atmost.connecting import may_come
from atmost.errors import DaemonUnavailable, LimitExists, PermissionDenied
from atmost.exchange import RECONNECT_SECONDS, Answer, AskedTwice
from atmost.paths import absolute
from atmost.reconnecting import FirstTries
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


class Watch:
    """What `Client.watch` returns: an async iterator of events, and a context manager. Watching begins
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

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Event:
        while not self._events and not self._closed:
            await self._begin()
            assert self._connection is not None
            assert self._stream is not None
            self._events = await self._connection.next_events(self._stream)
            self._events.reverse()
        if self._closed:
            raise StopAsyncIteration
        event = self._events.pop()
        self.missed += event.missed
        return event

    def close(self) -> None:
        """Watch no longer. Twice is harmless."""
        self._closed = True
        if self._connection is not None and self._stream is not None:
            self._connection.stop_watching(self._stream)
            self._connection = None

    async def __aenter__(self) -> Watch:
        await self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _begin(self) -> None:
        if self._stream is None and not self._closed:
            self._connection = await self._client._usable()
            self._stream = await self._connection.watch(self._name)


class Client:
    """A client of one daemon. The tasks of a loop share one connection, made at the first call.

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
        self._connection: Connection | None = None  # of the loop that was seen last
        self._connections: dict[asyncio.AbstractEventLoop, Connection] = {}
        self._connecting: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
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

    async def acquire(
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
        return await self._acquire(asked, this_task())

    async def acquire_until_exit(
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
        return await self._acquire(asked.by_the_process(), this_task())

    async def rate_limit(
        self,
        names: Names,
        occupy: int = 1,
        timeout_seconds: float | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """See the function `rate_limit`."""
        asked = asked_of_rate_limit(names, occupy, timeout_seconds, strict)
        await self._acquire(asked, this_task())

    # Limits

    async def create_limit(
        self, name: str, limit: int, slot_decay_per_second: float = 0.0, active: bool = True
    ) -> Limit:
        """See the function `create_limit`."""
        fields = (check_name(name), check_limit(limit), check_decay(slot_decay_per_second))
        try:
            return await self._limit(wire.CreateLimit, *fields, check_active(active))
        except LimitExists as error:
            if not isinstance(error.__cause__, AskedTwice):
                raise
            # The connection was lost before the answer: did the first one make it?
            found = await self.read_limit(name)
            if (found.limit, found.slot_decay_per_second, found.active) != (*fields[1:], active):
                raise
            return found

    async def read_limit(self, name: str) -> Limit:
        """See the function `read_limit`."""
        return await self._limit(wire.ReadLimit, check_name(name))

    async def list_limits(self) -> list[Limit]:
        """See the function `list_limits`."""
        found: list[Limit] = []
        more = True
        while more:
            page = await self._ask(wire.ListLimits, found[-1].name if found else "")
            assert isinstance(page, wire.Limits)
            found += map(Limit.of, page.limits)
            more = page.more
        return found

    async def update_limit(
        self,
        name: str,
        *,
        limit: int | None = None,
        slot_decay_per_second: float | None = None,
        active: bool | None = None,
    ) -> Limit:
        """See the function `update_limit`."""
        return await self._limit(
            wire.UpdateLimit,
            check_name(name),
            None if limit is None else check_limit(limit),
            None if slot_decay_per_second is None else check_decay(slot_decay_per_second),
            None if active is None else check_active(active),
        )

    async def delete_limit(self, name: str) -> None:
        """See the function `delete_limit`."""
        await self._ask(wire.DeleteLimit, check_name(name))

    # The daemon

    async def list_tickets(
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
            page = await self._ask(wire.ListTickets, name, *behind)
            assert isinstance(page, wire.Tickets)
            found += page.tickets
            more = page.more and (at_most is None or len(found) < at_most)
        return found[:at_most]

    async def status(self) -> wire.DaemonStatus:
        """What the daemon says of itself. Raises DaemonUnavailable."""
        answer = await self._ask(wire.Status)
        assert isinstance(answer, wire.DaemonStatus)
        return answer

    async def may_change(self) -> bool:
        """Whether this process may change limits, as it was when its connection was made.

        Raises DaemonUnavailable.
        """
        try:
            await self._ask(wire.Recover)  # it asks what would be lost: for those who may alone
        except PermissionDenied:
            return False
        return True

    def watch(self, name: str | None = None) -> Watch:
        """What happens from now on, at one limit or at all: an async iterator of Event.

        Raises DaemonUnavailable, also from the iterator if the daemon went away and did not come back
        within reconnect_seconds; TooMany.
        """
        return Watch(self, None if name is None else check_name(name))

    async def explain(
        self, name: str | None = None, *, pid: int | None = None
    ) -> wire.Explanations:
        """Why requests wait: those at one limit, or those of one process.

        Raises LimitNotFound, DaemonUnavailable.
        """
        if name is not None:
            check_name(name)
        answer = await self._ask(wire.Explain, name, pid)
        assert isinstance(answer, wire.Explanations)
        return answer

    async def list_statistics(self) -> wire.Statistics:
        """What happened at each limit since the daemon started, and at the daemon itself.

        Raises DaemonUnavailable.
        """
        found: list[wire.LimitStatistics] = []
        first: wire.Statistics | None = None
        more = True
        while more:
            page = await self._ask(wire.ListStatistics, found[-1].name if found else "")
            assert isinstance(page, wire.Statistics)
            first = first or page
            found += page.limits
            more = page.more
        assert first is not None
        return wire.Statistics(first.request, found, False, first.bucket_seconds, first.daemon)

    async def release_grant(self, token: int) -> None:
        """Take back the slots of the grant with this token, whosever it is; its holder is told
        GrantLost. For an administrator.

        Raises GrantNotFound, PermissionDenied, DaemonUnavailable.
        """
        await self._ask(wire.ReleaseGrant, token)

    async def reset_spent(self, name: str) -> Limit:
        """Have nothing spent at this limit any more: who waits may go. For an administrator.

        Raises LimitNotFound, PermissionDenied, DaemonUnavailable.
        """
        return await self._limit(wire.ResetSpent, check_name(name))

    def close(self) -> Awaitable[None]:
        """End this loop's session, at once: what it still holds is released, and who waits gets
        DaemonUnavailable. A later call begins a new one. What it returns may be awaited or not."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        self._connection = None
        if connection is not None:
            connection.close("the client was closed")
        return DONE

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Calls

    async def _acquire(self, asked: Asked, caller: object, block: bool = False) -> Grant:
        if asked.nothing:
            return Grant(asked, None, wire.Granted(request=0, token=0, waited_ns=0))
        connection = self._connected()
        if connection is None:
            began = time.monotonic()
            connection = await self._connect(asked.timeout_seconds)
            asked = asked.after(time.monotonic() - began)
        granted = await connection.acquire(asked, caller)
        if block:
            connection.enter(caller, granted.request)
        return Grant(asked, connection, granted)

    async def _ask(self, kind: type[wire.Message], *fields: Any) -> Answer:
        connection = await self._usable()
        return await connection.ask(kind, *fields)

    async def _usable(self) -> Connection:
        connection = self._connected()
        return await self._connect() if connection is None else connection

    async def _limit(self, kind: type[wire.Message], *fields: Any) -> Limit:
        answer = await self._ask(kind, *fields)
        assert isinstance(answer, wire.Limit)
        return Limit.of(answer.limit)

    def _connected(self) -> Connection | None:
        """The session of this loop, if there is one that is not over."""
        loop = asyncio.get_running_loop()
        connection = self._connection
        if connection is None or connection.loop is not loop:
            connection = self._connection = self._connections.get(loop)
        return connection if connection is not None and not connection.lost else None

    async def _connect(self, timeout_seconds: float | None = None) -> Connection:
        loop = asyncio.get_running_loop()
        tries = FirstTries(time.monotonic(), timeout_seconds)
        why: DaemonUnavailable | None = None
        while True:
            async with self._connecting.setdefault(loop, asyncio.Lock()):
                connection = self._connected()
                if connection is not None:
                    return connection
                self._forget_closed_loops()
                try:
                    connection = await Connection.open(
                        self._socket_path, self._command, self._reconnect_seconds, self._start
                    )
                    self._connection = self._connections[loop] = connection
                    return connection
                except DaemonUnavailable as error:
                    if why is None and not may_come(error):
                        raise
                    why = error  # whatever it is: it may just be making its socket anew
            pause = tries.pause(time.monotonic())
            if pause is None:
                raise why
            await asyncio.sleep(pause)

    def _forget_closed_loops(self) -> None:
        for loop in list(self._connecting):  # other threads have loops of their own
            if loop.is_closed():
                self._connecting.pop(loop, None)
                connection = self._connections.pop(loop, None)
                if connection is not None:
                    connection.close("its event loop was closed")

    def _forget_in_child(self) -> None:
        """In a forked child the parent's loop is not there, and its session is not ours."""
        self._connection = None
        self._connections = {}
        self._connecting = {}


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

    `async with` gives a Grant. Raises InvalidValue at once; on entry AcquireTimeout, NeverFits,
    SlotDecayRequired, LimitDeleted, WouldDeadlock, DaemonUnavailable; LimitNotFound and
    LimitInactive if strict.
    """
    return _default.concurrency(
        names, occupy, timeout_seconds, rate_limit=rate_limit, strict=strict
    )


async def acquire(
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
    return await _default.acquire(
        names, occupy, timeout_seconds, rate_limit=rate_limit, strict=strict
    )


async def rate_limit(
    names: Names,
    occupy: int = 1,
    timeout_seconds: float | None = None,
    *,
    strict: bool = False,
) -> None:
    """Wait until slots can be spent; they come back by the limit's slot decay alone.

    Arguments and errors as for `concurrency`. An active limit needs a slot decay: SlotDecayRequired.
    """
    await _default.rate_limit(names, occupy, timeout_seconds, strict=strict)


async def create_limit(
    name: str, limit: int, slot_decay_per_second: float = 0.0, active: bool = True
) -> Limit:
    """Make a limit. It is on disk when this returns.

    limit: slots, >= 0. slot_decay_per_second: slots that come back after rate_limit, >= 0.
    Raises LimitExists, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    return await _default.create_limit(name, limit, slot_decay_per_second, active)


async def read_limit(name: str) -> Limit:
    """The limit as it is now. Raises LimitNotFound, InvalidValue, DaemonUnavailable."""
    return await _default.read_limit(name)


async def list_limits() -> list[Limit]:
    """All limits, by name. Raises DaemonUnavailable."""
    return await _default.list_limits()


async def update_limit(
    name: str,
    *,
    limit: int | None = None,
    slot_decay_per_second: float | None = None,
    active: bool | None = None,
) -> Limit:
    """Change what is given; in force, and on disk, when this returns. Who fits then goes at once.

    Raises LimitNotFound, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    return await _default.update_limit(
        name, limit=limit, slot_decay_per_second=slot_decay_per_second, active=active
    )


async def delete_limit(name: str) -> None:
    """Delete a limit: who waits for it gets LimitDeleted, who holds it runs on.

    Raises LimitNotFound, InvalidValue, PermissionDenied, StateNotSaved, DaemonUnavailable.
    """
    await _default.delete_limit(name)


def _forget_in_child() -> None:
    for client in list(_clients):
        client._forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
