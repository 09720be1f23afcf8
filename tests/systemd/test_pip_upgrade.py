"""`pip install -U` and `systemctl restart` at noon: everybody is at work, and nothing is lost.

The version before is this one under an older number; beside its clients there are those of the golden
atmost that speaks the protocol before. Each logs when it was inside, by the one clock of the host.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise

from atmost import __version__
from tests.support import wait_until
from tests.support_readme import README
from tests.systemd.box import ATMOST, SOCKET, Box
from tests.systemd.host import BEFORE, SOURCE, Host

SLOTS = 2
GOLDEN = f"{SOURCE}/tests/golden/atmost-protocol-1.zip"
PYTHON = "/opt/atmost/bin/python"
LOGS = "/tmp/logs"
ENOUGH = "/tmp/enough"
COMMAND = "/usr/local/bin/atmost"
# README's way without a gap: the new version beside the old one.
BESIDE = re.findall(r"`(sudo [^`]+)`", README[README.index("beside\n  the old one") :])[:3]

SYNC = f"""
import os, sys, time
from atmost.sync import Client
client = Client({SOCKET!r})
with open(sys.argv[1], "a", buffering=1) as log:
    while not os.path.exists({ENOUGH!r}):
        with client.concurrency("db") as grant:
            entered = time.monotonic_ns()
            time.sleep(0.01)
            left = time.monotonic_ns()
        assert grant.lost is None
        log.write(f"{{entered}} {{left}} {{grant.token}}\\n")
        time.sleep(0.03)  # others have to install something
    log.write("done\\n")
"""
ASYNCIO = f"""
import asyncio, os, sys, time
from atmost.asyncio import Client

async def work(client, log):
    while not os.path.exists({ENOUGH!r}):
        async with client.concurrency("db") as grant:
            entered = time.monotonic_ns()
            await asyncio.sleep(0.01)
            left = time.monotonic_ns()
        assert grant.lost is None
        log.write(f"{{entered}} {{left}} {{grant.token}}\\n")
        await asyncio.sleep(0.03)

async def main():
    with open(sys.argv[1], "a", buffering=1) as log:
        async with Client({SOCKET!r}) as client:
            await asyncio.gather(work(client, log), work(client, log))
        log.write("done\\n")

asyncio.run(main())
"""
INSIDE = """
import sys, time
entered = time.monotonic_ns()
time.sleep(0.01)
with open(sys.argv[1], "a") as log:
    log.write(f"{entered} {time.monotonic_ns()}\\n")
"""
# A job of a shell, again and again. A start that failed says when, as /proc/uptime has it.
RUN = f"""
while [ ! -e {ENOUGH} ]; do
    $1 --socket {SOCKET} run db -- /usr/bin/python3 -S -E /tmp/load-inside.py $2 2>>$2.err ||
        echo "failed $? $(cut -d' ' -f1 /proc/uptime)" >>$2
    sleep 0.1
