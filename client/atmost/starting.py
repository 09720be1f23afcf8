"""Starting a daemon of a user's own, where there is none. Imported only when a connection failed.

Rule 1: never a second one: not where a path was named, nor beside a daemon of the system or one that
systemd looks after, even if that does not run. What root's first command starts is root's own, too.
Rule 2: who has the lock looks once more and then starts; all others wait for what it starts.
Rule 3: the daemon takes nothing of ours along: no descriptor, no folder, no terminal, no session.
Rule 4: all of it ends in time, and every error names the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import select
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from atmost import paths
from atmost.errors import DaemonUnavailable
from atmost.paths import SocketPath

T = TypeVar("T")

START_SECONDS = 15.0  # it takes 0.2; this is for a host under load
LOOK_SECONDS = 0.01  # between two looks whether what another process starts is there
IDLE_SECONDS = 900.0  # then a daemon that was started so leaves, if nobody is there
LOG_BYTES_MAX = 1024 * 1024  # at the start; a longer log becomes NAME.1
LINE_BYTES_MAX = 4096  # of what the daemon says first
LOCK_NAME = "start.lock"
PARTS = ("atmostd", "uvloop", "aiofiles")  # what a daemon needs to be installed
# What systemd tells a service of ours; a daemon that heard it would answer in its place.
OF_ANOTHER_SERVICE = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
)


class NotStarted(Exception):
    """Why there is none. `advice`: what to do next."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


def connect(
    tried: list[SocketPath], dial: Callable[[SocketPath], T], none: DaemonUnavailable
) -> tuple[T, SocketPath]:
    """What `dial` gives for a daemon that is started for that, at the last of the default places that
    were tried. `none`: why there is no other, which
    is raised, with a word more, if none may be started. Raises DaemonUnavailable."""
    for at in tried:
        try:
            return dial(at), at  # it has come meanwhile
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        except OSError:
            raise none from None  # somebody is there, and refuses us
    try:
        check_may_start()
    except NotStarted as why:
        raise DaemonUnavailable(
            none.path, none.source, f"{none.reason}; {why}", why.advice
        ) from None
    own = tried[-1]
    return started(own, dial, _options_by_itself()), own


def _options_by_itself() -> list[str]:
    """Of a daemon that nobody has asked for."""
    return ["--user", "--idle-seconds", f"{IDLE_SECONDS:g}"]


def start_again(at: SocketPath) -> None:
    """If the daemon of this user's own was killed, have another one run, once however many ask for
    that. Raises NotStarted or OSError: none may be started, or it failed."""
    check_may_start()
    deadline = time.monotonic() + START_SECONDS
    with _lock_file(at) as lock:
        while not _taken(lock):  # another process starts one
            if time.monotonic() >= deadline:
                return
            time.sleep(LOOK_SECONDS)
        if not _was_killed(at):
            return
        word, reason = _start(at, _options_by_itself(), deadline)
        if word not in ("ready", "taken"):
            raise NotStarted(reason)


