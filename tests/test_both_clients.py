"""What must be the same in both clients: blocks, grants, waiting. semantics.md 2, over a real daemon."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from atmost import errors
from atmost.sync import Client
from tests.callers import (
    SIDES,
    LoopThreads,
    Side,
    daemon_of_a_module,
    nobody_listens,
    wait_for_line,
    wait_until_free,
)
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

pytestmark = pytest.mark.parametrize("side", SIDES, indirect=True)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon_of_a_module(tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
def loops() -> Iterator[LoopThreads]:
    running = LoopThreads()
    yield running
    running.close()


@pytest.fixture
def side(
    request: pytest.FixtureRequest, daemon: RunningDaemon, loops: LoopThreads
) -> Iterator[Side]:
    """The client under test."""
    one = Side(request.param, daemon.socket, loops)
    yield one
    one.close()


@pytest.fixture
def db(request: pytest.FixtureRequest, client: Client) -> str:
    """A limit of one slot, named after the test."""
    name: str = request.node.name
    client.create_limit(name, 1)
    return name


# ---- Blocks


def test_block_holds_until_it_ends(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    caller.enter(db)
    assert client.read_limit(db).active_slots == 1
    caller.leave()
    wait_until_free(client, db)


def test_exception_in_the_block_gives_the_slot_back_and_goes_on(
    side: Side, client: Client, db: str
) -> None:
    caller = side.caller()
    caller.enter(db)
    caller.leave(RuntimeError("boom"))  # also asserts that __exit__ does not swallow it
    wait_until_free(client, db)


def test_second_waits_until_the_first_leaves(side: Side, client: Client, db: str) -> None:
    first, second = side.caller(), side.caller()
    first.enter(db)
    entering = second.begin_enter(db)
    wait_for_line(client, db, 1)
    first.leave()
    assert entering.result(PATIENCE_SECONDS).waited_seconds > 0
    second.leave()


def test_one_concurrency_object_again_and_again_and_nested(
    side: Side, client: Client, db: str
) -> None:
    client.update_limit(db, limit=3)
    block = side.client.concurrency(db)
    caller = side.caller()
    for depth in (1, 2, 3):
        caller.begin_enter_block(block).result(PATIENCE_SECONDS)
        assert client.read_limit(db).held == depth
    for _ in range(3):
        caller.leave()
    wait_until_free(client, db)
    caller.begin_enter_block(block).result(PATIENCE_SECONDS)
    caller.leave()


def test_one_concurrency_object_for_several_callers(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=2)
    block = side.client.concurrency(db)
    callers = [side.caller() for _ in range(3)]
    entering = [caller.begin_enter_block(block) for caller in callers]
    wait_for_line(client, db, 1)
    wait_until(lambda: sum(ask.done() for ask in entering) == 2)
    inside = [caller for caller, ask in zip(callers, entering, strict=True) if ask.done()]
    inside[0].leave()
    for ask in entering:
        ask.result(PATIENCE_SECONDS)
    for caller in callers:
        if caller is not inside[0]:
            caller.leave()
    wait_until_free(client, db)


def test_first_come_first_served(side: Side, client: Client, db: str) -> None:
    order: list[int] = []

    def note(number: int, granted: Future[Any]) -> None:
        order.append(number)
        granted.result().release()

    with client.concurrency(db):
        for number in range(5):
            asking = side.caller().begin(side.client.acquire, db)
            asking.add_done_callback(functools.partial(note, number))
            wait_for_line(client, db, number + 1)
    wait_until(lambda: len(order) == 5)
    assert order == [0, 1, 2, 3, 4]


def test_big_request_at_the_head_is_not_starved(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=2)
    holder, big, small = side.caller(), side.caller(), side.caller()
    holder.enter(db)
    wants_two = big.begin_enter(db, occupy=2)
    wait_for_line(client, db, 1)
    wants_one = small.begin_enter(db)
    wait_for_line(client, db, 2)  # although one slot is free
    holder.leave()
    assert wants_two.result(PATIENCE_SECONDS).slots == {db: 2}
    assert not wants_one.done()
    big.leave()
    wants_one.result(PATIENCE_SECONDS)


# ---- Grants


def test_grant_of_a_call_that_no_block_fits(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=5)
    caller = side.caller()
    grant = caller.do(side.client.acquire, [db], occupy=2)
    assert (grant.names, grant.slots, grant.unguarded) == ((db,), {db: 2}, ())
    assert grant.tokens == {db: grant.token}
    assert 0 <= grant.waited_seconds < PATIENCE_SECONDS
    assert client.read_limit(db).held == 2
    caller.do(grant.release)
    wait_until_free(client, db)


def test_release_twice_is_harmless(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    grant = caller.do(side.client.acquire, db)
    caller.do(grant.release)
    other = caller.do(side.client.acquire, db)
    caller.do(grant.release)
    assert client.read_limit(db).held == 1  # the other one's
    caller.do(other.release)


def test_grant_is_a_context_manager(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    grant = caller.do(side.client.acquire, db)
    assert caller.do(grant.__enter__) is grant
    assert client.read_limit(db).held == 1
    caller.do(grant.__exit__, None, None, None)
    wait_until_free(client, db)


def test_tokens_rise_strictly_over_all_limits_and_clients(
    side: Side, client: Client, db: str
) -> None:
    caller = side.caller()
    tokens = []
    for asking in (side.client.acquire, client.acquire) * 3:
        grant = caller.do(asking, db)
        tokens.append(grant.token)
        caller.do(grant.release)
    assert tokens == sorted(set(tokens))
    assert tokens[0] > 0


def test_closing_the_client_gives_back_what_it_holds(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    grant = caller.do(side.client.acquire, db)
    caller.do(side.client.close)
    wait_until_free(client, db)
    caller.do(grant.release)  # nothing is held any more, and nothing happens
    caller.enter(db)  # a new session
    caller.leave()


def test_closing_the_client_ends_the_wait(side: Side, client: Client, db: str) -> None:
    side.status()  # connected before: the wait is not taken up again on a new connection
    with client.concurrency(db):
        entering = side.caller().begin_enter(db)
        wait_for_line(client, db, 1)
        side.caller().do(side.client.close)
        with pytest.raises(errors.DaemonUnavailable, match="the client was closed"):
            entering.result(PATIENCE_SECONDS)
        wait_for_line(client, db, 0)


# ---- No limit at all


@pytest.mark.parametrize("names", [None, [], (), {}, set()])
def test_no_names_is_no_limit_and_needs_no_daemon(
    side: Side, names: Any, tmp_path_factory: pytest.TempPathFactory, loops: LoopThreads
) -> None:
    nowhere = Side(side.name, nobody_listens(tmp_path_factory.getbasetemp()), loops)
    caller = nowhere.caller()
    grant = caller.enter(names, timeout_seconds=0, strict=True)
    assert (grant.names, grant.slots, grant.token, grant.tokens) == ((), {}, 0, {})
    caller.leave()
    caller.do(caller.do(nowhere.client.acquire, names).release)
    caller.do(nowhere.client.rate_limit, names)
    nowhere.close()


# ---- Several names


def test_several_names_are_all_or_nothing(side: Side, client: Client, db: str) -> None:
    client.create_limit(other := db + "2", 1)
    with client.concurrency(other):
        entering = side.caller().begin_enter([db, other])
        wait_for_line(client, db, 1)
        assert client.read_limit(db).held == 0
        assert client.read_limit(other).waiting == 1
    assert entering.result(PATIENCE_SECONDS).slots == {db: 1, other: 1}


def test_opposite_orders_do_not_deadlock(side: Side, client: Client, db: str) -> None:
    client.create_limit(other := db + "2", 1)
    callers = [side.caller() for _ in range(4)]
    for _ in range(30):
        with client.concurrency([db, other]):  # so that each releases in its own thread
            asking = [
                caller.begin(side.client.acquire, names)
                for caller, names in zip(callers, [[db, other], [other, db]] * 2, strict=True)
            ]
            for ask in asking:  # granted in whichever order they arrived
                ask.add_done_callback(lambda granted: granted.result().release())
        for ask in asking:
            ask.result(PATIENCE_SECONDS)
    wait_until_free(client, db)
    wait_until_free(client, other)


def test_duplicates_collapse(side: Side, client: Client, db: str) -> None:
    assert side.acquire([db, db]).slots == {db: 1}


def test_mapping_gives_each_its_slots(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=3)
    client.create_limit(other := db + "2", 2)
    assert side.acquire({db: 3, other: 2}).slots == {db: 3, other: 2}
    assert (client.read_limit(db).held, client.read_limit(other).held) == (3, 2)


# ---- Time-outs and cancellation


def test_timeout_of_0_tries_once(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    caller.do(caller.do(side.client.acquire, db, timeout_seconds=0).release)
    wait_until_free(client, db)
    with client.concurrency(db), pytest.raises(errors.AcquireTimeout):
        side.acquire(db, timeout_seconds=0)
    assert client.read_limit(db).waiting == 0


def test_timeout_says_what_how_long_where_and_who(
    side: Side, client: Client, db: str, daemon: RunningDaemon
) -> None:
    with daemon.client() as holder, holder.concurrency(db):
        ahead = side.caller().begin_enter(db)
        wait_for_line(client, db, 1)
        with pytest.raises(errors.AcquireTimeout) as caught:
            side.acquire(db, timeout_seconds=0.02)
        told = client.list_tickets(db)[0]
    error = caught.value
    (held,) = error.holders
    assert isinstance(error, TimeoutError)
    assert (error.names, error.slots, error.place, error.places) == ([db], {db: 1}, 2, {db: 2})
    assert error.waited_seconds >= 0.02
    assert (held["limit"], held["slots"], held["pid"]) == (db, 1, told.pid)
    assert held["command"] == told.command
    assert f"1 slot of {db!r}" in str(error)
    assert f"2 in line for {db!r}" in str(error)
    assert f"pid {told.pid}" in str(error)
    ahead.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("seconds", [3e6, 1e18, 1e300])
def test_time_out_longer_than_any_clock_counts(
    side: Side, client: Client, db: str, seconds: float
) -> None:
    with client.concurrency(db):
        entering = side.caller().begin_enter(db, timeout_seconds=seconds)
        wait_for_line(client, db, 1)
    entering.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("seconds", [PATIENCE_SECONDS, 10_000_000, 1e300])
def test_granted_within_the_time(side: Side, client: Client, db: str, seconds: float) -> None:
    with client.concurrency(db):
        callers = [side.caller() for _ in range(2)]
        asking = [caller.begin_enter(db, timeout_seconds=seconds) for caller in callers]
        wait_for_line(client, db, 2)
        for ask in asking:  # now, so that each releases in its own thread
            ask.add_done_callback(lambda entered: entered.result().release())
    for ask in asking:
        ask.result(PATIENCE_SECONDS)


# ---- Waiting for yourself


def test_waiting_for_yourself_is_reported(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    caller.enter(db)
    with pytest.raises(errors.WouldDeadlock) as caught:
        caller.enter(db)
    assert (caught.value.name, caught.value.held, caught.value.limit) == (db, 1, 1)
    with pytest.raises(errors.WouldDeadlock):
        caller.enter([db, db + "2"])
    with pytest.raises(errors.WouldDeadlock):
        caller.do(side.client.acquire, db)
    assert client.read_limit(db).waiting == 0
    caller.leave()
    caller.enter(db)  # out of the block it may ask again
    caller.leave()


def test_waiting_for_yourself_with_a_time_out_is_a_time_out(
    side: Side, client: Client, db: str
) -> None:
    caller = side.caller()
    caller.enter(db)
    for seconds in (0, 0.01):
        with pytest.raises(errors.AcquireTimeout):
            caller.enter(db, timeout_seconds=seconds)
    caller.leave()


def test_waiting_for_somebody_else_is_no_deadlock(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=2)
    outer, other = side.caller(), side.caller()
    outer.enter(db)
    other.enter(db)
    entering = outer.begin_enter(db)  # holds one of two: the other one may come back
    wait_for_line(client, db, 1)
    other.leave()
    entering.result(PATIENCE_SECONDS)
    outer.leave()
    outer.leave()


def test_what_acquire_holds_may_be_released_by_anyone(side: Side, client: Client, db: str) -> None:
    asker, releaser = side.caller(), side.caller()
    grant = asker.do(side.client.acquire, db)
    entering = asker.begin_enter(db)
    wait_for_line(client, db, 1)
    releaser.do(grant.release)
    entering.result(PATIENCE_SECONDS)


def test_a_limit_made_again_is_another_one(side: Side, client: Client, db: str) -> None:
    caller = side.caller()
    caller.enter(db)
    client.delete_limit(db)
    client.create_limit(db, 1)
    with client.concurrency(db):  # what the caller holds is not of this limit
        entering = caller.begin_enter(db)
        wait_for_line(client, db, 1)
    entering.result(PATIENCE_SECONDS)
    caller.leave()
    caller.leave()
    wait_until_free(client, db)
