"""daemon start, stop, restart, status and run.

Rule 1: each is about a state, not about a step: start where one runs, or stop where none does, is done.
Rule 2: what systemd looks after is left to it: it would start again what we stop.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
from argparse import Namespace
from collections.abc import Iterator
from typing import NamedTuple

from atmost.cli import output
from atmost.cli import status as reporting
from atmost.cli.parser import Command, Parser, json_option
from atmost.errors import AtmostError, DaemonUnavailable
from atmost.paths import SocketPath, socket_paths
from atmost.sync import Client
from atmost.wire import DaemonStatus

EXIT_FAILED = 1
STOP_SECONDS = 20.0  # a daemon gives its clients a second, and its disk has to answer

_UNIT = re.compile(rb"/(atmostd[^/\n]*\.service)$", re.MULTILINE)
_FLAGS = ("--detach", "--user")  # options of the daemon that take no value
_PEERCRED = struct.Struct("3i")


class Running(NamedTuple):
    """A daemon that listens."""

    at: SocketPath
    pid: int
    status: DaemonStatus | None  # None: it gives no answer
    unit: str  # of systemd, with --user if it is the user's; empty: nobody looks after it

    def __str__(self) -> str:
        return f"pid {self.pid}, on {self.at.path} ({self.at.source})"


def start(given: Namespace) -> int:
    """Have a daemon run."""
    found = _running(given.socket)
    if found is not None:
        output.talk(f"a daemon runs already: {found}")
        return 0
    return _start(given)


def stop(given: Namespace) -> int:
    """Have none run."""
    found = _running(given.socket)
    if found is None:
        output.talk("no daemon runs")
        return 0
    return _stop(found)


def restart(given: Namespace) -> int:
    """Have another one run."""
    found = _running(given.socket)
    if found is not None:
        if found.unit:
            return _leave_to_systemd("restart", found)
        given.behind = given.behind or _options_of(found)
        if code := _stop(found):
            return code
    return _start(given, found.at if found is not None else None)


def run(given: Namespace) -> int:
    """Become a daemon."""
    from atmost import starting

    found = _running(given.socket)
    if found is not None:
        output.talk(f"a daemon runs already: {found}")
        return EXIT_FAILED
    try:
        command = starting.daemon_command()
    except starting.NotStarted as why:
        output.talk(f"{why}; {why.advice}")
        return EXIT_FAILED
    output.flush()
    os.execv(command[0], [*command, *_socket_option(given.socket), *given.behind])


# Starting and stopping


def _start(given: Namespace, where: SocketPath | None = None) -> int:
    from atmost import starting

    place = where or _place(given.socket)
    try:
        if place.source.startswith("default"):
            starting.check_unmanaged()
    except starting.NotStarted as why:
        raise DaemonUnavailable(place.path, place.source, str(why), why.advice) from None
    starting.started(place, _dial, given.behind)
    found = _running(given.socket)
    if found is None:
        output.talk(f"it has ended already; see {starting.log_path(place)}")
        return EXIT_FAILED
    output.talk(f"started: {found}; its log: {starting.log_path(place)}")
    return 0


def _stop(found: Running) -> int:
    if found.unit:
        return _leave_to_systemd("stop", found)
    try:
        with _process(found.pid) as pidfd:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            waiting = select.poll()
            waiting.register(pidfd, select.POLLIN)
            if not waiting.poll(STOP_SECONDS * 1000):
                output.talk(
                    f"pid {found.pid} was told to stop and has not within {STOP_SECONDS:g} s; "
                    f"end it with: kill -9 {found.pid}  (nothing is lost by that)"
                )
                return EXIT_FAILED
    except ProcessLookupError:
        pass  # it has gone by itself
    except PermissionError:
        output.talk(
            f"the daemon (pid {found.pid}) is not yours to stop: ask root, or the user who runs it"
        )
        return EXIT_FAILED
    output.talk(f"stopped: pid {found.pid}")
    return 0


def _leave_to_systemd(verb: str, found: Running) -> int:
    command = f"systemctl {verb} {found.unit}".replace(f"{verb} --user", f"--user {verb}")
    output.talk(f"systemd looks after pid {found.pid}; {verb} it with: {command}")
    return EXIT_FAILED


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


# Finding


def _running(given: str | None) -> Running | None:
    """The daemon that a client of this user would reach, also one that gives no answer."""
    try:
        with Client(given, _start=False) as client:
            status = client.status()
        at = next((at for at in socket_paths(given) if _is_same(at.path, status.socket)), None)
        at = at or SocketPath(status.socket, "as it says")
        return Running(at, status.pid, status, unit_of(status.pid))
    except AtmostError as error:
        at = reporting.listening(given)
        if at is None:
            if isinstance(error, DaemonUnavailable):
                return None
            raise
        pid = _listener(at.path)
        if pid is None or not _is_daemon(pid):
            raise
        return Running(at, pid, None, unit_of(pid))


def _is_daemon(pid: int) -> bool:
    """Whether this is one of ours. Of a socket that systemd listens on, the kernel names systemd, or
    whoever had it last, dead or alive."""
    with contextlib.suppress(OSError):
        return bool(_words_of_daemon(pid))
    return False


def _options_of(found: Running) -> list[str]:
    """What this daemon was started with, but for how and where: a restart is to change nothing."""
    return kept_options(_words_of_daemon(found.pid)[1:], found.status)


def _words_of_daemon(pid: int) -> list[str]:
    """Its command line, from its name on; empty if it is no daemon. Raises OSError."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    names = [at for at, word in enumerate(words) if os.path.basename(word) == "atmostd"]
    return words[names[0] :] if names else []


