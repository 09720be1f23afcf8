"""`python3 dev.py fuzz --seconds N`: look for bytes that a connection cannot take.

Exit code: 0 nothing found; 1 found, and written to tests/fuzz/found, where tests/test_fuzz.py repeats it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import sys
import time
from pathlib import Path

from tests.fuzz.fuzzing import Fuzzer, text_of

FOUND = Path(__file__).parent / "found"


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py fuzz")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(4), "big")
    logging.disable(logging.WARNING)
    fuzzer = Fuzzer(random.Random(seed))
    ends = time.monotonic() + given.seconds
    print(f"seed {seed}", flush=True)
    told = 0.0
    while time.monotonic() < ends:
        problem = fuzzer.step()
        if problem is not None:
            script, error = problem
            text = text_of(script)
            path = FOUND / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
            path.write_text(text)
            print(f"{path}:\n{error}", flush=True)
            return 1
        if time.monotonic() > told + 10:
            told = time.monotonic()
            print(
                f"{fuzzer.runs} scripts, {len(fuzzer.corpus)} kept, {len(fuzzer.seen)} steps of code",
                flush=True,
            )
    print(f"nothing found in {fuzzer.runs} scripts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
