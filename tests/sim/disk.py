"""The daemon's files: real ones, written by the real code; and what befalls them.

Rule 1: a death of the daemon around a write leaves the journal without the frame, with a part of it,
or whole; what follows the write was not done. Of a save of the state that was under way, either the old
one or the new one is found.
Rule 2: while the runtime disk is full, writes fail or are short, and the limits are enforced from
memory: every promise is kept as long as the daemon lives. If it dies meanwhile, that is a loss of the
journal from then on (oracle.py, rule 4).
Rule 3: files are damaged while no daemon runs, once between two that have begun their journal, and not
in ways that nobody could tell from what is in order: all of the state *and* the journal taken away is a
first start. Nor are state and journal lost together after a loss of the state: the tokens of a new
beginning are the microseconds since 1970, and each crash since the last such beginning has skipped a
thousand seconds of them.
Rule 4: a state that is damaged or gone is no loss while the journal is whole; else it takes an operator.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from atmostd import place, records, snapshot
from atmostd.journal import Journal
from atmostd.place import Mark
from atmostd.records import Record
from atmostd.snapshot import SnapshotError, State
from atmostd.store import CURRENT, PREVIOUS, TOKENS, Store
from tests.sim.settings import Declared
from tests.sim.world import MICROSECOND, MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from tests.sim.host import Host, Life

_HEAD_BYTES = len(records.head(""))


class SimStore(Store):
    """The state folder; a save takes time, and is done at once at its end."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.host.state_folder)
        self._life = life

    def _take_lock(self) -> None:
        """The dead one's would have gone with it."""

    async def save(self, state: State) -> None:
        life, world = self._life, self._life.host.world
        if world.maybe(life.host.disk_fails):
            await life.sleep(world.span(MICROSECOND, MILLISECOND))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        life.saves = lambda: self._put(state)
        await life.sleep(world.span(100 * MICROSECOND, 5 * MILLISECOND))
        if life.process.alive:
            self._put(state)
            life.saves = None
            await life.sleep(world.span(MICROSECOND, MILLISECOND))
            await self._know_tokens_again()

    async def set_token_mark(self, mark: int) -> None:
        life, world = self._life, self._life.host.world
        if world.maybe(0.5):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        await life.sleep(world.span(MICROSECOND, MILLISECOND))
        if life.process.alive:
            place.write(self._folder / TOKENS, Mark("", 0, mark), durable=False)

    def _put(self, state: State) -> None:
        self._generation += 1
        if self._current_is_valid:
            self.path.replace(self._folder / PREVIOUS)
        self.path.write_bytes(snapshot.to_bytes(state, self._generation))
        self._current_is_valid = True


class SimJournal(Journal):
    """The journal, and deaths around its writes."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.host.run_folder, life.host.boot_id)
        self.was_gone = False  # this life has found none, though there was one
        self.out_of_date = False  # what is decided is in memory alone
        self._life = life
        self._begun = False

    def begin(
        self, checkpoint: Callable[[], Iterable[Record]], end_turn: Callable[[], None]
    ) -> None:
        damager = self._life.host.damager
        self.was_gone = damager.journal_is_gone
        super().begin(checkpoint, end_turn)
        self._begun = True
        self._written()
        if not self.out_of_date:
            damager.journal_has_begun()

    def holders_are_heard(self) -> None:
        super().holders_are_heard()
        self._life.host.damager.journal_is_gone = False

    def write(self) -> None:
        life = self._life
        world = life.host.world
        if not life.process.alive:
            self._noted.clear()
            return
        if not self._begun:  # what is decided before it has begun is in its first checkpoint
            super().write()
            return
        fault = ""
        if self._noted and world.maybe(life.host.dies_at_write):
            fault = world.chance.choice(("before", "torn", "after"))
        if fault == "before":
            world.note("daemon dies before the write")
            life.process.kill()
            return
        file, size = self._file, self._bytes
        super().write()
        if fault == "torn" and self._file == file and self._bytes > size:
            kept = world.chance.randrange(size, self._bytes)
            os.truncate(self.path, kept)
            world.note(f"daemon dies in the write, {kept - size} of {self._bytes - size} bytes")
            life.process.kill()
            return
        self._written()
        if fault:
            world.note("daemon dies after the write")
            life.process.kill()

    def _written(self) -> None:
        """What was decided will be told now."""
        host = self._life.host
        host.world.oracle.commit()
        troubled = self._file < 0 or self._torn
        if troubled and not self.out_of_date:
            host.world.note("the journal cannot be written")
        self.out_of_date = troubled
        if not troubled:
            host.damager.whole = self._bytes


class RuntimeDisk:
    """Where the journal is. It can be full for a while, or refuse once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._full_until = 0
        self._refuses = False

    def fill(self, span: int) -> None:
        self._world.note("the runtime disk is full")
        self._full_until = self._world.now + span

    def refuse_once(self) -> None:
        self._world.note("the runtime disk refuses the next write")
        self._refuses = True

    def heal(self) -> None:
        self._full_until = 0
        self._refuses = False

    def write(self, file: int, data: bytes) -> int:
        """os.write: what is written only in part is refused at the next try."""
        if not self._refuses and self._world.now >= self._full_until:
            return os.write(file, data)
        if self._refuses or self._world.maybe(0.5):
            self._refuses = not self._refuses and self._world.now >= self._full_until
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._refuses = True
        return os.write(file, data[: self._world.chance.randrange(len(data))])


