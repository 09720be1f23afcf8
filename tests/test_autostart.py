"""The first command or call of a user starts a daemon; never where one must not be."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmost.starting import IDLE_SECONDS, LOG_BYTES_MAX, OF_ANOTHER_SERVICE
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_user import CLI, User, ended

SYNC = "from atmost.sync import create_limit; create_limit(sys.argv[1], 1)"
ASYNC = """
import asyncio
from atmost.asyncio import create_limit
ticks = 0
async def tick():
    global ticks
    while True:
        await asyncio.sleep(0.005)
        ticks += 1
async def main():
    ticking = asyncio.create_task(tick())
    await asyncio.gather(*(create_limit(f"{sys.argv[1]}{n}", 1) for n in range(3)))
    assert ticks >= TICKS, ticks
asyncio.run(main())
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path)
    yield made
    made.close()


# ---- It starts


def test_the_first_command_starts_one_and_the_next_ones_use_it(user: User) -> None:
    assert user.atmost("create", "db", "--limit", "2") == (0, "", "")
    pid = user.pid()
    assert pid is not None
    assert user.atmost("ls")[:1] + user.atmost("run", "db", "--", "true")[:1] == (0, 0)
    assert (user.pid(), user.starts()) == (pid, 1)
    assert f"--idle-seconds\0{IDLE_SECONDS:g}\0" in Path(f"/proc/{pid}/cmdline").read_text()
    assert stat.S_IMODE(user.runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(user.log.stat().st_mode) == 0o600


@pytest.mark.parametrize("code", [SYNC, ASYNC.replace("TICKS", "3")], ids=["sync", "asyncio"])
def test_the_first_call_of_a_client_starts_one(user: User, code: str) -> None:
    """And a loop goes on meanwhile, some 200 ms."""
    assert user.python(code, "db") == (0, "", "")
    assert user.starts() == 1
    assert "db" in user.atmost("ls").out


def test_a_stale_socket_is_no_daemon(user: User) -> None:
    user.runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(user.socket))
    assert user.atmost("ls").code == 0
    assert user.starts() == 1


def test_ten_at_once_start_exactly_one(user: User) -> None:
    """Of both kinds."""
    begun = [user.start(CLI, "create", f"c{n}", "--limit", "1") for n in range(6)]
    begun += [user.start(ASYNC.replace("TICKS", "0"), f"a{n}-") for n in range(2)]
    begun += [user.start(SYNC, f"s{n}") for n in range(2)]
    assert [ended(process)[::2] for process in begun] == [(0, "")] * 10
    assert user.starts() == 1
    assert len(user.atmost("ls").out.splitlines()) == 6 + 6 + 2


def test_it_is_nobodys_child_and_takes_nothing_along(user: User, tmp_path: Path) -> None:
    """No descriptor, folder, terminal or session of who started it, and no word to its systemd."""
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        for name in OF_ANOTHER_SERVICE:
            user.environment[name] = str(tmp_path / "nobody")
        done = user.atmost("ls", cwd=tmp_path, pass_fds=[secret.fileno()])
    assert done == (0, "", "")
    proc = Path(f"/proc/{user.pid()}")
    targets = [os.readlink(path) for path in (proc / "fd").iterdir() if path.exists()]
    assert str(tmp_path / "secret") not in targets
    assert [os.readlink(proc / "fd" / n) for n in "012"] == [
        os.devnull,
        str(user.log),
        str(user.log),
    ]
    assert os.readlink(proc / "cwd") == "/"
    _, parent, group, session, tty = (proc / "stat").read_text().rpartition(")")[2].split()[:5]
    assert session != str(os.getsid(0))
    assert group != str(os.getpgrp())
    assert tty == "0"
    assert parent != str(os.getpid())
    environment = (proc / "environ").read_text()
    assert not any(f"{name}=" in environment for name in OF_ANOTHER_SERVICE)


def test_it_outlives_the_terminal_of_who_started_it(user: User) -> None:
    """Ctrl-C and a hang-up there are not for it."""
    ours, theirs = pty.openpty()
    holds = f"import time; {SYNC}; print('made', flush=True); time.sleep(99)"
    process = user.start(
        holds, "db", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"made")
    pid = user.pid()
    os.killpg(process.pid, signal.SIGINT)
    os.close(ours)
    process.wait(PATIENCE_SECONDS)
    assert user.atmost("ls").out.startswith("db\t")
    assert user.pid() == pid


