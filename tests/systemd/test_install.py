"""`atmost daemon install` and `uninstall` on a real systemd."""

from __future__ import annotations

from tests.support import wait_until
from tests.systemd.box import ATMOST, SETTINGS, SOCKET, STATE, Box

SERVICE = "/etc/systemd/system/atmostd.service"


def test_can_be_said_again(box: Box) -> None:
    box.sh("systemctl", "start", "atmostd.service")
    said = box.atmost("daemon", "install")
    assert f"{SERVICE} is as it shall be" in said
    assert "systemctl enable --now atmostd.socket" in said
    assert "systemctl restart atmostd.service" in said  # it runs
    assert f"ExecStart={ATMOST}d " in box.sh("cat", SERVICE)


def test_what_was_edited_stays(box: Box) -> None:
    box.sh("sh", "-c", f"echo '# mine' >>{SERVICE}; echo '# mine' >>{SETTINGS}")
    refused = box.ran(ATMOST, "daemon", "install")
    assert refused.returncode == 1
    assert f"{SERVICE} was edited" in refused.stdout
    assert "--force" in refused.stderr
    assert "# mine" in box.sh("cat", SERVICE)
    box.atmost("daemon", "install", "--force")
    assert "# mine" not in box.sh("cat", SERVICE)
    assert "# mine" in box.sh("cat", f"{SERVICE}.before")
    assert "# mine" in box.sh("cat", SETTINGS)  # settings are never replaced
    box.sh("rm", f"{SERVICE}.before")


def test_what_an_older_version_wrote_is_brought_up_to_date(box: Box) -> None:
    """Known by its own checksum, whatever was in it."""
    box.sh(
        *("sh", "-c"),
        f"printf 'old\\n' >/tmp/old; sum=$(sha256sum </tmp/old | cut -d' ' -f1); "
        f'{{ echo "# Written by \\`atmost daemon install\\`; checksum $sum."; cat /tmp/old; }} '
        f">{SERVICE}",
    )
    assert f"write {SERVICE}" in box.atmost("daemon", "install")
    assert "[Service]" in box.sh("cat", SERVICE)


def test_a_dry_run_changes_nothing(box: Box) -> None:
    box.sh("rm", SERVICE)
    said = box.atmost("daemon", "install", "--dry-run")
    assert f"would write {SERVICE}" in said
    assert box.ran("test", "-e", SERVICE).returncode == 1
    box.atmost("daemon", "install")
    assert f"would remove {SERVICE}" in box.atmost("daemon", "uninstall", "--dry-run")
    assert box.ran("test", "-e", SERVICE).returncode == 0


def test_uninstall_takes_away_what_install_put_there(box: Box) -> None:
    box.atmost("create", "db", "--limit", "3")
    box.atmost("daemon", "install", "--now")
    said = box.atmost("daemon", "uninstall")
    assert "systemctl disable --now atmostd.service atmostd.socket" in said
    assert f"the state in {STATE}" in said
    left = box.sh(
        "sh", "-c", "find /etc -name 'atmost*' ! -name '*.d'; test -e /etc/atmost; echo $?"
    )
    assert left == "1"
    assert box.ran("test", "-e", SOCKET).returncode == 1
    again = box.ran(ATMOST, "daemon", "uninstall")
    assert (again.returncode, again.stderr) == (0, "")
    box.atmost("daemon", "install", "--now")
    assert '"limit": 3' in box.atmost("inspect", "db", "--json").replace("  ", " ")


def test_uninstall_leaves_what_was_edited(box: Box) -> None:
    box.sh("sh", "-c", f"echo '# mine' >>{SERVICE}; echo '# mine' >>{SETTINGS}")
    ended = box.ran(ATMOST, "daemon", "uninstall")
    assert ended.returncode == 1
    assert f"{SERVICE} was edited" in ended.stdout
    assert box.ran("test", "-e", SERVICE).returncode == 0
    box.atmost("daemon", "uninstall", "--force")
    assert box.ran("test", "-e", SERVICE).returncode == 1
    assert "# mine" in box.sh("cat", SETTINGS)
    box.atmost("daemon", "install", "--now")


def test_takes_root(box: Box) -> None:
    refused = box.ran(ATMOST, "daemon", "install", user="ann")
    assert refused.returncode == 1
    assert "--user" in refused.stderr
    refused = box.ran(ATMOST, "daemon", "install", "--user", user="ann")
    assert refused.returncode == 1
    assert "XDG_RUNTIME_DIR" in refused.stderr


def test_of_a_user(box: Box) -> None:
    """Under the user's own systemd: installed, started by its socket, restarted, taken away."""
    home, run = "/home/ann", "/run/user/2001"
    box.sh("install", "-d", "-o", "ann", "-g", "ann", "-m", "700", "/home", home, run)
    box.sh("chmod", "755", "/home")
    told = [f"XDG_RUNTIME_DIR={run}", f"HOME={home}"]
    box.sh(
        *("systemd-run", "--quiet", "--collect", "--unit=test-of-ann", "-p", "Delegate=yes"),
        *("--uid=ann", *(f"--setenv={each}" for each in told), "/lib/systemd/systemd", "--user"),
    )

    def ann(*command: str) -> str:
        return box.sh("env", *told, *command, user="ann")

    wait_until(lambda: box.ran("test", "-S", f"{run}/bus").returncode == 0)
    socket = f"--socket={run}/atmost/atmost.sock"
    assert "systemctl --user enable --now atmostd.socket" in ann(
        ATMOST, "daemon", "install", "--user"
    )
    ann(ATMOST, "daemon", "install", "--user", "--now")
    assert ann(ATMOST, socket, "run", "db", "--", "echo", "mine") == "mine"
    ann(ATMOST, socket, "update", "db", "--limit", "3")
    ann("systemctl", "--user", "kill", "-s", "KILL", "atmostd.service")
    assert '"limit": 3' in ann(ATMOST, socket, "inspect", "db", "--json")
    ann(ATMOST, "daemon", "uninstall", "--user")
    assert ann("find", home, "-path", "*systemd*", "-name", "atmost*") == ""


def test_a_daemon_that_systemd_does_not_know(box: Box) -> None:
    """It would lose its socket, and its clients their way to it."""
    box.sh("systemctl", "stop", "atmostd.socket", "atmostd.service")
    box.job("test-by-hand", "/opt/atmost/bin/atmostd", user="")
    wait_until(lambda: box.ran(ATMOST, "status").returncode == 0)
    refused = box.ran(ATMOST, "daemon", "install", "--now")
    assert refused.returncode == 1
    assert "that systemd did not start listens on /run/atmost/atmost.sock" in refused.stderr
    box.sh("systemctl", "stop", "test-by-hand")
    box.atmost("daemon", "install", "--now")
