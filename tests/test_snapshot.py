"""The state as bytes: what was written is read again, and nothing else ever is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmostd import snapshot
from atmostd.snapshot import (
    CHECKSUM_BYTES,
    MAGIC,
    SCHEMA,
    NewerSchema,
    SavedLimit,
    SnapshotError,
    State,
)

HEADER_BYTES = 44  # magic 8, schema 4, generation 8, length 8, checksum 16

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
counts = st.integers(0, 2**63 - 1)
rates = st.floats(0, allow_nan=False, allow_infinity=False)
limits = st.builds(
    SavedLimit,
    name=texts,
    limit=counts,
    slot_decay_per_second=rates,
    active=st.booleans(),
    implicit=st.booleans(),
    spent_units=st.integers(0, 10**60).map(str),
)
states = st.builds(
    State,
    boot_id=texts,
    boot_time=counts,
    wall_time=counts,
    token_mark=counts,
    limits=st.lists(limits, max_size=5),
)

REALISTIC = State(
    boot_id="6ff1ab0c-5b2b-4a4e-8d1c-0c8f6d8a3b52",
    boot_time=123_456_789_012_345,
    wall_time=1_795_456_789_012_345_678,
    token_mark=1_000_001,
    limits=[
        SavedLimit("database", 10, 0.0, True, False, "0"),
        SavedLimit("api größe 🐘", 100, 1.6666666666666667, True, False, "4" * 30),
        SavedLimit("made by use", 1, 0.0, False, True, "0"),
        *(SavedLimit(f"worker-{n}", n, n / 8, n % 3 > 0, False, str(n**9)) for n in range(20)),
    ],
)
DATA = snapshot.to_bytes(REALISTIC, generation=77)


@dataclass(frozen=True)
class Header:
    """A file's head, taken apart without the code that is tested."""

    magic: bytes = MAGIC
    schema: int = SCHEMA
    generation: int = 77
    length: int | None = None

    def sealed(self, body: bytes) -> bytes:
        """A file with this head, and a checksum that is right for it."""
        length = len(body) if self.length is None else self.length
        head = struct.pack(">8sIQQ", self.magic, self.schema, self.generation, length)
        return head + blake2b(head + body, digest_size=CHECKSUM_BYTES).digest() + body


BODY = DATA[HEADER_BYTES:]


@given(states, st.integers(0, 2**64 - 1))
def test_what_was_written_is_read_again(state: State, generation: int) -> None:
    assert snapshot.from_bytes(snapshot.to_bytes(state, generation)) == (state, generation)


def test_parts_that_are_encoded_already_make_the_same_bytes() -> None:
    parts = msgspec.structs.replace(
        REALISTIC,
        limits=[snapshot.encoded(limit) for limit in REALISTIC.limits],
        said_limits=[snapshot.encoded(said) for said in REALISTIC.said_limits],
    )
    assert snapshot.to_bytes(parts, generation=77) == DATA
    assert REALISTIC.limits


def test_the_format_is_what_its_module_says() -> None:
    assert Header().sealed(msgspec.msgpack.encode(REALISTIC)) == DATA
    assert snapshot.from_bytes(DATA) == (REALISTIC, 77)


def test_a_file_that_was_cut_anywhere_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(SnapshotError):
            snapshot.from_bytes(DATA[:length])


def test_a_file_with_more_behind_it_is_refused() -> None:
    for more in (b"\0", b"\n", DATA):
        with pytest.raises(SnapshotError):
            snapshot.from_bytes(DATA + more)


def test_a_file_with_any_bit_flipped_is_refused() -> None:
    """Also none that is only read as another one, or as that of a newer daemon."""
    damaged = bytearray(DATA)
    for at in range(len(DATA)):
        for bit in range(8):
            damaged[at] ^= 1 << bit
            with pytest.raises(SnapshotError) as caught:
                snapshot.from_bytes(bytes(damaged))
            assert type(caught.value) is SnapshotError
            damaged[at] ^= 1 << bit
    assert damaged == DATA


def test_a_file_with_a_block_of_zeros_is_refused() -> None:
    """What a file system may leave after a power cut."""
    for start in range(0, len(DATA), 64):
        zeros = DATA[:start] + bytes(len(DATA[start : start + 64])) + DATA[start + 64 :]
        with pytest.raises(SnapshotError):
            snapshot.from_bytes(zeros)
    with pytest.raises(SnapshotError):
        snapshot.from_bytes(bytes(len(DATA)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is cut off after 0 bytes"),
        (DATA[: HEADER_BYTES - 1], f"it is cut off after {HEADER_BYTES - 1} bytes"),
        (DATA[:-1], f"it has {len(BODY) - 1} bytes of {len(BODY)}"),
        (DATA[:-1] + b"?", "its checksum is wrong: it was damaged"),
        (DATA.replace(b"\r\n", b"\n", 1) + b"?", "it does not begin as a state file does"),
        (b"x" * 1000, "it does not begin as a state file does"),
        (Header(magic=b"ATMOST\n\n").sealed(BODY), "it does not begin as a state file does"),
        (Header(length=1).sealed(BODY), f"it has {len(BODY)} bytes of 1"),
        (Header().sealed(b"\x01"), "its contents are no state"),
        (Header().sealed(BODY + b"\0"), "its contents are no state"),
        (Header().sealed(b"\x95\xa1\xff"), "its contents are no state"),
        (Header().sealed(b"\x91" * 60_000), "its contents are no state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_says_why(data: bytes, words: str) -> None:
    with pytest.raises(SnapshotError, match=words):
        snapshot.from_bytes(data)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 2**32 - 1])
def test_a_newer_schema_is_refused_as_such(schema: int) -> None:
    """Whatever is in its body: it is not looked at."""
    for body in (BODY, b"", b"all new"):
        with pytest.raises(NewerSchema) as caught:
            snapshot.from_bytes(Header(schema=schema).sealed(body))
        assert f"schema {schema}; this one reads up to {SCHEMA}" in str(caught.value)


def test_a_field_of_a_later_state_is_ignored() -> None:
    """A field that an older daemon may do without needs no new schema."""
    longer = msgspec.msgpack.encode([*msgspec.structs.astuple(REALISTIC), "new"])
    assert snapshot.from_bytes(Header().sealed(longer)) == (REALISTIC, 77)
