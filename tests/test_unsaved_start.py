"""A daemon that starts while its state folder, or its runtime folder, can't be written: it enforces what
it knows, says so, heals by itself, and no fencing token ever goes back.

The disks are real: small ones that are full, and folders that are mounted read-only.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atmost.errors import AcquireTimeout, StateNotSaved
from atmost.sync import Client, Grant
from atmostd import journal
from atmostd.store import CURRENT
from tests.protocol_client import Failed
from tests.returning_client import Returning
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.test_journal_disk import TURNS, full, read_only, small_disk
from tests.test_state_kept import kill_and_start, refusal

Trouble = Callable[[Path], contextlib.AbstractContextManager[None]]

TROUBLES: list[tuple[Trouble, str]] = [
    (full, "No space left on device"),
    (read_only, "Read-only file system"),
]
troubles = pytest.mark.parametrize(("breaks", "reason"), TROUBLES, ids=["full", "read_only"])
ends = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with a disk of its own for each of its folders."""
    running = RunningDaemon(tmp_path)
    with small_disk(tmp_path / "state"), small_disk(tmp_path / "run"):
        running.start()
        yield running
        running.stop(signal.SIGKILL)


class Clients:
    """One that holds the only slot of db, and one that waits for it; both come back by themselves."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.holder, self.waiter, self.looks = (
            Client(daemon.socket, reconnect_seconds=PATIENCE_SECONDS) for _ in range(3)
        )
        self.looks.create_limit("db", 1)
        self.grant = self.holder.acquire("db")
        self._pool = ThreadPoolExecutor(1)
        self._waits = self._pool.submit(self.waiter.acquire, "db")
        wait_until(lambda: self.looks.read_limit("db").waiting == 1)

    def are_as_before(self) -> None:
        """One holds, one waits, and there is no way in."""
        wait_until(
            lambda: self.looks.read_limit("db").waiting == 1
        )  # it may have to come back for that
        assert self.looks.read_limit("db").held == 1
        with pytest.raises(AcquireTimeout):
            self.looks.acquire("db", timeout_seconds=0)

    def pass_on(self) -> Grant:
        """The holder goes, the waiter comes."""
        self.grant.release()
        granted = self._waits.result(PATIENCE_SECONDS)
        assert granted.token > self.grant.token
        return granted

    def close(self) -> None:
        for client in (self.holder, self.waiter, self.looks):
            client.close()
        self._pool.shutdown()


@pytest.fixture
def clients(small: RunningDaemon) -> Iterator[Clients]:
    made = Clients(small)
    yield made
    made.close()


def next_token(client: Client, after: int) -> int:
    """It has to rise."""
    with client.concurrency("other", timeout_seconds=0) as grant:
        assert grant.token > after
        return grant.token


def refuses_changes(client: Client, daemon: RunningDaemon, reason: str) -> None:
    with pytest.raises(StateNotSaved) as caught:
        client.update_limit("db", limit=7)
    assert (caught.value.path, caught.value.reason) == (str(daemon.state_dir / CURRENT), reason)
    said = f"the state cannot be saved to {daemon.state_dir / CURRENT}: {reason}"
    assert said in client.status().trouble


def heals_and_keeps(client: Client, daemon: RunningDaemon) -> None:
    wait_until(lambda: "cannot be" not in client.status().trouble, "it heals by itself")
    client.update_limit("db", limit=7)
    kill_and_start(daemon)
    assert client.read_limit("db").limit == 7
    assert not client.status().trouble


@troubles
@ends
def test_who_holds_and_who_waits_outlive_a_restart(
    small: RunningDaemon, clients: Clients, breaks: Trouble, reason: str, number: int
) -> None:
    looks = clients.looks
    looks.create_limit("other", 1)
    with breaks(small.state_dir):
        token = clients.grant.token
        for _ in range(3):
            small.stop(number)
            small.start()
            clients.are_as_before()
            refuses_changes(looks, small, reason)
            token = next_token(looks, token)
        assert clients.pass_on().token > token
        assert looks.read_limit("db").held == 1
        kill_and_start(small)
        assert looks.read_limit("db").held == 1
    heals_and_keeps(looks, small)
    next_token(looks, token)


def wipe(daemon: RunningDaemon) -> None:
    """As a reboot does: the journal is gone, and every holder with it."""
    for path in (daemon.folder / "run").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_full_disk_after_a_reboot(small: RunningDaemon) -> None:
    with small.client() as client:
        client.create_limit("db", 1)
        client.create_limit("other", 1)
        token = next_token(client, 0)
        with full(small.state_dir):
            for _ in range(3):
                small.stop(signal.SIGKILL)
                wipe(small)
                small.start()
                with pytest.raises(AcquireTimeout), client.concurrency("db"):
                    Client(small.socket).acquire("db", timeout_seconds=0)
                refuses_changes(client, small, "No space left on device")
                token = next_token(client, token)
        heals_and_keeps(client, small)
        next_token(client, token)


def test_a_read_only_disk_after_a_reboot_is_refused(small: RunningDaemon) -> None:
    """Another reboot, and the tokens that this daemon would give would be given again."""
    with small.client() as client:
        client.create_limit("db", 1)
    small.stop(signal.SIGKILL)
    wipe(small)
    with read_only(small.state_dir):
        said = refusal(small)
        assert f"cannot write to the state folder {small.state_dir}: Read-only" in said
        assert "which fencing tokens were given is known from there alone" in said
    small.start()


@ends
def test_a_runtime_folder_that_is_full_at_the_start(
    small: RunningDaemon, clients: Clients, number: int
) -> None:
    """The journal of the daemon before is neither replaced nor lost, however often it is read."""
    path = small.folder / "run" / journal.NAME
    clients.looks.create_limit("other", 1)
    token = clients.grant.token
    with full(small.folder / "run"):
        small.stop(number)
        before = path.read_bytes()
        for _ in range(2):
            small.start()
            clients.are_as_before()
            trouble = clients.looks.status().trouble
            assert f"the journal {path} cannot be written: No space left" in trouble
            token = next_token(clients.looks, token)
            clients.looks.update_limit("db", limit=1)  # the state has a disk of its own
            small.stop(number)
            assert path.read_bytes() == before
        small.start()
        clients.are_as_before()
    wait_until(lambda: not clients.looks.status().trouble, "it heals by itself")
    kill_and_start(small)
    clients.are_as_before()
    assert clients.pass_on().token > token


def test_who_was_given_slots_that_no_journal_knows_of_is_heard_first(small: RunningDaemon) -> None:
    first, waits, last = (Returning(str(small.socket)) for _ in range(3))
    first.ask("create_limit", "db", 1)
    held = first.ask("acquire", {"db": 1})[1]
    asked = waits.request("acquire", {"db": 1})
    waits.ask("status")
    with full(small.folder / "run"):
        for _ in range(TURNS):  # so that not even a part of a page is left
            with pytest.raises(Failed):
                first.ask("acquire", {"db": 1}, {}, 0)
        first.send("release", held)
        waits.send("release", waits.answer(asked)[1])
        _, kept, token, *_ = last.ask("acquire", {"db": 1})
        kill_and_start(small)
        first.come_back()
        first.resume()
        new = Returning(str(small.socket))
        tries = new.request("acquire", {"db": 1}, {}, 0)
        new.ask("status")
        last.come_back()
        last.send("keep", kept, {"db": 1}, token)
        last.resume()
        with pytest.raises(Failed, match="no 1 slot of 'db'"):
            new.answer(tries)
        last.send("release", kept)
        last.ask("status")
        assert new.ask("acquire", {"db": 1})[2] > token
    for client in (first, waits, last, new):
        client.close()


@ends
def test_both_folders_full_at_the_start(
    small: RunningDaemon, clients: Clients, number: int
) -> None:
    looks = clients.looks
    looks.create_limit("other", 1)
    token = clients.grant.token
    with full(small.state_dir), full(small.folder / "run"):
        for _ in range(3):
            small.stop(number)
            small.start()
            clients.are_as_before()
            refuses_changes(looks, small, "No space left on device")
            assert "the journal" in looks.status().trouble
            token = next_token(looks, token)
        assert clients.pass_on().token > token
    heals_and_keeps(looks, small)


def test_a_daemon_that_could_not_save_at_its_start_ends_in_order(small: RunningDaemon) -> None:
    with small.client() as client:
        client.create_limit("db", 1)
        small.stop()
        with full(small.state_dir):
            small.start()
            assert small.stop() == 0
        small.start()
        assert client.read_limit("db").limit == 1


@troubles
def test_a_first_start_is_refused(tmp_path: Path, breaks: Trouble, reason: str) -> None:
    """Better now than at the first change: there is nothing yet that could be enforced."""
    daemon = RunningDaemon(tmp_path)
    with small_disk(daemon.state_dir):
        with breaks(daemon.state_dir):
            assert f"the state folder {daemon.state_dir}: {reason}" in refusal(daemon)
        daemon.start()
        daemon.stop()


def test_a_state_folder_that_is_missing_starts_from_the_journal(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("other", 1)
        token = next_token(client, 0)
        daemon.stop(signal.SIGKILL)
        shutil.rmtree(daemon.state_dir)
        daemon.start()
        assert client.read_limit("other").limit == 1
        next_token(client, token)


def test_atmost_status_says_what_is_to_be_mended(small: RunningDaemon) -> None:
    with small.client() as client:
        client.create_limit("db", 1)
    with full(small.state_dir):
        kill_and_start(small)
        told = subprocess.run(
            [sys.executable, "-m", "atmost", "status"],
            env=small.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert told.returncode == 0
    said = f"the state cannot be saved to {small.state_dir / CURRENT}: No space left on device"
    assert f"trouble\t{said}\n" in told.stdout
