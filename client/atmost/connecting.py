"""Which daemon a new session takes, and why not: the first socket that answers, if its owner is right.

Rule: a daemon that is there is not replaced by another one. In the moment of its restart, its socket
refuses, or breaks the handshake off: then the clients try again (reconnecting.FirstTries).
"""

from __future__ import annotations

import os
import shlex
import socket
import stat
import struct
from collections.abc import Callable
from typing import TypeVar

from atmost.errors import DaemonUnavailable
from atmost.exchange import HELLO_SECONDS
from atmost.paths import OF_THE_SYSTEM, SYSTEM_UNIT_DIRS, SocketPath, installed_unit, user_unit_dirs

T = TypeVar("T")

_MAY_NOT = "this user may not connect to it"
HANG_UPS_MAX = 5  # of daemons at a default place; then it is no daemon that leaves

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class Coming(Exception):
    """The cause of a DaemonUnavailable, when what was there refused: perhaps a daemon that is just
    about to come."""


class HungUp(Exception):
    """The cause of a DaemonUnavailable, when what was there hung up before its welcome: perhaps a
    daemon that was just leaving."""


class ForeignSocket(OSError):
    """Somebody else listens where only this user's own daemon, or root's, may be."""

    def __init__(self, uid: int) -> None:
        super().__init__(
            0,
            f"it is of another user ({user_name(uid)}), who could let anybody through; "
            "if that is wanted, name it in ATMOST_SOCKET",
        )


def first_that_answers(
    paths: list[SocketPath], connect: Callable[[SocketPath], T]
) -> tuple[T, SocketPath]:
    """What `connect` gives for the first of these sockets that answers. Raises DaemonUnavailable."""
    tried = []
    coming = False
    for at in paths:
        try:
            return connect(at), at
        except OSError as error:
            tried.append((at, why_not_connected(error)))
            coming = coming or _may_come(at, error)
            if not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                break
    raise none_answers(tried) from (Coming() if coming else None)


def none_answers(tried: list[tuple[SocketPath, str]]) -> DaemonUnavailable:
    """No daemon answers at any of these paths, for these reasons."""
    first, reason = tried[0]
    for other, why in tried[1:]:
        reason += f"; nor at {other.path} ({other.source}): {why}"
    advice = next(filter(None, (next_step(at, why) for at, why in reversed(tried))), "")
    return DaemonUnavailable(first.path, first.source, reason, advice)


def unavailable(at: SocketPath, reason: str) -> DaemonUnavailable:
    """No daemon answers at this path."""
    return DaemonUnavailable(at.path, at.source, reason, next_step(at, reason))


def next_step(at: SocketPath, reason: str) -> str:
    """What to do next; empty: start one."""
    if reason.startswith(_MAY_NOT):
        return f"ask root to let you in; who may: ls -l {shlex.quote(at.path)}"
    folders: tuple[str, ...] = ()
    of_user = ""
    if at.source == OF_THE_SYSTEM:
        folders = SYSTEM_UNIT_DIRS
    elif at.is_own:
        folders, of_user = user_unit_dirs(), "--user "
    unit = installed_unit(folders)
    return f"it is a service: systemctl {of_user}status {os.path.basename(unit)}" if unit else ""


def why_not_connected(error: Exception) -> str:
    """The reason in words that help."""
    match error:
        case FileNotFoundError():
            return "there is no such socket"
        case ConnectionRefusedError():
            return "nobody listens there, or it is no socket"
        case PermissionError():
            return _MAY_NOT
        case TimeoutError():
            return f"no answer within {HELLO_SECONDS:g} s"
        case BlockingIOError():
            return "too many connections wait there to be accepted"
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error) or type(error).__name__


def hung_up(at: SocketPath) -> DaemonUnavailable:
    """It closed the connection before its welcome."""
    error = unavailable(at, "the daemon closed the connection")
    error.__cause__ = HungUp()
    return error


def was_leaving(error: BaseException) -> bool:
    """Whether a daemon may have gone in the very moment in which we came."""
    return isinstance(error, DaemonUnavailable) and isinstance(
        error.__cause__, HungUp | ConnectionResetError | BrokenPipeError
    )


def may_come(error: DaemonUnavailable) -> bool:
    """Whether a next try, in a moment, may find a daemon."""
    return was_leaving(error) or isinstance(error.__cause__, Coming)


def started_or_not(error: DaemonUnavailable, none: DaemonUnavailable) -> DaemonUnavailable:
    """`error`: none could be started, after `none`. One may come all the same."""
    if error.__cause__ is None:
        error.__cause__ = none.__cause__
    return error


def check_owner(at: SocketPath, connected: socket.socket) -> None:
    """Raises ForeignSocket. In /tmp anybody can make what a user's client looks for there."""
    if not at.is_own:
        return
    uid = _listener(connected)
    if uid not in (os.geteuid(), 0):
        raise ForeignSocket(uid)


def _listener(connected: socket.socket) -> int:
    """The user who listens at the other end."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    return int(uid)


def user_name(uid: int) -> str:
    """For people; the number, if it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _may_come(at: SocketPath, error: OSError) -> bool:
    """Whether a daemon that restarts looks so."""
    if isinstance(error, BlockingIOError):  # it is there, and all its clients have come at once
        return True
    if not isinstance(error, ConnectionRefusedError):
        return False
    try:
        return stat.S_ISSOCK(os.stat(at.path).st_mode)
    except OSError:
        return True  # gone in this moment
