"""daemon install and uninstall: the daemon as a service of systemd, of the system or of a user.

Rule 1: a file that somebody has edited, or put there, is theirs: it is neither written over nor removed
unless they say so. What we wrote has a checksum of itself in its first line, whichever version wrote it.
Rule 2: both can be said again at any time; what is so already stays as it is.
Rule 3: state is never touched.
"""

from __future__ import annotations

import os
import socket
import sys
from argparse import Namespace

from atmost import paths
from atmost.cli import output, systemctl, unit_files
from atmost.cli.parser import Command, Parser
from atmost.cli.systemctl import CannotInstall
from atmost.cli.unit_files import File

SOCKET, SERVICE = "atmostd.socket", "atmostd.service"
PORT = 8640  # of the page, unless its unit says another one
OPERATION_NOT_DONE = 1


def install(given: Namespace) -> int:
    """Put the files in place, and say how to start the service."""
    steps = Steps(given.dry_run)
    try:
        command = _possible(given)
        files = unit_files.files(given.user, command, _has_web(given))
        kept = [file for file in files if not steps.put(file, given.force)]
        if any(file.kind == "unit" for file in kept):
            output.talk(
                "nothing was started: a unit that was edited may not fit this version; see the "
                "difference, then say --force to have it replaced (it is kept beside, as .before)"
            )
            return OPERATION_NOT_DONE
        if not given.user:
            users = [str(file.path) for file in files if file.kind == "users"]
            steps.run("systemd-sysusers", *users)
        _reload(steps, given.user)
        page = [unit_files.WEB] if given.web else []
        enable = systemctl.words(given.user, "enable", "--now", SOCKET, *page)
        if not given.dry_run:
            _check_nobody_else(given.user)
        if given.now:
            steps.run(*enable)
        else:
            steps.say(f"start it, now and with the host: {' '.join(enable)}")
        if given.web:
            steps.say(
                f"the page: http://127.0.0.1:{PORT}/?token=..., with the token of: {_token(given)}"
            )
        if not given.dry_run and systemctl.is_active(given.user, SERVICE):
            restart = systemctl.words(given.user, "restart", SERVICE)
            steps.say(f"it runs as it was started; to have what is new: {' '.join(restart)}")
    except CannotInstall as error:
        output.talk(str(error))
        return OPERATION_NOT_DONE
    return 0


def uninstall(given: Namespace) -> int:
    """Stop the service and take away what install put there."""
    steps = Steps(given.dry_run)
    try:
        _can_be_done(given)
        files = unit_files.files(given.user, [], web=True)
        units = [file for file in files if file.kind == "unit" and os.path.lexists(file.path)]
        edited = [file for file in units if not file.is_ours() and not given.force]
        if units:
            names = [file.path.name for file in units]
            steps.run(*systemctl.words(given.user, "disable", "--now", *names))
        for file in reversed(files):
            steps.remove(file, given.force)
        if units:
            _reload(steps, given.user)
    except CannotInstall as error:
        output.talk(str(error))
        return OPERATION_NOT_DONE
    kept = unit_files.what_is_kept(given.user)
    if kept:
        steps.say(f"kept: {', '.join(kept)}")
    return OPERATION_NOT_DONE if edited else 0


class Steps:
    """Does one step after the other and says each; or says only what it would do."""

    def __init__(self, dry_run: bool) -> None:
        self._dry = dry_run

    def say(self, text: str) -> None:
        output.write_text(f"{output.shown(text)}\n")

    def put(self, file: File, force: bool) -> bool:
        """Returns whether it is there now as it shall be."""
        there = file.state()
        if there == "same":
            self.say(f"{file.path} is as it shall be")
            return True
        if there == "edited":
            if file.kind == "settings":
                self.say(f"{file.path} is there, and stays as it is")
                return True
            if not force:
                self.say(f"{file.path} was edited, or is somebody else's: it stays as it is")
                return False
        self._do(f"write {file.path}")
        if not self._dry:
            file.write(keep_the_old=there == "edited")
        return True

    def remove(self, file: File, force: bool) -> None:
        there = file.state()
        if there == "none":
            return
        if not file.is_ours() and (file.kind == "settings" or not force):
            self.say(f"{file.path} was edited: it stays as it is")
            return
        self._do(f"remove {file.path}")
        if not self._dry:
            file.remove()

    def run(self, *words: str) -> None:
        """Raises CannotInstall if it fails."""
        self._do(" ".join(words))
        if not self._dry:
            systemctl.run(*words)

    def _do(self, what: str) -> None:
        self.say(f"would {_infinitive(what)}" if self._dry else what)


