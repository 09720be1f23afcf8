"""A client over the real Exchange, moved as the blocking shell moves it.

Its threads are the calls that wait and the grants that are held; it connects, loses its connection and
says all again as sync_connection.py does, in the time of the world. One that `computes` reads only while
a call waits, as the blocking client does, so it may never learn that its connection is lost: what it
lets go of then is on its slate. The others are always reading.
"""

from __future__ import annotations

from collections.abc import Callable

from atmost import wire
from atmost.asked import Asked
from atmost.errors import AtmostError, GrantLost, ProtocolError
from atmost.exchange import HELLO_SECONDS, RECONNECT_SECONDS, Answer, Exchange
from atmost.reconnecting import Reconnecting
from atmost.slate import lent
from tests.sim.network import End
from tests.sim.world import MICROSECOND, MILLISECOND, SECOND, Process, World

MAY_FAIL = {  # for reasons of the client's own, or of those who may change limits
    "acquire_timeout",
    "limit_deleted",
    "never_fits",
    "slot_decay_required",
    "would_deadlock",
}


class Call:
    """A request that waits for its answer."""

    def __init__(self, asked: Asked | None, done: Callable[[Answer], None] | None) -> None:
        self.asked = asked
        self.done = done


class SimClient:
    """One process."""

    def __init__(
        self, process: Process, settles: Exchange | None = None, computes: bool = False
    ) -> None:
        """`settles`: not a new session; what is left of this one is to be told."""
        self.process = process
        self.world: World = process.world
        self.computes = computes
        self.exchange = settles or Exchange(["sim"], wants_slate=computes)
        self.calls: dict[int, Call] = {}
        self.held: dict[int, Asked] = {}
        self.refused: list[str] = []  # codes, for what the script wants to know
        self.end: End | None = None
        self.connections = 0
        self.exec_done = False  # it has become another program
        self._ready = False  # it was welcomed, once
        self._away = Reconnecting(RECONNECT_SECONDS)
        self._tries = False  # a try to connect is on its way
        self._reads = False
        self._served: Callable[[], bool] = lambda: False
        self.world.oracle.clients[self.session] = self
        process.on_death.append(lambda: self.world.oracle.died(self))
        if settles is not None:
            self._ready = True
            self._away.lost(self._now(), "")
        self._connect()

    @property
    def session(self) -> bytes:
        return self.exchange._session

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def ready(self) -> bool:
        """It can make requests."""
        return self._ready and self.process.alive and not self.exec_done

    def wants(self, request: int) -> bool:
        return request in self.calls and not self.exec_done

    def wanted(self) -> list[int]:
        return [number for number, call in self.calls.items() if call.asked is not None]

    def comes_back(self) -> bool:
        return not self.exec_done

    # What its program does

    def acquire(self, asked: Asked, caller: object = None) -> int:
        """Ask for slots."""
        number = self.exchange.number()
        timeout = asked.timeout_seconds
        ends = None if timeout is None else self._now() + timeout
        self.calls[number] = Call(asked, None)
        self.world.note(f"{self.name} asks #{number} {asked.hold} {asked.spend} {timeout}")
        self._call(self.exchange.acquire(number, asked, caller, ends))
        return number

    def ask(
        self, kind: type[wire.Message], *fields: object, done: Callable[[Answer], None]
    ) -> None:
        """Any other request."""
        number = self.exchange.number()
        self.calls[number] = Call(None, done)
        self._call(self.exchange.ask(number, kind, *fields))

    def release(self, number: int) -> None:
        """A block ends."""
        del self.held[number]
        self.world.oracle.left(self, number)
        self._send(self.exchange.release(number))
        self._look()
        self._go_on()

    def give_up(self, number: int) -> None:
        """A call is cancelled."""
        self.world.note(f"{self.name} gives up #{number}")
        del self.calls[number]
        self._send(self.exchange.release(number))
        self._look()
        self._go_on()

    def exec(self) -> None:
        """Become another program: the connection closes, what is by the process stays."""
        self.world.note(f"{self.name} becomes another program")
        self.exec_done = True
        self.calls.clear()
        for number, asked in list(self.held.items()):
            if not asked.by_process:
                del self.held[number]
                self.world.oracle.left(self, number)
        if self.end is not None:
            self.end.close()
            self.end = None

    def fork(self) -> Callable[[], None] | None:
        """A child that keeps the other copy of the socket. Returns what ends it."""
        return self.end.fork() if self.end is not None else None

    # Its connection

    def _now(self) -> float:
        return self.world.now / SECOND

    def _call(self, frame: bytes) -> None:
        self._send(frame)
        if self.end is None and self._away.since is not None:
            self._away.hurry(self._now())
        self._look()
        self._go_on()

    def _send(self, frame: bytes) -> None:
        if self.end is not None:
            try:
                self.end.send(frame)
            except OSError:
                self._send_failed()

    def _send_failed(self) -> None:
        """What has come can still be read, or so it is with half of the programs."""
        end = self.end
        if end is not None and self.world.maybe(0.5):
            self._lost("the connection broke")

    def _connect(self) -> None:
        """Try once."""
        self._tries = False
        if self.end is not None or self.exec_done:
            return
        try:
            end = self.world.host.accept(self.process)
        except OSError:
            if self._ready:
                self._fail_if_away_too_long()
                self._go_on()
            else:
                self.process.after(self.world.span(MILLISECOND, 100 * MILLISECOND), self._connect)
            return
        self.end = end
        self._served = self.world.host.serving()
        self.connections += 1
        connection = self.connections
        end.on_ready = self._readable
        if self._ready:
            self.world.note(f"{self.name} resumes")
            self._send(self.exchange.resume(self._now()))
        else:
            self._send(self.exchange.hello())
        self.process.after(int(HELLO_SECONDS * SECOND), lambda: self._check_welcome(connection))

    def _check_welcome(self, connection: int) -> None:
        if connection == self.connections and self.end is not None and not self.exchange.welcomed:
            self._lost("no welcome")

    def _is_computing(self) -> bool:
        """Nobody looks at the connection."""
        exchange = self.exchange
        return self.computes and exchange.welcomed and not (self.calls or exchange.unsettled)

    def _look(self) -> None:
        """Once, at what nobody may have looked at."""
        if self.computes and self.end is not None and self.end.readable():
            self._read(looks=True)

    def _readable(self) -> None:
        if not self._reads:
            self._reads = True
            self.process.after(self.world.chance.randrange(1, 20 * MICROSECOND), self._read)

    def _read(self, looks: bool = False) -> None:
        self._reads = self._reads and looks
        end = self.end
        if end is None or (self._is_computing() and not looks):
            return
        data = end.receive()
        if data is None:
            return
        if not data:
            if self._served():
                self.world.oracle.fail(f"{self.name} is cut off by a daemon that serves others")
            self._lost("the daemon closed the connection")
            return
        self._take(data)
        if self.end is end and end.readable():
            self._readable()

    def _take(self, data: bytes) -> None:
        try:
            answers = self.exchange.receive(data)
        except ProtocolError as error:
            self.world.oracle.fail(f"{self.name} is told: {error}")
            return
        if self.exchange.welcomed:
            self._ready = True
            self._away.back()
            if self.end is not None and self.end.passed:
                self.exchange.borrow(lent(self.world.host.take(self.end.passed.pop())))
        for number, answer in answers:
            self._answered(number, answer)

    def _answered(self, number: int, answer: Answer) -> None:
        if isinstance(answer, GrantLost):
            self.world.oracle.told_lost(self, number)
        call = self.calls.pop(number, None)
        if call is None:
            return
        if call.asked is None:
            assert call.done is not None
            call.done(answer)
        elif isinstance(answer, wire.Granted):
            self.world.oracle.entered(self, answer, call.asked.hold)
            if call.asked.hold:
                self.held[number] = call.asked
        elif isinstance(answer, AtmostError):
            self.world.note(f"{self.name} #{number} fails: {answer.code}")
            if answer.code not in MAY_FAIL and not self.world.host.may_refuse(answer.code):
                self.world.oracle.fail(f"{self.name} #{number} fails with {answer!r}")
            self.refused.append(answer.code)
        else:
            self.world.oracle.fail(f"{self.name} #{number} is answered with {answer}")

    def _lost(self, why: str) -> None:
        """The connection is lost."""
        assert self.end is not None
        self.world.note(f"{self.name}: {why}")
        self.end.close()
        self.end = None
        if not self._ready:
            self.exchange.hello()
            self.process.after(MILLISECOND, self._connect)
            return
        self.exchange.disconnected()
        self._away.lost(self._now(), why)
        self._fail_if_away_too_long()
        self._go_on()

    def _fail_if_away_too_long(self) -> None:
        if self._away.gave_up(self._now()):
            for number, call in list(self.calls.items()):
                self.exchange.release(number)
                del self.calls[number]
                if call.done is not None:
                    call.done(AtmostError("gave up"))

    def _go_on(self) -> None:
        """Who has a reason to be connected tries again."""
        if self.end is not None or self._tries or not self._ready or self.exec_done:
            return
        if self.calls or self.exchange.unsettled:
            self._tries = True
            left = max(0, int((self._away.next - self._now()) * SECOND))
            self.process.after(left + 1, self._try)

    def _try(self) -> None:
        if self.end is None and self._away.since is not None:
            self._away.trying(self._now())
            self._connect()
        else:
            self._tries = False
