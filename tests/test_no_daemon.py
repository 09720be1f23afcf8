"""No daemon, one that dies, one that hangs, and what is no daemon at all: both clients say so.

semantics.md 3: which socket was tried, where that path came from, and the command that starts one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import atmost.asyncio
from atmost import sync, wire
from atmost.asked import GRACE_SECONDS
from atmost.errors import DaemonUnavailable, ProtocolError
from atmost.exchange import HELLO_SECONDS
from tests.callers import (
    SIDES,
    LoopThreads,
    Side,
    listening,
    nobody_listens,
    wait_for_line,
    wait_until_free,
)
from tests.scripted import ScriptedDaemon
from tests.support import PATIENCE_SECONDS, RunningDaemon

both = pytest.mark.parametrize("kind", SIDES)

NewSide = Callable[..., Side]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that seems to restart is waited for in test_first_connection.py."""
    monkeypatch.setattr("atmost.reconnecting.FIRST_SECONDS", 0.01)


@pytest.fixture
def new_side(kind: str) -> Iterator[NewSide]:
    """Make a client under test for a path."""
    loops = LoopThreads()
    made: list[Side] = []

    def make(path: Path | None, kind: str = kind, **options: Any) -> Side:
        made.append(Side(kind, path, loops, **options))
        return made[-1]

    yield make
    for side in made:
        side.close()
    loops.close()


# ---- None there


@both
def test_nobody_there(new_side: NewSide, tmp_path: Path) -> None:
    path = nobody_listens(tmp_path)
    side = new_side(path)
    calls: list[Callable[[], Any]] = [
        *(side.status, side.list_limits),
        lambda: side.acquire("db"),
        lambda: side.caller().enter("db", timeout_seconds=0),
    ]
    for call in calls:
        with pytest.raises(DaemonUnavailable) as caught:
            call()
        assert isinstance(caught.value, ConnectionError)
        assert (caught.value.path, caught.value.source) == (str(path), "given")
        assert str(caught.value) == (
            f"no atmost daemon at {path} (given): there is no such socket; "
            f"start one with: atmostd --socket {path}"
        )


def test_default_clients_say_where_the_path_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATMOST_SOCKET", str(path := nobody_listens(tmp_path)))
    with pytest.raises(DaemonUnavailable) as of_sync:
        sync.rate_limit("api")
    with pytest.raises(DaemonUnavailable) as of_asyncio:
        asyncio.run(atmost.asyncio.rate_limit("api"))
    assert str(of_sync.value) == str(of_asyncio.value)
    assert f"no atmost daemon at {path} (from ATMOST_SOCKET): " in str(of_sync.value)


@both
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("file", "nobody listens there"),
        ("folder", "nobody listens there"),
        ("stale", "nobody listens there"),
        ("below a file", "Not a directory"),
        ("too long", "AF_UNIX path too long"),
    ],
)
def test_what_is_no_listening_socket(
    new_side: NewSide, tmp_path: Path, what: str, reason: str
) -> None:
    path = tmp_path / "s"
    match what:
        case "file":
            path.touch()
        case "folder":
            path.mkdir()
        case "stale":
            with socket.socket(socket.AF_UNIX) as gone:
                gone.bind(os.fspath(path))
        case "below a file":
            path.touch()
            path /= "s"
        case _:
            path = tmp_path / ("s" * 150)
    with pytest.raises(DaemonUnavailable) as caught:
        new_side(path).status()
    assert f"at {path} (given): {reason}" in str(caught.value)
    assert path.exists() == (what in ("file", "folder", "stale"))  # nothing was touched


@both
def test_a_full_queue_of_connections(new_side: NewSide, tmp_path: Path) -> None:
    """As of a daemon that was stopped, and thousands of clients."""
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as queue:
        server.bind(os.fspath(tmp_path / "s"))
        server.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one = queue.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(os.fspath(tmp_path / "s"))
        with pytest.raises(DaemonUnavailable, match="too many connections wait"):
            new_side(tmp_path / "s").status()


# ---- Something else is there


def closes(connected: socket.socket) -> None:
    connected.recv(4096)


def hangs_up(connected: socket.socket) -> None:
    """Before anything was said: uvloop must not lose track of the socket."""


def speaks_http(connected: socket.socket) -> None:
    connected.recv(4096)
    connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def sends_no_message(connected: socket.socket) -> None:
    connected.recv(4096)
    connected.sendall(b"\0\0\0\3\x93\1\2")


def is_of_another_version(connected: socket.socket) -> None:
    connected.recv(4096)
    why = "protocol version 1; this daemon speaks 7"
    connected.sendall(wire.encode(wire.Failed(0, "protocol_error", why, {"problem": why})))


