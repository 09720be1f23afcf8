"""What the tables of PROTOCOL.md state and a foreign client relies on: pages, records, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.protocol_client import Client, Failed
from tests.support import RunningDaemon
from tests.test_protocol_client import refused, until_waiting


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    """A foreign client of that daemon."""
    connected = Client(str(daemon.socket))
    yield connected
    connected.close()


@pytest.fixture
def other(daemon: RunningDaemon) -> Iterator[Client]:
    """Another one."""
    connected = Client(str(daemon.socket))
    yield connected
    connected.close()


# Tables


def test_pages_go_on_behind_their_last_record(client: Client) -> None:
    names = sorted(f"page {number:03}" + "x" * 190 for number in range(300))
    for name in names:
        client.ask("acquire", {name: 1})
    found: list[str] = []
    pages, more = 0, True
    while more:
        _, _, records, more = client.ask("list_limits", found[-1] if found else "")
        found += [record[0] for record in records]
        pages += 1
    assert pages > 1
    assert found == names


def test_pages_of_tickets_go_on_behind_their_last(client: Client) -> None:
    client.ask("create_limit", "tickets", 1)
    for _ in range(800):
        client.request("acquire", {"tickets": 1})
    numbers: list[int] = []
    pages, more, behind = 0, True, ("", 0)
    while more:
        _, _, tickets, more = client.ask("list_tickets", "tickets", *behind)
        numbers += [ticket[8] for ticket in tickets]
        behind = (tickets[-1][0], tickets[-1][8])
        pages += 1
    assert pages > 1
    assert len(numbers) == 800
    assert numbers == sorted(set(numbers))


def test_a_nil_in_an_update_leaves_the_field(client: Client) -> None:
    client.ask("create_limit", "update", 1, 0.5, True)
    assert client.ask("update_limit", "update")[2][1:4] == [1, 0.5, True]
    assert client.ask("update_limit", "update", None, 2.5)[2][1:4] == [1, 2.5, True]
    assert client.ask("update_limit", "update", 7, None, False)[2][1:4] == [7, 2.5, False]


def test_a_rate_of_minus_zero_is_zero(client: Client) -> None:
    assert repr(client.ask("create_limit", "zero", 1, -0.0)[2][2]) == "0.0"
    assert repr(client.ask("update_limit", "zero", None, -0.0)[2][2]) == "0.0"


def test_tokens_rise_over_all_limits(client: Client, other: Client) -> None:
    clients = [client, other]
    tokens = [clients[n % 2].ask("acquire", {f"token {n % 3}": 1})[2] for n in range(12)]
    assert tokens == sorted(set(tokens))


def test_the_daemon_says_of_itself_what_is_true(daemon: RunningDaemon, client: Client) -> None:
    answer = client.ask("status")
    version, pid, uptime, socket, state_dir, runtime_dir = answer[2:8]
    assert (pid, socket, state_dir) == (daemon.pid, str(daemon.socket), str(daemon.state_dir))
    assert runtime_dir == str(daemon.folder / "run")
    assert version == client.welcome[2]
    assert uptime > 0
    assert answer[12] == ""


# Errors


def test_each_refusal_has_its_code_and_fields(client: Client) -> None:
    client.ask("create_limit", "errors", 2)
    outer = client.ask("acquire", {"errors": 2})[1]
    assert refused(client, "create_limit", "errors", 1) == ("limit_exists", {"name": "errors"})
    assert refused(client, "acquire", {"errors": 3}) == (
        "never_fits",
        {"name": "errors", "slots": 3, "limit": 2},
    )
    assert refused(client, "acquire", {}, {"errors": 1}) == (
        "slot_decay_required",
        {"name": "errors"},
    )
    assert refused(client, "acquire", {"errors": 1}, {}, None, False, [outer]) == (
        "would_deadlock",
        {"name": "errors", "slots": 1, "held": 2, "limit": 2},
    )


def test_a_waiter_whose_limit_changes_under_it_is_told(client: Client, other: Client) -> None:
    client.ask("create_limit", "gone", 2)
    client.ask("acquire", {"gone": 1})
    big = other.request("acquire", {"gone": 2})
    until_waiting(client, "gone")
    client.ask("update_limit", "gone", 1)
    with pytest.raises(Failed) as caught:
        other.answer(big)
    assert caught.value.code == "never_fits"
    small = other.request("acquire", {"gone": 1})
    until_waiting(client, "gone")
    assert client.ask("delete_limit", "gone")[0] == "done"
    with pytest.raises(Failed) as caught:
        other.answer(small)
    assert (caught.value.code, caught.value.fields) == ("limit_deleted", {"name": "gone"})
