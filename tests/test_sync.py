"""atmost.sync alone: decorators, threads that share a connection, generators, the default client."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from atmost import sync
from atmost.errors import AcquireTimeout, LimitNotFound, WouldDeadlock
from atmost.sync import Client
from tests.callers import daemon_of_a_module, wait_for_line, wait_until_free
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

THREADS = 16
CYCLES = 400  # of each thread, in the test that hammers


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture
def tested(daemon: RunningDaemon) -> Iterator[Client]:
    """The client under test; `client` is the one that looks at it."""
    with daemon.client() as one:
        yield one


@pytest.fixture
def db(request: pytest.FixtureRequest, client: Client) -> str:
    """A limit of one slot, named after the test."""
    name: str = request.node.name
    client.create_limit(name, 1)
    return name


@pytest.fixture
def impatient_switches() -> Iterator[None]:
    """Threads take turns after a few instructions, so that they meet at more places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool


def in_a_thread(function: Callable[[], Any]) -> Any:
    """Call it in a thread that then ends."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return result.result(0)


# ---- Decorators


def test_decorated_function_runs_inside(tested: Client, client: Client, db: str) -> None:
    @tested.concurrency(db)
    def held(more: int, *, most: int = 5) -> tuple[int, int]:
        """Its words."""
        return client.read_limit(db).held + more, most

    assert held(1, most=7) == (2, 7)
    assert held(2) == (3, 5)
    assert (held.__name__, held.__doc__) == ("held", "Its words.")
    wait_until_free(client, db)


def test_decorated_method_and_partial(tested: Client, client: Client, db: str) -> None:
    class Worker:
        @tested.concurrency(db)
        def held(self) -> int:
            return client.read_limit(db).held

    assert Worker().held() == 1
    assert tested.concurrency(db)(functools.partial(max, 3))(2) == 3


def test_exception_of_a_decorated_function(tested: Client, client: Client, db: str) -> None:
    @tested.concurrency(db)
    def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fails()
    wait_until_free(client, db)


def test_decorated_function_that_calls_itself(tested: Client, client: Client, db: str) -> None:
    @tested.concurrency(db)
    def deep(levels: int) -> int:
        return 1 if levels == 1 else 1 + deep(levels - 1)

    with pytest.raises(WouldDeadlock):
        deep(2)
    client.update_limit(db, limit=3)
    assert deep(3) == 3


def test_decorator_refuses_what_it_could_not_guard(tested: Client) -> None:
    async def coroutine() -> None: ...

    async def agenerator() -> AsyncIterator[int]:
        yield 1

    def generator() -> Iterator[int]:
        yield 1

    guard = tested.concurrency("db")
    for function in (coroutine, agenerator, functools.partial(coroutine)):
        with pytest.raises(TypeError, match=r"is async.*atmost\.asyncio\.concurrency"):
            guard(function)
    with pytest.raises(TypeError, match="is a generator"):
        guard(generator)


def test_one_decorated_function_in_many_threads(
    tested: Client, client: Client, db: str, threads: ThreadPoolExecutor
) -> None:
    client.update_limit(db, limit=3)
    inside = 0
    most = 0
    counting = threading.Lock()

    @tested.concurrency(db)
    def work(_: int) -> None:
        nonlocal inside, most
        with counting:
            inside += 1
            most = max(most, inside)
        if inside < 3:
            threading.Event().wait(0.001)
        with counting:
            inside -= 1

    list(threads.map(work, range(200)))
    assert most == 3


# ---- Threads on one connection


def test_threads_that_start_at_once_make_one_connection(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path).start()
    together = threading.Barrier(THREADS)
    with running.client() as client, ThreadPoolExecutor(THREADS) as pool:
        wait_until(lambda: client.status().sessions == 1)  # the first ones, of start(), have ended
        for _ in range(5):
            with running.client() as tested:

                def ask(_: int, tested: Client = tested) -> int:
                    together.wait(PATIENCE_SECONDS)
                    return tested.status().sessions

                assert set(pool.map(ask, range(THREADS))) == {2}
            wait_until(lambda: client.status().sessions == 1)
    running.stop()


def test_hammer(tested: Client, client: Client, db: str, impatient_switches: None) -> None:
    """Never more than the limit inside, by the threads' own count, and no wake-up is ever lost."""
    client.update_limit(db, limit=3)
    client.create_limit(api := db + " api", 1000, slot_decay_per_second=1e6)
    inside = most = 0
    counting = threading.Lock()

    def work(number: int) -> int:
        nonlocal inside, most
        chance = random.Random(number)
        times_in = 0
        for _ in range(CYCLES):
            timeout = chance.choice([None, None, 0, 0.0005, 0.002])
            match chance.randrange(6):
                case 0:
                    assert tested.read_limit(db).held <= 3
                case 1:
                    tested.rate_limit(api, timeout_seconds=PATIENCE_SECONDS)
                case _:
                    try:
                        with tested.concurrency(db, timeout_seconds=timeout):
                            with counting:
                                inside += 1
                                most = max(most, inside)
                            if chance.random() < 0.2:
                                tested.read_limit(db)  # others may overtake meanwhile
                            with counting:
                                inside -= 1
                            times_in += 1
                    except AcquireTimeout:
                        pass
        return times_in

    with ThreadPoolExecutor(THREADS) as pool:
        times = list(pool.map(work, range(THREADS)))
    assert most == 3
    assert all(times)
    wait_until_free(client, db)
    # The connection keeps nothing of all that.
    assert tested._connection is not None
    assert not tested._connection._calls
    assert not tested._connection._reading
    assert not tested._connection._exchange._inside


