"""Every error atmost raises, as one tree.

    AtmostError
    ├── InvalidValue        (ValueError)       a name, a number or a time that no limit can have
    ├── LimitNotFound                          no limit of that name, and none may be made
    ├── LimitExists                            create, but the name is taken
    ├── LimitInactive                          strict, but the limit is not enforced
    ├── LimitDeleted                           deleted while the request waited
    ├── GrantLost                              held, but the daemon could not keep it: others may be inside
    ├── GrantNotFound                          nobody holds a grant of this token
    ├── NeverFits                              asks for more slots than the limit has
    ├── SlotDecayRequired                      rate_limit on a limit whose slots never come back
    ├── AcquireTimeout      (TimeoutError)     still in the line when its time was up
    ├── WouldDeadlock                          waits for slots that only the caller itself can release
    ├── PermissionDenied    (PermissionError)  may use limits, but not change them
    ├── StateNotSaved       (OSError)          the change could not be made durable, so it was not made
    ├── StateUnavailable                       the state cannot be trusted; an operator has to decide
    ├── TooMany                                a bound against abuse was reached
    ├── ConfigInvalid                          a file that declares settings or limits has mistakes
    ├── LimitsChanged                          what was to be committed was made for limits as they were
    ├── DaemonUnavailable   (ConnectionError)  no daemon answers
    ├── DaemonOutdated                         the daemon is older than this client, and can't do that
    └── ProtocolError                          the two ends do not understand each other

Rule 1: an error is its `code` and its fields; the message is made from them, on either side of the wire.
Rule 2: every message says what happened, to which limit or path, and what to do next.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

__all__ = [
    "AcquireTimeout",
    "AtmostError",
    "ConfigInvalid",
    "DaemonOutdated",
    "DaemonUnavailable",
    "GrantLost",
    "GrantNotFound",
    "InvalidValue",
    "LimitDeleted",
    "LimitExists",
    "LimitInactive",
    "LimitNotFound",
    "LimitsChanged",
    "NeverFits",
    "PermissionDenied",
    "ProtocolError",
    "SlotDecayRequired",
    "StateNotSaved",
    "StateUnavailable",
    "TooMany",
    "WouldDeadlock",
    "from_wire",
]

HOLDERS_IN_MESSAGE_MAX = 3  # more would hide the sentence; the `holders` field has those told


class AtmostError(Exception):
    """The root of every error here. `code` and `fields` are what crosses the wire."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **fields: Any) -> None:
        super().__init__(message)
        self.fields: dict[str, Any] = fields

    def __reduce__(self) -> tuple[Any, ...]:
        # An error raised in a worker process is pickled; its constructor takes fields, not a message.
        return from_wire, (self.code, str(self), self.fields)


class InvalidValue(AtmostError, ValueError):
    """A value that breaks a rule of semantics.md 1 or 2. Nothing was sent or changed."""

    code = "invalid_value"

    def __init__(self, field: str, value: str, expected: str) -> None:
        super().__init__(
            f"{field}={value} is not valid: expected {expected}",
            field=field,
            value=value,
            expected=expected,
        )
        self.field = field
        self.value = value
        self.expected = expected


class LimitNotFound(AtmostError):
    """`names`: every name that has no limit."""

    code = "limit_not_found"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"no limit named {_quoted(names)}; make it with: "
            f"atmost create {shlex.quote(names[0])} --limit N",
            names=list(names),
        )
        self.names = list(names)


class LimitExists(AtmostError):
    """`name`: the name that is taken."""

    code = "limit_exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a limit named {name!r} already; change it with: "
            f"atmost update {shlex.quote(name)}",
            name=name,
        )
        self.name = name


class LimitInactive(AtmostError):
    """`names`: every name whose limit is not enforced, so that strict=True refuses to run."""

    code = "limit_inactive"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"not enforced (inactive): {_quoted(names)}; strict=True never runs unguarded; "
            f"activate it with: atmost enable {shlex.quote(names[0])}",
            names=list(names),
        )
        self.names = list(names)


class LimitDeleted(AtmostError):
    """`name`: the limit that was deleted while the request stood in its line."""

    code = "limit_deleted"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"limit {name!r} was deleted while this request waited for it; "
            f"make it again with: atmost create {shlex.quote(name)} --limit N",
            name=name,
        )
        self.name = name


class GrantLost(AtmostError):
    """What was granted is no longer held, though nobody here released it: others may be inside.
    `names`: the limits; `reason`: why it could not be kept."""

    code = "grant_lost"

    def __init__(self, names: Sequence[str], reason: str) -> None:
        super().__init__(
            f"the slots of {_quoted(names)} are no longer held: {reason}; others may have been given "
            "them, so check what this block did, and let the resource compare fencing tokens",
            names=list(names),
            reason=reason,
        )
        self.names = list(names)
        self.reason = reason


