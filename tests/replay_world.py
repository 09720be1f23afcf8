"""Rules, registry, sessions and journal in one process, for tests of what a restart brings back.

Rule 1: the parts are the daemon's own; only the clock, the processes and the clients' ends of the
connections are not.
Rule 2: `facts` is all that a restart must not change, in values that can be compared.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

from atmost import wire
from atmostd import records, recovery
from atmostd.bounds import Bounds
from atmostd.declared import Templates
from atmostd.journal import Journal
from atmostd.limit import Limit
from atmostd.peer import Peer, Processes
from atmostd.records import AnyRecord
from atmostd.refusals import Refusals
from atmostd.registry import Registry, request_of
from atmostd.session import Session, Sessions
from atmostd.slates import Slates
from atmostd.snapshot import SavedTemplate
from atmostd.ticket import Delete, Edit, State, Ticket
from atmostd.turn import Turn

BOOT = "11111111-2222-3333-4444-555555555555"
STARTED = 77


class FakePeer(Peer):
    """A process that a test ends when it likes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.uid = 1000
        self.pidfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.started = STARTED
        self.inode = pid

    def is_ending(self) -> bool:
        return False


class FakeProcesses(Processes):
    """Those that live, and whoever watches them."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self._watched: list[FakePeer] = []

    def peer(self, pid: int) -> FakePeer:
        peer = FakePeer(pid)
        self._watched.append(peer)
        return peer

    def again(self, pid: int, uid: int, started: int, inode: int) -> Peer | None:
        return None if pid in self.dead else self.peer(pid)

    def kill(self, pid: int, sessions: Sessions) -> None:
        self.dead.add(pid)
        for session in sessions:
            if session.began.pid == pid:
                os.eventfd_write(session._peer.pidfd, 1)


class FakeLine:
    """The daemon's end of a client's connection."""

    order = 0

    def __init__(self) -> None:
        self.said: list[wire.Message] = []
        self.is_cut = False

    def send(self, message: wire.Message) -> None:
        self.said.append(message)

    def cut(self) -> None:
        self.is_cut = True

    def stop_watching(self, request: int) -> None: ...


class Facts(NamedTuple):
    limits: dict[str, Any]
    sessions: dict[bytes, Any]
    numbers: tuple[int, int]


class World:
    """One life of a daemon. It must be made in a running loop; `close` it."""

    def __init__(self, folder: Path, processes: FakeProcesses, now: int = 10**12) -> None:
        self.now = now
        self.processes = processes
        self.journal = Journal(folder, BOOT)
        self.alarms: list[tuple[int, Limit]] = []
        self.crashes: list[BaseException] = []
        self.turn = Turn(self.journal.write, self.clock, self.crashes.append)
        bounds = Bounds()
        refusals = Refusals(bounds, self.clock)
        self.registry = Registry(
            self.clock,
            self.turn,
            self.journal,
            self._wake_at,
            self.crashes.append,
            bounds,
            refusals,
        )
        self.registry.templates = Templates((SavedTemplate("gp?", 2, 0.3),))
        self.sessions = Sessions(
            self.registry, processes, self.clock, self.journal, bounds, refusals, Slates(folder)
        )
        self._recorded = self.journal.open()

    def clock(self) -> int:
        return self.now

    def begin(self) -> World:
        """What __main__ does, but for the configuration and the socket."""
        recovery.replay(self._recorded or (), self.registry, self.sessions)
        self.journal.begin(
            lambda: recovery.checkpoint(self.registry, self.sessions), self.turn.end_soon
        )
        return self

    def close(self) -> None:
        self.registry.stop()
        for session in list(self.sessions):
            self.sessions.loop.remove_reader(session._peer.pidfd)
            session._peer.close()
        self.journal.close()

    async def settle(self) -> None:
        """Wait until this turn has been acted on, deaths too."""
        for _ in range(2):
            await asyncio.sleep(0)
            await self.turn.over()
        assert not self.crashes, self.crashes

    # What clients and operators do

    def hello(self, name: bytes, pid: int) -> Session:
        message = wire.Hello(1, name, pid, ["job", str(pid)], "ada", "")
        return self.sessions.greet(message, self.processes.peer(pid), is_admin=True)

    def edit(self, name: str, *fields: Any) -> None:
        self.registry.actors[name].post(Edit(*fields))

    def delete(self, name: str) -> None:
        actor = self.registry.actors[name]
        self.registry.forget(name)
        actor.post(Delete())

    def checkpoint_next(self) -> None:
        """The next write rolls the journal over."""
        self.journal._bytes_max = 0

    def ring(self) -> None:
        """Every alarm that is due rings, as late as it is now."""
        due = [alarm for alarm in self.alarms if alarm[0] <= self.now]
        self.alarms = [alarm for alarm in self.alarms if alarm[0] > self.now]
        for instant, limit in sorted(due, key=lambda alarm: alarm[0]):
            self.registry.ring(limit, instant)

    def _wake_at(self, limit: Limit, instant: int) -> None:
        self.alarms.append((instant, limit))

    # What must not change

    def facts(self) -> Facts:
        return Facts(
            {name: self._limit(actor.limit) for name, actor in self.registry.actors.items()}
            | {f"{name} origin": actor.origin for name, actor in self.registry.actors.items()},
            {
                session.began.session: (
                    session.began,
                    {n: _ticket(ticket) for n, ticket in session.tickets.items()},
                    set(session._spent),
                )
                for session in self.sessions
                if session.tickets
            },
            (self.registry.arrivals, self.registry.next_token),
        )

    def revoked(self) -> set[tuple[bytes, int]]:
        """Grants that an operator has released, and whose holders may not know it yet."""
        return {(s.began.session, request) for s in self.sessions for request in s.revoked}

    def _limit(self, limit: Limit) -> Any:
        line = [ticket.number for ticket in limit.line]
        level = limit.level.at_rate(limit.level.rate, self.now)
        return (
            limit.limit,
            limit.active,
            level.rate,
            level.units,
            limit.held,
            sorted(limit.holders),
            line,
            # A passer counts against those alone who came before it.
            [number for number in limit.passers if line and number > line[0]],
        )


def _ticket(ticket: Ticket) -> Any:
    request = request_of(ticket)
    granted = ticket.state in (State.HELD, State.ENDED)
    return (
        ticket.number,
        ticket.state,
        request.token if granted else 0,
        request.unguarded,
        request.by_process,
        ticket.asked_at,
        ticket.deadline if ticket.state is State.WAITING else None,
        ticket.granted_at,
        ticket.strict,
        # What a granted ticket asked of a limit that is deleted matters to nobody.
        [
            (part.limit.name, part.hold, part.spend, part.taken)
            for part in ticket.parts
            if not granted or (part.taken and not part.limit.deleted)
        ],
        [
            outer.number
            for outer in ticket.inside
            if any(part.taken and not part.limit.deleted for part in outer.parts)
        ],
    )


def replayed(world: World, folder: Path) -> World:
    """What the next daemon would begin with, if this one died now; its journal is its own."""
    data = (world.journal.path).read_bytes()
    after = World(folder, world.processes, world.now)
    found: list[AnyRecord] | None = records.read(data, BOOT)
    assert found is not None
    after._recorded = found
    recovery.replay(found, after.registry, after.sessions)
    return after