def test_leader_that_has_its_answer_hands_over(
    tested: Client, client: Client, db: str, threads: ThreadPoolExecutor
) -> None:
    """Whichever thread reads for all, the others get their answers when it leaves."""
    for _ in range(20):
        with client.concurrency(db):
            asking = []
            for number in range(5):
                asking.append(threads.submit(tested.acquire, db))
                wait_for_line(client, db, number + 1)
        for ask in asking:
            ask.result(PATIENCE_SECONDS).release()


def test_no_wake_up_is_lost_when_nobody_comes_after(
    tested: Client, threads: ThreadPoolExecutor, impatient_switches: None
) -> None:
    """Each time a few threads ask once: whom the leader forgets, nobody else would wake."""
    together = threading.Barrier(3)

    def ask(_: int) -> None:
        for _ in range(1000):
            together.wait(PATIENCE_SECONDS)
            tested.status()

    list(threads.map(ask, range(3)))


def test_followers_time_out_by_themselves(
    tested: Client, client: Client, db: str, threads: ThreadPoolExecutor
) -> None:
    with client.concurrency(db):
        leader = threads.submit(tested.acquire, db)
        wait_for_line(client, db, 1)
        asking = [
            threads.submit(tested.acquire, db, timeout_seconds=seconds)
            for seconds in (0.03, 0, 0.01, 0.02)
        ]
        for ask in asking:
            with pytest.raises(AcquireTimeout):
                ask.result(PATIENCE_SECONDS)
        assert client.read_limit(db).waiting == 1
    leader.result(PATIENCE_SECONDS)


# ---- Waiting for yourself, in threads


def test_another_thread_is_not_yourself(
    tested: Client, client: Client, db: str, threads: ThreadPoolExecutor
) -> None:
    with tested.concurrency(db):
        asking = threads.submit(tested.acquire, db)
        wait_for_line(client, db, 1)
    asking.result(PATIENCE_SECONDS)


def test_block_that_another_thread_ends(tested: Client, client: Client, db: str) -> None:
    def generator() -> Generator[None]:
        with tested.concurrency(db):
            yield

    running = generator()
    next(running)
    in_a_thread(running.close)
    wait_until_free(client, db)
    with tested.concurrency(db):  # this thread is inside nothing
        pass


