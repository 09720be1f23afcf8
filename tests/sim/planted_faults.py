"""Planted bugs (planted.py) in what the daemon does about rude clients, damaged files, a full disk, and
several who change limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from atmost import wire
from atmost.wire import Release
from atmostd import connection, grants, limit
from atmostd.configuration import Configuration
from atmostd.connection import Connection
from atmostd.damage import Untrusted
from atmostd.declared import Declared
from atmostd.in_force import put_in_force
from atmostd.journal import Journal
from atmostd.keeping import Keeping
from atmostd.listing import declared_of
from atmostd.peer import Peer
from atmostd.session import Session, Sessions
from atmostd.snapshot import State as Saved
from atmostd.store import Store
from atmostd.ticket import Effect, Granted, Refused, Ticket
from tests.sim.world import World

Patch = tuple[Any, str, Any]
Planted = Callable[[World], Iterator[Patch]]


# Rude clients


def session_of_another_process(world: World) -> Iterator[Patch]:
    """Whoever names a session has it."""
    yield Peer, "is_same", lambda self, other: True


def release_by_number_alone(world: World) -> Iterator[Patch]:
    """The request that is let go of is looked for among everybody's."""

    def release(self: Session, message: Release) -> None:
        for session in (self, *self._sessions):
            if message.request in session.tickets:
                session._let_go(message.request)
                return

    yield connection, "_OF_SESSION", {**connection._OF_SESSION, Release: release}


def anybody_changes_limits(world: World) -> Iterator[Patch]:
    """Who asks for a change is not looked at."""
    yield Connection, "_check_may_change", lambda self: None


def one_reader_for_all(world: World) -> Iterator[Patch]:
    """The beginning of a frame is kept for whoever sends the next bytes."""

    def made(self: Connection, host: Any) -> None:
        original(self, host)
        self._frames = shared

    shared = wire.FrameReader()
    original = Connection.__init__
    yield Connection, "__init__", made


# Damaged files


def damaged_journal_is_none(world: World) -> Iterator[Patch]:
    """A journal that cannot be read is taken for none."""

    def open_(self: Journal) -> Any:
        try:
            return original(self)
        except Untrusted:
            return None

    original = Journal.open
    yield Journal, "open", open_


def damaged_state_is_none(world: World) -> Iterator[Patch]:
    """A state that cannot be read is taken for none."""

    def newest(self: Store) -> Saved | None:
        try:
            return original(self)
        except Untrusted:
            return None

    original = Store._newest
    yield Store, "_newest", newest


def the_one_before_is_the_newest(world: World) -> Iterator[Patch]:
    """Where the newest state is damaged or gone, the one before is good enough."""

    def newest(self: Store) -> Saved | None:
        try:
            return original(self)
        except Untrusted:
            if self._best is None:
                raise
            return self._best

    original = Store._newest
    yield Store, "_newest", newest


def no_time_for_holders(world: World) -> Iterator[Patch]:
    """After the journal was lost, free slots are given away at once."""
    yield Sessions, "let_holders_come_first", lambda self, then: self.loop.call_later(1, then)


def who_comes_back_is_believed(world: World) -> Iterator[Patch]:
    """A holder that nothing is known of gets its slots, whether or not others have them."""

    def readmit(ticket: Ticket, now: int) -> list[Effect]:
        grants.take(ticket, now)
        for part in ticket.parts:
            part.limit.held = min(part.limit.held, part.limit.limit)
        return [Granted(ticket)]

    yield limit, "readmit", readmit


def lost_and_not_told(world: World) -> Iterator[Patch]:
    """A holder whose slots others have hears nothing of it."""

    def readmit(ticket: Ticket, now: int) -> list[Effect]:
        return [effect for effect in original(ticket, now) if not isinstance(effect, Refused)]

    original = grants.readmit
    yield limit, "readmit", readmit


# A journal that cannot be written


def written_behind_a_torn_frame(world: World) -> Iterator[Patch]:
    """After a write that failed the next ones go to the same file."""

    def append(self: Journal, noted: Any) -> None:
        original(self, noted)
        self._torn = False

    original = Journal._append
    yield Journal, "_append", append


def healed_without_a_checkpoint(world: World) -> Iterator[Patch]:
    """When the disk takes writes again, what it has not taken meanwhile is not written."""

    def try_again(self: Journal) -> None:
        self._retry = None
        self.trouble = ""
        self._torn = False

    yield Journal, "_try_again", try_again


# Several who change limits


def changes_not_one_after_another(world: World) -> Iterator[Patch]:
    """Changes that come during a write do not wait for it."""

    async def run(self: Configuration) -> None:
        loop = world.host.life.loop
        while not self._stopping or self._inbox:
            await self._wake.wait()
            self._wake.clear()
            loop.create_task(self._change(self._next_batch()))

    yield Configuration, "run", run


def in_force_before_disk(world: World) -> Iterator[Patch]:
    """Limits are as asked while that is being written, whether or not it can be."""

    async def write(self: Keeping, draft: dict[str, Declared | None], *more: Any) -> None:
        for name, declared in draft.items():
            actor = self._registry.actors.get(name)
            if actor is not None and declared not in (None, declared_of(actor)):
                put_in_force(self._registry, name, declared)
        await original(self, draft, *more)

    original = Keeping.write
    yield Keeping, "write", write


FAULTS: tuple[Planted, ...] = (
    session_of_another_process,
    release_by_number_alone,
    anybody_changes_limits,
    one_reader_for_all,
    damaged_journal_is_none,
    damaged_state_is_none,
    the_one_before_is_the_newest,
    no_time_for_holders,
    who_comes_back_is_believed,
    lost_and_not_told,
    written_behind_a_torn_frame,
    healed_without_a_checkpoint,
    changes_not_one_after_another,
    in_force_before_disk,
)
