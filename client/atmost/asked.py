"""What a call asks for, checked before anything is sent; and a limit as a call returns it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from atmost import wire
from atmost.values import Names, check_timeout, slots_by_name

GRACE_SECONDS = 2.0  # for a time-out's own answer, before the daemon counts as hung
PATIENCE_SECONDS_MAX = (
    86_400.0  # of a longer time-out the daemon tells alone: poll(2) counts to 24 days
)


class Asked(Struct, frozen=True):
    """What a call asks for, checked."""

    hold: dict[str, int]
    spend: dict[str, int]
    timeout_seconds: float | None
    strict: bool
    by_process: bool = False

    @property
    def nothing(self) -> bool:
        """No limit was named: the body runs, and no daemon is needed."""
        return not self.hold and not self.spend

    @property
    def patience(self) -> float | None:
        """Seconds before a daemon that gives no answer counts as hung; None: it may take for ever."""
        timeout = self.timeout_seconds
        if timeout is None or timeout > PATIENCE_SECONDS_MAX:
            return None
        return timeout + GRACE_SECONDS

    def by_the_process(self) -> Asked:
        """The same, held until the process ends, not the connection."""
        return replace(self, by_process=True)

    def within(self, seconds: float) -> Asked:
        """The same, with no more time than that."""
        timeout = self.timeout_seconds
        return replace(self, timeout_seconds=seconds if timeout is None else min(timeout, seconds))

    def after(self, seconds: float) -> Asked:
        """The same, when so much of its time has passed."""
        if self.timeout_seconds is None:
            return self
        return replace(self, timeout_seconds=max(0.0, self.timeout_seconds - seconds))


def asked_of_concurrency(
    names: Names,
    occupy: int,
    timeout_seconds: float | None,
    rate_limit: Names,
    strict: bool,
) -> Asked:
    """The arguments of `concurrency` and `acquire`. Raises InvalidValue."""
    return Asked(
        slots_by_name(names, occupy),
        {} if rate_limit is None else slots_by_name(rate_limit, field="rate_limit"),
        check_timeout(timeout_seconds),
        bool(strict),
    )


def asked_of_rate_limit(
    names: Names, occupy: int, timeout_seconds: float | None, strict: bool
) -> Asked:
    """The arguments of `rate_limit`. Raises InvalidValue."""
    return Asked({}, slots_by_name(names, occupy), check_timeout(timeout_seconds), bool(strict))


class Limit(Struct, frozen=True):
    """A limit as it was when it was read (semantics.md 1).

    name; limit: slots that can be occupied at the same time; slot_decay_per_second: how many of the
    spent ones become free again; active: whether it is enforced; active_slots: occupied now, held +
    spent, rounded up; held: slots held; spent: slots spent, with the fraction that is left; waiting:
    requests in line; implicit: made by a request that named it, not by anyone's create; origin: where its
    settings come from: hand, file, template or implicit; declared: what the configuration file says of it,
    if that is another thing.
    """

    name: str
    limit: int
    slot_decay_per_second: float
    active: bool
    active_slots: int
    held: int
    spent: float
    waiting: int
    implicit: bool
    origin: str = ""
    declared: str = ""

    @classmethod
    def of(cls, record: wire.LimitRecord) -> Limit:
        return cls(*(getattr(record, field) for field in cls.__struct_fields__))
