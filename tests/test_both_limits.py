"""What must be the same in both clients: limits, and what their settings mean for who asks.

semantics.md 1, and the rest of 2: rate_limit, missing, inactive, strict, edits, deletion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from atmost import errors
from atmost.sync import Client
from tests.callers import (
    SIDES,
    LoopThreads,
    Side,
    daemon_of_a_module,
    wait_for_line,
    wait_until_free,
)
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

pytestmark = pytest.mark.parametrize("side", SIDES, indirect=True)

SLOW = 1e-6  # slots a second: within a test, none comes back
FAST = 1e6


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
def name(request: pytest.FixtureRequest) -> str:
    """The test's own; there is no such limit."""
    made: str = request.node.name
    return made


@pytest.fixture
def db(client: Client, name: str) -> str:
    """A limit of one slot."""
    client.create_limit(name, 1)
    return name


# ---- Create, read, update, delete


def test_create_gives_the_record(side: Side, name: str) -> None:
    made = side.create_limit(name, 10, slot_decay_per_second=0.5, active=False)
    assert (made.name, made.limit, made.slot_decay_per_second, made.active) == (
        *(name, 10, 0.5, False),
    )
    assert (made.active_slots, made.held, made.spent, made.waiting, made.implicit) == (
        *(0, 0, 0.0, 0, False),
    )
    assert side.read_limit(name) == made


def test_defaults_of_create(side: Side, name: str) -> None:
    made = side.create_limit(name, 0)
    assert (made.limit, made.slot_decay_per_second, made.active) == (0, 0.0, True)


def test_record_is_frozen(side: Side, db: str) -> None:
    with pytest.raises(AttributeError):
        side.read_limit(db).limit = 2


def test_read_counts_held_spent_and_waiting(side: Side, client: Client, name: str) -> None:
    client.create_limit(name, 5, slot_decay_per_second=SLOW)
    side.acquire(name, occupy=3)
    side.rate_limit(name, occupy=2)
    side.caller().begin_enter(name)
    wait_for_line(client, name, 1)
    read = side.read_limit(name)
    assert (read.active_slots, read.held, read.waiting) == (5, 3, 1)
    assert 1.9 < read.spent <= 2
    side.close()  # ends the wait


def test_duplicate_name_changes_nothing(side: Side, db: str) -> None:
    before = side.read_limit(db)
    with pytest.raises(errors.LimitExists, match=db.split("[")[0]) as caught:
        side.create_limit(db, 7)
    assert caught.value.name == db
    assert side.read_limit(db) == before


def test_case_matters(side: Side, db: str) -> None:
    side.create_limit(db.upper(), 2)
    assert side.read_limit(db).limit == 1


@pytest.mark.parametrize("method", ["read_limit", "update_limit", "delete_limit", "list_tickets"])
def test_unknown_limit(side: Side, name: str, method: str) -> None:
    with pytest.raises(errors.LimitNotFound) as caught:
        getattr(side, method)(name)
    assert caught.value.names == [name]
    assert repr(name) in str(caught.value)


def test_update_changes_only_what_is_given(side: Side, db: str) -> None:
    assert side.update_limit(db, limit=4).limit == 4
    assert side.update_limit(db, slot_decay_per_second=2).limit == 4
    changed = side.update_limit(db, active=False)
    assert (changed.limit, changed.slot_decay_per_second, changed.active) == (4, 2.0, False)
    assert side.update_limit(db) == changed


def test_active_slots_are_read_only(side: Side, db: str) -> None:
    with pytest.raises(TypeError):
        side.update_limit(db, active_slots=0)


def test_delete_and_make_again_starts_clean(side: Side, db: str) -> None:
    side.acquire(db)
    side.delete_limit(db)
    assert side.create_limit(db, 1).active_slots == 0


def test_listing_is_by_name(side: Side, client: Client, name: str) -> None:
    for suffix in "cab":
        client.create_limit(name + suffix, 1)
    names = [limit.name for limit in side.list_limits()]
    assert names == sorted(names)
    assert {name + suffix for suffix in "abc"} <= set(names)


def test_listing_of_more_than_a_frame_is_whole(side: Side, client: Client, name: str) -> None:
    names = [f"{name} {number} ".ljust(200, "é") for number in range(320)]
    for start in range(0, len(names), 32):
        client.acquire(names[start : start + 32])  # makes them, inactive
    listed = [limit.name for limit in side.list_limits()]
    assert listed == sorted(set(listed))
    assert set(names) <= set(listed)


