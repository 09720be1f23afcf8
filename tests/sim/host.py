"""The simulated host: the daemon's lives one after another, its files, and what the kernel knows.

Rule 1: the daemon is the real one, with all its parts; only descriptors, clocks and the disk are made
up (seams.py).
Rule 2: the journal is a real file. A death of the daemon around a write leaves it without the frame,
with a part of it, or whole; what follows the write was not done.
Rule 3: of a save that was under way at a death, either the old state or the new one is found.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from atmost.exchange import Exchange
from atmost.wire import Acquire, Keep
from atmostd import __main__ as daemon_main
from atmostd import peer
from atmostd.actor import Actor
from atmostd.config import Bounds, Settings
from atmostd.journal import Journal
from atmostd.records import Record
from atmostd.registry import Asker, Registry, request_of
from atmostd.session import Session
from atmostd.snapshot import State
from atmostd.store import StoreError
from atmostd.ticket import Edit, Effect, Event, Granted, Refused, Ticket, TimedOut
from tests.sim.loop import Loop, new_loop
from tests.sim.network import End, Socket, Transport, connect
from tests.sim.world import MICROSECOND, MILLISECOND, SECOND, Process, Violation, World

FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Peer(peer.Peer):
    """The real one, told by the simulated kernel."""

    def __init__(self, process: Process, loop: Loop) -> None:
        self.pid = process.pid
        self.uid = 0
        self.started = process.started
        self.inode = process.inode
        self.process = process
        self.pidfd = loop.open(self)
        # Whether its death is seen before the end of its connection, or after, is chance.
        process.on_death.append(
            lambda: process.world.at(
                process.world.now + process.world.span(MICROSECOND, MILLISECOND), self._tell
            )
        )
        self._loop = loop

    def _tell(self) -> None:
        self._loop.look(self.pidfd)

    def is_ending(self) -> bool:
        return not self.process.alive

    def readable(self) -> bool:
        return not self.process.alive

    def close(self) -> None: ...


class Admins:
    """All clients are of one user, who may change limits."""

    def __init__(self, gid: int | None) -> None: ...

    def include(self, connection: Socket) -> bool:
        return True


class Timer:
    """The daemon's timerfd."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        self._loop = loop
        self._rang = False
        self._armed = 0
        self.fd = loop.open(self)

    def set(self, instant: int) -> None:
        self._armed += 1
        armed, world = self._armed, self._loop.world
        late = world.span(MICROSECOND, 300 * MICROSECOND)
        world.at(max(instant, world.now) + late, lambda: self._ring(armed))

    def _ring(self, armed: int) -> None:
        if armed == self._armed:
            self._rang = True
            self._loop.look(self.fd)

    def readable(self) -> bool:
        return self._rang

    def clear(self) -> None:
        self._rang = False

    def close(self) -> None:
        self._armed += 1


class Store:
    """The state folder."""

    path = Path("/state")

    def __init__(self, life: Life) -> None:
        self._life = life
        self.token_mark = life.host.token_mark

    async def set_token_mark(self, mark: int) -> None:
        life, world = self._life, self._life.host.world
        if world.maybe(0.5):
            raise OSError(30, "Read-only file system")
        await life.sleep(world.span(MICROSECOND, MILLISECOND))
        if life.process.alive:
            life.host.token_mark = mark

    async def save(self, state: State) -> None:
        life, world = self._life, self._life.host.world
        if world.maybe(life.host.disk_fails):
            await life.sleep(world.span(MICROSECOND, MILLISECOND))
            raise OSError(28, "No space left on device")
        life.saving = state
        await life.sleep(world.span(100 * MICROSECOND, 5 * MILLISECOND))
        if life.process.alive:
            life.host.durable = state
            life.saving = None
            await life.sleep(world.span(MICROSECOND, MILLISECOND))


