"""PROTOCOL.md says what the code does: every message, field, type, default, error and size."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgpack
import msgspec
import pytest
from msgspec import inspect as types

from atmost import values, wire
from atmost.errors import AtmostError
from atmostd import config
from atmostd.bounds import Bounds
from tests import test_wire
from tests.test_wire import bodies

PAGE = (Path(__file__).parent.parent / "PROTOCOL.md").read_text()

NAMES = {types.IntType: "int", types.FloatType: "float", types.StrType: "str"}
NAMES |= {types.BytesType: "bytes", types.BoolType: "bool", types.AnyType: "any"}
RECORDS: dict[type[Any], str] = {
    wire.LimitRecord: "limit record",
    wire.TicketRecord: "ticket record",
    wire.Declaration: "declaration",
    wire.TemplateDeclaration: "template declaration",
    wire.Change: "change",
    wire.TemplateRecord: "template record",
    wire.Event: "event",
    wire.Lack: "lack",
    wire.Explanation: "explanation",
    wire.LimitStatistics: "limit statistics",
    wire.DaemonStatistics: "daemon statistics",
}


class Field(NamedTuple):
    name: str
    type: str
    default: str  # as PROTOCOL.md writes it; empty for none
    meaning: str


def section(title: str) -> str:
    """The text below a heading, up to the next."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def messages(title: str) -> dict[str, list[Field]]:
    """{message or record: its fields} of a section's table. `request` is not repeated there."""
    found: dict[str, list[Field]] = {}
    for first, kind, default, meaning in rows(title):
        if head := re.fullmatch(r"\*\*`?(.+?)`?\*\*", first):
            assert not kind, f"{first} has no type"
            fields = found[head[1]] = []
        else:
            fields.append(Field(first.strip("`"), kind, default.strip("`"), meaning))
    return found


def type_name(kind: types.Type) -> str:
    """The type as PROTOCOL.md writes it."""
    match kind:
        case types.ListType(item_type=item):
            return f"[{type_name(item)}]"
        case types.DictType(key_type=key, value_type=value):
            return f"{{{type_name(key)}: {type_name(value)}}}"
        case types.UnionType(types=kinds):
            *others, last = [type_name(one) for one in kinds]
            assert last == "nil"
            return f"{' or '.join(others)} or nil"
        case types.StructType(cls=record):
            return RECORDS[record]
        case types.NoneType():
            return "nil"
        case _:
            return NAMES[type(kind)]


def fields_in_code(kind: type[msgspec.Struct]) -> list[tuple[str, str, str]]:
    """(name, type, default) of each field after `request`, in order."""
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    found = [(field.name, type_name(field.type), default_of(field)) for field in info.fields]
    return found[1:] if found[0] == ("request", "int", "") else found


def default_of(field: types.Field) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return json.dumps(field.default_factory())
    if field.default is msgspec.NODEFAULT:
        return ""
    return "nil" if field.default is None else json.dumps(field.default)


def tag(kind: type[wire.Message]) -> str:
    return RECORDS.get(kind) or str(kind.__struct_config__.tag)


CLIENT = messages("What a client sends")
DAEMON = messages("What the daemon sends")
CLIENT_KINDS: tuple[type[wire.Message], ...] = get_args(wire.ClientMessage)
DAEMON_KINDS: tuple[type[wire.Message], ...] = (*get_args(wire.DaemonMessage), *RECORDS)
ERRORS = {row[0].strip("`"): row for row in rows("Errors")}


# Messages


def test_the_page_names_every_message_and_no_other() -> None:
    assert list(CLIENT) == [tag(kind) for kind in CLIENT_KINDS]
    assert sorted(DAEMON) == sorted(tag(kind) for kind in DAEMON_KINDS)


@pytest.mark.parametrize("kind", [*CLIENT_KINDS, *DAEMON_KINDS], ids=tag)
def test_the_page_names_every_field_in_order(kind: type[wire.Message]) -> None:
    told = (CLIENT if kind in CLIENT_KINDS else DAEMON)[tag(kind)]
    assert [field[:3] for field in told] == fields_in_code(kind)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (CLIENT_KINDS, "All but `hello` have the field `request: int` first"),
        (DAEMON_KINDS, "All but `welcome` have the field `request: int` first"),
    ],
)
def test_what_is_not_repeated_is_true(kinds: tuple[type[wire.Message], ...], words: str) -> None:
    assert words in PAGE
    exception = words.split("`")[1]
    for kind in kinds:
        if kind not in RECORDS:
            first = kind.__struct_fields__[0]
            assert (first == "request") == (tag(kind) != exception)


def test_every_answer_that_is_promised_exists() -> None:
    promised = set(re.findall(r"→ `(\w+)`(?: or `(\w+)`)?", section("What a client sends")))
    assert {name for pair in promised for name in pair if name} <= set(DAEMON)


# Errors