def _was_killed(at: SocketPath) -> bool:
    """Whether there is a socket without a daemon: one that ends in order takes it away while it still
    has the lock."""
    try:
        lock = os.open(f"{at.path}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return stat.S_ISSOCK(os.lstat(at.path).st_mode)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def not_started(at: SocketPath, why: Exception) -> str:
    """In words, for who goes without."""
    reason = _told(why) if isinstance(why, OSError) else str(why) or type(why).__name__
    return f"none could be started again: {reason} (its log: {log_path(at)})"


def check_may_start() -> None:
    """Raises NotStarted if no daemon is to be started without a word from anybody."""
    check_unmanaged()
    if os.environ.get("ATMOST_AUTOSTART", "").lower() in ("0", "no", "off", "false"):
        raise NotStarted("none is started by itself, as ATMOST_AUTOSTART says")
    socket = f"{paths.SYSTEM_RUNTIME_DIR}/{paths.SOCKET_NAME}"
    try:
        os.lstat(socket)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise NotStarted(f"and {socket} cannot be looked at: {error.strerror}") from None
    raise NotStarted(
        "a daemon of the system was there, so none of your own is started",
        f"have root start it again, or remove {socket} if it is gone for good",
    )


def check_unmanaged() -> None:
    """Raises NotStarted if systemd is to start it."""
    for folders, of_user in ((paths.SYSTEM_UNIT_DIRS, ""), (paths.user_unit_dirs(), "--user ")):
        unit = paths.installed_unit(folders)
        if unit is not None:
            raise NotStarted(
                f"it is a service of systemd ({unit}) and does not run",
                f"start it with: systemctl {of_user}start {os.path.basename(unit)}",
            )


def started(at: SocketPath, dial: Callable[[SocketPath], T], options: list[str]) -> T:
    """What `dial` gives for the daemon at this path, which is started with these options if there is
    none. Raises DaemonUnavailable."""
    log = log_path(at)
    try:
        with _lock_file(at) as lock:
            return _dial_or_start(at, dial, options, lock)
    except NotStarted as why:
        reason = f"none could be started: {why} (its log: {log})"
        raise DaemonUnavailable(at.path, at.source, reason, why.advice) from None
    except OSError as error:
        reason = f"none could be started: {_told(error)} (its log: {log})"
        raise DaemonUnavailable(at.path, at.source, reason) from error


def log_path(at: SocketPath) -> str:
    """Where a daemon logs to that this user starts at this path."""
    if _of_system(at):
        return f"{paths.SYSTEM_STATE_DIR}/{paths.LOG_NAME}"
    return paths.user_log()


def _of_system(at: SocketPath) -> bool:
    """Whether it is the system's, since root starts it at no place of root's own."""
    return os.geteuid() == 0 and os.path.dirname(at.path) != paths.user_runtime_dir()


def _dial_or_start(
    at: SocketPath, dial: Callable[[SocketPath], T], options: list[str], lock: int
) -> T:
    deadline = time.monotonic() + START_SECONDS
    mine = False
    why = "another process was to start it, and it is not there"
    while True:
        try:
            return dial(at)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        if time.monotonic() >= deadline:
            raise NotStarted(f"{why}; not within {START_SECONDS:g} s")
        if mine:
            word, reason = _start(at, options, deadline)
            if word == "ready":
                continue  # unless it has left again
            if word != "taken":
                raise NotStarted(reason)
            why = reason  # by one that is just coming or leaving
        elif _taken(lock):
            mine = True
            continue  # to look once more
        time.sleep(LOOK_SECONDS)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _lock_file(at: SocketPath) -> Iterator[int]:
    folder = os.path.dirname(at.path)
    _own_folder(folder, 0o755 if _of_system(at) else 0o700)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(os.path.join(folder, LOCK_NAME), flags, 0o600)
    try:
        yield lock
    finally:
        # A child that was forked meanwhile, by another thread, has a copy of it.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _own_folder(folder: str, mode: int) -> None:
    """Make it, so that it survives a power cut. Raises NotStarted if it is
    somebody else's, who could put another socket in place of ours."""
    if not os.path.isabs(folder):
        raise NotStarted(f"this user has no home: {folder}", "set HOME, or XDG_STATE_HOME")
    made = []
    path = folder
    while not os.path.lexists(path):
        made.append(os.path.dirname(path))
        path = os.path.dirname(path)
    os.makedirs(folder, mode=mode, exist_ok=True)
    for path in made:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for found in (os.lstat(folder), os.stat(folder)):
        if found.st_uid not in (0, os.geteuid()):
            raise NotStarted(
                f"the folder {folder} belongs to uid {found.st_uid}", "have that moved away"
            )
        if not (stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise NotStarted(f"{folder} is no folder", "move it away")


def _start(at: SocketPath, options: list[str], deadline: float) -> tuple[str, str]:
    """Start one. Returns its first word, and what came behind that. Raises NotStarted or OSError."""
    command = daemon_command()
    log = _open_log(log_path(at))
    begins = os.fstat(log).st_size
    ours, theirs = os.pipe()
    process = None
    try:
        process = subprocess.Popen(
            [*command, "--socket", at.path, *options, "--detach", "--ready-fd", str(theirs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={k: v for k, v in os.environ.items() if k not in OF_ANOTHER_SERVICE},
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        theirs = -1
        word, _, reason = _line(ours, deadline).partition(" ")
        if not word:
            return "", _last_line(log, begins) or "it has ended without a word"
        return word, reason
    finally:
        for descriptor in (ours, theirs, log):
            if descriptor >= 0:
                os.close(descriptor)
        if process is not None:
            process.kill()  # what has gone to the background is no child of ours
            process.wait()


def daemon_command() -> list[str]:
    """The command that runs a daemon of this installation. Raises NotStarted if there is none."""
    missing = [part for part in PARTS if importlib.util.find_spec(part) is None]
    if missing:
        raise NotStarted(
            f"{' and '.join(missing)} is not installed for {sys.executable}",
            "install it with: pip install 'atmost[daemon]'",
        )
    if re.match(r"(python|pypy)", os.path.basename(sys.executable or "")):
        return [sys.executable, "-P", "-m", "atmostd"]
    found = shutil.which("atmostd")  # Python is part of another program
    if found is None:
        raise NotStarted(
            "there is no command atmostd", "install it with: pipx install 'atmost[daemon]'"
        )
    return [found]


def _open_log(path: str) -> int:
    _own_folder(os.path.dirname(path), 0o700)
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_size > LOG_BYTES_MAX:
            os.replace(path, f"{path}.1")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def _line(descriptor: int, deadline: float) -> str:
    """The line that comes, or what there is of it when the other end is closed."""
    data = b""
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while not data.endswith(b"\n") and len(data) < LINE_BYTES_MAX:
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise NotStarted(f"it did not say within {START_SECONDS:g} s that it listens")
        if not (more := os.read(descriptor, LINE_BYTES_MAX)):
            break
        data += more
    return data.decode("utf-8", "replace").strip()


def _last_line(log: int, begins: int) -> str:
    """Of what was logged since then."""
    size = os.fstat(log).st_size
    begins = max(begins, size - LINE_BYTES_MAX)
    lines = os.pread(log, size - begins, begins).decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("atmostd: ") if said else ""


def _told(error: OSError) -> str:
    path = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return path + (error.strerror or str(error))
