"""The time, and the one timer of the daemon.

Rule 1: time is CLOCK_BOOTTIME in whole nanoseconds: never set, and going on while the host sleeps.
Rule 2: one kernel timer for all limits and all tickets. An event loop's own timers count in
milliseconds, in which a limit of 1,000 a second would lose half of its rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import heapq
import os
import time
from collections.abc import Callable

from atmostd.limit import Limit

Clock = Callable[[], int]
NANOSECONDS = 1_000_000_000  # in a second
SLEEP_NS_MAX = 3600 * NANOSECONDS  # a later instant is looked at again by then

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


# Nanoseconds since this host started.
boot_time: Clock = functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)


def wall_microseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1000


def wall_time() -> float:
    """Seconds since 1970, for people; it may be set."""
    return time.time()


class Alarm:
    """Tells limits when an instant has come."""

    def __init__(self, clock: Clock, ring: Callable[[Limit, int], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._instants: list[tuple[int, int, Limit]] = []  # heap
        self._count = 0  # makes entries of one instant distinct
        self._timer = _Timer()
        self._armed_for: int | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer.fd, self._rings)

    def set(self, limit: Limit, instant: int) -> None:
        """Ring for this limit at `instant`, or at once if that has passed."""
        self._count += 1
        heapq.heappush(self._instants, (instant, self._count, limit))
        self._arm()

    def close(self) -> None:
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()

    def _arm(self) -> None:
        earliest = self._instants[0][0]
        if self._armed_for is None or earliest < self._armed_for:
            self._armed_for = min(earliest, self._clock() + SLEEP_NS_MAX)
            self._timer.set(self._armed_for)

    def _rings(self) -> None:
        self._timer.clear()
        self._armed_for = None
        now = self._clock()
        while self._instants and self._instants[0][0] <= now:
            due, _, limit = heapq.heappop(self._instants)
            self._ring(limit, due)
        if self._instants:
            self._arm()


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class _Timer:
    """timerfd(2), which os has only since Python 3.13."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spec = _Itimerspec()
        self.fd: int = self._libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, instant: int) -> None:
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(max(1, instant), NANOSECONDS)  # 0 would disarm it
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):  # armed anew since it rang
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