def test_the_page_names_every_error() -> None:
    sent = {error.code for error in AtmostError.__subclasses__()} - {
        "daemon_unavailable",
        "daemon_outdated",
    }
    assert set(ERRORS) == sent
    assert "`daemon_unavailable` with path, source and reason" in section("Errors")
    assert "`daemon_outdated` with what and version" in section("Errors")


@pytest.mark.parametrize("line", test_wire.failures(), ids=lambda line: line["code"])
def test_the_page_names_the_fields_of_each_error(line: dict[str, Any]) -> None:
    """The golden failures carry what the code gives them; the page tells the same."""
    if line["code"] in ERRORS:
        told = ", ".join(f"{name}: {plain_type(value)}" for name, value in line["fields"].items())
        assert told == ERRORS[line["code"]][1]
    for kind in AtmostError.__subclasses__():
        if kind.code == line["code"]:
            fields = inspect.signature(kind).parameters.values()
            expected = [f.name for f in fields if f.default is f.empty or f.name in line["fields"]]
            assert list(line["fields"]) == expected


def plain_type(value: Any) -> str:
    match value:
        case [{}, *_]:
            return "[map]"
        case [first, *_]:
            return f"[{plain_type(first)}]"
        case {}:
            return f"{{str: {plain_type(next(iter(value.values())))}}}"
        case _:
            return type(value).__name__


def test_the_page_names_what_a_holder_has() -> None:
    line = next(line for line in test_wire.failures() if line["code"] == "acquire_timeout")
    told = re.findall(r"`(\w+)`", ERRORS["acquire_timeout"][2])
    assert told == list(line["fields"]["holders"][0])
    assert set(told) <= set(wire.TicketRecord.__struct_fields__)


# Numbers


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("a frame", wire.FRAME_BYTES_MAX),
        ("a name", values.NAME_CHARS_MAX),
        ("limits in one", values.NAMES_MAX),
        ("slots and limits", values.COUNT_MAX),
        ("`command`", wire.COMMAND_CHARS_MAX),
        ("`user`", config.USER_CHARS_MAX),
        ("`message`", config.MESSAGE_CHARS_MAX),
        ("time until the hello", config.HELLO_SECONDS),
        ("answers that a client leaves unread", config.OUTPUT_BYTES_MAX),
    ],
)
def test_the_page_names_the_sizes(what: str, number: float) -> None:
    told = [size for row, size in rows("Sizes") if row.startswith(what)]
    assert [int(re.sub(r"\D", "", size)) for size in told] == [number]


def test_the_page_names_the_bounds() -> None:
    for name in Bounds.__slots__:
        number = f"{getattr(Bounds(), name):,g}" if name == "hello_seconds" else ""
        number = number or f"{getattr(Bounds(), name):,}"
        assert f"| `{name}` | {number} |" in PAGE or f"`{name}` ({number})" in PAGE


def test_the_page_names_the_version_and_the_prefix() -> None:
    assert f"# The atmost protocol, version {wire.PROTOCOL_VERSION}\n" in PAGE
    assert CLIENT["hello"][0].meaning.startswith(f"{wire.PROTOCOL_VERSION};")
    assert f"a length of {wire.PREFIX_BYTES} bytes, big-endian" in PAGE
    assert f"at most {wire.FRAME_BYTES_MAX:,}." in PAGE
    assert CLIENT["hello"][1].meaning.startswith(f"exactly {wire.SESSION_BYTES},")
    assert f"has not {wire.SESSION_BYTES} bytes" in PAGE
    assert f"at most {values.VALUE_CHARS_MAX} characters" in ERRORS["invalid_value"][2]
    assert f"1 to {values.NAMES_MAX} limits" in PAGE


# The example


def example() -> list[tuple[str, list[Any], bytes]]:
    """(sender, message, bytes of its frame), as the last section shows them."""
    found = re.findall(
        r"^([CD]) (\[.*\])\n((?:  [0-9a-f ]+\n)+)", section("The same in bytes"), re.M
    )
    return [(sender, plain_message(text), bytes.fromhex(digits)) for sender, text, digits in found]


def plain_message(text: str) -> list[Any]:
    marked = json.loads(re.sub(r"<([0-9a-f]+)>", r'{"hex": "\1"}', text))
    return [bytes.fromhex(one["hex"]) if is_hex(one) else one for one in marked]


def is_hex(one: Any) -> bool:
    return isinstance(one, dict) and list(one) == ["hex"]


def test_the_bytes_of_the_example_are_those_of_its_messages() -> None:
    shown = re.findall(r"^[CD] \[", section("The same in bytes"), re.MULTILINE)
    assert len(example()) == len(shown)
    for sender, message, frame in example():
        (body,) = bodies(frame)
        assert msgpack.unpackb(body) == message
        decode = wire.decode_client_message if sender == "C" else wire.decode_daemon_message
        assert decode(body) == decode(msgpack.packb(message))


def test_every_row_of_a_table_has_all_of_its_cells() -> None:
    for title, count in [("What a client sends", 4), ("What the daemon sends", 4), ("Errors", 3)]:
        assert all(len(row) == count for row in rows(title))
