"""The journal's records, and their bytes. Pure: no file is touched here.

A journal is a head and then frames, one for each turn of the loop that changed something:

    head:  magic (8) | version u32 | boot id (36) | CRC-32 of those
    frame: length u32 | CRC-32 of the body | CRC-32 of those two | body: a msgpack array of records

All numbers are big-endian. A record says what happened, never what should: replaying it decides
nothing.

Rule 1: a frame that was cut off at the end of the file is dropped: its turn was never answered. The
length has a checksum of its own, so that a cut can be told from damage.
Rule 2: anything else that is wrong is damage, and a damaged journal is not used at all.
Rule 3: a journal of another run of the host is void: none of its processes lives.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import msgspec

from atmostd.snapshot import SavedDeclaration, SavedTemplate

MAGIC = b"ATMOSTJ\n"
VERSION = 2  # 1 had no origins
VERSIONS_READ = (1, 2)
BOOT_ID_BYTES = 36

_HEAD = struct.Struct(f">8sI{BOOT_ID_BYTES}s")
_HEAD_BYTES = _HEAD.size + 4
_PREFIX = struct.Struct(">II")
_PREFIX_BYTES = _PREFIX.size + 4


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every record is: a msgpack array whose first element names its type."""


class SessionBegan(Record, frozen=True, array_like=True, tag="s"):
    """A client process that has tickets. `serial` stands for it in the records that follow."""

    serial: int
    session: bytes
    pid: int  # 0: of another pid namespace
    pid_told: int  # the client's own word for it
    started: int  # when that process did, in clock ticks since boot; 0: not to be seen
    inode: int  # of its pidfd; the same for all processes before Linux 6.9
    uid: int
    user: str
    command: str


class SessionEnded(Record, frozen=True, array_like=True, tag="e"):
    serial: int


class LimitIs(Record, frozen=True, array_like=True, tag="l"):
    """A limit when it was made, and in a checkpoint."""

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    implicit: bool
    spent_units: str  # level.py's, in decimal: they outgrow 64 bits
    settled_at: int
    passers: list[int]
    origin: str = ""  # hand | template | implicit; empty in version 1, where `implicit` tells


class Edited(Record, frozen=True, array_like=True, tag="c"):
    """New settings, before whoever fits now goes. rate: None if it was not touched."""

    name: str
    limit: int
    slot_decay_per_second: float | None
    active: bool
    implicit: bool
    at: int
    origin: str = ""


class Declares(Record, frozen=True, array_like=True, tag="w"):
    """Templates in force, and what the configuration file last said: whenever that changes, and in a
    checkpoint."""

    templates: list[SavedTemplate]
    said_limits: list[SavedDeclaration]
    said_templates: list[SavedTemplate]


class LimitDeleted(Record, frozen=True, array_like=True, tag="d"):
    name: str


class Arrived(Record, frozen=True, array_like=True, tag="a"):
    """A ticket stands in its lines."""

    number: int
    serial: int
    request: int
    hold: dict[str, int]
    spend: dict[str, int]
    asked_at: int
    deadline: int | None
    strict: bool
    inside: list[int]
    by_process: bool
    kept: bool = False  # its grant is from before; the token is the client's word for it


class Went(Record, frozen=True, array_like=True, tag="g"):
    """A ticket was granted: it takes its slots."""

    number: int
    token: int
    at: int
    unguarded: list[str] = []  # limits that were inactive then


class Stands(Record, frozen=True, array_like=True, tag="t"):
    """In a checkpoint: a ticket that was granted before, with what it still has on the books."""

    number: int
    token: int
    at: int
    taken: list[str]  # limits where it holds slots
    unguarded: list[str]  # limits that were inactive when it was granted


class Gone(Record, frozen=True, array_like=True, tag="x"):
    """A ticket has nothing any more, and its outcome need not be told again."""

    number: int


class SpentReset(Record, frozen=True, array_like=True, tag="z"):
    """An operator has set what was spent to nothing."""

    name: str
    at: int


