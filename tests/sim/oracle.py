"""The judge: what the clients believe, held against a naive account of what may be.

Rule 1: a client is inside from the moment in which it takes its Granted until it sends its Release,
dies, or is told GrantLost.
Rule 2: what the daemon decides in a turn is provisional until the journal has it: a death before that
makes it undone, and the account with it (`commit`, `drop`). If a client heard of it nevertheless, the
daemon has spoken too early, and that comes out here.
Rule 3: nothing is judged by what the daemon has in memory, but for `standstill`, when all is quiet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import NoReturn, Protocol

from atmost.wire import Acquire, Granted
from atmostd.limit import PASSES_MAX, TIMER_LATE_NS_MAX, Limit
from atmostd.ticket import Ticket
from tests.sim.world import SECOND, Process, World

PASSES_ALLOWED = PASSES_MAX + 4
Key = tuple[bytes, int]  # session and request
Declared = tuple[int, float, bool]  # limit, decay, active


class Client(Protocol):
    """Whom the oracle asks what it believes."""

    process: Process

    @property
    def session(self) -> bytes: ...

    def wants(self, request: int) -> bool:
        """Whether it waits for this."""

    def wanted(self) -> list[int]:
        """All that it waits for."""


@dataclass(eq=False)
class Inside:
    """A client is inside a grant."""

    client: Client
    request: int
    token: int
    slots: dict[str, int]  # where it occupies something


@dataclass(eq=False)
class Waiting:
    """A request that the daemon has."""

    key: Key
    order: int
    shape: dict[str, int]
    passed: dict[str, int] = field(default_factory=dict)


@dataclass
class Bucket:
    """What is spent of one limit, in whole slots and their fractions."""

    rate: Fraction
    level: Fraction = Fraction(0)
    at: int = 0
    late: Fraction = Fraction(0)  # what the timer's precision makes, at the greatest rate so far

    def settle(self, now: int) -> None:
        self.late = max(self.late, self.rate * Fraction(TIMER_LATE_NS_MAX, SECOND))
        self.level = max(Fraction(0), self.level - self.rate * Fraction(now - self.at, SECOND))
        self.at = now


class Oracle:
    def __init__(self, world: World) -> None:
        self.world = world
        world.oracle = self
        self.clients: dict[bytes, Client] = {}
        self.inside: dict[tuple[Client, int], Inside] = {}
        self.entries = 0
        self.decisions = 0
        self.possible: dict[str, list[Declared | None]] = {}  # what each limit may be by now
        self._undo: list[Callable[[], object]] = []  # how to take back what the journal has not got
        self._arrivals = 0
        self._waiting: dict[Key, Waiting] = {}  # in the order of arrival
        self._limits_at: dict[
            int, dict[str, int]
        ] = {}  # by token: as they were when it was granted
        self._cut: dict[str, int] = {}  # tokens from this one on are of the limit made again
        self._last_token: dict[str, int] = {}
        self._owner: dict[int, Key] = {}  # by token
        self._spent: dict[str, Bucket] = {}

    def fail(self, text: str) -> NoReturn:
        self.world.fail(text)

    # What the daemon decides

    def commit(self) -> None:
        """The journal has it."""
        self._undo.clear()

    def drop(self) -> None:
        """The daemon died before."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def arrived(self, key: Key, asked: Acquire) -> None:
        """A request stands in its lines."""
        if key in self._waiting:
            return  # it asks again, and had its place before
        shape = dict(asked.hold)
        for name, slots in asked.spend.items():
            shape[name] = shape.get(name, 0) + slots
        self._arrivals += 1
        self._waiting[key] = Waiting(key, self._arrivals, shape)
        self._undo.append(lambda: self._waiting.pop(key, None))

    def ended(self, key: Key) -> None:
        """Refused or timed out."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            self._undo.append(lambda: self._put_back(waiting))

    def _put_back(self, waiting: Waiting) -> None:
        self._waiting[waiting.key] = waiting
        self._waiting = dict(sorted(self._waiting.items(), key=lambda item: item[1].order))

    def decided(self, key: Key, token: int, ticket: Ticket) -> None:
        """Granted."""
        self.decisions += 1
        limits = {part.limit.name: part.limit for part in ticket.parts}
        guarded = {name for name, limit in limits.items() if limit.active}
        self.world.note(f"daemon grants {self._name(key)} token {token} {sorted(limits)}")
        waiting = self._waiting.get(key)
        self.ended(key)
        self._limits_at[token] = {name: limits[name].limit for name in guarded}
        self._undo.append(lambda: self._limits_at.pop(token, None))
        self._check_token(token, limits)
        if waiting is not None:
            self._check_order(waiting, guarded)
        for part in ticket.parts:
            if part.spend and part.limit.active:
                self._spend(part.limit, part.spend)

    def _check_token(self, token: int, names: dict[str, Limit]) -> None:
        for name in names:
            before = self._last_token.get(name, 0)
            if token <= before:
                self.fail(f"token {token} of {name} after {before}")
            self._last_token[name] = token
            self._undo.append(partial(self._reset_token, name, before))

    def _reset_token(self, name: str, before: int) -> None:
        self._last_token[name] = before

    def _check_order(self, granted: Waiting, guarded: set[str]) -> None:
        """First come, first served (G3), and nobody is passed for ever (G5)."""
        seen: list[dict[str, int]] = []
        for other in self._waiting.values():
            if other.order > granted.order:
                return
            if not self._is_wanted(other.key) or other.shape.keys().isdisjoint(granted.shape):
                continue
            alone = len(granted.shape) == 1 == len(other.shape)
            if (alone or other.shape == granted.shape) and guarded >= other.shape.keys():
                self.fail(f"{self._name(granted.key)} overtakes {self._name(other.key)}")
            self._pass(other, granted, guarded, other.shape not in seen)
            seen.append(other.shape)

    def _pass(self, other: Waiting, granted: Waiting, guarded: set[str], is_first: bool) -> None:
        for name in other.shape.keys() & granted.shape.keys() & guarded:
            other.passed[name] = other.passed.get(name, 0) + 1
            self._undo.append(partial(self._unpass, other, name))
        if is_first and all(other.passed.get(name, 0) > PASSES_ALLOWED for name in other.shape):
            self.fail(f"{self._name(other.key)} was passed {other.passed}")

    def _unpass(self, other: Waiting, name: str) -> None:
        other.passed[name] -= 1

    def _is_wanted(self, key: Key) -> bool:
        client = self.clients.get(key[0])
        return client is not None and client.process.alive and client.wants(key[1])

    def _name(self, key: Key) -> str:
        client = self.clients.get(key[0])
        return f"{client.process.name if client else '?'}#{key[1]}"

    # Rates

    def _spend(self, limit: Limit, slots: int) -> None:
        bucket = self._bucket(limit)
        before = bucket.level, bucket.at
        bucket.settle(self.world.now)
        bucket.level += slots
        # What comes late is counted from what was due, within the timer's precision.
        if bucket.level > limit.limit + bucket.late:
            self.fail(f"{float(bucket.level):.3f} of {limit.limit} spent at {limit.name}")
        self._undo.append(lambda: self._unspend(bucket, *before))

    def _bucket(self, limit: Limit) -> Bucket:
        rate = Fraction(repr(limit.level.rate))
        return self._spent.setdefault(limit.name, Bucket(rate, at=self.world.now))

    def _unspend(self, bucket: Bucket, level: Fraction, at: int) -> None:
        bucket.level, bucket.at = level, at

    def edited(self, limit: Limit) -> None:
        """A change is in force."""
        bucket = self._bucket(limit)
        self._undo.append(partial(self._unedit, bucket, bucket.rate, bucket.level, bucket.at))
        bucket.settle(self.world.now)
        bucket.rate = Fraction(repr(limit.level.rate))
        if not bucket.rate:
            bucket.level = Fraction(0)

    def _unedit(self, bucket: Bucket, rate: Fraction, level: Fraction, at: int) -> None:
        bucket.rate, bucket.level, bucket.at = rate, level, at

    def deleted(self, name: str, next_token: int) -> None:
        """What is made again under this name starts clean."""
        self._cut[name] = next_token
        self._spent.pop(name, None)
        for waiting in self._waiting.values():
            waiting.passed.pop(name, None)

    # What the clients believe

    def entered(self, client: Client, granted: Granted, hold: dict[str, int]) -> None:
        """A client takes its grant, and is inside if it holds something."""
        self.entries += 1
        request, token = granted.request, granted.token
        self.world.note(f"{client.process.name} has #{request} token {token} {hold}")
        key = client.session, request
        if self._owner.setdefault(token, key) != key:
            self.fail(f"token {token} was given twice")
        if token not in self._limits_at:
            self.fail(f"{client.process.name} has token {token}, of which nothing was written")
        if hold:
            slots = {name: n for name, n in hold.items() if name not in granted.unguarded}
            self.inside[client, request] = Inside(client, request, token, slots)
            self._check_room(token, slots)

    def _check_room(self, token: int, slots: dict[str, int]) -> None:
        """G1. A grant that was decided later, but told earlier, is judged again with this one."""
        for name in slots:
            cut = self._cut.get(name, 0)
            holders = [
                (held.token, held.slots[name])
                for held in self.inside.values()
                if name in held.slots
                and held.client.process.alive
                and (held.token < cut) == (token < cut)
            ]
            holders.sort()
            total = 0
            for each, count in holders:
                total += count
                limit = self._limits_at[each].get(name)
                if each >= token and limit is not None and total > limit:
                    self.fail(f"{total} of {limit} slots of {name} are in use: {holders}")

    def left(self, client: Client, request: int) -> None:
        self.world.note(f"{client.process.name} leaves #{request}")
        self.inside.pop((client, request), None)

    def told_lost(self, client: Client, request: int) -> None:
        self.fail(
            f"{client.process.name} was told that #{request} is lost, and the journal was not"
        )

    def died(self, client: Client) -> None:
        for key in [key for key in self.inside if key[0] is client]:
            del self.inside[key]

    # Settings

    def change_asked(self, name: str, declared: Declared | None) -> None:
        self.possible.setdefault(name, [None]).append(declared)

    def change_done(self, name: str, declared: Declared | None) -> None:
        self.possible[name] = [declared]

    def change_refused(self, name: str) -> None:
        self.possible[name].pop()

    def recovered(self) -> None:
        """The daemon listens: what was acknowledged is in force (G4)."""
        daemon = self.world.host.life.daemon
        assert daemon is not None
        self.check_settings()

    def check_settings(self) -> None:
        daemon = self.world.host.life.daemon
        assert daemon is not None
        actors = daemon.registry.actors
        for name, possible in self.possible.items():
            actor = actors.get(name)
            found: Declared | None = None
            if actor is not None and not actor.implicit:
                limit = actor.limit
                found = limit.limit, limit.slot_decay_per_second, limit.active
            if found not in possible:
                self.fail(f"limit {name} is {found}, and may be {possible}")

    def power_lost(self) -> None:
        """No process lives; of levels only what was saved is left."""
        self._undo.clear()
        self._waiting.clear()
        self.inside.clear()
        self._spent.clear()

    def _check_nobody_fits(self, limit: Limit) -> None:
        """Who is the first in all of its lines waits only for what is not free."""
        first = next(iter(limit.line), None)
        if first is None:
            return
        for part in first.parts:
            free = part.limit.limit - part.limit.held - part.slots
            level = part.limit.level
            if next(iter(part.limit.line)) is not first or free < 0:
                return
            if level.units and level.instant_within(free) > self.world.now - TIMER_LATE_NS_MAX:
                return
        self.fail(f"{first} is the first at {limit.name}, and fits")

    # When all is quiet

    def standstill(self) -> None:
        """Every client is connected or dead and nothing is under way: the daemon has what the
        clients believe, no more and no less."""
        daemon = self.world.host.daemon
        if daemon is None:
            self.fail("no daemon serves, though nothing happens any more")
        self.check_settings()
        for name, actor in daemon.registry.actors.items():
            cut = self._cut.get(name, 0)
            believed = sum(
                held.slots.get(name, 0) for held in self.inside.values() if held.token >= cut
            )
            if actor.limit.held != believed:
                self.fail(f"{name}: {actor.limit.held} held, and clients believe {believed}")
            self._check_nobody_fits(actor.limit)
            for ticket in actor.limit.line:
                key = ticket.owner.asker.began.session, ticket.owner.number
                if not self._is_wanted(key):
                    self.fail(f"{self._name(key)} waits at {name}, and nobody wants it")
        lines = {
            (ticket.owner.asker.began.session, ticket.owner.number)
            for actor in daemon.registry.actors.values()
            for ticket in actor.limit.line
        }
        for client in self.clients.values():
            if client.process.alive:
                for request in client.wanted():
                    if (client.session, request) not in lines:
                        self.fail(
                            f"{client.process.name} waits for #{request}, which is in no line"
                        )
