"""What a real daemon keeps: over its death, over restarts, and when the disk refuses.

We may be root here, whom no file mode stops, so the disk refuses for real: it is full, read-only, or
gone, or files may not grow.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atmost import wire
from atmost.errors import AtmostError, LimitNotFound, StateNotSaved, StateUnavailable
from atmost.sync import Client
from atmostd import snapshot
from atmostd.store import CURRENT, PREVIOUS, TOKENS
from tests.protocol_client import Client as RawClient
from tests.protocol_client import Failed, frame
from tests.saving import damage
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

BURST = 50
LONG_NAMES = [f"{number:02}" + "x" * 190 for number in range(20)]  # a state of some 4 KB
FILE_BYTES_MAX = 3_000  # less than that, more than the log


def generation(daemon: RunningDaemon) -> int:
    """Of the newest file: it rises by one with each write."""
    return snapshot.from_bytes((daemon.state_dir / CURRENT).read_bytes())[1]


def kill_and_start(daemon: RunningDaemon) -> None:
    daemon.stop(signal.SIGKILL)
    daemon.start()


def refusal(daemon: RunningDaemon) -> str:
    """Start a daemon that must not start; returns what it said."""
    ended = subprocess.run(
        daemon.arguments, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


# Over death and restart


def test_a_change_that_was_answered_outlives_a_kill(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("made", 5, 0.25, active=False)
    kill_and_start(daemon)
    made = client.read_limit("made")
    assert (made.limit, made.slot_decay_per_second, made.active) == (5, 0.25, False)
    client.update_limit("made", limit=6, slot_decay_per_second=0.5, active=True)
    kill_and_start(daemon)
    changed = client.read_limit("made")
    assert (changed.limit, changed.slot_decay_per_second, changed.active) == (6, 0.5, True)
    client.delete_limit("made")
    kill_and_start(daemon)
    with pytest.raises(LimitNotFound):
        client.read_limit("made")


def test_a_stop_saves_what_is_spent_and_what_was_made_by_use(
    daemon: RunningDaemon, client: Client
) -> None:
    client.create_limit("api", 10, 0.001)
    client.rate_limit("api", 5)
    client.acquire("made by use").release()
    assert daemon.stop() == 0
    for _ in range(2):  # also from the file that the next one wrote when it started
        daemon.start()
        assert 4.9 < client.read_limit("api").spent <= 5
        assert client.read_limit("made by use").implicit
        daemon.stop(signal.SIGKILL)


def test_tokens_never_go_back(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    last = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        for _ in range(3):
            with client.concurrency("db") as grant:
                assert grant.token > last
                last = grant.token
        daemon.stop(number)
        daemon.start()


def test_changes_of_one_burst_share_a_write(daemon: RunningDaemon) -> None:
    clients = [RawClient(str(daemon.socket)) for _ in range(BURST)]
    for client in clients:
        client.ask("status")
    before = generation(daemon)
    os.kill(daemon.pid, signal.SIGSTOP)  # so that they are all there when it looks
    numbers = [client.request("create_limit", f"db {n}", 1) for n, client in enumerate(clients)]
    os.kill(daemon.pid, signal.SIGCONT)
    for client, number in zip(clients, numbers, strict=True):
        assert client.answer(number)[0] == "limit"
    assert generation(daemon) - before <= 3
    kill_and_start(daemon)
    with daemon.client() as after:
        assert len(after.list_limits()) == BURST
    for client in clients:
        client.close()


def test_a_pipeline_of_changes_shares_a_write_and_keeps_its_order(daemon: RunningDaemon) -> None:
    client = RawClient(str(daemon.socket))
    client.ask("status")
    before = generation(daemon)
    os.kill(daemon.pid, signal.SIGSTOP)
    first = client.request("create_limit", "db", 1)
    twice = client.request("create_limit", "db", 2)
    gone = client.request("delete_limit", "db")
    again = client.request("create_limit", "db", 3)
    os.kill(daemon.pid, signal.SIGCONT)
    answers = [client.receive()[:2] for _ in range(4)]
    assert answers == [["failed", twice], ["limit", first], ["done", gone], ["limit", again]]
    assert client.ask("read_limit", "db")[2][1] == 3
    assert generation(daemon) - before == 1
    client.close()


# Damage


@pytest.mark.parametrize("lose", [damage, Path.unlink])
@pytest.mark.parametrize("names", [(CURRENT,), (CURRENT, PREVIOUS)])
def test_a_lost_state_is_made_good_from_the_journal(
    daemon: RunningDaemon,
    client: Client,
    lose: Callable[[Path], None],
    names: tuple[str, ...],
) -> None:
    """It has every limit, also the last one; the one before in its place would open that."""
    client.create_limit("first", 1)
    client.create_limit("second", 2, 0.5)
    with client.concurrency("first") as grant:
        before = grant.token
    daemon.stop(signal.SIGKILL)
    for name in names:
        lose(daemon.state_dir / name)
    daemon.start()
    assert [(limit.name, limit.limit) for limit in client.list_limits()] == [
        ("first", 1),
        ("second", 2),
    ]
    with client.concurrency("second") as grant:
        assert not grant.unguarded
        assert grant.token > before
    assert f"ERROR damaged state: {daemon.state_dir / CURRENT}: it" in daemon.log_text()
    assert not client.status().trouble
    state, _ = snapshot.from_bytes((daemon.state_dir / CURRENT).read_bytes())
    assert [saved.name for saved in state.limits] == ["first", "second"]
    kept = daemon.state_dir / f"{CURRENT}.damaged-1"
    assert kept.exists() == (lose is damage)


@pytest.mark.parametrize("lose", [damage, Path.unlink])
def test_the_state_before_is_used_only_if_an_operator_says_so(
    daemon: RunningDaemon, lose: Callable[[Path], None]
) -> None:
    """After a power cut, which leaves no journal."""
    with daemon.client() as client:
        client.create_limit("first", 1)
        client.create_limit("second", 2)
    daemon.stop(signal.SIGKILL)
    shutil.rmtree(daemon.folder / "run")
    lose(daemon.state_dir / CURRENT)
    daemon.start()
    with daemon.client() as client:
        with pytest.raises(StateUnavailable):
            client.acquire("second")
        loss = client._ask(wire.Recover, False)
        assert isinstance(loss, wire.Loss)
        (told,) = loss.texts
        assert "limits in that file: 'first'" in told
        client._ask(wire.Recover, True)
        wait_until(lambda: answers(client))
        assert [limit.name for limit in client.list_limits()] == ["first"]


def answers(client: Client) -> bool:
    """Whether the daemon serves."""
    try:
        client.list_limits()
    except (StateUnavailable, ConnectionError):
        return False
    return True


@pytest.mark.parametrize("names", [(CURRENT,), (TOKENS,), (CURRENT, TOKENS)])
def test_tokens_never_go_back_though_their_mark_is_damaged(
    daemon: RunningDaemon, client: Client, names: tuple[str, ...]
) -> None:
    client.create_limit("db", 1)
    last = 0
    for _ in range(3):
        with client.concurrency("db") as grant:
            assert grant.token > last
            last = grant.token
        daemon.stop(signal.SIGKILL)
        shutil.rmtree(daemon.folder / "run")  # which knows it as well
        for name in names:
            damage(daemon.state_dir / name)
        daemon.start()
        if CURRENT in names:
            with daemon.client() as operator:
                operator._ask(wire.Recover, True)
                wait_until(lambda: answers(client))


# A disk that refuses

Break = Callable[[RunningDaemon], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def folder_gone(daemon: RunningDaemon) -> Iterator[None]:
    away = daemon.folder / "away"
    daemon.state_dir.rename(away)
    yield
    away.rename(daemon.state_dir)


@contextlib.contextmanager
def folder_is_a_file(daemon: RunningDaemon) -> Iterator[None]:
    with folder_gone(daemon):
        daemon.state_dir.write_text("no folder")
        yield
        daemon.state_dir.unlink()


@contextlib.contextmanager
def files_may_not_grow(daemon: RunningDaemon) -> Iterator[None]:
    daemon.log.write_bytes(b"")  # it is such a file, too
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    yield
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(daemon: RunningDaemon) -> Iterator[None]:
    folder = str(daemon.state_dir)
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def disk_full(daemon: RunningDaemon) -> Iterator[None]:
    """A small disk of its own, with what was there, and no byte left."""
    folder = str(daemon.state_dir)
    kept = daemon.folder / "kept"
    shutil.copytree(folder, kept)
    mount("-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", folder)
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        filler = daemon.state_dir / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount here")


REFUSALS: list[tuple[Break, str]] = [
    (folder_gone, "No such file or directory"),
    (folder_is_a_file, "Not a directory"),
    (files_may_not_grow, "File too large"),
    (read_only, "Read-only file system"),
    (disk_full, "No space left on device"),
]


@pytest.mark.parametrize(
    ("breaks", "reason"), REFUSALS, ids=[breaks.__name__ for breaks, _ in REFUSALS]
)
def test_a_disk_that_refuses_changes_nothing_and_heals(
    daemon: RunningDaemon, client: Client, breaks: Break, reason: str
) -> None:
    for name in LONG_NAMES:
        client.create_limit(name, 1)
    before = client.list_limits()
    with breaks(daemon):
        for change in (
            lambda: client.create_limit("new", 1),
            lambda: client.update_limit(LONG_NAMES[0], limit=9),
            lambda: client.delete_limit(LONG_NAMES[1]),
        ):
            refuses(change, daemon, reason)
        assert client.list_limits() == before
        with client.concurrency(LONG_NAMES[0], timeout_seconds=0) as grant:  # goes on enforcing
            assert not grant.unguarded
            with pytest.raises(TimeoutError):
                client.acquire(LONG_NAMES[0], timeout_seconds=0)
        trouble = client.status().trouble
        # Where files may not grow, the journal is in trouble as well.
        said = trouble.partition("; ")[0]
        assert said == f"the state cannot be saved to {daemon.state_dir / CURRENT}: {reason}"
    client.create_limit("new", 2)
    wait_until(lambda: not client.status().trouble)
    assert daemon.log_text().count("ERROR cannot save the state") == 1
    assert daemon.log_text().count("the state is saved again") == 1
    kill_and_start(daemon)
    assert [(limit.name, limit.limit) for limit in client.list_limits()] == [
        *((name, 1) for name in LONG_NAMES),
        ("new", 2),
    ]


def refuses(change: Callable[[], object], daemon: RunningDaemon, reason: str) -> None:
    with pytest.raises(StateNotSaved) as caught:
        change()
    assert isinstance(caught.value, AtmostError)
    assert caught.value.path == str(daemon.state_dir / CURRENT)
    assert caught.value.reason == reason


def test_what_was_refused_is_not_there_after_a_kill(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("kept", 1)
    with folder_gone(daemon):
        with pytest.raises(StateNotSaved):
            client.create_limit("refused", 1)
        with pytest.raises(StateNotSaved):
            client.delete_limit("kept")
        daemon.stop(signal.SIGKILL)
    daemon.start()
    assert [limit.name for limit in client.list_limits()] == ["kept"]


def test_nobody_is_told_of_a_change_that_was_refused(daemon: RunningDaemon, client: Client) -> None:
    """Changes that come together are refused together: none may speak of another that was not made."""
    client.create_limit("kept", 1)
    raw = RawClient(str(daemon.socket))
    with folder_gone(daemon):
        together = [
            ("delete_limit", 1, "kept"),
            ("update_limit", 2, "kept", 2),
            ("create_limit", 3, "new", 1),
            ("create_limit", 4, "new", 1),
        ]
        raw.socket.sendall(b"".join(frame(*change) for change in together))
        for number in range(1, 5):
            with pytest.raises(Failed) as caught:
                raw.answer(number)
            assert caught.value.code == "state_not_saved"
        raw.socket.sendall(frame("create_limit", 5, "kept", 1))  # needs no disk to be refused
        with pytest.raises(Failed) as caught:
            raw.answer(5)
        assert caught.value.code == "limit_exists"
    raw.close()
    assert [limit.name for limit in client.list_limits()] == ["kept"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_cannot_save_still_ends(daemon: RunningDaemon, number: int) -> None:
    with folder_gone(daemon):
        assert daemon.stop(number) == (0 if number == signal.SIGTERM else -number)


def test_a_folder_that_cannot_be_used_is_refused_at_the_start(
    daemon: RunningDaemon, client: Client
) -> None:
    """One that can only not be written is another matter: test_unsaved_start.py."""
    for name in LONG_NAMES:
        client.create_limit(name, 1)
    daemon.stop()
    with folder_is_a_file(daemon):
        said = refusal(daemon)
        assert f"the state folder {daemon.state_dir}" in said
        assert "mend that, or name another with --state-dir" in said
    daemon.start()
    assert len(client.list_limits()) == len(LONG_NAMES)
