"""The configuration file, what is changed by hand, templates: the newest word counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from atmost import errors, wire
from atmost.sync import Client, Limit
from tests.bounded import NOBODY, effective
from tests.protocol_client import Client as Foreign
from tests.protocol_client import Failed
from tests.support import RunningDaemon, wait_until
from tests.support_cli import ran

TWO = """
[[limit]]
name = "database"
limit = 5
[[limit]]
name = "api"
limit = 10
rate = "100/min"
"""
USERS = '[[template]]\nmatch = "user-*"\nlimit = 2\nrate = "60/min"\n'


class Configured(RunningDaemon):
    """A daemon with a configuration file."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.file = folder / "atmostd.toml"
        super().__init__(folder, "--config", str(self.file), *options)

    def says(self, text: str) -> None:
        """What the file says from now on; it is not read before a reload or a start."""
        self.file.write_text(text)

    def reload(self, text: str) -> None:
        self.says(text)
        with self.client() as client:
            client._ask(wire.Reload)

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.stop(number)
        self.start()

    def limits(self) -> dict[str, Limit]:
        with self.client() as client:
            return {limit.name: limit for limit in client.list_limits()}

    def told(self) -> dict[str, tuple[int, bool, str, str]]:
        return {
            name: (one.limit, one.active, one.origin, one.declared)
            for name, one in self.limits().items()
        }


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Configured]:
    running = Configured(tmp_path)
    running.says(TWO)
    running.start()
    yield running
    assert "Traceback" not in running.log_text()
    running.stop(signal.SIGKILL)


BOTH = {"api": (10, True, "file", ""), "database": (5, True, "file", "")}


def test_a_start_makes_what_the_file_declares(daemon: Configured) -> None:
    assert daemon.told() == BOTH
    assert daemon.limits()["api"].slot_decay_per_second == 100 / 60


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_change_by_hand_stays_until_the_file_says_something_new(
    daemon: Configured, number: int
) -> None:
    with daemon.client() as client:
        client.update_limit("database", limit=7)
        client.update_limit("api", active=False)
    drift = {
        "api": (10, False, "file", "limit 10, 100/min, active"),
        "database": (7, True, "file", "limit 5, active"),
    }
    assert daemon.told() == drift
    daemon.restart(number)
    assert daemon.told() == drift
    daemon.reload(TWO)
    assert daemon.told() == drift
    daemon.reload(TWO.replace("limit = 5", "limit = 6"))
    assert daemon.told() == {**drift, "database": (6, True, "file", "")}


def test_an_entry_that_goes_takes_its_limit_along_unless_it_was_changed(daemon: Configured) -> None:
    with daemon.client() as client:
        client.update_limit("api", limit=11)
        client.create_limit("mine", 1)
    daemon.reload("")
    assert daemon.told() == {"api": (11, True, "hand", ""), "mine": (1, True, "hand", "")}


def test_deleted_by_hand_it_stays_deleted_until_the_file_says_something_new(
    daemon: Configured,
) -> None:
    with daemon.client() as client:
        client.delete_limit("database")
    daemon.restart()
    assert list(daemon.told()) == ["api"]
    daemon.reload(TWO.replace("limit = 5", "limit = 6"))
    assert daemon.told()["database"] == (6, True, "file", "")


def test_the_file_takes_over_what_was_made_by_hand_or_by_use(daemon: Configured) -> None:
    with daemon.client() as client:
        client.create_limit("mine", 1)
        client.acquire("used").release()
    daemon.reload(TWO + "".join(f"[[limit]]\nname = '{n}'\nlimit = 4\n" for n in ("mine", "used")))
    assert daemon.told() == {
        **BOTH,
        "mine": (4, True, "file", ""),
        "used": (4, True, "file", ""),
    }


def test_what_the_file_said_while_the_daemon_was_away(daemon: Configured) -> None:
    daemon.stop(signal.SIGKILL)
    daemon.says(TWO.replace("limit = 5", "limit = 9").replace("api", "other"))
    daemon.start()
    assert daemon.told() == {
        "database": (9, True, "file", ""),
        "other": (10, True, "file", ""),
    }


