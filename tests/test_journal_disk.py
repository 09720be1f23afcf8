"""A real daemon whose journal's disk is full, read-only or gone: limits are enforced, and it heals."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.errors import AcquireTimeout, StateNotSaved
from atmost.sync import Client
from atmostd.journal import NAME
from tests.protocol_client import Client as RawClient
from tests.support import RunningDaemon, wait_until
from tests.test_state_kept import mount

TURNS = 300  # of a holder and a failed try: some 30 KB of journal, more than is free


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(folder))
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


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For everybody who opens a file there from now on."""
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_read_only_disk_refuses_changes_and_enforces(daemon: RunningDaemon) -> None:
    """The journal's file is open, so it takes writes still; nothing new can be made beside it."""
    holder = RawClient(str(daemon.socket))
    with daemon.client() as client:
        client.create_limit("db", 1)
        client.create_limit("kept", 1)
        with read_only(daemon.state_dir), read_only(daemon.folder / "run"):
            with pytest.raises(StateNotSaved, match="Read-only file system"):
                client.create_limit("new", 1)
            use(client)
            holder.ask("acquire", {"kept": 1})
            assert "Read-only file system" in client.status().trouble
        client.create_limit("new", 1)
        assert not client.status().trouble
    daemon.stop(signal.SIGKILL)
    daemon.start()
    with daemon.client() as client:
        assert [(limit.name, limit.held) for limit in client.list_limits()] == [
            ("db", 0),
            ("kept", 1),
            ("new", 0),
        ]
    holder.close()


@pytest.mark.parametrize("taken", [True, False])
def test_a_disk_that_is_read_only_at_the_start(daemon: RunningDaemon, taken: bool) -> None:
    """A daemon that cannot write its journal from its first moment enforces, says so, and heals."""
    with daemon.client() as client:
        client.create_limit("db", 1)
    daemon.stop()
    run = daemon.folder / "run"
    if taken:
        (run / NAME).unlink()
    with read_only(run):
        daemon.start()
        with daemon.client() as client:
            use(client)
            trouble = client.status().trouble
            assert f"the journal {run / NAME} cannot be written: Read-only" in trouble
            holder = RawClient(str(daemon.socket))
            holder.ask("acquire", {"db": 1})
    with daemon.client() as client:
        wait_until(lambda: not client.status().trouble, "it heals by itself")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    with daemon.client() as client:
        assert client.read_limit("db").held == 1
    holder.close()
