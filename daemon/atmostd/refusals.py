"""What is said when a bound was reached: to the client each time, in the log seldom.

Rule: who asks too much must not fill the log either. A bound is named there at most once in
COMPLAINT_SECONDS, with how often it was reached since the last time.
"""

from __future__ import annotations

import logging
from collections import Counter

from atmost.errors import TooMany
from atmostd import config
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Clock

_log = logging.getLogger(__name__)


class Refusals:
    """Makes the errors of bounds that were reached."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self._bounds = bounds
        self._clock = clock
        self._quiet_until: dict[str, int] = {}  # by the name of the bound
        self._unsaid: Counter[str] = Counter()  # refusals since the last line of the log

    def too_many(self, setting: str, what: str, who: str, at_most: int | None = None) -> TooMany:
        """The error. `setting` names the bound; `what` there are too many of; `who` asked for more;
        `at_most` if that is less for them than the bound."""
        error = TooMany(
            what, getattr(self._bounds, setting) if at_most is None else at_most, setting
        )
        self.complain(setting, f"{error} (asked by {who})")
        return error

    def complain(self, setting: str, text: str) -> None:
        """Have an operator know, unless it was said just now."""
        now = self._clock()
        if now < self._quiet_until.get(setting, 0):
            self._unsaid[setting] += 1
            return
        self._quiet_until[setting] = now + int(config.COMPLAINT_SECONDS * NANOSECONDS)
        unsaid = self._unsaid.pop(setting, 0)
        _log.warning("%s%s", text, f"; {unsaid} more since the last time" if unsaid else "")
