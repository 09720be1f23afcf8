"""atmostd, which takes stamps of what it does. At SIGUSR1 it writes them beside its socket.

usage: python -m bench.stamped_daemon ARGUMENT...
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from atmostd.__main__ import main as atmostd
from atmostd.connection import Connection
from atmostd.journal import Journal
from atmostd.turn import Turn
from bench.stamps import Tape

STAMPS = "stamps"


def main(arguments: list[str]) -> int:
    tape = Tape()
    tape.watch(Connection, "data_received", before="reads")
    tape.watch(Turn, "_act", before="acts")
    tape.watch(Journal, "write", before="decided", after="written")
    tape.watch(Connection, "flush", after="spoken")

    def tell(*_: object) -> None:
        place = Path(arguments[arguments.index("--socket") + 1]).with_name(STAMPS)
        whole = place.with_suffix(".new")
        whole.write_text(json.dumps(tape.stamps))
        tape.stamps.clear()
        whole.replace(place)

    signal.signal(signal.SIGUSR1, tell)
    return atmostd(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
