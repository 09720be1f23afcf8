"""The state on disk: what a start makes of it, what it holds, and when it is written.

A change is written before it is made (configuration.py). What nobody waits for (levels, limits that
requests have made, fencing tokens) is written when it is due; after a save that failed, again and again
until one has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from atmostd import config
from atmostd.actor import Actor
from atmostd.clock import Clock
from atmostd.declared import HAND, IMPLICIT, TEMPLATE, Declared, TemplateRows, Word
from atmostd.in_force import edit_templated, put_in_force
from atmostd.listing import declared_of
from atmostd.registry import Registry
from atmostd.snapshot import SavedDeclaration, SavedLimit, State, encoded
from atmostd.store import Store
from atmostd.tokens import Tokens
from atmostd.turn import Turn

_log = logging.getLogger(__name__)


class Keeping:
    """Restores, and saves."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        tokens: Tokens,
        turn: Turn,
        clock: Clock,
        boot_id: str,
    ) -> None:
        self.trouble = ""  # why the state on disk is out of date; empty when it is not
        self.nobody_holds = False  # nor will, in this life
        self.saves = 0  # of the state, since the start
        self.saved_at = clock()  # the last of them
        self.on_due: Callable[[], None] = _nobody_listens  # there is something to write
        self._registry = registry
        self._store = store
        self._tokens = tokens
        self._turn = turn
        self._clock = clock
        self._boot_id = boot_id
        self._due: asyncio.TimerHandle | None = None  # a save that needs no haste
        registry.on_spent = self.save_later
        registry.on_implicit = self._save_soon
        registry.on_tokens_low = self._tokens_are_low

    @property
    def path(self) -> Path:
        """Where the state is."""
        return self._store.path

    # At a start

    def restore(self, state: State | None) -> None:
        """Make true what was saved, over what the journal has brought back (recovery.py, rule 3)."""
        registry = self._registry
        mark = max(state.token_mark if state is not None else 0, self._store.token_mark or 0)
        if self._store.token_mark is None:
            # Which tokens were given is not known. Microseconds since 1970 are more than ever could be.
            mark = max(mark, time.time_ns() // 1000)
        self._tokens.begin(mark)
        if state is None:
            return
        registry.declare(
            Word({said.name: said for said in state.said_limits}, tuple(state.said_templates)),
            tuple(state.templates),
        )
        saved_names = {saved.name for saved in state.limits}
        for name, actor in list(registry.actors.items()):
            if name not in saved_names and actor.origin == HAND:
                put_in_force(registry, name, None)
        elapsed = self._since(state)
        for saved in state.limits:
            known = registry.actors.get(saved.name)
            if known is None:
                self._make_again(saved, elapsed)
            elif is_older(declared_of(known), _declared_in(saved)):
                put_in_force(registry, saved.name, _declared_in(saved))
        for _ in edit_templated(registry):
            pass

    def _since(self, state: State) -> int:
        """Nanoseconds since this state was taken."""
        if state.boot_id == self._boot_id:
            return max(0, self._clock() - state.boot_time)
        return max(0, time.time_ns() - state.wall_time)

    def _make_again(self, saved: SavedLimit, elapsed: int) -> None:
        shall = _declared_in(saved)
        actor = self._registry.make(
            saved.name, shall.limit, shall.slot_decay_per_second, shall.active, shall.origin
        )
        now = self._clock()
        level = actor.limit.level
        level.units = int(saved.spent_units)
        level.settled_at = now - elapsed
        level.settle(now)

    # To disk

    async def save(self) -> None:
        """Write what is true now. Raises OSError."""
        registry = self._registry
        await self.write({}, registry.word, registry.templates.rows)

    def can_go_on_unsaved(self) -> bool:
        """Whether there are fencing tokens though the first save failed. Then the next try will come."""
        if not self._tokens.some_are_left():
            return False
        self.save_later()
        return True

    async def write(
        self, draft: Mapping[str, Declared | None], word: Word, templates: TemplateRows
    ) -> list[SavedDeclaration]:
        """What is true now, but for what the draft says. Returns what the file says of limits, encoded.
        Raises OSError."""
        said: list[SavedDeclaration] = []
        await self._turn.bit_by_bit(_said(word, said))
        limits: list[SavedLimit] = []
        await self._turn.bit_by_bit(self._limits_saved(draft, limits))
        # Now, after the levels: they have decayed less than they will have been given time for, never
        # more.
        state = State(
            boot_id=self._boot_id,
            boot_time=self._clock(),
            wall_time=time.time_ns(),
            token_mark=self._tokens.next_mark,
            limits=limits,
            templates=list(templates),
            said_limits=said,
            said_templates=list(word.templates),
            nobody_holds=self.nobody_holds,
        )
        try:
            await self._store.save(state)
        except OSError as error:
            reason = error.strerror or str(error)
            if not self.trouble:
                _log.error("cannot save the state to %s: %s", self._store.path, reason)
            self.trouble = f"the state cannot be saved to {self._store.path}: {reason}"
            if self._tokens.are_low:
                await self._set_tokens_aside()
            raise
        self.saves += 1
        self.saved_at = self._clock()
        if self.trouble:
            _log.warning("the state is saved again to %s", self._store.path)
            self.trouble = ""
        self._tokens.set_aside(state.token_mark)
        return said

    async def _set_tokens_aside(self) -> None:
        """A full disk has no room for the state, but it has for this."""
        mark = self._tokens.next_mark
        with contextlib.suppress(OSError):
            await self._store.set_token_mark(mark)
            self._tokens.set_aside(mark)

    def _limits_saved(
        self, draft: Mapping[str, Declared | None], limits: list[SavedLimit]
    ) -> Iterator[None]:
        """All limits as they are, or as they will be by the draft."""
        actors = self._registry.actors
        there = dict(actors)  # others may come to be meanwhile
        for name in chain(there, (name for name in draft if name not in there)):
            actor = actors.get(name)
            declared = draft.get(name, None if actor is None else declared_of(actor))
            if declared is not None:
                units = self._units(actor, declared.slot_decay_per_second) if actor else 0
                if units or declared.origin != TEMPLATE:  # the next use makes the same anew
                    limits.append(encoded(_saved(name, declared, units)))
            yield

    def _units(self, actor: Actor, rate: float) -> int:
        level = actor.limit.level
        return level.at_rate(rate, self._clock()).units if level.units else 0

    def save_later(self) -> None:
        """Levels need no haste, nor does a disk that has just refused."""
        if self._due is None:
            loop = asyncio.get_running_loop()
            seconds = config.STATE_RETRY_SECONDS if self.trouble else config.LEVELS_SAVE_SECONDS
            self._due = loop.call_later(seconds, self._save_now)

    def _tokens_are_low(self) -> None:
        self._tokens.count()
        self._save_soon()

    def _save_soon(self) -> None:
        if self.trouble:
            self.save_later()
        else:
            self._save_now()

    def _save_now(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self.on_due()


def is_older(journalled: Declared, saved: Declared) -> bool:
    """Whether the state knows more of a limit than the journal: of all that somebody has declared. Of what
    requests have made, the journal does."""
    return journalled != saved and HAND in (journalled.origin, saved.origin)


def _said(word: Word, said: list[SavedDeclaration]) -> Iterator[None]:
    """What the file says of limits, encoded."""
    for declaration in word.limits.values():
        said.append(encoded(declaration))
        yield


def _saved(name: str, declared: Declared, units: int) -> SavedLimit:
    return SavedLimit(
        name,
        declared.limit,
        declared.slot_decay_per_second,
        declared.active,
        declared.origin == IMPLICIT,
        str(units),
        declared.origin,
    )


def _declared_in(saved: SavedLimit) -> Declared:
    origin = saved.origin or (IMPLICIT if saved.implicit else HAND)  # schema 1 had none
    return Declared(saved.limit, saved.slot_decay_per_second, saved.active, origin)


def _nobody_listens() -> None:
    """What on_due is until somebody is there who writes."""
