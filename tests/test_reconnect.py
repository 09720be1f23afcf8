"""A connection that is lost: both clients come back by themselves and say what they have. Here a
scripted daemon hears what they say; test_restart.py has the real one."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import atmost.asyncio as aio
from atmost import errors, wire
from atmost.errors import DaemonUnavailable, GrantLost, LimitExists, ProtocolError
from atmost.sync import Client
from tests.callers import LOOPS, SIDES, Caller, LoopThreads, Side, forget_helpers, helpers, run_on
from tests.scripted import Peer, ScriptedDaemon
from tests.support import PATIENCE_SECONDS, wait_until

both = pytest.mark.parametrize("kind", SIDES)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon(tmp_path / "s") as scripted:
        yield scripted


@pytest.fixture(autouse=True)
def own_helpers() -> None:
    forget_helpers()


@pytest.fixture
def new_side(kind: str, daemon: ScriptedDaemon) -> Iterator[Callable[..., Side]]:
    loops = LoopThreads()
    made: list[Side] = []

    def make(**options: Any) -> Side:
        made.append(Side(kind, daemon.path, loops, **options))
        return made[-1]

    yield make
    daemon.go()
    for one in made:
        one.close()
    loops.close()
    daemon.come()
    wait_until(lambda: no_helper(daemon))


@pytest.fixture
def side(new_side: Callable[..., Side]) -> Side:
    return new_side(reconnect_seconds=PATIENCE_SECONDS)


@pytest.fixture
def caller(side: Side) -> Caller:
    return side.caller()


def no_helper(daemon: ScriptedDaemon) -> bool:
    """Whether no helper thread is left; one that is there gets its answer."""
    left = helpers()
    if left:
        peer = daemon.accept()
        peer.hear_all()
        peer.settle()
        peer.hear_end()
    return not left


def grants(peer: Peer, token: int = 7) -> wire.Acquire:
    acquire = peer.hear(wire.Acquire)
    peer.say(wire.Granted(acquire.request, token, 0))
    return acquire


def enter(daemon: ScriptedDaemon, caller: Caller, *names: str) -> tuple[Peer, Any]:
    """A block that is entered on a first connection."""
    entering = caller.begin_enter(names or "db")
    peer = daemon.accept()
    grants(peer)
    return peer, entering.result(PATIENCE_SECONDS)


def refusal(error: errors.AtmostError, request: int) -> wire.Failed:
    return wire.Failed(request, error.code, str(error), error.fields)


# ---- What was on its way


@both
@pytest.mark.parametrize("heard", [True, False], ids=["answer lost", "request lost"])
def test_a_request_is_asked_again(daemon: ScriptedDaemon, caller: Caller, heard: bool) -> None:
    asking = caller.begin(caller.side.client.acquire, "db")
    first = daemon.accept()
    if heard:
        first.hear(wire.Acquire)
    first.hang_up()
    peer = daemon.accept()
    assert peer.session == first.session
    (acquire,) = peer.hear_all()
    assert isinstance(acquire, wire.Acquire)
    peer.say(wire.Granted(acquire.request, 7, 5), wire.Done(peer.resume))
    grant = asking.result(PATIENCE_SECONDS)
    assert (grant.token, grant.lost) == (7, None)
    caller.do(grant.release)
    assert peer.hear(wire.Release).request == acquire.request


@both
def test_who_waits_and_who_holds_are_both_named(daemon: ScriptedDaemon, side: Side) -> None:
    holder, waiter = side.caller(), side.caller()
    first, grant = enter(daemon, holder)
    waiting = waiter.begin_enter("gpu")
    waits = first.hear(wire.Acquire)
    first.hang_up()
    peer = daemon.accept()
    assert peer.hear_all() == [wire.Keep(1, {"db": 1}, 7), waits]
    peer.settle()
    holder.leave()
    assert peer.hear(wire.Release).request == 1
    assert grant.lost is None
    peer.say(wire.Granted(waits.request, 8, 0))
    waiting.result(PATIENCE_SECONDS)
    waiter.leave()
    peer.hear(wire.Release)


@both
def test_time_counts_from_the_call(daemon: ScriptedDaemon, caller: Caller) -> None:
    asking = caller.begin_enter("db", timeout_seconds=PATIENCE_SECONDS)
    peer = daemon.accept()
    asked = peer.hear(wire.Acquire)
    left = [asked.timeout_seconds or 0]
    for _ in range(3):
        peer.hang_up()
        peer = daemon.accept()
        (again,) = peer.hear_all()
        assert isinstance(again, wire.Acquire)
        left.append(again.timeout_seconds or 0)
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == 4
    peer.say(wire.Granted(asked.request, 7, 0))
    asking.result(PATIENCE_SECONDS)
    caller.leave()


@both
def test_calls_that_begin_meanwhile_join_the_wait(daemon: ScriptedDaemon, side: Side) -> None:
    waiting = side.caller().begin_enter("db")
    first = daemon.accept()
    first.hear(wire.Acquire)
    daemon.go()
    reading = side.caller().begin(side.client.read_limit, "db")
    other = side.caller().begin(side.client.rate_limit, "api")
    connection = side.client._connection
    wait_until(lambda: len(connection._calls) >= 3)
    daemon.come()
    peer = daemon.accept()
    heard = {type(message): message for message in peer.hear_all()}
    assert set(heard) == {wire.Acquire, wire.ReadLimit}
    for number in (1, 2, 3):
        peer.say(refusal(errors.LimitDeleted("db"), number))
    for call in (waiting, reading, other):
        with pytest.raises(errors.LimitDeleted):
            call.result(PATIENCE_SECONDS)


@both
def test_what_was_spent_is_seen(daemon: ScriptedDaemon, side: Side) -> None:
    calls: list[Future[None]] = []

    def spend() -> None:
        calls.append(side.caller().begin(side.client.rate_limit, "api"))

    spend()
    peer = daemon.accept()
    assert grants(peer).seen == []
    calls[-1].result(PATIENCE_SECONDS)
    spend()
    assert peer.hear(wire.Acquire).seen == [1]
    peer.hang_up()
    peer = daemon.accept()
    (again,) = peer.hear_all()
    assert isinstance(again, wire.Acquire)
    assert (again.request, again.spend, again.seen) == (2, {"api": 1}, [])
    peer.say(wire.Granted(2, 8, 0))
    calls[-1].result(PATIENCE_SECONDS)


# ---- Releases


@both
def test_block_that_ends_while_the_daemon_is_away(daemon: ScriptedDaemon, caller: Caller) -> None:
    _, grant = enter(daemon, caller)
    daemon.go()
    caller.leave()
    assert grant.lost is None
    daemon.come()
    peer = daemon.accept()
    while peer.hear_all():  # asyncio may have connected before the block ended
        peer.hear(wire.Release)
    peer.settle()
    if caller.side.name == "sync":
        wait_until(lambda: not helpers())
    status = caller.begin(caller.side.client.read_limit, "db")
    assert peer.hear(wire.ReadLimit)  # the same connection
    peer.say(refusal(errors.LimitNotFound(["db"]), peer.resume + 1))
    with pytest.raises(errors.LimitNotFound):
        status.result(PATIENCE_SECONDS)


@both
def test_a_release_that_was_swallowed(daemon: ScriptedDaemon, caller: Caller) -> None:
    first, _ = enter(daemon, caller)
    caller.leave()
    first.hear(wire.Release)
    first.hang_up()  # before it was acted on
    asking = None
    if caller.side.name == "sync":  # nobody reads: its next call notices
        asking = caller.begin(caller.side.client.status)
    peer = daemon.accept()
    assert peer.hear_all() == ([wire.Status(2)] if asking else [])
    peer.settle()
    if asking:
        peer.say(refusal(errors.TooMany("questions", 1, "none"), 2))
        with pytest.raises(errors.TooMany):
            asking.result(PATIENCE_SECONDS)


@both
def test_lost_again_before_it_is_settled(daemon: ScriptedDaemon, caller: Caller) -> None:
    peer, _ = enter(daemon, caller)
    peer.hang_up()
    caller.leave()
    for _ in range(5):
        peer = daemon.accept()
        peer.hear_all()
        peer.hang_up()
    for _ in range(3):  # now before its welcome
        peer = daemon.accept(welcome=False)
        peer.hang_up()
    peer = daemon.accept()
    assert peer.hear_all() == []
    peer.settle()


# ---- Patience


@both
def test_held_slots_outlive_the_patience_of_calls(
    daemon: ScriptedDaemon, new_side: Callable[..., Side]
) -> None:
    side = new_side(reconnect_seconds=0.05)
    caller, other = side.caller(), side.caller()
    _, grant = enter(daemon, caller)
    daemon.go()
    words = r"the connection was lost and the daemon did not come back within 0.05 s \(there is no"
    for _ in range(3):
        with pytest.raises(DaemonUnavailable, match=words):
            other.do(side.client.rate_limit, "api")
    daemon.come()
    peer = daemon.accept()
    assert peer.hear_all() == [wire.Keep(1, {"db": 1}, 7)]
    peer.settle()
    caller.leave()
    assert grant.lost is None
    peer.hear(wire.Release)


@both
def test_no_call_is_left_waiting_for_one_that_says_no_welcome(
    daemon: ScriptedDaemon, new_side: Callable[..., Side]
) -> None:
    side = new_side(reconnect_seconds=0.05)
    caller, other = side.caller(), side.caller()
    first, _ = enter(daemon, caller)
    asking = other.begin(side.client.rate_limit, "api")
    first.hear(wire.Acquire)
    first.hang_up()
    peer = daemon.accept(welcome=False)
    with pytest.raises(DaemonUnavailable, match="does not say welcome"):
        asking.result(PATIENCE_SECONDS)
    # The connection stays: its end would release what is held.
    keep, acquire = peer.hear_all()
    peer.say(wire.Welcome(wire.PROTOCOL_VERSION, "0", 1))
    assert keep == wire.Keep(1, {"db": 1}, 7)
    assert isinstance(acquire, wire.Acquire)
    assert peer.hear(wire.Release).request == acquire.request
    peer.settle()
    caller.leave()
    peer.hear(wire.Release)


@both
def test_a_refusal_after_a_restart_is_not_the_last_word(
    daemon: ScriptedDaemon, caller: Caller
) -> None:
    asking = caller.begin_enter("db")
    first = daemon.accept()
    first.hear(wire.Acquire)
    first.hang_up()
    for _ in range(3):
        peer = daemon.accept(welcome=False)
        peer.say(refusal(errors.TooMany("connections", 1, "connections_max"), 0))
        peer.hang_up()
    peer = daemon.accept()
    peer.hear_all()
    peer.say(wire.Granted(1, 7, 0))
    asking.result(PATIENCE_SECONDS)
    caller.leave()


@both
def test_a_refusal_that_stays_is_told(
    daemon: ScriptedDaemon, new_side: Callable[..., Side]
) -> None:
    side = new_side(reconnect_seconds=0.05)
    asking = side.caller().begin_enter("db")
    first = daemon.accept()
    first.hear(wire.Acquire)
    first.hang_up()
    while not asking.done():
        peer = daemon.accept(welcome=False)
        peer.say(refusal(errors.TooMany("connections", 1, "connections_max"), 0))
        peer.hang_up()
        wait_until(lambda: asking.done() or side.client._connection._away.since)
    with pytest.raises(errors.TooMany):
        asking.result(PATIENCE_SECONDS)
    peer = daemon.accept()
    assert peer.hear_all() == []
    peer.settle()


@both
def test_another_version_is_the_last_word(daemon: ScriptedDaemon, side: Side) -> None:
    caller, other = side.caller(), side.caller()
    first, grant = enter(daemon, caller)
    asking = other.begin(side.client.acquire, "gpu")
    first.hear(wire.Acquire)
    first.hang_up()
    peer = daemon.accept(welcome=False)
    peer.say(wire.Failed(0, "protocol_error", "", {"problem": "version 1; this speaks 7"}))
    with pytest.raises(ProtocolError, match="this speaks 7"):
        asking.result(PATIENCE_SECONDS)
    assert grant.lost is not None  # the next one knows nothing of it
    assert grant.lost.names == ["db"]
    with pytest.raises(GrantLost):
        caller.leave()
    asking = other.begin(side.client.acquire, "gpu")
    peer = daemon.accept()
    assert peer.session != first.session
    grants(peer)
    other.do(asking.result(PATIENCE_SECONDS).release)


# ---- Grants that are lost


@both
@pytest.mark.parametrize("way", ["block", "grant"])
def test_a_grant_that_was_lost(daemon: ScriptedDaemon, caller: Caller, way: str) -> None:
    peer, grant = enter(daemon, caller)
    peer.say(refusal(GrantLost(["db"], "an operator has released it"), 1))
    wait_until(lambda: grant.lost)
    assert caller.begin(caller.side.client.read_limit, "db")  # tells nothing of it
    peer.hear(wire.ReadLimit)
    peer.say(refusal(errors.LimitNotFound(["db"]), 2))
    if way == "block":
        with pytest.raises(GrantLost, match="an operator has released it"):
            caller.leave()
    else:
        caller.do(grant.release)  # says nothing, and nothing is sent
        caller.do(grant.release)
    assert isinstance(grant.lost, GrantLost)
    asking = caller.begin(caller.side.client.read_limit, "db")
    peer.hear(wire.ReadLimit)
    peer.say(refusal(errors.LimitNotFound(["db"]), 3))
    with pytest.raises(errors.LimitNotFound):
        asking.result(PATIENCE_SECONDS)


@both
def test_a_lost_grant_does_not_hide_the_blocks_own_error(
    daemon: ScriptedDaemon, caller: Caller
) -> None:
    peer, grant = enter(daemon, caller)
    peer.say(refusal(GrantLost(["db"], "lost"), 1))
    wait_until(lambda: grant.lost)
    caller.leave(KeyError())


@pytest.mark.parametrize("kind", ["sync"])
def test_a_block_learns_at_its_end_what_nobody_has_read(
    daemon: ScriptedDaemon, caller: Caller
) -> None:
    peer, grant = enter(daemon, caller)
    peer.say(refusal(GrantLost(["db"], "lost"), 1))
    with pytest.raises(GrantLost):
        caller.leave()
    assert grant.lost is not None


@both
def test_what_the_next_daemon_could_not_keep(daemon: ScriptedDaemon, caller: Caller) -> None:
    first, grant = enter(daemon, caller)
    asking = caller.begin(caller.side.client.rate_limit, "api")
    first.hear(wire.Acquire)
    first.hang_up()
    peer = daemon.accept()
    peer.hear_all()
    peer.say(refusal(GrantLost(["db"], "unknown"), 1), wire.Done(peer.resume))
    peer.say(wire.Granted(2, 9, 0))
    asking.result(PATIENCE_SECONDS)
    wait_until(lambda: grant.lost)
    with pytest.raises(GrantLost):
        caller.leave()


# ---- Changes


def record(name: str, limit: int) -> wire.LimitRecord:
    return wire.LimitRecord(name, limit, 0.0, True, 0, 0, 0.0, 0, False)


@both
@pytest.mark.parametrize("ours", [True, False])
def test_create_whose_answer_was_lost(daemon: ScriptedDaemon, caller: Caller, ours: bool) -> None:
    creating = caller.begin(caller.side.client.create_limit, "db", 3)
    peer = daemon.accept()
    peer.hear(wire.CreateLimit)
    peer.hang_up()
    peer = daemon.accept()
    assert peer.hear_all() == [wire.CreateLimit(1, "db", 3)]
    peer.say(refusal(LimitExists("db"), 1))
    number = peer.hear(wire.ReadLimit).request
    peer.say(wire.Limit(number, record("db", 3 if ours else 4)))
    if ours:
        assert creating.result(PATIENCE_SECONDS).limit == 3
    else:
        with pytest.raises(LimitExists):
            creating.result(PATIENCE_SECONDS)


@both
def test_delete_whose_answer_was_lost(daemon: ScriptedDaemon, caller: Caller) -> None:
    deleting = caller.begin(caller.side.client.delete_limit, "db")
    peer = daemon.accept()
    peer.hear(wire.DeleteLimit)
    peer.hang_up()
    peer = daemon.accept()
    assert peer.hear_all() == [wire.DeleteLimit(1, "db")]
    peer.say(refusal(errors.LimitNotFound(["db"]), 1))
    assert deleting.result(PATIENCE_SECONDS) is None


# ---- Close


@both
def test_close_while_the_daemon_is_away(daemon: ScriptedDaemon, side: Side) -> None:
    caller, waiter = side.caller(), side.caller()
    first, grant = enter(daemon, caller)
    waiting = waiter.begin_enter("gpu")
    first.hear(wire.Acquire)
    daemon.go()
    side.caller().do(side.client.close)
    with pytest.raises(DaemonUnavailable, match="the client was closed"):
        waiting.result(PATIENCE_SECONDS)
    daemon.come()
    peer = daemon.accept()
    assert peer.session == first.session
    assert peer.hear_all() == []
    peer.settle()
    peer.hear_end()
    caller.leave()
    assert grant.lost is None
    wait_until(lambda: not helpers())


@both
def test_what_belongs_to_the_process_is_kept_by_a_close(daemon: ScriptedDaemon, side: Side) -> None:
    caller = side.caller()
    asking = caller.begin(side.client.acquire_until_exit, "db")
    first = daemon.accept()
    grants(first)
    asking.result(PATIENCE_SECONDS)
    daemon.go()
    caller.do(side.client.close)
    daemon.come()
    peer = daemon.accept()
    assert peer.hear_all() == [wire.Keep(1, {"db": 1}, 7, True)]
    peer.settle()
    peer.hear_end()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_ends_while_the_daemon_is_away(daemon: ScriptedDaemon, loop: str) -> None:
    """It is not kept from ending, and leaves nothing pending; the slots come back all the same."""

    async def main() -> None:
        client = aio.Client(daemon.path)
        entering = asyncio.create_task(client.acquire("db"))
        peer = await asyncio.to_thread(daemon.accept)
        await asyncio.to_thread(grants, peer)
        await entering
        daemon.go()
        connection = client._connection
        assert connection is not None
        await asyncio.to_thread(wait_until, lambda: connection._timer)

    run_on(loop, main())
    daemon.come()
    peer = daemon.accept()
    assert peer.hear_all() == []
    peer.settle()
    peer.hear_end()
    wait_until(lambda: not helpers())


# ---- Threads


@both
def test_no_thread_but_to_reconcile(daemon: ScriptedDaemon, caller: Caller) -> None:
    first, _ = enter(daemon, caller)
    assert not helpers()
    first.hang_up()
    caller.leave()
    assert len(helpers()) == (caller.side.name == "sync")
    peer = daemon.accept()
    peer.hear_all()
    peer.settle()
    wait_until(lambda: not helpers())


@pytest.mark.parametrize("kind", ["sync"])
def test_the_helper_reads_for_all_and_hands_over(daemon: ScriptedDaemon, side: Side) -> None:
    caller, other = side.caller(), side.caller()
    first, _ = enter(daemon, caller)
    first.hang_up()
    caller.leave()
    peer = daemon.accept()
    peer.hear_all()
    waiting = other.begin(side.client.acquire, "gpu")
    waits = peer.hear(wire.Acquire, but=wire.Release)  # the helper may have been as quick as that
    peer.settle()
    wait_until(lambda: not helpers())
    peer.say(wire.Granted(waits.request, 8, 0))
    waiting.result(PATIENCE_SECONDS).release()


@both
def test_more_to_say_than_a_socket_takes_at_once(daemon: ScriptedDaemon, side: Side) -> None:
    """And a daemon that is slow to read: nobody is stuck, and every byte comes in order."""
    names = [letter * 200 for letter in "abcdefghijklmnopqrstuvwxyzABCDEF"]
    waiting = [side.caller().begin(side.client.acquire, names) for _ in range(60)]
    first = daemon.accept()
    asked = {first.hear(wire.Acquire).request for _ in waiting}
    first.hang_up()
    peer = daemon.accept()
    status = side.caller().begin(side.client.status)
    wait_until(lambda: len(side.client._connection._calls) == 61)
    heard = peer.hear_all()
    assert {message.request for message in heard if isinstance(message, wire.Acquire)} == asked
    for number in asked:
        peer.say(wire.Granted(number, 7, 0))
    for one in waiting:
        one.result(PATIENCE_SECONDS)
    if len(heard) == len(asked):
        peer.hear(wire.Status)
    daemon.go()
    side.caller().do(side.client.close)
    with pytest.raises(DaemonUnavailable):
        status.result(PATIENCE_SECONDS)


# ---- Interruptions and forks


def test_ctrl_c_while_the_daemon_is_away(daemon: ScriptedDaemon) -> None:
    """What was given up is not asked again; that is told, since the daemon may have it in line."""
    first: list[Peer] = []

    def interrupt() -> None:
        first.append(daemon.accept())
        first[0].hear(wire.Acquire)
        daemon.go()
        connection = client._connection
        assert connection is not None
        wait_until(lambda: connection._pausing)
        os.kill(os.getpid(), signal.SIGINT)

    client = Client(daemon.path)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        client.acquire("db")
    thread.join()
    daemon.come()
    peer = daemon.accept()
    assert peer.session == first[0].session
    assert peer.hear_all() == []
    peer.settle()
    wait_until(lambda: not helpers())
    client.close()
    peer.hear_end()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_the_daemon_is_away(daemon: ScriptedDaemon) -> None:
    """The child has a session of its own, and says nothing of what its parent has."""
    with Client(daemon.path, reconnect_seconds=PATIENCE_SECONDS) as client:
        first: list[Peer] = []

        def grant() -> None:
            first.append(daemon.accept())
            grants(first[0])

        thread = threading.Thread(target=grant)
        thread.start()
        held = client.acquire("db")
        thread.join()
        daemon.go()
        assert held.lost is None  # looks, and so notices
        assert helpers()
        if not (child := os.fork()):
            code = 1
            try:
                held.release()
                client.status()
            except DaemonUnavailable as error:
                code = 0 if "there is no such socket" in str(error) else 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        daemon.come()
        peer = daemon.accept()
        assert peer.session == first[0].session
        assert peer.hear_all() == [wire.Keep(1, {"db": 1}, 7)]
        peer.settle()
        held.release()
        peer.hear(wire.Release)


def test_no_call_is_forgotten_by_a_timer_that_is_early(daemon: ScriptedDaemon) -> None:
    """Those of uvloop are, by up to a millisecond: its loop has the clock of its last turn."""

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        later = loop.call_later
        loop.call_later = lambda seconds, *what: later(max(0.0, seconds - 0.003), *what)  # type: ignore[method-assign]
        async with aio.Client(daemon.path, reconnect_seconds=0.05) as client:
            asking = asyncio.create_task(client.rate_limit("api"))
            first = await asyncio.to_thread(daemon.accept)
            await asyncio.to_thread(first.hear, wire.Acquire)
            first.hang_up()
            await asyncio.to_thread(daemon.accept, welcome=False)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asking

    with pytest.raises(DaemonUnavailable, match="does not say welcome"):
        asyncio.run(ask())
