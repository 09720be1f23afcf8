"""The service under a real systemd: started by its socket, killed, blocked, restarted; nobody is lost."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from tests.support import wait_until
from tests.systemd.box import ATMOST, RUN, SETTINGS, SOCKET, STATE, Box, Python

SLEEPS = ("--", "sleep", "1000")


def test_starts_with_its_first_client(box: Box) -> None:
    assert box.main_pid() == 0
    box.atmost("create", "db", "--limit", "2")
    assert box.shows("ActiveState") == "active"
    assert f"pid\t{box.main_pid()}" in box.atmost("status")


def test_is_ready_when_it_serves(box: Box) -> None:
    """`systemctl start` returns after READY=1; then it has listened."""
    box.sh("systemctl", "start", "atmostd.service")
    assert "listens on" in box.log()
    assert box.shows("StatusText") == "0 limits, 0 held, 0 waiting"


def test_status_says_what_goes_on(box: Box) -> None:
    box.atmost("create", "db", "--limit", "1")
    box.job("test-holder", ATMOST, "run", "db", *SLEEPS)
    box.wait_for("held", 1)
    box.job("test-waiter", ATMOST, "run", "db", *SLEEPS, user="bob")
    box.wait_for("waiting", 1)
    wait_until(lambda: box.shows("StatusText") == "1 limit, 1 held, 1 waiting")
    box.sh("systemctl", "stop", "test-holder", "test-waiter")
    wait_until(lambda: box.shows("StatusText") == "1 limit, 0 held, 0 waiting")


@pytest.mark.parametrize("way", ["restart", "SIGKILL", "stop"])
def test_nobody_loses_anything(box: Box, way: str) -> None:
    """Neither slots nor a place in line, of several users; who comes meanwhile waits in the backlog."""
    box.atmost("create", "db", "--limit", "2")
    for name, user in (("one", "ann"), ("two", "bob")):
        box.job(f"test-{name}", ATMOST, "run", "db", *SLEEPS, user=user)
    holders = sorted(box.wait_for("held", 2))
    waiters = []
    for count, user in enumerate(("cat", "ann", "bob"), 1):
        box.job(f"test-waits-{count}", ATMOST, "run", "db", *SLEEPS, user=user)
        waiters = box.wait_for("waiting", count)
    daemon = box.main_pid()
    if way == "restart":
        box.sh("systemctl", "restart", "atmostd.service")
    elif way == "stop":
        box.sh("systemctl", "stop", "atmostd.service")
    else:
        box.sh("systemctl", "kill", "-s", "KILL", "atmostd.service")
    box.atmost("ls")  # which waits until somebody is there
    assert box.main_pid() not in (0, daemon)
    assert sorted(box.wait_for("held", 2)) == holders
    assert box.wait_for("waiting", 3) == waiters
    box.sh("systemctl", "stop", "test-one")
    box.wait_for("waiting", 2)
    assert waiters[0] in box.tickets("held")
    box.sh("systemctl", "stop", "test-two")
    box.wait_for("waiting", 1)
    assert sorted(box.tickets("held")) == sorted(waiters[:2])
    assert box.tickets("waiting") == waiters[2:]


LEAVES_AND_COMPUTES = """
import os, time
from atmost.sync import acquire
grant = acquire("db")
while not os.path.exists("/run/leave"):
    time.sleep(0.01)
