"""Leaving when nobody needs the daemon: for one that a user's first command has started.

Rule: the one timer is armed while there is no connection. A client that connects in the very moment
of leaving is cut off before its welcome, and starts the next daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Idle:
    """Calls `leave` when there was no connection for so many seconds, and nothing `keeps` it.

    seconds: 0 means never. keeps: whether it is needed though there is no connection: a process holds
    slots, or something could not be saved.
    """

    def __init__(
        self, seconds: float, keeps: Callable[[], bool], leave: Callable[[], None]
    ) -> None:
        self.seconds = seconds
        self._keeps = keeps
        self._leave = leave
        self._timer: asyncio.TimerHandle | None = None
        self._is_empty = False

    def change(self, seconds: float) -> None:
        """Count anew, if nobody is there now, by another number of seconds."""
        self.seconds = seconds
        if self._is_empty:
            self.nobody_is_there()

    def nobody_is_there(self) -> None:
        """The last connection has ended, or there was none yet."""
        self._is_empty = True
        self._cancel()
        if self.seconds:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.seconds, self._due)

    def somebody_is_there(self) -> None:
        """The first connection."""
        self._is_empty = False
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self._keeps():
            self.nobody_is_there()
        else:
            self._leave()
