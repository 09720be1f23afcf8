"""The socket: taken by one daemon at a time, and given up in order.

Rule: whoever holds the lock beside the socket owns the socket. A lock ends with its process, so a
socket file without one is stale and is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atmost import paths
from atmostd import config, files
from atmostd.files import NotOurs


class SocketError(Exception):
    """The socket cannot be taken; the message says why and what to do."""


class SocketFile:
    """A listening Unix socket at a path that is this daemon's alone."""

    def __init__(self, path: Path, mode: int) -> None:
        """Raises SocketError: another daemon runs there, or the path cannot be used."""
        self.path = path
        length = len(os.fsencode(path))
        if length > paths.SOCKET_PATH_BYTES_MAX:
            raise SocketError(
                f"the socket path {path} has {length} bytes; the kernel takes at most "
                f"{paths.SOCKET_PATH_BYTES_MAX}: name a shorter one with --socket"
            )
        try:
            _make_folder(path.parent, 0o755 if mode & 0o007 else 0o700)
            files.check_folder(path.parent)
            self._lock = _take_lock(path)
            try:
                self.socket = _listen(path, mode)
            except BaseException:
                os.close(self._lock)
                raise
        except NotOurs as error:
            raise SocketError(f"{error}; move it away, or name another with --socket") from error
        except OSError as error:
            raise SocketError(
                f"cannot listen on {path}: {error.strerror or error}; "
                "mend that, or name another path with --socket"
            ) from error

    def close(self) -> None:
        """Take the path away, then let the next daemon have it."""
        self.socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._lock)


async def serve(
    socket_file: SocketFile, protocol: Callable[[], asyncio.Protocol], for_now: bool = False
) -> asyncio.AbstractServer:
    """Accept connections from now on. `for_now`: the socket outlives the server."""
    # The path is SocketFile's to unlink; Python 3.13 would do it too, as the server closes.
    kept: dict[str, Any] = {"cleanup_socket": False} if _server_unlinks() else {}
    listening = socket_file.socket.dup() if for_now else socket_file.socket
    return await asyncio.get_running_loop().create_unix_server(
        protocol, sock=listening, backlog=config.BACKLOG, **kept
    )


def _server_unlinks() -> bool:
    """Whether this loop's servers unlink their path: asyncio's own do since 3.13, uvloop's don't."""
    loop = asyncio.get_running_loop()
    return sys.version_info >= (3, 13) and type(loop).__module__.startswith("asyncio.")


def _take_lock(path: Path) -> int:
    lock = files.open_ours(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise SocketError(
            f"an atmostd runs on {path} already (pid {pid}); use that one, stop it with: kill {pid}"
            "; or name another path with --socket"
        ) from None
    files.tell_pid(lock)
    return lock


def _make_folder(folder: Path, mode: int) -> None:
    """Whoever may connect has to get there, whatever the umask of who starts us."""
    if not folder.is_dir():
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        folder.chmod(mode)


def _listen(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Narrow from its first moment on; umask would act on every thread.
        os.fchmod(listening.fileno(), mode)
        listening.bind(os.fspath(path))
        path.chmod(mode)
        listening.listen(config.BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    files.check_place(path, stat.S_ISSOCK)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        raise SocketError(
            f"another program listens on {path}, and it is no atmostd of this version; "
            "stop it, or name another path with --socket"
        )
