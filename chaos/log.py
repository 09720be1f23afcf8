"""What happened, as every process wrote it down by itself.

Rule 1: one line an event, a JSON array [nanoseconds of CLOCK_MONOTONIC, what, pid, field, ...], in one
write to the end of the process's own file: nothing is torn, whoever is killed while writing.
Rule 2: a stamp errs to the side on which it accuses nobody. What has come (a grant) is stamped after
it came; what will be done (a call, a release, a kill) is stamped before it is done.

By a client: asked ID HOLD SPEND TIMEOUT, entered ID TOKEN, leaving ID, left ID, failed ID ERROR, lost ID.
By the runner: started, answers, dies HOW, dead (the daemon); killed WORKER PIDS (stamped before
the signal), gone PIDS, stopped WORKER, continued WORKER; edit ID NAME SETTING, edited ID;
limits SENT SETTINGS, tickets SENT LIMIT TICKETS (stamped when the answer was there); unfinished PIDS;
leaked WHEN SLOTS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Event(NamedTuple):
    """One line."""

    at: int
    what: str
    pid: int  # of the process that wrote it
    fields: tuple[Any, ...]


class Log:
    """The file of one process. Threads may share it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.{os.getpid()}"
        self._pid = os.getpid()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)

    def mark(self, what: str, *fields: Any, at: int | None = None) -> None:
        """Write the event down. `at`: it was then and not now."""
        line = [time.monotonic_ns() if at is None else at, what, self._pid, *fields]
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read(folder: Path) -> list[Event]:
    """All that was written into this folder, in the order of the stamps."""
    lines = (line for path in folder.iterdir() for line in path.read_text().splitlines())
    return sorted(map(_event, lines), key=lambda event: event.at)


def pids(folder: Path, name: str) -> list[int]:
    """The processes that have written under this name."""
    return [int(path.suffix[1:]) for path in folder.glob(f"{name}.*")]


def _event(line: str) -> Event:
    at, what, pid, *fields = json.loads(line)
    return Event(at, what, pid, tuple(fields))


def select(events: Iterable[Event], *kinds: str) -> list[Event]:
    """Those of these kinds, in the same order."""
    return [event for event in events if event.what in kinds]