class Damager:
    """What happens to files while no daemon runs, and what the next one has to say to that."""

    def __init__(self, host: Host) -> None:
        self.probability = 0.0
        self.whole = 0  # bytes of the journal that were answered
        self.journal_is_gone = False
        self._host = host
        self._world = host.world
        self._struck = False  # since the last journal began
        self._state_is_damaged = False
        self._state_was_lost = False  # once
        self._journal_is_damaged = False
        self._left: dict[str, Declared] = {}  # if an operator accepts the loss

    @property
    def _journal(self) -> Path:
        return self._host.run_folder / "journal"

    @property
    def _state(self) -> Path:
        return self._host.state_folder / CURRENT

    @property
    def _previous(self) -> Path:
        return self._host.state_folder / PREVIOUS

    def journal_has_begun(self) -> None:
        self._struck = False

    def judge(self, closed: bool) -> None:
        """The daemon listens. Without what it kept, every gate would stand open (G7)."""
        damaged = self._state_is_damaged or self._journal_is_damaged
        if damaged != closed:
            self._world.fail(
                f"the daemon {'grants nothing' if closed else 'opens its gates'}, and what it kept "
                f"{'is damaged' if damaged else 'is in order'}"
            )
        life = self._host.life
        if self.journal_is_gone and not closed and self._world.maybe(0.3):  # and holders are heard
            life.process.after(self._world.span(MILLISECOND, SECOND), life.process.kill)

    def accepted(self) -> None:
        """An operator has accepted the loss."""
        if self._state_is_damaged:
            self._host.world.oracle.settings.fell_back(self._left)
            self.journal_is_gone &= bool(self._left)  # without a limit nobody has to come first
        self._state_is_damaged = self._journal_is_damaged = False

    def strikes(self) -> None:
        """The daemon is dead."""
        if self._struck or not self._world.maybe(self.probability):
            return
        if not self._journal.exists() or not self._state.exists():
            return
        if self._journal.with_name("journal.behind").exists():
            return
        self._struck = True
        chosen = self._world.chance.choice(
            (
                self._turn_a_bit,
                self._cut_the_journal,
                self._take_the_journal,
                self._from_another_boot,
                self._damage_the_newest_state,
                self._damage_all_states,
                self._take_all_states,
                self._damage_all_states if self._state_was_lost else self._damage_both,
                self._take_all_states if self._state_was_lost else self._damage_newest_and_journal,
            )
        )
        self._world.note(f"while no daemon runs: {chosen.__name__.strip('_')}")
        chosen()

    # The journal

    def _turn_a_bit(self) -> None:
        self._flip(self._journal, self.whole)
        self._journal_is_damaged = True
        self._lose_journal()

    def _cut_the_journal(self) -> None:
        """Behind its head that looks like a write that was under way at a death."""
        size = self._world.chance.randrange(self.whole)
        os.truncate(self._journal, size)
        if size < _HEAD_BYTES:
            self._journal_is_damaged = True
            self._lose_journal()
        else:
            self._world.oracle.journal_lost()

    def _take_the_journal(self) -> None:
        self._journal.unlink()
        self._lose_journal()

    def _from_another_boot(self) -> None:
        self._journal.write_bytes(records.head("boot-0") + self._journal.read_bytes()[_HEAD_BYTES:])
        self._lose_journal()

    def _lose_journal(self) -> None:
        self.journal_is_gone = not self._nobody_holds()
        self._world.oracle.journal_lost()

    def _nobody_holds(self) -> bool:
        """As far as the last daemon has said so as it stopped."""
        try:
            return snapshot.from_bytes(self._state.read_bytes())[0].nobody_holds
        except (OSError, SnapshotError):
            return False

    # The state: within one run of the host, its journal has every limit too

    def _damage_the_newest_state(self) -> None:
        if not self._previous.exists():
            return
        self._state_was_lost = True
        if self._world.maybe(0.3):
            self._state.unlink()
        else:
            self._damage(self._state)

    def _damage_all_states(self) -> None:
        self._state_was_lost = True
        for path in (self._state, self._previous):
            if path.exists():
                self._damage(path)

    def _take_all_states(self) -> None:
        self._state_was_lost = True
        for path in (self._state, self._previous):
            path.unlink(missing_ok=True)

    def _damage_both(self) -> None:
        self._damage_all_states()
        self._left = {}
        self._lose_journal_too()

    def _damage_newest_and_journal(self) -> None:
        """The one before is what an operator may go back to."""
        try:
            state, _ = snapshot.from_bytes(self._previous.read_bytes())
        except (OSError, SnapshotError):
            return
        self._damage_the_newest_state()
        self._left = {
            saved.name: (saved.limit, saved.slot_decay_per_second, saved.active)
            for saved in state.limits
            if not saved.implicit
        }
        self._lose_journal_too()

    def _lose_journal_too(self) -> None:
        self._state_is_damaged = True
        self._world.chance.choice((self._take_the_journal, self._turn_a_bit))()

    def _damage(self, path: Path) -> None:
        size = path.stat().st_size
        if not size:
            return  # an earlier damage has left nothing of it
        if self._world.maybe(0.5):
            self._flip(path, size)
        else:
            os.truncate(path, self._world.chance.randrange(size))

    def _flip(self, path: Path, size: int) -> None:
        data = bytearray(path.read_bytes())
        data[self._world.chance.randrange(size)] ^= 1 << self._world.chance.randrange(8)
        path.write_bytes(data)
