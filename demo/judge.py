"""What the jobs' marks prove. Pure: marks in, figures out.

Rule 1: a mark is what a process read off CLOCK_MONOTONIC by itself. The daemon is not asked.
Rule 2: a job is inside from its mark `inside` to its mark `left`, so it holds its slot a little
longer than the marks say. Whatever the marks show too many of, there were too many of.
Rule 3: a verdict is only passed on what the marks prove; what is too close to tell is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NANOSECONDS = 1_000_000_000  # in a second
WAKE_NS_MAX = 50_000_000  # a job may have been let in, and run a little later
ROUNDING = 1e-6  # of a call: what floating point may add to a count


class Mark(NamedTuple):
    """One line of the log."""

    at: int  # nanoseconds
    what: str  # asked | in_line | inside | left | killed
    job: str


class Stay(NamedTuple):
    """One job's way through a limit; None is what never happened."""

    job: str
    asked: int  # the call was about to begin
    in_line: int | None  # its process had seen that it waits
    entered: int | None
    ended: int | None  # left, or about to be killed
    killed: bool


class Order(NamedTuple):
    """What is known of the order in which jobs went."""

    pairs: int  # one stood in line before the other came
    unclear: int  # of these: the later one ran first, so shortly that nothing is proven
    passed: list[tuple[str, str]]  # (waited, went before it)


class Reuse(NamedTuple):
    """A slot that a killed job gave back."""

    killed: str
    entered: str  # who had it next
    nanoseconds: int


class Restart(NamedTuple):
    """What the jobs noticed of a daemon that was killed."""

    inside: int  # jobs that were, and that ended by themselves later
    entered_without: int  # jobs that came in while there was no daemon
    nanoseconds: int | None  # from the start of the next daemon until a job came in; None: none did


class Rate(NamedTuple):
    """How often a rate limit let calls go."""

    calls: int
    per_second: float  # after the burst
    fullest: int  # calls of the interval that came nearest to the limit, or went beyond it,
    allowed: float  # and limit + rate * T for it

    @property
    def kept(self) -> bool:
        return self.fullest <= self.allowed + ROUNDING


def stays(marks: Iterable[Mark]) -> list[Stay]:
    """The jobs of these marks, in the order in which they asked."""
    by_job: dict[str, dict[str, int]] = {}
    for mark in sorted(marks):
        by_job.setdefault(mark.job, {}).setdefault(mark.what, mark.at)
    found = [
        Stay(
            job=job,
            asked=at["asked"],
            in_line=at.get("in_line"),
            entered=at.get("inside"),
            ended=at.get("left", at.get("killed")),
            killed="killed" in at and "left" not in at,
        )
        for job, at in by_job.items()
    ]
    return sorted(found, key=lambda stay: stay.asked)


def most_inside(jobs: Iterable[Stay]) -> int:
    """The most that were inside at one instant."""
    return max((count for _, count in _steps(jobs)), default=0)


def order(jobs: list[Stay], limit: int) -> Order:
    """Whether anyone went before one that stood in line when it came.

    A job may be let in first and yet run second, if its processor is busy. That A was passed by B is
    proven when A is still out at a moment at which B and others fill the limit: then A had no slot.
    """
    steps = _steps(jobs)
    pairs = unclear = 0
    passed = []
    for waited in jobs:
        out_until = waited.ended if waited.entered is None else waited.entered
        for came in jobs:
            if waited.in_line is None or waited.in_line >= came.asked or came.entered is None:
                continue
            in_order = out_until is not None and out_until <= came.entered
            if in_order and waited.entered is None:
                continue  # it was killed in line before the other went
            pairs += 1
            if in_order:
                continue
            if _filled(steps, limit, came.entered, out_until):
                passed.append((waited.job, came.job))
            else:
                unclear += 1
    return Order(pairs, unclear, passed)


def reuses(jobs: list[Stay]) -> list[Reuse]:
    """How long each killed job's slot lay idle. Only where no other slot came free meanwhile."""
    found = []
    for lost in jobs:
        if not lost.killed or lost.entered is None or lost.ended is None:
            continue
        later = [job for job in jobs if job.entered is not None and job.entered > lost.ended]
        nearest = min(later, key=_entered, default=None)
        if nearest is None:
            continue
        others = [job.ended for job in jobs if job is not lost and job.ended is not None]
        if not any(lost.ended <= ended <= _entered(nearest) for ended in others):
            found.append(Reuse(lost.job, nearest.job, _entered(nearest) - lost.ended))
    return found


def restarts(jobs: list[Stay], absences: list[tuple[int, int]]) -> list[Restart]:
    """For each time without a daemon, from its death to the start of the next one."""
    found = []
    for died, started in absences:
        entries = sorted(job.entered for job in jobs if job.entered is not None)
        found.append(
            Restart(
                inside=sum(
                    job.entered is not None
                    and job.ended is not None
                    and not job.killed
                    and job.entered < died < job.ended
                    for job in jobs
                ),
                entered_without=sum(died + WAKE_NS_MAX < entry < started for entry in entries),
                nanoseconds=next((entry - started for entry in entries if entry >= started), None),
            )
        )
    return found


def rate(calls: list[Stay], limit: int, per_second: float) -> Rate:
    """Hold the calls against `limit + rate * T`, in every interval.

    A call was let go between `asked` and `entered`, so those that asked and came back within an
    interval were let go in it.
    """
    done = [(call.asked, call.entered) for call in calls if call.entered is not None]
    fullest, allowed = 0, float(limit)
    for begin, _ in done:
        ends = sorted(back for asked, back in done if asked >= begin)
        for count, end in enumerate(ends, start=1):
            may = limit + per_second * (end - begin) / NANOSECONDS
            if count - may > fullest - allowed:
                fullest, allowed = count, may
    return Rate(len(done), _sustained(sorted(back for _, back in done), limit), fullest, allowed)


def _sustained(backs: list[int], burst: int) -> float:
    """Calls a second, from the first one that had to wait on."""
    after = backs[burst:]
    if len(after) < 2:
        return 0.0
    return (len(after) - 1) * NANOSECONDS / (after[-1] - after[0])


def _steps(jobs: Iterable[Stay]) -> list[tuple[int, int]]:
    """(instant, how many are inside from then on). Who leaves at an instant makes room in it."""
    changes = []
    for job in jobs:
        if job.entered is not None:
            changes.append((job.entered, 1))
            if job.ended is not None:
                changes.append((job.ended, -1))
    inside = 0
    steps = []
    for at, change in sorted(changes):
        inside += change
        steps.append((at, inside))
    return steps


def _filled(steps: list[tuple[int, int]], limit: int, begin: int, end: int | None) -> bool:
    """Whether at some moment from `begin` to before `end` so many were inside."""
    return any(count >= limit for at, count in steps if begin <= at and (end is None or at < end))


def _entered(job: Stay) -> int:
    assert job.entered is not None
    return job.entered