class SimJournal(Journal):
    """The journal, and deaths around its writes."""

    life: Life

    def begin(
        self, checkpoint: Callable[[], Iterable[Record]], end_turn: Callable[[], None]
    ) -> None:
        super().begin(checkpoint, end_turn)
        self.life.host.world.oracle.commit()

    def write(self) -> None:
        life = self.life
        world = life.host.world
        if not life.process.alive:
            self._noted.clear()
            return
        if self._file < 0:  # what is decided before it has begun is in its first checkpoint
            super().write()
            return
        fault = ""
        if self._noted and world.maybe(life.host.dies_at_write):
            fault = world.chance.choice(("before", "torn", "after"))
        if fault == "before":
            world.note("daemon dies before the write")
            life.process.kill()
            return
        file, size = self._file, self._bytes
        super().write()
        if fault == "torn" and self._file == file and self._bytes > size:
            kept = world.chance.randrange(size, self._bytes)
            os.truncate(self.path, kept)
            world.note(f"daemon dies in the write, {kept - size} of {self._bytes - size} bytes")
            life.process.kill()
            return
        world.oracle.commit()
        if fault:
            world.note("daemon dies after the write")
            life.process.kill()


class SpyRegistry(Registry):
    """The real one, and the oracle hears what is decided."""

    world: World

    def acquire(self, asker: Asker, asked: Acquire, inside: tuple[Ticket, ...]) -> Ticket:
        ticket = super().acquire(asker, asked, inside)
        assert isinstance(asker, Session)
        self.world.oracle.arrived((asker.began.session, asked.request), asked)
        return ticket

    def readmit(self, asker: Asker, keep: Keep) -> Ticket:
        self.world.note(f"daemon does not know what {asker.pid} keeps as {keep.request}")
        return super().readmit(asker, keep)

    def forget(self, name: str) -> None:
        super().forget(name)
        if not self.world.host.replaying:
            self.world.oracle.deleted(name, self.next_token)

    def deliver(self, effect: Effect) -> None:
        super().deliver(effect)
        if not isinstance(effect, Granted | Refused | TimedOut):
            return
        request = request_of(effect.ticket)
        if not isinstance(request.asker, Session) or not self.world.host.process.alive:
            return
        key = request.asker.began.session, request.number
        if not isinstance(effect, Granted):
            self.world.oracle.ended(key)
        elif not request.kept:
            self.world.oracle.decided(key, request.token, effect.ticket)

    def _note(self, actor: Actor, event: Event, now: int) -> None:
        super()._note(actor, event, now)
        if isinstance(event, Edit) and self.actors.get(actor.limit.name) is actor:
            self.world.oracle.edited(actor.limit)


class InOrder(dict[Any, None]):
    """A set whose order is that of its making, not that of addresses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class Life:
    """One life of the daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process = Process(host.world, "daemon", host.world.new_pid())
        self.loop = new_loop(self.process)
        self.saving: State | None = None
        self.daemon: daemon_main.Daemon | None = None
        self.listens: Callable[[], Any] | None = None
        self._journal = SimJournal(host.folder, host.boot_id)
        self._journal.life = self
        self.process.on_death.append(self._died)
        self._main = self.loop.start(self._run(), "main")

    async def _run(self) -> None:
        host = self.host
        await self.sleep(host.world.span(100 * MICROSECOND, 50 * MILLISECOND))
        recorded = self._journal.open()
        settings = Settings(Path("/s"), Path("/state"), host.folder, 0o600, Bounds(), None)
        store: Any = Store(self)
        self.daemon = daemon_main.Daemon(settings, store, self._journal)
        connections: Any = InOrder()
        self.daemon.connections = connections
        file: Any = None
        try:
            await self.daemon.run(file, host.durable, recorded, lost=False)
            host.world.note("daemon has stopped in order")
            host.world.oracle.commit()
        except StoreError as error:  # before the journal has begun: nobody was told anything
            host.world.note(f"daemon cannot start: {error}")
        self.process.kill()

    async def sleep(self, nanoseconds: int) -> None:
        done = self.loop.create_future()
        self.process.after(nanoseconds, lambda: None if done.done() else done.set_result(None))
        await done

    def _died(self) -> None:
        self._journal.close()
        if self.saving is not None and self.host.world.maybe(0.5):
            self.host.durable = self.saving
        self.host.world.oracle.drop()
        self.host.life_ended(self)

    def check(self) -> None:
        """Nothing may have gone wrong inside."""
        if self._main.done() and not self._main.cancelled() and self._main.exception():
            error = self._main.exception()
            raise Violation(f"the daemon ended by an error: {error!r}") from error
        if self.loop.errors:
            context = self.loop.errors[0]
            raise Violation(f"an error in the daemon: {context}") from context.get("exception")


