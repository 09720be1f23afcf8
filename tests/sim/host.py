"""The simulated host: the daemon's lives one after another, its files, and what the kernel knows.

Rule 1: the daemon is the real one, with all its parts, from the reading of its files on; only
descriptors, clocks and the disk are made up (seams.py, disk.py).
Rule 2: who is closed.py, though nothing was damaged, or is not, though something was, is found out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atmost.exchange import Exchange
from atmost.wire import Loss, Recover
from atmostd import __main__ as daemon_main
from atmostd import background, peer, systemd
from atmostd.bounds import Bounds
from atmostd.closed import Closed
from atmostd.settings import Settings
from atmostd.store import StoreError
from tests.sim.disk import Damager, RuntimeDisk, SimJournal, SimStore
from tests.sim.loop import Loop, new_loop
from tests.sim.network import End, Socket, Transport, connect
from tests.sim.world import MICROSECOND, MILLISECOND, SECOND, Process, Violation, World

FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Peer(peer.Peer):
    """The real one, told by the simulated kernel."""

    def __init__(self, process: Process, loop: Loop) -> None:
        self.pid = process.pid
        self.uid = process.uid
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
    """Root may change limits, and nobody else."""

    def __init__(self, gid: int | None) -> None: ...

    def include(self, connection: Socket) -> bool:
        return credentials(connection)[1] == 0


def credentials(connection: Socket) -> tuple[int, int, int]:
    """Of the process at the other end."""
    assert connection.end is not None
    process = connection.end.other.process
    return process.pid, process.uid, process.uid


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


class InOrder(dict[Any, None]):
    """A set whose order is that of its making, not that of addresses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class SimDaemon(daemon_main.Daemon):
    """The real one, and its host knows it."""

    life: Life

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        connections: Any = InOrder()
        self.connections = connections
        self.life.daemon = self


class SimClosed(Closed):
    """The real one; who is cut off first does not depend on addresses."""

    host: Host

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        connections: Any = InOrder()
        self.connections = connections

    def recover(self, message: Recover, uid: int, is_admin: bool) -> Loss:
        loss = super().recover(message, uid, is_admin)
        if message.accept_loss and uid == 0:
            self.host.damager.accepted()
        return loss


class Life:
    """One life of the daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process = Process(host.world, "daemon", host.world.new_pid())
        self.loop = new_loop(self.process)
        self.saves: Callable[[], None] | None = None  # a save is under way
        self.daemon: daemon_main.Daemon | None = None
        self.listens: Callable[[], Any] | None = None
        self.stops = False  # it was told to
        self._store = SimStore(self)
        self.journal = SimJournal(self)
        self.process.on_death.append(self._died)
        self._main = self.loop.start(self._run(), "main")

    async def _run(self) -> None:
        host = self.host
        await self.sleep(host.world.span(100 * MICROSECOND, 50 * MILLISECOND))
        settings = Settings(Path("/s"), Path("/state"), host.run_folder, 0o600, host.bounds, None)
        SimDaemon.life, SimClosed.host = self, host
        file: Any = None
        try:
            kept = daemon_main.Kept(self._store, self.journal)
            kept.open()
            starter = background.Starter(None)
            await daemon_main._run(
                settings, self._store, self.journal, file, systemd.NOBODY, kept, starter
            )
            host.world.note("daemon has stopped in order")
            if self.daemon is not None:
                host.world.oracle.commit()
        except StoreError as error:  # before the journal has begun: nobody was told anything
            host.world.note(f"daemon cannot start: {error}")
        self.process.kill()

    async def sleep(self, nanoseconds: int) -> None:
        done = self.loop.create_future()
        self.process.after(nanoseconds, lambda: None if done.done() else done.set_result(None))
        await done

    def _died(self) -> None:
        self.journal.close()
        if self.saves is not None and self.host.world.maybe(0.5):
            self.saves()
        self.host.world.oracle.drop()
        if self.journal.out_of_date:
            self.host.world.note("what the journal has is out of date")
            self.host.world.oracle.journal_lost()
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
        self.run_folder = self.folder / "run"
        self.run_folder.mkdir()
        self.state_folder = self.folder / "state"
        self.shared_folder = self.folder / "shm"  # where everybody may write
        self.shared_folder.mkdir()
        self.shared_folder.chmod(0o1777)
        self.boot = 1
        self.bounds = Bounds()
        self.damager = Damager(self)
        self.runtime_disk = RuntimeDisk(world)
        self.on_closed: Callable[[], None] = lambda: None
        self.closed = False  # the daemon is there, and grants nothing
        self.was_closed = False  # once
        self.dies_at_write = 0.0
        self.disk_fails = 0.0
        self.restarts = True
        self.lives = 0
        self.replaying = False
        self.settle: Callable[[Exchange], None] = _nobody_settles
        self.by_pid: dict[int, Process] = {}
        self._life: Life | None = None
        self._passed: set[int] = set()  # descriptors that nobody has taken yet

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

    def new_process(self, name: str, reuse: float = 0.0, uid: int = 0) -> Process:
        """A client's process; its pid may be that of one that has died."""
        process = Process(self.world, name, self.world.new_pid(), uid)
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
            self.damager.strikes()
            self.world.at(
                self.world.now + self.world.span(MILLISECOND, SECOND // 2), self._start_again
            )

    def _start_again(self) -> None:
        if self.restarts and not self.process.alive:
            self.start()

    def stop_in_order(self) -> None:
        """SIGTERM."""
        life = self.life
        if life.listens is not None and life.process.alive:
            self.world.note("daemon is told to stop")
            life.stops = True
            life.process.after(1, lambda: life.loop.run(life.loop.on_signal[signal.SIGTERM]))

    def reload(self) -> None:
        """SIGHUP, by which it finds nothing new."""
        life = self.life
        if self.daemon is not None and signal.SIGHUP in life.loop.on_signal:
            self.world.note("daemon is told to read its configuration again")
            life.process.after(1, lambda: life.loop.run(life.loop.on_signal[signal.SIGHUP]))

    def lose_power(self) -> None:
        """Every process ends, and only what was durable is left."""
        self.world.note("the host loses its power")
        self.restarts = False
        for process in list(self.by_pid.values()):
            process.kill()
        self.process.kill()
        for folder in (self.run_folder, *self.shared_folder.iterdir()):
            shutil.rmtree(folder)
        self.run_folder.mkdir()
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
        for descriptor in self._passed:
            os.close(descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)

    # What the daemon asks

    async def serve(
        self, _: object, protocol: Callable[[], asyncio.Protocol], for_now: bool = False
    ) -> Server:
        life = self.life
        life.listens = protocol
        self.closed = for_now
        self.world.note("daemon grants nothing" if for_now else "daemon listens")
        self.damager.judge(for_now)
        if for_now:
            self.was_closed = True
            self.on_closed()
        else:
            self.world.oracle.recovered(life.journal.was_gone)
        return Server(life)

    def serving(self) -> Callable[[], bool]:
        """Whether this daemon, that serves now, has no reason to end a connection still."""
        life, closed = self.life, self.closed
        return lambda: life.process.alive and not life.stops and not closed

    def may_refuse(self, code: str) -> bool:
        return code == "state_unavailable" and self.was_closed

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

    # Descriptors that go from one process to another

    def pass_on(self, descriptor: int) -> int:
        """Its copy, on the way."""
        copy = os.dup(descriptor)
        self._passed.add(copy)
        return copy

    def take(self, descriptor: int) -> int:
        """It has come; who takes it closes it."""
        self._passed.remove(descriptor)
        return descriptor

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
