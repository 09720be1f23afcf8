"""A daemon of a user's own that is killed is started again for whoever waits; a stopped one is not."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import PATIENCE_SECONDS, wait_until
from tests.support_user import CLI, User, ended

# arguments: the limit, and how long it waits for a daemon that is gone
SYNC = """
from atmost.sync import Client
with Client(reconnect_seconds=float(sys.argv[2])) as client:
    try:
        with client.concurrency(sys.argv[1]):
            print("in", flush=True)
            sys.stdin.readline()
    except ConnectionError as error:
        print(error, flush=True)
        sys.stdin.readline()
        with client.concurrency("own"):
            print("in again", flush=True)
"""
ASYNC = """
import asyncio
from atmost.asyncio import Client
async def main():
    async with Client(reconnect_seconds=float(sys.argv[2])) as client:
        try:
            async with client.concurrency(sys.argv[1]):
                print("in", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        except ConnectionError as error:
            print(error, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            async with client.concurrency("own"):
                print("in again", flush=True)
asyncio.run(main())
"""
# It would wait for events, if there were none: one who waits for no slots.
WATCH = """
from atmost.sync import Client
for event in Client().watch():
    print(event.kind, flush=True)
"""
LONG = str(PATIENCE_SECONDS)
BOTH = pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "asyncio"])


class Person(User):
    """And the processes of hers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun: list[subprocess.Popen[str]] = []

    def begin(self, code: str, *words: str, **given: str) -> subprocess.Popen[str]:
        process = self.start(code, *words, stdin=subprocess.PIPE, environment=given)
        self.begun.append(process)
        return process

    def holds(self, name: str = "db") -> subprocess.Popen[str]:
        """A process that holds all of a limit."""
        process = self.begin(SYNC, name, LONG)
        says(process, "in")
        return process

    def waits(self, code: str, seconds: str = LONG, **given: str) -> subprocess.Popen[str]:
        before = self.states().count("waiting")
        process = self.begin(code, "db", seconds, **given)
        wait_until(lambda: self.states().count("waiting") == before + 1, "it waits")
        return process

    def states(self) -> list[str]:
        """Of all at db."""
        done = self.atmost("ps", "db")
        assert done.code == 0, done
        return [line.split("\t")[1] for line in done.out.splitlines()]

    def has_started(self, times: int) -> bool:
        return self.starts() == times

    def kill(self) -> None:
        pid = self.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for process in self.begun:  # first: they would start it again
            process.kill()
            process.communicate()
        super().close()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Person]:
    made = Person(tmp_path)
    for name in ("db", "own"):
        assert made.atmost("create", name, "--limit", "1").code == 0
    yield made
    made.close()


def says(process: subprocess.Popen[str], word: str) -> str:
    """Its next line, which has this word."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert word in line, (line, process.poll())
    return line


def goes_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@BOTH
def test_a_waiter_has_it_started_and_the_holder_is_kept(user: Person, code: str) -> None:
    holder, waiter = user.holds(), user.waits(code)
    for life in (2, 3):
        user.kill()
        wait_until(partial(user.has_started, life), "it runs again")
        assert user.states() == ["held", "waiting"]
    goes_on(holder)
    assert ended(holder) == (0, "", "")
    says(waiter, "in")
    assert user.starts() == 3


def test_many_waiters_start_exactly_one(user: Person) -> None:
    holder = user.holds()
    waiters = [user.begin(code, "db", LONG) for code in (SYNC, ASYNC) * 4]
    wait_until(lambda: user.states().count("waiting") == len(waiters), "all wait")
    user.kill()
    wait_until(lambda: user.starts() == 2, "it runs again")
    for process in (*waiters, holder):  # in which order they wait nobody knows
        goes_on(process)
    for waiter in waiters:
        assert ended(waiter) == (0, "in\n", "")
    assert user.starts() == 2
    assert "already" not in user.log_text()


@BOTH
def test_one_that_was_stopped_stays_so(user: Person, code: str) -> None:
    """Also for the next call of a session that was there; a new one starts it."""
    user.holds()
    waiter = user.waits(code, "1")
    assert user.atmost("daemon", "stop").code == 0
    says(waiter, "did not come back within 1 s (there is no such socket)")
    assert (user.pid(), user.starts()) == (None, 1)
    wait_until(lambda: user.states() == ["held"], "who gave up has said so")
    assert user.starts() == 2


@BOTH
def test_one_that_is_just_stopping_is_not_started_again(user: Person, code: str) -> None:
    """Its socket refuses already, and is there still; whoever has its lock lives."""
    user.holds()
    waiter = user.waits(code, "1")
    waiter.send_signal(signal.SIGSTOP)
    user.kill()
    wait_until(lambda: user.pid() is None)
    with user.socket.with_name("atmost.sock.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiter.send_signal(signal.SIGCONT)
        says(waiter, "did not come back within 1 s (nobody listens there")
        assert user.starts() == 1
    goes_on(waiter)  # it was killed, after all: its next call has it started
    says(waiter, "in again")
    assert user.starts() == 2


@BOTH
def test_not_if_it_is_turned_off(user: Person, code: str) -> None:
    user.holds()
    waiter = user.waits(code, "1", ATMOST_AUTOSTART="0")
    user.kill()
    told = says(waiter, "did not come back within 1 s")
    assert "none could be started again: none is started by itself, as ATMOST_AUTOSTART" in told
    assert user.starts() == 1


@BOTH
def test_not_where_a_path_was_named(user: Person, code: str) -> None:
    user.holds()
    waiter = user.waits(code, "1", ATMOST_SOCKET=str(user.socket))
    user.kill()
    says(waiter, "did not come back within 1 s")
    assert user.starts() == 1


@BOTH
def test_one_that_cannot_start_is_tried_once_and_said(user: Person, code: str) -> None:
    user.holds()
    waiter = user.waits(code, "1")
    waiter.send_signal(signal.SIGSTOP)
    user.kill()
    wait_until(lambda: user.pid() is None)
    user.runtime.chmod(0o777)
    waiter.send_signal(signal.SIGCONT)
    told = says(waiter, "did not come back within 1 s")
    assert "none could be started again: " in told
    assert "others may write to the folder" in told
    assert str(user.log) in told
    assert user.log_text().count("others may write to the folder") == 1
    user.runtime.chmod(0o700)


def test_who_only_holds_starts_none(user: Person) -> None:
    """Nor does a release that does not arrive: there is nobody whom it would serve."""
    holder = user.holds()
    user.kill()
    wait_until(lambda: user.pid() is None)
    goes_on(holder)
    assert ended(holder) == (0, "", "")
    assert user.starts() == 1
    assert user.atmost("run", "db", "--", "true").code == 0


def test_who_watches_has_it_started(user: Person) -> None:
    watcher = user.begin(WATCH)
    says(watcher, "daemon_started")
    user.kill()
    says(watcher, "daemon_started")
    assert user.starts() == 2


def test_a_waiting_command_goes_on(user: Person) -> None:
    holder = user.holds()
    waiter = user.begin(CLI, "run", "db", "--", "echo", "in")
    wait_until(lambda: user.states() == ["held", "waiting"])
    user.kill()
    wait_until(lambda: user.starts() == 2)
    goes_on(holder)
    says(waiter, "in")
