"""atmost.sync when Python turns to another thread, at every place where it may.

One thread reads for all; whichever way two of them meet, each gets its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from atmost.sync import Client, Grant
from tests.callers import daemon_of_a_module, wait_for_line, wait_until_free
from tests.places import AtPlace, places
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def is_locked(tested: Client) -> bool:
    """Whether the thread that stands still has the lock: then no other gets far."""
    assert tested._connection is not None
    return tested._connection.is_mine()


def test_the_leader_leaves_while_another_thread_comes(
    daemon: RunningDaemon, client: Client, threads: ThreadPoolExecutor
) -> None:
    """It comes to a place, the leader gets its answer and hands over, and it goes on."""
    client.create_limit(db := "leader leaves", 1)

    def ask(tested: Client, reached: AtPlace) -> int:
        with reached:
            return tested.read_limit(db).limit

    for place in places():
        with daemon.client() as tested:
            held = client.acquire(db, timeout_seconds=PATIENCE_SECONDS)
            leading = threads.submit(tested.acquire, db)
            wait_for_line(client, db, 1)

            def let_the_leader_go(
                tested: Client = tested, held: Grant = held, leading: Future[Grant] = leading
            ) -> None:
                if not is_locked(tested):
                    held.release()
                    leading.result(PATIENCE_SECONDS)

            reached = AtPlace(place, let_the_leader_go)
            asking = threads.submit(ask, tested, reached)
            wait_until(asking.done, f"an answer for who came when the leader left at {reached.at}")
            assert asking.result() == 1
            held.release()
            leading.result(PATIENCE_SECONDS).release()
        wait_until_free(client, db)
        if reached.at is None:
            break


def test_another_thread_comes_while_the_leader_leaves(
    daemon: RunningDaemon, client: Client, threads: ThreadPoolExecutor
) -> None:
    """The leader comes to a place, another thread asks and waits, and the leader goes on."""
    client.create_limit(db := "another comes", 1)

    def lead(tested: Client, reached: AtPlace) -> None:
        with reached:
            tested.acquire(db).release()

    for place in places():
        asking: list[Future[object]] = []
        with daemon.client() as tested:
            tested.status()

            def let_another_come(
                tested: Client = tested, asking: list[Future[object]] = asking
            ) -> None:
                asking.append(threads.submit(tested.read_limit, db))
                wait_until(lambda: is_locked(tested) or asking[0].done() or _sleeps(tested))

            reached = AtPlace(place, let_another_come)
            leading = threads.submit(lead, tested, reached)
            wait_until(leading.done, f"the end of the leader that stood at {reached.at}")
            leading.result()
            for ask in asking:
                wait_until(ask.done, f"an answer for who came when the leader was at {reached.at}")
                ask.result()
        wait_until_free(client, db)
        if reached.at is None:
            break


def _sleeps(tested: Client) -> bool:
    """Whether a thread waits until it is woken."""
    connection = tested._connection
    assert connection is not None
    return any(call.wake is not None for call in list(connection._calls.values()))
