"""A frame's body as a message, or why it is none. Pure.

Rule: a message of a known type with a wrong field is answered and its connection lives; bytes that
are no message of ours end it, since nothing that follows them can be trusted.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import msgspec

from atmost import values, wire
from atmost.errors import InvalidValue, ProtocolError

_KINDS: dict[str, type[wire.Message]] = {
    kind.__struct_config__.tag: kind for kind in get_args(wire.ClientMessage)
}
_decode = wire.decode_client_message
_NOT_DECODABLE = (ValueError, RecursionError)  # msgspec's own, no UTF-8, nested too deep


class WrongField(Exception):
    """The request has a field of a type that it cannot have."""

    def __init__(self, request: int, error: InvalidValue) -> None:
        super().__init__(str(error))
        self.request = request
        self.error = error


def message_of(body: memoryview) -> wire.ClientMessage:
    """The message. Raises WrongField if it can be answered, else ProtocolError."""
    try:
        return _decode(body)
    except _NOT_DECODABLE as error:
        raise _refusal(body, error) from error


def _refusal(body: memoryview, error: Exception) -> WrongField | ProtocolError:
    try:
        raw = msgspec.msgpack.decode(body)
        kind = _KINDS[raw[0]]
        request = raw[1]
    except (*_NOT_DECODABLE, LookupError, TypeError):
        return ProtocolError(f"a frame that is no message: {error}")
    if type(raw) is not list:
        return ProtocolError(f"a frame that is no message: {error}")
    if kind is wire.Hello and type(request) is int and request > wire.PROTOCOL_VERSION:
        return other_version(request)
    if kind in (wire.Hello, wire.Release) or type(request) is not int:
        return ProtocolError(f"a {raw[0]} that is no message: {error}")
    return WrongField(request, _invalid_field(kind, raw, str(error)))


def other_version(protocol: int) -> ProtocolError:
    """The client speaks another version of the protocol."""
    return ProtocolError(
        f"protocol version {protocol}; this daemon speaks {wire.PROTOCOL_VERSION_LEAST} to "
        f"{wire.PROTOCOL_VERSION}"
    )


def _invalid_field(kind: type[wire.Message], raw: list[Any], problem: str) -> InvalidValue:
    """msgspec says where as `$[2][...]`; the type of the message is at 0."""
    found = re.search(r" - at .*`\$\[(\d+)\]", problem)
    expected = problem.partition(" - at ")[0].removeprefix("Expected ")
    index = int(found[1]) if found else 0
    if not 0 < index < len(raw):
        return InvalidValue("message", f"{raw[0]} of {len(raw)} elements", expected)
    return values.invalid(kind.__struct_fields__[index - 1], raw[index], expected)