def test_a_signal_that_the_starter_has_blocked_still_ends_it(user: User) -> None:
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); {SYNC}"
    assert user.python(code, "db").code == 0
    pid = user.pid()
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: user.pid() is None, "SIGTERM ends it")


def test_a_long_log_is_put_aside(user: User) -> None:
    user.state.mkdir(parents=True)
    user.log.write_text("x" * (LOG_BYTES_MAX + 1))
    assert user.atmost("ls").code == 0
    assert user.log.stat().st_size < LOG_BYTES_MAX
    assert user.log.with_name("atmostd.log.1").stat().st_size == LOG_BYTES_MAX + 1


# ---- It does not start


@pytest.mark.parametrize(
    "words",
    [["status"], ["sockname"], ["recover"], ["daemon", "status"], ["daemon", "stop"]],
    ids=" ".join,
)
def test_commands_that_need_no_daemon_start_none(user: User, words: list[str]) -> None:
    assert "Traceback" not in user.atmost(*words).err
    assert user.pid() is None
    assert not user.log.exists()


def test_never_where_a_path_was_named(user: User, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    given = user.atmost("--socket", path, "ls")
    named = user.atmost("ls", environment={"ATMOST_SOCKET": path})
    assert (given.code, named.code, user.pid()) == (1, 1, None)
    for done in (given, named):
        assert f"start one with: atmostd --socket {path}\n" in done.err


def test_not_if_it_is_turned_off(user: User) -> None:
    done = user.atmost("ls", environment={"ATMOST_AUTOSTART": "0"})
    assert (done.code, user.pid()) == (1, None)
    assert "as ATMOST_AUTOSTART says; start one with: atmost daemon start\n" in done.err
    assert str(user.socket) in done.err


def test_never_beside_a_daemon_of_the_system(user: User, tmp_path: Path) -> None:
    user.system.mkdir()
    running = RunningDaemon(tmp_path)
    running.socket = user.system / "atmost.sock"
    running.start()
    assert user.atmost("create", "db", "--limit", "1").code == 0
    running.stop(signal.SIGKILL)  # and its socket is there still
    assert running.socket.exists()
    done = user.atmost("ls")
    assert (done.code, user.pid()) == (1, None)
    assert "a daemon of the system was there, so none of your own is started; have root" in done.err
    assert str(running.socket) in done.err


@pytest.mark.parametrize("of", ["system", "user"])
@pytest.mark.parametrize("code", [SYNC, ASYNC.replace("TICKS", "0")], ids=["sync", "asyncio"])
def test_never_beside_one_that_lets_us_not_in(user: User, of: str, code: str) -> None:
    path = user.socket if of == "user" else user.system / "atmost.sock"
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        path.chmod(0)
        if os.geteuid() == 0:
            os.chown(path, 61234, 61234)
        done = user.python(code, "db")
    assert (done.code, user.log.exists()) == (1, False)
    assert "this user may not connect to it; ask root to let you in" in done.err


@pytest.mark.parametrize(
    ("of", "unit", "command"),
    [
        ("system", "system/units/atmostd.service", "systemctl status atmostd.service"),
        ("user", "config/systemd/user/atmostd.socket", "systemctl --user status atmostd.socket"),
    ],
)
@pytest.mark.parametrize("code", [SYNC, ASYNC.replace("TICKS", "0")], ids=["sync", "asyncio"])
def test_a_service_that_cannot_start_is_named(
    user: User, tmp_path: Path, of: str, unit: str, command: str, code: str
) -> None:
    """systemd listens, and sends away who came in vain."""
    (tmp_path / unit).parent.mkdir(parents=True)
    (tmp_path / unit).touch()
    path = user.socket if of == "user" else user.system / "atmost.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        path.chmod(0o666)
        listening.listen()
        starting = user.start(code, "db")
        while starting.poll() is None:
            if select.select([listening], [], [], 0.05)[0]:
                listening.accept()[0].close()
        done = ended(starting)
    assert (done.code, user.log.exists()) == (1, False)
    assert done.err.endswith(f"; it is a service: {command}\n")


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        ("system/units/atmostd.service", "systemctl start atmostd.service"),
        ("system/units/atmostd.socket", "systemctl start atmostd.socket"),
        ("config/systemd/user/atmostd.service", "systemctl --user start atmostd.service"),
    ],
)
def test_never_what_systemd_looks_after(
    user: User, tmp_path: Path, unit: str, command: str
) -> None:
    (tmp_path / unit).parent.mkdir(parents=True)
    (tmp_path / unit).touch()
    for words in (["ls"], ["daemon", "start"]):
        done = user.atmost(*words)
        assert (done.code, user.pid()) == (1, None)
        assert f"({tmp_path / unit}) and does not run; start it with: {command}\n" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_starts_so_is_roots_own(tmp_path: Path) -> None:
    """And not the system's: nobody else may connect."""
    user = User(tmp_path)
    user._become = []
    try:
        assert user.atmost("create", "db", "--limit", "2").code == 0
        assert stat.S_IMODE(user.socket.stat().st_mode) == 0o600
        assert (user.state / "state").exists()
        assert user.log_text()
        assert not user.system.exists()
    finally:
        user.close()


