"""A small coverage-guided fuzzer of what a connection is sent: decoder, connection, session, registry.

Rule 1: the parts are the daemon's own, in this process; only the transport and the disk are not.
Rule 2: a script that ran code in an order not seen before is kept, and later ones are made from it.
Rule 3: found is: an exception that is not meant, an answer that is no message, a limit whose books are
wrong, or anything left of clients that have gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from atmost import wire
from atmostd import configuration, connection, decoding, registry, session
from atmostd.__main__ import Daemon
from atmostd.connection import Connection
from atmostd.journal import Journal
from atmostd.settings import Settings
from atmostd.snapshot import State
from atmostd.store import Store
from tests.bad_manners import raw
from tests.test_random_frames import SENT, WAYS, hello_of

Script = list[tuple[int, bytes]]  # (connection, bytes that it sends)

WATCHED = {module.__file__ for module in (connection, decoding, registry, session, wire)}
CONNECTIONS = 3
PIECES_MAX = 24  # of one script
SCRIPTS_PER_DAEMON = 100  # limits that they made would pile up
END = b""  # the client ends this connection


class NoDisk(Store):
    """Every save succeeds."""

    async def save(self, state: State) -> None: ...


class Watched(Daemon):
    """Tells of its end instead of ending."""

    broken: BaseException | None = None

    def _crash(self, error: BaseException) -> None:
        self.broken = error


class FakeTransport(asyncio.Transport):
    """Reads everything at once."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__({"socket": ours})
        self.connection: Connection | None = None
        self.frames = wire.FrameReader()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        for body in self.frames.feed(bytes(data)):
            wire.decode_daemon_message(body)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._lost)

    abort = close

    def _lost(self) -> None:
        if self.connection is not None:
            self.connection.connection_lost(None)


class Bench:
    """A daemon without its socket and its disk, and the scripts that are run on it."""

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / "atmost-fuzz-has-no-files"
        arguments = ["--state-dir", str(folder), "--runtime-dir", str(folder)]
        settings = Settings.from_arguments(arguments)
        self.daemon = Watched(settings, NoDisk(folder), Journal(folder, "fuzz"))
        self.daemon.own_pid = 0  # who connects from this process is a client
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX)
        self._task = asyncio.create_task(self.daemon.configuration.run())
        self.daemon.registry.make("db", 2, 0.0, active=True)
        self.daemon.registry.make("api", 3, 1000.0, active=True)

    async def run(self, script: Script) -> None:
        """Raises what went wrong."""
        clients: dict[int, FakeTransport] = {}
        for at, data in script:
            transport = clients.get(at)
            if transport is None or transport.is_closing():
                transport = clients[at] = FakeTransport(self._ours)
                transport.connection = Connection(self.daemon)
                transport.connection.connection_made(transport)
            assert transport.connection is not None
            if data == END:
                transport.close()
            else:
                transport.connection.data_received(data)
            if len(data) % 3:  # else the next piece comes before this one has acted
                await self._settle()
        for transport in clients.values():
            transport.close()
        await self._settle()
        for known in list(self.daemon.sessions):
            known._process_died()  # what belongs to the process
        await self._settle()
        self._check()

    async def close(self) -> None:
        self.daemon.configuration.stop()
        await self._task
        self.daemon.registry.stop()
        self.daemon._alarm.close()
        for left in self.daemon.sessions:
            asyncio.get_running_loop().remove_reader(left._peer.pidfd)
            left._peer.close()
        self._ours.close()
        self._theirs.close()

    async def _settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await self.daemon.turn.over()

    def _check(self) -> None:
        if self.daemon.broken is not None:
            raise self.daemon.broken
        assert not len(self.daemon.sessions), "a session is left"
        assert not self.daemon.connections, "a connection is left"
        for actor in self.daemon.registry.actors.values():
            limit = actor.limit
            assert not limit.holders, f"{limit.name!r} is held by nobody"
            assert not limit.held
            assert not len(limit.line), f"nobody waits for {limit.name!r}"


