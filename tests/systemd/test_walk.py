"""A new administrator's first days, from README alone: its lines, typed at a prompt in their order.

What is not in its pages is what the two users do meanwhile, and what an editor is for.
"""

from __future__ import annotations

import json
import re
from functools import partial

from atmost import __version__
from tests.support import wait_until
from tests.support_readme import FROM_A_FILE, SERVICE, SERVING, WHY, blocks
from tests.systemd.box import SETTINGS, STATE, Box
from tests.systemd.host import Host

DECLARED = blocks("toml")[0]
DATABASE = "database"
ATMOST = "/usr/local/bin/atmost"  # README's own link
SLEEPS = ("--", "sleep", "1000")
Tickets = list[tuple[str, ...]]
TICKET_FIELDS = ("state", "pid", "user", "slots")


def test_the_first_days(host: Host) -> None:
    group, edit, reload, kill, journal, *upgrade, uninstall = SERVING
    install(host)
    host.types(group)
    declare(host, edit, reload)
    before = use(host.box)
    see(host)
    explain(host)
    refuse_a_broken_file(host, reload)
    keep(host, kill, before)
    assert "was read again; 2 limits changed" in host.types(journal)
    for line in upgrade:
        keep(host, line, before)
    assert f"version\t{__version__}" in host.types("atmost status")
    take_back(host, before)
    remove(host, uninstall)


def install(host: Host) -> None:
    refused = host.tries("atmost status")
    assert refused.returncode == 127
    said = {line: host.types(line) for line in SERVICE}
    assert "would write" in said["sudo atmost daemon install --dry-run"]
    assert "state\trunning" in said["atmost status"]
    shown = said["systemctl status atmostd"]
    assert "active (running)" in shown
    assert 'Status: "0 limits, 0 held, 0 waiting"' in shown
    assert said["atmost doctor"] == ""  # of a user who is no administrator
    assert "atmost - " in host.types("man -M /opt/atmost/share/man atmost | cat")


def declare(host: Host, edit: str, reload: str) -> None:
    """Two limits and a template: those of the page about files."""
    assert edit.endswith(f" {SETTINGS}")
    file = host.box.sh("cat", SETTINGS)
    host.box.write(SETTINGS, f"{file}\n{DECLARED}")
    host.types(reload)
    told = [line.split("\t") for line in host.types("atmost ls").splitlines()]
    assert [(line[0], line[1], line[-2]) for line in told] == [
        ("api", "10", "file"),
        (DATABASE, "5", "file"),
    ]
    assert host.types("atmost templates").startswith("user-*\t3\t2\tfile")
    refused = host.tries("atmost update database --limit 2", user="ann")
    assert refused.returncode == 1
    assert "atmost-admin" in refused.stderr
    host.types("atmost update database --limit 2", user="bob")
    assert host.types("atmost ls").endswith("\tfile\tlimit 5, active")  # what the file says
    # The other way, which needs no root: under version control, by the command.
    host.box.write("/tmp/limits.toml", DECLARED.replace("limit = 5", "limit = 2"))
    host.box.write("/tmp/ask.sh", "#!/bin/sh\n")
    host.box.sh("chmod", "755", "/tmp/ask.sh")
    for line in FROM_A_FILE:
        host.types(line, user="bob")


def tickets(box: Box) -> Tickets:
    told = json.loads(box.sh(ATMOST, "ps", DATABASE, "--json"))
    return [tuple(str(one[field]) for field in TICKET_FIELDS) for one in told]


def _are(count: int, box: Box) -> bool:
    return len(tickets(box)) == count


def use(box: Box) -> Tickets:
    """Two hold, of whom one may change nothing here; two wait. Returns who."""
    for count, user in enumerate(("ann", "bob", "bob", "ann"), 1):
        box.job(f"test-{count}", ATMOST, "run", DATABASE, *SLEEPS, user=user)
        wait_until(partial(_are, count, box), f"{count} of them")
    found = tickets(box)
    assert [(state, user) for state, _, user, _ in found] == [
        ("held", "ann"),
        ("held", "bob"),
        ("waiting", "bob"),
        ("waiting", "ann"),
    ]
    return found


