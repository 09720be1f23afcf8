"""Unix stream sockets of the simulated host, and asyncio transports over them.

Rule 1: what one end sends reaches the other in its order, after some time, and is read in pieces cut
anywhere, in the midst of frames too. It is lost only by the end of the connection: a stream socket
loses and reorders nothing else, so a lost message is a lost connection, and a late one a long flight.
Rule 2: what a process had not handed to the kernel dies with it, maybe in the middle of a frame.
What the kernel has, the other end can still read.
Rule 3: an end is closed when the last process that has a copy of it is gone.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, cast

from tests.sim.loop import Loop
from tests.sim.world import MICROSECOND, MILLISECOND, Process, World

READ_BYTES = 64 * 1024


class End:
    """One end of a connection."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world: World = process.world
        self.other: End = self
        self.inbox = bytearray()
        self.eof = False  # no more will come
        self.reset: OSError | None = None  # nor can what has come be read
        self.closed = False
        self.closed_by_us = False
        self.copies = 0  # that forked children keep
        self.on_ready: Callable[[], None] | None = None
        self.deaf = False  # shut down for reading
        self.passed: list[int] = []  # descriptors that came beside what is in the inbox, or was
        self._flying: list[
            tuple[bytes, int | None]
        ] = []  # sent by us, not in the other's inbox yet
        self._next_arrival = 0
        process.on_death.append(self._process_died)

    def send(self, data: bytes, beside: int | None = None) -> None:
        """`beside`: a descriptor that comes with the first byte. Raises BrokenPipeError."""
        if not self.process.alive:
            return
        if self.closed or self.other.closed or self.other.deaf:
            raise BrokenPipeError(32, "Broken pipe")
        self._flying.append((bytes(data), beside))
        self._fly(lambda: self._arrive())

    def unread(self) -> int:
        """Bytes that the other end has not read."""
        return len(self.other.inbox) + sum(len(data) for data, _ in self._flying)

    def receive(self, count: int = READ_BYTES) -> bytes | None:
        """What is there, maybe not all of it; empty at the end; None if there is nothing yet."""
        if self.reset is not None:
            raise self.reset
        if not self.inbox:
            return b"" if self.eof else None
        if len(self.inbox) > 1 and self.world.maybe(0.2):
            count = self.world.chance.randrange(1, len(self.inbox))
        data = bytes(self.inbox[:count])
        del self.inbox[:count]
        return data

    def shut_for_reading(self) -> None:
        """shutdown(SHUT_RD): what has come can be read."""
        self.deaf = True
        self._ends()

    def shut_for_writing(self) -> None:
        """The other end reads what was sent, and then the end."""
        if self.process.alive:
            self._fly(self.other._ends)

    def close(self) -> None:
        """Our process has no copy any more."""
        self.closed_by_us = True
        if not self.closed and not self.copies:
            self.closed = True
            if self.process.alive:
                self._fly(self.other._ends)

    def fork(self) -> Callable[[], None]:
        """A child has a copy. Returns what ends it."""
        self.copies += 1

        def end() -> None:
            self.copies -= 1
            if not self.copies and (self.closed_by_us or not self.process.alive):
                self.closed = True
                self.other._ends()

        return end

    def readable(self) -> bool:
        return bool(self.inbox or self.eof or self.reset)

    def _fly(self, act: Callable[[], None]) -> None:
        world = self.world
        span = world.span(MICROSECOND, 200 * MICROSECOND)
        if world.maybe(0.02):
            span = world.span(MILLISECOND, 30 * MILLISECOND)
        self._next_arrival = max(self._next_arrival + 1, world.now + span)
        world.at(self._next_arrival, act)

    def _arrive(self) -> None:
        if self._flying:
            self.other._comes(*self._flying.pop(0))

    def _comes(self, data: bytes, beside: int | None) -> None:
        if self.closed or self.deaf or not self.process.alive:
            return
        self.inbox += data
        if beside is not None:
            self.passed.append(beside)
        self._ready()

    def _ends(self) -> None:
        if not self.eof:
            self.eof = True
            self._ready()

    def _ready(self) -> None:
        if self.on_ready is not None and self.process.alive:
            self.on_ready()

    def _process_died(self) -> None:
        kept = self.world.chance.randrange(len(self._flying) + 1)
        flying, self._flying = self._flying, []
        for data, beside in flying[:kept]:
            self.other._comes(data, beside)
        if kept < len(flying):
            data, beside = flying[kept]
            cut = self.world.chance.randrange(len(data))
            if cut:
                self.other._comes(data[:cut], beside)
        if not self.copies and not self.closed:
            self.closed = True
            self.world.at(
                self.world.now + self.world.span(MICROSECOND, 100 * MICROSECOND), self.other._ends
            )


