"""What this daemon was told to be: options of the command line, then the configuration file, then
defaults."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from atmost import paths
from atmost.declarations import read_file
from atmost.errors import ConfigInvalid, InvalidValue
from atmost.wire import Declaration, TemplateDeclaration
from atmostd import config, config_file
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
    idle_seconds: float = config.IDLE_SECONDS
    config_path: Path | None = None  # the file that was read; None: there is none
    limits: list[Declaration] = field(default_factory=list)  # as that file declares them
    templates: list[TemplateDeclaration] = field(default_factory=list)

    @classmethod
    def from_arguments(cls, arguments: list[str] | None = None) -> Settings:
        """Read the command line and the configuration file. Exits with 2 and the usage line if the
        first is wrong, with 78 and every mistake on stderr if the second is."""
        try:
            return cls.read(arguments)
        except ConfigInvalid as error:
            _exit_with(error)

    @classmethod
    def read(cls, arguments: list[str] | None = None) -> Settings:
        """The same, but a wrong file raises ConfigInvalid."""
        parser = _parser()
        given = parser.parse_args(arguments)
        path = given.config or default_path()
        said = FileSettings()
        if given.config or os.path.exists(path):  # also where we may not even look
            said = config_file.parse(str(path), read_file(str(path)))
        else:
            path = None
        of_file = Bounds(**said.bounds)  # type: ignore[arg-type]
        if of_file.problem and not given.bound:
            raise ConfigInvalid(str(path), [f"[bounds]: {of_file.problem}"])
        bounds = Bounds(**(said.bounds | dict(given.bound)))  # type: ignore[arg-type]
        if bounds.problem:
            parser.error(f"argument --bound: {bounds.problem}")
        root = os.geteuid() == 0
        runtime_dir = (
            given.runtime_dir
            or said.runtime_dir
            or Path(paths.SYSTEM_RUNTIME_DIR if root else paths.user_runtime_dir())
        )
        state_dir = (
            given.state_dir
            or said.state_dir
            or Path(paths.SYSTEM_STATE_DIR if root else paths.user_state_dir())
        )
        return cls(
            socket=given.socket or said.socket or runtime_dir / paths.SOCKET_NAME,
            state_dir=state_dir,
            runtime_dir=runtime_dir,
            # Anyone on the host may use a system daemon's limits; not change them.
            socket_mode=_first(said.socket_mode, 0o666 if root else 0o600),
            bounds=bounds,
            admin_gid=said.admin_gid if given.admin_group is None else given.admin_group,
            socket_gid=said.socket_gid,
            log_level=said.log_level or config.LOG_LEVEL,
            log_format=said.log_format or config.LOG_FORMAT,
            idle_seconds=_first(said.idle_seconds, config.IDLE_SECONDS),
            config_path=path,
            limits=said.limits,
            templates=said.templates,
        )


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration file is if nobody names another; it need not be there."""
    of_unit = environ.get("CONFIGURATION_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if os.path.isabs(of_unit):
        return Path(of_unit) / FILE_NAME
    if os.geteuid() == 0:
        return Path(SYSTEM_CONFIG_DIR) / FILE_NAME
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.config")
    return Path(base) / "atmost" / FILE_NAME


def _exit_with(error: ConfigInvalid) -> NoReturn:
    for mistake in error.mistakes:
        print(f"atmostd: {error.path}: {mistake}", file=sys.stderr)
    raise SystemExit(EXIT_CONFIG)


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _parser() -> argparse.ArgumentParser:
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
        help=f"the configuration file; else {default_path()}, if it is there",
    )
    parser.add_argument("--socket", metavar="PATH", type=_path, help="listen here")
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
