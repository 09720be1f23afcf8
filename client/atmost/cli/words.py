"""Times and numbers of slots, as a person says them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """0.041 s, 3.2 s, 31 s, 4m10s, 2h05m, 3d04h."""
    if seconds < 10:
        return (
            f"{seconds:.3f}".rstrip("0").rstrip(".") + " s" if seconds < 1 else f"{seconds:.1f} s"
        )
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    return f"{hours}h{minute:02}m" if hours else f"{minutes}m{second:02}s"


def slots_text(count: int) -> str:
    """1 slot, 3 slots."""
    return "1 slot" if count == 1 else f"{count} slots"


def requests_text(count: int) -> str:
    """1 request is, 3 requests are."""
    return "1 request is" if count == 1 else f"{count} requests are"
