"""atmostd with a slow-down that somebody could have made: in each turn it writes a line to nowhere, and
keeps it. What counts work has to see it. usage: python -m tests.work.planted ARGUMENT...
"""

from __future__ import annotations

import os
import sys

from atmostd.__main__ import main
from atmostd.turn import Turn

NOWHERE = os.open(os.devnull, os.O_WRONLY)
lines: list[str] = []


def plant() -> None:
    end = Turn._end

    def tell_and_end(turn: Turn) -> None:
        lines.append(f"turn {len(lines)} of a daemon that tells too much")
        os.write(NOWHERE, lines[-1].encode())
        end(turn)

    Turn._end = tell_and_end  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    plant()
    sys.exit(main(sys.argv[1:]))
