"""The journal is gone, or the whole runtime folder: who held says so, and is believed if it can be."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.protocol_client import Failed
from tests.returning_client import Returning
from tests.support import RunningDaemon, wait_until


@pytest.fixture
def held(tmp_path: Path) -> tuple[RunningDaemon, Returning, int, int]:
    """A daemon that has lost its runtime folder, and a client that held one of two slots of db: the
    number of its request and the token."""
    running = RunningDaemon(tmp_path).start()
    with running.client() as client:
        client.create_limit("db", 2)
    holder = Returning(str(running.socket))
    _, number, token, *_ = holder.ask("acquire", {"db": 1})
    running.stop(signal.SIGKILL)
    shutil.rmtree(tmp_path / "run")
    running.start()
    return running, holder, number, token


def close_all(running: RunningDaemon, *clients: Returning) -> None:
    for client in clients:
        client.close()
    running.stop()


Held = tuple[RunningDaemon, Returning, int, int]


def test_a_holder_that_comes_back_in_time_still_holds(held: Held) -> None:
    running, holder, number, token = held
    hurried = Returning(str(running.socket))
    asked = hurried.request("acquire", {"db": 2}, {}, 0)  # before the holder is here
    hurried.ask("status")
    holder.come_back()
    holder.send("keep", number, {"db": 1}, token)
    holder.resume()
    with pytest.raises(Failed, match="no 2 slots of 'db'"):
        hurried.answer(asked)
    assert hurried.ask("acquire", {"db": 1})[2] > token
    assert hurried.ask("read_limit", "db")[2][5] == 2
    holder.send("release", number)
    holder.ask("status")
    assert hurried.ask("read_limit", "db")[2][5] == 1
    close_all(running, hurried, holder)


def test_a_holder_that_comes_too_late_is_told(held: Held) -> None:
    running, holder, number, token = held
    others = Returning(str(running.socket))
    assert others.ask("acquire", {"db": 2})[2] > token
    holder.come_back()
    holder.send("keep", number, {"db": 1}, token)
    with pytest.raises(Failed) as told:
        holder.answer(number)
    assert told.value.code == "grant_lost"
    assert told.value.fields["names"] == ["db"]
    holder.resume()
    holder.send("release", number)  # harmless
    holder.ask("status")
    assert others.ask("read_limit", "db")[2][5] == 2
    close_all(running, others, holder)


def test_who_gives_up_meanwhile_is_forgotten(held: Held) -> None:
    running, holder, *_ = held
    others = Returning(str(running.socket))
    asked = others.request("acquire", {"db": 2})
    others.send("release", asked)
    gone = Returning(str(running.socket))
    gone.request("acquire", {"db": 2})
    gone.close()
    assert others.ask("acquire", {"db": 2}, {}, 0)[0] == "granted"
    close_all(running, others, holder)


def test_the_log_says_so(held: Held) -> None:
    running, holder, *_ = held
    holder.close()
    assert "there was no journal" in running.log_text()
    running.stop()
    running.start()
    assert running.log_text().count("there was no journal") == 1
    running.stop()


def test_a_daemon_that_dies_while_holders_are_heard_does_not_end_that(held: Held) -> None:
    running, holder, number, token = held
    running.stop(signal.SIGKILL)
    running.start()
    hurried = Returning(str(running.socket))
    asked = hurried.request("acquire", {"db": 2}, {}, 0)  # before the holder is here
    hurried.ask("status")
    holder.come_back()
    holder.send("keep", number, {"db": 1}, token)
    holder.resume()
    with pytest.raises(Failed, match="no 2 slots of 'db'"):
        hurried.answer(asked)
    wait_until(lambda: not (running.folder / "run" / "journal.behind").exists())
    close_all(running, hurried, holder)


def test_the_status_says_so_until_the_next_start(held: Held) -> None:
    """Who can't come back, as a command of `atmost run`, is not counted, and others may be let in."""
    running, holder, *_ = held
    holder.close()
    with running.client() as client:
        assert f"no journal in {running.folder / 'run'}" in client.status().trouble
        client.acquire("db").release()  # the time of the holders is over
        assert "may hold still without being counted" in client.status().trouble
    running.stop()
    running.start()
    with running.client() as client:
        assert not client.status().trouble
    running.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_folder_that_is_gone_is_no_loss_where_nobody_held(tmp_path: Path, number: int) -> None:
    """As systemd removes it when the service has stopped."""
    running = RunningDaemon(tmp_path).start()
    with running.client() as client:
        client.create_limit("db", 1)
        client.acquire("db").release()
    running.stop()
    for lost in (False, number == signal.SIGKILL):
        shutil.rmtree(tmp_path / "run")
        running.start()
        with running.client() as client:
            assert bool(client.status().trouble) == lost
        running.stop(number)
