"""What concerns many is done in many steps: nobody is overtaken meanwhile, and others have their turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmostd import grants, limit
from tests.protocol_client import Client, Failed
from tests.rules_world import World, states
from tests.support import RunningDaemon

CROWD = 3_000  # many times TICKETS_A_STEP_MAX


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(grants, "TICKETS_A_STEP_MAX", 2)
    return World()


def test_a_raised_limit_lets_some_go_and_asks_for_a_tick(world: World) -> None:
    world.make("db")
    world.hold("db")
    crowd = [world.hold("db") for _ in range(5)]
    world.edit("db", limit=10)
    assert states(*crowd) == "held held waiting waiting waiting"
    world.sleep(1)
    assert states(*crowd) == "held held held held held"
    assert not world.alarms


def test_nobody_overtakes_those_who_are_still_to_go(world: World) -> None:
    world.make("db")
    holder = world.hold("db")
    crowd = [world.hold("db") for _ in range(5)]
    world.edit("db", limit=10)
    late = world.hold("db")
    once = world.hold("db", timeout=0)
    world.let_go(holder)
    assert states(*crowd, late, once) == "held held waiting waiting waiting waiting waiting"
    world.sleep(1)
    assert states(late, once) == "held held", "who tries once is told when its turn has come"
    assert world.granted == [holder, *crowd, late, once]


def test_nobody_goes_before_those_ahead_are_known_to_fit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "LOOKS_A_TICKET", 1)
    world.make("db", 4)
    holder = world.hold({"db": 4})
    crowd = [world.hold({"db": slots}) for slots in (1, 1, 4, 4, 4, 1)]
    world.edit("db", limit=3)
    world.let_go(holder)
    assert states(*crowd) == "waiting waiting waiting waiting waiting waiting"
    world.sleep(1)
    assert states(*crowd) == "held held ended ended ended held"


def test_who_waits_for_a_deleted_limit_and_another_never_goes(world: World) -> None:
    world.make("db")
    world.make("api")
    world.hold("db")
    api = world.hold("api")
    crowd = [world.hold(["api", "db"]) for _ in range(5)]
    world.delete("db")
    world.let_go(api)
    assert states(*crowd) == "ended ended waiting waiting waiting"
    world.sleep(1)
    assert {world.refusals[ticket.number][0] for ticket in crowd} == {"limit_deleted"}
    assert world.granted[-1] is api


def test_who_may_still_go_is_not_late(world: World) -> None:
    world.make("db")
    holder = world.hold("db")
    crowd = [world.hold("db", timeout=1) for _ in range(7)]
    world.sleep(0.5)
    world.edit("db", limit=5)
    world.now += 600_000_000
    world.ring()
    world.sleep(1)
    assert states(*crowd) == "held held held held ended ended ended"
    assert world.granted == [holder, *crowd[:4]]


def test_late_ones_leave_in_their_order(world: World) -> None:
    world.make("db")
    world.hold("db")
    crowd = [world.hold("db", timeout=1) for _ in range(5)]
    world.now = 1_000_000_000
    world.ring()
    assert states(*crowd) == "ended ended waiting waiting waiting"
    world.sleep(1)
    assert states(*crowd) == "ended ended ended ended ended"


# ---- A daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path).start()
    yield running
    running.stop()


@pytest.fixture
def clients(daemon: RunningDaemon) -> Iterator[tuple[Client, Client]]:
    both = Client(str(daemon.socket)), Client(str(daemon.socket))
    yield both
    for client in both:
        client.close()


class Named(Client):
    """A client whose session has this name."""

    def __init__(self, path: str, session: bytes) -> None:
        self._session = session
        super().__init__(path)

    def greet(self) -> None:
        self.send("hello", 1, self._session, os.getpid(), sys.argv, "ada", "test/1")


def crowd_at(operator: Client, waiter: Client) -> list[int]:
    """The operator holds `db`, and the other waits for it many times."""
    for name in ("db", "other"):
        operator.ask("create_limit", name, 1)
    operator.ask("acquire", {"db": 1})
    requests = [waiter.request("acquire", {"db": 1}) for _ in range(CROWD)]
    waiter.ask("read_limit", "db")
    return requests


def test_others_are_served_while_a_crowd_is_let_in(clients: tuple[Client, Client]) -> None:
    """Fencing tokens tell the order."""
    operator, waiter = clients
    requests = crowd_at(operator, waiter)
    change = operator.request("update_limit", "db", CROWD + 1)
    tokens: list[int] = []
    while not tokens or tokens[-1] - tokens[0] < CROWD:
        _, number, token, *_ = operator.ask("acquire", {"other": 1})
        operator.send("release", number)
        tokens.append(token)
    assert operator.answer(change)[0] == "limit"
    in_crowd = [waiter.answer(request)[2] for request in requests]
    assert in_crowd == sorted(in_crowd)
    assert any(in_crowd[0] < token < in_crowd[-1] for token in tokens)


def test_a_crowd_is_told_that_its_limit_is_deleted(clients: tuple[Client, Client]) -> None:
    """All of it, over one connection: what a client has to read at once stays below its bound."""
    operator, waiter = clients
    requests = crowd_at(operator, waiter)
    operator.ask("delete_limit", "db")
    operator.ask("create_limit", "db", 1)
    own = operator.ask("acquire", {"db": 1})
    assert own[0] == "granted", "the new limit starts clean"
    for request in requests:
        with pytest.raises(Failed, match="deleted"):
            waiter.answer(request)
    assert waiter.ask("read_limit", "db")[2][7] == 0


def test_a_crowd_whose_limit_was_deleted_does_not_wait_at_the_next_daemon(
    daemon: RunningDaemon, clients: tuple[Client, Client]
) -> None:
    operator, waiter = clients
    crowd_at(operator, waiter)
    operator.request("delete_limit", "db")
    operator.request("create_limit", "db", 1)
    while operator.receive()[0] != "limit":
        pass
    daemon.stop(9)
    daemon.start()
    again = Client(str(daemon.socket))
    assert again.ask("read_limit", "db")[2][7] == 0
    assert again.ask("acquire", {"db": 1})[0] == "granted"
    again.close()


def test_the_slots_of_a_crowd_that_ends_come_back_and_so_do_its_places(
    daemon: RunningDaemon,
) -> None:
    operator, many, few = (Client(str(daemon.socket)) for _ in range(3))
    for name in ("db", "scarce"):
        operator.ask("create_limit", name, 1)
    operator.ask("acquire", {"db": 1})
    for _ in range(CROWD):
        many.request("acquire", {"db": 1})
    many.ask("acquire", {"scarce": 1})
    wanted = few.request("acquire", {"scarce": 1})
    few.ask("read_limit", "db")
    many.close()
    assert few.answer(wanted)[0] == "granted"
    while few.ask("read_limit", "db")[2][7]:
        pass
    for client in (operator, few):
        client.close()


def test_a_client_that_comes_back_while_it_ends_begins_anew(daemon: RunningDaemon) -> None:
    operator, many = Client(str(daemon.socket)), Client(str(daemon.socket))
    operator.ask("create_limit", "db", 1)
    operator.ask("acquire", {"db": 1})
    name = os.urandom(16)
    for at in range(2):
        many.close()
        many = Named(str(daemon.socket), name)
        assert many.ask("read_limit", "db")[2][7] == 0, "nothing is left of what it had before"
        for _ in range(CROWD):
            many.request("acquire", {"db": 1})
        assert many.ask("read_limit", "db")[2][7] == CROWD, at
    for client in (operator, many):
        client.close()
