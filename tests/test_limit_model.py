"""The rules against the naive model (rules_model.py): whatever happens, both say and hold the same.

How many examples: conftest.py. PASSES_MAX is smaller in most worlds, so that a few steps go deep.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from atmostd.grants import TICKETS_A_STEP_MAX
from atmostd.limit import PASSES_MAX
from atmostd.ticket import State
from tests.rules_lockstep import Lockstep
from tests.rules_world import SECOND

NAMES = "abcd"

names = st.sampled_from(NAMES)
slots_of_a_limit = st.sampled_from([1, 2, 1, 3, 2, 5, 0])
decays = st.sampled_from([1.0, 0.5, 0.3, 0.0, 7.0, 1.0, 0.5, 1e-7, 1e9])
activities = st.sampled_from([True, True, True, False])
kinds = st.sampled_from([(1, 0), (2, 0), (0, 1), (1, 1), (0, 2), (3, 0)])  # hold, spend
wishes = st.lists(st.tuples(names, kinds), min_size=1, max_size=3, unique_by=lambda wish: wish[0])
timeouts = st.sampled_from([None, None, None, 0.0, 1e-9, 1.0, 3.0])
spans = st.sampled_from([1, 400_000, SECOND // 3, SECOND, 2 * SECOND, 10 * SECOND, 10**15])


class Everything(Lockstep):
    """Every event, in every order, with all that a limit and a request can be."""

    step_max = TICKETS_A_STEP_MAX

    @initialize(
        passes_max=st.sampled_from([1, 2, PASSES_MAX]),
        made=st.lists(
            st.tuples(slots_of_a_limit, decays, activities),
            min_size=len(NAMES),
            max_size=len(NAMES),
        ),
        now=st.sampled_from([0, 10**18 + 7]),
    )
    def start(self, passes_max: int, made: list[tuple[int, float, bool]], now: int) -> None:
        self.begin(passes_max, now, self.step_max)
        for name, (limit, decay, active) in zip(NAMES, made, strict=True):
            self.make(name, limit, decay, active)

    @rule(
        wishes=wishes,
        timeout=timeouts,
        strict=st.sampled_from([False, False, False, True]),
        inside=st.sampled_from([0, 0, 1, 2]),
        at_once=st.sampled_from([True, True, False]),
    )
    def ask(
        self,
        wishes: list[tuple[str, tuple[int, int]]],
        timeout: float | None,
        strict: bool,
        inside: int,
        at_once: bool,
    ) -> None:
        ticket = self.post(
            {name: hold for name, (hold, _) in wishes if hold},
            {name: spend for name, (_, spend) in wishes if spend},
            timeout=timeout,
            strict=strict,
            inside=self.all_that_are(State.HELD)[:inside],
        )
        if at_once:
            self.deliver_all(ticket)

    @precondition(lambda self: self.world.tickets)
    @rule(which=st.integers(0, 3))
    def ask_the_same_again(self, which: int) -> None:
        """Those who ask the same share a lane of the line."""
        model = self.world.tickets[-1 - which % len(self.world.tickets)]
        parts = [part for part in model.parts if not part.limit.deleted]
        if parts:
            hold = {part.limit.name: part.hold for part in parts if part.hold}
            spend = {part.limit.name: part.spend for part in parts if part.spend}
            self.deliver_all(self.post(hold, spend))

    @precondition(lambda self: any(self.world.inboxes.values()))
    @rule(which=st.integers(0, 9))
    def deliver_one(self, which: int) -> None:
        limits = [limit for limit in self.world.ever if self.world.inboxes[limit]]
        self.deliver(limits[which % len(limits)])

    @precondition(lambda self: self.world.tickets)
    @rule(which=st.integers(0, 30))
    def let_go_of_any(self, which: int) -> None:
        self.let_go(self.world.tickets[-1 - which % len(self.world.tickets)])

    @precondition(lambda self: self.all_that_are(State.HELD))
    @rule(which=st.integers(0, 9))
    def let_go_of_a_holder(self, which: int) -> None:
        held = self.all_that_are(State.HELD)
        self.let_go(held[which % len(held)])

    @rule(span=spans)
    def sleep(self, span: int) -> None:
        self.catch_up()
        self.sleep_until(self.world.now + span)

    @rule(span=spans)
    def ring_late(self, span: int) -> None:
        """The alarms of this span ring at its end."""
        self.catch_up()
        self.world.now += span
        self.catch_up()

    @rule(span=spans)
    def ring_never(self, span: int) -> None:
        """And the limits that they are for are looked at only after whatever happens next."""
        self.world.now += span

    @rule(name=names)
    def tick_unasked(self, name: str) -> None:
        self.tick(name)

    @rule(
        name=names,
        limit=st.none() | slots_of_a_limit,
        decay=st.none() | decays,
        active=st.sampled_from([None, None, True, False]),
    )
    def change(
        self, name: str, limit: int | None, decay: float | None, active: bool | None
    ) -> None:
        self.edit(name, limit=limit, decay=decay, active=active)

    @rule(name=names)
    def reset_spent(self, name: str) -> None:
        self.reset(name)

    @rule(name=names, limit=slots_of_a_limit, decay=decays, active=activities)
    def delete_and_make_again(self, name: str, limit: int, decay: float, active: bool) -> None:
        self.delete(name)
        self.make(name, limit, decay, active)


@dataclass(frozen=True)
class Asks:
    hold: dict[str, int]
    spend: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LetsGo:
    which: int


@dataclass(frozen=True)
class Changes:
    name: str
    limit: int | None = None
    active: bool | None = None


@dataclass(frozen=True)
class Sleeps:
    seconds: float


Move = Asks | LetsGo | Changes | Sleeps

# How often each stands here is how likely it is: most passing at work with these.
PAIRS = [Asks({one: slots, two: 1}) for one in "abcde" for two in "abcd" for slots in (1, 2)]
MOVES: list[Move] = [
    *(Asks({name: slots}) for name in "abcde" for slots in (1, 2)),
    *(2 * PAIRS),
    *(Asks({name: 1}, {"e": slots}) for name in "abcd" for slots in (1, 2)),
    *(8 * [LetsGo(which) for which in range(6)]),
    *(Changes(name, limit=limit) for name in "abcde" for limit in (2, 3)),
    *(Changes("a", active=active) for active in (False, True, True)),
    *(3 * [Sleeps(0.5), Sleeps(2.0)]),
]


class Crowd(Lockstep):
    """Few slots, many requests over several limits: who passes whom, and who may not."""

    @initialize(
        passes_max=st.sampled_from([1, 1, 1, 2, PASSES_MAX]),
        limits=st.lists(st.sampled_from([2, 3]), min_size=5, max_size=5),
    )
    def start(self, passes_max: int, limits: list[int]) -> None:
        self.begin(passes_max, now=0)
        for name, limit in zip("abcde", limits, strict=True):
            self.make(name, limit, 1.0, True)

    @rule(move=st.sampled_from(MOVES))
    def go_on(self, move: Move) -> None:
        """When many wait already, a holder lets go before the next one asks."""
        held = self.all_that_are(State.HELD)
        many = len(self.all_that_are(State.WAITING)) > 5
        match move:
            case Asks() if not (held and many):
                self.deliver_all(self.post(move.hold, move.spend))
            case Asks() | LetsGo() if held:
                which = move.which if isinstance(move, LetsGo) else 0
                self.let_go(held[which % len(held)])
            case Changes():
                self.edit(move.name, limit=move.limit, active=move.active)
            case Sleeps():
                self.sleep_until(self.world.now + round(move.seconds * SECOND))


class InSmallSteps(Everything):
    """One ticket goes a step, and the rest with Ticks: the same comes of it."""

    step_max = 1


EXAMPLES = settings.get_profile("nightly" if "ATMOST_EXAMPLES" in os.environ else "ci")

TestEverything = Everything.TestCase
TestEverything.settings = settings(EXAMPLES, stateful_step_count=30)

TestInSmallSteps = InSmallSteps.TestCase
TestInSmallSteps.settings = settings(EXAMPLES, stateful_step_count=30)

TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(EXAMPLES, stateful_step_count=40)
