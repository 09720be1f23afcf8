"""One client process: what it holds and waits for, across connections and restarts of the daemon.

Rule 1: the end of a session lets go of each of its tickets by the same message that a client sends.
There is no second clean-up path.
Rule 2: a session ends when its client ends the connection or when its process dies, whichever comes
first: a forked child can hold the connection open. What is bound to the process alone (`by_process`)
lives on until that dies. When the daemon ends the connection, the session lives on as well.
Rule 3: a client that comes back says what it still has; what it does not name is let go of. So
whatever was lost on the way, an answer or a release, is made good by comparing states.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from atmost import errors, wire
from atmost.errors import AtmostError, GrantLost, ProtocolError, TooMany
from atmost.wire import Acquire, Done, Failed, Granted, Hello, Keep, Release, Resume
from atmostd import config, listing
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Clock
from atmostd.door import Door
from atmostd.peer import Peer, Processes
from atmostd.records import Revoked, SessionBegan, SessionEnded
from atmostd.refusals import Refusals
from atmostd.registry import Registry, Request, request_of
from atmostd.slates import Slates
from atmostd.ticket import ARRIVING, ENDED, HELD, WAITING, Ticket


class Notes(Protocol):
    """Who remembers: the journal."""

    def note(self, record: SessionBegan | SessionEnded | Revoked) -> None: ...


class Line(Protocol):
    """A connection, as its session sees it."""

    @property
    def order(self) -> int:
        """In which it was accepted: a later one has a greater number."""

    def send(self, message: wire.Message) -> None: ...

    def cut(self) -> None:
        """End it at once."""

    def stop_watching(self, request: int) -> None:
        """No longer tell it what happens; if this request never asked for that, it is no error."""


class Session:
    """From its hello to its end."""

    def __init__(self, sessions: Sessions, began: SessionBegan, peer: Peer) -> None:
        self.tickets: dict[int, Ticket] = {}  # by the client's own number, until they end
        self.began = began
        self.ending = ""  # registry.Asker
        self.revoked: dict[
            int, Revoked
        ] = {}  # grants that are released, and the client may not know
        self._sessions = sessions
        self._bounds = sessions.bounds
        self._peer = peer
        self._line: Line | None = None  # None: the client has not come back yet
        self._unnamed: set[int] = set()  # requests from before this connection
        self._unclaimed: set[int] = set()  # of those that were revoked before it
        self._waiting: set[int] = set()  # requests that are in line, as far as we were told
        self._spent: dict[int, None] = {}  # requests that only spent: kept until they are seen
        self._recorded = False  # the journal knows who this is
        self.has_ended = False  # and nothing will be left of it
        self._is_over = False  # forgotten
        self._going: list[int] = []  # requests that are still to be let go of, the next one last
        sessions.loop.add_reader(peer.pidfd, self._process_died)

    # Who it is

    @property
    def pid(self) -> int:
        """The kernel's word; the client's own if its process is of another pid namespace."""
        return self.began.pid or self.began.pid_told

    @property
    def uid(self) -> int:
        return self._peer.uid

    @property
    def user(self) -> str:
        return self.began.user

    @property
    def command(self) -> str:
        return self.began.command

    def is_of(self, peer: Peer) -> bool:
        """Whether it is this process's."""
        return self._peer.is_same(peer)

    def record(self) -> int:
        """Have the journal know who this is. Returns the serial that stands for it there."""
        if not self._recorded:
            self._recorded = True
            self._sessions.notes.note(self.began)
        return self.began.serial

    def record_anew(self) -> None:
        """A new journal knows nothing of us: a client without a ticket is not in its checkpoint."""
        self._recorded = False

    # Its connection

    @property
    def connected(self) -> bool:
        return self._line is not None

    def attach(self, line: Line) -> None:
        """The client is here, for the first time or again. A hello that we come to read after that of a
        later connection is one that the client has given up."""
        before = self._line
        if before is not None and line.order < before.order:
            line.cut()
            return
        self._line = line
        if before is not None:
            before.cut()
        self._unnamed = set(self.tickets)
        self._unclaimed = set(self.revoked)
        self._waiting = {
            request
            for request, ticket in self.tickets.items()
            if ticket.state in (ARRIVING, WAITING)
        }

    def detach(self, line: Line) -> None:
        """We have ended this connection: the client will come back, if it has anything."""
        if self._line is line:
            self._line = None
            self._end_if_idle()

    def leave(self, line: Line) -> None:
        """The client has ended this connection, and so its session."""
        if self._line is not line:
            return  # it has come back on another one
        self._line = None
        self.ending = "process" if self.tickets and self._peer.is_ending() else "connection"
        self._let_go_of_all(
            request
            for request, ticket in self.tickets.items()
            if not (request_of(ticket).by_process and ticket.state is HELD)
        )

    def _process_died(self) -> None:
        self._sessions.loop.remove_reader(self._peer.pidfd)  # it would tell so in every turn
        self.ending = "process"
        self._let_go_of_all(self.tickets)
        line, self._line = self._line, None
        if line is not None:
            line.cut()  # a child of it may still hold the other end
        self._end_if_idle()

    def _let_go_of_all(self, requests: Iterable[int]) -> None:
        """What others wait for first. They may be thousands, so it takes several turns."""
        self.revoked.clear()
        self._going = sorted(requests, key=lambda request: self.tickets[request].state is not HELD)
        self._going.reverse()
        self.has_ended = len(self._going) == len(self.tickets)
        self._sessions.endings.add(self)
        if self._going and self.has_ended:
            self._note_end()  # so that the next daemon lets go of the rest, if we do not come to it

    def end_some(self, at_most: int) -> int:
        """Let go of no more tickets than that. Returns how many it were."""
        count = 0
        while self._going and count < at_most:
            request = self._going.pop()
            if request in self.tickets:  # else it was refused, or timed out, meanwhile
                self._let_go(request)
                count += 1
        if not self._going:
            self._end_if_idle()
        return count

    @property
    def is_going(self) -> bool:
        """Whether it has not let go yet of all that it shall."""
        return bool(self._going)

    def _end_if_idle(self) -> None:
        if self._line is None:
            self._sessions.drop_held_back(self)
        if not self.tickets and not self.revoked and self._line is None and not self._is_over:
            self._is_over = True
            self._sessions.forget(self)
            self._sessions.loop.remove_reader(self._peer.pidfd)
            self._peer.close()
            self._note_end()

    def _note_end(self) -> None:
        if self._recorded:
            self._sessions.notes.note(SessionEnded(self.began.serial))

    # Messages

    def acquire(self, message: Acquire) -> None:
        """Ask for slots, or ask again for what was asked before the connection was lost."""
        for seen in message.seen:
            self._forget_outcome(seen)
        known = self.tickets.get(message.request)
        if known is not None:
            self._name(message.request)
            if known.state in (HELD, ENDED):
                self._tell_granted(known)
            return
        if self.revoked and message.request in self.revoked:
            self._tell_revoked(message.request)
            return
        if message.late:
            raise self._sessions.registry.too_late(message)
        waiting = self._waiting
        if len(self.tickets) >= self._bounds.requests_per_connection:
            raise self._too_many_requests()
        if len(waiting) >= self._bounds.waiters_per_connection:
            raise self._too_many("waiters_per_connection", "waiting requests of this client")
        if self._sessions.held_back is not None:
            self._sessions.held_back.append((self, message))
            waiting.add(message.request)
            return
        inside: tuple[Ticket, ...] = ()
        if message.inside:
            inside = tuple([self.tickets[n] for n in message.inside if n in self.tickets])
        self.tickets[message.request] = self._sessions.registry.acquire(self, message, inside)
        waiting.add(message.request)

    def release(self, message: Release) -> None:
        """Let go of whatever the request has."""
        if message.request in self.tickets:
            self._let_go(message.request)
        elif self._sessions.held_back is not None:
            self._waiting.discard(message.request)
            self._sessions.drop_held_back(self, message.request)
        elif self._line is not None:
            self._line.stop_watching(message.request)

    def acquire_at_last(self, message: Acquire) -> None:
        """What was held back."""
        self._waiting.discard(message.request)
        try:
            self.acquire(message)
        except AtmostError as error:
            self._fail(message.request, error)

    def keep(self, message: Keep) -> None:
        """The client holds this, whatever we know of it."""
        known = self.tickets.get(message.request)
        if known is not None:
            self._name(message.request)
            if known.state is HELD:
                return
            self._let_go(message.request)
        if message.request in self.revoked:
            self._tell_revoked(message.request)
            return
        if len(self.tickets) >= self._bounds.requests_per_connection:
            raise self._too_many_requests()
        self.tickets[message.request] = self._sessions.registry.readmit(self, message)

    def resume(self, message: Resume) -> None:
        """Nothing else is left of what it had."""
        for request in self._unnamed:
            if request in self.tickets:
                self._let_go(request)
        self._unnamed = set()
        for request in self._unclaimed:  # it knows that it does not hold them
            self.revoked.pop(request, None)
        self._unclaimed = set()
        self._send(Done(message.request))

    def revoke(self, ticket: Ticket, reason: str) -> None:
        """An operator releases this grant. The client is told, now or as soon as it is back."""
        request = request_of(ticket)
        names = [part.limit.name for part in ticket.parts if part.hold]
        revoked = Revoked(self.record(), request.number, names, reason)
        self._sessions.notes.note(revoked)
        self.revoked[request.number] = revoked
        request.revoked = reason
        self._tell_revoked(request.number)
        self._let_go(request.number)

    def _tell_revoked(self, request: int) -> None:
        self._unclaimed.discard(request)
        revoked = self.revoked[request]
        self._fail(request, GrantLost(revoked.names, revoked.reason))

    def _name(self, request: int) -> None:
        if request not in self._unnamed:
            raise ProtocolError(f"request {request} is in use")
        self._unnamed.discard(request)

    def _too_many_requests(self) -> TooMany:
        what = "grants and waiting requests of this client"
        return self._too_many("requests_per_connection", what)

    def _too_many(self, setting: str, what: str) -> TooMany:
        who = f"pid {self.pid}, {self.command}"
        return self._sessions.refusals.too_many(setting, what, who)

    def _let_go(self, request: int) -> None:
        self._waiting.discard(request)
        self._spent.pop(request, None)
        self._sessions.registry.let_go(self.tickets.pop(request))

    def _forget_outcome(self, request: int) -> None:
        if request in self._spent:
            del self._spent[request]
            self._sessions.registry.forget_outcome(self.tickets.pop(request))

    # What became of requests

    def granted(self, ticket: Ticket) -> None:
        request: Request = ticket.owner
        number = request.number
        if self.tickets.get(number, ticket) is not ticket:
            return  # let go of in this very turn, and another has its number now
        self._waiting.discard(number)
        if ticket.state is ENDED:  # spent: there is nothing to let go of
            self.keep_outcome(ticket)
        if not request.kept:
            self._tell_granted(ticket)

    def _is_ours(self, ticket: Ticket) -> bool:
        """Not when it has been let go of meanwhile: another may have its number now."""
        return self.tickets.get(request_of(ticket).number) is ticket

    def keep_outcome(self, ticket: Ticket) -> None:
        """It may have to be told again."""
        if self._is_ours(ticket):
            self._spent[request_of(ticket).number] = None
            if len(self._spent) > config.SPENT_KEPT_MAX:
                self._forget_outcome(next(iter(self._spent)))

    def take_up(self, request: int, ticket: Ticket) -> None:
        """In a replay: it asks this, and no longer what had this number before."""
        self._spent.pop(request, None)
        self.tickets[request] = ticket

    def drop(self, ticket: Ticket) -> None:
        """In a replay: it has ended."""
        if self._is_ours(ticket):
            request = request_of(ticket).number
            self._spent.pop(request, None)
            del self.tickets[request]

    def refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None:
        if not self._is_ours(ticket):
            return
        request = request_of(ticket).number
        self._waiting.discard(request)
        del self.tickets[request]
        self._fail(request, errors.from_wire(code, code, fields))

    def timed_out(self, ticket: Ticket, places: dict[str, int]) -> None:
        if not self._is_ours(ticket):
            return
        request = request_of(ticket).number
        self._waiting.discard(request)
        del self.tickets[request]
        now = self._sessions.clock()
        self._fail(
            request,
            errors.AcquireTimeout(
                slots={part.limit.name: part.slots for part in ticket.parts},
                waited_seconds=(now - ticket.asked_at) / NANOSECONDS,
                places=places,
                holders=listing.holders_told([part.limit for part in ticket.parts], now),
            ),
        )

    def _tell_granted(self, ticket: Ticket) -> None:
        request: Request = ticket.owner
        waited = max(0, ticket.granted_at - ticket.asked_at)
        self._send(Granted(request.number, request.token, waited, request.unguarded))

    def _fail(self, request: int, error: AtmostError) -> None:
        self._send(failed(request, error))

    def _send(self, message: wire.Message) -> None:
        if self._line is not None:
            self._line.send(message)


