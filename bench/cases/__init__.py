"""The cases: what is measured, how often, and what is wanted. A new one is a function in a module here.

Rule: a case measures its contenders in turn in each round (A B, A B, ...), see figures.py. It yields
at the end of a round; whoever calls it decides how many there are, and how often it starts anew.
"""

from __future__ import annotations

from bench.cases.common import Case
from bench.cases.cost import acquire, cpu, one_core, processes, rate_limit, redis_benchmark, threads
from bench.cases.line import hand_over, jobs
from bench.cases.quiet import rest, restart
from bench.cases.rates import rate
from bench.cases.scale import connections, limits, several, together, waiters
from bench.cases.shell import command, imports
from bench.cases.soak import soak
from bench.cases.steps import steps
from bench.cases.storms import storms
from bench.cases.tasks import tasks

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(acquire),
        Case(steps, starts=3, rounds=5),
        Case(one_core, starts=2),
        Case(rate_limit),
        Case(redis_benchmark, starts=2, rounds=3),
        Case(cpu, starts=3),
        Case(tasks, starts=3),
        Case(threads, starts=3),
        Case(processes, starts=2, rounds=5),
        Case(hand_over, starts=2, rounds=5),
        Case(jobs, starts=1, rounds=5),
        Case(rate, starts=1, rounds=2),
        Case(command, starts=1, rounds=15),
        Case(imports, starts=1, rounds=25),
        Case(connections, starts=1),
        Case(limits, starts=1),
        Case(waiters, starts=1),
        Case(several, starts=1),
        Case(together, starts=1),
        Case(storms, starts=1, rounds=3),
        Case(rest, starts=1, rounds=3),
        Case(restart, starts=1, rounds=3),
        Case(soak, starts=1, rounds=1, asked_for=True),
    )
}
