"""Whether anyone was let in out of turn. Pure.

Rule 1: a request is known to stand in line once a listing shows as many waiting requests of its process
at that limit as the process can have had there: then each of them is there. Stamps alone prove
nothing, however far apart: whoever has written "asked" may lose the processor before it asks.
Rule 2: if B asked (for this limit and maybe others) after A was seen waiting for this limit alone, A is
granted first, whatever their slots. Tokens rise with the grants, so A's is the smaller one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from chaos.log import Event
from chaos.stays import Stay

GHOST_NANOSECONDS = 5_000_000_000  # so long may a request be listed that its own client gave up


class Order(NamedTuple):
    """What is known of the order in which requests were granted."""

    pairs: int  # judged: B came while A was seen waiting
    across: int  # of these: A waited through the death of a daemon
    passed: list[tuple[str, str]]  # (A, B), where B went first


def order(events: Iterable[Event], all_of_them: list[Stay]) -> Order:
    """Judge every pair that can be judged."""
    events = list(events)
    seen = seen_waiting(events, all_of_them)
    deaths = [event.at for event in events if event.what == "dies"]
    pairs = across = 0
    passed = []
    for name in sorted({name for stay in all_of_them for name in stay.slots}):
        granted = [stay for stay in all_of_them if name in stay.slots and stay.token]
        for place, waited in enumerate(granted):
            since = seen.get(waited.request)
            if since is None or len(waited.slots) > 1:  # one that lacks another limit may be passed
                continue
            assert waited.entered is not None
            if waited.until is not None and waited.entered > waited.until:
                continue  # its time was up while there was no daemon: it left the line, and tried once
            died = any(since < death < waited.entered for death in deaths)
            for came in granted[place + 1 :]:
                if came.asked >= waited.entered:
                    break
                if came.asked > since:
                    pairs += 1
                    across += died
                    if came.token < waited.token:
                        passed.append((waited.request, came.request))
    return Order(pairs, across, passed)


def seen_waiting(events: Iterable[Event], all_of_them: list[Stay]) -> dict[str, int]:
    """When each request was first known to stand in line (rule 1)."""
    seen: dict[str, int] = {}
    coming = sorted(all_of_them, key=lambda stay: stay.asked, reverse=True)
    open_ones: dict[tuple[int, str], list[Stay]] = {}
    for event in events:
        if event.what != "tickets":
            continue
        sent, name, tickets = event.fields
        while coming and coming[-1].asked <= event.at:
            stay = coming.pop()
            for limit in stay.slots:
                open_ones.setdefault((stay.pid, limit), []).append(stay)
        waiting = Counter(pid for pid, state, _ in tickets if state == "waiting")
        for pid, count in waiting.items():
            may = [s for s in open_ones.get((pid, name), []) if _may_wait_until(s) >= sent]
            open_ones[pid, name] = may
            if len(may) == count:
                for stay in may:
                    seen.setdefault(stay.request, event.at)
    return seen


def _may_wait_until(stay: Stay) -> int:
    """When the last listing was sent that may show it as waiting."""
    if stay.entered is not None:
        return stay.entered
    if stay.ended is None:
        return 1 << 63
    return stay.ended + GHOST_NANOSECONDS


def tokens_out_of_order(all_of_them: list[Stay]) -> list[tuple[str, str]]:
    """(earlier, later): the later one asked when the earlier one was inside already, and yet its
    fencing token is not greater; or both were told the same one."""
    told = [stay for stay in all_of_them if stay.token]
    wrong = []
    by_token: dict[int, Stay] = {}
    for stay in told:
        if stay.token in by_token:
            wrong.append((by_token[stay.token].request, stay.request))
        by_token[stay.token] = stay
    entered: list[tuple[int, int, str]] = []  # those that asked so far: a heap
    highest, whose = 0, ""
    for stay in sorted(told, key=lambda stay: stay.asked):
        while entered and entered[0][0] < stay.asked:
            _, token, request = heapq.heappop(entered)
            highest, whose = max((highest, whose), (token, request))
        if stay.token < highest:
            wrong.append((whose, stay.request))
        assert stay.entered is not None
        heapq.heappush(entered, (stay.entered, stay.token, stay.request))
    return wrong
