"""One client's side of the conversation, without any I/O: bytes in, bytes out.

The shells in sync.py and asyncio.py move the bytes and wait; what is sent and what an answer means
is decided here, once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from atmost import errors, paths, wire
from atmost.errors import AtmostError, DaemonUnavailable, ProtocolError
from atmost.paths import SocketPath
from atmost.values import Names, check_timeout, slots_by_name

HELLO_SECONDS = 5.0  # a daemon that runs says welcome in well under a millisecond
ANSWER_SECONDS = 30.0  # a change waits for the disk; everything else is answered at once
GRACE_SECONDS = 2.0  # for a time-out's own answer, before the daemon counts as hung
PATIENCE_SECONDS_MAX = (
    86_400.0  # of a longer time-out the daemon tells alone: poll(2) counts to 24 days
)
RECEIVE_BYTES = 64 * 1024


class Asked(Struct, frozen=True):
    """What a call asks for, checked."""

    hold: dict[str, int]
    spend: dict[str, int]
    timeout_seconds: float | None
    strict: bool
    by_process: bool = False

    @property
    def nothing(self) -> bool:
        """No limit was named: the body runs, and no daemon is needed."""
        return not self.hold and not self.spend

    @property
    def patience(self) -> float | None:
        """Seconds before a daemon that gives no answer counts as hung; None: it may take for ever."""
        timeout = self.timeout_seconds
        if timeout is None or timeout > PATIENCE_SECONDS_MAX:
            return None
        return timeout + GRACE_SECONDS

    def by_the_process(self) -> Asked:
        """The same, held until the process ends, not the connection."""
        return replace(self, by_process=True)

    def after(self, seconds: float) -> Asked:
        """The same, when so much of its time has passed."""
        if self.timeout_seconds is None:
            return self
        return replace(self, timeout_seconds=max(0.0, self.timeout_seconds - seconds))


def asked_of_concurrency(
    names: Names,
    occupy: int,
    timeout_seconds: float | None,
    rate_limit: Names,
    strict: bool,
) -> Asked:
    """The arguments of `concurrency` and `acquire`. Raises InvalidValue."""
    return Asked(
        slots_by_name(names, occupy),
        {} if rate_limit is None else slots_by_name(rate_limit, field="rate_limit"),
        check_timeout(timeout_seconds),
        bool(strict),
    )


def asked_of_rate_limit(
    names: Names, occupy: int, timeout_seconds: float | None, strict: bool
) -> Asked:
    """The arguments of `rate_limit`. Raises InvalidValue."""
    return Asked({}, slots_by_name(names, occupy), check_timeout(timeout_seconds), bool(strict))


class Limit(Struct, frozen=True):
    """A limit as it was when it was read (semantics.md 1).

    name; limit: slots that can be occupied at the same time; slot_decay_per_second: how many of the
    spent ones become free again; active: whether it is enforced; active_slots: occupied now, held +
    spent, rounded up; held: slots held; spent: slots spent, with the fraction that is left; waiting:
    requests in line; implicit: made by a request that named it, not by anyone's create.
    """

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    active_slots: int
    held: int
    spent: float
    waiting: int
    implicit: bool

    @classmethod
    def of(cls, record: wire.LimitRecord) -> Limit:
        return cls(*(getattr(record, field) for field in cls.__struct_fields__))


Answer = (
    wire.Granted
    | wire.Limit
    | wire.Limits
    | wire.Tickets
    | wire.DaemonStatus
    | wire.Done
    | wire.Loss
    | AtmostError
)


class Exchange:
    """Numbers requests, pairs answers with them, and knows who is inside which grant."""

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command
        self._frames = wire.FrameReader()
        self._last_request = 0
        self._inside: dict[Hashable, list[int]] = {}  # caller -> grants whose blocks it is in
        self.welcomed = False

    def hello(self) -> bytes:
        """The first bytes of a connection."""
        command = self._command
        if command is None:
            command = [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]
        return wire.encode(
            wire.Hello(
                protocol=wire.PROTOCOL_VERSION,
                session=os.urandom(wire.SESSION_BYTES),
                pid=os.getpid(),
                command=wire.shorten_command(command),
                user=_user(),
                client=f"atmost-python/{paths.version()}",
            )
        )

    def acquire(self, asked: Asked, caller: Hashable) -> tuple[int, bytes]:
        """Ask for slots. Returns the request's number, and the bytes to send."""
        number = self._last_request = self._last_request + 1
        return number, wire.encode(
            wire.Acquire(
                number,
                asked.hold,
                asked.spend,
                asked.timeout_seconds,
                asked.strict,
                self._inside.get(caller, []) if self._inside else [],
                asked.by_process,
            )
        )

    def ask(self, kind: type[wire.Message], *fields: Any) -> tuple[int, bytes]:
        """Any other request: its fields after the number, in their order."""
        number = self._last_request = self._last_request + 1
        return number, wire.encode(kind(number, *fields))

    def release(self, number: int) -> bytes:
        """Let go of whatever the request has."""
        return wire.encode(wire.Release(number))

    def enter(self, caller: Hashable, number: int) -> None:
        """The caller is inside this grant's block: it cannot wait for itself there."""
        self._inside.setdefault(caller, []).append(number)

    def leave(self, caller: Hashable, number: int) -> None:
        """The caller has left the block."""
        inside = self._inside.get(caller)
        if inside is not None:
            if number in inside:
                inside.remove(number)
            if not inside:
                self._inside.pop(caller, None)

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

        Raises ProtocolError, or what else the daemon has closed the conversation with: it may be no
        daemon of ours.
        """
        answers: list[tuple[int, Answer]] = []
        for body in self._frames.feed(data):
            try:
                message = wire.decode_daemon_message(body)
            except ValueError as error:
                raise ProtocolError(f"the daemon sent what is no message: {error}") from error
            if isinstance(message, wire.Welcome):
                self.welcomed = True
            elif not isinstance(message, wire.Failed):
                answers.append((message.request, message))
            else:
                failure = errors.from_wire(message.code, message.message, message.fields)
                if not message.request:
                    raise failure
                answers.append((message.request, failure))
        return answers


def unavailable(at: SocketPath, reason: str) -> DaemonUnavailable:
    """No daemon answers at this path."""
    return DaemonUnavailable(at.path, at.source, reason)


def said_by(at: SocketPath, error: AtmostError) -> AtmostError:
    """The error with which this conversation ended; that of the protocol says which one it was."""
    if isinstance(error, ProtocolError):
        return ProtocolError(f"from {at.path} ({at.source}): {error.problem}")
    return error


def none_answers(tried: list[tuple[SocketPath, str]]) -> DaemonUnavailable:
    """No daemon answers at any of these paths, for these reasons."""
    first, reason = tried[0]
    for other, why in tried[1:]:
        reason += f"; nor at {other.path} ({other.source}): {why}"
    return unavailable(first, reason)


def may_try_next(error: OSError) -> bool:
    """Whether the next socket may be tried: a daemon that is there is not replaced by another one."""
    return isinstance(error, FileNotFoundError | ConnectionRefusedError)


def why_not_connected(error: OSError) -> str:
    """The reason in words that help."""
    match error:
        case FileNotFoundError():
            return "there is no such socket"
        case ConnectionRefusedError():
            return "nobody listens there, or it is no socket"
        case PermissionError():
            return "this user may not connect to it"
        case TimeoutError():
            return f"no answer within {HELLO_SECONDS:g} s"
        case BlockingIOError():
            return "too many connections wait there to be accepted"
        case _:
            return error.strerror or str(error)


def _user() -> str:
    import pwd

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
