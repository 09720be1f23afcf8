"""The daemon is restarted, gracefully or by SIGKILL, and both clients notice nothing but the time it
takes: who holds goes on holding, who waits keeps its place."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import atmost.asyncio as aio
from atmost.errors import AcquireTimeout, AtmostError
from atmost.sync import Client
from tests.callers import (
    LOOPS,
    SIDES,
    LoopThreads,
    Side,
    forget_helpers,
    helpers,
    run_on,
    wait_for_line,
    wait_until_free,
)
from tests.scripts import script
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

both = pytest.mark.parametrize("kind", SIDES)
ends = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])

NewSide = Callable[..., Side]


@pytest.fixture(autouse=True)
def own_helpers() -> None:
    forget_helpers()


@pytest.fixture
def new_side(kind: str, daemon: RunningDaemon) -> Iterator[NewSide]:
    loops = LoopThreads()
    made: list[Side] = []

    def make(**options: object) -> Side:
        made.append(Side(kind, daemon.socket, loops, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    loops.close()
    wait_until(lambda: not helpers())


def restart(daemon: RunningDaemon, number: int) -> None:
    daemon.stop(number)
    daemon.start()


def settled(connection: Any) -> bool:
    """Whether the daemon knows all that this session has."""
    return bool(connection._connected and not connection._exchange.unsettled)


def held(daemon: RunningDaemon, name: str) -> int:
    with daemon.client() as client:
        return client.read_limit(name).held


def wait_for_held(daemon: RunningDaemon, name: str, count: int) -> None:
    wait_until(lambda: held(daemon, name) == count, f"{count} slots of {name} are held")


@both
@ends
def test_a_block_notices_nothing(new_side: NewSide, daemon: RunningDaemon, number: int) -> None:
    side = new_side()
    side.create_limit("db", 1)
    caller = side.caller()
    for _ in range(3):
        grant = caller.enter("db")
        restart(daemon, number)
        assert held(daemon, "db") == 1
        caller.leave()
        assert grant.lost is None
        wait_for_held(daemon, "db", 0)  # although it does not call us again


@both
@ends
def test_a_block_that_ends_while_there_is_no_daemon(
    new_side: NewSide, daemon: RunningDaemon, number: int
) -> None:
    side = new_side()
    side.create_limit("db", 1)
    caller = side.caller()
    caller.enter("db")
    daemon.stop(number)
    caller.leave()
    daemon.start()
    wait_for_held(daemon, "db", 0)


@both
@ends
def test_who_waits_keeps_its_place(new_side: NewSide, daemon: RunningDaemon, number: int) -> None:
    side = new_side()
    side.create_limit("db", 1)
    holder = side.caller()
    holder.enter("db")
    order: list[int] = []
    waiting = []
    for place in range(4):
        one = new_side() if place % 2 else side
        asking = one.caller().begin(one.client.acquire, "db")
        asking.add_done_callback(functools.partial(lambda place, _: order.append(place), place))
        waiting.append((one, asking))
        with daemon.client() as client:
            wait_for_line(client, "db", place + 1)
    restart(daemon, number)
    late = new_side()
    last = late.caller().begin(late.client.acquire, "db")
    with daemon.client() as client:
        wait_for_line(client, "db", 5)
        restart(daemon, number)
        wait_for_line(client, "db", 5)
        holder.leave()
        for one, asking in [*waiting, (late, last)]:
            one.caller().do(asking.result(PATIENCE_SECONDS).release)
        wait_until_free(client, "db")
    assert order == [0, 1, 2, 3]


@both
def test_a_time_out_goes_on_counting(new_side: NewSide, daemon: RunningDaemon) -> None:
    side = new_side()
    side.create_limit("db", 1)
    holder, waiter = side.caller(), side.caller()
    holder.enter("db")
    asking = waiter.begin_enter("db", timeout_seconds=1.0)
    with daemon.client() as client:
        wait_for_line(client, "db", 1)
    restart(daemon, signal.SIGKILL)
    with pytest.raises(AcquireTimeout):
        asking.result(PATIENCE_SECONDS)
    holder.leave()
    with daemon.client() as client:
        wait_until_free(client, "db")


@both
@ends
def test_calls_wait_for_the_next_daemon(
    new_side: NewSide, daemon: RunningDaemon, number: int
) -> None:
    side = new_side(reconnect_seconds=PATIENCE_SECONDS)
    side.create_limit("db", 1)
    side.create_limit("api", 1, slot_decay_per_second=1e-6)
    daemon.stop(number)
    calls = [
        side.caller().begin(side.client.read_limit, "db"),
        side.caller().begin(side.client.rate_limit, "api"),
        side.caller().begin_enter("db"),
        side.caller().begin(side.client.create_limit, "new", 1),
    ]
    connection = side.client._connection
    wait_until(lambda: len(connection._calls) >= 4)
    daemon.start()
    for call in calls:
        call.result(PATIENCE_SECONDS)
    side.caller().do(calls[2].result().release)
    with daemon.client() as client:
        wait_until_free(client, "db")
        assert client.read_limit("api").active_slots == 1
        assert client.read_limit("new").limit == 1


@both
def test_close_while_there_is_no_daemon(new_side: NewSide, daemon: RunningDaemon) -> None:
    side = new_side()
    side.create_limit("db", 2)
    caller = side.caller()
    caller.enter("db")
    grant = caller.do(side.client.acquire, "db")
    daemon.stop(signal.SIGKILL)
    caller.do(side.client.close)
    daemon.start()
    wait_for_held(daemon, "db", 0)
    caller.leave()
    caller.do(grant.release)


@pytest.mark.parametrize("loop", LOOPS)
def test_asyncio_run_that_ends_while_there_is_no_daemon(daemon: RunningDaemon, loop: str) -> None:
    with daemon.client() as client:
        client.create_limit("db", 1)

    async def main() -> None:
        await aio.Client(daemon.socket).acquire("db")
        daemon.stop(signal.SIGKILL)

    run_on(loop, main())
    daemon.start()
    wait_for_held(daemon, "db", 0)


@ends
def test_a_script_that_computes_meanwhile_and_never_calls_again(
    daemon: RunningDaemon, number: int
) -> None:
    with daemon.client() as client:
        client.create_limit("db", 1)
    code = """
        with sync.concurrency("db"):
            say("holds")
            hear()
        say("left", threading.active_count())
        hear()
        for helper in threading.enumerate():  # it hears of its success after the daemon has acted
            if helper is not threading.current_thread():
                helper.join(30)
        assert threading.active_count() == 1
    """
    with script(daemon, code) as process:
        process.expect("holds")
        restart(daemon, number)
        assert held(daemon, "db") == 1
        process.tell()
        assert process.hear() in ("left 1", "left 2")  # the helper, while it is at it
        wait_for_held(daemon, "db", 0)
        process.tell()
        process.end()


def test_a_process_that_ends_while_there_is_no_daemon(daemon: RunningDaemon) -> None:
    """Nothing keeps it from ending, and it says nothing of a thread that was at work."""
    with daemon.client() as client:
        client.create_limit("db", 1)
    code = """
        grant = sync.acquire("db")
        say("holds")
        hear()
        grant.release()
    """
    with script(daemon, code) as process:
        process.expect("holds")
        daemon.stop(signal.SIGKILL)
        process.tell()
        process.end()
        daemon.start()
        wait_for_held(daemon, "db", 0)


@both
def test_many_restarts_under_load(new_side: NewSide, daemon: RunningDaemon) -> None:
    """Never more than the limit inside, by the callers' own count, and nothing is left behind."""
    sides = [new_side(reconnect_seconds=PATIENCE_SECONDS) for _ in range(2)]
    sides[0].create_limit("db", 3)
    sides[0].create_limit("gpu", 2)
    counting = threading.Lock()
    inside = {"db": 0, "gpu": 0}
    stopped = threading.Event()

    def work(number: int) -> int:
        chance = random.Random(number)
        side = sides[number % 2]
        caller = side.caller()
        entered = 0
        while not stopped.is_set():
            names = chance.choice([["db"], ["gpu"], ["db", "gpu"]])
            timeout = chance.choice([None, None, 0, 0.01])
            try:
                caller.enter(names, timeout_seconds=timeout)
            except AcquireTimeout:
                continue
            with counting:
                for name in names:
                    inside[name] += 1
                assert inside["db"] <= 3
                assert inside["gpu"] <= 2
            stopped.wait(chance.random() / 200)
            with counting:
                for name in names:
                    inside[name] -= 1
            caller.leave()
            entered += 1
        return entered

    chance = random.Random(4)
    with ThreadPoolExecutor(10) as pool:
        working = [pool.submit(work, number) for number in range(10)]
        try:
            for _ in range(6):
                stopped.wait(chance.random() / 5)
                restart(daemon, chance.choice([signal.SIGTERM, signal.SIGKILL]))
        finally:
            stopped.set()
        assert all(one.result(PATIENCE_SECONDS) for one in working)
    with daemon.client() as client:
        wait_until_free(client, "db")
        wait_until_free(client, "gpu")


def test_a_lone_task_that_holds_does_nothing_and_is_not_lost(daemon: RunningDaemon) -> None:
    async def main() -> None:
        client = aio.Client(daemon.socket)
        await client.create_limit("db", 1)
        async with client.concurrency("db") as grant:
            connection = client._connection
            assert connection is not None
            for number in (signal.SIGKILL, signal.SIGTERM):
                await asyncio.to_thread(restart, daemon, number)
                await asyncio.to_thread(wait_until, lambda: settled(connection))
            assert grant.lost is None
            assert (await client.read_limit("db")).held == 1

    asyncio.run(main())


def test_errors_that_the_client_tells_are_of_its_own_tree(daemon: RunningDaemon) -> None:
    client = Client(daemon.socket, reconnect_seconds=0.0)
    client.create_limit("db", 1)
    daemon.stop(signal.SIGKILL)
    with pytest.raises(AtmostError, match="did not come back within 0 s"):
        client.acquire("db")
    client.close()
    daemon.start()
    wait_until(lambda: not helpers())