def test_tickets_say_who_holds_and_who_waits(side: Side, client: Client, db: str) -> None:
    holder, waiter = side.caller(), side.caller()
    holder.enter(db)
    asking = waiter.begin_enter(db)
    wait_for_line(client, db, 1)
    held, waiting = side.list_tickets(db)
    assert (held.limit, held.state, held.slots, held.place) == (db, "held", 1, None)
    assert (waiting.limit, waiting.state, waiting.slots, waiting.place) == (db, "waiting", 1, 1)
    assert held.number < waiting.number
    listed = [ticket.number for ticket in side.list_tickets() if ticket.limit == db]
    assert listed == [held.number, waiting.number]
    holder.leave()
    asking.result(PATIENCE_SECONDS)
    waiter.leave()


# ---- rate_limit


def test_rate_limit_spends_and_nothing_gives_it_back_but_time(
    side: Side, client: Client, name: str
) -> None:
    client.create_limit(name, 2, slot_decay_per_second=SLOW)
    side.rate_limit(name)
    side.rate_limit(name)
    with pytest.raises(errors.AcquireTimeout):
        side.rate_limit(name, timeout_seconds=0)
    side.caller().do(side.client.close)
    assert client.read_limit(name).active_slots == 2


def test_rate_limit_waits_for_decay(side: Side, client: Client, name: str) -> None:
    client.create_limit(name, 1, slot_decay_per_second=SLOW)
    side.rate_limit(name)
    asking = side.caller().begin(side.client.rate_limit, name)
    wait_for_line(client, name, 1)
    client.update_limit(name, slot_decay_per_second=FAST)
    assert asking.result(PATIENCE_SECONDS) is None


def test_rate_limit_without_decay_takes_nothing(side: Side, client: Client, db: str) -> None:
    client.create_limit(other := db + "2", 1, slot_decay_per_second=1.0)
    with pytest.raises(errors.SlotDecayRequired) as caught:
        side.rate_limit([other, db])
    assert caught.value.name == db
    assert client.read_limit(other).active_slots == 0


def test_hold_and_spend_in_one_request(side: Side, client: Client, db: str) -> None:
    client.create_limit(tokens := db + " tokens", 1000, slot_decay_per_second=SLOW)
    caller = side.caller()
    grant = caller.enter(db, rate_limit={tokens: 500})
    assert grant.slots == {db: 1}
    assert (client.read_limit(db).held, client.read_limit(tokens).active_slots) == (1, 500)
    caller.leave()
    wait_until_free(client, db)
    assert client.read_limit(tokens).active_slots == 500


def test_hold_and_spend_are_all_or_nothing(side: Side, client: Client, db: str) -> None:
    client.create_limit(api := db + " api", 1, slot_decay_per_second=SLOW)
    with client.concurrency(db), pytest.raises(errors.AcquireTimeout):
        side.acquire(db, rate_limit=api, timeout_seconds=0)
    assert client.read_limit(api).active_slots == 0


@pytest.mark.parametrize("names", [None, [], {}])
def test_a_block_may_only_spend(side: Side, client: Client, name: str, names: Any) -> None:
    client.create_limit(name, 5, slot_decay_per_second=SLOW)
    caller = side.caller()
    grant = caller.enter(names, rate_limit=[name])
    assert (grant.names, grant.slots) == ((), {})
    caller.leave()
    assert client.read_limit(name).active_slots == 1


def test_hold_and_spend_of_the_same_limit(side: Side, client: Client, name: str) -> None:
    client.create_limit(name, 3, slot_decay_per_second=SLOW)
    caller = side.caller()
    caller.enter(name, rate_limit={name: 2})
    assert (client.read_limit(name).held, client.read_limit(name).active_slots) == (1, 3)
    caller.leave()
    wait_until(lambda: client.read_limit(name).active_slots == 2)


# ---- Missing, inactive, strict


def test_missing_limit_is_made_inactive_and_the_body_runs(
    side: Side, client: Client, name: str, daemon: RunningDaemon
) -> None:
    caller = side.caller()
    for _ in range(2):
        assert caller.enter(name).unguarded == (name,)
    made = client.read_limit(name)
    assert (made.limit, made.active, made.held, made.implicit) == (1, False, 0, True)
    assert daemon.log_text().count(f"limit {name!r} was made, inactive") == 1


def test_missing_limit_and_rate_limit(side: Side, client: Client, name: str) -> None:
    side.rate_limit(name)
    assert client.read_limit(name).active is False


def test_strict_names_every_missing_limit_and_makes_none(
    side: Side, client: Client, db: str
) -> None:
    missing = [db + "3", db + "2"]
    for ask in (side.acquire, side.rate_limit):
        with pytest.raises(errors.LimitNotFound) as caught:
            ask([*missing, db], strict=True)
        assert sorted(caught.value.names) == sorted(missing)
        assert all(repr(name) in str(caught.value) for name in missing)
    assert not {limit.name for limit in client.list_limits()} & set(missing)


