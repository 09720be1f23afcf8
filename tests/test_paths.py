"""Where things lie: which socket is tried, in which order, and where that path came from."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import atmost
import atmost.asyncio
from atmost import paths, sync
from atmost.connecting import none_answers
from atmost.errors import DaemonUnavailable
from atmost.paths import SocketPath, socket_paths, user_runtime_dir, user_state_dir
from tests.support import RunningDaemon

UID = os.geteuid()
SYSTEM = SocketPath("/run/atmost/atmost.sock", "default, of the system")


@pytest.fixture
def run_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether /run/user/<uid> is there."""

    def there(is_there: bool) -> None:
        monkeypatch.setattr(os.path, "isdir", lambda path: is_there)

    return there


def test_given_path_is_the_only_one() -> None:
    environ = {"ATMOST_SOCKET": "/env", "XDG_RUNTIME_DIR": "/xdg"}
    assert socket_paths("/mine", environ) == [SocketPath("/mine", "given")]
    assert socket_paths(Path("/mine"), environ) == [SocketPath("/mine", "given")]


def test_then_the_environment_and_nothing_else() -> None:
    environ = {"ATMOST_SOCKET": "/env", "XDG_RUNTIME_DIR": "/xdg"}
    assert socket_paths(None, environ) == [SocketPath("/env", "from ATMOST_SOCKET")]


@pytest.mark.parametrize("environ", [{}, {"ATMOST_SOCKET": ""}])
def test_then_the_system_and_then_the_user(environ: dict[str, str]) -> None:
    user = SocketPath("/xdg/atmost/atmost.sock", "default, of the user")
    assert socket_paths(None, {**environ, "XDG_RUNTIME_DIR": "/xdg"}) == [SYSTEM, user]


@pytest.mark.parametrize("unusable", [{}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "here"}])
def test_without_xdg_runtime_dir(
    unusable: dict[str, str], run_user: Callable[[bool], None]
) -> None:
    run_user(True)
    assert user_runtime_dir(unusable) == f"/run/user/{UID}/atmost"
    run_user(False)
    assert user_runtime_dir(unusable) == f"/tmp/atmost-{UID}"
    assert socket_paths(None, unusable)[1].path == f"/tmp/atmost-{UID}/atmost.sock"


@pytest.mark.parametrize("unusable", [{}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "here"}])
def test_state_of_a_user(unusable: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert user_state_dir({"XDG_STATE_HOME": "/s"}) == "/s/atmost"
    assert user_state_dir(unusable) == "/home/ann/.local/state/atmost"


def test_environment_is_read_at_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATMOST_SOCKET", "/one")
    assert socket_paths()[0].path == "/one"
    monkeypatch.setenv("ATMOST_SOCKET", "/two")
    assert socket_paths()[0].path == "/two"


def test_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert found is not None
    assert paths.version() == atmost.__version__ == found[1]


# ---- What is tried


def user_daemon_only(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: Path
) -> None:
    """This daemon is the user's own; `system` is where the system's would be."""
    monkeypatch.delenv("ATMOST_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    monkeypatch.setattr(paths, "SYSTEM_RUNTIME_DIR", str(system))
    (tmp_path / "xdg" / "atmost").mkdir(parents=True)
    (tmp_path / "xdg" / "atmost" / "atmost.sock").symlink_to(daemon.socket)


def pids_found() -> tuple[int, int]:
    """Which daemon each of the clients finds by itself."""

    async def ask() -> int:
        async with atmost.asyncio.Client() as client:
            return (await client.status()).pid

    with sync.Client() as client:
        return client.status().pid, asyncio.run(ask())


def test_the_users_own_is_found_where_there_is_none_of_the_system(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user_daemon_only(daemon, monkeypatch, tmp_path, tmp_path / "missing")
    assert pids_found() == (daemon.pid, daemon.pid)


def test_a_default_that_is_no_daemon_is_an_answer(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is there but cannot be used is not passed over in silence."""
    system = tmp_path / "system"
    system.mkdir()
    (system / "atmost.sock").symlink_to(tmp_path / "loop")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    user_daemon_only(daemon, monkeypatch, tmp_path, system)
    with pytest.raises(DaemonUnavailable, match=r"default, of the system.*symbolic links"):
        pids_found()


def test_error_tells_all_that_was_tried() -> None:
    user = SocketPath("/tmp/atmost-5/atmost.sock", "default, of the user")
    error = none_answers([(SYSTEM, "there is no such socket"), (user, "nobody listens")])
    assert (error.path, error.source) == SYSTEM
    assert f"no atmost daemon at {SYSTEM.path} ({SYSTEM.source}): there is no such" in str(error)
    assert (
        f"nor at {user.path} ({user.source}): nobody listens; start one with: atmost daemon"
        in str(error)
    )