class GrantNotFound(AtmostError):
    """`token`: no grant of it holds slots; it may have been released a moment ago."""

    code = "grant_not_found"

    def __init__(self, token: int) -> None:
        super().__init__(
            f"no grant {token} holds slots, or not any more; see who holds what with: atmost ps",
            token=token,
        )
        self.token = token


class NeverFits(AtmostError):
    """`slots` were asked of limit `name`, which has `limit` in all: waiting could not help."""

    code = "never_fits"

    def __init__(self, name: str, slots: int, limit: int) -> None:
        super().__init__(
            f"{_slots(slots)} of {name!r} can never be had at once: its limit is {limit}; "
            f"ask for fewer, or raise it with: atmost update {shlex.quote(name)} --limit {slots}",
            name=name,
            slots=slots,
            limit=limit,
        )
        self.name = name
        self.slots = slots
        self.limit = limit


class SlotDecayRequired(AtmostError):
    """`name`: a limit without slot decay, whose spent slots would never come back."""

    code = "slot_decay_required"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"rate_limit needs a slot decay, and limit {name!r} has none; "
            f"set one with: atmost update {shlex.quote(name)} --rate 100/min",
            name=name,
        )
        self.name = name


class AcquireTimeout(AtmostError, TimeoutError):
    """Still waiting when `timeout_seconds` had passed.

    slots: what was asked, {name: slots}. waited_seconds: for how long. places: the place in each
    line, 1 is the head. holders: some of those who hold the slots, each a mapping with limit,
    slots, pid, user, command, age_seconds.
    """

    code = "acquire_timeout"

    def __init__(
        self,
        slots: Mapping[str, int],
        waited_seconds: float,
        places: Mapping[str, int],
        holders: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        asked = ", ".join(f"{_slots(count)} of {name!r}" for name, count in slots.items())
        line = ", ".join(f"{place} in line for {name!r}" for name, place in places.items())
        super().__init__(
            f"no {asked} within {waited_seconds:.3g} s"
            + (f": number {line}" if line else "")
            + _held_by(holders)
            + "; see who holds and who waits with: atmost ps",
            slots=dict(slots),
            waited_seconds=waited_seconds,
            places=dict(places),
            holders=[dict(holder) for holder in holders],
        )
        self.slots = dict(slots)
        self.waited_seconds = waited_seconds
        self.places = dict(places)
        self.holders = [dict(holder) for holder in holders]

    @property
    def names(self) -> list[str]:
        """The limits that were asked for."""
        return list(self.slots)

    @property
    def place(self) -> int:
        """The place in the longest line, 1 is the head; 0 when it stood in none."""
        return max(self.places.values(), default=0)


class WouldDeadlock(AtmostError):
    """The caller already holds `held` of limit `name` and would wait for itself for ever."""

    code = "would_deadlock"

    def __init__(self, name: str, slots: int, held: int, limit: int) -> None:
        super().__init__(
            f"this thread or task holds {_slots(held)} of {name!r} (limit {limit}) and waits for "
            f"{slots} more: only it could release them; leave the outer block first, "
            f"give a timeout_seconds, or raise the limit with: "
            f"atmost update {shlex.quote(name)} --limit {held + slots}",
            name=name,
            slots=slots,
            held=held,
            limit=limit,
        )
        self.name = name
        self.slots = slots
        self.held = held
        self.limit = limit


class PermissionDenied(AtmostError, PermissionError):
    """`action` needs root or the daemon's own user; the caller has uid `uid`."""

    code = "permission_denied"

    def __init__(self, action: str, uid: int) -> None:
        super().__init__(
            f"uid {uid} may use limits but not {action}: ask root, the user who runs the daemon, or "
            "somebody of its admin group (of a service: atmost-admin)",
            action=action,
            uid=uid,
        )
        self.action = action
        self.uid = uid


class StateNotSaved(AtmostError, OSError):
    """The change could not be written to `path`, so it was not made. `reason` is the system's word."""

    code = "state_not_saved"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"nothing was changed, because the state could not be written to {path}: {reason}; "
            "mend that and try again (limits go on being enforced)",
            path=path,
            reason=reason,
        )
        self.path = path
        self.reason = reason

    def of_second_try(self) -> StateNotSaved:
        """The same, where the answer to a first try was lost: that one may have made the change."""
        said = StateNotSaved(self.path, self.reason)
        said.args = (
            "the connection was lost, so it is not known whether this was changed before; now the state "
            f"could not be written to {self.path}: {self.reason}; mend that and try again",
        )
        return said


