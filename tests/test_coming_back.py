"""The daemon is killed or stopped, and started again: what it knew is true again.

Seen by a client made from PROTOCOL.md alone, so that every step is said here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.protocol_client import Failed
from tests.returning_client import Returning
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

ENDS = [signal.SIGKILL, signal.SIGTERM]
pytestmark = pytest.mark.parametrize("end", ENDS, ids=["killed", "stopped"])

Connect = Callable[[], Returning]


@pytest.fixture
def connect(daemon: RunningDaemon) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def one() -> Returning:
            client = Returning(str(daemon.socket))
            stack.callback(client.close)
            return client

        yield one


class Fleeting:
    """Our own client, with a connection for each call: nothing of it outlives a restart."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._daemon = daemon

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._daemon.client() as client:
                return getattr(client, method)(*args, **kwargs)

        return call


@pytest.fixture
def client(daemon: RunningDaemon) -> Fleeting:
    return Fleeting(daemon)


def restart(daemon: RunningDaemon, end: signal.Signals) -> None:
    daemon.stop(end)
    daemon.start()


def read(daemon: RunningDaemon, name: str = "db") -> dict[str, Any]:
    with daemon.client() as client:
        limit = client.read_limit(name)
        return {field: getattr(limit, field) for field in limit.__struct_fields__}


def line_of(daemon: RunningDaemon, name: str = "db") -> list[tuple[str, int]]:
    with daemon.client() as client:
        return [(ticket.state, ticket.slots) for ticket in client.list_tickets(name)]


# ---- Holders


def test_a_holder_keeps_its_slots_and_comes_back(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 3)
    holder = connect()
    _, number, token, *_ = holder.ask("acquire", {"db": 2})
    restart(daemon, end)
    assert read(daemon)["held"] == 2
    holder.come_back()
    holder.send("keep", number, {"db": 2}, token)
    holder.resume()
    assert read(daemon)["held"] == 2
    holder.send("release", number)
    holder.ask("status")
    assert read(daemon)["held"] == 0


def test_a_holder_that_does_not_come_back_keeps_its_slots_until_it_dies(
    daemon: RunningDaemon, client: Fleeting, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "atmost", "run", "db", "--", "sleep", "1000"],
        env=daemon.environment(),
    ) as process:
        wait_until(lambda: read(daemon)["held"] == 1)
        for _ in range(3):
            restart(daemon, end)
            assert read(daemon)["held"] == 1
        process.kill()
        process.wait()
        wait_until(lambda: read(daemon)["held"] == 0)


def test_a_holder_that_died_meanwhile_is_gone(
    daemon: RunningDaemon, client: Fleeting, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "atmost", "run", "db", "--", "sleep", "1000"],
        env=daemon.environment(),
    ) as process:
        wait_until(lambda: read(daemon)["held"] == 1)
        daemon.stop(end)
        process.kill()
        process.wait()
    daemon.start()
    assert read(daemon)["held"] == 0


def test_a_release_that_was_lost_is_made_good(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 2)
    holder = connect()
    kept, lost = [holder.ask("acquire", {"db": 1}) for _ in range(2)]
    daemon.stop(end)  # the release of the second one would have been sent now
    daemon.start()
    holder.come_back()
    holder.send("keep", kept[1], {"db": 1}, kept[2])
    assert read(daemon)["held"] == 2
    holder.resume()
    assert read(daemon)["held"] == 1
    holder.send("release", lost[1])  # twice is harmless
    holder.send("release", kept[1])
    holder.ask("status")
    assert read(daemon)["held"] == 0


# ---- Waiters


