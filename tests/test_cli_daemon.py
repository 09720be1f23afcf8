"""atmost daemon: each subcommand is about a state, and done when that is so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.cli.daemon import HELP, SUBCOMMANDS
from atmost.cli.daemon_control import unit_in
from tests.support import RunningDaemon, wait_until
from tests.support_cli import client_of, here
from tests.support_user import CLI, User, ended


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.close()


def test_start_stop_restart_and_each_again(user: User) -> None:
    none = user.atmost("daemon", "stop")
    assert none == (0, "", "atmost: no daemon runs\n")
    assert user.atmost("daemon", "status").code == 3

    started = user.atmost("daemon", "start")
    first = user.pid()
    assert started.code == 0
    assert started.err == (
        f"atmost: started: pid {first}, on {user.socket} (default, of the user); its log: {user.log}\n"
    )
    again = user.atmost("daemon", "start")
    assert (again.code, user.pid(), user.starts()) == (0, first, 1)
    assert f"a daemon runs already: pid {first}, on {user.socket}" in again.err
    status = user.atmost("daemon", "status", "--json")
    assert (status.code, json.loads(status.out)["pid"]) == (0, first)

    assert user.atmost("daemon", "restart").code == 0
    second = user.pid()
    assert second not in (None, first)
    assert user.atmost("daemon", "stop") == (0, "", f"atmost: stopped: pid {second}\n")
    assert user.pid() is None
    assert user.atmost("daemon", "stop").code == 0
    assert user.atmost("daemon", "restart").code == 0
    assert user.pid() is not None


def test_one_that_was_started_by_hand_stays(user: User) -> None:
    assert user.atmost("daemon", "start").code == 0
    assert "--idle-seconds" not in Path(f"/proc/{user.pid()}/cmdline").read_text()


def test_options_of_the_daemon(user: User) -> None:
    assert user.atmost("daemon", "start", "--", "--bound", "connections=99").code == 0
    assert "connections=99" in Path(f"/proc/{user.pid()}/cmdline").read_text()
    wrong = user.atmost("daemon", "restart", "--", "--nonsense")
    assert wrong.code == 1
    assert "unrecognized arguments: --nonsense" in wrong.err
    assert str(user.log) in wrong.err


def test_a_restart_keeps_who_holds_and_who_waits(user: User) -> None:
    user.atmost("create", "db", "--limit", "1")
    holder = user.start(CLI, "run", "db", "--", "sleep", "99")
    wait_until(lambda: "held" in user.atmost("ps").out)
    waiter = user.start(CLI, "run", "db", "--", "true")
    wait_until(lambda: "waiting" in user.atmost("ps").out)
    assert user.atmost("daemon", "restart").code == 0
    assert [line.split("\t")[1] for line in user.atmost("ps").out.splitlines()] == [
        "held",
        "waiting",
    ]
    holder.kill()
    assert ended(waiter).code == 0
    ended(holder)


def test_a_restart_changes_no_option(user: User, tmp_path: Path) -> None:
    """Also not a folder that was named as seen from where the daemon was started."""
    (tmp_path / "here").mkdir()
    options = ["--state-dir", "kept", "--bound", "connections=99", "--bound=connections_kept=3"]
    assert user.atmost("daemon", "start", "--", *options, cwd=tmp_path / "here").code == 0
    assert (tmp_path / "here" / "kept" / "state").exists()
    user.atmost("create", "db", "--limit", "1")
    assert user.atmost("daemon", "restart").code == 0
    assert user.atmost("ls").out.startswith("db\t")
    words = Path(f"/proc/{user.pid()}/cmdline").read_text().split("\0")
    assert f"--state-dir={tmp_path}/here/kept" in words
    assert words.count("--bound=connections=99") == words.count("--bound=connections_kept=3") == 1
    assert words.count("--socket") + words.count("--detach") == 2


def test_run_is_the_daemon_itself(user: User) -> None:
    process = user.start(CLI, "daemon", "run", "--", "--idle-seconds", "0")
    wait_until(lambda: user.pid() == process.pid, "it has become the daemon")
    wait_until(lambda: user.atmost("status").code == 0)
    second = user.atmost("daemon", "run")
    assert second.code == 1
    assert f"a daemon runs already: pid {process.pid}" in second.err
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 0


def test_a_path_that_is_named(user: User, tmp_path: Path) -> None:
    path = tmp_path / "named" / "s"
    path.parent.mkdir()
    named = {"environment": {"ATMOST_SOCKET": str(path)}}
    assert user.atmost("daemon", "start", **named).code == 0
    assert path.exists()
    assert user.pid() is None
    assert f"on {path} (given)" in user.atmost("daemon", "start", "--socket", str(path)).err
    assert user.atmost("daemon", "stop", **named).code == 0
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_daemon_of_somebody_else(user: User) -> None:
    """A user namespace makes a user who may not signal a process of the host's root."""
    user.system.mkdir()
    running = RunningDaemon(user.system)
    running.socket = user.system / "atmost.sock"
    running.start()
    assert "runs already" in user.atmost("daemon", "start").err
    stopped = user.atmost("daemon", "stop")
    running.stop(signal.SIGKILL)
    if stopped.code:  # or this user is root after all, to the kernel
        assert "is not yours to stop: ask root" in stopped.err


