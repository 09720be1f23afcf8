"""The first connection of a client: while the daemon restarts, to whose daemon, and by which path."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atmost import asyncio_connection, connecting, paths, sync_socket, wire
from atmost.errors import DaemonUnavailable
from atmost.reconnecting import FIRST_SECONDS, FirstTries
from tests.callers import SIDES, LoopThreads, Side, nobody_listens
from tests.scripted import ScriptedDaemon
from tests.support import PATIENCE_SECONDS, RunningDaemon

both = pytest.mark.parametrize("kind", SIDES)

NewSide = Callable[..., Side]


@pytest.fixture
def new_side(kind: str) -> Iterator[NewSide]:
    """Make a client under test for a path."""
    loops = LoopThreads()
    made: list[Side] = []

    def make(path: str | Path | None, **options: Any) -> Side:
        made.append(Side(kind, path, loops, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for side in made:
        side.close()
    loops.close()


# ---- While the daemon restarts


def leave_socket(path: Path) -> None:
    """As a daemon that was killed."""
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(path))


@both
def test_a_socket_that_refuses_is_tried_again(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.reconnecting.FIRST_SECONDS", PATIENCE_SECONDS)
    leave_socket(tmp_path / "s")
    side = new_side(tmp_path / "s")
    asking = side.caller().begin(side.client.delete_limit, "db")
    time.sleep(0.02)
    (tmp_path / "s").unlink()  # the daemon that comes makes it anew: for a moment there is none
    with ScriptedDaemon(tmp_path / "s") as daemon:
        peer = daemon.accept()
        peer.say(wire.Done(peer.hear(wire.DeleteLimit).request))
        asking.result(PATIENCE_SECONDS)


@both
@pytest.mark.parametrize("greets", [True, False], ids=["after hello", "at once"])
def test_a_handshake_that_breaks_is_tried_again(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, greets: bool
) -> None:
    monkeypatch.setattr("atmost.reconnecting.FIRST_SECONDS", PATIENCE_SECONDS)
    with ScriptedDaemon(tmp_path / "s") as daemon:
        side = new_side(tmp_path / "s")
        asking = side.caller().begin(side.client.delete_limit, "db")
        for _ in range(3):
            if greets:
                daemon.accept(welcome=False).hang_up()
            else:
                daemon.turn_away()
        peer = daemon.accept()
        peer.say(wire.Done(peer.hear(wire.DeleteLimit).request))
        asking.result(PATIENCE_SECONDS)


@both
def test_no_longer_than_the_time_given(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.reconnecting.FIRST_SECONDS", 10 * PATIENCE_SECONDS)
    leave_socket(tmp_path / "s")
    side = new_side(tmp_path / "s")
    for seconds in (0, 0.05):
        with pytest.raises(DaemonUnavailable, match="nobody listens there"):
            side.acquire("db", timeout_seconds=seconds)


@both
def test_what_is_not_there_is_not_waited_for(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.reconnecting.FIRST_SECONDS", 10 * PATIENCE_SECONDS)
    with pytest.raises(DaemonUnavailable, match="there is no such socket"):
        new_side(nobody_listens(tmp_path)).status()
    (tmp_path / "file").touch()
    with pytest.raises(DaemonUnavailable, match="nobody listens there"):
        new_side(tmp_path / "file").status()


def test_the_tries_end() -> None:
    tries = FirstTries(100.0, None)
    now, pauses = 100.0, []
    while (pause := tries.pause(now)) is not None:
        pauses.append(pause)
        now += pause
    assert now == pytest.approx(100.0 + FIRST_SECONDS)
    assert 5 < len(pauses) < 30
    assert FirstTries(100.0, 0.0).pause(100.0) is None


# ---- Whose daemon


@pytest.fixture
def user_default(daemon: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A daemon listens in the user's default place, and none in the system's."""
    monkeypatch.delenv("ATMOST_SOCKET", raising=False)
    monkeypatch.setattr(paths, "SYSTEM_RUNTIME_DIR", str(tmp_path / "no system"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    place = tmp_path / "xdg" / "atmost" / "atmost.sock"
    place.parent.mkdir(parents=True)
    place.symlink_to(daemon.socket)
    return place


@both
def test_another_users_socket_in_the_users_place(
    new_side: NewSide,
    user_default: Path,
    daemon: RunningDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert new_side(None).status()
    monkeypatch.setattr(connecting, "_listener", lambda _: 54321)
    with pytest.raises(DaemonUnavailable) as caught:
        new_side(None).status()
    assert f"nor at {user_default} (default, of the user): it is of another user" in str(
        caught.value
    )
    assert "uid 54321" in str(caught.value)
    assert new_side(daemon.socket).status()  # a path that somebody named is taken
    monkeypatch.setenv("ATMOST_SOCKET", str(user_default))
    assert new_side(None).status()
    monkeypatch.delenv("ATMOST_SOCKET")
    monkeypatch.setattr(connecting, "_listener", lambda _: 0)
    assert new_side(None).status()


# ---- By which path


@both
@pytest.mark.parametrize("named", ["given", "by the environment"])
def test_a_relative_path_is_the_same_socket_in_another_folder(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with ScriptedDaemon(tmp_path / "a" / "s") as daemon:
        monkeypatch.chdir(tmp_path / "a")
        if named == "given":
            side = new_side("s")
            monkeypatch.chdir(tmp_path / "b")
        else:
            monkeypatch.setenv("ATMOST_SOCKET", "s")
            side = new_side(None)
        asking = side.caller().begin(side.client.delete_limit, "db")
        peer = daemon.accept()
        monkeypatch.chdir(tmp_path / "b")
        peer.hear(wire.DeleteLimit)
        daemon.go()
        daemon.come()
        peer = daemon.accept()
        (asked,) = peer.hear_all()
        assert isinstance(asked, wire.DeleteLimit)
        peer.say(wire.Done(asked.request), wire.Done(peer.resume))
        asking.result(PATIENCE_SECONDS)


def test_a_path_that_would_be_too_long_stays_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("s") == str(tmp_path / "s")
    assert paths.absolute("../s") == f"{tmp_path}/../s"
    deep = tmp_path / ("d" * paths.SOCKET_PATH_BYTES_MAX)
    deep.mkdir()
    monkeypatch.chdir(deep)
    assert paths.absolute("s") == "s"
    deep.rmdir()
    assert paths.absolute("s") == "s"  # there is no folder at all
    assert paths.absolute("/s") == "/s"


# ---- Out of something, for a moment


@both
@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_a_socket_that_cannot_be_made_is_made_later(
    new_side: NewSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """While the connection is lost."""
    failed: list[int] = []

    class Scarce(socket.socket):
        def __init__(self, *args: Any) -> None:
            if args == (socket.AF_UNIX, socket.SOCK_STREAM) and len(failed) < 3:
                failed.append(1)
                raise error
            super().__init__(*args)

    class Shim:
        socket = Scarce

        def __getattr__(self, name: str) -> Any:
            return getattr(socket, name)

    with ScriptedDaemon(tmp_path / "s") as daemon, contextlib.ExitStack() as later:
        side = new_side(tmp_path / "s", reconnect_seconds=PATIENCE_SECONDS)
        asking = side.caller().begin(side.client.delete_limit, "db")
        peer = daemon.accept()
        peer.hear(wire.DeleteLimit)
        for module in (asyncio_connection, sync_socket):
            monkeypatch.setattr(module, "socket", Shim())
        later.callback(monkeypatch.undo)
        peer.hang_up()
        peer = daemon.accept()
        (asked,) = peer.hear_all()
        assert isinstance(asked, wire.DeleteLimit)
        peer.say(wire.Done(asked.request), wire.Done(peer.resume))
        asking.result(PATIENCE_SECONDS)
    assert len(failed) == 3
