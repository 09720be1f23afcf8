"""What the blocking client's calls for slots return: a Grant, and the block that holds one.

Rule 1: a block that is left lets go, whatever interrupts that (Ctrl-C, a signal handler): what was
interrupted is done again, and each step of it may be. Python notices a signal also as `__exit__`
begins, where no code of ours can be; then the block's object lets go as it is collected.
Rule 2: what is taken by `acquire` is let go of by `release` alone: a script may hold it until it ends
and keep no object.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar

from atmost import wire
from atmost.asked import Asked
from atmost.errors import GrantLost
from atmost.sync_caller import Caller, this_thread
from atmost.sync_connection import Connection

P = ParamSpec("P")
R = TypeVar("R")

Entry = tuple[Caller, Connection, int]  # who is inside, by which session, and its request


class Grant:
    """Slots that were granted; a context manager that releases them.

    names: the limits; slots: {name: slots held}; waited_seconds: in the line; token: the fencing
    token, greater than every one granted before on any of these limits; tokens: {name: token};
    unguarded: those of the limits that are inactive, where nothing is occupied.
    """

    __slots__ = ("_block", "_connection", "_granted", "_hold", "_lost")

    def __init__(
        self,
        asked: Asked,
        connection: Connection | None,
        granted: wire.Granted,
        block: object = None,
    ):
        self._hold = asked.hold
        self._granted = granted
        self._connection = connection
        self._lost: GrantLost | None = None
        self._block = block  # lives as long as somebody has its grant: rule 1

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

    def release(self) -> None:
        """Give the slots back. Twice is harmless; in a forked child it does nothing."""
        connection = self._connection
        if connection is not None:
            self._lost = connection.release(self._granted.request)
            self._connection = None

    def __enter__(self) -> Grant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except BaseException:
            self.release()
            raise
        if self._lost is not None and error is None:
            raise self._lost


class Acquirer(Protocol):
    """A client, as its blocks see it."""

    def _acquire(self, asked: Asked, caller: Caller, block: Concurrency | None) -> Grant: ...


class Concurrency:
    """What `concurrency` returns: a context manager and a decorator, to be used any number of times,
    also by several threads at once."""

    __slots__ = ("_asked", "_client", "_entered")

    def __init__(self, client: Acquirer, asked: Asked) -> None:
        self._client = client
        self._asked = asked
        # By whom, and what is to be let go of. Not the grants: they have us.
        self._entered: list[Entry] = []

    def __enter__(self) -> Grant:
        grant = self._client._acquire(self._asked, this_thread.caller, self)
        if self.__class__ is Concurrency:  # no call, after which Python would look for signals
            self.__class__ = _Entered
        return grant

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = None
        try:
            entry = self._mine()
            while entry is not None and not self._take(entry):
                entry = self._mine()
            lost = self._end(entry)
            if not self._entered and self.__class__ is _Entered:
                self.__class__ = Concurrency  # type: ignore[assignment]
        except BaseException:  # rule 1
            self._end(entry or self._mine())
            raise
        if lost is not None and error is None:
            raise lost

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call runs inside."""
        import inspect  # takes longer to import than all the rest

        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{_named(function)} is async: decorate it with atmost.asyncio.concurrency"
            )
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{_named(function)} is a generator: its body runs after the call has "
                "returned; use a with block inside it"
            )

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with Concurrency(self._client, self._asked):  # one of its own: rule 1
                return function(*args, **kwargs)

        return inside

    def _mine(self) -> Entry | None:
        """The block that this thread has entered last. All of one object are alike, so it does not
        matter if a generator's is mistaken for it, nor whose a thread takes that finishes another's."""
        caller = this_thread.caller
        for entry in reversed(self._entered):
            if entry[0] is caller:
                return entry
        return self._entered[0] if self._entered else None  # None: no limit was named

    def _take(self, entry: Entry) -> bool:
        """Whether it is ours to end: another thread may have mistaken it for its own."""
        try:
            self._entered.remove(entry)
        except ValueError:
            return False
        return True

    def _end(self, entry: Entry | None) -> GrantLost | None:
        """Let go. May be done again."""
        if entry is None:
            return None
        caller, connection, number = entry
        lost = connection.release(number)
        connection.leave(caller, number)
        if entry in self._entered:  # it was interrupted before it was taken
            self._entered.remove(entry)
        return lost


class _Entered(Concurrency):
    """While somebody is inside. A class of its own, since Python swallows a Ctrl-C that comes in a
    `__del__`: a block that was left as it should be has none."""

    __slots__ = ()

    def __del__(self) -> None:
        if self._entered and not sys.is_finalizing():  # then other threads may be inside
            for entry in self._entered[:]:
                self._end(entry)


def _named(function: Callable[..., Any]) -> str:
    """A partial and other callables have no name."""
    return getattr(function, "__qualname__", None) or repr(function)
