"""The durable state as bytes, and back. Pure: no file is touched here.

    magic (8) | schema u32 | generation u64 | length u64 | checksum (16) | msgpack body

All numbers are big-endian. The checksum (BLAKE2b) covers everything else.

Rule 1: bytes that were cut, changed or made by something else are refused with the reason.
Rule 2: to change the body, raise SCHEMA and keep reading the older ones; a newer one is never guessed at.
Rule 3: the header is the same in every schema, so that a newer file can be told from a damaged one.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TypeVar, cast

import msgspec

MAGIC = b"ATMOST\r\n"  # the line end shows a file that was sent as text
SCHEMA = 2  # 1 had no origins, templates and words of the configuration file
CHECKSUM_BYTES = 16

_HEAD = struct.Struct(">8sIQQ")
_HEADER_BYTES = _HEAD.size + CHECKSUM_BYTES


class SavedLimit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One limit: its settings, and what was spent when the state was taken."""

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    implicit: bool
    spent_units: str  # level.py's units, in decimal: they outgrow 64 bits
    origin: str = ""  # hand | template | implicit; empty in schema 1, where `implicit` tells


class SavedDeclaration(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A limit as the configuration file declares it."""

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool


class SavedTemplate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A template."""

    match: str
    limit: int
    slot_decay_per_second: float


class State(msgspec.Struct, frozen=True, array_like=True):
    """All that outlives the daemon."""

    boot_id: str  # of the host's run in which it was taken
    boot_time: int  # when, in nanoseconds of that run
    wall_time: int  # when, in nanoseconds since 1970: across reboots
    token_mark: int  # no fencing token from this one on was given
    limits: list[SavedLimit]
    templates: list[SavedTemplate] = []  # in force, in their order
    said_limits: list[SavedDeclaration] = []  # by the configuration file, when it was last read
    said_templates: list[SavedTemplate] = []
    nobody_holds: bool = False  # since it was taken; of a daemon that has stopped


class SnapshotError(Exception):
    """These bytes are no state that this daemon may use; the message says why."""


class NewerSchema(SnapshotError):
    """An undamaged state that only a newer daemon can read."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(State)


def to_bytes(state: State, generation: int) -> bytes:
    """The state as one file. `generation` rises with every file written."""
    body = _encoder.encode(state)
    head = _HEAD.pack(MAGIC, SCHEMA, generation, len(body))
    return head + _checksum(head, body) + body


Part = TypeVar("Part", SavedLimit, SavedDeclaration)


def encoded(part: Part) -> Part:
    """The same as bytes, which a state or a record of the journal is made of at once: 100,000 of them are
    encoded a few at a time, while others have their turn. It has no fields any more."""
    return cast(Part, msgspec.Raw(_encoder.encode(part)))


def from_bytes(data: bytes) -> tuple[State, int]:
    """The state and its generation. Raises SnapshotError."""
    if len(data) < _HEADER_BYTES:
        raise SnapshotError(f"it is cut off after {len(data)} bytes")
    head = data[: _HEAD.size]
    magic, schema, generation, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise SnapshotError("it does not begin as a state file does")
    body = data[_HEADER_BYTES:]
    if length != len(body):
        raise SnapshotError(f"it has {len(body)} bytes of {length}")
    if _checksum(head, body) != data[_HEAD.size : _HEADER_BYTES]:
        raise SnapshotError("its checksum is wrong: it was damaged")
    if schema > SCHEMA:
        raise NewerSchema(
            f"it was written by a newer atmostd (schema {schema}; this one reads up to {SCHEMA})"
        )
    try:
        return _decoder.decode(body), generation
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"its contents are no state: {error}") from error


def _checksum(head: bytes, body: bytes) -> bytes:
    digest = blake2b(head, digest_size=CHECKSUM_BYTES)
    digest.update(body)
    return digest.digest()
