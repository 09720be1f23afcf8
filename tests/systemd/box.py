"""A real systemd of a test's own, with the daemon installed in it as an administrator would.

The box is `sdbox`, beside this file. What is installed is what `pip install` makes of the checkout, for a
Python that a user of no privileges can get to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import dev
from tests.support import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parent.parent.parent
SDBOX = Path(__file__).parent / "sdbox"
ATMOST = "/opt/atmost/bin/atmost"
ATMOSTD = "/opt/atmost/bin/atmostd"
SOCKET = "/run/atmost/atmost.sock"
STATE = "/var/lib/atmost"
RUN = "/run/atmost/daemon"
SETTINGS = "/etc/atmost/atmostd.toml"
DROP_INS = "/etc/systemd/system/atmostd.service.d"
USERS = """\
g staff-x - - - -
u ann 2001 - - -
u bob 2002 - - -
u cat 2003 - - -
m bob atmost-admin
m cat staff-x
"""  # in /etc/sysusers.d; ann is in no group


class Python(NamedTuple):
    """An interpreter, and where it is in the box."""

    path: Path  # here
    version: str

    @property
    def prefix(self) -> str:
        """Its folder in the box, where no home hides it."""
        return f"/opt/python-{self.version}"

    @property
    def packages(self) -> str:
        return f"/opt/packages-{self.version}"


class Box:
    """`up` boots it; `down` takes it away, whatever happened."""

    def __init__(self, folder: Path, binds: list[str]) -> None:
        self._environment = {
            **os.environ,
            "SDBOX": str(folder),
            "SDBOX_BIND": " ".join(binds),
            "SDBOX_OWNER": str(os.getpid()),
        }

    def up(self) -> None:
        self._sdbox("up")

    def halt(self) -> None:
        """A clean power-off; its disk stays."""
        self._sdbox("halt")

    def down(self) -> None:
        self._sdbox("down")

    def sh(self, *command: str, user: str = "") -> str:
        """Run a command to its good end, as root or as this user. Returns its output."""
        ended = self.ran(*command, user=user)
        assert ended.returncode == 0, (
            f"{command}: {ended.stdout}{ended.stderr}\n{self._why(command)}"
        )
        return ended.stdout.strip()

    def ran(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        return subprocess.run(
            [str(SDBOX), "sh", *_as(user), *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def _why(self, failed: tuple[str, ...]) -> str:
        return "" if failed[0] == "journalctl" else self.log()[-3000:]

    def atmost(self, *arguments: str, user: str = "") -> str:
        return self.sh(ATMOST, *arguments, user=user)

    def write(self, path: str, text: str) -> None:
        subprocess.run(
            [str(SDBOX), "sh", "sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1"', "-", path],
            env=self._environment,
            input=text,
            text=True,
            check=True,
        )

    def drop_in(self, text: str, unit: str = "atmostd.service") -> None:
        """Settings over those of the unit, as `systemctl edit` makes them."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.sh("systemctl", "daemon-reload")

    def shows(self, what: str, unit: str = "atmostd.service") -> str:
        """A property of a unit."""
        return self.sh("systemctl", "show", "--value", "-p", what, unit)

    def main_pid(self) -> int:
        """Of the daemon; 0 while there is none."""
        return int(self.shows("MainPID"))

    def log(self, unit: str = "atmostd.service") -> str:
        return self.sh("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def job(self, name: str, *command: str, user: str = "ann") -> None:
        """Start a command behind the prompt, as a unit of this name."""
        told = [f"--uid={user}", f"--gid={user}"] if user else []
        self.sh("systemd-run", "--quiet", "--collect", f"--unit={name}", *told, "--", *command)

    def runs(self, name: str) -> bool:
        return self.ran("systemctl", "is-active", "--quiet", name).returncode == 0

    def tickets(self, state: str) -> list[int]:
        """The pids of those that hold or wait, in their order."""
        told = json.loads(self.atmost("ps", "--json"))
        return [ticket["pid"] for ticket in told if ticket["state"] == state]

    def wait_for(self, state: str, count: int) -> list[int]:
        """Until so many hold or wait. Returns their pids."""
        wait_until(lambda: len(self.tickets(state)) == count, f"{count} {state}")
        return self.tickets(state)

    def _sdbox(self, word: str) -> None:
        ended = subprocess.run(
            [str(SDBOX), word],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, f"sdbox {word}: {ended.stdout}{ended.stderr}"


def _as(user: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []


def why_there_is_no_box() -> str:
    """Empty if a systemd can be booted here."""
    if os.geteuid() != 0:
        return "a real systemd to test with takes root"
    if not Path("/lib/systemd/systemd").exists():
        return "there is no systemd on this machine to test with"
    for tool in ("nsenter", "unshare", "setpriv", "setsid", "pivot_root"):
        if shutil.which(tool) is None:
            return f"a real systemd to test with takes {tool} (util-linux)"
    return ""


def install(folder: Path) -> list[str]:
    """Install atmost as into /opt/atmost. Returns what is to be bound into the box."""
    base = system_python()
    venv = folder / "venv"
    subprocess.run([base, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = [*_pip(), "--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", ".[daemon]"], cwd=ROOT, check=True)
    for name in ("atmost", "atmostd"):
        script = venv / "bin" / name
        code = script.read_text().partition("\n")[2]
        script.write_text(f"#!/opt/atmost/bin/python\n{code}")
    return [f"{venv}:/opt/atmost"]


def other_pythons() -> list[Python]:
    """The newest Python of each version that is on this machine, from 3.11 on."""
    found = [Path("/usr/bin/python3"), Path("/usr/local/bin/python3"), Path(dev.BASE_PYTHON)]
    found += sorted(Path("/root/.pyenv/versions").glob("*/bin/python3"))
    by_version: dict[str, Python] = {}
    for path in found:
        version = _version(path)
        if version >= (3, 11):
            name = f"{version[0]}.{version[1]}"
            by_version.setdefault(name, Python(path.resolve(), name))
    return [by_version[name] for name in sorted(by_version)]


def install_for(python: Python, folder: Path) -> list[str]:
    """What is to be bound, so that this Python can run the daemon that install() has put into the folder.

    Raises CalledProcessError.
    """
    packages = folder / f"packages-{python.version}"
    target = ["--quiet", "--target", str(packages), "--only-binary=:all:"]
    pip = [*_pip(), "--python", str(python.path)]
    needed = [
        text.partition(";")[0] for text in metadata.requires("atmost") or () if _runs_it(text)
    ]
    subprocess.run([*pip, "install", *target, *needed], check=True, capture_output=True)
    for package in (folder / "venv").glob("lib/*/site-packages/atmost*"):
        shutil.copytree(package, packages / package.name)
    return [f"{packages}:{python.packages}", f"{python.path.parent.parent}:{python.prefix}"]


def _runs_it(requirement: str) -> bool:
    return "extra" not in requirement or "daemon" in requirement.partition(";")[2]


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip"] if dev.pip_version() else ["uv", "pip"]


def _version(path: Path) -> tuple[int, int]:
    asked = "import sys; print(*sys.version_info[:2])"
    try:
        told = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    major, minor = told.stdout.split()
    return (int(major), int(minor))


def system_python() -> str:
    """A Python that the service's user can get to."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if _version(Path(path)) >= (3, 11):
            return path
    raise AssertionError("there is no Python from 3.11 on in /usr: the service could not get to it")
