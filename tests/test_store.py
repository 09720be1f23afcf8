"""The state folder on a real disk: what was saved is found again, whatever happened in between."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from atmostd import snapshot
from atmostd.damage import Untrusted
from atmostd.store import CURRENT, LOCK, PREVIOUS, TOKENS, Store, StoreError
from tests.saving import damage, found, save, state_of

NEW = "state.new"
CALLS_MAX = 40  # of one start; it has fewer
KILLS = 8  # of a process that saves, at moments that differ


def generation(path: Path) -> int:
    return snapshot.from_bytes(path.read_bytes())[1]


def make_newer(path: Path) -> None:
    """The file as a daemon of a later schema would have written it."""
    data = path.read_bytes()
    head = data[:8] + struct.pack(">I", snapshot.SCHEMA + 1) + data[12:28]
    path.write_bytes(head + blake2b(head + data[44:], digest_size=16).digest() + data[44:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "atmost"


# What is saved


def test_a_folder_that_never_was_gives_no_state(folder: Path) -> None:
    assert found(folder) is None


def test_what_was_saved_last_is_found(folder: Path) -> None:
    save(folder, 1)
    assert found(folder) == 1
    save(folder, 2, 3)
    assert found(folder) == 3


def test_the_one_before_is_kept(folder: Path) -> None:
    save(folder, 1, 2, 3)
    state, _ = snapshot.from_bytes((folder / PREVIOUS).read_bytes())
    assert state == state_of(2)
    assert sorted(os.listdir(folder)) == sorted([CURRENT, PREVIOUS, LOCK, TOKENS])


def test_the_generation_rises_with_every_file(folder: Path) -> None:
    save(folder, 1, 2)
    assert (generation(folder / PREVIOUS), generation(folder / CURRENT)) == (1, 2)
    save(folder, 3)
    assert (generation(folder / PREVIOUS), generation(folder / CURRENT)) == (2, 3)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_only_the_owner_may_read_it(folder: Path) -> None:
    save(folder, 1, 2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


# Damage


def test_a_damaged_file_is_replaced_by_the_one_before(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 1, 2, 3)
    damage(folder / CURRENT)
    assert found(folder) == 2
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert str(folder / CURRENT) in error.getMessage()
    assert "its checksum is wrong" in error.getMessage()


def test_the_token_mark_of_a_damaged_file_is_not_known(folder: Path) -> None:
    save(folder, 1, 2, 3)
    damage(folder / CURRENT)
    store = Store(folder)
    assert store.open() == state_of(2)
    assert store.token_mark is None
    store.close()


class Fails:
    """The n-th call that touches the disk fails."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        for name in ("open", "fsync", "mkdir", "pwrite", "ftruncate"):
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("saved", [(), (1,), (1, 2)])
def test_whichever_call_fails_at_the_start_no_state_is_taken_for_none(
    folder: Path, saved: tuple[int, ...]
) -> None:
    if saved:
        save(folder, *saved)
        (folder / TOKENS).unlink()  # so that it is made again
    for number in range(1, CALLS_MAX):
        store = Store(folder)
        with pytest.MonkeyPatch.context() as patch:
            fails = Fails(patch, number)
            refused, state = "", None
            try:
                state = store.open()
            except (StoreError, Untrusted) as error:
                refused = str(error)
        if refused:
            assert os.strerror(errno.EIO) in refused
        else:
            assert (state is None) == (not saved)
            if saved and state != state_of(saved[-1]):
                assert store.token_mark is None
        store.close()
        if fails.left > 0:
            return
        assert found(folder) == (saved[-1] if saved else None)
    raise AssertionError("more calls than that?")


def test_a_damaged_file_never_takes_the_place_of_the_one_before(folder: Path) -> None:
    save(folder, 1, 2, 3)
    damage(folder / CURRENT)
    save(folder, 4)
    assert found(folder) == 4
    assert snapshot.from_bytes((folder / PREVIOUS).read_bytes())[0] == state_of(2)
    assert generation(folder / CURRENT) > generation(folder / PREVIOUS)


def test_a_damaged_previous_file_is_told_and_does_no_harm(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 1, 2)
    damage(folder / PREVIOUS)
    assert found(folder) == 2
    assert str(folder / PREVIOUS) in caplog.text


@pytest.mark.parametrize(
    ("current", "previous"),
    [(b"", None), (None, b""), (b"", b""), (b"garbage", b""), (None, b"garbage")],
)
def test_nothing_valid_is_never_taken_for_nothing(
    folder: Path, current: bytes | None, previous: bytes | None
) -> None:
    """The limits would be made anew, inactive, and let everybody through."""
    folder.mkdir(parents=True)
    for name, data in ((CURRENT, current), (PREVIOUS, previous)):
        if data is not None:
            (folder / name).write_bytes(data)
    with pytest.raises(Untrusted) as caught:
        found(folder)
    said = str(caught.value)
    for name, data in ((CURRENT, current), (PREVIOUS, previous)):
        assert (f"{folder / name}: it is cut off" in said) == (data is not None)
        assert (
            not (folder / name).exists() if data is None else (folder / name).read_bytes() == data
        )
    assert "all limits that were created would be lost" in said


def test_moving_the_damaged_files_away_starts_anew(folder: Path) -> None:
    save(folder, 1, 2)
    for name in (CURRENT, PREVIOUS):
        damage(folder / name)
    with pytest.raises(Untrusted):
        found(folder)
    for name in (CURRENT, PREVIOUS):
        (folder / name).rename(folder.parent / name)
    assert found(folder) is None


