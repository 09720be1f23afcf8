"""What happened lately at each limit, in fixed memory. Pure: now is an argument, in unix seconds.

Rule 1: three spans of 120 steps each. A step is the mean and the greatest value within it; a value
counts from its observation until the next one. Nobody has to call anything as time passes.
Rule 2: what was not watched is unknown, not zero.
Rule 3: the waits of a step are counted in buckets until it is over; then two numbers are left.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from msgspec import Struct

STEPS = 120
SPANS = {"10m": 5.0, "1h": 30.0, "24h": 720.0}  # seconds of a step
SPARK_POINTS = 30  # of the first span, each the greatest of some steps
NAN = math.nan

_RATIO = 1.3  # between two bounds: a quantile is right within 15 %
_BOUNDS = [0.001 * _RATIO**power for power in range(70)]  # seconds: 1 ms to about a day
_NO_WAITS = array("L", [0]) * (len(_BOUNDS) + 1)


class Series(Struct, frozen=True):
    """One span of one limit. Lists of STEPS numbers, oldest first; None: not known."""

    step: float  # seconds
    at: list[float]  # when each step began
    slots: list[float | None]
    slots_max: list[float | None]
    line: list[float | None]
    line_max: list[float | None]
    wait_p50: list[float | None]
    wait_p99: list[float | None]
    grants_per_second: list[float | None]


class _Level:
    """A value over the steps of one span."""

    __slots__ = ("_area", "_known", "means", "tops", "value")

    def __init__(self) -> None:
        self.value = NAN  # since the last observation
        self.means = array("f", [NAN]) * STEPS
        self.tops = array("f", [NAN]) * STEPS
        self._area = 0.0  # of the open step: value times seconds
        self._known = 0.0  # seconds of it in which the value was known

    def pass_time(self, place: int, seconds: float) -> None:
        """The value stayed as it is for so long, within the open step."""
        if math.isnan(self.value) or seconds <= 0:
            return
        self._area += self.value * seconds
        self._known += seconds
        self._top(place)

    def observe(self, place: int, value: float) -> None:
        """The value is this from now on."""
        self.value = value
        if not math.isnan(value):
            self._top(place)

    def close(self, place: int) -> None:
        """The open step is over."""
        self.means[place] = self._area / self._known if self._known > 0 else self.tops[place]
        self._area = self._known = 0.0

    def mean(self, place: int) -> float:
        """Of the open step."""
        return self._area / self._known if self._known > 0 else self.top(place)

    def top(self, place: int) -> float:
        """Of the open step."""
        top = self.tops[place]
        return self.value if math.isnan(top) else top

    def of(self, places: Sequence[int]) -> list[float]:
        """The greatest values of these steps but the last, which is open."""
        return [self.tops[place] for place in places[:-1]]

    def open(self, place: int) -> None:
        """The next step begins."""
        self.means[place] = self.tops[place] = NAN

    def _top(self, place: int) -> None:
        top = self.tops[place]
        if math.isnan(top) or self.value > top:
            self.tops[place] = self.value


class _Ring:
    """One span of one limit."""

    __slots__ = ("_at", "_counts", "_grants", "_line", "_p50", "_p99", "_slots", "_step", "_waits")

    def __init__(self, step: float, now: float) -> None:
        self._step = step
        self._at = now  # so far it is filled
        self._slots = _Level()
        self._line = _Level()
        self._counts = array("f", [NAN]) * STEPS
        self._p50 = array("f", [NAN]) * STEPS
        self._p99 = array("f", [NAN]) * STEPS
        self._grants = 0  # of the open step
        self._waits = _NO_WAITS[:]

    def observe(self, now: float, slots: float, line: float) -> None:
        self.advance(now)
        place = self._place(self._number(self._at))
        self._slots.observe(place, slots)
        self._line.observe(place, line)

    def granted(self, now: float, seconds: float) -> None:
        self.advance(now)
        self._grants += 1
        self._waits[bisect_left(_BOUNDS, seconds)] += 1

    def advance(self, now: float) -> None:
        """Fill the time until now with what was."""
        if now <= self._at:
            return
        number, last = self._number(self._at), self._number(now)
        if last - number > STEPS:  # all of it would be written over
            self._close(self._place(number))
            self._at = (last - STEPS) * self._step
            number = self._number(self._at)
            self._open(self._place(number))
        while number < last:
            end = (number + 1) * self._step
            self._pass(self._place(number), end - self._at)
            self._close(self._place(number))
            number += 1
            self._at = end
            self._open(self._place(number))
        self._pass(self._place(number), now - self._at)
        self._at = now

    def series(self, now: float) -> Series:
        self.advance(now)
        last = self._number(self._at)
        open_place = self._place(last)
        numbers = range(last - STEPS + 1, last + 1)
        places = [self._place(number) for number in numbers]
        passed = max(self._at - last * self._step, 1.0)
        known = not math.isnan(self._slots.top(open_place))
        current = (
            self._slots.mean(open_place),
            self._line.mean(open_place),
            self._grants / passed if known or self._grants else NAN,
            quantile(self._waits, 0.5),
            quantile(self._waits, 0.99),
        )
        slots, line, rate, p50, p99 = (
            [_told(values[place]) for place in places[:-1]] + [_told(value)]
            for values, value in zip(
                (self._slots.means, self._line.means, self._counts, self._p50, self._p99),
                current,
                strict=True,
            )
        )
        return Series(
            step=self._step,
            at=[number * self._step for number in numbers],
            slots=slots,
            slots_max=[*map(_told, self._slots.of(places)), _told(self._slots.top(open_place))],
            line=line,
            line_max=[*map(_told, self._line.of(places)), _told(self._line.top(open_place))],
            wait_p50=p50,
            wait_p99=p99,
            grants_per_second=rate,
        )

    def spark(self, now: float) -> list[float | None]:
        """The greatest number of slots, in SPARK_POINTS parts of the span."""
        self.advance(now)
        last = self._number(self._at)
        each = STEPS // SPARK_POINTS
        places = [self._place(number) for number in range(last - STEPS + 1, last + 1)]
        tops = [*self._slots.of(places), self._slots.top(places[-1])]
        return [_greatest(tops[at : at + each]) for at in range(0, STEPS, each)]

    def rate(self, now: float, seconds: float) -> float:
        """Grants a second in about the last so many seconds."""
        self.advance(now)
        last = self._number(self._at)
        steps = max(1, min(STEPS - 1, round(seconds / self._step)))
        counts = [self._counts[self._place(n)] for n in range(last - steps, last)]
        known = [count * self._step for count in counts if not math.isnan(count)]
        passed = len(known) * self._step + (self._at - last * self._step)
        return (sum(known) + self._grants) / max(passed, 1.0)

    def _pass(self, place: int, seconds: float) -> None:
        self._slots.pass_time(place, seconds)
        self._line.pass_time(place, seconds)

    def _close(self, place: int) -> None:
        known = not math.isnan(self._slots.tops[place])
        self._slots.close(place)
        self._line.close(place)
        self._counts[place] = self._grants / self._step if known or self._grants else NAN
        self._p50[place] = quantile(self._waits, 0.5)
        self._p99[place] = quantile(self._waits, 0.99)
        if self._grants:
            self._grants = 0
            self._waits = _NO_WAITS[:]

    def _open(self, place: int) -> None:
        self._slots.open(place)
        self._line.open(place)
        self._counts[place] = self._p50[place] = self._p99[place] = NAN

    def _number(self, at: float) -> int:
        return math.floor(at / self._step)

    def _place(self, number: int) -> int:
        return number % STEPS


class History:
    """All of them. Limits beyond `limits_max` are left out, for as long as those before them have
    something to show."""

    def __init__(self, limits_max: int) -> None:
        self._limits_max = limits_max
        self._limits: dict[str, dict[str, _Ring]] = {}  # the one that was touched last is the last
        self._touched: dict[str, float] = {}
        self._known_since: float | None = None  # of limits where nothing happens, too
        self.left_out: set[str] = set()

    def __len__(self) -> int:
        return len(self._limits)

    def __contains__(self, name: str) -> bool:
        return name in self._limits

    def observe(self, name: str, now: float, slots: float, line: float) -> None:
        """So many slots are in use and so many requests wait, from now on."""
        if not slots and not line and name not in self._limits:
            return  # nothing has happened there yet
        for ring in self._rings(name, now):
            ring.observe(now, slots, line)

    def granted(self, name: str, now: float, seconds: float) -> None:
        """A request got its slots after so many seconds."""
        for ring in self._rings(name, now):
            ring.granted(now, seconds)

    def forget(self, name: str) -> None:
        """There is no such limit any more."""
        self._limits.pop(name, None)
        self._touched.pop(name, None)
        self.left_out.discard(name)

    def known(self, now: float) -> None:
        """From now on what happens is told: where nothing is, nothing happens."""
        if self._known_since is None:
            self._known_since = now

    def unknown(self, now: float) -> None:
        """Nothing is known from now on, until the next observation of each."""
        self._known_since = None
        for rings in self._limits.values():
            for ring in rings.values():
                ring.observe(now, NAN, NAN)

    def series(self, name: str, span: str, now: float) -> Series | None:
        """None: it is left out."""
        if name in self.left_out:
            return None
        rings = self._limits.get(name)
        return (rings[span] if rings else self._new(SPANS[span], now)).series(now)

    def spark(self, name: str, now: float) -> list[float | None] | None:
        """None: it is left out."""
        if name in self.left_out:
            return None
        rings = self._limits.get(name)
        if rings is None:  # nothing has happened there
            return [None if self._known_since is None else 0.0] * SPARK_POINTS
        return next(iter(rings.values())).spark(now)

    def rate(self, name: str, now: float, seconds: float = 60.0) -> float:
        """Grants a second lately; 0 for one that is left out."""
        rings = self._limits.get(name)
        return next(iter(rings.values())).rate(now, seconds) if rings else 0.0

    def names(self) -> Iterator[str]:
        """Of the limits that have one."""
        return iter(self._limits)

    def _rings(self, name: str, now: float) -> list[_Ring]:
        rings = self._limits.get(name)
        if rings is None:
            if len(self._limits) >= self._limits_max and not self._make_room(now):
                self.left_out.add(name)
                return []
            self.left_out.discard(name)
            rings = {span: self._new(step, now) for span, step in SPANS.items()}
            self._limits[name] = rings
        self._touched.pop(name, None)
        self._touched[name] = now
        return list(rings.values())

    def _new(self, step: float, now: float) -> _Ring:
        since = self._known_since
        if since is None:
            return _Ring(step, now)
        ring = _Ring(step, since)
        ring.observe(since, 0.0, 0.0)
        return ring

    def _make_room(self, now: float) -> bool:
        """Forget the one that nothing happened to for as long as a history goes back."""
        quietest = next(iter(self._touched))
        if now - self._touched[quietest] <= STEPS * max(SPANS.values()):
            return False
        self.forget(quietest)
        self.left_out.add(quietest)
        return True


def quantile(counts: array[int], share: float) -> float:
    """The upper bound of the bucket in which this share is reached; NaN: nothing was counted."""
    total = sum(counts)
    if not total:
        return NAN
    place = next(at for at, reached in enumerate(accumulate(counts)) if reached >= share * total)
    if place == 0:
        return 0.0  # less than a millisecond
    return _BOUNDS[min(place, len(_BOUNDS) - 1)]


def _told(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _greatest(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known else None
