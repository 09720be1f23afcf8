"""The daemon of a user's own that was killed, started again for a session that waits for something.

Rule 1: only where a first connection would start one (starting.py), and only if it was killed: one that was
told to stop takes its socket away, and none of its clients undoes that.
Rule 2: only for a call, or a watch, that waits: a release that has not arrived needs no daemon.
Rule 3: nobody waits for it here: a thread starts it, and the session tries to connect as it would anyway.
One try that fails is the last one, until the session has been back.
"""

from __future__ import annotations

import contextlib
import threading
import time

from atmost.connecting import why_not_connected
from atmost.paths import SocketPath

PAUSE_SECONDS = 1.0  # between two looks; it was not killed, but was about to stop or to come


class Restarting:
    """What one session does about it."""

    def __init__(self, at: SocketPath, allowed: bool) -> None:
        """`allowed`: its client may start a daemon."""
        self._at = at
        self._allowed = allowed and at.is_own
        self._thread: threading.Thread | None = None
        self._next = 0.0  # before that, nobody looks again whether it was killed
        self._why = ""  # none could be started; empty: it was not tried since the session was back

    def failed(self, error: Exception, somebody_waits: bool) -> str:
        """The session could not connect. Returns why, in words, and sees to a daemon."""
        told = why_not_connected(error)
        if self._why:
            return f"{told}; {self._why}"
        refused = isinstance(error, ConnectionRefusedError)
        if refused and somebody_waits and self._allowed and self._may_begin():
            self._thread = threading.Thread(target=self._start, name="atmost-restart", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter ends, or has no thread left
                self._thread.start()
        return told

    def back(self) -> None:
        """The session has its daemon again."""
        self._why = ""
        self._next = 0.0

    def hurry(self) -> None:
        """A call comes, and the others gave up before: it gets its own look."""
        self._next = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether there may be a daemon in a moment, also for a call that gets one try alone."""
        return self._thread is not None and self._thread.is_alive()

    def _may_begin(self) -> bool:
        """One try at a time, and a pause between two: else a call might never give up."""
        now = time.monotonic()
        if self.is_under_way or now < self._next:
            return False
        self._next = now + PAUSE_SECONDS
        return True

    def _start(self) -> None:
        from atmost import starting  # most clients never need it

        try:
            starting.start_again(self._at)
        except (starting.NotStarted, OSError, MemoryError) as why:
            self._why = starting.not_started(self._at, why)
