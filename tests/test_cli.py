"""The command: what creates, changes and deletes limits.

Most tests run `main` in this process, as a client of a real daemon. What depends on the process
(pipes, terminals, signals) runs in one of its own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from atmost.rates import rate_text, slots_per_second
from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import Atmost, Terminal, client_of, shared, start


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    running = RunningDaemon(tmp_path_factory.mktemp("cli")).start()
    yield running
    running.stop()


@pytest.fixture
def daemon(started: RunningDaemon) -> Iterator[RunningDaemon]:
    with shared(started):
        yield started


@pytest.fixture
def atmost(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Atmost:
    return client_of(daemon, capsys)


def names(client: Client) -> list[str]:
    return [limit.name for limit in client.list_limits()]


# ---- create


def test_create_makes_a_limit_and_says_nothing(atmost: Atmost, client: Client) -> None:
    assert atmost("create", "db", "--limit", "3") == (0, "", "")
    made = client.read_limit("db")
    assert (made.limit, made.slot_decay_per_second, made.active) == (3, 0.0, True)


@pytest.mark.parametrize(
    ("options", "decay"),
    [
        (["--rate", "100/min"], 100 / 60),
        (["--rate=0.5/s"], 0.5),
        (["--slot-decay-per-second", "2.5"], 2.5),
        (["--slot-decay-per-second=1e-3"], 0.001),
    ],
)
def test_create_with_a_rate(
    atmost: Atmost, client: Client, options: list[str], decay: float
) -> None:
    assert atmost("create", "api", "--limit", "10", *options).code == 0
    assert client.read_limit("api").slot_decay_per_second == decay


def test_create_inactive(atmost: Atmost, client: Client) -> None:
    assert atmost("create", "--inactive", "--limit=1", "db").code == 0
    assert not client.read_limit("db").active


def test_create_twice_is_an_error_that_names_the_limit(atmost: Atmost, client: Client) -> None:
    atmost("create", "db", "--limit", "3")
    code, out, err = atmost("create", "db", "--limit", "4")
    assert (code, out) == (1, "")
    assert err.startswith("atmost: there is a limit named 'db' already")
    assert client.read_limit("db").limit == 3


def test_create_if_not_exists_leaves_a_limit_as_it_is(atmost: Atmost, client: Client) -> None:
    atmost("create", "db", "--limit", "3")
    assert atmost("create", "db", "--limit", "4", "--if-not-exists") == (0, "", "")
    assert client.read_limit("db").limit == 3


def test_create_if_not_exists_sets_up_a_limit_that_its_first_use_has_made(
    atmost: Atmost, client: Client
) -> None:
    client.acquire("db").release()
    assert client.read_limit("db").implicit
    assert atmost("create", "db", "--limit", "4", "--if-not-exists").code == 0
    made = client.read_limit("db")
    assert (made.limit, made.active, made.implicit) == (4, True, False)


@pytest.mark.parametrize(
    ("rate", "slots"),
    [
        ("100/s", 100),
        ("100/sec", 100),
        ("100/second", 100),
        ("100/min", 100 / 60),
        ("100/minute", 100 / 60),
        ("9/h", 9 / 3600),
        ("9/hour", 9 / 3600),
        ("1/d", 1 / 86400),
        ("1/day", 1 / 86400),
        ("0.5/s", 0.5),
        (".5/s", 0.5),
        ("0/s", 0),
        *(
            (bad, None)
            for bad in ("100", "/s", "-1/s", "1e3/s", "nan/s", "1/m", "1/s ", "1_0/s", "٣/s")
        ),
    ],
)
def test_rates(rate: str, slots: float | None) -> None:
    assert slots_per_second(rate) == slots


@pytest.mark.parametrize(
    ("slots", "rate"),
    [
        (0, "-"),
        (100 / 60, "100/min"),
        (0.5, "30/min"),
        (3, "3/s"),
        (1 / 86400, "1/day"),
        (0.123456789, "0.123457/s"),
    ],
)
def test_a_rate_is_shown_as_it_was_said(slots: float, rate: str) -> None:
    assert rate_text(slots) == rate


# ---- update, enable, disable


def test_update_changes_what_is_given_and_nothing_else(atmost: Atmost, client: Client) -> None:
    client.create_limit("api", 3, 0.5)
    assert atmost("update", "api", "--limit", "5") == (0, "", "")
    now = client.read_limit("api")
    assert (now.limit, now.slot_decay_per_second, now.active) == (5, 0.5, True)
    assert atmost("update", "--rate", "2/s", "api", "--disable").code == 0
    now = client.read_limit("api")
    assert (now.limit, now.slot_decay_per_second, now.active) == (5, 2, False)
    assert atmost("update", "api", "--slot-decay-per-second", "0", "--enable").code == 0
    now = client.read_limit("api")
    assert (now.limit, now.slot_decay_per_second, now.active) == (5, 0, True)


def test_enable_and_disable_several(atmost: Atmost, client: Client) -> None:
    for name in ("a", "b", "c"):
        client.create_limit(name, 1)
    assert atmost("disable", "a", "b", "a") == (0, "", "")
    assert [limit.active for limit in client.list_limits()] == [False, False, True]
    assert atmost("enable", "b").code == 0
    assert [limit.active for limit in client.list_limits()] == [False, True, True]


@pytest.mark.parametrize("command", ["enable", "disable", "delete"])
def test_of_several_limits_none_is_changed_if_one_is_unknown(
    atmost: Atmost, client: Client, command: str
) -> None:
    client.create_limit("a", 1, active=command == "disable")
    before = client.list_limits()
    code, out, err = atmost(command, "a", "nix", "nada", *["--yes"] * (command == "delete"))
    assert (code, out) == (1, "")
    assert "no limit named 'nix', 'nada'" in err
    assert client.list_limits() == before


# ---- delete


def test_delete_with_yes(atmost: Atmost, client: Client) -> None:
    for name in ("a", "b", "c"):
        client.create_limit(name, 1)
    assert atmost("delete", "a", "--yes", "c") == (0, "", "")
    assert names(client) == ["b"]


def test_delete_without_a_terminal_needs_yes(atmost: Atmost, client: Client) -> None:
    client.create_limit("db", 1)
    code, out, err = atmost("delete", "db")
    assert (code, out) == (2, "")
    assert "usage: atmost delete NAME" in err
    assert "--yes" in err
    assert "db" in names(client)


@pytest.mark.parametrize(
    ("keys", "code"),
    [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("yo\n", 1), ("\x04", 1), ("\x03", 1)],
    ids=["y", "Yes", "n", "enter", "yo", "end of input", "Ctrl-C"],
)
def test_delete_asks_on_a_terminal(
    daemon: RunningDaemon, client: Client, keys: str, code: int
) -> None:
    client.create_limit("db", 1)
    with Terminal(daemon, "delete", "db") as screen:
        screen.read_until("Delete limit 'db'? [y/N] ")
        screen.type(keys)
        assert screen.end() == code
        assert ("nothing was deleted" in screen.text) == (code != 0)
        assert "Traceback" not in screen.text
    assert ("db" in names(client)) == (code != 0)


def test_the_question_says_how_many_hold_and_wait(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    client.create_limit("gpu", 1)
    with (
        client.acquire("db"),
        start(daemon, "run", "db", "--", "true", stderr=subprocess.PIPE) as waiting,
    ):
        wait_until(lambda: client.read_limit("db").waiting == 1)
        with Terminal(daemon, "delete", "db", "gpu") as screen:
            screen.read_until("Delete these 2 limits? [y/N] ")
            assert "limit 'db': 1 hold it (and run on), 1 wait (and fail)" in screen.text
            assert "limit 'gpu': 0 hold it (and run on), 0 wait (and fail)" in screen.text
            screen.type("y\n")
            assert screen.end() == 0
        _, err = waiting.communicate(timeout=PATIENCE_SECONDS)
        assert "limit 'db' was deleted" in err
        assert waiting.returncode == 125
