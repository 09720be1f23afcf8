"""From marks to what the demo says at its end. Pure.

Rule: a demo that could not have seen a violation has shown nothing, so that is one too.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from demo import judge
from demo.judge import Stay

RATE_SHARE_MIN = 0.75  # of the nominal rate: less is no hiccup of a busy machine
BACK_MS_MAX = 5000.0  # for a daemon to start on a busy machine, and a job to end and let one in
REUSE_MS_MAX = 1000.0  # as long as the shortest lease that anyone would dare to set


class Promised(NamedTuple):
    """What the demo set up, and so what has to come out."""

    limit: int  # jobs inside at once
    jobs: int  # that run to their end
    burst: int  # the other limit: calls at once,
    per_second: float  # and then so many a second
    kills: int
    restarts: int  # of the daemon, while jobs are inside


class Verdict(NamedTuple):
    """Words to print, and what was violated."""

    figures: list[tuple[str, str]]
    violations: list[str]


def verdict(
    jobs: list[Stay], calls: list[Stay], absences: list[tuple[int, int]], promised: Promised
) -> Verdict:
    """Judge everything that happened."""
    parts = [
        _at_once(jobs, promised),
        _order(jobs, promised),
        _restarts(jobs, absences, promised),
        _rate(calls, promised),
        _reuse(jobs, promised),
    ]
    return Verdict(
        [(title, words) for title, words, _ in parts],
        [violation for _, _, violations in parts for violation in violations],
    )


Part = tuple[str, str, list[str]]  # title, words, violations


def _at_once(jobs: list[Stay], promised: Promised) -> Part:
    most = judge.most_inside(jobs)
    finished = sum(job.ended is not None and not job.killed for job in jobs)
    violations = []
    if most > promised.limit:
        violations.append(f"{most} jobs were inside at once; the limit is {promised.limit}")
    if most < promised.limit:
        violations.append(f"only {most} jobs were ever inside at once; {promised.limit} may be")
    if finished != promised.jobs:
        violations.append(f"{finished} jobs ran to their end; there were {promised.jobs}")
    words = (
        f"{most} inside at the most, of {promised.limit} allowed; {finished} jobs ran to their end"
    )
    return "at once", words, violations


def _order(jobs: list[Stay], promised: Promised) -> Part:
    order = judge.order(jobs, promised.limit)
    violations = [
        f"{came} went before {waited}, which stood in line when it came"
        for waited, came in order.passed
    ]
    if order.pairs == order.unclear:
        violations.append("no two jobs stood in line so that their order could be judged")
    if order.passed:
        return "order", f"NOT kept in {len(order.passed)} of {order.pairs} pairs", violations
    words = f"kept: first come, first served in {order.pairs - order.unclear} pairs"
    if order.unclear:
        words += f" ({order.unclear} too close to tell)"
    return "order", words, violations


def _restarts(jobs: list[Stay], absences: list[tuple[int, int]], promised: Promised) -> Part:
    found = judge.restarts(jobs, absences)
    violations = []
    if len(found) != promised.restarts:
        violations.append(f"the daemon was killed {len(found)} times, not {promised.restarts}")
    if not all(restart.inside for restart in found):
        violations.append("nobody was inside when the daemon was killed")
    if any(restart.entered_without for restart in found):
        violations.append("a job came in while there was no daemon")
    back_ms = [r.nanoseconds / 1e6 for r in found if r.nanoseconds is not None]
    if len(back_ms) < len(found):
        violations.append("nobody came in after the daemon was started again")
    if not back_ms:
        return "daemon", "was not restarted", violations
    if max(back_ms) > BACK_MS_MAX:
        violations.append(f"nobody came in for {max(back_ms):.0f} ms after the daemon's start")
    held = sum(restart.inside for restart in found)
    words = (
        f"killed {len(found)} times; {held} inside noticed nothing; "
        f"next one in after {max(back_ms):.0f} ms"
    )
    return "daemon", words, violations


def _rate(calls: list[Stay], promised: Promised) -> Part:
    rate = judge.rate(calls, promised.burst, promised.per_second)
    allowed = f"{promised.burst} + {promised.per_second:g} T"
    violations = []
    if not rate.kept:
        violations.append(f"{rate.fullest} calls where {allowed} allowed {rate.allowed:.1f}")
    if rate.per_second < RATE_SHARE_MIN * promised.per_second:
        violations.append(
            f"{rate.per_second:.1f} calls a second; {promised.per_second:g} are to be had"
        )
    never = "never above" if rate.kept else "ABOVE"
    words = f"{rate.per_second:.1f} calls a second of {promised.per_second:g}, {never} {allowed}"
    return "rate", f"{words} ({rate.calls} calls)", violations


def _reuse(jobs: list[Stay], promised: Promised) -> Part:
    took_ms = [reuse.nanoseconds / 1e6 for reuse in judge.reuses(jobs)]
    violations = []
    if len(took_ms) < promised.kills:
        violations.append(f"{promised.kills} were killed, and {len(took_ms)} slots used again")
    if not took_ms:
        return "kill -9", "no slot was used again", violations
    if max(took_ms) > REUSE_MS_MAX:
        violations.append(f"a slot lay idle for {max(took_ms):.0f} ms after its holder was killed")
    words = f"slot in use again {median(took_ms):.1f} ms after the kill"
    if len(took_ms) > 1:
        words += f" ({', '.join(f'{ms:.1f}' for ms in took_ms)} ms)"
    return "kill -9", words, violations
