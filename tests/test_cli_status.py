"""The command: whether the daemon runs, where it is, and what the command says of itself."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from atmost.sync import Limit
from tests.support import PATIENCE_SECONDS, RunningDaemon
from tests.support_cli import Atmost, client_of, here, ran, start


@pytest.fixture
def atmost(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Atmost:
    return client_of(daemon, capsys)


def test_status(atmost: Atmost, daemon: RunningDaemon) -> None:
    code, out, err = atmost("status", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert (record["state"], record["pid"]) == ("running", daemon.pid)
    assert record["socket"] == str(daemon.socket)
    assert f"pid\t{daemon.pid}\n" in atmost("status").out


def test_status_of_a_daemon_that_does_not_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "nobody")
    done = here(capsys, "status", "--socket", path, "--json")
    assert done.code == 3
    assert f"no atmost daemon at {path}" in done.err
    assert f"start one with: atmostd --socket {path}" in done.err
    record = json.loads(done.out)
    assert record["state"] == "not_running"
    assert path in record["reason"]
    assert here(capsys, "status", "--socket", path)[:2] == (3, "")


def test_status_of_a_daemon_that_was_killed(atmost: Atmost, daemon: RunningDaemon) -> None:
    daemon.stop(signal.SIGKILL)
    assert daemon.socket.exists()
    assert atmost("status").code == 3


def test_status_of_a_daemon_that_gives_no_answer(
    atmost: Atmost, daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.sync_connection.HELLO_SECONDS", 0.1)
    os.kill(daemon.pid, signal.SIGSTOP)
    done = atmost("status", "--json")
    assert done.code == 4
    assert json.loads(done.out)["state"] == "no_answer"
    assert atmost("ls").code == 1
    os.kill(daemon.pid, signal.SIGCONT)
    monkeypatch.undo()
    assert atmost("status").code == 0


def test_status_where_something_else_listens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "other")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()

        def answer() -> None:
            with other.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        done = here(capsys, "--socket", path, "status")
        answering.join()
    assert done.code == 4
    assert "atmost: " in done.err


def test_sockname(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    daemon: RunningDaemon,
) -> None:
    monkeypatch.delenv("ATMOST_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    system, mine = tmp_path / "system", tmp_path / "atmost" / "atmost.sock"
    monkeypatch.setattr("atmost.paths.SYSTEM_RUNTIME_DIR", str(system))

    def answer(*arguments: str) -> str:
        done = here(capsys, "sockname", *arguments)
        assert (done.code, done.err) == (0, "")
        return done.out.removesuffix("\n")

    # Nobody listens: where an atmostd of this user would.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert answer() == str(system / "atmost.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert answer() == str(mine)
    # Somebody listens.
    for each in (mine, system / "atmost.sock"):
        each.parent.mkdir()
        each.symlink_to(daemon.socket)
        assert answer() == str(each)
    # Somebody has named it.
    monkeypatch.setenv("ATMOST_SOCKET", "/named")
    assert answer() == "/named"
    assert answer("--socket", "/given") == "/given"


def test_version_and_help(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(daemon, "--version") == (0, "atmost 0.1.0\n", "")
    code, out, _ = here(capsys, "--help")
    assert code == 0
    for command in re.findall(r"^  ([a-z]+) ", out, re.MULTILINE):
        code, text, err = here(capsys, command, "--help")
        assert (code, err) == (0, "")
        assert text.startswith(f"usage: atmost {command}")
        assert here(capsys, "help", command).out == text
        assert max(map(len, text.splitlines())) <= 100
    for field in Limit.__struct_fields__:
        assert field in here(capsys, "ls", "--help").out
    code, out, err = here(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: atmost [--socket PATH] COMMAND ...")


def test_the_socket_is_named_before_or_behind_the_command(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(daemon.socket)
    assert here(capsys, "--socket", path, "ls").code == 0
    assert here(capsys, f"--socket={path}", "ls").code == 0
    assert here(capsys, "ls", "--socket", path).code == 0
    assert here(capsys, "--socket", "/nowhere", "ls", "--socket", path).code == 0


def test_a_command_imports_what_it_needs_and_no_more(daemon: RunningDaemon) -> None:
    code = "import sys; from atmost.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    with start(daemon, "ls", command=command, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    loaded = set(out.split())
    assert "atmost.cli.reading" in loaded
    slow = {"asyncio", "json", "logging", "pathlib", "random", "shutil", "subprocess", "tempfile"}
    others = {
        "atmost.starting",
        "atmost.asyncio",
        "atmost.cli.changing",
        "atmost.cli.run",
        "atmost.cli.status",
    }
    assert not loaded & (slow | others)
