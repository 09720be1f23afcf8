"""What the journal says becomes what is true, and what is true becomes a checkpoint.

Rule 1: replaying decides nothing: it repeats what was decided, through the same functions of the
rules. Only then is looked at who may go now.
Rule 2: a holder stays on the books while its process lives, whether or not it has come back.
Rule 3: of settings, the state folder has the last word: they were written there first. Of holders,
waiters and levels the journal has it. A limit that only the journal knows is one that a request has
made; any other was deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from atmostd.actor import Actor
from atmostd.declared import HAND, IMPLICIT, Word
from atmostd.grants import hold_again, leave, take
from atmostd.records import (
    AnyRecord,
    Arrived,
    Counted,
    Declares,
    Edited,
    Gone,
    LimitDeleted,
    LimitIs,
    Record,
    Revoked,
    SessionBegan,
    SessionEnded,
    SpentReset,
    Stands,
    Went,
)
from atmostd.registry import Registry, Request, limit_is, request_of, ticket_of
from atmostd.session import Session, Sessions
from atmostd.ticket import ENDED, HELD, State, Tick, Ticket


def replay(recorded: Iterable[AnyRecord], registry: Registry, sessions: Sessions) -> None:
    """Make true what was recorded, in an empty registry."""
    Recovery(registry, sessions).replay(recorded)


def forget_waiters(sessions: Sessions) -> None:
    """Where others may hold than the journal says, nobody in it may go before those were heard. Who
    waits will say so again, and is heard after them."""
    for session in sessions:
        for ticket in list(session.tickets.values()):
            if ticket.state is State.WAITING:
                leave(ticket)
                session.drop(ticket)


def go_on(registry: Registry) -> None:
    """Whoever may go now goes, and who waits in vain or whose time is up is told: once settings and
    holders are known. The daemon before may have died in the midst of that."""
    for actor in registry.actors.values():
        if actor.limit.line:
            actor.limit.doubt_all()
            actor.post(Tick())


def checkpoint(registry: Registry, sessions: Sessions) -> Iterator[Record]:
    """All that is true now. Replayed, it gives the same."""
    yield Counted(registry.arrivals, registry.next_token, registry.starts)
    yield registry.declares()
    for actor in registry.actors.values():
        yield limit_is(actor)
    tickets: list[Ticket] = []
    ended: list[SessionEnded] = []
    for session in sessions:
        session.record_anew()
        if session.tickets or session.revoked:
            if session.has_ended:
                ended.append(SessionEnded(session.began.serial))
            session.record()
            yield session.began
            tickets += session.tickets.values()
            yield from session.revoked.values()
    if registry.some_wait_in_vain():
        tickets = [ticket for ticket in tickets if not _waits_in_vain(ticket)]
    tickets.sort(key=_by_number)
    for ticket in tickets:
        request: Request = ticket.owner
        assert request.arrived is not None
        yield request.arrived
        if ticket.state is HELD or ticket.state is ENDED:
            yield Stands(
                ticket.number,
                request.token,
                ticket.granted_at,
                [p.limit.name for p in ticket.parts if p.taken and not p.limit.deleted],
                request.unguarded,
            )
    yield from ended  # after their tickets, of which later records may tell


_by_number = attrgetter("number")


def _waits_in_vain(ticket: Ticket) -> bool:
    """Whether it will be told that a limit is deleted. After a restart it is not there any more, as if it
    had been told already: the name may be another limit's then."""
    return ticket.state is State.WAITING and any(part.limit.deleted for part in ticket.parts)


