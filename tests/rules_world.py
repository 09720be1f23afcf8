"""A world of real limits for tests: it does what the actors and the registry do around the rules.

Rule 1: one event is one step, and after every step every invariant is asserted (`_check`).
Rule 2: each limit has an inbox, so that a ticket reaches its limits one after the other, and no limit
        sees a ticket before an earlier one.
Rule 3: time moves from one alarm to the next, and each rings at its very instant, unless a test moves
        `now` by itself. As with the real one, an alarm that is set rings. Nothing here reads a clock.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping
from copy import copy
from fractions import Fraction
from math import ceil

from atmostd import ticket as words
from atmostd.limit import TIMER_LATE_NS_MAX, Limit
from atmostd.ticket import (
    Arrive,
    Delete,
    Edit,
    Effect,
    Event,
    LetGo,
    Part,
    Reset,
    State,
    Tick,
    Ticket,
)

SECOND = 1_000_000_000  # nanoseconds

Asked = str | Iterable[str] | Mapping[str, int]  # names with one slot each, or {name: slots}

_ORDER = list(State)


class World:
    def __init__(self, now: int = 0) -> None:
        self.now = now
        self.limits: dict[str, Limit] = {}  # those that exist, by name
        self.ever: list[Limit] = []  # deleted ones too: a ticket may still name them
        self.tickets: list[Ticket] = []  # in the order of arrival; the first has number 1
        self.alarms: list[tuple[int, int, Limit]] = []  # the Ticks asked for, the earliest first
        self._alarms_set = 0
        self.inboxes: dict[Limit, deque[Ticket]] = {}
        self.stands: dict[Ticket, list[Limit]] = {}  # the lines that an arriving ticket has reached
        self.refusals: dict[int, tuple[str, dict[str, object]]] = {}
        self.places: dict[int, dict[str, int]] = {}  # of tickets that timed out
        self.granted: list[Ticket] = []  # in the order of their grants

    # Limits

    def make(self, name: str, limit: int = 1, decay: float = 0.0, active: bool = True) -> Limit:
        """A limit of this name that starts clean."""
        made = Limit(name, limit, decay, active, self.now)
        self.limits[name] = made
        self.ever.append(made)
        self.inboxes[made] = deque()
        return made

    def edit(
        self,
        name: str,
        *,
        limit: int | None = None,
        decay: float | None = None,
        active: bool | None = None,
    ) -> list[Effect]:
        return self.apply(self.limits[name], Edit(limit, decay, active))

    def reset(self, name: str) -> list[Effect]:
        """Nothing is spent there any more."""
        return self.apply(self.limits[name], Reset())

    def delete(self, name: str) -> list[Effect]:
        return self.apply(self.limits.pop(name), Delete())

    # Tickets

    def hold(self, names: Asked, *, timeout: float | None = None, strict: bool = False) -> Ticket:
        """What `concurrency(names)` asks."""
        return self.ask(hold=names, timeout=timeout, strict=strict)

    def spend(self, names: Asked, *, timeout: float | None = None, strict: bool = False) -> Ticket:
        """What `rate_limit(names)` asks."""
        return self.ask(spend=names, timeout=timeout, strict=strict)

    def ask(
        self,
        hold: Asked = (),
        spend: Asked = (),
        *,
        timeout: float | None = None,
        strict: bool = False,
        inside: Iterable[Ticket] = (),
    ) -> Ticket:
        """One request, delivered to all of its limits."""
        ticket = self.post(hold, spend, timeout=timeout, strict=strict, inside=inside)
        for part in ticket.parts:
            while ticket in self.inboxes[part.limit]:
                self.deliver(part.limit)
        return ticket

    def post(
        self,
        hold: Asked = (),
        spend: Asked = (),
        *,
        timeout: float | None = None,
        strict: bool = False,
        inside: Iterable[Ticket] = (),
    ) -> Ticket:
        """One request, put into the inbox of each of its limits."""
        held, spent = _slots(hold), _slots(spend)
        parts = tuple(
            Part(self.limits[name], held.get(name, 0), spent.get(name, 0))
            for name in dict.fromkeys([*held, *spent])
        )
        ticket = Ticket(
            number=len(self.tickets) + 1,
            parts=parts,
            shape=frozenset((part.limit.name, part.slots) for part in parts),
            asked_at=self.now,
            deadline=None if timeout is None else self.now + round(timeout * SECOND),
            strict=strict,
            inside=tuple(inside),
            missing=len(parts),
        )
        self.tickets.append(ticket)
        self.stands[ticket] = []
        for part in parts:
            self.inboxes[part.limit].append(ticket)
        return ticket

    def deliver(self, limit: Limit) -> list[Effect]:
        """The next ticket in this limit's inbox arrives."""
        ticket = self.inboxes[limit].popleft()
        self.stands[ticket].append(limit)
        return self.apply(limit, Arrive(ticket))

    def let_go(self, ticket: Ticket) -> list[Effect]:
        return self.apply(ticket.home, LetGo(ticket))

    # Time

    def tick(self, limit: Limit) -> list[Effect]:
        """A Tick now that nobody asked for."""
        return self.apply(limit, Tick())

    def ring(self) -> list[Effect]:
        """The earliest alarm rings."""
        instant, _, limit = self.alarms.pop(0)
        return self.apply(limit, Tick(instant))

    def next_alarm(self) -> int | None:
        return self.alarms[0][0] if self.alarms else None

    def is_overdue(self) -> bool:
        return bool(self.alarms) and self.alarms[0][0] <= self.now

    def sleep(self, seconds: float) -> None:
        self.sleep_until(self.now + round(seconds * SECOND))

    def sleep_until(self, instant: int) -> None:
        """Let time pass; every alarm rings in time."""
        while self.alarms and self.alarms[0][0] <= instant:
            self.now = max(self.now, self.alarms[0][0])
            self.ring()
        self.now = instant

    def counts_as(self, event: Event) -> int:
        """The instant of an event: of an alarm that rings a little late, when it was due."""
        if isinstance(event, Tick) and event.due is not None:
            return max(event.due, self.now - TIMER_LATE_NS_MAX)
        return self.now

    # What a test looks at

    def waiting(self, name: str) -> list[Ticket]:
        return list(self.limits[name].line)

    def free(self, name: str) -> Fraction:
        limit = self.limits[name]
        return limit.limit - limit.held - spent(limit, self.now)

    def occupied(self, name: str) -> int:
        return self.limits[name].active_slots(self.now)

    # One step

    def apply(self, limit: Limit, event: Event) -> list[Effect]:
        """One event at one limit: what follows, without the Ticks asked for: they set alarms."""
        alive = [ticket for ticket in self.tickets if ticket.state is not State.ENDED]
        states = [ticket.state for ticket in alive]
        occupied = [_occupied(each, self.now) for each in self.ever]
        effects = limit.apply(event, self.now)
        for effect in effects:
            self._note(effect, self.counts_as(event))
        for ticket, state in zip(alive, states, strict=True):
            assert _ORDER.index(ticket.state) >= _ORDER.index(state), "a ticket only moves on"
            self._check_ticket(ticket)
        for each, before in zip(self.ever, occupied, strict=True):
            # No step takes a limit above its `limit`. One that is above, because it was lowered,
            # can only come down.
            assert _occupied(each, self.now) <= max(each.limit, before)
            self._check(each)
        return [effect for effect in effects if not isinstance(effect, words.WakeAt)]

    def _note(self, effect: Effect, instant: int) -> None:
        match effect:
            case words.WakeAt(limit=limit, instant=wake):
                assert wake > instant, "a Tick asked for now or in the past would spin"
                self._alarms_set += 1
                insort(self.alarms, (wake, self._alarms_set, limit))
            case words.Granted(ticket=ticket):
                assert ticket.granted_at == instant
                self.granted.append(ticket)
            case words.Refused(ticket=ticket, code=code, fields=fields):
                self.refusals[ticket.number] = code, fields
            case words.TimedOut(ticket=ticket, places=places):
                self.places[ticket.number] = places

    def _check(self, limit: Limit) -> None:
        held = [
            part.hold
            for ticket in limit.holders.values()
            for part in ticket.parts
            if part.limit is limit
        ]
        assert limit.held == sum(held)
        assert all(slots > 0 for slots in held)
        assert all(ticket.state is State.HELD for ticket in limit.holders.values())
        assert limit.level.units >= 0
        assert limit.slot_decay_per_second > 0 or limit.level.units == 0
        line = [ticket.number for ticket in limit.line]
        assert line == sorted(line)
        assert len(line) == len(limit.line)
        assert not (limit.deleted and line) or limit.goes_on, (
            "nobody waits for a limit that is gone"
        )
        alarms = [instant for instant, _, each in self.alarms if each is limit]
        assert len(alarms) == len(set(alarms)), "an alarm that is set already is set no second time"
        assert all(instant in alarms for instant in limit.wakes)
        assert all(instant <= self.now for instant in alarms if instant not in limit.wakes)

    def _check_ticket(self, ticket: Ticket) -> None:
        reached = self.stands[ticket]
        on_the_way = len(ticket.parts) - len(reached)
        for part in ticket.parts:
            stands = ticket in part.limit.line
            match ticket.state:
                case State.ARRIVING:
                    assert stands == (part.limit in reached)
                case State.WAITING:
                    assert stands, "who waits stands in all of its lines"
                case _:
                    assert not stands, "who goes, or ends, leaves all of its lines"
            on_the_books = ticket.number in part.limit.holders
            assert part.taken == on_the_books
            assert not part.taken or (ticket.state is State.HELD and part.hold > 0)
        if ticket.state is State.ARRIVING:
            assert ticket.missing == on_the_way > 0
        elif ticket.state in (State.WAITING, State.HELD):
            assert ticket.missing == on_the_way == 0


def states(*tickets: Ticket) -> str:
    """As in "held waiting"."""
    return " ".join(ticket.state.value for ticket in tickets)


def spent(limit: Limit, now: int) -> Fraction:
    """The spent slots at `now`, exactly, without letting time act on the limit itself."""
    level = limit.level
    if level.units and level.settled_at < now:
        level = copy(level)
        level.settle(now)
    return Fraction(level.units, level.unit)


def _occupied(limit: Limit, now: int) -> int:
    """Whole slots. A change of the rate may round a level up, but never past a whole slot."""
    return limit.held + ceil(spent(limit, now)) if limit.level.units else limit.held


def _slots(asked: Asked) -> dict[str, int]:
    if isinstance(asked, str):
        return {asked: 1}
    if isinstance(asked, Mapping):
        return dict(asked)
    return dict.fromkeys(asked, 1)
