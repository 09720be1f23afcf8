"""The wire: golden frames both ways, byte for byte, and a stream cut into its frames.

tests/golden/frames.bin holds one frame after the other; frames.json says what each of them is, in the
same order, one to a line.

Rule: a golden frame is never changed, for somebody out there sends it. To add one, append its line to
frames.json and run `python -m tests.test_wire`, which appends its bytes. When a message gets another
field, its older frames still have to decode; one with the new field is added.
"""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import pytest

from atmost import errors, wire
from atmost.errors import AtmostError, ProtocolError
from atmost.wire import (
    FRAME_BYTES_MAX,
    PREFIX_BYTES,
    Change,
    Declaration,
    FrameReader,
    LimitRecord,
    TemplateDeclaration,
    TemplateRecord,
    TicketRecord,
)

GOLDEN = Path(__file__).parent / "golden"
FRAMES = GOLDEN / "frames.bin"
INDEX: list[dict[str, Any]] = json.loads((GOLDEN / "frames.json").read_text())

CLIENT_KINDS: tuple[type[wire.Message], ...] = get_args(wire.ClientMessage)
DAEMON_KINDS: tuple[type[wire.Message], ...] = get_args(wire.DaemonMessage)
KINDS = {kind.__struct_config__.tag: kind for kind in (*CLIENT_KINDS, *DAEMON_KINDS)}
ABOUT = {"from", "what", "type"}  # in a line of the index; the rest are the message's fields
RECORDS: dict[tuple[type[wire.Message], str], type[wire.Message]] = {
    (wire.Limit, "limit"): LimitRecord,
    (wire.Limits, "limits"): LimitRecord,
    (wire.Tickets, "tickets"): TicketRecord,
    (wire.Draft, "limits"): Declaration,
    (wire.Draft, "templates"): TemplateDeclaration,
    (wire.Changes, "changes"): Change,
    (wire.Change, "was"): Declaration,
    (wire.Change, "becomes"): Declaration,
    (wire.Templates, "templates"): TemplateRecord,
    (wire.Events, "events"): wire.Event,
    (wire.Explanations, "waiting"): wire.Explanation,
    (wire.Explanations, "held"): TicketRecord,
    (wire.Explanations, "limits"): LimitRecord,
    (wire.Explanation, "lacks"): wire.Lack,
    (wire.Lack, "longest"): TicketRecord,
    (wire.Statistics, "limits"): wire.LimitStatistics,
    (wire.Statistics, "daemon"): wire.DaemonStatistics,
}


def message_of(line: dict[str, Any]) -> wire.Message:
    """The message that a line of the index describes."""
    return _made(KINDS[line["type"]], line)


def _made(kind: type[wire.Message], line: dict[str, Any]) -> wire.Message:
    return kind(**{name: _value(kind, name, line[name]) for name in line if name not in ABOUT})


def is_full(line: dict[str, Any]) -> bool:
    """Whether it has every field of today, and its records do; an older frame lacks the latest."""
    return _is_full(KINDS[line["type"]], {key: line[key] for key in set(line) - ABOUT})


def _is_full(kind: type[wire.Message], fields: dict[str, Any]) -> bool:
    if set(fields) != set(kind.__struct_fields__):
        return False
    for name, value in fields.items():
        record = RECORDS.get((kind, name))
        if record is not None and value is not None:
            records = value if isinstance(value, list) else [value]
            if not all(_is_full(record, one) for one in records):
                return False
    return True


def _value(kind: type[wire.Message], name: str, value: Any) -> Any:
    record = RECORDS.get((kind, name))
    match value:
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case [*records] if record is not None:
            return [_made(record, one) for one in records]
        case {} if record is not None:
            return _made(record, value)
        case _:
            return value


def bodies(data: bytes) -> list[bytes]:
    """The bodies of all frames in these bytes, cut without our FrameReader."""
    found = []
    while data:
        end = PREFIX_BYTES + int.from_bytes(data[:PREFIX_BYTES], "big")
        assert len(data) >= end, "frames.bin ends within a frame"
        found.append(data[PREFIX_BYTES:end])
        data = data[end:]
    return found


def decoded(sender: str, body: bytes) -> wire.Message:
    decode = wire.decode_client_message if sender == "client" else wire.decode_daemon_message
    message: wire.Message = decode(body)
    return message


def failures() -> list[dict[str, Any]]:
    return [line for line in INDEX if line["type"] == "failed"]


