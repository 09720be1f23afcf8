#!/usr/bin/env python3
"""Measure, print, and leave nothing behind. See README.md beside this file.

exit code 0: measured (or told), whatever came out; 1: a process of the bench has failed; 2: no such
case, contender or file; 130: interrupted, and what there was by then has been printed
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `bench` is this folder

from bench.cases import CASES
from bench.cases.common import Case
from bench.compare import compared
from bench.contenders import FAMILIES, Field
from bench.figures import Table
from bench.host import machine
from bench.processes import INTERRUPTIONS, Bench, Cores
from bench.published import publish
from bench.told import joined, markdown, targets

ROOT = Path(__file__).resolve().parent.parent
STARTS_QUICK, ROUNDS_QUICK = 1, 1
BUSY_QUIET = 0.05  # of all processors, beyond which figures tell of those others too
INTERRUPTED = "interrupted; the servers and clients have been stopped"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        old = _read(options.compare) if options.compare else None
        record = joined([_read(path) for path in options.told]) if options.told else None
        if options.json:
            Path(options.json).open("a").close()  # not only after a quarter of an hour
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    code = 0
    if record is None:
        record, code = _measured(options)
        print("\n" + "\n".join(targets(record)))
    if old is not None:
        print("\n" + "\n".join(compared(old, record)))
    if options.told and old is None and not options.publish:
        print(markdown(record))
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")
    if options.publish and (record["quick"] or not record["versions"]):
        print("bench: figures of a quick or an interrupted run are not published", file=sys.stderr)
        return 2
    if options.publish:
        print(publish(record, ROOT))
    return code


def _measured(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """The record of a run, and its exit code."""
    for number in INTERRUPTIONS:
        signal.signal(number, signal.default_int_handler)
    tables: dict[str, Table] = {}
    took: dict[str, float] = {}
    code = 0
    begun = time.time()
    about: dict[str, Any] = {}
    field = Field(options.against, options.prefect)
    names = options.cases or [name for name, case in CASES.items() if not case.asked_for]
    try:
        about = machine()
        for line in [*preface(about, Cores.choose()), *field.told()]:
            print(line, flush=True)
        with Bench(options.quick, field, options.seconds) as bench:
            for place, name in enumerate(names, start=1):
                tables[name] = Table(CASES[name].title)
                took[name] = measure(
                    bench, CASES[name], tables[name], f"{place} of {len(names)}, {name}"
                )
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}")
        code = 128 + signal.SIGINT
    except RuntimeError as error:  # of a server or client process
        print(f"bench: {error}", file=sys.stderr)
        code = 1
    record = {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "took_seconds": round(time.time() - begun, 1),
        "quick": options.quick,
        "machine": about,
        "versions": field.versions() if code == 0 else {},
        "left_out": field.missing,
        "cases": {
            name: table.record() | {"took_seconds": took.get(name)}
            for name, table in tables.items()
        },
    }
    return record, code


def measure(bench: Bench, case: Case, table: Table, told: str) -> float:
    """All rounds of a case; the seconds that they took. What there is is printed, also after an
    interruption."""
    starts = STARTS_QUICK if bench.quick else case.starts
    rounds = ROUNDS_QUICK if bench.quick else case.rounds
    begun = time.monotonic()
    try:
        for start in range(starts):
            progress(f"{told}: start {start + 1} of {starts}")
            for number, _ in enumerate(case.measure(bench, table), start=1):
                passed = f"{time.monotonic() - begun:.0f} s"
                where = f"start {start + 1} of {starts}, round {number} of {rounds}, {passed}"
                progress(f"{told}: {where}")
                if number == rounds:
                    break
            bench.end_case()
    finally:
        progress("")
        took = round(time.monotonic() - begun, 1)
        print(f"\n{case.name}: " + "\n".join(table.lines()), flush=True)
        print(f"  It took {took:.0f} s.", flush=True)
    return took


def progress(words: str) -> None:
    """One line on a terminal, written over and over."""
    if sys.stderr.isatty():
        print(f"\r\033[2K{words}", end="", file=sys.stderr, flush=True)


def preface(about: dict[str, Any], cores: Cores) -> list[str]:
    """How it is measured, and on what."""
    lines = [
        f"{about['processor']}, {about['cores']} cores; Linux {about['kernel']}; "
        f"Python {about['python']}",
        f"What answers (a server, one end of the ping-pong) runs on core {cores.answering}, "
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


def _read(path: str) -> dict[str, Any]:
    """A record that was written by --json. Raises OSError, ValueError."""
    found = json.loads(Path(path).read_text())
    if not isinstance(found, dict) or "cases" not in found:
        raise ValueError(f"{path} is no record of the bench: write one with --json")
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py bench",
        description="Measure atmost beside what people use today, and the physical floor.",
    )
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"{_all(CASES)}; none: all but soak")
    add("--quick", action="store_true", help="one short round: does it work at all?")
    add("--against", metavar="NAME,...", help=f"with these contenders alone: {_all(FAMILIES)}")
    add("--prefect", metavar="PYTHON", default="", help="also Prefect, of that venv: slow")
    add("--seconds", type=float, default=0.0, help="how long `soak` takes (60); an hour: 3600")
    add("--json", metavar="FILE", help="write every round's figures there too")
    add("--compare", metavar="OLD.json", help="what has changed since then")
    told = "measure nothing; tell that run, as markdown; several: with the cases of all"
    add("--told", metavar="FILE.json", nargs="+", help=told)
    add("--publish", action="store_true", help="write the plots and README's section from it")
    options = parser.parse_args(arguments)
    _refuse_unknown(parser, "case", options.cases, CASES)
    if options.against is not None:
        options.against = [name for name in options.against.split(",") if name]
        _refuse_unknown(parser, "contender", options.against, FAMILIES)
    if options.prefect:
        default = [name for name, family in FAMILIES.items() if not family.asked_for]
        options.against = [*(default if options.against is None else options.against), "prefect"]
    return options


def _all(names: dict[str, Any]) -> str:
    return ", ".join(names)


def _refuse_unknown(
    parser: argparse.ArgumentParser, what: str, names: list[str], known: dict[str, Any]
) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no such {what}: {', '.join(unknown)}; there are: {_all(known)}")


if __name__ == "__main__":
    sys.exit(main())
