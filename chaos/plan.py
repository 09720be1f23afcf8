"""What is contended for, and how much of everything there is.

Rule 1: `one` and `three` are never edited, so their judge knows the limit exactly; `edited` is the one
whose limit changes under its holders. What is spent is never edited either.
Rule 2: nobody ever asks for more than a limit has at its lowest: every request fits some time.
"""

from __future__ import annotations

from typing import NamedTuple

Slots = dict[str, int]

FIXED: Slots = {"one": 1, "three": 3}
EDITED = "edited"
EDITED_LOWEST, EDITED_HIGHEST = 2, 5
SPENT = {  # name: slots, slots that come back in a second
    "calls": (3, 40.0),
    "quota": (8, 5.0),  # so slow that after a restart a free burst could not be due anyhow
}
CONTENDED = [*FIXED, EDITED, *SPENT]
SCRATCH = [f"scratch-{number}" for number in range(6)]  # made, changed and deleted, never used


class Shape(NamedTuple):
    """What one request asks for."""

    hold: Slots
    spend: Slots


SHAPES = [
    Shape({"one": 1}, {}),
    Shape({"one": 1}, {}),
    Shape({"three": 1}, {}),
    Shape({"three": 1}, {}),
    Shape({"three": 2}, {}),
    Shape({"edited": 1}, {}),
    Shape({"edited": 1}, {}),
    Shape({"edited": 2}, {}),
    Shape({"one": 1, "three": 1}, {}),
    Shape({"three": 1}, {"calls": 1}),
    Shape({}, {"calls": 1}),
    Shape({}, {"quota": 1}),
]

THREADS = 3  # in a process that has threads, and tasks in one that has tasks
FORKS = 2  # children at the same time
ROUNDS_OF_A_FORK = 4
KINDS = ["threads", "tasks", "threads", "forks", "tasks", "run"]  # of worker 0, 1, 2 ... and again
WORKERS = 12

INSIDE_SECONDS = (0.001, 0.012)
LONG_INSIDE_SECONDS = (0.2, 0.6)  # to be inside still when the next daemon lets others in
LONG_SHARE = 0.05
OUTSIDE_SECONDS = (0.0, 0.015)
WAIT_SECONDS = (0.0, 0.08)  # the time-out of those that have one
TIMEOUT_SHARE = 0.15
RETRY_SECONDS = 0.02  # when no daemon answers
