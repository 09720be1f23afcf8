"""The processes of the chaos: a daemon that is killed and started again, and its clients.

Rule 1: everything lies in one temp folder; every process is gone before it.
Rule 2: each client process leads a group of its own, and is not waited for until the end: so the
number of its group is nobody else's, and its children can be found when it is dead.
Rule 3: a signal is written down with a stamp from before it was sent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from atmost.errors import DaemonUnavailable
from atmost.sync import Client
from chaos.log import Log, pids

PATIENCE_SECONDS = 30.0  # for anything that has to come in the end
LOOK_SECONDS = 0.003
SOCKET_FOLDER_BYTES_MAX = 80  # the kernel takes 107 bytes for the path of a socket in it


class Failed(Exception):
    """The chaos cannot go on; the message says why."""


class Worker(NamedTuple):
    """A client process, and those that it makes."""

    name: str
    kind: str
    process: subprocess.Popen[bytes]


class Processes:
    """A context manager: at its end all are gone, and the folder too if `keep` is not set."""

    def __init__(self) -> None:
        short = len(os.fsencode(tempfile.gettempdir())) < SOCKET_FOLDER_BYTES_MAX
        self.folder = Path(tempfile.mkdtemp(prefix="atmost-chaos-", dir=None if short else "/tmp"))
        self.keep = False
        self.socket = self.folder / "socket"
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.log = Log(self.logs, "runner")
        self._talk = self.folder / "stderr"  # of every process
        self._all: list[Worker] = []
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._all:
            _signal_group(worker, signal.SIGKILL)
        for worker in self._all:
            worker.process.wait()
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        self.log.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # The daemon

    def start_daemon(self) -> None:
        """Returns when it answers."""
        self.log.mark("started")
        options = {
            "--socket": self.socket,
            "--state-dir": self.folder / "state",
            "--runtime-dir": self.folder / "run",
        }
        arguments = [str(word) for option in options.items() for word in option]
        self._daemon = self._start(["-m", "atmostd", *arguments])
        self.wait_until(self._answers, "the daemon to answer")
        self.log.mark("answers")

    def end_daemon(self, number: signal.Signals) -> None:
        """Returns when it is gone."""
        assert self._daemon is not None
        self.check_daemon()
        self.log.mark("dies", number.name)
        self._daemon.send_signal(number)
        try:
            code = self._daemon.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"atmostd does not end on {number.name}:\n{self.last_words()}") from error
        if code != (-number if number == signal.SIGKILL else 0):
            raise Failed(f"atmostd ended with {code} on {number.name}:\n{self.last_words()}")
        self.log.mark("dead")

    def check_daemon(self) -> None:
        """Raises Failed if it ended by itself."""
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            code = self._daemon.returncode
            raise Failed(f"atmostd ended by itself, with {code}:\n{self.last_words()}")

    def _answers(self) -> bool:
        self.check_daemon()
        assert self._daemon is not None
        try:
            with Client(self.socket) as client:
                return client.status().pid == self._daemon.pid
        except DaemonUnavailable:
            return False

    # Clients

    def start_worker(self, kind: str, seed: str) -> Worker:
        """A new client process: worker.py says what it does."""
        name = f"{kind}-{len(self._all)}"
        script = str(Path(__file__).with_name("worker.py"))
        worker = Worker(name, kind, self._start([script, kind, name, seed]))
        self._all.append(worker)
        return worker

    def kill(self, workers: Iterable[Worker], what: str) -> None:
        """kill -9 of these and all that they have made. Returns when they are gone."""
        victims = list(workers)
        at = time.monotonic_ns()
        for worker in victims:
            _signal_group(worker, signal.SIGKILL)
        for worker in victims:
            self.wait_until(partial(self._gone, worker), f"{worker.name} to be gone")
        # Only now is it known who they all were: a child may just have been forked.
        dead = [pid for worker in victims for pid in pids(self.logs, worker.name)]
        self.log.mark("killed", what, dead, at=at)
        self.log.mark("gone", dead)

    def kill_leader(self, worker: Worker) -> None:
        """kill -9 of the process alone; what it has made lives on."""
        pid = worker.process.pid
        at = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.log.mark("killed", worker.name, [pid], at=at)
        self.log.mark("gone", [pid])

    def stop(self, worker: Worker) -> None:
        self.log.mark("stopped", worker.name)
        _signal_group(worker, signal.SIGSTOP)

    def go_on(self, worker: Worker) -> None:
        self.log.mark("continued", worker.name)
        _signal_group(worker, signal.SIGCONT)

    def finish(self, worker: Worker) -> None:
        """Ask it to come to its end."""
        (self.folder / f"{worker.name}.stop").touch()

    def alive(self, worker: Worker) -> list[int]:
        """Those of its group that still run."""
        return [
            pid for pid in pids(self.logs, worker.name) if _runs_in_group(pid, worker.process.pid)
        ]

    def _gone(self, worker: Worker) -> bool:
        return not self.alive(worker)

    def everybody(self) -> list[Worker]:
        """Every client process that was ever started."""
        return list(self._all)

    # Waiting, and words

    def wait_until(self, state: Callable[[], object], what: str) -> None:
        """Raises Failed if it never comes."""
        if not self.comes(state):
            raise Failed(f"waited in vain for {what}:\n{self.last_words()}")

    def comes(self, state: Callable[[], object]) -> bool:
        """Whether it comes within any patience."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not state():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def last_words(self) -> str:
        return "\n".join(self._talk.read_text(errors="replace").splitlines()[-15:])

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """In a process group of its own: a Ctrl-C in the terminal is for us alone."""
        environment = {
            **os.environ,
            "ATMOST_SOCKET": str(self.socket),
            "CHAOS_LOG": str(self.logs),
        }
        with self._talk.open("ab") as talk:
            return subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=talk,
                stderr=talk,
                process_group=0,
            )


def _signal_group(worker: Worker, number: signal.Signals) -> None:
    # Once the leader has been waited for, its group may be another's.
    if worker.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, number)


def _runs_in_group(pid: int, group: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state, _, found = stat.rpartition(")")[2].split()[:3]  # the name may have spaces in it
    return state not in "ZX" and int(found) == group
