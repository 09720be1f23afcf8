"""Name -> actor, and the way of a request to the actors of its limits and back.

A request over several limits is one ticket with one number of arrival. It is posted to each of its
actors, so it overtakes nobody, and the rules let it go only once it stands in all of its lines.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Hashable
from typing import Protocol, assert_never

from msgspec import Struct

from atmost import values
from atmost.errors import AcquireTimeout, InvalidValue, LimitInactive, LimitNotFound
from atmost.wire import Acquire, Keep
from atmostd import config
from atmostd.actor import Actor, Surroundings
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Clock, wall_time
from atmostd.declared import HAND, IMPLICIT, TEMPLATE, TemplateRows, Templates, Word
from atmostd.events import Events
from atmostd.implicit import Implicit
from atmostd.journal import Journal
from atmostd.limit import Limit
from atmostd.records import (
    Arrived,
    Declares,
    Edited,
    Gone,
    LimitDeleted,
    LimitIs,
    SpentReset,
    Went,
)
from atmostd.refusals import Refusals
from atmostd.snapshot import SavedDeclaration
from atmostd.templated import Templated
from atmostd.ticket import (
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
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


class Asker(Protocol):
    """Who makes requests: a session."""

    @property
    def pid(self) -> int: ...

    @property
    def uid(self) -> int: ...

    @property
    def user(self) -> str: ...

    @property
    def command(self) -> str: ...

    @property
    def ending(self) -> str:
        """How it ended, as long as it lets go for that: connection | process; empty: it lives."""

    def record(self) -> int:
        """Have the journal know who this is. Returns the serial that stands for it there."""

    def granted(self, ticket: Ticket) -> None: ...

    def refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None: ...

    def timed_out(self, ticket: Ticket, places: dict[str, int]) -> None: ...


class BrokenInvariant(Exception):
    """What can't be has happened: nothing in memory can be trusted any more."""


class Request(Struct, eq=False):
    """What the shell knows of a ticket: its `owner`."""

    asker: Asker
    number: int  # the client's own for it
    home: Actor
    by_process: bool  # outlives the connection
    token: int = 0  # once it is granted
    unguarded: list[str] = []  # limits that were inactive then
    kept: bool = False  # it was granted before; its asker knows
    arrived: Arrived | None = None  # for the journal: a checkpoint says it again
    over: bool = False  # it was refused or timed out, and that was told
    revoked: str = ""  # an operator has released it: who