class Revoked(Record, frozen=True, array_like=True, tag="r"):
    """An operator has released a grant of this client, which may not know it yet."""

    serial: int
    request: int
    names: list[str]
    reason: str


class Counted(Record, frozen=True, array_like=True, tag="n"):
    """In a checkpoint: the last numbers given."""

    arrivals: int
    next_token: int
    starts: int = 0  # of daemons, since the host started


AnyRecord = (
    SessionBegan
    | SessionEnded
    | LimitIs
    | Edited
    | Declares
    | LimitDeleted
    | Arrived
    | Went
    | Stands
    | Gone
    | Counted
    | SpentReset
    | Revoked
)


class Damaged(Exception):
    """These bytes are no journal that may be used; the message says why."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyRecord])


def head(boot_id: str) -> bytes:
    """The beginning of a journal of this run of the host."""
    data = _HEAD.pack(MAGIC, VERSION, boot_id.encode().ljust(BOOT_ID_BYTES))
    return data + crc32(data).to_bytes(4, "big")


def frame(records: Sequence[Record]) -> bytes:
    """One turn's records."""
    body = _encoder.encode(records)
    prefix = _PREFIX.pack(len(body), crc32(body))
    return prefix + crc32(prefix).to_bytes(4, "big") + body


def read(data: bytes, boot_id: str) -> list[AnyRecord] | None:
    """The records; None if the journal is of another run of the host. Raises Damaged."""
    if len(data) < _HEAD_BYTES:
        raise Damaged(f"it is cut off after {len(data)} bytes")
    magic, version, boot = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise Damaged("it does not begin as a journal does")
    if crc32(data[: _HEAD.size]) != int.from_bytes(data[_HEAD.size : _HEAD_BYTES], "big"):
        raise Damaged("the checksum of its head is wrong: it was damaged")
    if boot.decode("ascii", "replace").rstrip() != boot_id:
        return None
    if version not in VERSIONS_READ:
        raise Damaged(f"it is of version {version}; this atmostd reads up to {VERSION}")
    records: list[AnyRecord] = []
    view = memoryview(data)
    at = _HEAD_BYTES
    while len(data) - at >= _PREFIX_BYTES:
        body = at + _PREFIX_BYTES
        length, checksum = _PREFIX.unpack_from(data, at)
        if crc32(view[at : at + _PREFIX.size]) != int.from_bytes(view[at + 8 : body], "big"):
            raise Damaged(f"the frame at byte {at} was damaged")
        if len(data) - body < length:
            break  # cut off: it was never answered
        if crc32(view[body : body + length]) != checksum:
            raise Damaged(f"the records at byte {body} were damaged")
        try:
            records += _decoder.decode(view[body : body + length])
        except (ValueError, RecursionError) as error:
            raise Damaged(f"the records at byte {body} are none: {error}") from error
        at = body + length
    _check_order(records)
    return records


def _check_order(records: Sequence[AnyRecord]) -> None:
    """Whatever a record speaks of was told of before. Raises Damaged."""
    clients: set[int] = {0}  # 0: one that had died
    tickets: set[int] = set()
    limits: set[str] = set()
    for record in records:
        match record:
            case SessionBegan(serial=serial):
                clients.add(serial)
            case LimitIs(name=name):
                limits.add(name)
            case LimitDeleted(name=name):
                limits.discard(name)
            case Edited(name=name) | SpentReset(name=name) if name not in limits:
                raise Damaged(f"it edits {name!r}, which it does not know")
            case Revoked(serial=serial) if serial not in clients:
                raise Damaged(f"it revokes a grant of client {serial}, which it does not know")
            case Arrived(number=number, serial=serial):
                if serial not in clients:
                    raise Damaged(f"ticket {number} is of a client that it does not know")
                tickets.add(number)
            case Went(number=number) | Stands(number=number) if number not in tickets:
                raise Damaged(f"ticket {number} is granted, which it does not know")
            case Gone(number=number):
                tickets.discard(number)
