"""The daemon as a command: arguments -> files, registry, server -> run until told to stop.

Exit codes: 0 stopped as told; 1 could not start (the last line says why); 2 wrong arguments;
70 a broken invariant (EX_SOFTWARE): what it knew in memory could not be trusted any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import sys
from pathlib import Path

import uvloop

from atmost import paths
from atmost.wire import DaemonStatistics, DaemonStatus
from atmostd import config, log, recovery
from atmostd.clock import NANOSECONDS, Alarm, boot_time
from atmostd.closed import Closed
from atmostd.config import Settings
from atmostd.configuration import Configuration
from atmostd.connection import Connection
from atmostd.damage import Damage, Untrusted
from atmostd.door import Door
from atmostd.journal import Journal, JournalError
from atmostd.peer import Admins, Processes
from atmostd.records import AnyRecord
from atmostd.refusals import Refusals
from atmostd.registry import Registry
from atmostd.reporting import LoopDelay
from atmostd.server import SocketError, SocketFile, serve
from atmostd.session import Sessions
from atmostd.snapshot import State
from atmostd.store import Store, StoreError
from atmostd.tokens import Tokens
from atmostd.turn import Turn

KERNEL_MIN = (5, 3)  # the first with pidfd_open(2)
EXIT_CANNOT_START = 1
EXIT_BROKEN = 70

_log = logging.getLogger("atmostd")


class Daemon:
    """All parts of one daemon, put together."""

    def __init__(self, settings: Settings, store: Store, journal: Journal) -> None:
        self.clock = boot_time
        self.bounds = settings.bounds.within(_descriptors())
        self.refusals = Refusals(self.bounds, self.clock)
        self.admins = Admins(settings.admin_gid)
        self.door = Door(self.bounds, self.refusals)
        self.turn = Turn(journal.write, self.clock, self._crash)
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()  # they may still read why
        self.processes = Processes()
        self._settings = settings
        self._journal = journal
        self._boot_id = _boot_id()
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(self.clock, lambda limit, due: self.registry.ring(limit, due))
        self.registry = Registry(
            self.clock,
            self.turn,
            journal,
            self._alarm.set,
            self._crash,
            self.bounds,
            self.refusals,
        )
        self.sessions = Sessions(
            self.registry, self.processes, self.clock, journal, self.bounds, self.refusals
        )
        self._tokens = Tokens(self.registry, settings.runtime_dir, self._boot_id)
        self.configuration = Configuration(
            self.registry, store, self._tokens, self.turn, self.clock, self._boot_id
        )
        self._started_at = self.clock()
        self._loop_delay = LoopDelay(self.clock)

    async def run(
        self,
        socket_file: SocketFile,
        saved: State | None,
        recorded: list[AnyRecord] | None,
        lost: bool,
    ) -> None:
        """Serve until told to stop. Raises StoreError at the very start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        recovery.replay(recorded or (), self.registry, self.sessions)
        self.registry.starts += 1
        if recorded is not None and self._journal.is_behind:
            _log.warning(
                "the journal in %s could not be kept to the end: who held since is known only from "
                "those who come back",
                self._settings.runtime_dir,
            )
            recovery.forget_waiters(self.sessions)
            self.sessions.let_holders_come_first()
        self.configuration.restore(saved, lost)
        if recorded is None and saved is not None and saved.boot_id == self._boot_id:
            _log.warning(
                "there is no journal in %s, but a daemon ran here since the host started: who held "
                "is known only from those who come back",
                self._settings.runtime_dir,
            )
            self.sessions.let_holders_come_first()
        await self.turn.over()  # the limits are as they were saved; only then save them again
        await self._save_first(trusted=saved is not None and not lost)
        self._journal.begin(
            lambda: recovery.checkpoint(self.registry, self.sessions), self.turn.end_soon
        )
        recovery.go_on(self.registry)
        server = await serve(socket_file, lambda: Connection(self))
        configuring = loop.create_task(self.configuration.run())
        configuring.add_done_callback(self._configuration_ended)
        if self.bounds != self._settings.bounds:
            _log.info(
                "at most %d connections, not %d: there are only %d file descriptors; raise "
                "LimitNOFILE= of the service, or ulimit -n",
                self.bounds.connections,
                self._settings.bounds.connections,
                _descriptors(),
            )
        _log.info(
            "atmostd %s (pid %d) listens on %s; state in %s, %d limits; %d clients from before",
            paths.version(),
            os.getpid(),
            self._settings.socket,
            self._settings.state_dir,
            len(self.registry.actors),
            len(self.sessions),
        )
        await self._stopping
        server.close()
        await self._hear_out()
        self.configuration.stop()
        await configuring
        await self._stop_in_order()
        self._loop_delay.stop()
        self._alarm.close()
        self._journal.close()

    def status(self, request: int) -> DaemonStatus:
        """What the daemon says of itself."""
        limits = [actor.limit for actor in self.registry.actors.values()]
        return DaemonStatus(
            request=request,
            version=paths.version(),
            pid=os.getpid(),
            uptime_seconds=(self.clock() - self._started_at) / NANOSECONDS,
            socket=str(self._settings.socket),
            state_dir=str(self._settings.state_dir),
            runtime_dir=str(self._settings.runtime_dir),
            limits=len(limits),
            sessions=len(self.sessions),
            held=len({number for limit in limits for number in limit.holders}),
            waiting=len({ticket.number for limit in limits for ticket in limit.line}),
            trouble="; ".join(filter(None, (self.configuration.trouble, self._journal.trouble))),
        )

    def statistics(self) -> DaemonStatistics:
        """What is counted of the daemon itself."""
        now = self.clock()
        worst, mean = self._loop_delay.seconds()
        return DaemonStatistics(
            uptime_seconds=(now - self._started_at) / NANOSECONDS,
            starts=self.registry.starts,
            connections=len(self.connections),
            sessions=len(self.sessions),
            watchers=len(self.registry.events),
            events_missed=self.registry.events.missed,
            loop_delay_seconds_max=worst,
            loop_delay_seconds_mean=mean,
            journal_bytes=self._journal.size,
            journal_records=self._journal.records_written,
            journal_replacements=self._journal.replacements,
            state_age_seconds=(now - self.configuration.saved_at) / NANOSECONDS,
            state_saves=self.configuration.saves,
        )

    async def _save_first(self, trusted: bool) -> None:
        """Set fencing tokens aside before the first is given, and see that the folder can be written. If
        it can't, go on without that, unless it is a first start: whoever starts us then is better
        told now than at the first change."""
        try:
            await self.configuration.save()
        except OSError as error:
            if trusted and self.configuration.can_go_on_unsaved():
                _log.error(
                    "limits are enforced as they were saved, and can't be changed until that is mended"
                )
                return
            why = "; which fencing tokens were given is known from there alone" if trusted else ""
            raise StoreError(
                f"cannot write to the state folder {self._settings.state_dir}: "
                f"{error.strerror or error}{why}; mend that, or name another with --state-dir"
            ) from error

    async def _hear_out(self) -> None:
        """Act on what the clients have sent. A release that came too late they know not to be taken."""
        for connection in self.connections:
            connection.finish_reading()
        waits = [c.read_all for c in self.connections if c.read_all is not None]
        if waits:
            await asyncio.wait(waits, timeout=config.STOP_SECONDS)

    async def _stop_in_order(self) -> None:
        """Who asked is answered; who holds or waits will find it so at the next daemon."""
        await self.turn.over()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(config.STOP_SECONDS):
                while any(connection.asks for connection in self.connections):
                    await self.turn.over()
        for connection in list(self.connections):
            connection.close()
        self.registry.stop()
        with contextlib.suppress(OSError):  # it has been logged
            await self.configuration.save()
        self._tokens.stop()

    def _stop(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)

    def _crash(self, error: BaseException) -> None:
        """Nothing that is in memory can be trusted any more, so nothing of it is said or saved: the
        journal has all that anybody was told."""
        _log.critical("a broken invariant; the daemon ends", exc_info=error)
        os._exit(EXIT_BROKEN)

    def _configuration_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash(error)