class Registry:
    """All limits of this daemon."""

    def __init__(
        self,
        clock: Clock,
        turn: Turn,
        journal: Journal,
        wake_at: Callable[[Limit, int], None],
        crash: Callable[[BaseException], None],
        bounds: Bounds,
        refusals: Refusals,
    ) -> None:
        self.actors: dict[str, Actor] = {}
        self._deleted: dict[Limit, Actor] = {}  # whose Tick somebody may wait for still
        self.next_token = 1  # fencing tokens rise over all limits, so also over a limit made again
        self.tokens_low_at = 1  # where the tokens set aside on disk come to their end
        self.on_tokens_low = _nobody_listens
        self.on_spent = _nobody_listens  # levels on disk are out of date
        self.on_implicit = _nobody_listens  # limits on disk are out of date
        self.arrivals = 0  # the last number given to a ticket
        self.starts = 0  # of daemons, since the host started
        self.watched = False  # somebody is told of events
        self.events = Events(clock, wall_time, turn, bounds, refusals, self._set_watched)
        self._around = Surroundings(clock, turn, self._note, self.deliver, crash)
        self._note_record = journal.note
        self._wake_at = wake_at
        self._bounds = bounds
        self._refusals = refusals
        self._implicit = Implicit(bounds, refusals)
        self._templated = Templated(bounds, refusals, clock, self._forget_idle)
        self.templates = Templates()
        self.word = Word()  # what the configuration file last said

    def _set_watched(self, watched: bool) -> None:
        self.watched = watched

    # Limits

    def make(
        self,
        name: str,
        limit: int,
        slot_decay_per_second: float,
        active: bool,
        origin: str = HAND,
        made_by: int | None = None,
    ) -> Actor:
        """A new limit. Its name is valid and not taken. `made_by`: whose request has made it."""
        assert name not in self.actors
        now, waiters_max = self._around.clock(), self._bounds.waiters_per_limit
        rules = Limit(name, limit, slot_decay_per_second, active, now, waiters_max)
        actor = self.actors[name] = Actor(rules, origin, self._around)
        if origin == IMPLICIT:
            self._implicit.add(name, made_by)
        elif origin == TEMPLATE:
            self._templated.add(actor, made_by)
        self._note_record(limit_is(actor))
        if self.watched:
            self.events.of_limit("created", rules)
        return actor

    def set_origin(self, actor: Actor, origin: str) -> None:
        """Who has set this limit, from now on."""
        if origin == actor.origin:
            return
        name = actor.limit.name
        self._implicit.discard(name)
        self._templated.discard(name)
        actor.origin = origin
        if origin == IMPLICIT:
            self._implicit.add(name, None)
        elif origin == TEMPLATE:
            self._templated.add(actor, None)

    def declare(
        self, word: Word, templates: TemplateRows, said: list[SavedDeclaration] | None = None
    ) -> None:
        """What the configuration file says now, and the templates in force. `said`: its limits, encoded
        already."""
        self.word = word
        if templates != self.templates.rows:
            self.templates = Templates(templates)
        self._note_record(self.declares(said))

    def declares(self, said: list[SavedDeclaration] | None = None) -> Declares:
        """The same for the journal."""
        word = self.word
        said_limits = list(word.limits.values()) if said is None else said
        return Declares(list(self.templates.rows), said_limits, list(word.templates))

    def made_by_requests(self) -> list[str]:
        """The names of all limits that nobody has declared: their templates have made them, or nobody."""
        return [*self._templated.names, *self._implicit]

    def ghost(self, name: str) -> Actor:
        """A limit that is deleted, for a ticket that outlived it."""
        rules = Limit(name, 0, 0.0, False, self._around.clock())
        rules.deleted = True
        return Actor(rules, HAND, self._around)

    def forget(self, name: str) -> None:
        """The name is free again; the actor itself ends by its Delete."""
        actor = self.actors.pop(name)
        if actor.limit.is_awaited or actor.has_messages:
            self._forget_deleted()
            self._deleted[actor.limit] = actor
        if self.watched:
            self.events.of_limit("deleted", actor.limit)
        self._implicit.discard(name)
        self._templated.discard(name)
        self._note_record(LimitDeleted(name))

    def some_wait_in_vain(self) -> bool:
        """Whether not all who waited for a limit that was deleted have been told so yet."""
        self._forget_deleted()
        return any(limit.line for limit in self._deleted)

    def _forget_deleted(self) -> None:
        for limit, actor in list(self._deleted.items()):
            if not (actor.has_messages or limit.is_awaited):
                del self._deleted[limit]

    def ring(self, limit: Limit, due: int) -> None:
        """The instant has come that this limit asked to be woken at."""
        actor = self.actors.get(limit.name)
        if actor is None or actor.limit is not limit:
            actor = self._deleted.get(limit)
        if actor is not None:
            actor.post(Tick(due))

    def stop(self) -> None:
        for actor in self.actors.values():
            actor.stop()

    # Requests

    def acquire(self, asker: Asker, asked: Acquire, inside: tuple[Ticket, ...]) -> Ticket:
        """Put a request into the lines of its limits. What becomes of it, the asker is told.

        Raises InvalidValue, LimitNotFound or LimitInactive; then nothing was made or changed.
        """
        hold, spend = asked.hold, asked.spend
        names = [*hold, *spend]
        if len(names) > 1:
            names = sorted(set(names))
        _check_values(asked.request, names, hold, spend)
        timeout = asked.timeout_seconds
        if timeout is not None:
            values.check_timeout(timeout)
        homes = self._find_or_make(names, asked.strict, asker)
        now = self._around.clock()
        deadline = None
        if timeout is not None and timeout <= config.WAIT_SECONDS_MAX:
            deadline = now + int(timeout * NANOSECONDS)
        self.arrivals += 1
        request = Request(asker, asked.request, homes[0], asked.by_process)
        ticket = ticket_of(
            self.arrivals, hold, spend, homes, now, deadline, asked.strict, inside, request
        )
        self._note_arrival(ticket, hold, spend)
        arrive = Arrive(ticket)
        for home in homes:
            home.post(arrive)
        if self.watched:
            self.events.arrived(ticket)
        return ticket

    def too_late(self, asked: Acquire) -> AcquireTimeout:
        """What became of a request that is said again when its time is up, and of which nothing is
        known: it was not granted in time. Raises InvalidValue."""
        slots = {
            name: asked.hold.get(name, 0) + asked.spend.get(name, 0)
            for name in sorted(asked.hold.keys() | asked.spend.keys())
        }
        _check_values(asked.request, list(slots), asked.hold, asked.spend)
        for name in slots:
            values.check_name(name)
        return AcquireTimeout(slots, asked.timeout_seconds or 0.0, places={})

    def readmit(self, asker: Asker, keep: Keep) -> Ticket:
        """Put a holder on the books of which no record was left; if its slots are not free any more,
        it is told that its grant was lost."""
        names = sorted(keep.hold)
        _check_values(keep.request, names, keep.hold, {})
        homes = [
            self.actors.get(name) or self._make_by_template(name, asker) or self.ghost(name)
            for name in names
        ]
        now = self._around.clock()
        self.arrivals += 1
        request = Request(asker, keep.request, homes[0], keep.by_process, keep.token, kept=True)
        ticket = ticket_of(self.arrivals, keep.hold, {}, homes, now, None, False, (), request)
        self._note_arrival(ticket, keep.hold, {})
        homes[0].post(Readmit(ticket))
        return ticket

    def let_go(self, ticket: Ticket) -> None:
        """Whatever the ticket has: slots, places in line, or nothing."""
        request: Request = ticket.owner
        request.home.post(LetGo(ticket))

    def held_by_token(self, token: int) -> list[Ticket]:
        """Who holds slots under this token: one, unless a client that came back said what is not so."""
        found = {
            number: ticket
            for actor in self.actors.values()
            for number, ticket in actor.limit.holders.items()
            if request_of(ticket).token == token
        }
        return list(found.values())

    def _find_or_make(self, names: list[str], strict: bool, asker: Asker) -> list[Actor]:
        actors = self.actors
        try:
            homes = [actors[name] for name in names]
        except KeyError:
            self._make_missing(names, strict, asker)
            homes = [actors[name] for name in names]
        if strict:
            try:
                _check_active(homes)
            except LimitInactive as error:
                for name in error.names:
                    self._refused_at_once(actors[name].limit, asker, LimitInactive.code)
                raise
        return homes

    def _make_missing(self, names: list[str], strict: bool, asker: Asker) -> None:
        missing: list[str] = []
        by_template: list[str] = []
        for name in names:
            if name not in self.actors:
                values.check_name(name)
                (by_template if self.templates.first(name) else missing).append(name)
        if strict and missing:
            raise LimitNotFound(missing)
        if strict:  # before any is made: what is refused leaves nothing behind
            _check_active([self.actors[name] for name in names if name in self.actors])
        if by_template:
            self._templated.make_room(len(by_template), asker.uid, names)
        going = self._implicit.room_for(len(missing), asker.uid, self.actors, names)
        for name in going:
            idle = self.actors[name]
            self.forget(name)
            idle.post(Delete())
        for name in by_template:
            self._make_by_template(name, asker)
        for name in missing:
            self._make_implicitly(name, asker)
            if not going:
                _warn_of_implicit(name, asker)
        if going:  # from now on there might be such lines without end
            self._refusals.complain(
                "forgotten",
                f"requests have made so many limits that unused ones of them are forgotten, such as "
                f"{going[0]!r}; the last one was made by pid {asker.pid}, {asker.command}",
            )

    def _make_implicitly(self, name: str, asker: Asker) -> None:
        """semantics.md 2: a missing limit is created with limit=1, inactive, and the body runs."""
        self.make(name, config.IMPLICIT_LIMIT, 0.0, False, IMPLICIT, asker.uid)
        self.on_implicit()

    def _make_by_template(self, name: str, asker: Asker) -> Actor | None:
        """The limit that its template makes of a name; None: it has none. It is in the journal before
        anybody is granted a slot of it, and that is enough: a reboot forgets it, but for what is spent."""
        declared = self.templates.declared(name)
        if declared is None:
            return None
        rate = declared.slot_decay_per_second
        return self.make(name, declared.limit, rate, True, TEMPLATE, asker.uid)

    def _may_be_idle(self, ticket: Ticket) -> None:
        """Limits that templates have made are forgotten once nobody needs them."""
        for part in ticket.parts:
            self._templated.look_at(part.limit.name)

    def _forget_idle(self, idle: Actor) -> None:
        self.forget(idle.limit.name)
        idle.post(Delete())

    # The journal

    def _note_arrival(self, ticket: Ticket, hold: dict[str, int], spend: dict[str, int]) -> None:
        request: Request = ticket.owner
        request.arrived = arrived = Arrived(
            ticket.number,
            request.asker.record(),
            request.number,
            hold,
            spend,
            ticket.asked_at,
            ticket.deadline,
            ticket.strict,
            [outer.number for outer in ticket.inside] if ticket.inside else [],
            request.by_process,
            request.kept,
        )
        self._note_record(arrived)

    def _note(self, actor: Actor, event: Event, now: int) -> None:
        """What an event changed, for the journal; what effects tell is not said twice."""
        match event:
            case LetGo(ticket=ticket):
                self._note_record(Gone(ticket.number))
                self._let_go(ticket, now)
                if self._templated:
                    self._may_be_idle(ticket)
            case Reset():
                if self.actors.get(actor.limit.name) is actor:
                    self._note_record(SpentReset(actor.limit.name, now))
                    self._templated.look_at(actor.limit.name)
                    self.on_implicit()
            case Edit() if self.actors.get(actor.limit.name) is actor:
                # Not the level as it is: those who go by this very edit are told of one by one.
                self._templated.look_at(actor.limit.name)
                limit = actor.limit
                rate = event.slot_decay_per_second
                self._note_record(
                    Edited(
                        *(limit.name, limit.limit, rate, limit.active),
                        *(actor.implicit, now, actor.origin),
                    )
                )
                if self.watched:
                    self.events.of_limit("changed", limit)

    def _let_go(self, ticket: Ticket, now: int) -> None:
        """A ticket has nothing any more. Counted; and told, if somebody watches."""
        request: Request = ticket.owner
        granted_at = ticket.granted_at
        if granted_at:
            held = now - granted_at
            if held < 0:
                held = 0
            for part in ticket.parts:
                if part.hold:
                    part.limit.tally.released(held)
            ending = request.asker.ending
            if ending or self.watched:
                self._released(ticket, held, ending)
        elif not request.over:
            self._cancelled(ticket)

    def _released(self, ticket: Ticket, held: int, ending: str) -> None:
        request: Request = ticket.owner
        holds = [part.limit for part in ticket.parts if part.hold]
        died = ending == "process" and not request.by_process  # else that is its proper end
        if died:
            for limit in holds:
                limit.tally.deaths += 1
        if holds and self.watched:
            reason = request.revoked or (f"its {ending} ended" if ending else "")
            self.events.of_ticket("died" if died else "released", ticket, reason, held)

    def _cancelled(self, ticket: Ticket) -> None:
        for part in ticket.parts:
            part.limit.tally.cancels += 1
        if self.watched:
            ending = request_of(ticket).asker.ending
            self.events.of_ticket("cancelled", ticket, f"its {ending} ended" if ending else "")

    def _refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None:
        """Counted where the reason lies: at the limits that it names."""
        request_of(ticket).over = True
        names = fields.get("names", fields.get("name"))
        named = names if isinstance(names, list) else [names]
        guilty = [part.limit for part in ticket.parts if part.limit.name in named]
        for limit in guilty or [ticket.home]:
            limit.tally.refused(code)
            if self.watched:
                self.events.of_ticket("refused", ticket, code, only=limit.name)

    def _refused_at_once(self, limit: Limit, asker: Asker, code: str) -> None:
        """Before there was a ticket of it."""
        limit.tally.refused(code)
        if self.watched:
            self.events.of_asker("refused", limit, asker, code)

    def _timed_out(self, ticket: Ticket) -> None:
        request_of(ticket).over = True
        for part in ticket.parts:
            part.limit.tally.timeouts += 1
        if self.watched:
            self.events.of_ticket("timed_out", ticket)

    def forget_outcome(self, ticket: Ticket) -> None:
        """Its asker has seen what became of it, and nothing is left to let go of."""
        self._note_record(Gone(ticket.number))

    # Effects

    def deliver(self, effect: Effect) -> None:
        """Take an effect of the rules to whom it concerns."""
        match effect:
            case Granted(ticket=ticket):
                self._granted(ticket)
            case Refused(ticket=ticket, code=code, fields=fields):
                self._note_record(Gone(ticket.number))
                if self._templated:
                    self._may_be_idle(ticket)
                self._refused(ticket, code, fields)
                request_of(ticket).asker.refused(ticket, code, fields)
            case TimedOut(ticket=ticket, places=places):
                self._note_record(Gone(ticket.number))
                if self._templated:
                    self._may_be_idle(ticket)
                self._timed_out(ticket)
                request_of(ticket).asker.timed_out(ticket, places)
            case WakeAt(limit=limit, instant=instant):
                self._wake_at(limit, instant)
            case _:
                assert_never(effect)

    def _granted(self, ticket: Ticket) -> None:
        request: Request = ticket.owner
        if not request.kept:
            if request.token:
                raise BrokenInvariant(f"ticket {ticket.number} was granted twice")
            request.token = token = self.next_token
            self.next_token = token + 1
            if token >= self.tokens_low_at:
                self.on_tokens_low()
        waited = ticket.granted_at - ticket.asked_at
        if waited < 0:  # by a timer that rang late
            waited = 0
        for part in ticket.parts:
            limit = part.limit
            limit.tally.granted(waited)
            if not limit.active:
                request.unguarded = [p.limit.name for p in ticket.parts if not p.limit.active]
                continue
            if part.taken and limit.held > limit.limit:
                raise BrokenInvariant(
                    f"{limit.held} slots of {limit.name!r} are held, of {limit.limit}"
                )
            if part.spend:
                self.on_spent()
                if self._templated:
                    self._templated.look_at(limit.name)
        self._note_record(Went(ticket.number, request.token, ticket.granted_at, request.unguarded))
        if self.watched:
            self.events.of_ticket("granted", ticket)
        request.asker.granted(ticket)


