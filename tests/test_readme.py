"""README.md is true: its every command and snippet runs, in its order, on a machine like any other."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import atmost
import dev
from atmost.cli.parser import COMMANDS
from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until
from tests.support_readme import (
    CHECKOUT,
    EVERY_DAY,
    FIRST_MINUTE,
    FROM_A_FILE,
    LAPTOP,
    README,
    SERVICE,
    WHY,
    blocks,
)
from tests.support_user import User

ROOT = Path(__file__).parent.parent
SCRIPTS = ("train.sh", "ask.sh")  # of the reader's own


class Shell:
    """A reader at a prompt, with `atmost` on the PATH and a few scripts in the folder."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        tools = folder / "bin"
        tools.mkdir(parents=True)
        for name in ("atmost", "atmostd"):
            _script(tools / name, f'exec {shlex.quote(sys.executable)} -m {name} "$@"')
        for name in SCRIPTS:
            _script(folder / name, "exit 0")
        self.folder = folder
        self._environment = daemon.environment()
        self._environment["PATH"] = f"{tools}:{os.environ['PATH']}"
        self._behind: list[subprocess.Popen[str]] = []

    def run(self, command: str) -> str:
        """Run it to its end, or behind the prompt if it says so. Returns what it printed."""
        if command.endswith("&"):
            self._behind.append(self._start(command.removesuffix("&")))
            return ""
        process = self._start(command)
        printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, f"{command}: {printed}"
        return printed

    def last_behind(self) -> subprocess.Popen[str]:
        return self._behind[-1]

    def close(self) -> None:
        for process in self._behind:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            shell=True,
            cwd=self.folder,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.fixture
def shell(daemon: RunningDaemon, tmp_path: Path) -> Iterator[Shell]:
    reader = Shell(daemon, tmp_path / "reader")
    yield reader
    reader.close()


def test_installs(tmp_path: Path) -> None:
    """The wheel that pip makes of the checkout is whole: both commands run from it alone."""
    pip = [dev.BASE_PYTHON, "-m", "pip"] if dev.pip_version() else ["uv", "pip"]
    target = ["--quiet", "--target", str(tmp_path)]
    assert FIRST_MINUTE[0] == "pip install '.[daemon]'"
    subprocess.run([*pip, "install", *target, ".[daemon]"], cwd=ROOT, check=True)
    for module in ("atmost", "atmostd"):
        ran = subprocess.run(
            [dev.BASE_PYTHON, "-m", module, "--version"],
            env={"PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout == f"{module} {atmost.__version__}\n"
    for page in ("man1/atmost.1", "man8/atmostd.8"):
        assert (tmp_path / "share/man" / page).read_text() == (ROOT / "man" / page[5:]).read_text()


def test_first_minute(daemon: RunningDaemon, shell: Shell) -> None:
    """The third job gets its turn when the limit is raised, as the page shows."""
    install, *session = FIRST_MINUTE
    assert install == "pip install '.[daemon]'"  # test_installs
    client = daemon.client()
    runs = 0
    for command in session:
        if command == "atmost ps":
            listed = shell.run(command)
            states = [line.split("\t")[1] for line in listed.splitlines()]
            assert states == ["held", "held", "waiting"]
            assert shell.last_behind().poll() is None
        else:
            shell.run(command)
            if command.startswith("atmost run"):
                runs += 1
                wait_until(partial(_has_tickets, client, runs))
    printed, _ = shell.last_behind().communicate(timeout=PATIENCE_SECONDS)
    assert printed == "my turn\n"
    client.close()


def _has_tickets(client: Client, count: int) -> bool:
    return len(client.list_tickets()) >= count


def test_every_day(shell: Shell) -> None:
    for command in EVERY_DAY:
        shell.run(command)


def test_on_a_laptop(tmp_path: Path) -> None:
    """Of somebody who has no daemon yet."""
    user = User(tmp_path)
    try:
        for command in LAPTOP:
            _, *words = shlex.split(command)
            assert user.atmost(*words).code == 0, command
        assert user.starts() == 3
    finally:
        user.close()


def test_service() -> None:
    """What tests/systemd/test_walk.py types on a real systemd; here, one line changes nothing."""
    (dry_run,) = (line for line in SERVICE if line.endswith("--dry-run"))
    command = [sys.executable, "-m", "atmost", *dry_run.removeprefix("sudo ").split()[1:]]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "would write /etc/systemd/system/atmostd.service" in said
    (enable,) = (line for line in SERVICE if " enable " in line)
    assert enable.removeprefix("sudo ") in said


def test_limits_in_a_file(shell: Shell) -> None:
    (toml,) = blocks("toml")
    (shell.folder / "limits.toml").write_text(toml)
    printed = [shell.run(command) for command in FROM_A_FILE]
    assert "3 new, 0 changed, 0 deleted; nothing was done (--dry-run)" in printed[0]
    assert printed[3] == "user-*\t3\t2\thand\t-\n"
    assert printed[-1] == "atmost: nothing to change: all is as the file says\n"


def test_why_is_my_job_waiting(shell: Shell, daemon: RunningDaemon) -> None:
    """`top` and `watch`, which do not end by themselves, have tests of their own."""
    with daemon.client() as client, daemon.client() as waiter:
        client.create_limit("gpu", 1)
        client.acquire("gpu")
        waiting = threading.Thread(target=lambda: waiter.acquire("gpu").release())
        waiting.start()
        wait_until(lambda: client.read_limit("gpu").waiting)
        told = shell.run(WHY[0])
        assert WHY[0] == "atmost explain gpu"
        assert re.match(r'pid \d+ \(.*\) waits .* for 1 slot of "gpu": it is held, by pid ', told)
        for command in WHY:
            assert command.split()[1] in COMMANDS
        client.release_grant(client.list_tickets("gpu")[0].token)
        waiting.join()


def test_snippets(daemon: RunningDaemon) -> None:
    """In their order, each as a program of its own."""
    for snippet in blocks("python"):
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet],
            env=daemon.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_the_two_commands_are_those_of_ci() -> None:
    """`demo` is run by test_demo, and this is `test`."""
    assert CHECKOUT == ["python3 dev.py demo", "python3 dev.py test"]
    assert "python3 dev.py test" in (ROOT / ".ci" / "run").read_text()


def test_names_no_file_that_is_not_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
