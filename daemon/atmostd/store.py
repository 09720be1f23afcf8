"""The state folder: one file that is replaced as a whole, and the one before it.

Rule 1: a save that returned survives a power cut: new file, fsync, rename, fsync of the folder. There
is a `state` at every instant: one that is gone beside the one before it was taken by somebody.
Rule 2: after a failed save that file is never touched again; the next save writes another one.
Rule 3: files that hold no valid state are never taken for "no state": the limits in them would be
made anew, inactive, and let everybody through. Nor is the one before taken for the newest one, if that
is damaged, gone, or of a newer daemon: it is out of date, and lacks what was created last.
Rule 4: a damaged file is neither written over nor does it take the place of the one before it.
Rule 5: what a reading daemon needs is not to write: a folder on a full or read-only disk can be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
from datetime import datetime
from pathlib import Path

import aiofiles
import aiofiles.os

from atmostd import files, place, snapshot
from atmostd.clock import wall_microseconds
from atmostd.damage import Damage, Untrusted, move_aside
from atmostd.files import NotOurs
from atmostd.place import DamagedPlace, Mark
from atmostd.snapshot import NewerSchema, SnapshotError, State

CURRENT = "state"
PREVIOUS = "state.previous"
_NEW = "state.new"
_SPARE = "state.spare"  # a second name, until it takes the place of another
LOCK = "lock"
TOKENS = "tokens"  # a mark for fencing tokens, for when there is no room for a state
NAMES_TOLD_MAX = 50  # of limits: a frame has to hold them
# What link() says where a file can't have two names, or not these.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The state folder cannot be used; the message says what to do."""


