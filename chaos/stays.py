"""Events -> one Stay for each request. Pure.

Rule: whoever was killed inside is inside until just before the signal was sent, and no longer: what
the stays show too many of, there were too many of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chaos.log import Event
from chaos.plan import Slots


class Stay(NamedTuple):
    """One request's way through its limits; None is what never happened."""

    request: str
    pid: int
    hold: Slots
    spend: Slots
    asked: int
    entered: int | None = None
    token: int = 0  # 0: it was not told one
    ended: int | None = None  # about to leave, gave up, or about to be killed
    error: str | None = None  # it was not let in, because of this
    lost: bool = False  # told that it had lost its slots
    killed: bool = False
    until: int | None = None  # its time is up then

    @property
    def slots(self) -> Slots:
        """All that it asks for, by limit."""
        return self.hold | self.spend


def stays(events: Iterable[Event]) -> list[Stay]:
    """In the order in which they asked."""
    found: dict[str, Stay] = {}
    killed: dict[int, int] = {}
    # A request's own events may lie in two files (its parent tells how `atmost run` failed), and a
    # kill is written down afterwards; the stamps put both in order.
    for event in events:
        what, fields = event.what, event.fields
        if what == "asked":
            request, hold, spend, timeout = fields
            until = None if timeout is None else event.at + int(timeout * 1e9)
            found[request] = Stay(request, event.pid, hold, spend, event.at, until=until)
        elif what == "entered":
            found[fields[0]] = found[fields[0]]._replace(entered=event.at, token=fields[1])
        elif what == "leaving":
            found[fields[0]] = found[fields[0]]._replace(ended=event.at)
        elif what == "failed":
            found[fields[0]] = found[fields[0]]._replace(ended=event.at, error=fields[1])
        elif what == "lost":
            stay = found[fields[0]]
            found[fields[0]] = stay._replace(ended=stay.ended or event.at, lost=True)
        elif what == "killed":
            for pid in fields[1]:
                killed.setdefault(pid, event.at)
    return [_ended(stay, killed) for stay in found.values()]


def _ended(stay: Stay, killed: dict[int, int]) -> Stay:
    at = killed.get(stay.pid)
    if at is None or (stay.ended is not None and stay.ended <= at) or stay.asked > at:
        return stay  # asked after it: the number is another process's by now
    # What it wrote between the stamp and the signal is not needed: it was killed, that is enough.
    if stay.entered is not None and stay.entered >= at:
        stay = stay._replace(entered=None, token=0)
    return stay._replace(ended=at, killed=True)
