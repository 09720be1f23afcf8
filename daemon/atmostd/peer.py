"""The process at the other end of a connection, in the kernel's words: which it is, and what it may."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from functools import cache

_SO_PEERPIDFD = 77  # linux/socket.h, since 6.5; the socket module does not name it
_SO_PEERGROUPS = 59  # the same, since 4.13
_GROUPS_BYTES_MAX = 1024  # more Python does not ask for: 256 supplementary groups
_GID = struct.Struct("I")
_PEERCRED = struct.Struct("3i")  # pid, uid, gid
_FLAGS = 6  # proc_pid_stat(5): field 9, counted in the same way
_PF_EXITING = 0x4  # linux/sched.h: set before a process that ends closes its files
_STARTTIME = 19  # proc_pid_stat(5): field 22, counted from the one behind the name


@cache
def inodes_are_unique() -> bool:
    """Whether this kernel gives each process a pidfd inode of its own, once and for all (Linux 6.9: since
    then they are files of a file system of their own; before, all were the same anonymous inode)."""
    pidfd, other = os.pidfd_open(os.getpid()), os.eventfd(0)
    try:
        return os.fstat(pidfd).st_dev != os.fstat(other).st_dev
    finally:
        os.close(pidfd)
        os.close(other)


def can_tell_processes_apart() -> bool:
    """Whether a process is never taken for a dead one whose pid it got."""
    return inodes_are_unique() or _started(1) > 0


class Peer:
    """A process that can be told from every other one, also from a later one of the same pid.

    pid: 0 if it is of another pid namespace; uid; pidfd: becomes readable when the process dies;
    started: when that was, in clock ticks since boot, 0 if it is not to be seen; inode: of the pidfd,
    unique since Linux 6.9.
    """

    __slots__ = ("inode", "pid", "pidfd", "started", "uid")

    def __init__(self, pid: int, uid: int, pidfd: int) -> None:
        self.pid = pid
        self.uid = uid
        self.pidfd = pidfd
        self.started = _started(pid)
        self.inode = os.fstat(pidfd).st_ino

    def is_same(self, other: Peer) -> bool:
        """Whether this is the very same process."""
        return self.pid == other.pid and self.was(other.started, other.inode)

    def was(self, started: int, inode: int) -> bool:
        """Whether this process of the same pid is the one that was recorded so."""
        if self.inode != inode:
            return False
        not_seen = 0 in (self.started, started)  # by one of two daemons: ProtectProc= of a service
        return self.started == started or (not_seen and inodes_are_unique())

    def is_ending(self) -> bool:
        """Whether it ends or has ended. The pidfd tells that a moment later than the end of the
        connection does. False if it is not to be seen."""
        if not self.started:
            return False
        stat = _stat(self.pid)
        return stat is None or bool(int(stat[_FLAGS]) & _PF_EXITING)

    def close(self) -> None:
        os.close(self.pidfd)


class Processes:
    """How the daemon comes to know processes."""

    def at(self, connection: socket.socket) -> Peer:
        """Who made this connection. Raises ProcessLookupError if it has died already."""
        pid, uid, _ = credentials(connection)
        try:
            pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise ProcessLookupError from error
            pidfd = os.pidfd_open(pid)  # a kernel before 6.5
        return Peer(pid, uid, pidfd)

    def again(self, pid: int, uid: int, started: int, inode: int) -> Peer | None:
        """The process that was recorded so; None if it has died."""
        try:
            found = Peer(pid, uid, os.pidfd_open(pid))
        except OSError:  # also pid 0: of another pid namespace, where we cannot look
            return None
        if found.was(started, inode):
            return found
        found.close()
        return None


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """pid (0 if it is of another pid namespace), uid and gid of who made this connection, as they were
    then."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    pid, uid, gid = _PEERCRED.unpack(told)
    return pid, uid, gid


class Admins:
    """Who may change limits: root, the daemon's own user, and the members of a group if one is named."""

    def __init__(self, gid: int | None) -> None:
        self.gid = gid  # of the group; a reload may change it, for connections made later
        self._uids = (0, os.geteuid())

    def include(self, connection: socket.socket) -> bool:
        """Whether who made this connection is one of them."""
        _, uid, gid = credentials(connection)
        if uid in self._uids:
            return True
        return self.gid is not None and (gid == self.gid or self.gid in groups(connection))


def groups(connection: socket.socket) -> set[int]:
    """The supplementary groups of who made this connection; none if they are more than 256."""
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError:
        return set()
    return {gid for (gid,) in _GID.iter_unpack(told)}


def _started(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[_STARTTIME]) if stat is not None else 0


def _stat(pid: int) -> list[bytes] | None:
    """The fields behind the process's name; None if there is no such process to be seen."""
    with (
        contextlib.suppress(OSError, LookupError, ValueError),
        open(f"/proc/{pid}/stat", "rb") as f,
    ):
        return f.read().rpartition(b")")[2].split()
    return None
