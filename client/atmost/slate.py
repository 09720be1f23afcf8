"""The slate: a page of memory that a daemon has lent to this session, and that outlives that daemon.

What is let go of is noted there before it is sent. So a daemon that was killed before it had read that
has a successor that knows it all the same, even if this program never says another word: it has no
thread that would notice.

Rule 1: a note is one plain store of 8 aligned bytes: no call into the kernel, nothing to wait for.
Rule 2: request numbers are never used again within a session, so a note is true for ever, and may be
made twice. The oldest one makes room for the next.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from msgspec import Struct

SLATE_BYTES = 4096  # PROTOCOL.md: 512 numbers of 64 bits, in the order of this host


class Slate(Struct, frozen=True):
    """`ring[next(places)] = number` is a note."""

    ring: memoryview[int]
    places: Iterator[int]

    @classmethod
    def of(cls, ring: memoryview[int]) -> Slate:
        return cls(ring, cycle(range(len(ring))))


def lent(descriptor: int | None) -> Slate | None:
    """The slate that came as this descriptor, which is closed; None if there is none, or no memory."""
    if descriptor is None:
        return None
    # Else Python keeps a copy of the descriptor.
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    try:
        memory = mmap.mmap(descriptor, SLATE_BYTES, **options)  # shared, to be read and written
    except (OSError, ValueError):  # a file that is too short has no room either
        return None
    finally:
        os.close(descriptor)
    return Slate.of(memoryview(memory).cast("Q"))