class Sessions:
    """All clients of this daemon, by the names that they have drawn for their sessions."""

    def __init__(
        self,
        registry: Registry,
        processes: Processes,
        clock: Clock,
        notes: Notes,
        bounds: Bounds,
        refusals: Refusals,
        slates: Slates,
    ) -> None:
        self.registry = registry
        self.bounds = bounds
        self.refusals = refusals
        self.clock = clock
        self.notes = notes
        self.slates = slates
        self.loop = asyncio.get_running_loop()
        self._processes = processes
        self.held_back: list[tuple[Session, Acquire]] | None = None  # None: nothing is
        self.endings = Endings(self.loop)
        self._by_name: dict[bytes, Session] = {}
        self._counted = Door(bounds, refusals)
        self._last_serial = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_name.values())

    def greet(self, hello: Hello, peer: Peer, is_admin: bool) -> Session:
        """The client's session, new or from before; its peer is taken over.

        Raises ProtocolError, or TooMany if it is a new one that may not come in.
        """
        known = self._by_name.get(hello.session)
        if known is not None and known.is_going:
            known.end_some(len(known.tickets))
            known = self._by_name.get(hello.session)
        if known is not None:
            is_its = known.is_of(peer)
            peer.close()
            if not is_its:
                raise ProtocolError("a session that is another process's")
            known.ending = ""
            self.registry.events.came_back(known, known.tickets.values())
            return known
        refusal = self._counted.refusal(peer.uid, is_admin)
        if refusal is not None:
            peer.close()
            raise refusal
        self._last_serial += 1
        began = SessionBegan(
            serial=self._last_serial,
            session=hello.session,
            pid=peer.pid,
            pid_told=hello.pid,
            started=peer.started,
            inode=peer.inode,
            uid=peer.uid,
            user=_shown(hello.user, config.USER_CHARS_MAX),
            command=_shown(shlex.join(hello.command), wire.COMMAND_CHARS_MAX),
        )
        return self._add(began, peer)

    def again(self, began: SessionBegan) -> Session | None:
        """A session from before a restart; None if its process has died."""
        self._last_serial = max(self._last_serial, began.serial)
        peer = self._processes.again(began.pid, began.uid, began.started, began.inode)
        return None if peer is None else self._add(began, peer)

    def let_holders_come_first(self, then: Callable[[], None]) -> None:
        """Who held is not known. For a moment they may say so, before anybody is given anything;
        `then` is called."""
        self.held_back = []
        self.loop.call_later(config.RECLAIM_SECONDS, self._let_the_others_in, then)

    def drop_held_back(self, session: Session, request: int | None = None) -> None:
        """It has given up this request, or (None) all of them."""
        if self.held_back is not None:
            self.held_back = [
                (other, message)
                for other, message in self.held_back
                if other is not session or request not in (None, message.request)
            ]

    def _let_the_others_in(self, then: Callable[[], None]) -> None:
        then()
        held_back, self.held_back = self.held_back or [], None
        for session, message in held_back:
            session.acquire_at_last(message)

    def forget(self, session: Session) -> None:
        if self._by_name.pop(session.began.session, None) is not None:
            self._counted.leave(session.uid)
            self.slates.forget(session.began.session, session.uid)

    def end_idle(self, sessions: Iterable[Session]) -> None:
        """Those that have nothing and are not here need no longer be known."""
        for session in sessions:
            session._end_if_idle()

    def _add(self, began: SessionBegan, peer: Peer) -> Session:
        session = self._by_name[began.session] = Session(self, began, peer)
        self._counted.enter(peer.uid)
        return session


