"""One client: its messages become events, and what follows becomes its replies.

Rule 1: the end of a session lets go of each of its tickets by the same message that a client sends.
There is no second clean-up path.
Rule 2: a session ends when its connection does or when its process dies, whichever comes first: a
forked child can hold the connection open. What is bound to the process alone (`by_process`) lives
on until that dies.
Rule 3: bad bytes cost the client that sent them its connection, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from collections.abc import Callable
from typing import Any, Protocol, assert_never, cast

from atmost import errors, paths, values, wire
from atmost.errors import AtmostError, LimitNotFound, ProtocolError
from atmost.wire import (
    Acquire,
    CreateLimit,
    DaemonStatus,
    DeleteLimit,
    Done,
    Failed,
    Granted,
    Hello,
    Limits,
    ListLimits,
    ListTickets,
    ReadLimit,
    Release,
    Status,
    Tickets,
    UpdateLimit,
    Welcome,
)
from atmostd import config, listing
from atmostd.clock import NANOSECONDS, Clock
from atmostd.configuration import Configuration
from atmostd.decoding import WrongField, message_of, other_version
from atmostd.peer import Peer
from atmostd.registry import Registry, request_of
from atmostd.ticket import State, Ticket
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


Question = ReadLimit | ListLimits | ListTickets | Status


class Host(Protocol):
    """What a session needs of the daemon around it."""

    registry: Registry
    configuration: Configuration
    turn: Turn
    clock: Clock
    sessions: set[Session]

    def status(self, request: int) -> DaemonStatus: ...


class Session(asyncio.Protocol):
    """One client process's connection, from its hello to its end."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[int, Ticket] = {}  # by the client's own number, until they end
        self._frames = wire.FrameReader()
        self._output: list[bytes] = []  # replies of this turn
        self._questions: list[Question] = []  # answered at its end, by what is true then
        self._speaks = False  # flush() will be called at the end of this turn
        self._transport: asyncio.Transport | None = None
        self._hello: Hello | None = None
        self._hello_due: asyncio.TimerHandle | None = None
        self._peer: Peer | None = None  # until its process is no longer watched
        self._pid = 0
        self._user = ""
        self._command = ""

    # Who it is

    @property
    def pid(self) -> int:
        """The kernel's word; the client's own if its process is of another pid namespace."""
        return self._pid

    @property
    def user(self) -> str:
        return self._user

    @property
    def command(self) -> str:
        return self._command

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no common class
        self._host.sessions.add(self)
        try:
            self._peer = Peer(transport.get_extra_info("socket"))
        except ProcessLookupError:
            self._transport.abort()
            return
        self._loop.add_reader(self._peer.pidfd, self._process_died)
        self._hello_due = self._loop.call_later(config.HELLO_SECONDS, self._no_hello)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._take(body)
        except ProtocolError as error:
            self._refuse(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._frames = wire.FrameReader()
        if self._hello_due is not None:
            self._hello_due.cancel()
        for ticket in self._tickets.values():
            if not (request_of(ticket).by_process and ticket.state is State.HELD):
                self._host.registry.let_go(ticket)
        self._tickets = {
            number: ticket
            for number, ticket in self._tickets.items()
            if request_of(ticket).by_process and ticket.state is State.HELD
        }
        if not self._tickets:
            self._end()

    def pause_writing(self) -> None:
        """Nothing: flush() counts what is unread, and cuts the connection at a bound."""

    def _process_died(self) -> None:
        for ticket in self._tickets.values():
            self._host.registry.let_go(ticket)
        self._tickets.clear()
        if self._transport is not None:
            self._transport.abort()  # a child of it may still hold the other end
        self._end()

    def _end(self) -> None:
        self._host.sessions.discard(self)
        if self._peer is not None:
            self._loop.remove_reader(self._peer.pidfd)
            self._peer.close()
            self._peer = None

    def _no_hello(self) -> None:
        self._refuse(ProtocolError(f"no hello within {config.HELLO_SECONDS:g} s"))

    def _refuse(self, error: ProtocolError) -> None:
        """Say why, and close: after bytes like these, nothing this client sends can be trusted."""
        if self._transport is None or self._transport.is_closing():
            return
        _log.info(
            "closing the connection of pid %d (%s): %r", self.pid, self.command, error.problem
        )
        self._fail(0, error)
        self.flush()
        self._transport.close()
        self._loop.call_later(config.CLOSE_SECONDS, self._transport.abort)

    def close(self) -> None:
        """The daemon stops."""
        if self._transport is not None:
            self.flush()
            self._transport.close()
        self._end()

    # In

    def _take(self, body: memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            message = message_of(body)
        except WrongField as wrong:
            if self._hello is None:
                raise ProtocolError("a request before the hello") from wrong
            self._fail(wrong.request, wrong.error)
            return
        if self._hello is None:
            self._greet(message)
            return
        if isinstance(message, Hello):
            raise ProtocolError("a second hello")
        try:
            _HANDLERS[type(message)](self, message)
        except ProtocolError:
            raise
        except AtmostError as error:
            self._fail(message.request, error)

    def _greet(self, message: wire.Message) -> None:
        if not isinstance(message, Hello):
            raise ProtocolError(f"{type(message).__name__} before the hello")
        if message.protocol != wire.PROTOCOL_VERSION:
            raise other_version(message.protocol)
        if len(message.session) != wire.SESSION_BYTES:
            raise ProtocolError(f"a session of {len(message.session)} bytes")
        assert self._hello_due is not None
        self._hello_due.cancel()
        self._hello_due = None
        self._hello = message
        self._pid = self._peer.pid or message.pid if self._peer is not None else message.pid
        self._user = _shown(message.user, config.USER_CHARS_MAX)
        self._command = _shown(shlex.join(message.command), wire.COMMAND_CHARS_MAX)
        self._send(Welcome(wire.PROTOCOL_VERSION, paths.version(), os.getpid()))

    # Messages

    def _acquire(self, message: Acquire) -> None:
        if message.request in self._tickets:
            raise ProtocolError(f"request {message.request} is in use")
        inside = tuple([self._tickets[n] for n in message.inside if n in self._tickets])
        self._tickets[message.request] = self._host.registry.acquire(self, message, inside)

    def _release(self, message: Release) -> None:
        ticket = self._tickets.pop(message.request, None)
        if ticket is not None:
            self._host.registry.let_go(ticket)

    def _change(self, message: CreateLimit | UpdateLimit | DeleteLimit) -> None:
        uid = self._peer.uid if self._peer is not None else -1
        if uid not in (0, os.geteuid()):
            raise errors.PermissionDenied("change them", uid)
        self._host.configuration.ask(message, self)

    def _ask(self, question: Question) -> None:
        """What this client sent before has to have been acted on, so the answer waits for the actors."""
        self._questions.append(question)
        self._speak()

    def _answered(self, question: Question) -> bytes:
        """The answer's frame, or that of the refusal."""
        try:
            return wire.encode(self._answer(question))
        except AtmostError as error:
            return wire.encode(_failed(question.request, error))

    def _answer(self, question: Question) -> wire.Message:
        registry, now = self._host.registry, self._host.clock()
        match question:
            case ReadLimit(request=request, name=name):
                if name not in registry.actors:
                    raise LimitNotFound([values.check_name(name)])
                return wire.Limit(request, listing.limit_record(registry.actors[name], now))
            case ListLimits(request=request, after=after):
                return Limits(request, *listing.page_of_limits(registry, after, now))
            case ListTickets(request=request, name=name):
                if name is not None and name not in registry.actors:
                    raise LimitNotFound([values.check_name(name)])
                behind = (question.after_limit, question.after_number)
                return Tickets(request, *listing.page_of_tickets(registry, name, *behind, now))
            case Status(request=request):
                return self._host.status(request)
            case _:
                assert_never(question)

    # What became of requests

    def granted(self, request: int, ticket: Ticket, token: int) -> None:
        if ticket.state is State.ENDED:
            self._tickets.pop(request, None)  # spent: there is nothing to let go of
        waited = ticket.granted_at - ticket.asked_at
        unguarded = [part.limit.name for part in ticket.parts if not part.limit.active]
        self._send(Granted(request, token, waited if waited > 0 else 0, unguarded))

    def refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None:
        request = request_of(ticket).number
        self._tickets.pop(request, None)
        self._fail(request, errors.from_wire(code, code, fields))

    def timed_out(self, ticket: Ticket, places: dict[str, int]) -> None:
        request = request_of(ticket).number
        self._tickets.pop(request, None)
        now = self._host.clock()
        self._fail(
            request,
            errors.AcquireTimeout(
                slots={part.limit.name: part.slots for part in ticket.parts},
                waited_seconds=(now - ticket.asked_at) / NANOSECONDS,
                places=places,
                holders=listing.holders_told([part.limit for part in ticket.parts], now),
            ),
        )

    def changed(self, request: int, record: wire.LimitRecord | None) -> None:
        self._send(Done(request) if record is None else wire.Limit(request, record))

    def failed(self, request: int, error: AtmostError) -> None:
        self._fail(request, error)

    # Out

    def _fail(self, request: int, error: AtmostError) -> None:
        self._send(_failed(request, error))

    def _send(self, message: wire.Message) -> None:
        if self._transport is not None:
            self._speak()
            self._output.append(wire.encode(message))

    def _speak(self) -> None:
        """Have flush() called at the end of this turn."""
        if not self._speaks:
            self._speaks = True
            self._host.turn.will_speak(self)

    def flush(self) -> None:
        """Answer the questions, and send the replies of this turn in one write."""
        self._speaks = False
        questions, self._questions = self._questions, []
        transport = self._transport
        if transport is None:
            return
        unread = transport.get_write_buffer_size() + sum(map(len, self._output))
        for question in questions:
            # Counted one by one: a few bytes of questions can ask for megabytes.
            if unread <= config.OUTPUT_BYTES_MAX:
                self._output.append(self._answered(question))
                unread += len(self._output[-1])
        output, self._output = self._output, []
        if not output:
            return
        if unread > config.OUTPUT_BYTES_MAX:
            _log.warning(
                "cutting off pid %d (%s): it left %d bytes unread", self.pid, self.command, unread
            )
            transport.abort()
            return
        data = output[0] if len(output) == 1 else b"".join(output)
        transport.write(data)


_HANDLERS: dict[type, Callable[[Session, Any], None]] = {
    Acquire: Session._acquire,
    Release: Session._release,
    CreateLimit: Session._change,
    UpdateLimit: Session._change,
    DeleteLimit: Session._change,
    ReadLimit: Session._ask,
    ListLimits: Session._ask,
    ListTickets: Session._ask,
    Status: Session._ask,
}


def _failed(request: int, error: AtmostError) -> Failed:
    return Failed(request, error.code, str(error)[: config.MESSAGE_CHARS_MAX], error.fields)


def _shown(text: str, chars_max: int) -> str:
    """What a client says of itself, as others may read it: in a log, on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:chars_max])
