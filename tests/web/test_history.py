"""What happened lately, in fixed memory: time is an argument."""

from __future__ import annotations

import math
import tracemalloc
from array import array

import pytest

from atmost.web.history import SPANS, SPARK_POINTS, STEPS, History, quantile

BEGIN = 1_800_000_000.0  # a whole number of the steps of every span


def watched(limits_max: int = 10) -> History:
    history = History(limits_max)
    history.known(BEGIN)
    return history


def test_a_step_is_the_mean_over_time_and_the_greatest_value() -> None:
    history = watched()
    history.observe("db", BEGIN, 1, 0)
    history.observe("db", BEGIN + 1, 5, 2)
    history.observe("db", BEGIN + 2, 0, 0)
    series = history.series("db", "10m", BEGIN + 5)
    assert series is not None
    assert series.slots[-2] == pytest.approx((1 * 1 + 5 * 1 + 0 * 3) / 5)
    assert series.slots_max[-2] == 5
    assert series.line[-2] == pytest.approx(2 / 5)
    assert series.line_max[-2] == 2


def test_a_value_stays_until_another_is_observed() -> None:
    history = watched()
    history.observe("db", BEGIN, 3, 1)
    for span, step in SPANS.items():
        series = history.series("db", span, BEGIN + 10 * step)
        assert series is not None
        assert series.slots[-10:] == [3.0] * 10
        assert series.line_max[-10:] == [1.0] * 10
        assert series.slots[:-11] == [None] * (STEPS - 11), "before it was watched"
        assert [b - a for a, b in zip(series.at, series.at[1:], strict=False)] == [step] * 119


def test_a_level_between_two_steps_is_divided_between_them() -> None:
    history = watched()
    history.observe("db", BEGIN + 4, 10, 0)
    history.observe("db", BEGIN + 6, 0, 0)
    series = history.series("db", "10m", BEGIN + 10)
    assert series is not None
    assert series.slots[-3:-1] == [pytest.approx(2.0), pytest.approx(2.0)]


def test_more_time_than_a_span_has_leaves_nothing_of_what_was() -> None:
    history = watched()
    history.observe("db", BEGIN, 9, 9)
    history.granted("db", BEGIN, 1.0)
    history.observe("db", BEGIN + 1, 2, 0)
    series = history.series("db", "10m", BEGIN + 1_000_003)
    assert series is not None
    assert series.slots == [2.0] * STEPS
    assert series.grants_per_second == [0.0] * STEPS
    assert series.wait_p50 == [None] * STEPS


def test_what_was_not_watched_is_unknown() -> None:
    history = watched()
    history.observe("db", BEGIN, 1, 0)
    history.unknown(BEGIN + 10)
    history.known(BEGIN + 30)
    history.observe("db", BEGIN + 30, 2, 0)
    series = history.series("db", "10m", BEGIN + 40)
    assert series is not None
    assert series.slots[-9:-1] == [1.0, 1.0, None, None, None, None, 2.0, 2.0]
    assert series.grants_per_second[-9:-1] == [0.0, 0.0, None, None, None, None, 0.0, 0.0]


def test_where_nothing_happened_nothing_is_known_to_have_happened() -> None:
    history = watched()
    history.observe("idle", BEGIN, 0, 0)
    assert len(history) == 0, "it takes no memory"
    series = history.series("idle", "10m", BEGIN + 10)
    assert series is not None
    assert series.slots[-3:] == [0.0, 0.0, 0.0]
    assert series.slots[-4] is None
    history.observe("idle", BEGIN + 10, 1, 0)
    series = history.series("idle", "10m", BEGIN + 15)
    assert series is not None
    assert series.slots[-4:-1] == [0.0, 0.0, 1.0]


def test_grants_and_waits() -> None:
    history = watched()
    for number in range(100):
        history.granted("db", BEGIN + number / 100, 10.0 if number >= 95 else 0.5)
    series = history.series("db", "10m", BEGIN + 5)
    assert series is not None
    assert series.grants_per_second[-2] == 20.0
    assert series.wait_p50[-2] == pytest.approx(0.5, rel=0.3)
    assert series.wait_p99[-2] == pytest.approx(10.0, rel=0.3)
    assert history.rate("db", BEGIN + 50, 60.0) == pytest.approx(100 / 50, rel=0.2)


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.02, 1, 60, 3600, 86400, 1e9])
def test_a_quantile_is_near(seconds: float) -> None:
    history = watched()
    history.granted("db", BEGIN, seconds)
    series = history.series("db", "10m", BEGIN)
    assert series is not None
    told = series.wait_p50[-1]
    assert told is not None
    if seconds <= 0.001:
        assert told == 0.0
    else:
        assert min(seconds, 7e4) <= told * 1.0001 <= max(seconds * 1.31, 1e-9)


def test_a_quantile_of_nothing() -> None:
    assert math.isnan(quantile(array("L", [0, 0, 0]), 0.5))


def test_the_spark_has_the_greatest_of_each_part() -> None:
    history = watched()
    assert history.spark("db", BEGIN) == [0.0] * SPARK_POINTS
    history.observe("db", BEGIN, 1, 0)
    history.observe("db", BEGIN + 1, 4, 0)
    history.observe("db", BEGIN + 2, 1, 0)
    spark = history.spark("db", BEGIN + 59)
    assert spark is not None
    assert len(spark) == SPARK_POINTS
    assert spark[-3:] == [4.0, 1.0, 1.0]
    assert spark[:-3] == [None] * (SPARK_POINTS - 3)


def test_more_limits_than_are_kept_are_named() -> None:
    history = watched(2)
    for name in ("a", "b", "c"):
        history.observe(name, BEGIN, 1, 0)
    assert history.left_out == {"c"}
    assert history.series("c", "10m", BEGIN) is None
    assert history.spark("c", BEGIN) is None
    history.granted("c", BEGIN, 1.0)
    assert history.rate("c", BEGIN) == 0.0
    history.forget("a")
    history.observe("c", BEGIN + 1, 1, 0)
    assert history.left_out == set()
    assert history.series("c", "10m", BEGIN + 2) is not None


def test_who_was_quiet_for_a_whole_day_makes_room() -> None:
    history = watched(2)
    history.observe("quiet", BEGIN, 1, 0)
    history.observe("busy", BEGIN, 1, 0)
    later = BEGIN + STEPS * max(SPANS.values()) + 1
    history.observe("busy", later, 1, 0)
    history.observe("new", later, 1, 0)
    assert set(history.names()) == {"busy", "new"}
    assert history.left_out == {"quiet"}


def test_memory_is_fixed() -> None:
    """However much happens: 24 hours of a thousand grants a second are as large as one."""
    history = watched(5)
    names = [f"limit {number}" for number in range(5)]

    def day(begin: float) -> None:
        for hour in range(24):
            for name in names:
                for second in range(20):
                    now = begin + hour * 3600 + second * 7
                    history.observe(name, now, second, second)
                    history.granted(name, now, second)

    day(BEGIN)
    tracemalloc.start()
    try:
        day(BEGIN + 86_400)
        first = tracemalloc.get_traced_memory()[0]
        day(BEGIN + 2 * 86_400)
        assert tracemalloc.get_traced_memory()[0] <= first * 1.2 + 20_000
    finally:
        tracemalloc.stop()
