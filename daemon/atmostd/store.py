"""The state folder: one file that is replaced as a whole, and the one before it.

Rule 1: a save that returned survives a power cut: new file, fsync, rename, fsync of the folder.
Rule 2: after a failed save that file is never touched again; the next save writes another one.
Rule 3: files that hold no valid state are never taken for "no state": the limits in them would be
made anew, inactive, and let everybody through. The same with a state that only a newer daemon can
read: the one before it is out of date, not a replacement.
Rule 4: a valid file is there at every instant: a damaged one never takes the place of the one before it.
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
from atmostd.damage import Damage, Untrusted, move_aside
from atmostd.files import NotOurs
from atmostd.place import DamagedPlace, Mark
from atmostd.snapshot import NewerSchema, SnapshotError, State

CURRENT = "state"
PREVIOUS = "state.previous"
_NEW = "state.new"
LOCK = "lock"
TOKENS = "tokens"  # a mark for fencing tokens, for when there is no room for a state
NAMES_TOLD_MAX = 50  # of limits: a frame has to hold them

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
                f"{error}; move it away, or name another folder with --state-dir"
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot use the state folder {self._folder}: {error.strerror}; "
                "mend that, or name another with --state-dir"
            ) from error

    def accept_loss(self) -> tuple[State | None, list[Path]]:
        """Move what cannot be trusted aside. Returns the best state that is left, and the new names.
        Raises OSError."""
        aside = []
        while self._untrusted:
            aside.append(move_aside(self._untrusted[0]))
            del self._untrusted[0]
        _sync_folder(self._folder)
        return self._best, aside

    def close(self) -> None:
        """Leave the folder to the next daemon."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def save(self, state: State) -> None:
        """Make this the durable state. Raises OSError, and then the state before it still is."""
        self._generation += 1
        data = snapshot.to_bytes(state, self._generation)
        new, current = self._folder / _NEW, self.path
        with contextlib.suppress(FileNotFoundError):
            await aiofiles.os.unlink(new)  # of a save that failed
        async with aiofiles.open(new, "xb", opener=_private) as file:
            await file.write(data)
            await file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        previous, kept = self._folder / PREVIOUS, False
        try:
            if self._current_is_valid:
                with contextlib.suppress(FileNotFoundError):  # somebody took it away
                    await aiofiles.os.replace(current, previous)
                    kept = True
                self._current_is_valid = False
            await aiofiles.os.replace(new, current)
            self._current_is_valid = True
            await asyncio.to_thread(_sync_folder, self._folder)
        except OSError:
            # What is refused must not be found by the next daemon: the state before goes back.
            with contextlib.suppress(OSError):
                if self._current_is_valid:
                    await aiofiles.os.replace(current, new)
                    self._current_is_valid = False
                if kept:
                    await aiofiles.os.replace(previous, current)
                    self._current_is_valid = True
            raise
        if self.token_mark is None:  # the state has a mark above all that it could be
            with contextlib.suppress(OSError):
                await self.set_token_mark(0)
                self.token_mark = 0

    async def set_token_mark(self, mark: int) -> None:
        """Have the next daemon know that the tokens below this may have been given. It needs no room on
        the disk. Raises OSError; then this mark may be found, or the one before, or a damaged one."""
        if not self._mark_is_sound:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._mark_is_sound = False
        await asyncio.to_thread(place.write, self._folder / TOKENS, Mark("", 0, mark), durable=True)
        self._mark_is_sound = True

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
        newer = False  # there is a state that is later than the valid one, and cannot be read here
        for path in (self.path, self._folder / PREVIOUS):
            try:
                state, generation = snapshot.from_bytes(files.read_ours(path))
                found.append((state, generation, path))
            except FileNotFoundError:
                continue
            except (SnapshotError, OSError) as error:
                newer |= isinstance(error, NewerSchema) and not found
                reason = error.strerror if isinstance(error, OSError) else None
                wrong.append((path, reason or str(error)))
        self._generation = max((generation for _, generation, _ in found), default=0)
        self._current_is_valid = any(path == self.path for *_, path in found)
        if newer or (wrong and not found):
            self._untrusted = [path for path, _ in wrong]
            self._best = found[0][0] if found else None
            raise Untrusted(_damage(wrong, found))
        for path, problem in wrong:
            _log.error("damaged state file: %s: %s", path, problem)
        if not found:
            return None
        if not self._current_is_valid:
            _log.warning("the state is the one before the last save: %s", found[0][2])
            if wrong:
                self.token_mark = None  # the last one had it
        return found[0][0]


def _damage(wrong: list[tuple[Path, str]], found: list[tuple[State, int, Path]]) -> Damage:
    """What an operator has to know before the loss is accepted."""
    (first, why), *others = wrong
    reason = f"{why} ({_when(first)})"
    for path, its_reason in others:
        reason += f"; {path}: {its_reason} ({_when(path)})"
    if found:
        state, _, path = found[0]
        names = ", ".join(repr(saved.name) for saved in state.limits[:NAMES_TOLD_MAX]) or "none"
        if len(state.limits) > NAMES_TOLD_MAX:
            names += f" and {len(state.limits) - NAMES_TOLD_MAX} more"
        lost = f"what was changed since {path} ({_when(path)}) would be lost; limits in that file: {names}"
    else:
        lost = "all limits that were created would be lost, with their settings and what is spent"
    return Damage(first, reason, lost)


def _when(path: Path) -> str:
    try:
        written = datetime.fromtimestamp(path.stat().st_mtime)
    except OSError:
        return "of unknown age"
    return f"written {written:%Y-%m-%d %H:%M:%S}"


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
