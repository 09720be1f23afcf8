"""A deterministic event loop: real asyncio code of one simulated process runs on it.

Rule 1: callbacks run in the order in which asyncio promises it: first come, first served, a turn at a
time. Only between turns come events from outside, and those that are ready together come in any order.
Rule 2: between any two callbacks other processes may run, and this one may die.
"""

# mypy: disable-error-code="override"
from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, cast

from tests.sim.world import MICROSECOND, SECOND, Process

TASKS_KEPT = 50  # then those that are done are forgotten


class Source(Protocol):
    """What a descriptor stands for."""

    def readable(self) -> bool: ...


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self._ready: deque[asyncio.Handle] = deque()
        self._left = 0  # callbacks of this turn that have not run yet
        self._outside: dict[object, asyncio.Handle] = {}  # what has happened since it began
        self._readers: dict[int, tuple[Source, asyncio.Handle]] = {}
        self._sources: dict[int, Source] = {}
        self._last_descriptor = 100
        self._comes_up = False  # an event of the world is on its way that runs callbacks
        self._closed = False
        self._tasks: list[asyncio.Task[Any]] = []
        process.world.loops.append(self)
        self.errors: list[dict[str, Any]] = []
        self.on_signal: dict[int, Callable[[], object]] = {}

    # What asyncio calls

    def time(self) -> float:
        return self.world.now / SECOND

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name)
        self._tasks.append(task)
        if len(self._tasks) > TASKS_KEPT:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self.process.alive:
            self._ready.append(handle)
            self._come_up()
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        instant = max(self.world.now, int(when * SECOND) + 1)
        self.process.after(instant - self.world.now, lambda: self.happens(timer, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._outside.pop(handle, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.process.alive:
            self.errors.append(context)
            self.world.note(f"{self.process.name}: {context.get('message')} {context}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Signals are sent by the world."""
        self.on_signal[sig] = lambda: callback(*args)

    # Descriptors

    def open(self, source: Source) -> int:
        """A descriptor for this."""
        self._last_descriptor += 1
        self._sources[self._last_descriptor] = source
        return self._last_descriptor

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        self._readers[fd] = self._sources[fd], asyncio.Handle(callback, args, self)
        self.look(fd)

    def remove_reader(self, fd: Any) -> bool:
        self._outside.pop(fd, None)
        return self._readers.pop(fd, None) is not None

    def look(self, fd: int) -> None:
        """Something happened to this descriptor."""
        reader = self._readers.get(fd)
        if reader is not None and reader[0].readable():
            self.happens(fd, reader[1])

    def happens(self, source: object, handle: asyncio.Handle) -> None:
        """An event from outside: its callback runs in the next turn. One source, one event."""
        if self.process.alive and not handle._cancelled:
            self._outside[source] = handle
            self._come_up()

    # Turns

    def _come_up(self) -> None:
        if not self._comes_up and self.process.alive:
            self._comes_up = True
            self.process.after(self.world.chance.randrange(1, 30 * MICROSECOND), self._run_some)

    def _run_some(self) -> None:
        self._comes_up = False
        for _ in range(self.world.chance.choice((1, 2, 5, 100))):
            if not self._left:
                self._begin_turn()
            if not self._left or not self.process.alive:
                break
            self._run_one()
        if self._ready or self._outside:
            self._come_up()

    def _begin_turn(self) -> None:
        outside, self._outside = list(self._outside.items()), {}
        if len(outside) > 1:
            self.world.chance.shuffle(outside)
        self._ready.extend(handle for _, handle in outside)
        self._left = len(self._ready)
        self._polled = [source for source, _ in outside if isinstance(source, int)]

    def _run_one(self) -> None:
        self._left -= 1
        handle = self._ready.popleft()
        if handle._cancelled:
            return
        self.run(handle._run)
        if not self._left:
            for fd in self._polled:  # readiness is a level, not an edge
                self.look(fd)

    def run(self, act: Callable[[], object]) -> None:
        """Do this inside the loop."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            act()
        finally:
            asyncio._set_running_loop(before)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task, from outside the loop."""
        made: list[asyncio.Task[Any]] = []
        self.run(lambda: made.append(self.create_task(coroutine, name=name)))
        return made[0]

    def bury(self) -> None:
        """The process is dead: its coroutines are taken apart now, and not at some later time."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(RuntimeError):
                    self.run(cast(Any, task.get_coro()).close)

    async def create_unix_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *, sock: Any, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        from tests.sim.network import Transport

        await _pass_a_turn()
        protocol = protocol_factory()
        return Transport(self, sock.end, protocol), protocol


def new_loop(process: Process) -> Loop:
    """It has what the daemon and the client call, and nothing else of an event loop."""
    return Loop(process)  # type: ignore[abstract]


class _pass_a_turn:
    """What asyncio.sleep(0) does, without needing to know the loop's kind."""

    def __await__(self) -> Generator[None, None, None]:
        yield
