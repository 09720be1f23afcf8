"""What an operator does: release a grant, reset a level, explain a wait; also with a crash in between."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from atmost import wire
from atmost.errors import GrantLost, GrantNotFound, LimitNotFound
from atmost.sync import Client, Grant
from tests.protocol_client import Client as Foreign
from tests.protocol_client import Failed
from tests.support import RunningDaemon, wait_until
from tests.support_cli import Terminal, client_of, ran, start


@contextlib.contextmanager
def waiting(
    daemon: RunningDaemon, name: str, count: int, **asked: object
) -> Iterator[list[Foreign]]:
    """So many clients that wait for a slot of this limit."""
    clients = []
    for _ in range(count):
        clients.append(Foreign(str(daemon.socket)))
        clients[-1].request("acquire", {name: 1})
        clients[-1].ask("status")
    yield clients
    for client in clients:
        client.close()


# Releasing


def test_a_released_grant_is_lost_and_the_next_one_goes(daemon: RunningDaemon) -> None:
    with daemon.client() as client, daemon.client() as holder, waiting_after(daemon) as goes:
        client.create_limit("db", 1)
        grant = holder.acquire("db")
        goes.start()
        wait_until(lambda: client.read_limit("db").waiting)
        (held, _) = client.list_tickets("db")
        assert held.token == grant.token
        client.release_grant(held.token)
        goes.join()
        lost = wait_until(lambda: grant.lost)
        assert lost is not None
        assert lost.names == ["db"]
        assert re.fullmatch(r"released by \S+ \(uid \d+, pid \d+\)", lost.reason)
        with pytest.raises(GrantLost), grant:
            pass
        assert client.read_limit("db").held == 0
        with pytest.raises(GrantNotFound, match=str(held.token)):
            client.release_grant(held.token)
    assert f"grant {grant.token} of pid {os.getpid()}" in daemon.log_text()


@contextlib.contextmanager
def waiting_after(daemon: RunningDaemon) -> Iterator[threading.Thread]:
    """One that waits for a slot, once it is started."""
    with daemon.client() as waiter:
        yield threading.Thread(target=lambda: waiter.acquire("db").release())


def test_it_is_over_at_all_of_its_limits(daemon: RunningDaemon) -> None:
    with daemon.client() as client:
        for name in ("left", "right"):
            client.create_limit(name, 1)
        grant = client.acquire(["left", "right"])
        client.release_grant(grant.token)
        assert [limit.held for limit in client.list_limits()] == [0, 0]
        assert grant.lost is not None
        assert grant.lost.names == ["left", "right"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_over_a_restart_it_is_not_taken_back(daemon: RunningDaemon, number: int) -> None:
    """The holder does not know yet: it was not there to be told."""
    holder = Foreign(str(daemon.socket))
    session = os.urandom(16)
    holder.close()
    holder = returning(daemon, session)
    holder.ask("create_limit", "db", 1)
    _, request, token, *_ = holder.ask("acquire", {"db": 1})
    with daemon.client() as client:
        daemon.stop(number)
        daemon.start()
        client.release_grant(token)  # nobody has come back for it
        daemon.stop(number)
        daemon.start()
        assert client.read_limit("db").held == 0
        for _ in range(2):  # and if that answer is lost: again
            holder.close()
            holder = returning(daemon, session)
            holder.send("keep", request, {"db": 1}, token)
            answer = holder.receive()
            assert answer[:3] == ["failed", request, "grant_lost"]
            assert answer[4]["names"] == ["db"]
            assert "released by" in answer[4]["reason"]
            assert client.read_limit("db").held == 0
            daemon.stop(number)  # a client that ends a connection ends its session: so we do
            daemon.start()
    holder.close()


def returning(daemon: RunningDaemon, session: bytes) -> Foreign:
    """A client under this name of its session."""

    class Returning(Foreign):
        def greet(self) -> None:
            self.send("hello", 1, session, os.getpid(), ["job"], "ada", "proof/1")

    return Returning(str(daemon.socket))


def test_a_client_of_ours_is_told_when_it_comes_back(daemon: RunningDaemon) -> None:
    with daemon.client() as holder, daemon.client() as client:
        client.create_limit("db", 1)
        grant = holder.acquire("db")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        client.release_grant(grant.token)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        with client.concurrency("db", timeout_seconds=20):
            holder.status()  # comes back
            assert isinstance(grant.lost, GrantLost)
            grant.release()
            assert client.read_limit("db").held == 1


def test_a_command_under_run_loses_its_slots_and_runs_on(daemon: RunningDaemon) -> None:
    script = [sys.executable, "-c", "print('in', flush=True); input()"]
    with daemon.client() as client:
        client.create_limit("job", 1)
        with start(
            daemon, "run", "job", "--", *script, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == "in\n"
            (held,) = client.list_tickets("job")
            assert held.pid == job.pid
            ended = ran(daemon, "release", "--yes", str(held.token))
            assert (ended.code, ended.err) == (0, "")
            assert client.list_tickets("job") == []
            assert job.poll() is None
            job.communicate("\n")
            assert job.returncode == 0
        client.acquire("job").release()


def test_release_asks_first(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    token = client.acquire("db").token
    for answer, code in (("n\n", 1), ("y\n", 0)):
        with Terminal(daemon, "release", str(token)) as terminal:
            terminal.read_until("[y/N]")
            assert f'grant {token}: 1 slot of "db", held by pid {os.getpid()}' in terminal.text
            terminal.type(answer)
            assert terminal.end() == code
    assert client.read_limit("db").held == 0


def test_what_cannot_be_released(daemon: RunningDaemon, client: Client) -> None:
    ended = ran(daemon, "release", "--yes", "4711")
    assert ended.code == 1
    assert "no grant 4711 holds slots" in ended.err
    for words in (["release", "1"], ["release", "--yes", "x"], ["release", "--yes"], ["reset"]):
        ended = ran(daemon, *words)
        assert ended.code == 2
        assert ended.err.startswith("usage: atmost re")
    client.create_limit("db", 1)
    grant = client.acquire("db")
    assert ran(daemon, "release", "--yes", str(grant.token), "4711").code == 1
    assert grant.lost is None


# Resetting


def test_a_reset_frees_what_was_spent_and_who_waits_goes(daemon: RunningDaemon) -> None:
    with daemon.client() as client, daemon.client() as waiter:
        client.create_limit("api", 2, slot_decay_per_second=0.001)
        client.rate_limit("api", 2)
        goes = threading.Thread(target=lambda: waiter.rate_limit("api"))
        goes.start()
        wait_until(lambda: client.read_limit("api").waiting)
        assert ran(daemon, "reset", "api").code == 0
        goes.join()
        found = client.read_limit("api")
        assert (found.active_slots, found.waiting) == (1, 0)
    assert "'api': spent slots reset by " in daemon.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("journal", [True, False])
def test_a_reset_survives(daemon: RunningDaemon, number: int, journal: bool) -> None:
    with daemon.client() as client:
        client.create_limit("api", 5, slot_decay_per_second=0.001)
        client.rate_limit("api", 4)
        saves = client.list_statistics().daemon.state_saves
        assert client.reset_spent("api").spent == 0
        wait_until(lambda: client.list_statistics().daemon.state_saves > saves)
        daemon.stop(number)
        if not journal:
            (daemon.folder / "run" / "journal").unlink()
        daemon.start()
        assert client.read_limit("api").spent == 0


def test_what_cannot_be_reset(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("api", 2, slot_decay_per_second=0.001)
    client.rate_limit("api", 2)
    ended = ran(daemon, "reset", "api", "apy")
    assert ended.code == 1
    assert "'apy'" in ended.err
    assert client.read_limit("api").spent > 1
    with pytest.raises(LimitNotFound):
        client.reset_spent("apy")


def test_held_slots_stay_held(client: Client) -> None:
    client.create_limit("both", 3, slot_decay_per_second=0.001)
    client.rate_limit("both", 2)
    with client.concurrency("both"):
        found = client.reset_spent("both")
        assert (found.held, found.spent) == (1, 0)


# Explaining


def test_who_holds_and_who_is_ahead(
    daemon: RunningDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    atmost = client_of(daemon, capsys)
    client.create_limit("db", 2)
    grants = [client.acquire("db") for _ in range(2)]
    with waiting(daemon, "db", 3):
        told = client.explain("db")
        assert (told.total, [one.lacks[0].place for one in told.waiting]) == (3, [1, 2, 3])
        assert [one.lacks[0].ahead_slots for one in told.waiting] == [0, 1, 2]
        assert {one.lacks[0].starts_in for one in told.waiting} == {None}
        lines = atmost("explain", "db").out.splitlines()
        assert len(lines) == 3
        assert lines[2].startswith(f"pid {os.getpid()} (ada, ")
        assert 'for 1 slot of "db": all 2 are held, the longest by pid ' in lines[2]
        assert "2 requests are ahead of it" in lines[2]
        assert "no telling" in lines[2]
        grants[0].release()  # the first of them goes
        lines = atmost("explain", str(os.getpid())).out.splitlines()
        assert len(lines) == 2
        assert re.search(r"holders kept their slots \S+ s on average, so about", lines[0])
        assert "it holds 2 slots there itself" in lines[0]


def test_what_is_left_out_is_counted(
    daemon: RunningDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    """Requests of a limit and of a process, limits of one request, and what a process holds."""
    atmost = client_of(daemon, capsys)
    names = [f"my {letter}" for letter in "abcdefg"]
    for name in names:
        client.create_limit(name, 1)
        client.acquire(name)
    lines = atmost("explain", str(os.getpid())).out.splitlines()
    assert len(lines) == 4
    assert lines[3] == "and 4 more; see all of them with: atmost ps"
    foreign = Foreign(str(daemon.socket))
    for _ in range(34):
        foreign.request("acquire", dict.fromkeys(names, 1))
    foreign.ask("status")
    lines = atmost("explain", names[0]).out.splitlines()
    assert len(lines) == 21
    assert lines[20] == "and 14 more; see all of them with: atmost ps 'my a'"
    assert lines[0].count("it holds 1 slot there itself") == 4
    assert lines[0].endswith("; and it waits for 3 more of these limits")
    lines = atmost("explain", str(os.getpid())).out.splitlines()
    assert lines[20] == "and 14 more; see all of them with: atmost ps"
    foreign.close()


def test_a_rate_is_told_exactly(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("api", 4, slot_decay_per_second=0.01)
    client.rate_limit("api", 4)
    foreign = Foreign(str(daemon.socket))
    for slots in (1, 2, 4):
        foreign.request("acquire", {}, {"api": slots})
    foreign.ask("status")
    told = client.explain("api").waiting
    times = [one.lacks[0].starts_in for one in told]
    assert all(one.lacks[0].exact for one in told)
    for starts_in, expected in zip(times, (100, 300, 700), strict=True):
        assert starts_in is not None
        assert expected - 60 < starts_in <= expected
    foreign.close()


def test_when_it_goes_is_when_it_was_told(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("api", 1, slot_decay_per_second=4)
    client.rate_limit("api")
    foreign = Foreign(str(daemon.socket))
    requests = [foreign.request("acquire", {}, {"api": 1}) for _ in range(4)]
    foreign.ask("status")
    told = {one.number: one for one in client.explain("api").waiting}
    assert len(told) >= 3
    last = told[max(told)]
    *_, waited_ns, _ = foreign.answer(requests[-1])
    assert last.lacks[0].starts_in is not None
    expected = last.waited_seconds + last.lacks[0].starts_in
    assert abs(waited_ns / 1e9 - expected) < 0.05
    foreign.close()


def test_only_what_it_lacks_is_told(daemon: RunningDaemon, client: Client) -> None:
    for name in ("free", "full", "also"):
        client.create_limit(name, 1)
    client.acquire(["full", "also"])
    foreign = Foreign(str(daemon.socket))
    foreign.request("acquire", {"free": 1, "full": 1, "also": 1}, {}, 500.0)
    foreign.ask("status")
    (one,) = client.explain("free").waiting
    assert [lack.limit for lack in one.lacks] == ["also", "full"]
    assert one.gives_up_in is not None
    assert 0 < one.gives_up_in <= 500
    foreign.close()


def test_nobody_waits(
    daemon: RunningDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    atmost = client_of(daemon, capsys)
    client.create_limit("off", 1, active=False)
    client.create_limit("zero", 0)
    client.create_limit("idle", 3)
    client.create_limit("123456789", 3)
    grant = client.acquire("idle", 2)
    assert '"off" is not enforced' in atmost("explain", "off").out
    assert "limit 0" in atmost("explain", "zero").out
    assert '"idle": 2 of 3 slots held' in atmost("explain", "idle").out
    assert '"123456789"' in atmost("explain", "123456789").out
    me = atmost("explain", str(os.getpid()))
    assert me.code == 0
    assert 'waits for nothing; it holds 2 slots of "idle" since' in me.out
    assert f"(grant {grant.token})" in me.out
    nobody = atmost("explain", "999999999")
    assert nobody.code == 1
    assert "pid 999999999 neither waits nor holds anything" in nobody.err
    unknown = atmost("explain", "none")
    assert unknown.code == 1
    assert "no limit named 'none'" in unknown.err
    assert atmost("explain").code == 2


def test_explained_as_json(
    daemon: RunningDaemon, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    client.create_limit("db", 1)
    grant = client.acquire("db")
    with waiting(daemon, "db", 1):
        told = json.loads(client_of(daemon, capsys)("explain", "--json", "db").out)
    assert list(told) == list(wire.Explanations.__struct_fields__[1:])
    assert told["held"][0]["token"] == grant.token
    assert told["waiting"][0]["lacks"][0]["longest"][0]["pid"] == os.getpid()


def test_neither_a_name_nor_a_pid(daemon: RunningDaemon) -> None:
    foreign = Foreign(str(daemon.socket))
    for asked in ((), (None, None), ("db", 1)):
        with pytest.raises(Failed) as failed:
            foreign.ask("explain", *asked)
        assert failed.value.code == "invalid_value"
    foreign.close()


def test_an_explanation_fits_its_frame_whatever_the_names_are(daemon: RunningDaemon) -> None:
    names = [chr(0x1F418) * 199 + chr(0x1F400 + n) for n in range(32)]
    with daemon.client() as client:
        for name in names:
            client.create_limit(name, 1)
        foreign = Foreign(str(daemon.socket))
        foreign.ask("acquire", dict.fromkeys(names, 1))
        for _ in range(30):
            foreign.request("acquire", dict.fromkeys(names, 1))
        foreign.ask("status")
        told = client.explain(names[0])
        assert told.total == 30
        assert len(told.waiting) >= 1
        foreign.close()


def test_a_grant_is_shown(client: Client) -> None:
    client.create_limit("db", 1)
    grant: Grant = client.acquire("db")
    assert [ticket.token for ticket in client.list_tickets()] == [grant.token]
