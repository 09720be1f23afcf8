"""Bugs that somebody could have made, planted one at a time, to see that the simulation finds them.

Each is a list of attributes to replace, of the real modules, as in seams.py. Nothing of it is in the
product. `python3 dev.py sim --planted NAME` shows how one is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from atmost.exchange import Exchange
from atmost.wire import Release, Resume
from atmostd import connection, grants
from atmostd.clock import Alarm
from atmostd.keeping import Keeping
from atmostd.level import Level
from atmostd.limit import Limit
from atmostd.line import Line
from atmostd.peer import Peer
from atmostd.records import AnyRecord
from atmostd.recovery import Recovery
from atmostd.registry import Registry
from atmostd.session import Session, Sessions
from atmostd.snapshot import State as Saved
from atmostd.ticket import Effect, State, Ticket
from atmostd.turn import Turn
from tests.sim.planted_faults import FAULTS, Patch, Planted
from tests.sim.world import World


def _handler(message: type, handler: Callable[[Session, Any], None]) -> Patch:
    """The handlers are picked from a table by the type of the message."""
    return connection, "_OF_SESSION", {**connection._OF_SESSION, message: handler}


def reply_before_journal(world: World) -> Iterator[Patch]:
    """What is said leaves before it is written."""

    def end(self: Turn) -> None:
        speakers, self._speakers = self._speakers, []
        for speaker in speakers:
            speaker.flush()
        self._write_journal()

    yield Turn, "_end", end


def no_reconcile(world: World) -> Iterator[Patch]:
    """A client that comes back does not name a grant, and it stays on the books."""

    def resume(self: Session, message: Any) -> None:
        self._unnamed = set()
        original(self, message)

    original = Session.resume
    yield _handler(Resume, resume)


def waiter_leak_on_cancel(world: World) -> Iterator[Patch]:
    """Who gives up waiting stays in the line."""

    def release(self: Session, message: Release) -> None:
        ticket = self.tickets.get(message.request)
        if ticket is not None and ticket.state is not State.WAITING:
            original(self, message)

    original = Session.release
    yield _handler(Release, release)


def last_come_first_served(world: World) -> Iterator[Patch]:
    """Of those who ask the same the last goes first."""

    def heads(self: Line[Any]) -> list[Any]:
        lasts = [next(reversed(lane.values())) for lane in self._lanes.values()]
        return sorted(lasts, key=lambda ticket: ticket.number)

    def head_like(self: Line[Any], ticket: Any) -> Any:
        lane = self._lanes.get(ticket.shape)
        return next(reversed(lane.values())) if lane else None

    yield Line, "heads", heads
    yield Line, "head_like", head_like


def double_release(world: World) -> Iterator[Patch]:
    """A slot is given back twice when its holder lets go."""

    def leave(ticket: Ticket) -> None:
        taken = [part for part in ticket.parts if part.taken]
        original(ticket)
        for part in taken:
            part.limit.held = max(0, part.limit.held - part.hold)

    original = grants.leave
    yield grants, "leave", leave


def wall_clock_decay(world: World) -> Iterator[Patch]:
    """Levels decay by the clock that people set."""

    def settle(self: Level, now: int) -> None:
        original(self, now + world.wall_ahead - began)

    began = world.wall_ahead
    original = Level.settle
    yield Level, "settle", settle


def grant_to_a_dead_waiter(world: World) -> Iterator[Patch]:
    """The end of a session lets go of what it holds, and forgets what it waits for."""

    def let_go(self: Session, request: int) -> None:
        if self._line is None and self.tickets[request].state is State.WAITING:
            del self.tickets[request]
        else:
            original(self, request)

    original = Session._let_go
    yield Session, "_let_go", let_go


def token_reset(world: World) -> Iterator[Patch]:
    """A restart begins again with the first token."""

    def restore(self: Keeping, state: Saved | None) -> None:
        original(self, state)
        self._registry.next_token = 1

    original = Keeping.restore
    yield Keeping, "restore", restore


def _after_replay(do: Callable[[Registry], None]) -> Patch:
    def replay(self: Recovery, recorded: Iterable[AnyRecord]) -> None:
        original(self, recorded)
        do(self._registry)

    original = Recovery.replay
    return Recovery, "replay", replay


def spend_forgotten_on_restart(world: World) -> Iterator[Patch]:
    """A restart gives every rate limit a free burst."""

    def forget(registry: Registry) -> None:
        for actor in registry.actors.values():
            actor.limit.level.units = 0

    yield _after_replay(forget)


def holders_forgotten_on_restart(world: World) -> Iterator[Patch]:
    """A holder counts again only when it has come back."""

    def forget(registry: Registry) -> None:
        for actor in registry.actors.values():
            for ticket in list(actor.limit.holders.values()):
                grants.leave(ticket)

    yield _after_replay(forget)


def places_lost_on_restart(world: World) -> Iterator[Patch]:
    """Who waits stands at the end of the line when it comes back."""

    def forget(registry: Registry) -> None:
        for actor in registry.actors.values():
            for ticket in list(actor.limit.line):
                grants.leave(ticket)
                ticket.owner.asker.drop(ticket)

    yield _after_replay(forget)


def pid_reuse(world: World) -> Iterator[Patch]:
    """A process of the same pid is taken for the one that died."""
    yield Peer, "was", lambda self, started, inode: True


def lost_release(world: World) -> Iterator[Patch]:
    """A client that has nothing to ask does not come back to say what it has let go of."""

    def disconnected(self: Exchange) -> None:
        original(self)
        self.unsettled = False

    original = Exchange.disconnected
    yield Exchange, "disconnected", disconnected


def cancel_crosses_grant(world: World) -> Iterator[Patch]:
    """Who gives up says so only of what it was told."""

    def release(self: Exchange, number: int) -> bytes:
        waits = number in self._waiting
        frame = original(self, number)
        return b"" if waits else frame

    original = Exchange.release
    yield Exchange, "release", release


def change_answered_before_disk(world: World) -> Iterator[Patch]:
    """A change of the settings is written some time later."""

    async def write(self: Keeping, *what: Any) -> None:
        if not world.host.life.listens:  # fencing tokens are set aside before anything is asked
            await original(self, *what)
            return
        task = world.host.life.loop.create_task(original(self, *what))
        task.add_done_callback(lambda done: done.exception())

    original = Keeping.write
    yield Keeping, "write", write


def death_is_the_end_of_the_connection(world: World) -> Iterator[Patch]:
    """The death of a process is not watched: its child keeps what it held."""
    yield Session, "_process_died", lambda self: self._sessions.loop.remove_reader(self._peer.pidfd)


def alarm_forgotten(world: World) -> Iterator[Patch]:
    """After it has rung, the alarm is not set for the next instant."""

    def rings(self: Alarm) -> None:
        arm, self._arm = self._arm, lambda: None  # type: ignore[method-assign]
        original(self)
        self._arm = arm  # type: ignore[method-assign]

    original = Alarm._rings
    yield Alarm, "_rings", rings


def session_of_a_dead_client_lives(world: World) -> Iterator[Patch]:
    """After a restart the process behind a holder is not watched."""

    def again(self: Sessions, began: Any) -> Any:
        session = original(self, began)
        if session is not None:
            self.loop.remove_reader(session._peer.pidfd)
        return session

    original = Sessions.again
    yield Sessions, "again", again


def passing_without_bound(world: World) -> Iterator[Patch]:
    """A request over two limits is passed for ever."""
    yield Limit, "was_passed_by_enough", lambda self, ticket: False


def nobody_goes_after_a_time_out(world: World) -> Iterator[Patch]:
    """Those behind one that left the line are not looked at."""

    def without(tickets: list[Ticket], now: int) -> list[Effect]:
        return []

    yield grants, "_go_on_without", without


def idle_clients_forgotten_by_a_checkpoint(world: World) -> Iterator[Patch]:
    """Who holds nothing when the journal is replaced is not named there when it asks again."""
    yield Session, "record_anew", lambda self: None


def slates_unread(world: World) -> Iterator[Patch]:
    """What a client let go of, and the daemon before had not heard, is not looked up."""
    yield Recovery, "_let_go_of_what_slates_say", lambda self: None


ALL: dict[str, Planted] = {
    plant.__name__: plant
    for plant in (
        reply_before_journal,
        no_reconcile,
        waiter_leak_on_cancel,
        last_come_first_served,
        double_release,
        wall_clock_decay,
        grant_to_a_dead_waiter,
        token_reset,
        spend_forgotten_on_restart,
        holders_forgotten_on_restart,
        places_lost_on_restart,
        pid_reuse,
        lost_release,
        cancel_crosses_grant,
        change_answered_before_disk,
        death_is_the_end_of_the_connection,
        alarm_forgotten,
        session_of_a_dead_client_lives,
        passing_without_bound,
        nobody_goes_after_a_time_out,
        idle_clients_forgotten_by_a_checkpoint,
        slates_unread,
        *FAULTS,
    )
}
