"""The servers that are measured, and what the kernel knows of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from atmost.errors import DaemonUnavailable
from atmost.sync import Client
from bench.contenders import REDIS_SERVER

START_SECONDS = 20.0  # for a server to answer, on a machine that is busy with other things
STOP_SECONDS = 5.0  # for it to end in order
LOOK_SECONDS = 0.01


class Server(ABC):
    """A process of the bench's own, pinned to a core."""

    start_seconds = START_SECONDS

    def __init__(self, folder: Path, memory: Path, core: int) -> None:
        self.core = core
        self.folder = folder  # on the disk
        self.memory = memory  # in memory; not made yet
        self.socket = folder / "socket"
        self._log = folder / "log"
        folder.mkdir()
        self.process = self._start()

    @abstractmethod
    def command(self) -> list[str]:
        """The words that start it."""

    def environ(self) -> dict[str, str] | None:
        """What it finds there; None: what we do."""
        return None

    @property
    def address(self) -> str:
        """What a client is given."""
        return str(self.socket)

    @abstractmethod
    def answers(self) -> bool:
        """Whether it does, by now."""

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self.command(),
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a Ctrl-C in the terminal is for us: we end it in order
            )
        os.sched_setaffinity(process.pid, {self.core})
        return process

    def kill_and_start(self) -> None:
        """SIGKILL, and the next one."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command()[0]} does not answer: {self._log.read_text()}")
            time.sleep(LOOK_SECONDS)

    @property
    def cpu_us(self) -> float:
        return cpu_us(self.process.pid)

    @property
    def resident_mb(self) -> float:
        return _status(Path(f"/proc/{self.process.pid}/status"), "VmRSS") / 1024

    @property
    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def close(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        self.process.kill()
        self.process.wait()


class Daemon(Server):
    """An atmostd. Its journal is on: it can't be off."""

    def __init__(
        self, folder: Path, memory: Path, core: int, *options: str, program: str = "atmostd"
    ) -> None:
        self._options = options
        self._program = program
        self.client = Client(folder / "socket")
        super().__init__(folder, memory, core)

    def command(self) -> list[str]:
        places = {"socket": self.socket, "state-dir": self.folder / "state"}
        places["runtime-dir"] = self.memory
        options = [word for name, path in places.items() for word in (f"--{name}", str(path))]
        no_config = ("--config", os.devnull)  # not what this host's own daemon is told
        return [sys.executable, "-m", self._program, *options, *no_config, *self._options]

    def answers(self) -> bool:
        try:
            return self.client.status().pid == self.process.pid
        except DaemonUnavailable:
            return False

    @property
    def journal_mb(self) -> float:
        files = [path for path in self.memory.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files) / 1e6

    def close(self) -> None:
        self.client.close()
        super().close()


class Redis(Server):
    """A Redis (or Valkey) as fast as it can be: a Unix socket, nothing written to a disk."""

    def command(self) -> list[str]:
        settings = {"port": "0", "unixsocket": str(self.socket), "save": "", "appendonly": "no"}
        settings |= {"dir": str(self.folder), "maxclients": "20000"}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [REDIS_SERVER, *words]

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
            except OSError:
                return False


class Prefect(Server):
    """Prefect's server, with its database in memory, and without what limits don't need."""

    start_seconds = 120.0

    def __init__(self, folder: Path, memory: Path, core: int, python: str) -> None:
        self._python = python
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        super().__init__(folder, memory, core)

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self._port)]
        less = ["--no-ui", "--no-services", "--analytics-off", "--log-level", "ERROR"]
        return [self._python, "-m", "prefect", "server", "start", *where, *less]

    def environ(self) -> dict[str, str]:
        return {**os.environ, "PREFECT_HOME": str(self.memory), "DO_NOT_TRACK": "1"}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}/api {self.memory}"

    def answers(self) -> bool:
        request = f"GET /api/health HTTP/1.0\r\nHost: 127.0.0.1:{self._port}\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(request.encode())
                return b" 200 " in connection.recv(64)
        except OSError:
            return False


def cpu_us(pid: int) -> float:
    """CPU time that a process has used, all threads, in microseconds."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1000  # clock_getcpuclockid(3)


def wake_ups(pid: int) -> int:
    """How often its threads have gone to sleep, and so been woken."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(_status(task / "status", "voluntary_ctxt_switches") for task in tasks)


def _status(path: Path, field: str) -> int:
    """A number from a `status` file of /proc."""
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[field].split()[0])
