"""From events to what the chaos says at its end. Pure.

Rule: a run that could not have seen a violation has shown nothing, so that is one too.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

from chaos import plan
from chaos.admission import TooMany, over_admissions, over_spent
from chaos.log import Event, select
from chaos.order import order, seen_waiting, tokens_out_of_order
from chaos.service import (
    dead_in_the_books,
    held_through,
    longest_idle,
    of_everybody,
    returns,
    too_slow,
)
from chaos.settings import Settings, lost
from chaos.stays import Stay, stays

EXPECTED_ERRORS = {"AcquireTimeout"}
NO_DAEMON = "DaemonUnavailable"  # to be expected where it is killed, and only there
SAID_AT_MOST = 5  # violations of a kind; a broken daemon makes thousands

Figure = int | float | str | None


class Verdict(NamedTuple):
    """The figures, and what was violated: kind -> sentences."""

    figures: dict[str, Figure]
    violations: dict[str, list[str]]

    @property
    def kept(self) -> bool:
        return not any(self.violations.values())


def verdict(events: list[Event], within_seconds: float) -> Verdict:
    """Judge everything that happened; `events` in the order of their stamps."""
    all_of_them = stays(events)
    settings = Settings(events)
    found = order(events, all_of_them)
    back = returns(events, all_of_them)
    slow = [one for one in back if too_slow(one, int(within_seconds * 1e9))]
    checks, wrong = lost(settings, events)
    most, too_many = _too_many(settings, all_of_them)
    entries = sum(stay.entered is not None for stay in all_of_them)
    kinds: dict[str, list[str]] = {
        "over-admissions": [
            f"{one.request} came into {one.name}: {one.slots} slots in use, {one.allowed} allowed"
            for one in too_many
        ],
        "over-spent": [
            f"{one.slots} of {one.name} spent up to {one.request}, {one.allowed} allowed"
            for name, (slots, per_second) in plan.SPENT.items()
            for one in over_spent(name, all_of_them, slots, per_second)
        ],
        "leaked slots": _leaked(events),
        "configuration lost": wrong,
        "order inversions": [f"{b} was granted before {a}, which waited" for a, b in found.passed],
        "fencing tokens": [
            f"{b}'s is not above {a}'s" for a, b in tokens_out_of_order(all_of_them)
        ],
        "grants lost": [f"{stay.request} was told so" for stay in all_of_them if stay.lost],
        "turned away": _turned_away(events, all_of_them),
        "never served": _never_served(events, all_of_them),
        "unexpected errors": _unexpected(events, all_of_them),
        "service not back": [
            f"after a start: answer {_ms(one.answered)}, grant {_ms(one.granted)}" for one in slow
        ],
        "nothing shown": [
            f"no {what}"
            for what, count in (
                ("entries", entries),
                ("pairs in line", found.pairs),
                ("settings looked at", checks),
            )
            if not count
        ],
    }
    figures: dict[str, Figure] = {
        **_tally(events),
        "entries": entries,
        "most at once": ", ".join(f"{name} {count}" for name, count in most.items()),
        "held through a restart": held_through(events, all_of_them),
        "pairs judged": found.pairs,
        "... across a restart": found.across,
        "settings checked": checks,
        "no daemon answered": _errors(all_of_them)[NO_DAEMON],
        "first answer at most": _slowest([one.answered for one in back]),
        "first grant at most": _slowest([one.granted for one in back]),
        **{
            f"{name} idle at most": _slowest([longest_idle(events, all_of_them, name)])
            for name in plan.FIXED
        },
    }
    return Verdict(figures, kinds)


def text(found: Verdict) -> list[str]:
    """The verdict as a short table, one line an element."""
    lines = [f"   {name:24} {value}" for name, value in found.figures.items() if value is not None]
    for kind, sentences in found.violations.items():
        lines.append(f"   {kind:24} {len(sentences)}")
        lines += [f"      {sentence}" for sentence in sentences[:SAID_AT_MOST]]
        if len(sentences) > SAID_AT_MOST:
            lines.append(f"      and {len(sentences) - SAID_AT_MOST} more")
    return lines


def _too_many(settings: Settings, all_of_them: list[Stay]) -> tuple[dict[str, int], list[TooMany]]:
    most = {}
    wrong = []
    for name in [*plan.FIXED, plan.EDITED]:
        most[name], found = over_admissions(name, all_of_them, partial(settings.most, name))
        wrong += found
    return most, wrong


def _leaked(events: list[Event]) -> list[str]:
    left = [
        f"{slots} slots are taken {when}, and nobody is alive"
        for when, slots in (event.fields for event in select(events, "leaked"))
        if slots
    ]
    dead = [f"pid {pid} is listed at {name}, and dead" for pid, name in dead_in_the_books(events)]
    return left + dead


def _never_served(events: list[Event], all_of_them: list[Stay]) -> list[str]:
    """Of the processes that could not come to their end: what they still wait for."""
    unfinished = {pid for event in select(events, "unfinished") for pid in event.fields[0]}
    waiting = [s for s in all_of_them if s.pid in unfinished and s.entered is None]
    return [
        f"{stay.request} waits for {stay.slots}"
        for stay in waiting
        if stay.ended is None or stay.killed
    ]


def _turned_away(events: list[Event], all_of_them: list[Stay]) -> list[str]:
    """Those that stood in line and were told that there is no daemon: it came back, they lived."""
    seen = seen_waiting(events, all_of_them)
    return [
        f"{stay.request} stood in line for {stay.slots} and was told {NO_DAEMON}"
        for stay in all_of_them
        if stay.error == NO_DAEMON and stay.request in seen
    ]


def _errors(all_of_them: list[Stay]) -> Counter[str]:
    return Counter(stay.error for stay in all_of_them if stay.error is not None)


def _unexpected(events: list[Event], all_of_them: list[Stay]) -> list[str]:
    expected = set(EXPECTED_ERRORS)
    if select(events, "dies"):
        expected.add(NO_DAEMON)
    found = [
        f"{count} times {error}"
        for error, count in _errors(all_of_them).items()
        if error not in expected
    ]
    return found + [event.fields[0] for event in select(events, "broken")]


def _tally(events: list[Event]) -> dict[str, Figure]:
    how = Counter(event.fields[0] for event in select(events, "dies"))
    return {
        "daemon SIGKILL": how["SIGKILL"],
        "daemon SIGTERM": how["SIGTERM"],
        "clients killed": sum(not of_everybody(event) for event in select(events, "killed")),
        "clients stopped": len(select(events, "stopped")),
        "settings changed": len(select(events, "edited")),
    }


def _slowest(took: list[int | None]) -> str | None:
    known = [one for one in took if one is not None]
    return _ms(max(known)) if known else None


def _ms(nanoseconds: int | None) -> str:
    return "never" if nanoseconds is None else f"{nanoseconds / 1e6:.0f} ms"
