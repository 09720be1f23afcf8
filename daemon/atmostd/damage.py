"""Files that were kept and cannot be trusted: what is wrong, what would be lost, and how they are moved
out of the way.

Rule 1: a damaged file is never deleted or written over; it is renamed, so that somebody may look at it.
Rule 2: nothing here decides that a loss is accepted: an operator does (closed.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Damage(NamedTuple):
    """One thing that is kept and cannot be trusted."""

    path: Path
    reason: str
    lost: str  # in words, for an operator

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.lost}"


class Untrusted(Exception):
    """What is there may not be used, and starting without it is not ours to decide."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(str(damage))
        self.damage = damage


def move_aside(path: Path) -> Path:
    """Give the file a name that was not there before. Raises OSError."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(aside)
    return aside
