"""The error tree: what each error is, says and carries, over the wire and between processes."""

from __future__ import annotations

import builtins
import copy
import multiprocessing
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from atmost import errors
from atmost.errors import (
    AcquireTimeout,
    AtmostError,
    ConfigInvalid,
    DaemonOutdated,
    DaemonUnavailable,
    GrantLost,
    GrantNotFound,
    InvalidValue,
    LimitDeleted,
    LimitExists,
    LimitInactive,
    LimitNotFound,
    LimitsChanged,
    NeverFits,
    PermissionDenied,
    ProtocolError,
    SlotDecayRequired,
    StateNotSaved,
    StateUnavailable,
    TooMany,
    WouldDeadlock,
    from_wire,
)

HOLDER = {
    "limit": "my db",
    "slots": 2,
    "pid": 4711,
    "user": "ann",
    "command": "python worker.py",
    "age_seconds": 12.5,
}

# One of each, and what its message must say: the limit or path it is about, and a next step.
EXAMPLES: list[tuple[AtmostError, list[str]]] = [
    (InvalidValue("limit", "-1", "a whole number >= 0"), ["limit=-1", "expected a whole number"]),
    (LimitNotFound(["my db", "b"]), ["'my db', 'b'", "atmost create 'my db' --limit N"]),
    (LimitExists("my db"), ["'my db'", "atmost update 'my db'"]),
    (LimitInactive(["my db", "b"]), ["'my db', 'b'", "strict=True", "atmost enable 'my db'"]),
    (LimitDeleted("my db"), ["'my db'", "atmost create 'my db' --limit N"]),
    (
        GrantLost(["my db", "b"], "its record was lost"),
        ["'my db', 'b'", "its record was lost", "fencing tokens"],
    ),
    (GrantNotFound(4711), ["4711", "atmost ps"]),
    (NeverFits("my db", 5, 3), ["5 slots", "'my db'", "3", "atmost update 'my db' --limit 5"]),
    (SlotDecayRequired("my db"), ["'my db'", "atmost update 'my db' --rate"]),
    (
        AcquireTimeout({"my db": 2, "b": 1}, 1.25, {"my db": 4, "b": 1}, [HOLDER]),
        [
            "2 slots of 'my db', 1 slot of 'b' within 1.25 s: number 4 in line for 'my db'",
            "pid 4711 (python worker.py) since 12.5 s",
            "atmost ps",
        ],
    ),
    (
        WouldDeadlock("my db", 1, 2, 2),
        ["holds 2 slots of 'my db' (limit 2)", "timeout_seconds", "--limit 3"],
    ),
    (PermissionDenied("change them", 65534), ["uid 65534", "change them", "ask root"]),
    (StateNotSaved("/var/lib/a", "No space left"), ["/var/lib/a", "No space left", "try again"]),
    (
        StateUnavailable("/var/lib/a", "it was damaged"),
        ["/var/lib/a", "it was damaged", "atmost recover"],
    ),
    (
        TooMany("waiting requests at one limit", 9, "waiters_per_limit"),
        ["waiting requests at one limit", "at most 9", "'waiters_per_limit'"],
    ),
    (
        ConfigInvalid("/etc/a.toml", ["line 2: limit = -1: expected a whole number", "b", "c"]),
        ["/etc/a.toml", "line 2: limit = -1: expected", "2 mistakes more", "try again"],
    ),
    (LimitsChanged(), ["nothing was done", "try again"]),
    (
        DaemonUnavailable("/x y/s", "given", "there is no such socket"),
        ["/x y/s", "(given)", "there is no such socket", "atmostd --socket '/x y/s'"],
    ),
    (DaemonOutdated("watch", 1), ["older than this client", "'watch'", "restart it"]),
    (ProtocolError("a frame of 9 bytes"), ["a frame of 9 bytes", "atmost status"]),
]
ALL = [pytest.param(error, id=error.code) for error, _ in EXAMPLES]


def what_crosses(error: AtmostError) -> tuple[Any, ...]:
    attributes = {name: value for name, value in vars(error).items() if name != "fields"}
    return type(error), error.code, str(error), error.fields, attributes


def test_the_examples_are_all_there_are() -> None:
    assert [type(error) for error, _ in EXAMPLES] == AtmostError.__subclasses__()
    assert set(errors.__all__) == {
        *(error.__name__ for error in AtmostError.__subclasses__()),
        *("AtmostError", "from_wire"),
    }