def _nobody_settles(exchange: Exchange) -> None:
    raise AssertionError("a client ended while the daemon was away, and none of this world does")


class Server:
    """What listens."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def close(self) -> None:
        self._life.listens = None


class Host:
    """The machine."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.host = self
        self.folder = Path(tempfile.mkdtemp(prefix="atmost-sim-", dir=FOLDER))
        self.durable: State | None = None
        self.token_mark = 0  # durable, too
        self.boot = 1
        self.dies_at_write = 0.0
        self.disk_fails = 0.0
        self.restarts = True
        self.lives = 0
        self.replaying = False
        self.settle: Callable[[Exchange], None] = _nobody_settles
        self.by_pid: dict[int, Process] = {}
        self._life: Life | None = None

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    @property
    def process(self) -> Process:
        return self.life.process

    @property
    def life(self) -> Life:
        assert self._life is not None
        return self._life

    @property
    def daemon(self) -> daemon_main.Daemon | None:
        """The daemon that serves now."""
        life = self._life
        if life is None or life.listens is None or not life.process.alive:
            return None
        return life.daemon

    def new_process(self, name: str, reuse: float = 0.0) -> Process:
        """A client's process; its pid may be that of one that has died."""
        process = Process(self.world, name, self.world.new_pid())
        dead = [pid for pid, other in self.by_pid.items() if not other.alive]
        if dead and self.world.maybe(reuse):
            process.pid = self.world.chance.choice(dead)
        self.by_pid[process.pid] = process
        return process

    def start(self) -> None:
        """A life begins."""
        self.lives += 1
        self.world.note(f"daemon starts, life {self.lives}")
        self._life = Life(self)

    def life_ended(self, life: Life) -> None:
        if self.restarts:
            self.world.at(
                self.world.now + self.world.span(MILLISECOND, SECOND // 2), self._start_again
            )

    def _start_again(self) -> None:
        if self.restarts and not self.process.alive:
            self.start()

    def stop_in_order(self) -> None:
        """SIGTERM."""
        daemon = self.daemon
        if daemon is not None:
            self.world.note("daemon is told to stop")
            life = self.life
            life.process.after(1, lambda: life.loop.run(daemon._stop))

    def lose_power(self) -> None:
        """Every process ends, and only what was durable is left."""
        self.world.note("the host loses its power")
        self.restarts = False
        for process in list(self.by_pid.values()):
            process.kill()
        self.process.kill()
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.boot += 1
        self.restarts = True
        self.world.oracle.power_lost()
        self.world.at(self.world.now + SECOND, self._start_again)

    def close(self) -> None:
        self.restarts = False
        if self._life is not None:
            self._life.process.kill()
        for process in self.by_pid.values():
            process.kill()
        for loop in self.world.loops:
            loop.bury()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What the daemon asks

    async def serve(self, _: object, protocol: Callable[[], asyncio.Protocol]) -> Server:
        life = self.life
        life.listens = protocol
        self.world.note("daemon listens")
        self.world.oracle.recovered()
        return Server(life)

    # As the server, and as Processes

    def at(self, connection: Socket) -> Peer:
        assert connection.end is not None
        process = connection.end.other.process
        if not process.alive:
            raise ProcessLookupError
        return Peer(process, self.life.loop)

    def again(self, pid: int, uid: int, started: int, inode: int) -> Peer | None:
        process = self.by_pid.get(pid)
        if process is None or not process.alive:
            return None
        found = Peer(process, self.life.loop)
        return found if found.was(started, inode) else None

    def crash(self, code: int) -> None:
        """os._exit: a broken invariant."""
        if self.process.alive:
            self.world.fail(f"the daemon ends itself with {code}")

    # What a client asks

    def accept(self, client: Process) -> End:
        """Connect. Raises OSError."""
        life = self._life
        if life is None or life.listens is None or not life.process.alive:
            refused = ConnectionRefusedError(111, "Connection refused")
            raise self.world.chance.choice((refused, FileNotFoundError(2, "No such file")))
        ours, theirs = connect(client, life.process)
        protocol = life.listens

        def accept() -> None:
            Transport(life.loop, theirs, protocol())

        handle = asyncio.Handle(accept, (), life.loop)
        life.loop.happens(theirs, handle)
        return ours
