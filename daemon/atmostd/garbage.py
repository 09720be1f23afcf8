"""When Python looks for garbage: not while many objects come to stay.

Nearly nothing here is ever garbage that counting references does not free. But with 100,000 limits each
look stops everybody for a quarter of a second and more, and making so many has Python look again and again.
100,000 requests that wait are as many objects, so a full look at all is made a hundred times more seldom
than Python would: once in some seven million objects that came to stay.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

FULL_LOOK_EVERY = 1_000  # looks at what is not so young any more; Python's own is 10


@contextlib.contextmanager
def collected_later() -> Iterator[None]:
    """No look meanwhile; and what is there at the end is never looked at again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def look_seldom() -> None:
    """At all that there is; at what is young as often as ever. What is garbage in circles comes to be seen
    still, for it counts as what came to stay."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_LOOK_EVERY)
