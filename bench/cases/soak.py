"""Churn for a long time: what is left over in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from bench import contenders as field
from bench.cases.common import warm_up
from bench.figures import COUNT, MEGABYTES, PER_SECOND, Role, Table, at_most
from bench.processes import Bench, Client, ask_all

CHURNERS = 4
GONE_SECONDS = 5.0  # until the daemon has seen that they are
SLICE_SECONDS = 5.0  # between two looks
GROWTH = 1.1
JOURNAL_MB = 17  # twice what a journal grows to (config.JOURNAL_BYTES_MAX), for it is written anew
WARM_SHARE = 0.2  # of the time, before memory is first looked at


def soak(bench: Bench, table: Table) -> Iterator[None]:
    """Names, connections, holders that die, waiters that give up: all new all the time."""
    seconds = bench.soak_seconds or (2.0 if bench.quick else 60.0)
    warm = table.line("resident memory, warm", MEGABYTES, Role.ASIDE)
    last = table.line(
        f"resident memory after {seconds:,.0f} s",
        MEGABYTES,
        Role.OURS,
        None if bench.quick else at_most(GROWTH, warm),
    )
    journal = table.line("the greatest journal", MEGABYTES, Role.OURS, at_most(JOURNAL_MB))
    left = table.line("descriptors left over", COUNT, Role.OURS, at_most(0))
    done = table.line("calls", PER_SECOND, Role.ASIDE)
    daemon = bench.daemon()
    daemon.client.create_limit("churn", 3)
    probe = bench.client_of(field.OURS, daemon)
    probe.ask("prepare", name="probe", slots=1)
    probe.ask("cycles", name="probe", count=warm_up(bench))
    before = daemon.descriptors
    begin = time.monotonic()
    calls, greatest = 0, 0.0
    churners: list[Client] = []
    try:
        churners += [bench.client("churn", daemon.socket) for _ in range(CHURNERS)]
        while (passed := time.monotonic() - begin) < seconds:
            if not warm.rounds and passed >= WARM_SHARE * seconds:
                warm.add(daemon.resident_mb)
            for_now = min(SLICE_SECONDS, seconds / 10)
            calls += sum(ask_all(churners, "churn", seconds=for_now, seed=os.getpid()))
            greatest = max(greatest, daemon.journal_mb)
    finally:  # an interruption prints what there is
        last.add(daemon.resident_mb)
        journal.add(greatest)
        done.add(calls / (time.monotonic() - begin))
    for churner in churners:
        churner.close()
    deadline = time.monotonic() + GONE_SECONDS
    while daemon.descriptors > before and time.monotonic() < deadline:
        time.sleep(0.01)
    left.add(max(0, daemon.descriptors - before))
    yield