def test_holders_and_waiters_live_through_a_reload(daemon: Configured) -> None:
    with daemon.client() as client, daemon.client() as other:
        grants = [client.acquire("database") for _ in range(5)]
        daemon.reload(TWO.replace("limit = 5", "limit = 6"))
        with other.acquire("database", timeout_seconds=0):
            assert daemon.limits()["database"].held == 6
        for grant in grants:
            grant.release()


# Reload


def test_sighup_reloads(daemon: Configured) -> None:
    daemon.says(TWO.replace("limit = 5", "limit = 6"))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.told()["database"][0] == 6)
    wait_until(lambda: "was read again; 1 limits changed" in daemon.log_text())


def test_a_wrong_file_changes_nothing_and_every_mistake_is_told(daemon: Configured) -> None:
    with pytest.raises(errors.ConfigInvalid) as caught:
        daemon.reload(TWO.replace("limit = 5", "limit = 6\nrate = 7") + "[lag]\nlevel = 1\n")
    first, second = sorted(caught.value.mistakes)
    assert "there is no section 'lag': did you mean log?" in first
    assert "[[limit]] 'database': rate = 7: expected a rate such as 100/min" in second
    assert caught.value.path == str(daemon.file)
    for mistake in caught.value.mistakes:
        assert f"not reloaded: {daemon.file}: {mistake}" in daemon.log_text()
    assert daemon.told() == BOTH
    with daemon.client() as client:
        trouble = client.status().trouble
        assert f"the configuration file {daemon.file} was refused (" in trouble
        assert (
            "; and 1 more): what it said before stays in force, but a restart would fail" in trouble
        )
        (finding,) = json.loads(ran(daemon, "doctor", "--json").out)
        assert trouble in finding["text"]
        assert finding["mend"] == "atmost daemon reload"
        daemon.reload(TWO)
        assert not client.status().trouble
    daemon.says("limit = 1")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "expected [[limit]], with two brackets" in daemon.log_text())
    assert daemon.told() == BOTH


def test_a_file_that_others_may_write_is_not_reloaded(daemon: Configured) -> None:
    daemon.file.chmod(0o666)
    with pytest.raises(errors.ConfigInvalid, match=r"others may write to it .* chmod go-w"):
        daemon.reload(TWO.replace("limit = 5", "limit = 6"))
    assert "others may write to it" in daemon.log_text()
    assert daemon.told() == BOTH
    daemon.file.chmod(0o644)
    daemon.reload(TWO.replace("limit = 5", "limit = 6"))
    assert daemon.told()["database"][0] == 6


def test_a_file_that_was_taken_away_deletes_nothing(daemon: Configured) -> None:
    daemon.file.unlink()
    with daemon.client() as client, pytest.raises(errors.ConfigInvalid, match="No such file"):
        client._ask(wire.Reload)
    assert daemon.told() == BOTH


def test_bounds_and_log_are_taken_over_and_the_socket_is_not(daemon: Configured) -> None:
    daemon.reload(
        TWO + '[bounds]\nwaiters_per_limit = 1\n[log]\nformat = "json"\n[socket]\nmode = "0600"\n'
    )
    log = daemon.log_text()
    assert "socket_mode is 384 in the configuration now, but stays" in log
    with daemon.client() as client, daemon.client() as other, daemon.client() as third:
        client.acquire("database", 5)
        waits = Thread(target=lambda: other.acquire("database").release())
        waits.start()
        wait_until(lambda: daemon.limits()["database"].waiting == 1)
        with pytest.raises(errors.TooMany, match="waiters_per_limit"):
            third.acquire("database")
        client.close()
        waits.join()
    with daemon.client() as client:
        client.acquire("used first").release()
    wait_until(lambda: '"message": "limit \'used first\' was made' in daemon.log_text())


# Templates