class StateUnavailable(AtmostError):
    """The daemon runs, but what it kept at `path` cannot be trusted (`reason`), and opening every
    limit instead is an operator's decision."""

    code = "state_unavailable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the daemon's state at {path} cannot be trusted: {reason}; put a backup back and "
            "restart it, or see what would be lost with: atmost recover",
            path=path,
            reason=reason,
        )
        self.path = path
        self.reason = reason


class TooMany(AtmostError):
    """A bound against abuse was reached. `what`: of what there are too many; `at_most`: the bound;
    `setting`: what an administrator raises."""

    code = "too_many"

    def __init__(self, what: str, at_most: int, setting: str) -> None:
        super().__init__(
            f"too many {what}: at most {at_most}; use fewer, or have the setting {setting!r} of the "
            "daemon raised",
            what=what,
            at_most=at_most,
            setting=setting,
        )
        self.what = what
        self.at_most = at_most
        self.setting = setting


class ConfigInvalid(AtmostError):
    """The file at `path` has `mistakes`, each a sentence; nothing of it is in force."""

    code = "config_invalid"

    def __init__(self, path: str, mistakes: Sequence[str]) -> None:
        more = len(mistakes) - 1
        super().__init__(
            f"{path}: {mistakes[0] if mistakes else 'it is wrong'}"
            + (f" (and {_mistakes(more)} more)" if more > 0 else "")
            + "; nothing of it was taken: mend that and try again",
            path=path,
            mistakes=list(mistakes),
        )
        self.path = path
        self.mistakes = list(mistakes)


class LimitsChanged(AtmostError):
    """Limits or templates were changed since the changes to commit were listed; nothing was done."""

    code = "limits_changed"

    def __init__(self) -> None:
        super().__init__(
            "somebody else has changed limits meanwhile, so nothing was done: look at what would "
            "change now, and try again"
        )


class DaemonUnavailable(AtmostError, ConnectionError):
    """No daemon answers. `path`: the socket that was tried; `source`: where that path came from;
    `advice`: what to do next, where that is not simply to start one there."""

    code = "daemon_unavailable"

    def __init__(self, path: str, source: str, reason: str, advice: str = "") -> None:
        is_default = source.startswith("default")
        command = "atmost daemon start" if is_default else f"atmostd --socket {shlex.quote(path)}"
        super().__init__(
            f"no atmost daemon at {path} ({source}): {reason}; "
            + (advice or f"start one with: {command}"),
            path=path,
            source=source,
            reason=reason,
            **({"advice": advice} if advice else {}),
        )
        self.path = path
        self.source = source
        self.reason = reason
        self.advice = advice


class DaemonOutdated(AtmostError):
    """The daemon runs an older version, which does not know this request. `what`: the request;
    `version`: of the protocol that the daemon speaks. Nothing was sent."""

    code = "daemon_outdated"

    def __init__(self, what: str, version: int) -> None:
        super().__init__(
            f"the daemon is older than this client (protocol version {version}) and does not know "
            f"{what!r}; restart it, if it was upgraded since it started",
            what=what,
            version=version,
        )
        self.what = what
        self.version = version


class ProtocolError(AtmostError):
    """`problem`: what the other end sent that PROTOCOL.md does not allow. The connection is closed."""

    code = "protocol_error"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}; the client and the daemon may be of different versions: "
            "compare them with: atmost status",
            problem=problem,
        )
        self.problem = problem


def from_wire(code: str, message: str, fields: Mapping[str, Any]) -> AtmostError:
    """The error of this `code`, from the fields that we know of; what we do not understand, from a
    newer daemon, becomes an AtmostError with its message."""
    for error in AtmostError.__subclasses__():
        if error.code == code:
            make: Callable[..., AtmostError] = error
            init = vars(error)["__init__"].__code__
            known = init.co_varnames[1 : init.co_argcount]
            with contextlib.suppress(TypeError, ValueError, LookupError, AttributeError):
                return make(**{field: fields[field] for field in known if field in fields})
    return AtmostError(message, **fields)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _mistakes(count: int) -> str:
    return "1 mistake" if count == 1 else f"{count} mistakes"


def _slots(count: int) -> str:
    return "1 slot" if count == 1 else f"{count} slots"


def _held_by(holders: Sequence[Mapping[str, Any]]) -> str:
    if not holders:
        return ""
    told = [
        f"pid {holder['pid']} ({holder['command']}) since {holder['age_seconds']:.3g} s"
        for holder in holders[:HOLDERS_IN_MESSAGE_MAX]
    ]
    more = len(holders) - len(told)
    return "; held by " + ", ".join(told) + (f" and {more} more" if more else "")
