"""The machine that figures depend on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.3  # at what others do, before the first case


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "busy_before": round(busy(LOOK_SECONDS), 2),
    }


def busy(seconds: float) -> float:
    """The share of all processors' time that is used while we do nothing."""

    def used_and_all() -> tuple[int, int]:
        ticks = [
            int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        ]
        idle = ticks[3] + ticks[4]  # idle, iowait
        return sum(ticks) - idle, sum(ticks)

    used, total = used_and_all()
    time.sleep(seconds)
    used_then, total_then = used_and_all()
    return (used_then - used) / max(1, total_then - total)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
