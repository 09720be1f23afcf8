"""The simulation (tests/sim): thousands of seeded worlds, and in each of them every promise is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.sim.__main__ import report
from tests.sim.play import play

ROOT = Path(__file__).parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sim", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_two_thousand_worlds() -> None:
    done = simulate("--seeds", "2000", "--jobs", "2")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


def test_a_seed_repeats_its_world() -> None:
    """Also in another process, whose hashes and addresses are others."""
    for seed in range(12):
        first, again = play(seed), play(seed)
        assert first.trace == again.trace
    elsewhere = simulate("--seed", "11").stdout.splitlines()
    assert elsewhere[:-1] == play(11).trace


def test_a_failure_says_how_to_see_it_again() -> None:
    verdict = next(v for v in (play(seed, "token_reset") for seed in range(20)) if v.violation)
    said = report(verdict, "token_reset").splitlines()
    assert said[-2] == f"seed {verdict.seed}: {verdict.violation}"
    assert said[-1] == f"again: python3 dev.py sim --seed {verdict.seed} --planted token_reset"
    again = simulate(*said[-1].split()[4:])
    assert again.returncode == 1
    assert verdict.violation in again.stdout


def test_worlds_are_not_empty() -> None:
    """Who keeps every promise because nothing happens shows nothing."""
    verdicts = [play(seed) for seed in range(300)]
    told = "\n".join(line for verdict in verdicts for line in verdict.trace)
    assert sum(verdict.entries for verdict in verdicts) > 200 * 10
    assert told.count(" is (") > 200  # limits that are enforced
    for event in (
        "daemon dies before the write",
        "daemon dies in the write",
        "daemon dies after the write",
        "daemon has stopped in order",
        "the host loses its power",
        "the wall clock jumps",
        "has a child that keeps the socket",
        "becomes another program",
        "is stopped",
        "resumes",
        "gives up",
        "fails: acquire_timeout",
        "fails: limit_deleted",
        "stays as it was: state_not_saved",
        "rude wants to change",
        "rude comes as somebody else",
        "rude floods",
        "while no daemon runs: turn_a_bit",
        "while no daemon runs: cut_the_journal",
        "daemon is told to read its configuration again",
        "while no daemon runs: take_the_journal",
        "while no daemon runs: from_another_boot",
        "while no daemon runs: damage_the_newest_state",
        "while no daemon runs: damage_all_states",
        "while no daemon runs: take_all_states",
        "while no daemon runs: damage_both",
        "daemon grants nothing",
        "the operator accepts",
        "fails: state_unavailable",
        "daemon does not know what",
        "is told that",
        "the journal cannot be written",
        "what the journal has is out of date",
        "read by 2",
    ):
        assert event in told, event
