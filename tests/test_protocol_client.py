"""What PROTOCOL.md states and a foreign client relies on, checked with a client that is foreign.

The tests are in the order of the page; each names the rule that it checks.
"""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import protocol_client
from tests.protocol_client import Client, Failed, frame
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

SOURCE = Path(protocol_client.__file__)
LINES_MAX = 100  # that are not empty

Connect = Callable[[], Client]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all tests here: each uses limits of its own names."""
    running = RunningDaemon(tmp_path_factory.mktemp("protocol")).start()
    yield running
    assert "Traceback" not in running.log_text()
    running.stop(signal.SIGKILL)


@pytest.fixture
def connect(running: RunningDaemon) -> Iterator[Connect]:
    """Makes connections, and closes them after the test."""
    made: list[Client] = []

    def new() -> Client:
        made.append(Client(str(running.socket)))
        return made[-1]

    yield new
    for client in made:
        client.close()


def refused(client: Client, kind: str, *fields: Any) -> tuple[str, dict[str, Any]]:
    """Ask for what is refused; gives the error's code and fields."""
    with pytest.raises(Failed) as caught:
        client.ask(kind, *fields)
    return caught.value.code, caught.value.fields


def until_waiting(client: Client, name: str, count: int = 1) -> None:
    """Wait until so many requests stand in this limit's line."""
    wait_until(lambda: client.ask("read_limit", name)[2][7] == count)


# The proof


def test_the_page_is_enough_to_write_a_client(daemon: RunningDaemon) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", SOURCE, daemon.socket],  # -I: without PYTHONPATH
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "created proof 1 True",
        "listed proof held 1 place None",
        "listed proof waiting 1 place 1",
        "granted after waiting True [] token rose True",
        "listed [('proof', 1)]",
        "held after the close 0",
        "refused never_fits [('limit', 1), ('name', 'proof'), ('slots', 2)]",
        "deleted done",
    ]


def test_that_client_is_short_and_uses_nothing_of_ours() -> None:
    text = SOURCE.read_text()
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    imported = {alias.name for node in names for alias in node.names}
    assert imported - sys.stdlib_module_names == {"msgpack"}
    froms = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in froms} <= sys.stdlib_module_names
    assert sum(bool(line.strip()) for line in text.splitlines()) <= LINES_MAX


# Frames


def test_fields_with_a_default_may_be_left_out(connect: Connect) -> None:
    client = connect()
    assert client.ask("create_limit", "short", 1)[2][:4] == ["short", 1, 0.0, True]
    assert client.ask("acquire", {"short": 1})[0] == "granted"
    assert client.ask("list_tickets")[0] == "tickets"


def test_unknown_fields_at_the_end_are_ignored(connect: Connect) -> None:
    client = connect()
    assert client.ask("create_limit", "long", 1, 0.0, True, "new", [{}])[0] == "limit"
    number = client.ask("acquire", {"long": 1}, {}, None, False, [], False, [], False, "new", [{}])[
        1
    ]
    client.send("release", number, "new")
    assert client.ask("read_limit", "long", 7)[2][5] == 0
    assert client.ask("status", "new")[0] == "daemon_status"


def test_a_whole_number_will_do_for_a_float(connect: Connect) -> None:
    client = connect()
    assert client.ask("create_limit", "whole", 1, 2)[2][2] == 2.0
    assert client.ask("acquire", {"whole": 1}, {}, 5)[0] == "granted"


# A conversation


def test_requests_may_follow_the_hello_without_waiting(
    running: RunningDaemon, connect: Connect
) -> None:
    client = connect()
    assert client.welcome == []
    assert client.ask("status")[3] == running.pid
    assert [*client.welcome[:2], client.welcome[3]] == ["welcome", 1, running.pid]


# Rules of order


def test_1_answers_come_in_any_order(connect: Connect) -> None:
    client = connect()
    client.ask("create_limit", "order", 1)
    held = client.ask("acquire", {"order": 1})[1]
    waits = client.request("acquire", {"order": 1})
    assert client.ask("status")[0] == "daemon_status"
    client.send("release", held)
    assert client.answer(waits)[0] == "granted"


