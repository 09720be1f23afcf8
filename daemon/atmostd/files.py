"""Files and folders that only we, or root, may have put there.

Rule 1: a file of ours is no link and belongs to us or to root; anything else in its place may be a
trap, and is refused, never removed or written through.
Rule 2: a folder of ours belongs to us or to root. It may be a link that one of us has made, since
systemd makes such links (DynamicUser=) and operators do, but nobody else's. Nobody else may write to it:
they could take our files away and put others there. Where it is shared, as /tmp is, the sticky bit
keeps them from that, and it will do for what lives as long as a socket does.
Rule 3: what is opened is checked as it was opened, not before.
Rule 4: what tells us what to do (the configuration file) nobody else may write either. Who may write to
its folder can only take it away, for what he puts there is his; but not everybody shall even do that.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(Exception):
    """What is found in the place of a file of ours; the message says what and whose."""

    def __init__(self, message: str, cure: str = "move it away") -> None:
        super().__init__(message)
        self.cure = cure


def check_folder(folder: Path, may_be_shared: bool = False) -> None:
    """Raises NotOurs, or OSError if there is none."""
    for found in (folder.lstat(), folder.stat()):
        if not _is_ours(found):
            raise NotOurs(f"the folder {folder} belongs to uid {found.st_uid}")
    _check_writers(f"the folder {folder}", folder, folder.stat(), may_be_shared)


def check_declaring(path: Path, descriptor: int) -> None:
    """Whether what was opened at this path, and its folder, may tell us what to do. A device such as
    /dev/null may. Raises NotOurs, or OSError."""
    for folder in {path.parent, Path(os.path.realpath(path)).parent}:
        found = folder.stat()
        if found.st_mode & stat.S_IWOTH:
            _check_writers(f"the folder {folder}", folder, found, may_be_shared=True)
    opened = os.fstat(descriptor)
    if stat.S_ISCHR(opened.st_mode):
        return
    for found, command in ((path.lstat(), "chown -h"), (opened, "chown")):
        if not _is_ours(found):
            raise NotOurs(
                f"it belongs to uid {found.st_uid}, who could write anything there",
                "have it belong to root, or to the daemon's own user, with: "
                f"{command} root {shlex.quote(str(path))}",
            )
    _check_writers("it", path, opened)


def _check_writers(
    what: str, path: Path, found: os.stat_result, may_be_shared: bool = False
) -> None:
    """Nobody else may write there. Raises NotOurs."""
    mode = found.st_mode
    if mode & _OTHERS_WRITE and not (may_be_shared and mode & stat.S_ISVTX):
        raise NotOurs(
            f"others may write to {what} (its mode is {stat.S_IMODE(mode):o})",
            f"keep them out with: chmod go-w {shlex.quote(str(path))}",
        )


def check_place(path: Path, is_kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """Whether our file, or none, is at this path. Raises NotOurs."""
    try:
        _check(path, path.lstat(), is_kind)
    except FileNotFoundError:
        return


def open_ours(path: Path, flags: int) -> int:
    """A descriptor of our file, narrow if it is made now. Raises NotOurs, or OSError."""
    check_place(path)  # for a good message: of a link, open() would say only ELOOP
    # A pipe in its place must not make us wait.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check(path, os.fstat(descriptor), stat.S_ISREG)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_ours(path: Path) -> bytes:
    """All of our file. Raises NotOurs, or OSError if there is none."""
    with open(open_ours(path, os.O_RDONLY), "rb") as file:
        return file.read()


def tell_pid(lock: int) -> None:
    """Put our pid into a lock file, for messages. That is no reason to fail on a disk that refuses."""
    pid = f"{os.getpid()}\n".encode()
    with contextlib.suppress(OSError):
        os.pwrite(lock, pid, 0)  # first: emptied, it might find no room
        os.ftruncate(lock, len(pid))


def _check(path: Path, found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise NotOurs(f"{path} is a link")
    if not _is_ours(found):
        raise NotOurs(f"{path} belongs to uid {found.st_uid}")
    if not is_kind(found.st_mode):
        raise NotOurs(f"{path} is no {'socket' if is_kind is stat.S_ISSOCK else 'file'}")


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())
