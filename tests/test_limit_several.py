"""One request over several limits: semantics.md 2, about one test a sentence."""

from __future__ import annotations

from itertools import permutations

import pytest

from atmostd.limit import PASSES_MAX
from atmostd.ticket import Ticket
from tests.rules_world import SECOND, World, states

# ---- Several names


def test_all_or_nothing() -> None:
    """'Nothing is held on one name while waiting for another'."""
    world = World()
    world.make("a")
    world.make("b")
    first = world.hold("b")
    both = world.hold(["a", "b"])
    assert world.occupied("a") == 0
    assert states(world.hold("a")) == "held", "a lack of b does not hold back the line of a"
    assert states(both) == "waiting"
    world.let_go(first)
    assert states(both) == "waiting", "now it lacks a"


def test_one_place_in_the_order_of_arrival() -> None:
    """Whatever the order of the names."""
    world = World()
    world.make("a")
    world.make("b")
    holder = world.hold(["a", "b"])
    both, later_a, later_b = world.hold(["b", "a"]), world.hold("a"), world.hold("b")
    world.let_go(holder)
    assert states(both, later_a, later_b) == "held waiting waiting"


@pytest.mark.parametrize("orders", list(permutations(["a b", "b a", "b c", "c a"], 3)))
def test_no_order_of_names_can_deadlock(orders: tuple[str, ...]) -> None:
    world = World()
    for name in "abc":
        world.make(name)
    tickets = [world.hold(order.split()) for order in orders * 2]
    for _ in tickets:
        held = [ticket for ticket in tickets if states(ticket) == "held"]
        assert held, "nobody can go"
        world.let_go(held[0])
    assert states(*tickets) == " ".join(["ended"] * len(tickets))


def test_who_lacks_one_limit_alone_keeps_its_line() -> None:
    """'A big request at the head is not starved by small ones behind it', over several lines too."""
    world = World()
    world.make("a", 2)
    world.make("b", 2)
    holder = world.hold("a")
    big = world.hold({"a": 2, "b": 1})
    small_a, small_b = world.hold("a"), world.hold("b")
    assert states(big, small_a, small_b) == "waiting waiting held"
    world.let_go(holder)
    assert states(big, small_a) == "held waiting"


def world_of(names: str) -> tuple[World, Ticket]:
    """Limits of one slot, each held; and a ticket that waits for all of them."""
    world = World()
    for name in names:
        world.make(name)
        world.hold(name)
    return world, world.hold(list(names))


def release(world: World, name: str) -> None:
    (holder,) = world.limits[name].holders.values()
    world.let_go(holder)


def pass_by(world: World, name: str, times: int) -> None:
    """So many later tickets go here, one after the other."""
    for _ in range(times):
        ticket = world.hold(name)
        release(world, name)
        assert states(ticket) == "held"


def test_who_was_passed_four_times_in_every_line_that_it_lacks_keeps_its_other_lines() -> None:
    """'once it has been passed 4 times ... in every line that it still lacks, its other lines stop
    behind it and keep the slots it needs until it goes'."""
    assert PASSES_MAX == 4
    world, both = world_of("ab")
    pass_by(world, "a", times=4)
    release(world, "b")
    later = world.hold("b")
    assert states(both, later) == "waiting waiting"
    release(world, "a")
    assert states(both, later) == "held waiting"


def test_three_passes_are_not_yet_enough() -> None:
    world, both = world_of("ab")
    pass_by(world, "a", times=3)
    release(world, "b")
    later = world.hold("b")
    assert states(both, later) == "waiting held"


def test_four_passes_in_one_of_the_lines_that_it_lacks_are_not_yet_enough() -> None:
    world, every = world_of("abc")
    pass_by(world, "a", times=4)
    release(world, "c")
    later = world.hold("c")
    assert states(every, later) == "waiting held"


def test_who_keeps_its_lines_keeps_them_until_it_goes() -> None:
    """Also when it comes to lack another one, in which nobody has passed it."""
    world = World()
    for name, limit in {"a": 1, "b": 2, "c": 1}.items():
        world.make(name, limit)
    world.hold("a")
    holders = [world.hold("b"), world.hold("b")]
    every = world.hold(list("abc"))
    pass_by(world, "a", times=4)
    world.let_go(holders[0])
    world.edit("b", limit=1)
    later = world.hold("c")
    assert states(every, later) == "waiting waiting"
    release(world, "a")
    release(world, "b")
    assert states(every, later) == "held waiting"


def test_who_came_earlier_passes_nobody() -> None:
    world = World()
    for name in "ab":
        world.make(name)
        world.hold(name)
    for _ in range(4):
        world.hold("a")
    both = world.hold(["a", "b"])
    for _ in range(4):
        release(world, "a")
    release(world, "b")
    later = world.hold("b")
    assert states(both, later) == "waiting held"


