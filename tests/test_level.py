"""Decay is exact (semantics.md 2): a level against Fractions, and the figures that the page promises."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmostd.level import NANOSECONDS, Level

SECOND = NANOSECONDS
RATES = [0.1, 0.3, 0.5, 1.0, 3.0, 7.0, 1e-7, 1e9, 2.5e9, 1 / 3]

rates = st.sampled_from(RATES) | st.floats(1e-9, 1e9, allow_nan=False)
spans = st.integers(0, 3) | st.integers(0, 10**6) | st.integers(0, 10**12)


def exact(rate: float) -> Fraction:
    return Fraction(repr(rate))


def slots_of(level: Level) -> Fraction:
    return Fraction(level.units, level.unit)


def full(slots: int, rate: float, now: int = 0) -> Level:
    level = Level(rate, now)
    level.spend(slots)
    return level


def test_ten_slots_full_at_a_tenth_a_second_show_seven_after_thirty_and_a_half_seconds() -> None:
    level = full(10, 0.1)
    level.settle(30 * SECOND + SECOND // 2)
    assert slots_of(level) == Fraction("6.95")
    assert level.whole_slots() == 7
    assert level.slots() == 6.95


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("now", [0, 10**18 + 1])
def test_from_full_the_next_slot_is_free_after_exactly_one_over_the_decay(
    rate: float, now: int
) -> None:
    level = full(5, rate, now)
    instant = level.instant_within(4)
    assert instant == now + ceil(1 / exact(rate) * SECOND)
    level.settle(instant - 1)
    assert not level.within(4)
    level.settle(instant)
    assert level.within(4)


def test_the_rate_is_the_decimal_that_was_written() -> None:
    level = full(
        3, 0.3
    )  # as a binary fraction 0.3 is a little less, and the level would not be empty
    level.settle(10 * SECOND - 1)
    assert level.units > 0
    level.settle(10 * SECOND)
    assert level.units == 0


@given(rates, st.integers(1, 1_000), st.lists(spans, max_size=20))
def test_fractions_are_kept_however_often_somebody_looks(
    rate: float, slots: int, looks: list[int]
) -> None:
    level = full(slots, rate)
    now = 0
    for span in looks:
        now += span
        level.settle(now)
        level.within(slots - 1)
        level.whole_slots()
    assert slots_of(level) == max(0, slots - exact(rate) * Fraction(now, SECOND))


@given(rates, st.lists(st.tuples(spans, st.integers(1, 9)), max_size=20))
def test_a_level_is_exact_over_any_history_of_spending(
    rate: float, history: list[tuple[int, int]]
) -> None:
    level, now, expected = Level(rate, 0), 0, Fraction(0)
    for span, slots in history:
        now += span
        expected = max(Fraction(0), expected - exact(rate) * Fraction(span, SECOND)) + slots
        level.settle(now)
        level.spend(slots)
        assert slots_of(level) == expected
        assert level.whole_slots() == ceil(expected)


@given(rates, st.integers(1, 9), spans, st.integers(0, 9))
def test_instant_within_is_the_first_such_nanosecond(
    rate: float, slots: int, span: int, wanted: int
) -> None:
    level = full(slots, rate)
    level.settle(span)
    instant = level.instant_within(wanted)
    assert (instant == span) == level.within(wanted)
    if instant > span:
        level.settle(instant - 1)
        assert not level.within(wanted)
        level.settle(instant)
        assert level.within(wanted)


@given(rates, rates, st.integers(1, 9), spans)
def test_a_change_of_the_rate_settles_first_and_rounds_up_by_less_than_a_billionth(
    before: float, after: float, slots: int, span: int
) -> None:
    level = full(slots, before)
    level.change_rate(after, span)
    was = max(Fraction(0), slots - exact(before) * Fraction(span, SECOND))
    assert 0 <= slots_of(level) - was < Fraction(1, 10**9)
    assert level.whole_slots() == ceil(was)
    assert level.rate == after
    now_is = slots_of(level)
    level.settle(span + SECOND)
    assert slots_of(level) == max(0, now_is - exact(after))


@given(rates, st.integers(1, 9), spans)
def test_the_same_rate_again_changes_nothing(rate: float, slots: int, span: int) -> None:
    level, other = full(slots, rate), full(slots, rate)
    level.change_rate(rate, span)
    other.settle(span)
    assert slots_of(level) == slots_of(other)


@given(rates, st.integers(1, 9), spans)
def test_rate_zero_frees_what_was_spent_and_a_later_rate_starts_empty(
    rate: float, slots: int, span: int
) -> None:
    level = full(slots, rate)
    level.change_rate(0.0, span)
    assert level.units == 0
    level.change_rate(rate, span + 1)
    assert level.units == 0
    assert level.within(0)


def test_without_decay_nothing_stays_spent() -> None:
    assert full(5, 0.0).whole_slots() == 0


@pytest.mark.parametrize("back", [0, 1, 10**18])
def test_a_clock_that_stands_or_goes_back_changes_nothing(back: int) -> None:
    level = full(5, 1.0, now=10**18)
    level.settle(10**18 + SECOND)
    level.settle(10**18 + SECOND - back)
    assert slots_of(level) == 4
    level.settle(10**18 + 2 * SECOND)
    assert slots_of(level) == 3, "and the time that it went back over is not counted twice"


def test_an_empty_level_saves_nothing_up() -> None:
    level = Level(1.0, 0)
    level.settle(3600 * SECOND)
    level.spend(3)
    level.settle(3601 * SECOND)
    assert slots_of(level) == 2


def test_a_level_can_be_made_as_it_was() -> None:
    level = full(5, 0.3)
    level.settle(SECOND + 1)
    again = Level(level.rate, level.settled_at, level.units)
    assert slots_of(again) == slots_of(level)
    assert again.instant_within(2) == level.instant_within(2)
