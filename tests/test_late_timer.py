"""A timer that rings late costs no slots: "to the timer's precision", semantics.md 2."""

from __future__ import annotations

from atmostd.limit import TIMER_LATE_NS_MAX, Limit
from atmostd.ticket import Arrive, Granted, Part, Tick, Ticket, WakeAt

MILLISECOND = 1_000_000
WAITING = 100


def crowd() -> tuple[Limit, int]:
    """A limit of 1 with 1,000 slots a second, and many who wait to spend one; the next instant."""
    limit = Limit("api", 1, 1000.0, True, 0)
    due = 0
    for number in range(1, WAITING + 1):
        ticket = Ticket(number, (Part(limit, 0, 1),), 1, 0)
        for effect in limit.apply(Arrive(ticket), 0):
            if isinstance(effect, WakeAt):
                due = effect.instant
    return limit, due


def ring_late(limit: Limit, due: int, late: int) -> tuple[int, int]:
    """Let the alarm for `due` come late. Returns how many went, and the next instant."""
    effects = limit.apply(Tick(due), due + late)
    (wake,) = (effect for effect in effects if isinstance(effect, WakeAt))
    return sum(isinstance(effect, Granted) for effect in effects), wake.instant


def test_next_slot_is_counted_from_what_was_due_not_from_the_ring() -> None:
    limit, due = crowd()
    for count in range(1, 50):
        assert due == count * MILLISECOND
        went, due = ring_late(limit, due, late=60_000 + count)
        assert went == 1


def test_of_a_long_delay_only_the_timers_precision_is_made_up() -> None:
    """A daemon that was stopped for a second does not let a thousand through at once."""
    limit, due = crowd()
    delay = 1000 * MILLISECOND
    rang = due + delay
    went, due = ring_late(limit, due, delay)
    assert went == 1
    assert due == rang - TIMER_LATE_NS_MAX + MILLISECOND
