"""A user who has no daemon yet: folders of its own, and processes that find no others.

Rule: nothing here touches the folders of who runs the tests, nor what the host has in /run/atmost or of
systemd. Root becomes another user in a user namespace, where it can.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import PATIENCE_SECONDS, wait_until
from tests.support_cli import Ran

UID = 1000
AS_USER = ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}"]

# Of this user's host: the system's folders are elsewhere.
_ON_ITS_HOST = """\
import os, sys
from atmost import paths
paths.SYSTEM_RUNTIME_DIR = os.environ["TEST_SYSTEM"]
paths.SYSTEM_UNIT_DIRS = (os.environ["TEST_SYSTEM"] + "/units",)
"""
CLI = "from atmost.cli import main; sys.exit(main(sys.argv[1:]))"


def becoming_a_user() -> list[str]:
    """What to put in front of a command."""
    if os.geteuid():
        return []
    try:
        subprocess.run([*AS_USER, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return AS_USER


class User:
    """One user, and the daemon that comes to be."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.home = folder / "home"
        self.system = folder / "system"  # a daemon of the system would be here
        self.runtime = folder / "run" / "atmost"
        self.state = folder / "state" / "atmost"
        self.socket = self.runtime / "atmost.sock"
        self.log = self.state / "atmostd.log"
        for path in (self.home, self.runtime.parent):
            path.mkdir(parents=True)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ATMOST", "XDG_", "PYTHON"))
        } | {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime.parent),
            "XDG_STATE_HOME": str(self.state.parent),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "TEST_SYSTEM": str(self.system),
            **environment,
        }
        self._become = becoming_a_user()

    def start(self, code: str, *arguments: str, **given: Any) -> subprocess.Popen[str]:
        """A Python program of this user, with what its host has in place."""
        environment = self.environment | given.pop("environment", {})
        for name in ("stdout", "stderr"):
            given.setdefault(name, subprocess.PIPE)
        given.setdefault("stdin", subprocess.DEVNULL)
        command = [*self._become, sys.executable, "-W", "error", "-c", _ON_ITS_HOST + code]
        return subprocess.Popen([*command, *arguments], text=True, env=environment, **given)

    def python(self, code: str, *arguments: str, **given: Any) -> Ran:
        """The same, run to its end."""
        return ended(self.start(code, *arguments, **given))

    def atmost(self, *arguments: str, **given: Any) -> Ran:
        """The command."""
        return ended(self.start(CLI, *arguments, **given))

    def pid(self) -> int | None:
        """Of this user's daemon, if it runs: it holds the lock for as long as it lives."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.socket.with_name("atmost.sock.lock").read_text())
            if b"atmostd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def starts(self) -> int:
        """How many daemons have come to listen."""
        return self.log_text().count("listens on")

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def close(self) -> None:
        """End the daemon."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.pid() is None, "the daemon has ended")


def ended(process: subprocess.Popen[str]) -> Ran:
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it does not end; it said: {process.communicate()}") from None
    return Ran(process.returncode, out, err)
