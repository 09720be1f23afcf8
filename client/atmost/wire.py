"""What travels between a client and the daemon. PROTOCOL.md says the same for people.

Rule 1: a frame is a 4-byte big-endian length and that many bytes of msgpack: an array [type, field, ...].
Rule 2: the length is checked before anything is allocated or decoded.
Rule 3: fields are only ever added at the end of a message, with a default; a change that an older
end would misread raises PROTOCOL_VERSION.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from atmost.errors import ProtocolError

PROTOCOL_VERSION: Final = 2
PROTOCOL_VERSION_LEAST: Final = 1  # either end may be upgraded before the other
FRAME_BYTES_MAX: Final = 64 * 1024  # a page of a listing; nothing longer is ever sent
PREFIX_BYTES: Final = 4
SESSION_BYTES: Final = 16  # enough that no two sessions ever draw the same
COMMAND_CHARS_MAX: Final = 200  # of a command line: what a table can show


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every message is: a msgpack array whose first element names its type."""


class Declaration(Message, frozen=True, array_like=True):
    """A limit as it shall be."""

    name: str
    limit: int
    slot_decay_per_second: float = 0.0
    active: bool = True


class TemplateDeclaration(Message, frozen=True, array_like=True):
    """What limits of these names shall be, once they are used; they are active."""

    match: str  # a pattern as a shell has it, for the whole name
    limit: int
    slot_decay_per_second: float = 0.0


# What a client sends


class Hello(Message, frozen=True, array_like=True, tag="hello"):
    """The first frame of a connection."""

    protocol: int  # the oldest version that the client speaks
    session: bytes  # SESSION_BYTES drawn at random; names this client across reconnects
    pid: int
    command: list[str]  # argv, shortened to COMMAND_CHARS_MAX in all
    user: str
    client: str  # implementation and version, for the operator
    newest: int = 0  # the newest version that the client speaks, if it is another
    slate: bool = False  # lend it one (slate.py): its descriptor comes with the Welcome


class Acquire(Message, frozen=True, array_like=True, tag="acquire"):
    """Ask for slots of one or several limits, all or nothing. Answer: Granted or Failed."""

    request: int  # chosen by the client, rising; names the request and then the grant
    hold: dict[str, int]  # slots that come back by Release, {limit: slots}
    spend: dict[str, int] = {}  # slots that come back by decay
    timeout_seconds: float | None = None  # None: wait for ever; 0: try once
    strict: bool = False
    inside: list[int] = []  # grants whose blocks the asking thread or task is in
    by_process: bool = False  # held until the process ends, not the connection
    seen: list[int] = []  # requests that only spent, whose grants have arrived here
    late: bool = False  # said again, but its time is up: tell what became of it, don't try anew


class Release(Message, frozen=True, array_like=True, tag="release"):
    """Let go of whatever the request has: its slots, its places in line, or nothing. No answer."""

    request: int


class Keep(Message, frozen=True, array_like=True, tag="keep"):
    """After a reconnect: this request was granted, and what it holds is still held. No answer, or
    Failed(grant_lost) if it could not be kept."""

    request: int
    hold: dict[str, int]
    token: int  # of its Granted
    by_process: bool = False


class Resume(Message, frozen=True, array_like=True, tag="resume"):
    """After a reconnect: all that this session still has was named on this connection, by Acquire or
    Keep; whatever else the daemon knows of it is let go of. Answer: Done, once that is so."""

    request: int


class CreateLimit(Message, frozen=True, array_like=True, tag="create_limit"):
    """Answer: Limit or Failed, as for all that change a limit, once the change is durable."""

    request: int
    name: str
    limit: int
    slot_decay_per_second: float = 0.0
    active: bool = True


class ReadLimit(Message, frozen=True, array_like=True, tag="read_limit"):
    """Answer: Limit or Failed."""

    request: int
    name: str


