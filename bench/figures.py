"""What was measured, and how it is told. Pure.

Rule: contenders are measured in turn, round by round, and compared within a round. So a machine that
slows down for a while slows down all of them, and a ratio is the median of the rounds' ratios. Every
few rounds all processes start anew: where its memory happens to lie makes one 10 % slower than another.
"""

from __future__ import annotations

from enum import StrEnum
from statistics import median, quantiles
from typing import Any, NamedTuple

NAME_WIDTH = 50
MICROSECONDS, MILLISECONDS, SECONDS = "us", "ms", "s"
PER_SECOND, MEGABYTES, PERCENT, COUNT = "a second", "MB", "%", ""
MORE_IS_BETTER = {PER_SECOND, PERCENT}


class Role(StrEnum):
    """What a line of a table is there for."""

    FLOOR = "floor"  # what the machine can do at best
    OURS = "ours"
    PEER = "peer"  # what people use today
    INSIDE = "inside"  # as good as it gets within one process, and not what a peer is
    ASIDE = "aside"  # good to know


class Spread(NamedTuple):
    """A figure of several rounds: half of them lie between `low` and `high`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: list[float]) -> Spread:
        if len(rounds) == 1:
            return cls(rounds[0], rounds[0], rounds[0])
        low, middle, high = quantiles(rounds, n=4, method="inclusive")
        return cls(middle, low, high)


class Comparison(NamedTuple):
    """With another line: how many times its figure, or its speed."""

    to: str
    speed: bool
    spread: Spread

    def told(self) -> str:
        what = f"the speed of {self.to}" if self.speed else self.to
        low, high = self.spread.low, self.spread.high
        span = f"  ({low:.2f} .. {high:.2f})" if low != high else ""
        return f"{self.spread.median:9.2f} x {what}{span}"


class Want(NamedTuple):
    """A target. Made by at_most, at_least, faster."""

    bound: float
    least: bool = False
    against: Contender | None = None

    def figure(self, mine: Contender) -> float | None:
        """What is judged; None if it can't be told."""
        if self.against is None:
            return mine.spread.median if mine.rounds else None
        found = mine.compared(self.against, speed=self.least)
        return found.spread.median if found else None

    def told(self, unit: str) -> str:
        sign = ">=" if self.least else "<="
        if self.against is None:
            return f"{sign} {self.bound:,g} {unit}".rstrip()
        return f"{sign} {self.bound:g} x {'the speed of ' * self.least}{self.against.name}"

    def met(self, mine: Contender) -> bool | None:
        figure = self.figure(mine)
        if figure is None:
            return None
        return figure >= self.bound if self.least else figure <= self.bound


def at_most(bound: float, of: Contender | None = None) -> Want:
    """The figure, or its ratio to that of another."""
    return Want(bound, False, of)


def at_least(bound: float) -> Want:
    return Want(bound, True)


def faster(bound: float, than: Contender) -> Want:
    """So many times the speed of another."""
    return Want(bound, True, than)


class Contender:
    """One line of a table: what it did in each round, and what is wanted of it."""

    def __init__(
        self,
        name: str,
        unit: str,
        role: Role = Role.OURS,
        wants: tuple[Want, ...] = (),
        scene: str = "",
    ) -> None:
        self.name = name
        self.unit = unit
        self.role = role
        self.wants = wants
        self.scene = scene  # only peers of the same one are compared with
        self.rounds: list[float] = []

    def add(self, figure: float) -> None:
        self.rounds.append(figure)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.rounds)

    def compared(self, other: Contender, speed: bool) -> Comparison | None:
        """Round by round: `speed`, how many times as fast as the other; else how many times its figure."""
        pairs = [
            (theirs, mine) if speed and self.unit not in MORE_IS_BETTER else (mine, theirs)
            for mine, theirs in zip(self.rounds, other.rounds, strict=False)
        ]
        ratios = [above / below for above, below in pairs if below]
        return Comparison(other.name, speed, Spread.of(ratios)) if ratios else None

    def better_than(self, other: Contender) -> bool:
        mine, theirs = median(self.rounds), median(other.rounds)
        return mine > theirs if self.unit in MORE_IS_BETTER else mine < theirs


