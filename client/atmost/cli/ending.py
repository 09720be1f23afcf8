"""Ends that a shell has to see as what they are.

A shell script stops its loop at Ctrl-C only if the command died of the signal: an exit code of 130
looks like a command that has dealt with it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from atmost.cli import output


class ReaderGone(BaseException):
    """Nobody reads stdout any more. Not an OSError: to a client, that would be a lost connection."""


def watch_reader() -> None:
    """Have ReaderGone raised in this, the main thread, when the reader goes: also if there is nothing
    to write, which is how others notice."""

    def gone(number: int, frame: FrameType | None) -> NoReturn:
        raise ReaderGone

    def look() -> None:
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll()):
            os.kill(os.getpid(), _READER_GONE)

    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors alone
    except (AttributeError, OSError):  # it is closed, or no file
        return
    signal.signal(_READER_GONE, gone)
    threading.Thread(target=look, daemon=True).start()


_READER_GONE = signal.SIGUSR2  # SIGPIPE is also that of sockets


def die_of_interrupt() -> int:
    """Ctrl-C: `$?` is 130."""
    return _die_of(signal.SIGINT)


def die_of_broken_pipe() -> int:
    """Nobody reads what is written: `$?` is 141."""
    output.give_up()
    return _die_of(signal.SIGPIPE)


def _die_of(number: signal.Signals) -> int:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # the signal is blocked
