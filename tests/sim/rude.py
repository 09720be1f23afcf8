"""Clients without manners: bytes of every kind, of a user of their own, beside all the others (G6).

Their requests are as good as anybody's, so they may hold and wait; the oracle's promises to the others
are the same as in a world without them. Beside those: nobody else's request fails with anything but
what it asked for, and nobody else's connection ends (client.py). What they may not, change limits or
accept a loss, is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from atmost import wire
from atmost.errors import ProtocolError
from tests.sim.host import Host
from tests.sim.network import End
from tests.sim.world import MICROSECOND, MILLISECOND, Process, World

UID = 2000
FIRST_CHANGE = 1_000_000  # the numbers of requests that have to be refused start here
UNKNOWN = ("x1", "x2", "x3", "x4", "x5", "x6", "x7")  # limits that nobody declares
ODD: tuple[object, ...] = (None, -1, 0, 2**63, 1.5, "", "a", b"", [], {}, {"a": "b"}, True)


class Line:
    """One connection of it."""

    def __init__(self, rude: Rude, end: End) -> None:
        self.end = end
        self.session = rude.world.chance.randbytes(wire.SESSION_BYTES)
        self.reads = rude.world.maybe(0.7)
        self.changes: set[int] = set()
        self._rude = rude
        self._frames = wire.FrameReader()
        self._comes = False
        end.on_ready = self._ready

    def send(self, data: bytes) -> None:
        try:
            self.end.send(data)
        except OSError:
            self._rude.drop(self)

    def _ready(self) -> None:
        if self.reads and not self._comes:
            self._comes = True
            self._rude.process.after(20 * MICROSECOND, self._read)

    def _read(self) -> None:
        self._comes = False
        data = self.end.receive()
        if data == b"":
            self._rude.drop(self)
        elif data:
            for body in self._frames.feed(data):
                self._hear(wire.decode_daemon_message(body))
            self._ready()

    def _hear(self, message: wire.DaemonMessage) -> None:
        request = getattr(message, "request", 0)
        if request in self.changes:
            refused = isinstance(message, wire.Failed) and message.code in (
                "permission_denied",
                "state_unavailable",
            )
            if not refused:
                self._rude.world.fail(f"a user who may not is answered {message}")


class Rude:
    """A process that does what it likes."""

    def __init__(self, world: World, host: Host, names: list[str]) -> None:
        self.world = world
        self.chance = world.chance
        self.host = host
        self.names = names
        self.process: Process = host.new_process("rude", uid=UID)
        self.lines: list[Line] = []
        self._last = 0
        self._last_change = FIRST_CHANGE

    def drop(self, line: Line) -> None:
        line.end.close()
        if line in self.lines:
            self.lines.remove(line)

    def act(self) -> None:
        """Something."""
        if not self.lines or (len(self.lines) < 4 and self.world.maybe(0.2)):
            self._connect()
            return
        line = self.chance.choice(self.lines)
        draw = self.chance.random()
        if draw < 0.4:
            line.send(wire.encode(self._message(line)))
        elif draw < 0.55:
            line.send(self._mutated(wire.encode(self._message(line, harmless=True))))
        elif draw < 0.65:
            line.send(self._wrong_fields())
        elif draw < 0.7:
            line.send(self.chance.randbytes(self.chance.randrange(1, 80)))
        elif draw < 0.75:
            line.send(self._hello(line.session))  # a second one
        elif draw < 0.82:
            frame = wire.encode(self._message(line, harmless=True))
            line.send(frame[: self.chance.randrange(1, len(frame))])  # what follows is its rest
        elif draw < 0.92:
            self._flood(line)
        else:
            self.drop(line)

    def _connect(self) -> None:
        try:
            line = Line(self, self.host.accept(self.process))
        except OSError:
            return
        self.lines.append(line)
        draw = self.chance.random()
        if draw < 0.8:
            line.send(self._hello(line.session))
        elif draw < 0.9 and (session := self._others_session()):
            self.world.note("rude comes as somebody else")
            line.send(self._hello(session))
        elif draw < 0.95:
            line.send(self._mutated(self._hello(line.session)))
        # Else it says nothing: it is cut off after some seconds.

    def _others_session(self) -> bytes:
        """Of one who is there. It is 16 secret bytes: who knew them before its owner has said them
        would be taken for the owner."""
        daemon = self.host.daemon
        if daemon is None or self.host.process.stopped:
            return b""
        there = [one.began.session for one in daemon.sessions if one.connected and one.uid != UID]
        return self.chance.choice(there) if there else b""

    def _hello(self, session: bytes) -> bytes:
        return wire.encode(wire.Hello(1, session, 1, ["rude"], "rude", ""))

    def _message(self, line: Line, harmless: bool = False) -> wire.ClientMessage:
        """One of its own. `harmless`: whatever becomes of its bytes, it changes nothing of ours."""
        chance = self.chance
        self._last += 1
        known = chance.randrange(1, 30)  # somebody else has a request of this number
        kinds: list[Callable[[], wire.ClientMessage]] = [
            lambda: wire.Acquire(self._last, {chance.choice(UNKNOWN): 1}),
            lambda: wire.Acquire(self._last, {chance.choice(self.names): 1}, {}, 0.0),
            lambda: wire.Acquire(known, {chance.choice(self.names): 1}, {}, 0.1, seen=[known]),
            lambda: wire.Acquire(self._last, {"a": 10**9}, inside=[known]),
            lambda: wire.Release(known),
            lambda: wire.Release(self._last - 1),
            lambda: wire.Resume(self._last),
            lambda: wire.ReadLimit(self._last, chance.choice((*self.names, "/", "\0"))),
            lambda: wire.ListTickets(self._last, after_number=-1),
        ]
        if not harmless:
            kinds += 3 * [lambda: self._change(line)]
        return chance.choice(kinds)()

    def _change(self, line: Line) -> wire.ClientMessage:
        self._last_change += 1
        number, name = self._last_change, self.chance.choice(self.names)
        line.changes.add(number)
        self.world.note(f"rude wants to change {name}")
        message: wire.ClientMessage = self.chance.choice(
            (
                wire.CreateLimit(number, name, 5),
                wire.UpdateLimit(number, name, 50, 1000.0, self.world.maybe(0.5)),
                wire.DeleteLimit(number, name),
                wire.Recover(number, True),
            )
        )
        return message

    def _mutated(self, frame: bytes) -> bytes:
        data = bytearray(frame)
        for _ in range(self.chance.randrange(1, 4)):
            at = self.chance.randrange(len(data))
            draw = self.chance.random()
            if draw < 0.5:
                data[at] ^= 1 << self.chance.randrange(8)
            elif draw < 0.75:
                data.insert(at, self.chance.randrange(256))
            elif len(data) > 1:
                del data[at]
        return bytes(data)

    def _wrong_fields(self) -> bytes:
        chance = self.chance
        kind = chance.choice(
            ("acquire", "release", "keep", "resume", "status", "list_limits", "no")
        )
        fields = [chance.choice(ODD) for _ in range(chance.randrange(6))]
        body = msgspec.msgpack.encode([kind, *fields])
        return len(body).to_bytes(wire.PREFIX_BYTES, "big") + body

    def _flood(self, line: Line) -> None:
        """Far more than may be in flight at once, whose answers are more than is kept for it."""
        self.world.note("rude floods")
        count = self.chance.choice((20, 50, 100))
        line.send(wire.encode(wire.Status(7)) * count)

    def live(self, pace: int) -> None:
        """Until its end."""
        self.process.after(
            int(self.chance.expovariate(1.0) * pace) + MILLISECOND, lambda: self._live_on(pace)
        )

    def _live_on(self, pace: int) -> None:
        try:
            self.act()
        except ProtocolError as error:
            self.world.fail(f"rude made {error}")
        self.live(pace)
