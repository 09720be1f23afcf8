"""Who may come in: how many connections there are, in all and of each user.

Rule 1: a connection that is refused is told why, and does not count.
Rule 2: the last few are kept for those who may change limits, so that they can look and mend while
all the others are taken.
Rule 3: clients count like connections: one that left its slots to its process, or was cut off, has
no connection for a while and still takes a descriptor. One that is known is never refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from atmost.errors import TooMany
from atmostd.bounds import Bounds
from atmostd.refusals import Refusals


class Door:
    """Counts those who are in: connections, or clients."""

    def __init__(self, bounds: Bounds, refusals: Refusals) -> None:
        self.first_comes: Callable[[], None] = _nothing
        self.last_leaves: Callable[[], None] = _nothing
        self._bounds = bounds
        self._refusals = refusals
        self._of_uid: Counter[int] = Counter()
        self._in_all = 0
        self.entered = 0  # how many there were, ever

    def refusal(self, uid: int, is_admin: bool) -> TooMany | None:
        """Why one more of this user may not come in; None if it may."""
        bounds = self._bounds
        who = f"uid {uid}"
        if self._of_uid[uid] >= bounds.connections_per_uid:
            return self._refusals.too_many("connections_per_uid", f"connections of uid {uid}", who)
        at_most = bounds.connections - (0 if is_admin else bounds.connections_kept)
        if self._in_all >= at_most:
            return self._refusals.too_many("connections", "connections", who, at_most)
        return None

    def enter(self, uid: int) -> None:
        if not self._in_all:
            self.first_comes()
        self._of_uid[uid] += 1
        self._in_all += 1
        self.entered += 1

    def leave(self, uid: int) -> None:
        self._in_all -= 1
        self._of_uid[uid] -= 1
        if not self._of_uid[uid]:
            del self._of_uid[uid]
        if not self._in_all:
            self.last_leaves()


def _nothing() -> None: ...
