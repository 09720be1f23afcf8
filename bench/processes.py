"""The processes that are measured, and what the kernel knows of them.

Rule 1: every contender is pinned alike: what answers (a daemon) on one core, what asks on another.
Rule 2: they live in one temp folder, but for the journals, and end with it. A client process also ends
with its stdin.
Rule 3: journals are in memory, as in use: the runtime folder is in /run.
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
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from atmost.errors import DaemonUnavailable
from atmost.sync import Client

HERE = Path(__file__).resolve().parent
START_SECONDS = 20.0  # for a daemon to answer, on a machine that is busy with other things
STOP_SECONDS = 5.0  # for it to end in order
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MEMORY = "/dev/shm"
SOCKET_FOLDER_BYTES_MAX = 80  # the kernel takes 107 bytes for the path of a socket in it


class Cores(NamedTuple):
    """Who runs where. On a machine with one core both are the same."""

    answering: int
    asking: int

    @classmethod
    def choose(cls) -> Cores:
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1 % len(allowed)])

    def together(self) -> Cores:
        """Both on the core of who asks."""
        return Cores(self.asking, self.asking)


class Floor:
    """The C ping-pong, compiled in the temp folder. `missing` says why there is none."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "pingpong"
        compiler = os.environ.get("CC", "cc")
        self.missing = ""
        if shutil.which(compiler) is None:
            self.missing = (
                f"there is no C compiler ({compiler}), so no ping-pong and no ratio to it"
            )
            return
        source = str(HERE / "pingpong.c")
        command = [compiler, "-O2", "-o", str(self._program), source]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            self.missing = f"{compiler} failed, so no ratio to the ping-pong: {made.stderr.strip()}"

    def round_trip(self, times: int, cores: Cores) -> float:
        """Microseconds."""
        command = [str(self._program), str(times), str(cores.answering), str(cores.asking)]
        return float(subprocess.check_output(command, text=True)) / 1000


class Daemon:
    """An atmostd of the bench's own."""

    def __init__(self, folder: Path, runtime: Path, cores: Cores) -> None:
        self.socket = folder / "socket"
        self.cores = cores
        self.client = Client(self.socket)
        folder.mkdir()
        self._folder = folder
        self._runtime = runtime
        self._log = folder / "log"
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        folder = self._folder
        options = [
            "--socket",
            self.socket,
            "--state-dir",
            folder / "state",
            "--runtime-dir",
            self._runtime,
        ]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "atmostd", *map(str, options)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                process_group=0,  # a Ctrl-C in the terminal is for us: we end it in order
            )
        os.sched_setaffinity(process.pid, {self.cores.answering})
        return process

    def kill_and_start(self) -> None:
        """SIGKILL, and the next one."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.status()
                return
            except DaemonUnavailable:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no atmostd: {self._log.read_text()}") from None
                time.sleep(0.01)

    @property
    def cpu_us(self) -> float:
        """CPU time that it has used, all threads, in microseconds."""
        return time.clock_gettime_ns((~self._process.pid << 3) | 2) / 1000  # clock_getcpuclockid(3)

    @property
    def wake_ups(self) -> int:
        """How often its threads have gone to sleep, and so been woken."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(_status(task / "status", "voluntary_ctxt_switches") for task in tasks)

    @property
    def resident_mb(self) -> float:
        return _status(Path(f"/proc/{self._process.pid}/status"), "VmRSS") / 1024

    def close(self) -> None:
        self.client.close()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._process.kill()
        self._process.wait()


class Asker:
    """A client process (asker.py or crowd.py) and what it is told to do."""

    def __init__(self, daemon: Daemon, program: str = "asker") -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"bench.{program}"),
                *(str(daemon.socket), str(daemon.cores.asking)),
            ],
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
            text=True,
        )

    def tell(self, what: str, **details: object) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for what it has to say to the earliest order not answered yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a client process of the bench has died; its last words are above")
        return json.loads(line)

    def ask(self, what: str, **details: object) -> Any:
        self.tell(what, **details)
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Bench:
    """All that a run needs; a context manager that leaves nothing behind."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.cores = Cores.choose()
        self._open: list[Daemon | Asker] = []
        self._daemons = 0
        short = len(os.fsencode(tempfile.gettempdir())) < SOCKET_FOLDER_BYTES_MAX
        self._folder = Path(tempfile.mkdtemp(prefix="atmost-bench-", dir=None if short else "/tmp"))
        memory = MEMORY if os.access(MEMORY, os.W_OK) else self._folder
        self._runtime = Path(tempfile.mkdtemp(prefix="atmost-bench-", dir=memory))
        try:
            self.floor = Floor(self._folder)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        with undisturbed():
            self.end_case()
            shutil.rmtree(self._runtime, ignore_errors=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def daemon(self, cores: Cores | None = None) -> Daemon:
        """Start one and wait until it answers."""
        with undisturbed():
            self._daemons += 1
            number = str(self._daemons)
            made = Daemon(self._folder / number, self._runtime / number, cores or self.cores)
            self._open.append(made)
        made.wait_until_ready()
        return made

    def asker(self, daemon: Daemon, program: str = "asker") -> Asker:
        """Start a client process."""
        with undisturbed():
            made = Asker(daemon, program)
            self._open.append(made)
        return made

    def end_case(self) -> None:
        """End what was started, clients first."""
        while self._open:
            self._open.pop().close()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A Ctrl-C has to wait: what is half started could not be ended."""
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.signal(number, later) for number in INTERRUPTIONS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _status(path: Path, field: str) -> int:
    """A number from a `status` file of /proc."""
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[field].split()[0])
