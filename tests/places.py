"""Places in the code of the blocking client at which Python may do something else: turn to another
thread, or call a signal handler. Those are where a function begins, where a loop turns, and after a
call into C.

    for place in places():
        with AtPlace(place, do_it) as reached:
            tested.acquire("db")
        ...
        if reached.at is None:
            break  # there are not so many places: each one has had its turn
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

PLACES_MAX = 1000  # an acquire that waits has about a hundred

_FILES = tuple(
    f"/atmost/{name}.py"
    for name in (
        "sync",
        "sync_blocks",
        "sync_connection",
        "sync_reconnecting",
        "sync_socket",
        "exchange",
        "reconnecting",
    )
)


class AtPlace:
    """Calls `do` at the n-th place that this thread comes to; an exception of it comes from there."""

    def __init__(self, place: int, do: Callable[[], object]) -> None:
        self.at: str | None = None  # where that was; None: it did not come to so many
        self._left = place
        self._do = do
        self._noticed = False  # the instruction before was such a place

    def __enter__(self) -> AtPlace:
        sys._getframe().f_trace_opcodes = True  # Python 3.12 wants one before it traces any
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        self._noticed = frame.f_code.co_filename.endswith(_FILES)
        if not self._noticed:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        if event != "opcode":
            self._noticed = False
            return self._step
        if self._noticed:
            self._left -= 1
            if not self._left:
                sys.settrace(None)
                self.at = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                self._do()
        self._noticed = _may_notice(frame.f_code, frame.f_lasti)
        return self._step


def places() -> Iterator[int]:
    """The numbers of all places, to be left by a break."""
    yield from range(1, PLACES_MAX)
    raise AssertionError(f"more than {PLACES_MAX} places")


def _may_notice(code: CodeType, offset: int) -> bool:
    name = dis.opname[code.co_code[offset]]
    return name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and "INTRINSIC" not in name
