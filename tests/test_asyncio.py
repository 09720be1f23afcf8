"""atmost.asyncio alone, on asyncio's loop and on uvloop: decorators, tasks that share a connection,
cancellation."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import atmost.asyncio as aio
from atmost.errors import AcquireTimeout, WouldDeadlock
from atmost.sync import Client
from tests.callers import LOOPS, daemon_of_a_module, run_on, wait_for_line, wait_until_free
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

pytestmark = pytest.mark.parametrize("loop", LOOPS)

TASKS = 300
SEEDS = 6


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


async def line_of(client: Client, name: str, waiting: int) -> None:
    """Wait until so many stand in this line, while the loop runs."""
    await asyncio.to_thread(wait_for_line, client, name, waiting)


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---- Decorators


def test_decorated_coroutine_function_runs_inside(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    @tested.concurrency(db)
    async def held(more: int, *, most: int = 5) -> tuple[int, int]:
        """Its words."""
        return client.read_limit(db).held + more, most

    async def main() -> None:
        assert await held(1, most=7) == (2, 7)
        assert await held(2) == (3, 5)

    run_on(loop, main())
    assert (held.__name__, held.__doc__) == ("held", "Its words.")
    assert inspect.iscoroutinefunction(held)


def test_decorator_refuses_what_it_could_not_guard(loop: str, tested: aio.Client) -> None:
    def plain() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    async def agenerator() -> AsyncIterator[int]:
        yield 1

    guard: Any = tested.concurrency("db")
    for function in (plain, generator, functools.partial(plain)):
        with pytest.raises(TypeError, match=r"is not async.*atmost\.sync\.concurrency"):
            guard(function)
    with pytest.raises(TypeError, match="is a generator"):
        guard(agenerator)


def test_one_decorated_function_in_many_tasks(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    client.update_limit(db, limit=3)
    inside = most = 0

    @tested.concurrency(db)
    async def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(TASKS)))

    run_on(loop, main())
    assert most == 3


def test_decorated_function_that_calls_itself(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    @tested.concurrency(db)
    async def deep(levels: int) -> int:
        return 1 if levels == 1 else 1 + await deep(levels - 1)

    async def main() -> None:
        with pytest.raises(WouldDeadlock):
            await deep(2)
        client.update_limit(db, limit=3)
        assert await deep(3) == 3

    run_on(loop, main())


# ---- Grants


def test_grant_with_and_async_with_and_awaited_or_not(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> None:
        with await tested.acquire(db):
            assert client.read_limit(db).held == 1
        async with await tested.acquire(db):
            assert client.read_limit(db).held == 1
        await (await tested.acquire(db)).release()
        (await tested.acquire(db)).release()
        async with tested, tested.concurrency(db):
            assert client.read_limit(db).held == 1
        await tested.close()

    run_on(loop, main())
    wait_until_free(client, db)


# ---- Tasks on one connection


def test_tasks_that_start_at_once_make_one_connection(loop: str, tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path).start()

    def sessions(client: Client, count: int) -> None:
        wait_until(lambda: client.status().sessions == count, f"{count} sessions")

    async def main(client: Client) -> None:
        sessions(client, 1)  # the first ones, of start(), have ended
        async with aio.Client(running.socket) as tested:
            answers = await asyncio.gather(*(tested.status() for _ in range(TASKS)))
            assert {answer.pid for answer in answers} == {running.pid}
            assert client.status().sessions == 2

    with running.client() as client:
        run_on(loop, main(client))
        sessions(client, 1)
    running.stop()


def test_task_that_is_cancelled_while_connecting_does_not_take_the_others_along(
    loop: str, tested: aio.Client, daemon: RunningDaemon
) -> None:
    async def main() -> None:
        for patience in range(8):
            async with aio.Client(daemon.socket) as tested:
                tasks = [asyncio.create_task(tested.status()) for _ in range(3)]
                await ticks(patience)
                tasks[0].cancel()
                assert (await tasks[1]).pid == (await tasks[2]).pid == daemon.pid
                await asyncio.wait(tasks)

    run_on(loop, main())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_hammer_of_cancels(
    loop: str, tested: aio.Client, client: Client, db: str, seed: int
) -> None:
    """Cancelled at any tick, timed out, let in: never more than the limit inside, and in the end
    nothing is held and nobody waits."""
    client.update_limit(db, limit=2)
    chance = random.Random(seed)
    inside = most = let_in = 0

    async def work(before: int, during: int, patience: float | None) -> None:
        nonlocal inside, most, let_in
        await ticks(before)
        async with tested.concurrency(db, timeout_seconds=patience):
            inside += 1
            most = max(most, inside)
            let_in += 1
            try:
                await ticks(during)
            finally:
                inside -= 1

    async def main() -> None:
        tasks = []
        for _ in range(TASKS):
            patience = chance.choice([None, None, None, 0, 0.001])
            working = work(chance.randrange(60), chance.randrange(4), patience)
            tasks.append(asyncio.create_task(working))
        doomed = chance.sample(tasks, TASKS * 2 // 3)
        while doomed:
            await ticks(chance.randrange(3))
            for _ in range(min(len(doomed), chance.randrange(4))):
                doomed.pop().cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, AcquireTimeout | asyncio.CancelledError)
        await asyncio.to_thread(wait_until_free, client, db)
        connection = tested._connection
        assert connection is not None
        assert not connection._calls
        assert not connection._exchange._inside

    run_on(loop, main())
    assert most == 2
    assert let_in >= TASKS // 3 // 3


@pytest.mark.parametrize("late", [0, 1, 2, 3, None])
def test_cancel_that_crosses_the_grant(
    loop: str, tested: aio.Client, client: Client, db: str, late: int | None
) -> None:
    """The grant is on its way when the task is cancelled, so many ticks later; or it is let in."""
    reached: list[asyncio.Event] = []

    async def work() -> None:
        async with tested.concurrency(db):
            reached[0].set()
            await asyncio.sleep(PATIENCE_SECONDS)

    async def main() -> None:
        reached.append(asyncio.Event())
        with client.concurrency(db):
            task = asyncio.create_task(work())
            await line_of(client, db, 1)
        # The loop stands still here, and the daemon grants.
        wait_until(lambda: [ticket.state for ticket in client.list_tickets(db)] == ["held"])
        await (reached[0].wait() if late is None else ticks(late))
        assert late != 0 or not reached[0].is_set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until_free, client, db)

    run_on(loop, main())


def test_cancelled_task_leaves_the_line_at_once(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> None:
        waiting = []
        with client.concurrency(db):
            for place in (1, 2, 3):
                waiting.append(asyncio.create_task(tested.acquire(db)))
                await line_of(client, db, place)
            waiting[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[1]
            await line_of(client, db, 2)
        (await waiting[0]).release()
        (await waiting[2]).release()

    run_on(loop, main())


def test_asyncio_timeout_is_a_cancel(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> None:
        with client.concurrency(db):
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await tested.acquire(db)
            assert not isinstance(caught.value, AcquireTimeout)
            await line_of(client, db, 0)

    run_on(loop, main())


def test_task_group_that_fails_leaves_no_waiter(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def fails() -> None:
        async with asyncio.TaskGroup() as group, tested.concurrency(db):
            group.create_task(tested.acquire(db))
            await line_of(client, db, 1)
            raise RuntimeError("boom")

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            await fails()
        await asyncio.to_thread(wait_until_free, client, db)

    run_on(loop, main())


# ---- Waiting for yourself, in tasks


def test_another_task_is_not_yourself(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def main() -> None:
        async with tested.concurrency(db):
            asking = asyncio.create_task(tested.acquire(db))
            await line_of(client, db, 1)
        await (await asking).release()

    run_on(loop, main())


def test_block_that_another_task_ends(
    loop: str, tested: aio.Client, client: Client, db: str
) -> None:
    async def generator() -> AsyncIterator[None]:
        async with tested.concurrency(db):
            yield

    async def main() -> None:
        running: Any = generator()
        await anext(running)
        await asyncio.create_task(running.aclose())
        async with tested.concurrency(db):  # this task is inside nothing
            pass

    run_on(loop, main())
    wait_until_free(client, db)