class Recovery:
    """The records, one after another."""

    def __init__(self, registry: Registry, sessions: Sessions) -> None:
        self._registry = registry
        self._sessions = sessions
        self._clients: dict[int, Session | None] = {}  # by serial; None: its process has died
        self._tickets: dict[int, Ticket] = {}  # by number

    def replay(self, recorded: Iterable[AnyRecord]) -> None:
        for record in recorded:
            self._take(record)
        for ticket in list(self._tickets.values()):
            if request_of(ticket).asker is _NOBODY:
                leave(ticket)
            elif _waits_in_vain(ticket):
                self._gone(ticket.number)
        self._let_go_of_what_slates_say()
        self._sessions.end_idle(list(self._sessions))
        self._sessions.slates.keep_only(session.began.session for session in self._sessions)

    def _let_go_of_what_slates_say(self) -> None:
        """Releases that the daemon before had not read, or not written down."""
        for session in self._sessions:
            for request in self._sessions.slates.read(session.began.session, session.uid):
                ticket = session.tickets.get(request)
                if ticket is not None:
                    leave(ticket)
                    session.drop(ticket)

    def _take(self, record: AnyRecord) -> None:
        match record:
            case SessionBegan(serial=serial):
                # Told twice where a roll-over failed: who was idle then is told of anew.
                if serial not in self._clients:
                    self._clients[serial] = self._sessions.again(record)
            case SessionEnded(serial=serial):
                session = self._clients.pop(serial, None)
                if session is not None:
                    for ticket in session.tickets.values():
                        # It is Gone by a later record, or in the end.
                        request_of(ticket).asker = _NOBODY
                    session.tickets.clear()
                    session.revoked.clear()
                    self._sessions.end_idle([session])
            case LimitIs():
                self._limit_is(record)
            case Edited(name=name):
                actor = self._registry.actors[name]
                self._registry.set_origin(actor, _origin(record))
                actor.limit.set_again(
                    record.limit, record.slot_decay_per_second, record.active, record.at
                )
            case Declares(said_limits=limits, said_templates=templates):
                word = Word({said.name: said for said in limits}, tuple(templates))
                self._registry.declare(word, tuple(record.templates))
            case LimitDeleted(name=name):
                if name in self._registry.actors:
                    self._registry.actors[name].limit.deleted = True
                    self._registry.forget(name)
            case Arrived():
                self._arrived(record)
            case Went():
                self._went(record)
            case Stands():
                self._stands(record)
            case Gone(number=number):
                self._gone(number)
            case SpentReset(name=name, at=at):
                self._registry.actors[name].limit.empty_again(at)
            case Revoked(serial=serial, request=request):
                session = self._clients.get(serial)
                if session is not None:
                    session.revoked[request] = record
            case Counted(arrivals=arrivals, next_token=next_token, starts=starts):
                self._counted(arrivals, next_token)
                self._registry.starts = starts

    def _limit_is(self, record: LimitIs) -> None:
        actor = self._registry.actors.get(record.name)
        if actor is None:
            actor = self._registry.make(
                record.name,
                record.limit,
                record.slot_decay_per_second,
                record.active,
                _origin(record),
            )
        self._registry.set_origin(actor, _origin(record))
        actor.limit.put_back(
            record.limit,
            record.active,
            record.slot_decay_per_second,
            int(record.spent_units),
            record.settled_at,
            record.passers,
        )

    def _arrived(self, record: Arrived) -> None:
        session = self._clients.get(record.serial)
        names = sorted(record.hold.keys() | record.spend.keys())
        homes = [self._home(name) for name in names]
        ticket = ticket_of(
            record.number,
            record.hold,
            record.spend,
            homes,
            record.asked_at,
            record.deadline,
            record.strict,
            tuple(self._tickets[n] for n in record.inside if n in self._tickets),
            Request(
                session or _NOBODY,
                record.request,
                homes[0],
                record.by_process,
                kept=record.kept,
                arrived=record,
            ),
        )
        ticket.state = State.WAITING
        ticket.missing = 0
        for home in homes:
            home.limit.stand_again(ticket)
        self._tickets[record.number] = ticket
        if session is not None:
            session.take_up(record.request, ticket)
        self._counted(record.number, 0)

    def _home(self, name: str) -> Actor:
        return self._registry.actors.get(name) or self._registry.ghost(name)

    def _went(self, record: Went) -> None:
        ticket = self._tickets[record.number]
        request = request_of(ticket)
        request.token = record.token
        request.unguarded = record.unguarded
        take(ticket, record.at)
        self._granted(ticket)
        if not request.kept:
            self._counted(0, record.token + 1)

    def _stands(self, record: Stands) -> None:
        ticket = self._tickets[record.number]
        request = request_of(ticket)
        request.token = record.token
        request.unguarded = record.unguarded
        hold_again(ticket, record.taken, record.at)
        self._granted(ticket)

    def _granted(self, ticket: Ticket) -> None:
        request = request_of(ticket)
        if ticket.state is State.ENDED and isinstance(request.asker, Session):
            request.asker.keep_outcome(ticket)

    def _gone(self, number: int) -> None:
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            leave(ticket)
            request = request_of(ticket)
            if isinstance(request.asker, Session):
                request.asker.drop(ticket)

    def _counted(self, arrivals: int, next_token: int) -> None:
        registry = self._registry
        registry.arrivals = max(registry.arrivals, arrivals)
        registry.next_token = max(registry.next_token, next_token)


def _origin(record: LimitIs | Edited) -> str:
    return record.origin or (IMPLICIT if record.implicit else HAND)


class _Nobody:
    """The asker of tickets whose process has died."""

    pid = 0
    uid = -1
    user = ""
    command = ""
    ending = "process"

    def record(self) -> int:
        return 0

    def granted(self, ticket: Ticket) -> None: ...

    def refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None: ...

    def timed_out(self, ticket: Ticket, places: dict[str, int]) -> None: ...


_NOBODY = _Nobody()
