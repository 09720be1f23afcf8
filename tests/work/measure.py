"""What one acquire + release costs the daemon and the client, counted and not timed.

A cycle's figure is the difference between many cycles and few, so what starting and ending takes is
not in it. Prints the record: python -m tests.work.measure
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from atmost.errors import DaemonUnavailable
from tests.support import RunningDaemon, wait_until
from tests.work.caller import PAUSES

SOURCE = Path(__file__).with_name("allocations.c")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FEW, MANY = 20, 170  # cycles
COUNT_CALLS = (sys.executable, "-m", "tests.work.calls")
CALLER = "tests.work.caller"
LOOK, PAUSE = "look", "pause"  # how the caller knows that the daemon is done


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


def cycle(
    daemon: RunningDaemon,
    cycles: int,
    way: str = LOOK,
    *before: str,
    program: str = CALLER,
    **environ: str,
) -> None:
    """So many by a client process of its own."""
    caller = (sys.executable, "-m", program, str(daemon.socket), str(cycles), way)
    subprocess.run([*before, *caller], check=True, env={**os.environ, **environ})


@contextlib.contextmanager
def _with_limit(daemon: Watched) -> Iterator[Watched]:
    daemon.start()
    with daemon.client() as client:
        client.create_limit("work", 1)
    yield daemon
    daemon.stop()


def daemon_calls(folder: Path, program: str = "atmostd") -> float:
    """System calls of the daemon, for a cycle."""
    return _difference(
        *(_daemon_calls(folder / f"d{cycles}", program, cycles) for cycles in (FEW, MANY))
    )


def _daemon_calls(folder: Path, program: str, cycles: int) -> Counter[str]:
    counts = folder / "counts.json"
    with _with_limit(Watched(folder, *COUNT_CALLS, str(counts), program=program)) as daemon:
        cycle(daemon, cycles)
    return Counter(json.loads(counts.read_text()))


def client_calls(folder: Path, program: str = CALLER) -> float:
    """System calls of a blocking client, for a cycle; without those that let time pass."""
    found: list[Counter[str]] = []
    with _with_limit(Watched(folder / "c")) as daemon:
        for cycles in (FEW, MANY):
            counts = folder / f"c{cycles}.json"
            cycle(daemon, cycles, PAUSE, *COUNT_CALLS, str(counts), program=program)
            found.append(Counter(json.loads(counts.read_text())))
    return _difference(*found) - PAUSES


def _difference(few: Counter[str], many: Counter[str]) -> float:
    return (many.total() - few.total()) / (MANY - FEW)


def compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc"))


def allocations_of_daemon(folder: Path, program: str = "atmostd") -> float:
    """For a cycle. It takes a C compiler."""
    counts, counting = _counting(folder)
    daemon = Watched(folder / "ad", program=program)
    daemon.environ = {**os.environ, **counting}
    totals: list[int] = []
    with _with_limit(daemon):
        for cycles in (FEW, FEW, MANY):  # the first one only warms up
            before = _number(counts)
            cycle(daemon, cycles)
            totals.append(_number(counts) - before)
    return (totals[2] - totals[1]) / (MANY - FEW)


def allocations_of_client(folder: Path, program: str = CALLER) -> float:
    """Of a blocking client, for a cycle. It takes a C compiler."""
    counts, counting = _counting(folder)
    totals: list[int] = []
    with _with_limit(Watched(folder / "ac")) as daemon:
        for cycles in (FEW, MANY):
            counts.unlink(missing_ok=True)
            cycle(daemon, cycles, PAUSE, program=program, **counting)
            totals.append(_number(counts))
    return (totals[1] - totals[0]) / (MANY - FEW)


def _counting(folder: Path) -> tuple[Path, dict[str, str]]:
    """Where they are counted, and what a process is to find in its environment."""
    library, counts = folder / "allocations.so", folder / "allocations"
    found = compiler()
    assert found is not None, "counting allocations takes a C compiler: apt install gcc libc6-dev"
    subprocess.run([found, "-O2", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    environ = {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc", "ALLOCATIONS": str(counts)}
    return counts, environ


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
        allocations = {
            "daemon": allocations_of_daemon(folder),
            "client": allocations_of_client(folder),
        }
    found = {"calls": calls, "allocations": allocations}
    print(json.dumps({VERSION: found}, indent=1))


if __name__ == "__main__":
    main()
