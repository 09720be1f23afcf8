"""What happens in a world: which limits, which clients, what they do, and what befalls them.

A script has three acts: a time in which everything happens; `calm`, in which nothing new happens and
every client that lives comes back, so that its end is a standstill; and the end, in which all that is
held is let go of and everybody who waits has to be served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from atmost.asked import Asked
from atmostd.bounds import Bounds
from tests.sim.client import SimClient
from tests.sim.editors import Editors
from tests.sim.host import Host
from tests.sim.oracle import Oracle
from tests.sim.rude import Rude
from tests.sim.world import MILLISECOND, SECOND, Process, World

CALM = 8 * SECOND  # longer than any pause between two tries to connect
ROUNDS_MAX = 200  # of letting go, until nobody waits any more


class AnyClient(Protocol):
    """What a script has its clients do."""

    process: Process
    exec_done: bool
    computes: bool  # and so may not notice that its connection is lost

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
        self.editors = Editors(world, self.host, self.oracle)
        self.rude: list[Rude] = []
        self.happening = True
        self._children: list[Callable[[], None]] = []
        self._named = 0
        self._owners: dict[object, Any] = {}
        self._weather()
        self._climate()

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

    def _climate(self) -> None:
        """Some worlds have what most have not. It is drawn aside, so that most are as they would be
        without."""
        climate = self.world.climate
        self.trouble_every = self.rude_pace = 0
        kind = climate.choice(("", "", "", "rude", "damage", "trouble", "editors"))
        if kind == "rude":
            self.rude_pace = climate.choice((10, 30)) * MILLISECOND
            self.world.kernel_bytes = 2000
            self.host.bounds = Bounds(
                requests_in_flight=8,
                connections_per_uid=24,
                waiters_per_connection=20,
                implicit_limits_per_uid=4,
                output_bytes=6_000,
            )
        elif kind == "damage":
            self.host.damager.probability = 0.4
            self.power = False  # two losses at once
            self.kills_every = self.kills_every or SECOND // 2
            if climate.random() < 0.5:
                self.edits_every = 0
                self.oracle.holders_come_first = True
            self.host.on_closed = self.editors.operate
        elif kind == "trouble":
            self.trouble_every = climate.choice((SECOND // 5, SECOND))
            self.kills_every = self.kills_every or SECOND // 2
        elif kind == "editors" and not self.crowd:
            self.editors.count = climate.choice((2, 3))
            self.edits_every = climate.choice((SECOND // 20, SECOND // 5))
        self.editors.names, self.editors.crowd = self.names, self.crowd

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
        self.editors.begin()
        self.run(SECOND // 4)
        self.editors.declare_all()
        self.run(SECOND // 4)
        self.editors.check_declared()
        self.host.dies_at_write, self.host.disk_fails = dies_at_write, disk_fails
        for _ in range(self.most_clients):
            self._new_client()
        self._befall()
        self._later(self.edits_every, self.editors.edit)
        if self.power:
            self.world.at(self.world.now + self.chance.randrange(self.span), self._lose_power)
        self.run(self.span // 2)
        self.calm()
        self.happening = True
        self._befall()
        for client in self.clients:
            self._acts(client)
        self.run(self.span // 2)
        self.calm()
        self.finish()

    def _befall(self) -> None:
        self._later(self.kills_every, self._kill_daemon)
        self._later(self.trouble_every, self._trouble_disk)
        if self.rude_pace:
            self._be_rude()
            self._later(SECOND // 2, self._be_rude)

    def run(self, span: int) -> None:
        self.world.run_until(self.world.now + span)
        self.host.life.check()

    def calm(self) -> None:
        """Nothing new happens, and who is there comes back."""
        self.world.note("calm")
        self.happening = False
        dies_at_write, disk_fails = self.host.dies_at_write, self.host.disk_fails
        self.host.dies_at_write = self.host.disk_fails = 0.0
        self.host.runtime_disk.heal()
        for rude in self.rude:
            rude.process.kill()
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
        uid = 1000 + self._named % 2
        process = self.host.new_process(f"c{self._named}", self.reuse, uid)
        client = self._client(process)
        self.clients.append(client)
        self._acts(client)

    def _client(self, process: Process) -> AnyClient:
        # One that does not look would not hear, where it matters, that a journal was lost.
        looks = self.host.damager.probability or self.trouble_every
        return SimClient(process, computes=not looks and self.world.climate.random() < 0.5)

    def seams(self) -> Iterator[tuple[object, str, object]]:
        """What else is to be replaced in this kind of world."""
        return iter(())

    def _acts(self, client: AnyClient) -> None:
        span = int(self.chance.expovariate(1.0) * self.pace) + 1
        client.process.after(span, lambda: self._act(client))

    def _act(self, client: AnyClient) -> None:
        if not self.happening:
            return
        if self._falls_silent(client):
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

    def _falls_silent(self, client: AnyClient) -> bool:
        """Let go of something, compute from then on, and have the daemon killed before it can read that."""
        if not (client.computes and self.kills_every and client.ready and client.held):
            return False
        if client.wanted() or self.world.climate.random() > 0.1:
            return False
        client.release(next(iter(client.held)))
        self.host.life.process.kill()
        return True

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
        if self.world.climate.random() < 0.1:
            self.host.reload()
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
        self.editors.begin()
        for _ in range(self.most_clients):
            self._new_client()

    def _trouble_disk(self) -> None:
        if self.world.maybe(0.5):
            self.host.runtime_disk.fill(self.world.span(10 * MILLISECOND, 3 * SECOND))
        else:
            self.host.runtime_disk.refuse_once()

    def _be_rude(self) -> None:
        """The one before dies with all that it has."""
        for before in self.rude:
            before.process.kill()
        self.rude = [Rude(self.world, self.host, self.names)]
        self.rude[0].live(self.rude_pace)
