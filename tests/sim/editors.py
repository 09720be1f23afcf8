"""Who changes limits: one of them, or several at the same time."""

from __future__ import annotations

from atmost import wire
from atmost.errors import AtmostError
from atmost.exchange import Answer
from tests.sim.client import SimClient
from tests.sim.host import Host
from tests.sim.oracle import Oracle
from tests.sim.settings import DONE, EXISTS, NOT_FOUND, REFUSED, Change, Declared, Fields, Result
from tests.sim.world import SECOND, World

ALL_AS_THEY_ARE: Fields = (None, None, None)


class Editors:
    """The clients of those who may."""

    def __init__(self, world: World, host: Host, oracle: Oracle) -> None:
        self.world = world
        self.chance = world.chance
        self.host = host
        self.oracle = oracle
        self.names: list[str] = []
        self.crowd = False  # the limits are as a crowd needs them
        self.count = 1
        self._clients: list[SimClient] = []
        self._busy: set[int] = set()  # by place
        self._exists: set[str] = set()  # a create was refused: a request has made it, or the first

    def begin(self) -> None:
        """Processes; those from before have died."""
        self._clients = [SimClient(self.host.new_process("admin")) for _ in range(self.count)]
        self._busy.clear()

    def declare_all(self) -> None:
        """Without limits that are enforced, nothing would be shown."""
        for name in self.names:
            self._change(0, name, "create", self._declaration())

    def check_declared(self) -> None:
        if not all(self.oracle.settings.declared(name) for name in self.names):
            self.oracle.fail("the limits could not be made")

    def edit(self) -> None:
        """Whoever has nothing under way asks for something; several all for the same limit."""
        name = self.chance.choice(self.names)
        for place in range(self.count):
            if place not in self._busy:
                self._ask_something(place, name)

    def _ask_something(self, place: int, name: str) -> None:
        now = self.oracle.settings.likely(name)
        if self.count > 1 and self.chance.random() < 0.2:
            self._change(place, name, "read", ALL_AS_THEY_ARE)
            return
        draw = self.chance.random()
        if now is None:
            kind = "update" if name in self._exists else "create"
            self._change(place, name, kind, self._declaration())
        elif draw < 0.2:
            self._change(place, name, "delete", ALL_AS_THEY_ARE)
        elif draw < 0.4:
            self._change(place, name, "update", (*self._kept(now)[:2], not now[2]))
        else:
            self._change(place, name, "update", (*self._declaration()[:2], self._kept(now)[2]))

    def _kept(self, now: Declared) -> Fields:
        """What is not to change is said again by somebody who is alone, and else not touched."""
        return now if self.count == 1 else ALL_AS_THEY_ARE

    def _declaration(self) -> Declared:
        chance = self.chance
        if self.crowd:
            return 2, 2.0, True
        return chance.choice((1, 1, 2, 2, 3)), chance.choice((0.5, 2.0, 10.0, 30.0)), True

    def _change(self, place: int, name: str, kind: str, fields: Fields) -> None:
        admin = self._clients[place]
        self._busy.add(place)
        if kind != "read":
            self._exists.discard(name)
        self.world.note(
            f"{name} shall be {fields if kind != 'delete' else None}: {kind} by {place}"
        )
        before = admin.connections - (admin.end is not None)
        change = Change(kind, fields, lambda: admin.connections - before)
        number = self.oracle.settings.asked(name, change)

        def done(answer: Answer) -> None:
            self._busy.discard(place)
            self._done(number, name, kind, answer)

        match kind:
            case "read":
                admin.ask(wire.ReadLimit, name, done=done)
            case "delete":
                admin.ask(wire.DeleteLimit, name, done=done)
            case "create":
                admin.ask(wire.CreateLimit, name, *fields, done=done)
            case _:
                admin.ask(wire.UpdateLimit, name, *fields, done=done)

    def _done(self, number: int, name: str, kind: str, answer: Answer) -> None:
        settings = self.oracle.settings
        if isinstance(answer, AtmostError):
            self.world.note(f"{name} stays as it was: {answer.code}")
            if type(answer) is AtmostError:
                return  # it gave up, and will never know
            if answer.code == "limit_exists":
                self._exists.add(name)
            settings.answered(number, self._result(name, kind, answer))
            return
        result: Result = DONE
        if kind == "read":
            assert isinstance(answer, wire.Limit)
            result = (declared_in(answer.limit),)
        settings.answered(number, result)
        self.world.note(f"{name} is {settings.likely(name)}")

    def _result(self, name: str, kind: str, error: AtmostError) -> Result:
        if error.code in ("state_not_saved", "state_unavailable"):
            return REFUSED
        if error.code == "limit_not_found":
            return (None,) if kind == "read" else NOT_FOUND
        if error.code != "limit_exists":
            self.oracle.fail(f"the {kind} of {name} is answered with {error.code}")
        return EXISTS

    # When the daemon asks for an operator

    def operate(self) -> None:
        """Somebody looks at what is lost, and accepts it, some time after the daemon has asked."""
        self.world.at(self.world.now + self.world.span(SECOND // 100, SECOND), self._accept)

    def _accept(self) -> None:
        if not self.host.closed:
            return
        operator = SimClient(self.host.new_process("operator"))

        def looked(answer: Answer) -> None:
            if not isinstance(answer, wire.Loss):
                self.oracle.fail(f"an operator who looks at the loss is told {answer}")
            if answer.texts:
                self.world.note(f"the operator accepts {len(answer.texts)} losses")
                operator.ask(wire.Recover, True, done=lambda _: operator.process.kill())
            else:
                operator.process.kill()

        operator.ask(wire.Recover, False, done=looked)


def declared_in(record: wire.LimitRecord) -> Declared | None:
    """None: a request has made it."""
    if record.implicit:
        return None
    return record.limit, record.slot_decay_per_second, record.active
