"""Proofs of life, and what is to be read in `systemctl status`.

Rule 1: WATCHDOG=1 is said only after something went all the way that a request goes: a connection of our
own through the accept loop and back, a message through an actor, a frame into the journal. Who does not
come back keeps the next word from being said, and systemd then shoots us and starts us again.
Rule 2: what another start would not mend is no reason to be shot: a disk that refuses, a socket whose
path somebody took away. Such trouble is told in the status, and the limits go on being enforced. But
trouble that nobody is trying to mend any more is a bug, and one that a start mends.
Rule 3: at rest nothing wakes up but for the watchdog: the status follows what is written to the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from atmost import wire
from atmostd import config
from atmostd.actor import Actor, Surroundings
from atmostd.clock import Clock
from atmostd.journal import Journal
from atmostd.limit import Limit
from atmostd.systemd import Manager
from atmostd.ticket import Edit, Effect, Event
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


class Silent(Exception):
    """A proof failed, and a start would mend it."""


class Watch:
    """Tells systemd that we serve, what we do, and that we are alive."""

    def __init__(
        self, manager: Manager, path: Path, told: Callable[[], str], inside: Inside | None = None
    ) -> None:
        """`path`: where we listen. `told`: the status. `inside`: what there is to prove behind that."""
        self._notifier = manager.notifier
        self._seconds = manager.watchdog_seconds
        self._path = path
        self._told = told
        self._inside = inside
        self._loop = asyncio.get_running_loop()
        self._last = ""  # the status that systemd has
        self._trouble = ""  # why nobody can connect
        self._timer: asyncio.TimerHandle | None = None
        self._status_timer: asyncio.TimerHandle | None = None
        self._proof: asyncio.Task[None] | None = None

    def start(self) -> None:
        """We serve from now on."""
        if not self._notifier.wanted:
            return
        self._say_ready()
        if self._inside is not None:
            self._inside.journal.on_written = self._something_happened
        if self._seconds is not None:
            self._prove_soon()

    def stop(self) -> None:
        """We serve no more."""
        if self._inside is not None:
            self._inside.journal.on_written = None
        for waits in (self._timer, self._status_timer, self._proof):
            if waits is not None:
                waits.cancel()

    def _say_ready(self) -> None:
        self._last = self._status()
        if not self._notifier.tell("READY=1", f"STATUS={self._last}"):
            # Who is not ready is not served any more, so this one message must arrive.
            self._status_timer = self._loop.call_later(config.NOTIFY_RETRY_SECONDS, self._say_ready)

    # The status

    def _something_happened(self) -> None:
        """Something was written to the journal: say so, but not of each."""
        assert self._inside is not None
        self._inside.journal.on_written = None
        self._status_timer = self._loop.call_later(config.STATUS_SECONDS, self._say_status)

    def _say_status(self) -> None:
        if self._inside is not None:
            self._inside.journal.on_written = self._something_happened
        status = self._status()
        if status != self._last and self._notifier.tell(f"STATUS={status}"):
            self._last = status

    def _status(self) -> str:
        return "; ".join(filter(None, (self._told(), self._trouble))).replace("\n", " ")

    # The watchdog

    def _prove_soon(self) -> None:
        assert self._seconds is not None
        pause = self._seconds / config.PROOFS_A_WATCHDOG
        self._timer = self._loop.call_later(pause, self._begin_proof)

    def _begin_proof(self) -> None:
        self._proof = self._loop.create_task(self._prove())

    async def _prove(self) -> None:
        """If this never ends, nothing more is said."""
        try:
            self._note_trouble(await self._come_in())
            if self._inside is not None:
                await self._inside.prove()
            self._notifier.tell("WATCHDOG=1")
        except Silent as silent:
            _log.error("not alive as it should be: %s", silent)
        self._say_status()
        self._prove_soon()

    async def _come_in(self) -> str:
        """Connect to ourselves, and hear an answer. Returns the trouble that a start would not mend.

        Raises Silent: there was no room to connect, or no answer.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(self._path))
        except BlockingIOError as error:
            raise Silent("so many wait to be accepted that no more can") from error
        except OSError as error:
            return f"nobody can connect to {self._path}: {error.strerror or error}"
        try:
            writer.write(wire.encode(_hello()))
            # Any answer will do, also that there are too many of us.
            if not await reader.read(wire.FRAME_BYTES_MAX):
                raise Silent("a connection was closed without a word")
        except OSError as error:
            raise Silent(f"a connection was lost: {error.strerror or error}") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return ""

    def _note_trouble(self, trouble: str) -> None:
        if trouble and not self._trouble:
            _log.error("%s; mend it with: systemctl restart atmostd.socket", trouble)
        self._trouble = trouble


class Inside:
    """What a request meets behind the socket: an actor, the end of a turn, the journal."""

    def __init__(
        self, turn: Turn, journal: Journal, clock: Clock, crash: Callable[[BaseException], None]
    ) -> None:
        self.journal = journal
        self._turn = turn
        self._acted = False
        # A limit of nobody: it is in no register, and what it does is written nowhere.
        rules = Limit("watchdog", 1, 0.0, True, clock())
        around = Surroundings(clock, turn, self._note, _deliver_nothing, crash)
        self._actor = Actor(rules, "hand", around)

    async def prove(self) -> None:
        """Raises Silent."""
        self._acted = False
        self._actor.post(Edit(1, 0.0, True))
        await self._turn.over()
        if not self._acted:
            raise Silent("an actor did not act on its message")
        if not self.journal.prove():
            raise Silent(f"{self.journal.trouble}, and nobody tries it again")

    def _note(self, actor: Actor, event: Event, now: int) -> None:
        self._acted = True


def _hello() -> wire.Hello:
    name = os.urandom(wire.SESSION_BYTES)
    return wire.Hello(wire.PROTOCOL_VERSION, name, os.getpid(), ["watchdog"], "", "atmostd")


def _deliver_nothing(effect: Effect) -> None:
    """Nobody waits there."""


def status_line(limits: int, held: int, waiting: int, trouble: str) -> str:
    """Such as: 12 limits, 34 held, 5 waiting."""
    line = f"{limits} {'limit' if limits == 1 else 'limits'}, {held} held, {waiting} waiting"
    return f"{line}; {trouble}" if trouble else line
