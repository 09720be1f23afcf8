"""When Python looks for garbage: not while many objects come to stay.

Nearly nothing here is ever garbage that counting references does not free. But with 100,000 limits each
look stops everybody for a quarter of a second and more, and making so many has Python look again and again.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


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
