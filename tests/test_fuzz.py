"""The fuzzer's finds, repeated; and that it finds what is planted."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from atmostd.session import Session
from tests.fuzz.fuzzing import SCRIPTS_PER_DAEMON, Bench, Fuzzer, Script, script_of, text_of

FOUND = sorted((Path(__file__).parent / "fuzz" / "found").glob("*.txt"))
STEPS = 4  # of SCRIPTS_PER_DAEMON scripts each
STEPS_UNTIL_FOUND_MAX = 30


async def run(script: Script) -> None:
    bench = Bench()
    try:
        await bench.run(script)
    finally:
        await bench.close()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_is_mended(path: Path) -> None:
    asyncio.run(run(script_of(path.read_text())))


def test_it_finds_nothing_in_a_short_while() -> None:
    fuzzer = Fuzzer(random.Random(1))
    for _ in range(STEPS):
        assert fuzzer.step() is None
    assert fuzzer.runs == STEPS * SCRIPTS_PER_DAEMON
    assert len(fuzzer.corpus) > 10


def test_it_finds_a_planted_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "_process_died", lambda _: None)
    monkeypatch.setattr(Session, "leave", lambda _, line: None)
    fuzzer = Fuzzer(random.Random(1))
    for _ in range(STEPS_UNTIL_FOUND_MAX):
        if (problem := fuzzer.step()) is not None:
            script, error = problem
            assert "AssertionError" in error
            assert script_of(text_of(script)) == script
            return
    raise AssertionError("it found nothing")