# ---- It cannot start


def test_a_folder_that_cannot_be_written(user: User) -> None:
    user.state.parent.write_text("no folder")
    done = user.atmost("ls")
    assert done.code == 1
    assert "none could be started: " in done.err
    assert f"(its log: {user.log})" in done.err


def test_a_state_that_is_in_use(user: User, tmp_path: Path) -> None:
    """The daemon itself says why it does not start, and the error has that."""
    other = RunningDaemon(tmp_path)
    other.state_dir = user.state
    other.start()
    try:
        done = user.atmost("ls")
    finally:
        other.stop(signal.SIGKILL)
    assert done.code == 1
    assert f"in use by another atmostd (pid {other.pid})" in done.err
    assert f"(its log: {user.log})" in done.err
    assert "Traceback" not in user.log_text()


def test_a_runtime_folder_of_somebody_else(user: User) -> None:
    """Who could put another socket in place of ours."""
    if os.geteuid():
        pytest.skip("needs root")
    user.runtime.mkdir(mode=0o777)
    os.chown(user.runtime, 61234, 61234)
    done = user.atmost("ls")
    assert done.code == 1
    assert f"the folder {user.runtime} belongs to uid" in done.err
    os.chown(user.runtime, 0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user whom nobody knows")
def test_a_user_without_a_home(user: User, tmp_path: Path) -> None:
    """Nothing is made in the folder where it happens to be."""
    for name in ("HOME", "XDG_STATE_HOME"):
        del user.environment[name]
    user._become = ["unshare", "--user", "--map-user=61234", "--map-group=61234"]
    (here := tmp_path / "here").mkdir()
    done = user.atmost("ls", cwd=here)
    assert done.code == 1
    assert "this user has no home" in done.err
    assert not list(here.iterdir())


def test_without_the_parts_of_a_daemon(user: User) -> None:
    code = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "uvloop" else found(name)
"""
    done = user.python(code + CLI, "ls")
    assert done.code == 1
    assert "uvloop is not installed" in done.err
    assert done.err.endswith("install it with: pip install 'atmost[daemon]'\n")
    assert str(user.log) in done.err


@pytest.mark.parametrize(
    ("fails", "says"),
    [("sys.exit('out of luck')", "out of luck"), ("os._exit(3)", "it has ended without a word")],
)
def test_a_daemon_that_ends_at_once(user: User, fails: str, says: str) -> None:
    done = user.python(_instead(f"import os, sys; {fails}") + CLI, "ls")
    assert done.code == 1
    assert f"none could be started: {says} (its log: {user.log})" in done.err


def test_a_daemon_that_says_nothing_is_not_waited_for(user: User) -> None:
    code = _instead("import time; time.sleep(99)") + "starting.START_SECONDS = 0.3\n" + CLI
    done = user.python(code, "ls")
    assert done.code == 1
    assert "it did not say within 0.3 s that it listens" in done.err


def test_who_waits_for_another_that_starts_waits_not_for_ever(user: User) -> None:
    user.runtime.mkdir(mode=0o700)
    code = """
import fcntl
from atmost import starting
starting.START_SECONDS = 0.3
held = open(sys.argv.pop(), "w")
fcntl.flock(held, fcntl.LOCK_EX)
"""
    done = user.python(code + CLI, "ls", str(user.runtime / "start.lock"))
    assert done.code == 1
    assert "another process was to start it, and it is not there; not within 0.3 s" in done.err


def _instead(code: str) -> str:
    """The daemon is this program."""
    return f"""
from atmost import starting
starting.daemon_command = lambda: [sys.executable, "-c", {code!r}]
"""


def test_ctrl_c_while_it_starts(user: User) -> None:
    """Nothing is left behind, and the next call starts one."""
    slow = _instead("import time; print('begun', flush=True); time.sleep(99)")
    process = user.start(slow + CLI, "ls", start_new_session=True)
    wait_until(lambda: "begun" in user.log_text(), "it is being started")
    os.killpg(process.pid, signal.SIGINT)
    done = ended(process)
    assert (done.code, done.err) == (-signal.SIGINT, "")
    assert user.atmost("ls").code == 0


def test_a_cancelled_task_leaves_nothing(user: User) -> None:
    code = """
import asyncio, gc
from atmost.asyncio import list_limits
async def main():
    try:
        async with asyncio.timeout(0.05):
            await list_limits()
    except TimeoutError:
        pass
asyncio.run(main())
gc.collect()
"""
    assert user.python(code) == (0, "", "")
    assert user.atmost("ls").code == 0


@pytest.mark.parametrize(
    "options",
    [["--idle-seconds", "x"], ["--idle-seconds=-1"], ["--ready-fd", "99"], ["--ready-fd", "x"]],
    ids=" ".join,
)
def test_options_of_the_daemon_that_are_wrong(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atmostd", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: atmostd")
    assert options[0].partition("=")[0] in done.stderr.splitlines()[-1]


# ---- It leaves


def test_it_leaves_when_nobody_is_there_and_its_limits_stay(user: User) -> None:
    quick = "from atmost import starting; starting.IDLE_SECONDS = 0.2\n" + CLI
    assert user.python(quick, "create", "db", "--limit", "3").code == 0
    wait_until(lambda: user.pid() is None, "it has left")
    assert "nobody was there for 0.2 s: leaving" in user.log_text()
    assert not user.socket.exists()
    assert user.python(quick, "ls").out.startswith("db\t3\t")
    assert user.starts() == 2


def test_it_stays_for_a_connection_and_for_a_holder_without_one(tmp_path: Path) -> None:
    running = RunningDaemon(tmp_path, "--idle-seconds", "0.1").start()
    with running.client() as client:  # before it can have left
        client.create_limit("db", 1)
        holder = subprocess.Popen(
            [sys.executable, "-m", "atmost", "run", "db", "--", "sleep", "99"],
            env=running.environment(),
        )
        wait_until(lambda: client.read_limit("db").held == 1)
    with running.client() as client:
        assert client.read_limit("db").held == 1
    assert running.process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(0.5)
    holder.kill()
    holder.wait(PATIENCE_SECONDS)
    assert running.process.wait(PATIENCE_SECONDS) == 0


HAMMER = """
import random, time
from atmost import starting
starting.IDLE_SECONDS = 0.05
from atmost.sync import Client
for n in range(15):
    with Client() as client:
        client.create_limit(f"{sys.argv[1]}-{n}", 1)
        with client.concurrency(f"{sys.argv[1]}-{n}", timeout_seconds=20):
            pass
    time.sleep(random.uniform(0.045, 0.06))
"""
ASYNC_HAMMER = """
import asyncio, random
from atmost import starting
starting.IDLE_SECONDS = 0.05
from atmost.asyncio import Client
async def main():
    for n in range(15):
        async with Client() as client:
            await client.create_limit(f"{sys.argv[1]}-{n}", 1)
        await asyncio.sleep(random.uniform(0.045, 0.06))
asyncio.run(main())
"""


@pytest.mark.parametrize("code", [HAMMER, ASYNC_HAMMER], ids=["sync", "asyncio"])
def test_who_comes_as_it_leaves_is_served_by_the_next_one(user: User, code: str) -> None:
    """No error reaches any caller, and no limit that was made is lost."""
    assert user.python(code, "db") == (0, "", "")
    assert user.starts() > 1
    names = {line.split("\t")[0] for line in user.atmost("ls").out.splitlines()}
    assert names == {f"db-{n}" for n in range(15)}
