"""The actor of one limit: an inbox, and one coroutine that takes one synchronous step a message.

Rule: nothing else applies events to a limit, so its messages act in the order in which they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from atmostd.clock import Clock
from atmostd.declared import IMPLICIT
from atmostd.limit import Limit
from atmostd.ticket import Arrive, Effect, Event, Tick
from atmostd.turn import Turn


class Surroundings:
    """What every actor of this daemon shares."""

    __slots__ = ("clock", "crash", "deliver", "loop", "note", "turn")

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
        self.loop = asyncio.get_running_loop()


class Actor:
    """Post events; the rest happens in their order."""

    __slots__ = ("_around", "_awake", "_inbox", "_sleep", "_task", "limit", "origin")

    def __init__(self, limit: Limit, origin: str, around: Surroundings) -> None:
        self.limit = limit
        self.origin = origin  # who has set it: declared.py
        self._around = around
        self._inbox: deque[Event] = deque()
        self._awake = False
        self._sleep: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None  # from the first message on

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
    def at_rest(self) -> bool:
        """Whether nobody holds slots, waits, or has a message on its way."""
        return not (self.limit.holders or self.limit.line or self._inbox)

    def post(self, event: Event) -> None:
        """Put a message into the inbox. It acts within this turn of the loop."""
        self._inbox.append(event)
        if self._awake:
            return
        self._awake = True
        self._around.turn.actor_wakes()
        if self._sleep is not None:
            self._sleep.set_result(None)
        else:
            self._task = self._around.loop.create_task(self._run(), name=self.limit.name)

    def stop(self) -> None:
        """End the coroutine; what is in the inbox is not acted on."""
        self._awake = True  # so that what comes now, such as the death of a client, wakes nobody
        if self._task is not None:
            self._task.cancel()

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
                    # Its last holders may still let go of their other limits: post() starts anew.
                    self._sleep = None
                    around.turn.actor_sleeps()
                    return
                self._sleep = around.loop.create_future()
                around.turn.actor_sleeps()
                await self._sleep
        except Exception as error:
            around.crash(error)
