"""Real parts for tests: a daemon of their own in a temp folder, and waiting on states."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from atmost.errors import DaemonUnavailable
from atmost.sync import Client
from atmostd.slates import Slates

PATIENCE_SECONDS = 30.0  # before a state that never comes fails a test; never part of its outcome
LOOK_SECONDS = 0.002

T = TypeVar("T")

_started: set[Path] = set()  # runtime folders


def _take_away_what_they_lent() -> None:
    """To other users, in a folder that is not the test's own: a daemon that is killed leaves it there."""
    for folder in _started:
        shutil.rmtree(Slates(folder)._shared, ignore_errors=True)


atexit.register(_take_away_what_they_lent)


def wait_until(state: Callable[[], T], what: str = "") -> T:
    """Wait for `state()` to be true, and return what it gave."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := state()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never came true: {what or state}")
        time.sleep(LOOK_SECONDS)
    return found


class RunningDaemon:
    """An atmostd of a test's own. `start` returns when it answers."""

    environ: dict[str, str] | None = None  # None: that of the test
    no_config: tuple[str, ...] = ("--config", os.devnull)

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options  # further words of the command line
        self.socket = folder / "s"
        self.state_dir = folder / "state"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def arguments(self) -> list[str]:
        """The command line."""
        return [
            *(sys.executable, "-m", "atmostd"),
            *("--socket", str(self.socket)),
            *("--state-dir", str(self.state_dir)),
            *("--runtime-dir", str(self.folder / "run")),
            # Not what this host's own daemon is told.
            *(() if "--config" in self.options else self.no_config),
            *self.options,
        ]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> RunningDaemon:
        _started.add(self.folder / "run")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stderr=log, env=self.environ
            )
        wait_until(self._answers, f"the daemon answers; its log: {self.log}")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end. Returns the exit code, negative for a signal."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def client(self) -> Client:
        """A new session with this daemon."""
        return Client(self.socket)

    def environment(self) -> dict[str, str]:
        """For a process that shall use this daemon."""
        return {**os.environ, "ATMOST_SOCKET": str(self.socket)}

    def log_text(self) -> str:
        return self.log.read_text()

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"atmostd ended with {self.process.returncode}: {self.log_text()}")
        try:
            with self.client() as client:
                return client.status().pid == self.process.pid
        except DaemonUnavailable:
            return False
