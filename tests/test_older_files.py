"""Files of older versions are read; those of newer ones are refused with words.

tests/golden/state-1.bin and journal-1.bin were written by the last daemon with schema and version 1.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from atmostd import records, snapshot
from atmostd.declared import HAND, IMPLICIT, Declared
from atmostd.keeping import _declared_in
from atmostd.records import Arrived, Damaged, Edited, LimitIs, SessionBegan, Went
from atmostd.recovery import _origin
from atmostd.snapshot import NewerSchema, SavedLimit, State

GOLDEN = Path(__file__).parent / "golden"
STATE = (GOLDEN / "state-1.bin").read_bytes()
JOURNAL = (GOLDEN / "journal-1.bin").read_bytes()


def test_a_state_of_schema_1_is_read() -> None:
    assert struct.unpack_from(">8sI", STATE)[1] == 1
    state, generation = snapshot.from_bytes(STATE)
    assert generation == 77
    assert state == State(
        boot_id="boot",
        boot_time=1,
        wall_time=2,
        token_mark=1_000_001,
        limits=[
            SavedLimit("database", 10, 0.0, True, False, "0"),
            SavedLimit("api größe 🐘", 100, 0.5, True, False, "4" * 20),
            SavedLimit("made by use", 1, 0.0, False, True, "0"),
        ],
    )
    assert [_declared_in(saved) for saved in state.limits] == [
        Declared(10, 0.0, True, HAND),
        Declared(100, 0.5, True, HAND),
        Declared(1, 0.0, False, IMPLICIT),
    ]
    assert (state.templates, state.said_limits, state.said_templates) == ([], [], [])


def test_a_journal_of_version_1_is_read() -> None:
    found = records.read(JOURNAL, "boot")
    assert found == [
        SessionBegan(1, bytes(range(16)), 4242, 4242, 7, 8, 0, "ada", "job.py"),
        LimitIs("db", 2, 0.5, True, False, "123", 99, [3, 4]),
        LimitIs("made by use", 1, 0.0, False, True, "0", 5, []),
        Arrived(5, 1, 1, {"db": 1}, {}, 100, None, False, [], False),
        Went(5, 1_000_001, 101),
        Edited("made by use", 3, None, True, False, 102),
    ]
    assert [_origin(record) for record in found if isinstance(record, LimitIs | Edited)] == [
        *(HAND, IMPLICIT, HAND)
    ]


def test_newer_ones_are_refused_with_words() -> None:
    body = msgspec.msgpack.encode(["what nobody knows yet"])
    head = struct.pack(">8sIQQ", snapshot.MAGIC, snapshot.SCHEMA + 1, 1, len(body))
    digest = blake2b(head + body, digest_size=snapshot.CHECKSUM_BYTES).digest()
    with pytest.raises(NewerSchema, match=f"newer atmostd .schema {snapshot.SCHEMA + 1}"):
        snapshot.from_bytes(head + digest + body)
    head = records._HEAD.pack(records.MAGIC, records.VERSION + 1, b"boot".ljust(36))
    with pytest.raises(Damaged, match=f"of version {records.VERSION + 1}; this atmostd reads up"):
        records.read(head + crc32(head).to_bytes(4, "big"), "boot")
