"""The daemon as a command: arguments -> files, registry, server -> run until told to stop.

Exit codes: 0 stopped as told; 1 could not start (the last line says why); 2 wrong arguments;
70 a broken invariant (EX_SOFTWARE): what it knew in memory could not be trusted any more;
78 a wrong configuration file (EX_CONFIG): every mistake is on stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import uvloop

from atmost import paths
from atmost.wire import DaemonStatistics, DaemonStatus
from atmostd import background, config, log, recovery, systemd
from atmostd.bounds import Bounds
from atmostd.clock import NANOSECONDS, Alarm, boot_time
from atmostd.closed import Closed
from atmostd.configuration import Configuration
from atmostd.connection import Connection
from atmostd.damage import Damage, Untrusted
from atmostd.declared import Word
from atmostd.door import Door
from atmostd.garbage import collected_later, look_seldom
from atmostd.idle import Idle
from atmostd.journal import Journal, JournalError
from atmostd.keeping import Keeping
from atmostd.peer import Admins, Processes, can_tell_processes_apart
from atmostd.records import AnyRecord
from atmostd.refusals import Refusals
from atmostd.registry import Registry
from atmostd.reloading import Reloading
from atmostd.reporting import LoopDelay
from atmostd.server import (
    GivenSocket,
    ListeningSocket,
    SocketError,
    SocketFile,
    SocketTaken,
    serve,
)
from atmostd.session import Sessions
from atmostd.settings import Settings
from atmostd.slates import Slates
from atmostd.snapshot import State
from atmostd.store import Store, StoreError
from atmostd.systemd import Manager, NotUsable
from atmostd.tokens import Tokens
from atmostd.turn import Turn
from atmostd.watch import Inside, Watch, status_line

KERNEL_MIN = (5, 3)  # the first with pidfd_open(2)
EXIT_CANNOT_START = 1
EXIT_BROKEN = 70
BOOT_ID = "ATMOST_BOOT_ID"  # in the environment, as systemd's %b has it

_log = logging.getLogger("atmostd")


class Daemon:
    """All parts of one daemon, put together."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        journal: Journal,
    ) -> None:
        self.clock = boot_time
        self.bounds = self.bounds_within(settings.bounds)
        self.refusals = Refusals(self.bounds, self.clock)
        self.admins = Admins(settings.admin_gid)
        self.door = Door(self.bounds, self.refusals)
        self.turn = Turn(self._write_journal, self.clock, self._crash)
        self.connections: set[Connection] = set()
        self.refused: set[Connection] = set()  # they may still read why
        self.processes = Processes()
        self.own_pid = os.getpid()
        self._settings = settings
        self._journal = journal
        self._boot_id = _boot_id()
        self._leaving = False  # because nobody is there, and not because somebody said so
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
            self.registry,
            self.processes,
            self.clock,
            journal,
            self.bounds,
            self.refusals,
            Slates(settings.runtime_dir),
        )
        self.sessions.slates.on_over = self.turn.end_soon
        self._tokens = Tokens(self.registry, settings.runtime_dir, self._boot_id)
        self.keeping = Keeping(
            self.registry, store, self._tokens, self.turn, self.clock, self._boot_id
        )
        self.configuration = Configuration(self.registry, self.keeping, self.turn, self.clock)
        self._reloading = Reloading(settings, self)
        self.configuration.read_file = self._reloading.read
        self.configuration.on_read = self._reloading.take_over
        self.idle = Idle(settings.idle_seconds, self._is_needed, self._leave)
        self.door.first_comes = self.idle.somebody_is_there
        self.door.last_leaves = self.idle.nobody_is_there
        self._started_at = self.clock()
        self._lost = ""  # what this daemon has not found, and nobody has accepted that
        self._loop_delay = LoopDelay(self.clock)

    async def run(
        self,
        socket_file: ListeningSocket,
        kept: Kept,
        started_by: Manager = systemd.NOBODY,
        listens: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until told to stop; `listens` is called when it does. Raises StoreError at the very
        start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self.configuration.reload)
        saved, recorded = kept.saved, kept.recorded
        with collected_later():
            recovery.replay(recorded or (), self.registry, self.sessions)
        self.registry.starts += 1
        if recorded is not None and self._journal.is_behind:
            _log.warning(
                "the journal in %s could not be kept to the end: who held since is known only from "
                "those who come back",
                self._settings.runtime_dir,
            )
            recovery.forget_waiters(self.sessions)
            self._let_holders_come_first()
        self.keeping.restore(saved)
        if recorded is None and kept.may_be_held(self._boot_id):
            self._tell_lost_journal(kept.accepted)
            self._let_holders_come_first()
        await self.turn.over()  # the limits are as they were saved; only then save them again
        if self._settings.config_path is not None:
            word = Word.of(self._settings.limits, self._settings.templates)
            await self.configuration.say_at_start(word)
        await self._save_first(trusted=saved is not None or recorded is not None)
        self._journal.begin(
            lambda: recovery.checkpoint(self.registry, self.sessions), self.turn.end_soon
        )
        recovery.go_on(self.registry)
        server = await self._serve(socket_file)
        inside = Inside(self.turn, self._journal, self.clock, self._crash)
        watch = Watch(started_by, self._settings.socket, self._status_line, inside)
        watch.start()
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
        if not can_tell_processes_apart():
            _log.warning(
                "a process that got the pid of one that died while no daemon ran can't be told from it: "
                "this kernel is older than 6.9, and /proc shows nothing of other users' processes; in "
                "the service, set ProtectProc=default"
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
        listens()
        self.idle.nobody_is_there()
        await self._stopping
        watch.stop()
        started_by.notifier.tell("STOPPING=1", "STATUS=it stops; who holds slots keeps them")
        server.close()
        while await self._somebody_came():
            self._stopping = loop.create_future()
            server = await self._serve(socket_file)
            await self._stopping
            server.close()
        if self.idle.seconds:
            self.idle.seconds = 0
            socket_file.stop_listening()
        await self._hear_out()
        self.configuration.stop()
        await configuring
        await self._stop_in_order()
        self._loop_delay.stop()
        self._alarm.close()
        self.sessions.slates.close()
        self._journal.close()

    def bounds_within(self, bounds: Bounds) -> Bounds:
        """These, as far as there are descriptors for them."""
        return bounds.within(_descriptors())

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
            waiting=sum(limit.waiting_at_home() for limit in limits),
            trouble="; ".join(
                filter(
                    None,
                    (
                        self.keeping.trouble,
                        self._journal.trouble,
                        self._lost,
                        self._reloading.trouble,
                    ),
                )
            ),
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
            state_age_seconds=(now - self.keeping.saved_at) / NANOSECONDS,
            state_saves=self.keeping.saves,
        )

    def _status_line(self) -> str:
        now = self.status(0)
        return status_line(now.limits, now.held, now.waiting, now.trouble)

    def _let_holders_come_first(self) -> None:
        """If we die meanwhile, the next daemon has to do the same."""
        self._journal.hear_holders()
        self.sessions.let_holders_come_first(self._journal.holders_are_heard)

    def _tell_lost_journal(self, accepted: bool) -> None:
        """Nobody can mend that, so somebody should know."""
        lost = (
            f"there was no journal in {self._settings.runtime_dir} as this daemon started, though "
            "another has run since the host did: whoever held then, and has not come back within "
            f"{config.RECLAIM_SECONDS} s, may hold still without being counted"
        )
        _log.warning("%s", lost)
        if not accepted:
            self._lost = f"{lost} (this is said until the next start)"

    async def _save_first(self, trusted: bool) -> None:
        """Set fencing tokens aside before the first is given, and see that the folder can be written. If
        it can't, go on without that, unless it is a first start: whoever starts us then is better
        told now than at the first change."""
        try:
            await self.keeping.save()
        except OSError as error:
            if trusted and self.keeping.can_go_on_unsaved():
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

    def _write_journal(self) -> None:
        self._journal.write()
        slates = self.sessions.slates
        if slates.over and self._journal.is_kept:
            slates.clear_up()

    async def _stop_in_order(self) -> None:
        """Who asked is answered; who holds or waits will find it so at the next daemon."""
        self.sessions.endings.finish()
        await self.turn.over()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(config.STOP_SECONDS):
                while any(connection.asks for connection in self.connections):
                    await self.turn.over()
        for connection in list(self.connections):
            connection.close()
        self.registry.stop()
        self.turn.stop()
        self.keeping.nobody_holds = not self._journal.is_behind and not any(
            session.tickets for session in self.sessions
        )
        with contextlib.suppress(OSError):  # it has been logged
            await self.keeping.save()
        self._tokens.stop()

    def _is_needed(self) -> bool:
        """Though there is no connection: somebody holds slots, or the files are not up to date."""
        return bool(len(self.sessions) or self.keeping.trouble or self._journal.trouble)

    def _leave(self) -> None:
        if not self._stopping.done():
            self._leaving = True
            self._stopping.set_result(None)

    async def _somebody_came(self) -> bool:
        """Whether a connection was accepted as we were leaving. It may have been welcomed, so its client
        counts on us; who is not accepted yet is hung up on, and starts the next daemon."""
        if not self._leaving:
            return False
        for _ in range(2):  # an accepted connection is made in the next turn
            await self.turn.over()
        leaving, self._leaving = self._leaving, False  # if nobody has told us to stop meanwhile
        if leaving and self.connections:
            return True
        _log.info("nobody was there for %g s: leaving", self.idle.seconds)
        return False

    async def _serve(self, socket_file: ListeningSocket) -> asyncio.AbstractServer:
        """One that may leave keeps its socket, to serve who comes in that very moment."""
        if self.idle.seconds:
            return await serve(socket_file, lambda: Connection(self), for_now=True)
        return await serve(socket_file, lambda: Connection(self))

    def _stop(self) -> None:
        self._leaving = False
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
    """What the last daemon has left, and what of it cannot be trusted.

    Rule: limits that cannot be trusted are taken from the journal of this run of the host, if that is
    whole: it has every one of them, with its settings and what is spent, so nothing is lost. Else an
    operator decides.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        self.saved: State | None = None
        self.recorded: list[AnyRecord] | None = None
        self.damages: list[Damage] = []  # until the loss is accepted
        self.accepted = False
        self._store = store
        self._journal = journal
        self._state_damaged = False
        self._journal_damaged = False

    def open(self) -> None:
        """Take both folders and read them. Raises StoreError or JournalError if that can't be."""
        damage: Damage | None = None
        journal_damage: Damage | None = None
        try:
            self.saved = self._store.open()
        except Untrusted as untrusted:
            damage = untrusted.damage
        try:
            self.recorded = self._journal.open()
        except Untrusted as untrusted:
            journal_damage = untrusted.damage
        self._journal_damaged = journal_damage is not None
        if damage is None and self.saved is None and (self.recorded is not None or journal_damage):
            damage = self._store.is_gone()
        if damage is not None and not self._replaced(damage):
            self._state_damaged = True
            self.damages.append(damage)
        if journal_damage is not None:
            self.damages.append(journal_damage)

    def accept_loss(self) -> list[str]:
        """Go on with what is left. Returns what was done, in words. Raises OSError."""
        aside: list[Path] = []
        if self._state_damaged and self._journal_is_whole:
            aside = self._store.move_aside()
        elif self._state_damaged:
            self.saved, aside = self._store.accept_loss()
        if self._journal_damaged:
            aside += self._journal.accept_loss()
        self.accepted = True
        return [str(damage) for damage in self.damages] + [f"kept as {path}" for path in aside]

    def may_be_held(self, boot_id: str) -> bool:
        """Whether somebody may hold of whom the state cannot tell."""
        saved = self.saved
        if saved is None or saved.boot_id != boot_id:
            return False
        mark = self._store.token_mark
        unsaved_since = mark is None or mark > saved.token_mark  # on a full disk
        return unsaved_since or self._state_damaged or not saved.nobody_holds

    @property
    def _journal_is_whole(self) -> bool:
        return self.recorded is not None and not self._journal.is_behind

    def _replaced(self, damage: Damage) -> bool:
        """Whether the journal stands in for the state."""
        if not self._journal_is_whole or not self._store.can_be_replaced:
            return False
        try:
            aside = self._store.move_aside()
        except OSError:
            return False  # an operator will be told of this disk, too
        _log.error(
            "damaged state: %s: %s; all limits are in the journal, and are saved again from there%s",
            damage.path,
            damage.reason,
            "".join(f"; kept as {path}" for path in aside),
        )
        return True


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon in the foreground. Returns its exit code."""
    started_by = systemd.NOBODY
    starter = background.Starter(None)
    try:
        started_by = systemd.manager()
        settings = Settings.from_arguments(arguments)
        if settings.detach:
            background.go()
        starter = background.Starter(settings.ready_fd)
        if not kernel_will_do(os.uname().release):
            raise NotUsable(
                f"Linux {os.uname().release} cannot say when a process dies: "
                f"it takes {KERNEL_MIN[0]}.{KERNEL_MIN[1]} or later"
            )
        log.begin(logging.getLevelNamesMapping()[settings.log_level.upper()], settings.log_format)
        faulthandler.enable()  # whom the watchdog shoots says where it was
        _allow_many_descriptors()
        look_seldom()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
        _serve(settings, started_by, starter)
        return 0
    except (NotUsable, SocketError, StoreError, JournalError) as error:
        print(f"atmostd: {error}", file=sys.stderr)
        taken = isinstance(error, SocketTaken)
        starter.tell(background.TAKEN if taken else background.FAILED, str(error))
        started_by.cannot_start(str(error))
        return EXIT_CANNOT_START
    except SystemExit as end:
        if end.code:
            started_by.will_not_start()
        raise
    finally:
        started_by.notifier.close()


def _serve(settings: Settings, started_by: Manager, starter: background.Starter) -> None:
    """Until told to stop. Raises NotUsable, SocketError, StoreError or JournalError: it can't begin."""
    store = Store(settings.state_dir)
    journal = Journal(settings.runtime_dir, _boot_id())
    socket_file = _socket_file(settings, started_by)

    try:
        kept = Kept(store, journal)
        kept.open()
        if isinstance(socket_file, GivenSocket):
            settings = settings.listening_on(socket_file.path)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, store, journal, socket_file, started_by, kept, starter))
    finally:
        store.close()
        socket_file.close()  # last: who gets the socket's lock gets the folders too


