#!/usr/bin/env python3
"""Measure, print, and leave nothing behind. See README.md beside this file.

usage: run.py [CASE...] [--quick] [--json FILE]; exit code 0: measured, whatever came out;
2: no such case; 130: interrupted, and what there was by then has been printed
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `bench` is this folder

from bench.cases import CASES
from bench.figures import Table
from bench.processes import INTERRUPTIONS, Bench, Cores

STARTS, ROUNDS = 4, 7  # short rounds: others on the machine then spoil a few, and not the median
STARTS_QUICK, ROUNDS_QUICK = 1, 3
LOOK_SECONDS = 0.3  # at what others do, before the first case
BUSY_QUIET = 0.05  # of all processors, beyond which figures tell of those others too


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    for number in INTERRUPTIONS:
        signal.signal(number, signal.default_int_handler)
    tables: dict[str, Table] = {}
    code = 0
    begun = time.time()
    about = machine()
    for line in preface(about, Cores.choose()):
        print(line)
    try:
        with Bench(options.quick) as bench:
            for name in options.cases or CASES:
                tables[name] = Table(" ".join((CASES[name].__doc__ or "").split()))
                measure(bench, name, tables[name])
    except KeyboardInterrupt:
        print("\ninterrupted; the daemons and clients have been stopped")
        code = 128 + signal.SIGINT
    if options.json:
        record = {
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
            "quick": options.quick,
            "machine": about,
            "cases": {name: table.record() for name, table in tables.items()},
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    return code


def measure(bench: Bench, name: str, table: Table) -> None:
    """All rounds of a case. What there is is printed, also after an interruption."""
    starts, rounds = (STARTS_QUICK, ROUNDS_QUICK) if bench.quick else (STARTS, ROUNDS)
    try:
        for start in range(starts):
            progress(f"{name}: start {start + 1} of {starts}")
            for number, _ in enumerate(CASES[name](bench, table), start=1):
                progress(f"{name}: start {start + 1} of {starts}, round {number} of {rounds}")
                if number == rounds:
                    break
            bench.end_case()
    finally:
        progress("")
        print(f"\n{name}: " + "\n".join(table.lines()), flush=True)


def progress(words: str) -> None:
    """One line on a terminal, written over and over."""
    if sys.stderr.isatty():
        print(f"\r\033[2K{words}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What figures depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "busy_before": round(busy(LOOK_SECONDS), 2),
    }


def preface(about: dict[str, Any], cores: Cores) -> list[str]:
    """How it is measured, and on what."""
    lines = [
        f"{about['processor']}, {about['cores']} cores; Linux {about['kernel']}; "
        f"Python {about['python']}",
        f"What answers (the daemon, one end of the ping-pong) runs on core {cores.answering}, "
        f"what asks on core {cores.asking}.",
        "Figures: the median of the rounds (and where half of them lie); ratios: within each round.",
    ]
    if cores.answering == cores.asking:
        lines.append("There is one core alone: nothing here tells of two.")
    if about["busy_before"] > BUSY_QUIET:
        lines.append(
            f"Others use {about['busy_before']:.0%} of all processors: expect a wide spread."
        )
    return lines


def busy(seconds: float) -> float:
    """The share of all processors' time that is used while we do nothing."""

    def used_and_all() -> tuple[int, int]:
        ticks = [
            int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        ]
        idle = ticks[3] + ticks[4]  # idle, iowait
        return sum(ticks) - idle, sum(ticks)

    used, total = used_and_all()
    time.sleep(seconds)
    used_then, total_then = used_and_all()
    return (used_then - used) / max(1, total_then - total)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure atmost's speed against the physical floor."
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES) + "; all if none")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work at all?")
    parser.add_argument("--json", metavar="FILE", help="write every round's figures there too")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are: {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
