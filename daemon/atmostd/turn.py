"""One turn of the loop: what arrived in it is decided, and then what it says is sent.

Rule 1: a connection's replies of one turn leave in one write, after every actor that had a message in
this turn has taken its steps.
Rule 2: before the first of them leaves, the journal has what was decided. A turn goes into it whole: a
request that was written before its limits have looked at it could wait for ever after a restart, for
slots that it can never have.
Rule 3: answering questions takes a bounded part of a turn; who comes too late goes on in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from atmostd import config
from atmostd.clock import Clock

LOOKS_AT_CLOCK_EVERY = 16  # steps of a great work


class Stepper(Protocol):
    """Who acts on its messages: an actor."""

    def step(self) -> None:
        """Go through all of them."""


class Speaker(Protocol):
    """Who collects replies during a turn."""

    def flush(self) -> None:
        """Send what was collected."""


class Turn:
    """Knows which actors have messages and who has something to say."""

    __slots__ = (
        "_answer_until",
        "_awake",
        "_clock",
        "_crash",
        "_ending",
        "_loop",
        "_speakers",
        "_write_journal",
    )

    def __init__(
        self,
        write_journal: Callable[[], None],
        clock: Clock,
        crash: Callable[[BaseException], None],
    ) -> None:
        self._write_journal = write_journal
        self._clock = clock
        self._crash = crash  # a turn that cannot end leaves clients without an answer for ever
        self._answer_until: int | None = None  # for the questions of this turn; None: none yet
        self._loop = asyncio.get_running_loop()
        self._awake: list[Stepper] = []  # those with messages to go through
        self._speakers: list[Speaker] = []
        self._ending = False  # its end is on the loop's list

    def will_step(self, actor: Stepper) -> None:
        """Called by each that has got messages, when it had none."""
        self._awake.append(actor)
        if not self._ending:
            self._end_soon()

    def will_speak(self, speaker: Speaker) -> None:
        """Called once a turn by each that has something to send."""
        self._speakers.append(speaker)
        if not self._ending:
            self._end_soon()

    def end_soon(self) -> None:
        """Have this turn end, and so the journal written, though nobody has anything to say."""
        self.will_speak(_Nobody())

    def may_answer(self) -> bool:
        """Whether there is time left in this turn for one more question. There is for the first."""
        now = self._clock()
        if self._answer_until is None:
            self._answer_until = now + config.ANSWER_NANOSECONDS_A_TURN
        return now < self._answer_until

    def stop(self) -> None:
        """Nothing is decided any more, and so nothing written down. What happens yet, such as the end of a
        session, the next daemon finds out by itself."""
        self._write_journal = _nothing

    async def over(self) -> None:
        """Wait until every message posted so far has been acted on."""
        end = _End(self._loop.create_future())
        self.will_speak(end)
        await end.reached

    async def bit_by_bit(self, work: Iterator[None], at_once: int | None = None) -> None:
        """Do it, but give others their turn of the loop again and again. `at_once`: no more than so many
        steps before that, whose work is done by actors and so comes later."""
        until = self._clock() + config.CHANGE_NANOSECONDS_A_TURN
        for count, _ in enumerate(work, 1):
            late = count % LOOKS_AT_CLOCK_EVERY == 0 and self._clock() > until
            if late or (at_once is not None and count % at_once == 0):
                await self.over()
                until = self._clock() + config.CHANGE_NANOSECONDS_A_TURN

    def _end_soon(self) -> None:
        self._ending = True
        self._loop.call_soon(self._act)

    def _act(self) -> None:
        """Everything that has arrived is decided: what is half done is no state to write down."""
        awake = self._awake
        try:
            for actor in awake:  # one that posts to another makes this list longer
                actor.step()
            awake.clear()
            self._end()
        except Exception as error:
            self._crash(error)

    def _end(self) -> None:
        self._write_journal()
        self._ending = False
        self._answer_until = None
        speakers, self._speakers = self._speakers, []
        for speaker in speakers:
            speaker.flush()


def _nothing() -> None: ...


class _Nobody:
    """Has nothing to say."""

    __slots__ = ()

    def flush(self) -> None: ...


class _End:
    """Speaks to whoever waits for the end of a turn."""

    __slots__ = ("reached",)

    def __init__(self, reached: asyncio.Future[None]) -> None:
        self.reached = reached

    def flush(self) -> None:
        if not self.reached.done():
            self.reached.set_result(None)
