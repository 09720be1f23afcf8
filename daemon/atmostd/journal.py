"""The journal: who holds and who waits, written before anybody is told.

Rule 1: what one turn of the loop has decided goes out in one write(), before any reply of that turn.
It needs no fsync: a write that returned survives our death, and what the host's death takes with it
had no holders left.
Rule 2: after a write that failed nothing more is written to that file: what follows a torn frame
could not be read. The limits go on being enforced from memory, `trouble` says why, and a checkpoint
into a new file heals it as soon as the disk does.
Rule 3: a file that has grown is replaced by a checkpoint: what is true now, written beside it and
renamed over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from atmostd import config, records
from atmostd.records import AnyRecord, Damaged, Record

NAME = "journal"
_NEW = "journal.new"

_log = logging.getLogger(__name__)


class JournalError(Exception):
    """The journal cannot be used; the message says what to do."""


class Journal:
    """`open` it, replay what it gives, then `begin`. From then on `note` and `write`."""

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.trouble = ""  # why it is out of date; empty when it is not
        self._folder = folder
        self._boot_id = boot_id
        self._noted: list[Record] = []  # of this turn
        self._file = -1
        self._bytes = 0
        self._bytes_max = 0  # then it is replaced
        self._lock: int | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._checkpoint: Callable[[], Iterable[Record]] = tuple

    @property
    def path(self) -> Path:
        return self._folder / NAME

    def open(self) -> list[AnyRecord] | None:
        """Take the folder for this daemon and read what is there; None if there is nothing of this
        run of the host.

        Raises JournalError if the folder cannot be used, Damaged if what is there cannot be trusted.
        """
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._take_lock()
            return records.read(self._read(), self._boot_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(
                f"cannot use the runtime folder {self._folder}: {error.strerror or error}; "
                "mend that, or name another with --runtime-dir"
            ) from error

    def begin(self, checkpoint: Callable[[], Iterable[Record]]) -> None:
        """Write what is true now into a new file. `checkpoint` gives that, also later."""
        self._checkpoint = checkpoint
        self._replace()

    def close(self) -> None:
        """Leave the folder to the next daemon. What is in the file is what that one goes on with."""
        if self._retry is not None:
            self._retry.cancel()
        for descriptor in (self._file, self._lock):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._file, self._lock = -1, None

    def note(self, record: Record) -> None:
        """Add a record to this turn's."""
        self._noted.append(record)

    def write(self) -> None:
        """Put this turn's records into the file. Called before any reply of the turn."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        if self.trouble or self._file < 0:
            return  # the checkpoint that heals it, or that it begins with, has them all
        data = records.frame(noted)
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(0, f"only {written} of {len(data)} bytes could be written")
        except OSError as error:
            self._fail(error)
            return
        self._bytes += written
        if self._bytes > self._bytes_max:
            self._replace()

    def _replace(self) -> None:
        """A checkpoint into a new file."""
        new = self._folder / _NEW
        data = records.head(self._boot_id) + records.frame(list(self._checkpoint()))
        self._noted.clear()  # it has them all
        try:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            file = os.open(
                new,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
            try:
                _write_all(file, data)
                new.replace(self.path)
            except BaseException:
                os.close(file)
                with contextlib.suppress(OSError):
                    new.unlink()  # it may be what fills the disk
                raise
        except OSError as error:
            self._fail(error)
            return
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._bytes = len(data)
        self._bytes_max = max(config.JOURNAL_BYTES_MAX, config.JOURNAL_GROWTH * len(data))
        if self.trouble:
            _log.warning("the journal is kept again in %s", self.path)
            self.trouble = ""

    def _fail(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if not self.trouble:
            _log.error("cannot write the journal %s: %s", self.path, reason)
        self.trouble = (
            f"the journal cannot be written to {self.path}: {reason} (limits are enforced, but who "
            "holds and waits would be known after a crash only from the clients)"
        )
        loop = asyncio.get_running_loop()
        self._retry = loop.call_later(config.JOURNAL_RETRY_SECONDS, self._replace)

    def _read(self) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
                raise Damaged(f"it is no file of ours (uid {found.st_uid})")
            return file.read()

    def _take_lock(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        owner = os.fstat(folder).st_uid
        try:
            if owner not in (0, os.geteuid()):
                raise JournalError(
                    f"the runtime folder {self._folder} belongs to uid {owner}; name a folder of "
                    "your own with --runtime-dir"
                )
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise JournalError(
                f"the runtime folder {self._folder} is in use by another atmostd; "
                "stop that one, or name another folder with --runtime-dir"
            ) from None
        except BaseException:
            os.close(folder)
            raise
        self._lock = folder


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
