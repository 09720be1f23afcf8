"""systemd's own commands, and whether there is a systemd."""

from __future__ import annotations

import os
import shutil
import subprocess

RUNS = "/run/systemd/system"  # sd_booted(3)


class CannotInstall(Exception):
    """The message says why, and what to do."""


def check(user: bool) -> None:
    """Raises CannotInstall if no systemd is there that could be asked."""
    if not os.path.isdir(RUNS) or shutil.which("systemctl") is None:
        raise CannotInstall(
            "systemd does not run here, so it can't look after the daemon; start `atmostd` by what "
            "starts programs here, or by hand"
        )
    if user and not os.environ.get("XDG_RUNTIME_DIR"):
        raise CannotInstall(
            "XDG_RUNTIME_DIR is not set, so your own systemd can't be asked: log in as this user (sudo "
            "and su are no login; machinectl shell is)"
        )


def words(user: bool, *arguments: str) -> list[str]:
    """A command line of systemctl."""
    return ["systemctl", *(["--user"] if user else []), *arguments]


def run(*command: str) -> None:
    """Raises CannotInstall with what the command said."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise CannotInstall(f"{command[0]}: {error.strerror}") from error
    if ended.returncode:
        said = ended.stderr.strip() or ended.stdout.strip() or f"exit code {ended.returncode}"
        raise CannotInstall(f"{' '.join(command)}: {said}")


def is_active(user: bool, unit: str) -> bool:
    """Whether the unit runs."""
    command = words(user, "is-active", "--quiet", unit)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
