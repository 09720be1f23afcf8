"""The limits that templates have made on their first use: how many there may be, and when they go.

Rule 1: such a limit is forgotten once it says nothing any more: nobody holds or waits, nothing is spent,
no message is on its way. Its next use makes the same again.
Rule 2: it is looked at some time after something happened that may have left it so, and again at the
instant at which what is spent will have come back. While nothing happens, no timer runs.
Rule 3: looking takes a bounded part of a turn of the loop.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Collection, KeysView
from itertools import islice

from atmostd import config
from atmostd.actor import Actor
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Clock
from atmostd.refusals import Refusals


class Templated:
    """Knows all of them."""

    def __init__(
        self,
        bounds: Bounds,
        refusals: Refusals,
        clock: Clock,
        forget: Callable[[Actor], None],
    ) -> None:
        self._bounds = bounds
        self._refusals = refusals
        self._clock = clock
        self._forget = forget
        self._all: dict[str, Actor] = {}
        self._may_be_idle: dict[str, None] = {}  # the oldest first
        self._spent: list[tuple[int, str]] = []  # a heap: when nothing is spent any more
        self._spent_until: dict[str, int] = {}  # what of that heap counts
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0  # when it rings

    def __len__(self) -> int:
        return len(self._all)

    @property
    def names(self) -> KeysView[str]:
        return self._all.keys()

    def add(self, actor: Actor) -> None:
        self._all[actor.limit.name] = actor
        self.look_at(actor.limit.name)

    def discard(self, name: str) -> None:
        """It is none any more; if it never was, that is no error."""
        self._all.pop(name, None)
        self._may_be_idle.pop(name, None)
        self._spent_until.pop(name, None)

    def look_at(self, name: str) -> None:
        """Something has happened there that may have left it idle."""
        if name in self._all and name not in self._may_be_idle:
            self._may_be_idle[name] = None
            if self._timer is None or len(self._may_be_idle) == 1:
                self._ring_at(self._clock() + int(config.TEMPLATE_IDLE_SECONDS * NANOSECONDS))

    def make_room(self, count: int, uid: int, keep: Collection[str]) -> None:
        """For so many more. `keep`: what the request names. Raises TooMany."""
        excess = len(self._all) + count - self._bounds.template_limits
        if excess > 0:
            waiting = (name for name in self._may_be_idle if name not in keep)
            for name in list(islice(waiting, config.TEMPLATES_SWEPT_AT_ONCE)):
                self._look(name)
            excess = len(self._all) + count - self._bounds.template_limits
        if excess > 0:
            raise self._refusals.too_many(
                "template_limits", "limits made by templates", f"uid {uid}"
            )

    def _ring_at(self, instant: int) -> None:
        if self._timer is not None:
            if self._due <= instant:
                return
            self._timer.cancel()
        self._due = instant
        seconds = max(0, instant - self._clock()) / NANOSECONDS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        while self._spent and self._spent[0][0] <= now:
            instant, name = heapq.heappop(self._spent)
            if self._spent_until.get(name) == instant:
                del self._spent_until[name]
                self._may_be_idle[name] = None
        for name in list(islice(self._may_be_idle, config.TEMPLATES_SWEPT_AT_ONCE)):
            self._look(name)
        if self._may_be_idle:
            self._ring_at(now)
        elif self._spent:
            # Not each at its own instant: they may be thousands.
            soonest = now + int(config.TEMPLATE_IDLE_SECONDS * NANOSECONDS)
            self._ring_at(max(self._spent[0][0], soonest))

    def _look(self, name: str) -> None:
        """Forget it if it is idle. If somebody holds or waits, their going has it looked at again."""
        self._may_be_idle.pop(name, None)
        actor = self._all[name]
        if not actor.at_rest:
            return
        level = actor.limit.level
        level.settle(self._clock())
        if level.units:
            self._look_again(name, level.instant_within(0))
        else:
            self._forget(actor)

    def _look_again(self, name: str, instant: int) -> None:
        known = self._spent_until.get(name)
        if known is not None and known <= instant:
            return  # looked at then, and once more
        self._spent_until[name] = instant
        heapq.heappush(self._spent, (instant, name))
        if len(self._spent) > 2 * len(self._spent_until) + config.TEMPLATES_SWEPT_AT_ONCE:
            self._spent = [(at, name) for name, at in self._spent_until.items()]
            heapq.heapify(self._spent)
