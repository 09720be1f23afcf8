"""What happens in a world: which limits, which clients, what they do, and what befalls them.

A script has three acts: a time in which everything happens; `calm`, in which nothing new happens and
every client that lives comes back, so that its end is a standstill; and the end, in which all that is
held is let go of and everybody who waits has to be served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from atmost import wire
from atmost.asked import Asked
from atmost.errors import AtmostError
from atmost.exchange import Answer
from tests.sim.client import SimClient
from tests.sim.host import Host
from tests.sim.oracle import Declared, Oracle
from tests.sim.world import MILLISECOND, SECOND, Process, World

CALM = 8 * SECOND  # longer than any pause between two tries to connect
ROUNDS_MAX = 200  # of letting go, until nobody waits any more


class AnyClient(Protocol):
    """What a script has its clients do."""

    process: Process
    exec_done: bool

    @property
    def name(self) -> str: ...

    @property
    def ready(self) -> bool: ...

    @property
    def held(self) -> Mapping[int, object]: ...

    def wanted(self) -> list[int]: ...

    def acquire(self, asked: Asked) -> object: ...

    def release(self, number: int) -> None: ...

    def give_up(self, number: int) -> None: ...

    def exec(self) -> None: ...

    def fork(self) -> Callable[[], None] | None: ...


class Script:
    """One world from its first event to the verdict."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance
        self.oracle = Oracle(world)
        self.host = Host(world)
        self.clients: list[AnyClient] = []
        self.admin: SimClient | None = None
        self.happening = True
        self._children: list[Callable[[], None]] = []
        self._named = 0
        self._owners: dict[object, Any] = {}
        self._changing = False
        self._exists: set[str] = (
            set()
        )  # a create was refused: a request has made it, or the first try
        self._weather()

    def _weather(self) -> None:
        """What this world is like."""
        chance = self.chance
        self.names = ["a", "b", "c"][: chance.choice((1, 2, 2, 3))]
        self.most_clients = chance.choice((2, 3, 4, 6))
        self.pace = chance.choice((20, 60, 150)) * MILLISECOND  # between two acts of a client
        self.span = chance.choice((1, 2, 4)) * SECOND
        self.kills_every = chance.choice((0, SECOND // 4, SECOND, 2 * SECOND))
        self.edits_every = chance.choice((0, SECOND // 2, 2 * SECOND))
        self.host.dies_at_write = chance.choice((0.0, 0.0, 0.02, 0.1))
        self.host.disk_fails = chance.choice((0.0, 0.0, 0.2))
        self.reuse = chance.choice((0.0, 1.0))
        self.world.one_inode = chance.random() < 0.3
        self.roughness = chance.choice((0.0, 0.05, 0.15))  # how often something befalls a client
        self.spends = chance.choice((0.0, 0.3, 0.7))
        self.pairs = chance.choice((0.1, 0.4, 0.8))
        self.big = chance.choice((0.1, 0.5))
        self.hurry = chance.choice((0.1, 0.3, 0.7))
        self.power = chance.random() < 0.1
        self.crowd = chance.random() < 0.1
        if self.crowd:
            self.names = ["a", "b"]
            self.most_clients = 6
            self.pace = 15 * MILLISECOND
            self.edits_every = 0  # a limit that is turned off lets the whole crowd through

    # The acts

    def play(self) -> None:
        """Raises Violation."""
        try:
            self._play()
        finally:
            self.host.close()

    def _play(self) -> None:
        dies_at_write, disk_fails = self.host.dies_at_write, self.host.disk_fails
        self.host.dies_at_write = self.host.disk_fails = 0.0
        self.host.start()
        self.admin = SimClient(self.host.new_process("admin"))
        self.run(SECOND // 4)
        self._declare_all()
        self.host.dies_at_write, self.host.disk_fails = dies_at_write, disk_fails
        for _ in range(self.most_clients):
            self._new_client()
        self._later(self.kills_every, self._kill_daemon)
        self._later(self.edits_every, self._edit)
        if self.power:
            self.world.at(self.world.now + self.chance.randrange(self.span), self._lose_power)
        self.run(self.span // 2)
        self.calm()
        self.happening = True
        self._later(self.kills_every, self._kill_daemon)
        for client in self.clients:
            self._acts(client)
        self.run(self.span // 2)
        self.calm()
        self.finish()

    def run(self, span: int) -> None:
        self.world.run_until(self.world.now + span)
        self.host.life.check()

    def calm(self) -> None:
        """Nothing new happens, and who is there comes back."""
        self.world.note("calm")
        self.happening = False
        dies_at_write, disk_fails = self.host.dies_at_write, self.host.disk_fails
        self.host.dies_at_write = self.host.disk_fails = 0.0
        for process in (self.host.process, *(client.process for client in self.clients)):
            process.go_on()
        self.run(CALM)
        self.oracle.standstill()
        self.host.dies_at_write, self.host.disk_fails = dies_at_write, disk_fails

    def finish(self) -> None:
        """G5: everybody who waits and fits is served, and then nothing is left."""
        self.world.note("everybody lets go")
        self.host.dies_at_write = self.host.disk_fails = 0.0
        for end_child in self._children:
            end_child()
        rounds = 0
        while any(client.wanted() or client.held for client in self._living()):
            rounds += 1
            for client in self._living():
                if client.exec_done:
                    client.process.kill()
                for number in list(client.held):
                    client.release(number)
            self.run(SECOND)
            if rounds > ROUNDS_MAX:
                waiting = [(c.name, c.wanted()) for c in self._living() if c.wanted()]
                self.oracle.fail(f"nothing happens any more, and these wait: {waiting}")
        self.run(SECOND)
        self.oracle.standstill()

    def _living(self) -> list[AnyClient]:
        return [client for client in self.clients if client.process.alive]

    def _later(self, every: int, act: Callable[[], None]) -> None:
        if every:
            span = int(self.chance.expovariate(1.0) * every) + 1
            self.world.at(self.world.now + span, lambda: self._now(every, act))

    def _now(self, every: int, act: Callable[[], None]) -> None:
        if self.happening:
            act()
            self._later(every, act)

    # What clients do

    def _new_client(self) -> None:
        self._named += 1
        process = self.host.new_process(f"c{self._named}", self.reuse)
        client = self._client(process)
        self.clients.append(client)
        self._acts(client)

    def _client(self, process: Process) -> AnyClient:
        return SimClient(process)

    def seams(self) -> Iterator[tuple[object, str, object]]:
        """What else is to be replaced in this kind of world."""
        return iter(())

    def _acts(self, client: AnyClient) -> None:
        span = int(self.chance.expovariate(1.0) * self.pace) + 1
        client.process.after(span, lambda: self._act(client))

    def _act(self, client: AnyClient) -> None:
        if not self.happening:
            return
        self._acts(client)
        if not client.ready:
            return
        if self.world.maybe(self.roughness):
            self._befalls(client)
            return
        held, wanted = list(client.held), client.wanted()
        draw = self.chance.random()
        if self.crowd and len(wanted) < 3:  # so that nothing is ever free for long
            client.acquire(self._wish())
        elif held and draw < 0.45:
            client.release(self.chance.choice(held))
        elif wanted and draw < 0.55 and not self.crowd:
            client.give_up(self.chance.choice(wanted))
        elif len(wanted) < 4:
            client.acquire(self._wish())

    def _wish(self) -> Asked:
        chance = self.chance
        if self.crowd:  # a big request over both, and many small ones that could pass it for ever
            name = chance.choice(self.names)
            hold = {"a": 2, "b": 2} if chance.random() < 0.03 else {name: 1}
            return Asked(hold, {}, None, False)
        names = [chance.choice(self.names)]
        if len(self.names) > 1 and chance.random() < self.pairs:
            names = chance.sample(self.names, 2)
        hold = {}
        spend: dict[str, int] = {}
        for name in names:
            slots = 2 if chance.random() < self.big else 1
            (spend if chance.random() < self.spends else hold)[name] = slots
        timeout = None
        if chance.random() < self.hurry:
            timeout = chance.choice((0.0, 0.3, 2.0))
        return Asked(hold, spend, timeout, False, chance.random() < 0.1)

    def _befalls(self, client: AnyClient) -> None:
        draw = self.chance.random()
        if draw < 0.3:
            client.process.stop()
            span = self.world.span(10 * MILLISECOND, 3 * SECOND)
            self.world.at(self.world.now + span, client.process.go_on)
            return
        if draw < 0.5:
            client.exec()
            span = self.world.span(10 * MILLISECOND, 3 * SECOND)
            self.world.at(self.world.now + span, client.process.kill)
        else:
            if draw < 0.7 and (end_child := client.fork()) is not None:
                self.world.note(f"{client.name} has a child that keeps the socket")
                self._children.append(end_child)
            client.process.kill()
        self.clients.remove(client)
        self._new_client()

    # What befalls the daemon, and the host

    def _kill_daemon(self) -> None:
        draw = self.chance.random()
        life = self.host.life
        if draw < 0.7:
            life.process.kill()
            if self.world.maybe(3 * self.roughness):  # and a client, before it is back
                self._befalls(self.chance.choice(self.clients))
        elif draw < 0.85:
            self.host.stop_in_order()
        elif draw < 0.93:
            self.world.wall_ahead += self.chance.choice((-1, 1)) * 1000 * SECOND
            self.world.note("the wall clock jumps")
        else:
            life.process.stop()
            span = self.world.span(10 * MILLISECOND, 20 * SECOND)
            self.world.at(self.world.now + span, life.process.go_on)

    def _lose_power(self) -> None:
        if not self.happening:
            return
        self.host.lose_power()
        self.clients.clear()
        self._changing = False
        self.admin = SimClient(self.host.new_process("admin"))
        for _ in range(self.most_clients):
            self._new_client()

    # Settings

    def _declaration(self) -> Declared:
        chance = self.chance
        if self.crowd:
            return 2, 2.0, True
        return chance.choice((1, 1, 2, 2, 3)), chance.choice((0.5, 2.0, 10.0, 30.0)), True

    def _declare_all(self) -> None:
        """Without limits that are enforced, nothing would be shown."""
        for name in self.names:
            self._change(name, self._declaration(), create=True)
        self.run(SECOND // 4)
        if any(len(self.oracle.possible[name]) > 1 for name in self.names):
            self.oracle.fail("the limits could not be made")

    def _edit(self) -> None:
        if self._changing:
            return
        name = self.chance.choice(self.names)
        now = self.oracle.possible.get(name, [None])[-1]
        draw = self.chance.random()
        if now is None:
            self._change(name, self._declaration(), create=name not in self._exists)
        elif draw < 0.2:
            self._change(name, None)
        elif draw < 0.4:
            self._change(name, (now[0], now[1], not now[2]))
        else:
            self._change(name, (*self._declaration()[:2], now[2]))

    def _change(self, name: str, declared: Declared | None, create: bool = False) -> None:
        admin = self.admin
        assert admin is not None
        self._changing = True
        self._exists.discard(name)
        self.world.note(f"{name} shall be {declared}")
        self.oracle.change_asked(name, declared)
        connection = admin.connections

        def done(answer: Answer) -> None:
            self._changing = False
            if not isinstance(answer, AtmostError):
                self.world.note(f"{name} is {declared}")
                self.oracle.change_done(name, declared)
            else:
                self.world.note(f"{name} stays as it was: {answer.code}")
                repeated = admin.connections > connection
                self._refused(name, declared, answer, repeated)

        if declared is None:
            admin.ask(wire.DeleteLimit, name, done=done)
        else:
            kind = wire.CreateLimit if create else wire.UpdateLimit
            admin.ask(kind, name, *declared, done=done)

    def _refused(
        self, name: str, declared: Declared | None, answer: AtmostError, repeated: bool
    ) -> None:
        """If it was asked a second time, the first may have been done."""
        never_made = answer.code == "limit_not_found" and None in self.oracle.possible[name]
        if answer.code in ("limit_exists", "state_not_saved") or never_made:
            if answer.code == "limit_exists":
                self._exists.add(name)
            if not repeated:
                self.oracle.change_refused(name)
        else:
            self.oracle.fail(f"the change of {name} to {declared} is answered with {answer.code}")