def test_a_line_whose_other_limit_is_merely_slow_stays_busy() -> None:
    """Passed often in one line, but never in the one that it lacks."""
    world = World()
    world.make("busy")
    world.make("slow")
    world.hold("slow")
    both = world.hold(["busy", "slow"])
    for _ in range(20):
        ticket = world.hold("busy")
        assert states(both, ticket) == "waiting held"
        world.let_go(ticket)


def test_passes_while_a_limit_is_inactive_do_not_count() -> None:
    world, both = world_of("ab")
    pass_by(world, "a", times=3)
    world.edit("a", active=False)
    assert states(world.hold("a"), both) == "held waiting"
    world.edit("a", active=True)
    release(world, "b")
    assert states(world.hold("b"), both) == "held waiting"


def test_who_has_not_reached_all_of_its_lines_holds_back_those_it_stands_in() -> None:
    """No inbox is overtaken: a ticket has one place in the order of arrival, everywhere."""
    world = World()
    world.make("a")
    world.make("b")
    both = world.post(hold=["a", "b"])
    world.deliver(world.limits["a"])
    later = world.hold("a")
    assert states(both, later) == "arriving waiting"
    world.deliver(world.limits["b"])
    assert states(both, later) == "held waiting"


# ---- One step looks at all that hangs together


def test_the_fourth_pass_holds_back_the_next_in_the_same_step() -> None:
    world = World()
    world.make("a", 4)
    world.make("b")
    holder, _, _ = world.hold({"a": 2}), world.hold({"a": 2}), world.hold("b")
    both = world.hold({"a": 4, "b": 1})
    pass_by(world, "b", times=4)
    for _ in range(3):
        later = world.hold({"a": 2})
        world.let_go(holder)
        holder = later
    fourth, fifth = world.hold("a"), world.hold("a")
    world.let_go(holder)
    assert states(both, fourth, fifth) == "waiting held waiting"


def test_who_is_passed_and_lacks_two_limits_then_holds_back_neither_in_the_same_step() -> None:
    world = World()
    world.make("a")
    world.make("b", 2)
    world.hold("b")
    holder = world.hold(["a", "b"])
    both = world.hold({"a": 1, "b": 2})
    later_b, later_a = world.hold("b"), world.hold("a")
    world.let_go(holder)
    assert states(both, later_b, later_a) == "waiting held held"
    assert world.granted[-2:] == [later_a, later_b]


def test_who_waits_behind_somebody_that_no_longer_holds_the_line_goes_in_the_same_step() -> None:
    """Y passes W at e and fills a. So X lacks two limits now, and no longer holds back b for Q."""
    world = World()
    for name, limit in {"e": 2, "g": 1, "a": 1, "b": 2}.items():
        world.make(name, limit)
    holder = world.hold("e")
    world.hold(["e", "g"])
    world.hold("b")
    w, y = world.hold({"e": 2, "g": 1}), world.hold(["e", "a"])
    x, q = world.hold({"a": 1, "b": 2}), world.hold("b")
    assert states(w, y, x, q) == "waiting waiting waiting waiting"
    world.let_go(holder)
    assert states(w, y, x, q) == "waiting held waiting held"


def test_nobody_overtakes_in_a_line_far_from_the_one_that_changed() -> None:
    """X1 lacks a and b now, and lets X2 have b. But c is held back by W, who came first."""
    world = World()
    for name in "abc":
        world.make(name, 2)
        world.hold(name)
    w, x1, x2 = world.hold({"c": 2}), world.hold({"a": 1, "b": 2}), world.hold(["b", "c"])
    world.edit("a", limit=1)
    assert states(w, x1, x2) == "waiting waiting waiting"
    release(world, "c")
    assert states(w, x1, x2) == "held waiting waiting"


def test_a_grant_in_one_line_may_need_a_tick_in_another() -> None:
    """Who lacked b alone lacks a too when a is spent, and nothing else will happen there."""
    world = World()
    world.make("a", 2, decay=1.0)
    world.make("b")
    world.make("e")
    holder_b, holder_e = world.hold("b"), world.hold("e")
    world.ask(hold="e", spend="a")
    waiter = world.ask(hold="b", spend={"a": 2})
    world.let_go(holder_e)
    world.let_go(holder_b)
    assert states(waiter) == "waiting"
    world.sleep(1)
    assert waiter.granted_at == SECOND


def test_the_tick_comes_for_whoever_can_go_first() -> None:
    """Not for the head alone: that one waits for another limit as well."""
    world = World()
    world.make("api", 2, decay=1.0)
    world.make("db")
    world.hold("db")
    world.spend({"api": 2})
    both, single = world.ask(hold="db", spend={"api": 2}), world.spend("api")
    world.sleep(1)
    assert states(both, single) == "waiting ended"
    assert single.granted_at == SECOND
