"""A connection that its client has given up, and whose hello the daemon comes to read later than that of
the next one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_manners import Mute
from tests.returning_client import Returning
from tests.support import RunningDaemon, wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path).start()
    yield running
    running.stop(signal.SIGKILL)


def until_connected(daemon: RunningDaemon, count: int) -> None:
    with daemon.client() as client:
        wait_until(lambda: client.list_statistics().daemon.connections == count + 1)


def test_it_takes_nothing_over(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        client.create_limit("db", 1)
    older = Mute(str(daemon.socket))
    until_connected(daemon, 1)
    newer = Returning(str(daemon.socket))
    newer.ask("acquire", {"db": 1})
    older.send("hello", 1, newer.session, os.getpid(), ["job"], "ada", "")
    with pytest.raises((EOFError, ConnectionResetError)):
        older.receive()
    older.close()
    until_connected(daemon, 1)
    assert newer.ask("read_limit", "db")[2][5] == 1, "it is held still"
    newer.close()
    with daemon.client() as client:
        wait_until(lambda: client.read_limit("db").held == 0)