class UpdateLimit(Message, frozen=True, array_like=True, tag="update_limit"):
    """None leaves a field as it is."""

    request: int
    name: str
    limit: int | None = None
    slot_decay_per_second: float | None = None
    active: bool | None = None


class DeleteLimit(Message, frozen=True, array_like=True, tag="delete_limit"):
    """Answer: Done or Failed."""

    request: int
    name: str


class ListLimits(Message, frozen=True, array_like=True, tag="list_limits"):
    """Limits in the order of their names. Answer: Limits."""

    request: int
    after: str = ""  # go on behind this name


class ListTickets(Message, frozen=True, array_like=True, tag="list_tickets"):
    """Who holds and who waits, in the order of limit and arrival. Answer: Tickets or Failed."""

    request: int
    name: str | None = None  # of this limit only
    after_limit: str = ""  # go on behind this limit and ...
    after_number: int = 0  # ... this ticket of it


class Status(Message, frozen=True, array_like=True, tag="status"):
    """Answer: DaemonStatus."""

    request: int


class Recover(Message, frozen=True, array_like=True, tag="recover"):
    """What the daemon kept and cannot trust; it serves nobody until that is accepted. Answer: Loss or
    Failed."""

    request: int
    accept_loss: bool = False  # move it aside, and go on without


class Reload(Message, frozen=True, array_like=True, tag="reload"):
    """Read the configuration file again. Answer: Done or Failed."""

    request: int


class Draft(Message, frozen=True, array_like=True, tag="draft"):
    """A part of what limits and templates shall be, kept for ListChanges and Commit of this connection.
    Answer: Done or Failed."""

    request: int
    limits: list[Declaration]
    templates: list[TemplateDeclaration]  # in their order: the first that matches a name counts
    begin: bool = False  # forget what was drafted before


class ListChanges(Message, frozen=True, array_like=True, tag="list_changes"):
    """What a Commit of the draft would do. Answer: Changes or Failed."""

    request: int
    prune: bool = False  # limits and templates that are not in the draft are deleted
    after: int = 0  # go on behind so many of them


class Commit(Message, frozen=True, array_like=True, tag="commit"):
    """Do what ListChanges has told, all of it or nothing. Answer: Done or Failed."""

    request: int
    prune: bool
    version: int  # of those Changes


class ListTemplates(Message, frozen=True, array_like=True, tag="list_templates"):
    """Templates in their order: the first that matches a name counts. Answer: Templates."""

    request: int
    after: int = 0  # go on behind so many of them


class ListDeleted(Message, frozen=True, array_like=True, tag="list_deleted"):
    """Limits and templates of the configuration file that somebody has deleted since: what making them
    again would change. Answer: Changes, whose version means nothing."""

    request: int
    after: int = 0  # go on behind so many of them


class Watch(Message, frozen=True, array_like=True, tag="watch"):
    """What happens from now on, until a Release or the end of the connection. Answers: Events, one
    after another; or Failed."""

    request: int
    name: str | None = None  # at this limit only, be there one or not


class ReleaseGrant(Message, frozen=True, array_like=True, tag="release_grant"):
    """Take a grant's slots back, whosever it is; its holder is told Failed(grant_lost). Answer: Done
    or Failed."""

    request: int
    token: int  # of the grant


class ResetSpent(Message, frozen=True, array_like=True, tag="reset_spent"):
    """Nothing is spent any more at this limit. Answer: Limit or Failed."""

    request: int
    name: str


class Explain(Message, frozen=True, array_like=True, tag="explain"):
    """Why requests wait: those at one limit, or those of one process. Answer: Explanations or
    Failed."""

    request: int
    name: str | None = None
    pid: int | None = None


class ListStatistics(Message, frozen=True, array_like=True, tag="list_statistics"):
    """What happened since the daemon started, by limit in the order of names. Answer: Statistics."""

    request: int
    after: str = ""  # go on behind this name


