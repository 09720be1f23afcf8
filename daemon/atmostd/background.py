"""A daemon that was started by a command or a client: its way into the background, and its first word.

Rule 1: it goes before anything else is made: no file, no thread, no loop is carried over the fork.
Rule 2: who started it hears one line on the descriptor it was given, or sees that closed: READY when the
daemon listens, else why it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal

READY = "ready"
TAKEN = "taken"  # another daemon has the socket; the reason follows
FAILED = "failed"  # any other reason follows


def go() -> None:
    """Return in a child of init: it has no terminal, no folder is kept busy by it, and no signal that
    was blocked by who started it is lost on it."""
    if os.fork():
        os._exit(0)
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Starter:
    """Who waits for this daemon to be ready: at the other end of a pipe, or nobody (None)."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def tell(self, word: str, reason: str = "") -> None:
        """The first word; after it there is nobody who listens."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # it has not waited
                os.write(descriptor, f"{word} {reason}".rstrip().encode() + b"\n")
            with contextlib.suppress(OSError):
                os.close(descriptor)


def descriptor(text: str) -> int:
    """--ready-fd"""
    try:
        number = int(text)
        os.fstat(number)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no open descriptor") from None
    return number
