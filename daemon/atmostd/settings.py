"""What this daemon was told to be: options of the command line, then the configuration file, then
defaults."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, TypeVar

from atmost import paths
from atmost.declarations import read_file
from atmost.errors import ConfigInvalid, InvalidValue
from atmost.wire import Declaration, TemplateDeclaration
from atmostd import background, config, config_file, files
from atmostd.bounds import Bounds, bound_names, bounds_told, check_bound
from atmostd.config_file import FileSettings, gid_of

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h
FILE_NAME = "atmostd.toml"
SYSTEM_CONFIG_DIR = "/etc/atmost"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where this daemon listens and keeps its files, who may change limits, who may take what, and the
    limits that its file declares."""

    socket: Path
    state_dir: Path
    runtime_dir: Path
    socket_mode: int  # who may connect
    bounds: Bounds
    admin_gid: int | None  # who may change limits, besides root and the daemon's own user
    socket_gid: int | None = None  # whose members may connect, if the mode lets a group
    log_level: str = config.LOG_LEVEL
    log_format: str = config.LOG_FORMAT
    idle_seconds: float = config.IDLE_SECONDS  # leave when nobody was there for so long; 0: never
    detach: bool = False  # go to the background
    ready_fd: int | None = None  # where to say that it listens, or why it does not
    config_path: Path | None = None  # the file that was read; None: there is none
    limits: list[Declaration] = field(default_factory=list)  # as that file declares them
    templates: list[TemplateDeclaration] = field(default_factory=list)
    given: argparse.Namespace = field(default_factory=argparse.Namespace)  # the options
    socket_given: bool = False  # by who started us: no option or file has a word on it

    def listening_on(self, path: Path) -> Settings:
        """With the socket that we were given."""
        return replace(self, socket=path, socket_given=True)

    def read_again(self) -> Settings:
        """The same options, and the configuration file as it is now. Raises ConfigInvalid."""
        told = Settings.of(self.given)
        return told.listening_on(self.socket) if self.socket_given else told

    @classmethod
    def from_arguments(cls, arguments: list[str] | None = None) -> Settings:
        """Read the command line and the configuration file. Exits with 2 and the usage line if the
        first is wrong, with 78 and every mistake on stderr if the second is."""
        parser = arguments_parser()
        given = parser.parse_args(arguments)
        if problem := Bounds(**dict(given.bound)).problem:
            parser.error(f"argument --bound: {problem}")
        try:
            return cls.of(given)
        except ConfigInvalid as error:
            _exit_with(error)

    @classmethod
    def of(cls, given: argparse.Namespace) -> Settings:
        """What the options and, as it is now, the configuration file say. Raises ConfigInvalid."""
        of_system = os.geteuid() == 0 and not given.user
        path = given.config or default_path(of_system)
        said = FileSettings()
        if given.config or os.path.exists(path):  # also where we may not even look
            said = config_file.parse(str(path), _read(path))
        else:
            path = None
        bounds = Bounds(**(said.bounds | dict(given.bound)))  # type: ignore[arg-type]
        if bounds.problem:
            raise ConfigInvalid(str(path), [f"[bounds]: {bounds.problem}"])
        runtime_dir = (
            given.runtime_dir
            or said.runtime_dir
            or Path(paths.SYSTEM_RUNTIME_DIR if of_system else paths.user_runtime_dir())
        )
        state_dir = (
            given.state_dir
            or said.state_dir
            or Path(paths.SYSTEM_STATE_DIR if of_system else paths.user_state_dir())
        )
        return cls(
            socket=given.socket or said.socket or runtime_dir / paths.SOCKET_NAME,
            state_dir=state_dir,
            runtime_dir=runtime_dir,
            # Anyone on the host may use a system daemon's limits; not change them.
            socket_mode=_first(said.socket_mode, 0o666 if of_system else 0o600),
            bounds=bounds,
            admin_gid=said.admin_gid if given.admin_group is None else given.admin_group,
            socket_gid=said.socket_gid,
            log_level=said.log_level or config.LOG_LEVEL,
            log_format=said.log_format or config.LOG_FORMAT,
            idle_seconds=_first(given.idle_seconds, _first(said.idle_seconds, config.IDLE_SECONDS)),
            detach=given.detach,
            ready_fd=given.ready_fd,
            given=given,
            config_path=path,
            limits=said.limits,
            templates=said.templates,
        )


def default_path(of_system: bool, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration file is if nobody names another; it need not be there."""
    of_unit = environ.get("CONFIGURATION_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if os.path.isabs(of_unit):
        return Path(of_unit) / FILE_NAME
    if of_system:
        return Path(SYSTEM_CONFIG_DIR) / FILE_NAME
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    return Path(base) / "atmost" / FILE_NAME


def _read(path: Path) -> bytes:
    """Raises ConfigInvalid, also if somebody else may write there: he would have the daemon's rights."""

    def check(descriptor: int) -> None:
        try:
            files.check_declaring(path, descriptor)
        except files.NotOurs as error:
            raise ConfigInvalid(str(path), [f"{error}: {error.cure}"]) from error

    return read_file(str(path), check)


def _exit_with(error: ConfigInvalid) -> NoReturn:
    for mistake in error.mistakes:
        print(f"atmostd: {error.path}: {mistake}", file=sys.stderr)
    raise SystemExit(EXIT_CONFIG)


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def arguments_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="atmostd",
        description="Keep the concurrency and rate limits of this host. Runs in the foreground.\n"
        "An option wins over the configuration file.",
        epilog=bounds_told(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=_path,
        help=f"the configuration file; else {default_path(os.geteuid() == 0)}, if it is there",
    )
    parser.add_argument("--socket", metavar="PATH", type=_path, help="listen here")
    parser.add_argument(
        "--user",
        action="store_true",
        help="be root's own, in the folders and with the rights of any user's",
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", type=_path, help="limits and levels, kept over reboots"
    )
    parser.add_argument(
        "--runtime-dir", metavar="DIR", type=_path, help="the socket's folder, unless --socket"
    )
    parser.add_argument(
        "--admin-group",
        metavar="GROUP",
        type=_gid,
        help="its members may change limits, as root and the daemon's own user may",
    )
    parser.add_argument(
        "--bound",
        metavar="NAME=NUMBER",
        type=_bound_given,
        action="append",
        default=[],
        help="how much anybody may take; the names are below",
    )
    parser.add_argument(
        "--idle-seconds",
        metavar="SECONDS",
        type=_idle_seconds,
        help="leave when there was no client for so long; 0, as it is by itself: never",
    )
    parser.add_argument("--detach", action="store_true", help="go to the background")
    parser.add_argument(
        "--ready-fd",
        metavar="FD",
        type=background.descriptor,
        help="write a line to this descriptor when it listens, or else why it does not",
    )
    parser.add_argument("--version", action="version", version=f"atmostd {paths.version()}")
    return parser


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected a path")
    return Path(os.path.abspath(text))


def _gid(text: str) -> int:
    gid = gid_of(text)
    if gid is None:
        raise argparse.ArgumentTypeError(
            f"there is no group {text!r}; make it, or name another by its name or number"
        )
    return gid


def _idle_seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 <= seconds <= config.WAIT_SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not valid: expected seconds >= 0")
    return float(seconds)


def _bound_given(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if name not in bound_names():
        names = ", ".join(bound_names())
        raise argparse.ArgumentTypeError(f"no bound is named {name!r}; there are {names}")
    try:
        return name, check_bound(name, _number(number))
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{name} takes {error.expected}, not {number!r}") from None


def _number(text: str) -> float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return math.nan
