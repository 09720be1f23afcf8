"""One seed's world from its beginning to the verdict."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from atmostd import grants
from tests.sim.asyncio_script import AsyncioScript
from tests.sim.script import Script
from tests.sim.seams import replaced
from tests.sim.world import Violation, World


@dataclass(frozen=True)
class Verdict:
    """What became of a world."""

    seed: int
    digest: str  # the same for the same trace
    entries: int  # grants that clients took
    violation: str  # empty if every promise was kept
    trace: list[str]


def play(seed: int, planted: str = "", with_asyncio: bool = False) -> Verdict:
    """Let it happen."""
    world = World(seed)
    script = (AsyncioScript if with_asyncio else Script)(world)
    violation = ""
    with _small_steps(seed), replaced(world, script.seams(), planted):
        try:
            script.play()
        except Violation as found:
            violation = str(found) or "?"
        except Exception:  # the simulation's own, or what a planted bug has broken
            violation = traceback.format_exc()
    return Verdict(seed, world.digest, world.oracle.entries, violation, world.lines)


@contextmanager
def _small_steps(seed: int) -> Iterator[None]:
    """In some worlds a step of the rules lets hardly anybody go, so that lines go on with Ticks."""
    before = grants.TICKETS_A_STEP_MAX
    grants.TICKETS_A_STEP_MAX = (before, before, 1, 2)[seed % 4]
    try:
        yield
    finally:
        grants.TICKETS_A_STEP_MAX = before
