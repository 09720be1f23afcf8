"""The configuration file: bytes become typed values, or every mistake at once. What it has no word on
is None or empty: settings.py knows the defaults.

Rule: nothing here opens a file or asks the system for more than the number of a group.
"""

from __future__ import annotations

import grp
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atmost import declarations
from atmost.declarations import Reader, Table
from atmost.errors import InvalidValue
from atmost.wire import Declaration, TemplateDeclaration
from atmostd import config
from atmostd.bounds import bound_names, check_bound

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

_MODE = re.compile(r"0?[0-7]{3}")


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What a file says. None: nothing."""

    socket: Path | None = None
    socket_mode: int | None = None
    socket_gid: int | None = None
    admin_gid: int | None = None
    state_dir: Path | None = None
    runtime_dir: Path | None = None
    bounds: dict[str, float] = field(default_factory=dict)
    log_level: str | None = None
    log_format: str | None = None
    idle_seconds: float | None = None
    limits: list[Declaration] = field(default_factory=list)
    templates: list[TemplateDeclaration] = field(default_factory=list)


def parse(path: str, data: bytes) -> FileSettings:
    """Read a file's bytes. Raises ConfigInvalid with every mistake."""
    reader = Reader(path, data)
    socket, state = reader.section("socket"), reader.section("state")
    admin, log, daemon = (reader.section(name) for name in ("admin", "log", "daemon"))
    socket.expect(("path", "mode", "group"))
    state.expect(("dir", "runtime_dir"))
    admin.expect(("group",))
    log.expect(("level", "format"))
    daemon.expect(("idle_seconds",))
    found = FileSettings(
        socket=socket.take("path", _check_path, None),
        socket_mode=socket.take("mode", _check_mode, None),
        socket_gid=socket.take("group", _check_group, None),
        admin_gid=admin.take("group", _check_group, None),
        state_dir=state.take("dir", _check_path, None),
        runtime_dir=state.take("runtime_dir", _check_path, None),
        bounds=_bounds(reader.section("bounds")),
        log_level=log.take("level", _one_of(LOG_LEVELS), None),
        log_format=log.take("format", _one_of(LOG_FORMATS), None),
        idle_seconds=daemon.take("idle_seconds", _check_idle, None),
        limits=declarations.limits_of(reader),
        templates=declarations.templates_of(reader),
    )
    reader.end()
    return found


def gid_of(group: Any) -> int | None:
    """Of a group's name, or of its number: that one need have no name. None if there is no such."""
    text = str(group)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        if text.isascii() and text.isdigit() and int(text) < config.GID_MAX:
            return int(text)
    return None


def _bounds(section: Table) -> dict[str, float]:
    names = bound_names()
    section.expect(names)
    return {
        name: section.take(name, lambda value, name=name: check_bound(name, value), 0.0)  # type: ignore[misc]
        for name in names
        if name in section
    }


def _check_path(path: Any) -> Path:
    if isinstance(path, str) and path.startswith("/") and "\0" not in path:
        return Path(path)
    raise InvalidValue("path", repr(path), "an absolute path, which begins with /")


def _check_mode(mode: Any) -> int:
    if isinstance(mode, str) and _MODE.fullmatch(mode):
        return int(mode, 8)
    raise InvalidValue("mode", repr(mode), 'a mode as chmod has it, in quotes, such as "0660"')


def _check_group(group: Any) -> int:
    known = isinstance(group, str | int) and not isinstance(group, bool)
    gid = gid_of(group) if known else None
    if gid is None:
        raise InvalidValue("group", repr(group), "a group of this host, by its name or number")
    return gid


def _check_idle(seconds: Any) -> float:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if is_number and 0 <= seconds <= config.WAIT_SECONDS_MAX:
        return float(seconds)
    raise InvalidValue("idle_seconds", repr(seconds), "a number of seconds >= 0; 0: never")


def _one_of(words: tuple[str, ...]) -> Any:
    def check(word: Any) -> str:
        if isinstance(word, str) and word in words:
            return word
        raise InvalidValue("", repr(word), "one of " + ", ".join(words))

    return check