class Coverage:
    """Which lines followed which, in the watched modules."""

    def __init__(self) -> None:
        self.steps: set[tuple[str, int, int]] = set()

    def __enter__(self) -> Coverage:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        if name not in WATCHED:
            return None
        last = frame.f_code.co_firstlineno
        steps = self.steps

        def line(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal last
            steps.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line


class Fuzzer:
    """Makes scripts from those that went new ways."""

    def __init__(self, source: random.Random) -> None:
        self.corpus: list[Script] = []
        self.seen: set[tuple[str, int, int]] = set()
        self.runs = 0
        self._source = source

    def step(self) -> tuple[Script, str] | None:
        """Run some scripts. Returns one that found something, with the traceback."""
        scripts = [self._next() for _ in range(SCRIPTS_PER_DAEMON)]
        # What a dead daemon had turned off would stay off for all that follow.
        with mock.patch.object(configuration, "collected_later", contextlib.nullcontext):
            return asyncio.run(self._run(scripts))

    async def _run(self, scripts: list[Script]) -> tuple[Script, str] | None:
        problems: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context)))
        bench = Bench()
        try:
            return await self._run_on(bench, scripts, problems)
        finally:
            await bench.close()

    async def _run_on(
        self, bench: Bench, scripts: list[Script], problems: list[str]
    ) -> tuple[Script, str] | None:
        for script in scripts:
            self.runs += 1
            try:
                with Coverage() as coverage:
                    await bench.run(script)
                assert not problems, problems
            except Exception:
                return script, traceback.format_exc()
            if not coverage.steps <= self.seen:
                self.seen |= coverage.steps
                self.corpus.append(script)
        return None

    def _next(self) -> Script:
        if not self.corpus or self._source.random() < 0.1:
            return self._fresh()
        script = list(self._source.choice(self.corpus))
        for _ in range(self._source.randint(1, 4)):
            self._mutate(script)
        return script[:PIECES_MAX] or self._fresh()

    def _fresh(self) -> Script:
        script: Script = [(at, self._hello()) for at in range(CONNECTIONS)]
        for _ in range(self._source.randint(1, 12)):
            script.append((self._source.randrange(CONNECTIONS), self._piece()))
        return script

    def _mutate(self, script: Script) -> None:
        source = self._source
        at = source.randrange(len(script) + 1)
        match source.randrange(6):
            case 0:
                script.insert(at, (source.randrange(CONNECTIONS), self._piece()))
            case 1 if script:
                del script[at % len(script)]
            case 2 if script:  # this message, otherwise
                client, data = script[at % len(script)]
                if len(data) > 4:
                    script[at % len(script)] = client, self._changed(data[4:])
            case 3 if script:  # again, or from another
                _, data = source.choice(script)
                script.insert(at, (source.randrange(CONNECTIONS), data))
            case 4:
                client = source.randrange(CONNECTIONS)
                script[at:at] = [(client, END), (client, self._hello())]
            case _:
                script += source.choice(self.corpus)[:6]

    def _changed(self, body: bytes) -> bytes:
        try:
            return source_way(self._source)(self._source, body)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ):  # a way for msgpack alone, and this is none
            return raw(body[::-1])

    def _piece(self) -> bytes:
        """A message or several at once, so that one acts before another has."""
        source = self._source
        pieces = [self._message() for _ in range(source.choice([1, 1, 1, 2, 3]))]
        return b"".join(pieces)

    def _message(self) -> bytes:
        source = self._source
        if source.random() < 0.5:
            return wire.encode(_sensible(source))
        body = source.choice(SENT)
        return raw(body) if source.random() < 0.5 else self._changed(body)

    def _hello(self) -> bytes:
        return hello_of(self._source) or raw(b"\x90")


def _sensible(source: random.Random) -> wire.Message:
    """What a client says, with numbers that come again."""
    request, name = source.randint(1, 3), source.choice(["db", "api"])
    match source.randrange(6):
        case 0 | 1:
            hold, spend = source.choice(
                [({name: 1}, {}), ({}, {"api": 1}), ({"db": 1}, {"api": 1})]
            )
            timeout = source.choice([None, 0.0, 0.001])
            seen = source.choice([[], [1, 2, 3]])
            return wire.Acquire(request, hold, spend, timeout, inside=[1], seen=seen)
        case 2:
            return wire.Release(request)
        case 3:
            return wire.Keep(request, {name: 1}, source.choice([1, 2**63]), source.random() < 0.3)
        case 4:
            return wire.Resume(source.randint(4, 9))
        case _:
            change = source.choice([0, 1, 2])
            return wire.UpdateLimit(
                request, name, change, active=source.choice([None, True, False])
            )


def source_way(source: random.Random) -> Callable[[random.Random, bytes], bytes]:
    return source.choice(WAYS)


def text_of(script: Script) -> str:
    """As a file under found/ has it: a line for each piece."""
    return "".join(f"{at} {data.hex() or 'end'}\n" for at, data in script)


def script_of(text: str) -> Script:
    lines = [line.split() for line in text.splitlines()]
    return [(int(at), END if data == "end" else bytes.fromhex(data)) for at, data in lines]
