"""The files of the service: where each goes, what is in it, and whether somebody has edited it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from atmost import paths
from atmost.cli.systemctl import CannotInstall

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/atmost.conf")
SYSUSERS_WEB = Path("/etc/sysusers.d/atmost-web.conf")
SETTINGS = Path("/etc/atmost/atmostd.toml")
WEB = "atmost-web.service"
_OLD = ".before"  # behind the name of an edited file that was replaced
_MARK = re.compile(rb"# Written by `atmost daemon install`; checksum ([0-9a-f]{64})\.[^\n]*\n")
# What the units in the repository have, for whoever packages them; here it is what is installed.
_DAEMON, _COMMAND = "/usr/bin/atmostd", "/usr/bin/atmost"
_HIDDEN = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")  # ProtectHome=, PrivateTmp=
_UNIQUE_INODES = (6, 9)  # the first Linux whose pidfds have them


class File(NamedTuple):
    """One file of the service."""

    path: Path
    text: str
    kind: str  # unit, users, settings

    def state(self) -> str:
        """none, same, old (an earlier install wrote it), edited (somebody has changed or made it)."""
        found = self._read()
        if found is None:
            return "none"
        if found == self._marked():
            return "same"
        return "old" if _is_ours(found) else "edited"

    def is_ours(self) -> bool:
        """Whether it is there as an install wrote it."""
        found = self._read()
        return found is not None and _is_ours(found)

    def write(self, keep_the_old: bool) -> None:
        """All of it or nothing. Raises CannotInstall."""
        new = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if keep_the_old:
                self.path.replace(self.path.with_name(self.path.name + _OLD))
            new.write_bytes(self._marked())
            new.chmod(0o644)
            new.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise CannotInstall(f"cannot write {self.path}: {error.strerror or error}") from error

    def remove(self) -> None:
        """Raises CannotInstall."""
        try:
            self.path.unlink(missing_ok=True)
            if self.kind == "settings":
                self.path.parent.rmdir()
        except OSError as error:
            if self.path.exists():
                raise CannotInstall(f"cannot remove {self.path}: {error.strerror}") from error

    def _read(self) -> bytes | None:
        """None: there is none. A link is somebody's decision (a mask), whatever it leads to."""
        if self.path.is_symlink():
            return b""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotInstall(f"cannot read {self.path}: {error.strerror}") from error

    def _marked(self) -> bytes:
        data = self.text.encode()
        how = " Edit it, and it is yours." if self.kind == "settings" else ""
        mark = f"# Written by `atmost daemon install`; checksum {_checksum(data)}.{how}\n"
        return mark.encode() + data


def units_folder(user: bool) -> Path:
    """Where the units go."""
    if not user:
        return SYSTEM_UNITS
    config = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(config if os.path.isabs(config) else os.path.expanduser("~/.config"))
    return base / "systemd" / "user"


def files(user: bool, command: list[str], web: bool = False) -> list[File]:
    """All of them, in the order in which they are put in place. `command`: see daemon_command. `web`: also
    those of the page."""
    units, source = units_folder(user), templates() / "user" if user else templates()
    found = []
    if not user:
        found.append(File(SYSUSERS, _read(source / "sysusers.conf"), "users"))
        if web:
            found.append(File(SYSUSERS_WEB, _read(source / "sysusers-web.conf"), "users"))
        found.append(File(SETTINGS, _read(source / "atmostd.toml"), "settings"))
    for name in ("atmostd.service", "atmostd.socket", *((WEB,) if web else ())):
        text = _fit(_read(source / name), command) if command else _read(source / name)
        found.append(File(units / name, text, "unit"))
    return found


def templates() -> Path:
    """The folder of the units: in the wheel beside this package, in a checkout at its top."""
    import atmost

    package = Path(atmost.__file__).parent
    installed = package / "systemd"
    return installed if installed.is_dir() else package.parent.parent / "systemd"


def daemon_command(user: bool) -> list[str]:
    """How the daemon is started: the atmostd beside the command that runs. Raises CannotInstall: there
    is none, or the service could not get there."""
    if find_spec("atmostd") is None or find_spec("uvloop") is None or find_spec("aiofiles") is None:
        raise CannotInstall(
            "the daemon's packages are not installed beside this command: pip install 'atmost[daemon]'"
        )
    if not user:
        _check_reach()
    for folder in (Path(sys.argv[0]).parent, Path(sys.executable).parent):
        beside = Path(os.path.abspath(folder)) / "atmostd"
        if os.access(beside, os.X_OK) and beside.is_file():
            return [str(beside)]
    return [sys.executable, "-m", "atmostd"]


def check_web() -> None:
    """Raises CannotInstall: the page's packages are missing."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise CannotInstall(
            "the page's packages are not installed beside this command: pip install 'atmost[web]'"
        )


def what_is_kept(user: bool) -> list[str]:
    """What an uninstall leaves there, in words."""
    state = Path(paths.user_state_dir() if user else paths.SYSTEM_STATE_DIR)
    kept = [f"the state in {state}"] if state.exists() else []
    if not user:
        token = Path("/var/lib/atmost-web")
        kept += [f"the token of the page in {token}"] if token.exists() else []
        kept.append("the users and groups atmost and atmost-admin")
    return kept


def _check_reach() -> None:
    """The service runs as a user of its own, that has to get to Python and to us. Raises CannotInstall."""
    import atmost

    for path in (
        sys.executable,
        os.path.realpath(sys.executable),
        os.path.realpath(atmost.__file__),
    ):
        hidden = any(path.startswith(f"{top}/") for top in _HIDDEN)
        if hidden or not _everybody_gets_to(Path(path)):
            raise CannotInstall(
                f"the service, which runs as the user atmost and sees no home folders, cannot get to "
                f"{path}; install atmost where everybody gets, for example: python3 -m venv "
                "/opt/atmost && /opt/atmost/bin/pip install 'atmost[daemon]'; or take --user"
            )


def _everybody_gets_to(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return all(parent.stat().st_mode & 0o001 for parent in path.parents)
    return False


def _fit(text: str, command: list[str]) -> str:
    """The unit for what is installed, and for this kernel."""
    daemon = " ".join(_word(word) for word in command)
    client = str(Path(command[0]).with_name("atmost"))
    if not os.access(client, os.X_OK):
        client = shlex.join([sys.executable, "-m", "atmost"])
    text = text.replace(f"={_DAEMON}", f"={daemon}").replace(f"={_COMMAND} ", f"={client} ")
    if not _has_unique_inodes(os.uname().release):
        text = text.replace("\nProtectProc=invisible\n", "\nProtectProc=default\n")
    return text


def _word(text: str) -> str:
    """As systemd.service(5) reads it."""
    text = text.replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if " " in text else text


def _has_unique_inodes(release: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _UNIQUE_INODES


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise CannotInstall(f"this installation is not whole: {path}: {error.strerror}") from error


def _is_ours(data: bytes) -> bool:
    found = _MARK.match(data)
    return found is not None and found[1].decode() == _checksum(data[found.end() :])


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