def test_strict_names_every_inactive_limit(side: Side, client: Client, db: str) -> None:
    inactive = sorted([db + "2", db + "3"])
    for name in inactive:
        client.create_limit(name, 1, active=False)
    with pytest.raises(errors.LimitInactive) as caught:
        side.acquire([*inactive, db], strict=True)
    assert sorted(caught.value.names) == inactive
    assert client.read_limit(db).held == 0


def test_strict_on_an_active_limit_is_as_ever(side: Side, client: Client, db: str) -> None:
    assert side.acquire(db, strict=True).slots == {db: 1}


def test_strict_waiter_is_refused_when_the_limit_is_turned_off(
    side: Side, client: Client, db: str
) -> None:
    with client.concurrency(db):
        asking = side.caller().begin_enter(db, strict=True)
        wait_for_line(client, db, 1)
        client.update_limit(db, active=False)
        with pytest.raises(errors.LimitInactive):
            asking.result(PATIENCE_SECONDS)


def test_inactive_occupies_nothing_and_nobody_waits(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, active=False)
    callers = [side.caller() for _ in range(3)]
    assert [caller.enter(db).unguarded for caller in callers] == [(db,)] * 3
    assert client.read_limit(db).active_slots == 0
    client.update_limit(db, active=True)
    assert side.acquire(db, timeout_seconds=0).unguarded == ()  # those inside never count
    for caller in callers:
        caller.leave()
    side.status()  # by now the daemon has acted on that
    assert client.read_limit(db).held == 1


def test_turning_off_lets_all_through_and_on_again_counts_who_held(
    side: Side, client: Client, db: str
) -> None:
    holder, waiter = side.caller(), side.caller()
    holder.enter(db)
    asking = waiter.begin_enter(db)
    wait_for_line(client, db, 1)
    client.update_limit(db, active=False)
    assert asking.result(PATIENCE_SECONDS).unguarded == (db,)
    assert client.update_limit(db, active=True).held == 1
    with pytest.raises(errors.AcquireTimeout):
        side.acquire(db, timeout_seconds=0)
    waiter.leave()
    side.status()  # by now the daemon has acted on that
    assert client.read_limit(db).held == 1
    holder.leave()
    wait_until_free(client, db)


# ---- Edits and deletion under way


def test_raising_the_limit_lets_waiters_go_at_once(side: Side, client: Client, db: str) -> None:
    side.acquire(db)
    asking = side.caller().begin_enter(db)
    wait_for_line(client, db, 1)
    client.update_limit(db, limit=2)
    asking.result(PATIENCE_SECONDS)


def test_lowering_the_limit_evicts_nobody(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=2)
    first, second = side.caller(), side.caller()
    first.enter(db)
    second.enter(db)
    assert client.update_limit(db, limit=1).held == 2
    asking = side.caller().begin_enter(db)
    wait_for_line(client, db, 1)
    first.leave()
    wait_until(lambda: client.read_limit(db).held == 1)
    assert client.read_limit(db).waiting == 1
    second.leave()
    asking.result(PATIENCE_SECONDS)


def test_what_never_fits_is_said_at_once(side: Side, client: Client, db: str) -> None:
    with client.concurrency(db), pytest.raises(errors.NeverFits) as caught:
        side.acquire(db, occupy=2)
    assert (caught.value.name, caught.value.slots, caught.value.limit) == (db, 2, 1)


def test_limit_of_0_refuses_everything(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=0)
    with pytest.raises(errors.NeverFits):
        side.acquire(db)


def test_waiter_that_no_longer_fits_is_told(side: Side, client: Client, db: str) -> None:
    client.update_limit(db, limit=2)
    side.acquire(db)
    asking = side.caller().begin_enter(db, occupy=2)
    wait_for_line(client, db, 1)
    client.update_limit(db, limit=1)
    with pytest.raises(errors.NeverFits):
        asking.result(PATIENCE_SECONDS)


def test_deleting_fails_who_waits_and_leaves_who_holds(side: Side, client: Client, db: str) -> None:
    holder = side.caller()
    holder.enter(db)
    asking = side.caller().begin_enter(db)
    wait_for_line(client, db, 1)
    client.delete_limit(db)
    with pytest.raises(errors.LimitDeleted) as caught:
        asking.result(PATIENCE_SECONDS)
    assert caught.value.name == db
    client.create_limit(db, 1)
    side.acquire(db)
    holder.leave()  # a no-op
    side.status()  # by now the daemon has acted on that
    assert client.read_limit(db).held == 1
