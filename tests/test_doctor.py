"""atmost doctor: each finding provoked for real."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atmost.cli import finding_host
from atmost.cli.doctor import CHECKS
from atmost.cli.finding import Finding
from tests.support import RunningDaemon, wait_until
from tests.support_cli import Ran, client_of, here
from tests.support_user import AS_USER, CLI, User

Found = dict[str, dict[str, Any]]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.close()


def found(done: Ran, code: int | None = None) -> Found:
    """The findings by name. The exit code is that of the worst."""
    told: list[dict[str, Any]] = json.loads(done.out)
    serious = any(finding["serious"] for finding in told)
    assert done.code == (int(serious) if code is None else code), done
    assert all(finding["mend"] and set(finding) == set(Finding._fields) for finding in told)
    return {finding["finding"]: finding for finding in told}


def of_user(user: User, **given: Any) -> Found:
    return found(user.atmost("doctor", "--json", **given))


def of_daemon(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> Found:
    return found(client_of(daemon, capsys)("doctor", "--json"))


def test_nothing_is_wrong(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert client_of(daemon, capsys)("doctor") == (0, "", "atmost: nothing is wrong\n")
    assert of_daemon(daemon, capsys) == {}


def test_nothing_is_wrong_before_the_first_command(user: User) -> None:
    """That will start a daemon; this one does not."""
    assert of_user(user) == {}
    assert user.pid() is None
    assert not user.log.exists()


def test_none_runs_and_none_is_started(user: User) -> None:
    none = of_user(user, environment={"ATMOST_AUTOSTART": "0"})["not_running"]
    assert "ATMOST_AUTOSTART" in none["text"]
    assert none["mend"] == "atmost daemon start"
    unit = user.system / "units" / "atmostd.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert of_user(user)["not_running"]["mend"] == "start it with: systemctl start atmostd.service"


def test_none_runs_at_a_path_that_was_named(user: User, tmp_path: Path) -> None:
    path = f"{tmp_path}/no body"
    none = of_user(user, environment={"ATMOST_SOCKET": path})
    assert none["not_running"]["mend"] == f"atmost daemon start --socket '{path}'"


def test_two_daemons(user: User, tmp_path: Path) -> None:
    user.system.mkdir()
    running = RunningDaemon(tmp_path)
    running.socket = user.system / "atmost.sock"
    assert user.atmost("daemon", "start").code == 0
    own = user.pid()
    running.start()
    two = of_user(user)["two_daemons"]
    assert f"(pid {running.pid}, {running.socket})" in two["text"]
    assert two["mend"] == f"atmost daemon stop --socket {user.socket}"
    assert user.atmost(*two["mend"].split()[1:]).code == 0
    assert of_user(user) == {}
    assert own is not None
    running.stop(signal.SIGKILL)


@pytest.mark.parametrize("of", ["system", "user"])
def test_a_stale_socket(user: User, of: str) -> None:
    path = user.socket if of == "user" else user.system / "atmost.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(path))
    stale = of_user(user)["stale_socket"]
    assert str(path) in stale["text"]
    assert stale["serious"] == (of == "system")
    if of == "user":
        assert user.atmost(*stale["mend"].split()[1:]).code == 0
    else:
        assert f"rm {path}" in stale["mend"]
        path.unlink()
    assert of_user(user) == {}


def test_a_daemon_that_gives_no_answer(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmost.sync_connection.HELLO_SECONDS", 0.1)
    os.kill(daemon.pid, signal.SIGSTOP)
    silent = of_daemon(daemon, capsys)["no_answer"]
    assert str(daemon.socket) in silent["text"]
    assert silent["mend"] == f"atmost daemon restart --socket {daemon.socket}"


def test_a_socket_that_is_closed_to_us(user: User) -> None:
    """To somebody who is not root."""
    user.runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(user.socket))
        listening.listen()
        user.socket.chmod(0)
        if os.geteuid() == 0:
            os.chown(user.socket, 61234, 61234)
        closed = of_user(user)["no_answer"]
    assert "this user may not connect" in closed["text"]
    assert closed["mend"].endswith(f"ls -l {user.socket}")


def test_something_else_listens(user: User) -> None:
    user.runtime.mkdir()
    code = f"""
