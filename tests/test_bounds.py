"""Whoever asks too much is refused by a bound that has a name, and nobody else notices.

A neighbour works beside every test here, until its end. That a frame may not be too long, whatever is
set, test_bad_frames.py shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atmost import errors
from atmost.asyncio import Client as AsyncClient
from atmostd.bounds import Bounds
from atmostd.config import BOUND_MAX
from atmostd.settings import Settings
from tests.bad_manners import is_closed_with
from tests.bounded import NOBODY, SOMEBODY, Bounded, bounded, needs_root, too_many
from tests.protocol_client import Client, Failed, frame
from tests.support import wait_until

BURST = 50


def greeted(client: Client) -> Client:
    """It is in: its first request is answered."""
    try:
        client.ask("status")
    except BaseException:
        client.close()
        raise
    return client


def can_connect(running: Bounded, uid: int) -> bool:
    client = running.connect_as(uid)
    try:
        return bool(client.ask("status"))
    except (Failed, EOFError, ConnectionError):
        return False
    finally:
        client.close()


# Connections


@needs_root
def test_connections_in_all_of_which_some_are_kept_for_root() -> None:
    with bounded("connections=5", "connections_kept=2") as running:
        taken = [greeted(running.connect_as(uid)) for uid in (NOBODY, SOMEBODY)]
        for _ in range(BURST):  # who is refused does not count
            with too_many("connections", 3):
                greeted(running.connect_as(NOBODY))
        kept = [greeted(running.connect()) for _ in range(2)]
        with too_many("connections", 5):
            greeted(running.connect())
        with pytest.raises(errors.TooMany) as caught, running.client() as refused:
            refused.status()
        assert caught.value.setting == "connections"
        with pytest.raises(errors.TooMany):
            asyncio.run(ask_as_task(running.socket))
        for client in (*kept, taken.pop()):
            client.close()
        wait_until(lambda: can_connect(running, NOBODY), "there is room again")


async def ask_as_task(path: Path) -> None:
    async with AsyncClient(path) as client:
        await client.status()


@needs_root
def test_connections_of_one_user() -> None:
    with bounded("connections_per_uid=3") as running:
        taken = [greeted(running.connect_as(NOBODY)) for _ in range(3)]
        for _ in range(BURST):
            with too_many("connections_per_uid", 3):
                greeted(running.connect_as(NOBODY))
        others = [greeted(running.connect_as(uid)) for uid in (0, SOMEBODY)]
        taken[0].close()
        wait_until(lambda: can_connect(running, NOBODY), "there is room again")
        assert running.log_text().count("too many connections of uid") == 1
        assert all(client.ask("status") for client in (*taken[1:], *others))


@needs_root
def test_clients_count_also_while_they_have_no_connection() -> None:
    """What is held by the process takes a descriptor of the daemon until that ends."""
    with bounded("connections_per_uid=2") as running:
        for _ in range(2):
            client = running.connect_as(NOBODY)
            client.ask("acquire", {"kept": 1}, {}, None, False, [], True)
            client.close()
        with too_many("connections_per_uid", 2):
            greeted(running.connect_as(NOBODY))


def test_who_closes_without_a_word_is_not_counted_for_ever() -> None:
    with bounded("connections_per_uid=4") as running:
        for _ in range(BURST):
            wait_until(lambda: may_stay(running), "there is room")


def may_stay(running: Bounded) -> bool:
    """Connect, say nothing for a moment, and close."""
    client = running.connect_mute()
    client.socket.settimeout(0.005)
    try:
        return not client.socket.recv(1)
    except TimeoutError:
        return True
    finally:
        client.close()


def test_no_hello_in_time() -> None:
    with bounded("hello_seconds=0.1") as running:
        client = running.connect_mute()
        is_closed_with(client, r"no hello within 0\.1 s")
        greeted(running.connect()).close()


# Requests


def test_waiting_requests_of_one_client() -> None:
    with bounded("waiters_per_connection=2") as running:
        first, second = running.connect(), running.connect()
        first.ask("create_limit", "db", 1)
        held = first.ask("acquire", {"db": 1})[1]
        waits = [second.request("acquire", {"db": 1}) for _ in range(2)]
        for _ in range(BURST):
            with too_many("waiters_per_connection", 2):
                second.ask("acquire", {"db": 1})
        with too_many("waiters_per_connection", 2):
            second.ask("acquire", {"another": 1})
        running.wait_for_line("db", 2)
        second.send("release", waits.pop())  # who leaves the line makes room, however
        with pytest.raises(Failed, match="no 1 slot"):
            second.ask("acquire", {"db": 1}, {}, 0)
        waits.append(second.request("acquire", {"db": 1}))
        running.wait_for_line("db", 2)
        other = greeted(running.connect())
        behind = other.request("acquire", {"db": 1})  # that bound is each one's own
        first.send("release", held)
        for number in waits:
            assert second.answer(number)[0] == "granted"
            second.send("release", number)
        assert other.answer(behind)[0] == "granted"
        assert second.ask("acquire", {"another": 1})[0] == "granted"
        assert second.ask("list_limits")[2][0][0] == "another"


def test_waiting_requests_of_one_limit() -> None:
    with bounded("waiters_per_limit=3") as running:
        first, second = running.connect(), running.connect()
        first.ask("create_limit", "db", 1)
        first.ask("create_limit", "other", 1)
        held = first.ask("acquire", {"db": 1, "other": 1})[1]
        numbers = [second.request("acquire", {"db": 1}) for _ in range(3)]
        running.wait_for_line("db", 3)
        for _ in range(BURST):
            with too_many("waiters_per_limit", 3):
                first.ask("acquire", {"db": 1})
            with too_many("waiters_per_limit", 3):  # and it stands in no other line
                first.ask("acquire", {"db": 1, "other": 1})
        assert running.waiting("db") == 3
        assert running.waiting("other") == 0
        first.send("release", held)
        for number in numbers:
            assert second.answer(number)[0] == "granted"
            second.send("release", number)
        assert first.ask("acquire", {"db": 1, "other": 1})[0] == "granted"


def test_a_burst_is_refused_from_the_bound_on() -> None:
    with bounded("waiters_per_limit=3") as running:
        client = running.connect()
        client.ask("create_limit", "db", 2)
        client.socket.sendall(b"".join(frame("acquire", n, {"db": 1}) for n in range(100, 108)))
        for number in (100, 101):
            assert client.answer(number)[0] == "granted"
        for number in (105, 106, 107):
            with too_many("waiters_per_limit", 3):
                client.answer(number)


def test_grants_of_one_client() -> None:
    with bounded("requests_per_connection=3") as running:
        client = running.connect()
        held = [client.ask("acquire", {"unguarded": 1})[1] for _ in range(3)]
        with too_many("requests_per_connection", 3):
            client.ask("acquire", {"unguarded": 1})
        with too_many("requests_per_connection", 3):
            number = client.request("keep", {"unguarded": 1}, 1)
            client.answer(number)
        client.send("release", held[0])
        assert client.ask("acquire", {"unguarded": 1})[0] == "granted"


def test_a_client_that_comes_back_is_not_refused_what_it_waits_for() -> None:
    """Even if the bounds are lower than they were."""
    with bounded() as running:
        holder, waiter = running.connect(), running.connect()
        holder.ask("create_limit", "db", 1)
        held = holder.ask("acquire", {"db": 1})
        numbers = [waiter.request("acquire", {"db": 1}) for _ in range(3)]
        running.wait_for_line("db", 3)
        running.neighbour.end()
        running.stop(signal.SIGKILL)
        names = ("waiters_per_limit", "waiters_per_connection", "requests_per_connection")
        small = [word for name in names for word in ("--bound", f"{name}=2")]
        running.options = tuple(small)
        running.start()
        holder, waiter = running.connect(holder.session), running.connect(waiter.session)
        holder.send("keep", held[1], {"db": 1}, held[2])
        holder.send("resume", 90)
        for number in numbers:
            waiter.send("acquire", number, {"db": 1})
        waiter.send("resume", 91)
        assert holder.answer(90)[0] == waiter.answer(91)[0] == "done"
        with too_many("requests_per_connection", 2):
            waiter.send("acquire", 92, {"db": 1})
            waiter.answer(92)
        holder.close()
        for number in numbers:
            assert waiter.answer(number)[0] == "granted"
            waiter.send("release", number)
        running.restart_neighbour()


def test_a_client_that_does_not_read() -> None:
    with bounded("output_bytes=131072") as running:
        client, reader = running.connect(), running.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while "cutting off" not in running.log_text():
                client.socket.sendall(frame("status", 1) * 100)
        assert running.log_text().count("cutting off") == 1
        for _ in range(1000):
            reader.ask("status")


# The command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bound", "waiters=5"], "no bound is named 'waiters'; there are connections, "),
        (["--bound", "waiters_per_limit"], "waiters_per_limit takes a whole number from 1 to"),
        (["--bound", "waiters_per_limit=0"], "not '0'"),
        (["--bound", "waiters_per_limit=1.5"], "not '1.5'"),
        (["--bound", f"waiters_per_limit={BOUND_MAX + 1}"], f"to {BOUND_MAX}, not"),
        (["--bound", "hello_seconds=nan"], "hello_seconds takes a number from 0.001 to"),
        (["--bound", "hello_seconds=inf"], "not 'inf'"),
        (["--bound", "output_bytes=1000"], "a whole number from 131072 to"),
        (["--bound", "connections=16"], "connections_kept=16 leaves nobody else any of"),
        (["--admin-group", "no such group"], "there is no group 'no such group'"),
        (["--admin-group", ""], "there is no group ''"),
        (["--admin-group", "4294967295"], "there is no group '4294967295'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_arguments(words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_bounds_as_given() -> None:
    words = ["--bound", "connections=500", "--bound", "hello_seconds=2", "--admin-group", "7"]
    settings = Settings.from_arguments(words)
    assert settings.bounds == Bounds(connections=500, hello_seconds=2.0)
    assert settings.admin_gid == 7


def test_help_names_every_bound_and_what_it_is() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "atmostd", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in Bounds.__slots__:
        value = getattr(Bounds(), name)
        assert f"  {name} " in told
        assert f" {value:,} " in told


def test_no_more_connections_than_descriptors() -> None:
    assert Bounds().within(100_000) == Bounds()
    few = Bounds().within(1_128)
    assert (few.connections, few.connections_kept) == (500, 16)
    assert Bounds().within(140).connections_kept < Bounds().within(140).connections
