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
PLANTED, PLANTED_CALLER = "tests.work.planted", "tests.work.planted_caller"


def allowed(of: str) -> float:
    """Allocations of a cycle."""
    counts = RECORD["allocations"]
    if found := counts.get(measure.VERSION):
        return float(found[of]) + SLACK
    return max(float(count[of]) for count in counts.values()) * OTHER_PYTHON


def as_recorded(calls: float, of: str) -> bool:
    """Neither more, nor so few that one more would be within the record: then record the fewer."""
    return abs(calls - float(CALLS[of])) <= SLACK


def test_system_calls_of_the_daemon(tmp_path: Path) -> None:
    assert as_recorded(measure.daemon_calls(tmp_path), "daemon")


def test_system_calls_of_a_blocking_client(tmp_path: Path) -> None:
    assert as_recorded(measure.client_calls(tmp_path), "client")


def test_allocations_of_the_daemon(tmp_path: Path) -> None:
    assert 0 < measure.allocations_of_daemon(tmp_path) <= allowed("daemon")


def test_allocations_of_a_blocking_client(tmp_path: Path) -> None:
    assert 0 < measure.allocations_of_client(tmp_path) <= allowed("client")


def test_the_daemon_keeps_nothing_of_a_cycle(tmp_path: Path) -> None:
    assert measure.daemon_keeps(tmp_path) < KEPT_BYTES


def test_a_slow_down_of_the_daemon_would_be_seen(tmp_path: Path) -> None:
    """One write more in each turn, and a line that is kept."""
    assert measure.daemon_calls(tmp_path, PLANTED) > CALLS["daemon"] + SLACK
    assert measure.allocations_of_daemon(tmp_path, PLANTED) > allowed("daemon")
    assert measure.daemon_keeps(tmp_path, PLANTED) > KEPT_BYTES


def test_a_slow_down_of_the_client_would_be_seen(tmp_path: Path) -> None:
    """One call more in each cycle, and a line that is kept."""
    assert measure.client_calls(tmp_path, PLANTED_CALLER) > CALLS["client"] + SLACK
    assert measure.allocations_of_client(tmp_path, PLANTED_CALLER) > allowed("client")
