"""One turn of the loop: what arrived in it is decided, and then what it says is sent.

Rule 1: a connection's replies of one turn leave in one write, after every actor that had a message in
this turn has taken its steps.
Rule 2: before the first of them leaves, the journal has what was decided. A turn goes into it whole: a
request that was written before its limits have looked at it could wait for ever after a restart, for
slots that it can never have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Speaker(Protocol):
    """Who collects replies during a turn."""

    def flush(self) -> None:
        """Send what was collected."""


class Turn:
    """Knows which actors are awake and who has something to say."""

    __slots__ = ("_awake", "_ending", "_loop", "_speakers", "_write_journal")

    def __init__(self, write_journal: Callable[[], None]) -> None:
        self._write_journal = write_journal
        self._loop = asyncio.get_running_loop()
        self._awake = 0  # actors that have messages to go through
        self._speakers: list[Speaker] = []
        self._ending = False  # its end is on the loop's list

    def actor_wakes(self) -> None:
        self._awake += 1

    def actor_sleeps(self) -> None:
        self._awake -= 1
        if not self._awake:
            self._end()

    def will_speak(self, speaker: Speaker) -> None:
        """Called once a turn by each that has something to send."""
        self._speakers.append(speaker)
        if not self._awake and not self._ending:
            self._ending = True
            self._loop.call_soon(self._end_if_all_sleep)

    async def over(self) -> None:
        """Wait until every message posted so far has been acted on."""
        end = _End(self._loop.create_future())
        self.will_speak(end)
        await end.reached

    def _end_if_all_sleep(self) -> None:
        self._ending = False
        if not self._awake:  # else the last one to sleep ends the turn
            self._end()

    def _end(self) -> None:
        self._write_journal()
        speakers, self._speakers = self._speakers, []
        for speaker in speakers:
            speaker.flush()


class _End:
    """Speaks to whoever waits for the end of a turn."""

    __slots__ = ("reached",)

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self.reached = reached

    def flush(self) -> None:
        if not self.reached.done():
            self.reached.set_result(None)