class Endings:
    """Sessions that have ended let go of what they have: so many in one turn of the loop, that others
    have theirs in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sessions: deque[Session] = deque()
        self._left = config.SESSION_ENDS_A_TURN  # in this turn
        self._next_turn: asyncio.Handle | None = None

    def add(self, session: Session) -> None:
        """It has ended: now, or as soon as it is its turn, it lets go."""
        self._sessions.append(session)
        if self._left > 0:
            self._end_some()
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._go_on)

    def finish(self) -> None:
        """All of them, at once."""
        while self._sessions:
            session = self._sessions.popleft()
            session.end_some(len(session.tickets))

    def _go_on(self) -> None:
        self._left = config.SESSION_ENDS_A_TURN
        self._next_turn = None
        if self._sessions:
            self._end_some()
            self._next_turn = self._loop.call_soon(self._go_on)

    def _end_some(self) -> None:
        while self._sessions and self._left > 0:
            session = self._sessions[0]
            self._left -= 1 + session.end_some(self._left)
            if not session.is_going:
                self._sessions.popleft()


def failed(request: int, error: AtmostError) -> Failed:
    """The answer to a request that was refused."""
    return Failed(request, error.code, str(error)[: config.MESSAGE_CHARS_MAX], error.fields)


def _shown(text: str, chars_max: int) -> str:
    """What a client says of itself, as others may read it: in a log, on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:chars_max])
