"""A real daemon whose journal's disk is full, read-only or gone: limits are enforced, and it heals."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atmost.errors import AcquireTimeout
from atmost.sync import Client
from atmostd.journal import NAME
from tests.protocol_client import Client as RawClient
from tests.support import RunningDaemon, wait_until
from tests.test_state_kept import mount

TURNS = 300  # of a holder and a failed try: some 30 KB of journal, more than is free


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def gone(folder: Path) -> Iterator[None]:
    """The journal cannot be replaced; and the file is not there, so that its writes are in vain."""
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


Break = Callable[[Path], contextlib.AbstractContextManager[None]]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with a disk of its own for the journal."""
    running = RunningDaemon(tmp_path)
    with small_disk(tmp_path / "run"):
        running.start()
        yield running
        running.stop(signal.SIGKILL)


def use(client: Client) -> None:
    """Take and release, again and again; the limit is enforced all the time."""
    for _ in range(TURNS):
        with client.concurrency("db", timeout_seconds=0) as grant:
            assert not grant.unguarded
            with pytest.raises(AcquireTimeout):
                client.acquire("db", timeout_seconds=0)


def test_a_full_disk_of_the_journal_is_told_and_heals(small: RunningDaemon) -> None:
    holder = RawClient(str(small.socket))
    holder.ask("create_limit", "db", 1)
    holder.ask("create_limit", "kept", 2)
    holder.ask("acquire", {"kept": 1})
    with small.client() as client:
        with full(small.folder / "run"):
            use(client)
            trouble = client.status().trouble
            assert (
                f"the journal {small.folder / 'run' / NAME} cannot be written: No space" in trouble
            )
            client.create_limit("made meanwhile", 3)  # the state has a disk of its own
            late = holder.ask("acquire", {"kept": 1})
        wait_until(lambda: not client.status().trouble, "it heals by itself")
        assert client.read_limit("kept").held == 2
    small.stop(signal.SIGKILL)
    small.start()
    with small.client() as client:  # both holders are known, also the one of the bad time
        assert client.read_limit("kept").held == 2
        assert client.read_limit("made meanwhile").limit == 3
        assert client.read_limit("db").held == 0
    assert late[0] == "granted"
    assert small.log_text().count("ERROR the journal") == 1
    assert small.log_text().count("the journal is kept again") == 1
    holder.close()


def test_a_read_only_disk_refuses_changes_and_enforces(small: RunningDaemon) -> None:
    """The journal's file is open, so it takes writes still; nothing new can be made beside it."""
    state = str(small.state_dir)
    with small.client() as client:
        client.create_limit("db", 1)
        mount("--bind", state, state)
        try:
            mount("-o", "remount,bind,ro", state)
            mount("-o", "remount,bind,ro", str(small.folder / "run"))
            with pytest.raises(OSError, match="Read-only"):
                client.create_limit("new", 1)
            use(client)
            assert "Read-only file system" in client.status().trouble
        finally:
            mount("-o", "remount,bind,rw", str(small.folder / "run"))
            subprocess.run(["umount", "--lazy", state], check=True)
        client.create_limit("new", 1)
        wait_until(lambda: not client.status().trouble)
    small.stop(signal.SIGKILL)
    small.start()
    with small.client() as client:
        assert [limit.name for limit in client.list_limits()] == ["db", "new"]
