"""What was measured, and how it is told. Pure.

Rule: contenders are measured in turn, round by round, and compared within a round. So a machine that
slows down for a while slows down all of them, and a ratio is the median of the rounds' ratios. Every
few rounds all processes start anew: where its memory happens to lie makes one 10 % slower than another.
"""

from __future__ import annotations

from statistics import quantiles
from typing import Any, NamedTuple

NAME_WIDTH = 44
MICROSECONDS, MILLISECONDS, PER_SECOND, MEGABYTES, COUNT = "us", "ms", "a second", "MB", ""


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


class Contender:
    """One line of a table: what it did in each round, and what is wanted of it."""

    def __init__(
        self,
        name: str,
        unit: str,
        against: Contender | None = None,
        at_most: float | None = None,
    ) -> None:
        self.name = name
        self.unit = unit
        self.against = against  # its ratio to this one is told
        self.at_most = at_most  # of the ratio if there is one, else of the figure; None: no target
        self.rounds: list[float] = []

    def add(self, figure: float) -> None:
        self.rounds.append(figure)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.rounds)

    @property
    def ratio(self) -> Spread | None:
        """To `against`, round by round."""
        if self.against is None:
            return None
        ratios = [
            mine / other
            for mine, other in zip(self.rounds, self.against.rounds, strict=False)
            if other
        ]
        return Spread.of(ratios) if ratios else None

    @property
    def met(self) -> bool | None:
        """Whether it does what is wanted; None if nothing is, or it can't be told."""
        judged = self.spread if self.against is None else self.ratio
        if self.at_most is None or judged is None:
            return None
        return judged.median <= self.at_most

    def line(self) -> str:
        """For people."""
        told = f"  {self.name:{NAME_WIDTH}} {number(self.spread.median):>9} {self.unit}"
        if self.spread.low != self.spread.high:
            told += f"  ({number(self.spread.low)} .. {number(self.spread.high)})"
        if self.ratio is not None and self.against is not None:
            told += f"\n  {'':{NAME_WIDTH}} {self.ratio.median:9.2f} x {self.against.name}"
            told += f"  ({self.ratio.low:.2f} .. {self.ratio.high:.2f})"
        if self.met is not None:
            of = " x" if self.against is not None else f" {self.unit}".rstrip()
            told += f"  wanted: <= {self.at_most:g}{of}: {'yes' if self.met else 'NO'}"
        return told

    def record(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = {
            "contender": self.name,
            "unit": self.unit,
            "rounds": self.rounds,
            **self.spread._asdict(),
        }
        if self.ratio is not None and self.against is not None:
            found["ratio"] = {"to": self.against.name, **self.ratio._asdict()}
        if self.at_most is not None:
            found |= {"wanted_at_most": self.at_most, "met": self.met}
        return found


class Table:
    """What one case measured."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._notes: list[str] = []
        self._contenders: list[Contender] = []

    def contender(
        self,
        name: str,
        unit: str,
        against: Contender | None = None,
        at_most: float | None = None,
    ) -> Contender:
        """Its line; one that has run before goes on with it."""
        for known in self._contenders:
            if known.name == name:
                return known
        made = Contender(name, unit, against, at_most)
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

    def lines(self) -> list[str]:
        """For people."""
        told = [contender.line() for contender in self.measured]
        return [self.title, *told, *(f"  {note}" for note in self._notes)]

    def record(self) -> dict[str, Any]:
        """For programs."""
        figures = [contender.record() for contender in self.measured]
        return {"title": self.title, "figures": figures, "notes": self._notes}


def number(figure: float) -> str:
    """Three digits or more, no exponent."""
    if figure >= 1000:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
