"""When a session that lost its connection tries to connect again, and how long its calls wait for
that. Pure: no clock, no I/O; now is an argument, in seconds of time.monotonic().

Rule 1: the first try is made at once; the next ones follow after pauses that double, each drawn at
random, so that the clients of a daemon that comes back do not all come in the same moment.
Rule 2: only a welcome counts as back: what lets us connect and hangs up has not come back.
"""

from __future__ import annotations

import os
from collections.abc import Callable

PAUSE_SECONDS_MIN = 0.005  # a restart under systemd takes about 0.25 s
PAUSE_SECONDS_MAX = 0.2  # while a call waits: a line stands still until its first one is back
PAUSE_SECONDS_UNOBSERVED = 1.0  # when no call waits any more
FIRST_SECONDS = 1.0  # that a call waits for a first connection, if a socket is there: a restart


class Reconnecting:
    """The tries of one session."""

    def __init__(self, seconds: float, chance: Callable[[], float] | None = None) -> None:
        self.seconds = seconds  # that a call waits at most, counted from the loss
        self._chance = chance or _chance
        self._pause = PAUSE_SECONDS_MIN
        self.since: float | None = None  # of the loss; None: there is a connection
        self.next = 0.0  # when to try
        self._why = ""  # the last try failed, or the connection was lost

    def lost(self, now: float, why: str) -> None:
        """The connection is lost; or the one of the last try, before a welcome came."""
        self._why = why
        if self.since is None:
            self.since = now
            if now >= self.next:  # else it did not even last for a pause, and nothing is at once
                self.next = now
                self._pause = PAUSE_SECONDS_MIN

    def back(self) -> None:
        """The daemon has said welcome."""
        self.since = None

    def gave_up(self, now: float) -> bool:
        """Whether the daemon was away for longer than a call waits."""
        return self.since is not None and now >= self.since + self.seconds

    def trying(self, now: float) -> None:
        """A try begins: the next one, if it fails, is after a pause; but also in the last moment
        before the calls give up."""
        assert self.since is not None
        self.next = now + self._pause * (0.5 + 0.5 * self._chance())
        if self.gave_up(now):
            self._pause = min(2 * self._pause, PAUSE_SECONDS_UNOBSERVED)
        else:
            self._pause = min(2 * self._pause, PAUSE_SECONDS_MAX)
            self.next = min(self.next, self.since + self.seconds)

    def failed(self, why: str) -> None:
        """It could not even connect."""
        self._why = why

    def hurry(self, now: float) -> bool:
        """A call comes. If the others gave up before, it gets one try, at once."""
        late = self.gave_up(now)
        if late:
            self.next = now
        return late

    def not_back(self, patience: float | None = None) -> str:
        """What to tell a call that waited for so long, or for as long as calls do."""
        seconds = self.seconds if patience is None else patience
        return (
            f"the connection was lost and the daemon did not come back within {seconds:g} s"
            f" ({self._why})"
        )

    def welcome_by(self, now: float, hello_seconds: float) -> float:
        """When a connection made now has to have its welcome, or counts as failed."""
        assert self.since is not None
        gives_up = self.since + self.seconds
        return gives_up if now < gives_up else now + hello_seconds


class FirstTries:
    """The tries of a call to get a first connection, while a daemon seems to be about to come."""

    def __init__(self, now: float, timeout_seconds: float | None) -> None:
        """`timeout_seconds`: the call's own, which it does not overstep either."""
        seconds = FIRST_SECONDS if timeout_seconds is None else min(FIRST_SECONDS, timeout_seconds)
        self._away = Reconnecting(seconds)
        self._away.lost(now, "")

    def pause(self, now: float) -> float | None:
        """Seconds before the next try; None: that was the last one."""
        if self._away.gave_up(now):
            return None
        self._away.trying(now)
        return max(0.0, self._away.next - now)


def _chance() -> float:
    """From 0 to 1. Not of `random`: forked children would all draw the same, and it is slow to import."""
    return int.from_bytes(os.urandom(4), "big") / 2**32
