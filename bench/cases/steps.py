"""Where the time of an acquire + release goes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

from bench.cases.common import warm_up
from bench.figures import MICROSECONDS, Role, Table
from bench.processes import Bench
from bench.servers import LOOK_SECONDS, START_SECONDS, Daemon
from bench.stamped_daemon import STAMPS
from bench.stamps import PARTS, Stamp, figures


def steps(bench: Bench, table: Table) -> Iterator[None]:
    """The way of an acquire + release, and how long each step of it takes. The client has a pause
    before each, so all is colder than with one right after the other."""
    table.note("Each step also has what taking a stamp costs, some 0.3 us.")
    lines = {
        step: table.line(step.what, MICROSECONDS, Role.ASIDE)
        for part in PARTS
        for step in part.steps
    }
    daemon = bench.daemon(program="bench.stamped_daemon")
    client = bench.client("stamped", daemon.socket)
    client.ask("prepare", name="steps", slots=1)
    client.ask("walk", name="steps", count=warm_up(bench))
    _stamps_of(daemon)
    while True:
        of_client = client.ask("walk", name="steps", count=bench.some(1000, 30))
        for step, took in figures(of_client, _stamps_of(daemon)).items():
            lines[step].add(took)
        yield


def _stamps_of(daemon: Daemon) -> list[Stamp]:
    """Those since the last time."""
    place = daemon.folder / STAMPS
    os.kill(daemon.process.pid, signal.SIGUSR1)
    deadline = time.monotonic() + START_SECONDS
    while not place.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the daemon tells no stamps")
        time.sleep(LOOK_SECONDS)
    stamps = json.loads(place.read_text())
    place.unlink()
    return [(label, instant) for label, instant in stamps]
