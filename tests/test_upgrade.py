"""An upgrade at noon, and back: either end may be of the version before, and nothing is lost.

tests/golden/atmost-protocol-1.zip is atmost as it was when version 1 of the protocol was its newest,
made by `git archive --format=zip -o FILE 29ad6a2 client/atmost daemon/atmostd`. It is never changed; when
the protocol gets version 3, one of version 2 takes its place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from atmost import wire
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

ZIP = Path(__file__).with_name("golden") / "atmost-protocol-1.zip"
BEFORE = {**os.environ, "PYTHONPATH": f"{ZIP}/client:{ZIP}/daemon"}
NOW = dict(os.environ)
SLOTS = 2
TURNS = 25  # of each worker


class DaemonBefore(RunningDaemon):
    """One of the version before."""

    environ = BEFORE


WORKER = """
import sys, time
from atmost.sync import Client
from atmost.wire import PROTOCOL_VERSION
client = Client(sys.argv[1])
print(client.status().pid, flush=True)
sys.stdin.readline()
for turn in range(int(sys.argv[2])):
    with client.concurrency("db") as grant:
        entered = time.monotonic_ns()
        time.sleep(0.004)
        left = time.monotonic_ns()
    client.rate_limit("api")
    print(PROTOCOL_VERSION, entered, left, grant.token, flush=True)
    assert grant.lost is None
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[type[RunningDaemon]], RunningDaemon]]:
    """Starts a daemon of either version, always in the same folders."""
    started: list[RunningDaemon] = []

    def start(kind: type[RunningDaemon]) -> RunningDaemon:
        started.append(kind(tmp_path).start())
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop(signal.SIGKILL)
        assert "Traceback" not in daemon.log_text()


def run(code: str, environ: dict[str, str], *arguments: str) -> str:
    """What a program prints that uses atmost of that version."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environ,
        timeout=PATIENCE_SECONDS,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout


EVERYTHING = """
import asyncio, sys, time
from atmost import asyncio as aio, sync, wire
from atmost.errors import AcquireTimeout, LimitNotFound
path = sys.argv[1]

client = sync.Client(path)
client.create_limit("db", 1)
client.create_limit("api", 10, slot_decay_per_second=1000.0)
with client.concurrency("db", rate_limit="api") as grant:
    assert grant.token
    (ticket,) = client.list_tickets("db")
    assert ticket.state == "held"
    try:
        client.acquire("db", timeout_seconds=0)
    except AcquireTimeout as error:
        assert error.holders[0]["slots"] == 1, vars(error)
client.rate_limit({"api": 3})
assert client.update_limit("db", limit=2).limit == 2
assert [limit.name for limit in client.list_limits()] == ["api", "db"]
assert client.status().limits == 2
try:
    client.read_limit("none")
except LimitNotFound as error:
    assert error.names == ["none"]

async def main():
    async with aio.Client(path) as client:
        async with client.concurrency("db", 2):
            try:
                await client.acquire("db", timeout_seconds=0.01)
            except AcquireTimeout:
                pass
        await client.rate_limit("api")
        await client.delete_limit("api")

asyncio.run(main())
client.delete_limit("db")
print(wire.PROTOCOL_VERSION)
"""


def test_the_zip_is_the_version_before() -> None:
    assert run("from atmost import wire; print(wire.PROTOCOL_VERSION)", BEFORE) == "1\n"
    assert wire.PROTOCOL_VERSION_LEAST == 1
    assert wire.PROTOCOL_VERSION == 2


@pytest.mark.parametrize(
    ("kind", "environ", "version"),
    [(RunningDaemon, BEFORE, "1"), (DaemonBefore, NOW, "2"), (RunningDaemon, NOW, "2")],
    ids=["old client, new daemon", "new client, old daemon", "both new"],
)
def test_either_end_may_be_older(
    start: Callable[[type[RunningDaemon]], RunningDaemon],
    kind: type[RunningDaemon],
    environ: dict[str, str],
    version: str,
) -> None:
    daemon = start(kind)
    assert run(EVERYTHING, environ, str(daemon.socket)) == version + "\n"


@pytest.mark.parametrize("command", [["ls"], ["ps"], ["status"]], ids=" ".join)
def test_the_command_of_the_version_before(
    start: Callable[[type[RunningDaemon]], RunningDaemon], command: list[str]
) -> None:
    daemon = start(RunningDaemon)
    with daemon.client() as client:
        client.create_limit("db", 5)
        with client.concurrency("db"):
            code = "import sys; from atmost.cli import main; sys.exit(main())"
            done = subprocess.run(
                [sys.executable, "-c", code, "--socket", str(daemon.socket), *command],
                env=BEFORE,
                timeout=PATIENCE_SECONDS,
                check=True,
                stdout=subprocess.PIPE,
            )
            assert (b"running" if command == ["status"] else b"db") in done.stdout


# Under load


@contextlib.contextmanager
def workers(daemon: RunningDaemon) -> Iterator[list[subprocess.Popen[str]]]:
    """Four that are connected and begin to work, two of each version."""
    with contextlib.ExitStack() as stack:
        running = []
        for environ in (BEFORE, NOW, BEFORE, NOW):
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(daemon.socket), str(TURNS)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(worker)
            stack.callback(worker.kill)
            running.append(worker)
        for worker in running:
            assert worker.stdout is not None
            assert int(worker.stdout.readline()) == daemon.pid
        for worker in running:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize(
    ("before", "after"),
    [(DaemonBefore, RunningDaemon), (RunningDaemon, DaemonBefore)],
    ids=["upgrade", "and back"],
)
def test_a_restart_as_the_other_version_under_load(
    start: Callable[[type[RunningDaemon]], RunningDaemon],
    before: type[RunningDaemon],
    after: type[RunningDaemon],
    number: int,
) -> None:
    daemon = start(before)
    with daemon.client() as client:
        client.create_limit("db", SLOTS)
        client.create_limit("api", 5, slot_decay_per_second=2000.0)
        with workers(daemon) as running:
            with client.concurrency("db") as mine:
                wait_until(lambda: client.read_limit("db").waiting)
                daemon.stop(number)
                daemon = start(after)
                kept = client.read_limit("db")
                assert (kept.limit, kept.held >= 1) == (SLOTS, True)
            assert mine.lost is None
            said = [worker.communicate(timeout=PATIENCE_SECONDS)[0] for worker in running]
            assert [worker.returncode for worker in running] == [0] * len(running)
        wait_until(lambda: client.read_limit("db").held == 0)
    lines = [tuple(map(int, line.split())) for text in said for line in text.splitlines()]
    assert len(lines) == len(running) * TURNS
    assert {version for version, *_ in lines} == {1, 2}
    inside = 0
    for _, change in sorted((at, d) for _, a, b, _ in lines for at, d in ((a, 1), (b, -1))):
        inside += change
        assert inside <= SLOTS
    for text in said:
        tokens = [int(line.split()[3]) for line in text.splitlines()]
        assert all(one < other for one, other in pairwise(tokens))
    assert len({token for *_, token in lines}) == len(lines)
