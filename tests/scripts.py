"""Real processes for tests: a few lines of Python that talk with the test by lines.

In a script, `say(word)` sends a line to the test and `hear()` waits for one from it. Whatever it
writes to stderr fails the test, so warnings are errors there too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import IO

from tests.support import PATIENCE_SECONDS, RunningDaemon

PREAMBLE = r"""
import asyncio, os, signal, sys, threading, time
from atmost import sync
import atmost.asyncio as aio

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # one write: children say things too

def hear():
    line = b""
    while not line.endswith(b"\n"):  # no byte more: the rest may be for another program
        if not (byte := os.read(0, 1)):
            break
        line += byte
    return line.decode().strip()
"""
# A test forks where there are threads on purpose; Python 3.12 and later warn of that.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


class Script:
    """One process that runs such lines."""

    def __init__(self, daemon: RunningDaemon, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *WARNINGS, "-c", PREAMBLE + textwrap.dedent(code), *arguments],
            env=daemon.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # its own, which ends with it
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> str:
        """The next line it says."""
        out = _stream(self.process.stdout)
        while b"\n" not in self._rest:
            ready, _, _ = select.select([out], [], [], PATIENCE_SECONDS)
            assert ready, f"it says nothing; so far: {self._rest!r}"
            more = os.read(out.fileno(), 65536)
            assert more, f"it ended: {self._words_of_trouble()}"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def expect(self, *words: object) -> None:
        """It says this next."""
        assert self.hear() == " ".join(map(str, words))

    def tell(self, word: object = "go") -> None:
        """Send it a line."""
        stdin = _stream(self.process.stdin)
        stdin.write(f"{word}\n".encode())
        stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, code: int = 0) -> list[str]:
        """Wait for its end, which must be of this code and without a word of trouble. Returns the
        lines that it said and nobody has heard yet."""
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        ended = self.process.returncode, err.decode()
        assert ended == (code, ""), f"it ended with {ended[0]} and these words: {ended[1]}"
        return (self._rest + out).decode().splitlines()

    def _words_of_trouble(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode()


@contextlib.contextmanager
def script(daemon: RunningDaemon, code: str, *arguments: str) -> Iterator[Script]:
    """A process that is gone after the block."""
    running = Script(daemon, code, *arguments)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # also children that are left
        running.process.communicate()


@contextlib.contextmanager
def scripts(
    daemon: RunningDaemon, code: str, count: int, *arguments: str
) -> Iterator[list[Script]]:
    """Several of them; each gets its number as its first argument."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(script(daemon, code, str(number), *arguments))
            for number in range(count)
        ]


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