def test_2_a_release_is_right_in_every_case_and_has_no_answer(connect: Connect) -> None:
    client = connect()
    client.ask("create_limit", "release", 1)
    held = client.ask("acquire", {"release": 1})[1]
    waits = client.request("acquire", {"release": 1})
    for number in (waits, waits, held, held, 12345):  # waiting, gone, held, gone, never there
        client.send("release", number)
    number = client.request("read_limit", "release")
    answer = client.receive()
    assert answer[:2] == ["limit", number]
    assert answer[2][5] == 0
    assert answer[2][7] == 0


def test_3_reads_see_what_was_sent_before(connect: Connect) -> None:
    client = connect()
    client.ask("create_limit", "reads", 1)
    client.socket.sendall(
        frame("acquire", 101, {"reads": 1})
        + frame("acquire", 102, {"reads": 1})
        + frame("list_tickets", 103, "reads")
        + frame("release", 101)
        + frame("read_limit", 104, "reads")
    )
    assert client.answer(101)[0] == "granted"
    assert client.answer(104)[2][7] == 0  # 102 waits no longer
    assert client.answer(102)[0] == "granted"
    assert client.answer(103)[2]


def test_3_a_change_is_in_force_when_it_is_answered(connect: Connect) -> None:
    client, other = connect(), connect()
    client.ask("create_limit", "change", 1)
    client.ask("acquire", {"change": 1})
    waits = other.request("acquire", {"change": 1})
    until_waiting(client, "change")
    record = client.ask("update_limit", "change", 2, None, None)[2]
    assert record[:4] == ["change", 2, 0.0, True]
    assert record[5] == 2  # who fits now went before the answer
    assert other.answer(waits)[0] == "granted"


def test_4_the_line_is_first_come_first_served(connect: Connect) -> None:
    holder = connect()
    holder.ask("create_limit", "line", 1)
    held = holder.ask("acquire", {"line": 1})[1]
    clients = [connect() for _ in range(5)]
    waiting = []
    for place, client in enumerate(clients, 1):
        waiting.append(client.request("acquire", {"line": 1}))
        until_waiting(holder, "line", place)
    tickets = holder.ask("list_tickets", "line")[2]
    assert [ticket[7] for ticket in tickets] == [None, 1, 2, 3, 4, 5]
    assert [ticket[8] for ticket in tickets] == sorted(ticket[8] for ticket in tickets)
    tokens = []
    holder.send("release", held)
    for client, number in zip(clients, waiting, strict=True):
        tokens.append(client.answer(number)[2])
        client.send("release", number)
    assert tokens == sorted(tokens)


def test_4_several_limits_are_all_or_nothing(connect: Connect) -> None:
    client, other = connect(), connect()
    for name in ("one", "two"):
        client.ask("create_limit", name, 1)
    held = client.ask("acquire", {"one": 1})[1]
    both = other.request("acquire", {"one": 1, "two": 1})
    until_waiting(client, "one")
    assert client.ask("read_limit", "two")[2][5] == 0  # nothing is held on the way
    client.send("release", held)
    assert other.answer(both)[0] == "granted"


def test_5_the_end_of_a_connection_releases(connect: Connect) -> None:
    client, other = connect(), connect()
    client.ask("create_limit", "end", 1)
    client.ask("acquire", {"end": 1})
    waits = other.request("acquire", {"end": 1})
    until_waiting(client, "end")
    client.close()
    assert other.answer(waits)[0] == "granted"


