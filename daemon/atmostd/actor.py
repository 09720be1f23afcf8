"""The actor of one limit: an inbox, and one coroutine that takes one synchronous step a message.

Rule: nothing else applies events to a limit, so its messages act in the order in which they came.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator

from atmostd.clock import Clock
from atmostd.declared import IMPLICIT
from atmostd.limit import Limit
from atmostd.ticket import Arrive, Effect, Event, Tick
from atmostd.turn import Turn


class Surroundings:
    """What every actor of this daemon shares."""

    __slots__ = ("clock", "crash", "deliver", "note", "turn")

    def __init__(
        self,
        clock: Clock,
        turn: Turn,
        note: Callable[[Actor, Event, int], None],
        deliver: Callable[[Effect], None],
        crash: Callable[[BaseException], None],
    ) -> None:
        self.clock = clock
        self.turn = turn
        self.note = note  # remembers what an event changed, before its effects
        self.deliver = deliver  # takes each effect to whom it concerns
        self.crash = crash  # a broken invariant: the daemon must not go on


class Actor:
    """Post events; the rest happens in their order."""

    __slots__ = ("_around", "_awake", "_coroutine", "_inbox", "limit", "origin", "template")

    def __init__(self, limit: Limit, origin: str, around: Surroundings) -> None:
        self.limit = limit
        self.origin = origin  # who has set it: declared.py
        # The pattern that has made it, and of which templates: others may have another one.
        self.template: tuple[object, str] | None = None
        self._around = around
        self._inbox: deque[Event] = deque()
        self._awake = False
        self._coroutine: Coroutine[None, None, None] | None = None  # from the first message on

    @property
    def idle(self) -> bool:
        """Whether nobody holds slots, waits, or is about to wait: for another limit, too."""
        if self.limit.holders or self.limit.line:
            return False
        return not any(
            isinstance(event, Arrive) and len(event.ticket.parts) > 1 for event in self._inbox
        )

    @property
    def implicit(self) -> bool:
        """Whether a request has made it, and nobody has set it since."""
        return self.origin == IMPLICIT

    @property
    def has_messages(self) -> bool:
        """Whether any is on its way."""
        return bool(self._inbox)

    @property
    def at_rest(self) -> bool:
        """Whether nobody holds slots, waits, or has a message on its way."""
        return not (self.limit.holders or self.limit.line or self._inbox)

    def post(self, event: Event) -> None:
        """Put a message into the inbox. It acts within this turn of the loop."""
        self._inbox.append(event)
        if not self._awake:
            self._awake = True
            self._around.turn.will_step(self)

    def step(self) -> None:
        """The coroutine goes on, until the inbox is empty."""
        if self._coroutine is None:
            self._coroutine = self._run()
        try:
            self._coroutine.send(None)
        except StopIteration:
            self._coroutine = None

    def stop(self) -> None:
        """End the coroutine; what is in the inbox is not acted on."""
        self._awake = True  # so that what comes now, such as the death of a client, wakes nobody
        self._inbox.clear()
        if self._coroutine is not None:
            self._coroutine.close()
            self._coroutine = None

    async def _run(self) -> None:
        around, limit, inbox = self._around, self.limit, self._inbox
        try:
            while True:
                now = around.clock()
                while inbox:
                    event = inbox.popleft()
                    effects = limit.apply(event, now)
                    kind = type(event)
                    if kind is not Arrive and kind is not Tick:  # of those, the effects tell all
                        around.note(self, event, now)
                    for effect in effects:
                        around.deliver(effect)
                self._awake = False
                if limit.deleted:
                    return  # its last holders may still let go of other limits: step() starts anew
                await _next_step()
        except Exception as error:
            around.crash(error)


@types.coroutine
def _next_step() -> Generator[None, None, None]:
    """Wait for step(). Nothing else wakes an actor, so no loop has to know of its coroutine."""
    yield
