"""The daemon as a process: how it starts, whom it lets in, how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import atmostd.__main__
from atmost import paths
from atmost.errors import DaemonUnavailable, PermissionDenied
from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def refusal(running: RunningDaemon) -> str:
    """Start a daemon that must not start; returns what it said."""
    ended = subprocess.run(
        running.arguments, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_second_daemon_on_the_same_socket_names_the_first(daemon: RunningDaemon) -> None:
    assert f"(pid {daemon.pid})" in refusal(daemon)
    with daemon.client() as client:
        assert client.status().pid == daemon.pid


def test_second_daemon_on_the_same_state_names_the_first(daemon: RunningDaemon) -> None:
    other = RunningDaemon(daemon.folder)
    other.socket = daemon.folder / "other"
    said = refusal(other)
    assert f"(pid {daemon.pid})" in said
    assert str(daemon.state_dir) in said
    assert not other.socket.exists()


def test_stale_socket_of_a_killed_daemon_is_replaced(daemon: RunningDaemon) -> None:
    daemon.stop(signal.SIGKILL)
    assert daemon.socket.exists()
    daemon.start()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    running.socket.write_text("somebody's notes")
    assert "is no socket" in refusal(running)
    assert running.socket.read_text() == "somebody's notes"


def test_socket_of_another_program_is_left_alone(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(running.socket))
        other.listen()
        assert "another program" in refusal(running)
        assert running.socket.exists()


def test_socket_path_too_long_for_the_kernel(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    running.socket = tmp_path / ("x" * 120)
    assert "at most 107" in refusal(running)


def test_state_folder_that_is_a_file(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path)
    running.state_dir.write_text("no folder")
    assert str(running.state_dir) in refusal(running)


def test_wrong_arguments_exit_with_usage() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "atmostd", "--sockt", "x"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert "usage: atmostd" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_order(daemon: RunningDaemon, number: signal.Signals) -> None:
    """Nobody is left hanging, nothing is left behind, and the levels are on disk."""
    client = Client(daemon.socket, reconnect_seconds=0.2)
    client.create_limit("db", 1)
    client.create_limit("slow", 10, 0.001)
    client.rate_limit("slow", 10)
    grant = client.acquire("db")
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            client.acquire("db")
        except DaemonUnavailable as error:
            outcome.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: client.read_limit("db").waiting == 1)
    assert daemon.stop(number) == 0
    waiter.join(PATIENCE_SECONDS)
    assert outcome
    assert not daemon.socket.exists()
    grant.release()
    daemon.start()
    assert client.read_limit("slow").active_slots == 10
    assert client.read_limit("db").active_slots == 0
    client.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, as pytest's are not; shared as /tmp is."""
    folder = Path(tempfile.mkdtemp(prefix="atmost-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def fork_as_nobody(run: Callable[[], int]) -> int:
    """Run this in a child process of another user. Returns its pid."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _answers(pid: int) -> bool:
    """Whether the daemon of this process is the one that a client finds by itself."""
    for (
        at
    ) in paths.socket_paths():  # by their names: root's client takes no other user's as its own
        try:
            with Client(at.path) as client:
                return client.status().pid == pid
        except DaemonUnavailable:
            continue
    return False


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_root
def test_without_options_a_user_gets_the_users_own_folders(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as root, whose daemon is the system's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_folder / "r"))
    monkeypatch.setenv("XDG_STATE_HOME", str(open_folder / "s"))
    path = open_folder / "r" / "atmost" / "atmost.sock"
    child = fork_as_nobody(lambda: atmostd.__main__.main([]))
    try:
        wait_until(partial(_answers, child))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((open_folder / "s" / "atmost").stat().st_mode) == 0o700
    finally:
        os.kill(child, signal.SIGTERM)
    assert exit_code(child) == 0


@needs_root
def test_folder_of_somebody_else_is_refused(open_folder: Path) -> None:
    """Its owner could put another socket in place of ours."""
    os.chown(open_folder, NOBODY + 1, NOBODY + 1)
    running = RunningDaemon(open_folder)
    running.state_dir = open_folder / "state"
    child = fork_as_nobody(lambda: atmostd.__main__.main(running.arguments[3:]))
    assert exit_code(child) == 1


@needs_root
def test_anyone_may_use_limits_but_only_their_owner_changes_them(open_folder: Path) -> None:
    daemon = RunningDaemon(open_folder).start()
    try:
        with daemon.client() as client:
            client.create_limit("db", 1)
        assert exit_code(fork_as_nobody(lambda: _as_somebody_else(daemon.client()))) == 0
    finally:
        daemon.stop(signal.SIGKILL)


def _as_somebody_else(client: Client) -> int:
    with client.concurrency("db"):
        held = client.read_limit("db").held
    refused = 0
    for change in (
        lambda: client.create_limit("mine", 1),
        lambda: client.update_limit("db", limit=100),
        lambda: client.delete_limit("db"),
    ):
        try:
            change()
        except PermissionDenied as error:
            refused += error.uid == 65534
    unchanged = [(limit.name, limit.limit) for limit in client.list_limits()] == [("db", 1)]
    return 0 if (held, refused, unchanged) == (1, 3, True) else 1


def test_system_daemon_is_open_to_all_and_its_state_to_nobody(daemon: RunningDaemon) -> None:
    mode = 0o666 if os.geteuid() == 0 else 0o600
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == mode
    assert stat.S_IMODE(daemon.state_dir.stat().st_mode) == 0o700
    for path in daemon.state_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ready_line_names_socket_and_state(daemon: RunningDaemon) -> None:
    assert f"(pid {daemon.pid}) listens on {daemon.socket}" in daemon.log_text()
    assert str(daemon.state_dir) in daemon.log_text()


def test_implicit_limit_is_logged_once_with_the_command_that_activates_it(
    daemon: RunningDaemon, client: Client
) -> None:
    for _ in range(3):
        with client.concurrency("unheard of"):
            pass
    warnings = [line for line in daemon.log_text().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "atmost update 'unheard of' --limit N --enable" in warnings[0]


@pytest.mark.parametrize(
    ("release", "will_do"),
    [("5.2.21", False), ("4.19.0-26-amd64", False), ("5.3.0", True), ("6.1.0-13-amd64", True)],
)
def test_kernel_that_cannot_say_when_a_process_dies(release: str, will_do: bool) -> None:
    assert atmostd.__main__.kernel_will_do(release) is will_do
