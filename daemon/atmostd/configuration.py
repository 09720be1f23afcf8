"""The limits as they are declared, and the one coroutine through which they change.

Rule 1: a change is on disk before it is made, and made before it is answered. What could not be
written is refused, and nothing has changed.
Rule 2: changes that come while one write is under way share the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Protocol, assert_never

from atmost import values
from atmost.errors import AtmostError, LimitExists, LimitNotFound, StateNotSaved
from atmost.wire import CreateLimit, DeleteLimit, LimitRecord, UpdateLimit
from atmostd import config
from atmostd.actor import Actor
from atmostd.clock import Clock
from atmostd.listing import limit_record
from atmostd.registry import Registry
from atmostd.snapshot import SavedLimit, State
from atmostd.store import Store
from atmostd.ticket import Delete, Edit
from atmostd.tokens import Tokens
from atmostd.turn import Turn

_log = logging.getLogger(__name__)

ChangeMessage = CreateLimit | UpdateLimit | DeleteLimit


class Changer(Protocol):
    """Who asks for changes: a session."""

    def changed(self, request: int, record: LimitRecord | None) -> None:
        """The change is made and durable; None: the limit is gone."""

    def failed(self, request: int, error: AtmostError) -> None: ...


@dataclass(frozen=True, slots=True)
class Declared:
    """The settings of one limit."""

    limit: int
    slot_decay_per_second: float
    active: bool
    implicit: bool


class Configuration:
    """Ask for a change; the asker is told when it is durable and in force, or why not."""

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
        self.saves = 0  # of the state, since the start
        self.saved_at = clock()  # the last of them
        self._registry = registry
        self._store = store
        self._tokens = tokens
        self._turn = turn
        self._clock = clock
        self._boot_id = boot_id
        self._inbox: list[tuple[ChangeMessage, Changer]] = []
        self._unsaved = False  # something changed that nobody waits for
        self._stopping = False
        self._wake = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None  # a save that needs no haste
        registry.on_spent = self._save_later
        registry.on_implicit = self._save_soon
        registry.on_tokens_low = self._tokens_are_low

    def restore(self, state: State | None, lost: bool = False) -> None:
        """Make true what was saved, over what the journal has brought back (recovery.py, rule 3).
        `lost`: it is not what was saved last."""
        registry = self._registry
        mark = max(state.token_mark if state is not None else 0, self._store.token_mark or 0)
        if lost or self._store.token_mark is None:
            # Which tokens were given is not known. Microseconds since 1970 are more than ever could be.
            mark = max(mark, time.time_ns() // 1000)
        self._tokens.begin(mark)
        if state is None:
            return
        saved_names = {saved.name for saved in state.limits}
        for name, actor in list(registry.actors.items()):
            if name not in saved_names and not actor.implicit:
                self._put_in_force(name, None)
        elapsed = self._since(state)
        for saved in state.limits:
            known = registry.actors.get(saved.name)
            if known is None:
                self._make_again(saved, elapsed)
            elif _declared(known) != _declared_in(saved):
                self._put_in_force(saved.name, _declared_in(saved))

    def _since(self, state: State) -> int:
        """Nanoseconds since this state was taken."""
        if state.boot_id == self._boot_id:
            return max(0, self._clock() - state.boot_time)
        return max(0, time.time_ns() - state.wall_time)

    def _make_again(self, saved: SavedLimit, elapsed: int) -> None:
        actor = self._registry.make(
            saved.name, saved.limit, saved.slot_decay_per_second, saved.active, saved.implicit
        )
        now = self._clock()
        level = actor.limit.level
        level.units = int(saved.spent_units)
        level.settled_at = now - elapsed
        level.settle(now)

    def ask(self, message: ChangeMessage, changer: Changer) -> None:
        """Put a change into the inbox."""
        self._inbox.append((message, changer))
        self._wake.set()

    async def save(self) -> None:
        """Write what is true now. Raises OSError."""
        await self._write(self._declared())

    def can_go_on_unsaved(self) -> bool:
        """Whether there are fencing tokens though the first save failed. Then the next try will come."""
        if not self._tokens.some_are_left():
            return False
        self._save_later()
        return True

    async def run(self) -> None:
        """Take what is in the inbox, again and again, until stop()."""
        while not self._stopping or self._inbox:
            await self._wake.wait()
            self._wake.clear()
            batch, self._inbox = self._inbox, []
            await self._change(batch)

    def stop(self) -> None:
        """End run() when all that was asked is answered."""
        self._stopping = True
        self._wake.set()

    # One batch

    async def _change(self, batch: list[tuple[ChangeMessage, Changer]]) -> None:
        draft = self._declared()
        accepted = []
        for message, changer in batch:
            try:
                _alter(draft, message)
                accepted.append((message, changer, draft.get(message.name)))
            except AtmostError as error:
                changer.failed(message.request, error)
        if not accepted and not self._unsaved:
            return
        self._unsaved = False
        try:
            await self._write(draft)
        except OSError as error:
            self._unsaved = True
            reason = error.strerror or str(error)
            for message, changer, _ in accepted:
                changer.failed(message.request, StateNotSaved(str(self._store.path), reason))
            self._save_later()
            return
        for message, _, declared in accepted:
            self._put_in_force(message.name, declared)
        await self._turn.over()
        for message, changer, declared in accepted:
            changer.changed(message.request, self._record(message.name, declared))

    def _put_in_force(self, name: str, declared: Declared | None) -> None:
        """Make true what is on disk now; None: the limit is deleted."""
        registry = self._registry
        actor = registry.actors.get(name)
        if declared is None:
            if actor is not None:
                registry.forget(name)
                actor.post(Delete())
        elif actor is None:
            registry.make(name, declared.limit, declared.slot_decay_per_second, declared.active)
        else:
            # Also a create: a request may have made it implicitly while the write was under way.
            registry.set_implicit(actor, declared.implicit)
            actor.post(Edit(declared.limit, declared.slot_decay_per_second, declared.active))

    def _record(self, name: str, declared: Declared | None) -> LimitRecord | None:
        if declared is None:
            return None
        actor = self._registry.actors.get(name)
        if actor is not None:
            return limit_record(actor, self._clock())
        rate = declared.slot_decay_per_second  # deleted since, by the same batch
        return LimitRecord(name, declared.limit, rate, declared.active, 0, 0, 0.0, 0, False)

    # The state on disk

    def _declared(self) -> dict[str, Declared]:
        return {name: _declared(actor) for name, actor in self._registry.actors.items()}

    async def _write(self, draft: dict[str, Declared]) -> None:
        state = self._state(draft)
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

    async def _set_tokens_aside(self) -> None:
        """A full disk has no room for the state, but it has for this."""
        mark = self._tokens.next_mark
        with contextlib.suppress(OSError):
            await self._store.set_token_mark(mark)
            self._tokens.set_aside(mark)

    def _state(self, draft: dict[str, Declared]) -> State:
        now = self._clock()
        return State(
            boot_id=self._boot_id,
            boot_time=now,
            wall_time=time.time_ns(),
            token_mark=self._tokens.next_mark,
            limits=[self._saved(name, declared, now) for name, declared in draft.items()],
        )

    def _saved(self, name: str, declared: Declared, now: int) -> SavedLimit:
        actor = self._registry.actors.get(name)
        rate = declared.slot_decay_per_second
        units = actor.limit.level.at_rate(rate, now).units if actor is not None else 0
        return SavedLimit(
            name=name,
            limit=declared.limit,
            slot_decay_per_second=rate,
            active=declared.active,
            implicit=declared.implicit,
            spent_units=str(units),
        )

    def _save_later(self) -> None:
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
            self._save_later()
        else:
            self._save_now()

    def _save_now(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._unsaved = True
        self._wake.set()


def _declared(actor: Actor) -> Declared:
    limit = actor.limit
    return Declared(limit.limit, limit.slot_decay_per_second, limit.active, actor.implicit)


def _declared_in(saved: SavedLimit) -> Declared:
    return Declared(saved.limit, saved.slot_decay_per_second, saved.active, saved.implicit)


def _alter(draft: dict[str, Declared], message: ChangeMessage) -> None:
    """Make the change in a draft, or raise why it can't be made."""
    name = values.check_name(message.name)
    now = draft.get(name)
    match message:
        case CreateLimit():
            limit = values.check_limit(message.limit)
            decay = values.check_decay(message.slot_decay_per_second)
            if now is not None:
                raise LimitExists(name)
            draft[name] = Declared(limit, decay, message.active, implicit=False)
        case UpdateLimit():
            draft[name] = _updated(name, now, message)
        case DeleteLimit():
            if now is None:
                raise LimitNotFound([name])
            del draft[name]
        case _:
            assert_never(message)


def _updated(name: str, declared: Declared | None, update: UpdateLimit) -> Declared:
    """None leaves a field as it is; what somebody sets by hand is no longer implicit."""
    limit, decay, active = update.limit, update.slot_decay_per_second, update.active
    limit = None if limit is None else values.check_limit(limit)
    decay = None if decay is None else values.check_decay(decay)
    if declared is None:
        raise LimitNotFound([name])
    return Declared(
        declared.limit if limit is None else limit,
        declared.slot_decay_per_second if decay is None else decay,
        declared.active if active is None else active,
        implicit=False,
    )
