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

from atmost.connecting import why_not_connected
from atmost.paths import SocketPath


class Restarting:
    """What one session does about it."""

    def __init__(self, at: SocketPath, allowed: bool) -> None:
        """`allowed`: its client may start a daemon."""
        self._at = at
        self._allowed = allowed and at.is_own
        self._thread: threading.Thread | None = None
        self._why = ""  # none could be started; empty: it was not tried since the session was back

    def failed(self, error: Exception, somebody_waits: bool) -> str:
        """The session could not connect. Returns why, in words, and sees to a daemon."""
        told = why_not_connected(error)
        if self._why:
            return f"{told}; {self._why}"
        refused = isinstance(error, ConnectionRefusedError)
        if refused and somebody_waits and self._allowed and not self.is_under_way:
            self._thread = threading.Thread(target=self._start, name="atmost-restart", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter ends, or has no thread left
                self._thread.start()
        return told

    def back(self) -> None:
        """The session has its daemon again."""
        self._why = ""

    @property
    def is_under_way(self) -> bool:
        """Whether there may be a daemon in a moment, also for a call that gets one try alone."""
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        from atmost import starting  # most clients never need it

        try:
            starting.start_again(self._at)
        except (starting.NotStarted, OSError, MemoryError) as why:
            self._why = starting.not_started(self._at, why)