def _infinitive(what: str) -> str:
    return what if what.startswith(("write ", "remove ")) else f"run {what}"


def _possible(given: Namespace) -> list[str]:
    """How the daemon is started. Raises CannotInstall, but for a dry run, which only says why."""
    _can_be_done(given)
    try:
        return unit_files.daemon_command(given.user)
    except CannotInstall as error:
        if not given.dry_run:
            raise
        output.talk(f"it would be refused: {error}")
        return [sys.executable, "-m", "atmostd"]


def _has_web(given: Namespace) -> bool:
    """Whether the page is installed, too, or was before. Raises CannotInstall."""
    if given.web:
        try:
            unit_files.check_web()
        except CannotInstall as error:
            if not given.dry_run:
                raise
            output.talk(f"it would be refused: {error}")
    return given.web or os.path.lexists(unit_files.units_folder(given.user) / unit_files.WEB)


def _token(given: Namespace) -> str:
    """How its owner sees it."""
    if given.user:
        return "cat ~/.local/state/atmost-web/token"
    return "sudo cat /var/lib/atmost-web/token"


def _can_be_done(given: Namespace) -> None:
    """Raises CannotInstall, but for a dry run, which only says why."""
    try:
        if not given.user and os.geteuid() != 0:
            raise CannotInstall(
                "a service of the system takes root: say it with sudo, or with --user for one of "
                "your own"
            )
        systemctl.check(given.user)
    except CannotInstall as error:
        if not given.dry_run:
            raise
        output.talk(f"it would be refused: {error}")


def _check_nobody_else(user: bool) -> None:
    """Raises CannotInstall: systemd would take the socket away from a daemon that it does not know."""
    if systemctl.is_active(user, SOCKET):
        return
    path = f"{paths.user_runtime_dir() if user else paths.SYSTEM_RUNTIME_DIR}/{paths.SOCKET_NAME}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise CannotInstall(
        f"an atmostd that systemd did not start listens on {path}: the files are in place, but stop "
        "that one (atmost status has its pid), when nobody holds slots, before you say: "
        f"{' '.join(systemctl.words(user, 'enable', '--now', SOCKET))}"
    )


def _reload(steps: Steps, user: bool) -> None:
    steps.run(*systemctl.words(user, "daemon-reload"))


def _install_options(of: Parser) -> None:
    _options(of)
    of.add_argument("--now", action="store_true", help="start it, too, now and with the host")
    of.add_argument("--web", action="store_true", help="also the page for a browser, on loopback")


def _options(of: Parser) -> None:
    of.add_argument("--user", action="store_true", help="a service of your own, without root")
    of.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    of.add_argument("--force", action="store_true", help="also what somebody has edited")


COMMANDS = {
    "daemon install": Command(
        "[--user] [--now] [--web] [--dry-run] [--force]",
        "Make the daemon a service of systemd, which starts it when the first client comes. Each step\n"
        "is said. Files that somebody has edited stay as they are; own settings of the units belong\n"
        "into: systemctl edit atmostd.service\n\n"
        "With --web also `atmost web`, as a user of its own, that may look; to have it change limits:\n"
        "usermod --append --groups atmost-admin atmost-web",
        _install_options,
        install,
    ),
    "daemon uninstall": Command(
        "[--user] [--dry-run] [--force]",
        "Stop the service, and take away what install put there. Who holds slots works on, and is no\n"
        "longer counted. State, and what somebody has edited, stays.",
        _options,
        uninstall,
    ),
}
