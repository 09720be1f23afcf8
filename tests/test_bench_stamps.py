"""Stamps of two processes become the steps of a walk."""

from __future__ import annotations

from bench.stamps import ACQUIRE, BEHIND, RELEASE, Stamp, figures

CLIENT: list[Stamp] = [
    *(("asks", 0), ("sends", 10_000), ("heard", 95_000), ("has", 100_000)),
    *(("leaves", 200_000), ("sends", 202_000), ("left", 210_000)),
]
DAEMON: list[Stamp] = [
    *(("reads", 30_000), ("acts", 45_000), ("decided", 55_000), ("written", 62_000)),
    ("spoken", 65_000),
    *(("reads", 205_000), ("acts", 209_000), ("decided", 215_000), ("written", 220_000)),
]


def later(stamps: list[Stamp], by: int) -> list[Stamp]:
    return [(label, instant + by) for label, instant in stamps]


def test_each_step_lasts_until_the_next_stamp() -> None:
    found = figures(CLIENT, DAEMON)
    assert [found[step] for step in ACQUIRE.steps] == [10, 20, 15, 10, 7, 3, 30, 5]
    assert [found[step] for step in RELEASE.steps] == [10]
    assert [found[step] for step in BEHIND.steps] == [4, 6, 5]


def test_the_steps_of_an_acquire_are_all_of_it() -> None:
    found = figures(CLIENT, DAEMON)
    assert sum(found[step] for step in ACQUIRE.steps) == 100


def test_a_cycle_in_which_something_came_twice_does_not_count() -> None:
    twice = [*later(DAEMON, 1_000_000), ("reads", 1_031_000)]
    client, daemon = CLIENT + later(CLIENT, 1_000_000), DAEMON + twice
    assert figures(client, daemon)[ACQUIRE.steps[2]] == 15
    alone = figures(later(CLIENT, 1_000_000), twice)
    assert ACQUIRE.steps[0] not in alone


def test_a_cycle_without_an_end_does_not_count() -> None:
    assert figures(CLIENT[:3], DAEMON) == {}