class Store:
    """The durable state of one daemon. `open` it before anything else."""

    def __init__(self, folder: Path) -> None:
        self.token_mark: int | None = (
            0  # beside that of the state; None: there was one, and it is not known
        )
        self._folder = folder
        self._mark_is_sound = True  # rule 2 goes for TOKENS, too
        self._generation = 0  # of the newest file
        self._current_is_valid = False  # so it is worth keeping as the previous one
        self._untrusted: list[Path] = []
        self._best: State | None = None  # valid, but not the one that was saved last
        self._is_newer = False  # what cannot be used is of a newer daemon
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        return self._folder / CURRENT

    def open(self) -> State | None:
        """Take the folder for this daemon and read what is there; None if nothing ever was.

        Raises StoreError if the folder cannot be made or is another's, Untrusted if what is in it
        cannot be used; then accept_loss() is what is left.
        """
        try:
            _make_folder(self._folder)
            files.check_folder(self._folder)
            self._take_lock()
            files.check_place(self._folder / _NEW)
            self.token_mark = self._read_token_mark()
            return self._newest()
        except NotOurs as error:
            raise StoreError(
                f"{error}; {error.cure}, or name another folder with --state-dir"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot use the state folder {self._folder}: {error.strerror}; "
                "mend that, or name another with --state-dir"
            ) from error

    @property
    def can_be_replaced(self) -> bool:
        """Whether what cannot be used here can't be used by anybody."""
        return not self._is_newer

    def is_gone(self) -> Damage:
        """There is no state at all, and something else says that there was one."""
        reason = "it is gone, though a daemon ran here since the host started"
        return Damage(self.path, reason, _LOST)

    def accept_loss(self) -> tuple[State | None, list[Path]]:
        """Move what cannot be trusted aside, and put the best state that is left in its place. Returns
        that, and the new names. Raises OSError.

        First of all the tokens: a daemon that dies before it has saved a state must not leave the next
        one to begin at a mark that is out of date."""
        aside = self.move_aside()
        if self._best is not None:
            _name_also(self._folder / PREVIOUS, self.path)
            self._current_is_valid = True
        _sync_folder(self._folder)
        return self._best, aside

    def move_aside(self) -> list[Path]:
        """The first half of that: nothing takes the place."""
        mark = max(self.token_mark or 0, wall_microseconds())  # more than ever could be given
        place.write(self._folder / TOKENS, Mark("", 0, mark), durable=True)
        self.token_mark = mark
        aside = []
        while self._untrusted:
            if os.path.lexists(self._untrusted[0]):
                aside.append(move_aside(self._untrusted[0]))
            del self._untrusted[0]
        _sync_folder(self._folder)
        return aside

    def close(self) -> None:
        """Leave the folder to the next daemon."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def save(self, state: State) -> None:
        """Make this the durable state. Raises OSError, and then the state before it still is."""
        self._generation += 1
        # In a thread: the checksum of many limits takes milliseconds.
        data = await asyncio.to_thread(snapshot.to_bytes, state, self._generation)
        new, current = self._folder / _NEW, self.path
        with contextlib.suppress(FileNotFoundError):
            await aiofiles.os.unlink(new)  # of a save that failed
        async with aiofiles.open(new, "xb", opener=_private) as file:
            await file.write(data)
            await file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        previous, kept, replaced = self._folder / PREVIOUS, False, False
        try:
            if self._current_is_valid:
                with contextlib.suppress(FileNotFoundError):  # somebody took it away
                    await asyncio.to_thread(_name_also, current, previous)
                    kept = True
            await aiofiles.os.replace(new, current)
            self._current_is_valid = replaced = True
            await asyncio.to_thread(_sync_folder, self._folder)
        except OSError:
            # What is refused must not be found by the next daemon: the state before goes back.
            if replaced:
                with contextlib.suppress(OSError):
                    if kept:
                        await asyncio.to_thread(_name_also, previous, current)
                    else:
                        await aiofiles.os.replace(current, new)
                        self._current_is_valid = False
            raise
        await self._know_tokens_again()

    async def set_token_mark(self, mark: int) -> None:
        """Have the next daemon know that the tokens below this may have been given. It needs no room on
        the disk. Raises OSError; then this mark may be found, or the one before, or a damaged one."""
        if not self._mark_is_sound:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._mark_is_sound = False
        await asyncio.to_thread(place.write, self._folder / TOKENS, Mark("", 0, mark), durable=True)
        self._mark_is_sound = True

    async def _know_tokens_again(self) -> None:
        if self.token_mark is None:  # the state has a mark now above all that it could be
            with contextlib.suppress(OSError):
                await self.set_token_mark(0)
                self.token_mark = 0

    def _read_token_mark(self) -> int | None:
        """And make room for it, as long as there is some."""
        path = self._folder / TOKENS
        try:
            found = place.read(path)
        except (DamagedPlace, OSError) as error:
            _log.error("which fencing tokens were given is not known: %s", error)
            return None
        if found is not None:
            return found.mark
        with contextlib.suppress(OSError):
            place.write(path, Mark("", 0, 0), durable=True)
            _sync_folder(self._folder)
        return 0

    def _take_lock(self) -> None:
        lock = _open_lock(self._folder / LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StoreError(
                f"the state folder {self._folder} is in use by another atmostd (pid {pid}); "
                "stop that one, or name another folder with --state-dir"
            ) from None
        files.tell_pid(lock)
        self._lock = lock

    def _newest(self) -> State | None:
        """The valid state that was saved last. Raises Untrusted if it cannot be told which that is."""
        found: list[tuple[State, int, Path]] = []
        wrong: list[tuple[Path, str]] = []
        previous = self._folder / PREVIOUS
        for path in (self.path, previous):
            try:
                state, generation = snapshot.from_bytes(files.read_ours(path))
                found.append((state, generation, path))
            except FileNotFoundError:
                if path == self.path and os.path.lexists(previous):
                    wrong.append((path, "it is gone, and the one before it is there"))
            except (SnapshotError, OSError) as error:
                self._is_newer |= isinstance(error, NewerSchema) and not found
                reason = error.strerror if isinstance(error, OSError) else None
                wrong.append((path, reason or str(error)))
        self._generation = max((generation for _, generation, _ in found), default=0)
        self._current_is_valid = any(path == self.path for *_, path in found)
        if wrong and not self._current_is_valid:
            self._untrusted = [path for path, _ in wrong]
            self._best = found[0][0] if found else None
            raise Untrusted(_damage(wrong, found))
        for path, problem in wrong:
            _log.error("damaged state file: %s: %s", path, problem)
        return found[0][0] if found else None


_LOST = "all limits that were created would be lost, with their settings and what is spent"


def _damage(wrong: list[tuple[Path, str]], found: list[tuple[State, int, Path]]) -> Damage:
    """What an operator has to know before the loss is accepted."""
    reason = "; ".join(
        (f"{path}: " if number else "") + f"{its_reason}{_when(path)}"
        for number, (path, its_reason) in enumerate(wrong)
    )
    if not found:
        return Damage(wrong[0][0], reason, _LOST)
    state, _, path = found[0]
    names = ", ".join(repr(saved.name) for saved in state.limits[:NAMES_TOLD_MAX]) or "none"
    if len(state.limits) > NAMES_TOLD_MAX:
        names += f" and {len(state.limits) - NAMES_TOLD_MAX} more"
    lost = f"what was changed since {path}{_when(path)} would be lost; limits in that file: {names}"
    return Damage(wrong[0][0], reason, lost)


def _when(path: Path) -> str:
    try:
        written = datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return ""
    return f" (written {written:%Y-%m-%d %H:%M:%S})"


def _name_also(path: Path, also: Path) -> None:
    """Have the other name stand for this file, too, and for none other at any instant. Raises OSError."""
    spare = path.with_name(_SPARE)
    with contextlib.suppress(FileNotFoundError):
        spare.unlink()
    try:
        os.link(path, spare)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(path, spare)
    spare.replace(also)
    with contextlib.suppress(FileNotFoundError):  # rename() leaves it if the two are one already
        spare.unlink()


def _copy(path: Path, to: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(to, "wb", opener=lambda name, _: _private(name, flags)) as file:
        file.write(files.read_ours(path))
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make it, for us alone, so that it survives a power cut as well as what will be in it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in made:
        _sync_folder(path.parent)


def _open_lock(path: Path) -> int:
    try:
        return files.open_ours(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno != errno.EROFS or not os.path.lexists(path):
            raise
        return files.open_ours(path, os.O_RDONLY)  # which is as good to lock


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
