"""Slates: a page of memory for each client that asked, where it notes what it lets go of. It outlives us:
the next daemon reads what we had not heard yet when we were killed.

Rule 1: the page is a file of ours, which only its client's process was given, already open. All of its
room is taken before that: a client that touches a page for which there is no room dies of it (SIGBUS).
Rule 2: whoever was given it can also make it grow, and so fill the file system. So it lies in one that
this user may fill anyway: the runtime folder's for our own user and root, else that of /dev/shm.
Rule 3: what is in it is its client's word, for its own requests alone. Whatever is wrong with it, it is
as if there were none.
Rule 4: a file is named by its session, and only that of a session that is known is looked at: request
numbers are never used again within a session, but they are by the next one.
Rule 5: one that is over goes only after the journal has its session's end: until then the next daemon
would take that session up as it was, and needs what is noted there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

from atmostd import files
from atmostd.files import NotOurs

NAME = "slates"
SHARED = Path("/dev/shm")  # where everybody may write
SLATE_BYTES = 4096

_NUMBERS = struct.Struct(f"={SLATE_BYTES // 8}Q")

_log = logging.getLogger(__name__)


class Slates:
    """Those of this daemon's sessions."""

    def __init__(self, runtime_dir: Path) -> None:
        self._ours = (0, os.geteuid())
        self._folder = runtime_dir / NAME
        self._shared = SHARED / _name_of(runtime_dir)  # for other users
        self._there: set[bytes] = set()  # sessions that have one
        self.over: dict[Path, None] = {}  # files that go when the journal has been written
        self.on_over: Callable[[], None] = lambda: None  # have that be soon

    def lend(self, session: bytes, uid: int) -> int | None:
        """A descriptor of this session's slate, to be closed when it was given to a client of this user;
        None if it gets none."""
        path = self._path(session, uid)
        try:
            file = self._again(path) if session in self._there else None
            if file is None:
                file = self._new(path)
                self._there.add(session)
            return file
        except (OSError, NotOurs) as error:
            _log.debug("a client gets no slate: %s", error)
            return None

    def read(self, session: bytes, uid: int) -> set[int]:
        """The requests that this session has let go of, by what is noted there."""
        try:
            file = files.open_ours(self._path(session, uid), os.O_RDONLY)
            try:
                data = os.pread(file, SLATE_BYTES, 0)
            finally:
                os.close(file)
        except (OSError, NotOurs):
            return set()
        return set(_NUMBERS.unpack(data)) if len(data) == SLATE_BYTES else set()

    def forget(self, session: bytes, uid: int) -> None:
        """This session is over."""
        if session in self._there:
            self._there.discard(session)
            self.over[self._path(session, uid)] = None
            self.on_over()

    def clear_up(self) -> None:
        """The journal has been written."""
        for path in self.over:
            with contextlib.suppress(OSError):
                path.unlink()
        self.over.clear()

    def keep_only(self, sessions: Iterable[bytes]) -> None:
        """At the start: those of sessions that are known no more are over."""
        known = {session.hex(): session for session in sessions}
        for folder in (self._folder, self._shared):
            with contextlib.suppress(OSError, NotOurs):
                files.check_folder(folder)
                for name in os.listdir(folder):
                    if name in known:
                        self._there.add(known[name])
                    else:
                        self.over[folder / name] = None

    def close(self) -> None:
        """Leave nothing empty behind."""
        for folder in (self._folder, self._shared):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _path(self, session: bytes, uid: int) -> Path:
        return (self._folder if uid in self._ours else self._shared) / session.hex()

    def _again(self, path: Path) -> int | None:
        """None: somebody took it away, or a part of it."""
        try:
            file = files.open_ours(path, os.O_RDWR)
        except (OSError, NotOurs):
            return None
        if os.fstat(file).st_size >= SLATE_BYTES:
            return file
        os.close(file)
        return None

    def _new(self, path: Path) -> int:
        """Raises OSError or NotOurs."""
        folder = path.parent
        if folder == self._shared and not _is_everybodys(folder.parent):
            raise NotOurs(f"not everybody may write to {folder.parent}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        files.check_folder(folder)
        self.over.pop(path, None)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        file = files.open_ours(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(file, 0, SLATE_BYTES)
        except BaseException:
            os.close(file)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return file


def _name_of(runtime_dir: Path) -> str:
    """The same for each daemon of this folder, and of no other."""
    path = os.fsencode(os.path.abspath(runtime_dir))
    return f"atmost-{os.geteuid()}-{blake2b(path, digest_size=8).hexdigest()}"


def _is_everybodys(folder: Path) -> bool:
    """Whether everybody may make files there, and take away none of ours."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISVTX) and bool(mode & stat.S_IWOTH)
