"""The journal: who holds and who waits, written before anybody is told.

Rule 1: what one turn of the loop has decided goes out in one write(), before any reply of that turn.
It needs no fsync: a write that returned survives our death, and what the host's death takes with it
had no holders left.
Rule 2: after a write that failed nothing more is written to that file: what follows a torn frame
could not be read. The limits go on being enforced from memory, `trouble` says why, and a checkpoint
into a new file heals it as soon as the disk does. An empty file beside it, for which a full disk has
room, tells the next daemon that more was decided than the journal says, or that others hold than those
in it: until they had time to come back.
Rule 3: a file that has grown is replaced by a checkpoint: what is true now, written beside it and
renamed over it. While that fails, the old one goes on.
Rule 4: a file that somebody took away takes writes still, and nobody would find them: it is looked
after from time to time, and made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from atmostd import config, files, records
from atmostd.damage import Damage, Untrusted, move_aside
from atmostd.files import NotOurs
from atmostd.records import AnyRecord, Damaged, Record

NAME = "journal"
_NEW = "journal.new"
_BEHIND = "journal.behind"
LOST = (
    "who holds slots and who waits would no longer be known, nor what was spent since the state was "
    "saved: clients that come back keep what they hold only if nobody else was given it"
)

_log = logging.getLogger(__name__)


class JournalError(Exception):
    """The journal cannot be used; the message says what to do."""


class Journal:
    """`open` it, replay what it gives, then `begin`. From then on `note` and `write`."""

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.trouble = ""  # why it is out of date; empty when it is not
        self.on_written: Callable[[], None] | None = None  # a turn has decided something
        self.records_written = 0
        self.replacements = 0
        self.is_behind = False  # more was decided than open() has read, or than is in the file now
        self._folder = folder
        self._boot_id = boot_id
        self._noted: list[Record] = []  # of this turn
        self._file = -1
        self._bytes = 0
        self._bytes_max = 0  # then it is replaced
        self._lock: int | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._checkpoint: Callable[[], Iterable[Record]] = tuple
        self._end_turn: Callable[[], None] = lambda: None
        self._replace_next = False  # when this turn ends
        self._torn = False  # a write to the file failed: no more of them
        self._look: asyncio.TimerHandle | None = None
        self._hears = False  # holders that nobody knows of may come back yet

    @property
    def path(self) -> Path:
        return self._folder / NAME

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._bytes

    @property
    def is_kept(self) -> bool:
        """Whether all that was written is in the file."""
        return self._file >= 0 and not self._torn

    def open(self) -> list[AnyRecord] | None:
        """Take the folder for this daemon and read what is there; None if there is nothing of this
        run of the host.

        Raises JournalError if the folder cannot be used, Untrusted if what is there cannot be.
        """
        try:
            # If the socket is in it, that has made it already, as open as it needs.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.check_folder(self._folder, may_be_shared=True)
            self._take_lock()
            files.check_place(self._folder / _NEW)
            self.is_behind = os.path.lexists(self._folder / _BEHIND)
        except NotOurs as error:
            raise self._not_ours(error) from error
        except OSError as error:
            raise JournalError(
                f"cannot use the runtime folder {self._folder}: {error.strerror or error}; "
                "mend that, or name another with --runtime-dir"
            ) from error
        try:
            return records.read(files.read_ours(self.path), self._boot_id)
        except FileNotFoundError:
            return None
        except NotOurs as error:
            raise self._not_ours(error) from error
        except (Damaged, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise Untrusted(Damage(self.path, reason or str(error), LOST)) from error

    def accept_loss(self) -> list[Path]:
        """Move what cannot be trusted aside. Returns its new name. Raises OSError."""
        return [move_aside(self.path)] if os.path.lexists(self.path) else []

    def begin(
        self, checkpoint: Callable[[], Iterable[Record]], end_turn: Callable[[], None]
    ) -> None:
        """Write what is true now into a new file. `checkpoint` gives that, also later; `end_turn` has
        write() called when nothing is half done."""
        self._checkpoint = checkpoint
        self._end_turn = end_turn
        self._replace()

    def close(self) -> None:
        """Leave the folder to the next daemon. What is in the file is what that one goes on with."""
        for timer in (self._retry, self._look):
            if timer is not None:
                timer.cancel()
        for descriptor in (self._file, self._lock):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._file, self._lock = -1, None

    def hear_holders(self) -> None:
        """More hold than are known, and now they may say so."""
        self._hears = True
        self._fall_behind()

    def holders_are_heard(self) -> None:
        """That was long enough."""
        self._hears = False
        if self._file >= 0 and not self._torn:
            self._catch_up()

    def note(self, record: Record) -> None:
        """Add a record to this turn's."""
        self._noted.append(record)

    def write(self) -> None:
        """Put this turn's records into the file. Called before any reply of the turn."""
        if self._noted:
            if not self._torn and self._file >= 0:
                self._append(self._noted)
            self._noted.clear()  # else the checkpoint that heals or begins it has them all
        if self._replace_next or self._bytes > self._bytes_max:
            self._replace_next = False
            self._replace()

    def prove(self) -> bool:
        """Write a frame that says nothing. Returns whether that could be done, or else is being mended."""
        if not self._torn and self._file >= 0:
            self._append([])
        return not self.trouble or self._retry is not None

    def _append(self, noted: list[Record]) -> None:
        data = records.frame(noted)
        try:
            _write_all(self._file, data)
        except OSError as error:
            self._torn = True
            self._fail(error, "written")
            return
        self._bytes += len(data)
        self.records_written += len(noted)
        if self.on_written is not None and noted:
            self.on_written()
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(
                config.JOURNAL_LOOK_SECONDS, self._look_after
            )

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
            self._bytes_max = 2 * self._bytes
            self._fail(error, "written" if self._torn or self._file < 0 else "replaced")
            return
        self._torn = False
        self.replacements += 1
        if not self._hears:
            self._catch_up()
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._bytes = len(data)
        self._bytes_max = max(config.JOURNAL_BYTES_MAX, config.JOURNAL_GROWTH * len(data))
        if self.trouble:
            _log.warning("the journal is kept again in %s", self.path)
            self.trouble = ""

    def _fail(self, error: OSError, what: str) -> None:
        reason = error.strerror or str(error)
        if not self.trouble:
            _log.error("the journal %s cannot be %s: %s", self.path, what, reason)
        self.trouble = f"the journal {self.path} cannot be {what}: {reason}"
        if what == "written":
            self._fall_behind()
            self.trouble += (
                " (limits are enforced, but who holds and waits would be known after a crash only "
                "from the clients)"
            )
        if self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(config.JOURNAL_RETRY_SECONDS, self._try_again)

    def _catch_up(self) -> None:
        if self.is_behind:
            self.is_behind = False
            with contextlib.suppress(OSError):  # then the next daemon is too careful
                (self._folder / _BEHIND).unlink()

    def _fall_behind(self) -> None:
        self.is_behind = True
        with contextlib.suppress(OSError):  # then the next daemon takes the file for complete
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            os.close(os.open(self._folder / _BEHIND, flags, 0o600))

    def _try_again(self) -> None:
        self._retry = None
        self._replace_next = True
        self._end_turn()

    def _look_after(self) -> None:
        """See whether the file is there still, some time after a write; if not, make another."""
        self._look = None
        if self.trouble:
            return  # that is made again already
        try:
            is_there = os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except OSError:
            is_there = False
        if not is_there:
            _log.error("somebody took the journal %s away; it is made again", self.path)
            self._torn = True
            self._replace_next = True
            self._end_turn()

    def _not_ours(self, error: NotOurs) -> JournalError:
        return JournalError(f"{error}; {error.cure}, or name another folder with --runtime-dir")

    def _take_lock(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
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
    """One write, unless the disk takes only a part: the next one then says why. Raises OSError."""
    written = os.write(file, data)
    while written < len(data):
        more = os.write(file, data[written:])
        if not more:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        written += more
