"""Whether ever too many were inside, or too many slots spent. Pure.

Rule 1: those who are inside at the same instant all held their slots when the last of them was granted.
That was after the last of them asked, and before the last of them entered: if no limit that may
have been in force in between has room for all, there was an over-admission.
Rule 2: tokens rise with the grants. So a call was granted no earlier than any call of a smaller or equal
token asked, and no later than any of a greater or equal token came back. No tolerance is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from chaos.stays import Stay

NANOSECONDS = 1_000_000_000  # in a second


class TooMany(NamedTuple):
    """One entry that should not have been."""

    request: str
    name: str
    slots: int  # in use with it
    allowed: int


def over_admissions(
    name: str, all_of_them: list[Stay], most: Callable[[int, int], int]
) -> tuple[int, list[TooMany]]:
    """The most slots in use at once, and every entry that was one too many. `most(begin, end)`: the
    largest limit that may have been in force then."""
    insiders = [
        stay
        for stay in all_of_them
        if name in stay.hold
        and stay.entered is not None
        and not stay.lost
        and (stay.ended is None or stay.ended > stay.entered)
    ]
    inside: list[Stay] = []
    highest = 0
    wrong = []
    for stay in sorted(insiders, key=_entered):
        now = _entered(stay)
        inside = [other for other in inside if other.ended is None or other.ended > now]
        inside.append(stay)
        count = sum(other.hold[name] for other in inside)
        allowed = most(max(other.asked for other in inside), now)
        highest = max(highest, count)
        if count > allowed:
            wrong.append(TooMany(stay.request, name, count, allowed))
    return highest, wrong


def over_spent(name: str, all_of_them: list[Stay], limit: int, per_second: float) -> list[TooMany]:
    """Every interval that begins with a call and has more of them than limit + rate * T allows; of
    those with the same end the worst."""
    calls = sorted(
        (stay for stay in all_of_them if name in stay.spend and stay.entered and stay.token),
        key=lambda stay: stay.token,
    )
    not_before = list(accumulate((call.asked for call in calls), max))
    not_after = list(accumulate(map(_entered, reversed(calls)), min))[::-1]
    wrong = []
    # The level of a bucket that leaks: spent at the worst, if every call came as early as it can
    # have and the interval ends as late as it can. One pass: the best beginning so far is kept.
    slots = 0  # before this call
    best: tuple[float, int, int] | None = None  # what is to be beaten, its slots, its beginning
    for call, begin, end in zip(calls, not_before, not_after, strict=True):
        key = slots - per_second * begin / NANOSECONDS
        if best is None or key < best[0]:
            best = key, slots, begin
        slots += call.spend[name]
        count = slots - best[1]
        allowed = int(limit + per_second * max(0, end - best[2]) / NANOSECONDS + ROUNDING)
        if count > allowed:
            wrong.append(TooMany(call.request, name, count, allowed))
    return wrong


ROUNDING = 1e-6  # of a slot: what floating point may add


def _entered(stay: Stay) -> int:
    assert stay.entered is not None
    return stay.entered
