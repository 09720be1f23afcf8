"""The world of a simulation: one virtual clock, one order of events, one seed.

Rule 1: everything that happens is an event of one heap; events of the same instant are ordered by
chance, and all chance comes from the seed. So a seed repeats its world to the byte.
Rule 2: an event belongs to a process. A dead process has none; those of a stopped one wait for it.
Rule 3: what a dead process still does, because Python unwinds it, has no effect and draws no chance.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.loop import Loop
    from tests.sim.oracle import Oracle

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
MICROSECOND = 1_000
STEPS_MAX = 60_000  # of a world that comes to rest
TRACE_KEPT = 60  # lines shown when a seed fails


class Violation(AssertionError):
    """A promise was broken in this world."""


class Process:
    """A process of the simulated host."""

    def __init__(self, world: World, name: str, pid: int, uid: int = 0) -> None:
        self.world = world
        self.name = name
        self.pid = pid
        self.uid = uid
        self.started = world.now // (10 * MILLISECOND)  # as /proc counts it
        self.inode = world.new_inode()
        self.alive = True
        self.stopped = False
        self.on_death: list[Callable[[], None]] = []
        self._postponed: list[Callable[[], None]] = []

    def after(self, nanoseconds: int, act: Callable[[], None]) -> None:
        """Do this later, if still alive."""
        if self.alive:
            self.world.at(self.world.now + nanoseconds, act, self)

    def run(self, act: Callable[[], None]) -> None:
        """An event of this process comes up."""
        if self.stopped:
            self._postponed.append(act)
        elif self.alive:
            act()

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True
        self.world.note(f"{self.name} is stopped")

    def go_on(self) -> None:
        """SIGCONT."""
        if self.stopped and self.alive:
            self.stopped = False
            self.world.note(f"{self.name} goes on")
            postponed, self._postponed = self._postponed, []
            for act in postponed:
                self.world.at(self.world.now, act, self)

    def kill(self) -> None:
        """SIGKILL: nothing more of it has any effect."""
        if self.alive:
            self.alive = False
            self.world.note(f"{self.name} dies")
            for act in self.on_death:
                act()
            self.on_death = []
            self._postponed = []


class World:
    """One seeded world."""

    host: Host
    oracle: Oracle

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.climate = random.Random(f"climate {seed}")  # what kind of world; says nothing later
        self.now = 1000 * SECOND  # CLOCK_BOOTTIME and CLOCK_MONOTONIC
        self.wall_ahead = 1_700_000_000 * SECOND  # of the wall clock; can jump
        self.kernel_bytes = 200_000  # that a socket takes before its sender has to keep them
        self.one_inode = False  # a kernel before 6.9: all pidfds have the same inode
        self._inode = 4000
        self._pid = 100
        self._events: list[tuple[int, float, int, Callable[[], None], Process | None]] = []
        self._count = 0
        self.steps = 0
        self.loops: list[Loop] = []
        self.violation: Violation | None = None  # the first one, whoever has swallowed it
        self.lines: list[str] = []
        self._digest = hashlib.blake2b(digest_size=8)

    # Time

    @property
    def wall(self) -> int:
        """time.time_ns()."""
        return self.now + self.wall_ahead

    def at(self, instant: int, act: Callable[[], None], process: Process | None = None) -> None:
        """An event to come."""
        self._count += 1
        entry = (max(instant, self.now), self.chance.random(), self._count, act, process)
        heapq.heappush(self._events, entry)

    def run_until(self, instant: int) -> None:
        """Let the world go on."""
        events = self._events
        while events and events[0][0] <= instant:
            self.step()
            if self.steps > STEPS_MAX:
                self.fail("this world does not come to rest")
            if self.violation is not None:
                raise self.violation
        self.now = max(self.now, instant)

    def step(self) -> None:
        """The next event."""
        instant, _, _, act, process = heapq.heappop(self._events)
        self.now = max(self.now, instant)
        self.steps += 1
        if process is None:
            act()
        elif process.alive:
            process.run(act)

    # Processes

    def new_inode(self) -> int:
        if not self.one_inode:
            self._inode += 1
        return self._inode

    def new_pid(self) -> int:
        self._pid += 1
        return self._pid

    # The trace

    def fail(self, text: str) -> NoReturn:
        """A promise was broken."""
        self.note(f"VIOLATION: {text}")
        violation = Violation(text)
        self.violation = self.violation or violation
        raise violation

    def note(self, line: str) -> None:
        """A line of the trace."""
        text = f"{self.now / SECOND - 1000:12.6f} {line}"
        self._digest.update(text.encode())
        self.lines.append(text)

    @property
    def digest(self) -> str:
        """The same for the same trace."""
        return self._digest.hexdigest()

    def tail(self) -> str:
        return "\n".join(self.lines[-TRACE_KEPT:])

    # Chance

    def maybe(self, probability: float) -> bool:
        return self.chance.random() < probability

    def span(self, low: int, high: int) -> int:
        """Nanoseconds, most often few: every order of magnitude is as likely."""
        return int(low * (high / low) ** self.chance.random())
