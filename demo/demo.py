#!/usr/bin/env python3
"""The demo: processes that share limits, seen live, and then judged by their own clocks.

usage: demo.py [--quick]; exit code 0: everything was kept; 1: something was violated, or failed
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `demo` is the folder

from atmost.errors import AtmostError
from demo.judge import Stay
from demo.screen import BOLD, DIM, GREEN, RED, YELLOW, Screen, bar, standard_output
from demo.stage import Failed, Interrupted, Stage, Worker
from demo.verdict import Promised, Verdict, verdict
from demo.worker import CALLS_LIMIT, JOBS_LIMIT

EXIT_VIOLATED = 1
EXIT_SIGNALLED = 128  # and the number of the signal, as shells say it
FOREVER_SECONDS = 60.0  # for a job that will be killed


class Plan(NamedTuple):
    """How much of everything, and how long."""

    workers: int = 8
    jobs_each: int = 5
    job_seconds: float = 0.4
    limit: int = 3
    callers: int = 4
    calling_seconds: float = 3.5
    burst: int = 5
    per_second: float = 20.0
    kills: int = 3
    restarts: int = 2
    restarted_jobs_each: int = 3
    look_seconds: float = 0.8  # to see what there is before the next thing happens


QUICK = Plan(
    workers=5,
    jobs_each=3,
    job_seconds=0.12,
    callers=3,
    calling_seconds=0.8,
    kills=1,
    restarts=1,
    restarted_jobs_each=2,
    look_seconds=0.1,
)


class Demo:
    """Four acts on one stage."""

    def __init__(self, plan: Plan, stage: Stage, screen: Screen) -> None:
        self._plan = plan
        self._stage = stage
        self._screen = screen
        self._rows: list[int] = [0] * plan.limit  # pid of the holder in each row, 0: nobody's

    def run(self) -> Verdict:
        """All acts, and what comes out."""
        self._stage.client.create_limit(JOBS_LIMIT, self._plan.limit)
        self._stage.client.create_limit(CALLS_LIMIT, self._plan.burst, self._plan.per_second)
        self._many_jobs()
        self._killed_daemon()
        self._many_calls()
        self._sudden_death()
        everything = self._stage.stays()
        calls = [stay for stay in everything if stay.job.startswith("caller")]
        jobs = [stay for stay in everything if not stay.job.startswith("caller")]
        plan = self._plan
        return verdict(
            jobs,
            calls,
            self._stage.absences,
            Promised(
                limit=plan.limit,
                jobs=plan.workers * (plan.jobs_each + plan.restarted_jobs_each),
                burst=plan.burst,
                per_second=plan.per_second,
                kills=plan.kills,
                restarts=plan.restarts,
            ),
        )

    # The acts

    def _many_jobs(self) -> None:
        plan = self._plan
        total = plan.workers * plan.jobs_each
        self._title(
            f"1  {plan.workers} processes, {total} jobs, and a limit of {plan.limit}: "
            "the others stand in line."
        )
        self._start_workers("worker", plan.jobs_each)
        self._stage.watch(
            lambda: not self._stage.running(), lambda: self._show_jobs("worker", total)
        )

    def _killed_daemon(self) -> None:
        plan, stage = self._plan, self._stage
        total = plan.workers * plan.restarted_jobs_each
        self._title(f"2  The same, {total} jobs. In the middle of it: kill -9 of the daemon.")
        self._start_workers("again", plan.restarted_jobs_each)
        for number in range(1, plan.restarts + 1):
            self._wait_for_the_middle(total * number // (plan.restarts + 2), total)
            stage.restart_daemon()
        stage.watch(lambda: not stage.running(), lambda: self._show_jobs("again", total))

    def _wait_for_the_middle(self, done: int, total: int) -> None:
        """So many jobs are done, and others are inside."""
        self._stage.watch(
            lambda: self._done("again") >= done and len(self._inside()) == self._plan.limit,
            lambda: self._show_jobs("again", total),
        )

    def _start_workers(self, name: str, jobs_each: int) -> None:
        for number in range(1, self._plan.workers + 1):
            kind = "blocking" if number % 2 else "asyncio"
            self._stage.work(kind, f"{name}-{number}", jobs_each, self._plan.job_seconds)

    def _done(self, name: str) -> int:
        stays = self._stage.stays()
        return sum(job.job.startswith(name) and job.ended is not None for job in stays)

    def _show_jobs(self, name: str, total: int) -> None:
        done, plan = self._done(name), self._plan
        killed = len(self._stage.absences)
        words = f"{done} of {total} jobs done"
        if name == "again":
            words += f"; kill -9: {killed}"
        self._show_line(words, done / total, plan.workers, plan.job_seconds * 1.3)

    def _many_calls(self) -> None:
        plan, stage = self._plan, self._stage
        self._title(
            f"3  {plan.callers} processes call an API as often as they may: "
            f"{plan.burst} at once, then {plan.per_second:g} a second."
        )
        callers = [
            stage.work("calling", f"caller-{number}", 1, plan.calling_seconds)
            for number in range(1, plan.callers + 1)
        ]
        stage.watch(lambda: not stage.running(), lambda: self._show_calls(callers))

    def _sudden_death(self) -> None:
        plan, stage = self._plan, self._stage
        self._title(f"4  {plan.limit} processes are inside and others wait. Now kill -9.")
        first = [self._endless(number) for number in range(plan.limit)]
        stage.watch(lambda: len(self._inside()) == plan.limit, self._show_deaths)
        for number in range(plan.kills):
            self._endless(plan.limit + number)
        stage.watch(lambda: len(self._in_line()) == plan.kills, self._show_deaths)
        self._look()
        for victim in first[: plan.kills]:
            stage.kill(victim)
            stage.watch(lambda: len(self._inside()) == plan.limit, self._show_deaths)
            self._look()
        for worker in stage.running():
            stage.kill(worker)

    def _endless(self, number: int) -> Worker:
        kind = "asyncio" if number % 2 else "blocking"
        return self._stage.work(kind, f"victim-{number + 1}", 1, FOREVER_SECONDS)

    def _inside(self) -> list[Stay]:
        return [s for s in self._stage.stays() if s.entered and not s.ended and not is_call(s)]

    def _in_line(self) -> list[Stay]:
        return [s for s in self._stage.stays() if s.in_line and not s.entered and not s.ended]

    def _look(self) -> None:
        until = time.monotonic() + self._plan.look_seconds
        self._stage.watch(lambda: time.monotonic() >= until, self._show_deaths)

    # The pictures

    def _title(self, words: str) -> None:
        self._screen.say()
        self._screen.say(self._screen.paint(words, BOLD))

    def _show_deaths(self) -> None:
        killed = [s.job.partition(".")[0] for s in self._stage.stays() if s.killed]
        words = f"kill -9: {', '.join(killed) or 'nobody yet'}"
        plan = self._plan
        self._show_line(words, len(killed) / plan.kills, plan.limit + plan.kills, 6.0)

    def _show_line(self, progress: str, part: float, people: int, whole_seconds: float) -> None:
        """Who is inside and who waits, as the daemon tells it; there are so many people."""
        paint, name_of = self._screen.paint, self._stage.name_of
        tickets = self._stage.client.list_tickets(JOBS_LIMIT)
        inside = {ticket.pid: ticket for ticket in tickets if ticket.state == "held"}
        line = [ticket for ticket in tickets if ticket.state == "waiting"]
        picture = []
        self._keep_rows(inside)
        for pid in self._rows:
            if pid not in inside:
                picture.append("   inside   " + paint("· free", DIM))
                continue
            ticket = inside[pid]
            words = f"● {name_of(pid):10} {ticket.age_seconds:5.1f} s  "
            grows = bar(ticket.age_seconds / whole_seconds, 30)
            picture.append("   inside   " + paint(words + grows, GREEN))
        for ticket in line:
            words = f"○ {name_of(ticket.pid):10} {ticket.age_seconds:5.1f} s"
            picture.append(f"   line {ticket.place:2}  " + paint(words, YELLOW))
        picture += [""] * (people - len(self._rows) - len(line))
        picture.append(f"   {bar(part, 30)}  {progress}")
        names = " ".join(name_of(pid) for pid in self._rows if pid in inside) or "nobody"
        self._screen.show(picture, f"   inside: {names}; in line: {len(line)}; {progress}")

    def _keep_rows(self, inside: Collection[int]) -> None:
        """A holder stays in the row that it had in the last picture."""
        new = [pid for pid in inside if pid not in self._rows]
        for row, pid in enumerate(self._rows):
            if pid not in inside:
                self._rows[row] = new.pop(0) if new else 0

    def _show_calls(self, callers: list[Worker]) -> None:
        plan, stage, paint = self._plan, self._stage, self._screen.paint
        calls = [s for s in stage.stays() if is_call(s) and s.entered is not None]
        level = stage.client.read_limit(CALLS_LIMIT)
        first = min((call.asked for call in calls), default=time.monotonic_ns())
        last = max((call.entered or 0 for call in calls), default=first)
        may = plan.burst + plan.per_second * (last - first) / 1e9
        most = plan.burst + plan.per_second * plan.calling_seconds
        picture = []
        for caller in callers:
            count = sum(call.job.startswith(caller.name + ".") for call in calls)
            words = f"{count:4} calls  {bar(count / most * len(callers), 30)}"
            picture.append(f"   {caller.name:10}" + paint(words, GREEN))
        picture.append(
            f"   spent {level.spent:4.1f} of {plan.burst}   in line {level.waiting}   "
            f"{len(calls)} calls, {may:.1f} are allowed by now"
        )
        self._screen.show(picture, f"   {len(calls)} calls, {may:.1f} are allowed by now")


def is_call(stay: Stay) -> bool:
    return stay.job.startswith("caller")


def say_verdict(screen: Screen, found: Verdict) -> int:
    """Print it. Returns the exit code."""
    screen.say()
    screen.say(screen.paint("What the processes' own clocks say:", BOLD))
    for title, words in found.figures:
        screen.say(f"   {title:8} {words}")
    for violation in found.violations:
        screen.say(screen.paint(f"   VIOLATED {violation}", RED))
    if found.violations:
        return EXIT_VIOLATED
    screen.say(screen.paint("   all of it was kept", GREEN))
    screen.say()
    screen.say("Yours, in a browser: pip install '.[daemon,web]', then atmost web --open")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo", description="Watch several processes share limits, and some of them die."
    )
    parser.add_argument("--quick", action="store_true", help="the same in a few seconds")
    plan = QUICK if parser.parse_args(arguments).quick else Plan()
    screen = Screen(standard_output(), os.environ)
    try:
        with Stage() as stage:
            screen.say("atmost: at most N at once, at most R per second, over all processes.")
            screen.say("A daemon of its own runs for this, in a temp folder; both go at the end.")
            found = Demo(plan, stage, screen).run()
        return say_verdict(screen, found)
    except Interrupted as error:
        screen.say(f"\nStopped ({error}). The daemon and all processes are gone.")
        return EXIT_SIGNALLED + error.number
    except (Failed, AtmostError) as error:
        screen.say(f"\nThe demo failed: {error}")
        return EXIT_VIOLATED


if __name__ == "__main__":
    sys.exit(main())
