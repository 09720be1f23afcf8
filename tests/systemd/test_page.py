"""The page as a service of a real systemd: its own user, its token, and what it may not do."""

from __future__ import annotations

import json

from tests.support import wait_until
from tests.systemd.box import ATMOST, Box

SERVICE = "atmost-web.service"
TOKEN = "/var/lib/atmost-web/token"
ASK = """\
import sys, urllib.request, urllib.error
request = urllib.request.Request("http://127.0.0.1:8640" + sys.argv[1])
if len(sys.argv) > 2:
    request.add_header("Authorization", "Bearer " + sys.argv[2])
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, "")
except OSError as error:
    print(0, error)
"""


def ask(box: Box, path: str, *token: str) -> tuple[int, str]:
    """The status, and what is there."""
    status, _, text = box.sh("/opt/atmost/bin/python", "-c", ASK, path, *token).partition(" ")
    return int(status), text


def test_the_page_is_installed_beside_the_daemon(box: Box) -> None:
    said = box.atmost("daemon", "install", "--web", "--now")
    assert f"systemctl enable --now atmostd.socket {SERVICE}" in said
    assert f"sudo cat {TOKEN}" in said
    wait_until(lambda: ask(box, "/")[0] == 401, "it answers, and says nothing without the token")
    token = box.sh("cat", TOKEN)
    box.atmost("create", "db", "--limit", "3")

    def there() -> bool:
        status, text = ask(box, "/api/session", token)
        return status == 200 and json.loads(text)["daemon"]["state"] == "there"

    wait_until(there, "it has found the daemon")
    wait_until(lambda: '"total":1' in ask(box, "/api/limits", token)[1], "it knows the limit")
    session = json.loads(ask(box, "/api/session", token)[1])
    assert not session["rights"]["may_change"], "it may look, until an administrator says more"
    assert "ask root" in session["rights"]["why_not"]

    # Nobody else sees the token: neither its file, nor in the journal.
    assert box.ran("cat", TOKEN, user="ann").returncode != 0
    assert token not in box.sh("journalctl", "--no-pager", "-u", SERVICE)
    shown = box.sh("systemctl", "show", SERVICE, "-p", "User", "-p", "MainPID", "--value").split()
    assert "atmost-web" in shown

    # The token stays, and so does the page when it is killed.
    box.sh("systemctl", "kill", "-s", "KILL", SERVICE)
    wait_until(lambda: ask(box, "/api/session", token)[0] == 200, "it is there again")

    # In the admin group it may change limits.
    box.sh("usermod", "--append", "--groups", "atmost-admin", "atmost-web")
    box.sh("systemctl", "restart", SERVICE)
    wait_until(
        lambda: '"may_change":true' in ask(box, "/api/session", token)[1], "it may change limits"
    )

    assert f"write /etc/systemd/system/{SERVICE}" not in box.atmost("daemon", "install")
    said = box.atmost("daemon", "uninstall")
    assert SERVICE in said
    assert "the token of the page in /var/lib/atmost-web" in said
    assert ask(box, "/")[0] == 0, "nobody listens"
    assert box.ran("test", "-e", f"/etc/systemd/system/{SERVICE}").returncode == 1
    assert box.ran(ATMOST, "daemon", "install", "--now").returncode == 0
