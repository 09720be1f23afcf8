"""The whole terminal for a while: another screen, keys one by one, and everything put back at the end.

Rule 1: whatever ends the block (a key, an exception, a signal that asks to end), the terminal is then
as it was. Ctrl-Z gives it back for as long as the shell has it.
Rule 2: plain escape sequences that every terminal of today knows; no terminfo.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any

from atmost.cli.keys import Keys

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no line goes on in the next
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l\x1b[0m"
_HOME, _REST, _LINE_REST = "\x1b[H", "\x1b[J", "\x1b[K"

ESCAPE_SECONDS = 0.05  # until what begins like a sequence, and does not go on, was the escape key


def is_terminal() -> bool:
    """Whether both ends are one that can be drawn on."""
    ends = (sys.stdin, sys.stdout)
    return os.environ.get("TERM", "dumb") != "dumb" and all(
        end is not None and end.isatty() for end in ends
    )


class Screen:
    """A context manager. Raises OSError if the terminal goes away."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._typed = Keys()

    def __enter__(self) -> Screen:
        self._before = termios.tcgetattr(self._keys)
        for number, handler in (
            (signal.SIGWINCH, self._look_again),
            (signal.SIGCONT, self._come_back),
            (signal.SIGTSTP, self._stop),
            (signal.SIGTERM, _end),
            (signal.SIGHUP, _end),
        ):
            self._handlers[number] = signal.signal(number, handler)
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError, termios.error):
            self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._waker)

    def size(self) -> tuple[int, int]:
        """Columns and rows, as they are now."""
        columns, rows = os.get_terminal_size(self._out)
        return columns or 80, rows or 24

    def draw(self, lines: list[str]) -> None:
        """Show these lines, and nothing else, in one write."""
        # Each is erased before it is written: behind its last column, that would take the last character.
        text = _HOME + "\r\n".join(f"{_LINE_REST}{line}" for line in lines)
        if len(lines) < self.size()[1]:
            text += f"\r\n{_REST}"
        self._write(text)

    def keys(self, seconds: float | None) -> list[str]:
        """What was typed: names, or characters. Waits so long for the first (None: for ever), or until
        the terminal has changed."""
        if not self._wait(seconds):
            return []
        keys = self._read()
        while self._typed.unfinished:
            if not self._wait(ESCAPE_SECONDS):
                return keys + self._typed.finish()
            keys += self._read()
        return keys

    def _wait(self, seconds: float | None) -> bool:
        """Whether there is something to read."""
        ready, _, _ = select.select([self._keys, self._wake], [], [], seconds)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        return self._keys in ready

    def _read(self) -> list[str]:
        data = os.read(self._keys, 1024)
        if not data:
            raise OSError("the terminal is gone")
        return self._typed.feed(data)

    def _take(self) -> None:
        tty.setcbreak(self._keys)  # Ctrl-C and Ctrl-Z stay signals
        self._write(_ENTER)

    def _give_back(self) -> None:
        self._write(_LEAVE)
        termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:  # another program has left it so
                select.select([], [self._out], [])

    def _look_again(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b"!")

    def _come_back(self, number: int, frame: FrameType | None) -> None:
        """After a stop by SIGSTOP, say: the shell has had the terminal, and it is as it left it."""
        self._take()
        self._look_again(number, frame)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: stop as anybody does, with the terminal given back, and go on after `fg`."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # stops here
        signal.signal(signal.SIGTSTP, self._stop)
        self._before = termios.tcgetattr(self._keys)
        self._take()
        self._look_again(number, frame)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