done
echo done >>$2
"""
OLD_COMMAND = f'PYTHONPATH={GOLDEN}/client exec {PYTHON} -m atmost "$@"\n'


def start_load(box: Box) -> list[str]:
    """Of all three kinds and both versions. Returns the names of their logs."""
    for name, text in (("sync", SYNC), ("asyncio", ASYNCIO), ("inside", INSIDE)):
        box.write(f"/tmp/load-{name}.py", text)
    box.write("/tmp/load-run.sh", RUN)
    box.write("/tmp/old-atmost", f"#!/bin/sh\n{OLD_COMMAND}")
    box.sh("chmod", "755", "/tmp/old-atmost")
    box.sh("install", "-d", "-m", "777", LOGS)
    for age, path, command in (
        ("before", "", COMMAND),
        ("golden", f"PYTHONPATH={GOLDEN}/client", "/tmp/old-atmost"),
    ):
        for kind in ("sync", "asyncio"):
            name = f"{kind}-{age}"
            box.job(
                f"test-{name}",
                "env",
                *path.split(),
                PYTHON,
                f"/tmp/load-{kind}.py",
                f"{LOGS}/{name}",
            )
        box.job(
            f"test-run-{age}", "bash", "/tmp/load-run.sh", command, f"{LOGS}/run-{age}", user="bob"
        )
    return [f"{kind}-{age}" for kind in ("sync", "asyncio", "run") for age in ("before", "golden")]


def logs(box: Box, names: list[str]) -> dict[str, list[str]]:
    read = box.sh("sh", "-c", f"cd {LOGS}; for name; do cat $name; echo /; done", "-", *names)
    return dict(zip(names, (text.split("\n") for text in read.split("/")), strict=False))


def lines_of(text: list[str]) -> list[list[int]]:
    """When each was inside, and its token."""
    return [list(map(int, line.split())) for line in text if line[:1].isdigit()]


def wait_for_turns(box: Box, names: list[str], turns: int) -> None:
    """Everybody gets so many more."""
    before = {name: len(lines_of(text)) for name, text in logs(box, names).items()}

    def had() -> bool:
        now = logs(box, names)
        return all(len(lines_of(now[name])) >= before[name] + turns for name in names)

    wait_until(had, f"{turns} more turns of each")


def uptime(box: Box) -> float:
    return float(box.sh("cut", "-d ", "-f1", "/proc/uptime"))


def version(box: Box) -> tuple[str, int]:
    told = json.loads(box.atmost("status", "--json"))
    return told["version"], told["pid"]


def test_an_upgrade_at_noon(host: Host) -> None:
    box = host.box
    for line in (
        "sudo python3 -m venv /opt/atmost",
        f"sudo /opt/atmost/bin/pip install --quiet 'atmost[daemon]=={BEFORE}'",
        "sudo ln -s /opt/atmost/bin/atmost /usr/local/bin/",
        "sudo atmost daemon install --now",
    ):
        host.types(line)
    box.atmost("create", "db", "--limit", str(SLOTS))
    box.atmost("create", "kept", "--limit", "1")
    for name in ("holder", "waiter"):
        box.job(f"test-{name}", ATMOST, "run", "kept", "--", "sleep", "1000")
    kept = wait_until(lambda: pids(box) if len(pids(box)) == 2 else [], "one waits for the other")
    old = version(box)
    assert old[0] == BEFORE
    names = start_load(box)
    wait_for_turns(box, names, 5)

    began = uptime(box)
    host.types("sudo /opt/atmost/bin/pip install --quiet -U 'atmost[daemon]'")
    ended = uptime(box)
    assert box.atmost("--version") == f"atmost {__version__}"
    assert version(box) == old  # it goes on with what it was started with
    wait_for_turns(box, names, 5)
    host.types("sudo systemctl restart atmostd")
    assert version(box)[0] == __version__
    wait_for_turns(box, names, 10)
    for line in (
        "sudo python3 -m venv --without-pip /opt/atmost-2",
        "sudo /opt/atmost/bin/pip --python /opt/atmost-2/bin/python install -q 'atmost[daemon]'",
        *BESIDE,
    ):
        host.types(line)
    assert "/opt/atmost-2/" in box.sh("cat", f"/proc/{version(box)[1]}/cmdline")
    wait_for_turns(box, names, 5)
    box.sh("touch", ENOUGH)
    wait_until(lambda: not any(box.runs(f"test-{name}") for name in names), "the load ends")

    assert pids(box) == kept
    said = logs(box, names)
    judge(said)
    failed = [line for text in said.values() for line in text if line.startswith("failed")]
    for line in failed:  # README: a command that begins as its files are replaced
        assert began <= float(line.split()[2]) <= ended, (line, began, ended)
    turns = sum(len(lines_of(text)) for text in said.values())
    print(f"{turns} turns; {len(failed)} starts failed in the {ended - began:.1f} s of pip")
    assert "Traceback" not in box.log()


def pids(box: Box) -> list[tuple[str, int]]:
    """Who holds and who waits for the limit that nobody of the load uses."""
    return [(one["state"], one["pid"]) for one in json.loads(box.atmost("ps", "kept", "--json"))]


def judge(said: dict[str, list[str]]) -> None:
    """Never more inside than there are slots; nobody ended early; tokens rise, and are each given once."""
    tokens: list[int] = []
    changes: list[tuple[int, int]] = []
    for name, text in said.items():
        assert "done" in text, (name, text[-3:])
        lines = lines_of(text)
        changes += [(at, change) for line in lines for at, change in ((line[0], 1), (line[1], -1))]
        own = [line[2] for line in lines if len(line) > 2]
        if name.startswith("sync"):
            assert all(one < other for one, other in pairwise(own)), name
        tokens += own
    assert len(set(tokens)) == len(tokens)
    inside = most = 0
    for _, change in sorted(changes):
        inside += change
        most = max(most, inside)
    assert most == SLOTS
