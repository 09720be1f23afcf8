"""The words of the rules: a ticket, what can happen to it, and what follows.

Nothing here decides anything; limit.py does.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from atmostd.limit import Limit


class State(Enum):
    """Where a ticket is in its life; it only ever moves down this list."""

    ARRIVING = "arriving"  # does not stand in all of its lines yet
    WAITING = "waiting"
    HELD = "held"
    ENDED = "ended"


ARRIVING, WAITING, HELD, ENDED = State  # by name: `State.HELD` is a function call in Python 3.11


class Part(Struct, eq=False):
    """What a ticket asks of one limit."""

    limit: Limit
    hold: int  # slots that come back when the ticket lets go
    spend: int  # slots that come back by decay
    taken: bool = False  # on the books: granted while the limit was active, and not given back

    @property
    def slots(self) -> int:
        return self.hold + self.spend


class Ticket(Struct, eq=False):
    """One request. Nothing but the rules changes it."""

    number: int  # order of arrival on this host
    parts: tuple[Part, ...]  # one for each limit, the first is the ticket's home
    shape: Hashable  # equal for tickets that ask the same of the same limits
    asked_at: int
    deadline: int | None = None  # None: waits for ever; not after asked_at: tries once
    strict: bool = False  # never runs unguarded
    inside: tuple[Ticket, ...] = ()  # grants that cannot end before this one goes
    owner: Any = None  # whoever asked; the rules do not look at it
    state: State = ARRIVING
    missing: int = 1  # lines in which it does not stand yet
    keeps: bool = False  # was passed often enough: holds back all of its lines
    granted_at: int = 0

    @property
    def home(self) -> Limit:
        """The limit whose actor gets what concerns the ticket as a whole."""
        return self.parts[0].limit


# What can happen


class Arrive(Struct, eq=False):
    """The ticket reaches this limit's line. Posted to each of its limits."""

    ticket: Ticket


class LetGo(Struct, eq=False):
    """Whatever the ticket has, it lets go: slots, places in line, or nothing. Posted to its home."""

    ticket: Ticket


class Readmit(Struct, eq=False):
    """After a restart: a holder of which no record was left. Posted to its home."""

    ticket: Ticket


class Tick(Struct, eq=False):
    """Time has passed. `due`: the instant that a WakeAt had asked for, if that is why."""

    due: int | None = None


class Edit(Struct, eq=False):
    """None leaves a field as it is."""

    limit: int | None = None
    slot_decay_per_second: float | None = None
    active: bool | None = None


class Reset(Struct, eq=False):
    """What was spent is free again: an operator says so."""


class Delete(Struct, eq=False):
    """The limit ends: its waiters fail, its holders run on."""


Event = Arrive | LetGo | Readmit | Tick | Edit | Reset | Delete


# What follows


class Granted(Struct, eq=False):
    ticket: Ticket


class Refused(Struct, eq=False):
    """`code` and `fields` as in the client's error tree."""

    ticket: Ticket
    code: str
    fields: dict[str, object]


class TimedOut(Struct, eq=False):
    """`places`: {name: place in that line}, as they were."""

    ticket: Ticket
    places: dict[str, int]


class WakeAt(Struct, eq=False):
    """Something will happen at this limit by time alone: send it a Tick then."""

    limit: Limit
    instant: int


Effect = Granted | Refused | TimedOut | WakeAt
