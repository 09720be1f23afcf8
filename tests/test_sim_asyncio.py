"""The simulation with the real asyncio client (tests/sim/asyncio_script.py): a thousand worlds."""

from __future__ import annotations

from tests.sim.play import play
from tests.test_sim import simulate


def test_a_thousand_worlds() -> None:
    done = simulate("--asyncio", "--seeds", "1000", "--jobs", "2")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


def test_a_seed_repeats_its_world() -> None:
    for seed in range(8):
        first, again = play(seed, with_asyncio=True), play(seed, with_asyncio=True)
        assert first.trace == again.trace
    elsewhere = simulate("--asyncio", "--seed", "7").stdout.splitlines()
    assert elsewhere[:-1] == play(7, with_asyncio=True).trace


def test_worlds_are_not_empty() -> None:
    entries = sum(play(seed, with_asyncio=True).entries for seed in range(30))
    assert entries > 30 * 20
