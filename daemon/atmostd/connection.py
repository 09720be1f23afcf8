"""One connection: its bytes become messages, and what follows becomes its replies.

Rule 1: bad bytes cost the client that sent them its connection and what its session has, and nobody
else anything.
Rule 2: a client ends its session by ending the connection. When we end it, because the daemon stops
or the client reads too slowly, the session goes on and the client comes back to it.
Rule 3: a client that asks more than it may have in flight is read from again when that is answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, assert_never, cast

from atmost import errors, paths, values, wire
from atmost.errors import (
    AtmostError,
    GrantNotFound,
    InvalidValue,
    LimitNotFound,
    ProtocolError,
    TooMany,
)
from atmost.wire import (
    Acquire,
    Commit,
    CreateLimit,
    DaemonStatistics,
    DaemonStatus,
    DeleteLimit,
    Done,
    Draft,
    Explain,
    Explanations,
    Hello,
    Keep,
    Limits,
    ListChanges,
    ListDeleted,
    ListLimits,
    ListStatistics,
    ListTemplates,
    ListTickets,
    ReadLimit,
    Recover,
    Release,
    ReleaseGrant,
    Reload,
    ResetSpent,
    Resume,
    Statistics,
    Status,
    Templates,
    Tickets,
    UpdateLimit,
    Watch,
    Welcome,
)
from atmostd import config, explaining, listing, reporting
from atmostd.bounds import Bounds
from atmostd.clock import Clock
from atmostd.configuration import ChangeMessage, Configuration, GreatMessage
from atmostd.decoding import WrongField, message_of, other_version
from atmostd.door import Door
from atmostd.drafts import Uploaded
from atmostd.events import Watch as Watching
from atmostd.peer import Admins, Processes, credentials
from atmostd.refusals import Refusals
from atmostd.registry import Registry, request_of
from atmostd.session import Session, Sessions, failed
from atmostd.statistics import BUCKET_SECONDS
from atmostd.ticket import Reset
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


Question = (
    ReadLimit
    | ListLimits
    | ListTickets
    | ListTemplates
    | ListDeleted
    | Status
    | Explain
    | ListStatistics
)


class Host(Protocol):
    """What a connection needs of the daemon around it."""

    bounds: Bounds
    admins: Admins
    door: Door
    refused: set[Connection]
    registry: Registry
    configuration: Configuration
    turn: Turn
    clock: Clock
    processes: Processes
    refusals: Refusals
    sessions: Sessions
    connections: set[Connection]
    own_pid: int  # who connects from there is no client

    def status(self, request: int) -> DaemonStatus: ...

    def statistics(self) -> DaemonStatistics: ...


class Connection(asyncio.Protocol):
    """From accept to its end."""

    def __init__(self, host: Host) -> None:
        self.read_all: asyncio.Future[None] | None = None  # of what came before finish_reading()
        self.order = 0
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._frames = wire.FrameReader()
        self._output: list[bytes] = []  # replies of this turn
        self._questions: list[Question] = []  # answered at its end, by what is true then
        self._changes = 0  # asked for and not answered yet
        self._held_back: Iterator[memoryview] | None = None  # frames that came with too many others
        self._speaks = False  # flush() will be called at the end of this turn
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None  # since its hello
        # Who changes something, for the log and for those whom it concerns; also when the connection has
        # ended meanwhile. The name is the client's own word, the numbers are the kernel's.
        self.operator = ""
        self._hello_due: asyncio.TimerHandle | None = None
        self._cut = False  # it is we who end it
        self._in_flight_max = host.bounds.requests_in_flight
        self._output_bytes_max = host.bounds.output_bytes
        self._watching: dict[int, Watching] = {}  # by request
        self._slow = False  # it has not read what it was sent
        self._turned_away = False
        self._is_proof = False  # our own (watch.py), which is no client and does not count as one
        self._uid = -1
        self._is_admin = False  # may change limits
        self._draft: Uploaded | None = None

    # Its life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no common class
        ours = transport.get_extra_info("socket")
        pid, self._uid, _ = credentials(ours)
        self._hello_due = self._loop.call_later(self._host.bounds.hello_seconds, self._no_hello)
        if pid == self._host.own_pid:
            self._is_proof = True
            return
        self._is_admin = self._host.admins.include(ours)
        refusal = self._host.door.refusal(self._uid, self._is_admin)
        if refusal is not None:
            self._turn_away(refusal)
            return
        self._host.door.enter(self._uid)
        self._host.connections.add(self)
        self.order = self._host.door.entered

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        self._take_some(iter(self._frames.feed(data)))

    def eof_received(self) -> bool:
        """Returns whether the other half goes on."""
        if self.read_all is None:
            return False
        if not self.read_all.done():
            self.read_all.set_result(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._frames = wire.FrameReader()
        self._held_back = None
        self._host.refused.discard(self)
        if self._watching:
            self._host.registry.events.forget(self._watching.values())
            self._watching = {}
        self._uncount()
        self._forget_hello()
        if self.read_all is not None and not self.read_all.done():
            self.read_all.set_result(None)
        session, self._session = self._session, None
        if session is not None:
            if self._cut:
                session.detach(self)
            else:
                session.leave(self)

    def _uncount(self) -> None:
        if self in self._host.connections:
            self._host.connections.discard(self)
            self._host.door.leave(self._uid)

    def pause_writing(self) -> None:
        """It does not read. flush() counts what is unread, and cuts the connection at a bound; but
        events it is just not told any more."""
        self._slow = True

    def resume_writing(self) -> None:
        self._slow = False
        for watch in self._watching.values():
            watch.tell_missed()

    def cut(self) -> None:
        """End it at once; the session, if it has one still, goes on."""
        self._cut = True
        if self._transport is not None:
            self._transport.abort()

    def finish_reading(self) -> None:
        """Take what is on its way, and have the client see that no more is taken."""
        self.read_all = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self.read_all.set_result(None)
            return
        self._cut = True
        descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as ours:
            ours.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """The daemon stops."""
        if self._transport is not None:
            self._cut = True
            self.flush()
            self._transport.close()

    def _no_hello(self) -> None:
        self._refuse(ProtocolError(f"no hello within {self._host.bounds.hello_seconds:g} s"))

    def _forget_hello(self) -> None:
        if self._hello_due is not None:
            self._hello_due.cancel()
            self._hello_due = None

    def _turn_away(self, error: TooMany) -> None:
        """There are too many connections. A client that can't send its hello any more may not even look
        for what we say, so it gets the time to; but not for long, and not many of them."""
        assert self._transport is not None
        self._turned_away = True
        self._forget_hello()
        self._fail(0, error)
        self.flush()
        if len(self._host.refused) >= config.REFUSED_AT_ONCE_MAX:
            self._transport.close()
            return
        self._host.refused.add(self)
        self._loop.call_later(config.CLOSE_SECONDS, self._transport.abort)

    def _refuse(self, error: ProtocolError) -> None:
        """Say why, and close: after bytes like these, nothing this client sends can be trusted."""
        if self._transport is None or self._transport.is_closing():
            return
        _log.info("closing the connection of %s: %r", self._client(), error.problem)
        self._fail(0, error)
        self.flush()
        self._transport.close()
        self._loop.call_later(config.CLOSE_SECONDS, self._transport.abort)

    def _client(self) -> str:
        """Who it is, for the log."""
        if self._session is None:
            return "a client that has not said who it is"
        return f"pid {self._session.pid} ({self._session.command})"

    # In

    def _take_some(self, bodies: Iterator[memoryview]) -> None:
        """Take what has come, but not more than may be in flight at once."""
        room = self._in_flight_max - len(self._questions) - self._changes
        try:
            for body in bodies:
                self._take(body)
                room -= 1
                if room <= 0:
                    self._hold_back(bodies)
                    return
        except TooMany as error:  # there are as many clients as may be
            self._uncount()
            self._turn_away(error)
        except ProtocolError as error:
            self._refuse(error)

    def _hold_back(self, bodies: Iterator[memoryview]) -> None:
        """Read no more until what was taken is answered, at the end of a turn at the earliest."""
        self._held_back = bodies
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._speak()

    def _go_on(self) -> None:
        """Take what was held back, if there is room again."""
        bodies = self._held_back
        if bodies is None:
            return
        if len(self._questions) + self._changes >= self._in_flight_max:
            return
        self._held_back = None
        self._take_some(bodies)
        if self._held_back is None and self._transport and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, body: memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            message = message_of(body)
        except WrongField as wrong:
            if self._session is None:
                raise ProtocolError("a request before the hello") from wrong
            self._fail(wrong.request, wrong.error)
            return
        session = self._session
        if session is None:
            self._greet(message)
            return
        try:
            of_session = _OF_SESSION.get(type(message))
            if of_session is not None:
                of_session(session, message)
            elif isinstance(message, Hello):
                raise ProtocolError("a second hello")
            else:
                _OF_CONNECTION[type(message)](self, message)
        except ProtocolError:
            raise
        except AtmostError as error:
            assert not isinstance(message, Hello)
            self._fail(message.request, error)

    def _greet(self, message: wire.Message) -> None:
        if not isinstance(message, Hello):
            raise ProtocolError(f"{type(message).__name__} before the hello")
        version = wire.spoken(message)
        if not version:
            raise other_version(message.protocol)
        if len(message.session) != wire.SESSION_BYTES:
            raise ProtocolError(f"a session of {len(message.session)} bytes")
        assert self._transport is not None
        self._forget_hello()
        if self._is_proof:
            self.send(Welcome(version, paths.version(), os.getpid()))
            return
        try:
            peer = self._host.processes.at(self._transport.get_extra_info("socket"))
        except ProcessLookupError:
            self._transport.abort()
            return
        self._session = self._host.sessions.greet(message, peer, self._is_admin)
        self._session.attach(self)
        user = self._session.user or "?"
        self.operator = f"{user} (uid {self._uid}, pid {self._session.pid})"
        welcome = Welcome(version, paths.version(), os.getpid())
        if not (message.slate and self._send_with_slate(welcome, message.session)):
            self.send(welcome)

    def _send_with_slate(self, welcome: Welcome, session: bytes) -> bool:
        """At once, and beside the transport, which can't send a descriptor: nothing else was sent here, and
        a welcome tells nothing that has to be in the journal before. Returns whether it was sent."""
        assert self._transport is not None
        assert self._session is not None
        slate = self._host.sessions.slates.lend(session, self._session.uid)
        if slate is None:
            return False
        frame = wire.encode(welcome)
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, slate.to_bytes(4, sys.byteorder))]
        try:
            descriptor = os.dup(self._transport.get_extra_info("socket").fileno())
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor) as ours:
                sent = ours.sendmsg([frame], beside, socket.MSG_DONTWAIT)
        except OSError:
            return False
        finally:
            os.close(slate)
        if sent < len(frame):
            self._transport.write(frame[sent:])
        return True

    @property
    def asks(self) -> bool:
        """Whether it has sent something that is not answered or not even looked at yet."""
        return bool(self._questions or self._held_back)

    # Messages

    def _recover(self, message: Recover) -> None:
        """What we have can be trusted: else closed.py would be here."""
        self._check_may_change()
        self.send(wire.Loss(message.request, []))

    def _check_may_change(self) -> None:
        if not self._is_admin:
            raise errors.PermissionDenied("change them", self._uid)

    def _take_draft(self, message: Draft) -> None:
        self._check_may_change()
        who = f"uid {self._uid}"
        self.draft.take(message, self._host.bounds, self._host.refusals, who)
        self.send(Done(message.request))

    @property
    def draft(self) -> Uploaded:
        """What this client wants limits and templates to be."""
        if self._draft is None:
            self._draft = Uploaded()
        return self._draft

    def _change(self, message: ChangeMessage | GreatMessage) -> None:
        self._check_may_change()
        self._changes += 1
        self._host.configuration.ask(message, self)

    def _watch(self, message: Watch) -> None:
        if message.request in self._watching:
            raise ProtocolError(f"request {message.request} is in use")
        events = self._host.registry.events
        self._watching[message.request] = events.watch(
            message.request, message.name, self, self._uid, self._is_admin
        )

    def stop_watching(self, request: int) -> None:
        """The client does not want to be told any more."""
        watch = self._watching.pop(request, None)
        if watch is not None:
            self._host.registry.events.forget([watch])

    def reads(self) -> bool:
        """Whether it has read what it was sent, more or less."""
        transport = self._transport
        return not (self._slow or transport is None or transport.is_closing())

    def room(self) -> int:
        """How many bytes of events it may be sent now."""
        transport = self._transport
        if transport is None or not self.reads():
            return 0
        unread = transport.get_write_buffer_size() + sum(map(len, self._output))
        at_most = min(config.EVENTS_UNREAD_BYTES_MAX, self._output_bytes_max // 2)
        return max(0, at_most - unread)

    def _release_grant(self, message: ReleaseGrant) -> None:
        """Whosever it is: the holder is told, and who waits for its slots may go."""
        self._check_may_change()
        found = self._host.registry.held_by_token(message.token)
        if not found:
            raise GrantNotFound(message.token)
        for ticket in found:
            holder = request_of(ticket).asker
            assert isinstance(holder, Session)  # nobody else has slots
            _log.warning(
                "grant %d of pid %d (%s) at %s is released by %s",
                message.token,
                holder.pid,
                holder.command,
                ", ".join(repr(part.limit.name) for part in ticket.parts if part.hold),
                self.operator,
            )
            holder.revoke(ticket, f"released by {self.operator}")
        self.send(Done(message.request))

    def _reset_spent(self, message: ResetSpent) -> None:
        self._check_may_change()
        registry = self._host.registry
        actor = registry.actors.get(values.check_name(message.name))
        if actor is None:
            raise LimitNotFound([message.name])
        spent = actor.limit.level.slots()
        reason = f"spent slots reset by {self.operator}"
        _log.warning("limit %r: %s; they were %.3g", message.name, reason, spent)
        actor.post(Reset())
        if registry.events.watched:
            registry.events.of_limit("changed", actor.limit, reason)
        self._ask(ReadLimit(message.request, message.name))

    def _ask(self, question: Question) -> None:
        """What this client sent before has to have been acted on, so the answer waits for the actors."""
        self._questions.append(question)
        self._speak()

    def _answered(self, question: Question) -> bytes:
        """The answer's frame, or that of the refusal."""
        try:
            return wire.encode(self._answer(question))
        except AtmostError as error:
            return wire.encode(failed(question.request, error))

    def _answer(self, question: Question) -> wire.Message:
        registry, now = self._host.registry, self._host.clock()
        match question:
            case ReadLimit(request=request, name=name):
                if name not in registry.actors:
                    raise LimitNotFound([values.check_name(name)])
                return wire.Limit(
                    request, listing.limit_record(registry.actors[name], registry.word, now)
                )
            case ListLimits(request=request, after=after):
                return Limits(request, *listing.page_of_limits(registry, after, now))
            case ListTickets(request=request, name=name):
                if name is not None and name not in registry.actors:
                    raise LimitNotFound([values.check_name(name)])
                behind = (question.after_limit, question.after_number)
                return Tickets(request, *listing.page_of_tickets(registry, name, *behind, now))
            case ListTemplates(request=request, after=after_count):
                return Templates(request, *listing.page_of_templates(registry, after_count))
            case ListDeleted(request=request, after=after_count):
                return wire.Changes(request, *listing.page_of_deleted(registry, after_count), 0)
            case Status(request=request):
                return self._host.status(request)
            case Explain(request=request):
                return Explanations(request, *self._explained(question, now))
            case ListStatistics(request=request, after=after):
                page, more = reporting.page_of_statistics(registry, after, now)
                daemon = self._host.statistics()
                return Statistics(request, page, more, list(BUCKET_SECONDS), daemon)
            case _:
                assert_never(question)

    def _explained(self, asked: Explain, now: int) -> explaining.Explained:
        registry, name = self._host.registry, asked.name
        if (name is None) == (asked.pid is None):
            raise InvalidValue("name", repr(name), "the name of a limit, or a pid, and not both")
        if name is None:
            return explaining.of_process(registry, asked.pid or 0, now)
        if name not in registry.actors:
            raise LimitNotFound([values.check_name(name)])
        return explaining.at_limit(registry, name, now)

    # Out

    def changed(self, request: int, record: wire.LimitRecord | None) -> None:
        """A change that this client asked for is durable and in force."""
        self._changes -= 1
        self.send(Done(request) if record is None else wire.Limit(request, record))

    def answered(self, answer: wire.Message) -> None:
        """To what this client asked about many limits at once."""
        self._changes -= 1
        self.send(answer)

    def failed(self, request: int, error: AtmostError) -> None:
        """A change that this client asked for was refused."""
        self._changes -= 1
        self._fail(request, error)

    def send(self, message: wire.Message) -> None:
        """Say this at the end of the turn."""
        if self._transport is not None:
            if not self._speaks:
                self._speak()
            self._output.append(wire.encode(message))

    def _fail(self, request: int, error: AtmostError) -> None:
        self.send(failed(request, error))

    def _speak(self) -> None:
        """Have flush() called at the end of this turn."""
        if not self._speaks:
            self._speaks = True
            self._host.turn.will_speak(self)

    def flush(self) -> None:
        """Answer the questions, and send the replies of this turn in one write."""
        self._speaks = False
        transport = self._transport
        if transport is None:
            return
        output = self._output
        bytes_max = self._output_bytes_max
        unread = transport.get_write_buffer_size()
        if self._questions:
            self._answer_some(output, bytes_max - unread - sum(map(len, output)))
        data = b"".join(output)
        output.clear()
        unread += len(data)
        if unread > bytes_max:
            _log.warning("cutting off %s: it left %d bytes unread", self._client(), unread)
            self.cut()
            return
        if data:
            transport.write(data)
        if self._questions:
            self._speak()  # in the next turn
        if self._held_back is not None:
            self._go_on()

    def _answer_some(self, output: list[bytes], room: int) -> None:
        """Answer questions while there is time and room for the answers."""
        said = count = 0
        for question in self._questions:
            # Counted one by one: a few bytes of questions can ask for megabytes.
            if said > room or not self._host.turn.may_answer():
                break
            output.append(self._answered(question))
            said += len(output[-1])
            count += 1
        del self._questions[:count]


_OF_SESSION: dict[type, Callable[[Session, Any], None]] = {
    Acquire: Session.acquire,
    Release: Session.release,
    Keep: Session.keep,
    Resume: Session.resume,
}
_OF_CONNECTION: dict[type, Callable[[Connection, Any], None]] = {
    Recover: Connection._recover,
    CreateLimit: Connection._change,
    UpdateLimit: Connection._change,
    DeleteLimit: Connection._change,
    ListChanges: Connection._change,
    Commit: Connection._change,
    Reload: Connection._change,
    Draft: Connection._take_draft,
    ReadLimit: Connection._ask,
    ListTemplates: Connection._ask,
    ListDeleted: Connection._ask,
    ListLimits: Connection._ask,
    ListTickets: Connection._ask,
    Status: Connection._ask,
    Watch: Connection._watch,
    ReleaseGrant: Connection._release_grant,
    ResetSpent: Connection._reset_spent,
    Explain: Connection._ask,
    ListStatistics: Connection._ask,
}
