"""When Python looks for garbage."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from atmostd.garbage import look_seldom
look_seldom()
full_looks = 0

def count(phase, about):
    global full_looks
    full_looks += phase == "stop" and about["generation"] == 2

gc.callbacks.append(count)
kept = [[] for _ in range(500_000)]
assert not full_looks, "though half a million objects came to stay"

class Circle:
    ends = 0
    def __init__(self):
        self.self = self
    def __del__(self):
        Circle.ends += 1

for _ in range(10_000):
    Circle()
assert Circle.ends > 5_000, "what is young is looked at as ever"
"""


def test_what_stays_is_not_looked_at_again_and_again() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