def ticket_of(
    number: int,
    hold: dict[str, int],
    spend: dict[str, int],
    homes: list[Actor],
    asked_at: int,
    deadline: int | None,
    strict: bool,
    inside: tuple[Ticket, ...],
    request: Request,
) -> Ticket:
    """A request as the rules see it. `homes`: its limits, in the order of their names."""
    parts = []
    for home in homes:
        limit = home.limit
        parts.append(Part(limit, hold.get(limit.name, 0), spend.get(limit.name, 0)))
    shape: Hashable = parts[0].slots
    if len(parts) > 1:
        shape = tuple((part.limit.name, part.slots) for part in parts)
    return Ticket(
        number, tuple(parts), shape, asked_at, deadline, strict, inside, request, missing=len(parts)
    )


def limit_is(actor: Actor) -> LimitIs:
    """The limit for the journal, as it is now."""
    limit = actor.limit
    return LimitIs(
        name=limit.name,
        limit=limit.limit,
        slot_decay_per_second=limit.slot_decay_per_second,
        active=limit.active,
        implicit=actor.implicit,
        spent_units=str(limit.level.units),
        settled_at=limit.level.settled_at,
        passers=list(limit.passers),
        origin=actor.origin,
    )


def request_of(ticket: Ticket) -> Request:
    """What the shell knows of a ticket."""
    request: Request = ticket.owner
    return request