def test_the_tree_drawn_in_the_module_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^    [├└]── (\w+) +(?:\((\w+)\))?", errors.__doc__, re.MULTILINE)
    real = [
        (error.__name__, next((b.__name__ for b in error.__bases__ if b is not AtmostError), ""))
        for error in AtmostError.__subclasses__()
    ]
    assert drawn == real
    for error in AtmostError.__subclasses__():
        assert error.__bases__[0] is AtmostError
        assert not error.__subclasses__()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (AcquireTimeout, "TimeoutError"),
        (InvalidValue, "ValueError"),
        (DaemonUnavailable, "ConnectionError"),
        (PermissionDenied, "PermissionError"),
        (StateNotSaved, "OSError"),
    ],
)
def test_is_the_builtin_of_that_name(error: type[AtmostError], builtin: str) -> None:
    assert issubclass(error, getattr(builtins, builtin))


def test_codes_are_those_of_their_names_and_no_two_alike() -> None:
    for error in AtmostError.__subclasses__():
        assert error.code == re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()
    assert AtmostError.code == "error"


@pytest.mark.parametrize(("error", "words"), EXAMPLES, ids=[error.code for error, _ in EXAMPLES])
def test_message_names_what_it_is_about_and_a_way_out(error: AtmostError, words: list[str]) -> None:
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("error", ALL)
def test_every_field_is_an_attribute(error: AtmostError) -> None:
    for field, value in error.fields.items():
        assert getattr(error, field) == value


@pytest.mark.parametrize("error", ALL)
def test_crosses_the_wire_as_code_and_fields(error: AtmostError) -> None:
    again = from_wire(error.code, "another message", error.fields)
    assert what_crosses(again) == what_crosses(error)


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_equal(error: AtmostError, copied: Callable[[AtmostError], AtmostError]) -> None:
    assert what_crosses(copied(error)) == what_crosses(error)


def _raise(number: int) -> None:
    raise EXAMPLES[number][0]


def test_all_come_out_of_a_worker_process() -> None:
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        for number, (error, _) in enumerate(EXAMPLES):
            with pytest.raises(type(error)) as caught:
                pool.apply(_raise, (number,))
            assert what_crosses(caught.value) == what_crosses(error)
        pool.close()
        pool.join()


# ---- Errors of a daemon that is newer


def test_unknown_code_keeps_message_and_fields() -> None:
    error = from_wire("quota_exceeded", "ask Bob", {"name": "db", "quota": 3})
    assert type(error) is AtmostError
    assert str(error) == "ask Bob"
    assert error.fields == {"name": "db", "quota": 3}
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fields) == (str(error), error.fields)


def test_fields_that_this_version_does_not_know_are_left_out() -> None:
    fields = {"name": "db", "slots": 5, "limit": 3, "hint": "since 2.0"}
    assert what_crosses(from_wire("never_fits", "", fields)) == what_crosses(NeverFits("db", 5, 3))


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("never_fits", {"name": "db"}),
        ("limit_not_found", {"names": []}),
        ("limit_not_found", {"names": 5}),
        ("acquire_timeout", {"slots": 3, "waited_seconds": 1, "places": {}}),
        ("acquire_timeout", {"slots": {}, "waited_seconds": "long", "places": {}}),
        ("acquire_timeout", {"slots": {}, "waited_seconds": 1, "places": {}, "holders": [{}]}),
    ],
)
def test_fields_that_do_not_fit_leave_the_message(code: str, fields: dict[str, Any]) -> None:
    error = from_wire(code, "the daemon's own words", fields)
    assert type(error) is AtmostError
    assert str(error) == "the daemon's own words"


def test_a_field_may_have_any_name() -> None:
    assert from_wire("new", "words", {"message": 1, "self": 2}).fields["message"] == 1


# ---- AcquireTimeout in its variants


def test_time_out_tells_three_holders_and_counts_the_rest() -> None:
    holders = [{**HOLDER, "pid": pid} for pid in range(1, 6)]
    error = AcquireTimeout({"db": 1}, 0.5, {"db": 1}, holders)
    assert "pid 3 (" in str(error)
    assert "pid 4 (" not in str(error)
    assert "and 2 more" in str(error)
    assert len(error.holders) == 5


def test_time_out_in_no_line_has_place_0() -> None:
    error = AcquireTimeout({"db": 1}, 0, {})
    assert (error.place, error.names) == (0, ["db"])
    assert "in line" not in str(error)


def test_default_paths_are_started_without_a_path() -> None:
    error = DaemonUnavailable("/run/atmost/atmost.sock", "default, of the system", "none there")
    assert str(error).endswith("start one with: atmost daemon start")


def test_advice_of_its_own_crosses_process_borders() -> None:
    error = DaemonUnavailable("/s", "default, of the user", "it does not run", "ask somebody")
    assert str(error).endswith("it does not run; ask somebody")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.advice) == (str(error), "ask somebody")
