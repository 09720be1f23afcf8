"""What limits were declared to be, by whom, and what follows from a new word of the configuration file.

The one rule: the newest word counts. The daemon remembers what the file last said of each limit and
template. An entry that says something new is put in force; one that says what it said before changes
nothing, so what was changed by hand stays until the file has something new to say of it.

Pure: nothing here touches a limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import translate

from msgspec import Struct

from atmost.rates import rate_text
from atmost.wire import Declaration, TemplateDeclaration
from atmostd.snapshot import SavedDeclaration, SavedTemplate

HAND, FILE, TEMPLATE, IMPLICIT = "hand", "file", "template", "implicit"


class Declared(Struct, frozen=True):
    """The settings of one limit. origin: HAND, also if it is the file that has set them last: that is
    seen by what the file says; TEMPLATE; or IMPLICIT."""

    limit: int
    slot_decay_per_second: float
    active: bool
    origin: str = HAND


Steps = list[tuple[str, Declared | None]]  # in their order; None: the limit is deleted
Now = Callable[[str], Declared | None]  # what a limit is; None: there is none
TemplateRows = tuple[SavedTemplate, ...]


class Word(Struct, frozen=True):
    """What the configuration file last said."""

    limits: Mapping[str, SavedDeclaration] = {}
    templates: TemplateRows = ()

    @classmethod
    def of(cls, limits: Iterable[Declaration], templates: Iterable[TemplateDeclaration]) -> Word:
        return cls({one.name: saved(one) for one in limits}, tuple(map(saved_template, templates)))

    def drift(self, name: str, now: Declared) -> str:
        """What the file says of a limit, in words, if it is another thing than what is so."""
        said = self.limits.get(name)
        return "" if said is None or wanted(said) == now else told(said)

    def origin(self, name: str, now: Declared) -> str:
        """Where the settings of a limit come from."""
        return FILE if now.origin == HAND and name in self.limits else now.origin


class Templates:
    """The templates in force: the first that matches a name counts."""

    def __init__(self, rows: TemplateRows = ()) -> None:
        self.rows = rows
        self._patterns = [re.compile(translate(row.match)).match for row in rows]

    def first(self, name: str) -> SavedTemplate | None:
        """The template of a name."""
        for row, matches in zip(self.rows, self._patterns, strict=True):
            if matches(name):
                return row
        return None

    def declared(self, name: str) -> Declared | None:
        """What its template makes of a name; None: it has none."""
        row = self.first(name)
        return (
            None if row is None else Declared(row.limit, row.slot_decay_per_second, True, TEMPLATE)
        )


def saved(declaration: Declaration) -> SavedDeclaration:
    return SavedDeclaration(
        declaration.name,
        declaration.limit,
        declaration.slot_decay_per_second,
        declaration.active,
    )


def saved_template(template: TemplateDeclaration) -> SavedTemplate:
    return SavedTemplate(template.match, template.limit, template.slot_decay_per_second)


def wanted(said: SavedDeclaration | Declaration) -> Declared:
    """What a limit is that was declared so."""
    return Declared(said.limit, said.slot_decay_per_second, said.active)


def told(said: SavedDeclaration) -> str:
    return in_words(wanted(said))


def in_words(said: Declared) -> str:
    """As `limit 5, 100/min, active`."""
    rate = f", {rate_text(said.slot_decay_per_second)}" if said.slot_decay_per_second else ""
    return f"limit {said.limit}{rate}, {'active' if said.active else 'inactive'}"


def template_told(said: SavedTemplate) -> str:
    rate = f", {rate_text(said.slot_decay_per_second)}" if said.slot_decay_per_second else ""
    return f"limit {said.limit}{rate}"


def news(said: Word, says: Word, now: Now) -> Iterator[tuple[str, Declared | None] | None]:
    """What a new word of the file changes, limit by limit; a None between them for each that stays."""
    for name, declaration in says.limits.items():
        shall = wanted(declaration)
        new = said.limits.get(name) != declaration and now(name) != shall
        yield (name, shall) if new else None
    for name, declaration in said.limits.items():
        gone = name not in says.limits and now(name) == wanted(declaration)
        yield (name, None) if gone else None


def templates_after(now: TemplateRows, said: TemplateRows, says: TemplateRows) -> TemplateRows:
    """The templates in force once the file says this: its own first, in its order; then those by hand."""
    if said == says:
        return now
    in_force = {row.match: row for row in now}
    before = {row.match: row for row in said}
    after = {}
    for row in says:
        if before.get(row.match) != row:
            after[row.match] = row
        elif row.match in in_force:  # else it was deleted by hand
            after[row.match] = in_force[row.match]
    of_file = {row.match for row in says}
    for row in now:
        if row.match not in of_file and before.get(row.match) != row:
            after[row.match] = row
    return tuple(after.values())