CHILD = """
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from protocol_client import Client
client = Client(sys.argv[2])
client.ask("acquire", {sys.argv[3]: 1}, {}, None, False, [], sys.argv[4] == "by_process")
if sys.argv[4] == "by_process":
    client.close()
elif os.fork() == 0:
    sys.stdin.read()  # a child keeps the socket open until the test lets go of this pipe
    os._exit(0)
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(running: RunningDaemon) -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    """Starts a process that holds one slot of a limit."""
    made: list[subprocess.Popen[str]] = []

    def start(limit: str, how: str) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-c", CHILD, SOURCE, running.socket, limit, how],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert made[-1].stdout is not None
        assert made[-1].stdout.readline() == "holds\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["forked", "by_process"])
def test_5_and_6_the_end_of_the_process_releases(
    connect: Connect, child: Callable[[str, str], subprocess.Popen[str]], how: str
) -> None:
    """Also when a forked child has its socket, and when the connection was closed long before."""
    client = connect()
    client.ask("create_limit", how, 1)
    holder = child(how, how)
    (ticket,) = client.ask("list_tickets", how)[2]
    assert ticket[1] == "held"
    assert ticket[3] == holder.pid
    assert refused(client, "acquire", {how: 1}, {}, 0)[0] == "acquire_timeout"
    holder.kill()
    assert client.ask("acquire", {how: 1})[0] == "granted"


def test_6_who_waits_leaves_with_the_connection_all_the_same(connect: Connect) -> None:
    client, other = connect(), connect()
    client.ask("create_limit", "leaves", 1)
    client.ask("acquire", {"leaves": 1})
    other.request("acquire", {"leaves": 1}, {}, None, False, [], True)
    until_waiting(client, "leaves")
    other.close()
    until_waiting(client, "leaves", 0)


@pytest.mark.parametrize("seconds", [0, 0.02])
def test_7_a_time_out_answers(connect: Connect, seconds: float) -> None:
    client = connect()
    name = f"late {seconds}"
    client.ask("create_limit", name, 1)
    client.ask("acquire", {name: 1})
    code, fields = refused(client, "acquire", {name: 1}, {}, seconds)
    assert code == "acquire_timeout"
    assert fields["slots"] == {name: 1}
    assert fields["waited_seconds"] >= seconds
    assert fields["places"] == {name: 1}
    (holder,) = fields["holders"]
    (ticket,) = client.ask("list_tickets", name)[2]
    assert list(holder.values())[:5] == [ticket[0], *ticket[2:6]]
    assert client.ask("read_limit", name)[2][7] == 0


def test_3_changes_that_come_together_are_made_in_their_order(connect: Connect) -> None:
    """Also if the last one says what was so before the first."""
    client = connect()
    client.ask("create_limit", "together", 3)
    client.socket.sendall(
        frame("update_limit", 101, "together", 5) + frame("update_limit", 102, "together", 3)
    )
    client.answer(101)
    assert client.answer(102)[2][1] == 3
    assert client.ask("read_limit", "together")[2][1] == 3


def test_8_spent_slots_come_back_by_decay_alone(connect: Connect) -> None:
    client, other = connect(), connect()
    client.ask("create_limit", "spend", 3, 0.001)
    number = other.ask("acquire", {}, {"spend": 2})[1]
    other.send("release", number)
    other.close()
    record = client.ask("read_limit", "spend")[2]
    assert record[4:6] == [2, 0]
    assert 1.9 < record[6] <= 2
    assert client.ask("list_tickets", "spend")[2] == []


def test_9_a_missing_limit_is_made_inactive(connect: Connect) -> None:
    client = connect()
    granted = client.ask("acquire", {"missing": 5})
    assert granted[4] == ["missing"]
    record = client.ask("read_limit", "missing")[2]
    assert record[:9] == ["missing", 1, 0.0, False, 0, 0, 0.0, 0, True]
    assert record[9:11] == ["implicit", ""]
    assert refused(client, "acquire", {"missing": 1}, {}, None, True) == (
        "limit_inactive",
        {"names": ["missing"]},
    )


def test_9_strict_makes_nothing(connect: Connect) -> None:
    client = connect()
    names = ["never a", "never b"]
    asked = dict.fromkeys(names, 1)
    assert refused(client, "acquire", asked, {}, None, True) == (
        "limit_not_found",
        {"names": names},
    )
    for kind in ("read_limit", "update_limit", "delete_limit", "list_tickets"):
        assert refused(client, kind, names[0]) == ("limit_not_found", {"names": names[:1]})


def test_10_tokens_rise_across_restarts(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path).start()
    tokens = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        client = Client(str(running.socket))
        tokens.append(client.ask("acquire", {"db": 1})[2])
        running.stop(number)
        client.close()
        running.start()
    assert tokens == sorted(set(tokens))
    running.stop(signal.SIGKILL)
