"""The limits that templates have made on their first use: how many there may be, and when they go.

Rule 1: such a limit is forgotten once it says nothing any more: nobody holds or waits, nothing is spent,
no message is on its way. Its next use makes the same again.
Rule 2: it is looked at some time after something happened that may have left it so, and again at the
instant at which what is spent will have come back. While nothing happens, no timer runs.
Rule 3: looking takes a bounded part of a turn of the loop.
Rule 4: one counts for the user whose request made it. After a restart nobody knows who that was, and
it counts for all together only.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, KeysView
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
        self._maker: dict[str, int] = {}  # of those of which it is known
        self._count: Counter[int] = Counter()  # of each maker
        self._may_be_idle: dict[str, None] = {}  # the oldest first
        self._own_idle: dict[int, dict[str, None]] = {}  # the same, by their makers
        self._spent: list[tuple[int, str]] = []  # a heap: when nothing is spent any more
        self._spent_until: dict[str, int] = {}  # what of that heap counts
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0  # when it rings

    def __len__(self) -> int:
        return len(self._all)

    @property
    def names(self) -> KeysView[str]:
        return self._all.keys()

    def add(self, actor: Actor, uid: int | None) -> None:
        """`uid`: whose request has made it; None: nobody knows."""
        name = actor.limit.name
        self._all[name] = actor
        if uid is not None:
            self._maker[name] = uid
            self._count[uid] += 1
        self.look_at(name)

    def discard(self, name: str) -> None:
        """It is none any more; if it never was, that is no error."""
        self._all.pop(name, None)
        self._not_idle(name)
        self._spent_until.pop(name, None)
        uid = self._maker.pop(name, None)
        if uid is not None:
            self._count[uid] -= 1
            if not self._count[uid]:
                del self._count[uid]

    def look_at(self, name: str) -> None:
        """Something has happened there that may have left it idle."""
        if name in self._all and name not in self._may_be_idle:
            self._maybe_idle(name)
            if self._timer is None or len(self._may_be_idle) == 1:
                self._ring_at(self._clock() + int(config.TEMPLATE_IDLE_SECONDS * NANOSECONDS))

    def make_room(self, count: int, uid: int, keep: Collection[str]) -> None:
        """For so many more of this user. `keep`: what the request names. Raises TooMany."""
        bounds, who = self._bounds, f"uid {uid}"
        if self._count[uid] + count > bounds.template_limits_per_uid:
            self._look_at_some(self._own_idle.get(uid, {}), keep)
        if self._count[uid] + count > bounds.template_limits_per_uid:
            what = f"limits made by templates for uid {uid}"
            raise self._refusals.too_many("template_limits_per_uid", what, who)
        if len(self._all) + count > bounds.template_limits:
            self._look_at_some(self._may_be_idle, keep)
        if len(self._all) + count > bounds.template_limits:
            raise self._refusals.too_many("template_limits", "limits made by templates", who)

    def _look_at_some(self, names: Iterable[str], keep: Collection[str] = ()) -> None:
        looked_at = (name for name in names if name not in keep)
        for name in list(islice(looked_at, config.TEMPLATES_SWEPT_AT_ONCE)):
            self._look(name)

    def _maybe_idle(self, name: str) -> None:
        self._may_be_idle[name] = None
        uid = self._maker.get(name)
        if uid is not None:
            self._own_idle.setdefault(uid, {})[name] = None

    def _not_idle(self, name: str) -> None:
        """Or it is looked at just now. It may be in no list."""
        self._may_be_idle.pop(name, None)
        own = self._own_idle.get(self._maker.get(name, -1))
        if own is not None:
            own.pop(name, None)
            if not own:
                del self._own_idle[self._maker[name]]

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
                self._maybe_idle(name)
        self._look_at_some(self._may_be_idle)
        if self._may_be_idle:
            self._ring_at(now)
        elif self._spent:
            # Not each at its own instant: they may be thousands.
            soonest = now + int(config.TEMPLATE_IDLE_SECONDS * NANOSECONDS)
            self._ring_at(max(self._spent[0][0], soonest))

    def _look(self, name: str) -> None:
        """Forget it if it is idle. If somebody holds or waits, their going has it looked at again."""
        self._not_idle(name)
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
