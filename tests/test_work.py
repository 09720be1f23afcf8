"""An acquire + release takes no more work than is recorded: system calls, and allocations.

Time says nothing on a noisy machine, so this counts. Who needs more on purpose records it: see
`golden/work.json`; `python -m tests.work.measure` prints what it is now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.work import measure

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "work.json").read_text())
CALLS = RECORD["calls"]
SLACK = 0.5  # of a cycle's figure: what happens now and then, whatever is asked
OTHER_PYTHON = 1.25  # times as many allocations, where no count of its version is recorded
KEPT_BYTES = 16.0  # a cycle: less than the smallest object
PLANTED = "tests.work.planted"


def allowed(of: str) -> float:
    """Allocations of a cycle."""
    counts = RECORD["allocations"]
    if found := counts.get(measure.VERSION):
        return float(found[of]) + SLACK
    return max(float(count[of]) for count in counts.values()) * OTHER_PYTHON


def test_system_calls_of_the_daemon(tmp_path: Path) -> None:
    found = measure.daemon_calls(tmp_path)
    assert 0 < found <= CALLS["daemon"] + SLACK


def test_system_calls_of_a_blocking_client(tmp_path: Path) -> None:
    found = measure.client_calls(tmp_path)
    assert 0 < found <= CALLS["client"] + SLACK


def test_allocations_of_daemon_and_client(tmp_path: Path) -> None:
    of_daemon, of_client = measure.allocations(tmp_path)
    assert 0 < of_daemon <= allowed("daemon")
    assert 0 < of_client <= allowed("client")


def test_the_daemon_keeps_nothing_of_a_cycle(tmp_path: Path) -> None:
    assert measure.daemon_keeps(tmp_path) < KEPT_BYTES


def test_a_slow_down_would_be_seen(tmp_path: Path) -> None:
    """One write more in each turn, and a line that is kept."""
    assert measure.daemon_calls(tmp_path, PLANTED) > CALLS["daemon"] + SLACK
    assert measure.allocations(tmp_path, PLANTED)[0] > allowed("daemon")
    assert measure.daemon_keeps(tmp_path, PLANTED) > KEPT_BYTES