async def _run(
    settings: Settings,
    store: Store,
    journal: Journal,
    socket_file: ListeningSocket,
    started_by: Manager,
    kept: Kept,
    starter: background.Starter,
) -> None:
    def listens() -> None:
        starter.tell(background.READY)

    if kept.damages:
        listens()  # in a moment: the socket takes connections already
        accepted = await _closed(settings, kept).run(socket_file, started_by)
        if not accepted:
            return
    daemon = Daemon(settings, store, journal)
    await daemon.run(socket_file, kept, started_by, listens)


def _closed(settings: Settings, kept: Kept) -> Closed:
    bounds = settings.bounds.within(_descriptors())
    return Closed(settings, bounds, kept.damages, kept.accept_loss)


def _socket_file(settings: Settings, started_by: Manager) -> ListeningSocket:
    """The socket that we were given, else one of our own. Raises SocketError."""
    if started_by.listening is not None:
        return GivenSocket(started_by.listening)
    return SocketFile(settings.socket, settings.socket_mode, settings.socket_gid)


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
    """Which run of the host this is. A service that may not see it in /proc (ProcSubset=pid) has it from
    systemd. Raises NotUsable."""
    try:
        return str(UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()))
    except OSError as error:
        with contextlib.suppress(ValueError):
            return str(UUID(os.environ.get(BOOT_ID, "")))
        raise NotUsable(
            f"which run of the host this is cannot be read ({error}), and {BOOT_ID} does not say it: "
            f"in a unit, add Environment={BOOT_ID}=%b"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
