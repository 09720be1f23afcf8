"""What the demo runs on: a daemon of its own, the processes that use it, and their marks.

Rule 1: everything lies in one temp folder. It goes at the end, and every process before it.
Rule 2: a signal only raises a flag, which `pause` looks at: nothing is torn apart half-made.
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
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

from atmost.errors import DaemonUnavailable
from atmost.sync import Client
from demo.judge import Mark, Stay, stays

START_SECONDS = 20.0  # for a daemon to answer, on a machine that is busy with other things
STOP_SECONDS = 5.0  # for it to end in order
FRAME_SECONDS = 0.1  # between two looks: at most ten pictures a second
SOCKET_FOLDER_BYTES_MAX = 80  # the kernel takes 107 bytes for the path of a socket in it


class Failed(Exception):
    """The demo cannot go on; the message says why."""


class Interrupted(Exception):
    """Someone wants it to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Worker(NamedTuple):
    """A process that uses the limits."""

    name: str
    kind: str
    process: subprocess.Popen[bytes]


class Stage:
    """A context manager: inside it the daemon runs."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self._signalled = 0
        self._handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        short = len(os.fsencode(tempfile.gettempdir())) < SOCKET_FOLDER_BYTES_MAX
        self.folder = Path(tempfile.mkdtemp(prefix="atmost-demo-", dir=None if short else "/tmp"))
        self.socket = self.folder / "socket"
        self._log = self.folder / "marks"
        self._log.touch()
        self._talk = self.folder / "stderr"  # of every process
        self._daemon: subprocess.Popen[bytes] | None = None
        self.absences: list[tuple[int, int]] = []  # of a daemon: its death, the start of the next
        self.client = Client(self.socket)

    def __enter__(self) -> Stage:
        try:
            self._start_daemon()
        except BaseException:
            self._clear_away()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clear_away()

    # Processes

    def work(self, kind: str, name: str, jobs: int, seconds: float) -> Worker:
        """Start a process: worker.py says what it does."""
        script = str(Path(__file__).with_name("worker.py"))
        worker = Worker(name, kind, self._start([script, kind, name, str(jobs), str(seconds)]))
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """kill -9. What the worker was at is marked as killed, from just before."""
        jobs = [
            stay.job
            for stay in self.stays()
            if stay.job.startswith(worker.name + ".") and stay.ended is None
        ]
        at = time.monotonic_ns()
        worker.process.kill()
        with self._log.open("a") as log:
            log.writelines(f"{at} killed {job}\n" for job in jobs)
        worker.process.wait()

    def running(self) -> list[Worker]:
        """Those that have not ended. Raises Failed if one ended badly by itself."""
        for worker in self.workers:
            code = worker.process.poll()
            if code is not None and code not in (0, -signal.SIGKILL):
                raise Failed(f"worker {worker.name} ended with {code}:\n{self._last_words()}")
        return [worker for worker in self.workers if worker.process.returncode is None]

    def name_of(self, pid: int) -> str:
        return next((w.name for w in self.workers if w.process.pid == pid), f"pid {pid}")

    # Time

    def pause(self, seconds: float = FRAME_SECONDS) -> None:
        """Let time pass. Raises Interrupted."""
        time.sleep(0 if self._signalled else seconds)
        if self._signalled:
            raise Interrupted(self._signalled)

    def watch(self, until: Callable[[], bool], show: Callable[[], None]) -> None:
        """Show what happens until something is true. Raises Failed and Interrupted."""
        while not until():
            self.running()
            show()
            self.pause()
        show()

    # What was marked

    def stays(self) -> list[Stay]:
        """Every job and call so far."""
        marks = []
        for line in self._log.read_text().splitlines():
            at, what, job = line.split()
            marks.append(Mark(int(at), what, job))
        return stays(marks)

    # The daemon, and the end

    def restart_daemon(self) -> None:
        """kill -9, and start another one. The jobs are told nothing."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        died = time.monotonic_ns()
        self.absences.append((died, time.monotonic_ns()))
        self._start_daemon()

    def _start_daemon(self) -> None:
        folder = self.folder
        options = [
            "--socket",
            self.socket,
            "--state-dir",
            folder / "state",
            "--runtime-dir",
            folder,
        ]
        self._daemon = self._start(["-m", "atmostd", *map(str, options)])
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"atmostd did not start:\n{self._last_words()}")
            self.pause(0.01)

    def _answers(self) -> bool:
        try:
            self.client.status()
        except DaemonUnavailable:
            return False
        return True

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """In a process group of its own: a Ctrl-C in the terminal is for us alone."""
        environment = {
            **os.environ,
            "ATMOST_SOCKET": str(self.socket),
            "DEMO_LOG": str(self._log),
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

    def _last_words(self) -> str:
        return "\n".join(self._talk.read_text(errors="replace").splitlines()[-15:])

    def _clear_away(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
        self.client.close()
        if self._daemon is not None:
            self._daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(STOP_SECONDS)
            self._daemon.kill()
            self._daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = number
