"""Runs a command and counts its system calls, in all of its threads.

It needs no package, no root, and no C compiler: a parent may always trace its own child (ptrace(2)).
usage: python -m tests.work.calls COUNTS.json COMMAND ARGUMENT...; exit code: the command's
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

TRACEME, SETOPTIONS, SYSCALL, SYSCALL_INFO = 0, 0x4200, 24, 0x420E
SYSGOOD, CLONE, EXITKILL = 1, 8, 0x100000
WALL = 0x40000000  # also children that are threads
AT_A_CALL = signal.SIGTRAP | 0x80
ENTRY = 1
INFO_BYTES, NUMBER_AT = 88, 24

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    """Raises ProcessLookupError if the thread has ended meanwhile."""
    if libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def count(command: list[str]) -> tuple[Counter[int], int]:
    """Its calls by their numbers, and its exit code."""
    child = os.fork()
    if child == 0:
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execvp(command[0], command)
    os.waitpid(child, 0)
    ptrace(SETOPTIONS, child, 0, SYSGOOD | CLONE | EXITKILL)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    found: Counter[int] = Counter()
    info = ctypes.create_string_buffer(INFO_BYTES)
    seen = {child}
    pid, with_signal = child, 0
    while True:
        with contextlib.suppress(ProcessLookupError):  # killed: its end is told by the next wait
            ptrace(SYSCALL, pid, 0, with_signal)
        pid, status = os.waitpid(-1, WALL)
        with_signal = 0
        while not os.WIFSTOPPED(status):
            if pid == child:
                return found, os.waitstatus_to_exitcode(status)
            pid, status = os.waitpid(-1, WALL)
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == AT_A_CALL:
            libc.ptrace(SYSCALL_INFO, pid, INFO_BYTES, ctypes.addressof(info))
            if info.raw[0] == ENTRY:
                found[int.from_bytes(info.raw[NUMBER_AT : NUMBER_AT + 8], sys.byteorder)] += 1
        elif pid not in seen:
            seen.add(pid)  # a new thread's first stop
        elif stopped_by != signal.SIGTRAP:
            with_signal = stopped_by


def main(out: str, *command: str) -> int:
    found, code = count(list(command))
    Path(out).write_text(json.dumps(found))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
