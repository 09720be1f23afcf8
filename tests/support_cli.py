"""The command, for tests: in this process, in one of its own, or on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from atmost.cli import main
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

COMMAND = [sys.executable, "-m", "atmost"]


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Atmost = Callable[..., Ran]


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """Run the command in this process."""
    capsys.readouterr()
    return Ran(main(list(arguments)), *capsys.readouterr())


def client_of(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Atmost:
    """A function that runs the command in this process, as a client of this daemon."""
    return lambda *arguments: here(capsys, "--socket", str(daemon.socket), *arguments)


@contextlib.contextmanager
def start(
    daemon: RunningDaemon, *arguments: str, command: list[str] = COMMAND, **given: Any
) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, which does not outlive the block."""
    given.setdefault("env", daemon.environment())
    with subprocess.Popen([*command, *arguments], text=True, **given) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(daemon: RunningDaemon, *arguments: str, **given: Any) -> Ran:
    """The command as a process of its own, run to its end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    given.setdefault("stdin", subprocess.DEVNULL)
    with start(daemon, *arguments, **pipes | given) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return Ran(process.returncode, out, err)


@contextlib.contextmanager
def shared(running: RunningDaemon) -> Iterator[RunningDaemon]:
    """A daemon that many tests share, as it is for one of them: without the limits that it makes."""
    yield running
    with running.client() as client:
        for limit in client.list_limits():
            client.delete_limit(limit.name)


class Terminal:
    """A terminal of 80 columns, and the command as the foreground process of its session."""

    def __init__(self, daemon: RunningDaemon, *arguments: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")
        inherited = daemon.environment()
        for name in ("NO_COLOR", "COLUMNS"):
            inherited.pop(name, None)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=inherited | {"TERM": "xterm"} | environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.text = ""  # all that was on the screen

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        os.close(self._ours)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read_until(self, words: str) -> None:
        """Wait for these words to come."""
        wait_until(lambda: words in self._read(), f"{words!r} on the terminal")

    def end(self) -> int:
        """Wait for the command to end. Returns its exit code."""

        def ended() -> bool:
            self._read()  # or it would wait for room to write
            return self.process.poll() is not None

        wait_until(ended, "the command ends")
        self._read()
        return self.process.returncode

    def _read(self) -> str:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # nothing now, or everybody has closed the other side
                return self.text
            self.text += data.decode().replace("\r\n", "\n")
