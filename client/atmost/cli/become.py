"""Becoming another program, as a shell does it: the same lookup, the same exit codes.

Rule: the program finds environment, signals and descriptors as `atmost` found them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from typing import NoReturn

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class CannotBecome(Exception):
    """The command cannot be run. `code`: what a shell says of that."""

    def __init__(self, command: str, code: int, reason: str) -> None:
        super().__init__(f"cannot run {command!r}: {reason}")
        self.code = code


def check(command: str) -> None:
    """Raises CannotBecome if it can be seen now that the command cannot be run."""
    found = None
    for path in _candidates(command):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return
        if found is None and os.path.exists(path):
            found = path
    if found is not None:
        raise _refused(command, found, errno.EISDIR if os.path.isdir(found) else errno.EACCES)
    raise CannotBecome(command, EXIT_NOT_FOUND, "command not found")


def become(argv: list[str]) -> NoReturn:
    """Become the command. Raises CannotBecome."""
    command = argv[0]
    environment = _environment()
    _restore_signals()
    failed: CannotBecome | None = None
    for path in _candidates(command):
        try:
            os.execve(path, argv, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                # POSIX, execvp: a file of an unknown format is a script for the shell.
                with contextlib.suppress(OSError):
                    os.execve("/bin/sh", ["sh", path, *argv[1:]], environment)
            # Without the path the command is not there; with it, the interpreter of its #! line.
            if failed is None and os.path.exists(path):
                failed = _refused(command, path, error.errno)
    raise failed or CannotBecome(command, EXIT_NOT_FOUND, "command not found")


def _candidates(command: str) -> Iterator[str]:
    """The files that the command may mean."""
    if "/" in command:
        yield command
    elif command:
        for folder in os.get_exec_path():
            yield os.path.join(folder, command)


def _refused(command: str, path: str, number: int | None) -> CannotBecome:
    reason = os.strerror(number) if number else "it is not accepted"
    return CannotBecome(command, EXIT_NOT_EXECUTABLE, f"{path}: {reason}")


def _environment() -> dict[bytes, bytes]:
    """Ours as it was: where no locale is set, Python sets LC_CTYPE for itself (PEP 538)."""
    environment = dict(os.environb)
    if b"LC_CTYPE" in environment:
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as original:
            if not any(entry.startswith(b"LC_CTYPE=") for entry in original.read().split(b"\0")):
                del environment[b"LC_CTYPE"]
    return environment


def _restore_signals() -> None:
    """Python ignores two, which exec would hand on, and turns Ctrl-C into an exception."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
