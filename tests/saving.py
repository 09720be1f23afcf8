"""A process that saves states, for tests that look at its folder or kill it in the midst.

python -m tests.saving steps FOLDER COPIES   save once; copy the folder before each step of that
python -m tests.saving loop FOLDER           save again and again; print each mark once it is safe
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from atmostd.snapshot import SavedLimit, State
from atmostd.store import Store

NEW_MARK = 1000  # of the state that `steps` saves


def state_of(mark: int) -> State:
    """A state that can be told from others by its token mark."""
    saved = SavedLimit(f"limit {mark}", mark, 0.5, True, False, "12345")
    return State("boot", 1, 2, mark, [saved])


def save(folder: Path, *marks: int) -> None:
    """One daemon's life in this folder: it starts, saves these states, and ends."""
    store = Store(folder)
    store.open()
    for mark in marks:
        asyncio.run(store.save(state_of(mark)))
    store.close()


def found(folder: Path) -> int | None:
    """The mark of the state that a daemon starts with there; None: it starts with none."""
    store = Store(folder)
    try:
        state = store.open()
    finally:
        store.close()
    if state is None:
        return None
    assert state == state_of(state.token_mark)
    return state.token_mark


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Steps:
    """Prints each step that is taken in a folder, and copies the folder before it."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self._folder = folder
        self._copies = copies
        self._count = 0
        self._quiet = False  # what copying does is no step
        self._fsync = os.fsync
        vars(os)["fsync"] = self._sync  # the one step that Python does not report
        sys.addaudithook(self._audit)

    def take(self, what: str) -> None:
        print(what, flush=True)
        self._quiet = True
        shutil.copytree(self._folder, self._copies / f"{self._count:02} {what}")
        self._quiet = False
        self._count += 1

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self._quiet or event not in ("open", "os.link", "os.rename", "os.remove"):
            return
        names = [os.path.basename(arg) for arg in args[:2] if _is_within(arg, self._folder)]
        if names:
            self.take(" ".join([event.removeprefix("os."), *names]))

    def _sync(self, descriptor: int) -> None:
        self.take(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        self._fsync(descriptor)


def _is_within(path: Any, folder: Path) -> bool:
    return isinstance(path, str | Path) and Path(path).parent == folder


def steps(folder: Path, copies: Path) -> None:
    store = Store(folder)
    store.open()
    steps = Steps(folder, copies)
    asyncio.run(store.save(state_of(NEW_MARK)))
    steps.take("done")


def loop(folder: Path) -> None:
    store = Store(folder)
    begun = store.open()

    async def save_for_ever() -> None:
        for mark in itertools.count(begun.token_mark + 1 if begun else 1):
            await store.save(state_of(mark))
            print(mark, flush=True)

    asyncio.run(save_for_ever())


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        steps(*map(Path, sys.argv[2:]))
    else:
        loop(Path(sys.argv[2]))
