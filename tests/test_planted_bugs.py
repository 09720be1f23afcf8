"""The simulation finds what it is there to find: each planted bug breaks a promise within 500 seeds."""

from __future__ import annotations

import pytest

from tests.sim.planted import ALL
from tests.sim.play import play

SEEDS = 500


@pytest.mark.parametrize("name", ALL)
def test_it_is_found(name: str) -> None:
    for seed in range(SEEDS):
        violation = play(seed, name).violation
        if violation:
            # A plant that no longer fits the code it is planted in shows nothing.
            assert "TypeError" not in violation, violation
            assert "AttributeError" not in violation, violation
            return
    pytest.fail(f"{name} survives {SEEDS} seeds")


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= 12
