"""The examples of the page that the feature set is from, with only their import lines changed.

Of each, what belongs to flows and tasks is left out (the decorators and `.submit`), and the call of
the flow stands where the page's text breaks off. They run as programs of their own, with the default
client.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.sync import Client
from tests.callers import daemon_of_a_module, wait_for_line, wait_until_free
from tests.support import PATIENCE_SECONDS, RunningDaemon

CONCURRENCY_SYNC = """
from atmost.sync import concurrency

def process_data(x, y):
    with concurrency("database", occupy=1):
        return x + y

def my_flow():
    for x, y in [(1, 2), (2, 3), (3, 4), (4, 5)]:
        print(process_data(x, y))

if __name__ == "__main__":
    my_flow()
"""

CONCURRENCY_ASYNC = """
import asyncio
from atmost.asyncio import concurrency

async def process_data(x, y):
    async with concurrency("database", occupy=1):
        return x + y

async def my_flow():
    for x, y in [(1, 2), (2, 3), (3, 4), (4, 5)]:
        print(await process_data(x, y))

if __name__ == "__main__":
    asyncio.run(my_flow())
"""

RATE_LIMIT_SYNC = """
from atmost.sync import rate_limit

def make_http_request():
    rate_limit("rate-limited-api")
    print("Making an HTTP request...")

def my_flow():
    for _ in range(10):
        make_http_request()

if __name__ == "__main__":
    my_flow()
"""

RATE_LIMIT_ASYNC = """
import asyncio

from atmost.asyncio import rate_limit

async def make_http_request():
    await rate_limit("rate-limited-api")
    print("Making an HTTP request...")

async def my_flow():
    for _ in range(10):
        await make_http_request()

if __name__ == "__main__":
    asyncio.run(my_flow())
"""

OUTSIDE_OF_A_FLOW = """
import asyncio

from atmost.asyncio import rate_limit

async def main():
    for _ in range(10):
        await rate_limit("rate-limited-api")
        print("Making an HTTP request...")

if __name__ == "__main__":
    asyncio.run(main())
"""

concurrency = pytest.mark.parametrize(
    "example", [CONCURRENCY_SYNC, CONCURRENCY_ASYNC], ids=["sync", "async"]
)
rate_limit = pytest.mark.parametrize(
    "example",
    [RATE_LIMIT_SYNC, RATE_LIMIT_ASYNC, OUTSIDE_OF_A_FLOW],
    ids=["sync", "async", "outside"],
)
SUMS = "3\n5\n7\n9\n"
REQUESTS = 10 * "Making an HTTP request...\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as one:
        yield one


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """Looks at the daemon, which has no limits yet."""
    with daemon.client() as one:
        for limit in one.list_limits():
            one.delete_limit(limit.name)
        yield one


@contextlib.contextmanager
def running(example: str, daemon: RunningDaemon, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The example as a program."""
    (tmp_path / "example.py").write_text(example)
    program = subprocess.Popen(
        [sys.executable, "-W", "error", str(tmp_path / "example.py")],
        env=daemon.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
            program.communicate()


def outcome(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = program.communicate(timeout=PATIENCE_SECONDS)
    return program.returncode, out, err


@concurrency
def test_concurrency_limits_are_implicitly_created(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    """ "... will be created, in an inactive state, if it does not already exist" """
    words = "atmost update database --limit N --enable"
    told = daemon.log_text().count(words)
    with running(example, daemon, tmp_path) as program:
        assert outcome(program) == (0, SUMS, "")
    (made,) = client.list_limits()
    assert (made.name, made.limit, made.active, made.active_slots) == ("database", 1, False, 0)
    assert daemon.log_text().count(words) == told + 1


@concurrency
def test_concurrency_blocks_until_a_slot_becomes_available(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    client.create_limit("database", 1)
    with running(example, daemon, tmp_path) as program:
        with client.concurrency("database"):
            wait_for_line(client, "database", 1)
        assert outcome(program) == (0, SUMS, "")
    wait_until_free(client, "database")


@concurrency
def test_inactive_limit_does_not_block(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    client.create_limit("database", 1)
    client.acquire("database")
    client.update_limit("database", active=False)
    with running(example, daemon, tmp_path) as program:
        assert outcome(program) == (0, SUMS, "")


@rate_limit
def test_rate_limit_makes_requests_at_a_controlled_pace(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    client.create_limit("rate-limited-api", 4, slot_decay_per_second=1e-6)
    with running(example, daemon, tmp_path) as program:
        wait_for_line(client, "rate-limited-api", 1)
        assert client.read_limit("rate-limited-api").active_slots == 4  # the first ones
        client.update_limit("rate-limited-api", slot_decay_per_second=500)
        assert outcome(program) == (0, REQUESTS, "")


@rate_limit
def test_rate_limit_needs_a_slot_decay(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    """ "the concurrency limit you use must have a slot decay configured" """
    client.create_limit("rate-limited-api", 4)
    with running(example, daemon, tmp_path) as program:
        code, out, err = outcome(program)
    assert (code, out) == (1, "")
    assert "SlotDecayRequired: rate_limit needs a slot decay" in err
    assert "atmost update rate-limited-api --rate 100/min" in err


@rate_limit
def test_rate_limit_on_a_limit_that_does_not_exist(
    daemon: RunningDaemon, client: Client, tmp_path: Path, example: str
) -> None:
    with running(example, daemon, tmp_path) as program:
        assert outcome(program) == (0, REQUESTS, "")
    assert client.read_limit("rate-limited-api").active is False