ClientMessage = (
    Hello
    | Acquire
    | Release
    | Keep
    | Resume
    | CreateLimit
    | ReadLimit
    | UpdateLimit
    | DeleteLimit
    | ListLimits
    | ListTickets
    | Status
    | Recover
    | Reload
    | Draft
    | ListChanges
    | Commit
    | ListTemplates
    | ListDeleted
    | Watch
    | ReleaseGrant
    | ResetSpent
    | Explain
    | ListStatistics
)


# What the daemon sends


class Welcome(Message, frozen=True, array_like=True, tag="welcome"):
    """The answer to Hello."""

    protocol: int  # the version that both will speak
    daemon: str  # its version
    pid: int


class Granted(Message, frozen=True, array_like=True, tag="granted"):
    """The request has all of its slots."""

    request: int
    token: int  # fencing token: greater than every one granted before on any limit of this host
    waited_ns: int
    unguarded: list[str] = []  # inactive limits: nothing is occupied there


class Failed(Message, frozen=True, array_like=True, tag="failed"):
    """The request was refused; nothing was taken or changed. request 0: the connection itself."""

    request: int
    code: str  # errors.py
    message: str  # for people; a program looks at code and fields
    fields: dict[str, Any]


class LimitRecord(Message, frozen=True, array_like=True):
    """A limit as it is now: semantics.md 1."""

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    active_slots: int  # held + spent, rounded up to whole slots
    held: int
    spent: float  # with the fraction that has not decayed yet
    waiting: int  # requests in its line
    implicit: bool  # made by a request that named it, not by anyone's create
    origin: str = ""  # hand | file | template | implicit; empty: the daemon is too old to tell
    declared: str = ""  # what the configuration file says, if it is another thing


class TicketRecord(Message, frozen=True, array_like=True):
    """One request at one limit: it holds there or waits."""

    limit: str
    state: str  # held | waiting
    slots: int
    pid: int
    user: str
    command: str
    age_seconds: float  # holds, or waits, since
    place: int | None  # in this line, 1 is the head; None for a holder
    number: int  # order of arrival on this host
    token: int = 0  # of its grant; 0 while it waits


class Limit(Message, frozen=True, array_like=True, tag="limit"):
    request: int
    limit: LimitRecord


class Limits(Message, frozen=True, array_like=True, tag="limits"):
    """One page; ask again with after = the last name while `more`."""

    request: int
    limits: list[LimitRecord]
    more: bool


class Tickets(Message, frozen=True, array_like=True, tag="tickets"):
    """One page; ask again with after_* = the last ticket while `more`."""

    request: int
    tickets: list[TicketRecord]
    more: bool


class DaemonStatus(Message, frozen=True, array_like=True, tag="daemon_status"):
    request: int
    version: str
    pid: int
    uptime_seconds: float
    socket: str
    state_dir: str
    runtime_dir: str
    limits: int
    sessions: int
    held: int  # grants
    waiting: int  # requests
    trouble: str  # what an operator has to mend; empty when all is well


class Done(Message, frozen=True, array_like=True, tag="done"):
    request: int


class Loss(Message, frozen=True, array_like=True, tag="loss"):
    """What would be lost, or was."""

    request: int
    texts: list[str]  # for people, a sentence each; none: all can be trusted


class Event(Message, frozen=True, array_like=True):
    """Something that happened at a limit. What does not fit its kind has its default."""

    # created | changed | deleted | queued | granted | released | refused | timed_out | cancelled |
    # died | reconnected | daemon_started
    kind: str
    at: float  # seconds since 1970
    limit: str = ""
    number: int = 0  # the request's order of arrival on this host
    slots: int = 0
    pid: int = 0
    user: str = ""
    command: str = ""
    token: int = 0  # of the grant
    waited_seconds: float | None = None
    held_seconds: float | None = None
    reason: str = ""  # the code of an error, new settings, or what ended it: for people