ALL = FRAMES.read_bytes()
BODIES = bodies(ALL)
GOLDEN_FRAMES = [
    pytest.param(line, body, id=f"{number}-{line['type']}")
    for number, (line, body) in enumerate(zip(INDEX, BODIES, strict=False))
]
FULL_FRAMES = [frame for frame, line in zip(GOLDEN_FRAMES, INDEX, strict=False) if is_full(line)]


# Golden frames


def test_the_index_describes_every_golden_frame() -> None:
    assert len(INDEX) == len(BODIES)


@pytest.mark.parametrize(("line", "body"), GOLDEN_FRAMES)
def test_a_golden_frame_decodes_to_its_message(line: dict[str, Any], body: bytes) -> None:
    assert decoded(line["from"], body) == message_of(line)


@pytest.mark.parametrize(("line", "body"), FULL_FRAMES)
def test_a_message_encodes_to_its_golden_frame(line: dict[str, Any], body: bytes) -> None:
    assert wire.encode(message_of(line)) == len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(("line", "body"), FULL_FRAMES)
def test_another_msgpack_reads_and_writes_the_same_bytes(line: dict[str, Any], body: bytes) -> None:
    plain = msgpack.unpackb(body)
    message = message_of(line)
    assert plain == [line["type"], *map(_plain, msgspec.structs.astuple(message))]
    assert msgpack.packb(plain) == body


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, msgspec.Struct):
        return [_plain(one) for one in msgspec.structs.astuple(value)]
    return value


def test_no_message_lacks_a_golden_frame() -> None:
    senders = dict.fromkeys(CLIENT_KINDS, "client") | dict.fromkeys(DAEMON_KINDS, "daemon")
    expected = {(sender, kind.__struct_config__.tag) for kind, sender in senders.items()}
    assert {(line["from"], line["type"]) for line in INDEX if is_full(line)} == expected


def test_no_error_lacks_a_golden_frame() -> None:
    codes = {error.code for error in AtmostError.__subclasses__()}
    assert codes <= {line["code"] for line in failures()}


@pytest.mark.parametrize("line", failures(), ids=lambda line: line["code"])
def test_a_failure_becomes_the_error_of_its_code(line: dict[str, Any]) -> None:
    kinds = {kind.code: kind for kind in AtmostError.__subclasses__()}
    error = errors.from_wire(line["code"], line["message"], line["fields"])
    assert type(error) is kinds.get(line["code"], AtmostError)
    assert error.fields == line["fields"]
    for name, value in line["fields"].items():
        assert getattr(error, name, value) == value


@pytest.mark.parametrize("line", failures(), ids=lambda line: line["code"])
def test_a_field_of_an_error_from_a_newer_daemon_does_no_harm(line: dict[str, Any]) -> None:
    error = errors.from_wire(line["code"], line["message"], {**line["fields"], "new": 1})
    assert type(error) is type(errors.from_wire(line["code"], line["message"], line["fields"]))


def test_a_code_from_a_newer_daemon_keeps_its_words() -> None:
    error = errors.from_wire("too_many_requests", "wait a little", {"requests": 1024})
    assert str(error) == "wait a little"
    assert error.fields == {"requests": 1024}


# How messages grow (Rule 3 of wire.py)


@pytest.mark.parametrize(("line", "body"), FULL_FRAMES)
def test_fields_of_a_newer_end_are_ignored(line: dict[str, Any], body: bytes) -> None:
    longer = msgpack.packb([*msgpack.unpackb(body), "new", {"and": ["more"]}, None])
    assert decoded(line["from"], longer) == message_of(line)


@pytest.mark.parametrize(("line", "body"), FULL_FRAMES)
def test_fields_with_a_default_may_be_left_out(line: dict[str, Any], body: bytes) -> None:
    plain = msgpack.unpackb(body)
    kind = KINDS[line["type"]]
    for left_out in range(len(kind.__struct_defaults__) + 1):
        short = decoded(line["from"], msgpack.packb(plain[: len(plain) - left_out]))
        kept = msgspec.structs.astuple(short)[: len(plain) - 1 - left_out]
        assert short == kind(*kept)


@pytest.mark.parametrize(("line", "body"), FULL_FRAMES)
def test_a_field_without_a_default_is_required(line: dict[str, Any], body: bytes) -> None:
    plain = msgpack.unpackb(body)
    required = len(plain) - len(KINDS[line["type"]].__struct_defaults__)
    with pytest.raises(msgspec.ValidationError):
        decoded(line["from"], msgpack.packb(plain[: required - 1]))


