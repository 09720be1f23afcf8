"""Which setting of a limit may be in force, from what the one who edits it wrote down. Pure.

Rule: a change comes into force between its sending and its acknowledgement, wherever it likes. It may
be in force until the next one of that name is acknowledged; from then on it must not be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chaos.log import Event

Setting = (
    tuple[int, float, bool] | None
)  # limit, slot_decay_per_second, active; None: no such limit


class Edit(NamedTuple):
    """One change; those of a name were made one after the other."""

    sent: int
    acknowledged: int | None  # None: nobody knows whether it was ever made
    setting: Setting


class Settings:
    """What may be in force when."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        sent: dict[int, tuple[str, int]] = {}
        for event in events:
            if event.what == "edit":
                number, name, setting = event.fields
                edits = self._edits.setdefault(name, [])
                sent[number] = name, len(edits)
                edits.append(Edit(event.at, None, as_setting(setting)))
            elif event.what == "edited":
                name, place = sent[event.fields[0]]
                edit = self._edits[name][place]
                self._edits[name][place] = edit._replace(acknowledged=event.at)

    @property
    def names(self) -> set[str]:
        """Every limit that was ever set."""
        return set(self._edits)

    def may_be(self, name: str, begin: int, end: int) -> set[Setting]:
        """All that may be in force at some time from begin to end."""
        edits = self._edits.get(name, [])
        known = [n for n, edit in enumerate(edits) if (edit.acknowledged or end) < begin]
        first = known[-1] if known else 0
        found = {edit.setting for edit in edits[first:] if edit.sent <= end}
        return found if known else {*found, None}  # before the first there was no such limit

    def most(self, name: str, begin: int, end: int) -> int:
        """The largest limit that may be in force then."""
        return max((may[0] for may in self.may_be(name, begin, end) if may), default=0)


def as_setting(written: list[float | bool] | None) -> Setting:
    """As the log has it."""
    return None if written is None else (int(written[0]), float(written[1]), bool(written[2]))


def lost(settings: Settings, events: Iterable[Event]) -> tuple[int, list[str]]:
    """What the daemon told of its limits at some time, against what may have been in force: how many
    settings were looked at, and those that are wrong."""
    checks = 0
    wrong = []
    for event in events:
        if event.what != "limits":
            continue
        sent, told = event.fields
        found = {name: as_setting(written) for name, *written in told}
        for name in sorted(settings.names | found.keys()):
            checks += 1
            may = settings.may_be(name, sent, event.at)
            if found.get(name) not in may:
                what = " or ".join(sorted(map(str, may)))
                wrong.append(f"{name} is {found.get(name)} and was set to {what}")
    return checks, wrong
