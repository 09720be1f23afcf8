"""chaos/: each verdict on made-up logs. What is wrong is found, and what may be is let pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos.admission import TooMany, over_admissions, over_spent
from chaos.log import Event, Log, pids, read
from chaos.order import order, seen_waiting, tokens_out_of_order
from chaos.service import (
    EVERYBODY,
    dead_in_the_books,
    held_through,
    longest_idle,
    returns,
    too_slow,
)
from chaos.settings import Settings, lost
from chaos.stays import Stay, stays
from chaos.verdict import text, verdict

MS = 1_000_000  # nanoseconds
SECOND = 1000 * MS


def event(at: int, what: str, *fields: Any, pid: int = 1) -> Event:
    return Event(at, what, pid, fields)


def stay(
    request: str,
    asked: int,
    entered: int | None,
    ended: int | None = None,
    *,
    token: int = 0,
    pid: int = 1,
    hold: dict[str, int] | None = None,
    spend: dict[str, int] | None = None,
    error: str | None = None,
    lost: bool = False,
) -> Stay:
    """Of one slot of `one`, if nothing else is said."""
    slots = {"one": 1} if hold is None and spend is None else hold or {}
    return Stay(request, pid, slots, spend or {}, asked, entered, token, ended, error, lost)


def always(limit: int) -> Callable[[int, int], int]:
    return lambda begin, end: limit


# ---- The log


def test_what_is_written_is_read_in_the_order_of_the_stamps(tmp_path: Path) -> None:
    logs = [Log(tmp_path, "a-b"), Log(tmp_path, "c")]
    logs[0].mark("entered", "x", 7, at=5)
    logs[1].mark("asked", "x", {"one": 1}, {}, at=4)
    for log in logs:
        log.close()
    assert [(one.at, one.what, one.fields) for one in read(tmp_path)] == [
        (4, "asked", ("x", {"one": 1}, {})),
        (5, "entered", ("x", 7)),
    ]
    assert pids(tmp_path, "a-b") == [read(tmp_path)[0].pid]


# ---- Stays


def asked(at: int, request: str, pid: int = 1) -> Event:
    return event(at, "asked", request, {"one": 1}, {}, None, pid=pid)


def test_events_become_stays() -> None:
    found = stays(
        [
            asked(1, "a"),
            asked(2, "b", pid=2),
            event(3, "entered", "a", 9),
            event(4, "failed", "b", "AcquireTimeout", pid=2),
            event(5, "leaving", "a"),
            event(6, "left", "a"),
        ]
    )
    assert found == [
        Stay("a", 1, {"one": 1}, {}, 1, 3, 9, 5),
        Stay("b", 2, {"one": 1}, {}, 2, None, 0, 4, "AcquireTimeout"),
    ]


@pytest.mark.parametrize(
    ("killed_at", "entered", "ended", "killed"),
    [
        (2, None, 2, True),  # it waited
        (3, None, 3, True),  # not yet in when the stamp was taken
        (4, 3, 4, True),  # inside
        (5, 3, 5, False),  # about to leave
        (9, 3, 5, False),  # long gone
    ],
)
def test_the_killed_are_inside_until_just_before(
    killed_at: int, entered: int | None, ended: int, killed: bool
) -> None:
    events = [asked(1, "a"), event(3, "entered", "a", 9), event(5, "leaving", "a")]
    events.append(event(killed_at, "killed", "worker", [1, 77]))
    (found,) = stays(sorted(events, key=lambda one: one.at))
    assert (found.entered, found.ended, found.killed) == (entered, ended, killed)
    assert bool(found.token) == (entered is not None)


def test_a_process_that_got_a_dead_ones_number_lives() -> None:
    (found,) = stays(
        [event(1, "killed", "worker", [1]), asked(2, "a"), event(3, "entered", "a", 9)]
    )
    assert (found.ended, found.killed) == (None, False)


def test_who_was_told_that_it_lost_its_slots() -> None:
    events = [asked(1, "a"), event(3, "entered", "a", 9), event(5, "leaving", "a")]
    (found,) = stays([*events, event(6, "lost", "a")])
    assert (found.ended, found.lost) == (5, True)


def test_the_time_of_a_request_is_up_some_time() -> None:
    (found,) = stays([event(7, "asked", "a", {"one": 1}, {}, 0.5)])
    assert found.until == 7 + 500 * MS


# ---- Over-admissions


def test_one_too_many_is_found() -> None:
    jobs = [stay("a", 0, 10, 20), stay("b", 0, 19, 30)]
    assert over_admissions("one", jobs, always(1)) == (2, [TooMany("b", "one", 2, 1)])


def test_slots_are_counted_and_not_heads() -> None:
    jobs = [
        stay("a", 0, 10, 20, hold={"three": 2}),
        stay("b", 0, 11, 20, hold={"three": 2}),
    ]
    assert over_admissions("three", jobs, always(3)) == (4, [TooMany("b", "three", 4, 3)])
    assert over_admissions("one", jobs, always(0)) == (0, [])


def test_who_enters_as_another_leaves_is_not_at_once_with_it() -> None:
    jobs = [stay("a", 0, 10, 20), stay("b", 0, 20, 30)]
    assert over_admissions("one", jobs, always(1)) == (1, [])


def test_who_never_left_is_still_inside() -> None:
    jobs = [stay("stopped", 0, 10), stay("b", 0, 5000, 5001)]
    assert over_admissions("one", jobs, always(1))[1] == [TooMany("b", "one", 2, 1)]


def test_who_was_told_that_its_slots_are_lost_does_not_count() -> None:
    jobs = [stay("a", 0, 10, 20, lost=True), stay("b", 0, 19, 30)]
    assert over_admissions("one", jobs, always(1)) == (1, [])


LOWERED = Settings(
    [
        event(0, "edit", 1, "one", [2, 0.0, True]),
        event(1, "edited", 1),
        event(100, "edit", 2, "one", [1, 0.0, True]),
        event(110, "edited", 2),
    ]
)


@pytest.mark.parametrize(
    ("asked_at", "entered", "wrong"),
    [
        (90, 95, False),  # before it was lowered
        (105, 200, False),  # maybe granted while that was on its way
        (111, 112, True),
    ],
)
def test_a_lowered_limit_evicts_nobody_and_lets_nobody_in(
    asked_at: int, entered: int, wrong: bool
) -> None:
    jobs = [stay("a", 2, 10, 500), stay("b", asked_at, entered, 500)]

    def most(begin: int, end: int) -> int:
        return LOWERED.most("one", begin, end)

    assert bool(over_admissions("one", jobs, most)[1]) == wrong


# ---- A limit that is spent


def call(token: int, asked_ms: int, back_ms: int) -> Stay:
    request = str(token)
    return stay(request, asked_ms * MS, back_ms * MS, token=token, spend={"calls": 1})


def test_a_burst_and_then_the_rate() -> None:
    calls = [call(1, 0, 1), call(2, 0, 1), call(3, 1, 100), call(4, 100, 200)]
    assert over_spent("calls", calls, 2, 10) == []


def test_a_free_burst_after_a_restart_is_found() -> None:
    calls = [call(1, 0, 1), call(2, 0, 1), call(3, 50, 51), call(4, 50, 51)]
    assert over_spent("calls", calls, 2, 10) == [
        TooMany("3", "calls", 3, 2),
        TooMany("4", "calls", 4, 2),
    ]


def test_a_call_too_many_is_found_long_after_the_first() -> None:
    calls = [call(n, 100 * n, 100 * n + 1) for n in range(1, 50)]
    assert over_spent("calls", calls, 1, 10) == []
    extra = call(50, 4901, 4902)
    assert [one.request for one in over_spent("calls", [*calls, extra], 1, 10)] == ["50"]


def test_a_stamp_that_is_late_accuses_nobody() -> None:
    # The first came back late, for it was stopped; the last one's token says that it came after.
    calls = [call(1, 0, 5000), call(2, 4000, 4001), call(3, 4950, 5001)]
    assert over_spent("calls", calls, 1, 1.0) == []


def test_a_late_stamp_hides_nothing_that_a_later_token_shows() -> None:
    calls = [call(1, 0, 1), call(2, 1, 9000), call(3, 2, 9000), call(4, 3, 50)]
    assert [one.request for one in over_spent("calls", calls, 1, 1.0)] == ["2", "3", "4"]


# ---- Order


def listing(at: int, *waiting: int, held: int = 99, sent: int | None = None) -> Event:
    rows = [[held, "held", 1], *([pid, "waiting", 1] for pid in waiting)]
    return event(at, "tickets", at - 1 if sent is None else sent, "one", rows)


def test_an_inverted_order_is_found() -> None:
    waited = stay("waited", 1, 50, token=8, pid=1)
    came = stay("came", 20, 40, token=7, pid=2)
    found = order([listing(10, 1)], [waited, came])
    assert (found.pairs, found.passed) == (1, [("waited", "came")])
    right = came._replace(token=9)
    assert order([listing(10, 1)], [waited, right]) == (1, 0, [])


def test_a_pair_across_a_restart_is_counted_as_such() -> None:
    jobs = [stay("waited", 1, 50, token=8, pid=1), stay("came", 20, 60, token=9, pid=2)]
    assert order([listing(10, 1), event(30, "dies", "SIGKILL")], jobs) == (1, 1, [])


@pytest.mark.parametrize(
    "waited",
    [
        stay("several", 1, 50, token=8, hold={"one": 1, "three": 1}),  # may be passed
        stay("not seen", 11, 50, token=8),
        stay("gave up", 1, None, 50, error="AcquireTimeout"),
        stay("told no token", 1, 50),
        stay("time was up", 1, 50, token=8)._replace(until=49),
    ],
)
def test_no_judgement_on_what_is_not_known(waited: Stay) -> None:
    assert order([listing(10, 1)], [waited, stay("came", 20, 40, token=7, pid=2)]).pairs == 0


def test_who_asked_before_the_other_was_seen_may_have_been_first() -> None:
    jobs = [stay("waited", 1, 50, token=8, pid=1), stay("came", 9, 40, token=7, pid=2)]
    assert order([listing(10, 1)], jobs).pairs == 0


def test_a_process_with_two_requests_is_known_when_both_are_listed() -> None:
    jobs = [stay("a", 1, 50, token=8), stay("b", 2, 60, token=9)]
    assert seen_waiting([listing(10, 1)], jobs) == {}
    assert seen_waiting([listing(10, 1), listing(20, 1, 1)], jobs) == {"a": 20, "b": 20}


def test_a_request_that_may_be_a_ghost_still_proves_nothing() -> None:
    jobs = [stay("ghost", 1, None, 5, error="DaemonUnavailable"), stay("a", 7, 50, token=8)]
    assert seen_waiting([listing(10, 1)], jobs) == {}


def test_one_that_was_let_in_before_the_listing_is_not_waiting() -> None:
    jobs = [stay("inside", 1, 5, 8, token=7), stay("a", 7, 50, token=8)]
    assert seen_waiting([listing(10, 1)], jobs) == {"a": 10}
    assert seen_waiting([listing(10, 1, sent=4)], jobs) == {}


# ---- Fencing tokens


def test_tokens_that_rise_are_in_order() -> None:
    assert tokens_out_of_order([stay("a", 1, 5, token=1), stay("b", 6, 7, token=2)]) == []
    assert tokens_out_of_order([stay("a", 1, 5, token=2), stay("b", 4, 7, token=1)]) == []


def test_a_token_that_goes_back_is_found() -> None:
    jobs = [stay("a", 1, 5, token=2), stay("b", 6, 7, token=1)]
    assert tokens_out_of_order(jobs) == [("a", "b")]


def test_a_token_given_twice_is_found() -> None:
    jobs = [stay("a", 1, 5, token=2), stay("b", 2, 7, token=2, hold={"three": 1})]
    assert tokens_out_of_order(jobs) == [("a", "b")]


# ---- Configuration


def edits(*changes: tuple[int, int | None, int | None]) -> list[Event]:
    """(sent, acknowledged, limit) of `x`."""
    events = []
    for number, (sent, acknowledged, limit) in enumerate(changes):
        setting = None if limit is None else [limit, 0.5, True]
        events.append(event(sent, "edit", number, "x", setting))
        if acknowledged is not None:
            events.append(event(acknowledged, "edited", number))
    return sorted(events, key=lambda one: one.at)


def told(at: int, limit: int | None) -> Event:
    return event(at, "limits", at - 2, [] if limit is None else [["x", limit, 0.5, True]])


@pytest.mark.parametrize(
    ("changes", "found", "kept"),
    [
        ([(1, 2, 5)], 5, True),
        ([(1, 2, 5)], 4, False),
        ([(1, 2, 5)], None, False),
        ([(1, None, 5)], None, True),  # never acknowledged
        ([(1, None, 5)], 5, True),
        ([(1, 2, 5), (3, 4, 6)], 5, False),  # gone back
        ([(1, 2, 5), (3, None, 6)], 5, True),
        ([(1, 2, 5), (3, None, 6)], 6, True),
        ([(1, 2, 5), (3, 99, 6)], 5, True),  # on its way when it was looked at
        ([(1, 2, 5), (50, 51, 6)], 6, False),  # not even begun
        ([(1, 2, 5), (3, 4, None)], None, True),
        ([(1, 2, 5), (3, 4, None)], 5, False),  # back from the dead
    ],
)
def test_an_acknowledged_setting_is_there(
    changes: list[tuple[int, int | None, int | None]], found: int | None, kept: bool
) -> None:
    events = edits(*changes)
    checks, wrong = lost(Settings(events), [*events, told(20, found)])
    assert (checks, not wrong) == (1, kept)


def test_a_limit_that_nobody_made_is_wrong() -> None:
    assert lost(Settings([]), [told(20, 1)])[1] == ["x is (1, 0.5, True) and was set to None"]


# ---- Service

LIFE = [
    event(0, "started"),
    event(5, "answers"),
    event(100 * MS, "dies", "SIGKILL"),
    event(110 * MS, "started"),
    event(200 * MS, "answers"),
]


def test_the_time_until_service_went_on() -> None:
    jobs = [stay("before", 0, 50 * MS, 60 * MS), stay("after", 90 * MS, 310 * MS)]
    assert returns(LIFE, jobs) == [(None, 90 * MS, 200 * MS)]
    assert not too_slow(returns(LIFE, jobs)[0], SECOND)
    assert too_slow(returns(LIFE, jobs)[0], 199 * MS)


def test_service_that_never_went_on_is_too_slow() -> None:
    assert too_slow(returns(LIFE, [])[0], SECOND)
    died_soon = [*LIFE, event(900 * MS, "dies", "SIGKILL")]
    assert not too_slow(returns(died_soon, [])[0], SECOND)
    died_late = [*LIFE, event(1111 * MS, "dies", "SIGKILL")]
    assert too_slow(returns(died_late, [])[0], SECOND)


def test_with_no_client_left_nobody_waits_for_service() -> None:
    assert returns([event(0, "started"), event(1, "killed", EVERYBODY, []), *LIFE[3:]], []) == []


def test_who_held_through_a_restart_is_counted() -> None:
    jobs = [
        stay("through", 0, 50 * MS, 250 * MS),
        stay("left", 0, 50 * MS, 150 * MS),
        stay("came", 0, 150 * MS, 250 * MS),
    ]
    assert held_through(LIFE, jobs) == 1


@pytest.mark.parametrize(
    ("holder_left", "more", "idle"),
    [
        (105, [], 190),  # from the start
        (150, [], 150),  # from when there was room
        (105, [event(120 * MS, "dies", "SIGKILL")], 10),  # to its end, at least
        (105, [event(1, "stopped", "w")], None),  # the line may have waited for that one
        (105, [event(1, "stopped", "w"), event(2, "killed", "w", [])], 190),
        (105, [event(200 * MS, "continued", "w")], None),
    ],
)
def test_how_long_a_line_stood_still_after_a_start(
    holder_left: int, more: list[Event], idle: int | None
) -> None:
    jobs = [
        stay("holds", 0, 50 * MS, holder_left * MS),
        stay("waits", 60 * MS, 300 * MS, 310 * MS),
        stay("new", 115 * MS, 290 * MS, 295 * MS),
        stay("elsewhere", 0, 120 * MS, hold={"three": 1}),
    ]
    events = sorted([*LIFE, *more], key=lambda one: one.at)
    found = longest_idle(events, jobs, "one")
    assert found == (None if idle is None else idle * MS)
    assert longest_idle(events, jobs[:1], "one") is None


# ---- The dead


@pytest.mark.parametrize(("sent", "found"), [(SECOND, []), (SECOND + 2, [(7, "one")])])
def test_a_dead_process_that_is_listed(sent: int, found: list[tuple[int, str]]) -> None:
    events = [event(1, "gone", [7]), listing(sent + 1, 7)]
    assert dead_in_the_books(events) == found


def test_a_dead_processs_number_may_be_given_again() -> None:
    assert (
        dead_in_the_books([event(1, "gone", [7]), asked(2, "x", 7), listing(2 * SECOND, 7)]) == []
    )


# ---- The verdict

SETTINGS = [
    event(0, "edit", 1, "one", [1, 0.0, True]),
    event(1, "edited", 1),
    event(9 * MS, "limits", 8 * MS, [["one", 1, 0.0, True]]),
]
KEPT = [
    *SETTINGS,
    asked(2 * MS, "holds", pid=99),
    event(3 * MS, "entered", "holds", 1, pid=99),
    asked(4 * MS, "waits"),
    listing(5 * MS, 1),
    asked(6 * MS, "comes", pid=2),
    event(10 * MS, "leaving", "holds", pid=99),
    event(11 * MS, "entered", "waits", 2),
    event(12 * MS, "leaving", "waits"),
    event(13 * MS, "entered", "comes", 3, pid=2),
    event(14 * MS, "leaving", "comes", pid=2),
    event(90 * MS, "leaked", "at the end", 0),
]


def judged(*more: Event) -> dict[str, list[str]]:
    """What is violated."""
    events = sorted([*KEPT, *more], key=lambda one: one.at)
    found = verdict(events, within_seconds=1.0)
    assert found.kept == (not any(found.violations.values()))
    assert all(any(kind in line for line in text(found)) for kind in found.violations)
    return {kind: said for kind, said in found.violations.items() if said}


def test_all_is_well() -> None:
    assert judged() == {}


def intruder(token: int, hold: dict[str, int], spend: dict[str, int], at_ms: int) -> list[Event]:
    at = at_ms * MS
    return [
        event(at, "asked", "x", hold, spend, None, pid=3),
        event(at + 1, "entered", "x", token, pid=3),
        event(at + 2, "leaving", "x", pid=3),
    ]


def calls(count: int) -> list[Event]:
    made = []
    for number in range(count):
        made.append(event(20 * MS, "asked", f"c{number}", {}, {"calls": 1}, None, pid=4))
        made.append(event(20 * MS + 1 + number, "entered", f"c{number}", 10 + number, pid=4))
    return made


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (
            intruder(4, {"one": 1}, {}, 7),
            "over-admissions",
            "x came into one: 2 slots in use, 1 allowed",
        ),
        (intruder(0, {"one": 1}, {}, 7), "over-admissions", "x came into one"),
        (calls(5), "over-spent", "4 of calls spent up to c3, 3 allowed"),
        (
            [event(91 * MS, "leaked", "after a restart", 2)],
            "leaked slots",
            "2 slots are taken after a restart",
        ),
        (
            [event(1, "gone", [7]), listing(2 * SECOND, 7)],
            "leaked slots",
            "pid 7 is listed at one, and dead",
        ),
        (
            [event(99 * MS, "limits", 98 * MS, [])],
            "configuration lost",
            "one is None and was set to (1, 0.0, True)",
        ),
        (
            [
                asked(7 * MS, "x", pid=3),
                event(10 * MS + 1, "entered", "x", 1.5, pid=3),
                event(10 * MS + 2, "leaving", "x", pid=3),
            ],
            "order inversions",
            "x was granted before waits",
        ),
        (intruder(1, {"three": 1}, {}, 20), "fencing tokens", "x's is not above"),
        ([event(15 * MS, "lost", "comes", pid=2)], "grants lost", "comes was told so"),
        (
            [asked(20 * MS, "x", pid=3), event(95 * MS, "unfinished", [3])],
            "never served",
            "x waits for {'one': 1}",
        ),
        (
            [asked(20 * MS, "x", pid=3), event(21 * MS, "failed", "x", "LimitNotFound", pid=3)],
            "unexpected errors",
            "1 times LimitNotFound",
        ),
        (
            [asked(20 * MS, "x", pid=3), event(21 * MS, "failed", "x", "DaemonUnavailable", pid=3)],
            "unexpected errors",
            "1 times DaemonUnavailable",
        ),
        (
            [
                asked(20 * MS, "x", pid=3),
                listing(22 * MS, 3),
                event(23 * MS, "failed", "x", "DaemonUnavailable", pid=3),
            ],
            "turned away",
            "x stood in line for {'one': 1} and was told DaemonUnavailable",
        ),
        ([event(21 * MS, "broken", "tasks-1 ended")], "unexpected errors", "tasks-1 ended"),
        (
            [
                event(0, "started"),
                event(30 * MS, "dies", "SIGKILL"),
                event(31 * MS, "started"),
                event(32 * MS, "answers"),
            ],
            "service not back",
            "answer 1 ms, grant never",
        ),
    ],
)
def test_a_violation_is_named(more: list[Event], kind: str, sentence: str) -> None:
    found = judged(*more)
    assert any(sentence in said for said in found[kind]), found


def test_no_daemon_is_to_be_expected_where_it_is_killed() -> None:
    refused = event(21 * MS, "failed", "x", "DaemonUnavailable", pid=3)
    assert judged(asked(20 * MS, "x", pid=3), refused, event(19 * MS, "dies", "SIGKILL")) == {}


def test_a_run_in_which_nothing_happened_has_shown_nothing() -> None:
    found = verdict([], within_seconds=1.0)
    assert found.violations["nothing shown"] == [
        "no entries",
        "no pairs in line",
        "no settings looked at",
    ]
    assert not found.kept


def test_of_a_thousand_violations_a_few_are_said() -> None:
    found = verdict(sorted([*KEPT, *calls(1000)], key=lambda one: one.at), within_seconds=1.0)
    assert len(found.violations["over-spent"]) == 997
    assert len(text(found)) < 50
