"""What `atmost apply` and the configuration file want, and the changes that follow from it.

Rule 1: a draft belongs to its connection and ends with it. Nothing of it is in force before a Commit.
Rule 2: a Commit does what its connection was shown, or nothing: any change of limits or templates since
then makes it fail.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from atmost import values
from atmost.declarations import TEMPLATES_MAX, check_match
from atmost.errors import InvalidValue, LimitsChanged
from atmost.wire import Change, Declaration, Draft, TemplateDeclaration
from atmostd.bounds import Bounds
from atmostd.declared import (
    HAND,
    Declared,
    Now,
    Steps,
    TemplateRows,
    saved_template,
    wanted,
)
from atmostd.refusals import Refusals
from atmostd.snapshot import SavedTemplate


class Plan(Struct):
    """What a Commit would do."""

    prune: bool
    version: int  # of the limits that it was made for
    changes: list[Change] = []
    steps: Steps = []
    templates: TemplateRows = ()


class Uploaded:
    """The draft of one connection."""

    def __init__(self) -> None:
        self.limits: dict[str, Declaration] = {}
        self.templates: dict[str, TemplateDeclaration] = {}
        self.plan: Plan | None = None  # as it was shown
        self._begun = False

    def take(self, part: Draft, bounds: Bounds, refusals: Refusals, who: str) -> None:
        """Add a part. Raises InvalidValue or TooMany; then nothing of that part was taken."""
        if not part.begin:
            self.check_begun()
        for limit in part.limits:
            values.check_name(limit.name)
            values.check_limit(limit.limit)
            values.check_decay(limit.slot_decay_per_second)
        for template in part.templates:
            check_match(template.match)
            values.check_limit(template.limit)
            values.check_decay(template.slot_decay_per_second)
        if part.begin:
            self.limits, self.templates = {}, {}
        self._begun, self.plan = True, None
        count = len(self.limits) + len(part.limits) + len(self.templates) + len(part.templates)
        if count > bounds.draft_entries:
            raise refusals.too_many("draft_entries", "limits and templates in one draft", who)
        if len(self.templates) + len(part.templates) > TEMPLATES_MAX:
            raise InvalidValue("templates", "more", f"at most {TEMPLATES_MAX} templates")
        self.limits.update((limit.name, limit) for limit in part.limits)
        self.templates.update((template.match, template) for template in part.templates)

    def check_begun(self) -> None:
        """Raises InvalidValue if there is no draft here: its connection was lost, and this is another."""
        if not self._begun:
            raise InvalidValue("draft", "none", "a draft that was begun on this very connection")

    def commit(self, prune: bool, version: int, now: int) -> Plan:
        """The plan that was shown, if it is good still: limits are of the version `now`. Raises
        InvalidValue or LimitsChanged."""
        self.check_begun()
        plan = self.plan
        if plan is None or plan.prune != prune or plan.version != version or version != now:
            raise LimitsChanged
        return plan


def changes_of_limits(
    draft: Uploaded, plan: Plan, names: list[str], declared: Now
) -> Iterator[None]:
    """Find out what changes, into the plan; pauses after each limit. `names`: of all limits there are."""
    for limit in draft.limits.values():
        now, shall = declared(limit.name), wanted(limit)
        if now != shall:
            plan.steps.append((limit.name, shall))
            plan.changes.append(Change("limit", limit.name, _shown(limit.name, now), limit))
        yield
    if plan.prune:
        for name in sorted(names):
            if name not in draft.limits:
                now = declared(name)
                if now is not None and now.origin == HAND:  # others go by themselves
                    plan.steps.append((name, None))
                    plan.changes.append(Change("limit", name, _shown(name, now), None))
            yield


def changes_of_templates(draft: Uploaded, plan: Plan, now: TemplateRows) -> None:
    """The same for the templates: those of the draft stand first, in its order."""
    after = {match: saved_template(row) for match, row in draft.templates.items()}
    if not plan.prune:
        for row in now:
            after.setdefault(row.match, row)
    plan.templates = tuple(after.values())
    before = {row.match: row for row in now}
    stay = [row.match for row in now if row.match in after]
    order = [match for match in after if match in before]
    moved = {match for match, was in zip(order, stay, strict=True) if match != was}
    for place, (match, row) in enumerate(after.items(), 1):
        was = before.get(match)
        if was == row and match not in moved:
            continue
        at = place if was is None or match in moved else 0
        plan.changes.append(
            Change("template", match, _template_shown(was), _template_shown(row), at)
        )
    for row in now:
        if row.match not in after:
            plan.changes.append(Change("template", row.match, _template_shown(row), None))


def _shown(name: str, now: Declared | None) -> Declaration | None:
    if now is None:
        return None
    return Declaration(name, now.limit, now.slot_decay_per_second, now.active)


def _template_shown(row: SavedTemplate | None) -> Declaration | None:
    return None if row is None else Declaration(row.match, row.limit, row.slot_decay_per_second)
