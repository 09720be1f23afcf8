"""What `atmost run` becomes in the chaos: is inside for a while, and writes that down.

usage: python -S inside.py LOG ID SECONDS

Rule: three modules, and none of ours. It starts a thousand times, beside others that want the processor.
"""

import os
import sys
import time


def mark(log: int, what: str) -> None:
    """log.py's line; `atmost run` tells no token, hence the 0."""
    token = ", 0" if what == "entered" else ""
    line = f'[{time.monotonic_ns()}, "{what}", {os.getpid()}, "{sys.argv[2]}"{token}]\n'
    os.write(log, line.encode())


def main() -> None:
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
    mark(log, "entered")
    time.sleep(float(sys.argv[3]))
    mark(log, "leaving")


if __name__ == "__main__":
    main()
