"""The limits as they are declared, and the one coroutine through which they change.

Rule 1: a change is on disk before it is made, and made before it is answered. What could not be
written is refused, and nothing has changed.
Rule 2: changes that come while one write is under way share the next.
Rule 3: what concerns many limits at once (a draft's commit, a new word of the configuration file) is one
write as well; others have their turn of the loop while it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import chain
from typing import Protocol, assert_never

from atmost import values
from atmost.errors import AtmostError, LimitExists, LimitNotFound, StateNotSaved
from atmost.wire import (
    Changes,
    Commit,
    CreateLimit,
    DeleteLimit,
    Done,
    LimitRecord,
    ListChanges,
    Message,
    Reload,
    UpdateLimit,
)
from atmostd import config
from atmostd.actor import Actor
from atmostd.clock import Clock
from atmostd.declared import (
    HAND,
    IMPLICIT,
    TEMPLATE,
    Declared,
    Steps,
    TemplateRows,
    Word,
    in_words,
    news,
    templates_after,
)
from atmostd.drafts import Plan, Uploaded, changes_of_limits, changes_of_templates
from atmostd.garbage import collected_later
from atmostd.listing import declared_of, limit_record, page_of_changes
from atmostd.registry import Registry
from atmostd.snapshot import SavedDeclaration, SavedLimit, State, encoded
from atmostd.store import Store
from atmostd.ticket import Delete, Edit
from atmostd.tokens import Tokens
from atmostd.turn import Turn

_log = logging.getLogger(__name__)

LOOKS_AT_CLOCK_EVERY = 16  # limits
CHANGES_AT_ONCE = 200  # limits that act in one turn: some 5 ms
GREAT_CHANGE = 1_000  # limits; fewer are put in force in a few milliseconds

ChangeMessage = CreateLimit | UpdateLimit | DeleteLimit
GreatMessage = ListChanges | Commit | Reload  # about many limits at once


class Changer(Protocol):
    """Who asks for changes: a session."""

    def changed(self, request: int, record: LimitRecord | None) -> None:
        """The change is made and durable; None: the limit is gone."""

    def answered(self, answer: Message) -> None:
        """To a question, or to a great change."""

    def failed(self, request: int, error: AtmostError) -> None: ...

    @property
    def operator(self) -> str:
        """Who it is, for the log."""

    @property
    def draft(self) -> Uploaded:
        """What it has drafted."""


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
        self.nobody_holds = False  # nor will, in this life
        self.saves = 0  # of the state, since the start
        self.saved_at = clock()  # the last of them
        self._registry = registry
        self._store = store
        self._tokens = tokens
        self._turn = turn
        self._clock = clock
        self._boot_id = boot_id
        self.read_file: Callable[[], Awaitable[tuple[str, Word | None]]] = _no_file
        self.on_read = _nothing_else  # limits and templates are in force; now the rest of it
        self._inbox: list[tuple[ChangeMessage | GreatMessage, Changer]] = []
        self._version = 1  # of what was set: whether a plan was made for limits as they are
        self._unsaved = False  # something changed that nobody waits for
        self._stopping = False
        self._wake = asyncio.Event()
        self._due: asyncio.TimerHandle | None = None  # a save that needs no haste
        registry.on_spent = self._save_later
        registry.on_implicit = self._save_soon
        registry.on_tokens_low = self._tokens_are_low

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
        self._registry.declare(
            Word({said.name: said for said in state.said_limits}, tuple(state.said_templates)),
            tuple(state.templates),
        )
        saved_names = {saved.name for saved in state.limits}
        for name, actor in list(registry.actors.items()):
            if name not in saved_names and actor.origin == HAND:
                self._put_in_force(name, None)
        elapsed = self._since(state)
        for saved in state.limits:
            known = registry.actors.get(saved.name)
            if known is None:
                self._make_again(saved, elapsed)
            elif is_older(declared_of(known), _declared_in(saved)):
                self._put_in_force(saved.name, _declared_in(saved))
        for _ in self._edit_templated():
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

    def ask(self, message: ChangeMessage | GreatMessage, changer: Changer) -> None:
        """Put a change into the inbox."""
        self._inbox.append((message, changer))
        self._wake.set()

    def reload(self) -> None:
        """Read the configuration file again; what comes of it is in the log."""
        self.ask(Reload(0), _OnlyLog())

    async def save(self) -> None:
        """Write what is true now. Raises OSError."""
        registry = self._registry
        await self._write({}, registry.word, registry.templates.rows)

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
            await self._change(self._next_batch())
            while self._inbox:
                message, changer = self._inbox[0]
                if isinstance(message, ChangeMessage):
                    await self._change(self._next_batch())
                else:
                    del self._inbox[0]
                    await self._perform(message, changer)

    def _next_batch(self) -> list[tuple[ChangeMessage, Changer]]:
        """The changes by hand before the next message that concerns many limits."""
        batch: list[tuple[ChangeMessage, Changer]] = []
        for message, changer in self._inbox:
            if not isinstance(message, ChangeMessage):
                break
            batch.append((message, changer))
        del self._inbox[: len(batch)]
        return batch

    def stop(self) -> None:
        """End run() when all that was asked is answered."""
        self._stopping = True
        self._wake.set()

    # Changes by hand, those that came together

    async def _change(self, batch: list[tuple[ChangeMessage, Changer]]) -> None:
        draft: dict[str, Declared | None] = {}
        accepted = []
        refused = []
        steps: Steps = []
        for message, changer in batch:
            try:
                declared = altered(message, draft.get(message.name, self._now(message.name)))
            except AtmostError as error:
                refused.append((message, changer, error))
                continue
            draft[message.name] = declared
            accepted.append((message, changer, declared))
            steps.append((message.name, declared))
        if not accepted:  # so each of the refusals is of what is in force
            _refuse(refused)
            refused = []
            if not self._unsaved:
                return
        try:
            await self._make_so(steps)
        except StateNotSaved as error:
            for message, changer, _ in [*accepted, *refused]:
                changer.failed(message.request, error)
            return
        _refuse(refused)  # rule 1: of a change that could not be written, nobody was told
        for message, changer, declared in accepted:
            name, words = message.name, "deleted" if declared is None else in_words(declared)
            _log.info("limit %r: %s, by %s", name, words, changer.operator, extra={"limit": name})
            changer.changed(message.request, self._record(name, declared))

    # Many at once

    async def _perform(self, message: GreatMessage, changer: Changer) -> None:
        is_great = len(changer.draft.limits) > GREAT_CHANGE
        with collected_later() if is_great else contextlib.nullcontext():
            await self._perform_it(message, changer)

    async def _perform_it(self, message: GreatMessage, changer: Changer) -> None:
        answer: Message
        try:
            match message:
                case ListChanges():
                    answer = await self._list_changes(message, changer.draft)
                case Commit():
                    plan = changer.draft.commit(message.prune, message.version, self._version)
                    await self._make_so(plan.steps, templates=plan.templates)
                    _log.info(
                        "%d limits and templates changed, by %s",
                        len(plan.changes),
                        changer.operator,
                    )
                    answer = Done(message.request)
                case Reload():
                    await self._reload()
                    answer = Done(message.request)
                case _:
                    assert_never(message)
        except AtmostError as error:
            changer.failed(message.request, error)
        else:
            changer.answered(answer)

    async def _list_changes(self, message: ListChanges, draft: Uploaded) -> Changes:
        draft.check_begun()
        plan = draft.plan
        if plan is None or (plan.prune, plan.version) != (message.prune, self._version):
            plan = Plan(message.prune, self._version)
            names = list(self._registry.actors) if message.prune else []
            await self._bit_by_bit(changes_of_limits(draft, plan, names, self._now))
            changes_of_templates(draft, plan, self._registry.templates.rows)
            draft.plan = plan
        return Changes(
            message.request, *page_of_changes(plan.changes, message.after), version=plan.version
        )

    async def _reload(self) -> None:
        """Raises ConfigInvalid or StateNotSaved; then all is as it was."""
        with collected_later():
            await self._read_and_say()

    async def _read_and_say(self) -> None:
        path, word = await self.read_file()
        if word is None:
            _log.info("there is no configuration file at %s, and there was none", path)
            return
        try:
            changed = await self._say(word)
        except StateNotSaved as error:
            _log.error("the configuration file %s was read, but %s", path, error)
            raise
        self.on_read()
        _log.info("the configuration file %s was read again; %d limits changed", path, changed)

    async def say_at_start(self, word: Word) -> None:
        """What the file says when the daemon starts; save() is what makes it durable."""
        with collected_later():
            steps = await self._news(word)
            for name, declared in steps:
                self._put_in_force(name, declared)
            self._registry.declare(word, self._templates_after(word))
            await self._turn.over()
            await self._bit_by_bit(self._edit_templated(), CHANGES_AT_ONCE)
        if steps:
            _log.info("%d limits are as the configuration file says now", len(steps))

    async def _say(self, word: Word) -> int:
        steps = await self._news(word)
        if steps or word != self._registry.word:
            await self._make_so(steps, word, self._templates_after(word))
        return len(steps)

    async def _news(self, word: Word) -> Steps:
        steps: Steps = []

        def collect() -> Iterator[None]:
            for step in news(self._registry.word, word, self._now):
                if step is not None:
                    steps.append(step)
                yield

        await self._bit_by_bit(collect())
        return steps

    def _templates_after(self, word: Word) -> TemplateRows:
        registry = self._registry
        return templates_after(registry.templates.rows, registry.word.templates, word.templates)

    # What all of them come to

    async def _make_so(
        self, steps: Steps, word: Word | None = None, templates: TemplateRows | None = None
    ) -> None:
        """On disk in one write, then in force. Many limits are put in force in several turns of the
        loop, so others may see some of them before the rest; nobody is told of any before all are.

        Raises StateNotSaved, and nothing has changed.
        """
        registry = self._registry
        rows = registry.templates.rows if templates is None else templates
        draft: dict[str, Declared | None] = {}
        await self._bit_by_bit(_drafted(steps, draft))
        self._unsaved = False
        try:
            said = await self._write(draft, word or registry.word, rows)
        except OSError as error:
            self._unsaved = True
            self._save_later()
            raise StateNotSaved(str(self._store.path), error.strerror or str(error)) from error
        with collected_later() if len(steps) > GREAT_CHANGE else contextlib.nullcontext():
            await self._bit_by_bit(self._put_all_in_force(steps), CHANGES_AT_ONCE)
            await self._turn.over()
        if rows != registry.templates.rows or word is not None:
            self._registry.declare(word or registry.word, rows, said)
            await self._turn.over()
            await self._bit_by_bit(self._edit_templated(), CHANGES_AT_ONCE)
        if steps or word is not None or templates is not None:
            self._version += 1
        await self._turn.over()

    def _put_all_in_force(self, steps: Steps) -> Iterator[None]:
        for name, declared in steps:
            self._put_in_force(name, declared)
            yield

    def _edit_templated(self) -> Iterator[None]:
        """Limits that requests have made become as their templates are now; one that templates have made
        and that has none any more stays until it is idle."""
        registry = self._registry
        for name in registry.made_by_requests():
            actor = registry.actors.get(name)
            shall = registry.templates.declared(name)
            if actor is not None and shall is not None and declared_of(actor) != shall:
                self._put_in_force(name, shall)
            yield

    async def _bit_by_bit(self, work: Iterator[None], at_once: int | None = None) -> None:
        """Do it, but give others their turn of the loop again and again. `at_once`: no more than so many
        steps before that, whose work is done by actors and so comes later."""
        until = self._clock() + config.CHANGE_NANOSECONDS_A_TURN
        for count, _ in enumerate(work, 1):
            late = count % LOOKS_AT_CLOCK_EVERY == 0 and self._clock() > until
            if late or (at_once is not None and count % at_once == 0):
                await self._turn.over()
                until = self._clock() + config.CHANGE_NANOSECONDS_A_TURN

    def _now(self, name: str) -> Declared | None:
        actor = self._registry.actors.get(name)
        return None if actor is None else declared_of(actor)

    def _put_in_force(self, name: str, declared: Declared | None) -> None:
        """Make true what is on disk now; None: the limit is deleted."""
        registry = self._registry
        actor = registry.actors.get(name)
        if declared is None:
            if actor is not None:
                registry.forget(name)
                actor.post(Delete())
        elif actor is None:
            rate = declared.slot_decay_per_second
            registry.make(name, declared.limit, rate, declared.active, declared.origin)
        else:
            # Also a create: a request may have made it implicitly while the write was under way.
            registry.set_origin(actor, declared.origin)
            actor.post(Edit(declared.limit, declared.slot_decay_per_second, declared.active))

    def _record(self, name: str, declared: Declared | None) -> LimitRecord | None:
        if declared is None:
            return None
        actor = self._registry.actors.get(name)
        if actor is not None:
            return limit_record(actor, self._registry.word, self._clock())
        rate = declared.slot_decay_per_second  # deleted since, by the same batch
        return LimitRecord(name, declared.limit, rate, declared.active, 0, 0, 0.0, 0, False)

    # The state on disk

    async def _write(
        self, draft: Mapping[str, Declared | None], word: Word, templates: TemplateRows
    ) -> list[SavedDeclaration]:
        """Returns what the file says of limits, encoded. Raises OSError."""
        said: list[SavedDeclaration] = []
        await self._bit_by_bit(_said(word, said))
        limits: list[SavedLimit] = []
        await self._bit_by_bit(self._limits_saved(draft, limits))
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
            declared = draft.get(name, self._now(name))
            if declared is not None:
                units = self._units(actor, declared.slot_decay_per_second) if actor else 0
                if units or declared.origin != TEMPLATE:  # the next use makes the same anew
                    limits.append(encoded(_saved(name, declared, units)))
            yield

    def _units(self, actor: Actor, rate: float) -> int:
        level = actor.limit.level
        return level.at_rate(rate, self._clock()).units if level.units else 0

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


def _refuse(refused: list[tuple[ChangeMessage, Changer, AtmostError]]) -> None:
    for message, changer, error in refused:
        changer.failed(message.request, error)


def is_older(journalled: Declared, saved: Declared) -> bool:
    """Whether the state knows more of a limit than the journal: of all that somebody has declared. Of what
    requests have made, the journal does."""
    return journalled != saved and HAND in (journalled.origin, saved.origin)


def altered(message: ChangeMessage, now: Declared | None) -> Declared | None:
    """What the limit is after this change by hand. Raises why it can't be made."""
    name = values.check_name(message.name)
    match message:
        case CreateLimit():
            limit = values.check_limit(message.limit)
            decay = values.check_decay(message.slot_decay_per_second)
            if now is not None:
                raise LimitExists(name)
            return Declared(limit, decay, message.active)
        case UpdateLimit():
            return _updated(name, now, message)
        case DeleteLimit():
            if now is None:
                raise LimitNotFound([name])
            return None
        case _:
            assert_never(message)


def _updated(name: str, declared: Declared | None, update: UpdateLimit) -> Declared:
    """None leaves a field as it is; what somebody sets by hand is no longer what a request has made."""
    limit, decay, active = update.limit, update.slot_decay_per_second, update.active
    limit = None if limit is None else values.check_limit(limit)
    decay = None if decay is None else values.check_decay(decay)
    if declared is None:
        raise LimitNotFound([name])
    return Declared(
        declared.limit if limit is None else limit,
        declared.slot_decay_per_second if decay is None else decay,
        declared.active if active is None else active,
    )


def _drafted(steps: Steps, draft: dict[str, Declared | None]) -> Iterator[None]:
    """The last word of each limit."""
    for name, declared in steps:
        draft[name] = declared
        yield


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


class _OnlyLog:
    """Asks for a reload and waits for no answer: the log has it."""

    draft = Uploaded()
    operator = "the configuration file"

    def changed(self, request: int, record: LimitRecord | None) -> None: ...

    def answered(self, answer: Message) -> None: ...

    def failed(self, request: int, error: AtmostError) -> None: ...


async def _no_file() -> tuple[str, Word | None]:
    return "", None


def _nothing_else() -> None:
    """What on_read is until the daemon takes it."""
