"""A host on which atmost was never installed, for an administrator who has its README and nothing else.

It has no network: `pip` takes what it needs from a folder of wheels, which was filled outside.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.systemd.box import ROOT, Box, system_python

SOURCE = "/src"  # the checkout
WHEELS = "/wheels"
BEFORE = "0.0.9"  # the version of before_wheel
USERS = """\
u ann 2001 - /home/ann /bin/bash
u bob 2002 - /home/bob /bin/bash
"""
SUDO = '#!/bin/sh\nexec "$@"\n'  # root asks
# Nothing of what this machine's own pip is told.
PIP = ("PIP_CONFIG_FILE=/dev/null", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")


class Host:
    """Somebody at its prompt: `box` is for what stands in no README."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def types(self, line: str, user: str = "") -> str:
        """A line of a shell: with `sudo` as root, in the checkout; else as this user, or ann."""
        return self.box.sh(*self._words(line, user), user=self._who(line, user))

    def tries(self, line: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        return self.box.ran(*self._words(line, user), user=self._who(line, user))

    def _who(self, line: str, user: str) -> str:
        return "" if line.startswith("sudo ") else user or "ann"

    def _words(self, line: str, user: str) -> list[str]:
        folder = SOURCE if line.startswith("sudo ") else "/tmp"
        home = f"/home/{name}" if (name := self._who(line, user)) else "/root"
        return ["env", *PIP, f"HOME={home}", "bash", "-c", f"cd {folder} && {line}"]


def why_there_is_no_venv() -> str:
    """Empty if `python3 -m venv` works on this machine, for the Python of its system."""
    asked = [system_python(), "-c", "import ensurepip"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        return "python3 -m venv does not work here (Debian: apt install python3-venv)"
    return ""


def fill(folder: Path) -> Path:
    """Make the wheels: of the checkout, what it needs, the version before. Returns their folder."""
    wheels, tools, before = folder / "wheels", folder / "tools", folder / "before"
    subprocess.run([system_python(), "-m", "venv", str(tools)], check=True)
    pip = [str(tools / "bin" / "pip"), "wheel", "--quiet", "--wheel-dir", str(wheels)]
    build = re.findall(
        r'^requires = \["(.*)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    subprocess.run([*pip, ".[daemon]", *build], cwd=ROOT, check=True)
    _make_older(before)
    offline = ["--no-deps", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*pip, *offline, str(before)], check=True)
    return wheels


def _make_older(folder: Path) -> None:
    """This version under an older number."""
    for name in ("client", "daemon", "man", "systemd"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for path in (folder / "pyproject.toml", folder / "client" / "atmost" / "__init__.py"):
        text, count = re.subn(
            r'(?m)^(version|__version__) = ".*"$', rf'\1 = "{BEFORE}"', path.read_text()
        )
        assert count == 1, path
        path.write_text(text)


@contextmanager
def fresh(folder: Path, wheels: Path) -> Iterator[Host]:
    """One that is up."""
    box = Box(folder, [f"{ROOT}:{SOURCE}", f"{wheels}:{WHEELS}"])
    try:
        box.up()
        box.write("/usr/local/bin/sudo", SUDO)
        box.sh("chmod", "755", "/usr/local/bin/sudo")
        box.write("/etc/sysusers.d/users.conf", USERS)
        box.sh("systemd-sysusers")
        for user in ("ann", "bob"):
            box.sh("install", "-d", "-o", user, "-g", user, f"/home/{user}")
        yield Host(box)
    finally:
        box.down()