class Kept:
    """What the last daemon has left, and what of it cannot be trusted."""

    def __init__(self, store: Store, journal: Journal) -> None:
        self.saved: State | None = None
        self.recorded: list[AnyRecord] | None = None
        self.damages: list[Damage] = []  # until the loss is accepted
        self.lost = False  # `saved` is not what was saved last
        self._store = store
        self._journal = journal
        self._journal_damaged = False

    def open(self) -> None:
        """Take both folders and read them. Raises StoreError or JournalError if that can't be."""
        try:
            self.saved = self._store.open()
        except Untrusted as untrusted:
            self.damages.append(untrusted.damage)
            self.lost = True
        try:
            self.recorded = self._journal.open()
        except Untrusted as untrusted:
            self.damages.append(untrusted.damage)
            self._journal_damaged = True

    def accept_loss(self) -> list[str]:
        """Go on with what is left. Returns what was done, in words. Raises OSError."""
        aside: list[Path] = []
        if self.lost:
            self.saved, aside = self._store.accept_loss()
            if self.recorded is not None:
                self.saved = None  # of this run of the host, the journal has every limit
        if self._journal_damaged:
            aside += self._journal.accept_loss()
        return [str(damage) for damage in self.damages] + [f"kept as {path}" for path in aside]


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon in the foreground. Returns its exit code."""
    settings = Settings.from_arguments(arguments)
    if not kernel_will_do(os.uname().release):
        print(
            f"atmostd: Linux {os.uname().release} cannot say when a process dies: "
            f"it takes {KERNEL_MIN[0]}.{KERNEL_MIN[1]} or later",
            file=sys.stderr,
        )
        return EXIT_CANNOT_START
    log.begin()
    _allow_many_descriptors()
    store = Store(settings.state_dir)
    journal = Journal(settings.runtime_dir, _boot_id())
    try:
        socket_file = SocketFile(settings.socket, settings.socket_mode)
        try:
            kept = Kept(store, journal)
            kept.open()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_run(settings, store, journal, socket_file, kept))
            return 0
        finally:
            socket_file.close()
            store.close()
    except (SocketError, StoreError, JournalError) as error:
        print(f"atmostd: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


async def _run(
    settings: Settings, store: Store, journal: Journal, socket_file: SocketFile, kept: Kept
) -> None:
    if kept.damages:
        accepted = await Closed(settings, kept.damages, kept.accept_loss).run(socket_file)
        if not accepted:
            return
    daemon = Daemon(settings, store, journal)
    await daemon.run(socket_file, kept.saved, kept.recorded, kept.lost)


def kernel_will_do(release: str) -> bool:
    """Whether a kernel of this release, such as 6.1.0-13-amd64, has what the daemon needs."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is None or (int(found[1]), int(found[2])) >= KERNEL_MIN


def _allow_many_descriptors() -> None:
    """Each client takes two: its connection and its pidfd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptors() -> int:
    """How many this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


if __name__ == "__main__":
    sys.exit(main())