def test_one_that_hangs_is_stopped_too(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.sync_connection.HELLO_SECONDS", 0.1)
    monkeypatch.setattr("atmost.cli.daemon_control.STOP_SECONDS", 0.3)
    os.kill(daemon.pid, signal.SIGSTOP)
    code, _, err = client_of(daemon, capsys)("daemon", "stop")
    assert code == 1
    assert f"pid {daemon.pid} was told to stop and has not within 0.3 s" in err
    assert f"kill -9 {daemon.pid}" in err


ANOTHER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(sys.argv[1])
    listening.listen()
    print(flush=True)
    while True:
        listening.accept()[0].close()
"""


def test_who_is_no_daemon_of_ours_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a user's systemd, which listens for a service that cannot start."""
    path = str(tmp_path / "s")
    listens = subprocess.Popen([sys.executable, "-c", ANOTHER, path], stdout=subprocess.PIPE)
    assert listens.stdout is not None
    assert listens.stdout.readline()
    for verb in ("start", "stop", "restart", "run"):
        code, _, err = here(capsys, "daemon", verb, "--socket", path)
        assert (code, listens.poll()) == (1, None)
        assert err.startswith(f"atmost: no atmost daemon at {path} (given): ")
    listens.kill()
    listens.communicate()


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/atmostd.service\n", "atmostd.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/atmostd.service\n",
            "--user atmostd.service",
        ),
        ("12:pids:/system.slice/atmostd.service\n0::/other\n", "atmostd.service"),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ""),
        ("0::/system.slice/atmostd.service/a.scope\n", ""),
        ("0::/\n", ""),
    ],
)
def test_what_systemd_looks_after(groups: str, unit: str) -> None:
    assert unit_in(groups.encode()) == unit


def test_what_systemd_looks_after_is_left_to_it(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.cli.daemon_control.unit_of", lambda pid: "--user atmostd.service")
    for verb in ("stop", "restart"):
        code, _, err = client_of(daemon, capsys)("daemon", verb)
        assert code == 1
        assert f"{verb} it with: systemctl --user {verb} atmostd.service\n" in err
    assert client_of(daemon, capsys)("status").code == 0


def test_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = here(capsys, "daemon", "dance")
    assert (code, out) == (2, "")
    assert err.startswith("usage: atmost daemon COMMAND ...\n")
    assert "there is no command 'dance'; see: atmost daemon --help" in err
    assert here(capsys, "daemon") == (2, "", HELP)
    assert here(capsys, "daemon", "--help") == (0, HELP, "")
    for word in SUBCOMMANDS:
        assert f"\n  {word} " in HELP
        code, out, _ = here(capsys, "daemon", word, "--help")
        assert (code, here(capsys, "help", "daemon", word).out) == (0, out)
        assert out.startswith(f"usage: atmost daemon {word}")
        code, _, err = here(capsys, "daemon", word, "--nonsense")
        assert code == 2
        assert err.startswith(f"usage: atmost daemon {word}")
