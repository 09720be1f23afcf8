"""The real registry, and the oracle hears what is decided."""

from __future__ import annotations

from atmost.wire import Acquire, Keep
from atmostd.actor import Actor
from atmostd.registry import Asker, Registry, request_of
from atmostd.session import Session
from atmostd.ticket import Edit, Effect, Event, Granted, Refused, Ticket, TimedOut
from tests.sim.world import World


class SpyRegistry(Registry):
    """It decides nothing of its own."""

    world: World

    def acquire(self, asker: Asker, asked: Acquire, inside: tuple[Ticket, ...]) -> Ticket:
        ticket = super().acquire(asker, asked, inside)
        assert isinstance(asker, Session)
        self.world.oracle.arrived((asker.began.session, asked.request), asked)
        return ticket

    def readmit(self, asker: Asker, keep: Keep) -> Ticket:
        self.world.note(f"daemon does not know what {asker.pid} keeps as {keep.request}")
        assert isinstance(asker, Session)
        self.world.oracle.came_back((asker.began.session, keep.request))
        return super().readmit(asker, keep)

    def forget(self, name: str) -> None:
        super().forget(name)
        if not self.world.host.replaying:
            self.world.oracle.deleted(name)

    def deliver(self, effect: Effect) -> None:
        super().deliver(effect)
        if not isinstance(effect, Granted | Refused | TimedOut):
            return
        request = request_of(effect.ticket)
        if not isinstance(request.asker, Session) or not self.world.host.process.alive:
            return
        key = request.asker.began.session, request.number
        if not isinstance(effect, Granted):
            self.world.oracle.ended(key)
        elif request.kept:
            self.world.oracle.readmitted(key, effect.ticket)
        else:
            self.world.oracle.decided(key, request.token, effect.ticket)

    def _note(self, actor: Actor, event: Event, now: int) -> None:
        super()._note(actor, event, now)
        if isinstance(event, Edit) and self.actors.get(actor.limit.name) is actor:
            self.world.oracle.rates.edited(actor.limit)