def connect(client: Process, daemon: Process) -> tuple[End, End]:
    """A connection: the client's end and the daemon's."""
    ours, theirs = End(client), End(daemon)
    ours.other, theirs.other = theirs, ours
    return ours, theirs


class Transport(asyncio.Transport):
    """asyncio's transport over an end."""

    def __init__(self, loop: Loop, end: End, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = loop
        self.end = end
        self._protocol = cast(asyncio.Protocol, protocol)
        self._closing = False
        self._paused = False
        self._reads = True
        self.fd = loop.open(end)
        end.on_ready = lambda: loop.look(self.fd)
        protocol.connection_made(self)
        if not self._closing:
            loop.add_reader(self.fd, self._read)

    def write(self, data: Any) -> None:
        if self._closing or not self._loop.process.alive:
            return
        try:
            self.end.send(data)
        except OSError as error:
            self._fail(error)

    def get_write_buffer_size(self) -> int:
        return max(0, self.end.unread() - self.end.world.kernel_bytes)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._fail(None)

    def abort(self) -> None:
        self._fail(None)

    def pause_reading(self) -> None:
        if self._reads:
            self._paused = True
            self._loop.remove_reader(self.fd)

    def resume_reading(self) -> None:
        if self._paused and self._reads and not self._closing:
            self._paused = False
            self._loop.add_reader(self.fd, self._read)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return Socket(self.end) if name == "socket" else default

    def _read(self) -> None:
        if self._closing:
            return
        try:
            data = self.end.receive()
        except OSError as error:
            self._fail(error)
            return
        if data:
            self._protocol.data_received(data)
        elif data is not None:
            self._reads = False
            self._loop.remove_reader(self.fd)
            if not self._protocol.eof_received():
                self.close()

    def _fail(self, error: OSError | None) -> None:
        if not self._closing:
            self._closing = True
            self._loop.remove_reader(self.fd)
            self._loop.call_soon(self._lost, error)

    def _lost(self, error: OSError | None) -> None:
        self._protocol.connection_lost(error)
        self.end.close()


class Socket:
    """What real code does with a connected socket beside its transport."""

    def __init__(self, end: End | None = None) -> None:
        self.end = end

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None: ...

    def fileno(self) -> Socket:
        return self

    def setblocking(self, flag: bool) -> None: ...

    def connect(self, path: str) -> None:
        """To the daemon, from the process whose loop runs."""
        loop = cast(Loop, asyncio.get_running_loop())
        self.end = loop.world.host.accept(loop.process)

    def shutdown(self, how: int) -> None:
        if self.end is None:
            return
        if how == 0:
            self.end.shut_for_reading()
        else:
            self.end.shut_for_writing()

    def recv(self, count: int, flags: int) -> bytes:
        """A peek."""
        assert self.end is not None
        if self.end.inbox:
            return bytes(self.end.inbox[:count])
        if self.end.eof:
            return b""
        raise BlockingIOError

    def sendmsg(self, data: list[bytes], beside: list[tuple[int, int, bytes]], flags: int) -> int:
        """Maybe not all of it. Raises BrokenPipeError."""
        assert self.end is not None
        world = self.end.world
        (frame,), ((_, _, descriptor),) = data, beside
        taken = (
            len(frame) if world.climate.random() < 0.9 else world.climate.randrange(1, len(frame))
        )
        copy = world.host.pass_on(int.from_bytes(descriptor, sys.byteorder))
        self.end.send(frame[:taken], copy)
        return taken

    def close(self) -> None:
        if self.end is not None:
            self.end.close()
