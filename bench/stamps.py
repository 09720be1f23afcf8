"""When each step of an acquire + release begins, in the daemon and in a blocking client.

Both take stamps of the same clock. A stamp and what puts it there take some 0.3 us, which the step before
it is charged with.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter
from statistics import median
from typing import Any, NamedTuple

Stamp = tuple[str, int]  # which; nanoseconds of the monotonic clock


class Step(NamedTuple):
    """From a stamp to the next one."""

    begins: str
    what: str


class Part(NamedTuple):
    """Steps that follow on each other."""

    steps: tuple[Step, ...]
    end: str  # the stamp at the end of the last one

    @property
    def stamps(self) -> list[str]:
        return [*(step.begins for step in self.steps), self.end]


ACQUIRE = Part(
    (
        Step("asks", "client: check, number the request, make its frame"),
        Step("sends", "kernel: send, wake the daemon; uvloop reads"),
        Step("reads", "daemon: cut, decode, check, make a ticket, post it"),
        Step("acts", "daemon: the actor's step: rules, token, answer"),
        Step("decided", "daemon: the journal's records, one write"),
        Step("written", "daemon: the answers to uvloop"),
        Step("spoken", "kernel: uvloop sends, wake the client"),
        Step("heard", "client: decode, find who asked, make the grant"),
    ),
    "has",
)
RELEASE = Part((Step("leaves", "client: release: slate, frame, send"),), "left")
BEHIND = Part(
    (
        Step("reads", "daemon, behind: cut, decode, post the release"),
        Step("acts", "daemon, behind: the actor's step"),
        Step("decided", "daemon, behind: the journal's record, one write"),
    ),
    "written",
)
PARTS = (ACQUIRE, RELEASE, BEHIND)


class Tape:
    """Takes stamps of what is called."""

    def __init__(self) -> None:
        self.stamps: list[Stamp] = []

    def watch(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """A stamp whenever this method begins, or has ended."""
        method: Callable[..., Any] = getattr(owner, name)
        stamps, clock = self.stamps, time.monotonic_ns

        @functools.wraps(method)
        def stamped(*arguments: Any, **named: Any) -> Any:
            if before:
                stamps.append((before, clock()))
            try:
                return method(*arguments, **named)
            finally:
                if after:
                    stamps.append((after, clock()))

        setattr(owner, name, stamped)


def figures(of_client: list[Stamp], of_daemon: list[Stamp]) -> dict[Step, float]:
    """Microseconds of each step: the median of the cycles whose stamps came once each, in order."""
    found: dict[Step, list[int]] = {}
    for cycle in _cycles(sorted([*of_client, *of_daemon], key=itemgetter(1))):
        place = [label for label, _ in cycle].index("leaves")
        _note(found, ACQUIRE, cycle[:place])
        for part in (RELEASE, BEHIND):
            _note(found, part, [stamp for stamp in cycle[place:] if stamp[0] in part.stamps])
    return {step: median(took) / 1000 for step, took in found.items()}


def _cycles(stamps: list[Stamp]) -> list[list[Stamp]]:
    """The whole ones."""
    begins = [place for place, (label, _) in enumerate(stamps) if label == "asks"]
    cycles = [stamps[begin:end] for begin, end in pairwise([*begins, len(stamps)])]
    return [cycle for cycle in cycles if "leaves" in dict(cycle)]


def _note(found: dict[Step, list[int]], part: Part, stamps: list[Stamp]) -> None:
    if [label for label, _ in stamps] == part.stamps:
        for step, ((_, begin), (_, end)) in zip(part.steps, pairwise(stamps), strict=True):
            found.setdefault(step, []).append(end - begin)
