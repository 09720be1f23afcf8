"""The judge: what the clients believe, held against a naive account of what may be.

Rule 1: a client is inside from the moment in which it takes its Granted until it sends its Release,
dies, or is told GrantLost.
Rule 2: what the daemon decides in a turn is provisional until the journal has it: a death before that
makes it undone, and the account with it (`commit`, `drop`). If a client heard of it nevertheless, the
daemon has spoken too early, and that comes out here.
Rule 3: nothing is judged by what the daemon has in memory, but for `standstill`, when all is quiet.
Rule 4: who holds what, of those that the daemon can know of, stands in its books. When the journal was
lost, cut, or out of date at a death, all of it is struck out (`journal_lost`), and what is left to
promise is this:
- nobody is granted what those in the books have, and who comes back comes into them, or is told
  GrantLost; it is one or the other once all is quiet. Until then somebody else may be inside with it.
- a journal that is gone altogether gives holders a moment: if the limits have not changed meanwhile,
  none who comes within it is told GrantLost. (Not after an earlier loss: more may be inside then than fit.)
- who waited stands in line in the order of coming back; the spent levels are those of the state.
- limits, fencing tokens, and all that is granted from then on: as ever.
A limit that is inactive when its holder comes back does not count that holder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from atmost.wire import Acquire, Granted
from atmostd.limit import PASSES_MAX, TIMER_LATE_NS_MAX, Limit
from atmostd.ticket import Ticket
from tests.sim.books import Books, Client, Inside, Key, counts
from tests.sim.rates import Rates
from tests.sim.settings import Declared, Settings
from tests.sim.world import SECOND, World

PASSES_ALLOWED = PASSES_MAX + 4
WINDOW = SECOND * 9 // 10  # for holders to come first, counted from when the daemon listens


@dataclass(eq=False)
class Waiting:
    """A request that the daemon has."""

    key: Key
    order: int
    shape: dict[str, int]
    passed: dict[str, int] = field(default_factory=dict)


class Oracle:
    def __init__(self, world: World) -> None:
        self.world = world
        world.oracle = self
        self.clients: dict[bytes, Client] = {}
        self.inside: dict[tuple[Client, int], Inside] = {}
        self.entries = 0
        self.decisions = 0
        self.losses = 0  # of the journal
        self.holders_come_first = False  # nobody edits a limit in this world
        self.settings = Settings(world)
        self._undo: list[Callable[[], object]] = []  # how to take back what the journal has not got
        self._arrivals = 0
        self._waiting: dict[Key, Waiting] = {}  # in the order of arrival
        self._written: set[int] = set()  # tokens that were given
        self._last_token: dict[str, int] = {}
        self._owner: dict[int, Key] = {}  # by token
        self._window_ends = 0
        self._came: set[Key] = set()  # said within the window that they hold something
        self.books = Books(world, self._undo.append)
        self.rates = Rates(world, self._undo.append)

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
        gone = self.books.decided(key, token, ticket)
        self._written.add(token)
        self._undo.append(lambda: self._written.discard(token))
        self._check_token(token, limits)
        if waiting is not None:
            self._check_order(waiting, guarded)
        for part in ticket.parts:
            if part.spend and part.limit.active and part.limit.name not in gone:
                self.rates.spend(part.limit, part.spend)

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

    def deleted(self, name: str) -> None:
        """What is made again under this name starts clean."""
        self.books.deleted(name)
        self.rates.deleted(name)
        for waiting in self._waiting.values():
            waiting.passed.pop(name, None)

    # Holders that the daemon may not know of

    def came_back(self, key: Key) -> None:
        """A holder of whom nothing is known says what it has."""
        if self.world.now < self._window_ends:
            self._came.add(key)

    def readmitted(self, key: Key, ticket: Ticket) -> None:
        """It counts again."""
        self.books.put_back(key, ticket)
        inside = self._inside_of(key)
        if inside is not None:
            self._check_room(inside)

    def journal_lost(self) -> None:
        """The daemon is dead, and what its journal had is lost, or some of it."""
        self.losses += 1
        self.books.burn()
        self._waiting.clear()
        self.rates.forget()

    def _inside_of(self, key: Key) -> Inside | None:
        client = self.clients.get(key[0])
        return None if client is None else self.inside.get((client, key[1]))

    # What the clients believe

    def entered(self, client: Client, granted: Granted, hold: dict[str, int]) -> None:
        """A client takes its grant, and is inside if it holds something."""
        self.entries += 1
        request, token = granted.request, granted.token
        self.world.note(f"{client.process.name} has #{request} token {token} {hold}")
        key = client.session, request
        if self._owner.setdefault(token, key) != key:
            self.fail(f"token {token} was given twice")
        if token not in self._written:
            self.fail(f"{client.process.name} has token {token}, of which nothing was written")
        if hold:
            slots = {name: n for name, n in hold.items() if name not in granted.unguarded}
            inside = self.inside[client, request] = Inside(client, request, token, slots)
            self._check_room(inside)

    def _check_room(self, entered: Inside) -> None:
        """G1. A grant that was decided later, but told earlier, is judged again with this one."""
        new = self.books.of(entered)
        if new is None:
            if not self.losses:
                self.fail(f"{entered} is in no book")
            return
        for name in counts(entered, new):
            holders = [
                (book.order, count, book.limits.get(name))
                for held in self.inside.values()
                if (count := self.books.slots_then(held, name, new.order))
                and held.client.process.alive
                and (book := self.books.of(held))
            ]
            holders.sort()
            total = 0
            for order, count, limit in holders:
                total += count
                if order >= new.order and limit is not None and total > limit:
                    self.fail(f"{total} of {limit} slots of {name} are in use: {holders}")

    def left(self, client: Client, request: int) -> None:
        self.world.note(f"{client.process.name} leaves #{request}")
        self.inside.pop((client, request), None)

    def told_lost(self, client: Client, request: int) -> None:
        """A client is told that it is not inside any more."""
        self.world.note(f"{client.process.name} is told that #{request} is lost")
        inside = self.inside.pop((client, request), None)
        if not self.losses or (inside is not None and self.books.of(inside) is not None):
            self.fail(f"{client.process.name} is told that #{request} is lost, and it was not")
        if self.holders_come_first and (client.session, request) in self._came:
            self.fail(f"{client.process.name} came in time, and #{request} was given to others")

    def died(self, client: Client) -> None:
        for key in [key for key in self.inside if key[0] is client]:
            del self.inside[key]

    # Settings

    def recovered(self, journal_is_gone: bool) -> None:
        """The daemon listens: what was acknowledged is in force (G4)."""
        self._came.clear()
        comes_first = journal_is_gone and self.losses == 1
        self._window_ends = self.world.now + WINDOW if comes_first else 0
        if self.losses:
            self.books.look()
        self.check_settings()

    def check_settings(self) -> None:
        daemon = self.world.host.life.daemon
        assert daemon is not None
        for name in self.settings.names():
            actor = daemon.registry.actors.get(name)
            found: Declared | None = None
            if actor is not None and not actor.implicit:
                limit = actor.limit
                found = limit.limit, limit.slot_decay_per_second, limit.active
            self.settings.found(name, found)

    def power_lost(self) -> None:
        """No process lives; of levels only what was saved is left."""
        self._undo.clear()
        self._waiting.clear()
        self.inside.clear()
        self.books.burn()
        self.rates.forget()
        self.settings.nobody_asks()

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
        for held in self.inside.values():
            if self.books.of(held) is None and held.client.comes_back():
                self.fail(f"{held} is neither kept nor lost")
        for name, actor in daemon.registry.actors.items():
            believed = sum(self.books.slots(held, name) for held in self.inside.values())
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
