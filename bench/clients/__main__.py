"""A client process: does what it is told on stdin, a JSON line each, and answers with one.

It ends when stdin does, so it never outlives who started it.
usage: python -m bench.clients PROGRAM ADDRESS CORE
"""

from __future__ import annotations

import importlib
import os
import sys


def main(program: str, address: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    importlib.import_module(f"bench.clients.{program}").main(address)


if __name__ == "__main__":
    main(*sys.argv[1:])