class Events(Message, frozen=True, array_like=True, tag="events"):
    """What happened, in order. `missed`: so many more happened before these, and were left out since
    this client read too slowly."""

    request: int
    events: list[Event]
    missed: int = 0


class Lack(Message, frozen=True, array_like=True):
    """Why a request cannot go yet at one of its limits."""

    limit: str
    slots: int  # it asks here
    place: int  # in the line, 1 is the head
    ahead_slots: int  # asked by those ahead of it
    fits: bool  # it would fit now, but those ahead go first
    limit_slots: int
    held: int
    spent: float
    slot_decay_per_second: float
    holders: int  # how many
    longest: list[TicketRecord]  # some of them, who held longest first
    own: int  # slots that its own process holds here
    starts_in: (
        float | None
    )  # seconds until it goes as far as this limit is concerned; None: unknown
    exact: bool  # decay alone decides that; else it is an estimate from how long holders took
    mean_hold_seconds: float | None  # of recent holders


class Explanation(Message, frozen=True, array_like=True):
    """Why one request waits."""

    number: int  # order of arrival on this host
    pid: int
    user: str
    command: str
    waited_seconds: float
    gives_up_in: float | None  # seconds until its time-out; None: never
    slots: dict[str, int]  # all that it asks
    lacks: list[Lack]  # the limits for which it waits
    keeps: bool  # it was passed so often that its lines wait for it now
    lacks_total: int = 0  # how many limits it waits for, told here or not


class Explanations(Message, frozen=True, array_like=True, tag="explanations"):
    """Some of the requests that were asked for, in the order of arrival."""

    request: int
    waiting: list[Explanation]
    total: int  # how many wait, told here or not
    held: list[TicketRecord]  # what the process that was asked for holds; of a limit: who holds it
    limits: list[LimitRecord]  # the limit that was asked for
    held_total: int = 0  # how many there are of `held`, told here or not


class LimitStatistics(Message, frozen=True, array_like=True):
    """One limit as it is, and what happened there since the daemon started."""

    name: str
    limit: int
    active: bool
    implicit: bool
    held: int
    spent: float
    waiting: int
    oldest_wait_seconds: float  # 0: nobody waits
    grants: int
    releases: int
    refusals: dict[str, int]  # by the code of the error
    timeouts: int
    cancels: int
    deaths: int  # holders that died without a release
    wait_seconds: float  # of all grants together
    wait_buckets: list[int]  # grants by their wait; the last are those beyond all bounds
    hold_seconds: float  # of all releases together
    hold_buckets: list[int]
    mean_hold_seconds: float | None  # of recent holders
    origin: str = ""  # hand, file, template or implicit; empty: not known
    template: str = ""  # the pattern of the template that has made it; empty: none, or not known


class DaemonStatistics(Message, frozen=True, array_like=True):
    """The daemon itself."""

    uptime_seconds: float
    starts: int  # daemons here since the host started, this one included
    connections: int
    sessions: int
    watchers: int
    events_missed: int  # by all watchers together
    loop_delay_seconds_max: float  # how late its event loop was, since this was last asked
    loop_delay_seconds_mean: float
    journal_bytes: int
    journal_records: int
    journal_replacements: int
    state_age_seconds: float  # since the state was saved
    state_saves: int


class Statistics(Message, frozen=True, array_like=True, tag="statistics"):
    """One page; ask again with after = the last name while `more`."""

    request: int
    limits: list[LimitStatistics]
    more: bool
    bucket_seconds: list[float]  # the upper bounds of the buckets, ascending
    daemon: DaemonStatistics


class Change(Message, frozen=True, array_like=True):
    """What a Commit does to one limit or template."""

    kind: str  # limit | template
    name: str  # of the limit, or the template's pattern
    was: Declaration | None  # None: it is new
    becomes: Declaration | None  # None: it is deleted
    place: int = 0  # of a template that will stand elsewhere in their order, from 1