def _check_active(homes: list[Actor]) -> None:
    """strict=True never runs unguarded. Raises LimitInactive."""
    inactive = [home.limit.name for home in homes if not home.limit.active]
    if inactive:
        raise LimitInactive(inactive)


def _warn_of_implicit(name: str, asker: Asker) -> None:
    _log.warning(
        "limit %r was made, inactive, by its first use (pid %d, %s): nothing is enforced; "
        "activate it with: atmost update %s --limit N --enable",
        name,
        asker.pid,
        asker.command,
        shlex.quote(name),
        extra={"limit": name, "bounded": True},
    )


def _nobody_listens() -> None:
    """What the hooks are until Configuration takes them."""


def _check_values(
    request: int, names: list[str], hold: dict[str, int], spend: dict[str, int]
) -> None:
    """What a well-behaved client has checked before."""
    if request < 1:
        raise InvalidValue("request", str(request), "a whole number >= 1")
    if not names:
        raise InvalidValue("hold", "{}", "slots of at least one limit, in hold or spend")
    if len(names) > values.NAMES_MAX:
        raise InvalidValue("hold", str(len(names)), f"at most {values.NAMES_MAX} limits")
    for slots in (*hold.values(), *spend.values()):
        if not 1 <= slots <= values.COUNT_MAX:
            values.check_slots(slots)
