"""Both clients behind one face, so that one test says what must hold for both.

A *side* is one client of one library: blocking, asyncio, or asyncio on uvloop. A *caller* is one
thread or one task of it that does one thing after another; what it begins is a Future.

    a.enter("db"); ask = b.begin_enter("db"); wait_for_line(client, "db", 1); a.leave(); ask.result()
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

import atmost.asyncio
import atmost.sync
from atmost.sync import Client
from tests.support import PATIENCE_SECONDS, RunningDaemon, wait_until

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
SIDES = ("sync", *LOOPS)


class Caller(ABC):
    """One thread, or one task."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._blocks: list[Any] = []  # that it is inside of, the innermost last

    @abstractmethod
    def begin(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Have this caller call it, and await what is a coroutine."""

    @abstractmethod
    def end(self) -> None:
        """There is nothing more for it to do. Tasks that wait are cancelled."""

    def do(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same, and wait for the result."""
        return self.begin(do, *args, **kwargs).result(PATIENCE_SECONDS)

    def begin_enter(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Enter a block of `concurrency` with these arguments."""
        return self.begin_enter_block(self.side.client.concurrency(*args, **kwargs))

    def begin_enter_block(self, block: Any) -> Future[Any]:
        return self.begin(self._enter, block)

    def enter(self, *args: Any, **kwargs: Any) -> Any:
        return self.begin_enter(*args, **kwargs).result(PATIENCE_SECONDS)

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the innermost block, by its end or by an exception."""
        block = self._blocks.pop()
        leave = getattr(block, "__aexit__", None) or block.__exit__
        assert not self.do(leave, type(error) if error else None, error, None)

    def _enter(self, block: Any) -> Any:
        if hasattr(block, "__aenter__"):
            return self._enter_async(block)
        grant = block.__enter__()
        self._blocks.append(block)
        return grant

    async def _enter_async(self, block: Any) -> Any:
        grant = await block.__aenter__()
        self._blocks.append(block)
        return grant


class ThreadCaller(Caller):
    """Calls atmost.sync."""

    def __init__(self, side: Side) -> None:
        super().__init__(side)
        self._thread = ThreadPoolExecutor(max_workers=1)

    def begin(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return self._thread.submit(do, *args, **kwargs)

    def end(self) -> None:
        self._thread.shutdown()


class TaskCaller(Caller):
    """Calls atmost.asyncio. It can be cancelled: what it is at ends, and the next thing begins."""

    def __init__(self, side: Side, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(side)
        self._loop = loop
        self._jobs: asyncio.Queue[tuple[Callable[[], Any], Future[Any]] | None] = asyncio.Queue()
        self._task = asyncio.run_coroutine_threadsafe(_start(self._serve()), loop).result()

    def begin(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        job = (lambda: do(*args, **kwargs)), future
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, job)
        return future

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)

    def end(self) -> None:
        async def join() -> None:
            self._jobs.put_nowait(None)
            await self._task

        asyncio.run_coroutine_threadsafe(join(), self._loop).result(PATIENCE_SECONDS)

    async def _serve(self) -> None:
        while (job := await self._jobs.get()) is not None:
            do, future = job
            try:
                result = do()
                future.set_result(await result if inspect.isawaitable(result) else result)
            except asyncio.CancelledError:
                self._task.uncancel()
                future.cancel()
                future.set_running_or_notify_cancel()
            except BaseException as error:
                future.set_exception(error)


class Side:
    """One client under test. Its callers end with it."""

    def __init__(
        self, name: str, socket_path: Path | None, loops: LoopThreads, **options: Any
    ) -> None:
        self.name = name
        self.client: Any
        self._loop = None if name == "sync" else loops.get(name)
        library = atmost.sync if self._loop is None else atmost.asyncio
        self.client = library.Client(socket_path, **options)
        self._callers: list[Caller] = []

    def caller(self) -> Caller:
        """One more thread or task of this client."""
        one = ThreadCaller(self) if self._loop is None else TaskCaller(self, self._loop)
        self._callers.append(one)
        return one

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """The client's methods, each called by a caller of its own."""
        return lambda *args, **kwargs: self.caller().do(
            getattr(self.client, method), *args, **kwargs
        )

    def close(self) -> None:
        """Close the client, which ends what still waits, and then the callers."""
        self.caller().do(self.client.close)
        for caller in self._callers:
            caller.end()


class LoopThreads:
    """An event loop of each kind, running in a thread of its own, made when it is first needed."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[LoopRunner, threading.Thread]] = {}

    def get(self, name: str) -> asyncio.AbstractEventLoop:
        if name not in self._running:
            runner = LoopRunner(name)
            thread = threading.Thread(target=runner.loop.run_forever, name=name)
            thread.start()
            self._running[name] = runner, thread
        return self._running[name][0].loop

    def close(self) -> None:
        for runner, thread in self._running.values():
            runner.loop.call_soon_threadsafe(runner.loop.stop)
            thread.join(PATIENCE_SECONDS)
            runner.close()


class LoopRunner:
    """An event loop on which nothing may go wrong unseen: no exception that nobody retrieved, no task
    that was dropped."""

    def __init__(self, name: str) -> None:
        self.loop = LOOPS[name]()
        self._unseen: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._unseen.append(context))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        """End as asyncio.run does."""
        try:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()
        gc.collect()
        assert not self._unseen


def run_on(loop: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on this kind of loop; fails for what goes wrong unseen."""
    runner = LoopRunner(loop)
    try:
        return runner.run(coroutine)
    finally:
        runner.close()


@contextlib.contextmanager
def daemon_of_a_module(factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all tests of a module, each with limits of its own names."""
    running = RunningDaemon(factory.mktemp("daemon")).start()
    yield running
    running.stop()


@contextlib.contextmanager
def listening(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """What listens at `path` is no daemon: it does this with each that connects."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connected, _ = server.accept()
                except OSError:
                    return
                with connected, contextlib.suppress(OSError):
                    answer(connected)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def wait_for_line(client: Client, name: str, waiting: int) -> None:
    """Wait until so many requests stand in this line."""
    wait_until(lambda: client.read_limit(name).waiting == waiting, f"{waiting} wait for {name}")


def wait_until_free(client: Client, name: str) -> None:
    """Wait until nobody holds, has spent or waits for anything of this limit."""
    limits = wait_until(
        lambda: [
            limit
            for limit in client.list_limits()
            if limit.name == name and not limit.held and not limit.waiting
        ],
        f"{name} is free",
    )
    assert limits[0].spent or not limits[0].active_slots


def nobody_listens(folder: Path) -> Path:
    """A path at which there is no daemon."""
    assert len(os.fsencode(folder)) < 90
    return folder / "nobody"


async def _start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(coroutine)
