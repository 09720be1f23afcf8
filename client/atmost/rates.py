"""Rates as people say them, `100/min`, and as a limit has them: slots that come back a second."""

from __future__ import annotations

import re

SECONDS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "h": 3600,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
}
_SHOWN = ("s", "min", "h", "day")

RATE_WORDS = "a rate such as 100/min: a number >= 0, then /s, /min, /h or /day"

_RATE = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)/({'|'.join(SECONDS)})")


def slots_per_second(rate: str) -> float | None:
    """`100/min` as slots a second, or None if it is no rate."""
    found = _RATE.fullmatch(rate)
    return float(found[1]) / SECONDS[found[2]] if found else None


def rate_text(slots_per_second: float) -> str:
    """The rate in the first unit in which it is a whole number, else a second; `-` for none."""
    if not slots_per_second:
        return "-"
    for unit in _SHOWN:
        count = slots_per_second * SECONDS[unit]
        if round(count) >= 1 and abs(count - round(count)) <= 1e-9 * count:
            return f"{round(count)}/{unit}"
    return f"{slots_per_second:.6g}/s"