def test_a_template_makes_active_limits_on_first_use(daemon: Configured) -> None:
    daemon.reload(USERS)
    with daemon.client() as client:
        client.rate_limit("user-7")
        client.rate_limit(["user-8"], strict=True)
        with client.concurrency("user-9", occupy=2, strict=True):
            assert daemon.told() == {f"user-{n}": (2, True, "template", "") for n in (7, 8, 9)}
            with pytest.raises(errors.AcquireTimeout):
                client.acquire("user-9", timeout_seconds=0)
        with pytest.raises(errors.NeverFits):
            client.acquire("user-10", 3)
        # Others are made as ever, or not.
        with pytest.raises(errors.LimitNotFound) as caught:
            client.acquire(["user-11", "no-such"], strict=True)
        assert caught.value.names == ["no-such"]
        assert "user-11" not in daemon.limits()
        client.acquire(["user-12", "plain"]).release()
        assert daemon.told()["plain"] == (1, False, "implicit", "")


def test_strict_with_an_inactive_limit_makes_nothing(daemon: Configured) -> None:
    daemon.reload(USERS)
    with daemon.client() as client:
        client.create_limit("off", 1, active=False)
        with pytest.raises(errors.LimitInactive):
            client.acquire(["user-1", "off"], strict=True)
    assert list(daemon.limits()) == ["off"]


def test_the_first_template_that_matches_counts(daemon: Configured) -> None:
    daemon.reload('[[template]]\nmatch = "user-1?"\nlimit = 9\n' + USERS)
    with daemon.client() as client, client.acquire(["user-11", "user-2", "user-1"]):
        assert {name: one[0] for name, one in daemon.told().items()} == {
            "user-1": 2,
            "user-11": 9,
            "user-2": 2,
        }


def test_it_is_forgotten_when_idle(daemon: Configured) -> None:
    daemon.reload(USERS.replace("60/min", "10/s"))
    with daemon.client() as client:
        grant = client.acquire("user-held")
        client.acquire("user-idle").release()
        client.rate_limit("user-spent")
        with pytest.raises(errors.NeverFits):
            client.acquire("user-refused", 3)
        wait_until(lambda: list(daemon.limits()) == ["user-held"])
        grant.release()
        wait_until(lambda: not daemon.limits())
        client.acquire("user-held").release()


def test_spent_slots_of_a_template_are_kept_over_a_crash(daemon: Configured) -> None:
    daemon.reload(USERS.replace("60/min", "1/h"))
    with daemon.client() as client:
        client.rate_limit("user-7", occupy=2)
    daemon.restart(signal.SIGKILL)
    with daemon.client() as client, pytest.raises(errors.AcquireTimeout):
        client.rate_limit("user-7", timeout_seconds=0)
    assert daemon.told() == {"user-7": (2, True, "template", "")}


def test_spent_slots_of_a_template_are_kept_over_a_reboot(daemon: Configured) -> None:
    daemon.reload(USERS.replace("60/min", "1/h"))
    with daemon.client() as client:
        client.rate_limit("user-7", occupy=2)
        client.acquire("user-8").release()
    daemon.stop()
    for left in (daemon.folder / "run").iterdir():
        left.unlink()
    daemon.start()
    with daemon.client() as client, pytest.raises(errors.AcquireTimeout):
        client.rate_limit("user-7", timeout_seconds=0)
    assert daemon.told() == {"user-7": (2, True, "template", "")}


def test_a_template_that_changes_takes_its_limits_along(daemon: Configured) -> None:
    daemon.reload(USERS)
    with daemon.client() as client, daemon.client() as other:
        client.acquire("user-1", 2)
        client.acquire("user-2")
        daemon.reload(USERS.replace("limit = 2", "limit = 3"))
        with other.acquire("user-1", timeout_seconds=0):
            assert daemon.told()["user-2"] == (3, True, "template", "")
        client.update_limit("user-2", limit=8)
        assert daemon.told()["user-2"] == (8, True, "hand", "")
        daemon.reload("")  # no template any more: they run out
        assert daemon.told()["user-1"] == (3, True, "template", "")
    wait_until(lambda: list(daemon.limits()) == ["user-2"])


def test_a_new_template_takes_over_what_requests_have_made(daemon: Configured) -> None:
    with daemon.client() as client, client.acquire("user-1"):
        assert daemon.told()["user-1"] == (1, False, "implicit", "")
        daemon.reload(USERS)
        assert daemon.told()["user-1"] == (2, True, "template", "")


