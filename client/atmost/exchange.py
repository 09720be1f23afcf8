"""One client's side of the conversation, without any I/O: bytes in, bytes out.

The shells in sync_connection.py and asyncio_connection.py move the bytes and wait; what is sent and
what an answer means is decided here, once.

Rule 1: what this session waits for, holds and has asked is known here and nowhere else, so that after
a lost connection all of it can be said again (PROTOCOL.md, `resume`).
Rule 2: no clock: now is an argument, in seconds of time.monotonic().
Rule 3: bytes may be received a second time, if an exception came as they were taken (Ctrl-C): each
step leaves what the next try needs, or finds itself done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from atmost import errors, paths, wire
from atmost.asked import Asked
from atmost.errors import (
    AtmostError,
    DaemonOutdated,
    GrantLost,
    LimitExists,
    ProtocolError,
)
from atmost.paths import SocketPath

if TYPE_CHECKING:
    from atmost.slate import Slate  # only the blocking client needs it

HELLO_SECONDS = 5.0  # a daemon that runs says welcome in well under a millisecond
ANSWER_SECONDS = 30.0  # a change waits for the disk; everything else is answered at once
RECONNECT_SECONDS = 30.0  # a restart takes well under a second; this is for a host under load
RECEIVE_BYTES = 64 * 1024
SEEN_MAX = 1000  # told in one frame: at most 5 bytes each

Answer = (
    wire.Granted
    | wire.Limit
    | wire.Limits
    | wire.Tickets
    | wire.DaemonStatus
    | wire.Done
    | wire.Loss
    | wire.Changes
    | wire.Templates
    | wire.Events
    | wire.Explanations
    | wire.Statistics
    | AtmostError
)


class AskedTwice(Exception):
    """The cause of a LimitExists, when the create was sent a second time: it may have made the limit."""


class Exchange:
    """Numbers requests, pairs answers with them, and knows what this session has."""

    def __init__(self, command: list[str] | None = None, wants_slate: bool = False) -> None:
        self._command = command
        self.wants_slate = wants_slate  # no thread of this client notices that a connection is lost
        self.slate: Slate | None = None  # the latest one that was lent to this session
        self._let_go_early: list[int] = []  # on this connection, before it had a slate
        self._session = os.urandom(wire.SESSION_BYTES)  # names it across reconnects
        self._frames = wire.FrameReader()  # of this connection
        self._last_request = 0  # rises across reconnects
        self._inside: dict[Hashable, list[int]] = {}  # caller -> grants whose blocks it is in
        self._waiting: dict[int, tuple[wire.Acquire, float | None]] = {}  # and when its time is up
        self._held: dict[int, tuple[wire.Acquire, int]] = {}  # and the token
        self._questions: dict[int, tuple[wire.Message, bool]] = {}  # and whether it was repeated
        self._seen: list[int] = []  # spent only, and granted: the daemon need not know them longer
        self._acquired = False  # slots were asked for, ever: the daemon may know of some
        self._resume = 0  # the number of the Resume that is not answered yet
        self.unsettled = False  # the daemon may think that we have what we let go of
        self.welcomed = False  # on this connection
        self._version = wire.PROTOCOL_VERSION  # the one spoken last
        self.refusal: AtmostError | None = (
            None  # why the daemon let us in no more, when we last reached it
        )
        self.lost_grants: dict[int, GrantLost] = {}  # by request

    # What is sent

    def hello(self) -> bytes:
        """The first bytes of a connection."""
        self._frames = wire.FrameReader()
        self.welcomed = False
        self._let_go_early = []
        command = self._command
        if command is None:
            command = [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]
        return wire.encode(
            wire.Hello(
                protocol=wire.PROTOCOL_VERSION_LEAST,
                session=self._session,
                pid=os.getpid(),
                command=wire.shorten_command(command),
                user=_user(),
                client=f"atmost-python/{paths.version()}",
                newest=wire.PROTOCOL_VERSION,
                slate=self.wants_slate,
            )
        )

    def number(self) -> int:
        """For a new request. Who has it can give the request up, however far that has come."""
        number = self._last_request = self._last_request + 1
        return number

    def acquire(self, number: int, asked: Asked, caller: Hashable, ends: float | None) -> bytes:
        """Ask for slots. `ends`: when the request's own time is up."""
        message = wire.Acquire(
            number,
            asked.hold,
            asked.spend,
            asked.timeout_seconds,
            asked.strict,
            self._inside.get(caller, []) if self._inside else [],
            asked.by_process,
            self._take_seen() if self._seen else [],
        )
        frame = wire.encode(message)
        self._acquired = True
        self._waiting[number] = message, ends
        return frame

    def ask(self, number: int, kind: type[wire.Message], *fields: Any) -> bytes:
        """Any other request: its fields after the number, in their order.

        Raises DaemonOutdated if the daemon does not know it.
        """
        if kind in wire.NEW_IN_2 and self._version < 2:
            raise DaemonOutdated(str(kind.__struct_config__.tag), self._version)
        message = kind(number, *fields)
        frame = wire.encode(message)
        self._questions[number] = message, False
        return frame

    def release(self, number: int) -> bytes:
        """Let go of whatever the request has."""
        slate = self.slate
        if slate is not None:  # first: the frame may not be read by anybody
            slate.ring[next(slate.places)] = number
        if self.wants_slate and not self.welcomed:
            self._let_go_early.append(number)
        self._waiting.pop(number, None)
        self._held.pop(number, None)
        self._questions.pop(number, None)
        return wire.encode(wire.Release(number))

    def borrow(self, slate: Slate | None) -> None:
        """What was lent with this welcome. If nothing was, the one before is as good: it may be looked at
        still. If something was, it may not be."""
        if slate is not None:
            self.slate = slate
            for number in self._let_go_early:
                slate.ring[next(slate.places)] = number
        self._let_go_early = []

    def note_end(self) -> None:
        """The connection will be closed, which lets go of all but what belongs to the process. Nobody may
        see that, either."""
        slate = self.slate
        if slate is not None:
            for number, (message, _) in (*self._held.items(), *self._waiting.items()):
                if not (message.by_process and number in self._held):
                    slate.ring[next(slate.places)] = number

    # Who is inside what

    def enter(self, caller: Hashable, number: int) -> None:
        """The caller is inside this grant's block: it cannot wait for itself there."""
        inside = self._inside.get(caller)
        if inside is None:
            self._inside[caller] = [number]
        else:
            inside.append(number)

    def leave(self, caller: Hashable, number: int) -> None:
        """The caller has left the block."""
        inside = self._inside.get(caller)
        if inside is not None:
            if number in inside:
                inside.remove(number)
            if not inside:
                self._inside.pop(caller, None)

    def names_of(self, caller: Hashable, waiting: Iterable[int]) -> set[str]:
        """The limits of which this caller has something, or waits for it by these requests."""
        has = [
            self._held[number][0] for number in self._inside.get(caller, []) if number in self._held
        ]
        asks = [self._waiting[number][0] for number in waiting if number in self._waiting]
        return {name for message in (*has, *asks) for name in message.hold}

    # What is received

    @property
    def unfinished(self) -> bytes:
        """What was received of a message that is not complete yet. Set back, bytes can be received
        again."""
        return self._frames._rest

    @unfinished.setter
    def unfinished(self, data: bytes) -> None:
        self._frames._rest = data

    def receive(self, data: bytes | memoryview) -> list[tuple[int, Answer]]:
        """The answers that are complete with these bytes, each with its request's number.

        Raises ProtocolError: this conversation is over for good, and it may be no daemon of ours.
        """
        answers: list[tuple[int, Answer]] = []
        for body in self._frames.feed(data):
            try:
                message = wire.decode_daemon_message(body)
            except ValueError as error:
                raise ProtocolError(f"the daemon sent what is no message: {error}") from error
            if isinstance(message, wire.Granted):
                self._granted(message)
                answers.append((message.request, message))
            elif isinstance(message, wire.Welcome):
                self._welcome(message)
            elif isinstance(message, wire.Events):
                if message.request in self._questions:  # else nobody watches any more
                    answers.append((message.request, message))
            elif not isinstance(message, wire.Failed):
                self._questions.pop(message.request, None)
                if message.request == self._resume:
                    self._resume = 0
                    self.unsettled = False
                answers.append((message.request, message))
            else:
                failure = errors.from_wire(message.code, message.message, message.fields)
                if message.request:
                    answers.append((message.request, self._failed(message.request, failure)))
                elif isinstance(failure, ProtocolError):
                    raise failure
                else:
                    self.refusal = failure
        return answers

    def _welcome(self, message: wire.Welcome) -> None:
        if not wire.PROTOCOL_VERSION_LEAST <= message.protocol <= wire.PROTOCOL_VERSION:
            raise ProtocolError(
                f"the daemon speaks protocol version {message.protocol}, this client "
                f"{wire.PROTOCOL_VERSION_LEAST} to {wire.PROTOCOL_VERSION}"
            )
        self._version = message.protocol
        self.welcomed = True
        self.refusal = None

    def _granted(self, message: wire.Granted) -> None:
        number = message.request
        waiting = self._waiting.get(number)
        if waiting is not None:  # else it was given up, and its release is on the way
            if waiting[0].hold:
                self._held[number] = waiting[0], message.token
            else:
                self._seen.append(number)
            self._waiting.pop(number, None)  # last: rule 3

    def _failed(self, number: int, failure: AtmostError) -> Answer:
        if isinstance(failure, GrantLost):  # also when its release is on the way
            self.lost_grants[number] = failure
            self._held.pop(number, None)
        self._waiting.pop(number, None)
        question, repeated = self._questions.pop(number, (None, False))
        if repeated:
            if isinstance(question, wire.DeleteLimit) and isinstance(failure, errors.LimitNotFound):
                return wire.Done(number)  # by the first one
            if isinstance(question, wire.ReleaseGrant) and isinstance(
                failure, errors.GrantNotFound
            ):
                return wire.Done(number)
            if isinstance(question, wire.CreateLimit) and isinstance(failure, LimitExists):
                failure.__cause__ = AskedTwice("the connection was lost before the answer came")
            if isinstance(question, wire.UpdateLimit) and isinstance(failure, errors.StateNotSaved):
                # Made again, it would look the same. A create or delete would have found it made.
                return failure.of_second_try()
        return failure

    def _take_seen(self) -> list[int]:
        seen, self._seen = self._seen[:SEEN_MAX], self._seen[SEEN_MAX:]
        return seen

    # After a lost connection

    def disconnected(self) -> None:
        """The connection is lost. Until the daemon has been told all that is left, it may think that
        we have more: a release may not have reached it."""
        self.welcomed = False
        self._resume = 0
        self.unsettled = self._acquired

    def resume(self, now: float) -> bytes:
        """The first bytes of the next connection: all that this session has, and asks."""
        self._seen = []  # what is not named is forgotten there
        frames = [self.hello()]
        # Held ones first: a daemon that knows nothing of them must not give their slots away.
        for number, (message, token) in list(self._held.items()):
            frames.append(wire.encode(wire.Keep(number, message.hold, token, message.by_process)))
        for message, ends in list(self._waiting.values()):
            frames.append(wire.encode(_again(message, ends, now)))
        for number, (question, _) in list(self._questions.items()):
            frames.append(wire.encode(question))
            self._questions[number] = question, True
        self._resume = self.number()
        frames.append(wire.encode(wire.Resume(self._resume)))
        return b"".join(frames)

    def end(self) -> None:
        """The session ends while there is no connection: nothing is to be kept but what belongs to
        the process."""
        self._waiting = {}
        self._questions = {}
        self._held = {
            number: (message, token)
            for number, (message, token) in self._held.items()
            if message.by_process
        }

    def lose_all(self, reason: str) -> None:
        """The session is over, and not by our will: nothing is held any more."""
        for number, (message, _) in self._held.items():
            self.lost_grants[number] = GrantLost(list(message.hold), reason)
        self._held = {}


def _again(message: wire.Acquire, ends: float | None, now: float) -> wire.Acquire:
    """The same request on a new connection, with what is left of its time."""
    if ends is None or not message.timeout_seconds:  # for ever, or one try
        return replace(message, seen=[])
    if ends <= now:
        return replace(message, seen=[], late=True)
    return replace(message, seen=[], timeout_seconds=ends - now)


def said_by(at: SocketPath, error: AtmostError) -> AtmostError:
    """The error with which this conversation ended; that of the protocol says which one it was."""
    if isinstance(error, ProtocolError):
        return ProtocolError(f"from {at.path} ({at.source}): {error.problem}")
    return error


def _user() -> str:
    import pwd

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
