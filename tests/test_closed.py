"""State unavailable: what cannot be trusted opens no limit, hangs nobody, and waits for an operator."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atmost import wire
from atmost.errors import LimitNotFound, PermissionDenied, StateNotSaved, StateUnavailable
from atmost.sync import Client
from atmostd import journal, records, snapshot
from atmostd.store import CURRENT, PREVIOUS
from tests.protocol_client import Client as RawClient
from tests.protocol_client import Failed, frame
from tests.saving import damage
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import Atmost, client_of
from tests.test_random_frames import hear, hello_of, row_of_frames, speak

NOBODY = 65534
ROWS = 1_000  # of a few random frames each
ROOM = 5
BOUNDS = ["--bound", f"connections_per_uid={ROOM}"]


@pytest.fixture
def atmost(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Atmost:
    return client_of(daemon, capsys)


def journal_of(daemon: RunningDaemon) -> Path:
    return daemon.folder / "run" / journal.NAME


def damage_state(daemon: RunningDaemon) -> None:
    """And there is no journal that has it all: some was decided behind its back."""
    for name in (CURRENT, PREVIOUS):
        damage(daemon.state_dir / name)
    journal_of(daemon).with_name("journal.behind").touch()


def damage_journal(daemon: RunningDaemon) -> None:
    damage(journal_of(daemon))


def damage_both(daemon: RunningDaemon) -> None:
    damage_state(daemon)
    damage_journal(daemon)


def begin(daemon: RunningDaemon, damages: Callable[[RunningDaemon], None]) -> None:
    """Make limits `first` and `second`, damage what is kept, and start again."""
    with daemon.client() as client:
        client.create_limit("first", 1)
        client.create_limit("second", 2)
    daemon.stop(signal.SIGKILL)
    damages(daemon)
    daemon.start()


DAMAGES = [damage_state, damage_journal, damage_both]


@pytest.mark.parametrize("damages", DAMAGES)
def test_no_limit_opens_and_nobody_hangs(
    daemon: RunningDaemon, damages: Callable[[RunningDaemon], None]
) -> None:
    begin(daemon, damages)
    raw = RawClient(str(daemon.socket))
    asked = [
        raw.request("acquire", {"first": 1}),
        raw.request("acquire", {"first": 1}, {}, None, True),
        raw.request("acquire", {}, {"never heard of": 1}),
        raw.request("create_limit", "new", 1),
        raw.request("read_limit", "first"),
        raw.request("update_limit", "first", 5),
        raw.request("delete_limit", "first"),
        raw.request("list_limits"),
        raw.request("list_tickets"),
        raw.request("resume"),
    ]
    raw.request("keep", {"first": 1}, 7)
    for number in asked:
        with pytest.raises(Failed) as caught:
            raw.answer(number)
        assert caught.value.code == "state_unavailable"
        path = journal_of(daemon) if damages is damage_journal else daemon.state_dir / CURRENT
        assert caught.value.fields["path"] == str(path)
    raw.close()
    assert daemon.log_text().count("ERROR state unavailable") == (
        2 if damages is damage_both else 1
    )
    assert daemon.stop() == 0


def test_the_error_and_the_status_say_what_to_do(daemon: RunningDaemon) -> None:
    begin(daemon, damage_state)
    with daemon.client() as client:
        with pytest.raises(StateUnavailable, match="atmost recover") as caught:
            client.acquire("first")
        assert caught.value.path == str(daemon.state_dir / CURRENT)
        trouble = client.status().trouble
        assert trouble.startswith("nothing is granted: ")
        assert "checksum" in trouble


def test_accepting_the_loss_of_the_state(daemon: RunningDaemon, atmost: Atmost) -> None:
    """The journal of this run of the host, up to where it could be kept, is what is left."""
    begin(daemon, damage_state)
    code, told, err = atmost("recover")
    assert code == 1
    assert "all limits that were created would be lost" in told
    assert "--accept-loss" in err
    with daemon.client() as client, pytest.raises(StateUnavailable):
        client.list_limits()  # asking accepts nothing
    inode = os.stat(daemon.socket).st_ino
    code, told, err = atmost("recover", "--accept-loss")
    assert code == 0
    assert f"kept as {daemon.state_dir / CURRENT}.damaged-1" in told
    with daemon.client() as client:
        wait_until(lambda: answers(client))
        assert os.stat(daemon.socket).st_ino == inode
        assert client.status().pid == daemon.pid
        assert client.status().trouble == ""
        assert [limit.name for limit in client.list_limits()] == ["first", "second"]
        with client.concurrency("first") as grant:
            assert grant.token > 10**15  # greater than all that may have been given
    assert atmost("recover") == (
        0,
        "",
        "atmost: nothing is damaged: there is nothing to recover from\n",
    )
    damaged = daemon.state_dir / f"{CURRENT}.damaged-1"
    with pytest.raises(snapshot.SnapshotError):
        snapshot.from_bytes(damaged.read_bytes())


def answers(client: Client) -> bool:
    """Whether the daemon serves."""
    try:
        client.list_limits()
    except (StateUnavailable, ConnectionError):
        return False
    return True


def test_accepting_the_loss_of_the_journal(daemon: RunningDaemon, atmost: Atmost) -> None:
    begin(daemon, damage_journal)
    assert "who holds slots and who waits" in atmost("recover").out
    assert atmost("recover", "--accept-loss").code == 0
    with daemon.client() as client:
        wait_until(lambda: answers(client))
        assert [limit.name for limit in client.list_limits()] == ["first", "second"]
        with client.concurrency("first"), pytest.raises(TimeoutError):
            client.acquire("first", timeout_seconds=0)
    assert journal_of(daemon).with_name("journal.damaged-1").exists()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    with daemon.client() as client:
        assert len(client.list_limits()) == 2


def test_accepting_the_loss_of_everything(daemon: RunningDaemon, atmost: Atmost) -> None:
    begin(daemon, damage_both)
    assert atmost("recover", "--accept-loss").code == 0
    with daemon.client() as client:
        wait_until(lambda: answers(client))
        assert client.list_limits() == []
        with pytest.raises(LimitNotFound):
            client.acquire("first", strict=True)


def test_a_client_without_the_right_decides_nothing(daemon: RunningDaemon) -> None:
    if os.geteuid():
        pytest.skip("takes root to become somebody else")
    begin(daemon, damage_state)
    for folder in (daemon.folder, *daemon.folder.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o011)
    script = (
        "import os, sys; sys.path.insert(0, '.');"
        "from tests.protocol_client import Client;"
        f"os.setuid({NOBODY});"
        f"client = Client({str(daemon.socket)!r});"
        "print(client.request('recover', True), client.receive()[2])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.stdout.split() == ["1", PermissionDenied.code], ran.stderr
    with daemon.client() as client, pytest.raises(StateUnavailable):
        client.list_limits()


def test_a_loss_that_cannot_be_put_aside_is_not_accepted(daemon: RunningDaemon) -> None:
    begin(daemon, damage_state)
    away = daemon.folder / "away"
    daemon.state_dir.rename(away)
    with daemon.client() as client:
        with pytest.raises(StateNotSaved):
            client._ask(wire.Recover, True)
        with pytest.raises(StateUnavailable):
            client.list_limits()
    away.rename(daemon.state_dir)
    with daemon.client() as client:
        client._ask(wire.Recover, True)


def test_a_backup_that_was_put_back_is_used_after_a_restart(
    daemon: RunningDaemon, client: Client
) -> None:
    client.create_limit("kept", 3)
    backup = daemon.folder / "backup"
    shutil.copy(daemon.state_dir / CURRENT, backup)
    begin(daemon, damage_state)
    daemon.stop()
    shutil.copy(backup, daemon.state_dir / CURRENT)
    daemon.start()
    with daemon.client() as after:
        assert after.read_limit("kept").limit == 3


def test_the_door_is_as_narrow_as_ever(tmp_path: Path) -> None:
    """Else one user could keep the operator out."""
    daemon = RunningDaemon(tmp_path, *BOUNDS).start()
    begin(daemon, damage_state)
    with contextlib.ExitStack() as stack:
        for number in range(ROOM + 3):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(PATIENCE_SECONDS)
            connection.connect(str(daemon.socket))
            connection.sendall(hello())
            answer = connection.recv(4096)
            assert (b"welcome" in answer) == (number < ROOM)
            assert (b"too_many" in answer) == (number >= ROOM)
        assert not is_let_in(daemon)
    wait_until(lambda: is_let_in(daemon))  # they have left
    assert daemon.stop() == 0


def hello() -> bytes:
    return frame("hello", 1, os.urandom(16), os.getpid(), ["job"], "ada", "")


def is_let_in(daemon: RunningDaemon) -> bool:
    with contextlib.closing(RawClient(str(daemon.socket))) as raw:
        try:
            return bool(raw.ask("recover", False)[0] == "loss")
        except (Failed, OSError, EOFError):
            return False


@pytest.mark.parametrize("hello", [False, True])
def test_bad_bytes_end_their_connection_alone(daemon: RunningDaemon, hello: bool) -> None:
    begin(daemon, damage_state)
    neighbour = RawClient(str(daemon.socket))
    assert neighbour.ask("status")[0] == "daemon_status"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(daemon.socket))
        if hello:
            neighbour.ask("status")
        connection.sendall(b"\0\0\0\1\xc1")
        data = b""
        while piece := connection.recv(4096):
            data += piece
        assert b"protocol_error" in data
    assert neighbour.ask("status")[0] == "daemon_status"
    neighbour.close()


def test_random_frames_find_it_as_it_was(daemon: RunningDaemon) -> None:
    begin(daemon, damage_state)
    neighbour = RawClient(str(daemon.socket))
    source = random.Random(1)
    for _ in range(ROWS):
        # A recover among them that accepts would be no accident: it is what it says.
        row = [data for data in row_of_frames(source) if b"recover" not in data]
        hear(speak(daemon, row, hello_of(source)))
        neighbour.ask("status")
    with pytest.raises(Failed):
        neighbour.ask("list_limits")
    neighbour.close()
    assert "Traceback" not in daemon.log_text()
    assert daemon.stop() == 0


# What is no damage


def test_a_torn_tail_starts_by_itself(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    daemon.stop(signal.SIGKILL)
    path = journal_of(daemon)
    path.write_bytes(path.read_bytes()[:-3])
    daemon.start()
    assert client.read_limit("db").limit == 1


def test_a_journal_of_another_run_of_the_host_is_void(
    daemon: RunningDaemon, client: Client
) -> None:
    client.create_limit("db", 1)
    daemon.stop(signal.SIGKILL)
    journal_of(daemon).write_bytes(records.head("another") + b"whatever")
    daemon.start()
    assert client.read_limit("db").limit == 1


def test_no_journal_starts_by_itself(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    daemon.stop(signal.SIGKILL)
    journal_of(daemon).unlink()
    daemon.start()
    assert client.read_limit("db").limit == 1
    assert re.search(r"ERROR", daemon.log_text()) is None