def see(host: Host) -> None:
    """As somebody with a terminal sees it, and as a pipe does."""
    assert host.types("atmost ps | head -1").startswith(f"{DATABASE}\theld\t")
    assert host.types("atmost ls | head -1").startswith("api\t")
    frame = host.types("echo q | script -qec 'TERM=xterm atmost top' /dev/null")
    assert DATABASE in frame
    assert "daemon_started" in host.types("atmost watch --json | head -1")
    host.box.job("test-watch", "sh", "-c", f"{ATMOST} watch --json user-8 >/tmp/seen")
    wait_until(lambda: "daemon_started" in host.types("cat /tmp/seen"))
    host.types("atmost run --rate user-8 -- true")
    wait_until(lambda: '"kind":"created"' in host.types("cat /tmp/seen"))
    host.box.sh("systemctl", "stop", "test-watch")
    wait_until(lambda: "2 held, 2 waiting" in host.types("systemctl status atmostd"))


def explain(host: Host) -> None:
    why = WHY[0].replace("gpu", DATABASE)
    assert WHY[0] == "atmost explain gpu"
    said = host.types(why).splitlines()
    assert re.match(
        r'pid \d+ \(bob, sleep 1000\) waits .* for 1 slot of "database": all 2 are held', said[0]
    )
    assert "1 request is ahead of it" in said[1]
    pid = tickets(host.box)[2][1]
    assert host.types(f"atmost explain {pid}").startswith(f"pid {pid} (bob,")


def refuse_a_broken_file(host: Host, reload: str) -> None:
    good = host.box.sh("cat", SETTINGS)
    before = host.types("atmost inspect api")
    host.box.write(SETTINGS, f"{good}\n[[limit]]\nname = 'x'\nlimmit = 3\n[sokket]\n")
    assert host.tries(reload).returncode == 1
    shown = host.tries("sudo systemctl status atmostd").stdout
    for mistake in ("there is no section 'sokket'", "there is no key 'limmit'", "limit is missing"):
        assert re.search(rf"line \d+: .*{mistake}", shown), shown
    assert "active (running)" in shown
    assert host.types("atmost inspect api") == before
    host.box.write(SETTINGS, good)
    host.types(reload)


def keep(host: Host, line: str, before: Tickets) -> None:
    """Whatever this line does: nobody loses slots or a place."""
    host.types(line)
    assert tickets(host.box) == before


def take_back(host: Host, before: Tickets) -> None:
    """A hung holder loses its slots by an administrator's hand; that is logged, with whose."""
    token = host.types("atmost ps database --json | grep -m1 token | tr -dc 0-9")
    refused = host.tries(f"atmost release {token} --yes", user="ann")
    assert (refused.returncode, tickets(host.box)) == (1, before)
    host.types(f"atmost release {token} --yes", user="bob")
    states = [(state, pid) for state, pid, *_ in tickets(host.box)]
    assert states == [
        ("held", before[1][1]),
        ("held", before[2][1]),
        ("waiting", before[3][1]),
    ]
    host.types("atmost reset api", user="bob")
    log = host.box.log()
    for told in (f"grant {token}", "'api'"):
        assert [line for line in log.splitlines() if told in line and "bob" in line], (told, log)


def remove(host: Host, uninstall: str) -> None:
    said = host.types(uninstall)
    assert f"the state in {STATE}" in said
    assert host.tries("systemctl status atmostd").returncode == 4  # no such unit
    assert host.types("atmost ls") == ""  # of a daemon of ann's own, as on any laptop
    assert host.types("atmost daemon stop") == ""
    assert host.box.runs("test-2")  # it works on
    host.box.sh("rm", "-r", "/opt/atmost", ATMOST, STATE, "/etc/atmost")
    left = "find / -xdev -name '*atmost*' -not -path '/src*' -not -path '/work*' -path '/etc*'"
    assert host.box.sh("sh", "-c", left) == ""
