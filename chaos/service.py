"""How long it took until service went on, and whose slots stayed taken though nobody lives. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from chaos.log import Event, select
from chaos.stays import Stay

EVERYBODY = "everybody"  # the last kill

DEAD_NANOSECONDS = 1_000_000_000  # as long as the shortest lease that anyone would dare to set


class Return(NamedTuple):
    """One start of the daemon, in nanoseconds from the start of its process; None: it did not live
    to see that."""

    lived: int | None  # until it was to die; None: to the end
    answered: int | None  # the runner
    granted: int | None  # to a client, which may have waited since before


def returns(events: Iterable[Event], all_of_them: list[Stay]) -> list[Return]:
    """Every start but the first, when nobody waits yet, and those after the last client's end."""
    events = list(events)
    end = next((event.at for event in events if of_everybody(event)), 1 << 63)
    entered = sorted(stay.entered for stay in all_of_them if stay.entered is not None)
    life = select(events, "started", "answers", "dies")
    starts = [event.at for event in life if event.what == "started" and event.at < end][1:]
    return [_return(start, life, entered) for start in starts]


def of_everybody(event: Event) -> bool:
    """Whether this is the end of all clients."""
    return event.what == "killed" and event.fields[0] == EVERYBODY


def held_through(events: Iterable[Event], all_of_them: list[Stay]) -> int:
    """How many were inside when a daemon died, and still when the next one answered."""
    life = [(event.at, event.what) for event in events if event.what in ("dies", "answers")]
    gaps = [(dies, answers) for (dies, what), (answers, _) in pairwise(life) if what == "dies"]
    return sum(
        stay.entered is not None
        and any(
            stay.entered < dies and (stay.ended is None or stay.ended > answers)
            for dies, answers in gaps
        )
        for stay in all_of_them
    )


def _return(start: int, life: list[Event], entered: list[int]) -> Return:
    dies = next((e.at for e in life if e.what == "dies" and e.at > start), None)
    until = 1 << 63 if dies is None else dies

    def after(stamps: Iterable[int]) -> int | None:
        return next((at - start for at in stamps if start < at < until), None)

    answers = after(e.at for e in life if e.what == "answers")
    return Return(None if dies is None else dies - start, answers, after(entered))


def longest_idle(events: Iterable[Event], all_of_them: list[Stay], name: str) -> int | None:
    """How long at most nobody was let into this limit after a start, though someone waited since
    before it: from the start, or from when the last one left that was inside all the time."""
    events = list(events)
    end = next((event.at for event in events if of_everybody(event)), 1 << 63)
    life = [e for e in events if e.what in ("started", "dies") and e.at < end]
    stops = select(events, "stopped", "continued", "killed")
    idle = []
    for start, dies in pairwise([*life, Event(end, "dies", 0, ())]):
        if start.what == "started":
            idle.append(
                _idle(start.at, dies.at, [s for s in all_of_them if name in s.slots], stops)
            )
    return max((one for one in idle if one is not None), default=None)


def _idle(start: int, until: int, users: list[Stay], stops: list[Event]) -> int | None:
    """None: nobody waited, or one that was stopped may have been let in and not known it."""
    waited = [
        stay
        for stay in users
        if stay.asked < start
        and (stay.entered is None or stay.entered > start)
        and (stay.ended is None or stay.ended > start)
    ]
    entered = [s.entered for s in waited if s.entered is not None and s.entered < until]
    stay_on = any(s.ended is None or s.ended > until for s in waited)
    if not entered and (not stay_on or until == 1 << 63):
        return None
    first = min(entered, default=until)
    stopped: dict[str, bool] = {}
    for event in stops:
        if event.at <= start:
            stopped[event.fields[0]] = event.what == "stopped"
        elif event.at < first and event.what != "killed":
            return None
    if any(stopped.values()):
        return None
    left = [s.ended for s in users if s.entered is not None and s.entered < start and s.ended]
    return first - max([start, *(at for at in left if start < at < first)])


def too_slow(back: Return, within: int) -> bool:
    """Whether it was proven that service did not go on in time."""
    if back.lived is not None and back.lived <= within:
        return False  # it was not given the time
    return any(took is None or took > within for took in (back.answered, back.granted))


def dead_in_the_books(events: Iterable[Event]) -> list[tuple[int, str]]:
    """(pid, limit) of every process that the daemon still lists long after it was gone."""
    gone: dict[int, int] = {}
    found = set()
    for event in events:
        if event.what == "gone":
            gone |= dict.fromkeys(event.fields[0], event.at)
        elif event.what == "asked":
            gone.pop(event.pid, None)  # the number is another process's now
        elif event.what == "tickets":
            sent, name, tickets = event.fields
            for pid, _, _ in tickets:
                if pid in gone and sent > gone[pid] + DEAD_NANOSECONDS:
                    found.add((pid, name))
    return sorted(found)
