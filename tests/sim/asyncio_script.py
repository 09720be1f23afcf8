"""The same worlds with clients of atmost.asyncio: the real client, on a loop of its own each.

What such a client believes is what the code in its blocks can know: it is inside from the first line
of a block to its last.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import cast

from atmost import asyncio_connection, wire
from atmost.asked import Asked
from atmost.asyncio import Client, Grant
from atmost.errors import AtmostError, DaemonUnavailable, GrantLost
from atmost.exchange import Answer, Exchange
from tests.sim.client import SimClient
from tests.sim.loop import new_loop
from tests.sim.network import Socket
from tests.sim.script import Script
from tests.sim.world import MILLISECOND, SECOND, Process, World

NESTED_SECONDS = 0.2  # blocks within blocks do not wait for ever: two programs could for each other
MAY_FAIL = {
    "acquire_timeout",
    "daemon_unavailable",
    "limit_deleted",
    "never_fits",
    "slot_decay_required",
    "would_deadlock",
}


class AsyncioSession:
    """One session of a client, as the oracle asks it."""

    def __init__(self, client: AsyncioClient, exchange: Exchange) -> None:
        self.process = client.process
        self._client = client
        self._exchange = exchange
        self.process.on_death.append(lambda: client.world.oracle.died(self))

    @property
    def session(self) -> bytes:
        return self._exchange._session

    def wants(self, request: int) -> bool:
        return request in self.wanted()

    def comes_back(self) -> bool:
        return not self._client.exec_done

    def wanted(self) -> list[int]:
        for connection in self._client.client._connections.values():
            if connection._exchange is self._exchange and not connection.lost:
                return [n for n in self._exchange._waiting if n in connection._calls]
        return []


class AsyncioClient:
    """One process with a loop; every block is a task of its own."""

    def __init__(self, process: Process) -> None:
        self.exec_done = False  # its session was ended in order
        self.computes = False
        self.process = process
        self.world: World = process.world
        self.loop = new_loop(process)
        self.held: dict[int, asyncio.Future[None]] = {}  # inside, until this is done
        self.client = Client("/s", _command=["sim"])
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._sessions: dict[bytes, AsyncioSession] = {}
        self._last = 0
        process.on_death.append(self._died)

    def _died(self) -> None:
        """Python will finish its generators at some time: then there is nothing left to end."""
        for connection in self.client._connections.values():
            connection.lost = connection.lost or DaemonUnavailable("/s", "", "the process is dead")

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def ready(self) -> bool:
        return self.process.alive and not self.exec_done

    def wanted(self) -> list[int]:
        return [number for number in self._tasks if number not in self.held]

    # What its program does

    def acquire(self, asked: Asked) -> None:
        self._last += 1
        number = self._last
        self.world.note(f"{self.name} block {number}: {asked.hold} {asked.spend}")
        nested = bool(asked.hold) and self.world.maybe(0.2)
        task = self.loop.start(self._block(number, asked, nested), f"block {number}")
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number))

    def release(self, number: int) -> None:
        done = self.held[number]
        if not done.done():
            done.set_result(None)

    def give_up(self, number: int) -> None:
        self.world.note(f"{self.name} cancels block {number}")
        self._tasks[number].cancel()

    def exec(self) -> None:
        """End the session in order; who waits is told."""
        self.exec_done = True
        self.world.note(f"{self.name} closes")
        for session in self._sessions.values():
            self.world.oracle.died(session)
        self.loop.run(self.client.close)

    def fork(self) -> Callable[[], None] | None:
        for connection in self.client._connections.values():
            end = cast(Socket, connection._socket).end
            if end is not None and not end.closed:
                return end.fork()
        return None

    # The tasks

    async def _block(self, number: int, asked: Asked, nested: bool) -> None:
        try:
            if asked.hold:
                block = self.client.concurrency(
                    asked.hold, timeout_seconds=asked.timeout_seconds, rate_limit=asked.spend
                )
                async with block as grant:
                    with self._inside(grant, asked.hold):
                        await self._body(number, asked, nested)
            else:
                await self.client.rate_limit(asked.spend, timeout_seconds=asked.timeout_seconds)
                self.world.oracle.entries += 1
        except asyncio.CancelledError:
            pass
        except AtmostError as error:
            if self.process.alive:
                self._failed(number, error)

    async def _body(self, number: int, asked: Asked, nested: bool) -> None:
        try:
            if nested:
                inner = self.client.concurrency(next(iter(asked.hold)), 1, NESTED_SECONDS)
                with contextlib.suppress(AtmostError):
                    async with inner as grant:
                        with self._inside(grant, grant.slots):
                            await asyncio.sleep(self.world.span(MILLISECOND, SECOND) / SECOND)
            self.held[number] = self.loop.create_future()
            await self.held[number]
        finally:
            self.held.pop(number, None)

    @contextlib.contextmanager
    def _inside(self, grant: Grant, hold: dict[str, int]) -> Iterator[None]:
        connection = grant._connection
        assert connection is not None
        session = self._sessions[connection._exchange._session]
        request = grant._granted.request
        told = wire.Granted(request, grant.token, 0, list(grant.unguarded))
        # Else it was closed, or the grant lost, before the block began.
        if not connection.lost and connection.lost_grant(request) is None:
            self.world.oracle.entered(session, told, hold)
        try:
            yield
        finally:
            if self.process.alive:
                self.world.oracle.left(session, request)

    def _failed(self, number: int, error: AtmostError) -> None:
        self.world.note(f"{self.name} block {number} fails: {error.code}")
        if isinstance(error, GrantLost):
            return  # the oracle knows of it
        if error.code not in MAY_FAIL and not self.world.host.may_refuse(error.code):
            self.world.fail(f"{self.name} block {number}: {error!r}")

    def began(self, exchange: ToldExchange) -> None:
        """A session begins."""
        session = AsyncioSession(self, exchange)
        exchange.told_lost = lambda number: self.world.oracle.told_lost(session, number)
        self._sessions[exchange._session] = session
        self.world.oracle.clients[exchange._session] = session


class ToldExchange(Exchange):
    """The oracle hears when a grant is lost: the block is told at its end, or when it looks."""

    told_lost: Callable[[int], None]

    def _failed(self, number: int, failure: AtmostError) -> Answer:
        held = number in self._held
        answer = super()._failed(number, failure)
        if held and isinstance(failure, GrantLost):
            self.told_lost(number)
        return answer


class Settler(SimClient):
    """What sync_connection.settle does in a thread: the daemon is told of a session that ended."""

    def __init__(self, process: Process, exchange: Exchange) -> None:
        super().__init__(process, exchange)

    def _take(self, data: bytes) -> None:
        super()._take(data)
        if not self.exchange.unsettled and self.end is not None:
            self.world.note(f"{self.name} has settled")
            self.exec_done = True
            self.end.close()
            self.end = None


class AsyncioScript(Script):
    def _weather(self) -> None:
        super()._weather()
        self.span = min(self.span, 2 * SECOND)
        self.host.settle = self._settle

    def _client(self, process: Process) -> AsyncioClient:
        client = AsyncioClient(process)
        self._owners[client.loop] = client
        return client

    def _settle(self, exchange: Exchange) -> None:
        process = self.oracle.clients[exchange._session].process
        if process.alive:  # else it is Python that takes apart what a dead process had
            exchange.end()
            Settler(process, exchange)

    def seams(self) -> Iterator[tuple[object, str, object]]:
        """Every session that begins is known to the oracle."""

        def begin(command: list[str] | None = None) -> Exchange:
            exchange = ToldExchange(command)
            self._owners[asyncio.get_running_loop()].began(exchange)
            return exchange

        yield asyncio_connection, "Exchange", begin

    def run(self, span: int) -> None:
        super().run(span)
        for loop in self.world.loops:
            if loop.errors:
                self.world.fail(f"an error in {loop.process.name}: {loop.errors[0]}")
