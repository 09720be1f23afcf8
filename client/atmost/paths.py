"""Where things lie: the one rule by which clients and the daemon find each other.

The socket: the caller's, then $ATMOST_SOCKET, then the system's, then the user's own. Only the last
two are looked for; a path that somebody named is the one that is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SOCKET_NAME = "atmost.sock"
SYSTEM_RUNTIME_DIR = "/run/atmost"
SYSTEM_STATE_DIR = "/var/lib/atmost"
UNIT_NAMES = ("atmostd.service", "atmostd.socket")
SYSTEM_UNIT_DIRS = (  # systemd.unit(5)
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
LOG_NAME = "atmostd.log"
SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7), less its NUL


OF_THE_SYSTEM = "default, of the system"
OF_THE_USER = "default, of the user"


class SocketPath(NamedTuple):
    """A socket to try, and where that path came from, in words for an error."""

    path: str
    source: str

    @property
    def is_own(self) -> bool:
        """Whether only this user's own daemon is looked for here, or root's."""
        return self.source == OF_THE_USER


def socket_paths(
    given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ
) -> list[SocketPath]:
    """The sockets to try, in order: one if it was named, else the system's and the user's."""
    if given is not None:
        return [SocketPath(absolute(os.fspath(given)), "given")]
    named = environ.get("ATMOST_SOCKET")
    if named:
        return [SocketPath(absolute(named), "from ATMOST_SOCKET")]
    return [
        SocketPath(f"{SYSTEM_RUNTIME_DIR}/{SOCKET_NAME}", OF_THE_SYSTEM),
        SocketPath(f"{user_runtime_dir(environ)}/{SOCKET_NAME}", OF_THE_USER),
    ]


def absolute(path: str) -> str:
    """The same socket after a change of the folder. As it was, if that would be too long for one."""
    if os.path.isabs(path) or path.startswith("\0"):
        return path
    try:
        whole = os.path.join(os.getcwd(), path)
    except OSError:  # the folder was deleted
        return path
    return whole if len(os.fsencode(whole)) <= SOCKET_PATH_BYTES_MAX else path


def user_runtime_dir(environ: Mapping[str, str] = os.environ) -> str:
    """Where a user's own daemon has its socket, also where XDG_RUNTIME_DIR is unset (cron, su)."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return os.path.join(base, "atmost")
    uid = os.geteuid()
    base = f"/run/user/{uid}"
    return f"{base}/atmost" if os.path.isdir(base) else f"/tmp/atmost-{uid}"


def user_state_dir(environ: Mapping[str, str] = os.environ) -> str:
    """Where a user's own daemon keeps its state."""
    base = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "atmost")


def user_log(environ: Mapping[str, str] = os.environ) -> str:
    """Where a daemon that was started in the background logs to."""
    return os.path.join(user_state_dir(environ), LOG_NAME)


def user_unit_dirs(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Where a unit of the user's own service manager may be."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    return (os.path.join(base, "systemd/user"), "/etc/systemd/user", "/usr/lib/systemd/user")


def installed_unit(folders: Iterable[str]) -> str | None:
    """The path of a unit of atmostd in one of these folders."""
    for folder in folders:
        for name in UNIT_NAMES:
            path = os.path.join(folder, name)
            if os.path.lexists(path):
                return path
    return None


def version() -> str:
    """The version of atmost."""
    from atmost import __version__

    return __version__
