"""What slots promise: semantics.md 1 and 2, about one test a sentence. Who waits: test_limit_line.py.

`World` posts, delivers and lets time pass, and asserts the invariants after every step.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from tests.rules_world import SECOND, World, states

# ---- 1. A limit


def test_the_limit_is_how_many_slots_can_be_occupied_at_the_same_time() -> None:
    """'slots that can be occupied at the same time; the burst of a rate limit'."""
    world = World()
    world.make("db", 2)
    world.make("api", 2, decay=1.0)
    assert states(*(world.hold("db") for _ in range(3))) == "held held waiting"
    assert states(*(world.spend("api") for _ in range(3))) == "ended ended waiting"


def test_half_a_slot_a_second_is_one_slot_every_two_seconds() -> None:
    """'0.5 = one slot comes back every two seconds'."""
    world = World()
    world.make("api", 1, decay=0.5)
    world.spend("api")
    second, third = world.spend("api"), world.spend("api")
    world.sleep(4)
    assert (second.granted_at, third.granted_at) == (2 * SECOND, 4 * SECOND)


def test_active_slots_are_held_and_spent_rounded_up_to_whole_slots() -> None:
    """'10 slots full at 0.1/s show 7 after 30.5 s'."""
    world = World()
    world.make("api", 12, decay=0.1)
    world.hold({"api": 2})
    world.spend({"api": 10})
    assert world.occupied("api") == 12
    world.sleep(30.5)
    assert world.occupied("api") == 2 + 7


@pytest.mark.parametrize(
    "edit", [{"limit": 3}, {"active": False}, {"decay": 1e9}], ids=["limit", "active", "decay"]
)
def test_an_edit_takes_effect_at_once(edit: dict[str, float]) -> None:
    """'waiters that now fit are granted in the same step' (a new decay begins to act now)."""
    world = World()
    world.make("api", 1, decay=0.001)
    world.spend("api")
    waiters = [world.hold("api"), world.hold("api")]
    world.edit("api", **edit)  # type: ignore[arg-type]
    world.now += 1  # the one nanosecond that 1e9 a second need
    world.sleep(0)
    expected = "held waiting" if "decay" in edit else "held held"
    assert states(*waiters) == expected
    assert waiters[0].granted_at == (1 if "decay" in edit else 0)


# ---- 2. concurrency and rate_limit


def test_what_is_held_and_what_is_spent_count_against_the_same_limit() -> None:
    """'free = limit - held - spent'."""
    world = World()
    world.make("gpu", 5, decay=1.0)
    world.hold({"gpu": 2})
    world.spend({"gpu": 2})
    assert world.free("gpu") == 1
    world.sleep(0.25)
    assert world.free("gpu") == Fraction("1.25")


def test_one_request_may_hold_and_spend() -> None:
    """Both kinds 'in one all-or-nothing request'."""
    world = World()
    world.make("gpu", 1)
    world.make("tokens", 600, decay=100.0)
    first = world.ask(hold="gpu", spend={"tokens": 500})
    world.let_go(first)
    second = world.ask(hold="gpu", spend={"tokens": 500})
    assert states(first, second) == "ended waiting"
    assert world.free("gpu") == 1, "nothing is held while it waits for tokens"
    world.sleep(4)
    assert states(second) == "held"
    assert second.granted_at == 4 * SECOND


def test_one_limit_may_be_held_and_spent_by_the_same_request() -> None:
    world = World()
    world.make("api", 3, decay=1.0)
    both = world.ask(hold={"api": 1}, spend={"api": 2})
    assert world.free("api") == 0
    world.let_go(both)
    assert world.free("api") == 1


# ---- Strict


def test_strict_is_refused_where_a_limit_is_inactive_and_names_every_such() -> None:
    """It must 'never run unguarded': `LimitInactive` 'naming every inactive one'."""
    world = World()
    world.make("off", active=False)
    world.make("on")
    world.make("also-off", active=False)
    ticket = world.hold(["off", "on", "also-off"], strict=True)
    assert world.refusals[ticket.number] == ("limit_inactive", {"names": ["off", "also-off"]})
    assert world.occupied("on") == 0


def test_strict_is_refused_when_its_limit_turns_inactive_while_it_waits() -> None:
    world = World()
    world.make("db")
    world.hold("db")
    strict, other = world.hold("db", strict=True), world.hold("db")
    world.edit("db", active=False)
    assert world.refusals[strict.number][0] == "limit_inactive"
    assert states(strict, other) == "ended held"


# ---- Inactive


def test_at_an_inactive_limit_nothing_is_occupied_and_nobody_waits() -> None:
    """'Inactive limit: nothing occupied, no wait'."""
    world = World()
    world.make("db", 1, decay=0.001, active=False)
    many = [world.hold({"db": 5}), world.spend("db"), world.hold("db")]
    assert states(*many) == "held ended held"
    assert world.occupied("db") == 0
    world.edit("db", active=True)
    assert world.free("db") == 1, "and it never counts later"


def test_turning_a_limit_inactive_lets_every_waiter_through_at_once() -> None:
    world = World()
    world.make("db", 2)
    world.hold("db")
    waiters = [world.hold({"db": 2}), world.hold("db"), world.hold("db")]
    assert states(*waiters) == "waiting waiting waiting"
    world.edit("db", active=False)
    assert world.granted[1:] == waiters


def test_grants_taken_while_active_stay_on_the_books() -> None:
    """'so that turning it on again counts them; grants taken while inactive never count'."""
    world = World()
    world.make("db", 2)
    before = world.hold("db")
    world.edit("db", active=False)
    between = world.hold({"db": 2})
    world.edit("db", active=True)
    after, waiter = world.hold("db"), world.hold("db")
    assert states(before, between, after, waiter) == "held held held waiting"
    world.let_go(between)
    assert states(waiter) == "waiting", "it had nothing to give back"
    world.let_go(before)
    assert states(waiter) == "held"


def test_toggling_never_leaks_and_never_goes_below_zero() -> None:
    world = World()
    world.make("db", 3)
    tickets = []
    for active in [False, True] * 5:
        tickets.append(world.hold("db", timeout=0))
        world.edit("db", active=active)
    for ticket in tickets:
        world.let_go(ticket)
        world.let_go(ticket)
    assert world.occupied("db") == 0
    assert states(world.hold({"db": 3}), world.hold("db")) == "held waiting"


def test_what_is_released_while_inactive_is_free_when_it_is_active_again() -> None:
    world = World()
    world.make("api", 2, decay=1.0)
    held = world.hold("api")
    world.spend("api")
    world.edit("api", active=False)
    world.let_go(held)
    world.sleep(0.5)
    world.edit("api", active=True)
    assert world.free("api") == Fraction("1.5")


def test_who_still_waits_for_another_limit_needs_one_that_is_active_again() -> None:
    world = World()
    world.make("off", active=False)
    world.make("db")
    first = world.hold("db")
    both = world.hold(["db", "off"])
    world.edit("off", active=True)
    other = world.hold("off")
    world.let_go(first)
    assert states(both, other) == "waiting held"
    world.let_go(other)
    assert states(both) == "held"


# ---- NeverFits


def test_more_than_the_limit_is_refused_at_once() -> None:
    """'`occupy` greater than `limit`: `NeverFits` at once'."""
    world = World()
    world.make("db", 2)
    ticket = world.hold({"db": 3})
    fields = {"name": "db", "slots": 3, "limit": 2}
    assert world.refusals[ticket.number] == ("never_fits", fields)


def test_a_waiter_is_refused_when_its_limit_is_lowered_below_what_it_asks() -> None:
    world = World()
    world.make("db", 3)
    world.hold({"db": 2})
    big, small = world.hold({"db": 2}), world.hold("db")
    assert states(big, small) == "waiting waiting"
    world.edit("db", limit=1)
    assert world.refusals[big.number][1] == {"name": "db", "slots": 2, "limit": 1}
    assert states(small) == "waiting"


def test_who_is_behind_one_that_is_refused_may_go_in_the_same_step() -> None:
    world = World()
    world.make("db", 4)
    world.hold({"db": 1})
    big, small = world.hold({"db": 4}), world.hold("db")
    world.edit("db", limit=3)
    assert states(big, small) == "ended held"


def test_a_limit_of_zero_refuses_everything() -> None:
    world = World()
    world.make("none", 0, decay=1.0)
    for ticket in (world.hold("none"), world.spend("none"), world.hold("none", timeout=0)):
        assert world.refusals[ticket.number][0] == "never_fits"


def test_an_inactive_limit_refuses_no_size() -> None:
    world = World()
    world.make("off", 0, active=False)
    assert states(world.hold({"off": 9})) == "held"


# ---- How slots come back


def test_held_slots_come_back_all_at_once_and_never_before() -> None:
    """'all at once, whether or not the limit has decay ...: a held slot does not decay'."""
    world = World()
    world.make("api", 3, decay=1e6)
    holder = world.hold({"api": 3})
    waiter = world.hold({"api": 3})
    world.sleep(1_000_000)
    assert states(waiter) == "waiting"
    world.let_go(holder)
    assert states(waiter) == "held"


def test_spent_slots_come_back_by_decay_alone() -> None:
    """'whatever becomes of the process that spent them'."""
    world = World()
    world.make("api", 2, decay=1.0)
    spender = world.spend({"api": 2})
    world.let_go(spender)
    assert world.occupied("api") == 2
    world.sleep(0.5)
    assert world.free("api") == Fraction("0.5")


def test_spending_needs_a_decay_and_takes_nothing_from_the_other_names() -> None:
    """'`SlotDecayRequired`, and nothing taken from the other names either'."""
    world = World()
    world.make("db")
    world.make("api", 5, decay=1.0)
    ticket = world.spend(["api", "db"])
    assert world.refusals[ticket.number] == ("slot_decay_required", {"name": "db"})
    assert world.occupied("api") == 0
    assert states(world.spend({"api": 5})) == "ended"
    ticket = world.ask(hold="db", spend="db")
    assert world.refusals[ticket.number][0] == "slot_decay_required"


def test_a_decay_of_zero_frees_what_was_spent_at_once() -> None:
    """'Setting the decay to 0 frees what was spent at once (it could never come back)'."""
    world = World()
    world.make("api", 2, decay=0.001)
    world.spend({"api": 2})
    holder, spender = world.hold({"api": 2}), world.spend("api")
    world.edit("api", decay=0.0)
    assert states(holder) == "held"
    assert world.refusals[spender.number] == ("slot_decay_required", {"name": "api"})
    world.edit("api", decay=0.001)
    assert world.occupied("api") == 2


def test_an_inactive_limit_without_decay_lets_spenders_through() -> None:
    """Only 'on an active limit without decay' is it refused."""
    world = World()
    world.make("new", 1, active=False)
    assert states(world.spend("new")) == "ended"


# ---- Decay is exact


@pytest.mark.parametrize(
    ("decay", "nanoseconds"), [(1.0, 10**9), (3.0, 333_333_334), (0.1, 10**10)]
)
def test_from_full_the_next_slot_is_free_after_one_over_the_decay(
    decay: float, nanoseconds: int
) -> None:
    world = World(now=10**18)
    world.make("api", 10, decay=decay)
    world.spend({"api": 10})
    waiter = world.spend("api")
    world.sleep(20)
    assert waiter.granted_at == 10**18 + nanoseconds


def test_fractions_are_not_dropped_by_a_refused_request_a_time_out_or_an_edit() -> None:
    world = World()
    world.make("api", 2, decay=1.0)
    world.spend({"api": 2})
    world.sleep(0.75)
    world.spend({"api": 3})
    world.spend("api", timeout=0)
    world.edit("api", limit=3)
    world.edit("api", limit=2)
    waiter = world.spend("api")
    world.sleep(10)
    assert waiter.granted_at == SECOND


def test_an_edit_of_the_decay_settles_the_level_at_the_old_rate_first() -> None:
    world = World()
    world.make("api", 10, decay=1.0)
    world.spend({"api": 10})
    world.sleep(4.5)
    world.edit("api", decay=0.5)
    assert world.free("api") == Fraction("4.5")
    world.sleep(3)
    assert world.free("api") == 6


def test_a_sustained_caller_gets_the_nominal_rate() -> None:
    """'>= 99 % of the nominal rate': all of it, when its Ticks come in time."""
    world = World()
    world.make("api", 1, decay=7.0)
    grants = [world.spend("api")]
    while world.now < 100 * SECOND:
        grants.append(world.spend("api"))
        world.sleep_until(world.alarms[0][0])
    assert len(grants) == 1 + 7 * 100
