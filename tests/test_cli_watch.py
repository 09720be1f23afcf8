"""`atmost watch` as a person and as a program has it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import Any

import pytest

from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_cli import COMMAND, Terminal, ran, start

PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def test_json_lines_come_at_once(daemon: RunningDaemon, client: Client) -> None:
    with start(daemon, "watch", "--json", "db", **PIPES) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["kind"], first["pid"]) == ("daemon_started", daemon.pid)
        client.create_limit("db", 1)
        client.create_limit("other", 1)
        with client.concurrency("db") as grant:
            assert json.loads(process.stdout.readline())["kind"] == "created"
            event = json.loads(process.stdout.readline())
        assert event["kind"] == "granted"
        assert event["token"] == grant.token
        assert event["pid"] == os.getpid()
        assert json.loads(process.stdout.readline())["held_seconds"] > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGINT


def test_on_a_terminal_and_over_a_restart(daemon: RunningDaemon) -> None:
    with Terminal(daemon, "watch") as terminal, daemon.client() as client:
        terminal.read_until("watching; the daemon")
        client.create_limit("db", 1)
        client.acquire("db").release()
        terminal.read_until("held")
        lines = terminal.text.splitlines()
        assert re.search(r"\d\d:\d\d:\d\d\.\d{3} created    db, limit 1, active$", lines[1])
        assert re.search(
            r" granted    db, 1 slot, pid \d+ \(.*\), waited .* s, grant \d+$", lines[2]
        )
        assert re.search(r" released   db, 1 slot, pid \d+ \(.*\), held .* s$", lines[3])
        daemon.stop()
        terminal.read_until("waiting for the daemon to come back")
        daemon.start()
        terminal.read_until("the daemon is back")
        terminal.read_until("restarted")
        client.delete_limit("db")
        terminal.read_until("deleted")
        terminal.type("\x03")
        assert terminal.end() == -signal.SIGINT


def test_a_quick_restart_is_said_too(daemon: RunningDaemon) -> None:
    with Terminal(daemon, "watch") as terminal:
        terminal.read_until("watching; the daemon")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        terminal.read_until(f"the daemon was restarted (pid {daemon.pid})")


def test_it_can_be_stopped_and_goes_on(daemon: RunningDaemon, client: Client) -> None:
    with start(daemon, "watch", "--json", **PIPES) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        client.create_limit("db", 1)
        process.send_signal(signal.SIGCONT)
        assert json.loads(process.stdout.readline())["kind"] == "created"


def test_the_end_of_the_pipe_ends_it(daemon: RunningDaemon, client: Client) -> None:
    with start(daemon, "watch", **PIPES) as process:
        assert process.stdout is not None
        wait_until(lambda: client.list_statistics().daemon.watchers)
        process.stdout.close()
        client.create_limit("db", 1)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGPIPE
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_the_end_of_the_pipe_ends_it_also_if_nothing_happens(
    daemon: RunningDaemon, client: Client, more: list[str]
) -> None:
    with start(daemon, "watch", *more, **PIPES) as process:
        assert process.stdout is not None
        wait_until(lambda: client.list_statistics().daemon.watchers)
        process.stdout.close()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGPIPE
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    wait_until(lambda: not client.list_statistics().daemon.watchers)


def test_a_stdout_that_is_closed_is_told_at_once(daemon: RunningDaemon) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "-", *COMMAND]
    with start(daemon, "watch", command=command, stderr=subprocess.PIPE) as process:
        assert process.wait(PATIENCE_SECONDS) == 1
        assert process.stderr is not None
        assert "stdout: Bad file descriptor" in process.stderr.read()


@pytest.mark.parametrize("words", [["a/b"], ["a", "b"], ["--jsn"]])
def test_nonsense(daemon: RunningDaemon, words: list[str]) -> None:
    ended = ran(daemon, "watch", *words)
    assert ended.code == 2
    assert ended.err.startswith("usage: atmost watch [NAME] [--json]")


def test_no_daemon(daemon: RunningDaemon) -> None:
    daemon.stop()
    ended = ran(daemon, "watch")
    assert ended.code == 1
    assert "no atmost daemon" in ended.err


def test_what_others_wrote_drives_no_terminal(daemon: RunningDaemon) -> None:
    with Terminal(daemon, "watch") as terminal, daemon.client() as client:
        terminal.read_until("watching")
        client.create_limit("\u202eevil", 1)
        terminal.read_until("created")
        terminal.read_until("\\u202eevil")
