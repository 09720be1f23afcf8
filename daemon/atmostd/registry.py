"""Name -> actor, and the way of a request to the actors of its limits and back.

A request over several limits is one ticket with one number of arrival. It is posted to each of its
actors, so it overtakes nobody, and the rules let it go only once it stands in all of its lines.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from typing import Protocol, assert_never

from msgspec import Struct

from atmost import values
from atmost.errors import InvalidValue, LimitInactive, LimitNotFound
from atmost.wire import Acquire
from atmostd import config
from atmostd.actor import Actor, Surroundings
from atmostd.clock import NANOSECONDS, Clock
from atmostd.limit import Limit
from atmostd.ticket import (
    Arrive,
    Effect,
    Granted,
    LetGo,
    Part,
    Refused,
    Tick,
    Ticket,
    TimedOut,
    WakeAt,
)
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


class Asker(Protocol):
    """Who makes requests: a session."""

    @property
    def pid(self) -> int: ...

    @property
    def user(self) -> str: ...

    @property
    def command(self) -> str: ...

    def granted(self, request: int, ticket: Ticket, token: int) -> None: ...

    def refused(self, ticket: Ticket, code: str, fields: dict[str, object]) -> None: ...

    def timed_out(self, ticket: Ticket, places: dict[str, int]) -> None: ...


class Request(Struct, eq=False):
    """What the shell knows of a ticket: its `owner`."""

    asker: Asker
    number: int  # the client's own for it
    home: Actor
    by_process: bool  # outlives the connection


class Registry:
    """All limits of this daemon."""

    def __init__(
        self,
        clock: Clock,
        turn: Turn,
        wake_at: Callable[[Limit, int], None],
        crash: Callable[[BaseException], None],
    ) -> None:
        self.actors: dict[str, Actor] = {}
        self.next_token = 1  # fencing tokens rise over all limits, so also over a limit made again
        self.tokens_low_at = 1  # where the tokens set aside on disk come to their end
        self.on_tokens_low = _nobody_listens
        self.on_spent = _nobody_listens  # levels on disk are out of date
        self.on_implicit = _nobody_listens  # limits on disk are out of date
        self._around = Surroundings(clock, turn, self.deliver, crash)
        self._wake_at = wake_at
        self._arrivals = 0

    # Limits

    def make(
        self,
        name: str,
        limit: int,
        slot_decay_per_second: float,
        active: bool,
        implicit: bool = False,
    ) -> Actor:
        """A new limit. Its name is valid and not taken."""
        assert name not in self.actors
        rules = Limit(name, limit, slot_decay_per_second, active, self._around.clock())
        actor = self.actors[name] = Actor(rules, implicit, self._around)
        return actor

    def forget(self, name: str) -> None:
        """The name is free again; the actor itself ends by its Delete."""
        del self.actors[name]

    def ring(self, limit: Limit, due: int) -> None:
        """The instant has come that this limit asked to be woken at."""
        actor = self.actors.get(limit.name)
        if actor is not None and actor.limit is limit:
            actor.post(Tick(due))

    def stop(self) -> None:
        for actor in self.actors.values():
            actor.stop()

    # Requests

    def acquire(self, asker: Asker, asked: Acquire, inside: tuple[Ticket, ...]) -> Ticket:
        """Put a request into the lines of its limits. What becomes of it, the asker is told.

        Raises InvalidValue, LimitNotFound or LimitInactive; then nothing was made or changed.
        """
        hold, spend = asked.hold, asked.spend
        # One name is nearly every request: it skips the set and the sort.
        names = list(hold) if not spend and len(hold) == 1 else sorted(hold.keys() | spend.keys())
        _check_values(asked, names)
        homes = self._find_or_make(names, asked.strict, asker)
        parts = tuple(
            [
                Part(home.limit, hold.get(name, 0), spend.get(name, 0))
                for name, home in zip(names, homes, strict=True)
            ]
        )
        now = self._around.clock()
        timeout = asked.timeout_seconds
        deadline = None
        if timeout is not None and timeout <= config.WAIT_SECONDS_MAX:
            deadline = now + int(timeout * NANOSECONDS)
        self._arrivals += 1
        ticket = Ticket(
            number=self._arrivals,
            parts=parts,
            shape=parts[0].slots
            if len(parts) == 1
            else tuple((part.limit.name, part.slots) for part in parts),
            asked_at=now,
            deadline=deadline,
            strict=asked.strict,
            inside=inside,
            owner=Request(asker, asked.request, homes[0], asked.by_process),
            missing=len(parts),
        )
        arrive = Arrive(ticket)
        for home in homes:
            home.post(arrive)
        return ticket

    def let_go(self, ticket: Ticket) -> None:
        """Whatever the ticket has: slots, places in line, or nothing."""
        request_of(ticket).home.post(LetGo(ticket))

    def _find_or_make(self, names: list[str], strict: bool, asker: Asker) -> list[Actor]:
        actors = self.actors
        try:
            homes = [actors[name] for name in names]
        except KeyError:
            self._make_missing(names, strict, asker)
            homes = [actors[name] for name in names]
        if strict:
            inactive = [home.limit.name for home in homes if not home.limit.active]
            if inactive:
                raise LimitInactive(inactive)
        return homes

    def _make_missing(self, names: list[str], strict: bool, asker: Asker) -> None:
        missing = [name for name in names if name not in self.actors]
        for name in missing:
            values.check_name(name)
        if strict:
            raise LimitNotFound(missing)
        for name in missing:
            self._make_implicitly(name, asker)

    def _make_implicitly(self, name: str, asker: Asker) -> None:
        """semantics.md 2: a missing limit is created with limit=1, inactive, and the body runs."""
        self.make(name, config.IMPLICIT_LIMIT, 0.0, active=False, implicit=True)
        self.on_implicit()
        _log.warning(
            "limit %r was made, inactive, by its first use (pid %d, %s): nothing is enforced; "
            "activate it with: atmost update %s --limit N --enable",
            name,
            asker.pid,
            asker.command,
            shlex.quote(name),
        )

    # Effects

    def deliver(self, effect: Effect) -> None:
        """Take an effect of the rules to whom it concerns."""
        match effect:
            case Granted(ticket=ticket):
                token = self.next_token
                self.next_token = token + 1
                if token >= self.tokens_low_at:
                    self.on_tokens_low()
                for part in ticket.parts:
                    if part.spend and part.limit.active:
                        self.on_spent()
                request: Request = ticket.owner
                request.asker.granted(request.number, ticket, token)
            case Refused(ticket=ticket, code=code, fields=fields):
                request_of(ticket).asker.refused(ticket, code, fields)
            case TimedOut(ticket=ticket, places=places):
                request_of(ticket).asker.timed_out(ticket, places)
            case WakeAt(limit=limit, instant=instant):
                self._wake_at(limit, instant)
            case _:
                assert_never(effect)


def request_of(ticket: Ticket) -> Request:
    """What the shell knows of a ticket."""
    request: Request = ticket.owner
    return request


def _nobody_listens() -> None:
    """What the hooks are until Configuration takes them."""


def _check_values(asked: Acquire, names: list[str]) -> None:
    """What a well-behaved client has checked before."""
    if asked.request < 1:
        raise InvalidValue("request", str(asked.request), "a whole number >= 1")
    if not names:
        raise InvalidValue("hold", "{}", "slots of at least one limit, in hold or spend")
    if len(names) > values.NAMES_MAX:
        raise InvalidValue("hold", str(len(names)), f"at most {values.NAMES_MAX} limits")
    for slots in (*asked.hold.values(), *asked.spend.values()):
        if not 1 <= slots <= values.COUNT_MAX:
            values.check_slots(slots)
    if asked.timeout_seconds is not None:
        values.check_timeout(asked.timeout_seconds)