def test_a_backup_that_was_put_back_is_used(folder: Path) -> None:
    """Also when the file before the one that it replaced is newer."""
    save(folder, 1)
    backup = (folder / CURRENT).read_bytes()
    save(folder, 2, 3)
    (folder / CURRENT).write_bytes(backup)
    assert found(folder) == 1
    save(folder, 4)
    assert found(folder) == 4
    assert generation(folder / CURRENT) == 3  # above that of each file that was there


def test_a_newer_schema_is_not_replaced_by_an_older_state(folder: Path) -> None:
    save(folder, 1, 2)
    make_newer(folder / CURRENT)
    before = (folder / CURRENT).read_bytes()
    with pytest.raises(
        Untrusted, match=r"a newer atmostd .* limits in that file: 'limit 1'"
    ) as caught:
        found(folder)
    assert str(folder / CURRENT) in str(caught.value)
    assert (folder / CURRENT).read_bytes() == before


def test_an_older_state_that_was_put_back_is_used_beside_a_newer_one(folder: Path) -> None:
    save(folder, 1, 2)
    make_newer(folder / PREVIOUS)
    assert found(folder) == 2


# A loss that was accepted


def test_an_accepted_loss_moves_the_damaged_files_aside(folder: Path) -> None:
    save(folder, 1, 2)
    kept = []
    for name in (CURRENT, PREVIOUS):
        damage(folder / name)
        kept.append((folder / name).read_bytes())
    store = Store(folder)
    with pytest.raises(Untrusted):
        store.open()
    state, aside = store.accept_loss()
    assert state is None
    assert [path.read_bytes() for path in aside] == kept
    assert [path.name for path in aside] == [f"{CURRENT}.damaged-1", f"{PREVIOUS}.damaged-1"]
    asyncio.run(store.save(state_of(3)))
    store.close()
    assert found(folder) == 3
    damage(folder / CURRENT)
    with pytest.raises(Untrusted):
        store.open()
    _, (again,) = store.accept_loss()
    assert again.name == f"{CURRENT}.damaged-2"
    store.close()
    assert [path.read_bytes() for path in aside] == kept


def test_an_accepted_loss_of_a_newer_state_goes_back_to_the_one_before(folder: Path) -> None:
    save(folder, 1, 2)
    make_newer(folder / CURRENT)
    store = Store(folder)
    with pytest.raises(Untrusted):
        store.open()
    state, (aside,) = store.accept_loss()
    assert state == state_of(1)
    store.close()
    assert aside.exists()
    assert found(folder) == 1


def test_a_file_that_cannot_be_read_is_not_taken_for_none(folder: Path) -> None:
    save(folder, 1)
    (folder / CURRENT).unlink()
    (folder / CURRENT).mkdir()
    with pytest.raises(StoreError, match="state is no file"):
        found(folder)


def test_a_folder_of_another_user_is_not_used(folder: Path) -> None:
    save(folder, 1)
    try:
        os.chown(folder, 12345, -1)
    except PermissionError:
        pytest.skip("may not give it away")
    with pytest.raises(StoreError, match="belongs to uid 12345"):
        found(folder)


# Saves that fail


def test_a_save_that_failed_changes_nothing_and_the_next_succeeds(folder: Path) -> None:
    save(folder, 1, 2)
    store = Store(folder)
    store.open()
    (folder / NEW).mkdir()
    with pytest.raises(OSError, match=r"state\.new"):
        asyncio.run(store.save(state_of(3)))
    assert snapshot.from_bytes((folder / CURRENT).read_bytes())[0] == state_of(2)
    (folder / NEW).rmdir()
    asyncio.run(store.save(state_of(4)))
    store.close()
    assert found(folder) == 4


def test_a_folder_that_went_away_is_an_error_until_it_is_back(folder: Path) -> None:
    store = Store(folder)
    store.open()
    asyncio.run(store.save(state_of(1)))
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        asyncio.run(store.save(state_of(2)))
    folder.mkdir()
    asyncio.run(store.save(state_of(3)))
    store.close()
    assert found(folder) == 3


# One daemon at a time, in a folder that it can use


def test_a_folder_belongs_to_one_store_at_a_time(folder: Path) -> None:
    first, second = Store(folder), Store(folder)
    first.open()
    with pytest.raises(StoreError) as caught:
        second.open()
    assert f"{folder} is in use by another atmostd (pid {os.getpid()})" in str(caught.value)
    assert "stop that one, or name another folder with --state-dir" in str(caught.value)
    first.close()
    assert second.open() is None
    second.close()


def test_the_lock_of_a_killed_process_is_free(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.saving", "loop", folder], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreError, match=rf"\(pid {process.pid}\)"):
            found(folder)
        process.kill()
    assert found(folder) is not None


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("a file/atmost", errno.ENOTDIR),
        ("a file", errno.EEXIST),
        ("/proc/atmost", errno.ENOENT),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, where: str, code: int
) -> None:
    (tmp_path / "a file").write_text("not a folder")
    with pytest.raises(StoreError) as caught:
        found(tmp_path / where)
    said = str(caught.value)
    assert f"cannot use the state folder {tmp_path / where}: {os.strerror(code)}" in said
    assert "mend that, or name another with --state-dir" in said
