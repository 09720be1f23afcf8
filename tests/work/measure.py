"""What one acquire + release costs the daemon and the client, counted and not timed.

A cycle's figure is the difference between many cycles and few, so what starting and ending takes is
not in it. Prints the record: python -m tests.work.measure
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from atmost.errors import DaemonUnavailable
from tests.support import RunningDaemon, wait_until
from tests.work.caller import PAUSES

SOURCE = Path(__file__).with_name("allocations.c")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FEW, MANY = 20, 170  # cycles
CALLS = (sys.executable, "-m", "tests.work.calls")
CALLER = (sys.executable, "-m", "tests.work.caller")


class Watched(RunningDaemon):
    """An atmostd behind other words of the command line."""

    def __init__(self, folder: Path, *before: str, program: str = "atmostd") -> None:
        folder.mkdir()
        super().__init__(folder)
        self.before = before
        self.program = program
        self.before_options: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        python, dash_m, _, *options = super().arguments
        return [*self.before, python, dash_m, self.program, *self.before_options, *options]

    def _answers(self) -> bool:
        """Its pid is that of a child of the process that was started."""
        try:
            with self.client() as client:
                client.status()
                return True
        except DaemonUnavailable:
            return super()._answers()


def cycle(daemon: RunningDaemon, cycles: int, *before: str, **environ: str) -> None:
    """So many by a client process of its own."""
    command = [*before, *CALLER, str(daemon.socket), str(cycles)]
    subprocess.run(command, check=True, env={**os.environ, **environ})


def daemon_calls(folder: Path, program: str = "atmostd") -> float:
    """System calls of the daemon, for a cycle."""
    return _difference(
        *(_daemon_calls(folder / f"d{cycles}", program, cycles) for cycles in (FEW, MANY))
    )


def _daemon_calls(folder: Path, program: str, cycles: int) -> Counter[str]:
    counts = folder / "counts.json"
    daemon = Watched(folder, *CALLS, str(counts), program=program).start()
    with daemon.client() as client:
        client.create_limit("work", 1)
    cycle(daemon, cycles)
    daemon.stop()
    return Counter(json.loads(counts.read_text()))


def client_calls(folder: Path) -> float:
    """System calls of a blocking client, for a cycle; without those that let time pass."""
    daemon = Watched(folder / "c").start()
    with daemon.client() as client:
        client.create_limit("work", 1)
    found: list[Counter[str]] = []
    for cycles in (FEW, MANY):
        counts = folder / f"c{cycles}.json"
        cycle(daemon, cycles, *CALLS, str(counts))
        found.append(Counter(json.loads(counts.read_text())))
    daemon.stop()
    return _difference(*found) - PAUSES


def _difference(few: Counter[str], many: Counter[str]) -> float:
    return (many.total() - few.total()) / (MANY - FEW)


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def allocations(folder: Path, program: str = "atmostd") -> tuple[float, float]:
    """Of the daemon and of a blocking client, for a cycle. It takes a C compiler."""
    library = folder / "allocations.so"
    found = compiler()
    assert found is not None, "counting allocations takes a C compiler: apt install gcc libc6-dev"
    subprocess.run([found, "-O2", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    counting = {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
    of_daemon, of_client = folder / "of-daemon", folder / "of-client"
    daemon = Watched(folder / "a", program=program)
    daemon.environ = {**os.environ, **counting, "ALLOCATIONS": str(of_daemon)}
    daemon.start()
    with daemon.client() as client:
        client.create_limit("work", 1)
    totals: list[tuple[int, int]] = []
    for cycles in (FEW, FEW, MANY):  # the first one only warms up
        before = _number(of_daemon)
        of_client.unlink(missing_ok=True)
        cycle(daemon, cycles, **counting, ALLOCATIONS=str(of_client))
        totals.append((_number(of_daemon) - before, _number(of_client)))
    daemon.stop()
    _, few, many = totals
    each = [(much - little) / (MANY - FEW) for little, much in zip(few, many, strict=True)]
    return each[0], each[1]


def daemon_keeps(folder: Path, program: str = "atmostd") -> float:
    """Bytes of Python's memory that the daemon keeps of a cycle, by tracemalloc."""
    figures = folder / "figures"
    daemon = Watched(folder / "t", program="tests.work.traced")
    daemon.before_options = (str(figures), program)
    daemon.start()
    with daemon.client() as client:
        client.create_limit("work", 1)
        told: list[int] = []
        for cycles in (MANY, MANY):  # the first ones only warm up
            for _ in range(cycles):
                with client.concurrency("work"):
                    pass
            client.status()  # all of that has been acted on
            figures.unlink(missing_ok=True)
            os.kill(daemon.pid, signal.SIGUSR1)
            told.append(int(wait_until(lambda: figures.exists() and figures.read_text())))
    daemon.stop()
    return (told[1] - told[0]) / MANY


def _number(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], sys.byteorder)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls = {"daemon": daemon_calls(folder), "client": client_calls(folder)}
        of_daemon, of_client = allocations(folder)
    found = {"calls": calls, "allocations": {"daemon": of_daemon, "client": of_client}}
    print(json.dumps({VERSION: found}, indent=1))


if __name__ == "__main__":
    main()
