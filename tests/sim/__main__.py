"""`python3 dev.py sim`: seeds, one after another, in several processes.

--seeds N: so many, from --first on; --seed N: this one, with its whole trace; --jobs N: processes;
--asyncio: clients of atmost.asyncio instead of the bare cores; --planted NAME: with this bug in it.
Ends with 1 when a promise was broken, and prints the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.sim.planted import ALL
from tests.sim.play import Verdict, play
from tests.sim.world import TRACE_KEPT


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    if given.seed is not None:
        verdict = play(given.seed, given.planted, given.asyncio)
        print("\n".join(verdict.trace))
        print(f"seed {given.seed}: {verdict.violation or 'every promise was kept'}")
        return 1 if verdict.violation else 0
    jobs = min(given.jobs, given.seeds)
    if jobs > 1:
        return _in_processes(arguments, given.first, given.seeds, jobs)
    return _run(given.first, given.seeds, given.planted, given.asyncio)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py sim", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--seed", type=int, metavar="SEED")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--asyncio", action="store_true")
    parser.add_argument("--planted", default="", choices=["", *ALL], metavar="NAME")
    return parser


def _in_processes(arguments: list[str], first: int, seeds: int, jobs: int) -> int:
    """Each takes a part of the seeds. What one is given last is what it obeys."""
    parts = [seeds // jobs + (job < seeds % jobs) for job in range(jobs)]
    running = []
    for count in parts:
        part = ["--first", str(first), "--seeds", str(count), "--jobs", "1"]
        running.append(subprocess.Popen([sys.executable, "-m", "tests.sim", *arguments, *part]))
        first += count
    return max(process.wait() for process in running)


def _run(first: int, seeds: int, planted: str, with_asyncio: bool) -> int:
    began, entries = time.monotonic(), 0
    for seed in range(first, first + seeds):
        verdict = play(seed, planted, with_asyncio)
        entries += verdict.entries
        if verdict.violation:
            print(report(verdict, planted, with_asyncio), flush=True)
            return 1
    seconds = time.monotonic() - began
    print(
        f"{seeds} seeds from {first}: every promise was kept; {entries} grants, {seconds:.1f} s",
        flush=True,
    )
    return 0


def report(verdict: Verdict, planted: str = "", with_asyncio: bool = False) -> str:
    """The end of the trace, what is wrong, and how to see it again."""
    options = f"{' --asyncio' if with_asyncio else ''}{f' --planted {planted}' if planted else ''}"
    return "\n".join(
        [
            *verdict.trace[-TRACE_KEPT:],
            f"seed {verdict.seed}: {verdict.violation}",
            f"again: python3 dev.py sim --seed {verdict.seed}{options}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
