"""What a limit decides. THE RULES of semantics.md, and nothing else.

Rule 1: every transition is here, as `Limit.apply(event, now) -> effects`: one event, one step.
Rule 2: no clock, no I/O, no asyncio. `now` is an argument, in whole nanoseconds.
Rule 3: one function takes slots (`take`), one gives them back (`leave`), one decides who goes
(`_grant_in_order`), and time acts in one event (`Tick`).
Rule 4: a request over several limits is one ticket that stands in the line of each of them. Whatever
ends or grants it does so in all of its limits, in the same step.

Who goes first. Tickets are looked at in the order of their arrival. A ticket *lacks* a limit when the
slots it asks are not free there, or when an earlier ticket holds back that line. It goes when it lacks
nothing. If it lacks one limit alone it holds back that limit's line (nobody takes what it saves up
for), but no other of its lines; if it lacks several it holds back none. Once it has been passed
PASSES_MAX times in every line that it lacks, it holds back all of its lines until it goes.

One step lets a bounded number go, and refuses or times out as many. If that is not all, the lines that
are left *go on* with a Tick, which is asked for at once. Until then nobody goes there by another event,
and who is late there may still go; so nobody is overtaken, and others have their turn in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import assert_never

from atmostd.level import Level
from atmostd.line import Line
from atmostd.statistics import Tally
from atmostd.ticket import (
    ARRIVING,
    ENDED,
    HELD,
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
    Refused,
    Reset,
    Tick,
    Ticket,
    TimedOut,
    WakeAt,
)

PASSES_MAX = 4  # semantics.md 2: how often a ticket may be passed in the lines that it lacks
TIMER_LATE_NS_MAX = (
    1_000_000  # the timer's precision: of a longer delay the rest is lost, not made up
)
UNKNOWN_HOLDER = "the daemon's record of it was lost, and others have the slots now"
NO_BOUND = 1 << 62
TICKETS_A_STEP_MAX = 250  # that go, are refused or time out: some 4 ms with all that follows
LOOKS_A_TICKET = 16  # at tickets in doubt, for the time that one refusal takes
DEADLINES_DEAD_MAX = 64  # entries of tickets that are gone, kept before the heap is made anew


class Limit:
    """One named limit: its settings, who holds, what is spent, who waits."""

    __slots__ = (
        "_deadlines",
        "_in_doubt",
        "_passers",
        "_unfinished",
        "active",
        "deleted",
        "goes_on_with",
        "held",
        "holders",
        "level",
        "limit",
        "line",
        "name",
        "tally",
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
        self._in_doubt: list[
            Ticket
        ] = []  # may have to be refused; the first of the line is the last
        self._unfinished: dict[Limit, None] = {}  # lines that go on with our next Tick
        self.goes_on_with: Limit | None = None  # with whose Tick this line goes on

    def apply(self, event: Event, now: int) -> list[Effect]:
        """One step: what happened at `now` (nanoseconds), and what follows from it."""
        match event:
            case Arrive(ticket=ticket):
                return self._arrive(ticket, now)
            case LetGo(ticket=ticket):
                return _let_go(ticket, now)
            case Readmit(ticket=ticket):
                return _readmit(ticket, now)
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
        return bool(self._in_doubt) or self.goes_on_with is not None

    def may_let_go(self, now: int) -> bool:
        """Whether anybody at all could go here."""
        return not self._in_doubt and self.has_room(1, now)

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
            return _refuse([(ticket, refusal)], now)
        ticket.missing -= 1
        parts = ticket.parts
        if len(parts) == 1 and not self.line.count and self.has_room(parts[0].slots, now):
            take(ticket, now)  # an empty line: it is at the head already
            return [Granted(ticket)]
        if len(self.line) >= self.waiters_max:
            return _refuse([(ticket, self._too_many())], now)
        self.line.add(ticket)
        if ticket.missing:
            return []
        ticket.state = WAITING
        # Where nobody can go it has changed nothing: who waits there lacks that limit as before.
        lines = [part.limit for part in parts if part.limit.may_let_go(now)]
        effects = _grant_in_order(lines, now) if lines else []
        if len(lines) < len(parts):
            effects += _wake_ups(_limits_of(ticket), now)
        if ticket.state is WAITING and ticket.deadline is not None:
            if ticket.deadline <= now and not _may_go_yet(ticket):
                return effects + _time_out([ticket], now)
            ticket.home._remember_deadline(ticket)
            effects += _wake_ups([ticket.home], now)
        return effects

    def _tick(self, now: int) -> list[Effect]:
        while self.wakes and self.wakes[-1] <= now:
            self.wakes.pop()
        due: list[Ticket] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(due) < TICKETS_A_STEP_MAX:
            ticket = heapq.heappop(self._deadlines)[2]
            if ticket.state is WAITING:
                due.append(ticket)
        effects = self._refuse_some(now)
        lines, self._unfinished = self._unfinished, {}
        for limit in lines:
            limit.goes_on_with = None
        # Who can go at this very instant is not late.
        changed = list({self: None, **lines})
        effects += _let_some_go(self, changed, _lines_affected(changed, now), now)
        late = [ticket for ticket in due if ticket.state is WAITING]
        if any(map(_may_go_yet, late)):
            for ticket in late:
                self._remember_deadline(ticket)
            return effects + _wake_ups([self], now)
        return effects + _time_out(late, now) if late else effects

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
        return self._refuse_some(now) + _grant_in_order([self], now)

    def _reset(self, now: int) -> list[Effect]:
        self.level.empty(now)
        return _grant_in_order([self], now)

    def _delete(self, now: int) -> list[Effect]:
        self.deleted = True
        self.doubt_all()
        return self._refuse_some(now) + _wake_ups([self], now)

    # Who has to be refused

    def doubt_all(self) -> None:
        """Whoever stands in line may wait here for ever now: nobody goes before that is looked at."""
        self._in_doubt = list(self.line)
        self._in_doubt.reverse()

    def _refuse_some(self, now: int) -> list[Effect]:
        """Look at those in doubt, but refuse no more than one step may."""
        refused: list[tuple[Ticket, tuple[str, dict[str, object]]]] = []
        looks = TICKETS_A_STEP_MAX * LOOKS_A_TICKET
        while self._in_doubt and looks and len(refused) < TICKETS_A_STEP_MAX:
            looks -= 1
            ticket = self._in_doubt.pop()
            if ticket.state is ARRIVING or ticket.state is WAITING:
                refusal = self._refusal(ticket)
                if refusal is not None:
                    refused.append((ticket, refusal))
        return _refuse(refused, now) if refused else []

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

    def _refusal(self, ticket: Ticket) -> tuple[str, dict[str, object]] | None:
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

    def _deleted(self) -> tuple[str, dict[str, object]]:
        return "limit_deleted", {"name": self.name}

    def _too_many(self) -> tuple[str, dict[str, object]]:
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
        if self._in_doubt or self._unfinished:
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

    def _note_passer(self, ticket: Ticket) -> None:
        if ticket.number > self._passers[0]:
            self._passers[0] = ticket.number
            self._passers.sort()


# What concerns a ticket in all of its limits


def take(ticket: Ticket, now: int) -> None:
    """The one place that takes slots: all that the ticket asks, in all of its limits."""
    ticket.state = ENDED  # unless it holds something that it can let go of
    for part in ticket.parts:
        if part.spend:
            # A late timer counts from what was due, but not from before a level was last looked at:
            # what is recorded as the instant has to give the same level again.
            now = max(now, part.limit.level.settled_at)
    ticket.granted_at = now
    for part in ticket.parts:
        limit, hold, spend = part.limit, part.hold, part.spend
        limit.line.discard(ticket)
        if hold:
            ticket.state = HELD
        if not limit.active or limit.deleted:
            continue
        if hold:
            part.taken = True
            limit.holders[ticket.number] = ticket
            limit.held += hold
        if spend:
            limit.level.settle(now)
            limit.level.spend(spend)
        if limit.line.count:
            limit._note_passer(ticket)


def hold_again(ticket: Ticket, names: Collection[str], at: int) -> None:
    """The ticket was granted at `at`, and has slots on the books of these limits."""
    ticket.state = ENDED
    ticket.granted_at = at
    for part in ticket.parts:
        part.limit.line.discard(ticket)
        if part.hold:
            ticket.state = HELD
            if part.limit.name in names and not part.limit.deleted:
                part.taken = True
                part.limit.holders[ticket.number] = ticket
                part.limit.held += part.hold


def leave(ticket: Ticket) -> None:
    """The one place that gives slots back and leaves the lines."""
    ticket.state = ENDED
    for part in ticket.parts:
        limit = part.limit
        limit.line.discard(ticket)
        if part.taken:
            part.taken = False
            del limit.holders[ticket.number]
            limit.held -= part.hold


def _readmit(ticket: Ticket, now: int) -> list[Effect]:
    """A holder that we know nothing of. Whether its slots were kept for it: they were, if they are
    free; nobody has been given them."""
    lacked = [
        part.limit.name
        for part in ticket.parts
        if not part.limit.deleted and not part.limit.has_room(part.slots, now)
    ]
    if lacked:
        ticket.state = ENDED
        return [Refused(ticket, "grant_lost", {"names": lacked, "reason": UNKNOWN_HOLDER})]
    take(ticket, now)
    return [Granted(ticket)]


def _let_go(ticket: Ticket, now: int) -> list[Effect]:
    if ticket.state is ENDED:
        return []
    leave(ticket)
    lines = [part.limit for part in ticket.parts if part.limit.line.count]
    return _grant_in_order(lines, now) if lines else []


def _refuse(refused: list[tuple[Ticket, tuple[str, dict[str, object]]]], now: int) -> list[Effect]:
    effects: list[Effect] = []
    for ticket, (code, fields) in refused:
        leave(ticket)
        effects.append(Refused(ticket, code, fields))
    return effects + _go_on_without([ticket for ticket, _ in refused], now)


def _time_out(late: list[Ticket], now: int) -> list[Effect]:
    """These have waited long enough. Their places are told as they are before the first one leaves."""
    in_line: dict[Limit, list[Ticket]] = {}
    for ticket in late:
        for limit in _limits_of(ticket):
            in_line.setdefault(limit, []).append(ticket)
    places: dict[int, dict[str, int]] = {ticket.number: {} for ticket in late}
    for limit, tickets in in_line.items():
        for ticket, place in zip(tickets, limit.line.places(tickets), strict=True):
            places[ticket.number][limit.name] = place
    effects: list[Effect] = []
    for ticket in late:
        leave(ticket)
        effects.append(TimedOut(ticket, places[ticket.number]))
    return effects + _go_on_without(late, now)


def _go_on_without(tickets: list[Ticket], now: int) -> list[Effect]:
    """Those behind tickets that left may go now."""
    lines = dict.fromkeys(limit for ticket in tickets for limit in _limits_of(ticket))
    return _grant_in_order(list(lines), now)


def _may_go_yet(ticket: Ticket) -> bool:
    """Whether one of its lines has not been looked at to its end."""
    return any(part.limit.goes_on for part in ticket.parts)


def _grant_in_order(changed: list[Limit], now: int) -> list[Effect]:
    """The one place that decides who goes, after something changed at these limits. While lines that
    are affected go on, these go on with them."""
    affected = _lines_affected(changed, now)
    for limit in affected:
        first = limit.goes_on_with
        if first is not None:
            _go_on_with(first, changed)
            return _wake_ups(changed, now)
    return _let_some_go(changed[0], changed, affected, now)


def _go_on_with(first: Limit, lines: Iterable[Limit]) -> None:
    for limit in lines:
        limit.goes_on_with = first
        first._unfinished[limit] = None


def _let_some_go(
    first: Limit, changed: list[Limit], affected: list[Limit], now: int
) -> list[Effect]:
    """Let go who can. If they are too many for one step, all goes on with a Tick of `first`."""
    granted: list[Ticket] = []
    touched = dict.fromkeys(changed)
    while True:
        again = _sweep(affected, now, granted)
        for ticket in granted:  # their other lines are changed now, too
            touched.update(dict.fromkeys(_limits_of(ticket)))
        if not again or len(granted) >= TICKETS_A_STEP_MAX:
            break
        affected = _lines_affected(list(touched), now)
    if len(granted) >= TICKETS_A_STEP_MAX:
        _go_on_with(first, touched)
        touched[first] = None
    effects: list[Effect] = [Granted(ticket) for ticket in granted]
    return effects + _wake_ups(touched, now)


def _lines_affected(changed: list[Limit], now: int) -> list[Limit]:
    """The lines whose order may look different now: those changed, and all that hang together with
    them by tickets over several limits. A limit without one free slot lets nobody go, whatever
    happens in its line, so nothing spreads through it."""
    if len(changed) == 1 and not any(len(head.parts) > 1 for head in changed[0].line.heads()):
        return changed
    found = dict.fromkeys(changed)
    todo = list(changed)
    while todo:
        for head in todo.pop().line.heads():
            for part in head.parts:
                if part.limit not in found and part.limit.may_let_go(now):
                    found[part.limit] = None
                    todo.append(part.limit)
    return list(found)


def _sweep(lines: list[Limit], now: int, granted: list[Ticket]) -> bool:
    """Look at who waits in these lines, in the order of arrival, and let go who can.

    Returns True when one that went has passed another: what that one lacks, and so whom it holds
    back, may be different now, and the sweep has to be made again. Ends when enough went.
    """
    heads = {
        head.number: head for limit in lines if limit.may_let_go(now) for head in limit.line.heads()
    }
    order = sorted(heads)  # a sorted list is a heap
    held_back: set[Limit] = set()
    waited_in: set[Limit] = set()
    while order and len(granted) < TICKETS_A_STEP_MAX:
        ticket = heads[heapq.heappop(order)]
        limits = _limits_of(ticket)
        lacked = [
            part.limit
            for part in ticket.parts
            if part.limit._in_doubt
            or (
                part.limit.active
                and (part.limit in held_back or not part.limit.has_room(part.slots, now))
            )
        ]
        if ticket.state is WAITING and not lacked:
            take(ticket, now)
            granted.append(ticket)
            if not waited_in.isdisjoint(limits):
                return True
            for limit in limits:
                head = limit.line.head_like(ticket)
                if head is not None and head.number not in heads:
                    heads[head.number] = head
                    heapq.heappush(order, head.number)
            continue
        waited_in.update(limits)
        if not ticket.keeps and lacked:
            ticket.keeps = all(limit.was_passed_by_enough(ticket) for limit in lacked)
        if ticket.keeps or ticket.state is ARRIVING:
            held_back.update(limits)
        elif len(lacked) == 1:
            held_back.add(lacked[0])
    return False


def _limits_of(ticket: Ticket) -> list[Limit]:
    return [part.limit for part in ticket.parts]


def _wake_ups(limits: Iterable[Limit], now: int) -> list[Effect]:
    """The Ticks that these limits need and have not asked for yet."""
    effects: list[Effect] = []
    for limit in limits:
        instant = limit.next_instant(now)
        if instant is not None and (not limit.wakes or instant < limit.wakes[-1]):
            limit.wakes.append(instant)
            effects.append(WakeAt(limit, instant))
    return effects
