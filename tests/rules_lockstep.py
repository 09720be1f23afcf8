"""The rules and their naive model side by side: every event goes to both, then all is compared."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from hypothesis.stateful import RuleBasedStateMachine

from atmostd import grants
from atmostd import limit as rules
from atmostd.grants import TICKETS_A_STEP_MAX
from atmostd.limit import PASSES_MAX, Limit
from atmostd.ticket import Effect, Granted, Refused, State, Tick, Ticket, TimedOut
from tests.rules_model import Ask, Model, Outcome, Row, Want
from tests.rules_world import World, spent


class Lockstep(RuleBasedStateMachine):
    """What the machines share: one step of each world, and the comparison of all that can be seen."""

    def begin(self, passes_max: int, now: int, step_max: int = TICKETS_A_STEP_MAX) -> None:
        rules.PASSES_MAX = passes_max
        grants.TICKETS_A_STEP_MAX = step_max
        self.world = World(now)
        self.model = Model(passes_max)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.everybody_ends()
        finally:
            rules.PASSES_MAX = PASSES_MAX
            grants.TICKETS_A_STEP_MAX = TICKETS_A_STEP_MAX

    def everybody_ends(self) -> None:
        """Every waiter that fits is served once holders release and time passes (G5)."""
        for limit in self.world.ever:
            while self.world.inboxes[limit]:
                self.deliver(limit)
        self.catch_up()
        while self.all_that_are(State.WAITING):
            if held := self.all_that_are(State.HELD):
                self.let_go(held[-1])
            else:
                wake = self.world.next_alarm()
                assert wake is not None, "somebody waits for nothing"
                self.sleep_until(wake)

    def all_that_are(self, state: State) -> list[Ticket]:
        return [ticket for ticket in self.world.tickets if ticket.state is state]

    # One step of each

    def make(self, name: str, limit: int, decay: float, active: bool) -> None:
        self.world.make(name, limit, decay, active)
        self.model.make(name, limit, decay, active, self.world.now)

    def post(
        self,
        hold: Mapping[str, int],
        spend: Mapping[str, int] | None = None,
        *,
        timeout: float | None = None,
        strict: bool = False,
        inside: list[Ticket] | None = None,
    ) -> Ticket:
        inside = inside or []
        ticket = self.world.post(hold, spend or {}, timeout=timeout, strict=strict, inside=inside)
        wants = [Want(self.row(part.limit), part.hold, part.spend) for part in ticket.parts]
        self.model.ask(wants, ticket.deadline, strict, [self.asked(other) for other in inside])
        return ticket

    def deliver_all(self, ticket: Ticket) -> None:
        for part in ticket.parts:
            while ticket in self.world.inboxes[part.limit]:
                self.deliver(part.limit)

    def deliver(self, limit: Limit) -> None:
        ask = self.asked(self.world.inboxes[limit][0])
        outcomes = self.model.arrive(ask, self.row(limit), self.world.now)
        self.compare(self.world.deliver(limit), outcomes)

    def let_go(self, ticket: Ticket) -> None:
        outcomes = self.model.let_go(self.asked(ticket), self.world.now)
        self.compare(self.world.let_go(ticket), outcomes)

    def tick(self, name: str) -> None:
        limit = self.world.limits[name]
        outcomes = self.model.tick(self.row(limit), self.world.now)
        self.compare(self.world.tick(limit), outcomes)

    def edit(
        self,
        name: str,
        *,
        limit: int | None = None,
        decay: float | None = None,
        active: bool | None = None,
    ) -> None:
        row = self.row(self.world.limits[name])
        outcomes = self.model.edit(row, limit, decay, active, self.world.now)
        self.compare(self.world.edit(name, limit=limit, decay=decay, active=active), outcomes)

    def reset(self, name: str) -> None:
        outcomes = self.model.reset(self.row(self.world.limits[name]), self.world.now)
        self.compare(self.world.reset(name), outcomes)

    def delete(self, name: str) -> None:
        outcomes = self.model.delete(self.row(self.world.limits[name]), self.world.now)
        self.compare(self.world.delete(name), outcomes)

    def sleep_until(self, instant: int) -> None:
        while (wake := self.world.next_alarm()) is not None and wake <= instant:
            missed = self.model.happens_before(self.world.now, wake)
            assert missed is None, "the Tick was asked for too late"
            self.world.now = wake
            self.catch_up()
        missed = self.model.happens_before(self.world.now, instant + 1)
        assert missed is None, "no Tick was asked for"
        self.world.now = instant

    def catch_up(self) -> None:
        """All alarms that are due ring, in their order."""
        effects: list[Effect] = []
        outcomes: list[Outcome] = []
        while self.world.is_overdue():
            due, _, limit = self.world.alarms[0]
            outcomes += self.model.tick(self.row(limit), self.world.counts_as(Tick(due)))
            effects += self.world.ring() + self.finish()
        self.compare_in_each_line(effects, outcomes)
        self.compare_all()
        assert self.model.look(self.world.now)[0] is None, "somebody waits who could go"

    # The same of each

    def row(self, limit: Limit) -> Row:
        return self.model.rows[self.world.ever.index(limit)]

    def asked(self, ticket: Ticket) -> Ask:
        return self.model.asks[ticket.number - 1]

    def compare(self, effects: list[Effect], outcomes: list[Outcome]) -> None:
        """What followed from one event must be the same, in the same order.

        When alarms should have rung before, the limits that they are for are looked at now.
        """
        effects = effects + self.finish()
        overdue = [limit for due, _, limit in self.world.alarms if due <= self.world.now]
        for limit in overdue:
            outcomes = outcomes + self.model.tick(self.row(limit), self.world.now)
            effects = effects + self.world.tick(limit) + self.finish()
        if overdue or grants.TICKETS_A_STEP_MAX < TICKETS_A_STEP_MAX:
            self.compare_in_each_line(effects, outcomes)
        else:
            assert [_outcome(effect) for effect in effects] == outcomes
        self.compare_all()

    def finish(self) -> list[Effect]:
        """The Ticks of what one step has not finished, as if nothing came between."""
        effects: list[Effect] = []
        now = self.world.now
        while unfinished := [
            limit
            for limit in self.world.ever
            if limit.goes_on or limit.unfinished or _is_behind(limit, now)
        ]:
            for limit in unfinished:
                effects += self.world.tick(limit)
        return effects

    def compare_in_each_line(self, effects: list[Effect], outcomes: list[Outcome]) -> None:
        """With the first of several Ticks the model lets everybody go whom their time allows, the
        rules whoever hangs together with the limit that is ticked. So then it is the order in each
        line that must be the same, and what there is in the end."""
        said = [_outcome(effect) for effect in effects]
        if grants.TICKETS_A_STEP_MAX < TICKETS_A_STEP_MAX:
            # Of those who are late at the same instant, the places of the later ones are told when the
            # earlier ones have left.
            said, outcomes = _without_places(said), _without_places(outcomes)
        for row in self.model.rows:
            numbers = [ask.number for ask in self.model.asks if ask.want_of(row)]
            assert _of(numbers, said) == _of(numbers, outcomes)

    def compare_all(self) -> None:
        for limit, row in zip(self.world.ever, self.model.rows, strict=True):
            assert limit.held == self.model.held(row)
            assert spent(limit, self.world.now) == row.spent_at(self.world.now)
        for ticket, ask in zip(self.world.tickets, self.model.asks, strict=True):
            assert (
                ticket.state.value == ask.state
            )  # and so the lines: World asserts who stands where


def _outcome(effect: Effect) -> Outcome:
    match effect:
        case Granted(ticket=ticket):
            return "granted", ticket.number
        case Refused(ticket=ticket, code=code, fields=fields):
            return "refused", ticket.number, code, fields
        case TimedOut(ticket=ticket, places=places):
            return "timed out", ticket.number, places
        case _:
            raise AssertionError(f"no outcome: {effect}")


def _is_behind(limit: Limit, now: int) -> bool:
    """Whether a Tick has left somebody in line whose time was up."""
    return grants.TICKETS_A_STEP_MAX < TICKETS_A_STEP_MAX and any(
        ticket.home is limit
        and ticket.state is State.WAITING
        and ticket.deadline is not None
        and ticket.deadline <= now
        for ticket in limit.line
    )


def _without_places(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome[:2] if outcome[0] == "timed out" else outcome for outcome in outcomes]


def _of(numbers: list[int], outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome[1] in numbers]
