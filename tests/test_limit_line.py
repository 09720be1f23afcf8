"""Who waits, who goes and who is told to stop: semantics.md 2, about one test a sentence.

`World` posts, delivers and lets time pass, and asserts the invariants after every step.
"""

from __future__ import annotations

from atmostd.ticket import Arrive
from tests.rules_world import SECOND, World, states

# ---- The line


def test_first_come_first_served() -> None:
    world = World()
    world.make("db")
    tickets = [world.hold("db") for _ in range(5)]
    for ticket in tickets:
        assert states(ticket) == "held"
        world.let_go(ticket)
    assert world.granted == tickets


def test_a_big_request_at_the_head_is_not_starved_by_small_ones_behind_it() -> None:
    world = World()
    world.make("db", 3)
    holders = [world.hold("db"), world.hold("db")]
    big = world.hold({"db": 3})
    small = [world.hold("db"), world.hold("db")]
    assert states(big, *small) == "waiting waiting waiting", "though one slot is free"
    world.let_go(holders[0])
    assert states(big, *small) == "waiting waiting waiting"
    world.let_go(holders[1])
    assert states(big, *small) == "held waiting waiting"


def test_a_free_slot_is_taken_only_through_the_line() -> None:
    """Also by a ticket that tries once, or one that would fit beside the one that waits."""
    world = World()
    world.make("db", 2)
    world.hold("db")
    world.hold({"db": 2})
    once = world.hold("db", timeout=0)
    assert states(once) == "ended"
    assert world.places[once.number] == {"db": 2}


def test_holders_and_spenders_stand_in_one_line() -> None:
    world = World()
    world.make("api", 1, decay=1.0)
    first = world.hold("api")
    spender, holder = world.spend("api"), world.hold("api")
    world.let_go(first)
    assert states(spender, holder) == "ended waiting"
    world.sleep(1)
    assert states(holder) == "held"


def test_the_grant_is_sent_in_the_step_that_frees_the_slot() -> None:
    """'Wake-up is a push'."""
    world = World()
    world.make("db")
    first, second = world.hold("db"), world.hold("db")
    effects = world.let_go(first)
    assert [type(effect).__name__ for effect in effects] == ["Granted"]
    assert states(second) == "held"
    assert not world.alarms, "a limit without decay and time-outs never asks for a Tick"


def test_one_step_grants_all_that_fit() -> None:
    world = World()
    world.make("db", 5)
    big = world.hold({"db": 5})
    waiters = [world.hold({"db": slots}) for slots in (2, 2, 2, 1)]
    world.let_go(big)
    assert states(*waiters) == "held held waiting waiting"


def test_a_limit_at_rest_asks_for_no_tick() -> None:
    world = World()
    world.make("api", 2, decay=1.0)
    world.spend({"api": 2})
    assert not world.alarms, "nobody waits for what decays"
    waiter = world.spend("api")
    assert world.next_alarm() == SECOND
    world.let_go(waiter)
    world.sleep(1)
    assert not world.alarms


# ---- Time-outs


def test_no_timeout_waits_for_ever() -> None:
    world = World()
    world.make("db")
    first, second = world.hold("db"), world.hold("db")
    world.sleep(10**9)
    assert states(first, second) == "held waiting"


def test_a_timeout_ends_the_wait_and_says_the_place_in_every_line() -> None:
    world = World()
    world.make("a")
    world.make("b")
    world.hold(["a", "b"])
    world.hold("a")
    late = world.hold(["a", "b"], timeout=2)
    later = world.hold("b", timeout=3)
    world.sleep(1.999_999_999)
    assert states(late) == "waiting"
    world.sleep(0.000_000_001)
    assert states(late, later) == "ended waiting"
    assert world.places[late.number] == {"a": 2, "b": 1}
    world.sleep(1)
    assert world.places[later.number] == {"b": 1}


def test_places_are_as_they_were_when_several_time_out_together() -> None:
    world = World()
    world.make("db")
    world.hold("db")
    waiters = [world.hold("db", timeout=seconds) for seconds in (1, 5, 1)]
    world.sleep(1)
    assert [world.places.get(waiter.number) for waiter in waiters] == [{"db": 1}, None, {"db": 3}]


