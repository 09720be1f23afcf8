"""Promises over time, from any history: rates kept to the slot, bounded passing, nobody starves."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from atmostd.limit import PASSES_MAX
from atmostd.ticket import State, Ticket
from tests.rules_model import exact
from tests.rules_world import SECOND, World, spent

decays = st.sampled_from([0.1, 0.3, 1.0, 7.0, 1000.0, 1e9]) | st.floats(0.01, 1e4)


# ---- Rates


@given(
    limit=st.integers(1, 5),
    decay=decays,
    arrivals=st.lists(
        st.tuples(st.sampled_from([0, 1, SECOND // 7, SECOND, 5 * SECOND]), st.integers(1, 5)),
        min_size=1,
        max_size=25,
    ),
)
def test_in_any_interval_at_most_the_limit_and_the_decay_are_spent(
    limit: int, decay: float, arrivals: list[tuple[int, int]]
) -> None:
    """'In any interval T, at most `limit + decay*T` slots are spent'."""
    world = World()
    world.make("api", limit, decay=decay)
    for gap, slots in arrivals:
        world.sleep_until(world.now + gap)
        world.spend({"api": min(slots, limit)})
    wait_for_all(world)
    spends = [(ticket.granted_at, ticket.parts[0].spend) for ticket in world.granted]
    assert len(spends) == len(arrivals)
    for first in range(len(spends)):
        together = 0
        for instant, slots in spends[first:]:
            together += slots
            span = Fraction(instant - spends[first][0], SECOND)
            assert together <= limit + exact(decay) * span


@given(
    limit=st.integers(1, 5),
    decay=decays,
    waiters=st.integers(1, 25),
    slots=st.integers(1, 3),
    start=st.sampled_from([0, 10**18 + 1]),
)
def test_with_waiters_present_at_least_that_minus_one_slot_is_spent(
    limit: int, decay: float, waiters: int, slots: int, start: int
) -> None:
    """Minus what the one at the head asks, when it asks more than one.

    Grants come at whole nanoseconds. What decays in the fraction before is made up for by the next
    grant, unless nothing is left that could decay: when the one at the head asks for the whole limit.
    """
    slots = min(slots, limit)
    world = World(start)
    world.make("api", limit, decay=decay)
    crowd = [world.spend({"api": slots}) for _ in range(waiters)]
    wait_for_all(world)
    assert world.granted == crowd
    for before, ticket in enumerate(crowd):
        rounded_up = before if slots == limit else 0  # nanoseconds
        span = Fraction(ticket.granted_at - start - 1 - rounded_up, SECOND)
        if ticket.granted_at > start:
            assert slots * before > limit + exact(decay) * span - slots


@given(decay=decays, pauses=st.lists(st.integers(0, 3 * SECOND), max_size=20))
def test_whoever_looks_edits_or_is_refused_does_not_change_when_the_next_slot_is_free(
    decay: float, pauses: list[int]
) -> None:
    disturbed, calm = World(), World()
    for world in (disturbed, calm):
        world.make("api", 3, decay=decay)
        world.spend({"api": 3})
    for pause in pauses:
        disturbed.sleep_until(disturbed.now + pause)
        disturbed.spend({"api": 4})
        if disturbed.free("api") < 3:
            disturbed.spend({"api": 3}, timeout=0)
        disturbed.edit("api", active=False)
        disturbed.edit("api", limit=4, decay=decay, active=True)
        disturbed.edit("api", limit=3)
        disturbed.tick(disturbed.limits["api"])
    calm.sleep_until(disturbed.now)
    assert spent(disturbed.limits["api"], disturbed.now) == spent(calm.limits["api"], calm.now)


def wait_for_all(world: World) -> None:
    while any(ticket.state is State.WAITING for ticket in world.tickets):
        world.sleep_until(world.alarms[0][0])


# ---- Passing

LONGEST_HOLD = 4  # rounds
NAMES = "abc"

requests = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), min_size=1, max_size=3)
rounds = st.lists(
    st.lists(st.tuples(requests, st.integers(1, LONGEST_HOLD)), max_size=2), max_size=40
)


@given(rounds)
@settings(max_examples=200)
def test_every_wait_is_bounded_when_every_hold_is(
    rounds: list[list[tuple[dict[str, int], int]]],
) -> None:
    """'nobody starves ... bounded waits under any churn'.

    The oldest ticket lacks a line only while others hold its slots. In any LONGEST_HOLD rounds
    somebody passes it in a line where it was passed fewer than PASSES_MAX times (at most PASSES_MAX
    times each of its lines), or it comes to keep its lines; then it goes within LONGEST_HOLD rounds.
    """
    world = World()
    for name in NAMES:
        world.make(name, 2)
    bounds: list[tuple[Ticket, int]] = []
    ends: dict[int, int] = {}  # how long each ticket will hold, by number
    for arriving in [*rounds, *([[]] * 2_000)]:
        world.now += 1
        let_go_of_those_due(world, ends)
        for request, rounds_held in arriving:
            waiting = sum(ticket.state is State.WAITING for ticket in world.tickets)
            ticket = world.hold(request)
            ends[ticket.number] = rounds_held
            oldest_at_most = LONGEST_HOLD * (PASSES_MAX * len(NAMES) + 1)
            bounds.append((ticket, (waiting + 1) * oldest_at_most))
        if not arriving and all(ticket.state is State.ENDED for ticket in world.tickets):
            break
    for ticket, bound in bounds:
        assert ticket.state is State.ENDED
        assert ticket.granted_at - ticket.asked_at <= bound


def let_go_of_those_due(world: World, ends: dict[int, int]) -> None:
    for ticket in world.tickets:
        if ticket.state is State.HELD and world.now >= ticket.granted_at + ends[ticket.number]:
            world.let_go(ticket)


def test_a_stream_that_never_leaves_both_limits_free_passes_only_so_often() -> None:
    """Somebody always waits for a alone and for b alone, and their holds overlap for ever."""
    world = World()
    world.make("a")
    world.make("b")
    holders = {name: world.hold(name) for name in "ab"}
    both = world.hold(["a", "b"])
    passes = 0
    for turn in range(100):
        name = "ab"[turn % 2]
        later = world.hold(name)
        world.let_go(holders[name])
        if both.state is State.HELD:
            break
        if later.state is State.HELD:
            holders[name] = later
            passes += 1
    assert both.state is State.HELD
    assert passes <= 2 * PASSES_MAX
