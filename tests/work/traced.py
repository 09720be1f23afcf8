"""atmostd under tracemalloc: at SIGUSR1 it writes how many bytes it has.

usage: python -m tests.work.traced FIGURES atmostd|tests.work.planted ARGUMENT...
"""

from __future__ import annotations

import gc
import signal
import sys
import tracemalloc
from pathlib import Path

from atmostd.__main__ import main as atmostd
from tests.work import planted


def main(figures: str, program: str, *arguments: str) -> int:
    def tell(*_: object) -> None:
        gc.collect()
        whole = Path(f"{figures}.new")
        whole.write_text(str(tracemalloc.get_traced_memory()[0]))
        whole.replace(figures)

    if program != "atmostd":
        planted.plant()
    signal.signal(signal.SIGUSR1, tell)
    tracemalloc.start()
    return atmostd(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
