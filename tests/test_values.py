"""What a name, a number and a time may be: the checks, and that both clients make them first.

A bad value is an error that names its field and its value, before anything is sent: here no daemon
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from atmost import values
from atmost.errors import DaemonUnavailable, InvalidValue
from atmost.values import (
    COUNT_MAX,
    NAME_CHARS_MAX,
    NAMES_MAX,
    check_active,
    check_decay,
    check_limit,
    check_name,
    check_slots,
    check_timeout,
    slots_by_name,
)
from tests.callers import SIDES, LoopThreads, Side, nobody_listens

HUGE = 10**5000  # more digits than Python prints


class Rude:
    """Cannot even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


# Each is wrong everywhere the field is taken.
BAD_NAMES = [
    "",
    *(f"a{wrong}b" for wrong in "/%&><\0\n\t\x1b\x7f\x80\x9f"),
    "\ud800",
    "x" * (NAME_CHARS_MAX + 1),
    None,
    5,
    b"db",
    ["db"],
]
BAD_LIMITS = [-1, 1.0, 1.5, "3", True, None, COUNT_MAX + 1, HUGE, -HUGE, Rude()]
BAD_DECAYS = [-0.1, -1, math.nan, math.inf, -math.inf, "1", True, None, HUGE, Fraction(1, 2)]
BAD_OCCUPY = [0, -1, 1.5, 1.0, True, "1", None, COUNT_MAX + 1, HUGE]
BAD_TIMEOUTS = [-1, -0.001, math.nan, math.inf, -math.inf, "5", True, HUGE]
BAD_ACTIVE = [None, 0, 1, "yes"]
BAD_NAMES_OF_A_CALL = [5, 1.5, True, b"db", object()]


def refusal(check: Callable[..., Any], *args: Any, **kwargs: Any) -> InvalidValue:
    with pytest.raises(InvalidValue) as caught:
        check(*args, **kwargs)
    error = caught.value
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"{error.field}={error.value} is not valid: expected ")
    assert len(error.value) <= values.VALUE_CHARS_MAX
    error.value.encode()  # can be shown and sent
    return error


def said(value: Any) -> str:
    """How an error tells this value, if it is short and ordinary."""
    return repr(value).encode("utf-8", "replace").decode()


# ---- The checks


@pytest.mark.parametrize(
    "name",
    ["a", "x" * NAME_CHARS_MAX, "Data Base", "päö 🐍", "a.b-c:d", " ", "'\"\\", "$(x)", "__"],
)
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_names(name: Any) -> None:
    assert refusal(check_name, name).field == "name"


@pytest.mark.parametrize("limit", [0, 1, COUNT_MAX])
def test_good_limits(limit: int) -> None:
    assert check_limit(limit) == limit


@pytest.mark.parametrize("limit", BAD_LIMITS, ids=lambda value: type(value).__name__)
def test_bad_limits(limit: Any) -> None:
    assert refusal(check_limit, limit).field == "limit"


@pytest.mark.parametrize("decay", [0, 0.5, 1, 5e-324, 1.7e308])
def test_good_decays(decay: float) -> None:
    assert check_decay(decay) == decay
    assert type(check_decay(decay)) is float


def test_minus_zero_is_zero() -> None:
    assert math.copysign(1, check_decay(-0.0)) == 1
    assert math.copysign(1, check_timeout(-0.0) or 0.0) == 1


@pytest.mark.parametrize("decay", BAD_DECAYS, ids=lambda value: type(value).__name__)
def test_bad_decays(decay: Any) -> None:
    assert refusal(check_decay, decay).field == "slot_decay_per_second"


@pytest.mark.parametrize("slots", BAD_OCCUPY, ids=lambda value: type(value).__name__)
def test_bad_slots(slots: Any) -> None:
    assert refusal(check_slots, slots).field == "occupy"


@pytest.mark.parametrize("active", BAD_ACTIVE)
def test_bad_active(active: Any) -> None:
    assert refusal(check_active, active).field == "active"


@pytest.mark.parametrize("seconds", [0, 0.25, 3, 1e300, None])
def test_good_timeouts(seconds: float | None) -> None:
    assert check_timeout(seconds) == seconds


@pytest.mark.parametrize("seconds", BAD_TIMEOUTS, ids=lambda value: type(value).__name__)
def test_bad_timeouts(seconds: Any) -> None:
    assert refusal(check_timeout, seconds).field == "timeout_seconds"