def test_block_that_a_thread_left_behind_is_not_of_a_later_one(
    tested: Client, client: Client, db: str
) -> None:
    """A new thread gets the ident of one that ended."""

    def generator() -> Generator[int]:
        with tested.concurrency(db):
            yield threading.get_ident()

    def wait_if_it_is(ident: int, asking: Future[bool]) -> None:
        if threading.get_ident() == ident:
            try:
                tested.acquire(db).release()
            except WouldDeadlock as error:
                asking.set_exception(error)
            else:
                asking.set_result(True)

    running = generator()
    ident = in_a_thread(lambda: next(running))
    asking: Future[bool] = Future()
    for _ in range(100):
        thread = threading.Thread(target=wait_if_it_is, args=(ident, asking))
        thread.start()
        while thread.ident == ident and not asking.done() and not client.read_limit(db).waiting:
            pass
        if thread.ident == ident:
            break
        thread.join()
    running.close()
    thread.join()
    assert thread.ident != ident or asking.result(0)  # a system may not give idents again


def test_one_object_whose_blocks_other_threads_end(tested: Client, client: Client, db: str) -> None:
    """As a web framework does that enters in one thread of a pool and leaves in another."""
    client.update_limit(db, limit=8)
    block = tested.concurrency(db)
    inside = [0]
    counting = threading.Lock()

    def generator() -> Iterator[None]:
        with block:
            with counting:
                inside[0] += 1
            yield
            with counting:
                inside[0] -= 1

    def enter(_: int) -> Iterator[None]:
        running = generator()
        next(running)
        assert 1 <= inside[0] <= 8
        return running

    with ThreadPoolExecutor(4) as enters, ThreadPoolExecutor(4) as leaves:
        for _ in range(40):
            entered = [enters.submit(enter, number) for number in range(8)]
            left = [leaves.submit(next, one.result(PATIENCE_SECONDS), None) for one in entered]
            for one in left:
                one.result(PATIENCE_SECONDS)
    wait_until_free(client, db)
    assert not block._entered


# ---- Around the client


def test_works_inside_a_running_event_loop(tested: Client, client: Client, db: str) -> None:
    async def main() -> None:
        with tested.concurrency(db), pytest.raises(AcquireTimeout):
            tested.acquire(db, timeout_seconds=0)
        with client.concurrency(db):
            asking = asyncio.get_running_loop().run_in_executor(None, tested.acquire, db)
            await asyncio.to_thread(wait_for_line, client, db, 1)
        (await asking).release()
        assert tested.read_limit(db).limit == 1

    asyncio.run(main())
    wait_until_free(client, db)


def test_client_that_nobody_closed(daemon: RunningDaemon, client: Client, db: str) -> None:
    """Its session ends with it, without a warning."""
    forgotten = daemon.client()
    forgotten.acquire(db)
    del forgotten
    gc.collect()
    wait_until_free(client, db)


def test_default_client(
    daemon: RunningDaemon, client: Client, monkeypatch: pytest.MonkeyPatch, db: str
) -> None:
    monkeypatch.setenv("ATMOST_SOCKET", str(daemon.socket))
    try:
        made = sync.create_limit(name := db + " made", 2, slot_decay_per_second=1e-6)
        assert made == sync.read_limit(name)
        assert made in sync.list_limits()
        assert sync.update_limit(name, limit=3).limit == 3
        with sync.concurrency(name), sync.acquire(name) as grant:
            assert client.read_limit(name).held == 2
            assert grant.slots == {name: 1}
        sync.rate_limit(name)
        assert client.read_limit(name).spent > 0
        sync.delete_limit(name)
        with pytest.raises(LimitNotFound):
            client.read_limit(name)
    finally:
        sync._default.close()
