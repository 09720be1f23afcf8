"""The journal on a disk that fails, cuts off and turns bits: it tells what is true, or nothing."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmostd import records
from atmostd.damage import Untrusted
from atmostd.journal import Journal
from atmostd.records import AnyRecord, Damaged
from tests.replay_world import BOOT, Facts, FakeProcesses, World, replayed
from tests.test_recovery import Script

FAULTS_MAX = 200  # I/O calls of one run; it has fewer


# Bytes


RECORDS: list[list[AnyRecord]] = [
    [records.LimitIs("db", 2, 0.5, True, False, str(2**70), 10**12, [0, 0, 1, 2])],
    [
        records.SessionBegan(1, bytes(16), 7, 7, 77, 5, 1000, "ada", "job"),
        records.Arrived(1, 1, 1, {"db": 1}, {}, 5, None, False, [], False),
        records.Went(1, 1, 6),
    ],
    [records.Edited("db", 3, None, True, False, 9), records.Gone(1), records.SessionEnded(1)],
    [records.LimitDeleted("db"), records.Counted(1, 2)],
]


def journal_bytes(frames: list[list[AnyRecord]]) -> bytes:
    return records.head(BOOT) + b"".join(map(records.frame, frames))


def flat(frames: list[list[AnyRecord]]) -> list[AnyRecord]:
    return list(itertools.chain(*frames))


def test_every_cut_leaves_a_beginning_or_is_damage() -> None:
    data = journal_bytes(RECORDS)
    beginnings = [flat(RECORDS[:count]) for count in range(len(RECORDS) + 1)]
    ends = [len(journal_bytes(RECORDS[:count])) for count in range(len(RECORDS) + 1)]
    for length in range(len(data) + 1):
        if length < ends[0]:
            with pytest.raises(Damaged):
                records.read(data[:length], BOOT)
            continue
        whole = max(count for count, end in enumerate(ends) if end <= length)
        assert records.read(data[:length], BOOT) == beginnings[whole]


def test_every_turned_bit_is_seen() -> None:
    data = journal_bytes(RECORDS)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            records.read(bytes(changed), BOOT)


def test_a_journal_of_another_boot_is_void() -> None:
    assert records.read(journal_bytes(RECORDS), "another") is None


@pytest.mark.parametrize(
    "lost",
    [
        [records.Went(9, 1, 6)],
        [records.Stands(9, 1, 6, [], [])],
        [records.Arrived(9, 9, 1, {"db": 1}, {}, 5, None, False, [], False)],
        [records.Edited("never made", 3, None, True, False, 9)],
    ],
)
def test_a_record_of_what_was_never_told_is_damage(lost: list[AnyRecord]) -> None:
    with pytest.raises(Damaged, match="does not know"):
        records.read(journal_bytes([lost]), BOOT)


INT = st.integers(0, 2**63 - 1)
NAME = st.text(max_size=5)
SLOTS = st.dictionaries(NAME, st.integers(1, 2**53), max_size=3)
RATE = st.floats(0, 1e9)
NAMES = st.lists(NAME, max_size=3)
ANY_RECORD: st.SearchStrategy[AnyRecord] = st.one_of(
    st.builds(
        records.SessionBegan, INT, st.binary(max_size=16), INT, INT, INT, INT, INT, NAME, NAME
    ),
    st.builds(records.SessionEnded, INT),
    st.builds(
        records.LimitIs,
        NAME,
        INT,
        RATE,
        st.booleans(),
        st.booleans(),
        st.integers(0, 2**200).map(str),
        INT,
        st.lists(INT, max_size=4),
    ),
    st.builds(records.LimitDeleted, NAME),
    st.builds(records.Gone, INT),
    st.builds(records.Counted, INT, INT),
    st.builds(
        records.Arrived,
        INT,
        st.just(0),
        INT,
        SLOTS,
        SLOTS,
        INT,
        st.none() | INT,
        st.booleans(),
        st.lists(INT, max_size=3),
        st.booleans(),
        st.booleans(),
    ),
)


@given(st.lists(st.lists(ANY_RECORD, max_size=4), max_size=5), st.data())
def test_random_records_come_back_or_not_at_all(
    frames: list[list[AnyRecord]], data: st.DataObject
) -> None:
    whole = journal_bytes(frames)
    assert records.read(whole, BOOT) == flat(frames)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Damaged):
        records.read(bytes(changed), BOOT)


# A file that is none of ours


def test_an_empty_file_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"")
    journal = Journal(tmp_path, BOOT)
    with pytest.raises(Untrusted):
        journal.open()
    (aside,) = journal.accept_loss()
    assert not path.exists()
    assert aside.exists()
    journal.close()


# Calls that fail


class Faults:
    """The n-th of the calls that touch a disk fails, and all behind it until `heal`."""

    CALLS = ("open", "write", "replace", "unlink", "fsync", "rename")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, short: bool) -> None:
        self.count = 0
        self._number = number
        self._short = short  # a write that fails has written a part before
        self._healed = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    @property
    def struck(self) -> bool:
        return self.count >= self._number

    def heal(self) -> None:
        self._healed = True

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._healed:
                return real(*args, **kwargs)
            self.count += 1
            if not self.struck:
                return real(*args, **kwargs)
            if name == "write" and self._short and len(args[1]) > 1:
                return real(args[0], bytes(args[1])[: len(args[1]) // 2])
            code = errno.ENOSPC if name in ("open", "write") else errno.EIO
            raise OSError(code, os.strerror(code))

        return call


SCRIPT: list[tuple[str, int, int, int]] = [
    ("acquire", 0, 0, 1),
    ("acquire", 1, 1, 2),
    ("acquire", 2, 1, 0),
    ("checkpoint", 0, 0, 0),
    ("edit", 0, 1, 1),
    ("release", 0, 0, 0),
    ("checkpoint", 0, 0, 0),
    ("acquire", 1, 2, 1),
    ("delete", 1, 0, 0),
]


async def run_with_faults(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, short: bool
) -> bool:
    """Returns whether the fault struck."""
    world = World(folder / "first", FakeProcesses()).begin()
    script = Script(world)
    for name in ("api", "db", "gpu"):
        world.registry.make(name, 2, 1.0, active=True)
    await world.settle()
    kept = world.facts()
    with monkeypatch.context() as patch:
        faults = Faults(patch, number, short)
        for step in SCRIPT:
            script.do(step)
            await world.settle()
            if not world.journal._torn:
                kept = world.facts()
        struck = faults.struck
        if struck:
            assert str(world.journal.path) in world.journal.trouble
        faults.heal()
        assert on_disk(world, folder) == kept  # all of what was told, and nothing else
        if struck:
            world.journal._try_again()
            await world.settle()
    assert not world.journal.trouble
    assert on_disk(world, folder) == world.facts()
    assert world.journal._retry is None or struck
    world.close()
    return struck


def on_disk(world: World, folder: Path) -> Facts:
    """What the next daemon would know."""
    after = replayed(world, folder / "second")
    found = after.facts()
    after.close()
    return found


@pytest.mark.parametrize("short", [False, True])
def test_whichever_call_fails_nothing_untrue_is_kept_and_it_heals(
    monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    for number in range(1, FAULTS_MAX):
        with tempfile.TemporaryDirectory() as folder:
            if not asyncio.run(run_with_faults(Path(folder), monkeypatch, number, short)):
                assert number > len(SCRIPT)
                return
    raise AssertionError("more calls than that?")


def test_while_a_roll_over_fails_the_old_file_has_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing new can be made, as on a disk that became read-only; the file that is open goes on."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        script = Script(world)
        for name in ("api", "db", "gpu"):
            world.registry.make(name, 2, 1.0, active=True)
        for step in [*SCRIPT, *SCRIPT[:1]]:
            script.do(step)
            script.do(("release", 0, 0, 0))  # so that a client is idle when it is rolled over
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", refuse)
                world.journal._try_again()
                await world.settle()
            assert "cannot be replaced: Read-only file system" in world.journal.trouble
            assert on_disk(world, tmp_path) == world.facts()
        world.journal._try_again()
        await world.settle()
        assert not world.journal.trouble
        assert on_disk(world, tmp_path) == world.facts()
        world.close()

    asyncio.run(scenario())


# Every state that a crash can leave of a checkpoint


def test_every_crash_of_a_roll_over_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        script = Script(world)
        world.registry.make("db", 2, 1.0, active=True)
        for step in SCRIPT[:3]:
            script.do(step)
        await world.settle()
        old = world.journal.path.read_bytes()
        world.checkpoint_next()
        script.do(SCRIPT[4])
        script.do(SCRIPT[5])
        seen: list[tuple[bytes, bytes | None]] = []
        real = os.replace
        with monkeypatch.context() as patch:

            def replace(source: Any, target: Any, **kwargs: Any) -> None:
                seen.append((world.journal.path.read_bytes(), Path(source).read_bytes()))
                real(source, target, **kwargs)

            patch.setattr(os, "replace", replace)
            await world.settle()
        ((before, new),) = seen
        assert new is not None
        assert before.startswith(old)  # with what this turn wrote before
        assert world.journal.path.read_bytes() == new
        facts = world.facts()
        for cut in range(len(new) + 1):
            crashed = tmp_path / "crashed"
            shutil.rmtree(crashed, ignore_errors=True)
            crashed.mkdir()
            (crashed / "journal").write_bytes(before)
            (crashed / "journal.new").write_bytes(new[:cut])
            next_daemon = World(crashed, world.processes, world.now).begin()
            assert next_daemon.facts() == facts
            assert not next_daemon.journal.trouble
            next_daemon.close()
        world.close()

    asyncio.run(scenario())


# Taken away


async def came_true(state: Callable[[], bool]) -> None:
    while not state():  # noqa: ASYNC110 - the disk tells nobody
        await asyncio.sleep(0.005)


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atmostd.config.JOURNAL_LOOK_SECONDS", 0.01)
    monkeypatch.setattr("atmostd.config.JOURNAL_RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_journal_that_was_taken_away_is_made_again(tmp_path: Path, whole_folder: bool) -> None:
    async def scenario() -> None:
        world = World(tmp_path / "first", FakeProcesses()).begin()
        world.registry.make("db", 2, 1.0, active=True)
        Script(world).do(("acquire", 0, 1, 1))
        await world.settle()
        if whole_folder:
            (tmp_path / "first").rename(tmp_path / "away")
            await came_true(lambda: "No such file" in world.journal.trouble)
            (tmp_path / "first").mkdir()
        else:
            world.journal.path.unlink()
        await came_true(lambda: not world.journal.trouble and world.journal.path.exists())
        assert on_disk(world, tmp_path) == world.facts()
        world.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))