def test_too_many_of_them_is_an_error_and_idle_ones_make_room(tmp_path: Path) -> None:
    running = Configured(tmp_path, "--bound", "template_limits=3")
    running.says(USERS)
    running.start()
    try:
        with running.client() as client:
            for n in range(20):
                client.acquire(f"user-{n}").release()
            grants = [client.acquire(f"user-held-{n}") for n in range(3)]
            with pytest.raises(errors.TooMany) as caught:
                client.acquire(["user-new", "other"])
            assert caught.value.setting == "template_limits"
            assert "other" not in running.limits()
            grants[0].release()
            running.limits()  # the release has been acted on
            client.acquire("user-new").release()
    finally:
        running.stop()


def test_a_holder_comes_back_though_the_journal_is_lost(daemon: Configured) -> None:
    daemon.reload(USERS)
    with daemon.client() as client:
        grant = client.acquire("user-1", 2)
        daemon.stop(signal.SIGKILL)
        (daemon.folder / "run" / "journal").unlink()
        daemon.start()
        client.list_limits()
        with daemon.client() as other, pytest.raises(errors.AcquireTimeout):
            other.acquire("user-1", timeout_seconds=0)
        grant.release()


def test_a_daemon_with_templates_does_not_wake_up_at_rest(daemon: Configured) -> None:
    daemon.reload(USERS)
    with daemon.client() as client, client.acquire("user-1"):
        client.acquire("user-2").release()
        wait_until(lambda: list(daemon.limits()) == ["user-1"])
        before = _switches(daemon)
        with pytest.raises(errors.AcquireTimeout):
            client.acquire("user-1", 2, timeout_seconds=2.5)
        assert _switches(daemon) - before < 12


def _switches(daemon: Configured) -> int:
    """How often its main thread has woken up."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_client_sees_templates(daemon: Configured) -> None:
    daemon.reload(USERS)
    with Client(daemon.socket) as client:
        page = client._ask(wire.ListTemplates)
        assert isinstance(page, wire.Templates)
        assert page.templates == [wire.TemplateRecord("user-*", 2, 1.0, "file", "")]


def test_socket_and_admins_of_groups() -> None:
    """Whose members may connect, and whose may change limits: the latter also after a reload."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    folder = Path(tempfile.mkdtemp(prefix="atmost-"))
    folder.chmod(0o755)
    running = Configured(folder)
    socket = f'[socket]\nmode = "0660"\ngroup = "{NOBODY}"\n'
    running.says(socket)
    running.start()
    try:
        found = running.socket.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, NOBODY)
        running.socket.chmod(0o666)
        for change, may in (("", False), (f"[admin]\ngroup = {os.getegid()}\n", True)):
            running.reload(socket + change)
            with effective(NOBODY):
                client = Foreign(str(running.socket))
            try:
                if may:
                    client.ask("create_limit", "theirs", 1)
                else:
                    with pytest.raises(Failed):
                        client.ask("create_limit", "theirs", 1)
            finally:
                client.close()
    finally:
        running.stop()
        shutil.rmtree(folder)


def test_a_template_by_hand_outlives_a_state_that_is_damaged(
    daemon: Configured, tmp_path: Path
) -> None:
    """The journal of this run of the host has all that was declared: no gate opens."""
    wanted = tmp_path / "wanted.toml"
    wanted.write_text(USERS)
    code = "import sys; from atmost.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["--socket", str(daemon.socket), "apply", "-f", str(wanted)]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
    with daemon.client() as client:
        client.update_limit("api", limit=3)
    daemon.stop(signal.SIGKILL)
    (daemon.state_dir / "state").write_bytes(b"damaged")
    daemon.start()
    assert daemon.told()["api"] == (3, True, "file", "limit 10, 100/min, active")
    with daemon.client() as client:
        client.acquire("user-1", 2)
        with pytest.raises(errors.AcquireTimeout):
            client.acquire("user-1", timeout_seconds=0)