grant.release()
open("/tmp/left", "w").close()
time.sleep(1000)
"""


@pytest.mark.parametrize("user", ["ann", ""], ids=["user", "root"])
def test_a_release_that_the_killed_daemon_never_read(box: Box, user: str) -> None:
    """Of a program that never calls again; what was lent to it outlives the end of the service."""
    box.sh("rm", "-f", "/run/leave", "/tmp/left")
    box.atmost("create", "db", "--limit", "1")
    box.job("test-computes", "/opt/atmost/bin/python", "-c", LEAVES_AND_COMPUTES, user=user)
    box.wait_for("held", 1)
    box.sh("systemctl", "kill", "-s", "STOP", "atmostd.service")
    box.write("/run/leave", "")
    wait_until(lambda: box.ran("test", "-e", "/tmp/left").returncode == 0)
    box.sh("systemctl", "kill", "-s", "KILL", "atmostd.service")
    assert box.tickets("held") == []
    assert box.runs("test-computes")


def test_sees_other_users_die(box: Box) -> None:
    """As a user of no privileges: while it is there, and before it came back."""
    box.atmost("create", "db", "--limit", "2")
    assert box.sh("stat", "-c", "%U", f"/proc/{box.main_pid()}") == "atmost"
    for name, user in (("one", "ann"), ("two", "bob")):
        box.job(f"test-{name}", ATMOST, "run", "db", *SLEEPS, user=user)
    box.wait_for("held", 2)
    box.sh("systemctl", "kill", "-s", "KILL", "test-one")
    box.wait_for("held", 1)
    box.job("test-three", ATMOST, "run", "db", *SLEEPS, user="cat")
    box.wait_for("held", 2)
    box.sh("systemctl", "stop", "atmostd.service")
    box.sh("systemctl", "kill", "-s", "KILL", "test-two")
    wait_until(lambda: not box.runs("test-two"))
    box.wait_for("held", 1)
    box.sh("systemctl", "kill", "-s", "KILL", "test-three")
    box.wait_for("held", 0)


def test_a_blocked_daemon_is_shot(box: Box) -> None:
    box.drop_in("[Service]\nWatchdogSec=1s\n")
    box.atmost("create", "db", "--limit", "1")
    box.job("test-holder", ATMOST, "run", "db", *SLEEPS)
    holder = box.wait_for("held", 1)
    daemon = box.main_pid()
    blocked_at = time.monotonic()
    box.sh("systemctl", "kill", "-s", "STOP", "atmostd.service")
    assert box.wait_for("held", 1) == holder  # asked of the next one
    print(f"blocked to answered: {time.monotonic() - blocked_at:.2f} s with WatchdogSec=1s")
    assert box.main_pid() != daemon
    log = box.log()
    assert "Watchdog timeout" in log
    assert "most recent call first" in log  # where it was
    assert int(box.shows("NRestarts")) > 0


def lives(box: Box) -> int:
    """Wait for two proofs of life. Returns the pid of who has given them."""
    for _ in range(2):
        last = box.shows("WatchdogTimestampMonotonic")
        wait_until(partial(_has_moved, box, last), "WATCHDOG=1")
    return box.main_pid()


def _has_moved(box: Box, last: str) -> bool:
    return box.shows("WatchdogTimestampMonotonic") != last


def test_a_living_daemon_is_not_shot(box: Box) -> None:
    """Neither at rest nor while it refuses everything."""
    box.drop_in("[Service]\nWatchdogSec=3s\n")
    box.atmost("create", "db", "--limit", "1")
    at_rest = box.main_pid()
    assert lives(box) == at_rest
    box.sh("systemctl", "stop", "atmostd.service")
    box.sh("sh", "-c", f"for f in {STATE}/state* {RUN}/journal; do echo damaged >$f; done")
    box.sh("systemctl", "start", "atmostd.service")
    damaged = box.main_pid()
    assert "nothing is granted" in box.shows("StatusText")
    assert lives(box) == damaged
    assert box.ran(ATMOST, "ls").returncode == 1
    box.atmost("recover", "--accept-loss")
    wait_until(lambda: box.shows("StatusText").startswith("0 limits, 0 held, 0 waiting"))
    assert lives(box) == damaged


def test_a_socket_that_was_taken_away_is_told(box: Box) -> None:
    """No start of the service would mend that; who is connected goes on."""
    box.drop_in("[Service]\nWatchdogSec=3s\n")
    box.sh("systemctl", "start", "atmostd.service")
    daemon = box.main_pid()
    box.sh("rm", SOCKET)
    wait_until(lambda: "nobody can connect" in box.shows("StatusText"))
    assert "systemctl restart atmostd.socket" in box.log()
    assert lives(box) == daemon
    box.sh("systemctl", "restart", "atmostd.socket")
    box.atmost("ls")


def test_a_crash_loop_heals(box: Box) -> None:
    """However often it failed, the socket is there, and who waits on it is served at last."""
    box.atmost("create", "db", "--limit", "1")
    box.sh("chown", "nobody", f"{STATE}/lock")
    box.sh("systemctl", "kill", "-s", "KILL", "atmostd.service")
    wait_until(lambda: int(box.shows("NRestarts")) > 6)  # the default limit is 5 in 10 s
    assert box.shows("ActiveState", "atmostd.socket") == "active"
    assert "belongs to uid" in box.log()
    wait_until(lambda: "cannot start: " in box.shows("StatusText"))
    box.job("test-waits", ATMOST, "run", "db", *SLEEPS)
    box.sh("chown", "atmost", f"{STATE}/lock")
    box.wait_for("held", 1)


def test_wrong_arguments_are_not_tried_again(box: Box) -> None:
    """Nor is the service started without end for clients that have come: they are sent away."""
    box.drop_in("[Service]\nExecStart=\nExecStart=/opt/atmost/bin/atmostd --no-such-option\n")
    assert box.ran("systemctl", "start", "atmostd.service").returncode != 0
    assert box.shows("NRestarts") == "0"
    asked = box.ran(ATMOST, "ls")
    assert asked.returncode == 1
    box.sh("sleep", "0.5")
    starts = box.log().count("Starting atmostd")
    box.sh("sleep", "1")
    assert box.log().count("Starting atmostd") == starts
    assert box.shows("ExecMainStatus") == "2"
    assert box.shows("ActiveState", "atmostd.socket") == "active"
    assert "--no-such-option" in box.log()


def test_a_reload_changes_what_the_file_says_or_nothing(box: Box) -> None:
    box.sh("systemctl", "start", "atmostd.service")
    daemon = box.main_pid()
    settings = box.sh("cat", SETTINGS)
    declared = '[[limit]]\nname = "declared"\nlimit = 7\n'
    box.write(SETTINGS, f"{settings}\n{declared}")
    box.sh("systemctl", "reload", "atmostd.service")
    assert '"limit": 7' in box.atmost("inspect", "declared", "--json")
    box.write(SETTINGS, f"{settings}\n{declared}limmit = 8\n")
    refused = box.ran("systemctl", "reload", "atmostd.service")
    assert refused.returncode == 1
    assert "limmit" in box.log()
    assert '"limit": 7' in box.atmost("inspect", "declared", "--json")
    assert box.main_pid() == daemon
    box.atmost("create", "db", "--limit", "1", user="bob")  # of the file's admin group, still


def test_a_wrong_file_is_not_tried_again(box: Box) -> None:
    box.write(SETTINGS, "[admin]\ngroup = 'nobody-has-that'\n[sokket]\n")
    assert box.ran("systemctl", "start", "atmostd.service").returncode == 1
    assert (box.shows("ExecMainStatus"), box.shows("NRestarts")) == ("78", "0")
    told = box.ran("systemctl", "status", "atmostd.service").stdout
    assert "nobody-has-that" in told
    assert "sokket" in told
    assert box.ran(ATMOST, "ls").returncode == 1
    box.write(SETTINGS, "")
    box.atmost("ls")  # mended: the next client has it started


def test_the_journal_has_fields_and_priorities(box: Box) -> None:
    """As a program reads them: who changed which limit, and how grave it is."""
    box.atmost("create", "db", "--limit", "1", user="bob")
    box.atmost("run", "nobody-created-me", "--", "true", user="ann")
    box.write(SETTINGS, "[sokket]\n")
    box.ran("systemctl", "reload", "atmostd.service")
    lines = box.sh("journalctl", "-o", "json", "SYSLOG_IDENTIFIER=atmostd").splitlines()
    told = [json.loads(line) for line in lines]

    def of(words: str) -> dict[str, str]:
        found: dict[str, str] = next(one for one in reversed(told) if words in one["MESSAGE"])
        assert found["_SYSTEMD_UNIT"] == "atmostd.service"
        return found

    created = of("limit 'db': limit 1")
    assert (created["PRIORITY"], created["ATMOST_LIMIT"]) == ("6", "db")
    assert "bob (uid 2002" in created["MESSAGE"]
    implicit = of("nobody-created-me")
    assert (implicit["PRIORITY"], implicit["ATMOST_LIMIT"]) == ("4", "nobody-created-me")
    assert of("sokket")["PRIORITY"] == "3"
    by_field = box.sh("journalctl", "-o", "cat", "ATMOST_LIMIT=db")
    assert "limit 'db': limit 1" in by_field


def test_a_service_that_cannot_start_is_no_daemon(box: Box) -> None:
    """Neither for who asks, who is told where to look, nor for an administrator."""
    box.sh("systemctl", "start", "atmostd.service")  # who has listened there last, to the kernel
    settings = box.sh("cat", SETTINGS)
    box.write(SETTINGS, f"{settings}\n[sokket]\n")
    box.sh("systemctl", "kill", "-s", "KILL", "atmostd.service")
    wait_until(lambda: box.shows("ExecMainStatus") == "78")
    for words in (["ls"], ["daemon", "start"], ["daemon", "stop"], ["daemon", "restart"]):
        told = box.ran(ATMOST, *words)
        assert told.returncode == 1
        assert told.stderr.endswith("; it is a service: systemctl status atmostd.service\n")
    assert box.ran(ATMOST, "status").returncode == 4
    found = json.loads(box.ran(ATMOST, "doctor", "--json", user="ann").stdout)
    assert "systemctl status atmostd.service" in [one["mend"].split(": ")[-1] for one in found]
    box.write(SETTINGS, settings)
    box.atmost("ls")


def test_anybody_uses_limits_and_few_change_them(box: Box) -> None:
    refused = box.ran(ATMOST, "create", "db", "--limit", "1", user="ann")
    assert refused.returncode == 1
    assert "may use limits but not change them" in refused.stderr
    box.atmost("create", "db", "--limit", "1", user="bob")  # of the admin group
    assert box.atmost("run", "db", "--", "echo", "mine", user="ann") == "mine"


def test_a_socket_for_one_group(box: Box) -> None:
    """And it stays so when the service starts, which owns other folders."""
    box.drop_in("[Socket]\nSocketGroup=staff-x\nSocketMode=0660\n", "atmostd.socket")
    box.sh("systemctl", "restart", "atmostd.socket")
    box.atmost("create", "db", "--limit", "1")
    assert box.atmost("run", "db", "--", "echo", "mine", user="cat") == "mine"
    assert box.sh("stat", "-c", "%U:%G %a", SOCKET) == "atmost:staff-x 660"
    refused = box.ran(ATMOST, "ls", user="ann")
    assert refused.returncode == 1
    assert SOCKET in refused.stderr
    assert "may not connect" in refused.stderr


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(11, 16)])
def test_each_python_leaves_the_socket(
    box: Box, pythons: dict[str, Python | str], version: str
) -> None:
    """Since 3.13 asyncio's servers unlink their path as they close."""
    python = pythons.get(version, "it is not on this machine")
    if isinstance(python, str):
        pytest.skip(f"Python {version}: {python}")
    name = f"{python.prefix}/bin/python{version}"
    command = f"{name} -m atmostd --state-dir {STATE} --runtime-dir /run/atmost/daemon"
    environment = f"PYTHONPATH={python.packages} LD_LIBRARY_PATH={python.prefix}/lib"
    box.drop_in(f"[Service]\nEnvironment={environment}\nExecStart=\nExecStart={command}\n")
    inode = box.sh("stat", "-c", "%i", SOCKET)
    for _ in range(2):
        box.sh("systemctl", "start", "atmostd.service")
        box.atmost("create", "db", "--limit", "1")
        assert box.sh("readlink", f"/proc/{box.main_pid()}/exe").startswith(python.prefix)
        box.atmost("delete", "db", "--yes")
        box.sh("systemctl", "stop", "atmostd.service")
        assert box.shows("Result") == "success"
        assert box.sh("stat", "-c", "%i", SOCKET) == inode


def test_a_reboot_carries_levels_over_and_holders_not(box: Box) -> None:
    box.atmost("create", "api", "--limit", "10", "--rate", "1/h")
    box.atmost("create", "db", "--limit", "2")
    box.atmost("run", "--rate", "api", "-n", "api=4", "--", "true")
    box.job("test-holder", ATMOST, "run", "db", *SLEEPS)
    box.wait_for("held", 1)
    box.halt()
    box.up()
    assert box.shows("ActiveState", "atmostd.socket") == "active"  # it was enabled
    limits = {limit["name"]: limit["spent"] for limit in json.loads(box.atmost("ls", "--json"))}
    assert 3.9 < limits["api"] <= 4
    assert box.tickets("held") == []


def test_restart_time(box: Box) -> None:
    """SIGKILL of the daemon to the next grant: for the closing note, and far from any time-out."""
    box.atmost("create", "db", "--limit", "1")
    took = []
    for _ in range(3):
        killed_at = time.monotonic()
        box.sh("systemctl", "kill", "-s", "KILL", "atmostd.service")
        box.atmost("run", "db", "--", "true")
        took.append(time.monotonic() - killed_at)
    print(f"SIGKILL to granted: {', '.join(f'{each:.2f}' for each in took)} s")
