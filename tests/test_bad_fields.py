"""A known message with a wrong field is answered with its name and value, and nothing changes.

The connection lives on: a mistake in one call of a program is no reason to take slots from its others.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from atmost.values import COUNT_MAX, NAMES_MAX
from tests.bad_manners import Neighbour
from tests.protocol_client import Client, Failed
from tests.support import RunningDaemon

TARGET = "target"  # the limit that nothing here may change

BAD_NAMES = ["", "a/b", "a%b", "a&b", "a>b", "a<b", "a\nb", "\0", "\x7f", "\x9f", "x" * 201]
NO_NAMES: list[Any] = [None, 1, b"db", ["db"], {}]
BAD_SLOTS = [0, -1, COUNT_MAX + 1, 2**64 - 1, -(2**63)]
BAD_COUNTS = [-1, COUNT_MAX + 1, 2**64 - 1, -(2**63)]
NO_INTS = [1.5, 1.0, True, "1", b"1", [1], {}]
BAD_FLOATS = [-1.0, -0.1, math.nan, math.inf, -math.inf]
NO_FLOATS = [True, "1", [1.0], {}]
NO_BOOLS = [1, 0, 1.0, "yes"]

Case = tuple[list[Any], str, Any]  # a message without its number; its wrong field, and the value


def names() -> Iterator[Case]:
    for kind, *rest in (["create_limit", 1], ["read_limit"], ["update_limit", 2], ["delete_limit"]):
        for name in [*BAD_NAMES, *NO_NAMES]:
            yield [kind, name, *rest], "name", name
    for name in [*BAD_NAMES, *NO_NAMES[1:]]:
        yield ["list_tickets", name], "name", name


def settings() -> Iterator[Case]:
    for kind, nil in (("create_limit", [None]), ("update_limit", [])):
        for limit in [*BAD_COUNTS, *NO_INTS, *nil]:
            yield [kind, TARGET, limit], "limit", limit
        for rate in [*BAD_FLOATS, *NO_FLOATS, *nil]:
            yield [kind, TARGET, 2, rate], "slot_decay_per_second", rate
        for active in [*NO_BOOLS, *nil]:
            yield [kind, TARGET, 2, 1.0, active], "active", active


def pages() -> Iterator[Case]:
    for after in (5, None, b"db"):
        yield ["list_limits", after], "after", after
        yield ["list_tickets", None, after], "after_limit", after
    for number in [*NO_INTS, None]:
        yield ["list_tickets", None, "", number], "after_number", number


def slots() -> Iterator[Case]:
    many = {f"name {n}": 1 for n in range(NAMES_MAX + 1)}
    wrong: Any
    before: list[Any]
    for before, field in (([], "hold"), ([{}], "spend")):
        for wrong in (None, TARGET, [TARGET], 1):
            yield ["acquire", *before, wrong], field, wrong
        for key in (1, b"target", None):
            yield ["acquire", *before, {key: 1}], field, {key: 1}
        for wrong in [*NO_INTS, None]:
            yield ["acquire", *before, {TARGET: wrong}], field, {TARGET: wrong}
        for count in BAD_SLOTS:
            yield ["acquire", *before, {"fresh": 1, TARGET: count}], "occupy", count
        for name in BAD_NAMES:
            yield ["acquire", *before, {"fresh": 1, name: 1}], "name", name
        yield ["acquire", *before, {}], "hold", {}
        yield ["acquire", *before, many], "hold", len(many)
    yield ["acquire", {TARGET: 1}, dict(list(many.items())[1:])], "hold", len(many)


def waiting() -> Iterator[Case]:
    for seconds in [*BAD_FLOATS, *NO_FLOATS]:
        yield ["acquire", {TARGET: 1}, {}, seconds], "timeout_seconds", seconds
    for wrong in [*NO_BOOLS, None]:
        yield ["acquire", {TARGET: 1}, {}, None, wrong], "strict", wrong
        yield ["acquire", {TARGET: 1}, {}, None, False, [], wrong], "by_process", wrong
    for grants in (None, 1, [1.5], [None], [True]):
        yield ["acquire", {TARGET: 1}, {}, None, False, grants], "inside", grants


def too_short() -> Iterator[Case]:
    for message in (["create_limit"], ["create_limit", TARGET], ["acquire"], ["delete_limit"]):
        yield message, "message", None
    for kind in ("read_limit", "update_limit"):
        yield [kind], "message", None


ALL = [*names(), *settings(), *pages(), *slots(), *waiting(), *too_short()]


def title(case: Case) -> str:
    message, field, value = case
    return re.sub(r"\W+", " ", f"{message[0]} {field} {value!a}")[:40]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all tests here."""
    running = RunningDaemon(tmp_path_factory.mktemp("bad")).start()
    yield running
    assert running.stop(signal.SIGTERM) == 0
    assert "Traceback" not in running.log_text()


@pytest.fixture(scope="module")
def neighbour(running: RunningDaemon) -> Iterator[Neighbour]:
    neighbour = Neighbour(running)
    neighbour.start()
    yield neighbour
    neighbour.end()


@pytest.fixture(scope="module")
def client(running: RunningDaemon) -> Iterator[Client]:
    """One connection for all tests here: that it outlives them is the point."""
    connected = Client(str(running.socket))
    connected.ask("create_limit", TARGET, 1)
    yield connected
    connected.close()


def all_limits(client: Client) -> list[Any]:
    """Everything that could have changed."""
    limits = client.ask("list_limits")[2]
    return [limit for limit in limits if limit[0] != "neighbour"]


@pytest.mark.parametrize("case", ALL, ids=title)
def test_a_wrong_field_is_named_and_nothing_changes(
    client: Client, neighbour: Neighbour, case: Case
) -> None:
    message, field, value = case
    before = all_limits(client)
    with pytest.raises(Failed) as caught:
        client.ask(*message)
    assert caught.value.code == "invalid_value"
    assert list(caught.value.fields) == ["field", "value", "expected"]
    assert caught.value.fields["field"] == field
    if field == "message":
        assert caught.value.fields["value"] == f"{message[0]} of {len(message) + 1} elements"
    else:
        assert repr(value).startswith(caught.value.fields["value"].removesuffix("…"))
    assert str(caught.value).startswith(f"{field}=")
    assert all_limits(client) == before
    neighbour.goes_on()
