"""The line of tickets in front of one limit, in the order of arrival.

Tickets that ask the same of the same limits differ only in their order: while one of them waits, no
later one can go. So they stand in one *lane*, and whoever decides looks at the heads of the lanes
alone, however many wait behind.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from operator import attrgetter
from typing import Generic, Protocol, TypeVar


class Standing(Protocol):
    """What can stand in a line."""

    number: int  # order of arrival on this host: unique, later is greater
    shape: Hashable  # equal for tickets that ask the same of the same limits


T = TypeVar("T", bound=Standing)

_by_number = attrgetter("number")


class Line(Generic[T]):
    """Add, leave and look at a head are O(1); listing and ranking are O(n)."""

    __slots__ = ("_lanes", "count")

    def __init__(self) -> None:
        self._lanes: dict[Hashable, OrderedDict[int, T]] = {}
        self.count = 0  # the same as len(), and no call

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[T]:
        """Every ticket in the order of arrival."""
        tickets = [ticket for lane in self._lanes.values() for ticket in lane.values()]
        if len(self._lanes) > 1:
            tickets.sort(key=_by_number)
        return iter(tickets)

    def __contains__(self, ticket: T) -> bool:
        lane = self._lanes.get(ticket.shape)
        return lane is not None and ticket.number in lane

    def add(self, ticket: T) -> None:
        """Stand at the end. Tickets are added in the order of their numbers."""
        lane = self._lanes.get(ticket.shape)
        if lane is None:
            lane = self._lanes[ticket.shape] = OrderedDict()
        lane[ticket.number] = ticket
        self.count += 1

    def discard(self, ticket: T) -> None:
        """Leave the line; a ticket that does not stand in it is no error."""
        lane = self._lanes.get(ticket.shape)
        if lane is not None and lane.pop(ticket.number, None) is not None:
            self.count -= 1
            if not lane:
                del self._lanes[ticket.shape]

    def heads(self) -> list[T]:
        """The first ticket of every lane, in the order of arrival."""
        heads = [next(iter(lane.values())) for lane in self._lanes.values()]
        if len(heads) > 1:
            heads.sort(key=_by_number)
        return heads

    def head_like(self, ticket: T) -> T | None:
        """The first of those who ask the same as `ticket`."""
        lane = self._lanes.get(ticket.shape)
        return next(iter(lane.values())) if lane else None

    def like(self, ticket: T) -> int:
        """How many ask the same as `ticket`, with it."""
        return len(self._lanes.get(ticket.shape, ()))

    def places(self, tickets: list[T]) -> list[int]:
        """The place of each of these tickets, 1 is the head. One pass for all of them, to the last."""
        last = max((ticket.number for ticket in tickets), default=0)
        numbers: list[int] = []
        for lane in self._lanes.values():
            for number in lane:
                if number > last:
                    break
                numbers.append(number)
        if len(self._lanes) > 1:
            numbers.sort()
        return [bisect_left(numbers, ticket.number) + 1 for ticket in tickets]
