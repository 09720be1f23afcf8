"""Crashes of a save, at each of its steps: the old state is found, or the new one, never none."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atmostd.damage import Untrusted
from atmostd.store import CURRENT, PREVIOUS, Store
from tests.saving import NEW_MARK, damage, found, save, state_of
from tests.support import PATIENCE_SECONDS

NEW = "state.new"
SPARE = "state.spare"
CALLS_MAX = 40  # of one save; it has fewer
KILLS = 8  # of a process that saves, at moments that differ


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "atmost"


def crash_states(folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Save once more; yields (step before which it is, copy of the folder) for each step."""
    copies = tmp_path / "copies"
    copies.mkdir()
    saved = subprocess.run(
        [sys.executable, "-m", "tests.saving", "steps", folder, copies],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert saved.returncode == 0, saved.stderr
    for copy in sorted(copies.iterdir()):
        yield copy.name.partition(" ")[2], copy


def no_state(folder: Path) -> None:
    folder.mkdir(parents=True)


def one_state(folder: Path) -> None:
    save(folder, 2)


def two_states(folder: Path) -> None:
    save(folder, 1, 2)


def accepted_loss(folder: Path) -> None:
    save(folder, 1, 2, 3)
    damage(folder / CURRENT)
    store = Store(folder)
    with pytest.raises(Untrusted):
        store.open()
    store.accept_loss()
    store.close()


def damaged_previous(folder: Path) -> None:
    save(folder, 1, 2)
    damage(folder / PREVIOUS)


def crashed_between_the_renames(folder: Path) -> None:
    save(folder, 1, 2)
    save(folder.with_name("other"), 3)
    (folder.with_name("other") / CURRENT).rename(folder / NEW)
    os.link(folder / CURRENT, folder / SPARE)


def crashed_while_writing(folder: Path) -> None:
    save(folder, 1, 2)
    (folder / NEW).write_bytes(b"ATMO")


BEGINNINGS: list[tuple[Callable[[Path], None], int | None]] = [
    (no_state, None),
    (one_state, 2),
    (two_states, 2),
    (accepted_loss, 2),
    (damaged_previous, 2),
    (crashed_between_the_renames, 2),
    (crashed_while_writing, 2),
]


@pytest.mark.parametrize(
    ("begin", "old"), BEGINNINGS, ids=[begin.__name__ for begin, _ in BEGINNINGS]
)
def test_every_crash_leaves_the_old_state_or_the_new(
    begin: Callable[[Path], None], old: int | None, folder: Path, tmp_path: Path
) -> None:
    """And from each of them the next daemon saves and is found again."""
    begin(folder)
    steps = []
    for step, copy in crash_states(folder, tmp_path):
        steps.append(step)
        renamed = "rename state.new state" in steps[:-1]
        assert found(copy) == (NEW_MARK if renamed else old), step
        save(copy, 7, 8)
        assert found(copy) == 8
    assert steps[-1] == "done"


class Fault:
    """The n-th call that touches the disk fails, alone or with all that follow; /dev/full refuses what
    is written to the file that such a call opened."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, for_good: bool, full: bool) -> None:
        self.count = 0
        self._number = number
        self._for_good = for_good
        self._full = full
        for name in ("open", "fsync", "link", "replace", "unlink"):
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            late = self.count > self._number and self._for_good
            if not late and self.count != self._number:
                return real(*args, **kwargs)
            if self._full and name == "open" and args[1] & os.O_WRONLY:
                return real("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return call


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("begin", "old"), BEGINNINGS, ids=[begin.__name__ for begin, _ in BEGINNINGS]
)
def test_whichever_call_fails_the_state_before_is_kept_and_the_next_save_heals(
    begin: Callable[[Path], None], old: int | None, for_good: bool, full: bool, tmp_path: Path
) -> None:
    for number in range(1, CALLS_MAX):
        folder = tmp_path / str(number)
        begin(folder)
        store = Store(folder)
        store.open()
        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, number, for_good, full)
            failed = False
            try:
                asyncio.run(store.save(state_of(NEW_MARK)))
            except OSError:
                failed = True
        copy = tmp_path / f"{number} after"
        shutil.copytree(folder, copy)
        if not failed:
            assert found(copy) == NEW_MARK
            if fault.count < number:
                store.close()
                return
        elif not for_good:
            assert found(copy) == old
        else:  # a disk that refuses to take back what it refused to sync
            assert found(copy) in (old, NEW_MARK)
        asyncio.run(store.save(state_of(7)))
        store.close()
        assert found(folder) == 7
    raise AssertionError("more calls than that?")


def test_a_state_that_did_not_reach_the_disk_whole_is_not_used(
    folder: Path, tmp_path: Path
) -> None:
    """Before its fsync, a power cut may leave any part of the new file."""
    save(folder, 1, 2)
    crashes = dict(crash_states(folder, tmp_path))
    copy = crashes["fsync state.new"]
    whole = (copy / NEW).read_bytes()
    for length in range(len(whole)):
        (copy / NEW).write_bytes(whole[:length])
        assert found(copy) == 2


def test_the_disk_is_told_before_anybody_else(folder: Path, tmp_path: Path) -> None:
    save(folder, 1)
    steps = [step for step, _ in crash_states(folder, tmp_path)]
    assert [step for step in steps if step.split()[0] in ("fsync", "rename", "done")] == [
        "fsync state.new",
        "rename state.spare state.previous",
        "rename state.new state",
        f"fsync {folder.name}",
        "done",
    ]


def test_a_killed_process_loses_nothing_that_it_was_told_is_safe(folder: Path) -> None:
    safe = 0
    for kill in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.saving", "loop", folder], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            first = [process.stdout.readline() for _ in range(random.Random(kill).randint(1, 40))]
            process.kill()
            safe = int([*first, *process.stdout][-1])
        mark = found(folder)
        assert mark in (safe, safe + 1)  # killed before it was told of the next, or before that
