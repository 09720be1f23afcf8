"""Which grants the daemon has on its books, as far as it can know: the oracle's account of them.

Rule 1: books have an order: that in which the daemon has made them. A token has one too, but who comes
back after a loss of the journal is put back later than its token says.
Rule 2: a limit made again under its name is another one: books from before do not count there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from atmostd.ticket import State, Ticket
from tests.sim.world import Process, World

Key = tuple[bytes, int]  # session and request


class Client(Protocol):
    """Whom the oracle asks what it believes."""

    process: Process

    @property
    def session(self) -> bytes: ...

    def wants(self, request: int) -> bool:
        """Whether it waits for this."""

    def wanted(self) -> list[int]:
        """All that it waits for."""

    def comes_back(self) -> bool:
        """Whether it connects again when it has to."""


@dataclass(eq=False)
class Inside:
    """A client is inside a grant."""

    client: Client
    request: int
    token: int
    slots: dict[str, int]  # where it occupies something

    def __str__(self) -> str:
        return f"{self.client.process.name}#{self.request} with {self.slots}"


@dataclass(frozen=True)
class Book:
    """A grant that the daemon has on its books."""

    order: int  # of all that came into the books
    limits: dict[str, int]  # those that guard it, as they were then
    counted: dict[str, int]  # slots that it has there
    token: int = 0  # 0: it was put back after a loss
    gone: frozenset[str] = frozenset()  # deleted by now; those of these names are others


class Books:
    """All of them."""

    def __init__(self, world: World, undo: Callable[[Callable[[], object]], object]) -> None:
        self._world = world
        self._undo = undo  # takes what is done if the daemon dies before it has written this
        self._books: dict[Key, Book] = {}
        self._last_order = 0
        self._cuts: dict[str, list[int]] = {}  # from each order on books are of another limit

    def decided(self, key: Key, token: int, ticket: Ticket) -> frozenset[str]:
        """Granted. Returns those of its limits that are deleted by now, and come to an end."""
        daemon = self._world.host.life.daemon
        assert daemon is not None
        limits = {part.limit.name: part.limit for part in ticket.parts}
        there = {name: actor.limit for name, actor in daemon.registry.actors.items()}
        gone = frozenset(name for name, limit in limits.items() if there.get(name) is not limit)
        guards = {name: limit.limit for name, limit in limits.items() if limit.active}
        self._enter(key, Book(self._next(), guards, _counted(ticket), token, gone))
        return gone

    def put_back(self, key: Key, ticket: Ticket) -> None:
        """Its holder has come back."""
        limits = {part.limit.name: part.limit.limit for part in ticket.parts if part.taken}
        self._enter(key, Book(self._next(), limits, _counted(ticket)))

    def burn(self) -> None:
        """Nothing of them is left."""
        self._books.clear()

    def look(self) -> None:
        """What the daemon has found of a journal that is no longer whole is promised still."""
        daemon = self._world.host.life.daemon
        assert daemon is not None
        for session in daemon.sessions:
            for number, ticket in session.tickets.items():
                key = session.began.session, number
                if ticket.state is State.HELD and key not in self._books:
                    self._books[key] = Book(self._next(), {}, _counted(ticket))

    def deleted(self, name: str) -> None:
        """This limit, and all that is on the books there."""
        cuts = self._cuts.setdefault(name, [])
        cuts.append(self._last_order + 1)
        self._undo(cuts.pop)

    def of(self, inside: Inside) -> Book | None:
        """None: the daemon knows nothing of it."""
        return self._books.get((inside.client.session, inside.request))

    def has(self, inside: Inside) -> bool:
        """Whether the daemon knows of this very grant. After a loss it may take who is inside for one who
        waits still, and grant that once more before it hears better."""
        book = self.of(inside)
        return book is not None and book.token in (0, inside.token)

    def slots(self, inside: Inside, name: str) -> int:
        """What it counts for at the limit of this name that is there now."""
        return self.slots_then(inside, name, self._last_order + 1)

    def slots_then(self, inside: Inside, name: str, order: int) -> int:
        """The same, at the limit that a book of this order is of."""
        book = self.of(inside)
        cuts = self._cuts.get(name, ())
        if book is None or bisect_right(cuts, book.order) != bisect_right(cuts, order):
            return 0
        return counts(inside, book).get(name, 0)

    def _next(self) -> int:
        self._last_order += 1
        return self._last_order

    def _enter(self, key: Key, book: Book) -> None:
        self._undo(partial(self._take_back, key, self._books.get(key)))
        self._books[key] = book

    def _take_back(self, key: Key, before: Book | None) -> None:
        if before is None:
            self._books.pop(key, None)
        else:
            self._books[key] = before


def counts(inside: Inside, book: Book) -> dict[str, int]:
    """The client's own word for what it has; but what was put back, it cannot know."""
    slots = inside.slots if book.token == inside.token else book.counted
    if not book.gone:
        return slots
    return {name: count for name, count in slots.items() if name not in book.gone}


def _counted(ticket: Ticket) -> dict[str, int]:
    parts = [part for part in ticket.parts if part.taken and not part.limit.deleted]
    return {part.limit.name: part.hold for part in parts}