class Table:
    """What one case measured."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._notes: list[str] = []
        self._contenders: list[Contender] = []

    def line(
        self,
        name: str,
        unit: str,
        role: Role = Role.OURS,
        *wants: Want | None,
        scene: str = "",
    ) -> Contender:
        """A contender's line; one that has run before goes on with it. A want of None is none."""
        for known in self._contenders:
            if known.name == name:
                return known
        made = Contender(name, unit, role, tuple(want for want in wants if want), scene)
        self._contenders.append(made)
        return made

    def note(self, words: str) -> None:
        """Something to know about the figures."""
        if words not in self._notes:
            self._notes.append(words)

    @property
    def measured(self) -> list[Contender]:
        """Those that have a figure: after an interruption, not all of them."""
        return [contender for contender in self._contenders if contender.rounds]

    def comparisons(self, mine: Contender) -> list[Comparison]:
        """Of one of ours: to the floor, to the best peer, to who works within one process, and to
        whatever a target names."""
        found: list[Comparison | None] = []
        if mine.role is Role.OURS:
            floor = [line for line in self._same_unit(mine) if line.role is Role.FLOOR]
            found += [mine.compared(line, speed=False) for line in floor[:1]]
            if best := self.best_peer(mine):
                found.append(mine.compared(best, speed=True))
            inside = [line for line in self._same_unit(mine) if line.role is Role.INSIDE]
            found += [mine.compared(line, True) for line in inside if line.scene == mine.scene]
        found += [mine.compared(want.against, want.least) for want in mine.wants if want.against]
        return list(dict.fromkeys(one for one in found if one))

    def best_peer(self, mine: Contender) -> Contender | None:
        best: Contender | None = None
        for line in self._same_unit(mine):
            if line.role is not Role.PEER or line.scene != mine.scene:
                continue
            if best is None or line.better_than(best):
                best = line
        return best

    def _same_unit(self, mine: Contender) -> list[Contender]:
        return [line for line in self.measured if line.unit == mine.unit]

    def lines(self) -> list[str]:
        """For people."""
        told = [self.title]
        for contender in self.measured:
            told += self._told(contender)
        return [*told, *(f"  {note}" for note in self._notes)]

    def _told(self, mine: Contender) -> list[str]:
        spread = mine.spread
        first = f"  {mine.name:{NAME_WIDTH}} {number(spread.median):>9} {mine.unit}".rstrip()
        if spread.low != spread.high:
            first += f"  ({number(spread.low)} .. {number(spread.high)})"
        rest = [one.told() for one in self.comparisons(mine)]
        for want in mine.wants:
            met = want.met(mine)
            if met is not None:
                rest.append(f"wanted: {want.told(mine.unit)}: {'yes' if met else 'NO'}")
        return [first, *(f"  {'':{NAME_WIDTH}} {words}" for words in rest)]

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "title": self.title,
            "figures": [self._record(contender) for contender in self.measured],
            "notes": self._notes,
        }

    def _record(self, mine: Contender) -> dict[str, Any]:
        return {
            "contender": mine.name,
            "role": mine.role.value,
            "unit": mine.unit,
            "rounds": mine.rounds,
            **mine.spread._asdict(),
            "compared": [
                {"to": one.to, "speed": one.speed, **one.spread._asdict()}
                for one in self.comparisons(mine)
            ],
            "wanted": [
                {"what": want.told(mine.unit), "figure": want.figure(mine), "met": want.met(mine)}
                for want in mine.wants
                if want.met(mine) is not None
            ],
        }


def number(figure: float) -> str:
    """Three digits or more, no exponent."""
    if figure >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
