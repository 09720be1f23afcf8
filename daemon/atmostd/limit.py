"""What a limit decides. THE RULES of semantics.md, and nothing else: what happens to one limit is here,
what becomes of a ticket in all of its limits in grants.py.

Rule 1: every transition is here, as `Limit.apply(event, now) -> effects`: one event, one step.
Rule 2: no clock, no I/O, no asyncio. `now` is an argument, in whole nanoseconds.
Rule 3: one function takes slots (`take`), one gives them back (`leave`), one decides who goes
(`grant_in_order`), and time acts in one event (`Tick`).
Rule 4: a request over several limits is one ticket that stands in the line of each of them. Whatever
ends or grants it does so in all of its limits, in the same step.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import assert_never

from atmostd import grants
from atmostd.grants import (
    Refusal,
    grant_in_order,
    let_go,
    let_some_go,
    limits_of,
    lines_affected,
    lines_to_look_at,
    may_go_yet,
    readmit,
    refuse,
    take,
    time_out,
    wake_ups,
)
from atmostd.level import Level
from atmostd.line import Line
from atmostd.statistics import Tally
from atmostd.ticket import (
    ARRIVING,
    WAITING,
    Arrive,
    Delete,
    Edit,
    Effect,
    Event,
    Granted,
    LetGo,
    Part,
    Readmit,
    Reset,
    Tick,
    Ticket,
)

PASSES_MAX = 4  # semantics.md 2: how often a ticket may be passed in the lines that it lacks
TIMER_LATE_NS_MAX = (
    1_000_000  # the timer's precision: of a longer delay the rest is lost, not made up
)
NO_BOUND = 1 << 62
LOOKS_A_TICKET = 16  # at tickets in doubt, for the time that one refusal takes
DEADLINES_DEAD_MAX = 64  # entries of tickets that are gone, kept before the heap is made anew


class Limit:
    """One named limit: its settings, who holds, what is spent, who waits."""

    __slots__ = (
        "_deadlines",
        "_passers",
        "active",
        "deleted",
        "goes_on_with",
        "held",
        "holders",
        "in_doubt",
        "level",
        "limit",
        "line",
        "name",
        "tally",
        "unfinished",
        "waiters_max",
        "wakes",
    )

    def __init__(
        self,
        name: str,
        limit: int,
        slot_decay_per_second: float,
        active: bool,
        now: int,
        waiters_max: int = NO_BOUND,
    ) -> None:
        self.name = name
        self.waiters_max = waiters_max  # against abuse: how long the line may get
        self.limit = limit
        self.active = active
        self.level = Level(slot_decay_per_second, now)
        self.holders: dict[int, Ticket] = {}  # on the books, by number
        self.held = 0  # slots of the holders: always their sum
        self.line: Line[Ticket] = Line()
        self.deleted = False
        self.tally = Tally()  # what happened here; the rules do not look at it
        self.wakes: list[int] = []  # the Ticks asked for that are still to come, the earliest last
        self._deadlines: list[tuple[int, int, Ticket]] = []  # heap, of tickets whose home is here
        self._passers = [0] * PASSES_MAX  # the greatest numbers that went here, ascending
        self.in_doubt: list[Ticket] = []  # may have to be refused; the first in line is the last
        self.unfinished: dict[Limit, None] = {}  # lines that go on with our next Tick
        self.goes_on_with: Limit | None = None  # with whose Tick this line goes on

    def apply(self, event: Event, now: int) -> list[Effect]:
        """One step: what happened at `now` (nanoseconds), and what follows from it."""
        match event:
            case Arrive(ticket=ticket):
                return self._arrive(ticket, now)
            case LetGo(ticket=ticket):
                return let_go(ticket, now)
            case Readmit(ticket=ticket):
                return readmit(ticket, now)
            case Tick(due=due):
                # A timer rings late, and what is due next is counted from what was due, not from the
                # ring: else a limit of 1 would lose a little of its rate with every slot.
                late_at_most = now - TIMER_LATE_NS_MAX
                return self._tick(now if due is None else max(due, late_at_most))
            case Edit():
                return self._edit(event, now)
            case Reset():
                return self._reset(now)
            case Delete():
                return self._delete(now)
            case _:
                assert_never(event)

    # What a reader may ask

    @property
    def goes_on(self) -> bool:
        """Whether more of its line may go, or has to be refused, than a step has looked at."""
        return bool(self.in_doubt) or self.goes_on_with is not None

    @property
    def is_awaited(self) -> bool:
        """Whether anybody stands in line here, or goes on elsewhere with our next Tick."""
        return bool(self.line) or bool(self.unfinished)

    def may_let_go(self, now: int) -> bool:
        """Whether anybody at all could go here."""
        return not self.in_doubt and self.has_room(1, now)

    def has_room(self, slots: int, now: int) -> bool:
        """Whether so many slots are free; a limit that is not enforced always has them."""
        if not self.active:
            return True
        free = self.limit - self.held - slots
        if free < 0:
            return False
        level = self.level
        if not level.units:
            return True
        level.settle(now)
        return level.within(free)

    def waiting_at_home(self) -> int:
        """Tickets that stand here, and whose home this is: over all limits, each counts once."""
        return sum(self.line.like(head) for head in self.line.heads() if head.home is self)

    def active_slots(self, now: int) -> int:
        """Slots occupied: held + spent, rounded up to whole slots."""
        self.level.settle(now)
        return self.held + self.level.whole_slots()

    @property
    def slot_decay_per_second(self) -> float:
        return self.level.rate

    # The events

    def _arrive(self, ticket: Ticket, now: int) -> list[Effect]:
        if ticket.state is not ARRIVING:
            return []  # let go, or refused by another of its limits, before it got here
        refusal = self._refusal(ticket)
        if refusal is not None:
            return refuse([(ticket, refusal)], now)
        ticket.missing -= 1
        parts = ticket.parts
        if len(parts) == 1 and not self.line.count and self.has_room(parts[0].slots, now):
            take(ticket, now)  # an empty line: it is at the head already
            return [Granted(ticket)]
        if len(self.line) >= self.waiters_max:
            return refuse([(ticket, self._too_many())], now)
        self.line.add(ticket)
        if ticket.missing:
            return []
        ticket.state = WAITING
        # Where nobody can go it has changed nothing: who waits there lacks that limit as before.
        lines = lines_to_look_at(parts, now)
        effects = grant_in_order(lines, now) if lines else []
        if len(lines) < len(parts):
            effects += wake_ups(limits_of(ticket), now)
        if ticket.state is WAITING and ticket.deadline is not None:
            if ticket.deadline <= now and not may_go_yet(ticket):
                return effects + time_out([ticket], now)
            ticket.home._remember_deadline(ticket)
            effects += wake_ups([ticket.home], now)
        return effects

    def _tick(self, now: int) -> list[Effect]:
        while self.wakes and self.wakes[-1] <= now:
            self.wakes.pop()
        due: list[Ticket] = []
        while (
            self._deadlines
            and self._deadlines[0][0] <= now
            and len(due) < grants.TICKETS_A_STEP_MAX
        ):
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.state is WAITING:
                due.append(ticket)
        effects = self._refuse_some(now)
        lines, self.unfinished = self.unfinished, {}
        for limit in lines:
            limit.goes_on_with = None
        # Who can go at this very instant is not late.
        changed = list({self: None, **lines})
        effects += let_some_go(self, changed, lines_affected(changed, now), now)
        late = [ticket for ticket in due if ticket.state is WAITING]
        if any(map(may_go_yet, late)):
            for ticket in late:
                self._remember_deadline(ticket)
            return effects + wake_ups([self], now)
        return effects + time_out(late, now) if late else effects

    def _edit(self, edit: Edit, now: int) -> list[Effect]:
        # Nobody can be refused by more slots, or by another rate.
        refuses = edit.active not in (None, self.active) or edit.slot_decay_per_second == 0
        if edit.limit is not None:
            refuses = refuses or edit.limit < self.limit
            self.limit = edit.limit
        if edit.slot_decay_per_second is not None:
            self.level.change_rate(edit.slot_decay_per_second, now)
        if edit.active is not None:
            self.active = edit.active
        if refuses:
            self.doubt_all()
        return self._refuse_some(now) + grant_in_order([self], now)

    def _reset(self, now: int) -> list[Effect]:
        self.level.empty(now)
        return grant_in_order([self], now)

    def _delete(self, now: int) -> list[Effect]:
        self.deleted = True
        self.doubt_all()
        return self._refuse_some(now) + wake_ups([self], now)

    # Who has to be refused

    def doubt_all(self) -> None:
        """Whoever stands in line may wait here for ever now: nobody goes before that is looked at."""
        self.in_doubt = list(self.line)
        self.in_doubt.reverse()

    def _refuse_some(self, now: int) -> list[Effect]:
        """Look at those in doubt, but refuse no more than one step may."""
        refused: list[tuple[Ticket, Refusal]] = []
        looks = grants.TICKETS_A_STEP_MAX * LOOKS_A_TICKET
        while self.in_doubt and looks and len(refused) < grants.TICKETS_A_STEP_MAX:
            looks -= 1
            ticket = self.in_doubt.pop()
            if ticket.state is ARRIVING or ticket.state is WAITING:
                refusal = self._refusal(ticket)
                if refusal is not None:
                    refused.append((ticket, refusal))
        return refuse(refused, now) if refused else []

    # After a restart

    def put_back(
        self,
        limit: int,
        active: bool,
        rate: float,
        units: int,
        settled_at: int,
        passers: list[int],
    ) -> None:
        """As it was recorded."""
        self.limit = limit
        self.active = active
        self.level = Level(rate, settled_at, units)
        self._passers = list(passers)

    def set_again(self, limit: int, rate: float | None, active: bool, at: int) -> None:
        """As it was edited then; None leaves the rate as it is."""
        self.limit = limit
        self.active = active
        if rate is not None:
            self.level.change_rate(rate, at)

    def empty_again(self, at: int) -> None:
        """What was spent was set to nothing then."""
        self.level.empty(at)

    def stand_again(self, ticket: Ticket) -> None:
        """The ticket waits here, as it did."""
        self.line.add(ticket)
        if ticket.deadline is not None and ticket.home is self:
            self._remember_deadline(ticket)

    # Why a ticket may not even wait

    def _refusal(self, ticket: Ticket) -> Refusal | None:
        """Why waiting here could never end well, as an error's code and fields."""
        if self.deleted:
            return self._deleted()
        if not self.active:
            if ticket.strict:
                inactive = [part.limit.name for part in ticket.parts if not part.limit.active]
                return "limit_inactive", {"names": inactive}
            return None
        part = self.part_of(ticket)
        if part.spend and not self.level.rate:
            return "slot_decay_required", {"name": self.name}
        if part.slots > self.limit:
            return "never_fits", {"name": self.name, "slots": part.slots, "limit": self.limit}
        if ticket.inside and ticket.deadline is None:
            own = self._held_by(ticket.inside)
            if own + part.slots > self.limit:
                return "would_deadlock", {
                    "name": self.name,
                    "slots": part.slots,
                    "held": own,
                    "limit": self.limit,
                }
        return None

    def _deleted(self) -> Refusal:
        return "limit_deleted", {"name": self.name}

    def _too_many(self) -> Refusal:
        return "too_many", {
            "what": f"requests waiting for {self.name!r}",
            "at_most": self.waiters_max,
            "setting": "waiters_per_limit",
        }

    def _held_by(self, tickets: Iterable[Ticket]) -> int:
        return sum(
            part.hold
            for ticket in tickets
            for part in ticket.parts
            if part.limit is self and part.taken
        )

    # Time

    def _remember_deadline(self, ticket: Ticket) -> None:
        assert ticket.deadline is not None
        if len(self._deadlines) > 2 * len(self.line) + DEADLINES_DEAD_MAX:
            self._deadlines = [entry for entry in self._deadlines if entry[2].state is WAITING]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))

    def next_instant(self, now: int) -> int | None:
        """The first instant at which time alone changes something here."""
        while self._deadlines and self._deadlines[0][2].state is not WAITING:
            heapq.heappop(self._deadlines)
        if self.in_doubt or self.unfinished:
            return now + 1
        instants = [max(self._deadlines[0][0], now + 1)] if self._deadlines else []
        if self.level.units and self.line:
            self.level.settle(now)
            for ticket in self.line.heads():
                free = self.limit - self.held - self.part_of(ticket).slots
                if free >= 0 and not self.level.within(free):
                    instants.append(self.level.instant_within(free))
        return min(instants, default=None)

    def part_of(self, ticket: Ticket) -> Part:
        """What the ticket asks here."""
        parts = ticket.parts
        return parts[0] if len(parts) == 1 else next(p for p in parts if p.limit is self)

    # Passing

    @property
    def passers(self) -> list[int]:
        """The greatest numbers that went here while others waited, ascending."""
        return self._passers

    def was_passed_by_enough(self, ticket: Ticket) -> bool:
        """Whether PASSES_MAX later tickets went here while this one waits."""
        return self._passers[0] > ticket.number

    def note_passer(self, ticket: Ticket) -> None:
        if ticket.number > self._passers[0]:
            self._passers[0] = ticket.number
            self._passers.sort()
