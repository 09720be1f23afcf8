"""Ends that a shell has to see as what they are.

A shell script stops its loop at Ctrl-C only if the command died of the signal: an exit code of 130
looks like a command that has dealt with it.
"""

from __future__ import annotations

import os
import signal

from atmost.cli import output


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
