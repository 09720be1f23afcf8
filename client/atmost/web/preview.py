"""What a change would do, before it is made. Pure: it looks at what was read a moment ago.

Rule: it says `exact` only if it knows. Whether a waiting request also lacks another limit is known of
the first few in line; and which of them spend, when the decay goes, of none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from msgspec import Struct

from atmost.asked import Limit
from atmost.web.rows import Holder, Waiter, decay_words

EXPLAINED = 20  # waiting requests of one limit of which a daemon says what they lack


class Wanted(Struct, frozen=True):
    """A limit as somebody wants it. None: as it is."""

    limit: int | None = None
    slot_decay_per_second: float | None = None
    active: bool | None = None


class Preview(Struct, frozen=True):
    """starts: waiting requests that would start at once; fails: those that never fit then; waiting: all;
    holders: grants that hold; over: slots in use beyond the limit, which stay until they are done."""

    words: str
    starts: int
    waiting: int
    fails: int
    holders: int
    over: int
    exact: bool


def of_edit(
    limit: Limit, wanted: Wanted, holders: Sequence[Holder], line: Sequence[Waiter], more: int
) -> Preview:
    """What would become of those who hold and wait. `more`: so many wait behind the line as told."""
    slots = limit.limit if wanted.limit is None else wanted.limit
    decay = wanted.slot_decay_per_second
    active = limit.active if wanted.active is None else wanted.active
    spent = 0.0 if decay == 0 else limit.spent
    starts, fails = _goes(line, slots, slots - limit.held - spent, active)
    over = max(0, math.ceil(limit.held + spent) - slots) if active else 0
    drops_decay = decay == 0 and limit.slot_decay_per_second > 0
    exact = _is_told(line) and not (more and starts + fails == len(line))
    exact = exact and not (line and drops_decay)
    waiting = len(line) + more
    parts = []
    if not active:
        parts.append("it would not be enforced: everybody gets through")
    if over:
        count = len(holders) or limit.held
        parts.append(f"{_hold(count)} more than that and {_keep(count)} until done")
    if waiting:
        parts.append(_starting(starts, waiting, exact))
    elif active and not over:
        parts.append(f"nobody waits; {_slots_free(slots - limit.held - math.ceil(spent))}")
    if fails:
        parts.append(f"{fails} of {waiting} would fail: they ask for more than {slots}")
    return Preview("; ".join(parts), starts, waiting, fails, len(holders), over, exact)


def of_delete(holders: Collection[Holder], waiting: int) -> Preview:
    """What would become of them if it were deleted."""
    count = len(holders)
    runs = "nobody holds it" if not count else f"{_hold(count)} it and {_run(count)} on"
    words = f"{runs}, {waiting} {'waits and fails' if waiting == 1 else 'wait and fail'}"
    return Preview(words, 0, waiting, waiting, count, 0, True)


def of_create(slots: int, decay: float, active: bool) -> Preview:
    """What a new limit would mean."""
    if not active:
        words = "it would not be enforced until it is enabled"
    elif not slots:
        words = "everybody would be refused"
    else:
        spent = f"; what is spent comes back: {decay_words(decay)}" if decay else ""
        words = f"{slots} at once{spent}"
    return Preview(words, 0, 0, 0, 0, 0, True)


def _goes(line: Sequence[Waiter], slots: int, free: float, active: bool) -> tuple[int, int]:
    """How many start, and how many fail, in the order of the line."""
    starts = fails = 0
    blocked = False
    for waiter in line:
        elsewhere = bool(waiter.lacks)
        if active and waiter.slots > slots:
            fails += 1
        elif elsewhere or blocked:
            continue
        elif not active or waiter.slots <= free:
            starts += 1
            free -= waiter.slots
        else:
            blocked = True  # who lacks this limit alone holds back those behind
    return starts, fails


def _is_told(line: Sequence[Waiter]) -> bool:
    """Whether it is known of all in line what they lack: then all have a place there."""
    return len(line) <= EXPLAINED


def _starting(starts: int, waiting: int, exact: bool) -> str:
    about = "" if exact or not starts else "about "
    count = "none" if not starts else f"{about}{starts}"
    return f"{count} of {waiting} {'waiter' if waiting == 1 else 'waiters'} would start at once"


def _slots_free(count: int) -> str:
    return "1 slot would be free" if count == 1 else f"{count} slots would be free"


def _hold(count: int) -> str:
    return "1 holds" if count == 1 else f"{count} hold"


def _keep(count: int) -> str:
    return "keeps it" if count == 1 else "keep it"


def _run(count: int) -> str:
    return "runs" if count == 1 else "run"
