"""atmost.asyncio and its loops: they come and go, run in several threads, are interrupted; and the
default client."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import atmost.asyncio as aio
from atmost.errors import LimitNotFound
from atmost.sync import Client
from tests.callers import LOOPS, daemon_of_a_module, run_on, wait_for_line, wait_until_free
from tests.support import PATIENCE_SECONDS, RunningDaemon

pytestmark = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture
def tested(daemon: RunningDaemon) -> aio.Client:
    """The client under test; `client` is a blocking one that looks at it."""
    return aio.Client(daemon.socket)


@pytest.fixture
def db(request: pytest.FixtureRequest, client: Client) -> str:
    """A limit of one slot, named after the test."""
    name: str = request.node.name
    client.create_limit(name, 1)
    return name


def test_ctrl_c_in_asyncio_run(loop: str, tested: aio.Client, client: Client, db: str) -> None:
    def interrupt() -> None:
        wait_for_line(client, db, 1)
        os.kill(os.getpid(), signal.SIGINT)

    with (
        client.concurrency(db),
        ThreadPoolExecutor(1) as pool,
        asyncio.Runner(loop_factory=LOOPS[loop]) as runner,
    ):
        interrupting = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            runner.run(tested.acquire(db))
        interrupting.result(PATIENCE_SECONDS)
        wait_for_line(client, db, 0)


def test_one_client_in_one_loop_after_another(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> None:
        async with tested.concurrency(db, timeout_seconds=PATIENCE_SECONDS):
            assert client.read_limit(db).held == 1

    for _ in range(3):
        run_on(loop, main())
        asyncio.run(main())


def test_one_client_in_loops_of_several_threads(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    client.update_limit(db, limit=2)
    inside: list[int] = []
    counting = threading.Lock()
    most = 0

    async def work() -> None:
        nonlocal most
        for _ in range(5):
            async with tested.concurrency(db):
                with counting:
                    inside.append(1)
                    most = max(most, len(inside))
                await asyncio.sleep(0)
                with counting:
                    inside.pop()

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(3)))

    def run(_: int) -> None:
        for _ in range(5):
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(main())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert most == 2
    wait_until_free(client, db)


def test_loop_that_ends_gives_back_what_it_held(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> aio.Grant:
        background = asyncio.create_task(tested.acquire(db))
        grant = await background
        waits = asyncio.create_task(tested.acquire(db))
        await asyncio.to_thread(wait_for_line, client, db, 1)
        waits.cancel()
        return grant

    grant = run_on(loop, main())
    wait_until_free(client, db)
    grant.release()  # harmless


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_loop_that_was_merely_closed(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    """Without shutdown_asyncgens nobody is told; the loops warn of that, as of any transport."""
    made = LOOPS[loop]()
    grant = made.run_until_complete(tested.acquire(db))
    made.close()
    grant.release()
    wait_until_free(client, db)
    assert asyncio.run(tested.acquire(db)).slots == {db: 1}
    wait_until_free(client, db)
    del grant
    gc.collect()


def test_default_client(
    loop: str, daemon: RunningDaemon, client: Client, monkeypatch: pytest.MonkeyPatch, db: str
) -> None:
    monkeypatch.setenv("ATMOST_SOCKET", str(daemon.socket))

    async def main() -> None:
        made = await aio.create_limit(name := db + " made", 2, slot_decay_per_second=1e-6)
        assert made == await aio.read_limit(name)
        assert made in await aio.list_limits()
        assert (await aio.update_limit(name, limit=3)).limit == 3
        async with aio.concurrency(name), await aio.acquire(name) as grant:
            assert client.read_limit(name).held == 2
            assert grant.slots == {name: 1}
        await aio.rate_limit(name)
        assert client.read_limit(name).spent > 0
        await aio.delete_limit(name)
        with pytest.raises(LimitNotFound):
            client.read_limit(name)

    run_on(loop, main())
