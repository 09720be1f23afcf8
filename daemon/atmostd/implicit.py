"""The limits that requests have made by naming them: how many there may be, and which of them go.

Rule 1: such a limit enforces nothing, so forgetting it opens nothing; its next use makes it again.
Those that nobody uses are forgotten when there is no room for a new one, the oldest first.
Rule 2: one counts for the user whose request made it. After a restart nobody knows who that was, and
it counts for all together only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from atmostd.actor import Actor
from atmostd.bounds import Bounds
from atmostd.refusals import Refusals


class Implicit:
    """Knows all of them, the oldest first, and who made them."""

    def __init__(self, bounds: Bounds, refusals: Refusals) -> None:
        self._bounds = bounds
        self._refusals = refusals
        self._all: dict[str, int | None] = {}  # name -> uid of the maker
        self._of_uid: dict[int, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def add(self, name: str, uid: int | None) -> None:
        self.discard(name)
        self._all[name] = uid
        if uid is not None:
            self._of_uid.setdefault(uid, {})[name] = None

    def discard(self, name: str) -> None:
        """It is none any more; if it never was, that is no error."""
        uid = self._all.pop(name, None)
        if uid is not None:
            of_uid = self._of_uid[uid]
            del of_uid[name]
            if not of_uid:
                del self._of_uid[uid]

    def room_for(
        self, missing: int, uid: int, actors: dict[str, Actor], keep: Collection[str]
    ) -> list[str]:
        """What has to be forgotten before this user's request makes so many. `keep`: what it names.

        Raises TooMany if even that would not be enough.
        """
        bounds = self._bounds
        who = f"uid {uid}"

        def idle(names: Iterable[str]) -> Iterator[str]:
            return (name for name in names if name not in keep and actors[name].idle)

        own = self._of_uid.get(uid, {})
        excess = len(own) + missing - bounds.implicit_limits_per_uid
        going = dict.fromkeys(islice(idle(own), max(0, excess)))
        if len(going) < excess:
            what = f"limits made by requests of uid {uid}"
            raise self._refusals.too_many("implicit_limits_per_uid", what, who)
        excess = len(self._all) + missing - bounds.implicit_limits - len(going)
        more = (name for name in idle(self._all) if name not in going)
        also = list(islice(more, max(0, excess)))
        if len(also) < excess:
            raise self._refusals.too_many("implicit_limits", "limits made by requests", who)
        return [*going, *also]
