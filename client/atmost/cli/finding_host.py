"""Findings about the host: folders, disks, bounds of the system, the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import socket
import stat
from collections.abc import Iterator

from atmost import paths
from atmost.cli.finding import Finding, Scene

DISK_BYTES_MIN = 16 * 1024 * 1024  # state and journal of some thousand limits, twice
DISK_FILES_MIN = 16
DESCRIPTORS_MIN = 4096  # two for each client, and some of the daemon's own
KERNEL_MIN = (5, 3)  # the first with pidfd_open(2)
SO_PEERPIDFD = 77  # linux/socket.h, since 6.5

_RELEASE = re.compile(r"(\d+)\.(\d+)")


def folders(scene: Scene) -> Iterator[Finding]:
    """Who else could put another socket in place of ours, or read what we keep."""
    for folder in {os.path.dirname(place.at.path): None for place in scene.places}:
        yield from _folder("socket_folder", folder)
    for folder in _of_daemon(scene):
        yield from _folder("daemon_folder", folder, _user_of_daemon(scene))


def _user_of_daemon(scene: Scene) -> int:
    """The daemon's uid, for a service has a user of its own; root's, if none runs."""
    if scene.used and scene.used.status:
        with contextlib.suppress(OSError):  # it is gone, or hidden from us
            return os.stat(f"/proc/{scene.used.status.pid}").st_uid
        with contextlib.suppress(OSError):
            return os.stat(scene.used.at.path).st_uid
    return 0


def _folder(name: str, folder: str, owner: int = 0) -> Iterator[Finding]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = os.stat(folder)
        path = shlex.quote(folder)
        if found.st_uid not in (0, owner, os.geteuid()) and os.geteuid():
            yield Finding(
                name, True, f"{folder} belongs to uid {found.st_uid}, who can replace what is in it",
                f"have root move it away: mv {path} {path}.old",
            )  # fmt: skip
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            yield Finding(
                name, True, f"others may write to {folder}, and replace what is in it",
                f"chmod go-w {path}",
            )  # fmt: skip


def disk(scene: Scene) -> Iterator[Finding]:
    """A daemon that cannot write enforces its limits, but refuses changes, and cannot start again."""
    for folder in _of_daemon(scene):
        at = _there(folder)
        found = os.statvfs(at)
        path = shlex.quote(at)
        if found.f_flag & os.ST_RDONLY:
            yield Finding(
                "disk_read_only", True, f"{folder} cannot be written: it is on a file system that is "
                "read-only", f"findmnt -T {path}; and as root: mount -o remount,rw",
            )  # fmt: skip
        elif found.f_bavail * found.f_frsize < DISK_BYTES_MIN or (
            found.f_files > 0 and (found.f_favail < DISK_FILES_MIN)
        ):
            free = found.f_bavail * found.f_frsize // 1024
            yield Finding(
                "disk_full", True, f"{folder} is on a disk that is nearly full: {free} KiB and "
                f"{found.f_favail} files are left", f"make room; see: df -h {path}; df -i {path}",
            )  # fmt: skip
        elif at == folder and not scene.used and not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(
                "not_writable", True, f"you may not write to {folder}, where your daemon would keep "
                "its files", f"ls -ld {path}",
            )  # fmt: skip


def descriptors(scene: Scene) -> Iterator[Finding]:
    """How many clients the daemon can have."""
    if scene.used is None or scene.used.status is None:
        return
    pid = scene.used.status.pid
    with open(f"/proc/{pid}/limits") as limits:
        found = re.search(r"^Max open files +\S+ +(\d+)", limits.read(), re.MULTILINE)
    if found and int(found[1]) < DESCRIPTORS_MIN:
        yield Finding(
            "few_descriptors", False, f"the daemon (pid {pid}) may have {found[1]} file descriptors, "
            "and each client takes two", "raise LimitNOFILE= of its service, or: ulimit -Hn; then: "
            "atmost daemon restart",
        )  # fmt: skip


def kernel(scene: Scene) -> Iterator[Finding]:
    """What the promise rests on: the kernel says when a process dies."""
    release = os.uname().release
    version = _RELEASE.match(release)
    if version and (int(version[1]), int(version[2])) < KERNEL_MIN:
        yield Finding(
            "kernel", True, f"Linux {release} cannot say when a process dies",
            f"it takes Linux {KERNEL_MIN[0]}.{KERNEL_MIN[1]} or later",
        )  # fmt: skip
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        yield Finding(
            "kernel", True, f"pidfd_open(2) is refused here: {error.strerror}; so the daemon cannot see "
            "when a process dies", "allow it in the seccomp profile of this container",
        )  # fmt: skip
        return
    if not _has_peerpidfd():
        yield Finding(
            "kernel", False, f"Linux {release} has no SO_PEERPIDFD: a process that dies as it connects "
            "could be taken for another of the same pid", "Linux 6.5 or later has it",
        )  # fmt: skip


def _has_peerpidfd() -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
        except OSError as error:
            return error.errno != errno.ENOPROTOOPT
    return True


def _of_daemon(scene: Scene) -> list[str]:
    """The folders of the daemon that is used, or of the one that would be started."""
    if scene.used and scene.used.status:
        found = [scene.used.status.state_dir, scene.used.status.runtime_dir]
    elif os.geteuid() == 0:
        found = [paths.SYSTEM_STATE_DIR, paths.SYSTEM_RUNTIME_DIR]
    else:
        found = [paths.user_state_dir(), paths.user_runtime_dir()]
    return list(dict.fromkeys(found))


def _there(folder: str) -> str:
    """The folder, or the nearest one above it that is there."""
    while not os.path.exists(folder) and folder != "/":
        folder = os.path.dirname(folder)
    return folder