def test_a_timeout_counts_from_the_call() -> None:
    """Not from when the last of its lines is reached."""
    world = World()
    world.make("a")
    world.make("b")
    world.hold("b")
    ticket = world.post(hold=["a", "b"], timeout=1)
    world.deliver(world.limits["a"])
    world.sleep(1)
    world.deliver(world.limits["b"])
    assert states(ticket) == "ended"
    assert world.places[ticket.number] == {"a": 1, "b": 1}


def test_a_timeout_of_zero_tries_once() -> None:
    """'0 = try once: succeed if free now'."""
    world = World()
    world.make("db")
    first, second = world.hold("db", timeout=0), world.hold("db", timeout=0)
    assert states(first, second) == "held ended"
    assert world.places[second.number] == {"db": 1}
    world.let_go(first)
    assert states(second) == "ended"


def test_who_can_go_at_that_very_instant_is_not_late() -> None:
    world = World()
    world.make("api", 1, decay=1.0)
    world.spend("api")
    just, late = world.hold("api", timeout=1), world.hold("api", timeout=1)
    world.sleep(1)
    assert just.granted_at == SECOND
    assert world.places == {late.number: {"api": 1}}


def test_who_is_behind_one_that_times_out_may_go_in_the_same_step() -> None:
    world = World()
    world.make("db", 2)
    world.hold("db")
    world.hold({"db": 2}, timeout=1)
    small = world.hold("db")
    world.sleep(1)
    assert states(small) == "held"
    assert small.granted_at == SECOND


def test_who_was_granted_or_let_go_in_time_does_not_time_out() -> None:
    world = World()
    world.make("db")
    first = world.hold("db", timeout=1)
    granted, gone = world.hold("db", timeout=1), world.hold("db", timeout=1)
    world.let_go(gone)
    world.let_go(first)
    world.sleep(5)
    assert states(granted) == "held"
    assert not world.places


def test_time_outs_leave_no_alarms_behind() -> None:
    """Each lets the line ask for an earlier Tick; none lets it ask for a later one once more."""
    world = World()
    world.make("api", 1, decay=0.01)
    world.spend("api")
    patient = world.spend("api")
    for _ in range(50):
        world.spend("api", timeout=0.5)
        world.sleep(1)
    assert len(world.places) == 50
    assert world.next_alarm() == 100 * SECOND
    assert len(world.alarms) == 1
    world.sleep(50)
    assert states(patient) == "ended"


# ---- Letting go


def test_cancellation_leaves_the_line_at_once() -> None:
    """'No ghost waits, no slot leaks': who is behind may go in the same step."""
    world = World()
    world.make("db", 2)
    world.hold("db")
    big, small = world.hold({"db": 2}), world.hold("db")
    world.let_go(big)
    assert states(big, small) == "ended held"
    assert world.waiting("db") == []


def test_a_cancel_that_crosses_a_grant_gives_the_slots_back() -> None:
    world = World()
    world.make("db")
    crossed, second = world.hold("db"), world.hold("db")
    world.let_go(crossed)
    assert states(crossed, second) == "ended held"


def test_letting_go_twice_is_harmless() -> None:
    world = World()
    world.make("db", 2)
    first = world.hold("db")
    world.hold("db")
    waiters = [world.hold("db"), world.hold("db")]
    world.let_go(first)
    assert world.let_go(first) == []
    assert states(*waiters) == "held waiting"


def test_who_lets_go_on_the_way_to_its_lines_never_stands_in_them() -> None:
    world = World()
    world.make("a")
    world.make("b")
    ticket = world.post(hold=["a", "b"])
    world.deliver(world.limits["a"])
    behind = world.hold("a")
    world.let_go(ticket)
    assert states(ticket, behind) == "ended held"
    assert world.deliver(world.limits["b"]) == []
    assert world.waiting("b") == []
    assert states(world.hold("b")) == "held"


def test_who_was_refused_at_one_limit_is_not_let_in_by_another() -> None:
    world = World()
    world.make("a")
    world.make("b", 0)
    ticket = world.post(hold=["a", "b"])
    world.deliver(world.limits["b"])
    assert states(ticket) == "ended"
    assert world.deliver(world.limits["a"]) == []
    assert world.occupied("a") == 0


def test_a_stray_arrival_changes_nothing() -> None:
    world = World()
    db = world.make("db")
    ticket = world.hold("db")
    assert db.apply(Arrive(ticket), world.now) == []
    world.let_go(ticket)
    assert db.apply(Arrive(ticket), world.now) == []
    assert states(ticket) == "ended"


