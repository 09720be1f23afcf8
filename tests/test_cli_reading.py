"""The command: what it shows of limits, of those who hold and wait, and of the daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from atmost.cli.output import Column, shown, width_of, write_table
from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import COMMAND, Atmost, Terminal, client_of, ran, shared, start

LIMIT_FIELDS = [
    "name",
    "limit",
    "slot_decay_per_second",
    "active",
    "active_slots",
    "held",
    "spent",
    "waiting",
    "implicit",
    "origin",
    "declared",
]


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


# ---- ls, inspect, ps


def test_ls_in_a_pipe_has_every_field_between_tabs(atmost: Atmost, client: Client) -> None:
    client.create_limit("db", 3)
    client.create_limit("api", 10, 0.5, active=False)
    client.acquire("new").release()
    with client.acquire("db"):
        assert atmost("ls") == (
            0,
            "api\t10\t0.5\tfalse\t0\t0\t0\t0\tfalse\thand\t-\n"
            "db\t3\t0\ttrue\t1\t1\t0\t0\tfalse\thand\t-\n"
            "new\t1\t0\tfalse\t0\t0\t0\t0\ttrue\timplicit\t-\n",
            "",
        )


def test_ls_and_inspect_as_json(atmost: Atmost, client: Client) -> None:
    client.create_limit("größe", 3)
    code, out, err = atmost("ls", "--json")
    (record,) = json.loads(out)
    assert (code, err) == (0, "")
    assert list(record) == LIMIT_FIELDS
    assert record["name"] == "größe"
    assert (record["limit"], record["active"], record["held"]) == (3, True, 0)
    assert json.loads(atmost("inspect", "größe", "--json").out) == record


def test_ls_of_no_limits(atmost: Atmost) -> None:
    assert atmost("ls") == (0, "", "")
    assert json.loads(atmost("ls", "--json").out) == []


def test_more_limits_than_one_message_holds(atmost: Atmost, client: Client) -> None:
    names = [f"{number:03}{'文' * 197}" for number in range(100)]
    for name in names:
        client.acquire(name).release()
    assert [line.split("\t")[0] for line in atmost("ls").out.splitlines()] == names


def test_inspect(atmost: Atmost, client: Client) -> None:
    client.create_limit("api", 10, 0.5)
    client.rate_limit("api", 3)
    fields = dict(line.split("\t") for line in atmost("inspect", "api").out.splitlines())
    assert list(fields) == LIMIT_FIELDS
    assert (fields["limit"], fields["active_slots"], fields["active"]) == ("10", "3", "true")
    assert 0 < float(fields["spent"]) <= 3


def test_ps(atmost: Atmost, daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 3)
    client.create_limit("gpu", 1)
    with start(daemon, "run", "-n", "2", "db", "--", "sleep", "60") as sleeps:
        wait_until(lambda: client.read_limit("db").held == 2)
        with start(daemon, "run", "db", "-n", "3", "--", "test", "a b") as waits:
            wait_until(lambda: client.read_limit("db").waiting == 1)
            with client.acquire("gpu"):
                lines = [line.split("\t") for line in atmost("ps").out.splitlines()]
                records = json.loads(atmost("ps", "--json").out)
            assert len(json.loads(atmost("ps", "db", "--json").out)) == 2
            assert atmost("ps", "gpu") == (0, "", "")
            sleeps.kill()
            assert waits.wait(PATIENCE_SECONDS) == 0
    user = lines[0][4]
    token = lines[0][8]
    assert int(token) > 0
    assert [line[:6] + line[7:] for line in lines[:2]] == [
        ["db", "held", "2", str(sleeps.pid), user, "sleep 60", "-", token],
        ["db", "waiting", "3", str(waits.pid), user, "test 'a b'", "1", "0"],
    ]
    assert lines[2][:4] == ["gpu", "held", "1", str(os.getpid())]
    assert float(lines[0][6]) > 0
    assert records[0].pop("age_seconds") > 0
    assert records[0] == {
        "limit": "db",
        "state": "held",
        "slots": 2,
        "pid": sleeps.pid,
        "user": user,
        "command": "sleep 60",
        "place": None,
        "token": int(token),
    }
    assert list(records[1]) == [
        "limit",
        "state",
        "slots",
        "pid",
        "user",
        "command",
        "age_seconds",
        "place",
        "token",
    ]
    assert [record["place"] for record in records] == [None, 1, None]


# ---- On a terminal


def test_tables_on_a_terminal(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 3)
    client.create_limit("api", 10, 100 / 60, active=False)
    client.acquire("new").release()
    with client.acquire("db", 2):
        with Terminal(daemon, "ls") as screen:
            assert screen.end() == 0
        with Terminal(daemon, "ps", NO_COLOR="1") as plain:
            assert plain.end() == 0
    assert "\x1b[1mNAME  LIMIT  USED" in screen.text
    lines = [line.split() for line in re.sub(r"\x1b\[\d*m", "", screen.text).splitlines()]
    assert lines[:4] == [
        ["NAME", "LIMIT", "USED", "HELD", "SPENT", "WAITING", "RATE", "STATE", "FROM"],
        ["api", "10", "0", "0", "0", "0", "100/min", "inactive", "hand"],
        ["db", "3", "2", "2", "0", "0", "-", "active", "hand"],
        ["new", "1", "0", "0", "0", "0", "-", "implicit", "implicit"],
    ]
    assert "atmost update NAME --limit N --enable" in screen.text
    assert "\x1b" not in plain.text
    header, row = plain.text.splitlines()
    assert header.split() == [
        "LIMIT",
        "STATE",
        "PLACE",
        "SLOTS",
        "AGE",
        "GRANT",
        "PID",
        "USER",
        "COMMAND",
    ]
    assert row.split()[:4] == ["db", "held", "-", "2"]
    assert max(len(header), len(row)) <= 80


def test_a_terminal_is_told_what_an_empty_table_means(daemon: RunningDaemon) -> None:
    for command, words in [("ls", "there are no limits; make one"), ("ps", "nobody holds a slot")]:
        with Terminal(daemon, command) as screen:
            assert screen.end() == 0
            assert words in screen.text


def test_a_command_line_cannot_drive_the_terminal(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 1)
    evil = "\x1b]0;owned\x07\x9b31m\u202e\n\t"
    with Client(daemon.socket, _command=["x", evil]) as other, other.acquire("db"):
        for command in (["ps"], ["ps", "--json"], ["run", "db", "--no-wait", "--", "true"]):
            with Terminal(daemon, *command, NO_COLOR="1") as screen:
                screen.end()
                assert "owned" in screen.text
                assert not {"\x1b", "\x07", "\x9b"} & set(screen.text)
        piped = ran(daemon, "ps").out
    assert piped.count("\t") == 8
    assert piped.count("\n") == 1


def test_a_table_is_cut_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [Column("NAME", shrinks=True), Column("N", right=True), Column("X", shrinks=True)]
    rows = [["n" * 40, "1", "文字" * 20], ["m", "23", "é"]]

    def table(width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        write_table(columns, rows)
        return capsys.readouterr().out.splitlines()

    assert table(200)[1] == f"{'n' * 40}   1  {'文字' * 20}"
    assert max(map(width_of, table(80))) <= 80
    assert table(80)[1].startswith("n" * 40 + "   1  文字")
    assert table(80)[1].endswith("…")
    assert max(map(width_of, table(40))) <= 40
    assert table(40)[2] == f"m{' ' * 21}  23  é"
    assert table(10) == table(30)  # nothing is cut until it says nothing: the terminal wraps it


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain ü 文", "plain ü 文"),
        ("a\tb\n", r"a\tb\n"),
        ("\x1b[0m\x85", r"\x1b[0m\x85"),
        ("\udc80", r"\udc80"),
    ],
)
def test_shown(text: str, safe: str) -> None:
    assert shown(text) == safe


# ---- Pipes that end early, disks that are full


def test_a_pipe_that_nobody_reads_any_more(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 3)
    for command in (["ls"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        with start(daemon, *command, stdout=writing, stderr=subprocess.PIPE) as process:
            os.close(writing)
            _, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, err) == (-signal.SIGPIPE, "")


def test_output_that_cannot_be_written_is_an_error(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("db", 3)
    with open("/dev/full", "w") as full:
        assert ran(daemon, "ls", stdout=full)[::2] == (1, "atmost: No space left on device\n")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "ls"]
    done = subprocess.run(closed, env=daemon.environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "atmost: stdout: Bad file descriptor\n"


def test_a_locale_that_cannot_say_a_name(daemon: RunningDaemon, client: Client) -> None:
    client.create_limit("größe", 3)
    latin = daemon.environment() | {"PYTHONIOENCODING": "ascii"}
    assert ran(daemon, "ls", env=latin).out.startswith(r"gr\xf6\xdfe" + "\t")
    assert json.loads(ran(daemon, "ls", "--json", env=latin).out)[0]["name"] == "größe"
