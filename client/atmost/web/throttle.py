"""How often something may be done. Pure: now is an argument, in seconds of any clock."""

from __future__ import annotations


class Throttle:
    """So many a second, after a burst."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Do it once: 0 if it may be done now; else the seconds after which it may, and it was not."""
        if self._at is not None and now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second
