"""The rules once more, the slow and plain way: what limit.py is held against.

Rule 1: written from semantics.md with lists and brute force; no lanes, no heaps, no components.
Rule 2: after each event everybody who waits anywhere is looked at in order of arrival, and whenever
        one goes, all of them again from the start, until nobody can go.
Rule 3: slots and rates are Fractions of the decimals that the user wrote; nothing is a float.
Rule 4: it imports nothing from the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import ceil

SECOND = 1_000_000_000  # nanoseconds

Outcome = tuple[
    object, ...
]  # ("granted", 3), ("refused", 4, code, fields), ("timed out", 5, places)


@dataclass(eq=False)
class Row:
    """One limit."""

    name: str
    limit: int
    rate: Fraction
    active: bool
    spent: Fraction = Fraction(0)  # as it was at `settled`
    settled: int = 0
    deleted: bool = False

    def spent_at(self, instant: int) -> Fraction:
        if not self.spent or instant <= self.settled:
            return self.spent
        return max(Fraction(0), self.spent - self.rate * Fraction(instant - self.settled, SECOND))

    def settle(self, now: int) -> None:
        self.spent, self.settled = self.spent_at(now), max(now, self.settled)


@dataclass(eq=False)
class Want:
    """What is asked of one limit."""

    row: Row
    hold: int
    spend: int
    stands: bool = False  # has reached this line and has not left it
    counted: bool = False  # its held slots are on this limit's books
    passes: int = 0  # later tickets that went here while this one stood here

    @property
    def slots(self) -> int:
        return self.hold + self.spend


@dataclass(eq=False)
class Ask:
    """One ticket."""

    number: int
    wants: list[Want]
    deadline: int | None
    strict: bool
    inside: list[Ask]
    state: str = "arriving"
    keeps: bool = field(default=False)

    def want_of(self, row: Row) -> Want | None:
        return next((want for want in self.wants if want.row is row), None)

    def stands_in(self, row: Row) -> bool:
        want = self.want_of(row)
        return want is not None and want.stands

    @property
    def kind(self) -> list[tuple[str, int]]:
        """Equal for those who ask as many slots of the same limits."""
        return sorted((want.row.name, want.slots) for want in self.wants)

    @property
    def in_line(self) -> bool:
        return self.state in ("arriving", "waiting")


class Model:
    def __init__(self, passes_max: int) -> None:
        self.passes_max = passes_max
        self.rows: list[Row] = []  # deleted ones too
        self.asks: list[Ask] = []  # everybody ever, in order of arrival
        self.present: list[Ask] = []  # those of them who have not ended

    def make(self, name: str, limit: int, decay: float, active: bool, now: int) -> Row:
        row = Row(name, limit, exact(decay), active, settled=now)
        self.rows.append(row)
        return row

    def ask(
        self,
        wants: list[Want],
        deadline: int | None = None,
        strict: bool = False,
        inside: list[Ask] | None = None,
    ) -> Ask:
        ask = Ask(len(self.asks) + 1, wants, deadline, strict, inside or [])
        self.asks.append(ask)
        self.present.append(ask)
        return ask

    # The events

    def arrive(self, ask: Ask, row: Row, now: int) -> list[Outcome]:
        if ask.state != "arriving":
            return []
        want = ask.want_of(row)
        assert want is not None
        refusal = self.refusal(ask, want)
        if refusal is not None:
            return self.refuse([(ask, refusal)], now)
        want.stands = True
        if not all(each.stands for each in ask.wants):
            return self.let_all_go_who_can(now)
        ask.state = "waiting"
        outcomes = self.let_all_go_who_can(now)
        if ask.state == "waiting" and ask.deadline is not None and ask.deadline <= now:
            outcomes += self.time_out([ask], now)
        return outcomes

    def let_go(self, ask: Ask, now: int) -> list[Outcome]:
        self.leave(ask)
        return self.let_all_go_who_can(now)

    def tick(self, row: Row, now: int) -> list[Outcome]:
        """Those whose home is this limit may be late; who can go at this very instant is not."""
        outcomes = self.let_all_go_who_can(now)
        late = [
            ask
            for ask in self.present
            if ask.state == "waiting"
            and ask.wants[0].row is row
            and ask.deadline is not None
            and ask.deadline <= now
        ]
        late.sort(key=lambda ask: (ask.deadline, ask.number))
        return outcomes + self.time_out(late, now)

    def edit(
        self,
        row: Row,
        limit: int | None,
        decay: float | None,
        active: bool | None,
        now: int,
    ) -> list[Outcome]:
        row.settle(now)
        if limit is not None:
            row.limit = limit
        if decay is not None:
            row.rate = exact(decay)
            # A level that no longer falls on the grid of the new rate is rounded up to it.
            grid = row.rate.denominator * SECOND
            row.spent = Fraction(ceil(row.spent * grid), grid) if row.rate else Fraction(0)
        if active is not None:
            row.active = active
        return self.refuse(self.refused_at(row), now)

    def reset(self, row: Row, now: int) -> list[Outcome]:
        row.settle(now)
        row.spent = Fraction(0)
        return self.refuse([], now)

    def delete(self, row: Row, now: int) -> list[Outcome]:
        row.deleted = True
        return self.refuse(self.refused_at(row), now)

    # Refusals and time-outs

    def refused_at(self, row: Row) -> list[tuple[Ask, Outcome]]:
        return [
            (ask, refusal)
            for ask in self.line(row)
            if (want := ask.want_of(row)) is not None
            and (refusal := self.refusal(ask, want)) is not None
        ]

    def refusal(self, ask: Ask, want: Want) -> Outcome | None:
        row = want.row
        if row.deleted:
            return "limit_deleted", {"name": row.name}
        if not row.active and not ask.strict:
            return None
        if not row.active:
            names = [each.row.name for each in ask.wants if not each.row.active]
            return "limit_inactive", {"names": names}
        if want.spend > 0 and row.rate == 0:
            return "slot_decay_required", {"name": row.name}
        asked = {"name": row.name, "slots": want.slots, "limit": row.limit}
        if want.slots > row.limit:
            return "never_fits", asked
        own = sum(
            each.hold
            for other in ask.inside
            for each in other.wants
            if each.row is row and each.counted
        )
        if ask.inside and ask.deadline is None and own + want.slots > row.limit:
            return "would_deadlock", asked | {"held": own}
        return None

    def refuse(self, refused: list[tuple[Ask, Outcome]], now: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for ask, refusal in refused:
            self.leave(ask)
            outcomes.append(("refused", ask.number, *refusal))
        return outcomes + self.let_all_go_who_can(now)

    def time_out(self, late: list[Ask], now: int) -> list[Outcome]:
        outcomes: list[Outcome] = [
            (
                "timed out",
                ask.number,
                {want.row.name: self.place(ask, want.row) for want in ask.wants},
            )
            for ask in late
        ]
        for ask in late:
            self.leave(ask)
        return outcomes + self.let_all_go_who_can(now)

    def leave(self, ask: Ask) -> None:
        self.end(ask)
        for want in ask.wants:
            want.stands = want.counted = False

    def end(self, ask: Ask) -> None:
        ask.state = "ended"
        self.present = [other for other in self.present if other is not ask]

    # Who goes

    def let_all_go_who_can(self, now: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while True:
            first, keeping = self.look(now)
            for ask in keeping:
                ask.keeps = True
            if first is None:
                return outcomes
            self.go(first, now)
            outcomes.append(("granted", first.number))

    def look(self, instant: int) -> tuple[Ask | None, list[Ask]]:
        """The first who can go at this instant, and who before it has been passed often enough.

        Of those who ask the same of the same limits only the first can come to keep its lines: the
        others wait for it as much as for the limits, and what they lack is seen when it is gone.
        """
        held_back: list[Row] = []
        keeping: list[Ask] = []
        kinds: list[list[tuple[str, int]]] = []
        for ask in self.present:
            if not ask.in_line:
                continue
            is_first_of_its_kind = ask.kind not in kinds
            kinds.append(ask.kind)
            lacked = [
                want
                for want in ask.wants
                if want.row.active
                and (want.row in held_back or not self.is_free(want.row, want.slots, instant))
            ]
            if ask.state == "arriving":
                held_back += [want.row for want in ask.wants if want.stands]
                continue
            if not lacked:
                return ask, keeping
            if is_first_of_its_kind and all(want.passes >= self.passes_max for want in lacked):
                keeping.append(ask)
            if ask.keeps or ask in keeping:
                held_back += [want.row for want in ask.wants]
            elif len(lacked) == 1:
                held_back.append(lacked[0].row)
        return None, keeping

    def go(self, ask: Ask, now: int) -> None:
        for want in ask.wants:
            want.stands = False
            if not want.row.active:
                continue
            want.counted = want.hold > 0
            want.row.settle(now)
            want.row.spent += want.spend
            for passed in self.line(want.row):
                if passed.number < ask.number:
                    its = passed.want_of(want.row)
                    assert its is not None
                    its.passes += 1
        ask.state = "held"
        if not any(want.hold for want in ask.wants):
            self.end(ask)

    def is_free(self, row: Row, slots: int, instant: int) -> bool:
        return row.spent_at(instant) <= row.limit - self.held(row) - slots

    # What can be seen

    def held(self, row: Row) -> int:
        return sum(
            want.hold
            for ask in self.present
            if ask.state == "held"
            for want in ask.wants
            if want.row is row and want.counted
        )

    def line(self, row: Row) -> list[Ask]:
        return [ask for ask in self.present if ask.in_line and ask.stands_in(row)]

    def place(self, ask: Ask, row: Row) -> int:
        return self.line(row).index(ask) + 1

    # Time alone

    def happens_before(self, now: int, instant: int) -> int | None:
        """An instant after `now` and before `instant` at which time alone changes something.

        Between two candidates no comparison of slots changes, so it is enough to look at those.
        """
        for candidate in sorted(set(self.candidates(now))):
            if candidate >= instant:
                return None
            late = any(
                ask.state == "waiting" and ask.deadline is not None and ask.deadline <= candidate
                for ask in self.present
            )
            if late or self.look(candidate)[0] is not None:
                return candidate
        return None

    def candidates(self, now: int) -> Iterator[int]:
        for ask in self.present:
            if ask.state != "waiting":
                continue
            if ask.deadline is not None:
                yield ask.deadline
            for want in ask.wants:
                surplus = self.held(want.row) + want.row.spent_at(now) + want.slots - want.row.limit
                if 0 < surplus <= want.row.spent_at(now) and want.row.active:
                    yield now + ceil(surplus / want.row.rate * SECOND)


def exact(decay: float) -> Fraction:
    """0.3 means 3/10."""
    return Fraction(Decimal(repr(decay)))