@pytest.mark.parametrize(
    ("names", "occupy", "asked"),
    [
        (None, 1, {}),
        ([], 1, {}),
        ("db", 1, {"db": 1}),
        ("db", 3, {"db": 3}),
        (["a", "b", "a"], 2, {"a": 2, "b": 2}),
        ({"b"}, 1, {"b": 1}),
        ((name for name in "ab"), 1, {"a": 1, "b": 1}),
        ({"a": 2, "b": 5}, 1, {"a": 2, "b": 5}),
        ([f"n{number}" for number in range(NAMES_MAX)], 1, dict.fromkeys(
            (f"n{number}" for number in range(NAMES_MAX)), 1
        )),
    ],
)  # fmt: skip
def test_what_a_call_asks_for(names: Any, occupy: int, asked: dict[str, int]) -> None:
    assert slots_by_name(names, occupy) == asked


@pytest.mark.parametrize(
    ("names", "occupy", "field"),
    [
        *((wrong, 1, "names") for wrong in BAD_NAMES_OF_A_CALL),
        (["db", ""], 1, "names"),
        ([["db"]], 1, "names"),
        ({"db/": 1}, 1, "names"),
        ({"db": 0}, 1, "names['db']"),
        ({"db": True}, 1, "names['db']"),
        ({"db": 1}, 2, "occupy"),
        ([], 0, "occupy"),
        (None, -1, "occupy"),
        ([f"n{number}" for number in range(NAMES_MAX + 1)], 1, "names"),
    ],
)
def test_what_a_call_may_not_ask_for(names: Any, occupy: Any, field: str) -> None:
    assert refusal(slots_by_name, names, occupy).field == field


def test_a_long_value_is_cut() -> None:
    assert refusal(check_name, "x" * 10_000).value.endswith("…")


def test_a_value_that_cannot_be_printed_is_named_by_its_type() -> None:
    assert refusal(check_limit, Rude()).value == "<Rude: no>"


# ---- Both clients


@pytest.fixture(scope="module")
def loops() -> Iterator[LoopThreads]:
    running = LoopThreads()
    yield running
    running.close()


@pytest.fixture
def side(request: pytest.FixtureRequest, loops: LoopThreads, tmp_path: Path) -> Iterator[Side]:
    """The client under test. There is no daemon for it."""
    one = Side(request.param, nobody_listens(tmp_path), loops)
    yield one
    one.close()


def calls(side: Side) -> dict[str, list[tuple[Callable[..., Any], tuple[Any, ...]]]]:
    """Every call that takes the field last, and what stands before it."""
    of_a_name = [(side.read_limit, ()), (side.delete_limit, ()), (side.update_limit, ())]
    waits = [side.client.concurrency, side.acquire, side.acquire_until_exit, side.rate_limit]
    return {
        "name": [*of_a_name, (lambda name: side.create_limit(name, 1), ())],
        "names": [(ask, ()) for ask in waits],
        "rate_limit": [
            (lambda names, ask=ask: ask("db", rate_limit=names), ()) for ask in waits[:3]
        ],
        "limit": [
            (side.create_limit, ("db",)),
            (lambda limit: side.update_limit("db", limit=limit), ()),
        ],
        "slot_decay_per_second": [
            (side.create_limit, ("db", 1)),
            (lambda decay: side.update_limit("db", slot_decay_per_second=decay), ()),
        ],
        "active": [
            (side.create_limit, ("db", 1, 0.0)),
            (lambda active: side.update_limit("db", active=active), ()),
        ],
        "occupy": [(ask, ("db",)) for ask in waits],
        "timeout_seconds": [(ask, ("db", 1)) for ask in waits],
    }


TABLE: list[tuple[str, Any]] = [
    *(("name", bad) for bad in BAD_NAMES),
    *(("names", bad) for bad in [*BAD_NAMES_OF_A_CALL, "", "a/b", ["a", "b>"], {"a%": 1}]),
    *(("rate_limit", bad) for bad in [*BAD_NAMES_OF_A_CALL, "", ["a", "b\n"]]),
    *(("limit", bad) for bad in BAD_LIMITS),
    *(("slot_decay_per_second", bad) for bad in BAD_DECAYS),
    *(("active", bad) for bad in BAD_ACTIVE),
    *(("occupy", bad) for bad in BAD_OCCUPY),
    *(("timeout_seconds", bad) for bad in BAD_TIMEOUTS),
]


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_bad_values_are_refused_before_anything_is_sent(side: Side) -> None:
    for field, bad in TABLE:
        for call, before in calls(side)[field]:
            if bad is None and field in ("limit", "slot_decay_per_second", "active") and not before:
                continue  # to update_limit, None says: as it is
            error = refusal(call, *before, bad)
            assert error.field == field
            if type(bad) in (int, float, bool, type(None)) and abs(bad or 0) < COUNT_MAX + 2:
                assert error.value == said(bad)
    with pytest.raises(DaemonUnavailable):  # a good one goes out
        side.acquire("db")


@pytest.mark.parametrize("side", SIDES, indirect=True)
def test_a_decorator_with_bad_values_fails_where_it_is_written(side: Side) -> None:
    with pytest.raises(InvalidValue, match="occupy=0"):
        side.client.concurrency("db", occupy=0)
