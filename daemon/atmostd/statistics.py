"""What happened at one limit since the daemon started: counters and histograms.

Rule 1: pure, and cheap: whole numbers that only rise, no allocation once a limit is in use. It is called
for every grant and every release.
Rule 2: they start at 0 with the daemon. Whoever reads them takes differences, as Prometheus does, and
sees a restart as numbers that fell.
"""

from __future__ import annotations

from bisect import bisect_left

NANOSECONDS = 1_000_000_000  # in a second

# From a grant that crosses a turn of the loop to a job that runs over night; the last bucket is what
# takes longer still. Fixed: what changes its buckets cannot be added up over time.
BUCKET_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)
_BOUNDS = tuple(round(seconds * NANOSECONDS) for seconds in BUCKET_SECONDS)
BUCKETS = len(_BOUNDS) + 1
SHORT_NS = _BOUNDS[0]  # nearly all waits, where nobody is ahead

RECENT_SHIFT = 3  # the mean of recent holds forgets an eighth of itself with every new one


class Tally:
    """The counters of one limit. Durations are whole nanoseconds."""

    __slots__ = (
        "cancels",
        "deaths",
        "grants",
        "hold_ns",
        "holds",
        "recent_hold_ns",
        "refusals",
        "releases",
        "timeouts",
        "wait_ns",
        "waits",
    )

    def __init__(self) -> None:
        self.grants = 0  # also of what only spends
        self.releases = 0  # of what held slots, however that ended
        self.deaths = 0  # those of them whose process died without a release
        self.timeouts = 0
        self.cancels = 0  # requests that left the line by themselves, or with their process
        self.refusals: dict[str, int] = {}  # by the code of the error
        self.wait_ns = 0  # of all grants together
        self.hold_ns = 0  # of all releases together
        self.waits: list[int] | None = None  # grants by their wait; the shortest are not in it
        self.holds: list[int] | None = None  # releases by how long they held; None: none yet
        self.recent_hold_ns = 0

    def granted(self, waited_ns: int) -> None:
        """A request got its slots here, after so long."""
        self.grants += 1
        self.wait_ns += waited_ns
        if waited_ns > SHORT_NS:
            waits = self.waits
            if waits is None:
                waits = self.waits = [0] * BUCKETS
            waits[bisect_left(_BOUNDS, waited_ns)] += 1

    def released(self, held_ns: int) -> None:
        """Slots came back that were held for so long."""
        self.releases += 1
        self.hold_ns += held_ns
        holds = self.holds
        if holds is None:
            holds = self.holds = [0] * BUCKETS
            self.recent_hold_ns = held_ns
        else:
            self.recent_hold_ns += (held_ns - self.recent_hold_ns) >> RECENT_SHIFT
        holds[bisect_left(_BOUNDS, held_ns)] += 1

    def refused(self, code: str) -> None:
        """A request was refused with this error."""
        self.refusals[code] = self.refusals.get(code, 0) + 1

    def wait_buckets(self) -> list[int]:
        """Grants by their wait, one number for each bucket; the last is what took longer than all."""
        waits = list(self.waits or [0] * BUCKETS)
        waits[0] += self.grants - sum(waits)
        return waits

    def hold_buckets(self) -> list[int]:
        """Releases by how long they held."""
        return list(self.holds or [0] * BUCKETS)

    def mean_hold_seconds(self) -> float | None:
        """How long recent holders kept their slots, the latest counting most; None: not known."""
        if self.holds is None:
            return None
        return self.recent_hold_ns / NANOSECONDS
