"""What every blocking client does, in the same loops, whatever it holds slots with.

A subclass says how slots are held (`hold`) and spent (`spend`), as its users would write it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

BODY_NS = 100_000  # of a hand-over: long enough that the other one stands in line again
PAUSED = (
    2**62
)  # in place of the instant at which a task asked: it was held up, and no hand-over counts

Stay = tuple[int, int, int]  # asked, entered, let go; nanoseconds of the monotonic clock


class Worker:
    """Takes orders: each public method is one."""

    hold: Callable[[str], AbstractContextManager[object]]
    spend: Callable[[str], object]  # returns when it may go
    _kept: ClassVar[list[object]] = []
    poll_seconds = 0.0  # how often who waits looks; 0: it is told

    def prepare(self, name: str, slots: int, rate: float = 0.0) -> None:
        """There shall be such a limit, so many slots coming back each second."""

    def keep(self, name: str) -> None:
        """Hold a slot from now on."""
        kept = self.hold(name)
        kept.__enter__()
        self._kept.append(kept)

    def nice(self) -> None:
        """Let others on this core go first: it is they who are measured."""
        os.nice(19)

    def cycles(self, name: str, count: int) -> float:
        """acquire + release; microseconds each."""
        hold = self.hold
        begin = time.perf_counter_ns()
        for _ in range(count):
            with hold(name):
                pass
        return (time.perf_counter_ns() - begin) / count / 1000

    def calls(self, name: str, count: int) -> float:
        """Spend a slot; microseconds each."""
        spend = self.spend
        begin = time.perf_counter_ns()
        for _ in range(count):
            spend(name)
        return (time.perf_counter_ns() - begin) / count / 1000

    def cycles_at(self, name: str, count: int, at_ns: int) -> list[int]:
        """The same from that instant on, when it began, and when it had ended."""
        sleep_until(at_ns)
        begin = time.monotonic_ns()
        self.cycles(name, count)
        return [begin, time.monotonic_ns()]

    def threads(self, name: str, count: int, threads: int) -> float:
        """`count` cycles in all in so many threads; microseconds each."""
        start, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)

        def cycle() -> None:
            self.cycles(name, 1)  # connects, where each thread has a connection
            start.wait()
            self.cycles(name, count // threads)
            end.wait()

        running = [threading.Thread(target=cycle, daemon=True) for _ in range(threads)]
        for thread in running:
            thread.start()
        start.wait()
        begin = time.perf_counter_ns()
        end.wait()
        took = time.perf_counter_ns() - begin
        for thread in running:
            thread.join()
        return took / (count // threads * threads) / 1000

    def stays(self, name: str, count: int) -> list[Stay]:
        """Hold, and hand over to the next."""
        return [self._stay(name) for _ in range(count)]

    def _stay(self, name: str) -> Stay:
        asked = time.monotonic_ns()
        with self.hold(name):
            entered = time.monotonic_ns()
            if self.poll_seconds:  # until the other one surely waits, at any phase of its looking
                time.sleep(random.uniform(2, 4) * self.poll_seconds)
                return_at = time.monotonic_ns()
            else:
                return_at = busy_until(entered + BODY_NS)
        if self.poll_seconds:  # who lets go is not to be the next one at once
            time.sleep(2 * self.poll_seconds)
        return asked, entered, return_at

    def job(self, name: str, at_ns: int, seconds: float) -> int:
        """One job from that instant on; when it was done."""
        sleep_until(at_ns)
        with self.hold(name):
            time.sleep(seconds)
            return time.monotonic_ns()

    def sustained(self, name: str, at_ns: int, seconds: float) -> list[tuple[int, int]]:
        """Spend a slot again and again: when each was asked for, and when it was there."""
        sleep_until(at_ns)
        end = at_ns + int(seconds * 1e9)
        found = []
        while (asked := time.monotonic_ns()) < end:
            self.spend(name)
            found.append((asked, time.monotonic_ns()))
        return found


def sleep_until(at_ns: int) -> None:
    time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)


def busy_until(instant: int) -> int:
    """Work, so that the core does not fall asleep; returns the time."""
    while (now := time.monotonic_ns()) < instant:
        pass
    return now


def serve(worker: object) -> None:
    """Take orders until there are no more."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        method: Callable[..., object] = getattr(worker, order.pop("do"))
        print(json.dumps(method(**order)), flush=True)