# ---- Lowering and deleting


def test_lowering_a_limit_evicts_nobody() -> None:
    """'new grants wait until it fits'."""
    world = World()
    world.make("db", 3)
    holders = [world.hold("db") for _ in range(3)]
    waiter = world.hold("db")
    world.edit("db", limit=1)
    assert states(*holders) == "held held held"
    world.let_go(holders[0])
    world.let_go(holders[1])
    assert states(waiter) == "waiting"
    world.let_go(holders[2])
    assert states(waiter) == "held"


def test_deleting_a_limit_fails_its_waiters() -> None:
    world = World()
    world.make("a")
    world.make("b")
    world.hold("a")
    waiters = [world.hold("a"), world.hold(["b", "a"])]
    other = world.hold(["b", "a"], timeout=9)
    world.delete("a")
    for waiter in (*waiters, other):
        assert world.refusals[waiter.number] == ("limit_deleted", {"name": "a"})
    assert states(world.hold("b")) == "held", "and they stand in no other line"
    world.sleep(10)
    assert not world.places


def test_holders_of_a_deleted_limit_run_on() -> None:
    """'their release is a no-op; a limit made again under that name starts clean'."""
    world = World()
    world.make("db", 2, decay=0.001)
    holder = world.hold("db")
    world.spend("db")
    world.delete("db")
    assert states(holder) == "held"
    world.make("db", 2, decay=0.001)
    assert world.free("db") == 2
    again = [world.hold("db"), world.hold("db"), world.hold("db")]
    world.let_go(holder)
    assert states(holder, *again) == "ended held held waiting"


def test_who_is_on_the_way_to_a_deleted_limit_is_refused_there() -> None:
    world = World()
    gone = world.make("gone")
    world.make("db")
    ticket = world.post(hold=["db", "gone"])
    world.deliver(world.limits["db"])
    world.delete("gone")
    behind = world.hold("db")
    assert states(ticket, behind) == "arriving waiting"
    world.deliver(gone)
    assert world.refusals[ticket.number] == ("limit_deleted", {"name": "gone"})
    assert states(behind) == "held"


# ---- Waiting for yourself


def test_waiting_for_yourself_is_refused() -> None:
    """'a thread or task that holds all of a limit asks for it again with no time-out'."""
    world = World()
    world.make("db", 3)
    outer = [world.hold({"db": 2}), world.hold("db")]
    ticket = world.ask(hold={"db": 1}, inside=outer)
    fields = {"name": "db", "slots": 1, "held": 3, "limit": 3}
    assert world.refusals[ticket.number] == ("would_deadlock", fields)
    assert states(*outer) == "held held"


def test_it_is_no_deadlock_while_somebody_else_could_release() -> None:
    world = World()
    world.make("db", 3)
    outer, other = world.hold({"db": 1}), world.hold({"db": 2})
    ticket = world.ask(hold={"db": 2}, inside=[outer])
    assert states(ticket) == "waiting"
    world.let_go(other)
    assert states(ticket) == "held"


def test_with_a_timeout_it_is_a_timeout() -> None:
    world = World()
    world.make("db")
    outer = world.hold("db")
    ticket = world.ask(hold="db", inside=[outer], timeout=1)
    assert states(ticket) == "waiting"
    world.sleep(1)
    assert world.places[ticket.number] == {"db": 1}


def test_what_is_not_on_the_books_cannot_be_waited_for() -> None:
    """Holds of other limits, spent slots, and what was taken while the limit was inactive."""
    world = World()
    world.make("db", 1, decay=1.0)
    world.make("other")
    world.edit("db", active=False)
    outer = world.hold("db")
    world.edit("db", active=True)
    both = world.ask(hold="other", spend="db")
    ticket = world.ask(hold="db", inside=[outer, both])
    assert states(ticket) == "waiting"
    world.sleep(1)
    assert states(ticket) == "held"


def test_lowering_a_limit_may_make_it_a_deadlock() -> None:
    world = World()
    world.make("db", 3)
    outer = world.hold("db")
    world.hold({"db": 2})
    ticket = world.ask(hold={"db": 2}, inside=[outer])
    assert states(ticket) == "waiting"
    world.edit("db", limit=2)
    fields = {"name": "db", "slots": 2, "held": 1, "limit": 2}
    assert world.refusals[ticket.number] == ("would_deadlock", fields)
