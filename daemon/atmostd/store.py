"""The state folder: one file that is replaced as a whole, and the one before it.

Rule 1: a save that returned survives a power cut: new file, fsync, rename, fsync of the folder.
Rule 2: after a failed save that file is never touched again; the next save writes another one.
Rule 3: files that hold no valid state are never taken for "no state": the limits in them would be
made anew, inactive, and let everybody through. The same with a state that only a newer daemon can
read: the one before it is out of date, not a replacement.
Rule 4: a valid file is there at every instant: a damaged one never takes the place of the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from pathlib import Path

import aiofiles
import aiofiles.os

from atmostd import files, snapshot
from atmostd.files import NotOurs
from atmostd.snapshot import NewerSchema, SnapshotError, State

CURRENT = "state"
PREVIOUS = "state.previous"
_NEW = "state.new"
LOCK = "lock"

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The state folder cannot be used; the message says what to do."""


class Store:
    """The durable state of one daemon. `open` it before anything else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generation = 0  # of the newest file
        self._current_is_valid = False  # so it is worth keeping as the previous one
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        return self._folder / CURRENT

    def open(self) -> State | None:
        """Take the folder for this daemon and read what is there; None if nothing ever was.

        Raises StoreError if the folder cannot be made, is another daemon's, or holds no valid state.
        """
        try:
            _make_folder(self._folder)
            files.check_folder(self._folder)
            self._take_lock()
            files.check_place(self._folder / _NEW)
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
        if self._current_is_valid:
            with contextlib.suppress(FileNotFoundError):  # somebody took it away
                await aiofiles.os.replace(current, self._folder / PREVIOUS)
            self._current_is_valid = False
        await aiofiles.os.replace(new, current)
        self._current_is_valid = True
        await asyncio.to_thread(_sync_folder, self._folder)

    def _take_lock(self) -> None:
        lock = files.open_ours(self._folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise StoreError(
                f"the state folder {self._folder} is in use by another atmostd (pid {pid}); "
                "stop that one, or name another folder with --state-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def _newest(self) -> State | None:
        """The valid state that was saved last. Raises StoreError if there are only others."""
        previous = self._folder / PREVIOUS
        found: list[tuple[State, int]] = []
        wrong = []
        for path in (self.path, previous):
            try:
                found.append(snapshot.from_bytes(files.read_ours(path)))
                self._current_is_valid |= path == self.path
            except FileNotFoundError:
                continue
            except NewerSchema as error:
                if not found:
                    raise StoreError(
                        f"{path}: {error}. Start that one, or, to lose what it saved, move this "
                        f"file away and put a backup of {self.path} back"
                    ) from None
            except SnapshotError as error:
                wrong.append(f"{path}: {error}")
        if not found and wrong:
            raise StoreError(
                "no valid state, and starting without one would open every limit: "
                + "; ".join(wrong)
                + f". Put a backup of {self.path} back, or, to lose all limits, move these files away"
            )
        if not found:
            return None
        for problem in wrong:
            _log.error("damaged state file: %s", problem)
        if not self._current_is_valid:
            _log.warning("the state is the one before the last save: %s", previous)
        self._generation = max(generation for _, generation in found)
        return found[0][0]


def _make_folder(folder: Path) -> None:
    """Make it, for us alone, so that it survives a power cut as well as what will be in it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in made:
        _sync_folder(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