import contextlib, socket, threading
from pathlib import Path
server = socket.socket(socket.AF_UNIX)
server.bind({str(user.socket)!r})
server.listen()
def answer():
    while True:
        with contextlib.suppress(OSError), server.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 400 Bad Request\\r\\n\\r\\n")
threading.Thread(target=answer, daemon=True).start()
"""
    done = user.python(code + CLI, "doctor", "--json")
    assert "a frame of" in found(done)["no_answer"]["text"]


def test_trouble_of_the_daemon(daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    """Its state is damaged, and so is the journal that could stand in for it."""
    with daemon.client() as client:
        client.create_limit("db", 1)
    daemon.stop()
    for path in (*daemon.state_dir.glob("state*"), daemon.folder / "run" / "journal"):
        path.write_bytes(b"damaged")
    daemon.start()
    trouble = of_daemon(daemon, capsys)["trouble"]
    assert trouble["mend"] == "atmost recover"
    assert str(daemon.state_dir) in trouble["text"]


def test_a_daemon_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Other(RunningDaemon):
        @property
        def arguments(self) -> list[str]:
            code = "import atmost, sys; atmost.__version__ = '9.9'; " + (
                "from atmostd.__main__ import main; sys.exit(main(sys.argv[1:]))"
            )
            return [sys.executable, "-c", code, *super().arguments[3:]]

    other = Other(tmp_path).start()
    differs = of_daemon(other, capsys)["other_version"]
    other.stop(signal.SIGKILL)
    assert "is version 9.9" in differs["text"]
    assert differs["mend"] == "atmost daemon restart"
    assert not differs["serious"]


def test_limits_that_nobody_created(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon.client() as client:
        client.rate_limit("never made")
        client.create_limit("off on purpose", 1, active=False)
    unguarded = of_daemon(daemon, capsys)["unguarded"]
    assert "'never made'" in unguarded["text"]
    assert "on purpose" not in unguarded["text"]
    assert client_of(daemon, capsys)("update", "never made", "--limit", "2", "--enable").code == 0
    assert of_daemon(daemon, capsys) == {}


def test_a_limit_of_the_file_that_somebody_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "atmostd.toml"
    file.write_text('[[limit]]\nname = "my db"\nlimit = 5\n')
    daemon = RunningDaemon(tmp_path, "--config", str(file)).start()
    try:
        assert of_daemon(daemon, capsys) == {}
        with daemon.client() as client:
            client.update_limit("my db", limit=7)
        drift = of_daemon(daemon, capsys)["drift"]
        assert drift["serious"] is False
        assert "'my db'" in drift["text"]
        assert drift["mend"].startswith("atmost inspect 'my db'")
        with daemon.client() as client:
            client.update_limit("my db", limit=5)
        assert of_daemon(daemon, capsys) == {}
    finally:
        daemon.stop(signal.SIGKILL)


def test_what_somebody_has_deleted_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that is told brings back the very limit; the file brings back all."""
    file = tmp_path / "atmostd.toml"
    file.write_text(
        '[[limit]]\nname = "-my db"\nlimit = 5\nrate = "100/min"\nactive = false\n'
        '[[limit]]\nname = "other"\nlimit = 1\n[[template]]\nmatch = "user-*"\nlimit = 2\n'
    )
    daemon = RunningDaemon(tmp_path, "--config", str(file)).start()
    atmost = client_of(daemon, capsys)
    try:
        nothing = tmp_path / "nothing.toml"
        nothing.write_text("")
        assert atmost("apply", "-f", str(nothing), "--prune").code == 0
        daemon.stop()
        daemon.start()  # the file has nothing new to say
        deleted = of_daemon(daemon, capsys)["deleted"]
        assert deleted["serious"] is False
        assert "limit '-my db', limit 'other', template 'user-*'" in deleted["text"]
        command, _, rest = deleted["mend"].partition("; or put the file in force with: ")
        assert rest.startswith("atmost apply -f FILE; ")
        assert atmost(*shlex.split(command)[1:]).code == 0
        deleted = of_daemon(daemon, capsys)["deleted"]
        assert deleted["text"].endswith(": limit 'other', template 'user-*'")
        assert atmost("apply", "-f", str(file)).code == 0
        assert of_daemon(daemon, capsys) == {}
    finally:
        daemon.stop(signal.SIGKILL)


