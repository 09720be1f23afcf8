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
        self.waits: list[int] | None = None  # grants by their wait; those without any are not in it
        self.holds: list[int] | None = None  # releases by how long they held
        self.recent_hold_ns: int | None = None  # None: nobody has released yet

    def granted(self, waited_ns: int) -> None:
        """A request got its slots here, after so long."""
        self.grants += 1
        if waited_ns > 0:
            self.wait_ns += waited_ns
            waits = self.waits
            if waits is None:
                waits = self.waits = [0] * BUCKETS
            waits[bisect_left(_BOUNDS, waited_ns)] += 1

    def released(self, held_ns: int) -> None:
        """Slots came back that were held for so long."""
        self.releases += 1
        if held_ns < 0:
            held_ns = 0
        self.hold_ns += held_ns
        holds = self.holds
        if holds is None:
            holds = self.holds = [0] * BUCKETS
            self.recent_hold_ns = held_ns
        else:
            recent = self.recent_hold_ns or 0
            self.recent_hold_ns = recent + ((held_ns - recent) >> RECENT_SHIFT)
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
        if self.recent_hold_ns is None:
            return None
        return self.recent_hold_ns / NANOSECONDS