def test_what_a_client_sends_is_no_answer_and_the_other_way_round() -> None:
    for line, body in zip(INDEX, BODIES, strict=True):
        other = {"client": "daemon", "daemon": "client"}[line["from"]]
        with pytest.raises(msgspec.ValidationError):
            decoded(other, body)


# Frames


def test_a_frame_that_comes_in_two_pieces_is_put_together() -> None:
    for cut in range(len(ALL) + 1):
        frames = FrameReader()
        first = [bytes(body) for body in frames.feed(ALL[:cut])]
        assert first + [bytes(body) for body in frames.feed(ALL[cut:])] == BODIES


def test_frames_that_come_byte_by_byte_are_put_together() -> None:
    frames = FrameReader()
    assert [
        bytes(body) for at in range(len(ALL)) for body in frames.feed(ALL[at : at + 1])
    ] == BODIES


@pytest.mark.parametrize("size", [2, 3, 5, 64, 1000])
def test_frames_that_come_in_chunks_are_put_together(size: int) -> None:
    frames = FrameReader()
    cuts = [*range(0, len(ALL), size), len(ALL)]
    chunks = [memoryview(ALL)[start:end] for start, end in pairwise(cuts)]
    assert [bytes(body) for chunk in chunks for body in frames.feed(chunk)] == BODIES


def test_several_frames_in_one_read_come_in_their_order() -> None:
    assert [bytes(body) for body in FrameReader().feed(ALL)] == BODIES


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_frame_that_comes_alone_is_one(body: bytes) -> None:
    frames = FrameReader()
    for _ in range(2):
        assert [bytes(one) for one in frames.feed(len(body).to_bytes(4, "big") + body)] == [body]


def test_an_empty_frame_is_a_frame() -> None:
    assert [bytes(body) for body in FrameReader().feed(bytes(8))] == [b"", b""]


def test_the_longest_frame_passes() -> None:
    body = bytes(FRAME_BYTES_MAX)
    data = len(body).to_bytes(4, "big") + body
    assert [len(found) for found in FrameReader().feed(data)] == [FRAME_BYTES_MAX]


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_longer_one_is_refused_by_its_prefix_alone(length: int) -> None:
    prefix = length.to_bytes(4, "big")
    frames = FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"a frame of {length} bytes; at most 65536"):
            list(frames.feed(prefix))
        assert tracemalloc.get_traced_memory()[1] < FRAME_BYTES_MAX  # the peak
    finally:
        tracemalloc.stop()


def test_a_prefix_is_looked_at_once_it_is_complete() -> None:
    frames = FrameReader()
    assert list(frames.feed(b"\xff\xff\xff")) == []
    with pytest.raises(ProtocolError):
        list(frames.feed(b"\xff"))


def test_frames_before_one_that_is_too_long_are_given() -> None:
    feed = iter(FrameReader().feed(ALL + b"\xff\xff\xff\xff"))
    assert [bytes(next(feed)) for _ in BODIES] == BODIES
    with pytest.raises(ProtocolError):
        next(feed)


def test_what_fits_no_frame_is_not_sent() -> None:
    fits = FRAME_BYTES_MAX - len(wire.encode(wire.Done(1))) - 100
    assert wire.encode(wire.ReadLimit(1, "x" * fits))
    with pytest.raises(ProtocolError, match=r"a ReadLimit of \d+ bytes fits no frame"):
        wire.encode(wire.ReadLimit(1, "x" * FRAME_BYTES_MAX))


# The command line in a hello


@pytest.mark.parametrize(
    ("argv", "short"),
    [
        ([], []),
        (["worker.py", "--all"], ["worker.py", "--all"]),
        (["x" * 300, "lost"], ["x" * wire.COMMAND_CHARS_MAX]),
        (["x" * 190, "y" * 20, "lost"], ["x" * 190, "y" * 9]),
        (["caf\udce9"], ["caf?"]),  # not UTF-8: as Python has it in sys.argv
    ],
)
def test_a_command_line_is_cut_to_what_a_table_shows(argv: list[str], short: list[str]) -> None:
    assert wire.shorten_command(argv) == short


def append_missing() -> None:
    """Append the frames of the lines that were added to the index."""
    with FRAMES.open("ab") as file:
        for line in INDEX[len(BODIES) :]:
            file.write(wire.encode(message_of(line)))


if __name__ == "__main__":
    append_missing()