class Changes(Message, frozen=True, array_like=True, tag="changes"):
    """One part; ask again behind those you have while `more`."""

    request: int
    changes: list[Change]
    more: bool
    version: int  # of the limits that they were made for


class TemplateRecord(Message, frozen=True, array_like=True):
    """A template as it is now."""

    match: str
    limit: int
    slot_decay_per_second: float
    origin: str  # hand | file
    declared: str  # what the configuration file says, if it is another thing


class Templates(Message, frozen=True, array_like=True, tag="templates"):
    """One page; ask again behind those you have while `more`."""

    request: int
    templates: list[TemplateRecord]
    more: bool


DaemonMessage = (
    Welcome
    | Granted
    | Failed
    | Limit
    | Limits
    | Tickets
    | DaemonStatus
    | Done
    | Loss
    | Changes
    | Templates
    | Events
    | Explanations
    | Statistics
)

# Requests that version 1 does not know.
NEW_IN_2: frozenset[type[Message]] = frozenset(
    {
        *(Reload, Draft, ListChanges, Commit, ListTemplates, ListDeleted),
        *(Watch, ReleaseGrant, ResetSpent, Explain, ListStatistics),
    }
)


def spoken(hello: Hello) -> int:
    """The protocol version that a daemon and this client speak; 0 if there is none."""
    version = min(max(hello.protocol, hello.newest), PROTOCOL_VERSION)
    return version if version >= max(hello.protocol, PROTOCOL_VERSION_LEAST) else 0


_prefix = struct.Struct(">I").unpack_from
_prefix_of = struct.Struct(">I").pack
_encoder = msgspec.msgpack.Encoder()

# Made on first use: it takes a millisecond each, and a process needs one of them, if any.
decode_client_message: Callable[[bytes | memoryview], ClientMessage]
decode_daemon_message: Callable[[bytes | memoryview], DaemonMessage]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[[bytes | memoryview], Message]:
        messages = {
            "decode_client_message": ClientMessage,
            "decode_daemon_message": DaemonMessage,
        }
        if name not in messages:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        decode = globals()[name] = msgspec.msgpack.Decoder(messages[name]).decode
        return decode


def encode(message: Message) -> bytes:
    """The message as one frame. Raises ProtocolError if it is longer than a frame may be."""
    body = _encoder.encode(message)
    length = len(body)
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"a {type(message).__name__} of {length} bytes fits no frame")
    return _prefix_of(length) + body


class FrameReader:
    """Cuts a stream of bytes into the bodies of its frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a frame whose end has not come yet

    def feed(self, data: bytes | memoryview) -> Iterable[memoryview]:
        """The bodies that are complete with `data`. Raises ProtocolError at a prefix over the limit."""
        if not self._rest:
            view = memoryview(data)
            length = len(view) - PREFIX_BYTES
            if 0 <= length <= FRAME_BYTES_MAX and _prefix(data) == (length,):
                return (view[PREFIX_BYTES:],)  # one whole frame, as nearly always
        return self._cut(data)

    def _cut(self, data: bytes | memoryview) -> Iterator[memoryview]:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        view = memoryview(data)
        start, end = 0, len(data)
        while (body := start + PREFIX_BYTES) <= end:
            (length,) = _prefix(data, start)
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(
                    f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed"
                )
            behind = body + length
            if behind > end:
                break
            yield view[body:behind]
            start = behind
        if start < end:
            self._rest = bytes(view[start:])


def shorten_command(argv: list[str]) -> list[str]:
    """argv cut to COMMAND_CHARS_MAX characters in all, as Hello carries it."""
    short: list[str] = []
    left = COMMAND_CHARS_MAX
    for word in argv:
        if left <= 0:
            break
        short.append(word[:left].encode("utf-8", "replace").decode())
        left -= len(word) + 1
    return short


def encoded_bytes(message: Message) -> int:
    """How many bytes of a frame this part of a message takes."""
    return len(_encoder.encode(message))
