"""Which fencing tokens may be given, so that they rise for ever, also while the disk refuses.

Two marks are on disk. *That of the state folder*: whoever knows nothing else begins there. It is in the
state file, or in the place beside it that can be written while the disk is full (store.py); it is far
ahead of what is given, and each save moves it. *That of this boot*, in the runtime folder: below the
first one, and of all that lies between them nothing was given in this run of the host. So a daemon that
can't save at its start goes on from there, for as many lives as there are shares between the two.

Rule 1: a token is given only while it is below both marks, as they are on disk.
Rule 2: a mark is moved before any token below it is given. If a write failed, we keep to the lower of
what may be there: only an older mark gives less.
Rule 3: a mark of this boot counts only with the very mark of the state folder that it was made below:
after a crash between the two, or a wiped folder, one begins at the state folder's. So no two of those
are the same.
Rule 4: when there are none left, the daemon ends. Nothing else is worth a token that goes back.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from atmostd import config, place
from atmostd.place import DamagedPlace, Mark
from atmostd.registry import BrokenInvariant, Registry

NAME = "tokens"


class Tokens:
    """`begin`, and then have them set aside: by what was saved, or in shares."""

    def __init__(self, registry: Registry, folder: Path, boot_id: str) -> None:
        self._registry = registry
        self._path = folder / NAME
        self._boot_id = boot_id
        self._saved = 0  # the mark of the state folder
        self._end: int | None = (
            None  # the first that may not be given; None: nobody is told of any yet
        )

    def begin(self, saved: int) -> None:
        """Find the first token that was never given. What is decided from now on, before any were set
        aside, is told to nobody until they are."""
        registry, kept = self._registry, self._kept()
        first = saved
        if kept is not None:
            first = kept.mark if kept.base == saved else max(saved, kept.base)
        registry.next_token = max(registry.next_token, first)
        registry.tokens_low_at = registry.next_token
        self._saved = saved

    @property
    def are_low(self) -> bool:
        return self._registry.next_token >= self._registry.tokens_low_at

    @property
    def next_mark(self) -> int:
        """For the state folder: it sets enough aside, and was never there before."""
        return max(self._registry.next_token + config.TOKENS_RESERVED, self._saved + 1)

    def set_aside(self, saved: int) -> None:
        """The state folder has this mark now."""
        self._saved = saved
        self._end = saved - config.TOKENS_RESERVED // 4  # what is behind is for who can't save
        self._registry.tokens_low_at = saved - config.TOKENS_RESERVED // 2
        with contextlib.suppress(OSError):  # else the one that is there is void: rule 3
            self._keep(self._end)

    def some_are_left(self) -> bool:
        """Whether one can be given. If not, takes a share of what the state folder has set aside."""
        is_left = self._end is not None and self._registry.next_token < self._end
        return is_left or self._take_share()

    def count(self) -> None:
        """Called as a token was given, when they are low. Raises BrokenInvariant: it was one too many."""
        if self._end is None:
            return
        next_token = self._registry.next_token
        if next_token + config.TOKENS_SHARE // 2 >= self._end:
            self._take_share()
        if next_token > self._end:
            raise BrokenInvariant(
                f"no fencing token is left that was set aside in {self._path.parent} or on disk"
            )

    def stop(self) -> None:
        """No more are given, so the next daemon of this boot may go on right behind the last one."""
        self._end = self._registry.next_token
        with contextlib.suppress(OSError):  # then there is a gap
            self._keep(self._end)

    def _take_share(self) -> bool:
        begin = max(self._end or 0, self._registry.next_token)
        end = min(begin + config.TOKENS_SHARE, self._saved)
        if end <= begin:
            return False
        try:
            self._keep(end)
        except OSError:
            return False
        self._end = end
        self._registry.tokens_low_at = end - config.TOKENS_SHARE // 2
        return True

    def _kept(self) -> Mark | None:
        """That of this boot."""
        try:
            kept = place.read(self._path)
        except (DamagedPlace, OSError):
            return None
        return kept if kept is not None and kept.boot_id == self._boot_id else None

    def _keep(self, mark: int) -> None:
        place.write(self._path, Mark(self._boot_id, self._saved, mark), durable=False)
