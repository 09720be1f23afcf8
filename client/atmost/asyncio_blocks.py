"""What the asyncio client's calls for slots return: a Grant, and the block that holds one. The twin of
sync_blocks.py; here no signal handler raises in the midst of a step (asyncio cancels the task)."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar

from atmost import wire
from atmost.asked import Asked
from atmost.asyncio_connection import Connection, this_task
from atmost.errors import GrantLost

P = ParamSpec("P")
R = TypeVar("R")


class Grant:
    """Slots that were granted; a context manager, `with` or `async with`, that releases them.

    names: the limits; slots: {name: slots held}; waited_seconds: in the line; token: the fencing
    token, greater than every one granted before on any of these limits; tokens: {name: token};
    unguarded: those of the limits that are inactive, where nothing is occupied.
    """

    __slots__ = ("_connection", "_granted", "_hold", "_lost")

    def __init__(self, asked: Asked, connection: Connection | None, granted: wire.Granted):
        self._hold = asked.hold
        self._granted = granted
        self._connection = connection
        self._lost: GrantLost | None = None

    # Most bodies ask for none of these, so they are made when they are asked for.

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._hold)

    @property
    def slots(self) -> dict[str, int]:
        return dict(self._hold)

    @property
    def waited_seconds(self) -> float:
        return self._granted.waited_ns / 1e9

    @property
    def token(self) -> int:
        return self._granted.token

    @property
    def unguarded(self) -> tuple[str, ...]:
        return tuple(self._granted.unguarded)

    @property
    def tokens(self) -> dict[str, int]:
        """The fencing token for each limit."""
        return dict.fromkeys(self.names, self.token)

    @property
    def lost(self) -> GrantLost | None:
        """Why the slots are no longer held, though nobody here released them; None as far as we know.
        Leaving the block raises it."""
        if self._lost is None and self._connection is not None:
            self._lost = self._connection.lost_grant(self._granted.request)
        return self._lost

    def release(self) -> Awaitable[None]:
        """Give the slots back, at once; what it returns may be awaited or not. Twice is harmless; in
        a forked child it does nothing."""
        connection = self._connection
        if connection is not None:
            self._lost = connection.release(self._granted.request)
            self._connection = None
        return DONE

    def __enter__(self) -> Grant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        if self._lost is not None and error is None:
            raise self._lost

    async def __aenter__(self) -> Grant:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
        if self._lost is not None and error is None:
            raise self._lost


class Acquirer(Protocol):
    """A client, as its blocks see it."""

    async def _acquire(self, asked: Asked, caller: object, block: bool) -> Grant: ...


class Concurrency:
    """What `concurrency` returns: a context manager and a decorator, to be used any number of times,
    also by several tasks at once."""

    __slots__ = ("_asked", "_client", "_entered")

    def __init__(self, client: Acquirer, asked: Asked) -> None:
        self._client = client
        self._asked = asked
        self._entered: dict[object, list[Grant]] = {}  # by task

    async def __aenter__(self) -> Grant:
        caller = this_task()
        grant = await self._client._acquire(self._asked, caller, True)
        self._entered.setdefault(caller, []).append(grant)
        return grant

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        caller = this_task()
        if caller not in self._entered:  # a generator that another task finishes
            caller = next(iter(self._entered))
        grants = self._entered[caller]
        grant = grants.pop()
        if not grants:
            del self._entered[caller]
        _end(grant, caller)
        if grant._lost is not None and error is None:
            raise grant._lost

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        """Decorate a coroutine function: each call runs inside."""
        import inspect  # takes longer to import than all the rest

        if inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{_named(function)} is a generator: its body runs after the call has "
                "returned; use an async with block inside it"
            )
        if not inspect.iscoroutinefunction(function):
            raise TypeError(
                f"{_named(function)} is not async: decorate it with atmost.sync.concurrency"
            )

        @functools.wraps(function)
        async def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self:
                return await function(*args, **kwargs)

        return inside


def _end(grant: Grant, caller: object) -> None:
    """The caller has left this grant's block."""
    connection = grant._connection
    try:
        grant.release()
    finally:
        if connection is not None:
            connection.leave(caller, grant._granted.request)


def _named(function: Callable[..., Any]) -> str:
    """A partial and other callables have no name."""
    return getattr(function, "__qualname__", None) or repr(function)


class Done:
    """Awaiting it returns at once: for what is done when the call returns, and was never a coroutine."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE = Done()