def kept_options(words: list[str], status: DaemonStatus | None) -> list[str]:
    """Of these options those for the next daemon. Folders are as the daemon itself tells them: it may
    have been started elsewhere."""
    folders = {}
    if status is not None:
        folders = {"--state-dir": status.state_dir, "--runtime-dir": status.runtime_dir}
    kept = []
    left = iter(words)
    for word in left:
        name, divided, value = word.partition("=")
        if word in _FLAGS:
            kept += [word] if word != "--detach" else []
            continue
        if not divided:
            value = next(left, "")
        if name not in ("--socket", "--ready-fd"):
            kept.append(f"{name}={folders.get(name, value)}")
    return kept


def _is_same(path: str, other: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(path, other)
    return path == other


def unit_of(pid: int) -> str:
    """The service of systemd that this process is the main part of, as systemctl takes it; empty if
    it is none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", "rb") as groups:
        return unit_in(groups.read())
    return ""


def unit_in(groups: bytes) -> str:
    """The same, of the text of /proc/PID/cgroup."""
    found = _UNIT.search(groups)
    if found is None:
        return ""
    name = found[1].decode("ascii", "replace")
    return f"--user {name}" if b"/user@" in groups else name


def _listener(path: str) -> int | None:
    """The process that began to listen there, by the kernel's word."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        probe.connect(path)
        told = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        pid: int = _PEERCRED.unpack(told)[0]
        return pid if pid > 1 else None  # systemd's own, if it is activated by its socket
    return None


def _place(given: str | None) -> SocketPath:
    """Where a daemon listens that this user starts."""
    places = socket_paths(given)
    return places[0] if os.geteuid() == 0 else places[-1]


def _socket_option(given: str | None) -> list[str]:
    place = _place(given)
    return [] if place.source.startswith("default") else ["--socket", place.path]


def _dial(at: SocketPath) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(STOP_SECONDS)
        probe.connect(at.path)


# Arguments


def _options(of: Parser) -> None:
    of.set_defaults(behind=[])


_ALSO = """

What stands behind `--` goes to the daemon: see `atmostd --help`."""

COMMANDS = {
    "daemon start": Command(
        "[-- OPTION...]",
        "Start a daemon in the background, and return when it listens; one that runs already is fine.\n"
        "A user's first command does that by itself, unless ATMOST_AUTOSTART=0; such a daemon leaves\n"
        "when nobody was there for a quarter of an hour, this one stays. Root's is the system's."
        + _ALSO,
        _options,
        start,
        takes_rest=True,
    ),
    "daemon stop": Command(
        "",
        "Stop the daemon, and return when it is gone; none there is fine. Who holds slots keeps them,\n"
        "and who waits keeps the place, until the next daemon.",
        _options,
        stop,
    ),
    "daemon restart": Command(
        "[-- OPTION...]",
        "Stop the daemon if one runs, and start one. Holders and waiters notice nothing but a pause."
        + _ALSO,
        _options,
        restart,
        takes_rest=True,
    ),
    "daemon status": Command(
        reporting.COMMANDS["status"].usage,
        reporting.COMMANDS["status"].about,
        json_option,
        reporting.status,
    ),
    "daemon run": Command(
        "[-- OPTION...]",
        "Run a daemon here, in the foreground, until Ctrl-C; exit code 1 if one runs already."
        + _ALSO,
        _options,
        run,
        takes_rest=True,
    ),
}
