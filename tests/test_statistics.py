"""The counters of a limit, without a daemon."""

from __future__ import annotations

import timeit

import pytest

from atmostd.statistics import BUCKET_SECONDS, BUCKETS, NANOSECONDS, Tally

SECOND = NANOSECONDS


def test_nothing_has_happened_yet() -> None:
    tally = Tally()
    assert tally.wait_buckets() == tally.hold_buckets() == [0] * BUCKETS
    assert tally.mean_hold_seconds() is None


def test_a_grant_without_a_wait_is_in_the_first_bucket() -> None:
    tally = Tally()
    tally.granted(0)
    tally.granted(5)
    assert tally.grants == 2
    assert tally.wait_ns == 5
    assert tally.wait_buckets() == [2, *[0] * (BUCKETS - 1)]


@pytest.mark.parametrize("at", range(len(BUCKET_SECONDS)))
def test_a_bound_is_the_last_of_its_bucket(at: int) -> None:
    bound = round(BUCKET_SECONDS[at] * SECOND)
    tally = Tally()
    tally.granted(bound)
    tally.granted(bound + 1)
    tally.released(bound)
    tally.released(bound + 1)
    for buckets in (tally.wait_buckets(), tally.hold_buckets()):
        assert buckets[at] == buckets[at + 1] == 1
        assert sum(buckets) == 2


def test_sums_are_exact() -> None:
    tally = Tally()
    for waited in (0, 1, 3 * SECOND, 10**18):
        tally.granted(waited)
    for held in (1, 0, 2 * SECOND):
        tally.released(held)
    assert (tally.grants, tally.wait_ns) == (4, 1 + 3 * SECOND + 10**18)
    assert (tally.releases, tally.hold_ns) == (3, 1 + 2 * SECOND)
    assert sum(tally.wait_buckets()) == 4
    assert sum(tally.hold_buckets()) == 3


def test_the_recent_mean_follows_what_holders_do_now() -> None:
    tally = Tally()
    tally.released(1000 * SECOND)
    assert tally.mean_hold_seconds() == 1000
    for _ in range(100):
        tally.released(2 * SECOND)
    mean = tally.mean_hold_seconds()
    assert mean is not None
    assert 1.9 < mean < 2.1


def test_refusals_are_counted_by_their_reason() -> None:
    tally = Tally()
    for code in ("never_fits", "too_many", "never_fits"):
        tally.refused(code)
    assert tally.refusals == {"never_fits": 2, "too_many": 1}


def test_a_cycle_costs_next_to_nothing() -> None:
    tally = Tally()

    def cycle() -> None:
        tally.granted(0)
        tally.released(12_345_678)

    best = min(timeit.repeat(cycle, number=2000, repeat=20)) / 2000
    assert best < 10e-6, f"{best * 1e9:.0f} ns"  # it is about 0.3 us; a loaded host is no failure
