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
from collections.abc import Awaitable, Callable, Iterator
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
from atmostd.clock import Clock
from atmostd.declared import (
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
from atmostd.in_force import edit_templated, put_all_in_force, put_in_force
from atmostd.keeping import Keeping
from atmostd.listing import declared_of, limit_record, page_of_changes
from atmostd.registry import Registry
from atmostd.turn import Turn

_log = logging.getLogger(__name__)

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
        keeping: Keeping,
        turn: Turn,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._keeping = keeping
        self._turn = turn
        self._clock = clock
        self.read_file: Callable[[], Awaitable[tuple[str, Word | None]]] = _no_file
        self.on_read = _nothing_else  # limits and templates are in force; now the rest of it
        self._inbox: list[tuple[ChangeMessage | GreatMessage, Changer]] = []
        self._version = 1  # of what was set: whether a plan was made for limits as they are
        self._unsaved = False  # something changed that nobody waits for
        self._stopping = False
        self._wake = asyncio.Event()
        keeping.on_due = self._save_unasked

    def ask(self, message: ChangeMessage | GreatMessage, changer: Changer) -> None:
        """Put a change into the inbox."""
        self._inbox.append((message, changer))
        self._wake.set()

    def reload(self) -> None:
        """Read the configuration file again; what comes of it is in the log."""
        self.ask(Reload(0), _OnlyLog())

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

    def _save_unasked(self) -> None:
        self._unsaved = True
        self._wake.set()

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
            await self._turn.bit_by_bit(changes_of_limits(draft, plan, names, self._now))
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
                put_in_force(self._registry, name, declared)
            self._registry.declare(word, self._templates_after(word))
            await self._turn.over()
            await self._turn.bit_by_bit(edit_templated(self._registry), CHANGES_AT_ONCE)
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

        await self._turn.bit_by_bit(collect())
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
        await self._turn.bit_by_bit(_drafted(steps, draft))
        self._unsaved = False
        try:
            said = await self._keeping.write(draft, word or registry.word, rows)
        except OSError as error:
            self._unsaved = True
            self._keeping.save_later()
            raise StateNotSaved(str(self._keeping.path), error.strerror or str(error)) from error
        with collected_later() if len(steps) > GREAT_CHANGE else contextlib.nullcontext():
            await self._turn.bit_by_bit(put_all_in_force(registry, steps), CHANGES_AT_ONCE)
            await self._turn.over()
        if rows != registry.templates.rows or word is not None:
            self._registry.declare(word or registry.word, rows, said)
            await self._turn.over()
            await self._turn.bit_by_bit(edit_templated(self._registry), CHANGES_AT_ONCE)
        if steps or word is not None or templates is not None:
            self._version += 1
        await self._turn.over()

    def _now(self, name: str) -> Declared | None:
        actor = self._registry.actors.get(name)
        return None if actor is None else declared_of(actor)

    def _record(self, name: str, declared: Declared | None) -> LimitRecord | None:
        if declared is None:
            return None
        actor = self._registry.actors.get(name)
        if actor is not None:
            return limit_record(actor, self._registry.word, self._clock())
        rate = declared.slot_decay_per_second  # deleted since, by the same batch
        return LimitRecord(name, declared.limit, rate, declared.active, 0, 0, 0.0, 0, False)


def _refuse(refused: list[tuple[ChangeMessage, Changer, AtmostError]]) -> None:
    for message, changer, error in refused:
        changer.failed(message.request, error)


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
