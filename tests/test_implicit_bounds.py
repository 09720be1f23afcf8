"""Limits that requests make by naming them are bounded; those that nobody uses make room."""

from __future__ import annotations

import signal

import pytest

from atmost import errors
from tests.bounded import NOBODY, SOMEBODY, Bounded, bounded, needs_root, too_many
from tests.protocol_client import Client

MADE = 40


def names(running: Bounded) -> list[str]:
    """Of the limits that requests have made."""
    with running.client() as client:
        return [limit.name for limit in client.list_limits() if limit.implicit]


def use(client: Client, name: str) -> None:
    client.send("release", client.ask("acquire", {name: 1})[1])


def occupy(client: Client, name: str) -> int:
    """Stand in this limit's line, while waiting for another one."""
    return client.request("acquire", {name: 1, "busy": 1})


def make_busy(running: Bounded) -> Client:
    """Somebody holds all of it."""
    client = running.connect()
    client.ask("create_limit", "busy", 1)
    client.ask("acquire", {"busy": 1})
    return client


def test_the_oldest_unused_ones_make_room() -> None:
    with bounded("implicit_limits=3") as running:
        client = running.connect()
        for number in range(MADE):
            use(client, f"made {number:02}")
        assert names(running) == [f"made {number}" for number in range(MADE - 3, MADE)]
        assert running.log_text().count("was made, inactive, by its first use") == 3
        assert running.log_text().count("unused ones of them are forgotten") == 1


@needs_root
def test_each_user_loses_its_own_first() -> None:
    with bounded("implicit_limits_per_uid=2") as running:
        one, other = running.connect_as(NOBODY), running.connect_as(SOMEBODY)
        use(other, "theirs")
        for number in range(MADE):
            use(one, f"made {number:02}")
        assert names(running) == ["made 38", "made 39", "theirs"]


@pytest.mark.parametrize("setting", ["implicit_limits", "implicit_limits_per_uid"])
def test_refused_when_all_are_in_use(setting: str) -> None:
    with bounded(f"{setting}=2") as running:
        holder, client = make_busy(running), running.connect()
        waits = [occupy(client, name) for name in ("a", "b")]
        running.wait_for_line("busy", 2)
        with too_many(setting, 2):
            client.ask("acquire", {"c": 1})
        with running.client() as ours, pytest.raises(errors.TooMany) as caught:
            ours.acquire(["c", "a"])
        assert caught.value.setting == setting
        assert names(running) == ["a", "b"]
        holder.close()
        for number in waits:
            assert client.answer(number)[0] == "granted"
            client.send("release", number)
        use(client, "c")
        assert names(running) == ["b", "c"]


def test_a_request_that_names_too_many_makes_none() -> None:
    with bounded("implicit_limits=2") as running:
        client = running.connect()
        use(client, "a")
        use(client, "b")
        with too_many("implicit_limits", 2):
            client.ask("acquire", {"c": 1, "d": 1, "e": 1})
        assert names(running) == ["a", "b"]
        client.ask("acquire", {"b": 1, "c": 1})  # what it names itself does not go
        assert names(running) == ["b", "c"]
        client.ask("acquire", {"b": 1, "d": 1})  # a grant on an inactive limit holds nothing there
        assert names(running) == ["b", "d"]


def test_who_runs_unguarded_lets_go_of_a_forgotten_limit() -> None:
    with bounded("implicit_limits=1") as running:
        client = running.connect()
        number = client.ask("acquire", {"a": 1})[1]
        use(client, "b")
        client.send("release", number)
        use(client, "a")
        assert names(running) == ["a"]


def test_what_is_set_by_hand_counts_no_more() -> None:
    with bounded("implicit_limits=1") as running:
        client = running.connect()
        use(client, "a")
        client.ask("update_limit", "a", None, None, True)
        use(client, "b")
        use(client, "c")
        assert names(running) == ["c"]
        assert client.ask("read_limit", "a")[0] == "limit"
        client.ask("delete_limit", "c")
        use(client, "d")
        assert names(running) == ["d"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_they_count_also_after_a_restart(number: int) -> None:
    """For all together: who made them is not known any more."""
    with bounded("implicit_limits=3", "implicit_limits_per_uid=2") as running:
        for name in ("a", "b"):
            use(running.connect(), name)
        with running.client() as ours:
            ours.create_limit("c", 1)  # durable when it is answered, and so are the others
        running.neighbour.end()
        running.stop(number)
        running.start()
        assert names(running) == ["a", "b"]
        client = running.connect()
        for name in ("d", "e"):
            use(client, name)
        assert names(running) == ["b", "d", "e"]
        use(client, "f")
        assert names(running) == ["b", "e", "f"]
        running.restart_neighbour()