def test_more_of_the_file_was_deleted_than_one_answer_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "atmostd.toml"
    file.write_text("".join(f'[[limit]]\nname = "{i:0200}"\nlimit = 5\n' for i in range(700)))
    daemon = RunningDaemon(tmp_path, "--config", str(file)).start()
    try:
        nothing = tmp_path / "nothing.toml"
        nothing.write_text("")
        assert client_of(daemon, capsys)("apply", "-f", str(nothing), "--prune").code == 0
        assert of_daemon(daemon, capsys)["deleted"]["text"].endswith(" and 695 more")
    finally:
        daemon.stop(signal.SIGKILL)


def test_a_folder_that_others_may_write_to(user: User) -> None:
    user.runtime.mkdir()
    user.runtime.chmod(0o777)
    open_to_all = of_user(user)["socket_folder"]
    assert open_to_all["mend"] == f"chmod go-w {user.runtime}"
    subprocess.run(open_to_all["mend"].split(), check=True)
    assert of_user(user) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_folder_of_somebody_else(user: User) -> None:
    user.runtime.mkdir()
    os.chown(user.runtime, 61234, 61234)
    theirs = of_user(user)["socket_folder"]
    assert f"{user.runtime} belongs to uid" in theirs["text"]


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ("size=200k", "disk_full", "nearly full"),
        ("nr_inodes=4", "disk_full", "files are left"),
        ("ro", "disk_read_only", "read-only"),
    ],
)
def test_disks(user: User, tmp_path: Path, options: str, name: str, words: str) -> None:
    """A file system of its own, that only the command sees."""
    user.state.mkdir(parents=True)
    mount = f"mount -t tmpfs -o {options},mode=777 none {user.state} && exec "
    tried = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*tried, mount + "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    user._become = [*tried, mount + '"$@"', "sh", *AS_USER]
    wrong = of_user(user)[name]
    assert str(user.state) in wrong["text"]
    assert words in wrong["text"]
    assert wrong["serious"]


def test_few_descriptors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    running = RunningDaemon(tmp_path).start()
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (512, 512))
    few = of_daemon(running, capsys)["few_descriptors"]
    running.stop(signal.SIGKILL)
    assert "may have 512 file descriptors" in few["text"]
    assert not few["serious"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_a_kernel_that_does_not_say_who_dies(
    daemon: RunningDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other kernel can be had here."""

    def refuse(*_: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", refuse)
        assert "pidfd_open(2) is refused" in of_daemon(daemon, capsys)["kernel"]["text"]
    with monkeypatch.context() as patched:
        patched.setattr(finding_host, "KERNEL_MIN", (99, 0))
        assert "it takes Linux 99.0" in of_daemon(daemon, capsys)["kernel"]["mend"]
    with monkeypatch.context() as patched:
        patched.setattr(finding_host, "SO_PEERPIDFD", 9999)
        older = of_daemon(daemon, capsys)["kernel"]
    assert ("SO_PEERPIDFD" in older["text"], older["serious"]) == (True, False)


def test_forms(user: User) -> None:
    """In a pipe: a line of four fields."""
    done = user.atmost("doctor", environment={"ATMOST_AUTOSTART": "0"})
    assert done.code == 1
    name, serious, _, mend = done.out.removesuffix("\n").split("\t")
    assert (name, serious, mend) == ("not_running", "true", "atmost daemon start")
    wait_until(lambda: user.pid() is None)


def test_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--nonsense"], ["db"]):
        code, out, err = here(capsys, "doctor", *given)
        assert (code, out) == (2, "")
        assert err.startswith("usage: atmost doctor [--json]\n")
    assert len(CHECKS) == len(set(CHECKS))