def test_waiters_keep_their_places(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder, first, second, newcomer = connect(), connect(), connect(), connect()
    _, held, token, *_ = holder.ask("acquire", {"db": 1})
    asked = [first.request("acquire", {"db": 1})]
    first.ask("status")
    asked.append(second.request("acquire", {"db": 1}))
    second.ask("status")
    restart(daemon, end)
    assert line_of(daemon) == [("held", 1), ("waiting", 1), ("waiting", 1)]
    # They come back in another order, and somebody new is first of all.
    newcomer.come_back()
    new = newcomer.request("acquire", {"db": 1})
    newcomer.ask("status")
    for waiter, number in ((second, asked[1]), (first, asked[0])):
        waiter.come_back()
        waiter.send("acquire", number, {"db": 1})
        waiter.resume()
    holder.come_back()
    holder.send("keep", held, {"db": 1}, token)
    holder.resume()
    holder.send("release", held)
    tokens = []
    for waiter, number in ((first, asked[0]), (second, asked[1]), (newcomer, new)):
        tokens.append(waiter.answer(number)[2])
        waiter.send("release", number)
    assert tokens == sorted(tokens)
    assert tokens[0] > token


def test_free_capacity_is_granted_at_once(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 2)
    holder, newcomer = connect(), connect()
    holder.ask("acquire", {"db": 1})
    restart(daemon, end)
    newcomer.come_back()
    assert newcomer.ask("acquire", {"db": 1}, {}, 0)[0] == "granted"
    with pytest.raises(Failed, match="no 1 slot"):
        newcomer.ask("acquire", {"db": 1}, {}, 0)


def test_a_waiter_whose_turn_came_while_it_was_away_is_told(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder, waiter = connect(), connect()
    held_token = holder.ask("acquire", {"db": 1})[2]
    number = waiter.request("acquire", {"db": 1})
    waiter.ask("status")
    restart(daemon, end)
    holder.come_back()
    holder.resume()  # it has let go meanwhile
    assert line_of(daemon) == [("held", 1)]
    waiter.come_back()
    waiter.send("acquire", number, {"db": 1})
    token = waiter.answer(number)[2]
    waiter.resume()
    assert read(daemon)["held"] == 1
    waiter.send("release", number)
    waiter.ask("status")
    assert read(daemon)["held"] == 0
    assert token > held_token


def test_a_time_out_goes_on_counting(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder, waiter = connect(), connect()
    holder.ask("acquire", {"db": 1})
    number = waiter.request("acquire", {"db": 1}, {}, 0.5)
    waiter.ask("status")
    restart(daemon, end)
    waiter.come_back()
    waiter.send("acquire", number, {"db": 1}, {}, 1e6)  # not counted anew: the first word counts
    with pytest.raises(Failed) as told:
        waiter.answer(number)
    assert told.value.code == "acquire_timeout"
    assert told.value.fields["waited_seconds"] >= 0.5


def test_a_time_out_that_was_not_heard_is_none_the_less(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    """The slots may be free by now, but its time was up."""
    client.create_limit("db", 1)
    waiter = connect()
    restart(daemon, end)
    waiter.come_back()
    number = waiter.request("acquire", {"db": 1}, {}, 0.5, False, [], False, [], True)
    with pytest.raises(Failed) as told:
        waiter.answer(number)
    assert told.value.code == "acquire_timeout"
    assert told.value.fields["slots"] == {"db": 1}
    assert told.value.fields["waited_seconds"] == 0.5
    waiter.resume()
    assert line_of(daemon) == []


def test_a_grant_in_time_is_told_however_late(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder = connect()
    _, number, token, *_ = holder.ask("acquire", {"db": 1}, {}, 0.5)  # say that it was not heard
    restart(daemon, end)
    holder.come_back()
    holder.send("acquire", number, {"db": 1}, {}, 0.5, False, [], False, [], True)
    assert holder.answer(number)[2] == token


# ---- Answers that were lost


def test_a_grant_that_was_not_heard_is_told_again(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 2)
    holder = connect()
    _, number, token, *_ = holder.ask("acquire", {"db": 1})  # say that this was not heard
    for _ in range(2):
        restart(daemon, end)
        holder.come_back()
        holder.send("acquire", number, {"db": 1})
        assert holder.answer(number)[2] == token
    holder.resume()
    assert read(daemon)["held"] == 1


def test_what_was_spent_is_not_spent_again(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("api", 10, slot_decay_per_second=0.001)
    spender = connect()
    _, number, token, *_ = spender.ask("acquire", {}, {"api": 3})  # say that this was not heard
    restart(daemon, end)
    assert read(daemon, "api")["active_slots"] == 3
    spender.come_back()
    spender.send("acquire", number, {}, {"api": 3})
    assert spender.answer(number)[2] == token
    spender.resume()
    assert read(daemon, "api")["active_slots"] == 3
    # Once it is seen, it is forgotten: the number could only mean something new.
    spender.ask("acquire", {}, {"api": 1}, None, False, [], False, [number])
    spender.come_back()
    spender.send("acquire", number, {}, {"api": 1})
    assert spender.answer(number)[2] > token
    assert read(daemon, "api")["active_slots"] == 5


def test_a_rate_limit_gets_no_burst(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("api", 5, slot_decay_per_second=0.01)
    client.rate_limit("api", 5)
    for _ in range(2):
        restart(daemon, end)
        record = read(daemon, "api")
        assert record["active_slots"] == 5
        assert 4.5 < record["spent"] < 5


# ---- Limits


def test_a_deleted_limit_made_again_is_clean(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder = connect()
    _, number, token, *_ = holder.ask("acquire", {"db": 1})
    client.delete_limit("db")
    client.create_limit("db", 1)
    restart(daemon, end)
    assert read(daemon)["held"] == 0
    holder.come_back()
    holder.send("keep", number, {"db": 1}, token)
    holder.resume()
    assert read(daemon)["held"] == 0
    holder.send("release", number)
    assert holder.ask("acquire", {"db": 1}, {}, 0)[0] == "granted"


def test_a_limit_that_was_inactive_counts_who_went_before(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 2)
    holder = connect()
    holder.ask("acquire", {"db": 1})
    client.update_limit("db", active=False)
    holder.ask("acquire", {"db": 1})  # never counts
    restart(daemon, end)
    with daemon.client() as changer:
        assert changer.update_limit("db", active=True).held == 1


# ---- Sessions


def test_nobody_else_comes_back_to_a_session(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    holder = connect()
    holder.ask("acquire", {"db": 1})
    for _ in range(2):
        if child := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        else:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    Returning(str(daemon.socket), holder.session).receive()
                except Failed as refused:
                    code = 0 if refused.code == "protocol_error" else 2
            os._exit(code)
        assert read(daemon)["held"] == 1
        restart(daemon, end)


def test_a_session_that_has_nothing_is_not_remembered(
    daemon: RunningDaemon, client: Fleeting, connect: Connect, end: signal.Signals
) -> None:
    client.create_limit("db", 1)
    connect().ask("status")
    passing = connect()
    _, number, *_ = passing.ask("acquire", {"db": 1})
    passing.send("release", number)
    passing.ask("status")
    restart(daemon, end)
    with daemon.client() as only:
        wait_until(lambda: only.status().sessions == 1, f"one session, in {PATIENCE_SECONDS} s")
