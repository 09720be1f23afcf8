"""What is spent of each limit, in whole slots and their fractions: a naive account.

After the daemon has lost its journal the account begins anew: what was spent since the state was saved
is what an operator was told would be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from atmostd.limit import TIMER_LATE_NS_MAX, Limit
from tests.sim.world import SECOND, World


@dataclass
class Bucket:
    """What is spent of one limit."""

    rate: Fraction
    level: Fraction = Fraction(0)
    at: int = 0
    late: Fraction = Fraction(0)  # what the timer's precision makes, at the greatest rate so far

    def settle(self, now: int) -> None:
        self.late = max(self.late, self.rate * Fraction(TIMER_LATE_NS_MAX, SECOND))
        self.level = max(Fraction(0), self.level - self.rate * Fraction(now - self.at, SECOND))
        self.at = now


class Rates:
    """The buckets of a world."""

    def __init__(self, world: World, undo: Callable[[Callable[[], object]], object]) -> None:
        self._world = world
        self._undo = undo  # takes what is done if the daemon dies before it has written this
        self._buckets: dict[str, Bucket] = {}

    def spend(self, limit: Limit, slots: int) -> None:
        bucket = self._bucket(limit)
        before = bucket.level, bucket.at
        bucket.settle(self._world.now)
        bucket.level += slots
        # What comes late is counted from what was due, within the timer's precision.
        if bucket.level > limit.limit + bucket.late:
            self._world.fail(f"{float(bucket.level):.3f} of {limit.limit} spent at {limit.name}")
        self._undo(lambda: self._unspend(bucket, *before))

    def edited(self, limit: Limit) -> None:
        """A change is in force."""
        bucket = self._bucket(limit)
        self._undo(partial(self._unedit, bucket, bucket.rate, bucket.level, bucket.at))
        bucket.settle(self._world.now)
        bucket.rate = Fraction(repr(limit.level.rate))
        if not bucket.rate:
            bucket.level = Fraction(0)

    def deleted(self, name: str) -> None:
        bucket = self._buckets.pop(name, None)
        if bucket is not None:
            self._undo(partial(self._buckets.__setitem__, name, bucket))

    def forget(self) -> None:
        """What was spent is not known to the daemon any more."""
        self._buckets.clear()

    def _bucket(self, limit: Limit) -> Bucket:
        rate = Fraction(repr(limit.level.rate))
        return self._buckets.setdefault(limit.name, Bucket(rate, at=self._world.now))

    def _unspend(self, bucket: Bucket, level: Fraction, at: int) -> None:
        bucket.level, bucket.at = level, at

    def _unedit(self, bucket: Bucket, rate: Fraction, level: Fraction, at: int) -> None:
        bucket.rate, bucket.level, bucket.at = rate, level, at