@both
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (closes, DaemonUnavailable, "at {}"),
        (hangs_up, DaemonUnavailable, "at {}"),
        (speaks_http, ProtocolError, r"from {} \(given\): a frame of 1213486160 bytes"),
        (sends_no_message, ProtocolError, r"from {} \(given\): the daemon sent what is no message"),
        (is_of_another_version, ProtocolError, r"from {} \(given\): protocol version 1; this dae"),
    ],
)
def test_something_else_listens_there(
    new_side: NewSide,
    tmp_path: Path,
    answer: Callable[[socket.socket], None],
    error: type[Exception],
    words: str,
) -> None:
    with listening(tmp_path / "s", answer):
        side = new_side(tmp_path / "s")
        for _ in range(5):
            with pytest.raises(error, match=words.format(tmp_path / "s")):
                side.status()


@both
def test_time_spent_connecting_is_of_the_time_given(new_side: NewSide, tmp_path: Path) -> None:
    with ScriptedDaemon(tmp_path / "s") as daemon:
        side = new_side(tmp_path / "s")
        caller = side.caller()
        asking = caller.begin(side.client.acquire, "db", timeout_seconds=PATIENCE_SECONDS)
        peer = daemon.accept(welcome=False)
        time.sleep(0.05)
        peer.say(wire.Welcome(wire.PROTOCOL_VERSION, "0", 1))
        message = peer.hear(wire.Acquire)
        peer.say(wire.Granted(message.request, 1, 0))
        caller.do(asking.result(PATIENCE_SECONDS).release)
        peer.hear(wire.Release)
    assert message.timeout_seconds is not None
    assert 0 <= message.timeout_seconds <= PATIENCE_SECONDS - 0.05


# ---- A daemon that dies


@both
def test_daemon_killed_while_many_wait(new_side: NewSide, daemon: RunningDaemon) -> None:
    """And that does not come back in time."""
    side = new_side(daemon.socket, reconnect_seconds=0.1)
    side.create_limit("db", 1)
    holder = side.caller()
    holder.enter("db")
    asking = [side.caller().begin_enter("db") for _ in range(5)]
    asking += [side.caller().begin_enter("db", timeout_seconds=PATIENCE_SECONDS)]
    with daemon.client() as client:
        wait_for_line(client, "db", 6)
    daemon.stop(signal.SIGKILL)
    words = "the connection was lost and the daemon did not come back within 0.1 s"
    for ask in asking:
        with pytest.raises(DaemonUnavailable, match=f"{daemon.socket}.*{words}.*atmostd --socket"):
            ask.result(PATIENCE_SECONDS)
    with pytest.raises(DaemonUnavailable, match=words):
        side.status()
    holder.leave()  # notices nothing


@both
def test_own_patience_ends_before_the_daemon_is_back(
    new_side: NewSide, daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.asked.GRACE_SECONDS", 0.1)
    side = new_side(daemon.socket, reconnect_seconds=PATIENCE_SECONDS)
    side.create_limit("db", 1)
    daemon.stop(signal.SIGKILL)
    words = "the connection was lost and the daemon did not come back within 0.1 s"
    with pytest.raises(DaemonUnavailable, match=words):
        side.acquire("db", timeout_seconds=0)


# ---- A daemon that hangs


@pytest.mark.parametrize("kind", ["both"])
def test_daemon_that_hangs(new_side: NewSide, daemon: RunningDaemon) -> None:
    """All at once: this is the one test that has to wait for the clock."""
    client = daemon.client()
    client.create_limit("db", 1)
    held = client.acquire("db")
    connected = [new_side(daemon.socket, kind) for kind in SIDES]
    patient = [side.caller().begin_enter("db") for side in connected]
    wait_for_line(client, "db", len(patient))
    others = [new_side(daemon.socket, kind) for kind in SIDES]
    os.kill(daemon.pid, signal.SIGSTOP)
    began = time.monotonic()
    acquiring = [
        side.caller().begin(side.client.acquire, "db", timeout_seconds=seconds)
        for side in connected
        for seconds in (0.1, 0, 0.2)
    ]
    connecting = [side.caller().begin(side.client.status) for side in others]
    for ask in acquiring:
        with pytest.raises(DaemonUnavailable, match=r"it is there, but gave no answer within 2"):
            ask.result(PATIENCE_SECONDS)
    assert time.monotonic() - began >= GRACE_SECONDS
    for ask in connecting:
        with pytest.raises(DaemonUnavailable, match=f"no answer within {HELLO_SECONDS:g} s"):
            ask.result(PATIENCE_SECONDS)
    assert time.monotonic() - began >= HELLO_SECONDS
    assert not any(ask.done() for ask in patient)
    os.kill(daemon.pid, signal.SIGCONT)
    # What was given up meanwhile is let go of; who has patience is served, on the same connection.
    wait_for_line(client, "db", len(patient))
    for ask in patient:  # now, so that each releases in its own thread
        ask.add_done_callback(lambda entered: entered.result().release())
    held.release()
    for ask in patient:
        ask.result(PATIENCE_SECONDS)
    wait_until_free(client, "db")
    client.close()
