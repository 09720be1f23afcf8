"""The configuration file, read again while the daemon runs.

Rule: limits and templates first, as one durable step (configuration.py); only then the rest. A file with a
mistake changes nothing. What only a restart can change is said in the log.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from atmost.errors import ConfigInvalid
from atmostd import log
from atmostd.bounds import Bounds
from atmostd.declared import Word
from atmostd.idle import Idle
from atmostd.peer import Admins
from atmostd.registry import Registry
from atmostd.settings import Settings

SWITCH_SECONDS = 0.000_2  # until the loop has its turn while the file is read
NEEDS_RESTART = ("socket", "socket_mode", "socket_gid", "state_dir", "runtime_dir")

_log = logging.getLogger(__name__)


class Reloadable(Protocol):
    """What a reload changes: the daemon."""

    bounds: Bounds
    admins: Admins
    registry: Registry
    idle: Idle

    def bounds_within(self, bounds: Bounds) -> Bounds: ...


class Reloading:
    """Reads, and remembers what is in force."""

    def __init__(self, settings: Settings, daemon: Reloadable) -> None:
        self.settings = settings  # in force
        self._daemon = daemon
        self._next = settings  # read, and in force once its limits are
        self.trouble = ""  # why a restart would fail, though all is well now

    async def read(self) -> tuple[str, Word | None]:
        """The file's path and what it says; None: there is none. Raises ConfigInvalid, after it is
        logged."""
        try:
            # In a thread: a long file takes seconds, and others have their turn meanwhile.
            self._next, word = await asyncio.to_thread(self._read_patiently)
        except ConfigInvalid as error:
            for mistake in error.mistakes:
                _log.error("not reloaded: %s: %s", error.path, mistake, extra={"bounded": True})
            self.trouble = (
                f"the configuration file {error.path} was refused ({_first_of(error.mistakes)}): "
                "what it said before stays in force, but a restart would fail; mend it, then: "
                "atmost daemon reload"
            )
            raise
        self.trouble = ""
        path = str(self._next.config_path)
        return path, None if self._next.config_path is None else word

    def _read_patiently(self) -> tuple[Settings, Word]:
        """In a thread of its own. Nobody shall wait for it longer than for anything else."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            settings = self._read()
            return settings, Word.of(settings.limits, settings.templates)
        finally:
            sys.setswitchinterval(before)

    def _read(self) -> Settings:
        before = self.settings.config_path
        settings = self.settings.read_again()
        if before is not None and settings.config_path is None:
            # Its limits are not deleted by a slip of the hand; an empty file would say that.
            raise ConfigInvalid(str(before), ["it was there, and is not any more"])
        return settings

    def take_over(self) -> None:
        """Put what was read in force, but for limits and templates: they are."""
        before, now, daemon = self.settings, self._next, self._daemon
        daemon.bounds.take_over(daemon.bounds_within(now.bounds))
        for actor in daemon.registry.actors.values():
            actor.limit.waiters_max = now.bounds.waiters_per_limit
        daemon.admins.gid = now.admin_gid
        daemon.idle.change(now.idle_seconds)
        if (now.log_level, now.log_format) != (before.log_level, before.log_format):
            log.begin(logging.getLevelNamesMapping()[now.log_level.upper()], now.log_format)
        for name in NEEDS_RESTART:
            if getattr(now, name) != getattr(before, name):
                _log.warning(
                    "%s is %s in the configuration now, but stays %s until the daemon is restarted",
                    name,
                    getattr(now, name),
                    getattr(before, name),
                )
        self.settings = replace(now, **{name: getattr(before, name) for name in NEEDS_RESTART})


def _first_of(mistakes: Sequence[str]) -> str:
    more = len(mistakes) - 1
    return f"{mistakes[0]}; and {more} more" if more else mistakes[0]
