"""Fencing tokens rise for ever, whatever can't be written; and the number that is written over in place."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from atmostd import config, place
from atmostd.place import DamagedPlace, Mark
from atmostd.registry import BrokenInvariant
from atmostd.snapshot import State
from atmostd.store import TOKENS, Store
from atmostd.tokens import NAME, Tokens
from tests.saving import damage

WORLDS = 300
LIVES = 60  # of a daemon, in each
RESERVED, SHARE = 40, 4  # so that both come to their end


# The number on disk


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    assert place.read(path) is None
    for mark in (Mark("", 0, 0), Mark("11111111-2222-3333-4444-555555555555", 2**53, 2**53 - 1)):
        place.write(path, mark, durable=True)
        assert place.read(path) == mark


def test_every_turned_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    place.write(path, Mark("boot", 7, 8), durable=False)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedPlace):
            place.read(path)


def test_one_that_was_never_whole_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    place.write(path, Mark("boot", 7, 8), durable=False)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert place.read(path) is None
    path.write_bytes(data + b"x")
    with pytest.raises(DamagedPlace):
        place.read(path)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a link"):
        place.write(path, Mark("", 0, 1), durable=True)
    assert not (tmp_path / "victim").exists()


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.open()
    return store


def test_the_mark_of_the_store_outlives_it_and_is_mended_by_a_save(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.token_mark == 0
    asyncio.run(store.set_token_mark(1234))
    store.close()
    store = opened(tmp_path)
    assert store.token_mark == 1234
    store.close()
    damage(tmp_path / TOKENS)
    store = opened(tmp_path)
    assert store.token_mark is None
    asyncio.run(store.save(State("boot", 1, 2, 99, [])))
    store.close()
    store = opened(tmp_path)
    assert store.token_mark == 0
    store.close()


def test_after_a_failed_write_the_mark_is_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync that follows a failed one may succeed and have written nothing."""
    store = opened(tmp_path)

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(OSError, match="Input/output error"):
            asyncio.run(store.set_token_mark(1))
    with pytest.raises(OSError, match="Input/output error"):
        asyncio.run(store.set_token_mark(2))
    store.close()


# Any sequence of lives


class Counter:
    """What the registry has of tokens."""

    def __init__(self) -> None:
        self.next_token = 1
        self.tokens_low_at = 1


class Host:
    """A state folder of two numbers and a runtime folder, each of which may refuse."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.boot = 1
        self.saved = self.reserved = 0
        self.saves = self.reserves = self.keeps = True
        self.given = 0  # the greatest one
        self.refused = 0
        self._run = folder
        self._synced = b""  # of the mark of the boot: what a power cut leaves of it

    def weather(self) -> None:
        self.saves, self.reserves, self.keeps = (self.chance.random() < 0.4 for _ in range(3))

    def reboot(self) -> None:
        self.boot += 1
        (self._run / NAME).write_bytes(self._synced)

    def life(self) -> None:
        """One daemon, as configuration.py uses its tokens, until it is killed."""
        counter: Any = Counter()
        tokens = Tokens(counter, self._run, str(self.boot))
        tokens.begin(max(self.saved, self.reserved))
        provisional = counter.next_token + self.chance.randrange(3)
        counter.next_token = provisional  # decided by the replay, told with the first checkpoint
        self.save(tokens, counter)
        if not tokens.some_are_left():
            self.refused += 1
            return
        for _ in range(self.chance.randrange(3 * RESERVED)):
            if not self.give(tokens, counter):
                return
            if self.chance.random() < 0.03:
                self.weather()
                if (self._run / NAME).exists():
                    self._synced = (self._run / NAME).read_bytes()
            if self.chance.random() < 0.1:
                self.save(tokens, counter)
        if self.chance.random() < 0.3:
            self.save(tokens, counter)
            tokens.stop()

    def give(self, tokens: Tokens, counter: Counter) -> bool:
        token = counter.next_token
        counter.next_token += 1
        if token >= counter.tokens_low_at:
            try:
                tokens.count()
            except BrokenInvariant:
                return False  # it ends, and nobody was told
            if self.chance.random() < 0.5:
                self.save(tokens, counter)
        assert token > self.given, (token, self.given)
        self.given = token
        return True

    def save(self, tokens: Tokens, counter: Counter) -> None:
        """What Keeping.write does. A failed one may have reached the disk nonetheless."""
        mark = tokens.next_mark
        if self.saves or self.chance.random() < 0.1:
            self.saved = mark
        if self.saves:
            tokens.set_aside(mark)
        elif tokens.are_low:
            if self.reserves or self.chance.random() < 0.1:
                self.reserved = mark
            if self.reserves:
                tokens.set_aside(mark)


@pytest.fixture
def _small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "TOKENS_RESERVED", RESERVED)
    monkeypatch.setattr(config, "TOKENS_SHARE", SHARE)


@pytest.mark.usefixtures("_small_shares")
def test_tokens_rise_in_every_sequence_of_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = place.write
    went_on = refused = 0
    for seed in range(WORLDS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        host = Host(folder, seed)

        def keep(path: Path, mark: Mark, durable: bool, host: Host = host) -> None:
            if host.keeps or host.chance.random() < 0.1:
                write(path, mark, durable)
            if not host.keeps:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(place, "write", keep)
        for _ in range(LIVES):
            before = host.given
            host.weather()
            could_save = host.saves
            if host.chance.random() < 0.1:
                host.reboot()
            if host.chance.random() < 0.1:
                (folder / NAME).unlink(missing_ok=True)
            host.life()
            went_on += not could_save and host.given > before
        refused += host.refused
    assert went_on > WORLDS
    assert refused > WORLDS


@pytest.mark.usefixtures("_small_shares")
def test_a_place_that_is_not_known_begins_above_all(tmp_path: Path) -> None:
    counter: Any = Counter()
    (tmp_path / NAME).write_bytes(bytes(76))
    tokens = Tokens(counter, tmp_path, "boot")
    tokens.begin(1000)
    assert counter.next_token == 1000
    assert not tokens.some_are_left()
    assert (
        time.time_ns() // 1000 < 2**53
    )  # what configuration.py takes where that is not known either


@pytest.mark.usefixtures("_small_shares")
def test_a_stop_leaves_no_gap_and_a_kill_at_most_what_was_set_aside(tmp_path: Path) -> None:
    counter: Any = Counter()
    tokens = Tokens(counter, tmp_path, "boot")
    tokens.begin(0)
    tokens.set_aside(41)
    counter.next_token = 5
    tokens.stop()
    after: Any = Counter()
    Tokens(after, tmp_path, "boot").begin(41)
    assert after.next_token == 5
    of_another_boot: Any = Counter()
    Tokens(of_another_boot, tmp_path, "another").begin(41)
    assert of_another_boot.next_token == 41
