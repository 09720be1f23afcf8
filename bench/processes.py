"""The processes that are measured.

Rule 1: every contender is pinned alike: what answers (a server) on one core, what asks on another.
Rule 2: they live in one temp folder, but for what has to be in memory, and end with it. A client
process also ends with its stdin.
Rule 3: journals are in memory, as in use: the runtime folder is in /run. So are the peers' files.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from bench.contenders import Field, Kind
from bench.servers import Daemon, Prefect, Redis, Server

HERE = Path(__file__).resolve().parent
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


class Client:
    """A client process (clients/) and what it is told to do."""

    def __init__(self, program: str, address: str, core: int, python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "bench.clients", program, address, str(core)],
            cwd=HERE.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a Ctrl-C in the terminal is for us
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

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


class Command:
    """A command that runs until it is ended."""

    def __init__(self, words: list[str], environ: dict[str, str], core: int) -> None:
        self._process = subprocess.Popen(
            words,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C in the terminal is for us
        )
        os.sched_setaffinity(self.pid, {core})

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def ask_all(clients: list[Client], what: str, **details: object) -> list[Any]:
    """All of them at the same time."""
    for client in clients:
        client.tell(what, **details)
    return [client.answer() for client in clients]


class Bench:
    """All that a run needs; a context manager that leaves nothing behind."""

    def __init__(self, quick: bool, field: Field, soak_seconds: float = 0.0) -> None:
        self.quick = quick
        self.field = field
        self.soak_seconds = soak_seconds
        self.cores = Cores.choose()
        self._open: list[Server | Client | Command] = []
        self._redis: Redis | None = None
        self._prefect: Prefect | None = None
        self._servers = 0
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

    def some(self, full: int, quick: int) -> int:
        """How many of something, as the run is a quick one or not."""
        return quick if self.quick else full

    def _places(self) -> tuple[Path, Path]:
        """A folder on the disk and one in memory, for the next server."""
        self._servers += 1
        return self._folder / str(self._servers), self._runtime / str(self._servers)

    def daemon(self, cores: Cores | None = None, *options: str, program: str = "atmostd") -> Daemon:
        """Start one and wait until it answers."""
        with undisturbed():
            core = (cores or self.cores).answering
            made = Daemon(*self._places(), core, *options, program=program)
            self._open.append(made)
        made.wait_until_ready()
        return made

    def redis(self, cores: Cores | None = None) -> Redis:
        """The case's own; started when it is first asked for."""
        with undisturbed():
            if self._redis is None:
                self._redis = Redis(*self._places(), (cores or self.cores).answering)
                self._open.append(self._redis)
        self._redis.wait_until_ready()
        return self._redis

    def prefect(self, cores: Cores | None = None) -> Prefect:
        """The case's own; started when it is first asked for."""
        with undisturbed():
            if self._prefect is None:
                core = (cores or self.cores).answering
                self._prefect = Prefect(*self._places(), core, self.field.prefect)
                self._open.append(self._prefect)
        self._prefect.wait_until_ready()
        return self._prefect

    def memory_folder(self) -> Path:
        """For the files of a peer that needs no server."""
        return self._runtime

    def client(
        self,
        program: str,
        address: str | Path,
        cores: Cores | None = None,
        python: str = sys.executable,
    ) -> Client:
        """Start a client process."""
        with undisturbed():
            made = Client(program, str(address), (cores or self.cores).asking, python)
            self._open.append(made)
        return made

    def command(self, words: list[str], environ: dict[str, str]) -> Command:
        """Start a command."""
        with undisturbed():
            made = Command(words, environ, self.cores.asking)
            self._open.append(made)
        return made

    def client_of(self, kind: Kind, daemon: Daemon, cores: Cores | None = None) -> Client:
        """One of that kind, with what it needs."""
        address = {
            "atmost": lambda: daemon.address,
            "redis": lambda: self.redis(cores).address,
            "prefect": lambda: self.prefect(cores).address,
            "folder": lambda: str(self.memory_folder()),
        }[kind.server]()
        python = self.field.prefect if kind.server == "prefect" else sys.executable
        return self.client(kind.program, address, cores, python)

    def end_case(self) -> None:
        """End what was started, clients first."""
        while self._open:
            self._open.pop().close()
        self._redis = self._prefect = None


def descriptors(wanted: int) -> int:
    """Raise the soft bound of open files as far as is allowed; gives what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    with contextlib.suppress(ValueError, OSError):  # root may, where the kernel allows so many
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


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
