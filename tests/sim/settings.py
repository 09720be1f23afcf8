"""What each limit may be by now, with several who change it at the same time.

A limit is a register: a change, or a read, happens at one instant between its asking and its answer, and
the answers have to fit to one order of these instants (it is linearizable). All orders that are still
possible are followed at once, as a set of `Way`s.

Rule 1: a change that was sent again, because its connection was lost, may have happened once for every
time that it was sent; its answer is that of the last time.
Rule 2: a change that was never answered may have happened or not, and may happen yet.
Rule 3: None is a limit that nobody has declared. Whether a request has made one of that name is not
followed: it may be there or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.sim.world import World

Declared = tuple[int, float, bool]  # limit, decay, active
Fields = tuple[int | None, float | None, bool | None]  # None: as it is
Result = str | tuple[Declared | None]  # a word, or what was read
IMPLICIT: Declared = (1, 0.0, False)
DONE, EXISTS, NOT_FOUND, REFUSED = "done", "limit_exists", "limit_not_found", "refused"
TIMES_MAX = 3  # more often nothing new comes of it


@dataclass(frozen=True)
class Change:
    """Asked and not answered yet."""

    kind: str  # create, update, delete, read
    fields: Fields
    sent: Callable[[], int]  # how often by now


# What has happened of the changes that are not answered: (change, how often, what the last gave).
Happened = tuple[tuple[int, int, Result], ...]
Way = tuple[Declared | None, Happened]


def _may_be(change: Change, now: Declared | None) -> list[tuple[Declared | None, Result]]:
    """What the change makes of this, and what it is answered."""
    if change.kind == "read":
        return [(now, (now,))]
    if change.kind == "create":
        if now is not None:
            return [(now, EXISTS)]
        return [(_changed(IMPLICIT, change.fields), DONE), (None, EXISTS)]
    after = _changed(now or IMPLICIT, change.fields) if change.kind == "update" else None
    return [(after, DONE)] if now is not None else [(None, NOT_FOUND), (after, DONE)]


def _changed(now: Declared, fields: Fields) -> Declared:
    limit, decay, active = fields
    return (
        now[0] if limit is None else limit,
        now[1] if decay is None else decay,
        now[2] if active is None else active,
    )


class Settings:
    """Follows every limit of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ways: dict[str, dict[Way, None]] = {}  # in an order that does not depend on hashes
        self._changes: dict[int, tuple[str, Change]] = {}  # not answered yet
        self._last = 0

    def likely(self, name: str) -> Declared | None:
        """One of the things that it may be."""
        ways = self._ways.get(name)
        return next(iter(ways))[0] if ways else None

    def declared(self, name: str) -> bool:
        """Whether it is known what it is."""
        return len({value for value, _ in self._all(name)}) == 1 and self.likely(name) is not None

    def asked(self, name: str, change: Change) -> int:
        """Somebody asks for this. Returns what stands for it in the answer."""
        self._last += 1
        self._ways.setdefault(name, {(None, ()): None})
        self._changes[self._last] = name, change
        return self._last

    def answered(self, number: int, result: Result) -> None:
        name, change = self._changes[number]
        before = self._all(name)
        again = change.sent() > 1
        kept = {
            (value, tuple(one for one in happened if one[0] != number)): None
            for value, happened in before
            if _fits(change, next((one for one in happened if one[0] == number), None), result)
        }
        del self._changes[number]
        if not kept:
            self._world.fail(
                f"{change.kind} {name} {change.fields} is answered with {result}"
                f"{' when it was sent again' if again else ''}, and it may be {self._values(before)}"
            )
        self._ways[name] = kept

    def found(self, name: str, found: Declared | None) -> None:
        """The daemon has it so, at this instant."""
        before = self._all(name)
        self._ways[name] = {way: None for way in before if way[0] == found}
        if not self._ways[name]:
            self._world.fail(f"limit {name} is {found}, and may be {self._values(before)}")

    def names(self) -> list[str]:
        return list(self._ways)

    def nobody_asks(self) -> None:
        """All who asked are dead, and so is the daemon."""
        for name in self._ways:
            self._ways[name] = {(value, ()): None for value, _ in self._all(name)}
        self._changes.clear()

    def fell_back(self, values: dict[str, Declared]) -> None:
        """What was declared is lost; this is what is left."""
        for name in self._ways:
            self._ways[name] = {(values.get(name), ()): None}

    def _all(self, name: str) -> dict[Way, None]:
        """Everything that may have happened by now."""
        changes = [(n, change) for n, (of, change) in self._changes.items() if of == name]
        ways = dict(self._ways.get(name, {(None, ()): None}))
        if not changes:
            return ways
        new = list(ways)
        while new:
            value, happened = new.pop()
            for number, change in changes:
                times = next((one[1] for one in happened if one[0] == number), 0)
                if times >= min(change.sent(), TIMES_MAX):
                    continue
                others = tuple(one for one in happened if one[0] != number)
                for after, result in _may_be(change, value):
                    way = after, tuple(sorted((*others, (number, times + 1, result)), key=_number))
                    if way not in ways:
                        ways[way] = None
                        new.append(way)
        return ways

    @staticmethod
    def _values(ways: dict[Way, None]) -> list[Declared | None]:
        return list(dict.fromkeys(value for value, _ in ways))


def _number(one: tuple[int, int, Result]) -> int:
    return one[0]


def _fits(change: Change, happened: tuple[int, int, Result] | None, result: Result) -> bool:
    """Whether a change of which this has happened can be answered so."""
    sent = change.sent()
    if result == REFUSED:  # the last time nothing happened
        return happened is None or sent > TIMES_MAX or happened[1] < sent
    if happened is None:
        return False
    if change.kind == "delete" and sent > 1 and result == DONE:
        return True  # that it is not there any more, the first time has done
    return happened[2] == result
