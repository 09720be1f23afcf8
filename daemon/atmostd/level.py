"""How much of a limit is spent: a level that rises by whole slots and decays by itself.

Rule 1: time is whole nanoseconds and the level a whole number of units, so nothing ever drifts.
Rule 2: the rate is the decimal that its user wrote: 0.3 is 3/10, not the nearest binary fraction.
Rule 3: a change of the rate settles the level at the old rate first; what must be rounded then is
rounded up, by less than a billionth of a slot, so that a limit is never passed.
"""

from __future__ import annotations

from fractions import Fraction

NANOSECONDS = 1_000_000_000  # in a second


class Level:
    """The spent level of one limit. Without decay (rate 0) nothing stays spent."""

    __slots__ = ("_per_nanosecond", "rate", "settled_at", "unit", "units")

    def __init__(self, rate: float, now: int, units: int = 0) -> None:
        self.rate = rate  # slots that decay per second
        self.unit = 1  # units that make one slot
        self.units = units  # spent at `settled_at`
        self.settled_at = now  # nanoseconds
        self._per_nanosecond = 0  # units that decay
        self._set_rate(rate)

    def _set_rate(self, rate: float) -> None:
        exact = Fraction(repr(rate))
        self.rate = rate
        self._per_nanosecond = exact.numerator
        self.unit = exact.denominator * NANOSECONDS
        if not exact.numerator:
            self.units = 0

    def settle(self, now: int) -> None:
        """Let time act up to `now`; a clock that stands or goes back changes nothing."""
        elapsed = now - self.settled_at
        if elapsed > 0:
            self.settled_at = now
            if self.units:
                self.units = max(0, self.units - elapsed * self._per_nanosecond)

    def change_rate(self, rate: float, now: int) -> None:
        """Decay at `rate` from now on. Rate 0 frees what was spent: it could never come back."""
        self.settle(now)
        units, unit = self.units, self.unit
        self._set_rate(rate)
        if self._per_nanosecond:
            self.units = -(-units * self.unit // unit)

    def at_rate(self, rate: float, now: int) -> Level:
        """The level as it would be after change_rate, without changing this one."""
        level = Level(self.rate, self.settled_at, self.units)
        level.change_rate(rate, now)
        return level

    def spend(self, slots: int) -> None:
        """Take slots that come back by decay alone. The level must be settled."""
        if self._per_nanosecond:
            self.units += slots * self.unit

    def empty(self, now: int) -> None:
        """Nothing is spent any more."""
        self.settle(now)
        self.units = 0

    def within(self, slots: int) -> bool:
        """Whether at most so many slots are spent. The level must be settled."""
        return self.units <= slots * self.unit

    def instant_within(self, slots: int) -> int:
        """The first nanosecond at which at most `slots` are spent, if nothing more is. Fewer than 0: if
        so many more were spent as soon as they fit."""
        surplus = self.units - slots * self.unit
        return self.settled_at + max(0, -(-surplus // self._per_nanosecond))

    def whole_slots(self) -> int:
        """The spent slots, rounded up to whole ones."""
        return -(-self.units // self.unit)

    def slots(self) -> float:
        """The spent slots with their fraction, for people."""
        return self.units / self.unit
