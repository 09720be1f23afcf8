"""What a name, a number and a time may be: semantics.md 1 and 2, checked the same on both ends.

Rule: a check returns the value in its one normal form or raises InvalidValue; it never guesses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from atmost.errors import InvalidValue

NAME_CHARS_MAX = 200  # a name fits one line of a table and 800 bytes of a frame
NAMES_MAX = 32  # limits in one request: names of the greatest length still fit one frame
COUNT_MAX = 2**53 - 1  # slots: the greatest whole number that JSON readers keep exactly
VALUE_CHARS_MAX = 80  # of a wrong value, quoted in an error

NAMES_KNOWN = (
    1000  # good ones that are not looked at again: a program asks for few, again and again
)

# No pattern: compiling one would take longer than all else of this module.
_NOT_IN_A_NAME = frozenset("/%&><").union(map(chr, (*range(0x20), *range(0x7F, 0xA0))))

Names = str | Iterable[str] | Mapping[str, int] | None


def check_name(name: Any, field: str = "name") -> str:
    """A limit's name: 1 to 200 characters, none of / % & > <, no control characters."""
    if isinstance(name, str) and _is_name(name):
        return name
    raise invalid(
        field,
        name,
        f"a name of 1 to {NAME_CHARS_MAX} characters without / % & > < and control characters",
    )


def check_limit(limit: Any) -> int:
    """The slots of a limit: a whole number >= 0."""
    if _is_whole(limit) and 0 <= limit <= COUNT_MAX:
        return int(limit)
    raise invalid("limit", limit, f"a whole number from 0 to {COUNT_MAX}")


def check_decay(slot_decay_per_second: Any) -> float:
    """Slots that come back a second: a finite number >= 0."""
    decay = _finite(slot_decay_per_second)
    if decay is not None and decay >= 0:
        return decay
    raise invalid("slot_decay_per_second", slot_decay_per_second, "a finite number >= 0")


def check_active(active: Any) -> bool:
    """Whether a limit is enforced: True or False."""
    if type(active) is bool:
        return active
    raise invalid("active", active, "True or False")


def check_slots(slots: Any, field: str = "occupy") -> int:
    """The slots that a request asks of one limit: a whole number >= 1."""
    if _is_whole(slots) and 1 <= slots <= COUNT_MAX:
        return int(slots)
    raise invalid(field, slots, f"a whole number from 1 to {COUNT_MAX}")


def check_timeout(timeout_seconds: Any) -> float | None:
    """Seconds to wait, a finite number >= 0 (0: try once), or None to wait for ever."""
    if timeout_seconds is None:
        return None
    seconds = _finite(timeout_seconds)
    if seconds is not None and seconds >= 0:
        return seconds
    raise invalid(
        "timeout_seconds", timeout_seconds, "a finite number >= 0, or None to wait for ever"
    )


def slots_by_name(names: Names, occupy: Any = 1, field: str = "names") -> dict[str, int]:
    """What a call asks for, as {name: slots}, from a name, several names, a mapping or None.

    Duplicates collapse; nothing named gives {}. Raises InvalidValue.
    """
    occupy = check_slots(occupy)
    if names is None:
        return {}
    if isinstance(names, str):
        return {check_name(names, field): occupy}
    if isinstance(names, Mapping):
        if occupy != 1:
            raise invalid("occupy", occupy, f"no occupy beside {field} that give their own slots")
        asked = {
            check_name(name, field): check_slots(slots, f"{field}[{name!r}]")
            for name, slots in names.items()
        }
    elif isinstance(names, Iterable) and not isinstance(names, (bytes, bytearray)):
        asked = {check_name(name, field): occupy for name in names}
    else:
        raise invalid(field, names, "a name, several names, a mapping {name: slots}, or None")
    if len(asked) > NAMES_MAX:
        raise invalid(field, len(asked), f"at most {NAMES_MAX} names in one request")
    return asked


@functools.lru_cache(NAMES_KNOWN)
def _is_name(text: str) -> bool:
    if not 0 < len(text) <= NAME_CHARS_MAX or not _NOT_IN_A_NAME.isdisjoint(text):
        return False
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    """The value as a float, or None if it is no number, NaN or infinite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number + 0.0 if math.isfinite(number) else None  # -0.0 + 0.0 is 0.0


def invalid(field: str, value: Any, expected: str) -> InvalidValue:
    """The error about this value, which is quoted in at most VALUE_CHARS_MAX characters."""
    try:
        text = repr(value)
    except Exception as error:  # a stranger's __repr__, or an int too long to print
        text = f"<{type(value).__name__}: {error}>"
    if len(text) > VALUE_CHARS_MAX:
        text = text[: VALUE_CHARS_MAX - 1] + "…"
    return InvalidValue(field, text.encode("utf-8", "replace").decode(), expected)
